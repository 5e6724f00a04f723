//! `hooklatch secrets`: asks a running gateway which secret of a route is in use, and which old one can go.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use super::events::Defaults;
use super::gateway::{AskError, Gateway, plain};

/// The gateway answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// One wait for a secret: longer than the gateway's own.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(40);
/// A gateway that has not refused a capture in this time waits for it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the gateway's answer: thousands of secrets.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// `hooklatch secrets`.
#[derive(Debug, Args)]
pub struct SecretsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say per route which secret is in use, when it was last used, until when it is accepted, and whether it can go.
    Status(StatusArgs),
    /// Wait for the secret that the provider of a route sends in a handshake (Asana, Notion), and write it to the route's secret file.
    Capture(CaptureArgs),
}

#[derive(Debug, Args)]
struct CaptureArgs {
    /// The route, by name; its secret must come from a file, which may hold any text before.
    route: String,
    /// How long to wait, like 90s or 10m.
    #[arg(long = "for", default_value = "10m", value_parser = parse_quiet)]
    wait: Duration,
    /// Where the gateway's admin API listens; default: the configuration's.
    #[arg(long)]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// So long without a use before an old secret can go, like 90m, 24h or 7d.
    #[arg(long, default_value = "72h", value_parser = parse_quiet)]
    quiet: Duration,
    /// Where the gateway's admin API listens; default: the configuration's.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Why the command could not do it.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Neither argument nor configuration names the admin listener.
    #[error("no admin listener named; pass --admin or a configuration with [admin]")]
    NoAdmin,
    /// The configuration that should name it cannot be used.
    #[error(
        "{problem}\nhooklatch: nothing was done; mend the configuration, or name the gateway with --admin"
    )]
    Config {
        /// What is wrong with it.
        problem: String,
    },
    /// The gateway does not answer, or not with what was asked for.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// No secret came.
    #[error("no handshake with a secret came in this time")]
    Nothing,
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

/// The gateway's report, as far as it is printed.
#[derive(Debug, Deserialize)]
struct Report {
    routes: Vec<RouteReport>,
}

#[derive(Debug, Deserialize)]
struct RouteReport {
    route: String,
    secrets: Vec<SecretReport>,
}

#[derive(Debug, Deserialize)]
struct SecretReport {
    name: String,
    state: String,
    matches: u64,
    last_used: Option<String>,
    counted_since: String,
    until: Option<String>,
    advice: String,
}

/// Runs the command.
///
/// # Errors
/// See [`SecretsError`].
pub fn run(args: &SecretsArgs, defaults: &Defaults, out: &mut dyn Write) -> Result<(), SecretsError> {
    let args = match &args.verb {
        Verb::Status(args) => args,
        Verb::Capture(args) => return capture(args, defaults, out),
    };
    let gateway = Gateway {
        admin: admin(args.admin, defaults)?,
        token: defaults.token.as_ref(),
        timeout: ANSWER_TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let target = format!("/-/secrets?quiet_secs={}", args.quiet.as_secs());
    let answer = gateway.ask("GET", &target, "")?;
    let report = Report::deserialize(&answer).map_err(|_| AskError::Answer)?;
    match args.output {
        Output::Text => print(&report, out),
        Output::Json => print_json(&answer, out),
    }
    .map_err(SecretsError::Write)
}

/// Where the gateway listens: as said, or as the configuration says.
fn admin(said: Option<SocketAddr>, defaults: &Defaults) -> Result<SocketAddr, SecretsError> {
    said.or(defaults.admin)
        .ok_or_else(|| match defaults.problem.clone() {
            Some(problem) => SecretsError::Config { problem },
            None => SecretsError::NoAdmin,
        })
}

fn capture(args: &CaptureArgs, defaults: &Defaults, out: &mut dyn Write) -> Result<(), SecretsError> {
    let gateway = Gateway {
        admin: admin(args.admin, defaults)?,
        token: defaults.token.as_ref(),
        timeout: CAPTURE_TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("route", &args.route)
        .finish();
    let target = format!("/-/capture?{query}");
    let said = |out: &mut dyn Write, text: &str| {
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        written.map_err(SecretsError::Write)
    };
    let until = Instant::now() + args.wait;
    let mut waits = false;
    while Instant::now() < until {
        // A gateway that refuses does so at once; only one that waits is worth a word.
        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| gateway.ask("POST", &target, ""));
            let begun = Instant::now();
            while !waits && !asked.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
                if begun.elapsed() > REFUSAL_TIMEOUT {
                    waits = true;
                    said(
                        out,
                        "waiting for the provider's handshake; register the webhook now",
                    )?;
                }
            }
            let answer = asked.join().map_err(|_| AskError::Answer)?;
            Ok::<_, SecretsError>(answer?)
        })?;
        if answer.get("captured") == Some(&Value::Bool(true)) {
            return said(
                out,
                "captured: the secret is in the route's file, and in use within seconds",
            );
        }
    }
    Err(SecretsError::Nothing)
}

