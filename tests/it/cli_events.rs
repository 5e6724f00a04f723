//! `hooklatch events` beside a running gateway.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{App, Gateway, PATIENCE, Reply, hmac_hex, post, quantiv_config};

/// With blanks and escapes that whoever parsed and wrote it again would change.
const BODY: &[u8] =
    b"{ \"id\":\"evt_1\",\"event\" : \"order.paid\",\"sum\":1.00,\"note\":\"\xc3\xa9 \\u00e9\"}\r\n";
/// No text at all.
const BINARY: &[u8] = b"\x00\xff\xfe\x1b[2J\r\n";

fn events(arguments: &[&str]) -> Output {
    let binary = std::env::var_os("HOOKLATCH_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hooklatch").into());
    Command::new(binary)
        .arg("events")
        .args(arguments)
        .output()
        .unwrap()
}

fn good(arguments: &[&str]) -> Vec<u8> {
    let output = events(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn json(arguments: &[&str]) -> Vec<Value> {
    let text = String::from_utf8(good(arguments)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn send(gateway: &Gateway, body: &[u8]) {
    let signature = hmac_hex(b"secret", body);
    let answer = post(
        gateway.listen(),
        "/hooks/quantiv",
        &[("X-Quantiv-Signature", &signature)],
        body,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Lists until every event has the status.
fn settle(store: &str, status: &str, count: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let lines = json(&["list", "--store", store, "--output", "json", "--status", status]);
        if lines.len() == count {
            return;
        }
        assert!(Instant::now() < until, "{status}: {lines:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn gateway(store: &Path, app: &App) -> Gateway {
    Gateway::start(&quantiv_config(store, app.address()))
}

#[test]
fn events_are_listed_shown_and_replayed() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("store");
    let store = path.to_str().unwrap();
    // 410 is dead at once; the replay succeeds.
    let app = App::start([Reply::Status(410), Reply::Status(200), Reply::Status(200)]);
    let gateway = gateway(&path, &app);
    send(&gateway, BODY);
    settle(store, "dead", 1);

    let line = &json(&["list", "--store", store, "--output", "json"])[0];
    assert_eq!(line["seq"], 1);
    assert_eq!(line["event_id"], "evt_1");
    assert_eq!(line["status"], "dead");
    assert_eq!(line["verified"], true);
    assert_eq!(line["body_bytes"], BODY.len());
    let table = String::from_utf8(good(&["ls", "--store", store])).unwrap();
    assert!(table.contains("evt_1") && table.contains("dead"), "{table}");

    let shown = &json(&["show", "1", "--store", store, "--output", "json"])[0];
    assert_eq!(shown["deliveries"][0]["status"], "dead");
    assert_eq!(shown["deliveries"][0]["last_status"], 410);
    assert_eq!(good(&["show", "1", "--store", store, "--body"]), BODY);
    let told = String::from_utf8(good(&["show", "1", "--store", store])).unwrap();
    assert!(told.contains("evt_1") && told.contains("410"), "{told}");

    let admin = gateway.admin().to_string();
    let counted = &json(&[
        "replay",
        "--all",
        "--dry-run",
        "--admin",
        &admin,
        "--output",
        "json",
    ])[0];
    assert_eq!(counted["deliveries"], 1, "{counted}");
    settle(store, "dead", 1);
    let replayed = &json(&["replay", "1", "--admin", &admin, "--output", "json"])[0];
    assert_eq!(replayed["deliveries"], 1, "{replayed}");
    settle(store, "delivered", 1);
    let bodies: Vec<_> = app.wait_for(2).into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [BODY, BODY]);
    send(&gateway, BINARY);
    assert_eq!(good(&["show", "2", "--store", store, "--body"]), BINARY);
    drop(gateway);
    // Without a gateway the store can still be read.
    assert_eq!(good(&["show", "1", "--store", store, "--body"]), BODY);
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("store");
    let store = path.to_str().unwrap();
    let nothing = "127.0.0.1:1";
    for (name, arguments, says) in [
        ("no store there", &["list", "--store", store][..], "no store in"),
        ("nothing named", &["replay", "--admin", nothing], "--all"),
        (
            "no gateway",
            &["replay", "1", "--admin", nothing],
            "cannot ask the gateway",
        ),
    ] {
        let output = events(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name}");
        assert!(error.contains(says), "{name}: {error}");
    }
    let app = App::start([]);
    let _gateway = gateway(&path, &app);
    for (name, arguments, says) in [
        (
            "no such event",
            &["show", "7", "--store", store][..],
            "no event 7",
        ),
        (
            "no such status",
            &["list", "--store", store, "--status", "lost"],
            "pending",
        ),
        (
            "no such time",
            &["list", "--store", store, "--since", "yesterday"],
            "2h",
        ),
    ] {
        let output = events(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name}");
        assert!(error.contains(says), "{name}: {error}");
    }
}
