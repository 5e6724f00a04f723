//! Checks compact JWS tokens and the JWT claims in them (RFC 7515, RFC 7519, with the advice of RFC 8725).
//!
//! Keys come from the configuration alone: `jwk`, `jku`, `x5c` and `x5u` in a token's header are the sender's word
//! about itself and are not read.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::jws_claims::{check_claims, reads_claims};
pub use super::jws_key::{JwsAlgorithm, JwsKey, JwsKeyError, KeySet};
use super::strict_json;

/// Bytes of a token that are read.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Keys that are tried for one token.
pub const KEYS_TRIED_MAX: usize = 16;

/// What a token must be like to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwsRule {
    /// A token of any other algorithm is refused.
    pub algorithms: Vec<JwsAlgorithm>,
    /// `iss` must be one of these.
    pub issuer: Option<Box<[Box<str>]>>,
    /// `aud` must be this, or a list that holds it.
    pub audience: Option<Audience>,
    /// `iat` is required, and at most this long ago or ahead.
    pub max_age: Option<Duration>,
    /// How far the sender's clock may be off for `exp` and `nbf`.
    pub tolerance: Duration,
    /// This claim must be the SHA-256 of the body. Such a token needs no `exp`: replayed, it brings the same event.
    pub body_claim: Option<(Box<str>, ClaimEncoding)>,
    /// This claim must be the SHA-256 of the public URL, in hex (MessageBird).
    pub url_claim: Option<Box<str>>,
    /// Claims that must be exactly this text; the text `true` also stands for the JSON `true`.
    pub required_claims: Vec<(Box<str>, Box<str>)>,
    /// The token's middle part is empty and stands for the body (RFC 7515, appendix F). The body is then the payload:
    /// it is read as claims only where one of the rules above asks for a claim.
    pub detached: bool,
}

/// Whom a token must be meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// A text.
    Text(Box<str>),
    /// The URL under which the sender reaches us.
    PublicUrl,
}

/// How a digest is written in a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimEncoding {
    /// Hex digits of either case.
    Hex,
    /// Base64 with padding (FusionAuth).
    Base64,
    /// Base64 of the URL alphabet, padded or not.
    Base64Url,
}

/// Why a token is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three parts of unpadded base64url.
    #[error(
        "the token is not three parts of unpadded base64url joined by dots; check which header carries it"
    )]
    Form,
    /// The header.
    #[error("the token's header {0}")]
    Header(strict_json::StrictJsonError),
    /// A header member has the wrong type.
    #[error("the token's header has no usable {0:?}")]
    HeaderMember(&'static str),
    /// The header asks for an extension.
    #[error("the token's header lists critical extensions (crit), of which none is understood")]
    Critical,
    /// Not one of the rule's.
    #[error("the token's algorithm is not one of those allowed for this route")]
    Algorithm,
    /// No key of the token's `kid`; a newer set may have it.
    #[error("no key has the token's kid; fetch the sender's key set again")]
    UnknownKey,
    /// The keys are of another kind.
    #[error("no key of this route is of the kind that the token's algorithm needs; check the configured key")]
    KeyKind,
    /// Signed with another key, or over other bytes.
    #[error("the token's signature does not match under any key of this route")]
    Signature,
    /// The payload.
    #[error("the token's payload {0}")]
    Claims(strict_json::StrictJsonError),
    /// A claim that must be there is not.
    #[error("the token has no claim {0:?}, which this route requires")]
    Missing(Box<str>),
    /// A claim that must be a time is not.
    #[error("the token's claim {0:?} is not a time in seconds since 1970")]
    Time(&'static str),
    /// `exp` has passed.
    #[error("the token has expired; check the clocks, or a longer tolerance")]
    Expired,
    /// `nbf` is ahead.
    #[error("the token is not valid yet; check the clocks, or a longer tolerance")]
    NotYet,
    /// `iat` is too long ago or ahead.
    #[error("the token was issued outside the allowed time; check the clocks, or a longer maximum age")]
    Age,
    /// The rule needs the public URL and none is configured.
    #[error("this route checks the token against its public URL and has none; set public_url")]
    NoPublicUrl,
    /// A claim has another value.
    #[error("the token's claim {0:?} is not what this route requires")]
    Claim(Box<str>),
}

/// Checks `token` against `rule` with the keys of `keys`. `now_ms` is milliseconds since 1970.
///
/// Claims are looked at only once the signature holds.
///
/// # Errors
/// Every [`JwsError`]. `UnknownKey` alone may be cured by a newer key set; anyone can provoke it, so a caller that then
/// fetches must limit how often.
pub fn verify(
    rule: &JwsRule,
    token: &[u8],
    keys: &KeySet,
    body: &[u8],
    public_url: Option<&str>,
    now_ms: i64,
) -> Result<(), JwsError> {
    let read = read(rule, token)?;
    let (header, payload) = (read.header, read.payload);
    let (algorithm, kid, signature) = (read.algorithm, read.kid, read.signature);
    if rule.detached {
        let message = [header, b".", URL_SAFE_NO_PAD.encode(body).as_bytes()].concat();
        check_signature(keys, algorithm, kid.as_deref(), &message, &signature)?;
        return check_its_claims(rule, payload, body, public_url, now_ms);
    }
    let message = token
        .get(..header.len() + 1 + payload.len())
        .ok_or(JwsError::Form)?;
    check_signature(keys, algorithm, kid.as_deref(), message, &signature)?;
    check_its_claims(rule, payload, body, public_url, now_ms)
}

/// What keeps `token` from being accepted whatever the keys are: to explain a refusal, never to accept one.
///
/// # Errors
/// Every [`JwsError`] but those about keys and signature.
pub fn verify_all_but_the_signature(
    rule: &JwsRule,
    token: &[u8],
    body: &[u8],
    public_url: Option<&str>,
    now_ms: i64,
) -> Result<(), JwsError> {
    let read = read(rule, token)?;
    check_its_claims(rule, read.payload, body, public_url, now_ms)
}

/// Whether `token` is one that the rule may accept, as far as it can be told without a key.
///
/// # Errors
/// When its form, its header or its algorithm is not one of the rule's.
pub fn check_form(rule: &JwsRule, token: &[u8]) -> Result<(), JwsError> {
    read(rule, token).map(drop)
}

/// A token in its parts.
struct Token<'t> {
    /// As it was sent.
    header: &'t [u8],
    /// As it was sent; of a detached one it is empty.
    payload: &'t [u8],
    signature: Vec<u8>,
    algorithm: JwsAlgorithm,
    kid: Option<String>,
}

