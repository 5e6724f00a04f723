//! What a provider asks before it sends events, or between them, and the answer that it wants.
//!
//! A handshake that signs what anybody may send would sign forged events too. So one that signs, and is not itself signed, signs
//! only a token of a form in which no event comes, and a body of that form is never taken for an event.

use serde::Deserialize;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

use super::composed::mac;
use super::encoding::Encoding;
use super::key::{Algorithm, SchemeKey};
use super::place::Place;
use super::request::Request;
use super::scheme_text::{SchemeError, wrong};
use super::template::{self, Piece};
use crate::secret::SecretText;

/// Longest text that is echoed where nothing else is said, in bytes.
const ECHO_BYTES_MAX: usize = 1024;
/// Longest token where nothing else is said, in bytes.
const TOKEN_BYTES_MAX: usize = 128;

/// A handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Its name, for logs and metrics.
    pub name: Box<str>,
    /// The method, in upper case.
    pub method: Box<str>,
    /// What must be there, and what it must say; `None`: any request of the method.
    pub when: Option<(Place, Option<Box<str>>)>,
    /// Only a request with a good signature.
    pub signed: bool,
    /// Where the route's verify token must stand.
    pub verify_token: Option<Place>,
    /// The form of what is signed or echoed.
    pub token: Option<TokenRule>,
    /// The answer's status.
    pub status: u16,
    /// Its content type.
    pub content_type: Box<str>,
    /// Its other headers.
    pub headers: Vec<(Box<str>, Template)>,
    /// Its body.
    pub body: Template,
    /// The secret comes here; answered only while an operator waits for it.
    pub capture: Option<Place>,
}

/// The form of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRule {
    from: Place,
    form: TokenForm,
    bytes_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenForm {
    Base64,
    Word,
    Uuid,
}

/// Text with places in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(Vec<Filling>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filling {
    Text(Box<str>),
    Place(Place),
    Mac(Algorithm, Encoding, Place),
}

/// What a handshake is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers, the content type among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a handshake gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The route has no verify token, or another one.
    #[error(
        "the handshake's verify token is not the route's: set verify_token of the route to what the provider was given"
    )]
    VerifyToken,
    /// What is to be echoed or signed is missing, or not of the form that this provider sends.
    #[error("the handshake's token is missing or not of the form that this provider sends")]
    Token,
    /// Nobody waits for the secret.
    #[error("the handshake brings a secret, and no operator waits for one: hooklatch secrets capture")]
    NotAwaited,
    /// The key cannot make what is asked for.
    #[error("no secret of this route can answer the handshake")]
    Key,
}

/// `[[handshake]]` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HandshakeText {
    name: String,
    method: Option<String>,
    when: Option<WhenText>,
    #[serde(default)]
    signed: bool,
    verify_token: Option<String>,
    token: Option<TokenText>,
    status: Option<u16>,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    capture: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhenText {
    query: Option<String>,
    header: Option<String>,
    json: Option<String>,
    form: Option<String>,
    equals: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenText {
    from: String,
    form: String,
    max: Option<usize>,
}

impl HandshakeText {
    pub(super) fn build(self) -> Result<Handshake, SchemeError> {
        let method = self.method.unwrap_or_else(|| "POST".to_owned());
        if !["GET", "HEAD", "OPTIONS", "POST"].contains(&&*method) {
            return wrong(
                "method",
                format!("is {method:?}; write GET, HEAD, OPTIONS or POST"),
            );
        }
        let when = self.when.map(WhenText::build).transpose()?;
        if when.is_none() && method == "POST" {
            return wrong(
                "when",
                "is missing: every event would be taken for this handshake",
            );
        }
        let status = self.status.unwrap_or(200);
        if !(200..300).contains(&status) {
            return wrong(
                "status",
                format!("is {status}; a handshake is answered with 200 to 299"),
            );
        }
        let body = Template::parse("body", &self.body)?;
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| {
                Ok((
                    name.to_ascii_lowercase().into(),
                    Template::parse("headers", value)?,
                ))
            })
            .collect::<Result<Vec<_>, SchemeError>>()?;
        let token = self.token.map(TokenText::build).transpose()?;
        for place in body.signs() {
            if token.as_ref().is_none_or(|token| token.from != *place) {
                return wrong(
                    "token",
                    "is missing: what is signed for anybody must have a form in which no event comes",
                );
            }
        }
        let place = |key, text: Option<String>| text.map(|text| parse_place(key, &text)).transpose();
        Ok(Handshake {
            name: self.name.into(),
            method: method.into(),
            when,
            signed: self.signed,
            verify_token: place("verify_token", self.verify_token)?,
            token,
            status,
            content_type: self
                .content_type
                .unwrap_or_else(|| "text/plain".to_owned())
                .into(),
            headers,
            body,
            capture: place("capture", self.capture)?,
        })
    }
}

