//! One request, one answer, under deadlines.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::dial::{Tls, after, dial, root_store};
use super::endpoint::Endpoint;
use super::exchange::{Outcome, exchange};
use super::names::Names;
use super::pool::Pool;

/// Deadlines and caps of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Name resolution and TCP connect together.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Writing head and body. The answer is read meanwhile, so an early one ends the wait.
    pub write: Duration,
    /// From the last byte written to the first byte of the final answer's head; interim answers (1xx) do not count.
    pub first_byte: Duration,
    /// The whole call.
    pub whole: Duration,
    /// Bytes of the answer's head, skipped interim heads included.
    pub head_bytes_max: usize,
    /// Bytes of the answer's body. Beyond: `CallError::AnswerTooLarge`, unless `keep_body` is false.
    pub body_bytes_max: usize,
    /// Whether the answer's body is wanted (`proxy`) or read and thrown away up to the cap (delivery).
    ///
    /// Where it is not wanted, the status is the answer: a body that is too long, malformed, late or cut off
    /// costs the connection and nothing else. Nor are the headers of a 2xx then.
    pub keep_body: bool,
}

/// A request, written as it stands: the client adds nothing and checks nothing in it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Request line and headers with the closing empty line.
    pub head: &'a [u8],
    /// The body; `head` must carry its `Content-Length`.
    pub body: &'a [u8],
    /// The method is HEAD, so the answer has no body.
    pub is_head: bool,
}

impl Request<'_> {
    /// It asks and changes nothing, so it may be sent twice (RFC 9110, 9.2.2).
    pub(super) fn is_safe(&self) -> bool {
        let methods: [&[u8]; 3] = [b"GET ", b"HEAD ", b"OPTIONS "];
        methods.iter().any(|method| self.head.starts_with(method))
    }
}

/// A final answer (1xx are skipped, redirects are not followed).
#[derive(Clone)]
pub struct Answer {
    /// The status, 200 to 599 (anything else is `CallError::BadAnswer`).
    pub status: u16,
    /// Names and values in order, as received, hop-by-hop ones included; empty for a 2xx when `keep_body` is false.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body, unframed; empty when `keep_body` is false.
    pub body: Bytes,
    /// When it was complete.
    pub at: Instant,
}

impl Answer {
    /// The first value of header `name` (any case).
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The host name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: Box<str>,
        /// The resolver's words.
        reason: Box<str>,
    },
    /// No connection.
    #[error("cannot connect to {authority}: {reason}")]
    Connect {
        /// Host and port.
        authority: Box<str>,
        /// The system's words.
        reason: Box<str>,
    },
    /// No TLS session.
    #[error("TLS with {authority} failed: {reason}")]
    Tls {
        /// Host and port.
        authority: Box<str>,
        /// The library's words.
        reason: Box<str>,
    },
    /// The connection broke.
    #[error("the connection broke while {phase}: {reason}")]
    Broken {
        /// `writing the request`, `waiting for the answer`, `reading the answer`.
        phase: &'static str,
        /// The system's words.
        reason: Box<str>,
    },
    /// A deadline passed.
    #[error("no {phase} within {after:?}")]
    Timeout {
        /// `connection`, `TLS session`, `room to write`, `answer`, `end of the answer`.
        phase: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// What came is not a usable HTTP/1.1 answer.
    #[error("the answer is not valid HTTP/1.1: {0}")]
    BadAnswer(&'static str),
    /// The answer's head or body is over the cap.
    #[error("the answer is over {0} bytes")]
    AnswerTooLarge(usize),
}

impl CallError {
    /// No connection could be made, so no byte of the request was sent.
    pub fn is_unreached(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. } => true,
            Self::Timeout { phase, .. } => matches!(*phase, "connection" | "TLS session"),
            Self::Broken { .. } | Self::BadAnswer(_) | Self::AnswerTooLarge(_) => false,
        }
    }
}

/// A pooling client; clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
    names: Arc<Names>,
    tls: Arc<Tls>,
}

impl Client {
    /// Makes a client with the platform's CA roots, or those of `SSL_CERT_FILE` (read once, at the first `https` call).
    ///
    /// `idle_max` bounds how long a connection is kept unused: below the app's own keep-alive. Zero for either keeps none.
    pub fn new(idle_max: Duration, idle_per_endpoint_max: usize) -> Self {
        Self::with_tls(idle_max, idle_per_endpoint_max, Tls::default())
    }

    /// As [`Client::new`], but trusts the CA certificates in `roots` and no others.
    ///
    /// # Errors
    /// [`CallError::Tls`] where none of `roots` can be read.
    pub fn with_roots(
        idle_max: Duration,
        idle_per_endpoint_max: usize,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, CallError> {
        let tls = root_store(roots)
            .and_then(|roots| Tls::with_roots(roots).map_err(|error| error.to_string()))
            .map_err(|reason| CallError::Tls {
                authority: "every upstream".into(),
                reason: reason.into(),
            })?;
        Ok(Self::with_tls(idle_max, idle_per_endpoint_max, tls))
    }

    fn with_tls(idle_max: Duration, idle_per_endpoint_max: usize, tls: Tls) -> Self {
        Self {
            pool: Arc::new(Pool::new(idle_max, idle_per_endpoint_max)),
            names: Arc::default(),
            tls: Arc::new(tls),
        }
    }

    /// Sends `request` to `endpoint` and reads the answer.
    ///
    /// A pooled connection that turns out to have been closed is replaced by a fresh one, once, within the same whole
    /// deadline, if the server had not read the request, or its method is safe. If it had, and closed without an answer,
    /// the call fails, as it would have on a fresh connection: the server may have acted on it.
    ///
    /// An answer that comes before the request is written counts. After an early 2xx the rest is still written; if the
    /// server does not read it, the call fails.
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        endpoint: &Endpoint,
        request: Request<'_>,
        limits: &Limits,
    ) -> Result<Answer, CallError> {
        self.call_at(Instant::now(), endpoint, request, limits).await
    }

    /// As [`Client::call`], of whoever has just looked at the clock: its deadlines count from `now`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_at(
        &self,
        now: Instant,
        endpoint: &Endpoint,
        request: Request<'_>,
        limits: &Limits,
    ) -> Result<Answer, CallError> {
        let whole_at = after(now, limits.whole);
        let mut outcome = None;
        if let Some(connection) = self.pool.take(endpoint, now) {
            outcome = Some(exchange(connection, request, limits, now, whole_at).await);
        }
        let outcome = match outcome {
            None | Some(Outcome::Unread(_)) => {
                // Apart: a call over a connection that is there shall not be as large.
                let dialed = Box::pin(dial(endpoint, &self.names, &self.tls, limits, whole_at));
                let connection = dialed.await?;
                exchange(connection, request, limits, Instant::now(), whole_at).await
            }
            Some(outcome) => outcome,
        };
        match outcome {
            Outcome::Answered(answer, connection) => {
                if let Some(connection) = connection {
                    self.pool.put(endpoint, connection, answer.at);
                }
                Ok(answer)
            }
            Outcome::Unread(error) | Outcome::Failed(error) => Err(error),
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("head_bytes", &self.head.len())
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("headers", &self.headers.len())
            .field("body_bytes", &self.body.len())
            .finish()
    }
}
