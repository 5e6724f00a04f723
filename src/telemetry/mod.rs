//! One function per thing that happens: it counts and writes the line, so the two cannot drift apart.
//!
//! Meters are made once per route, target and store, so that the hot path touches only atomics. Lines are bounded
//! per second; what was held back is counted and summed up by [`Telemetry::flush_summaries`].

mod ends;
mod gate;
mod histogram;
mod lines;
pub mod log;
mod meters;
mod metrics;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing_appender::non_blocking::ErrorCounter;

use crate::clock::{Clock, SystemClock};
use crate::event::{ProviderName, RouteName, Seq, Target};
use crate::inbox::Counts;
pub use ends::{AttemptEnd, AttemptResult, RequestEnd, RequestResult};
use gate::Gate;
use meters::{Resolved, labels};
pub use meters::{RouteMeter, SecretUse, TargetMeter};
use metrics::{Metrics, Reading};

/// The media type of [`Telemetry::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Lines per second and route for what went well, unless set.
const LINES_PER_SECOND: u32 = 1000;

/// Lines per second for one kind of thing that did not go well.
const TROUBLE_LINES_PER_SECOND: u32 = 10;

/// How a reload ends.
const RELOAD_RESULTS: [&str; 2] = ["ok", "refused"];

/// Everything there is to count. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Kept for the life of the process: a route that leaves the configuration and returns goes on counting.
    routes: Resolved<(RouteName, ProviderName), RouteMeter>,
    targets: Resolved<Target, TargetMeter>,
    unrouted: RouteMeter,
    connection_lines: Gate,
    corrupt_lines: Gate,
    panic_lines: Gate,
    library_lines: Gate,
    admin_lines: Gate,
    lines_dropped: OnceLock<ErrorCounter>,
}

/// What the meters have in common.
#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    started: Instant,
    lines_per_second: AtomicU32,
}

impl Shared {
    /// Whether a line about something that ended well at `at` may be written.
    fn admits_good(&self, gate: &Gate, at: Instant) -> bool {
        gate.admit(self.second_of(at), self.lines_per_second.load(Ordering::Relaxed))
    }

    /// Whether a line about something that ended in trouble at `at` may be written.
    fn admits_bad(&self, gate: &Gate, at: Instant) -> bool {
        gate.admit(self.second_of(at), TROUBLE_LINES_PER_SECOND)
    }

    /// Whether a line about trouble may be written now.
    fn admits_trouble(&self, gate: &Gate) -> bool {
        // Only compared for equality with a second nearby, so the upper bits may go.
        gate.admit((self.clock.now().0 / 1000) as u32, TROUBLE_LINES_PER_SECOND)
    }

