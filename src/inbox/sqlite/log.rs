//! The write-ahead log as a file: what SQLite's recovery leaves out.
//!
//! Recovery takes the log up to the first frame that is not whole. After a power cut that is its proper end: the last
//! transaction was never synced. Whole commits of the same log *behind* that end mean that a frame which was synced has been
//! damaged since, and that events which were acknowledged are gone. SQLite says nothing of it.
//!
//! The format: <https://sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// The two forms of the magic number; the last bit says how checksums read their words.
const MAGIC: u32 = 0x377f_0682;

/// How many synced commits, at least, lie in the log at `path` behind its first `frames` frames, which are all that recovery
/// found. One more may be a transaction that a power cut ended: nobody was told of that.
pub(super) fn lost_commits(path: &Path, frames: u64, page_bytes: u64) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let length = file.metadata()?.len();
    if length <= HEADER_BYTES {
        return Ok(0);
    }
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)?;
    let whole = is_whole(&header);
    let stride = FRAME_HEADER_BYTES + page_bytes;
    let count = (length - HEADER_BYTES) / stride;
    let mut salt = whole.then(|| slice(&header, 16));
    let mut commits = 0;
    for frame in frames..count {
        let mut head = [0; FRAME_HEADER_BYTES as usize];
        file.read_exact_at(&mut head, HEADER_BYTES + frame * stride)?;
        // Without its header the log is what its first frame belongs to.
        let salt = *salt.get_or_insert_with(|| slice(&head, 8));
        if slice(&head, 8) == salt && word(&head, 4) != 0 {
            commits += 1;
        }
    }
    // The header is synced before the first frame: if it is not whole, it was damaged, and nothing behind it is torn.
    Ok(commits - u64::from(whole && commits > 0))
}

/// Whether the header's checksum is right.
fn is_whole(header: &[u8; HEADER_BYTES as usize]) -> bool {
    let magic = word(header, 0);
    if magic & !1 != MAGIC {
        return false;
    }
    let read = |at: usize| {
        let big = word(header, at);
        if magic & 1 == 1 { big } else { big.swap_bytes() }
    };
    let (mut one, mut two) = (0_u32, 0_u32);
    for at in [0, 8, 16] {
        one = one.wrapping_add(read(at)).wrapping_add(two);
        two = two.wrapping_add(read(at + 4)).wrapping_add(one);
    }
    (one, two) == (word(header, 24), word(header, 28))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_be_bytes)
}

fn slice(bytes: &[u8], at: usize) -> u64 {
    (u64::from(word(bytes, at)) << 32) | u64::from(word(bytes, at + 4))
}
