//! Keeping one event inside a transaction: dedup, conflict, re-arm, rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::OptionalExtension;

use super::conflict;
use super::keys::{PLACES_MAX, first_place};
use super::load::{derived_key, kind_number};
use super::names::Wants;
use super::record::Columns;
use super::row::{Row, weight};
use super::schema::{as_i64, state, status};
use super::seal::{body_hash, readable};
use super::transaction::{Transaction, TxError};
use crate::event::{DedupKey, EventKey, KeptEvent, KeyKind, Seq};
use crate::inbox::{Accepted, NewEvent};

/// The event that holds a dedup key.
#[derive(Debug, Default)]
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
    /// Nobody holds it, and this place is its own. Where every place is taken by other keys, there is none: the event is
    /// kept without one rather than dropped.
    Free(Option<i64>),
    /// Held at this place.
    Held(i64, Holder),
}

/// Keeps `new`, or finds it held. `None`: there is no room for it, in the store or in its route's share.
pub(super) fn accept(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    has_room: bool,
) -> Result<Option<Accepted>, TxError> {
    let wants = tx.wants(&new.event.route, &new.upstreams);
    let has_room = has_room && !is_over_share(tx, &wants);
    match find(tx, new)? {
        // A repeat takes no room: its sender must not be refused for want of it.
        Place::Held(_, holder) if holds(tx, new, &holder) => repeat(tx, new, &holder, has_room),
        _ if !has_room => Ok(None),
        Place::Free(place) => insert(tx, new, &wants, place, None).map(Some),
        Place::Held(place, holder) => {
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
            insert(tx, new, &wants, Some(place), Some(earlier)).map(Some)
        }
    }
}

