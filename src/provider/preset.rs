//! The presets: `config/providers/*.toml`, embedded and parsed at first use.

use std::time::Duration;

use super::identify::IdentifyRule;
use super::scheme::Scheme;
use crate::event::ProviderName;

/// All that is known of one provider.
#[derive(Debug, Clone)]
pub struct Preset {
    /// The name used in `provider = "..."`.
    pub name: ProviderName,
    /// The name people know it by.
    pub title: String,
    /// How it signs.
    pub scheme: Scheme,
    /// Where its id and type stand.
    pub identify: IdentifyRule,
    /// The dedup window of bodies without a usable id.
    pub body_window: Duration,
    /// From the first try to the provider's last automatic retry.
    pub retry_horizon: Option<Duration>,
    /// When the provider switches an endpoint off, in words.
    pub disable_rule: Option<String>,
    /// The provider gives up waiting for an answer after this.
    pub answer_limit: Option<Duration>,
    /// Status and body for a request without a signature header; 401 and `Invalid signature` by default.
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

/// A realistic event.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its type.
    pub event_type: String,
    /// Its body, with placeholders.
    pub body: String,
}

/// A signed request with a known verdict.
#[derive(Debug, Clone)]
pub struct Vector {
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
    unimplemented!("provider helper")
}

/// The preset of that name.
pub fn find(name: &str) -> Option<&'static Preset> {
    all().iter().find(|preset| preset.name.as_str() == name)
}
