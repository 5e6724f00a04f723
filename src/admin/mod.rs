//! Health, metrics, replay and reload over HTTP, on a listener of their own.

use std::net::SocketAddr;

use crate::secret::SecretText;

/// What `[admin]` and `[probe]` say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the admin API listens; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Demanded as `Authorization: Bearer ...` for everything but `/livez`, `/readyz` and `/metrics`; must be set off
    /// loopback, and is then demanded for `/metrics` too.
    pub token: Option<SecretText>,
    /// Where only `/livez`, `/readyz` and `/metrics` are served, without a token; `None`: nowhere.
    pub probe: Option<SocketAddr>,
}
