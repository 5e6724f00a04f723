//! The verbs, one file each: a file owns its arguments and gives the exit code.
//!
//! Exit codes are those of the whole program: 0 done, 1 failed, 2 configuration or arguments, 70 store failed, 75 store
//! in use.

mod capture;
pub mod check;
mod config_lines;
mod config_secrets;
mod curl;
pub mod error;
pub mod events;
pub mod gateway;
pub mod health;
pub mod init;
mod provider_page;
pub mod providers;
pub mod run;
pub mod secret_args;
pub mod secrets;
pub mod send;
pub mod sign;
pub mod verify;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::config_secrets::ConfigSecrets;
use self::error::CliError;
use self::events::EventsError;
use self::secrets::SecretsError;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Env, Problems, ProcessEnv, inspect_file};

/// The exit code of a wrong configuration or wrong arguments.
pub const EXIT_CONFIG: u8 = 2;

/// Where a configuration is looked for when none is named, first found first.
const PLACES: [&str; 3] = [
    "hooklatch.toml",
    "config/hooklatch.toml",
    "/etc/hooklatch/hooklatch.toml",
];

/// Takes webhooks in, checks who sent them, keeps them safe and hands them to the app byte for byte.
#[derive(Debug, Parser)]
#[command(name = "hooklatch", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The configuration [default: $HOOKLATCH_CONFIG, hooklatch.toml, config/hooklatch.toml,
    /// /etc/hooklatch/hooklatch.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway
    Run(run::Args),
    /// Write a configuration for one provider or several
    Init(init::Args),
    /// Say everything that is wrong with the configuration and whether its store can be used
    Check(check::Args),
    /// Make the signature a provider would make for a body
    Sign(sign::Args),
    /// Check a captured request as the gateway would, and say why it fails
    Verify(verify::Args),
    /// Send a realistic signed event through the front door
    Send(send::Args),
    /// List the provider presets, or show one
    Providers(providers::Args),
    /// List and show kept events, or have them delivered again
    Events(events::EventsArgs),
    /// Ask a running gateway which secrets are in use, and which old one can go
    Secrets(secrets::SecretsArgs),
    /// Ask a running gateway whether it is ready
    Health(health::Args),
}

/// Runs the verb that `args` (the program's name first) name.
pub fn main<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a reader that is gone changes nothing.
            drop(error.print());
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match cli.verb {
        Verb::Run(args) => run::run(&args, &cli.global),
        Verb::Init(args) => init::run(&args, &cli.global),
        Verb::Check(args) => check::run(&cli.global, &args),
        Verb::Sign(args) => {
            let source = ConfigSecrets(&cli.global);
            said(sign::run(
                &args,
                &source,
                &SystemClock,
                &mut io::stdin(),
                &mut io::stdout(),
            ))
        }
        Verb::Verify(args) => {
            let source = ConfigSecrets(&cli.global);
            said(verify::run(
                &args,
                &source,
                &SystemClock,
                &mut io::stdin(),
                &mut io::stdout(),
            ))
        }
        Verb::Send(args) => match cli.global.load() {
            Ok((config, _)) => said(send::run(&args, &config, &SystemClock, &mut io::stdout())),
            Err(code) => code,
        },
        Verb::Providers(args) => said(providers::run(&args, &mut io::stdout())),
        Verb::Events(args) => look_at_events(args, &cli.global),
        Verb::Secrets(args) => look_at_secrets(&args, &cli.global),
        Verb::Health(args) => health::run(&args, &cli.global),
    }
}

/// The configuration fills in what the arguments leave out; without one they must name everything.
fn defaults(global: &Global) -> events::Defaults {
    let (config, problems) = inspect_file(&global.config_path(), &ProcessEnv);
    match config {
        Some(config) => events::Defaults {
            store: config.store.map(|store| store.path),
            admin: config.admin.listen.map(reachable),
            token: config.admin.token,
            routes: config
                .routes
                .routes
                .iter()
                .map(|route| route.name.as_str().to_owned())
                .collect(),
            problem: None,
        },
        None => events::Defaults {
            problem: Some(format!("{}{}", problems.render(colour()), problems.summary())),
            ..events::Defaults::default()
        },
    }
}

fn look_at_events(args: events::EventsArgs, global: &Global) -> ExitCode {
    match events::run(args, &defaults(global), SystemClock.now(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(EventsError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error @ EventsError::Config { .. }) => {
            err(&error.to_string());
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error @ EventsError::NoRoute(_)) => {
            err(&format!("hooklatch: {error}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            err(&format!("hooklatch: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn look_at_secrets(args: &secrets::SecretsArgs, global: &Global) -> ExitCode {
    match secrets::run(args, &defaults(global), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(SecretsError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error @ SecretsError::Config { .. }) => {
            err(&error.to_string());
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            err(&format!("hooklatch: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The verb's exit code; what went wrong is said.
fn said(outcome: Result<ExitCode, CliError>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        // Whoever read our output has had enough.
        Err(CliError::Stdio(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            err(&format!("hooklatch: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

impl Global {
    /// The configuration that the person named: by the option, or by `$HOOKLATCH_CONFIG`.
    fn named(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let variable = || ProcessEnv.var("HOOKLATCH_CONFIG").filter(|path| !path.is_empty());
        let named = self.config.clone();
        named.or_else(|| variable().map(|path| OsString::from_vec(path).into()))
    }

    /// The configuration's path: the one named, `$HOOKLATCH_CONFIG`, or the first of the usual places that exists.
    pub fn config_path(&self) -> PathBuf {
        if let Some(path) = self.named() {
            return path;
        }
        let found = PLACES.iter().map(PathBuf::from).find(|path| path.exists());
        // Where none exists, the error names the first place.
        found.unwrap_or_else(|| PathBuf::from("hooklatch.toml"))
    }

    /// The configuration, its warnings still unsaid; or, all problems said, the exit code.
    ///
    /// # Errors
    /// The exit code of a wrong configuration.
    pub fn load(&self) -> Result<(Config, Problems), ExitCode> {
        let (config, problems) = inspect_file(&self.config_path(), &ProcessEnv);
        match config {
            Some(config) => Ok((config, problems)),
            None => {
                err(&format!("{}{}", problems.render(colour()), problems.summary()));
                Err(ExitCode::from(EXIT_CONFIG))
            }
        }
    }
}

/// Nobody can connect to "every address".
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen
}

/// Writes a line to standard output; a reader that is gone is no reason to stop.
pub(crate) fn out(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

/// Writes a line to standard error.
pub(crate) fn err(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Whether standard error takes colours.
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && ProcessEnv.var("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
