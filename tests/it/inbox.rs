//! The inbox: what a store must keep, dedup, hand out and forget.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hooklatch::clock::{Clock, ManualClock};
use hooklatch::event::{
    DedupKey, Event, EventKey, KeyKind, ProviderName, RouteName, Seq, Target, Timestamp, UpstreamName,
};
use hooklatch::inbox::{
    Accepted, Health, Inbox, InboxError, Job, NewEvent, OpenError, Outcome, ProxyMark, Retention, Selection,
    Settings, Settlement, SqliteInbox, Status, TargetCounts, open,
};
use hooklatch::telemetry::Telemetry;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::timeout;

const START: i64 = 1_800_000_000_000;
const DAY: i64 = 24 * 3600 * 1000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not come, were it to come.
const MOMENT: Duration = Duration::from_millis(150);

struct Rig {
    folder: TempDir,
    clock: Arc<ManualClock>,
    settings: Settings,
    inbox: Arc<SqliteInbox>,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        // Beside the build, not in /tmp, which may be a tmpfs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let clock = Arc::new(ManualClock::new(Timestamp(START)));
        let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
        Self {
            folder,
            clock,
            settings,
            inbox,
        }
    }

    /// Ends the process's part without closing, and starts again.
    fn reopen(self) -> Self {
        let Self {
            folder,
            clock,
            settings,
            inbox,
        } = self;
        drop(inbox);
        let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
        Self {
            folder,
            clock,
            settings,
            inbox,
        }
    }

    fn sql(&self) -> Connection {
        Connection::open(self.folder.path().join("inbox.db")).unwrap()
    }

    fn event(&self, id: &str, body: &str) -> NewEvent {
        event(&*self.inbox, &*self.clock, id, body)
    }

    async fn accept(&self, id: &str, body: &str) -> Accepted {
        self.inbox.accept(self.event(id, body)).await.unwrap()
    }

    fn counts(&self, target: &Target) -> TargetCounts {
        let counts = self.inbox.counts();
        counts
            .targets
            .into_iter()
            .find(|(other, _)| other == target)
            .map(|(_, counts)| counts)
            .unwrap_or_default()
    }
}

fn settings(folder: &Path) -> Settings {
    Settings {
        path: folder.join("store"),
        // Wherever the tests run.
        allow_ephemeral: true,
        bytes_max: 1 << 30,
        free_bytes_min: 0,
        queue_events_max: 4096,
        queue_bytes_max: 64 << 20,
        accept_wait_max: Duration::from_secs(10),
        retention: Retention {
            delivered: Duration::from_secs(7 * 24 * 3600),
            dead: Duration::from_secs(30 * 24 * 3600),
        },
    }
}

fn route() -> RouteName {
    RouteName::new("hooks")
}

fn target(upstream: &str) -> Target {
    Target {
        route: route(),
        upstream: UpstreamName::new(upstream),
    }
}

fn app() -> Target {
    target("app")
}

fn event(inbox: &dyn Inbox, clock: &dyn Clock, id: &str, body: &str) -> NewEvent {
    NewEvent {
        event: Event {
            route: route(),
            provider: ProviderName::new("quantiv"),
            event_id: Some(id.into()),
            event_type: Some("order.paid".into()),
            type_unsigned: false,
            verified: true,
            secret: None,
            received_at: clock.now(),
            method: "POST".into(),
            path_rest: "".into(),
            query: Some("a=1".into()),
            host: "hooks.example".into(),
            client: IpAddr::from([192, 0, 2, 1]),
            headers: Bytes::from_static(b"Content-Type: application/json\r\nX-Odd:  two  blanks\r\n"),
            has_idempotency_key: false,
            body: Bytes::copy_from_slice(body.as_bytes()),
        },
        dedup_key: DedupKey::derive(&inbox.hash_key(), KeyKind::Id, &route(), "", id.as_bytes()),
        key_kind: KeyKind::Id,
        dedup_window: Duration::from_secs(7 * 24 * 3600),
        upstreams: Arc::from([UpstreamName::new("app")]),
    }
}