impl WhenText {
    fn build(self) -> Result<(Place, Option<Box<str>>), SchemeError> {
        let written = [
            self.query.map(|name| format!("query:{name}")),
            self.header.map(|name| format!("header:{name}")),
            self.json,
            self.form.map(|name| format!("form:{name}")),
        ];
        let mut written = written.into_iter().flatten();
        match (written.next(), written.next()) {
            (Some(text), None) => Ok((parse_place("when", &text)?, self.equals.map(Into::into))),
            _ => wrong("when", "needs one of query, header, json and form"),
        }
    }
}

impl TokenText {
    fn build(self) -> Result<TokenRule, SchemeError> {
        let form = match &*self.form {
            "base64" => TokenForm::Base64,
            "word" => TokenForm::Word,
            "uuid" => TokenForm::Uuid,
            other => {
                return wrong(
                    "token",
                    format!("has the form {other:?}; write base64, word or uuid"),
                );
            }
        };
        Ok(TokenRule {
            from: parse_place("token", &self.from)?,
            form,
            bytes_max: self.max.unwrap_or(TOKEN_BYTES_MAX).min(ECHO_BYTES_MAX),
        })
    }
}

fn parse_place(key: &'static str, text: &str) -> Result<Place, SchemeError> {
    match Place::parse(text) {
        Some(place) => Ok(place),
        None => wrong(
            key,
            format!("has {text:?}; write a place like \"query:challenge\" or \"/challenge\""),
        ),
    }
}

impl TokenRule {
    fn fits(&self, text: &str) -> bool {
        let all = |allowed: fn(u8) -> bool| text.bytes().all(allowed);
        let formed = match self.form {
            TokenForm::Base64 => all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte)),
            TokenForm::Word => all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            TokenForm::Uuid => {
                text.len() == 36
                    && text.bytes().enumerate().all(|(at, byte)| match at {
                        8 | 13 | 18 | 23 => byte == b'-',
                        _ => byte.is_ascii_hexdigit(),
                    })
            }
        };
        formed && (1..=self.bytes_max).contains(&text.len())
    }
}

