//! The keys that the table `dedup` lacked when the store was closed, in a table that the first close makes: a start need not read
//! them of their events.
//!
//! They count while no event has come since. What was pruned since is in them still, and holds nothing: its event is gone.
//! Not in `meta`: of a table without numbers of its rows SQLite reads all of a large value to compare its name.

use rusqlite::{Connection, OptionalExtension};

use super::seal::body_hash;

/// One row: the number of the next event, each place with the number of its event, and a hash of all that.
const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS kept_keys (n INTEGER PRIMARY KEY CHECK (n = 1), keys BLOB NOT NULL) STRICT";
const EXISTS: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'kept_keys'";
/// Bytes of a number.
const NUMBER: usize = size_of::<i64>();

/// Writes them, each place once, in an open transaction.
pub(super) fn write(
    conn: &Connection,
    next_seq: i64,
    keys: impl Iterator<Item = (i64, i64)>,
) -> rusqlite::Result<()> {
    let mut bytes = Vec::from(next_seq.to_le_bytes());
    for (place, seq) in keys {
        bytes.extend(place.to_le_bytes());
        bytes.extend(seq.to_le_bytes());
    }
    bytes.extend(body_hash(&bytes));
    conn.execute(TABLE, [])?;
    conn.execute(
        "INSERT OR REPLACE INTO kept_keys (n, keys) VALUES (1, ?1)",
        [bytes],
    )
    .map(drop)
}

/// Places and the numbers of their events. `None`: there are none, or not those of a store whose next event is `next_seq`, or
/// they are damaged; then the events tell.
pub(super) fn read(conn: &Connection, next_seq: i64) -> Option<Vec<(i64, i64)>> {
    let found = || -> rusqlite::Result<Option<Vec<u8>>> {
        if !conn.prepare(EXISTS)?.exists([])? {
            return Ok(None);
        }
        conn.query_row("SELECT keys FROM kept_keys", [], |row| row.get(0))
            .optional()
    };
    let bytes = match found() {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::debug!(%error, "the keys that were kept at the close cannot be read");
            return None;
        }
    };
    let (kept, hash) = bytes.split_last_chunk()?;
    let (of, keys) = kept.split_first_chunk()?;
    if i64::from_le_bytes(*of) != next_seq || body_hash(kept) != *hash {
        return None;
    }
    let (numbers, rest) = keys.as_chunks::<NUMBER>();
    let (pairs, odd) = numbers.as_chunks::<2>();
    let whole = rest.is_empty() && odd.is_empty();
    whole.then(|| {
        let numbers =
            |[place, seq]: &[[u8; NUMBER]; 2]| (i64::from_le_bytes(*place), i64::from_le_bytes(*seq));
        pairs.iter().map(numbers).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_unless_it_is_another_stores_or_damaged() {
        let conn = Connection::open_in_memory().unwrap();
        assert_eq!(read(&conn, 9), None, "nothing was written");
        for keys in [vec![], vec![(i64::MIN, 3), (-1, 8), (i64::MAX, 1)]] {
            write(&conn, 9, keys.iter().copied()).unwrap();
            assert_eq!(read(&conn, 9).as_ref(), Some(&keys));
            assert_eq!(read(&conn, 10), None, "an event has come");
            let whole: Vec<u8> = conn
                .query_row("SELECT keys FROM kept_keys", [], |row| row.get(0))
                .unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                for bytes in [&damaged[..], &whole[..at]] {
                    conn.execute("UPDATE kept_keys SET keys = ?1", [bytes]).unwrap();
                    assert_eq!(read(&conn, 9), None, "at {at}");
                }
            }
        }
        conn.execute_batch(
            "DROP TABLE kept_keys; CREATE TABLE kept_keys (keys); INSERT INTO kept_keys VALUES ('text')",
        )
        .unwrap();
        assert_eq!(read(&conn, 9), None, "somebody else's");
    }
}
