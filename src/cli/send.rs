//! `hooklatch send`: a realistic signed event through the front door, as the provider would send it.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use memchr::memmem;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::config_secrets::no_route;
use super::error::CliError;
use super::reachable;
use super::secret_args::{find, is_same, misplaced, refuse_other};
use super::sign::{private_key, read_body};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Timestamp;
use crate::provider::place::Place;
use crate::provider::preset::{self, Preset, Sample};
use crate::provider::sample;
use crate::provider::scheme::{Credentials, Scheme};
use crate::provider::sign::{Draft, SignError, Signer};
use crate::provider::signature::LiveKey;
use crate::receive::settings::{FixedAnswer, Mode, Route, RoutePath, Verify};
use crate::secret::SecretText;
use crate::upstream::{Client, Endpoint, Limits, Request};

/// No answer within this time is reported as a failure.
const PATIENCE: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What to send, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The provider; with --route, the route's by default
    provider: Option<String>,
    /// The event's type; the provider's first sample by default, and a plain one on a route with a `verify` of its own
    #[arg(value_name = "EVENT")]
    event: Option<String>,
    /// The route to send to, by name; by default the provider's first
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Send here instead of to this machine's own gateway
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// A body of your own in place of the sample's; `{signature}` in it is filled in where the signature stands in the body
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
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
    let args = &args.clone().with_the_event_in_its_place();
    let named = args.provider.as_deref().map(find).transpose()?;
    let route = route(named, args.route.as_deref(), config)?;
    let preset = preset::find(route.provider.as_str());
    refuse_other(named, route.name.as_str(), preset)?;
    if args.bad_signature && matches!(route.verify, Verify::Nothing) {
        let text = format!(
            "route \"{}\" has verify = \"none\": nothing is signed there, and no signature can be a bad one; leave out --bad-signature",
            route.name
        );
        return Err(CliError::Config(text));
    }
    let sample = sample_of(preset, args.event.as_deref())?;
    let own = args
        .body
        .as_ref()
        .map(|path| own_body(path, args, preset))
        .transpose()?;
    let private_key = args.private_key.as_deref().map(private_key).transpose()?;
    let endpoint = target(args, config, route)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(Duration::from_secs(1), 1);
    let mut as_expected = true;
    for _ in 0..args.count {
        let (seed, now) = (fastrand::u64(..), clock.now());
        let body = match &own {
            Some(own) => own.body.clone(),
            None => sample::fill(&sample.body, seed, now).into_bytes(),
        };
        let mut headers = sample::fill_headers(&sample.headers, seed, now);
        let times = if args.repeat { 2 } else { 1 };
        for time in 0..times {
            let message = Message {
                preset,
                sample: &sample,
                own: own.as_ref(),
                private_key: private_key.as_ref(),
                route,
                endpoint: &endpoint,
                headers: &headers,
                body: &body,
                spoilt: args.bad_signature,
                repeated: time > 0,
            };
            let (expected, drawn) = runtime.block_on(message.send(&client, clock.now(), out))?;
            as_expected &= expected;
            // A repeat is the same event, so it has the ids that were drawn while signing.
            headers.extend(drawn);
        }
    }
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Args {
    /// With `--route` the provider may be left out, and then the one word there is names the event.
    fn with_the_event_in_its_place(mut self) -> Self {
        if self.event.is_none() {
            self.event = misplaced(&mut self.provider, self.route.as_deref());
        }
        self
    }
}

/// The preset's event of that type, or its first; on a route without a preset a plain one of that type.
fn sample_of(preset: Option<&Preset>, event_type: Option<&str>) -> Result<Sample, CliError> {
    let Some(preset) = preset else {
        let event_type = event_type.unwrap_or("test");
        let body = json!({ "id": "evt_{id}", "type": event_type, "created": "{time}" });
        return Ok(Sample {
            event_type: event_type.to_owned(),
            body: body.to_string(),
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
        });
    };
    let found = match event_type {
        None => preset.samples.first(),
        Some(wanted) => preset.samples.iter().find(|sample| sample.event_type == wanted),
    };
    found.cloned().ok_or_else(|| CliError::Event {
        provider: preset.name.to_string(),
        given: event_type.unwrap_or_default().to_owned(),
    })
}

