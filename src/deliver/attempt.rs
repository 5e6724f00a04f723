//! One attempt: build the head, call the app.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use super::LaneSettings;
use crate::clock::Moment;
use crate::event::KeptEvent;
use crate::handoff;
use crate::upstream::{Answer, CallError, Client, Request};

/// A head buffer that grew beyond this is not kept for the next attempt.
const HEAD_KEPT_BYTES_MAX: usize = 64 * 1024;

/// Why an attempt brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AttemptError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A bug of ours.
    #[error("internal error: the attempt panicked")]
    Panicked,
}

impl AttemptError {
    pub(super) fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked)
    }
}

/// A panic was caught; its message has been printed by the panic hook.
#[derive(Debug)]
pub(super) struct Panicked;

/// Sends `event` to the lane's endpoint, at `now`. `head` is scratch space, reused from attempt to attempt.
pub(super) async fn attempt(
    client: &Client,
    settings: &LaneSettings,
    event: &KeptEvent,
    number: u32,
    now: Moment,
    head: &mut Vec<u8>,
) -> Result<Answer, AttemptError> {
    head.clear();
    head.shrink_to(HEAD_KEPT_BYTES_MAX);
    let call = pin!(async {
        let about = handoff::Attempt {
            key: &event.key,
            number,
            possible_duplicate_of: event.possible_duplicate_of.as_ref(),
            now: now.wall,
        };
        handoff::write_head(head, &settings.endpoint, &settings.handoff, &event.event, about);
        let request = Request {
            head,
            body: &event.event.body,
            is_head: &*event.event.method == "HEAD",
        };
        client
            .call_at(now.at, &settings.endpoint, request, &settings.limits)
            .await
    });
    match caught(call).await {
        Ok(result) => result.map_err(AttemptError::Call),
        Err(Panicked) => Err(AttemptError::Panicked),
    }
}

/// Runs `future`; a panic in it ends it, not the task around it. Pinned by its owner, since it would else be moved here.
pub(super) async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panicked> {
    // Nothing that the panic left half done is used again: the future is only dropped.
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_on_every_poll() {
        assert_eq!(caught(pin!(async { 7 })).await.ok(), Some(7));
        assert!(caught(pin!(async { panic!("at once") })).await.is_err());
        let later = pin!(async {
            tokio::task::yield_now().await;
            panic!("after a wait")
        });
        assert!(caught(later).await.is_err());
    }
}
