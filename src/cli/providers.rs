//! `hooklatch providers`: what is known of each provider, to compare with its own page.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::CliError;
use super::secret_args::find;
use crate::provider::preset::{self, Preset};
use crate::provider::scheme::{Encoding, KeyForm, Prefix};

/// List the provider presets, or show one.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do; `list` by default
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// How to write it
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub output: Output,
}

/// The verbs of `providers`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// List the presets
    List,
    /// Show all that is known of one
    Show {
        /// The preset's name
        name: String,
    },
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Writes the list or one preset.
///
/// # Errors
/// When there is no such preset.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    match (&args.verb, args.output) {
        (None | Some(Verb::List), Output::Text) => {
            for preset in preset::all() {
                let confirmed = if preset.confirmed { "" } else { " (not confirmed)" };
                let headers = preset.scheme.headers.join(", ");
                writeln!(
                    out,
                    "{:<14}{:<14}{headers}{confirmed}",
                    preset.name.as_str(),
                    preset.title
                )?;
            }
        }
        (None | Some(Verb::List), Output::Json) => {
            let list: Vec<Value> = preset::all().iter().map(as_json).collect();
            writeln!(out, "{:#}", Value::Array(list))?;
        }
        (Some(Verb::Show { name }), Output::Text) => show(find(name)?, out)?,
        (Some(Verb::Show { name }), Output::Json) => writeln!(out, "{:#}", as_json(find(name)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(preset: &Preset, out: &mut dyn Write) -> Result<(), CliError> {
    let identify = &preset.identify;
    let pointer = |tokens: &Option<Vec<Box<str>>>| tokens.as_deref().map(pointer);
    let id = pointer(&identify.id).map_or_else(
        || "none: the hash of the body is the key".to_owned(),
        |id| format!("{id} in the body, else the hash of the body"),
    );
    let mut event_type = pointer(&identify.event_type)
        .map_or_else(|| "not in the body".to_owned(), |at| format!("{at} in the body"));
    if let Some(header) = &identify.type_header {
        event_type.push_str(&format!("; {header} is not signed and only compared"));
    }
    let unknown = || "not documented".to_owned();
    let (status, body) = &preset.missing_signature;
    let events: Vec<&str> = preset.samples.iter().map(|sample| &*sample.event_type).collect();
    let mut horizon = preset.retries.clone().unwrap_or_else(unknown);
    if let Some(limit) = preset.retry_horizon {
        horizon.push_str(&format!(" (dedup window: at least {})", short(limit)));
    }
    writeln!(out, "{} ({})", preset.title, preset.name)?;
    for (label, text) in [
        (
            "confirmed",
            if preset.confirmed {
                "yes"
            } else {
                "no: try it with one real event"
            }
            .to_owned(),
        ),
        ("header", preset.scheme.headers.join(", then ")),
        ("prefix", prefix(&preset.scheme.prefix)),
        ("encoding", encoding(preset.scheme.encoding).to_owned()),
        ("signed", "HMAC-SHA256 over the raw body".to_owned()),
        ("key", key(preset.scheme.key).to_owned()),
        ("event id", id),
        ("event type", event_type),
        ("events", events.join(", ")),
        ("retries", horizon),
        ("disabled", preset.disable_rule.clone().unwrap_or_else(unknown)),
        ("answer within", preset.answer_limit.map_or_else(unknown, short)),
        ("dedup by body", format!("for {}", short(preset.body_window))),
        ("no signature", format!("{status} {body}")),
        ("sources", preset.sources.join("; ")),
    ] {
        writeln!(out, "  {label:<15}{text}")?;
    }
    writeln!(out, "\n{}\n\n{}", preset.notes, config_lines(preset))?;
    Ok(())
}

/// Lines to paste into the configuration.
fn config_lines(preset: &Preset) -> String {
    let name = &preset.name;
    let variable = name.as_str().to_uppercase().replace('-', "_");
    format!(
        "[secrets]\n{name} = {{ env = \"{variable}_WEBHOOK_SECRET\" }}\n\n[[route]]\npath = \"/hooks/{name}\"\n\
         provider = \"{name}\"\nsecrets = [\"{name}\"]\nupstream = {{ url = \"http://127.0.0.1:3000/hooks/{name}\" }}"
    )
}

fn as_json(preset: &Preset) -> Value {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
    let pointer = |tokens: &Option<Vec<Box<str>>>| tokens.as_deref().map(pointer);
    let events: Vec<&str> = preset.samples.iter().map(|sample| &*sample.event_type).collect();
    json!({
        "name": preset.name.as_str(),
        "title": preset.title,
        "confirmed": preset.confirmed,
        "headers": preset.scheme.headers,
        "prefix": preset.scheme.prefix.text(),
        "prefix_required": matches!(preset.scheme.prefix, Prefix::Required(_)),
        "encoding": encoding(preset.scheme.encoding),
        "algorithm": "hmac-sha256",
        "signed": "body",
        "key": key(preset.scheme.key),
        "id": pointer(&preset.identify.id),
        "type": pointer(&preset.identify.event_type),
        "type_header": preset.identify.type_header,
        "events": events,
        "retries": preset.retries,
        "retry_horizon_secs": seconds(preset.retry_horizon),
        "disable_rule": preset.disable_rule,
        "answer_limit_secs": seconds(preset.answer_limit),
        "dedup_body_window_secs": preset.body_window.as_secs(),
        "missing_signature_status": preset.missing_signature.0,
        "missing_signature_body": preset.missing_signature.1,
        "sources": preset.sources,
        "notes": preset.notes,
        "config": config_lines(preset),
    })
}

fn pointer(tokens: &[Box<str>]) -> String {
    let escaped = |token: &str| format!("/{}", token.replace('~', "~0").replace('/', "~1"));
    tokens.iter().map(|token| escaped(token)).collect()
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
        Encoding::HexOrBase64 => "hex or base64",
    }
}

fn key(key: KeyForm) -> &'static str {
    match key {
        KeyForm::Utf8 => "the secret's text as it is",
        KeyForm::Hex => "the secret decoded from hex",
        KeyForm::Base64 => "the secret decoded from base64",
        KeyForm::Whsec => "what follows whsec_, decoded from base64",
    }
}

