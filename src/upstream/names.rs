//! Host names to addresses.
//!
//! The system's resolver holds a thread until it gives up, and cannot be interrupted. A name server that does not answer
//! must not use up the threads that all share: calls for the same name share its look-ups, of which few run at once.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Look-ups of one name at once.
const LOOKUPS_PER_NAME_MAX: usize = 4;
/// A look-up that has taken longer may be one that was asked in vain: the next call begins another.
const JOIN_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of one name that are used.
const ADDRESSES_MAX: usize = 8;

/// At least one address, or why there is none.
pub(super) type Found = Result<Arc<[IpAddr]>, Arc<str>>;

/// The look-ups under way. Nothing is remembered beyond them.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<Box<str>, Lookups>>);

struct Lookups {
    running: usize,
    /// When the youngest of them began.
    began: Instant,
    youngest: watch::Receiver<Option<Found>>,
}

/// Counts a look-up as long as it lives.
struct Running {
    names: Arc<Names>,
    host: Box<str>,
}

impl Names {
    /// The addresses of `host`. Dropping the future leaves the look-up to the others that wait for it.
    pub(super) async fn addresses(self: &Arc<Self>, host: &str) -> Found {
        let mut lookup = self.lookup(host, system);
        let found = lookup.wait_for(Option::is_some).await;
        // It ends without a word only with the runtime.
        found
            .ok()
            .and_then(|found| found.clone())
            .unwrap_or_else(|| Err("the look-up was cut off".into()))
    }

    /// Joins a look-up of `host`, or begins one.
    fn lookup(
        self: &Arc<Self>,
        host: &str,
        resolve: impl FnOnce(&str) -> Found + Send + 'static,
    ) -> watch::Receiver<Option<Found>> {
        let now = Instant::now();
        let mut names = self.lock();
        let running = match names.get(host) {
            Some(Lookups {
                running,
                began,
                youngest,
            }) if *running >= LOOKUPS_PER_NAME_MAX || now < *began + JOIN_WITHIN => return youngest.clone(),
            Some(lookups) => lookups.running,
            None => 0,
        };
        let (done, youngest) = watch::channel(None);
        names.insert(
            host.into(),
            Lookups {
                running: running + 1,
                began: now,
                youngest: youngest.clone(),
            },
        );
        drop(names);
        let running = Running {
            names: self.clone(),
            host: host.into(),
        };
        tokio::task::spawn_blocking(move || {
            let found = resolve(&running.host);
            drop(running);
            done.send_replace(Some(found));
        });
        youngest
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Lookups>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        if let Some(lookups) = names.get_mut(&self.host) {
            lookups.running -= 1;
            if lookups.running == 0 {
                names.remove(&self.host);
            }
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("looked_up", &self.lock().len())
            .finish()
    }
}

fn system(host: &str) -> Found {
    let found = (host, 0).to_socket_addrs();
    let addresses: Arc<[IpAddr]> = found
        .map_err(|error| error.to_string())?
        .map(|address| address.ip())
        .take(ADDRESSES_MAX)
        .collect();
    if addresses.is_empty() {
        return Err("it has no address".into());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn found() -> Found {
        Ok(Arc::new([IpAddr::from([127, 0, 0, 1])]))
    }

    async fn end(mut lookup: watch::Receiver<Option<Found>>) -> Found {
        lookup.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    #[tokio::test]
    async fn calls_for_one_name_share_a_look_up() {
        let names = Arc::new(Names::default());
        let (open, gate) = mpsc::sync_channel::<()>(0);
        let first = names.lookup("app", move |_| {
            gate.recv().ok();
            found()
        });
        let others: Vec<_> = (0..100)
            .map(|_| names.lookup("app", |_| unreachable!()))
            .collect();
        // Another name does not wait for it.
        assert_eq!(end(names.lookup("other", |_| found())).await, found());
        drop(open);
        for lookup in [first].into_iter().chain(others) {
            assert_eq!(end(lookup).await, found());
        }
        // Nothing is remembered.
        assert!(names.lock().is_empty());
        assert!(end(names.lookup("app", |_| Err("gone".into()))).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_in_vain_are_followed_by_few_others() {
        let names = Arc::new(Names::default());
        let (open, gate) = mpsc::sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        let mut lookups = Vec::new();
        for _ in 0..20 {
            let gate = gate.clone();
            lookups.push(names.lookup("app", move |_| {
                gate.lock().unwrap().recv().ok();
                found()
            }));
            tokio::time::advance(JOIN_WITHIN).await;
        }
        assert_eq!(names.lock()["app"].running, LOOKUPS_PER_NAME_MAX);
        drop(open);
        for lookup in lookups {
            assert_eq!(end(lookup).await, found());
        }
    }
}
