//! The way out: claim, attempt, judge, settle. One lane per target; a dead upstream never slows another.

use std::time::Duration;

use crate::event::Target;
use crate::handoff;
use crate::upstream::{Endpoint, Limits};

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

/// So many per second, with bursts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// Per second; above 0.
    pub per_second: f64,
    /// At once; at least 1.
    pub burst: u32,
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