fn print_json(answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{answer:#}")?;
    out.flush()
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    const HEADERS: [&str; 7] = [
        "ROUTE",
        "SECRET",
        "STATE",
        "MATCHES",
        "LAST USED",
        "ACCEPTED UNTIL",
        "COUNTED SINCE",
    ];
    let secrets = || {
        let routes = report.routes.iter();
        routes.flat_map(|route| route.secrets.iter().map(|secret| (&*route.route, secret)))
    };
    let rows: Vec<_> = std::iter::once(HEADERS.map(str::to_owned))
        .chain(secrets().map(|(route, secret)| row(route, secret)))
        .collect();
    let mut widths = [0; HEADERS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    writeln!(out)?;
    for (route, secret) in secrets() {
        let line = format!("{route}, {}: {}", secret.name, secret.advice);
        writeln!(out, "{}", plain(&line))?;
    }
    out.flush()
}

fn row(route: &str, secret: &SecretReport) -> [String; 7] {
    [
        plain(route),
        plain(&secret.name),
        plain(&secret.state),
        secret.matches.to_string(),
        plain(secret.last_used.as_deref().unwrap_or("-")),
        plain(secret.until.as_deref().unwrap_or("-")),
        plain(&secret.counted_since),
    ]
}

/// Digits and one of `s`, `m`, `h`, `d`.
fn parse_quiet(text: &str) -> Result<Duration, String> {
    let wrong = || "write it like 90m, 24h or 7d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let secs: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    let secs = count.checked_mul(secs).ok_or_else(wrong)?;
    Ok(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (given, want) in [
            ("90m", Some(5400)),
            ("72h", Some(259_200)),
            ("7d", Some(604_800)),
            ("0s", Some(0)),
            ("72", None),
            ("h", None),
            ("", None),
            ("-1h", None),
            ("99999999999999999999d", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(parse_quiet(given).ok(), want.map(Duration::from_secs), "{given}");
        }
    }

    #[test]
    fn the_table_lines_up_and_drives_no_terminal() {
        let answer = serde_json::json!({ "routes": [
            { "route": "hooks/none", "secrets": [] },
            { "route": "hooks/quantiv", "secrets": [
                { "name": "quantiv", "state": "active", "matches": 1204, "last_used": "2026-11-21T02:19:56.913Z",
                  "until": null, "counted_since": "2026-11-18T00:00:00.000Z", "advice": "used 3 min ago: it must stay" },
                { "name": "old\u{1b}", "state": "expires", "matches": 0, "last_used": null,
                  "until": "2026-12-31T00:00:00.000Z", "counted_since": "2026-11-18T00:00:00.000Z", "advice": "it can go" },
            ] },
        ] });
        let mut text = Vec::new();
        print(&Report::deserialize(&answer).unwrap(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let want = "\
ROUTE          SECRET   STATE    MATCHES  LAST USED                 ACCEPTED UNTIL            COUNTED SINCE
hooks/quantiv  quantiv  active   1204     2026-11-21T02:19:56.913Z  -                         2026-11-18T00:00:00.000Z
hooks/quantiv  old\u{fffd}     expires  0        -                         2026-12-31T00:00:00.000Z  2026-11-18T00:00:00.000Z

hooks/quantiv, quantiv: used 3 min ago: it must stay
hooks/quantiv, old\u{fffd}: it can go
";
        assert_eq!(text, want);
    }
}
