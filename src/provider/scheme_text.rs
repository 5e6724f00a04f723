//! A scheme as it is written, in a preset's `[[scheme]]` or a route's `verify`, and the [`Scheme`] that it means.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::coded::Coded;
use super::composed::{Composed, List, Source};
use super::encoding::{Encoding, Prefix};
use super::key::{Algorithm, KeyForm};
use super::place::{Place, pointer};
use super::scheme::{Rule, Scheme};
use super::scheme_fit::{fits_together, plain};
use super::template::{self, Part, Value};
use super::timestamp::{TOLERANCE, TimeUnit, TimestampRule, TimestampSource};
use super::url::UrlForm;

/// Header names of one scheme.
pub const HEADERS_MAX: usize = 4;
/// Longest tolerance: what is older is as good as not timed.
const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A scheme as it is written; see `config/providers/README.md`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is described in config/providers/README.md")]
pub struct SchemeText {
    pub name: Option<String>,
    pub algorithm: Option<String>,
    pub key: Option<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub header: Vec<String>,
    pub any_header: bool,
    pub repeated_header: bool,
    pub header_numbered: Option<String>,
    pub in_json: Option<String>,
    pub in_form: Option<String>,
    pub in_query: Option<String>,
    pub encoding: Option<String>,
    pub prefix: Option<String>,
    pub prefix_optional: bool,
    pub list: Option<String>,
    pub groups: Option<String>,
    pub tag_separator: Option<String>,
    pub tags: Vec<String>,
    pub signed: Option<String>,
    pub timestamp: Option<TimestampText>,
    pub body_digest: Option<BodyDigestText>,
    pub url: Option<String>,
    pub require_headers: BTreeMap<String, String>,
    #[serde(deserialize_with = "one_or_more")]
    pub absent: Vec<String>,
    pub layout: Option<String>,
    pub jws: Option<JwsText>,
}

/// The table `timestamp`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is described in config/providers/README.md")]
pub struct TimestampText {
    pub header: Option<String>,
    pub tag: Option<String>,
    pub json: Option<String>,
    pub first: bool,
    pub unit: Option<String>,
    pub tolerance: Option<String>,
    pub enforce: Option<bool>,
}

/// The table `body_digest`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is described in config/providers/README.md")]
pub struct BodyDigestText {
    pub query: Option<String>,
    pub encoding: Option<String>,
}

/// The table `jws`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each key is described in config/providers/README.md")]
pub struct JwsText {
    pub jwks: Option<String>,
    pub algorithms: Vec<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub issuer: Vec<String>,
    pub audience: Option<String>,
    pub max_age: Option<String>,
    pub body_claim: Option<String>,
    pub body_claim_encoding: Option<String>,
    pub url_claim: Option<String>,
    pub detached: bool,
    pub required_claims: BTreeMap<String, String>,
    pub secret_claims: Vec<String>,
}

/// A header's name and the value that it must have.
type Pair = (Box<str>, Box<str>);

/// What is wrong with a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {text}")]
pub struct SchemeError {
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong with it, and what to write.
    pub text: String,
}

pub(super) fn wrong<T>(key: &'static str, text: impl Into<String>) -> Result<T, SchemeError> {
    let text = text.into();
    Err(SchemeError { key, text })
}

/// Every name of an algorithm.
pub const ALGORITHMS: [&str; 16] = [
    "hmac-sha256",
    "hmac-sha1",
    "hmac-sha512",
    "sha256",
    "ed25519",
    "ecdsa-p256",
    "rsa-sha256",
    "rsa-sha512",
    "token",
    "basic",
    "jws",
    "aws-sns",
    "paypal",
    "plivo-v3",
    "contentful",
    "braintree",
];
/// Every name of a key form.
pub const KEY_FORMS: [&str; 10] = [
    "utf8",
    "hex",
    "base64",
    "whsec",
    "raw-hex",
    "raw-base64",
    "whpk",
    "pem",
    "spki-base64",
    "jwks",
];
/// Every name of an encoding.
pub const ENCODINGS: [&str; 4] = ["hex", "base64", "base64url", "hex-or-base64"];
/// Every name of a way to write the URL.
pub const URL_FORMS: [&str; 3] = ["as-is", "decoded", "twilio"];
/// Every name of a unit of time.
pub const TIME_UNITS: [&str; 3] = ["s", "ms", "iso8601"];

