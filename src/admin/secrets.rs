//! Which secret of a route is in use, and which old one can go. Names and times only, never a secret.

use std::time::Duration;

use serde::Serialize;

use crate::event::{ProviderName, RouteName, SecretName, Timestamp};
use crate::telemetry::SecretUse;

/// So long without a match, counted from the start or from when it was listed, before a secret can go, unless the question
/// names another time. Longer than the retries of most senders, which may be signed with the secret of the first try.
pub const QUIET_DEFAULT: Duration = Duration::from_secs(72 * 3600);

/// The secrets of one route, as the configuration lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSecrets {
    /// The route.
    pub route: RouteName,
    /// Its provider.
    pub provider: ProviderName,
    /// In the order of the configuration; empty where nothing is verified.
    pub secrets: Vec<ListedSecret>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSecret {
    /// Its name.
    pub name: SecretName,
    /// It is not accepted from this time on.
    pub until: Option<Timestamp>,
    /// Uses are counted since: the start, or the reload that listed it.
    pub since: Timestamp,
}

/// What `GET /-/secrets` says.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    now: String,
    quiet_secs: u64,
    routes: Vec<RouteReport>,
}

#[derive(Debug, Serialize)]
struct RouteReport {
    route: String,
    provider: String,
    secrets: Vec<SecretReport>,
}

#[derive(Debug, Serialize)]
struct SecretReport {
    name: String,
    matches: u64,
    last_used: Option<String>,
    counted_since: String,
    until: Option<String>,
    state: State,
    can_go: bool,
    advice: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Accepted without an end.
    Active,
    /// Accepted until a time to come.
    Expires,
    /// Not accepted any more.
    Expired,
}

/// A listed secret and what became of it.
struct Known<'a> {
    listed: &'a ListedSecret,
    used: SecretUse,
}

/// The report of the routes at `now`; `used` looks up the counters.
pub(super) fn report(
    routes: &[RouteSecrets],
    used: impl Fn(&RouteSecrets, &SecretName) -> SecretUse,
    quiet: Duration,
    now: Timestamp,
) -> Report {
    let routes = routes.iter().map(|route| {
        let known: Vec<Known<'_>> = route
            .secrets
            .iter()
            .map(|listed| Known {
                used: used(route, &listed.name),
                listed,
            })
            .collect();
        RouteReport {
            route: route.route.to_string(),
            provider: route.provider.to_string(),
            secrets: known
                .iter()
                .map(|secret| secret_report(secret, &known, quiet, now))
                .collect(),
        }
    });
    Report {
        now: now.to_string(),
        quiet_secs: quiet.as_secs(),
        routes: routes.collect(),
    }
}

fn secret_report(secret: &Known<'_>, all: &[Known<'_>], quiet: Duration, now: Timestamp) -> SecretReport {
    let (can_go, advice) = advise(secret, all, quiet, now);
    SecretReport {
        name: secret.listed.name.to_string(),
        matches: secret.used.matches,
        last_used: secret.used.last_used.map(|time| time.to_string()),
        counted_since: secret.listed.since.to_string(),
        until: secret.listed.until.map(|time| time.to_string()),
        state: secret.state(now),
        can_go,
        advice,
    }
}

/// Whether it can go, and why.
///
/// That nobody used it says nothing by itself: the sender may send seldom, or may not have switched to it yet. So it can go
/// only where another one of the route was used after it, and it is known to be the old one: by its `until`, or because it
/// was in use before.
fn advise(secret: &Known<'_>, all: &[Known<'_>], quiet: Duration, now: Timestamp) -> (bool, String) {
    let others = || {
        all.iter()
            .filter(|other| other.listed.name != secret.listed.name && other.state(now) != State::Expired)
    };
    if let (State::Expired, Some(until)) = (secret.state(now), secret.listed.until) {
        return (true, format!("not accepted since {until}: it can go"));
    }
    let quiet_millis = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    if let Some(last_used) = secret.used.last_used
        && now.millis_since(last_used) < quiet_millis
    {
        let ago = ago(last_used, now);
        let still = if secret.listed.until.is_some() {
            "still "
        } else {
            ""
        };
        return (false, format!("{still}used {ago}: it must stay"));
    }
    if others().next().is_none() {
        return (false, "the only secret of its route: it must stay".to_owned());
    }
    let is_last = secret.listed.until.is_none() && others().all(|other| other.listed.until.is_some());
    if is_last {
        return (
            false,
            "the only one of its route without an until: it must stay".to_owned(),
        );
    }
    let since = secret.quiet_since();
    if now.millis_since(since) < quiet_millis {
        let end = i64::try_from(quiet_millis).map_or(i64::MAX, |quiet| since.0.saturating_add(quiet));
        let text = format!(
            "no request has used it since {since}, which is too short to tell: ask again after {}",
            Timestamp(end)
        );
        return (false, text);
    }
    let latest = others()
        .filter_map(|other| Some((other, other.used.last_used?)))
        .max_by_key(|(_, time)| *time)
        .filter(|(_, time)| *time > since);
    let Some((other, time)) = latest else {
        return (
            false,
            format!("no request has used any secret of the route since {since}: nothing says which can go"),
        );
    };
    let facts = format!(
        "no request has used it since {since}, and {} was used {}",
        other.listed.name,
        ago(time, now)
    );
    if secret.listed.until.is_none() && secret.used.matches == 0 {
        let text = format!(
            "{facts}: the sender has not switched to it yet, or it is an old one; give an old one an until"
        );
        return (false, text);
    }
    (true, format!("{facts}: it can go"))
}