impl Handshake {
    /// Whether `request` is this handshake.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        if *self.method != *request.method {
            return false;
        }
        match &self.when {
            None => true,
            Some((place, None)) => place.read(request).is_some(),
            Some((place, Some(expected))) => place.read(request).as_deref() == Some(expected),
        }
    }

    /// Whether it can be told from the head alone.
    pub fn is_bodyless(&self) -> bool {
        *self.method != *"POST"
    }

    /// Whether a body may have got its signature from this handshake, so that it is never an event.
    pub fn may_have_signed(&self, body: &[u8]) -> bool {
        let signs = !self.signed && self.body.signs().next().is_some();
        let text = std::str::from_utf8(body).ok();
        signs && matches!((&self.token, text), (Some(token), Some(text)) if token.fits(text))
    }

    /// The answer. `secrets` are the route's live ones with the form of their keys, the newest first.
    ///
    /// # Errors
    /// When the token is not the route's, or not of this provider's form.
    pub fn answer(
        &self,
        request: &Request<'_>,
        verify_token: Option<&SecretText>,
        secrets: &[SchemeKey],
    ) -> Result<Reply, HandshakeError> {
        if let Some(place) = &self.verify_token {
            let sent = place.read(request).unwrap_or_default();
            let equal = verify_token.is_some_and(|token| token.expose().ct_eq(sent.as_bytes()).into());
            if !equal {
                return Err(HandshakeError::VerifyToken);
            }
        }
        if let Some(rule) = &self.token {
            let token = rule.from.read(request).ok_or(HandshakeError::Token)?;
            if !rule.fits(&token) {
                return Err(HandshakeError::Token);
            }
        }
        let as_json = self.content_type.contains("json");
        let mut headers = vec![
            ("content-type".to_owned(), self.content_type.to_string()),
            // What is echoed is never a page.
            ("x-content-type-options".to_owned(), "nosniff".to_owned()),
        ];
        for (name, value) in &self.headers {
            if **name == *"x-content-type-options" {
                continue;
            }
            let value = value.fill(request, secrets, false)?;
            if http::HeaderValue::from_str(&value).is_err() {
                return Err(HandshakeError::Token);
            }
            headers.push((name.to_string(), value));
        }
        Ok(Reply {
            status: self.status,
            headers,
            body: self.body.fill(request, secrets, as_json)?.into_bytes(),
        })
    }

    /// The secret that it brings.
    pub fn captured(&self, request: &Request<'_>) -> Option<SecretText> {
        let text = self.capture.as_ref()?.read(request)?;
        (1..=ECHO_BYTES_MAX)
            .contains(&text.len())
            .then(|| SecretText::new(text.into_bytes()))
    }
}

impl Template {
    fn parse(key: &'static str, text: &str) -> Result<Self, SchemeError> {
        let pieces = template::pieces(text).or_else(|error| wrong(key, error.to_string()))?;
        let fillings = pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => Ok(Filling::Text(text.into())),
            Piece::Placeholder(name) => Self::placeholder(key, name),
        });
        fillings.collect::<Result<_, _>>().map(Self)
    }

    fn placeholder(key: &'static str, name: &str) -> Result<Filling, SchemeError> {
        const MACS: [(&str, Algorithm, Encoding); 6] = [
            ("hmac-sha256-hex:", Algorithm::HmacSha256, Encoding::Hex),
            ("hmac-sha256-base64:", Algorithm::HmacSha256, Encoding::Base64),
            ("hmac-sha1-hex:", Algorithm::HmacSha1, Encoding::Hex),
            ("hmac-sha1-base64:", Algorithm::HmacSha1, Encoding::Base64),
            ("hmac-sha512-hex:", Algorithm::HmacSha512, Encoding::Hex),
            ("hmac-sha512-base64:", Algorithm::HmacSha512, Encoding::Base64),
        ];
        for (start, algorithm, encoding) in MACS {
            if let Some(place) = name.strip_prefix(start) {
                return Ok(Filling::Mac(algorithm, encoding, parse_place(key, place)?));
            }
        }
        Ok(Filling::Place(parse_place(key, name)?))
    }

    /// What it signs.
    fn signs(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().filter_map(|filling| match filling {
            Filling::Mac(_, _, place) => Some(place),
            _ => None,
        })
    }

    fn fill(
        &self,
        request: &Request<'_>,
        secrets: &[SchemeKey],
        as_json: bool,
    ) -> Result<String, HandshakeError> {
        let mut text = String::new();
        for filling in &self.0 {
            let value = match filling {
                Filling::Text(fixed) => {
                    text.push_str(fixed);
                    continue;
                }
                Filling::Place(place) => place.read(request).ok_or(HandshakeError::Token)?,
                Filling::Mac(algorithm, encoding, place) => {
                    let signed = place.read(request).ok_or(HandshakeError::Token)?;
                    let mut keys = secrets.iter().filter(|key| is_of(*algorithm, key));
                    let tag = keys.find_map(|key| mac(key, &[signed.as_bytes()]));
                    encoding.encode(&tag.ok_or(HandshakeError::Key)?)
                }
            };
            if value.len() > ECHO_BYTES_MAX {
                return Err(HandshakeError::Token);
            }
            match as_json {
                true => {
                    let quoted = serde_json::to_string(&value).map_err(|_| HandshakeError::Token)?;
                    text.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
                }
                false => text.push_str(&value),
            }
        }
        Ok(text)
    }
}

