//! `hooklatch providers`: what is known of each provider, to compare with its own page.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::config_lines::Lines;
use super::error::CliError;
use super::secret_args::find;
use crate::provider::describe::{carried, describe};
use crate::provider::preset::{self, Confidence, Preset};
use crate::provider::scheme::Scheme;

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
    /// Write docs/providers.md
    #[command(hide = true)]
    Page,
    /// Show all that is known of one
    Show {
        /// The preset's name
        name: String,
    },
    /// Anything else: most likely the name of one.
    #[command(external_subcommand)]
    Other(Vec<String>),
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
                let confirmed = if preset.is_confirmed() {
                    ""
                } else {
                    " (unconfirmed)"
                };
                writeln!(
                    out,
                    "{:<19}{:<27}{}{confirmed}",
                    preset.name.as_str(),
                    preset.title,
                    preset
                        .schemes
                        .first()
                        .map_or_else(|| "signs nothing".to_owned(), carried)
                )?;
            }
        }
        (None | Some(Verb::List), Output::Json) => {
            let list: Vec<Value> = preset::all().iter().map(as_json).collect();
            writeln!(out, "{:#}", Value::Array(list))?;
        }
        (Some(Verb::Page), _) => super::provider_page::write(out)?,
        (Some(Verb::Show { name }), Output::Text) => show(find(name)?, out)?,
        (Some(Verb::Other(words)), _) => return Err(no_such_verb(words)),
        (Some(Verb::Show { name }), Output::Json) => writeln!(out, "{:#}", as_json(find(name)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is said of a word that is no verb.
fn no_such_verb(words: &[String]) -> CliError {
    let word = words.first().map_or("", |word| word);
    let name = find(word).map_or("NAME", |preset| preset.name.as_str());
    CliError::Config(format!(
        "`providers` takes `list` or `show`, not {word:?}; to see one preset: hooklatch providers show {name}"
    ))
}

fn show(preset: &Preset, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(out, "{} ({})", preset.title, preset.name)?;
    for (label, text) in facts(preset) {
        writeln!(out, "  {label:<15}{text}")?;
    }
    writeln!(out, "\n{}\n\n{}", preset.notes, config_lines(preset))?;
    Ok(())
}

/// All that is known, with a label each; what is unknown is left out, but for what everybody asks.
pub(super) fn facts(preset: &Preset) -> Vec<(&'static str, String)> {
    let delivery = &preset.delivery;
    let unknown = || "not documented".to_owned();
    let mut facts = vec![("confidence", confidence(preset.confidence).to_owned())];
    for scheme in &preset.schemes {
        if preset.schemes.len() > 1 {
            facts.push(("scheme", format!("{}:", scheme.name)));
        }
        facts.extend(describe(scheme));
    }
    if preset.schemes.is_empty() {
        facts.push((
            "signed",
            "nothing: put a long secret into the path, and use allow_ips".to_owned(),
        ));
    }
    facts.push(("event id", event_id(preset)));
    facts.push(("event type", event_type(preset)));
    let events: Vec<&str> = preset.samples.iter().map(|sample| &*sample.event_type).collect();
    if !events.is_empty() {
        facts.push(("events", events.join(", ")));
    }
    let mut retries = delivery.retries.clone().unwrap_or_else(unknown);
    if let Some(limit) = delivery.retry_horizon {
        retries.push_str(&format!(" (dedup window: at least {})", short(limit)));
    }
    facts.push(("retries", retries));
    facts.push(("disabled", delivery.disable_rule.clone().unwrap_or_else(unknown)));
    facts.push(("answer within", delivery.answer_limit.map_or_else(unknown, short)));
    let more = [
        ("success", delivery.answer_ok.clone()),
        ("rotation", delivery.rotation.clone()),
        ("sent from", delivery.source_ips.clone()),
        ("proxy mode", preset.proxy_hint.clone()),
        (
            "also known as",
            Some(preset.aliases.join(", ")).filter(|names| !names.is_empty()),
        ),
    ];
    facts.extend(more.into_iter().filter_map(|(label, text)| Some((label, text?))));
    for handshake in &preset.handshakes {
        facts.push(("handshake", handshake.describe()));
    }
    facts.push(("dedup by body", format!("for {}", short(preset.body_window))));
    let (status, body) = &preset.missing_signature;
    facts.push(("no signature", format!("{status} {body}")));
    facts.push(("sources", preset.sources.join("; ")));
    facts
}

fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Official => "official: from the provider's own page, SDK or specification",
        Confidence::Implementations => "implementations: from other public code",
        Confidence::Unconfirmed => "unconfirmed: try it with one real event",
    }
}

fn event_id(preset: &Preset) -> String {
    let place = preset.identify.id_text().map(in_words);
    let mut text = match place {
        Some(place) => format!("{place}, else the hash of the body"),
        None => "none: the hash of the body is the key".to_owned(),
    };
    if let Some(header) = &preset.id_header {
        text.push_str(&format!("; {header} is not signed and not used"));
    }
    text
}

