//! The way in: connection, route, limit, body, verify, identify, pace, record (or relay), answer.
//!
//! [`FrontDoor::handle`] is the whole story of one request; in [`stages`] each takes what the one before it proved.

mod connection;
mod http1;
mod http2;
mod tls;

mod answer;
mod body;
mod date;
mod forwarded;
mod handshake;
mod head;
mod identify;
mod limit;
mod origin;
mod pace;
mod quarantine;
mod record;
mod relay;
mod route;
#[cfg(test)]
mod sample;
mod stages;
mod verify;

pub mod settings;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::{Clock, Moment};
use crate::event::{DedupHashKey, RouteName, Seq, Timestamp};
use crate::inbox::{Inbox, ProxyMark};
use crate::keys::KeyCache;
use crate::secret::SecretText;
use crate::shutdown::{Phase, Watch};
use crate::telemetry::{RequestEnd, RequestResult, Telemetry};
use crate::upstream::Client;
use answer::{Answer, Refusal};
use body::BodySource;
use date::HttpDate;
use head::Head;
use limit::{Limiter, Place};
use origin::Origin;
use relay::Flights;
use route::Table;
use settings::{Limits, Routes};
use stages::Visit;

pub use connection::Front;
pub use route::folder_name;
pub use tls::{TlsError, TlsIdentity};

/// What the front door is made of.
#[derive(Debug)]
pub struct Parts {
    /// Limits for all routes together.
    pub limits: Limits,
    /// The routes.
    pub routes: Routes,
    /// The store; `None` when every route is `proxy` and there is no `[store]`.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// The key of dedup hashes: the store's, or a random one.
    pub hash_key: DedupHashKey,
    /// What the store remembers of proxied events.
    pub marks: Vec<ProxyMark>,
    /// The client for `proxy` mode; of the front door's own runtime.
    pub client: Client,
    /// The folder below which refused requests are kept.
    pub quarantine: Option<PathBuf>,
    /// Keys that senders publish.
    pub keys: Arc<KeyCache>,
    /// Counters and lines.
    pub telemetry: Telemetry,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The phases of a stop.
    pub stop: Watch,
}

/// The front door: everything from a parsed head to an answer.
#[derive(Debug)]
pub struct FrontDoor {
    snapshot: ArcSwap<Snapshot>,
    limiter: Arc<Limiter>,
    inbox: Option<Arc<dyn Inbox>>,
    hash_key: DedupHashKey,
    flights: Arc<Flights>,
    captures: handshake::Captures,
    quarantine: Option<PathBuf>,
    keys: Arc<KeyCache>,
    client: Client,
    telemetry: Telemetry,
    clock: Arc<dyn Clock>,
    stop: Watch,
    date: HttpDate,
    active: AtomicUsize,
    became_idle: Notify,
}

/// What a reload replaces as a whole; a request keeps the one it began with.
#[derive(Debug)]
struct Snapshot {
    limits: Limits,
    table: Table,
}

/// The connection a request came over.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    /// The address at the other end.
    peer: IpAddr,
    tls: bool,
    place: &'a Place,
}

/// What is known of a request so far, for its line.
#[derive(Debug, Default)]
struct Trace {
    event_id: Option<Box<str>>,
    seq: Option<Seq>,
    body_bytes: usize,
    /// When it was answered, where that was looked at already.
    ended: Option<Instant>,
}

/// How a request ended when it was not refused.
#[derive(Debug)]
struct Success {
    answer: Answer,
    result: RequestResult,
    reason: Option<String>,
}

