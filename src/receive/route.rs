//! From a path to its route, and what the route says before a byte of the body is read.

use std::collections::HashMap;
use std::sync::Arc;

use super::answer::{Answer, Refusal};
use super::head::{Head, Origin};
use super::pace::Pace;
use super::settings::{Route, RoutePath, Routes, Verify};
use crate::telemetry::{RouteMeter, Telemetry};

/// A route with what belongs to it at run time.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: Arc<Route>,
    pub(super) meter: RouteMeter,
    pub(super) pace: Option<Arc<Pace>>,
    pub(super) accepted: Answer,
    pub(super) duplicate: Answer,
    pub(super) missing_signature: Answer,
}

/// The routes of one configuration; a request keeps the table it began with.
#[derive(Debug)]
pub(super) struct Table {
    exact: HashMap<Box<str>, Arc<Entry>>,
    /// Longest prefix first.
    below: Vec<(Box<str>, Arc<Entry>)>,
    pub(super) trusted_proxies: Vec<ipnet::IpNet>,
}

/// A route and what its `/*` stood for.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) entry: Arc<Entry>,
    pub(super) path_rest: Box<str>,
}

impl Table {
    /// Builds the table; rate limiters of `old` live on under their route's name.
    pub(super) fn new(routes: &Routes, telemetry: &Telemetry, old: Option<&Table>) -> Self {
        let mut exact = HashMap::new();
        let mut below = Vec::new();
        for route in &routes.routes {
            let pace = route.reject_above.map(|quota| {
                old.and_then(|old| old.entry_named(route.name.as_str()))
                    .and_then(|entry| entry.pace.clone())
                    .filter(|pace| pace.quota() == quota)
                    .unwrap_or_else(|| Arc::new(Pace::new(quota)))
            });
            let meter = telemetry.route(&route.name, &route.provider);
            if let Verify::Signature { keys, .. } = &route.verify {
                // One that never matches shall show as such.
                keys.iter().for_each(|key| meter.secret_known(&key.name));
            }
            let entry = Arc::new(Entry {
                meter,
                pace,
                accepted: Answer::fixed(&route.accepted),
                duplicate: Answer::fixed(&route.duplicate),
                missing_signature: Answer::fixed(&route.missing_signature),
                route: route.clone(),
            });
            match &route.path {
                RoutePath::Exact(path) => drop(exact.insert(path.clone(), entry)),
                RoutePath::Below(prefix) => below.push((prefix.clone(), entry)),
            }
        }
        below.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self {
            exact,
            below,
            trusted_proxies: routes.trusted_proxies.clone(),
        }
    }

    fn entry_named(&self, name: &str) -> Option<&Arc<Entry>> {
        self.exact
            .values()
            .chain(self.below.iter().map(|(_, entry)| entry))
            .find(|entry| entry.route.name.as_str() == name)
    }

    /// The route of a path, matched raw.
    pub(super) fn find(&self, path: &str) -> Result<Match, Refusal> {
        if let Some(entry) = self.exact.get(path) {
            return Ok(Match {
                entry: entry.clone(),
                path_rest: "".into(),
            });
        }
        let (entry, rest) = self
            .below
            .iter()
            .find_map(|(prefix, entry)| path.strip_prefix(&**prefix).map(|rest| (entry, rest)))
            .ok_or(Refusal::UnknownRoute)?;
        if !is_plain(rest) {
            return Err(Refusal::UnknownRoute);
        }
        Ok(Match {
            entry: entry.clone(),
            path_rest: rest.into(),
        })
    }
}

/// Nothing in the rest of a path may be read as another path by the app: no dot segments, no empty ones, no encoded
/// dots or slashes, no backslashes.
fn is_plain(rest: &str) -> bool {
    let lower = rest.to_ascii_lowercase();
    !rest.contains('\\')
        && !["%2e", "%2f", "%5c", "%00"]
            .iter()
            .any(|encoded| lower.contains(encoded))
        && !rest.starts_with('/')
        && !rest.contains("//")
        && !rest.split('/').any(|segment| {
            // `..;x` is a dot segment to some servers.
            let name = segment.split(';').next().unwrap_or_default();
            name == "." || name == ".."
        })
}

impl Entry {
    /// Method, declared size and client address.
    pub(super) fn admit(&self, head: &Head, origin: &Origin) -> Result<(), Refusal> {
        if !self.route.methods.contains(&head.method) {
            return Err(Refusal::MethodNotAllowed {
                allow: self.route.methods.join(", ").into(),
            });
        }
        let allowed = &self.route.allow_ips;
        if !allowed.is_empty() && !allowed.iter().any(|net| net.contains(&origin.client)) {
            return Err(Refusal::Forbidden);
        }
        if head
            .declared_bytes()
            .is_some_and(|bytes| bytes > self.route.body_bytes_max as u64)
        {
            return Err(Refusal::BodyTooLarge);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn path_tricks_under_a_star_are_not_plain() {
        for rest in ["", "a", "a/b", "a/", "a.b/..c", "a%20b", "...", "a;b/c"] {
            assert!(is_plain(rest), "{rest}");
        }
        for rest in [
            ".", "..", "../a", "a/..", "a/./b", "%2e%2E/a", "a%2fb", "a%2Fb", "//a", "/a", "a//b", "a\\b",
            "a%5Cb", "..;x/a", "a%00",
        ] {
            assert!(!is_plain(rest), "{rest}");
        }
    }
}
