//! What an answer, or none, means: for the delivery and for the breaker. The only reader of the app's statuses.

use std::time::Duration;

use super::RetryPlan;
use super::attempt::AttemptError;
use super::breaker::Sign;
use super::schedule;
use crate::clock::Clock;
use crate::inbox::Outcome;
use crate::upstream::Answer;

/// Bytes of an error text that is kept.
const ERROR_BYTES_MAX: usize = 200;

/// What the judgement rests on besides the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) plan: &'a RetryPlan,
    /// Attempts made, this one included.
    pub(super) attempts: u32,
    /// Of the delivery, when the attempt was made.
    pub(super) age: Duration,
    /// For a `Retry-After` that is a date.
    pub(super) clock: &'a dyn Clock,
    /// Chance, in `0.0..1.0`.
    pub(super) draw: f64,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) sign: Sign,
}

/// 2xx is delivered and 410 is dead at once. Anything else is tried again, unless a cap was passed.
pub(super) fn judge(result: &Result<Answer, AttemptError>, at: Circumstances<'_>) -> Verdict {
    let sign = match result {
        Ok(answer) if answer.status == 429 || answer.status >= 500 => Sign::Failing,
        Ok(_) => Sign::Answering,
        Err(AttemptError::Call(error)) if error.is_unreached() => Sign::Away,
        Err(AttemptError::Call(_)) => Sign::Failing,
        Err(AttemptError::Panicked) => Sign::Unclear,
    };
    let outcome = match result {
        Ok(answer) if (200..300).contains(&answer.status) => Outcome::Delivered {
            status: answer.status,
        },
        Ok(answer) if answer.status == 410 => Outcome::Dead {
            status: Some(410),
            error: "status 410: the app wants it no more".into(),
        },
        Ok(answer) => {
            let asked = answer
                .header("retry-after")
                .and_then(|value| schedule::retry_after(value, at.clock.now()));
            failed(
                Some(answer.status),
                &format!("status {}", answer.status),
                asked,
                at,
            )
        }
        Err(error) => failed(None, &error.to_string(), None, at),
    };
    Verdict { outcome, sign }
}

fn failed(status: Option<u16>, what: &str, asked: Option<Duration>, at: Circumstances<'_>) -> Outcome {
    match schedule::spent(at.plan, at.attempts, at.age) {
        Some(cap) => {
            let suffix = format!("; gave up: {cap}");
            let mut error = short(what, ERROR_BYTES_MAX.saturating_sub(suffix.len()));
            error.push_str(&suffix);
            Outcome::Dead {
                status,
                error: short(&error, ERROR_BYTES_MAX).into(),
            }
        }
        None => Outcome::Retry {
            wait: at.plan.wait(at.attempts, asked, at.draw),
            status,
            error: short(what, ERROR_BYTES_MAX).into(),
        },
    }
}

