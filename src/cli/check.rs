//! `hooklatch check`: everything wrong with the configuration, then whether it can be run here.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateway::Gateway;
use super::{EXIT_CONFIG, Global, colour, err, out};
use crate::config::units::{show_duration, show_size};
use crate::config::{Config, Problems, ProcessEnv, Severity, inspect_file};
use crate::inbox;
use crate::receive::settings::{Mode, Route, RoutePath, Verify};
use crate::upstream::Endpoint;

/// Syncs timed on the store's volume.
const SYNCS: u32 = 3;
/// A connection to an upstream may take this long.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Also connect to each upstream (TCP, and TLS for https); nothing is sent
    #[arg(long)]
    pub online: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// The form of what a verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// What was tried beyond the text of the configuration.
#[derive(Debug)]
struct Tried {
    /// What it was: `store`, or an upstream.
    name: String,
    /// What came of it.
    result: Result<String, String>,
    /// It can be used, and somebody should look at it.
    warning: bool,
}

impl Tried {
    fn new(name: String, result: Result<String, String>) -> Self {
        Self {
            name,
            result,
            warning: false,
        }
    }
}

/// Checks, prints, and gives 0, 1 when the store or an upstream cannot be used, 2 when the configuration is wrong.
pub fn run(global: &Global, args: &Args) -> ExitCode {
    let (config, problems) = inspect_file(&global.config_path(), &ProcessEnv);
    let tried = config.as_ref().map_or_else(Vec::new, |config| {
        let mut tried: Vec<Tried> = config.store.iter().map(try_store).collect();
        if args.online {
            tried.extend(try_upstreams(config));
            tried.extend(watched(config));
        }
        tried
    });
    let failed = tried.iter().any(|tried| tried.result.is_err());
    match args.output {
        Output::Text => print_text(config.as_ref(), &problems, &tried),
        Output::Json => print_json(config.as_ref(), &problems, &tried),
    }
    match (config, failed) {
        (None, _) => ExitCode::from(EXIT_CONFIG),
        (Some(_), true) => ExitCode::FAILURE,
        (Some(_), false) => ExitCode::SUCCESS,
    }
}

/// What the running gateway has counted on routes that only watch: how many events would have been refused, and why.
fn watched(config: &Config) -> Vec<Tried> {
    let watches = |route: &&Arc<Route>| matches!(route.verify, Verify::Signature { enforce: false, .. });
    let mut watching = config.routes.routes.iter().filter(watches).peekable();
    let (Some(_), Some(admin)) = (watching.peek(), config.admin.listen) else {
        return Vec::new();
    };
    let gateway = Gateway {
        admin,
        token: config.admin.token.as_ref(),
        timeout: Duration::from_secs(5),
        answer_bytes_max: 16 << 20,
    };
    let metrics = gateway.text("/metrics");
    let one = |route: &Arc<Route>| {
        let (text, warning) = match &metrics {
            Ok(metrics) => refused_text(metrics, route.name.as_str()),
            // A gateway that does not run has nothing to tell.
            Err(error) => (error.to_string(), false),
        };
        Tried {
            name: format!("enforce = false on {}", path_text(&route.path)),
            result: Ok(text),
            warning,
        }
    };
    watching.map(one).collect()
}

