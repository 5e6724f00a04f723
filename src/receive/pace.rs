//! The route's rate for verified events, where it asks for refusal above it.
//!
//! `over = "pace"` needs nothing here: the lanes of the route deliver at that rate.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::answer::Refusal;
use super::settings::Quota;

/// One route's limiter.
#[derive(Debug)]
pub(super) struct Pace {
    quota: Quota,
    limiter: DefaultDirectRateLimiter,
}

impl Pace {
    pub(super) fn new(quota: Quota) -> Self {
        // Longer than a day or shorter than a nanosecond between events is no rate any more.
        let period = Duration::try_from_secs_f64(1.0 / quota.per_second)
            .unwrap_or(Duration::from_secs(86_400))
            .max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(quota.burst).unwrap_or(NonZeroU32::MIN);
        let limit = governor::Quota::with_period(period)
            .unwrap_or_else(|| governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        Self {
            quota,
            limiter: RateLimiter::direct(limit),
        }
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// Charges one verified event.
    pub(super) fn charge(&self) -> Result<(), Refusal> {
        self.limiter.check().map_err(|not_until| Refusal::RateLimited {
            retry_after: not_until.wait_time_from(DefaultClock::default().now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_told_when_to_return() {
        let pace = Pace::new(Quota {
            per_second: 0.5,
            burst: 3,
        });
        for _ in 0..3 {
            assert_eq!(pace.charge(), Ok(()));
        }
        let Err(Refusal::RateLimited { retry_after }) = pace.charge() else {
            unreachable!("the burst is spent");
        };
        assert!(retry_after > Duration::from_secs(1) && retry_after <= Duration::from_secs(2));
    }
}
