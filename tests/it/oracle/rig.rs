//! Clients, gateway, app and disk of one test, and the rounds they go through.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::app::{Mind, Mood, app, path_of};
use super::disk::{Disk, Syncs};
use super::history::{ATTEMPT_TIMEOUT, End, Life};
use super::ledger::Ledger;
use super::load::{Load, Work};
use super::moment::{Moment, Tally};
use super::verdict::Verdict;
use super::wal_index::Wal;
use super::{DRAIN_MAX, STORE_FAILED};
use crate::support::{App, Connection, Gateway, Launch, seed, wait_for};

/// Load clients, each on one kept-alive connection.
const CLIENTS: usize = 12;
/// Or so many, of which that many wait for one sync that the gateway uses it for something else.
const CROWD: usize = 128;
/// A round's load lasts between these.
const LOAD_MILLIS: std::ops::Range<u64> = 20..300;
/// From SIGTERM to the loss.
const DRAIN_MICROS: std::ops::Range<u64> = 0..40_000;
/// How long to wait for what a loss is aimed at.
const AIM_MAX: Duration = Duration::from_millis(500);
/// A store goes through at most so many rounds, and takes about so many events; then all must have arrived.
const STORE_ROUNDS: usize = 40;
const STORE_EVENTS: usize = 20_000;

/// After so many losses something must have been at stake.
const TRIED: usize = 10;

/// How the gateway is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The power goes.
    Cut,
    /// The process is killed.
    Kill,
}

/// The rigs of one process take turns: each loads the whole machine.
static TURN: Mutex<()> = Mutex::new(());

pub(super) struct Rig {
    pub(super) name: String,
    pub(super) disk: Disk,
    pub(super) ledger: Arc<Ledger>,
    mind: Arc<Mind>,
    pub(super) moods: &'static [Mood],
    rng: Rng,
    /// A small store, which checkpoints and sheds all the time.
    pub(super) small: bool,
    /// Every event goes to two.
    pub(super) second_upstream: bool,
    /// From start to ready, as last seen.
    pub(super) start_took: Duration,
    tally: Tally,
    /// Acknowledged and not yet delivered at the losses, summed up: what could be lost.
    at_stake: usize,
    verdict: Verdict,
    app: App,
    _turn: MutexGuard<'static, ()>,
}

/// A gateway in one of its lives.
pub(super) struct Living {
    pub(super) gateway: Gateway,
    life: Life,
}

impl Rig {
    pub(super) fn new(name: &str, disk: Disk) -> Self {
        let name = format!("{name} on {}", disk.name());
        let seed = seed(&name);
        // Poisoned only says that another rig's test failed.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = Arc::new(Ledger::default());
        let mind = Arc::new(Mind::new(seed));
        Self {
            app: app(ledger.clone(), mind.clone()),
            name,
            disk,
            ledger,
            mind,
            moods: &[Mood::Taking, Mood::Holding, Mood::Wavering],
            rng: Rng::with_seed(seed),
            small: false,
            second_upstream: false,
            start_took: Duration::from_millis(100),
            tally: Tally::default(),
            at_stake: 0,
            verdict: Verdict::default(),
            _turn: turn,
        }
    }

    /// Loses the gateway so many times, in all kinds of moments, on one store after the other.
    pub(super) fn lose(mut self, loss: Loss, rounds: usize) {
        let per_store = STORE_ROUNDS.min(rounds.div_ceil(2));
        while self.tally.losses() < rounds {
            self.small = !self.small;
            let until = rounds.min(self.tally.losses() + per_store);
            for _ in 0..self.rng.usize(1..=1 + per_store / 20) {
                self.lose_creation(loss);
            }
            let mut moments = Vec::new();
            while self.tally.losses() < until && self.ledger.sent() < STORE_EVENTS {
                if moments.is_empty() {
                    moments = Moment::turn(self.small, &mut self.rng);
                }
                self.round(loss, moments.pop().unwrap_or(Moment::Load));
            }
            self.settle();
        }
        self.finish();
    }

    /// One loss of a store that exists.
    fn round(&mut self, loss: Loss, moment: Moment) {
        let living = match moment {
            Moment::Start => {
                let living = self.begin(Syncs::Work);
                self.wait_a_start();
                living
            }
            Moment::FailedSync => {
                self.fail_a_sync();
                let living = self.start(Syncs::Work);
                self.app_takes_everything();
                let load = self.clients(&living, Work::Rest);
                self.ledger.wait_until_answered(DRAIN_MAX);
                load.stop();
                living
            }
            _ => {
                let living = self.start(Syncs::Work);
                let load = self.load_for(&living, moment);
                let met = self.aim(&living, moment);
                self.end(living, loss, moment, met);
                load.stop();
                return;
            }
        };
        self.end(living, loss, moment, None);
    }

