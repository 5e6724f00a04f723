//! The way out, against a recording app on a real socket and an inbox in memory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hooklatch::clock::{Clock, ManualClock};
use hooklatch::deliver::{Deliverer, LaneSettings, Quota, RetryPlan};
use hooklatch::event::{
    DedupHashKey, Event, EventKey, KeptEvent, ProviderName, RouteName, Seq, Target, Timestamp, UpstreamName,
};
use hooklatch::handoff;
use hooklatch::inbox::{
    Acceptance, Claim, Counts, Health, Inbox, InboxError, Job, NewEvent, Outcome, ProxyMark, Replayed,
    Selection, Settlement,
};
use hooklatch::shutdown::{self, Controller, Phase};
use hooklatch::telemetry::Telemetry;
use hooklatch::upstream::{Client, Endpoint, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for something forbidden to show itself.
const QUIET: Duration = Duration::from_millis(150);
const START: Timestamp = Timestamp(1_790_000_000_000);

// ---------------------------------------------------------------------------------------------------------------
// The inbox in memory.

#[derive(Debug)]
struct MemoryInbox {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    deliveries: Vec<Delivery>,
    settlements: Vec<Settlement>,
    targets: Vec<Target>,
    /// What the next claims answer instead.
    refusals: Vec<InboxError>,
    claims_refused: usize,
    leased_most: usize,
}

#[derive(Debug)]
struct Delivery {
    job: Job,
    due: Instant,
    leased: bool,
    settled: bool,
}

impl MemoryInbox {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: watch::channel(0).0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    fn add(&self, target: &Target, event: KeptEvent) {
        self.change(|state| {
            state.deliveries.push(Delivery {
                job: Job {
                    age_from: event.event.received_at,
                    event: Arc::new(event),
                    target: target.clone(),
                    attempts: 0,
                },
                due: Instant::now(),
                leased: false,
                settled: false,
            });
        });
    }

    /// Events 1 to `count`.
    fn fill(&self, target: &Target, count: i64) {
        (1..=count).for_each(|seq| self.add(target, kept(seq)));
    }

    async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = timeout(PATIENCE, changed.wait_for(|_| reached(&self.state()))).await;
        assert!(waited.is_ok(), "{what}: {:#?}", self.state().settlements);
    }

    async fn settled(&self, count: usize) -> Vec<Settlement> {
        self.until("settlements", |state| state.settlements.len() >= count)
            .await;
        self.state().settlements.clone()
    }

    async fn delivered(&self, count: usize) {
        let taken = |settlement: &&Settlement| matches!(settlement.outcome, Outcome::Delivered { .. });
        self.until("deliveries", |state| {
            state.settlements.iter().filter(taken).count() >= count
        })
        .await;
    }

    fn leased(&self) -> usize {
        self.state().deliveries.iter().filter(|one| one.leased).count()
    }
}

#[async_trait]
impl Inbox for MemoryInbox {
    async fn claim(&self, target: &Target, max: usize) -> Result<Claim, InboxError> {
        assert!(max > 0, "a claim for nothing");
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let now = Instant::now();
            let mut next_due = now + Duration::from_secs(3600);
            {
                let mut state = self.state();
                if !state.refusals.is_empty() {
                    state.claims_refused += 1;
                    let refusal = state.refusals.remove(0);
                    drop(state);
                    self.changed.send_modify(|version| *version += 1);
                    return Err(refusal);
                }
                let present = state.targets.contains(target);
                let mut jobs = Vec::new();
                let waiting = state
                    .deliveries
                    .iter_mut()
                    .filter(|one| present && !one.leased && !one.settled && one.job.target == *target);
                for one in waiting {
                    if one.due > now {
                        next_due = next_due.min(one.due);
                    } else if jobs.len() < max {
                        one.leased = true;
                        jobs.push(one.job.clone());
                    }
                }
                if !jobs.is_empty() {
                    let leased = state.deliveries.iter().filter(|one| one.leased).count();
                    state.leased_most = state.leased_most.max(leased);
                    return Ok(Claim { jobs });
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(next_due) => {}
                changed = changed.changed() => changed.unwrap(),
            }
        }
    }

