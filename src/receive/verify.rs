//! Any signature with any live secret, in constant time; first what the header can tell, then the body.

use std::sync::Arc;

use bytes::Bytes;

use super::answer::Refusal;
use super::head::Head;
use super::route::{Entry, Match};
use super::settings::Verify;
use crate::event::{SecretName, Timestamp};
use crate::fields::Fields;
use crate::keys::{KeyCache, KeysError};
use crate::provider::fetched::{Fetched, Need};
use crate::provider::request::Request;
use crate::provider::scheme::Claim as SchemeClaim;
use crate::provider::signature::SignatureError;

/// Larger bodies are checked off the runtime's workers: at 2 GB/s this is an eighth of a millisecond.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// What a request claims about itself, read from its header alone.
#[derive(Debug)]
pub(super) enum Claim {
    /// The route checks nothing.
    Nothing,
    /// Signatures to check against the body.
    Signed(Claims),
    /// No usable signature: on a route that only watches (`enforce = false`), or one whose handshakes are told from the body.
    Unusable(SignatureError),
}

/// By the index of a route's proof; nearly always one, so that it takes no allocation.
#[derive(Debug)]
pub(super) struct Claims {
    first: (usize, SchemeClaim),
    more: Vec<(usize, SchemeClaim)>,
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

/// A request of a route, as the schemes see it.
pub(super) fn request<'r>(matched: &'r Match, head: &'r Head, body: &'r [u8]) -> Request<'r> {
    Request {
        method: &head.method,
        public_url: matched.entry.route.public_url.as_deref(),
        path_rest: &matched.path_rest,
        query: head.query.as_deref(),
        headers: &head.fields,
        body,
    }
}

/// Reads the signature headers; a hopeless request ends here, before its body is read.
pub(super) fn claim(matched: &Match, head: &Head) -> Result<Claim, SignatureError> {
    let entry = &matched.entry;
    let Verify::Signature { proofs, enforce } = &entry.route.verify else {
        return Ok(Claim::Nothing);
    };
    let request = request(matched, head, &[]);
    let mut claims: Option<Claims> = None;
    let mut worst = None;
    for (index, proof) in proofs.iter().enumerate() {
        match proof.scheme.claim(&request) {
            Ok(claim) => match &mut claims {
                None => {
                    claims = Some(Claims {
                        first: (index, claim),
                        more: Vec::new(),
                    });
                }
                Some(claims) => claims.more.push((index, claim)),
            },
            // One that was sent and is wrong says more than one that was not sent.
            Err(error) if error != SignatureError::Missing => worst = Some(error),
            Err(_) => {}
        }
    }
    let error = worst.unwrap_or(SignatureError::Missing);
    match claims {
        Some(claims) => Ok(Claim::Signed(claims)),
        None if *enforce && !entry.asks_in_bodies && entry.quarantine.is_none() => Err(error),
        None => Ok(Claim::Unusable(error)),
    }
}

/// Whether the check of a body is work for a whole CPU.
pub(super) fn is_large(body: &Bytes) -> bool {
    body.len() > INLINE_BYTES_MAX
}

/// Whether the check waits for something: for keys that are published, or for another thread.
pub(super) fn must_wait(matched: &Match, body: &Bytes) -> bool {
    matched.entry.fetches_keys || is_large(body)
}

/// Checks the claim against the body, where that waits for something ([`must_wait`]).
pub(super) async fn verify(
    matched: &Match,
    head: &Head,
    claim: Claim,
    body: Bytes,
    now: Timestamp,
    keys: &KeyCache,
) -> Result<Verified, Refusal> {
    let claims = match claim {
        Claim::Signed(claims) => claims,
        claim => return verify_now(matched, head, claim, body, now),
    };
    let checked = match matched.entry.fetches_keys {
        true => check_fetched(matched, head, &claims, &body, now, keys).await,
        false => check_apart(matched, head, claims, &body, now).await,
    };
    match checked {
        Ok(checked) => decide(matched, checked, body),
        // What a route that only watches lets through does not wait for keys.
        Err(Refusal::NoKeys(_)) if !enforces(matched) => decide(matched, Err(SignatureError::NoKeys), body),
        Err(refusal) => Err(refusal),
    }
}

/// The same where nothing is waited for.
pub(super) fn verify_now(
    matched: &Match,
    head: &Head,
    claim: Claim,
    body: Bytes,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let checked = match claim {
        Claim::Nothing => {
            return Ok(Verified {
                verified: false,
                secret: None,
                unverified_reason: Some("verify_none"),
                body,
            });
        }
        Claim::Unusable(error) => Err(error),
        Claim::Signed(claims) => check_now(&matched.entry, &claims, &request(matched, head, &body), now),
    };
    decide(matched, checked, body)
}

/// Whether a route refuses what is not signed.
fn enforces(matched: &Match) -> bool {
    let verify = &matched.entry.route.verify;
    matches!(verify, Verify::Signature { enforce, .. } if *enforce)
}

