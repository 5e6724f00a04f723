//! A disk whose power can be cut.
//!
//! *Mounted*: ext4 on a loop device, cut with `FS_IOC_SHUTDOWN` (the "godown" of xfstests): the file system forgets all
//! that was not synced. Needs root and loop devices. *Recorded*: a preloaded library copies each file to a second folder
//! at each sync; after the kill, that folder is what the disk holds. Needs a C compiler only.
//!
//! A disk can be lost in two ways. *Cut*: the machine loses its power, so nothing runs on and nobody is answered any
//! more. *Pulled*: only the disk goes, and the gateway lives on without it. There a sync that is under way may be told
//! "done" for what is lost: ext4 does so now and then, the recorded disk always.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Gateway, wait_for};

/// Bytes of the file behind the loop device; sparse.
const IMAGE_BYTES: u64 = 512 << 20;
/// Where images and mount points are made, so that leftovers of a killed run can be found.
const PREFIX: &str = "oracle-disk-";

/// A disk for one store.
#[derive(Debug)]
pub(super) struct Disk {
    kind: Kind,
    store: PathBuf,
    dir: TempDir,
}

#[derive(Debug)]
enum Kind {
    Mounted { mount: Mount, cut: PathBuf },
    Recorded { shadow: PathBuf, pulled: PathBuf },
}

impl Disk {
    /// A mounted disk, or a recorded one where mounts are not allowed.
    pub(super) fn best() -> Self {
        Self::mounted().unwrap_or_else(|reason| {
            println!("no loop mount here ({reason}); recording writes instead");
            Self::recorded()
        })
    }

    fn mounted() -> Result<Self, String> {
        unmount_leftovers();
        let dir = scratch();
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(IMAGE_BYTES).unwrap();
        run(tool("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mount = Mount::new(image, dir.path().join("mount"))?;
        let store = mount.point.join("store");
        let cut = compile(&dir, "cut.c", &[]);
        Ok(Self {
            kind: Kind::Mounted { mount, cut },
            store,
            dir,
        })
    }

    /// A recorded disk.
    pub(super) fn recorded() -> Self {
        let dir = scratch();
        let shadow = dir.path().join("shadow");
        std::fs::create_dir(&shadow).unwrap();
        Self {
            kind: Kind::Recorded {
                shadow,
                pulled: dir.path().join("pulled"),
            },
            store: dir.path().join("store"),
            dir,
        }
    }

    /// Where the store goes.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// What the gateway must find in its environment, with syncs that work or only pretend to.
    pub(super) fn environment(&self, syncing: bool) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut environment = Vec::new();
        if let Kind::Recorded { shadow, pulled } = &self.kind {
            environment.push(("ORACLE_STORE".to_owned(), text(&self.store)));
            environment.push(("ORACLE_SHADOW".to_owned(), text(shadow)));
            environment.push(("ORACLE_PULLED".to_owned(), text(pulled)));
        }
        if !syncing {
            environment.push(("ORACLE_NO_SYNC".to_owned(), "1".to_owned()));
        }
        if !environment.is_empty() {
            let library = compile(&self.dir, "disk.c", &["-shared", "-fPIC"]);
            environment.push(("LD_PRELOAD".to_owned(), text(&library)));
        }
        environment
    }

    /// Cuts the power: gateway and disk stop at the same moment.
    pub(super) fn cut(&self, gateway: &mut Gateway) {
        if let Kind::Mounted { .. } = self.kind {
            // An answer on its way to a client still counts; one that would follow a sync under way is never written.
            gateway.freeze();
            self.pull();
        }
        gateway.kill9();
    }

    /// Takes the disk away from a gateway that runs on.
    pub(super) fn pull(&self) {
        match &self.kind {
            Kind::Mounted { mount, cut } => run(Command::new(cut).arg(&mount.point)).unwrap(),
            Kind::Recorded { pulled, .. } => std::fs::write(pulled, "").unwrap(),
        }
    }

    /// Brings the disk back with what it holds. The gateway must have ended.
    pub(super) fn restore(&mut self) {
        match &mut self.kind {
            Kind::Mounted { mount, .. } => mount.again(),
            Kind::Recorded { shadow, pulled } => {
                drop(std::fs::remove_file(pulled));
                std::fs::remove_dir_all(&self.store).unwrap();
                run(Command::new("cp").arg("-a").arg(shadow).arg(&self.store)).unwrap();
            }
        }
    }
}

/// A mounted image; unmounted when dropped, also by a panic.
#[derive(Debug)]
struct Mount {
    image: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn new(image: PathBuf, point: PathBuf) -> Result<Self, String> {
        std::fs::create_dir(&point).unwrap();
        let mount = Self { image, point };
        mount.attach()?;
        Ok(mount)
    }

    /// The loop device goes by itself with the mount.
    fn attach(&self) -> Result<(), String> {
        run(tool("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.point))
    }

    fn again(&mut self) {
        // Busy for a moment while the killed process is being taken apart.
        let unmounted = wait_for(std::time::Duration::from_secs(5), || {
            run(tool("umount").arg(&self.point)).ok()
        });
        assert!(unmounted.is_some(), "{} stays busy", self.point.display());
        self.attach().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        detach(&self.point);
    }
}

fn detach(point: &Path) {
    if run(tool("umount").arg(point)).is_err() {
        // Someone is still in there: it goes when they do.
        drop(run(tool("umount").arg("-l").arg(point)));
    }
}

/// Takes away mounts of runs that were killed before they could.
fn unmount_leftovers() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let path = Path::new(point);
        let ours = path.starts_with(env!("CARGO_TARGET_TMPDIR")) && point.contains(PREFIX);
        if ours && !owner_lives(path) {
            detach(path);
        }
    }
}

/// The folder's name carries the id of the process that made it.
fn owner_lives(point: &Path) -> bool {
    let name = point
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let id = name
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|rest| rest.split('-').next());
    id.is_some_and(|id| Path::new("/proc").join(id).exists())
}

fn scratch() -> TempDir {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// Compiles a helper of `tests/oracle/` into `dir`.
fn compile(dir: &TempDir, source: &str, options: &[&str]) -> PathBuf {
    let output = dir.path().join(source).with_extension("out");
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

/// A command that may live in a folder for administrators only.
fn tool(name: &str) -> Command {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| name.into()))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().to_string_lossy())),
    }
}
