//! Keys that senders publish: fetched over HTTPS from where the scheme allows, checked, and kept for a while.
//!
//! What is fetched for a request that nobody has verified yet is bounded: in time, in bytes, in number and in rate. Where from is
//! decided in `provider`, which names only hosts of the sender's own.

pub mod certificate;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use governor::DefaultDirectRateLimiter;
use rustls_pki_types::TrustAnchor;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::provider::coded::jws::KeySet;
use crate::provider::fetched::{Fetched, Need};
use crate::rate::Quota;
use crate::upstream::{Client, Endpoint, Limits, Request};

/// Kept so long before it is fetched again.
const FRESH: Duration = Duration::from_secs(3600);
/// Used so long where it cannot be fetched again.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// After a fetch that failed, or for a key that a fresh set does not have, nothing is fetched from there for so long.
const PAUSE: Duration = Duration::from_secs(30);
/// One fetch, from name resolution to the last byte.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of what is fetched.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Places that are kept.
const PLACES_MAX: usize = 64;
/// Fetches of places that a request names, and that gave nothing yet, together.
const FETCHES: Quota = Quota {
    per_second: 1.0,
    burst: 20,
};

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It could not be fetched.
    #[error("{url} could not be fetched: {reason}")]
    Fetch {
        /// From where.
        url: Box<str>,
        /// What went wrong.
        reason: Box<str>,
    },
    /// It was fetched, and is nothing that can be used.
    #[error("{url} holds no key that can be used: {reason}")]
    Unusable {
        /// From where.
        url: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A fetch from there failed a moment ago.
    #[error("{url} could not be fetched a moment ago; it is tried again soon")]
    Paused {
        /// From where.
        url: Box<str>,
    },
    /// Too much is being fetched.
    #[error("too many keys are being fetched; check who sends requests that name other places")]
    Crowded,
}

/// Gets what stands at a URL.
#[async_trait]
pub trait Fetch: Send + Sync + fmt::Debug {
    /// The body of a 200; no redirect is followed.
    ///
    /// # Errors
    /// In words.
    async fn fetch(&self, url: &str) -> Result<Bytes, String>;
}

/// Over HTTPS, with the system's roots.
#[derive(Debug)]
pub struct Https(Client);

impl Https {
    /// Uses `client`, which must belong to the runtime that fetches.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

#[async_trait]
impl Fetch for Https {
    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        let endpoint: Endpoint = url.parse().map_err(|error| format!("{error}"))?;
        if !endpoint.tls {
            return Err("it is not https".to_owned());
        }
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\nUser-Agent: hooklatch/{}\r\nConnection: close\r\n\r\n",
            endpoint.path,
            endpoint.authority,
            env!("CARGO_PKG_VERSION")
        );
        let request = Request {
            head: head.as_bytes(),
            body: &[],
            is_head: false,
        };
        let limits = Limits {
            connect: PATIENCE,
            tls: PATIENCE,
            write: PATIENCE,
            first_byte: PATIENCE,
            whole: PATIENCE,
            head_bytes_max: 32 * 1024,
            body_bytes_max: ANSWER_BYTES_MAX,
            keep_body: true,
        };
        let answer = self.0.call(&endpoint, request, &limits).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// Keys by the place they are published at.
#[derive(Debug)]
pub struct KeyCache {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    /// The roots that certificates must lead to; read at the first one.
    roots: OnceLock<Vec<TrustAnchor<'static>>>,
    places: Mutex<HashMap<Need, Arc<Place>>>,
    limiter: DefaultDirectRateLimiter,
}

/// One place; whoever needs what is being fetched waits for the same fetch, others do not.
#[derive(Debug, Default)]
struct Place {
    found: Mutex<Option<(Fetched, Instant)>>,
    /// Held while it is fetched: when that failed last.
    failed_at: tokio::sync::Mutex<Option<Instant>>,
}

impl Place {
    /// What was found less than `age_max` ago.
    fn known(&self, age_max: Duration) -> Option<Fetched> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (fetched, at) = found.as_ref()?;
        (at.elapsed() < age_max).then(|| fetched.clone())
    }
}

impl KeyCache {
    /// Makes an empty one; certificates must lead to the system's roots.
    pub fn new(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self {
            fetch,
            clock,
            roots: OnceLock::new(),
            places: Mutex::default(),
            limiter: FETCHES.limiter(),
        }
    }

