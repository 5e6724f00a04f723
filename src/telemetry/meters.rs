//! What one route and one target count; resolved once, so that an event touches only atomics.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::gate::Gate;
use super::histogram::Histogram;
use super::lines::Tone;
use super::metrics::Labels;
use super::{AttemptEnd, AttemptResult, RequestEnd, RequestResult, Shared, lines};
use crate::event::{ProviderName, RouteName, SecretName, Target, Timestamp};

/// Meters of one route; kept over reloads by name. Cheap to clone.
#[derive(Clone)]
pub struct RouteMeter(Arc<RouteInner>);

struct RouteInner {
    shared: Arc<Shared>,
    route: RouteName,
    provider: ProviderName,
    /// By `RequestResult as usize`.
    results: [Counter; RequestResult::ALL.len()],
    duration: Histogram,
    secrets: Resolved<SecretName, SecretMeter>,
    unverified: Resolved<&'static str, Counter>,
    type_conflicts: Counter,
    body_conflicts: Counter,
    accepted_lines: Gate,
    refused_lines: Gate,
    conflict_lines: Gate,
}

#[derive(Clone)]
struct SecretMeter(Arc<SecretInner>);

struct SecretInner {
    matches: Counter,
    /// Unix seconds, for the metric.
    last_match: Gauge,
    /// The same in milliseconds; 0: not since it is counted.
    last_used: AtomicI64,
    /// Matches of what the name stood for before: the metric only goes up.
    matches_before: AtomicU64,
}

/// What became of one secret of one route since the process started, or since another one was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecretUse {
    /// Requests whose signature it matched.
    pub matches: u64,
    /// When it last matched; `None`: not since it is counted.
    pub last_used: Option<Timestamp>,
}

impl RouteMeter {
    pub(super) fn new(shared: &Arc<Shared>, route: &RouteName, provider: &ProviderName) -> Self {
        let metrics = &shared.metrics;
        let of_route = labels([("route", route.as_str())]);
        Self(Arc::new(RouteInner {
            results: RequestResult::ALL.map(|result| {
                metrics.requests.get_or_create_owned(&labels([
                    ("route", route.as_str()),
                    ("provider", provider.as_str()),
                    ("result", result.as_str()),
                ]))
            }),
            duration: metrics.request_duration.get_or_create_owned(&of_route),
            secrets: Resolved::default(),
            unverified: Resolved::default(),
            type_conflicts: metrics.type_conflicts.get_or_create_owned(&of_route),
            body_conflicts: metrics.body_conflicts.get_or_create_owned(&of_route),
            accepted_lines: Gate::default(),
            refused_lines: Gate::default(),
            conflict_lines: Gate::default(),
            shared: shared.clone(),
            route: route.clone(),
            provider: provider.clone(),
        }))
    }

    /// A request of the route ended: counts it and writes its line.
    pub fn request_ended(&self, end: RequestEnd<'_>) {
        let inner = &*self.0;
        if let Some(counter) = inner.results.get(end.result as usize) {
            counter.inc();
        }
        inner.duration.observe(end.elapsed.as_secs_f64());
        match end.result {
            RequestResult::Accepted | RequestResult::Duplicate => {
                if lines::informed() && inner.shared.admits_good(&inner.accepted_lines, end.at) {
                    lines::accepted(&inner.route, &inner.provider, &end);
                }
            }
            RequestResult::Handshake => {
                if lines::informed() && inner.shared.admits_good(&inner.accepted_lines, end.at) {
                    lines::handshake(&inner.route, &inner.provider, &end);
                }
            }
            _ => {
                if lines::warned() && inner.shared.admits_bad(&inner.refused_lines, end.at) {
                    lines::refused(&inner.route, &inner.provider, &end);
                }
            }
        }
    }

    /// The route has this secret: it is shown as one that did not match yet. Does nothing when called again.
    pub fn secret_known(&self, secret: &SecretName) {
        self.secret(secret);
    }

    /// A secret of the route matched, at the time `at`.
    pub fn secret_matched(&self, secret: &SecretName, Timestamp(at): Timestamp) {
        let SecretMeter(meter) = self.secret(secret);
        meter.matches.inc();
        meter.last_match.set(at / 1000);
        meter.last_used.store(at, Ordering::Relaxed);
    }

    /// Another secret has taken its place under the same name: what became of it is counted anew, but for the metrics.
    pub fn secret_replaced(&self, secret: &SecretName) {
        let SecretMeter(meter) = self.secret(secret);
        meter.matches_before.store(meter.matches.get(), Ordering::Relaxed);
        meter.last_used.store(0, Ordering::Relaxed);
    }

    /// How often a secret of the route matched, and when last.
    pub fn secret_use(&self, secret: &SecretName) -> SecretUse {
        let SecretMeter(meter) = self.secret(secret);
        let last_used = meter.last_used.load(Ordering::Relaxed);
        SecretUse {
            matches: meter
                .matches
                .get()
                .saturating_sub(meter.matches_before.load(Ordering::Relaxed)),
            last_used: (last_used != 0).then_some(Timestamp(last_used)),
        }
    }

    /// An event went through although its signature was not checked or not right (`verify = "none"`,
    /// `enforce = false`).
    pub fn unverified(&self, reason: &'static str) {
        let inner = &*self.0;
        inner
            .unverified
            .get(&reason, || {
                let labels = labels([("route", inner.route.as_str()), ("reason", reason)]);
                inner.shared.metrics.unverified.get_or_create_owned(&labels)
            })
            .inc();
    }

    /// An unsigned header named another event type than the signed body.
    pub fn type_conflict(&self) {
        self.0.type_conflicts.inc();
        self.conflict("unsigned header names another event type than the signed body");
    }

