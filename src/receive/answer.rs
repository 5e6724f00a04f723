//! From outcome to status, headers and body: the only file that knows both.

use std::time::Duration;

use bytes::Bytes;

use super::settings::FixedAnswer;
use crate::inbox::InboxError;
use crate::provider::handshake::{HandshakeError, Reply};
use crate::provider::signature::SignatureError;
use crate::telemetry::RequestResult;
use crate::upstream::{self, CallError};

const JSON: &str = "application/json";
/// A sender that was refused for want of room may come again after this many seconds.
const RETRY_AFTER_ROOM: u32 = 5;
/// The same when the store is full or has failed.
const RETRY_AFTER_STORE: u32 = 10;

/// Why a request gets no 2xx from us. The words are for the log; the sender sees what [`Answer::refused`] says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    #[error("{0} is not supported")]
    NotImplemented(&'static str),
    #[error("the expectation cannot be met")]
    ExpectationFailed,
    #[error("the header is too large")]
    HeaderTooLarge,
    #[error("the header did not arrive in time")]
    HeaderTimeout,
    #[error("the body is too large")]
    BodyTooLarge,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the sender hung up before the request was complete")]
    Aborted,
    #[error("no route has this path")]
    UnknownRoute,
    #[error("the route does not take this method")]
    MethodNotAllowed { allow: Box<str> },
    #[error("the sender's address is not in allow_ips")]
    Forbidden,
    #[error("{0}")]
    Signature(SignatureError),
    #[error("{0}, and the address has spent its failure budget")]
    SignatureBudgetSpent(SignatureError),
    #[error("{0}")]
    Handshake(HandshakeError),
    #[error("{0}")]
    NoKeys(Box<str>),
    #[error("the body is not JSON and the route demands it")]
    NotJson,
    #[error("the route's rate is used up")]
    RateLimited { retry_after: Duration },
    #[error("too many body bytes are in flight")]
    Memory,
    #[error("too many connections")]
    Connections,
    #[error("too many requests of unknown senders wait for their turn")]
    Crowded,
    #[error("{0}")]
    Store(InboxError),
    #[error("the commit did not end in time")]
    StoreSlow,
    #[error("the first copy of this event is still in flight")]
    CopyInFlight,
    #[error("the handler failed")]
    Internal,
}

impl Refusal {
    /// How the request is counted.
    pub(super) fn result(&self) -> RequestResult {
        match self {
            Self::BadRequest(_)
            | Self::NotImplemented(_)
            | Self::ExpectationFailed
            | Self::HeaderTooLarge
            | Self::NotJson => RequestResult::Malformed,
            Self::HeaderTimeout | Self::BodyTimeout => RequestResult::TooSlow,
            Self::BodyTooLarge => RequestResult::TooLarge,
            Self::Aborted => RequestResult::Aborted,
            Self::UnknownRoute => RequestResult::UnknownRoute,
            Self::MethodNotAllowed { .. } => RequestResult::MethodNotAllowed,
            Self::Forbidden => RequestResult::Forbidden,
            Self::Signature(SignatureError::Missing) => RequestResult::MissingSignature,
            Self::Signature(_) => RequestResult::BadSignature,
            Self::Handshake(_) => RequestResult::BadSignature,
            Self::SignatureBudgetSpent(_) | Self::RateLimited { .. } => RequestResult::RateLimited,
            Self::Memory | Self::Connections | Self::Crowded | Self::CopyInFlight | Self::Internal => {
                RequestResult::Overloaded
            }
            Self::NoKeys(_) => RequestResult::Overloaded,
            Self::Store(_) | Self::StoreSlow => RequestResult::StoreError,
        }
    }

    /// Whether the connection must end, since where the next request begins is unknown or not worth finding out.
    fn closes(&self) -> bool {
        !matches!(
            self,
            Self::UnknownRoute
                | Self::MethodNotAllowed { .. }
                | Self::Forbidden
                | Self::Signature(_)
                | Self::Handshake(_)
                | Self::NoKeys(_)
                | Self::SignatureBudgetSpent(_)
                | Self::NotJson
                | Self::RateLimited { .. }
                | Self::Store(_)
                | Self::StoreSlow
                | Self::CopyInFlight
        )
    }
}

