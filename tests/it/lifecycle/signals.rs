//! Signals at bad moments: while it starts, twice, in floods, and `kill -9` in the middle of a reload.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::load::{Load, booking_app, wait_until_taken};
use super::{PATH, admin, body, config, id_of, metric, wait_for_log, write_config};
use crate::support::{App, Connection, Gateway, PATIENCE, Reply, hmac_hex, proved, rounds, seed, wait_for};

/// Signals while it starts.
const STARTS: (usize, usize) = (10, 200);
/// Kills in the middle of a reload.
const KILLS: (usize, usize) = (10, 100);
/// Signals of one flood.
const FLOOD: usize = 2000;
/// Linux's number of SIGTERM.
const SIGTERM: i32 = 15;

/// An app that takes nothing until the switch is on, and books what it takes.
fn switched_app() -> (App, Arc<AtomicBool>, Arc<std::sync::Mutex<HashSet<String>>>) {
    let up = Arc::new(AtomicBool::new(false));
    let taken: Arc<std::sync::Mutex<HashSet<String>>> = Arc::default();
    let (is_up, book) = (up.clone(), taken.clone());
    let app = App::unrecorded(move |request| {
        if !is_up.load(Ordering::SeqCst) {
            return Reply::Status(503);
        }
        book.lock().unwrap().insert(id_of(&request.body));
        Reply::Status(200)
    });
    (app, up, taken)
}

#[test]
fn a_stop_while_it_starts_loses_nothing() {
    let mut rng = Rng::with_seed(seed("stop_while_starting"));
    let (app, up, taken) = switched_app();
    let mut gateway = Gateway::start(&config(&app));
    let load = Load::start(&gateway, "start");
    load.wait_for_acks(300);
    gateway.kill9();
    let acked = load.stop().acked;
    let rounds = rounds(STARTS.0, STARTS.1);
    let (mut drained, mut slowest) = (0, Duration::ZERO);
    for _ in 0..rounds {
        let wait = Duration::from_micros(rng.u64(..60_000));
        let began = Instant::now();
        let status = gateway.signal_at_restart(Signal::TERM, wait);
        slowest = slowest.max(began.elapsed() - wait);
        // Before the handler stands, the signal itself ends it: nothing has begun then.
        assert!(
            status.code() == Some(0) || status.signal() == Some(SIGTERM),
            "{status:?} after {wait:?}\n{}",
            gateway.log()
        );
        drained += usize::from(status.code() == Some(0));
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    up.store(true, Ordering::SeqCst);
    gateway.restart();
    wait_until_taken(&taken, &acked);
    proved(
        "stop_while_starting",
        format_args!(
            "{rounds} stops, {drained} of them drained, {} acknowledged, 0 lost",
            acked.len()
        ),
    );
}

/// The second signal says: no more waiting for balancers. Who is under way is answered all the same.
#[test]
fn a_second_stop_ends_the_delay_and_cuts_nobody_off() {
    let app = App::start([]);
    let text = config(&app).replace(
        "drain_delay = \"0s\"",
        "drain_delay = \"15s\"\ndrain_timeout = \"20s\"",
    );
    let mut gateway = Gateway::start(&text);
    let body = body("under way");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nX-Quantiv-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        hmac_hex(b"secret", body.as_bytes()),
        body.len()
    );
    let mut under_way = Connection::open(gateway.listen()).unwrap();
    under_way.write(head.as_bytes()).unwrap();
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    wait_for_log(&gateway, "draining");
    gateway.signal(Signal::TERM);
    let closed = wait_for(PATIENCE, || Connection::open(gateway.listen()).err());
    assert!(closed.is_some(), "the listener stays open");
    // Further ones change nothing.
    gateway.signal(Signal::TERM);
    gateway.signal(Signal::INT);
    gateway.signal(Signal::HUP);
    under_way.write(body.as_bytes()).unwrap();
    assert_eq!(under_way.read_response().unwrap().status, 200);
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    gateway.restart();
    assert_eq!(app.wait_for(1)[0].body, body.as_bytes());
}

#[test]
fn a_flood_of_reloads_fails_no_request_and_does_not_hold_a_stop() {
    let (app, taken) = booking_app();
    let mut gateway = Gateway::start(&config(&app));
    let load = Load::start(&gateway, "flood");
    load.wait_for_acks(20);
    let asking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while asking.load(Ordering::SeqCst) {
                    let status = admin(&gateway, "POST", "/-/reload", "").status;
                    // 503: another one is under way.
                    assert!(matches!(status, 200 | 503), "{status}");
                }
            });
        }
        for number in 0..FLOOD {
            gateway.signal(Signal::HUP);
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        load.wait_for_more(5);
        asking.store(false, Ordering::SeqCst);
    });
    assert!(metric(&gateway, "hooklatch_config_reloads_total") > 1.0);
    for _ in 0..FLOOD / 4 {
        gateway.signal(Signal::HUP);
    }
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    for _ in 0..FLOOD / 4 {
        gateway.signal(Signal::HUP);
    }
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let tally = load.stop();
    tally.expect_all_answered();
    gateway.restart();
    wait_until_taken(&taken, &tally.acked);
}

#[test]
fn kill_9_in_a_reload_loses_nothing() {
    const SECOND: &str = "/hooks/second";
    let mut rng = Rng::with_seed(seed("kill_in_reload"));
    let (app, up, taken) = switched_app();
    let one = config(&app);
    let both = one.clone()
        + &format!(
            "\n[[route]]\npath = \"{SECOND}\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]\nupstream = {{ url = \"http://{}/second\", retry = {{ first = \"50ms\", max = \"100ms\" }} }}\n",
            app.address()
        );
    let mut gateway = Gateway::start(&both);
    let mut acked = HashSet::new();
    let rounds = rounds(KILLS.0, KILLS.1);
    for round in 0..rounds {
        let load = Load::on(&gateway, &format!("kill-{round}"), &[PATH, SECOND]);
        load.wait_for_acks(20);
        // The second route goes and comes: its deliveries are parked and resumed at the very moment.
        write_config(&gateway, if round % 2 == 0 { &one } else { &both });
        gateway.signal(Signal::HUP);
        std::thread::sleep(Duration::from_micros(rng.u64(..6000)));
        gateway.kill9();
        acked.extend(load.stop().acked);
        gateway.restart();
    }
    write_config(&gateway, &both);
    up.store(true, Ordering::SeqCst);
    gateway.restart();
    wait_until_taken(&taken, &acked);
    let drained = || (metric(&gateway, "hooklatch_pending_deliveries") == 0.0).then_some(());
    assert!(wait_for(PATIENCE, drained).is_some());
    proved(
        "kill_in_reload",
        format_args!("{rounds} kills, {} acknowledged, 0 lost", acked.len()),
    );
}
