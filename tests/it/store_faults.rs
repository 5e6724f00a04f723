//! A disk that fails under the running gateway: never a 200 for an event that is not kept.

mod room;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{
    App, Connection, Gateway, Launch, PATIENCE, Reply, Response, hmac_hex, proved, quantiv_config, rounds,
    wait_for,
};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// "Until further notice", for the shim.
const FOR_EVER: u32 = 1_000_000;
/// The id of an event that the app wants never.
const GONE: &str = "evt_gone";
/// Of events that it does not want yet.
const LATE: &str = "evt_late";
const DAMAGED: &str = "evt_damaged";

struct Rig {
    gateway: Gateway,
    app: App,
    faults: PathBuf,
    acked: BTreeSet<String>,
    next: usize,
    folder: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        // Beside the build, not in /tmp, which may be a tmpfs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let faults = folder.path().join("faults");
        let app = App::with(|request| match request.header("Hooklatch-Event-Id") {
            Some(GONE) => Reply::Status(410),
            Some(LATE | DAMAGED) => Reply::Status(500),
            _ => Reply::Status(200),
        });
        let config = quantiv_config(&folder.path().join("store"), app.address());
        let gateway = Launch::new(&config)
            .env("LD_PRELOAD", shim(folder.path()))
            .env("FAULTS_FILE", &faults)
            .start();
        let mut rig = Self {
            gateway,
            app,
            faults,
            acked: BTreeSet::new(),
            next: 0,
            folder,
        };
        for _ in 0..3 {
            assert_eq!(rig.send().map(|answer| answer.status), Some(200));
        }
        rig
    }

    /// Fails operations `first` to `last` from now on.
    fn fail(&self, op: &str, errno: i32, first: u32, last: u32) {
        // Whole or not at all.
        let beside = self.faults.with_extension("new");
        std::fs::write(&beside, format!("{op} {errno} {first} {last}")).unwrap();
        std::fs::rename(&beside, &self.faults).unwrap();
    }

    /// Sends a new event; `None` when nobody answers.
    fn send(&mut self) -> Option<Response> {
        self.next += 1;
        let id = format!("evt_{}", self.next);
        let answer = self.send_as(&id)?;
        if answer.status == 200 {
            self.acked.insert(id);
        }
        Some(answer)
    }

    fn send_as(&self, id: &str) -> Option<Response> {
        self.send_typed(id, "order.paid")
    }

    fn send_typed(&self, id: &str, event_type: &str) -> Option<Response> {
        let body = format!(r#"{{"id":"{id}","event":"{event_type}"}}"#);
        let signature = hmac_hex(b"secret", body.as_bytes());
        let mut connection = Connection::open(self.gateway.listen()).ok()?;
        connection
            .post(
                "/hooks/quantiv",
                &[("X-Quantiv-Signature", &signature)],
                body.as_bytes(),
            )
            .ok()
    }

    /// Everything that was answered 200 reaches the app.
    fn all_arrive(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let arrived: BTreeSet<String> = self
                .app
                .requests()
                .iter()
                .filter_map(|request| request.header("Hooklatch-Event-Id").map(str::to_owned))
                .collect();
            let missing: Vec<_> = self.acked.difference(&arrived).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "lost: {missing:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn shim(folder: &Path) -> PathBuf {
    let library = folder.join("shim.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/store_faults/shim.c"
        ))
        .status()
        .expect("a C compiler, as the build itself needs one");
    assert!(built.success());
    library
}

/// The N-th operation fails, for many N: the store is given up at once, and what was answered 200 is there again.
fn is_final(op: &str, errno: i32) {
    let (many, mut acked) = (rounds(10, 200) as u32, 0);
    for nth in 1..=many {
        let mut rig = Rig::start();
        let before = rig.acked.len();
        rig.fail(op, errno, nth, nth);
        while let Some(answer) = rig.send() {
            assert!(
                matches!(answer.status, 200 | 503),
                "{op} {nth}: {} {}",
                answer.status,
                answer.text()
            );
            if answer.status == 503 {
                assert!(answer.header("Retry-After").is_some());
            }
            // Each 200 stands on a sync of its own, and on at least one write.
            let acked = rig.acked.len() - before;
            assert!(acked < nth as usize, "{op} {nth}: {acked} answered 200");
        }
        assert_eq!(
            rig.gateway.wait().code(),
            Some(70),
            "{op} {nth}\n{}",
            rig.gateway.log()
        );
        std::fs::remove_file(&rig.faults).unwrap();
        rig.gateway.restart();
        assert_eq!(rig.send().map(|answer| answer.status), Some(200));
        rig.all_arrive();
        acked += rig.acked.len();
    }
    proved(
        &format!("errno {errno} of the N-th {op}"),
        format!("N from 1 to {many}: {acked} acknowledged, 0 lost, exit code 70 each time"),
    );
}

#[test]
fn a_failed_sync_ends_the_gateway_and_nothing_that_was_answered_is_lost() {
    is_final("sync", EIO);
}

#[test]
fn a_sync_without_space_is_a_failed_sync() {
    is_final("sync", ENOSPC);
}

#[test]
fn a_failed_write_ends_the_gateway_and_nothing_that_was_answered_is_lost() {
    is_final("write", EIO);
}

