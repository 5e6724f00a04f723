//! How the senders of a route prove themselves: a preset, a `verify` table, or nobody has to.

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::context::{At, Span};
use super::secrets::{Secret, Secrets};
use super::section::{Section, suggest};
use crate::event::ProviderName;
use crate::provider::identify::IdentifyRule;
use crate::provider::preset::{self, Preset};
use crate::provider::scheme::{Encoding, KeyForm, Prefix, Scheme};
use crate::provider::signature::{LiveKey, SECRETS_MAX};
use crate::receive::settings::Verify;

/// The body window where no preset says that bodies carry their own time: two honest events may be equal.
const BODY_WINDOW_UNKNOWN: Duration = Duration::from_secs(3600);

/// Header names of one custom scheme.
const HEADERS_MAX: usize = 4;

/// What the route's proof decides, with what its preset gives.
pub(super) struct Proof<'s> {
    pub(super) provider: ProviderName,
    pub(super) preset: Option<&'static Preset>,
    pub(super) verify: Verify,
    pub(super) identify: IdentifyRule,
    pub(super) body_window: Duration,
    /// The secrets behind the keys, to compare routes.
    pub(super) secrets: Vec<&'s Secret>,
}

/// What stands before the keys are made.
enum Sender {
    Preset(&'static Preset),
    Custom(Scheme),
    Anybody,
}

/// Reads `provider`, `verify`, `enforce` and `secrets`; `None` when one of them is wrong.
pub(super) fn proof<'s>(route: &Section<'_>, secrets: &'s Secrets) -> Option<Proof<'s>> {
    let context = route.context;
    let enforce = route.boolean("enforce");
    let sender = sender(route);
    let listed = listed(route, secrets);
    match (sender?, listed) {
        (Sender::Anybody, listed) => {
            let span = route.key_span("verify");
            let text = "verify = \"none\": ANYBODY can send events here, and nothing checks them";
            context.warn(
                &span,
                text,
                Some("name a provider, or describe its signature in verify = { ... }"),
            );
            if listed.is_some() {
                let text = "secrets are listed, but verify = \"none\" checks nothing";
                context.error(&route.key_span("secrets"), text, Some("remove one of the two"));
            }
            if let Some(enforce) = enforce {
                let text = "\"enforce\" has no meaning with verify = \"none\"";
                context.error(&enforce.span, text, Some("remove it"));
            }
            Some(Proof {
                provider: ProviderName::new("none"),
                preset: None,
                verify: Verify::Nothing,
                identify: IdentifyRule::default(),
                body_window: BODY_WINDOW_UNKNOWN,
                secrets: Vec::new(),
            })
        }
        (_, None) => {
            if !route.has("secrets") {
                let help = "write secrets = [\"name\"] with names defined in [secrets]; without one no signature can be checked";
                route.missing("secrets", help);
            }
            None
        }
        (sender, Some(listed)) => {
            let (preset, scheme) = match sender {
                Sender::Preset(preset) => (Some(preset), preset.scheme.clone()),
                Sender::Custom(scheme) => (None, scheme),
                Sender::Anybody => return None,
            };
            let enforce = enforce.is_none_or(|enforce| {
                if !enforce.value {
                    let text =
                        "enforce = false: events with a WRONG or MISSING signature go through, only marked";
                    context.warn(
                        &enforce.span,
                        text,
                        Some("remove it as soon as the signatures match"),
                    );
                }
                enforce.value
            });
            if let Some(preset) = preset.filter(|preset| !preset.confirmed) {
                let text = format!(
                    "what is known of {}'s signature was never confirmed; see: hooklatch providers show {}",
                    preset.title, preset.name
                );
                let help = "send a real event before relying on it";
                context.warn(&route.key_span("provider"), text, Some(help));
            }
            let keys = keys(route, scheme.key, &listed)?;
            Some(Proof {
                provider: preset.map_or_else(|| ProviderName::new("custom"), |preset| preset.name.clone()),
                preset,
                verify: Verify::Signature {
                    scheme: Arc::new(scheme),
                    keys,
                    enforce,
                },
                identify: preset.map(|preset| preset.identify.clone()).unwrap_or_default(),
                body_window: preset.map_or(BODY_WINDOW_UNKNOWN, |preset| preset.body_window),
                secrets: listed.into_iter().map(|(secret, _)| secret).collect(),
            })
        }
    }
}

fn sender(route: &Section<'_>) -> Option<Sender> {
    let context = route.context;
    match (route.has("provider"), route.has("verify")) {
        (true, true) => {
            let text = "\"provider\" and \"verify\" are both written; a provider says already how to verify";
            context.error(&route.key_span("verify"), text, Some("remove one of the two"));
            // Both are still read for their own mistakes.
            preset_of(route);
            verify_of(route);
            None
        }
        (true, false) => preset_of(route).map(Sender::Preset),
        (false, true) => verify_of(route),
        (false, false) => {
            let help = "write provider = \"name\" (see: hooklatch providers), or verify = { header = \"X-Signature\" }";
            route.missing("provider", help);
            None
        }
    }
}

fn preset_of(route: &Section<'_>) -> Option<&'static Preset> {
    let name = route.string("provider")?;
    let found = preset::find(name.value);
    if found.is_none() {
        let near = suggest(
            name.value,
            preset::all().iter().map(|preset| preset.name.as_str()),
        );
        let hint = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        let text = format!("provider {:?} is unknown{hint}", name.value);
        let help = "see: hooklatch providers, or describe its signature in verify = { ... }";
        route.context.wrong(&name.span, text, Some(help));
    }
    found
}

fn verify_of(route: &Section<'_>) -> Option<Sender> {
    let item = route.item("verify")?;
    if let DeValue::String(word) = item.value.get_ref() {
        if word == "none" {
            return Some(Sender::Anybody);
        }
        let text = "\"verify\" must be a table, such as { header = \"X-Signature\" }, or \"none\"";
        route.context.wrong(&item.span(), text, None);
        return None;
    }
    let table = route.table("verify", "{ header = \"X-Signature\" }")?;
    let scheme = scheme(&table);
    table.finish();
    scheme.map(Sender::Custom)
}

/// The custom scheme: HMAC-SHA256 over the raw body, carried in a header.
fn scheme(table: &Section<'_>) -> Option<Scheme> {
    let context = table.context;
    let headers = header_names(table);
    let encoding = match table.word("encoding", &["hex", "base64", "hex_or_base64"]) {
        Some("base64") => Encoding::Base64,
        Some("hex_or_base64") => Encoding::HexOrBase64,
        _ => Encoding::Hex,
    };
    table.word("algorithm", &["hmac-sha256"]);
    let key = match table.word("key", &["utf8", "hex", "base64", "whsec"]) {
        Some("hex") => KeyForm::Hex,
        Some("base64") => KeyForm::Base64,
        Some("whsec") => KeyForm::Whsec,
        _ => KeyForm::Utf8,
    };
    let optional = table.boolean("prefix_optional");
    let prefix = match (table.string("prefix"), optional) {
        (None, None) => Prefix::None,
        (None, Some(optional)) => {
            context.wrong(
                &optional.span,
                "\"prefix_optional\" is written without a \"prefix\"",
                None,
            );
            Prefix::None
        }
        (Some(prefix), _)
            if prefix.value.is_empty() || !prefix.value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) =>
        {
            let text = "\"prefix\" must be visible ASCII text, such as \"sha256=\"; leave it out where there is none";
            context.wrong(&prefix.span, text, None);
            Prefix::None
        }
        (Some(prefix), optional) if optional.as_ref().is_some_and(|at| at.value) => {
            Prefix::Optional(prefix.value.into())
        }
        (Some(prefix), _) => Prefix::Required(prefix.value.into()),
    };
    Some(Scheme {
        headers: headers?,
        prefix,
        encoding,
        key,
    })
}

fn header_names(table: &Section<'_>) -> Option<Vec<Box<str>>> {
    let context = table.context;
    if !table.has("header") {
        table.missing(
            "header",
            "write header = \"X-Signature\", the header that carries the signature",
        );
        return None;
    }
    let written = match table.item("header")?.value.get_ref() {
        DeValue::Array(_) => table.strings("header")?,
        _ => {
            let one = table.string("header")?;
            At {
                span: one.span.clone(),
                value: vec![one],
            }
        }
    };
    if written.value.is_empty() || written.value.len() > HEADERS_MAX {
        let text = format!("\"header\" takes 1 to {HEADERS_MAX} names");
        context.wrong(&written.span, text, None);
        return None;
    }
    let mut names: Vec<Box<str>> = Vec::new();
    let mut all_good = true;
    for name in &written.value {
        let lower = name.value.to_ascii_lowercase();
        let usable = http::HeaderName::from_bytes(lower.as_bytes()).is_ok()
            && !UNUSABLE_HEADERS.contains(&lower.as_str())
            && !lower.replace('_', "-").starts_with("hooklatch-");
        if !usable {
            let text = format!("{:?} cannot be the header of a signature", name.value);
            context.wrong(&name.span, text, None);
            all_good = false;
        } else if names.iter().any(|other| **other == *lower) {
            context.wrong(
                &name.span,
                format!("header {:?} is listed twice", name.value),
                None,
            );
            all_good = false;
        } else {
            names.push(lower.into());
        }
    }
    all_good.then_some(names)
}

/// Headers that frame the request or that we strip.
const UNUSABLE_HEADERS: [&str; 9] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
];

