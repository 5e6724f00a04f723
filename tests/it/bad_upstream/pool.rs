//! Connections that are kept: what ends them, and what comes on them that nobody asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::event::Event;
use super::rig::{Route, attempts, expect_attempts, start};
use super::upstream::Book;
use crate::fault_server::{FaultServer, Peer};
use crate::support::{Gateway, proved, rounds};

const KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken";
const REFUSED: &[u8] = b"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\nno";
/// How long an app keeps a connection here; a sender that pauses so long meets its end.
const IDLE: Duration = Duration::from_millis(10);

/// What becomes of a connection after its first answer.
#[derive(Debug, Clone, Copy)]
enum Stale {
    ClosedAtOnce,
    ClosedAfterIdle,
    ClosedAsTheNextComes,
    ResetAsTheNextComes,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_ended_costs_neither_an_error_nor_a_second_delivery() {
    let mut lanes = Vec::new();
    let mut routes = Vec::new();
    for (name, stale) in [
        ("closed-at-once", Stale::ClosedAtOnce),
        ("closed-after-idle", Stale::ClosedAfterIdle),
        ("closed-as-the-next-comes", Stale::ClosedAsTheNextComes),
        ("reset-as-the-next-comes", Stale::ResetAsTheNextComes),
    ] {
        for proxied in [false, true] {
            let book = Book::honest();
            let (server, shared) = (FaultServer::start, book.clone());
            let server = server(move |peer| go_stale(peer, shared.clone(), stale)).await;
            let route = route(name, proxied, server.address);
            routes.push(route.clone());
            lanes.push((route, proxied, book, server));
        }
    }
    let gateway = Arc::new(start(&routes));
    let count = rounds(100, 1000);
    let mut at_work = tokio::task::JoinSet::new();
    for (route, proxied, book, server) in lanes {
        let gateway = gateway.clone();
        at_work.spawn(async move {
            let events = Event::many(count, 600);
            for event in &events {
                send(&gateway, &route, proxied, event).await;
                sleep(IDLE).await;
            }
            book.until(&route.name, |state| state.taken >= events.len()).await;
            if !proxied {
                expect_attempts(&gateway, &route.name, "delivered", events.len());
                assert_eq!(attempts(&gateway, &route.name, "retry"), 0, "{}", route.name);
            }
            for event in &events {
                let visits = book.state().visits[&event.id].clone();
                assert!(visits.len() == 1 && visits[0].whole, "{}: {visits:?}", route.name);
            }
            server.connections()
        });
    }
    let connections: usize = at_work.join_all().await.into_iter().sum();
    proved(
        "connections that went stale",
        format!(
            "8 routes, {} events over {connections} connections, 0 errors, 0 sent twice",
            8 * count
        ),
    );
}

fn route(name: &str, proxied: bool, address: std::net::SocketAddr) -> Route {
    if proxied {
        Route::proxy(&format!("proxy-{name}"), address, "")
    } else {
        Route::queue(&format!("queue-{name}"), address, "concurrency = 1,")
    }
}

async fn send(gateway: &Gateway, route: &Route, proxied: bool, event: &Event) {
    let answer = event.send(gateway.listen(), &route.path()).await.unwrap();
    let expected = if proxied { "taken" } else { r#"{"received":true}"# };
    assert_eq!((answer.status, &*answer.text), (200, expected), "{}", route.name);
}

async fn go_stale(mut peer: Peer, book: Arc<Book>, stale: Stale) {
    let Some(got) = peer.request().await else { return };
    book.take(&got);
    peer.write(KEPT).await;
    match stale {
        Stale::ClosedAtOnce => {}
        Stale::ClosedAfterIdle => {
            // Whoever comes earlier than that is served once more.
            if let Ok(Some(got)) = timeout(IDLE, peer.request()).await {
                book.take(&got);
                peer.write(KEPT).await;
            }
        }
        Stale::ClosedAsTheNextComes => drop(peer.stream.readable().await),
        Stale::ResetAsTheNextComes => {
            drop(peer.stream.readable().await);
            peer.reset();
        }
    }
}

/// Every event is refused once. The 200 that comes along with the refusal, or later, is nobody's: whoever took it for
/// the answer to the next event would lose that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_answer_is_not_taken_for_that_of_the_next_event() {
    let mut lanes = Vec::new();
    let mut routes = Vec::new();
    for (name, late) in [("doubled", false), ("doubled-later", true)] {
        let book = Book::honest();
        let shared = book.clone();
        let server = FaultServer::start(move |peer| answer_twice(peer, shared.clone(), late)).await;
        let route = route(name, true, server.address);
        routes.push(route.clone());
        lanes.push((route, book, server));
    }
    let gateway = Arc::new(start(&routes));
    let count = rounds(50, 500);
    let mut at_work = tokio::task::JoinSet::new();
    for (route, book, _server) in lanes {
        let gateway = gateway.clone();
        at_work.spawn(async move {
            for event in Event::many(count, 600) {
                for status in [500, 200] {
                    let answer = event.send(gateway.listen(), &route.path()).await.unwrap();
                    assert_eq!(answer.status, status, "{}: {}", route.name, event.id);
                    // The second answer comes while the connection is idle.
                    sleep(2 * IDLE).await;
                }
                let visits = book.state().visits[&event.id].clone();
                assert_eq!(visits.len(), 2, "{}: {visits:?}", route.name);
            }
            drop(_server);
        });
    }
    at_work.join_all().await;
    proved(
        "answers nobody asked for",
        format!("2 routes, {} events, 0 taken for another's answer", 2 * count),
    );
}

async fn answer_twice(mut peer: Peer, book: Arc<Book>, late: bool) {
    let refused = AtomicBool::new(false);
    while let Some(got) = peer.request().await {
        if book.take(&got) > 1 {
            peer.write(KEPT).await;
            continue;
        }
        assert!(
            !refused.swap(true, Ordering::SeqCst),
            "used again after a second answer"
        );
        if late {
            peer.write(REFUSED).await;
            sleep(IDLE / 2).await;
            peer.write(KEPT).await;
        } else {
            peer.write(&[REFUSED, KEPT].concat()).await;
        }
    }
}
