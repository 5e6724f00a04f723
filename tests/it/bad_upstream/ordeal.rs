//! Every class of faults in both modes, on the routes of one gateway.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::event::{Event, send_all};
use super::faults::{Class, Verdict};
use super::rig::{Route, expect_attempts, failures, memory_peak_mib, quantile, start};
use super::upstream::{State, Upstream, Visit};
use crate::support::{Gateway, proved, rounds};

/// Classes on one gateway at once.
const CLASSES_AT_ONCE: usize = 4;
/// What the gateway may need, whatever its upstreams send.
const MEMORY_MAX_MIB: u64 = 400;

/// How hard a family of faults is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordeal {
    /// Events of one wave, which are struck together.
    pub(super) wave: usize,
    /// Bytes of a body.
    pub(super) body_bytes: usize,
    /// `timeout` of the upstreams.
    pub(super) attempt: Duration,
    /// Senders of a class at once: what they send must find room in the queue of the store.
    pub(super) senders: usize,
}

impl Default for Ordeal {
    fn default() -> Self {
        Self {
            wave: 100,
            body_bytes: 600,
            attempt: Duration::from_secs(15),
            senders: 8,
        }
    }
}

/// What was seen, added up.
#[derive(Debug, Default)]
struct Seen {
    events: usize,
    struck: usize,
    /// Attempts of the same event beyond its first, and repeats by the sender.
    repeats: usize,
    acks: Vec<Duration>,
    slowest_wave: Duration,
    memory_mib: u64,
}

impl Ordeal {
    /// The short form lets the variants of a class take turns; the long one gives each variant ten waves of its own.
    pub(super) async fn undergo(self, rig: &str, classes: Vec<Class>) {
        let waves = rounds(1, 10);
        let classes: Vec<Class> = if waves == 1 {
            classes
        } else {
            classes.into_iter().flat_map(Class::apart).collect()
        };
        let mut all = Seen::default();
        for some in classes.chunks(CLASSES_AT_ONCE) {
            let names: Vec<_> = some.iter().map(|class| class.name).collect();
            for _ in 0..waves {
                let seen = self.on_one_gateway(some).await;
                println!("{}: {seen}", names.join(", "));
                all.add(seen);
            }
        }
        assert!(all.memory_mib <= MEMORY_MAX_MIB, "{all}");
        proved(rig, format!("{} classes, {all}", classes.len()));
    }

