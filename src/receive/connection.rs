//! Where Pingora hands us a connection: caps, protocol, and the loop over its requests.
//!
//! Pingora accepts, speaks TLS and HTTP/2, and stops listening; HTTP/1.1 is read by [`super::http1`], since only there
//! a cap can hold while a header is read.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Answer, Refusal};
use super::http1::Http1;
use super::http2::Http2;
use super::limit::ConnectionLimit;
use super::{Active, FrontDoor};
use crate::shutdown::Phase;

/// A refused connection gets its 503 within this time or none.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Once no new connections come, a connection without a request has this long to begin one: it may be on its way.
const LAST_CALL: Duration = Duration::from_millis(200);

/// At the end of a drain an HTTP/2 connection has this long to send its last answers and its goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a [`FrontDoor`] as a Pingora service.
#[derive(Debug)]
pub struct Front {
    door: Arc<FrontDoor>,
}

impl Front {
    /// Wraps the front door.
    pub fn new(door: Arc<FrontDoor>) -> Self {
        Self { door }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let peer = peer_address(&stream)?;
        let limits = self.door.snapshot.load().limits.clone();
        let trusted = {
            let snapshot = self.door.snapshot.load();
            snapshot
                .table
                .trusted_proxies
                .iter()
                .any(|net| net.contains(&peer))
        };
        let guard = match self.door.limiter.connect((!trusted).then_some(peer), &limits) {
            Ok(guard) => guard,
            Err(limit) => {
                refuse(&self.door, stream, peer, limit).await;
                return None;
            }
        };
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            serve_http2(&self.door, stream, shutdown, limits.header_timeout).await;
        } else {
            let tls = stream.get_ssl_digest().is_some();
            serve_http1(&self.door, Http1::new(stream), peer, tls).await;
        }
        drop(guard);
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
        serve_http1(self, Http1::new(stream), peer, false).await;
    }
}

/// The address at the other end.
pub(super) fn peer_address(stream: &Stream) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    Some(digest.peer_addr()?.as_inet()?.ip().to_canonical())
}

async fn serve_http1<S>(door: &FrontDoor, mut connection: Http1<S>, peer: IpAddr, tls: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // A stop waits for the connection: it may be in the middle of a header.
    let active = Active::enter(door);
    let mut last_call = pin!(async {
        door.stop.reached(Phase::Closing).await;
        tokio::time::sleep(LAST_CALL).await;
    });
    let mut first = true;
    loop {
        let snapshot = door.snapshot.load_full();
        let began = Instant::now();
        let head = tokio::select! {
            biased;
            head = connection.read_head(&snapshot.limits, first) => head,
            // Whoever is in the middle of a header may finish it; an idle connection just ends.
            () = &mut last_call => match connection.begun() {
                true => connection.read_head(&snapshot.limits, true).await,
                false => Ok(None),
            },
        };
        match head {
            Ok(None) => return,
            Err(refusal) => {
                let answer = door.headless(&refusal, peer, began.elapsed());
                if refusal != Refusal::Aborted {
                    connection.write_answer(&answer, None, true, &door.date).await;
                    drop(active);
                    connection.close().await;
                }
                return;
            }
            Ok(Some(head)) => {
                let answer = door.handle(&head, &mut connection, peer, tls).await;
                let stopping = door.is_stopping();
                let reusable = connection
                    .write_answer(&answer, Some(&head), stopping, &door.date)
                    .await;
                if !reusable {
                    drop(active);
                    connection.close().await;
                    return;
                }
            }
        }
        first = false;
    }
}

/// Pingora's HTTP/2, with what it lacks: a deadline for the first request, and last answers that a drain waits for.
async fn serve_http2(
    door: &Arc<FrontDoor>,
    stream: Stream,
    shutdown: &ShutdownWatch,
    first_within: Duration,
) {
    let http2 = Arc::new(Http2::new(door.clone()));
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
async fn refuse(door: &FrontDoor, stream: Stream, peer: IpAddr, limit: ConnectionLimit) {
    let name = match limit {
        ConnectionLimit::All => "connections",
        ConnectionLimit::Peer => "connections_per_peer",
    };
    door.telemetry.connection_refused(name, peer);
    if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
        return;
    }
    // Only so many are told why, since these connections are over the cap already.
    let Ok(_place) = door.limiter.refusal() else {
        return;
    };
    let answer = Answer::refused(&Refusal::Connections, None);
    let mut connection = Http1::new(stream);
    let said = tokio::time::timeout(REFUSAL_TIMEOUT, async {
        connection.write_answer(&answer, None, true, &door.date).await;
        connection.close().await;
    });
    // It was refused either way.
    drop(said.await);
}
