//! Events that are kept in a file and have no row yet: their columns, until the next transaction writes them all at once.
//!
//! Most are delivered by then, so that their rows are written once, as those of delivered events.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::bodies::Place;
use super::record::{self, Columns};
use super::schema::state;
use super::segments::Change;

/// Rows are written once this many wait, besides those that are written ahead.
const ROWS: usize = 256;
/// Or this many with those.
const ROWS_WITH_AHEAD: usize = 2 * ROWS;
/// Rows that were written ahead are committed ahead once they are so many. Tests of debug builds shall meet it all the time.
const ROWS_COMMITTED_AHEAD: usize = if cfg!(debug_assertions) { 8 } else { ROWS };
/// Or so long after the first of them came: before anybody has to write them for having waited too long.
const COMMITTED_AHEAD_WAIT: Duration = Duration::from_millis(35);
/// Events that are not delivered may be so many where their rows are left for later.
const ROWS_LEFT: usize = ROWS / 2;
/// Rows that are written ahead at once: some 20 microseconds. Tests of debug builds shall meet it all the time.
const ROWS_AHEAD: usize = if cfg!(debug_assertions) { 2 } else { 16 };
/// Or their columns, or repeats, take this many bytes.
const COLUMNS_BYTES: usize = 1 << 20;
/// More are not taken on: whoever comes next waits for a transaction.
const ROWS_MAX: usize = 16 * ROWS;
const COLUMNS_BYTES_MAX: usize = 4 * COLUMNS_BYTES;

/// The events, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Unindexed {
    columns: Vec<u8>,
    rows: Vec<Row>,
    since: Option<Instant>,
    /// How many are durable; the others are the open transaction's.
    kept: usize,
    /// How many have got their rows in the open transaction of the database.
    inserted: usize,
    /// Events of which a repeat came.
    repeats: Vec<i64>,
    repeats_kept: usize,
    /// What the open transaction has closed.
    closed: Vec<usize>,
    /// The last event whose row was left for later when rows were committed.
    left_to: i64,
}

#[derive(Debug)]
struct Row {
    seq: i64,
    /// Where its columns end.
    end: usize,
    place: Place,
    body_bytes: i64,
    /// When it was delivered, in steady time.
    delivered_at: Option<i64>,
}

