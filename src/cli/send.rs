//! `hooklatch send`: a realistic signed event through the front door, as the provider would send it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::error::CliError;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Timestamp;
use crate::provider::preset::{self, Preset};
use crate::provider::sample;
use crate::receive::settings::{Route, RoutePath, Verify};
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
    let route = route(args, config)?;
    let endpoint = target(args, config, route)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(Duration::from_secs(1), 1);
    let mut as_expected = true;
    for _ in 0..args.count {
        let body = sample::fill(&sample.body, fastrand::u64(..), clock.now());
        let times = if args.repeat { 2 } else { 1 };
        for time in 0..times {
            let message = Message {
                preset,
                event_type: &sample.event_type,
                route,
                endpoint: &endpoint,
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
    event_type: &'a str,
    route: &'a Route,
    endpoint: &'a Endpoint,
    body: &'a str,
    spoilt: bool,
    repeated: bool,
}

impl Message<'_> {
    /// Sends once; whether the answer is as it should be.
    async fn send(&self, client: &Client, now: Timestamp, out: &mut dyn Write) -> Result<bool, CliError> {
        let signature = self.signature(now)?;
        let type_header = self
            .preset
            .identify
            .type_header
            .as_deref()
            .map(|name| (name.to_owned(), self.event_type));
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nUser-Agent: hooklatch-send/{}\r\n",
            self.endpoint.path,
            self.endpoint.authority,
            env!("CARGO_PKG_VERSION"),
        );
        if let Some((name, value)) = &signature {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some((name, value)) = &type_header {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        let shown = signature.map_or_else(
            || "unsigned".to_owned(),
            |(name, value)| format!("{name}: {value}"),
        );
        writeln!(
            out,
            "-> POST {}  {}  {} B",
            self.endpoint.path,
            self.event_type,
            self.body.len()
        )?;
        writeln!(out, "   {shown}")?;
        writeln!(
            out,
            "   body sha256 {}",
            hex::encode(Sha256::digest(self.body.as_bytes()))
        )?;
        let started = Instant::now();
        let request = Request {
            head: head.as_bytes(),
            body: self.body.as_bytes(),
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

    /// Name and value of the signature header; `None` on a route that checks nothing.
    fn signature(&self, now: Timestamp) -> Result<Option<(String, String)>, CliError> {
        let Verify::Signature { scheme, keys, .. } = &self.route.verify else {
            return Ok(None);
        };
        let live = keys.iter().find(|key| key.until.is_none_or(|until| now < until));
        let key = live.ok_or(CliError::NoSecret)?;
        let signed = scheme.sign(&key.key, self.body.as_bytes());
        let mut value = signed.value;
        if self.spoilt {
            // One digit off: as near to right as wrong can be.
            let last = if value.ends_with('0') { '1' } else { '0' };
            value.pop();
            value.push(last);
        }
        Ok(Some((signed.header.to_owned(), value)))
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

/// Any other refusal has another reason: a wrong path, a full store.
fn is_refused_signature(status: u16) -> bool {
    matches!(status, 401 | 429)
}

fn route<'c>(args: &Args, config: &'c Config) -> Result<&'c Route, CliError> {
    let routes = &config.routes.routes;
    let found = match &args.route {
        Some(name) => routes.iter().find(|route| route.name.as_str() == name),
        None => routes
            .iter()
            .find(|route| route.provider.as_str() == args.provider),
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
