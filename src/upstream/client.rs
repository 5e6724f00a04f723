//! One request, one answer, under deadlines.

use std::time::Duration;

use bytes::Bytes;

use super::endpoint::Endpoint;

/// Deadlines and caps of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Name resolution and TCP connect together.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Writing head and body.
    pub write: Duration,
    /// From the last byte written to the first byte of the final answer's head.
    pub first_byte: Duration,
    /// The whole call.
    pub whole: Duration,
    /// Bytes of the answer's head.
    pub head_bytes_max: usize,
    /// Bytes of the answer's body. Beyond: `CallError::AnswerTooLarge`, unless `keep_body` is false.
    pub body_bytes_max: usize,
    /// Whether the answer's body is wanted (`proxy`) or read and thrown away up to the cap (delivery).
    pub keep_body: bool,
}

/// A request, written as it stands: the client adds nothing and checks nothing in it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Request line and headers with the closing empty line.
    pub head: &'a [u8],
    /// The body; `head` must carry its `Content-Length`.
    pub body: &'a [u8],
    /// The method is HEAD, so the answer has no body.
    pub is_head: bool,
}

/// A final answer (1xx are skipped, redirects are not followed).
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status, 200 to 599 (anything else is `CallError::BadAnswer`).
    pub status: u16,
    /// Names and values in order, as received, hop-by-hop ones included.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body, unframed; empty when `keep_body` is false.
    pub body: Bytes,
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

/// A pooling client; clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// Makes a client with the platform's CA roots (read once).
    ///
    /// `idle_max` bounds how long a connection is kept unused: below the app's own keep-alive.
    pub fn new(_idle_max: Duration, _idle_per_endpoint_max: usize) -> Self {
        unimplemented!("upstream helper")
    }

    /// Sends `request` to `endpoint` and reads the answer.
    ///
    /// A pooled connection that turns out closed before any byte of the answer is replaced by a fresh one, once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        _endpoint: &Endpoint,
        _request: Request<'_>,
        _limits: &Limits,
    ) -> Result<Answer, CallError> {
        unimplemented!("upstream helper")
    }
}
