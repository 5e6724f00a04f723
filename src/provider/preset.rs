//! The presets: `config/providers/*.toml`, embedded and parsed at first use.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use super::body_hmac::BodyHmac;
use super::handshake::Handshake;
use super::identify::IdentifyRule;
use super::preset_file;
use super::scheme::{Rule, Scheme};
use crate::event::ProviderName;

/// All that is known of one provider.
#[derive(Debug, Clone)]
pub struct Preset {
    /// The name used in `provider = "..."`: the name of its file.
    pub name: ProviderName,
    /// The name people know it by.
    pub title: String,
    /// Other names that work in `provider = "..."`.
    pub aliases: Vec<String>,
    /// How it signs, the default first; none: it signs nothing.
    pub schemes: Vec<Scheme>,
    /// Where its id and type stand.
    pub identify: IdentifyRule,
    /// A header with an id that the signature does not cover.
    pub id_header: Option<Box<str>>,
    /// The dedup window of bodies without a usable id.
    pub body_window: Duration,
    /// How it delivers.
    pub delivery: Delivery,
    /// Status and body for a request without a signature header; 401 and [`INVALID_SIGNATURE`] by default.
    pub missing_signature: (u16, String),
    /// Body for a request with a bad one.
    pub bad_signature: String,
    /// Bodies for accepted events and for duplicates, where the sender wants one of its own.
    pub accepted: Option<String>,
    /// What it asks besides sending events.
    pub handshakes: Vec<Handshake>,
    /// Why its routes need `mode = "proxy"`.
    pub proxy_hint: Option<String>,
    /// How far its facts go.
    pub confidence: Confidence,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// What a reader should know.
    pub notes: String,
    /// A realistic body per event type, for `send` and `sign`; see [`super::sample::fill`].
    pub samples: Vec<Sample>,
    /// Requests with known verdicts, run by a test.
    pub vectors: Vec<Vector>,
}

/// Where the facts of a preset come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// The provider's own page, SDK or specification.
    Official,
    /// Other public code only.
    Implementations,
    /// Neither; `check` repeats it.
    Unconfirmed,
}

impl Confidence {
    /// Its name in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::Implementations => "implementations",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// How a provider delivers, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// What it takes for success, where that is not every 2xx.
    pub answer_ok: Option<String>,
    /// When it tries again, in words.
    pub retries: Option<String>,
    /// From the first try to the last automatic retry.
    pub retry_horizon: Option<Duration>,
    /// When it switches an endpoint off, in words.
    pub disable_rule: Option<String>,
    /// It gives up waiting for an answer after this.
    pub answer_limit: Option<Duration>,
    /// How its secrets are changed, in words.
    pub rotation: Option<String>,
    /// Where it sends from, in words.
    pub source_ips: Option<String>,
}

impl Preset {
    /// The scheme of that name; without one the default.
    pub fn scheme(&self, name: Option<&str>) -> Option<&Scheme> {
        match name {
            None => self.schemes.first(),
            Some(name) => self.schemes.iter().find(|scheme| *scheme.name == *name),
        }
    }

    /// The default scheme, where it is the digest of the body in a header.
    pub fn body_hmac(&self) -> Option<&BodyHmac> {
        match &self.schemes.first()?.rule {
            Rule::BodyHmac(rule) => Some(rule),
            _ => None,
        }
    }

    /// Whether its facts were ever confirmed.
    pub fn is_confirmed(&self) -> bool {
        self.confidence != Confidence::Unconfirmed
    }
}

/// The answer's body to a request whose signature is bad.
pub const INVALID_SIGNATURE: &str = r#"{"error":"Invalid signature"}"#;

/// A realistic event.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its type.
    pub event_type: String,
    /// Its body, with placeholders; see [`super::sample::fill`].
    pub body: String,
    /// Its content type.
    pub content_type: String,
    /// Headers that come with it, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A signed request with a known verdict.
#[derive(Debug, Clone)]
pub struct Vector {
    /// What it shows.
    pub about: String,
    /// The scheme; without one the default.
    pub scheme: Option<String>,
    /// What is fetched for it: a JWK Set, or a SubjectPublicKeyInfo in base64.
    pub fetched: Option<String>,
    /// The time at which it is received, in seconds since 1970.
    pub now_secs: Option<i64>,
    /// The method.
    pub method: String,
    /// The public URL with its query.
    pub url: Option<String>,
    /// The secret's text.
    pub secret: String,
    /// The headers, as sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Whether it must be accepted.
    pub valid: bool,
    /// `official` or `synthetic` (made by an independent script from the documented scheme).
    pub origin: String,
}

/// Every preset, by name.
pub fn all() -> &'static [Preset] {
    &PRESETS
}

/// The preset of that name or alias. A gateway reads only those that it uses.
pub fn find(name: &str) -> Option<&'static Preset> {
    if let Ok(at) = FILES.binary_search_by_key(&name, |(name, _)| name) {
        return ONE_BY_ONE.get(at).map(|preset| preset.get_or_init(|| parse(at)));
    }
    let is_alias = |preset: &&Preset| preset.aliases.iter().any(|alias| alias == name);
    all().iter().find(is_alias)
}

/// Name and text of every preset file, in the order of the names; listed by `build.rs`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/presets.rs"));

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| (0..FILES.len()).map(parse).collect());

static ONE_BY_ONE: LazyLock<Vec<OnceLock<Preset>>> =
    LazyLock::new(|| FILES.iter().map(|_| OnceLock::new()).collect());

/// Reads the file at that place of [`FILES`].
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the files are part of the binary, and a test reads every one"
)]
fn parse(at: usize) -> Preset {
    let (name, text) = FILES[at];
    preset_file::parse(name, text).expect("a valid embedded preset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_is_a_preset() {
        for (name, text) in FILES {
            preset_file::parse(name, text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn no_two_presets_share_a_name() {
        let mut names: Vec<&str> = Vec::new();
        for preset in all() {
            names.push(preset.name.as_str());
            names.extend(preset.aliases.iter().map(String::as_str));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn presets_are_found_by_their_file_names() {
        for (name, _) in FILES {
            assert_eq!(find(name).unwrap().name.as_str(), *name);
        }
        assert_eq!(find("twitter").unwrap().name.as_str(), "x");
        assert!(find("Quantiv").is_none());
        assert!(find("").is_none());
    }
}