impl FrontDoor {
    /// Makes the front door; it takes requests once it is served by [`Front`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let table = Table::new(&parts.routes, &parts.telemetry, parts.quarantine.as_deref(), None);
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot {
                limits: parts.limits,
                table,
            }),
            limiter: Arc::new(Limiter::new()),
            inbox: parts.inbox,
            hash_key: parts.hash_key,
            captures: handshake::Captures::default(),
            quarantine: parts.quarantine,
            keys: parts.keys,
            flights: Arc::new(Flights::new(parts.marks, parts.clock.now())),
            client: parts.client,
            telemetry: parts.telemetry,
            date: HttpDate::default(),
            clock: parts.clock,
            stop: parts.stop,
            active: AtomicUsize::new(0),
            became_idle: Notify::new(),
        })
    }

    /// Replaces limits and routes for requests that begin from now on.
    pub fn reload(&self, limits: Limits, routes: &Routes) {
        let old = self.snapshot.load_full();
        let table = Table::new(
            routes,
            &self.telemetry,
            self.quarantine.as_deref(),
            Some(&old.table),
        );
        self.snapshot.store(Arc::new(Snapshot { limits, table }));
    }

    /// Forgets what has run out; called every few seconds.
    pub fn sweep(&self) {
        self.limiter.sweep(self.snapshot.load().limits.failures_per_peer);
    }

    /// Resolves when no connection is left that a stop waits for.
    pub async fn idle(&self) {
        loop {
            let notified = self.became_idle.notified();
            if self.active.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// From a head to the answer, and when that was made, with the request's line and meters. The caller holds an [`Active`]
    /// until the answer is written, its connection's or one of its own.
    async fn handle(&self, head: &Head, body: &mut dyn BodySource, line: Line<'_>) -> (Answer, Timestamp) {
        let began = Moment::now(&*self.clock);
        let snapshot = self.snapshot.load_full();
        let origin = Origin::new(line.peer, line.tls, &head.fields, &snapshot.table.trusted_proxies);
        let mut trace = Trace::default();
        let matched = snapshot.table.find(&head.path);
        let visit = Visit {
            limits: &snapshot.limits,
            head,
            origin: &origin,
            place: line.place,
            began,
        };
        let outcome = self.receive(visit, &matched, body, &mut trace).await;
        let entry = matched.as_ref().ok().map(|matched| &matched.entry);
        let (answer, result, reason) = match outcome {
            Ok(success) => (success.answer, success.result, success.reason),
            Err(refusal) => {
                let own = entry.map(|entry| (&entry.missing_signature, &entry.bad_signature));
                let answer = Answer::refused(&refusal, own);
                (answer, refusal.result(), Some(refusal.to_string()))
            }
        };
        let ended = trace.ended.unwrap_or_else(Instant::now);
        let made_at = began.wall_at(ended);
        let end = RequestEnd {
            result,
            status: answer.status,
            reason: reason.as_deref(),
            event_id: trace.event_id.as_deref(),
            seq: trace.seq,
            body_bytes: trace.body_bytes,
            client: origin.client,
            elapsed: ended - began.at,
            at: ended,
        };
        match entry {
            Some(entry) => entry.meter.request_ended(end),
            None => self.telemetry.unrouted(end),
        }
        (answer, made_at)
    }

    /// Waits until the provider of `route` sends its secret in a handshake.
    pub async fn capture_secret(&self, route: &RouteName) -> Option<SecretText> {
        self.captures.wait_for(route.clone()).await.ok()
    }

    /// The answer, and when it was made, to a request that ended before it had a head.
    fn headless(&self, refusal: &Refusal, client: IpAddr, elapsed: Duration) -> (Answer, Timestamp) {
        let answer = Answer::refused(refusal, None);
        self.telemetry.unrouted(RequestEnd {
            result: refusal.result(),
            status: answer.status,
            reason: Some(&refusal.to_string()),
            event_id: None,
            seq: None,
            body_bytes: 0,
            client,
            elapsed,
            at: Instant::now(),
        });
        (answer, self.clock.now())
    }

    fn is_stopping(&self) -> bool {
        self.stop.phase() >= Phase::Draining
    }
}

/// What a stop waits for: a connection until its last answer is written, a request of HTTP/2 until it has its answer.
struct Active<'a>(&'a FrontDoor);

impl<'a> Active<'a> {
    fn enter(door: &'a FrontDoor) -> Self {
        door.active.fetch_add(1, Ordering::SeqCst);
        Self(door)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_stopping() {
            self.0.became_idle.notify_waiters();
        }
    }
}
