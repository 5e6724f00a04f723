//! What is counted once, at the start: from the index of open events, never from all events.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::number_map::NumberMap;
use super::open::OpenError;
use super::schema::{self, status};
use super::state::Shared;

/// A due time found at start lies at most this far ahead (ms): the longest wait, and a margin.
const WAIT_MAX: i64 = 65 * 60 * 1000;
/// After this many rows of deliveries of other events the next open event is looked up.
const PASSED_MAX: usize = 4;

/// The number of the next event.
pub(super) fn next_seq(conn: &Connection) -> rusqlite::Result<i64> {
    let stored = schema::meta_number(conn, "next_seq")?.unwrap_or(1);
    let highest: Option<i64> = conn.query_row("SELECT max(seq) FROM event", [], |row| row.get(0))?;
    Ok(stored.max(highest.unwrap_or(0).saturating_add(1)))
}

/// Loads counts, and the places where deliveries wait.
pub(super) fn recount(conn: &Connection, shared: &Shared) -> Result<(), OpenError> {
    let folder = shared.settings.path.as_path();
    let sqlite = |error| OpenError::of(folder, error);
    clamp_due(conn, shared).map_err(sqlite)?;
    let mut first_open = HashMap::new();
    for set in open_sets(conn).map_err(sqlite)? {
        if !count_set(conn, shared, &set, &mut first_open).map_err(sqlite)? {
            return Err(OpenError::Damaged {
                path: folder.to_owned(),
                reason: format!(
                    "{} pending events are for upstreams that are not named",
                    set.count
                ),
            });
        }
    }
    count_rows(conn, shared, &first_open).map_err(sqlite)
}

/// A wait that was written by another wall clock must not last longer than the longest wait; where the clock was set back,
/// what is left of it is known.
fn clamp_due(conn: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let now = shared.steady.now();
    let limit = now.saturating_add(WAIT_MAX);
    let back = shared.jumps.set_back();
    let above = if back > 0 { now } else { limit };
    for lane in shared.names.lanes() {
        conn.execute(
            "UPDATE delivery SET due = min(due - ?2, ?3) WHERE upstream = ?1 AND status = 0 AND due > ?4",
            (lane.id, back, limit, above),
        )?;
    }
    Ok(())
}

/// Open events of one set of upstreams.
struct OpenSet {
    set: i64,
    count: i64,
    first: i64,
    bytes: f64,
}

fn open_sets(conn: &Connection) -> rusqlite::Result<Vec<OpenSet>> {
    // `total`, since a sum of damaged numbers may not fit an integer.
    let mut select = conn.prepare(
        "SELECT wants, count(*), min(seq), total(bytes) FROM event INDEXED BY event_open WHERE state = 0 GROUP BY wants",
    )?;
    let sets = select.query_map([], |row| {
        Ok(OpenSet {
            set: row.get(0)?,
            count: row.get(1)?,
            first: row.get(2)?,
            bytes: row.get(3)?,
        })
    })?;
    sets.collect()
}

/// Counts what waits for the lanes of a set; false if there is no such set.
fn count_set(
    conn: &Connection,
    shared: &Shared,
    open: &OpenSet,
    first_open: &mut HashMap<i64, i64>,
) -> rusqlite::Result<bool> {
    let Some(wants) = shared.names.set(open.set) else {
        return Ok(false);
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "far below 2^53 in a store that is whole"
    )]
    let bytes = open.bytes as i64;
    wants.route.open_bytes.fetch_add(bytes, Ordering::Relaxed);
    let done = if wants.lanes.len() == 1 {
        NumberMap::default()
    } else {
        settled_of_open(conn, open.set)?
    };
    for lane in &wants.lanes {
        let done = done.get(&lane.id).copied().unwrap_or(0);
        lane.pending.fetch_add(open.count - done, Ordering::Relaxed);
        let known = first_open.entry(lane.id).or_insert(open.first);
        *known = open.first.min(*known);
    }
    Ok(true)
}

