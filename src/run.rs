//! One life of the gateway: open the store, open the doors, serve, reload, drain, end.

mod capture;
mod descriptors;
mod front;
mod rotation;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::front::{Listener, Socket};
use self::rotation::{SecretFiles, listed};
use crate::admin::{self, AdminToken, CaptureRequest, ReloadRequest, RouteSecrets};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TlsFiles};
use crate::deliver::Deliverer;
use crate::event::DedupHashKey;
use crate::inbox::{self, Inbox, OpenError};
use crate::keys::{Https, KeyCache};
use crate::receive::{FrontDoor, Parts, TlsError, TlsIdentity};
use crate::shutdown::{self, Controller, Phase, Watch};
use crate::telemetry::{Telemetry, log};
use crate::upstream::Client;

/// An unused connection to an upstream is kept this long: below the keep-alive of the usual app servers.
const UPSTREAM_IDLE_MAX: Duration = Duration::from_millis(1500);
/// Unused connections kept per upstream.
const UPSTREAM_IDLE_CONNECTIONS_MAX: usize = 128;
/// After the store has failed, requests under way have this long to be told 503.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Counters of the log and the limits are swept this often.
const TICK: Duration = Duration::from_secs(1);
/// `SIGXFSZ`: a file grew past its limit. Its default would kill us; handled, the write fails instead.
const SIGXFSZ: i32 = 25;

/// Reads the configuration again; the error is for people.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send>;

/// Why the gateway could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log could not be set up.
    #[error(transparent)]
    Log(#[from] log::LogError),
    /// No runtime, thread or signal handler.
    #[error("the system refused a thread or a signal handler: {0}")]
    System(std::io::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address for senders cannot be listened on.
    #[error("cannot listen on {listen}: {reason}; is another process using it?")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's words.
        reason: std::io::Error,
    },
    /// The front door did not open.
    #[error("the front door on {0} did not open")]
    NotOpen(SocketAddr),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The admin or probe listener.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// A write or sync failed while running.
    #[error("the store failed, nothing is accepted any more: {0}; check the disk, then start again")]
    StoreFailed(Arc<str>),
}

impl RunError {
    /// 70 when the store failed, now or at the start, 75 when another process holds it, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::StoreFailed(_) => ExitCode::from(70),
            Self::Open(OpenError::Locked { .. }) => ExitCode::from(75),
            Self::Open(error) if error.is_failure() => ExitCode::from(70),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs until it is told to stop, and drains. `ready_file` gets the addresses once events are taken.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: Config, reread: Reread, ready_file: Option<PathBuf>) -> Result<(), RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let telemetry = Telemetry::with_clock(clock.clone());
    telemetry.set_lines_per_second(config.log.lines_per_second);
    let _log = log::init(&telemetry, config.log.format, config.log.level)?;
    log::watch_panics(&telemetry);
    for warning in &config.warnings {
        tracing::warn!(warning, "configuration");
    }
    descriptors::raise();
    let runtime = runtime(config.workers)?;
    let result = runtime.block_on(live(config, reread, ready_file, clock, telemetry));
    if let Err(error) = &result {
        tracing::error!(%error, "stopped");
    }
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    result
}

async fn live(
    config: Config,
    reread: Reread,
    ready_file: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::System)?;
    let (controller, stop) = shutdown::channel();
    let store = match &config.store {
        Some(settings) => Some(inbox::open(settings, clock.clone(), telemetry.clone())?),
        None => None,
    };
    let inbox: Option<Arc<dyn Inbox>> = store.map(|store| store as Arc<dyn Inbox>);
    let admin = admin::bind(&config.admin).await?;
    let admin_addr = admin.admin_addr();
    let probe_addr = admin.probe_addr();
    let admin_token = admin.token();
    let socket = Socket::bind(config.listen)?;
    let listen = socket.address();
    let tls = match &config.tls {
        Some(TlsFiles { cert, key }) => Some(TlsIdentity::load(cert, key)?),
        None => None,
    };
    let door = front_door(
        &config,
        inbox.clone(),
        clock.clone(),
        telemetry.clone(),
        stop.clone(),
    );
    let deliverer = inbox.clone().map(|inbox| {
        let lanes = config.lanes.clone();
        Deliverer::start(
            inbox,
            client(),
            telemetry.clone(),
            clock.clone(),
            lanes,
            stop.clone(),
        )
    });
    let (reload, mut reloads) = mpsc::channel::<ReloadRequest>(1);
    let (capture, mut captures) = mpsc::channel::<CaptureRequest>(1);
    let (secrets, secrets_listed) = watch::channel(listed(&config, &[], &[], clock.now()));
    let state = admin::State {
        inbox: inbox.clone(),
        telemetry: telemetry.clone(),
        clock: clock.clone(),
        secrets: secrets_listed,
        shutdown: stop.clone(),
        reload,
        capture,
    };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let admin = tokio::spawn(admin::serve(admin, state, async { drop(ended.await) }));
    let listener = socket
        .serve(config.workers, tls.clone(), door.clone(), stop)
        .await?;
    controller.enter(Phase::Running);
    say_ready(
        &config,
        listen,
        admin_addr,
        probe_addr,
        inbox.as_deref(),
        ready_file,
    );

    let mut gateway = Gateway {
        config,
        listen_asked: listen,
        reread,
        door,
        deliverer,
        inbox,
        tls,
        secrets,
        admin_token,
        clock,
        telemetry,
    };
    let outcome = gateway.serve(&mut signals, &mut reloads, &mut captures).await;
    // Whoever still asks for a reload is told that it is too late.
    drop(reloads);
    let outcome = match outcome {
        Ok(()) => gateway.drain(&controller, &mut signals, listener).await,
        Err(error) => {
            drop(listener);
            controller.enter(Phase::Closing);
            // The exit code says it; a sender that hears nothing tries again.
            drop(timeout(REFUSAL_TIMEOUT, gateway.door.idle()).await);
            Err(error)
        }
    };
    drop(end);
    // The listener's last answers have a second of their own.
    drop(admin.await);
    outcome
}

