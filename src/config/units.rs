//! Durations (`250ms`, `1h30m`) and sizes (`64KiB`, `10MB`), read strictly and written back the same way.

use std::time::Duration;

/// Units of a duration with their milliseconds, longest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of a size with their bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a duration: whole numbers, each with its unit, longest unit first, each unit once.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_bytes = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at_checked(unit_bytes)?;
        let (_, unit_millis) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *unit_millis >= unit_before {
            return None;
        }
        unit_before = *unit_millis;
        millis = millis.checked_add(number.checked_mul(*unit_millis)?)?;
        rest = next;
    }
    (unit_before != u64::MAX).then_some(Duration::from_millis(millis))
}

/// Reads a size: a whole number and a unit.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*unit_bytes)
}

/// Writes a duration as the configuration would: `1h30m`, `250ms`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, unit_millis) in DURATION_UNITS {
        // A single day is better read in hours beside other hours.
        let count = millis / unit_millis;
        if count > 0 && (unit != "d" || millis % unit_millis == 0) {
            parts.push(format!("{count}{unit}"));
            millis %= unit_millis;
        }
    }
    if parts.is_empty() {
        return "0s".to_owned();
    }
    parts.concat()
}

/// Writes a size with the largest binary unit that divides it, else rounded.
pub(crate) fn show_size(bytes: u64) -> String {
    for (unit, unit_bytes) in SIZE_UNITS.iter().take(4) {
        if bytes >= *unit_bytes {
            let whole = bytes / unit_bytes;
            let tenth = (bytes % unit_bytes) * 10 / unit_bytes;
            return match tenth {
                0 => format!("{whole} {unit}"),
                _ => format!("{whole}.{tenth} {unit}"),
            };
        }
    }
    format!("{bytes} B")
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("0s", Some(0)),
            ("1d2h3m4s5ms", Some(93_784_005)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 m", None),
            ("5M", None),
            ("1.5h", None),
            ("-1s", None),
            ("1m1h", None),
            ("1m1m", None),
            ("1h30", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("5m ", None),
            ("5µs", None),
        ] {
            let got = parse_duration(text);
            assert_eq!(got, millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1MiB", Some(1 << 20)),
            ("64KiB", Some(65_536)),
            ("10MB", Some(10_000_000)),
            ("3kB", Some(3_000)),
            ("7B", Some(7)),
            ("0B", Some(0)),
            ("1", None),
            ("1M", None),
            ("1mib", None),
            ("1 MiB", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn shown_as_they_are_written() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (95_760_000, "26h36m"),
            (604_800_000, "7d"),
            (5_400_000, "1h30m"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(show_size(10 << 30), "10 GiB");
        assert_eq!(show_size(1_600_000_000), "1.4 GiB");
        assert_eq!(show_size(12), "12 B");
    }
}
