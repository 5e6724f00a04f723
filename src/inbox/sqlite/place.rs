//! The folder of the store: its permissions, the lock on it, and what it stands on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::open::OpenError;
use crate::event::Timestamp;

const LOCK_FILE: &str = "inbox.lock";
/// The database; SQLite adds `-wal` and `-shm` with the same permissions.
pub(in crate::inbox) const DB_FILE: &str = "inbox.db";

/// Makes the folder if need be (0700), and those above it. The entry of each new one is synced: a store that cannot be found
/// again is lost.
pub(super) fn prepare(folder: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    if folder.is_dir() {
        // It may have been made a moment before we were killed. A parent that is not ours to read is somebody else's work.
        if !folder.join(DB_FILE).exists() {
            drop(sync_folder(parent(folder)));
        }
        // A folder that holds other things is not ours to lock others out of.
        if is_ours(folder).map_err(io)? {
            restrict(folder, 0o700)?;
        }
        return Ok(());
    }
    let new = missing(folder);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io)?;
    restrict(folder, 0o700)?;
    new.into_iter().try_for_each(|new| sync_folder(parent(new)))
}

/// The folder and those above it that are not there, the outermost first.
fn missing(folder: &Path) -> Vec<&Path> {
    let named = |path: &&Path| !path.as_os_str().is_empty();
    let mut missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| named(path) && !path.exists())
        .collect();
    missing.reverse();
    missing
}

fn parent(folder: &Path) -> &Path {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => folder,
    }
}

fn is_ours(folder: &Path) -> io::Result<bool> {
    Ok(folder.join(DB_FILE).exists() || std::fs::read_dir(folder)?.next().is_none())
}

/// Sets permissions whatever the umask is. A volume that belongs to somebody else but lets us write is left as it is.
fn restrict(path: &Path, mode: u32) -> Result<(), OpenError> {
    match std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(OpenError::Io {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Makes an empty database file (0600) if there is none, and tightens what is there. Must run before SQLite opens it:
/// closing any descriptor of the file would drop SQLite's own locks, and with an empty file SQLite throws the log away.
pub(super) fn prepare_db(folder: &Path, lock: &mut Lock) -> Result<PathBuf, OpenError> {
    let path = folder.join(DB_FILE);
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.len() == 0 && lock.made => {
            return Err(OpenError::Damaged {
                path: folder.to_owned(),
                reason: format!("{DB_FILE} is empty, and was not"),
            });
        }
        Ok(_) if wants_newer_sqlite(&path).map_err(io)? => {
            return Err(OpenError::Damaged {
                path: folder.to_owned(),
                reason: format!("the header of {DB_FILE} says that only a newer SQLite may write to it"),
            });
        }
        // Moved away: from here on it counts as never made.
        Err(error) if error.kind() == io::ErrorKind::NotFound && lock.made => {
            lock.write(false).map_err(io)?;
        }
        _ => {}
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    match made {
        Ok(file) => {
            file.sync_all().map_err(io)?;
            sync_folder(folder)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    for suffix in ["", "-wal", "-shm"] {
        let file = folder.join(format!("{DB_FILE}{suffix}"));
        if file.exists() {
            restrict(&file, 0o600)?;
        }
    }
    Ok(path)
}

/// Whether SQLite would take the database for one that it may only read: by its "file format write version", see
/// <https://sqlite.org/fileformat2.html#file_format_version_numbers>.
fn wants_newer_sqlite(db: &Path) -> io::Result<bool> {
    const WRITE_VERSION_AT: u64 = 18;
    const KNOWN: u8 = 2;
    let mut version = [0];
    match File::open(db)?.read_at(&mut version, WRITE_VERSION_AT) {
        Ok(1) => Ok(version[0] > KNOWN),
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a copy of a damaged file of the store is kept, beside it.
pub(super) fn damaged_copy(path: &Path, now: Timestamp) -> PathBuf {
    let mut copy = path.as_os_str().to_owned();
    copy.push(format!(".damaged-{}", now.0));
    copy.into()
}

/// Makes the folder's entries durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|source| OpenError::Io {
            path: folder.to_owned(),
            source,
        })
}

/// The lock of the store, and whether a database was ever made here.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) file: File,
    /// There is a database, whose file can never be empty again.
    pub(super) made: bool,
}

/// The second line of the lock file, once there is a database.
const MADE: &str = "made";

impl Lock {
    /// Notes that there is a database.
    pub(super) fn note_made(&mut self) -> io::Result<()> {
        if self.made { Ok(()) } else { self.write(true) }
    }

    fn write(&mut self, made: bool) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())?;
        if made {
            writeln!(self.file, "{MADE}")?;
        }
        self.made = made;
        Ok(())
    }
}

/// Takes the lock of the store; it lives as long as the file that is returned.
pub(super) fn lock(folder: &Path) -> Result<Lock, OpenError> {
    let path = folder.join(LOCK_FILE);
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    let mut text = String::new();
    let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    // What it says is a help, not a need.
    drop((&file).take(64).read_to_string(&mut text));
    let mut lines = text.lines();
    match locked {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::Locked {
                path: folder.to_owned(),
                pid: lines.next().and_then(|line| line.parse().ok()),
            });
        }
        Err(errno) => return Err(io(errno.into())),
    }
    let made = lines.nth(1) == Some(MADE);
    let mut lock = Lock { file, made };
    lock.write(made).map_err(io)?;
    Ok(lock)
}

/// Where it is tried whether there is room.
const PROBE_FILE: &str = "inbox.room";
const PROBE_BYTES: usize = 64 << 10;

