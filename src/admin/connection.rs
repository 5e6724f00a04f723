//! Connections of the admin and probe listeners: a few at once, one request each, none for long.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

/// Connections of one listener at once; more wait in the system's backlog.
const CONNECTIONS_MAX: usize = 64;

/// From the accept to the end of the request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// From the accept to the last byte of the answer; longer than the longest answer takes.
const LIFE_MAX: Duration = Duration::from_secs(45);

/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` until `closing` is true, then until the requests under way are answered.
pub(super) async fn serve(tcp: TcpListener, routes: Router, mut closing: watch::Receiver<bool>) {
    let listener = Listener {
        tcp,
        permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let service = routes.into_make_service_with_connect_info::<Arrival>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            // An error means that the sender is gone, and with it the server's owner.
            drop(closing.wait_for(|closing| *closing).await);
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "admin listener ended");
    }
}

/// Set once the header of the connection's request is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrival(Arc<AtomicBool>);

impl Arrival {
    /// The header is read.
    pub(super) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Listener>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().arrival.clone()
    }
}

struct Listener {
    tcp: TcpListener,
    permits: Arc<Semaphore>,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.ok();
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => return (Connection::new(stream, permit), peer),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A stream that fails once its time is over.
struct Connection {
    stream: TcpStream,
    arrival: Arrival,
    since: Instant,
    deadline: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: TcpStream, permit: Option<OwnedSemaphorePermit>) -> Self {
        let since = Instant::now();
        Self {
            stream,
            arrival: Arrival::default(),
            since,
            deadline: Box::pin(tokio::time::sleep_until(since + HEADER_TIMEOUT)),
            _permit: permit,
        }
    }

    /// Ready once the time is over; otherwise the task is woken when it will be.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let end = self.since + LIFE_MAX;
        loop {
            if self.deadline.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.deadline.deadline() >= end || !self.arrival.0.load(Ordering::Relaxed) {
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