/// A body that was given.
struct OwnBody {
    body: Vec<u8>,
    /// What the transcript calls it.
    title: String,
    content_type: String,
}

/// Reads `--body`; the content type is the provider's, and on a route without one what the body looks like.
fn own_body(path: &PathBuf, args: &Args, preset: Option<&Preset>) -> Result<OwnBody, CliError> {
    let body = read_body(Some(path), &mut std::io::stdin())?;
    let samples = preset.map(|preset| preset.samples.as_slice()).unwrap_or_default();
    let content_type = match (samples.first(), body.trim_ascii_start().first()) {
        (Some(sample), _) => sample.content_type.clone(),
        (None, Some(b'{' | b'[')) => "application/json".to_owned(),
        (None, _) if body.contains(&b'=') => "application/x-www-form-urlencoded".to_owned(),
        (None, _) => "application/octet-stream".to_owned(),
    };
    let title = args.event.clone().unwrap_or_else(|| path.display().to_string());
    Ok(OwnBody {
        body,
        title,
        content_type,
    })
}

struct Message<'a> {
    preset: Option<&'a Preset>,
    sample: &'a Sample,
    own: Option<&'a OwnBody>,
    private_key: Option<&'a SecretText>,
    route: &'a Route,
    endpoint: &'a Endpoint,
    headers: &'a [(String, String)],
    body: &'a [u8],
    spoilt: bool,
    repeated: bool,
}

impl Message<'_> {
    /// Sends once; whether the answer is as it should be, and the ids that were drawn.
    async fn send(&self, client: &Client, now: Timestamp, out: &mut dyn Write) -> Result<Sent, CliError> {
        let (draft, signed, drawn) = self.signed(now)?;
        let path = match &draft.query {
            Some(query) => format!("{}?{query}", bare(&self.endpoint.path)),
            None => self.endpoint.path.to_string(),
        };
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {}\r\nUser-Agent: hooklatch-send/{}\r\n",
            self.endpoint.authority,
            self.own
                .map_or(&self.sample.content_type, |own| &own.content_type),
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
            self.own.map_or(&self.sample.event_type, |own| &own.title),
            draft.body.len()
        )?;
        match &signed {
            Signed::Nothing => writeln!(out, "   unsigned")?,
            Signed::Credential => writeln!(out, "   with the secret itself, as this provider does")?,
            Signed::With(headers) => {
                for (name, value) in headers {
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
                let expected = match self.spoilt {
                    true => is_refused_signature(answer.status),
                    false => (200..300).contains(&answer.status),
                };
                Ok((expected, drawn))
            }
            Err(error) => {
                writeln!(out, "<- no answer: {error}; is the gateway running?")?;
                Ok((false, drawn))
            }
        }
    }

    /// The request as the provider would send it.
    fn signed(&self, now: Timestamp) -> Result<(Draft, Signed, Headers), CliError> {
        let mut headers = self.headers.to_vec();
        if let Some(preset) = self.preset
            && let Some(name) = preset.identify.type_header.as_deref()
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
            body: self.body.to_vec(),
        };
        let Verify::Signature { proofs, .. } = &self.route.verify else {
            return Ok((draft, Signed::Nothing, Vec::new()));
        };
        let is_live = |key: &&LiveKey| key.until.is_none_or(|until| now < until);
        let live = proofs
            .iter()
            .find_map(|proof| proof.keys.iter().find(is_live).map(|key| (&proof.scheme, key)));
        let (scheme, key) = live.ok_or(CliError::NoSecret)?;
        let first = draft.headers.len();
        let is_drawn = |name: &str| scheme.drawn_headers().contains(&name);
        let signer = match self.private_key {
            Some(text) => Signer::Private(text),
            None => Signer::Secret(&key.key),
        };
        scheme
            .sign(&signer, &mut draft, now)
            .map_err(|error| self.not_signed(&error))?;
        let new = draft.headers.iter().skip(first);
        let drawn = new.filter(|(name, _)| is_drawn(name)).cloned().collect();
        if self.spoilt {
            spoil(&mut draft, scheme, self.body);
        }
        let signed = match scheme.credentials() == Credentials::default() {
            true => Signed::With(shown(&draft.headers, first, is_drawn)),
            false => Signed::Credential,
        };
        Ok((draft, signed, drawn))
    }

    /// Where something that belongs into the body is not there, what names the body.
    fn not_signed(&self, error: &SignError) -> CliError {
        let is_of_body = matches!(error, SignError::NoPlace | SignError::Lacks(_));
        CliError::Config(match (is_of_body, self.own) {
            (false, _) => error.to_string(),
            (true, None) => format!("{error}; give a body that has it with --body FILE"),
            (true, Some(_)) => format!("{error}; it belongs into the file of --body"),
        })
    }

    fn meaning(&self, status: u16, body: &str) -> &'static str {
        let proxied = matches!(self.route.mode, Mode::Proxy(_));
        let (accepted, duplicate) = (&self.route.accepted, &self.route.duplicate);
        let is = |fixed: &FixedAnswer| fixed.status == status && *fixed.body == *body;
        // Where a provider wants an answer of its own, both are that.
        let alike = accepted.status == duplicate.status && accepted.body == duplicate.body;
        match status {
            200..300 if self.spoilt => "taken although the signature is wrong!",
            200..300 if !alike && is(duplicate) && proxied => "a repeat: relayed once",
            200..300 if !alike && is(duplicate) => "a repeat: kept once",
            200..300 if proxied => "relayed: the app's own answer",
            200..300 if alike => "accepted; this route's answers do not tell a duplicate",
            200..300 if self.repeated => "taken again",
            200..300 => "kept",
            _ if self.spoilt && is_refused_signature(status) => "refused, not kept: as it should be",
            _ if proxied => "refused, or the app's own answer",
            _ => "refused",
        }
    }
}

