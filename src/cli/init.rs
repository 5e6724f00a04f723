//! `hooklatch init`: a small configuration that `check` accepts as soon as the secrets are there.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{EXIT_CONFIG, err, out};
use crate::config::{Env, Severity, inspect};
use crate::event::Timestamp;
use crate::provider::preset;

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A provider (see: hooklatch providers); may be given several times
    #[arg(long, required = true, value_name = "NAME")]
    pub provider: Vec<String>,
    /// Where the app takes the events
    #[arg(long, value_name = "URL")]
    pub upstream: String,
    /// Where the provider sends them [default: /hooks/<provider>]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// The folder of the store
    #[arg(long, value_name = "FOLDER", default_value = "./hooklatch-data")]
    pub store: String,
    /// Where to write the configuration
    #[arg(long, value_name = "FILE", default_value = "hooklatch.toml")]
    pub out: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Writes the file and says what comes next; 2 when the arguments would not make a configuration.
pub fn run(args: &Args) -> ExitCode {
    let mut providers = args.provider.clone();
    providers.dedup();
    if providers.len() > 1 && args.path.is_some() {
        err("--path goes with one --provider only: each provider needs a path of its own");
        return ExitCode::from(EXIT_CONFIG);
    }
    let text = text(&providers, args);
    // The written file must be one that `check` accepts, so mistakes in the arguments are found by the same reader.
    let (config, problems) = inspect(&args.out.display().to_string(), &text, &SecretsPresent);
    if config.is_none() {
        let errors = problems
            .list()
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        for problem in errors {
            err(&format!("error: {}", problem.text));
            if let Some(help) = &problem.help {
                err(&format!("  help: {help}"));
            }
        }
        return ExitCode::from(EXIT_CONFIG);
    }
    if let Err(error) = write(&args.out, &text, args.force) {
        let help = if error.kind() == io::ErrorKind::AlreadyExists {
            "; use --force to replace it, or --out for another file"
        } else {
            ""
        };
        err(&format!(
            "error: cannot write {}: {error}{help}",
            args.out.display()
        ));
        return ExitCode::FAILURE;
    }
    let plural = if providers.len() == 1 { "" } else { "s" };
    out(&format!(
        "wrote {} ({} route{plural})",
        args.out.display(),
        providers.len()
    ));
    let config = if args.out == Path::new("hooklatch.toml") {
        String::new()
    } else {
        format!(" --config {}", args.out.display())
    };
    out("next:");
    for provider in &providers {
        out(&format!(
            "  export {}=...   # the secret from {}",
            variable(provider),
            title(provider)
        ));
    }
    out(&format!("  hooklatch check{config}"));
    out(&format!("  hooklatch run{config}"));
    ExitCode::SUCCESS
}

fn text(providers: &[String], args: &Args) -> String {
    let mut text = String::from(
        "# Checked by: hooklatch check\n\nlisten = \"0.0.0.0:8080\"\n\n# Events are kept here until the app has taken \
         them: a folder on a lasting volume.\n[store]\n",
    );
    text.push_str(&format!("path = {}\n\n", quoted(&args.store)));
    text.push_str(
        "# Where each secret comes from: a variable, or the file that <variable>_FILE names.\n[secrets]\n",
    );
    for provider in providers {
        text.push_str(&format!(
            "{} = {{ env = {} }}\n",
            key(provider),
            quoted(&variable(provider))
        ));
    }
    for provider in providers {
        let path = args.path.clone().unwrap_or_else(|| format!("/hooks/{provider}"));
        text.push_str(&format!(
            "\n[[route]]\npath = {}\nprovider = {}\nsecrets = [{}]\nupstream = {{ url = {} }}\n",
            quoted(&path),
            quoted(provider),
            quoted(provider),
            quoted(&args.upstream)
        ));
    }
    text
}

/// A TOML string; what cannot stand in one is escaped.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|letter| match letter {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            control if control.is_control() => format!("\\u{:04X}", u32::from(control)),
            other => other.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// A TOML key: bare where that is enough.
fn key(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.is_empty() && text.bytes().all(bare) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// `QUANTIV_WEBHOOK_SECRET`.
fn variable(provider: &str) -> String {
    let upper: String = provider
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{upper}_WEBHOOK_SECRET")
}

fn title(provider: &str) -> String {
    preset::find(provider).map_or_else(|| provider.to_owned(), |preset| preset.title.clone())
}

fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path)?.write_all(text.as_bytes())
}

/// Answers for every variable, since the secrets are put there later.
struct SecretsPresent;

impl Env for SecretsPresent {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        // 24 bytes in base64, so that it is a key in every form.
        (!name.ends_with("_FILE")).then(|| b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec())
    }

    fn read_file(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_any_text_one_string() {
        for given in ["plain", "a\"b", "a\\b", "a\nb", "\u{1}"] {
            let parsed: toml::Table = format!("x = {}", quoted(given)).parse().unwrap();
            assert_eq!(parsed.get("x").and_then(|value| value.as_str()), Some(given));
        }
    }
}
