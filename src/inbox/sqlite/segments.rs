//! Headers and bodies in files beside the database: written once, where SQLite would write them twice.
//!
//! A file is appended to and never changed. What is appended of an event is a record (`record`) that has all of it, so that it
//! is kept once the file is synced: its row may come later (`unindexed`), and is made of the record after a crash
//! (`recover`). What a transaction left behind that did not succeed is cut off again. The rows hold the hashes. The table
//! `segment` counts what is still needed of a file, which goes when that is nothing, and how much of it has rows.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::bodies::{Bodies, Place, files_in, path_of};
use super::open::OpenError;
use super::place::{self, Known};
use super::record::{self, RecordKey};
use super::schema::as_i64;
use super::syncer::Syncer;
use super::transaction::TxError;

/// What a record takes besides headers and body, about.
const RECORD_BYTES: i64 = 352;
/// Bytes of a file, about; of a small store's, less.
const FILE_BYTES: u64 = 32 << 20;
const FILE_BYTES_MIN: u64 = 256 << 10;
/// The system holds copies of what is written. Those of what is synced are given back in steps of so many bytes: what is written next
/// gets the same memory, which the core's caches still have, and a busy gateway does not fill the memory of its machine with bodies that
/// nobody reads again.
const COOLING_STEP_BYTES: u64 = 256 << 10;
/// But for the newest.
const WARM_BYTES: u64 = 512 << 10;
/// What is appended is gathered up to about this many bytes, which a core's cache holds, and handed to the system.
const GATHERED_BYTES: usize = 256 << 10;
/// Newest events that are asked whether they lie in a file without a row.
const NEWEST_EVENTS: i64 = 10_000;

/// The side that writes; the committer's.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    file_bytes: u64,
    next: i64,
    current: Option<Current>,
    key: RecordKey,
    /// Of the open transaction: bytes to write at the end of the current file, and what it changes in the counts.
    unwritten: Vec<u8>,
    changes: BTreeMap<i64, Change>,
    /// What changed before that is not in the counts yet.
    unrecorded: BTreeMap<i64, Change>,
    /// Bytes of all files.
    taken: u64,
    /// Files that the open transaction has filled.
    filled: Vec<Current>,
    /// The open transaction has written to a file, and not synced it since.
    wrote: bool,
    unsynced: bool,
    syncer: Syncer,
}

/// Lets the system use the memory again in which it holds `bytes` of a file, or with 0 all from there on. Advice: nothing depends
/// on whether it is taken.
#[cfg(target_os = "linux")]
fn give_back(file: &File, from: u64, bytes: u64) {
    use rustix::fs::{Advice, fadvise};
    fadvise(file, from, std::num::NonZeroU64::new(bytes), Advice::DontNeed).ok();
}

#[cfg(not(target_os = "linux"))]
fn give_back(_: &File, _: u64, _: u64) {}

/// The file that is appended to.
#[derive(Debug)]
struct Current {
    segment: i64,
    file: Arc<File>,
    known: Known,
    /// Up to where a committed transaction has written, and up to where this one has, or will.
    committed: u64,
    end: u64,
    /// Up to where the system's copies were given back.
    cooled: u64,
}

impl Current {
    /// Gives back the system's copies of what was committed, once they are a step.
    fn cool(&mut self) {
        let to = self.committed.saturating_sub(WARM_BYTES);
        let bytes = to.saturating_sub(self.cooled);
        if bytes >= COOLING_STEP_BYTES {
            give_back(&self.file, self.cooled, bytes);
            self.cooled = to;
        }
    }

    /// Takes away what no committed transaction has written, for good.
    fn take_back(&self) -> io::Result<()> {
        self.file.set_len(self.committed)?;
        self.file.sync_all()
    }
}

/// What a transaction changes in the counts of a file.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Change {
    pub(super) events: i64,
    pub(super) bytes: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    /// 0: nothing was appended.
    pub(super) end: i64,
}

