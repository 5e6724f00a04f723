//! What unverified requests may take: connections, bytes in memory, and failures of one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use super::answer::Refusal;
use super::settings::{Limits, Quota};

/// Requests of spent addresses under way at once.
const SLOW_LANE_WIDTH: usize = 64;
/// A request waits this long for a place in the slow lane.
const SLOW_LANE_WAIT: Duration = Duration::from_secs(2);
/// The body deadline in the slow lane.
pub(super) const SLOW_LANE_BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses whose failures are remembered at once.
const PEERS_MAX: usize = 100_000;
/// Connections over the cap that are told so at once; further ones just end.
const REFUSALS_MAX: usize = 128;

/// Everything that is counted over all requests.
#[derive(Debug)]
pub(super) struct Limiter {
    connections: AtomicUsize,
    peers: Mutex<HashMap<IpAddr, usize>>,
    bytes: AtomicUsize,
    failures: Mutex<Failures>,
    /// How many addresses `failures` holds, so that the usual request takes no lock.
    failing: AtomicUsize,
    slow_lane: Semaphore,
    refusals: Semaphore,
}

/// The budgets of the networks that have failed; time is an argument.
#[derive(Debug)]
struct Failures {
    budgets: HashMap<IpAddr, Budget>,
    peers_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Failures that may still happen; below 1: spent.
    left: f64,
    at: Instant,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionLimit {
    All,
    Peer,
}

impl Limiter {
    pub(super) fn new() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            peers: Mutex::default(),
            bytes: AtomicUsize::new(0),
            failures: Mutex::new(Failures::new(PEERS_MAX)),
            failing: AtomicUsize::new(0),
            slow_lane: Semaphore::new(SLOW_LANE_WIDTH),
            refusals: Semaphore::new(REFUSALS_MAX),
        }
    }

    /// Counts a connection until the guard is dropped. `peer` is `None` for trusted proxies.
    pub(super) fn connect(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<ConnectionGuard, ConnectionLimit> {
        let open = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut guard = ConnectionGuard {
            limiter: self.clone(),
            peer: None,
        };
        if open > limits.connections {
            return Err(ConnectionLimit::All);
        }
        if let Some(address) = peer.map(network) {
            let mut peers = lock(&self.peers);
            let count = peers.entry(address).or_insert(0);
            if *count >= limits.connections_per_peer {
                return Err(ConnectionLimit::Peer);
            }
            *count += 1;
            drop(peers);
            guard.peer = Some(address);
        }
        Ok(guard)
    }

    /// Leave to tell a connection over the cap that it is.
    pub(super) fn refusal(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.refusals.try_acquire()
    }

    /// Reserves room for body bytes; given back when the guard is dropped.
    pub(super) fn bytes(self: &Arc<Self>, count: usize, limits: &Limits) -> Result<BytesGuard, Refusal> {
        let mut guard = BytesGuard {
            limiter: self.clone(),
            count: 0,
        };
        guard.grow(count, limits)?;
        Ok(guard)
    }

    /// Whether the address has spent its failure budget.
    pub(super) fn is_spent(&self, client: IpAddr, quota: Quota) -> bool {
        if self.failing.load(Ordering::Relaxed) == 0 {
            return false;
        }
        lock(&self.failures).is_spent(client, quota, Instant::now())
    }

    /// Charges a failed verification.
    pub(super) fn failed(&self, client: IpAddr, quota: Quota) {
        let mut failures = lock(&self.failures);
        failures.charge(client, quota, Instant::now());
        self.failing.store(failures.budgets.len(), Ordering::Relaxed);
    }

    /// Forgets addresses whose budget is whole again; called now and then.
    pub(super) fn sweep(&self, quota: Quota) {
        let mut failures = lock(&self.failures);
        failures.forget_whole(quota, Instant::now());
        failures.budgets.shrink_to(1024);
        self.failing.store(failures.budgets.len(), Ordering::Relaxed);
    }

    /// A place in the slow lane.
    pub(super) async fn slow_lane(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match tokio::time::timeout(SLOW_LANE_WAIT, self.slow_lane.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refusal::SlowLaneFull),
        }
    }
}

