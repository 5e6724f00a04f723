//! A connection's bytes through the real HTTP/1.1 reader and the real front door, into an inbox in memory.
//!
//! The input is what a sender writes, except for marks that stand for what it could not guess: signatures, lengths and
//! chunks of the bodies between marks.

mod answers;
mod framing;
mod script;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hooklatch::clock::ManualClock;
use hooklatch::config::{self, Env};
use hooklatch::event::{DedupHashKey, DedupKey, KeyKind, Seq, Target, Timestamp};
use hooklatch::inbox::{
    Acceptance, Accepted, Claim, Counts, Health, Inbox, InboxError, NewEvent, ProxyMark, Replayed, Selection,
    Settlement,
};
use hooklatch::keys::{Https, KeyCache};
use hooklatch::receive::settings::{Limits, Quota};
use hooklatch::receive::{FrontDoor, Parts};
use hooklatch::shutdown::{self, Controller, Phase};
use hooklatch::telemetry::Telemetry;
use hooklatch::upstream::Client;
use tokio::runtime::{Builder, Runtime};

use super::hmac::{base64, hex, hmac};
use super::input::Input;
use super::wire::Wire;
use answers::Answer;
use framing::Framed;

/// Small, so that small inputs reach every limit.
const CONFIG: &str = include_str!("request/hooklatch.toml");
/// The routes of the configuration whose senders sign, and their secrets.
pub(super) const SECRETS: [(&str, &[u8]); 5] = [
    ("quantiv", b"quantiv-secret-0123456789"),
    ("quintago", b"quintago-secret-0123456789"),
    ("iverton", b"iverton-secret-0123456789"),
    ("ltvboost", b"ltvboost-secret-0123456789"),
    ("connectgain", b"connectgain-secret-0123456789"),
];
/// The one that checks nothing.
const OPEN: &str = "open";
const REQUESTS_MAX: usize = 64;

struct World {
    runtime: Runtime,
    door: Arc<FrontDoor>,
    inbox: Arc<Taken>,
    _running: Controller,
}

thread_local! {
    static WORLD: World = World::new();
}

/// One execution.
pub fn run(data: &[u8]) {
    WORLD.with(|world| world.run(Input(data)));
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_800_000_000_000)));
        let (config, problems) = config::inspect("fuzz/src/request/hooklatch.toml", CONFIG, &Nothing);
        let config = config.unwrap_or_else(|| panic!("{problems}"));
        let inbox = Arc::new(Taken::default());
        let (running, stop) = shutdown::channel();
        running.enter(Phase::Running);
        let door = FrontDoor::new(Parts {
            limits: Limits {
                // Executions must not depend on those before them.
                failures_per_peer: Quota {
                    per_second: 1e9,
                    burst: u32::MAX,
                },
                ..config.limits
            },
            routes: config.routes,
            inbox: Some(inbox.clone()),
            hash_key: DedupHashKey([7; 16]),
            marks: Vec::new(),
            client: Client::new(Duration::ZERO, 0),
            quarantine: None,
            keys: Arc::new(KeyCache::new(
                Arc::new(Https::new(Client::new(Duration::ZERO, 0))),
                clock.clone(),
            )),
            telemetry: Telemetry::with_clock(clock.clone()),
            clock,
            stop,
        });
        Self {
            runtime: Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap(),
            door,
            inbox,
            _running: running,
        }
    }

    fn run(&self, mut input: Input<'_>) {
        let (how, flags) = (input.byte(), input.byte());
        // The second one is a trusted proxy.
        let peer: IpAddr = match flags & 1 {
            0 => [192, 0, 2, 1].into(),
            _ => [10, 0, 0, 1].into(),
        };
        self.inbox.reset(flags >> 4);
        let sent = script::play(input.0);
        let mut wire = Wire::new(sent, how);
        self.runtime.block_on(self.door.serve_in_memory(&mut wire, peer));
        let met = std::mem::take(&mut *self.inbox.lock());
        judge(&wire, &met);
    }
}

