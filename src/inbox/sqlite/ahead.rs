//! Writing to the database ahead of the transaction that it belongs to, while a sync is waited for.
//!
//! A machine with one core has nothing else to do then: all who send wait for that sync. What is written are rows of events that
//! were delivered, and keys, which wait for a transaction anyway. They are in one that is left open: whichever
//! writes next goes on with it and commits it, or takes it back. Until then nobody else sees anything of it, and after a crash
//! nothing is left of it: the events are kept by their records.
//!
//! Once they are enough they are committed beside such a sync too. All of it is of events that were durable before: it stands
//! whatever becomes of the transaction that is synced.

use std::time::Duration;

use rusqlite::Connection;

use super::keys::Keys;
use super::schema;
use super::segments::{Change, Segments};
use super::transaction::TxError;
use super::unindexed::Unindexed;

/// Only beside the sync of so many events is anything written ahead. With fewer of them under way that sync is what takes their
/// time, and by a thread of its own it takes longer. Tests of debug builds shall meet it all the time.
const EVENTS: i64 = if cfg!(debug_assertions) { 2 } else { 32 };
/// Keys that are merged at once: some 10 microseconds.
const KEYS: usize = 16;

/// Whether it is worth it beside the sync of `events` events.
pub(super) fn is_worth_it(events: i64, unindexed: &Unindexed) -> bool {
    events >= EVENTS && unindexed.has_ahead()
}

/// What [`sync`] did.
#[derive(Debug)]
pub(super) struct Synced {
    /// Something had been appended to files.
    pub(super) any: bool,
    /// Below this number every event has its row now; `None`: nothing was committed ahead.
    pub(super) indexed_to: Option<i64>,
}

/// Syncs what was appended to files, and writes ahead meanwhile; with `may_commit` also commits ahead.
pub(super) fn sync(
    conn: &Connection,
    segments: &mut Segments,
    unindexed: &mut Unindexed,
    keys: &mut Keys,
    may_commit: bool,
) -> Result<Synced, TxError> {
    let mut done = Ok(None);
    let any = segments.sync_beside(|| {
        if may_commit && unindexed.commit_is_due() {
            done = commit(conn, unindexed, keys).map(Some);
            return false;
        }
        write(conn, unindexed, keys).unwrap_or_else(|error| {
            done = Err(error);
            false
        })
    })?;
    let indexed_to = match done {
        Ok(committed) => committed.map(|(to, counted)| {
            segments.counted(counted);
            to
        }),
        // A log that could not be synced is not tried again.
        Err(TxError::Final(reason)) => return Err(TxError::Final(reason)),
        // Nobody waits for it. The next transaction that writes meets the error, if it lasts.
        Err(_) => {
            give_up(conn, unindexed, keys)?;
            None
        }
    };
    Ok(Synced { any, indexed_to })
}

/// Commits what was written ahead, and what can be of the rest. Below which number every event has its row now, and what the
/// counts of files have now.
fn commit(
    conn: &Connection,
    unindexed: &mut Unindexed,
    keys: &mut Keys,
) -> Result<(i64, Vec<(i64, Change)>), TxError> {
    let counted = unindexed.insert_delivered(conn)?;
    keys.merge_least(conn)?;
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok((unindexed.delivered_are_committed(), counted))
}

/// Writes a few rows or keys; whether there may be more.
fn write(conn: &Connection, unindexed: &mut Unindexed, keys: &mut Keys) -> Result<bool, TxError> {
    if conn.is_autocommit() {
        // Not while somebody else writes.
        conn.busy_timeout(Duration::ZERO)?;
        let begun = conn
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]));
        conn.busy_timeout(schema::LOCKED_WAIT)?;
        begun?;
    }
    if unindexed.has_ahead() {
        unindexed.insert_ahead(conn)?;
        return Ok(true);
    }
    keys.merge_some(conn, KEYS)
}

