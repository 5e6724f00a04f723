//! The senders, paced or without a pause, and the app in its moods.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::book::{Book, body_of};
use crate::support::{App, Connection, Reply, Response, hmac_hex};

pub(super) const PATH: &str = "/hooks/soak";
pub(super) const SECRET: &str = "the secret of the soak";
/// Each on one kept-alive connection.
const SENDERS: u32 = 8;
/// Every so many events one is sent a second time at once.
const REPEAT_EVERY: u64 = 20;
/// After a refusal or a lost connection.
const PAUSE: Duration = Duration::from_millis(20);
/// A sender that fell behind its pace by more than this does not catch up.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Where the gateway listens at present: each life has another port.
#[derive(Debug)]
pub(super) struct Target(Mutex<SocketAddr>);

impl Target {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self(Mutex::new(address))
    }

    pub(super) fn get(&self) -> SocketAddr {
        *self.0.lock().unwrap()
    }

    pub(super) fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap() = address;
    }
}

/// How the app treats what it is handed.
#[derive(Debug, Default)]
pub(super) struct Mood(AtomicU8);

impl Mood {
    pub(super) const TAKING: u8 = 0;
    /// It closes without an answer.
    pub(super) const DOWN: u8 = 1;
    pub(super) const SLOW: u8 = 2;
    /// It answers 503.
    pub(super) const FAILING: u8 = 3;

    pub(super) fn set(&self, mood: u8) {
        self.0.store(mood, Ordering::SeqCst);
    }
}

/// The app: it books what it takes before it answers.
pub(super) fn app(book: Arc<Book>, mood: Arc<Mood>) -> App {
    App::unrecorded(move |request| {
        let mood = mood.0.load(Ordering::SeqCst);
        if mood == Mood::DOWN {
            return Reply::Close;
        }
        if mood == Mood::FAILING {
            return Reply::Status(503);
        }
        book.deliver(&request.body);
        match mood {
            Mood::SLOW => Reply::After(Duration::from_millis(200), Box::new(Reply::Status(200))),
            _ => Reply::Status(200),
        }
    })
}

/// Senders at work.
#[derive(Debug)]
pub(super) struct Senders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// All together `rate` events a second, or as many as go; `fresh` ones, or only those without an answer.
    pub(super) fn start(target: &Arc<Target>, book: &Arc<Book>, rate: Option<f64>, fresh: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..SENDERS).map(|_| {
            let sender = Sender {
                target: target.clone(),
                book: book.clone(),
                stop: stop.clone(),
                pace: rate.map(|rate| Duration::from_secs_f64(f64::from(SENDERS) / rate)),
                fresh,
            };
            std::thread::spawn(move || sender.run())
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Ends them; an answer that is still coming is read to its end.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

struct Sender {
    target: Arc<Target>,
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    pace: Option<Duration>,
    fresh: bool,
}

impl Sender {
    fn run(self) {
        let mut connection = None;
        let mut due = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            if let Some(pace) = self.pace {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due = (due + pace).max(Instant::now() - LATE_MAX);
            }
            let number = match self.book.begin_again() {
                Some(number) => number,
                None if self.fresh => self.book.begin(),
                None => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let body = body_of(number);
            match post(self.target.get(), &mut connection, SECRET, &body) {
                Some(answer) if answer.status == 200 => {
                    self.book.ack(number);
                    if number.is_multiple_of(REPEAT_EVERY)
                        && let Some(again) = post(self.target.get(), &mut connection, SECRET, &body)
                        && again.status == 200
                    {
                        self.book.repeated(number, &again.text());
                    }
                }
                None | Some(Response { status: 503, .. }) => {
                    self.book.unanswered(number);
                    std::thread::sleep(PAUSE);
                }
                Some(answer) => self
                    .book
                    .odd(number, format!("{} {}", answer.status, answer.text())),
            }
        }
    }
}

/// One event on a connection that is kept if it can be; `None`: no answer.
pub(super) fn post(
    gateway: SocketAddr,
    connection: &mut Option<Connection>,
    secret: &str,
    body: &[u8],
) -> Option<Response> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(gateway).ok()?,
    };
    let signature = hmac_hex(secret.as_bytes(), body);
    let answer = open.post(PATH, &[("X-Soak-Signature", &signature)], body).ok()?;
    if answer.header("connection") != Some("close") {
        *connection = Some(open);
    }
    Some(answer)
}
