//! The proof behind "a 2xx means kept": crashes and power cuts under load, judged by clients and an app that share no code
//! with the gateway.
//!
//! Clients write down every event they sent and every 200 they got; the app writes down every event it was handed. After
//! the last recovery and drain: every acknowledged event was delivered with the very bytes that were sent, and nothing
//! was delivered that was never sent. One store lives through all rounds, and an event without an answer is sent again,
//! as its sender would, so a dedup key that survived without its event would show as a loss.
//!
//! Events that were acknowledged are sent again too, at once and after a crash: they must be answered as duplicates.
//!
//! `kill -9` shows faults of the process only: the page cache survives it. Lost syncs show only in a power cut, or when
//! the disk is pulled from a gateway that lives on (see `oracle/disk.rs`), and the negative control, the same rig with
//! syncs switched off, shows that they do.
//!
//! `PROVE=long` tries as often as `make prove` does, `PROVE_ROUNDS` as often as it says, `PROVE_SEED` repeats a run,
//! `HOOKLATCH_BIN` tests another build.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and reports by printing"
)]

mod disk;
mod ledger;
mod load;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use self::disk::Disk;
use self::ledger::{Ledger, Verdict};
use self::load::{Load, Mood, app};
use crate::support::{App, Gateway, Launch, proved, quantiv_config, rounds, seed};

/// Rounds of one test.
const ROUNDS: (usize, usize) = (20, 200);
/// Rounds of the power cut.
const CUTS: (usize, usize) = (20, 1000);
/// Rounds of tests that need only a few.
const ROUNDS_FEW: (usize, usize) = (5, 50);
/// Load clients, each on one kept-alive connection.
const CLIENTS: usize = 12;
/// A round's load lasts between these.
const LOAD_MILLIS: std::ops::Range<u64> = 60..500;
/// Deliveries of all rounds must have arrived within this, once the app takes everything.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// The exit code after a failed write or sync.
const STORE_FAILED: i32 = 70;

#[test]
fn kill_9_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new("kill_9", dir.path(), vec![]);
    for _ in 0..rounds(ROUNDS.0, ROUNDS.1) {
        let mut gateway = rig.start();
        let load = rig.load(&gateway);
        rig.wait_a_moment();
        gateway.kill9();
        load.stop();
        rig.note_undelivered();
    }
    rig.finish().expect_nothing_lost();
}

#[test]
fn power_cut_loses_nothing() {
    lose_again_and_again(Loss::Cut, "power_cut", Disk::best(), CUTS);
}

/// The rig that is used where mounts are not allowed, so that it is tried everywhere.
#[test]
fn recorded_power_cut_loses_nothing() {
    lose_again_and_again(Loss::Cut, "recorded_power_cut", Disk::recorded(), ROUNDS_FEW);
}

#[test]
fn pulled_disk_loses_nothing() {
    lose_again_and_again(Loss::Pull, "pulled_disk", Disk::best(), ROUNDS);
}

/// An `fdatasync` that is under way while ext4 is shut down can report success for what is lost. The recorded disk makes
/// that certain: its last sync does nothing and says "done".
#[test]
fn false_sync_of_a_pulled_disk_is_not_acknowledged() {
    lose_again_and_again(Loss::Pull, "recorded_pulled_disk", Disk::recorded(), ROUNDS_FEW);
}

#[test]
fn negative_control_reports_losses() {
    unsynced_loses("negative_control", Disk::best());
}

#[test]
fn recorded_negative_control_reports_losses() {
    unsynced_loses("recorded_negative_control", Disk::recorded());
}

/// What goes.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The power.
    Cut,
    /// The disk, while the machine lives on: no event may be taken any more, and the process must end.
    Pull,
}

/// Takes power or disk away under load, and demands that nothing acknowledged is lost.
fn lose_again_and_again(loss: Loss, name: &str, mut disk: Disk, often: (usize, usize)) {
    let mut rig = Rig::new(name, disk.store(), disk.environment(true));
    for _ in 0..rounds(often.0, often.1) {
        let mut gateway = rig.start();
        let load = rig.load(&gateway);
        rig.wait_a_moment();
        match loss {
            Loss::Cut => disk.cut(&mut gateway),
            Loss::Pull => {
                disk.pull();
                assert_eq!(gateway.wait().code(), Some(STORE_FAILED), "{}", gateway.log());
            }
        }
        load.stop();
        rig.note_undelivered();
        disk.restore();
    }
    rig.finish().expect_nothing_lost();
}

