//! The names, helps and buckets of all metrics, and their text.

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use crate::event::Timestamp;
use crate::inbox::Counts;

/// What every name begins with.
const PREFIX: &str = "hooklatch";

/// From half a millisecond, what a commit takes on a good disk, to the longest answer.
const SHORT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// From at once to the age at which deliveries are given up.
const LAG_SECONDS: &[f64] = &[
    0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 259_200.0,
];
const COMMIT_EVENTS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

/// Label names and values; values come from the configuration or from an enum, never from a request.
pub(super) type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Everything that is counted where it happens.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    pub(super) requests: Counters,
    pub(super) request_duration: Histograms,
    pub(super) commit_duration: Histogram,
    pub(super) commit_events: Histogram,
    pub(super) deliveries: Counters,
    pub(super) delivery_duration: Histograms,
    pub(super) delivery_lag: Histograms,
    pub(super) secret_matches: Counters,
    pub(super) secret_last_match: Gauges,
    pub(super) unverified: Counters,
    pub(super) type_conflicts: Counters,
    pub(super) body_conflicts: Counters,
    pub(super) breaker_open: Gauges,
    pub(super) connections_refused: Counters,
    pub(super) connections_evicted: Counters,
    pub(super) reloads: Counters,
    pub(super) replayed: Counter,
    pub(super) admin_refused: Counters,
    pub(super) panics: Counters,
    pub(super) panics_raised: Counter,
    pub(super) pruned_events: Counter,
    pub(super) corrupt_events: Counter,
    pub(super) store_full: Gauge,
    pub(super) store_failed: Gauge,
}

/// What is read when the text is made.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    /// The inbox's figures, where there is an inbox.
    pub(super) counts: Option<&'a Counts>,
    /// Log lines that found the writer's queue full.
    pub(super) log_lines_dropped: u64,
    /// For ages.
    pub(super) now: Timestamp,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut all = Registry::with_prefix(PREFIX);
        let registry = &mut all;
        registry.register(
            "build",
            "What is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            requests: counters(registry, "requests", "Requests by how they ended"),
            request_duration: histograms(
                registry,
                "request_duration_seconds",
                "From the end of the header to the answer",
                || Histogram::new(SHORT_SECONDS),
            ),
            commit_duration: put(
                registry,
                "commit_duration_seconds",
                "Commits of the store, sync included",
                Histogram::new(SHORT_SECONDS),
            ),
            commit_events: put(
                registry,
                "commit_events",
                "Events made durable by one commit",
                Histogram::new(COMMIT_EVENTS),
            ),
            deliveries: counters(registry, "deliveries", "Attempts by how they ended"),
            delivery_duration: histograms(registry, "delivery_duration_seconds", "One attempt", || {
                Histogram::new(SHORT_SECONDS)
            }),
            delivery_lag: histograms(
                registry,
                "delivery_lag_seconds",
                "From received to delivered",
                || Histogram::new(LAG_SECONDS),
            ),
            secret_matches: counters(
                registry,
                "secret_matches",
                "Signatures that matched, by the secret's name",
            ),
            secret_last_match: put(
                registry,
                "secret_last_match_timestamp_seconds",
                "When a secret, by its name, last matched; 0: not since the start",
                Gauges::default(),
            ),
            unverified: counters(
                registry,
                "unverified",
                "Events let through with a signature unchecked or not right",
            ),
            type_conflicts: counters(
                registry,
                "type_conflicts",
                "Unsigned headers that named another event type than the signed body",
            ),
            body_conflicts: counters(registry, "body_conflicts", "Repeats that came with another body"),
            breaker_open: put(
                registry,
                "breaker_open",
                "1 while an upstream is only probed",
                Gauges::default(),
            ),
            connections_refused: counters(
                registry,
                "connections_refused",
                "Connections refused before a request was read, by the limit that was reached",
            ),
            connections_evicted: counters(
                registry,
                "connections_evicted",
                "Waiting connections closed to make room for others, by the limit that was reached",
            ),
            reloads: counters(registry, "config_reloads", "Reloads by how they ended"),
            replayed: put(
                registry,
                "replayed_deliveries",
                "Deliveries made pending again by hand",
                Counter::default(),
            ),
            admin_refused: counters(
                registry,
                "admin_refused",
                "Requests to the admin API that were not let in",
            ),
            panics: counters(registry, "panics", "Panics that were caught, by place"),
            panics_raised: put(
                registry,
                "panics_raised",
                "Panics of any thread, caught or not",
                Counter::default(),
            ),
            pruned_events: put(
                registry,
                "pruned_events",
                "Events removed by retention or for space",
                Counter::default(),
            ),
            corrupt_events: put(
                registry,
                "corrupt_events",
                "Events whose kept body does not have its hash any more",
                Counter::default(),
            ),
            store_full: put(
                registry,
                "store_full",
                "1 while nothing is accepted for want of space",
                Gauge::default(),
            ),
            store_failed: put(
                registry,
                "store_failed",
                "1 once a write or sync failed",
                Gauge::default(),
            ),
            registry: all,
        }
    }

    /// The whole state as OpenMetrics text.
    pub(super) fn render(&self, reading: &Reading<'_>) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let written = text::encode_registry(&mut text, &self.registry)
            .and_then(|()| text::encode_registry(&mut text, &read(reading)))
            .and_then(|()| text::encode_eof(&mut text));
        debug_assert!(written.is_ok(), "writing to a string does not fail");
        text
    }
}

