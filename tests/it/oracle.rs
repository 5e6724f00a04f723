//! The proof behind "a 2xx means kept" and "nothing forged gets in": crashes and power cuts under load, judged by clients
//! and an app that share no code with the gateway.
//!
//! Clients write down every event they sent and every 200 they got; the app writes down every request it was handed.
//! One store lives through many losses. After the last recovery and drain:
//! - every acknowledged event was delivered, with the very target, headers and bytes that were sent;
//! - nothing was delivered that was not sent with a valid signature. Some clients forge too, with ids of their own and
//!   with those of events about to be sent; none may be answered 2xx, and none may stand in a genuine one's way;
//! - every attempt after the first has a reason that can be seen from outside: the one before failed or was not answered,
//!   or its mark went with a crash. All attempts of an event carry one `Hooklatch-Key`, no two events the same;
//! - an event without an answer is sent again, as its sender would, so a dedup key that survived without its event would
//!   show as a loss. Events that were acknowledged are sent again too, at once and after a crash: they must be answered
//!   as duplicates, and only they.
//!
//! `kill -9` shows faults of the process only: the page cache survives it. Lost syncs show only in a power cut, or when
//! the disk is pulled from a gateway that lives on (see `oracle/disk.rs`), and the negative controls, the same rigs with
//! syncs switched off, show that they do.
//!
//! `PROVE=long` tries as often as `make prove` does, `PROVE_ROUNDS` as often as it says, `PROVE_SEED` repeats a run,
//! `HOOKLATCH_BIN` tests another build.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and reports by printing"
)]

mod app;
mod disk;
mod event;
mod history;
pub(crate) mod image;
mod ledger;
mod load;
mod log_bound;
mod moment;
mod pending;
mod rig;
mod verdict;
mod wal_index;

use std::time::Duration;

use self::app::Mood;
use self::disk::{Disk, Syncs};
use self::image::Fs;
use self::rig::{Loss, Rig};
use crate::support::rounds;

/// Power cuts on one file system.
const CUTS: (usize, usize) = (16, 1000);
/// Kills.
const KILLS: (usize, usize) = (16, 200);
/// Rounds of tests that need only a few.
const ROUNDS_FEW: (usize, usize) = (6, 50);
/// Deliveries of all rounds must have arrived within this, once the app takes everything.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// The exit code after a failed write or sync.
const STORE_FAILED: i32 = 70;

#[test]
fn kill_9_loses_nothing() {
    Rig::new("kill_9", Disk::kept()).lose(Loss::Kill, rounds(KILLS.0, KILLS.1));
}

#[test]
fn power_cut_on_ext4_loses_nothing() {
    Rig::new("power_cut", Disk::mounted(Fs::Ext4)).lose(Loss::Cut, rounds(CUTS.0, CUTS.1));
}

#[test]
fn power_cut_on_xfs_loses_nothing() {
    Rig::new("power_cut", Disk::mounted(Fs::Xfs)).lose(Loss::Cut, rounds(CUTS.0, CUTS.1));
}

/// The rig that is used where mounts are not allowed, so that it is tried everywhere.
#[test]
fn recorded_power_cut_loses_nothing() {
    Rig::new("power_cut", Disk::recorded()).lose(Loss::Cut, rounds(ROUNDS_FEW.0, ROUNDS_FEW.1));
}

#[test]
fn disk_pulled_on_ext4_loses_nothing() {
    pull_again_and_again(Disk::mounted(Fs::Ext4));
}

#[test]
fn disk_pulled_on_xfs_loses_nothing() {
    pull_again_and_again(Disk::mounted(Fs::Xfs));
}

/// An `fdatasync` that is under way while ext4 is shut down can report success for what is lost. The recorded disk makes
/// that certain: its last sync does nothing and says "done".
#[test]
fn false_sync_of_a_pulled_disk_is_not_acknowledged() {
    pull_again_and_again(Disk::recorded());
}

#[test]
fn negative_control_on_ext4_reports_losses() {
    unsynced_loses(Disk::mounted(Fs::Ext4));
}

#[test]
fn negative_control_on_xfs_reports_losses() {
    unsynced_loses(Disk::mounted(Fs::Xfs));
}

#[test]
fn recorded_negative_control_reports_losses() {
    unsynced_loses(Disk::recorded());
}

/// Takes the disk from a gateway that lives on: it takes no event any more, and ends.
fn pull_again_and_again(disk: Disk) {
    let mut rig = Rig::new("pulled_disk", disk);
    for _ in 0..rounds(ROUNDS_FEW.0, ROUNDS_FEW.1) {
        let mut living = rig.start(Syncs::Work);
        let load = rig.load(&living);
        rig.wait_a_moment();
        rig.disk.pull();
        rig.expect_store_failed(&mut living);
        load.stop();
        rig.pulled();
        rig.disk.restore();
    }
    rig.settle();
    rig.finish();
}

/// A cut with syncs that do nothing: the oracle must see losses, else it proves nothing.
fn unsynced_loses(disk: Disk) {
    let mut rig = Rig::new("negative_control", disk);
    // The store itself is made with working syncs, so that what is lost are events.
    let mut living = rig.start(Syncs::Work);
    assert_eq!(living.gateway.term().code(), Some(0));
    rig.moods = &[Mood::Holding];
    let mut living = rig.start(Syncs::Pretend);
    let load = rig.load(&living);
    rig.wait_a_moment();
    living.gateway.freeze();
    rig.disk.cut(&mut living.gateway);
    load.stop();
    rig.crashed(&living);
    rig.disk.restore();
    rig.app_takes_everything();
    match rig.try_start(Syncs::Work) {
        // What is there is delivered at once; what is lost never comes.
        Ok(_living) => rig.ledger.wait_until_drained(Duration::from_secs(2)),
        Err(why) => println!("the store does not open after unsynced writes: {why}"),
    }
    let verdict = rig.ledger.judge();
    println!("negative control: {verdict}");
    assert!(verdict.acked > 0, "nothing was acknowledged");
    assert!(
        !verdict.lost.is_empty(),
        "{} events were acknowledged without a sync, the power was cut, and the oracle saw no loss",
        verdict.acked
    );
}
