//! Where a body comes from, whatever the protocol, and the room it is given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::Refusal;
use super::limit::{BytesGuard, Limiter};
use super::settings::Limits;

/// Room is reserved in steps of this many bytes when the size is not known.
const STEP_BYTES: usize = 64 * 1024;

/// How much of a body may be read, and for how long.
#[derive(Debug)]
pub(super) struct BodyBudget<'a> {
    pub(super) bytes_max: usize,
    pub(super) timeout: Duration,
    limits: &'a Limits,
    guard: BytesGuard,
    reserved: usize,
}

impl<'a> BodyBudget<'a> {
    /// Reserves room for what was declared, at once: nothing is read that there is no room for.
    pub(super) fn new(
        limiter: &Arc<Limiter>,
        limits: &'a Limits,
        declared: Option<u64>,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let reserved = match declared {
            Some(bytes) => usize::try_from(bytes).map_err(|_| Refusal::BodyTooLarge)?,
            None => STEP_BYTES.min(bytes_max),
        };
        if reserved > bytes_max {
            return Err(Refusal::BodyTooLarge);
        }
        Ok(Self {
            bytes_max,
            timeout,
            limits,
            guard: limiter.bytes(reserved, limits)?,
            reserved,
        })
    }

    /// Makes sure that `bytes` in all have room.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.bytes_max {
            return Err(Refusal::BodyTooLarge);
        }
        while bytes > self.reserved {
            self.guard.grow(STEP_BYTES, self.limits)?;
            self.reserved += STEP_BYTES;
        }
        Ok(())
    }
}

/// A request's body, not yet read.
#[async_trait::async_trait]
pub(super) trait BodySource: Send {
    /// Reads the whole body, byte for byte, answering `Expect: 100-continue` first where it was asked for.
    async fn read(&mut self, budget: &mut BodyBudget<'_>) -> Result<Bytes, Refusal>;
}
