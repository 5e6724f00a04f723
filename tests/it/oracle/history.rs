//! What the app was handed of one event, and why it was handed it again.

use std::time::{Duration, Instant};

/// The number of one life of the gateway, from its start to its end.
pub(super) type Life = usize;

/// A delivered mark is on disk this long after the app's answer, also on a machine that is busy.
const MARK_WAIT_MAX: Duration = Duration::from_secs(2);
/// The gateway waits this long for the app's answer.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Killed, cut, or ended by a failed sync: marks under way are lost.
    Crash(Instant),
    /// Drained, exit 0: every answer that was read has its mark.
    Drained,
}

/// What the app did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    /// Took the event and answered 200.
    Took,
    /// Took the event, and closed the connection instead of answering.
    TookSilently,
    /// Refused with an error, or closed the connection.
    Refused,
    /// Never answered.
    Held,
}

/// One request for an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) life: Life,
    /// What the gateway said.
    pub(super) number: u32,
    pub(super) at: Instant,
    pub(super) did: Did,
}

impl Attempt {
    pub(super) fn took(&self) -> bool {
        matches!(self.did, Did::Took | Did::TookSilently)
    }
}

/// Why there was another attempt after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The one before failed, or its answer never came.
    Failed,
    /// The one before was answered, and its mark went with a crash so long after.
    MarkLost(Duration),
}

/// How often the app took an event again, by the reason, or what cannot be explained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Repeats {
    pub(super) failed: usize,
    pub(super) mark_lost: usize,
    /// The longest time from an answer to the crash that took its mark.
    pub(super) mark_wait_max: Duration,
}

impl Repeats {
    pub(super) fn add(&mut self, other: Self) {
        self.failed += other.failed;
        self.mark_lost += other.mark_lost;
        self.mark_wait_max = self.mark_wait_max.max(other.mark_wait_max);
    }
}

/// Looks for the reason of every attempt but the first. `end` tells how a life ended; `None`: it has not.
pub(super) fn explain(attempts: &[Attempt], end: impl Fn(Life) -> Option<End>) -> Result<Repeats, String> {
    let mut attempts = attempts.to_vec();
    // What a killed gateway had sent may be read after its successor's.
    attempts.sort_by_key(|attempt| (attempt.life, attempt.at));
    let mut repeats = Repeats::default();
    let mut taken = false;
    for pair in attempts.windows(2) {
        let [before, after] = pair else { continue };
        let reason = reason(before, after, end(before.life))?;
        taken |= before.took();
        if taken && after.took() {
            match reason {
                Reason::Failed => repeats.failed += 1,
                Reason::MarkLost(wait) => {
                    repeats.mark_lost += 1;
                    repeats.mark_wait_max = repeats.mark_wait_max.max(wait);
                }
            }
        }
    }
    Ok(repeats)
}

fn reason(before: &Attempt, after: &Attempt, end: Option<End>) -> Result<Reason, String> {
    let same_life = before.life == after.life;
    // The count of failed attempts may be lost with a crash. An attempt the app never read leaves a gap.
    if same_life && after.number < before.number {
        return Err(format!(
            "attempt {} follows attempt {}",
            after.number, before.number
        ));
    }
    match (before.did, end) {
        (Did::Refused | Did::TookSilently, _) => Ok(Reason::Failed),
        (Did::Held, _) if !same_life => Ok(Reason::Failed),
        (Did::Held, _) if after.at.duration_since(before.at) >= ATTEMPT_TIMEOUT => Ok(Reason::Failed),
        (Did::Held, _) => Err("sent again while the app still held it".to_owned()),
        (Did::Took, _) if same_life => Err("sent again in the same life after it was taken".to_owned()),
        (Did::Took, Some(End::Crash(at))) => {
            let waited = at.saturating_duration_since(before.at);
            if waited <= MARK_WAIT_MAX {
                Ok(Reason::MarkLost(waited))
            } else {
                Err(format!(
                    "sent again although its mark had {waited:?} before the crash"
                ))
            }
        }
        (Did::Took, _) => Err("sent again after it was taken in a life that ended in order".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repeat_needs_a_reason() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let attempt = |life, number, seconds, did| Attempt {
            life,
            number,
            at: at(seconds),
            did,
        };
        let repeats = |failed, mark_lost| Some((failed, mark_lost));
        let (took, silent, refused, held) = (Did::Took, Did::TookSilently, Did::Refused, Did::Held);
        // Life 1 crashed at second 10, life 2 ended in order, life 3 goes on.
        let end = |life| match life {
            1 => Some(End::Crash(at(10))),
            2 => Some(End::Drained),
            _ => None,
        };
        for (name, attempts, expected) in [
            ("once", vec![attempt(1, 1, 0, took)], repeats(0, 0)),
            (
                "refused, then taken",
                vec![attempt(1, 1, 0, refused), attempt(1, 2, 1, took)],
                repeats(0, 0),
            ),
            (
                "taken without a word, then taken",
                vec![attempt(1, 1, 0, silent), attempt(1, 2, 1, took)],
                repeats(1, 0),
            ),
            (
                "taken without a word, refused, taken",
                vec![
                    attempt(1, 1, 0, silent),
                    attempt(1, 2, 1, refused),
                    attempt(1, 3, 2, took),
                ],
                repeats(1, 0),
            ),
            (
                "taken just before a crash",
                vec![attempt(1, 1, 9, took), attempt(3, 1, 11, took)],
                repeats(0, 1),
            ),
            (
                "read late, in the wrong order",
                vec![attempt(3, 1, 11, took), attempt(1, 1, 12, took)],
                repeats(0, 1),
            ),
            (
                "taken long before a crash",
                vec![attempt(1, 1, 1, took), attempt(3, 1, 11, took)],
                None,
            ),
            (
                "taken twice in one life",
                vec![attempt(3, 1, 1, took), attempt(3, 1, 2, took)],
                None,
            ),
            (
                "taken before an end in order",
                vec![attempt(2, 1, 9, took), attempt(3, 1, 11, took)],
                None,
            ),
            (
                "held over an end in order",
                vec![attempt(2, 1, 9, held), attempt(3, 1, 11, took)],
                repeats(0, 0),
            ),
            (
                "held, and sent again meanwhile",
                vec![attempt(3, 1, 1, held), attempt(3, 2, 5, took)],
                None,
            ),
            (
                "held for too long",
                vec![attempt(3, 1, 1, held), attempt(3, 2, 17, took)],
                repeats(0, 0),
            ),
            (
                "a number that goes back",
                vec![attempt(1, 2, 0, refused), attempt(1, 1, 1, took)],
                None,
            ),
            (
                "a number again after a crash",
                vec![attempt(1, 1, 9, refused), attempt(3, 1, 11, took)],
                repeats(0, 0),
            ),
        ] {
            let got = explain(&attempts, end);
            let counted = got.as_ref().ok().map(|got| (got.failed, got.mark_lost));
            assert_eq!(counted, expected, "{name}: {got:?}");
        }
    }
}
