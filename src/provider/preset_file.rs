//! A preset's file: its text, and what makes it a [`Preset`]. Strict, since a typing error here lets forgeries in.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;

use super::handshake::HandshakeText;
use super::identify::IdentifyRule;
use super::place::Places;
use super::preset::{Confidence, Delivery, INVALID_SIGNATURE, Preset, Sample, Vector};
use super::scheme::Scheme;
use super::scheme_text::{SchemeError, SchemeText, duration};
use crate::event::ProviderName;

/// How long bodies without a usable id are remembered where nothing else is said.
const BODY_WINDOW: Duration = Duration::from_secs(3600);

/// What is wrong with a preset's file.
#[derive(Debug, thiserror::Error)]
pub(super) enum PresetError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("[[scheme]] {0}")]
    Scheme(SchemeError),
    #[error("two schemes are named {0:?}")]
    SchemeTwice(Box<str>),
    #[error("[[handshake]] {0}")]
    Handshake(SchemeError),
    #[error("{0:?} is not a header name in lower case")]
    Header(String),
    #[error("{0:?} is not a place; write it like \"/data/id\" or \"header:x-event\"")]
    Place(String),
    #[error(
        "the id stands in the header {0:?}, which the signature does not cover: anybody could change it; write `id_header`"
    )]
    UnsignedId(String),
    #[error("{0:?} is not a duration; write it like \"26h36m\"")]
    Duration(String),
    #[error("`status` is {0}; a missing signature is answered with 400 to 499")]
    Status(u16),
    #[error("a vector names the scheme {0:?}, which is not one of this file")]
    VectorScheme(String),
}

/// Reads the text of `config/providers/<name>.toml`.
pub(super) fn parse(name: &str, text: &str) -> Result<Preset, PresetError> {
    let file: File = toml::from_str(text)?;
    let missing_signature = match file.missing_signature {
        Some(Missing { status, .. }) if !(400..500).contains(&status) => {
            return Err(PresetError::Status(status));
        }
        Some(missing) => (missing.status, missing.body),
        None => (
            401,
            file.answers
                .refused
                .clone()
                .unwrap_or_else(|| INVALID_SIGNATURE.to_owned()),
        ),
    };
    let schemes = schemes(&file.scheme)?;
    let handshakes = file
        .handshake
        .into_iter()
        .map(|handshake| handshake.build().map_err(PresetError::Handshake))
        .collect::<Result<_, _>>()?;
    let vectors: Vec<Vector> = file.vector.into_iter().map(Into::into).collect();
    for named in vectors.iter().filter_map(|vector| vector.scheme.as_ref()) {
        if !schemes.iter().any(|scheme| *scheme.name == **named) {
            return Err(PresetError::VectorScheme(named.clone()));
        }
    }
    Ok(Preset {
        name: ProviderName::new(name),
        title: file.title,
        aliases: file.aliases,
        identify: identify(&file.identify, &schemes)?,
        id_header: file.identify.id_header.map(header).transpose()?,
        schemes,
        body_window: file.dedup.body_window.as_deref().map_or(Ok(BODY_WINDOW), span)?,
        delivery: Delivery {
            answer_ok: file.delivery.answer_ok,
            retries: file.delivery.retries,
            retry_horizon: file.delivery.retry_horizon.as_deref().map(span).transpose()?,
            disable_rule: file.delivery.disable_rule,
            answer_limit: file.delivery.answer_limit.as_deref().map(span).transpose()?,
            rotation: file.delivery.rotation,
            source_ips: file.delivery.source_ips,
        },
        missing_signature,
        bad_signature: file
            .answers
            .refused
            .unwrap_or_else(|| INVALID_SIGNATURE.to_owned()),
        accepted: file.answers.accepted,
        handshakes,
        proxy_hint: file.proxy_hint,
        confidence: match file.confidence {
            ConfidenceName::Official => Confidence::Official,
            ConfidenceName::Implementations => Confidence::Implementations,
            ConfidenceName::Unconfirmed => Confidence::Unconfirmed,
        },
        sources: file.sources,
        notes: file.notes.trim().to_owned(),
        samples: file.sample.into_iter().map(Into::into).collect(),
        vectors,
    })
}

fn schemes(texts: &[SchemeText]) -> Result<Vec<Scheme>, PresetError> {
    let mut schemes: Vec<Scheme> = Vec::new();
    for text in texts {
        let scheme = text.build().map_err(PresetError::Scheme)?;
        if schemes.iter().any(|other| other.name == scheme.name) {
            return Err(PresetError::SchemeTwice(scheme.name));
        }
        schemes.push(scheme);
    }
    Ok(schemes)
}

fn identify(file: &Identify, schemes: &[Scheme]) -> Result<IdentifyRule, PresetError> {
    let places = |text: &Option<String>| match text {
        Some(text) => Places::parse(text)
            .map(Some)
            .ok_or_else(|| PresetError::Place(text.clone())),
        None => Ok(None),
    };
    let id = places(&file.id)?;
    let vouched = |name: &&str| schemes.iter().any(|scheme| scheme.vouches_for_header(name));
    if let Some(name) = id.iter().flat_map(Places::headers).find(|name| !vouched(name)) {
        return Err(PresetError::UnsignedId(name.to_owned()));
    }
    let type_header = file.type_header.clone().map(header).transpose()?;
    Ok(IdentifyRule::new(id, places(&file.event_type)?, type_header))
}

