//! What can happen to a request and to an attempt, and what is known when it has.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Seq;

/// How one request ended; the `result` label of `hooklatch_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestResult {
    /// Kept (or, in `proxy` mode, taken by the upstream).
    Accepted,
    /// A repeat of a kept event.
    Duplicate,
    /// Signature malformed, contradicting, repeated or wrong.
    BadSignature,
    /// No signature.
    MissingSignature,
    /// Declared or real size over the cap.
    TooLarge,
    /// Header or body too slow.
    TooSlow,
    /// Not well-formed HTTP, or not JSON where the route demands it.
    Malformed,
    /// Over the route's rate, or over the failure budget with a bad signature.
    RateLimited,
    /// Memory or connections.
    Overloaded,
    /// The store is slow, full or failed.
    StoreError,
    /// No such path.
    UnknownRoute,
    /// Another method.
    MethodNotAllowed,
    /// The address is not in `allow_ips`.
    Forbidden,
    /// `proxy` mode: the upstream answered with other than 2xx; its answer was relayed.
    UpstreamRefused,
    /// `proxy` mode: the upstream did not answer (502, 504).
    UpstreamFailed,
    /// The sender hung up before the body was complete.
    Aborted,
    /// No event: a question of the provider's, answered.
    Handshake,
}

impl RequestResult {
    /// All of them, in the order of their declaration: `ALL[result as usize] == result`.
    pub const ALL: [Self; 17] = [
        Self::Accepted,
        Self::Duplicate,
        Self::BadSignature,
        Self::MissingSignature,
        Self::TooLarge,
        Self::TooSlow,
        Self::Malformed,
        Self::RateLimited,
        Self::Overloaded,
        Self::StoreError,
        Self::UnknownRoute,
        Self::MethodNotAllowed,
        Self::Forbidden,
        Self::UpstreamRefused,
        Self::UpstreamFailed,
        Self::Aborted,
        Self::Handshake,
    ];

    /// The label's value and the `outcome` of the line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::BadSignature => "bad_signature",
            Self::MissingSignature => "missing_signature",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Malformed => "malformed",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::StoreError => "store_error",
            Self::UnknownRoute => "unknown_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Forbidden => "forbidden",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamFailed => "upstream_failed",
            Self::Aborted => "aborted",
            Self::Handshake => "handshake",
        }
    }
}

/// How one attempt ended; the `result` label of `hooklatch_deliveries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptResult {
    /// 2xx.
    Delivered,
    /// Will be tried again.
    Retry,
    /// Given up.
    Dead,
}

impl AttemptResult {
    /// All of them, in the order of their declaration: `ALL[result as usize] == result`.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Retry, Self::Dead];

    /// The label's value and the `outcome` of the line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry => "retry",
            Self::Dead => "dead",
        }
    }
}

/// What is known of a request when it ends.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnd<'a> {
    /// How.
    pub result: RequestResult,
    /// The status that was sent; 0 when none could be.
    pub status: u16,
    /// Why, for the log; static text or an error's words without content. Of a handshake: its name.
    pub reason: Option<&'a str>,
    /// The event's id, once it is known from signed bytes.
    pub event_id: Option<&'a str>,
    /// The event's number, if it is kept.
    pub seq: Option<Seq>,
    /// Bytes of the body that were read.
    pub body_bytes: usize,
    /// The sender's address.
    pub client: IpAddr,
    /// From the end of the header to the answer.
    pub elapsed: Duration,
    /// When it ended.
    pub at: Instant,
}

/// What is known of an attempt when it ends.
#[derive(Debug, Clone, Copy)]
pub struct AttemptEnd<'a> {
    /// How.
    pub result: AttemptResult,
    /// The upstream's status, if it answered.
    pub status: Option<u16>,
    /// Why not delivered.
    pub error: Option<&'a str>,
    /// The event's id.
    pub event_id: Option<&'a str>,
    /// The event's number.
    pub seq: Seq,
    /// Counted from 1.
    pub attempt: u32,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Of the attempt.
    pub elapsed: Duration,
    /// When it ended.
    pub at: Instant,
    /// Received to delivered, when it was.
    pub lag: Option<Duration>,
    /// The wait before the next attempt.
    pub next_wait: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_stands_at_its_own_place() {
        for (index, result) in RequestResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index, "{result:?}");
        }
        for (index, result) in AttemptResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index, "{result:?}");
        }
    }
}
