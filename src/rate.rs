//! So many per second, with bursts: the quota that the configuration gives, and the limiter that holds it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, RateLimiter};

/// The shortest interval between two passes that is told apart: a million a second.
const INTERVAL_MIN: Duration = Duration::from_micros(1);
/// The longest one.
const INTERVAL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// So many per second, with bursts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// Per second; above 0.
    pub per_second: f64,
    /// At once; at least 1.
    pub burst: u32,
}

impl Quota {
    /// A limiter (GCRA) that has its whole burst to give; odd figures are brought into bounds.
    pub fn limiter(self) -> DefaultDirectRateLimiter {
        let interval = Duration::try_from_secs_f64(1.0 / self.per_second)
            .unwrap_or(INTERVAL_MAX)
            .clamp(INTERVAL_MIN, INTERVAL_MAX);
        let burst = NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN);
        // `with_period` refuses only a period of zero.
        let quota = governor::Quota::with_period(interval)
            .unwrap_or(governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        RateLimiter::direct(quota)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::{Clock, DefaultClock};

    use super::*;

    #[test]
    fn the_interval_follows_the_rate_within_bounds() {
        for (per_second, secs) in [
            (0.5, 2.0),
            (0.01, 100.0),
            (f64::MIN_POSITIVE, 604_800.0),
            (0.0, 604_800.0),
            (-1.0, 604_800.0),
            (f64::NAN, 604_800.0),
        ] {
            for burst in [0, 1, 3] {
                let limiter = Quota { per_second, burst }.limiter();
                for _ in 0..burst.max(1) {
                    assert!(limiter.check().is_ok(), "{per_second} {burst}");
                }
                let wait = limiter.check().unwrap_err();
                let wait = wait.wait_time_from(DefaultClock::default().now()).as_secs_f64();
                assert!(wait <= secs && wait > secs - 1.0, "{per_second} {burst}: {wait}");
            }
        }
    }

    #[test]
    fn no_rate_is_too_high() {
        for per_second in [f64::INFINITY, f64::MAX] {
            let limiter = Quota { per_second, burst: 1 }.limiter();
            assert!(limiter.check().is_ok());
        }
    }
}
