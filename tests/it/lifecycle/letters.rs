//! Dead letters, replay, and a store that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::{booking_app, wait_until_taken};
use super::{PATH, admin, config, metric, send};
use crate::support::{App, Connection, Gateway, PATIENCE, Reply, hmac_hex, wait_for};

/// An app that refuses until the switch is on, and a gateway that gives up after two attempts.
fn rig() -> (App, Arc<AtomicBool>, Gateway) {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let app = App::with(move |_| match is_up.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(422),
    });
    let text = config(&app).replace("max = \"100ms\"", "max = \"100ms\", attempts = 2");
    let gateway = Gateway::start(&text);
    (app, up, gateway)
}

fn wait_for_dead(gateway: &Gateway, count: f64) {
    let dead = wait_for(PATIENCE, || {
        (metric(gateway, "hooklatch_dead_deliveries") == count).then_some(())
    });
    assert!(dead.is_some(), "{}", metric(gateway, "hooklatch_dead_deliveries"));
}

#[test]
fn after_the_last_attempt_an_event_is_dead_and_a_replay_delivers_it() {
    let (app, up, gateway) = rig();
    assert_eq!(send(&gateway, "dead").status, 200);
    wait_for_dead(&gateway, 1.0);
    assert_eq!(app.requests().len(), 2);
    up.store(true, Ordering::SeqCst);
    let dry = admin(
        &gateway,
        "POST",
        "/-/replay",
        r#"{"status":"dead","dry_run":true}"#,
    );
    assert_eq!(
        (dry.status, dry.text().contains(r#""deliveries":1"#)),
        (200, true),
        "{}",
        dry.text()
    );
    assert_eq!(app.requests().len(), 2);
    let replayed = admin(&gateway, "POST", "/-/replay", r#"{"status":"dead"}"#);
    assert_eq!(
        (replayed.status, replayed.text().contains(r#""deliveries":1"#)),
        (200, true),
        "{}",
        replayed.text()
    );
    let requests = app.wait_for(3);
    assert_eq!(requests[2].body, requests[0].body);
    assert_eq!(
        requests[2].header("hooklatch-key"),
        requests[0].header("hooklatch-key")
    );
    wait_for_dead(&gateway, 0.0);
    for bad in ["", "[]", r#"{"status":"dying"}"#, r#"{"statsu":"dead"}"#] {
        assert_eq!(admin(&gateway, "POST", "/-/replay", bad).status, 400, "{bad}");
    }
}

#[test]
fn a_duplicate_of_a_dead_event_brings_it_back() {
    let (app, up, mut gateway) = rig();
    assert_eq!(send(&gateway, "again").status, 200);
    wait_for_dead(&gateway, 1.0);
    up.store(true, Ordering::SeqCst);
    // Also over a restart.
    assert_eq!(gateway.term().code(), Some(0));
    gateway.restart();
    wait_for_dead(&gateway, 1.0);
    let answer = send(&gateway, "again");
    assert_eq!((answer.status, answer.text().contains("duplicate")), (200, true));
    let requests = app.wait_for(3);
    assert_eq!(requests[2].body, requests[0].body);
    let pending = || metric(&gateway, "hooklatch_pending_deliveries");
    assert!(wait_for(PATIENCE, || (pending() == 0.0).then_some(())).is_some());
    assert_eq!(metric(&gateway, "hooklatch_dead_deliveries"), 0.0);
    // Delivered now: the next copy brings nothing back.
    assert!(send(&gateway, "again").text().contains("duplicate"));
    assert_eq!(pending(), 0.0);
    assert_eq!(app.requests().len(), 3);
}

#[test]
fn a_full_store_says_503_delivers_on_and_recovers() {
    let (taking, taken) = booking_app();
    let address = taking.address();
    let up = Arc::new(AtomicBool::new(false));
    let (is_up, book) = (up.clone(), taken.clone());
    drop(taking);
    let app = App::unrecorded(move |request| {
        if !is_up.load(Ordering::SeqCst) {
            return Reply::Status(503);
        }
        book.lock().unwrap().insert(super::id_of(&request.body));
        Reply::Status(200)
    });
    let text = config(&app)
        .replace(&address.to_string(), &app.address().to_string())
        .replace("[store]", "[store]\nmax_bytes = \"16MiB\"");
    let gateway = Gateway::start(&text);
    let mut connection = Connection::open(gateway.listen()).unwrap();
    let mut post = |id: &str| {
        let mut body = format!(r#"{{"id":"{id}","x":""#).into_bytes();
        body.resize(500_000, b'x');
        body.extend_from_slice(br#""}"#);
        let signature = hmac_hex(b"secret", &body);
        connection
            .post(PATH, &[("X-Quantiv-Signature", &signature)], &body)
            .unwrap()
    };
    let mut acked = std::collections::HashSet::new();
    let mut refused = 0;
    for n in 0..60 {
        let answer = post(&format!("full-{n}"));
        match answer.status {
            200 => {
                acked.insert(format!("full-{n}"));
            }
            503 => {
                assert!(answer.header("retry-after").is_some());
                refused += 1;
            }
            status => panic!("{status}: {}", answer.text()),
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5, "the store never fills");
    assert_eq!(
        admin(&gateway, "GET", "/readyz", "").status,
        200,
        "a full store stays ready"
    );
    // A copy of what is kept is a duplicate also now.
    assert!(post("full-0").text().contains("duplicate"));
    up.store(true, Ordering::SeqCst);
    wait_until_taken(&taken, &acked);
    let recovered = wait_for(PATIENCE, || (post("later").status == 200).then_some(()));
    assert!(
        recovered.is_some(),
        "the store stays full after all was delivered"
    );
    acked.insert("later".to_owned());
    wait_until_taken(&taken, &acked);
}
