//! One target's deliveries: workers that take turns at claiming and then make attempts side by side.
//!
//! Whoever holds the turn waits for the next attempt that may start *now* (not paused, a place free, breaker, a claimed
//! delivery, rates), so leases are held only while they are worked on, and all decisions of a lane are made by one task
//! at a time. Workers, not a task for each attempt: a busy lane allocates nothing but what the client needs.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::attempt::{Panicked, attempt, caught};
use super::breaker::{Breaker, Change, Gate};
use super::judge::{Circumstances, judge};
use super::lease::Lease;
use super::pace::{Pace, Paid};
use super::{LaneSettings, lock};
use crate::clock::{Clock, Moment};
use crate::event::Target;
use crate::inbox::{Inbox, InboxError, Outcome};
use crate::shutdown::{Phase, Watch};
use crate::telemetry::{AttemptEnd, AttemptResult, TargetMeter, Telemetry};
use crate::upstream::Client;

/// Deliveries claimed at once.
const CLAIM_MAX: usize = 64;
/// Deliveries claimed to choose a probe from: the one with the fewest attempts, so that one event the app chokes on
/// does not keep the breaker open.
const PROBE_CHOICE: usize = 16;
/// The wait after a claim that the store was too busy for, and after a panic of ours.
const STUMBLE_WAIT: Duration = Duration::from_secs(1);

/// What all lanes work with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) client: Client,
    pub(super) telemetry: Telemetry,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: Watch,
    pub(super) runtime: tokio::runtime::Handle,
}

/// The present settings of a lane, with the limiters made for them.
#[derive(Debug)]
pub(super) struct Plan {
    settings: LaneSettings,
    pace: Pace,
}

impl Plan {
    /// `before` is the plan this one follows.
    pub(super) fn new(mut settings: LaneSettings, before: Option<&Arc<Plan>>) -> Self {
        // The app's words are of no use here: they are neither kept nor shown.
        settings.limits.keep_body = false;
        settings.concurrency = settings.concurrency.max(1);
        let pace = Pace::new(&settings.rates, before.map(|plan| &plan.pace));
        Self { settings, pace }
    }
}

/// What a lane is to do.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Deliver.
    Run(Arc<Plan>),
    /// Claim nothing: paused, or not in the configuration. The last plan is kept for its limiters.
    Hold(Option<Arc<Plan>>),
    /// Let attempts under way end, then end.
    End,
}

impl Order {
    pub(super) fn plan(&self) -> Option<&Arc<Plan>> {
        match self {
            Self::Run(plan) => Some(plan),
            Self::Hold(plan) => plan.as_ref(),
            Self::End => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    target: Target,
    meter: TargetMeter,
    turn: tokio::sync::Mutex<Turn>,
    breaker: Mutex<Breaker>,
    workers: Mutex<JoinSet<()>>,
    /// Workers that hold the turn or wait for it.
    idle: AtomicUsize,
    /// Attempts under way.
    busy: AtomicUsize,
    /// An attempt ended: a place is free, and the breaker may have changed.
    ended: Notify,
}

/// What the holder of the turn works with.
#[derive(Debug)]
struct Turn {
    orders: watch::Receiver<Order>,
    /// Claimed, about to start.
    ready: VecDeque<Lease>,
    paid: Paid,
}

/// An attempt that may start now.
struct Start<'a> {
    at: Instant,
    lease: Lease,
    plan: Arc<Plan>,
    is_probe: bool,
    /// Held until the attempt has ended.
    place: Place<'a>,
}

/// How long an attempt took, and when it ended.
struct Tried {
    attempt: u32,
    elapsed: Duration,
    at: Instant,
    /// Since the event was received.
    lag: Duration,
}

/// One of the lane's places for attempts.
struct Place<'a>(&'a Lane);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_one();
    }
}

/// What came of claiming.
enum Claimed {
    Jobs,
    Interrupted,
    Over,
}

impl Lane {
    /// Starts the lane with one worker; more come as they are needed, up to one above the concurrency.
    pub(super) fn start(shared: Arc<Shared>, target: &Target, orders: watch::Receiver<Order>) -> Arc<Self> {
        let lane = Arc::new(Self {
            target: target.clone(),
            meter: shared.telemetry.target(target),
            turn: tokio::sync::Mutex::new(Turn {
                orders,
                ready: VecDeque::new(),
                paid: Paid::default(),
            }),
            breaker: Mutex::new(Breaker::new()),
            workers: Mutex::new(JoinSet::new()),
            idle: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            ended: Notify::new(),
            shared,
        });
        lane.hire(1);
        lane
    }

