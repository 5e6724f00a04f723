//! What is in memory of one target: fresh events handed over by the committer, leases, and where the rest is found.
//!
//! Deliveries wait in one of three places. *Fresh*: in `fresh`, handed over right after the commit. *Backlog*: open
//! events without a delivery row from `backlog_from` on, found by scanning the store. *Rows*: deliveries that were tried
//! or replayed, found by their due time. While there is a backlog the committer hands nothing over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::jumps::Ages;
use super::number_map::NumberMap;
use crate::event::{KeptEvent, Seq, Target};
use crate::inbox::Job;

/// Fresh events of one target in memory.
const FRESH_EVENTS_MAX: usize = 1024;
/// Their bytes.
const FRESH_BYTES_MAX: usize = 16 << 20;
/// Bytes of fresh events of all targets.
const ALL_FRESH_BYTES_MAX: usize = 64 << 20;
/// No delivery row is waiting.
const NEVER: i64 = i64::MAX;

/// One target.
#[derive(Debug)]
pub(super) struct Lane {
    /// Its number in the store.
    pub(super) id: i64,
    /// Its names.
    pub(super) target: Target,
    /// The number of its route.
    pub(super) route: i64,
    /// Its row is committed.
    pub(super) stored: AtomicBool,
    /// Deliveries waiting.
    pub(super) pending: AtomicI64,
    /// Deliveries given up.
    pub(super) dead: AtomicI64,
    /// When the oldest pending one was received; `i64::MAX` when unknown.
    pub(super) oldest: AtomicI64,
    /// Wakes claims.
    pub(super) notify: Notify,
    all_fresh_bytes: Arc<AtomicUsize>,
    state: Mutex<LaneState>,
}

/// What the mutex guards.
#[derive(Debug, Default)]
pub(super) struct LaneState {
    /// Not in the configuration.
    pub(super) parked: bool,
    /// When it last came back, in steady time.
    pub(super) resumed_at: i64,
    /// The upstream sets it is a member of, with their sizes.
    pub(super) sets: Vec<(i64, usize)>,
    /// The oldest pending delivery is looked for from here.
    pub(super) oldest_from: i64,
    fresh: VecDeque<Fresh>,
    fresh_bytes: usize,
    backlog_from: Option<i64>,
    /// The last event that was not handed over because of the backlog.
    skipped: i64,
    /// Those of them that have no row yet, as far as there is room: all from number `recent_from` on. Without them a scan would
    /// always be behind while events come.
    recent: VecDeque<Fresh>,
    recent_from: i64,
    /// Counts what makes a scan that is under way begin anew.
    epoch: u64,
    /// Everything below was found by a scan.
    scanned_to: i64,
    /// A lower bound of the due times of rows that are not leased.
    next_due: Option<i64>,
    /// `None`: it was settled, and the commit is to come.
    leases: NumberMap<Option<Lease>>,
    /// A claim is reading the store: leases that ended since it began, which its snapshot may show as waiting.
    reading: Option<Vec<i64>>,
}

/// An event that waits for its first attempt.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) event: Arc<KeptEvent>,
    /// Upstreams of the event.
    pub(super) members: usize,
}

/// A delivery that was given out.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) event: Arc<KeptEvent>,
    pub(super) members: usize,
    /// There is a delivery row.
    pub(super) has_row: bool,
}

/// A delivery row that is due, loaded.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) fresh: Fresh,
    pub(super) attempts: u32,
    pub(super) age_from: i64,
}

/// What a claim does next.
#[derive(Debug)]
pub(super) enum Next {
    /// These were leased.
    Jobs(Vec<Job>),
    /// Read the store, then call [`Reading::finish`].
    Read(Reading),
    /// Wait to be woken, at most until this due time.
    Wait(Option<i64>),
}

/// What to look for in the store.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// Rows due now, at most this many; 0: none.
    pub(super) rows: usize,
    /// Open events from here on; `None`: none.
    pub(super) scan_from: Option<i64>,
    /// Sets to scan.
    pub(super) sets: Vec<(i64, usize)>,
    /// Of the lane, to see whether what was asked for still holds.
    pub(super) epoch: u64,
    /// Leased now: not to be loaded.
    pub(super) leased: Vec<i64>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Rows that are due.
    pub(super) rows: Vec<Row>,
    /// The earliest due time of the rows that are left, if there are any.
    pub(super) next_due: Option<i64>,
    /// Events of the backlog.
    pub(super) scanned: Vec<Fresh>,
    /// The scan goes on here.
    pub(super) scanned_to: i64,
    /// The scan met the end of what was committed.
    pub(super) exhausted: bool,
    /// Events that are not what they were.
    pub(super) corrupt: Vec<Corrupt>,
}