/// What goes back to the sender.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Seconds, for `Retry-After`.
    pub(super) retry_after: Option<u32>,
    /// For `Allow`.
    pub(super) allow: Option<Box<str>>,
    /// Fields of a relayed answer; then `content_type` is among them or absent.
    pub(super) relayed: Option<Vec<(Bytes, Bytes)>>,
    pub(super) body: Bytes,
    /// End the connection.
    pub(super) close: bool,
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: Bytes) -> Self {
        Self {
            status,
            content_type,
            retry_after: None,
            allow: None,
            relayed: None,
            body,
            close: false,
        }
    }

    /// An answer from the configuration.
    pub(super) fn fixed(answer: &FixedAnswer) -> Self {
        Self::new(
            answer.status,
            answer.content_type,
            Bytes::copy_from_slice(answer.body.as_bytes()),
        )
    }

    /// The answer to a refused request. `own` are the route's for requests without a signature and with a bad one.
    pub(super) fn refused(refusal: &Refusal, own: Option<(&Answer, &Answer)>) -> Self {
        let (status, body) = match (refusal, own) {
            (Refusal::Signature(SignatureError::Missing), Some((missing, _))) => return missing.clone(),
            (Refusal::Signature(_), Some((_, bad))) => return bad.clone(),
            _ => Self::words(refusal),
        };
        let mut answer = Self::new(status, JSON, Bytes::from_static(body.as_bytes()));
        answer.retry_after = match refusal {
            Refusal::RateLimited { retry_after } => Some(whole_seconds(*retry_after)),
            Refusal::SignatureBudgetSpent(_) => Some(1),
            Refusal::CopyInFlight | Refusal::StoreSlow | Refusal::Store(InboxError::Busy) => Some(1),
            Refusal::Store(_) => Some(RETRY_AFTER_STORE),
            Refusal::Memory
            | Refusal::Connections
            | Refusal::Crowded
            | Refusal::Internal
            | Refusal::NoKeys(_) => Some(RETRY_AFTER_ROOM),
            _ => None,
        };
        if let Refusal::MethodNotAllowed { allow } = refusal {
            answer.allow = Some(allow.clone());
        }
        answer.close = refusal.closes();
        answer
    }

    /// Status and body of a refusal.
    fn words(refusal: &Refusal) -> (u16, &'static str) {
        match refusal {
            Refusal::Signature(_) | Refusal::Handshake(_) => (401, r#"{"error":"Invalid signature"}"#),
            Refusal::BadRequest(_) | Refusal::Aborted => (400, r#"{"error":"Bad request"}"#),
            Refusal::NotJson => (400, r#"{"error":"Invalid JSON"}"#),
            Refusal::NotImplemented(_) => (501, r#"{"error":"Not implemented"}"#),
            Refusal::ExpectationFailed => (417, r#"{"error":"Expectation failed"}"#),
            Refusal::HeaderTooLarge => (431, r#"{"error":"Request header fields too large"}"#),
            Refusal::HeaderTimeout | Refusal::BodyTimeout => (408, r#"{"error":"Request timeout"}"#),
            Refusal::BodyTooLarge => (413, r#"{"error":"Payload too large"}"#),
            Refusal::UnknownRoute => (404, r#"{"error":"Not found"}"#),
            Refusal::MethodNotAllowed { .. } => (405, r#"{"error":"Method not allowed"}"#),
            Refusal::Forbidden => (403, r#"{"error":"Forbidden"}"#),
            Refusal::SignatureBudgetSpent(_) | Refusal::RateLimited { .. } => {
                (429, r#"{"error":"Too many requests"}"#)
            }
            Refusal::Memory
            | Refusal::Connections
            | Refusal::Crowded
            | Refusal::Store(_)
            | Refusal::StoreSlow
            | Refusal::CopyInFlight
            | Refusal::Internal
            | Refusal::NoKeys(_) => (503, r#"{"error":"Try again later"}"#),
        }
    }

    /// The answer to a handshake.
    pub(super) fn handshake(reply: Reply) -> Self {
        let fields = reply
            .headers
            .into_iter()
            .map(|(name, value)| (Bytes::from(name), Bytes::from(value)));
        let mut answer = Self::new(reply.status, "", Bytes::from(reply.body));
        answer.relayed = Some(fields.collect());
        answer
    }

    /// The upstream's own answer.
    pub(super) fn relayed(answer: upstream::Answer) -> Self {
        let named: Vec<Vec<u8>> = answer
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(|option| option.trim_ascii().to_ascii_lowercase())
            .collect();
        let kept = |name: &[u8]| {
            let lower = name.to_ascii_lowercase();
            !is_hop_by_hop(&lower) && !named.contains(&lower)
        };
        let mut relayed = Self::new(answer.status, "", answer.body);
        relayed.relayed = Some(
            answer
                .headers
                .into_iter()
                .filter(|(name, _)| kept(name))
                .collect(),
        );
        relayed
    }

    /// The upstream did not answer.
    pub(super) fn upstream_failed(error: &CallError) -> Self {
        let (status, body) = match error {
            CallError::Timeout { .. } => (504, r#"{"error":"Gateway timeout"}"#),
            _ => (502, r#"{"error":"Bad gateway"}"#),
        };
        Self::new(status, JSON, Bytes::from_static(body.as_bytes()))
    }
}

/// Fields of an answer that end with the connection, or that we write ourselves.
fn is_hop_by_hop(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"connection"
            | b"content-length"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authentication-info"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_failure_looks_the_same() {
        let refused = |error| {
            let answer = Answer::refused(&Refusal::Signature(error), None);
            (answer.status, answer.body, answer.close)
        };
        let first = refused(SignatureError::Missing);
        for error in [
            SignatureError::Repeated,
            SignatureError::Malformed,
            SignatureError::Contradicting,
            SignatureError::Mismatch,
            SignatureError::Incomplete,
            SignatureError::OtherVersion,
            SignatureError::Stale,
            SignatureError::BodyDigest,
            SignatureError::NotAccepted,
        ] {
            assert_eq!(refused(error), first, "{error}");
        }
        assert_eq!(first.0, 401);
    }

    #[test]
    fn every_refusal_has_its_status_its_wait_its_end_and_its_count() {
        use RequestResult as Counted;
        const CLOSES: bool = true;
        const STAYS: bool = false;
        let wait = |millis| Refusal::RateLimited {
            retry_after: Duration::from_millis(millis),
        };
        let allow: Box<str> = "POST".into();
        let wrong = SignatureError::Mismatch;
        for (refusal, status, retry_after, close, counted) in [
            (Refusal::BadRequest("x"), 400, None, CLOSES, Counted::Malformed),
            (
                Refusal::NotImplemented("x"),
                501,
                None,
                CLOSES,
                Counted::Malformed,
            ),
            (Refusal::ExpectationFailed, 417, None, CLOSES, Counted::Malformed),
            (Refusal::HeaderTooLarge, 431, None, CLOSES, Counted::Malformed),
            (Refusal::HeaderTimeout, 408, None, CLOSES, Counted::TooSlow),
            (Refusal::BodyTimeout, 408, None, CLOSES, Counted::TooSlow),
            (Refusal::BodyTooLarge, 413, None, CLOSES, Counted::TooLarge),
            (Refusal::Aborted, 400, None, CLOSES, Counted::Aborted),
            (Refusal::UnknownRoute, 404, None, STAYS, Counted::UnknownRoute),
            (
                Refusal::MethodNotAllowed { allow: allow.clone() },
                405,
                None,
                STAYS,
                Counted::MethodNotAllowed,
            ),
            (Refusal::Forbidden, 403, None, STAYS, Counted::Forbidden),
            (
                Refusal::Signature(SignatureError::Missing),
                401,
                None,
                STAYS,
                Counted::MissingSignature,
            ),
            (Refusal::Signature(wrong), 401, None, STAYS, Counted::BadSignature),
            (
                Refusal::SignatureBudgetSpent(wrong),
                429,
                Some(1),
                STAYS,
                Counted::RateLimited,
            ),
            (Refusal::NotJson, 400, None, STAYS, Counted::Malformed),
            (
                Refusal::Handshake(HandshakeError::Token),
                401,
                None,
                STAYS,
                Counted::BadSignature,
            ),
            (
                Refusal::NoKeys("x".into()),
                503,
                Some(5),
                STAYS,
                Counted::Overloaded,
            ),
            (wait(0), 429, Some(1), STAYS, Counted::RateLimited),
            (wait(1000), 429, Some(1), STAYS, Counted::RateLimited),
            (wait(1001), 429, Some(2), STAYS, Counted::RateLimited),
            (Refusal::Memory, 503, Some(5), CLOSES, Counted::Overloaded),
            (Refusal::Connections, 503, Some(5), CLOSES, Counted::Overloaded),
            (Refusal::Crowded, 503, Some(5), CLOSES, Counted::Overloaded),
            (
                Refusal::Store(InboxError::Busy),
                503,
                Some(1),
                STAYS,
                Counted::StoreError,
            ),
            (
                Refusal::Store(InboxError::Full),
                503,
                Some(10),
                STAYS,
                Counted::StoreError,
            ),
            (Refusal::StoreSlow, 503, Some(1), STAYS, Counted::StoreError),
            (Refusal::CopyInFlight, 503, Some(1), STAYS, Counted::Overloaded),
            (Refusal::Internal, 503, Some(5), CLOSES, Counted::Overloaded),
        ] {
            let answer = Answer::refused(&refusal, None);
            assert_eq!(
                (answer.status, answer.retry_after, answer.close, refusal.result()),
                (status, retry_after, close, counted),
                "{refusal}"
            );
            let allows = matches!(refusal, Refusal::MethodNotAllowed { .. }).then(|| allow.clone());
            assert_eq!(answer.allow, allows, "{refusal}");
        }
    }

    #[test]
    fn a_route_may_have_its_own_answers_to_a_missing_and_to_a_bad_signature() {
        let own = |status, body: &str| {
            Answer::fixed(&FixedAnswer {
                status,
                body: body.into(),
                content_type: "text/plain",
            })
        };
        let (missing, bad) = (own(400, "none"), own(401, ""));
        for (error, status, body) in [
            (SignatureError::Missing, 400, "none"),
            (SignatureError::Malformed, 401, ""),
            (SignatureError::Stale, 401, ""),
        ] {
            let answer = Answer::refused(&Refusal::Signature(error), Some((&missing, &bad)));
            assert_eq!(
                (answer.status, &*answer.body),
                (status, body.as_bytes()),
                "{error}"
            );
        }
    }

    #[test]
    fn an_upstream_that_gave_no_answer_is_a_bad_gateway_and_one_too_slow_a_timeout() {
        let slow = CallError::Timeout {
            phase: "answer",
            after: Duration::from_secs(10),
        };
        let away = CallError::Connect {
            authority: "app:3000".into(),
            reason: "refused".into(),
        };
        for (error, status) in [(slow, 504), (away, 502)] {
            assert_eq!(Answer::upstream_failed(&error).status, status, "{error}");
        }
    }

    #[test]
    fn a_relayed_answer_loses_what_belongs_to_its_connection() {
        let field = |name: &'static str, value: &'static str| (Bytes::from(name), Bytes::from(value));
        let answer = Answer::relayed(upstream::Answer {
            status: 202,
            headers: vec![
                field("Content-Type", "text/plain"),
                field("Connection", "close, X-Hop"),
                field("X-Hop", "1"),
                field("Transfer-Encoding", "chunked"),
                field("Set-Cookie", "a"),
                field("Set-Cookie", "b"),
            ],
            body: Bytes::from_static(b"ok"),
            at: tokio::time::Instant::now(),
        });
        let names: Vec<_> = answer
            .relayed
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["Content-Type", "Set-Cookie", "Set-Cookie"]);
    }
}
