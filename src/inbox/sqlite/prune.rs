//! What goes: settled events after their retention, bodies when space runs short, marks that ran out.
//!
//! An event row stays at least as long as its dedup window, so a live dedup key always has its event; only the body may
//! go before. Pending and dead events never go for space.

use std::time::{Duration, Instant};

use rusqlite::Row as SqlRow;

use super::bodies::{Place, unreadable_file};
use super::jumps;
use super::marks;
use super::schema::state;
use super::seal::readable;
use super::state::Shared;
use super::transaction::{Transaction, TxError};

/// Events removed in one transaction.
const SLICE_REMOVED: usize = 500;
/// Their bytes, about: freeing a body walks its pages.
const SLICE_BYTES: i64 = 16 << 20;
/// Events looked at in one transaction.
const SLICE_LOOKED_AT: usize = 4_000;
/// Between two passes.
const PASS_WAIT: Duration = Duration::from_secs(2);
/// A pass over a long store waits this many times its own length.
const PASS_REST: u32 = 50;

/// How far pruning is.
#[derive(Debug)]
pub(super) struct Pruner {
    cursor: i64,
    next_pass: Instant,
    spent: Duration,
    space_cursor: i64,
    /// The space cursor went round without finding anything.
    space_in_vain: Option<Instant>,
    space_spent: Duration,
    warned: bool,
    /// The last slice removed something: there may be more.
    busy: bool,
}

/// What a slice did.
#[derive(Debug, Default)]
pub(super) struct Pruned {
    /// Events, or bodies of events.
    pub(super) removed: usize,
    /// Bodies that stay, and lie elsewhere now.
    pub(super) moved: usize,
    /// Events looked at.
    looked_at: usize,
    next: i64,
    at_end: bool,
}

impl Pruned {
    /// The part of `took` that went into looking at what stays. Only that is rested from: else a store that takes much and
    /// keeps it shortly would grow.
    fn in_vain(&self, took: Duration) -> Duration {
        let kept = self.looked_at.saturating_sub(self.removed);
        #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
        took.mul_f64(kept as f64 / self.looked_at.max(1) as f64)
    }
}

impl Pruner {
    pub(super) fn new() -> Self {
        Self {
            cursor: 0,
            next_pass: Instant::now(),
            spent: Duration::ZERO,
            space_cursor: 0,
            space_in_vain: None,
            space_spent: Duration::ZERO,
            warned: false,
            busy: false,
        }
    }

    /// Whether a slice for retention is due.
    pub(super) fn retention_due(&mut self, shared: &Shared) -> bool {
        if Instant::now() < self.next_pass {
            return false;
        }
        let apart = shared.clock.now().0.abs_diff(shared.steady.now());
        if apart > jumps::AGREE.unsigned_abs() {
            if !self.warned {
                tracing::warn!("the wall clock jumped: retention is suspended until a restart");
            }
            self.warned = true;
            self.next_pass = Instant::now() + PASS_WAIT;
            return false;
        }
        self.warned = false;
        true
    }

    /// Whether the next slice should follow at once.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Nothing is to be pruned now.
    pub(super) fn rest(&mut self) {
        self.busy = false;
    }

    /// Whether a slice for space is worth trying.
    pub(super) fn space_due(&self) -> bool {
        self.space_in_vain
            .is_none_or(|since| since.elapsed() > PASS_WAIT.max(self.space_spent * PASS_REST))
    }

    /// Notes what a retention slice did.
    pub(super) fn retention_done(&mut self, pruned: &Pruned, took: Duration) {
        self.spent += pruned.in_vain(took);
        self.busy |= !pruned.at_end;
        self.cursor = pruned.next;
        if pruned.at_end {
            self.cursor = 0;
            self.next_pass = Instant::now() + PASS_WAIT.max(self.spent * PASS_REST);
            self.spent = Duration::ZERO;
        }
    }

    /// Notes what a space slice did.
    pub(super) fn space_done(&mut self, pruned: &Pruned, took: Duration) {
        // Of the way round; begins anew once something was found.
        if self.space_in_vain.is_some() || pruned.removed > 0 {
            self.space_spent = Duration::ZERO;
        }
        self.space_spent += took;
        self.space_cursor = pruned.next;
        self.space_in_vain = None;
        self.busy |= !pruned.at_end;
        if pruned.at_end {
            let found = pruned.removed + pruned.moved > 0;
            self.space_in_vain = (self.space_cursor == 0 || !found).then(Instant::now);
            self.space_cursor = 0;
        }
    }

