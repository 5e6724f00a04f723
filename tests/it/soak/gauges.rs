//! What the process takes, measured from outside, and whether it grows.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::book::Book;
use super::{GROWTH_MAX_MIB, LONG, STORE_SPARE_BYTES, WAL_BYTES_MAX};

/// One look at the process.
#[derive(Debug, Clone)]
struct Sample {
    at: Duration,
    pid: u32,
    fault: &'static str,
    rss_kib: u64,
    descriptors: Option<u64>,
    threads: u64,
    store_bytes: u64,
    wal_bytes: u64,
    acked: u64,
    undelivered: u64,
}

/// What it takes when nothing goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    /// `None` where the system does not show them: to others than root, of a process that hides its memory.
    pub(super) descriptors: Option<u64>,
}

/// The measuring thread.
#[derive(Debug)]
pub(super) struct Gauges {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    store: PathBuf,
    book: Arc<Book>,
    now: Mutex<(u32, &'static str)>,
    samples: Mutex<Vec<Sample>>,
    stop: AtomicBool,
    began: Instant,
}

impl Gauges {
    /// Looks at the process and at the store in this folder, this often.
    pub(super) fn start(store: PathBuf, book: &Arc<Book>, every: Duration) -> Self {
        let shared = Arc::new(Shared {
            store,
            book: book.clone(),
            now: Mutex::new((0, "")),
            samples: Mutex::default(),
            stop: AtomicBool::new(false),
            began: Instant::now(),
        });
        let looking = shared.clone();
        let thread = std::thread::spawn(move || {
            while !looking.stop.load(Ordering::SeqCst) {
                if let Some(sample) = looking.look() {
                    looking.samples.lock().unwrap().push(sample);
                }
                std::thread::sleep(every);
            }
        });
        Self { shared, thread }
    }

    /// The process that runs now.
    pub(super) fn life(&self, pid: u32) {
        self.now().0 = pid;
    }

    /// What is wrong now; nothing when empty.
    pub(super) fn fault(&self, name: &'static str) {
        self.now().1 = name;
    }

    pub(super) fn idle(&self, pid: u32) -> Idle {
        Idle {
            descriptors: descriptors(pid),
        }
    }

    /// How long it has been looking.
    pub(super) fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Ends it; the load with the faults began after `from`.
    pub(super) fn stop(self, from: Duration) -> Series {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        let samples = std::mem::take(&mut *self.shared.samples.lock().unwrap());
        Series { samples, from }
    }

    fn now(&self) -> MutexGuard<'_, (u32, &'static str)> {
        self.shared.now.lock().unwrap()
    }
}

impl Shared {
    /// `None` while there is no process.
    fn look(&self) -> Option<Sample> {
        let (pid, fault) = *self.now.lock().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let size = |name: &str| std::fs::metadata(self.store.join(name)).map_or(0, |file| file.len());
        Some(Sample {
            at: self.began.elapsed(),
            pid,
            fault,
            rss_kib: number("VmRSS:")?,
            descriptors: descriptors(pid),
            threads: number("Threads:")?,
            store_bytes: size("inbox.db"),
            wal_bytes: size("inbox.db-wal"),
            acked: self.book.acked(),
            undelivered: self.book.undelivered(),
        })
    }
}

fn descriptors(pid: u32) -> Option<u64> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(listed.count() as u64)
}

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Series {
    samples: Vec<Sample>,
    /// When the load with the faults began.
    from: Duration,
}

/// What the series says.
#[derive(Debug)]
pub(super) struct Found {
    rss_mib: [f64; 2],
    /// Of a long soak: a short one says nothing of an hour.
    growth_mib_per_hour: Option<f64>,
    descriptors_most: Option<u64>,
    threads: [u64; 2],
    store_bytes: [u64; 2],
    wal_bytes_most: u64,
}