    /// The same, but certificates must lead to `roots`.
    #[must_use]
    pub fn with_roots(self, roots: Vec<TrustAnchor<'static>>) -> Self {
        Self {
            roots: OnceLock::from(roots),
            ..self
        }
    }

    /// What is published there, from memory while that is fresh.
    ///
    /// # Errors
    /// Where nothing is known and nothing can be fetched.
    pub async fn get(&self, need: &Need) -> Result<Fetched, KeysError> {
        self.read(need, FRESH).await
    }

    /// The same for a key that what is in memory does not have: fetched anew, unless that was done a moment ago.
    ///
    /// # Errors
    /// As [`KeyCache::get`].
    pub async fn renew(&self, need: &Need) -> Result<Fetched, KeysError> {
        self.read(need, PAUSE).await
    }

    /// Visits an address that confirms a subscription.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn visit(&self, url: &str) -> Result<(), KeysError> {
        self.limiter.check().map_err(|_| KeysError::Crowded)?;
        let answer = self.fetch.fetch(url).await;
        answer.map(drop).map_err(|reason| KeysError::Fetch {
            // The rest of it confirms whatever it is shown to.
            url: url.split('?').next().unwrap_or_default().into(),
            reason: reason.into(),
        })
    }

    async fn read(&self, need: &Need, fresh: Duration) -> Result<Fetched, KeysError> {
        let place = self.place(need)?;
        if let Some(known) = place.known(fresh) {
            return Ok(known);
        }
        let mut failed_at = place.failed_at.lock().await;
        if let Some(known) = place.known(fresh) {
            return Ok(known);
        }
        let stale = place.known(STALE);
        if failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return stale.ok_or_else(|| KeysError::Paused {
                url: need.url().into(),
            });
        }
        // What the configuration names, and what has been there before, is nobody's invention.
        let is_invented = need.is_named_by_requests() && place.known(Duration::MAX).is_none();
        if is_invented && self.limiter.check().is_err() {
            return Err(KeysError::Crowded);
        }
        match self.load(need).await {
            Ok(found) => {
                let mut known = place.found.lock().unwrap_or_else(PoisonError::into_inner);
                *known = Some((found.clone(), Instant::now()));
                *failed_at = None;
                Ok(found)
            }
            Err(error) => {
                tracing::warn!(error = %error, "keys of a sender");
                *failed_at = Some(Instant::now());
                stale.ok_or(error)
            }
        }
    }

    async fn load(&self, need: &Need) -> Result<Fetched, KeysError> {
        let url = need.url();
        let bytes = self.fetch.fetch(url).await.map_err(|reason| KeysError::Fetch {
            url: url.into(),
            reason: reason.into(),
        })?;
        let unusable = |reason: String| KeysError::Unusable {
            url: url.into(),
            reason: reason.into(),
        };
        match need {
            Need::KeySet { .. } => {
                let set = KeySet::from_json(&bytes).map_err(|error| unusable(error.to_string()))?;
                Ok(Fetched::KeySet(Arc::new(set)))
            }
            Need::Certificate { names, .. } => {
                let names: Vec<&str> = names.iter().map(|name| &**name).collect();
                let now_ms = self.clock.now().0;
                let spki = certificate::spki(&bytes, self.roots.get_or_init(system_roots), &names, now_ms);
                let spki = spki.map_err(|error| unusable(error.to_string()))?;
                Ok(Fetched::Certificate(spki.into()))
            }
        }
    }

    fn place(&self, need: &Need) -> Result<Arc<Place>, KeysError> {
        let mut places = self.lock();
        if let Some(place) = places.get(need) {
            return Ok(place.clone());
        }
        if places.len() >= PLACES_MAX {
            // Places that gave nothing are made up by somebody.
            places.retain(|_, place| place.known(STALE).is_some() || place.failed_at.try_lock().is_err());
        }
        if places.len() >= PLACES_MAX && need.is_named_by_requests() {
            return Err(KeysError::Crowded);
        }
        Ok(places.entry(need.clone()).or_default().clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Need, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system's roots.
fn system_roots() -> Vec<TrustAnchor<'static>> {
    let found = rustls_native_certs::load_native_certs();
    let anchor = |certificate: &rustls_pki_types::CertificateDer<'static>| {
        webpki::anchor_from_trusted_cert(certificate)
            .ok()
            .map(|anchor| anchor.to_owned())
    };
    found.certs.iter().filter_map(anchor).collect()
}

#[cfg(test)]
mod tests;
