//! The phases of a stop, seen by every part: running, draining, closing.

use tokio::sync::watch;

/// How far the process is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Being set up: not ready.
    Starting,
    /// Taking and delivering.
    Running,
    /// Unready, still accepting: balancers notice and turn away.
    Draining,
    /// The listeners are closed; nothing new is claimed, attempts under way end.
    Closing,
}

/// The side that moves the phase on.
#[derive(Debug)]
pub struct Controller(watch::Sender<Phase>);

/// The side that watches it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Phase>);

/// Makes both sides, in phase `Starting`.
pub fn channel() -> (Controller, Watch) {
    let (sender, receiver) = watch::channel(Phase::Starting);
    (Controller(sender), Watch(receiver))
}

impl Controller {
    /// Moves on; never back.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let moved = phase > *now;
            *now = phase.max(*now);
            moved
        });
    }
}

impl Watch {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Resolves when `phase` or a later one is reached (or the controller is gone).
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.clone();
        // An error means that the controller is gone: the process is past every phase.
        drop(receiver.wait_for(|now| *now >= phase).await);
    }
}
