//! The tables, the pragmas and the `meta` values of the store.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use super::keys::Keys;
use super::seal;

/// The format this build writes; a store of a lower one is brought up to it (`upgrade`), one of a higher one is refused.
///
/// 1: as first written. 2: `seal` in place of `head_hash`, and `identity` in `meta`. 3: bodies in files of their own, and the newest
/// dedup keys not in the table yet. 4: the newest events in those files alone, without rows yet.
pub(in crate::inbox) const FORMAT: i64 = 4;
/// `application_id` of the file, so that `file(1)` and we can tell it from any other database.
const APPLICATION_ID: i32 = 0x686b_6c74;
/// Bytes of a page.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Statements kept prepared per connection.
const STATEMENTS_CACHED: usize = 96;

/// How long the connection that writes waits while somebody else has the lock, and how long for an event whose sender waits
/// as well.
pub(super) const LOCKED_WAIT: Duration = Duration::from_millis(20);
pub(super) const LOCKED_WAIT_FOR_EVENT: Duration = Duration::from_secs(5);

/// `event.state`.
pub(in crate::inbox) mod state {
    /// At least one delivery is pending.
    pub(in crate::inbox) const OPEN: i64 = 0;
    /// Every upstream took it.
    pub(in crate::inbox) const DELIVERED: i64 = 1;
    /// No upstream wanted it.
    pub(in crate::inbox) const FILTERED: i64 = 2;
    /// Settled, and at least one delivery is dead.
    pub(in crate::inbox) const DEAD: i64 = 3;
}

/// `delivery.status`. A delivery without a row is pending while its event is open and was delivered at the first
/// attempt once it is not.
pub(in crate::inbox) mod status {
    /// Waiting for its next attempt.
    pub(in crate::inbox) const PENDING: i64 = 0;
    /// Taken.
    pub(in crate::inbox) const DELIVERED: i64 = 1;
    /// Given up.
    pub(in crate::inbox) const DEAD: i64 = 2;
}

/// `event.flags`.
pub(in crate::inbox) mod flag {
    /// The type came from an unsigned header.
    pub(in crate::inbox) const TYPE_UNSIGNED: i64 = 1;
    /// The signature matched and is enforced.
    pub(in crate::inbox) const VERIFIED: i64 = 2;
    /// The sender set an `Idempotency-Key`.
    pub(in crate::inbox) const IDEMPOTENCY_KEY: i64 = 4;
    // 8 was written by older builds and never read.
}

