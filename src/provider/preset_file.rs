//! A preset's file: its text, and what makes it a [`Preset`]. Strict, since a typing error here lets forgeries in.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;

use super::identify::IdentifyRule;
use super::preset::{INVALID_SIGNATURE, Preset, Sample, Vector};
use super::scheme::{Encoding, KeyForm, Prefix, Scheme};
use crate::event::ProviderName;

/// What is wrong with a preset's file.
#[derive(Debug, thiserror::Error)]
pub(super) enum PresetError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("`headers` holds {0:?}, which is not a header name in lower case")]
    Header(String),
    #[error("`headers` is empty; name the header that carries the signature")]
    NoHeader,
    #[error("`prefix_optional` is set without `prefix`; write the prefix or drop it")]
    NoPrefix,
    #[error("`prefix` is {0:?}; write the text that stands before the digest, without blanks around it")]
    Prefix(String),
    #[error("{0:?} is not a JSON pointer; write it like \"/data/id\"")]
    Pointer(String),
    #[error("{0:?} is not a duration; write it like \"26h36m\"")]
    Duration(String),
    #[error("`status` is {0}; a missing signature is answered with 400 to 499")]
    Status(u16),
}

/// Reads the text of `config/providers/<name>.toml`.
pub(super) fn parse(name: &str, text: &str) -> Result<Preset, PresetError> {
    let file: File = toml::from_str(text)?;
    let missing_signature = match file.missing_signature {
        Some(Missing { status, .. }) if !(400..500).contains(&status) => {
            return Err(PresetError::Status(status));
        }
        Some(missing) => (missing.status, missing.body),
        None => (401, INVALID_SIGNATURE.to_owned()),
    };
    Ok(Preset {
        name: ProviderName::new(name),
        title: file.title,
        scheme: scheme(file.sign)?,
        identify: IdentifyRule {
            id: file.identify.id.as_deref().map(pointer).transpose()?,
            event_type: file.identify.event_type.as_deref().map(pointer).transpose()?,
            type_header: file.identify.type_header.map(header).transpose()?,
        },
        body_window: duration(&file.dedup.body_window)?,
        retries: file.delivery.retries,
        retry_horizon: file.delivery.retry_horizon.as_deref().map(duration).transpose()?,
        disable_rule: file.delivery.disable_rule,
        answer_limit: file.delivery.answer_limit.as_deref().map(duration).transpose()?,
        missing_signature,
        confirmed: file.confirmed,
        sources: file.sources,
        notes: file.notes.trim().to_owned(),
        samples: file.sample.into_iter().map(Into::into).collect(),
        vectors: file.vector.into_iter().map(Into::into).collect(),
    })
}

fn scheme(sign: Sign) -> Result<Scheme, PresetError> {
    let prefix = match (sign.prefix, sign.prefix_optional) {
        (Some(text), _) if text.is_empty() || text.trim() != text => return Err(PresetError::Prefix(text)),
        (Some(text), true) => Prefix::Optional(text.into()),
        (Some(text), false) => Prefix::Required(text.into()),
        (None, true) => return Err(PresetError::NoPrefix),
        (None, false) => Prefix::None,
    };
    let headers = sign
        .headers
        .into_iter()
        .map(header)
        .collect::<Result<Vec<_>, _>>()?;
    if headers.is_empty() {
        return Err(PresetError::NoHeader);
    }
    Ok(Scheme {
        headers,
        prefix,
        encoding: match sign.encoding {
            EncodingName::Hex => Encoding::Hex,
            EncodingName::Base64 => Encoding::Base64,
            EncodingName::HexOrBase64 => Encoding::HexOrBase64,
        },
        key: match sign.key {
            KeyName::Utf8 => KeyForm::Utf8,
            KeyName::Hex => KeyForm::Hex,
            KeyName::Base64 => KeyForm::Base64,
            KeyName::Whsec => KeyForm::Whsec,
        },
    })
}

fn header(name: String) -> Result<Box<str>, PresetError> {
    match name.parse::<HeaderName>() {
        Ok(header) if header.as_str() == name => Ok(name.into()),
        _ => Err(PresetError::Header(name)),
    }
}

