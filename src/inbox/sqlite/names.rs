//! Names of routes, upstreams and sets of upstreams, and their numbers in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::lane::Lane;
use super::seal;
use crate::event::{RouteName, Target, UpstreamName};

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) id: i64,
    pub(super) name: RouteName,
    /// Bytes of its open events.
    pub(super) open_bytes: AtomicI64,
    stored: AtomicBool,
}

/// The upstreams that want an event: a set that many events share.
#[derive(Debug)]
pub(super) struct Wants {
    /// The number of the set; the empty set has number 0 and no row.
    pub(super) set: i64,
    pub(super) route: Arc<Route>,
    pub(super) lanes: Vec<Arc<Lane>>,
    /// The seal of all these names, part of the seal of each event.
    pub(super) seal: i64,
    stored: AtomicBool,
}

/// Names that cannot be told apart or do not belong together: what is kept under them could go anywhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum NamesError {
    /// Two rows with one name.
    #[error("two rows have the {0} {1:?}")]
    Twice(&'static str, String),
    /// A row that others name is not there.
    #[error("there is no {0} {1}")]
    Missing(&'static str, i64),
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// All names there are. Numbers are given in memory; rows follow with the first event that uses them.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    routes: HashMap<RouteName, Arc<Route>>,
    routes_by_id: HashMap<i64, Arc<Route>>,
    lanes: HashMap<Target, Arc<Lane>>,
    lanes_by_id: HashMap<i64, Arc<Lane>>,
    sets: HashMap<(i64, Vec<i64>), Arc<Wants>>,
    sets_by_id: HashMap<i64, Arc<Wants>>,
    route_max: i64,
    lane_max: i64,
    set_max: i64,
    /// The targets of the configuration, once they were named.
    active: Option<Vec<Target>>,
    fresh_bytes: Arc<AtomicUsize>,
}

impl Names {
    /// Reads what is stored.
    pub(super) fn load(conn: &Connection) -> Result<Self, NamesError> {
        let mut inner = Inner::default();
        let mut routes = conn.prepare_cached("SELECT id, name FROM route")?;
        let mut rows = routes.query([])?;
        while let Some(row) = rows.next()? {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let name = RouteName::new(name);
            if inner.routes.contains_key(&name) {
                return Err(NamesError::Twice("route", name.to_string()));
            }
            inner.add_route(id, name, true);
        }
        let mut upstreams =
            conn.prepare_cached("SELECT id, route, name, parked_since, resumed_at FROM upstream")?;
        let mut rows = upstreams.query([])?;
        while let Some(row) = rows.next()? {
            let (id, route, name): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(route) = inner.routes_by_id.get(&route).cloned() else {
                return Err(NamesError::Missing("route", route));
            };
            let target = Target {
                route: route.name.clone(),
                upstream: UpstreamName::new(name),
            };
            if inner.lanes.contains_key(&target) {
                return Err(NamesError::Twice("upstream", target.to_string()));
            }
            let lane = inner.add_lane(id, &route, target.upstream, true);
            let parked_since: Option<i64> = row.get(3)?;
            let mut state = lane.lock();
            state.parked = parked_since.is_some();
            state.resumed_at = row.get(4)?;
        }
        let mut sets = conn.prepare_cached("SELECT id, upstream FROM upstream_set ORDER BY id, upstream")?;
        let mut members: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut rows = sets.query([])?;
        while let Some(row) = rows.next()? {
            let (set, upstream): (i64, i64) = (row.get(0)?, row.get(1)?);
            if !inner.lanes_by_id.contains_key(&upstream) {
                return Err(NamesError::Missing("upstream", upstream));
            }
            members.entry(set).or_default().push(upstream);
        }
        for (id, members) in members {
            inner.add_set(id, members, true);
        }
        Ok(Self(Mutex::new(inner)))
    }

    /// The set of `upstreams` of `route`.
    pub(super) fn wants(&self, route: &RouteName, upstreams: &[UpstreamName]) -> Arc<Wants> {
        let mut inner = self.lock();
        let route = inner.route(route);
        let mut members: Vec<i64> = upstreams.iter().map(|name| inner.lane(&route, name).id).collect();
        members.sort_unstable();
        members.dedup();
        if let Some(known) = inner.sets.get(&(route.id, members.clone())) {
            return known.clone();
        }
        if members.is_empty() {
            let none = Arc::new(Wants {
                set: 0,
                seal: Wants::seal_of(None, &route.name),
                route: route.clone(),
                lanes: Vec::new(),
                stored: true.into(),
            });
            inner.sets.insert((route.id, members), none.clone());
            return none;
        }
        let id = inner.set_max + 1;
        inner.add_set(id, members, false)
    }

    /// The set with this number.
    pub(super) fn set(&self, id: i64) -> Option<Arc<Wants>> {
        self.lock().sets_by_id.get(&id).cloned()
    }

    /// The route with this number.
    pub(super) fn route_by_id(&self, id: i64) -> Option<Arc<Route>> {
        self.lock().routes_by_id.get(&id).cloned()
    }

    /// The lane of a target; made if it is new.
    pub(super) fn lane(&self, target: &Target) -> Arc<Lane> {
        let mut inner = self.lock();
        if let Some(lane) = inner.lanes.get(target) {
            return lane.clone();
        }
        let route = inner.route(&target.route);
        inner.lane(&route, &target.upstream)
    }

    /// The lane of a target, if it is known.
    pub(super) fn known_lane(&self, target: &Target) -> Option<Arc<Lane>> {
        self.lock().lanes.get(target).cloned()
    }

    /// The lane with this number.
    pub(super) fn lane_by_id(&self, id: i64) -> Option<Arc<Lane>> {
        self.lock().lanes_by_id.get(&id).cloned()
    }

    /// All lanes.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lock().lanes.values().cloned().collect()
    }

    /// Names the targets of the configuration. Returns the lanes that are parked by it and those that are resumed.
    pub(super) fn set_active(&self, targets: &[Target]) -> (Vec<Arc<Lane>>, Vec<Arc<Lane>>) {
        let mut inner = self.lock();
        inner.active = Some(targets.to_vec());
        for target in targets {
            let route = inner.route(&target.route);
            inner.lane(&route, &target.upstream);
        }
        let (mut parked, mut resumed) = (Vec::new(), Vec::new());
        for (target, lane) in &inner.lanes {
            let was_parked = lane.lock().parked;
            match (was_parked, targets.contains(target)) {
                (false, false) => parked.push(lane.clone()),
                (true, true) => resumed.push(lane.clone()),
                _ => {}
            }
        }
        (parked, resumed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn route(&mut self, name: &RouteName) -> Arc<Route> {
        match self.routes.get(name) {
            Some(route) => route.clone(),
            None => self.add_route(self.route_max + 1, name.clone(), false),
        }
    }

    fn lane(&mut self, route: &Arc<Route>, upstream: &UpstreamName) -> Arc<Lane> {
        let target = Target {
            route: route.name.clone(),
            upstream: upstream.clone(),
        };
        if let Some(lane) = self.lanes.get(&target) {
            return lane.clone();
        }
        let lane = self.add_lane(self.lane_max + 1, route, upstream.clone(), false);
        // An event may still name an upstream that a reload took away.
        lane.lock().parked = self
            .active
            .as_ref()
            .is_some_and(|active| !active.contains(&target));
        lane
    }

    fn add_route(&mut self, id: i64, name: RouteName, stored: bool) -> Arc<Route> {
        self.route_max = self.route_max.max(id);
        let route = Arc::new(Route {
            id,
            name: name.clone(),
            open_bytes: 0.into(),
            stored: stored.into(),
        });
        self.routes.insert(name, route.clone());
        self.routes_by_id.insert(id, route.clone());
        route
    }

    fn add_lane(&mut self, id: i64, route: &Arc<Route>, upstream: UpstreamName, stored: bool) -> Arc<Lane> {
        self.lane_max = self.lane_max.max(id);
        let target = Target {
            route: route.name.clone(),
            upstream,
        };
        let lane = Arc::new(Lane::new(id, target.clone(), route.id, self.fresh_bytes.clone()));
        lane.stored.store(stored, Ordering::Relaxed);
        self.lanes.insert(target, lane.clone());
        self.lanes_by_id.insert(id, lane.clone());
        lane
    }

    fn add_set(&mut self, id: i64, members: Vec<i64>, stored: bool) -> Arc<Wants> {
        self.set_max = self.set_max.max(id);
        let lanes: Vec<_> = members
            .iter()
            .filter_map(|id| self.lanes_by_id.get(id).cloned())
            .collect();
        let route_id = lanes.first().map_or(0, |lane| lane.route);
        let route = match self.routes_by_id.get(&route_id) {
            Some(route) => route.clone(),
            // Not reached: a set has members, and a lane has a route.
            None => self.add_route(route_id, RouteName::new(""), true),
        };
        for lane in &lanes {
            lane.lock().sets.push((id, lanes.len()));
        }
        let upstreams = lanes.iter().map(|lane| lane.target.upstream.as_str());
        let wants = Arc::new(Wants {
            set: id,
            seal: seal::names(route.name.as_str(), upstreams),
            route,
            lanes,
            stored: stored.into(),
        });
        self.sets.insert((route_id, members), wants.clone());
        self.sets_by_id.insert(id, wants.clone());
        wants
    }
}

impl Route {
    fn store(&self, conn: &Connection) -> rusqlite::Result<()> {
        if !self.stored.load(Ordering::Relaxed) {
            conn.prepare_cached("INSERT OR IGNORE INTO route (id, name) VALUES (?1, ?2)")?
                .execute((self.id, self.name.as_str()))?;
        }
        Ok(())
    }
}

impl Wants {
    /// The seal of the names of a set, or of those of a route that nobody listens to.
    pub(super) fn seal_of(set: Option<&Self>, route: &RouteName) -> i64 {
        set.map_or_else(|| seal::names(route.as_str(), []), |wants| wants.seal)
    }

    /// Writes the rows of route, upstreams and set, where they are not yet there.
    pub(super) fn store(&self, conn: &Connection) -> rusqlite::Result<()> {
        self.route.store(conn)?;
        if self.stored.load(Ordering::Relaxed) {
            return Ok(());
        }
        for lane in &self.lanes {
            store_lane(conn, lane)?;
            conn.prepare_cached("INSERT OR IGNORE INTO upstream_set (id, upstream) VALUES (?1, ?2)")?
                .execute((self.set, lane.id))?;
        }
        Ok(())
    }

    /// The rows are there.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed) && self.route.stored.load(Ordering::Relaxed)
    }

    /// The transaction that wrote the rows was committed.
    pub(super) fn committed(&self) {
        self.route.stored.store(true, Ordering::Relaxed);
        for lane in &self.lanes {
            lane.stored.store(true, Ordering::Relaxed);
        }
        self.stored.store(true, Ordering::Relaxed);
    }
}

fn store_lane(conn: &Connection, lane: &Lane) -> rusqlite::Result<()> {
    if !lane.stored.load(Ordering::Relaxed) {
        conn.prepare_cached("INSERT OR IGNORE INTO upstream (id, route, name) VALUES (?1, ?2, ?3)")?
            .execute((lane.id, lane.route, lane.target.upstream.as_str()))?;
    }
    Ok(())
}

/// Writes that `lane` is parked since `parked_since`, or resumed at `resumed_at`.
pub(super) fn store_parking(
    conn: &Connection,
    names: &Names,
    lane: &Lane,
    parked_since: Option<i64>,
    resumed_at: Option<i64>,
) -> rusqlite::Result<()> {
    if let Some(route) = names.route_by_id(lane.route) {
        route.store(conn)?;
    }
    store_lane(conn, lane)?;
    conn.prepare_cached(
        "UPDATE upstream SET parked_since = ?2, resumed_at = coalesce(?3, resumed_at) WHERE id = ?1",
    )?
    .execute((lane.id, parked_since, resumed_at))
    .map(drop)
}
