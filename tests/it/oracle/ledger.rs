//! What clients sent and had acknowledged, and what the app was handed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::event::{Digest, Sent, event_of};
use super::history::{Attempt, End, Life, explain};
use super::verdict::Verdict;
use crate::support::PATIENCE;

/// The answer to a repeat of a kept event.
const DUPLICATE: &str = r#"{"received":true,"duplicate":true}"#;

/// The book of one store.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Entries {
    events: HashMap<String, Entry>,
    /// The ids of events whose answer never came: their senders try again.
    unanswered: VecDeque<String>,
    /// The ids of the acknowledged ones, for repeats.
    acked: Vec<String>,
    /// Acknowledged and not taken by the app.
    undelivered: usize,
    /// Being sent at this moment.
    in_flight: usize,
    acks: usize,
    /// Acknowledged events that were sent again and answered.
    resent: usize,
    /// Forged requests, and the ids they came with, where not borrowed.
    forgeries: usize,
    forged: HashSet<String>,
    /// The event of each `Hooklatch-Key` that the app saw.
    keys: HashMap<String, String>,
    /// How each life ended.
    lives: Vec<Option<End>>,
    flaws: Flaws,
}

/// What must not be, event by event.
#[derive(Debug, Default, Clone)]
pub(super) struct Flaws {
    /// Delivered with another target, other headers or other bytes.
    pub(super) altered: Vec<String>,
    /// Delivered, and forged or never sent.
    pub(super) foreign: Vec<String>,
    /// Forged, and not refused.
    pub(super) believed: Vec<String>,
    /// Genuine, and answered with neither 200 nor 503, or not answered as what it is: new or a duplicate.
    pub(super) misanswered: Vec<String>,
    /// Handed over under a wrong or changing name.
    pub(super) misnamed: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    /// How often it was sent.
    sends: usize,
    acked: bool,
    key: Option<String>,
    attempts: Vec<Attempt>,
}

impl Entry {
    fn taken(&self) -> bool {
        self.attempts.iter().any(Attempt::took)
    }
}

/// A request that reached the app.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) id: String,
    pub(super) digest: Digest,
    pub(super) key: String,
    /// What is wrong with the headers of the gateway.
    pub(super) misnamed: Option<String>,
    pub(super) attempt: Attempt,
}

impl Ledger {
    /// A new life of the gateway begins.
    pub(super) fn begin_life(&self) -> Life {
        let mut entries = self.entries();
        entries.lives.push(None);
        entries.lives.len() - 1
    }

    /// Books how a life ended.
    pub(super) fn end_life(&self, life: Life, end: End) {
        self.entries().lives[life] = Some(end);
    }

    /// Books an event that is about to be sent.
    pub(super) fn sending(&self, event: &Sent) {
        let mut entries = self.entries();
        entries.in_flight += 1;
        let entry = entries.events.entry(event.id.clone()).or_insert_with(|| Entry {
            digest: event.digest(),
            sends: 0,
            acked: false,
            key: None,
            attempts: Vec::new(),
        });
        entry.sends += 1;
    }

    /// Books the 200 of an event. A repeat of an acknowledged one must be called a duplicate; one that was never sent
    /// before must not.
    pub(super) fn acked(&self, id: &str, answer: &str) {
        let mut entries = self.entries();
        let entries = &mut *entries;
        entries.in_flight -= 1;
        entries.acks += 1;
        let Some(entry) = entries.events.get_mut(id) else {
            return;
        };
        let duplicate = answer == DUPLICATE;
        if (entry.acked && !duplicate) || (entry.sends == 1 && duplicate) {
            let text = format!("{id}: sent {} times, answered {answer}", entry.sends);
            entries.flaws.misanswered.push(text);
        }
        if entry.acked {
            entries.resent += 1;
        } else {
            entry.acked = true;
            entries.undelivered += usize::from(!entry.taken());
            entries.acked.push(id.to_owned());
        }
        self.changed.notify_all();
    }

    /// Books an event whose answer was 503 or never came.
    pub(super) fn unanswered(&self, id: String) {
        let mut entries = self.entries();
        entries.in_flight -= 1;
        entries.unanswered.push_back(id);
        self.changed.notify_all();
    }

    /// Books an answer that a genuine event must not get.
    pub(super) fn misanswered(&self, id: &str, answer: &str) {
        let mut entries = self.entries();
        entries.in_flight -= 1;
        entries.flaws.misanswered.push(format!("{id}: {answer}"));
        self.changed.notify_all();
    }