/// An event that is not what was kept.
#[derive(Debug)]
pub(super) struct Corrupt {
    pub(super) fresh: Fresh,
    /// The `delivery.status` of a delivery that was done with before the damage was met.
    pub(super) done: Option<i64>,
}

impl Lane {
    pub(super) fn new(id: i64, target: Target, route: i64, all_fresh_bytes: Arc<AtomicUsize>) -> Self {
        Self {
            id,
            target,
            route,
            stored: AtomicBool::new(false),
            pending: AtomicI64::new(0),
            dead: AtomicI64::new(0),
            oldest: AtomicI64::new(i64::MAX),
            notify: Notify::new(),
            all_fresh_bytes,
            state: Mutex::default(),
        }
    }

    /// The state; nothing that can panic runs under the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers events that were just committed.
    pub(super) fn offer<'e>(&self, events: impl Iterator<Item = &'e Arc<KeptEvent>>, members: usize) {
        let mut state = self.lock();
        for event in events {
            let seq = event.seq.0;
            let fresh = Fresh {
                event: event.clone(),
                members,
            };
            if state.backlog_from.is_some() {
                self.skip(&mut state, fresh);
            } else if seq >= state.scanned_to {
                if self.has_room(&state, weight(event)) {
                    self.push_back(&mut state, fresh);
                } else {
                    state.backlog_from = Some(seq);
                    state.recent_from = seq;
                    self.skip(&mut state, fresh);
                }
            }
        }
        drop(state);
        self.notify.notify_waiters();
    }

    /// Starts with what the store holds: open events from `backlog_from` on, rows due from `next_due` on.
    pub(super) fn start(&self, backlog_from: Option<i64>, next_due: Option<i64>) {
        let mut state = self.lock();
        state.backlog_from = backlog_from;
        state.next_due = next_due;
        state.oldest_from = 0;
    }

    /// Every event below a number has its row: a scan that waited for that can go on.
    pub(super) fn indexed(&self, indexed_to: i64) {
        let mut state = self.lock();
        if state.backlog_from.is_none() {
            return;
        }
        let has_row = |fresh: &Fresh| fresh.event.seq.0 < indexed_to;
        while state.recent.front().is_some_and(has_row) {
            if let Some(fresh) = state.recent.pop_front() {
                self.shrink(&mut state, weight(&fresh.event));
            }
        }
        state.recent_from = state.recent_from.max(indexed_to);
        drop(state);
        self.notify.notify_waiters();
    }

    /// A row waits for `due`.
    pub(super) fn due(&self, seq: i64, due: i64) {
        let mut state = self.lock();
        state.next_due = Some(state.next_due.unwrap_or(NEVER).min(due));
        state.oldest_from = state.oldest_from.min(seq);
        drop(state);
        self.notify.notify_waiters();
    }

    /// Leases up to `max`, or says what to do instead. Below `indexed_to` every event has its row.
    pub(super) fn next(self: &Arc<Self>, max: usize, ages: Ages, indexed_to: i64) -> Next {
        let mut state = self.lock();
        if state.parked || max == 0 {
            return Next::Wait(None);
        }
        let rows_due = state.next_due.is_some_and(|due| due <= ages.now);
        // What has no row yet is scanned once it has.
        let scan = state.fresh.is_empty() && state.backlog_from.is_some_and(|from| from < indexed_to);
        if state.reading.is_none() && (rows_due || scan) {
            let look = Look {
                rows: if rows_due { max } else { 0 },
                scan_from: state.backlog_from.filter(|_| scan),
                sets: state.sets.clone(),
                epoch: state.epoch,
                leased: state.leases.keys().copied().collect(),
            };
            if rows_due {
                state.next_due = None;
            }
            state.reading = Some(Vec::new());
            return Next::Read(Reading {
                lane: self.clone(),
                look,
                done: false,
            });
        }
        if state.fresh.is_empty() {
            return Next::Wait(state.next_due.filter(|_| state.reading.is_none()));
        }
        let mut jobs = Vec::with_capacity(max.min(state.fresh.len()));
        self.lease_fresh(&mut state, max, ages, &mut jobs);
        Next::Jobs(jobs)
    }

    /// Takes a lease to settle it, and lets go of its event; `None` if there is none, or it was settled before.
    pub(super) fn settle(&self, seq: Seq) -> Option<Lease> {
        self.lock().leases.get_mut(&seq.0)?.take()
    }

    /// Gives a lease back untouched.
    pub(super) fn release(&self, seq: Seq, steady_now: i64) {
        let mut state = self.lock();
        let Some(lease) = state.leases.get_mut(&seq.0).and_then(Option::take) else {
            return;
        };
        state.end_lease(seq.0);
        if lease.has_row {
            state.next_due = Some(state.next_due.unwrap_or(NEVER).min(steady_now));
        } else if state.parked {
            state.backlog_from = Some(state.backlog_from.unwrap_or(NEVER).min(seq.0));
            state.skipped = state.skipped.max(seq.0);
            state.recent_from = state.recent_from.max(seq.0.saturating_add(1));
            state.epoch += 1;
        } else {
            // Few and short: as many as can be leased at once.
            let place = state.fresh.partition_point(|other| other.event.seq < seq);
            self.grow(&mut state, weight(&lease.event));
            state.fresh.insert(
                place,
                Fresh {
                    event: lease.event,
                    members: lease.members,
                },
            );
        }
        drop(state);
        self.notify.notify_waiters();
    }

    /// The settlements of leases were committed, each with when its row is due, if one waits.
    pub(super) fn settled(&self, leases: impl Iterator<Item = (i64, Option<i64>)>) {
        let mut state = self.lock();
        let mut waits = false;
        for (seq, due) in leases {
            state.end_lease(seq);
            if let Some(due) = due {
                state.next_due = Some(state.next_due.unwrap_or(NEVER).min(due));
                waits = true;
            }
        }
        drop(state);
        if waits {
            self.notify.notify_waiters();
        }
    }

    /// Parks the lane, or lets it go on. Parked events wait in the store only.
    pub(super) fn set_parked(&self, parked: bool) {
        let mut state = self.lock();
        state.parked = parked;
        if parked {
            if let (Some(first), Some(last)) = (state.fresh.front(), state.fresh.back()) {
                let (first, last) = (first.event.seq.0, last.event.seq.0);
                state.backlog_from = Some(state.backlog_from.unwrap_or(NEVER).min(first));
                // The last ones may have no row yet when the others are scanned.
                state.skipped = state.skipped.max(last);
            }
            let bytes = state.fresh_bytes;
            self.shrink(&mut state, bytes);
            state.fresh = VecDeque::new();
            state.recent = VecDeque::new();
            state.recent_from = state.recent_from.max(state.skipped.saturating_add(1));
            state.epoch += 1;
        }
        drop(state);
        self.notify.notify_waiters();
    }

    fn lease_fresh(&self, state: &mut LaneState, max: usize, ages: Ages, jobs: &mut Vec<Job>) {
        while jobs.len() < max {
            let Some(fresh) = state.fresh.pop_front() else {
                break;
            };
            self.shrink(state, weight(&fresh.event));
            let age_from = fresh.event.event.received_at.0;
            let age = state.age(age_from, ages);
            jobs.push(self.lease(state, fresh, 0, age, false));
        }
    }

    fn lease(&self, state: &mut LaneState, fresh: Fresh, attempts: u32, age: Duration, has_row: bool) -> Job {
        let Fresh { event, members } = fresh;
        state.leases.insert(
            event.seq.0,
            Some(Lease {
                event: event.clone(),
                members,
                has_row,
            }),
        );
        Job {
            event,
            target: self.target.clone(),
            attempts,
            age,
        }
    }

    fn has_room(&self, state: &LaneState, bytes: usize) -> bool {
        !state.parked
            && state.fresh.len() + state.recent.len() < FRESH_EVENTS_MAX
            && state.fresh_bytes + bytes <= FRESH_BYTES_MAX
            && self.all_fresh_bytes.load(Ordering::Relaxed) + bytes <= ALL_FRESH_BYTES_MAX
    }

    /// Leaves an event to the scan, or to the end of it.
    fn skip(&self, state: &mut LaneState, fresh: Fresh) {
        let (seq, bytes) = (fresh.event.seq.0, weight(&fresh.event));
        state.skipped = seq;
        if self.has_room(state, bytes) {
            self.grow(state, bytes);
            state.recent.push_back(fresh);
            return;
        }
        while let Some(fresh) = state.recent.pop_front() {
            self.shrink(state, weight(&fresh.event));
        }
        state.recent_from = seq.saturating_add(1);
    }

    /// Hands over what came since a scan that met all below a number.
    fn take_recent(&self, state: &mut LaneState, from: i64, ended: &[i64]) {
        while let Some(fresh) = state.recent.pop_front() {
            let seq = fresh.event.seq.0;
            if seq >= from && state.is_free(seq, ended) {
                state.fresh.push_back(fresh);
            } else {
                self.shrink(state, weight(&fresh.event));
            }
        }
    }

    fn push_back(&self, state: &mut LaneState, fresh: Fresh) {
        self.grow(state, weight(&fresh.event));
        state.fresh.push_back(fresh);
    }

    fn grow(&self, state: &mut LaneState, bytes: usize) {
        state.fresh_bytes += bytes;
        self.all_fresh_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&self, state: &mut LaneState, bytes: usize) {
        state.fresh_bytes = state.fresh_bytes.saturating_sub(bytes);
        self.all_fresh_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl LaneState {
    /// The age of a delivery that began at `from`: since the target came back and the clock jumped, at most.
    fn age(&self, from: i64, ages: Ages) -> Duration {
        let from = from.max(self.resumed_at).max(ages.from);
        Duration::from_millis(ages.now.saturating_sub(from).max(0).cast_unsigned())
    }

    fn end_lease(&mut self, seq: i64) {
        self.leases.remove(&seq);
        if let Some(ended) = &mut self.reading {
            ended.push(seq);
        }
    }
}

/// A claim that reads the store. Dropped without [`Reading::finish`], it leaves the lane as if it had not begun.
#[derive(Debug)]
pub(super) struct Reading {
    lane: Arc<Lane>,
    /// What to look for.
    pub(super) look: Look,
    done: bool,
}

impl Reading {
    /// Leases what was found, oldest first. Gives back what must be settled as corrupt, with the status of those that
    /// were done with.
    pub(super) fn finish(
        mut self,
        found: Found,
        max: usize,
        ages: Ages,
    ) -> (Vec<Job>, Vec<(Lease, Option<i64>)>) {
        self.done = true;
        let lane = self.lane.clone();
        let mut state = lane.lock();
        let ended = state.reading.take().unwrap_or_default();
        let mut jobs = Vec::new();
        let mut corrupt = Vec::new();
        if let Some(due) = found.next_due {
            state.next_due = Some(state.next_due.unwrap_or(NEVER).min(due));
        }
        if !state.parked {
            for row in found.rows {
                if state.is_free(row.fresh.event.seq.0, &ended) {
                    let age = state.age(row.age_from, ages);
                    jobs.push(lane.lease(&mut state, row.fresh, row.attempts, age, true));
                }
            }
            for Corrupt { fresh, done } in found.corrupt {
                let seq = fresh.event.seq;
                if state.is_free(seq.0, &ended) {
                    lane.lease(&mut state, fresh, 0, Duration::ZERO, false);
                    let lease = state.leases.get_mut(&seq.0).and_then(Option::take);
                    corrupt.extend(lease.map(|lease| (lease, done)));
                }
            }
            // `fresh` may have got released events meanwhile, all older than the scan.
            // A set that joined meanwhile was not scanned: begin again.
            let same = self.look.scan_from == state.backlog_from
                && self.look.sets.len() == state.sets.len()
                && self.look.epoch == state.epoch;
            if self.look.scan_from.is_some() && same {
                for fresh in found.scanned {
                    if state.is_free(fresh.event.seq.0, &ended) {
                        lane.push_back(&mut state, fresh);
                    }
                }
                state.scanned_to = state.scanned_to.max(found.scanned_to);
                // What came since is here, or nothing did.
                let all = state.skipped < found.scanned_to || state.recent_from <= found.scanned_to;
                let more = !(found.exhausted && all);
                if !more {
                    lane.take_recent(&mut state, found.scanned_to, &ended);
                }
                state.backlog_from = more.then_some(found.scanned_to);
            }
            lane.lease_fresh(&mut state, max, ages, &mut jobs);
        } else if self.look.rows > 0 {
            state.next_due = Some(0);
        }
        drop(state);
        lane.notify.notify_waiters();
        jobs.sort_unstable_by_key(|job| job.event.seq);
        (jobs, corrupt)
    }
}

impl LaneState {
    fn is_free(&self, seq: i64, ended: &[i64]) -> bool {
        !self.leases.contains_key(&seq) && !ended.contains(&seq)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.lane.lock();
        state.reading = None;
        if self.look.rows > 0 {
            state.next_due = Some(0);
        }
        drop(state);
        self.lane.notify.notify_waiters();
    }
}

/// What an event weighs in memory, about.
fn weight(event: &KeptEvent) -> usize {
    event.event.headers.len() + event.event.body.len() + 512
}
