//! Disks that are really full: a small volume with ballast on it, and a limit on the size of files.
//!
//! Clients send until the first refusal and a while longer, while the app takes what it gets or refuses everything. Then
//! there is room again, and nothing else is done: the gateway must go on by itself. Each fill-up ends at another byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::oracle::image::{Fs, Mount, scratch};
use crate::support::{
    App, Connection, Gateway, Launch, PATIENCE, Reply, hmac_hex, proved, quantiv_config, rounds, seed,
    sha256, wait_for,
};

const CLIENTS: usize = 4;
/// Bytes left at the beginning of a fill-up.
const LEFT_BYTES: std::ops::Range<u64> = (1 << 20)..(10 << 20);
/// Events of one fill-up at the most: more than any of them can hold, or as many as are enough where the app takes them.
const EVENTS_MAX: usize = 20_000;
const TAKEN_MAX: usize = 2_000;
/// Refusals that are waited for before there is room again.
const REFUSALS: usize = 40;
/// After the app takes everything: a breaker may have to close first.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What runs out.
enum Room {
    /// A volume of its own, with a file on it that takes what is not left.
    Volume(Mount),
    /// `RLIMIT_FSIZE` of the process.
    Limit,
}

impl Room {
    /// Leaves so many bytes.
    fn shrink(&self, gateway: &Gateway, store: &Path, left: u64) {
        match self {
            Self::Volume(mount) => {
                let free = rustix::fs::statvfs(&mount.point).unwrap();
                let free = free.f_bavail * free.f_frsize;
                let ballast = File::create(ballast(mount)).unwrap();
                fallocate(
                    &ballast,
                    FallocateFlags::empty(),
                    0,
                    free.saturating_sub(left).max(1),
                )
                .unwrap();
            }
            Self::Limit => {
                let longest = ["inbox.db", "inbox.db-wal"]
                    .into_iter()
                    .filter_map(|name| std::fs::metadata(store.join(name)).ok())
                    .map(|file| file.len())
                    .max();
                limit_files(gateway, Some(longest.unwrap_or(0) + left));
            }
        }
    }

    fn widen(&self, gateway: &Gateway) {
        match self {
            Self::Volume(mount) => std::fs::remove_file(ballast(mount)).unwrap(),
            Self::Limit => limit_files(gateway, None),
        }
    }
}

fn ballast(mount: &Mount) -> PathBuf {
    mount.point.join("ballast")
}

fn limit_files(gateway: &Gateway, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap()).unwrap();
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();
}

/// What was answered and what arrived, by id, as hashes of bodies.
#[derive(Default)]
struct Books {
    acked: Mutex<BTreeMap<String, [u8; 32]>>,
    arrived: Mutex<BTreeMap<String, [u8; 32]>>,
    refused: AtomicUsize,
    sent: AtomicUsize,
    holding: AtomicBool,
}

