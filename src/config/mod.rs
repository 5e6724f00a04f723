//! Text to types that cannot be wrong. The only reader of TOML and of the environment.
//!
//! The text is read once, table by table, straight into the settings that the parts own; what is wrong on the way is
//! collected with its place, so that one run reports all of it. Lines that can hold a secret are never repeated.

mod context;
mod env;
mod general;
mod identify;
mod path;
mod report;
mod route;
mod secrets;
mod section;
pub(crate) mod units;
mod upstream;
mod verify;
mod verify_warnings;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use self::context::{At, Context, Span};
pub use self::env::{Env, FileStamp, ProcessEnv, SecretFile};
use self::general::{collide, nowhere};
pub use self::report::{Place, Problem, Problems, Severity};
use self::route::Read;
use self::secrets::{Secrets, hide_lines};
use self::section::Section;
use self::upstream::ModeWord;
use crate::event::{SecretName, Timestamp};
use crate::secret::SecretText;
use crate::telemetry::log::Form;
use crate::{admin, deliver, inbox, receive};

/// Largest configuration that is read.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where senders reach us; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Certificate and key files, when TLS ends here.
    pub tls: Option<TlsFiles>,
    /// Worker threads of the front door.
    pub workers: usize,
    /// The store; `None` only when every route is `proxy` and no `[store]` is written.
    pub store: Option<inbox::Settings>,
    /// Limits of the front door.
    pub limits: receive::settings::Limits,
    /// The routes.
    pub routes: receive::settings::Routes,
    /// A lane for every upstream of every queue route.
    pub lanes: Vec<deliver::LaneSettings>,
    /// The admin and probe listeners.
    pub admin: admin::Settings,
    /// Log settings.
    pub log: LogSettings,
    /// Unready but still accepting for this long after SIGTERM.
    pub drain_delay: Duration,
    /// The whole stop takes at most this long.
    pub drain_timeout: Duration,
    /// The files that its secrets were read from.
    pub secret_files: Vec<SecretFile>,
    /// Said at start and by `check`.
    pub warnings: Vec<String>,
}

/// Where certificate chain and key are (PEM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What `[log]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `auto` is JSON unless standard error is a terminal.
    pub format: Form,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// Lines per second and route for accepted requests and successful attempts; the rest is counted and summed up.
    pub lines_per_second: u32,
}

/// Reads the file with the process's own environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let (config, problems) = inspect_file(path, &ProcessEnv);
    config.ok_or(problems)
}

/// Reads a text; `file_name` is only shown.
///
/// # Errors
/// Everything that is wrong with it, warnings included.
pub fn parse(file_name: &str, text: &str, env: &dyn Env) -> Result<Config, Problems> {
    let (config, problems) = inspect(file_name, text, env);
    config.ok_or(problems)
}

/// Reads the file and gives the problems in either case.
pub fn inspect_file(path: &Path, env: &dyn Env) -> (Option<Config>, Problems) {
    let name = path.display().to_string();
    let bytes = match env.read_file(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let help =
                "name another with --config, or make one: hooklatch init --provider NAME --upstream URL";
            let text = format!("cannot read the configuration: {error}");
            return (None, Problems::whole_file(&name, text, Some(help)));
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => inspect(&name, &text, env),
        Err(error) => {
            let line = error
                .as_bytes()
                .iter()
                .take(error.utf8_error().valid_up_to())
                .filter(|byte| **byte == b'\n')
                .count();
            let text = format!("line {} is not UTF-8", line + 1);
            (None, Problems::whole_file(&name, text, None))
        }
    }
}

/// Reads a text and gives the problems in either case: with a configuration they are only warnings.
pub fn inspect(file_name: &str, text: &str, env: &dyn Env) -> (Option<Config>, Problems) {
    let (config, problems, _) = read(file_name, text, env);
    (config, problems)
}

/// Every key the reader looked for in `text`, as `route.upstream.url`; to hold the reference to it.
#[doc(hidden)]
pub fn keys_asked_for(text: &str, env: &dyn Env) -> BTreeSet<String> {
    read("", text, env).2
}

/// Where a gateway with this configuration can be asked how it is: the admin listener, else the probe's. Nothing else is read, so
/// that the answer needs no secret.
pub fn health_listener(text: &str) -> Option<SocketAddr> {
    let (table, _) = DeTable::parse_recoverable(text);
    let context = Context::new(text, &ProcessEnv);
    let (admin, _) = general::admin(&Section::root(&context, table.get_ref()), &Secrets::default());
    admin.listen.or(admin.probe)
}