/// Of how many events how many would have been refused, and whether any would.
fn refused_text(metrics: &str, route: &str) -> (String, bool) {
    let start = format!("hooklatch_unverified_total{{route={route:?},reason=\"");
    let counts = metrics.lines().filter_map(|line| {
        let (reason, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
        Some((reason, count.parse::<u64>().ok()?))
    });
    let mut counts: Vec<(&str, u64)> = counts.collect();
    counts.sort_unstable();
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let refused: Vec<_> = counts
        .iter()
        .filter(|(reason, _)| *reason != "not_enforced")
        .collect();
    let sum: u64 = refused.iter().map(|(_, count)| count).sum();
    let reasons: Vec<String> = refused
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let text = match sum {
        0 => format!("{all} events since the gateway started, none would have been refused"),
        sum => format!(
            "{sum} of {all} events since the gateway started would have been refused ({})",
            reasons.join(", ")
        ),
    };
    (text, sum > 0)
}

fn print_text(config: Option<&Config>, problems: &Problems, tried: &[Tried]) {
    let rendered = problems.render(colour());
    if !rendered.is_empty() {
        err(rendered.trim_end_matches('\n'));
        err("");
    }
    let Some(config) = config else {
        err(&problems.summary());
        return;
    };
    let count = config.routes.routes.len();
    let plural = if count == 1 { "" } else { "s" };
    let warnings = match problems.count(Severity::Warning) {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        many => format!(", {many} warnings"),
    };
    out(&format!(
        "ok  {}: {count} route{plural}{warnings}",
        problems.file()
    ));
    for route in &config.routes.routes {
        out(&format!("ok  {}", route_line(route, config)));
    }
    for tried in tried {
        match &tried.result {
            Ok(text) if tried.warning => out(&format!("warning  {}  {text}", tried.name)),
            Ok(text) => out(&format!("ok  {}  {text}", tried.name)),
            Err(text) => err(&format!("failed  {}  {text}", tried.name)),
        }
    }
}

/// `/hooks/quantiv  quantiv  queue  1 secret  -> http://127.0.0.1:3000/hooks/quantiv`.
fn route_line(route: &Route, config: &Config) -> String {
    let proof = match &route.verify {
        Verify::Nothing => "NOT VERIFIED".to_owned(),
        Verify::Signature { proofs, enforce } => {
            let count: usize = proofs.iter().map(|proof| proof.keys.len()).sum();
            let plural = if count == 1 { "" } else { "s" };
            let enforced = if *enforce { "" } else { ", NOT ENFORCED" };
            format!("{count} secret{plural}{enforced}")
        }
    };
    let upstreams: Vec<String> = upstreams(route, config)
        .into_iter()
        .map(|(name, endpoint)| match name {
            "app" => url(endpoint),
            name => format!("{name} {}", url(endpoint)),
        })
        .collect();
    format!(
        "{}  {}  {}  {proof}  -> {}",
        path_text(&route.path),
        route.provider,
        mode_word(route),
        upstreams.join(", ")
    )
}

fn print_json(config: Option<&Config>, problems: &Problems, tried: &[Tried]) {
    let list: Vec<Value> = problems
        .list()
        .iter()
        .map(|problem| {
            json!({
                "severity": match problem.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "text": problem.text,
                "help": problem.help,
                "line": problem.place.as_ref().map(|place| place.line),
                "column": problem.place.as_ref().map(|place| place.column),
            })
        })
        .collect();
    let routes: Vec<Value> = config.map_or_else(Vec::new, |config| {
        let one = |route: &Arc<Route>| {
            let upstreams: Vec<Value> = upstreams(route, config)
                .into_iter()
                .map(|(name, endpoint)| json!({ "name": name, "url": url(endpoint) }))
                .collect();
            let (verified, secrets) = match &route.verify {
                Verify::Nothing => (false, Vec::new()),
                Verify::Signature { proofs, enforce } => {
                    let keys = proofs.iter().flat_map(|proof| &proof.keys);
                    (*enforce, keys.map(|key| key.name.as_str()).collect())
                }
            };
            json!({
                "name": route.name.as_str(),
                "path": path_text(&route.path),
                "provider": route.provider.as_str(),
                "mode": mode_word(route),
                "verified": verified,
                "secrets": secrets,
                "upstreams": upstreams,
            })
        };
        config.routes.routes.iter().map(one).collect()
    });
    let checks: Vec<Value> = tried
        .iter()
        .map(|tried| {
            let (Ok(text) | Err(text)) = &tried.result;
            json!({ "name": tried.name, "ok": tried.result.is_ok(), "warning": tried.warning, "text": text })
        })
        .collect();
    let ok = config.is_some() && tried.iter().all(|tried| tried.result.is_ok());
    let document = json!({
        "ok": ok,
        "file": problems.file(),
        "problems": list,
        "routes": routes,
        "checks": checks,
    });
    out(&format!("{document:#}"));
}

fn path_text(path: &RoutePath) -> String {
    match path {
        RoutePath::Exact(path) => path.to_string(),
        RoutePath::Below(prefix) => format!("{prefix}*"),
    }
}

fn mode_word(route: &Route) -> &'static str {
    match route.mode {
        Mode::Queue { .. } => "queue",
        Mode::Proxy(_) => "proxy",
    }
}

