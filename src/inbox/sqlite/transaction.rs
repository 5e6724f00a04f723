//! One transaction of the committer, and what follows from it once it is durable.
//!
//! It reaches the database only once something asks for that ([`Transaction::write`]). New events alone do not: they are
//! kept in a file (`segments`), and get their rows with the next transaction that does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension};

use super::ahead;
use super::effects::{Effects, Settled};
use super::keys::Keys;
use super::load::count_done;
use super::names::{Names, Route, Wants};
use super::open::DAMAGED_ADVICE;
use super::schema::{self, state, status};
use super::seal;
use super::segments::Segments;
use super::state::{Parking, Settle, Shared};
use super::unindexed::Unindexed;
use crate::event::{RouteName, Timestamp, UpstreamName};
use crate::inbox::Outcome;

/// Why a transaction did not become durable.
#[derive(Debug)]
pub(super) enum TxError {
    /// No space: rolled back, the store goes on.
    Full,
    /// Somebody else holds the write lock: rolled back, the store goes on.
    Busy,
    /// A write failed: rolled back. For want of room the store goes on, else it is final.
    Write(String),
    /// Anything else is final.
    Final(String),
}

impl From<rusqlite::Error> for TxError {
    fn from(error: rusqlite::Error) -> Self {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        if let Some(SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE) = extended {
            return Self::Write(error.to_string());
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Final(reason(&error)),
        }
    }
}

/// Why the store cannot go on, and what to do where that is not to look at the disk.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
            format!("it is damaged: {error}; {DAMAGED_ADVICE}")
        }
        Some(_) => error.to_string(),
    }
}

/// An open transaction.
pub(super) struct Transaction<'a> {
    pub(super) conn: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) now: Timestamp,
    pub(super) steady_now: i64,
    pub(super) next_seq: i64,
    pub(super) effects: Effects,
    pub(super) segments: &'a mut Segments,
    pub(super) keys: &'a mut Keys,
    pub(super) unindexed: &'a mut Unindexed,
    pub(super) statements: Statements<'a>,
    /// It writes to the database.
    writes: bool,
    /// But no rows of events that are not delivered yet.
    partly: bool,
    /// Senders wait for what it does now.
    pub(super) is_awaited: bool,
    /// What the next one will write to the database may be written while this one is synced.
    pub(super) may_write_ahead: bool,
    /// And committed: nobody waits for something else to be written.
    pub(super) may_commit_ahead: bool,
    /// Below this number every event has got its row beside its sync.
    indexed_to: Option<i64>,
    /// Events of which every delivery is made, to be written by [`Transaction::close_delivered`].
    delivered: Vec<i64>,
    pub(super) cache: &'a mut Cache,
    /// The number of its first event.
    pub(super) first_seq: i64,
    /// Its COMMIT failed, but stands on the disk all the same.
    stands: bool,
}

/// Those that run for each event, looked up once for all of a transaction.
#[derive(Default)]
pub(super) struct Statements<'a> {
    pub(super) key: Option<CachedStatement<'a>>,
    state: Option<CachedStatement<'a>>,
}

/// The statement of `slot`, which is `sql`.
pub(super) fn prepared<'s, 'a>(
    slot: &'s mut Option<CachedStatement<'a>>,
    conn: &'a Connection,
    sql: &str,
) -> rusqlite::Result<&'s mut CachedStatement<'a>> {
    let statement = match slot.take() {
        Some(statement) => statement,
        None => conn.prepare_cached(sql)?,
    };
    Ok(slot.insert(statement))
}

/// What the committer keeps beside the database, and what a transaction changes with it.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) segments: Segments,
    pub(super) keys: Keys,
    pub(super) unindexed: Unindexed,
    cache: Cache,
}

/// Things looked up once.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The set that was asked for last.
    last: Option<(RouteName, Arc<[UpstreamName]>, Arc<Wants>)>,
    wants: HashMap<(RouteName, Arc<[UpstreamName]>), Arc<Wants>>,
    address: Option<(IpAddr, Box<str>)>,
    scratch: Vec<u8>,
}

impl Beside {
    pub(super) fn new(segments: Segments, keys: Keys) -> Self {
        Self {
            segments,
            keys,
            unindexed: Unindexed::default(),
            cache: Cache::default(),
        }
    }
}

