//! A store with an event in every state, and what each of them is.

use std::collections::BTreeMap;

use super::super::*;
use crate::support::sha256;

/// All that an app is told of an event, and its target.
pub(super) type Seen = Vec<String>;

pub(super) fn seen(job: &Job) -> Seen {
    let kept = &job.event;
    let event = &kept.event;
    vec![
        job.target.to_string(),
        kept.key.to_string(),
        format!("{:?}", kept.possible_duplicate_of),
        event.route.to_string(),
        event.provider.to_string(),
        format!("{:?} {:?}", event.event_id, event.event_type),
        format!(
            "{} {} {}",
            event.type_unsigned, event.verified, event.has_idempotency_key
        ),
        format!("{:?} {} {}", event.secret, event.received_at, event.client),
        format!(
            "{} {} {:?} {}",
            event.method, event.path_rest, event.query, event.host
        ),
        String::from_utf8_lossy(&event.headers).into_owned(),
        format!("{} bytes {}", event.body.len(), hex::encode(sha256(&event.body))),
    ]
}

/// The files of a store that nobody has open.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) db: Vec<u8>,
    pub(super) log: Vec<u8>,
    /// The files of larger bodies, by name.
    pub(super) bodies: BTreeMap<String, Vec<u8>>,
}

/// A store with an event in every state, and what each of them is.
pub(super) struct Sample {
    pub(super) files: Files,
    /// By number and upstream.
    pub(super) whole: BTreeMap<(i64, String), Seen>,
    /// What was accepted, to be accepted again.
    pub(super) accepted: Vec<NewEvent>,
    /// Deliveries that wait.
    pub(super) pending: BTreeSet<(i64, String)>,
    /// Deliveries that are dead.
    pub(super) dead: u64,
    pub(super) end: End,
    pub(super) clock: Arc<ManualClock>,
}

/// Where files come and go fast.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")))
        .unwrap()
}

fn read(folder: &Path) -> Files {
    Files {
        db: std::fs::read(folder.join("inbox.db")).unwrap(),
        log: std::fs::read(folder.join("inbox.db-wal")).unwrap_or_default(),
        bodies: bodies_in(folder)
            .map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap()))
            .collect(),
    }
}

fn bodies_in(folder: &Path) -> impl Iterator<Item = String> {
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("bodies-"))
}

/// How the process that filled a store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It closed it.
    Closed,
    /// It crashed: the rows of the last events are in the log alone.
    Logged,
    /// It crashed before: the last events have no rows.
    WithoutRows,
}

impl Sample {
    /// `ballast` bytes more make it a large store.
    pub(super) async fn make(ballast: usize, end: End) -> Self {
        let folder = scratch();
        let clock = Arc::new(ManualClock::new(Timestamp(START)));
        let settings = settings(folder.path());
        let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
        let mut accepted = Vec::new();
        if ballast > 0 {
            let heavy = event(&*inbox, &*clock, "evt_heavy", &"x".repeat(ballast));
            seq_of(inbox.accept(heavy).await.unwrap());
            delivered(&*inbox, &claim_one(&*inbox).await);
        }
        for new in varied(&*inbox, &*clock) {
            if end != End::Closed && accepted.len() == 5 {
                // What came so far goes into the database.
                inbox.close().await;
                return Self::go_on(folder, clock, accepted, end).await;
            }
            seq_of(inbox.accept(new.clone()).await.unwrap());
            accepted.push(new);
        }
        settle_some(&inbox, accepted.len()).await;
        inbox.close().await;
        drop(inbox);
        Self::of(folder, clock, accepted, End::Closed).await
    }