/// Splits a JSON pointer (RFC 6901) into its tokens.
fn pointer(text: &str) -> Result<Vec<Box<str>>, PresetError> {
    let tokens = text
        .strip_prefix('/')
        .ok_or_else(|| PresetError::Pointer(text.to_owned()))?;
    Ok(tokens
        .split('/')
        .map(|token| token.replace("~1", "/").replace("~0", "~").into())
        .collect())
}

/// Reads `26h36m`, `7d` or `42m30s`: whole numbers, each unit once at most, the larger first.
fn duration(text: &str) -> Result<Duration, PresetError> {
    let wrong = || PresetError::Duration(text.to_owned());
    let mut rest = text;
    let mut total_secs = 0_u64;
    for (unit, unit_secs) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let number: u32 = number.parse().map_err(|_| wrong())?;
            total_secs += u64::from(number) * unit_secs;
            rest = after;
        }
    }
    if total_secs == 0 || !rest.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total_secs))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    confirmed: bool,
    sources: Vec<String>,
    notes: String,
    sign: Sign,
    identify: Identify,
    dedup: Dedup,
    delivery: Delivery,
    missing_signature: Option<Missing>,
    sample: Vec<SampleFile>,
    vector: Vec<VectorFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sign {
    headers: Vec<String>,
    prefix: Option<String>,
    #[serde(default)]
    prefix_optional: bool,
    encoding: EncodingName,
    key: KeyName,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EncodingName {
    Hex,
    Base64,
    HexOrBase64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyName {
    Utf8,
    Hex,
    Base64,
    Whsec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identify {
    id: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    type_header: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dedup {
    body_window: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delivery {
    retries: Option<String>,
    retry_horizon: Option<String>,
    disable_rule: Option<String>,
    answer_limit: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Missing {
    status: u16,
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleFile {
    #[serde(rename = "type")]
    event_type: String,
    body: String,
}

impl From<SampleFile> for Sample {
    fn from(file: SampleFile) -> Self {
        Self {
            event_type: file.event_type,
            body: file.body,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorFile {
    about: String,
    secret: String,
    headers: Vec<(String, String)>,
    body: String,
    valid: bool,
    origin: String,
}

impl From<VectorFile> for Vector {
    fn from(file: VectorFile) -> Self {
        Self {
            about: file.about,
            secret: file.secret,
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

    const GOOD: &str = r#"
        title = "T"
        confirmed = true
        sources = []
        notes = "n"
        sample = []
        vector = []
        [sign]
        headers = ["x-signature"]
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
        assert_eq!(preset.scheme.prefix, Prefix::Required("sha256=".into()));
        assert_eq!(preset.identify.id, Some(vec!["data".into(), "a/b~c".into()]));
        assert_eq!(preset.missing_signature, (401, INVALID_SIGNATURE.to_owned()));
        assert_eq!(preset.retry_horizon, Some(Duration::from_secs(95_760)));
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, expected) in [
            ("title", "tittle", "unknown field `tittle`"),
            ("key = ", "form = ", "unknown field `form`"),
            ("\"hex\"", "\"Hex\"", "unknown variant `Hex`"),
            (
                "[\"x-signature\"]",
                "[\"X-Signature\"]",
                "`headers` holds \"X-Signature\", which is not a header name in lower case",
            ),
            (
                "[\"x-signature\"]",
                "[]",
                "`headers` is empty; name the header that carries the signature",
            ),
            (
                "prefix = \"sha256=\"",
                "prefix_optional = true",
                "`prefix_optional` is set without `prefix`; write the prefix or drop it",
            ),
            (
                "\"sha256=\"",
                "\"sha256= \"",
                "`prefix` is \"sha256= \"; write the text that stands before the digest, without blanks around it",
            ),
            (
                "/data/",
                "data/",
                "\"data/a~1b~0c\" is not a JSON pointer; write it like \"/data/id\"",
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
            let got = duration(text).ok().map(|duration| duration.as_secs());
            assert_eq!(got, expected_secs, "{text}");
        }
    }
}
