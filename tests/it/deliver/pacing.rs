//! When attempts are made: breaker, concurrency, rates, and lanes side by side.

use std::time::Duration;

use hooklatch::deliver::Quota;
use hooklatch::inbox::Outcome;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::app::{App, Reply, Seen};
use super::memory::MemoryInbox;
use super::{PATIENCE, QUIET, lane, start, target};

#[tokio::test]
async fn five_failures_open_the_breaker_and_probes_are_single_and_of_other_events() {
    // The first six requests fail, and event 1 always does.
    let app = App::start(|seen, before| match before {
        0..6 => Reply::Status(500),
        _ if seen.seq() == 1 => Reply::Status(500),
        _ => Reply::Status(200),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 20);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    // The first five failures are those of five events: one alone would not open it.
    settings.retry.first = Duration::from_millis(400);
    settings.retry.jitter = 0.0;
    let stage = start(&inbox, vec![settings]);

    inbox.delivered(19).await;

    let seen = app.seen(7).await;
    let probes: Vec<i64> = seen[5..7].iter().map(Seen::seq).collect();
    assert!(
        seen[5].at - seen[4].at >= Duration::from_millis(500),
        "first probe too early"
    );
    assert!(
        seen[6].at - seen[5].at >= Duration::from_secs(1),
        "second probe too early"
    );
    for probe in &probes {
        let earlier = seen[..7].iter().filter(|one| one.seq() == *probe).count();
        assert_eq!(earlier, 1, "probe with an event tried before: {probes:?}");
    }
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_client_error_does_not_open_the_breaker() {
    let app = App::start(|_, _| Reply::Status(422)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 30);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    settings.retry.attempts_max = Some(1);
    let began = Instant::now();
    let stage = start(&inbox, vec![settings]);
    inbox.settled(30).await;
    // Five-and-twenty probes would take minutes.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_refused_connection_opens_it_and_the_app_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 50);
    let stage = start(&inbox, vec![lane(&target("app"), port)]);
    let settled = inbox.settled(5).await;
    assert!(
        settled
            .iter()
            .all(|one| matches!(&one.outcome, Outcome::Retry { status: None, error, .. } if error.starts_with("cannot connect to 127.0.0.1")))
    );
    tokio::time::sleep(QUIET).await;
    // Eight may have been under way when the fifth failed.
    assert!(inbox.settled(5).await.len() <= 8 + 5);
    inbox
        .until("leases back while the breaker is open", |state| {
            state.leased() == 0
        })
        .await;

    let app = App::start(|_, _| Reply::Status(200)).await;
    stage.deliverer.reconfigure(vec![lane(&target("app"), app.port)]);
    inbox.delivered(50).await;
    stage.end(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_is_never_exceeded_and_can_be_changed() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 40);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 3;
    let stage = start(&inbox, vec![settings.clone()]);
    app.seen(3).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 3);
    assert_eq!(inbox.state().leased_most, 3, "leases without a place for them");

    settings.concurrency = 5;
    stage.deliverer.reconfigure(vec![settings.clone()]);
    app.seen(5).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 5);
    app.open();
    inbox.delivered(40).await;
    assert_eq!(app.at_once_most(), 5);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn the_rate_is_kept() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 12);
    let mut settings = lane(&target("app"), app.port);
    settings.rates = vec![
        Quota {
            per_second: 1000.0,
            burst: 100,
        },
        Quota {
            per_second: 20.0,
            burst: 2,
        },
    ];
    let began = Instant::now();
    let stage = start(&inbox, vec![settings]);
    let seen = app.seen(12).await;
    // The burst, then one every 50 ms.
    for (place, one) in (0_u32..).zip(&seen) {
        let earliest = Duration::from_millis(50) * place.saturating_sub(1);
        assert!(one.at - began >= earliest, "request {place} came too early");
    }
    // Two under way and two, a tenth of a second's worth, waiting for the rate.
    let leased_most = inbox.state().leased_most;
    assert!(leased_most <= 4, "{leased_most} leased at once");
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_hanging_upstream_does_not_slow_another() {
    let hanging = App::start(|_, _| Reply::WhenOpened).await;
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("hanging"), 50);
    inbox.fill(&target("app"), 200);
    let stage = start(
        &inbox,
        vec![
            lane(&target("hanging"), hanging.port),
            lane(&target("app"), app.port),
        ],
    );
    hanging.seen(8).await;
    inbox.delivered(200).await;
    assert_eq!(hanging.count(), 8);
    hanging.open();
    inbox.delivered(250).await;
    stage.end(PATIENCE).await;
}
