//! A claimed delivery in our hands. It goes back to the inbox exactly once, whatever happens to us.

use std::sync::Arc;
use std::time::Duration;

use crate::inbox::{Inbox, Job, Outcome, Settlement};

/// The wait after a panic of ours outside the attempt itself.
const PANIC_WAIT: Duration = Duration::from_secs(5);

/// Dropped unsettled (cut off at shutdown, breaker open, paused) it is released: no attempt counts.
#[derive(Debug)]
pub(super) struct Lease {
    inbox: Arc<dyn Inbox>,
    job: Job,
    settled: bool,
}

impl Lease {
    pub(super) fn new(inbox: &Arc<dyn Inbox>, job: Job) -> Self {
        Self {
            inbox: inbox.clone(),
            job,
            settled: false,
        }
    }

    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// Records how the attempt ended.
    pub(super) fn settle(mut self, attempts: u32, outcome: Outcome) {
        self.give_back(attempts, outcome);
    }

    fn give_back(&mut self, attempts: u32, outcome: Outcome) {
        self.settled = true;
        self.inbox.settle(Settlement {
            seq: self.job.event.seq,
            target: self.job.target.clone(),
            attempts,
            outcome,
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // Due at once would let an event that makes us panic do so in a tight loop.
        if std::thread::panicking() {
            let outcome = Outcome::Retry {
                wait: PANIC_WAIT,
                status: None,
                error: "internal error: delivery panicked".into(),
            };
            self.give_back(self.job.attempts.saturating_add(1), outcome);
        } else {
            self.give_back(self.job.attempts, Outcome::Released);
        }
    }
}
