//! Signs as a sender would: for `sign`, `send` and the tests.

use sha2::{Digest, Sha256};

use super::composed::{Composed, Group, Source, joined, mac, parts};
use super::key::{Algorithm, SchemeKey};
use super::place::Place;
use super::private_key;
use super::request::Request;
use super::sample;
use super::template::{Part, Value};
use super::timestamp::TimestampSource;
use crate::event::Timestamp;
use crate::fields::Fields;
use crate::secret::SecretText;

/// A request that is to be signed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The URL that the sender has registered, without its query.
    pub public_url: Option<String>,
    /// The query, without `?`.
    pub query: Option<String>,
    /// Headers that it has already, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; `{signature}` in it is filled in where the scheme's signature stands there.
    pub body: Vec<u8>,
}

impl Draft {
    /// The URL with its query.
    pub(super) fn url(&self) -> Option<String> {
        let fields = Fields::default();
        let request = Request {
            public_url: self.public_url.as_deref(),
            query: self.query.as_deref(),
            ..Request::new(&fields, &self.body)
        };
        request.url()
    }
}

/// What signs.
#[derive(Debug)]
pub enum Signer<'k> {
    /// The secret of the route.
    Secret(&'k SchemeKey),
    /// A private key in PKCS#8, of a scheme whose secret is a public one.
    Private(&'k SecretText),
}

/// Why a draft cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The scheme's secret is a public key.
    #[error("this scheme's secret is a public key; give the private one with --private-key FILE (PKCS#8)")]
    NeedsPrivateKey,
    /// It is not a key of this algorithm.
    #[error("that private key is not one of {0} in PKCS#8 (PEM or DER)")]
    PrivateKey(&'static str),
    /// The URL is signed too.
    #[error(
        "this scheme signs the public URL; give it with --public-url URL or as `public_url` of the route"
    )]
    NeedsUrl,
    /// The signature stands in the body.
    #[error("this scheme's signature stands in the body: put the text {{signature}} where it belongs")]
    NoPlace,
    /// Something that is signed is not in the body.
    #[error("the body lacks something that this scheme signs: {0}")]
    Lacks(String),
    /// Nobody but the provider can sign so.
    #[error("only {0} can sign these: its keys are its own")]
    OnlyProvider(&'static str),
}

impl Composed {
    /// Adds to `draft` what the sender would add.
    pub(super) fn sign(
        &self,
        signer: &Signer<'_>,
        draft: &mut Draft,
        now: Timestamp,
    ) -> Result<(), SignError> {
        self.add_what_is_covered(draft, now);
        let mut group = Group::default();
        let mut items: Vec<String> = Vec::new();
        let separator = self.list.as_ref().and_then(|list| list.tags.as_ref());
        let tagged = |tag: &str, value: &str| match separator {
            Some((separator, _)) => format!("{tag}{separator}{value}"),
            None => value.to_owned(),
        };
        let time = match &self.timestamp {
            None => None,
            Some(rule) => Some(match &rule.source {
                TimestampSource::Json(tokens) => super::place::json_text(&draft.body, tokens)
                    .ok_or_else(|| SignError::Lacks(super::place::pointer_text(tokens)))?,
                TimestampSource::Header(name) => header(draft, name).unwrap_or_default(),
                TimestampSource::Tag(tag) => {
                    let time = rule.unit.write(now);
                    items.push(tagged(tag, &time));
                    time
                }
                TimestampSource::First => {
                    let time = rule.unit.write(now);
                    items.push(time.clone());
                    time
                }
            }),
        };
        for part in &self.signed {
            if let Some(Value::Tag(tag) | Value::HeaderValues(tag)) = part.value() {
                let value = match part.value() {
                    Some(Value::Tag(_)) if !self.names_headers(tag) => "production",
                    _ => "",
                };
                if !group.tags.iter().any(|(known, _)| **known == **tag) {
                    items.push(tagged(tag, value));
                    group.tags.push((tag.to_string(), value.to_owned()));
                }
            }
        }
        let signature = self.make(signer, draft, &group, time.as_deref())?;
        let mut value = format!("{}{signature}", self.prefix.text().unwrap_or_default());
        if let Some(list) = &self.list {
            let tag = list.tags.as_ref().and_then(|(_, tags)| tags.first());
            items.push(match tag {
                Some(tag) if **tag == *"*" => tagged("1", &value),
                Some(tag) => tagged(tag, &value),
                None => value,
            });
            value = items.join(list.separator.as_deref().unwrap_or_default());
        }
        if let Some(layout) = &self.layout {
            value = layout
                .replace("{timestamp}", time.as_deref().unwrap_or_default())
                .replace("{signature}", &signature);
        }
        self.put(draft, value)
    }