/// A registry made for one reading, so that a target that is gone leaves no stale series behind.
fn read(reading: &Reading<'_>) -> Registry {
    let mut all = Registry::with_prefix(PREFIX);
    let registry = &mut all;
    put::<Counter>(
        registry,
        "log_lines_dropped",
        "Log lines dropped because standard error was slow",
        Counter::default(),
    )
    .inc_by(reading.log_lines_dropped);
    let Some(counts) = reading.counts else {
        return all;
    };
    for (name, help, value) in [
        ("store_events", "Events held", counts.events),
        ("store_bytes", "Bytes of the store's files", counts.store_bytes),
        (
            "store_wal_bytes",
            "Bytes of the write-ahead log",
            counts.wal_bytes,
        ),
        (
            "store_free_bytes",
            "Free bytes on the store's volume",
            counts.free_bytes,
        ),
        (
            "store_queued_events",
            "Events waiting for the committer",
            counts.queued as u64,
        ),
    ] {
        put::<Gauge>(registry, name, help, Gauge::default()).set(signed(value));
    }
    let mut gauges = |name, help| put::<Gauges>(registry, name, help, Gauges::default());
    let pending = gauges("pending_deliveries", "Deliveries that wait, parked ones included");
    let oldest = gauges(
        "oldest_pending_seconds",
        "Age of the oldest delivery that waits; 0: none waits",
    );
    let dead = gauges("dead_deliveries", "Deliveries given up");
    let parked = gauges("parked", "1 for an upstream that is not in the configuration");
    for (target, count) in &counts.targets {
        let labels = vec![
            ("route", target.route.as_str().to_owned()),
            ("upstream", target.upstream.as_str().to_owned()),
        ];
        let age_millis = count
            .oldest_pending
            .map_or(0, |received| reading.now.millis_since(received));
        for (family, value) in [
            (&pending, count.pending),
            (&oldest, age_millis / 1000),
            (&dead, count.dead),
            (&parked, u64::from(count.parked)),
        ] {
            family.get_or_create(&labels).set(signed(value));
        }
    }
    all
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn put<M>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M
where
    M: prometheus_client::registry::Metric + Clone,
{
    registry.register(name, help, metric.clone());
    metric
}

fn counters(registry: &mut Registry, name: &str, help: &str) -> Counters {
    put(registry, name, help, Counters::default())
}

fn histograms(registry: &mut Registry, name: &str, help: &str, make: fn() -> Histogram) -> Histograms {
    put(registry, name, help, Histograms::new_with_constructor(make))
}
