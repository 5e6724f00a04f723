//! An event the app chokes on, among others that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::event::{Event, send_all};
use super::neighbours::latencies;
use super::rig::{Route, admin, attempts, expect_attempts, metric, quantile, start};
use super::upstream::{Book, field};
use crate::fault_server::FaultServer;
use crate::support::{PATIENCE, proved, rounds, wait_for};

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const CHOKED: &[u8] = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n";

/// Answers 500 to the event `poison` until it is cured, and books what it takes, and each sight of the poison.
async fn app(poison: &Event, book: &Arc<Book>, cured: &Arc<AtomicBool>) -> FaultServer {
    let shared = (poison.id.clone(), book.clone(), cured.clone());
    FaultServer::start(move |mut peer| {
        let (poison, book, cured) = shared.clone();
        async move {
            while let Some(got) = peer.request().await {
                let choked = field(&got.head, "Hooklatch-Event-Id") == Some(&poison);
                book.take(&got);
                let answer = if choked && !cured.load(Ordering::SeqCst) {
                    CHOKED
                } else {
                    TAKEN
                };
                peer.write(answer).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_always_fails_holds_no_other_and_can_be_replayed() {
    let count = rounds(500, 10_000);
    let mut events = Event::many(count, 600);
    let poison = events.swap_remove(count / 2);
    let (book, cured) = (Book::honest(), Arc::default());
    let server = app(&poison, &book, &cured).await;
    let mut route = Route::queue("poisoned", server.address, "concurrency = 4,");
    route.upstream = route
        .upstream
        .replace("max = \"200ms\"", "max = \"200ms\", attempts = 6");
    let gateway = start(std::slice::from_ref(&route));
    let path = route.path();

    assert_eq!(poison.send(gateway.listen(), &path).await.unwrap().status, 200);
    let began = Instant::now();
    let acks = send_all(&events, gateway.listen(), &path, 8).await;
    assert!(acks.iter().all(|answer| answer.status == 200));
    expect_attempts(&gateway, "poisoned", "delivered", count - 1);
    let others = began.elapsed();
    let dead = wait_for(PATIENCE, || {
        (metric(&gateway, "hooklatch_dead_deliveries", "poisoned", "") == 1).then_some(())
    });
    assert!(dead.is_some(), "the poison is not dead");
    let visits = |event: &Event| book.state().visits.get(&event.id).cloned().unwrap_or_default();
    assert_eq!(visits(&poison).len(), 6, "attempts of the poison");
    for event in &events {
        let visits = visits(event);
        assert!(visits.len() == 1 && visits[0].whole, "{}: {visits:?}", event.id);
    }

    cured.store(true, Ordering::SeqCst);
    let replayed = admin(&gateway, "POST", "/-/replay", r#"{"status":"dead"}"#);
    assert_eq!(
        (replayed.status, replayed.text().contains(r#""deliveries":1"#)),
        (200, true)
    );
    expect_attempts(&gateway, "poisoned", "delivered", count);
    let visits = visits(&poison);
    assert!(
        visits
            .iter()
            .all(|visit| visit.whole && visit.key == visits[0].key),
        "{visits:?}"
    );
    proved(
        "one event that always fails",
        format!(
            "{count} events, {} others taken in {others:.1?}, 1 dead after 6 attempts and replayed",
            count - 1
        ),
    );
}

/// On a quiet route too: its failures alone do not say that the app is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_fails_alone_does_not_hold_the_next() {
    let poison = Event::new(600);
    let (book, cured) = (Book::honest(), Arc::default());
    let server = app(&poison, &book, &cured).await;
    let route = Route::queue("quiet", server.address, "");
    let gateway = start(std::slice::from_ref(&route));
    assert_eq!(
        poison.send(gateway.listen(), &route.path()).await.unwrap().status,
        200
    );
    let failed = wait_for(PATIENCE, || {
        (attempts(&gateway, "quiet", "retry") >= 12).then_some(())
    });
    assert!(
        failed.is_some(),
        "{} failures",
        attempts(&gateway, "quiet", "retry")
    );
    let waits = latencies(&gateway, &route, &book, 20).await;
    let slowest = quantile(&waits, 1.0);
    assert!(
        slowest < Duration::from_millis(500),
        "an event waited {slowest:?}"
    );
}
