//! A scheme made of parts: where the signatures stand, what they cover, and how each is checked.
//!
//! Any listed signature with any live secret may match. Nothing is guessed: what the scheme does not name is not read.

use std::borrow::Cow;

use base64::Engine;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::encoding::{BASE64, Encoding, Prefix, trim};
use super::key::{Algorithm, KeyForm, SchemeKey};
use super::place::{Place, json_text};
use super::request::{Request, form_value};
use super::signature::{LiveKey, SECRETS_MAX, SIGNATURES_MAX, SignatureError, is_live};
use super::template::{Part, Value};
use super::timestamp::{TimestampRule, TimestampSource};
use super::url::UrlForm;
use crate::event::{SecretName, Timestamp};

/// Fields of a form that are sorted; no sender has as many.
const FORM_FIELDS_MAX: usize = 1000;

/// A scheme that the user or a preset puts together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// What makes the signature.
    pub algorithm: Algorithm,
    /// How the secret's text becomes the key.
    pub key: KeyForm,
    /// Where the signature stands.
    pub source: Source,
    /// How it is written.
    pub encoding: Encoding,
    /// What stands before it.
    pub prefix: Prefix,
    /// The form of a value that holds more than one thing.
    pub list: Option<List>,
    /// What is signed.
    pub signed: Vec<Part>,
    /// The signed time.
    pub timestamp: Option<TimestampRule>,
    /// The query parameter that holds the hex SHA-256 of the body, where the signature covers that.
    pub body_digest: Option<Box<str>>,
    /// How `{url}` is written.
    pub url: UrlForm,
    /// Headers, and the value that each must have.
    pub require_headers: Vec<(Box<str>, Box<str>)>,
    /// What must not be there: the signature would not cover it.
    pub absent: Vec<Place>,
    /// The whole value of the header as its sender writes it, where a receiver may count on that.
    pub layout: Option<Box<str>>,
}

/// Where the signature stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In headers.
    Headers {
        /// Their names in lower case.
        names: Vec<Box<str>>,
        /// Each may hold another signature, one for each of the sender's keys; else all must hold the same.
        any: bool,
        /// One may be sent several times, each time with another signature.
        repeated: bool,
    },
    /// In headers numbered from 1 on: what stands before and after the number.
    Numbered(Box<str>, Box<str>),
    /// In the body or the query.
    Place(Place),
}

/// The form of a value that holds several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Stands between items.
    pub separator: Option<Box<str>>,
    /// Stands between whole lists, each with a time and signatures of its own.
    pub groups: Option<Box<str>>,
    /// What stands between an item's tag and its value, and the tags of signatures (`*`: any).
    pub tags: Option<(Box<str>, Vec<Box<str>>)>,
}

/// What one list holds.
#[derive(Default)]
pub(super) struct Group {
    pub(super) signatures: Vec<Vec<u8>>,
    pub(super) tags: Vec<(String, String)>,
    pub(super) first: Option<String>,
}

impl Composed {
    /// Whether the headers can be a request of this scheme: a hopeless one ends before its body is read.
    ///
    /// # Errors
    /// What [`Composed::check`] would find in the headers.
    pub(super) fn claim(&self, request: &Request<'_>) -> Result<(), SignatureError> {
        match self.source {
            Source::Place(Place::Json(_) | Place::Form(_)) => Ok(()),
            _ => self.read(request).map(drop),
        }
    }

