//! Everything but secrets and routes: listeners, limits, store, retention, admin, log.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::context::{At, Span};
use super::secrets::{Guess, Secrets};
use super::section::{Section, suggest};
use super::{LogSettings, TlsFiles};
use crate::receive::settings::{Limits, Quota};
use crate::telemetry::log::Form;
use crate::{admin, inbox};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(86_400);

/// Any deadline of one request or call.
pub(super) const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// How long things are kept and remembered.
pub(super) const SPANS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400);
/// Sizes of bodies.
pub(super) const BODIES: RangeInclusive<u64> = 1..=GIB;

/// Top level: where senders reach us, and how we stop.
pub(super) struct Front {
    pub(super) listen: At<SocketAddr>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) workers: usize,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) drain_delay: Duration,
    pub(super) drain_timeout: Duration,
}

pub(super) fn front(root: &Section<'_>) -> Front {
    let listen = address(root, "listen").unwrap_or(At {
        // Port 0, where the written address is wrong, is nobody's: no false alarm about a second listener.
        value: SocketAddr::from(([0, 0, 0, 0], if root.has("listen") { 0 } else { 8080 })),
        span: root.span.clone(),
    });
    let zero_to_hour = Duration::ZERO..=Duration::from_secs(3600);
    let drain_delay = root.duration("drain_delay", zero_to_hour);
    let drain_timeout = root
        .duration(
            "drain_timeout",
            Duration::from_secs(1)..=Duration::from_secs(3600),
        )
        .map_or(Duration::from_secs(25), |at| at.value);
    if let Some(delay) = &drain_delay
        && delay.value >= drain_timeout
    {
        let text = "\"drain_delay\" takes up the whole \"drain_timeout\": nothing in flight could end";
        root.context.error(
            &delay.span,
            text,
            Some("make it shorter than drain_timeout (25s by default)"),
        );
    }
    let trusted_proxies = networks(root, "trusted_proxies");
    for net in &trusted_proxies {
        if net.value.prefix_len() == 0 {
            let text =
                "everybody is a trusted proxy here, so any sender can choose the address it is known by";
            root.context
                .warn(&net.span, text, Some("list the addresses of your own proxies"));
        }
    }
    Front {
        listen,
        tls: tls(root),
        workers: root.integer("workers", 1..=1024).map_or_else(
            || std::thread::available_parallelism().map_or(2, usize::from),
            |at| count(at.value),
        ),
        trusted_proxies: trusted_proxies.into_iter().map(|net| net.value).collect(),
        drain_delay: drain_delay.map_or(Duration::from_secs(5).min(drain_timeout / 2), |at| at.value),
        drain_timeout,
    }
}

fn tls(root: &Section<'_>) -> Option<TlsFiles> {
    let form = "{ cert = \"chain.pem\", key = \"key.pem\" }";
    let table = root.table("tls", form)?;
    let file = |key: &'static str| {
        if !table.has(key) {
            table.missing(key, "both files are needed, in PEM");
        }
        let path = table.string(key)?;
        if let Err(error) = root.context.env.read_file(path.value.as_ref()) {
            let text = format!("cannot read {}: {error}", path.value);
            root.context.error(&path.span, text, None);
        }
        Some(PathBuf::from(path.value))
    };
    let files = (file("cert"), file("key"));
    table.finish();
    match files {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        _ => None,
    }
}

pub(super) fn limits(root: &Section<'_>) -> (Limits, usize) {
    let mut limits = Limits {
        header_timeout: Duration::from_secs(5),
        header_bytes_max: 32 * 1024,
        header_fields_max: 100,
        body_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(4),
        keepalive_idle: Duration::from_secs(60),
        connections: 10_000,
        connections_per_peer: 256,
        bytes_in_flight: 64 << 20,
        failures_per_peer: Quota {
            per_second: 10.0,
            burst: 100,
        },
    };
    let mut body_bytes = 1 << 20;
    let Some(table) = root.table("limits", "{ body_timeout = \"10s\" }") else {
        return (limits, body_bytes);
    };
    set(
        &mut limits.header_timeout,
        table.duration("header_timeout", DEADLINES),
    );
    set(
        &mut limits.body_timeout,
        table.duration("body_timeout", DEADLINES),
    );
    set(
        &mut limits.answer_timeout,
        table.duration("answer_timeout", DEADLINES),
    );
    set(&mut limits.keepalive_idle, table.duration("keepalive", DEADLINES));
    set_count(
        &mut limits.header_bytes_max,
        table.size("header_bytes", KIB..=MIB),
    );
    set_count(
        &mut limits.header_fields_max,
        table.integer("header_fields", 8..=1000),
    );
    set_count(
        &mut limits.connections,
        table.integer("connections", 1..=1_000_000),
    );
    set_count(
        &mut limits.connections_per_peer,
        table.integer("connections_per_peer", 1..=1_000_000),
    );
    set_count(
        &mut limits.bytes_in_flight,
        table.size("bytes_in_flight", MIB..=64 * GIB),
    );
    let body = table.size("body_bytes", BODIES);
    if let Some(body) = &body
        && count(body.value) > limits.bytes_in_flight
    {
        let text = "\"body_bytes\" is over \"bytes_in_flight\": the largest bodies could never be taken";
        table.context.error(&body.span, text, None);
    }
    set_count(&mut body_bytes, body);
    if let Some(quota) = table.table("failures_per_peer", "{ per_second = 10, burst = 100 }") {
        if let Some((per_second, burst)) = quota_of(&quota) {
            limits.failures_per_peer = Quota { per_second, burst };
        }
        quota.finish();
    }
    table.finish();
    (limits, body_bytes)
}