/// Name and value of each.
type Headers = Vec<(String, String)>;
/// Whether the answer was as it should be, and the ids that were drawn.
type Sent = (bool, Headers);

/// What of a draft is the signature.
enum Signed {
    /// Nothing is signed.
    Nothing,
    /// The secret itself, which is not shown.
    Credential,
    /// These headers.
    With(Headers),
}

/// What signing added from the header `first` on, and what it had drawn for the same event before.
fn shown(headers: &[(String, String)], first: usize, is_drawn: impl Fn(&str) -> bool) -> Headers {
    let all = headers.iter().enumerate();
    all.filter(|(index, (name, _))| *index >= first || is_drawn(name))
        .map(|(_, header)| header.clone())
        .collect()
}

/// Changes one digit of the signature, as near to right as wrong can be; `unsigned` is the body before it was signed.
fn spoil(draft: &mut Draft, scheme: &Scheme, unsigned: &[u8]) {
    let names = scheme.headers();
    let is_it = |name: &str| names.iter().any(|known| **known == *name);
    if let Some((_, value)) = draft.headers.iter_mut().find(|(name, _)| is_it(name)) {
        *value = String::from_utf8_lossy(&with_a_digit_changed(value.as_bytes())).into_owned();
    } else if let Some(signature) = signature_in_body(&draft.body, scheme, unsigned) {
        if let Some(value) = draft.body.get(signature.clone()) {
            let spoilt = with_a_digit_changed(value);
            draft.body.splice(signature, spoilt);
        }
    } else {
        draft.query = draft.query.as_ref().map(|query| format!("{query}x"));
    }
}

/// Which bytes of the body are the signature.
fn signature_in_body(body: &[u8], scheme: &Scheme, unsigned: &[u8]) -> Option<Range<usize>> {
    const MARK: &[u8] = b"{signature}";
    let place = scheme.place()?;
    if let Some(before) = memmem::find(unsigned, MARK) {
        let after = unsigned.len() - before - MARK.len();
        return Some(before..body.len().saturating_sub(after));
    }
    // The whole body was made while signing.
    let Place::Form(name) = place else { return None };
    let from = memmem::find(body, format!("{name}=").as_bytes())? + name.len() + 1;
    let until = memchr::memchr(b'&', body.get(from..)?).map_or(body.len(), |length| from + length);
    Some(from..until)
}

