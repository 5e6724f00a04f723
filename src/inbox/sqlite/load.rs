//! Reading events back, with their hashes checked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Rows};

use super::lane::{Corrupt, Found, Fresh, Look, Row};
use super::names::Wants;
use super::schema::{flag, state, status};
use super::seal::{Head, is_done, is_unreadable};
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
    /// The upstreams that want it; `None` where its set is not known.
    pub(super) wants: Option<Arc<Wants>>,
    /// It is not what was kept.
    pub(super) corrupt: bool,
}

/// The sealed columns first.
static EVENT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, e.route, e.wants, p.headers, p.body, e.segment, e.offset, e.head_bytes, e.body_bytes, e.state
         FROM event e LEFT JOIN payload p ON p.seq = e.seq WHERE e.seq = ?1",
        Head::COLUMNS
    )
});
const ROUTE: usize = Head::COUNT;
const WANTS: usize = Head::COUNT + 1;
const PAYLOAD: usize = Head::COUNT + 2;
const PLACE: usize = Head::COUNT + 4;
const STATE: usize = Head::COUNT + 8;

/// Reads one event.
pub(super) fn event(conn: &Connection, shared: &Shared, seq: i64) -> rusqlite::Result<Option<Loaded>> {
    conn.prepare_cached(&EVENT)?
        .query_row([seq], |row| from_row(row, shared, seq))
        .optional()
}

/// Reads an event that an index says is pending for `lane`; one that is not is not read, however large it is.
fn event_for(conn: &Connection, shared: &Shared, lane: i64, seq: i64) -> rusqlite::Result<Loaded> {
    let mut select = conn.prepare_cached(&EVENT)?;
    let loaded = select.query_row([seq], |row| match row.get::<_, i64>(STATE) {
        Ok(settled) if settled != state::OPEN => Ok(None),
        Ok(_) | Err(_) => from_row(row, shared, seq).map(Some),
    });
    loaded
        .optional()?
        .flatten()
        .filter(|loaded| loaded.is_for(lane))
        .ok_or_else(|| stray(seq))
}

/// An index names an event that is not there, not pending, or not for those who read it: some other event is not found for
/// that.
pub(super) fn stray(seq: i64) -> rusqlite::Error {
    let text = format!("an index of pending deliveries names event {seq}, which is none");
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(text),
    )
}

fn from_row(row: &SqlRow<'_>, shared: &Shared, seq: i64) -> rusqlite::Result<Loaded> {
    match read(row, shared) {
        Err(error) if is_unreadable(&error) => Ok(unreadable(row, shared, seq)),
        other => other,
    }
}

fn read(row: &SqlRow<'_>, shared: &Shared) -> rusqlite::Result<Loaded> {
    let head = Head::read(row)?;
    // One whose state cannot be read is not whole either.
    row.get::<_, i64>(STATE)?;
    let route = shared.route_name(row.get(ROUTE)?);
    let wants = shared.names.set(row.get(WANTS)?);
    let names = Wants::seal_of(wants.as_deref(), &route);
    let (headers, body) = shared.bodies.of_row(row, PAYLOAD, PLACE)?;
    let whole = match (&headers, &body) {
        (Some(headers), Some(body)) => head.is_whole(route.as_str(), names, headers, body),
        _ => false,
    };
    let seq = Seq(head.seq);
    let key = match &head.event_key {
        Some(stored) => EventKey::from_stored(stored),
        None => derived_key(
            &shared.store_id,
            &route,
            seq,
            head.key_kind,
            head.event_id.as_deref(),
        ),
    };
    let kept = KeptEvent {
        seq,
        key,
        possible_duplicate_of: head.possible_duplicate_of.as_deref().map(EventKey::from_stored),
        event: Arc::new(Event {
            route,
            provider: ProviderName::new(head.provider),
            event_id: head.event_id.map(Into::into),
            event_type: head.event_type.map(Into::into),
            type_unsigned: head.flags & flag::TYPE_UNSIGNED != 0,
            verified: head.flags & flag::VERIFIED != 0,
            secret: head.secret.map(SecretName::new),
            received_at: Timestamp(head.received_at),
            method: head.method.into(),
            path_rest: head.path_rest.into(),
            query: head.query.map(Into::into),
            host: head.host.into(),
            client: head.client.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            headers: headers.unwrap_or_default(),
            has_idempotency_key: head.flags & flag::IDEMPOTENCY_KEY != 0,
            body: body.unwrap_or_default(),
        }),
    };
    Ok(Loaded {
        event: Arc::new(kept),
        wants,
        corrupt: !whole,
    })
}

/// What stands for an event whose row cannot be read: enough to settle it as corrupt.
fn unreadable(row: &SqlRow<'_>, shared: &Shared, seq: i64) -> Loaded {
    let route = shared.route_name(row.get(ROUTE).unwrap_or_default());
    let seq = Seq(seq);
    let kept = KeptEvent {
        seq,
        key: EventKey::of_kept(&route, &shared.store_id, seq),
        possible_duplicate_of: None,
        event: Arc::new(Event {
            route,
            provider: ProviderName::new(""),
            event_id: None,
            event_type: None,
            type_unsigned: false,
            verified: false,
            secret: None,
            received_at: Timestamp(0),
            method: "".into(),
            path_rest: "".into(),
            query: None,
            host: "".into(),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            headers: Bytes::new(),
            has_idempotency_key: false,
            body: Bytes::new(),
        }),
    };
    Loaded {
        event: Arc::new(kept),
        wants: row.get(WANTS).ok().and_then(|set| shared.names.set(set)),
        corrupt: true,
    }
}

