//! An upstream that is down beside one that is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::event::{Event, send_all};
use super::rig::{Route, quantile, start};
use super::upstream::Book;
use crate::fault_server::FaultServer;
use crate::support::{Gateway, proved, rounds};

/// Between two events of the healthy route.
const PAUSE: Duration = Duration::from_millis(10);
/// What a dead upstream may cost another route, on a machine that does other things too.
const COST_MAX: Duration = Duration::from_millis(500);
/// Events for each dead route.
const EVENTS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_upstream_slows_no_other_route_and_no_acceptance() {
    let book = Book::honest();
    let shared = book.clone();
    let healthy = FaultServer::start(move |mut peer| {
        let book = shared.clone();
        async move {
            while let Some(got) = peer.request().await {
                book.take(&got);
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let hanging = FaultServer::start(|mut peer| async move { peer.hang().await }).await;
    let dripping = FaultServer::start(|mut peer| async move {
        peer.request().await;
        for byte in b"HTTP/1.1 200 OK\r\n" {
            peer.write(&[*byte]).await;
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let dead = [
        Route::queue("refusing", FaultServer::refusing().await, ""),
        Route::queue("hanging", hanging.address, "timeout = \"5s\","),
        Route::queue("dripping", dripping.address, "timeout = \"5s\","),
    ];
    let proxied = Route::proxy("proxied", hanging.address, "timeout = \"5s\",");
    let route = Route::queue("healthy", healthy.address, "");
    let mut routes = dead.to_vec();
    routes.extend([proxied.clone(), route.clone()]);
    let gateway = Arc::new(start(&routes));

    let count = rounds(100, 1000);
    let calm = latencies(&gateway, &route, &book, count).await;
    let mut floods = JoinSet::new();
    for (route, senders) in dead.iter().map(|route| (route, 4)).chain([(&proxied, EVENTS)]) {
        let (gateway, path) = (gateway.clone(), route.path());
        floods.spawn(async move {
            let answers = send_all(&Event::many(EVENTS, 600), gateway.listen(), &path, senders).await;
            let kept = answers.iter().all(|answer| answer.status == 200);
            let told = answers.iter().all(|answer| answer.status == 504);
            assert!(
                if path == "/proxied" { told } else { kept },
                "{path}: {answers:?}"
            );
            // A sender in `proxy` mode waits for the upstream.
            let waits = if kept { answers } else { Vec::new() };
            waits.into_iter().map(|answer| answer.elapsed).collect::<Vec<_>>()
        });
    }
    let beside = latencies(&gateway, &route, &book, count).await;
    let acks = floods.join_all().await.concat();

    let figures = |values: &[Duration]| (quantile(values, 0.5), quantile(values, 0.99));
    let (calm, beside) = (figures(&calm), figures(&beside));
    let ack = figures(&acks);
    assert!(
        beside.0 <= calm.0 + COST_MAX,
        "median {:?} became {:?}",
        calm.0,
        beside.0
    );
    assert!(
        beside.1 <= calm.1 + 2 * COST_MAX,
        "p99 {:?} became {:?}",
        calm.1,
        beside.1
    );
    assert!(ack.1 <= 4 * COST_MAX, "the 200 for dead upstreams took {ack:?}");
    proved(
        "a dead upstream beside a healthy one",
        format!(
            "{count} events from sent to app p50 {:.1?} p99 {:.1?}, beside 4 dead routes with {EVENTS} events each p50 \
             {:.1?} p99 {:.1?}; 200 for their events p50 {:.1?} p99 {:.1?}",
            calm.0, calm.1, beside.0, beside.1, ack.0, ack.1
        ),
    );
}

/// From the sending of an event to its arrival at the app.
pub(super) async fn latencies(gateway: &Gateway, route: &Route, book: &Book, count: usize) -> Vec<Duration> {
    let mut all = Vec::with_capacity(count);
    for event in Event::many(count, 600) {
        let began = Instant::now();
        let answer = event.send(gateway.listen(), &route.path()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", route.name);
        let arrived = |state: &super::upstream::State| state.visits.contains_key(&event.id);
        book.until(&route.name, arrived).await;
        all.push(began.elapsed());
        sleep(PAUSE).await;
    }
    all
}