impl SchemeText {
    /// The scheme that this means.
    ///
    /// # Errors
    /// When a key has no meaning, or none together with another.
    pub fn build(&self) -> Result<Scheme, SchemeError> {
        let name = self.name.as_deref().unwrap_or("main").into();
        if let Some(coded) = Coded::build(self)? {
            let rule = Rule::Coded(Box::new(coded));
            return Ok(Scheme { name, rule });
        }
        let algorithm = self.algorithm()?;
        if self.jws.is_some() {
            return wrong("jws", "is written without `algorithm = \"jws\"`");
        }
        let rule = Composed {
            algorithm,
            key: self.key(algorithm)?,
            source: self.source()?,
            encoding: self.encoding(algorithm)?,
            prefix: self.prefix()?,
            list: self.list()?,
            signed: self.signed(algorithm)?,
            timestamp: self.timestamp()?,
            body_digest: self.body_digest()?,
            url: self.url()?,
            require_headers: self.require_headers()?,
            absent: self.absent()?,
            layout: self.layout()?,
        };
        fits_together(&rule)?;
        let rule = match plain(&rule) {
            Some(plain) => Rule::BodyHmac(plain),
            None => Rule::Composed(Box::new(rule)),
        };
        Ok(Scheme { name, rule })
    }

    fn algorithm(&self) -> Result<Algorithm, SchemeError> {
        Ok(match self.algorithm.as_deref().unwrap_or("hmac-sha256") {
            "hmac-sha256" => Algorithm::HmacSha256,
            "hmac-sha1" => Algorithm::HmacSha1,
            "hmac-sha512" => Algorithm::HmacSha512,
            "sha256" => Algorithm::Sha256,
            "ed25519" => Algorithm::Ed25519,
            "ecdsa-p256" => Algorithm::EcdsaP256,
            "rsa-sha256" => Algorithm::RsaSha256,
            "rsa-sha512" => Algorithm::RsaSha512,
            "token" => Algorithm::Token,
            "basic" => Algorithm::Basic,
            other => return unknown("algorithm", other, &ALGORITHMS),
        })
    }

    fn key(&self, algorithm: Algorithm) -> Result<KeyForm, SchemeError> {
        let form = match self.key.as_deref() {
            None if !algorithm.is_public() => KeyForm::Utf8,
            None => KeyForm::Pem,
            Some("utf8") => KeyForm::Utf8,
            Some("hex") => KeyForm::Hex,
            Some("base64") => KeyForm::Base64,
            Some("whsec") => KeyForm::Whsec,
            Some("raw-hex") => KeyForm::RawHex,
            Some("raw-base64") => KeyForm::RawBase64,
            Some("whpk") => KeyForm::Whpk,
            Some("pem") => KeyForm::Pem,
            Some("spki-base64") => KeyForm::SpkiBase64,
            Some(other) => return unknown("key", other, &KEY_FORMS),
        };
        use KeyForm::{Base64, Hex, Pem, RawBase64, RawHex, SpkiBase64, Utf8, Whpk, Whsec};
        let allowed: &[KeyForm] = match algorithm {
            Algorithm::HmacSha256 | Algorithm::HmacSha1 | Algorithm::HmacSha512 => {
                &[Utf8, Hex, Base64, Whsec]
            }
            Algorithm::Sha256 | Algorithm::Token | Algorithm::Basic => &[Utf8],
            Algorithm::Ed25519 => &[RawHex, RawBase64, Whpk, Pem, SpkiBase64],
            Algorithm::EcdsaP256 | Algorithm::RsaSha256 | Algorithm::RsaSha512 => &[Pem, SpkiBase64],
        };
        if !allowed.contains(&form) {
            let names: Vec<&str> = allowed.iter().map(|form| form.name()).collect();
            let text = format!("of {} is one of {}", algorithm.name(), names.join(", "));
            return wrong("key", text);
        }
        Ok(form)
    }

