//! What becomes of a delivery, by what the app says.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use hooklatch::event::{EventKey, Seq, Timestamp};
use hooklatch::inbox::Outcome;

use super::app::{App, Reply};
use super::memory::MemoryInbox;
use super::{PATIENCE, START, kept, lane, start, target};

fn retry(wait: Duration, status: Option<u16>, error: &str) -> Outcome {
    Outcome::Retry {
        wait,
        status,
        error: error.into(),
    }
}

const MS_5: Duration = Duration::from_millis(5);

#[tokio::test]
async fn the_app_gets_the_exact_bytes() {
    let app = App::start(|_, _| Reply::Status(202)).await;
    let inbox = MemoryInbox::new();
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut event = kept(7);
    event.possible_duplicate_of = Some(EventKey::from_stored("0123"));
    std::sync::Arc::make_mut(&mut event.event).event_id = Some("evt_7".into());
    std::sync::Arc::make_mut(&mut event.event).headers =
        Bytes::from_static(b"x-SIG: sha256=AbC\r\nx-sig2:  two  blanks \r\nAccept:*/*\r\n");
    std::sync::Arc::make_mut(&mut event.event).query = Some("a=%20&b".into());
    std::sync::Arc::make_mut(&mut event.event).body = body.clone().into();
    let key = event.key.to_string();
    inbox.add(&target("app"), event);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);

    let seen = app.seen(1).await.remove(0);
    assert_eq!(
        seen.head,
        format!(
            "POST /in?a=%20&b HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nx-SIG: sha256=AbC\r\nx-sig2:  two  blanks \r\nAccept:*/*\r\n\
             Content-Length: 300000\r\nHooklatch-Event-Id: evt_7\r\nHooklatch-Route: hooks\r\nHooklatch-Provider: \
             quantiv\r\nHooklatch-Verified: true\r\nHooklatch-Attempt: 1\r\nHooklatch-Received-At: {START}\r\n\
             Hooklatch-Key: {key}\r\nHooklatch-Possible-Duplicate: 0123\r\nIdempotency-Key: {key}\r\n\r\n",
            app.port
        )
    );
    assert!(seen.body == body, "the body changed");
    let settled = inbox.settled(1).await;
    assert_eq!(settled[0].outcome, Outcome::Delivered { status: 202 });
    assert_eq!((settled[0].seq, settled[0].attempts), (Seq(7), 1));
    assert_eq!(stage.end(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_one_with_the_same_key() {
    let app = App::start(|_, before| match before {
        0 => Reply::Status(503),
        1 => Reply::HangUp,
        2 => Reply::With(302, "Location: http://127.0.0.1:1/"),
        _ => Reply::Status(200),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);

    let settled = inbox.settled(4).await;
    assert_eq!(settled[0].outcome, retry(MS_5, Some(503), "status 503"));
    let Outcome::Retry {
        status: None, error, ..
    } = &settled[1].outcome
    else {
        panic!("{settled:?}")
    };
    assert!(error.starts_with("the connection broke"), "{error}");
    assert!(matches!(
        settled[2].outcome,
        Outcome::Retry {
            status: Some(302),
            ..
        }
    ));
    assert_eq!(settled[3].outcome, Outcome::Delivered { status: 200 });
    assert_eq!(
        settled.iter().map(|one| one.attempts).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );

    let seen = app.seen(4).await;
    let first_key = seen[0].header("Hooklatch-Key").unwrap().to_owned();
    for (number, one) in (1..).zip(&seen) {
        assert_eq!(one.header("Hooklatch-Key"), Some(&*first_key));
        assert_eq!(one.header("Idempotency-Key"), Some(&*first_key));
        assert_eq!(one.header("Hooklatch-Attempt"), Some(&*number.to_string()));
    }
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn gone_is_dead_at_once() {
    let app = App::start(|_, _| Reply::With(410, "Retry-After: 1")).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    let settled = inbox.settled(1).await;
    assert!(matches!(
        settled[0].outcome,
        Outcome::Dead {
            status: Some(410),
            ..
        }
    ));
    stage.end(PATIENCE).await;
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_the_longest_wait() {
    let app = App::start(|seen, _| match seen.seq() {
        1 => Reply::With(429, "Retry-After: 1800"),
        2 => Reply::With(503, "retry-after: 86400"),
        // START is 2026-09-21 14:13:20 UTC.
        3 => Reply::With(503, "Retry-After: Mon, 21 Sep 2026 14:18:20 GMT"),
        _ => Reply::With(503, "Retry-After: soon"),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 4);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    let waits: HashMap<Seq, Duration> = inbox
        .settled(4)
        .await
        .into_iter()
        .map(|settlement| match settlement.outcome {
            Outcome::Retry { wait, .. } => (settlement.seq, wait),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits[&Seq(1)], Duration::from_secs(1800));
    assert_eq!(waits[&Seq(2)], Duration::from_secs(3600));
    assert_eq!(waits[&Seq(3)], Duration::from_secs(300));
    assert_eq!(waits[&Seq(4)], MS_5);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn the_last_allowed_attempt_makes_it_dead() {
    let app = App::start(|_, _| Reply::Status(400)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let mut settings = lane(&target("app"), app.port);
    settings.retry.attempts_max = Some(3);
    let stage = start(&inbox, vec![settings]);
    let settled = inbox.settled(3).await;
    assert!(matches!(settled[1].outcome, Outcome::Retry { .. }));
    assert_eq!(
        settled[2].outcome,
        Outcome::Dead {
            status: Some(400),
            error: "status 400; gave up: 3 attempts".into()
        }
    );
    stage.end(PATIENCE).await;
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn age_kills_only_after_a_failed_attempt() {
    const AGE_MAX_MS: u64 = 72 * 3600 * 1000;
    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
    let app = App::start(|seen, _| match seen.seq() {
        4 => Reply::Status(200),
        _ => Reply::Status(400),
    })
    .await;
    let inbox = MemoryInbox::new();
    let stage = start(&inbox, Vec::new());
    let settings = || {
        let mut settings = lane(&target("app"), app.port);
        settings.retry.first = Duration::from_secs(3600);
        vec![settings]
    };
    for (name, seq, millis, wall, dead) in [
        ("the clock went a year ahead", 1, 0, YEAR_MS, false),
        ("a millisecond too young", 2, AGE_MAX_MS - 1, 0, false),
        (
            "old enough, and the clock went back",
            3,
            AGE_MAX_MS,
            -YEAR_MS,
            true,
        ),
        ("old, but taken", 4, AGE_MAX_MS * 10, 0, false),
    ] {
        stage.clock.set(Timestamp(START.0 + wall));
        inbox.state().age = Duration::from_millis(millis);
        inbox.add(&target("app"), kept(seq));
        stage.deliverer.reconfigure(settings());
        let settled = inbox.settled(seq as usize).await;
        let last = settled.last().unwrap();
        assert_eq!(last.seq, Seq(seq), "{name}");
        assert_eq!(
            matches!(last.outcome, Outcome::Dead { .. }),
            dead,
            "{name}: {last:?}"
        );
    }
    stage.end(PATIENCE).await;
}
