//! How the senders of a route prove themselves: a preset, a `verify` table, or nobody has to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::context::Span;
use super::secrets::{Guess, Secret, Secrets};
use super::section::{Section, suggest};
use super::verify_warnings;
use crate::event::ProviderName;
use crate::provider::identify::IdentifyRule;
use crate::provider::preset::{self, Preset};
use crate::provider::scheme::{Credentials, Scheme};
use crate::provider::scheme_text::{
    ALGORITHMS, BodyDigestText, JwsText, KEY_FORMS, SchemeText, TIME_UNITS, TimestampText, URL_FORMS,
};
use crate::provider::signature::{LiveKey, SECRETS_MAX};
use crate::receive::settings::{self as receive, Verify};
use crate::secret::SecretText;

/// The body window where no preset says that bodies carry their own time: two honest events may be equal.
const BODY_WINDOW_UNKNOWN: Duration = Duration::from_secs(3600);

/// What the route's proof decides, with what its preset gives.
pub(super) struct Proof<'s> {
    pub(super) provider: ProviderName,
    pub(super) preset: Option<&'static Preset>,
    pub(super) verify: Verify,
    pub(super) identify: IdentifyRule,
    pub(super) body_window: Duration,
    /// The URL that the sender was given, without its query.
    pub(super) public_url: Option<Box<str>>,
    /// What handshakes must bring.
    pub(super) verify_token: Option<SecretText>,
    /// Where requests carry the secret itself.
    pub(super) credentials: Credentials,
    /// The secrets behind the keys, to compare routes.
    pub(super) secrets: Vec<&'s Secret>,
}