impl Cache {
    /// What a seal is made with: the address as text (senders come in runs), and room to write in.
    pub(super) fn sealing(&mut self, client: IpAddr) -> (&str, &mut Vec<u8>) {
        let Self { address, scratch, .. } = self;
        if address.as_ref().is_none_or(|(known, _)| *known != client) {
            *address = Some((client, client.to_string().into()));
        }
        (address.as_ref().map_or("", |(_, text)| text), scratch)
    }
}

impl<'a> Transaction<'a> {
    /// Runs `work` in a transaction that is synced when this returns `Ok`. On an error nothing of it is left, and
    /// the number of the next event is as it was.
    pub(super) fn run<T>(
        conn: &'a Connection,
        shared: &'a Shared,
        beside: &'a mut Beside,
        next_seq: &mut i64,
        work: impl FnOnce(&mut Self) -> Result<T, TxError>,
    ) -> Result<(T, Effects), TxError> {
        let mut tx = Self {
            conn,
            shared,
            now: shared.clock.now(),
            steady_now: shared.steady.now(),
            next_seq: *next_seq,
            effects: Effects::default(),
            segments: &mut beside.segments,
            keys: &mut beside.keys,
            unindexed: &mut beside.unindexed,
            statements: Statements::default(),
            writes: false,
            partly: false,
            is_awaited: false,
            may_write_ahead: false,
            may_commit_ahead: false,
            indexed_to: None,
            delivered: Vec::new(),
            cache: &mut beside.cache,
            first_seq: *next_seq,
            stands: false,
        };
        let (wall, steady) = (tx.now.0, tx.steady_now);
        let jumped = shared.jumps.since_last_commit(wall, steady);
        let noted = match jumped {
            Some(_) => tx.note_jump(),
            None => Ok(()),
        };
        let result = noted.and_then(|()| work(&mut tx)).and_then(|done| {
            tx.commit()?;
            Ok(done)
        });
        match result {
            Ok(done) => {
                let writes_all = tx.writes && !tx.partly;
                tx.segments.committed(writes_all);
                tx.unindexed.committed(writes_all);
                if writes_all {
                    tx.indexed_to = Some(tx.next_seq);
                }
                tx.keys.committed(tx.next_seq, tx.indexed_to.is_some());
                *next_seq = tx.next_seq;
                if let Some(to) = tx.indexed_to {
                    shared.indexed_to.store(to, Ordering::Release);
                }
                (tx.effects.indexed, tx.effects.wrote) = (tx.indexed_to.is_some(), tx.writes);
                shared.jumps.committed(wall, steady, jumped.is_some());
                if let Some(millis) = jumped {
                    shared.telemetry.clock_jumped(millis / 1000);
                }
                Ok((done, tx.effects))
            }
            Err(error) => {
                let taken_back = match &error {
                    // A row that a start may find must find its body; the numbers are not used again.
                    _ if tx.stands => {
                        tx.segments.stands();
                        *next_seq = tx.next_seq;
                        Ok(())
                    }
                    TxError::Final(_) => Ok(()),
                    _ => tx.segments.rolled_back(),
                };
                tx.unindexed.rolled_back();
                tx.keys.rolled_back();
                // Some errors have rolled back already.
                if !conn.is_autocommit() {
                    conn.execute_batch("ROLLBACK").map_err(|rollback| match &error {
                        TxError::Final(first) => TxError::Final(first.clone()),
                        _ => TxError::Final(rollback.to_string()),
                    })?;
                }
                taken_back?;
                Err(error)
            }
        }
    }

    /// From here on the transaction writes to the database, in which every event has its row.
    pub(super) fn write(&mut self) -> Result<(), TxError> {
        self.begin()?;
        self.partly = false;
        self.unindexed.insert(self.conn)?;
        Ok(())
    }

    /// Whether the few events that are not delivered yet may get their rows later, as those of delivered events, and none of the
    /// `settles` by their places is of one of them.
    pub(super) fn can_write_partly(&self, settles: &[(usize, &Settle)]) -> bool {
        let mut settles = settles.iter();
        self.unindexed.may_wait_for_delivery()
            && settles.all(|(_, settle)| self.unindexed.columns(settle.seq).is_none())
    }

