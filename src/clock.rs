//! Wall time behind a trait, so that tests set it instead of waiting for it.
//!
//! Waits and deadlines run on the monotonic clock (`tokio::time`, `std::time::Instant`); wall time is for
//! display, retention, dedup windows and `until`. A request or an attempt looks at it once, when it begins: what is later is that,
//! and what has passed since ([`Moment`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Timestamp;

/// The wall clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// One look at both clocks. What follows within a request needs only one of them: a look costs as much as a small copy.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the monotonic clock.
    pub at: Instant,
    /// By the wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// Looks at both.
    pub fn now(clock: &dyn Clock) -> Self {
        Self {
            at: Instant::now(),
            wall: clock.now(),
        }
    }

    /// Both clocks at `later`.
    pub fn later(self, later: Instant) -> Self {
        Self {
            at: later,
            wall: self.wall_at(later),
        }
    }

    /// The wall time at `later`, to the nearest millisecond; this moment's where `later` is earlier. A wall clock that is set in
    /// between is not seen.
    pub fn wall_at(self, later: Instant) -> Timestamp {
        let passed = later.saturating_duration_since(self.at) + Duration::from_micros(500);
        let millis = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.wall.0.saturating_add(millis))
    }
}

/// A clock that shows what it was set to; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts at `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Sets the time, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the time by `millis`.
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_time_of_a_later_instant_is_that_of_the_moment_and_what_has_passed() {
        let moment = Moment::now(&ManualClock::new(Timestamp(1000)));
        for (micros, wall) in [
            (0, 1000),
            (499, 1000),
            (500, 1001),
            (1499, 1001),
            (2_000_000, 3000),
        ] {
            let later = moment.at + Duration::from_micros(micros);
            assert_eq!(moment.wall_at(later), Timestamp(wall), "{micros}");
        }
        let earlier = Moment {
            at: moment.at + Duration::from_secs(1),
            ..moment
        };
        assert_eq!(earlier.wall_at(moment.at), Timestamp(1000));
        let later = moment.later(earlier.at);
        assert_eq!((later.at, later.wall), (earlier.at, Timestamp(2000)));
    }
}
