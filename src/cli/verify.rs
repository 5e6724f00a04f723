//! `hooklatch verify`: checks a captured request, and with `--explain` says why it would be refused.

mod verdict;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::verdict::lines;
use super::capture::{self, Capture};
use super::error::CliError;
use super::secret_args::{RouteSecrets, SecretArgs, SecretSource, misplaced, split_query};
use super::sign::read_body;
use crate::clock::Clock;
use crate::event::Timestamp;
use crate::fields::Fields;
use crate::provider::explain::{Verdict, explain};
use crate::provider::handshake::Handshake;
use crate::provider::key::SchemeKey;
use crate::provider::preset::Preset;
use crate::provider::scheme::{Request, Scheme};
use crate::provider::sign::SignError;

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
        if self.request.is_none() && self.body.is_none() {
            self.request = misplaced(&mut self.provider, self.secrets.route.as_deref()).map(PathBuf::from);
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
    let (public_url, query) = args.public_url.as_deref().map(split_query).unzip();
    let seen = Request {
        method: request.method.as_deref().unwrap_or("POST"),
        public_url: public_url.or(given.public_url.as_deref()).or(request.url()),
        query: request.query().or(query.flatten()),
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

#[cfg(test)]
mod tests;
