//! A scheme: how one kind of signature is made and carried.

use std::borrow::Cow;
use std::time::Duration;

use super::body_hmac::{BodyHmac, Presented};
use super::coded::Coded;
use super::composed::{Composed, Source};
use super::encoding::Encoding;
use super::fetched::{Fetched, Need};
use super::key::{KeyForm, KeyFormError, SchemeKey};
use super::place::Place;
use super::sign::{Draft, SignError, Signer};
use super::signature::{LiveKey, SignatureError};
use crate::event::{SecretName, Timestamp};
use crate::secret::SecretText;

pub use super::request::Request;

/// How one kind of signature is made and carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// Its name among the schemes of its preset.
    pub name: Box<str>,
    /// How it is checked.
    pub rule: Rule,
}

/// How a signature is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// HMAC-SHA256 over the raw body in a header: what most senders do.
    BodyHmac(BodyHmac),
    /// Put together of parts.
    Composed(Box<Composed>),
    /// Code that only few senders need.
    Coded(Box<Coded>),
}

/// What a request claims, read from its headers alone.
#[derive(Debug, Clone)]
pub enum Claim {
    /// A digest of the raw body.
    Digest(Presented),
    /// All that can be said before the body is there.
    Later,
}

impl Scheme {
    /// Reads what the headers present; a hopeless request ends before its body is read. The body of `request` is not looked at.
    ///
    /// # Errors
    /// Every [`SignatureError`] but those that need the body.
    pub fn claim(&self, request: &Request<'_>) -> Result<Claim, SignatureError> {
        match &self.rule {
            Rule::BodyHmac(rule) => rule.read(request.headers).map(Claim::Digest),
            Rule::Composed(rule) => rule.claim(request).map(|()| Claim::Later),
            Rule::Coded(rule) => rule.claim(request).map(|()| Claim::Later),
        }
    }

