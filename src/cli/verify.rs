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
use crate::provider::explain::{Verdict, explain};
use crate::provider::preset;
use crate::provider::scheme::{Request, Scheme};

/// Check a captured request as the gateway would, and say why it fails.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Never prints a secret or a signature. Exit code 0: accepted, 1: refused.\n\nExample:\n  \
                  hooklatch verify quantiv --secret-env QUANTIV_SECRET --explain request.txt"
)]
pub struct Args {
    /// The provider whose scheme is used; with --route, the route's by default
    #[arg(required_unless_present = "route")]
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
    /// When the request came (RFC 3339), for schemes that sign the time; now by default
    #[arg(long, value_name = "TIME")]
    pub at: Option<jiff::Timestamp>,
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
    let RouteSecrets {
        schemes,
        public_url,
        quarantine,
        secrets,
    } = args.secrets.resolve(args.provider.as_deref(), source)?;
    let mut at = args.at.map(|at| Timestamp(at.as_millisecond()));
    let request = match &args.quarantined {
        Some(wanted) => {
            let (path, kept_at) = quarantined(quarantine.as_deref(), wanted)?;
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
    let given = args
        .public_url
        .as_deref()
        .map(|url| url.split('?').next().unwrap_or_default());
    let seen = Request {
        method: request.method.as_deref().unwrap_or("POST"),
        public_url: given.or(public_url.as_deref()).or(request.url()),
        query: request.query(),
        ..Request::new(&request.headers, &request.body)
    };
    let now = at.unwrap_or_else(|| clock.now());
    let verdict = explain(&schemes, &seen, &secrets, now);
    match &verdict {
        Verdict::Match { secret } => writeln!(out, "match: the secret is {secret}")?,
        _ if !args.explain => writeln!(out, "no match; --explain says why")?,
        Verdict::Differs {
            secret,
            header,
            differences,
        } => {
            writeln!(
                out,
                "no match. The signature in `{header}` was made with {secret}, but:"
            )?;
            for difference in differences {
                writeln!(out, "- {difference}")?;
            }
        }
        Verdict::Unexplained {
            error,
            digest_headers,
        } => {
            writeln!(out, "no match: {error}.")?;
            if digest_headers.is_empty() {
                writeln!(out, "- no header holds anything of a digest's form")?;
                let read: Vec<_> = schemes.iter().flat_map(Scheme::headers).collect();
                writeln!(out, "- this scheme reads `{}`", read.join("`, then `"))?;
            } else {
                let found = digest_headers.join("`, `");
                writeln!(out, "- headers that hold a digest: `{found}`")?;
                writeln!(
                    out,
                    "- none of the secrets given made it, over this body or any that was tried"
                )?;
                writeln!(
                    out,
                    "- compare the secret with the provider's page, and capture the body as bytes"
                )?;
            }
            writeln!(out, "- {}", sizes(&request))?;
        }
    }
    let accepted = matches!(verdict, Verdict::Match { .. });
    Ok(if accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The file of a refused request, and when it came.
fn quarantined(folder: Option<&Path>, wanted: &str) -> Result<(PathBuf, Timestamp), CliError> {
    let nothing = |folder: &Path| {
        let text = format!(
            "{} holds no such request; has the route on_bad_signature = {{ quarantine = \"64MiB\" }}?",
            folder.display()
        );
        CliError::Config(text)
    };
    let folder = folder.ok_or_else(|| CliError::Config("without [store] no request is kept".to_owned()))?;
    let entries = std::fs::read_dir(folder).map_err(|_| nothing(folder))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let found = match wanted {
        "last" => files.pop(),
        wanted => files.into_iter().find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(wanted))
        }),
    };
    let path = found.ok_or_else(|| nothing(folder))?;
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let millis = name
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| nothing(folder))?;
    Ok((path, Timestamp(millis)))
}

fn read_request(args: &Args, input: &mut dyn Read) -> Result<Capture, CliError> {
    if args.body.is_some() {
        let mut headers = Vec::new();
        for line in &args.header {
            headers.push(capture::header(line.as_bytes())?);
        }
        let headers = Fields::from_pairs(headers);
        let body = read_body(args.body.as_ref(), input)?;
        return Ok(Capture {
            headers,
            body,
            ..Capture::default()
        });
    }
    capture::read(&read_body(args.request.as_ref(), input)?)
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
                 or name the header under `verify`\n- the secret ends in a line end that the sender's does not have: \
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
            "no match: no signature header was sent.\n- no header holds anything of a digest's form\n- this scheme \
             reads `x-iverton-signature`\n- the body has 2 bytes\n"
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
        assert!(Cli::try_parse_from(["verify"]).is_err());
        assert!(Cli::try_parse_from(["verify", "iverton", "file", "--body", "-"]).is_err());
    }
}
