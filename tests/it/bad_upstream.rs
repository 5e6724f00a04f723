//! The proof that no upstream, whatever it does wrong, makes us lose an event, slows another route, or is believed where it
//! must not be.
//!
//! A scripted upstream strikes each event once and then behaves; it books every request it has read. Senders get their
//! 200 (`queue`) or the failure (`proxy`) and then send again. At the end each event was taken once, byte for byte,
//! each attempt of it came with the same key, each repeat is one that the gateway counted as a failure, and the log
//! names the fault.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing"
)]

mod event;
mod faults;
mod names;
mod neighbours;
mod ordeal;
mod outage;
mod poison;
mod pool;
mod rig;
mod upstream;

use std::time::Duration;

use self::faults::{breaks, early, excess, framing, refusals, silence};
use self::ordeal::Ordeal;
use crate::fault_server::FaultServer;
use crate::support::rounds;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections() {
    Ordeal::default().undergo("broken connections", breaks()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_slow_upstreams() {
    let ordeal = Ordeal {
        // A byte a second must be seen to come.
        attempt: Duration::from_secs(2),
        ..Ordeal::default()
    };
    ordeal.undergo("silent and slow upstreams", silence()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_upstreams() {
    let trap = FaultServer::start(|_| async {}).await;
    let classes = refusals(&trap.address.to_string());
    Ordeal::default().undergo("refusing upstreams", classes).await;
    assert_eq!(trap.connections(), 0, "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_answers() {
    Ordeal::default().undergo("invalid answers", framing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_answers() {
    Ordeal::default().undergo("endless answers", excess()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answers() {
    let ordeal = Ordeal {
        wave: rounds(3, 10),
        body_bytes: 5 << 20,
        attempt: Duration::from_secs(30),
        senders: 2,
    };
    ordeal.undergo("early answers", early()).await;
}