/// The same cuts with syncs that do nothing: the oracle must see losses, else it proves nothing.
fn unsynced_loses(name: &str, mut disk: Disk) {
    // The store itself is made with working syncs, so that what is lost are events.
    let synced = Rig::new(name, disk.store(), disk.environment(true));
    assert_eq!(synced.start().term().code(), Some(0));
    drop(synced);
    let mut rig = Rig::new(name, disk.store(), disk.environment(false));
    rig.moods = &[Mood::Holding];
    let mut gateway = rig.start();
    let load = rig.load(&gateway);
    rig.wait_a_moment();
    disk.cut(&mut gateway);
    load.stop();
    disk.restore();
    rig.app_takes_everything();
    let verdict = match gateway.try_restart() {
        // What is there is delivered at once; what is lost never comes.
        Ok(()) => {
            rig.ledger.wait_until_drained(Duration::from_secs(3));
            rig.ledger.judge()
        }
        Err(ended) => {
            println!(
                "{name}: the store does not open after unsynced writes: {:?}",
                ended.status
            );
            rig.ledger.judge()
        }
    };
    println!("{name}: {verdict}");
    assert!(verdict.acked > 0, "{name}: nothing was acknowledged");
    assert!(
        !verdict.lost.is_empty(),
        "{name}: {} events were acknowledged without a sync, the power was cut, and the oracle saw no loss",
        verdict.acked
    );
}

/// The rigs of one process take turns: each loads the whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// Clients, gateway and app of one test.
struct Rig {
    name: String,
    launch: Launch,
    ledger: Arc<Ledger>,
    mood: Arc<load::Mind>,
    moods: &'static [Mood],
    rng: Rng,
    /// Acknowledged and not yet delivered when the process ended, summed over the rounds: what could be lost.
    at_stake: usize,
    _app: App,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    fn new(name: &str, store: &std::path::Path, environment: Vec<(String, String)>) -> Self {
        let seed = seed(name);
        // Poisoned only says that another rig's test failed.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = Arc::new(Ledger::default());
        let mood = Arc::new(load::Mind::new(seed));
        let app = app(ledger.clone(), mood.clone());
        let config = quantiv_config(store, app.address());
        let launch = environment
            .into_iter()
            .fold(Launch::new(&config), |launch, (name, value)| {
                launch.env(name, value)
            });
        Self {
            name: name.to_owned(),
            launch,
            ledger,
            mood,
            moods: &[Mood::Taking, Mood::Holding, Mood::Wavering],
            rng: Rng::with_seed(seed),
            at_stake: 0,
            _app: app,
            _turn: turn,
        }
    }

    fn start(&self) -> Gateway {
        self.launch.clone().start()
    }

    /// Starts clients against `gateway`, in the next mood of the app.
    fn load(&mut self, gateway: &Gateway) -> Load {
        if let Some(mood) = self.rng.choice(self.moods) {
            self.mood.set(*mood);
        }
        Load::start(CLIENTS, gateway.listen(), &self.ledger, self.rng.u64(..))
    }

    /// Lets the load run until a random moment after the first answers.
    fn wait_a_moment(&mut self) {
        self.ledger.wait_for_more_acks(CLIENTS);
        std::thread::sleep(Duration::from_millis(self.rng.u64(LOAD_MILLIS)));
    }

    fn note_undelivered(&mut self) {
        self.at_stake += self.ledger.judge().lost.len();
    }

    fn app_takes_everything(&self) {
        self.mood.set(Mood::Taking);
    }

    /// Starts the gateway a last time, sends what has no answer yet, waits until all has arrived, stops in order, and judges.
    fn finish(mut self) -> Verdict {
        self.app_takes_everything();
        let mut gateway = self.start();
        let load = Load::start_rest(CLIENTS, gateway.listen(), &self.ledger, self.rng.u64(..));
        self.ledger.wait_until_answered(DRAIN_MAX);
        load.stop();
        self.ledger.wait_until_drained(DRAIN_MAX);
        assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
        let verdict = self.ledger.judge();
        proved(&self.name, format_args!("{verdict}, at stake {}", self.at_stake));
        assert!(
            self.at_stake > 0,
            "no round left an acknowledged event undelivered: nothing was tried"
        );
        assert!(verdict.repeats > 0, "no acknowledged event was sent again");
        verdict
    }
}
