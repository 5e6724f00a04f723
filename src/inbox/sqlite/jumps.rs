//! Jumps of the wall clock, while a process has the store and while none has.
//!
//! Ages and waits are counted in steady time: wall time at start plus monotonic time since. The store remembers until when
//! it was in use, so that a clock that was set meanwhile is noticed. How long ago something was that lies before a jump
//! nobody knows: its age begins with the jump, so that nothing young is given up or purged.

use std::sync::atomic::{AtomicI64, Ordering};

/// Wall and steady time may differ by this much without a jump, in milliseconds.
pub(super) const AGREE: i64 = 5 * 60 * 1000;
/// A store is seldom left alone for longer than this (ms): likelier the clock was set.
const STOP_MAX: i64 = 14 * 24 * 3600 * 1000;

/// What is known of jumps. Times are steady milliseconds.
#[derive(Debug)]
pub(super) struct Jumps {
    /// Wall minus steady time at the last commit.
    apart: AtomicI64,
    last: AtomicI64,
    set_back: i64,
}

/// Now, and from when on ages are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    pub(super) now: i64,
    pub(super) from: i64,
}

impl Jumps {
    /// A process starts at `now`; the store was in use until `alive_at` and knows of a jump at `last`.
    pub(super) fn starting(now: i64, alive_at: Option<i64>, last: Option<i64>) -> Self {
        let stopped = now.saturating_sub(alive_at.unwrap_or(now));
        let jumped = !(-AGREE..=STOP_MAX).contains(&stopped);
        Self {
            // The first commit finds the clocks together, and writes the jump down.
            apart: AtomicI64::new(if jumped { stopped } else { 0 }),
            last: AtomicI64::new(if jumped { now } else { last.unwrap_or(i64::MIN) }),
            set_back: if jumped { (-stopped).max(0) } else { 0 },
        }
    }

    /// By how much the clock was set back while no process had the store; else 0.
    pub(super) fn set_back(&self) -> i64 {
        self.set_back
    }

    /// When the clock jumped last.
    pub(super) fn last(&self) -> i64 {
        self.last.load(Ordering::Relaxed)
    }

    /// By how much the clock has jumped since the last commit, if it has.
    pub(super) fn since_last_commit(&self, wall: i64, steady: i64) -> Option<i64> {
        let apart = wall.saturating_sub(steady);
        let jumped = apart.saturating_sub(self.apart.load(Ordering::Relaxed));
        (jumped.saturating_abs() > AGREE).then_some(jumped)
    }

    /// A commit at this time is durable, and with it the jump that it found.
    pub(super) fn committed(&self, wall: i64, steady: i64, jumped: bool) {
        self.apart.store(wall.saturating_sub(steady), Ordering::Relaxed);
        if jumped {
            self.last.store(steady, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;
    const NOW: i64 = 20_000 * DAY;

    #[test]
    fn a_start_tells_a_stop_from_a_set_clock() {
        for (name, alive_at, set_back, jumped) in [
            ("a new store", None, 0, false),
            ("a restart", Some(NOW - 1000), 0, false),
            ("a long holiday", Some(NOW - 13 * DAY), 0, false),
            ("a year ahead", Some(NOW - 365 * DAY), 0, true),
            ("a clock that was a little fast", Some(NOW + 60_000), 0, false),
            ("an hour back", Some(NOW + DAY / 24), DAY / 24, true),
            ("a year back", Some(NOW + 365 * DAY), 365 * DAY, true),
        ] {
            let jumps = Jumps::starting(NOW, alive_at, Some(7));
            assert_eq!(jumps.set_back(), set_back, "{name}");
            assert_eq!(jumps.last(), if jumped { NOW } else { 7 }, "{name}");
            let found = jumps.since_last_commit(NOW, NOW).is_some();
            assert_eq!(found, jumped, "{name}: to be written down");
        }
    }

    #[test]
    fn a_jump_is_found_once_and_drift_never() {
        let jumps = Jumps::starting(NOW, None, None);
        for hour in 0..1000 {
            let steady = NOW + hour * DAY / 24;
            let wall = steady + hour * 1000;
            assert_eq!(jumps.since_last_commit(wall, steady), None, "drift");
            jumps.committed(wall, steady, false);
        }
        let (wall, steady) = (NOW + 400 * DAY, NOW + 42 * DAY);
        assert!(jumps.since_last_commit(wall, steady).is_some());
        assert!(
            jumps.since_last_commit(wall, steady).is_some(),
            "until it is written down"
        );
        jumps.committed(wall, steady, true);
        assert_eq!(jumps.since_last_commit(wall, steady), None);
        assert_eq!(jumps.last(), steady);
    }
}