impl Failures {
    fn new(peers_max: usize) -> Self {
        Self {
            budgets: HashMap::new(),
            peers_max,
        }
    }

    fn is_spent(&self, client: IpAddr, quota: Quota, now: Instant) -> bool {
        self.budgets
            .get(&network(client))
            .is_some_and(|budget| budget.refilled(quota, now) < 1.0)
    }

    fn charge(&mut self, client: IpAddr, quota: Quota, now: Instant) {
        let client = network(client);
        if self.budgets.len() >= self.peers_max && !self.budgets.contains_key(&client) {
            self.forget_whole(quota, now);
            // Nearly full still: more addresses fail at once than are worth telling apart.
            if self.budgets.len() >= self.peers_max / 10 * 9 {
                self.budgets.clear();
            }
        }
        let budget = self.budgets.entry(client).or_insert(Budget {
            left: f64::from(quota.burst),
            at: now,
        });
        budget.left = (budget.refilled(quota, now) - 1.0).max(0.0);
        budget.at = now;
    }

    fn forget_whole(&mut self, quota: Quota, now: Instant) {
        self.budgets
            .retain(|_, budget| budget.refilled(quota, now) < f64::from(quota.burst));
    }
}

impl Budget {
    fn refilled(&self, quota: Quota, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * quota.per_second;
        (self.left + gained).min(f64::from(quota.burst))
    }
}

/// An IPv6 sender owns its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A panic while counting leaves a count, not a broken invariant.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counted connection.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    limiter: Arc<Limiter>,
    peer: Option<IpAddr>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.limiter.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(peer) = self.peer {
            let mut peers = lock(&self.limiter.peers);
            if let Some(count) = peers.get_mut(&peer) {
                *count -= 1;
                if *count == 0 {
                    peers.remove(&peer);
                }
            }
        }
    }
}

/// Reserved bytes.
#[derive(Debug)]
pub(super) struct BytesGuard {
    limiter: Arc<Limiter>,
    count: usize,
}

impl BytesGuard {
    /// Reserves `count` more.
    pub(super) fn grow(&mut self, count: usize, limits: &Limits) -> Result<(), Refusal> {
        let before = self.limiter.bytes.fetch_add(count, Ordering::Relaxed);
        if before + count > limits.bytes_in_flight {
            self.limiter.bytes.fetch_sub(count, Ordering::Relaxed);
            return Err(Refusal::Memory);
        }
        self.count += count;
        Ok(())
    }
}

