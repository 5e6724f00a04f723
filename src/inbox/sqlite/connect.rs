//! The connection that writes: what is in the file is looked at, brought up to date and synced before it is used.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::log::lost_commits;
use super::open::OpenError;
use super::upgrade::upgrade;
use super::{place, schema};
use crate::event::Timestamp;
use crate::inbox::Settings;

/// A database of up to this many bytes is read and checked as a whole at every start. A larger one would take too long;
/// what is wrong with it shows when it is met.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// Opens the database `db`; one that was not `made` yet gets its tables. What it holds is synced when this returns.
pub(super) fn connect(
    db: &Path,
    settings: &Settings,
    made: bool,
    now: Timestamp,
) -> Result<Connection, OpenError> {
    let folder = settings.path.as_path();
    let sqlite = |source| OpenError::of(folder, source);
    let conn = Connection::open_with_flags(
        db,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    schema::leave_log_at_close(&conn).map_err(sqlite)?;
    // Refuse before anything is changed.
    let format = schema::format_of(&conn).map_err(sqlite)?;
    match format {
        Some(found) if found > schema::FORMAT => {
            return Err(OpenError::NewerFormat {
                path: folder.to_owned(),
                found,
                known: schema::FORMAT,
            });
        }
        Some(found) if found < 1 => return Err(damaged(folder, "inbox.db is not a hooklatch store")),
        None if made || file_bytes(db) > schema::PAGE_BYTES => {
            return Err(damaged(folder, "inbox.db has no tables any more"));
        }
        _ => {}
    }
    match format {
        Some(_) => {
            // Before the first write: it would go over what is left of a damaged log.
            check_log(&conn, folder, now)?;
            check_whole(&conn, db, folder)?;
        }
        None => schema::set_up_new(&conn).map_err(sqlite)?,
    }
    schema::set_up_writer(&conn, settings.bytes_max).map_err(sqlite)?;
    match format {
        Some(found) => {
            if found < schema::FORMAT {
                tracing::info!(from = found, to = schema::FORMAT, "upgrading the store");
                upgrade(&conn, found).map_err(sqlite)?;
            }
            if let Some(name) = schema::altered(&conn).map_err(sqlite)? {
                return Err(damaged(folder, &format!("{name} is not what it was made as")));
            }
        }
        None => schema::create(&conn, &random(folder)?, &random(folder)?).map_err(sqlite)?,
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

fn damaged(folder: &Path, reason: &str) -> OpenError {
    OpenError::Damaged {
        path: folder.to_owned(),
        reason: reason.to_owned(),
    }
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn random(folder: &Path) -> Result<[u8; 16], OpenError> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(OpenError::Io {
            path: folder.to_owned(),
            source: std::io::Error::other(error),
        }),
    }
}

/// Says what damage took from the log, and keeps the log for whoever can make something of it.
fn check_log(conn: &Connection, folder: &Path, now: Timestamp) -> Result<(), OpenError> {
    let log = folder.join(format!("{}-wal", place::DB_FILE));
    let io = |source| OpenError::Io {
        path: log.clone(),
        source,
    };
    let frames: i64 = conn
        .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))
        .map_err(|source| OpenError::of(folder, source))?;
    let frames = frames.max(0).cast_unsigned();
    let lost = lost_commits(&log, frames, schema::PAGE_BYTES).map_err(io)?;
    if lost == 0 {
        return Ok(());
    }
    let kept = place::damaged_copy(&log, now);
    std::fs::copy(&log, &kept).map_err(io)?;
    tracing::error!(
        commits = lost,
        kept = %kept.display(),
        "the log of the store was damaged: events of its last commits are lost, have them sent again"
    );
    Ok(())
}

/// Refuses a small store of which SQLite finds a page, an index or a value damaged: to write to it could damage more.
fn check_whole(conn: &Connection, db: &Path, folder: &Path) -> Result<(), OpenError> {
    if file_bytes(db) > CHECKED_BYTES_MAX {
        return Ok(());
    }
    let found: String = conn
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|source| OpenError::of(folder, source))?;
    match found.as_str() {
        "ok" => Ok(()),
        found => Err(damaged(folder, found.trim())),
    }
}
