//! A disk whose power can be cut.
//!
//! *Mounted*: ext4 or XFS on a loop device, cut with `FS_IOC_SHUTDOWN` (the "godown" of xfstests): the file system forgets
//! all that was not synced. Needs root and loop devices. *Recorded*: a preloaded library copies each file to a second
//! folder at each sync; after the kill, that folder is what the disk holds. Needs a C compiler only. *Kept*: a plain
//! folder, which outlives the process with all that was written.
//!
//! A disk can be lost in two ways. *Cut*: the machine loses its power, so nothing runs on and nobody is answered any
//! more. *Pulled*: only the disk goes, and the gateway lives on without it. There a sync that is under way may be told
//! "done" for what is lost: ext4 does so now and then, the recorded disk always.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::image::{Fs, Mount, run, scratch};
use crate::support::Gateway;

/// A disk for one store.
#[derive(Debug)]
pub(super) struct Disk {
    kind: Kind,
    store: PathBuf,
    /// While it exists, syncs fail.
    failing: PathBuf,
    dir: TempDir,
}

#[derive(Debug)]
enum Kind {
    Mounted {
        mount: Mount,
        cut: PathBuf,
    },
    Recorded {
        shadow: PathBuf,
        pulled: PathBuf,
        lost: PathBuf,
    },
    Kept,
}

/// What the syncs of a gateway do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    Work,
    /// They say "done" and do nothing.
    Pretend,
    /// They work, and fail with EIO once [`Disk::fail_syncs`] says so.
    MayFail,
}

impl Disk {
    /// A mounted disk. Where there is no XFS, ext4; where mounts are not allowed, a recorded one.
    pub(super) fn mounted(fs: Fs) -> Self {
        let reason = match Self::try_mounted(fs) {
            Ok(disk) => return disk,
            Err(reason) => reason,
        };
        if fs == Fs::Ext4 {
            println!("no loop mount here ({reason}); recording writes instead");
            return Self::recorded();
        }
        println!("no {} here ({reason}); using ext4 instead", fs.name());
        Self::mounted(Fs::Ext4)
    }

    fn try_mounted(fs: Fs) -> Result<Self, String> {
        let dir = scratch();
        let mount = Mount::new(fs, dir.path())?;
        let store = mount.point.join("store");
        let cut = compile(&dir, "cut.c", &[]);
        Ok(Self::new(Kind::Mounted { mount, cut }, store, dir))
    }

    pub(super) fn recorded() -> Self {
        let dir = scratch();
        let shadow = dir.path().join("shadow");
        std::fs::create_dir(&shadow).unwrap();
        let kind = Kind::Recorded {
            shadow,
            pulled: dir.path().join("pulled"),
            lost: dir.path().join("lost"),
        };
        let store = dir.path().join("store");
        Self::new(kind, store, dir)
    }

    pub(super) fn kept() -> Self {
        let dir = scratch();
        let store = dir.path().join("store");
        Self::new(Kind::Kept, store, dir)
    }

    fn new(kind: Kind, store: PathBuf, dir: TempDir) -> Self {
        Self {
            kind,
            store,
            failing: dir.path().join("failing"),
            dir,
        }
    }

    /// What it is.
    pub(super) fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Mounted { mount, .. } => mount.fs.name(),
            Kind::Recorded { .. } => "recorded writes",
            Kind::Kept => "a kept folder",
        }
    }

    /// Where the store goes.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// What the gateway must find in its environment.
    pub(super) fn environment(&self, syncs: Syncs) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut environment = Vec::new();
        let mut library = None;
        if let Kind::Recorded { shadow, pulled, lost } = &self.kind {
            environment.push(("ORACLE_STORE".to_owned(), text(&self.store)));
            environment.push(("ORACLE_SHADOW".to_owned(), text(shadow)));
            environment.push(("ORACLE_PULLED".to_owned(), text(pulled)));
            environment.push(("ORACLE_LOST".to_owned(), text(lost)));
            library = Some("disk.c");
        }
        match syncs {
            Syncs::Work => {}
            Syncs::Pretend => {
                environment.push(("ORACLE_NO_SYNC".to_owned(), "1".to_owned()));
                library = Some("disk.c");
            }
            Syncs::MayFail => {
                environment.push(("FAIL_SYNC_WHEN".to_owned(), text(&self.failing)));
                library.get_or_insert("fail_sync.c");
            }
        }
        if let Some(source) = library {
            let library = compile(&self.dir, source, &["-shared", "-fPIC"]);
            environment.push(("LD_PRELOAD".to_owned(), text(&library)));
        }
        environment
    }

    /// Makes the syncs of a gateway fail that was started with [`Syncs::MayFail`], or work again.
    pub(super) fn fail_syncs(&self, fail: bool) {
        if fail {
            std::fs::write(&self.failing, "").unwrap();
        } else {
            std::fs::remove_file(&self.failing).unwrap();
        }
    }

    /// Cuts the power of what [`Gateway::freeze`] stopped: gateway and disk end at the same moment. A kept folder only
    /// sees its process killed.
    pub(super) fn cut(&self, gateway: &mut Gateway) {
        if let Kind::Mounted { .. } = self.kind {
            self.pull();
        }
        gateway.kill9();
    }

    /// Takes the disk away from a gateway that runs on.
    pub(super) fn pull(&self) {
        match &self.kind {
            Kind::Mounted { mount, cut } => run(Command::new(cut).arg(&mount.point)).unwrap(),
            Kind::Recorded { pulled, .. } => std::fs::write(pulled, "").unwrap(),
            Kind::Kept => panic!("a kept folder cannot be pulled"),
        }
    }

    /// Brings the disk back with what it holds. The gateway must have ended.
    pub(super) fn restore(&self) {
        match &self.kind {
            Kind::Mounted { mount, .. } => mount.again(),
            Kind::Recorded { shadow, pulled, lost } => {
                drop(std::fs::remove_file(pulled));
                drop(std::fs::remove_file(lost));
                drop(std::fs::remove_dir_all(&self.store));
                run(Command::new("cp").arg("-a").arg(shadow).arg(&self.store)).unwrap();
            }
            Kind::Kept => {}
        }
    }

    /// Empties it.
    pub(super) fn wipe(&self) {
        match &self.kind {
            Kind::Mounted { mount, .. } => mount.anew(),
            Kind::Recorded { shadow, .. } => {
                std::fs::remove_dir_all(shadow).unwrap();
                std::fs::create_dir(shadow).unwrap();
                drop(std::fs::remove_dir_all(&self.store));
            }
            Kind::Kept => drop(std::fs::remove_dir_all(&self.store)),
        }
    }
}

/// Compiles a helper of `tests/oracle/` into `dir`.
fn compile(dir: &TempDir, source: &str, options: &[&str]) -> PathBuf {
    let output = dir.path().join(source).with_extension("out");
    if output.exists() {
        return output;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/oracle")
        .join(source);
    run(Command::new("cc")
        .args(["-O2", "-Wall"])
        .args(options)
        .arg("-o")
        .arg(&output)
        .arg(source)
        .args(["-ldl", "-lpthread"]))
    .expect("the oracle needs a C compiler as `cc`; `make setup` installs it");
    output
}
