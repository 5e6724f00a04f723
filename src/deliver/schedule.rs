//! How long to wait before the next attempt, and when there is none. Pure: time and chance are arguments.

use std::fmt;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;

use super::RetryPlan;
use crate::event::Timestamp;

/// Full jitter may draw next to nothing; this much is always waited (or the undrawn wait, where that is shorter),
/// so that an app that fails fast is not asked again at once.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Beyond this power every sensible plan has reached its longest wait.
const POWER_MAX: i32 = 1000;

/// Which cap was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    Attempts(u32),
    Age(Duration),
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempts(attempts) => write!(f, "{attempts} attempts"),
            Self::Age(age) if age.as_secs() >= 3600 => write!(f, "{}h old", age.as_secs() / 3600),
            Self::Age(age) => write!(f, "{}s old", age.as_secs()),
        }
    }
}

/// Whether a delivery that has failed `attempts` times, the last time at `age`, is given up.
pub(super) fn spent(plan: &RetryPlan, attempts: u32, age: Duration) -> Option<Spent> {
    if plan.attempts_max.is_some_and(|cap| attempts >= cap) {
        Some(Spent::Attempts(attempts))
    } else if age >= plan.age_max {
        Some(Spent::Age(age))
    } else {
        None
    }
}

/// The wait after failed attempt number `attempts` (from 1): drawn by `draw` in `0.0..1.0`, or what the app asked for
/// if that is longer; at most `wait_max`.
pub(super) fn wait(plan: &RetryPlan, attempts: u32, asked: Option<Duration>, draw: f64) -> Duration {
    let whole = backoff(plan, attempts);
    let least = whole
        .mul_f64((1.0 - plan.jitter).clamp(0.0, 1.0))
        .max(WAIT_MIN.min(whole));
    let drawn = least + (whole - least).mul_f64(draw.clamp(0.0, 1.0));
    drawn.max(asked.unwrap_or_default()).min(plan.wait_max)
}

/// The undrawn wait: `first * factor ^ (attempts - 1)`, at most `wait_max`.
fn backoff(plan: &RetryPlan, attempts: u32) -> Duration {
    let power = i32::try_from(attempts.saturating_sub(1)).map_or(POWER_MAX, |power| power.min(POWER_MAX));
    let secs = plan.first.as_secs_f64() * plan.factor.powi(power);
    // Infinite, NaN or negative: no plan that config lets through gets there in few attempts.
    Duration::try_from_secs_f64(secs).map_or(plan.wait_max, |wait| wait.min(plan.wait_max))
}

/// Reads a `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3 and 5.6.7); `None` when it is neither.
///
/// A date in the past is no wait.
pub(super) fn retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_ascii();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds mean "very long", and the plan caps it.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = http_date(text)?;
    Some(Duration::from_millis(at.millis_since(now)))
}

