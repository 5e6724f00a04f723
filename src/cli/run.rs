//! `hooklatch run`: the gateway itself.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Global, err};
use crate::config::{Config, Env, ProcessEnv, load};
use crate::{Reread, run as run_gateway};

/// Where tests and supervisors may ask for the addresses to be written once events are taken.
const READY_FILE_VARIABLE: &str = "HOOKLATCH_READY_FILE";

/// What can be said on the command line; it wins over the file.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Keep the store here instead of at `[store] path`
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Accept a store on tmpfs, overlayfs or an emptyDir, whose events go with it
    #[arg(long)]
    allow_ephemeral: bool,
}

/// Runs until a signal says stop.
pub fn run(args: &Args, global: &Global) -> ExitCode {
    hide_memory();
    let config = match global.load() {
        // Its warnings are in the configuration too, and go to the log.
        Ok((config, _)) => over(config, args),
        Err(code) => return code,
    };
    let (again, path) = (args.clone(), global.config_path());
    let reread: Reread = Box::new(move || {
        // Warnings would bury what keeps it from running; they are said by the reload that succeeds.
        let config = load(&path).map_err(|problems| problems.errors_only().render(false))?;
        Ok(over(config, &again))
    });
    let ready_file = ProcessEnv.var(READY_FILE_VARIABLE).map(|path| {
        use std::os::unix::ffi::OsStringExt;
        std::ffi::OsString::from_vec(path).into()
    });
    match run_gateway(config, reread, ready_file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err(&format!("hooklatch: {error}"));
            error.exit_code()
        }
    }
}

/// The memory holds keys: it goes into no core file, and other processes of this user cannot read it.
fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Better to run without it than not at all.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
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
