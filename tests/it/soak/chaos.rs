//! The faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::admin;
use super::book::Book;
use super::senders::{Mood, PATH, Target, post};
use crate::support::{Connection, Gateway};

/// Connections that send a byte now and then.
const SLOW_SENDERS: usize = 60;
/// Connections of a storm.
const STORM: usize = 400;
const FORGERS: usize = 4;
/// Between two forgeries of one of them.
const FORGER_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    AppDown,
    AppSlow,
    AppFailing,
    Forgeries,
    SlowSenders,
    Reloads,
    Storm,
    Kill,
    Stop,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::AppDown,
        Self::AppSlow,
        Self::AppFailing,
        Self::Forgeries,
        Self::SlowSenders,
        Self::Reloads,
        Self::Storm,
        Self::Kill,
        Self::Stop,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AppDown => "app down",
            Self::AppSlow => "app slow",
            Self::AppFailing => "app failing",
            Self::Forgeries => "forgeries",
            Self::SlowSenders => "slow senders",
            Self::Reloads => "reloads",
            Self::Storm => "storm",
            Self::Kill => "kill -9",
            Self::Stop => "SIGTERM",
        }
    }

    pub(super) fn ends_the_process(self) -> bool {
        matches!(self, Self::Kill | Self::Stop)
    }
}

/// Whoever causes them.
#[derive(Debug)]
pub(super) struct Chaos {
    gateway: Gateway,
    config: String,
    target: Arc<Target>,
    book: Arc<Book>,
    mood: Arc<Mood>,
}

impl Chaos {
    pub(super) fn new(
        gateway: Gateway,
        config: String,
        target: Arc<Target>,
        book: Arc<Book>,
        mood: Arc<Mood>,
    ) -> Self {
        Self {
            gateway,
            config,
            target,
            book,
            mood,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.gateway.pid()
    }

    pub(super) fn finish(self) -> Gateway {
        self.gateway
    }

    /// Causes it for as long, and ends it.
    pub(super) fn cause(&mut self, fault: Fault, length: Duration) {
        let until = Instant::now() + length;
        match fault {
            Fault::AppDown => self.mood_until(Mood::DOWN, length),
            Fault::AppSlow => self.mood_until(Mood::SLOW, length),
            Fault::AppFailing => self.mood_until(Mood::FAILING, length),
            Fault::Forgeries => self.forge(until),
            Fault::SlowSenders => self.trickle(until),
            Fault::Reloads => self.reload(until),
            Fault::Storm => self.storm(length),
            Fault::Kill => {
                self.gateway.kill9();
                self.start_again();
            }
            Fault::Stop => {
                assert_eq!(self.gateway.term().code(), Some(0), "{}", self.gateway.log());
                self.start_again();
            }
        }
    }

    fn start_again(&mut self) {
        self.gateway.restart();
        self.target.set(self.gateway.listen());
    }

    fn mood_until(&self, mood: u8, length: Duration) {
        self.mood.set(mood);
        std::thread::sleep(length);
        self.mood.set(Mood::TAKING);
    }

    fn forge(&self, until: Instant) {
        std::thread::scope(|scope| {
            for forger in 0..FORGERS {
                scope.spawn(move || {
                    let mut connection = None;
                    for number in 0.. {
                        if Instant::now() >= until {
                            return;
                        }
                        let body = format!("{{\"id\":\"forged-{forger}-{number}\"}}");
                        let answer = post(
                            self.target.get(),
                            &mut connection,
                            "another secret",
                            body.as_bytes(),
                        );
                        if let Some(answer) = answer {
                            self.book.forged(answer.status);
                        }
                        std::thread::sleep(FORGER_PAUSE);
                    }
                });
            }
        });
    }

    /// Half of them trickle a header, half a body.
    fn trickle(&self, until: Instant) {
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: h\r\n");
        let body = format!(
            "{head}X-Soak-Signature: {}\r\nContent-Length: 5000\r\n\r\n",
            "0".repeat(64)
        );
        let mut open: Vec<_> = (0..SLOW_SENDERS)
            .filter_map(|number| {
                let mut connection = Connection::open(self.target.get()).ok()?;
                let begin = if number % 2 == 0 { &head } else { &body };
                connection.write(begin.as_bytes()).ok()?;
                Some(connection)
            })
            .collect();
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            // Who took too long has been hung up on.
            open.retain_mut(|connection| connection.write(b"x").is_ok());
        }
    }

    /// By both ways, every second file broken; the last one is good.
    fn reload(&self, until: Instant) {
        let path = self.gateway.dir().join("hooklatch.toml");
        let good = std::fs::read_to_string(&path).unwrap();
        assert!(good.contains("[retention]") && self.config.contains("[retention]"));
        let broken = good.replacen("[retention]", "[retension]", 1);
        for number in 0.. {
            let text = if number % 2 == 0 { &broken } else { &good };
            std::fs::write(path.with_extension("new"), text).unwrap();
            std::fs::rename(path.with_extension("new"), &path).unwrap();
            if number % 4 < 2 {
                self.gateway.signal(Signal::HUP);
            } else {
                let status = admin(self.gateway.admin(), "POST", "/-/reload").status;
                assert!(matches!(status, 200 | 422 | 503), "{status}");
            }
            std::thread::sleep(Duration::from_millis(20));
            if number % 2 == 1 && Instant::now() >= until {
                return;
            }
        }
    }

    /// Many connect at once: some say nothing, some talk nonsense, some hang up.
    fn storm(&self, length: Duration) {
        let going = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while going.load(Ordering::SeqCst) {
                    let mut open: Vec<_> = (0..STORM)
                        .filter_map(|_| Connection::open(self.target.get()).ok())
                        .collect();
                    for connection in open.iter_mut().step_by(3) {
                        // It may have been refused already.
                        connection.write(b"\x16\x03\x01 no HTTP\r\n\r\n").ok();
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            std::thread::sleep(length);
            going.store(false, Ordering::SeqCst);
        });
    }
}