/// `per_second` and `burst` of a rate; a burst is at least one and by default a second's worth.
pub(super) fn quota_of(table: &Section<'_>) -> Option<(f64, u32)> {
    if !table.has("per_second") {
        table.missing("per_second", "write it like { per_second = 50, burst = 100 }");
    }
    let per_second = table.number("per_second", 0.001..=1_000_000.0)?.value;
    let burst = table.integer("burst", 1..=10_000_000);
    if burst.is_none() && table.has("burst") {
        return None;
    }
    let burst = burst.and_then(|at| u32::try_from(at.value).ok());
    Some((per_second, burst.unwrap_or_else(|| second_worth(per_second))))
}

/// The smallest whole number of events that a second of this rate lets through, at least 1.
fn second_worth(per_second: f64) -> u32 {
    (1..=1_000_000u32)
        .find(|whole| f64::from(*whole) >= per_second)
        .unwrap_or(1_000_000)
}

pub(super) fn store(root: &Section<'_>, limits: &Limits) -> Option<inbox::Settings> {
    let retention = retention(root);
    let table = root.table("store", "{ path = \"/var/lib/hooklatch\" }")?;
    if !table.has("path") {
        table.missing(
            "path",
            "write path = \"/var/lib/hooklatch\", a folder on a lasting volume",
        );
    }
    let path = table.string("path");
    if let Some(path) = &path
        && path.value.is_empty()
    {
        table.context.wrong(&path.span, "\"path\" is empty", None);
    }
    let mut settings = inbox::Settings {
        path: PathBuf::from(path.map_or("", |at| at.value)),
        allow_ephemeral: table.boolean("allow_ephemeral").is_some_and(|at| at.value),
        bytes_max: 10 * GIB,
        free_bytes_min: 256 * MIB,
        queue_events_max: 4096,
        queue_bytes_max: 64 << 20,
        accept_wait_max: Duration::from_secs(2),
        retention,
    };
    set(
        &mut settings.bytes_max,
        table.size("max_bytes", 16 * MIB..=1024 * 1024 * GIB),
    );
    set(
        &mut settings.free_bytes_min,
        table.size("min_free", 0..=1024 * GIB),
    );
    set_count(
        &mut settings.queue_events_max,
        table.integer("queue_events", 1..=1_000_000),
    );
    set_count(
        &mut settings.queue_bytes_max,
        table.size("queue_bytes", MIB..=64 * GIB),
    );
    let accept_wait = table.duration("accept_wait", DEADLINES);
    let accept_span = accept_wait
        .as_ref()
        .map_or_else(|| table.span.clone(), |at| at.span.clone());
    set(&mut settings.accept_wait_max, accept_wait);
    if settings.accept_wait_max > limits.answer_timeout {
        let text =
            "\"accept_wait\" is longer than limits.answer_timeout: the answer would be due before the commit";
        table
            .context
            .error(&accept_span, text, Some("make it shorter than answer_timeout"));
    }
    table.finish();
    Some(settings)
}

fn retention(root: &Section<'_>) -> inbox::Retention {
    let mut retention = inbox::Retention {
        delivered: 7 * DAY,
        dead: 30 * DAY,
    };
    if let Some(table) = root.table("retention", "{ delivered = \"7d\", dead = \"30d\" }") {
        set(&mut retention.delivered, table.duration("delivered", SPANS));
        set(&mut retention.dead, table.duration("dead", SPANS));
        table.finish();
    }
    retention
}

