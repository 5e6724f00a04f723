//! Proxy mode: forward while the sender waits, answer with the upstream's answer, then mark the key.
//!
//! A key is marked only on the upstream's 2xx, so that a retry after our 502 is not swallowed. A copy that comes while
//! the first is in flight waits for its end.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Refusal;
use super::identify::Identified;
use super::settings::ProxyUpstream;
use crate::clock::Moment;
use crate::event::{DedupKey, EventKey, KeyKind, Timestamp};
use crate::handoff;
use crate::inbox::{Inbox, ProxyMark};
use crate::upstream::{Answer, CallError, Client, Request};

/// Keys remembered at once; beyond, those that run out first are forgotten.
const MARKS_MAX: usize = 200_000;

/// How a proxied request ended.
#[derive(Debug)]
pub(super) enum Relayed {
    /// The upstream answered.
    Answer(Answer),
    /// The upstream has already taken this event.
    Duplicate,
    /// There was no answer.
    Failed(CallError),
}

/// Keys in flight and keys taken; belongs to the process and lives over reloads.
#[derive(Debug)]
pub(super) struct Flights(Mutex<Slots>);

#[derive(Debug)]
struct Slots {
    /// The first copy is on its way. The channel is there once a second one waits; it is dropped with the slot, when the
    /// first has ended.
    in_flight: KeyMap<Option<watch::Sender<()>>>,
    /// The upstream took it; forgotten after so many nanoseconds since `started`, whatever the wall clock does. Hundreds of thousands
    /// are kept, and an `Instant` is twice as large.
    taken: KeyMap<u64>,
    started: Instant,
}

type KeyMap<V> = HashMap<DedupKey, V, BuildHasherDefault<KeyHasher>>;

/// Takes a dedup key's own bytes: they are a keyed hash already.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// The length that stands in front of an array's bytes says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

enum Turn {
    First(Flight),
    Wait(watch::Receiver<()>),
    Taken,
}

/// The right to forward a key. Dropped without [`Flight::taken`] it lets a waiting copy be the next first.
struct Flight {
    flights: Arc<Flights>,
    key: DedupKey,
}

impl Flights {
    /// Starts with the newest of the marks that the store remembers, oldest first; it is `now`.
    pub(super) fn new(marks: Vec<ProxyMark>, now: Timestamp) -> Self {
        let mut slots = Slots {
            in_flight: KeyMap::default(),
            taken: KeyMap::default(),
            started: Instant::now(),
        };
        let too_many = marks.len().saturating_sub(MARKS_MAX);
        for mark in marks.into_iter().skip(too_many) {
            let left = Duration::from_millis(mark.until.millis_since(now));
            let until = slots.nanos(slots.started + left);
            slots.taken.insert(mark.key, until);
        }
        Self(Mutex::new(slots))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>, key: DedupKey, now: Instant) -> Turn {
        let mut slots = self.lock();
        if let Some(waiting) = slots.in_flight.get_mut(&key) {
            let ended = waiting.get_or_insert_with(|| watch::channel(()).0);
            return Turn::Wait(ended.subscribe());
        }
        if let Some(until) = slots.taken.get(&key).copied()
            && until > slots.nanos(now)
        {
            return Turn::Taken;
        }
        slots.in_flight.insert(key, None);
        Turn::First(Flight {
            flights: self.clone(),
            key,
        })
    }
}

impl Slots {
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Makes room: what has run out goes, and if that is not enough the half that runs out first.
    fn forget_some(&mut self, now: Instant) {
        let now = self.nanos(now);
        self.taken.retain(|_, until| *until > now);
        if self.taken.len() < MARKS_MAX / 2 {
            return;
        }
        let mut ends: Vec<u64> = self.taken.values().copied().collect();
        let middle = ends.len() / 2;
        let (_, median, _) = ends.select_nth_unstable(middle);
        let median = *median;
        // Many may run out at once.
        let mut too_many = middle;
        self.taken.retain(|_, until| {
            let goes = *until <= median && too_many > 0;
            too_many -= usize::from(goes);
            !goes
        });
    }
}

impl Flight {
    fn taken(self, until: Instant, now: Instant) {
        let mut slots = self.flights.lock();
        if slots.taken.len() >= MARKS_MAX {
            slots.forget_some(now);
        }
        let until = slots.nanos(until);
        slots.taken.insert(self.key, until);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.lock().in_flight.remove(&self.key);
    }
}

/// What [`relay`] needs besides the event.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    pub(super) flights: &'a Arc<Flights>,
    pub(super) client: &'a Client,
    pub(super) inbox: Option<&'a dyn Inbox>,
    /// A moment ago.
    pub(super) now: Moment,
    pub(super) upstream: &'a ProxyUpstream,
}

