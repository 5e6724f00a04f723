//! What checking a signature can end in, and the secrets it is checked with.

use super::key::SchemeKey;
use crate::event::{SecretName, Timestamp};

/// At most this many signatures of one request are tried.
pub const SIGNATURES_MAX: usize = 20;
/// At most this many secrets of one route are tried.
pub const SECRETS_MAX: usize = 8;

/// A secret of a route that may still be used.
#[derive(Debug, Clone)]
pub struct LiveKey {
    /// Its name in `[secrets]`.
    pub name: SecretName,
    /// The key.
    pub key: SchemeKey,
    /// It stops being accepted at this time.
    pub until: Option<Timestamp>,
}

pub(super) fn is_live(key: &LiveKey, now: Timestamp) -> bool {
    key.until.is_none_or(|until| now < until)
}

/// Why a signature is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureError {
    /// It was not sent, or it was empty.
    #[error("no signature header was sent")]
    Missing,
    /// One header was sent more than once.
    #[error("the signature header was sent more than once")]
    Repeated,
    /// The value does not follow the scheme's grammar.
    #[error("the signature header's value is not of the scheme's form")]
    Malformed,
    /// Two header names carry different digests.
    #[error("the signature headers contradict each other")]
    Contradicting,
    /// It is well formed and made with another secret or over other bytes.
    #[error("the signature does not match the body under any live secret")]
    Mismatch,
    /// Something that is signed with the body is missing, repeated or cannot be read.
    #[error(
        "something that the signature covers besides the body was not sent, or not in a form that can be read"
    )]
    Incomplete,
    /// A header that the scheme demands is missing or has another value.
    #[error("a header that this scheme demands is missing or has another value")]
    OtherVersion,
    /// The signature matches, and its time is too far from ours.
    #[error(
        "the signature matches, but its time is too far from ours: an old request sent again, or a clock that is wrong"
    )]
    Stale,
    /// The body is not the one whose hash was signed.
    #[error("the body is not the one whose hash was signed")]
    BodyDigest,
    /// The keys that the sender publishes do not have the one that the signature names.
    #[error(
        "the key that made the signature is not among those that the sender publishes, or they could not be fetched"
    )]
    NoKeys,
    /// A token or a certificate says something that the route does not accept.
    #[error(
        "what made the signature (a token, a certificate, a key, a topic) is not one that this route accepts"
    )]
    NotAccepted,
}
