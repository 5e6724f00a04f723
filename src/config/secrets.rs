//! `[secrets]`: a name for every secret, and where its text comes from. The text never leaves this folder.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::context::{At, Context, Span, is_secret_word};
use super::env::SecretFile;
use super::section::{Item, Section, suggest};
use crate::event::{SecretName, Timestamp};
use crate::secret::{SECRET_BYTES_WEAK, SecretText};

/// How a secret is written.
const FORM: &str = "{ env = \"NAME\" }, { file = \"/run/secrets/name\" } or { value = \"...\" }";

/// Longest secret, in bytes; a private key has nothing to do here.
const SECRET_BYTES_MAX: usize = 4096;

/// A secret of the configuration, read from its source.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) name: SecretName,
    /// `None` when it could not be read; that was said already.
    pub(super) text: Option<SecretText>,
    pub(super) until: Option<Timestamp>,
    /// The scheme that it is for; without one the first of its route's senders.
    pub(super) scheme: Option<String>,
    /// Where it is defined.
    span: Span,
    /// Where its file is named, when a newline at the end of that was removed.
    newline: Option<Span>,
    used: Cell<bool>,
}

/// How whoever does not know a secret may come by it, when it is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guess {
    /// By computing: something is signed with it.
    Offline,
    /// By sending one after the other.
    ByTrying,
    /// It need not be secret.
    Never,
}

impl Secret {
    /// Whether its text was read from a file, which another text can be written to.
    pub(super) fn is_from_file(&self, context: &Context<'_>) -> bool {
        let what = format!("secret \"{}\"", self.name);
        context.secret_files().iter().any(|file| file.what == what)
    }

    /// Warns of a newline that was removed from the end of its file; to a public key it means nothing.
    pub(super) fn warn_newline(&self, context: &Context<'_>) {
        if let Some(span) = &self.newline {
            warn_newline(context, &format!("secret \"{}\"", self.name), span);
        }
    }

    /// Warns of one that is too short for what it is used for.
    pub(super) fn warn_weak(&self, context: &Context<'_>, guess: Guess) {
        if let Some(text) = &self.text {
            warn_weak(
                context,
                &format!("secret \"{}\"", self.name),
                &self.span,
                text,
                guess,
            );
        }
    }
}

/// What was read of a reference.
struct Reference {
    text: Option<SecretText>,
    until: Option<Timestamp>,
    newline: Option<Span>,
}

/// The bytes of a source, and where its file is named when a newline at the end of that was removed.
type Source = (Vec<u8>, Option<Span>);

