//! Headers and bodies in files beside the database: written once, where SQLite would write them twice.
//!
//! A file is appended to and never changed. What is appended of an event is a record (`record`) that has all of it, so that it
//! is kept once the file is synced: its row may come later (`unindexed`), and is made of the record after a crash
//! (`recover`). What a transaction left behind that did not succeed is cut off again. The rows hold the hashes. The table
//! `segment` counts what is still needed of a file, which goes when that is nothing, and how much of it has rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::ffi::{self, SQLITE_CANTOPEN, SQLITE_IOERR_READ};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use super::open::OpenError;
use super::place::{self, Known};
use super::record::{self, RecordKey};
use super::schema::as_i64;
use super::seal::blob;
use super::transaction::TxError;

/// What a record takes besides headers and body, about.
const RECORD_BYTES: i64 = 352;
/// Bytes of a file, about; of a small store's, less.
const FILE_BYTES: u64 = 32 << 20;
const FILE_BYTES_MIN: u64 = 256 << 10;
/// Files kept open for reading.
const OPEN_MAX: usize = 16;
/// What was written to be synced is not kept in a buffer longer than this.
const BUFFER_KEPT_BYTES: usize = 1 << 20;
/// Newest events that are asked whether they lie in a file without a row.
const NEWEST_EVENTS: i64 = 10_000;
const PREFIX: &str = "bodies-";

/// Where the headers of an event begin; its body follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of the file.
    pub(super) segment: i64,
    pub(super) offset: i64,
    pub(super) head_bytes: i64,
}

impl Place {
    /// Reads `segment, offset, head_bytes, body_bytes` from `column` on; `None`: headers and body are in the database.
    /// The length of the body comes with it.
    pub(super) fn read(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Option<(Self, i64)>> {
        let segment = row.get(column)?;
        if segment == 0 {
            return Ok(None);
        }
        let place = Self {
            segment,
            offset: row.get(column + 1)?,
            head_bytes: row.get(column + 2)?,
        };
        Ok(Some((place, row.get(column + 3)?)))
    }
}

/// What a failed read of a file means to whoever asks SQLite: a disk that fails, or descriptors that are short.
pub(super) fn unreadable_file(error: io::Error) -> rusqlite::Error {
    const EIO: i32 = 5;
    let code = match error.raw_os_error() {
        Some(EIO) => SQLITE_IOERR_READ,
        _ => SQLITE_CANTOPEN,
    };
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(code),
        Some(format!("reading bodies failed: {error}")),
    )
}

pub(super) fn path_of(folder: &Path, segment: i64) -> PathBuf {
    folder.join(format!("{PREFIX}{segment:010}"))
}

/// The numbers of the files in `folder`, with their lengths.
pub(super) fn files_in(folder: &Path) -> io::Result<BTreeMap<i64, u64>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.insert(number, entry.metadata()?.len());
        }
    }
    Ok(found)
}

/// The side that reads; any thread.
#[derive(Debug)]
pub(in crate::inbox) struct Bodies {
    folder: PathBuf,
    open: Mutex<HashMap<i64, Arc<File>>>,
}

impl Bodies {
    pub(in crate::inbox) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: Mutex::default(),
        }
    }

    /// Headers and body of an event's row that has `headers, body` of its payload from column `payload` on, and
    /// `segment, offset, head_bytes, body_bytes` from `place` on: as they were found, wherever they lie.
    pub(in crate::inbox) fn of_row(
        &self,
        row: &SqlRow<'_>,
        payload: usize,
        place: usize,
    ) -> rusqlite::Result<(Option<Bytes>, Option<Bytes>)> {
        let Some((place, body_bytes)) = Place::read(row, place)? else {
            let column = |at| blob(row, at).map(|found| found.map(Bytes::copy_from_slice));
            return Ok((column(payload)?, column(payload + 1)?));
        };
        let found = self.read(place, body_bytes).map_err(unreadable_file)?;
        Ok(found.map_or((None, None), |(headers, body)| (Some(headers), Some(body))))
    }

    /// The headers and the body at `place`; `None` where the file is gone or too short. They are what was found, to be
    /// checked against the hashes of the row.
    pub(super) fn read(&self, place: Place, body_bytes: i64) -> io::Result<Option<(Bytes, Bytes)>> {
        let Some(file) = self.file(place.segment)? else {
            return Ok(None);
        };
        let number = |number: i64| u64::try_from(number).ok();
        let (offset, head, body) = (number(place.offset), number(place.head_bytes), number(body_bytes));
        let (Some(offset), Some(head), Some(body)) = (offset, head, body) else {
            return Ok(None);
        };
        let length = head.saturating_add(body);
        if offset.saturating_add(length) > file.metadata()?.len() {
            return Ok(None);
        }
        let (Ok(length), Ok(head)) = (usize::try_from(length), usize::try_from(head)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut headers = Bytes::from(bytes);
        let body = headers.split_off(head);
        Ok(Some((headers, body)))
    }

    fn file(&self, segment: i64) -> io::Result<Option<Arc<File>>> {
        if let Some(file) = self.lock().get(&segment) {
            return Ok(Some(file.clone()));
        }
        let file = match File::open(path_of(&self.folder, segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => Arc::new(other?),
        };
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            // The oldest is read least.
            let oldest = open.keys().copied().min();
            oldest.map(|oldest| open.remove(&oldest));
        }
        open.insert(segment, file.clone());
        Ok(Some(file))
    }

    fn forget(&self, segment: i64) {
        self.lock().remove(&segment);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    /// The open transaction has written to a file.
    wrote: bool,
}

/// The file that is appended to.
#[derive(Debug)]
struct Current {
    segment: i64,
    file: File,
    known: Known,
    /// Up to where a committed transaction has written, and up to where this one has, or will.
    committed: u64,
    end: u64,
}

impl Current {
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
        self.changes.entry(current.segment).or_default().add(Change {
            events: 1,
            bytes: Change::of_event(as_i64((headers.len() + body.len()) as u64)),
            first: seq,
            last: seq,
            end: as_i64(current.end),
        });
        Ok(place)
    }

    /// An event needs its place no more.
    pub(super) fn release(&mut self, segment: i64, bytes: i64) {
        let change = self.changes.entry(segment).or_default();
        change.events -= 1;
        change.bytes -= Change::of_event(bytes);
    }

    /// Makes durable what the transaction has appended; whether there was anything.
    pub(super) fn sync(&mut self) -> Result<bool, TxError> {
        let (Some(current), false) = (&self.current, self.unwritten.is_empty()) else {
            return Ok(false);
        };
        self.wrote = true;
        let from = current.end - self.unwritten.len() as u64;
        current
            .file
            .write_all_at(&self.unwritten, from)
            .map_err(write_failed)?;
        current
            .file
            .sync_data()
            .map_err(|error| TxError::Final(format!("a sync of bodies failed: {error}")))?;
        // What was synced to a file that somebody removed is gone with us.
        current.known.check().map_err(TxError::Final)?;
        self.unwritten.clear();
        self.unwritten.shrink_to(BUFFER_KEPT_BYTES);
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
        }
        if let Some(current) = &mut self.current {
            self.taken += current.end - current.committed;
            current.committed = current.end;
        }
    }

    /// Nothing of the transaction is left, not on the disk either: its numbers and its place are used again, and `recover` must
    /// not find two events of one number.
    pub(super) fn rolled_back(&mut self) -> Result<(), TxError> {
        self.unwritten.clear();
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
            file,
            known: Known::at(path).map_err(write_failed)?,
            committed: 0,
            end: 0,
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