    /// Books a forged request that is about to be sent.
    pub(super) fn forging(&self, event: &Sent) {
        let mut entries = self.entries();
        entries.forgeries += 1;
        if !entries.events.contains_key(&event.id) {
            entries.forged.insert(event.id.clone());
        }
    }

    /// Books that a forged request was not refused.
    pub(super) fn believed(&self, id: &str, answer: &str) {
        self.entries().flaws.believed.push(format!("{id}: {answer}"));
    }

    /// The next event to be sent again.
    pub(super) fn next_unanswered(&self) -> Option<Sent> {
        self.entries().unanswered.pop_front().map(event_of)
    }

    /// An acknowledged event, the same one for the same number.
    pub(super) fn acked_event(&self, choice: usize) -> Option<Sent> {
        let entries = self.entries();
        let index = choice.checked_rem(entries.acked.len())?;
        entries.acked.get(index).cloned().map(event_of)
    }

    /// Books what reached the app.
    pub(super) fn arrived(&self, arrived: Arrived) {
        let mut entries = self.entries();
        let entries = &mut *entries;
        let Arrived { id, digest, key, .. } = arrived;
        let Some(entry) = entries.events.get_mut(&id) else {
            let kind = if entries.forged.contains(&id) {
                "forged"
            } else {
                "never sent"
            };
            entries.flaws.foreign.push(format!("{id:?} ({kind})"));
            return;
        };
        if entry.digest != digest {
            entries.flaws.altered.push(id.clone());
        }
        if let Some(what) = arrived.misnamed {
            entries.flaws.misnamed.push(format!("{id}: {what}"));
        }
        let known = entry.key.get_or_insert_with(|| key.clone());
        if *known != key {
            entries.flaws.misnamed.push(format!("{id}: {known}, then {key}"));
        }
        let owner = entries.keys.entry(key).or_insert_with(|| id.clone());
        if *owner != id {
            entries
                .flaws
                .misnamed
                .push(format!("{id} has the key of {owner}"));
        }
        if arrived.attempt.took() && entry.acked && !entry.taken() {
            entries.undelivered -= 1;
        }
        entry.attempts.push(arrived.attempt);
        self.changed.notify_all();
    }

    /// Waits until `count` more answers came.
    pub(super) fn wait_for_more_acks(&self, count: usize) {
        let wanted = self.entries().acks + count;
        let came = self.wait(PATIENCE, |entries| entries.acks >= wanted);
        assert!(
            came,
            "no {count} answers within {PATIENCE:?}: {:?}",
            self.entries().flaws
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
        self.wait(limit, |entries| entries.undelivered == 0);
    }

    /// Events acknowledged so far.
    pub(super) fn acked_count(&self) -> usize {
        self.entries().acked.len()
    }

    /// Events sent so far.
    pub(super) fn sent(&self) -> usize {
        self.entries().events.len()
    }

    /// Acknowledged and not delivered: what could be lost now.
    pub(super) fn undelivered(&self) -> usize {
        self.entries().undelivered
    }

    /// Takes everything out, so that the next store begins with an empty book.
    pub(super) fn take(&self) -> Self {
        Self {
            entries: Mutex::new(std::mem::take(&mut *self.entries())),
            changed: Condvar::new(),
        }
    }

    /// Compares both sides.
    pub(super) fn judge(&self) -> Verdict {
        let entries = self.entries();
        let count =
            |wanted: &dyn Fn(&Entry) -> bool| entries.events.values().filter(|entry| wanted(entry)).count();
        let mut verdict = Verdict {
            sent: entries.events.len(),
            acked: count(&|entry| entry.acked),
            delivered: count(&Entry::taken),
            resent: entries.resent,
            forgeries: entries.forgeries,
            flaws: entries.flaws.clone(),
            ..Verdict::default()
        };
        for (id, entry) in &entries.events {
            if entry.acked && !entry.taken() {
                verdict.lost.push(id.clone());
            }
            match explain(&entry.attempts, |life| entries.lives.get(life).copied().flatten()) {
                Ok(repeats) => verdict.again.add(repeats),
                Err(why) => verdict.unexplained.push(format!("{id}: {why}")),
            }
        }
        verdict
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

impl Flaws {
    pub(super) fn add(&mut self, other: Self) {
        self.altered.extend(other.altered);
        self.foreign.extend(other.foreign);
        self.believed.extend(other.believed);
        self.misanswered.extend(other.misanswered);
        self.misnamed.extend(other.misnamed);
    }
}
