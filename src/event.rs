//! The nouns of hooklatch: what an event is, how it is named and how repeats are recognised.
//!
//! Nothing here does I/O and nothing here imports another module of ours.

use std::fmt;
use std::hash::Hasher;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::fmt::temporal::DateTimePrinter;
use siphasher::sip128::{Hasher128, SipHasher24};

/// A name given in the configuration; cheap to clone. `Kind` keeps the sorts of names apart.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<Kind>(Arc<str>, PhantomData<fn() -> Kind>);

impl<Kind> Name<Kind> {
    /// Wraps `text`; what a name may look like is decided where the configuration is read.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into(), PhantomData)
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<Kind> Clone for Name<Kind> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<Kind> fmt::Display for Name<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<Kind> fmt::Debug for Name<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The sorts of [`Name`].
pub mod kind {
    /// A route of the configuration.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Route {}
    /// An upstream of one route.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Upstream {}
    /// An entry of `[secrets]`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Secret {}
    /// A provider preset.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Provider {}
}

/// The name of a route: stable over changes of its path, part of every dedup key.
pub type RouteName = Name<kind::Route>;
/// The name of an upstream, unique within its route.
pub type UpstreamName = Name<kind::Upstream>;
/// The name of a secret in `[secrets]`; never the secret.
pub type SecretName = Name<kind::Secret>;
/// The name of a provider preset, or `custom` for a `verify` table.
pub type ProviderName = Name<kind::Provider>;

/// Where one delivery goes: an upstream of a route. Breakers, limits and queues belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The route.
    pub route: RouteName,
    /// The upstream of that route.
    pub upstream: UpstreamName,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.route, self.upstream)
    }
}

