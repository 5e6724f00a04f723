//! What `verify` says of a request, line by line.

use super::Args;
use crate::cli::capture::Capture;
use crate::cli::secret_args::RouteSecrets;
use crate::provider::describe::{carried, describe};
use crate::provider::explain::{Difference, Verdict};
use crate::provider::scheme::{Credentials, Scheme};
use crate::provider::signature::SignatureError;

/// The verdict, line by line.
pub(super) fn lines(verdict: &Verdict, args: &Args, given: &RouteSecrets, request: &Capture) -> Vec<String> {
    let provider = given.preset.map(|preset| preset.name.as_str());
    match verdict {
        Verdict::Match { secret, scheme } => {
            // A route has the schemes that its secrets choose, and a preset's first by default.
            let by_default = given.schemes.first().is_none_or(|first| first.name == *scheme);
            vec![match args.secrets.route.is_some() || by_default {
                true => format!("match: the secret is {secret}"),
                false => format!(
                    "match: the secret is {secret}, in the scheme `{scheme}`; a route takes it only where the secret says scheme = {scheme:?}"
                ),
            }]
        }
        _ if !args.explain => vec!["no match; --explain says why".to_owned()],
        Verdict::Differs {
            secret,
            header,
            differences,
        } => {
            let mut lines = vec![match differences.iter().any(Difference::is_of_a_token) {
                true => format!("no match. The token in `{header}` is the secret {secret}, but:"),
                false => format!("no match. The signature in `{header}` was made with {secret}, but:"),
            }];
            let texts = differences.iter().map(|difference| difference.text(provider));
            lines.extend(texts.map(|text| format!("- {text}")));
            lines
        }
        Verdict::Unexplained {
            error: SignatureError::Missing,
            ..
        } if args.quarantined.is_some() && sends_credential(&given.schemes) => {
            let text = "no match: the header or parameter that holds the credential is not kept in quarantine, so nobody can tell here \
                        whether it was there, and which one it was.\n- look at it where the sender sends it, or capture a request before \
                        the gateway";
            vec![text.to_owned()]
        }
        Verdict::Unexplained {
            error,
            read,
            digest_headers,
            lacking,
            url,
        } => {
            let mut lines = vec![format!("no match: {error}.")];
            if let Some(text) = lacking {
                lines.push(format!("- {text}"));
            }
            if digest_headers.is_empty() {
                lines.extend(where_it_stood(given, read, *error));
            } else {
                let found = digest_headers.join("`, `");
                lines.push(format!("- headers that hold a digest: `{found}`"));
                if read.is_empty() {
                    lines.extend(where_it_stood(given, read, *error));
                }
            }
            if args.quarantined.is_some() {
                lines.extend(left_out(given));
            }
            if given.schemes.iter().all(Scheme::is_fetched) {
                lines.extend(unusable(given));
                let text = "- this provider publishes its keys, and `verify` fetches nothing: only the running gateway can tell";
                lines.push(text.to_owned());
            } else if !digest_headers.is_empty() || (!read.is_empty() && *error == SignatureError::Mismatch) {
                lines.extend(next_steps(given));
            }
            if let Some(url) = url {
                let query = if url.contains('?') {
                    ""
                } else {
                    " (the capture has no query)"
                };
                lines.push(format!(
                    "- the URL that was taken for the signed one is {url}{query}: it must be the one that was entered at the provider, \
                     with its query"
                ));
            }
            lines.push(format!("- {}", sizes(request)));
            lines
        }
    }
}

/// Where a signature was read that nothing explains.
fn where_it_stood(given: &RouteSecrets, read: &[Box<str>], error: SignatureError) -> Vec<String> {
    if read.is_empty() {
        let mut places: Vec<String> = given.schemes.iter().map(carried).collect();
        places.dedup();
        let places = places.join("`, then `");
        return vec![format!(
            "- this scheme reads `{places}`, and the request has nothing there"
        )];
    }
    let what = match given.schemes.iter().all(Scheme::sends_secret) {
        true => "credential",
        false => "signature",
    };
    let mut lines = vec![format!("- the {what} was read from {}", read.join(", "))];
    if error == SignatureError::Malformed {
        let mut facts = given.schemes.iter().flat_map(describe);
        if let Some((_, form)) = facts.find(|(label, _)| *label == "form") {
            lines.push(format!("- its form must be {form}"));
        }
    }
    lines
}

/// The secrets that are no key of any scheme.
fn unusable(given: &RouteSecrets) -> Vec<String> {
    let own = || given.secrets.iter().filter(|secret| secret.of_route);
    let mut lines = Vec::new();
    for secret in own() {
        let mut errors = given
            .schemes
            .iter()
            .map(|scheme| scheme.key(&secret.text).map(drop));
        if let Some(Err(error)) = errors.next()
            && errors.all(|result| result.is_err())
        {
            lines.push(format!("- {} was left out: {error}", secret.name));
        }
    }
    lines
}

/// What to do where a signature is well formed and no secret made it.
fn next_steps(given: &RouteSecrets) -> Vec<String> {
    let mut lines = unusable(given);
    if given.schemes.iter().all(Scheme::sends_secret) {
        lines.push("- it is none of the secrets given".to_owned());
        lines.push("- compare the secret with the one that was entered at the provider".to_owned());
    } else {
        lines.push("- none of the secrets given made it, over this body or any that was tried".to_owned());
        lines.push("- compare the secret with the provider's page, and capture the body as bytes".to_owned());
    }
    lines
}

/// The headers that the request may have had, and that quarantine does not keep: of schemes that are not in use too.
fn left_out(given: &RouteSecrets) -> Option<String> {
    let schemes = given.preset.map_or(&*given.schemes, |preset| &*preset.schemes);
    let mut names: Vec<Box<str>> = schemes
        .iter()
        .flat_map(|scheme| scheme.credentials().headers)
        .collect();
    names.dedup();
    let text = || {
        format!(
            "- not kept in quarantine, and so not seen here: `{}`",
            names.join("`, `")
        )
    };
    (!names.is_empty()).then(text)
}

/// Whether the credential itself is sent, which quarantine does not keep.
fn sends_credential(schemes: &[Scheme]) -> bool {
    let mut all = schemes.iter().map(Scheme::credentials);
    all.any(|found| found != Credentials::default())
}

/// How long the body is and should be: a capture is often cut short.
fn sizes(request: &Capture) -> String {
    let bytes = request.body.len();
    let declared = request.headers.first("content-length");
    match declared.and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok()) {
        Some(declared) if declared != bytes => {
            format!("the body has {bytes} bytes but Content-Length says {declared}: the capture is not exact")
        }
        _ => format!("the body has {bytes} bytes"),
    }
}