    /// Checks a claim with every live key, and names the secret that matched. `now` decides which keys and times are still good.
    ///
    /// # Errors
    /// Every [`SignatureError`].
    pub fn check<'k>(
        &self,
        claim: &Claim,
        keys: &'k [LiveKey],
        now: Timestamp,
        request: &Request<'_>,
        fetched: Option<&Fetched>,
    ) -> Result<&'k SecretName, SignatureError> {
        match (&self.rule, claim) {
            (Rule::BodyHmac(_), Claim::Digest(presented)) => presented.check(keys, now, request.body),
            (Rule::BodyHmac(rule), Claim::Later) => {
                rule.read(request.headers)?.check(keys, now, request.body)
            }
            (Rule::Composed(rule), _) => rule.check(keys, now, request),
            (Rule::Coded(rule), _) => rule.check(keys, now, request, fetched),
        }
    }

    /// What must be fetched before a request can be checked; `None`: nothing.
    ///
    /// # Errors
    /// When the request names a place that this scheme does not fetch from.
    pub fn need(&self, request: &Request<'_>) -> Result<Option<Need>, SignatureError> {
        match &self.rule {
            Rule::Coded(rule) => rule.need(request),
            _ => Ok(None),
        }
    }

    /// The address whose GET confirms a subscription that this verified request asks for (Amazon SNS).
    pub fn confirmation(&self, request: &Request<'_>) -> Option<String> {
        match &self.rule {
            Rule::Coded(rule) => rule.confirmation(request),
            _ => None,
        }
    }

    /// The answer to a challenge that only code can give (Braintree).
    pub fn challenge(&self, request: &Request<'_>, keys: &[SchemeKey]) -> Option<String> {
        match &self.rule {
            Rule::Coded(rule) => rule.challenge(request, keys),
            _ => None,
        }
    }

    /// Makes the key of a secret.
    ///
    /// # Errors
    /// When the secret's text is not one of this scheme.
    pub fn key(&self, text: &SecretText) -> Result<SchemeKey, KeyFormError> {
        match &self.rule {
            Rule::BodyHmac(rule) => rule.key.hmac(text).map(SchemeKey::Hmac),
            Rule::Composed(rule) => rule.algorithm.key(rule.key, text),
            Rule::Coded(rule) => rule.key(text),
        }
    }

    /// Adds to `draft` what the sender would add.
    ///
    /// # Errors
    /// When the key is not one to sign with, or the draft lacks what is signed.
    pub fn sign(&self, signer: &Signer<'_>, draft: &mut Draft, now: Timestamp) -> Result<(), SignError> {
        match (&self.rule, signer) {
            (Rule::BodyHmac(rule), Signer::Secret(SchemeKey::Hmac(key))) => {
                let signed = rule.sign(key, &draft.body);
                draft.headers.push((signed.header.to_owned(), signed.value));
                Ok(())
            }
            (Rule::BodyHmac(_), _) => Err(SignError::PrivateKey("hmac-sha256")),
            (Rule::Composed(rule), _) => rule.sign(signer, draft, now),
            (Rule::Coded(rule), _) => rule.sign(signer, draft, now),
        }
    }

    /// The headers in which the signature stands, in lower case.
    pub fn headers(&self) -> Vec<Cow<'_, str>> {
        match &self.rule {
            Rule::BodyHmac(rule) => rule.headers.iter().map(|name| Cow::Borrowed(&**name)).collect(),
            Rule::Composed(rule) => rule.headers(),
            Rule::Coded(rule) => rule.headers().into_iter().map(Cow::Borrowed).collect(),
        }
    }

    /// Whether a signature may stand in this header.
    pub fn reads_header(&self, name: &str) -> bool {
        match &self.rule {
            Rule::Composed(rule) => rule.reads_header(name),
            _ => self
                .headers()
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name)),
        }
    }

    /// Where in body or query the signature stands, where it is in no header.
    pub fn place(&self) -> Option<Place> {
        match &self.rule {
            Rule::Composed(rule) => match &rule.source {
                Source::Place(Place::Header(_)) => None,
                Source::Place(place) => Some(place.clone()),
                _ => None,
            },
            Rule::Coded(rule) => rule.place(),
            Rule::BodyHmac(_) => None,
        }
    }

    /// Whether the public URL is signed, so that the route must know it.
    pub fn needs_url(&self) -> bool {
        match &self.rule {
            Rule::BodyHmac(_) => false,
            Rule::Composed(rule) => rule.needs_url(),
            Rule::Coded(rule) => rule.needs_url(),
        }
    }

    /// Whether the signature covers the body, or proves the sender alone (tokens).
    pub fn covers_body(&self) -> bool {
        match &self.rule {
            Rule::BodyHmac(_) => true,
            Rule::Composed(rule) => rule.algorithm.sends_secret() || rule.covers_body(),
            Rule::Coded(rule) => rule.covers_body(),
        }
    }

    /// Whether the credential itself is sent and nothing is signed.
    pub fn sends_secret(&self) -> bool {
        matches!(&self.rule, Rule::Composed(rule) if rule.algorithm.sends_secret())
    }

    /// Whether the secret is a public key, with which nothing can be signed.
    pub fn has_public_key(&self) -> bool {
        match &self.rule {
            Rule::BodyHmac(_) => false,
            Rule::Composed(rule) => rule.algorithm.is_public(),
            Rule::Coded(rule) => rule.has_public_key(),
        }
    }

    /// The headers that [`Scheme::sign`] draws an id for where a draft lacks them: a repeat must have the same.
    pub fn drawn_headers(&self) -> Vec<&str> {
        match &self.rule {
            Rule::Composed(rule) => rule.drawn_headers().collect(),
            Rule::BodyHmac(_) | Rule::Coded(_) => Vec::new(),
        }
    }

    /// Whether the keys are fetched: then the secret makes no signature.
    pub fn is_fetched(&self) -> bool {
        matches!(&self.rule, Rule::Coded(rule) if rule.is_fetched())
    }

    /// How the signature is written, where that is a matter of the scheme.
    pub fn encoding(&self) -> Option<Encoding> {
        match &self.rule {
            Rule::BodyHmac(rule) => Some(rule.encoding),
            Rule::Composed(rule) if !rule.algorithm.sends_secret() => Some(rule.encoding),
            _ => None,
        }
    }

    /// Whether the signature's header may be sent several times.
    pub fn takes_repeated_header(&self) -> bool {
        let is_it = |rule: &Composed| matches!(rule.source, Source::Headers { repeated: true, .. });
        matches!(&self.rule, Rule::Composed(rule) if is_it(rule))
    }

    /// Whether the signature's header holds several things.
    pub fn has_list(&self) -> bool {
        matches!(&self.rule, Rule::Composed(rule) if rule.list.is_some())
    }

    /// How far the signed time may be off, where that is enforced.
    pub fn tolerance(&self) -> Option<Duration> {
        match &self.rule {
            Rule::Composed(rule) => rule
                .timestamp
                .as_ref()
                .filter(|time| time.enforce)
                .map(|time| time.tolerance),
            Rule::BodyHmac(_) | Rule::Coded(_) => None,
        }
    }

    /// How a secret's text becomes the key, where that is a matter of form.
    pub fn key_form(&self) -> Option<KeyForm> {
        match &self.rule {
            Rule::BodyHmac(rule) => Some(rule.key),
            Rule::Composed(rule) => Some(rule.key),
            Rule::Coded(_) => None,
        }
    }

    /// Whether the signature covers a header, or covers nothing at all, so that the header is as good as the rest.
    pub fn vouches_for_header(&self, name: &str) -> bool {
        match &self.rule {
            Rule::BodyHmac(_) => false,
            Rule::Composed(rule) => rule.algorithm.sends_secret() || rule.covers_header(name),
            Rule::Coded(rule) => rule.vouches_for_header(name),
        }
    }

    /// The headers and query parameters that hold the credential itself: neither stored nor forwarded.
    pub fn credentials(&self) -> Credentials {
        use super::place::Place;
        let mut found = Credentials::default();
        if let Rule::Composed(rule) = &self.rule
            && rule.algorithm.sends_secret()
        {
            match &rule.source {
                Source::Headers { names, .. } => found.headers.clone_from(names),
                Source::Place(Place::Header(name)) => found.headers.push(name.clone()),
                Source::Place(Place::Query(name)) => found.parameters.push(name.clone()),
                Source::Numbered(..) | Source::Place(Place::Json(_) | Place::Form(_)) => {}
            }
        }
        if let Rule::Coded(rule) = &self.rule {
            found.headers.extend(rule.credential().map(Into::into));
        }
        found
    }
}

/// Where a request carries a credential that must not be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Header names in lower case.
    pub headers: Vec<Box<str>>,
    /// Query parameters.
    pub parameters: Vec<Box<str>>,
}
