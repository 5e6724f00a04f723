//! Writing an event's row, sealed, and its headers and body.

use super::names::Wants;
use super::schema::{as_i64, flag};
use super::seal::{Fields, body_hash};
use super::segments::Place;
use super::transaction::{Transaction, TxError, prepared};
use crate::event::{DedupKey, Event, EventKey};

/// What rows and indexes of an event take besides headers and body, about.
const EVENT_OVERHEAD_BYTES: usize = 512;

/// What an event takes in the store, about.
pub(super) fn weight(headers: usize, body: usize) -> i64 {
    i64::try_from(headers + body + EVENT_OVERHEAD_BYTES).unwrap_or(i64::MAX)
}

/// `event.flags` of an event.
pub(super) fn flags(event: &Event) -> i64 {
    let set = [
        (event.type_unsigned, flag::TYPE_UNSIGNED),
        (event.verified, flag::VERIFIED),
        (event.has_idempotency_key, flag::IDEMPOTENCY_KEY),
    ];
    set.into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, bit)| flags | bit)
}

/// An event on its way into the store.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) seq: i64,
    pub(super) event: &'a Event,
    pub(super) wants: &'a Wants,
    /// Where that is not derived.
    pub(super) event_key: Option<&'a EventKey>,
    pub(super) possible_duplicate_of: Option<&'a EventKey>,
    pub(super) key_kind: i64,
}

