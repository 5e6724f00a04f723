//! From a path to its route, and what the route says before a byte of the body is read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::answer::{Answer, Refusal};
use super::head::Head;
use super::origin::Origin;
use super::pace::Pace;
use super::quarantine::Quarantine;
use super::record::for_all;
use super::settings::{Mode, Route, RoutePath, Routes, Verify};
use crate::event::UpstreamName;
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
    pub(super) bad_signature: Answer,
    /// A handshake of the provider's is told from its body and comes without a signature, so no request is hopeless for its head.
    pub(super) asks_in_bodies: bool,
    /// Keys come from elsewhere.
    pub(super) fetches_keys: bool,
    /// The upstreams of a queue route, where none of them chooses its events.
    pub(super) for_all: Option<Arc<[UpstreamName]>>,
    /// Where refused requests are kept, if the route wants that.
    pub(super) quarantine: Option<Arc<Quarantine>>,
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
    /// Builds the table; rate limiters of `old` live on under their route's name. Refused requests are kept below `quarantine`.
    pub(super) fn new(
        routes: &Routes,
        telemetry: &Telemetry,
        quarantine: Option<&Path>,
        old: Option<&Table>,
    ) -> Self {
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
            if let Verify::Signature { proofs, .. } = &route.verify {
                // One that never matches shall show as such.
                let keys = proofs.iter().flat_map(|proof| &proof.keys);
                keys.for_each(|key| meter.secret_known(&key.name));
            }
            let folder = quarantine.filter(|_| route.quarantine_bytes > 0);
            let quarantine = folder.map(|folder| {
                let folder = folder.join(folder_name(route.name.as_str()));
                Arc::new(Quarantine::new(folder, route.quarantine_bytes))
            });
            let entry = Arc::new(Entry {
                meter,
                pace,
                accepted: Answer::fixed(&route.accepted),
                duplicate: Answer::fixed(&route.duplicate),
                missing_signature: Answer::fixed(&route.missing_signature),
                bad_signature: Answer::fixed(&route.bad_signature),
                asks_in_bodies: route
                    .handshakes
                    .iter()
                    .any(|handshake| !handshake.signed && !handshake.is_bodyless()),
                fetches_keys: match &route.verify {
                    Verify::Signature { proofs, .. } => proofs.iter().any(|proof| proof.scheme.is_fetched()),
                    Verify::Nothing => false,
                },
                for_all: match &route.mode {
                    Mode::Queue { wants } => for_all(wants),
                    Mode::Proxy(_) => None,
                },
                quarantine,
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

/// A route's name as that of a folder.
pub fn folder_name(route: &str) -> String {
    route.replace('/', "_")
}

/// Nothing in the rest of a path may be read as another path by the app: no dot segments, no empty ones, no backslashes,
/// and no escapes that stand for these or that decoders disagree about.
fn is_plain(rest: &str) -> bool {
    let is_dots = |segment: &str| {
        // `..;x` is a dot segment to some servers.
        let name = segment.split(';').next().unwrap_or_default();
        name == "." || name == ".."
    };
    !rest.contains('\\')
        && !rest.starts_with('/')
        && !rest.contains("//")
        && !rest.split('/').any(is_dots)
        && (!rest.contains('%') || has_plain_escapes(rest.as_bytes()))
}

/// Two hex digits each (RFC 3986, 2.1), none for a dot, a slash, a backslash or NUL, and together UTF-8: its overlong
/// forms pass for a dot or a slash with a careless decoder (RFC 3629, 10).
fn has_plain_escapes(mut rest: &[u8]) -> bool {
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let Some((digits, more)) = more.split_first_chunk::<2>() else {
            return false;
        };
        rest = more;
        let mut escaped = [0];
        if hex::decode_to_slice(digits, &mut escaped).is_err() || b"./\\\0".contains(&escaped[0]) {
            return false;
        }
        decoded.extend(escaped);
    }
    std::str::from_utf8(&decoded).is_ok()
}

impl Entry {
    /// Method, declared size and client address. `asks`: the head alone is a handshake of the provider's.
    pub(super) fn admit(&self, head: &Head, origin: &Origin, asks: bool) -> Result<(), Refusal> {
        if !asks && !self.route.methods.contains(&head.method) {
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
    use std::net::IpAddr;

    use super::super::sample;
    use super::super::settings::Quota;
    use super::*;

    fn named(name: &str, path: RoutePath) -> Route {
        Route {
            name: crate::event::RouteName::new(name),
            path,
            ..sample::route()
        }
    }

    #[test]
    fn the_longest_path_wins_and_an_exact_one_before_all() {
        let below = |prefix: &str| RoutePath::Below(prefix.into());
        let table = sample::table(
            [
                named("short", below("/a/")),
                named("long", below("/a/b/")),
                named("middle", below("/a/bc/")),
                named("exact", RoutePath::Exact("/a/b/c".into())),
            ],
            None,
        );
        for (path, expected) in [
            ("/a/b/c", Some(("exact", ""))),
            ("/a/b/c/", Some(("long", "c/"))),
            ("/a/b/", Some(("long", ""))),
            ("/a/bc/d", Some(("middle", "d"))),
            ("/a/b", Some(("short", "b"))),
            ("/a/x/y", Some(("short", "x/y"))),
            ("/a", None),
            ("/A/x", None),
            ("/a/b/../c", None),
            ("/a/b/%2e", None),
            ("", None),
        ] {
            let found = table.find(path);
            let got = found.as_ref().ok().map(|found| {
                let name = found.entry.route.name.as_str();
                (name, &*found.path_rest)
            });
            assert_eq!(got, expected, "{path}");
            assert_eq!(found.err(), expected.is_none().then_some(Refusal::UnknownRoute));
        }
    }

    #[test]
    fn a_reload_keeps_the_limiter_of_a_route_whose_rate_stays() {
        let rate = |name: &str, burst| Route {
            reject_above: Some(Quota {
                per_second: 0.001,
                burst,
            }),
            ..named(name, RoutePath::Exact(format!("/{name}").into()))
        };
        let old = sample::table([rate("same", 1), rate("changed", 1)], None);
        let charge = |table: &Table, path| {
            let entry = table.find(path).unwrap().entry;
            entry.pace.as_ref().unwrap().charge().is_ok()
        };
        assert!(charge(&old, "/same") && charge(&old, "/changed"));
        let new = sample::table([rate("same", 1), rate("changed", 2), rate("new", 1)], Some(&old));
        assert!(!charge(&new, "/same"), "it is spent still");
        assert!(charge(&new, "/changed") && charge(&new, "/new"));
    }

    #[test]
    fn every_secret_is_in_the_figures_before_it_matches() {
        let (_, telemetry) = sample::entry(sample::route());
        assert!(telemetry.render(None).contains(r#"secret="live""#));
    }

    #[test]
    fn method_size_and_address_are_asked_before_the_body() {
        let own = |change: fn(&mut Route)| {
            let mut route = sample::route();
            change(&mut route);
            sample::entry(route).0
        };
        let plain = own(|_| {});
        let local =
            own(|route| route.allow_ips = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let two = own(|route| route.methods = vec!["POST".into(), "PUT".into()]);
        let not_allowed = |allow: &str| Refusal::MethodNotAllowed { allow: allow.into() };
        for (name, entry, method, bytes, client, refused) in [
            ("as it should be", &plain, "POST", "100", "9.9.9.9", None),
            (
                "one byte more",
                &plain,
                "POST",
                "101",
                "9.9.9.9",
                Some(Refusal::BodyTooLarge),
            ),
            (
                "another method",
                &plain,
                "PUT",
                "0",
                "9.9.9.9",
                Some(not_allowed("POST")),
            ),
            (
                "methods keep their case",
                &plain,
                "post",
                "0",
                "9.9.9.9",
                Some(not_allowed("POST")),
            ),
            ("a second method", &two, "PUT", "0", "9.9.9.9", None),
            (
                "neither",
                &two,
                "GET",
                "0",
                "9.9.9.9",
                Some(not_allowed("POST, PUT")),
            ),
            (
                "a stranger",
                &local,
                "POST",
                "0",
                "9.9.9.9",
                Some(Refusal::Forbidden),
            ),
            ("the first net", &local, "POST", "0", "10.9.9.9", None),
            ("the second net", &local, "POST", "0", "::1", None),
        ] {
            let head = sample::head(
                &format!("{method} /hooks"),
                &format!("Content-Length: {bytes}\r\n"),
            );
            let client: IpAddr = client.parse().unwrap();
            let origin = Origin::new(client, false, &head.fields, &[]);
            assert_eq!(entry.admit(&head, &origin, false).err(), refused, "{name}");
        }
        let chunked = sample::head("POST /hooks", "Transfer-Encoding: chunked\r\n");
        let origin = Origin::new([9, 9, 9, 9].into(), false, &chunked.fields, &[]);
        assert_eq!(
            plain.admit(&chunked, &origin, false),
            Ok(()),
            "a size that nobody declared"
        );
    }

    #[test]
    fn path_tricks_under_a_star_are_not_plain() {
        for rest in [
            "", "a", "a/b", "a/", "a.b/..c", "a%20b", "...", "a;b/c", "%c3%a9", "%252e",
        ] {
            assert!(is_plain(rest), "{rest}");
        }
        for rest in [
            ".",
            "..",
            "../a",
            "a/..",
            "a/./b",
            "%2e%2E/a",
            "a%2fb",
            "a%2Fb",
            "//a",
            "/a",
            "a//b",
            "a\\b",
            "a%5Cb",
            "..;x/a",
            "a%00",
            "%",
            "a%2",
            "%zz",
            "%u002e",
            "%c0%ae",
            "a%C1%9cb",
            "%e0%80%af",
            "%ff",
        ] {
            assert!(!is_plain(rest), "{rest}");
        }
    }
}
