//! A scheme in words, for `providers show` and the documentation.

use super::body_hmac::BodyHmac;
use super::composed::{Composed, List, Source};
use super::encoding::{Encoding, Prefix};
use super::handshake::Handshake;
use super::key::{Algorithm, KeyForm};
use super::place::Place;
use super::scheme::{Rule, Scheme};
use super::template::{Part, Value};
use super::timestamp::{TimestampRule, TimestampSource};

/// Where the signature stands, in a few words.
pub fn carried(scheme: &Scheme) -> String {
    match &scheme.rule {
        Rule::BodyHmac(rule) => rule.headers.join(", "),
        Rule::Composed(rule) => source(&rule.source),
        Rule::Coded(rule) => match rule.place() {
            Some(place) => source(&Source::Place(place)),
            None => rule.headers().join(", "),
        },
    }
}

/// Each fact of a scheme with its label.
pub fn describe(scheme: &Scheme) -> Vec<(&'static str, String)> {
    match &scheme.rule {
        Rule::BodyHmac(rule) => body_hmac(rule),
        Rule::Composed(rule) => composed(rule),
        Rule::Coded(rule) => rule.describe(),
    }
}

fn body_hmac(rule: &BodyHmac) -> Vec<(&'static str, String)> {
    vec![
        ("header", rule.headers.join(", then ")),
        ("prefix", prefix(&rule.prefix)),
        ("encoding", encoding(rule.encoding).to_owned()),
        ("signed", "HMAC-SHA256 over the raw body".to_owned()),
        ("key", key(rule.key).to_owned()),
    ]
}

fn composed(rule: &Composed) -> Vec<(&'static str, String)> {
    let mut facts = vec![("header", source(&rule.source))];
    if rule.algorithm.sends_secret() {
        let text = match rule.algorithm {
            Algorithm::Basic => "user:password (basic authentication)",
            _ => "the secret itself",
        };
        facts.push(("sent", text.to_owned()));
        if rule.prefix != Prefix::None {
            facts.push(("prefix", prefix(&rule.prefix)));
        }
        facts.push(("signed", "nothing: it proves the sender, not the body".to_owned()));
        return facts;
    }
    if let Some(list) = &rule.list {
        facts.push(("form", form(list, rule.timestamp.as_ref())));
    }
    if rule.prefix != Prefix::None {
        facts.push(("prefix", prefix(&rule.prefix)));
    }
    facts.push(("encoding", encoding(rule.encoding).to_owned()));
    facts.push((
        "signed",
        format!("{} over {}", algorithm(rule.algorithm), template(&rule.signed)),
    ));
    if let Some(parameter) = &rule.body_digest {
        facts.push((
            "body",
            format!("its hex SHA-256 must be {parameter} of the signed query"),
        ));
    }
    facts.push(("key", key(rule.key).to_owned()));
    if let Some(time) = &rule.timestamp {
        facts.push(("time", timestamp(time)));
    }
    for (name, value) in &rule.require_headers {
        facts.push(("required", format!("{name}: {value}")));
    }
    facts
}

fn source(source: &Source) -> String {
    match source {
        Source::Headers {
            names,
            repeated: true,
            ..
        } => format!("{}, once or several times", names.join(", ")),
        Source::Headers {
            names, any: false, ..
        } => names.join(", then "),
        Source::Headers { names, any: true, .. } => format!("any of {}", names.join(", ")),
        Source::Numbered(before, after) => format!("{before}1{after}, {before}2{after}, ..."),
        Source::Place(Place::Json(tokens)) => format!("{} of the body", super::place::pointer_text(tokens)),
        Source::Place(Place::Form(name)) => format!("{name} of the form"),
        Source::Place(Place::Query(name)) => format!("{name} of the query"),
        Source::Place(Place::Header(name)) => name.to_string(),
    }
}

/// The form of a list, as an example.
fn form(list: &List, time: Option<&TimestampRule>) -> String {
    let separator = list.separator.as_deref().unwrap_or_default();
    let mut items = Vec::new();
    let tag_separator = list.tags.as_ref().map_or("", |(separator, _)| separator);
    match time.map(|time| &time.source) {
        Some(TimestampSource::Tag(tag)) => items.push(format!("{tag}{tag_separator}<time>")),
        Some(TimestampSource::First) => items.push("<time>".to_owned()),
        _ => {}
    }
    match &list.tags {
        Some((separator, tags)) => {
            items.extend(tags.iter().map(|tag| format!("{tag}{separator}<signature>")))
        }
        None => items.push("<signature>".to_owned()),
    }
    format!("{}{separator}...", items.join(separator))
}