impl Loaded {
    fn fresh(&self) -> Fresh {
        Fresh {
            event: self.event.clone(),
            members: self.wants.as_ref().map_or(1, |wants| wants.lanes.len()),
        }
    }

    /// Whether it is for this lane. What is corrupt is settled by whoever meets it.
    fn is_for(&self, lane: i64) -> bool {
        let lanes = self.wants.iter().flat_map(|wants| &wants.lanes);
        self.corrupt || lanes.into_iter().any(|other| other.id == lane)
    }
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
    let indexed_to = shared.indexed_to.load(Ordering::Acquire);
    // One snapshot, so that a scan sees every event up to the last one it meets, and all of those.
    conn.execute_batch("BEGIN")?;
    let result = read_rows(conn, shared, lane, look, steady_now, &mut found)
        .and_then(|bytes| scan(conn, shared, lane, look, bytes, &mut found));
    if found.exhausted {
        found.scanned_to = found.scanned_to.max(indexed_to);
    }
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
        let loaded = event_for(conn, shared, lane, seq)?;
        let fresh = loaded.fresh();
        if loaded.corrupt {
            found.corrupt.push(Corrupt { fresh, done: None });
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
    for Open {
        seq,
        set,
        members,
        row,
    } in met
    {
        let done = row.filter(|status| *status != status::PENDING);
        let stuck = done.is_some() && all_done(conn, seq, set, members)?;
        if (row.is_some() && !stuck) || look.leased.contains(&seq) {
            continue;
        }
        if found.scanned.len() >= SCAN_EVENTS || bytes > READ_BYTES_MAX {
            // Go on from this one.
            (to, exhausted) = (seq, false);
            break;
        }
        let loaded = event_for(conn, shared, lane, seq)?;
        let fresh = Fresh {
            members,
            ..loaded.fresh()
        };
        if loaded.corrupt || stuck {
            found.corrupt.push(Corrupt { fresh, done });
        } else {
            bytes += fresh.event.event.body.len() + fresh.event.event.headers.len();
            found.scanned.push(fresh);
        }
    }
    found.scanned_to = to;
    found.exhausted = exhausted;
    Ok(())
}

/// Whether no upstream of a set has an event left to take. An open event has one, or it was damaged: a member of its set is
/// gone, or it has the number of another set. Nobody else would ever meet it.
fn all_done(conn: &Connection, seq: i64, set: i64, members: usize) -> rusqlite::Result<bool> {
    let mut rows = conn.prepare_cached(
        "SELECT d.upstream, CAST(d.status AS INTEGER), CAST(d.due AS INTEGER) FROM upstream_set s
         JOIN delivery d ON d.seq = ?1 AND d.upstream = s.upstream WHERE s.id = ?2",
    )?;
    let (done, _) = count_done(rows.query((seq, set))?, seq)?;
    Ok(done >= members)
}

/// How many deliveries of an event are done with, and how many of those are dead, by rows of upstream, status and `due`.
pub(super) fn count_done(mut rows: Rows<'_>, seq: i64) -> rusqlite::Result<(usize, usize)> {
    let (mut done, mut dead) = (0, 0);
    while let Some(row) = rows.next()? {
        let found = row.get(1)?;
        if is_done(seq, row.get(0)?, found, row.get(2)?) {
            done += 1;
            dead += usize::from(found == status::DEAD);
        }
    }
    Ok((done, dead))
}

/// An open event of a set that a lane is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Open {
    pub(super) seq: i64,
    pub(super) set: i64,
    /// Upstreams of the set.
    pub(super) members: usize,
    /// The `delivery.status` of the lane's row, if it has one.
    pub(super) row: Option<i64>,
}

/// Events, where to go on, and whether that was all.
pub(super) type OpenEvents = (Vec<Open>, i64, bool);

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
            "SELECT e.seq, CAST(d.status AS INTEGER), CAST(d.due AS INTEGER)
             FROM event e INDEXED BY event_open LEFT JOIN delivery d ON d.seq = e.seq AND d.upstream = ?1
             WHERE e.state = 0 AND e.wants = ?2 AND e.seq >= ?3 ORDER BY e.seq LIMIT ?4",
        )?;
        let mut rows = open.query((lane, set, from, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        let (mut count, mut last) = (0, from);
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            let found: Option<i64> = row.get(1)?;
            let due = row.get::<_, Option<i64>>(2)?.unwrap_or_default();
            met.push(Open {
                seq: last,
                set: *set,
                members: *members,
                // Of one that is not believed nothing is known.
                row: found.filter(|found| *found == status::PENDING || is_done(last, lane, *found, due)),
            });
            count += 1;
        }
        if count >= limit {
            bound = bound.min(last);
        }
    }
    met.sort_unstable();
    // Beyond the bound the sets were not all read.
    met.retain(|open| open.seq <= bound);
    let to = met.last().map_or(from, |open| open.seq.saturating_add(1));
    Ok((met, to, bound == i64::MAX))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::inbox::sqlite::schema;

    #[test]
    fn reading_an_event_is_prepared_once() -> rusqlite::Result<()> {
        let settings: [fn(&Connection) -> rusqlite::Result<()>; 2] =
            [schema::set_up_reader, |conn| schema::set_up_writer(conn, 1 << 30)];
        for set_up in settings {
            let conn = Connection::open_in_memory()?;
            schema::create(&conn, &[1; 16], &[2; 16])?;
            set_up(&conn)?;
            let mut statement = conn.prepare(&EVENT)?;
            for seq in 1..4 {
                assert!(!statement.exists([seq])?);
            }
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
        }
        Ok(())
    }
}
