//! Schemes that need code: tokens, certificates, and texts put together in ways that no template says.

pub mod braintree;
pub mod contentful;
pub mod jws;
mod jws_claims;
pub mod jws_key;
pub mod jws_sign;
pub mod paypal;
pub mod plivo;
pub mod sns;
mod sns_url;
pub mod strict_json;
#[cfg(test)]
pub(super) mod test_keys;
pub mod token;

use self::braintree::{BraintreeError, BraintreeKey};
use self::contentful::ContentfulError;
use self::paypal::{PaypalError, PaypalRequest};
use self::plivo::PlivoError;
use self::sns::{SnsError, SnsMessage, SnsType};
use self::token::Jws;
use super::fetched::{Fetched, Need};
use super::key::{KeyFormError, SchemeKey};
use super::place::Place;
use super::request::Request;
use super::scheme_text::{SchemeError, SchemeText, wrong};
use super::sign::{Draft, SignError, Signer};
use super::signature::{LiveKey, SECRETS_MAX, SignatureError, is_live};
use crate::event::{SecretName, Timestamp};
use crate::secret::{KeyError, SecretText};

/// PayPal tries for three days, and a repeat may keep its time.
const PAYPAL_AGE_MAX_MILLIS: u64 = 4 * 86_400_000;

/// A scheme that is code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coded {
    /// A token in a header.
    Jws(Box<Jws>),
    /// Amazon SNS.
    Sns,
    /// PayPal.
    PayPal,
    /// Plivo, version 3.
    Plivo,
    /// Contentful.
    Contentful,
    /// Braintree.
    Braintree,
}

