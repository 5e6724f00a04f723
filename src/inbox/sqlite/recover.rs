//! What a start after a crash finds in the files of bodies: events that were kept, and have no row yet.
//!
//! They get their rows before anything else is read. A record that is not whole is what a power cut left of a batch that
//! nobody was told of. Where batches that came later are whole, it was synced and has been damaged since: that is said, and
//! the file is kept for whoever can make something of it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::bodies::{Place, files_in, path_of, unreadable_file};
use super::open::OpenError;
use super::record::{self, Found, RecordKey};
use super::segments::Change;
use super::{place, recount, schema};
use crate::event::Timestamp;

/// How far the rows go.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    /// The newest file that has any.
    segment: i64,
    /// How much of it; `None` where the count of it is damaged.
    bytes: Option<u64>,
    /// The number of the next event.
    next_seq: i64,
}

/// A file that may have records without rows, from a place on.
#[derive(Debug, Clone, Copy)]
struct Unread {
    segment: i64,
    from: u64,
    /// No record from there on has a row.
    is_rest: bool,
}

/// What was met so far, to see what is missing.
#[derive(Debug)]
struct Chain {
    next_seq: i64,
    met: HashSet<i64>,
    /// The highest number of a first event of a transaction: all below it were kept.
    kept_to: i64,
}

/// Gives their rows to events that were kept without.
pub(super) fn recover(
    conn: &Connection,
    folder: &Path,
    key: RecordKey,
    now: Timestamp,
) -> Result<(), OpenError> {
    let io = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    let sqlite = |error| OpenError::of(folder, error);
    let indexed = Indexed::read(conn).map_err(sqlite)?;
    let files = indexed.files(folder).map_err(io)?;
    // First what is missing: once there are rows, nobody would see it.
    let mut chain = Chain::new(indexed.next_seq);
    let mut lost = 0;
    for unread in &files {
        let bytes = unread.read(folder).map_err(io)?;
        for (_, found) in records(&bytes, key) {
            let can_be_used = match found.columns.seq >= indexed.next_seq {
                true => {
                    chain.meet(found.columns.seq, found.batch);
                    is_known(conn, &found).map_err(sqlite)?
                }
                false => !unread.is_rest || has_row(conn, found.columns.seq).map_err(sqlite)?,
            };
            lost += u64::from(!can_be_used);
        }
    }
    lost += chain.lost();
    if lost > 0 {
        keep(folder, &files, now);
        tracing::error!(
            events = lost,
            "a file of bodies was damaged: events of the last commits are lost, have them sent again"
        );
    }
    let mut recovered = 0;
    for unread in &files {
        recovered += unread.recover(conn, folder, key, indexed.next_seq, now)?;
    }
    if recovered > 0 {
        tracing::info!(
            events = recovered,
            "events kept before a crash were given their rows"
        );
    }
    Ok(())
}

/// Keeps copies of files of which not all can be used.
fn keep(folder: &Path, files: &[Unread], now: Timestamp) {
    for Unread { segment, .. } in files {
        let path = path_of(folder, *segment);
        let copy = place::damaged_copy(&path, now);
        if let Err(error) = std::fs::copy(&path, &copy) {
            tracing::error!(%error, copy = %copy.display(), "a damaged file could not be kept");
        }
    }
}

/// Whether a record can have a row: its route and its upstreams are known, and its number is not another event's.
fn is_known(conn: &Connection, found: &Found<'_>) -> rusqlite::Result<bool> {
    let columns = &found.columns;
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM route WHERE id = ?1)
            AND (?2 = 0 OR EXISTS (SELECT 1 FROM upstream_set WHERE id = ?2))
            AND NOT EXISTS (SELECT 1 FROM event WHERE seq = ?3 AND seal <> ?4)",
    )?
    .query_row((columns.route, columns.wants, columns.seq, columns.seal), |row| {
        row.get(0)
    })
}

/// Whether an event names a file, with or without a row of its own.
fn is_named(conn: &Connection, segment: i64) -> rusqlite::Result<bool> {
    conn.prepare("SELECT 1 FROM event WHERE segment = ?1 LIMIT 1")?
        .exists([segment])
}

fn has_row(conn: &Connection, seq: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM event WHERE seq = ?1")?
        .exists([seq])
}

