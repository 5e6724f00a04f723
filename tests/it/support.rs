//! What the behaviour tests share: the real binary, a recording app, and a plain HTTP client.
//!
//! Nothing in here uses the library under test: signatures, requests and answers are made and read by separate code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and reports by printing"
)]
#![allow(dead_code, reason = "every test file uses its own part of this")]

mod app;
mod gateway;
mod http;
mod rounds;

#[allow(unused_imports, reason = "every test file uses its own part of this")]
pub(crate) use self::{
    app::{App, Reply, Request},
    gateway::{Ended, Gateway, Launch, binary, quantiv_config},
    http::{Connection, Response, get, hmac_hex, post, send_raw, sha256},
    rounds::{proved, rounds, seed},
};

use std::time::{Duration, Instant};

/// Longest wait for anything a test expects to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `ready` gives a value; `None` after `limit`.
///
/// For conditions of other processes, which can only be looked at.
pub(crate) fn wait_for<T>(limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if started.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
