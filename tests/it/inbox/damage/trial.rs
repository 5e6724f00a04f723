//! Damaging a store, and seeing what becomes of it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use tokio::runtime::Runtime;

use super::super::*;
use super::sample::{End, Files, Sample, scratch, seen};
use crate::support::{proved, rounds};

/// A page of the database.
pub(super) const PAGE: usize = 4096;
/// A frame of the log: its header and a page.
pub(super) const FRAME: usize = 24 + PAGE;
/// A piece of a file of bodies.
pub(super) const SECTOR: usize = 512;
const LOG: &str = "log";
const WITHOUT_ROWS: &str = "bodies of events without rows";
/// Those of the configuration.
const UPSTREAMS: [&str; 2] = ["app", "audit"];
/// For what comes at once, if it comes.
const GLANCE: Duration = Duration::from_millis(40);

/// What was done to a file.
#[derive(Debug, Clone)]
pub(super) enum Damage {
    Flip { bit: usize },
    Byte { at: usize, to: u8 },
    Zero { page: usize },
    Noise { page: usize, seed: u64 },
    Swap { one: usize, other: usize },
    Double { from: usize, to: usize },
    Cut { length: usize },
    Noisy { length: usize, seed: u64 },
}

impl Damage {
    /// Any; `unit` is the size of a page, or of a frame of the log.
    pub(super) fn drawn(bytes: &[u8], unit: usize, rng: &mut Rng) -> Self {
        let units = (bytes.len() / unit).max(1);
        match rng.u8(..20) {
            0 => Self::Zero {
                page: rng.usize(..units),
            },
            1 => Self::Noise {
                page: rng.usize(..units),
                seed: rng.u64(..),
            },
            2 => Self::Swap {
                one: rng.usize(..units),
                other: rng.usize(..units),
            },
            3 => Self::Double {
                from: rng.usize(..units),
                to: rng.usize(..units),
            },
            4 => Self::Cut {
                length: rng.usize(..bytes.len()),
            },
            5 => Self::Cut {
                length: rng.usize(..units) * unit,
            },
            6 if rng.u8(..8) == 0 => Self::Noisy {
                length: rng.usize(..3 * PAGE),
                seed: rng.u64(..),
            },
            6..10 => Self::Byte {
                at: rng.usize(..bytes.len()),
                to: rng.u8(..),
            },
            _ => {
                let used = used(bytes);
                Self::Flip {
                    bit: used[rng.usize(..used.len())] * 8 + rng.usize(..8),
                }
            }
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>, unit: usize) {
        let span = |page: usize| page * unit..((page + 1) * unit);
        match *self {
            Self::Flip { bit } => bytes[bit / 8] ^= 1 << (bit % 8),
            Self::Byte { at, to } => bytes[at] = to,
            Self::Zero { page } => bytes[span(page)].fill(0),
            Self::Noise { page, seed } => Rng::with_seed(seed).fill(&mut bytes[span(page)]),
            Self::Swap { one, other } => {
                let kept = bytes[span(one)].to_vec();
                bytes.copy_within(span(other), one * unit);
                bytes[span(other)].copy_from_slice(&kept);
            }
            Self::Double { from, to } => bytes.copy_within(span(from), to * unit),
            Self::Cut { length } => bytes.truncate(length),
            Self::Noisy { length, seed } => {
                bytes.resize(length, 0);
                Rng::with_seed(seed).fill(bytes);
            }
        }
    }
}

/// The bytes of a file that say something: not those within long runs of zeros.
pub(super) fn used(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| &bytes[at.saturating_sub(4)..(at + 5).min(bytes.len())];
    (0..bytes.len())
        .filter(|at| near(*at).iter().any(|byte| *byte != 0))
        .collect()
}

/// What became of damaged stores.
#[derive(Debug, Default)]
struct Tally {
    stores: usize,
    /// Not opened, with a reason.
    refused: usize,
    /// Ended while it was used, with a reason.
    failed: usize,
    /// Served, but for what is counted below.
    served: usize,
    /// Deliveries handed out, all of them whole.
    whole: usize,
    /// Deliveries not handed out and reported as corrupt.
    corrupt: usize,
    /// Deliveries that were in a log that is reported and kept as damaged, or that wait for a name that damage made.
    elsewhere: usize,
    /// Deliveries not handed out, and nothing said.
    silent: usize,
    /// Events accepted into damaged stores.
    accepted: usize,
    /// Of these, not there after a restart, and nothing said.
    lost: usize,
    reasons: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.stores += other.stores;
        self.refused += other.refused;
        self.failed += other.failed;
        self.served += other.served;
        self.whole += other.whole;
        self.corrupt += other.corrupt;
        self.elsewhere += other.elsewhere;
        self.silent += other.silent;
        self.accepted += other.accepted;
        self.lost += other.lost;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} damaged stores: {} refused, {} failed, {} served; {} deliveries whole, {} reported corrupt, \
             {} in a log that is reported or parked, {} missing; \
             {} accepted into them, {} lost; 0 altered, 0 invented",
            self.stores,
            self.refused,
            self.failed,
            self.served,
            self.whole,
            self.corrupt,
            self.elsewhere,
            self.silent,
            self.accepted,
            self.lost
        )
    }
}