fn is_of(algorithm: Algorithm, key: &SchemeKey) -> bool {
    matches!(
        (algorithm, key),
        (Algorithm::HmacSha256, SchemeKey::Hmac(_))
            | (Algorithm::HmacSha1, SchemeKey::HmacSha1(_))
            | (Algorithm::HmacSha512, SchemeKey::HmacSha512(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn build(text: &str) -> Result<Handshake, SchemeError> {
        toml::from_str::<HandshakeText>(&format!("name = \"h\"\n{text}"))
            .unwrap()
            .build()
    }

    #[test]
    fn what_is_unsafe_or_has_no_meaning_is_refused() {
        for (text, key) in [
            ("", "when"),
            ("method = \"PUT\"", "method"),
            ("method = \"GET\"\nstatus = 404", "status"),
            ("method = \"GET\"\nbody = \"{query}\"", "body"),
            ("method = \"GET\"\nbody = \"{query:a\"", "body"),
            ("when = { query = \"a\", header = \"b\" }", "when"),
            ("when = { json = \"a\" }", "when"),
            // It would sign whatever anybody sends.
            ("method = \"GET\"\nbody = \"{hmac-sha256-hex:query:a}\"", "token"),
            (
                "method = \"GET\"\ntoken = { from = \"query:b\", form = \"word\" }\nbody = \"{hmac-sha256-hex:query:a}\"",
                "token",
            ),
            (
                "method = \"GET\"\ntoken = { from = \"query:a\", form = \"any\" }",
                "token",
            ),
        ] {
            assert_eq!(build(text).unwrap_err().key, key, "{text}");
        }
    }

    #[test]
    fn what_is_echoed_cannot_leave_its_place() {
        let handshake = build(
            "method = \"GET\"\nwhen = { query = \"a\" }\ncontent_type = \"application/json\"\nbody = '{{\"a\":\"{query:a}\"}}'\n\
             headers = { x-a = \"{query:a}\" }",
        )
        .unwrap();
        let fields = Fields::default();
        let answer = |query: &str| {
            let request = Request {
                method: "GET",
                query: Some(query),
                ..Request::new(&fields, b"")
            };
            assert!(handshake.matches(&request));
            handshake.answer(&request, None, &[])
        };
        let reply = answer("a=x%22%2C%22b%22%3A%22").unwrap();
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body, serde_json::json!({ "a": "x\",\"b\":\"" }));
        assert_eq!(
            answer("a=x%0D%0Ax-b%3A1"),
            Err(HandshakeError::Token),
            "another header"
        );
        assert_eq!(
            answer(&format!("a={}", "x".repeat(1025))),
            Err(HandshakeError::Token)
        );
    }

    #[test]
    fn tokens_have_their_form() {
        for (form, good, bad) in [
            ("base64", "aB+/=-_0", "a b"),
            ("word", "aB-_.0", "a+b"),
            (
                "uuid",
                "890e4665-4dfe-4ab1-b689-ed553bceeed0",
                "890e4665-4dfe-4ab1-b689-ed553bceeedg",
            ),
        ] {
            let handshake = build(&format!(
                "method = \"GET\"\ntoken = {{ from = \"query:a\", form = \"{form}\" }}\nbody = \"{{hmac-sha1-hex:query:a}}\""
            ))
            .unwrap();
            assert!(handshake.may_have_signed(good.as_bytes()), "{form}");
            for body in [bad, "", "{}", "\"a\"", "[1]", "a=b&c"] {
                assert!(!handshake.may_have_signed(body.as_bytes()), "{form}: {body}");
            }
        }
    }
}
