//! The one thread that writes: takes what is queued, commits it in one synced transaction, answers, hands over.
//!
//! New events are committed to a file alone. Their rows, and all else that goes to the database, follow in a transaction of
//! their own once there are enough of them, or after a moment: nobody waits for those. Under load rows are committed while later
//! events are synced (`ahead`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::accept::{accept, held};
use super::effects::Effects;
use super::keys::first_place;
use super::marks;
use super::prune::{Pruned, Pruner};
use super::replay;
use super::state::{MARKS_FLUSH, MARKS_MAX, Parking, Replay, Settle, Shared};
use super::transaction::{Beside, Transaction, TxError};
use crate::inbox::answer::{Answer, Answers};
use crate::inbox::{Accepted, InboxError, NewEvent, ProxyMark};

/// Events of one transaction.
pub(super) const BATCH_EVENTS: usize = 512;
/// Their bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Settlements that are committed at once when no event comes.
pub(super) const SETTLES_FLUSH: usize = 256;
/// Settlements of one transaction.
const SETTLES_MAX: usize = 2048;
/// Settlements, and events without rows, wait at most this long for others to ride with.
const WRITE_WAIT: Duration = Duration::from_millis(50);
/// Keys read after each batch, or while nothing comes, until all are known: a quarter of a millisecond. More than come meanwhile, or
/// the end of them would never be reached.
const KEYS_AT_ONCE: usize = 4 * BATCH_EVENTS;
/// That the store is in use is written this often.
const ALIVE_EVERY: Duration = Duration::from_secs(60);
/// The counters are written with the next transaction that writes after this many events. Tests of debug builds shall meet it all
/// the time.
const COUNT_EVERY: i64 = if cfg!(debug_assertions) { 16 } else { 10_000 };
/// After a full disk or a held lock, what must be written is tried again this often.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Between two looks whether those who were admitted have sent or left.
const LAST_WAIT: Duration = Duration::from_millis(1);

/// What callers send.
#[derive(Debug)]
pub(super) enum Message {
    /// An event to keep.
    Accept(Incoming),
    /// Look at the control queue.
    Wake,
}

/// An event and whom to tell.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) new: NewEvent,
    pub(super) bytes: usize,
    pub(super) answer: Answer,
}

/// The state of the thread.
pub(super) struct Committer {
    pub(super) conn: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) next_seq: i64,
    pub(super) beside: Beside,
    pub(super) events: Vec<Incoming>,
    pub(super) settles: VecDeque<Settle>,
    pub(super) settles_since: Option<Instant>,
    pub(super) replays: VecDeque<Replay>,
    pub(super) parkings: Vec<Parking>,
    pub(super) marks: Vec<ProxyMark>,
    pub(super) pruner: Pruner,
    pub(super) next_tick: Instant,
    next_alive: Instant,
    /// Answers that were handed on last, and when: some may not be given yet.
    told: Option<(Answers, Instant)>,
    /// Nothing is written before this; set after a full disk or a held lock.
    pub(super) hold_until: Option<Instant>,
    /// A write failed for want of room, and there was none since.
    pub(super) no_room: bool,
    /// Bytes of the database and of its log.
    pub(super) database_bytes: u64,
    /// The number of the next event when the counters were last written.
    pub(super) counted_at: i64,
    pub(super) closing: bool,
    /// The database was written to since the log was last looked at.
    pub(super) log_grew: bool,
}

/// What a transaction writes besides events to files.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    /// Nothing.
    Events,
    /// All that goes to the database, but for rows that may as well follow as those of delivered events.
    Delivered,
    /// All that goes to the database.
    All,
}

/// The store failed; the thread ends.
pub(super) struct Failed;

impl Committer {
    pub(super) fn new(conn: Connection, shared: Arc<Shared>, beside: Beside, next_seq: i64) -> Self {
        Self {
            conn,
            shared,
            next_seq,
            beside,
            events: Vec::with_capacity(BATCH_EVENTS),
            settles: VecDeque::new(),
            settles_since: None,
            replays: VecDeque::new(),
            parkings: Vec::new(),
            marks: Vec::new(),
            pruner: Pruner::new(),
            next_tick: Instant::now(),
            next_alive: Instant::now(),
            told: None,
            hold_until: None,
            no_room: false,
            database_bytes: 0,
            counted_at: next_seq,
            closing: false,
            log_grew: false,
        }
    }