    async fn go_on(folder: TempDir, clock: Arc<ManualClock>, mut accepted: Vec<NewEvent>, end: End) -> Self {
        let settings = settings(folder.path());
        let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
        let sql = Connection::open(settings.path.join("inbox.db")).unwrap();
        let rows = || -> usize {
            let count = "SELECT count(*) FROM event";
            sql.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() as usize
        };
        if end == End::WithoutRows {
            // Nobody writes a row before this ends.
            sql.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        for new in varied(&*inbox, &*clock).into_iter().skip(accepted.len()) {
            // Each a commit of its own.
            seq_of(inbox.accept(new.clone()).await.unwrap());
            accepted.push(new);
            if end == End::Logged {
                until("its row", || rows() == accepted.len()).await;
            }
        }
        // Nobody closed it.
        let copy = scratch();
        std::fs::create_dir(copy.path().join("store")).unwrap();
        let names = ["inbox.db", "inbox.db-wal"].map(str::to_owned);
        for name in names.into_iter().chain(bodies_in(&folder.path().join("store"))) {
            std::fs::copy(
                folder.path().join("store").join(&name),
                copy.path().join("store").join(&name),
            )
            .unwrap();
        }
        drop((sql, inbox));
        Self::of(copy, clock, accepted, end).await
    }

    /// Sees all of its events, in a copy of it.
    async fn of(folder: TempDir, clock: Arc<ManualClock>, accepted: Vec<NewEvent>, end: End) -> Self {
        let files = read(&folder.path().join("store"));
        // Later than what waits for its retry.
        clock.set(Timestamp(START + 60_000));
        let copy = scratch();
        let inbox = open(&files.place(copy.path()), clock.clone(), Telemetry::new()).unwrap();
        let dead = inbox.counts().targets.iter().map(|(_, counts)| counts.dead).sum();
        let mut pending = BTreeSet::new();
        for (_, job) in claim_all(&inbox).await {
            pending.insert((job.event.seq.0, job.target.upstream.as_str().to_owned()));
            inbox.settle(Settlement {
                seq: job.event.seq,
                target: job.target,
                attempts: job.attempts,
                outcome: Outcome::Released,
            });
        }
        let all = Selection {
            events: (1..100).map(Seq).collect(),
            ..Selection::default()
        };
        inbox.replay(all).await.unwrap();
        let whole = claim_all(&inbox).await.into_iter().collect::<Vec<_>>();
        let whole = whole
            .iter()
            .map(|(delivery, job)| (delivery.clone(), seen(job)))
            .collect();
        Self {
            files,
            whole,
            accepted,
            pending,
            dead,
            end,
            clock,
        }
    }
}

/// Leases whatever waits.
async fn claim_all(inbox: &SqliteInbox) -> Vec<((i64, String), Job)> {
    let mut all = Vec::new();
    for (target, counts) in inbox.counts().targets {
        for job in claim_exactly(inbox, &target, usize::try_from(counts.pending).unwrap()).await {
            all.push(((job.event.seq.0, target.upstream.as_str().to_owned()), job));
        }
    }
    all
}

/// Events that differ in all that an event can differ in.
fn varied(inbox: &dyn Inbox, clock: &dyn Clock) -> Vec<NewEvent> {
    let plain = |id: &str, body: &str| event(inbox, clock, id, body);
    let both: Arc<[UpstreamName]> = Arc::from([UpstreamName::new("app"), UpstreamName::new("audit")]);
    let mut two = plain("evt_two", "{\"id\":\"evt_two\"}\r\n");
    two.upstreams = both.clone();
    let mut long = plain("evt_long", &"long ".repeat(1500));
    long.upstreams = both;
    let mut bodied = plain("", "no id");
    std::sync::Arc::make_mut(&mut bodied.event).event_id = None;
    std::sync::Arc::make_mut(&mut bodied.event).event_type = None;
    std::sync::Arc::make_mut(&mut bodied.event).query = None;
    bodied.key_kind = KeyKind::Body;
    bodied.dedup_key = DedupKey::derive(&inbox.hash_key(), KeyKind::Body, &route(), "", b"no id");
    let mut unverified = plain("", "from anybody");
    std::sync::Arc::make_mut(&mut unverified.event).event_id = None;
    std::sync::Arc::make_mut(&mut unverified.event).verified = false;
    unverified.key_kind = KeyKind::Unverified;
    unverified.dedup_key = DedupKey::derive(
        &inbox.hash_key(),
        KeyKind::Unverified,
        &route(),
        "",
        b"from anybody",
    );
    let mut scoped = plain("evt_scoped", "scoped");
    std::sync::Arc::make_mut(&mut scoped.event).path_rest = "eu/one".into();
    std::sync::Arc::make_mut(&mut scoped.event).secret = Some(hooklatch::event::SecretName::new("current"));
    std::sync::Arc::make_mut(&mut scoped.event).has_idempotency_key = true;
    std::sync::Arc::make_mut(&mut scoped.event).type_unsigned = true;
    std::sync::Arc::make_mut(&mut scoped.event).client = "2001:db8::7".parse().unwrap();
    scoped.dedup_key = DedupKey::derive(&inbox.hash_key(), KeyKind::Id, &route(), "eu/one", b"evt_scoped");
    let mut unwanted = plain("evt_unwanted", "x");
    unwanted.upstreams = Arc::from([]);
    vec![
        plain("evt_delivered", "d"),
        plain("evt_dead", "dead"),
        plain("evt_retried", "r"),
        two,
        unwanted,
        long,
        bodied,
        unverified,
        scoped,
        plain("evt_plain", ""),
    ]
}

/// One is delivered, one dead, one waits for its retry, one has one of its two deliveries behind it.
async fn settle_some(inbox: &SqliteInbox, count: usize) {
    for job in claim_exactly(inbox, &app(), count - 1).await {
        match job.event.event.event_id.as_deref() {
            Some("evt_delivered" | "evt_two") => delivered(inbox, &job),
            Some("evt_dead") => dead(inbox, &job),
            Some("evt_retried") => retry(inbox, &job, Duration::ZERO),
            _ => {}
        }
    }
    until("dead", || {
        inbox.counts().targets.iter().any(|(_, counts)| counts.dead == 1)
    })
    .await;
}

impl Files {
    /// Writes them into `folder`; how to open them.
    pub(super) fn place(&self, folder: &Path) -> Settings {
        let settings = settings(folder);
        drop(std::fs::remove_dir_all(&settings.path));
        std::fs::create_dir(&settings.path).unwrap();
        std::fs::write(settings.path.join("inbox.db"), &self.db).unwrap();
        // As the process that ended left it.
        std::fs::write(settings.path.join("inbox.lock"), "1\nmade\n").unwrap();
        if !self.log.is_empty() {
            std::fs::write(settings.path.join("inbox.db-wal"), &self.log).unwrap();
        }
        for (name, bytes) in &self.bodies {
            std::fs::write(settings.path.join(name), bytes).unwrap();
        }
        settings
    }
}