/// The secrets that the route lists and that `[secrets]` defines; `None` when the key is absent or empty.
fn listed<'s>(route: &Section<'_>, secrets: &'s Secrets) -> Option<Vec<(&'s Secret, Span)>> {
    let context = route.context;
    let names = route.strings("secrets")?;
    if names.value.is_empty() {
        context.wrong(
            &names.span,
            "\"secrets\" is empty: no signature could ever match",
            None,
        );
        return None;
    }
    if names.value.len() > SECRETS_MAX {
        let text = format!(
            "{} secrets are listed; a route takes at most {SECRETS_MAX}",
            names.value.len()
        );
        context.error(
            &names.span,
            text,
            Some("remove those that no sender uses any more"),
        );
    }
    let mut list: Vec<(&Secret, Span)> = Vec::new();
    for name in &names.value {
        if let Some(secret) = secrets.find(context, name) {
            if list.iter().any(|(other, _)| other.name == secret.name) {
                let text = format!("secret {:?} is listed twice", name.value);
                context.error(&name.span, text, Some("remove one"));
            } else {
                list.push((secret, name.span.clone()));
            }
        }
    }
    if !list.is_empty() && list.iter().all(|(secret, _)| secret.until.is_some()) {
        let text =
            "every secret of this route has an \"until\": from the last one on nothing would be accepted";
        context.error(
            &names.span,
            text,
            Some("list at least one secret without \"until\""),
        );
    }
    Some(list)
}