    /// Runs until the store is closed or fails. Every event that was queued has its answer then.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let failed = self.work(queue).is_err();
        // Those whose events were committed know it before anybody hears of the end.
        self.told = None;
        let last = if failed {
            self.shared.failure()
        } else {
            InboxError::Closed
        };
        for incoming in self.events.drain(..) {
            incoming.answer.give(Err(last.clone()));
        }
        refuse_queued(queue, &self.shared, &last);
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
        self.note_alive()?;
        loop {
            let gone = self.gather(queue);
            if let Err(InboxError::Failed(_)) = self.shared.gate() {
                // A reader met an error.
                return Err(Failed);
            }
            self.take_control();
            let log_grew = self.log_grew;
            if !self.events.is_empty() || self.settles_are_due() {
                self.commit(Write::Events)?;
            }
            // One of them at a time: events that have come meanwhile go between.
            if log_grew {
                self.checkpoint()?;
            } else if self.must_write() {
                self.commit(Write::Delivered)?;
            }
            if Instant::now() >= self.next_tick {
                self.tick()?;
            }
            if Instant::now() >= self.next_alive {
                self.note_alive()?;
            }
            // Until then each new event is looked for among them.
            self.beside.keys.learn(&self.conn, KEYS_AT_ONCE);
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
        self.told.take_if(|(_, since)| now >= *since + WRITE_WAIT);
        let mut until = self.next_tick;
        let told = self.told.as_ref().map(|(_, since)| *since);
        for since in [self.settles_since, self.beside.unindexed.since(), told]
            .into_iter()
            .flatten()
        {
            until = until.min(since + WRITE_WAIT);
        }
        let learns = self.beside.keys.is_learning();
        if self.log_grew || !self.replays.is_empty() || self.closing || self.pruner.is_busy() || learns {
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
        // While nothing can be written they are forgotten rather than gathered for ever.
        let room = MARKS_MAX.saturating_sub(self.marks.len());
        self.marks.extend(control.marks.drain(..).take(room));
        self.closing |= control.close;
    }

    /// Whether the database was full or locked a moment ago.
    pub(super) fn is_held(&self) -> bool {
        self.hold_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the database is to be written to now.
    fn must_write(&self) -> bool {
        if self.is_held() {
            return false;
        }
        let unindexed = &self.beside.unindexed;
        let rows = unindexed.is_full() || self.is_due(unindexed.since());
        let marks = self.marks.len();
        let lazy = marks >= MARKS_FLUSH || marks > 0 && Instant::now() >= self.next_tick;
        self.settles_are_due() || rows || lazy || self.is_asked()
    }

    /// Whether somebody waits for something to be written.
    fn is_asked(&self) -> bool {
        !self.replays.is_empty() || !self.parkings.is_empty()
    }

    fn settles_are_due(&self) -> bool {
        self.settles.len() >= SETTLES_FLUSH || self.is_due(self.settles_since)
    }

    /// Whether what waits since then has waited long enough.
    fn is_due(&self, since: Option<Instant>) -> bool {
        since.is_some_and(|since| self.closing || since.elapsed() >= WRITE_WAIT)
    }

    /// Commits the events that were taken, and what `write` says.
    pub(super) fn commit(&mut self, write: Write) -> Result<(), Failed> {
        let started = Instant::now();
        let mut events = std::mem::take(&mut self.events);
        let room = if self.shared.is_full() { 0 } else { self.room() };
        // So that a start after a crash has few events to count.
        let count_at = self.counted_at.saturating_add(COUNT_EVERY);
        let settles = self.settles.len().min(SETTLES_MAX);
        // Not where a copying of the log would have to wait for it.
        let may_write_ahead = !self.log_grew && !self.is_held();
        let asked = self.is_asked();
        let mut replay = match write {
            Write::Events => None,
            Write::Delivered | Write::All => self.replays.pop_front(),
        };
        let before = replay
            .as_ref()
            .map(|replay| (replay.done, replay.cursor, replay.last));
        let result = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.beside,
            &mut self.next_seq,
            |tx| {
                let mut left = room;
                let first = tx.next_seq;
                tx.may_write_ahead = may_write_ahead;
                tx.keys.look_ahead(
                    events
                        .iter()
                        .map(|incoming| first_place(&incoming.new.dedup_key.0)),
                );
                let mut answers = Vec::with_capacity(events.len());
                tx.is_awaited = true;
                for incoming in &events {
                    // More would eat into what is kept for settlements.
                    let fits = incoming.bytes as u64 <= left;
                    let accepted = accept(tx, &incoming.new, fits)?;
                    if matches!(accepted, Some(Accepted::New(_))) {
                        left -= incoming.bytes as u64;
                    }
                    answers.push(accepted.ok_or(InboxError::Full));
                }
                let came = usize::try_from(tx.next_seq - first).unwrap_or_default();
                tx.keys.came(came);
                tx.is_awaited = false;
                // What somebody waits for takes the rows along.
                tx.may_commit_ahead = may_write_ahead && !asked;
                // Settlements that are not written yet, by their places.
                let mut left_over = Vec::new();
                // Before rows are written: most are so of events that have none.
                for (place, settle) in self.settles.iter().take(settles).enumerate() {
                    if !tx.settle_unindexed(settle) {
                        left_over.push((place, settle));
                    }
                }
                // The counters say that every event before them has its row.
                let counts = tx.next_seq >= count_at;
                match write {
                    Write::Events => {}
                    Write::Delivered if !asked && !counts && tx.can_write_partly(&left_over) => {
                        tx.write_partly()?;
                    }
                    Write::Delivered | Write::All => tx.write()?,
                }
                if tx.writes() {
                    left_over
                        .drain(..)
                        .try_for_each(|(_, settle)| tx.settle(settle))?;
                }
                let left_over: Vec<_> = left_over.into_iter().map(|(place, _)| place).collect();
                let replayed = match tx.writes() {
                    true => write_rest(tx, &self.parkings, &self.marks, replay.as_mut(), count_at)?,
                    false => false,
                };
                Ok((answers, left_over, replayed))
            },
        );
        match result {
            Ok(((answers, left_over, replayed), effects)) => {
                let took = started.elapsed();
                let kept = answers.iter().filter(|accepted| accepted.is_ok()).count();
                let incoming = events.drain(..).map(|incoming| incoming.answer);
                self.tell(incoming.zip(answers).collect());
                // Empty, and as large as it grew.
                self.events = events;
                let indexed = effects.indexed;
                self.committed(effects, settles, &left_over, kept, took);
                if let Some(replay) = replay {
                    if replayed {
                        answer(replay.answer, Ok(replay.done));
                    } else {
                        self.replays.push_back(replay);
                    }
                }
                self.log_grew |= indexed;
                if self.room() == 0 {
                    self.shared.set_full(true);
                }
                Ok(())
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

    /// Tells those whose events were committed, and whoever does not know yet from the time before.
    fn tell(&mut self, verdicts: Vec<(Answer, Result<Accepted, InboxError>)>) {
        if !verdicts.is_empty() {
            self.told = Answers::hand_on(verdicts).map(|told| (told, Instant::now()));
        }
    }

    /// Of the first `settles` settlements those at `left_over` were not written.
    fn committed(
        &mut self,
        effects: Effects,
        settles: usize,
        left_over: &[usize],
        events: usize,
        took: Duration,
    ) {
        let wrote = effects.wrote;
        effects.apply(&self.shared);
        let mut stays = left_over.iter().copied().chain(settles..).peekable();
        let mut places = 0..;
        self.settles.retain(|_| {
            places
                .next()
                .is_some_and(|place| stays.next_if_eq(&place).is_some())
        });
        self.shared
            .figures
            .unsettled
            .fetch_sub(settles - left_over.len(), Ordering::Relaxed);
        if self.settles.is_empty() {
            self.settles_since = None;
        }
        if wrote {
            self.settles_since = (!self.settles.is_empty()).then(Instant::now);
            self.parkings.clear();
            self.marks.clear();
            self.hold_until = None;
            if self.next_seq >= self.counted_at.saturating_add(COUNT_EVERY) {
                self.counted_at = self.next_seq;
            }
        }
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

    pub(super) fn rolled_back(&mut self, error: TxError, events: Vec<Incoming>) -> Result<(), Failed> {
        let mut refusal = match error {
            TxError::Busy => InboxError::Busy,
            // There may be room again by the time that it is looked for.
            TxError::Write(reason) if !self.no_room && !self.is_out_of_room() => self.fail(&reason),
            TxError::Full | TxError::Write(_) => {
                self.no_room = true;
                self.shared.set_full(true);
                InboxError::Full
            }
            TxError::Final(reason) => self.fail(&reason),
        };
        let mut held = Vec::new();
        if refusal == InboxError::Full && !events.is_empty() {
            match self.held(&events) {
                Ok(found) => held = found,
                Err(TxError::Final(reason)) => refusal = self.fail(&reason),
                // All are refused, and come again.
                Err(_) => {}
            }
        }
        let failed = matches!(refusal, InboxError::Failed(_));
        let mut held = held.into_iter();
        for incoming in events {
            let known = held.next().flatten().ok_or_else(|| refusal.clone());
            incoming.answer.give(known);
        }
        if failed {
            return Err(Failed);
        }
        // Settlements, replays and the rest stay queued.
        self.hold_until = Some(Instant::now() + RETRY_WAIT);
        Ok(())
    }

    fn fail(&self, reason: &str) -> InboxError {
        self.shared.set_failed(reason);
        self.shared.failure()
    }

    /// Which events of a batch that could not be written were kept before: read only, and durable since their commit.
    fn held(&mut self, events: &[Incoming]) -> Result<Vec<Option<Accepted>>, TxError> {
        let (held, effects) = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.beside,
            &mut self.next_seq,
            |tx| events.iter().map(|incoming| held(tx, &incoming.new)).collect(),
        )?;
        effects.apply(&self.shared);
        Ok(held)
    }

    /// Commits what is left, brings the counters up to date and copies the log.
    fn finish(&mut self) -> Result<(), Failed> {
        self.hold_until = None;
        self.closing = true;
        for _ in 0..=self.settles.len() / SETTLES_MAX {
            if self.must_write() || !self.marks.is_empty() {
                self.commit(Write::All)?;
            }
        }
        self.note_alive()?;
        if self.room() > 0 {
            self.slice(|_, tx| {
                tx.keys.keep(tx.conn, tx.next_seq)?;
                Ok(Pruned::default())
            })?;
        }
        self.wal("PRAGMA wal_checkpoint(TRUNCATE)").map(drop)
    }

    fn note_alive(&mut self) -> Result<(), Failed> {
        self.next_alive = Instant::now() + ALIVE_EVERY;
        self.slice(|_, tx| {
            tx.store_counters()?;
            Ok(Pruned::default())
        })
        .map(drop)
    }
}

/// What a transaction writes to the database besides rows and settlements; whether the replay is done with.
fn write_rest(
    tx: &mut Transaction<'_>,
    parkings: &[Parking],
    marks: &[ProxyMark],
    replay: Option<&mut Replay>,
    count_at: i64,
) -> Result<bool, TxError> {
    match tx.writes_partly() {
        true => tx.keys.merge_least(tx.conn)?,
        false => tx.keys.merge(tx.conn)?,
    }
    tx.close_delivered()?;
    for parking in parkings {
        tx.park(parking)?;
    }
    marks::store(tx, marks)?;
    let replayed = match replay {
        Some(replay) => replay::slice(tx, replay)?,
        None => false,
    };
    if tx.next_seq >= count_at {
        tx.store_counters()?;
    }
    Ok(replayed)
}

/// Answers every event that has a place in the queue, also those that are just being put there. The channel would keep
/// them, and their senders waiting, for as long as somebody could still send. Only once no further one is admitted.
pub(super) fn refuse_queued(queue: &Receiver<Message>, shared: &Shared, with: &InboxError) {
    let figures = &shared.figures;
    fence(Ordering::SeqCst);
    while figures.queued_events.load(Ordering::Relaxed) > 0 {
        if let Ok(Message::Accept(incoming)) = queue.recv_timeout(LAST_WAIT) {
            figures.queued_events.fetch_sub(1, Ordering::Relaxed);
            figures.queued_bytes.fetch_sub(incoming.bytes, Ordering::Relaxed);
            incoming.answer.give(Err(with.clone()));
        }
    }
}

/// Whoever asked may have gone.
fn answer<T>(to: oneshot::Sender<T>, what: T) {
    drop(to.send(what));
}
