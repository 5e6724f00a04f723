//! More connections than there is room for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::process::{mebibytes, raise_descriptors};
use super::wire::{Wire, loopback};
use super::{Rig, memory_max};
use crate::support::{PATIENCE, proved, rounds, wait_for};

/// Connections of one address: below its limit.
const EACH: usize = 200;

/// Senders that have had an answer and stay; one that is shown the door comes again.
struct Crowd {
    runtime: Runtime,
    answered: Arc<AtomicUsize>,
}

impl Crowd {
    fn gather(target: SocketAddr, count: usize, address: impl Fn(usize) -> IpAddr) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        for n in 0..count {
            let (source, answered) = (address(n), answered.clone());
            runtime.spawn(async move {
                loop {
                    if let Ok(mut wire) = Wire::open(target, Some(source)).await {
                        let answer = wire
                            .exchange(b"GET /none HTTP/1.1\r\nHost: hooks.example\r\n\r\n", b"")
                            .await;
                        if answer.is_ok_and(|answer| answer.status == 404) {
                            answered.fetch_add(1, Ordering::Relaxed);
                            wire.ended().await;
                        }
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            });
        }
        Self { runtime, answered }
    }

    /// Waits until so many have had an answer.
    fn wait_for(&self, count: usize) {
        let all = wait_for(PATIENCE * 2, || {
            (self.answered.load(Ordering::Relaxed) >= count).then_some(())
        });
        assert!(
            all.is_some(),
            "{} of {count} are there",
            self.answered.load(Ordering::Relaxed)
        );
    }

    fn leave(self) {
        self.runtime.shutdown_background();
    }
}

#[test]
fn a_genuine_sender_gets_in_where_idle_connections_have_taken_all_places() {
    let count = rounds(2000, 10_000).min(raise_descriptors() - 1000);
    let rig = Rig::start(&format!("[limits]\nconnections = {count}"));
    let before = rig.gateway.resident();
    rig.gateway.forget_peak();
    // Some more than there are places for.
    let crowd = Crowd::gather(rig.listen(), count + 100, |n| loopback(n / EACH));
    crowd.wait_for(count + 100);
    let each = rig.gateway.resident().saturating_sub(before) / count;
    let during = Duration::from_millis(rounds(1500, 60_000) as u64);
    let seen = rig.genuine().from(loopback(5000)).send(during);
    let peak = rig.gateway.peak();
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("idle connections");
    assert!(peak < memory_max(count), "{}", mebibytes(peak));
    crowd.leave();
    proved(
        "idle connections",
        format!(
            "{count}, {each} bytes each; beside them {seen}; peak {}",
            mebibytes(peak)
        ),
    );
}

#[test]
fn a_genuine_sender_gets_in_from_an_address_whose_connections_all_idle() {
    raise_descriptors();
    let rig = Rig::start("");
    // The default for one address is 256, and four times as many while they are young.
    let crowd = Crowd::gather(rig.listen(), 1200, |_| loopback(1));
    crowd.wait_for(1200);
    let during = Duration::from_millis(rounds(1500, 60_000) as u64);
    let seen = rig.genuine().from(loopback(1)).send(during);
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("idle connections of one address");
    crowd.leave();
    proved(
        "idle connections of one address",
        format!("1200; beside them {seen}"),
    );
}

#[test]
fn few_descriptors_are_shared_out_so_that_deliveries_have_theirs() {
    let rig = Rig::launch("", |launch| {
        launch.inside(["sh", "-c", "ulimit -n 512 && exec \"$0\" \"$@\""])
    });
    let log = rig.gateway.log();
    assert!(log.contains("fewer connections than configured"), "{log}");
    let crowd = Crowd::gather(rig.listen(), 500, |n| loopback(n / EACH));
    crowd.wait_for(500);
    let seen = rig
        .genuine()
        .from(loopback(5000))
        .send(Duration::from_millis(rounds(1000, 60_000) as u64));
    let descriptors = rig.gateway.descriptors();
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("few descriptors");
    assert!(!rig.gateway.log().contains("Accept() failed"), "they ran out");
    crowd.leave();
    proved(
        "few descriptors",
        format!("500 idle connections, {descriptors} of 512 descriptors in use; beside them {seen}"),
    );
}

#[test]
fn no_descriptor_left_is_survived() {
    let rig = Rig::start("");
    // The ways to the app and the store are open before.
    let before = rig.genuine().send(Duration::from_millis(100));
    rig.gateway.allow_descriptors(30);
    let crowd = Crowd::gather(rig.listen(), 200, |_| loopback(1));
    let out = wait_for(PATIENCE, || {
        rig.gateway.log().contains("Accept() failed").then_some(())
    });
    assert!(out.is_some(), "they did not run out");
    // It waits for descriptors and does not spin.
    let span = Duration::from_millis(rounds(1000, 10_000) as u64);
    let cpu = rig.gateway.cpu();
    std::thread::sleep(span);
    let cpu = rig.gateway.cpu() - cpu;
    assert!(cpu < span / 2, "{cpu:?} of CPU time in {span:?}");
    crowd.leave();
    // The listener looks again after a second.
    let mut tries = vec![before];
    let served = wait_for(PATIENCE, || {
        let mut seen = rig.genuine().send(Duration::from_millis(20));
        let served = seen.failures.is_empty();
        seen.failures.clear();
        tries.push(seen);
        served.then_some(())
    });
    assert!(served.is_some(), "it does not serve again");
    let after = rig.genuine().send(Duration::from_millis(500));
    let result = format!("{cpu:.1?} of CPU time in {span:?} without descriptors; served again: {after}");
    tries.push(after);
    rig.assert_kept(&tries.iter().collect::<Vec<_>>());
    proved("no descriptor left", result);
}