    pub(super) fn source(&self) -> Result<Source, SchemeError> {
        let written = [
            !self.header.is_empty(),
            self.header_numbered.is_some(),
            self.in_json.is_some(),
            self.in_form.is_some(),
            self.in_query.is_some(),
        ];
        match written.iter().filter(|written| **written).count() {
            1 => {}
            0 => return wrong("header", "is missing: name the header that carries the signature"),
            _ => {
                let text = "is one of several places of the signature; keep one of header, header_numbered, in_json, in_form, \
                            in_query";
                return wrong("header", text);
            }
        }
        if self.repeated_header && self.header.is_empty() {
            return wrong("repeated_header", "has no meaning without `header`");
        }
        if self.any_header && self.header.len() < 2 {
            return wrong("any_header", "has no meaning with less than two headers");
        }
        if let Some(at) = &self.in_json {
            let Some(tokens) = pointer(at) else {
                return wrong(
                    "in_json",
                    format!("is {at:?}; write a JSON pointer like \"/data/signature\""),
                );
            };
            return Ok(Source::Place(Place::Json(tokens)));
        }
        let named = |name: &str, key| match name.is_empty() {
            true => wrong(key, "is empty"),
            false => Ok(name.into()),
        };
        if let Some(name) = &self.in_form {
            return Ok(Source::Place(Place::Form(named(name, "in_form")?)));
        }
        if let Some(name) = &self.in_query {
            return Ok(Source::Place(Place::Query(named(name, "in_query")?)));
        }
        if let Some(pattern) = &self.header_numbered {
            let Some((before, after)) = pattern.split_once("{n}") else {
                return wrong("header_numbered", "lacks {n}, as in \"x-signature-{n}\"");
            };
            header_name("header_numbered", &format!("{before}1{after}"))?;
            return Ok(Source::Numbered(
                before.to_ascii_lowercase().into(),
                after.to_ascii_lowercase().into(),
            ));
        }
        if self.header.len() > HEADERS_MAX {
            return wrong("header", format!("takes 1 to {HEADERS_MAX} names"));
        }
        let mut names: Vec<Box<str>> = Vec::new();
        for name in &self.header {
            let name = header_name("header", name)?;
            if names.contains(&name) {
                return wrong("header", format!("lists {name:?} twice"));
            }
            names.push(name);
        }
        Ok(Source::Headers {
            names,
            any: self.any_header,
            repeated: self.repeated_header,
        })
    }

    fn encoding(&self, algorithm: Algorithm) -> Result<Encoding, SchemeError> {
        let Some(written) = self.encoding.as_deref() else {
            return Ok(Encoding::Hex);
        };
        if algorithm.sends_secret() {
            return wrong("encoding", format!("has no meaning for {}", algorithm.name()));
        }
        match written {
            "hex" => Ok(Encoding::Hex),
            "base64" => Ok(Encoding::Base64),
            "base64url" => Ok(Encoding::Base64Url),
            // The underscores are of an earlier version.
            "hex-or-base64" | "hex_or_base64" if algorithm == Algorithm::HmacSha256 => {
                Ok(Encoding::HexOrBase64)
            }
            "hex-or-base64" | "hex_or_base64" => {
                wrong("encoding", "\"hex-or-base64\" is for hmac-sha256 only")
            }
            other => unknown("encoding", other, &ENCODINGS),
        }
    }

