//! Whose request is dealt with next, where there are more than the machine can deal with at once.
//!
//! An address that has sent a genuine event lately, and no more forgeries than it may, is dealt with at once. The others
//! take turns, a few at a time and in the order in which they came, so that a flood queues up here and not in front of
//! those. While there is no crowd nobody waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{lock, network};
use crate::receive::answer::Refusal;

/// Requests of unknown addresses that are dealt with at once.
const UNKNOWN_AT_ONCE: usize = 16;
/// The same for addresses that have spent their failure budget.
const SPENT_AT_ONCE: usize = 8;
/// A request waits this long for its turn.
const WAIT: Duration = Duration::from_secs(2);
/// Addresses that are known to be genuine at once.
const KNOWN_MAX: usize = 10_000;
/// An address is known for this long after a genuine event.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// An address whose time is younger than this is not written down again.
const FRESH: Duration = Duration::from_secs(60);

/// What is known of a request's address when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::receive) enum Standing {
    /// It may be anybody.
    Unknown,
    /// It has spent its failure budget.
    Spent,
    /// A genuine event has come over its connection.
    Known,
}

#[derive(Debug)]
pub(super) struct Turns {
    unknown: Semaphore,
    spent: Semaphore,
    genuine: Mutex<HashMap<IpAddr, Instant>>,
}

/// Leave to deal with a request of an address that is not known to be genuine.
#[derive(Debug)]
pub(in crate::receive) struct Turn<'a>(
    #[allow(dead_code, reason = "held, not read")] Option<SemaphorePermit<'a>>,
);

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            unknown: Semaphore::new(UNKNOWN_AT_ONCE),
            spent: Semaphore::new(SPENT_AT_ONCE),
            genuine: Mutex::default(),
        }
    }

    pub(super) async fn take(&self, client: IpAddr, standing: Standing) -> Result<Turn<'_>, Refusal> {
        let lane = match standing {
            Standing::Known => return Ok(Turn(None)),
            Standing::Unknown => &self.unknown,
            Standing::Spent => &self.spent,
        };
        let permit = match lane.try_acquire() {
            Ok(permit) => permit,
            Err(_) if standing == Standing::Unknown && self.is_genuine(client, Instant::now()) => {
                return Ok(Turn(None));
            }
            Err(_) => match timeout(WAIT, lane.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(Refusal::Crowded),
            },
        };
        // Behind everything else that is ready: without this a turn would never be held while another task runs, and
        // hundreds of forgeries that came together would be dealt with before the next genuine request.
        yield_now().await;
        Ok(Turn(Some(permit)))
    }

    /// A genuine event has come from this address.
    pub(super) fn remember(&self, client: IpAddr, now: Instant) {
        let mut genuine = lock(&self.genuine);
        let client = network(client);
        if genuine.len() >= KNOWN_MAX && !genuine.contains_key(&client) {
            genuine.retain(|_, at| now.saturating_duration_since(*at) < FRESH);
            // More senders than are worth telling apart.
            if genuine.len() >= KNOWN_MAX / 10 * 9 {
                genuine.clear();
            }
        }
        genuine.insert(client, now);
    }

    pub(super) fn is_genuine(&self, client: IpAddr, now: Instant) -> bool {
        lock(&self.genuine)
            .get(&network(client))
            .is_some_and(|at| now.saturating_duration_since(*at) < KNOWN_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test(start_paused = true)]
    async fn a_crowd_waits_and_who_is_known_does_not() {
        let turns = Turns::new();
        let mut held = Vec::new();
        for _ in 0..UNKNOWN_AT_ONCE {
            held.push(turns.take(A, Standing::Unknown).await.unwrap());
        }
        assert_eq!(
            turns.take(A, Standing::Unknown).await.unwrap_err(),
            Refusal::Crowded
        );
        turns.take(A, Standing::Known).await.unwrap();
        turns.remember(B, Instant::now());
        turns.take(B, Standing::Unknown).await.unwrap();
        held.pop();
        turns.take(A, Standing::Unknown).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn spent_addresses_have_a_lane_of_their_own_which_no_genuine_event_opens() {
        let turns = Turns::new();
        turns.remember(A, Instant::now());
        let mut held = Vec::new();
        for _ in 0..SPENT_AT_ONCE {
            held.push(turns.take(A, Standing::Spent).await.unwrap());
        }
        assert_eq!(
            turns.take(A, Standing::Spent).await.unwrap_err(),
            Refusal::Crowded
        );
        turns.take(B, Standing::Unknown).await.unwrap();
    }

    #[test]
    fn an_address_is_known_for_a_while_and_only_so_many_are() {
        let turns = Turns::new();
        let begin = Instant::now();
        turns.remember(A, begin);
        assert!(turns.is_genuine(A, begin + KNOWN_FOR - Duration::from_secs(1)));
        assert!(!turns.is_genuine(A, begin + KNOWN_FOR));
        assert!(!turns.is_genuine(B, begin));
        let numbered = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..KNOWN_MAX - 1 {
            turns.remember(numbered(n), begin);
        }
        turns.remember(B, begin + FRESH);
        assert_eq!(lock(&turns.genuine).len(), 1, "the old ones went");
        for n in 0..KNOWN_MAX {
            turns.remember(numbered(n), begin + FRESH);
        }
        assert!(lock(&turns.genuine).len() <= KNOWN_MAX);
        assert!(turns.is_genuine(numbered(KNOWN_MAX - 1), begin + FRESH));
    }
}
