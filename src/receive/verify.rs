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

/// Whether the check of a body is work for a whole CPU.
pub(super) fn is_large(body: &Bytes) -> bool {
    body.len() > INLINE_BYTES_MAX
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
    if !is_large(body) {
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

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn fields(signatures: &[&str]) -> Fields {
        Fields::from_pairs(
            signatures
                .iter()
                .map(|value| (&b"x-signature"[..], value.as_bytes())),
        )
    }

    /// What becomes of a request: verified, the secret, the reason; or the error.
    async fn outcome(
        verify_by: &Verify,
        signatures: &[&str],
        body: &Bytes,
    ) -> Result<(bool, Option<String>, Option<&'static str>), SignatureError> {
        let (entry, _) = sample::entry(super::super::settings::Route {
            verify: verify_by.clone(),
            ..sample::route()
        });
        let claim = claim(&entry, &fields(signatures))?;
        match verify(&entry, claim, body.clone(), NOW).await {
            Ok(verified) => {
                assert_eq!(verified.body, body);
                let secret = verified.secret.map(|name| name.to_string());
                Ok((verified.verified, secret, verified.unverified_reason))
            }
            Err(Refusal::Signature(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_route_lets_pass_what_it_says_and_calls_nothing_verified_that_is_not() {
        let (enforced, watched, none) = (sample::signed(true), sample::signed(false), Verify::Nothing);
        let live = || Some("live".to_owned());
        for bytes in [2, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1] {
            let body = Bytes::from(vec![b'x'; bytes]);
            let good = sample::scheme().sign(&sample::key(), &body).value;
            let bad = "0".repeat(64);
            for (name, verify_by, signatures, expected) in [
                ("good", &enforced, vec![&*good], Ok((true, live(), None))),
                ("wrong", &enforced, vec![&*bad], Err(SignatureError::Mismatch)),
                ("malformed", &enforced, vec!["0"], Err(SignatureError::Malformed)),
                (
                    "repeated",
                    &enforced,
                    vec![&*good, &*good],
                    Err(SignatureError::Repeated),
                ),
                ("missing", &enforced, vec![], Err(SignatureError::Missing)),
                (
                    "good, not enforced",
                    &watched,
                    vec![&*good],
                    Ok((false, live(), Some("not_enforced"))),
                ),
                (
                    "wrong, not enforced",
                    &watched,
                    vec![&*bad],
                    Ok((false, None, Some("bad_signature"))),
                ),
                (
                    "malformed, not enforced",
                    &watched,
                    vec!["0"],
                    Ok((false, None, Some("bad_signature"))),
                ),
                (
                    "missing, not enforced",
                    &watched,
                    vec![],
                    Ok((false, None, Some("missing_signature"))),
                ),
                (
                    "good, nobody asks",
                    &none,
                    vec![&*good],
                    Ok((false, None, Some("verify_none"))),
                ),
                (
                    "missing, nobody asks",
                    &none,
                    vec![],
                    Ok((false, None, Some("verify_none"))),
                ),
            ] {
                let got = outcome(verify_by, &signatures, &body).await;
                assert_eq!(got, expected, "{name}, {bytes} bytes");
            }
        }
    }
}
