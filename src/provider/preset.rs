//! The presets: `config/providers/*.toml`, embedded and parsed at first use.

use std::sync::LazyLock;
use std::time::Duration;

use super::identify::IdentifyRule;
use super::preset_file;
use super::scheme::Scheme;
use crate::event::ProviderName;

/// All that is known of one provider.
#[derive(Debug, Clone)]
pub struct Preset {
    /// The name used in `provider = "..."`: the name of its file.
    pub name: ProviderName,
    /// The name people know it by.
    pub title: String,
    /// How it signs.
    pub scheme: Scheme,
    /// Where its id and type stand.
    pub identify: IdentifyRule,
    /// The dedup window of bodies without a usable id.
    pub body_window: Duration,
    /// When the provider tries again, in words.
    pub retries: Option<String>,
    /// From the first try to the provider's last automatic retry.
    pub retry_horizon: Option<Duration>,
    /// When the provider switches an endpoint off, in words.
    pub disable_rule: Option<String>,
    /// The provider gives up waiting for an answer after this.
    pub answer_limit: Option<Duration>,
    /// Status and body for a request without a signature header; 401 and [`INVALID_SIGNATURE`] by default.
    pub missing_signature: (u16, String),
    /// False while the facts were never confirmed; `check` repeats it.
    pub confirmed: bool,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// What a reader should know.
    pub notes: String,
    /// A realistic body per event type, for `send` and `sign`; `{id}`, `{uuid}` and `{time}` are filled in.
    pub samples: Vec<Sample>,
    /// Requests with known verdicts, run by a test.
    pub vectors: Vec<Vector>,
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
}

/// A signed request with a known verdict.
#[derive(Debug, Clone)]
pub struct Vector {
    /// What it shows.
    pub about: String,
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

/// The preset of that name.
pub fn find(name: &str) -> Option<&'static Preset> {
    all().iter().find(|preset| preset.name.as_str() == name)
}

/// Name and text of every preset file, in the order of the names; listed by `build.rs`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/presets.rs"));

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    #[allow(
        clippy::expect_used,
        reason = "the files are part of the binary, and a test reads every one"
    )]
    let parse =
        |(name, text): &(&str, &str)| preset_file::parse(name, text).expect("a valid embedded preset");
    FILES.iter().map(parse).collect()
});

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
    fn presets_are_found_by_their_file_names() {
        for name in ["connectgain", "iverton", "ltvboost", "quantiv", "quintago"] {
            assert_eq!(find(name).unwrap().name.as_str(), name);
        }
        assert!(find("Quantiv").is_none());
        assert!(find("").is_none());
    }
}
