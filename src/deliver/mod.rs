//! The way out: claim, attempt, judge, settle. One lane per target; a dead upstream never slows another.
//!
//! ```text
//! lane      who may start now: pause, concurrency, breaker, rates; claims; keeps the workers
//! lease     a claimed delivery; it is given back whatever happens
//! attempt   one request to the app
//! judge     answer or error -> delivered, retry, dead; and what it says about the app
//! schedule  how long to wait, when to give up
//! breaker   whether the app is down
//! pace      so many per second
//! ```

mod attempt;
mod breaker;
mod judge;
mod lane;
mod lease;
mod pace;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::event::Target;
use crate::handoff;
use crate::inbox::Inbox;
pub use crate::rate::Quota;
use crate::shutdown::{Phase, Watch};
use crate::telemetry::Telemetry;
use crate::upstream::{Client, Endpoint, Limits};
use lane::{Lane, Order, Plan, Shared};

/// How deliveries of one target are made.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// The route and the upstream.
    pub target: Target,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Headers, `Host`, hand-off signature.
    pub handoff: handoff::Settings,
    /// Deadlines and caps of one attempt.
    pub limits: Limits,
    /// Attempts under way at once.
    pub concurrency: usize,
    /// Attempts per second, if bounded (the upstream's `rate`, or the route's with `over = "pace"`).
    pub rates: Vec<Quota>,
    /// When to try again and when to give up.
    pub retry: RetryPlan,
    /// Hold deliveries back; nothing ages meanwhile.
    pub paused: bool,
}

/// When to try again and when to give up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPlan {
    /// The first wait.
    pub first: Duration,
    /// Each wait is the last one times this.
    pub factor: f64,
    /// The longest wait, `Retry-After` included.
    pub wait_max: Duration,
    /// Full jitter: a wait is drawn from `(1 - jitter) * wait ..= wait`; 1.0 by default.
    pub jitter: f64,
    /// Give up after a failed attempt made at or past this age.
    pub age_max: Duration,
    /// Give up after this many failed attempts; `None`: no cap.
    pub attempts_max: Option<u32>,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            factor: 2.0,
            wait_max: Duration::from_secs(3600),
            jitter: 1.0,
            age_max: Duration::from_secs(72 * 3600),
            attempts_max: None,
        }
    }
}

impl RetryPlan {
    /// The wait after failed attempt number `attempts` (from 1): drawn by `draw` in `0.0..1.0`, or what the app asked
    /// for if that is longer; at most `wait_max`.
    pub fn wait(&self, attempts: u32, asked: Option<Duration>, draw: f64) -> Duration {
        schedule::wait(self, attempts, asked, draw)
    }
}

/// Delivers what the inbox holds, on the runtime it was started on.
///
/// Dropping it ends the claiming and lets attempts under way end unobserved; [`Deliverer::drained`] waits for them.
#[derive(Debug)]
pub struct Deliverer {
    shared: Arc<Shared>,
    /// A lane that left the configuration stays, idle: when its name returns, so does its breaker.
    lanes: Mutex<HashMap<Target, Held>>,
}

#[derive(Debug)]
struct Held {
    lane: Arc<Lane>,
    order: watch::Sender<Order>,
}

impl Deliverer {
    /// Starts a lane for each of `lanes` on the current tokio runtime and names their targets to the inbox.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        inbox: Arc<dyn Inbox>,
        client: Client,
        telemetry: Telemetry,
        clock: Arc<dyn Clock>,
        lanes: Vec<LaneSettings>,
        stop: Watch,
    ) -> Self {
        let deliverer = Self {
            shared: Arc::new(Shared {
                inbox,
                client,
                telemetry,
                clock,
                stop,
                runtime: tokio::runtime::Handle::current(),
            }),
            lanes: Mutex::new(HashMap::new()),
        };
        deliverer.reconfigure(lanes);
        deliverer
    }

    /// Takes on `lanes` as the whole new set; targets are known by name.
    ///
    /// New ones start. Gone ones stop claiming, and attempts under way end as they began. For the rest the new
    /// settings hold from the next attempt on; breakers stay, and so do limiters whose quota is unchanged. A changed URL
    /// redirects what is pending. Does nothing once the process is closing.
    pub fn reconfigure(&self, lanes: Vec<LaneSettings>) {
        let mut held = lock(&self.lanes);
        if self.shared.stop.phase() >= Phase::Closing {
            return;
        }
        // To the inbox a paused target is as good as absent: its deliveries keep and do not age.
        let targets: Vec<Target> = lanes
            .iter()
            .filter(|lane| !lane.paused)
            .map(|lane| lane.target.clone())
            .collect();
        self.shared.inbox.set_targets(&targets);
        held.iter()
            .filter(|(target, _)| !targets.contains(target))
            .for_each(|(_, gone)| gone.hold());
        for settings in lanes.into_iter().filter(|lane| !lane.paused) {
            let target = settings.target.clone();
            match held.get(&target) {
                Some(lane) => lane.order.send_modify(|order| {
                    *order = Order::Run(Arc::new(Plan::new(settings, order.plan())));
                }),
                None => {
                    let plan = Arc::new(Plan::new(settings, None));
                    let (order, orders) = watch::channel(Order::Run(plan));
                    let lane = Lane::start(self.shared.clone(), &target, orders);
                    held.insert(target, Held { lane, order });
                }
            }
        }
    }

    /// Waits for phase `Closing`, then for the attempts under way, but not past `deadline`: those still under way then
    /// are cut off and their leases released. Returns how many were cut off.
    pub async fn drained(self, deadline: Instant) -> usize {
        // Closing may never come; the deadline holds all the same.
        drop(timeout_at(deadline, self.shared.stop.reached(Phase::Closing)).await);
        let held: Vec<Held> = lock(&self.lanes).drain().map(|(_, held)| held).collect();
        held.iter().for_each(Held::end);
        let mut cut = 0;
        for Held { lane, .. } in held {
            cut += lane.drained(deadline).await;
        }
        cut
    }
}

impl Drop for Deliverer {
    fn drop(&mut self) {
        lock(&self.lanes).values().for_each(Held::end);
    }
}

impl Held {
    fn end(&self) {
        self.order.send_replace(Order::End);
    }

    fn hold(&self) {
        self.order.send_modify(|order| {
            *order = Order::Hold(order.plan().cloned());
        });
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil what they hold.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
