//! What the app sees of a request's header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::support::{App, Reply, Request, hmac_hex, proved, rounds};
use super::rig::{CASE, quantiv_raw, route, sign, start, start_with};

const BODY: &[u8] = br#"{"id":"evt_h","event":"lead.created"}"#;

/// The one request that arrives when these lines are sent; framing is added.
fn arrived(top: &str, upstream: &str, lines: &str) -> Request {
    let routes = route("quantiv", "/quantiv", "").replace(" }\n\n", &format!("{upstream} }}\n\n"));
    let rig = start(top, &routes);
    let raw = quantiv_raw(
        "h",
        &format!("{lines}Content-Length: {}\r\n", BODY.len()),
        BODY,
        BODY,
    );
    let mut connection = rig.open();
    connection.write(&raw).unwrap();
    let response = connection.read_response().unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    rig.app.wait_for(1).remove(0)
}

/// What every spelling is tried with; the beginning, `hooklatch-`, is what counts.
const OURS: [&str; 8] = [
    "key",
    "verified",
    "route",
    "event-id",
    "event-type",
    "provider",
    "attempt",
    "x",
];

#[test]
fn no_spelling_of_our_headers_gets_through() {
    const FIELDS: u32 = 80;
    let spellings = u32::try_from(rounds(1 << 10, 1 << 18)).unwrap();
    let rig = start("", &route("quantiv", "/quantiv", ""));
    let mut connection = rig.open();
    for (n, from) in (0..spellings).step_by(FIELDS as usize).enumerate() {
        let body = format!(r#"{{"id":"evt_{n}","event":"lead.created"}}"#);
        let spelt = (from..spellings.min(from + FIELDS)).map(|bits| {
            // In ten bits every letter of the beginning, and every rest with each of them in turn.
            let name = format!("hooklatch-{}", OURS[(bits + (bits >> 10)) as usize % OURS.len()]);
            format!("{}: spoof\r\n", spelling(&name, bits))
        });
        let lines = spelt.collect::<String>() + &format!("Content-Length: {}\r\n", body.len());
        let raw = quantiv_raw(&n.to_string(), &lines, body.as_bytes(), body.as_bytes());
        connection.write(&raw).unwrap();
        assert_eq!(connection.read_response().unwrap().status, 200);
    }
    let requests = rig.app.wait_for((spellings.div_ceil(FIELDS)) as usize);
    for request in &requests {
        for (name, value) in &request.headers {
            assert!(!value.contains("spoof"), "{name}");
        }
        assert_eq!(all(request, "hooklatch-verified"), ["true"]);
        assert_eq!(all(request, "hooklatch-key").len(), 1);
    }
    proved(
        "header stripping",
        format_args!(
            "{spellings} spellings in {} requests, 0 got through",
            requests.len()
        ),
    );
}

/// `name` in the other case, and `_` for `-`, where a bit is set.
fn spelling(name: &str, mut bits: u32) -> String {
    let spelt = name.chars().map(|letter| {
        let other = bits & 1 == 1;
        bits >>= 1;
        match letter {
            '-' if other => '_',
            _ if other => letter.to_ascii_uppercase(),
            _ => letter,
        }
    });
    spelt.collect()
}

fn all<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    let named = |(candidate, value): &'a (String, String)| {
        candidate.eq_ignore_ascii_case(name).then_some(value.as_str())
    };
    request.headers.iter().filter_map(named).collect()
}

#[test]
fn end_to_end_fields_pass_untouched_and_the_others_do_not() {
    let lines = "aCCept: */*\r\nX-Dup: 1\r\nCONTENT-type: application/json;  charset=\"x\"\r\nx-dup:2\r\nX-Empty:\r\nX-Dup: \
                 1\r\nX_Under: a  b\r\nUser-Agent: U\r\nContent-Encoding: gzip\r\nCookie: a=b\r\nAuthorization: Basic \
                 x\r\nConnection: keep-alive, X-Named , hooklatch-key\r\nX-Named: gone\r\nKeep-Alive: \
                 timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers\r\nTrailer: X\r\nExpect: \
                 100-continue\r\nHooklatch-Verified: spoof\r\nHOOKLATCH_KEY: spoof\r\nhooklatch-event_id: \
                 spoof\r\nHookLatch_Attempt: spoof\r\nHooklatch-Anything: spoof\r\nX-Forwarded-For: spoof\r\nX_Forwarded_For: \
                 spoof\r\nX-Forwarded-Proto: spoof\r\nX-Forwarded-Host: spoof\r\nX-Forwarded-Server: spoof\r\nForwarded: \
                 for=spoof\r\nX-Real-IP: spoof\r\nwebhook-id: theirs\r\n";
    let request = arrived("", "", lines);
    let theirs: Vec<(&str, &str)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .skip(1)
        .take(14)
        .collect();
    let signature = sign("quantiv", BODY);
    assert_eq!(
        theirs,
        [
            (CASE, "h"),
            ("X-Quantiv-Signature", &signature),
            ("aCCept", "*/*"),
            ("X-Dup", "1"),
            ("CONTENT-type", "application/json;  charset=\"x\""),
            ("x-dup", "2"),
            ("X-Empty", ""),
            ("X-Dup", "1"),
            ("X_Under", "a  b"),
            ("User-Agent", "U"),
            ("Content-Encoding", "gzip"),
            ("Cookie", "a=b"),
            ("Authorization", "Basic x"),
            ("webhook-id", "theirs"),
        ]
    );
    for (name, value) in &request.headers {
        assert!(
            !value.contains("spoof") && !value.contains("gone"),
            "{name}: {value}"
        );
    }
    let names: Vec<String> = request
        .headers
        .iter()
        .skip(15)
        .map(|(name, _)| name.to_lowercase())
        .collect();
    assert_eq!(
        names,
        [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "content-length",
            "hooklatch-event-id",
            "hooklatch-event-type",
            "hooklatch-route",
            "hooklatch-provider",
            "hooklatch-verified",
            "hooklatch-attempt",
            "hooklatch-received-at",
            "hooklatch-key",
            "idempotency-key",
        ]
    );
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "hooks.example"),
        ("hooklatch-event-id", "evt_h"),
        ("hooklatch-event-type", "lead.created"),
        ("hooklatch-route", "quantiv"),
        ("hooklatch-provider", "quantiv"),
        ("hooklatch-verified", "true"),
        ("hooklatch-attempt", "1"),
    ] {
        assert_eq!(all(&request, name), [value], "{name}");
    }
    assert_eq!(request.header("idempotency-key"), request.header("hooklatch-key"));
    assert_ne!(request.header("host"), Some("hooks.example"));
}