impl Row<'_> {
    /// Writes it as a new one, in `state`; its key is remembered until `keep_until`.
    pub(super) fn insert(
        &self,
        tx: &mut Transaction<'_>,
        state: i64,
        dedup_key: Option<&DedupKey>,
        keep_until: i64,
    ) -> Result<(), TxError> {
        let (event, conn) = (self.event, tx.conn);
        let place = if tx.segments.takes(&event.headers, &event.body) {
            tx.segments.append(conn, self.seq, &event.headers, &event.body)?
        } else {
            IN_DATABASE
        };
        let hash = body_hash(&event.body);
        let (client, scratch) = tx.sealing(event.client);
        let seal = self.fields(client).seal(&event.headers, &hash, scratch);
        let mut slot = tx.statements.event.take();
        let row = prepared(&mut slot, conn, INSERT)?;
        row.raw_bind_parameter(1, self.seq)?;
        row.raw_bind_parameter(2, self.wants.route.id)?;
        row.raw_bind_parameter(3, state)?;
        row.raw_bind_parameter(4, self.wants.set)?;
        row.raw_bind_parameter(5, weight(event.headers.len(), event.body.len()))?;
        row.raw_bind_parameter(6, event.received_at.0)?;
        row.raw_bind_parameter(7, keep_until)?;
        row.raw_bind_parameter(8, flags(event))?;
        row.raw_bind_parameter(9, self.key_kind)?;
        row.raw_bind_parameter(10, as_i64(event.body.len() as u64))?;
        row.raw_bind_parameter(11, seal)?;
        row.raw_bind_parameter(12, &hash[..])?;
        row.raw_bind_parameter(13, dedup_key.map(|key| &key.0[..]))?;
        row.raw_bind_parameter(14, event.event_id.as_deref())?;
        row.raw_bind_parameter(15, event.event_type.as_deref())?;
        row.raw_bind_parameter(16, event.provider.as_str())?;
        row.raw_bind_parameter(17, &*event.method)?;
        row.raw_bind_parameter(18, &*event.path_rest)?;
        row.raw_bind_parameter(19, event.query.as_deref())?;
        row.raw_bind_parameter(20, &*event.host)?;
        row.raw_bind_parameter(21, tx.sealing(event.client).0)?;
        row.raw_bind_parameter(22, event.secret.as_ref().map(|name| name.as_str()))?;
        row.raw_bind_parameter(23, self.event_key.map(EventKey::as_str))?;
        row.raw_bind_parameter(24, self.possible_duplicate_of.map(EventKey::as_str))?;
        row.raw_bind_parameter(25, tx.steady_now)?;
        row.raw_bind_parameter(26, place.segment)?;
        row.raw_bind_parameter(27, place.offset)?;
        row.raw_bind_parameter(28, place.head_bytes)?;
        row.raw_execute()?;
        tx.statements.event = slot;
        if place == IN_DATABASE {
            self.insert_payload(tx)?;
        }
        Ok(())
    }

    /// Writes it over what is left of an event under the same number.
    pub(super) fn restore(&self, tx: &mut Transaction<'_>) -> Result<(), TxError> {
        tx.release_place(self.seq)?;
        let (event, conn) = (self.event, tx.conn);
        let hash = body_hash(&event.body);
        let (client, scratch) = tx.sealing(event.client);
        let seal = self.fields(client).seal(&event.headers, &hash, scratch);
        let mut row = conn.prepare_cached(RESTORE)?;
        row.raw_bind_parameter(1, self.seq)?;
        row.raw_bind_parameter(2, event.received_at.0)?;
        row.raw_bind_parameter(3, flags(event))?;
        row.raw_bind_parameter(4, self.key_kind)?;
        row.raw_bind_parameter(5, as_i64(event.body.len() as u64))?;
        row.raw_bind_parameter(6, seal)?;
        row.raw_bind_parameter(7, &hash[..])?;
        row.raw_bind_parameter(8, event.event_id.as_deref())?;
        row.raw_bind_parameter(9, event.event_type.as_deref())?;
        row.raw_bind_parameter(10, event.provider.as_str())?;
        row.raw_bind_parameter(11, &*event.method)?;
        row.raw_bind_parameter(12, &*event.path_rest)?;
        row.raw_bind_parameter(13, event.query.as_deref())?;
        row.raw_bind_parameter(14, &*event.host)?;
        row.raw_bind_parameter(15, client)?;
        row.raw_bind_parameter(16, event.secret.as_ref().map(|name| name.as_str()))?;
        row.raw_bind_parameter(17, self.event_key.map(EventKey::as_str))?;
        row.raw_bind_parameter(18, self.possible_duplicate_of.map(EventKey::as_str))?;
        row.raw_execute()?;
        conn.prepare_cached("DELETE FROM payload WHERE seq = ?1")?
            .execute([self.seq])?;
        self.insert_payload(tx)
    }

    fn insert_payload(&self, tx: &mut Transaction<'_>) -> Result<(), TxError> {
        let sql = "INSERT INTO payload (seq, headers, body) VALUES (?1, ?2, ?3)";
        let row = prepared(&mut tx.statements.payload, tx.conn, sql)?;
        row.raw_bind_parameter(1, self.seq)?;
        row.raw_bind_parameter(2, &self.event.headers[..])?;
        row.raw_bind_parameter(3, &self.event.body[..])?;
        row.raw_execute()?;
        Ok(())
    }

    fn fields<'a>(&'a self, client: &'a str) -> Fields<'a> {
        let event = self.event;
        Fields {
            seq: self.seq,
            names: self.wants.seal,
            route: event.route.as_str(),
            received_at: event.received_at.0,
            flags: flags(event),
            key_kind: self.key_kind,
            event_id: event.event_id.as_deref(),
            event_type: event.event_type.as_deref(),
            provider: event.provider.as_str(),
            method: &event.method,
            path_rest: &event.path_rest,
            query: event.query.as_deref(),
            host: &event.host,
            client,
            secret: event.secret.as_ref().map(|name| name.as_str()),
            event_key: self.event_key.map(EventKey::as_str),
            possible_duplicate_of: self.possible_duplicate_of.map(EventKey::as_str),
        }
    }
}

/// Headers and body are in `payload`.
const IN_DATABASE: Place = Place {
    segment: 0,
    offset: 0,
    head_bytes: 0,
};

/// It counts as settled from when it came until it is.
const INSERT: &str = "INSERT INTO event (seq, route, state, wants, bytes, received_at, settled_at, keep_until,
  flags, key_kind, body_bytes, seal, body_hash, dedup_key, event_id, event_type, provider, method, path_rest,
  query, host, client, secret, event_key, possible_duplicate_of, segment, offset, head_bytes)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?25, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
  ?23, ?24, ?26, ?27, ?28)";

const RESTORE: &str =
    "UPDATE event SET received_at = ?2, flags = ?3, key_kind = ?4, body_bytes = ?5, seal = ?6,
  body_hash = ?7, event_id = ?8, event_type = ?9, provider = ?10, method = ?11, path_rest = ?12, query = ?13,
  host = ?14, client = ?15, secret = ?16, event_key = ?17, possible_duplicate_of = ?18, segment = 0 WHERE seq = ?1";
