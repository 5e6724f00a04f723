//! An app on a real socket that records what reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::PATIENCE;

/// What the app does with a request.
pub(super) enum Reply {
    Status(u16),
    /// A status and one more header line.
    With(u16, &'static str),
    /// Answers 200 once the gate is opened.
    WhenOpened,
    /// Closes amid the head of its answer (before, the client would take it for a stale pooled connection).
    HangUp,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    /// The event's number, which is its body.
    pub(super) fn seq(&self) -> i64 {
        std::str::from_utf8(&self.body).unwrap().parse().unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type Answerer = Box<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;

pub(super) struct App {
    pub(super) port: u16,
    desk: Arc<Desk>,
    _server: JoinSet<()>,
}

struct Desk {
    answer: Answerer,
    seen: watch::Sender<Vec<Seen>>,
    gate: watch::Sender<bool>,
    at_once: AtomicUsize,
    at_once_most: AtomicUsize,
}

impl App {
    /// `answer` gets each request and how many came before it.
    pub(super) async fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let desk = Arc::new(Desk {
            answer: Box::new(answer),
            seen: watch::channel(Vec::new()).0,
            gate: watch::channel(false).0,
            at_once: AtomicUsize::new(0),
            at_once_most: AtomicUsize::new(0),
        });
        let mut server = JoinSet::new();
        let serving = desk.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serving.clone().serve(stream));
            }
        });
        Self {
            port,
            desk,
            _server: server,
        }
    }

    pub(super) fn open(&self) {
        self.desk.gate.send_replace(true);
    }

    /// The most requests that were under way together.
    pub(super) fn at_once_most(&self) -> usize {
        self.desk.at_once_most.load(Ordering::SeqCst)
    }

    pub(super) fn count(&self) -> usize {
        self.desk.seen.borrow().len()
    }

    pub(super) async fn seen(&self, count: usize) -> Vec<Seen> {
        let mut seen = self.desk.seen.subscribe();
        match timeout(PATIENCE, seen.wait_for(|seen| seen.len() >= count)).await {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => panic!("{count} requests expected, {} came", self.count()),
        }
    }
}

impl Desk {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        while let Some(seen) = read_request(&mut stream).await {
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.at_once_most.fetch_max(now, Ordering::SeqCst);
            let before = self.seen.borrow().len();
            let reply = (self.answer)(&seen, before);
            self.seen.send_modify(|all| all.push(seen));
            if matches!(reply, Reply::WhenOpened) {
                self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            }
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            let (status, more) = match reply {
                Reply::Status(status) => (status, ""),
                Reply::With(status, more) => (status, more),
                Reply::WhenOpened => (200, ""),
                Reply::HangUp => {
                    stream.write_all(b"HTTP/1.1 20").await.unwrap();
                    return;
                }
            };
            let end = if more.is_empty() { "" } else { "\r\n" };
            let text = format!("HTTP/1.1 {status} Any\r\n{more}{end}Content-Length: 2\r\n\r\nok");
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_bytes = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(head_bytes);
    let seen = Seen {
        at: Instant::now(),
        head: String::from_utf8(bytes).unwrap(),
        body: Vec::new(),
    };
    let length: usize = seen.header("Content-Length").unwrap().parse().unwrap();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(body.len(), length, "bytes behind the body");
    Some(Seen { body, ..seen })
}