impl Unindexed {
    /// Whether rows should be written soon.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() - self.inserted >= ROWS
            || self.rows.len() >= ROWS_WITH_AHEAD
            || self.columns.len() >= COLUMNS_BYTES
            || self.repeats.len() >= ROWS
    }

    /// Whether no further event may come before rows are written.
    pub(super) fn takes_no_event(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.columns.len() >= COLUMNS_BYTES_MAX
    }

    /// Whether no further repeat may come before that.
    pub(super) fn takes_no_repeat(&self) -> bool {
        self.repeats.len() >= ROWS_MAX
    }

    /// Since when something waits to be written.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// How many events.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Begins an event: room for its columns, to be given a place by [`Unindexed::put`] or taken back.
    pub(super) fn write(&mut self, columns: &Columns<'_>) -> &[u8] {
        let from = self.columns.len();
        columns.write(&mut self.columns);
        self.columns.get(from..).unwrap_or_default()
    }

    /// The event that was begun last is number `seq` and has its headers and a body of `body_bytes` at `place`.
    pub(super) fn put(&mut self, seq: i64, place: Place, body_bytes: i64) {
        self.since.get_or_insert_with(Instant::now);
        self.rows.push(Row {
            seq,
            end: self.columns.len(),
            place,
            body_bytes,
            delivered_at: None,
        });
    }

    /// A repeat of an event came.
    pub(super) fn repeat(&mut self, seq: i64) {
        self.since.get_or_insert_with(Instant::now);
        self.repeats.push(seq);
    }

    fn index(&self, seq: i64) -> Option<usize> {
        self.rows.binary_search_by_key(&seq, |row| row.seq).ok()
    }

    /// The columns of an event, with its state as it is now.
    pub(super) fn columns(&self, seq: i64) -> Option<Columns<'_>> {
        self.columns_at(self.index(seq)?)
    }

    /// Where the columns of an event begin.
    fn begin_of(&self, index: usize) -> usize {
        let before = index.checked_sub(1).and_then(|before| self.rows.get(before));
        before.map_or(0, |before| before.end)
    }

    fn columns_at(&self, index: usize) -> Option<Columns<'_>> {
        let row = self.rows.get(index)?;
        let from = self.begin_of(index);
        let mut columns = Columns::read(self.columns.get(from..row.end)?)?;
        if let Some(at) = row.delivered_at {
            (columns.state, columns.settled_at) = (state::DELIVERED, at);
        }
        Some(columns)
    }

    /// Every delivery of an event is made; false if it has a row.
    pub(super) fn close(&mut self, seq: i64, at: i64) -> bool {
        // With its row already, in the open transaction, it is the row that is closed.
        let Some(index) = self.index(seq).filter(|index| *index >= self.inserted) else {
            return false;
        };
        if let Some(row) = self.rows.get_mut(index) {
            row.delivered_at = Some(at);
            self.closed.push(index);
        }
        true
    }

    /// Writes the rows of all that have none yet, in an open transaction.
    pub(super) fn insert(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.insert_to(conn, self.rows.len())
    }

    /// The rows that can be written before their transaction: those of events that are durable and delivered, which nothing
    /// will change before it.
    fn delivered(&self) -> impl Iterator<Item = &Row> {
        let kept = self.rows.get(self.inserted..self.kept).unwrap_or_default();
        kept.iter().take_while(|row| row.delivered_at.is_some())
    }

    /// Where they end.
    fn delivered_to(&self) -> usize {
        self.inserted + self.delivered().count()
    }

    /// Whether the row at `index` was left for later before.
    fn has_waited(&self, index: usize) -> bool {
        self.rows.get(index).is_some_and(|row| row.seq <= self.left_to)
    }

    /// How many of them are written at once.
    fn ahead(&self) -> usize {
        self.delivered().take(ROWS_AHEAD).count()
    }

    /// Whether so many can be that it is worth it.
    pub(super) fn has_ahead(&self) -> bool {
        self.ahead() == ROWS_AHEAD
    }

    /// Writes some of them in an open transaction.
    pub(super) fn insert_ahead(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.insert_to(conn, self.inserted + self.ahead())
    }

    /// Whether what was written ahead should be committed.
    pub(super) fn commit_is_due(&self) -> bool {
        let waits = |since: Instant| since.elapsed() >= COMMITTED_AHEAD_WAIT;
        self.inserted >= ROWS_COMMITTED_AHEAD || self.inserted > 0 && self.since.is_some_and(waits)
    }

    /// Whether nearly all that waits is of events that are delivered, so that the others may wait for the next time; but none
    /// waits twice.
    pub(super) fn may_wait_for_delivery(&self) -> bool {
        let to = self.delivered_to();
        to > 0 && self.rows.len() - to <= ROWS_LEFT && !self.has_waited(to)
    }

    /// Writes what can be committed without the events that are not delivered yet: rows up to the first of those, and up to there
    /// the counts of repeats and what is in files.
    pub(super) fn insert_delivered(&mut self, conn: &Connection) -> rusqlite::Result<Vec<(i64, Change)>> {
        self.insert_to(conn, self.delivered_to())?;
        let kept = self.repeats.get(..self.repeats_kept).unwrap_or_default();
        let to = self.inserted_to();
        insert_repeats(conn, kept.iter().copied().filter(|seq| *seq < to).collect())?;
        let changes = self.changes();
        for (segment, change) in &changes {
            change.record(conn, *segment)?;
        }
        Ok(changes)
    }

    /// What the rows of the open transaction of the database are of files.
    fn changes(&self) -> Vec<(i64, Change)> {
        let rows = self.rows.get(..self.inserted).unwrap_or_default();
        let of_file = |rows: &[Row]| {
            let mut change = Change::default();
            for row in rows {
                let bytes = row.place.head_bytes.saturating_add(row.body_bytes);
                change.add(Change::appended(
                    row.seq,
                    bytes,
                    row.place.offset.saturating_add(bytes),
                ));
            }
            Some((rows.first()?.place.segment, change))
        };
        rows.chunk_by(|one, other| one.place.segment == other.place.segment)
            .filter_map(of_file)
            .collect()
    }

    /// Below this number every event has its row, with the open transaction of the database.
    fn inserted_to(&self) -> i64 {
        match self.rows.get(self.inserted) {
            Some(next) => next.seq,
            None => self.rows.last().map_or(0, |last| last.seq.saturating_add(1)),
        }
    }

    /// What [`Unindexed::insert_delivered`] wrote is durable; a transaction of other events may still be open. The number below which
    /// every event has its row now.
    pub(super) fn delivered_are_committed(&mut self) -> i64 {
        let to = self.inserted_to();
        let count = std::mem::take(&mut self.inserted);
        let bytes = self.begin_of(count);
        self.rows.drain(..count);
        self.columns.drain(..bytes);
        for row in &mut self.rows {
            row.end -= bytes;
        }
        self.kept -= count;
        self.closed.retain_mut(|index| {
            let left = index.checked_sub(count);
            *index = left.unwrap_or_default();
            left.is_some()
        });
        let new = self.repeats.split_off(self.repeats_kept);
        self.repeats.retain(|seq| *seq >= to);
        self.repeats_kept = self.repeats.len();
        self.repeats.extend(new);
        if !self.has_waited(0) {
            self.since = (!self.rows.is_empty() || !self.repeats.is_empty()).then(Instant::now);
        }
        self.left_to = self.rows.last().map_or(self.left_to, |row| row.seq);
        to
    }

    /// The transaction of the rows that were written ahead is gone.
    pub(super) fn ahead_is_lost(&mut self) {
        self.inserted = 0;
    }

    fn insert_to(&mut self, conn: &Connection, to: usize) -> rusqlite::Result<()> {
        if self.inserted == to {
            return Ok(());
        }
        let mut insert = conn.prepare_cached(record::INSERT)?;
        let mut before = None;
        let rows = self.rows.iter().enumerate().take(to);
        for (index, row) in rows.skip(self.inserted) {
            if let Some(columns) = self.columns_at(index) {
                let place = Some(row.place);
                let known = before.as_ref().map(|(columns, place)| (columns, *place));
                columns.insert(&mut insert, place, known)?;
                before = Some((columns, place));
            }
        }
        self.inserted = to;
        Ok(())
    }

    /// Writes the counts of repeats, once the events have their rows.
    pub(super) fn insert_repeats(&self, conn: &Connection) -> rusqlite::Result<()> {
        insert_repeats(conn, self.repeats.clone())
    }

    /// What the open transaction has changed is durable; `indexed`: with rows.
    pub(super) fn committed(&mut self, indexed: bool) {
        self.closed.clear();
        if indexed {
            self.inserted = 0;
            self.columns.clear();
            self.rows.clear();
            self.repeats.clear();
            self.since = None;
        }
        self.kept = self.rows.len();
        self.repeats_kept = self.repeats.len();
    }

    /// Nothing of the open transaction is left, nor of what was written ahead.
    pub(super) fn rolled_back(&mut self) {
        self.ahead_is_lost();
        for index in self.closed.drain(..) {
            if let Some(row) = self.rows.get_mut(index) {
                row.delivered_at = None;
            }
        }
        self.rows.truncate(self.kept);
        self.columns.truncate(self.rows.last().map_or(0, |row| row.end));
        self.repeats.truncate(self.repeats_kept);
        if self.rows.is_empty() && self.repeats.is_empty() {
            self.since = None;
        }
    }
}