    /// As [`Transaction::write`], without the rows of events that are not delivered yet.
    pub(super) fn write_partly(&mut self) -> Result<(), TxError> {
        let writes = self.writes;
        self.begin()?;
        self.partly |= !writes;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), TxError> {
        // With what was written ahead it has begun already.
        if !self.writes && self.conn.is_autocommit() {
            let mut begin = self.conn.prepare_cached("BEGIN IMMEDIATE")?;
            if self.is_awaited {
                self.conn.busy_timeout(schema::LOCKED_WAIT_FOR_EVENT)?;
                let begun = begin.execute([]);
                self.conn.busy_timeout(schema::LOCKED_WAIT)?;
                begun?;
            } else {
                begin.execute([])?;
            }
        }
        self.writes = true;
        Ok(())
    }

    /// Whether it writes to the database.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Whether rows of events that are not delivered stay out.
    pub(super) fn writes_partly(&self) -> bool {
        self.partly
    }

    /// Counts a repeat of an event; written with the next rows.
    pub(super) fn note_repeat(&mut self, seq: i64) -> Result<(), TxError> {
        if self.unindexed.takes_no_repeat() {
            self.write()?;
        }
        self.unindexed.repeat(seq);
        Ok(())
    }

    fn note_jump(&mut self) -> Result<(), TxError> {
        self.write()?;
        schema::set_meta(self.conn, "jumped_at", self.steady_now)?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), TxError> {
        let events = self.next_seq - self.first_seq;
        let writes_ahead = self.may_write_ahead && !self.writes && ahead::is_worth_it(events, self.unindexed);
        // Before the rows that name what it holds.
        let synced = match writes_ahead {
            true => {
                let may_commit = self.may_commit_ahead;
                let synced = ahead::sync(self.conn, self.segments, self.unindexed, self.keys, may_commit)?;
                self.indexed_to = synced.indexed_to;
                synced.any
            }
            false => self.segments.sync()?,
        };
        if self.writes {
            let counted = match self.partly {
                true => self.unindexed.insert_delivered(self.conn)?,
                false => {
                    self.write()?;
                    self.unindexed.insert_repeats(self.conn)?;
                    self.segments.record(self.conn)?;
                    Vec::new()
                }
            };
            let committed = self.conn.prepare_cached("COMMIT")?.execute([]);
            if let Err(error) = committed {
                // Everything is written and synced by then, but for the index of the log in shared memory.
                let extended = error.sqlite_error().map(|error| error.extended_code);
                self.stands = extended == Some(SQLITE_IOERR_SHMSIZE);
                return Err(error.into());
            }
            if self.partly {
                self.indexed_to = Some(self.unindexed.delivered_are_committed());
                self.segments.counted(counted);
            }
        }
        if synced || self.writes {
            self.shared.check_volume().map_err(TxError::Final)?;
        }
        Ok(())
    }

    pub(super) fn wants(&mut self, route: &RouteName, upstreams: &Arc<[UpstreamName]>) -> Arc<Wants> {
        if let Some((known, same, wants)) = &self.cache.last
            && Arc::ptr_eq(same, upstreams)
            && known == route
        {
            return wants.clone();
        }
        let key = (route.clone(), upstreams.clone());
        let wants = match self.cache.wants.get(&key) {
            Some(known) => known.clone(),
            None => self.shared.names.wants(route, upstreams),
        };
        self.cache.last = Some((key.0.clone(), key.1.clone(), wants.clone()));
        self.cache.wants.entry(key).or_insert_with(|| wants.clone());
        wants
    }

    /// Whether the event came a moment ago: its body may not be written yet, or its row.
    pub(super) fn is_new(&self, seq: i64) -> bool {
        seq >= self.first_seq || self.unindexed.columns(seq).is_some()
    }

    /// Gives back the place of an event's headers and body outside the database; whether it had one.
    pub(super) fn release_place(&mut self, seq: i64) -> Result<bool, TxError> {
        let found: Option<(i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT segment, head_bytes + body_bytes FROM event WHERE seq = ?1 AND segment <> 0",
            )?
            .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((segment, bytes)) = found else {
            return Ok(false);
        };
        self.segments.release(segment, bytes);
        self.conn
            .prepare_cached("UPDATE event SET segment = 0 WHERE seq = ?1")?
            .execute([seq])?;
        Ok(true)
    }

