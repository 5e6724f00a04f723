//! What follows a commit, in memory only: events are handed over, leases end, counts change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lane::Lane;
use super::names::{Route, Wants};
use super::state::Shared;
use crate::event::KeptEvent;

/// What follows a commit, in memory only.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Events to hand over.
    pub(super) fresh: Vec<(Arc<KeptEvent>, Arc<Wants>)>,
    /// Sets whose rows are written now.
    pub(super) stored: Vec<Arc<Wants>>,
    /// Leases that ended: their lane, event, due time if a row waits, and changes of the pending and dead counts.
    pub(super) settled: Vec<Settled>,
    /// Rows that wait again.
    pub(super) pending: Vec<(Arc<Lane>, i64, i64)>,
    /// Changes of the counts of lanes.
    pub(super) counts: Vec<(Arc<Lane>, i64, i64)>,
    /// Changes of the bytes of open events.
    pub(super) open_bytes: Vec<(Arc<Route>, i64)>,
    /// Change of the number of events.
    pub(super) events: i64,
    /// Rows were committed: more events have theirs now.
    pub(super) indexed: bool,
    /// The transaction wrote to the database: all that waited was written, but for rows that were left for later.
    pub(super) wrote: bool,
}

/// A lease that ended.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) lane: Arc<Lane>,
    pub(super) seq: i64,
    pub(super) due: Option<i64>,
}

impl Effects {
    /// Tells the lanes. Only after the commit, and after the senders have their answers.
    pub(super) fn apply(self, shared: &Shared) {
        shared.figures.events.fetch_add(self.events, Ordering::Relaxed);
        for (route, bytes) in self.open_bytes {
            route.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        for wants in self.stored {
            wants.committed();
        }
        // Events come in runs of one set: a lane is told of a run at once.
        for run in self
            .fresh
            .chunk_by(|(_, one), (_, other)| Arc::ptr_eq(one, other))
        {
            let Some((_, wants)) = run.first() else { continue };
            let events = || run.iter().map(|(event, _)| event);
            let pending = i64::try_from(run.len()).unwrap_or(i64::MAX);
            let oldest = events().map(|event| event.event.received_at.0).min();
            for lane in &wants.lanes {
                lane.pending.fetch_add(pending, Ordering::Relaxed);
                lane.oldest
                    .fetch_min(oldest.unwrap_or(i64::MAX), Ordering::Relaxed);
                lane.offer(events(), wants.lanes.len());
            }
        }
        for (lane, pending, dead) in self.counts {
            lane.pending.fetch_add(pending, Ordering::Relaxed);
            lane.dead.fetch_add(dead, Ordering::Relaxed);
        }
        for run in self
            .settled
            .chunk_by(|one, other| Arc::ptr_eq(&one.lane, &other.lane))
        {
            if let Some(Settled { lane, .. }) = run.first() {
                lane.settled(run.iter().map(|settled| (settled.seq, settled.due)));
            }
        }
        for (lane, seq, due) in self.pending {
            lane.due(seq, due);
        }
        if self.indexed {
            let indexed_to = shared.indexed_to.load(Ordering::Acquire);
            for lane in shared.names.lanes() {
                lane.indexed(indexed_to);
            }
        }
    }
}