    /// One wave of each class. The next one has a gateway and upstreams of its own: what this one left in the upstreams, hung
    /// connections that a gateway keeps, would strike it too.
    async fn on_one_gateway(self, classes: &[Class]) -> Seen {
        let mut lanes = Vec::new();
        let mut routes = Vec::new();
        for class in classes {
            for proxied in [false, true] {
                let upstream = Upstream::start(class.variants.clone()).await;
                let address = upstream.server.address;
                let millis = self.attempt.as_millis();
                let timeout = format!("timeout = \"{millis}ms\", write_timeout = \"{millis}ms\",");
                let route = if proxied {
                    let keys = format!("{timeout} max_answer = \"256KiB\",");
                    Route::proxy(&format!("proxy-{}", class.name), address, &keys)
                } else {
                    let keys = format!("{timeout} concurrency = {},", self.wave);
                    Route::queue(&format!("queue-{}", class.name), address, &keys)
                };
                routes.push(route.clone());
                lanes.push(Lane {
                    class: class.clone(),
                    proxied,
                    path: route.path(),
                    name: route.name,
                    upstream,
                });
            }
        }
        let gateway = Arc::new(start(&routes));
        let mut at_work = JoinSet::new();
        for lane in lanes {
            at_work.spawn(lane.undergo(self, gateway.clone()));
        }
        let mut seen = Seen::default();
        while let Some(lane) = at_work.join_next().await {
            // A panic in one is the failure of all.
            seen.add(lane.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        seen.memory_mib = memory_peak_mib(&gateway);
        seen
    }
}

/// A class in one mode.
struct Lane {
    class: Class,
    proxied: bool,
    name: String,
    path: String,
    upstream: Upstream,
}

impl Lane {
    async fn undergo(self, ordeal: Ordeal, gateway: Arc<Gateway>) -> Seen {
        let mut seen = Seen::default();
        let wave = Event::many(ordeal.wave, ordeal.body_bytes);
        let began = Instant::now();
        self.upstream.book.arm(wave.len());
        if self.proxied {
            self.proxied_wave(ordeal, &gateway, &wave, &mut seen).await;
        } else {
            self.queued_wave(ordeal, &gateway, &wave, &mut seen).await;
        }
        seen.slowest_wave = began.elapsed();
        self.judge(&gateway, &wave, &mut seen);
        seen
    }

    /// Every event is struck once and then taken.
    async fn queued_wave(&self, ordeal: Ordeal, gateway: &Gateway, wave: &[Event], seen: &mut Seen) {
        let answers = send_all(wave, gateway.listen(), &self.path, ordeal.senders).await;
        for answer in &answers {
            assert_eq!(
                (answer.status, &*answer.text),
                (200, r#"{"received":true}"#),
                "{}",
                self.name
            );
        }
        seen.acks.extend(answers.iter().map(|answer| answer.elapsed));
        seen.events += wave.len();
        let done = |state: &State| state.taken + self.strikes(state, is_taken) >= seen.events;
        self.upstream.book.until(&self.name, done).await;
    }

    /// Every sender is told of the failure and sends again.
    async fn proxied_wave(&self, ordeal: Ordeal, gateway: &Gateway, wave: &[Event], seen: &mut Seen) {
        let before = self.upstream.book.state().struck.clone();
        let answers = send_all(wave, gateway.listen(), &self.path, wave.len()).await;
        let mut got = BTreeMap::new();
        for answer in &answers {
            *got.entry(answer.status).or_insert(0) += 1;
        }
        let mut expected = BTreeMap::new();
        let state = self.upstream.book.state().struck.clone();
        for (fault, (now, before)) in self.class.variants.iter().zip(state.iter().zip(before)) {
            *expected.entry(fault.proxy).or_insert(0) += now - before;
        }
        expected.retain(|_, count| *count > 0);
        assert_eq!(got, expected, "{}: statuses of {} events", self.name, wave.len());

        let again = send_all(wave, gateway.listen(), &self.path, ordeal.senders).await;
        for ((event, first), second) in wave.iter().zip(&answers).zip(&again) {
            if (200..300).contains(&first.status) {
                assert!(second.is_duplicate(), "{}, {}: {second:?}", self.name, event.id);
            } else {
                let got = (second.status, &*second.text);
                assert_eq!(got, (200, "taken"), "{}, {} after {first:?}", self.name, event.id);
                seen.repeats += 1;
            }
        }
        seen.acks.extend(again.iter().map(|answer| answer.elapsed));
        seen.events += wave.len();
    }

    /// Strikes of the variants with such a verdict.
    fn strikes(&self, state: &State, such: impl Fn(Verdict) -> bool) -> usize {
        let by_variant = self.class.variants.iter().zip(&state.struck);
        by_variant
            .filter(|(fault, _)| such(fault.verdict))
            .map(|(_, struck)| struck)
            .sum()
    }

    fn judge(&self, gateway: &Gateway, events: &[Event], seen: &mut Seen) {
        let name = &self.name;
        seen.struck = self.upstream.book.state().struck.iter().sum();
        assert_eq!(seen.struck, events.len(), "{name}: each event is struck once");
        if !self.proxied {
            let retried = self.strikes(&self.upstream.book.state(), |verdict| !is_taken(verdict));
            expect_attempts(gateway, name, "delivered", events.len());
            expect_attempts(gateway, name, "retry", retried);
            expect_attempts(gateway, name, "dead", 0);
            seen.repeats += retried;
        }
        let state = self.upstream.book.state();
        if !self.proxied {
            self.judge_reasons(gateway, &state);
        }
        assert_eq!(
            state.visits.len(),
            events.len(),
            "{name}: events that came, of those sent"
        );
        let mut keys = HashSet::new();
        for event in events {
            let visits = state.visits.get(&event.id);
            let visits = visits.unwrap_or_else(|| panic!("{name}: {} was lost", event.id));
            self.judge_visits(&event.id, visits);
            assert!(
                keys.insert(&visits[0].key),
                "{name}: {} has the key of another",
                event.id
            );
        }
    }

    fn judge_visits(&self, id: &str, visits: &[Visit]) {
        let name = &self.name;
        let taken = visits.iter().filter(|visit| self.is_taken(visit)).count();
        assert_eq!(taken, 1, "{name}: {id} was taken so often: {visits:?}");
        for visit in visits {
            assert!(
                visit.whole || visit.struck.is_some(),
                "{name}: {id} was altered: {visit:?}"
            );
            assert_eq!(visit.key, visits[0].key, "{name}: {id} changed its key");
        }
        // Struck once: the first attempt, which is not seen where nothing was read.
        let attempts: Vec<u32> = visits.iter().map(|visit| visit.attempt).collect();
        let expected: &[&[u32]] = match self.proxied {
            true => &[&[1], &[1, 1]],
            false => &[&[1], &[1, 2], &[2]],
        };
        assert!(
            expected.contains(&&*attempts),
            "{name}: {id} came as attempts {attempts:?}"
        );
    }

    /// Answered with a 2xx that the gateway has to believe. A sender in `proxy` mode needs the whole answer.
    fn is_taken(&self, visit: &Visit) -> bool {
        let Some(fault) = visit.struck.and_then(|variant| self.class.variants.get(variant)) else {
            return true;
        };
        match self.proxied {
            true => (200..300).contains(&fault.proxy),
            false => is_taken(fault.verdict),
        }
    }

    /// Every failure that the log shows is explained by what struck that event.
    fn judge_reasons(&self, gateway: &Gateway, state: &State) {
        let shown = failures(&gateway.log(), &self.name);
        let retried = self.strikes(state, |verdict| !is_taken(verdict));
        assert!(
            !shown.is_empty() || retried == 0,
            "{}: the log shows no failure",
            self.name
        );
        for (id, reason) in shown {
            let visits = state.visits.get(&id);
            let struck = visits.and_then(|visits| visits.iter().find_map(|visit| visit.struck));
            let explained = self.class.variants.iter().enumerate().any(|(variant, fault)| {
                // One that nobody has read may have been struck by any.
                struck.is_none_or(|struck| struck == variant)
                    && matches!(fault.verdict, Verdict::Retried(cause) if reason.contains(cause))
            });
            assert!(
                explained,
                "{}: {id} failed for {reason:?} after {visits:?}",
                self.name
            );
        }
    }
}

fn is_taken(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Taken)
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.struck += other.struck;
        self.repeats += other.repeats;
        self.acks.extend(other.acks);
        self.slowest_wave = self.slowest_wave.max(other.slowest_wave);
        self.memory_mib = self.memory_mib.max(other.memory_mib);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} struck, {} sent again and explained, 0 lost, 0 altered; 200 after {:.0?} (p99), slowest wave \
             {:.1?}, memory at most {} MiB",
            self.events,
            self.struck,
            self.repeats,
            quantile(&self.acks, 0.99),
            self.slowest_wave,
            self.memory_mib
        )
    }
}
