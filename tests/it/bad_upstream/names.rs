//! Upstreams that cannot be reached under the address they were given: names without an answer, and wrong addresses.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::event::{Event, send_all};
use super::rig::{Route, admin, attempts, config, expect_attempts, failures, quantile, start};
use super::upstream::{Book, State};
use crate::fault_server::FaultServer;
use crate::support::{Gateway, Launch, PATIENCE, proved, rounds, wait_for};

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken";
/// So long the system's resolver waits for the silent name server.
const RESOLVER_SECS: u64 = 3;
/// More calls than there are threads for look-ups.
const CALLS: usize = 600;

/// A name server of our own; `silent.test` gets no answer and `nx.test` does not exist, until it is cured.
struct NameServer {
    address: Ipv4Addr,
    cured: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl NameServer {
    /// Needs the right to take port 53.
    fn start() -> io::Result<Self> {
        let address = Ipv4Addr::new(127, 53, fastrand::u8(1..255), fastrand::u8(1..255));
        let socket = UdpSocket::bind((address, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (cured, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = (cured.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !shared.1.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut query) else {
                    continue;
                };
                if let Some(answer) = reply(&query[..length], shared.0.load(Ordering::SeqCst)) {
                    drop(socket.send_to(&answer, from));
                }
            }
        });
        Ok(Self {
            address,
            cured,
            stop,
            thread: Some(thread),
        })
    }

    /// A gateway that asks this server, in a mount namespace of its own.
    fn gateway(&self, dir: &Path, routes: &[Route]) -> Gateway {
        let file = dir.join("resolv.conf");
        let text = format!(
            "nameserver {}\noptions timeout:{RESOLVER_SECS} attempts:1\n",
            self.address
        );
        std::fs::write(&file, text).unwrap();
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        Launch::new(&config(routes))
            .inside(["unshare", "--mount", "sh", "-c", mount, file.to_str().unwrap()])
            .start()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// RFC 1035: the question again, and 127.0.0.1 for an A.
fn reply(query: &[u8], cured: bool) -> Option<Vec<u8>> {
    let name_end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..name_end + 4)?;
    let name = String::from_utf8_lossy(question);
    if !cured && name.contains("silent") {
        return None;
    }
    let exists = cured || !name.contains("nx");
    let is_a = question.get(question.len() - 4..)? == [0, 1, 0, 1];
    let mut answer = query.get(..2)?.to_vec();
    answer.extend_from_slice(&[0x81, if exists { 0x80 } else { 0x83 }, 0, 1]);
    answer.extend_from_slice(&[0, u8::from(exists && is_a), 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    if exists && is_a {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

async fn honest(book: &Arc<Book>) -> FaultServer {
    let shared = book.clone();
    FaultServer::start(move |mut peer| {
        let book = shared.clone();
        async move {
            while let Some(got) = peer.request().await {
                book.take(&got);
                peer.write(TAKEN).await;
            }
        }
    })
    .await
}

/// Look-ups hold threads that the verification of large bodies and the store's readers need too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_name_server_slows_no_other_route_and_loses_nothing() {
    let server = match NameServer::start() {
        Ok(server) => server,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            proved(
                "a silent name server",
                "not run: port 53 and a mount namespace need root",
            );
            return;
        }
        Err(error) => panic!("no name server: {error}"),
    };
    let book = Book::honest();
    let app = honest(&book).await;
    let named = |mut route: Route, name: &str| {
        route.url = format!("http://{name}.test:{}/in", app.address.port());
        route
    };
    let keys = "connect_timeout = \"1s\",";
    let many = format!("{keys} concurrency = {CALLS},");
    let silent = named(Route::queue("silent", app.address, &many), "silent");
    let unknown = named(Route::queue("unknown", app.address, keys), "nx");
    let proxied = named(Route::proxy("silent-proxy", app.address, keys), "silent-too");
    let healthy = Route::proxy("healthy", app.address, "");
    let dir = tempfile::tempdir().unwrap();
    let routes = [silent.clone(), unknown.clone(), proxied.clone(), healthy.clone()];
    let gateway = Arc::new(server.gateway(dir.path(), &routes));

    let kept = Event::many(CALLS, 600);
    let acks = send_all(&kept, gateway.listen(), &silent.path(), 16).await;
    let lost = Event::many(100, 600);
    let more = send_all(&lost, gateway.listen(), &unknown.path(), 16).await;
    assert!(acks.iter().chain(&more).all(|answer| answer.status == 200));
    let flood = {
        let (gateway, path) = (gateway.clone(), proxied.path());
        tokio::spawn(async move { send_all(&Event::many(CALLS, 600), gateway.listen(), &path, CALLS).await })
    };
    // Large enough to be verified on a thread that may block.
    let mut beside = Vec::new();
    for event in Event::many(rounds(30, 100), 300 << 10) {
        let began = Instant::now();
        let answer = event.send(gateway.listen(), &healthy.path()).await.unwrap();
        assert_eq!((answer.status, &*answer.text), (200, "taken"));
        beside.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = flood.await.unwrap();
    assert!(
        refused.iter().all(|answer| matches!(answer.status, 502 | 504)),
        "{refused:?}"
    );
    let slowest = quantile(&beside, 1.0);
    assert!(
        slowest < Duration::from_secs(RESOLVER_SECS) / 2,
        "a healthy route waited {slowest:?}"
    );

    server.cured.store(true, Ordering::SeqCst);
    let all = |state: &State| {
        kept.iter()
            .chain(&lost)
            .all(|event| state.visits.contains_key(&event.id))
    };
    book.until("all events after the cure", all).await;
    expect_attempts(&gateway, "silent", "delivered", kept.len());
    expect_attempts(&gateway, "unknown", "delivered", lost.len());
    let reasons = failures(&gateway.log(), "unknown");
    assert!(!reasons.is_empty());
    assert!(
        reasons
            .iter()
            .all(|(_, reason)| reason.starts_with("cannot resolve nx.test")),
        "{reasons:?}"
    );
    for event in kept.iter().chain(&lost) {
        let visits = book.state().visits[&event.id].clone();
        assert!(visits.len() == 1 && visits[0].whole, "{visits:?}");
    }
    proved(
        "a silent name server",
        format!(
            "{} calls to names without an answer; beside them a healthy route took at most {slowest:.0?}; {} events \
             delivered after the cure, 0 lost",
            2 * CALLS,
            kept.len() + lost.len()
        ),
    );
}

/// What is pending follows the name of its upstream to the new address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_is_mended_by_a_reload() {
    let book = Book::honest();
    let app = honest(&book).await;
    let plain = FaultServer::start(|mut peer| async move {
        drop(peer.stream.readable().await);
        peer.write(b"HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    // The resolver of a machine without a network may take longer than a call: a name server of our own where we may.
    let server = NameServer::start().ok();
    let nobody = if server.is_some() {
        "nx.test"
    } else {
        "hooklatch.invalid"
    };
    let wrong = [
        (
            "plain-on-a-tls-port",
            format!("https://{}/in", plain.address),
            "TLS with",
        ),
        ("no-such-name", format!("http://{nobody}/in"), "cannot resolve"),
        (
            "nobody-there",
            format!("http://{}/in", FaultServer::refusing().await),
            "cannot connect to",
        ),
    ];
    let mut routes = Vec::new();
    for (name, url, _) in &wrong {
        for mut route in [
            Route::queue(name, app.address, ""),
            Route::proxy(&format!("proxy-{name}"), app.address, ""),
        ] {
            route.url.clone_from(url);
            routes.push(route);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let gateway = match &server {
        Some(server) => server.gateway(dir.path(), &routes),
        None => start(&routes),
    };
    let count = rounds(100, 1000);
    let mut sent = Vec::new();
    for (name, _, reason) in &wrong {
        let events = Event::many(count, 600);
        let acks = send_all(&events, gateway.listen(), &format!("/{name}"), 8).await;
        assert!(acks.iter().all(|answer| answer.status == 200), "{name}");
        let path = format!("/proxy-{name}");
        let proxied = Event::many(count, 600);
        let told = send_all(&proxied, gateway.listen(), &path, 8).await;
        assert!(told.iter().all(|answer| answer.status == 502), "{path}: {told:?}");
        let failed = wait_for(PATIENCE, || {
            (attempts(&gateway, name, "retry") >= 5).then_some(())
        });
        assert!(failed.is_some(), "{name} did not fail");
        let given = failures(&gateway.log(), name);
        assert!(
            given.iter().all(|(_, text)| text.starts_with(reason)),
            "{name}: {given:?}"
        );
        sent.push((events, proxied, path));
    }
    assert!(book.state().visits.is_empty(), "an unread request was booked");

    for route in &mut routes {
        route.url = format!("http://{}/in", app.address);
    }
    let text = config(&routes).replace("{dir}", gateway.dir().to_str().unwrap());
    std::fs::write(gateway.dir().join("hooklatch.toml"), text).unwrap();
    assert_eq!(admin(&gateway, "POST", "/-/reload", "").status, 200);
    for ((name, ..), (events, proxied, path)) in wrong.iter().zip(&sent) {
        let again = send_all(proxied, gateway.listen(), path, 8).await;
        assert!(
            again.iter().all(|answer| answer.text == "taken"),
            "{path}: {again:?}"
        );
        expect_attempts(&gateway, name, "delivered", events.len());
        for event in events.iter().chain(proxied) {
            let visits = book.state().visits[&event.id].clone();
            assert!(visits.len() == 1 && visits[0].whole, "{name}: {visits:?}");
        }
    }
    proved(
        "wrong addresses",
        format!(
            "3 kinds, {} events in 2 modes, 0 lost after the reload",
            6 * count
        ),
    );
}