/// At most `bytes_max` bytes of `text`, whole characters, on one line.
fn short(text: &str, bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        let shown = if character.is_control() { ' ' } else { character };
        if out.len() + shown.len_utf8() > bytes_max {
            break;
        }
        out.push(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::event::Timestamp;
    use crate::upstream::CallError;
    use bytes::Bytes;

    static CLOCK: ManualClock = ManualClock::new(Timestamp(784_111_777_000));

    const PLAN: RetryPlan = RetryPlan {
        first: Duration::from_secs(1),
        factor: 2.0,
        wait_max: Duration::from_secs(3600),
        jitter: 0.0,
        age_max: Duration::from_secs(72 * 3600),
        attempts_max: Some(5),
    };

    fn answer(status: u16, retry_after: Option<&'static str>) -> Result<Answer, AttemptError> {
        let headers = retry_after
            .map(|value| {
                (
                    Bytes::from_static(b"retry-AFTER"),
                    Bytes::from_static(value.as_bytes()),
                )
            })
            .into_iter()
            .collect();
        Ok(Answer {
            status,
            headers,
            body: Bytes::new(),
            at: tokio::time::Instant::now(),
        })
    }

    fn at(attempts: u32, age_secs: u64) -> Circumstances<'static> {
        Circumstances {
            plan: &PLAN,
            attempts,
            age: Duration::from_secs(age_secs),
            clock: &CLOCK,
            draw: 0.5,
        }
    }

    fn retry(wait_secs: u64, status: u16) -> Outcome {
        Outcome::Retry {
            wait: Duration::from_secs(wait_secs),
            status: Some(status),
            error: format!("status {status}").into(),
        }
    }

    #[test]
    fn answers() {
        const DAYS_3: u64 = 72 * 3600;
        let dead = |status, error: &str| Outcome::Dead {
            status: Some(status),
            error: error.into(),
        };
        use Sign::{Answering, Failing};
        for (name, status, retry_after, attempts, age, outcome, sign) in [
            (
                "200",
                200,
                None,
                1,
                0,
                Outcome::Delivered { status: 200 },
                Answering,
            ),
            (
                "204 at every cap",
                204,
                None,
                5,
                DAYS_3,
                Outcome::Delivered { status: 204 },
                Answering,
            ),
            (
                "299",
                299,
                Some("60"),
                1,
                0,
                Outcome::Delivered { status: 299 },
                Answering,
            ),
            (
                "a redirect is not followed",
                302,
                None,
                1,
                0,
                retry(1, 302),
                Answering,
            ),
            ("304 is no 2xx", 304, None, 1, 0, retry(1, 304), Answering),
            ("404", 404, None, 2, 0, retry(2, 404), Answering),
            (
                "410",
                410,
                None,
                1,
                0,
                dead(410, "status 410: the app wants it no more"),
                Answering,
            ),
            ("429", 429, None, 1, 0, retry(1, 429), Failing),
            ("429, later", 429, Some("120"), 1, 0, retry(120, 429), Failing),
            (
                "503, sooner than ours",
                503,
                Some("1"),
                4,
                0,
                retry(8, 503),
                Failing,
            ),
            (
                "503, beyond the cap",
                503,
                Some("86400"),
                1,
                0,
                retry(3600, 503),
                Failing,
            ),
            (
                "503, a date",
                503,
                Some("Sun, 06 Nov 1994 08:49:57 GMT"),
                1,
                0,
                retry(20, 503),
                Failing,
            ),
            (
                "a redirect with a wait",
                307,
                Some("9"),
                1,
                0,
                retry(9, 307),
                Answering,
            ),
            ("one attempt left", 500, None, 4, 0, retry(8, 500), Failing),
            (
                "none left",
                500,
                None,
                5,
                0,
                dead(500, "status 500; gave up: 5 attempts"),
                Failing,
            ),
            (
                "just young enough",
                500,
                None,
                1,
                DAYS_3 - 1,
                retry(1, 500),
                Failing,
            ),
            (
                "too old",
                400,
                None,
                1,
                DAYS_3,
                dead(400, "status 400; gave up: 72h old"),
                Answering,
            ),
        ] {
            let verdict = judge(&answer(status, retry_after), at(attempts, age));
            assert_eq!(verdict, Verdict { outcome, sign }, "{name}");
        }
    }

    #[test]
    fn errors_are_tried_again_and_their_text_is_short() {
        let timeout = CallError::Timeout {
            phase: "answer",
            after: Duration::from_secs(30),
        };
        let verdict = judge(&Err(timeout.clone().into()), at(1, 0));
        assert_eq!(verdict.sign, Sign::Failing);
        assert_eq!(
            verdict.outcome,
            Outcome::Retry {
                wait: Duration::from_secs(1),
                status: None,
                error: timeout.to_string().into()
            }
        );
        let verdict = judge(&Err(AttemptError::Panicked), at(1, 0));
        assert_eq!(verdict.sign, Sign::Unclear);

        let long = CallError::Connect {
            authority: "app:3000".into(),
            reason: "é\n".repeat(300).into(),
        };
        for attempts in [1, 5] {
            let verdict = judge(&Err(long.clone().into()), at(attempts, 0));
            assert_eq!(verdict.sign, Sign::Away);
            let (Outcome::Retry { error, .. } | Outcome::Dead { error, .. }) = verdict.outcome else {
                panic!("neither retry nor dead");
            };
            assert!(
                error.len() <= ERROR_BYTES_MAX && error.len() > 190,
                "{}",
                error.len()
            );
            assert!(!error.contains('\n'));
            assert_eq!(error.ends_with("gave up: 5 attempts"), attempts == 5);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, bytes_max, expected) in [
            ("fits", 4, "fits"),
            ("fits not", 4, "fits"),
            ("h\u{e9}", 3, "h\u{e9}"),
            ("h\u{e9}", 2, "h"),
            ("two\r\nlines", 99, "two  lines"),
            ("", 0, ""),
        ] {
            assert_eq!(short(text, bytes_max), expected);
        }
    }
}