    /// Removes events whose time is over.
    pub(super) fn retention(&self, tx: &mut Transaction<'_>) -> Result<Pruned, TxError> {
        let retention = tx.shared.settings.retention;
        let now = tx.now.0;
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (delivered, dead) = (millis(retention.delivered), millis(retention.dead));
        let mut pruned = Pruned {
            next: self.cursor,
            ..Pruned::default()
        };
        // Nothing that came in after this can be due: an event is settled after it was received.
        let newest = now.saturating_sub(delivered.min(dead));
        let mut bytes = 0;
        for old in olds(tx, self.cursor)? {
            // An event from the future was received while the clock was wrong, and says nothing of those behind it.
            let is_new = old.received_at > newest && old.received_at <= now;
            if is_new || pruned.removed >= SLICE_REMOVED || bytes > SLICE_BYTES {
                pruned.at_end = is_new;
                break;
            }
            pruned.looked_at += 1;
            pruned.next = old.seq.saturating_add(1);
            let stays = match old.state {
                state::OPEN => continue,
                state::DEAD => dead,
                _ => delivered,
            };
            let settled_at = old.settled_at.max(tx.shared.jumps.last());
            if settled_at.saturating_add(stays) > now {
                continue;
            }
            if old.keep_until > now {
                // Its id is still remembered: only the body goes.
                if old.state != state::DEAD && drop_body(tx, old.seq)? {
                    pruned.removed += 1;
                    bytes += old.bytes;
                }
                continue;
            }
            remove(tx, &old)?;
            pruned.removed += 1;
            bytes += old.bytes;
        }
        pruned.at_end |=
            pruned.looked_at < SLICE_LOOKED_AT && pruned.removed < SLICE_REMOVED && bytes <= SLICE_BYTES;
        if pruned.removed > 0 {
            tx.store_counters()?;
        }
        marks::prune(tx, now)?;
        Ok(pruned)
    }

    /// Drops bodies of delivered and filtered events, oldest first; then events whose window is over.
    pub(super) fn space(&self, tx: &mut Transaction<'_>) -> Result<Pruned, TxError> {
        let mut pruned = Pruned {
            next: self.space_cursor,
            ..Pruned::default()
        };
        let mut bytes = 0;
        let mut met = 0;
        for old in olds(tx, self.space_cursor)? {
            if pruned.removed >= SLICE_REMOVED || bytes > SLICE_BYTES {
                break;
            }
            met += 1;
            pruned.next = old.seq.saturating_add(1);
            if old.state != state::DELIVERED && old.state != state::FILTERED {
                continue;
            }
            if old.keep_until <= tx.now.0 {
                remove(tx, &old)?;
            } else if !drop_body(tx, old.seq)? {
                continue;
            }
            pruned.removed += 1;
            bytes += old.bytes;
        }
        pruned.at_end = met < SLICE_LOOKED_AT && pruned.removed < SLICE_REMOVED && bytes <= SLICE_BYTES;
        if pruned.removed > 0 {
            tx.store_counters()?;
        } else if pruned.at_end {
            // What may go is gone; what must stay takes less room elsewhere.
            pruned.moved = move_sparse(tx)?;
        }
        Ok(pruned)
    }
}

/// An event, as far as pruning looks at it.
struct Old {
    seq: i64,
    state: i64,
    received_at: i64,
    settled_at: i64,
    keep_until: i64,
    bytes: i64,
    dedup_key: Option<Vec<u8>>,
}

fn olds(tx: &Transaction<'_>, from: i64) -> Result<Vec<Old>, TxError> {
    let found = tx
        .conn
        .prepare_cached(
            "SELECT seq, state, received_at, settled_at, keep_until, bytes, dedup_key FROM event
             WHERE seq >= ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map(
            (from, i64::try_from(SLICE_LOOKED_AT).unwrap_or(i64::MAX)),
            |row| Ok(readable(Old::read(row))?.unwrap_or(Old::unreadable(row.get(0)?))),
        )?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

impl Old {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            state: row.get(1)?,
            received_at: row.get(2)?,
            settled_at: row.get(3)?,
            keep_until: row.get(4)?,
            bytes: row.get(5)?,
            dedup_key: row.get(6)?,
        })
    }

    /// What damage made unreadable stays, for people to look at.
    fn unreadable(seq: i64) -> Self {
        Self {
            seq,
            state: state::OPEN,
            received_at: 0,
            settled_at: 0,
            keep_until: i64::MAX,
            bytes: 0,
            dedup_key: None,
        }
    }
}