impl Coded {
    /// The scheme that is written, if it is one of these.
    pub(super) fn build(text: &SchemeText) -> Result<Option<Self>, SchemeError> {
        let coded = match text.algorithm.as_deref() {
            Some("jws") => return Jws::build(text).map(|jws| Some(Self::Jws(Box::new(jws)))),
            Some("aws-sns") => Self::Sns,
            Some("paypal") => Self::PayPal,
            Some("plivo-v3") => Self::Plivo,
            Some("contentful") => Self::Contentful,
            Some("braintree") => Self::Braintree,
            _ => return Ok(None),
        };
        let others: [(&'static str, bool); 9] = [
            ("header", !text.header.is_empty()),
            ("encoding", text.encoding.is_some()),
            ("key", text.key.is_some()),
            ("signed", text.signed.is_some()),
            ("list", text.list.is_some()),
            ("tags", !text.tags.is_empty()),
            ("timestamp", text.timestamp.is_some()),
            ("jws", text.jws.is_some()),
            ("prefix", text.prefix.is_some()),
        ];
        match others.iter().find(|(_, written)| *written) {
            Some((key, _)) => wrong(key, "has no meaning here: this algorithm says all by itself"),
            None => Ok(Some(coded)),
        }
    }

    /// What the headers alone can tell.
    pub(super) fn claim(&self, request: &Request<'_>) -> Result<(), SignatureError> {
        let headers = self.headers();
        if headers.is_empty() {
            return Ok(());
        }
        let mut found = false;
        for name in headers {
            let mut values = request.headers.values(name);
            match (values.next(), values.next()) {
                (Some(_), Some(_)) => return Err(SignatureError::Repeated),
                (Some(value), None) => found |= !super::encoding::trim(value).is_empty(),
                (None, _) => {}
            }
        }
        if !found {
            return Err(SignatureError::Missing);
        }
        match self {
            Self::PayPal => paypal_request(request).map(drop),
            _ => Ok(()),
        }
    }

    /// Tries every live key, and names the secret that matched.
    pub(super) fn check<'k>(
        &self,
        keys: &'k [LiveKey],
        now: Timestamp,
        request: &Request<'_>,
        fetched: Option<&Fetched>,
    ) -> Result<&'k SecretName, SignatureError> {
        self.claim(request)?;
        let mut worst = SignatureError::Mismatch;
        let mut matched = None;
        for key in keys.iter().filter(|key| is_live(key, now)).take(SECRETS_MAX) {
            match self.check_one(&key.key, now, request, fetched) {
                Ok(()) if matched.is_none() => matched = Some(&key.name),
                Ok(()) | Err(SignatureError::Mismatch) => {}
                Err(error) => worst = error,
            }
        }
        matched.ok_or(worst)
    }

    fn check_one(
        &self,
        key: &SchemeKey,
        now: Timestamp,
        request: &Request<'_>,
        fetched: Option<&Fetched>,
    ) -> Result<(), SignatureError> {
        let header = |name: &str| header_of(request, name);
        match (self, key) {
            (Self::Jws(jws), _) => jws.check(key, now, request, fetched),
            (Self::Sns, SchemeKey::Fetched(topics)) => {
                let message = SnsMessage::parse(request.body).map_err(sns_error)?;
                let spki = certificate(fetched)?;
                message.verify(spki, now.0).map_err(sns_error)?;
                match accepts_topic(topics, message.topic_arn()) {
                    true => Ok(()),
                    false => Err(SignatureError::NotAccepted),
                }
            }
            (Self::PayPal, SchemeKey::Fetched(webhook_id)) => {
                let webhook_id =
                    std::str::from_utf8(webhook_id.expose()).map_err(|_| SignatureError::Mismatch)?;
                let read = paypal_request(request)?;
                read.verify(webhook_id, request.body, certificate(fetched)?)
                    .map_err(paypal_error)?;
                match now.0.abs_diff(read.transmission_time_ms()) <= PAYPAL_AGE_MAX_MILLIS {
                    true => Ok(()),
                    false => Err(SignatureError::Stale),
                }
            }
            (Self::Plivo, SchemeKey::Text(token)) => {
                let url = request.url().ok_or(SignatureError::Incomplete)?;
                plivo::verify(request.method, &url, &header, request.body, token.expose())
                    .map_err(plivo_error)
            }
            (Self::Contentful, SchemeKey::Text(secret)) => {
                let path = path_and_query(request).ok_or(SignatureError::Incomplete)?;
                contentful::verify(
                    request.method,
                    &path,
                    &header,
                    request.body,
                    secret.expose(),
                    now.0,
                )
                .map_err(contentful_error)
            }
            (Self::Braintree, SchemeKey::Text(keys)) => {
                let key = braintree_key(keys).ok_or(SignatureError::Mismatch)?;
                // A field more would not be signed.
                if form_urlencoded::parse(request.body).take(3).count() != 2 {
                    return Err(SignatureError::Malformed);
                }
                key.verify(request.body).map_err(braintree_error)
            }
            _ => Err(SignatureError::Mismatch),
        }
    }

    /// What besides the bytes keeps a request from matching under `keys`, in words: its form, what it lacks, its age, what it claims.
    pub(super) fn lacking(
        &self,
        keys: &[SchemeKey],
        request: &Request<'_>,
        now: Timestamp,
    ) -> Option<String> {
        const ANY_KEY: &[u8] = b"any";
        let header = |name: &str| header_of(request, name);
        match self {
            Self::Jws(jws) => jws.lacking(keys, request, now),
            Self::Sns => SnsMessage::parse(request.body)
                .err()
                .map(|error| error.to_string()),
            Self::PayPal => PaypalRequest::read(&header).err().map(|error| error.to_string()),
            Self::Plivo => {
                let url = request.url()?;
                let checked = plivo::verify(request.method, &url, &header, request.body, ANY_KEY);
                let error = checked.err().filter(|error| *error != PlivoError::Mismatch)?;
                Some(error.to_string())
            }
            Self::Contentful => {
                let path = path_and_query(request)?;
                let checked =
                    contentful::verify(request.method, &path, &header, request.body, ANY_KEY, now.0);
                let error = checked
                    .err()
                    .filter(|error| *error != ContentfulError::Mismatch)?;
                Some(error.to_string())
            }
            Self::Braintree => {
                let given = keys.iter().filter_map(|key| match key {
                    SchemeKey::Text(text) => braintree_key(text),
                    _ => None,
                });
                let errors = given.filter_map(|key| key.verify(request.body).err());
                let error = errors.max_by_key(|error| *error == BraintreeError::Mismatch)?;
                (error != BraintreeError::Mismatch).then(|| error.to_string())
            }
        }
    }

    /// What must be fetched before a request can be checked.
    pub(super) fn need(&self, request: &Request<'_>) -> Result<Option<Need>, SignatureError> {
        match self {
            Self::Jws(jws) => jws.need(request),
            Self::Sns => {
                let message = SnsMessage::parse(request.body).map_err(sns_error)?;
                Ok(Some(Need::Certificate {
                    url: message.certificate_url().into(),
                    names: message.certificate_names().into_iter().map(Into::into).collect(),
                }))
            }
            Self::PayPal => {
                let read = paypal_request(request)?;
                Ok(Some(Need::Certificate {
                    url: read.certificate_url().into(),
                    names: paypal::CERTIFICATE_NAMES.map(Into::into).to_vec(),
                }))
            }
            Self::Plivo | Self::Contentful | Self::Braintree => Ok(None),
        }
    }

    /// The address whose GET confirms a subscription that this verified request asks for.
    pub(super) fn confirmation(&self, request: &Request<'_>) -> Option<String> {
        if *self != Self::Sns {
            return None;
        }
        let message = SnsMessage::parse(request.body).ok()?;
        let confirms = message.kind() == SnsType::SubscriptionConfirmation;
        message.subscribe_url().filter(|_| confirms).map(str::to_owned)
    }

    /// The answer to Braintree's challenge.
    pub(super) fn challenge(&self, request: &Request<'_>, keys: &[SchemeKey]) -> Option<String> {
        if *self != Self::Braintree || request.method != "GET" {
            return None;
        }
        let challenge = super::request::form_value(request.query?.as_bytes(), "bt_challenge")?;
        keys.iter().find_map(|key| match key {
            SchemeKey::Text(text) => braintree_key(text)?.answer(&challenge).ok(),
            _ => None,
        })
    }

    pub(super) fn key(&self, text: &SecretText) -> Result<SchemeKey, KeyFormError> {
        if text.expose().is_empty() {
            return Err(KeyError::Empty.into());
        }
        match self {
            Self::Jws(jws) => jws.key(text),
            Self::Sns if words(text).any(|word| word.matches(':').count() != 5) => {
                Err(KeyFormError::Undecodable(
                    "topics, each as arn:aws:sns:<region>:<account>:<name>, or with * at its end",
                ))
            }
            Self::Sns | Self::PayPal => Ok(SchemeKey::Fetched(text.clone())),
            Self::Plivo | Self::Contentful => Ok(SchemeKey::Text(text.clone())),
            Self::Braintree => match braintree_key(text) {
                Some(_) => Ok(SchemeKey::Text(text.clone())),
                None => Err(KeyFormError::Undecodable("`public_key:private_key`")),
            },
        }
    }

    /// Whether the secret is a public key.
    pub(super) fn has_public_key(&self) -> bool {
        matches!(self, Self::Jws(jws) if jws.has_public_key())
    }

    pub(super) fn sign(
        &self,
        signer: &Signer<'_>,
        draft: &mut Draft,
        now: Timestamp,
    ) -> Result<(), SignError> {
        let lacks = |error: &dyn std::fmt::Display| SignError::Lacks(error.to_string());
        match (self, signer) {
            (Self::Jws(jws), _) => jws.sign(signer, draft, now),
            (Self::Sns, _) => Err(SignError::OnlyProvider("Amazon")),
            (Self::PayPal, _) => Err(SignError::OnlyProvider("PayPal")),
            (Self::Plivo, Signer::Secret(SchemeKey::Text(token))) => {
                let url = draft.url().ok_or(SignError::NeedsUrl)?;
                let nonce = super::sample::fill("{id}", fastrand::u64(..), now);
                let value =
                    plivo::sign(&url, &draft.body, &nonce, token.expose()).map_err(|error| lacks(&error))?;
                draft.headers.push((plivo::NONCE_HEADER.to_owned(), nonce));
                draft.headers.push((plivo::SIGNATURE_HEADER.to_owned(), value));
                Ok(())
            }
            (Self::Contentful, Signer::Secret(SchemeKey::Text(secret))) => {
                let url = draft.url().ok_or(SignError::NeedsUrl)?;
                let path = path_of(&url).unwrap_or("/").to_owned();
                let made = contentful::sign("POST", &path, &[], &draft.body, secret.expose(), now.0)
                    .map_err(|error| lacks(&error))?;
                draft
                    .headers
                    .extend(made.map(|(name, value)| (name.to_owned(), value)));
                Ok(())
            }
            (Self::Braintree, Signer::Secret(SchemeKey::Text(keys))) => {
                let key = braintree_key(keys).ok_or(SignError::PrivateKey("Braintree"))?;
                let payload = super::encoding::Encoding::Base64.encode(&draft.body) + "\n";
                draft.body = key.sign(&payload).into_bytes();
                Ok(())
            }
            _ => Err(SignError::PrivateKey("this scheme")),
        }
    }

    pub(super) fn headers(&self) -> Vec<&str> {
        match self {
            Self::Jws(jws) => vec![jws.header()],
            Self::PayPal => vec!["paypal-transmission-sig"],
            Self::Plivo => vec![plivo::SIGNATURE_HEADER, plivo::MAIN_SIGNATURE_HEADER],
            Self::Contentful => vec![contentful::SIGNATURE_HEADER],
            // Theirs stand in the body.
            Self::Sns | Self::Braintree => Vec::new(),
        }
    }

    /// Where in the body the signature stands, where it does.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Sns => Some(Place::Json(vec!["Signature".into()])),
            Self::Braintree => Some(Place::Form("bt_signature".into())),
            Self::Jws(_) | Self::PayPal | Self::Plivo | Self::Contentful => None,
        }
    }

    pub(super) fn is_fetched(&self) -> bool {
        match self {
            Self::Jws(jws) => jws.fetches_from().is_some(),
            Self::Sns | Self::PayPal => true,
            Self::Plivo | Self::Contentful | Self::Braintree => false,
        }
    }

    pub(super) fn needs_url(&self) -> bool {
        match self {
            Self::Jws(jws) => jws.needs_url(),
            Self::Plivo | Self::Contentful => true,
            Self::Sns | Self::PayPal | Self::Braintree => false,
        }
    }

    pub(super) fn covers_body(&self) -> bool {
        match self {
            Self::Jws(jws) => jws.covers_body(),
            // Named members are signed; what stands beside them is not.
            Self::Sns => false,
            _ => true,
        }
    }

    pub(super) fn vouches_for_header(&self, name: &str) -> bool {
        *self == Self::PayPal && name == "paypal-transmission-id"
    }

    /// The header that holds a token which proves the sender alone, and is as good as a password until it runs out.
    pub(super) fn credential(&self) -> Option<&str> {
        match self {
            Self::Jws(jws) if !jws.covers_body() => Some(jws.header()),
            _ => None,
        }
    }

    pub(super) fn describe(&self) -> Vec<(&'static str, String)> {
        let texts: &[(&'static str, &str)] = match self {
            Self::Jws(jws) => return jws.describe(),
            Self::Sns => &[
                ("header", "none: Signature and SigningCertURL in the body"),
                (
                    "signed",
                    "RSA with SHA-1 or SHA-256 over named members of the message",
                ),
                (
                    "key",
                    "the topic's ARN (several with blanks between them, or one that ends in *); the certificate is fetched from SNS",
                ),
                ("time", "Timestamp of the body, at most 3600 s off"),
                (
                    "subscription",
                    "confirmed by itself once the signature and the topic are right",
                ),
            ],
            Self::PayPal => &[
                (
                    "header",
                    "paypal-transmission-sig, with paypal-transmission-id, -time and paypal-cert-url",
                ),
                (
                    "signed",
                    "RSA with SHA-256 over {id}|{time}|{webhook id}|{crc32 of the body}",
                ),
                (
                    "key",
                    "the webhook's id at PayPal; the certificate is fetched from PayPal",
                ),
            ],
            Self::Plivo => &[
                (
                    "header",
                    "x-plivo-signature-v3 or x-plivo-signature-ma-v3, with x-plivo-signature-v3-nonce",
                ),
                ("encoding", "base64"),
                (
                    "signed",
                    "HMAC-SHA256 over the public URL, the form sorted, `.` and the nonce",
                ),
                ("key", "the auth token's text as it is"),
            ],
            Self::Contentful => &[
                (
                    "header",
                    "x-contentful-signature, with x-contentful-signed-headers and x-contentful-timestamp",
                ),
                ("encoding", "hex"),
                (
                    "signed",
                    "HMAC-SHA256 over method, path with query, the signed headers and the body, each on a line",
                ),
                ("key", "the signing secret's text as it is"),
                (
                    "time",
                    "x-contentful-timestamp, in milliseconds, at most 30 s off",
                ),
            ],
            Self::Braintree => &[
                ("header", "none: bt_signature of the form"),
                ("encoding", "hex"),
                (
                    "signed",
                    "HMAC-SHA1 over bt_payload, the key is the SHA-1 of the private key",
                ),
                ("key", "public_key:private_key"),
            ],
        };
        texts
            .iter()
            .map(|(label, text)| (*label, (*text).to_owned()))
            .collect()
    }
}