#[test]
fn a_full_disk_refuses_what_is_new_knows_what_it_has_and_recovers_by_itself() {
    let (many, mut acked) = (rounds(8, 200) as u32, 0);
    for nth in 1..=many {
        let mut rig = Rig::start();
        rig.all_arrive();
        let pid = rig.gateway.pid();
        let before = rig.acked.len();
        rig.fail("write", ENOSPC, nth, FOR_EVER);
        let refused = loop {
            let answer = rig.send().expect("it goes on");
            if answer.status != 200 {
                break answer;
            }
            assert!(rig.acked.len() - before < nth as usize, "write {nth}");
        };
        assert_eq!(refused.status, 503, "write {nth}: {}", refused.text());
        assert!(refused.header("Retry-After").is_some());
        for _ in 0..3 {
            assert_eq!(rig.send().map(|answer| answer.status), Some(503), "write {nth}");
            let repeat = rig.send_as("evt_1").expect("it goes on");
            assert_eq!(repeat.status, 200, "write {nth}: {}", repeat.text());
            assert!(repeat.text().contains(r#""duplicate":true"#), "{}", repeat.text());
        }
        std::fs::remove_file(&rig.faults).unwrap();
        let until = Instant::now() + PATIENCE;
        while rig.send().expect("it goes on").status != 200 {
            assert!(Instant::now() < until, "write {nth}: never recovers");
            std::thread::sleep(Duration::from_millis(50));
        }
        rig.all_arrive();
        assert_eq!(rig.gateway.pid(), pid);
        assert!(rig.gateway.term().success(), "{}", rig.gateway.log());
        acked += rig.acked.len();
    }
    proved(
        "no space from the N-th write on",
        format!("N from 1 to {many}: {acked} acknowledged, 0 lost, each time it went on by itself"),
    );
}

#[test]
fn on_a_full_disk_a_repeat_is_refused_where_something_of_it_must_be_written() {
    let mut rig = Rig::start();
    rig.all_arrive();
    for id in [GONE, LATE, DAMAGED] {
        assert_eq!(rig.send_as(id).map(|answer| answer.status), Some(200), "{id}");
    }
    let sql = rusqlite::Connection::open(rig.folder.path().join("store/inbox.db")).unwrap();
    let dead = || -> i64 {
        sql.query_row("SELECT count(*) FROM delivery WHERE status = 2", [], |row| {
            row.get(0)
        })
        .unwrap()
    };
    wait_for(PATIENCE, || (dead() == 1).then_some(())).expect("a dead letter");
    let damage = "UPDATE event SET segment = 0 WHERE event_id = ?1";
    wait_for(PATIENCE, || {
        (sql.execute(damage, [DAMAGED]).unwrap() == 1).then_some(())
    })
    .expect("its row");
    assert_eq!(rig.send_as("evt_old").map(|answer| answer.status), Some(200));
    let age = "UPDATE event SET received_at = 0 WHERE event_id = 'evt_old' AND state = 1";
    wait_for(PATIENCE, || (sql.execute(age, []).unwrap() == 1).then_some(())).expect("delivered");
    let status = |answer: Option<Response>| answer.map(|answer| answer.status);
    rig.fail("write", ENOSPC, 1, FOR_EVER);
    // The first that nothing can be written of: it was not known before that there is no room.
    assert_eq!(status(rig.send_as("evt_old")), Some(503), "its window is over");
    while rig.send().expect("it goes on").status == 200 {}
    for _ in 0..2 {
        assert_eq!(status(rig.send_as("evt_1")), Some(200), "all of it is kept");
        assert_eq!(
            status(rig.send_typed("evt_1", "order.void")),
            Some(503),
            "another body"
        );
        assert_eq!(status(rig.send_as(GONE)), Some(503), "a dead one lives again");
        assert_eq!(status(rig.send_as(LATE)), Some(200), "a pending one is kept");
        assert_eq!(status(rig.send_as(DAMAGED)), Some(503), "it takes its place");
        assert_eq!(status(rig.send_as("evt_old")), Some(503), "its window is over");
    }
    std::fs::remove_file(&rig.faults).unwrap();
    for (id, event_type) in [(GONE, "order.paid"), ("evt_1", "order.void")] {
        let recovered = || (status(rig.send_typed(id, event_type)) == Some(200)).then_some(());
        wait_for(PATIENCE, recovered).expect("it recovers");
    }
}

#[test]
fn a_store_that_would_not_outlive_a_restart_is_refused() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let app = App::with(|_| Reply::Status(200));
    let config = quantiv_config(&memory.path().join("store"), app.address());
    let refused = config.replace("allow_ephemeral = true", "");
    let ended = Launch::new(&refused).try_start().expect_err("refused");
    assert!(ended.status.is_some_and(|status| !status.success()));
    assert!(ended.log.contains("tmpfs"), "{}", ended.log);
    assert!(ended.log.contains("allow_ephemeral"), "{}", ended.log);
    // As the text says; also through a link from elsewhere.
    Gateway::start(&config);
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let link = elsewhere.path().join("store");
    symlink(memory.path().join("store"), &link).unwrap();
    let linked = quantiv_config(&link, app.address()).replace("allow_ephemeral = true", "");
    let ended = Launch::new(&linked).try_start().expect_err("refused");
    assert!(ended.log.contains("tmpfs"), "{}", ended.log);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let app = App::with(|_| Reply::Status(200));
    // Where not even root can make one.
    let config = quantiv_config(Path::new("/proc/hooklatch/store"), app.address());
    let ended = Launch::new(&config).try_start().expect_err("refused");
    assert!(ended.status.is_some_and(|status| !status.success()));
    assert!(ended.log.contains("/proc/hooklatch/store"), "{}", ended.log);
}
