//! The `Date` field, made once a second.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::event::Timestamp;

/// Gives a time as RFC 9110, 5.6.7 writes it.
#[derive(Debug)]
pub(super) struct HttpDate {
    last: Mutex<(i64, Bytes)>,
}

impl Default for HttpDate {
    fn default() -> Self {
        Self {
            last: Mutex::new((i64::MIN, Bytes::new())),
        }
    }
}

impl HttpDate {
    pub(super) fn of(&self, at: Timestamp) -> Bytes {
        let second = at.0.div_euclid(1000);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != second {
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            *last = (
                second,
                Bytes::from(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            );
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let date = HttpDate::default();
        for (at, said) in [
            (784_111_777_000, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778_000, "Sun, 06 Nov 1994 08:49:38 GMT"),
        ] {
            assert_eq!(date.of(Timestamp(at)), said);
        }
    }
}