impl Series {
    pub(super) fn write(&self, path: &Path) {
        let mut text = String::from(
            "seconds,pid,fault,rss_kib,descriptors,threads,store_bytes,wal_bytes,acknowledged,undelivered\n",
        );
        for one in &self.samples {
            let descriptors = one.descriptors.map(|count| count.to_string()).unwrap_or_default();
            writeln!(
                text,
                "{:.1},{},{},{},{descriptors},{},{},{},{},{}",
                one.at.as_secs_f64(),
                one.pid,
                one.fault,
                one.rss_kib,
                one.threads,
                one.store_bytes,
                one.wal_bytes,
                one.acked,
                one.undelivered
            )
            .unwrap();
        }
        std::fs::write(path, text).unwrap();
    }

    /// The last third against the one before it, both of the last life.
    pub(super) fn judge(&self, length: Duration) -> Found {
        let pid = self.samples.last().expect("something was measured").pid;
        let life: Vec<&Sample> = self.samples.iter().filter(|one| one.pid == pid).collect();
        let third = |from: u32| -> Vec<&Sample> {
            let range = self.from + length * from / 3..self.from + length * (from + 1) / 3;
            life.iter()
                .copied()
                .filter(|one| range.contains(&one.at))
                .collect()
        };
        let (middle, last) = (third(1), third(2));
        let quiet_rss = |part: &[&Sample]| {
            let quiet = part.iter().filter(|one| one.fault.is_empty());
            median(quiet.map(|one| one.rss_kib as f64 / 1024.0).collect())
        };
        let most =
            |part: &[&Sample], what: fn(&Sample) -> u64| part.iter().map(|one| what(one)).max().unwrap_or(0);
        let rss_mib = [quiet_rss(&middle), quiet_rss(&last)];
        let hours = (length / 3).as_secs_f64() / 3600.0;
        Found {
            growth_mib_per_hour: (length >= LONG).then(|| (rss_mib[1] - rss_mib[0]) / hours),
            rss_mib,
            descriptors_most: life.iter().filter_map(|one| one.descriptors).max(),
            threads: [most(&middle, |one| one.threads), most(&last, |one| one.threads)],
            store_bytes: [
                most(&middle, |one| one.store_bytes),
                most(&last, |one| one.store_bytes),
            ],
            wal_bytes_most: self.samples.iter().map(|one| one.wal_bytes).max().unwrap_or(0),
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    assert!(!numbers.is_empty(), "no quiet moment was measured");
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

impl Found {
    pub(super) fn expect_flat(&self, length: Duration) {
        let growth = self.rss_mib[1] - self.rss_mib[0];
        let most = if length >= LONG {
            GROWTH_MAX_MIB.1
        } else {
            GROWTH_MAX_MIB.0
        };
        assert!(growth <= most, "memory grew by {growth:.1} MiB: {self}");
        assert!(
            self.wal_bytes_most <= WAL_BYTES_MAX,
            "the log of the store grew: {self}"
        );
        let [middle, last] = self.store_bytes;
        assert!(
            last <= middle + middle / 2 + STORE_SPARE_BYTES,
            "the store grew: {self}"
        );
        let [middle, last] = self.threads;
        assert!(last <= middle + middle / 2 + 8, "threads: {self}");
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let slope = self.growth_mib_per_hour;
        let slope = slope
            .map(|slope| format!(" ({slope:+.1} MiB/h)"))
            .unwrap_or_default();
        write!(
            f,
            "RSS {:.1} then {:.1} MiB{slope}, descriptors at most {}, threads {} then {}, store {:.1} then {:.1} MiB, log at most {:.1} MiB",
            self.rss_mib[0],
            self.rss_mib[1],
            self.descriptors_most
                .map_or_else(|| "unknown".to_owned(), |most| most.to_string()),
            self.threads[0],
            self.threads[1],
            mib(self.store_bytes[0]),
            mib(self.store_bytes[1]),
            mib(self.wal_bytes_most)
        )
    }
}
