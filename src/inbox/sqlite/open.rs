//! Opening the store: everything that can be wrong with it is found here, before anything listens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::committer::Committer;
use super::names::Names;
use super::schema;
use super::state::{Parts, Shared};
use super::{SqliteInbox, place};
use crate::clock::Clock;
use crate::inbox::Settings;
use crate::telemetry::Telemetry;

/// Corruption by a reset of the log, fixed in this version: <https://sqlite.org/wal.html#walresetbug>.
const SQLITE_MIN: i32 = 3_051_003;
/// A due time found at start lies at most this far ahead (ms): the longest wait, and a margin.
const WAIT_MAX: i64 = 65 * 60 * 1000;

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
    #[error("the store {path:?} cannot be read ({reason}); move it aside to start with an empty one")]
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
    place::prepare(folder)?;
    place::check_file_system(folder, settings.allow_ephemeral)?;
    let lock = place::lock(folder)?;
    let db = place::prepare_db(folder)?;
    let (conn, parts) = (|| {
        let conn = connect(&db, folder, settings)?;
        let parts = read_parts(&conn, folder, settings, db.clone(), clock, telemetry, lock)?;
        Ok((conn, parts))
    })()?;
    place::sync_folder(folder)?;
    let shared = Arc::new(Shared::new(parts));
    let sqlite = |source| sqlite_error(folder, source);
    clamp_due(&conn, &shared).map_err(sqlite)?;
    recount(&conn, &shared).map_err(sqlite)?;
    let next_seq = next_seq(&conn).map_err(sqlite)?;
    let committer = Committer::new(conn, shared.clone(), next_seq);
    SqliteInbox::start(shared, committer).map_err(|source| OpenError::Io {
        path: folder.to_owned(),
        source,
    })
}

fn sqlite_error(folder: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Damaged {
            path: folder.to_owned(),
            reason: source.to_string(),
        },
        _ => OpenError::Sqlite {
            path: folder.to_owned(),
            source,
        },
    }
}

