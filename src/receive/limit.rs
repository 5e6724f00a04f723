//! What unverified requests may take: connections, bytes in memory, turns, and failures of one address.

mod connections;
mod failures;
mod room;
mod turns;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Refusal;
use super::settings::{Limits, Quota};
use connections::Connections;
pub(super) use connections::{ConnectionLimit, Place, Seat, Working};
use failures::Failures;
use room::Room;
pub(super) use room::{Ceiling, Share};
use turns::Turns;
pub(super) use turns::{Standing, Turn};

/// The body deadline of addresses that have spent their failure budget.
pub(super) const SPENT_BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Handshakes without a signature that one address is answered: nobody asks more often, and each one may sign something.
const HANDSHAKES: Quota = Quota {
    per_second: 5.0,
    burst: 20,
};
/// Addresses whose failures are remembered at once.
const PEERS_MAX: usize = 100_000;
/// Connections over the cap that are told so at once; further ones just end.
const REFUSALS_MAX: usize = 128;

/// Everything that is counted over all requests.
#[derive(Debug)]
pub(super) struct Limiter {
    connections: Arc<Connections>,
    room: Arc<Room>,
    turns: Turns,
    failures: Mutex<Failures>,
    handshakes: Mutex<Failures>,
    /// How many addresses `failures` holds, so that the usual request takes no lock.
    failing: AtomicUsize,
    refusals: Semaphore,
    large_checks: Semaphore,
}

impl Limiter {
    pub(super) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            connections: Arc::new(Connections::new()),
            room: Arc::default(),
            turns: Turns::new(),
            failures: Mutex::new(Failures::new(PEERS_MAX)),
            handshakes: Mutex::new(Failures::new(PEERS_MAX)),
            failing: AtomicUsize::new(0),
            refusals: Semaphore::new(REFUSALS_MAX),
            large_checks: Semaphore::new((cpus / 2).max(1)),
        }
    }

    /// Takes a connection in until the seat is dropped. `peer` is `None` for trusted proxies.
    pub(super) async fn connect(
        &self,
        peer: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Seat, ConnectionLimit> {
        self.connections.admit(peer, limits).await
    }

    /// Leave to tell a connection over the cap that it is.
    pub(super) fn refusal(&self, limits: &Limits) -> Option<SemaphorePermit<'_>> {
        let told = REFUSALS_MAX - self.refusals.available_permits();
        if told > connections::spare(limits) {
            return None;
        }
        self.refusals.try_acquire().ok()
    }

    /// A share of `bytes_in_flight`, with nothing in it yet.
    pub(super) fn share(&self) -> Share {
        self.room.share()
    }

    /// Leave to deal with a request, once its turn has come.
    pub(super) async fn turn(&self, client: IpAddr, standing: Standing) -> Result<Turn<'_>, Refusal> {
        self.turns.take(client, standing).await
    }

    /// The same, known if a genuine event has come from this address lately.
    pub(super) fn recall(&self, client: IpAddr, standing: Standing) -> Standing {
        match standing {
            Standing::Unknown if self.turns.is_genuine(client, Instant::now()) => Standing::Known,
            standing => standing,
        }
    }

    /// A genuine event has come from this address.
    pub(super) fn remember(&self, client: IpAddr) {
        self.turns.remember(client, Instant::now());
    }

    /// Leave to check the signature of a large body: the check takes a whole CPU, and the others have work too.
    pub(super) async fn large_check(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.large_checks.acquire().await.ok()
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

    /// Leave to answer a handshake that nobody signed.
    pub(super) fn handshake(&self, client: IpAddr) -> Result<(), Refusal> {
        let mut handshakes = lock(&self.handshakes);
        let now = Instant::now();
        if handshakes.is_spent(client, HANDSHAKES, now) {
            return Err(Refusal::RateLimited {
                retry_after: Duration::from_secs(1),
            });
        }
        handshakes.charge(client, HANDSHAKES, now);
        Ok(())
    }

    /// Forgets addresses whose budget is whole again; called now and then.
    pub(super) fn sweep(&self, quota: Quota) {
        let mut handshakes = lock(&self.handshakes);
        handshakes.forget_whole(HANDSHAKES, Instant::now());
        handshakes.budgets.shrink_to(1024);
        drop(handshakes);
        let mut failures = lock(&self.failures);
        failures.forget_whole(quota, Instant::now());
        failures.budgets.shrink_to(1024);
        self.failing.store(failures.budgets.len(), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn numbered(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    const QUOTA: Quota = Quota {
        per_second: 0.001,
        burst: 2,
    };

    #[test]
    fn a_budget_is_spent_by_failures_of_one_network_only() {
        let limiter = Limiter::new();
        let quota = QUOTA;
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

    /// Of those over the cap as many are told so as there are spare seats, and never more than `REFUSALS_MAX` at once.
    #[test]
    fn so_many_are_told_that_they_are_over_the_cap() {
        for (connections, told) in [(8, 2), (80, 11), (80_000, REFUSALS_MAX)] {
            let limits = Limits {
                connections,
                ..sample::limits()
            };
            let limiter = Limiter::new();
            let leaves: Vec<_> = (0..REFUSALS_MAX + 1)
                .map_while(|_| limiter.refusal(&limits))
                .collect();
            assert_eq!(leaves.len(), told, "{connections}");
            drop(leaves);
            assert!(limiter.refusal(&limits).is_some(), "leaves come back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_remembered_needs_no_turn_where_all_are_taken() {
        let limiter = Limiter::new();
        let mut turns = Vec::new();
        for n in 0.. {
            match limiter.turn(numbered(n), Standing::Unknown).await {
                Ok(turn) => turns.push(turn),
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::Crowded);
                    break;
                }
            }
        }
        let client = numbered(1 << 20);
        assert!(limiter.turn(client, Standing::Unknown).await.is_err());
        limiter.remember(client);
        assert!(limiter.turn(client, Standing::Unknown).await.is_ok());
    }

    #[test]
    fn an_address_that_is_remembered_is_known_unless_it_has_spent_its_budget() {
        let limiter = Limiter::new();
        let (client, other) = (numbered(1), numbered(2));
        limiter.remember(client);
        for (address, standing, recalled) in [
            (client, Standing::Unknown, Standing::Known),
            (client, Standing::Spent, Standing::Spent),
            (other, Standing::Unknown, Standing::Unknown),
            (other, Standing::Known, Standing::Known),
        ] {
            assert_eq!(
                limiter.recall(address, standing),
                recalled,
                "{address} {standing:?}"
            );
        }
    }

    #[tokio::test]
    async fn large_checks_take_turns() {
        let limiter = Limiter::new();
        let free = limiter.large_checks.available_permits();
        let leave = limiter.large_check().await;
        assert!(leave.is_some());
        assert_eq!(limiter.large_checks.available_permits(), free - 1);
        drop(leave);
        assert_eq!(limiter.large_checks.available_permits(), free);
    }

    #[test]
    fn a_spent_address_is_told_by_the_limiter_and_forgotten_by_a_sweep() {
        let limiter = Limiter::new();
        let address = numbered(1);
        let slow = QUOTA;
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
}
