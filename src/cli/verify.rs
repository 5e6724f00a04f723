//! `hooklatch verify`: checks a captured request, and with `--explain` says why it would be refused.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::capture::{self, Capture};
use super::error::CliError;
use super::secret_args::{RouteSecrets, SecretArgs, SecretSource};
use super::sign::read_body;
use crate::clock::Clock;
use crate::event::Timestamp;
use crate::fields::Fields;
use crate::provider::describe::{carried, describe};
use crate::provider::explain::{Difference, Verdict, explain};
use crate::provider::handshake::Handshake;
use crate::provider::key::SchemeKey;
use crate::provider::preset::{self, Preset};
use crate::provider::scheme::{Credentials, Request, Scheme};
use crate::provider::sign::SignError;
use crate::provider::signature::SignatureError;

/// Check a captured request as the gateway would, and say why it fails.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Never prints a secret or a signature. Exit code 0: accepted, 1: refused, or no event.\n\nExample:\n  \
                  hooklatch verify quantiv --secret-env QUANTIV_SECRET --explain request.txt"
)]
pub struct Args {
    /// The provider whose scheme is used; with --route, the route's by default
    pub provider: Option<String>,
    /// File that holds the request: headers, an empty line, the body; or a curl command; `-` or nothing: standard input
    #[arg(value_name = "REQUEST", conflicts_with_all = ["header", "body"])]
    pub request: Option<PathBuf>,
    /// A header of the request, as `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER", requires = "body")]
    pub header: Vec<String>,
    /// File that holds the body alone; `-`: standard input
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// When the request came, for schemes that sign the time: like 2026-11-21T01:15:00Z, or seconds since 1970; now by default
    #[arg(long, value_name = "TIME", value_parser = parse_at)]
    pub at: Option<Timestamp>,
    /// The URL that the provider was given, for schemes that sign it
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Take a refused request that the route kept (on_bad_signature): `last`, or the name of its file
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "last", requires = "route",
          conflicts_with_all = ["request", "header", "body"])]
    pub quarantined: Option<String>,
    /// Say why the request is refused
    #[arg(long)]
    pub explain: bool,
    /// Where the secrets are
    #[command(flatten)]
    pub secrets: SecretArgs,
}

impl Args {
    /// With `--route` the provider may be left out, and then the one word there is names the request.
    fn with_the_request_in_its_place(mut self) -> Self {
        let alone = self.request.is_none() && self.body.is_none() && self.secrets.route.is_some();
        if alone
            && self
                .provider
                .as_deref()
                .is_some_and(|word| preset::find(word).is_none())
        {
            self.request = self.provider.take().map(PathBuf::from);
        }
        self
    }
}

/// A time, or seconds since 1970.
fn parse_at(text: &str) -> Result<Timestamp, String> {
    let wrong = "write it like 2026-11-21T01:15:00Z, or as seconds since 1970 like 1795223700";
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let secs: i64 = text.parse().map_err(|_| wrong.to_owned())?;
        // More digits are milliseconds, and would be a time thousands of years ahead.
        return match secs {
            0..100_000_000_000 => Ok(Timestamp(secs * 1000)),
            _ => Err(wrong.to_owned()),
        };
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong.to_owned())?;
    Ok(Timestamp(time.as_millisecond()))
}

