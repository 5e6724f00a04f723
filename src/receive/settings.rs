//! What the way in runs on: valid by construction, made by `config`.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::event::{ProviderName, RouteName, UpstreamName};
use crate::handoff;
use crate::provider::handshake::Handshake;
use crate::provider::identify::IdentifyRule;
use crate::provider::scheme::{Credentials, Scheme};
use crate::provider::signature::LiveKey;
pub use crate::rate::Quota;
use crate::secret::SecretText;
use crate::upstream;

/// Limits of the front door, for all routes together.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// From the first byte (or the accept) to the end of the header.
    pub header_timeout: Duration,
    /// Bytes of request line and header.
    pub header_bytes_max: usize,
    /// Header fields.
    pub header_fields_max: usize,
    /// From the end of the header to the end of the body.
    pub body_timeout: Duration,
    /// From the last body byte to the answer.
    pub answer_timeout: Duration,
    /// A kept-alive connection may idle this long.
    pub keepalive_idle: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address; not applied to trusted proxies.
    pub connections_per_peer: usize,
    /// Body bytes in memory at once.
    pub bytes_in_flight: usize,
    /// Failed verifications of one address before it goes through the slow lane.
    pub failures_per_peer: Quota,
}

/// All routes of one configuration.
#[derive(Debug, Clone)]
pub struct Routes {
    /// In the order of the file; the longest matching path wins, exact before `/*`.
    pub routes: Vec<Arc<Route>>,
    /// Addresses whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Its path.
    pub path: RoutePath,
    /// Methods it takes, in upper case; POST unless the file lists others.
    pub methods: Vec<Box<str>>,
    /// The preset's name, or `custom`.
    pub provider: ProviderName,
    /// How senders prove themselves.
    pub verify: Verify,
    /// Where id and type stand; where it has all of a document checked, a signed body that is none is refused (400).
    pub identify: IdentifyRule,
    /// Dedup window of events with a usable id.
    pub dedup_window: Duration,
    /// Dedup window of events without one.
    pub dedup_body_window: Duration,
    /// `dedup_scope = "path"`: the rest of a `/*` path is part of the key.
    pub dedup_by_path: bool,
    /// What happens to verified events.
    pub mode: Mode,
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// `rate` with `over = "reject"`: 429 above it, charged after verification.
    pub reject_above: Option<Quota>,
    /// Only these senders; empty: all.
    pub allow_ips: Vec<IpNet>,
    /// Status and body of the answer to an accepted event.
    pub accepted: FixedAnswer,
    /// Status and body of the answer to a duplicate.
    pub duplicate: FixedAnswer,
    /// Status and body of the answer to a request without a signature.
    pub missing_signature: FixedAnswer,
    /// Status and body of the answer to one with a bad signature.
    pub bad_signature: FixedAnswer,
    /// The URL that the sender was given, without its query.
    pub public_url: Option<Box<str>>,
    /// What the provider asks besides sending events.
    pub handshakes: Vec<Handshake>,
    /// What handshakes must bring.
    pub verify_token: Option<SecretText>,
    /// Requests with a bad signature are kept up to so many bytes; 0: none.
    pub quarantine_bytes: u64,
    /// Headers and parameters that hold the credential itself: neither kept nor sent on.
    pub credentials: Credentials,
}

/// Where a route listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutePath {
    /// This path and no other.
    Exact(Box<str>),
    /// Every path below this prefix, which ends in `/` (written `prefix/*`).
    Below(Box<str>),
}

/// How senders prove themselves.
#[derive(Debug, Clone)]
pub enum Verify {
    /// `verify = "none"`: anybody may send.
    Nothing,
    /// By a signature.
    Signature {
        /// The schemes that a secret is bound to, at least one; any may match.
        proofs: Vec<Proof>,
        /// False: verify, count and mark, but let everything through.
        enforce: bool,
    },
}

/// A scheme with its secrets.
#[derive(Debug, Clone)]
pub struct Proof {
    /// How the signature is made.
    pub scheme: Arc<Scheme>,
    /// The secrets, at least one; over all schemes of a route at least one without `until`.
    pub keys: Vec<LiveKey>,
}

/// What happens to verified events.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Kept, answered, delivered later.
    Queue {
        /// The upstreams, each with its filter.
        wants: Vec<Want>,
    },
    /// Forwarded while the sender waits; its answer is the upstream's.
    Proxy(Box<ProxyUpstream>),
}

/// An upstream of a queue route and the events it wants.
#[derive(Debug, Clone)]
pub struct Want {
    /// Its name.
    pub upstream: UpstreamName,
    /// Only these types; `None`: all. An entry ending in `*` matches by prefix. An event whose type cannot be read is
    /// always wanted.
    pub types: Option<Vec<Box<str>>>,
}

/// The upstream of a proxy route.
#[derive(Debug, Clone)]
pub struct ProxyUpstream {
    /// Its name.
    pub name: UpstreamName,
    /// Where it is.
    pub endpoint: upstream::Endpoint,
    /// Headers, `Host`, hand-off signature.
    pub handoff: handoff::Settings,
    /// Deadlines and caps of one call.
    pub limits: upstream::Limits,
    /// A copy of an event in flight waits at most this long for the first one's end, then gets 503.
    pub copy_wait: Duration,
}

/// An answer that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Box<str>,
    /// `application/json` when the body is JSON, else `text/plain`.
    pub content_type: &'static str,
}
