//! `[[route]]`: one path, who may send there, and what happens to what they send.

use std::time::Duration;

use super::context::{At, Span};
use super::general::{BODIES, SPANS, count, networks, quota_of};
use super::identify;
use super::path;
use super::secrets::{Secret, Secrets};
use super::section::Section;
use super::units::show_duration;
use super::upstream::{self, ModeWord, Upstream};
use super::verify::{self, Proof};
use crate::deliver::{self, LaneSettings};
use crate::event::{RouteName, Target};
use crate::provider::identify::IdentifyRule;
use crate::provider::preset::{INVALID_SIGNATURE, Preset};
use crate::receive::settings::{FixedAnswer, Limits, Mode, ProxyUpstream, Quota, Route, RoutePath, Want};
use crate::upstream::Endpoint;

/// How long an id is remembered.
const DEDUP_WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// A copy of an event in flight waits so long for the first one's end.
const COPY_WAIT: Duration = Duration::from_secs(4);
/// Bytes of refused requests that a route may keep.
const QUARANTINE_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(4 << 30);
/// Longest fixed answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A route as it was read, with what the checks between routes need.
pub(super) struct Read<'s> {
    pub(super) name: Option<At<RouteName>>,
    pub(super) path: Option<At<RoutePath>>,
    pub(super) mode: ModeWord,
    pub(super) span: Span,
    /// `None` when something in it is wrong.
    pub(super) route: Option<Route>,
    pub(super) lanes: Vec<LaneSettings>,
    pub(super) endpoints: Vec<(Endpoint, Span)>,
    pub(super) secrets: Vec<&'s Secret>,
    pub(super) secrets_span: Span,
}

/// What `rate` says.
struct Rate {
    per_second: f64,
    burst: u32,
    reject: bool,
}

