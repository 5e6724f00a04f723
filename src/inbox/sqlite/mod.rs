//! The embedded store: SQLite in WAL mode with synced group commits.
//!
//! `open` (`place`, `connect`, `log`, `upgrade`, `recover`, `recount`) finds everything that can be wrong; `committer` is the
//! one thread that writes (`transaction`, `accept`, `replay`, `prune`): events as a `record` in `segments` first and as rows
//! later (`unindexed`, `ahead`), with recent dedup keys in `keys`;
//! `lane` holds what is in memory of one target; `load` reads events back, and `seal` tells whether they are what was kept.

mod accept;
mod ahead;
mod bodies;
mod committer;
mod conflict;
mod connect;
mod effects;
#[cfg(any(test, fuzzing))]
mod in_memory;
mod jumps;
mod kept_keys;
mod key_filter;
mod keys;
mod lane;
mod load;
mod log;
mod marks;
mod names;
mod number_map;
mod open;
mod place;
mod prune;
mod record;
mod recount;
mod recover;
mod replay;
mod row;
mod schema;
mod seal;
mod segments;
mod sorted_keys;
mod state;
mod syncer;
mod transaction;
mod unindexed;
mod upgrade;
mod upkeep;

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use self::committer::{BATCH_EVENTS, Committer, Incoming, Message, SETTLES_FLUSH};
use self::lane::{Lane, Lease, Next, Reading};
use self::state::{Parking, Replay, Settle, Shared};
use super::{
    Acceptance, Claim, Counts, Health, Inbox, InboxError, Job, NewEvent, Outcome, ProxyMark, Replayed,
    Selection, Settlement, TargetCounts,
};
use crate::event::{DedupHashKey, Target, Timestamp};

pub(super) use bodies::Bodies;
#[cfg(any(test, fuzzing))]
pub use in_memory::{Cell, Read, Rows};
pub use open::{OpenError, open};
pub(super) use place::DB_FILE;
pub(super) use recover::{has_rows, without_rows};
pub(super) use schema::{FORMAT, flag, state as event_state, status as delivery_status};
pub(super) use seal::{Head, blob, names as seal_of_names, readable};
pub(super) use state::open_reader;

