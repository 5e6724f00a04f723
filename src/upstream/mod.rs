//! The HTTP/1.1 client towards the app, for `proxy` mode and for deliveries.
//!
//! It knows no Pingora and no events: bytes, headers and deadlines. One [`Client`] belongs to one runtime, since a
//! pooled socket stays on the reactor that opened it.

mod client;
mod endpoint;

mod pool;

mod dial;
mod names;

mod exchange;

mod answer;
mod chunks;
mod timer;

pub(crate) use chunks::Chunks;
pub use client::{Answer, CallError, Client, Limits, Request};
pub use endpoint::{Endpoint, EndpointError};
#[cfg(any(test, fuzzing))]
pub use exchange::exchange_in_memory;
pub(crate) use timer::Timer;
