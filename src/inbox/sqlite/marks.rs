//! What `proxy` mode remembers: the keys of requests that the upstream has taken, many to a row.
//!
//! Written lazily and never synced before an answer. A row a key would dirty a random page for each request.

use rusqlite::{Connection, OptionalExtension};

use super::jumps::AGREE;
use super::seal::{blob, readable};
use super::transaction::{Transaction, TxError};
use crate::event::{DedupKey, Timestamp};
use crate::inbox::ProxyMark;

/// The newest row is filled up to this many marks before another is begun.
const ROW_MARKS: usize = 1024;
/// Marks kept; beyond, the oldest rows go.
const KEPT_MARKS: i64 = 400_000;
/// Bytes of a mark: key, time, end.
const MARK_BYTES: usize = 32;
/// Bytes of a full row.
const ROW_BYTES: i64 = (ROW_MARKS * MARK_BYTES) as i64;

/// When the last mark of a row runs out, and its marks, where it has room for more.
type Marks = (i64, Option<Vec<u8>>);

/// Adds `marks`.
pub(super) fn store(tx: &Transaction<'_>, marks: &[ProxyMark]) -> Result<(), TxError> {
    let mut begun = false;
    // A row of all that came in a second would be held in memory several times over.
    for some in marks.chunks(ROW_MARKS) {
        begun |= add(tx, some)?;
    }
    // It looks at every row.
    if begun {
        forget_oldest(tx)?;
    }
    Ok(())
}

/// Adds some to the newest row, or in one of their own: whether that was begun.
fn add(tx: &Transaction<'_>, marks: &[ProxyMark]) -> Result<bool, TxError> {
    let Some(until) = marks.iter().map(|mark| mark.until.0).max() else {
        return Ok(false);
    };
    // Of a row that damage made unreadable only the number counts, and of a full one.
    let newest: Option<(i64, Option<Marks>)> = tx
        .conn
        .prepare_cached(
            "SELECT n, until, CASE WHEN length(marks) < ?1 THEN marks END FROM proxy_mark ORDER BY n DESC LIMIT 1",
        )?
        .query_row([ROW_BYTES], |row| {
            let rest = || Ok((row.get(1)?, row.get(2)?));
            Ok((row.get(0)?, readable(rest())?))
        })
        .optional()?;
    let (n, until, mut bytes) = match newest {
        Some((n, Some((latest, Some(bytes))))) => (n, latest.max(until), bytes),
        Some((n, _)) => (n.saturating_add(1), until, Vec::new()),
        None => (1, until, Vec::new()),
    };
    let begun = bytes.is_empty();
    bytes.extend(marks.iter().flat_map(written));
    tx.conn
        .prepare_cached("INSERT OR REPLACE INTO proxy_mark (n, until, marks) VALUES (?1, ?2, ?3)")?
        .execute((n, until, bytes))?;
    Ok(begun)
}

/// Removes the oldest rows, of more marks than are kept.
fn forget_oldest(tx: &Transaction<'_>) -> Result<(), TxError> {
    tx.conn
        .prepare_cached(
            "DELETE FROM proxy_mark WHERE n IN (SELECT n FROM
               (SELECT n, sum(length(marks) / 32) OVER (ORDER BY n DESC) AS newer FROM proxy_mark)
             WHERE newer > ?1)",
        )?
        .execute([KEPT_MARKS])?;
    Ok(())
}

/// Removes rows of which every mark has run out; how many.
pub(super) fn prune(tx: &Transaction<'_>, now: i64) -> Result<usize, TxError> {
    let removed = tx
        .conn
        .prepare_cached("DELETE FROM proxy_mark WHERE until < ?1")?
        .execute([now])?;
    Ok(removed)
}

/// Marks that have not run out. One from the future was made while the clock was wrong, and would not run out for as long.
pub(super) fn load(conn: &Connection, now: i64) -> rusqlite::Result<Vec<ProxyMark>> {
    let mut select = conn.prepare_cached("SELECT marks FROM proxy_mark WHERE until > ?1 ORDER BY n")?;
    let mut rows = select.query([now])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = blob(row, 0)?.unwrap_or_default();
        let marks = bytes.chunks_exact(MARK_BYTES).filter_map(read);
        found.extend(marks.filter(|mark| mark.until.0 > now && mark.at.0 <= now.saturating_add(AGREE)));
    }
    Ok(found)
}

fn written(mark: &ProxyMark) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    let (key, times) = bytes.split_at_mut(16);
    let (at, until) = times.split_at_mut(8);
    key.copy_from_slice(&mark.key.0);
    at.copy_from_slice(&mark.at.0.to_be_bytes());
    until.copy_from_slice(&mark.until.0.to_be_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Option<ProxyMark> {
    let (key, times) = bytes.split_first_chunk::<16>()?;
    let (at, until) = times.split_first_chunk::<8>()?;
    Some(ProxyMark {
        key: DedupKey(*key),
        at: Timestamp(i64::from_be_bytes(*at)),
        until: Timestamp(i64::from_be_bytes(until.try_into().ok()?)),
    })
}
