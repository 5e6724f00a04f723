//! Reading headers and bodies back from the files that `segments` writes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::Row as SqlRow;
use rusqlite::ffi::{self, SQLITE_CANTOPEN, SQLITE_IOERR_READ};

use super::seal::blob;

/// Files kept open for reading.
const OPEN_MAX: usize = 16;
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

    pub(super) fn forget(&self, segment: i64) {
        self.lock().remove(&segment);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