    /// Clients as a moment of this kind needs them.
    fn load_for(&mut self, living: &Living, moment: Moment) -> Load {
        match moment {
            Moment::Pruning => {
                // Only what was delivered can go, and large bodies make it go soon.
                self.app_takes_everything();
                self.clients(living, Work::Large)
            }
            _ => self.load(living),
        }
    }

    /// Lets the load run until a moment of this kind; says what it is if only that can be seen now.
    fn aim(&mut self, living: &Living, moment: Moment) -> Option<&'static str> {
        if moment != Moment::Pruning {
            self.ledger.wait_for_more_acks(CLIENTS);
        }
        let wait = Duration::from_millis(self.rng.u64(LOAD_MILLIS));
        match moment {
            Moment::Checkpoint => {
                let wal = Wal::of(self.disk.store());
                let until = Instant::now() + AIM_MAX;
                while !wal.in_checkpoint() && Instant::now() < until {
                    std::thread::sleep(Duration::from_micros(50));
                }
                None
            }
            Moment::Pruning => {
                let admin = living.gateway.admin();
                // At the start bodies that have become old go, later they go for space.
                let before = if self.rng.bool() {
                    0
                } else {
                    metric(admin, PRUNED)?
                };
                let rose = wait_for(AIM_MAX, || (metric(admin, PRUNED)? > before).then_some(()));
                rose.map(|()| "while bodies went")
            }
            Moment::Drain => {
                std::thread::sleep(wait);
                living.gateway.signal(Signal::TERM);
                std::thread::sleep(Duration::from_micros(self.rng.u64(DRAIN_MICROS)));
                None
            }
            _ => {
                std::thread::sleep(wait);
                None
            }
        }
    }

    /// Ends a life by a loss, and brings back what outlives it.
    fn end(&mut self, mut living: Living, loss: Loss, moment: Moment, met: Option<&'static str>) {
        let gateway = &mut living.gateway;
        let mut ended = gateway.has_ended();
        let wrote_ahead = wrote_ahead(gateway.pid());
        match loss {
            // An answer on its way to a client still counts; one that would follow a sync under way is never written.
            Loss::Cut => gateway.freeze(),
            Loss::Kill => drop(gateway.kill9()),
        }
        // It may have come to its end meanwhile.
        let code = gateway.exit_code();
        ended |= code.is_some();
        assert!(
            !ended || (moment == Moment::Drain && code == Some(0)),
            "{} ended by itself with {code:?}\n{}",
            self.name,
            gateway.log()
        );
        let wal = Wal::of(self.disk.store());
        self.tally.aimed(moment);
        self.tally.log_was(wal.bytes());
        let seen = [
            (ended, "after the end"),
            (!gateway.is_ready(), "before ready"),
            (moment == Moment::Drain && !ended, "while draining"),
            (wal.in_commit(), "in a commit"),
            (wal.in_checkpoint(), "in a checkpoint"),
            (wrote_ahead, "with rows written ahead"),
        ];
        for (_, what) in seen.into_iter().filter(|(met, _)| *met) {
            self.tally.met(what);
        }
        if let Some(met) = met {
            self.tally.met(met);
        }
        self.at_stake += self.ledger.undelivered();
        self.disk.cut(gateway);
        if ended {
            self.ledger.end_life(living.life, End::Drained);
        } else {
            self.crashed(&living);
        }
        drop(living);
        self.disk.restore();
    }

    /// Kills the gateway as it is.
    pub(super) fn lose_now(&mut self, living: Living) {
        self.end(living, Loss::Kill, Moment::Load, None);
    }

    /// Loses the gateway while it makes its store, perhaps more than once; then it must start.
    fn lose_creation(&mut self, loss: Loss) {
        self.disk.wipe();
        for _ in 0..self.rng.usize(1..=2) {
            let living = self.begin(Syncs::Work);
            self.wait_a_start();
            self.end(living, loss, Moment::Creation, None);
            self.tally.met(state_of(self.disk.store()));
        }
        let mut living = self.start(Syncs::Work);
        self.end_in_order(&mut living);
    }

    /// Loads a gateway until its disk fails a sync, and sees it end.
    fn fail_a_sync(&mut self) {
        let mut living = self.start(Syncs::MayFail);
        let load = self.load(&living);
        self.wait_a_moment();
        self.disk.fail_syncs(true);
        self.expect_store_failed(&mut living);
        load.stop();
        self.disk.fail_syncs(false);
    }

    pub(super) fn expect_store_failed(&mut self, living: &mut Living) {
        let code = living.gateway.wait().code();
        assert_eq!(code, Some(STORE_FAILED), "{}", living.gateway.log());
        self.crashed(living);
    }

    /// Starts the gateway and waits for nothing.
    fn begin(&mut self, syncs: Syncs) -> Living {
        let life = self.ledger.begin_life();
        let launch = Launch::new(&self.config(life));
        let environment = self.disk.environment(syncs).into_iter();
        let launch = environment.fold(launch, |launch, (name, value)| launch.env(name, value));
        Living {
            gateway: launch.begin(),
            life,
        }
    }

    /// Starts the gateway, unaided, and waits until it is ready.
    pub(super) fn start(&mut self, syncs: Syncs) -> Living {
        match self.try_start(syncs) {
            Ok(living) => living,
            Err(why) => panic!("{}: the gateway does not start: {why}", self.name),
        }
    }

    pub(super) fn try_start(&mut self, syncs: Syncs) -> Result<Living, String> {
        let started = Instant::now();
        let Living { gateway, life } = self.begin(syncs);
        match gateway.ready() {
            Ok(gateway) => {
                self.start_took = started.elapsed();
                Ok(Living { gateway, life })
            }
            Err(ended) => Err(format!("{:?}\n{}", ended.status, ended.log)),
        }
    }

    /// Until some moment of a start, or a little after it.
    fn wait_a_start(&mut self) {
        std::thread::sleep(self.start_took.mul_f64(self.rng.f64() * 1.2));
    }

    /// Starts clients against the gateway, in the next mood of the app.
    pub(super) fn load(&mut self, living: &Living) -> Load {
        if let Some(mood) = self.rng.choice(self.moods) {
            self.mind.set(*mood);
        }
        let large = self.small && self.rng.bool();
        self.clients(living, if large { Work::Large } else { Work::Mixed })
    }

    /// Clients with large events.
    pub(super) fn load_large(&mut self, living: &Living) -> Load {
        self.clients(living, Work::Large)
    }

    /// Whether the store says that it is full.
    pub(super) fn is_full(&self, living: &Living) -> bool {
        metric(living.gateway.admin(), "hooklatch_store_full") == Some(1)
    }

    fn clients(&mut self, living: &Living, work: Work) -> Load {
        let crowd = work == Work::Mixed && self.rng.bool();
        Load::start(
            if crowd { CROWD } else { CLIENTS },
            living.gateway.listen(),
            &self.ledger,
            work,
            self.rng.u64(..),
        )
    }

    /// Lets the load run until a random moment after the first answers.
    pub(super) fn wait_a_moment(&mut self) {
        self.ledger.wait_for_more_acks(CLIENTS);
        std::thread::sleep(Duration::from_millis(self.rng.u64(LOAD_MILLIS)));
    }

    /// Books that a life ended without its marks.
    pub(super) fn crashed(&self, living: &Living) {
        self.ledger.end_life(living.life, End::Crash(Instant::now()));
    }

    /// Books a pulled disk.
    pub(super) fn pulled(&mut self) {
        self.tally.aimed(Moment::Load);
        self.at_stake += self.ledger.undelivered();
    }

    pub(super) fn app_takes_everything(&self) {
        self.set_mood(Mood::Taking);
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        self.mind.set(mood);
    }

    /// Sends what has no answer yet, waits until all has arrived, stops in order, and judges.
    pub(super) fn settle(&mut self) {
        self.app_takes_everything();
        let mut living = self.start(Syncs::Work);
        let load = self.clients(&living, Work::Rest);
        self.ledger.wait_until_answered(DRAIN_MAX);
        load.stop();
        self.ledger.wait_until_drained(DRAIN_MAX);
        self.end_in_order(&mut living);
        self.check_store();
        // Once more, without senders: what was delivered before an end in order must not come again.
        let mut living = self.start(Syncs::Work);
        let admin = living.gateway.admin();
        let rest = wait_for(DRAIN_MAX, || (metric(admin, PENDING)? == 0).then_some(()));
        assert!(rest.is_some(), "{}: deliveries stay pending", self.name);
        self.end_in_order(&mut living);
        self.verdict.add(self.ledger.take().judge());
    }

    fn end_in_order(&self, living: &mut Living) {
        assert_eq!(living.gateway.term().code(), Some(0), "{}", living.gateway.log());
        self.ledger.end_life(living.life, End::Drained);
    }

    /// The store is whole in the eyes of SQLite.
    fn check_store(&self) {
        let store = rusqlite::Connection::open(self.disk.store().join("inbox.db")).unwrap();
        let says: String = store
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(says, "ok", "{}", self.name);
    }

    /// Says what was found, and demands that it is nothing.
    pub(super) fn finish(self) {
        let losses = self.tally.losses();
        let Self {
            verdict, at_stake, ..
        } = &self;
        crate::support::proved(
            &self.name,
            format_args!("lost {}; {verdict}; at stake {at_stake}", self.tally),
        );
        verdict.expect_nothing_lost();
        if losses < TRIED {
            return;
        }
        assert!(
            *at_stake > 0,
            "no round left an acknowledged event undelivered: nothing was tried"
        );
        assert!(verdict.resent > 0, "no acknowledged event was sent again");
        assert!(verdict.forgeries > 0, "nothing was forged");
    }

    fn config(&self, life: Life) -> String {
        let size = if self.small { "max_bytes = \"16MiB\"" } else { "" };
        let retention = if self.small {
            "[retention]\ndelivered = \"1s\""
        } else {
            ""
        };
        let upstreams: String = ["app", SECOND_UPSTREAM]
            .iter()
            .take(if self.second_upstream { 2 } else { 1 })
            .map(|name| {
                format!(
                    r#"
[[route.upstreams]]
name = "{name}"
url = "http://{app}{path}"
timeout = "{timeout}s"
retry = {{ first = "10ms", max = "200ms" }}
"#,
                    app = self.app.address(),
                    path = path_of(life),
                    timeout = ATTEMPT_TIMEOUT.as_secs(),
                )
            })
            .collect();
        format!(
            r#"
listen = "127.0.0.1:0"
drain_delay = "0s"

[limits]
failures_per_peer = {{ per_second = 1000000, burst = 1000000 }}

[store]
path = {store:?}
allow_ephemeral = true
min_free = 0
{size}

{retention}

[admin]
listen = "127.0.0.1:0"

[secrets]
quantiv = {{ value = "secret" }}

[[route]]
path = "{sent_to}"
provider = "quantiv"
secrets = ["quantiv"]

{upstreams}"#,
            store = self.disk.store(),
            sent_to = super::event::PATH,
        )
    }
}