    /// A repeat came with another body.
    pub fn body_conflict(&self) {
        self.0.body_conflicts.inc();
        self.conflict("repeat of an event came with another body");
    }

    fn secret(&self, secret: &SecretName) -> SecretMeter {
        let inner = &*self.0;
        inner.secrets.get(secret, || {
            let labels = labels([("route", inner.route.as_str()), ("secret", secret.as_str())]);
            let metrics = &inner.shared.metrics;
            SecretMeter(Arc::new(SecretInner {
                matches: metrics.secret_matches.get_or_create_owned(&labels),
                last_match: metrics.secret_last_match.get_or_create_owned(&labels),
                last_used: AtomicI64::new(0),
                matches_before: AtomicU64::new(0),
            }))
        })
    }

    fn conflict(&self, error: &'static str) {
        let inner = &*self.0;
        if lines::warned() && inner.shared.admits_trouble(&inner.conflict_lines) {
            lines::conflict(&inner.route, &inner.provider, error);
        }
    }

    pub(super) fn flush_summaries(&self) {
        let inner = &*self.0;
        for (gate, kind) in [
            (&inner.accepted_lines, (Tone::Good, "webhook accepted")),
            (&inner.refused_lines, (Tone::Trouble, "webhook refused")),
            (&inner.conflict_lines, (Tone::Trouble, "webhook conflicts")),
        ] {
            let count = gate.take_held_back();
            if count > 0 {
                lines::summary(&inner.route, None, kind, count);
            }
        }
    }
}

impl fmt::Debug for RouteMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteMeter({})", self.0.route)
    }
}

/// Meters of one target; kept over reloads by name. Cheap to clone.
#[derive(Clone)]
pub struct TargetMeter(Arc<TargetInner>);

struct TargetInner {
    shared: Arc<Shared>,
    target: Target,
    /// By `AttemptResult as usize`.
    results: [Counter; AttemptResult::ALL.len()],
    duration: Histogram,
    lag: Histogram,
    breaker_open: Gauge,
    delivered_lines: Gate,
    retry_lines: Gate,
    dead_lines: Gate,
}

impl TargetMeter {
    pub(super) fn new(shared: &Arc<Shared>, target: &Target) -> Self {
        let metrics = &shared.metrics;
        let (route, upstream) = (target.route.as_str(), target.upstream.as_str());
        let of_target = labels([("route", route), ("upstream", upstream)]);
        Self(Arc::new(TargetInner {
            results: AttemptResult::ALL.map(|result| {
                metrics.deliveries.get_or_create_owned(&labels([
                    ("route", route),
                    ("upstream", upstream),
                    ("result", result.as_str()),
                ]))
            }),
            duration: metrics.delivery_duration.get_or_create_owned(&of_target),
            lag: metrics.delivery_lag.get_or_create_owned(&of_target),
            breaker_open: metrics.breaker_open.get_or_create_owned(&of_target),
            delivered_lines: Gate::default(),
            retry_lines: Gate::default(),
            dead_lines: Gate::default(),
            shared: shared.clone(),
            target: target.clone(),
        }))
    }

    /// An attempt ended: counts it and writes its line.
    pub fn attempt_ended(&self, end: AttemptEnd<'_>) {
        let inner = &*self.0;
        if let Some(counter) = inner.results.get(end.result as usize) {
            counter.inc();
        }
        inner.duration.observe(end.elapsed.as_secs_f64());
        if let Some(lag) = end.lag {
            inner.lag.observe(lag.as_secs_f64());
        }
        match end.result {
            AttemptResult::Delivered => {
                if lines::informed() && inner.shared.admits_good(&inner.delivered_lines, end.at) {
                    lines::delivered(&inner.target, &end);
                }
            }
            AttemptResult::Retry => {
                if lines::warned() && inner.shared.admits_bad(&inner.retry_lines, end.at) {
                    lines::retry(&inner.target, &end);
                }
            }
            AttemptResult::Dead => {
                if inner.shared.admits_bad(&inner.dead_lines, end.at) {
                    lines::dead(&inner.target, &end);
                }
            }
        }
    }

    /// The breaker opened or closed.
    pub fn breaker(&self, open: bool) {
        let before = self.0.breaker_open.set(i64::from(open));
        if (before != 0) != open {
            lines::breaker(&self.0.target, open);
        }
    }

    pub(super) fn flush_summaries(&self) {
        let inner = &*self.0;
        for (gate, kind) in [
            (&inner.delivered_lines, (Tone::Good, "event delivered")),
            (&inner.retry_lines, (Tone::Trouble, "attempt failed")),
            (&inner.dead_lines, (Tone::Trouble, "delivery given up")),
        ] {
            let count = gate.take_held_back();
            if count > 0 {
                let Target { route, upstream } = &inner.target;
                lines::summary(route, Some(upstream), kind, count);
            }
        }
    }
}

impl fmt::Debug for TargetMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetMeter({})", self.0.target)
    }
}

/// Meters by their key, each made once. Keys come from the configuration, which bounds them.
pub(super) struct Resolved<K, M>(RwLock<HashMap<K, M>>);

impl<K: Eq + Hash + Clone, M: Clone> Resolved<K, M> {
    /// The meter of `key`, made by `make` the first time.
    pub(super) fn get(&self, key: &K, make: impl FnOnce() -> M) -> M {
        if let Some(meter) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return meter.clone();
        }
        let mut meters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        meters.entry(key.clone()).or_insert_with(make).clone()
    }

    pub(super) fn for_each(&self, see: impl FnMut(&M)) {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(see);
    }
}

impl<K, M> Default for Resolved<K, M> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

pub(super) fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.map(|(name, value)| (name, value.to_owned())).to_vec()
}
