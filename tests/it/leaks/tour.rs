//! Everything the gateway can be asked: good, forged, repeated, conflicting, dead and replayed events, every refusal,
//! every admin path and every verb.

use super::places::Kind;
use super::rig::Rig;

/// Events by every way in, and every answer of the front door.
pub(super) fn through_the_door(rig: &mut Rig) {
    rig.tours += 1;
    let tour = rig.tours;
    let value = rig.key("secret by value");
    let hex = rig.key("hex key");
    let (id, body, kind) = (rig.text("id"), rig.text("body"), rig.text("type"));
    let event = |number: usize, id: &str, body: &str| {
        format!(r#"{{"id":"{id}-{tour}-{number}","event":"{kind}","note":"{body}"}}"#).into_bytes()
    };
    let header = rig.text("header of a sender");
    let query = format!("/hooks/kept?q={}", rig.text("query"));
    for (number, secret) in ["secret by value", "secret by file", "secret by variable"]
        .iter()
        .enumerate()
    {
        let key = rig.key(secret);
        let headers = [("Authorization", header.as_str())];
        for _repeat in 0..2 {
            assert_eq!(rig.post(&query, &key, &headers, &event(number, &id, &body)), 200);
        }
    }
    let other = rig.text("conflicting body");
    assert_eq!(rig.post("/hooks/kept", &value, &[], &event(0, &id, &other)), 200);
    assert_eq!(rig.post("/hooks/hex", &hex, &[], &event(1, &id, &body)), 200);
    assert_eq!(
        rig.post("/hooks/failing", &value, &[], &event(2, &id, &body)),
        200
    );
    let dead = rig.text("dead body");
    assert_eq!(
        rig.post("/hooks/refusing", &value, &[], &event(3, &id, &dead)),
        200
    );
    let open = rig.text("body without a check");
    assert_eq!(
        rig.post("/hooks/open", b"anything", &[], &event(4, &id, &open)),
        200
    );
    assert_eq!(
        rig.post("/hooks/lenient", b"anything", &[], &event(5, &id, &open)),
        200
    );
    relayed(rig, tour, &value);
    rig.wait_for_metric("hooklatch_pending_deliveries", 0.0);
    forged(rig);
    refused(rig, &value);
}

fn relayed(rig: &mut Rig, tour: usize, value: &[u8]) {
    let (id, body, failed) = (
        rig.text("relayed id"),
        rig.text("relayed body"),
        rig.text("body that was not relayed"),
    );
    let event = format!(r#"{{"id":"{id}-{tour}","note":"{body}"}}"#);
    for _repeat in 0..2 {
        assert_eq!(rig.post("/sync/quantiv", value, &[], event.as_bytes()), 200);
    }
    let event = format!(r#"{{"id":"closing-{tour}","note":"{failed}"}}"#);
    assert_eq!(rig.post("/sync/closing", value, &[], event.as_bytes()), 502);
}

fn forged(rig: &mut Rig) {
    let key = rig.key("secret of a forger");
    let (header, signature) = (rig.text("header of a forger"), rig.text("forged signature"));
    let query = rig.text("query of a forger");
    let body = format!(
        r#"{{"id":"{}","note":"{}"}}"#,
        rig.text("forged id"),
        rig.text("forged body")
    );
    let body = body.as_bytes();
    for path in ["/hooks/kept", "/hooks/hex", "/sync/quantiv"] {
        let target = format!("{path}?{query}");
        let status = rig.post(&target, &key, &[("Authorization", &header)], body);
        assert!(matches!(status, 401 | 429), "{path}: {status}");
        let post =
            |head: &str| format!("POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: {header}\r\n{head}");
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        for head in [
            String::new(),
            format!("X-Quantiv-Signature: {signature}\r\n"),
            format!("X-Quantiv-Signature: {signature}\r\nX-Quantiv-Signature: {signature}\r\n"),
        ] {
            let answer = rig.raw(&[post(&head).as_bytes(), length.as_bytes(), body].concat());
            assert!(
                answer.starts_with(b"HTTP/1.1 4"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    // Until the budget is spent, and beyond.
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(rig.post("/hooks/kept", &key, &[], body));
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// Every other answer, each to a request that carries a canary.
fn refused(rig: &mut Rig, value: &[u8]) {
    let (path, head, big) = (
        rig.text("unknown path"),
        rig.text("malformed head"),
        rig.text("header over the limit"),
    );
    let body = rig.text("body over the limit").into_bytes();
    assert_eq!(
        rig.post(&format!("/{}", path.replace('/', "-")), value, &[], &body),
        404
    );
    assert_eq!(rig.post("/hooks/fenced", value, &[], &body), 403);
    assert_eq!(rig.post("/hooks/strict", value, &[], &body), 400);
    let json = format!("\"{}\"", rig.text("body"));
    let statuses: Vec<_> = (0..4)
        .map(|n| rig.post("/hooks/strict", value, &[], format!("[{n},{json}]").as_bytes()))
        .collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    let large = [body.repeat(500), body.clone()].concat();
    assert_eq!(rig.post("/hooks/kept", value, &[], &large), 413);
    for (status, request) in [
        (
            "405",
            format!("PUT /hooks/kept?{head} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "400",
            format!("POST /hooks/kept HTTP/1.1\r\nHost: h\r\nX-{head}\r\n\r\n"),
        ),
        (
            "400",
            format!("POST /hooks/kept HTTP/1.1\r\nHost: h\r\nX: {head}\r\n folded\r\n\r\n"),
        ),
        (
            "400",
            format!("POST /{head} HTTP/1.1\r\nX: {head}\r\nContent-Length: {head}\r\nHost: h\r\n\r\n"),
        ),
        (
            "400",
            format!(
                "POST /hooks/kept?{head} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "400",
            format!("POST http://{head}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
        ),
        ("400", format!("{head} nonsense\r\n\r\n")),
        (
            "501",
            format!(
                "GET /hooks/kept?{head} HTTP/1.1\r\nHost: h\r\nUpgrade: {head}\r\nConnection: upgrade\r\n\r\n"
            ),
        ),
        (
            "431",
            format!(
                "POST /hooks/kept HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
                big.repeat(200)
            ),
        ),
    ] {
        let answer = rig.raw(request.as_bytes());
        let line = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        assert!(line.contains(status), "{request:?}: {line:?}");
    }
    slow(rig, &head);
}

/// 408, for a header and for a body.
fn slow(rig: &mut Rig, head: &str) {
    for request in [
        format!("POST /hooks/kept?{head} HTTP/1.1\r\nX-Part: {head}"),
        format!(
            "POST /hooks/kept HTTP/1.1\r\nHost: h\r\nX-Quantiv-Signature: {}\r\nContent-Length: 900\r\n\r\n{head}",
            "0".repeat(64)
        ),
    ] {
        let mut connection = crate::support::Connection::open(rig.gateway.listen()).unwrap();
        connection.write(request.as_bytes()).unwrap();
        let answer = connection.read_response().unwrap();
        assert_eq!(answer.status, 408, "{}", answer.text());
        rig.keep(
            Kind::Answer,
            "408",
            format!("{:?}{}", answer.headers, answer.text()),
        );
    }
}

/// Health, metrics, replays and reloads; with the token, with a wrong one and with none.
pub(super) fn through_the_admin_api(rig: &mut Rig) {
    let (token, wrong) = (rig.text("admin token"), rig.text("wrong admin token"));
    let right = Some(token.as_str());
    for (method, path, body) in [
        ("GET", "/livez", ""),
        ("GET", "/readyz", ""),
        ("GET", "/metrics", ""),
        ("GET", "/-/secrets", ""),
        ("GET", "/-/secrets?quiet_secs=0", ""),
        ("GET", "/nowhere", ""),
        ("PUT", "/-/reload", ""),
        ("POST", "/-/reload", ""),
        ("POST", "/-/replay", r#"{"status":"dead","dry_run":true}"#),
        ("POST", "/-/replay", r#"{"status":"dead"}"#),
        (
            "POST",
            "/-/replay",
            r#"{"status":"delivered","route":"hooks/kept"}"#,
        ),
        ("POST", "/-/replay", r#"{"status":"delivered","type":"none"}"#),
    ] {
        let status = rig.admin(method, path, right, body).status;
        let wanted = match (method, path) {
            (_, "/nowhere") => 404,
            ("PUT", _) => 405,
            _ => 200,
        };
        assert_eq!(status, wanted, "{method} {path}");
        // Health needs no token.
        let is_open = matches!(path, "/livez" | "/readyz");
        for token in [Some(wrong.as_str()), None] {
            let refused = rig.admin(method, path, token, body).status == 401;
            assert!(refused != is_open, "{path} with {token:?}");
        }
    }
    let canary = rig.text("wrong word of an operator");
    let selection = format!(r#"{{"status":"{canary}"}}"#);
    for body in ["{", selection.as_str()] {
        assert_eq!(rig.admin("POST", "/-/replay", right, body).status, 400);
    }
    rig.wait_for_metric("hooklatch_pending_deliveries", 0.0);
    let good = rig.config();
    for broken in broken_configs(rig, &good) {
        rig.write_config(&broken);
        let answer = rig.admin("POST", "/-/reload", right, "");
        assert_eq!(answer.status, 422, "{broken}");
        rig.cli(Kind::Cli, &["check"]);
        rig.cli(Kind::Cli, &["check", "--output", "json"]);
    }
    rig.write_config(&good);
    assert_eq!(rig.admin("POST", "/-/reload", right, "").status, 200);
}

/// The slips that are told with the least care elsewhere: those on the very line of a secret.
fn broken_configs(rig: &Rig, good: &str) -> Vec<String> {
    let (value, header) = (rig.text("secret by value"), rig.text("static header"));
    let quoted = format!("\"{value}\"");
    vec![
        good.replacen(&quoted, &format!("\"{value}"), 1),
        good.replacen(&quoted, &value, 1),
        good.replacen(&quoted, &format!("[{quoted}]"), 1),
        good.replacen("by_value = { value", "by_value = { vaule", 1),
        good.replacen("[\"by_value\", ", &format!("[{quoted}, "), 1),
        good.replacen("\"LEAK_SECRET\"", &quoted, 1),
        good.replacen("token = \"token\"", &format!("token = {quoted}"), 1),
        good.replacen(&format!("\"{header}\""), &format!("\"{header}\\n\""), 1),
        good.replacen(&format!("\"{header}\""), &format!("\"{header}"), 1),
        good.replacen("http://127.0.0.1", &format!("http://user:{value}@127.0.0.1"), 1),
    ]
}

/// Every verb.
pub(super) fn through_the_cli(rig: &mut Rig) {
    let body = rig.gateway.dir().join("body");
    std::fs::write(&body, rig.text("forged body")).unwrap();
    let body = body.to_str().unwrap().to_owned();
    let to = format!("http://{}/hooks/kept", rig.gateway.listen());
    let send = ["send", "quantiv", "--route", "hooks/kept", "--to", &to];
    let admin = rig.gateway.admin().to_string();
    for arguments in [
        &["check"][..],
        &["check", "--output", "json"],
        &["providers"],
        &["providers", "--output", "json"],
        &["providers", "show", "quantiv"],
        &["sign", "quantiv", "--secret-env", "LEAK_SECRET", &body],
        &["sign", "quantiv", "--route", "hooks/kept", &body],
        &["secrets", "status", "--admin", &admin],
        &["secrets", "status", "--admin", &admin, "--output", "json"],
        &send,
        &[&send[..], &["--repeat", "--count", "2"]].concat(),
        &[&send[..], &["--bad-signature"]].concat(),
    ] {
        assert!(!rig.cli(Kind::Cli, arguments).is_empty(), "{arguments:?}");
    }
    for arguments in [
        &["check", "--online"][..],
        &["health"],
        &["sign", "quantiv", "--secret-env", "LEAK_UNSET", &body],
        &["sign", "quantic", "--secret-env", "LEAK_SECRET", &body],
        &["run", "--store", "/dev/null/nowhere"],
        &["nonsense"],
    ] {
        rig.cli(Kind::Cli, arguments);
    }
    verify(rig, &body);
    let admin = rig.gateway.admin().to_string();
    let store = rig.store();
    let store = ["--store", store.to_str().unwrap()];
    let listed = rig.cli(
        Kind::Events,
        &[&["events", "list", "--output", "json"], &store[..]].concat(),
    );
    rig.cli(Kind::Events, &[&["events", "list"], &store[..]].concat());
    for line in listed.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let seq = event["seq"].to_string();
        if event["conflicts"] != 0 {
            rig.cli(
                Kind::Cli,
                &["events", "replay", &seq, "--conflict", "1", "--admin", &admin],
            );
        }
        for output in ["text", "json"] {
            let arguments = ["events", "show", &seq, "--output", output];
            rig.cli(Kind::Events, &[&arguments, &store[..]].concat());
        }
        rig.cli(
            Kind::EventsBody,
            &[&["events", "show", &seq, "--body"], &store[..]].concat(),
        );
    }
    for which in [
        &["--all", "--dry-run"][..],
        &["--status", "delivered", "--route", "hooks/hex"],
    ] {
        let said = rig.cli(
            Kind::Cli,
            &[&["events", "replay", "--admin", &admin], which].concat(),
        );
        assert!(!said.is_empty(), "{which:?}");
    }
    rig.cli(Kind::Cli, &["events", "show", "999999"]);
    rig.wait_for_metric("hooklatch_pending_deliveries", 0.0);
}

/// `verify` of good, forged, damaged and misread requests, with the explanation.
fn verify(rig: &mut Rig, body: &str) {
    let sign =
        |rig: &mut Rig, how: &[&str]| rig.cli(Kind::Cli, &[&["sign", "quantiv"], how, &[body]].concat());
    let right = sign(rig, &["--secret-env", "LEAK_SECRET"]);
    let wrong = sign(rig, &["--secret-env", "LEAK_FORGER"]);
    let right = right.trim().to_owned();
    let wrong = wrong.trim().to_owned();
    let (short, upper) = (right[..right.len() - 1].to_owned(), right.to_uppercase());
    let other = rig.gateway.dir().join("other_body");
    std::fs::write(&other, format!("{} \n", rig.text("forged body"))).unwrap();
    let other = other.to_str().unwrap().to_owned();
    let mut accepted = 0;
    for (header, content) in [
        (&right, body),
        (&wrong, body),
        (&short, body),
        (&upper, body),
        (&right, other.as_str()),
    ] {
        for secrets in [
            &["--secret-env", "LEAK_SECRET"][..],
            &["--secret-env", "LEAK_FORGER"],
            &["--route", "hooks/kept"],
            &["--route", "hooks/hex"],
        ] {
            let request = [
                "verify",
                "quantiv",
                "--explain",
                "--header",
                header,
                "--body",
                content,
            ];
            let said = rig.cli(Kind::Cli, &[&request, secrets].concat());
            accepted += usize::from(said.starts_with("match"));
        }
    }
    assert!(accepted >= 2, "the good one is accepted");
}

/// Starts that fail say why, and nothing else.
pub(super) fn through_failing_starts(rig: &mut Rig) {
    let good = rig.config();
    for broken in broken_configs(rig, &good) {
        rig.failing_start("a start with a broken configuration", &broken);
    }
    let damaged = tempfile::tempdir().unwrap();
    std::fs::create_dir(damaged.path().join("store")).unwrap();
    let content = rig.text("damaged store").repeat(200);
    std::fs::write(damaged.path().join("store/inbox.db"), content).unwrap();
    let running = rig.store();
    let elsewhere = good.replacen(
        running.to_str().unwrap(),
        damaged.path().join("store").to_str().unwrap(),
        1,
    );
    rig.failing_start("a start with a damaged store", &elsewhere);
    rig.failing_start("a start with a store in use", &good);
}
