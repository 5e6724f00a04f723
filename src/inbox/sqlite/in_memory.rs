//! A copy of a store in memory whose cells can be made anything, as damage does; for fuzzing what reads them back.

use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql};

use super::bodies::Bodies;
use super::lane::Look;
use super::names::Names;
use super::schema::keep_plans;
use super::state::Shared;
use super::{SqliteInbox, load, marks};
use crate::event::{KeptEvent, Target};
use crate::inbox::{ProxyMark, Reader, ReaderError};

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text, perhaps not UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(number),
            Self::Real(number) => ValueRef::Real(number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The copy.
#[derive(Debug)]
pub struct Rows {
    reader: Reader,
    shared: Arc<Shared>,
    columns: Vec<Column>,
}

/// A column of the store.
#[derive(Debug)]
struct Column {
    table: String,
    set: String,
}

/// What a claim read.
#[derive(Debug)]
pub struct Read {
    /// Events that are as they were kept.
    pub whole: Vec<Arc<KeptEvent>>,
    /// Events that are not.
    pub corrupt: Vec<Arc<KeptEvent>>,
}

impl Rows {
    /// Copies what `inbox` holds, without the checks of types and with what was copied kept beside it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(inbox: &SqliteInbox) -> Result<Self, ReaderError> {
        let conn = Connection::open_in_memory()?;
        conn.set_prepared_statement_cache_capacity(512);
        keep_plans(&conn)?;
        conn.execute("ATTACH ?1 AS store", [inbox.shared.db.to_string_lossy()])?;
        conn.execute_batch("ATTACH ':memory:' AS kept; PRAGMA main.journal_mode = OFF")?;
        let statements: Vec<(String, String, String)> = conn
            .prepare(
                "SELECT type, name, sql FROM store.sqlite_schema WHERE sql IS NOT NULL AND type <> 'view'",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let mut columns = Vec::new();
        for (kind, name, sql) in statements {
            let lenient = sql.replace("STRICT, WITHOUT", "WITHOUT").replace(" STRICT", "");
            conn.execute_batch(&lenient)?;
            if kind == "table" {
                conn.execute_batch(&format!(
                    "INSERT INTO main.{name} SELECT * FROM store.{name};
                     CREATE TABLE kept.{name} AS SELECT * FROM store.{name}"
                ))?;
                let mut names = conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
                for column in names.query_map([&name], |row| row.get::<_, String>(0))? {
                    columns.push(Column {
                        table: name.clone(),
                        set: format!("UPDATE OR REPLACE main.{name} SET {} = ?1", column?),
                    });
                }
            }
        }
        conn.execute_batch("DETACH store")?;
        Ok(Self {
            reader: Reader {
                conn,
                bodies: Bodies::new(&inbox.shared.settings.path),
                without_rows: 0,
            },
            shared: inbox.shared.clone(),
            columns,
        })
    }

    /// How many columns the tables have together.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Puts `cell` into a column: of every row, or of those of one event where the table tells events apart.
    ///
    /// # Errors
    /// What the table does not take.
    pub fn set(&self, column: usize, cell: Cell<'_>, seq: Option<i64>) -> Result<(), ReaderError> {
        let Some(Column { table, set }) = self.columns.get(column) else {
            return Ok(());
        };
        let by_event = ["event", "payload", "delivery", "conflict"].contains(&table.as_str());
        let conn = &self.reader.conn;
        match seq {
            Some(seq) if by_event => conn
                .prepare_cached(&format!("{set} WHERE seq = ?2"))?
                .execute((cell, seq))?,
            _ => conn.prepare_cached(set)?.execute([cell])?,
        };
        Ok(())
    }

    /// Takes the table of a column back to what was copied; `empty` leaves nothing in it.
    ///
    /// # Errors
    /// None is expected.
    pub fn restore(&self, column: usize, empty: bool) -> Result<(), ReaderError> {
        let Some(Column { table, .. }) = self.columns.get(column) else {
            return Ok(());
        };
        let conn = &self.reader.conn;
        conn.prepare_cached(&format!("DELETE FROM main.{table}"))?
            .execute([])?;
        if !empty {
            conn.prepare_cached(&format!("INSERT INTO main.{table} SELECT * FROM kept.{table}"))?
                .execute([])?;
        }
        Ok(())
    }

    /// What a claim of `target` would be given at `now`: rows that are due, and open events without one.
    ///
    /// # Errors
    /// A claim that meets one ends the process.
    pub fn claim(&self, target: &Target, now: i64) -> Result<Read, ReaderError> {
        let lane = self.shared.names.lane(target);
        let look = Look {
            rows: 8,
            scan_from: Some(i64::MIN),
            sets: lane.lock().sets.clone(),
            epoch: 0,
            leased: Vec::new(),
        };
        let found = load::look(&self.reader.conn, &self.shared, lane.id, &look, now)?;
        let rows = found.rows.into_iter().map(|row| row.fresh);
        Ok(Read {
            whole: rows.chain(found.scanned).map(|fresh| fresh.event).collect(),
            corrupt: found
                .corrupt
                .into_iter()
                .map(|corrupt| corrupt.fresh.event)
                .collect(),
        })
    }

    /// Whether a start could read the names.
    pub fn has_names(&self) -> bool {
        Names::load(&self.reader.conn).is_ok()
    }

    /// The reading side for people.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The marks that have not run out.
    ///
    /// # Errors
    /// Without them a repeat is forwarded once more.
    pub fn marks(&self, now: i64) -> Result<Vec<ProxyMark>, ReaderError> {
        Ok(marks::load(&self.reader.conn, now)?)
    }
}