impl Books {
    /// Sends a new event, or an acknowledged one again; what it was answered must fit.
    fn send(&self, connection: &mut Connection, rng: &mut Rng) -> std::io::Result<u16> {
        let again = if rng.u8(..) < 24 {
            rng.choice(self.acked.lock().unwrap().keys()).cloned()
        } else {
            None
        };
        let id = again
            .clone()
            .unwrap_or_else(|| format!("evt_{}", self.sent.fetch_add(1, Ordering::SeqCst)));
        let body = body_of(&id);
        let signature = hmac_hex(b"secret", &body);
        let answer = connection.post("/hooks/quantiv", &[("X-Quantiv-Signature", &signature)], &body)?;
        match (answer.status, again.is_some()) {
            (200, false) => {
                self.acked.lock().unwrap().insert(id, sha256(&body));
            }
            (200, true) => assert!(
                answer.text().contains(r#""duplicate":true"#),
                "{id} was taken twice"
            ),
            (503, false) => {
                assert!(answer.header("Retry-After").is_some());
                self.refused.fetch_add(1, Ordering::SeqCst);
            }
            // A dead disk may not even take what a repeat changes; its sender comes again.
            (503, true) => {}
            (status, _) => panic!("{id} was answered {status}: {}", answer.text()),
        }
        Ok(answer.status)
    }
}

/// The body of an event: as long as its number says, so that writes end at all kinds of bytes.
fn body_of(id: &str) -> Vec<u8> {
    let number: usize = id.strip_prefix("evt_").unwrap().parse().unwrap();
    let length = match number % 7 {
        0 => 60_000,
        1 | 2 => 10_000,
        _ => 300,
    } + number * 37 % 4096;
    let filler = "x".repeat(length);
    format!(r#"{{"id":"{id}","event":"order.paid","filler":"{filler}"}}"#).into_bytes()
}

fn fill_again_and_again(name: &str, room: &Room, folder: &Path) {
    let mut rng = Rng::with_seed(seed(name));
    let books = Arc::new(Books::default());
    let app = {
        let books = books.clone();
        App::unrecorded(move |request| {
            if books.holding.load(Ordering::SeqCst) {
                return Reply::Status(503);
            }
            let id = request
                .header("Hooklatch-Event-Id")
                .unwrap_or_default()
                .to_owned();
            books.arrived.lock().unwrap().insert(id, sha256(&request.body));
            Reply::Status(200)
        })
    };
    let store = folder.join("store");
    let config = quantiv_config(&store, app.address())
        .replace("allow_ephemeral = true", "allow_ephemeral = true\nmin_free = 0")
        .replace(
            "/hooks/quantiv\" }",
            "/hooks/quantiv\", retry = { first = \"20ms\", max = \"200ms\" } }",
        )
        + "\n[retention]\ndelivered = \"1s\"\n";
    let mut gateway = Launch::new(&config).start();
    let pid = gateway.pid();
    let fills = rounds(2, 40);
    for fill in 0..fills {
        books.holding.store(fill % 2 == 0, Ordering::SeqCst);
        books.refused.store(0, Ordering::SeqCst);
        room.shrink(&gateway, &store, rng.u64(LEFT_BYTES));
        let first = books.sent.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let mut rng = rng.fork();
                let (books, gateway) = (&books, &gateway);
                scope.spawn(move || {
                    let mut connection = Connection::open(gateway.listen()).unwrap();
                    while books.refused.load(Ordering::SeqCst) < REFUSALS {
                        let sent = books.sent.load(Ordering::SeqCst) - first;
                        assert!(sent < EVENTS_MAX, "it is never full");
                        if sent >= TAKEN_MAX && !books.holding.load(Ordering::SeqCst) {
                            // What the app has taken goes for what comes: so it may last.
                            break;
                        }
                        books
                            .send(&mut connection, &mut rng)
                            .expect("a full disk closes nothing");
                    }
                });
            }
        });
        room.widen(&gateway);
        // Of what is pending a route may hold half of a store.
        books.holding.store(false, Ordering::SeqCst);
        let mut connection = Connection::open(gateway.listen()).unwrap();
        let taken = wait_for(PATIENCE, || {
            let number = books.sent.load(Ordering::SeqCst);
            books.send(&mut connection, &mut rng).unwrap();
            books
                .acked
                .lock()
                .unwrap()
                .contains_key(&format!("evt_{number}"))
                .then_some(())
        });
        assert!(
            taken.is_some(),
            "{name}: there is room again, and it does not recover"
        );
        let all_arrived = || {
            let (acked, arrived) = (books.acked.lock().unwrap(), books.arrived.lock().unwrap());
            acked.keys().all(|id| arrived.contains_key(id)).then_some(())
        };
        assert!(
            wait_for(DRAIN_MAX, all_arrived).is_some(),
            "{name}: acknowledged events are missing"
        );
    }
    for (id, hash) in &*books.acked.lock().unwrap() {
        assert_eq!(
            books.arrived.lock().unwrap()[id],
            *hash,
            "{id} is not what was sent"
        );
    }
    assert_eq!(gateway.pid(), pid);
    assert!(gateway.term().success(), "{}", gateway.log());
    gateway.restart();
    assert!(gateway.term().success(), "{}", gateway.log());
    let db = rusqlite::Connection::open(store.join("inbox.db")).unwrap();
    let says: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(says, "ok");
    let acked = books.acked.lock().unwrap().len();
    proved(
        name,
        format!("full {fills} times; {acked} acknowledged, 0 lost, each time it went on by itself"),
    );
}

fn on_a_volume(fs: Fs) {
    let dir = scratch();
    let name = format!("a full {} volume", fs.name());
    match Mount::new(fs, dir.path()) {
        Ok(mount) => {
            let point = mount.point.clone();
            fill_again_and_again(&name, &Room::Volume(mount), &point);
        }
        Err(reason) => proved(&name, format!("not run: no loop mount here ({reason})")),
    }
}

#[test]
fn a_full_ext4_volume_loses_nothing_and_recovers_by_itself() {
    on_a_volume(Fs::Ext4);
}

#[test]
fn a_full_xfs_volume_loses_nothing_and_recovers_by_itself() {
    on_a_volume(Fs::Xfs);
}

#[test]
fn a_limit_on_file_sizes_loses_nothing_and_recovers_by_itself() {
    let dir = scratch();
    fill_again_and_again("a limit on file sizes", &Room::Limit, dir.path());
}
