//! Keeping one event inside a transaction: dedup, conflict, re-arm, rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::OptionalExtension;

use super::load::{body_hash, derived_key, head_hash, kind_number};
use super::names::Wants;
use super::schema::{as_i64, flag, state, status};
use super::transaction::{Transaction, TxError};
use crate::event::{DedupKey, Event, EventKey, KeptEvent, KeyKind, Seq};
use crate::inbox::{Accepted, NewEvent};

/// Bodies kept of one event's conflicts; further ones are only counted.
const CONFLICTS_KEPT: i64 = 3;
/// Places tried when two different keys share their first 64 bits.
const PLACES_MAX: i64 = 16;
/// What rows and indexes of an event take besides headers and body, about.
const EVENT_OVERHEAD_BYTES: usize = 512;

/// The event that holds a dedup key.
struct Holder {
    seq: i64,
    state: i64,
    received_at: i64,
    key_kind: i64,
    route: i64,
    body_hash: Vec<u8>,
    event_id: Option<String>,
    event_key: Option<String>,
    bytes: i64,
    /// Its whole key.
    dedup_key: Option<Vec<u8>>,
}

/// Where a dedup key stands.
enum Place {
    /// Nobody holds it. The row was inserted for the new event; where every place is taken by other keys, the event is
    /// kept without one rather than dropped.
    Free,
    /// Held at this row.
    Held(i64, Holder),
}

/// Keeps `new`, or finds it held. `None`: there is no room for it, in the store or in its route's share.
pub(super) fn accept(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    has_room: bool,
) -> Result<Option<Accepted>, TxError> {
    let wants = tx.wants(&new.event.route, &new.upstreams);
    if !has_room || is_over_share(tx, &wants) {
        // A repeat takes no room: its sender must not be refused for want of it.
        return match find(tx, new)? {
            Some(holder) if holds(tx, new, &holder) => repeat(tx, new, &holder, false),
            _ => Ok(None),
        };
    }
    let seq = tx.next_seq;
    match place(tx, new, seq)? {
        Place::Free => insert(tx, new, &wants, None).map(Some),
        Place::Held(_, holder) if holds(tx, new, &holder) => repeat(tx, new, &holder, true),
        Place::Held(place, holder) => {
            tx.conn
                .prepare_cached("UPDATE dedup SET seq = ?2 WHERE key = ?1")?
                .execute((place, seq))?;
            let earlier = match &holder.event_key {
                Some(stored) => EventKey::from_stored(stored),
                None => derived_key(
                    &tx.shared.store_id,
                    &new.event.route,
                    Seq(holder.seq),
                    holder.key_kind,
                    holder.event_id.as_deref(),
                ),
            };
            insert(tx, new, &wants, Some(earlier)).map(Some)
        }
    }
}

/// Finds `new` held without writing anything: for a disk that takes not even the count of a repeat. `None` too where
/// something of the repeat would have to be written before its sender may be told that it is kept.
pub(super) fn held(tx: &Transaction<'_>, new: &NewEvent) -> Result<Option<Accepted>, TxError> {
    let Some(holder) = find(tx, new)?.filter(|holder| holds(tx, new, holder)) else {
        return Ok(None);
    };
    let complete = !conflicts(new, &holder) && dead_deliveries(tx, new, &holder)?.is_empty();
    Ok(complete.then_some(Accepted::Duplicate {
        of: Seq(holder.seq),
        rearmed: false,
        conflict: false,
    }))
}

/// Whether the key is still held: for its window, and until every delivery of its event is settled.
///
/// An event from the future came while the clock was wrong. A known id stays known; but an equal body may be another event,
/// and nobody can tell how long ago the first one came.
fn holds(tx: &Transaction<'_>, new: &NewEvent, holder: &Holder) -> bool {
    let age = tx.now.0.saturating_sub(holder.received_at);
    let age = match new.key_kind {
        KeyKind::Id => age,
        KeyKind::Body | KeyKind::Unverified => age.saturating_abs(),
    };
    let window = i64::try_from(new.dedup_window.as_millis()).unwrap_or(i64::MAX);
    holder.state == state::OPEN || age < window
}

fn is_over_share(tx: &Transaction<'_>, wants: &Wants) -> bool {
    let open = tx.open_bytes(&wants.route);
    !wants.lanes.is_empty() && open > as_i64(tx.shared.figures.limit_bytes.load(Ordering::Relaxed) / 2)
}

