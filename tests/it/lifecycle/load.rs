//! Senders that never rest, and an app that books what it takes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATH, body, id_of};
use crate::support::{App, Connection, Gateway, PATIENCE, Reply, Response, hmac_hex, wait_for};

/// Half of them keep their connection, as a sender of many webhooks does; half open one for each request.
const SENDERS: usize = 6;
/// A connection is made by the system, at once; or its first packet is dropped, and the next one comes a second later.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Between two tries to connect where nobody listens.
const RECONNECT_WAIT: Duration = Duration::from_millis(5);

/// How the requests of a load ended.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The ids of the events that got their 200.
    pub(super) acked: HashSet<String>,
    /// Answers other than 200, with their bodies.
    pub(super) refused: Vec<String>,
    /// Requests on a connection that was made and ended without an answer, with the error.
    pub(super) dropped: Vec<String>,
}

impl Tally {
    /// Every answer is a 200.
    pub(super) fn expect_none_refused(&self) {
        let refused: Vec<_> = self.refused.iter().take(3).collect();
        assert!(
            refused.is_empty(),
            "{} refused, such as {refused:?}",
            self.refused.len()
        );
    }

    /// Every request that got a connection got its 200.
    pub(super) fn expect_all_answered(&self) {
        self.expect_none_refused();
        let dropped: Vec<_> = self.dropped.iter().take(3).collect();
        assert!(
            dropped.is_empty(),
            "{} dropped without an answer, such as {dropped:?}",
            self.dropped.len()
        );
    }
}

/// Senders that post distinct genuine events without a pause.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    gateway: SocketAddr,
    /// What signs each next event: the secrets in turn.
    secrets: Mutex<Vec<String>>,
    tally: Mutex<Tally>,
    stop: AtomicBool,
}

impl Load {
    /// Senders on the one route; `tag` keeps their ids apart from those of other loads.
    pub(super) fn start(gateway: &Gateway, tag: &str) -> Self {
        Self::on(gateway, tag, &[PATH])
    }

    /// Senders that are spread over `paths`.
    pub(super) fn on(gateway: &Gateway, tag: &str, paths: &[&'static str]) -> Self {
        Self::launch(gateway, tag, paths, "secret")
    }

    /// Senders that sign with another secret.
    pub(super) fn signed(gateway: &Gateway, tag: &str, secret: &str) -> Self {
        Self::launch(gateway, tag, &[PATH], secret)
    }

    fn launch(gateway: &Gateway, tag: &str, paths: &[&'static str], secret: &str) -> Self {
        let shared = Arc::new(Shared {
            gateway: gateway.listen(),
            secrets: Mutex::new(vec![secret.to_owned()]),
            tally: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let senders = (0..SENDERS).map(|number| {
            let (shared, tag) = (shared.clone(), format!("{tag}-{number}"));
            let path = paths[number % paths.len()];
            let keeps_connection = (number / paths.len()).is_multiple_of(2);
            std::thread::spawn(move || shared.send(path, &tag, keeps_connection))
        });
        Self {
            senders: senders.collect(),
            shared,
        }
    }

    /// What signs from now on: each event with the next of these. Requests under way keep what they have.
    pub(super) fn sign_with(&self, secrets: &[&str]) {
        *self.shared.secrets.lock().unwrap() = secrets.iter().map(|&secret| secret.to_owned()).collect();
    }

    pub(super) fn acks(&self) -> usize {
        self.shared.tally.lock().unwrap().acked.len()
    }

    pub(super) fn wait_for_acks(&self, count: usize) {
        let enough = wait_for(PATIENCE, || (self.acks() >= count).then_some(()));
        assert!(
            enough.is_some(),
            "the load does not get through: {:?}",
            self.shared.tally
        );
    }

    /// Waits for `count` acknowledged events more than there are now, for each sender.
    pub(super) fn wait_for_more(&self, count: usize) {
        self.wait_for_acks(self.acks() + count * SENDERS);
    }

    /// Ends it; an answer that is still coming is read to its end.
    pub(super) fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::SeqCst);
        for sender in self.senders {
            sender.join().unwrap();
        }
        std::mem::take(&mut *self.shared.tally.lock().unwrap())
    }
}

impl Shared {
    fn send(&self, path: &str, tag: &str, keeps_connection: bool) {
        let mut kept = None;
        for number in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match Connection::open_within(self.gateway, CONNECT_TIMEOUT) {
                    Ok(connection) => connection,
                    Err(_) => {
                        std::thread::sleep(RECONNECT_WAIT);
                        continue;
                    }
                },
            };
            let id = format!("{tag}-{number}");
            let secret = {
                let secrets = self.secrets.lock().unwrap();
                secrets[number % secrets.len()].clone()
            };
            let answer = post_signed(&mut connection, path, &secret, &id);
            let mut tally = self.tally.lock().unwrap();
            match answer {
                Ok(answer) => {
                    let ends = answer.header("connection") == Some("close");
                    if keeps_connection && !ends {
                        kept = Some(connection);
                    }
                    if answer.status == 200 {
                        tally.acked.insert(id);
                    } else {
                        tally
                            .refused
                            .push(format!("{id}: {} {}", answer.status, answer.text()));
                    }
                }
                Err(error) => tally.dropped.push(format!("{id}: {error}")),
            }
        }
    }
}

fn post_signed(connection: &mut Connection, path: &str, secret: &str, id: &str) -> std::io::Result<Response> {
    let body = body(id);
    let signature = hmac_hex(secret.as_bytes(), body.as_bytes());
    connection.post(path, &[("X-Quantiv-Signature", &signature)], body.as_bytes())
}

/// An app that books what it takes.
pub(super) fn booking_app() -> (App, Arc<Mutex<HashSet<String>>>) {
    let taken: Arc<Mutex<HashSet<String>>> = Arc::default();
    let book = taken.clone();
    let app = App::unrecorded(move |request| {
        book.lock().unwrap().insert(id_of(&request.body));
        Reply::Status(200)
    });
    (app, taken)
}

pub(super) fn wait_until_taken(taken: &Mutex<HashSet<String>>, acked: &HashSet<String>) {
    let all = wait_for(PATIENCE, || acked.is_subset(&taken.lock().unwrap()).then_some(()));
    let missing = acked.difference(&taken.lock().unwrap()).count();
    assert!(all.is_some(), "{missing} acknowledged events never arrived");
}