/// All of `[secrets]`, by name.
#[derive(Debug, Default)]
pub(super) struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// What could be read of each.
    pub(super) fn into_texts(self) -> Vec<(SecretName, SecretText, Option<Timestamp>)> {
        let texts = self
            .0
            .into_values()
            .map(|secret| (secret.name, secret.text, secret.until));
        texts
            .filter_map(|(name, text, until)| Some((name, text?, until)))
            .collect()
    }

    /// Reads the table and every source in it.
    pub(super) fn read(root: &Section<'_>) -> Self {
        let Some(table) = root.table("secrets", "{ name = { env = \"NAME\" } }") else {
            return Self::default();
        };
        let mut secrets = BTreeMap::new();
        for (name, item) in table.entries() {
            if !is_plain_name(name.value) {
                let text = "the name of a secret is 1 to 64 letters, digits, \"-\", \"_\" or \".\"";
                table.context.wrong(&name.span, text, None);
                continue;
            }
            let Some(entry) = table.entry_table(name.value, item, "*") else {
                let text = format!("secret \"{}\" must be {FORM}", name.value);
                table.context.wrong(&item.span(), text, None);
                continue;
            };
            let scheme = entry.string("scheme").map(|at| at.value.to_owned());
            let read = read_reference(entry, &format!("secret \"{}\"", name.value), &name.span);
            let secret = Secret {
                name: SecretName::new(name.value),
                text: read.text,
                until: read.until,
                scheme,
                span: name.span,
                newline: read.newline,
                used: Cell::new(false),
            };
            if secret.text.is_none() {
                // No use of it comes so far as to say it.
                secret.warn_newline(table.context);
            }
            secrets.insert(name.value.to_owned(), secret);
        }
        Self(secrets)
    }

    /// The secret of that name, which counts as used from now on.
    pub(super) fn find(&self, context: &Context<'_>, name: &At<&str>) -> Option<&Secret> {
        if let Some(secret) = self.0.get(name.value) {
            secret.used.set(true);
            return Some(secret);
        }
        let help = "define it: [secrets] then name = { env = \"NAME\" }";
        let near = suggest(name.value, self.0.keys().map(String::as_str));
        let text = match near {
            Some(near) => format!(
                "there is no secret {:?} in [secrets]; did you mean \"{near}\"?",
                name.value
            ),
            // A secret pasted where its name belongs is not repeated.
            None if !is_showable(name.value) => {
                "this is not the name of a secret in [secrets]; names go here, never secrets themselves"
                    .to_owned()
            }
            None => format!("there is no secret {:?} in [secrets]", name.value),
        };
        context.wrong(&name.span, text, Some(help));
        None
    }

    /// Reads `key`: the name of a secret, or a reference written in place.
    pub(super) fn reference(
        &self,
        section: &Section<'_>,
        key: &'static str,
        guess: Guess,
    ) -> Option<At<SecretText>> {
        let item = section.item(key)?;
        let span = item.span();
        let text = match item.value.get_ref() {
            DeValue::String(name) => {
                let name = At {
                    value: &**name,
                    span: span.clone(),
                };
                let secret = self.find(section.context, &name)?;
                secret.warn_newline(section.context);
                secret.warn_weak(section.context, guess);
                secret.text.clone()
            }
            _ => match section.entry_table(key, item, key) {
                Some(entry) => {
                    let (what, span) = (format!("\"{key}\""), section.key_span(key));
                    let read = read_reference(entry, &what, &span);
                    if let Some(newline) = &read.newline {
                        warn_newline(section.context, &what, newline);
                    }
                    if let Some(text) = &read.text {
                        warn_weak(section.context, &what, &span, text, guess);
                    }
                    read.text
                }
                None => {
                    let text = format!("\"{key}\" must be the name of a secret, {FORM}");
                    section.context.wrong(&span, text, None);
                    None
                }
            },
        };
        text.map(|value| At { value, span })
    }

    /// Warns of secrets that nothing uses.
    pub(super) fn warn_unused(&self, context: &Context<'_>) {
        for (name, secret) in &self.0 {
            if !secret.used.get() {
                secret.warn_newline(context);
                let text = format!("secret \"{name}\" is used by no route, upstream or listener");
                context.warn(
                    &secret.span,
                    text,
                    Some("name it under secrets = [...], or remove it"),
                );
            }
        }
    }
}

/// Hides, before anything is said, every line that can hold a secret: the sources with `value`, header values,
/// and whatever stands under a key that sounds like a secret and is not the name of one.
pub(super) fn hide_lines(context: &Context<'_>, table: &DeTable<'_>) {
    let names: Vec<&str> = match table.get("secrets").map(|value| value.get_ref()) {
        Some(DeValue::Table(secrets)) => secrets.keys().map(|key| &**key.get_ref()).collect(),
        _ => Vec::new(),
    };
    for (key, value) in table {
        hide_below(context, &names, key.get_ref(), value, false);
    }
}

fn hide_below(
    context: &Context<'_>,
    names: &[&str],
    key: &str,
    value: &toml::Spanned<DeValue<'_>>,
    within: bool,
) {
    let suspicious = within || is_secret_word(key);
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                hide_below(context, names, key.get_ref(), value, suspicious);
            }
        }
        DeValue::Array(array) => {
            for entry in array.iter() {
                hide_below(context, names, key, entry, suspicious);
            }
        }
        DeValue::String(text) => {
            let known_harmless = match key {
                "env" | "file" | "until" | "cert" | "key" => is_showable(text),
                _ => names.contains(&&**text) || is_suggestible(text, names),
            };
            // A URL with a password in it.
            let is_url = text.contains("://");
            let has_user = is_url && text.contains('@');
            // Under whatever key it was pasted.
            let looks_secret = !is_url && !is_showable(text);
            if (suspicious && !known_harmless) || has_user || looks_secret {
                context.hide(value.span());
            }
        }
        // A number or a date may be a secret too, without its quotes.
        _ => {
            if suspicious && key != "until" {
                context.hide(value.span());
            }
        }
    }
}

