//! From a verified request to an event: its id and type from the signed bytes, and its dedup key.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::answer::Refusal;
use super::forwarded::forwarded_block;
use super::head::Head;
use super::origin::Origin;
use super::route::{Entry, Match};
use super::verify::{Verified, request};
use crate::event::{DedupHashKey, DedupKey, Event, KeyKind, Timestamp};
use crate::provider::identify::identify as read_identity;
use crate::provider::request::query_without;

/// An event that knows what makes it a repeat.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) event: Event,
    pub(super) dedup_key: DedupKey,
    pub(super) key_kind: KeyKind,
    pub(super) dedup_window: Duration,
    /// The rest of the path is part of what makes events equal.
    pub(super) by_path: bool,
}

/// Reads id and type, and derives the key: from the id where there is a usable one, else from the body.
pub(super) fn identify(
    matched: &Match,
    head: &Head,
    origin: &Origin,
    verified: Verified,
    received_at: Timestamp,
    hash_key: &DedupHashKey,
) -> Result<Identified, Refusal> {
    let Match { entry, path_rest } = matched;
    let route = &entry.route;
    let identity = read_identity(&route.identify, &request(matched, head, &verified.body));
    if route.identify.whole && !identity.is_json {
        return Err(Refusal::NotJson);
    }
    count(entry, &verified, identity.type_conflict, received_at);
    let scope: &str = if route.dedup_by_path { path_rest } else { "" };
    let derive = |kind, value: &[u8]| DedupKey::derive(hash_key, kind, &route.name, scope, value);
    let (key_kind, dedup_key, dedup_window) = match &identity.id {
        // An id that nobody signed must not use up a genuine sender's.
        _ if !verified.verified => {
            let kind = KeyKind::Unverified;
            (
                kind,
                derive(kind, &Sha256::digest(&verified.body)),
                route.dedup_body_window,
            )
        }
        Some(id) => (
            KeyKind::Id,
            derive(KeyKind::Id, id.as_bytes()),
            route.dedup_window,
        ),
        None => {
            let kind = KeyKind::Body;
            let digest = Sha256::digest(&verified.body);
            let key = match &identity.event_type {
                // Equal bodies of two types are two events, whoever wrote the types.
                Some(event_type) if identity.type_unsigned => {
                    derive(kind, &[&digest, event_type.as_bytes()].concat())
                }
                _ => derive(kind, &digest),
            };
            (kind, key, route.dedup_body_window)
        }
    };
    let credentials = &route.credentials;
    let (headers, has_idempotency_key) = forwarded_block(head, origin, &credentials.headers);
    Ok(Identified {
        event: Event {
            route: route.name.clone(),
            provider: route.provider.clone(),
            event_id: identity.id,
            event_type: identity.event_type,
            type_unsigned: identity.type_unsigned || !verified.verified,
            verified: verified.verified,
            secret: verified.secret,
            received_at,
            method: head.method.clone(),
            path_rest: path_rest.clone(),
            query: kept_query(head.query.as_deref(), &credentials.parameters),
            host: head.host.clone(),
            client: origin.client,
            headers,
            has_idempotency_key,
            body: verified.body,
        },
        dedup_key,
        key_kind,
        dedup_window,
        by_path: route.dedup_by_path,
    })
}

/// The query without what holds the sender's credential.
fn kept_query(query: Option<&str>, credentials: &[Box<str>]) -> Option<Box<str>> {
    let mut kept: Box<str> = query?.into();
    for name in credentials {
        kept = query_without(&kept, name).into();
    }
    Some(kept)
}

