//! `upstream` and `upstreams`: where a route's events go, and how they are sent there.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use toml::de::DeValue;

use super::context::{At, Context, Span};
use super::general::{DEADLINES, SPANS, count, quota_of};
use super::secrets::{Guess, Secrets, is_plain_name};
use super::section::Section;
use crate::deliver::{Quota, RetryPlan};
use crate::event::UpstreamName;
use crate::handoff;
use crate::provider::key::KeyForm;
use crate::provider::preset::Preset;
use crate::secret::SecretText;
use crate::upstream::{Endpoint, Limits};

/// The name of a route's only upstream, unless the file gives another.
const ONLY_NAME: &str = "app";
/// Upstreams of one route.
const UPSTREAMS_MAX: usize = 32;
/// The answer's head, in either mode.
const ANSWER_HEAD_BYTES: usize = 64 << 10;
/// Of a delivery's answer so much is read and thrown away to keep the connection; beyond, it is closed.
const ANSWER_BODY_DRAINED: usize = 64 << 10;
/// A hand-off key shorter than this is against Standard Webhooks.
const HANDOFF_KEY_BYTES_MIN: usize = 24;

/// Whether events are kept or passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModeWord {
    Queue,
    Proxy,
}

/// One upstream.
pub(super) struct Upstream {
    pub(super) name: At<UpstreamName>,
    pub(super) endpoint: At<Endpoint>,
    pub(super) handoff: handoff::Settings,
    pub(super) limits: Limits,
    pub(super) queue: QueueKeys,
}

/// What only a queue route's upstream has; the defaults elsewhere.
pub(super) struct QueueKeys {
    pub(super) concurrency: usize,
    pub(super) rate: Option<Quota>,
    pub(super) retry: RetryPlan,
    pub(super) paused: bool,
    pub(super) types: Option<At<Vec<Box<str>>>>,
}

/// Reads the route's upstreams; shorter than written when one is wrong.
pub(super) fn upstreams(
    route: &Section<'_>,
    mode: ModeWord,
    preset: Option<&Preset>,
    secrets: &Secrets,
) -> Vec<Upstream> {
    let context = route.context;
    let form = "{ url = \"http://127.0.0.1:3000/hooks\" }";
    match (route.has("upstream"), route.has("upstreams")) {
        (false, false) => {
            route.missing("upstream", &format!("write upstream = {form}"));
            return Vec::new();
        }
        (true, true) => {
            let text = "\"upstream\" and \"upstreams\" are both written";
            let help = "keep upstream for one, upstreams for several";
            context.error(&route.key_span("upstreams"), text, Some(help));
        }
        _ => {}
    }
    let mut list = Vec::new();
    if route.has("upstream")
        && let Some(table) = route.table("upstream", form)
    {
        list.extend(upstream(table, mode, preset, secrets, Some(ONLY_NAME)));
    }
    if route.has("upstreams") {
        let tables = route.tables("upstreams");
        let span = route.key_span("upstreams");
        if tables.is_empty() || tables.len() > UPSTREAMS_MAX {
            let text = format!("\"upstreams\" takes 1 to {UPSTREAMS_MAX} tables");
            context.wrong(&span, text, None);
        }
        if mode == ModeWord::Proxy && tables.len() > 1 {
            let text = "a proxy route has exactly one upstream, since the sender gets its answer";
            context.error(&span, text, Some("use mode = \"queue\" to deliver to several"));
        }
        for table in tables {
            list.extend(upstream(table, mode, preset, secrets, None));
        }
    }
    for (index, one) in list.iter().enumerate() {
        let earlier = list.iter().take(index);
        if earlier.clone().any(|other| other.name.value == one.name.value) {
            let text = format!("upstream name \"{}\" is used twice in this route", one.name.value);
            context.error(
                &one.name.span,
                text,
                Some("names keep what is pending for each apart"),
            );
        }
    }
    list
}

fn upstream(
    table: Section<'_>,
    mode: ModeWord,
    preset: Option<&Preset>,
    secrets: &Secrets,
    default_name: Option<&str>,
) -> Option<Upstream> {
    let name = name(&table, default_name);
    let endpoint = endpoint(&table);
    refuse_keys_of_the_other_mode(&table, mode);
    let limits = limits(&table, mode, preset);
    let handoff = handoff(&table, secrets);
    let queue = QueueKeys {
        concurrency: table
            .integer("concurrency", 1..=10_000)
            .map_or(32, |at| count(at.value)),
        rate: rate(&table),
        retry: retry(&table),
        paused: table.boolean("paused").is_some_and(|at| at.value),
        types: types(&table),
    };
    table.finish();
    Some(Upstream {
        name: name?,
        endpoint: endpoint?,
        handoff,
        limits,
        queue,
    })
}