fn is_suggestible(text: &str, names: &[&str]) -> bool {
    is_showable(text) && suggest(text, names.iter().copied()).is_some()
}

/// Whether a text that should be a name looks like one, and not like a secret put in its place.
pub(super) fn is_showable(text: &str) -> bool {
    let mixed =
        text.bytes().any(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte.is_ascii_lowercase());
    let path = text.starts_with('/') || text.starts_with("./");
    !text.starts_with("whsec_") && text.len() <= 200 && (path || text.len() < 24 || !mixed)
}

/// Whether `text` may name a secret or an upstream.
pub(super) fn is_plain_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Reads `{ env | file | value, until }`. `what` names the secret in messages, `span` is where they point.
fn read_reference(entry: Section<'_>, what: &str, span: &Span) -> Reference {
    let context = entry.context;
    let env = entry.string("env");
    let file = entry.string("file");
    let value = entry.string("value");
    let until = entry.item("until").and_then(|item| read_until(context, item));
    if let Some(until) = until
        && until <= context.env.now()
    {
        let text = format!("{what} ran out at {until} and is not accepted any more");
        context.warn(span, text, Some("remove it"));
    }
    let written = ["env", "file", "value"]
        .into_iter()
        .filter(|key| entry.has(key))
        .count();
    entry.finish();
    if written != 1 {
        let text = match written {
            0 => format!("{what} has no source; write {FORM}"),
            _ => format!("{what} has more than one source; keep one of env, file and value"),
        };
        context.wrong(span, text, None);
        return Reference {
            text: None,
            until,
            newline: None,
        };
    }
    let source = if let Some(name) = env {
        from_variable(context, what, &name)
    } else if let Some(path) = file {
        from_file(context, what, &path.span, path.value)
    } else if let Some(value) = value {
        let text =
            format!("{what} stands in the configuration itself, where everyone who reads the file sees it");
        let help = "use { env = \"NAME\" } or { file = \"/run/secrets/name\" }";
        context.warn(span, text, Some(help));
        Some((value.value.as_bytes().to_vec(), None))
    } else {
        None
    };
    let (text, newline) = source.map_or((None, None), |(bytes, newline)| {
        (checked(context, what, span, bytes), newline)
    });
    Reference { text, until, newline }
}

/// `env = "X"`: the variable X, or the file that X_FILE names, as the official images of databases do it.
fn from_variable(context: &Context<'_>, what: &str, name: &At<&str>) -> Option<Source> {
    let well_formed = name.value.bytes().enumerate().all(|(index, byte)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit())
    });
    if name.value.is_empty() || !well_formed {
        let text = format!("{what}: env takes the name of an environment variable, not its content");
        context.wrong(&name.span, text, None);
        return None;
    }
    let file_name = format!("{}_FILE", name.value);
    match (context.env.var(name.value), context.env.var(&file_name)) {
        (Some(_), Some(_)) => {
            let text = format!(
                "environment variables {} and {file_name} are both set",
                name.value
            );
            context.error(&name.span, text, Some("keep one of them"));
            None
        }
        (Some(bytes), None) => Some((bytes, None)),
        (None, Some(path)) => match String::from_utf8(path) {
            Ok(path) => from_file(context, what, &name.span, &path),
            Err(_) => {
                let text = format!("environment variable {file_name} is not a path in UTF-8");
                context.error(&name.span, text, None);
                None
            }
        },
        (None, None) if is_showable(name.value) => {
            let text = format!(
                "environment variable {} is not set ({file_name} neither)",
                name.value
            );
            let help = format!(
                "export {}=..., or set {file_name} to the file that holds it, or write {{ file = \"...\" }} here",
                name.value
            );
            context.error(&name.span, text, Some(&help));
            None
        }
        (None, None) => {
            let text = format!(
                "{what}: no environment variable of that name is set; env takes a name, not a secret"
            );
            context.error(&name.span, text, None);
            None
        }
    }
}

