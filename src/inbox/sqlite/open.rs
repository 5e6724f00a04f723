//! Opening the store: everything that can be wrong with it is found here, before anything listens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
use rusqlite::{Connection, ErrorCode};

use super::committer::Committer;
use super::connect::connect;
use super::keys::Keys;
use super::names::{Names, NamesError};
use super::place::{Known, Lock};
use super::record::RecordKey;
use super::segments::Segments;
use super::state::{Parts, Shared};
use super::transaction::Beside;
use super::{SqliteInbox, place, recount, recover, schema, seal};
use crate::clock::Clock;
use crate::inbox::Settings;
use crate::telemetry::Telemetry;

/// Corruption by a reset of the log, fixed in this version: <https://sqlite.org/wal.html#walresetbug>.
const SQLITE_MIN: i32 = 3_051_003;

/// What to do with a store whose files are not what was written.
pub(super) const DAMAGED_ADVICE: &str = "move its folder aside to start with an empty one, or bring a copy of it back \
    (`sqlite3 inbox.db .recover` shows what is left of the events)";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it. Exit code 75.
    #[error(
        "the store {path:?} is in use by {}; only one hooklatch can run on a store",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that has it, if it could be read.
        pid: Option<u32>,
    },
    /// The folder does not outlive a restart.
    #[error(
        "the store {path:?} is on {fs}, which is lost on a restart; mount a volume there, or set allow_ephemeral = true"
    )]
    Ephemeral {
        /// The folder.
        path: PathBuf,
        /// What it is on.
        fs: &'static str,
    },
    /// Locks and shared memory do not work there.
    #[error("the store {path:?} is on {fs}; put it on a local disk or a block volume")]
    NetworkFs {
        /// The folder.
        path: PathBuf,
        /// What it is on.
        fs: &'static str,
    },
    /// A newer version wrote it.
    #[error(
        "the store {path:?} has format {found}, this version knows up to {known}; run the newer hooklatch"
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The highest format known.
        known: i64,
    },
    /// The SQLite that was linked has a known fault.
    #[error("SQLite {found} is too old: 3.51.3 or later is needed; build with the bundled one")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// The file is not a store, or not whole.
    #[error("the store {path:?} is damaged: {reason}; {DAMAGED_ADVICE}")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What SQLite or we found.
        reason: String,
    },
    /// What was recovered could not be made durable because a reader holds the log.
    #[error("the log of the store {path:?} is held by a reader; close other programs that have it open")]
    Held {
        /// The folder.
        path: PathBuf,
    },
    /// The volume, a quota or a limit of the process leaves no room for what must be written at a start.
    #[error(
        "there is no room for the store {path:?}: {reason}; make some, then start again: nothing is lost"
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A read, write or sync failed. Exit code 70.
    #[error("the store {path:?} failed: {reason}; check the disk, then start again")]
    Failed {
        /// The folder.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A file operation failed.
    #[error("{path:?}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("the store {path:?}: {source}")]
    Sqlite {
        /// The folder.
        path: PathBuf,
        /// What happened.
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// Whether the store itself failed, as it may do while running; else it is something around it.
    pub fn is_failure(&self) -> bool {
        const EIO: i32 = 5;
        match self {
            Self::Damaged { .. } | Self::Failed { .. } => true,
            Self::Io { source, .. } => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }

    /// What SQLite said of the store in `folder`.
    pub(super) fn of(folder: &Path, source: rusqlite::Error) -> Self {
        let (path, reason) = (folder.to_owned(), source.to_string());
        let extended = source.sqlite_error().map_or(0, |error| error.extended_code);
        let grows = matches!(extended, SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE);
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoRoom { path, reason },
            Some(ErrorCode::SystemIoFailure)
                if grows && place::is_out_of_room(folder, longest_file(folder)) =>
            {
                Self::NoRoom { path, reason }
            }
            Some(ErrorCode::SystemIoFailure) => Self::Failed { path, reason },
            // The last two: tables or values are not what they were made as.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
                Self::Damaged { path, reason }
            }
            Some(_) => Self::Sqlite { path, source },
        }
    }
}

