//! The verbs, one file each: a file owns its arguments and gives the exit code.
//!
//! Exit codes are those of the whole program: 0 done, 1 failed, 2 configuration or arguments, 70 store failed, 75 store
//! in use.

mod capture;
pub mod check;
pub mod error;
pub mod init;
pub mod providers;
pub mod secret_args;
pub mod sign;
pub mod verify;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::error::CliError;
use self::secret_args::{RouteSecrets, SecretSource};
use crate::clock::SystemClock;
use crate::config::{
    Config, Env, KnownSecret, Problems, ProcessEnv, SignedRoute, inspect_file, signed_routes,
};
use crate::provider::explain::NamedSecret;
use crate::provider::scheme::Scheme;

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
    /// Write a configuration for one provider
    Init(init::Args),
    /// Say everything that is wrong with the configuration and whether its store can be used
    Check(check::Args),
    Sign(sign::Args),
    Verify(verify::Args),
    Providers(providers::Args),
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
    let (input, output) = (&mut io::stdin(), &mut io::stdout());
    let secrets = &ConfigSecrets(&cli.global);
    let done = match &cli.verb {
        Verb::Init(args) => Ok(init::run(args)),
        Verb::Check(args) => Ok(check::run(&cli.global, args)),
        Verb::Sign(args) => sign::run(args, secrets, &SystemClock, input, output),
        Verb::Verify(args) => verify::run(args, secrets, &SystemClock, input, output),
        Verb::Providers(args) => providers::run(args, output),
    };
    done.unwrap_or_else(|error| {
        err(&format!("error: {error}"));
        ExitCode::from(error.exit_code())
    })
}

/// Secrets as the configuration names them.
struct ConfigSecrets<'g>(&'g Global);

impl SecretSource for ConfigSecrets<'_> {
    fn env(&self, name: &str) -> Option<Vec<u8>> {
        ProcessEnv.var(name)
    }

    fn route(&self, config: Option<&Path>, route: &str) -> Result<RouteSecrets, CliError> {
        let path = config.map_or_else(|| self.0.config_path(), Path::to_owned);
        let signed =
            signed_routes(&path, &ProcessEnv).map_err(|problems| CliError::Config(problems.to_string()))?;
        let is_ours = |candidate: &SignedRoute| candidate.route.name.as_str() == route;
        let Some(ours) = signed.iter().find(|candidate| is_ours(candidate)) else {
            let names: Vec<&str> = signed.iter().map(|other| other.route.name.as_str()).collect();
            let text = format!(
                "{} has no route {route:?} that verifies; there are: {}",
                path.display(),
                names.join(", ")
            );
            return Err(CliError::Config(text));
        };
        let named = |secret: &KnownSecret, of_route: bool| NamedSecret {
            name: secret.name.clone(),
            text: secret.text.clone(),
            until: secret.until,
            of_route,
        };
        let theirs = signed.iter().filter(|other| !is_ours(other));
        Ok(RouteSecrets {
            scheme: Scheme::clone(&ours.scheme),
            secrets: (ours.secrets.iter().map(|secret| named(secret, true)))
                .chain(theirs.flat_map(|other| other.secrets.iter().map(|secret| named(secret, false))))
                .collect(),
        })
    }
}

impl Global {
    /// The configuration's path: the one named, `$HOOKLATCH_CONFIG`, or the first of the usual places that exists.
    pub fn config_path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        if let Some(path) = ProcessEnv.var("HOOKLATCH_CONFIG").filter(|path| !path.is_empty()) {
            use std::os::unix::ffi::OsStringExt;
            return OsString::from_vec(path).into();
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