fn header(name: String) -> Result<Box<str>, PresetError> {
    match name.parse::<HeaderName>() {
        Ok(header) if header.as_str() == name => Ok(name.into()),
        _ => Err(PresetError::Header(name)),
    }
}

fn span(text: &str) -> Result<Duration, PresetError> {
    duration(text).ok_or_else(|| PresetError::Duration(text.to_owned()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    aliases: Vec<String>,
    confidence: ConfidenceName,
    sources: Vec<String>,
    notes: String,
    proxy_hint: Option<String>,
    #[serde(default)]
    scheme: Vec<SchemeText>,
    #[serde(default)]
    identify: Identify,
    #[serde(default)]
    dedup: Dedup,
    #[serde(default)]
    delivery: DeliveryFile,
    missing_signature: Option<Missing>,
    #[serde(default)]
    answers: Answers,
    #[serde(default)]
    handshake: Vec<HandshakeText>,
    #[serde(default)]
    sample: Vec<SampleFile>,
    #[serde(default)]
    vector: Vec<VectorFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ConfidenceName {
    Official,
    Implementations,
    Unconfirmed,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identify {
    id: Option<String>,
    id_header: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    type_header: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dedup {
    body_window: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryFile {
    answer_ok: Option<String>,
    retries: Option<String>,
    retry_horizon: Option<String>,
    disable_rule: Option<String>,
    answer_limit: Option<String>,
    rotation: Option<String>,
    source_ips: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Missing {
    status: u16,
    body: String,
}

/// Bodies of answers, for senders that demand one of their own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    accepted: Option<String>,
    refused: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleFile {
    #[serde(rename = "type")]
    event_type: String,
    body: String,
    content_type: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

impl From<SampleFile> for Sample {
    fn from(file: SampleFile) -> Self {
        Self {
            event_type: file.event_type,
            body: file.body,
            content_type: file.content_type.unwrap_or_else(|| "application/json".to_owned()),
            headers: file.headers,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorFile {
    about: String,
    scheme: Option<String>,
    secret: String,
    now: Option<i64>,
    fetched: Option<String>,
    method: Option<String>,
    url: Option<String>,
    headers: Vec<(String, String)>,
    body: String,
    valid: bool,
    origin: String,
}

impl From<VectorFile> for Vector {
    fn from(file: VectorFile) -> Self {
        Self {
            about: file.about,
            scheme: file.scheme,
            secret: file.secret,
            now_secs: file.now,
            fetched: file.fetched,
            method: file.method.unwrap_or_else(|| "POST".to_owned()),
            url: file.url,
            headers: file.headers,
            body: file.body,
            valid: file.valid,
            origin: file.origin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::encoding::Prefix;

    const GOOD: &str = r#"
        title = "T"
        confidence = "official"
        sources = []
        notes = "n"
        [[scheme]]
        header = ["x-signature"]
        prefix = "sha256="
        encoding = "hex"
        key = "utf8"
        [identify]
        id = "/data/a~1b~0c"
        [dedup]
        body_window = "1h"
        [delivery]
        retry_horizon = "26h36m"
    "#;

    #[test]
    fn a_file_becomes_a_preset() {
        let preset = parse("t", GOOD).unwrap();
        assert_eq!(
            preset.body_hmac().unwrap().prefix,
            Prefix::Required("sha256=".into())
        );
        assert_eq!(preset.identify.id, Some(vec!["data".into(), "a/b~c".into()]));
        assert_eq!(preset.missing_signature, (401, INVALID_SIGNATURE.to_owned()));
        assert_eq!(preset.delivery.retry_horizon, Some(Duration::from_secs(95_760)));
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, expected) in [
            ("title", "tittle", "unknown field `tittle`"),
            ("key = ", "form = ", "unknown field `form`"),
            ("\"hex\"", "\"Hex\"", "`encoding` is \"Hex\"; write one of hex,"),
            (
                "[\"x-signature\"]",
                "[\"x signature\"]",
                "`header` has \"x signature\"",
            ),
            ("[\"x-signature\"]", "[]", "`header` is missing"),
            (
                "prefix = \"sha256=\"",
                "prefix_optional = true",
                "`prefix_optional` is written without `prefix`",
            ),
            (
                "\"sha256=\"",
                "\" sha256=\"",
                "`prefix` must be visible ASCII text",
            ),
            ("/data/", "data/", "\"data/a~1b~0c\" is not a place"),
            (
                "id = \"/data/a~1b~0c\"",
                "id = \"header:x-id\"",
                "the id stands in the header \"x-id\", which the signature does not cover",
            ),
            ("1h", "1 h", "\"1 h\" is not a duration; write it like \"26h36m\""),
            (
                "[delivery]",
                "[missing_signature]\nstatus = 200\nbody = \"\"\n[delivery]",
                "`status` is 200; a missing signature is answered with 400 to 499",
            ),
        ] {
            let error = parse("t", &GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
