//! What clients sent and had acknowledged, and what the app was handed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::support::{PATIENCE, sha256};

/// The answer to a repeat of a kept event.
const DUPLICATE: &str = r#"{"received":true,"duplicate":true}"#;

/// An event as its sender has it.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// The book of one test.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Entries {
    events: HashMap<String, Entry>,
    /// Events whose answer never came: their senders try again.
    unanswered: VecDeque<Sent>,
    /// The ids of the acknowledged ones, for repeats.
    acked: Vec<String>,
    /// Answers to repeats.
    repeats: usize,
    /// Being sent at this moment.
    in_flight: usize,
    /// The answers that are no answers to a genuine event.
    odd: Vec<String>,
    /// Delivered, but never sent.
    foreign: Vec<String>,
    acks: usize,
}

#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    acked: bool,
    delivered: usize,
    altered: bool,
}

/// How a test ended.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) sent: usize,
    pub(super) acked: usize,
    pub(super) delivered: usize,
    /// Deliveries of an event beyond its first.
    pub(super) duplicates: usize,
    /// Acknowledged events that were sent again and answered.
    pub(super) repeats: usize,
    /// Acknowledged and not delivered.
    pub(super) lost: Vec<String>,
    /// Delivered with other bytes.
    pub(super) altered: Vec<String>,
    /// Delivered and never sent.
    pub(super) foreign: Vec<String>,
    /// Answers other than 200 and 503, and repeats not answered as duplicates.
    pub(super) odd: Vec<String>,
}

impl Ledger {
    /// Books an event that is about to be sent.
    pub(super) fn sending(&self, event: &Sent) {
        let mut entries = self.entries();
        entries.in_flight += 1;
        entries.events.entry(event.id.clone()).or_insert_with(|| Entry {
            hash: sha256(&event.body),
            acked: false,
            delivered: 0,
            altered: false,
        });
    }

    /// Books the 200 of an event. A repeat of an acknowledged one must be called a duplicate.
    pub(super) fn acked(&self, event: &Sent, answer: &str) {
        let mut entries = self.entries();
        let entries = &mut *entries;
        entries.in_flight -= 1;
        entries.acks += 1;
        if let Some(entry) = entries.events.get_mut(&event.id) {
            if entry.acked {
                entries.repeats += 1;
                if answer != DUPLICATE {
                    entries
                        .odd
                        .push(format!("{}: repeat answered {answer}", event.id));
                }
            } else {
                entry.acked = true;
                entries.acked.push(event.id.clone());
            }
        }
        self.changed.notify_all();
    }

    /// Books an event whose answer was 503 or never came.
    pub(super) fn unanswered(&self, event: Sent) {
        let mut entries = self.entries();
        entries.in_flight -= 1;
        entries.unanswered.push_back(event);
        self.changed.notify_all();
    }

    /// Books an answer that a genuine event must not get.
    pub(super) fn odd(&self, event: &Sent, answer: String) {
        let mut entries = self.entries();
        entries.in_flight -= 1;
        entries.odd.push(format!("{}: {answer}", event.id));
        self.changed.notify_all();
    }

    /// The next event to be sent again.
    pub(super) fn next_unanswered(&self) -> Option<Sent> {
        self.entries().unanswered.pop_front()
    }

    /// The id of an acknowledged event, the same one for the same number.
    pub(super) fn acked_id(&self, choice: usize) -> Option<String> {
        let entries = self.entries();
        let index = choice.checked_rem(entries.acked.len())?;
        entries.acked.get(index).cloned()
    }

    /// Books a delivery.
    pub(super) fn delivered(&self, id: &str, body: &[u8]) {
        let hash = sha256(body);
        let mut entries = self.entries();
        match entries.events.get_mut(id) {
            Some(entry) => {
                entry.delivered += 1;
                entry.altered |= entry.hash != hash;
            }
            None => entries.foreign.push(id.to_owned()),
        }
        self.changed.notify_all();
    }

    /// Waits until `count` more answers came.
    pub(super) fn wait_for_more_acks(&self, count: usize) {
        let wanted = self.entries().acks + count;
        let arrived = self.wait(PATIENCE, |entries| entries.acks >= wanted);
        assert!(
            arrived,
            "no {count} answers within {PATIENCE:?}: {:?}",
            self.entries().odd
        );
    }

    /// Waits until every event sent has its answer.
    pub(super) fn wait_until_answered(&self, limit: Duration) {
        let answered = self.wait(limit, |entries| {
            entries.unanswered.is_empty() && entries.in_flight == 0
        });
        assert!(
            answered,
            "{} events without an answer",
            self.entries().unanswered.len()
        );
    }

    /// Waits until every acknowledged event is delivered, or `limit`; the judgement tells which.
    pub(super) fn wait_until_drained(&self, limit: Duration) {
        self.wait(limit, |entries| {
            entries
                .events
                .values()
                .all(|entry| !entry.acked || entry.delivered > 0)
        });
    }

    /// Compares both sides.
    pub(super) fn judge(&self) -> Verdict {
        let entries = self.entries();
        let ids = |wanted: &dyn Fn(&Entry) -> bool| {
            let matching = entries.events.iter().filter(|(_, entry)| wanted(entry));
            matching.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        };
        Verdict {
            sent: entries.events.len(),
            acked: ids(&|entry| entry.acked).len(),
            delivered: ids(&|entry| entry.delivered > 0).len(),
            duplicates: entries
                .events
                .values()
                .map(|entry| entry.delivered.saturating_sub(1))
                .sum(),
            repeats: entries.repeats,
            lost: ids(&|entry| entry.acked && entry.delivered == 0),
            altered: ids(&|entry| entry.altered),
            foreign: entries.foreign.clone(),
            odd: entries.odd.clone(),
        }
    }

    fn wait(&self, limit: Duration, done: impl Fn(&Entries) -> bool) -> bool {
        let (_entries, timeout) = self
            .changed
            .wait_timeout_while(self.entries(), limit, |entries| !done(entries))
            .unwrap();
        !timeout.timed_out()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap()
    }
}

impl Verdict {
    pub(super) fn expect_nothing_lost(&self) {
        assert!(self.acked > 0, "nothing was acknowledged");
        for (what, ids) in [
            ("acknowledged and lost", &self.lost),
            ("delivered with other bytes", &self.altered),
            ("delivered and never sent", &self.foreign),
            ("answered wrongly", &self.odd),
        ] {
            let first = ids.iter().take(5).collect::<Vec<_>>();
            assert!(ids.is_empty(), "{} events {what}, such as {first:?}", ids.len());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {}, acknowledged {}, repeats {}, delivered {}, duplicates {}, lost {}, altered {}, foreign {}",
            self.sent,
            self.acked,
            self.repeats,
            self.delivered,
            self.duplicates,
            self.lost.len(),
            self.altered.len(),
            self.foreign.len()
        )
    }
}
