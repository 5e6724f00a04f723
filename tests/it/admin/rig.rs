//! A served admin API, an inbox that does what the test says, and a client that shows every byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hooklatch::admin::{self, ListedSecret, ReloadRequest, RouteSecrets, Settings, State};
use hooklatch::clock::ManualClock;
use hooklatch::event::{DedupHashKey, ProviderName, RouteName, SecretName, Target, Timestamp, UpstreamName};
use hooklatch::inbox::{
    Acceptance, Claim, Counts, Health, Inbox, InboxError, NewEvent, ProxyMark, Replayed, Selection,
    Settlement, TargetCounts,
};
use hooklatch::secret::SecretText;
use hooklatch::shutdown::{self, Phase};
use hooklatch::telemetry::Telemetry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The time; each route's secrets are counted since a hundred hours before.
pub(super) const NOW: Timestamp = Timestamp(1_795_219_200_000);
pub(super) const HOUR_MILLIS: i64 = 3_600_000;

pub(super) const WAIT_MAX: Duration = Duration::from_secs(20);

/// Remembers what it is asked and answers as it is told; what the admin API never asks, it refuses.
#[derive(Debug)]
pub(super) struct ToldInbox {
    pub(super) health: Mutex<Health>,
    pub(super) replay: Mutex<Result<Replayed, InboxError>>,
    pub(super) selections: Mutex<Vec<Selection>>,
}

#[async_trait]
impl Inbox for ToldInbox {
    fn accept(&self, _event: NewEvent) -> Acceptance {
        Acceptance::refused(InboxError::Closed)
    }

    async fn claim(&self, _target: &Target, _max: usize) -> Result<Claim, InboxError> {
        Err(InboxError::Closed)
    }

    fn settle(&self, _settlement: Settlement) {}

    async fn replay(&self, selection: Selection) -> Result<Replayed, InboxError> {
        self.selections.lock().unwrap().push(selection);
        self.replay.lock().unwrap().clone()
    }

    fn set_targets(&self, _targets: &[Target]) {}

    fn mark(&self, _mark: ProxyMark) {}

    fn marks(&self) -> Vec<ProxyMark> {
        Vec::new()
    }

    fn hash_key(&self) -> DedupHashKey {
        DedupHashKey([0; 16])
    }

    fn counts(&self) -> Counts {
        let target = Target {
            route: RouteName::new("hooks"),
            upstream: UpstreamName::new("app"),
        };
        let counts = TargetCounts {
            pending: 5,
            ..TargetCounts::default()
        };
        Counts {
            targets: vec![(target, counts)],
            ..Counts::default()
        }
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    async fn failed(&self) -> Arc<str> {
        std::future::pending().await
    }

    async fn close(&self) {}
}

/// A served admin API and what stands around it.
pub(super) struct Rig {
    pub(super) admin: SocketAddr,
    pub(super) probe: SocketAddr,
    pub(super) inbox: Arc<ToldInbox>,
    pub(super) telemetry: Telemetry,
    pub(super) clock: Arc<ManualClock>,
    pub(super) controller: shutdown::Controller,
    pub(super) reloads: mpsc::Receiver<ReloadRequest>,
    pub(super) close: oneshot::Sender<()>,
    pub(super) served: JoinHandle<()>,
}

pub(super) async fn rig(token: Option<&str>) -> Rig {
    rig_with(token, true).await
}

pub(super) async fn rig_with(token: Option<&str>, has_inbox: bool) -> Rig {
    let settings = Settings {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        token: token.map(|text| SecretText::new(text.as_bytes().to_vec())),
        probe: Some("127.0.0.1:0".parse().unwrap()),
    };
    let listeners = admin::bind(&settings).await.unwrap();
    let inbox = Arc::new(ToldInbox {
        health: Mutex::new(Health::Accepting),
        replay: Mutex::new(Ok(Replayed {
            deliveries: 3,
            skipped: 1,
        })),
        selections: Mutex::default(),
    });
    let (controller, watch) = shutdown::channel();
    controller.enter(Phase::Running);
    let (reload, reloads) = mpsc::channel(1);
    let (close, closed) = oneshot::channel::<()>();
    let clock = Arc::new(ManualClock::new(NOW));
    let telemetry = Telemetry::with_clock(clock.clone());
    let state = State {
        inbox: has_inbox.then(|| inbox.clone() as Arc<dyn Inbox>),
        telemetry: telemetry.clone(),
        clock: clock.clone(),
        secrets: watch::channel(secrets()).1,
        shutdown: watch,
        reload,
        capture: mpsc::channel(1).0,
    };
    let (admin, probe) = (listeners.admin_addr().unwrap(), listeners.probe_addr().unwrap());
    let served = tokio::spawn(admin::serve(listeners, state, async move { drop(closed.await) }));
    Rig {
        admin,
        probe,
        inbox,
        telemetry,
        clock,
        controller,
        reloads,
        close,
        served,
    }
}

/// One route with a new and an old secret, and one that checks nothing.
fn secrets() -> Vec<RouteSecrets> {
    let listed = |name: &str, until_hours: Option<i64>| ListedSecret {
        name: SecretName::new(name),
        until: until_hours.map(|hours| Timestamp(NOW.0 + hours * HOUR_MILLIS)),
        since: Timestamp(NOW.0 - 100 * HOUR_MILLIS),
    };
    let route = |name: &str, secrets| RouteSecrets {
        route: RouteName::new(name),
        provider: ProviderName::new("quantiv"),
        secrets,
    };
    vec![
        route("hooks", vec![listed("new", None), listed("old", Some(24))]),
        route("open", Vec::new()),
    ]
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }
}

/// Sends `bytes`, reads to the end. The connection must be closed by the other side.
pub(super) async fn send(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut text = String::new();
    timeout(WAIT_MAX, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

pub(super) async fn call(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Answer {
    let authorization = token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
    );
    send(to, request.as_bytes()).await
}

pub(super) async fn get(to: SocketAddr, path: &str) -> Answer {
    call(to, "GET", path, None, "").await
}
