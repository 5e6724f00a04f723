//! `[[route]]`: one path, who may send there, and what happens to what they send.

use std::time::Duration;

use toml::de::DeValue;

use super::context::{At, Context, Span};
use super::general::{BODIES, SPANS, count, networks, quota_of};
use super::secrets::{Secret, Secrets};
use super::section::Section;
use super::units::show_duration;
use super::upstream::{self, ModeWord, Upstream};
use super::verify::{self, Proof};
use crate::deliver::{self, LaneSettings};
use crate::event::{RouteName, Target};
use crate::provider::identify::IdentifyRule;
use crate::provider::preset::Preset;
use crate::receive::settings::{
    FixedAnswer, Limits, Mode, ProxyUpstream, Quota, Route, RoutePath, Verify, Want,
};
use crate::upstream::Endpoint;

/// How long an id is remembered.
const DEDUP_WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// A copy of an event in flight waits so long for the first one's end.
const COPY_WAIT: Duration = Duration::from_secs(4);
/// Longest name of a route: it becomes a header's value and a metric's label.
const NAME_BYTES_MAX: usize = 128;
/// Longest path.
const PATH_BYTES_MAX: usize = 1024;
/// Deepest JSON pointer.
const POINTER_TOKENS_MAX: usize = 16;
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
    let path = path(&table);
    let name = name(&table, path.as_ref());
    let mode = match table.word("mode", &["queue", "proxy"]) {
        Some("proxy") => ModeWord::Proxy,
        _ => ModeWord::Queue,
    };
    let proof = verify::proof(&table, secrets);
    let preset = proof.as_ref().and_then(|proof| proof.preset);
    let upstreams = upstream::upstreams(&table, mode, preset, secrets);
    let identify = identify(&table, proof.as_ref());
    let (dedup_window, dedup_body_window) = windows(&table, proof.as_ref(), &identify);
    let rate = rate(&table, mode, preset);
    let body_bytes_max = body_bytes(&table, limits, body_bytes_default);
    let by_path = dedup_by_path(&table, path.as_ref());
    warn_of_untyped_filters(&table, &identify, &upstreams);

    let endpoints = upstreams.iter().map(upstream::place).collect();
    let common = Common {
        methods: methods(&table),
        require_json: table.boolean("require_json").is_some_and(|at| at.value),
        allow_ips: networks(&table, "allow_ips")
            .into_iter()
            .map(|net| net.value)
            .collect(),
        accepted: answer(&table, "accepted", r#"{"received":true}"#),
        duplicate: answer(&table, "duplicate", r#"{"received":true,"duplicate":true}"#),
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
                identify,
                require_json: common.require_json,
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
            types: upstream.types.map(|at| at.value),
        });
        lanes.push(LaneSettings {
            target: Target {
                route: route.clone(),
                upstream: upstream.name.value,
            },
            endpoint: upstream.endpoint.value,
            handoff: upstream.handoff,
            limits: upstream.limits,
            concurrency: upstream.concurrency,
            rates: upstream.rate.into_iter().chain(pace).collect(),
            retry: upstream.retry,
            paused: upstream.paused,
        });
    }
    (Some(Mode::Queue { wants }), lanes)
}

fn path(table: &Section<'_>) -> Option<At<RoutePath>> {
    if !table.has("path") {
        table.missing(
            "path",
            "write path = \"/hooks/name\", or \"/hooks/name/*\" for everything below it",
        );
    }
    let written = table.string("path")?;
    match parse_path(written.value) {
        Ok(value) => Some(At {
            value,
            span: written.span,
        }),
        Err(reason) => {
            table
                .context
                .wrong(&written.span, format!("path {:?} {reason}", written.value), None);
            None
        }
    }
}

