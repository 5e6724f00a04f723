//! What the app sees of a request: request line and headers, for deliveries and for `proxy` mode alike.
//!
//! The sender's header block is copied as it stands; ours are added behind it.

use std::fmt;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::event::{Event, EventKey, Timestamp};
use crate::secret::Key;
use crate::upstream::Endpoint;

/// What an upstream's table says about the requests sent to it.
#[derive(Clone, Default)]
pub struct Settings {
    /// Headers from the configuration; they replace the sender's of the same name.
    pub static_headers: Vec<(Box<str>, Box<str>)>,
    /// Send the sender's `Host` on.
    pub preserve_host: bool,
    /// Sign what is handed over with this key, as Standard Webhooks describes.
    pub signing: Option<Key>,
}

impl fmt::Debug for Settings {
    /// Names the static headers without their values, which may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.static_headers.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Settings")
            .field("static_headers", &names)
            .field("preserve_host", &self.preserve_host)
            .field("signing", &self.signing)
            .finish()
    }
}

/// What is said about one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// `Hooklatch-Key`.
    pub key: &'a EventKey,
    /// Counted from 1.
    pub number: u32,
    /// An earlier event that this one may repeat.
    pub possible_duplicate_of: Option<&'a EventKey>,
    /// The time of the attempt, for the hand-off signature.
    pub now: Timestamp,
}