impl Change {
    /// What an event with so many bytes of headers and body takes of a file, about.
    pub(super) fn of_event(bytes: i64) -> i64 {
        bytes.saturating_add(RECORD_BYTES)
    }

    /// One event that was appended, with so many bytes of headers and body, which end at `end`.
    pub(super) fn appended(seq: i64, bytes: i64, end: i64) -> Self {
        Self {
            events: 1,
            bytes: Self::of_event(bytes),
            first: seq,
            last: seq,
            end,
        }
    }

    /// `part`, the first of what was appended, is counted; whether anything is left.
    fn counted(&mut self, part: Self) -> bool {
        self.events -= part.events;
        self.bytes -= part.bytes;
        self.first = part.last.saturating_add(1);
        (self.events, self.bytes) != (0, 0) || self.end > part.end
    }

    pub(super) fn add(&mut self, later: Self) {
        self.events += later.events;
        self.bytes += later.bytes;
        if later.end > 0 {
            if self.end == 0 {
                self.first = later.first;
            }
            self.last = later.last;
            self.end = later.end;
        }
    }

    /// Writes it into the counts of a file.
    pub(super) fn record(self, conn: &Connection, segment: i64) -> rusqlite::Result<()> {
        if self.end == 0 {
            conn.prepare_cached(
                "UPDATE segment SET events = events + ?2, live_bytes = live_bytes + ?3 WHERE id = ?1",
            )?
            .execute((segment, self.events, self.bytes))?;
            return Ok(());
        }
        conn.prepare_cached(
            "INSERT INTO segment (id, events, live_bytes, bytes, first_seq, last_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET events = events + ?2, live_bytes = live_bytes + ?3, bytes = ?4,
               last_seq = ?6",
        )?
        .execute((segment, self.events, self.bytes, self.end, self.first, self.last))?;
        Ok(())
    }
}