/// The present form, and the two obsolete ones that a recipient must still take.
fn http_date(text: &str) -> Option<Timestamp> {
    let obsolete = |form| {
        DateTime::strptime(form, text)
            .and_then(|time| time.to_zoned(TimeZone::UTC))
            .map(|time| time.timestamp())
    };
    DateTimeParser::new()
        .parse_timestamp(text)
        .or_else(|_| obsolete("%A, %d-%b-%y %H:%M:%S GMT"))
        .or_else(|_| obsolete("%a %b %e %H:%M:%S %Y"))
        .ok()
        .map(|time| Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_default_plan_doubles_to_an_hour() {
        let plan = RetryPlan {
            jitter: 0.0,
            ..RetryPlan::default()
        };
        for (attempts, expected) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (12, 2048),
            (13, 3600),
            (14, 3600),
            (u32::MAX, 3600),
        ] {
            assert_eq!(wait(&plan, attempts, None, 0.3), secs(expected), "{attempts}");
        }
    }

    #[test]
    fn jitter_draws_from_its_span() {
        let full = RetryPlan::default();
        let half = RetryPlan { jitter: 0.5, ..full };
        let quick = RetryPlan {
            first: Duration::from_millis(20),
            ..full
        };
        for (name, plan, attempts, asked, draw, millis) in [
            ("full, lowest", full, 4, None, 0.0, 100),
            ("full, highest", full, 4, None, 1.0, 8000),
            ("half, lowest", half, 4, None, 0.0, 4000),
            ("half, highest", half, 4, None, 1.0, 8000),
            ("a plan quicker than the floor", quick, 1, None, 0.0, 20),
            ("the app asks for more", full, 1, Some(secs(30)), 1.0, 30_000),
            ("the app asks for less", full, 4, Some(secs(3)), 1.0, 8000),
            (
                "the app asks for too much",
                full,
                1,
                Some(Duration::MAX),
                0.0,
                3_600_000,
            ),
        ] {
            assert_eq!(
                wait(&plan, attempts, asked, draw),
                Duration::from_millis(millis),
                "{name}"
            );
        }
    }

    #[test]
    fn retry_after_forms() {
        // RFC 9110, 5.6.7: its three spellings of one moment.
        let now = Timestamp(784_111_777_000);
        for (name, text, expected) in [
            ("seconds", "120", Some(secs(120))),
            ("blanks around", "  7 ", Some(secs(7))),
            ("zero", "0", Some(secs(0))),
            ("too many digits", "99999999999999999999999", Some(secs(u64::MAX))),
            (
                "the moment itself",
                "Sun, 06 Nov 1994 08:49:37 GMT",
                Some(secs(0)),
            ),
            ("later", "Sun, 06 Nov 1994 08:50:37 GMT", Some(secs(60))),
            ("RFC 850", "Sunday, 06-Nov-94 08:50:37 GMT", Some(secs(60))),
            ("asctime", "Sun Nov  6 08:50:37 1994", Some(secs(60))),
            ("past", "Sun, 06 Nov 1994 08:00:00 GMT", Some(secs(0))),
            ("negative", "-1", None),
            ("a fraction", "1.5", None),
            ("empty", "", None),
            ("words", "soon", None),
        ] {
            assert_eq!(retry_after(text.as_bytes(), now), expected, "{name}");
        }
        assert_eq!(retry_after(b"\xff", now), None);
    }

    #[test]
    fn caps() {
        let plan = RetryPlan {
            attempts_max: Some(3),
            age_max: secs(7200),
            ..RetryPlan::default()
        };
        for (name, attempts, age, expected) in [
            ("neither", 2, secs(7199), None),
            ("attempts", 3, secs(0), Some("3 attempts")),
            ("age", 1, secs(7200), Some("2h old")),
            ("both", 4, secs(9000), Some("4 attempts")),
        ] {
            let text = spent(&plan, attempts, age).map(|cap| cap.to_string());
            assert_eq!(text.as_deref(), expected, "{name}");
        }
        assert_eq!(spent(&RetryPlan::default(), u32::MAX, secs(0)), None);
        let hasty = RetryPlan {
            age_max: secs(59),
            ..RetryPlan::default()
        };
        assert_eq!(spent(&hasty, 1, secs(60)).unwrap().to_string(), "60s old");
    }

    /// Every plan that the configuration lets through.
    fn plans() -> impl Strategy<Value = RetryPlan> {
        let millis = |from: u64, to: u64| (from..=to).prop_map(Duration::from_millis);
        let spans = (
            millis(10, 86_400_000),
            0.0_f64..=1.0,
            millis(1000, 3650 * 86_400_000),
        );
        let caps = (
            1.0_f64..=100.0,
            0.0_f64..=1.0,
            proptest::option::of(1_u32..=1_000_000),
        );
        (spans, caps).prop_map(
            |((wait_max, part, age_max), (factor, jitter, attempts_max))| RetryPlan {
                first: wait_max
                    .mul_f64(part)
                    .clamp(Duration::from_millis(10), secs(3600))
                    .min(wait_max),
                factor,
                wait_max,
                jitter,
                age_max,
                attempts_max,
            },
        )
    }

    proptest! {
        #[test]
        fn a_wait_keeps_its_bounds(
            first_ms in 0_u64..100_000,
            factor in 0.0_f64..20.0,
            max_ms in 0_u64..10_000_000,
            jitter in 0.0_f64..=1.0,
            attempts: u32,
            asked_secs in proptest::option::of(any::<u64>()),
            draw in 0.0_f64..1.0,
        ) {
            let plan = RetryPlan {
                first: Duration::from_millis(first_ms),
                factor,
                wait_max: Duration::from_millis(max_ms),
                jitter,
                ..RetryPlan::default()
            };
            let asked = asked_secs.map(Duration::from_secs);
            let got = wait(&plan, attempts, asked, draw);
            prop_assert!(got <= plan.wait_max);
            prop_assert!(got >= asked.unwrap_or_default().min(plan.wait_max));
            let own = wait(&plan, attempts, None, draw);
            let whole = backoff(&plan, attempts);
            prop_assert!(own <= whole && whole <= plan.wait_max);
            prop_assert!(own >= WAIT_MIN.min(whole));
            // A hair of rounding is allowed below the span.
            prop_assert!(own + Duration::from_nanos(2) >= whole.mul_f64(1.0 - jitter));
        }

        #[test]
        fn more_failures_and_worse_luck_never_wait_less(
            plan in plans(),
            attempts in 0_u32..200,
            more in 1_u32..200,
            asked in proptest::option::of(0_u64..100_000),
            draw in 0.0_f64..1.0,
            luck in 0.0_f64..1.0,
        ) {
            let asked = asked.map(secs);
            let base = wait(&plan, attempts, asked, draw);
            // A hair of rounding is allowed.
            let hair = Duration::from_nanos(2);
            prop_assert!(wait(&plan, attempts + more, asked, draw) + hair >= base);
            prop_assert!(wait(&plan, attempts, asked, draw.max(luck)) + hair >= base);
            prop_assert!(base >= wait(&plan, attempts, None, draw));
        }

        #[test]
        fn no_plan_of_the_configuration_overflows(plan in plans(), attempts: u32, asked: Option<u64>, draw in 0.0_f64..1.0) {
            let got = wait(&plan, attempts, asked.map(secs), draw);
            prop_assert!(got <= plan.wait_max && got >= Duration::from_millis(10).min(plan.wait_max));
            // From the highest power on it is the longest wait, undrawn.
            let flat = RetryPlan { jitter: 0.0, factor: plan.factor.max(1.1), ..plan };
            prop_assert_eq!(wait(&flat, u32::MAX, None, draw), plan.wait_max);
        }

        #[test]
        fn what_is_spent_stays_spent(plan in plans(), attempts: u32, age in 0..u64::MAX / 2, more: u32, longer in 0..u64::MAX / 2) {
            let before = spent(&plan, attempts, secs(age));
            let after = spent(&plan, attempts.saturating_add(more), secs(age + longer));
            prop_assert!(before.is_none() || after.is_some());
            let capped = plan.attempts_max.is_some_and(|cap| attempts >= cap);
            prop_assert_eq!(before.is_some(), capped || secs(age) >= plan.age_max);
        }

        #[test]
        fn a_retry_after_is_read_or_is_nothing(value: Vec<u8>, now: i64) {
            if let Some(asked) = retry_after(&value, Timestamp(now)) {
                let capped = wait(&RetryPlan::default(), 1, Some(asked), 0.0);
                prop_assert!(capped <= RetryPlan::default().wait_max);
            }
        }

        #[test]
        fn a_date_asks_for_what_lies_between(now in 0_i64..4_000_000_000, ahead in -1_000_000_i64..1_000_000) {
            let at = jiff::Timestamp::from_second(now + ahead).unwrap();
            let text = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let asked = retry_after(text.as_bytes(), Timestamp(now * 1000));
            prop_assert_eq!(asked, Some(secs(ahead.max(0).cast_unsigned())));
        }
    }
}
