//! What a configuration takes from outside its text: variables, files and the time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::clock::{Clock, SystemClock};
use crate::event::Timestamp;

/// Largest secret, certificate or key file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file that a secret was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// What the messages call the secret; never its text.
    pub what: String,
    /// Where it is.
    pub path: PathBuf,
    /// As it was just before it was read.
    pub stamp: Option<FileStamp>,
}

/// What tells that a file was written or another one put in its place, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileStamp {
    /// The stamp of the file behind `path`, links followed; `None` when there is none.
    pub fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// Where variables, files and the time come from; tests bring their own.
pub trait Env {
    /// The variable's bytes; `None` when it is not set.
    fn var(&self, name: &str) -> Option<Vec<u8>>;

    /// The file's bytes.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file or is over 1 MiB.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What tells that the file has changed; `None` where there is nothing to tell it by.
    fn stamp(&self, _path: &Path) -> Option<FileStamp> {
        None
    }

    /// The wall clock's time, to tell a secret that has run out.
    fn now(&self) -> Timestamp;
}

/// The process's own variables and files: the only reader of the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        std::env::var_os(OsStr::new(name)).map(OsStringExt::into_vec)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        // A folder or a pipe would fail late or never end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("over 1 MiB"));
        }
        Ok(bytes)
    }

    fn stamp(&self, path: &Path) -> Option<FileStamp> {
        FileStamp::of(path)
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}
