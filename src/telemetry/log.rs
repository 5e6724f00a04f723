//! The log itself: one line an event on standard error, written by a thread of its own.
//!
//! A slow reader of standard error never slows the way in: the queue is bounded, and lines that find it full are
//! dropped and counted (`hooklatch_log_lines_dropped_total`).

use std::fmt;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_log::log as facade;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as format, reload};

use super::Telemetry;
use crate::clock::{Clock, SystemClock};

/// Lines waiting for the writer.
const QUEUE_LINES_MAX: usize = 8192;

/// The target of all lines that are not ours.
const LIBRARY: &str = "library";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON unless standard error is a terminal.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A process has one log.
    #[error("the log is already set up")]
    AlreadySet,
}

/// Writes what is queued when it is dropped.
#[must_use = "dropping the guard ends the log"]
#[derive(Debug)]
pub struct LogGuard {
    filter: reload::Handle<Targets, Registry>,
    _writer: WorkerGuard,
}

impl LogGuard {
    /// Writes lines of `level` and above from now on; for reloads.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and with it every line.
        drop(self.filter.reload(filter(level)));
    }
}

/// Sets the process's log up: lines of `level` and above in `form` on standard error; of libraries only what is
/// worth a warning. Once per process.
///
/// # Errors
/// A log was set up before.
pub fn init(telemetry: &Telemetry, form: Form, level: Level) -> Result<LogGuard, LogError> {
    let json = match form {
        Form::Auto => !std::io::stderr().is_terminal(),
        Form::Json => true,
        Form::Text => false,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES_MAX)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let lines = layer(writer, json, std::io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(filter(level));
    facade::set_boxed_logger(Box::new(Bridge(telemetry.clone()))).map_err(|_| LogError::AlreadySet)?;
    facade::set_max_level(facade::LevelFilter::Warn);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| LogError::AlreadySet)?;
    // Fails only when set before, which the two above have ruled out.
    drop(telemetry.0.lines_dropped.set(dropped));
    Ok(LogGuard {
        filter: handle,
        _writer: guard,
    })
}

/// Writes each line in the asked form, without module names: the text and the fields say it all.
pub(super) fn layer<W, S>(writer: W, json: bool, color: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = format::layer()
        .with_writer(writer)
        .with_timer(UtcMillis)
        .with_target(false);
    if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        lines.with_ansi(color).boxed()
    }
}

/// Logs the place of each panic of the process, and counts it. What the panic says is left out: it may hold
/// content. Replaces the hook that prints to standard error.
pub fn watch_panics(telemetry: &Telemetry) {
    let telemetry = telemetry.clone();
    std::panic::set_hook(Box::new(move |panic| {
        telemetry.metrics().panics_raised.inc();
        if !telemetry.0.shared.admits_trouble(&telemetry.0.panic_lines) {
            return;
        }
        let (file, line) = panic
            .location()
            .map_or(("unknown", 0), |place| (place.file(), place.line()));
        tracing::error!(file, line, thread = std::thread::current().name(), "panicked");
    }));
}

/// Ours from `level` on, of others only warnings.
fn filter(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        .with_target(env!("CARGO_PKG_NAME"), level)
}

/// The level from which lines of a library that logs through the `log` facade are taken.
///
/// Pingora writes an error for every sender that hangs up, and puts request headers into some: only what it says about
/// listening and its own life is taken. What matters about connections is counted and logged by `receive`.
fn library_level(target: &str) -> facade::LevelFilter {
    let is_in = |module: &str| {
        target
            .strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if is_in("pingora_core::server") || is_in("pingora_core::services") {
        facade::LevelFilter::Error
    } else if target.starts_with("pingora") || is_in("h2") || is_in("rustls") {
        facade::LevelFilter::Off
    } else {
        facade::LevelFilter::Warn
    }
}

/// Takes the lines of libraries that log through the `log` facade; all as warnings, since what they call an error is
/// mostly a peer's, and so many a second.
struct Bridge(Telemetry);

impl facade::Log for Bridge {
    fn enabled(&self, metadata: &facade::Metadata<'_>) -> bool {
        metadata.level() <= library_level(metadata.target())
    }

    fn log(&self, record: &facade::Record<'_>) {
        let inner = &self.0.0;
        if self.enabled(record.metadata()) && inner.shared.admits_trouble(&inner.library_lines) {
            tracing::warn!(target: LIBRARY, library = record.target(), "{}", record.args());
        }
    }

    fn flush(&self) {}
}

/// RFC 3339 in UTC with milliseconds.
struct UtcMillis;

impl FormatTime for UtcMillis {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", SystemClock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_where_they_would_flood_or_tell() {
        use facade::LevelFilter as L;
        for (name, target, level) in [
            ("client aborts", "pingora_core::apps::http_app", L::Off),
            (
                "header bytes in errors",
                "pingora_core::protocols::http::v1::server",
                L::Off,
            ),
            ("its life", "pingora_core::server", L::Error),
            ("accept errors", "pingora_core::services::listening", L::Error),
            ("no prefix of a name", "h2o", L::Warn),
            ("alerts of peers", "rustls::conn", L::Off),
            ("others", "mio::poll", L::Warn),
        ] {
            assert_eq!(library_level(target), level, "{name}");
        }
    }

    #[test]
    fn libraries_never_speak_louder_than_asked() {
        let asked = filter(Level::ERROR);
        assert!(!asked.would_enable("hyper", &Level::WARN));
        assert!(!asked.would_enable("hooklatch::telemetry", &Level::WARN));
        let asked = filter(Level::DEBUG);
        assert!(asked.would_enable("hooklatch::telemetry", &Level::DEBUG));
        assert!(asked.would_enable(LIBRARY, &Level::WARN));
        assert!(!asked.would_enable("hyper", &Level::INFO));
    }
}
