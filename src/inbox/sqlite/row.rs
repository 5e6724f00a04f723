//! Writing an event's row, sealed, and its headers and body.

use super::names::Wants;
use super::record::{self, Columns};
use super::schema::{as_i64, flag};
use super::seal::{Fields, body_hash};
use super::transaction::{Transaction, TxError};
use crate::event::{DedupKey, Event, EventKey};

/// What rows and indexes of an event take besides headers and body, about.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 512;

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
    /// Keeps it as a new one, in `state`; its key is remembered until `keep_until`. Where it goes to a file, its row follows with
    /// the next transaction that writes to the database.
    pub(super) fn insert(
        &self,
        tx: &mut Transaction<'_>,
        state: i64,
        dedup_key: Option<&DedupKey>,
        keep_until: i64,
    ) -> Result<(), TxError> {
        let event = self.event;
        // A record names what is in the database: the first event of a set goes there itself.
        let in_file = self.wants.is_stored() && tx.segments.takes(&event.headers, &event.body);
        if !in_file || tx.unindexed.takes_no_event() {
            tx.write()?;
            self.wants.store(tx.conn)?;
        }
        let hash = body_hash(&event.body);
        let (client, scratch) = tx.cache.sealing(event.client);
        let fields = self.fields(client);
        let columns = Columns {
            seq: self.seq,
            route: self.wants.route.id,
            state,
            wants: self.wants.set,
            received_at: event.received_at.0,
            settled_at: tx.steady_now,
            keep_until,
            flags: fields.flags,
            key_kind: self.key_kind,
            seal: fields.seal(&event.headers, &hash, scratch),
            head_bytes: as_i64(event.headers.len() as u64),
            body_bytes: as_i64(event.body.len() as u64),
            body_hash: hash,
            dedup_key: dedup_key.map(|key| key.0),
            texts: [
                fields.event_id,
                fields.event_type,
                Some(fields.provider),
                Some(fields.method),
                Some(fields.path_rest),
                fields.query,
                Some(fields.host),
                Some(fields.client),
                fields.secret,
                fields.event_key,
                fields.possible_duplicate_of,
            ]
            .map(|text| text.map(str::as_bytes)),
        };
        if in_file {
            let written = tx.unindexed.write(&columns);
            let place = tx
                .segments
                .append(self.seq, tx.first_seq, written, &event.headers, &event.body)?;
            tx.unindexed.put(self.seq, place, columns.body_bytes);
            return Ok(());
        }
        let mut insert = tx.conn.prepare_cached(record::INSERT)?;
        columns.insert(&mut insert, None, None)?;
        self.insert_payload(tx)
    }

    /// Writes it over what is left of an event under the same number.
    pub(super) fn restore(&self, tx: &mut Transaction<'_>) -> Result<(), TxError> {
        tx.release_place(self.seq)?;
        let (event, conn) = (self.event, tx.conn);
        let hash = body_hash(&event.body);
        let (client, scratch) = tx.cache.sealing(event.client);
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
        let row = (self.seq, &self.event.headers[..], &self.event.body[..]);
        tx.conn.prepare_cached(sql)?.execute(row)?;
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

const RESTORE: &str =
    "UPDATE event SET received_at = ?2, flags = ?3, key_kind = ?4, body_bytes = ?5, seal = ?6,
  body_hash = ?7, event_id = ?8, event_type = ?9, provider = ?10, method = ?11, path_rest = ?12, query = ?13,
  host = ?14, client = ?15, secret = ?16, event_key = ?17, possible_duplicate_of = ?18, segment = 0 WHERE seq = ?1";
