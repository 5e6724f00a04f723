//! What a configuration takes from outside its text: variables, files and the time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::clock::{Clock, SystemClock};
use crate::event::Timestamp;

/// Largest secret, certificate or key file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where variables, files and the time come from; tests bring their own.
pub trait Env {
    /// The variable's bytes; `None` when it is not set.
    fn var(&self, name: &str) -> Option<Vec<u8>>;

    /// The file's bytes.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file or is over 1 MiB.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

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

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}
