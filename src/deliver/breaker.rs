//! Whether the app is down. A pure state machine: time and chance are arguments.
//!
//! Closed, everything passes. [`FAILURES_TO_OPEN`] failures in a row open it: then one probe at a time passes, at
//! growing intervals, so that events do not spend their attempts on an app that is away. Any sign of life closes it.
//!
//! An app that chokes on one event is not away: where it was reached, an event counts once in a row of failures.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::Seq;

/// Transport errors, timeouts, 5xx and 429 in a row that open it.
const FAILURES_TO_OPEN: u32 = 5;
/// The wait before the first probe; it doubles with every failed one.
const PROBE_WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between probes.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);

/// What an attempt says about the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers, with whatever it thinks of the event.
    Answering,
    /// It was reached, and gave no answer, 5xx or 429. That may be the event's fault.
    Failing,
    /// It was not reached, whatever the event.
    Away,
    /// Nothing: the attempt failed on our side.
    Unclear,
}

/// Whether an attempt may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Yes.
    Pass,
    /// One, as a probe: announce it with [`Breaker::probe_begun`].
    Probe,
    /// Not before this time.
    Shut(Instant),
    /// Not before the probe under way has ended.
    Probing,
}

/// What [`Breaker::ended`] changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

#[derive(Debug)]
pub(super) struct Breaker(State);

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        /// The events among them that the app was reached with.
        failed: Vec<Seq>,
    },
    Open {
        /// Before jitter.
        wait: Duration,
        probe_at: Instant,
        probing: bool,
    },
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self(State::closed())
    }

    pub(super) fn gate(&self, now: Instant) -> Gate {
        match self.0 {
            State::Closed { .. } => Gate::Pass,
            State::Open { probing: true, .. } => Gate::Probing,
            State::Open { probe_at, .. } if now < probe_at => Gate::Shut(probe_at),
            State::Open { .. } => Gate::Probe,
        }
    }

    /// A probe is under way; [`Breaker::ended`] or [`Breaker::probe_lost`] must follow.
    pub(super) fn probe_begun(&mut self) {
        if let State::Open { probing, .. } = &mut self.0 {
            *probing = true;
        }
    }

    /// The probe under way, if any, will bring no result.
    pub(super) fn probe_lost(&mut self, now: Instant) {
        if let State::Open {
            wait,
            probe_at,
            probing: probing @ true,
        } = &mut self.0
        {
            *probing = false;
            *probe_at = now + *wait;
        }
    }

    /// An attempt with `event` ended at `now`; `draw` in `0.0..1.0` spreads the probes of many lanes.
    pub(super) fn ended(
        &mut self,
        sign: Sign,
        event: Seq,
        was_probe: bool,
        now: Instant,
        draw: f64,
    ) -> Option<Change> {
        match (&mut self.0, sign) {
            (State::Closed { failures, failed }, Sign::Answering) => {
                *failures = 0;
                failed.clear();
                None
            }
            (State::Closed { failures, failed }, Sign::Failing | Sign::Away) => {
                if sign == Sign::Failing {
                    if failed.contains(&event) {
                        return None;
                    }
                    failed.push(event);
                }
                *failures += 1;
                if *failures < FAILURES_TO_OPEN {
                    return None;
                }
                self.0 = State::Open {
                    wait: PROBE_WAIT_FIRST,
                    probe_at: now + jittered(PROBE_WAIT_FIRST, draw),
                    probing: false,
                };
                Some(Change::Opened)
            }
            // Also from an attempt that began before it opened.
            (State::Open { .. }, Sign::Answering) => {
                self.0 = State::closed();
                Some(Change::Closed)
            }
            (
                State::Open {
                    wait,
                    probe_at,
                    probing,
                },
                Sign::Failing | Sign::Away,
            ) if was_probe => {
                *wait = (*wait * 2).min(PROBE_WAIT_MAX);
                *probe_at = now + jittered(*wait, draw);
                *probing = false;
                None
            }
            (State::Open { .. }, Sign::Unclear) if was_probe => {
                self.probe_lost(now);
                None
            }
            // Attempts that began before it opened say nothing new.
            (State::Open { .. }, _) | (State::Closed { .. }, Sign::Unclear) => None,
        }
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed {
            failures: 0,
            failed: Vec::new(),
        }
    }
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration, draw: f64) -> Duration {
    wait.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::Sign::{Answering, Away, Failing, Unclear};
    use super::*;
    use proptest::prelude::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for event in 1..5 {
            assert_eq!(breaker.ended(Failing, Seq(event), false, now, 1.0), None);
            assert_eq!(breaker.gate(now), Gate::Pass);
        }
        let change = breaker.ended(Failing, Seq(5), false, now, 1.0);
        assert_eq!(change, Some(Change::Opened));
        breaker
    }

    #[tokio::test]
    async fn five_failures_in_a_row_open_it() {
        let now = Instant::now();
        let breaker = opened(now);
        assert_eq!(breaker.gate(now), Gate::Shut(now + PROBE_WAIT_FIRST));
        assert_eq!(breaker.gate(now + PROBE_WAIT_FIRST), Gate::Probe);
    }

    #[tokio::test]
    async fn one_event_alone_does_not_open_it_unless_the_app_is_not_reached() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            for event in 1..5 {
                assert_eq!(breaker.ended(Failing, Seq(event), false, now, 1.0), None);
            }
        }
        assert_eq!(
            breaker.ended(Failing, Seq(5), false, now, 1.0),
            Some(Change::Opened)
        );
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            assert_eq!(breaker.ended(Away, Seq(1), false, now, 1.0), None);
        }
        assert_eq!(breaker.ended(Away, Seq(1), false, now, 1.0), Some(Change::Opened));
    }

    #[tokio::test]
    async fn an_answer_between_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            for (event, sign) in (0..).zip([Failing, Failing, Away, Unclear, Failing, Answering]) {
                assert_eq!(breaker.ended(sign, Seq(event), false, now, 1.0), None);
            }
        }
        assert_eq!(breaker.gate(now), Gate::Pass);
    }

    #[tokio::test]
    async fn probes_pass_singly_and_at_growing_intervals() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        now += PROBE_WAIT_FIRST;
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker.gate(now), Gate::Probe);
            breaker.probe_begun();
            assert_eq!(breaker.gate(now), Gate::Probing);
            // A straggler's failure, or its loss, neither ends the probe nor lengthens the wait.
            for sign in [Failing, Unclear] {
                assert_eq!(breaker.ended(sign, Seq(1), false, now, 1.0), None);
                assert_eq!(breaker.gate(now), Gate::Probing);
            }
            assert_eq!(breaker.ended(Failing, Seq(9), true, now, 1.0), None);
            let next = now + Duration::from_secs(wait);
            assert_eq!(breaker.gate(now), Gate::Shut(next));
            now = next;
        }
        breaker.probe_begun();
        assert_eq!(
            breaker.ended(Answering, Seq(9), true, now, 1.0),
            Some(Change::Closed)
        );
        assert_eq!(breaker.gate(now), Gate::Pass);
        // Closed for good: it takes five new failures.
        for event in 0..4 {
            assert_eq!(breaker.ended(Failing, Seq(event), false, now, 1.0), None);
        }
        let change = breaker.ended(Failing, Seq(4), false, now, 0.0);
        assert_eq!(change, Some(Change::Opened));
        assert_eq!(breaker.gate(now), Gate::Shut(now + PROBE_WAIT_FIRST / 2));
    }

    #[tokio::test]
    async fn a_straggler_that_is_answered_closes_it_while_a_probe_is_under_way() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.probe_begun();
        assert_eq!(
            breaker.ended(Answering, Seq(9), false, now, 1.0),
            Some(Change::Closed)
        );
        // The probe's own failure then counts as any other.
        assert_eq!(breaker.ended(Failing, Seq(9), true, now, 1.0), None);
        assert_eq!(breaker.gate(now), Gate::Pass);
    }

    #[tokio::test]
    async fn a_lost_probe_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + PROBE_WAIT_FIRST;
        for lose in [
            (|breaker: &mut Breaker, at| breaker.probe_lost(at)) as fn(&mut Breaker, Instant),
            |breaker, at| assert_eq!(breaker.ended(Unclear, Seq(9), true, at, 1.0), None),
        ] {
            breaker.probe_begun();
            lose(&mut breaker, due);
            assert_eq!(breaker.gate(due), Gate::Shut(due + PROBE_WAIT_FIRST));
        }
        let before = format!("{breaker:?}");
        breaker.probe_lost(due);
        assert_eq!(format!("{breaker:?}"), before, "no probe, nothing lost");
    }

    proptest! {
        /// Whatever happens: never two probes at once, never shut for longer than the longest wait, opened only by five
        /// failures in a row, and any answer closes it.
        #[test]
        fn it_keeps_its_rules(steps in proptest::collection::vec((0..5_u8, 0_i64..8, 0_u64..90_000, 0.0..1.0), 1..300)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new();
            let (mut probing, mut in_a_row, mut failed) = (false, 0, std::collections::HashSet::new());
            for (step, event, millis, draw) in steps {
                now += Duration::from_millis(millis);
                let before = breaker.gate(now);
                if before == Gate::Probe {
                    prop_assert!(!probing);
                    breaker.probe_begun();
                    probing = true;
                }
                if let Gate::Shut(until) = before {
                    prop_assert!(until <= now + PROBE_WAIT_MAX);
                }
                let sign = match step {
                    0 => Answering,
                    1 => Unclear,
                    2 => Away,
                    _ => Failing,
                };
                let was_probe = std::mem::take(&mut probing);
                let change = breaker.ended(sign, Seq(event), was_probe, now, draw);
                let was_open = before != Gate::Pass;
                let before = in_a_row;
                in_a_row = match sign {
                    Answering => 0,
                    Away if !was_open => in_a_row + 1,
                    Failing if !was_open && failed.insert(event) => in_a_row + 1,
                    _ => in_a_row,
                };
                if sign == Answering {
                    failed.clear();
                }
                let expected = match sign {
                    _ if in_a_row > before && in_a_row == FAILURES_TO_OPEN => Some(Change::Opened),
                    Answering if was_open => Some(Change::Closed),
                    _ => None,
                };
                prop_assert_eq!(change, expected);
                prop_assert!(breaker.gate(now) != Gate::Probing);
                prop_assert_eq!(breaker.gate(now) == Gate::Pass, in_a_row < FAILURES_TO_OPEN);
            }
        }
    }
}