/// A path as it stands in a request line, so that the two can be compared byte for byte.
fn parse_path(text: &str) -> Result<RoutePath, &'static str> {
    let prefix = text.strip_suffix("/*");
    let plain = prefix.unwrap_or(text);
    if !text.starts_with('/') {
        return Err("must begin with \"/\"");
    }
    if text.len() > PATH_BYTES_MAX {
        return Err("is over 1024 bytes");
    }
    if plain.contains('*') {
        return Err("may hold \"*\" only as its end, \"/*\"");
    }
    if plain.contains(['?', '#']) {
        return Err("may not hold a query or a fragment; routes are chosen by path alone");
    }
    if !plain.bytes().all(|byte| byte.is_ascii_graphic())
        || plain.contains(['\\', '"', '<', '>', '^', '`', '{', '|', '}'])
    {
        return Err("holds a character that no path in a request can hold; write it percent-encoded");
    }
    let lower = plain.to_ascii_lowercase();
    if ["%2e", "%2f", "%5c"].iter().any(|code| lower.contains(code)) {
        return Err("holds an encoded \".\", \"/\" or \"\\\", which is never matched");
    }
    let broken_escape = plain.split('%').skip(1).any(|after| {
        !after
            .get(..2)
            .is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    if broken_escape {
        return Err("holds a \"%\" that is not followed by two hex digits");
    }
    if plain.contains("//") || (prefix.is_some() && plain.ends_with('/')) {
        return Err("holds \"//\"");
    }
    if plain.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("holds \".\" or \"..\"; write the path itself");
    }
    Ok(match prefix {
        Some(prefix) => RoutePath::Below(format!("{prefix}/").into()),
        None => RoutePath::Exact(text.into()),
    })
}

/// `name`, else the path without its leading slash and without a closing `/*`.
fn name(table: &Section<'_>, path: Option<&At<RoutePath>>) -> Option<At<RouteName>> {
    if let Some(written) = table.string("name") {
        let usable = (1..=NAME_BYTES_MAX).contains(&written.value.len())
            && written
                .value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        if !usable {
            let text = "the name of a route is 1 to 128 visible ASCII characters without \" and \\";
            table.context.wrong(&written.span, text, None);
            return None;
        }
        return Some(At {
            value: RouteName::new(written.value),
            span: written.span,
        });
    }
    let path = path.filter(|_| !table.has("name"))?;
    let (RoutePath::Exact(text) | RoutePath::Below(text)) = &path.value;
    let bare = text.trim_matches('/');
    if bare.len() > NAME_BYTES_MAX {
        let help = "write name = \"...\", at most 128 characters";
        table.context.error(
            &path.span,
            "this path is too long to be the route's name",
            Some(help),
        );
        return None;
    }
    Some(At {
        value: RouteName::new(if bare.is_empty() { "root" } else { bare }),
        span: path.span.clone(),
    })
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

/// Where id and type stand: the preset's places, unless the route names its own.
fn identify(table: &Section<'_>, proof: Option<&Proof<'_>>) -> IdentifyRule {
    let mut rule = proof.map(|proof| proof.identify.clone()).unwrap_or_default();
    if let Some(id) = event_id(table) {
        let unverified = proof.is_some_and(|proof| matches!(proof.verify, Verify::Nothing));
        if unverified && id.is_some() {
            let text = "\"event_id\" has no meaning with verify = \"none\": an id that anybody can write is not trusted";
            let help = "remove it; events are told apart by their bodies";
            table.context.error(&table.key_span("event_id"), text, Some(help));
        }
        rule.id = id;
    }
    if let Some(place) = table.table("event_type", "{ json = \"/type\" }") {
        let body = place.string("json");
        let header = place.string("header");
        if body.is_none() && header.is_none() && !place.has("json") && !place.has("header") {
            place.missing(
                "json",
                "write event_type = { json = \"/type\" } or { header = \"X-Type\" }",
            );
        }
        rule.event_type = body.and_then(|text| pointer(table.context, &text));
        rule.type_header = header.and_then(|name| {
            let lower = name.value.to_ascii_lowercase();
            if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
                let text = format!("{:?} is not the name of a header", name.value);
                table.context.wrong(&name.span, text, None);
                return None;
            }
            Some(lower.into())
        });
        place.finish();
    }
    rule
}