impl Drop for BytesGuard {
    fn drop(&mut self) {
        self.limiter.bytes.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(5),
            header_bytes_max: 32 * 1024,
            header_fields_max: 100,
            body_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(4),
            keepalive_idle: Duration::from_secs(60),
            connections: 3,
            connections_per_peer: 2,
            bytes_in_flight: 100,
            failures_per_peer: Quota {
                per_second: 0.001,
                burst: 2,
            },
        }
    }

    #[test]
    fn connections_are_counted_in_all_and_per_peer() {
        let limiter = Arc::new(Limiter::new());
        let (a, b) = (Some(IpAddr::from([1, 1, 1, 1])), Some(IpAddr::from([2, 2, 2, 2])));
        let first = limiter.connect(a, &limits()).unwrap();
        let _second = limiter.connect(a, &limits()).unwrap();
        assert_eq!(limiter.connect(a, &limits()).unwrap_err(), ConnectionLimit::Peer);
        let _third = limiter.connect(b, &limits()).unwrap();
        assert_eq!(limiter.connect(b, &limits()).unwrap_err(), ConnectionLimit::All);
        assert_eq!(
            limiter.connect(None, &limits()).unwrap_err(),
            ConnectionLimit::All
        );
        drop(first);
        let _again = limiter.connect(a, &limits()).unwrap();
    }

    #[test]
    fn bytes_are_given_back() {
        let limiter = Arc::new(Limiter::new());
        let mut guard = limiter.bytes(60, &limits()).unwrap();
        assert_eq!(limiter.bytes(41, &limits()).unwrap_err(), Refusal::Memory);
        assert_eq!(guard.grow(41, &limits()), Err(Refusal::Memory));
        assert_eq!(guard.grow(40, &limits()), Ok(()));
        drop(guard);
        assert!(limiter.bytes(100, &limits()).is_ok());
    }

    #[test]
    fn a_budget_is_spent_by_failures_of_one_network_only() {
        let limiter = Limiter::new();
        let quota = limits().failures_per_peer;
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert!(!limiter.is_spent(v6, quota));
        limiter.failed(v6, quota);
        assert!(!limiter.is_spent(v6, quota));
        limiter.failed(neighbour, quota);
        assert!(limiter.is_spent(v6, quota));
        assert!(!limiter.is_spent(other, quota));
    }

    #[test]
    fn a_spent_address_is_told_by_the_limiter_and_forgotten_by_a_sweep() {
        let limiter = Limiter::new();
        let address = numbered(1);
        let slow = limits().failures_per_peer;
        limiter.failed(address, slow);
        limiter.failed(address, slow);
        limiter.sweep(slow);
        assert!(limiter.is_spent(address, slow), "a sweep forgives nothing");
        // At this rate the budget is whole again by now.
        let at_once = Quota {
            per_second: f64::INFINITY,
            ..slow
        };
        limiter.sweep(at_once);
        assert!(!limiter.is_spent(address, slow));
        assert_eq!(limiter.failing.load(Ordering::Relaxed), 0);
    }

    fn numbered(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_budget_comes_back_with_time_and_is_never_more_than_its_burst() {
        let quota = Quota {
            per_second: 0.5,
            burst: 2,
        };
        let begin = Instant::now();
        let after = |secs| begin + Duration::from_secs(secs);
        let mut failures = Failures::new(10);
        let address = numbered(1);
        for (name, charges, at, spent) in [
            ("one of two is gone", 1, 0, false),
            ("both", 1, 0, true),
            ("more failures owe nothing", 5, 0, true),
            ("half a failure came back", 0, 1, true),
            ("one came back", 0, 2, false),
            ("and went again", 1, 2, true),
            ("an hour brings back two", 1, 3600, false),
            ("and no more than two", 1, 3600, true),
        ] {
            for _ in 0..charges {
                failures.charge(address, quota, after(at));
            }
            assert_eq!(failures.is_spent(address, quota, after(at)), spent, "{name}");
        }
        assert!(
            !failures.is_spent(numbered(2), quota, begin),
            "one that never failed"
        );
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let quota = Quota {
            per_second: 1.0,
            burst: 2,
        };
        let begin = Instant::now();
        let later = begin + Duration::from_secs(1);
        // Ten addresses, `old` of which are whole again when an eleventh fails.
        for (old, left) in [(0, 1), (1, 1), (2, 9), (9, 2)] {
            let mut failures = Failures::new(10);
            for n in 0..10 {
                failures.charge(numbered(n), quota, if n < old { begin } else { later });
            }
            failures.charge(numbered(9), quota, later);
            assert_eq!(failures.budgets.len(), 10, "one that is known needs no place");
            failures.charge(numbered(10), quota, later);
            assert_eq!(failures.budgets.len(), left, "{old} old");
            assert!(failures.budgets.contains_key(&numbered(10)));
        }
    }

    #[test]
    fn a_sweep_forgets_only_budgets_that_are_whole() {
        let quota = Quota {
            per_second: 1.0,
            burst: 2,
        };
        let begin = Instant::now();
        let mut failures = Failures::new(10);
        failures.charge(numbered(1), quota, begin);
        failures.charge(numbered(2), quota, begin);
        failures.charge(numbered(2), quota, begin);
        for (millis, left) in [(999, 2), (1000, 1), (1999, 1), (2000, 0)] {
            failures.forget_whole(quota, begin + Duration::from_millis(millis));
            assert_eq!(failures.budgets.len(), left, "after {millis} ms");
        }
    }
}
