//! How a test ended.

use std::fmt;

use super::history::Repeats;
use super::ledger::Flaws;

/// The comparison of what was sent, acknowledged and delivered.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) sent: usize,
    pub(super) acked: usize,
    pub(super) delivered: usize,
    /// Acknowledged events that were sent again and answered.
    pub(super) resent: usize,
    /// Forged requests.
    pub(super) forgeries: usize,
    /// Deliveries of an event beyond its first that have a reason.
    pub(super) again: Repeats,
    /// Acknowledged and not delivered.
    pub(super) lost: Vec<String>,
    /// Attempts without a reason.
    pub(super) unexplained: Vec<String>,
    pub(super) flaws: Flaws,
}

impl Verdict {
    /// Adds what another store saw.
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.resent += other.resent;
        self.forgeries += other.forgeries;
        self.again.add(other.again);
        self.lost.extend(other.lost);
        self.unexplained.extend(other.unexplained);
        self.flaws.add(other.flaws);
    }

    /// What must not be, whatever happened.
    fn faults(&self) -> [(&'static str, &'static str, &Vec<String>); 7] {
        let flaws = &self.flaws;
        [
            ("lost", "acknowledged and not delivered", &self.lost),
            (
                "unexplained",
                "handed over again without a reason",
                &self.unexplained,
            ),
            ("altered", "not delivered as they were sent", &flaws.altered),
            ("foreign", "delivered, and forged or never sent", &flaws.foreign),
            ("believed", "forged and not refused", &flaws.believed),
            ("misanswered", "genuine and answered wrongly", &flaws.misanswered),
            ("misnamed", "handed over under a wrong name", &flaws.misnamed),
        ]
    }

    pub(super) fn expect_nothing_lost(&self) {
        assert!(self.acked > 0, "nothing was acknowledged");
        for (_, what, ids) in self.faults() {
            let first = ids.iter().take(5).collect::<Vec<_>>();
            assert!(ids.is_empty(), "{} events {what}, such as {first:?}", ids.len());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} acknowledged, {} sent again and called duplicates, {} forged; {} delivered, {} again after a \
             failed or silent attempt, {} again after a crash, up to {} ms old",
            self.sent,
            self.acked,
            self.resent,
            self.forgeries,
            self.delivered,
            self.again.failed,
            self.again.mark_lost,
            self.again.mark_wait_max.as_millis(),
        )?;
        for (word, _, ids) in self.faults() {
            write!(f, ", {word} {}", ids.len())?;
        }
        Ok(())
    }
}
