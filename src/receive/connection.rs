//! Where Pingora hands us a connection: caps, protocol, and the loop over its requests.
//!
//! Pingora accepts, speaks HTTP/2, and stops listening; the TLS handshake is called from here, after the connection was
//! counted, and HTTP/1.1 is read by [`super::http1`], since only there a cap can hold while a header is read.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Refusal};
use super::http1::Http1;
use super::http2::Http2;
use super::limit::{ConnectionLimit, Place};
use super::{Active, FrontDoor, Line};
use crate::shutdown::Phase;

/// A refused connection gets its 503 within this time or none.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Once no new connections come, a connection without a request has this long to begin one: it may be on its way.
const LAST_CALL: Duration = Duration::from_millis(200);

/// At the end of a drain an HTTP/2 connection has this long to send its last answers and its goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a [`FrontDoor`] as a Pingora service.
pub struct Front {
    door: Arc<FrontDoor>,
    tls: Option<Acceptor>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Front")
    }
}

impl Front {
    /// Wraps the front door. With `tls` a connection begins with a handshake, which is ours and not Pingora's, since
    /// there it would be counted by nobody and could take a minute.
    pub fn new(door: Arc<FrontDoor>, tls: Option<Acceptor>) -> Self {
        Self { door, tls }
    }

    /// A connection from its first byte to its last.
    async fn serve(&self, stream: Stream, peer: IpAddr, place: &Arc<Place>, shutdown: &ShutdownWatch) {
        let accepted = Instant::now();
        let (door, limits) = (&self.door, self.door.snapshot.load().limits.clone());
        let stream = match &self.tls {
            None => stream,
            Some(acceptor) => {
                let handshake = timeout_at(
                    accepted + limits.header_timeout,
                    Box::pin(shake_hands(acceptor, stream)),
                );
                match handshake.await {
                    Ok(Some(stream)) => stream,
                    Ok(None) | Err(_) => return,
                }
            }
        };
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            let first_within = limits.header_timeout.saturating_sub(accepted.elapsed());
            Box::pin(serve_http2(door, stream, shutdown, first_within, place)).await;
        } else {
            let tls = stream.get_ssl_digest().is_some();
            let line = Line { peer, tls, place };
            serve_http1(door, Http1::new(stream, door.limiter.share()), accepted, line).await;
        }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let peer = peer_address(&stream)?;
        let snapshot = self.door.snapshot.load_full();
        let proxies = &snapshot.table.trusted_proxies;
        let trusted = proxies.iter().any(|net| net.contains(&peer));
        let seat = self
            .door
            .limiter
            .connect((!trusted).then_some(peer), &snapshot.limits)
            .await;
        drop(snapshot);
        match seat {
            Ok(seat) => {
                let place = seat.place();
                let serving = pin!(self.serve(stream, peer, place, shutdown));
                let asked = until_asked(place, serving).await;
                if let Some(limit) = asked {
                    self.door.telemetry.connection_evicted(limit.name(), peer);
                }
            }
            Err(limit) => {
                self.door.telemetry.connection_refused(limit.name(), peer);
                if self.tls.is_none() {
                    refuse(&self.door, stream).await;
                }
            }
        }
        None
    }
}

#[cfg(any(test, fuzzing))]
impl FrontDoor {
    /// Serves one HTTP/1.1 connection that is no socket to its end; for fuzzing.
    pub async fn serve_in_memory<S>(&self, stream: S, peer: IpAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let limits = self.snapshot.load().limits.clone();
        if let Ok(seat) = self.limiter.connect(Some(peer), &limits).await {
            let place = seat.place();
            let line = Line {
                peer,
                tls: false,
                place,
            };
            let connection = Http1::new(stream, self.limiter.share());
            let mut serving = pin!(serve_http1(self, connection, Instant::now(), line));
            until_asked(place, serving.as_mut()).await;
        }
    }
}

/// Serves a connection until it ends, or is asked to leave while it waits for its sender: then it just ends, and the
/// limit that it had to go for is given.
async fn until_asked(
    place: &Place,
    mut serving: Pin<&mut impl Future<Output = ()>>,
) -> Option<ConnectionLimit> {
    let mut leave = pin!(place.leave());
    poll_fn(|context| {
        if serving.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let asked = match place.asked() {
            None => {
                // It wakes us once it is.
                let _woken = leave.as_mut().poll(context).is_ready();
                place.asked()
            }
            asked => asked,
        };
        match asked {
            Some(limit) if !place.is_working() => Poll::Ready(Some(limit)),
            _ => Poll::Pending,
        }
    })
    .await
}