fn keys(route: &Section<'_>, form: KeyForm, listed: &[(&Secret, Span)]) -> Option<Vec<LiveKey>> {
    let mut keys = Vec::new();
    for (secret, span) in listed {
        // What cannot be read was reported at its definition.
        let Some(text) = &secret.text else { continue };
        let unstated = route.preset_is_absent() && form == KeyForm::Utf8;
        if unstated && text.expose().starts_with(b"whsec_") && !key_form_is_written(route) {
            let problem = format!(
                "secret \"{}\" starts with whsec_: it is used as it stands; Standard Webhooks would decode it",
                secret.name
            );
            let help = "write key = \"utf8\" or key = \"whsec\" in verify to say which";
            route.context.warn(span, problem, Some(help));
        }
        match form.key(text) {
            Ok(key) => keys.push(LiveKey {
                name: secret.name.clone(),
                key,
                until: secret.until,
            }),
            Err(error) => {
                let problem = format!("secret \"{}\" cannot be used here: {error}", secret.name);
                route.context.error(span, problem, None);
            }
        }
    }
    (keys.len() == listed.len() && !keys.is_empty()).then_some(keys)
}

fn key_form_is_written(route: &Section<'_>) -> bool {
    route
        .item("verify")
        .and_then(|item| item.value.get_ref().as_table())
        .is_some_and(|table| table.contains_key("key"))
}

impl Section<'_> {
    fn preset_is_absent(&self) -> bool {
        !self.has("provider")
    }
}