fn event_type(preset: &Preset) -> String {
    let place = preset.identify.type_text().map(in_words);
    match (place, &preset.identify.type_header) {
        (Some(place), Some(header)) => format!("{place}; {header} is not signed and only compared"),
        (Some(place), None) => place,
        (None, Some(header)) => format!("{header}, which is not signed"),
        (None, None) => "not known".to_owned(),
    }
}

/// `/id` stands in the body.
fn in_words(place: String) -> String {
    match place.starts_with('/') && !place.contains(' ') {
        true => format!("{place} in the body"),
        false => place,
    }
}

/// Lines to paste into the configuration.
pub(super) fn config_lines(preset: &Preset) -> String {
    let name = preset.name.as_str();
    let end = if preset.schemes.is_empty() {
        "-long-secret-here"
    } else {
        ""
    };
    let lines = Lines {
        preset,
        name,
        path: &format!("/hooks/{name}{end}"),
        upstream: &format!("http://127.0.0.1:3000/hooks/{name}"),
        public_url: None,
    };
    match preset.schemes.is_empty() {
        true => lines.route(),
        false => format!("[secrets]\n{}\n{}", lines.secrets(), lines.route()),
    }
}

fn as_json(preset: &Preset) -> Value {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
    let events: Vec<&str> = preset.samples.iter().map(|sample| &*sample.event_type).collect();
    let schemes: Vec<Value> = preset.schemes.iter().map(scheme_json).collect();
    let handshakes: Vec<Value> = preset
        .handshakes
        .iter()
        .map(|handshake| json!({ "name": handshake.name, "text": handshake.describe() }))
        .collect();
    let delivery = &preset.delivery;
    json!({
        "name": preset.name.as_str(),
        "aliases": preset.aliases,
        "title": preset.title,
        "confidence": preset.confidence.name(),
        "schemes": schemes,
        "handshakes": handshakes,
        "id": preset.identify.id_text(),
        "id_header": preset.id_header,
        "type": preset.identify.type_text(),
        "type_header": preset.identify.type_header,
        "events": events,
        "answer_ok": delivery.answer_ok,
        "retries": delivery.retries,
        "retry_horizon_secs": seconds(delivery.retry_horizon),
        "disable_rule": delivery.disable_rule,
        "answer_limit_secs": seconds(delivery.answer_limit),
        "rotation": delivery.rotation,
        "source_ips": delivery.source_ips,
        "proxy_hint": preset.proxy_hint,
        "dedup_body_window_secs": preset.body_window.as_secs(),
        "missing_signature_status": preset.missing_signature.0,
        "missing_signature_body": preset.missing_signature.1,
        "sources": preset.sources,
        "notes": preset.notes,
        "config": config_lines(preset),
    })
}

fn scheme_json(scheme: &Scheme) -> Value {
    let facts: serde_json::Map<String, Value> = describe(scheme)
        .into_iter()
        .map(|(label, text)| (label.replace(' ', "_"), Value::from(text)))
        .collect();
    json!({ "name": scheme.name, "needs_public_url": scheme.needs_url(), "facts": facts })
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
        for line in [
            "connectgain        ConnectGain                x-webhook-signature (unconfirmed)",
            "stripe             Stripe                     stripe-signature",
            "docusign           DocuSign Connect           x-docusign-signature-1, x-docusign-signature-2, ...",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let list: Value = serde_json::from_str(&providers(&["--output", "json"])).unwrap();
        assert_eq!(list[0]["name"], "ably");
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
        assert_eq!(shown["schemes"][0]["facts"]["prefix"], "sha256= (required)");
        let toml: toml::Table = toml::from_str(shown["config"].as_str().unwrap()).unwrap();
        assert_eq!(toml["route"][0]["provider"].as_str(), Some("iverton"));
    }

    #[test]
    fn what_is_signed_is_shown_for_every_kind_of_scheme() {
        for (name, line) in [
            ("stripe", "  form           t=<time>,v1=<signature>,..."),
            ("stripe", "  signed         HMAC-SHA256 over {timestamp}.{body}"),
            (
                "stripe",
                "  time           t of the header, in seconds, at most 300 s off",
            ),
            ("gitlab", "  sent           the secret itself"),
            (
                "zoom",
                "  handshake      endpoint.url_validation (POST with /event = endpoint.url_validation): answered 200, only with a good signature",
            ),
            (
                "twilio",
                "public_url = \"https://hooks.example.com/hooks/twilio\"",
            ),
            ("meta", "verify_token = { env = \"META_VERIFY_TOKEN\" }"),
            ("dockerhub", "verify = \"none\""),
            ("strava", "verify_token = { env = \"STRAVA_VERIFY_TOKEN\" }"),
            (
                "gitlab",
                "# gitlab = { env = \"GITLAB_WEBHOOK_SECRET\", scheme = \"signing\" }   # where it signs in that way: what follows whsec_, \
                 decoded from base64",
            ),
            ("discord", "# the provider's public key, 32 bytes in hex"),
            ("asana", "asana = { file = \"./asana-webhook-secret\" }"),
        ] {
            let text = providers(&["show", name]);
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_verb_leads_to_show() {
        for (word, says) in [
            ("stripe", "providers show stripe"),
            ("nope", "providers show NAME"),
        ] {
            let cli = Cli::parse_from(["providers", word]);
            let error = run(&cli.args, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
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
