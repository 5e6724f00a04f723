//! Connections of the admin and probe listeners: a few at once, one request each, none for long.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

/// Connections of one listener at once. One more ends the oldest that has not sent its request yet, so that silent
/// connections cannot keep a probe out.
const CONNECTIONS_MAX: usize = 64;

/// From the accept to the end of the request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// From the accept to the last byte of the answer; longer than the longest answer takes.
const LIFE_MAX: Duration = Duration::from_secs(45);

/// After an accept that failed, most likely for want of file descriptors, and while all requests are being answered.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is in flight when the listener closes has this long to end.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Serves `routes` until `closing` is true, then until the requests under way are answered, or a second longer.
pub(super) async fn serve(tcp: TcpListener, routes: Router, closing: watch::Receiver<bool>) {
    let listener = Listener {
        tcp,
        open: Vec::new(),
    };
    let service = routes.into_make_service_with_connect_info::<Arrival>();
    let served = axum::serve(listener, service).with_graceful_shutdown(closed(closing.clone()));
    let late = async {
        closed(closing).await;
        tokio::time::sleep(CLOSE_WAIT_MAX).await;
    };
    tokio::select! {
        ended = served.into_future() => {
            if let Err(error) = ended {
                tracing::error!(%error, "admin listener ended");
            }
        }
        () = late => {}
    }
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server's owner.
    drop(closing.wait_for(|closing| *closing).await);
}

/// What the routes know of a connection, and what they tell it: that the header of its request is read.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    announced: Arc<AtomicBool>,
    client: IpAddr,
}

impl Arrival {
    /// The header is read.
    pub(super) fn announce(&self) {
        self.announced.store(true, Ordering::Relaxed);
    }

    /// The other end's address.
    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }
}

impl Connected<IncomingStream<'_, Listener>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().arrival.clone()
    }
}

struct Listener {
    tcp: TcpListener,
    /// Oldest first.
    open: Vec<Held>,
}

/// The listener's end of a connection.
struct Held {
    arrival: Arrival,
    /// Ends the connection; closed once it has ended by itself.
    end: oneshot::Sender<()>,
}

impl Listener {
    /// Makes room for one more, at once where a connection only waits for its client.
    async fn make_room(&mut self) {
        loop {
            self.open.retain(|held| !held.end.is_closed());
            if self.open.len() < CONNECTIONS_MAX {
                return;
            }
            match self.open.iter().position(|held| !held.arrival.is_announced()) {
                Some(waiting) => {
                    // An error means that it has just ended by itself.
                    self.open.remove(waiting).end.send(()).ok();
                }
                None => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    self.make_room().await;
                    let (end, ended) = oneshot::channel();
                    let connection = Connection::new(stream, peer.ip(), ended);
                    let arrival = connection.arrival.clone();
                    self.open.push(Held { arrival, end });
                    return (connection, peer);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A stream that fails once its time is over or its place is needed.
struct Connection {
    stream: TcpStream,
    arrival: Arrival,
    since: Instant,
    deadline: Pin<Box<Sleep>>,
    /// `None` once the listener is gone: then only time ends the connection.
    ended: Option<oneshot::Receiver<()>>,
}

impl Connection {
    fn new(stream: TcpStream, client: IpAddr, ended: oneshot::Receiver<()>) -> Self {
        let since = Instant::now();
        Self {
            stream,
            arrival: Arrival {
                announced: Arc::default(),
                client: client.to_canonical(),
            },
            since,
            deadline: Box::pin(tokio::time::sleep_until(since + HEADER_TIMEOUT)),
            ended: Some(ended),
        }
    }

    /// Ready once the time is over; otherwise the task is woken when it will be.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(Poll::Ready(end)) = self.ended.as_mut().map(|ended| Pin::new(ended).poll(context)) {
            self.ended = None;
            if end.is_ok() {
                return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
            }
        }
        let end = self.since + LIFE_MAX;
        loop {
            if self.deadline.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.deadline.deadline() >= end || !self.arrival.is_announced() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.deadline.as_mut().reset(end);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_over(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_over(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
