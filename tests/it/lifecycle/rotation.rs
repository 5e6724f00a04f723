//! New secrets for old under load: both count in the overlap, the old one ends with it, and no genuine request fails.

use rustix::process::Signal;

use super::load::{Load, booking_app, wait_until_taken};
use super::{PATH, admin, body, config, metric, post, write_config};
use crate::support::{App, Connection, Gateway, PATIENCE, hmac_hex, proved, rounds, wait_for};

/// Rotations under load.
const ROTATIONS: (usize, usize) = (8, 80);

/// The configuration with the secrets of these numbers, each in a file of its own.
fn with_secrets(app: &App, numbers: &[usize]) -> String {
    let files: String = numbers
        .iter()
        .map(|n| format!("key_{n} = {{ file = \"{{dir}}/key_{n}\" }}\n"))
        .collect();
    let names: Vec<_> = numbers.iter().map(|n| format!("\"key_{n}\"")).collect();
    config(app)
        .replace("quantiv = { value = \"secret\" }\n", &files)
        // What comes too early or too late is told so each time.
        .replace(
            "[admin]",
            "[limits]\nfailures_per_peer = { per_second = 1000, burst = 1000 }\n\n[admin]",
        )
        .replace(
            "secrets = [\"quantiv\"]",
            &format!("secrets = [{}]", names.join(", ")),
        )
}

fn secret(number: usize) -> String {
    format!("rotation secret number {number}")
}

fn write_secret(gateway: &Gateway, number: usize) {
    std::fs::write(gateway.dir().join(format!("key_{number}")), secret(number)).unwrap();
}

/// Puts the configuration in place and waits until it is taken on; by both ways in turn.
fn apply(gateway: &Gateway, text: &str) {
    let before = metric(gateway, "hooklatch_config_reloads_total");
    write_config(gateway, text);
    if (before as usize).is_multiple_of(2) {
        gateway.signal(Signal::HUP);
        let done = || metric(gateway, "hooklatch_config_reloads_total") > before;
        assert!(wait_for(PATIENCE, || done().then_some(())).is_some());
    } else {
        let answer = admin(gateway, "POST", "/-/reload", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn secrets_rotate_under_load() {
    let (app, taken) = booking_app();
    let mut gateway = Gateway::start(&config(&app));
    write_secret(&gateway, 0);
    write_config(&gateway, &with_secrets(&app, &[0]));
    gateway.restart();
    let load = Load::signed(&gateway, "rotation", &secret(0));
    let status = |number: usize, id: &str| post(&gateway, PATH, &secret(number), body(id).as_bytes()).status;
    let rounds = rounds(ROTATIONS.0, ROTATIONS.1);
    for old in 0..rounds {
        let new = old + 1;
        write_secret(&gateway, new);
        assert_eq!(status(new, &format!("early-{new}")), 401, "not known yet");
        apply(&gateway, &with_secrets(&app, &[old, new]));
        load.sign_with(&[&secret(old), &secret(new)]);
        load.wait_for_more(4);
        load.sign_with(&[&secret(new)]);
        // One more from each sender: what it signed with the old secret has its answer then.
        load.wait_for_more(2);
        // In its body when the old secret goes: it keeps what it began with.
        let mut begun = Connection::open(gateway.listen()).unwrap();
        let late = body(&format!("begun-{old}"));
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nX-Quantiv-Signature: {}\r\nContent-Length: {}\r\n\r\n",
            hmac_hex(secret(old).as_bytes(), late.as_bytes()),
            late.len()
        );
        begun.write(head.as_bytes()).unwrap();
        load.wait_for_more(2);
        apply(&gateway, &with_secrets(&app, &[new]));
        assert_eq!(status(old, &format!("late-{old}")), 401, "its time is over");
        begun.write(late.as_bytes()).unwrap();
        assert_eq!(begun.read_response().unwrap().status, 200);
        load.wait_for_more(4);
        std::fs::remove_file(gateway.dir().join(format!("key_{old}"))).unwrap();
    }
    let tally = load.stop();
    tally.expect_all_answered();
    wait_until_taken(&taken, &tally.acked);
    let taken = taken.lock().unwrap();
    assert!(
        !taken
            .iter()
            .any(|id| id.starts_with("early") || id.starts_with("late"))
    );
    assert_eq!(taken.iter().filter(|id| id.starts_with("begun")).count(), rounds);
    proved(
        "rotation_under_load",
        format_args!(
            "{rounds} rotations, {} acknowledged, 0 failed, 0 taken with a secret before or after its time",
            tally.acked.len()
        ),
    );
}
