//! Forgers: as many requests as one thread can send.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::PATH;
use super::wire::Wire;

/// One kind of forged request.
#[derive(Debug, Clone)]
pub(super) struct Forgery {
    line: &'static str,
    /// Whole header lines, framing included.
    header: String,
    body: Arc<[u8]>,
}

impl Forgery {
    fn new(line: &'static str, header: &str, body: Vec<u8>) -> Self {
        Self {
            line,
            header: format!("{header}Content-Length: {}\r\n", body.len()),
            body: body.into(),
        }
    }

    /// Well-formed, of so many bytes, and signed with another secret.
    pub(super) fn wrong(bytes: usize) -> Self {
        Self::new("POST", &wrong_signature(), forged_body(bytes))
    }

    /// The same in chunks of 1,000 bytes.
    pub(super) fn chunked(bytes: usize) -> Self {
        let mut wire = Vec::new();
        for chunk in forged_body(bytes).chunks(1000) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        Self {
            line: "POST",
            header: format!("{}Transfer-Encoding: chunked\r\n", wrong_signature()),
            body: wire.into(),
        }
    }

    /// One of each kind that costs a forger little.
    pub(super) fn small() -> Vec<Self> {
        vec![
            Self::new("POST", "", forged_body(300)),
            Self::new("POST", "X-Quantiv-Signature: sha256=nothex\r\n", forged_body(300)),
            Self::wrong(1024),
            Self::chunked(1024),
            Self::new("POST /unknown", "", forged_body(300)),
            Self::new("DELETE", "", Vec::new()),
        ]
    }

    fn head(&self, forwarded_for: Option<IpAddr>) -> String {
        let target = if self.line.contains(' ') {
            String::new()
        } else {
            format!(" {PATH}")
        };
        let forwarded =
            forwarded_for.map_or_else(String::new, |client| format!("X-Forwarded-For: {client}\r\n"));
        format!(
            "{}{target} HTTP/1.1\r\nHost: hooks.example\r\n{}{forwarded}\r\n",
            self.line, self.header
        )
    }
}

fn wrong_signature() -> String {
    format!("X-Quantiv-Signature: sha256={}\r\n", "5a".repeat(32))
}

fn forged_body(bytes: usize) -> Vec<u8> {
    let head = r#"{"id":"forged","padding":""#;
    let mut body = head.as_bytes().to_vec();
    body.resize(bytes.max(head.len() + 2) - 2, b'f');
    body.extend_from_slice(b"\"}");
    body
}

/// Who sends, and how.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) forgeries: Vec<Forgery>,
    /// Connections at once.
    pub(super) connections: usize,
    /// Then a new one is opened, from the next address.
    pub(super) requests_per_connection: usize,
    /// Addresses to come from, in turn.
    pub(super) sources: Vec<IpAddr>,
    /// Addresses for `X-Forwarded-For`, in turn, one a request.
    pub(super) forwarded_for: Vec<IpAddr>,
}

/// A flood that runs until it is told to stop.
#[derive(Debug)]
pub(super) struct Flood {
    shared: Arc<Shared>,
    runtime: Runtime,
    started: Instant,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    plan: Plan,
    next: AtomicUsize,
    stopping: AtomicBool,
    answers: Mutex<BTreeMap<String, usize>>,
}

impl Flood {
    pub(super) fn start(target: SocketAddr, plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            target,
            plan,
            next: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            answers: Mutex::default(),
        });
        for _ in 0..shared.plan.connections {
            runtime.spawn(shared.clone().connect());
        }
        Self {
            shared,
            runtime,
            started: Instant::now(),
        }
    }

    /// What the forgers were answered.
    pub(super) fn stop(self) -> Tally {
        let took = self.started.elapsed();
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        let answers = std::mem::take(&mut *self.shared.answers.lock().unwrap());
        Tally { answers, took }
    }
}

impl Shared {
    async fn connect(self: Arc<Self>) {
        while !self.stopping.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let source = pick(&self.plan.sources, number);
            match Wire::open(self.target, source).await {
                Ok(wire) => self.send(wire).await,
                Err(error) => {
                    self.saw(format!("connect: {}", error.kind()));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn send(&self, mut wire: Wire) {
        for _ in 0..self.plan.requests_per_connection {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let forgery = &self.plan.forgeries[number % self.plan.forgeries.len()];
            let head = forgery.head(pick(&self.plan.forwarded_for, number));
            match wire.exchange(head.as_bytes(), &forgery.body).await {
                Ok(answer) => {
                    self.saw(answer.status.to_string());
                    if answer.closes {
                        return;
                    }
                }
                Err(error) => return self.saw(error.kind().to_string()),
            }
        }
    }

    fn saw(&self, what: String) {
        *self.answers.lock().unwrap().entry(what).or_default() += 1;
    }
}

fn pick(addresses: &[IpAddr], number: usize) -> Option<IpAddr> {
    let count = addresses.len().max(1);
    addresses.get(number % count).copied()
}

/// How the forgers were answered.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) answers: BTreeMap<String, usize>,
    took: Duration,
}

impl Tally {
    pub(super) fn count(&self) -> usize {
        self.answers.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.count() as f64 / self.took.as_secs_f64();
        write!(f, "{rate:.0} forged a second {:?}", self.answers)
    }
}
