//! The failures of each address: a budget of forgeries, after which an address goes through the slow lane.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::network;
use crate::receive::settings::Quota;

/// The budgets of the networks that have failed; time is an argument.
#[derive(Debug)]
pub(super) struct Failures {
    pub(super) budgets: HashMap<IpAddr, Budget>,
    peers_max: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Failures that may still happen; below 1: spent.
    left: f64,
    at: Instant,
}

impl Failures {
    pub(super) fn new(peers_max: usize) -> Self {
        Self {
            budgets: HashMap::new(),
            peers_max,
        }
    }

    pub(super) fn is_spent(&self, client: IpAddr, quota: Quota, now: Instant) -> bool {
        self.budgets
            .get(&network(client))
            .is_some_and(|budget| budget.refilled(quota, now) < 1.0)
    }

    pub(super) fn charge(&mut self, client: IpAddr, quota: Quota, now: Instant) {
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

    pub(super) fn forget_whole(&mut self, quota: Quota, now: Instant) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
