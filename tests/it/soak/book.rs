//! What was sent, acknowledged and delivered, in one byte an event: a soak sends millions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use fastrand::Rng;

const ACKED: u8 = 1;
const ALTERED: u8 = 2;
/// Deliveries are counted in the upper bits, up to 63.
const ONE_DELIVERY: u8 = 4;

/// The book of one soak.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    events: Vec<u8>,
    /// Without an answer: their senders try again.
    unanswered: VecDeque<u64>,
    in_flight: usize,
    acked: u64,
    undelivered: u64,
    repeats: u64,
    forged: u64,
    odd: Vec<String>,
    foreign: Vec<String>,
}

/// How a soak ended.
#[derive(Debug)]
pub(super) struct Verdict {
    sent: usize,
    acked: u64,
    lost: usize,
    altered: usize,
    duplicates: u64,
    repeats: u64,
    forged: u64,
    odd: Vec<String>,
    foreign: Vec<String>,
}

impl Book {
    /// The number of a new event, which is about to be sent.
    pub(super) fn begin(&self) -> u64 {
        let mut entries = self.lock();
        entries.events.push(0);
        entries.in_flight += 1;
        entries.events.len() as u64 - 1
    }

    /// One that is to be sent again, if there is any.
    pub(super) fn begin_again(&self) -> Option<u64> {
        let mut entries = self.lock();
        let number = entries.unanswered.pop_front()?;
        entries.in_flight += 1;
        Some(number)
    }

    pub(super) fn ack(&self, number: u64) {
        let mut entries = self.lock();
        let entries = &mut *entries;
        entries.in_flight -= 1;
        let Some(event) = entries.events.get_mut(number as usize) else {
            return;
        };
        if *event & ACKED == 0 {
            *event |= ACKED;
            entries.acked += 1;
            entries.undelivered += u64::from(*event < ONE_DELIVERY);
        }
    }

    pub(super) fn unanswered(&self, number: u64) {
        let mut entries = self.lock();
        entries.in_flight -= 1;
        entries.unanswered.push_back(number);
    }

    /// An answer that a genuine event must not get.
    pub(super) fn odd(&self, number: u64, answer: String) {
        let mut entries = self.lock();
        entries.in_flight -= 1;
        entries.odd.push(format!("{number}: {answer}"));
    }

    /// A repeat of an acknowledged event was answered so.
    pub(super) fn repeated(&self, number: u64, answer: &str) {
        let mut entries = self.lock();
        entries.repeats += 1;
        if !answer.contains("\"duplicate\":true") {
            entries.odd.push(format!("repeat of {number}: {answer}"));
        }
    }

    /// A forgery was answered so.
    pub(super) fn forged(&self, status: u16) {
        let mut entries = self.lock();
        entries.forged += 1;
        if !matches!(status, 401 | 429 | 503) {
            entries.odd.push(format!("forgery answered {status}"));
        }
    }

    pub(super) fn deliver(&self, body: &[u8]) {
        let number = number_of(body);
        let is_whole = number.is_some_and(|number| body_of(number) == body);
        let mut entries = self.lock();
        let entries = &mut *entries;
        match number.and_then(|number| entries.events.get_mut(number as usize)) {
            Some(event) => {
                if *event & ACKED != 0 && *event < ONE_DELIVERY {
                    entries.undelivered -= 1;
                }
                *event = event.checked_add(ONE_DELIVERY).unwrap_or(*event);
                *event |= if is_whole { 0 } else { ALTERED };
            }
            None => entries
                .foreign
                .push(String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned()),
        }
    }

    pub(super) fn acked(&self) -> u64 {
        self.lock().acked
    }

    /// Acknowledged and not delivered so far.
    pub(super) fn undelivered(&self) -> u64 {
        self.lock().undelivered
    }

    pub(super) fn is_answered(&self) -> bool {
        let entries = self.lock();
        entries.unanswered.is_empty() && entries.in_flight == 0
    }

    pub(super) fn is_drained(&self) -> bool {
        self.undelivered() == 0
    }

    pub(super) fn verdict(&self) -> Verdict {
        let entries = self.lock();
        let count =
            |wanted: &dyn Fn(u8) -> bool| entries.events.iter().filter(|event| wanted(**event)).count();
        Verdict {
            sent: entries.events.len(),
            acked: entries.acked,
            lost: count(&|event| event & ACKED != 0 && event < ONE_DELIVERY),
            altered: count(&|event| event & ALTERED != 0),
            duplicates: entries
                .events
                .iter()
                .map(|event| u64::from((event / ONE_DELIVERY).saturating_sub(1)))
                .sum(),
            repeats: entries.repeats,
            forged: entries.forged,
            odd: entries.odd.clone(),
            foreign: entries.foreign.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap()
    }
}

impl Verdict {
    pub(super) fn expect_nothing_lost(&self) {
        let foreign: Vec<_> = self.foreign.iter().take(3).collect();
        let odd: Vec<_> = self.odd.iter().take(3).collect();
        assert!(self.acked > 0 && self.repeats > 0 && self.forged > 0, "{self}");
        assert_eq!((self.lost, self.altered), (0, 0), "{self}");
        assert!(
            foreign.is_empty() && odd.is_empty(),
            "{self}: {foreign:?} {odd:?}"
        );
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {}, acknowledged {}, lost {}, altered {}, delivered again {}, repeats {}, forged {}, foreign {}, odd {}",
            self.sent,
            self.acked,
            self.lost,
            self.altered,
            self.duplicates,
            self.repeats,
            self.forged,
            self.foreign.len(),
            self.odd.len()
        )
    }
}

/// The body of an event, always the same; any re-encoding would change it. 200 bytes to 20 KiB, small ones as frequent as
/// large ones.
pub(super) fn body_of(number: u64) -> Vec<u8> {
    let share = Rng::with_seed(number).f64();
    let head = format!("{{ \"id\":\"soak-{number}\", \"z\": 1.0, \"a\": 1e2,\n \"note\": \"caf\\u00e9 ");
    let mut body = head.into_bytes();
    body.resize((200.0 * 102.4_f64.powf(share)) as usize, b'x');
    body.extend_from_slice(b"\" }\n");
    body
}

fn number_of(body: &[u8]) -> Option<u64> {
    let start = std::str::from_utf8(body.get(..60.min(body.len()))?).ok()?;
    let rest = start.split_once("\"soak-")?.1;
    rest.split('"').next()?.parse().ok()
}