/// Takes back all that was written ahead.
fn give_up(conn: &Connection, unindexed: &mut Unindexed, keys: &mut Keys) -> Result<(), TxError> {
    unindexed.ahead_is_lost();
    keys.ahead_is_lost();
    // Some errors have rolled back already.
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")
            .map_err(|error| TxError::Final(error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bodies::Place;
    use super::super::record::Columns;
    use super::super::schema::state;
    use super::*;

    /// A database in a file, the events that wait for it, and the keys of the events before them, which wait too.
    struct Store {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        conn: Connection,
        unindexed: Unindexed,
        keys: Keys,
    }

    /// The keys of a generation of the smallest store are merged once there is the next.
    const MERGING: i64 = 4;

    impl Store {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("db");
            let conn = Connection::open(&path).unwrap();
            conn.pragma_update(None, "journal_mode", "WAL").unwrap();
            for table in ["event", "dedup", "meta", "segment"] {
                conn.execute_batch(&schema::sql_of(table).unwrap()).unwrap();
            }
            let mut keys = Keys::load(&conn, 1, 0).unwrap();
            (1..=MERGING).for_each(|seq| keys.take(seq, seq));
            keys.committed(MERGING + 1, true);
            keys.came(2);
            Self {
                _folder: folder,
                path,
                conn,
                unindexed: Unindexed::default(),
                keys,
            }
        }

        /// So many durable events from number `from` on.
        fn keep(&mut self, from: i64, count: i64) {
            self.take(from, count);
            self.unindexed.committed(false);
        }

        /// The same of an open transaction.
        fn take(&mut self, from: i64, count: i64) {
            for seq in from..from + count {
                let columns = Columns {
                    seq,
                    route: 1,
                    texts: Columns::default().texts.map(|_| Some(&b"x"[..])),
                    ..Columns::default()
                };
                self.unindexed.write(&columns);
                let place = Place {
                    segment: 1,
                    offset: seq,
                    head_bytes: 0,
                };
                self.unindexed.put(seq, place, 0);
            }
        }

        fn write_all(&mut self) -> Result<(), TxError> {
            while write(&self.conn, &mut self.unindexed, &mut self.keys)? {}
            Ok(())
        }

        /// Commits as a transaction does that writes.
        fn commit(&mut self) {
            if self.conn.is_autocommit() {
                self.conn.execute_batch("BEGIN").unwrap();
            }
            self.unindexed.insert(&self.conn).unwrap();
            self.unindexed.insert_repeats(&self.conn).unwrap();
            self.keys.merge(&self.conn).unwrap();
            self.conn.execute_batch("COMMIT").unwrap();
            self.unindexed.committed(true);
            self.keys.committed(1000, true);
        }

        fn other(&self) -> Connection {
            Connection::open(&self.path).unwrap()
        }

        fn settled(conn: &Connection) -> (i64, i64) {
            let sql = "SELECT (SELECT count(*) FROM event WHERE state = ?1 AND settled_at = 7), (SELECT count(*) FROM dedup)";
            conn.query_row(sql, [state::DELIVERED], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
        }
    }

    #[test]
    fn what_is_delivered_is_written_ahead_and_seen_with_the_next_transaction() {
        let mut store = Store::new();
        store.keep(1, 70);
        assert!(!is_worth_it(EVENTS, &store.unindexed), "nothing is delivered");
        (1..=32).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        assert!(is_worth_it(EVENTS, &store.unindexed));
        assert!(!is_worth_it(EVENTS - 1, &store.unindexed));
        store.write_all().unwrap();
        // Those that are delivered and make up steps of 2 or 16, and what is due of the keys.
        assert_eq!(Store::settled(&store.conn), (32, MERGING));
        assert_eq!(Store::settled(&store.other()), (0, 0));
        // A commit that does not write to the database leaves it as it is.
        store.keep(71, 3);
        store.keys.committed(74, false);
        (33..=48).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        store.unindexed.committed(false);
        store.write_all().unwrap();
        assert_eq!(Store::settled(&store.conn), (48, MERGING));
        store.commit();
        assert_eq!(Store::settled(&store.other()), (48, MERGING));
        let rows: i64 = store
            .other()
            .query_row("SELECT count(*) FROM event", [], |row| row.get(0))
            .unwrap();
        assert_eq!((rows, store.unindexed.len()), (73, 0));
    }

    #[test]
    fn rows_are_committed_up_to_the_first_event_that_is_not_delivered() {
        let numbers = |conn: &Connection, sql: &str| -> Vec<i64> {
            let mut select = conn.prepare(sql).unwrap();
            let columns = select.column_count();
            let mut rows = select.query([]).unwrap();
            let mut found = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                found.extend((0..columns).map(|column| row.get::<_, i64>(column).unwrap()));
            }
            found
        };
        let repeats = "SELECT seq, duplicates FROM event WHERE duplicates > 0 ORDER BY seq";
        let files = "SELECT id, events, first_seq, last_seq, bytes FROM segment";
        let mut store = Store::new();
        store.keep(1, 70);
        (1..=40)
            .filter(|seq| *seq != 31)
            .for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        [35, 3, 3].into_iter().for_each(|seq| store.unindexed.repeat(seq));
        store.unindexed.committed(false);
        assert!(!store.unindexed.commit_is_due(), "nothing is written");
        store.write_all().unwrap();
        assert!(store.unindexed.commit_is_due());
        assert_eq!(Store::settled(&store.other()), (0, 0));
        // What a transaction has done that is not durable yet stays with it.
        store.take(71, 5);
        store.unindexed.repeat(2);
        assert!(store.unindexed.close(31, 7));
        assert!(store.unindexed.close(41, 7));
        let (to, counted) = commit(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
        assert_eq!(to, 42, "what was delivered a moment ago is durable as well");
        assert_eq!(counted.len(), 1);
        assert_eq!(Store::settled(&store.other()), (41, MERGING));
        assert_eq!(
            numbers(&store.other(), "SELECT max(seq), count(*) FROM event"),
            [41, 41]
        );
        assert_eq!(numbers(&store.other(), repeats), [3, 2, 35, 1]);
        assert_eq!(numbers(&store.other(), files), [1, 41, 1, 41, 41]);
        assert!(!store.unindexed.commit_is_due());
        assert!(store.conn.is_autocommit());
        // The columns of the others are theirs still, and they are written with the next.
        assert_eq!(store.unindexed.len(), 34);
        assert!(store.unindexed.columns(41).is_none());
        assert_eq!(store.unindexed.columns(42).map(|columns| columns.seq), Some(42));
        store.unindexed.committed(false);
        store.keys.committed(76, true);
        (42..=75).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        store.write_all().unwrap();
        store.commit();
        assert_eq!(Store::settled(&store.other()), (75, MERGING));
        assert_eq!(
            numbers(&store.other(), "SELECT max(seq), count(*) FROM event"),
            [75, 75]
        );
        assert_eq!(numbers(&store.other(), repeats), [2, 1, 3, 2, 35, 1]);
    }

    #[test]
    fn repeats_of_events_without_rows_wait_for_them() {
        let mut store = Store::new();
        store.keep(1, 30);
        (1..=20).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        [20, 21, 22]
            .into_iter()
            .for_each(|seq| store.unindexed.repeat(seq));
        store.unindexed.committed(false);
        store.write_all().unwrap();
        store.unindexed.repeat(1);
        commit(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
        let counted = |store: &Store| -> i64 {
            let sql = "SELECT coalesce(sum(duplicates), 0) FROM event";
            store.other().query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(counted(&store), 1);
        // Those of an open transaction that fails are none.
        store.unindexed.rolled_back();
        store.commit();
        assert_eq!(counted(&store), 3);
    }

    #[test]
    fn what_could_not_be_committed_is_written_later() {
        let mut store = Store::new();
        store.keep(1, 40);
        (1..=32).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        store.unindexed.committed(false);
        store.write_all().unwrap();
        store
            .conn
            .execute_batch("SAVEPOINT one; DROP TABLE segment")
            .unwrap();
        let refused = commit(&store.conn, &mut store.unindexed, &mut store.keys);
        assert!(refused.is_err(), "{refused:?}");
        give_up(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
        assert_eq!(Store::settled(&store.conn), (0, 0));
        store.write_all().unwrap();
        let (to, _) = commit(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
        assert_eq!(to, 33);
        assert_eq!(Store::settled(&store.other()), (32, MERGING));
    }

    #[test]
    fn what_was_given_up_is_written_later() {
        for rolled_back_by_sqlite in [false, true] {
            let mut store = Store::new();
            store.keep(1, 40);
            (1..=32).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
            store.unindexed.committed(false);
            store.write_all().unwrap();
            if rolled_back_by_sqlite {
                store.conn.execute_batch("ROLLBACK").unwrap();
            }
            give_up(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
            assert!(store.conn.is_autocommit());
            assert_eq!(Store::settled(&store.conn), (0, 0));
            store.write_all().unwrap();
            assert_eq!(Store::settled(&store.conn), (32, MERGING));
            store.commit();
            assert_eq!(Store::settled(&store.other()), (32, MERGING));
        }
    }

    #[test]
    fn nobody_waits_for_somebody_else_who_writes() {
        let mut store = Store::new();
        store.keep(1, 40);
        (1..=32).for_each(|seq| assert!(store.unindexed.close(seq, 7)));
        let other = store.other();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let long = Duration::from_secs(10);
        store.conn.busy_timeout(long).unwrap();
        let started = std::time::Instant::now();
        let refused = store.write_all();
        assert!(matches!(refused, Err(TxError::Busy)), "{refused:?}");
        assert!(started.elapsed() < long);
        give_up(&store.conn, &mut store.unindexed, &mut store.keys).unwrap();
        drop(other);
        store.write_all().unwrap();
        assert_eq!(Store::settled(&store.conn), (32, MERGING));
    }
}
