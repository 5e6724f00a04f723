//! An upstream that strikes as often as it was armed for and is honest otherwise, and books what it saw.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::event::Event;
use super::faults::{Fault, Strike, Then};
use crate::fault_server::{FaultServer, Got, Peer};
use crate::support::PATIENCE;

/// What an honest answer is. Each attempt has a connection of its own, so that strikes can be counted.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ntaken";

/// The upstream of one lane.
pub(super) struct Upstream {
    pub(super) server: FaultServer,
    pub(super) book: Arc<Book>,
}

/// What it was told and what it saw.
pub(super) struct Book {
    faults: Vec<Fault>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    /// Connections that are still to be struck.
    armed: usize,
    /// Connections of this wave that are held until all of it is there.
    held: usize,
    /// Strikes so far, by variant.
    pub(super) struck: Vec<usize>,
    /// Requests by event, in the order of their coming; those that were not read are not in it.
    pub(super) visits: HashMap<String, Vec<Visit>>,
    /// Requests taken.
    pub(super) taken: usize,
}

/// One request that the upstream has read, at least its head.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// `Hooklatch-Attempt`.
    pub(super) attempt: u32,
    /// `Hooklatch-Key`, which is `Idempotency-Key` too.
    pub(super) key: String,
    /// All of it came, and is what was sent.
    pub(super) whole: bool,
    /// The variant that struck; `None`: it was answered 200.
    pub(super) struck: Option<usize>,
}

impl Upstream {
    /// Strikes with `faults` in turn once it is armed.
    pub(super) async fn start(faults: Vec<Fault>) -> Self {
        let book = Book::new(faults);
        let shared = book.clone();
        let server = FaultServer::start(move |peer| shared.clone().serve(peer)).await;
        Self { server, book }
    }
}

impl Book {
    fn new(faults: Vec<Fault>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                struck: vec![0; faults.len()],
                ..State::default()
            }),
            faults,
            changed: watch::channel(()).0,
        })
    }

    /// The book of an upstream with a script of its own.
    pub(super) fn honest() -> Arc<Self> {
        Self::new(Vec::new())
    }

    /// Books a request that was read whole; says how many of that event there are now.
    pub(super) fn take(&self, got: &Got) -> usize {
        self.book(got, true, None);
        self.change(|state| {
            state.taken += 1;
            let id = field(&got.head, "Hooklatch-Event-Id");
            id.and_then(|id| state.visits.get(id)).map_or(0, Vec::len)
        })
    }

    /// The next `count` connections are struck, once all of them are there.
    pub(super) fn arm(&self, count: usize) {
        let mut state = self.state();
        state.armed = count;
        state.held = count;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until `reached`.
    pub(super) async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = timeout(PATIENCE, changed.wait_for(|_| reached(&self.state()))).await;
        let state = self.state();
        assert!(
            waited.is_ok(),
            "{what}: {} still armed, struck {:?}, taken {}",
            state.armed,
            state.struck,
            state.taken
        );
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_replace(());
        result
    }

    /// The variant that strikes this connection, if one does.
    fn next_strike(&self) -> Option<usize> {
        self.change(|state| {
            state.armed = state.armed.checked_sub(1)?;
            let variant = state.armed % self.faults.len();
            state.struck[variant] += 1;
            Some(variant)
        })
    }

    async fn serve(self: Arc<Self>, mut peer: Peer) {
        let Some(variant) = self.next_strike() else {
            if let Some(got) = peer.request().await {
                self.take(&got);
                peer.write(OK).await;
            }
            return;
        };
        match self.faults[variant].strike.clone() {
            Strike::OnConnect(then) => {
                self.gather().await;
                end(peer, then).await;
            }
            Strike::MidRequest(then) => {
                let got = begin_of_request(&mut peer, true).await;
                self.book(&got, false, Some(variant));
                self.gather().await;
                end(peer, then).await;
            }
            Strike::Early(answer, then) => {
                let got = begin_of_request(&mut peer, false).await;
                self.book(&got, false, Some(variant));
                self.gather().await;
                peer.write(&answer).await;
                // So that the answer is not overtaken by what follows.
                sleep(Duration::from_millis(50)).await;
                end(peer, then).await;
            }
            Strike::Answer(answer, then) => {
                self.whole_request(&mut peer, variant).await;
                peer.write(&answer).await;
                end(peer, then).await;
            }
            Strike::Drip(answer, from) => {
                self.whole_request(&mut peer, variant).await;
                peer.write(&answer[..from]).await;
                for byte in &answer[from..] {
                    if peer.stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            }
            Strike::Endless(begin, more, pause) => {
                self.whole_request(&mut peer, variant).await;
                peer.write(&begin).await;
                while peer.stream.write_all(&more).await.is_ok() {
                    sleep(pause).await;
                }
            }
        }
    }

    async fn whole_request(&self, peer: &mut Peer, variant: usize) {
        let got = peer.request().await.expect("the client sends its request whole");
        self.book(&got, true, Some(variant));
        self.gather().await;
    }

    /// Holds a strike until all of its wave are there: the first failures would open the breaker, and the others would
    /// never be struck.
    async fn gather(&self) {
        self.change(|state| state.held -= 1);
        self.until("a whole wave", |state| state.held == 0).await;
    }

    fn book(&self, got: &Got, complete: bool, struck: Option<usize>) {
        let header = |name| field(&got.head, name).unwrap_or_else(|| panic!("no {name} in {}", got.head));
        let id = header("Hooklatch-Event-Id");
        assert_eq!(header("Idempotency-Key"), header("Hooklatch-Key"));
        let visit = Visit {
            attempt: header("Hooklatch-Attempt").parse().unwrap(),
            key: header("Hooklatch-Key").to_owned(),
            whole: complete && Event::is(id, &got.body),
            struck,
        };
        self.change(|state| state.visits.entry(id.to_owned()).or_default().push(visit));
    }
}

async fn end(mut peer: Peer, then: Then) {
    match then {
        Then::Close => {}
        Then::Reset => peer.reset(),
        Then::Hang => peer.hang().await,
    }
}

/// The head, and half of the body where it is said so; nothing beyond is read.
async fn begin_of_request(peer: &mut Peer, half: bool) -> Got {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.stream.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).unwrap();
    let length: usize = field(&head, "Content-Length").unwrap().parse().unwrap();
    let mut body = vec![0; if half { length / 2 } else { 0 }];
    peer.stream.read_exact(&mut body).await.expect("half a body");
    Got { head, body }
}

pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
