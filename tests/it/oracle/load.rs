//! The senders and the app.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;

use super::ledger::{Ledger, Sent};
use crate::support::{App, Connection, Reply, Request, hmac_hex, sha256};

/// How the app treats what it is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It takes everything.
    Taking,
    /// It reads, and never gets round to taking or answering.
    Holding,
    /// It takes half, holds a few, and fails at a few.
    Wavering,
}

/// The app's mood, which a test changes.
#[derive(Debug)]
pub(super) struct Mind(Mutex<(Mood, Rng)>);

impl Mind {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new((Mood::Taking, Rng::with_seed(seed))))
    }

    pub(super) fn set(&self, mood: Mood) {
        self.0.lock().unwrap().0 = mood;
    }

    /// What happens to the next request.
    fn decide(&self) -> Reply {
        let (mood, rng) = &mut *self.0.lock().unwrap();
        match mood {
            Mood::Taking => Reply::Status(200),
            Mood::Holding => Reply::Hang,
            Mood::Wavering => match rng.u8(..100) {
                0..3 => Reply::Status(500),
                3..5 => Reply::Close,
                5..20 => Reply::Hang,
                20..40 => Reply::After(Duration::from_millis(rng.u64(..30)), Box::new(Reply::Status(200))),
                _ => Reply::Status(200),
            },
        }
    }
}

/// The app: it books what it takes before it answers.
pub(super) fn app(ledger: Arc<Ledger>, mind: Arc<Mind>) -> App {
    App::unrecorded(move |request: &Request| {
        let reply = mind.decide();
        let takes = match &reply {
            Reply::Status(status) => *status == 200,
            Reply::After(..) => true,
            _ => false,
        };
        if takes {
            ledger.delivered(&id_of(&request.body), &request.body);
        }
        reply
    })
}

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `count` clients that send without a pause, first what is still unanswered, then new events.
    pub(super) fn start(count: usize, gateway: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> Self {
        Self::launch(count, gateway, ledger, seed, true)
    }

    /// `count` clients that send only what is still unanswered.
    pub(super) fn start_rest(count: usize, gateway: SocketAddr, ledger: &Arc<Ledger>, seed: u64) -> Self {
        Self::launch(count, gateway, ledger, seed, false)
    }

    /// Ends the clients; an answer that is still coming is read to its end.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
    }

    fn launch(count: usize, gateway: SocketAddr, ledger: &Arc<Ledger>, seed: u64, fresh: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..count)
            .map(|number| {
                let client = Client {
                    gateway,
                    ledger: ledger.clone(),
                    stop: stop.clone(),
                    rng: Rng::with_seed(seed.wrapping_add(number as u64)),
                    fresh,
                };
                std::thread::spawn(move || client.run())
            })
            .collect();
        Self { stop, clients }
    }
}

struct Client {
    gateway: SocketAddr,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    rng: Rng,
    fresh: bool,
}

impl Client {
    /// A pause after a refusal, so that a dead gateway is not hammered.
    const PAUSE: Duration = Duration::from_millis(5);

    fn run(mut self) {
        let mut connection = None;
        let mut next = self.repeat();
        while !self.stop.load(Ordering::SeqCst) {
            let Some(event) = next.take().or_else(|| self.next()) else {
                std::thread::sleep(Self::PAUSE);
                continue;
            };
            self.ledger.sending(&event);
            match self.send(&mut connection, &event) {
                Some((200, answer)) => self.ledger.acked(&event, &answer),
                Some((503, _)) | None => {
                    self.ledger.unanswered(event);
                    std::thread::sleep(Self::PAUSE);
                }
                Some((status, body)) => self.ledger.odd(&event, format!("{status} {body}")),
            }
        }
    }

    /// An unanswered event, now and then one that was acknowledged already, else a new one.
    fn next(&mut self) -> Option<Sent> {
        if let Some(event) = self.ledger.next_unanswered() {
            return Some(event);
        }
        if !self.fresh {
            return None;
        }
        let repeat = if self.rng.u8(..100) < 5 {
            self.repeat()
        } else {
            None
        };
        Some(repeat.unwrap_or_else(|| new_event(&mut self.rng)))
    }

    /// Any event that was acknowledged, in this round or before a crash.
    fn repeat(&mut self) -> Option<Sent> {
        self.ledger.acked_id(self.rng.usize(..)).map(event_of)
    }

    /// Status and body of the answer, if there was one.
    fn send(&self, connection: &mut Option<Connection>, event: &Sent) -> Option<(u16, String)> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(self.gateway).ok()?,
        };
        let signature = hmac_hex(b"secret", &event.body);
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Quantiv-Signature", signature.as_str()),
        ];
        let answer = open.post("/hooks/quantiv", &headers, &event.body).ok()?;
        if answer.header("connection") != Some("close") {
            *connection = Some(open);
        }
        Some((answer.status, answer.text()))
    }
}

/// Bytes of the smallest body.
const BODY_BYTES_MIN: f64 = 200.0;
/// The largest has this many times as many: 20 KiB.
const BODY_BYTES_RANGE: f64 = 102.4;

fn new_event(rng: &mut Rng) -> Sent {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    event_of(format!("evt_{number}_{:08x}", rng.u32(..)))
}

/// The event with this id, always the same. Its body would be changed by any re-encoding: odd blanks, escapes, key order,
/// a last newline. Small ones are as frequent as large ones.
fn event_of(id: String) -> Sent {
    let seed = sha256(id.as_bytes()).first_chunk().copied().unwrap();
    let share = Rng::with_seed(u64::from_le_bytes(seed)).f64();
    let wanted = (BODY_BYTES_MIN * BODY_BYTES_RANGE.powf(share)) as usize;
    let head = format!(
        "{{ \"event\" : \"lead.created\",\t\"id\":\"{id}\", \"z\": 1.0, \"a\": 1e2,\n \"note\": \"caf\\u00e9 "
    );
    let tail = "\" }\n";
    let padding = "x".repeat(wanted.saturating_sub(head.len() + tail.len()));
    Sent {
        id,
        body: [head.as_str(), &padding, tail].concat().into_bytes(),
    }
}

/// The id in a body of [`event_of`].
fn id_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let rest = text.split_once("\"id\":\"").map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}
