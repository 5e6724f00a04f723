//! The connections that are open, and which of them goes where there are too many.
//!
//! A newcomer may be the genuine sender, so it is let in, and a connection goes that waits for its sender: first those
//! that never showed a genuine event, the longest wait first. Whoever is being served stays.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout_at;

use super::{Standing, lock, network};
use crate::receive::settings::Limits;

/// A connection is left in peace for this long while it waits for its sender: a handshake over a long line takes some
/// round trips. Where nothing else helps, it is not.
const PATIENCE: Duration = Duration::from_secs(1);
/// One address may have so many times its connections while all of them are served or have just come.
const BURST: usize = 4;
/// Connections that are asked to leave at once, so that not each newcomer has to look for one.
const BATCH: usize = 16;
/// Where there is no place yet, so many newcomers wait for one.
const WAITING_MAX: usize = 64;
/// And so long.
const WAIT: Duration = Duration::from_secs(1);

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    registry: Mutex<Registry>,
    epoch: Instant,
    waiting: Semaphore,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    /// In the order in which they came.
    open: BTreeMap<u64, Arc<Place>>,
    /// The same by the address they come from.
    peers: HashMap<IpAddr, BTreeMap<u64, Arc<Place>>>,
    next: u64,
    /// Asked to leave, not counted in `open` any more.
    leaving: usize,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::receive) enum ConnectionLimit {
    All,
    Peer,
}

/// What is known of a connection.
#[derive(Debug)]
pub(in crate::receive) struct Place {
    /// `None` for trusted proxies.
    peer: Option<IpAddr>,
    epoch: Instant,
    /// Requests that wait for us, not for their sender.
    working: AtomicUsize,
    /// Milliseconds since `epoch`, while nothing waits for us.
    waiting_since: AtomicU64,
    /// A genuine event has come over it.
    proven: AtomicBool,
    asked: OnceLock<ConnectionLimit>,
    leave: Notify,
}

/// An open connection, counted until this is dropped.
#[derive(Debug)]
pub(in crate::receive) struct Seat {
    connections: Arc<Connections>,
    place: Arc<Place>,
    id: u64,
}

/// While this lives, a request of the connection waits for us.
#[derive(Debug)]
pub(in crate::receive) struct Working<'a> {
    place: &'a Place,
    ended: Option<Instant>,
}

impl ConnectionLimit {
    /// As in the configuration.
    pub(in crate::receive) fn name(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::Peer => "connections_per_peer",
        }
    }
}

impl Connections {
    pub(super) fn new() -> Self {
        Self::since(Instant::now())
    }

    fn since(epoch: Instant) -> Self {
        Self {
            registry: Mutex::default(),
            epoch,
            waiting: Semaphore::new(WAITING_MAX),
            gone: Notify::new(),
        }
    }

    /// Takes a connection in, if need be once another one has gone; `peer` is `None` for trusted proxies, which have no
    /// limit of their own.
    pub(super) async fn admit(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Seat, ConnectionLimit> {
        let refused = match self.enter(peer, limits) {
            Err(ConnectionLimit::All) => ConnectionLimit::All,
            decided => return decided,
        };
        if WAITING_MAX - self.waiting.available_permits() > spare(limits) {
            return Err(refused);
        }
        let Ok(_waits) = self.waiting.try_acquire() else {
            return Err(refused);
        };
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let mut gone = pin!(self.gone.notified());
            gone.as_mut().enable();
            match self.enter(peer, limits) {
                Err(ConnectionLimit::All) => {}
                decided => return decided,
            }
            if timeout_at(deadline, gone).await.is_err() {
                return Err(refused);
            }
        }
    }