pub(super) fn read<'s>(
    table: Section<'_>,
    secrets: &'s Secrets,
    limits: &Limits,
    body_bytes_default: usize,
) -> Read<'s> {
    let path = path::path(&table);
    let name = path::name(&table, path.as_ref());
    let mode = match table.word("mode", &["queue", "proxy"]) {
        Some("proxy") => ModeWord::Proxy,
        _ => ModeWord::Queue,
    };
    let proof = verify::proof(&table, secrets);
    let preset = proof.as_ref().and_then(|proof| proof.preset);
    let upstreams = upstream::upstreams(&table, mode, preset, secrets);
    let identify = identify::identify(&table, proof.as_ref());
    let (dedup_window, dedup_body_window) = windows(&table, proof.as_ref(), &identify);
    let rate = rate(&table, mode, preset);
    let body_bytes_max = body_bytes(&table, limits, body_bytes_default);
    let by_path = dedup_by_path(&table, path.as_ref());
    if proof.is_some() {
        warn_of_untyped_filters(&table, &identify, &upstreams);
    }

    let quarantine_bytes = quarantine(&table);
    if let Some(preset) = preset.filter(|_| mode == ModeWord::Queue)
        && let Some(hint) = &preset.proxy_hint
    {
        let text = format!(
            "{} reads the answer, and in mode \"queue\" it never is the app's: {hint}",
            preset.title
        );
        let help = "write mode = \"proxy\", unless these events need no answer of the app";
        table.context.warn(&table.key_span("provider"), text, Some(help));
    }
    let own = preset.and_then(|preset| preset.accepted.as_deref());
    // Who reads the app's answer (TwiML, an interaction) would read ours for it.
    let reads_answers = preset.is_some_and(|preset| preset.proxy_hint.is_some()) && mode == ModeWord::Proxy;
    let duplicate = match own {
        Some(own) => own,
        None if reads_answers => "",
        None => r#"{"received":true,"duplicate":true}"#,
    };
    let endpoints = upstreams.iter().map(upstream::place).collect();
    let common = Common {
        methods: methods(&table),
        require_json: table.boolean("require_json").is_some_and(|at| at.value),
        allow_ips: networks(&table, "allow_ips")
            .into_iter()
            .map(|net| net.value)
            .collect(),
        accepted: answer(&table, "accepted", own.unwrap_or(r#"{"received":true}"#)),
        duplicate: answer(&table, "duplicate", duplicate),
    };
    if mode == ModeWord::Proxy && table.has("accepted") {
        let text = "\"accepted\" is for mode = \"queue\": a proxied sender gets the upstream's answer";
        table
            .context
            .error(&table.key_span("accepted"), text, Some("remove it"));
    }
    let (span, secrets_span) = (table.span.clone(), table.key_span("secrets"));
    table.finish();

    let mut lanes = Vec::new();
    let mut listed = Vec::new();
    let route = match (&name, &path, proof) {
        (Some(name), Some(path), Some(proof)) => {
            listed = proof.secrets;
            let (mode, made) = modes(mode, &name.value, upstreams, rate.as_ref());
            lanes = made;
            mode.map(|mode| Route {
                name: name.value.clone(),
                path: path.value.clone(),
                methods: common.methods,
                provider: proof.provider,
                verify: proof.verify,
                identify: IdentifyRule {
                    whole: common.require_json,
                    ..identify
                },
                dedup_window,
                dedup_body_window,
                dedup_by_path: by_path,
                mode,
                body_bytes_max,
                reject_above: rate.filter(|rate| rate.reject).map(|rate| Quota {
                    per_second: rate.per_second,
                    burst: rate.burst,
                }),
                allow_ips: common.allow_ips,
                accepted: common.accepted,
                duplicate: common.duplicate,
                missing_signature: missing_signature(proof.preset),
                bad_signature: fixed(
                    401,
                    proof
                        .preset
                        .map_or(INVALID_SIGNATURE, |preset| &preset.bad_signature),
                ),
                public_url: proof.public_url,
                handshakes: proof
                    .preset
                    .map(|preset| preset.handshakes.clone())
                    .unwrap_or_default(),
                verify_token: proof.verify_token,
                credentials: proof.credentials,
                quarantine_bytes,
            })
        }
        _ => None,
    };
    Read {
        name,
        path,
        mode,
        span,
        route,
        lanes,
        endpoints,
        secrets: listed,
        secrets_span,
    }
}

/// Keys that are read the same way in every route.
struct Common {
    methods: Vec<Box<str>>,
    require_json: bool,
    allow_ips: Vec<ipnet::IpNet>,
    accepted: FixedAnswer,
    duplicate: FixedAnswer,
}

/// The mode on which the route runs, and a lane for each upstream of a queue route.
fn modes(
    word: ModeWord,
    route: &RouteName,
    upstreams: Vec<Upstream>,
    rate: Option<&Rate>,
) -> (Option<Mode>, Vec<LaneSettings>) {
    if word == ModeWord::Proxy {
        let first = upstreams.into_iter().next().map(|upstream| {
            Mode::Proxy(Box::new(ProxyUpstream {
                name: upstream.name.value,
                endpoint: upstream.endpoint.value,
                handoff: upstream.handoff,
                limits: upstream.limits,
                copy_wait: COPY_WAIT,
            }))
        });
        return (first, Vec::new());
    }
    if upstreams.is_empty() {
        return (None, Vec::new());
    }
    let pace = rate.filter(|rate| !rate.reject).map(|rate| deliver::Quota {
        per_second: rate.per_second,
        burst: rate.burst,
    });
    let mut wants = Vec::new();
    let mut lanes = Vec::new();
    for upstream in upstreams {
        wants.push(Want {
            upstream: upstream.name.value.clone(),
            types: upstream.queue.types.map(|at| at.value),
        });
        lanes.push(LaneSettings {
            target: Target {
                route: route.clone(),
                upstream: upstream.name.value,
            },
            endpoint: upstream.endpoint.value,
            handoff: upstream.handoff,
            limits: upstream.limits,
            concurrency: upstream.queue.concurrency,
            rates: upstream.queue.rate.into_iter().chain(pace).collect(),
            retry: upstream.queue.retry,
            paused: upstream.queue.paused,
        });
    }
    (Some(Mode::Queue { wants }), lanes)
}

fn methods(table: &Section<'_>) -> Vec<Box<str>> {
    let Some(list) = table.strings("methods") else {
        return vec!["POST".into()];
    };
    if list.value.is_empty() {
        table
            .context
            .wrong(&list.span, "\"methods\" is empty", Some("leave it out for POST"));
    }
    let mut methods: Vec<Box<str>> = Vec::new();
    for method in list.value {
        let upper = method.value.to_ascii_uppercase();
        let usable = http::Method::from_bytes(upper.as_bytes()).is_ok()
            && !matches!(upper.as_str(), "CONNECT" | "TRACE");
        if !usable {
            let text = format!("{:?} is not a method that can carry an event", method.value);
            table.context.wrong(&method.span, text, None);
        } else if !methods.iter().any(|other| **other == *upper) {
            methods.push(upper.into());
        }
    }
    methods
}

/// The dedup windows: of ids, and of bodies without one.
fn windows(table: &Section<'_>, proof: Option<&Proof<'_>>, identify: &IdentifyRule) -> (Duration, Duration) {
    let preset = proof.and_then(|proof| proof.preset);
    let horizon = preset.and_then(|preset| preset.delivery.retry_horizon);
    let window = table.duration("dedup", SPANS);
    if let (Some(window), Some(preset), Some(horizon), true) = (&window, preset, horizon, identify.has_id())
        && window.value < horizon
    {
        let text = format!(
            "dedup = \"{}\" is shorter than {}'s retry span ({}): late retries would be delivered twice",
            show_duration(window.value),
            preset.title,
            show_duration(horizon)
        );
        let help = format!("use at least \"{}\"", whole_days(horizon));
        table.context.error(&window.span, text, Some(&help));
    }
    if let Some(window) = &window
        && proof.is_some()
        && !identify.has_id()
    {
        let text = "\"dedup\" has no effect: events of this route carry no id";
        table.context.warn(
            &window.span,
            text,
            Some("set dedup_body, the window of repeated bodies"),
        );
    }
    let body = table.duration("dedup_body", SPANS).map_or_else(
        || proof.map_or(DEDUP_WINDOW, |proof| proof.body_window),
        |at| at.value,
    );
    let id = window.map_or_else(
        || DEDUP_WINDOW.max(horizon.unwrap_or_default()),
        |window| window.value,
    );
    (id, body)
}

/// The next whole day, in hours: what to write instead of a window that is too short.
fn whole_days(span: Duration) -> String {
    let hours = span.as_secs().div_ceil(86_400) * 24;
    format!("{hours}h")
}

fn dedup_by_path(table: &Section<'_>, path: Option<&At<RoutePath>>) -> bool {
    let Some(scope) = table.word("dedup_scope", &["route", "path"]) else {
        return false;
    };
    let exact = path.is_some_and(|path| matches!(path.value, RoutePath::Exact(_)));
    if scope == "path" && exact {
        let text = "dedup_scope = \"path\" has no effect: this route has a single path";
        table.context.warn(
            &table.key_span("dedup_scope"),
            text,
            Some("remove it, or end the path in \"/*\""),
        );
    }
    scope == "path"
}

fn rate(table: &Section<'_>, mode: ModeWord, preset: Option<&Preset>) -> Option<Rate> {
    let rate = table.table("rate", "{ per_second = 50, burst = 100 }")?;
    let quota = quota_of(&rate);
    let over = rate.word("over", &["pace", "reject"]);
    let reject = match over {
        Some(word) => word == "reject",
        None => mode == ModeWord::Proxy,
    };
    let span = rate.key_span("over");
    rate.finish();
    if mode == ModeWord::Proxy && over == Some("pace") {
        let text = "over = \"pace\" is for mode = \"queue\": a proxied request cannot be sent later";
        table.context.error(&span, text, Some("write over = \"reject\""));
    }
    if let Some(preset) = preset.filter(|_| reject)
        && let Some(rule) = &preset.delivery.disable_rule
    {
        let text = format!(
            "events above the rate are answered 429, which {} counts as failures ({rule})",
            preset.title
        );
        table.context.warn(
            &span,
            text,
            Some("over = \"pace\" takes every event and delivers it later"),
        );
    }
    quota.map(|(per_second, burst)| Rate {
        per_second,
        burst,
        reject,
    })
}

/// `on_bad_signature = { quarantine = "64MiB" }`.
fn quarantine(table: &Section<'_>) -> u64 {
    let Some(entry) = table.table("on_bad_signature", "{ quarantine = \"64MiB\" }") else {
        return 0;
    };
    let bytes = entry
        .size("quarantine", QUARANTINE_BYTES)
        .map_or(0, |at| at.value);
    if !entry.has("quarantine") {
        entry.missing(
            "quarantine",
            "write on_bad_signature = { quarantine = \"64MiB\" }",
        );
    }
    entry.finish();
    bytes
}

fn body_bytes(table: &Section<'_>, limits: &Limits, default: usize) -> usize {
    let Some(written) = table.size("max_body", BODIES) else {
        return default;
    };
    let bytes = count(written.value);
    if bytes > limits.bytes_in_flight {
        let text = "\"max_body\" is over limits.bytes_in_flight: the largest bodies could never be taken";
        table
            .context
            .error(&written.span, text, Some("make one smaller or the other larger"));
    }
    bytes
}

fn warn_of_untyped_filters(table: &Section<'_>, identify: &IdentifyRule, upstreams: &[Upstream]) {
    let readable = identify.has_type();
    for types in upstreams
        .iter()
        .filter_map(|upstream| upstream.queue.types.as_ref())
    {
        if !readable {
            let text = "\"types\" has no effect: nothing says where the type of an event stands";
            table.context.warn(
                &types.span,
                text,
                Some("add event_type = { json = \"/type\" } to the route"),
            );
        }
    }
}

/// `accepted` or `duplicate`: a 2xx and a body.
fn answer(table: &Section<'_>, key: &'static str, body_default: &str) -> FixedAnswer {
    let mut status = 200;
    let mut body = body_default;
    if let Some(answer) = table.table(key, "{ status = 200, body = \"ok\" }") {
        if let Some(written) = answer.integer("status", 200..=299) {
            status = u16::try_from(written.value).unwrap_or(200);
        }
        let bodiless = matches!(status, 204 | 205);
        match answer.string("body") {
            Some(written) if written.value.len() > ANSWER_BYTES_MAX => {
                answer
                    .context
                    .wrong(&written.span, "\"body\" is over 64 KiB", None);
            }
            Some(written) if bodiless && !written.value.is_empty() => {
                let text = format!("an answer with status {status} has no body");
                answer
                    .context
                    .error(&written.span, text, Some("remove \"body\", or answer 200"));
            }
            Some(written) => body = written.value,
            None if bodiless => body = "",
            None => {}
        }
        answer.finish();
    }
    fixed(status, body)
}

fn fixed(status: u16, body: &str) -> FixedAnswer {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
    FixedAnswer {
        status,
        body: body.into(),
        content_type: if is_json { "application/json" } else { "text/plain" },
    }
}

fn missing_signature(preset: Option<&Preset>) -> FixedAnswer {
    match preset {
        Some(preset) => fixed(preset.missing_signature.0, &preset.missing_signature.1),
        None => fixed(401, INVALID_SIGNATURE),
    }
}