/// What runs, and what a reload changes.
struct Gateway {
    config: Config,
    listen_asked: SocketAddr,
    reread: Reread,
    door: Arc<FrontDoor>,
    deliverer: Option<Deliverer>,
    inbox: Option<Arc<dyn Inbox>>,
    tls: Option<Arc<TlsIdentity>>,
    admin_token: Option<AdminToken>,
    /// To the admin API.
    secrets: watch::Sender<Vec<RouteSecrets>>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
}

impl Gateway {
    /// Until the first signal to stop, or until the store fails.
    async fn serve(
        &mut self,
        signals: &mut Signals,
        reloads: &mut mpsc::Receiver<ReloadRequest>,
        captures: &mut mpsc::Receiver<CaptureRequest>,
    ) -> Result<(), RunError> {
        let inbox = self.inbox.clone();
        let failed = async {
            match inbox {
                Some(inbox) => inbox.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(failed);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut files = Box::pin(SecretFiles::new(&self.config.secret_files).changed());
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                reason = &mut failed => return Err(RunError::StoreFailed(reason)),
                _ = signals.hangup.recv() => {
                    // The outcome is in the log.
                    if self.reload().is_ok() {
                        files.set(SecretFiles::new(&self.config.secret_files).changed());
                    }
                }
                Some(request) = reloads.recv() => {
                    let outcome = self.reload();
                    if outcome.is_ok() {
                        files.set(SecretFiles::new(&self.config.secret_files).changed());
                    }
                    // Whoever asked may have gone.
                    drop(request.send(outcome));
                }
                Some(request) = captures.recv() => capture::begin(&self.config, &self.door, request),
                (seen, changed) = &mut files => {
                    self.telemetry.secret_files_changed(&changed);
                    // After a failure what was seen is not tried again until it changes.
                    files.set(match self.reload() {
                        Ok(()) => SecretFiles::new(&self.config.secret_files),
                        Err(_) => seen,
                    }.changed());
                }
                _ = ticks.tick() => {
                    self.telemetry.flush_summaries();
                    self.door.sweep();
                }
            }
        }
    }

    /// Takes the whole new configuration on, or nothing of it.
    fn reload(&mut self) -> Result<(), String> {
        let outcome = self.try_reload();
        let routes = self.config.routes.routes.len();
        let told = outcome.as_ref().map(|()| routes).map_err(String::as_str);
        self.telemetry.reloaded(told);
        outcome
    }

    fn try_reload(&mut self) -> Result<(), String> {
        let config = (self.reread)()?;
        let needs_restart = [
            ("listen", config.listen != self.config.listen),
            ("tls", config.tls.is_some() != self.config.tls.is_some()),
            ("workers", config.workers != self.config.workers),
            ("[store] and [retention]", config.store != self.config.store),
            ("[admin] listen", config.admin.listen != self.config.admin.listen),
            (
                "whether there is an [admin] token",
                config.admin.token.is_some() != self.config.admin.token.is_some(),
            ),
            ("[probe] listen", config.admin.probe != self.config.admin.probe),
            ("[log] format", config.log.format != self.config.log.format),
            ("[log] level", config.log.level != self.config.log.level),
        ];
        let changed: Vec<&str> = needs_restart
            .iter()
            .filter(|(_, changed)| *changed)
            .map(|(key, _)| *key)
            .collect();
        if !changed.is_empty() {
            return Err(format!("a change of {} needs a restart", changed.join(", ")));
        }
        if let (Some(identity), Some(TlsFiles { cert, key })) = (&self.tls, &config.tls) {
            identity.reload(cert, key).map_err(|error| error.to_string())?;
        }
        if let (Some(known), Some(token)) = (&self.admin_token, &config.admin.token) {
            known.change(token).map_err(|error| error.to_string())?;
        }
        for warning in &config.warnings {
            tracing::warn!(warning, "configuration");
        }
        self.telemetry.set_lines_per_second(config.log.lines_per_second);
        // Lanes first: what the new routes accept has somewhere to go.
        if let Some(deliverer) = &self.deliverer {
            deliverer.reconfigure(config.lanes.clone());
        }
        self.door.reload(descriptors::fit(&config), &config.routes);
        let replaced = rotation::replaced(&self.config.secret_files, &config.secret_files);
        let listed = listed(&config, &self.secrets.borrow(), &replaced, self.clock.now());
        for route in &listed {
            let meter = self.telemetry.route(&route.route, &route.provider);
            let secrets = route.secrets.iter().map(|secret| &secret.name);
            secrets
                .filter(|name| rotation::is_among(name, &replaced))
                .for_each(|name| meter.secret_replaced(name));
        }
        self.secrets.send_replace(listed);
        self.config = config;
        Ok(())
    }