    fn enter(self: &Arc<Self>, peer: Option<IpAddr>, limits: &Limits) -> Result<Seat, ConnectionLimit> {
        let peer = peer.map(network);
        let place = Arc::new(Place::new(peer, self.epoch));
        let now = place.waiting_since.load(Ordering::Relaxed);
        let mut registry = lock(&self.registry);
        if let Some(peer) = peer {
            let held = registry.peers.get(&peer).map_or(0, BTreeMap::len);
            if held >= limits.connections_per_peer {
                // Two for one: it shrinks to its limit again.
                let asked = registry.ask_of(peer, 2, PATIENCE, now);
                let full = held >= limits.connections_per_peer.saturating_mul(BURST);
                if asked == 0 && full && registry.ask_of(peer, 1, Duration::ZERO, now) == 0 {
                    return Err(ConnectionLimit::Peer);
                }
            }
        }
        if registry.open.len() >= limits.connections
            && registry.ask_any(BATCH, PATIENCE, now) == 0
            && registry.ask_any(1, Duration::ZERO, now) == 0
        {
            return Err(ConnectionLimit::All);
        }
        if registry.leaving > spare(limits) + BATCH {
            return Err(ConnectionLimit::All);
        }
        let id = registry.next;
        registry.next += 1;
        registry.open.insert(id, place.clone());
        if let Some(peer) = peer {
            registry.peers.entry(peer).or_default().insert(id, place.clone());
        }
        drop(registry);
        Ok(Seat {
            connections: self.clone(),
            place,
            id,
        })
    }

    /// There may be a place now.
    fn tell_waiting(&self) {
        if self.waiting.available_permits() < WAITING_MAX {
            self.gone.notify_waiters();
        }
    }
}

impl Registry {
    fn ask_of(&mut self, peer: IpAddr, count: usize, patience: Duration, now: u64) -> usize {
        let places = self.peers.get(&peer).into_iter().flatten();
        let chosen = longest_waiting(places, count, patience, now);
        self.ask(&chosen, ConnectionLimit::Peer)
    }

    fn ask_any(&mut self, count: usize, patience: Duration, now: u64) -> usize {
        let chosen = longest_waiting(&self.open, count, patience, now);
        self.ask(&chosen, ConnectionLimit::All)
    }

    /// Asks connections to leave. They are not counted from here on, nor asked again.
    fn ask(&mut self, chosen: &[u64], limit: ConnectionLimit) -> usize {
        for id in chosen {
            if let Some(place) = self.remove(*id) {
                place.ask(limit);
                self.leaving += 1;
            }
        }
        chosen.len()
    }

    fn leave(&mut self, id: u64) {
        if self.remove(id).is_none() {
            self.leaving -= 1;
        }
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Place>> {
        let place = self.open.remove(&id)?;
        if let Some(peer) = place.peer
            && let Some(places) = self.peers.get_mut(&peer)
        {
            places.remove(&id);
            if places.is_empty() {
                self.peers.remove(&peer);
            }
        }
        Some(place)
    }
}

/// Connections above the limit, of one kind: asked to leave, waiting for a place, being refused. They are few where the
/// limit is low, since then it is because of the system's limit of open files.
pub(super) fn spare(limits: &Limits) -> usize {
    limits.connections / 8
}

/// Those that wait for their sender and have done so for `patience`: unproven ones first, then by how long.
fn longest_waiting<'a>(
    places: impl IntoIterator<Item = (&'a u64, &'a Arc<Place>)>,
    count: usize,
    patience: Duration,
    now: u64,
) -> Vec<u64> {
    let latest = now.saturating_sub(patience.as_millis() as u64);
    let mut waiting: Vec<(bool, u64, u64)> = places
        .into_iter()
        .filter(|(_, place)| !place.is_working())
        .map(|(id, place)| {
            let since = place.waiting_since.load(Ordering::Relaxed);
            (place.is_proven(), since, *id)
        })
        .filter(|(_, since, _)| *since <= latest)
        .collect();
    if waiting.len() > count {
        waiting.select_nth_unstable(count);
        waiting.truncate(count);
    }
    waiting.into_iter().map(|(.., id)| id).collect()
}

impl Place {
    fn new(peer: Option<IpAddr>, epoch: Instant) -> Self {
        let place = Self {
            peer,
            epoch,
            working: AtomicUsize::new(0),
            waiting_since: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            asked: OnceLock::new(),
            leave: Notify::new(),
        };
        place.waits(Instant::now());
        place
    }

    /// A request of this connection is ours to deal with until the guard is dropped.
    pub(in crate::receive) fn work(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working {
            place: self,
            ended: None,
        }
    }