/// The first place of a key: half of it.
fn first_place(key: &DedupKey) -> i64 {
    let (half, _) = key.0.split_at(8);
    i64::from_be_bytes(half.try_into().unwrap_or_default())
}

fn place(tx: &Transaction<'_>, new: &NewEvent, seq: i64) -> Result<Place, TxError> {
    let first = first_place(&new.dedup_key);
    for step in 0..PLACES_MAX {
        let place = first.wrapping_add(step);
        let inserted = tx
            .conn
            .prepare_cached("INSERT INTO dedup (key, seq) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute((place, seq))?;
        if inserted == 1 {
            return Ok(Place::Free);
        }
        let holder = holder_at(tx, place)?;
        let Some(holder) = holder else {
            // A row without its event: nothing holds the key.
            tx.conn
                .prepare_cached("UPDATE dedup SET seq = ?2 WHERE key = ?1")?
                .execute((place, seq))?;
            return Ok(Place::Free);
        };
        if is_same(tx, new, &holder) {
            return Ok(Place::Held(place, holder));
        }
    }
    Ok(Place::Free)
}

/// What [`place`] would find held, without taking a place.
fn find(tx: &Transaction<'_>, new: &NewEvent) -> Result<Option<Holder>, TxError> {
    let first = first_place(&new.dedup_key);
    for step in 0..PLACES_MAX {
        let Some(holder) = holder_at(tx, first.wrapping_add(step))? else {
            return Ok(None);
        };
        if is_same(tx, new, &holder) {
            return Ok(Some(holder));
        }
    }
    Ok(None)
}

/// The event a dedup row names.
fn holder_at(tx: &Transaction<'_>, place: i64) -> Result<Option<Holder>, TxError> {
    let found = tx
        .conn
        .prepare_cached(
            "SELECT e.seq, e.state, e.received_at, e.key_kind, e.route, e.body_hash, e.event_id, e.event_key,
                    e.bytes, e.dedup_key
             FROM dedup d JOIN event e ON e.seq = d.seq WHERE d.key = ?1",
        )?
        .query_row([place], |row| {
            Ok(Holder {
                seq: row.get(0)?,
                state: row.get(1)?,
                received_at: row.get(2)?,
                key_kind: row.get(3)?,
                route: row.get(4)?,
                body_hash: row.get(5)?,
                event_id: row.get(6)?,
                event_key: row.get(7)?,
                bytes: row.get(8)?,
                dedup_key: row.get(9)?,
            })
        })
        .optional()?;
    Ok(found)
}

/// The hash is keyed and 16 bytes long; what was hashed is compared all the same, so that no event is ever dropped
/// for a stranger's id.
fn is_same(tx: &Transaction<'_>, new: &NewEvent, holder: &Holder) -> bool {
    let keys_agree = holder.dedup_key.as_deref() == Some(&new.dedup_key.0[..]);
    let ids_agree =
        new.key_kind != KeyKind::Id || holder.event_id.as_deref() == new.event.event_id.as_deref();
    keys_agree
        && ids_agree
        && holder.key_kind == kind_number(new.key_kind)
        && tx.shared.route_name(holder.route) == new.event.route
}

/// Takes the dedup row of a number back.
pub(super) fn forget(tx: &Transaction<'_>, key: &DedupKey, seq: i64) -> Result<(), TxError> {
    let first = first_place(key);
    for step in 0..PLACES_MAX {
        let gone = tx
            .conn
            .prepare_cached("DELETE FROM dedup WHERE key = ?1 AND seq = ?2")?
            .execute((first.wrapping_add(step), seq))?;
        if gone == 1 {
            break;
        }
    }
    Ok(())
}

fn insert(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    wants: &Arc<Wants>,
    earlier: Option<EventKey>,
) -> Result<Accepted, TxError> {
    let event = &new.event;
    let seq = tx.next_seq;
    tx.next_seq += 1;
    wants.store(tx.conn)?;
    let derived = derived_key(
        &tx.shared.store_id,
        &event.route,
        Seq(seq),
        kind_number(new.key_kind),
        event.event_id.as_deref(),
    );
    let scoped = scoped_key(tx, new);
    let bytes = weight(event.headers.len(), event.body.len());
    let filtered = wants.lanes.is_empty();
    let window = i64::try_from(new.dedup_window.as_millis()).unwrap_or(i64::MAX);
    let mut row = tx.conn.prepare_cached(INSERT_EVENT)?;
    row.raw_bind_parameter(1, seq)?;
    row.raw_bind_parameter(2, wants.route.id)?;
    row.raw_bind_parameter(3, if filtered { state::FILTERED } else { state::OPEN })?;
    row.raw_bind_parameter(4, wants.set)?;
    row.raw_bind_parameter(5, bytes)?;
    row.raw_bind_parameter(6, event.received_at.0)?;
    row.raw_bind_parameter(7, event.received_at.0.saturating_add(window))?;
    row.raw_bind_parameter(8, flags(event))?;
    row.raw_bind_parameter(9, kind_number(new.key_kind))?;
    row.raw_bind_parameter(10, as_i64(event.body.len() as u64))?;
    row.raw_bind_parameter(11, head_hash(&event.headers))?;
    row.raw_bind_parameter(12, &body_hash(&event.body)[..])?;
    row.raw_bind_parameter(13, &new.dedup_key.0[..])?;
    row.raw_bind_parameter(14, event.event_id.as_deref())?;
    row.raw_bind_parameter(15, event.event_type.as_deref())?;
    row.raw_bind_parameter(16, event.provider.as_str())?;
    row.raw_bind_parameter(17, &*event.method)?;
    row.raw_bind_parameter(18, &*event.path_rest)?;
    row.raw_bind_parameter(19, event.query.as_deref())?;
    row.raw_bind_parameter(20, &*event.host)?;
    row.raw_bind_parameter(21, tx.address(event.client))?;
    row.raw_bind_parameter(22, event.secret.as_ref().map(|name| name.as_str()))?;
    row.raw_bind_parameter(23, scoped.as_ref().map(EventKey::as_str))?;
    row.raw_bind_parameter(24, earlier.as_ref().map(EventKey::as_str))?;
    row.raw_bind_parameter(25, tx.steady_now)?;
    row.raw_execute()?;
    insert_payload(tx, seq, &event.headers, &event.body)?;
    tx.effects.events += 1;
    if !filtered {
        tx.add_open_bytes(&wants.route, bytes);
        let kept = Arc::new(KeptEvent {
            seq: Seq(seq),
            key: scoped.unwrap_or(derived),
            possible_duplicate_of: earlier,
            event: event.clone(),
        });
        tx.effects.fresh.push((kept, wants.clone()));
    }
    if !wants.is_stored() {
        tx.effects.stored.push(wants.clone());
    }
    Ok(Accepted::New(Seq(seq)))
}

fn flags(event: &Event) -> i64 {
    let set = [
        (event.type_unsigned, flag::TYPE_UNSIGNED),
        (event.verified, flag::VERIFIED),
        (event.has_idempotency_key, flag::IDEMPOTENCY_KEY),
    ];
    set.into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, bit)| flags | bit)
}