/// What stands before the keys are made.
enum Sender {
    Preset(&'static Preset),
    Custom(Vec<Scheme>),
    /// With the preset of one that signs nothing.
    Anybody(Option<&'static Preset>),
}

/// Reads `provider`, `verify`, `enforce` and `secrets`; `None` when one of them is wrong.
pub(super) fn proof<'s>(route: &Section<'_>, secrets: &'s Secrets) -> Option<Proof<'s>> {
    let context = route.context;
    let enforce = route.boolean("enforce");
    let sender = sender(route);
    let listed = listed(route, secrets);
    let public_url = public_url(route);
    let verify_token = secrets.reference(route, "verify_token", Guess::Never);
    let verify_token = verify_token.map(|at| at.value);
    let sender = sender?;
    let (preset, schemes) = match &sender {
        Sender::Preset(preset) => (Some(*preset), &*preset.schemes),
        Sender::Custom(schemes) => (None, &**schemes),
        Sender::Anybody(preset) => (*preset, &[][..]),
    };
    verify_warnings::handshakes_and_urls(route, preset, schemes);
    match (sender, listed) {
        (Sender::Anybody(preset), listed) => {
            let span = route.key_span("verify");
            let text = "verify = \"none\": ANYBODY can send events here, and nothing checks them";
            let help = match preset {
                Some(_) => {
                    "this provider signs nothing: end the path in a long secret, and list its addresses in allow_ips"
                }
                None => "name a provider, or describe its signature in verify = { ... }",
            };
            context.warn(&span, text, Some(help));
            if listed.is_some() {
                let text = "secrets are listed, but verify = \"none\" checks nothing";
                context.error(&route.key_span("secrets"), text, Some("remove one of the two"));
            }
            if let Some(enforce) = enforce {
                let text = "\"enforce\" has no meaning with verify = \"none\"";
                context.error(&enforce.span, text, Some("remove it"));
            }
            Some(Proof {
                provider: preset.map_or_else(|| ProviderName::new("none"), |preset| preset.name.clone()),
                preset,
                verify: Verify::Nothing,
                identify: preset.map(|preset| preset.identify.clone()).unwrap_or_default(),
                public_url: None,
                verify_token,
                credentials: Credentials::default(),
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
            let custom;
            let (preset, schemes) = match sender {
                Sender::Preset(preset) => (Some(preset), &*preset.schemes),
                Sender::Custom(schemes) => {
                    custom = schemes;
                    (None, &*custom)
                }
                Sender::Anybody(_) => return None,
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
            if let Some(preset) = preset.filter(|preset| !preset.is_confirmed()) {
                let text = format!(
                    "what is known of {}'s signature was never confirmed; see: hooklatch providers show {}",
                    preset.title, preset.name
                );
                let help = "send a real event before relying on it";
                context.warn(&route.key_span("provider"), text, Some(help));
            }
            if let Some(preset) = preset {
                verify_warnings::captured_secret(route, preset, &listed);
            }
            let proofs = proofs(route, schemes, &listed)?;
            if proofs.iter().any(|proof| proof.scheme.needs_url()) && public_url.is_none() {
                // One that is no URL was reported.
                if !route.has("public_url") {
                    let help = "write public_url = \"https://...\", the URL that the sender was given: it is signed too";
                    route.missing("public_url", help);
                }
                return None;
            }
            Some(Proof {
                provider: preset.map_or_else(|| ProviderName::new("custom"), |preset| preset.name.clone()),
                preset,
                credentials: credentials(schemes),
                verify: Verify::Signature { proofs, enforce },
                identify: preset.map(|preset| preset.identify.clone()).unwrap_or_default(),
                public_url,
                verify_token,
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
            // Both are read for their own mistakes.
            let (preset, verify) = (preset_of(route), verify_of(route));
            if let (Some(preset), Some(Sender::Anybody(_))) = (preset, &verify)
                && preset.schemes.is_empty()
            {
                return Some(Sender::Anybody(Some(preset)));
            }
            let text = "\"provider\" and \"verify\" are both written; a provider says already how to verify";
            context.error(&route.key_span("verify"), text, Some("remove one of the two"));
            None
        }
        (true, false) => {
            let preset = preset_of(route)?;
            if preset.schemes.is_empty() {
                let text = format!(
                    "{} signs nothing: nothing tells its events from forged ones",
                    preset.title
                );
                let help = "write verify = \"none\" as well, end the path in a long secret, and list its addresses in allow_ips";
                context.error(&route.key_span("provider"), text, Some(help));
                return None;
            }
            Some(Sender::Preset(preset))
        }
        (false, true) => verify_of(route),
        (false, false) => {
            let help = "write provider = \"name\" (see: hooklatch providers), or verify = { header = \"X-Signature\" }";
            route.missing("provider", help);
            None
        }
    }
}

/// The URL that the sender was given, without its query: what came with the request stands in its place.
fn public_url(route: &Section<'_>) -> Option<Box<str>> {
    let written = route.string("public_url")?;
    let (bare, _) = written.value.split_once('?').unwrap_or((written.value, ""));
    let host = bare
        .strip_prefix("https://")
        .or_else(|| bare.strip_prefix("http://"));
    let usable = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && bare.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !usable {
        let text = format!(
            "{:?} is not a URL; write the one that the sender was given",
            written.value
        );
        route.context.wrong(
            &written.span,
            text,
            Some("for example \"https://hooks.example.com/hooks/twilio\""),
        );
        return None;
    }
    Some(bare.into())
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
            return Some(Sender::Anybody(None));
        }
        let text = "\"verify\" must be a table, such as { header = \"X-Signature\" }, or \"none\"";
        route.context.wrong(&item.span(), text, None);
        return None;
    }
    let tables = match item.value.get_ref() {
        DeValue::Array(_) => route.tables("verify"),
        _ => vec![route.table("verify", "{ header = \"X-Signature\" }")?],
    };
    let mut schemes: Vec<Scheme> = Vec::new();
    let mut all_good = !tables.is_empty();
    for table in tables {
        match scheme(&table) {
            Some(scheme) if schemes.iter().any(|other| other.name == scheme.name) => {
                let text = format!(
                    "two schemes of this route are named {:?}; give each a `name`",
                    scheme.name
                );
                table.context.wrong(&table.span, text, None);
                all_good = false;
            }
            Some(scheme) => schemes.push(scheme),
            None => all_good = false,
        }
        table.finish();
    }
    all_good.then_some(Sender::Custom(schemes))
}

/// Reads a scheme: the same keys as in a preset's `[[scheme]]`.
fn scheme(table: &Section<'_>) -> Option<Scheme> {
    let context = table.context;
    if !["header", "header_numbered", "in_json", "in_form", "in_query"]
        .into_iter()
        .any(|key| table.has(key))
        && !table.word("algorithm", &ALGORITHMS).is_some_and(is_code)
    {
        table.missing(
            "header",
            "write header = \"X-Signature\", the header that carries the signature",
        );
        // What else is written is still read for its own mistakes.
        text_of(table);
        return None;
    }
    let text = text_of(table);
    if let Some(tolerance) = text.timestamp.as_ref().and_then(|time| time.enforce)
        && !tolerance
    {
        let problem = "timestamp.enforce = false: a captured request is accepted for ever, but for its repeats within the dedup window";
        context.warn(&table.key_span("timestamp"), problem, None);
    }
    match text.build() {
        Ok(scheme) => {
            if !scheme.covers_body() {
                let problem = "the signature does not cover the body: whoever captures one can send any other body with it";
                context.warn(
                    &table.key_span("signed"),
                    problem,
                    Some("put {body} into signed, if the sender signs it"),
                );
            }
            Some(scheme)
        }
        Err(error) => {
            context.wrong(&table.key_span(error.key), error.to_string(), None);
            None
        }
    }
}

fn is_code(algorithm: &str) -> bool {
    !matches!(
        algorithm,
        "hmac-sha256"
            | "hmac-sha1"
            | "hmac-sha512"
            | "sha256"
            | "ed25519"
            | "ecdsa-p256"
            | "rsa-sha256"
            | "rsa-sha512"
            | "token"
            | "basic"
    )
}

/// What stands in the table, key by key.
fn text_of(table: &Section<'_>) -> SchemeText {
    let text = |key| table.string(key).map(|at| at.value.to_owned());
    SchemeText {
        name: text("name"),
        algorithm: table.word("algorithm", &ALGORITHMS).map(str::to_owned),
        key: table.word("key", &KEY_FORMS).map(str::to_owned),
        header: one_or_more(table, "header"),
        any_header: table.boolean("any_header").is_some_and(|at| at.value),
        repeated_header: table.boolean("repeated_header").is_some_and(|at| at.value),
        header_numbered: text("header_numbered"),
        in_json: text("in_json"),
        in_form: text("in_form"),
        in_query: text("in_query"),
        // The last is of an earlier version.
        encoding: table
            .word(
                "encoding",
                &["hex", "base64", "base64url", "hex-or-base64", "hex_or_base64"],
            )
            .map(str::to_owned),
        prefix: text("prefix"),
        prefix_optional: table.boolean("prefix_optional").is_some_and(|at| at.value),
        list: text("list"),
        groups: text("groups"),
        tag_separator: text("tag_separator"),
        tags: one_or_more(table, "tags"),
        signed: text("signed"),
        timestamp: table
            .table("timestamp", "{ header = \"X-Timestamp\", unit = \"s\" }")
            .map(timestamp_of),
        body_digest: table
            .table("body_digest", "{ query = \"bodySHA256\" }")
            .map(body_digest_of),
        url: table.word("url", &URL_FORMS).map(str::to_owned),
        require_headers: texts_of(table, "require_headers"),
        absent: one_or_more(table, "absent"),
        layout: text("layout"),
        jws: table.table("jws", "{ algorithms = [\"HS256\"] }").map(jws_of),
    }
}

fn timestamp_of(table: Section<'_>) -> TimestampText {
    let text = |key| table.string(key).map(|at| at.value.to_owned());
    let read = TimestampText {
        header: text("header"),
        tag: text("tag"),
        json: text("json"),
        first: table.boolean("first").is_some_and(|at| at.value),
        unit: table.word("unit", &TIME_UNITS).map(str::to_owned),
        tolerance: text("tolerance"),
        enforce: table.boolean("enforce").map(|at| at.value),
    };
    table.finish();
    read
}

fn body_digest_of(table: Section<'_>) -> BodyDigestText {
    let read = BodyDigestText {
        query: table.string("query").map(|at| at.value.to_owned()),
        encoding: table.word("encoding", &["hex"]).map(str::to_owned),
    };
    table.finish();
    read
}

fn jws_of(table: Section<'_>) -> JwsText {
    let text = |key| table.string(key).map(|at| at.value.to_owned());
    let read = JwsText {
        jwks: text("jwks"),
        algorithms: one_or_more(&table, "algorithms"),
        issuer: one_or_more(&table, "issuer"),
        audience: text("audience"),
        max_age: text("max_age"),
        body_claim: text("body_claim"),
        body_claim_encoding: text("body_claim_encoding"),
        url_claim: text("url_claim"),
        detached: table.boolean("detached").is_some_and(|at| at.value),
        required_claims: texts_of(&table, "required_claims"),
        secret_claims: one_or_more(&table, "secret_claims"),
    };
    table.finish();
    read
}

/// A table of texts.
fn texts_of(table: &Section<'_>, key: &'static str) -> BTreeMap<String, String> {
    let Some(section) = table.table(key, "{ name = \"value\" }") else {
        return BTreeMap::new();
    };
    let mut texts = BTreeMap::new();
    for (name, item) in section.entries() {
        match item.value.get_ref() {
            DeValue::String(text) => drop(texts.insert(name.value.to_owned(), text.to_string())),
            _ => {
                let text = format!("\"{}\" must be a string in quotes", name.value);
                section.context.wrong(&item.span(), text, None);
            }
        }
    }
    texts
}

fn one_or_more(table: &Section<'_>, key: &'static str) -> Vec<String> {
    let Some(item) = table.item(key) else {
        return Vec::new();
    };
    match item.value.get_ref() {
        DeValue::Array(_) => {
            let list = table.strings(key).map(|at| at.value).unwrap_or_default();
            list.iter().map(|text| text.value.to_owned()).collect()
        }
        _ => table
            .string(key)
            .map(|at| at.value.to_owned())
            .into_iter()
            .collect(),
    }
}

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

/// Of all schemes, active or not: what GitLab sends as a token is no less secret where its signature is checked.
fn credentials(schemes: &[Scheme]) -> Credentials {
    let mut all = Credentials::default();
    for found in schemes.iter().map(Scheme::credentials) {
        all.headers.extend(found.headers);
        all.parameters.extend(found.parameters);
    }
    all
}

/// What a captured request gives away of a short secret.
fn guess(scheme: &Scheme) -> Guess {
    if scheme.is_fetched() || scheme.has_public_key() {
        // The id of PayPal's webhook and the topic of SNS are no secrets, and no public key is one.
        Guess::Never
    } else if scheme.sends_secret() {
        Guess::ByTrying
    } else {
        Guess::Offline
    }
}

/// The keys, each with the scheme that its secret is bound to; a scheme without a secret is not active.
fn proofs(
    route: &Section<'_>,
    schemes: &[Scheme],
    listed: &[(&Secret, Span)],
) -> Option<Vec<receive::Proof>> {
    let mut proofs: Vec<receive::Proof> = Vec::new();
    let mut read = 0;
    for (secret, span) in listed {
        // What cannot be read was reported at its definition.
        let Some(text) = &secret.text else { continue };
        let scheme = match &secret.scheme {
            None => schemes.first(),
            Some(named) => {
                let found = schemes.iter().find(|scheme| *scheme.name == **named);
                if found.is_none() {
                    let names: Vec<&str> = schemes.iter().map(|scheme| &*scheme.name).collect();
                    let problem = format!(
                        "secret \"{}\" is for the scheme {named:?}, which this route's senders do not have; they have {}",
                        secret.name,
                        names.join(", ")
                    );
                    route.context.error(span, problem, None);
                }
                found
            }
        };
        let Some(scheme) = scheme else { continue };
        if !scheme.has_public_key() {
            secret.warn_newline(route.context);
        }
        secret.warn_weak(route.context, guess(scheme));
        verify_warnings::whsec(route, scheme, secret, text, span);
        verify_warnings::another_scheme(route, schemes, secret, text, span);
        match scheme.key(text) {
            Ok(key) => {
                let key = LiveKey {
                    name: secret.name.clone(),
                    key,
                    until: secret.until,
                };
                read += 1;
                match proofs.iter_mut().find(|proof| proof.scheme.name == scheme.name) {
                    Some(proof) => proof.keys.push(key),
                    None => proofs.push(receive::Proof {
                        scheme: Arc::new(scheme.clone()),
                        keys: vec![key],
                    }),
                }
            }
            Err(error) => {
                let problem = format!("secret \"{}\" cannot be used here: {error}", secret.name);
                route.context.error(span, problem, None);
            }
        }
    }
    (read == listed.len() && read > 0).then_some(proofs)
}