    /// Tries every signature with every live key, and names the secret that matched.
    ///
    /// # Errors
    /// Every [`SignatureError`].
    pub(super) fn check<'k>(
        &self,
        keys: &'k [LiveKey],
        now: Timestamp,
        request: &Request<'_>,
    ) -> Result<&'k SecretName, SignatureError> {
        for (name, expected) in &self.require_headers {
            let found = request.header(name).ok_or(SignatureError::OtherVersion)?;
            if !found.eq_ignore_ascii_case(expected.as_bytes()) {
                return Err(SignatureError::OtherVersion);
            }
        }
        if self.absent.iter().any(|place| place.is_there(request)) {
            return Err(SignatureError::NotAccepted);
        }
        // A hash with the secret in front can be lengthened by bytes that are no text.
        if self.algorithm == Algorithm::Sha256 && std::str::from_utf8(request.body).is_err() {
            return Err(SignatureError::Mismatch);
        }
        let groups = self.read(request)?;
        let mut worst = SignatureError::Mismatch;
        let mut matched = None;
        for group in &groups {
            let time = self.time(group, request)?;
            let fresh = match (&self.timestamp, &time) {
                (Some(rule), Some(time)) => rule.accepts(time, now).ok_or(SignatureError::Incomplete)?,
                _ => true,
            };
            let messages = self.messages(group, time.as_deref(), request)?;
            let live = keys.iter().filter(|key| is_live(key, now));
            for key in live.take(SECRETS_MAX) {
                let mut equal = false;
                for message in &messages {
                    equal |= self.matches(&key.key, message, &group.signatures);
                }
                match (equal, fresh) {
                    (true, true) if matched.is_none() => matched = Some(&key.name),
                    (true, false) => worst = SignatureError::Stale,
                    _ => {}
                }
            }
        }
        let secret = matched.ok_or(worst)?;
        if let Some(parameter) = &self.body_digest {
            let digest = request
                .query
                .and_then(|query| form_value(query.as_bytes(), parameter));
            let digest = digest.and_then(|text| hex::decode(text).ok());
            if digest.as_deref() != Some(&Sha256::digest(request.body)[..]) {
                return Err(SignatureError::BodyDigest);
            }
        }
        Ok(secret)
    }

    /// The names of the headers that signatures stand in.
    pub(super) fn headers(&self) -> Vec<Cow<'_, str>> {
        match &self.source {
            Source::Headers { names, .. } => names.iter().map(|name| Cow::Borrowed(&**name)).collect(),
            Source::Numbered(before, after) => vec![Cow::Owned(format!("{before}1{after}"))],
            Source::Place(Place::Header(name)) => vec![Cow::Borrowed(name)],
            Source::Place(_) => Vec::new(),
        }
    }

    /// Whether a signature may stand in this header.
    pub(super) fn reads_header(&self, name: &str) -> bool {
        match &self.source {
            Source::Numbered(before, after) => {
                let name = name.to_ascii_lowercase();
                let number = name
                    .strip_prefix(&**before)
                    .and_then(|rest| rest.strip_suffix(&**after));
                number.is_some_and(|number| number.parse::<u8>().is_ok())
            }
            _ => self
                .headers()
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name)),
        }
    }

    /// Whether a request needs the public URL to be checked.
    pub(super) fn needs_url(&self) -> bool {
        self.signed.iter().any(|part| part.value() == Some(&Value::Url))
    }

    /// Whether the signature covers the whole body.
    pub(super) fn covers_body(&self) -> bool {
        let whole = |value: &Value| matches!(value, Value::Body | Value::FormSorted);
        self.body_digest.is_some() || self.signed.iter().filter_map(Part::value).any(whole)
    }

    /// Whether the signature covers a header.
    pub(super) fn covers_header(&self, name: &str) -> bool {
        let is_it = |value: &Value| matches!(value, Value::Header(covered) if **covered == *name);
        self.signed.iter().filter_map(Part::value).any(is_it)
    }

    fn read(&self, request: &Request<'_>) -> Result<Vec<Group>, SignatureError> {
        let values = self.values(request)?;
        if values.is_empty() {
            return Err(SignatureError::Missing);
        }
        let together = matches!(
            self.source,
            Source::Headers {
                any: false,
                repeated: false,
                ..
            }
        );
        let mut groups = Vec::new();
        for value in &values {
            match self.split(value, &mut groups) {
                // Where each header has a signature of its own, one that cannot be read is one of another kind.
                Err(_) if !together => {}
                split => split?,
            }
        }
        let mut room = SIGNATURES_MAX;
        for group in &mut groups {
            group.signatures.truncate(room);
            room -= group.signatures.len();
        }
        groups.retain(|group| !group.signatures.is_empty());
        if groups.is_empty() {
            return Err(SignatureError::Malformed);
        }
        if let (true, [first, rest @ ..]) = (together && self.list.is_none(), &*groups) {
            // Both were sent by the requester, so there is no secret to protect here.
            if rest.iter().any(|other| other.signatures != first.signatures) {
                return Err(SignatureError::Contradicting);
            }
        }
        Ok(groups)
    }

    /// The values in which signatures stand. A blank one counts as one that was not sent.
    fn values<'r>(&self, request: &'r Request<'_>) -> Result<Vec<Cow<'r, [u8]>>, SignatureError> {
        let mut values = Vec::new();
        match &self.source {
            Source::Headers {
                names,
                repeated: true,
                ..
            } => {
                let is_it = |key: &[u8]| names.iter().any(|name| key.eq_ignore_ascii_case(name.as_bytes()));
                let all = request.headers.iter().filter(|(key, _)| is_it(key));
                let sent = all
                    .map(|(_, value)| trim(value))
                    .filter(|value| !value.is_empty());
                values.extend(sent.take(SIGNATURES_MAX).map(Cow::Borrowed));
            }
            Source::Headers { names, .. } => {
                for name in names {
                    values.extend(one(request, name)?.map(Cow::Borrowed));
                }
            }
            Source::Numbered(before, after) => {
                for number in 1..=SIGNATURES_MAX {
                    match one(request, &format!("{before}{number}{after}"))? {
                        Some(value) => values.push(Cow::Borrowed(value)),
                        None => break,
                    }
                }
            }
            Source::Place(place) => {
                let text = place.read(request).filter(|text| !text.is_empty());
                values.extend(text.map(|text| Cow::Owned(text.into_bytes())));
            }
        }
        Ok(values)
    }

    fn split(&self, value: &[u8], groups: &mut Vec<Group>) -> Result<(), SignatureError> {
        let Some(list) = &self.list else {
            let signature = self.decode(value).ok_or(SignatureError::Malformed)?;
            groups.push(Group {
                signatures: vec![signature],
                ..Group::default()
            });
            return Ok(());
        };
        let text = std::str::from_utf8(value).map_err(|_| SignatureError::Malformed)?;
        for list_text in pieces(text, list.groups.as_deref()) {
            groups.push(self.group(list, list_text));
        }
        Ok(())
    }

    /// Reads one list. What has another tag or does not decode is skipped: a sender may list what came before or comes next.
    fn group(&self, list: &List, text: &str) -> Group {
        let first_is_time = matches!(&self.timestamp, Some(rule) if rule.source == TimestampSource::First);
        let mut group = Group::default();
        for (at, item) in pieces(text, list.separator.as_deref()).map(str::trim).enumerate() {
            if at == 0 && first_is_time {
                group.first = Some(item.to_owned());
                continue;
            }
            let Some((separator, signature_tags)) = &list.tags else {
                group.signatures.extend(self.decode(item.as_bytes()));
                continue;
            };
            // Base64 ends in the `=` that separates tags elsewhere: only the first counts.
            let Some((tag, value)) = item.split_once(&**separator) else {
                continue;
            };
            if signature_tags
                .iter()
                .any(|known| **known == *tag || &**known == "*")
            {
                group.signatures.extend(self.decode(value.as_bytes()));
            } else {
                group.tags.push((tag.to_owned(), value.to_owned()));
            }
        }
        group
    }

    fn decode(&self, value: &[u8]) -> Option<Vec<u8>> {
        let value = self.prefix.strip(value)?;
        let length = match self.algorithm {
            // Blanks between the scheme's name and the credential do not count (RFC 9110, 11.4).
            Algorithm::Token => return (!value.is_empty()).then(|| trim(value).to_vec()),
            Algorithm::Basic => return BASE64.decode(trim(strip_basic(value)?)).ok(),
            Algorithm::HmacSha256 | Algorithm::Sha256 => Some(32),
            Algorithm::HmacSha1 => Some(20),
            Algorithm::HmacSha512 | Algorithm::Ed25519 => Some(64),
            Algorithm::EcdsaP256 | Algorithm::RsaSha256 | Algorithm::RsaSha512 => None,
        };
        let bytes = self.encoding.decode_any(value)?;
        length.is_none_or(|length| length == bytes.len()).then_some(bytes)
    }

    /// The signed time as it was sent.
    fn time(&self, group: &Group, request: &Request<'_>) -> Result<Option<String>, SignatureError> {
        let Some(rule) = &self.timestamp else {
            return Ok(None);
        };
        let text = match &rule.source {
            TimestampSource::Header(name) => request
                .header(name)
                .and_then(|value| std::str::from_utf8(value).ok().map(str::to_owned)),
            TimestampSource::Tag(tag) => group.tag(tag).map(str::to_owned),
            TimestampSource::First => group.first.clone(),
            TimestampSource::Json(tokens) => json_text(request.body, tokens),
        };
        text.map(Some).ok_or(SignatureError::Incomplete)
    }

    /// What may have been signed: one text, or one for each way to write the URL.
    pub(super) fn messages<'r>(
        &self,
        group: &Group,
        time: Option<&str>,
        request: &'r Request<'_>,
    ) -> Result<Vec<Vec<Segment<'r>>>, SignatureError> {
        let urls = match self.needs_url() {
            true => self.url.write(&request.url().ok_or(SignatureError::Incomplete)?),
            false => vec![String::new()],
        };
        // A signature cannot cover itself.
        let own_field = match &self.source {
            Source::Place(Place::Form(name)) => Some(&**name),
            _ => None,
        };
        let of =
            |part, url| segment(part, group, time, url, own_field, request).ok_or(SignatureError::Incomplete);
        urls.iter()
            .map(|url| self.signed.iter().map(|part| of(part, url)).collect())
            .collect()
    }

    fn matches(&self, key: &SchemeKey, message: &[Segment<'_>], signatures: &[Vec<u8>]) -> bool {
        let tag = match (self.algorithm, key) {
            (_, SchemeKey::Public(key)) => {
                let Some(scheme) = self.algorithm.public_scheme() else {
                    return false;
                };
                let message = joined(message, b"");
                return signatures
                    .iter()
                    .any(|signature| key.verify(scheme, &message, signature).is_ok());
            }
            // Their digests are compared, which have one length.
            (Algorithm::Token | Algorithm::Basic, SchemeKey::Text(text)) => {
                let expected = Sha256::digest(text.expose());
                let mut equal = subtle::Choice::from(0);
                for sent in signatures {
                    equal |= expected.ct_eq(&Sha256::digest(sent));
                }
                return equal.into();
            }
            (Algorithm::Sha256, SchemeKey::Text(text)) => {
                Sha256::digest(joined(message, text.expose())).to_vec()
            }
            _ => match mac(key, &parts(message)) {
                Some(tag) => tag,
                None => return false,
            },
        };
        let mut equal = subtle::Choice::from(0);
        for signature in signatures {
            equal |= tag.ct_eq(signature);
        }
        equal.into()
    }
}

