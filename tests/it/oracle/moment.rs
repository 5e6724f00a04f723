//! When the power goes, or the process is killed: at random, and aimed at what is hard.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;

/// What a loss is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    /// A random moment under load.
    Load,
    /// While the log is copied into the database.
    Checkpoint,
    /// While bodies go, for want of space or by age.
    Pruning,
    /// After SIGTERM under load.
    Drain,
    /// Between the start of the process and a little after it is ready, with a log to recover.
    Start,
    /// After a sync that failed, a restart, and senders that tried again.
    FailedSync,
    /// While the store is being made.
    Creation,
}

impl Moment {
    /// Of a store that exists, with the share of each: in one that has room, and in a small one.
    const ROOMY: [(Self, usize); 5] = [
        (Self::Load, 6),
        (Self::Checkpoint, 2),
        (Self::Drain, 4),
        (Self::Start, 4),
        (Self::FailedSync, 1),
    ];
    const SMALL: [(Self, usize); 6] = [
        (Self::Load, 2),
        (Self::Checkpoint, 5),
        (Self::Pruning, 6),
        (Self::Drain, 3),
        (Self::Start, 3),
        (Self::FailedSync, 1),
    ];

    /// A turn of moments in random order, taken from its end. The first is under load, so that what follows, and even the
    /// shortest run, has something to lose.
    pub(super) fn turn(small: bool, rng: &mut Rng) -> Vec<Self> {
        let shares: &[_] = if small { &Self::SMALL } else { &Self::ROOMY };
        let mut turn: Vec<_> = shares
            .iter()
            .flat_map(|(moment, share)| std::iter::repeat_n(*moment, *share))
            .collect();
        rng.shuffle(&mut turn);
        if let Some(place) = turn.iter().position(|moment| *moment == Self::Load) {
            let load = turn.remove(place);
            turn.push(load);
        }
        turn
    }

    fn name(self) -> &'static str {
        match self {
            Self::Load => "under load",
            Self::Checkpoint => "at checkpoints",
            Self::Pruning => "at pruning",
            Self::Drain => "at drain",
            Self::Start => "at start",
            Self::FailedSync => "after a failed sync",
            Self::Creation => "at creation",
        }
    }
}

/// Where the losses fell.
#[derive(Debug, Default)]
pub(super) struct Tally {
    aimed: BTreeMap<Moment, usize>,
    /// What the gateway was seen to be at.
    met: BTreeMap<&'static str, usize>,
    wal_bytes_max: u64,
}

impl Tally {
    pub(super) fn aimed(&mut self, moment: Moment) {
        *self.aimed.entry(moment).or_default() += 1;
    }

    /// Notes what the gateway was at when it was stopped.
    pub(super) fn met(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub(super) fn log_was(&mut self, bytes: u64) {
        self.wal_bytes_max = self.wal_bytes_max.max(bytes);
    }

    pub(super) fn losses(&self) -> usize {
        self.aimed.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} times (aimed: ", self.losses())?;
        for (place, (moment, count)) in self.aimed.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", moment.name())?;
        }
        write!(f, "; met: ")?;
        for (place, (what, count)) in self.met.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {what}")?;
        }
        write!(f, "; longest log {} KiB)", self.wal_bytes_max >> 10)
    }
}

#[test]
fn every_turn_begins_under_load() {
    for seed in 0..200 {
        for small in [false, true] {
            let turn = Moment::turn(small, &mut Rng::with_seed(seed));
            assert_eq!(turn.last(), Some(&Moment::Load), "seed {seed}");
        }
    }
}