    pub(in crate::receive) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }

    /// A genuine event has come over it; `true` the first time.
    pub(in crate::receive) fn prove(&self) -> bool {
        !self.is_proven() && !self.proven.swap(true, Ordering::Relaxed)
    }

    /// A forgery has come over it: whatever came before, it may be anybody's.
    pub(in crate::receive) fn disprove(&self) {
        if self.is_proven() {
            self.proven.store(false, Ordering::Relaxed);
        }
    }

    pub(in crate::receive) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// How it is treated while the next header comes.
    pub(in crate::receive) fn standing(&self) -> Standing {
        match self.is_proven() {
            true => Standing::Known,
            false => Standing::Unknown,
        }
    }

    /// The limit for whose sake the connection was asked to leave.
    pub(in crate::receive) fn asked(&self) -> Option<ConnectionLimit> {
        self.asked.get().copied()
    }

    /// Resolves once the connection is asked to leave.
    pub(in crate::receive) async fn leave(&self) {
        while self.asked().is_none() {
            self.leave.notified().await;
        }
    }

    fn ask(&self, limit: ConnectionLimit) {
        self.asked.get_or_init(|| limit);
        self.leave.notify_one();
    }

    fn waits(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.waiting_since.store(millis, Ordering::Relaxed);
    }
}

impl Working<'_> {
    /// Drops it, of whoever has just looked at the clock.
    pub(in crate::receive) fn end(mut self, now: Instant) {
        self.ended = Some(now);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if self.place.working.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.place.waits(self.ended.unwrap_or_else(Instant::now));
        }
    }
}