/// A part of a message. The secret is put in only where it is hashed.
pub(super) enum Segment<'r> {
    Bytes(Cow<'r, [u8]>),
    Secret,
}

pub(super) fn parts<'s>(message: &'s [Segment<'_>]) -> Vec<&'s [u8]> {
    let bytes = message.iter().map(|segment| match segment {
        Segment::Bytes(bytes) => &**bytes,
        Segment::Secret => &[],
    });
    bytes.collect()
}

pub(super) fn joined(message: &[Segment<'_>], secret: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    let mut all = zeroize::Zeroizing::new(Vec::new());
    for segment in message {
        match segment {
            Segment::Bytes(bytes) => all.extend_from_slice(bytes),
            Segment::Secret => all.extend_from_slice(secret),
        }
    }
    all
}

/// The tag of `parts` joined, under a key of an HMAC.
pub(super) fn mac(key: &SchemeKey, parts: &[&[u8]]) -> Option<Vec<u8>> {
    match key {
        SchemeKey::Hmac(key) => Some(key.tag(parts).to_vec()),
        SchemeKey::HmacSha1(key) => Some(key.tag(parts)),
        SchemeKey::HmacSha512(key) => Some(key.tag(parts)),
        _ => None,
    }
}

fn segment<'r>(
    part: &Part,
    group: &Group,
    time: Option<&str>,
    url: &str,
    own_field: Option<&str>,
    request: &'r Request<'_>,
) -> Option<Segment<'r>> {
    let value = match part {
        Part::Text(text) => return Some(Segment::Bytes(Cow::Owned(text.as_bytes().to_vec()))),
        Part::Value(value) | Part::JsonString(value) | Part::Base64(value) => value,
    };
    let text = |text: &str| Cow::Owned(text.as_bytes().to_vec());
    let bytes: Cow<'r, [u8]> = match value {
        Value::Secret => return Some(Segment::Secret),
        Value::Body => Cow::Borrowed(request.body),
        Value::Timestamp => text(time?),
        Value::Method => text(request.method),
        Value::Url => text(url),
        Value::FormSorted => Cow::Owned(form_sorted(request.body, own_field)?),
        Value::Header(name) => Cow::Owned(request.header(name)?.to_vec()),
        // Adyen signs nothing for what is not there.
        Value::Json(tokens) => text(&json_text(request.body, tokens).unwrap_or_default()),
        Value::Tag(tag) => text(group.tag(tag)?),
        Value::HeaderValues(tag) => {
            let mut values = Vec::new();
            for name in group.tag(tag)?.split_ascii_whitespace() {
                values.push(request.header(&name.to_ascii_lowercase())?.to_vec());
            }
            Cow::Owned(values.join(&b'.'))
        }
    };
    Some(Segment::Bytes(match part {
        Part::JsonString(_) => Cow::Owned(serde_json::to_vec(std::str::from_utf8(&bytes).ok()?).ok()?),
        Part::Base64(_) => Cow::Owned(BASE64.encode(bytes).into_bytes()),
        _ => bytes,
    }))
}