/// Finds `new` held without writing anything: for a disk that takes not even the count of a repeat. `None` too where
/// something of the repeat would have to be written before its sender may be told that it is kept.
pub(super) fn held(tx: &mut Transaction<'_>, new: &NewEvent) -> Result<Option<Accepted>, TxError> {
    let holder = match find(tx, new)? {
        Place::Held(_, holder) if holds(tx, new, &holder) => holder,
        _ => return Ok(None),
    };
    let complete = !conflicts(new, &holder)
        && dead_deliveries(tx, new, &holder)?.is_empty()
        && (holder.state != state::OPEN || is_whole(tx, holder.seq)?);
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

fn find(tx: &mut Transaction<'_>, new: &NewEvent) -> Result<Place, TxError> {
    let first = first_place(&new.dedup_key.0);
    for step in 0..PLACES_MAX {
        let place = first.wrapping_add(step);
        let Some(holder) = holder_at(tx, place)? else {
            return Ok(Place::Free(Some(place)));
        };
        if is_same(tx, new, &holder) {
            return Ok(Place::Held(place, holder));
        }
    }
    Ok(Place::Free(None))
}

/// The event that has a place; one that is gone has none. One that damage made unreadable holds nothing: its copy is kept as
/// an event of its own.
fn holder_at(tx: &mut Transaction<'_>, place: i64) -> Result<Option<Holder>, TxError> {
    let Some(seq) = tx.keys.at(tx.conn, &mut tx.statements.key, place)? else {
        return Ok(None);
    };
    if let Some(columns) = tx.unindexed.columns(seq) {
        return Ok(Some(Holder::unindexed(&columns)));
    }
    let found = tx
        .conn
        .prepare_cached(
            "SELECT seq, state, received_at, key_kind, route, body_hash, event_id, event_key, bytes, dedup_key
             FROM event WHERE seq = ?1",
        )?
        .query_row([seq], |row| {
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
        .optional();
    Ok(readable(found)?.unwrap_or_else(|| Some(Holder::default())))
}

impl Holder {
    fn unindexed(columns: &Columns<'_>) -> Self {
        Self {
            seq: columns.seq,
            state: columns.state,
            received_at: columns.received_at,
            key_kind: columns.key_kind,
            route: columns.route,
            body_hash: columns.body_hash.to_vec(),
            event_id: columns.event_id().map(str::to_owned),
            event_key: columns.event_key().map(str::to_owned),
            bytes: columns.weight(),
            dedup_key: columns.dedup_key.map(Vec::from),
        }
    }
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

fn insert(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    wants: &Arc<Wants>,
    place: Option<i64>,
    earlier: Option<EventKey>,
) -> Result<Accepted, TxError> {
    let event = &new.event;
    let seq = tx.next_seq;
    tx.next_seq += 1;
    if let Some(place) = place {
        tx.keys.take(place, seq);
    }
    let key_kind = kind_number(new.key_kind);
    let derived = derived_key(
        &tx.shared.store_id,
        &event.route,
        Seq(seq),
        key_kind,
        event.event_id.as_deref(),
    );
    let scoped = scoped_key(tx, new);
    let row = Row {
        seq,
        event,
        wants,
        event_key: scoped.as_ref(),
        possible_duplicate_of: earlier.as_ref(),
        key_kind,
    };
    let window = i64::try_from(new.dedup_window.as_millis()).unwrap_or(i64::MAX);
    let keep_until = event.received_at.0.saturating_add(window);
    let filtered = wants.lanes.is_empty();
    let state = if filtered { state::FILTERED } else { state::OPEN };
    row.insert(tx, state, Some(&new.dedup_key), keep_until)?;
    tx.effects.events += 1;
    if !filtered {
        tx.add_open_bytes(&wants.route, weight(event.headers.len(), event.body.len()));
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

/// Notes a repeat. `None`: it brings something that must be kept, and there is no room for it.
fn repeat(
    tx: &mut Transaction<'_>,
    new: &NewEvent,
    holder: &Holder,
    has_room: bool,
) -> Result<Option<Accepted>, TxError> {
    let conflict = conflicts(new, holder);
    let dead = dead_deliveries(tx, new, holder)?;
    let to_be_sent = holder.state == state::OPEN || !dead.is_empty();
    let gone = to_be_sent && !is_whole(tx, holder.seq)?;
    if !has_room && (conflict || gone) {
        return Ok(None);
    }
    tx.note_repeat(holder.seq)?;
    if conflict || gone || !dead.is_empty() {
        tx.write()?;
    }
    if conflict {
        tx.conn
            .prepare_cached("UPDATE event SET conflicts = conflicts + 1 WHERE seq = ?1")?
            .execute([holder.seq])?;
        conflict::keep(tx, new, holder.seq)?;
    }
    // With its own body gone and another one here there is nothing to send.
    let has_something = !gone || (!conflict && bring_back(tx, new, holder.seq)?);
    let rearmed = !dead.is_empty() && has_something;
    if rearmed {
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

/// The dead deliveries of `holder` that this repeat makes pending again.
fn dead_deliveries(tx: &Transaction<'_>, new: &NewEvent, holder: &Holder) -> Result<Vec<i64>, TxError> {
    let none = holder.state == state::DELIVERED
        || holder.state == state::FILTERED
        || tx.unindexed.columns(holder.seq).is_some();
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

/// Whether an event is still there, and what was kept.
fn is_whole(tx: &Transaction<'_>, seq: i64) -> Result<bool, TxError> {
    if tx.is_new(seq) {
        return Ok(true);
    }
    let found = super::load::event(tx.conn, tx.shared, seq)?;
    Ok(found.is_some_and(|loaded| !loaded.corrupt))
}

/// Puts a repeat in the place of what is left of its event; false where not even its upstreams are known.
fn bring_back(tx: &mut Transaction<'_>, new: &NewEvent, seq: i64) -> Result<bool, TxError> {
    let Some(wants) = super::load::event(tx.conn, tx.shared, seq)?.and_then(|loaded| loaded.wants) else {
        return Ok(false);
    };
    if wants.route.name != new.event.route {
        return Ok(false);
    }
    let scoped = scoped_key(tx, new);
    let row = Row {
        seq,
        event: &new.event,
        wants: &wants,
        event_key: scoped.as_ref(),
        possible_duplicate_of: None,
        key_kind: kind_number(new.key_kind),
    };
    row.restore(tx)?;
    Ok(true)
}
