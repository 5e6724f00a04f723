//! Replay, a slice per transaction, so that accepts go on between slices.

use std::sync::Arc;

use rusqlite::OptionalExtension;

use super::conflict;
use super::schema::{state, status};
use super::seal::{self, readable};
use super::state::Replay;
use super::transaction::{Transaction, TxError};
use crate::inbox::{Selection, Status};

/// Events looked at in one transaction.
const SLICE_EVENTS: usize = 500;

/// What a replay needs to know of an event.
struct Head {
    seq: i64,
    route: i64,
    state: i64,
    wants: i64,
    received_at: i64,
    event_type: Option<String>,
    bytes: i64,
}

/// Does the next slice; true once nothing is left.
pub(super) fn slice(tx: &mut Transaction<'_>, replay: &mut Replay) -> Result<bool, TxError> {
    if let Some(n) = replay.selection.conflict {
        match conflict::replay(tx, &replay.selection, n)? {
            true => replay.done.deliveries += 1,
            false => replay.done.skipped += 1,
        }
        return Ok(true);
    }
    // Events that come in later are not part of it.
    let last = *replay.last.get_or_insert(tx.next_seq - 1);
    let (seqs, cursor) = candidates(tx, &replay.selection, replay.cursor, last)?;
    for seq in &seqs {
        if let Some(head) = head(tx, *seq)? {
            let (deliveries, skipped) = event(tx, &replay.selection, &head)?;
            replay.done.deliveries += deliveries;
            replay.done.skipped += skipped;
        }
    }
    replay.cursor = cursor;
    Ok(seqs.len() < SLICE_EVENTS)
}

/// The next events, and where to go on. For named events the cursor counts them.
fn candidates(
    tx: &Transaction<'_>,
    selection: &Selection,
    cursor: i64,
    last: i64,
) -> Result<(Vec<i64>, i64), TxError> {
    if !selection.events.is_empty() {
        let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
        let seqs: Vec<i64> = selection
            .events
            .iter()
            .skip(skip)
            .take(SLICE_EVENTS)
            .map(|seq| seq.0)
            .collect();
        let next = cursor.saturating_add(i64::try_from(seqs.len()).unwrap_or(i64::MAX));
        return Ok((seqs, next));
    }
    let sql = match selection.status {
        None | Some(Status::Dead) => {
            "SELECT DISTINCT seq FROM delivery INDEXED BY delivery_dead
             WHERE status = 2 AND seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3"
        }
        _ => "SELECT seq FROM event WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
    };
    let seqs: Vec<i64> = tx
        .conn
        .prepare_cached(sql)?
        .query_map(
            (cursor, last, i64::try_from(SLICE_EVENTS).unwrap_or(i64::MAX)),
            |row| row.get(0),
        )?
        .collect::<Result<_, _>>()?;
    let next = seqs.last().map_or(cursor, |seq| seq.saturating_add(1));
    Ok((seqs, next))
}

fn head(tx: &Transaction<'_>, seq: i64) -> Result<Option<Head>, TxError> {
    let found = tx
        .conn
        .prepare_cached(
            "SELECT route, state, wants, received_at, event_type, bytes FROM event WHERE seq = ?1",
        )?
        .query_row([seq], |row| {
            Ok(Head {
                seq,
                route: row.get(0)?,
                state: row.get(1)?,
                wants: row.get(2)?,
                received_at: row.get(3)?,
                event_type: row.get(4)?,
                bytes: row.get(5)?,
            })
        })
        .optional();
    Ok(readable(found)?.flatten())
}

fn is_selected(tx: &Transaction<'_>, selection: &Selection, head: &Head) -> bool {
    let named = selection
        .route
        .as_ref()
        .is_none_or(|route| tx.shared.route_name(head.route) == *route);
    let since = selection.since.is_none_or(|since| head.received_at >= since.0);
    let until = selection.until.is_none_or(|until| head.received_at < until.0);
    let typed = selection
        .event_type
        .as_ref()
        .is_none_or(|wanted| head.event_type.as_deref() == Some(&**wanted));
    named && since && until && typed
}

/// Replays one event's deliveries that match: how many, and how many were left alone.
fn event(tx: &mut Transaction<'_>, selection: &Selection, head: &Head) -> Result<(u64, u64), TxError> {
    if !is_selected(tx, selection, head) {
        return Ok((0, 0));
    }
    let Some(wants) = tx.shared.names.set(head.wants) else {
        // Nobody wanted it, so there is nobody to send it to.
        let asked = matches!(selection.status, Some(Status::Filtered)) || !selection.events.is_empty();
        return Ok((0, u64::from(asked)));
    };
    let rows: Vec<(i64, i64)> = tx
        .conn
        .prepare_cached("SELECT upstream, status FROM delivery WHERE seq = ?1")?
        .query_map([head.seq], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let (mut deliveries, mut skipped) = (0, 0);
    for lane in &wants.lanes {
        if selection
            .upstream
            .as_ref()
            .is_some_and(|name| *name != lane.target.upstream)
        {
            continue;
        }
        let row = rows
            .iter()
            .find(|(upstream, _)| *upstream == lane.id)
            .map(|(_, status)| *status);
        let now = match row {
            Some(status::DEAD) => Status::Dead,
            Some(status::DELIVERED) => Status::Delivered,
            Some(_) => Status::Pending,
            None if head.state == state::OPEN => Status::Pending,
            None => Status::Delivered,
        };
        let selected = match selection.status {
            Some(wanted) => wanted == now,
            None => !selection.events.is_empty() || now == Status::Dead,
        };
        if !selected {
            continue;
        }
        if now == Status::Pending || !has_payload(tx, head.seq)? {
            skipped += 1;
            continue;
        }
        deliveries += 1;
        if !selection.dry_run {
            tx.make_pending(head.seq, lane.id, now == Status::Dead)?;
        }
    }
    if deliveries > 0 && !selection.dry_run && head.state != state::OPEN {
        keep_delivered(tx, head, &wants.lanes)?;
        tx.reopen(head.seq, head.route, head.bytes)?;
    }
    Ok((deliveries, skipped))
}

/// While an event is open, a delivery without a row is pending: those that were delivered get one.
fn keep_delivered(
    tx: &Transaction<'_>,
    head: &Head,
    lanes: &[Arc<super::lane::Lane>],
) -> Result<(), TxError> {
    for lane in lanes {
        tx.conn
            .prepare_cached(
                "INSERT INTO delivery (seq, upstream, status, attempts, due, age_from) VALUES (?1, ?2, ?3, 1, ?4, ?5)
                 ON CONFLICT DO NOTHING",
            )?
            .execute((
                head.seq,
                lane.id,
                status::DELIVERED,
                seal::done(head.seq, lane.id, status::DELIVERED),
                head.received_at,
            ))?;
    }
    Ok(())
}

fn has_payload(tx: &Transaction<'_>, seq: i64) -> Result<bool, TxError> {
    let found = tx
        .conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM payload WHERE seq = ?1)
               OR EXISTS (SELECT 1 FROM event WHERE seq = ?1 AND segment <> 0)",
        )?
        .query_row([seq], |row| row.get(0))?;
    Ok(found)
}
