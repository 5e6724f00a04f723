//! A stand-in for the app behind the gateway: records what arrives and answers as told.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::http::{find, read_exactly, read_head};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names and values in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// When its last byte was read.
    pub(crate) at: Instant,
}

impl Request {
    /// The first value of header `name` (any case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// What the app does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answers with this status and an empty body.
    Status(u16),
    /// Answers with status, headers and body.
    Full(u16, Vec<(String, String)>, Vec<u8>),
    /// Writes these bytes as they stand, then closes.
    Raw(Vec<u8>),
    /// Waits, then does as told.
    After(Duration, Box<Reply>),
    /// Never answers; ends when the other side closes.
    Hang,
    /// Closes without an answer.
    Close,
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// An HTTP server on a free port of 127.0.0.1, one thread a connection; ends when dropped.
pub(crate) struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    handler: Box<Handler>,
    /// What arrived, while `recording`.
    requests: Mutex<Vec<Request>>,
    arrived: Condvar,
    recording: bool,
    open: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

impl App {
    /// Records every request; gives `replies` in turn and then 200.
    pub(crate) fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies = Mutex::new(replies.into_iter().collect::<VecDeque<_>>());
        Self::launch(true, move |_| {
            replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(200))
        })
    }

    /// Records every request and answers as `handler` says.
    pub(crate) fn with(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(true, handler)
    }

    /// Answers as `handler` says and records nothing; for loads.
    pub(crate) fn unrecorded(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(false, handler)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests have arrived and returns all there are.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Request> {
        let requests = self.shared.requests.lock().unwrap();
        let (requests, timeout) = self
            .shared
            .arrived
            .wait_timeout_while(requests, PATIENCE, |requests| requests.len() < count)
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "{} of {count} requests arrived within {PATIENCE:?}",
            requests.len()
        );
        requests.clone()
    }

    fn launch(recording: bool, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            arrived: Condvar::new(),
            recording,
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.accept(&listener))
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in self.shared.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Ok(copy) = stream.try_clone() else { continue };
            let mut open = self.open.lock().unwrap();
            open.retain(|stream| stream.peer_addr().is_ok());
            open.push(copy);
            drop(open);
            let shared = self.clone();
            std::thread::spawn(move || {
                let peer = stream.peer_addr().ok();
                // The error is the other side's leaving.
                drop(shared.serve(&stream));
                // The copy too: as long as one is open, what came unread is not answered with a reset, as it is when a
                // real app closes.
                let mut open = shared.open.lock().unwrap();
                open.retain(|stream| stream.peer_addr().ok() != peer);
                drop(stream);
            });
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = stream.try_clone()?;
        let mut unread = Vec::new();
        loop {
            let request = read_request(&mut reader, &mut unread)?;
            let mut reply = (self.handler)(&request);
            if self.recording {
                self.requests.lock().unwrap().push(request);
                self.arrived.notify_all();
            }
            while let Reply::After(wait, then) = reply {
                std::thread::sleep(wait);
                reply = *then;
            }
            match reply {
                Reply::Status(status) => stream.write_all(&answer(status, &[], b""))?,
                Reply::Full(status, headers, body) => stream.write_all(&answer(status, &headers, &body))?,
                Reply::Raw(bytes) => {
                    stream.write_all(&bytes)?;
                    return Ok(());
                }
                Reply::Hang => {
                    reader.read_to_end(&mut unread)?;
                    return Ok(());
                }
                Reply::Close | Reply::After(..) => return Ok(()),
            }
        }
    }
}

fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Request> {
    let (first, headers) = read_head(stream, unread)?;
    let length = find(&headers, "content-length").map_or(Ok(0), str::parse);
    let body = read_exactly(stream, unread, length.map_err(io::Error::other)?)?;
    let mut words = first.split(' ').map(str::to_owned);
    Ok(Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers,
        body,
        at: Instant::now(),
    })
}

fn answer(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
