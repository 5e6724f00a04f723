//! Bringing a store that an older version wrote up to the present format.
//!
//! All steps are one transaction: a store is of the old format or of the new one, whatever happens meanwhile. There is no
//! way back: an older version refuses what a newer one wrote.

use rusqlite::{Connection, Row as SqlRow, Transaction, TransactionBehavior};

use super::keys::Keys;
use super::schema::{self, FORMAT};
use super::seal::{self, Fields, Head, blob, body_hash, readable};

/// Events sealed between two reads.
const CHUNK_EVENTS: i64 = 256;

/// Takes the store from format `found` to [`FORMAT`].
pub(super) fn upgrade(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    for format in found..FORMAT {
        match format {
            1 => seal_all(conn)?,
            2 => add_segments(conn).and_then(|()| note_keys(conn))?,
            // Format 3 had a row for every event, and so has what it left. `open` refuses what is older than the first format.
            _ => {}
        }
    }
    schema::set_meta(conn, "format", FORMAT)?;
    tx.commit()
}

/// Format 1 had a hash of the header block alone where format 2 has the seal of the whole row, and none over `meta`.
fn seal_all(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "ALTER TABLE event RENAME COLUMN head_hash TO seal; ALTER TABLE conflict RENAME COLUMN head_hash TO seal;",
    )?;
    schema::insert_identity(conn)?;
    seal_events(conn)?;
    seal_conflicts(conn)
}

/// Format 2 had headers and bodies in the database alone. They stay there.
fn add_segments(conn: &Connection) -> rusqlite::Result<()> {
    let sql = schema::sql_of("segment")?;
    conn.execute_batch(&format!(
        "ALTER TABLE event ADD COLUMN segment INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE event ADD COLUMN offset INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE event ADD COLUMN head_bytes INTEGER NOT NULL DEFAULT 0;
         {sql};"
    ))
}

/// Format 2 had every key in the table.
fn note_keys(conn: &Connection) -> rusqlite::Result<()> {
    let last: Option<i64> = conn.query_row("SELECT max(seq) FROM event", [], |row| row.get(0))?;
    Keys::set_merged_to(conn, last.unwrap_or(0))
}

fn seal_events(conn: &Connection) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT {}, r.name, (SELECT group_concat(u.name, char(0) ORDER BY u.id) FROM upstream_set s
           JOIN upstream u ON u.id = s.upstream WHERE s.id = e.wants), p.headers, p.body
         FROM event e JOIN route r ON r.id = e.route JOIN payload p ON p.seq = e.seq
         WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2",
        Head::COLUMNS
    );
    let mut select = conn.prepare(&sql)?;
    let mut update = conn.prepare("UPDATE event SET seal = ?2 WHERE seq = ?1")?;
    let mut after = i64::MIN;
    loop {
        let mut found = Vec::new();
        let mut rows = select.query((after, CHUNK_EVENTS))?;
        let mut met = 0;
        while let Some(row) = rows.next()? {
            met += 1;
            after = row.get(0)?;
            found.extend(readable(event_seal(row))?.flatten().map(|seal| (after, seal)));
        }
        drop(rows);
        for (seq, seal) in found {
            update.execute((seq, seal))?;
        }
        if met < CHUNK_EVENTS {
            return Ok(());
        }
    }
}

/// The seal of a row, whose headers and body must still have their hashes: what is damaged stays so.
fn event_seal(row: &SqlRow<'_>) -> rusqlite::Result<Option<i64>> {
    let head = Head::read(row)?;
    let route: String = row.get(Head::COUNT)?;
    let upstreams: Option<String> = row.get(Head::COUNT + 1)?;
    let names = seal::names(&route, upstreams.iter().flat_map(|names| names.split('\0')));
    let (headers, body) = (blob(row, Head::COUNT + 2)?, blob(row, Head::COUNT + 3)?);
    let (Some(headers), Some(body)) = (headers, body) else {
        return Ok(None);
    };
    let whole = seal::half(headers) == head.seal && body_hash(body)[..] == head.body_hash;
    Ok(whole.then(|| {
        head.fields(&route, names)
            .seal(headers, &head.body_hash, &mut Vec::new())
    }))
}

fn seal_conflicts(conn: &Connection) -> rusqlite::Result<()> {
    let mut select = conn.prepare(
        "SELECT seq, n, received_at, flags, event_type, method, query, host, client, secret, seal, body_hash, headers,
           body FROM conflict",
    )?;
    let mut found = Vec::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        found.extend(readable(conflict_seal(row))?.flatten());
    }
    drop(rows);
    let mut update = conn.prepare("UPDATE conflict SET seal = ?3 WHERE seq = ?1 AND n = ?2")?;
    for values in found {
        update.execute(values)?;
    }
    Ok(())
}

fn conflict_seal(row: &SqlRow<'_>) -> rusqlite::Result<Option<(i64, i64, i64)>> {
    let (event_type, query, secret): (Option<String>, Option<String>, Option<String>) =
        (row.get(4)?, row.get(6)?, row.get(9)?);
    let (method, host, client): (String, String, String) = (row.get(5)?, row.get(7)?, row.get(8)?);
    let kept: i64 = row.get(10)?;
    let (Some(hash), Some(headers), Some(body)) = (blob(row, 11)?, blob(row, 12)?, blob(row, 13)?) else {
        return Ok(None);
    };
    let fields = Fields {
        seq: row.get(0)?,
        names: row.get(1)?,
        received_at: row.get(2)?,
        flags: row.get(3)?,
        event_type: event_type.as_deref(),
        method: &method,
        query: query.as_deref(),
        host: &host,
        client: &client,
        secret: secret.as_deref(),
        ..Fields::default()
    };
    let whole = seal::half(headers) == kept && body_hash(body)[..] == *hash;
    Ok(whole.then(|| {
        (
            fields.seq,
            fields.names,
            fields.seal(headers, hash, &mut Vec::new()),
        )
    }))
}
