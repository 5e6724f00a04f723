//! The log lines of requests and attempts: constant text, data in fields, nothing of a body, header or query.

use std::borrow::Cow;
use std::time::Duration;

use super::{AttemptEnd, RequestEnd, RequestResult};
use crate::event::{ProviderName, RouteName, Target, UpstreamName};

/// Text from outside is cut at this many bytes.
const SHOWN_BYTES_MAX: usize = 128;

/// Whether anybody reads what went well. Asked first, so that a silent level costs nothing.
pub(super) fn informed() -> bool {
    tracing::enabled!(tracing::Level::INFO)
}

/// Whether anybody reads what went wrong and was coped with.
pub(super) fn warned() -> bool {
    tracing::enabled!(tracing::Level::WARN)
}

/// `text` as it may stand in a line: at most 128 bytes, control characters escaped.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_BYTES_MAX && !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(SHOWN_BYTES_MAX + 8);
    for character in text.chars() {
        let before = shown.len();
        if is_unsafe(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
        if shown.len() > SHOWN_BYTES_MAX {
            shown.truncate(before);
            shown.push('…');
            break;
        }
    }
    Cow::Owned(shown)
}

/// Control characters, and those that end a line or turn its direction for some readers.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

pub(super) fn accepted(route: &RouteName, provider: &ProviderName, end: &RequestEnd<'_>) {
    let event_id = end.event_id.map(shown);
    tracing::info!(
        route = route.as_str(),
        provider = provider.as_str(),
        outcome = end.result.as_str(),
        status = end.status,
        event_id = event_id.as_deref(),
        seq = end.seq.map(|seq| seq.0),
        body_bytes = end.body_bytes,
        client = %end.client,
        elapsed_ms = millis(end.elapsed),
        "webhook accepted"
    );
}

/// A handshake that was answered; which one is in `handshake`.
pub(super) fn handshake(route: &RouteName, provider: &ProviderName, end: &RequestEnd<'_>) {
    let handshake = end.reason.map(shown);
    tracing::info!(
        route = route.as_str(),
        provider = provider.as_str(),
        outcome = end.result.as_str(),
        status = end.status,
        handshake = handshake.as_deref(),
        body_bytes = end.body_bytes,
        client = %end.client,
        elapsed_ms = millis(end.elapsed),
        "handshake answered"
    );
}

/// Any end but an accepted one. What happened is in `outcome`; what was wrong is in `error`.
pub(super) fn refused(route: &RouteName, provider: &ProviderName, end: &RequestEnd<'_>) {
    let event_id = end.event_id.map(shown);
    let error = end.reason.map(shown);
    // A request without a route has no such fields.
    let route = Some(route.as_str()).filter(|name| !name.is_empty());
    let provider = Some(provider.as_str()).filter(|name| !name.is_empty());
    // No status: none could be sent.
    let status = Some(end.status).filter(|status| *status != 0);
    macro_rules! line {
        ($text:literal) => {
            tracing::warn!(
                route,
                provider,
                outcome = end.result.as_str(),
                status,
                error = error.as_deref(),
                event_id = event_id.as_deref(),
                seq = end.seq.map(|seq| seq.0),
                body_bytes = end.body_bytes,
                client = %end.client,
                elapsed_ms = millis(end.elapsed),
                $text
            )
        };
    }
    match end.result {
        RequestResult::Aborted => line!("sender hung up"),
        RequestResult::UpstreamRefused | RequestResult::UpstreamFailed => {
            line!("webhook not taken by the upstream")
        }
        _ => line!("webhook refused"),
    }
}

pub(super) fn conflict(route: &RouteName, provider: &ProviderName, error: &'static str) {
    tracing::warn!(
        route = route.as_str(),
        provider = provider.as_str(),
        error,
        "webhook conflicts"
    );
}

pub(super) fn delivered(target: &Target, end: &AttemptEnd<'_>) {
    let event_id = end.event_id.map(shown);
    tracing::info!(
        route = target.route.as_str(),
        upstream = target.upstream.as_str(),
        outcome = end.result.as_str(),
        status = end.status,
        event_id = event_id.as_deref(),
        seq = end.seq.0,
        attempt = end.attempt,
        body_bytes = end.body_bytes,
        elapsed_ms = millis(end.elapsed),
        lag_ms = end.lag.map(millis),
        "event delivered"
    );
}

pub(super) fn retry(target: &Target, end: &AttemptEnd<'_>) {
    let event_id = end.event_id.map(shown);
    let error = end.error.map(shown);
    tracing::warn!(
        route = target.route.as_str(),
        upstream = target.upstream.as_str(),
        outcome = end.result.as_str(),
        status = end.status,
        error = error.as_deref(),
        event_id = event_id.as_deref(),
        seq = end.seq.0,
        attempt = end.attempt,
        body_bytes = end.body_bytes,
        elapsed_ms = millis(end.elapsed),
        next_wait_ms = end.next_wait.map(millis),
        "attempt failed"
    );
}

pub(super) fn dead(target: &Target, end: &AttemptEnd<'_>) {
    let event_id = end.event_id.map(shown);
    let error = end.error.map(shown);
    tracing::error!(
        route = target.route.as_str(),
        upstream = target.upstream.as_str(),
        outcome = end.result.as_str(),
        status = end.status,
        error = error.as_deref(),
        event_id = event_id.as_deref(),
        seq = end.seq.0,
        attempt = end.attempt,
        body_bytes = end.body_bytes,
        elapsed_ms = millis(end.elapsed),
        "delivery given up, replay it once the upstream takes it"
    );
}

pub(super) fn breaker(target: &Target, open: bool) {
    let (route, upstream) = (target.route.as_str(), target.upstream.as_str());
    if open {
        tracing::warn!(route, upstream, "upstream keeps failing, it is only probed");
    } else {
        tracing::info!(route, upstream, "upstream answers again");
    }
}

/// What is summed up: lines about what went well, or about trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Trouble,
}

/// `lines` lines with the text `kind` were held back since the last summary.
pub(super) fn summary(
    route: &RouteName,
    upstream: Option<&UpstreamName>,
    (tone, kind): (Tone, &'static str),
    lines: u64,
) {
    let route = Some(route.as_str()).filter(|name| !name.is_empty());
    let upstream = upstream.map(UpstreamName::as_str);
    match tone {
        Tone::Good => tracing::info!(route, upstream, lines, kind, "lines held back"),
        Tone::Trouble => tracing::warn!(route, upstream, lines, kind, "lines held back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_made_safe() {
        for (name, given, want) in [
            ("as it is", "evt_1", "evt_1".to_owned()),
            ("a line end", "a\nb", "a\\u{a}b".to_owned()),
            ("a terminal escape", "\u{1b}[31m", "\\u{1b}[31m".to_owned()),
            ("a turned direction", "a\u{202e}b", "a\\u{202e}b".to_owned()),
            ("just short enough", &"x".repeat(128), "x".repeat(128)),
            ("too long", &"x".repeat(129), "x".repeat(128) + "…"),
            (
                "too long, cut between characters",
                &"é".repeat(100),
                "é".repeat(64) + "…",
            ),
            ("no half escape", &("x".repeat(126) + "\n"), "x".repeat(126) + "…"),
        ] {
            assert_eq!(shown(given), want, "{name}");
        }
    }
}
