//! An inbox in memory that watches how its leases are used.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use hooklatch::event::{DedupHashKey, KeptEvent, Target};
use hooklatch::inbox::{
    Acceptance, Claim, Counts, Health, Inbox, InboxError, Job, NewEvent, Outcome, ProxyMark, Replayed,
    Selection, Settlement,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, kept};

#[derive(Debug)]
pub(super) struct MemoryInbox {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) settlements: Vec<Settlement>,
    pub(super) targets: Vec<Target>,
    /// What the next claims answer instead.
    pub(super) refusals: Vec<InboxError>,
    pub(super) claims_refused: usize,
    pub(super) leased_most: usize,
    /// How old the deliveries are that come in from now on.
    pub(super) age: Duration,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) job: Job,
    due: Instant,
    pub(super) leased: bool,
    pub(super) settled: bool,
}

impl MemoryInbox {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: watch::channel(0).0,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    pub(super) fn add(&self, target: &Target, event: KeptEvent) {
        self.change(|state| {
            state.deliveries.push(Delivery {
                job: Job {
                    age: state.age,
                    event: Arc::new(event),
                    target: target.clone(),
                    attempts: 0,
                },
                due: Instant::now(),
                leased: false,
                settled: false,
            });
        });
    }

    /// Events 1 to `count`.
    pub(super) fn fill(&self, target: &Target, count: i64) {
        (1..=count).for_each(|seq| self.add(target, kept(seq)));
    }

    pub(super) async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = timeout(PATIENCE, changed.wait_for(|_| reached(&self.state()))).await;
        assert!(waited.is_ok(), "{what}: {:#?}", self.state().settlements);
    }

    pub(super) async fn settled(&self, count: usize) -> Vec<Settlement> {
        self.until("settlements", |state| state.settlements.len() >= count)
            .await;
        self.state().settlements.clone()
    }

    pub(super) async fn delivered(&self, count: usize) {
        let taken = |settlement: &&Settlement| matches!(settlement.outcome, Outcome::Delivered { .. });
        self.until("deliveries", |state| {
            state.settlements.iter().filter(taken).count() >= count
        })
        .await;
    }

    pub(super) fn leased(&self) -> usize {
        self.state().leased()
    }
}

impl State {
    pub(super) fn leased(&self) -> usize {
        self.deliveries.iter().filter(|one| one.leased).count()
    }
}

#[async_trait]
impl Inbox for MemoryInbox {
    async fn claim(&self, target: &Target, max: usize) -> Result<Claim, InboxError> {
        assert!(max > 0, "a claim for nothing");
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let now = Instant::now();
            let mut next_due = now + Duration::from_secs(3600);
            {
                let mut state = self.state();
                if !state.refusals.is_empty() {
                    state.claims_refused += 1;
                    let refusal = state.refusals.remove(0);
                    drop(state);
                    self.changed.send_modify(|version| *version += 1);
                    return Err(refusal);
                }
                let present = state.targets.contains(target);
                let mut jobs = Vec::new();
                let waiting = state
                    .deliveries
                    .iter_mut()
                    .filter(|one| present && !one.leased && !one.settled && one.job.target == *target);
                for one in waiting {
                    if one.due > now {
                        next_due = next_due.min(one.due);
                    } else if jobs.len() < max {
                        one.leased = true;
                        jobs.push(one.job.clone());
                    }
                }
                if !jobs.is_empty() {
                    state.leased_most = state.leased_most.max(state.leased());
                    return Ok(Claim { jobs });
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(next_due) => {}
                changed = changed.changed() => changed.unwrap(),
            }
        }
    }

    fn settle(&self, settlement: Settlement) {
        self.change(|state| {
            let one = state
                .deliveries
                .iter_mut()
                .find(|one| one.job.event.seq == settlement.seq && one.job.target == settlement.target)
                .unwrap();
            assert!(one.leased, "settled without a lease: {settlement:?}");
            one.leased = false;
            one.job.attempts = settlement.attempts;
            match &settlement.outcome {
                Outcome::Retry { wait, .. } => one.due = Instant::now() + *wait,
                Outcome::Released => {}
                Outcome::Delivered { .. } | Outcome::Dead { .. } => one.settled = true,
            }
            if settlement.outcome != Outcome::Released {
                state.settlements.push(settlement);
            }
        });
    }

    fn set_targets(&self, targets: &[Target]) {
        self.change(|state| state.targets = targets.to_vec());
    }

    fn accept(&self, _event: NewEvent) -> Acceptance {
        Acceptance::refused(InboxError::Closed)
    }

    async fn replay(&self, _selection: Selection) -> Result<Replayed, InboxError> {
        Err(InboxError::Closed)
    }

    fn mark(&self, _mark: ProxyMark) {}

    fn marks(&self) -> Vec<ProxyMark> {
        Vec::new()
    }

    fn hash_key(&self) -> DedupHashKey {
        DedupHashKey([0; 16])
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn health(&self) -> Health {
        Health::Accepting
    }

    async fn failed(&self) -> Arc<str> {
        std::future::pending().await
    }

    async fn close(&self) {}
}
