//! Behaviour, through real sockets, real files and the real binary.

#![allow(missing_docs, reason = "tests are named by what they show")]

mod fault_server;
mod support;

mod admin;
mod architecture;
mod cli;
mod config;
mod deliver;
mod inbox;
mod lifecycle;
mod oracle;
mod providers;
mod proxy;
mod receive;
mod upstream;
mod upstream_pool;
mod upstream_tls;
mod upstream_waits;