fn insert_repeats(conn: &Connection, mut repeats: Vec<i64>) -> rusqlite::Result<()> {
    repeats.sort_unstable();
    let mut update = conn.prepare_cached("UPDATE event SET duplicates = duplicates + ?2 WHERE seq = ?1")?;
    for same in repeats.chunk_by(|one, other| one == other) {
        update.execute((same.first(), i64::try_from(same.len()).unwrap_or(i64::MAX)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many durable events, of which the first `delivered` are.
    fn unindexed(events: usize, delivered: usize) -> Unindexed {
        let mut unindexed = Unindexed::default();
        for seq in 1..=i64::try_from(events).unwrap() {
            let columns = Columns {
                seq,
                ..Columns::default()
            };
            unindexed.write(&columns);
            let place = Place {
                segment: 1,
                offset: 10 * seq,
                head_bytes: 3,
            };
            unindexed.put(seq, place, 4);
        }
        unindexed.committed(false);
        for seq in 1..=i64::try_from(delivered).unwrap() {
            assert!(unindexed.close(seq, 7));
        }
        unindexed
    }

    #[test]
    fn a_few_that_are_not_delivered_may_wait_behind_some_that_are() {
        for (events, delivered, may_wait) in [
            (0, 0, false),
            (10, 0, false),
            (10, 1, true),
            (10, 10, true),
            (ROWS_LEFT + 1, 1, true),
            (ROWS_LEFT + 2, 1, false),
            (ROWS_LEFT + 2, 2, true),
        ] {
            let unindexed = unindexed(events, delivered);
            assert_eq!(
                unindexed.may_wait_for_delivery(),
                may_wait,
                "{delivered} of {events}"
            );
        }
        // What is left waits once, also behind others that were delivered meanwhile.
        let mut left = unindexed(10, 5);
        left.inserted = 5;
        assert_eq!(left.delivered_are_committed(), 6);
        assert!(left.close(6, 7));
        assert!(!left.may_wait_for_delivery());
        let since = left.since;
        left.inserted = 1;
        assert_eq!(left.delivered_are_committed(), 7);
        assert_eq!(left.since, since, "it does not begin to wait anew");
        for seq in 7..=10 {
            assert!(left.close(seq, 7));
        }
        assert!(left.may_wait_for_delivery());
    }

    #[test]
    fn rows_written_ahead_are_committed_once_they_are_enough_or_have_waited() {
        let mut unindexed = unindexed(ROWS_COMMITTED_AHEAD, ROWS_COMMITTED_AHEAD);
        unindexed.inserted = ROWS_COMMITTED_AHEAD - 1;
        assert!(!unindexed.commit_is_due());
        unindexed.inserted += 1;
        assert!(unindexed.commit_is_due());
        unindexed.inserted = 1;
        assert!(!unindexed.commit_is_due());
        unindexed.since = Instant::now().checked_sub(COMMITTED_AHEAD_WAIT);
        assert!(unindexed.commit_is_due());
        unindexed.inserted = 0;
        assert!(!unindexed.commit_is_due(), "there is nothing");
    }

    #[test]
    fn what_was_committed_is_taken_out_of_the_open_transaction() {
        let mut unindexed = unindexed(6, 3);
        [2, 5, 9].into_iter().for_each(|seq| unindexed.repeat(seq));
        unindexed.committed(false);
        unindexed.repeat(1);
        assert!(unindexed.close(4, 8));
        assert!(unindexed.close(6, 8));
        unindexed.inserted = 4;
        let changes = unindexed.changes();
        let [(1, change)] = changes[..] else {
            panic!("{changes:?}")
        };
        let bytes = 4 * Change::of_event(7);
        assert_eq!((change.events, change.bytes), (4, bytes));
        assert_eq!((change.first, change.last, change.end), (1, 4, 47));
        assert_eq!(unindexed.delivered_are_committed(), 5);
        assert_eq!((unindexed.len(), unindexed.kept, unindexed.inserted), (2, 2, 0));
        assert_eq!(
            (&unindexed.repeats[..], unindexed.repeats_kept),
            (&[5, 9, 1][..], 2)
        );
        let states = |unindexed: &Unindexed| {
            [4, 5, 6].map(|seq| unindexed.columns(seq).map(|columns| (columns.seq, columns.state)))
        };
        let delivered = Some((6, state::DELIVERED));
        assert_eq!(states(&unindexed), [None, Some((5, 0)), delivered]);
        // What it closed itself goes with it, and only that.
        unindexed.rolled_back();
        assert_eq!(states(&unindexed), [None, Some((5, 0)), Some((6, 0))]);
        assert_eq!(&unindexed.repeats[..], &[5, 9]);
    }
}