/// Writes the verdict. The exit code is 0 for a match and 1 for a refusal.
///
/// # Errors
/// When provider, secrets or request are missing or unreadable.
pub fn run(
    args: &Args,
    source: &dyn SecretSource,
    clock: &dyn Clock,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let args = &args.clone().with_the_request_in_its_place();
    if args.provider.is_none() && args.secrets.route.is_none() {
        let text =
            "name the provider whose scheme is used, or a route of the configuration with --route NAME";
        return Err(CliError::Config(text.to_owned()));
    }
    let given = args.secrets.resolve(args.provider.as_deref(), source)?;
    let mut at = args.at;
    let request = match &args.quarantined {
        Some(wanted) => {
            let (path, kept_at) = quarantined(given.quarantine.as_deref(), wanted)?;
            at = at.or(Some(kept_at));
            writeln!(out, "{}, received {kept_at}", path.display())?;
            read_request(
                &Args {
                    request: Some(path),
                    ..args.clone()
                },
                input,
            )?
        }
        None => read_request(args, input)?,
    };
    let (public_url, query) = match args
        .public_url
        .as_deref()
        .map(|url| url.split_once('?').ok_or(url))
    {
        Some(Ok((url, query))) => (Some(url), Some(query)),
        Some(Err(url)) => (Some(url), None),
        None => (None, None),
    };
    let seen = Request {
        method: request.method.as_deref().unwrap_or("POST"),
        public_url: public_url.or(given.public_url.as_deref()).or(request.url()),
        query: request.query().or(query),
        ..Request::new(&request.headers, &request.body)
    };
    if seen.public_url.is_none() && given.schemes.iter().all(Scheme::needs_url) {
        return Err(CliError::Config(SignError::NeedsUrl.to_string()));
    }
    let now = at.unwrap_or_else(|| clock.now());
    let verdict = explain(&given.schemes, &seen, &given.secrets, now);
    let accepted = matches!(verdict, Verdict::Match { .. });
    if let Some(asked) = handshake(given.preset, &seen, accepted) {
        let title = given.preset.map_or("this sender", |preset| &preset.title);
        writeln!(
            out,
            "this is a handshake of {title} and no event; the gateway answers it itself: {}",
            asked.describe()
        )?;
        if args.secrets.route.is_some() && (accepted || !asked.signed) {
            writeln!(out, "{}", would_answer(&given, asked, &seen))?;
        }
        if !asked.signed {
            return Ok(ExitCode::FAILURE);
        }
    }
    for line in lines(&verdict, args, &given, &request) {
        writeln!(out, "{line}")?;
    }
    Ok(if accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The handshake that a request is, and then no event. What has a good signature is an event before it is a handshake of the kind
/// that comes without one.
fn handshake<'p>(preset: Option<&'p Preset>, seen: &Request<'_>, accepted: bool) -> Option<&'p Handshake> {
    let mut handshakes = preset?.handshakes.iter();
    handshakes.find(|handshake| handshake.matches(seen) && (handshake.signed || !accepted))
}

/// What becomes of a handshake on its route, as far as the token that it brings is concerned.
fn would_answer(given: &RouteSecrets, asked: &Handshake, seen: &Request<'_>) -> String {
    let secrets = given.secrets.iter().filter(|secret| secret.of_route);
    let keys: Vec<SchemeKey> = secrets
        .filter_map(|secret| {
            given
                .schemes
                .iter()
                .find_map(|scheme| scheme.key(&secret.text).ok())
        })
        .collect();
    match asked.answer(seen, given.verify_token.as_ref(), &keys) {
        Ok(_) if asked.capture.is_some() => {
            "- this one would be answered while `hooklatch secrets capture` waits for it".to_owned()
        }
        Ok(reply) => format!("- this one would be answered {}", reply.status),
        Err(error) => format!("- this one would be refused: {error}"),
    }
}

/// The verdict, line by line.
fn lines(verdict: &Verdict, args: &Args, given: &RouteSecrets, request: &Capture) -> Vec<String> {
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

/// The file of a refused request, and when it came.
fn quarantined(folder: Option<&Path>, wanted: &str) -> Result<(PathBuf, Timestamp), CliError> {
    let nothing = |folder: &Path| {
        let text = format!(
            "{} holds no request; has the route on_bad_signature = {{ quarantine = \"64MiB\" }}?",
            folder.display()
        );
        CliError::Config(text)
    };
    let no_such = |folder: &Path| {
        let text = format!(
            "{} holds no request {wanted:?}; give the beginning of a file's name, or `last`",
            folder.display()
        );
        CliError::Config(text)
    };
    let folder = folder.ok_or_else(|| CliError::Config("without [store] no request is kept".to_owned()))?;
    let entries = std::fs::read_dir(folder).map_err(|_| nothing(folder))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    if files.is_empty() {
        return Err(nothing(folder));
    }
    let found = match wanted {
        "last" => files.pop(),
        wanted => files.into_iter().find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(wanted))
        }),
    };
    let path = found.ok_or_else(|| no_such(folder))?;
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let millis = name
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| no_such(folder))?;
    Ok((path, Timestamp(millis)))
}

