//! The contract of the inbox: the promises every store keeps, whatever it is made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Acceptance;
use crate::event::{
    DedupHashKey, DedupKey, Event, KeptEvent, KeyKind, RouteName, Seq, Target, Timestamp, UpstreamName,
};

/// What `[store]` and `[retention]` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder of the store.
    pub path: PathBuf,
    /// Accept a folder on tmpfs, overlayfs or an emptyDir.
    pub allow_ephemeral: bool,
    /// The store's files may take this many bytes.
    pub bytes_max: u64,
    /// Below this much free space on the volume nothing is accepted.
    pub free_bytes_min: u64,
    /// Events waiting for the committer.
    pub queue_events_max: usize,
    /// Their bytes.
    pub queue_bytes_max: usize,
    /// When a commit is expected to take longer than this, accepts are refused with `Busy`.
    pub accept_wait_max: Duration,
    /// How long settled events stay.
    pub retention: Retention,
}

/// How long events stay after they are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Delivered and filtered ones.
    pub delivered: Duration,
    /// Dead ones.
    pub dead: Duration,
}

/// An event on its way in.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What was received.
    pub event: Arc<Event>,
    /// Its dedup key.
    pub dedup_key: DedupKey,
    /// What the key was made of.
    pub key_kind: KeyKind,
    /// How long the key suppresses repeats, counted from `received_at` of the event that holds it.
    pub dedup_window: Duration,
    /// The upstreams that want it, decided at accept. Empty: it is kept as `filtered`.
    pub upstreams: Arc<[UpstreamName]>,
}

/// What became of an accepted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is kept under this number, and synced.
    New(Seq),
    /// Its key is held, and the event that holds it is synced.
    Duplicate {
        /// The event that holds the key.
        of: Seq,
        /// That event's dead deliveries were made pending again by this repeat.
        rearmed: bool,
        /// The repeat's body differs; it was kept as a conflict of that event (at most 3, then counted).
        conflict: bool,
    },
}

/// Why the inbox did not take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// The committer lags: its queue is full or a commit would come too late.
    #[error("the store is slow: its queue is full")]
    Busy,
    /// The store reached `max_bytes`, the route's share of it, or the volume's reserve.
    #[error("the store is full")]
    Full,
    /// A write or sync failed. Final: the process ends with exit code 70.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// One delivery, leased to the caller until it is settled.
#[derive(Debug, Clone)]
pub struct Job {
    /// The event; shared with the way in while it is fresh.
    pub event: Arc<KeptEvent>,
    /// Where it goes.
    pub target: Target,
    /// Attempts made before this lease (since the last replay).
    pub attempts: u32,
    /// How old the delivery is, by a clock that does not jump: since it was received or replayed, or its target came back,
    /// whichever was last.
    pub age: Duration,
}

/// What [`Inbox::claim`] found.
#[derive(Debug, Default)]
pub struct Claim {
    /// The leased deliveries, oldest first.
    pub jobs: Vec<Job>,
}

/// How one attempt, or the decision not to make one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The event.
    pub seq: Seq,
    /// The target it was leased for.
    pub target: Target,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// What follows.
    pub outcome: Outcome,
}

/// What follows an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream took it.
    Delivered {
        /// The upstream's status.
        status: u16,
    },
    /// Try again.
    Retry {
        /// Not before this much time has passed.
        wait: Duration,
        /// The upstream's status, if it answered.
        status: Option<u16>,
        /// What went wrong, without bodies or secrets, at most 200 bytes.
        error: Box<str>,
    },
    /// Give up: the event becomes a dead letter.
    Dead {
        /// The upstream's status, if it answered.
        status: Option<u16>,
        /// Why, without bodies or secrets, at most 200 bytes.
        error: Box<str>,
    },
    /// No attempt was made (shutdown, breaker, pause): the lease is given back, due at once.
    Released,
}

/// The state of one delivery, or of an event that nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Waiting for its first or next attempt (also while leased, paused or parked).
    Pending,
    /// Taken by the upstream.
    Delivered,
    /// Given up.
    Dead,
    /// No upstream wanted the event.
    Filtered,
}

