//! `hooklatch run`: the gateway itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Config};
use crate::run::{Reread, run as run_gateway};

/// Where tests and supervisors may ask for the addresses to be written once events are taken.
const READY_FILE_VARIABLE: &str = "HOOKLATCH_READY_FILE";

/// What can be said on the command line; it wins over the file.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Keep the store here instead of `[store] path`.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Accept a store on tmpfs, overlayfs or an emptyDir: its events go with it.
    #[arg(long)]
    allow_ephemeral: bool,
}

/// Runs until a signal says stop.
pub fn run(args: &Args, config_path: &Path, err: &mut dyn std::io::Write) -> std::io::Result<ExitCode> {
    let (args, path) = (args.clone(), config_path.to_owned());
    let read = move || {
        config::load(&path).map(|config| over(config, &args)).map_err(|problems| problems.render(false))
    };
    let config = match read() {
        Ok(config) => config,
        Err(problems) => {
            writeln!(err, "{problems}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let reread: Reread = Box::new(read);
    let ready_file = std::env::var_os(READY_FILE_VARIABLE).map(PathBuf::from);
    match run_gateway(config, reread, ready_file) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(err, "hooklatch: {error}")?;
            Ok(error.exit_code())
        }
    }
}

fn over(mut config: Config, args: &Args) -> Config {
    if let Some(store) = &mut config.store {
        if let Some(path) = &args.store {
            store.path.clone_from(path);
        }
        store.allow_ephemeral |= args.allow_ephemeral;
    }
    config
}
