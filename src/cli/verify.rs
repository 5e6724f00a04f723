//! `hooklatch verify`: checks a captured request, and with `--explain` says why it would be refused.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::capture::{self, Capture};
use super::error::CliError;
use super::secret_args::{RouteSecrets, SecretArgs, SecretSource};
use super::sign::read_body;
use crate::clock::Clock;
use crate::fields::Fields;
use crate::provider::explain::{Verdict, explain};
use crate::provider::preset;

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
    /// File that holds the request: headers, an empty line, the body; `-` or nothing: standard input
    #[arg(value_name = "REQUEST", conflicts_with_all = ["header", "body"])]
    pub request: Option<PathBuf>,
    /// A header of the request, as `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER", requires = "body")]
    pub header: Vec<String>,
    /// File that holds the body alone; `-`: standard input
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
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
    let RouteSecrets { scheme, secrets } = args.secrets.resolve(args.provider.as_deref(), source)?;
    let request = read_request(args, input)?;
    let verdict = explain(&scheme, &request.headers, &request.body, &secrets, clock.now());
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
                writeln!(out, "- this scheme reads `{}`", scheme.headers.join("`, then `"))?;
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

fn read_request(args: &Args, input: &mut dyn Read) -> Result<Capture, CliError> {
    if args.body.is_some() {
        let mut headers = Vec::new();
        for line in &args.header {
            headers.push(capture::header(line.as_bytes())?);
        }
        let headers = Fields::from_pairs(headers);
        let body = read_body(args.body.as_ref(), input)?;
        return Ok(Capture { headers, body });
    }
    capture::parse(&read_body(args.request.as_ref(), input)?)
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
    use crate::provider::preset;
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
        let scheme = &preset::find("iverton").unwrap().scheme;
        let signed = scheme.sign(&Key::new(b"canary-secret").unwrap(), b"{}");
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