impl Status {
    /// The word used in the CLI, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Filtered => "filtered",
        }
    }
}

/// Which deliveries to replay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// These events; empty: all that the other fields name.
    pub events: Vec<Seq>,
    /// A kept conflicting body of the one event in `events`, counted from 1: delivered as an event of its own.
    pub conflict: Option<u32>,
    /// Only this route.
    pub route: Option<RouteName>,
    /// Only this upstream.
    pub upstream: Option<UpstreamName>,
    /// Only deliveries in this state; `None`: any state when events are named, else `Dead`.
    pub status: Option<Status>,
    /// Only events received at or after this time.
    pub since: Option<Timestamp>,
    /// Only events received before this time.
    pub until: Option<Timestamp>,
    /// Only events of this type.
    pub event_type: Option<Box<str>>,
    /// Count only, change nothing.
    pub dry_run: bool,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Deliveries made pending again (or that would be).
    pub deliveries: u64,
    /// Deliveries left alone: already pending, or the body is gone.
    pub skipped: u64,
}

/// Figures for metrics, from memory; cheap.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Deliveries per target.
    pub targets: Vec<(Target, TargetCounts)>,
    /// Events held.
    pub events: u64,
    /// Bytes of the store's files.
    pub store_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Free bytes on the volume.
    pub free_bytes: u64,
    /// Events waiting for the committer.
    pub queued: usize,
}

/// Deliveries of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// Waiting.
    pub pending: u64,
    /// Given up.
    pub dead: u64,
    /// When the oldest pending one was received.
    pub oldest_pending: Option<Timestamp>,
    /// The target is not in the configuration.
    pub parked: bool,
}

/// Whether events can be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// They can.
    Accepting,
    /// They cannot until space is found; deliveries go on.
    Full,
    /// A write or sync failed; the process must end with exit code 70.
    Failed(Arc<str>),
}

/// An id that a proxied request has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyMark {
    /// Its key.
    pub key: DedupKey,
    /// When the upstream took it.
    pub at: Timestamp,
    /// The mark may go after this time.
    pub until: Timestamp,
}

/// The durable store.
///
/// One process owns a store; leases live in its memory, so a crash makes every lease pending again.
#[async_trait]
pub trait Inbox: Send + Sync + std::fmt::Debug {
    /// Makes `event` and its dedup key durable in one atomic commit, or reports that the key is held.
    ///
    /// After `Ok` the event survives a power cut: the sender's 200 rests on this line. A duplicate resolves only when
    /// the original is durable. Never blocks: a full queue is refused with `Busy` at once. Dropping the answer does
    /// not take the event back.
    fn accept(&self, event: NewEvent) -> Acceptance;

    /// Leases up to `max` due deliveries of `target`; waits until there is at least one.
    ///
    /// Safe to cancel: nothing is leased until it returns.
    async fn claim(&self, target: &Target, max: usize) -> Result<Claim, InboxError>;

    /// Records how a leased delivery ended and gives the lease back. Never blocks; made durable with the next commit.
    fn settle(&self, settlement: Settlement);

    /// Makes deliveries pending again, durably before it returns. Attempts and age start anew.
    async fn replay(&self, selection: Selection) -> Result<Replayed, InboxError>;

    /// Names the targets of the present configuration: all others are parked, returning ones resume.
    fn set_targets(&self, targets: &[Target]);

    /// Remembers that a proxied request was taken; written lazily.
    fn mark(&self, mark: ProxyMark);

    /// The marks that were written and have not run out; for start.
    fn marks(&self) -> Vec<ProxyMark>;

    /// The key of dedup hashes, made with the store.
    fn hash_key(&self) -> DedupHashKey;

    /// Figures for metrics.
    fn counts(&self) -> Counts;

    /// Whether events can be accepted.
    fn health(&self) -> Health;

    /// Resolves when the store has failed for good, with the reason.
    async fn failed(&self) -> Arc<str>;

    /// Commits what is queued, checkpoints and closes. Later calls get `Closed`.
    async fn close(&self);
}
