//! Says why a signature does not match: tries what commonly goes wrong with header, secret and body.
//!
//! For operators only. A verdict holds no secret, no key and no digest.

mod body;
mod composed;
mod difference;
mod header;
mod json;
mod key;

use subtle::ConstantTimeEq;

pub use self::difference::Difference;
use self::header::Reading;
use super::body_hmac::BodyHmac;
use super::preset::{self, Preset};
use super::request::Request;
use super::scheme::{Rule, Scheme};
use super::signature::{LiveKey, SECRETS_MAX, SignatureError};
use crate::event::{SecretName, Timestamp};
use crate::secret::SecretText;

/// A secret that may have made the signature.
#[derive(Debug, Clone)]
pub struct NamedSecret {
    /// Its name, for the verdict.
    pub name: SecretName,
    /// Its text.
    pub text: SecretText,
    /// It is not accepted from this time on.
    pub until: Option<Timestamp>,
    /// The route uses it; false for those of other routes, which can only explain a mismatch.
    pub of_route: bool,
}

/// What is to be said about one captured request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is accepted as it is.
    Match {
        /// The secret that matched.
        secret: SecretName,
    },
    /// It is refused, and would be accepted but for these differences: the fewest that explain it.
    Differs {
        /// The secret that made the signature.
        secret: SecretName,
        /// The header that holds it.
        header: Box<str>,
        /// At least one, in the order header, secret, body.
        differences: Vec<Difference>,
    },
    /// It is refused, and nothing that was tried explains it.
    Unexplained {
        /// Why it is refused.
        error: SignatureError,
        /// The headers that hold something of a digest's form.
        digest_headers: Vec<Box<str>>,
    },
}

/// Above this many bytes, what goes wrong with the secret and what goes wrong with the body are not tried together.
const COMBINED_BODY_BYTES_MAX: usize = 64 * 1024;

/// Explains what the gateway makes of a request: `schemes` and the secrets with `of_route` are its route's.
///
/// Slow on purpose: some hundred times the work of a check, so never on the way of a live request.
pub fn explain(
    schemes: &[Scheme],
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Verdict {
    let mut error = SignatureError::Missing;
    for scheme in schemes {
        match plain(scheme, request, candidates, now) {
            Ok(secret) => return Verdict::Match { secret },
            Err(SignatureError::Missing) => {}
            Err(other) => error = other,
        }
    }
    let mut best = Verdict::Unexplained {
        error,
        digest_headers: Vec::new(),
    };
    for scheme in schemes {
        let verdict = match &scheme.rule {
            Rule::BodyHmac(rule) => explain_body_hmac(rule, request, candidates, now, error),
            Rule::Composed(_) | Rule::Coded(_) => match composed::explain(scheme, request, candidates, now) {
                Some((secret, header, differences)) => Verdict::Differs {
                    secret,
                    header,
                    differences,
                },
                None => continue,
            },
        };
        if verdict.weight() < best.weight() {
            best = verdict;
        }
    }
    if matches!(best, Verdict::Unexplained { .. })
        && let Some(found) = elsewhere(schemes, request, candidates, now)
    {
        return found;
    }
    best
}

/// Whether it is signed in another way of the same provider, or as another provider does.
fn elsewhere(
    schemes: &[Scheme],
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Option<Verdict> {
    let is_ours = |scheme: &Scheme| schemes.iter().any(|ours| ours == scheme);
    let of_ours = |preset: &Preset| preset.schemes.iter().any(is_ours);
    // Presets of the same provider come first.
    let mut presets: Vec<&Preset> = preset::all().iter().collect();
    presets.sort_by_key(|preset| !of_ours(preset));
    for preset in presets {
        for scheme in preset
            .schemes
            .iter()
            .filter(|scheme| !is_ours(scheme) && !scheme.is_fetched())
        {
            let Ok(secret) = plain(scheme, request, candidates, now) else {
                continue;
            };
            let difference = match of_ours(preset) {
                true => Difference::OtherScheme(scheme.name.clone()),
                false => Difference::OtherProvider {
                    name: preset.name.as_str().into(),
                    title: preset.title.as_str().into(),
                },
            };
            let header = scheme
                .headers()
                .first()
                .map_or("the body".into(), |name| (**name).into());
            return Some(Verdict::Differs {
                secret,
                header,
                differences: vec![difference],
            });
        }
    }
    None
}

fn explain_body_hmac(
    scheme: &BodyHmac,
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
    error: SignatureError,
) -> Verdict {
    let (headers, body) = (request.headers, request.body);
    let readings = header::readings(scheme, headers);
    let bodies = body::variants(headers, body);
    let mut best: Option<Found<'_>> = None;
    for candidate in candidates {
        for key in key::variants(scheme.key, candidate, now) {
            for variant in &bodies {
                let (of_key, of_body) = (key.differences.len(), usize::from(variant.difference.is_some()));
                let together = of_body > 0 && key.altered && body.len() > COMBINED_BODY_BYTES_MAX;
                let least = of_key + of_body;
                if together || best.as_ref().is_some_and(|best| best.differences.len() <= least) {
                    continue;
                }
                let tag = key.key.tag(&[&variant.bytes]);
                let matching = readings
                    .iter()
                    .filter(|reading| bool::from(tag.ct_eq(&reading.digest)));
                let Some(reading) = matching.min_by_key(|reading| reading.differences.len()) else {
                    continue;
                };
                let differences: Vec<_> = [&reading.differences, &key.differences]
                    .into_iter()
                    .flatten()
                    .chain(&variant.difference)
                    .cloned()
                    .collect();
                if best
                    .as_ref()
                    .is_none_or(|best| differences.len() < best.differences.len())
                {
                    best = Some(Found {
                        candidate,
                        reading,
                        differences,
                    });
                }
            }
        }
    }
    match best {
        Some(found) => Verdict::Differs {
            secret: found.candidate.name.clone(),
            header: found.reading.header.clone(),
            differences: found.differences,
        },
        None => Verdict::Unexplained {
            error,
            digest_headers: header::names(&readings),
        },
    }
}

struct Found<'a> {
    candidate: &'a NamedSecret,
    reading: &'a Reading,
    differences: Vec<Difference>,
}

impl Verdict {
    /// How much is to be said; what explains nothing is the heaviest, and lighter with headers to name.
    fn weight(&self) -> usize {
        match self {
            Self::Match { .. } => 0,
            Self::Differs { differences, .. } => differences.len(),
            Self::Unexplained { digest_headers, .. } => usize::MAX - usize::from(!digest_headers.is_empty()),
        }
    }
}

/// What the gateway itself would say.
fn plain(
    scheme: &Scheme,
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Result<SecretName, SignatureError> {
    let claim = scheme.claim(request)?;
    let keys: Vec<LiveKey> = candidates
        .iter()
        .filter(|candidate| candidate.of_route)
        .filter_map(|candidate| {
            let key = scheme.key(&candidate.text).ok()?;
            Some(LiveKey {
                name: candidate.name.clone(),
                key,
                until: candidate.until,
            })
        })
        .collect();
    let mut worst = SignatureError::Mismatch;
    // More secrets than a route may have can be given by hand.
    for some in keys.chunks(SECRETS_MAX) {
        match scheme.check(&claim, some, now, request, None) {
            Ok(secret) => return Ok(secret.clone()),
            Err(SignatureError::Mismatch) => {}
            Err(error) => worst = error,
        }
    }
    Err(worst)
}

#[cfg(test)]
mod tests;