/// Names and addresses of the route's upstreams.
fn upstreams<'c>(route: &'c Route, config: &'c Config) -> Vec<(&'c str, &'c Endpoint)> {
    match &route.mode {
        Mode::Proxy(upstream) => vec![(upstream.name.as_str(), &upstream.endpoint)],
        Mode::Queue { .. } => config
            .lanes
            .iter()
            .filter(|lane| lane.target.route == route.name)
            .map(|lane| (lane.target.upstream.as_str(), &lane.endpoint))
            .collect(),
    }
}

/// The address without its query, which may hold a token.
fn url(endpoint: &Endpoint) -> String {
    let scheme = if endpoint.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", endpoint.authority, endpoint.path)
}

/// Whether events could be kept there: kind of file system, free space, and how long a sync takes.
fn try_store(settings: &inbox::Settings) -> Tried {
    let name = format!("store {}", settings.path.display());
    let folder = existing(&settings.path);
    let result = probe_folder(&folder, settings);
    Tried::new(name, result)
}

fn probe_folder(folder: &Path, settings: &inbox::Settings) -> Result<String, String> {
    if !folder.is_dir() {
        return Err(format!("{} is not a folder", folder.display()));
    }
    let file_system = file_system_of(folder);
    let kind = file_system.as_deref().unwrap_or("unknown file system");
    if let ("tmpfs" | "ramfs" | "overlay" | "emptyDir", false) = (kind, settings.allow_ephemeral) {
        return Err(format!(
            "is on {kind}: events would be lost with the container or machine; mount a volume, or set \
             allow_ephemeral = true"
        ));
    }
    let free = rustix::fs::statvfs(folder)
        .map(|figures| figures.f_bavail.saturating_mul(figures.f_frsize))
        .map_err(|error| format!("cannot be measured: {error}"))?;
    if free < settings.free_bytes_min {
        return Err(format!(
            "has {} free, under min_free = {}: nothing would be accepted",
            show_size(free),
            show_size(settings.free_bytes_min)
        ));
    }
    let sync = time_syncs(folder).map_err(|error| format!("cannot be written to: {error}"))?;
    let made = if folder == settings.path {
        ""
    } else {
        ", will be made"
    };
    Ok(format!(
        "{kind}, {} free, sync {:.1} ms{made}",
        show_size(free),
        sync.as_secs_f64() * 1000.0
    ))
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> PathBuf {
    let above = folder.ancestors().find(|path| path.exists());
    match above {
        Some(path) if !path.as_os_str().is_empty() => path.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The mean time of a synced write to a new file, which is removed again.
fn time_syncs(folder: &Path) -> io::Result<Duration> {
    let path = folder.join(format!(".hooklatch-check-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let begin = Instant::now();
    let written = (0..SYNCS).try_for_each(|_| {
        file.write_all(&[0; 4096])?;
        file.sync_data()
    });
    let elapsed = begin.elapsed();
    fs::remove_file(&path)?;
    written?;
    Ok(elapsed / SYNCS)
}

/// The kind of file system below `folder`, as the kernel names it; `emptyDir` for one of the kubelet.
fn file_system_of(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system_in(&mounts, &folder)
}

/// Fields of a line (proc(5)): id, parent, device, root, mount point, options ..., "-", type, source, options.
fn file_system_in(mounts: &str, folder: &Path) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let Some(kind) = fields.skip_while(|field| *field != "-").nth(1) else {
            continue;
        };
        let kind = if root.contains("kubernetes.io~empty-dir") {
            "emptyDir"
        } else {
            kind
        };
        // Later mounts on the same point cover earlier ones.
        if folder.starts_with(point) && best.as_ref().is_none_or(|(length, _)| point.len() >= *length) {
            best = Some((point.len(), kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// Connects to every upstream's address once.
fn try_upstreams(config: &Config) -> Vec<Tried> {
    let mut endpoints: Vec<&Endpoint> = Vec::new();
    for route in &config.routes.routes {
        for (_, endpoint) in upstreams(route, config) {
            let known = endpoints
                .iter()
                .any(|other| other.authority == endpoint.authority && other.tls == endpoint.tls);
            if !known {
                endpoints.push(endpoint);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let result = Err(format!("cannot connect from here: {error}"));
            return vec![Tried::new("upstreams".to_owned(), result)];
        }
    };
    endpoints
        .into_iter()
        .map(|endpoint| {
            let begin = Instant::now();
            let wait = async { tokio::time::timeout(CONNECT_WAIT, connect(endpoint)).await };
            let result = match runtime.block_on(wait) {
                Ok(Ok(())) => Ok(format!(
                    "connected in {:.1} ms",
                    begin.elapsed().as_secs_f64() * 1000.0
                )),
                Ok(Err(error)) => Err(format!("cannot connect: {error}")),
                Err(_) => Err(format!("no connection within {}", show_duration(CONNECT_WAIT))),
            };
            let scheme = if endpoint.tls { "https" } else { "http" };
            Tried::new(format!("{scheme}://{}", endpoint.authority), result)
        })
        .collect()
}

async fn connect(endpoint: &Endpoint) -> io::Result<()> {
    let stream = tokio::net::TcpStream::connect((&*endpoint.host, endpoint.port)).await?;
    if endpoint.tls {
        let name =
            rustls_pki_types::ServerName::try_from(endpoint.host.to_string()).map_err(io::Error::other)?;
        tls_connector()?.connect(name, stream).await?;
    }
    Ok(())
}

fn tls_connector() -> io::Result<tokio_rustls::TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    // Some platforms hold certificates that cannot be parsed; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_watching_route_would_have_refused_is_a_warning() {
        let metric = |reason: &str, count| {
            format!("hooklatch_unverified_total{{route=\"hooks/a\",reason=\"{reason}\"}} {count}\n")
        };
        for (metrics, text, warning) in [
            (
                String::new(),
                "0 events since the gateway started, none would have been refused",
                false,
            ),
            (
                metric("not_enforced", 4),
                "4 events since the gateway started, none would have been refused",
                false,
            ),
            (
                metric("mismatch", 3),
                "3 of 3 events since the gateway started would have been refused (mismatch 3)",
                true,
            ),
        ] {
            assert_eq!(refused_text(&metrics, "hooks/a"), (text.to_owned(), warning));
        }
    }

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      23 22 0:5 / /run rw - tmpfs tmpfs rw\n\
                      24 22 8:1 /pods/1/volumes/kubernetes.io~empty-dir/q /data rw - ext4 /dev/sda1 rw\n\
                      25 22 0:9 / /runner rw shared:2 master:3 - xfs /dev/sdb rw\n";
        for (folder, kind) in [
            ("/var/lib", "ext4"),
            ("/run/hooklatch", "tmpfs"),
            ("/runner/x", "xfs"),
            ("/data", "emptyDir"),
        ] {
            assert_eq!(
                file_system_in(mounts, Path::new(folder)).as_deref(),
                Some(kind),
                "{folder}"
            );
        }
    }
}
