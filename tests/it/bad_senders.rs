//! Senders that want to knock the gateway over, beside one that is genuine.
//!
//! The gateway is a process of its own, so that its memory, descriptors and CPU time can be read. The genuine sender
//! sends at a fixed rate whatever happens, and a request's time counts from the moment it was due: a gateway that is
//! stuck cannot slow its own measurement down.

mod flood;
mod genuine;
mod process;
mod wire;

mod crowd;
mod floods;
mod slow;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use self::genuine::{Genuine, Seen};
use crate::support::{App, Gateway, Launch, PATIENCE, Reply, sha256, wait_for};

/// Most memory the gateway may take with so many connections: 40 MiB at rest, 20 KiB for each connection, and three times
/// the 64 MiB of requests (`bytes_in_flight`), since an allocator keeps what large and small bodies leave between them.
fn memory_max(connections: usize) -> usize {
    (232 << 20) + connections * (20 << 10)
}

const SECRET: &str = "bad-senders-canary-0123456789";
const PATH: &str = "/hooks/quantiv";

/// A gateway with one Quantiv route, and an app that books what it is handed.
struct Rig {
    gateway: Gateway,
    delivered: Arc<Mutex<HashMap<String, [u8; 32]>>>,
    _app: App,
}

impl Rig {
    /// `top` goes in front of the tables.
    fn start(top: &str) -> Self {
        Self::launch(top, |launch| launch)
    }

    fn launch(top: &str, with: impl FnOnce(Launch) -> Launch) -> Self {
        let delivered: Arc<Mutex<HashMap<String, [u8; 32]>>> = Arc::default();
        let book = delivered.clone();
        let app = App::unrecorded(move |request| {
            book.lock()
                .unwrap()
                .insert(genuine::id_of(&request.body), sha256(&request.body));
            Reply::Status(200)
        });
        let config = format!(
            r#"
listen = "127.0.0.1:0"
drain_delay = "0s"
{top}

[store]
path = "{{dir}}/store"
allow_ephemeral = true

[admin]
listen = "127.0.0.1:0"

[log]
lines_per_second = 10

[secrets]
quantiv = {{ value = "{SECRET}" }}

[[route]]
path = "{PATH}"
provider = "quantiv"
secrets = ["quantiv"]
upstream = {{ url = "http://{app}/in" }}
"#,
            app = app.address()
        );
        Self {
            gateway: with(Launch::new(&config)).start(),
            delivered,
            _app: app,
        }
    }

    fn listen(&self) -> SocketAddr {
        self.gateway.listen()
    }

    fn genuine(&self) -> Genuine {
        Genuine::new(self.listen())
    }

    /// Every genuine request of these runs got its 200, and exactly their bytes reached the app.
    fn assert_kept(&self, runs: &[&Seen]) {
        for seen in runs {
            assert!(
                seen.failures.is_empty(),
                "{}: {:?}",
                seen.failures.len(),
                &seen.failures[..seen.failures.len().min(5)]
            );
        }
        let sent: HashMap<&String, &[u8; 32]> = runs
            .iter()
            .flat_map(|seen| &seen.acked)
            .map(|(id, hash)| (id, hash))
            .collect();
        let all = wait_for(PATIENCE, || {
            (self.delivered.lock().unwrap().len() >= sent.len()).then_some(())
        });
        let delivered = self.delivered.lock().unwrap();
        assert!(all.is_some(), "{} of {} delivered", delivered.len(), sent.len());
        for (id, hash) in &*delivered {
            assert_eq!(sent.get(id), Some(&hash), "{id} was delivered as it was not sent");
        }
    }
}
