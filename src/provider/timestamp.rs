//! The time that a sender signs, and the window in which it is accepted.

use std::time::Duration;

use crate::event::Timestamp;

/// How far a signed time may be off where nothing else is said.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Where the signed time stands, and what it must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampRule {
    /// Where.
    pub source: TimestampSource,
    /// How it is written.
    pub unit: TimeUnit,
    /// How far it may be from now, in both directions.
    pub tolerance: Duration,
    /// False where the sender repeats old times; the time is signed all the same.
    pub enforce: bool,
}

/// Where the signed time stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampSource {
    /// In a header.
    Header(Box<str>),
    /// Under a tag of the signature header.
    Tag(Box<str>),
    /// It is the first item of the signature header.
    First,
    /// In the body.
    Json(Vec<Box<str>>),
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Millis,
    /// RFC 3339, with up to 9 digits of a second and any offset.
    Iso8601,
}

impl TimeUnit {
    /// Its name in presets and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Iso8601 => "iso8601",
        }
    }

    /// What it is in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Millis => "milliseconds",
            Self::Iso8601 => "RFC 3339",
        }
    }

    /// Reads a time; digits only, or one whole RFC 3339 text.
    pub(super) fn parse(self, text: &str) -> Option<Timestamp> {
        let digits = |max| {
            let plain = (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<i64>().ok())?
        };
        match self {
            Self::Seconds => digits(11)?.checked_mul(1000).map(Timestamp),
            Self::Millis => digits(14).map(Timestamp),
            Self::Iso8601 if text.len() <= 40 => {
                let time: jiff::Timestamp = match text.parse() {
                    Ok(time) => time,
                    // Orb leaves the zone out; what a server signs without one is in UTC.
                    Err(_) if text.contains('T') && !text.contains(['[', ' ']) => {
                        let civil: jiff::civil::DateTime = text.parse().ok()?;
                        civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
                    }
                    Err(_) => return None,
                };
                Some(Timestamp(time.as_millisecond()))
            }
            Self::Iso8601 => None,
        }
    }

    /// Writes a time.
    pub(super) fn write(self, time: Timestamp) -> String {
        match self {
            Self::Seconds => time.0.div_euclid(1000).to_string(),
            Self::Millis => time.0.to_string(),
            Self::Iso8601 => time.to_string(),
        }
    }
}

impl TimestampRule {
    /// Whether `text` is a time that is accepted at `now`; `None` where it is no time at all.
    pub(super) fn accepts(&self, text: &str, now: Timestamp) -> Option<bool> {
        let time = self.unit.parse(text)?;
        let off = time.0.abs_diff(now.0);
        Some(!self.enforce || u128::from(off) <= self.tolerance.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        for (unit, text, expected) in [
            (TimeUnit::Seconds, "1700000000", Some(1_700_000_000_000)),
            (TimeUnit::Seconds, "0", Some(0)),
            (TimeUnit::Seconds, "", None),
            (TimeUnit::Seconds, "+1700000000", None),
            (TimeUnit::Seconds, "-1", None),
            (TimeUnit::Seconds, " 1700000000", None),
            (TimeUnit::Seconds, "1700000000.5", None),
            (TimeUnit::Seconds, "1e9", None),
            (TimeUnit::Seconds, "170000000000", None),
            (TimeUnit::Seconds, "\u{661}", None),
            (TimeUnit::Millis, "1700000000123", Some(1_700_000_000_123)),
            (TimeUnit::Millis, "170000000012345", None),
            // Twitch.
            (
                TimeUnit::Iso8601,
                "2023-11-14T22:13:20.123456789Z",
                Some(1_700_000_000_123),
            ),
            // Box.
            (
                TimeUnit::Iso8601,
                "2023-11-14T15:13:20-07:00",
                Some(1_700_000_000_000),
            ),
            // Orb.
            (
                TimeUnit::Iso8601,
                "2023-11-14T22:13:20.123456",
                Some(1_700_000_000_123),
            ),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20 PST", None),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20[Asia/Tokyo]", None),
            (TimeUnit::Iso8601, "2023-11-14T", None),
            (TimeUnit::Iso8601, "2023-11-14", None),
            (TimeUnit::Iso8601, "1700000000", None),
        ] {
            assert_eq!(unit.parse(text).map(|time| time.0), expected, "{text:?}");
        }
    }

    #[test]
    fn the_window_has_two_sides() {
        let rule = |enforce| TimestampRule {
            source: TimestampSource::First,
            unit: TimeUnit::Seconds,
            tolerance: TOLERANCE,
            enforce,
        };
        for (text, now_secs, accepted) in [
            ("1000", 1000, true),
            ("1000", 1300, true),
            ("1000", 1301, false),
            ("1000", 700, true),
            ("1000", 699, false),
        ] {
            let now = Timestamp(now_secs * 1000);
            assert_eq!(
                rule(true).accepts(text, now),
                Some(accepted),
                "{text} at {now_secs}"
            );
            assert_eq!(rule(false).accepts(text, now), Some(true));
        }
        assert_eq!(rule(false).accepts("x", Timestamp(0)), None);
    }

    #[test]
    fn what_is_written_is_read() {
        for unit in [TimeUnit::Seconds, TimeUnit::Millis, TimeUnit::Iso8601] {
            let now = Timestamp(1_700_000_000_000);
            assert_eq!(unit.parse(&unit.write(now)), Some(now));
        }
    }
}
