//! Says why a signature does not match: tries what commonly goes wrong with header, secret and body.
//!
//! For operators only. A verdict holds no secret, no key and no digest.

mod body;
mod composed;
mod difference;
mod header;
mod json;
mod key;
mod token;

use subtle::ConstantTimeEq;

pub use self::difference::{Difference, OtherProvider};
use self::header::Reading;
use super::body_hmac::BodyHmac;
use super::describe;
use super::key::SchemeKey;
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
        /// The scheme that it matched in.
        scheme: Box<str>,
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
        /// Where the schemes look, as far as the request has something there.
        read: Vec<Box<str>>,
        /// The headers that hold something of a digest's form, where the scheme is one of such.
        digest_headers: Vec<Box<str>>,
        /// What of the signed things besides the body is missing or cannot be read, in words.
        lacking: Option<String>,
        /// The URL that was taken for the signed one, where the URL is signed.
        url: Option<Box<str>>,
    },
}

/// Presets of what many senders sign by.
const STANDARDS: [&str; 2] = ["standard-webhooks", "svix"];

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
    let mut errors: Vec<(&Scheme, SignatureError)> = Vec::new();
    for scheme in schemes {
        match plain(scheme, request, candidates, now) {
            Ok(secret) => {
                let scheme = scheme.name.clone();
                return Verdict::Match { secret, scheme };
            }
            Err(error) => errors.push((scheme, error)),
        }
    }
    // One that is good in another way of the same provider needs no guesses.
    if let Some(found) = in_another_scheme(schemes, request, candidates, now) {
        return found;
    }
    let mut best: Option<Verdict> = None;
    let mut digest_headers = Vec::new();
    for scheme in schemes {
        let explained = match &scheme.rule {
            Rule::BodyHmac(rule) => {
                digest_headers.extend(header::names(&header::readings(rule, request.headers)));
                explain_body_hmac(rule, request, candidates, now)
            }
            Rule::Composed(rule) => token::explain(rule, &carried(scheme), request, candidates)
                .or_else(|| composed::explain(scheme, request, candidates, now)),
            Rule::Coded(_) => composed::explain(scheme, request, candidates, now),
        };
        if let Some((secret, header, differences)) = explained
            && best.as_ref().is_none_or(|best| differences.len() < best.weight())
        {
            best = Some(Verdict::Differs {
                secret,
                header,
                differences,
            });
        }
    }
    digest_headers.dedup();
    // Where another header would have to be read, it may be the one of another sender.
    let is_of_header = |verdict: &Verdict| match verdict {
        Verdict::Differs { differences, .. } => differences.iter().any(Difference::is_of_header),
        _ => false,
    };
    if best.as_ref().is_none_or(is_of_header)
        && let Some(found) = by_another_sender(schemes, request, candidates, now)
    {
        return found;
    }
    best.unwrap_or_else(|| unexplained(schemes, &errors, request, candidates, digest_headers, now))
}

/// How much an error tells: what comes of a scheme whose header is there and well formed tells most.
fn tells(error: SignatureError) -> u8 {
    match error {
        SignatureError::Stale | SignatureError::BodyDigest => 5,
        SignatureError::Mismatch => 4,
        SignatureError::NotAccepted | SignatureError::NoKeys => 3,
        SignatureError::Incomplete | SignatureError::OtherVersion => 2,
        SignatureError::Repeated | SignatureError::Contradicting | SignatureError::Malformed => 1,
        SignatureError::Missing => 0,
    }
}

/// What can be said all the same: where the signature was looked for, and what else it depends on.
fn unexplained(
    schemes: &[Scheme],
    errors: &[(&Scheme, SignatureError)],
    request: &Request<'_>,
    candidates: &[NamedSecret],
    digest_headers: Vec<Box<str>>,
    now: Timestamp,
) -> Verdict {
    let mut read: Vec<Box<str>> = Vec::new();
    for scheme in schemes {
        let found = match scheme.place() {
            Some(place) => {
                let there = place.is_there(request);
                there.then(|| carried(scheme)).into_iter().collect()
            }
            None => present(scheme, request),
        };
        read.extend(found);
    }
    read.sort();
    read.dedup();
    // The first of those that tell most.
    let told = errors.iter().rev().max_by_key(|(_, error)| tells(*error));
    let error = told.map_or(SignatureError::Missing, |(_, error)| *error);
    // Where the header of a scheme is not there, what else it lacks is no news.
    let told = told
        .filter(|_| error != SignatureError::Missing)
        .map(|(scheme, _)| *scheme);
    let lacking = told.and_then(|scheme| match &scheme.rule {
        Rule::Composed(rule) => composed::lacking(rule, request),
        Rule::Coded(rule) => {
            let own = candidates.iter().filter(|candidate| candidate.of_route);
            let keys: Vec<SchemeKey> = own.filter_map(|secret| scheme.key(&secret.text).ok()).collect();
            rule.lacking(&keys, request, now)
        }
        Rule::BodyHmac(_) => None,
    });
    let signs_url = told.is_some_and(Scheme::needs_url);
    Verdict::Unexplained {
        error,
        read,
        digest_headers,
        lacking,
        url: request.url().filter(|_| signs_url).map(Into::into),
    }
}