    /// Headers that the signature covers, but for the time: ids.
    pub(super) fn drawn_headers(&self) -> impl Iterator<Item = &str> {
        let time = match self.timestamp.as_ref().map(|rule| &rule.source) {
            Some(TimestampSource::Header(name)) => Some(&**name),
            _ => None,
        };
        self.signed.iter().filter_map(move |part| match part.value() {
            Some(Value::Header(name)) if time != Some(&**name) => Some(&**name),
            _ => None,
        })
    }

    fn names_headers(&self, tag: &str) -> bool {
        let is_it = |part: &Part| matches!(part.value(), Some(Value::HeaderValues(named)) if **named == *tag);
        self.signed.iter().any(is_it)
    }

    /// Headers and parameters that the signature covers or that must be there.
    fn add_what_is_covered(&self, draft: &mut Draft, now: Timestamp) {
        if let Some(rule) = &self.timestamp
            && let TimestampSource::Header(name) = &rule.source
            && header(draft, name).is_none()
        {
            draft.headers.push((name.to_string(), rule.unit.write(now)));
        }
        for name in self.drawn_headers() {
            if header(draft, name).is_none() {
                let text = if name.contains("timestamp") {
                    "{time}"
                } else {
                    "msg_{id}"
                };
                let id = sample::fill(text, fastrand::u64(..), now);
                draft.headers.push((name.to_owned(), id));
            }
        }
        for (name, value) in &self.require_headers {
            if header(draft, name).is_none() {
                draft.headers.push((name.to_string(), value.to_string()));
            }
        }
        if let Some(parameter) = &self.body_digest {
            add_parameter(draft, parameter, &hex::encode(Sha256::digest(&draft.body)));
        }
    }

    fn make(
        &self,
        signer: &Signer<'_>,
        draft: &Draft,
        group: &Group,
        time: Option<&str>,
    ) -> Result<String, SignError> {
        let fields = Fields::from_pairs(
            draft
                .headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        );
        let request = Request {
            public_url: draft.public_url.as_deref(),
            query: draft.query.as_deref(),
            ..Request::new(&fields, &draft.body)
        };
        if self.needs_url() && request.url().is_none() {
            return Err(SignError::NeedsUrl);
        }
        let messages = self
            .messages(group, time, &request)
            .map_err(|error| SignError::Lacks(error.to_string()))?;
        let message = messages.first().map_or(&[][..], |message| message);
        let bytes = match (signer, self.algorithm) {
            (Signer::Private(pkcs8), algorithm) => {
                private_key::sign(algorithm, pkcs8.expose(), &joined(message, b""))
                    .ok_or(SignError::PrivateKey(algorithm.name()))?
            }
            (Signer::Secret(SchemeKey::Text(text)), Algorithm::Token) => {
                return Ok(String::from_utf8_lossy(text.expose()).into_owned());
            }
            (Signer::Secret(SchemeKey::Text(text)), Algorithm::Basic) => {
                use base64::Engine;
                return Ok(format!("Basic {}", super::encoding::BASE64.encode(text.expose())));
            }
            (Signer::Secret(SchemeKey::Text(text)), _) => {
                Sha256::digest(joined(message, text.expose())).to_vec()
            }
            (Signer::Secret(key), _) => mac(key, &parts(message)).ok_or(SignError::NeedsPrivateKey)?,
        };
        Ok(self.encoding.encode(&bytes))
    }

    /// Puts the signature where it belongs.
    fn put(&self, draft: &mut Draft, value: String) -> Result<(), SignError> {
        match &self.source {
            Source::Headers { names, .. } => {
                let name = names.first().map_or("", |name| name);
                draft.headers.push((name.to_owned(), value));
            }
            Source::Numbered(before, after) => draft.headers.push((format!("{before}1{after}"), value)),
            Source::Place(Place::Header(name)) => draft.headers.push((name.to_string(), value)),
            Source::Place(Place::Query(name)) => add_parameter(draft, name, &value),
            Source::Place(Place::Json(_) | Place::Form(_)) => {
                let place = b"{signature}";
                let at = memchr::memmem::find(&draft.body, place).ok_or(SignError::NoPlace)?;
                draft.body.splice(at..at + place.len(), value.into_bytes());
            }
        }
        Ok(())
    }
}

fn header(draft: &Draft, name: &str) -> Option<String> {
    let found = draft
        .headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.clone())
}

fn add_parameter(draft: &mut Draft, name: &str, value: &str) {
    let added: String = form_urlencoded::Serializer::new(String::new())
        .append_pair(name, value)
        .finish();
    match &mut draft.query {
        Some(query) if !query.is_empty() => {
            query.push('&');
            query.push_str(&added);
        }
        query => *query = Some(added),
    }
}