fn read<'t>(rule: &JwsRule, token: &'t [u8]) -> Result<Token<'t>, JwsError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JwsError::TooLong);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwsError::Form);
    };
    let signature = decode(signature)?;
    let (algorithm, kid) = read_header(rule, &decode(header)?)?;
    if rule.detached && !payload.is_empty() {
        return Err(JwsError::Form);
    }
    Ok(Token {
        header,
        payload,
        signature,
        algorithm,
        kid,
    })
}

/// Checks the claims, which of a detached token stand in the body.
fn check_its_claims(
    rule: &JwsRule,
    payload: &[u8],
    body: &[u8],
    public_url: Option<&str>,
    now_ms: i64,
) -> Result<(), JwsError> {
    let claims = match rule.detached {
        true if !reads_claims(rule) => return Ok(()),
        true => strict_json::object(body),
        false => strict_json::object(&decode(payload)?),
    };
    check_claims(rule, &claims.map_err(JwsError::Claims)?, body, public_url, now_ms)
}

/// Strict: no padding, no bits left over, so that one token has one spelling.
fn decode(part: &[u8]) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Form)
}

fn read_header(rule: &JwsRule, header: &[u8]) -> Result<(JwsAlgorithm, Option<String>), JwsError> {
    let header = strict_json::object(header).map_err(JwsError::Header)?;
    if header.contains_key("crit") {
        return Err(JwsError::Critical);
    }
    let name = match header.get("alg") {
        Some(Value::String(name)) => name,
        _ => return Err(JwsError::HeaderMember("alg")),
    };
    let algorithm = JwsAlgorithm::from_name(name).filter(|known| rule.algorithms.contains(known));
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(JwsError::HeaderMember("kid")),
    };
    Ok((algorithm.ok_or(JwsError::Algorithm)?, kid))
}

/// A key with a `kid` only serves tokens of that `kid`, or of none; a key without serves all.
fn check_signature(
    keys: &KeySet,
    algorithm: JwsAlgorithm,
    kid: Option<&str>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), JwsError> {
    let named = |key: &Option<Box<str>>| match (kid, key.as_deref()) {
        (Some(wanted), Some(had)) => wanted == had,
        _ => true,
    };
    if !keys.iter().any(|key| named(&key.kid)) {
        return Err(JwsError::UnknownKey);
    }
    let mut tried = keys
        .iter()
        .filter(|key| named(&key.kid))
        .filter(|key| key.key.fits(algorithm) && key.algorithm.is_none_or(|only| only == algorithm))
        .take(KEYS_TRIED_MAX)
        .peekable();
    if tried.peek().is_none() {
        return Err(JwsError::KeyKind);
    }
    if tried.any(|key| key.key.check(algorithm, message, signature)) {
        return Ok(());
    }
    Err(JwsError::Signature)
}

#[cfg(test)]
mod tests;
