//! Reading events back, with their hashes checked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};
use twox_hash::XxHash3_128;

use super::lane::{Found, Fresh, Look, Row};
use super::schema::flag;
use super::state::Shared;
use crate::event::{
    Event, EventKey, KeptEvent, KeyKind, ProviderName, RouteName, SecretName, Seq, Timestamp,
};

/// Events of the backlog read at once.
const SCAN_EVENTS: usize = 128;
/// Rows of the backlog looked at in one statement.
const SCAN_ROWS: usize = 1024;
/// Bytes read by one claim.
const READ_BYTES_MAX: usize = 4 << 20;

/// The hash kept of a body.
pub(super) fn body_hash(body: &[u8]) -> [u8; 16] {
    XxHash3_128::oneshot(body).to_be_bytes()
}

/// The hash kept of a header block.
pub(super) fn head_hash(headers: &[u8]) -> i64 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "half of the hash is enough to see damage"
    )]
    let half = XxHash3_128::oneshot(headers) as u64;
    half.cast_signed()
}

pub(super) fn kind_number(kind: KeyKind) -> i64 {
    match kind {
        KeyKind::Id => 0,
        KeyKind::Body => 1,
        KeyKind::Unverified => 2,
    }
}

/// The key of an event that is not stored with it, because it can be derived.
pub(super) fn derived_key(
    store_id: &[u8; 16],
    route: &RouteName,
    seq: Seq,
    kind: i64,
    event_id: Option<&str>,
) -> EventKey {
    match event_id {
        Some(id) if kind == kind_number(KeyKind::Id) => EventKey::of_id(route, id),
        _ => EventKey::of_kept(route, store_id, seq),
    }
}

/// An event as it was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) event: Arc<KeptEvent>,
    pub(super) set: i64,
    /// The bytes are not those that were kept.
    pub(super) corrupt: bool,
}

const EVENT: &str = "SELECT e.seq, e.route, e.wants, e.received_at, e.flags, e.key_kind, e.head_hash, e.body_hash,
  e.event_id, e.event_type, e.provider, e.method, e.path_rest, e.query, e.host, e.client, e.secret, e.event_key,
  e.possible_duplicate_of, p.headers, p.body FROM event e LEFT JOIN payload p ON p.seq = e.seq WHERE e.seq = ?1";

/// Reads one event.
pub(super) fn event(conn: &Connection, shared: &Shared, seq: i64) -> rusqlite::Result<Option<Loaded>> {
    conn.prepare_cached(EVENT)?
        .query_row([seq], |row| from_row(row, shared))
        .optional()
}

fn from_row(row: &SqlRow<'_>, shared: &Shared) -> rusqlite::Result<Loaded> {
    let seq = Seq(row.get(0)?);
    let route = shared.route_name(row.get(1)?);
    let (flags, kind): (i64, i64) = (row.get(4)?, row.get(5)?);
    let head_kept: i64 = row.get(6)?;
    let body_kept = row.get_ref(7)?.as_blob()?.to_vec();
    let headers = row.get_ref(19)?.as_blob_or_null()?.map(Bytes::copy_from_slice);
    let body = row.get_ref(20)?.as_blob_or_null()?.map(Bytes::copy_from_slice);
    let corrupt = headers.as_deref().map(head_hash) != Some(head_kept)
        || body.as_deref().map(body_hash).as_ref().map(<[u8; 16]>::as_slice) != Some(&body_kept);
    let event_id: Option<Box<str>> = row.get(8)?;
    let client: String = row.get(15)?;
    let key = match row.get::<_, Option<String>>(17)? {
        Some(stored) => EventKey::from_stored(&stored),
        None => derived_key(&shared.store_id, &route, seq, kind, event_id.as_deref()),
    };
    let earlier: Option<String> = row.get(18)?;
    let event = Event {
        route,
        provider: ProviderName::new(row.get::<_, String>(10)?),
        event_id,
        event_type: row.get(9)?,
        type_unsigned: flags & flag::TYPE_UNSIGNED != 0,
        verified: flags & flag::VERIFIED != 0,
        secret: row.get::<_, Option<String>>(16)?.map(SecretName::new),
        received_at: Timestamp(row.get(3)?),
        method: row.get(11)?,
        path_rest: row.get(12)?,
        query: row.get(13)?,
        host: row.get(14)?,
        client: client.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        headers: headers.unwrap_or_default(),
        has_idempotency_key: flags & flag::IDEMPOTENCY_KEY != 0,
        body: body.unwrap_or_default(),
    };
    let possible_duplicate_of = earlier.as_deref().map(EventKey::from_stored);
    let event = Arc::new(KeptEvent {
        seq,
        key,
        possible_duplicate_of,
        event,
    });
    Ok(Loaded {
        event,
        set: row.get(2)?,
        corrupt,
    })
}