/// What a route makes of a check.
fn decide(
    matched: &Match,
    checked: Result<SecretName, SignatureError>,
    body: Bytes,
) -> Result<Verified, Refusal> {
    let enforce = enforces(matched);
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
                SignatureError::Stale => "stale_signature",
                SignatureError::NoKeys => "keys_unavailable",
                _ => "bad_signature",
            }),
            body,
        }),
    }
}

/// What a check needs, apart from the connection that it came over.
struct Owned {
    entry: Arc<Entry>,
    path_rest: Box<str>,
    method: Box<str>,
    query: Option<Box<str>>,
    fields: Fields,
    body: Bytes,
}

/// Checks a large body on a thread that serves nobody else meanwhile.
async fn check_apart(
    matched: &Match,
    head: &Head,
    claims: Claims,
    body: &Bytes,
    now: Timestamp,
) -> Result<Result<SecretName, SignatureError>, Refusal> {
    let owned = Owned {
        entry: matched.entry.clone(),
        path_rest: matched.path_rest.clone(),
        method: head.method.clone(),
        query: head.query.clone(),
        fields: head.fields.clone(),
        body: body.clone(),
    };
    tokio::task::spawn_blocking(move || {
        let request = Request {
            method: &owned.method,
            public_url: owned.entry.route.public_url.as_deref(),
            path_rest: &owned.path_rest,
            query: owned.query.as_deref(),
            headers: &owned.fields,
            body: &owned.body,
        };
        check_now(&owned.entry, &claims, &request, now)
    })
    .await
    .map_err(|_| Refusal::Internal)
}

/// The same where keys come from elsewhere; those that lack the request's are fetched once more. Keys that cannot be had are no
/// proof of a forgery: another signature may be good, and else the sender shall come again.
async fn check_fetched(
    matched: &Match,
    head: &Head,
    claims: &Claims,
    body: &Bytes,
    now: Timestamp,
    keys: &KeyCache,
) -> Result<Result<SecretName, SignatureError>, Refusal> {
    let Verify::Signature { proofs, .. } = &matched.entry.route.verify else {
        return Ok(Err(SignatureError::Mismatch));
    };
    let request = request(matched, head, body);
    let mut worst = SignatureError::Mismatch;
    let mut lacking: Option<Box<str>> = None;
    for (index, claim) in std::iter::once(&claims.first).chain(&claims.more) {
        let Some(proof) = proofs.get(*index) else { continue };
        let check = |fetched: Option<&Fetched>| {
            proof
                .scheme
                .check(claim, &proof.keys, now, &request, fetched)
                .cloned()
        };
        let checked = match proof.scheme.need(&request) {
            Ok(None) => check(None),
            Ok(Some(need)) => match with_keys(&need, keys, check).await {
                Ok(checked) => checked,
                Err(error) => {
                    lacking = Some(error.to_string().into());
                    continue;
                }
            },
            Err(error) => Err(error),
        };
        match checked {
            Ok(secret) => return Ok(Ok(secret)),
            Err(error) if error != SignatureError::Mismatch => worst = error,
            Err(_) => {}
        }
    }
    match lacking {
        Some(reason) => Err(Refusal::NoKeys(reason)),
        None => Ok(Err(worst)),
    }
}

/// Checks with what was fetched, and once more where that has no key for the request.
async fn with_keys(
    need: &Need,
    keys: &KeyCache,
    check: impl Fn(Option<&Fetched>) -> Result<SecretName, SignatureError>,
) -> Result<Result<SecretName, SignatureError>, KeysError> {
    let checked = check(Some(&keys.get(need).await?));
    match checked {
        Err(SignatureError::NoKeys) => Ok(check(Some(&keys.renew(need).await?))),
        checked => Ok(checked),
    }
}

fn check_now(
    entry: &Entry,
    claims: &Claims,
    request: &Request<'_>,
    now: Timestamp,
) -> Result<SecretName, SignatureError> {
    let Verify::Signature { proofs, .. } = &entry.route.verify else {
        return Err(SignatureError::Mismatch);
    };
    let mut worst = SignatureError::Mismatch;
    for (index, claim) in std::iter::once(&claims.first).chain(&claims.more) {
        let Some(proof) = proofs.get(*index) else { continue };
        match proof.scheme.check(claim, &proof.keys, now, request, None) {
            Ok(secret) => return Ok(secret.clone()),
            Err(error) if error != SignatureError::Mismatch => worst = error,
            Err(_) => {}
        }
    }
    Err(worst)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn head(signatures: &[&str]) -> Head {
        let fields: String = signatures
            .iter()
            .map(|value| format!("X-Signature: {value}\r\n"))
            .collect();
        sample::head("POST /hooks", &fields)
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
        let matched = Match {
            entry,
            path_rest: "".into(),
        };
        let head = head(signatures);
        let claim = claim(&matched, &head)?;
        let keys = sample::keys();
        let verified = match must_wait(&matched, body) {
            true => verify(&matched, &head, claim, body.clone(), NOW, &keys).await,
            false => verify_now(&matched, &head, claim, body.clone(), NOW),
        };
        match verified {
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
            let good = sample::rule().sign(&sample::key(), &body).value;
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
