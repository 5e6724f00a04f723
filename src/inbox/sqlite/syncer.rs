//! A sync in a thread of its own, so that whoever waits for it has its time for something else.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The thread that syncs, which ends with this.
#[derive(Debug)]
pub(super) struct Syncer {
    files: Sender<Arc<File>>,
    done: Receiver<io::Result<()>>,
}

impl Syncer {
    pub(super) fn start() -> io::Result<Self> {
        let (files, asked) = bounded::<Arc<File>>(1);
        let (ended, done) = bounded(1);
        std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                for file in asked {
                    // Nobody waits any more: this was the last one.
                    if ended.send(file.sync_data()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { files, done })
    }

    /// Makes durable what was written to `file`. Meanwhile `work` is called, which takes little time each, for as long as it
    /// says that there is more.
    pub(super) fn sync(&self, file: &Arc<File>, mut work: impl FnMut() -> bool) -> io::Result<()> {
        let gone = || io::Error::other("the thread that syncs has ended");
        self.files.send(file.clone()).map_err(|_| gone())?;
        // On a machine with one core it has to be let go first: the sync is what others wait for.
        std::thread::yield_now();
        while self.done.is_empty() && work() {}
        self.done.recv().map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn work_is_done_until_the_sync_has_ended_or_there_is_no_more() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        let file = Arc::new(file);
        let syncer = Syncer::start().unwrap();
        let mut calls = 0;
        for more in [3, 0] {
            let mut left = more;
            syncer
                .sync(&file, || {
                    calls += 1;
                    left -= 1;
                    left > 0
                })
                .unwrap();
        }
        assert!(calls <= 4, "{calls}");
        // The sync ends also where there is always more.
        syncer.sync(&file, || true).unwrap();
    }

    #[test]
    fn a_sync_that_fails_is_told() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let syncer = Syncer::start().unwrap();
        // EINVAL: it is no file that could be synced.
        assert!(syncer.sync(&file, || false).is_err());
        assert!(syncer.sync(&file, || true).is_err());
    }
}
