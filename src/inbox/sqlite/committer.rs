//! The one thread that writes: takes what is queued, commits it in one synced transaction, answers, hands over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::accept::accept;
use super::load::open_events;
use super::place;
use super::prune::{Pruned, Pruner};
use super::replay;
use super::schema::{PAGE_BYTES, as_i64};
use super::state::{Parking, Replay, Settle, Shared};
use super::transaction::{Cache, Effects, Transaction, TxError};
use crate::inbox::{Accepted, InboxError, NewEvent, ProxyMark};

/// Events of one transaction.
pub(super) const BATCH_EVENTS: usize = 512;
/// Their bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Settlements that are committed at once when no event comes.
pub(super) const SETTLES_FLUSH: usize = 256;
/// Settlements of one transaction.
const SETTLES_MAX: usize = 2048;
/// Settlements wait at most this long for an event to ride with.
const SETTLE_WAIT: Duration = Duration::from_millis(50);
/// Space is measured, and figures are refreshed, this often.
const TICK: Duration = Duration::from_secs(1);
/// After a full disk or a held lock, what must be written is tried again this often.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Pages in the log before it is copied into the database.
const WAL_PAGES: u64 = 2000;
/// Kept free of events, for settlements and pruning.
const RESERVE_BYTES: u64 = 64 << 20;
/// Free pages given back to the volume per tick.
const VACUUM_PAGES: u64 = 1024;
/// Rows looked at per lane and tick for the oldest pending delivery.
const OLDEST_ROWS: usize = 512;

/// What callers send.
#[derive(Debug)]
pub(super) enum Message {
    /// An event to keep.
    Accept(Box<Incoming>),
    /// Look at the control queue.
    Wake,
}

/// An event and whom to tell.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) new: NewEvent,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Accepted, InboxError>>,
}

/// The state of the thread.
pub(super) struct Committer {
    conn: Connection,
    shared: Arc<Shared>,
    next_seq: i64,
    cache: Cache,
    events: Vec<Box<Incoming>>,
    settles: VecDeque<Settle>,
    settles_since: Option<Instant>,
    replays: VecDeque<Replay>,
    parkings: Vec<Parking>,
    marks: Vec<ProxyMark>,
    pruner: Pruner,
    next_tick: Instant,
    /// Nothing is written before this; set after a full disk or a held lock.
    hold_until: Option<Instant>,
    /// SQLite said that there is no space; believed until the next tick finds some.
    no_space: bool,
    used: u64,
    closing: bool,
}

/// The store failed; the thread ends.
struct Failed;

impl Committer {
    pub(super) fn new(conn: Connection, shared: Arc<Shared>, next_seq: i64) -> Self {
        Self {
            conn,
            shared,
            next_seq,
            cache: Cache::default(),
            events: Vec::with_capacity(BATCH_EVENTS),
            settles: VecDeque::new(),
            settles_since: None,
            replays: VecDeque::new(),
            parkings: Vec::new(),
            marks: Vec::new(),
            pruner: Pruner::new(),
            next_tick: Instant::now(),
            hold_until: None,
            no_space: false,
            used: 0,
            closing: false,
        }
    }