impl Unread {
    /// Gives rows to what is in the file; how many.
    fn recover(
        &self,
        conn: &Connection,
        folder: &Path,
        key: RecordKey,
        next_seq: i64,
        now: Timestamp,
    ) -> Result<u64, OpenError> {
        let io = |source| OpenError::Io {
            path: folder.to_owned(),
            source,
        };
        let sqlite = |error| OpenError::of(folder, error);
        let bytes = self.read(folder).map_err(io)?;
        let all = records(&bytes, key);
        let end = all.last().map_or(0, |(at, last)| at + last.end);
        let last_seq = all.last().map_or(0, |(_, last)| last.columns.seq);
        let has_no_count = self.from == 0 && self.is_rest;
        // Also events that have rows are in it.
        let is_older = |(at, first): &(usize, Found<'_>)| *at > 0 || first.columns.seq < next_seq;
        let recount = has_no_count && all.first().is_none_or(is_older);
        let mut usable = Vec::new();
        for (at, found) in all {
            if found.columns.seq >= next_seq && is_known(conn, &found).map_err(sqlite)? {
                usable.push((at, found));
            }
        }
        if !usable.is_empty() {
            let whole = bytes.get(..end).unwrap_or_default();
            self.write_anew(folder, whole).map_err(io)?;
        } else if has_no_count && !is_named(conn, self.segment).map_err(sqlite)? {
            // A batch that nobody was told of, or what is left of more: nothing names it.
            let path = path_of(folder, self.segment);
            let kept = place::damaged_copy(&path, now);
            tracing::warn!(kept = %kept.display(), "a file of bodies has no event that can be used: set aside");
            std::fs::rename(&path, &kept).map_err(io)?;
            return Ok(0);
        }
        insert(conn, self, &usable, recount, end, last_seq).map_err(sqlite)
    }

    /// What may be records without rows.
    fn read(&self, folder: &Path) -> io::Result<Vec<u8>> {
        let mut file = File::open(path_of(folder, self.segment))?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.from))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes what was read once more, and syncs it: after a sync that failed the kernel may hold pages for written that the
    /// disk does not have.
    fn write_anew(&self, folder: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .open(path_of(folder, self.segment))?;
        file.write_all_at(bytes, self.from)?;
        file.sync_data()
    }
}

/// Events that are kept in the files of `folder` and have no row yet: how many, and the number of the last.
pub(in crate::inbox) fn without_rows(conn: &Connection, folder: &Path) -> rusqlite::Result<(u64, i64)> {
    let (mut events, mut last) = (0, 0);
    let Some(hash_key) = schema::meta_bytes(conn, "hash_key")? else {
        return Ok((events, last));
    };
    let key = RecordKey::of_store(&hash_key);
    let indexed = Indexed::read(conn)?;
    for unread in indexed.files(folder).map_err(unreadable_file)? {
        let bytes = match unread.read(folder) {
            // What was in it has rows by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(unreadable_file)?,
        };
        for (_, found) in records(&bytes, key) {
            if found.columns.seq >= indexed.next_seq {
                events += 1;
                last = last.max(found.columns.seq);
            }
        }
    }
    Ok((events, last))
}

/// Whether every event up to number `last` has its row.
pub(in crate::inbox) fn has_rows(conn: &Connection, last: i64) -> rusqlite::Result<bool> {
    Ok(recount::next_seq(conn)? > last)
}

impl Indexed {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let next_seq = recount::next_seq(conn)?;
        let counted: Option<(i64, i64, i64)> = conn
            .query_row(
                "SELECT id, bytes, last_seq FROM segment ORDER BY id DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        let Some((segment, bytes, last_seq)) = counted else {
            return Ok(Self {
                segment: 0,
                bytes: None,
                next_seq,
            });
        };
        // The last event in it, while it is there, ends where what has rows ends.
        let end: Option<i64> = conn
            .query_row(
                "SELECT offset + head_bytes + body_bytes FROM event WHERE seq = ?1 AND segment = ?2",
                [last_seq, segment],
                |row| row.get(0),
            )
            .optional()?;
        let agree = end.is_none_or(|end| end == bytes);
        let bytes = u64::try_from(bytes).ok().filter(|_| agree);
        Ok(Self {
            segment,
            bytes,
            next_seq,
        })
    }

    /// The files in `folder` that may have records without rows.
    fn files(&self, folder: &Path) -> io::Result<Vec<Unread>> {
        let files = files_in(folder)?.split_off(&self.segment);
        let unread = files.into_iter().map(|(segment, length)| {
            let (from, is_rest) = match self.bytes.filter(|bytes| *bytes <= length) {
                _ if segment != self.segment => (0, true),
                Some(bytes) => (bytes, true),
                None => (0, false),
            };
            (from < length).then_some(Unread {
                segment,
                from,
                is_rest,
            })
        });
        Ok(unread.flatten().collect())
    }
}