/// Names and values of a form, sorted by name and then by value, a pair that stands twice only once (Twilio).
///
/// The whole body is read as a form whatever it says of itself: what is not read would not be signed. The field that holds the
/// signature is left out.
fn form_sorted(body: &[u8], own_field: Option<&str>) -> Option<Vec<u8>> {
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        form_urlencoded::parse(body).take(FORM_FIELDS_MAX + 1).collect();
    if pairs.len() > FORM_FIELDS_MAX {
        return None;
    }
    pairs.retain(|(name, _)| own_field != Some(&**name));
    pairs.sort();
    pairs.dedup();
    let mut text = Vec::with_capacity(body.len());
    for (name, value) in pairs {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value.as_bytes());
    }
    Some(text)
}

fn pieces<'t>(text: &'t str, separator: Option<&'t str>) -> Box<dyn Iterator<Item = &'t str> + 't> {
    match separator {
        Some(separator) => Box::new(text.split(separator).filter(|piece| !piece.is_empty())),
        None => Box::new(std::iter::once(text)),
    }
}

fn one<'r>(request: &Request<'r>, name: &str) -> Result<Option<&'r [u8]>, SignatureError> {
    let headers = request.headers;
    let mut found = None;
    for (_, value) in headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
    {
        if found.is_some() {
            return Err(SignatureError::Repeated);
        }
        found = Some(trim(value));
    }
    Ok(found.filter(|value| !value.is_empty()))
}

fn strip_basic(value: &[u8]) -> Option<&[u8]> {
    super::encoding::strip(value, "basic ")
}

impl Group {
    /// What stands under a tag, once.
    fn tag(&self, name: &str) -> Option<&str> {
        let mut values = self.tags.iter().filter(|(tag, _)| tag == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}
