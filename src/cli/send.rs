//! `hooklatch send`: a realistic signed event through the front door, as the provider would send it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::error::CliError;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Timestamp;
use crate::provider::preset::{self, Preset, Sample};
use crate::provider::sample;
use crate::provider::scheme::Credentials;
use crate::provider::sign::{Draft, Signer};
use crate::provider::signature::LiveKey;
use crate::receive::settings::{Route, RoutePath, Verify};
use crate::secret::SecretText;
use crate::upstream::{Client, Endpoint, Limits, Request};

/// No answer within this time is reported as a failure.
const PATIENCE: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What to send, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The provider
    provider: String,
    /// The event's type; the provider's first sample by default
    #[arg(value_name = "EVENT")]
    event: Option<String>,
    /// The route to send to, by name; by default the provider's first
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Send here instead of to this machine's own gateway
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The private key (PKCS#8) of a provider whose secret is a public one; such as you made for a test
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Spoil the signature: the answer should be a refusal
    #[arg(long)]
    bad_signature: bool,
    /// Send each event twice: the second answer should say that it is a duplicate
    #[arg(long)]
    repeat: bool,
    /// How many different events
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
}

/// Sends and prints what was said. Exit code 0 when every answer is as it should be.
///
/// # Errors
/// Provider, event or route are unknown, or the target is no URL.
pub fn run(
    args: &Args,
    config: &Config,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let preset = preset::find(&args.provider).ok_or_else(|| CliError::Provider {
        given: args.provider.clone(),
    })?;
    let event_type = args.event.as_deref();
    let sample = match event_type {
        None => preset.samples.first(),
        Some(wanted) => preset.samples.iter().find(|sample| sample.event_type == wanted),
    };
    let sample = sample.ok_or_else(|| CliError::Event {
        provider: args.provider.clone(),
        given: event_type.unwrap_or_default().to_owned(),
    })?;
    let private_key = match &args.private_key {
        Some(path) => {
            let text = std::fs::read(path).map_err(|error| CliError::File {
                path: path.clone(),
                error,
            })?;
            Some(SecretText::new(text))
        }
        None => None,
    };
    let route = route(args, preset, config)?;
    let endpoint = target(args, config, route)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(Duration::from_secs(1), 1);
    let mut as_expected = true;
    for _ in 0..args.count {
        let (seed, now) = (fastrand::u64(..), clock.now());
        let body = sample::fill(&sample.body, seed, now);
        let headers = sample::fill_headers(&sample.headers, seed, now);
        let times = if args.repeat { 2 } else { 1 };
        for time in 0..times {
            let message = Message {
                preset,
                sample,
                private_key: private_key.as_ref(),
                route,
                endpoint: &endpoint,
                headers: &headers,
                body: &body,
                spoilt: args.bad_signature,
                repeated: time > 0,
            };
            as_expected &= runtime.block_on(message.send(&client, clock.now(), out))?;
        }
    }
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Message<'a> {
    preset: &'a Preset,
    sample: &'a Sample,
    private_key: Option<&'a SecretText>,
    route: &'a Route,
    endpoint: &'a Endpoint,
    headers: &'a [(String, String)],
    body: &'a str,
    spoilt: bool,
    repeated: bool,
}

