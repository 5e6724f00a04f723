//! What can go wrong in a verb, in words for the person at the terminal.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use crate::provider::key::KeyFormError;
use crate::provider::preset;

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// There is no preset of that name.
    #[error(
        "there is no provider {given:?}{} `hooklatch providers` lists all",
        nearest_provider(given)
    )]
    Provider {
        /// What was given.
        given: String,
    },
    /// The preset knows no such event.
    #[error("{provider} has no sample event {given:?}; `hooklatch providers show {provider}` lists them")]
    Event {
        /// The preset.
        provider: String,
        /// What was given.
        given: String,
    },
    /// No secret was given.
    #[error("no secret was given; use --secret-env NAME, --secret-file FILE or --route NAME")]
    NoSecret,
    /// The environment variable is not set.
    #[error("the environment variable {name} is not set; export it, or use --secret-file")]
    Env {
        /// Its name.
        name: String,
    },
    /// The secret is no key under the provider's scheme.
    #[error("{name}: {error}")]
    Key {
        /// Where the secret is from.
        name: String,
        /// What is wrong with it.
        error: KeyFormError,
    },
    /// A file could not be read or written.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Standard input or output failed.
    #[error("standard input or output: {0}")]
    Stdio(#[from] io::Error),
    /// The captured request cannot be read.
    #[error("the captured request {0}")]
    Capture(Cow<'static, str>),
    /// The configuration has no answer; the text says why.
    #[error("{0}")]
    Config(String),
}

/// The preset whose name is most like `given`.
fn nearest_provider(given: &str) -> String {
    let names = preset::all().iter().map(|preset| preset.name.as_str());
    nearest(given, names).map_or_else(|| ";".to_owned(), |name| format!("; did you mean {name:?}?"))
}

/// The name most like `given`, if any is like it at all.
pub(super) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const ALIKE: f64 = 0.8;
    names
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

impl CliError {
    /// The exit code of the contract: 2 for arguments and configuration, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Stdio(_) => 1,
            _ => 2,
        }
    }
}