const INSERT_EVENT: &str = "INSERT INTO event (seq, route, state, wants, bytes, received_at, settled_at, keep_until,
  flags, key_kind, body_bytes, head_hash, body_hash, dedup_key, event_id, event_type, provider, method, path_rest,
  query, host, client, secret, event_key, possible_duplicate_of)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?25, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
  ?23, ?24)";

fn insert_payload(tx: &Transaction<'_>, seq: i64, headers: &[u8], body: &[u8]) -> Result<(), TxError> {
    let mut row = tx
        .conn
        .prepare_cached("INSERT INTO payload (seq, headers, body) VALUES (?1, ?2, ?3)")?;
    row.raw_bind_parameter(1, seq)?;
    row.raw_bind_parameter(2, headers)?;
    row.raw_bind_parameter(3, body)?;
    row.raw_execute()?;
    Ok(())
}

/// Under `dedup_scope = "path"` one id on two paths is two events: they must not share a key either.
fn scoped_key(tx: &Transaction<'_>, new: &NewEvent) -> Option<EventKey> {
    let event = &new.event;
    let id = event
        .event_id
        .as_deref()
        .filter(|_| new.key_kind == KeyKind::Id && !event.path_rest.is_empty())?;
    let scoped = DedupKey::derive(
        &tx.shared.hash_key,
        KeyKind::Id,
        &event.route,
        &event.path_rest,
        id.as_bytes(),
    );
    (scoped == new.dedup_key).then(|| EventKey::of_scoped_id(&event.route, &event.path_rest, id))
}

