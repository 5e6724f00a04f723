//! The soak: a load of 30 % of the peak with one fault after the other, while memory, descriptors, threads, the log and the
//! store are measured. They stay flat, and the rules of the oracle hold at the end.
//!
//! The peak is measured first, by the same senders without a pause. Events are kept for a second and remembered for two, so
//! that pruning runs all the time. The process is killed and stopped in the first third only: what grows slowly shows
//! in one long life, the other two thirds. Memory is compared by the medians of the quiet moments of these two.
//!
//! The series is written to `target/prove/soak.csv`. `PROVE_ROUNDS` sets the seconds.

mod book;
mod chaos;
mod gauges;
mod senders;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::book::Book;
use self::chaos::{Chaos, Fault};
use self::gauges::Gauges;
use self::senders::{Mood, Senders, Target, app};
use crate::support::{App, Connection, Gateway, Launch, PATIENCE, Response, proved, rounds, seed, wait_for};

/// Seconds of the soak.
const SECONDS: (usize, usize) = (8, 1800);
/// Of the peak, in percent.
const LOAD_PERCENT: f64 = 30.0;
/// A fault begins this often at the most.
const FAULT_EVERY_MAX: Duration = Duration::from_secs(30);
/// Faults of one soak at the least.
const FAULTS_MIN: u32 = 12;
/// All that was acknowledged must have arrived this long after the last fault: a breaker may have to close first.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// The log of the store is copied from two thousand pages (8 MiB) on; what a reader holds up comes on top.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// Descriptors beyond those before the load: a connection to the app, a reader of the store.
const DESCRIPTORS_SPARE: u64 = 8;
/// Growth of memory between the last two thirds that is noise of the allocator, in MiB. A short soak is all warm-up.
const GROWTH_MAX_MIB: (f64, f64) = (64.0, 8.0);
/// From this on a soak is long enough for the tighter bound.
const LONG: Duration = Duration::from_secs(180);
/// Growth of the store's file between the last two thirds that is chance.
const STORE_SPARE_BYTES: u64 = 32 << 20;

fn config(app: &App) -> String {
    format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"

[store]
path = "{{dir}}/store"
allow_ephemeral = true

[retention]
delivered = "1s"
dead = "1s"

[admin]
listen = "127.0.0.1:0"

[limits]
connections_per_peer = 1000

[secrets]
soak = {{ value = "{}" }}

[[route]]
path = "{}"
secrets = ["soak"]
event_id = {{ json = "/id" }}
dedup = "2s"
verify = {{ header = "X-Soak-Signature", encoding = "hex" }}
upstream = {{ url = "http://{}/soak", timeout = "2s", retry = {{ first = "50ms", max = "500ms" }} }}
"#,
        senders::SECRET,
        senders::PATH,
        app.address()
    )
}

#[test]
fn a_soak_with_faults_stays_flat_and_loses_nothing() {
    let seed = seed("soak");
    let length = Duration::from_secs(rounds(SECONDS.0, SECONDS.1) as u64);
    let (book, mood) = (Arc::new(Book::default()), Arc::new(Mood::default()));
    let app = app(book.clone(), mood.clone());
    let text = config(&app);
    let gateway = Launch::new(&text).start();
    let target = Arc::new(Target::new(gateway.listen()));
    let gauges = Gauges::start(gateway.dir().join("store"), &book, every(length));
    gauges.life(gateway.pid());

    // How fast it can go, and what it needs when nothing goes on.
    let peak = measure_peak(&target, &book, length / 8);
    settle(&book);
    let before = gauges.idle(gateway.pid());

    let rate = peak * LOAD_PERCENT / 100.0;
    let from = gauges.elapsed();
    let senders = Senders::start(&target, &book, Some(rate), true);
    let mut chaos = Chaos::new(gateway, text, target.clone(), book.clone(), mood.clone());
    let faults = run_faults(&mut chaos, &gauges, length, seed);
    senders.stop();
    mood.set(Mood::TAKING);
    let gateway = chaos.finish();

    // Whoever has no answer yet tries again, and everything arrives.
    let rest = Senders::start(&target, &book, None, false);
    assert!(
        wait_for(DRAIN_MAX, || book.is_answered().then_some(())).is_some(),
        "{}",
        book.verdict()
    );
    rest.stop();
    settle(&book);
    let verdict = book.verdict();
    verdict.expect_nothing_lost();

    expect_all_given_back(&gateway, &gauges, before);
    let series = gauges.stop(from);
    series.write(&csv());
    let found = series.judge(length);
    let mut gateway = gateway;
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    assert!(!gateway.log().contains("panicked"));
    proved(
        "soak",
        format_args!(
            "{} s at {rate:.0}/s (peak {peak:.0}/s), {faults} faults, {verdict}, {found}",
            length.as_secs()
        ),
    );
    found.expect_flat(length);
}