/// Does what a claim needs of the store; short statements, one after the other.
pub(super) fn look(
    conn: &Connection,
    shared: &Shared,
    lane: i64,
    look: &Look,
    steady_now: i64,
) -> rusqlite::Result<Found> {
    let mut found = Found::default();
    // One snapshot, so that a scan sees every event up to the last one it meets.
    conn.execute_batch("BEGIN")?;
    let result = read_rows(conn, shared, lane, look, steady_now, &mut found)
        .and_then(|bytes| scan(conn, shared, lane, look, bytes, &mut found));
    conn.execute_batch("COMMIT")?;
    result.map(|()| found)
}

fn read_rows(
    conn: &Connection,
    shared: &Shared,
    lane: i64,
    look: &Look,
    steady_now: i64,
    found: &mut Found,
) -> rusqlite::Result<usize> {
    if look.rows == 0 {
        return Ok(0);
    }
    let limit = look.rows + look.leased.len();
    let mut due = conn.prepare_cached(
        "SELECT seq, attempts, age_from FROM delivery INDEXED BY delivery_due
         WHERE upstream = ?1 AND status = 0 AND due <= ?2 ORDER BY due LIMIT ?3",
    )?;
    let mut rows = due.query((lane, steady_now, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let (mut met, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        if bytes > READ_BYTES_MAX || found.rows.len() >= look.rows {
            met = limit;
            break;
        }
        met += 1;
        if look.leased.contains(&seq) {
            continue;
        }
        let Some(loaded) = event(conn, shared, seq)? else {
            continue;
        };
        let fresh = Fresh {
            event: loaded.event,
            members: members(shared, loaded.set),
        };
        if loaded.corrupt {
            found.corrupt.push(fresh);
            continue;
        }
        bytes += fresh.event.event.body.len() + fresh.event.event.headers.len();
        found.rows.push(Row {
            fresh,
            attempts: row.get(1)?,
            age_from: row.get(2)?,
        });
    }
    found.next_due = if met >= limit {
        Some(steady_now)
    } else {
        conn.prepare_cached(
            "SELECT min(due) FROM delivery INDEXED BY delivery_due
             WHERE upstream = ?1 AND status = 0 AND due > ?2",
        )?
        .query_row((lane, steady_now), |row| row.get(0))?
    };
    Ok(bytes)
}

fn scan(
    conn: &Connection,
    shared: &Shared,
    lane: i64,
    look: &Look,
    mut bytes: usize,
    found: &mut Found,
) -> rusqlite::Result<()> {
    let Some(from) = look.scan_from else {
        return Ok(());
    };
    let (met, mut to, mut exhausted) = open_events(conn, lane, &look.sets, from, SCAN_ROWS)?;
    for (seq, members, has_row) in met {
        if has_row || look.leased.contains(&seq) {
            continue;
        }
        if found.scanned.len() >= SCAN_EVENTS || bytes > READ_BYTES_MAX {
            // Go on from this one.
            (to, exhausted) = (seq, false);
            break;
        }
        let Some(loaded) = event(conn, shared, seq)? else {
            continue;
        };
        let fresh = Fresh {
            event: loaded.event,
            members,
        };
        if loaded.corrupt {
            found.corrupt.push(fresh);
        } else {
            bytes += fresh.event.event.body.len() + fresh.event.event.headers.len();
            found.scanned.push(fresh);
        }
    }
    found.scanned_to = to;
    found.exhausted = exhausted;
    Ok(())
}

/// Events (number, members, whether the lane has a row of it), where to go on, and whether that was all.
pub(super) type OpenEvents = (Vec<(i64, usize, bool)>, i64, bool);

/// Open events of the sets from `from` on, oldest first.
pub(super) fn open_events(
    conn: &Connection,
    lane: i64,
    sets: &[(i64, usize)],
    from: i64,
    limit: usize,
) -> rusqlite::Result<OpenEvents> {
    let mut met = Vec::new();
    let mut bound = i64::MAX;
    for (set, members) in sets {
        let mut open = conn.prepare_cached(
            "SELECT seq, EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq AND d.upstream = ?1)
             FROM event e INDEXED BY event_open WHERE state = 0 AND wants = ?2 AND seq >= ?3 ORDER BY seq LIMIT ?4",
        )?;
        let mut rows = open.query((lane, set, from, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        let (mut count, mut last) = (0, from);
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            met.push((last, *members, row.get(1)?));
            count += 1;
        }
        if count >= limit {
            bound = bound.min(last);
        }
    }
    met.sort_unstable();
    // Beyond the bound the sets were not all read.
    met.retain(|(seq, _, _)| *seq <= bound);
    let to = met.last().map_or(from, |(seq, _, _)| seq + 1);
    Ok((met, to, bound == i64::MAX))
}

fn members(shared: &Shared, set: i64) -> usize {
    shared.names.set(set).map_or(1, |wants| wants.lanes.len())
}
