//! The senders.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;

use super::event::{Sent, forgery, new_event};
use super::ledger::Ledger;
use crate::support::{Connection, Response};

/// So many of a hundred events are ones that were acknowledged before.
const REPEATS: u8 = 5;
/// So many of a hundred events come after a forgery.
const FORGERIES: u8 = 5;

/// What clients send, besides what is still unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// New events of all sizes.
    Mixed,
    /// Large new events.
    Large,
    /// Nothing.
    Rest,
}

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `count` clients that send without a pause.
    pub(super) fn start(
        count: usize,
        gateway: SocketAddr,
        ledger: &Arc<Ledger>,
        work: Work,
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..count)
            .map(|number| {
                let client = Client {
                    gateway,
                    connection: None,
                    ledger: ledger.clone(),
                    stop: stop.clone(),
                    rng: Rng::with_seed(seed.wrapping_add(number as u64)),
                    work,
                };
                std::thread::spawn(move || client.run())
            })
            .collect();
        Self { stop, clients }
    }

    /// Ends the clients; an answer that is still coming is read to its end.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

struct Client {
    gateway: SocketAddr,
    /// Kept alive, for genuine and forged requests alike.
    connection: Option<Connection>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    rng: Rng,
    work: Work,
}

impl Client {
    /// A pause after a refusal, so that a dead gateway is not hammered.
    const PAUSE: Duration = Duration::from_millis(5);

    fn run(mut self) {
        let mut next = self.repeat();
        while !self.stop.load(Ordering::SeqCst) {
            let Some(event) = next.take().or_else(|| self.next()) else {
                std::thread::sleep(Self::PAUSE);
                continue;
            };
            self.ledger.sending(&event);
            let answer = self.send(&event).map(|answer| (answer.status, answer.text()));
            match answer {
                Some((200, text)) => self.ledger.acked(&event.id, &text),
                Some((503, _)) | None => {
                    self.ledger.unanswered(event.id);
                    std::thread::sleep(Self::PAUSE);
                }
                Some((status, text)) => self.ledger.misanswered(&event.id, &format!("{status} {text}")),
            }
        }
    }

    /// Now and then one that was acknowledged already, else an unanswered one, else a new one.
    fn next(&mut self) -> Option<Sent> {
        if self.work == Work::Rest {
            return self.ledger.next_unanswered();
        }
        if self.chance(REPEATS)
            && let Some(event) = self.repeat()
        {
            return Some(event);
        }
        let unanswered = self.ledger.next_unanswered();
        unanswered.or_else(|| {
            let event = new_event(self.work == Work::Large, &mut self.rng);
            if self.chance(FORGERIES) {
                self.forge(&event);
            }
            Some(event)
        })
    }

    fn chance(&mut self, of_a_hundred: u8) -> bool {
        self.rng.u8(..100) < of_a_hundred
    }

    /// Any event that was acknowledged, in this round or before a crash.
    fn repeat(&mut self) -> Option<Sent> {
        self.ledger.acked_event(self.rng.usize(..))
    }

    /// Tries to get a forgery in before `genuine` is sent.
    fn forge(&mut self, genuine: &Sent) {
        let forged = forgery(genuine, &mut self.rng);
        self.ledger.forging(&forged);
        if let Some(answer) = self.send(&forged)
            && answer.status < 400
        {
            let text = format!("{} {} {:?}", answer.status, answer.text(), forged.headers);
            self.ledger.believed(&forged.id, &text);
        }
    }

    /// The answer, if there was one.
    fn send(&mut self, event: &Sent) -> Option<Response> {
        let mut open = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(self.gateway).ok()?,
        };
        let headers: Vec<_> = event
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = open.post(&event.target, &headers, &event.body).ok()?;
        if answer.header("connection") != Some("close") {
            self.connection = Some(open);
        }
        Some(answer)
    }
}