/// The SQLite store. Dropping it without [`Inbox::close`] ends its thread after what is queued.
#[derive(Debug)]
pub struct SqliteInbox {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteInbox {
    fn start(shared: Arc<Shared>, committer: Committer) -> std::io::Result<Arc<Self>> {
        // Room for every event that is admitted, and for one wake-up more than can be under way.
        let (queue, receiver) = crossbeam_channel::bounded(shared.settings.queue_events_max + 4);
        let thread = std::thread::Builder::new().name("inbox".to_owned()).spawn({
            let shared = shared.clone();
            move || {
                let run = std::panic::AssertUnwindSafe(|| committer.run(&receiver));
                if std::panic::catch_unwind(run).is_err() {
                    shared.set_failed("the committer panicked");
                    committer::refuse_queued(&receiver, &shared, &shared.failure());
                    shared.closed.send_replace(true);
                }
            }
        })?;
        Ok(Arc::new(Self {
            shared,
            queue,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Tells the committer to look at the control queue.
    fn wake(&self) {
        if !self.shared.woken.swap(true, Ordering::AcqRel) {
            // A full queue means that it is awake, and looks at the control queue with every batch.
            if self.queue.try_send(Message::Wake).is_err() {
                self.shared.woken.store(false, Ordering::Release);
            }
        }
    }

    /// Takes a place in the queue, unless it is full or the answer would come too late. A full store is no hindrance:
    /// what comes may be a repeat, which needs no room.
    fn admit(&self, bytes: usize) -> Result<(), InboxError> {
        let (figures, settings) = (&self.shared.figures, &self.shared.settings);
        let events = figures.queued_events.fetch_add(1, Ordering::Relaxed);
        let queued = figures.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Either the thread that ends sees the place taken and answers, or the end is seen here.
        fence(Ordering::SeqCst);
        self.shared.open().inspect_err(|_| self.leave(bytes))?;
        // An empty queue always takes one, or a slow commit once would refuse everything for ever.
        let batches = (events / BATCH_EVENTS) as u64 + 1;
        let expected = Duration::from_micros(
            figures
                .commit_micros
                .load(Ordering::Relaxed)
                .saturating_mul(batches),
        );
        let late = events > 0 && expected > settings.accept_wait_max;
        let over =
            events >= settings.queue_events_max || (queued > 0 && queued + bytes > settings.queue_bytes_max);
        if late || over {
            self.leave(bytes);
            return Err(InboxError::Busy);
        }
        Ok(())
    }

    fn leave(&self, bytes: usize) {
        self.shared.figures.queued_events.fetch_sub(1, Ordering::Relaxed);
        self.shared
            .figures
            .queued_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
    }

    fn settle_lease(
        &self,
        lane: Arc<Lane>,
        lease: Lease,
        done: Option<i64>,
        attempts: u32,
        outcome: Outcome,
    ) {
        let event = &lease.event.event;
        let settle = Settle {
            seq: lease.event.seq.0,
            members: lease.members,
            has_row: lease.has_row,
            done,
            bytes: row::weight(event.headers.len(), event.body.len()),
            received_at: event.received_at.0,
            attempts,
            outcome,
            lane,
        };
        self.shared.figures.unsettled.fetch_add(1, Ordering::Relaxed);
        let mut control = self.shared.control();
        control.settles.push_back(settle);
        control.settles_since.get_or_insert_with(Instant::now);
        let count = control.settles.len();
        drop(control);
        if count == 1 || count == SETTLES_FLUSH {
            self.wake();
        }
    }

    /// Does the reading a claim asked for.
    async fn read(&self, lane: &Arc<Lane>, reading: Reading, max: usize) -> Result<Vec<Job>, InboxError> {
        let shared = self.shared.clone();
        let (id, look) = (lane.id, reading.look.clone());
        let found = tokio::task::spawn_blocking(move || {
            let now = shared.steady.now();
            shared.read(|conn| load::look(conn, &shared, id, &look, now))
        })
        .await;
        match found {
            Ok(Ok(found)) => {
                let (jobs, corrupt) = reading.finish(found, max, self.shared.ages());
                for (lease, done) in corrupt {
                    self.shared.telemetry.corrupt(lease.event.seq);
                    let error = "corrupt: what is kept is not what was received any more".into();
                    self.settle_lease(
                        lane.clone(),
                        lease,
                        done,
                        0,
                        Outcome::Dead { status: None, error },
                    );
                }
                Ok(jobs)
            }
            Ok(Err(error)) => {
                drop(reading);
                self.read_failed(&error).await
            }
            Err(_) => Err(InboxError::Closed),
        }
    }

    /// A reader that had to wait too long tries again; anything else is final.
    async fn read_failed(&self, error: &rusqlite::Error) -> Result<Vec<Job>, InboxError> {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, OutOfMemory};
        // Also when descriptors or memory are short.
        let passing = [CannotOpen, DatabaseBusy, DatabaseLocked, OutOfMemory];
        if error
            .sqlite_error_code()
            .is_some_and(|code| passing.contains(&code))
        {
            tokio::time::sleep(READ_RETRY_WAIT).await;
            return Ok(Vec::new());
        }
        self.shared.set_failed(&transaction::reason(error));
        self.wake();
        Err(self.shared.failure())
    }
}

/// Between two tries of a reader that found the store locked.
const READ_RETRY_WAIT: Duration = Duration::from_millis(100);
/// Settlements that may wait for a commit; with more of them, as on a full disk, nothing further is handed out: it would
/// be sent without a trace, and again after a restart.
const UNSETTLED_MAX: usize = 8 * 1024;
/// Between two looks whether they were committed.
const UNSETTLED_WAIT: Duration = Duration::from_millis(50);

#[async_trait]
impl Inbox for SqliteInbox {
    fn accept(&self, event: NewEvent) -> Acceptance {
        let bytes = event.event.headers.len() + event.event.body.len() + 512;
        if let Err(error) = self.admit(bytes) {
            return Acceptance::refused(error);
        }
        let (answer, acceptance) = Acceptance::waiting();
        let incoming = Incoming {
            new: event,
            bytes,
            answer,
        };
        match self.queue.try_send(Message::Accept(incoming)) {
            Ok(()) => acceptance,
            Err(_) => {
                self.leave(bytes);
                Acceptance::refused(self.shared.open().err().unwrap_or(InboxError::Busy))
            }
        }
    }

    async fn claim(&self, target: &Target, max: usize) -> Result<Claim, InboxError> {
        let lane = self.shared.names.lane(target);
        loop {
            let woken = lane.notify.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            self.shared.open()?;
            if self.shared.figures.unsettled.load(Ordering::Relaxed) >= UNSETTLED_MAX {
                tokio::time::sleep(UNSETTLED_WAIT).await;
                continue;
            }
            let indexed_to = self.shared.indexed_to.load(Ordering::Acquire);
            let until = match lane.next(max, self.shared.ages(), indexed_to) {
                Next::Jobs(jobs) => return Ok(Claim { jobs }),
                Next::Read(reading) => {
                    let jobs = self.read(&lane, reading, max).await?;
                    if !jobs.is_empty() {
                        return Ok(Claim { jobs });
                    }
                    continue;
                }
                Next::Wait(until) => until,
            };
            match until {
                Some(due) => {
                    let wait = due.saturating_sub(self.shared.steady.now()).max(1);
                    let wait = Duration::from_millis(wait.cast_unsigned());
                    // Woken or due: look again either way.
                    drop(tokio::time::timeout(wait, woken).await);
                }
                None => woken.await,
            }
        }
    }

    fn settle(&self, settlement: Settlement) {
        let Some(lane) = self.shared.names.known_lane(&settlement.target) else {
            return;
        };
        if settlement.outcome == Outcome::Released {
            lane.release(settlement.seq, self.shared.steady.now());
        } else if let Some(lease) = lane.settle(settlement.seq) {
            self.settle_lease(lane, lease, None, settlement.attempts, settlement.outcome);
        }
    }

    async fn replay(&self, selection: Selection) -> Result<Replayed, InboxError> {
        self.shared.open()?;
        let (answer, receiver) = oneshot::channel();
        let replay = Replay {
            selection,
            answer,
            done: Replayed::default(),
            cursor: 0,
            last: None,
        };
        self.shared.control().replays.push_back(replay);
        self.wake();
        receiver.await.unwrap_or(Err(InboxError::Closed))
    }

    fn set_targets(&self, targets: &[Target]) {
        let now = self.shared.steady.now();
        let (parked, resumed) = self.shared.names.set_active(targets);
        let mut changes = Vec::new();
        for (lanes, parked) in [(parked, true), (resumed, false)] {
            for lane in lanes {
                if !parked {
                    lane.lock().resumed_at = now;
                }
                lane.set_parked(parked);
                changes.push(Parking {
                    lane,
                    parked,
                    at: now,
                });
            }
        }
        if !changes.is_empty() {
            self.shared.control().parkings.extend(changes);
            self.wake();
        }
    }

    fn mark(&self, mark: ProxyMark) {
        let is_due = self.shared.control().push_mark(mark);
        if is_due {
            self.wake();
        }
    }

    fn marks(&self) -> Vec<ProxyMark> {
        let now = self.shared.clock.now().0;
        // Marks are a convenience: without them a repeat is forwarded once more.
        self.shared
            .read(|conn| marks::load(conn, now))
            .unwrap_or_default()
    }

    fn hash_key(&self) -> DedupHashKey {
        self.shared.hash_key
    }

    fn counts(&self) -> Counts {
        let figures = &self.shared.figures;
        let positive = |number: i64| number.max(0).cast_unsigned();
        let targets = self.shared.names.lanes().into_iter().map(|lane| {
            let pending = positive(lane.pending.load(Ordering::Relaxed));
            let oldest = lane.oldest.load(Ordering::Relaxed);
            let counts = TargetCounts {
                pending,
                dead: positive(lane.dead.load(Ordering::Relaxed)),
                oldest_pending: (pending > 0 && oldest != i64::MAX).then_some(Timestamp(oldest)),
                parked: lane.lock().parked,
            };
            (lane.target.clone(), counts)
        });
        let mut targets: Vec<_> = targets.collect();
        targets.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Counts {
            targets,
            events: positive(figures.events.load(Ordering::Relaxed)),
            store_bytes: figures.store_bytes.load(Ordering::Relaxed),
            wal_bytes: figures.wal_bytes.load(Ordering::Relaxed),
            free_bytes: figures.free_bytes.load(Ordering::Relaxed),
            queued: figures.queued_events.load(Ordering::Relaxed),
        }
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    async fn failed(&self) -> Arc<str> {
        let mut failed = self.shared.failed.subscribe();
        let reason = failed
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The sender lives as long as we do; without it nothing can fail any more.
            None => std::future::pending().await,
        }
    }

    async fn close(&self) {
        self.shared.set_closing();
        self.shared.control().close = true;
        self.wake();
        let mut closed = self.shared.closed.subscribe();
        // An error means that the other side is gone, which is what is waited for.
        drop(closed.wait_for(|closed| *closed).await);
    }
}

impl Drop for SqliteInbox {
    fn drop(&mut self) {
        self.shared.set_closing();
        self.shared.control().close = true;
        // Blocks while the queue is full; the thread empties it.
        drop(self.queue.send(Message::Wake));
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It was told to end; a panic in it has said so itself.
            drop(thread.join());
        }
    }
}