fn connect(db: &Path, folder: &Path, settings: &Settings) -> Result<Connection, OpenError> {
    let sqlite = |source| sqlite_error(folder, source);
    let conn = Connection::open_with_flags(
        db,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    // Refuse before anything is changed.
    match schema::format_of(&conn).map_err(sqlite)? {
        Some(found) if found > schema::FORMAT => {
            return Err(OpenError::NewerFormat {
                path: folder.to_owned(),
                found,
                known: schema::FORMAT,
            });
        }
        Some(found) if found < 1 => {
            return Err(OpenError::Damaged {
                path: folder.to_owned(),
                reason: "inbox.db is not a hooklatch store".to_owned(),
            });
        }
        format => {
            schema::set_up_writer(&conn, settings.bytes_max).map_err(sqlite)?;
            if format.is_none() {
                let random = || {
                    let mut bytes = [0; 16];
                    getrandom::fill(&mut bytes)
                        .map(|()| bytes)
                        .map_err(|error| OpenError::Io {
                            path: folder.to_owned(),
                            source: std::io::Error::other(error),
                        })
                };
                schema::create(&conn, &random()?, &random()?).map_err(sqlite)?;
            }
        }
    }
    // What recovery found in the log may never have been synced: a copy of it must be, before a sender is told that
    // it is kept.
    let busy: i64 = conn
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(sqlite)?;
    if busy != 0 {
        return Err(OpenError::Held {
            path: folder.to_owned(),
        });
    }
    Ok(conn)
}

fn read_parts(
    conn: &Connection,
    folder: &Path,
    settings: &Settings,
    db: PathBuf,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    lock: std::fs::File,
) -> Result<Parts, OpenError> {
    let sqlite = |source| sqlite_error(folder, source);
    let bytes = |name: &str| {
        schema::meta_bytes(conn, name)
            .map_err(sqlite)?
            .ok_or_else(|| OpenError::Damaged {
                path: folder.to_owned(),
                reason: format!("meta has no {name}"),
            })
    };
    Ok(Parts {
        settings: settings.clone(),
        db,
        clock,
        telemetry,
        names: Names::load(conn).map_err(sqlite)?,
        store_id: bytes("store_id")?,
        hash_key: bytes("hash_key")?,
        alive_at: schema::meta_number(conn, "alive_at").map_err(sqlite)?,
        jumped_at: schema::meta_number(conn, "jumped_at").map_err(sqlite)?,
        lock,
    })
}

fn next_seq(conn: &Connection) -> rusqlite::Result<i64> {
    let stored = schema::meta_number(conn, "next_seq")?.unwrap_or(1);
    let highest: Option<i64> = conn.query_row("SELECT max(seq) FROM event", [], |row| row.get(0))?;
    Ok(stored.max(highest.unwrap_or(0) + 1))
}

/// A wait that was written by another wall clock must not last longer than the longest wait; where the clock was set back,
/// what is left of it is known.
fn clamp_due(conn: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let now = shared.steady.now();
    let limit = now.saturating_add(WAIT_MAX);
    let back = shared.jumps.set_back();
    let above = if back > 0 { now } else { limit };
    for lane in shared.names.lanes() {
        conn.execute(
            "UPDATE delivery SET due = min(due - ?2, ?3) WHERE upstream = ?1 AND status = 0 AND due > ?4",
            (lane.id, back, limit, above),
        )?;
    }
    Ok(())
}

/// Loads counts and the places where deliveries wait: from the index of open events, never from all events.
fn recount(conn: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let mut first_open: std::collections::HashMap<i64, i64> = std::collections::HashMap::new();
    let mut open = conn.prepare(
        "SELECT wants, count(*), min(seq), sum(bytes) FROM event INDEXED BY event_open WHERE state = 0 GROUP BY wants",
    )?;
    let mut rows = open.query([])?;
    while let Some(row) = rows.next()? {
        let (set, count, first, bytes): (i64, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Some(wants) = shared.names.set(set) else {
            continue;
        };
        wants.route.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        for lane in &wants.lanes {
            let done = if wants.lanes.len() == 1 {
                0
            } else {
                settled_of_open(conn, set, lane.id)?
            };
            lane.pending.fetch_add(count - done, Ordering::Relaxed);
            let known = first_open.entry(lane.id).or_insert(first);
            *known = first.min(*known);
        }
    }
    let mut dead = conn.prepare(
        "SELECT upstream, count(*) FROM delivery INDEXED BY delivery_dead WHERE status = 2 GROUP BY upstream",
    )?;
    let mut rows = dead.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(lane) = shared.names.lane_by_id(row.get(0)?) {
            lane.dead.store(row.get(1)?, Ordering::Relaxed);
        }
    }
    for lane in shared.names.lanes() {
        let due: Option<i64> = conn
            .prepare_cached(
                "SELECT min(due) FROM delivery INDEXED BY delivery_due WHERE upstream = ?1 AND status = 0",
            )?
            .query_row([lane.id], |row| row.get(0))?;
        lane.start(first_open.get(&lane.id).copied(), due);
    }
    let before = schema::meta_number(conn, "events_before")?.unwrap_or(1);
    let counted = schema::meta_number(conn, "events")?.unwrap_or(0);
    let since: i64 = conn.query_row("SELECT count(*) FROM event WHERE seq >= ?1", [before], |row| {
        row.get(0)
    })?;
    shared.figures.events.store(counted + since, Ordering::Relaxed);
    Ok(())
}

/// Deliveries of open events of a set that one lane has done with.
fn settled_of_open(conn: &Connection, set: i64, lane: i64) -> rusqlite::Result<i64> {
    conn.prepare_cached(
        "SELECT count(*) FROM event e INDEXED BY event_open JOIN delivery d ON d.seq = e.seq AND d.upstream = ?2
         WHERE e.state = 0 AND e.wants = ?1 AND d.status <> 0",
    )?
    .query_row((set, lane), |row| row.get(0))
}