/// Moves what is still needed of a sparse file of bodies into the database, so that the file goes; how many that were.
fn move_sparse(tx: &mut Transaction<'_>) -> Result<usize, TxError> {
    let Some((segment, first, last)) = tx.segments.sparse(tx.conn)? else {
        return Ok(0);
    };
    let named: Vec<(i64, Place, i64)> = tx
        .conn
        .prepare_cached(
            "SELECT seq, segment, offset, head_bytes, body_bytes FROM event
             WHERE seq BETWEEN ?1 AND ?2 AND segment = ?3 LIMIT ?4",
        )?
        .query_map(
            (
                first,
                last,
                segment,
                i64::try_from(SLICE_REMOVED).unwrap_or(i64::MAX),
            ),
            |row| Ok((row.get(0)?, Place::read(row, 1)?)),
        )?
        .filter_map(|found| match found {
            Ok((seq, Some((place, body_bytes)))) => Some(Ok((seq, place, body_bytes))),
            Ok((_, None)) => None,
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_, _>>()?;
    for (seq, place, body_bytes) in &named {
        let found = tx
            .shared
            .bodies
            .read(*place, *body_bytes)
            .map_err(unreadable_file)?;
        tx.release_place(*seq)?;
        // What is not there any more was lost before: its row says so to whoever reads it.
        if let Some((headers, body)) = found {
            tx.conn
                .prepare_cached("INSERT OR REPLACE INTO payload (seq, headers, body) VALUES (?1, ?2, ?3)")?
                .execute((seq, &headers[..], &body[..]))?;
        }
    }
    Ok(named.len())
}

fn drop_body(tx: &mut Transaction<'_>, seq: i64) -> Result<bool, TxError> {
    let released = tx.release_place(seq)?;
    let bodies = tx
        .conn
        .prepare_cached("DELETE FROM payload WHERE seq = ?1")?
        .execute([seq])?;
    let conflicts = tx
        .conn
        .prepare_cached("DELETE FROM conflict WHERE seq = ?1")?
        .execute([seq])?;
    Ok(released || bodies + conflicts > 0)
}

fn remove(tx: &mut Transaction<'_>, old: &Old) -> Result<(), TxError> {
    drop_body(tx, old.seq)?;
    if old.state == state::DEAD {
        let dead: Vec<i64> = tx
            .conn
            .prepare_cached("SELECT upstream FROM delivery WHERE seq = ?1 AND status = 2")?
            .query_map([old.seq], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for upstream in dead {
            if let Some(lane) = tx.shared.names.lane_by_id(upstream) {
                tx.effects.counts.push((lane, 0, -1));
            }
        }
    }
    tx.conn
        .prepare_cached("DELETE FROM delivery WHERE seq = ?1")?
        .execute([old.seq])?;
    if let Some(key) = old.dedup_key.as_deref().and_then(|key| key.try_into().ok()) {
        tx.keys.forget(tx.conn, key, old.seq)?;
    }
    tx.conn
        .prepare_cached("DELETE FROM event WHERE seq = ?1")?
        .execute([old.seq])?;
    tx.effects.events -= 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The soak found it: what is removed was rested from too, and half a million events that were over stayed.
    #[test]
    fn a_pass_rests_from_what_it_looked_at_in_vain() {
        // How many of how many went in ten seconds, and the rest in seconds: fifty times what was in vain.
        for (removed, looked_at, secs) in [(500, 500, 2.0), (250, 500, 250.0), (0, 4000, 500.0), (0, 0, 2.0)]
        {
            let mut pruner = Pruner::new();
            let slice = Pruned {
                removed,
                looked_at,
                at_end: false,
                ..Pruned::default()
            };
            pruner.retention_done(&slice, Duration::from_secs(10));
            let end = Pruned {
                at_end: true,
                ..Pruned::default()
            };
            pruner.retention_done(&end, Duration::ZERO);
            let rest = pruner.next_pass.saturating_duration_since(Instant::now());
            let off = (rest.as_secs_f64() - secs).abs();
            assert!(off < 1.0, "{removed} of {looked_at}: {rest:?}");
        }
    }
}