    fn prefix(&self) -> Result<Prefix, SchemeError> {
        match (self.prefix.as_deref(), self.prefix_optional) {
            (None, true) => wrong("prefix_optional", "is written without `prefix`"),
            (None, false) => Ok(Prefix::None),
            (Some(text), _)
                if text.is_empty()
                    || text.starts_with(' ')
                    || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) =>
            {
                wrong(
                    "prefix",
                    "must be visible ASCII text, such as \"sha256=\"; leave it out where there is none",
                )
            }
            (Some(text), true) => Ok(Prefix::Optional(text.into())),
            (Some(text), false) => Ok(Prefix::Required(text.into())),
        }
    }

    fn list(&self) -> Result<Option<List>, SchemeError> {
        let text = |written: &Option<String>, key| match written.as_deref() {
            Some("") => wrong(key, "is empty"),
            Some(text) => Ok(Some(text.into())),
            None => Ok(None),
        };
        let separator: Option<Box<str>> = text(&self.list, "list")?;
        let groups = text(&self.groups, "groups")?;
        let tags = match (text(&self.tag_separator, "tag_separator")?, &*self.tags) {
            (None, []) => None,
            (None, _) => {
                return wrong(
                    "tag_separator",
                    "is missing: it stands between a tag and its value",
                );
            }
            (Some(_), []) => {
                return wrong(
                    "tags",
                    "is missing: name the tags of signatures, such as [\"v1\"]",
                );
            }
            (Some(separator), tags) => {
                let tags = tags.iter().map(|tag| tag.as_str().into()).collect();
                Some((separator, tags))
            }
        };
        if separator.is_none() && (groups.is_some() || tags.is_some()) {
            return wrong(
                "list",
                "is missing: it stands between the items of the header's value",
            );
        }
        Ok(separator.map(|separator| List {
            separator: Some(separator),
            groups,
            tags,
        }))
    }

    fn signed(&self, algorithm: Algorithm) -> Result<Vec<Part>, SchemeError> {
        let written = self.signed.as_deref();
        if algorithm.sends_secret() {
            return match written {
                Some(_) => wrong(
                    "signed",
                    format!("has no meaning for {}: nothing is signed", algorithm.name()),
                ),
                None => Ok(Vec::new()),
            };
        }
        let parts = template::parse(written.unwrap_or("{body}"))
            .or_else(|error| wrong("signed", error.to_string()))?;
        let has_secret = parts.iter().any(|part| part.value() == Some(&Value::Secret));
        match (algorithm, has_secret) {
            (Algorithm::Sha256, false) => wrong("signed", "lacks {secret}, so anyone could make this hash"),
            (Algorithm::Sha256, true) | (_, false) => Ok(parts),
            (_, true) => wrong(
                "signed",
                "has {secret}, which is for `algorithm = \"sha256\"` only",
            ),
        }
    }

    fn timestamp(&self) -> Result<Option<TimestampRule>, SchemeError> {
        let Some(text) = &self.timestamp else {
            return Ok(None);
        };
        const KEY: &str = "timestamp";
        let source = match (&text.header, &text.tag, &text.json, text.first) {
            (Some(name), None, None, false) => TimestampSource::Header(header_name(KEY, name)?),
            (None, Some(tag), None, false) => TimestampSource::Tag(tag.as_str().into()),
            (None, None, Some(at), false) => match pointer(at) {
                Some(tokens) => TimestampSource::Json(tokens),
                None => return wrong(KEY, format!("has {at:?}; write a JSON pointer like \"/time\"")),
            },
            (None, None, None, true) => TimestampSource::First,
            _ => return wrong(KEY, "needs one of header, tag, json and first = true"),
        };
        let unit = match text.unit.as_deref() {
            Some("s") | None => TimeUnit::Seconds,
            Some("ms") => TimeUnit::Millis,
            Some("iso8601") => TimeUnit::Iso8601,
            Some(other) => return unknown("timestamp", other, &TIME_UNITS),
        };
        let tolerance = match &text.tolerance {
            None => TOLERANCE,
            Some(text) => match duration(text) {
                Some(tolerance) if tolerance <= TOLERANCE_MAX => tolerance,
                Some(_) => return wrong(KEY, "has a tolerance of more than a day"),
                None => {
                    return wrong(
                        KEY,
                        format!("has {text:?} as its tolerance; write it like \"5m\""),
                    );
                }
            },
        };
        Ok(Some(TimestampRule {
            source,
            unit,
            tolerance,
            enforce: text.enforce.unwrap_or(true),
        }))
    }

    fn body_digest(&self) -> Result<Option<Box<str>>, SchemeError> {
        let Some(text) = &self.body_digest else {
            return Ok(None);
        };
        match (text.query.as_deref(), text.encoding.as_deref()) {
            (Some(name), Some("hex") | None) if !name.is_empty() => Ok(Some(name.into())),
            (_, Some(other)) if other != "hex" => unknown("body_digest", other, &["hex"]),
            _ => wrong(
                "body_digest",
                "needs the name of a query parameter: { query = \"bodySHA256\" }",
            ),
        }
    }

    fn url(&self) -> Result<UrlForm, SchemeError> {
        match self.url.as_deref() {
            None | Some("as-is") => Ok(UrlForm::AsIs),
            Some("decoded") => Ok(UrlForm::Decoded),
            Some("twilio") => Ok(UrlForm::Twilio),
            Some(other) => unknown("url", other, &URL_FORMS),
        }
    }

    fn require_headers(&self) -> Result<Vec<Pair>, SchemeError> {
        self.require_headers
            .iter()
            .map(|(name, value)| Ok((header_name("require_headers", name)?, value.as_str().into())))
            .collect()
    }

    fn layout(&self) -> Result<Option<Box<str>>, SchemeError> {
        match self.layout.as_deref() {
            Some(text) if !text.contains("{signature}") => wrong("layout", "lacks {signature}"),
            text => Ok(text.map(Into::into)),
        }
    }

    fn absent(&self) -> Result<Vec<Place>, SchemeError> {
        let place = |text: &String| match Place::parse(text) {
            Some(place) => Ok(place),
            None => wrong(
                "absent",
                format!("has {text:?}; write a place like \"/items/1\" or \"query:name\""),
            ),
        };
        self.absent.iter().map(place).collect()
    }
}

