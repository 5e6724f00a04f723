//! The end of the deliverer, ordered or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hooklatch::clock::Clock;
use hooklatch::deliver::Deliverer;
use hooklatch::event::{Seq, Timestamp};
use hooklatch::inbox::{InboxError, Outcome};
use hooklatch::shutdown::{self, Phase};
use hooklatch::telemetry::Telemetry;
use hooklatch::upstream::Client;
use tokio::time::Instant;

use super::app::{App, Reply};
use super::memory::MemoryInbox;
use super::{PATIENCE, QUIET, START, lane, start, target};

#[tokio::test]
async fn a_drain_lets_attempts_under_way_end_and_claims_no_more() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 4;
    let stage = start(&inbox, vec![settings]);
    app.seen(4).await;
    stage.control.enter(Phase::Draining);
    stage.control.enter(Phase::Closing);
    app.open();
    // Even before anybody waits for it.
    inbox.delivered(4).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(stage.end(PATIENCE).await, 0);
    assert_eq!((app.count(), inbox.state().settlements.len()), (4, 4));
}

#[tokio::test]
async fn a_drain_cuts_off_what_is_late_and_releases_it() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 4;
    let stage = start(&inbox, vec![settings]);
    app.seen(4).await;
    assert_eq!(stage.end(Duration::from_millis(50)).await, 4);
    let state = inbox.state();
    assert!(state.settlements.is_empty());
    assert!(state.deliveries.iter().all(|one| one.job.attempts == 0));
}

#[tokio::test]
async fn a_drain_without_work_is_quick() {
    let inbox = MemoryInbox::new();
    let stage = start(&inbox, vec![lane(&target("app"), 1), lane(&target("other"), 1)]);
    let began = Instant::now();
    assert_eq!(stage.end(PATIENCE).await, 0);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_dropped_deliverer_claims_no_more() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    app.seen(8).await;
    drop(stage.deliverer);
    app.open();
    inbox.delivered(8).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.leased()), (8, 0));
}

/// Panics when asked the time, once.
#[derive(Debug)]
struct FaultyClock(AtomicBool);

impl Clock for FaultyClock {
    fn now(&self) -> Timestamp {
        assert!(self.0.swap(true, Ordering::SeqCst), "injected");
        START
    }
}

#[tokio::test]
async fn a_panic_neither_loses_the_lease_nor_ends_the_lane() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 5);
    let (control, stop) = shutdown::channel();
    control.enter(Phase::Running);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    let deliverer = Deliverer::start(
        inbox.clone(),
        Client::new(Duration::from_secs(5), 64),
        Telemetry::new(),
        Arc::new(FaultyClock(AtomicBool::new(false))),
        vec![settings],
        stop,
    );
    inbox.delivered(4).await;
    let settled = inbox.state().settlements.clone();
    assert!(
        matches!(&settled[0].outcome, Outcome::Retry { error, .. } if error.contains("panicked")),
        "{settled:?}"
    );
    assert_eq!((settled[0].seq, settled[0].attempts), (Seq(1), 1));
    control.enter(Phase::Closing);
    deliverer.drained(Instant::now() + PATIENCE).await;
    assert_eq!(inbox.leased(), 0);
}

#[tokio::test]
async fn a_failed_or_closing_store_ends_the_lane_and_a_busy_one_does_not() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    for last in [InboxError::Closed, InboxError::Failed("disk".into())] {
        let inbox = MemoryInbox::new();
        inbox.fill(&target("app"), 1);
        inbox.state().refusals = vec![InboxError::Busy, InboxError::Full, last];
        let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
        inbox.until("claims", |state| state.claims_refused == 3).await;
        tokio::time::sleep(QUIET).await;
        assert_eq!((app.count(), inbox.state().claims_refused), (0, 3));
        stage.end(PATIENCE).await;
    }
}