impl Known<'_> {
    fn state(&self, now: Timestamp) -> State {
        match self.listed.until {
            None => State::Active,
            Some(until) if until > now => State::Expires,
            Some(_) => State::Expired,
        }
    }

    /// Since when nobody has used it, as far as was counted.
    fn quiet_since(&self) -> Timestamp {
        self.used
            .last_used
            .map_or(self.listed.since, |used| used.max(self.listed.since))
    }
}

fn ago(time: Timestamp, now: Timestamp) -> String {
    match now.millis_since(time) {
        0..1000 => "just now".to_owned(),
        millis => format!("{} ago", span(Duration::from_millis(millis))),
    }
}

/// In its largest unit, whole: `3 min`, `2 h`, `5 days`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{} s", secs.max(1)),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    /// Name, `until` from now, counted so long, last used so long ago; all in hours.
    type Given = (&'static str, Option<i64>, i64, Option<i64>);

    fn asked(given: &[Given]) -> Vec<(State, bool, String)> {
        let listed = |(name, until, counted, _): &Given| ListedSecret {
            name: SecretName::new(*name),
            until: until.map(|hours| Timestamp(NOW.0 + hours * HOUR)),
            since: Timestamp(NOW.0 - counted * HOUR),
        };
        let route = RouteSecrets {
            route: RouteName::new("hooks"),
            provider: ProviderName::new("quantiv"),
            secrets: given.iter().map(listed).collect(),
        };
        let used = |_: &RouteSecrets, name: &SecretName| {
            let given = given.iter().find(|given| given.0 == name.as_str()).unwrap();
            SecretUse {
                matches: u64::from(given.3.is_some()),
                last_used: given.3.map(|hours| Timestamp(NOW.0 - hours * HOUR)),
            }
        };
        let report = report(&[route], used, QUIET_DEFAULT, NOW);
        let secrets = report.routes.into_iter().flat_map(|route| route.secrets);
        secrets
            .map(|secret| (secret.state, secret.can_go, secret.advice))
            .collect()
    }

    #[test]
    fn an_old_secret_goes_once_the_new_one_is_in_use_and_it_is_not() {
        use State::{Active, Expired, Expires};
        let new = ("new", None, 100, Some(1));
        for (name, old, state, can_go, says) in [
            (
                "unused",
                ("old", Some(9), 100, None),
                Expires,
                true,
                "and new was used 1 h ago: it can go",
            ),
            (
                "used long ago",
                ("old", Some(9), 200, Some(80)),
                Expires,
                true,
                "it can go",
            ),
            (
                "used of late",
                ("old", Some(9), 200, Some(71)),
                Expires,
                false,
                "still used 2 days ago: it must stay",
            ),
            (
                "counted too short",
                ("old", Some(9), 70, None),
                Expires,
                false,
                "ask again after 2027-01-15T10:00:00.000Z",
            ),
            (
                "taken off and listed again",
                ("old", Some(9), 1, Some(80)),
                Expires,
                false,
                "ask again after 2027-01-18T07:00:00.000Z",
            ),
            (
                "its time is over",
                ("old", Some(-1), 1, Some(2)),
                Expired,
                true,
                "not accepted since",
            ),
            (
                "no until, was in use",
                ("old", None, 200, Some(80)),
                Active,
                true,
                "it can go",
            ),
            // Which of the two is new, nobody can tell.
            (
                "no until, never used",
                ("old", None, 100, None),
                Active,
                false,
                "give an old one an until",
            ),
        ] {
            for both in [[old, new], [new, old]] {
                let got = asked(&both);
                let at = usize::from(both[0].0 == "new");
                assert_eq!((got[at].0, got[at].1), (state, can_go), "{name}: {got:?}");
                assert!(got[at].2.contains(says), "{name}: {got:?}");
                let (new_state, new_goes, new_says) = &got[1 - at];
                assert_eq!((*new_state, *new_goes), (Active, false), "{name}: {got:?}");
                assert_eq!(new_says, "used 1 h ago: it must stay", "{name}");
            }
        }
    }

    #[test]
    fn nothing_goes_where_nothing_is_known() {
        for (name, given, says) in [
            ("a single one", vec![("one", None, 900, None)], "the only secret"),
            (
                "a single one that was used",
                vec![("one", None, 900, Some(1))],
                "used 1 h ago",
            ),
            (
                "the other one has run out",
                vec![("one", None, 900, None), ("old", Some(-1), 900, Some(2))],
                "the only secret",
            ),
            (
                "the last without until",
                vec![("one", None, 900, Some(90)), ("old", Some(5), 900, Some(2))],
                "without an until",
            ),
            (
                "no traffic",
                vec![("old", Some(5), 900, None), ("new", None, 900, None)],
                "nothing says",
            ),
            (
                "none since",
                vec![("old", Some(5), 900, Some(100)), ("new", None, 900, Some(120))],
                "nothing says",
            ),
        ] {
            let (_, can_go, text) = asked(&given).remove(0);
            assert!(!can_go && text.contains(says), "{name}: {text}");
        }
    }

    #[test]
    fn spans_are_short() {
        for (secs, want) in [
            (0, "1 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), want);
        }
        assert_eq!(ago(NOW, NOW), "just now");
    }
}
