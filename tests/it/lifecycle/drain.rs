//! Stops under load, again and again: who got a connection gets an answer, and nothing acknowledged is lost.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::load::{Load, wait_until_taken};
use super::{PATH, body, config, id_of, write_config};
use crate::support::{App, Connection, Gateway, PATIENCE, Reply, hmac_hex, proved, rounds, seed, wait_for};

/// Stops under load.
const STOPS: (usize, usize) = (20, 200);
/// The configured end of a drain; no round may come near it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// With nothing but answers and quick deliveries to wait for, a stop takes no longer than this beyond the delay.
const IDLE_AFTER: Duration = Duration::from_secs(3);
/// A sender that does not get to its first byte within the last call, on a machine that is busy, may be closed: one in so
/// many stops at the most.
const DROPPED_ONE_IN: usize = 100;
/// Where the same events are relayed instead of kept.
const RELAYED: &str = "/sync/quantiv";

/// The configuration of the lifecycle tests with a relayed route beside the kept one.
fn with_relay(app: &App, drain_delay: Duration) -> String {
    let delay = format!(
        "drain_timeout = \"{}s\"\ndrain_delay = \"{}ms\"",
        DRAIN_TIMEOUT.as_secs(),
        drain_delay.as_millis()
    );
    config(app).replacen("drain_delay = \"0s\"", &delay, 1)
        + &format!(
            "\n[[route]]\npath = \"{RELAYED}\"\nmode = \"proxy\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]\nupstream = {{ url = \"http://{}/relayed\" }}\n",
            app.address()
        )
}

/// Takes everything, some of it slowly.
fn slowish_app(seed: u64) -> (App, Arc<Mutex<HashSet<String>>>) {
    let taken: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (book, rng) = (taken.clone(), Mutex::new(Rng::with_seed(seed)));
    let app = App::unrecorded(move |request| {
        book.lock().unwrap().insert(id_of(&request.body));
        let wait = rng.lock().unwrap().u64(..60);
        match wait {
            0..20 => Reply::After(Duration::from_millis(wait), Box::new(Reply::Status(200))),
            _ => Reply::Status(200),
        }
    });
    (app, taken)
}

#[test]
fn a_stop_under_load_answers_all_who_got_through_and_loses_nothing() {
    let seed = seed("stop_under_load");
    let mut rng = Rng::with_seed(seed);
    let (app, taken) = slowish_app(seed);
    let mut gateway = Gateway::start(&with_relay(&app, Duration::ZERO));
    let (mut acked, mut slowest, mut dropped) = (HashSet::new(), Duration::ZERO, Vec::new());
    let rounds = rounds(STOPS.0, STOPS.1);
    for round in 0..rounds {
        let delay = Duration::from_millis(rng.choice([0, 50, 150]).unwrap());
        write_config(&gateway, &with_relay(&app, delay));
        gateway.restart();
        let load = Load::on(&gateway, &format!("term-{round}"), &[PATH, RELAYED]);
        load.wait_for_acks(50);
        std::thread::sleep(Duration::from_millis(rng.u64(..40)));
        let began = Instant::now();
        assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
        let beyond = began.elapsed().saturating_sub(delay);
        assert!(
            beyond < IDLE_AFTER,
            "the stop took {beyond:?} beyond the delay of {delay:?}"
        );
        slowest = slowest.max(beyond);
        let tally = load.stop();
        tally.expect_none_refused();
        dropped.extend(tally.dropped);
        acked.extend(tally.acked);
    }
    assert!(
        dropped.len() <= rounds / DROPPED_ONE_IN,
        "{} dropped without an answer, such as {:?}",
        dropped.len(),
        dropped.first()
    );
    gateway.restart();
    wait_until_taken(&taken, &acked);
    proved(
        "stop_under_load",
        format_args!(
            "{rounds} stops, {} acknowledged, 0 lost, {} closed before their first byte, 0 refused, slowest {} ms beyond \
             the delay",
            acked.len(),
            dropped.len(),
            slowest.as_millis()
        ),
    );
}

/// Sends `parts` with a pause before each but the first.
fn send_slowly(connection: &mut Connection, parts: &[&[u8]], pause: Duration) {
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            std::thread::sleep(pause);
        }
        connection.write(part).unwrap();
    }
}

/// A drain that only counted requests with a whole header ended before these had their answer.
#[test]
fn a_request_that_has_begun_when_the_listener_closes_is_answered() {
    let app = App::start([]);
    let mut gateway = Gateway::start(&with_relay(&app, Duration::ZERO));
    let body = body("slow");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nX-Quantiv-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        hmac_hex(b"secret", body.as_bytes()),
        body.len()
    );
    let (half, rest) = head.split_at(40);
    let mut in_header = Connection::open(gateway.listen()).unwrap();
    in_header.write(half.as_bytes()).unwrap();
    let mut in_body = Connection::open(gateway.listen()).unwrap();
    in_body.write(head.as_bytes()).unwrap();
    // Kept alive, and in the middle of its second header.
    let mut second = Connection::open(gateway.listen()).unwrap();
    assert_eq!(second.request("GET", "/nowhere", &[], b"").unwrap().status, 404);
    second.write(half.as_bytes()).unwrap();
    // Their first bytes are there once later ones are answered.
    for _ in 0..3 {
        assert_eq!(crate::support::get(gateway.listen(), "/nowhere").status, 404);
    }
    gateway.signal(rustix::process::Signal::TERM);
    let closed = wait_for(PATIENCE, || Connection::open(gateway.listen()).err());
    assert!(closed.is_some(), "the listener stays open");
    let pause = Duration::from_millis(300);
    send_slowly(&mut in_header, &[rest.as_bytes(), body.as_bytes()], pause);
    assert_eq!(in_header.read_response().unwrap().status, 200);
    in_body.write(body.as_bytes()).unwrap();
    assert_eq!(in_body.read_response().unwrap().status, 200);
    second.write(rest.as_bytes()).unwrap();
    second.write(body.as_bytes()).unwrap();
    assert_eq!(second.read_response().unwrap().status, 200);
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

/// Connections that never send anything do not hold a stop for the five seconds they have for a header.
#[test]
fn silent_connections_do_not_hold_a_stop() {
    let app = App::start([]);
    let mut gateway = Gateway::start(&with_relay(&app, Duration::ZERO));
    let silent: Vec<_> = (0..20)
        .map(|_| Connection::open(gateway.listen()).unwrap())
        .collect();
    assert_eq!(crate::support::get(gateway.listen(), "/nowhere").status, 404);
    let began = Instant::now();
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    assert!(began.elapsed() < IDLE_AFTER, "{:?}", began.elapsed());
    drop(silent);
}