fn template(parts: &[Part]) -> String {
    if parts == [Part::Value(Value::Body)] {
        return "the raw body".to_owned();
    }
    parts.iter().map(part).collect()
}

fn part(part: &Part) -> String {
    let name = |value: &Value| match value {
        Value::Body => "body".to_owned(),
        Value::Timestamp => "timestamp".to_owned(),
        Value::Method => "method".to_owned(),
        Value::Url => "url".to_owned(),
        Value::Secret => "secret".to_owned(),
        Value::FormSorted => "form_sorted".to_owned(),
        Value::Header(name) => format!("header:{name}"),
        Value::Json(tokens) => format!("json:{}", super::place::pointer_text(tokens)),
        Value::Tag(tag) => format!("tag:{tag}"),
        Value::HeaderValues(tag) => format!("header_values:{tag}"),
    };
    match part {
        Part::Text(text) => text.replace('\n', "\\n"),
        Part::Value(value) => format!("{{{}}}", name(value)),
        Part::JsonString(value) => format!("{{{}|json}}", name(value)),
        Part::Base64(value) => format!("{{{}|base64}}", name(value)),
    }
}

fn timestamp(time: &TimestampRule) -> String {
    let place = match &time.source {
        TimestampSource::Header(name) => name.to_string(),
        TimestampSource::Tag(tag) => format!("{tag} of the header"),
        TimestampSource::First => "the first item of the header".to_owned(),
        TimestampSource::Json(tokens) => format!("{} of the body", super::place::pointer_text(tokens)),
    };
    let unit = time.unit.words();
    match time.enforce {
        true => format!("{place}, in {unit}, at most {} s off", time.tolerance.as_secs()),
        false => format!("{place}, in {unit}, not enforced"),
    }
}

/// An algorithm as people write it.
pub fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HmacSha256 => "HMAC-SHA256",
        Algorithm::HmacSha1 => "HMAC-SHA1",
        Algorithm::HmacSha512 => "HMAC-SHA512",
        Algorithm::Sha256 => "SHA-256",
        Algorithm::Ed25519 => "Ed25519",
        Algorithm::EcdsaP256 => "ECDSA P-256 with SHA-256",
        Algorithm::RsaSha256 => "RSA with SHA-256",
        Algorithm::RsaSha512 => "RSA with SHA-512",
        Algorithm::Token => "token",
        Algorithm::Basic => "basic authentication",
    }
}

fn prefix(prefix: &Prefix) -> String {
    match prefix {
        Prefix::None => "none".to_owned(),
        Prefix::Required(text) => format!("{text} (required)"),
        Prefix::Optional(text) => format!("{text} (optional)"),
    }
}

fn encoding(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Hex => "hex",
        Encoding::Base64 => "base64",
        Encoding::Base64Url => "base64 in the alphabet for URLs",
        Encoding::HexOrBase64 => "hex or base64",
    }
}

fn key(key: KeyForm) -> &'static str {
    match key {
        KeyForm::Utf8 => "the secret's text as it is",
        KeyForm::Hex => "the secret decoded from hex",
        KeyForm::Base64 => "the secret decoded from base64",
        KeyForm::Whsec => "what follows whsec_, decoded from base64",
        KeyForm::RawHex => "the provider's public key, 32 bytes in hex",
        KeyForm::RawBase64 => "the provider's public key, 32 bytes in base64",
        KeyForm::Whpk => "the provider's public key, in base64 after whpk_",
        KeyForm::Pem => "the provider's public key in PEM",
        KeyForm::SpkiBase64 => "the provider's public key, SubjectPublicKeyInfo in base64",
    }
}

impl Handshake {
    /// What it is and how it is answered, in one line.
    pub fn describe(&self) -> String {
        let mut text = format!("{} ({}", self.name, self.method);
        if let Some((place, expected)) = &self.when {
            text.push_str(&format!(" with {}", place.text()));
            if let Some(expected) = expected {
                text.push_str(&format!(" = {expected}"));
            }
        }
        text.push_str(&format!("): answered {}", self.status));
        if self.signed {
            text.push_str(", only with a good signature");
        }
        if self.verify_token.is_some() {
            text.push_str(", only with the route's verify_token");
        }
        if self.capture.is_some() {
            text.push_str(", only while `hooklatch secrets capture` waits for the secret it brings");
        }
        text
    }
}