/// The records in `bytes`, with their places. One of an earlier transaction than the record before it is what is left of one
/// that was taken back.
fn records(bytes: &[u8], key: RecordKey) -> Vec<(usize, Found<'_>)> {
    let (mut found, mut at, mut batch) = (Vec::new(), 0, i64::MIN);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match record::at_start(rest, key) {
            Some(record) => {
                if record.batch >= batch {
                    batch = record.batch;
                    found.push((at, record));
                }
                at += record.end;
            }
            None => match record::next_mark(rest) {
                Some(skip) => at += skip,
                None => break,
            },
        }
    }
    found
}

/// Inserts rows for the records of a file, of which all up to `end`, and up to number `last_seq`, is done with then; how many.
/// With `recount` the file has events that have rows, and no count of them.
fn insert(
    conn: &Connection,
    unread: &Unread,
    found: &[(usize, Found<'_>)],
    recount: bool,
    end: usize,
    last_seq: i64,
) -> rusqlite::Result<u64> {
    let segment = unread.segment;
    let offset = |within: usize| i64::try_from(unread.from + within as u64).unwrap_or(i64::MAX);
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let mut change = Change::default();
    if recount {
        count_named(&tx, segment)?;
    }
    for (at, record) in found {
        let columns = &record.columns;
        let place = Place {
            segment,
            offset: offset(at + record.headers_at),
            head_bytes: columns.head_bytes,
        };
        // One that has a row was counted with it.
        let is_new = !has_row(&tx, columns.seq)?;
        if is_new {
            columns.insert(&mut tx.prepare_cached(record::INSERT)?, Some(place), None)?;
        }
        let bytes = Change::of_event(columns.head_bytes + columns.body_bytes);
        change.add(Change {
            events: i64::from(is_new),
            bytes: if is_new { bytes } else { 0 },
            first: columns.seq,
            last: columns.seq,
            end: offset(at + record.end),
        });
    }
    change.record(&tx, segment)?;
    // Also the number of one that cannot be used: what it has no row of is not looked for again.
    tx.prepare_cached(
        "UPDATE segment SET bytes = max(bytes, ?2), last_seq = max(last_seq, ?3) WHERE id = ?1",
    )?
    .execute((segment, offset(end), last_seq))?;
    tx.commit()?;
    Ok(change.events.cast_unsigned())
}

/// Counts what events name of a file that has no count; a length that was damaged must not end the sum.
fn count_named(conn: &Connection, segment: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO segment (id, events, live_bytes, bytes, first_seq, last_seq)
         SELECT ?1, count(*), CAST(min(total(head_bytes + body_bytes + ?2), 1e15) AS INTEGER), 0, min(seq), max(seq)
         FROM event WHERE segment = ?1 HAVING count(*) > 0
         ON CONFLICT DO NOTHING",
    )?
    .execute((segment, Change::of_event(0)))?;
    Ok(())
}

impl Chain {
    fn new(next_seq: i64) -> Self {
        Self {
            next_seq,
            met: HashSet::new(),
            kept_to: next_seq,
        }
    }

    fn meet(&mut self, seq: i64, batch: i64) {
        self.met.insert(seq);
        self.kept_to = self.kept_to.max(batch);
    }

    /// How many events are missing of those that were kept.
    fn lost(&self) -> u64 {
        let kept = self.kept_to.saturating_sub(self.next_seq).max(0).cast_unsigned();
        let met = self
            .met
            .iter()
            .filter(|seq| (self.next_seq..self.kept_to).contains(seq));
        kept.saturating_sub(met.count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lost_where_a_later_transaction_shows_that_they_were_kept() {
        // Records of number and transaction; the next number is 5.
        for (case, records, lost) in [
            ("nothing", &[][..], 0),
            ("a chain", &[(5, 5), (6, 5), (7, 7)][..], 0),
            ("one of the last transaction", &[(5, 5), (7, 6)], 0),
            ("the last of the one before", &[(5, 5), (7, 7)], 1),
            ("the very first two", &[(7, 7)], 2),
            ("two in the last transaction", &[(5, 5), (7, 6), (9, 6)], 0),
            (
                "two, and a transaction behind",
                &[(5, 5), (7, 6), (9, 6), (10, 10)],
                2,
            ),
            ("one number twice", &[(5, 5), (5, 5), (7, 7)], 1),
        ] {
            let mut chain = Chain::new(5);
            for (seq, batch) in records {
                chain.meet(*seq, *batch);
            }
            assert_eq!(chain.lost(), lost, "{case}");
        }
    }
}
