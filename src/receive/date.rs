//! The `Date` field, made once a second.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::clock::Clock;

/// Gives the present time as RFC 9110, 5.6.7 writes it.
#[derive(Debug)]
pub(super) struct HttpDate {
    clock: Arc<dyn Clock>,
    last: Mutex<(i64, Bytes)>,
}

impl HttpDate {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            last: Mutex::new((i64::MIN, Bytes::new())),
        }
    }

    pub(super) fn now(&self) -> Bytes {
        let second = self.clock.now().0.div_euclid(1000);
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
    use crate::clock::ManualClock;
    use crate::event::Timestamp;

    #[test]
    fn the_example_of_the_rfc() {
        let clock = Arc::new(ManualClock::new(Timestamp(784_111_777_000)));
        let date = HttpDate::new(clock.clone());
        assert_eq!(date.now(), "Sun, 06 Nov 1994 08:49:37 GMT");
        clock.advance(1000);
        assert_eq!(date.now(), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
