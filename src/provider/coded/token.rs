//! A token in a header (JWS, JWT) as a scheme: what it must say, and where the keys come from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::jws::{self, Audience, ClaimEncoding, JwsAlgorithm, JwsError, JwsKey, JwsRule, KeySet};
use super::jws_sign::{JwsSigner, detach};
use super::words;
use crate::event::Timestamp;
use crate::provider::encoding::{Encoding, Prefix, trim};
use crate::provider::fetched::{Fetched, Need};
use crate::provider::key::{KeyFormError, SchemeKey};
use crate::provider::request::Request;
use crate::provider::sample;
use crate::provider::scheme_text::{JwsText, SchemeError, SchemeText, duration, header_name, wrong};
use crate::provider::sign::{Draft, SignError, Signer};
use crate::provider::signature::SignatureError;
use crate::secret::SecretText;

/// How far a sender's clock may be off for the times in its tokens.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// A token in a header, and what it must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jws {
    header: Box<str>,
    prefix: Prefix,
    rule: JwsRule,
    keys: JwsKeys,
    /// The claims that must be the words of the secret, in this order, where the keys are fetched.
    secret_claims: Vec<Box<str>>,
}

/// Where the keys of tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum JwsKeys {
    /// The secret is a shared one.
    Secret,
    /// The secret is a public key in PEM.
    Pem,
    /// The secret is a JWK Set.
    Set,
    /// From there; the secret says what the token must claim.
    Fetched(Box<str>),
}