impl Message<'_> {
    /// Sends once; whether the answer is as it should be.
    async fn send(&self, client: &Client, now: Timestamp, out: &mut dyn Write) -> Result<bool, CliError> {
        let (draft, signed) = self.signed(now)?;
        let path = match &draft.query {
            Some(query) => format!("{}?{query}", bare(&self.endpoint.path)),
            None => self.endpoint.path.to_string(),
        };
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {}\r\nUser-Agent: hooklatch-send/{}\r\n",
            self.endpoint.authority,
            self.sample.content_type,
            env!("CARGO_PKG_VERSION"),
        );
        for (name, value) in &draft.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", draft.body.len()));
        writeln!(
            out,
            "-> POST {}  {}  {} B",
            bare(&self.endpoint.path),
            self.sample.event_type,
            draft.body.len()
        )?;
        match &signed {
            Signed::Nothing => writeln!(out, "   unsigned")?,
            Signed::Credential => writeln!(out, "   with the secret itself, as this provider does")?,
            Signed::From(first) => {
                for (name, value) in draft.headers.iter().skip(*first) {
                    writeln!(out, "   {name}: {value}")?;
                }
            }
        }
        writeln!(out, "   body sha256 {}", hex::encode(Sha256::digest(&draft.body)))?;
        let started = Instant::now();
        let request = Request {
            head: head.as_bytes(),
            body: &draft.body,
            is_head: false,
        };
        match client.call(self.endpoint, request, &limits()).await {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                let took = started.elapsed().as_secs_f64() * 1000.0;
                let meaning = self.meaning(answer.status, &text);
                writeln!(
                    out,
                    "<- {} in {took:.1} ms  {}  ({meaning})",
                    answer.status,
                    text.trim()
                )?;
                Ok(if self.spoilt {
                    is_refused_signature(answer.status)
                } else {
                    (200..300).contains(&answer.status)
                })
            }
            Err(error) => {
                writeln!(out, "<- no answer: {error}; is the gateway running?")?;
                Ok(false)
            }
        }
    }

    /// The request as the provider would send it.
    fn signed(&self, now: Timestamp) -> Result<(Draft, Signed), CliError> {
        let mut headers = self.headers.to_vec();
        if let Some(name) = self.preset.identify.type_header.as_deref()
            && !headers.iter().any(|(known, _)| known == name)
        {
            headers.push((name.to_owned(), self.sample.event_type.clone()));
        }
        let query = self
            .endpoint
            .path
            .split_once('?')
            .map(|(_, query)| query.to_owned());
        let mut draft = Draft {
            public_url: self.route.public_url.as_deref().map(str::to_owned),
            query,
            headers,
            body: self.body.as_bytes().to_vec(),
        };
        let Verify::Signature { proofs, .. } = &self.route.verify else {
            return Ok((draft, Signed::Nothing));
        };
        let is_live = |key: &&LiveKey| key.until.is_none_or(|until| now < until);
        let live = proofs
            .iter()
            .find_map(|proof| proof.keys.iter().find(is_live).map(|key| (&proof.scheme, key)));
        let (scheme, key) = live.ok_or(CliError::NoSecret)?;
        let first = draft.headers.len();
        let signer = match self.private_key {
            Some(text) => Signer::Private(text),
            None => Signer::Secret(&key.key),
        };
        scheme
            .sign(&signer, &mut draft, now)
            .map_err(|error| CliError::Config(error.to_string()))?;
        if self.spoilt {
            spoil(&mut draft, &scheme.headers());
        }
        let signed = match scheme.credentials() == Credentials::default() {
            true => Signed::From(first),
            false => Signed::Credential,
        };
        Ok((draft, signed))
    }

    fn meaning(&self, status: u16, body: &str) -> &'static str {
        match status {
            200..300 if body.contains("\"duplicate\":true") => "a repeat: kept once, delivered once",
            200..300 if self.repeated => "taken again",
            200..300 if self.spoilt => "taken although the signature is wrong!",
            200..300 => "kept",
            _ if self.spoilt && is_refused_signature(status) => "refused, not kept: as it should be",
            _ => "refused",
        }
    }
}

/// What of a draft is the signature.
enum Signed {
    /// Nothing is signed.
    Nothing,
    /// The secret itself, which is not shown.
    Credential,
    /// The headers from this one on.
    From(usize),
}

/// Changes one digit of the signature: as near to right as wrong can be.
fn spoil(draft: &mut Draft, names: &[std::borrow::Cow<'_, str>]) {
    let is_it = |name: &str| names.iter().any(|known| **known == *name);
    match draft.headers.iter_mut().find(|(name, _)| is_it(name)) {
        Some((_, value)) => {
            // The last may be padding.
            let at = value.trim_end_matches('=').len().saturating_sub(2);
            let other = if value.get(at..=at) == Some("1") { "2" } else { "1" };
            if value.is_char_boundary(at) && value.is_char_boundary(at + 1) {
                value.replace_range(at..=at, other);
            }
        }
        None => draft.query = draft.query.as_ref().map(|query| format!("{query}x")),
    }
}

fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Any other refusal has another reason: a wrong path, a full store.
fn is_refused_signature(status: u16) -> bool {
    matches!(status, 401 | 429)
}

fn route<'c>(args: &Args, preset: &Preset, config: &'c Config) -> Result<&'c Route, CliError> {
    let routes = &config.routes.routes;
    let found = match &args.route {
        Some(name) => routes.iter().find(|route| route.name.as_str() == name),
        None => routes
            .iter()
            .find(|route| route.provider.as_str() == preset.name.as_str()),
    };
    found.map(|route| &**route).ok_or_else(|| {
        CliError::Config(match &args.route {
            Some(name) => format!("the configuration has no route named {name:?}"),
            None => format!(
                "no route of the configuration has provider = {:?}; name one with --route",
                args.provider
            ),
        })
    })
}

fn target(args: &Args, config: &Config, route: &Route) -> Result<Endpoint, CliError> {
    let url = match &args.to {
        Some(url) => url.clone(),
        None => {
            let scheme = if config.tls.is_some() { "https" } else { "http" };
            let path = match &route.path {
                RoutePath::Exact(path) => path,
                RoutePath::Below(prefix) => prefix,
            };
            format!("{scheme}://{}{path}", reachable(config.listen))
        }
    };
    url.parse::<Endpoint>()
        .map_err(|error| CliError::Config(error.to_string()))
}

/// Nobody can connect to "every address".
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

fn limits() -> Limits {
    Limits {
        connect: PATIENCE,
        tls: PATIENCE,
        write: PATIENCE,
        first_byte: PATIENCE,
        whole: PATIENCE,
        head_bytes_max: ANSWER_BYTES_MAX,
        body_bytes_max: ANSWER_BYTES_MAX,
        keep_body: true,
    }
}
