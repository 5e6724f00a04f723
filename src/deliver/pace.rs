//! So many attempts per second: a GCRA limiter for each quota of a lane, and all must let an attempt pass.

use std::sync::Arc;
use std::time::Duration;

use governor::DefaultDirectRateLimiter;
use governor::clock::{Clock, DefaultClock};

use super::Quota;

/// A lane claims no more at once than its rates let start within this time.
const CLAIM_AHEAD_SECS: f64 = 0.1;

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
                None => (*quota, Arc::new(quota.limiter())),
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
    fn odd_quotas_do_not_panic() {
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX] {
            let pace = Pace::new(&[quota(odd, 0)], None);
            assert_eq!(pace.pass(&mut Paid::default()), Ok(()), "{odd}");
            assert!(pace.claim_max() >= 1);
        }
    }
}
