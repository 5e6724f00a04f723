//! Lets so many log lines a second through and counts the rest.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bound on lines. Cheap enough to ask for every request.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The second in the upper half, the lines let through in it in the lower.
    window: AtomicU64,
    held_back: AtomicU64,
}

impl Gate {
    /// Whether one more line may be written in the second `now_secs`, of which each has room for `lines_max`.
    pub(super) fn admit(&self, now_secs: u32, lines_max: u32) -> bool {
        let fresh = u64::from(now_secs) << 32;
        let admitted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                // Any other second opens a new window: a clock that steps back must not silence the log.
                let window = if window >> 32 == u64::from(now_secs) {
                    window
                } else {
                    fresh
                };
                (window - fresh < u64::from(lines_max)).then_some(window + 1)
            })
            .is_ok();
        if !admitted {
            self.held_back.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Lines held back since this was last asked.
    pub(super) fn take_held_back(&self) -> u64 {
        self.held_back.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_room() {
        let gate = Gate::default();
        let admitted = |second, asked: u32| (0..asked).filter(|_| gate.admit(second, 10)).count();
        assert_eq!(admitted(100, 25), 10);
        assert_eq!(admitted(100, 5), 0);
        assert_eq!(gate.take_held_back(), 20);
        assert_eq!(gate.take_held_back(), 0);
        assert_eq!(admitted(101, 9), 9);
        assert_eq!(gate.take_held_back(), 0);
        assert_eq!(admitted(99, 11), 10, "the clock stepped back");
        assert_eq!(gate.take_held_back(), 1);
    }

    #[test]
    fn no_room_means_no_lines() {
        let gate = Gate::default();
        assert!(!gate.admit(0, 0));
        assert_eq!(gate.take_held_back(), 1);
    }

    #[test]
    fn threads_share_the_room_exactly() {
        let gate = Gate::default();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| gate.admit(7, 100)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100);
        assert_eq!(gate.take_held_back(), 3900);
    }
}