    /// Bytes of the open events of a route, this transaction's included.
    pub(super) fn open_bytes(&self, route: &Arc<Route>) -> i64 {
        let here: i64 = self
            .effects
            .open_bytes
            .iter()
            .filter(|(other, _)| other.id == route.id)
            .map(|(_, bytes)| bytes)
            .sum();
        route.open_bytes.load(Ordering::Relaxed).saturating_add(here)
    }

    pub(super) fn add_open_bytes(&mut self, route: &Arc<Route>, bytes: i64) {
        self.add_open_bytes_of(route.id, bytes, |_| Some(route.clone()));
    }

    /// The bytes of an event that is settled are open no more.
    fn close_bytes(&mut self, settle: &Settle) {
        let id = settle.lane.route;
        self.add_open_bytes_of(id, -settle.bytes, |names| names.route_by_id(id));
    }

    /// `find` is asked for the route only where none of its bytes have changed before.
    fn add_open_bytes_of(&mut self, id: i64, bytes: i64, find: impl FnOnce(&Names) -> Option<Arc<Route>>) {
        let open_bytes = &mut self.effects.open_bytes;
        match open_bytes.iter_mut().find(|(route, _)| route.id == id) {
            Some((_, sum)) => *sum += bytes,
            None => open_bytes.extend(find(&self.shared.names).map(|route| (route, bytes))),
        }
    }

    /// Makes one delivery pending, due now, with attempts and age anew.
    pub(super) fn make_pending(&mut self, seq: i64, upstream: i64, was_dead: bool) -> Result<(), TxError> {
        self.conn
            .prepare_cached(
                "INSERT INTO delivery (seq, upstream, status, attempts, due, age_from)
                 VALUES (?1, ?2, 0, 0, ?3, ?4)
                 ON CONFLICT DO UPDATE SET status = 0, attempts = 0, due = ?3, age_from = ?4",
            )?
            .execute((seq, upstream, self.steady_now, self.steady_now))?;
        if let Some(lane) = self.shared.names.lane_by_id(upstream) {
            self.effects.counts.push((lane.clone(), 1, -i64::from(was_dead)));
            self.effects.pending.push((lane, seq, self.steady_now));
        }
        Ok(())
    }

    /// Makes a settled event open again.
    pub(super) fn reopen(&mut self, seq: i64, route: i64, bytes: i64) -> Result<(), TxError> {
        self.set_state(seq, state::OPEN)?;
        if let Some(route) = self.shared.names.route_by_id(route) {
            self.add_open_bytes(&route, bytes);
        }
        Ok(())
    }

    fn set_state(&mut self, seq: i64, state: i64) -> Result<(), TxError> {
        self.set_states(seq, seq, state)
    }

    /// Sets the state of the events `first` to `last`.
    fn set_states(&mut self, first: i64, last: i64, state: i64) -> Result<(), TxError> {
        let sql = "UPDATE event SET state = ?3, settled_at = ?4 WHERE seq BETWEEN ?1 AND ?2";
        let update = prepared(&mut self.statements.state, self.conn, sql)?;
        update.execute((first, last, state, self.steady_now))?;
        Ok(())
    }

