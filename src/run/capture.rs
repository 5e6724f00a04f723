//! Secrets that a provider sends in a handshake: put into the file that the route reads its secret from.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::admin::CaptureRequest;
use crate::config::Config;
use crate::event::RouteName;
use crate::receive::FrontDoor;
use crate::receive::settings::Verify;
use crate::secret::SecretText;

/// Waits for the secret of a route, as long as whoever asked waits, and writes its file.
pub(super) fn begin(config: &Config, door: &Arc<FrontDoor>, request: CaptureRequest) {
    let CaptureRequest { route, mut answer } = request;
    let path = match file_of(config, &route) {
        Ok(path) => path,
        Err(problem) => {
            // Whoever asked may have gone.
            drop(answer.send(Err(problem)));
            return;
        }
    };
    let door = door.clone();
    drop(tokio::spawn(async move {
        let captured = tokio::select! {
            captured = door.capture_secret(&route) => captured,
            () = answer.closed() => return,
        };
        let Some(secret) = captured else { return };
        let written = write(&path, &secret);
        if let Err(error) = &written {
            tracing::error!(route = route.as_str(), error = %error, "a captured secret could not be written");
        } else {
            tracing::info!(route = route.as_str(), file = %path.display(), "a secret was captured");
        }
        let told = written.map_err(|error| format!("{} could not be written: {error}", path.display()));
        drop(answer.send(told));
    }));
}

/// The file that a route's first secret from a file is in.
fn file_of(config: &Config, route: &RouteName) -> Result<PathBuf, String> {
    let found = config.routes.routes.iter().find(|found| found.name == *route);
    let found = found.ok_or_else(|| format!("there is no route {:?}", route.as_str()))?;
    if !found
        .handshakes
        .iter()
        .any(|handshake| handshake.capture.is_some())
    {
        return Err(format!(
            "{} does not send its secret in a handshake",
            found.provider
        ));
    }
    let Verify::Signature { proofs, .. } = &found.verify else {
        return Err("this route checks nothing".to_owned());
    };
    let names = proofs
        .iter()
        .flat_map(|proof| &proof.keys)
        .map(|key| format!("secret \"{}\"", key.name));
    let file = names
        .into_iter()
        .find_map(|name| config.secret_files.iter().find(|file| file.what == name));
    file.map(|file| file.path.clone()).ok_or_else(|| {
        "the secret of this route must come from a file ({ file = \"...\" }), where the captured one is written to".to_owned()
    })
}

/// Replaces the file as a whole, readable for its owner only; a link to it stays one.
fn write(path: &Path, secret: &SecretText) -> io::Result<()> {
    let path = std::fs::canonicalize(path)?;
    // In a folder that others may write to, nobody knows it before it is there.
    let new = path.with_extension(format!("{:016x}.new", fastrand::u64(..)));
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(secret.expose())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        drop(std::fs::remove_file(&new));
    }
    written
}