fn count_rows(conn: &Connection, shared: &Shared, first_open: &HashMap<i64, i64>) -> rusqlite::Result<()> {
    let mut dead = conn.prepare(
        "SELECT upstream, count(*) FROM delivery INDEXED BY delivery_dead WHERE status = 2 GROUP BY upstream",
    )?;
    let mut rows = dead.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(lane) = shared.names.lane_by_id(row.get(0)?) {
            lane.dead.store(row.get(1)?, Ordering::Relaxed);
        }
    }
    for lane in shared.names.lanes() {
        let due: Option<i64> = conn
            .prepare_cached(
                "SELECT min(due) FROM delivery INDEXED BY delivery_due WHERE upstream = ?1 AND status = 0",
            )?
            .query_row([lane.id], |row| row.get(0))?;
        lane.start(first_open.get(&lane.id).copied(), due);
    }
    let before = schema::meta_number(conn, "events_before")?.unwrap_or(1);
    let counted = schema::meta_number(conn, "events")?.unwrap_or(0);
    let since: i64 = conn.query_row("SELECT count(*) FROM event WHERE seq >= ?1", [before], |row| {
        row.get(0)
    })?;
    shared
        .figures
        .events
        .store(counted.saturating_add(since), Ordering::Relaxed);
    Ok(())
}

/// Deliveries of open events of a set that are done with, by lane.
///
/// Both tables are read side by side, in the order of their numbers: with a long backlog this is most of a start, and a look at the one
/// for each row of the other takes twice as long.
fn settled_of_open(conn: &Connection, set: i64) -> rusqlite::Result<NumberMap<i64>> {
    let mut select_open = conn.prepare_cached(
        "SELECT seq FROM event INDEXED BY event_open WHERE state = 0 AND wants = ?1 ORDER BY seq",
    )?;
    // Rows that do not count are passed over here, where they are counted: SQLite would pass over any number of them.
    let mut select_rows =
        conn.prepare_cached("SELECT seq, upstream, status FROM delivery WHERE seq >= ?1 ORDER BY seq")?;
    let mut open_events = select_open.query([set])?;
    let mut next_open = || open_events.next()?.map(|row| row.get::<_, i64>(0)).transpose();
    let mut settled = NumberMap::default();
    let mut open = next_open()?;
    while let Some(from) = open {
        let mut rows = select_rows.query([from])?;
        let mut passed = 0;
        while passed < PASSED_MAX {
            let Some(row) = rows.next()? else {
                return Ok(settled);
            };
            let seq: i64 = row.get(0)?;
            while open.is_some_and(|open| open < seq) {
                open = next_open()?;
            }
            if open != Some(seq) {
                passed += 1;
                continue;
            }
            passed = 0;
            // One that cannot be read is pending.
            let number = |index| row.get_ref(index).ok().and_then(|value| value.as_i64().ok());
            if let (Some(lane), Some(status::DELIVERED | status::DEAD)) = (number(1), number(2)) {
                *settled.entry(lane).or_default() += 1;
            }
        }
        // Only in a table that is out of order, which must not be read for ever.
        if open == Some(from) {
            open = next_open()?;
        }
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by a join.
    fn joined(conn: &Connection, set: i64) -> NumberMap<i64> {
        let mut select = conn
            .prepare(
                "SELECT d.upstream, count(*) FROM event e JOIN delivery d ON d.seq = e.seq
                 WHERE e.state = 0 AND e.wants = ?1 AND d.status <> 0 GROUP BY d.upstream",
            )
            .unwrap();
        let counts = select.query_map([set], |row| Ok((row.get(0)?, row.get(1)?)));
        counts.unwrap().map(Result::unwrap).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_settled_of_open_events_is_found_however_they_lie(
            runs in proptest::collection::vec((1_i64..40, 0_i64..2, 1_i64..3, 0_i64..3, 0_i64..4), 0..12),
        ) {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(
                "CREATE TABLE event (seq INTEGER PRIMARY KEY, state INTEGER, wants INTEGER, bytes INTEGER);
                 CREATE INDEX event_open ON event (wants, seq, bytes) WHERE state = 0;
                 CREATE TABLE delivery (seq INTEGER, upstream INTEGER, status INTEGER, PRIMARY KEY (seq, upstream)) WITHOUT ROWID;",
            )
            .unwrap();
            let mut seq = 0;
            for (events, state, set, deliveries, status) in runs {
                for _ in 0..events {
                    seq += 1;
                    let event = "INSERT INTO event VALUES (?1, ?2, ?3, 1)";
                    conn.execute(event, (seq, state, set)).unwrap();
                    for lane in 0..deliveries {
                        // 3: either, by turns.
                        let status = if status == 3 { seq % 3 } else { status };
                        let delivery = "INSERT INTO delivery VALUES (?1, ?2, ?3)";
                        conn.execute(delivery, (seq, lane, status)).unwrap();
                    }
                }
            }
            for set in 0..4 {
                prop_assert_eq!(settled_of_open(&conn, set).unwrap(), joined(&conn, set));
            }
        }
    }
}