impl Seat {
    pub(in crate::receive) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.connections.registry).leave(self.id);
        self.connections.tell_waiting();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
    const B: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)));

    fn limits(connections: usize, connections_per_peer: usize) -> Limits {
        Limits {
            connections,
            connections_per_peer,
            ..crate::receive::sample::limits()
        }
    }

    /// As if it had begun to wait so long before the others.
    fn aged(seat: Seat, by: u64) -> Seat {
        seat.place.waiting_since.store(10_000 - by, Ordering::Relaxed);
        seat
    }

    /// Connections whose clock stands at ten seconds.
    fn connections() -> Arc<Connections> {
        Arc::new(Connections::since(Instant::now() - Duration::from_secs(10)))
    }

    fn enter(connections: &Arc<Connections>, peer: Option<IpAddr>, limits: &Limits) -> Seat {
        let seat = connections.enter(peer, limits).unwrap();
        aged(seat, 0)
    }

    fn asked(seats: &[&Seat]) -> Vec<bool> {
        seats.iter().map(|seat| seat.place.asked().is_some()).collect()
    }

    #[test]
    fn above_all_connections_the_one_that_waited_longest_goes() {
        let (connections, limits) = (connections(), limits(3, 9));
        let first = aged(enter(&connections, A, &limits), 3000);
        let longest = aged(enter(&connections, A, &limits), 5000);
        let served = aged(enter(&connections, B, &limits), 9000);
        let work = served.place.work();
        let newcomer = enter(&connections, B, &limits);
        // All that have waited for long enough go at once.
        assert_eq!(
            asked(&[&first, &longest, &served, &newcomer]),
            [true, true, false, false]
        );
        assert_eq!(longest.place.asked(), Some(ConnectionLimit::All));
        drop(work);
        assert!(!served.place.is_working());
    }

    #[test]
    fn where_none_has_waited_for_long_the_longest_goes_alone() {
        let (connections, limits) = (connections(), limits(3, 9));
        let first = aged(enter(&connections, A, &limits), 10);
        let second = aged(enter(&connections, A, &limits), 20);
        let third = aged(enter(&connections, A, &limits), 15);
        let _newcomer = enter(&connections, None, &limits);
        assert_eq!(asked(&[&first, &second, &third]), [false, true, false]);
    }

    #[test]
    fn one_that_showed_a_genuine_event_goes_last() {
        let (connections, limits) = (connections(), limits(2, 9));
        let genuine = aged(enter(&connections, A, &limits), 9000);
        assert!(genuine.place.prove());
        assert!(!genuine.place.prove(), "only once");
        let silent = aged(enter(&connections, A, &limits), 10);
        let next = aged(enter(&connections, B, &limits), 0);
        assert_eq!(
            asked(&[&genuine, &silent, &next]),
            [true, false, false],
            "the only one with patience spent"
        );
        let genuine = aged(enter(&connections, A, &limits), 500);
        assert!(genuine.place.prove());
        assert_eq!(asked(&[&silent, &next]), [true, false]);
        let _last = enter(&connections, B, &limits);
        assert_eq!(asked(&[&genuine, &next]), [false, true]);
    }

    #[test]
    fn where_all_are_served_a_newcomer_is_refused() {
        let (connections, limits) = (connections(), limits(2, 9));
        let (a, b) = (enter(&connections, A, &limits), enter(&connections, B, &limits));
        let works = (a.place.work(), b.place.work());
        assert_eq!(connections.enter(A, &limits).unwrap_err(), ConnectionLimit::All);
        assert_eq!(
            connections.enter(None, &limits).unwrap_err(),
            ConnectionLimit::All
        );
        drop(works.0);
        assert!(connections.enter(A, &limits).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_for_a_place_but_not_for_long() {
        let (connections, limits) = (connections(), limits(1, 9));
        let first = enter(&connections, A, &limits);
        let work = first.place.work();
        let started = tokio::time::Instant::now();
        assert_eq!(
            connections.admit(B, &limits).await.unwrap_err(),
            ConnectionLimit::All
        );
        assert_eq!(started.elapsed(), WAIT);
        drop(work);
        let newcomer = async {
            let seat = connections.admit(B, &limits).await;
            (seat, started.elapsed())
        };
        let goes = async {
            // It is asked at once, and takes its time.
            first.place.leave().await;
            drop(first);
        };
        let ((seat, _), ()) = tokio::join!(newcomer, goes);
        assert!(seat.is_ok());
    }

    #[test]
    fn above_the_connections_of_one_address_only_its_own_go() {
        let (connections, limits) = (connections(), limits(100, 2));
        let other = aged(enter(&connections, B, &limits), 9000);
        let trusted = aged(enter(&connections, None, &limits), 9000);
        let first = aged(enter(&connections, A, &limits), 2000);
        let second = aged(enter(&connections, A, &limits), 1000);
        let third = enter(&connections, A, &limits);
        assert_eq!(
            asked(&[&first, &second, &third, &other, &trusted]),
            [true, true, false, false, false]
        );
        assert_eq!(first.place.asked(), Some(ConnectionLimit::Peer));
    }

    #[test]
    fn an_address_may_burst_while_its_connections_are_young_but_not_for_ever() {
        let (connections, limits) = (connections(), limits(100, 2));
        let mut seats: Vec<Seat> = (0..8)
            .map(|n| aged(enter(&connections, A, &limits), 8 - n))
            .collect();
        assert!(seats.iter().all(|seat| seat.place.asked().is_none()));
        seats.push(enter(&connections, A, &limits));
        assert!(seats[0].place.asked().is_some(), "the ninth drives out the first");
        assert!(seats[1..].iter().all(|seat| seat.place.asked().is_none()));
        let works: Vec<Working<'_>> = seats.iter().map(|seat| seat.place.work()).collect();
        assert_eq!(connections.enter(A, &limits).unwrap_err(), ConnectionLimit::Peer);
        assert!(connections.enter(B, &limits).is_ok());
        drop(works);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let (connections, limits) = (connections(), limits(100, 1));
        let seats: Vec<Seat> = (0..5)
            .map(|n| {
                aged(
                    enter(
                        &connections,
                        Some(format!("2001:db8::{n}").parse().unwrap()),
                        &limits,
                    ),
                    2000,
                )
            })
            .collect();
        assert_eq!(
            asked(&seats.iter().collect::<Vec<_>>()),
            [true, true, true, true, false]
        );
    }

    #[test]
    fn a_connection_that_has_gone_leaves_nothing_behind() {
        let (connections, limits) = (connections(), limits(2, 2));
        for _ in 0..3 {
            let seats = [A, B, None].map(|peer| aged(enter(&connections, peer, &limits), 5000));
            assert_eq!(lock(&connections.registry).leaving, 2);
            drop(seats);
            let registry = lock(&connections.registry);
            assert_eq!(
                (registry.open.len(), registry.peers.len(), registry.leaving),
                (0, 0, 0)
            );
        }
    }

    #[tokio::test]
    async fn who_is_asked_hears_of_it_before_or_after_it_listens() {
        let place = Place::new(None, Instant::now());
        place.ask(ConnectionLimit::All);
        place.leave().await;
        place.leave().await;
    }
}