/// As in the configuration: `26h36m`, `7d`.
fn short(duration: Duration) -> String {
    let mut rest_secs = duration.as_secs();
    let mut text = String::new();
    let units: &[(&str, u64)] = &[("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    // 26h36m is easier to compare with a provider's page than 1d2h36m.
    let from = usize::from(!rest_secs.is_multiple_of(86_400));
    for (unit, unit_secs) in units.iter().skip(from) {
        if rest_secs >= *unit_secs {
            text.push_str(&format!("{}{unit}", rest_secs / unit_secs));
            rest_secs %= unit_secs;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn providers(arguments: &[&str]) -> String {
        let cli = Cli::parse_from([&["providers"], arguments].concat());
        let mut out = Vec::new();
        run(&cli.args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_list() {
        let text = providers(&[]);
        assert_eq!(text, providers(&["list"]));
        assert_eq!(text.lines().count(), preset::all().len());
        assert_eq!(
            text.lines().next().unwrap(),
            "connectgain   ConnectGain   x-webhook-signature (not confirmed)"
        );
        let list: Value = serde_json::from_str(&providers(&["--output", "json"])).unwrap();
        assert_eq!(list[1]["name"], "iverton");
    }

    #[test]
    fn one_preset() {
        let text = providers(&["show", "quantiv"]);
        for line in [
            "Quantiv (quantiv)",
            "  header         x-quantiv-signature, then x-webhook-signature",
            "  prefix         sha256= (optional)",
            "  event id       /id in the body, else the hash of the body",
            "  event type     /event in the body",
            "  events         lead.created, lead.updated, widget.created, widget.updated",
            "  dedup by body  for 1h",
            "  no signature   400 {\"error\":\"Missing signature header\"}",
            "quantiv = { env = \"QUANTIV_WEBHOOK_SECRET\" }",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let shown: Value =
            serde_json::from_str(&providers(&["show", "iverton", "--output", "json"])).unwrap();
        assert_eq!(shown["retry_horizon_secs"], 95_760);
        assert_eq!(shown["prefix_required"], true);
        let toml: toml::Table = toml::from_str(shown["config"].as_str().unwrap()).unwrap();
        assert_eq!(toml["route"][0]["provider"].as_str(), Some("iverton"));
    }

    #[test]
    fn durations_are_written_as_in_the_configuration() {
        for (secs, expected) in [
            (604_800, "7d"),
            (95_760, "26h36m"),
            (2_550, "42m30s"),
            (5, "5s"),
            (86_400, "1d"),
        ] {
            assert_eq!(short(Duration::from_secs(secs)), expected);
        }
    }
}
