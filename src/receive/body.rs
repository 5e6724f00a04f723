//! Where a body comes from, whatever the protocol, and the room it is given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::answer::Refusal;
use super::limit::{Ceiling, Share};
use crate::upstream::Timer;

/// Room is taken in steps that double from this one on, so that no sender holds more than twice what it has sent.
const STEP_BYTES: usize = 16 * 1024;
/// A body that is declared to have at most so many bytes gets room for all of them at once where there is plenty: then it is
/// read to where it stays, instead of being moved with each step.
const AT_ONCE_BYTES: usize = 256 * 1024;

/// How much of a body may be read, and for how long.
#[derive(Debug)]
pub(super) struct BodyBudget {
    pub(super) bytes_max: usize,
    pub(super) timeout: Duration,
    ceiling: Ceiling,
    share: Share,
    /// The size, where it was declared.
    declared: Option<usize>,
    reserved: usize,
}

impl BodyBudget {
    /// Nothing is read that was declared too large.
    pub(super) fn new(
        share: Share,
        ceiling: Ceiling,
        declared: Option<u64>,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let declared = declared.map(usize::try_from).transpose();
        let declared = declared.map_err(|_| Refusal::BodyTooLarge)?;
        if declared.is_some_and(|bytes| bytes > bytes_max) {
            return Err(Refusal::BodyTooLarge);
        }
        Ok(Self {
            bytes_max,
            timeout,
            ceiling,
            share,
            declared,
            reserved: 0,
        })
    }

    /// Makes sure that `bytes` in all have room, and says how many have.
    pub(super) async fn hold(&mut self, bytes: usize) -> Result<usize, Refusal> {
        if bytes > self.bytes_max {
            return Err(Refusal::BodyTooLarge);
        }
        if bytes > self.reserved {
            let at_once = bytes..=AT_ONCE_BYTES;
            let wanted = match self.declared.filter(|all| at_once.contains(all)) {
                Some(all) if self.share.try_hold_of_plenty(all, self.ceiling) => all,
                _ => {
                    let wanted = self.wanted(bytes);
                    self.share.hold(wanted, self.ceiling).await?;
                    wanted
                }
            };
            self.reserved = wanted;
        }
        Ok(self.reserved)
    }

    /// Whether `bytes` in all have room at once.
    pub(super) fn try_hold(&mut self, bytes: usize) -> bool {
        let wanted = self.wanted(bytes);
        let held = bytes <= self.bytes_max && self.share.try_hold(wanted, self.ceiling);
        if held {
            self.reserved = self.reserved.max(wanted);
        }
        held
    }

    /// Room to ask for where a body has so many bytes so far.
    fn wanted(&self, bytes: usize) -> usize {
        let step = bytes.max(STEP_BYTES).checked_next_power_of_two();
        step.unwrap_or(bytes)
            .min(self.declared.unwrap_or(self.bytes_max))
            .max(bytes)
    }

    /// From here on the body is awaited; what waits for it gives way to others when it is told to, see [`in_time`].
    pub(super) fn begin_reading(&mut self) -> Arc<Notify> {
        self.share.begin_reading(self.ceiling.standing)
    }

    /// All of it is here.
    pub(super) fn end_reading(&mut self) {
        self.share.end_reading();
    }
}

/// Reads until all is here, the time is up, or others need the room.
pub(super) async fn in_time<T>(
    read: impl Future<Output = Result<T, Refusal>>,
    asked: &Notify,
    timeout: Duration,
) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        outcome = read => outcome,
        () = asked.notified() => Err(Refusal::Memory),
        () = tokio::time::sleep(timeout) => Err(Refusal::BodyTimeout),
    }
}

/// A request's body, not yet read.
#[async_trait::async_trait]
pub(super) trait BodySource: Send {
    /// Whether the whole body is here already.
    fn is_here(&self) -> bool;

    /// The whole body, where it is here and there is room for it at once.
    fn take_here(&mut self, _budget: &mut BodyBudget) -> Option<Bytes> {
        None
    }

    /// The timer of the connection, for what follows the body.
    fn timer(&mut self) -> &mut Timer;

    /// Reads the whole body, byte for byte, answering `Expect: 100-continue` first where it was asked for.
    async fn read(&mut self, budget: &mut BodyBudget) -> Result<Bytes, Refusal>;
}