    /// Unready, then no new connections, then the end of what is under way; as soon as all is quiet.
    async fn drain(
        mut self,
        controller: &Controller,
        signals: &mut Signals,
        listener: Listener,
    ) -> Result<(), RunError> {
        let deadline = Instant::now() + self.config.drain_timeout;
        tracing::info!(listen = %self.listen_asked, "draining");
        controller.enter(Phase::Draining);
        let delay = self.config.drain_delay.min(self.config.drain_timeout);
        tokio::select! {
            () = sleep(delay) => {}
            // A second signal: no more waiting for balancers.
            () = signals.stop() => {}
        }
        listener.turn_away().await;
        controller.enter(Phase::Closing);
        let requests_ended = tokio::time::timeout_at(deadline, self.door.idle()).await.is_ok();
        let cut_off = match self.deliverer.take() {
            Some(deliverer) => deliverer.drained(deadline).await,
            None => 0,
        };
        if let Some(inbox) = &self.inbox {
            inbox.close().await;
            if let inbox::Health::Failed(reason) = inbox.health() {
                return Err(RunError::StoreFailed(reason));
            }
        }
        self.telemetry.flush_summaries();
        tracing::info!(requests_ended, attempts_cut_off = cut_off, "stopped");
        Ok(())
    }
}

/// The folder of the store in which refused requests are kept.
pub(crate) const QUARANTINE: &str = "quarantine";

fn front_door(
    config: &Config,
    inbox: Option<Arc<dyn Inbox>>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    stop: Watch,
) -> Arc<FrontDoor> {
    let hash_key = inbox
        .as_ref()
        .map_or_else(random_hash_key, |inbox| inbox.hash_key());
    FrontDoor::new(Parts {
        limits: descriptors::fit(config),
        routes: config.routes.clone(),
        marks: inbox.as_ref().map(|inbox| inbox.marks()).unwrap_or_default(),
        inbox,
        hash_key,
        client: client(),
        quarantine: config.store.as_ref().map(|store| store.path.join(QUARANTINE)),
        keys: Arc::new(KeyCache::new(Arc::new(Https::new(client())), clock.clone())),
        telemetry,
        clock,
        stop,
    })
}

/// Without a store the keys live as long as the process, and so may what keys their hash.
fn random_hash_key() -> DedupHashKey {
    let mut key = [0; 16];
    // A machine without randomness still deduplicates; only the hash is guessable then.
    getrandom::fill(&mut key).unwrap_or_default();
    DedupHashKey(key)
}

fn client() -> Client {
    Client::new(UPSTREAM_IDLE_MAX, UPSTREAM_IDLE_CONNECTIONS_MAX)
}

fn runtime(workers: usize) -> Result<Runtime, RunError> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("deliver")
        .enable_all()
        .build()
        .map_err(RunError::System)
}

fn say_ready(
    config: &Config,
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    probe: Option<SocketAddr>,
    inbox: Option<&dyn Inbox>,
    ready_file: Option<PathBuf>,
) {
    let show =
        |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let pending: u64 = inbox.map_or(0, |inbox| {
        inbox
            .counts()
            .targets
            .iter()
            .map(|(_, counts)| counts.pending)
            .sum()
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %listen,
        admin = show(admin),
        probe = show(probe),
        routes = config.routes.routes.len(),
        pending,
        "ready"
    );
    if let Some(path) = ready_file {
        let text = serde_json::json!({
            "listen": listen.to_string(),
            "admin": admin.map(|address| address.to_string()),
            "probe": probe.map(|address| address.to_string()),
        });
        let written = write_whole(&path, text.to_string().as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "cannot write the ready file");
        }
    }
}

/// Whoever waits for the file never sees half of it.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(part, path)
}

/// The signals we act on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    _file_size: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
