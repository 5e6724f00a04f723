//! The other bodies that came under an id that was taken: kept beside the event, and sent if somebody asks for it.

use std::net::IpAddr;

use rusqlite::{OptionalExtension, Row as SqlRow};

use super::names::Wants;
use super::row::{Row, flags, weight};
use super::schema::{flag, state};
use super::seal::{Fields, body_hash, readable};
use super::transaction::{Transaction, TxError};
use crate::event::{Event, KeptEvent, SecretName, Timestamp};
use crate::inbox::{NewEvent, Selection};

/// Bodies kept of one event's conflicts; further ones are only counted.
const KEPT: i64 = 3;
/// Events made of conflicts are keyed by number, like those without an id.
const KEY_KIND: i64 = 1;

/// Keeps the body of `new` beside the event `seq`, unless it is known or there are enough.
pub(super) fn keep(tx: &mut Transaction<'_>, new: &NewEvent, seq: i64) -> Result<(), TxError> {
    let (event, conn) = (&new.event, tx.conn);
    let hash = body_hash(&event.body);
    let (kept, known): (i64, bool) = conn
        .prepare_cached("SELECT count(*), coalesce(max(body_hash = ?2), 0) FROM conflict WHERE seq = ?1")?
        .query_row((seq, &hash[..]), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if known || kept >= KEPT {
        return Ok(());
    }
    let (client, scratch) = tx.cache.sealing(event.client);
    let secret = event.secret.as_ref().map(|name| name.as_str());
    let fields = Fields {
        seq,
        names: kept + 1,
        received_at: event.received_at.0,
        flags: flags(event),
        event_type: event.event_type.as_deref(),
        method: &event.method,
        query: event.query.as_deref(),
        host: &event.host,
        client,
        secret,
        ..Fields::default()
    };
    let seal = fields.seal(&event.headers, &hash, scratch);
    conn.prepare_cached(
        "INSERT INTO conflict (seq, n, received_at, seal, body_hash, flags, event_type, method, query, host,
           client, secret, headers, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute((
        seq,
        kept + 1,
        event.received_at.0,
        seal,
        &hash[..],
        flags(event),
        event.event_type.as_deref(),
        &*event.method,
        event.query.as_deref(),
        &*event.host,
        client,
        secret,
        &event.headers[..],
        &event.body[..],
    ))?;
    Ok(())
}

/// A kept conflict.
struct Conflict {
    seq: i64,
    n: i64,
    received_at: i64,
    seal: i64,
    body_hash: Vec<u8>,
    flags: i64,
    event_type: Option<String>,
    method: String,
    query: Option<String>,
    host: String,
    client: String,
    secret: Option<String>,
    headers: Vec<u8>,
    body: Vec<u8>,
}

const SELECT: &str =
    "SELECT seq, n, received_at, seal, body_hash, flags, event_type, method, query, host, client,
  secret, headers, body FROM conflict WHERE seq = ?1 AND n = ?2";

/// Makes an event of its own of the `n`-th conflicting body of the selected event; false if there is none, or if it or
/// its event is not what was kept.
pub(super) fn replay(tx: &mut Transaction<'_>, selection: &Selection, n: u32) -> Result<bool, TxError> {
    let [seq] = selection.events[..] else {
        return Ok(false);
    };
    let Some(original) = super::load::event(tx.conn, tx.shared, seq.0)?.filter(|found| !found.corrupt) else {
        return Ok(false);
    };
    let Some(wants) = original.wants else {
        return Ok(false);
    };
    let found = tx
        .conn
        .prepare_cached(SELECT)?
        .query_row((seq.0, n), Conflict::read)
        .optional();
    let Some(conflict) = readable(found)?.flatten().filter(Conflict::is_whole) else {
        return Ok(false);
    };
    if !selection.dry_run {
        conflict.insert(tx, &original.event, &wants)?;
    }
    Ok(true)
}

impl Conflict {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            n: row.get(1)?,
            received_at: row.get(2)?,
            seal: row.get(3)?,
            body_hash: row.get(4)?,
            flags: row.get(5)?,
            event_type: row.get(6)?,
            method: row.get(7)?,
            query: row.get(8)?,
            host: row.get(9)?,
            client: row.get(10)?,
            secret: row.get(11)?,
            headers: row.get(12)?,
            body: row.get(13)?,
        })
    }

    fn is_whole(&self) -> bool {
        body_hash(&self.body)[..] == self.body_hash && self.sealed() == self.seal
    }

    /// The seal that it should have.
    fn sealed(&self) -> i64 {
        let fields = Fields {
            seq: self.seq,
            names: self.n,
            received_at: self.received_at,
            flags: self.flags,
            event_type: self.event_type.as_deref(),
            method: &self.method,
            query: self.query.as_deref(),
            host: &self.host,
            client: &self.client,
            secret: self.secret.as_deref(),
            ..Fields::default()
        };
        fields.seal(&self.headers, &self.body_hash, &mut Vec::new())
    }

    fn insert(self, tx: &mut Transaction<'_>, original: &KeptEvent, wants: &Wants) -> Result<(), TxError> {
        let Ok(client) = self.client.parse::<IpAddr>() else {
            return Ok(());
        };
        let first = &original.event;
        let event = Event {
            route: first.route.clone(),
            provider: first.provider.clone(),
            event_id: first.event_id.clone(),
            event_type: self.event_type.map(Into::into),
            type_unsigned: self.flags & flag::TYPE_UNSIGNED != 0,
            verified: self.flags & flag::VERIFIED != 0,
            secret: self.secret.map(SecretName::new),
            received_at: Timestamp(self.received_at),
            method: self.method.into(),
            path_rest: first.path_rest.clone(),
            query: self.query.map(Into::into),
            host: self.host.into(),
            client,
            headers: self.headers.into(),
            has_idempotency_key: self.flags & flag::IDEMPOTENCY_KEY != 0,
            body: self.body.into(),
        };
        let seq = tx.next_seq;
        tx.next_seq += 1;
        let row = Row {
            seq,
            event: &event,
            wants,
            event_key: None,
            possible_duplicate_of: Some(&original.key),
            key_kind: KEY_KIND,
        };
        // Without a dedup key: it suppresses nothing.
        row.insert(tx, state::OPEN, None, 0)?;
        tx.effects.events += 1;
        tx.add_open_bytes(&wants.route, weight(event.headers.len(), event.body.len()));
        for lane in &wants.lanes {
            tx.make_pending(seq, lane.id, false)?;
        }
        Ok(())
    }
}