async fn shake_hands(acceptor: &Acceptor, stream: Stream) -> Option<Stream> {
    let stream = stream.into_any().downcast::<TcpStream>().ok()?;
    match acceptor.tls_handshake(*stream).await {
        Ok(stream) => Some(Box::new(stream)),
        Err(error) => {
            tracing::debug!(%error, "no TLS handshake");
            None
        }
    }
}

/// The address at the other end.
pub(super) fn peer_address(stream: &Stream) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    Some(digest.peer_addr()?.as_inet()?.ip().to_canonical())
}

async fn serve_http1<S>(door: &FrontDoor, mut connection: Http1<S>, accepted: Instant, line: Line<'_>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // A stop waits for the connection: it may be in the middle of a header.
    let active = Active::enter(door);
    let mut last_call = pin!(async {
        door.stop.reached(Phase::Closing).await;
        tokio::time::sleep(LAST_CALL).await;
    });
    // Of the first request only.
    let mut accepted = Some(accepted);
    let sender = || door.limiter.recall(line.peer, line.place.standing());
    loop {
        let snapshot = door.snapshot.load_full();
        let began = Instant::now();
        let head = tokio::select! {
            biased;
            head = connection.read_head(&snapshot.limits, began, accepted, sender) => head,
            // Whoever is in the middle of a header may finish it; an idle connection just ends.
            () = &mut last_call => match connection.begun() {
                true => {
                    let now = Instant::now();
                    connection.read_head(&snapshot.limits, now, Some(now), sender).await
                }
                false => Ok(None),
            },
        };
        match head {
            Ok(None) => return,
            Err(refusal) => {
                let (answer, made_at) = door.headless(&refusal, line.peer, began.elapsed());
                if refusal != Refusal::Aborted {
                    let date = door.date.of(made_at);
                    connection.write_answer(&answer, None, true, &date).await;
                    drop(active);
                    connection.close().await;
                }
                return;
            }
            Ok(Some(head)) => {
                // Apart, so that a connection that idles is not as large as one that is served.
                let (answer, made_at) = Box::pin(door.handle(&head, &mut connection, line)).await;
                let stopping = door.is_stopping() || line.place.asked().is_some();
                let date = door.date.of(made_at);
                let reusable = connection
                    .write_answer(&answer, Some(&head), stopping, &date)
                    .await;
                if !reusable {
                    drop(active);
                    connection.close().await;
                    return;
                }
            }
        }
        accepted = None;
    }
}

/// Pingora's HTTP/2, with what it lacks: a deadline for the first request, and last answers that a drain waits for.
async fn serve_http2(
    door: &Arc<FrontDoor>,
    stream: Stream,
    shutdown: &ShutdownWatch,
    first_within: Duration,
    place: &Arc<Place>,
) {
    let http2 = Arc::new(Http2::new(door.clone(), place.clone()));
    let mut connection = pin!(http2.process_new(stream, shutdown));
    // A stop waits for the connection, which may be in the middle of a header.
    let active = Active::enter(door);
    let mut closing = pin!(door.stop.reached(Phase::Closing));
    // Neither the preface nor a header that comes frame by frame has a deadline otherwise.
    let begins_in_time = async {
        tokio::time::sleep(first_within).await;
        if http2.has_begun() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = &mut connection => return,
        () = begins_in_time => return,
        () = &mut closing => {}
    }
    // Late or not, the connection ends with its requests.
    let ended = tokio::time::timeout(GOODBYE_TIMEOUT, &mut connection)
        .await
        .is_ok();
    drop(active);
    if !ended {
        drop(connection.await);
    }
}

/// Says 503 without reading anything.
async fn refuse(door: &FrontDoor, stream: Stream) {
    // Only so many are told why, since these connections are over the cap already.
    let Some(_place) = door.limiter.refusal(&door.snapshot.load().limits) else {
        return;
    };
    let answer = Answer::refused(&Refusal::Connections, None);
    let mut connection = Http1::new(stream, door.limiter.share());
    let date = door.date.of(door.clock.now());
    let said = tokio::time::timeout(REFUSAL_TIMEOUT, async {
        connection.write_answer(&answer, None, true, &date).await;
        connection.close().await;
    });
    // It was refused either way.
    drop(said.await);
}