fn count(entry: &Entry, verified: &Verified, type_conflict: bool, at: Timestamp) {
    if let Some(secret) = &verified.secret {
        entry.meter.secret_matched(secret, at);
    }
    if let Some(reason) = verified.unverified_reason {
        entry.meter.unverified(reason);
    }
    if type_conflict {
        entry.meter.type_conflict();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bytes::Bytes;

    use super::super::sample::{self, BODY_WINDOW, ID_WINDOW};
    use super::super::settings::Route;
    use super::*;
    use crate::event::SecretName;
    use crate::provider::identify::IdentifyRule;

    const HASH_KEY: DedupHashKey = DedupHashKey([3; 16]);
    const ORIGIN: Origin = Origin {
        peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        peer_trusted: false,
        tls: false,
    };

    fn verified(body: &'static str) -> Verified {
        Verified {
            verified: true,
            secret: Some(SecretName::new("live")),
            unverified_reason: None,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn unverified(body: &'static str) -> Verified {
        Verified {
            verified: false,
            secret: None,
            unverified_reason: Some("bad_signature"),
            ..verified(body)
        }
    }

    /// As [`identify`] does it, and the figures that it left.
    fn run(route: Route, path_rest: &str, verified: Verified) -> (Result<Identified, Refusal>, String) {
        let (entry, telemetry) = sample::entry(route);
        let matched = Match {
            entry,
            path_rest: path_rest.into(),
        };
        let head = sample::head("POST /hooks?q", "X-Event: lead\r\n");
        let got = identify(&matched, &head, &ORIGIN, verified, Timestamp(5), &HASH_KEY);
        (got, telemetry.render(None))
    }

    #[test]
    fn the_key_is_of_the_signed_id_else_of_the_body_and_of_a_space_of_its_own_where_nothing_is_signed() {
        let derive = |kind, scope, value: &[u8]| {
            DedupKey::derive(&HASH_KEY, kind, &sample::route().name, scope, value)
        };
        let hash = |body: &str| Sha256::digest(body).to_vec();
        const WITH: &str = r#"{"id":"e1","event":"lead"}"#;
        const WITHOUT: &str = r#"{"event":"lead"}"#;
        let by_path = || Route {
            dedup_by_path: true,
            ..sample::route()
        };
        for (name, route, verified, kind, scope, value, window) in [
            (
                "an id",
                sample::route(),
                verified(WITH),
                KeyKind::Id,
                "",
                b"e1".to_vec(),
                ID_WINDOW,
            ),
            (
                "an id, by path",
                by_path(),
                verified(WITH),
                KeyKind::Id,
                "a/b",
                b"e1".to_vec(),
                ID_WINDOW,
            ),
            (
                "none",
                sample::route(),
                verified(WITHOUT),
                KeyKind::Body,
                "",
                hash(WITHOUT),
                BODY_WINDOW,
            ),
            (
                "none, by path",
                by_path(),
                verified(WITHOUT),
                KeyKind::Body,
                "a/b",
                hash(WITHOUT),
                BODY_WINDOW,
            ),
            (
                "an id that nobody signed",
                sample::route(),
                unverified(WITH),
                KeyKind::Unverified,
                "",
                hash(WITH),
                BODY_WINDOW,
            ),
            (
                "none, and nobody signed",
                sample::route(),
                unverified(WITHOUT),
                KeyKind::Unverified,
                "",
                hash(WITHOUT),
                BODY_WINDOW,
            ),
        ] {
            let by_path = route.dedup_by_path;
            let is_verified = verified.verified;
            let got = run(route, "a/b", verified).0.unwrap();
            assert_eq!(
                (got.key_kind, got.dedup_key, got.dedup_window, got.by_path),
                (kind, derive(kind, scope, &value), window, by_path),
                "{name}"
            );
            assert_eq!(
                (got.event.verified, got.event.type_unsigned, &*got.event.path_rest),
                (is_verified, !is_verified, "a/b"),
                "{name}"
            );
        }
    }

    #[test]
    fn equal_bodies_of_two_types_are_two_events_where_only_a_header_tells() {
        let key = |event_type: Option<&str>, body| {
            let mut route = sample::route();
            route.identify.event_type = event_type.map(|token| vec![token.into()]);
            run(route, "", verified(body)).0.unwrap().dedup_key
        };
        // The header says "lead" each time.
        assert_eq!(key(None, "{}"), key(None, "{}"));
        assert_ne!(
            key(None, "{}"),
            key(Some("event"), "{}"),
            "of a type that only a header tells, and of none"
        );
        let signed = r#"{"event":"sale"}"#;
        let hash = DedupKey::derive(
            &HASH_KEY,
            KeyKind::Body,
            &sample::route().name,
            "",
            &Sha256::digest(signed),
        );
        assert_eq!(key(Some("event"), signed), hash, "what is signed is in the body");
    }

    #[test]
    fn a_type_from_a_header_is_unsigned_whoever_signed_the_body() {
        let mut route = sample::route();
        route.identify.event_type = None;
        let event = run(route, "", verified("{}")).0.unwrap().event;
        assert_eq!(
            (event.event_type.as_deref(), event.type_unsigned),
            (Some("lead"), true)
        );
    }

    #[test]
    fn json_is_demanded_where_the_route_says_so() {
        for (demanded, body, good) in [
            (true, "{}", true),
            (true, "x", false),
            (true, r#"{"a":[1,]}"#, false),
            (false, "x", true),
        ] {
            let identify = IdentifyRule {
                whole: demanded,
                ..sample::route().identify
            };
            let route = Route {
                identify,
                ..sample::route()
            };
            let got = run(route, "", verified(body)).0;
            assert_eq!(
                got.err(),
                (!good).then_some(Refusal::NotJson),
                "{demanded} {body}"
            );
        }
    }

    #[test]
    fn what_was_found_is_counted() {
        for (name, verified, series) in [
            ("a match", verified("{}"), "hooklatch_secret_matches_total"),
            ("no proof", unverified("{}"), "hooklatch_unverified_total"),
            (
                "another type in the header",
                verified(r#"{"event":"other"}"#),
                "hooklatch_type_conflicts_total",
            ),
        ] {
            let text = run(sample::route(), "", verified).1;
            let counted: f64 = text
                .lines()
                .filter(|line| line.starts_with(series))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum();
            assert_eq!(counted, 1.0, "{name}: {text}");
        }
    }
}