impl Jws {
    pub(super) fn build(text: &SchemeText) -> Result<Self, SchemeError> {
        let others: [(&'static str, bool); 5] = [
            ("signed", text.signed.is_some()),
            ("list", text.list.is_some()),
            ("tags", !text.tags.is_empty()),
            ("timestamp", text.timestamp.is_some()),
            ("encoding", text.encoding.is_some()),
        ];
        if let Some((key, _)) = others.iter().find(|(_, written)| *written) {
            return wrong(key, "has no meaning for jws; see the table `jws`");
        }
        let header = match &*text.header {
            [] => "authorization".into(),
            [name] => header_name("header", name)?,
            _ => return wrong("header", "of a jws is one name"),
        };
        let default = JwsText::default();
        let jws = text.jws.as_ref().unwrap_or(&default);
        let keys = match (text.key.as_deref(), &jws.jwks) {
            (None, Some(url)) if url.starts_with("https://") => JwsKeys::Fetched(url.as_str().into()),
            (None, Some(_)) => return wrong("jws", "has a jwks that does not begin with https://"),
            (Some(_), Some(_)) => {
                return wrong("key", "and jws.jwks are both written; keys come from one of them");
            }
            (None | Some("utf8"), None) => JwsKeys::Secret,
            (Some("pem"), None) => JwsKeys::Pem,
            (Some("jwks"), None) => JwsKeys::Set,
            (Some(other), None) => {
                return wrong("key", format!("is {other:?}; of a jws it is utf8, pem or jwks"));
            }
        };
        let rule = rule(jws)?;
        let proves_something = rule.body_claim.is_some()
            || rule.detached
            || rule.audience.is_some()
            || !jws.secret_claims.is_empty();
        if !proves_something && keys != JwsKeys::Secret {
            return wrong(
                "jws",
                "accepts every token of that issuer: write audience, secret_claims, body_claim or detached",
            );
        }
        if !jws.secret_claims.is_empty() && !matches!(keys, JwsKeys::Fetched(_)) {
            return wrong(
                "jws",
                "has secret_claims, which are for keys that are fetched (jwks)",
            );
        }
        if matches!(keys, JwsKeys::Fetched(_))
            && jws.secret_claims.is_empty()
            && !rule.detached
            && rule.body_claim.is_none()
        {
            return wrong(
                "jws",
                "lacks secret_claims: the claims that the secret states, such as [\"aud\", \"email\"]",
            );
        }
        Ok(Self {
            header,
            prefix: match (&text.prefix, text.prefix_optional) {
                (None, _) => Prefix::None,
                (Some(prefix), true) => Prefix::Optional(prefix.as_str().into()),
                (Some(prefix), false) => Prefix::Required(prefix.as_str().into()),
            },
            rule,
            keys,
            secret_claims: jws
                .secret_claims
                .iter()
                .map(|claim| claim.as_str().into())
                .collect(),
        })
    }

    /// Where its keys are fetched from.
    pub(super) fn fetches_from(&self) -> Option<&str> {
        match &self.keys {
            JwsKeys::Fetched(url) => Some(url),
            _ => None,
        }
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    pub(super) fn needs_url(&self) -> bool {
        self.rule.audience == Some(Audience::PublicUrl) || self.rule.url_claim.is_some()
    }

    /// Whether the token is bound to the body.
    pub(super) fn covers_body(&self) -> bool {
        self.rule.body_claim.is_some() || self.rule.detached
    }

    pub(super) fn key(&self, text: &SecretText) -> Result<SchemeKey, KeyFormError> {
        let bytes = text.expose();
        let pem = || std::str::from_utf8(bytes).map_err(|_| KeyFormError::Undecodable("a public key in PEM"));
        let one = |key, secret| SchemeKey::Jws(Arc::new(KeySet::new([(None, key)])), secret);
        match &self.keys {
            JwsKeys::Secret => JwsKey::from_secret(bytes)
                .map(|key| one(key, Some(text.clone())))
                .map_err(|_| {
                    KeyFormError::Undecodable("a shared secret: it is a PEM block, which anybody may know")
                }),
            JwsKeys::Pem => JwsKey::from_pem(&pem()?.replace("\\n", "\n"))
                .map(|key| one(key, None))
                .map_err(|_| KeyFormError::Undecodable("a public key in PEM")),
            JwsKeys::Set => KeySet::from_json(bytes)
                .map(|set| SchemeKey::Jws(Arc::new(set), None))
                .map_err(|_| KeyFormError::Undecodable("a JWK Set in JSON")),
            JwsKeys::Fetched(_) if words(text).count() < self.secret_claims.len() => Err(
                KeyFormError::Undecodable("the values of the token's claims, with blanks between them"),
            ),
            JwsKeys::Fetched(_) => Ok(SchemeKey::Fetched(text.clone())),
        }
    }

    pub(super) fn check(
        &self,
        key: &SchemeKey,
        now: Timestamp,
        request: &Request<'_>,
        fetched: Option<&Fetched>,
    ) -> Result<(), SignatureError> {
        let token = self.token(request)?;
        let url = request.url();
        let check = |rule: &JwsRule, keys: &KeySet| {
            jws::verify(rule, token, keys, request.body, url.as_deref(), now.0)
                .map_err(|error| jws_error(&error))
        };
        match (key, fetched) {
            (SchemeKey::Jws(keys, _), _) => check(&self.rule, keys),
            (SchemeKey::Fetched(text), Some(Fetched::KeySet(keys))) => check(&self.rule_with(text), keys),
            (SchemeKey::Fetched(_), _) => Err(SignatureError::NoKeys),
            _ => Err(SignatureError::Mismatch),
        }
    }

    fn token<'r>(&'r self, request: &Request<'r>) -> Result<&'r [u8], SignatureError> {
        let value = request.header(&self.header).ok_or(SignatureError::Missing)?;
        self.prefix
            .strip(value)
            .map(trim)
            .ok_or(SignatureError::Malformed)
    }

    /// The rule, and what the secret says that the token must claim.
    fn rule_with(&self, text: &SecretText) -> JwsRule {
        let mut rule = self.rule.clone();
        for (claim, word) in self.secret_claims.iter().zip(words(text)) {
            match &**claim {
                "aud" => rule.audience = Some(Audience::Text(word.into())),
                "iss" => rule.issuer = Some([word.into()].into()),
                _ => rule.required_claims.push((claim.clone(), word.into())),
            }
        }
        rule
    }

    /// What must be fetched before the token can be checked. For one that no key can make good nothing is.
    pub(super) fn need(&self, request: &Request<'_>) -> Result<Option<Need>, SignatureError> {
        let JwsKeys::Fetched(url) = &self.keys else {
            return Ok(None);
        };
        jws::check_form(&self.rule, self.token(request)?).map_err(|error| jws_error(&error))?;
        Ok(Some(Need::KeySet { url: url.clone() }))
    }

    /// Why none of `keys` accepts the token, in words. Claims are told too where the keys are not at hand.
    pub(super) fn lacking(
        &self,
        keys: &[SchemeKey],
        request: &Request<'_>,
        now: Timestamp,
    ) -> Option<String> {
        let token = match self.token(request) {
            Ok(token) => token,
            Err(SignatureError::Malformed) => {
                let prefix = self.prefix.text().unwrap_or_default();
                return Some(format!("`{}` does not begin with {prefix:?}", self.header));
            }
            Err(_) => return None,
        };
        let url = request.url();
        let (body, url) = (request.body, url.as_deref());
        let errors = keys.iter().filter_map(|key| match key {
            SchemeKey::Jws(keys, _) => jws::verify(&self.rule, token, keys, body, url, now.0).err(),
            SchemeKey::Fetched(text) => {
                jws::verify_all_but_the_signature(&self.rule_with(text), token, body, url, now.0).err()
            }
            _ => None,
        });
        // What is said of a token whose signature holds says more.
        let is_of_key = |error: &JwsError| {
            matches!(
                error,
                JwsError::Signature | JwsError::KeyKind | JwsError::UnknownKey
            )
        };
        errors.min_by_key(is_of_key).map(|error| error.to_string())
    }

    pub(super) fn sign(
        &self,
        signer: &Signer<'_>,
        draft: &mut Draft,
        now: Timestamp,
    ) -> Result<(), SignError> {
        let random = ring::rand::SystemRandom::new();
        let made = match signer {
            Signer::Secret(SchemeKey::Jws(_, Some(text))) => JwsSigner::from_secret(text.expose()),
            Signer::Secret(SchemeKey::Fetched(_)) => return Err(SignError::OnlyProvider("the provider")),
            Signer::Secret(_) => return Err(SignError::NeedsPrivateKey),
            Signer::Private(text) => {
                let pem =
                    crate::provider::key::pem(text.expose(), "PRIVATE KEY").map(zeroize::Zeroizing::new);
                JwsSigner::from_pkcs8(pem.as_deref().map_or(text.expose(), |der| der), &random)
            }
        };
        let made = made.map_err(|_| SignError::PrivateKey("this scheme's tokens"))?;
        let algorithm = *self.rule.algorithms.first().ok_or(SignError::PrivateKey("jws"))?;
        let payload = match self.rule.detached {
            true => draft.body.clone(),
            false => self.claims(draft, now)?.into_bytes(),
        };
        let token = made
            .sign(algorithm, None, &payload, &random)
            .map_err(|_| SignError::PrivateKey(algorithm.name()))?;
        let token = if self.rule.detached { detach(&token) } else { token };
        let prefix = self.prefix.text().unwrap_or_default();
        draft
            .headers
            .push((self.header.to_string(), format!("{prefix}{token}")));
        Ok(())
    }

    /// The claims that the sender would make.
    fn claims(&self, draft: &Draft, now: Timestamp) -> Result<String, SignError> {
        use sha2::{Digest, Sha256};
        let secs = now.0.div_euclid(1000);
        let mut claims = serde_json::Map::new();
        claims.insert("iat".to_owned(), secs.into());
        claims.insert("nbf".to_owned(), secs.into());
        claims.insert("exp".to_owned(), (secs + 300).into());
        claims.insert(
            "jti".to_owned(),
            sample::fill("{uuid}", fastrand::u64(..), now).into(),
        );
        if let Some(issuer) = self.rule.issuer.as_deref().and_then(<[_]>::first) {
            claims.insert("iss".to_owned(), issuer.to_string().into());
        }
        match &self.rule.audience {
            Some(Audience::Text(audience)) => {
                drop(claims.insert("aud".to_owned(), audience.to_string().into()))
            }
            Some(Audience::PublicUrl) => {
                let url = draft.url().ok_or(SignError::NeedsUrl)?;
                claims.insert("aud".to_owned(), url.into());
            }
            None => {}
        }
        if let Some((name, encoding)) = &self.rule.body_claim {
            let digest = Sha256::digest(&draft.body);
            let text = match encoding {
                ClaimEncoding::Hex => hex::encode(digest),
                ClaimEncoding::Base64 => Encoding::Base64.encode(&digest),
                ClaimEncoding::Base64Url => Encoding::Base64Url.encode(&digest),
            };
            claims.insert(name.to_string(), text.into());
        }
        if let Some(name) = &self.rule.url_claim {
            let url = draft.url().ok_or(SignError::NeedsUrl)?;
            claims.insert(
                name.to_string(),
                hex::encode(Sha256::digest(url.as_bytes())).into(),
            );
        }
        for (name, value) in &self.rule.required_claims {
            let value = match &**value {
                "true" => true.into(),
                text => text.into(),
            };
            drop(claims.insert(name.to_string(), value));
        }
        Ok(serde_json::Value::Object(claims).to_string())
    }

    /// Whether the secret is one public key or a set of them.
    pub(super) fn has_public_key(&self) -> bool {
        matches!(self.keys, JwsKeys::Pem | JwsKeys::Set)
    }

    pub(super) fn describe(&self) -> Vec<(&'static str, String)> {
        let rule = &self.rule;
        let algorithms: Vec<&str> = rule.algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let key = match &self.keys {
            JwsKeys::Secret => "the secret's text as it is".to_owned(),
            JwsKeys::Pem => "the provider's public key in PEM".to_owned(),
            JwsKeys::Set => "a file with the provider's JWK Set".to_owned(),
            JwsKeys::Fetched(url) if self.secret_claims.is_empty() => {
                format!("fetched from {url}; the secret may be any text")
            }
            JwsKeys::Fetched(url) => format!(
                "fetched from {url}; the secret is what the token must claim as {}",
                self.secret_claims.join(" and ")
            ),
        };
        let mut facts = vec![
            ("header", self.header.to_string()),
            ("form", format!("a JSON Web Token, {}", algorithms.join(" or "))),
            ("key", key),
        ];
        if let Some(prefix) = self.prefix.text() {
            facts.push(("prefix", prefix.to_owned()));
        }
        facts.push((
            "signed",
            match (&rule.body_claim, rule.detached) {
                (Some((claim, _)), _) => format!("the SHA-256 of the body, as the claim {claim}"),
                (None, true) => "the raw body".to_owned(),
                (None, false) => "claims alone: it proves the sender, not the body".to_owned(),
            },
        ));
        let issuer = rule.issuer.as_deref().map(|names| names.join(" or "));
        facts.extend(issuer.map(|issuer| ("issuer", issuer)));
        match &rule.audience {
            Some(Audience::PublicUrl) => facts.push(("audience", "the public URL".to_owned())),
            Some(Audience::Text(text)) => facts.push(("audience", text.to_string())),
            None => {}
        }
        if let Some(age) = rule.max_age {
            facts.push((
                "time",
                format!("iat of the token, at most {} s off", age.as_secs()),
            ));
        }
        facts
    }
}

fn rule(text: &JwsText) -> Result<JwsRule, SchemeError> {
    let mut algorithms = Vec::new();
    for name in &text.algorithms {
        match JwsAlgorithm::from_name(name) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                return wrong(
                    "jws",
                    format!("has the algorithm {name:?}; write HS256, RS256, ES256, EdDSA or the like"),
                );
            }
        }
    }
    if algorithms.is_empty() {
        return wrong(
            "jws",
            "lacks algorithms: the ones that a token may have, such as [\"HS256\"]",
        );
    }
    let encoding = match text.body_claim_encoding.as_deref() {
        None | Some("hex") => ClaimEncoding::Hex,
        Some("base64") => ClaimEncoding::Base64,
        Some("base64url") => ClaimEncoding::Base64Url,
        Some(other) => {
            return wrong(
                "jws",
                format!("has the body_claim_encoding {other:?}; write hex, base64 or base64url"),
            );
        }
    };
    let max_age = match &text.max_age {
        None => None,
        Some(text) => match duration(text) {
            Some(age) => Some(age),
            None => return wrong("jws", format!("has {text:?} as max_age; write it like \"5m\"")),
        },
    };
    let issuers: Vec<Box<str>> = text.issuer.iter().map(|issuer| issuer.as_str().into()).collect();
    Ok(JwsRule {
        algorithms,
        issuer: (!issuers.is_empty()).then(|| issuers.into()),
        audience: match text.audience.as_deref() {
            None => None,
            Some("public_url") => Some(Audience::PublicUrl),
            Some(audience) => Some(Audience::Text(audience.into())),
        },
        max_age,
        tolerance: CLOCK_TOLERANCE,
        body_claim: text.body_claim.as_deref().map(|claim| (claim.into(), encoding)),
        url_claim: text.url_claim.as_deref().map(Into::into),
        required_claims: required_claims(&text.required_claims),
        detached: text.detached,
    })
}

fn required_claims(claims: &BTreeMap<String, String>) -> Vec<(Box<str>, Box<str>)> {
    let pair = |(name, value): (&String, &String)| (name.as_str().into(), value.as_str().into());
    claims.iter().map(pair).collect()
}

fn jws_error(error: &JwsError) -> SignatureError {
    match error {
        JwsError::Signature => SignatureError::Mismatch,
        JwsError::UnknownKey => SignatureError::NoKeys,
        JwsError::Expired | JwsError::NotYet | JwsError::Age => SignatureError::Stale,
        JwsError::Claim(_) | JwsError::Missing(_) | JwsError::Algorithm | JwsError::KeyKind => {
            SignatureError::NotAccepted
        }
        JwsError::NoPublicUrl => SignatureError::Incomplete,
        _ => SignatureError::Malformed,
    }
}
