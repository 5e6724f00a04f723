//! A file system in a file, mounted by way of a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::wait_for;

/// Bytes of the file behind the loop device; sparse. XFS wants at least 300 MiB.
const IMAGE_BYTES: u64 = 512 << 20;
/// Where images and mount points are made, so that leftovers of a killed run can be found.
const PREFIX: &str = "oracle-disk-";

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fs {
    Ext4,
    Xfs,
}

impl Fs {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Makes an empty one in `image`.
    fn make(self, image: &Path) -> Result<(), String> {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(IMAGE_BYTES).unwrap();
        match self {
            Self::Ext4 => run(tool("mkfs.ext4").args(["-q", "-F"]).arg(image)),
            Self::Xfs => run(tool("mkfs.xfs").args(["-q", "-f"]).arg(image)),
        }
    }
}

/// A mounted image; unmounted when dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(super) fs: Fs,
    pub(crate) point: PathBuf,
    image: PathBuf,
}

impl Mount {
    /// Makes an empty file system in `dir` and mounts it.
    pub(crate) fn new(fs: Fs, dir: &Path) -> Result<Self, String> {
        unmount_leftovers();
        let mount = Self {
            fs,
            point: dir.join("mount"),
            image: dir.join("image"),
        };
        std::fs::create_dir(&mount.point).unwrap();
        fs.make(&mount.image)?;
        mount.attach()?;
        Ok(mount)
    }

    /// Mounts it again: the file system recovers what reached its disk.
    pub(super) fn again(&self) {
        self.detach();
        self.attach().unwrap();
    }

    /// Puts an empty file system in its place.
    pub(super) fn anew(&self) {
        self.detach();
        self.fs.make(&self.image).unwrap();
        self.attach().unwrap();
    }

    /// The loop device goes by itself with the mount.
    fn attach(&self) -> Result<(), String> {
        run(tool("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.point))
    }

    fn detach(&self) {
        // Busy for a moment while the killed process is being taken apart.
        let unmounted = wait_for(Duration::from_secs(5), || {
            run(tool("umount").arg(&self.point)).ok()
        });
        assert!(unmounted.is_some(), "{} stays busy", self.point.display());
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

/// A folder for one disk.
pub(crate) fn scratch() -> TempDir {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// A command that may live in a folder for administrators only.
fn tool(name: &str) -> Command {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| name.into()))
}

pub(super) fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().to_string_lossy())),
    }
}