impl Segments {
    /// Finds the files of the store in `folder`, and takes away those that no committed transaction has named.
    pub(super) fn open(
        folder: &Path,
        bytes_max: u64,
        conn: &Connection,
        key: RecordKey,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: folder.to_owned(),
            source,
        };
        let sqlite = |error| OpenError::of(folder, error);
        let mut files = files_in(folder).map_err(io)?;
        let highest: i64 = conn
            .query_row("SELECT coalesce(max(id), 0) FROM segment", [], |row| row.get(0))
            .map_err(sqlite)?;
        let newest: i64 = conn
            .query_row(
                "SELECT coalesce(max(segment), 0) FROM (SELECT segment FROM event ORDER BY seq DESC LIMIT ?1)",
                [NEWEST_EVENTS],
                |row| row.get(0),
            )
            .map_err(sqlite)?;
        let named = highest.max(newest);
        let next = files.keys().copied().fold(named, i64::max).saturating_add(1);
        let unnamed = files.split_off(&named.saturating_add(1)).into_keys();
        for segment in unnamed.chain(orphans(conn, &mut files).map_err(sqlite)?) {
            std::fs::remove_file(path_of(folder, segment)).map_err(io)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            file_bytes: (bytes_max / 64).clamp(FILE_BYTES_MIN, FILE_BYTES),
            next,
            current: None,
            key,
            unwritten: Vec::new(),
            changes: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            taken: files.values().sum(),
            filled: Vec::new(),
            wrote: false,
            unsynced: false,
            syncer: Syncer::start().map_err(io)?,
        })
    }

    /// Bytes of all files.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of the file that is written to.
    pub(super) fn longest(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.end)
    }

    /// Whether an event goes here.
    pub(super) fn takes(&self, headers: &[u8], body: &[u8]) -> bool {
        (headers.len() + body.len()) as u64 <= self.file_bytes / 2
    }

    /// Gives event `seq` a place; it is kept there once [`Segments::sync`] has returned. `batch` is the number of the first event
    /// of its transaction.
    pub(super) fn append(
        &mut self,
        seq: i64,
        batch: i64,
        columns: &[u8],
        headers: &[u8],
        body: &[u8],
    ) -> Result<Place, TxError> {
        let bytes = (record::overhead(columns) + headers.len() + body.len()) as u64;
        let fits = |current: &Current| current.end == 0 || current.end + bytes <= self.file_bytes;
        if !self.current.as_ref().is_some_and(fits) {
            self.sync()?;
            let next = self.make()?;
            self.filled.extend(self.current.replace(next));
        }
        let Some(current) = &mut self.current else {
            return Err(TxError::Final("there is no file for bodies".to_owned()));
        };
        let before = self.unwritten.len();
        let headers_at = record::write(&mut self.unwritten, self.key, batch, columns, headers);
        self.unwritten.extend_from_slice(body);
        let place = Place {
            segment: current.segment,
            offset: as_i64(current.end + (headers_at - before) as u64),
            head_bytes: as_i64(headers.len() as u64),
        };
        current.end += bytes;
        let appended = Change::appended(
            seq,
            as_i64((headers.len() + body.len()) as u64),
            as_i64(current.end),
        );
        self.changes.entry(current.segment).or_default().add(appended);
        if self.unwritten.len() >= GATHERED_BYTES {
            self.write()?;
        }
        Ok(place)
    }

    /// An event needs its place no more.
    pub(super) fn release(&mut self, segment: i64, bytes: i64) {
        let change = self.changes.entry(segment).or_default();
        change.events -= 1;
        change.bytes -= Change::of_event(bytes);
    }

    /// Hands what was gathered to the system.
    fn write(&mut self) -> Result<(), TxError> {
        let (Some(current), false) = (&self.current, self.unwritten.is_empty()) else {
            return Ok(());
        };
        (self.wrote, self.unsynced) = (true, true);
        let from = current.end - self.unwritten.len() as u64;
        current
            .file
            .write_all_at(&self.unwritten, from)
            .map_err(write_failed)?;
        self.unwritten.clear();
        self.unwritten.shrink_to(2 * GATHERED_BYTES);
        Ok(())
    }

    /// Makes durable what the transaction has appended; whether there was anything.
    pub(super) fn sync(&mut self) -> Result<bool, TxError> {
        self.sync_by(|_, file| file.sync_data())
    }

    /// As [`Segments::sync`], while which `work` is done as [`Syncer::sync`] does it.
    pub(super) fn sync_beside(&mut self, work: impl FnMut() -> bool) -> Result<bool, TxError> {
        self.sync_by(|syncer, file| syncer.sync(file, work))
    }

    fn sync_by(&mut self, sync: impl FnOnce(&Syncer, &Arc<File>) -> io::Result<()>) -> Result<bool, TxError> {
        self.write()?;
        let (Some(current), true) = (&self.current, self.unsynced) else {
            return Ok(false);
        };
        sync(&self.syncer, &current.file)
            .map_err(|error| TxError::Final(format!("a sync of bodies failed: {error}")))?;
        // What was synced to a file that somebody removed is gone with us.
        current.known.check().map_err(TxError::Final)?;
        self.unsynced = false;
        Ok(true)
    }

    /// Writes the counts, once every event that is in a file has its row: the last thing before a COMMIT.
    pub(super) fn record(&self, conn: &Connection) -> rusqlite::Result<()> {
        let mut all = self.unrecorded.clone();
        for (segment, change) in &self.changes {
            all.entry(*segment).or_default().add(*change);
        }
        all.into_iter()
            .try_for_each(|(segment, change)| change.record(conn, segment))
    }

    /// The first of what changed before the open transaction is in the counts, and durable there.
    pub(super) fn counted(&mut self, parts: Vec<(i64, Change)>) {
        for (segment, part) in parts {
            if let Entry::Occupied(mut entry) = self.unrecorded.entry(segment)
                && !entry.get_mut().counted(part)
            {
                entry.remove();
            }
        }
    }

    /// The transaction is durable; `recorded`: with the counts.
    pub(super) fn committed(&mut self, recorded: bool) {
        for (segment, change) in std::mem::take(&mut self.changes) {
            self.unrecorded.entry(segment).or_default().add(change);
        }
        if recorded {
            self.unrecorded.clear();
        }
        self.wrote = false;
        for full in self.filled.drain(..) {
            self.taken += full.end - full.committed;
            give_back(&full.file, full.cooled, 0);
        }
        if let Some(current) = &mut self.current {
            self.taken += current.end - current.committed;
            current.committed = current.end;
            current.cool();
        }
    }

    /// The transaction has failed, but what it wrote to files stays: a start may find its rows. Until then these events are
    /// none that the files are kept for.
    pub(super) fn stands(&mut self) {
        self.changes.retain(|_, change| {
            (change.events, change.bytes) = (0, 0);
            change.end > 0
        });
        self.committed(false);
    }

    /// Nothing of the transaction is left, not on the disk either: its numbers and its place are used again, and `recover` must
    /// not find two events of one number.
    pub(super) fn rolled_back(&mut self) -> Result<(), TxError> {
        self.unwritten.clear();
        self.unsynced = false;
        self.changes.clear();
        let failed =
            |error: io::Error| TxError::Final(format!("taking back what was written failed: {error}"));
        let mut removed = false;
        for full in self.filled.drain(..) {
            if full.committed > 0 {
                full.take_back().map_err(failed)?;
            } else {
                std::fs::remove_file(path_of(&self.folder, full.segment)).map_err(failed)?;
                removed = true;
            }
        }
        let wrote = std::mem::take(&mut self.wrote);
        if let Some(current) = &mut self.current {
            current.end = current.committed;
            if wrote {
                current.take_back().map_err(failed)?;
            }
        }
        if removed {
            self.sync_folder()?;
        }
        Ok(())
    }

    /// Begins a file; its name is durable.
    fn make(&mut self) -> Result<Current, TxError> {
        let path = path_of(&self.folder, self.next);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(write_failed)?;
        let segment = self.next;
        self.next += 1;
        self.sync_folder()?;
        Ok(Current {
            segment,
            file: Arc::new(file),
            known: Known::at(path).map_err(write_failed)?,
            committed: 0,
            end: 0,
            cooled: 0,
        })
    }

    /// The files that nothing names any more.
    pub(super) fn find_unused(&self, conn: &Connection) -> rusqlite::Result<Vec<i64>> {
        let current = self.current.as_ref().map_or(0, |current| current.segment);
        let mut found: Vec<i64> = conn
            .prepare_cached("SELECT id FROM segment WHERE events <= 0 AND id <> ?1")?
            .query_map([current], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        // Nor does a count that is wrong, or not up to date, take bodies along.
        found.retain(|segment| !self.unrecorded.contains_key(segment));
        let mut named = Ok(());
        found.retain(|segment| match is_named(conn, *segment) {
            Ok(is_named) => !is_named,
            Err(error) => {
                named = Err(error);
                false
            }
        });
        named.map(|()| found)
    }

    /// Takes a file away; its row is to follow.
    pub(super) fn remove(&mut self, segment: i64, bodies: &Bodies) -> Result<(), TxError> {
        bodies.forget(segment);
        let path = path_of(&self.folder, segment);
        let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(TxError::Final(format!("{}: {error}", path.display())));
            }
            _ => {}
        }
        self.taken = self.taken.saturating_sub(bytes);
        Ok(())
    }

    /// Makes it durable that files were made or removed: one that came back without its row would be taken for a new one.
    pub(super) fn sync_folder(&self) -> Result<(), TxError> {
        place::sync_folder(&self.folder).map_err(|error| TxError::Final(error.to_string()))
    }

    /// A file of which little is needed, with the numbers of the first and the last event in it.
    pub(super) fn sparse(&self, conn: &Connection) -> rusqlite::Result<Option<(i64, i64, i64)>> {
        let current = self.current.as_ref().map_or(0, |current| current.segment);
        conn.prepare_cached(
            "SELECT id, first_seq, last_seq FROM segment
             WHERE id <> ?1 AND events > 0 AND live_bytes < bytes / 4 ORDER BY live_bytes LIMIT 1",
        )?
        .query_row([current], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
    }
}