/// Whether a write to a file that is `file_bytes` long would fail now for want of room: of space, of a quota, or below the
/// limit that the process has for its files. SQLite tells only the first of them from a failing disk.
pub(super) fn is_out_of_room(folder: &Path, file_bytes: u64) -> bool {
    let path = folder.join(PROBE_FILE);
    let tried = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            file.seek(io::SeekFrom::Start(file_bytes))?;
            file.write_all(&[1; PROBE_BYTES])
        });
    // What stays is written over by the next one.
    drop(std::fs::remove_file(&path));
    tried.is_err_and(|error| {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    })
}

/// The limit that the process has for the size of its files (`ulimit -f`).
pub(super) fn file_bytes_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// A file as it was found: the store is ours only as long as it is the same one.
#[derive(Debug)]
pub(super) struct Known {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Known {
    /// The file that is at `path` now.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let found = std::fs::metadata(&path)?;
        Ok(Self {
            path,
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Whether it is still there. What is written to a file that was removed is gone with the process.
    pub(super) fn check(&self) -> Result<(), String> {
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(format!("{:?} was replaced under the running gateway", self.path)),
            Err(error) => Err(format!(
                "{:?} was removed under the running gateway: {error}",
                self.path
            )),
        }
    }
}

/// Free bytes of the volume for ordinary users.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let figures = statvfs(folder)?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

/// Refuses folders on network file systems, and on ones that do not outlive a restart unless those are allowed.
pub(super) fn check_file_system(folder: &Path, allow_ephemeral: bool) -> Result<(), OpenError> {
    match kind(folder)? {
        Some(FileSystem::Network(name)) => Err(OpenError::NetworkFs {
            path: folder.to_owned(),
            fs: name,
        }),
        Some(FileSystem::Ephemeral(name)) if !allow_ephemeral => Err(OpenError::Ephemeral {
            path: folder.to_owned(),
            fs: name,
        }),
        _ => Ok(()),
    }
}

/// A kind of file system that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSystem {
    /// Gone after a restart of the machine or the pod.
    Ephemeral(&'static str),
    /// Locks and shared memory do not work as SQLite needs them.
    Network(&'static str),
}

#[cfg(target_os = "linux")]
fn kind(folder: &Path) -> Result<Option<FileSystem>, OpenError> {
    let io = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    let magic = rustix::fs::statfs(folder)
        .map_err(|errno| io(errno.into()))?
        .f_type;
    // The field is 32 or 64 bits wide, signed or not, by architecture.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the magic has 32 bits"
    )]
    if let Some(found) = by_magic(magic as u32) {
        return Ok(Some(found));
    }
    let folder = folder.canonicalize().map_err(io)?;
    // Without /proc there is no kubelet either.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(is_empty_dir(&mounts, &folder).then_some(FileSystem::Ephemeral("a Kubernetes emptyDir")))
}

#[cfg(not(target_os = "linux"))]
fn kind(_folder: &Path) -> Result<Option<FileSystem>, OpenError> {
    Ok(None)
}

/// The `*_MAGIC` numbers of `statfs(2)`.
#[cfg(any(target_os = "linux", test))]
fn by_magic(magic: u32) -> Option<FileSystem> {
    Some(match magic {
        0x0102_1994 => FileSystem::Ephemeral("tmpfs"),
        0x8584_58f6 => FileSystem::Ephemeral("ramfs"),
        0x794c_7630 => FileSystem::Ephemeral("overlayfs"),
        0x6969 => FileSystem::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => FileSystem::Network("SMB"),
        _ => return None,
    })
}

/// Whether the mount that holds `folder` is an emptyDir of the kubelet, by the path it was bound from.
#[cfg(any(target_os = "linux", test))]
fn is_empty_dir(mountinfo: &str, folder: &Path) -> bool {
    // Fields of a line (proc(5)): id, parent, device, root, mount point, ...; the last mount on a point counts.
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        if folder.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), root.contains("kubernetes.io~empty-dir")));
        }
    }
    best.is_some_and(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers() {
        assert_eq!(by_magic(0x0102_1994), Some(FileSystem::Ephemeral("tmpfs")));
        assert_eq!(by_magic(0x6969), Some(FileSystem::Network("NFS")));
        assert_eq!(by_magic(0xEF53), None, "ext4");
    }

    #[test]
    fn every_new_folder_is_known_and_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("a/b/store");
        let new: Vec<_> = missing(&store).into_iter().map(Path::to_owned).collect();
        assert_eq!(new, [dir.path().join("a"), dir.path().join("a/b"), store.clone()]);
        assert_eq!(parent(&new[0]), dir.path());
        prepare(&store).unwrap();
        assert!(missing(&store).is_empty());
        assert_eq!(
            missing(Path::new("no-such-folder")),
            [Path::new("no-such-folder")]
        );
        assert_eq!(parent(Path::new("no-such-folder")), Path::new("."));
        assert_eq!(parent(Path::new("/")), Path::new("/"));
    }

    #[test]
    fn empty_dirs_are_found_by_their_mount() {
        let pod = "21 1 8:1 / / rw - ext4 /dev/sda rw\n\
            30 21 8:1 /var/lib/kubelet/pods/x/volumes/kubernetes.io~empty-dir/data /data rw - ext4 /dev/sda rw\n\
            31 30 8:2 / /data/kept rw - ext4 /dev/sdb rw\n";
        for (name, folder, found) in [
            ("the mount itself", "/data", true),
            ("a folder in it", "/data/hooklatch", true),
            ("a real volume mounted below it", "/data/kept/hooklatch", false),
            ("elsewhere", "/var/lib/hooklatch", false),
            ("only the same prefix", "/database", false),
        ] {
            assert_eq!(is_empty_dir(pod, Path::new(folder)), found, "{name}");
        }
    }
}