fn read_request(args: &Args, input: &mut dyn Read) -> Result<Capture, CliError> {
    if args.body.is_some() {
        let mut headers = Vec::new();
        for (index, line) in args.header.iter().enumerate() {
            let line = line.as_bytes();
            let place = || capture::no_header(&format!("--header number {}", index + 1), line);
            headers.push(capture::header(line).ok_or_else(place)?);
        }
        let headers = Fields::from_pairs(headers);
        let body = read_body(args.body.as_ref(), input)?;
        return Ok(Capture {
            headers,
            body,
            ..Capture::default()
        });
    }
    let bytes = read_body(args.request.as_ref(), input)?;
    let from_input = args.request.as_ref().is_none_or(|path| path.as_os_str() == "-");
    let left: Option<&mut dyn Read> = if from_input { None } else { Some(input) };
    capture::read(&bytes, left)
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

#[cfg(test)]
mod tests {
    use super::super::secret_args::fixed::Fixed;
    use super::*;
    use crate::clock::ManualClock;
    use crate::event::Timestamp;
    use crate::provider::scheme::Rule;
    use crate::secret::Key;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn verify(arguments: &[&str], input: &[u8]) -> (String, bool) {
        let cli = Cli::parse_from([&["verify"], arguments].concat());
        let clock = ManualClock::new(Timestamp(0));
        let (mut input, mut out) = (input, Vec::new());
        let code = run(&cli.args, &Fixed, &clock, &mut input, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("canary"), "{text}");
        (text, code == ExitCode::SUCCESS)
    }

    fn request(body: &str) -> Vec<u8> {
        let Rule::BodyHmac(rule) = &preset::find("iverton").unwrap().schemes[0].rule else {
            panic!("not a digest of the body");
        };
        let signed = rule.sign(&Key::new(b"canary-secret").unwrap(), b"{}");
        let head = format!(
            "POST /hooks HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{}: {}",
            signed.header, signed.value
        );
        format!("{head}\r\n\r\n{body}").into_bytes()
    }

    #[test]
    fn verdicts_and_exit_codes() {
        for (name, arguments, body, expected, accepted) in [
            (
                "good",
                &["iverton", "--secret-env", "MAIN"][..],
                "{}",
                "match: the secret is MAIN\n",
                true,
            ),
            (
                "by route",
                &["--route", "good"],
                "{}",
                "match: the secret is main\n",
                true,
            ),
            (
                "not explained",
                &["iverton", "--secret-env", "MAIN"],
                "[]",
                "no match; --explain says why\n",
                false,
            ),
            (
                "a line end in the secret",
                &["iverton", "--secret-env", "LINE", "--explain"],
                "{}",
                "no match. The signature in `x-iverton-signature` was made with LINE, but:\n- the secret ends in a \
                 line end that the sender's does not have: store it without (`printf %s`)\n",
                false,
            ),
            (
                "secrets swapped",
                &["--route", "swapped", "--explain"],
                "{}",
                "no match. The signature in `x-iverton-signature` was made with other, but:\n- this secret belongs to \
                 another route: the sender calls the wrong path, or the secrets are swapped\n",
                false,
            ),
            (
                "nothing helps",
                &["iverton", "--secret-env", "MAIN", "--explain"],
                "{}x",
                "no match: the signature does not match the body under any live secret.\n- headers that hold a \
                 digest: `x-iverton-signature`\n- none of the secrets given made it, over this body or any that was \
                 tried\n- compare the secret with the provider's page, and capture the body as bytes\n- the body has \
                 3 bytes but Content-Length says 2: the capture is not exact\n",
                false,
            ),
            (
                "another provider",
                &["quintago", "--secret-env", "LINE", "--explain"],
                "{}",
                "no match. The signature in `x-iverton-signature` was made with LINE, but:\n- the signature is in \
                 `x-iverton-signature`; this scheme reads `x-quintago-signature`: choose the provider that sends it, \
                 or describe the sender in `verify` instead of `provider`\n- the secret ends in a line end that the sender's does not have: \
                 store it without (`printf %s`)\n",
                false,
            ),
        ] {
            let got = verify(arguments, &request(body));
            assert_eq!(got, (expected.to_owned(), accepted), "{name}");
        }
        let (text, _) = verify(
            &["iverton", "--secret-env", "MAIN", "--explain"],
            b"Host: a\n\n{}",
        );
        assert_eq!(
            text,
            "no match: no signature header was sent.\n- this scheme reads `x-iverton-signature`, and the request has nothing \
             there\n- the body has 2 bytes\n"
        );
    }

    /// What is said of `input`, sent to `provider` and checked with the secret of `MAIN`.
    fn said_of(arguments: &[&str], input: &str) -> String {
        let (text, accepted) = verify(&[arguments, &["--explain"]].concat(), input.as_bytes());
        assert!(!accepted, "{text}");
        text
    }

    #[test]
    fn a_secret_that_nobody_gave_is_said_for_every_form_of_signature() {
        let digest = "ab".repeat(32);
        for (name, provider, header) in [
            ("Stripe", "stripe", format!("Stripe-Signature: t=0,v1={digest}")),
            (
                "Slack",
                "slack",
                format!("X-Slack-Request-Timestamp: 0\nX-Slack-Signature: v0={digest}"),
            ),
            (
                "Zoom",
                "zoom",
                format!("X-Zm-Request-Timestamp: 0\nX-Zm-Signature: v0={digest}"),
            ),
            (
                "GitHub",
                "github",
                format!("X-Hub-Signature-256: sha256={digest}"),
            ),
        ] {
            let text = said_of(
                &[provider, "--secret-env", "MAIN"],
                &format!("{header}\n\n{{\"a\":1}}"),
            );
            let read = header.lines().next_back().and_then(|line| line.split(':').next());
            for part in [
                &*format!("`{}`", read.unwrap().to_ascii_lowercase()),
                "none of the secrets given made it",
                "compare the secret with the provider's page",
            ] {
                assert!(text.contains(part), "{name}: {text}");
            }
            assert!(!text.contains("no header holds"), "{name}: {text}");
        }
    }

    #[test]
    fn where_the_url_is_signed_it_is_shown_or_asked_for() {
        let request = "POST /in HTTP/1.1\nX-Square-Hmacsha256-Signature: \
                       q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n\n{}";
        let text = said_of(
            &[
                "square",
                "--secret-env",
                "MAIN",
                "--public-url",
                "https://h.example.com/in",
            ],
            request,
        );
        let says = "the URL that was taken for the signed one is https://h.example.com/in (the capture has no query): it must be the \
                    one that was entered at the provider";
        assert!(text.contains(says), "{text}");
        let cli = Cli::parse_from(["verify", "square", "--secret-env", "MAIN"]);
        let error = run(
            &cli.args,
            &Fixed,
            &ManualClock::new(Timestamp(0)),
            &mut request.as_bytes(),
            &mut Vec::new(),
        );
        assert!(error.unwrap_err().to_string().contains("--public-url URL"));
    }

    #[test]
    fn the_query_of_the_public_url_counts_where_the_capture_has_none() {
        // base64 of HMAC-SHA256 over https://a.example/in?x=1{} with canary-secret.
        let header = "x-square-hmacsha256-signature: VYJCsRzSSNo4Y4P6QAUM4B0fpm/zIVU+F0ZLvHXDBTk=";
        let known = [
            "square",
            "--secret-env",
            "MAIN",
            "--header",
            header,
            "--body",
            "-",
        ];
        for (url, good) in [
            ("https://a.example/in?x=1", true),
            ("https://a.example/in", false),
        ] {
            let arguments = [&known[..], &["--public-url", url]].concat();
            assert_eq!(verify(&arguments, b"{}").1, good, "{url}");
        }
        let captured = format!("POST /in?x=1 HTTP/1.1\nHost: a.example\n{header}\n\n{{}}");
        let url = ["--public-url", "https://a.example/in"];
        assert!(verify(&[&known[..3], &url[..]].concat(), captured.as_bytes()).1);
    }

    #[test]
    fn a_scheme_that_only_a_secret_chooses_is_named() {
        // SHA-256 of canary-secret and the body.
        let header = "x-hubspot-signature: b62aee69cf6db3fe9f5095fc00101b46aa6b2774862db15c17af08eb81888e34";
        let url = ["--public-url", "https://a.example/in", "--body", "-"];
        let known = ["hubspot", "--secret-env", "MAIN", "--header", header];
        let text = verify(&[&known[..], &url[..]].concat(), b"{}").0;
        let expected = "match: the secret is MAIN, in the scheme `v1`; a route takes it only where the secret says scheme = \"v1\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_handshake_is_said_to_be_one() {
        for (provider, input, name) in [
            (
                "meta",
                "GET /in?hub.mode=subscribe&hub.challenge=1&hub.verify_token=x HTTP/1.1\n\n",
                "hub.challenge",
            ),
            (
                "slack",
                "Host: a\n\n{\"type\":\"url_verification\",\"challenge\":\"c\"}",
                "url_verification",
            ),
        ] {
            let text = said_of(&[provider, "--secret-env", "MAIN"], input);
            assert!(
                text.starts_with("this is a handshake of ") && text.contains("no event"),
                "{text}"
            );
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn what_becomes_of_a_handshake_is_told_where_the_route_is_known() {
        for (token, expected) in [
            ("canary-verify", "would be answered 200"),
            (
                "other",
                "would be refused: the handshake's verify token is not the route's",
            ),
        ] {
            let input =
                format!("GET /in?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token} HTTP/1.1\n\n");
            let text = verify(&["--route", "meta"], input.as_bytes()).0;
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_secret_that_is_no_key_is_named() {
        let token = "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln";
        let text = said_of(
            &["google-pubsub", "--secret-env", "MAIN"],
            &format!("{token}\n\n{{}}"),
        );
        assert!(text.contains("MAIN was left out: the secret is not"), "{text}");
        let header = format!(
            "X-Signature-Timestamp: 0\nX-Signature-Ed25519: {}",
            "ab".repeat(64)
        );
        let text = said_of(&["discord", "--secret-env", "MAIN"], &format!("{header}\n\n{{}}"));
        assert!(
            text.contains("MAIN was left out: the secret is not hex"),
            "{text}"
        );
    }

    #[test]
    fn the_time_of_a_capture_is_read_in_two_ways() {
        for (given, millis) in [
            ("2026-11-21T01:15:00Z", Some(1_795_223_700_000)),
            ("1795223700", Some(1_795_223_700_000)),
            ("1795223700000", None),
            ("yesterday", None),
            ("", None),
            ("-1", None),
        ] {
            let read = parse_at(given);
            assert_eq!(read.as_ref().ok().map(|time| time.0), millis, "{given}");
            assert!(read.is_ok() || read.unwrap_err().contains("2026-11-21T01:15:00Z"));
        }
    }

    #[test]
    fn quarantine_without_the_request_or_the_credential_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = |wanted| quarantined(Some(folder.path()), wanted).unwrap_err().to_string();
        assert!(error("last").contains("on_bad_signature"));
        std::fs::write(folder.path().join("000000000000001.http"), "Host: a\n\n{}").unwrap();
        assert!(error("xx").contains("no request \"xx\""), "{}", error("xx"));
        assert_eq!(quarantined(Some(folder.path()), "last").unwrap().1, Timestamp(1));

        let args = Cli::parse_from(["verify", "--route", "r", "--quarantined", "--explain"]).args;
        let gitlab = preset::find("gitlab").unwrap();
        let given = RouteSecrets {
            preset: Some(gitlab),
            schemes: gitlab.schemes.iter().take(1).cloned().collect(),
            ..RouteSecrets::default()
        };
        let request = capture::read(b"Host: a\n\n{}", None).unwrap();
        let seen = Request::new(&request.headers, &request.body);
        let verdict = explain(&given.schemes, &seen, &[], Timestamp(0));
        let text = lines(&verdict, &args, &given, &request).join("\n");
        assert!(text.contains("is not kept in quarantine"), "{text}");
        // Where another of the provider's schemes is in use, the token is taken out all the same.
        let signing = RouteSecrets {
            schemes: gitlab.schemes.iter().skip(1).cloned().collect(),
            ..given
        };
        let verdict = explain(&signing.schemes, &seen, &[], Timestamp(0));
        let text = lines(&verdict, &args, &signing, &request).join("\n");
        assert!(
            text.contains("`webhook-signature`, and the request has nothing there"),
            "{text}"
        );
        assert!(
            text.contains("not kept in quarantine, and so not seen here: `x-gitlab-token`"),
            "{text}"
        );
    }

    #[test]
    fn headers_and_body_may_be_given_apart() {
        let request = String::from_utf8(request("")).unwrap();
        let header = request
            .lines()
            .find(|line| line.starts_with("x-iverton"))
            .unwrap();
        let arguments = [
            "iverton",
            "--secret-env",
            "MAIN",
            "--header",
            header,
            "--body",
            "-",
        ];
        assert!(verify(&arguments, b"{}").1);
        assert!(!verify(&arguments, b"{}\n").1);
    }

    #[test]
    fn a_provider_or_a_route_is_needed() {
        let cli = Cli::parse_from(["verify"]);
        let error = run(
            &cli.args,
            &Fixed,
            &ManualClock::new(Timestamp(0)),
            &mut &b""[..],
            &mut Vec::new(),
        );
        assert!(error.unwrap_err().to_string().contains("--route NAME"));
        assert!(Cli::try_parse_from(["verify", "iverton", "file", "--body", "-"]).is_err());
        let error = Cli::try_parse_from(["verify", "--quarantined"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--route <NAME>") && !error.contains("  <PROVIDER>"),
            "{error}"
        );
    }
}