fn name(table: &Section<'_>, default_name: Option<&str>) -> Option<At<UpstreamName>> {
    let Some(written) = table.string("name") else {
        if default_name.is_none() && !table.has("name") {
            table.missing(
                "name",
                "each of several upstreams needs a name, such as name = \"app\"",
            );
        }
        return default_name.map(|name| At {
            value: UpstreamName::new(name),
            span: table.span.clone(),
        });
    };
    if !is_plain_name(written.value) {
        let text = "the name of an upstream is 1 to 64 letters, digits, \"-\", \"_\" or \".\"";
        table.context.wrong(&written.span, text, None);
        return None;
    }
    Some(At {
        value: UpstreamName::new(written.value),
        span: written.span,
    })
}

fn endpoint(table: &Section<'_>) -> Option<At<Endpoint>> {
    if !table.has("url") {
        table.missing("url", "write url = \"http://127.0.0.1:3000/hooks\"");
    }
    let url = table.string("url")?;
    let endpoint: Endpoint = match url.value.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            table.context.wrong(&url.span, format!("{error}"), None);
            return None;
        }
    };
    if let Ok(ip) = endpoint.host.parse::<IpAddr>()
        && is_link_local(ip)
    {
        let text =
            format!("upstream {ip} is a link-local address, where clouds serve credentials to whoever asks");
        table
            .context
            .warn(&url.span, text, Some("use the app's own address"));
    }
    Some(At {
        value: endpoint,
        span: url.span,
    })
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local())
        }
    }
}

fn refuse_keys_of_the_other_mode(table: &Section<'_>, mode: ModeWord) {
    let (keys, text): (&[&'static str], &str) = match mode {
        ModeWord::Queue => (
            &["max_answer"],
            "is for mode = \"proxy\": a delivery's answer is not kept",
        ),
        ModeWord::Proxy => (
            &["concurrency", "rate", "retry", "types", "paused"],
            "is for mode = \"queue\": a proxied request is sent once, while its sender waits",
        ),
    };
    for key in keys {
        if table.has(key) {
            let text = format!("\"{key}\" {text}");
            table.context.error(&table.key_span(key), text, Some("remove it"));
        }
    }
}

fn limits(table: &Section<'_>, mode: ModeWord, preset: Option<&Preset>) -> Limits {
    let patience = preset.and_then(|preset| preset.delivery.answer_limit);
    let whole_default = match mode {
        ModeWord::Queue => Duration::from_secs(15),
        // A sender that gave up before would only send the event again.
        ModeWord::Proxy => Duration::from_secs(10).min(patience.unwrap_or(Duration::MAX)),
    };
    let whole = table.duration("timeout", DEADLINES);
    if let (ModeWord::Proxy, Some(whole), Some(patience), Some(preset)) = (mode, &whole, patience, preset)
        && whole.value > patience
    {
        let text = format!(
            "\"timeout\" is longer than {} waits for an answer ({})",
            preset.title,
            super::units::show_duration(patience)
        );
        table.context.warn(
            &whole.span,
            text,
            Some("a sender that gave up sends the event again"),
        );
    }
    let whole = whole.map_or(whole_default, |at| at.value);
    let part = |key: &'static str, default: Duration| {
        let Some(written) = table.duration(key, DEADLINES) else {
            return default.min(whole);
        };
        if written.value > whole {
            let text = format!(
                "\"{key}\" is longer than the whole call's \"timeout\" ({})",
                super::units::show_duration(whole)
            );
            table
                .context
                .error(&written.span, text, Some("make it shorter, or timeout longer"));
        }
        written.value
    };
    let max_answer = table.size("max_answer", 1024..=1 << 30);
    Limits {
        connect: part("connect_timeout", Duration::from_secs(3)),
        tls: part("tls_timeout", Duration::from_secs(5)),
        write: part("write_timeout", Duration::from_secs(10)),
        first_byte: part("first_byte_timeout", whole),
        whole,
        head_bytes_max: ANSWER_HEAD_BYTES,
        body_bytes_max: match mode {
            ModeWord::Queue => ANSWER_BODY_DRAINED,
            ModeWord::Proxy => max_answer.map_or(10 << 20, |at| count(at.value)),
        },
        keep_body: mode == ModeWord::Proxy,
    }
}

fn rate(table: &Section<'_>) -> Option<Quota> {
    let rate = table.table("rate", "{ per_second = 50, burst = 100 }")?;
    let quota = quota_of(&rate);
    rate.finish();
    quota.map(|(per_second, burst)| Quota { per_second, burst })
}