/// Takes out of `files` those without a row that no event names: a power cut can undo that a file was removed, and not that
/// its row was.
fn orphans(conn: &Connection, files: &mut BTreeMap<i64, u64>) -> rusqlite::Result<Vec<i64>> {
    let mut has_row = conn.prepare("SELECT 1 FROM segment WHERE id = ?1")?;
    let mut found = Vec::new();
    for segment in files.keys() {
        if !has_row.exists([segment])? {
            found.push(*segment);
        }
    }
    if !found.is_empty() {
        let mut named = conn.prepare("SELECT DISTINCT segment FROM event WHERE segment <> 0")?;
        let named: HashSet<i64> = named.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        found.retain(|segment| !named.contains(segment));
    }
    for segment in &found {
        files.remove(segment);
    }
    Ok(found)
}

fn is_named(conn: &Connection, segment: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM event e JOIN segment s ON s.id = ?1
           WHERE e.seq BETWEEN s.first_seq AND s.last_seq AND e.segment = ?1)",
    )?
    .query_row([segment], |row| row.get(0))
}

/// A write that failed for want of room goes by as it does for SQLite.
fn write_failed(error: io::Error) -> TxError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let text = format!("writing bodies failed: {error}");
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => TxError::Full,
        _ => TxError::Write(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, bytes_max: u64) -> (Connection, Segments) {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE event (seq INTEGER PRIMARY KEY, segment INTEGER);
             CREATE TABLE segment (id INTEGER PRIMARY KEY, events INTEGER, live_bytes INTEGER, bytes INTEGER,
               first_seq INTEGER, last_seq INTEGER)",
        )
        .unwrap();
        let key = RecordKey::of_store(&[1; 16]);
        let segments = Segments::open(folder, bytes_max, &conn, key).unwrap();
        (conn, segments)
    }

    #[test]
    fn a_transaction_longer_than_what_is_gathered_is_whole_or_gone() {
        // Files of 1 MiB, of which each transaction begins another one or two.
        let folder = tempfile::tempdir().unwrap();
        let (_conn, mut segments) = open(folder.path(), 64 << 20);
        let bodies = Bodies::new(folder.path());
        let (mut kept, mut seq) = (Vec::new(), 0);
        // The one that was begun last may be left, and is used next.
        let not_empty = || {
            let mut files = files_in(folder.path()).unwrap();
            files.retain(|_, length| *length > 0);
            files
        };
        for succeeds in [true, false, true, false, false, true, true] {
            let before = not_empty();
            let mut appended = Vec::new();
            for n in 0..13_u8 {
                seq += 1;
                let body = vec![n ^ u8::from(succeeds) << 7; 100_000 + usize::from(n)];
                let place = segments.append(seq, seq, b"columns", b"headers", &body).unwrap();
                appended.push((place, body));
            }
            if succeeds {
                assert!(segments.sync().unwrap());
                assert!(!segments.sync().unwrap(), "nothing is left to be synced");
                segments.committed(false);
                kept.extend(appended);
            } else {
                assert_ne!(not_empty(), before, "some of it was written");
                segments.rolled_back().unwrap();
                assert_eq!(not_empty(), before);
            }
            assert_eq!(segments.taken(), not_empty().values().sum::<u64>());
        }
        for (place, body) in &kept {
            let found = bodies.read(*place, as_i64(body.len() as u64)).unwrap().unwrap();
            assert_eq!(&found.0[..], b"headers");
            assert!(found.1 == body[..], "{place:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_removed_is_open_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        // Files of 256 KiB.
        let (_conn, mut segments) = open(folder.path(), 0);
        let bodies = Bodies::new(folder.path());
        for seq in 1..=6 {
            segments
                .append(seq, seq, b"columns", b"headers", &[0; 100_000])
                .unwrap();
            segments.sync().unwrap();
            segments.committed(false);
        }
        for segment in 1..=2 {
            segments.remove(segment, &bodies).unwrap();
        }
        // Its space is free once nobody has it open.
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let of =
            |link: &Path| link.starts_with(folder.path()) && link.to_string_lossy().ends_with("(deleted)");
        let found = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        assert_eq!(found.filter(|link| of(link)).count(), 0);
    }

    #[test]
    fn events_are_counted_once_however_many_are_at_a_time() {
        // Files of 256 KiB, of which these fill three.
        const EVENTS: i64 = 40;
        let body = [b'x'; 16 << 10];
        let all = "SELECT id, events, live_bytes, first_seq, last_seq, bytes FROM segment ORDER BY id";
        let counts = |parts: &[i64]| -> Vec<[i64; 6]> {
            let folder = tempfile::tempdir().unwrap();
            let (conn, mut segments) = open(folder.path(), 0);
            let mut appended = Vec::new();
            for seq in 1..=EVENTS {
                let place = segments.append(seq, seq, b"columns", b"headers", &body).unwrap();
                let bytes = place.head_bytes + body.len() as i64;
                appended.push((place.segment, Change::appended(seq, bytes, place.offset + bytes)));
            }
            segments.sync().unwrap();
            segments.committed(false);
            let mut appended = appended.into_iter();
            for count in parts {
                let mut parts: Vec<(i64, Change)> = Vec::new();
                for (segment, change) in appended.by_ref().take(*count as usize) {
                    match parts.last_mut() {
                        Some((last, sum)) if *last == segment => sum.add(change),
                        _ => parts.push((segment, change)),
                    }
                }
                for (segment, change) in &parts {
                    change.record(&conn, *segment).unwrap();
                }
                segments.counted(parts);
            }
            segments.record(&conn).unwrap();
            let mut select = conn.prepare(all).unwrap();
            let rows = select.query_map([], |row| {
                Ok([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ])
            });
            rows.unwrap().collect::<Result<_, _>>().unwrap()
        };
        let at_once = counts(&[]);
        assert_eq!(at_once.len(), 3);
        assert_eq!(at_once.iter().map(|counts| counts[1]).sum::<i64>(), EVENTS);
        for parts in [&[1][..], &[20], &[20, 19], &[1, 1, 1], &[39, 1], &[40], &[0, 40]] {
            assert_eq!(counts(parts), at_once, "{parts:?}");
        }
    }

    #[test]
    fn events_of_a_transaction_that_failed_and_stands_are_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (conn, mut segments) = open(folder.path(), 1 << 30);
        let transaction = |segments: &mut Segments, seq| {
            let place = segments
                .append(seq, seq, b"columns", b"headers", b"body")
                .unwrap();
            assert!(segments.sync().unwrap());
            place.segment
        };
        let segment = transaction(&mut segments, 1);
        segments.committed(false);
        transaction(&mut segments, 2);
        segments.release(segment, 11);
        segments.stands();
        let taken = segments.taken();
        let file = std::fs::metadata(path_of(folder.path(), segment)).unwrap();
        assert_eq!(taken, file.len());
        segments.record(&conn).unwrap();
        let counts = "SELECT events, live_bytes, first_seq, last_seq, bytes FROM segment";
        let found: (i64, i64, i64, i64, i64) = conn
            .query_row(counts, [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
            .unwrap();
        assert_eq!(found, (1, 11 + RECORD_BYTES, 1, 2, as_i64(taken)));
    }
}