fn judge(wire: &Wire, met: &Met) {
    let sent = &wire.bytes;
    let requests = count(sent, b"HTTP/1.");
    let answers = answers::read(&wire.written, count(sent, b"HEAD ") > 0)
        .unwrap_or_else(|| panic!("not answers: {:?}", String::from_utf8_lossy(&wire.written)));
    assert!(answers.len() <= requests + 1, "more answers than requests");
    let told = |body: &[u8]| {
        let told = |answer: &&Answer<'_>| answer.status == 200 && answer.body == body;
        answers.iter().filter(told).count()
    };
    assert_eq!(
        told(br#"{"received":true}"#),
        met.new,
        "a 200 for each new event, and no other"
    );
    assert_eq!(
        told(br#"{"received":true,"duplicate":true}"#),
        met.repeats,
        "a 200 for each repeat"
    );
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        met.new + met.repeats
    );
    assert!(met.seen.len() <= requests, "more events than requests");
    let mut framed = framing::split(sent).into_iter();
    for new in &met.seen {
        genuine(sent, new);
        let request = framed.find(|request| request.body == new.event.body && is_of(request, new));
        assert!(
            request.is_some(),
            "accepted, though it is no request of the connection itself: {new:?} {:?}",
            new.event.body
        );
        kept(sent, new);
    }
}

/// Whether the event came by this request.
fn is_of(request: &Framed, new: &NewEvent) -> bool {
    let event = &new.event;
    let query = event.query.as_deref().map(|query| format!("?{query}"));
    let end = format!("{}{}", event.path_rest, query.unwrap_or_default());
    request.method == event.method.as_bytes() && request.target.ends_with(end.as_bytes())
}

/// Nobody can have this event accepted without having its signature from somebody who holds the secret.
fn genuine(sent: &[u8], new: &NewEvent) {
    let event = &new.event;
    if event.route.as_str() == OPEN {
        assert!(!event.verified && event.secret.is_none() && new.key_kind == KeyKind::Unverified);
        return;
    }
    let (_, secret) = SECRETS
        .iter()
        .find(|(name, _)| *name == event.route.as_str())
        .expect("a route of the file");
    assert!(event.verified && new.key_kind != KeyKind::Unverified);
    let tag = hmac(secret, &event.body);
    let signed = contains(&sent.to_ascii_lowercase(), &hex(&tag)) || contains(sent, &base64(&tag)[..43]);
    assert!(signed, "accepted without its signature: {new:?} {:?}", event.body);
}

/// What is kept is what was sent.
fn kept(sent: &[u8], new: &NewEvent) {
    let event = &new.event;
    for line in event.headers.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("whole lines");
        let colon = line
            .windows(2)
            .position(|two| two == b": ")
            .expect("`name: value`");
        let (name, value) = (&line[..colon], &line[colon + 2..]);
        assert!(!name.is_empty() && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let folded = String::from_utf8_lossy(name)
            .to_ascii_lowercase()
            .replace('_', "-");
        assert!(!folded.starts_with("hooklatch-"), "{folded}");
        let dropped = [
            "host",
            "content-length",
            "connection",
            "transfer-encoding",
            "te",
            "upgrade",
            "expect",
        ];
        assert!(!dropped.contains(&&*folded), "{folded}");
        if !folded.starts_with("x-forwarded-") {
            assert!(
                contains(sent, name) && contains(sent, value),
                "nobody sent {folded}"
            );
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// No variables and no files.
struct Nothing;

impl Env for Nothing {
    fn var(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn read_file(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000)
    }
}

/// What one connection brought.
#[derive(Debug, Default)]
struct Met {
    /// Every event that was given to the inbox.
    seen: Vec<NewEvent>,
    keys: Vec<DedupKey>,
    new: usize,
    repeats: usize,
    /// How the inbox behaves.
    mood: u8,
    unanswered: Vec<hooklatch::inbox::Answer>,
}

/// An inbox that remembers one connection.
#[derive(Debug, Default)]
struct Taken(Mutex<Met>);

impl Taken {
    fn lock(&self) -> std::sync::MutexGuard<'_, Met> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self, mood: u8) {
        *self.lock() = Met {
            mood,
            ..Met::default()
        };
    }
}

#[async_trait]
impl Inbox for Taken {
    fn accept(&self, event: NewEvent) -> Acceptance {
        let mut met = self.lock();
        let key = event.dedup_key;
        met.seen.push(event);
        assert!(met.seen.len() <= REQUESTS_MAX, "no end");
        match met.mood {
            13 => return Acceptance::refused(InboxError::Busy),
            14 => return Acceptance::refused(InboxError::Full),
            _ => {}
        }
        let (answer, acceptance) = Acceptance::waiting();
        if met.mood == 15 {
            met.unanswered.push(answer);
            return acceptance;
        }
        let found = met.keys.iter().position(|other| *other == key);
        let accepted = match found {
            Some(of) => Accepted::Duplicate {
                of: Seq(of as i64 + 1),
                rearmed: false,
                conflict: false,
            },
            None => {
                met.keys.push(key);
                Accepted::New(Seq(met.keys.len() as i64))
            }
        };
        match found {
            Some(_) => met.repeats += 1,
            None => met.new += 1,
        }
        answer.give(Ok(accepted));
        acceptance
    }

    async fn claim(&self, _: &Target, _: usize) -> Result<Claim, InboxError> {
        Err(InboxError::Closed)
    }

    fn settle(&self, _: Settlement) {}

    async fn replay(&self, _: Selection) -> Result<Replayed, InboxError> {
        Err(InboxError::Closed)
    }

    fn set_targets(&self, _: &[Target]) {}

    fn mark(&self, _: ProxyMark) {}

    fn marks(&self) -> Vec<ProxyMark> {
        Vec::new()
    }

    fn hash_key(&self) -> DedupHashKey {
        DedupHashKey([7; 16])
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn health(&self) -> Health {
        Health::Accepting
    }

    async fn failed(&self) -> Arc<str> {
        std::future::pending().await
    }

    async fn close(&self) {}
}