/// One request to the admin API, as a program on this machine makes it.
fn admin(address: SocketAddr, method: &str, path: &str) -> Response {
    let mut connection = Connection::open(address).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    connection.write(request.as_bytes()).unwrap();
    connection.read_response().unwrap()
}

/// Between two looks at the process.
fn every(length: Duration) -> Duration {
    (length / 120).clamp(Duration::from_millis(100), Duration::from_secs(5))
}

fn csv() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("prove");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join("soak.csv")
}

/// Events per second that are taken from senders without a pause, while they are delivered.
fn measure_peak(target: &Arc<Target>, book: &Arc<Book>, length: Duration) -> f64 {
    let length = length.clamp(Duration::from_secs(1), Duration::from_secs(10));
    let senders = Senders::start(target, book, None, true);
    let (before, began) = (book.acked(), Instant::now());
    std::thread::sleep(length);
    let peak = (book.acked() - before) as f64 / began.elapsed().as_secs_f64();
    senders.stop();
    assert!(peak > 0.0, "nothing gets through");
    peak
}

/// Waits until all that was acknowledged has arrived.
fn settle(book: &Book) {
    assert!(
        wait_for(DRAIN_MAX, || book.is_drained().then_some(())).is_some(),
        "{}",
        book.verdict()
    );
}

/// One fault after the other, each for half of its time; how many.
fn run_faults(chaos: &mut Chaos, gauges: &Gauges, length: Duration, seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let each = FAULT_EVERY_MAX.min(length / FAULTS_MIN);
    let began = Instant::now();
    let mut waiting: Vec<Fault> = Vec::new();
    let mut count = 0;
    while began.elapsed() + each <= length {
        // Every kind before any comes again; the ends of the process in the first third only.
        let is_early = began.elapsed() + each <= length / 3;
        waiting.retain(|fault| is_early || !fault.ends_the_process());
        if waiting.is_empty() {
            waiting = Fault::ALL
                .into_iter()
                .filter(|fault| is_early || !fault.ends_the_process())
                .collect();
            rng.shuffle(&mut waiting);
            // They have but a few turns.
            waiting.sort_by_key(|fault| fault.ends_the_process());
        }
        let Some(fault) = waiting.pop() else { break };
        gauges.fault(fault.name());
        chaos.cause(fault, each / 2);
        gauges.life(chaos.pid());
        gauges.fault("");
        count += 1;
        let next = each * u32::try_from(count).unwrap();
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
    count
}

/// Descriptors and events go back to what they were.
fn expect_all_given_back(gateway: &Gateway, gauges: &Gauges, before: gauges::Idle) {
    let idle = || gauges.idle(gateway.pid());
    if let Some(descriptors) = before.descriptors {
        let most = descriptors + DESCRIPTORS_SPARE;
        let back = wait_for(PATIENCE, || (idle().descriptors? <= most).then_some(()));
        assert!(
            back.is_some(),
            "{:?} of {descriptors} descriptors",
            idle().descriptors
        );
    }
    let events = || {
        let text = admin(gateway.admin(), "GET", "/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("hooklatch_store_events "));
        line.and_then(|number| number.parse::<f64>().ok())
    };
    let pruned = wait_for(DRAIN_MAX, || (events()? == 0.0).then_some(()));
    assert!(pruned.is_some(), "{:?} events are still kept", events());
}
