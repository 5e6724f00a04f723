//! What the committer shares with the callers: health, figures, names, and the settlements on their way.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{oneshot, watch};

use super::bodies::Bodies;
use super::jumps::{Ages, Jumps};
use super::lane::Lane;
use super::names::Names;
use super::place::Known;
use super::schema;
use crate::clock::Clock;
use crate::event::{DedupHashKey, RouteName};
use crate::inbox::{Health, InboxError, Outcome, ProxyMark, Replayed, Selection, Settings};
use crate::telemetry::Telemetry;

/// Read connections kept open.
const READERS_KEPT: usize = 4;
/// Marks of proxied requests waiting to be written; more are forgotten.
pub(super) const MARKS_MAX: usize = 65_536;
/// So many are written at once, fewer with the next tick.
pub(super) const MARKS_FLUSH: usize = 16_384;

/// Shared by callers, claims and the committer.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) db: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) steady: Steady,
    pub(super) jumps: Jumps,
    pub(super) telemetry: Telemetry,
    pub(super) names: Names,
    pub(super) bodies: Bodies,
    pub(super) store_id: [u8; 16],
    pub(super) hash_key: DedupHashKey,
    pub(super) figures: Figures,
    /// Every event below this number has its row.
    pub(super) indexed_to: AtomicI64,
    pub(super) control: Mutex<Control>,
    /// A wake-up is on its way to the committer.
    pub(super) woken: AtomicBool,
    phase: AtomicU8,
    reason: OnceLock<Arc<str>>,
    pub(super) failed: watch::Sender<Option<Arc<str>>>,
    pub(super) closed: watch::Sender<bool>,
    readers: Mutex<Vec<Connection>>,
    /// Shared by whoever reads the store: what rows of before name stays as long.
    pub(super) reading: RwLock<()>,
    /// Held while the store is ours.
    pub(super) lock: Mutex<Option<File>>,
    /// The database and its log.
    files: [Known; 2],
}

/// Figures for metrics and for the gate.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) queued_events: AtomicUsize,
    pub(super) queued_bytes: AtomicUsize,
    /// Settlements that are not committed yet.
    pub(super) unsettled: AtomicUsize,
    /// Expected microseconds of a commit.
    pub(super) commit_micros: AtomicU64,
    pub(super) events: AtomicI64,
    pub(super) store_bytes: AtomicU64,
    pub(super) wal_bytes: AtomicU64,
    pub(super) free_bytes: AtomicU64,
    /// What the store may take on this volume now: at most `bytes_max`.
    pub(super) limit_bytes: AtomicU64,
}

/// What waits for the committer besides events.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Bounded by what `claim` hands out while they wait.
    pub(super) settles: VecDeque<Settle>,
    pub(super) settles_since: Option<Instant>,
    pub(super) replays: VecDeque<Replay>,
    pub(super) parkings: Vec<Parking>,
    pub(super) marks: Vec<ProxyMark>,
    pub(super) close: bool,
}

/// A settlement whose lease was found.
#[derive(Debug)]
pub(super) struct Settle {
    pub(super) lane: Arc<Lane>,
    pub(super) seq: i64,
    pub(super) members: usize,
    pub(super) has_row: bool,
    /// The status of a delivery that was done with, and is settled once more since its event is damaged.
    pub(super) done: Option<i64>,
    pub(super) bytes: i64,
    pub(super) received_at: i64,
    pub(super) attempts: u32,
    pub(super) outcome: Outcome,
}

/// A replay under way, in slices.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) selection: Selection,
    pub(super) answer: oneshot::Sender<Result<Replayed, InboxError>>,
    pub(super) done: Replayed,
    /// The next event to look at.
    pub(super) cursor: i64,
    /// The last one, fixed when it begins.
    pub(super) last: Option<i64>,
}

/// A lane was parked or resumed.
#[derive(Debug, Clone)]
pub(super) struct Parking {
    pub(super) lane: Arc<Lane>,
    pub(super) parked: bool,
    pub(super) at: i64,
}

/// Wall time at start plus monotonic time since: never jumps while the process lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steady {
    base: i64,
    start: Instant,
}

impl Steady {
    pub(super) fn starting_at(base: i64) -> Self {
        Self {
            base,
            start: Instant::now(),
        }
    }

