//! The route's rate for verified events, where it asks for refusal above it.
//!
//! `over = "pace"` needs nothing here: the lanes of the route deliver at that rate.

use governor::DefaultDirectRateLimiter;
use governor::clock::{Clock, DefaultClock};

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
        Self {
            quota,
            limiter: quota.limiter(),
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
    use std::time::Duration;

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
