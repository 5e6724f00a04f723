//! The inbox: what a store must keep, dedup, hand out and forget.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails fails its test"
)]

mod bursts;
mod damage;
mod limits;
mod repeats;
mod windows;
mod without_rows;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hooklatch::clock::{Clock, ManualClock};
use hooklatch::event::{
    DedupKey, Event, EventKey, KeyKind, ProviderName, RouteName, Seq, Target, Timestamp, UpstreamName,
};
use hooklatch::inbox::{
    Accepted, Health, Inbox, InboxError, Job, NewEvent, OpenError, Outcome, ProxyMark, Reader, Retention,
    Selection, Settings, Settlement, SqliteInbox, Status, TargetCounts, open,
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
        self.reopen_after(0)
    }

    /// The same, with a stop of so many milliseconds.
    fn reopen_after(self, millis: i64) -> Self {
        let Self {
            folder,
            clock,
            settings,
            inbox,
        } = self;
        drop(inbox);
        clock.advance(millis);
        let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
        Self {
            folder,
            clock,
            settings,
            inbox,
        }
    }

    fn sql(&self) -> Connection {
        Connection::open(self.settings.path.join("inbox.db")).unwrap()
    }

    /// How many events have a row.
    fn rows(&self) -> i64 {
        let count = "SELECT count(*) FROM event";
        self.sql().query_row(count, [], |row| row.get(0)).unwrap()
    }

    /// Writes over what is kept of an event, as damage does: the beginning of its headers, or its body.
    fn alter(&self, seq: Seq, in_body: bool, bytes: &[u8]) {
        let select = "SELECT segment, offset, head_bytes FROM event WHERE seq = ?1";
        let (segment, offset, head_bytes): (i64, i64, i64) = self
            .sql()
            .query_row(select, [seq.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        if segment == 0 {
            // The first event of a set of upstreams.
            let sql = match in_body {
                true => "UPDATE payload SET body = ?2 WHERE seq = ?1",
                false => "UPDATE payload SET headers = ?2 WHERE seq = ?1",
            };
            assert_eq!(self.sql().execute(sql, (seq.0, bytes)).unwrap(), 1);
            return;
        }
        let path = self.settings.path.join(format!("bodies-{segment:010}"));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let at = offset + if in_body { head_bytes } else { 0 };
        file.write_all_at(bytes, at.cast_unsigned()).unwrap();
    }

    fn alter_body(&self, seq: Seq, bytes: &[u8]) {
        self.alter(seq, true, bytes);
    }

    /// What is left of every event is its row.
    fn forget_bodies(&self) -> usize {
        let sql = self.sql();
        sql.execute("DELETE FROM payload", []).unwrap();
        sql.execute("UPDATE event SET segment = 0", []).unwrap()
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
        event: Arc::new(Event {
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
        }),
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

/// Claims until there are `count`: the hand-off follows the answer.
async fn claim_exactly(inbox: &dyn Inbox, target: &Target, count: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    while jobs.len() < count {
        jobs.extend(claim(inbox, target, count - jobs.len()).await);
    }
    jobs
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

async fn deliver(rig: &Rig, count: usize) {
    for _ in 0..count {
        let job = claim_one(&*rig.inbox).await;
        delivered(&*rig.inbox, &job);
    }
    until("all settled", || rig.counts(&app()).pending == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_back_byte_for_byte_fresh_and_from_the_store() {
    let mut rig = Rig::new();
    let mut new = rig.event("evt_1", "{\"id\":\"evt_1\"}\r\n ");
    std::sync::Arc::make_mut(&mut new.event).secret = Some(hooklatch::event::SecretName::new("current"));
    std::sync::Arc::make_mut(&mut new.event).path_rest = "a%2Fb".into();
    std::sync::Arc::make_mut(&mut new.event).has_idempotency_key = true;
    std::sync::Arc::make_mut(&mut new.event).type_unsigned = true;
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
        assert_eq!(job.attempts, 0, "{place}");
        assert!(job.age < PATIENCE, "{place}: {:?}", job.age);
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
    claim_exactly(&*rig.inbox, &app(), 2).await;
    let rig = rig.reopen();
    assert!(matches!(rig.accept("evt_1", "x").await, Accepted::Duplicate { of, .. } if of == first));
    let sql = rig.sql();
    let counted = || -> i64 {
        let select = "SELECT duplicates FROM event WHERE seq = ?1";
        sql.query_row(select, [first.0], |row| row.get(0)).unwrap()
    };
    until("counted", || counted() == 3).await;
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
    let jobs = claim_exactly(&*rig.inbox, &app(), 2).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_of_a_dead_event_sets_it_going_again() {
    let rig = Rig::new();
    let seq = kill(&rig, "evt_1", "x").await;
    let rig = rig.reopen_after(DAY);
    let again = rig.accept("evt_1", "x").await;
    assert_eq!(
        again,
        Accepted::Duplicate {
            of: seq,
            rearmed: true,
            conflict: false
        }
    );
    let rig = rig.reopen();
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, job.attempts), (seq, 0));
    assert!(job.age < PATIENCE, "the age begins anew: {:?}", job.age);
    assert_eq!(
        rig.counts(&app()),
        TargetCounts {
            pending: 1,
            dead: 0,
            ..rig.counts(&app())
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unverified_repeat_sets_nothing_going() {
    let rig = Rig::new();
    let unverified = || {
        let mut new = rig.event("evt_1", "x");
        new.key_kind = KeyKind::Unverified;
        std::sync::Arc::make_mut(&mut new.event).verified = false;
        new
    };
    let seq = seq_of(rig.inbox.accept(unverified()).await.unwrap());
    let job = claim_one(&*rig.inbox).await;
    assert_ne!(
        job.event.key,
        EventKey::of_id(&route(), "evt_1"),
        "anybody could name an id"
    );
    dead(&*rig.inbox, &job);
    until("dead", || rig.counts(&app()).dead == 1).await;
    let again = rig.inbox.accept(unverified()).await.unwrap();
    assert_eq!(
        again,
        Accepted::Duplicate {
            of: seq,
            rearmed: false,
            conflict: false
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_the_same_id_is_kept_and_can_be_replayed() {
    let rig = Rig::new();
    let seq = seq_of(rig.accept("evt_1", "one").await);
    let first = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &first);
    for body in ["two", "two", "three", "four", "five"] {
        let again = rig.accept("evt_1", body).await;
        assert_eq!(
            again,
            Accepted::Duplicate {
                of: seq,
                rearmed: false,
                conflict: true
            }
        );
    }
    let (kept, counted): (i64, i64) = rig
        .sql()
        .query_row(
            "SELECT (SELECT count(*) FROM conflict), conflicts FROM event",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .unwrap();
    assert_eq!(
        (kept, counted),
        (3, 5),
        "at most three bodies are kept, each once"
    );
    let replay = Selection {
        events: vec![seq],
        conflict: Some(2),
        ..Selection::default()
    };
    assert_eq!(rig.inbox.replay(replay).await.unwrap().deliveries, 1);
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(&job.event.event.body[..], b"three");
    assert_ne!(job.event.seq, seq);
    assert_ne!(job.event.key, first.event.key);
    assert_eq!(job.event.possible_duplicate_of, Some(first.event.key.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_replayed_as_it_came_not_as_the_first_copy_did() {
    let rig = Rig::new();
    let mut first = rig.event("evt_1", "one");
    std::sync::Arc::make_mut(&mut first.event).has_idempotency_key = true;
    std::sync::Arc::make_mut(&mut first.event).event_type = Some("lead.created".into());
    std::sync::Arc::make_mut(&mut first.event).query = Some("copy=1".into());
    let seq = seq_of(rig.inbox.accept(first).await.unwrap());
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    let mut other = rig.event("evt_1", "two");
    std::sync::Arc::make_mut(&mut other.event).event_type = Some("lead.updated".into());
    std::sync::Arc::make_mut(&mut other.event).query = Some("copy=2".into());
    std::sync::Arc::make_mut(&mut other.event).client = [192, 0, 2, 7].into();
    rig.inbox.accept(other).await.unwrap();
    let replay = Selection {
        events: vec![seq],
        conflict: Some(1),
        ..Selection::default()
    };
    assert_eq!(rig.inbox.replay(replay).await.unwrap().deliveries, 1);
    let event = claim_one(&*rig.inbox).await.event.event.clone();
    assert!(!event.has_idempotency_key);
    assert_eq!(event.event_type.as_deref(), Some("lead.updated"));
    assert_eq!(event.query.as_deref(), Some("copy=2"));
    assert_eq!(event.client, std::net::IpAddr::from([192, 0, 2, 7]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends_for_settled_events_only() {
    let rig = Rig::new();
    let windowed = |id: &str| {
        let mut new = rig.event(id, "x");
        new.dedup_window = Duration::from_secs(60);
        new
    };
    let settled = seq_of(rig.inbox.accept(windowed("evt_1")).await.unwrap());
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    until("settled", || rig.counts(&app()).pending == 0).await;
    let open = seq_of(rig.inbox.accept(windowed("evt_2")).await.unwrap());
    rig.clock.advance(59_999);
    assert!(
        matches!(rig.inbox.accept(windowed("evt_1")).await.unwrap(), Accepted::Duplicate { of, .. } if of == settled)
    );
    rig.clock.advance(1);
    let next = seq_of(rig.inbox.accept(windowed("evt_1")).await.unwrap());
    assert!(
        matches!(rig.inbox.accept(windowed("evt_1")).await.unwrap(), Accepted::Duplicate { of, .. } if of == next)
    );
    assert!(
        matches!(rig.inbox.accept(windowed("evt_2")).await.unwrap(), Accepted::Duplicate { of, .. } if of == open)
    );
    let jobs = claim_exactly(&*rig.inbox, &app(), 2).await;
    assert_eq!(
        jobs[1].event.possible_duplicate_of,
        Some(EventKey::of_id(&route(), "evt_1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_upstreams_only_the_one_that_is_not_done_gets_it_after_a_restart() {
    let rig = Rig::new();
    let mut new = rig.event("evt_1", "x");
    new.upstreams = Arc::from([UpstreamName::new("a"), UpstreamName::new("b")]);
    let seq = seq_of(rig.inbox.accept(new).await.unwrap());
    let job = claim(&*rig.inbox, &target("a"), 1).await.remove(0);
    delivered(&*rig.inbox, &job);
    until("a is done", || rig.counts(&target("a")).pending == 0).await;
    let rig = rig.reopen();
    assert_eq!(
        (rig.counts(&target("a")).pending, rig.counts(&target("b")).pending),
        (0, 1)
    );
    claim_nothing(&*rig.inbox, &target("a")).await;
    let job = claim(&*rig.inbox, &target("b"), 1).await.remove(0);
    dead(&*rig.inbox, &job);
    until("b is dead", || rig.counts(&target("b")).dead == 1).await;
    // Only the dead one is set going again.
    assert!(matches!(
        rig.accept("evt_1", "x").await,
        Accepted::Duplicate { rearmed: true, .. }
    ));
    claim_nothing(&*rig.inbox, &target("a")).await;
    let job = claim(&*rig.inbox, &target("b"), 1).await.remove(0);
    assert_eq!(job.event.seq, seq);
    delivered(&*rig.inbox, &job);
    until("all is done", || {
        rig.sql()
            .query_row("SELECT state FROM event", [], |r| r.get::<_, i64>(0))
            .is_ok_and(|state| state == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_nobody_wants_is_kept_and_dedups() {
    let rig = Rig::new();
    let unwanted = || NewEvent {
        upstreams: Arc::from([]),
        ..rig.event("evt_1", "x")
    };
    let seq = seq_of(rig.inbox.accept(unwanted()).await.unwrap());
    assert!(
        matches!(rig.inbox.accept(unwanted()).await.unwrap(), Accepted::Duplicate { of, rearmed: false, .. } if of == seq)
    );
    let status: String = rig
        .sql()
        .query_row("SELECT status FROM inbox", [], |r| r.get(0))
        .unwrap();
    assert_eq!(status, "filtered");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_events_than_fit_in_memory_are_all_delivered_once() {
    const EVENTS: usize = 5000;
    let rig = Rig::new();
    let (inbox, clock) = (rig.inbox.clone(), rig.clock.clone());
    let accepting = tokio::spawn(async move {
        for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(250) {
            let answers: Vec<_> = chunk
                .iter()
                .map(|n| inbox.accept(event(&*inbox, &*clock, &format!("evt_{n}"), "x")))
                .collect();
            for answer in answers {
                seq_of(answer.await.unwrap());
            }
        }
    });
    // The first ones pile up beyond the bound; the rest come while they are taken.
    until("a backlog", || rig.counts(&app()).pending > 2000).await;
    let mut seen = BTreeSet::new();
    while seen.len() < EVENTS {
        for job in claim(&*rig.inbox, &app(), 50).await {
            assert!(seen.insert(job.event.seq), "{} came twice", job.event.seq);
            if job.event.seq.0 % 7 == 0 && job.attempts == 0 {
                seen.remove(&job.event.seq);
                retry(&*rig.inbox, &job, Duration::from_millis(5));
            } else {
                delivered(&*rig.inbox, &job);
            }
        }
    }
    accepting.await.unwrap();
    claim_nothing(&*rig.inbox, &app()).await;
    until("all settled", || rig.counts(&app()).pending == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_leaves_is_parked_and_ages_only_after_its_return() {
    let rig = Rig::new();
    rig.inbox.set_targets(&[app()]);
    rig.accept("evt_1", "x").await;
    rig.inbox.set_targets(&[target("other")]);
    rig.accept("evt_2", "x").await;
    claim_nothing(&*rig.inbox, &app()).await;
    assert!(rig.counts(&app()).parked);
    assert_eq!(rig.counts(&app()).pending, 2);
    until("written", || {
        rig.sql()
            .query_row("SELECT parked_since FROM upstream WHERE name = 'app'", [], |r| {
                r.get::<_, Option<i64>>(0)
            })
            .is_ok_and(|since| since.is_some_and(|since| since - START < DAY))
    })
    .await;
    let rig = rig.reopen_after(3 * DAY);
    rig.inbox.set_targets(&[target("other")]);
    claim_nothing(&*rig.inbox, &app()).await;
    rig.inbox.set_targets(&[app()]);
    let jobs = claim_exactly(&*rig.inbox, &app(), 2).await;
    for job in &jobs {
        assert!(job.age < PATIENCE, "{:?}", job.age);
    }
    assert!(!rig.counts(&app()).parked);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_settled_events_after_their_time_and_window() {
    let mut rig = Rig::with(|settings| {
        settings.retention = Retention {
            delivered: Duration::from_secs(3600),
            dead: Duration::from_secs(3 * 3600),
        };
    });
    let mut short = rig.event("evt_short", "x");
    short.dedup_window = Duration::from_secs(60);
    rig.inbox.accept(short).await.unwrap();
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    rig.accept("evt_long", "x").await;
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    let mut gone = rig.event("evt_dead", "x");
    gone.dedup_window = Duration::from_secs(60);
    rig.inbox.accept(gone).await.unwrap();
    let job = claim_one(&*rig.inbox).await;
    dead(&*rig.inbox, &job);
    until("dead", || rig.counts(&app()).dead == 1).await;
    rig.accept("evt_open", "x").await;
    let ids = |rig: &Rig| -> Vec<String> {
        let sql = rig.sql();
        let mut select = sql.prepare("SELECT event_id FROM event ORDER BY seq").unwrap();
        select
            .query_map([], |r| r.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    // A jump of the wall clock alone removes nothing.
    rig.clock.advance(2 * 3600 * 1000);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(ids(&rig).len(), 4);
    rig.clock.advance(-2 * 3600 * 1000);
    rig = rig.reopen_after(2 * 3600 * 1000);
    until("the short one is gone", || {
        ids(&rig) == ["evt_long", "evt_dead", "evt_open"]
    })
    .await;
    let bodies: i64 = rig
        .sql()
        .query_row("SELECT count(*) FROM event WHERE segment <> 0", [], |r| r.get(0))
        .unwrap();
    assert_eq!(bodies, 2, "the body of the one that is only remembered is gone");
    assert!(matches!(
        rig.accept("evt_long", "x").await,
        Accepted::Duplicate { .. }
    ));
    rig = rig.reopen_after(2 * 3600 * 1000);
    until("the dead one is gone", || ids(&rig) == ["evt_long", "evt_open"]).await;
    until("counted", || rig.counts(&app()).dead == 0).await;
    assert_eq!(rig.inbox.counts().events, 2);
    let next = seq_of(rig.accept("evt_next", "x").await);
    assert_eq!(next, Seq(5), "no number is used twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_and_takes_again_once_deliveries_made_room() {
    let rig = Rig::with(|settings| settings.bytes_max = 4 << 20);
    let body = "x".repeat(16 << 10);
    let mut kept = 0;
    let refused = loop {
        match rig.inbox.accept(rig.event(&format!("evt_{kept}"), &body)).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000, "never full");
    };
    assert_eq!(refused, InboxError::Full);
    assert!(kept > 60, "a route may have about half: {kept}");
    // Deliveries go on, and make room.
    deliver(&rig, kept).await;
    for n in 0..400 {
        let id = format!("more_{n}");
        let accepted = timeout(PATIENCE, async {
            loop {
                match rig.inbox.accept(rig.event(&id, &body)).await {
                    Ok(accepted) => break accepted,
                    Err(InboxError::Full) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        seq_of(accepted.await.expect("room after pruning"));
        let job = claim_one(&*rig.inbox).await;
        delivered(&*rig.inbox, &job);
    }
    assert!(
        matches!(rig.accept("evt_0", &body).await, Accepted::Duplicate { .. }),
        "ids outlive their bodies"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_owner() {
    let rig = Rig::new();
    let second = open(&rig.settings, rig.clock.clone(), Telemetry::new());
    match second {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    rig.inbox.close().await;
    assert!(matches!(
        rig.inbox.accept(rig.event("evt_1", "x")).await,
        Err(InboxError::Closed)
    ));
    drop(open(&rig.settings, rig.clock.clone(), Telemetry::new()).expect("free after the close"));
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_and_foreign_files_are_refused_unchanged() {
    let rig = Rig::new();
    rig.inbox.close().await;
    rig.sql()
        .execute("UPDATE meta SET value = 99 WHERE name = 'format'", [])
        .unwrap();
    let newer = open(&rig.settings, rig.clock.clone(), Telemetry::new());
    assert!(
        matches!(newer, Err(OpenError::NewerFormat { found: 99, .. })),
        "{newer:?}"
    );

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = Settings {
        path: folder.path().to_owned(),
        ..rig.settings.clone()
    };
    std::fs::write(
        folder.path().join("inbox.db"),
        "not a database, but long enough to look like one".repeat(100),
    )
    .unwrap();
    let foreign = open(&settings, rig.clock.clone(), Telemetry::new());
    assert!(matches!(foreign, Err(OpenError::Damaged { .. })), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&rig.settings.path), 0o700);
    for file in std::fs::read_dir(&rig.settings.path).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_changed_on_disk_is_dead_and_never_sent() {
    let rig = Rig::new();
    let bad = seq_of(rig.accept("evt_1", "x").await);
    rig.accept("evt_2", "y").await;
    let rig = {
        rig.inbox.close().await;
        rig.alter_body(bad, b"z");
        rig.reopen()
    };
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(&job.event.event.body[..], b"y");
    until("dead", || rig.counts(&app()).dead == 1).await;
    let error: String = rig
        .sql()
        .query_row("SELECT last_error FROM delivery", [], |r| r.get(0))
        .unwrap();
    assert!(error.starts_with("corrupt"), "{error}");
    // The sender's retry brings the right bytes.
    assert!(matches!(
        rig.accept("evt_1", "x").await,
        Accepted::Duplicate { rearmed: true, .. }
    ));
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, &job.event.event.body[..]), (bad, &b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_takes_what_is_selected() {
    let rig = Rig::new();
    let dead_one = kill(&rig, "evt_1", "x").await;
    let done = seq_of(rig.accept("evt_2", "y").await);
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    until("settled", || rig.counts(&app()).pending == 0).await;
    let replay = |selection| rig.inbox.replay(selection);
    let dry = replay(Selection {
        dry_run: true,
        ..Selection::default()
    })
    .await
    .unwrap();
    assert_eq!((dry.deliveries, dry.skipped), (1, 0));
    let other = Selection {
        route: Some(RouteName::new("other")),
        ..Selection::default()
    };
    assert_eq!(replay(other).await.unwrap().deliveries, 0);
    claim_nothing(&*rig.inbox, &app()).await;
    assert_eq!(replay(Selection::default()).await.unwrap().deliveries, 1);
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(job.event.seq, dead_one);
    let both = Selection {
        events: vec![dead_one, done, Seq(999)],
        ..Selection::default()
    };
    let replayed = replay(both).await.unwrap();
    assert_eq!(
        (replayed.deliveries, replayed.skipped),
        (1, 1),
        "the pending one is left alone"
    );
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, job.attempts), (done, 0));
    let all = Selection {
        status: Some(Status::Delivered),
        ..Selection::default()
    };
    assert_eq!(replay(all).await.unwrap().deliveries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_settled_once() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    let job = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &job);
    dead(&*rig.inbox, &job);
    settle(&*rig.inbox, &job, Outcome::Released);
    until("settled", || rig.counts(&app()).pending == 0).await;
    assert_eq!(rig.counts(&app()).dead, 0);
    claim_nothing(&*rig.inbox, &app()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_claim_leases_nothing() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.accept(&format!("evt_{n}"), "x").await;
    }
    let rig = rig.reopen();
    for _ in 0..20 {
        let claiming = rig.inbox.clone();
        let claim = tokio::spawn(async move { claiming.claim(&app(), 20).await.map(|claim| claim.jobs) });
        tokio::task::yield_now().await;
        claim.abort();
        if let Ok(Ok(jobs)) = claim.await {
            // It was quicker.
            jobs.iter()
                .for_each(|job| settle(&*rig.inbox, job, Outcome::Released));
        }
    }
    assert_eq!(claim_exactly(&*rig.inbox, &app(), 20).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_marks_outlive_a_close_until_they_run_out() {
    let rig = Rig::new();
    let mark = |n: u8, until: i64| ProxyMark {
        key: DedupKey([n; 16]),
        at: Timestamp(START),
        until: Timestamp(START + until),
    };
    rig.inbox.mark(mark(1, 1000));
    rig.inbox.mark(mark(2, 5000));
    rig.inbox.close().await;
    rig.clock.advance(2000);
    let rig = rig.reopen();
    assert_eq!(rig.inbox.marks(), [mark(2, 5000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_marks_of_several_rows_and_lives_are_all_remembered() {
    let mut rig = Rig::new();
    let mut all = Vec::new();
    for life in 0..3_u16 {
        for n in 0..700_u16 {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&(u32::from(life) << 16 | u32::from(n)).to_be_bytes());
            all.push(ProxyMark {
                key: DedupKey(key),
                at: Timestamp(START),
                until: Timestamp(START + 60_000),
            });
            rig.inbox.mark(*all.last().unwrap());
        }
        rig.inbox.close().await;
        rig = rig.reopen();
    }
    assert_eq!(rig.inbox.marks(), all);
    let rows: i64 = rig
        .sql()
        .query_row("SELECT count(*) FROM proxy_mark", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2, "a row is filled up before the next is begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_beside_the_running_gateway() {
    use hooklatch::inbox::Reader;
    let rig = Rig::new();
    let dead_one = kill(&rig, "evt_1", "x").await;
    let open_one = seq_of(rig.accept("evt_2", "body of two").await);
    let reader = Reader::open(&rig.settings.path).unwrap();
    let all = reader.list(&Selection::default(), None, 10).unwrap();
    assert_eq!(
        all.iter().map(|line| line.seq).collect::<Vec<_>>(),
        [open_one, dead_one],
        "newest first"
    );
    let dead = Selection {
        status: Some(Status::Dead),
        ..Selection::default()
    };
    let lines = reader.list(&dead, None, 10).unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].status, lines[0].last_error.as_deref()),
        (Status::Dead, Some("410"))
    );
    let detail = reader.event(open_one).unwrap().unwrap();
    assert_eq!(detail.body.as_deref(), Some(&b"body of two"[..]));
    assert_eq!(detail.deliveries[0].status, Status::Pending);
    assert!(reader.event(Seq(99)).unwrap().is_none());
    assert_eq!(
        reader
            .list(&Selection::default(), Some(open_one), 10)
            .unwrap()
            .len(),
        1
    );
    let counts = reader.counts().unwrap();
    assert_eq!((counts.pending, counts.dead, counts.events), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_ends_the_store_for_good() {
    let rig = Rig::new();
    let events = (0..1000).map(|n| rig.inbox.accept(rig.event(&format!("evt_{n}"), "x")));
    for answer in events.collect::<Vec<_>>() {
        answer.await.unwrap();
    }
    rig.inbox.close().await;
    let file = rig.settings.path.join("inbox.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let pages = bytes.len() / 4096;
    assert!(pages > 60, "{pages}");
    // Leaves the first pages, so that it opens.
    for page in 40..pages {
        bytes[page * 4096..page * 4096 + 16].fill(0xff);
    }
    std::fs::write(&file, bytes).unwrap();
    let Rig {
        clock,
        settings,
        inbox,
        folder,
    } = rig;
    drop(inbox);
    let inbox = match open(&settings, clock.clone(), Telemetry::new()) {
        Ok(inbox) => inbox,
        Err(OpenError::Damaged { .. }) => return,
        Err(error) => panic!("{error:?}"),
    };
    let claimed = timeout(PATIENCE, async { while inbox.claim(&app(), 50).await.is_ok() {} });
    claimed.await.expect("the damage is met");
    timeout(PATIENCE, inbox.failed()).await.expect("failed");
    assert!(matches!(inbox.health(), Health::Failed(_)));
    let refused = inbox.accept(event(&*inbox, &*clock, "evt_new", "x")).await;
    assert!(matches!(refused, Err(InboxError::Failed(_))), "{refused:?}");
    timeout(PATIENCE, inbox.close()).await.expect("closes");
    drop(folder);
}