/// How far the making of a store got.
fn state_of(store: &Path) -> &'static str {
    let copy = tempfile::tempdir().unwrap();
    for name in ["inbox.db", "inbox.db-wal", "inbox.db-journal"] {
        // It may not be there yet.
        drop(std::fs::copy(store.join(name), copy.path().join(name)));
    }
    let Ok(file) = std::fs::metadata(copy.path().join("inbox.db")) else {
        return "leaving no store";
    };
    let tables = rusqlite::Connection::open(copy.path().join("inbox.db")).and_then(|store| {
        store.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    match (file.len(), tables) {
        (0, _) => "leaving an empty file",
        (_, Ok(1..)) => "leaving a whole new store",
        _ => "leaving a half-made store",
    }
}

/// The name of the second upstream.
pub(super) const SECOND_UPSTREAM: &str = "audit";

/// Bodies removed so far.
const PRUNED: &str = "hooklatch_pruned_events_total";
/// Deliveries that wait.
pub(super) const PENDING: &str = "hooklatch_pending_deliveries";

/// The sum over all labels of a metric.
pub(super) fn metric(admin: SocketAddr, name: &str) -> Option<u64> {
    let mut admin = Connection::open(admin).ok()?;
    admin
        .write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .ok()?;
    let metrics = admin.read_response().ok()?.text();
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values = metrics
        .lines()
        .filter(of_name)
        .map(|line| line.rsplit_once(' ')?.1.parse().ok());
    let values: Vec<u64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Whether the gateway has had files synced by the thread that it does so with while it writes rows.
fn wrote_ahead(pid: u32) -> bool {
    /// To begin with it waits a few times.
    const WAITS: u64 = 10;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    tasks.flatten().any(|task| {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let waited = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        read("comm").trim() == "sync" && waited.and_then(|count| count.trim().parse().ok()) > Some(WAITS)
    })
}