/// Name, text and `until` of every secret of `[secrets]` that can be read; for `sign` and `verify --explain`, which need
/// more of a secret than the key that a running gateway keeps.
pub fn secret_texts(text: &str, env: &dyn Env) -> Vec<(SecretName, SecretText, Option<Timestamp>)> {
    let (table, _) = DeTable::parse_recoverable(text);
    let context = Context::new(text, env);
    Secrets::read(&Section::root(&context, table.get_ref())).into_texts()
}

fn read(file_name: &str, text: &str, env: &dyn Env) -> (Option<Config>, Problems, BTreeSet<String>) {
    if text.len() > TEXT_BYTES_MAX {
        let problems = Problems::whole_file(file_name, "the configuration is over 1 MiB".to_owned(), None);
        return (None, problems, BTreeSet::new());
    }
    // A byte order mark is no part of the text, and the columns of line 1 would be off by it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    let context = Context::new(text, env);
    for error in &syntax_errors {
        context.syntax(error.span(), error.message().to_owned());
    }
    hide_lines(&context, table.get_ref());
    let config = whole(Section::root(&context, table.get_ref()));
    let asked = context.asked();
    let clean = context.errors() == 0;
    let problems = Problems::new(file_name, context.into_problems());
    let config = config.filter(|_| clean).map(|config| Config {
        warnings: problems
            .list()
            .iter()
            .map(|problem| problems.line(problem))
            .collect(),
        ..config
    });
    (config, problems, asked)
}

/// Reads every part, then checks what concerns several.
fn whole(root: Section<'_>) -> Option<Config> {
    let context = root.context;
    let secrets = Secrets::read(&root);
    let front = general::front(&root);
    let (limits, body_bytes) = general::limits(&root);
    let store = general::store(&root, &limits);
    let (admin, mut listeners) = general::admin(&root, &secrets);
    let log = general::log(&root);
    let read: Vec<Read<'_>> = root
        .tables("route")
        .into_iter()
        .map(|route| route::read(route, &secrets, &limits, body_bytes))
        .collect();
    secrets.warn_unused(context);

    listeners.insert(0, ("listen", front.listen.clone()));
    check_listeners(context, &listeners);
    check_routes(context, &root, &read, &listeners);
    for route in &read {
        let keeps = route
            .route
            .as_ref()
            .is_some_and(|route| route.quarantine_bytes > 0);
        if keeps && !root.has("store") {
            let text = "on_bad_signature keeps requests in the folder of the store, and there is no [store]";
            context.error(&route.span, text, Some("add [store], or remove on_bad_signature"));
        }
    }
    let needs_store = read.iter().find(|read| read.mode == ModeWord::Queue);
    if let Some(route) = needs_store
        && !root.has("store")
    {
        let text = "there is no [store], and a route in mode \"queue\" keeps its events there";
        let help = "add [store] with path = \"/var/lib/hooklatch\"";
        context.error(&route.span, text, Some(help));
    }
    root.finish();
    let mut routes = Vec::new();
    let mut lanes = Vec::new();
    for read in read {
        // A route that could not be made has reported why.
        routes.push(Arc::new(read.route?));
        lanes.extend(read.lanes);
    }
    Some(Config {
        listen: front.listen.value,
        tls: front.tls,
        workers: front.workers,
        store,
        limits,
        routes: receive::settings::Routes {
            routes,
            trusted_proxies: front.trusted_proxies,
        },
        lanes,
        admin,
        log,
        drain_delay: front.drain_delay,
        drain_timeout: front.drain_timeout,
        secret_files: context.secret_files(),
        warnings: Vec::new(),
    })
}

fn check_listeners(context: &Context<'_>, listeners: &[(&'static str, At<SocketAddr>)]) {
    for (index, (name, listener)) in listeners.iter().enumerate() {
        for (other_name, other) in listeners.iter().take(index) {
            if collide(listener.value, other.value) {
                let text = format!(
                    "{name} = {} is taken by {other_name} = {} already",
                    listener.value, other.value
                );
                context.error(&listener.span, text, Some("give each listener a port of its own"));
            }
        }
    }
}

