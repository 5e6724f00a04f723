//! Open connections without work, kept per endpoint, the youngest used first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::dial::{Connection, after};
use super::endpoint::Endpoint;

/// Kept connections; bounded in number per endpoint and in time.
#[derive(Debug)]
pub(super) struct Pool {
    idle_max: Duration,
    per_endpoint_max: usize,
    shelves: Mutex<Shelves>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Searched in order: upstreams are config, so there are few.
    shelves: Vec<Shelf>,
    /// A task will look after what is kept.
    swept: bool,
}

/// The connections to one endpoint, the oldest first.
#[derive(Debug)]
struct Shelf {
    tls: bool,
    host: Box<str>,
    port: u16,
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    until: Instant,
}

impl Pool {
    pub(super) fn new(idle_max: Duration, per_endpoint_max: usize) -> Self {
        Self {
            idle_max,
            per_endpoint_max,
            shelves: Mutex::default(),
        }
    }

    /// A kept connection that was open a moment ago.
    pub(super) fn take(&self, endpoint: &Endpoint, now: Instant) -> Option<Connection> {
        loop {
            // Sockets are looked at and closed outside the lock.
            let Idle {
                mut connection,
                until,
            } = self.lock().shelf(endpoint)?.idle.pop()?;
            if until > now && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keeps `connection`, which has worked until `now`, for the next call, or closes it where enough are kept.
    pub(super) fn put(self: &Arc<Self>, endpoint: &Endpoint, connection: Connection, now: Instant) {
        if self.per_endpoint_max == 0 || self.idle_max.is_zero() {
            return;
        }
        let idle = Idle {
            connection,
            until: after(now, self.idle_max),
        };
        let mut shelves = self.lock();
        match shelves.shelf(endpoint) {
            // Dropped after the lock, which was taken later.
            Some(shelf) if shelf.idle.len() >= self.per_endpoint_max => return,
            Some(shelf) => shelf.idle.push(idle),
            None => shelves.shelves.push(Shelf {
                tls: endpoint.tls,
                host: endpoint.host.clone(),
                port: endpoint.port,
                idle: vec![idle],
            }),
        }
        if !std::mem::replace(&mut shelves.swept, true) {
            drop(shelves);
            // One for the whole pool; it ends once nothing is kept, or with the client.
            tokio::spawn(sweep(Arc::downgrade(self), self.idle_max));
        }
    }

    /// Closes what is over its time and says when to look again; `None`: nothing is left.
    fn close_expired(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut expired = Vec::new();
        let mut shelves = self.lock();
        shelves.shelves.retain_mut(|shelf| {
            let young = shelf.idle.partition_point(|idle| idle.until <= now);
            expired.extend(shelf.idle.drain(..young));
            !shelf.idle.is_empty()
        });
        let next = shelves
            .shelves
            .iter()
            .filter_map(|shelf| Some(shelf.idle.first()?.until))
            .min();
        shelves.swept = next.is_some();
        drop(shelves);
        drop(expired);
        next
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    fn shelf(&mut self, endpoint: &Endpoint) -> Option<&mut Shelf> {
        self.shelves.iter_mut().find(|shelf| {
            shelf.port == endpoint.port && shelf.tls == endpoint.tls && shelf.host == endpoint.host
        })
    }
}

/// Closes connections in time even when no call comes: an app that shuts down may wait for them.
async fn sweep(pool: Weak<Pool>, idle_max: Duration) {
    let mut next = after(Instant::now(), idle_max);
    loop {
        tokio::time::sleep_until(next).await;
        let Some(later) = pool.upgrade().and_then(|pool| pool.close_expired()) else {
            return;
        };
        next = later;
    }
}