/// The words of a secret that says what is accepted.
fn words(text: &SecretText) -> impl Iterator<Item = &str> {
    std::str::from_utf8(text.expose())
        .unwrap_or_default()
        .split([' ', '\t', '\n', '\r', ','])
        .filter(|word| !word.is_empty())
}

/// Whether a topic is listed; an entry ending in `*` is a prefix, which must name the account.
fn accepts_topic(topics: &SecretText, topic: &str) -> bool {
    words(topics).any(|listed| match listed.strip_suffix('*') {
        Some(prefix) => prefix.matches(':').count() == 5 && topic.starts_with(prefix),
        None => listed == topic,
    })
}

fn header_of<'r>(request: &Request<'r>, name: &str) -> Option<&'r [u8]> {
    let mut values = request
        .headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

fn paypal_request<'r>(request: &Request<'r>) -> Result<PaypalRequest<'r>, SignatureError> {
    PaypalRequest::read(&|name| header_of(request, name)).map_err(paypal_error)
}

fn certificate(fetched: Option<&Fetched>) -> Result<&[u8], SignatureError> {
    match fetched {
        Some(Fetched::Certificate(spki)) => Ok(spki),
        _ => Err(SignatureError::NoKeys),
    }
}

fn braintree_key(text: &SecretText) -> Option<BraintreeKey> {
    BraintreeKey::parse(std::str::from_utf8(text.expose()).ok()?).ok()
}

