//! An upstream that does what its script says, on raw TCP: whatever a real one can do wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test and its helpers stop at the first surprise"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on a free port of 127.0.0.1 until dropped.
pub(crate) struct FaultServer {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
pub(crate) struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// One request as it came.
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// One accepted connection in the hands of the script.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// Counts from 0.
    pub(crate) index: usize,
    seen: Arc<Seen>,
}

impl FaultServer {
    /// Runs `script` for each connection.
    pub(crate) async fn start<F, S>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// Runs `script` for each connection to `listener`.
    pub(crate) fn on<F, S>(listener: TcpListener, script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut scripts = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let index = counted.connections.fetch_add(1, Ordering::SeqCst);
                scripts.spawn(script(Peer {
                    stream,
                    index,
                    seen: Arc::clone(&counted),
                }));
            }
        });
        Self { address, seen, task }
    }

    /// Reads each request and writes `answer`, as often as the client wants; then closes if `close`.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>, close: bool) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |mut peer| {
            let answer = Arc::clone(&answer);
            async move {
                while peer.request().await.is_some() {
                    peer.write(&answer).await;
                    if close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// An address where nothing listens.
    pub(crate) async fn refusing() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// Connections accepted.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Whole requests read by [`Peer::request`].
    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// One whole request; `None` once the client has closed.
    pub(crate) async fn request(&mut self) -> Option<Got> {
        let got = read_request(&mut self.stream).await?;
        self.seen.requests.fetch_add(1, Ordering::SeqCst);
        Some(got)
    }

    /// Writes; a client that has gone is none of the script's concern.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// Closes with RST instead of FIN.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Does nothing until the client closes.
    pub(crate) async fn wait_for_close(&mut self) {
        let mut sink = [0; 4096];
        while self.stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    }

    /// Does nothing and reads nothing.
    pub(crate) async fn hang(&mut self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Reads one request with a `Content-Length` (none means no body).
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Got> {
    let mut bytes = Vec::with_capacity(64 * 1024);
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    while body.len() < length {
        body.reserve((length - body.len()).min(1 << 20));
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(body.len(), length, "the client sends one request at a time");
    Some(Got { head, body })
}