/// `Some(None)` for `"body-hash"`.
fn event_id(table: &Section<'_>) -> Option<Option<Vec<Box<str>>>> {
    let item = table.item("event_id")?;
    let form = "\"event_id\" must be { json = \"/id\" } or \"body-hash\"";
    match item.value.get_ref() {
        DeValue::String(word) if word == "body-hash" => Some(None),
        DeValue::Table(_) => {
            let place = table.table("event_id", "{ json = \"/id\" }")?;
            if let Some(header) = place.refused("header") {
                let text = format!(
                    "event_id = header {} is not covered by the signature: a captured request could be replayed under a new id",
                    header.as_str().unwrap_or("\"...\"")
                );
                let help = "use event_id = { json = \"/id\" } or \"body-hash\"";
                table.context.wrong(&item.span(), text, Some(help));
                return None;
            }
            if !place.has("json") {
                place.missing("json", "write event_id = { json = \"/id\" }");
            }
            let pointer = place
                .string("json")
                .and_then(|text| pointer(table.context, &text));
            place.finish();
            pointer.map(Some)
        }
        _ => {
            table.context.wrong(&item.span(), form, None);
            None
        }
    }
}

/// A JSON pointer (RFC 6901), split into its tokens.
fn pointer(context: &Context<'_>, text: &At<&str>) -> Option<Vec<Box<str>>> {
    let tokens: Option<Vec<Box<str>>> = text
        .value
        .strip_prefix('/')
        .map(|rest| rest.split('/').map(pointer_token).collect())
        .unwrap_or_default();
    if tokens
        .as_ref()
        .is_none_or(|tokens| tokens.len() > POINTER_TOKENS_MAX)
    {
        let problem = format!(
            "{:?} is not a JSON pointer of at most {POINTER_TOKENS_MAX} steps; write it like \"/data/id\"",
            text.value
        );
        context.wrong(&text.span, problem, None);
        return None;
    }
    tokens
}

/// `~1` is `/` and `~0` is `~`; a `~` before anything else is a mistake.
fn pointer_token(token: &str) -> Option<Box<str>> {
    let valid = token
        .split('~')
        .skip(1)
        .all(|after| after.starts_with('0') || after.starts_with('1'));
    valid.then(|| token.replace("~1", "/").replace("~0", "~").into())
}

/// The dedup windows: of ids, and of bodies without one.
fn windows(table: &Section<'_>, proof: Option<&Proof<'_>>, identify: &IdentifyRule) -> (Duration, Duration) {
    let preset = proof.and_then(|proof| proof.preset);
    let horizon = preset.and_then(|preset| preset.retry_horizon);
    let window = table.duration("dedup", SPANS);
    if let (Some(window), Some(preset), Some(horizon), true) =
        (&window, preset, horizon, identify.id.is_some())
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
        && identify.id.is_none()
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
        && let Some(rule) = &preset.disable_rule
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
    let readable = identify.event_type.is_some() || identify.type_header.is_some();
    for types in upstreams.iter().filter_map(|upstream| upstream.types.as_ref()) {
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
        None => fixed(401, r#"{"error":"Invalid signature"}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, good) in [
            ("/", true),
            ("/*", true),
            ("/hooks/quantiv", true),
            ("/hooks/quantiv/", true),
            ("/hooks/*", true),
            ("/a%20b", true),
            ("", false),
            ("hooks", false),
            ("/a*", false),
            ("/*/b", false),
            ("/a/**", false),
            ("//*", false),
            ("/a//b", false),
            ("/a/./b", false),
            ("/a/..", false),
            ("/../*", false),
            ("/a%2eb", false),
            ("/a%2F", false),
            ("/a%5C", false),
            ("/a%zz", false),
            ("/a%2", false),
            ("/a\\b", false),
            ("/a?b=c", false),
            ("/a#b", false),
            ("/ä", false),
            ("/a b", false),
        ] {
            assert_eq!(parse_path(path).is_ok(), good, "{path:?}: {:?}", parse_path(path));
        }
        assert_eq!(parse_path("/*"), Ok(RoutePath::Below("/".into())));
        assert_eq!(parse_path("/hooks/*"), Ok(RoutePath::Below("/hooks/".into())));
    }

    #[test]
    fn pointer_tokens() {
        assert_eq!(pointer_token("a~1b~0c").as_deref(), Some("a/b~c"));
        assert_eq!(pointer_token("~01").as_deref(), Some("~1"));
        assert_eq!(pointer_token("a~2"), None);
        assert_eq!(pointer_token("a~"), None);
    }
}