/// The admin and probe listeners, with the places of their addresses for the checks between listeners.
pub(super) fn admin(
    root: &Section<'_>,
    secrets: &Secrets,
) -> (admin::Settings, Vec<(&'static str, At<SocketAddr>)>) {
    let mut places = Vec::new();
    let mut settings = admin::Settings {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 9190))),
        token: None,
        probe: None,
    };
    let mut span = root.span.clone();
    if let Some(table) = root.table("admin", "{ listen = \"127.0.0.1:9190\" }") {
        span = table.key_span("listen");
        settings.token = secrets
            .reference(&table, "token", Guess::ByTrying)
            .map(|at| at.value);
        let token_written = table.has("token");
        let off = table.string_is("listen", "off");
        if off {
            settings.listen = None;
        } else if let Some(listen) = address(&table, "listen") {
            settings.listen = Some(listen.value);
            span = listen.span;
        }
        if let Some(listen) = settings.listen
            && !listen.ip().is_loopback()
            && !token_written
        {
            let text = format!("admin.listen = {listen} without admin.token: refusing to start");
            let help = "add token = \"name\" with the name of a secret, or listen on 127.0.0.1 only";
            table.context.error(&span, text, Some(help));
        }
        table.finish();
    }
    if let Some(listen) = settings.listen {
        places.push(("admin.listen", At { value: listen, span }));
    }
    if let Some(table) = root.table("probe", "{ listen = \"0.0.0.0:9191\" }") {
        if !table.has("listen") {
            table.missing("listen", "write listen = \"0.0.0.0:9191\"");
        }
        if let Some(listen) = address(&table, "listen") {
            settings.probe = Some(listen.value);
            places.push(("probe.listen", listen));
        }
        table.finish();
    }
    (settings, places)
}

pub(super) fn log(root: &Section<'_>) -> LogSettings {
    let mut log = LogSettings {
        format: Form::Auto,
        level: tracing::Level::INFO,
        lines_per_second: 1000,
    };
    let Some(table) = root.table("log", "{ level = \"info\" }") else {
        return log;
    };
    if let Some(format) = table.word("format", &["auto", "json", "text"]) {
        log.format = match format {
            "json" => Form::Json,
            "text" => Form::Text,
            _ => Form::Auto,
        };
    }
    if let Some(level) = table.word("level", &["error", "warn", "info", "debug", "trace"]) {
        log.level = level.parse().unwrap_or(tracing::Level::INFO);
    }
    if let Some(lines) = table.integer("lines_per_second", 1..=1_000_000) {
        log.lines_per_second = u32::try_from(lines.value).unwrap_or(u32::MAX);
    }
    table.finish();
    log
}

/// An address to listen on.
fn address(section: &Section<'_>, key: &'static str) -> Option<At<SocketAddr>> {
    let text = section.string(key)?;
    match text.value.parse() {
        Ok(value) => Some(At {
            value,
            span: text.span,
        }),
        Err(_) => {
            let problem = format!(
                "\"{key}\" must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\""
            );
            section.context.wrong(&text.span, problem, None);
            None
        }
    }
}

/// A list of networks or single addresses.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Vec<At<IpNet>> {
    let list = section.strings(key).map_or_else(Vec::new, |at| at.value);
    list.into_iter()
        .filter_map(|text| {
            let parsed = text
                .value
                .parse::<IpNet>()
                .map(|net| net.trunc())
                .or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
            if parsed.is_err() {
                let problem = format!(
                    "\"{key}\" takes addresses and networks, such as \"10.0.0.0/8\" or \"192.0.2.7\""
                );
                section.context.wrong(&text.span, problem, None);
            }
            parsed.ok().map(|value| At {
                value,
                span: text.span,
            })
        })
        .collect()
}

impl<'s> Section<'s> {
    /// One of a few words.
    pub(super) fn word(&self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.string(key)?;
        let found = words.iter().find(|word| **word == text.value).copied();
        if found.is_none() {
            let list = words
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(", ");
            let hint = suggest(text.value, words.iter().copied())
                .map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
            let problem = format!("\"{key}\" must be one of {list}{hint}");
            self.context.wrong(&text.span, problem, None);
        }
        found
    }

    /// Whether `key` is this very string.
    pub(super) fn string_is(&self, key: &'static str, expected: &str) -> bool {
        self.item(key)
            .and_then(|item| item.value.get_ref().as_str())
            .is_some_and(|text| text == expected)
    }
}

/// Where two addresses cannot both be listened on.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn set<T>(target: &mut T, read: Option<At<T>>) {
    if let Some(read) = read {
        *target = read.value;
    }
}

fn set_count(target: &mut usize, read: Option<At<u64>>) {
    if let Some(read) = read {
        *target = count(read.value);
    }
}

/// A count that a range has already kept small.
pub(super) fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A place for problems of the file as a whole.
pub(super) fn nowhere() -> Span {
    0..0
}
