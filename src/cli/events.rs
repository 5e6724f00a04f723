//! `hooklatch events`: list and show what the store holds, and have deliveries made again.
//!
//! `list` and `show` read the store's files and need no running gateway; `replay` asks the running one, since only it may
//! write.

mod print;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use self::print::{print_event, print_list, print_replayed};
use super::config_secrets::no_route_of;
use super::gateway::{AskError, Gateway};
use crate::event::{RouteName, Seq, Timestamp, UpstreamName};
use crate::inbox::{Reader, ReaderError, Selection, SelectionError, parse_status, selection_json};
use crate::secret::SecretText;

/// A replay of a million events takes a while; the gateway answers when all is durable.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of the gateway's answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// `hooklatch events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List events, newest first.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one event with its deliveries.
    Show(ShowArgs),
    /// Have the running gateway deliver events again.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most this many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only events numbered below this: the next page.
    #[arg(long)]
    before: Option<i64>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The event's number.
    event: i64,
    #[command(flatten)]
    place: PlaceArgs,
    /// Write the body, as received, and nothing else.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The events' numbers; none: all that the filters name (dead ones unless --status says otherwise).
    events: Vec<i64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Deliver the event's n-th conflicting body as an event of its own.
    #[arg(long)]
    conflict: Option<u32>,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    /// Without any event or filter: every dead delivery there is.
    #[arg(long)]
    all: bool,
    /// The admin listener of the gateway; default: the configuration's.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// The folder of the store; default: the configuration's.
    #[arg(long)]
    store: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only this route.
    #[arg(long)]
    route: Option<String>,
    /// Only this upstream.
    #[arg(long)]
    upstream: Option<String>,
    /// Only this status: pending, delivered, dead, filtered.
    #[arg(long)]
    status: Option<String>,
    /// Only events received since: a time (2026-11-21T01:15:00Z) or so long ago (90m, 2h, 3d).
    #[arg(long)]
    since: Option<String>,
    /// Only events received before: a time, or so long ago.
    #[arg(long)]
    until: Option<String>,
    /// Only this event type.
    #[arg(long = "type")]
    event_type: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What the configuration says, where an argument says nothing.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// `[store] path`.
    pub store: Option<PathBuf>,
    /// `[admin] listen`.
    pub admin: Option<SocketAddr>,
    /// `[admin] token`.
    pub token: Option<SecretText>,
    /// The names of its routes.
    pub routes: Vec<String>,
    /// What is wrong with the configuration, which then says nothing.
    pub problem: Option<String>,
}

/// Why the command could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// Neither argument nor configuration names the store.
    #[error("no store named; pass --store or a configuration with [store]")]
    NoStore,
    /// Neither argument nor configuration names the admin listener.
    #[error("no admin listener named; pass --admin or a configuration with [admin]")]
    NoAdmin,
    /// The configuration that should name it cannot be used.
    #[error("{problem}\nhooklatch: nothing was done; mend the configuration, or say it with {option}")]
    Config {
        /// What is wrong with it.
        problem: String,
        /// What names it without a configuration.
        option: &'static str,
    },
    /// There is no such route; the text names those that are there.
    #[error("{0}")]
    NoRoute(String),
    /// There is no such event.
    #[error("there is no event {0} in the store")]
    NoEvent(i64),
    /// The body was removed.
    #[error("the body of event {0} is gone: it was removed by retention or for space")]
    NoBody(i64),
    /// The body is not what was received.
    #[error("event {0} is damaged: what is kept is not what was received; ask its sender to send it again")]
    Corrupt(i64),
    /// Neither events nor a filter nor --all.
    #[error("name events or filters, or pass --all for every dead delivery")]
    NothingNamed,
    /// Not a time.
    #[error("{0:?} is not a time; write it like 2026-11-21T01:15:00Z, or like 90m, 2h, 3d for so long ago")]
    Time(String),
    /// A filter is wrong.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The store cannot be read.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// The gateway does not answer, or not with what was asked for.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