    /// Writes which events were delivered, in runs of neighbours: what was delivered together mostly came together.
    pub(super) fn close_delivered(&mut self) -> Result<(), TxError> {
        let mut delivered = std::mem::take(&mut self.delivered);
        delivered.sort_unstable();
        for run in delivered.chunk_by(|one, next| next.checked_sub(1) == Some(*one)) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.set_states(*first, *last, state::DELIVERED)?;
            }
        }
        Ok(())
    }

    /// Notes how a lease ended where nothing needs to be written for that now: the event was delivered before it got its row.
    pub(super) fn settle_unindexed(&mut self, settle: &Settle) -> bool {
        let delivered = matches!(settle.outcome, Outcome::Delivered { .. });
        let plain = delivered && !settle.has_row && settle.members == 1 && settle.done.is_none();
        if !plain || !self.unindexed.close(settle.seq, self.steady_now) {
            return false;
        }
        self.close_bytes(settle);
        // They come in runs of one lane.
        match self.effects.counts.last_mut() {
            Some((lane, pending, _)) if Arc::ptr_eq(lane, &settle.lane) => *pending -= 1,
            _ => self.effects.counts.push((settle.lane.clone(), -1, 0)),
        }
        self.effects.settled.push(Settled {
            lane: settle.lane.clone(),
            seq: settle.seq,
            due: None,
        });
        true
    }

    /// Writes how a lease ended; after all of them [`Transaction::close_delivered`] is called.
    pub(super) fn settle(&mut self, settle: &Settle) -> Result<(), TxError> {
        let mut due = None;
        let (to, code, error) = match &settle.outcome {
            Outcome::Delivered { status: code } => (status::DELIVERED, Some(*code), None),
            Outcome::Dead { status: code, error } => (status::DEAD, *code, Some(&**error)),
            Outcome::Retry {
                wait,
                status: code,
                error,
            } => {
                let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                due = Some(self.steady_now.saturating_add(wait));
                (status::PENDING, *code, Some(&**error))
            }
            // Never gets here: a lease is given back without a commit.
            Outcome::Released => return Ok(()),
        };
        let plain = to == status::DELIVERED && !settle.has_row && settle.members == 1;
        if !plain {
            self.conn
                .prepare_cached(
                    "INSERT INTO delivery (seq, upstream, status, attempts, due, age_from, last_at, last_status,
                       last_error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                     ON CONFLICT DO UPDATE SET status = ?3, attempts = ?4, due = ?5, last_at = ?7, last_status = ?8,
                       last_error = ?9",
                )?
                .execute((
                    settle.seq,
                    settle.lane.id,
                    to,
                    settle.attempts,
                    due.unwrap_or_else(|| seal::done(settle.seq, settle.lane.id, to)),
                    // Received by a clock that has jumped since: as old as the jump, and never from the future.
                    settle.received_at.max(self.shared.jumps.last()).min(self.steady_now),
                    self.now.0,
                    code,
                    error,
                ))?;
        }
        if due.is_none() {
            self.close_event(settle, to)?;
            // Of a set with one upstream, all open events were counted as pending.
            let was_pending = settle.done.is_none() || settle.members == 1;
            let is_dead = to == status::DEAD && settle.done != Some(status::DEAD);
            self.effects
                .counts
                .push((settle.lane.clone(), -i64::from(was_pending), i64::from(is_dead)));
        }
        self.effects.settled.push(Settled {
            lane: settle.lane.clone(),
            seq: settle.seq,
            due,
        });
        Ok(())
    }

    /// The event is settled with its last delivery.
    fn close_event(&mut self, settle: &Settle, to: i64) -> Result<(), TxError> {
        let any_dead = if settle.members == 1 {
            to == status::DEAD
        } else {
            let mut rows = self.conn.prepare_cached(
                "SELECT upstream, CAST(status AS INTEGER), CAST(due AS INTEGER) FROM delivery WHERE seq = ?1",
            )?;
            let (done, dead) = count_done(rows.query([settle.seq])?, settle.seq)?;
            if done < settle.members {
                return Ok(());
            }
            dead > 0
        };
        match any_dead {
            true => self.set_state(settle.seq, state::DEAD)?,
            false => self.delivered.push(settle.seq),
        }
        self.close_bytes(settle);
        Ok(())
    }

    /// Writes that a lane was parked or resumed.
    pub(super) fn park(&self, parking: &Parking) -> Result<(), TxError> {
        let (since, resumed) = if parking.parked {
            (Some(parking.at), None)
        } else {
            (None, Some(parking.at))
        };
        super::names::store_parking(self.conn, &self.shared.names, &parking.lane, since, resumed)?;
        Ok(())
    }

    /// Writes that the store is in use, and the counters that only change with rows that go. The number of the next event is among them: a number
    /// is never used twice, even when the highest ones are gone. A start looks for events without rows from there on: all before it
    /// have theirs with this transaction.
    pub(super) fn store_counters(&mut self) -> Result<(), TxError> {
        self.write()?;
        let events = self.shared.figures.events.load(Ordering::Relaxed) + self.effects.events;
        schema::set_meta(self.conn, "next_seq", self.next_seq)?;
        schema::set_meta(self.conn, "events", events)?;
        schema::set_meta(self.conn, "events_before", self.next_seq)?;
        schema::set_meta(self.conn, "alive_at", self.steady_now)?;
        Ok(())
    }
}