/// A header in which a signature may stand, in lower case.
pub(super) fn header_name(key: &'static str, name: &str) -> Result<Box<str>, SchemeError> {
    /// Headers that frame the request or that we strip.
    const UNUSABLE: [&str; 9] = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
    ];
    let lower = name.to_ascii_lowercase();
    let usable = http::HeaderName::from_bytes(lower.as_bytes()).is_ok()
        && !UNUSABLE.contains(&lower.as_str())
        && !lower.replace('_', "-").starts_with("hooklatch-");
    match usable {
        true => Ok(lower.into()),
        false => wrong(
            key,
            format!("has {name:?}, which cannot be the header of a signature"),
        ),
    }
}

fn unknown<T>(key: &'static str, given: &str, known: &[&str]) -> Result<T, SchemeError> {
    wrong(key, format!("is {given:?}; write one of {}", known.join(", ")))
}

/// Reads `26h36m`, `7d` or `42m30s`: whole numbers, each unit once at most, the larger first; not 0.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_secs = 0_u64;
    for (unit, unit_secs) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let number: u32 = number.parse().ok()?;
            total_secs += u64::from(number) * unit_secs;
            rest = after;
        }
    }
    (total_secs > 0 && rest.is_empty()).then(|| Duration::from_secs(total_secs))
}