    fn settle(&self, settlement: Settlement) {
        self.change(|state| {
            let one = state
                .deliveries
                .iter_mut()
                .find(|one| one.job.event.seq == settlement.seq && one.job.target == settlement.target)
                .unwrap();
            assert!(one.leased, "settled without a lease: {settlement:?}");
            one.leased = false;
            one.job.attempts = settlement.attempts;
            match &settlement.outcome {
                Outcome::Retry { wait, .. } => one.due = Instant::now() + *wait,
                Outcome::Released => {}
                Outcome::Delivered { .. } | Outcome::Dead { .. } => one.settled = true,
            }
            if settlement.outcome != Outcome::Released {
                state.settlements.push(settlement);
            }
        });
    }

    fn set_targets(&self, targets: &[Target]) {
        self.change(|state| state.targets = targets.to_vec());
    }

    fn accept(&self, _event: NewEvent) -> Acceptance {
        Acceptance::refused(InboxError::Closed)
    }

    async fn replay(&self, _selection: Selection) -> Result<Replayed, InboxError> {
        Err(InboxError::Closed)
    }

    fn mark(&self, _mark: ProxyMark) {}

    fn marks(&self) -> Vec<ProxyMark> {
        Vec::new()
    }

    fn hash_key(&self) -> DedupHashKey {
        DedupHashKey([0; 16])
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

// ---------------------------------------------------------------------------------------------------------------
// The app.

/// What the app does with a request.
enum Reply {
    Status(u16),
    /// A status and one more header line.
    With(u16, &'static str),
    /// Answers 200 once the gate is opened.
    WhenOpened,
    /// Closes without an answer.
    HangUp,
}

#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    head: String,
    body: Vec<u8>,
}

impl Seen {
    /// The event's number, which is its body.
    fn seq(&self) -> i64 {
        std::str::from_utf8(&self.body).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type Answerer = Box<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;

struct App {
    port: u16,
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
    async fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
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

    fn open(&self) {
        self.desk.gate.send_replace(true);
    }

    fn count(&self) -> usize {
        self.desk.seen.borrow().len()
    }

    async fn seen(&self, count: usize) -> Vec<Seen> {
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
                Reply::HangUp => return,
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

// ---------------------------------------------------------------------------------------------------------------
// What the tests start from.

fn target(name: &str) -> Target {
    Target {
        route: RouteName::new("hooks"),
        upstream: UpstreamName::new(name),
    }
}

/// Event number `seq`; its body is the number.
fn kept(seq: i64) -> KeptEvent {
    let route = RouteName::new("hooks");
    KeptEvent {
        seq: Seq(seq),
        key: EventKey::of_kept(&route, &[1; 16], Seq(seq)),
        possible_duplicate_of: None,
        event: Event {
            route,
            provider: ProviderName::new("quantiv"),
            event_id: None,
            event_type: None,
            type_unsigned: false,
            verified: true,
            secret: None,
            received_at: START,
            method: "POST".into(),
            path_rest: "".into(),
            query: None,
            host: "hooks.example".into(),
            client: [127, 0, 0, 1].into(),
            headers: Bytes::new(),
            has_idempotency_key: false,
            body: Bytes::from(seq.to_string()),
        },
    }
}

fn lane(target: &Target, port: u16) -> LaneSettings {
    LaneSettings {
        target: target.clone(),
        endpoint: Endpoint {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            authority: format!("127.0.0.1:{port}").into(),
            path: "/in".into(),
            query: None,
        },
        handoff: handoff::Settings::default(),
        limits: Limits {
            connect: PATIENCE,
            tls: PATIENCE,
            write: PATIENCE,
            first_byte: PATIENCE,
            whole: PATIENCE,
            head_bytes_max: 16 * 1024,
            body_bytes_max: 64 * 1024,
            keep_body: false,
        },
        concurrency: 8,
        rates: Vec::new(),
        retry: RetryPlan {
            first: Duration::from_millis(5),
            ..RetryPlan::default()
        },
        paused: false,
    }
}

struct Stage {
    inbox: Arc<MemoryInbox>,
    clock: Arc<ManualClock>,
    control: Controller,
    deliverer: Deliverer,
}

fn start(inbox: &Arc<MemoryInbox>, lanes: Vec<LaneSettings>) -> Stage {
    let clock = Arc::new(ManualClock::new(START));
    let (control, stop) = shutdown::channel();
    control.enter(Phase::Running);
    let client = Client::new(Duration::from_secs(5), 64);
    let deliverer = Deliverer::start(
        inbox.clone(),
        client,
        Telemetry::new(),
        clock.clone(),
        lanes,
        stop,
    );
    Stage {
        inbox: inbox.clone(),
        clock,
        control,
        deliverer,
    }
}

impl Stage {
    /// Ends the lanes; nothing may be left leased.
    async fn end(self, within: Duration) -> usize {
        self.control.enter(Phase::Closing);
        let cut = timeout(PATIENCE, self.deliverer.drained(Instant::now() + within))
            .await
            .unwrap();
        assert_eq!(self.inbox.leased(), 0, "leases left behind");
        cut
    }
}

fn retry(wait: Duration, status: Option<u16>, error: &str) -> Outcome {
    Outcome::Retry {
        wait,
        status,
        error: error.into(),
    }
}

const MS_5: Duration = Duration::from_millis(5);

// ---------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_app_gets_the_exact_bytes() {
    let app = App::start(|_, _| Reply::Status(202)).await;
    let inbox = MemoryInbox::new();
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut event = kept(7);
    event.possible_duplicate_of = Some(EventKey::from_stored("0123"));
    event.event.event_id = Some("evt_7".into());
    event.event.headers = Bytes::from_static(b"x-SIG: sha256=AbC\r\nx-sig2:  two  blanks \r\nAccept:*/*\r\n");
    event.event.query = Some("a=%20&b".into());
    event.event.body = body.clone().into();
    let key = event.key.to_string();
    inbox.add(&target("app"), event);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);

    let seen = app.seen(1).await.remove(0);
    assert_eq!(
        seen.head,
        format!(
            "POST /in?a=%20&b HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nx-SIG: sha256=AbC\r\nx-sig2:  two  blanks \r\nAccept:*/*\r\n\
             Content-Length: 300000\r\nHooklatch-Event-Id: evt_7\r\nHooklatch-Route: hooks\r\nHooklatch-Provider: \
             quantiv\r\nHooklatch-Verified: true\r\nHooklatch-Attempt: 1\r\nHooklatch-Received-At: {START}\r\n\
             Hooklatch-Key: {key}\r\nHooklatch-Possible-Duplicate: 0123\r\nIdempotency-Key: {key}\r\n\r\n",
            app.port
        )
    );
    assert!(seen.body == body, "the body changed");
    let settled = inbox.settled(1).await;
    assert_eq!(settled[0].outcome, Outcome::Delivered { status: 202 });
    assert_eq!((settled[0].seq, settled[0].attempts), (Seq(7), 1));
    assert_eq!(stage.end(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_one_with_the_same_key() {
    let app = App::start(|_, before| match before {
        0 => Reply::Status(503),
        1 => Reply::HangUp,
        2 => Reply::With(302, "Location: http://127.0.0.1:1/"),
        _ => Reply::Status(200),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);

    let settled = inbox.settled(4).await;
    assert_eq!(settled[0].outcome, retry(MS_5, Some(503), "status 503"));
    let Outcome::Retry {
        status: None, error, ..
    } = &settled[1].outcome
    else {
        panic!("{settled:?}")
    };
    assert!(error.starts_with("the connection broke"), "{error}");
    assert!(matches!(
        settled[2].outcome,
        Outcome::Retry {
            status: Some(302),
            ..
        }
    ));
    assert_eq!(settled[3].outcome, Outcome::Delivered { status: 200 });
    assert_eq!(
        settled.iter().map(|one| one.attempts).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );

    let seen = app.seen(4).await;
    let first_key = seen[0].header("Hooklatch-Key").unwrap().to_owned();
    for (number, one) in (1..).zip(&seen) {
        assert_eq!(one.header("Hooklatch-Key"), Some(&*first_key));
        assert_eq!(one.header("Idempotency-Key"), Some(&*first_key));
        assert_eq!(one.header("Hooklatch-Attempt"), Some(&*number.to_string()));
    }
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn gone_is_dead_at_once() {
    let app = App::start(|_, _| Reply::With(410, "Retry-After: 1")).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    let settled = inbox.settled(1).await;
    assert!(matches!(
        settled[0].outcome,
        Outcome::Dead {
            status: Some(410),
            ..
        }
    ));
    stage.end(PATIENCE).await;
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_the_longest_wait() {
    let app = App::start(|seen, _| match seen.seq() {
        1 => Reply::With(429, "Retry-After: 1800"),
        2 => Reply::With(503, "retry-after: 86400"),
        // START is 2026-09-21 14:13:20 UTC.
        3 => Reply::With(503, "Retry-After: Mon, 21 Sep 2026 14:18:20 GMT"),
        _ => Reply::With(503, "Retry-After: soon"),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 4);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    let waits: HashMap<Seq, Duration> = inbox
        .settled(4)
        .await
        .into_iter()
        .map(|settlement| match settlement.outcome {
            Outcome::Retry { wait, .. } => (settlement.seq, wait),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits[&Seq(1)], Duration::from_secs(1800));
    assert_eq!(waits[&Seq(2)], Duration::from_secs(3600));
    assert_eq!(waits[&Seq(3)], Duration::from_secs(300));
    assert_eq!(waits[&Seq(4)], MS_5);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn the_last_allowed_attempt_makes_it_dead() {
    let app = App::start(|_, _| Reply::Status(400)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 1);
    let mut settings = lane(&target("app"), app.port);
    settings.retry.attempts_max = Some(3);
    let stage = start(&inbox, vec![settings]);
    let settled = inbox.settled(3).await;
    assert!(matches!(settled[1].outcome, Outcome::Retry { .. }));
    assert_eq!(
        settled[2].outcome,
        Outcome::Dead {
            status: Some(400),
            error: "status 400; gave up: 3 attempts".into()
        }
    );
    stage.end(PATIENCE).await;
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn age_kills_only_after_a_failed_attempt() {
    const AGE_MAX_MS: i64 = 72 * 3600 * 1000;
    let app = App::start(|seen, _| match seen.seq() {
        4 => Reply::Status(200),
        _ => Reply::Status(400),
    })
    .await;
    let inbox = MemoryInbox::new();
    let stage = start(&inbox, Vec::new());
    let settings = || {
        let mut settings = lane(&target("app"), app.port);
        settings.retry.first = Duration::from_secs(3600);
        vec![settings]
    };
    let young = |millis| stage.clock.set(Timestamp(START.0 + millis));
    for (name, seq, millis, dead) in [
        ("the clock went back", 1, -AGE_MAX_MS * 2, false),
        ("a millisecond too young", 2, AGE_MAX_MS - 1, false),
        ("old enough", 3, AGE_MAX_MS, true),
        ("old, but taken", 4, AGE_MAX_MS * 10, false),
    ] {
        young(millis);
        inbox.add(&target("app"), kept(seq));
        stage.deliverer.reconfigure(settings());
        let settled = inbox.settled(seq as usize).await;
        let last = settled.last().unwrap();
        assert_eq!(last.seq, Seq(seq), "{name}");
        assert_eq!(
            matches!(last.outcome, Outcome::Dead { .. }),
            dead,
            "{name}: {last:?}"
        );
    }
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn five_failures_open_the_breaker_and_probes_are_single_and_of_other_events() {
    // The first seven requests fail, and event 1 always does.
    let app = App::start(|seen, before| match before {
        0..7 => Reply::Status(500),
        _ if seen.seq() == 1 => Reply::Status(500),
        _ => Reply::Status(200),
    })
    .await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 20);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    let stage = start(&inbox, vec![settings]);

    app.seen(5).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 5, "attempts while the breaker is open");
    inbox.delivered(19).await;

    let seen = app.seen(8).await;
    let probes: Vec<i64> = seen[5..8].iter().map(Seen::seq).collect();
    assert!(
        seen[5].at - seen[4].at >= Duration::from_millis(500),
        "first probe too early"
    );
    assert!(
        seen[6].at - seen[5].at >= Duration::from_secs(1),
        "second probe too early"
    );
    for probe in &probes {
        let earlier = seen[..8].iter().filter(|one| one.seq() == *probe).count();
        assert_eq!(earlier, 1, "probe with an event tried before: {probes:?}");
    }
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_client_error_does_not_open_the_breaker() {
    let app = App::start(|_, _| Reply::Status(422)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 30);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    settings.retry.attempts_max = Some(1);
    let began = Instant::now();
    let stage = start(&inbox, vec![settings]);
    inbox.settled(30).await;
    // One probe alone would take half a second.
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_refused_connection_opens_it_and_the_app_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 50);
    let stage = start(&inbox, vec![lane(&target("app"), port)]);
    let settled = inbox.settled(5).await;
    assert!(
        settled
            .iter()
            .all(|one| matches!(&one.outcome, Outcome::Retry { status: None, error, .. } if error.starts_with("cannot connect to 127.0.0.1")))
    );
    tokio::time::sleep(QUIET).await;
    // Eight may have been under way when the fifth failed.
    assert!(inbox.settled(5).await.len() <= 8 + 5);
    assert_eq!(inbox.leased(), 0, "leases are not held while the breaker is open");

    let app = App::start(|_, _| Reply::Status(200)).await;
    stage.deliverer.reconfigure(vec![lane(&target("app"), app.port)]);
    inbox.delivered(50).await;
    stage.end(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_is_never_exceeded_and_can_be_changed() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 40);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 3;
    let stage = start(&inbox, vec![settings.clone()]);
    app.seen(3).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 3);
    assert_eq!(inbox.state().leased_most, 3, "leases without a place for them");

    settings.concurrency = 5;
    stage.deliverer.reconfigure(vec![settings.clone()]);
    app.seen(5).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 5);
    app.open();
    inbox.delivered(40).await;
    assert_eq!(app.desk.at_once_most.load(Ordering::SeqCst), 5);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn the_rate_is_kept() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 12);
    let mut settings = lane(&target("app"), app.port);
    settings.rates = vec![
        Quota {
            per_second: 1000.0,
            burst: 100,
        },
        Quota {
            per_second: 20.0,
            burst: 2,
        },
    ];
    let stage = start(&inbox, vec![settings]);
    let seen = app.seen(12).await;
    // The burst, then one every 50 ms; 20 ms are left to the scheduler.
    for (place, one) in (0_u32..).zip(&seen) {
        let earliest =
            (Duration::from_millis(50) * place.saturating_sub(1)).saturating_sub(Duration::from_millis(20));
        assert!(one.at - seen[0].at >= earliest, "request {place} came too early");
    }
    // Two under way and two, a tenth of a second's worth, waiting for the rate.
    let leased_most = inbox.state().leased_most;
    assert!(leased_most <= 4, "{leased_most} leased at once");
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_hanging_upstream_does_not_slow_another() {
    let hanging = App::start(|_, _| Reply::WhenOpened).await;
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("hanging"), 50);
    inbox.fill(&target("app"), 200);
    let stage = start(
        &inbox,
        vec![
            lane(&target("hanging"), hanging.port),
            lane(&target("app"), app.port),
        ],
    );
    hanging.seen(8).await;
    inbox.delivered(200).await;
    assert_eq!(hanging.count(), 8);
    hanging.open();
    inbox.delivered(250).await;
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_new_url_redirects_what_is_pending() {
    let old = App::start(|seen, _| match seen.seq() {
        1 => Reply::WhenOpened,
        _ => Reply::Status(400),
    })
    .await;
    let new = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), old.port);
    settings.retry.first = Duration::from_millis(100);
    let stage = start(&inbox, vec![settings]);
    inbox.settled(9).await;
    stage.deliverer.reconfigure(vec![lane(&target("app"), new.port)]);
    inbox.delivered(9).await;
    let mut moved: Vec<i64> = new.seen(9).await.iter().map(Seen::seq).collect();
    moved.sort_unstable();
    assert_eq!(moved, (2..=10).collect::<Vec<_>>());
    // The attempt that was under way ends where it began.
    old.open();
    inbox.delivered(10).await;
    assert_eq!(new.count(), 9);
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_paused_lane_claims_nothing_until_it_is_resumed() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 3);
    let running = lane(&target("app"), app.port);
    let paused = LaneSettings {
        paused: true,
        ..running.clone()
    };
    let stage = start(&inbox, vec![paused.clone()]);
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.state().leased_most), (0, 0));
    assert!(inbox.state().targets.is_empty(), "a paused target would age");

    stage.deliverer.reconfigure(vec![running.clone()]);
    inbox.delivered(3).await;
    stage.deliverer.reconfigure(vec![paused]);
    inbox.set_targets(&[target("app")]);
    inbox.add(&target("app"), kept(4));
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.leased()), (3, 0));
    stage.deliverer.reconfigure(vec![running]);
    inbox.delivered(4).await;
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_lane_that_goes_lets_its_attempts_end_and_keeps_its_breaker() {
    let app = App::start(|seen, _| match seen.seq() {
        1 => Reply::WhenOpened,
        _ => Reply::Status(500),
    })
    .await;
    let other = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 6);
    let mut settings = lane(&target("app"), app.port);
    settings.retry.first = Duration::from_secs(3600);
    let stage = start(&inbox, vec![settings.clone()]);
    inbox.settled(5).await;
    stage
        .deliverer
        .reconfigure(vec![lane(&target("other"), other.port)]);
    inbox.add(&target("app"), kept(7));
    inbox.add(&target("other"), kept(8));
    inbox.delivered(1).await;
    assert_eq!(inbox.state().targets, [target("other")]);
    // Back at once: the breaker is still open.
    stage.deliverer.reconfigure(vec![settings]);
    tokio::time::sleep(QUIET).await;
    assert_eq!(app.count(), 6);
    app.open();
    inbox.delivered(2).await;
    stage.end(PATIENCE).await;
}

#[tokio::test]
async fn a_drain_lets_attempts_under_way_end_and_claims_no_more() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 4;
    let stage = start(&inbox, vec![settings]);
    app.seen(4).await;
    stage.control.enter(Phase::Draining);
    stage.control.enter(Phase::Closing);
    app.open();
    // Even before anybody waits for it.
    inbox.delivered(4).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(stage.end(PATIENCE).await, 0);
    assert_eq!((app.count(), inbox.state().settlements.len()), (4, 4));
}

#[tokio::test]
async fn a_drain_cuts_off_what_is_late_and_releases_it() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 4;
    let stage = start(&inbox, vec![settings]);
    app.seen(4).await;
    assert_eq!(stage.end(Duration::from_millis(50)).await, 4);
    let state = inbox.state();
    assert!(state.settlements.is_empty());
    assert!(state.deliveries.iter().all(|one| one.job.attempts == 0));
}

#[tokio::test]
async fn a_drain_without_work_is_quick() {
    let inbox = MemoryInbox::new();
    let stage = start(&inbox, vec![lane(&target("app"), 1), lane(&target("other"), 1)]);
    let began = Instant::now();
    assert_eq!(stage.end(PATIENCE).await, 0);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_dropped_deliverer_claims_no_more() {
    let app = App::start(|_, _| Reply::WhenOpened).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 10);
    let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
    app.seen(8).await;
    drop(stage.deliverer);
    app.open();
    inbox.delivered(8).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!((app.count(), inbox.leased()), (8, 0));
}

/// Panics when asked the time, once.
#[derive(Debug)]
struct FaultyClock(AtomicBool);

impl Clock for FaultyClock {
    fn now(&self) -> Timestamp {
        assert!(self.0.swap(true, Ordering::SeqCst), "injected");
        START
    }
}

#[tokio::test]
async fn a_panic_neither_loses_the_lease_nor_ends_the_lane() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    let inbox = MemoryInbox::new();
    inbox.fill(&target("app"), 5);
    let (control, stop) = shutdown::channel();
    control.enter(Phase::Running);
    let mut settings = lane(&target("app"), app.port);
    settings.concurrency = 1;
    let deliverer = Deliverer::start(
        inbox.clone(),
        Client::new(Duration::from_secs(5), 64),
        Telemetry::new(),
        Arc::new(FaultyClock(AtomicBool::new(false))),
        vec![settings],
        stop,
    );
    inbox.delivered(4).await;
    let settled = inbox.state().settlements.clone();
    assert!(
        matches!(&settled[0].outcome, Outcome::Retry { error, .. } if error.contains("panicked")),
        "{settled:?}"
    );
    assert_eq!((settled[0].seq, settled[0].attempts), (Seq(1), 1));
    control.enter(Phase::Closing);
    deliverer.drained(Instant::now() + PATIENCE).await;
    assert_eq!(inbox.leased(), 0);
}

#[tokio::test]
async fn a_failed_or_closing_store_ends_the_lane_and_a_busy_one_does_not() {
    let app = App::start(|_, _| Reply::Status(200)).await;
    for last in [InboxError::Closed, InboxError::Failed("disk".into())] {
        let inbox = MemoryInbox::new();
        inbox.fill(&target("app"), 1);
        inbox.state().refusals = vec![InboxError::Busy, InboxError::Full, last];
        let stage = start(&inbox, vec![lane(&target("app"), app.port)]);
        inbox.until("claims", |state| state.claims_refused == 3).await;
        tokio::time::sleep(QUIET).await;
        assert_eq!((app.count(), inbox.state().claims_refused), (0, 3));
        stage.end(PATIENCE).await;
    }
}