/// Appends request line and headers, closing empty line included, to `out`.
///
/// `Content-Length` is that of `event.body`. Standard Webhooks: <https://www.standardwebhooks.com/>.
pub fn write_head(
    out: &mut Vec<u8>,
    endpoint: &Endpoint,
    settings: &Settings,
    event: &Event,
    attempt: Attempt<'_>,
) {
    out.reserve(event.headers.len() + 640);
    write_request_line(out, endpoint, event);
    let host = if settings.preserve_host {
        &event.host
    } else {
        &endpoint.authority
    };
    line(out, "Host", host.as_bytes());
    // An unverified event is never signed: the signature would say that we checked it.
    let signing = settings.signing.as_ref().filter(|_| event.verified);
    copy_sender_headers(out, &event.headers, settings, signing.is_some());
    for (name, value) in &settings.static_headers {
        line(out, name, value.as_bytes());
    }
    number(out, "Content-Length", event.body.len());
    if let Some(id) = &event.event_id {
        line(out, "Hooklatch-Event-Id", id.as_bytes());
    }
    if let Some(event_type) = &event.event_type {
        line(out, "Hooklatch-Event-Type", event_type.as_bytes());
        if event.type_unsigned {
            line(out, "Hooklatch-Event-Type-Unsigned", b"true");
        }
    }
    line(out, "Hooklatch-Route", event.route.as_str().as_bytes());
    line(out, "Hooklatch-Provider", event.provider.as_str().as_bytes());
    line(
        out,
        "Hooklatch-Verified",
        if event.verified { b"true" } else { b"false" },
    );
    number(out, "Hooklatch-Attempt", attempt.number);
    out.extend_from_slice(b"Hooklatch-Received-At: ");
    event.received_at.put(out);
    out.extend_from_slice(b"\r\n");
    line(out, "Hooklatch-Key", attempt.key.as_str().as_bytes());
    if let Some(first) = attempt.possible_duplicate_of {
        line(out, "Hooklatch-Possible-Duplicate", first.as_str().as_bytes());
    }
    if !event.has_idempotency_key {
        line(out, "Idempotency-Key", attempt.key.as_str().as_bytes());
    }
    if let Some(key) = signing {
        sign(out, key, event, attempt);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_request_line(out: &mut Vec<u8>, endpoint: &Endpoint, event: &Event) {
    out.extend_from_slice(event.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(endpoint.path.as_bytes());
    if !event.path_rest.is_empty() {
        if !endpoint.path.ends_with('/') {
            out.push(b'/');
        }
        out.extend_from_slice(event.path_rest.as_bytes());
    }
    // The upstream's own query comes first; the sender's is kept as it is.
    let mut separator = b'?';
    for query in [&endpoint.query, &event.query].into_iter().flatten() {
        out.push(separator);
        out.extend_from_slice(query.as_bytes());
        separator = b'&';
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn copy_sender_headers(out: &mut Vec<u8>, block: &[u8], settings: &Settings, resigned: bool) {
    if settings.static_headers.is_empty() && !resigned {
        out.extend_from_slice(block);
        return;
    }
    for entry in block.split_inclusive(|byte| *byte == b'\n') {
        let name = entry.split(|byte| *byte == b':').next().unwrap_or_default();
        let replaced = settings
            .static_headers
            .iter()
            .any(|(ours, _)| same_name(ours.as_bytes(), name));
        let dropped = replaced || (resigned && is_standard_webhooks(name));
        if !dropped {
            out.extend_from_slice(entry);
        }
    }
}

fn is_standard_webhooks(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 3] = [b"webhook-id", b"webhook-timestamp", b"webhook-signature"];
    NAMES.iter().any(|ours| same_name(ours, name))
}

/// `_` equals `-`: servers that hand headers to CGI or WSGI apps merge the two.
fn same_name(ours: &[u8], theirs: &[u8]) -> bool {
    let plain = |byte: &u8| {
        if *byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| plain(a) == plain(b))
}

fn sign(out: &mut Vec<u8>, key: &Key, event: &Event, attempt: Attempt<'_>) {
    let id = attempt.key.as_str();
    let seconds = attempt.now.0.div_euclid(1000).to_string();
    let tag = key.tag(&[id.as_bytes(), b".", seconds.as_bytes(), b".", &event.body]);
    line(out, "webhook-id", id.as_bytes());
    line(out, "webhook-timestamp", seconds.as_bytes());
    line(
        out,
        "webhook-signature",
        format!("v1,{}", STANDARD.encode(tag)).as_bytes(),
    );
}

/// Our values are numbers, names from the configuration, and ids and types whose control characters were refused.
fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    // Writing to a Vec cannot fail.
    write!(out, "{name}: {value}\r\n").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ProviderName, RouteName, Seq};
    use bytes::Bytes;

    fn event() -> Event {
        Event {
            route: RouteName::new("hooks/quantiv"),
            provider: ProviderName::new("quantiv"),
            event_id: Some("evt_1".into()),
            event_type: Some("lead.created".into()),
            type_unsigned: false,
            verified: true,
            secret: None,
            received_at: Timestamp(1_700_000_000_123),
            method: "POST".into(),
            path_rest: "a/b".into(),
            query: Some("x=1".into()),
            host: "hooks.example".into(),
            client: [127, 0, 0, 1].into(),
            headers: Bytes::from_static(
                b"X-Sig: abc\r\nWebhook_Id: theirs\r\nWebhook-Ids: 1\r\nWebhook.Id: 2\r\nAuthorization: theirs\r\n",
            ),
            has_idempotency_key: false,
            body: Bytes::from_static(b"{}"),
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            tls: false,
            host: "app".into(),
            port: 3000,
            authority: "app:3000".into(),
            path: "/in".into(),
            query: None,
        }
    }

    fn head(settings: &Settings, event: &Event) -> String {
        let key = EventKey::of_kept(&event.route, &[0; 16], Seq(1));
        let mut out = Vec::new();
        let attempt = Attempt {
            key: &key,
            number: 2,
            possible_duplicate_of: None,
            now: Timestamp(1_700_000_000_999),
        };
        write_head(&mut out, &endpoint(), settings, event, attempt);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_plain_case() {
        let text = head(&Settings::default(), &event());
        let key = EventKey::of_kept(&RouteName::new("hooks/quantiv"), &[0; 16], Seq(1));
        assert_eq!(
            text,
            format!(
                "POST /in/a/b?x=1 HTTP/1.1\r\nHost: app:3000\r\nX-Sig: abc\r\nWebhook_Id: theirs\r\nWebhook-Ids: \
                 1\r\nWebhook.Id: 2\r\nAuthorization: theirs\r\nContent-Length: 2\r\nHooklatch-Event-Id: evt_1\r\nHooklatch-Event-Type: \
                 lead.created\r\nHooklatch-Route: hooks/quantiv\r\nHooklatch-Provider: quantiv\r\nHooklatch-Verified: \
                 true\r\nHooklatch-Attempt: 2\r\nHooklatch-Received-At: 2023-11-14T22:13:20.123Z\r\nHooklatch-Key: \
                 {key}\r\nIdempotency-Key: {key}\r\n\r\n"
            )
        );
    }

    #[test]
    fn static_headers_replace_and_signing_replaces_the_triple() {
        let settings = Settings {
            static_headers: vec![("authorization".into(), "ours".into())],
            preserve_host: true,
            signing: Some(Key::new(b"hand-off").unwrap()),
        };
        let text = head(&settings, &event());
        assert!(text.contains("\r\nHost: hooks.example\r\n"));
        assert!(text.contains("\r\nauthorization: ours\r\n"));
        assert!(!text.contains("theirs"));
        let key = EventKey::of_kept(&RouteName::new("hooks/quantiv"), &[0; 16], Seq(1));
        let tag = Key::new(b"hand-off")
            .unwrap()
            .tag(&[format!("{key}.1700000000.{{}}").as_bytes()]);
        assert!(text.contains(&format!("\r\nwebhook-signature: v1,{}\r\n", STANDARD.encode(tag))));
    }

    #[test]
    fn a_static_header_replaces_every_spelling_of_its_name() {
        let mut event = event();
        event.headers = Bytes::from_static(
            b"X-Api-Key: theirs\r\nx_api_key: theirs\r\nX_Api-Key: theirs\r\nX-Api-Keys: kept\r\n",
        );
        let settings = Settings {
            static_headers: vec![("x-api-key".into(), "ours".into())],
            ..Settings::default()
        };
        let text = head(&settings, &event);
        assert!(text.contains("\r\nx-api-key: ours\r\n"), "{text}");
        assert!(
            text.contains("X-Api-Keys: kept") && !text.contains("theirs"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_replaced_is_taken_out() {
        let static_headers = vec![("authorization".into(), "ours".into())];
        let signing = Some(Key::new(b"hand-off").unwrap());
        for (name, settings, gone) in [
            ("nothing", Settings::default(), ""),
            (
                "a static header",
                Settings {
                    static_headers: static_headers.clone(),
                    ..Settings::default()
                },
                "Authorization",
            ),
            (
                "a signature",
                Settings {
                    signing: signing.clone(),
                    ..Settings::default()
                },
                "Webhook_Id",
            ),
            (
                "both",
                Settings {
                    static_headers,
                    signing,
                    preserve_host: false,
                },
                "Authorization Webhook_Id",
            ),
        ] {
            let text = head(&settings, &event());
            for line in [
                "X-Sig: abc",
                "Webhook_Id: theirs",
                "Webhook-Ids: 1",
                "Webhook.Id: 2",
                "Authorization: theirs",
            ] {
                let (field, _) = line.split_once(':').unwrap();
                let kept = text.contains(&format!("\r\n{line}\r\n"));
                assert_eq!(kept, !gone.split(' ').any(|gone| gone == field), "{name}: {line}");
            }
        }
    }

    #[test]
    fn settings_are_shown_without_their_values() {
        let settings = Settings {
            static_headers: vec![("authorization".into(), "canary".into())],
            preserve_host: true,
            signing: Some(Key::new(b"canary").unwrap()),
        };
        assert_eq!(
            format!("{settings:?}"),
            r#"Settings { static_headers: ["authorization"], preserve_host: true, signing: Some(Key(redacted)) }"#
        );
    }

    #[test]
    fn an_unverified_event_is_never_signed() {
        let settings = Settings {
            signing: Some(Key::new(b"hand-off").unwrap()),
            ..Settings::default()
        };
        let text = head(
            &settings,
            &Event {
                verified: false,
                ..event()
            },
        );
        assert!(text.contains("\r\nHooklatch-Verified: false\r\n"));
        assert!(!text.contains("webhook-signature"));
    }
}