/// Deliveries that were not handed out, with nothing said.
pub(super) type Silent = BTreeSet<(i64, String)>;

/// One damaged store under test.
struct Trial<'a> {
    sample: &'a Sample,
    /// For the message of a failure.
    what: String,
    /// The damage is in the log, or in events without rows: of their end much may be missing.
    in_log: bool,
    settings: Settings,
    /// Sent to the damaged store.
    sent: Vec<NewEvent>,
    /// Accepted by it.
    accepted: BTreeMap<i64, NewEvent>,
    /// Pending, not handed out, and nothing said.
    silent: Silent,
    tally: &'a mut Tally,
}

impl Trial<'_> {
    /// Opens it, looks at all it hands out, has it accept copies and new events, and does the same after a restart.
    async fn run(mut self) -> Silent {
        self.tally.stores += 1;
        let Some(inbox) = self.open() else {
            return self.silent;
        };
        let taken = self.take(&inbox, &self.sample.pending, false, GLANCE).await;
        self.count_missing(&inbox, taken).await;
        self.accept_copies(&inbox).await;
        if self.failed_by_the_end(inbox).await {
            return self.silent;
        }
        let Some(inbox) = self.open() else {
            return self.silent;
        };
        let owed = self.accepted.iter().flat_map(|(seq, new)| {
            new.upstreams
                .iter()
                .map(|upstream| (*seq, upstream.as_str().to_owned()))
        });
        let owed: BTreeSet<_> = owed.chain(self.sample.pending.iter().cloned()).collect();
        let mut taken = self.take(&inbox, &owed, true, GLANCE).await;
        let accepted = |delivery: &(i64, String)| self.accepted.contains_key(&delivery.0);
        let late: BTreeSet<_> = owed
            .difference(&taken)
            .filter(|delivery| accepted(delivery))
            .cloned()
            .collect();
        if !late.is_empty() {
            taken.extend(self.take(&inbox, &late, true, PATIENCE / 2).await);
        }
        let corrupt = dead_of(&inbox) > self.sample.dead;
        if self.failed_by_the_end(inbox).await {
            return self.silent;
        }
        self.tally.served += 1;
        for (seq, new) in &self.accepted {
            let there = new
                .upstreams
                .iter()
                .all(|upstream| taken.contains(&(*seq, upstream.as_str().to_owned())));
            if !there && !corrupt {
                eprintln!("accepted and gone: {}: {:?}", self.what, new.event.event_id);
                self.tally.lost += 1;
            }
        }
        self.silent
    }

    fn open(&mut self) -> Option<Arc<SqliteInbox>> {
        let clock = self.sample.clock.clone();
        let opened = catch_unwind(AssertUnwindSafe(|| open(&self.settings, clock, Telemetry::new())));
        match opened.unwrap_or_else(|_| panic!("{}: a panic", self.what)) {
            Ok(inbox) => {
                // As the gateway does: what damage parked goes on.
                inbox.set_targets(&UPSTREAMS.map(target));
                Some(inbox)
            }
            Err(error) => {
                let reason = match &error {
                    OpenError::Damaged { reason, .. } => reason.clone(),
                    OpenError::NewerFormat { .. } => "newer format".to_owned(),
                    other => panic!("{}: {other:?}", self.what),
                };
                self.tally.refused += 1;
                self.note(format!("refused: {reason}"));
                None
            }
        }
    }

    fn note(&mut self, reason: String) {
        // Without the numbers of pages, rows and cells.
        let reason: String = reason.chars().filter(|c| !c.is_ascii_digit()).take(70).collect();
        *self.tally.reasons.entry(reason).or_default() += 1;
    }

    /// Takes what is handed out, until all of `owed` came or nothing did for `patience`. Each is what it was.
    async fn take(
        &mut self,
        inbox: &SqliteInbox,
        owed: &BTreeSet<(i64, String)>,
        settles: bool,
        patience: Duration,
    ) -> BTreeSet<(i64, String)> {
        let mut taken = BTreeSet::new();
        for upstream in UPSTREAMS {
            let mut left = owed.iter().filter(|(_, name)| name == upstream).count();
            let there = inbox
                .counts()
                .targets
                .iter()
                .any(|(other, _)| *other == target(upstream));
            while left > 0 && there {
                let Ok(Ok(claimed)) = timeout(patience, inbox.claim(&target(upstream), 64)).await else {
                    break;
                };
                for job in claimed.jobs {
                    self.check(&job);
                    if settles {
                        delivered(inbox, &job);
                    }
                    let delivery = (job.event.seq.0, upstream.to_owned());
                    left -= usize::from(owed.contains(&delivery) && !taken.contains(&delivery));
                    taken.insert(delivery);
                }
            }
        }
        taken
    }

    fn check(&self, job: &Job) {
        let delivery = (job.event.seq.0, job.target.upstream.as_str().to_owned());
        if let Some(whole) = self.sample.whole.get(&delivery) {
            assert_eq!(seen(job), *whole, "altered: {}", self.what);
            return;
        }
        // Sent again by the trial; it may be kept even where the answer was an error.
        let got = &job.event.event;
        let sent = self.sent.iter().find(|new| {
            let sent = &new.event;
            new.upstreams.contains(&job.target.upstream)
                && (&got.headers, &got.body) == (&sent.headers, &sent.body)
                && format!("{got:?}{:?}{:?}", got.query, got.host)
                    == format!("{sent:?}{:?}{:?}", sent.query, sent.host)
        });
        assert!(
            sent.is_some(),
            "invented: {}: {} {:?}",
            self.what,
            delivery.0,
            seen(job)
        );
        if let (Some(sent), Some(new)) = (sent, self.accepted.get(&delivery.0)) {
            assert_eq!(
                sent.dedup_key, new.dedup_key,
                "{}: another event under number {}",
                self.what, delivery.0
            );
        }
    }

    /// Counts what did not come of what was pending, and demands that it is explained.
    async fn count_missing(&mut self, inbox: &SqliteInbox, mut taken: BTreeSet<(i64, String)>) {
        // Of a log that was cut off much is missing, and nobody need say so.
        let waits = [GLANCE, MOMENT * 4, PATIENCE / 4];
        for patience in waits.into_iter().take(if self.in_log { 2 } else { 3 }) {
            let missing: BTreeSet<_> = self.sample.pending.difference(&taken).cloned().collect();
            if missing.is_empty() || self.explained(inbox, missing.len()).await {
                break;
            }
            // Only slow, perhaps.
            taken.extend(self.take(inbox, &missing, false, patience).await);
        }
        let missing: BTreeSet<_> = self.sample.pending.difference(&taken).cloned().collect();
        self.tally.whole += self.sample.pending.len() - missing.len();
        let corrupt = self.corrupt(inbox).min(missing.len());
        self.tally.corrupt += corrupt;
        if self.keeps_damaged_log() || self.is_parked(inbox) {
            self.tally.elsewhere += missing.len() - corrupt;
        } else if missing.len() > corrupt && !matches!(inbox.health(), Health::Failed(_)) {
            // An event that is told of as corrupt may not know all of its upstreams any more.
            let told = self.corrupt_events();
            let silent = missing.into_iter().filter(|(seq, _)| !told.contains(seq));
            let silent: BTreeSet<_> = silent.collect();
            if !silent.is_empty() {
                eprintln!("not handed out: {}: {silent:?}", self.what);
            }
            self.tally.silent += silent.len();
            self.silent.extend(silent);
        }
    }

    /// Whether somebody was told of what is missing.
    async fn explained(&self, inbox: &SqliteInbox, missing: usize) -> bool {
        // What is corrupt is written with the next commit.
        let told = timeout(GLANCE * 4, async {
            while self.corrupt(inbox) < missing && !matches!(inbox.health(), Health::Failed(_)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        told.await.is_ok() || self.keeps_damaged_log() || self.is_parked(inbox)
    }

    fn corrupt(&self, inbox: &SqliteInbox) -> usize {
        usize::try_from(dead_of(inbox).saturating_sub(self.sample.dead)).unwrap_or(0)
    }

    /// Events with a dead letter that says so; none where the store cannot be read.
    fn corrupt_events(&self) -> BTreeSet<i64> {
        let read = || -> rusqlite::Result<BTreeSet<i64>> {
            let sql = Connection::open(self.settings.path.join("inbox.db"))?;
            let mut select =
                sql.prepare("SELECT seq FROM delivery WHERE status = 2 AND last_error LIKE 'corrupt%'")?;
            let found = select.query_map([], |row| row.get(0))?;
            found.collect()
        };
        read().unwrap_or_default()
    }

    /// Whether something waits for a name that damage made.
    fn is_parked(&self, inbox: &SqliteInbox) -> bool {
        let configured = UPSTREAMS.map(target);
        inbox
            .counts()
            .targets
            .iter()
            .any(|(other, counts)| counts.pending > 0 && !configured.contains(other))
    }

    fn keeps_damaged_log(&self) -> bool {
        let files = std::fs::read_dir(&self.settings.path).unwrap();
        files
            .flatten()
            .any(|file| file.file_name().to_string_lossy().contains(".damaged-"))
    }

    async fn accept_copies(&mut self, inbox: &SqliteInbox) {
        let new = (0..2).map(|n| event(inbox, &*self.sample.clock, &format!("evt_new_{n}"), "new"));
        let all: Vec<NewEvent> = self.sample.accepted.iter().cloned().chain(new).collect();
        self.sent.clone_from(&all);
        for new in all {
            let answer = timeout(PATIENCE, inbox.accept(new.clone())).await;
            let answer = answer.unwrap_or_else(|_| panic!("{}: no answer", self.what));
            if let Ok(Accepted::New(seq)) = answer {
                self.tally.accepted += 1;
                self.accepted.insert(seq.0, new);
            }
        }
    }

    /// Lets go of it; true if it failed, with a reason.
    async fn failed_by_the_end(&mut self, inbox: Arc<SqliteInbox>) -> bool {
        let held = inbox.clone();
        let closed = timeout(PATIENCE, held.close()).await;
        assert!(closed.is_ok(), "{}: does not close", self.what);
        drop(held);
        let Health::Failed(reason) = inbox.health() else {
            return false;
        };
        assert!(!reason.contains("panicked"), "{}: {reason}", self.what);
        self.tally.failed += 1;
        self.note(format!("failed: {reason}"));
        true
    }
}

fn dead_of(inbox: &SqliteInbox) -> u64 {
    inbox.counts().targets.iter().map(|(_, counts)| counts.dead).sum()
}

/// Ends all trials once one of them has failed.
struct Watch<'a>(&'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Damages stores, each a copy of one sample.
pub(super) struct Bench {
    runtime: Runtime,
    pub(super) sample: Sample,
    tally: Tally,
}

impl Bench {
    pub(super) fn new(ballast: usize, end: End) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            sample: runtime.block_on(Sample::make(ballast, end)),
            runtime,
            tally: Tally::default(),
        }
    }

    /// Damages the database in each of these ways; `judge` is told what is missing with nothing said.
    pub(super) fn damage_db(
        &mut self,
        damages: impl Iterator<Item = Damage> + Send,
        judge: impl Fn(&Damage, &Silent) + Sync,
    ) {
        let apply = |damage: &Damage, files: &mut Files| damage.apply(&mut files.db, PAGE);
        self.try_all("database", damages, apply, judge);
    }

    /// The same with the log.
    pub(super) fn damage_log(
        &mut self,
        damages: impl Iterator<Item = Damage> + Send,
        judge: impl Fn(&Damage, &Silent) + Sync,
    ) {
        let apply = |damage: &Damage, files: &mut Files| damage.apply(&mut files.log, FRAME);
        self.try_all(LOG, damages, apply, judge);
    }

    /// The same with the newest file of bodies; one that is cut to nothing is gone.
    pub(super) fn damage_bodies(
        &mut self,
        damages: impl Iterator<Item = Damage> + Send,
        judge: impl Fn(&Damage, &Silent) + Sync,
    ) {
        let apply = |damage: &Damage, files: &mut Files| {
            let newest = files.bodies.values_mut().next_back();
            newest.into_iter().for_each(|bytes| damage.apply(bytes, SECTOR));
            files.bodies.retain(|_, bytes| !bytes.is_empty());
        };
        let place = match self.sample.end {
            End::WithoutRows => WITHOUT_ROWS,
            End::Closed | End::Logged => "bodies",
        };
        self.try_all(place, damages, apply, judge);
    }

    fn try_all(
        &mut self,
        place: &str,
        damages: impl Iterator<Item = Damage> + Send,
        apply: impl Fn(&Damage, &mut Files) + Sync,
        judge: impl Fn(&Damage, &Silent) + Sync,
    ) {
        let damages = Mutex::new(damages);
        let failed = AtomicBool::new(false);
        let next = || {
            let next = damages.lock().unwrap().next();
            next.filter(|_| !failed.load(Ordering::Relaxed))
        };
        let stand = || {
            let mut tally = Tally::default();
            let folder = scratch();
            let watch = Watch(&failed);
            while let Some(damage) = next() {
                let mut files = self.sample.files.clone();
                apply(&damage, &mut files);
                let trial = Trial {
                    sample: &self.sample,
                    what: format!("{place}: {damage:?}"),
                    in_log: [LOG, WITHOUT_ROWS].contains(&place),
                    settings: files.place(folder.path()),
                    sent: Vec::new(),
                    accepted: BTreeMap::new(),
                    silent: BTreeSet::new(),
                    tally: &mut tally,
                };
                judge(&damage, &self.runtime.block_on(trial.run()));
            }
            drop(watch);
            tally
        };
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            // Each waits most of its time for what must not come.
            let stands: Vec<_> = (0..rounds(8, 24)).map(|_| scope.spawn(stand)).collect();
            stands
                .into_iter()
                .map(|stand| stand.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        for tally in tallies {
            self.tally.add(tally);
        }
    }

    pub(super) fn finish(self, rig: &str) {
        proved(rig, &self.tally);
        for (reason, count) in &self.tally.reasons {
            eprintln!("{count:>8}  {reason}");
        }
        assert_eq!(self.tally.lost, 0);
    }
}
