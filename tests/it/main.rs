//! Behaviour, through real sockets, real files and the real binary.

#![allow(missing_docs, reason = "tests are named by what they show")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking; the lints' own exception covers test functions, not their helpers"
)]

mod fault_server;
mod support;

mod admin;
mod architecture;
mod bad_senders;
mod bad_upstream;
mod build_profile;
mod catalogue;
mod cli;
mod cli_events;
mod config;
mod deliver;
mod handshakes;
mod hostile;
mod inbox;
mod keys;
mod leaks;
mod lifecycle;
mod oracle;
mod providers;
mod proxy;
mod quarantine;
mod receive;
mod schemes;
mod soak;
mod store_faults;
mod store_upgrade;
mod tls;
mod upstream;
mod upstream_pool;
mod upstream_tls;
mod upstream_waits;