    /// Waits for the workers, which were ordered to end, up to `deadline`; then cuts off the attempts under way and
    /// returns how many they were. Their leases are released as they are dropped.
    pub(super) async fn drained(&self, deadline: Instant) -> usize {
        let mut cut = 0;
        // A worker may hire until it has seen the order, so look again.
        loop {
            let mut workers = std::mem::take(&mut *lock(&self.workers));
            if workers.is_empty() {
                return cut;
            }
            let all = async { while workers.join_next().await.is_some() {} };
            if timeout_at(deadline, all).await.is_err() {
                cut += self.busy.load(Ordering::Acquire);
                workers.shutdown().await;
            }
        }
    }

    /// Adds a worker if there are fewer than `most`.
    fn hire(self: &Arc<Self>, most: usize) {
        let mut workers = lock(&self.workers);
        if workers.len() < most {
            workers.spawn_on(work(self.clone()), &self.shared.runtime);
        }
    }

    /// Makes attempts until the lane ends.
    async fn run(self: &Arc<Self>) {
        let mut head = Vec::new();
        while let Some(start) = self.take_turn().await {
            // Somebody has to hold the turn while this worker is at its attempt: even with every place taken, for
            // only the holder hears of new orders.
            if self.idle.load(Ordering::Acquire) == 0 {
                self.hire(start.plan.settings.concurrency.saturating_add(1));
            }
            self.make(start, &mut head).await;
        }
    }