/// The number of a kept event: a plain counter, never used twice in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(pub i64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn millis_since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// Appends what `Display` writes, in half of the time.
    pub fn put(self, out: &mut Vec<u8>) {
        const RFC_3339: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let before = out.len();
        let time = jiff::Timestamp::from_millisecond(self.0);
        if time
            .and_then(|time| RFC_3339.print_timestamp(&time, &mut *out))
            .is_err()
        {
            out.truncate(before);
            out.extend_from_slice(self.to_string().as_bytes());
        }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as in `2026-11-21T01:15:00.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// One webhook as it was received: what is kept, and what is sent on.
///
/// `headers` is the block that goes to the upstream: `Name: value\r\n` lines in the sender's order and
/// spelling, end-to-end headers only, with our `X-Forwarded-*` lines added, and without `Host`, `Content-Length`
/// and every inbound `Hooklatch-*`.
#[derive(Clone)]
pub struct Event {
    /// The route it came in by.
    pub route: RouteName,
    /// The preset, or `custom`.
    pub provider: ProviderName,
    /// The provider's own id from the signed bytes: 1 to 255 bytes without control characters.
    pub event_id: Option<Box<str>>,
    /// The event type, where it could be read.
    pub event_type: Option<Box<str>>,
    /// The type came from a header that the signature does not cover.
    pub type_unsigned: bool,
    /// The signature was checked and matched, and the route enforces it.
    pub verified: bool,
    /// The name of the secret that matched.
    pub secret: Option<SecretName>,
    /// When the last byte of the request was read.
    pub received_at: Timestamp,
    /// The request's method.
    pub method: Box<str>,
    /// What a `/*` route matched after its prefix, as received, without a leading slash; empty on exact routes.
    pub path_rest: Box<str>,
    /// The query string as received, without `?`; `None` when there was no `?`.
    pub query: Option<Box<str>>,
    /// The `Host` (or `:authority`) the sender asked for.
    pub host: Box<str>,
    /// The sender's address, after trusted proxies were taken into account.
    pub client: IpAddr,
    /// See the type's own text.
    pub headers: Bytes,
    /// `headers` holds an `Idempotency-Key` of the sender's.
    pub has_idempotency_key: bool,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl fmt::Debug for Event {
    /// Leaves out headers, query and body: they never reach logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("route", &self.route)
            .field("provider", &self.provider)
            .field("event_id", &self.event_id)
            .field("event_type", &self.event_type)
            .field("verified", &self.verified)
            .field("received_at", &self.received_at)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// An event the inbox holds.
#[derive(Debug, Clone)]
pub struct KeptEvent {
    /// Its number in the store.
    pub seq: Seq,
    /// `Hooklatch-Key`: the same on every attempt, over restarts and replicas.
    pub key: EventKey,
    /// The `Hooklatch-Key` of an earlier event that this one may repeat.
    pub possible_duplicate_of: Option<EventKey>,
    /// What was received.
    pub event: Arc<Event>,
}

/// The value of `Hooklatch-Key` and of our `Idempotency-Key`: 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey(Box<str>);

impl EventKey {
    /// The key of an event that carries a provider's id: derived from route and id alone, so that every
    /// replica, and a store made anew, gives the same.
    pub fn of_id(route: &RouteName, event_id: &str) -> Self {
        Self::hash(b"id", route, event_id.as_bytes())
    }

    /// The same where the unsigned rest of a `/*` path is part of what makes events equal: one id under two paths is
    /// two events.
    pub fn of_scoped_id(route: &RouteName, scope: &str, event_id: &str) -> Self {
        if scope.is_empty() {
            return Self::of_id(route, event_id);
        }
        Self::of_id(route, &format!("{scope}\0{event_id}"))
    }

    /// The key of an event that is known only by its body: unique per kept event.
    pub fn of_kept(route: &RouteName, store_id: &[u8; 16], seq: Seq) -> Self {
        let mut value = [0; 24];
        let (store, number) = value.split_at_mut(16);
        store.copy_from_slice(store_id);
        number.copy_from_slice(&seq.0.to_be_bytes());
        Self::hash(b"kept", route, &value)
    }

    /// The key of a body that is passed through without being kept (`proxy` mode): equal for equal bodies.
    pub fn of_body(route: &RouteName, dedup_key: &DedupKey) -> Self {
        Self::hash(b"body", route, &dedup_key.0)
    }

    /// The key as it stands in the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a key as it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// No secret is needed: values are ids that a sender has signed, or our own.
    fn hash(kind: &[u8], route: &RouteName, value: &[u8]) -> Self {
        let mut hash = SipHasher24::new_with_key(b"hooklatch-key-v1");
        for part in [kind, route.as_str().as_bytes(), value] {
            hash.write_u64(part.len() as u64);
            hash.write(part);
        }
        let mut digits = [0; 32];
        // As many digits as there is room for: neither step can fail.
        hex::encode_to_slice(hash.finish128().as_bytes(), &mut digits).unwrap_or_default();
        Self(std::str::from_utf8(&digits).unwrap_or_default().into())
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a dedup key was made of; each kind is a key space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The provider's id, from the signed bytes.
    Id,
    /// SHA-256 of the body: no usable id.
    Body,
    /// SHA-256 of the body of an event whose signature was not checked or not enforced.
    Unverified,
}

/// The secret that keys [`DedupKey`]; made with the store and kept in it.
#[derive(Clone, Copy)]
pub struct DedupHashKey(pub [u8; 16]);

impl fmt::Debug for DedupHashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DedupHashKey(redacted)")
    }
}

/// A keyed 16-byte hash of (kind, route name, scope, value): two events with one key are repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DedupKey(pub [u8; 16]);

impl DedupKey {
    /// Derives the key. `scope` is the unsigned rest of a `/*` path under `dedup_scope = "path"`, else empty.
    pub fn derive(
        hash_key: &DedupHashKey,
        kind: KeyKind,
        route: &RouteName,
        scope: &str,
        value: &[u8],
    ) -> Self {
        let mut hash = SipHasher24::new_with_key(&hash_key.0);
        hash.write_u8(match kind {
            KeyKind::Id => 1,
            KeyKind::Body => 2,
            KeyKind::Unverified => 3,
        });
        // Lengths in front keep ("ab", "c") and ("a", "bc") apart.
        for part in [route.as_str().as_bytes(), scope.as_bytes(), value] {
            hash.write_u64(part.len() as u64);
            hash.write(part);
        }
        Self(hash.finish128().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_two_ways_and_looks_the_same() {
        for (millis, text) in [
            (1_795_223_700_123, "2026-11-21T01:15:00.123Z"),
            (1_795_223_700_000, "2026-11-21T01:15:00.000Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_200_000_000_000, "-000002-12-17T14:13:20.000Z"),
            (i64::MAX, "9223372036854775807ms"),
        ] {
            let mut put = b"at ".to_vec();
            Timestamp(millis).put(&mut put);
            let shown = format!("at {}", Timestamp(millis));
            assert_eq!(String::from_utf8(put).unwrap(), shown);
            assert_eq!(shown, format!("at {text}"));
        }
    }

    #[test]
    fn dedup_keys_differ_in_every_part() {
        let key = DedupHashKey([7; 16]);
        let base = DedupKey::derive(&key, KeyKind::Id, &RouteName::new("ab"), "c", b"d");
        for (name, other) in [
            (
                "kind",
                DedupKey::derive(&key, KeyKind::Body, &RouteName::new("ab"), "c", b"d"),
            ),
            (
                "unverified",
                DedupKey::derive(&key, KeyKind::Unverified, &RouteName::new("ab"), "c", b"d"),
            ),
            (
                "route",
                DedupKey::derive(&key, KeyKind::Id, &RouteName::new("a"), "bc", b"d"),
            ),
            (
                "scope",
                DedupKey::derive(&key, KeyKind::Id, &RouteName::new("ab"), "", b"cd"),
            ),
            (
                "value",
                DedupKey::derive(&key, KeyKind::Id, &RouteName::new("ab"), "c", b"e"),
            ),
            (
                "hash key",
                DedupKey::derive(
                    &DedupHashKey([8; 16]),
                    KeyKind::Id,
                    &RouteName::new("ab"),
                    "c",
                    b"d",
                ),
            ),
        ] {
            assert_ne!(base, other, "{name}");
        }
        assert_eq!(
            base,
            DedupKey::derive(&key, KeyKind::Id, &RouteName::new("ab"), "c", b"d")
        );
    }

    #[test]
    fn event_keys_are_stable_and_unique_where_they_must_be() {
        let route = RouteName::new("hooks");
        assert_eq!(EventKey::of_id(&route, "evt_1"), EventKey::of_id(&route, "evt_1"));
        assert_ne!(
            EventKey::of_id(&route, "evt_1"),
            EventKey::of_id(&RouteName::new("other"), "evt_1")
        );
        assert_ne!(
            EventKey::of_kept(&route, &[1; 16], Seq(1)),
            EventKey::of_kept(&route, &[1; 16], Seq(2))
        );
        assert_ne!(
            EventKey::of_kept(&route, &[1; 16], Seq(1)),
            EventKey::of_kept(&route, &[2; 16], Seq(1))
        );
        assert_eq!(EventKey::of_id(&route, "evt_1").as_str().len(), 32);
    }

    #[test]
    fn debug_of_an_event_shows_no_content() {
        let event = Event {
            route: RouteName::new("r"),
            provider: ProviderName::new("p"),
            event_id: None,
            event_type: None,
            type_unsigned: false,
            verified: true,
            secret: None,
            received_at: Timestamp(0),
            method: "POST".into(),
            path_rest: "".into(),
            query: Some("token=canary-query".into()),
            host: "hooks.example".into(),
            client: IpAddr::from([127, 0, 0, 1]),
            headers: Bytes::from_static(b"Authorization: canary-header\r\n"),
            has_idempotency_key: false,
            body: Bytes::from_static(b"canary-body"),
        };
        let shown = format!("{event:?}");
        assert!(!shown.contains("canary"), "{shown}");
        for name in [r#"route: "r""#, r#"provider: "p""#, "body_bytes: 11"] {
            assert!(shown.contains(name), "{shown}");
        }
    }

    #[test]
    fn names_and_numbers_read_as_they_are() {
        let target = Target {
            route: RouteName::new("hooks"),
            upstream: UpstreamName::new("app"),
        };
        assert_eq!(target.to_string(), "hooks/app");
        assert_eq!(format!("{:?}", target.route), r#""hooks""#);
        assert_eq!(Seq(7).to_string(), "7");
        assert_eq!(
            format!("{:?}", DedupHashKey([7; 16])),
            "DedupHashKey(redacted)",
            "whoever knows it can look for two ids with one key"
        );
    }
}