fn seq_of(accepted: Accepted) -> Seq {
    match accepted {
        Accepted::New(seq) => seq,
        Accepted::Duplicate { .. } => panic!("not new: {accepted:?}"),
    }
}

async fn claim(inbox: &dyn Inbox, target: &Target, max: usize) -> Vec<Job> {
    timeout(PATIENCE, inbox.claim(target, max))
        .await
        .expect("something to claim")
        .unwrap()
        .jobs
}

async fn claim_one(inbox: &dyn Inbox) -> Job {
    let mut jobs = claim(inbox, &app(), 1).await;
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

async fn claim_nothing(inbox: &dyn Inbox, target: &Target) {
    if let Ok(claimed) = timeout(MOMENT, inbox.claim(target, 10)).await {
        panic!("nothing was to be claimed: {claimed:?}");
    }
}

fn settle(inbox: &dyn Inbox, job: &Job, outcome: Outcome) {
    inbox.settle(Settlement {
        seq: job.event.seq,
        target: job.target.clone(),
        attempts: job.attempts + 1,
        outcome,
    });
}

fn delivered(inbox: &dyn Inbox, job: &Job) {
    settle(inbox, job, Outcome::Delivered { status: 200 });
}

fn retry(inbox: &dyn Inbox, job: &Job, wait: Duration) {
    settle(
        inbox,
        job,
        Outcome::Retry {
            wait,
            status: Some(500),
            error: "500".into(),
        },
    );
}

fn dead(inbox: &dyn Inbox, job: &Job) {
    settle(
        inbox,
        job,
        Outcome::Dead {
            status: Some(410),
            error: "410".into(),
        },
    );
}

/// Waits until `done` says so.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Makes the accepted event dead.
async fn kill(rig: &Rig, id: &str, body: &str) -> Seq {
    let before = rig.counts(&app()).dead;
    let seq = seq_of(rig.accept(id, body).await);
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(job.event.seq, seq);
    dead(&*rig.inbox, &job);
    until("dead", || rig.counts(&app()).dead == before + 1).await;
    seq
}

async fn deliver_all(rig: &Rig, target: &Target) {
    while rig.counts(target).pending > 0 {
        for job in claim(&*rig.inbox, target, 64).await {
            delivered(&*rig.inbox, &job);
        }
        // Settled, not only attempted.
        until("settled", || {
            rig.inbox.health() == Health::Accepting || rig.inbox.health() == Health::Full
        })
        .await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_back_byte_for_byte_fresh_and_from_the_store() {
    let mut rig = Rig::new();
    let mut new = rig.event("evt_1", "{\"id\":\"evt_1\"}\r\n ");
    new.event.secret = Some(hooklatch::event::SecretName::new("current"));
    new.event.path_rest = "a%2Fb".into();
    new.event.has_idempotency_key = true;
    new.event.type_unsigned = true;
    let sent = new.event.clone();
    let seq = seq_of(rig.inbox.accept(new).await.unwrap());
    for place in ["fresh", "from the store"] {
        let job = claim_one(&*rig.inbox).await;
        let got = &job.event.event;
        assert_eq!(job.event.seq, seq, "{place}");
        assert_eq!(job.event.key, EventKey::of_id(&route(), "evt_1"), "{place}");
        assert_eq!((&got.body, &got.headers), (&sent.body, &sent.headers), "{place}");
        assert_eq!(
            (&got.query, &got.path_rest, &got.host),
            (&sent.query, &sent.path_rest, &sent.host),
            "{place}"
        );
        assert_eq!(
            (got.client, got.received_at, &got.secret),
            (sent.client, sent.received_at, &sent.secret),
            "{place}"
        );
        assert_eq!(
            (&got.event_id, &got.event_type),
            (&sent.event_id, &sent.event_type),
            "{place}"
        );
        assert!(
            got.verified && got.has_idempotency_key && got.type_unsigned,
            "{place}"
        );
        assert_eq!((job.attempts, job.age_from), (0, Timestamp(START)), "{place}");
        rig = rig.reopen();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_a_duplicate_of_the_first() {
    let rig = Rig::new();
    let first = seq_of(rig.accept("evt_1", "x").await);
    for _ in 0..2 {
        let again = rig.accept("evt_1", "x").await;
        assert_eq!(
            again,
            Accepted::Duplicate {
                of: first,
                rearmed: false,
                conflict: false
            }
        );
    }
    assert_ne!(seq_of(rig.accept("evt_2", "x").await), first);
    let job = claim(&*rig.inbox, &app(), 10).await;
    assert_eq!(job.len(), 2);
    let rig = rig.reopen();
    assert!(matches!(rig.accept("evt_1", "x").await, Accepted::Duplicate { of, .. } if of == first));
    let counted: i64 = rig
        .sql()
        .query_row("SELECT duplicates FROM event WHERE seq = ?1", [first.0], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!(counted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_copies_at_once_exactly_one_is_new() {
    let rig = Rig::new();
    for round in 0..20 {
        let id = format!("evt_{round}");
        let copies: Vec<_> = (0..64)
            .map(|_| {
                let (inbox, new) = (rig.inbox.clone(), rig.event(&id, "x"));
                tokio::spawn(async move { inbox.accept(new).await.unwrap() })
            })
            .collect();
        let mut new = Vec::new();
        let mut of = BTreeSet::new();
        for copy in copies {
            match copy.await.unwrap() {
                Accepted::New(seq) => new.push(seq),
                Accepted::Duplicate { of: seq, .. } => drop(of.insert(seq)),
            }
        }
        assert_eq!(new.len(), 1);
        assert_eq!(of.into_iter().collect::<Vec<_>>(), new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_delivery_is_gone_and_an_unsettled_one_comes_back_after_a_restart() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    rig.accept("evt_2", "y").await;
    let jobs = claim(&*rig.inbox, &app(), 10).await;
    assert_eq!(jobs.len(), 2);
    claim_nothing(&*rig.inbox, &app()).await;
    delivered(&*rig.inbox, &jobs[0]);
    until("settled", || rig.counts(&app()).pending == 1).await;
    let rig = rig.reopen();
    assert_eq!(rig.counts(&app()).pending, 1);
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(job.event.seq, jobs[1].event.seq);
    claim_nothing(&*rig.inbox, &app()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_and_counts_its_attempts() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    let job = claim_one(&*rig.inbox).await;
    retry(&*rig.inbox, &job, Duration::from_millis(400));
    claim_nothing(&*rig.inbox, &app()).await;
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(job.attempts, 1);
    retry(&*rig.inbox, &job, Duration::from_secs(3600));
    until("written", || {
        rig.sql()
            .query_row("SELECT attempts FROM delivery", [], |r| r.get::<_, i64>(0))
            .is_ok_and(|n| n == 2)
    })
    .await;
    // The wall clock goes back a day: the wait must not become one.
    rig.clock.advance(-DAY);
    let rig = rig.reopen();
    let due: i64 = rig
        .sql()
        .query_row("SELECT due FROM delivery", [], |r| r.get(0))
        .unwrap();
    assert!(
        due <= rig.clock.now().0 + 70 * 60 * 1000,
        "clamped to the longest wait"
    );
    claim_nothing(&*rig.inbox, &app()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_lease_is_due_at_once() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    for _ in 0..3 {
        let job = claim_one(&*rig.inbox).await;
        assert_eq!(job.attempts, 0);
        settle(&*rig.inbox, &job, Outcome::Released);
    }
    let job = claim_one(&*rig.inbox).await;
    retry(&*rig.inbox, &job, Duration::ZERO);
    for _ in 0..3 {
        let job = claim_one(&*rig.inbox).await;
        assert_eq!(job.attempts, 1);
        settle(&*rig.inbox, &job, Outcome::Released);
    }
    assert_eq!(rig.counts(&app()).pending, 1);
}
