//! What a stopped gateway was at, read from its write-ahead log and the index of it.
//!
//! Layouts: <https://sqlite.org/walformat.html>.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The index: two copies of its header, then what checkpoints have done.
const INDEX_BYTES: usize = 136;
const MAX_FRAME_AT: usize = 16;
const SALT_AT: usize = 32;
const COPIED_AT: usize = 96;
const COPYING_AT: usize = 128;
/// The log: its header, then frames of a header and a page each.
const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
const FRAME_SALT_AT: u64 = 8;
const PAGE_BYTES: u64 = 4096;

/// The log of a store.
#[derive(Debug)]
pub(super) struct Wal(PathBuf);

impl Wal {
    pub(super) fn of(store: &Path) -> Self {
        Self(store.to_owned())
    }

    /// Whether the log is being copied into the database.
    pub(super) fn in_checkpoint(&self) -> bool {
        self.index()
            .is_some_and(|index| number(&index, COPYING_AT) > number(&index, COPIED_AT))
    }

    /// Whether a commit is being written: the log holds frames that the index does not know yet.
    pub(super) fn in_commit(&self) -> bool {
        let Some(index) = self.index() else {
            return false;
        };
        let known = u64::from(number(&index, MAX_FRAME_AT));
        let at = LOG_HEADER_BYTES + known * (FRAME_HEADER_BYTES + PAGE_BYTES) + FRAME_SALT_AT;
        let mut salt = [0; 8];
        let read = File::open(self.0.join("inbox.db-wal")).and_then(|log| log.read_exact_at(&mut salt, at));
        read.is_ok() && salt[..] == index[SALT_AT..SALT_AT + 8]
    }

    /// Bytes of the log's file.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(self.0.join("inbox.db-wal")).map_or(0, |file| file.len())
    }

    fn index(&self) -> Option<[u8; INDEX_BYTES]> {
        let mut bytes = [0; INDEX_BYTES];
        File::open(self.0.join("inbox.db-shm"))
            .ok()?
            .read_exact_at(&mut bytes, 0)
            .ok()?;
        Some(bytes)
    }
}

/// The index is in the byte order of the machine.
fn number(index: &[u8; INDEX_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes(index[at..at + 4].try_into().unwrap())
}