    /// Runs until the store is closed or fails. Every event that was queued has its answer then.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let failed = self.work(queue).is_err();
        let last = if failed {
            self.shared.failure()
        } else {
            InboxError::Closed
        };
        for incoming in self.events.drain(..) {
            answer(incoming.answer, Err(last.clone()));
        }
        while let Ok(message) = queue.try_recv() {
            if let Message::Accept(incoming) = message {
                answer(incoming.answer, Err(last.clone()));
            }
        }
        let mut control = self.shared.control();
        let replays: Vec<_> = self.replays.drain(..).chain(control.replays.drain(..)).collect();
        drop(control);
        for replay in replays {
            answer(replay.answer, Err(last.clone()));
        }
        // The lock goes with the thread, not before: nobody else may write while we could.
        let lock = self
            .shared
            .lock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        drop(self.conn);
        drop(lock);
        self.shared.closed.send_replace(true);
    }

    fn work(&mut self, queue: &Receiver<Message>) -> Result<(), Failed> {
        self.tick()?;
        loop {
            let gone = self.gather(queue);
            if let Err(InboxError::Failed(_)) = self.shared.gate() {
                // A reader met an error.
                return Err(Failed);
            }
            self.take_control();
            if self.is_due() {
                self.commit()?;
            }
            if Instant::now() >= self.next_tick {
                self.tick()?;
            }
            if queue.len() < BATCH_EVENTS / 8 {
                self.prune()?;
            }
            if (gone || self.closing) && queue.is_empty() && self.events.is_empty() {
                return self.finish();
            }
        }
    }

    /// Waits for something to do; true when no caller is left.
    fn gather(&mut self, queue: &Receiver<Message>) -> bool {
        let now = Instant::now();
        let mut until = self.next_tick;
        if let Some(since) = self.settles_since {
            until = until.min(since + SETTLE_WAIT);
        }
        if !self.replays.is_empty() || self.closing {
            until = now;
        }
        if let Some(hold) = self.hold_until {
            until = until.max(hold).min(self.next_tick.max(hold));
        }
        let mut bytes = 0;
        match queue.recv_timeout(until.saturating_duration_since(now)) {
            Ok(message) => self.take(message, &mut bytes),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
        while self.events.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
            match queue.try_recv() {
                Ok(message) => self.take(message, &mut bytes),
                Err(_) => break,
            }
        }
        false
    }

    fn take(&mut self, message: Message, bytes: &mut usize) {
        match message {
            Message::Accept(incoming) => {
                let figures = &self.shared.figures;
                figures.queued_events.fetch_sub(1, Ordering::Relaxed);
                figures.queued_bytes.fetch_sub(incoming.bytes, Ordering::Relaxed);
                *bytes += incoming.bytes;
                self.events.push(incoming);
            }
            Message::Wake => self.shared.woken.store(false, Ordering::Release),
        }
    }

    fn take_control(&mut self) {
        let mut control = self.shared.control();
        self.settles.append(&mut control.settles);
        if let Some(since) = control.settles_since.take() {
            self.settles_since.get_or_insert(since);
        }
        self.replays.append(&mut control.replays);
        self.parkings.append(&mut control.parkings);
        self.marks.append(&mut control.marks);
        self.closing |= control.close;
    }

    fn is_due(&self) -> bool {
        let held = self.hold_until.is_some_and(|until| Instant::now() < until);
        let settles = !self.settles.is_empty()
            && (self.settles.len() >= SETTLES_FLUSH
                || self.closing
                || self
                    .settles_since
                    .is_none_or(|since| since.elapsed() >= SETTLE_WAIT));
        let lazy = !self.marks.is_empty() && Instant::now() >= self.next_tick;
        !self.events.is_empty()
            || (!held && (settles || lazy || !self.replays.is_empty() || !self.parkings.is_empty()))
    }

    fn commit(&mut self) -> Result<(), Failed> {
        let started = Instant::now();
        let events = std::mem::take(&mut self.events);
        let room = self.room();
        let settles = self.settles.len().min(SETTLES_MAX);
        let mut replay = self.replays.pop_front();
        let before = replay
            .as_ref()
            .map(|replay| (replay.done, replay.cursor, replay.last));
        let result = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.cache,
            &mut self.next_seq,
            |tx| {
                let mut left = room;
                let mut answers = Vec::with_capacity(events.len());
                for incoming in &events {
                    // More would eat into what is kept for settlements.
                    let fits = incoming.bytes as u64 <= left;
                    let accepted = if fits { accept(tx, &incoming.new)? } else { None };
                    if matches!(accepted, Some(Accepted::New(_))) {
                        left -= incoming.bytes as u64;
                    }
                    answers.push(accepted.ok_or(InboxError::Full));
                }
                for settle in self.settles.iter().take(settles) {
                    tx.settle(settle)?;
                }
                for parking in &self.parkings {
                    tx.park(parking)?;
                }
                for mark in &self.marks {
                    store_mark(tx, mark)?;
                }
                let replayed = match &mut replay {
                    Some(replay) => replay::slice(tx, replay)?,
                    None => false,
                };
                Ok((answers, replayed))
            },
        );
        match result {
            Ok(((answers, replayed), effects)) => {
                let took = started.elapsed();
                let kept = answers.len();
                for (incoming, accepted) in events.into_iter().zip(answers) {
                    answer(incoming.answer, accepted);
                }
                self.committed(effects, settles, kept, took);
                if let Some(replay) = replay {
                    if replayed {
                        answer(replay.answer, Ok(replay.done));
                    } else {
                        self.replays.push_back(replay);
                    }
                }
                self.checkpoint()
            }
            Err(error) => {
                if let (Some(replay), Some((done, cursor, last))) = (&mut replay, before) {
                    (replay.done, replay.cursor, replay.last) = (done, cursor, last);
                }
                self.replays.extend(replay);
                self.rolled_back(error, events)
            }
        }
    }

    fn committed(&mut self, effects: Effects, settles: usize, events: usize, took: Duration) {
        effects.apply(&self.shared);
        self.settles.drain(..settles);
        self.settles_since = (!self.settles.is_empty()).then(Instant::now);
        self.parkings.clear();
        self.marks.clear();
        self.hold_until = None;
        if events > 0 {
            let known = self.shared.figures.commit_micros.load(Ordering::Relaxed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            // Moves an eighth of the way.
            self.shared
                .figures
                .commit_micros
                .store(known - known / 8 + micros / 8, Ordering::Relaxed);
            self.shared.telemetry.committed(events, took);
        }
    }

    fn rolled_back(&mut self, error: TxError, events: Vec<Box<Incoming>>) -> Result<(), Failed> {
        let refusal = match error {
            TxError::Full => {
                self.no_space = true;
                self.shared.set_full(true);
                InboxError::Full
            }
            TxError::Busy => InboxError::Busy,
            TxError::Final(reason) => {
                self.shared.set_failed(&reason);
                self.shared.failure()
            }
        };
        let failed = matches!(refusal, InboxError::Failed(_));
        for incoming in events {
            answer(incoming.answer, Err(refusal.clone()));
        }
        if failed {
            return Err(Failed);
        }
        // Settlements, replays and the rest stay queued.
        self.hold_until = Some(Instant::now() + RETRY_WAIT);
        Ok(())
    }

    /// Copies the log into the database once it is long enough. SQLite's own hook would drop the error.
    fn checkpoint(&mut self) -> Result<(), Failed> {
        let bytes_max = self.shared.settings.bytes_max;
        let (pages, copied) = self.wal("PRAGMA wal_checkpoint(NOOP)")?;
        let waiting = pages.saturating_sub(copied);
        let threshold = WAL_PAGES.min(bytes_max / PAGE_BYTES / 16).max(16);
        if waiting >= threshold {
            self.wal("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        self.measure(waiting)
    }

    /// Pages in the log, and pages of it that were copied.
    fn wal(&mut self, pragma: &str) -> Result<(u64, u64), Failed> {
        let result = self.conn.prepare_cached(pragma).and_then(|mut pragma| {
            pragma.query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        });
        match result.map_err(TxError::from) {
            Ok((pages, copied)) => Ok((pages.max(0).cast_unsigned(), copied.max(0).cast_unsigned())),
            Err(TxError::Busy) => Ok((0, 0)),
            Err(error) => self.rolled_back(error, Vec::new()).map(|()| (0, 0)),
        }
    }

    fn measure(&mut self, wal_pages: u64) -> Result<(), Failed> {
        let number = |pragma: &str| {
            self.conn
                .prepare_cached(pragma)
                .and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)))
        };
        match number("PRAGMA page_count").and_then(|pages| Ok((pages, number("PRAGMA freelist_count")?))) {
            Ok((pages, free)) => {
                let pages = (pages - free).max(0).cast_unsigned() + wal_pages;
                self.used = pages * PAGE_BYTES;
                if self.room() == 0 {
                    self.shared.set_full(true);
                }
                Ok(())
            }
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }

    /// Bytes that events may still take.
    fn room(&self) -> u64 {
        let bytes_max = self.shared.settings.bytes_max;
        let reserve = RESERVE_BYTES.min(bytes_max / 8);
        (bytes_max - reserve).saturating_sub(self.used)
    }

    /// Once a second: space, figures, the oldest pending of each lane.
    fn tick(&mut self) -> Result<(), Failed> {
        self.next_tick = Instant::now() + TICK;
        let (pages, copied) = self.wal("PRAGMA wal_checkpoint(NOOP)")?;
        if pages > copied {
            // Also copies what a reader kept from being copied before.
            self.checkpoint()?;
        }
        self.measure(pages.saturating_sub(copied))?;
        let shared = &self.shared;
        let folder = shared.settings.path.as_path();
        // Without a figure the volume counts as having room: a write will tell.
        let free = place::free_bytes(folder).unwrap_or(u64::MAX);
        shared.figures.free_bytes.store(free, Ordering::Relaxed);
        let size = |suffix: &str| {
            std::fs::metadata(folder.join(format!("{}{suffix}", place::DB_FILE))).map_or(0, |meta| meta.len())
        };
        let wal = size("-wal");
        shared.figures.wal_bytes.store(wal, Ordering::Relaxed);
        shared
            .figures
            .store_bytes
            .store(size("") + wal + size("-shm"), Ordering::Relaxed);
        self.no_space = false;
        let is_full = self.room() == 0 || free < shared.settings.free_bytes_min;
        shared.set_full(is_full);
        self.find_oldest()
    }

    fn find_oldest(&mut self) -> Result<(), Failed> {
        let mut result = Ok(());
        for lane in self.shared.names.lanes() {
            if lane.pending.load(Ordering::Relaxed) <= 0 {
                lane.oldest.store(i64::MAX, Ordering::Relaxed);
                continue;
            }
            let (from, sets) = {
                let state = lane.lock();
                (state.oldest_from, state.sets.clone())
            };
            let found = oldest(&self.conn, lane.id, &sets, from);
            match found {
                Ok((seq, received_at)) => {
                    let mut state = lane.lock();
                    if state.oldest_from == from {
                        state.oldest_from = seq;
                    }
                    drop(state);
                    if let Some(received_at) = received_at {
                        lane.oldest.store(received_at, Ordering::Relaxed);
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }

    /// One slice of whatever is to go.
    fn prune(&mut self) -> Result<(), Failed> {
        let bytes_max = self.shared.settings.bytes_max;
        if self.hold_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        if self.used > bytes_max / 5 * 4 && self.pruner.space_due() {
            let pruned = self.slice(|pruner, tx| pruner.space(tx))?;
            if let Some(pruned) = pruned {
                self.pruner.space_done(&pruned);
            }
        }
        if self.pruner.retention_due(&self.shared) {
            let started = Instant::now();
            let pruned = self.slice(|pruner, tx| pruner.retention(tx))?;
            if let Some(pruned) = pruned {
                self.pruner.retention_done(&pruned, started.elapsed());
            }
        }
        Ok(())
    }

    fn slice(
        &mut self,
        work: impl FnOnce(&Pruner, &mut Transaction<'_>) -> Result<Pruned, TxError>,
    ) -> Result<Option<Pruned>, Failed> {
        let pruner = &self.pruner;
        let result = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.cache,
            &mut self.next_seq,
            |tx| work(pruner, tx),
        );
        match result {
            Ok((pruned, effects)) => {
                effects.apply(&self.shared);
                if pruned.removed > 0 {
                    self.shared.telemetry.pruned(pruned.removed);
                    self.give_back()?;
                    self.checkpoint()?;
                }
                Ok(Some(pruned))
            }
            Err(error) => self.rolled_back(error, Vec::new()).map(|()| None),
        }
    }

    /// Gives pages back to the volume when a quarter of the file is free.
    fn give_back(&mut self) -> Result<(), Failed> {
        let result = self
            .conn
            .query_row(
                "SELECT p.page_count, f.freelist_count FROM pragma_page_count p, pragma_freelist_count f",
                [],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )
            .and_then(|(pages, free)| {
                if free > pages / 4 {
                    let sql = format!("PRAGMA incremental_vacuum({})", as_i64(VACUUM_PAGES));
                    self.conn.execute_batch(&sql)?;
                }
                Ok(())
            });
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }

    /// Commits what is left, brings the counters up to date and copies the log.
    fn finish(&mut self) -> Result<(), Failed> {
        self.hold_until = None;
        self.closing = true;
        for _ in 0..=self.settles.len() / SETTLES_MAX {
            if self.is_due() || !self.marks.is_empty() {
                self.commit()?;
            }
        }
        let result = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.cache,
            &mut self.next_seq,
            |tx| tx.store_counters(),
        );
        if let Err(error) = result {
            return self.rolled_back(error, Vec::new());
        }
        self.wal("PRAGMA wal_checkpoint(TRUNCATE)").map(drop)
    }
}

/// A sender that has gone does not want its answer; the event is kept all the same.
fn answer<T>(to: oneshot::Sender<T>, what: T) {
    drop(to.send(what));
}

fn store_mark(tx: &Transaction<'_>, mark: &ProxyMark) -> Result<(), TxError> {
    tx.conn
        .prepare_cached(
            "INSERT INTO proxy_mark (key, at, until) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET at = ?2, until = ?3",
        )?
        .execute((&mark.key.0[..], mark.at.0, mark.until.0))?;
    Ok(())
}

/// When the oldest pending delivery of a lane was received, and where to look next time.
fn oldest(
    conn: &Connection,
    lane: i64,
    sets: &[(i64, usize)],
    from: i64,
) -> rusqlite::Result<(i64, Option<i64>)> {
    let (met, to, _) = open_events(conn, lane, sets, from, OLDEST_ROWS)?;
    for (seq, _, has_row) in met {
        let waits = !has_row
            || conn
                .prepare_cached("SELECT status = 0 FROM delivery WHERE seq = ?1 AND upstream = ?2")?
                .query_row((seq, lane), |row| row.get(0))?;
        if waits {
            let received = conn
                .prepare_cached("SELECT received_at FROM event WHERE seq = ?1")?
                .query_row([seq], |row| row.get(0))?;
            return Ok((seq, Some(received)));
        }
    }
    Ok((to, None))
}

/// Marks that have not run out; drops the others from what is read.
pub(super) fn marks(conn: &Connection, now: i64) -> rusqlite::Result<Vec<ProxyMark>> {
    use crate::event::{DedupKey, Timestamp};
    let mut select = conn.prepare_cached("SELECT key, at, until FROM proxy_mark WHERE until > ?1")?;
    let mut rows = select.query([now])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: Vec<u8> = row.get(0)?;
        if let Ok(key) = key.try_into() {
            found.push(ProxyMark {
                key: DedupKey(key),
                at: Timestamp(row.get(1)?),
                until: Timestamp(row.get(2)?),
            });
        }
    }
    Ok(found)
}
