//! Health, metrics, the use of secrets, replay and reload over HTTP, on a listener of their own.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 while events are taken; 503 at start, during a stop and once the store failed |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /-/secrets` | per route and secret: how often and when last it matched, and whether it can go |
//! | `POST /-/capture?route=NAME` | waits for the secret that a provider sends in a handshake; it goes to its file |
//! | `POST /-/replay` | makes the deliveries of a selection pending again |
//! | `POST /-/reload` | reads the configuration again |
//!
//! The probe listener has the first three only. Mutations are POST alone; errors are `{"error": "..."}`.

mod answer;
mod connection;
mod guard;
mod routes;
mod secrets;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::guard::AdminToken;
pub use self::secrets::{ListedSecret, QUIET_DEFAULT, RouteSecrets};
use crate::clock::Clock;
use crate::event::RouteName;
use crate::inbox::Inbox;
use crate::secret::SecretText;
use crate::shutdown;
use crate::telemetry::Telemetry;

/// What `[admin]` and `[probe]` say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the admin API listens; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Demanded as `Authorization: Bearer ...` for everything but `/livez` and `/readyz`; must be set off loopback.
    pub token: Option<SecretText>,
    /// Where only `/livez`, `/readyz` and `/metrics` are served, without a token; `None`: nowhere.
    pub probe: Option<SocketAddr>,
}

/// Why the listeners could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Anybody who reaches the address could replay and reload.
    #[error("admin listens on {listen}, which is not loopback: set a token, or listen on 127.0.0.1")]
    TokenMissing {
        /// The address.
        listen: SocketAddr,
    },
    /// An empty token is no token.
    #[error("the admin token is empty: put a long random text there")]
    TokenEmpty,
    /// The address is taken or not ours.
    #[error("{what} cannot listen on {listen}: {source}")]
    Listen {
        /// `admin` or `probe`.
        what: &'static str,
        /// The address.
        listen: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
}

/// A wish to read the configuration again; answered with what is wrong with it, if anything.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// A wish to take the secret that a route's provider sends in a handshake. Whoever lets go of it ends the wait.
#[derive(Debug)]
pub struct CaptureRequest {
    /// The route.
    pub route: RouteName,
    /// Told when the secret is in its file, or why it never will be.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// What the answers are made of.
#[derive(Debug, Clone)]
pub struct State {
    /// The store; `None`: the gateway keeps no events.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// The metrics.
    pub telemetry: Telemetry,
    /// Tells which secrets have run out.
    pub clock: Arc<dyn Clock>,
    /// The routes' secrets, as the configuration in force lists them.
    pub secrets: watch::Receiver<Vec<RouteSecrets>>,
    /// How far the process is from its end.
    pub shutdown: shutdown::Watch,
    /// To the one who reloads.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// To the one who captures secrets.
    pub capture: mpsc::Sender<CaptureRequest>,
}

/// Open listeners that nobody serves yet.
#[derive(Debug)]
pub struct Listeners {
    admin: Option<(TcpListener, guard::Door)>,
    probe: Option<TcpListener>,
}

/// Opens the listeners, so that errors show at start and ports are known. Needs a Tokio runtime.
///
/// # Errors
/// A token is missing or empty, or an address cannot be listened on.
pub async fn bind(settings: &Settings) -> Result<Listeners, AdminError> {
    let admin = match settings.listen {
        Some(listen) => {
            let door = guard::Door::new(listen, settings.token.as_ref())?;
            Some((open("admin", listen).await?, door))
        }
        None => None,
    };
    let probe = match settings.probe {
        Some(listen) => Some(open("probe", listen).await?),
        None => None,
    };
    Ok(Listeners { admin, probe })
}

async fn open(what: &'static str, listen: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(listen)
        .await
        .map_err(|source| AdminError::Listen { what, listen, source })
}

impl Listeners {
    /// Where the admin API listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The token that the admin API demands, to change it.
    pub fn token(&self) -> Option<AdminToken> {
        self.admin.as_ref().and_then(|(_, door)| door.token())
    }

    /// Where the probe listens.
    pub fn probe_addr(&self) -> Option<SocketAddr> {
        self.probe
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }
}

/// Serves until `closed` resolves; requests under way then have a second to end. Health is answered in every phase,
/// so `closed` should resolve last of all in a stop.
pub async fn serve(listeners: Listeners, state: State, closed: impl Future<Output = ()> + Send) {
    let (close, closing) = tokio::sync::watch::channel(false);
    let admin = listeners.admin.map(|(listener, door)| {
        connection::serve(listener, routes::admin(state.clone(), door), closing.clone())
    });
    let probe = listeners
        .probe
        .map(|listener| connection::serve(listener, routes::probe(state), closing));
    let closer = async {
        closed.await;
        close.send_replace(true);
    };
    tokio::join!(closer, maybe(admin), maybe(probe));
}

async fn maybe(server: Option<impl Future<Output = ()>>) {
    if let Some(server) = server {
        server.await;
    }
}
