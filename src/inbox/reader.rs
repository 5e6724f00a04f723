//! The reading side for people: lists, single events, counts. Works beside a running gateway and without one.
//!
//! It opens the file read-only, but SQLite still needs to reach the `-wal` and `-shm` files beside it, so whoever reads
//! needs the permissions of the gateway's user.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row};

use super::sqlite::{
    Bodies, DB_FILE, FORMAT, Head, blob, delivery_status, event_state, flag, has_rows, open_reader, readable,
    seal_of_names, without_rows,
};
use super::{Selection, Status};
use crate::event::{Seq, Timestamp};

/// A gateway that runs writes rows sooner than this.
const ROWS_WAIT: Duration = Duration::from_millis(500);
/// Between two looks.
const ROWS_LOOK: Duration = Duration::from_millis(5);

/// Rows of one list.
pub const LIST_MAX: usize = 1_000;

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// There is no store.
    #[error("there is no store in {path:?}; name the folder that the gateway's [store] path names")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// An older version wrote it.
    #[error(
        "the store has format {found}, this version reads {known}; start the gateway once, it upgrades the store"
    )]
    OlderFormat {
        /// Its format.
        found: i64,
        /// The format known.
        known: i64,
    },
    /// A newer version wrote it.
    #[error("the store has format {found}, this version reads up to {known}; use the newer hooklatch")]
    NewerFormat {
        /// Its format.
        found: i64,
        /// The format known.
        known: i64,
    },
    /// It is something else, or not whole.
    #[error("the store is damaged: {0}; `sqlite3 inbox.db .recover` shows what is left of the events")]
    Damaged(String),
    /// SQLite refused.
    #[error("cannot read the store: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for ReaderError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
                Self::Damaged(error.to_string())
            }
            Some(_) => Self::Sqlite(error),
        }
    }
}

/// Reads a store; statements are short, so that the log can be copied between them.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: Connection,
    pub(super) bodies: Bodies,
    pub(super) without_rows: u64,
}

/// One event of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// Its number.
    pub seq: Seq,
    /// Its route.
    pub route: String,
    /// The preset.
    pub provider: String,
    /// The provider's id.
    pub event_id: Option<String>,
    /// The type.
    pub event_type: Option<String>,
    /// When it came.
    pub received_at: Timestamp,
    /// `Pending` while any delivery is; then `Dead` if any is; else `Delivered` or `Filtered`.
    pub status: Status,
    /// The signature was checked and enforced.
    pub verified: bool,
    /// The most attempts any of its deliveries took; 0 when all went well at once, or none was made.
    pub attempts: u32,
    /// The last error of any delivery.
    pub last_error: Option<String>,
    /// Repeats that came.
    pub duplicates: u64,
    /// Repeats with another body.
    pub conflicts: u64,
    /// Bytes of the body.
    pub body_bytes: u64,
}

/// Everything about one event.
#[derive(Debug, Clone)]
pub struct EventDetail {
    /// What a list shows.
    pub line: EventLine,
    /// The request's method.
    pub method: String,
    /// What a `/*` route matched after its prefix.
    pub path_rest: String,
    /// The query string.
    pub query: Option<String>,
    /// The `Host` that was asked for.
    pub host: String,
    /// The sender's address.
    pub client: String,
    /// The name of the secret that matched.
    pub secret: Option<String>,
    /// The kept header block; `None` when it is gone.
    pub headers: Option<Vec<u8>>,
    /// The body; `None` when it is gone.
    pub body: Option<Vec<u8>>,
    /// It is not what was received any more, and is never delivered so.
    pub corrupt: bool,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryLine>,
    /// The bodies that came under the same id.
    pub conflicting: Vec<ConflictLine>,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLine {
    /// The upstream.
    pub upstream: String,
    /// Its state.
    pub status: Status,
    /// The upstream is not in the configuration.
    pub parked: bool,
    /// Attempts made, as far as they were written: none while the first one goes well.
    pub attempts: u32,
    /// The upstream's last status.
    pub last_status: Option<u16>,
    /// The last error.
    pub last_error: Option<String>,
    /// When the last attempt ended.
    pub last_at: Option<Timestamp>,
    /// Not before this, when it waits for a retry.
    pub due: Option<Timestamp>,
}

/// A body that came under an id that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictLine {
    /// Counted from 1; `conflict` of a replay.
    pub n: u32,
    /// When it came.
    pub received_at: Timestamp,
    /// The body.
    pub body: Vec<u8>,
}

