//! Refused requests that a route keeps, and what `verify --quarantined` makes of them; and a route that only watches.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::support::{App, Connection, Gateway, Reply, binary, hmac_hex, post, wait_for};

const SECRET: &str = "a-secret-of-sixteen-bytes-or-more";

fn config(folder: &std::path::Path, app: &App, more: &str) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nallow_ephemeral = true\n[secrets]\n\
         s = {{ value = \"{SECRET}\" }}\n[[route]]\nname = \"hooks/iverton\"\npath = \"/hooks\"\nprovider = \"iverton\"\n\
         secrets = [\"s\"]\n{more}upstream = {{ url = \"http://{}/\" }}\n",
        folder.join("store"),
        app.address()
    )
}

#[test]
fn a_refused_request_is_kept_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with(|_| Reply::Status(200));
    let text = config(
        folder.path(),
        &app,
        "on_bad_signature = { quarantine = \"1MiB\" }\n",
    );
    let file = folder.path().join("hooklatch.toml");
    std::fs::write(&file, &text).unwrap();
    let gateway = Gateway::start(&text);
    let signed = hmac_hex(SECRET.as_bytes(), b"{\"id\":\"e1\"}");
    let value = format!("sha256={signed}");
    // Something on the way adds a line end.
    let answer = post(
        gateway.listen(),
        "/hooks",
        &[("x-iverton-signature", &value)],
        b"{\"id\":\"e1\"}\n",
    );
    assert_eq!(
        (answer.status, answer.text()),
        (401, r#"{"error":"Invalid signature"}"#.to_owned())
    );
    let kept = folder.path().join("store/quarantine/hooks_iverton");
    let files = || std::fs::read_dir(&kept).map_or(0, std::iter::Iterator::count);
    wait_for(Duration::from_secs(5), || (files() == 1).then_some(())).unwrap();
    let path = std::fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let explain = || {
        let output = Command::new(binary())
            .args([
                "verify",
                "--route",
                "hooks/iverton",
                "--quarantined",
                "--explain",
                "-c",
            ])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = explain();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the body ends in a line end that was not signed"),
        "{said}"
    );
    // One without a signature is kept too, though it needed no body to be refused.
    let answer = post(gateway.listen(), "/hooks", &[], b"{\"id\":\"e2\"}");
    assert_eq!(answer.status, 401);
    wait_for(Duration::from_secs(5), || (files() == 2).then_some(())).unwrap();
    let (_, said) = explain();
    assert!(said.contains("no signature header was sent"), "{said}");
    // A good one is an event and not kept here.
    let answer = post(
        gateway.listen(),
        "/hooks",
        &[("x-iverton-signature", &value)],
        b"{\"id\":\"e1\"}",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(app.wait_for(1).len(), 1);
    assert_eq!(files(), 2);
}

#[test]
fn a_route_that_only_watches_lets_everything_through_and_counts_what_would_have_failed() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with(|_| Reply::Status(200));
    let text = config(folder.path(), &app, "enforce = false\n");
    let gateway = Gateway::start(&text);
    let good = format!("sha256={}", hmac_hex(SECRET.as_bytes(), b"{\"id\":\"e1\"}"));
    for (name, headers, body) in [
        (
            "good",
            vec![("x-iverton-signature", &*good)],
            &b"{\"id\":\"e1\"}"[..],
        ),
        ("bad", vec![("x-iverton-signature", &*good)], b"{\"id\":\"e2\"}"),
        ("missing", vec![], b"{\"id\":\"e3\"}"),
    ] {
        assert_eq!(
            post(gateway.listen(), "/hooks", &headers, body).status,
            200,
            "{name}"
        );
    }
    let requests = app.wait_for(3);
    assert!(
        requests
            .iter()
            .all(|request| request.header("hooklatch-verified") == Some("false"))
    );
    let mut admin = Connection::open(gateway.admin()).unwrap();
    admin
        .write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let metrics = admin.read_response().unwrap().text();
    for reason in ["not_enforced", "bad_signature", "missing_signature"] {
        let line = format!("hooklatch_unverified_total{{route=\"hooks/iverton\",reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    let file = folder.path().join("hooklatch.toml");
    let listen = format!("[admin]\nlisten = \"{}\"", gateway.admin());
    std::fs::write(&file, text.replace("[admin]\nlisten = \"127.0.0.1:0\"", &listen)).unwrap();
    let output = Command::new(binary())
        .args(["check", "--online", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = "warning  enforce = false on /hooks  2 of 3 events since the gateway started would have been refused (bad_signature 1, missing_signature 1)";
    assert!(said.lines().any(|found| found == line), "{said}");
}