    async fn take_turn(&self) -> Option<Start<'_>> {
        let _idle = Counted::new(&self.idle);
        let mut turn = self.turn.lock().await;
        let start = self.next(&mut turn).await;
        if start.is_none() {
            turn.ready.clear();
        }
        start
    }

    /// Waits for the next attempt that may start now; `None` when the lane is over.
    async fn next(&self, turn: &mut Turn) -> Option<Start<'_>> {
        loop {
            let order = turn.orders.borrow_and_update().clone();
            let plan = match order {
                _ if self.shared.stop.phase() >= Phase::Closing => return None,
                Order::End => return None,
                Order::Hold(_) => {
                    turn.ready.clear();
                    self.pause(turn, None).await;
                    continue;
                }
                Order::Run(plan) => plan,
            };
            let settings = &plan.settings;
            let places = settings
                .concurrency
                .saturating_sub(self.busy.load(Ordering::Acquire));
            if places == 0 {
                self.pause(turn, None).await;
                // Attempts end in bursts: let the others of this one end too, and claim for all of them at once.
                tokio::task::yield_now().await;
                continue;
            }
            let now = Instant::now();
            let gate = lock(&self.breaker).gate(now);
            let claim_max = match gate {
                Gate::Pass => places.min(CLAIM_MAX).min(plan.pace.claim_max()),
                Gate::Probe => PROBE_CHOICE,
                Gate::Probing | Gate::Shut(_) => {
                    turn.ready.clear();
                    let until = match gate {
                        Gate::Shut(until) => Some(until),
                        _ => None,
                    };
                    self.pause(turn, until).await;
                    continue;
                }
            };
            if turn.ready.is_empty() {
                match self.claim(turn, claim_max).await {
                    // The wait may have been long: look at everything again.
                    Claimed::Jobs | Claimed::Interrupted => continue,
                    Claimed::Over => return None,
                }
            }
            if let Err(wait) = plan.pace.pass(&mut turn.paid) {
                self.pause(turn, Some(now + wait)).await;
                continue;
            }
            let is_probe = gate == Gate::Probe;
            let chosen = if is_probe {
                lock(&self.breaker).probe_begun();
                let chosen = least_tried(&turn.ready).and_then(|place| turn.ready.remove(place));
                turn.ready.clear();
                chosen
            } else {
                turn.ready.pop_front()
            };
            let Some(lease) = chosen else { continue };
            self.busy.fetch_add(1, Ordering::AcqRel);
            return Some(Start {
                at: now,
                lease,
                plan,
                is_probe,
                place: Place(self),
            });
        }
    }

    /// Waits until something that `next` looks at may have changed, at most until `until`.
    async fn pause(&self, turn: &mut Turn, until: Option<Instant>) {
        let timer = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = self.ended.notified() => {}
            () = self.told_otherwise(&mut turn.orders) => {}
        }
    }

    async fn claim(&self, turn: &mut Turn, max: usize) -> Claimed {
        let claimed = tokio::select! {
            biased;
            claimed = self.shared.inbox.claim(&self.target, max) => claimed,
            () = self.told_otherwise(&mut turn.orders) => return Claimed::Interrupted,
        };
        match claimed {
            Ok(claim) => {
                let leases = claim
                    .jobs
                    .into_iter()
                    .map(|job| Lease::new(&self.shared.inbox, job));
                turn.ready.extend(leases);
                Claimed::Jobs
            }
            Err(InboxError::Busy | InboxError::Full) => {
                self.pause(turn, Some(Instant::now() + STUMBLE_WAIT)).await;
                Claimed::Interrupted
            }
            // Whoever owns the store reports it and ends the process.
            Err(InboxError::Failed(_) | InboxError::Closed) => Claimed::Over,
        }
    }

    /// Resolves when there is a new order, or the process closes.
    async fn told_otherwise(&self, orders: &mut watch::Receiver<Order>) {
        tokio::select! {
            // The sender's last word is always `End`, so an error brings nothing new.
            _ = orders.changed() => {}
            () = self.shared.stop.reached(Phase::Closing) => {}
        }
    }

    /// Makes one attempt and settles it.
    async fn make(&self, start: Start<'_>, head: &mut Vec<u8>) {
        let Start {
            at: began,
            lease,
            plan,
            is_probe,
            place,
        } = start;
        let Shared { client, clock, .. } = &*self.shared;
        let settings = &plan.settings;
        let job = lease.job();
        let attempts = job.attempts.saturating_add(1);
        let began = Moment {
            at: began,
            wall: clock.now(),
        };
        let result = attempt(client, settings, &job.event, attempts, began, head).await;
        if result.as_ref().is_err_and(|error| error.is_panic()) {
            self.shared.telemetry.panicked("deliver");
        }
        let ended = result
            .as_ref()
            .map_or_else(|_| Instant::now(), |answer| answer.at);
        let circumstances = Circumstances {
            plan: &settings.retry,
            attempts,
            age: job.age,
            clock: &**clock,
            draw: fastrand::f64(),
        };
        let verdict = judge(&result, circumstances);
        let lag = Duration::from_millis(began.wall_at(ended).millis_since(job.event.event.received_at));
        let tried = Tried {
            attempt: attempts,
            elapsed: ended - began.at,
            at: ended,
            lag,
        };
        self.tell(&lease, &verdict.outcome, tried);
        let event = lease.job().event.seq;
        lease.settle(attempts, verdict.outcome);
        let change = lock(&self.breaker).ended(verdict.sign, event, is_probe, ended, fastrand::f64());
        match change {
            Some(Change::Opened) => self.meter.breaker(true),
            Some(Change::Closed) => self.meter.breaker(false),
            None => {}
        }
        drop(place);
    }

    fn tell(&self, lease: &Lease, outcome: &Outcome, tried: Tried) {
        let kept = &lease.job().event;
        let mut end = AttemptEnd {
            result: AttemptResult::Delivered,
            status: None,
            error: None,
            event_id: kept.event.event_id.as_deref(),
            seq: kept.seq,
            attempt: tried.attempt,
            body_bytes: kept.event.body.len(),
            elapsed: tried.elapsed,
            at: tried.at,
            lag: None,
            next_wait: None,
        };
        match outcome {
            Outcome::Delivered { status } => {
                end.status = Some(*status);
                end.lag = Some(tried.lag);
            }
            Outcome::Retry { wait, status, error } => {
                end.result = AttemptResult::Retry;
                end.status = *status;
                end.error = Some(error);
                end.next_wait = Some(*wait);
            }
            Outcome::Dead { status, error } => {
                end.result = AttemptResult::Dead;
                end.status = *status;
                end.error = Some(error);
            }
            // Never judged so: no attempt was made.
            Outcome::Released => return,
        }
        self.meter.attempt_ended(end);
    }
}

/// A worker's life; a panic outside the attempts themselves costs a moment, not the lane.
async fn work(lane: Arc<Lane>) {
    while let Err(Panicked) = caught(pin!(lane.run())).await {
        lane.shared.telemetry.panicked("deliver");
        lock(&lane.breaker).probe_lost(Instant::now());
        sleep(STUMBLE_WAIT).await;
    }
}

/// The place of the delivery with the fewest attempts; of equals, the oldest.
fn least_tried(ready: &VecDeque<Lease>) -> Option<usize> {
    let tried = ready.iter().enumerate();
    tried
        .min_by_key(|(_, lease)| lease.job().attempts)
        .map(|(place, _)| place)
}

/// Counts itself as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
