//! One function per thing that happens: it counts and writes the line, so the two cannot drift apart.
//!
//! Meters are made once per route, target and store, so that the hot path touches only atomics.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{ProviderName, RouteName, SecretName, Seq, Target};
use crate::inbox::Counts;

/// How one request ended; the `result` label of `hooklatch_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestResult {
    /// Kept (or, in `proxy` mode, taken by the upstream).
    Accepted,
    /// A repeat of a kept event.
    Duplicate,
    /// Signature malformed, contradicting, repeated or wrong.
    BadSignature,
    /// No signature.
    MissingSignature,
    /// Declared or real size over the cap.
    TooLarge,
    /// Header or body too slow.
    TooSlow,
    /// Not well-formed HTTP, or not JSON where the route demands it.
    Malformed,
    /// Over the route's rate, or over the failure budget with a bad signature.
    RateLimited,
    /// Memory or connections.
    Overloaded,
    /// The store is slow, full or failed.
    StoreError,
    /// No such path.
    UnknownRoute,
    /// Another method.
    MethodNotAllowed,
    /// The address is not in `allow_ips`.
    Forbidden,
    /// `proxy` mode: the upstream answered with other than 2xx; its answer was relayed.
    UpstreamRefused,
    /// `proxy` mode: the upstream did not answer (502, 504).
    UpstreamFailed,
    /// The sender hung up before the body was complete.
    Aborted,
}

/// How one attempt ended; the `result` label of `hooklatch_deliveries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptResult {
    /// 2xx.
    Delivered,
    /// Will be tried again.
    Retry,
    /// Given up.
    Dead,
}

/// Everything there is to count. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

/// Meters of one route; kept over reloads by name.
#[derive(Clone, Debug)]
pub struct RouteMeter {}

/// Meters of one target; kept over reloads by name.
#[derive(Clone, Debug)]
pub struct TargetMeter {}

/// What is known of a request when it ends.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnd<'a> {
    /// How.
    pub result: RequestResult,
    /// The status that was sent; 0 when none could be.
    pub status: u16,
    /// Why, for the log; static text or an error's words without content.
    pub reason: Option<&'a str>,
    /// The event's id, once it is known from signed bytes.
    pub event_id: Option<&'a str>,
    /// The event's number, if it is kept.
    pub seq: Option<Seq>,
    /// Bytes of the body that were read.
    pub body_bytes: usize,
    /// The sender's address.
    pub client: IpAddr,
    /// From the end of the header to the answer.
    pub elapsed: Duration,
}

/// What is known of an attempt when it ends.
#[derive(Debug, Clone, Copy)]
pub struct AttemptEnd<'a> {
    /// How.
    pub result: AttemptResult,
    /// The upstream's status, if it answered.
    pub status: Option<u16>,
    /// Why not delivered.
    pub error: Option<&'a str>,
    /// The event's id.
    pub event_id: Option<&'a str>,
    /// The event's number.
    pub seq: Seq,
    /// Counted from 1.
    pub attempt: u32,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Of the attempt.
    pub elapsed: Duration,
    /// Received to delivered, when it was.
    pub lag: Option<Duration>,
    /// The wait before the next attempt.
    pub next_wait: Option<Duration>,
}

impl Telemetry {
    /// Makes the registry.
    pub fn new() -> Self {
        Self(Arc::new(Inner {}))
    }

    /// The meters of a route.
    pub fn route(&self, _route: &RouteName, _provider: &ProviderName) -> RouteMeter {
        let _ = &self.0;
        RouteMeter {}
    }

    /// The meters of a target.
    pub fn target(&self, _target: &Target) -> TargetMeter {
        TargetMeter {}
    }

    /// A request that matched no route ended.
    pub fn unrouted(&self, _end: RequestEnd<'_>) {}

    /// A connection was refused (`connections`, `connections_per_peer`) before a request was read.
    pub fn connection_refused(&self, _limit: &'static str, _client: IpAddr) {}

    /// A commit ended: `events` were made durable in `elapsed`.
    pub fn committed(&self, _events: usize, _elapsed: Duration) {}

    /// The store failed for good.
    pub fn store_failed(&self, _reason: &str) {}

    /// The store began or ceased to be full.
    pub fn store_full(&self, _full: bool) {}

    /// A kept body does not have its hash any more; the event is dead, `corrupt`.
    pub fn corrupt(&self, _seq: Seq) {}

    /// `count` events were removed by retention or for space.
    pub fn pruned(&self, _count: usize) {}

    /// A handler panicked; the connection ended, the process did not.
    pub fn panicked(&self, _place: &'static str) {}

    /// A reload ended.
    pub fn reloaded(&self, _ok: bool) {}

    /// The whole state as OpenMetrics text. `counts` is the inbox's.
    pub fn render(&self, _counts: Option<&Counts>) -> String {
        String::new()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteMeter {
    /// A request of the route ended: counts it and writes its line.
    pub fn request_ended(&self, _end: RequestEnd<'_>) {}

    /// A secret of the route matched.
    pub fn secret_matched(&self, _secret: &SecretName) {}

    /// An event went through although its signature was not checked or not right (`verify = "none"`,
    /// `enforce = false`).
    pub fn unverified(&self, _reason: &'static str) {}

    /// An unsigned header named another event type than the signed body.
    pub fn type_conflict(&self) {}

    /// A repeat came with another body.
    pub fn body_conflict(&self) {}
}

impl TargetMeter {
    /// An attempt ended: counts it and writes its line.
    pub fn attempt_ended(&self, _end: AttemptEnd<'_>) {}

    /// The breaker opened or closed.
    pub fn breaker(&self, _open: bool) {}
}
