//! From a verified request to an event: its id and type from the signed bytes, and its dedup key.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::answer::Refusal;
use super::head::{Head, Origin, forwarded_block};
use super::route::{Entry, Match};
use super::verify::Verified;
use crate::event::{DedupHashKey, DedupKey, Event, KeyKind, Timestamp};
use crate::provider::identify::identify as read_identity;

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
    let identity = read_identity(&route.identify, &head.fields, &verified.body);
    if route.require_json && !identity.is_json {
        return Err(Refusal::NotJson);
    }
    count(entry, &verified, identity.type_conflict);
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
            (
                kind,
                derive(kind, &Sha256::digest(&verified.body)),
                route.dedup_body_window,
            )
        }
    };
    let (headers, has_idempotency_key) = forwarded_block(head, origin);
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
            query: head.query.clone(),
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

fn count(entry: &Entry, verified: &Verified, type_conflict: bool) {
    if let Some(secret) = &verified.secret {
        entry.meter.secret_matched(secret);
    }
    if let Some(reason) = verified.unverified_reason {
        entry.meter.unverified(reason);
    }
    if type_conflict {
        entry.meter.type_conflict();
    }
}
