//! How senders learn what became of their events: all of one commit at once.
//!
//! The thread that commits wakes one of them, and that one the others, on the thread that they are served by. Woken one by one
//! from without, each would be a call of the system, and mostly two switches between threads. Should that one not run, the
//! thread that commits wakes the others after all, with its next commit or a moment later.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot::{self, Receiver, Sender};

use super::{Accepted, InboxError};

/// What became of an event.
type Verdict = Result<Accepted, InboxError>;

/// The end of an [`Acceptance`] that tells what became of the event. Dropping it says that the store is closed.
#[derive(Debug)]
pub struct Answer(Sender<Told>);

/// What one is told, and whom to tell next.
#[derive(Debug)]
struct Told {
    verdict: Verdict,
    others: Option<Answers>,
}

/// Answers of one commit. Whoever drops them first gives them.
#[derive(Debug)]
pub(super) struct Answers(Arc<Mutex<Vec<(Answer, Verdict)>>>);

/// The answer to [`Inbox::accept`](super::Inbox::accept); dropping it does not take the event back.
#[derive(Debug)]
pub struct Acceptance(State);

#[derive(Debug)]
enum State {
    Waiting(Receiver<Told>),
    Refused(Option<InboxError>),
}

impl Acceptance {
    /// Will be answered through what comes with it.
    pub fn waiting() -> (Answer, Self) {
        let (sender, receiver) = oneshot::channel();
        (Answer(sender), Self(State::Waiting(receiver)))
    }

    /// Was refused at once.
    pub fn refused(error: InboxError) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl Future for Acceptance {
    type Output = Result<Accepted, InboxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        match &mut self.0 {
            State::Waiting(receiver) => Pin::new(receiver).poll(context).map(|told| {
                let told = told.map_err(|_| InboxError::Closed)?;
                drop(told.others);
                told.verdict
            }),
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(InboxError::Closed))),
        }
    }
}

impl Answer {
    /// Tells it alone. A sender that has gone does not want its answer; the event is kept all the same.
    pub fn give(self, verdict: Result<Accepted, InboxError>) {
        let others = None;
        drop(self.0.send(Told { verdict, others }));
    }
}

impl Answers {
    /// Tells one of `all`, who tells the others once it runs. Dropping what comes back tells those who do not know yet.
    pub(super) fn hand_on(mut all: Vec<(Answer, Result<Accepted, InboxError>)>) -> Option<Self> {
        let first = all.iter().position(|(answer, _)| !answer.0.is_closed())?;
        let (first, verdict) = all.swap_remove(first);
        if all.is_empty() {
            first.give(verdict);
            return None;
        }
        let ours = Self(Arc::new(Mutex::new(all)));
        let others = Some(Self(ours.0.clone()));
        // One that has left just now is dropped with what it was told, which tells the others.
        drop(first.0.send(Told { verdict, others }));
        Some(ours)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (answer, verdict) in all {
            answer.give(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn poll(acceptance: &mut Acceptance) -> Option<Verdict> {
        match Pin::new(acceptance).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(verdict) => Some(verdict),
            Poll::Pending => None,
        }
    }

    /// One verdict each that can be told apart.
    fn verdict(number: usize) -> Verdict {
        Err(InboxError::Failed(number.to_string().into()))
    }

    /// Acceptances of one commit, and their ends.
    fn batch(count: usize) -> (Vec<(Answer, Verdict)>, Vec<Acceptance>) {
        let both = (0..count).map(|number| {
            let (answer, mut acceptance) = Acceptance::waiting();
            assert_eq!(poll(&mut acceptance), None);
            ((answer, verdict(number)), acceptance)
        });
        both.unzip()
    }

    #[test]
    fn one_is_told_and_tells_the_others() {
        let (answers, mut waiting) = batch(4);
        let ours = Answers::hand_on(answers);
        assert!(
            waiting
                .iter_mut()
                .skip(1)
                .all(|acceptance| poll(acceptance).is_none())
        );
        for (number, acceptance) in waiting.iter_mut().enumerate() {
            assert_eq!(poll(acceptance), Some(verdict(number)));
        }
        drop(ours);
    }

    #[test]
    fn whoever_leaves_keeps_nobody_waiting() {
        for (case, leave_before, leave_after) in [
            ("the one who was to be told", &[0][..], &[][..]),
            ("two of those", &[0, 1], &[]),
            ("the one who was told", &[], &[0]),
            ("both", &[0], &[1]),
            ("another", &[2], &[3]),
            ("all but one", &[0, 1, 3], &[]),
            ("all", &[0, 1, 2, 3], &[]),
        ] {
            let (answers, waiting) = batch(4);
            let mut waiting: Vec<_> = waiting.into_iter().map(Some).collect();
            leave_before.iter().for_each(|gone| drop(waiting[*gone].take()));
            let ours = Answers::hand_on(answers);
            leave_after.iter().for_each(|gone| drop(waiting[*gone].take()));
            // The first of those who stay is the one who is told, unless that one has told the others by leaving.
            for (number, acceptance) in waiting.iter_mut().enumerate() {
                if let Some(acceptance) = acceptance {
                    assert_eq!(poll(acceptance), Some(verdict(number)), "{case}: {number}");
                }
            }
            drop(ours);
        }
    }

    #[test]
    fn where_the_one_who_is_told_does_not_run_the_others_are_told_by_whoever_committed() {
        let (answers, mut waiting) = batch(3);
        let ours = Answers::hand_on(answers);
        assert!(ours.is_some());
        drop(ours);
        for number in [2, 1, 0] {
            assert_eq!(poll(&mut waiting[number]), Some(verdict(number)));
        }
    }

    #[test]
    fn an_answer_that_is_dropped_says_that_the_store_is_closed() {
        let (answer, mut acceptance) = Acceptance::waiting();
        drop(answer);
        assert_eq!(poll(&mut acceptance), Some(Err(InboxError::Closed)));
        assert!(Answers::hand_on(Vec::new()).is_none());
    }
}
