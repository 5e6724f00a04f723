//! What looks wrong about how a route's senders prove themselves, and may be meant so.

use super::context::Span;
use super::secrets::Secret;
use super::section::Section;
use crate::provider::key::KeyForm;
use crate::provider::preset::Preset;
use crate::provider::scheme::Scheme;
use crate::secret::SecretText;

/// `verify_token` and `public_url` that are missing where they are asked for, or written where nothing reads them.
pub(super) fn handshakes_and_urls(route: &Section<'_>, preset: Option<&Preset>, schemes: &[Scheme]) {
    let context = route.context;
    let asks = preset.filter(|preset| {
        let mut handshakes = preset.handshakes.iter();
        handshakes.any(|handshake| handshake.verify_token.is_some())
    });
    match (asks, route.has("verify_token")) {
        (Some(preset), false) => {
            let text = format!(
                "{} asks for a verify token before it sends, and without \"verify_token\" that request is refused",
                preset.title
            );
            let help = "write verify_token = { env = \"NAME\" } with the text that is entered as the verify token there";
            context.warn(&route.key_span("provider"), text, Some(help));
        }
        (None, true) => {
            let text = "\"verify_token\" is read by nothing: these senders ask for none";
            context.warn(&route.key_span("verify_token"), text, Some("remove it"));
        }
        _ => {}
    }
    if let Some(url) = route.string("public_url") {
        if !schemes.iter().any(Scheme::needs_url) {
            let text = "\"public_url\" is read by nothing: these senders do not sign the URL";
            context.warn(&route.key_span("public_url"), text, Some("remove it"));
        } else if is_of_nobody(url.value) {
            let text = format!(
                "{:?} is an example, and every signature over another URL is refused",
                url.value
            );
            let help = "write the URL exactly as it was entered at the sender";
            context.warn(&url.span, text, Some(help));
        }
    }
}

/// Whether the host is one that nobody has (RFC 2606).
fn is_of_nobody(url: &str) -> bool {
    // What is no URL is an error of its own.
    let Some((_, rest)) = url.split_once("://") else {
        return false;
    };
    let host = rest
        .split(['/', '?', ':'])
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let names = ["example.com", "example.net", "example.org", "example", "invalid"];
    names.iter().any(|name| {
        host.strip_suffix(name)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// A secret that the provider sends in a handshake, and that has no file to be written to.
pub(super) fn captured_secret(route: &Section<'_>, preset: &Preset, listed: &[(&Secret, Span)]) {
    let is_captured = preset
        .handshakes
        .iter()
        .any(|handshake| handshake.capture.is_some());
    let has_file = || {
        let mut secrets = listed.iter().map(|(secret, _)| secret);
        secrets.any(|secret| secret.is_from_file(route.context))
    };
    if is_captured && !has_file() {
        let text = format!(
            "{} sends the secret itself when the webhook is made, and `hooklatch secrets capture` can write it to a file only",
            preset.title
        );
        let help = "write the secret as { file = \"...\" }; the file may hold any text before";
        route.context.warn(&route.key_span("secrets"), text, Some(help));
    }
}

/// A secret that another reader would decode.
pub(super) fn whsec(route: &Section<'_>, scheme: &Scheme, secret: &Secret, text: &SecretText, span: &Span) {
    let unstated = !route.has("provider") && scheme.key_form() == Some(KeyForm::Utf8);
    if unstated && text.expose().starts_with(b"whsec_") && !key_form_is_written(route) {
        let problem = format!(
            "secret \"{}\" starts with whsec_: it is used as it stands; Standard Webhooks would decode it",
            secret.name
        );
        let help = "write key = \"utf8\" or key = \"whsec\" in verify to say which";
        route.context.warn(span, problem, Some(help));
    }
}

/// Where a provider signs in several ways, a secret that looks like one for another of them.
pub(super) fn another_scheme(
    route: &Section<'_>,
    schemes: &[Scheme],
    secret: &Secret,
    text: &SecretText,
    span: &Span,
) {
    let reads = |scheme: &&Scheme| scheme.key_form() == Some(KeyForm::Whsec);
    let (Some(first), Some(other)) = (schemes.first(), schemes.iter().find(reads)) else {
        return;
    };
    let looks_so = text.expose().starts_with(b"whsec_");
    if looks_so && secret.scheme.is_none() && !reads(&first) {
        let problem = format!(
            "secret \"{}\" starts with whsec_, as secrets for the scheme \"{}\" do, and is used for \"{}\"",
            secret.name, other.name, first.name
        );
        let help = format!(
            "write scheme = \"{}\" on the secret, or scheme = \"{}\" if it is meant so",
            other.name, first.name
        );
        route.context.warn(span, problem, Some(&help));
    }
}

fn key_form_is_written(route: &Section<'_>) -> bool {
    route
        .item("verify")
        .and_then(|item| item.value.get_ref().as_table())
        .is_some_and(|table| table.contains_key("key"))
}
