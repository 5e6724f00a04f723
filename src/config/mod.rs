//! Text to types that cannot be wrong. The only reader of TOML and of the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::{admin, deliver, inbox, receive};

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where senders reach us; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Certificate and key files, when TLS ends here.
    pub tls: Option<TlsFiles>,
    /// Worker threads of the front door.
    pub workers: usize,
    /// The store; `None` only when every route is `proxy` and no `[store]` is written.
    pub store: Option<inbox::Settings>,
    /// Limits of the front door.
    pub limits: receive::settings::Limits,
    /// The routes.
    pub routes: receive::settings::Routes,
    /// A lane for every upstream of every queue route.
    pub lanes: Vec<deliver::LaneSettings>,
    /// The admin and probe listeners.
    pub admin: admin::Settings,
    /// Log settings.
    pub log: LogSettings,
    /// Unready but still accepting for this long after SIGTERM.
    pub drain_delay: Duration,
    /// The whole stop takes at most this long.
    pub drain_timeout: Duration,
    /// Said at start and by `check`.
    pub warnings: Vec<String>,
}

/// Where certificate chain and key are (PEM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What `[log]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `auto` is JSON unless standard error is a terminal.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// Lines per second and route for accepted requests and successful attempts; the rest is counted and summed up.
    pub lines_per_second: u32,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// By where standard error goes.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
