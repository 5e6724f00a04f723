//! Checks the claims of a token whose signature holds (RFC 7519, section 4).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::jws::{Audience, ClaimEncoding, JwsError, JwsRule};

/// Whether the rule asks for anything that stands in a claim.
pub(super) fn reads_claims(rule: &JwsRule) -> bool {
    rule.issuer.is_some()
        || rule.audience.is_some()
        || rule.max_age.is_some()
        || rule.body_claim.is_some()
        || rule.url_claim.is_some()
        || !rule.required_claims.is_empty()
}

/// Checks `claims` against everything in `rule` but the signature.
pub(super) fn check_claims(
    rule: &JwsRule,
    claims: &Map<String, Value>,
    body: &[u8],
    public_url: Option<&str>,
    now_ms: i64,
) -> Result<(), JwsError> {
    let body_bound = check_digests(rule, claims, body, public_url)? || rule.detached;
    check_times(rule, claims, body_bound, now_ms)?;
    if let Some(issuers) = &rule.issuer {
        let issuer = required_text(claims, "iss")?;
        if !issuers.iter().any(|known| same(known, issuer)) {
            return Err(JwsError::Claim("iss".into()));
        }
    }
    if let Some(audience) = &rule.audience {
        let wanted = match audience {
            Audience::Text(text) => text,
            Audience::PublicUrl => public_url.ok_or(JwsError::NoPublicUrl)?,
        };
        // RFC 7519, section 4.1.3: one text or a list of them.
        let meant = match claims.get("aud") {
            None => return Err(JwsError::Missing("aud".into())),
            Some(Value::Array(list)) => list
                .iter()
                .any(|one| one.as_str().is_some_and(|one| same(one, wanted))),
            Some(one) => one.as_str().is_some_and(|one| same(one, wanted)),
        };
        if !meant {
            return Err(JwsError::Claim("aud".into()));
        }
    }
    for (name, wanted) in &rule.required_claims {
        let equal = match claims.get(&**name) {
            None => return Err(JwsError::Missing(name.clone())),
            Some(Value::String(had)) => same(had, wanted),
            Some(Value::Bool(true)) => &**wanted == "true",
            Some(_) => false,
        };
        if !equal {
            return Err(JwsError::Claim(name.clone()));
        }
    }
    Ok(())
}

/// Whether the token is bound to the body.
fn check_digests(
    rule: &JwsRule,
    claims: &Map<String, Value>,
    body: &[u8],
    public_url: Option<&str>,
) -> Result<bool, JwsError> {
    if let Some(name) = &rule.url_claim {
        let url = public_url.ok_or(JwsError::NoPublicUrl)?;
        check_digest(
            name,
            ClaimEncoding::Hex,
            required_text(claims, name)?,
            url.as_bytes(),
        )?;
    }
    let Some((name, encoding)) = &rule.body_claim else {
        return Ok(false);
    };
    // MessageBird leaves the claim out where there is no body, and its SDK then takes none but an empty one
    // (messagebird-nodejs, lib/webhook-signature-jwt.js). Elsewhere a token without the claim is one for another use.
    if rule.url_claim.is_some() && body.is_empty() && !claims.contains_key(&**name) {
        return Ok(false);
    }
    check_digest(name, *encoding, required_text(claims, name)?, body)?;
    Ok(true)
}

fn check_digest(name: &str, encoding: ClaimEncoding, claim: &str, bytes: &[u8]) -> Result<(), JwsError> {
    let decoded = match encoding {
        ClaimEncoding::Hex => hex::decode(claim).ok(),
        ClaimEncoding::Base64 => STANDARD.decode(claim).ok(),
        ClaimEncoding::Base64Url => URL_SAFE_NO_PAD
            .decode(claim)
            .or_else(|_| URL_SAFE.decode(claim))
            .ok(),
    };
    let digest = Sha256::digest(bytes);
    let equal = decoded.is_some_and(|decoded| bool::from(decoded.as_slice().ct_eq(digest.as_slice())));
    if equal {
        Ok(())
    } else {
        Err(JwsError::Claim(name.into()))
    }
}

fn check_times(
    rule: &JwsRule,
    claims: &Map<String, Value>,
    body_bound: bool,
    now_ms: i64,
) -> Result<(), JwsError> {
    let tolerance_ms = millis(rule.tolerance);
    match time_ms(claims, "exp")? {
        Some(until) if now_ms >= until.saturating_add(tolerance_ms) => return Err(JwsError::Expired),
        // A token that says neither when it ends nor which body it is for would be a password in clear text.
        None if rule.max_age.is_none() && !body_bound => return Err(JwsError::Missing("exp".into())),
        _ => {}
    }
    if time_ms(claims, "nbf")?.is_some_and(|from| now_ms < from.saturating_sub(tolerance_ms)) {
        return Err(JwsError::NotYet);
    }
    let issued = time_ms(claims, "iat")?;
    if let Some(max_age) = rule.max_age {
        let issued = issued.ok_or_else(|| JwsError::Missing("iat".into()))?;
        if now_ms.abs_diff(issued) > millis(max_age).unsigned_abs() {
            return Err(JwsError::Age);
        }
    }
    Ok(())
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction.
fn time_ms(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, JwsError> {
    /// Far past any date, and well within what an f64 holds exactly in milliseconds.
    const SECONDS_MAX: f64 = 1e12;
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value
        .as_f64()
        .filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let seconds = seconds.ok_or(JwsError::Time(name))?;
    // 0 to 1e15, so nothing is cut off.
    Ok(Some((seconds * 1000.0) as i64))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn required_text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<&'c str, JwsError> {
    match claims.get(name) {
        None => Err(JwsError::Missing(name.into())),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(JwsError::Claim(name.into())),
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

#[cfg(test)]
mod tests;
