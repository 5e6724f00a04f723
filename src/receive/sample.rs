//! A route and a request to test the stages with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::head::Head;
use super::route::{Entry, Table};
use super::settings::{FixedAnswer, Limits, Mode, Proof, Quota, Route, RoutePath, Routes, Verify};
use crate::clock::ManualClock;
use crate::event::{ProviderName, RouteName, SecretName, Timestamp};
use crate::keys::{Https, KeyCache};
use crate::provider::body_hmac::BodyHmac;
use crate::provider::encoding::{Encoding, Prefix};
use crate::provider::identify::IdentifyRule;
use crate::provider::key::{KeyForm, SchemeKey};
use crate::provider::scheme::{Credentials, Rule, Scheme};
use crate::provider::signature::LiveKey;
use crate::secret::Key;
use crate::telemetry::Telemetry;
use crate::upstream::Client;

pub(super) const ID_WINDOW: Duration = Duration::from_secs(7 * 86_400);
pub(super) const BODY_WINDOW: Duration = Duration::from_secs(3600);

/// The defaults.
pub(super) fn limits() -> Limits {
    Limits {
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
    }
}

/// A route with one secret, in mode `queue`, that reads `/id` and `/event`.
pub(super) fn route() -> Route {
    let answer = |status, body: &str| FixedAnswer {
        status,
        body: body.into(),
        content_type: "application/json",
    };
    Route {
        name: RouteName::new("hooks"),
        path: RoutePath::Exact("/hooks".into()),
        methods: vec!["POST".into()],
        provider: ProviderName::new("custom"),
        verify: signed(true),
        identify: IdentifyRule {
            id: Some(vec!["id".into()]),
            event_type: Some(vec!["event".into()]),
            type_header: Some("x-event".into()),
            ..IdentifyRule::default()
        },
        dedup_window: ID_WINDOW,
        dedup_body_window: BODY_WINDOW,
        dedup_by_path: false,
        mode: Mode::Queue { wants: Vec::new() },
        body_bytes_max: 100,
        reject_above: None,
        allow_ips: Vec::new(),
        accepted: answer(200, "accepted"),
        duplicate: answer(200, "duplicate"),
        missing_signature: answer(400, "missing"),
        bad_signature: answer(401, "bad"),
        public_url: None,
        handshakes: Vec::new(),
        verify_token: None,
        credentials: Credentials::default(),
        quarantine_bytes: 0,
    }
}

pub(super) fn signed(enforce: bool) -> Verify {
    Verify::Signature {
        proofs: vec![Proof {
            scheme: Arc::new(Scheme {
                name: "main".into(),
                rule: Rule::BodyHmac(rule()),
            }),
            keys: vec![LiveKey {
                name: SecretName::new("live"),
                key: SchemeKey::Hmac(key()),
                until: None,
            }],
        }],
        enforce,
    }
}

pub(super) fn rule() -> BodyHmac {
    BodyHmac {
        headers: vec!["x-signature".into()],
        prefix: Prefix::None,
        encoding: Encoding::Hex,
        key: KeyForm::Utf8,
    }
}

/// The key of [`route`]'s secret.
#[allow(clippy::unwrap_used, reason = "only tests come here")]
pub(super) fn key() -> Key {
    Key::new(b"a secret of sixteen bytes").unwrap()
}

/// A cache that can fetch nothing.
pub(super) fn keys() -> KeyCache {
    KeyCache::new(
        Arc::new(Https::new(Client::new(Duration::ZERO, 0))),
        Arc::new(ManualClock::new(Timestamp(0))),
    )
}

/// Several routes, after those of `old`.
pub(super) fn table(routes: impl IntoIterator<Item = Route>, old: Option<&Table>) -> Table {
    let routes = Routes {
        routes: routes.into_iter().map(Arc::new).collect(),
        trusted_proxies: Vec::new(),
    };
    Table::new(&routes, &Telemetry::new(), None, old)
}

/// What a request to `route` meets, and where its figures are read.
#[allow(clippy::unwrap_used, reason = "only tests come here")]
pub(super) fn entry(route: Route) -> (Arc<Entry>, Telemetry) {
    let telemetry = Telemetry::new();
    let path = match &route.path {
        RoutePath::Exact(path) | RoutePath::Below(path) => path.clone(),
    };
    let routes = Routes {
        routes: vec![Arc::new(route)],
        trusted_proxies: Vec::new(),
    };
    let found = Table::new(&routes, &telemetry, None, None).find(&path).unwrap();
    (found.entry, telemetry)
}

#[allow(clippy::unwrap_used, reason = "only tests come here")]
pub(super) fn head(request_line: &str, fields: &str) -> Head {
    let raw = format!("{request_line} HTTP/1.1\r\nHost: gate\r\n{fields}\r\n");
    Head::parse(&Bytes::from(raw), 100).unwrap()
}