/// The last but one character before padding is another one; the last may hold bits that do not count.
fn with_a_digit_changed(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    let unpadded = value.trim_ascii_end();
    let unpadded = unpadded.strip_suffix(b"==").unwrap_or(unpadded);
    let unpadded = unpadded.strip_suffix(b"=").unwrap_or(unpadded);
    let at = unpadded.len().saturating_sub(2);
    if let Some(digit) = value.get_mut(at).filter(|digit| digit.is_ascii()) {
        *digit = if *digit == b'1' { b'2' } else { b'1' };
    }
    value
}

fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Any other refusal has another reason: a wrong path, a full store.
fn is_refused_signature(status: u16) -> bool {
    matches!(status, 401 | 429)
}

fn route<'c>(
    named: Option<&Preset>,
    wanted: Option<&str>,
    config: &'c Config,
) -> Result<&'c Route, CliError> {
    let mut routes = config.routes.routes.iter();
    let found = match (wanted, named) {
        (Some(name), _) => routes.find(|route| route.name.as_str() == name),
        (None, Some(preset)) => {
            routes.find(|route| is_same(Some(preset), preset::find(route.provider.as_str())))
        }
        (None, None) => {
            let text =
                "name the provider whose event is sent, or a route of the configuration with --route NAME";
            return Err(CliError::Config(text.to_owned()));
        }
    };
    found.map(|route| &**route).ok_or_else(|| match (wanted, named) {
        (Some(name), _) => no_route(config, name),
        (None, preset) => {
            let name = preset.map_or("", |preset| preset.name.as_str());
            CliError::Config(format!(
                "no route of the configuration has provider = {name:?}; name one with --route"
            ))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SecretName;
    use crate::fields::Fields;
    use crate::provider::request;
    use crate::provider::signature::SignatureError;

    const NOW: Timestamp = Timestamp(1_763_000_000_000);

    #[test]
    fn a_spoilt_signature_is_wrong_wherever_it_stands() {
        let mut spoilt = 0;
        for preset in preset::all() {
            let secret = preset.vectors.iter().find(|vector| vector.valid);
            let (Some(scheme), Some(secret)) = (preset.schemes.first(), secret) else {
                continue;
            };
            let key = scheme
                .key(&SecretText::new(secret.secret.clone().into()))
                .unwrap();
            let sample = &preset.samples[0];
            let unsigned = sample::fill(&sample.body, 1, NOW);
            let content_type = ("content-type".to_owned(), sample.content_type.clone());
            let mut draft = Draft {
                public_url: Some("https://hooks.example.com/hooks".to_owned()),
                query: None,
                headers: [vec![content_type], sample::fill_headers(&sample.headers, 1, NOW)].concat(),
                body: unsigned.clone().into_bytes(),
            };
            match scheme.sign(&Signer::Secret(&key), &mut draft, NOW) {
                Ok(()) => {}
                Err(SignError::NeedsPrivateKey | SignError::OnlyProvider(_)) => continue,
                Err(error) => panic!("{}: {error}", preset.name),
            }
            let keys = [LiveKey {
                name: SecretName::new("main"),
                key,
                until: None,
            }];
            let check = |draft: &Draft| {
                let pairs = draft.headers.iter();
                let fields =
                    Fields::from_pairs(pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
                let seen = request::Request {
                    public_url: draft.public_url.as_deref(),
                    query: draft.query.as_deref(),
                    ..request::Request::new(&fields, &draft.body)
                };
                let claim = scheme.claim(&seen)?;
                scheme.check(&claim, &keys, NOW, &seen, None).map(drop)
            };
            assert_eq!(check(&draft), Ok(()), "{}", preset.name);
            spoil(&mut draft, scheme, unsigned.as_bytes());
            let refused = check(&draft);
            let expected = matches!(
                refused,
                Err(SignatureError::Mismatch | SignatureError::Malformed | SignatureError::Missing)
            );
            assert!(expected, "{}: {refused:?}", preset.name);
            spoilt += 1;
        }
        assert!(spoilt > 150, "{spoilt}");
    }
}