/// The scheme's headers that the request has.
fn present(scheme: &Scheme, request: &Request<'_>) -> Vec<Box<str>> {
    let names = request
        .headers
        .iter()
        .map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase());
    let read = names.filter(|name| scheme.reads_header(name));
    read.map(|name| format!("`{name}`").into()).collect()
}

/// Where a scheme looks, for people.
fn carried(scheme: &Scheme) -> Box<str> {
    match scheme.headers().as_slice() {
        [] => describe::carried(scheme).into(),
        names => format!("`{}`", names.join("`, then `")).into(),
    }
}

/// A scheme by which a candidate signed, and that candidate.
type Signed<'s> = (&'s Scheme, &'s NamedSecret);

/// The first of a preset's schemes but ours by which the request is signed.
fn signed_by<'s>(
    preset: &'s Preset,
    ours: &[Scheme],
    request: &Request<'_>,
    candidates: &'s [NamedSecret],
    now: Timestamp,
) -> Option<Signed<'s>> {
    let mut theirs = preset
        .schemes
        .iter()
        .filter(|scheme| !ours.contains(scheme) && !scheme.is_fetched());
    theirs.find_map(|scheme| {
        let mut candidates = candidates.iter();
        let signer = candidates.find(|candidate| signs(scheme, request, candidate, now))?;
        Some((scheme, signer))
    })
}

fn differs((scheme, signer): Signed<'_>, difference: Difference) -> Verdict {
    let headers = scheme.headers();
    Verdict::Differs {
        secret: signer.name.clone(),
        header: headers.first().map_or("the body", |name| name).into(),
        differences: vec![difference],
    }
}

/// Signed in another way of the same provider.
fn in_another_scheme(
    schemes: &[Scheme],
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Option<Verdict> {
    let mut presets = preset::all().iter().filter(|preset| has_one_of(preset, schemes));
    let found = presets.find_map(|preset| signed_by(preset, schemes, request, candidates, now))?;
    Some(differs(found, Difference::OtherScheme(found.0.name.clone())))
}

/// Signed as others do. Where one sends the secret itself, nobody can tell which of the many it is.
fn by_another_sender(
    schemes: &[Scheme],
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Option<Verdict> {
    let mut sent_itself = None;
    let mut signed = None;
    let mut others = Vec::new();
    for preset in preset::all().iter().filter(|preset| !has_one_of(preset, schemes)) {
        match signed_by(preset, schemes, request, candidates, now) {
            Some(found) if found.0.sends_secret() => sent_itself = sent_itself.or(Some(found)),
            Some(found) => {
                signed = signed.or(Some(found));
                others.push(OtherProvider {
                    name: preset.name.as_str().into(),
                    title: preset.title.as_str().into(),
                });
            }
            None => {}
        }
    }
    // A scheme of many is best called by the name of those who made it.
    others.sort_by_key(|other| !STANDARDS.contains(&&*other.name));
    match signed {
        Some(found) => Some(differs(found, Difference::OtherProvider(others))),
        None => sent_itself.map(|found| differs(found, Difference::SecretSent)),
    }
}

fn has_one_of(preset: &Preset, schemes: &[Scheme]) -> bool {
    preset.schemes.iter().any(|scheme| schemes.contains(scheme))
}

/// Whether it is signed so, be it an old request.
fn signs(scheme: &Scheme, request: &Request<'_>, candidate: &NamedSecret, now: Timestamp) -> bool {
    let checked = plain(scheme, request, std::slice::from_ref(candidate), now);
    matches!(checked, Ok(_) | Err(SignatureError::Stale))
}

fn explain_body_hmac(
    scheme: &BodyHmac,
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Option<Explained> {
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
    best.map(|found| {
        (
            found.candidate.name.clone(),
            found.reading.header.clone(),
            found.differences,
        )
    })
}

/// What explains a refusal: the secret, the header, and the differences.
type Explained = (SecretName, Box<str>, Vec<Difference>);

struct Found<'a> {
    candidate: &'a NamedSecret,
    reading: &'a Reading,
    differences: Vec<Difference>,
}

impl Verdict {
    /// How much is to be said; what explains nothing is the heaviest.
    fn weight(&self) -> usize {
        match self {
            Self::Match { .. } => 0,
            Self::Differs { differences, .. } => differences.len(),
            Self::Unexplained { .. } => usize::MAX,
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