/// What an event takes in the store, about.
pub(super) fn weight(headers: usize, body: usize) -> i64 {
    i64::try_from(headers + body + EVENT_OVERHEAD_BYTES).unwrap_or(i64::MAX)
}

/// Notes a repeat. `None`: it brings something that must be kept, and there is no room for it.
fn repeat(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    holder: &Holder,
    has_room: bool,
) -> Result<Option<Accepted>, TxError> {
    let conflict = conflicts(new, holder);
    let dead = dead_deliveries(tx, new, holder)?;
    let body_gone = !dead.is_empty() && !has_body(tx, holder.seq)?;
    if !has_room && (conflict || body_gone) {
        return Ok(None);
    }
    tx.conn
        .prepare_cached(
            "UPDATE event SET duplicates = duplicates + 1, conflicts = conflicts + ?2 WHERE seq = ?1",
        )?
        .execute((holder.seq, i64::from(conflict)))?;
    if conflict {
        keep_conflict(tx, new, holder.seq)?;
    }
    // With its own body gone and another one here there is nothing to send.
    let has_something = !body_gone || !conflict;
    let rearmed = !dead.is_empty() && has_something;
    if rearmed {
        if body_gone {
            bring_back(tx, new, holder.seq)?;
        }
        for upstream in dead {
            tx.make_pending(holder.seq, upstream, true)?;
        }
        if holder.state != state::OPEN {
            tx.reopen(holder.seq, holder.route, holder.bytes)?;
        }
    }
    Ok(Some(Accepted::Duplicate {
        of: Seq(holder.seq),
        rearmed,
        conflict,
    }))
}

/// Whether the repeat has another body than the event that holds its key.
fn conflicts(new: &NewEvent, holder: &Holder) -> bool {
    new.key_kind == KeyKind::Id && holder.body_hash != body_hash(&new.event.body)
}

fn keep_conflict(tx: &mut Transaction<'_>, new: &NewEvent, seq: i64) -> Result<(), TxError> {
    let event = &new.event;
    let hash = body_hash(&new.event.body);
    let (kept, known): (i64, bool) = tx
        .conn
        .prepare_cached("SELECT count(*), coalesce(max(body_hash = ?2), 0) FROM conflict WHERE seq = ?1")?
        .query_row((seq, &hash[..]), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if known || kept >= CONFLICTS_KEPT {
        return Ok(());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO conflict (seq, n, received_at, head_hash, body_hash, flags, event_type, method, query, host,
               client, secret, headers, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute((
            seq,
            kept + 1,
            event.received_at.0,
            head_hash(&event.headers),
            &hash[..],
            flags(event),
            event.event_type.as_deref(),
            &*event.method,
            event.query.as_deref(),
            &*event.host,
            event.client.to_string(),
            event.secret.as_ref().map(|name| name.as_str()),
            &event.headers[..],
            &event.body[..],
        ))?;
    Ok(())
}

/// The dead deliveries of `holder` that this repeat makes pending again.
fn dead_deliveries(tx: &Transaction<'_>, new: &NewEvent, holder: &Holder) -> Result<Vec<i64>, TxError> {
    let none = holder.state == state::DELIVERED || holder.state == state::FILTERED;
    // Anybody can send what is not verified: it must not set deliveries going.
    if none || new.key_kind == KeyKind::Unverified {
        return Ok(Vec::new());
    }
    let dead = tx
        .conn
        .prepare_cached("SELECT upstream FROM delivery WHERE seq = ?1 AND status = ?2")?
        .query_map((holder.seq, status::DEAD), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(dead)
}

/// Whether headers and body of an event are still there and whole.
fn has_body(tx: &Transaction<'_>, seq: i64) -> Result<bool, TxError> {
    let found = super::load::event(tx.conn, tx.shared, seq)?;
    Ok(found.is_some_and(|loaded| !loaded.corrupt))
}

fn bring_back(tx: &Transaction<'_>, new: &NewEvent, seq: i64) -> Result<(), TxError> {
    tx.conn
        .prepare_cached("DELETE FROM payload WHERE seq = ?1")?
        .execute([seq])?;
    insert_payload(tx, seq, &new.event.headers, &new.event.body)?;
    tx.conn
        .prepare_cached("UPDATE event SET head_hash = ?2 WHERE seq = ?1")?
        .execute((seq, head_hash(&new.event.headers)))?;
    Ok(())
}