fn check_routes(
    context: &Context<'_>,
    root: &Section<'_>,
    routes: &[Read<'_>],
    listeners: &[(&'static str, At<SocketAddr>)],
) {
    if routes.is_empty() && !root.has("route") {
        let help = "add a [[route]] with path, provider, secrets and upstream; see: hooklatch init --help";
        context.error(
            &nowhere(),
            "there is no [[route]]: nothing would be received",
            Some(help),
        );
    }
    check_shared_secrets(context, routes);
    for (index, route) in routes.iter().enumerate() {
        let earlier = || routes.iter().take(index);
        if let Some(path) = &route.path
            && earlier().any(|other| other.path.as_ref().is_some_and(|other| other.value == path.value))
        {
            let text = "this path is another route's already; only one of them would ever be asked";
            context.error(
                &path.span,
                text,
                Some("remove one route, or list both secrets in one"),
            );
        } else if let Some(name) = &route.name
            && earlier().any(|other| other.name.as_ref().is_some_and(|other| other.value == name.value))
        {
            let text = format!("route name \"{}\" is used twice", name.value);
            let help =
                "write a name of its own: name = \"...\"; dedup keys and pending deliveries belong to it";
            context.error(&name.span, text, Some(help));
        }
        for (endpoint, span) in &route.endpoints {
            for (name, listener) in listeners {
                if is_at(endpoint, listener.value) {
                    let text = format!(
                        "upstream http://{}{} is hooklatch's own {name} address: events would loop",
                        endpoint.authority, endpoint.path
                    );
                    context.error(span, text, Some("write the address of your app"));
                }
            }
        }
    }
}

/// One secret for several routes: what was signed for one is good for the others. Said once per secret, at the second route.
fn check_shared_secrets(context: &Context<'_>, routes: &[Read<'_>]) {
    let mut users: Vec<(&SecretText, Vec<&str>, &Span)> = Vec::new();
    for route in routes {
        let Some(name) = route.name.as_ref().map(|name| name.value.as_str()) else {
            continue;
        };
        for text in route.secrets.iter().filter_map(|secret| secret.text.as_ref()) {
            match users
                .iter_mut()
                .find(|(known, ..)| known.expose() == text.expose())
            {
                // Routes of one name have an error of their own.
                Some((_, names, _)) if names.contains(&name) => {}
                Some((_, names, span)) => {
                    if names.len() == 1 {
                        *span = &route.secrets_span;
                    }
                    names.push(name);
                }
                None => users.push((text, vec![name], &route.secrets_span)),
            }
        }
    }
    for (_, names, span) in users.iter().filter(|(_, names, _)| names.len() > 1) {
        let others = if names.len() == 2 {
            "the other"
        } else {
            "the others"
        };
        let text = format!(
            "routes {} share a secret: a request captured from one can be sent to {others}",
            listed(names)
        );
        context.warn(span, text, Some("give each route a secret of its own"));
    }
}

/// `"a", "b" and "c"`; of more than a few the first, and how many more.
fn listed(names: &[&str]) -> String {
    const NAMES_MAX: usize = 4;
    let shown = if names.len() > NAMES_MAX {
        NAMES_MAX - 1
    } else {
        names.len().saturating_sub(1)
    };
    let first: Vec<String> = names
        .iter()
        .take(shown)
        .map(|name| format!("\"{name}\""))
        .collect();
    let last = match names.get(shown..) {
        Some([last]) => format!("\"{last}\""),
        rest => format!("{} more", rest.map_or(0, <[_]>::len)),
    };
    format!("{} and {last}", first.join(", "))
}

/// Whether a call to `endpoint` would arrive at our own listener.
fn is_at(endpoint: &crate::upstream::Endpoint, listener: SocketAddr) -> bool {
    if endpoint.port != listener.port() {
        return false;
    }
    let ours = |ip: IpAddr| {
        let here = ip.is_loopback() || ip.is_unspecified();
        ip == listener.ip()
            || (here && listener.ip().is_unspecified())
            || (ip.is_unspecified() && listener.ip().is_loopback())
    };
    match endpoint.host.parse::<IpAddr>() {
        Ok(ip) => ours(ip),
        Err(_) if endpoint.host.eq_ignore_ascii_case("localhost") => {
            ours(Ipv4Addr::LOCALHOST.into()) || ours(Ipv6Addr::LOCALHOST.into())
        }
        Err(_) => false,
    }
}