/// Forwards the event unless it was taken before.
pub(super) async fn relay(relay: Relay<'_>, identified: &Identified) -> Result<Relayed, Refusal> {
    let event = &identified.event;
    let mut now = relay.now.at;
    // A safe method asks, it does not tell: two equal questions are two questions.
    let repeatable = matches!(&*event.method, "GET" | "HEAD" | "OPTIONS");
    let flight = if repeatable {
        None
    } else {
        Some(first_or_taken(&relay, identified.dedup_key, &mut now).await?)
    };
    let flight = match flight {
        Some(None) => return Ok(Relayed::Duplicate),
        Some(flight) => flight,
        None => None,
    };
    let key = match (&event.event_id, identified.key_kind) {
        (Some(id), KeyKind::Id) => {
            let scope: &str = if identified.by_path { &event.path_rest } else { "" };
            EventKey::of_scoped_id(&event.route, scope, id)
        }
        _ => EventKey::of_body(&event.route, &identified.dedup_key),
    };
    let mut head = Vec::with_capacity(1024);
    let attempt = handoff::Attempt {
        key: &key,
        number: 1,
        possible_duplicate_of: None,
        now: relay.now.wall_at(now),
    };
    handoff::write_head(
        &mut head,
        &relay.upstream.endpoint,
        &relay.upstream.handoff,
        event,
        attempt,
    );
    let request = Request {
        head: &head,
        body: &event.body,
        is_head: &*event.method == "HEAD",
    };
    match relay
        .client
        .call_at(now, &relay.upstream.endpoint, request, &relay.upstream.limits)
        .await
    {
        Ok(answer) => {
            if let Some(flight) = flight.filter(|_| (200..300).contains(&answer.status)) {
                flight.taken(answer.at + identified.dedup_window, answer.at);
                mark(&relay, identified, answer.at);
            }
            Ok(Relayed::Answer(answer))
        }
        Err(error) => Ok(Relayed::Failed(error)),
    }
}

/// Waits for its turn, which is `now`, or later. `None`: the upstream has taken the event meanwhile, or had before.
async fn first_or_taken(
    relay: &Relay<'_>,
    key: DedupKey,
    now: &mut Instant,
) -> Result<Option<Flight>, Refusal> {
    let deadline = *now + relay.upstream.copy_wait;
    loop {
        match relay.flights.turn(key, *now) {
            Turn::First(flight) => return Ok(Some(flight)),
            Turn::Taken => return Ok(None),
            Turn::Wait(mut ended) => {
                // Nothing is ever sent: the wait ends when the first copy's sender is dropped.
                if tokio::time::timeout_at(deadline, ended.changed()).await.is_err() {
                    return Err(Refusal::CopyInFlight);
                }
                *now = Instant::now();
            }
        }
    }
}

fn mark(relay: &Relay<'_>, identified: &Identified, taken_at: Instant) {
    if let Some(inbox) = relay.inbox {
        let at = relay.now.wall_at(taken_at);
        let window = i64::try_from(identified.dedup_window.as_millis()).unwrap_or(i64::MAX);
        inbox.mark(ProxyMark {
            key: identified.dedup_key,
            at,
            until: Timestamp(at.0.saturating_add(window)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DedupHashKey, RouteName};

    #[test]
    fn a_key_is_taken_only_when_said_so_and_until_its_time() {
        let flights = Arc::new(Flights::new(Vec::new(), Timestamp(0)));
        let key = DedupKey([1; 16]);
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let Turn::First(first) = flights.turn(key, start) else {
            unreachable!("nobody else")
        };
        assert!(matches!(flights.turn(key, start), Turn::Wait(_)));
        drop(first);
        let Turn::First(second) = flights.turn(key, start) else {
            unreachable!("the first failed")
        };
        assert!(matches!(flights.turn(key, start), Turn::Wait(_)));
        second.taken(after(10), start);
        assert!(matches!(flights.turn(key, after(9)), Turn::Taken));
        assert!(matches!(flights.turn(key, after(10)), Turn::First(_)));
    }

    #[test]
    fn of_more_marks_than_are_remembered_the_newest_are() {
        let (hash_key, route) = (DedupHashKey([1; 16]), RouteName::new("r"));
        let key_of = |n: usize| DedupKey::derive(&hash_key, KeyKind::Id, &route, "", &n.to_be_bytes());
        let marks = (0..MARKS_MAX + 2).map(|n| ProxyMark {
            key: key_of(n),
            at: Timestamp(0),
            until: Timestamp(1000),
        });
        let flights = Flights::new(marks.collect(), Timestamp(0));
        let slots = flights.lock();
        assert_eq!(slots.taken.len(), MARKS_MAX);
        assert!(!slots.taken.contains_key(&key_of(1)));
        assert!(slots.taken.contains_key(&key_of(2)));
    }

    #[test]
    fn the_map_is_bounded() {
        let (hash_key, route) = (DedupHashKey([1; 16]), RouteName::new("r"));
        let key_of = |n: u64| DedupKey::derive(&hash_key, KeyKind::Id, &route, "", &n.to_be_bytes());
        // At one time each, and all at once: the younger half of them is left, or any half.
        for apart in [1000, 0] {
            let flights = Arc::new(Flights::new(Vec::new(), Timestamp(0)));
            let start = Instant::now();
            for n in 0..(MARKS_MAX as u64 + 10) {
                let Turn::First(flight) = flights.turn(key_of(n), start) else {
                    unreachable!("all differ")
                };
                flight.taken(start + Duration::from_millis(1000 + n * apart), start);
            }
            let slots = flights.lock();
            assert_eq!(slots.taken.len(), MARKS_MAX / 2 + 10);
            assert!(slots.in_flight.is_empty());
            assert!(slots.taken.contains_key(&key_of(MARKS_MAX as u64 + 9)));
            if apart > 0 {
                assert!(slots.taken.contains_key(&key_of(MARKS_MAX as u64 / 2 + 1)));
            }
        }
    }

    #[test]
    fn what_has_run_out_goes_first() {
        let flights = Flights::new(Vec::new(), Timestamp(0));
        let start = Instant::now();
        let mut slots = flights.lock();
        for n in 0..=255_u8 {
            let until = slots.nanos(start + Duration::from_secs(u64::from(n)));
            slots.taken.insert(DedupKey([n; 16]), until);
        }
        slots.forget_some(start + Duration::from_secs(100));
        assert_eq!(slots.taken.len(), 155);
    }
}