/// Runs the command; `now` is the wall time, for "so long ago".
///
/// # Errors
/// See [`EventsError`].
pub fn run(
    args: EventsArgs,
    defaults: &Defaults,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), EventsError> {
    let written = EventsError::Write;
    match args.verb {
        Verb::List(list) => {
            let reader = open(&list.place, defaults)?;
            let filter = selection(&list.filter, now)?;
            check_route(list.filter.route.as_deref(), &reader, defaults)?;
            let lines = reader.list(&filter, list.before.map(Seq), list.limit)?;
            print_list(&lines, list.place.output, out).map_err(written)
        }
        Verb::Show(show) => {
            let reader = open(&show.place, defaults)?;
            let event = reader
                .event(Seq(show.event))?
                .ok_or(EventsError::NoEvent(show.event))?;
            if show.body && event.corrupt {
                return Err(EventsError::Corrupt(show.event));
            }
            if show.body {
                let body = event.body.ok_or(EventsError::NoBody(show.event))?;
                return out.write_all(&body).and_then(|()| out.flush()).map_err(written);
            }
            print_event(&event, show.place.output, out).map_err(written)
        }
        Verb::Replay(replay) => {
            let mut chosen = selection(&replay.filter, now)?;
            let filters = Selection::default();
            if chosen == filters && replay.events.is_empty() && !replay.all {
                return Err(EventsError::NothingNamed);
            }
            chosen.events = replay.events.into_iter().map(Seq).collect();
            chosen.conflict = replay.conflict;
            chosen.dry_run = replay.dry_run;
            let unnamed = || match defaults.problem.clone() {
                Some(problem) => EventsError::Config {
                    problem,
                    option: "--admin",
                },
                None => EventsError::NoAdmin,
            };
            let admin = replay.admin.or(defaults.admin).ok_or_else(unnamed)?;
            // Another gateway has other routes, and a store that cannot be read from here is the gateway's own matter.
            if Some(admin) == defaults.admin
                && let Some(Ok(reader)) = defaults.store.as_deref().map(Reader::open)
            {
                check_route(replay.filter.route.as_deref(), &reader, defaults)?;
            }
            let (deliveries, skipped) = ask(admin, defaults.token.as_ref(), &selection_json(&chosen))?;
            print_replayed(deliveries, skipped, replay.dry_run, replay.output, out).map_err(written)
        }
    }
}

/// A route that neither the configuration nor the store knows is a mistake, and not one without events.
fn check_route(given: Option<&str>, reader: &Reader, defaults: &Defaults) -> Result<(), EventsError> {
    let Some(given) = given else {
        return Ok(());
    };
    let mut names = reader.routes()?;
    names.extend(defaults.routes.iter().cloned());
    names.sort_unstable();
    names.dedup();
    if names.iter().any(|name| name == given) {
        return Ok(());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Err(EventsError::NoRoute(no_route_of(&names, given)))
}

fn open(place: &PlaceArgs, defaults: &Defaults) -> Result<Reader, EventsError> {
    let store =
        place
            .store
            .as_ref()
            .or(defaults.store.as_ref())
            .ok_or_else(|| match defaults.problem.clone() {
                Some(problem) => EventsError::Config {
                    problem,
                    option: "--store",
                },
                None => EventsError::NoStore,
            })?;
    let reader = Reader::open(store)?;
    match reader.without_rows() {
        0 => {}
        events => super::err(&format!(
            "note: {events} of the newest events are kept and not listed yet; they are once the gateway has started"
        )),
    }
    Ok(reader)
}

fn selection(filter: &FilterArgs, now: Timestamp) -> Result<Selection, EventsError> {
    Ok(Selection {
        route: filter.route.as_deref().map(RouteName::new),
        upstream: filter.upstream.as_deref().map(UpstreamName::new),
        status: filter.status.as_deref().map(parse_status).transpose()?,
        since: filter
            .since
            .as_deref()
            .map(|given| time(given, now))
            .transpose()?,
        until: filter
            .until
            .as_deref()
            .map(|given| time(given, now))
            .transpose()?,
        event_type: filter.event_type.as_deref().map(Into::into),
        ..Selection::default()
    })
}

/// A time, or so long ago: digits and one of `s`, `m`, `h`, `d`.
fn time(given: &str, now: Timestamp) -> Result<Timestamp, EventsError> {
    if let Ok(time) = given.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(time.as_millisecond()));
    }
    let wrong = || EventsError::Time(given.to_owned());
    let unit = given.chars().next_back().ok_or_else(wrong)?;
    let millis: i64 = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(wrong()),
    };
    let count: i64 = given.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    if count < 0 {
        return Err(wrong());
    }
    Ok(Timestamp(now.0.saturating_sub(count.saturating_mul(millis))))
}

/// `POST /-/replay`: deliveries made pending, and deliveries left alone.
fn ask(admin: SocketAddr, token: Option<&SecretText>, body: &str) -> Result<(u64, u64), EventsError> {
    let gateway = Gateway {
        admin,
        token,
        timeout: REPLAY_TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let value = gateway.ask("POST", "/-/replay", body)?;
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let numbers = number("deliveries").zip(number("skipped"));
    numbers.ok_or(EventsError::Ask(AskError::Answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = Timestamp(1_800_000_000_000);
        for (name, given, expected) in [
            ("minutes ago", "90m", Some(now.0 - 90 * 60_000)),
            ("days ago", "3d", Some(now.0 - 3 * 86_400_000)),
            ("a time", "2027-01-15T08:00:00Z", Some(1_800_000_000_000)),
            ("no unit", "90", None),
            ("no number", "m", None),
            ("negative", "-3d", None),
            ("empty", "", None),
        ] {
            assert_eq!(time(given, now).ok().map(|time| time.0), expected, "{name}");
        }
    }
}
