//! Rotation of secrets: which are listed since when, and the files that they are read from.

use std::time::Duration;

use tokio::time::sleep;

use crate::admin::{ListedSecret, RouteSecrets};
use crate::config::{Config, FileStamp, SecretFile};
use crate::event::{SecretName, Timestamp};
use crate::receive::settings::Verify;

/// The files are looked at this often.
const LOOK_WAIT: Duration = Duration::from_secs(5);
/// A file that has changed is looked at again after this long, until it stays as it is: its writer may not be done.
const SETTLE_WAIT: Duration = Duration::from_secs(1);
/// At most so often; then it is read as it is.
const SETTLE_LOOKS_MAX: usize = 10;

/// Names of secrets whose file is not what it was when `old` was read.
pub(super) fn replaced(old: &[SecretFile], new: &[SecretFile]) -> Vec<String> {
    let is_replaced = |file: &&SecretFile| {
        let known = old.iter().find(|known| known.what == file.what);
        known.is_some_and(|known| known.stamp != file.stamp)
    };
    new.iter()
        .filter(is_replaced)
        .map(|file| file.what.clone())
        .collect()
}

/// The secrets of all routes. Those that `before` lists too are counted since then, the others and the `replaced` since `now`.
pub(super) fn listed(
    config: &Config,
    before: &[RouteSecrets],
    replaced: &[String],
    now: Timestamp,
) -> Vec<RouteSecrets> {
    let routes = config.routes.routes.iter();
    routes
        .map(|route| {
            let known = before.iter().find(|known| known.route == route.name);
            let mut secrets: Vec<ListedSecret> = Vec::new();
            if let Verify::Signature { proofs, .. } = &route.verify {
                for key in proofs.iter().flat_map(|proof| &proof.keys) {
                    let known = known
                        .filter(|_| !is_among(&key.name, replaced))
                        .and_then(|known| known.secrets.iter().find(|secret| secret.name == key.name));
                    secrets.push(ListedSecret {
                        name: key.name.clone(),
                        until: key.until,
                        since: known.map_or(now, |known| known.since),
                    });
                }
            }
            RouteSecrets {
                route: route.name.clone(),
                provider: route.provider.clone(),
                secrets,
            }
        })
        .collect()
}

/// Whether a secret is among those that `replaced` names as messages do.
pub(super) fn is_among(name: &SecretName, replaced: &[String]) -> bool {
    replaced.iter().any(|what| *what == format!("secret \"{name}\""))
}

/// The files of secrets as they were when they were last read.
pub(super) struct SecretFiles(Vec<SecretFile>);

impl SecretFiles {
    pub(super) fn new(read: &[SecretFile]) -> Self {
        Self(read.to_vec())
    }

    /// Waits until one is written or replaced and stays as it is, links followed. Gives the files as they are then, and
    /// which secrets are theirs. Without files it waits for ever.
    pub(super) async fn changed(mut self) -> (Self, Vec<String>) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_WAIT).await;
            let mut seen = self.look().await;
            for _ in 0..SETTLE_LOOKS_MAX {
                if self.differing(&seen).is_empty() {
                    break;
                }
                sleep(SETTLE_WAIT).await;
                let again = self.look().await;
                let is_settled = again == seen;
                seen = again;
                if is_settled {
                    break;
                }
            }
            let changed = self.differing(&seen);
            if !changed.is_empty() {
                for (file, stamp) in self.0.iter_mut().zip(seen) {
                    file.stamp = stamp;
                }
                return (self, changed);
            }
        }
    }

    /// Which secrets' files have another stamp now.
    fn differing(&self, seen: &[Option<FileStamp>]) -> Vec<String> {
        let pairs = self.0.iter().zip(seen);
        pairs
            .filter(|(file, stamp)| file.stamp != **stamp)
            .map(|(file, _)| file.what.clone())
            .collect()
    }

    /// Off the runtime's workers: the files may be on a volume that takes its time.
    async fn look(&self) -> Vec<Option<FileStamp>> {
        let paths: Vec<_> = self.0.iter().map(|file| file.path.clone()).collect();
        let looked =
            tokio::task::spawn_blocking(move || paths.iter().map(|path| FileStamp::of(path)).collect());
        // Only a runtime that ends drops it.
        looked
            .await
            .unwrap_or_else(|_| self.0.iter().map(|file| file.stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    fn watched(paths: &[PathBuf]) -> SecretFiles {
        let file = |path: &PathBuf| SecretFile {
            what: path.file_name().unwrap().to_str().unwrap().to_owned(),
            path: path.clone(),
            stamp: FileStamp::of(path),
        };
        SecretFiles(paths.iter().map(file).collect())
    }

    /// What has changed within a minute.
    async fn wait(files: SecretFiles) -> Option<(SecretFiles, Vec<String>)> {
        timeout(Duration::from_secs(60), files.changed()).await.ok()
    }

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_files_and_no_changes_wait_for_ever() {
        assert!(wait(watched(&[])).await.is_none());
        let dir = TempDir::new().unwrap();
        let (one, missing) = (dir.path().join("one"), dir.path().join("missing"));
        fs::write(&one, "text").unwrap();
        assert!(wait(watched(&[one, missing])).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_replaced_or_removed_is_named_once() {
        let dir = TempDir::new().unwrap();
        let paths = ["one", "two", "three"].map(|name| dir.path().join(name));
        paths.iter().for_each(|path| fs::write(path, "text").unwrap());
        let [one, two, three] = &paths;
        let files = watched(&paths);
        fs::write(one, "longer text").unwrap();
        replace(two, "next");
        let (files, changed) = wait(files).await.unwrap();
        assert_eq!(changed, ["one", "two"]);
        fs::remove_file(three).unwrap();
        let (files, changed) = wait(files).await.unwrap();
        assert_eq!(changed, ["three"]);
        fs::write(three, "text").unwrap();
        let (files, changed) = wait(files).await.unwrap();
        assert_eq!(changed, ["three"]);
        assert!(wait(files).await.is_none(), "seen already");
    }

    /// As a volume of Kubernetes does it: the file is a link through a link to a folder that is swapped.
    #[tokio::test(start_paused = true)]
    async fn a_swapped_folder_is_seen() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["..1", "..2"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("key"), "text").unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let files = watched(&[at("key")]);
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(wait(files).await.unwrap().1, ["key"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_at_work_is_waited_for_but_not_for_ever() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "text").unwrap();
        let mut changed = Box::pin(watched(std::slice::from_ref(&path)).changed());
        // Several times between two looks: each is made by another thread, before or after the writing that is due at its time.
        let often = SETTLE_WAIT / 4;
        let mut written = 0;
        let names = loop {
            fs::write(&path, "x".repeat(written + 5)).unwrap();
            written += 1;
            if let Ok((_, names)) = timeout(often, &mut changed).await {
                break names;
            }
            assert!(written < 240);
        };
        assert_eq!(names, ["key"]);
        assert!(written > 32, "{written}");
    }
}
