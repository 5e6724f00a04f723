//! New settings while deliveries are under way.

use std::time::Duration;

use hooklatch::deliver::{LaneSettings, Quota};
use hooklatch::event::Seq;
use hooklatch::inbox::{Inbox, Outcome};

use super::app::{App, Reply, Seen};
use super::memory::MemoryInbox;
use super::{PATIENCE, QUIET, kept, lane, start, target};

#[tokio::test]
async fn a_new_url_redirects_what_is_pending() {
    let old = App::start(|seen, _| match seen.seq() {
        1 => Reply::WhenOpened,
        _ => Reply::Status(400),
    })
    .await;
    let new = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), old.port);
    settings.retry.first = Duration::from_millis(100);
    let stage = start(&inbox, vec![settings]);
    inbox.settled(9).await;
    stage.deliverer.reconfigure(vec![lane(&target("app"), new.port)]);
    inbox.delivered(9).await;
    let mut moved: Vec<i64> = new.seen(9).await.iter().map(Seen::seq).collect();
    moved.sort_unstable();
    assert_eq!(moved, (2..=10).collect::<Vec<_>>());
    // The attempt that was under way ends where it began.
    old.open();
    inbox.delivered(10).await;
    assert_eq!(new.count(), 9);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_paused_lane_claims_nothing_until_it_is_resumed() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 3);
    let running = lane(&target("app"), app.port);
    let paused = LaneSettings {
        paused: true,
        ..running.clone()
    };
    let stage = start(&inbox, vec![paused.clone()]);
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.state().leased_most), (0, 0));
    assert!(inbox.state().targets.is_empty(), "a paused target would age");

    stage.deliverer.reconfigure(vec![running.clone()]);
    inbox.delivered(3).await;
    stage.deliverer.reconfigure(vec![paused]);
    inbox.set_targets(&[target("app")]);
    inbox.add(&target("app"), kept(4));
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.leased()), (3, 0));
    stage.deliverer.reconfigure(vec![running]);
    inbox.delivered(4).await;
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_lane_that_goes_lets_its_attempts_end_and_keeps_its_breaker() {
    let app = App::start(|seen, _| match seen.seq() {
        1 => Reply::WhenOpened,
        _ => Reply::Status(500),
    })
    .await;
    let other = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 6);
    let mut settings = lane(&target("app"), app.port);
    settings.retry.first = Duration::from_secs(3600);
    let stage = start(&inbox, vec![settings.clone()]);
    inbox.settled(5).await;
    stage
        .deliverer
        .reconfigure(vec![lane(&target("other"), other.port)]);
    inbox.add(&target("app"), kept(7));
    inbox.add(&target("other"), kept(8));
    inbox.delivered(1).await;
    assert_eq!(inbox.state().targets, [target("other")]);
    // Back at once: the breaker is still open, so event 7 has to wait for the first probe.
    stage.deliverer.reconfigure(vec![settings]);
    let seen = app.seen(7).await;
    assert_eq!(seen[6].seq(), 7);
    assert!(seen[6].at - seen[5].at >= Duration::from_millis(500), "no probe");
    app.open();
    inbox.delivered(2).await;
    stage.end(PATIENCE).await;
}

/// Each event of the storm fails this often, by what the app does then.
fn storm_reply(seq: i64, attempt: u32) -> Reply {
    match (seq % 10, attempt) {
        (0, _) => Reply::Status(410),
        (1, _) => Reply::Status(404),
        (2 | 3, 1) => Reply::HangUp,
        (4, 1) => Reply::Status(500),
        (5, 1..=3) => Reply::Status(409),
        (6, 1) => Reply::With(503, "Retry-After: 0"),
        _ => Reply::Status(200),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_in_a_storm_lose_and_repeat_nothing() {
    const EVENTS: i64 = 400;
    let answer = |seen: &Seen, _| {
        let attempt = seen.header("Hooklatch-Attempt").unwrap().parse().unwrap();
        storm_reply(seen.seq(), attempt)
    };
    let (app, other) = (App::start(answer).await, App::start(answer).await);
    let settings = |round: usize| {
        let mut settings = lane(
            &target("app"),
            if round.is_multiple_of(2) {
                app.port
            } else {
                other.port
            },
        );
        settings.concurrency = 1 + round * 7 % 16;
        settings.paused = round % 5 == 3;
        settings.retry.attempts_max = Some(4);
        settings.rates = vec![Quota {
            per_second: 2000.0,
            burst: 1 + (round % 3) as u32,
        }];
        if round % 7 == 5 {
            Vec::new()
        } else {
            vec![settings]
        }
    };
    let inbox = MemoryInbox::new();
    let stage = start(&inbox, settings(0));
    for round in 0..40 {
        let first = round as i64 * EVENTS / 40;
        (first + 1..=first + EVENTS / 40).for_each(|seq| inbox.add(&target("app"), kept(seq)));
        stage.deliverer.reconfigure(settings(round));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.deliverer.reconfigure(settings(42));
    inbox
        .until("all settled", |state| {
            state.deliveries.iter().all(|one| one.settled)
        })
        .await;
    let settlements = inbox.state().settlements.clone();
    let made = app.count() + other.count();
    assert_eq!(settlements.len(), made, "one settlement an attempt");
    for seq in 1..=EVENTS {
        let of_event = settlements.iter().filter(|one| one.seq == Seq(seq));
        let attempts: Vec<u32> = of_event.clone().map(|one| one.attempts).collect();
        let expected = match seq % 10 {
            0 | 7 | 8 | 9 => 1,
            1 | 5 => 4,
            _ => 2,
        };
        assert_eq!(attempts, (1..=expected).collect::<Vec<_>>(), "event {seq}");
        let dead = of_event
            .filter(|one| matches!(one.outcome, Outcome::Dead { .. }))
            .count();
        assert_eq!(dead, usize::from(seq % 10 < 2), "event {seq}");
    }
    stage.end(PATIENCE).await;
}