fn longest_file(folder: &Path) -> u64 {
    let length = |name: String| std::fs::metadata(folder.join(name)).map_or(0, |found| found.len());
    length(place::DB_FILE.to_owned()).max(length(format!("{}-wal", place::DB_FILE)))
}

/// Opens the store in `settings.path`, making it if there is none, and starts its committer.
///
/// When this returns, everything the store holds is synced. Blocks for as long as that takes.
///
/// # Errors
/// See [`OpenError`]; nothing is listening yet, so all of them end the process.
pub fn open(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
) -> Result<Arc<SqliteInbox>, OpenError> {
    if rusqlite::version_number() < SQLITE_MIN {
        return Err(OpenError::OldSqlite {
            found: rusqlite::version(),
        });
    }
    let folder = settings.path.as_path();
    let io = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    place::prepare(folder)?;
    place::check_file_system(folder, settings.allow_ephemeral)?;
    let mut lock = place::lock(folder)?;
    let db = place::prepare_db(folder, &mut lock)?;
    let settings = within_limits(settings);
    let conn = connect(&db, &settings, lock.made, clock.now())?;
    place::sync_folder(folder)?;
    lock.note_made().map_err(io)?;
    let parts = read_parts(&conn, settings, db, clock, telemetry, lock)?;
    let record_key = RecordKey::of_store(&parts.hash_key);
    recover::recover(&conn, folder, record_key, parts.clock.now())?;
    let shared = Arc::new(Shared::new(parts));
    recount::recount(&conn, &shared)?;
    let next_seq = recount::next_seq(&conn).map_err(|error| OpenError::of(folder, error))?;
    shared.indexed_to.store(next_seq, Ordering::Release);
    let segments = Segments::open(folder, shared.settings.bytes_max, &conn, record_key)?;
    let keys = Keys::load(&conn, next_seq, shared.settings.bytes_max)
        .map_err(|error| OpenError::of(folder, error))?;
    let committer = Committer::new(conn, shared.clone(), Beside::new(segments, keys), next_seq);
    SqliteInbox::start(shared, committer).map_err(io)
}

/// The store is full before one of its files meets the limit that the process has for them.
fn within_limits(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    if let Some(limit) = place::file_bytes_max().filter(|limit| *limit < settings.bytes_max) {
        tracing::warn!(
            limit_bytes = limit,
            "ulimit -f is below max_bytes: the store is full there"
        );
        settings.bytes_max = limit;
    }
    settings
}

fn read_parts(
    conn: &Connection,
    settings: Settings,
    db: PathBuf,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    lock: Lock,
) -> Result<Parts, OpenError> {
    let folder = settings.path.clone();
    let sqlite = |source| OpenError::of(&folder, source);
    let damaged = |reason: String| OpenError::Damaged {
        path: folder.clone(),
        reason,
    };
    let bytes = |name: &str| {
        schema::meta_bytes(conn, name)
            .map_err(sqlite)?
            .ok_or_else(|| damaged(format!("meta has no {name}")))
    };
    let (store_id, hash_key) = (bytes("store_id")?, bytes("hash_key")?);
    if schema::meta_number(conn, "identity").map_err(sqlite)? != Some(seal::identity(&store_id, &hash_key)) {
        return Err(damaged(
            "store_id or hash_key is not what was made with it".to_owned(),
        ));
    }
    let names = Names::load(conn).map_err(|error| match error {
        NamesError::Sqlite(error) => sqlite(error),
        torn => damaged(torn.to_string()),
    })?;
    let known = |path: PathBuf| Known::at(path.clone()).map_err(|source| OpenError::Io { path, source });
    let files = [
        known(db.clone())?,
        known(folder.join(format!("{}-wal", place::DB_FILE)))?,
    ];
    Ok(Parts {
        alive_at: schema::meta_number(conn, "alive_at").map_err(sqlite)?,
        jumped_at: schema::meta_number(conn, "jumped_at").map_err(sqlite)?,
        settings,
        db,
        clock,
        telemetry,
        names,
        store_id,
        hash_key,
        lock: lock.file,
        files,
    })
}
