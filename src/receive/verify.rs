//! Any signature with any live secret, in constant time; first what the header can tell, then the body.

use std::sync::Arc;

use bytes::Bytes;

use super::answer::Refusal;
use super::route::Entry;
use super::settings::Verify;
use crate::event::{SecretName, Timestamp};
use crate::fields::Fields;
use crate::provider::signature::{Presented, SignatureError};

/// Larger bodies are checked off the runtime's workers: at 2 GB/s this is an eighth of a millisecond.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// What a request claims about itself, read from its header alone.
#[derive(Debug)]
pub(super) enum Claim {
    /// The route checks nothing.
    Nothing,
    /// Signatures to check against the body.
    Signed(Presented),
    /// No usable signature, on a route that only watches (`enforce = false`).
    Unusable(SignatureError),
}

/// A request whose signature was dealt with as the route says. Only [`verify`] makes one.
#[derive(Debug)]
pub(super) struct Verified {
    /// The signature matched, and the route enforces it.
    pub(super) verified: bool,
    /// The secret that matched.
    pub(super) secret: Option<SecretName>,
    /// Why it is not verified; for the metric.
    pub(super) unverified_reason: Option<&'static str>,
    pub(super) body: Bytes,
}

/// Reads the signature headers; a hopeless request ends here, before its body is read.
pub(super) fn claim(entry: &Entry, fields: &Fields) -> Result<Claim, SignatureError> {
    match &entry.route.verify {
        Verify::Nothing => Ok(Claim::Nothing),
        Verify::Signature { scheme, enforce, .. } => match scheme.read(fields) {
            Ok(presented) => Ok(Claim::Signed(presented)),
            Err(error) if *enforce => Err(error),
            Err(error) => Ok(Claim::Unusable(error)),
        },
    }
}

/// Checks the claim against the body.
pub(super) async fn verify(
    entry: &Arc<Entry>,
    claim: Claim,
    body: Bytes,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let (checked, enforce) = match (claim, &entry.route.verify) {
        (Claim::Signed(presented), Verify::Signature { enforce, .. }) => {
            (check(entry, presented, &body, now).await?, *enforce)
        }
        (Claim::Unusable(error), _) => (Err(error), false),
        (Claim::Nothing | Claim::Signed(_), _) => {
            return Ok(Verified {
                verified: false,
                secret: None,
                unverified_reason: Some("verify_none"),
                body,
            });
        }
    };
    match checked {
        Ok(secret) => Ok(Verified {
            verified: enforce,
            secret: Some(secret),
            unverified_reason: (!enforce).then_some("not_enforced"),
            body,
        }),
        Err(error) if enforce => Err(Refusal::Signature(error)),
        Err(error) => Ok(Verified {
            verified: false,
            secret: None,
            unverified_reason: Some(match error {
                SignatureError::Missing => "missing_signature",
                _ => "bad_signature",
            }),
            body,
        }),
    }
}

async fn check(
    entry: &Arc<Entry>,
    presented: Presented,
    body: &Bytes,
    now: Timestamp,
) -> Result<Result<SecretName, SignatureError>, Refusal> {
    if body.len() <= INLINE_BYTES_MAX {
        return Ok(check_now(entry, &presented, body, now));
    }
    let (entry, body) = (entry.clone(), body.clone());
    tokio::task::spawn_blocking(move || check_now(&entry, &presented, &body, now))
        .await
        .map_err(|_| Refusal::Internal)
}

fn check_now(
    entry: &Entry,
    presented: &Presented,
    body: &[u8],
    now: Timestamp,
) -> Result<SecretName, SignatureError> {
    match &entry.route.verify {
        Verify::Signature { keys, .. } => presented.check(keys, now, body).cloned(),
        Verify::Nothing => Err(SignatureError::Mismatch),
    }
}