/// Times are milliseconds since the epoch. `received_at`, `keep_until` and `last_at` are wall time, the others steady time
/// (see `jumps`): wall time at the start of the process that wrote them plus monotonic time since. `due` of a delivery that
/// is done with is its seal. `event.segment` is the number of the file that holds headers and body (see `segments`); 0:
/// `payload` holds them.
const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE route (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE upstream (
  id INTEGER PRIMARY KEY, route INTEGER NOT NULL, name TEXT NOT NULL,
  parked_since INTEGER, resumed_at INTEGER NOT NULL DEFAULT 0, UNIQUE (route, name)) STRICT;
CREATE TABLE upstream_set (id INTEGER NOT NULL, upstream INTEGER NOT NULL, PRIMARY KEY (id, upstream))
  STRICT, WITHOUT ROWID;
CREATE TABLE event (
  seq INTEGER PRIMARY KEY, route INTEGER NOT NULL, state INTEGER NOT NULL, wants INTEGER NOT NULL,
  bytes INTEGER NOT NULL, received_at INTEGER NOT NULL, settled_at INTEGER NOT NULL, keep_until INTEGER NOT NULL,
  flags INTEGER NOT NULL, key_kind INTEGER NOT NULL, duplicates INTEGER NOT NULL DEFAULT 0,
  conflicts INTEGER NOT NULL DEFAULT 0, body_bytes INTEGER NOT NULL, seal INTEGER NOT NULL,
  body_hash BLOB NOT NULL, dedup_key BLOB, event_id TEXT, event_type TEXT, provider TEXT NOT NULL,
  method TEXT NOT NULL, path_rest TEXT NOT NULL, query TEXT, host TEXT NOT NULL, client TEXT NOT NULL, secret TEXT,
  event_key TEXT, possible_duplicate_of TEXT, segment INTEGER NOT NULL DEFAULT 0, offset INTEGER NOT NULL DEFAULT 0, head_bytes INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX event_open ON event (wants, seq, bytes) WHERE state = 0;
CREATE TABLE payload (seq INTEGER PRIMARY KEY, headers BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE segment (
  id INTEGER PRIMARY KEY, events INTEGER NOT NULL, live_bytes INTEGER NOT NULL, bytes INTEGER NOT NULL,
  first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL) STRICT;
CREATE TABLE dedup (key INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE delivery (
  seq INTEGER NOT NULL, upstream INTEGER NOT NULL, status INTEGER NOT NULL, attempts INTEGER NOT NULL,
  due INTEGER NOT NULL, age_from INTEGER NOT NULL, last_at INTEGER, last_status INTEGER, last_error TEXT,
  PRIMARY KEY (seq, upstream)) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (upstream, due) WHERE status = 0;
CREATE INDEX delivery_dead ON delivery (seq, upstream) WHERE status = 2;
CREATE TABLE conflict (
  seq INTEGER NOT NULL, n INTEGER NOT NULL, received_at INTEGER NOT NULL, seal INTEGER NOT NULL,
  body_hash BLOB NOT NULL, flags INTEGER NOT NULL, event_type TEXT, method TEXT NOT NULL, query TEXT,
  host TEXT NOT NULL, client TEXT NOT NULL, secret TEXT, headers BLOB NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (seq, n)) STRICT;
CREATE TABLE proxy_mark (n INTEGER PRIMARY KEY, until INTEGER NOT NULL, marks BLOB NOT NULL) STRICT;
CREATE VIEW inbox AS SELECT
  e.seq, r.name AS route, e.event_id, e.event_type,
  strftime('%Y-%m-%dT%H:%M:%fZ', e.received_at / 1000.0, 'unixepoch') AS received,
  CASE e.state WHEN 0 THEN 'pending' WHEN 1 THEN 'delivered' WHEN 2 THEN 'filtered' ELSE 'dead' END AS status,
  (SELECT max(d.attempts) FROM delivery d WHERE d.seq = e.seq) AS attempts,
  (SELECT d.last_error FROM delivery d WHERE d.seq = e.seq ORDER BY d.last_at DESC LIMIT 1) AS last_error,
  e.duplicates, e.conflicts, e.body_bytes
  FROM event e JOIN route r ON r.id = e.route;
";

/// Settings of the one connection that writes.
pub(super) fn set_up_writer(conn: &Connection, bytes_max: u64) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    keep_plans(conn)?;
    conn.busy_timeout(LOCKED_WAIT)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // SQLite's own checkpoint hook drops its errors: the committer checkpoints itself.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    // More is no faster. Far more is slower: splitting an index page makes SQLite walk its whole cache at the COMMIT
    // (`balance_nonroot` parks a page at the far end of the file, and the end of a transaction forgets what lies beyond the
    // file).
    conn.pragma_update(None, "cache_size", -3_072)?;
    let wal_limit = (64 << 20).min(bytes_max / 8).max(PAGE_BYTES * 16);
    conn.pragma_update(None, "journal_size_limit", as_i64(wal_limit))?;
    conn.pragma_update(None, "max_page_count", as_i64((bytes_max / PAGE_BYTES).max(64)))?;
    Ok(())
}

/// Else SQLite parses a statement anew for each value that its plan may depend on: delivering a backlog would cost twice
/// as much. No index of ours needs a value to be known.
pub(super) fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// A failed store must not be synced again, and one that is refused must stay as it is: not even the last close may write.
pub(super) fn leave_log_at_close(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map(drop)
}

/// Settings that only take hold while the file is still empty. On a store that is there they would be one more write.
pub(super) fn set_up_new(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")
}

/// Settings of a connection that only reads.
pub(super) fn set_up_reader(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    keep_plans(conn)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cache_size", -4_096)?;
    Ok(())
}

/// Whether the file holds a schema at all, and of which format: `None` when it is new.
pub(super) fn format_of(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let application: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application != APPLICATION_ID {
        // Somebody else's database; 0 is no format of ours.
        return Ok(Some(0));
    }
    Ok(Some(meta_number(conn, "format")?.unwrap_or(0)))
}

/// Makes the tables of a new store, in one transaction.
pub(super) fn create(conn: &Connection, store_id: &[u8; 16], hash_key: &[u8; 16]) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.execute_batch(TABLES)?;
    let mut insert = conn.prepare("INSERT INTO meta (name, value) VALUES (?1, ?2)")?;
    insert.execute(("format", FORMAT))?;
    insert.execute(("store_id", &store_id[..]))?;
    insert.execute(("hash_key", &hash_key[..]))?;
    insert.execute(("next_seq", 1_i64))?;
    insert.execute(("events", 0_i64))?;
    insert.execute(("events_before", 1_i64))?;
    drop(insert);
    Keys::set_merged_to(conn, 0)?;
    insert_identity(conn)?;
    conn.execute_batch("COMMIT")
}

/// Seals what `meta` holds for good: with another `hash_key` every copy would be new, with another `store_id` an event
/// would change its key.
pub(super) fn insert_identity(conn: &Connection) -> rusqlite::Result<()> {
    let of = |name| meta_bytes(conn, name).map(Option::unwrap_or_default);
    let identity = seal::identity(&of("store_id")?, &of("hash_key")?);
    conn.execute(
        "INSERT INTO meta (name, value) VALUES ('identity', ?1)",
        [identity],
    )
    .map(drop)
}

/// A database of the tables alone.
fn model() -> rusqlite::Result<Connection> {
    let model = Connection::open_in_memory()?;
    model.execute_batch(TABLES)?;
    Ok(model)
}

/// How [`create`] makes the table `name`.
pub(super) fn sql_of(name: &str) -> rusqlite::Result<String> {
    model()?.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| {
        row.get(0)
    })
}

/// A table, an index or a view of ours that is not as [`create`] makes it. What others added beside them is not looked at.
pub(super) fn altered(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let model = model()?;
    let mut ours =
        model.prepare("SELECT name, type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let mut found = conn.prepare(
        "SELECT 1 FROM sqlite_schema WHERE name = ?1 AND type = ?2 AND tbl_name = ?3 AND sql = ?4",
    )?;
    let mut rows = ours.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let values: (&str, String, String, String) = (&name, row.get(1)?, row.get(2)?, row.get(3)?);
        if !found.exists(values)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A number from `meta`.
pub(super) fn meta_number(conn: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Sixteen bytes from `meta`.
pub(super) fn meta_bytes(conn: &Connection, name: &str) -> rusqlite::Result<Option<[u8; 16]>> {
    let found: Option<Vec<u8>> = conn
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(found.and_then(|bytes| bytes.try_into().ok()))
}

/// Sets a number in `meta`.
pub(super) fn set_meta(conn: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
    )?
    .execute((name, value))
    .map(drop)
}

/// Clamps into what SQLite can hold.
pub(super) fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
