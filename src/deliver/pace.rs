//! So many attempts per second: a GCRA limiter for each quota of a lane, and all must let an attempt pass.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::Quota;

/// A lane claims no more at once than its rates let start within this time.
const CLAIM_AHEAD_SECS: f64 = 0.1;

/// The shortest interval between two attempts that is told apart: a million a second.
const INTERVAL_MIN: Duration = Duration::from_micros(1);
/// The longest one.
const INTERVAL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The limiters of one lane.
#[derive(Debug)]
pub(super) struct Pace(Vec<(Quota, Arc<DefaultDirectRateLimiter>)>);

/// How many of the limiters have let the next attempt pass already.
///
/// Without it, an attempt that waits for its second quota would draw on the first again and again.
#[derive(Debug, Default)]
pub(super) struct Paid(usize);

impl Pace {
    /// Limiters for `quotas`; where `before` has the same quota in the same place, its limiter goes on.
    pub(super) fn new(quotas: &[Quota], before: Option<&Pace>) -> Self {
        let limiters = quotas.iter().enumerate().map(|(place, quota)| {
            let kept = before
                .and_then(|pace| pace.0.get(place))
                .filter(|(former, _)| former == quota);
            match kept {
                Some((_, limiter)) => (*quota, limiter.clone()),
                None => (*quota, Arc::new(limiter(*quota))),
            }
        });
        Self(limiters.collect())
    }

    /// Lets one attempt pass, or says how long to wait before asking again.
    pub(super) fn pass(&self, paid: &mut Paid) -> Result<(), Duration> {
        for (_, limiter) in self.0.iter().skip(paid.0) {
            if let Err(not_until) = limiter.check() {
                return Err(not_until.wait_time_from(DefaultClock::default().now()));
            }
            paid.0 += 1;
        }
        *paid = Paid::default();
        Ok(())
    }

    /// How many deliveries to claim at once, at most.
    pub(super) fn claim_max(&self) -> usize {
        let slowest = self
            .0
            .iter()
            .map(|(quota, _)| quota.per_second)
            .fold(f64::INFINITY, f64::min);
        // Saturates: without quotas it is the largest usize.
        ((slowest * CLAIM_AHEAD_SECS) as usize).max(1)
    }
}

fn limiter(quota: Quota) -> DefaultDirectRateLimiter {
    let interval = Duration::try_from_secs_f64(1.0 / quota.per_second)
        .unwrap_or(INTERVAL_MAX)
        .clamp(INTERVAL_MIN, INTERVAL_MAX);
    let burst = NonZeroU32::new(quota.burst).unwrap_or(NonZeroU32::MIN);
    // `with_period` refuses only a period of zero.
    let quota = governor::Quota::with_period(interval)
        .unwrap_or(governor::Quota::per_second(NonZeroU32::MIN))
        .allow_burst(burst);
    RateLimiter::direct(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(per_second: f64, burst: u32) -> Quota {
        Quota { per_second, burst }
    }

    #[test]
    fn every_quota_must_pass_and_none_is_charged_twice() {
        let pace = Pace::new(&[quota(0.001, 2), quota(0.001, 1)], None);
        let mut paid = Paid::default();
        assert_eq!(pace.pass(&mut paid), Ok(()));
        // The first quota lets the second attempt pass once; asking again must not draw on it.
        for _ in 0..5 {
            let wait = pace.pass(&mut paid).unwrap_err();
            assert!(wait > Duration::from_secs(990), "{wait:?}");
            assert_eq!(paid.0, 1);
        }
    }

    #[test]
    fn an_unchanged_quota_keeps_its_limiter() {
        let before = Pace::new(&[quota(0.001, 1)], None);
        assert_eq!(before.pass(&mut Paid::default()), Ok(()));
        let same = Pace::new(&[quota(0.001, 1)], Some(&before));
        assert!(same.pass(&mut Paid::default()).is_err());
        let other = Pace::new(&[quota(0.002, 1)], Some(&before));
        assert_eq!(other.pass(&mut Paid::default()), Ok(()));
    }

    #[test]
    fn claims_are_no_larger_than_the_rate() {
        for (quotas, expected) in [
            (vec![], usize::MAX),
            (vec![quota(0.5, 10)], 1),
            (vec![quota(1000.0, 1), quota(200.0, 1)], 20),
        ] {
            assert_eq!(Pace::new(&quotas, None).claim_max(), expected, "{quotas:?}");
        }
    }

    #[test]
    fn no_wait_is_longer_than_a_week() {
        let pace = Pace::new(&[quota(f64::MIN_POSITIVE, 1)], None);
        assert_eq!(pace.pass(&mut Paid::default()), Ok(()));
        let wait = pace.pass(&mut Paid::default()).unwrap_err();
        let week = Duration::from_secs(604_800);
        assert!(wait <= week && wait > week - Duration::from_secs(60), "{wait:?}");
    }

    #[test]
    fn odd_quotas_do_not_panic() {
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX] {
            let pace = Pace::new(&[quota(odd, 0)], None);
            assert_eq!(pace.pass(&mut Paid::default()), Ok(()), "{odd}");
            assert!(pace.claim_max() >= 1);
        }
    }
}
