//! An app that comes back and finds many events waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::time::sleep;

use super::event::{Event, send_all};
use super::neighbours::latencies;
use super::rig::{Route, expect_attempts, metric, quantile, start};
use super::upstream::Book;
use crate::fault_server::FaultServer;
use crate::support::{Gateway, proved, rounds};

const CONCURRENCY: usize = 8;
const BURST: usize = 50;
/// The longest the breaker waits between two probes.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_the_drain_keeps_rate_and_concurrency() {
    let pending = rounds(1500, 50_000);
    let rate = rounds(600, 2000);
    // Taken and not listening: it refuses until it is up.
    let down = TcpSocket::new_v4().unwrap();
    down.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let keys = format!("concurrency = {CONCURRENCY}, rate = {{ per_second = {rate}, burst = {BURST} }},");
    let route = Route::queue("outage", down.local_addr().unwrap(), &keys);
    let other_book = Book::honest();
    let shared = other_book.clone();
    let other = FaultServer::start(move |mut peer| {
        let book = shared.clone();
        async move {
            while let Some(got) = peer.request().await {
                book.take(&got);
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let fresh = Route::queue("fresh", other.address, "");
    let gateway = Arc::new(start(&[route.clone(), fresh.clone()]));

    let events = Event::many(pending, 600);
    let acks = send_all(&events, gateway.listen(), &route.path(), 16).await;
    assert!(acks.iter().all(|answer| answer.status == 200));

    let book = Book::honest();
    let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let arrivals = Arc::new(std::sync::Mutex::new(Vec::with_capacity(pending)));
    let up = Instant::now();
    let shared = (book.clone(), at_once.clone(), arrivals.clone());
    let _app = FaultServer::on(down.listen(1024).unwrap(), move |mut peer| {
        let (book, at_once, arrivals) = shared.clone();
        async move {
            while let Some(got) = peer.request().await {
                let now = at_once.0.fetch_add(1, Ordering::SeqCst) + 1;
                at_once.1.fetch_max(now, Ordering::SeqCst);
                arrivals.lock().unwrap().push(Instant::now());
                // Long enough that attempts side by side are seen to be so.
                sleep(Duration::from_millis(2)).await;
                book.take(&got);
                at_once.0.fetch_sub(1, Ordering::SeqCst);
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    while arrivals.lock().unwrap().is_empty() {
        assert!(up.elapsed() < 2 * PROBE_WAIT_MAX, "the app was not found again");
        sleep(Duration::from_millis(5)).await;
    }
    let found = up.elapsed();
    let watching = tokio::spawn(watch_drain(gateway.clone(), book.clone(), pending));
    let beside = latencies(&gateway, &fresh, &other_book, rounds(50, 500)).await;
    watching.await.unwrap();

    let mut arrivals = arrivals.lock().unwrap().clone();
    arrivals.sort_unstable();
    let peak = peak_in_a_second(&arrivals);
    let gap = arrivals.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    let drained = *arrivals.last().unwrap() - arrivals[0];
    let most = at_once.1.load(Ordering::SeqCst);
    // What the limiter let go may bunch up by as many as are under way.
    assert!(peak <= rate + BURST + CONCURRENCY, "{peak} in a second");
    assert!(most <= CONCURRENCY, "{most} at once");
    assert!(gap < Duration::from_secs(3), "the drain stood still for {gap:?}");
    expect_attempts(&gateway, "outage", "delivered", pending);
    for event in &events {
        let visits = book.state().visits.get(&event.id).cloned().unwrap_or_default();
        assert!(visits.len() == 1 && visits[0].whole, "{}: {visits:?}", event.id);
    }
    let p99 = quantile(&beside, 0.99);
    assert!(
        p99 < Duration::from_secs(1),
        "a fresh event elsewhere took {p99:?}"
    );
    proved(
        "the drain after an outage",
        format!(
            "{pending} pending, app found after {found:.1?}, drained in {drained:.1?}, peak {peak}/s of {rate} + \
             {BURST}, {most} at once of {CONCURRENCY}, longest gap {gap:.0?}, fresh elsewhere p99 {p99:.1?}, 0 lost"
        ),
    );
}

/// The count of what waits never grows.
async fn watch_drain(gateway: Arc<Gateway>, book: Arc<Book>, pending: usize) {
    let mut last = u64::MAX;
    while book.state().taken < pending {
        let now = metric(&gateway, "hooklatch_pending_deliveries", "outage", "");
        assert!(now <= last, "{last} waiting became {now}");
        last = now;
        sleep(Duration::from_millis(100)).await;
    }
}

/// The most arrivals within any one second.
fn peak_in_a_second(arrivals: &[Instant]) -> usize {
    let mut first = 0;
    let mut peak = 0;
    for (index, at) in arrivals.iter().enumerate() {
        while *at - arrivals[first] >= Duration::from_secs(1) {
            first += 1;
        }
        peak = peak.max(index - first + 1);
    }
    peak
}