/// One text, or a list of them.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMore;
    impl<'de> serde::de::Visitor<'de> for OneOrMore {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(OneOrMore)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Scheme, SchemeError> {
        toml::from_str::<SchemeText>(text).unwrap().build()
    }

    #[test]
    fn what_most_senders_do_takes_the_short_way() {
        for (text, short) in [
            ("header = \"X-Sig\"", true),
            (
                "header = [\"x-a\", \"x-b\"]\nprefix = \"sha256=\"\nencoding = \"base64\"",
                true,
            ),
            ("header = \"x-a\"\nsigned = \"{body}\"", true),
            ("header = [\"x-a\", \"x-b\"]\nany_header = true", false),
            ("header = \"x-a\"\nrepeated_header = true", false),
            ("header = \"x-a\"\nalgorithm = \"hmac-sha1\"", false),
            ("header = \"x-a\"\nsigned = \"a{body}\"", false),
        ] {
            let scheme = build(text).unwrap();
            assert_eq!(matches!(scheme.rule, Rule::BodyHmac(_)), short, "{text}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_at_its_key() {
        for (text, key) in [
            ("", "header"),
            ("header = \"x-a\"\nin_query = \"a\"", "header"),
            ("header = \"x a\"", "header"),
            ("header = \"Hooklatch_Key\"", "header"),
            ("header = [\"x-a\", \"X-A\"]", "header"),
            ("header = \"x-a\"\nany_header = true", "any_header"),
            ("in_query = \"a\"\nrepeated_header = true", "repeated_header"),
            ("header = \"x-a\"\nlayout = \"t={timestamp}\"", "layout"),
            ("header_numbered = \"x-a\"", "header_numbered"),
            ("in_json = \"a\"", "in_json"),
            ("in_json = \"/a\"", "signed"),
            ("in_form = \"a\"", "signed"),
            ("in_json = \"/a\"\nsigned = \"{form_sorted}\"", "signed"),
            ("in_query = \"a\"\nsigned = \"{url}{body}\"", "signed"),
            ("header = \"x-a\"\nalgorithm = \"md5\"", "algorithm"),
            ("header = \"x-a\"\nkey = \"pem\"", "key"),
            ("header = \"x-a\"\nalgorithm = \"ed25519\"\nkey = \"utf8\"", "key"),
            ("header = \"x-a\"\nencoding = \"hax\"", "encoding"),
            (
                "header = \"x-a\"\nalgorithm = \"token\"\nencoding = \"hex\"",
                "encoding",
            ),
            (
                "header = \"x-a\"\nalgorithm = \"token\"\nsigned = \"{body}\"",
                "signed",
            ),
            ("header = \"x-a\"\nprefix_optional = true", "prefix_optional"),
            ("header = \"x-a\"\ntags = [\"v1\"]\nlist = \",\"", "tag_separator"),
            ("header = \"x-a\"\ntag_separator = \"=\"\nlist = \",\"", "tags"),
            ("header = \"x-a\"\ntag_separator = \"=\"\ntags = [\"v1\"]", "list"),
            ("header = \"x-a\"\nsigned = \"{timestamp}{body}\"", "timestamp"),
            ("header = \"x-a\"\ntimestamp = { header = \"x-t\" }", "timestamp"),
            (
                "header = \"x-a\"\nsigned = \"{timestamp}{body}\"\ntimestamp = { tag = \"t\" }",
                "timestamp",
            ),
            (
                "header = \"x-a\"\nsigned = \"{timestamp}{body}\"\ntimestamp = { first = true }",
                "timestamp",
            ),
            (
                "header = \"x-a\"\nsigned = \"{timestamp}{body}\"\ntimestamp = {}",
                "timestamp",
            ),
            (
                "header = \"x-a\"\nsigned = \"{timestamp}{body}\"\ntimestamp = { header = \"x-t\", tolerance = \"2d\" }",
                "timestamp",
            ),
            ("header = \"x-a\"\nsigned = \"{secret}{body}\"", "signed"),
            ("header = \"x-a\"\nalgorithm = \"sha256\"", "signed"),
            ("header = \"x-a\"\nsigned = \"{tag:t}{body}\"", "signed"),
            ("header = \"x-a\"\nsigned = \"{bdy}\"", "signed"),
            ("header = \"x-a\"\nurl = \"decoded\"", "url"),
            ("header = \"x-a\"\nbody_digest = { query = \"d\" }", "body_digest"),
            ("header = \"x-a\"\njws = { algorithms = [\"HS256\"] }", "jws"),
        ] {
            assert_eq!(build(text).unwrap_err().key, key, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected_secs) in [
            ("7d", Some(604_800)),
            ("26h36m", Some(95_760)),
            ("42m30s", Some(2_550)),
            ("5s", Some(5)),
            ("", None),
            ("0s", None),
            ("5", None),
            ("5x", None),
            ("-5s", None),
            ("30m1h", None),
            ("1h1h", None),
            ("1.5h", None),
        ] {
            let got = duration(text).map(|duration| duration.as_secs());
            assert_eq!(got, expected_secs, "{text}");
        }
    }
}