/// The path with the query, of the public URL.
fn path_and_query(request: &Request<'_>) -> Option<String> {
    request.url().as_deref().and_then(path_of).map(str::to_owned)
}

fn path_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.find('/').and_then(|at| rest.get(at..)).or(Some("/"))
}

fn sns_error(error: SnsError) -> SignatureError {
    match error {
        SnsError::Age => SignatureError::Stale,
        SnsError::Signature(_) => SignatureError::Mismatch,
        _ => SignatureError::Malformed,
    }
}

fn paypal_error(error: PaypalError) -> SignatureError {
    match error {
        PaypalError::Header(_) => SignatureError::Incomplete,
        PaypalError::WebhookId | PaypalError::Signature(_) => SignatureError::Mismatch,
        _ => SignatureError::NotAccepted,
    }
}

fn plivo_error(error: PlivoError) -> SignatureError {
    match error {
        PlivoError::Missing => SignatureError::Missing,
        PlivoError::Mismatch | PlivoError::Empty => SignatureError::Mismatch,
        _ => SignatureError::Incomplete,
    }
}

fn contentful_error(error: ContentfulError) -> SignatureError {
    match error {
        ContentfulError::Age => SignatureError::Stale,
        ContentfulError::Mismatch | ContentfulError::Empty => SignatureError::Mismatch,
        _ => SignatureError::Incomplete,
    }
}

fn braintree_error(error: BraintreeError) -> SignatureError {
    match error {
        BraintreeError::Mismatch | BraintreeError::Key => SignatureError::Mismatch,
        BraintreeError::PublicKey => SignatureError::NotAccepted,
        _ => SignatureError::Malformed,
    }
}