fn from_file(context: &Context<'_>, what: &str, span: &Span, path: &str) -> Option<Source> {
    // The stamp first: what changes while the file is read shows at the next look.
    context.note_secret_file(SecretFile {
        what: what.to_owned(),
        path: path.into(),
        stamp: context.env.stamp(Path::new(path)),
    });
    let mut bytes = match context.env.read_file(Path::new(path)) {
        Ok(bytes) => bytes,
        Err(error) => {
            // A secret pasted where its file belongs is not repeated.
            let text = if is_showable(path) {
                format!("{what}: cannot read {path}: {error}")
            } else {
                format!(
                    "{what}: cannot read the file of that name ({error}); file takes a path, not a secret"
                )
            };
            context.error(span, text, None);
            return None;
        }
    };
    // Editors and `echo` end a file with a newline that was never part of the secret.
    let mut newline = None;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        newline = Some(span.clone()).filter(|_| !is_public_key(&bytes));
    }
    Some((bytes, newline))
}

fn warn_newline(context: &Context<'_>, what: &str, span: &Span) {
    let text = format!("{what}: the file ends with a newline: one trailing newline was removed");
    let help = "write the file without it: printf %s \"$SECRET\" > file";
    context.warn(span, text, Some(help));
}

/// What holds for the text of every secret, wherever it came from.
fn checked(context: &Context<'_>, what: &str, span: &Span, bytes: Vec<u8>) -> Option<SecretText> {
    if bytes.is_empty() {
        let text = format!("{what} is empty, so anyone could sign with it; put the provider's secret there");
        context.error(span, text, None);
        return None;
    }
    if bytes.len() > SECRET_BYTES_MAX {
        let text = format!(
            "{what} is {} bytes; no secret is over {SECRET_BYTES_MAX}",
            bytes.len()
        );
        context.error(span, text, None);
        return None;
    }
    let around = bytes.len() - bytes.trim_ascii().len();
    if around == bytes.len() {
        let text = format!("{what} is nothing but {around} bytes of white space");
        context.error(span, text, None);
        return None;
    }
    if around > 0 && !is_public_key(&bytes) {
        let plural = if around == 1 { "" } else { "s" };
        let text = format!(
            "{what} begins or ends with {around} byte{plural} of white space, which are used as part of it"
        );
        context.warn(
            span,
            text,
            Some("remove them unless the provider's secret has them"),
        );
    }
    Some(SecretText::new(bytes))
}

/// Whether the text says itself that it is a public key: in PEM, or as Standard Webhooks writes them.
fn is_public_key(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"-----BEGIN ") || text.starts_with(b"whpk_")
}

/// Warns of a secret that is too short for what it is used for.
fn warn_weak(context: &Context<'_>, what: &str, span: &Span, text: &SecretText, guess: Guess) {
    let length = text.expose().len();
    let how = match guess {
        Guess::Offline => "offline from one captured request",
        Guess::ByTrying => "by trying",
        Guess::Never => return,
    };
    if length < SECRET_BYTES_WEAK {
        let plural = if length == 1 { "" } else { "s" };
        let text = format!(
            "{what} is {length} byte{plural}; anything under {SECRET_BYTES_WEAK} can be guessed {how}"
        );
        context.warn(span, text, Some("make a longer one"));
    }
}

/// A time with its offset, as TOML writes it or in quotes.
fn read_until(context: &Context<'_>, item: Item<'_>) -> Option<Timestamp> {
    let text = match item.value.get_ref() {
        DeValue::Datetime(time) => time.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => String::new(),
    };
    let parsed = text.parse::<jiff::Timestamp>().ok();
    if parsed.is_none() {
        let text = "\"until\" must be a time with its offset, such as 2026-12-31T00:00:00Z";
        context.wrong(&item.span(), text, None);
    }
    parsed.map(|time| Timestamp(time.as_millisecond()))
}