/// Events by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// With a pending delivery.
    pub pending: u64,
    /// Dead deliveries.
    pub dead: u64,
    /// All.
    pub events: u64,
}

const LINE: &str = "e.seq, r.name, e.provider, e.event_id, e.event_type, e.received_at, e.state, e.flags,
  (SELECT max(d.attempts) FROM delivery d WHERE d.seq = e.seq),
  (SELECT d.last_error FROM delivery d WHERE d.seq = e.seq AND d.last_error IS NOT NULL
     ORDER BY d.last_at DESC LIMIT 1),
  e.duplicates, e.conflicts, e.body_bytes";

impl Reader {
    /// Opens the store in the folder `path`.
    ///
    /// # Errors
    /// See [`ReaderError`].
    pub fn open(path: &Path) -> Result<Self, ReaderError> {
        let db = path.join(DB_FILE);
        if !db.is_file() {
            return Err(ReaderError::Missing {
                path: path.to_owned(),
            });
        }
        let conn = open_reader(&db)?;
        let found: i64 = conn.query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| {
            row.get(0)
        })?;
        match found {
            FORMAT => Ok(Self {
                without_rows: wait_for_rows(&conn, path)?,
                conn,
                bodies: Bodies::new(path),
            }),
            found if found > FORMAT => Err(ReaderError::NewerFormat { found, known: FORMAT }),
            found => Err(ReaderError::OlderFormat { found, known: FORMAT }),
        }
    }

    /// How many of the newest events were kept and could not be listed when this was opened: those that the gateway accepted
    /// just before it ended, until it starts again.
    pub fn without_rows(&self) -> u64 {
        self.without_rows
    }

    /// The newest events that match, below `before` if it is given, at most `limit` (and [`LIST_MAX`]).
    ///
    /// Of `filter` the fields route, upstream, status, since, until and type count; with status `Dead` every event with
    /// a dead delivery is listed, also while others of its deliveries are pending.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn list(
        &self,
        filter: &Selection,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<EventLine>, ReaderError> {
        let mut sql = format!("SELECT {LINE} FROM event e JOIN route r ON r.id = e.route WHERE e.seq < ?");
        let mut values = vec![Value::Integer(before.map_or(i64::MAX, |seq| seq.0))];
        if let Some(route) = &filter.route {
            sql.push_str(" AND r.name = ?");
            values.push(Value::Text(route.as_str().to_owned()));
        }
        if let Some(upstream) = &filter.upstream {
            sql.push_str(
                " AND e.wants IN (SELECT s.id FROM upstream_set s JOIN upstream u ON u.id = s.upstream WHERE u.name = ?)",
            );
            values.push(Value::Text(upstream.as_str().to_owned()));
        }
        if let Some(since) = filter.since {
            sql.push_str(" AND e.received_at >= ?");
            values.push(Value::Integer(since.0));
        }
        if let Some(until) = filter.until {
            sql.push_str(" AND e.received_at < ?");
            values.push(Value::Integer(until.0));
        }
        if let Some(event_type) = &filter.event_type {
            sql.push_str(" AND e.event_type = ?");
            values.push(Value::Text(event_type.to_string()));
        }
        match filter.status {
            None => {}
            Some(Status::Dead) => {
                sql.push_str(
                    " AND e.seq IN (SELECT seq FROM delivery INDEXED BY delivery_dead WHERE status = 2)",
                );
            }
            Some(Status::Pending) => sql.push_str(" AND e.state = 0"),
            Some(Status::Delivered) => sql.push_str(" AND e.state = 1"),
            Some(Status::Filtered) => sql.push_str(" AND e.state = 2"),
        }
        sql.push_str(" ORDER BY e.seq DESC LIMIT ?");
        values.push(Value::Integer(
            i64::try_from(limit.min(LIST_MAX)).unwrap_or(i64::MAX),
        ));
        let mut statement = self.conn.prepare_cached(&sql)?;
        let lines = statement.query_map(rusqlite::params_from_iter(values), line)?;
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// The names of all routes that events came by, or may come by.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn routes(&self) -> Result<Vec<String>, ReaderError> {
        let mut statement = self.conn.prepare_cached("SELECT name FROM route ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Everything about one event; `None` if it is not there (any more).
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn event(&self, seq: Seq) -> Result<Option<EventDetail>, ReaderError> {
        let sql = format!(
            "SELECT {LINE}, e.method, e.path_rest, e.query, e.host, e.client, e.secret, p.headers, p.body, e.wants,
               e.segment, e.offset, e.head_bytes, e.body_bytes
             FROM event e JOIN route r ON r.id = e.route LEFT JOIN payload p ON p.seq = e.seq WHERE e.seq = ?1"
        );
        let found = self
            .conn
            .prepare_cached(&sql)?
            .query_row([seq.0], |row| {
                let (headers, body) = self.bodies.of_row(row, 19, 22)?;
                let detail = EventDetail {
                    line: line(row)?,
                    method: text(row, 13)?.unwrap_or_default(),
                    path_rest: text(row, 14)?.unwrap_or_default(),
                    query: text(row, 15)?,
                    host: text(row, 16)?.unwrap_or_default(),
                    client: text(row, 17)?.unwrap_or_default(),
                    secret: text(row, 18)?,
                    headers: headers.map(Vec::from),
                    body: body.map(Vec::from),
                    corrupt: false,
                    deliveries: Vec::new(),
                    conflicting: Vec::new(),
                };
                Ok((detail, number(row, 21)?))
            })
            .optional()?;
        let Some((mut detail, set)) = found else {
            return Ok(None);
        };
        if let (Some(headers), Some(body)) = (&detail.headers, &detail.body) {
            detail.corrupt = !self.is_whole(seq, set, &detail.line.route, headers, body)?;
        }
        detail.deliveries = self.deliveries(seq, set, detail.line.status)?;
        detail.conflicting = self
            .conn
            .prepare_cached("SELECT n, received_at, body FROM conflict WHERE seq = ?1 ORDER BY n")?
            .query_map([seq.0], |row| {
                Ok(ConflictLine {
                    n: u32::try_from(number(row, 0)?).unwrap_or(0),
                    received_at: Timestamp(number(row, 1)?),
                    body: blob(row, 2)?.unwrap_or_default().to_vec(),
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Some(detail))
    }

    fn is_whole(
        &self,
        seq: Seq,
        set: i64,
        route: &str,
        headers: &[u8],
        body: &[u8],
    ) -> Result<bool, ReaderError> {
        let sql = format!("SELECT {} FROM event e WHERE e.seq = ?1", Head::COLUMNS);
        let head = self.conn.prepare_cached(&sql)?.query_row([seq.0], Head::read);
        let mut upstreams = self.conn.prepare_cached(
            "SELECT u.name FROM upstream_set s JOIN upstream u ON u.id = s.upstream WHERE s.id = ?1 ORDER BY u.id",
        )?;
        let names: Vec<String> = upstreams
            .query_map([set], |row| Ok(text(row, 0)?.unwrap_or_default()))?
            .collect::<Result<_, _>>()?;
        let names = seal_of_names(route, names.iter().map(String::as_str));
        Ok(readable(head)?.is_some_and(|head| head.is_whole(route, names, headers, body)))
    }

    fn deliveries(&self, seq: Seq, set: i64, event: Status) -> Result<Vec<DeliveryLine>, ReaderError> {
        let mut select = self.conn.prepare_cached(
            "SELECT u.name, u.parked_since IS NOT NULL, d.status, coalesce(d.attempts, 0), d.last_status, d.last_error,
                    d.last_at, d.due
             FROM upstream_set s JOIN upstream u ON u.id = s.upstream
             LEFT JOIN delivery d ON d.seq = ?1 AND d.upstream = u.id WHERE s.id = ?2 ORDER BY u.name",
        )?;
        let lines = select.query_map((seq.0, set), |row| {
            let row_status = integer(row, 2)?;
            let status = match row_status {
                Some(delivery_status::DEAD) => Status::Dead,
                Some(delivery_status::DELIVERED) => Status::Delivered,
                Some(_) => Status::Pending,
                None if event == Status::Pending => Status::Pending,
                None => Status::Delivered,
            };
            Ok(DeliveryLine {
                upstream: text(row, 0)?.unwrap_or_default(),
                status,
                parked: row.get(1)?,
                attempts: u32::try_from(number(row, 3)?).unwrap_or(0),
                last_status: integer(row, 4)?.and_then(|status| u16::try_from(status).ok()),
                last_error: text(row, 5)?,
                last_at: integer(row, 6)?.map(Timestamp),
                due: integer(row, 7)?
                    .filter(|_| row_status == Some(delivery_status::PENDING))
                    .map(Timestamp),
            })
        })?;
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// Events by state. Counts all rows: for people, not for scrapes.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn counts(&self) -> Result<EventCounts, ReaderError> {
        let count = |sql: &str| -> rusqlite::Result<u64> {
            let count: i64 = self.conn.query_row(sql, [], |row| row.get(0))?;
            Ok(count.max(0).cast_unsigned())
        };
        Ok(EventCounts {
            pending: count("SELECT count(*) FROM event INDEXED BY event_open WHERE state = 0")?,
            dead: count("SELECT count(*) FROM delivery INDEXED BY delivery_dead WHERE status = 2")?,
            events: count("SELECT count(*) FROM event")?,
        })
    }
}

/// Waits for the rows of the events that are there now: the gateway writes them a moment after it has accepted an event. How
/// many still have none.
fn wait_for_rows(conn: &Connection, path: &Path) -> Result<u64, ReaderError> {
    let (events, last) = without_rows(conn, path)?;
    let begun = Instant::now();
    while events > 0 && !has_rows(conn, last)? {
        if begun.elapsed() > ROWS_WAIT {
            return Ok(events);
        }
        std::thread::sleep(ROWS_LOOK);
    }
    Ok(0)
}

fn line(row: &Row<'_>) -> rusqlite::Result<EventLine> {
    let positive = |number: i64| number.max(0).cast_unsigned();
    Ok(EventLine {
        seq: Seq(row.get(0)?),
        route: text(row, 1)?.unwrap_or_default(),
        provider: text(row, 2)?.unwrap_or_default(),
        event_id: text(row, 3)?,
        event_type: text(row, 4)?,
        received_at: Timestamp(number(row, 5)?),
        status: match number(row, 6)? {
            event_state::OPEN => Status::Pending,
            event_state::DELIVERED => Status::Delivered,
            event_state::FILTERED => Status::Filtered,
            _ => Status::Dead,
        },
        verified: number(row, 7)? & flag::VERIFIED != 0,
        attempts: u32::try_from(number(row, 8)?).unwrap_or(0),
        last_error: text(row, 9)?,
        duplicates: positive(number(row, 10)?),
        conflicts: positive(number(row, 11)?),
        body_bytes: positive(number(row, 12)?),
    })
}

/// A text, whatever damage made of it: one bad row must not hide the others.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
    })
}

/// An integer; `None` where there is none.
fn integer(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        _ => None,
    })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    Ok(integer(row, column)?.unwrap_or(0))
}