    /// Milliseconds.
    pub(super) fn now(&self) -> i64 {
        self.base
            .saturating_add(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

const ACCEPTING: u8 = 0;
const FULL: u8 = 1;
const CLOSING: u8 = 2;
const FAILED: u8 = 3;

/// What [`Shared::new`] needs that was read from the store.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) db: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) telemetry: Telemetry,
    pub(super) names: Names,
    pub(super) store_id: [u8; 16],
    pub(super) hash_key: [u8; 16],
    /// When the store was last known to be in use.
    pub(super) alive_at: Option<i64>,
    /// When the wall clock last jumped.
    pub(super) jumped_at: Option<i64>,
    pub(super) lock: File,
    /// The database and its log.
    pub(super) files: [Known; 2],
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let figures = Figures {
            // Until it is measured.
            limit_bytes: AtomicU64::new(parts.settings.bytes_max),
            ..Figures::default()
        };
        let now = parts.clock.now().0;
        let jumps = Jumps::starting(now, parts.alive_at, parts.jumped_at);
        Self {
            steady: Steady::starting_at(now),
            jumps,
            bodies: Bodies::new(&parts.settings.path),
            settings: parts.settings,
            db: parts.db,
            clock: parts.clock,
            telemetry: parts.telemetry,
            names: parts.names,
            store_id: parts.store_id,
            hash_key: DedupHashKey(parts.hash_key),
            figures,
            indexed_to: AtomicI64::new(0),
            control: Mutex::default(),
            woken: AtomicBool::new(false),
            phase: AtomicU8::new(ACCEPTING),
            reason: OnceLock::new(),
            failed: watch::Sender::new(None),
            closed: watch::Sender::new(false),
            readers: Mutex::default(),
            reading: RwLock::default(),
            lock: Mutex::new(Some(parts.lock)),
            files: parts.files,
        }
    }

    /// What ages are counted by.
    pub(super) fn ages(&self) -> Ages {
        Ages {
            now: self.steady.now(),
            from: self.jumps.last(),
        }
    }

    /// Whether an event may enter.
    pub(super) fn gate(&self) -> Result<(), InboxError> {
        match self.phase.load(Ordering::Acquire) {
            ACCEPTING => Ok(()),
            FULL => Err(InboxError::Full),
            CLOSING => Err(InboxError::Closed),
            _ => Err(self.failure()),
        }
    }

    /// Whether the store can be used at all.
    pub(super) fn open(&self) -> Result<(), InboxError> {
        match self.gate() {
            Err(InboxError::Full) => Ok(()),
            other => other,
        }
    }

    pub(super) fn health(&self) -> Health {
        match self.phase.load(Ordering::Acquire) {
            FULL => Health::Full,
            FAILED => Health::Failed(self.reason.get().cloned().unwrap_or_else(|| "unknown".into())),
            _ => Health::Accepting,
        }
    }

    pub(super) fn failure(&self) -> InboxError {
        InboxError::Failed(self.reason.get().cloned().unwrap_or_else(|| "unknown".into()))
    }

    /// Whether only repeats may enter.
    pub(super) fn is_full(&self) -> bool {
        self.phase.load(Ordering::Acquire) == FULL
    }

    /// Turns `Full` on or off; nothing else is touched.
    pub(super) fn set_full(&self, full: bool) {
        let (from, to) = if full {
            (ACCEPTING, FULL)
        } else {
            (FULL, ACCEPTING)
        };
        if self
            .phase
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.telemetry.store_full(full);
        }
    }

    /// From now on callers get `Closed`.
    pub(super) fn set_closing(&self) {
        if self.phase.fetch_max(CLOSING, Ordering::AcqRel) < CLOSING {
            self.wake_claims();
        }
    }

    /// Final: every caller gets `Failed` from now on.
    pub(super) fn set_failed(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        if self.reason.set(reason.clone()).is_ok() {
            self.phase.store(FAILED, Ordering::Release);
            self.telemetry.store_failed(&reason);
            self.failed.send_replace(Some(reason));
            self.wake_claims();
        }
    }

    fn wake_claims(&self) {
        for lane in self.names.lanes() {
            lane.notify.notify_waiters();
        }
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on a connection that cannot write.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match kept {
            Some(conn) => conn,
            None => open_reader(&self.db)?,
        };
        let reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        let found = read(&conn)?;
        drop(reading);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT {
            readers.push(conn);
        }
        Ok(found)
    }

    /// Whether what was just synced is on the volume and in the store.
    ///
    /// When ext4 is shut down under a running system (`FS_IOC_SHUTDOWN`), an `fdatasync` that is under way now and then
    /// reports success for what never reached the disk (seen on Linux 6.18). Every read that begins after the shutdown
    /// fails, so a read after the sync tells. And what was synced to a log that somebody removed is gone with us. Both
    /// looks together cost a few microseconds.
    pub(super) fn check_volume(&self) -> Result<(), String> {
        let read = match &*self.lock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.read_at(&mut [0], 0).map(drop),
            None => Ok(()),
        };
        read.map_err(|error| format!("the volume went away during a sync: {error}"))?;
        let [_, log] = &self.files;
        log.check()
    }

    /// Whether the store's files are still those that were opened.
    pub(super) fn check_files(&self) -> Result<(), String> {
        self.files.iter().try_for_each(Known::check)
    }

    /// The name of the route with this number.
    pub(super) fn route_name(&self, id: i64) -> RouteName {
        self.names
            .route_by_id(id)
            .map_or_else(|| RouteName::new(""), |route| route.name.clone())
    }
}

impl Control {
    /// Whether there are now so many that they are to be written.
    pub(super) fn push_mark(&mut self, mark: ProxyMark) -> bool {
        if self.marks.len() < MARKS_MAX {
            self.marks.push(mark);
        }
        self.marks.len() == MARKS_FLUSH
    }
}

/// A connection that only reads.
pub(in crate::inbox) fn open_reader(db: &std::path::Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        db,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    schema::set_up_reader(&conn)?;
    Ok(conn)
}