#[test]
fn trusted_proxies_are_believed_and_extended() {
    let lines = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.7, 192.0.2.2\r\nX-Forwarded-Proto: \
                 https\r\nX-Forwarded-Host: front.example\r\nIdempotency-Key: theirs\r\n";
    let request = arrived("trusted_proxies = [\"127.0.0.1\"]", "", lines);
    assert_eq!(
        all(&request, "x-forwarded-for"),
        ["192.0.2.1, 198.51.100.7, 192.0.2.2, 127.0.0.1"]
    );
    assert_eq!(all(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&request, "x-forwarded-host"), ["front.example"]);
    assert_eq!(all(&request, "idempotency-key"), ["theirs"]);
}

#[test]
fn static_headers_and_the_hand_off_signature_replace_the_senders() {
    let key = b"0123456789abcdef0123456789abcdef";
    let top = "";
    let upstream = ", preserve_host = true, handoff_secret = \"handoff\", headers = { X-Gateway = \"ours\", Authorization = \
                    \"ours\" }";
    let lines = "webhook-id: theirs\r\nWEBHOOK_SIGNATURE: theirs\r\nwebhook-timestamp: theirs\r\nauthorization: \
                 theirs\r\nx-gateway: theirs\r\n";
    let routes = route("quantiv", "/quantiv", "").replace(" }\n\n", &format!("{upstream} }}\n\n"));
    let secret = format!("handoff = {{ value = \"whsec_{}\" }}\n", STANDARD.encode(key));
    let rig = start(top, &format!("{secret}{routes}"));
    let raw = quantiv_raw(
        "h",
        &format!("{lines}Content-Length: {}\r\n", BODY.len()),
        BODY,
        BODY,
    );
    let mut connection = rig.open();
    connection.write(&raw).unwrap();
    assert_eq!(connection.read_response().unwrap().status, 200);
    let request = rig.app.wait_for(1).remove(0);
    assert!(
        request.headers.iter().all(|(_, value)| value != "theirs"),
        "{:?}",
        request.headers
    );
    assert_eq!(all(&request, "authorization"), ["ours"]);
    assert_eq!(all(&request, "x-gateway"), ["ours"]);
    assert_eq!(all(&request, "host"), ["hooks.example"]);
    let (id, at) = (
        all(&request, "webhook-id")[0],
        all(&request, "webhook-timestamp")[0],
    );
    assert_eq!(Some(id), request.header("hooklatch-key"));
    let signed = [format!("{id}.{at}.").as_bytes(), BODY].concat();
    let tag = hex::decode(hmac_hex(key, &signed)).unwrap();
    assert_eq!(
        all(&request, "webhook-signature"),
        [format!("v1,{}", STANDARD.encode(tag))]
    );
}

#[test]
fn the_key_is_the_same_on_every_attempt_and_after_a_restart() {
    let app = App::with(|_| Reply::Status(500));
    let mut rig = start_with(app, "", &route("quantiv", "/quantiv", ""));
    assert_eq!(rig.quantiv("again", br#"{"id":"again"}"#).status, 200);
    assert_eq!(rig.quantiv("no-id", b"{}").status, 200);
    let keys = |requests: &[Request], case: &str| -> Vec<String> {
        requests
            .iter()
            .filter(|request| request.header(CASE) == Some(case))
            .map(|request| request.header("hooklatch-key").unwrap().to_owned())
            .collect()
    };
    let before = rig.app.wait_for(3).len();
    rig.gateway.restart();
    let requests = rig.app.wait_for(before + 3);
    let (with, without) = (keys(&requests, "again"), keys(&requests, "no-id"));
    assert!(with.iter().all(|key| *key == with[0]), "{with:?}");
    assert!(without.iter().all(|key| *key == without[0]), "{without:?}");
    assert_ne!(with[0], without[0]);
}
