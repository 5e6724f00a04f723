//! The write-ahead log stays short, so that what a crash leaves to recover is little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::DRAIN_MAX;
use super::app::Mood;
use super::disk::{Disk, Syncs};
use super::rig::Rig;
use super::wal_index::Wal;
use crate::support::{proved, rounds, wait_for};

/// Spells of load, each in another mood of the app: a backlog is built up, then read while more comes in.
const SPELLS: (usize, usize) = (2, 60);
const SPELL: Duration = Duration::from_millis(1000);
/// The log is copied from 8 MiB on; a commit adds a few.
const LOG_BYTES_MAX: u64 = 24 << 20;
/// A small store takes at most this, and a commit that was under way.
const SMALL_BYTES_MAX: u64 = (16 + 8) << 20;

#[test]
fn log_stays_short_under_load() {
    let mut rig = Rig::new("log", Disk::kept());
    let living = rig.start(Syncs::Work);
    let watch = Watch::start(Wal::of(rig.disk.store()));
    let spells = rounds(SPELLS.0, SPELLS.1);
    rig.moods = &[Mood::Refusing];
    let load = rig.load(&living);
    for spell in 0..spells {
        rig.set_mood([Mood::Refusing, Mood::Taking][spell % 2]);
        std::thread::sleep(SPELL);
    }
    let waiting = rig.ledger.undelivered();
    load.stop();
    let longest = watch.end();
    rig.lose_now(living);
    let started = Instant::now();
    rig.settle();
    proved(
        &rig.name,
        format_args!(
            "{spells} spells of {SPELL:?} under load, at most {} KiB long; {waiting} waited, all delivered {} ms after a kill",
            longest >> 10,
            started.elapsed().as_millis()
        ),
    );
    assert!(longest <= LOG_BYTES_MAX, "the log grew to {longest} bytes");
    rig.finish();
}

/// Who reads for long keeps the log from being copied: it grows, and then the store is full rather than endless.
#[test]
fn log_held_by_a_reader_stays_within_the_store() {
    let mut rig = Rig::new("held_log", Disk::kept());
    rig.small = true;
    let living = rig.start(Syncs::Work);
    let reader = rusqlite::Connection::open(rig.disk.store().join("inbox.db")).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM event;")
        .unwrap();
    let watch = Watch::start(Wal::of(rig.disk.store()));
    rig.moods = &[Mood::Taking];
    let load = rig.load_large(&living);
    let full = wait_for(DRAIN_MAX, || rig.is_full(&living).then_some(()));
    assert!(full.is_some(), "never full: the log grows without end");
    // Longer than a tick: no more comes.
    std::thread::sleep(Duration::from_secs(2));
    let longest = watch.end();
    let acked = rig.ledger.acked_count();
    drop(reader);
    let again = wait_for(DRAIN_MAX, || {
        (rig.ledger.acked_count() > acked + 50).then_some(())
    });
    assert!(again.is_some(), "full for ever after the reader has gone");
    load.stop();
    rig.lose_now(living);
    rig.settle();
    proved(
        &rig.name,
        format_args!(
            "a reader held it under load: at most {} KiB long, 503 then; goes on after it",
            longest >> 10
        ),
    );
    assert!(longest <= SMALL_BYTES_MAX, "the log grew to {longest} bytes");
    rig.finish();
}

/// Looks at the length of a log all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(wal: Wal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, longest) = (stop.clone(), longest.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    longest.fetch_max(wal.bytes(), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self {
            stop,
            longest,
            thread,
        }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.longest.load(Ordering::SeqCst)
    }
}