fn retry(table: &Section<'_>) -> RetryPlan {
    let mut plan = RetryPlan::default();
    let Some(retry) = table.table("retry", "{ first = \"1s\", max = \"1h\", for = \"72h\" }") else {
        return plan;
    };
    let first = retry.duration("first", DEADLINES);
    if let Some(first) = &first {
        plan.first = first.value;
    }
    if let Some(max) = retry.duration("max", Duration::from_millis(10)..=Duration::from_secs(86_400)) {
        plan.wait_max = max.value;
    }
    if let Some(age) = retry.duration("for", SPANS) {
        plan.age_max = age.value;
    }
    if let Some(factor) = retry.number("factor", 1.0..=100.0) {
        plan.factor = factor.value;
    }
    if let Some(jitter) = retry.number("jitter", 0.0..=1.0) {
        plan.jitter = jitter.value;
    }
    if let Some(attempts) = retry.integer("attempts", 1..=1_000_000) {
        plan.attempts_max = u32::try_from(attempts.value).ok();
    }
    if plan.first > plan.wait_max {
        let text = "the first wait is longer than the longest (\"max\")";
        retry.context.error(
            &first.map_or_else(|| retry.span.clone(), |at| at.span),
            text,
            None,
        );
    }
    retry.finish();
    plan
}

fn types(table: &Section<'_>) -> Option<At<Vec<Box<str>>>> {
    let written = table.strings("types")?;
    if written.value.is_empty() {
        let text = "\"types\" is empty: this upstream would get nothing";
        table
            .context
            .wrong(&written.span, text, Some("leave it out to get every type"));
    }
    let mut list = Vec::new();
    for entry in written.value {
        let star = entry.value.find('*');
        if entry.value.is_empty() || star.is_some_and(|at| at + 1 != entry.value.len()) {
            let text = "a type is text, or a beginning and then one \"*\": \"lead.created\", \"lead.*\"";
            table.context.wrong(&entry.span, text, None);
        } else {
            list.push(entry.value.into());
        }
    }
    Some(At {
        value: list,
        span: written.span,
    })
}

fn handoff(table: &Section<'_>, secrets: &Secrets) -> handoff::Settings {
    let signing = secrets
        .reference(table, "handoff_secret", Guess::Offline)
        .and_then(|text| handoff_key(table.context, &text));
    handoff::Settings {
        static_headers: static_headers(table),
        preserve_host: table.boolean("preserve_host").is_some_and(|at| at.value),
        signing,
    }
}

/// The hand-off key is ours, so it has the one form that every Standard Webhooks library takes: base64 of 24 to
/// 64 bytes, with or without `whsec_` in front.
fn handoff_key(context: &Context<'_>, text: &At<SecretText>) -> Option<crate::secret::Key> {
    let help = "make one: printf 'whsec_%s' \"$(openssl rand -base64 32)\"";
    let bytes = text.value.expose();
    let (form, digits) = match bytes.strip_prefix(b"whsec_") {
        Some(digits) => (KeyForm::Whsec, digits),
        None => (KeyForm::Base64, bytes),
    };
    let key_bytes = base64::engine::general_purpose::STANDARD
        .decode(digits)
        .map(|key| key.len());
    match (form.hmac(&text.value), key_bytes) {
        (Ok(key), Ok(length)) => {
            if length < HANDOFF_KEY_BYTES_MIN {
                let problem =
                    format!("the hand-off key is {length} bytes; Standard Webhooks asks for 24 to 64");
                context.warn(&text.span, problem, Some(help));
            }
            Some(key)
        }
        _ => {
            let problem = "the hand-off secret must be base64, with or without \"whsec_\" in front";
            context.error(&text.span, problem, Some(help));
            None
        }
    }
}

/// Headers that frame the message, belong to one connection, or are ours.
const NOT_STATIC: [&str; 14] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "idempotency-key",
    "x-forwarded-for",
];

fn static_headers(table: &Section<'_>) -> Vec<(Box<str>, Box<str>)> {
    let context = table.context;
    let Some(headers) = table.table("headers", "{ X-Name = \"value\" }") else {
        return Vec::new();
    };
    let mut list: Vec<(Box<str>, Box<str>)> = Vec::new();
    for (name, item) in headers.entries() {
        let lower = name.value.to_ascii_lowercase().replace('_', "-");
        let refused: Option<&str> = if http::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
            Some("is not the name of a header")
        } else if NOT_STATIC.contains(&lower.as_str()) || lower.starts_with("hooklatch-") {
            Some("is set by hooklatch itself")
        } else if list
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name.value))
        {
            Some("is written twice")
        } else {
            None
        };
        if let Some(reason) = refused {
            context.wrong(&name.span, format!("header {:?} {reason}", name.value), None);
            continue;
        }
        match header_value(item.value.get_ref()) {
            Some(value) => list.push((name.value.into(), value.into())),
            None => {
                let text = format!(
                    "the value of header {:?} must be visible ASCII text on one line",
                    name.value
                );
                context.wrong(&item.span(), text, None);
            }
        }
    }
    list
}

fn header_value<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    value
        .as_str()
        .filter(|text| http::HeaderValue::from_str(text).is_ok() && text.trim() == *text)
}

/// Where an upstream is, to see whether it is ourselves.
pub(super) fn place(upstream: &Upstream) -> (Endpoint, Span) {
    (upstream.endpoint.value.clone(), upstream.endpoint.span.clone())
}
