//! What senders send: genuine events, each wholly told by its id, and forgeries.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

use crate::support::{hmac_hex, sha256};

/// Where senders send to, before an event's own query.
pub(super) const PATH: &str = "/hooks/quantiv";
/// The secret of genuine senders.
const SECRET: &[u8] = b"secret";
const SIGNATURE: &str = "X-Quantiv-Signature";
/// Bytes of the smallest body.
const BODY_BYTES_MIN: f64 = 200.0;
/// The largest of mixed sizes has this many times as many: 20 KiB.
const BODY_BYTES_RANGE: f64 = 102.4;

/// The ids of events of the largest size begin so.
const LARGE: &str = "large";

/// So that few fill a small store.
const LARGE_BODY_BYTES: usize = 96 * 1024;

/// A request of a sender.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) target: String,
    /// Names and values in order.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Sent {
    /// What must arrive of it unchanged: target, headers and body.
    pub(super) fn digest(&self) -> Digest {
        digest(
            &self.target,
            self.headers.iter().map(|(name, value)| (*name, value.as_str())),
            &self.body,
        )
    }
}

/// A hash over target, headers and body.
pub(super) type Digest = [u8; 32];

/// The digest of a request, of which the gateway may have added to the headers.
pub(super) fn digest_of_arrived(target: &str, headers: &[(String, String)], body: &[u8]) -> Digest {
    let sent = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| OURS.contains(name) || *name == SIGNATURE);
    digest(target, sent, body)
}

/// The headers that every event has besides its signature: spelled, repeated and filled oddly.
const OURS: [&str; 6] = [
    "Content-Type",
    "x-oRaCle_Trace",
    "X-Twice",
    "User-Agent",
    "Webhook-Id",
    "X-Empty",
];

fn digest<'a>(target: &str, headers: impl Iterator<Item = (&'a str, &'a str)>, body: &[u8]) -> Digest {
    let mut text = format!("{target}\n").into_bytes();
    for (name, value) in headers {
        text.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    text.extend_from_slice(b"\n");
    text.extend_from_slice(body);
    sha256(&text)
}

/// An event that nobody has sent before.
pub(super) fn new_event(large: bool, rng: &mut Rng) -> Sent {
    event_of(new_id(if large { LARGE } else { "evt" }, rng))
}

fn new_id(kind: &str, rng: &mut Rng) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}_{number}_{:08x}", rng.u32(..))
}

/// The event with this id, always the same. Its body would be changed by any re-encoding: odd blanks, escapes, key order,
/// a last newline. Small ones are as frequent as large ones.
pub(super) fn event_of(id: String) -> Sent {
    let body = body_of(&id);
    let signature = hmac_hex(SECRET, &body);
    signed(id, body, signature)
}

fn signed(id: String, body: Vec<u8>, signature: String) -> Sent {
    let trace = hex::encode(sha256(id.as_bytes()));
    let headers = vec![
        ("Content-Type", "application/json; charset=\"utf-8\"".to_owned()),
        ("x-oRaCle_Trace", format!("{trace},  a;b=\"c\"")),
        ("X-Twice", "first".to_owned()),
        (SIGNATURE, signature),
        ("X-Twice", "second".to_owned()),
        ("User-Agent", "oracle/1 (caf\u{e9})".to_owned()),
        ("Webhook-Id", id.clone()),
        ("X-Empty", String::new()),
    ];
    Sent {
        target: format!("{PATH}?event={id}&odd=%2F+%20"),
        id,
        headers,
        body,
    }
}

fn body_of(id: &str) -> Vec<u8> {
    let hash = sha256(id.as_bytes());
    let wanted = if id.starts_with(LARGE) {
        LARGE_BODY_BYTES
    } else {
        let share = Rng::with_seed(u64::from_le_bytes(*hash.first_chunk().unwrap())).f64();
        (BODY_BYTES_MIN * BODY_BYTES_RANGE.powf(share)) as usize
    };
    let mut body = format!(
        "{{ \"event\" : \"lead.created\",\t\"id\":\"{id}\", \"z\": 1.0, \"a\": 1e2,\n \"note\": \"caf\\u00e9 "
    );
    // No two pages alike, of this or of another body.
    let own = hex::encode(hash);
    for place in 0.. {
        if body.len() >= wanted {
            break;
        }
        body.push_str(&own);
        body.push_str(&format!("{place:08x}"));
    }
    body.push_str("\" }\n");
    body.into_bytes()
}

/// The id in a body of [`event_of`] or [`forgery`].
pub(super) fn id_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let rest = text.split_once("\"id\":\"").map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// A request that must never be taken: with an id of its own, or with that of `genuine` and another body.
pub(super) fn forgery(genuine: &Sent, rng: &mut Rng) -> Sent {
    let borrowed = rng.bool();
    let id = if borrowed {
        genuine.id.clone()
    } else {
        new_id("forged", rng)
    };
    let mut body = body_of(&id);
    if borrowed {
        body.insert(1, b' ');
    }
    let right = hmac_hex(SECRET, &body);
    let signature = match rng.u8(..8) {
        0 => hmac_hex(b"secreT", &body),
        // Genuine, of another body.
        1 => hmac_hex(SECRET, &genuine.body),
        // One bit.
        2 => {
            let mut bytes = hex::decode(&right).unwrap();
            bytes[rng.usize(..32)] ^= 1 << rng.u8(..8);
            hex::encode(bytes)
        }
        3 => right[..62].to_owned(),
        4 => String::new(),
        // Two of them, one right.
        5 => {
            let mut sent = signed(id, body, hmac_hex(b"", b""));
            sent.headers.push((SIGNATURE, right));
            return sent;
        }
        6 => {
            let mut sent = signed(id, body, right);
            sent.headers.retain(|(name, _)| *name != SIGNATURE);
            return sent;
        }
        _ => hmac_hex(b"", &body),
    };
    signed(id, body, signature)
}
