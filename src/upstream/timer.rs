//! The end of a wait, for connections that wait again and again.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for all waits of a connection, one after the other.
///
/// It is not set for each of them, which takes a lock and more time than most waits are worth: one that is set already and rings too early
/// is set anew when it has rung.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

/// The wait was over before what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLate;

impl Timer {
    /// Waits for `future`, at most until `at`; one that goes on for as long as its task may (tokio's budget) is let go on.
    ///
    /// # Errors
    /// [`TooLate`] where that passes first; `future` is dropped.
    pub(crate) async fn until<F: Future>(&mut self, at: Instant, future: F) -> Result<F::Output, TooLate> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_past(context, at).map(|()| Err(TooLate)),
        })
        .await
    }

    /// Ready once `at` has passed.
    pub(super) fn poll_past(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_time() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut timer = Timer::default();
        // Before and after what it is set to, and once it has rung.
        for (secs, ended) in [(10, 10), (11, 11), (60, 60), (20, 60), (70, 70)] {
            assert_eq!(timer.until(after(secs), pending::<()>()).await, Err(TooLate));
            assert_eq!(start.elapsed().as_secs(), ended, "{secs}");
        }
        // Set to 100, and rings for one that ends before.
        assert!(timer.until(after(100), std::future::ready(())).await.is_ok());
        for secs in [90, 80] {
            let wait = timer.until(after(secs), tokio::time::sleep(Duration::from_millis(1)));
            assert_eq!(wait.await, Ok(()));
        }
        assert_eq!(timer.until(after(75), pending::<()>()).await, Err(TooLate));
        assert_eq!(start.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_ends_the_wait() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut timer = Timer::default();
        for secs in [3, 8, 40] {
            let came = timer
                .until(after(100), tokio::time::sleep_until(after(secs)))
                .await;
            assert_eq!((came, start.elapsed().as_secs()), (Ok(()), secs));
        }
        // What is ready counts, however late it is.
        assert_eq!(timer.until(after(1), async { 7 }).await, Ok(7));
    }
}
