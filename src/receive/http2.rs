//! HTTP/2 (by ALPN, over TLS): Pingora's sessions, our limits and answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::{Method, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use tokio::time::timeout;

use super::answer::{Answer, Refusal};
use super::body::{self, BodyBudget, BodySource};
use super::head::Head;
use super::http1;
use super::limit::{Ceiling, Place, Standing};
use super::{Active, FrontDoor, Line};
use crate::event::Timestamp;
use crate::fields::Fields;
use crate::upstream::Timer;

/// Requests of one connection under way at once.
const STREAMS_MAX: u32 = 100;
/// A sender may send this much of a body before we have taken any of it.
const WINDOW_BYTES: u32 = 64 * 1024;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What a header takes beyond it is counted with the bodies.
const HEADER_BYTES_FREE: usize = 4096;

/// A sender must make room for an answer within this time, and longer by a second for every [`SLOWEST_READER`] bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per second.
const SLOWEST_READER: usize = 32 * 1024;

/// Serves the streams of one HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Http2 {
    door: Arc<FrontDoor>,
    place: Arc<Place>,
    options: OptionsBox,
    /// A whole request header has come.
    begun: AtomicBool,
}

struct OptionsBox(HttpServerOptions);

impl std::fmt::Debug for OptionsBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpServerOptions")
    }
}

impl Http2 {
    pub(super) fn new(door: Arc<FrontDoor>, place: Arc<Place>) -> Self {
        let mut options = HttpServerOptions::default();
        // Pingora's default is none: a silent connection would live forever.
        options.h2_idle_timeout = Some(door.snapshot.load().limits.keepalive_idle);
        Self {
            door,
            place,
            options: OptionsBox(options),
            begun: AtomicBool::new(false),
        }
    }

    /// Whether a whole request header has come.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// The answer, and when it was made.
    async fn answer(&self, session: &mut ServerSession) -> (Answer, Timestamp) {
        let peer = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip().to_canonical());
        let limits = self.door.snapshot.load().limits.clone();
        let request = session.req_header();
        let fields = Fields::from_pairs(
            request
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
        );
        let target = request
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str())
            .to_owned();
        let method = request.method.as_str().to_owned();
        let head = host(request.uri.authority(), &fields)
            .and_then(|host| Head::from_http2(&method, &target, &host, fields, limits.header_fields_max));
        let mut share = self.door.limiter.share();
        let ceiling = Ceiling {
            all: limits.bytes_in_flight,
            standing: Standing::Unknown,
        };
        // A few bytes on the wire can name a large header again and again.
        let room = match &head {
            Ok(head) if head.fields.bytes() > HEADER_BYTES_FREE => {
                share.hold(head.fields.bytes(), ceiling).await
            }
            _ => Ok(()),
        };
        match room.and(head) {
            Ok(head) => {
                let mut body = Http2Body {
                    session,
                    timer: Timer::default(),
                };
                let line = Line {
                    peer,
                    tls: true,
                    place: &self.place,
                };
                self.door.handle(&head, &mut body, line).await
            }
            Err(refusal) => self.door.headless(&refusal, peer, Duration::ZERO),
        }
    }

    async fn write(
        &self,
        session: &mut ServerSession,
        answer: &Answer,
        made_at: Timestamp,
    ) -> pingora::Result<()> {
        let is_head = session.req_header().method == Method::HEAD;
        let mut header = ResponseHeader::build(answer.status, Some(6))?;
        let mut put = Ok(true);
        http1::each_field(answer, &self.door.date.of(made_at), |name, value| {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if put.is_ok() {
                put = header.append_header(name, value);
            }
        });
        put?;
        if !is_head && !matches!(answer.status, 204 | 304) {
            header.insert_header("content-length", answer.body.len())?;
            session.write_response_header(Box::new(header)).await?;
            return session.write_response_body(answer.body.clone(), true).await;
        }
        // No body comes: [`ServerSession::finish`] ends the stream.
        session.write_response_header(Box::new(header)).await
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.begun.store(true, Ordering::Relaxed);
        if !matches!(session.read_request().await, Ok(true)) {
            return None;
        }
        let _active = Active::enter(&self.door);
        let (answer, made_at) = self.answer(&mut session).await;
        let patience = WRITE_TIMEOUT + Duration::from_secs((answer.body.len() / SLOWEST_READER) as u64);
        // A sender that does not take its answer, or has gone, gets none; the event, if any, is kept.
        if let Ok(Ok(())) = timeout(patience, self.write(&mut session, &answer, made_at)).await {
            drop(session.finish().await);
        }
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let limits = &self.door.snapshot.load().limits;
        let mut options = H2Options::new();
        options
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options.0)
    }
}

/// RFC 9113, 8.3.1: `:authority`, or `Host` in its place; where both are sent they must be one.
fn host(authority: Option<&Authority>, fields: &Fields) -> Result<String, Refusal> {
    let mut hosts = fields.values("host");
    let host = match (authority, hosts.next()) {
        (Some(authority), None) => authority.as_str().as_bytes(),
        (None, Some(host)) => host,
        (Some(authority), Some(host)) if host.eq_ignore_ascii_case(authority.as_str().as_bytes()) => host,
        (Some(_), Some(_)) => return Err(Refusal::BadRequest("Host is not :authority")),
        (None, None) => return Err(Refusal::BadRequest("no :authority")),
    };
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("more than one Host"));
    }
    String::from_utf8(host.to_vec()).map_err(|_| Refusal::BadRequest("Host is not a host"))
}

struct Http2Body<'a> {
    session: &'a mut ServerSession,
    timer: Timer,
}

#[async_trait]
impl BodySource for Http2Body<'_> {
    /// Pingora does not tell.
    fn is_here(&self) -> bool {
        false
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    async fn read(&mut self, budget: &mut BodyBudget) -> Result<Bytes, Refusal> {
        let asked = budget.begin_reading();
        let patience = budget.timeout;
        let read = async {
            let mut body = BytesMut::new();
            let mut only: Option<Bytes> = None;
            while let Some(piece) = self
                .session
                .read_request_body()
                .await
                .map_err(|_| Refusal::Aborted)?
            {
                let before = body.len() + only.as_ref().map_or(0, Bytes::len);
                budget.hold(before + piece.len()).await?;
                match only.take() {
                    // Most webhooks come in one frame: no copy.
                    None if body.is_empty() => only = Some(piece),
                    first => {
                        body.extend_from_slice(&first.unwrap_or_default());
                        body.extend_from_slice(&piece);
                    }
                }
            }
            Ok(only.unwrap_or_else(|| body.freeze()))
        };
        let body = body::in_time(read, &asked, patience).await?;
        budget.end_reading();
        Ok(body)
    }
}