    fn second_of(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.started).as_secs() as u32
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Telemetry {
    /// Makes the registry.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// Makes the registry; ages and times of secrets are read from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            metrics: Metrics::new(),
            clock,
            started: Instant::now(),
            lines_per_second: AtomicU32::new(LINES_PER_SECOND),
        });
        // Present from the start, so that the first one shows as an increase.
        for result in RELOAD_RESULTS {
            drop(
                shared
                    .metrics
                    .reloads
                    .get_or_create(&labels([("result", result)])),
            );
        }
        // An empty label value is the same as none; a route cannot be called so.
        let unrouted = RouteMeter::new(&shared, &RouteName::new(""), &ProviderName::new(""));
        Self(Arc::new(Inner {
            shared,
            routes: Resolved::default(),
            targets: Resolved::default(),
            unrouted,
            connection_lines: Gate::default(),
            corrupt_lines: Gate::default(),
            panic_lines: Gate::default(),
            library_lines: Gate::default(),
            admin_lines: Gate::default(),
            lines_dropped: OnceLock::new(),
        }))
    }

    /// Sets how many lines a second each route, and each target, may write about what went well.
    pub fn set_lines_per_second(&self, lines: u32) {
        self.0.shared.lines_per_second.store(lines, Ordering::Relaxed);
    }

    /// The meters of a route. Asked again, also after a reload, it gives the same ones.
    pub fn route(&self, route: &RouteName, provider: &ProviderName) -> RouteMeter {
        let key = (route.clone(), provider.clone());
        self.0
            .routes
            .get(&key, || RouteMeter::new(&self.0.shared, route, provider))
    }

    /// The meters of a target. Asked again, also after a reload, it gives the same ones.
    pub fn target(&self, target: &Target) -> TargetMeter {
        self.0
            .targets
            .get(target, || TargetMeter::new(&self.0.shared, target))
    }

    /// A request that matched no route ended.
    pub fn unrouted(&self, end: RequestEnd<'_>) {
        self.0.unrouted.request_ended(end);
    }

    /// A connection was refused (`connections`, `connections_per_peer`) before a request was read.
    pub fn connection_refused(&self, limit: &'static str, client: IpAddr) {
        self.metrics()
            .connections_refused
            .get_or_create(&labels([("limit", limit)]))
            .inc();
        if lines::warned() && self.0.shared.admits_trouble(&self.0.connection_lines) {
            tracing::warn!(limit, %client, "connection refused");
        }
    }

    /// A connection that waited for its sender was closed to make room for another one.
    pub fn connection_evicted(&self, limit: &'static str, client: IpAddr) {
        self.metrics()
            .connections_evicted
            .get_or_create(&labels([("limit", limit)]))
            .inc();
        if lines::warned() && self.0.shared.admits_trouble(&self.0.connection_lines) {
            tracing::warn!(limit, %client, "waiting connection closed to make room");
        }
    }

    /// A commit ended: `events` were made durable in `elapsed`.
    pub fn committed(&self, events: usize, elapsed: Duration) {
        self.metrics().commit_duration.observe(elapsed.as_secs_f64());
        self.metrics().commit_events.observe(events as f64);
    }

    /// The store failed for good.
    pub fn store_failed(&self, reason: &str) {
        self.metrics().store_failed.set(1);
        tracing::error!(
            error = &*lines::shown(reason),
            "store failed, nothing is accepted any more"
        );
    }

    /// The store began or ceased to be full.
    pub fn store_full(&self, full: bool) {
        let before = self.metrics().store_full.set(i64::from(full));
        match (before != 0, full) {
            (false, true) => tracing::error!("store full, nothing is accepted until space is found"),
            (true, false) => tracing::info!("store has space again"),
            _ => {}
        }
    }

    /// The wall clock was set by so many seconds while a process had the store, or none had it for that long.
    pub fn clock_jumped(&self, seconds: i64) {
        tracing::warn!(
            seconds,
            "the wall clock jumped, or nothing ran for long: what is kept ages from now on"
        );
    }

    /// A kept body does not have its hash any more; the event is dead, `corrupt`.
    pub fn corrupt(&self, seq: Seq) {
        self.metrics().corrupt_events.inc();
        if self.0.shared.admits_trouble(&self.0.corrupt_lines) {
            tracing::error!(seq = seq.0, "kept event is corrupt, it is not delivered");
        }
    }

    /// `count` events were removed by retention or for space.
    pub fn pruned(&self, count: usize) {
        self.metrics().pruned_events.inc_by(count as u64);
        tracing::debug!(events = count, "events pruned");
    }

    /// A handler panicked; the connection ended, the process did not. The line is [`log::watch_panics`]'s.
    pub fn panicked(&self, place: &'static str) {
        self.metrics()
            .panics
            .get_or_create(&labels([("place", place)]))
            .inc();
    }

    /// A reload ended: with so many routes, or with the reason why everything stays as it was.
    pub fn reloaded(&self, outcome: Result<usize, &str>) {
        let [good, bad] = RELOAD_RESULTS;
        let result = if outcome.is_ok() { good } else { bad };
        self.metrics()
            .reloads
            .get_or_create(&labels([("result", result)]))
            .inc();
        match outcome {
            Ok(routes) => tracing::info!(routes, "configuration reloaded"),
            Err(error) => tracing::error!(error, "configuration not reloaded, the one before stays"),
        }
    }

    /// Files of secrets changed: these secrets are of other files now than those that were read. A reload follows.
    pub fn secret_files_changed(&self, secrets: &[String]) {
        let secrets = secrets.join(", ");
        tracing::info!(
            secrets,
            "files of secrets changed, reading the configuration again"
        );
    }

    /// A replay was asked for and done.
    pub fn replayed(&self, deliveries: u64, skipped: u64) {
        self.metrics().replayed.inc_by(deliveries);
        tracing::info!(deliveries, skipped, "replayed");
    }

    /// A request to the admin API was not let in.
    pub fn admin_refused(&self, reason: &'static str, client: IpAddr) {
        self.metrics()
            .admin_refused
            .get_or_create(&labels([("reason", reason)]))
            .inc();
        if lines::warned() && self.0.shared.admits_trouble(&self.0.admin_lines) {
            tracing::warn!(error = reason, %client, "admin request refused");
        }
    }

    /// Writes one line for each kind of line that was held back since the last call; to be called each second and
    /// at the end.
    pub fn flush_summaries(&self) {
        let inner = &self.0;
        inner.unrouted.flush_summaries();
        inner.routes.for_each(RouteMeter::flush_summaries);
        inner.targets.for_each(TargetMeter::flush_summaries);
        for (gate, kind) in [
            (&inner.connection_lines, "connection refused"),
            (&inner.corrupt_lines, "kept event is corrupt"),
            (&inner.panic_lines, "panicked"),
            (&inner.library_lines, "of libraries"),
            (&inner.admin_lines, "admin request refused"),
        ] {
            let lines = gate.take_held_back();
            if lines > 0 {
                tracing::warn!(lines, kind, "lines held back");
            }
        }
    }

    /// The whole state as OpenMetrics text, of type [`METRICS_CONTENT_TYPE`]. `counts` is the inbox's.
    pub fn render(&self, counts: Option<&Counts>) -> String {
        self.metrics().render(&Reading {
            counts,
            log_lines_dropped: self
                .0
                .lines_dropped
                .get()
                .map_or(0, |counter| counter.dropped_lines() as u64),
            now: self.0.shared.clock.now(),
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.0.shared.metrics
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
