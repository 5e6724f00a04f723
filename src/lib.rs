//! hooklatch takes webhooks in, checks who sent them, keeps them safe and hands them to the app byte for byte.
//!
//! The way of one event:
//!
//! ```text
//! the way in    receive/connection   TCP/TLS, deadlines, caps, strict framing
//!               receive/route        path -> route, method, declared size, client address
//!               receive/limit        connections, bytes in flight, slow lane
//!               receive/body         the whole body, under a deadline and a byte cap
//!               receive/verify       any signature with any live secret, constant time
//!               receive/identify     id and type from the signed bytes
//!               receive/pace         the route's rate for verified events
//!               receive/record       queue: one synced commit, then the 200
//!               receive/relay        proxy: forward, answer with the upstream's answer
//!               receive/answer       outcome -> status, headers, body
//! the middle    inbox/               contract, group committer, SQLite
//! the way out   deliver/             claim -> attempt -> judge -> settle
//! ```

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deliver;
pub mod event;
pub mod fields;
pub mod handoff;
pub mod inbox;
pub mod keys;
pub mod provider;
pub mod rate;
pub mod receive;
mod run;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod upstream;

pub use run::{Reread, RunError, run};

/// The fuzz targets name the library as everybody else does.
#[cfg(test)]
extern crate self as hooklatch;

#[cfg(test)]
#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "public in the crate that cargo-fuzz builds")]
mod fuzz;
