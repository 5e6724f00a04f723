//! `hooklatch sign`: the header that a provider would send with a body.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::error::CliError;
use super::secret_args::{
    RouteSecrets, SecretArgs, SecretSource, find, misplaced, refuse_other, split_query,
};
use crate::clock::Clock;
use crate::event::Timestamp;
use crate::provider::explain::NamedSecret;
use crate::provider::sample;
use crate::provider::scheme::Scheme;
use crate::provider::sign::{Draft, SignError, Signer};
use crate::secret::SecretText;

/// Print the signature header that a provider would send with a body.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  hooklatch sign quintago --secret-env QUINTAGO_SECRET event.json\n  \
                  hooklatch sign quintago --secret-env S event.json | curl -H @- --data-binary @event.json URL"
)]
pub struct Args {
    /// The provider whose scheme is used; with --route, the route's by default
    pub provider: Option<String>,
    /// File that holds the body; `-` or nothing: standard input
    #[arg(value_name = "BODY")]
    pub body: Option<PathBuf>,
    /// Sign a sample event of this type instead; needs --body-out
    #[arg(long, value_name = "TYPE", conflicts_with = "body", requires = "body_out")]
    pub event: Option<String>,
    /// Where the body is written, as it is to be sent
    #[arg(long, value_name = "FILE")]
    pub body_out: Option<PathBuf>,
    /// The scheme, where the provider has several
    #[arg(long, value_name = "NAME")]
    pub scheme: Option<String>,
    /// The URL that the provider was given, for schemes that sign it
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The private key (PKCS#8) of a scheme whose secret is a public one; such as you made for a test
    #[arg(long, value_name = "FILE")]
    pub private_key: Option<PathBuf>,
    /// Where the secret is
    #[command(flatten)]
    pub secrets: SecretArgs,
}

impl Args {
    /// With `--route` the provider may be left out, and then the one word there is names the body.
    fn with_the_body_in_its_place(mut self) -> Self {
        if self.body.is_none() {
            self.body = misplaced(&mut self.provider, self.secrets.route.as_deref()).map(PathBuf::from);
        }
        self
    }
}

/// Signs with the first secret given and writes `Header: value`, and `?name=value` where the query gets something too.
///
/// # Errors
/// When provider, secret or body are missing or unusable.
pub fn run(
    args: &Args,
    source: &dyn SecretSource,
    clock: &dyn Clock,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let args = &args.clone().with_the_body_in_its_place();
    let named = args.provider.as_deref().map(find).transpose()?;
    if let (Some(route), Some(_)) = (&args.secrets.route, named) {
        refuse_other(named, route, source.route(route)?.preset)?;
    }
    let given = args.secrets.schemes(args.provider.as_deref(), source)?;
    let scheme = match &args.scheme {
        None => given.schemes.first(),
        Some(name) => given.schemes.iter().find(|scheme| *scheme.name == **name),
    };
    let scheme = scheme.ok_or_else(|| {
        let names: Vec<&str> = given.schemes.iter().map(|scheme| &*scheme.name).collect();
        let text = format!("there is no such scheme; there is {}", names.join(", "));
        CliError::Config(text)
    })?;
    let now = clock.now();
    let unsigned = draft(args, &given, now, input)?;
    let sign = |signer: &Signer<'_>| {
        let mut draft = unsigned.clone();
        let signed = scheme.sign(signer, &mut draft, now);
        signed.map_err(|error| CliError::Config(error.to_string()))?;
        Ok::<_, CliError>(draft)
    };
    let draft = match &args.private_key {
        Some(path) => sign(&Signer::Private(&private_key(path)?))?,
        None => {
            let secret = secret_of(&given, scheme).ok_or(CliError::NoSecret)?;
            if scheme.has_public_key() {
                return Err(CliError::Config(SignError::NeedsPrivateKey.to_string()));
            }
            let key = scheme.key(&secret.text).map_err(|error| CliError::Key {
                name: secret.name.to_string(),
                error,
            })?;
            sign(&Signer::Secret(&key))?
        }
    };
    if args.body_out.is_none() && draft.body != unsigned.body {
        let text = "this scheme's signature stands in the body: give --body-out FILE, where the signed body is written";
        return Err(CliError::Config(text.to_owned()));
    }
    if let Some(path) = &args.body_out {
        fs::write(path, &draft.body).map_err(|error| CliError::File {
            path: path.clone(),
            error,
        })?;
    }
    for (name, value) in &draft.headers {
        writeln!(out, "{name}: {value}")?;
    }
    if let Some(query) = draft.query.as_ref().filter(|_| draft.query != unsigned.query) {
        writeln!(out, "?{query}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The first secret that is for the scheme: a route's may be bound to another one.
fn secret_of<'g>(given: &'g RouteSecrets, scheme: &Scheme) -> Option<&'g NamedSecret> {
    let is_for_another = |secret: &NamedSecret| {
        let mut bound = given.bound.iter().filter(|(name, _)| *name == secret.name);
        bound.next().is_some_and(|(_, other)| *other != scheme.name)
    };
    let mut own = given.secrets.iter().filter(|secret| secret.of_route);
    own.find(|secret| !is_for_another(secret))
}

/// The text of a private key.
pub(super) fn private_key(path: &Path) -> Result<SecretText, CliError> {
    let text = fs::read(path).map_err(|error| CliError::File {
        path: path.to_owned(),
        error,
    })?;
    Ok(SecretText::new(text))
}

fn draft(args: &Args, from: &RouteSecrets, now: Timestamp, input: &mut dyn Read) -> Result<Draft, CliError> {
    let given = args.public_url.as_deref().or(from.public_url.as_deref());
    let (url, query) = given.map(split_query).unzip();
    let query = query.flatten().filter(|query| !query.is_empty());
    let (body, headers) = match &args.event {
        Some(given) => {
            let preset = from.preset.ok_or_else(|| {
                let text = "a route with a `verify` of its own has no sample events; give a body";
                CliError::Config(text.to_owned())
            })?;
            let sample = preset.samples.iter().find(|sample| sample.event_type == *given);
            let sample = sample.ok_or_else(|| CliError::Event {
                provider: preset.name.to_string(),
                given: given.clone(),
            })?;
            let seed = fastrand::u64(..);
            let filled = sample::fill(&sample.body, seed, now);
            (
                filled.into_bytes(),
                sample::fill_headers(&sample.headers, seed, now),
            )
        }
        None => (read_body(args.body.as_ref(), input)?, Vec::new()),
    };
    Ok(Draft {
        public_url: url.map(str::to_owned),
        query: query.map(str::to_owned),
        headers,
        body,
    })
}

/// The bytes of a file, or of standard input for `-` and nothing.
pub(super) fn read_body(path: Option<&PathBuf>, input: &mut dyn Read) -> Result<Vec<u8>, CliError> {
    match path.filter(|path| path.as_os_str() != "-") {
        Some(path) => fs::read(path).map_err(|error| CliError::File {
            path: path.clone(),
            error,
        }),
        None => {
            let mut body = Vec::new();
            input.read_to_end(&mut body)?;
            Ok(body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret_args::fixed::Fixed;
    use super::*;
    use crate::clock::ManualClock;
    use crate::event::Timestamp;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn sign(arguments: &[&str], input: &[u8]) -> Result<String, CliError> {
        use clap::Parser;
        let cli = Cli::parse_from([&["sign"], arguments].concat());
        let clock = ManualClock::new(Timestamp(0));
        let (mut input, mut out) = (input, Vec::new());
        run(&cli.args, &Fixed, &clock, &mut input, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_valid_documented_vector_is_signed_alike() {
        for (provider, expected) in [
            (
                "quantiv",
                "x-quantiv-signature: sha256=497acdd99b0389e933e5afe40b30657d77d6838b20d9c918b8db398990afb1a1\n",
            ),
            (
                "connectgain",
                "x-webhook-signature: sha256=497acdd99b0389e933e5afe40b30657d77d6838b20d9c918b8db398990afb1a1\n",
            ),
        ] {
            let body = br#"{"id":"evt_1","event":"lead.created","data":{"object":{"id":"lead_1"}}}"#;
            assert_eq!(
                sign(&[provider, "--secret-env", "DOCUMENTED"], body).unwrap(),
                expected
            );
            assert_eq!(
                sign(&[provider, "--secret-env", "DOCUMENTED", "-"], body).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_route_brings_its_own_first_secret() {
        let by_route = sign(&["iverton", "--route", "good"], b"{}").unwrap();
        assert_eq!(
            by_route,
            sign(&["iverton", "--secret-env", "MAIN"], b"{}").unwrap()
        );
    }

    #[test]
    fn a_route_needs_no_provider_and_takes_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("body.json");
        fs::write(&path, "{}").unwrap();
        let file = path.to_str().unwrap();
        let by_route = sign(&["--route", "good", file], b"").unwrap();
        assert_eq!(
            by_route,
            sign(&["iverton", "--route", "good", file], b"").unwrap()
        );
        let error = sign(&["stripe", "--route", "good", file], b"").unwrap_err();
        let expected = "route \"good\" is one of Iverton AI (provider = \"iverton\"), not one of Stripe; leave \"stripe\" out, or name \
                        another route";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_private_key_is_asked_for_and_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        fs::write(&path, pair.serialize_pem()).unwrap();
        let file = path.to_str().unwrap();
        let signed = sign(&["discord", "--private-key", file], b"{}").unwrap();
        assert!(signed.contains("x-signature-ed25519: "), "{signed}");
        let error = sign(&["discord", "--secret-file", file], b"{}").unwrap_err();
        assert!(error.to_string().contains("--private-key FILE"), "{error}");
    }

    #[test]
    fn a_sample_is_signed_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("body.json");
        let file = path.to_str().unwrap();
        let flags = ["--event", "lead.created", "--body-out", file];
        let signed = sign(&[&["quintago", "--secret-env", "MAIN"], &flags[..]].concat(), b"").unwrap();
        assert_eq!(
            signed,
            sign(&["quintago", "--secret-env", "MAIN", file], b"").unwrap()
        );
    }

    #[test]
    fn only_what_is_new_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signed");
        let file = path.to_str().unwrap();
        let url = ["--secret-env", "MAIN", "--public-url", "https://a.example/in?x=1"];
        let signed = sign(&[&["square"], &url[..]].concat(), b"{}").unwrap();
        assert_eq!(signed.lines().count(), 1, "{signed}");
        let in_body = ["adyen", "--secret-env", "HEX"];
        let body = br#"{"notificationItems":[{"NotificationRequestItem":{"additionalData":{"hmacSignature":"{signature}"}}}]}"#;
        let error = sign(&in_body, body).unwrap_err();
        assert!(error.to_string().contains("--body-out FILE"), "{error}");
        assert_eq!(
            sign(&[&in_body[..], &["--body-out", file]].concat(), body).unwrap(),
            ""
        );
        let written = fs::read_to_string(&path).unwrap();
        assert!(
            written.contains("hmacSignature") && !written.contains("{signature}"),
            "{written}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (arguments, expected) in [
            (
                &["stripes", "--secret-env", "MAIN"][..],
                "there is no provider \"stripes\"; did you mean \"stripe\"? `hooklatch providers` lists all",
            ),
            (
                &["iverton"],
                "no secret was given; use --secret-env NAME, --secret-file FILE or --route NAME",
            ),
            (
                &["iverton", "--secret-env", "NONE"],
                "the environment variable NONE is not set; export it, or use --secret-file",
            ),
            (
                &["iverton", "--secret-env", "EMPTY"],
                "EMPTY: the secret is empty, so anyone could sign with it; put the provider's secret there",
            ),
            (&["iverton", "--route", "bad"], "there is no route \"bad\""),
            (
                &[
                    "iverton",
                    "--secret-env",
                    "MAIN",
                    "--event",
                    "x",
                    "--body-out",
                    "/nowhere/x",
                ],
                "iverton has no sample event \"x\"; `hooklatch providers show iverton` lists them",
            ),
        ] {
            let error = sign(arguments, b"{}").unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2));
        }
        let error = sign(&["iverton", "--secret-env", "MAIN", "/nowhere/x"], b"").unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
    }
}
