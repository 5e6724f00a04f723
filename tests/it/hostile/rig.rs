//! A gateway with a queue and a proxy route before a strict upstream, and cases as bytes with what must come of them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::case::{Case, Step};
use super::upstream::{Arrived, StrictApp};
use crate::support::{Connection, Gateway, Response, hmac_hex, proved, rounds, seed};

/// The routes that every case is sent to.
pub(super) const ROUTES: [&str; 2] = ["/queue", "/proxy"];
/// The secret of both.
pub(super) const SECRET: &str = "hostile-0123456789";
/// Senders at once.
const SENDERS: usize = 8;
/// Between the pieces of a request, so that they are read apart.
const GAP: Duration = Duration::from_micros(500);

/// Bodies with the case they belong to and the target they must come under.
type Expected = BTreeMap<Vec<u8>, (String, Option<String>)>;

pub(super) struct Rig {
    pub(super) app: StrictApp,
    pub(super) gateway: Gateway,
    /// Gives every event an id of its own.
    next: AtomicUsize,
    /// What must arrive.
    expected: Mutex<Expected>,
}

/// A case made ready for the wire.
struct Filled {
    wire: Vec<u8>,
    own: Vec<u8>,
    good: Vec<Vec<u8>>,
}

impl Rig {
    pub(super) fn start() -> Self {
        Self::with("")
    }

    /// With more routes; `{app}` in them becomes the upstream's address.
    pub(super) fn with(routes: &str) -> Self {
        Self::with_secrets("", routes)
    }

    /// With more secrets and routes.
    pub(super) fn with_secrets(secrets: &str, routes: &str) -> Self {
        let app = StrictApp::start();
        let mut config = format!(
            "listen = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\n[limits]\nfailures_per_peer = {{ per_second = 1000000, burst = \
             1000000 }}\n[store]\npath = \"{{dir}}/store\"\nallow_ephemeral = true\n[admin]\nlisten = \
             \"127.0.0.1:0\"\n[secrets]\nmain = {{ value = \"{SECRET}\" }}\n"
        );
        config.push_str(secrets);
        for route in ROUTES {
            let mode = route.trim_start_matches('/');
            for path in [route.to_owned(), format!("{route}/*")] {
                config.push_str(&format!(
                    "[[route]]\nname = \"{path}\"\npath = \"{path}\"\nmode = \"{mode}\"\nprovider = \"iverton\"\nsecrets = \
                     [\"main\"]\nupstream = {{ url = \"http://{{app}}/in\" }}\n"
                ));
            }
        }
        config.push_str(routes);
        let gateway = Gateway::start(&config.replace("{app}", &app.address().to_string()));
        Self {
            app,
            gateway,
            next: AtomicUsize::new(0),
            expected: Mutex::default(),
        }
    }

    pub(super) fn listen(&self) -> SocketAddr {
        self.gateway.listen()
    }

    /// A body that never was before: `{"id":"h00000001"}`, 18 bytes.
    pub(super) fn fresh(&self, kind: char) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{{\"id\":\"{kind}{number:08}\"}}").into_bytes()
    }

    /// Must arrive at the upstream, once and as it is.
    pub(super) fn expect(&self, body: Vec<u8>, case: &str, target: Option<String>) {
        let before = self
            .expected
            .lock()
            .unwrap()
            .insert(body, (case.to_owned(), target));
        assert!(before.is_none(), "{case}: two events of one body");
    }

    /// Sends every case to both routes, whole and `cuts` times in pieces; gives the number of requests sent.
    pub(super) fn run(&self, cases: &[Case], cuts: usize, seed: u64) -> usize {
        let jobs: Vec<(&Case, &str, usize)> = cases
            .iter()
            .flat_map(|case| ROUTES.map(|route| (case, route)))
            .flat_map(|(case, route)| (0..=cuts).map(move |cut| (case, route, cut)))
            .collect();
        let (at, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| {
                    while let Some((case, route, cut)) = jobs.get(at.fetch_add(1, Ordering::Relaxed)) {
                        let mut random = fastrand::Rng::with_seed(seed ^ *cut as u64);
                        let random = (*cut > 0).then_some(&mut random);
                        if let Err(error) = self.send(case, route, random) {
                            failed
                                .lock()
                                .unwrap()
                                .push(format!("{} at {route}, cut {cut}: {error}", case.name));
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert!(
            failed.is_empty(),
            "{} of {}:\n{}",
            failed.len(),
            jobs.len(),
            failed.join("\n")
        );
        jobs.len()
    }

    /// Waits for what must arrive and holds it against what did.
    pub(super) fn settle(&self) -> usize {
        // The last of each route: what was to come before it has come.
        for route in ROUTES {
            let mut connection = Connection::open(self.listen()).unwrap();
            let response = self.genuine(&mut connection, route).unwrap();
            assert_eq!(response.status, 200, "the gateway serves others");
        }
        let expected = std::mem::take(&mut *self.expected.lock().unwrap());
        let mut left = expected.clone();
        for Arrived { target, body, .. } in self.app.wait_for(expected.len()) {
            let shown = String::from_utf8_lossy(&body).into_owned();
            let Some((case, due)) = left.remove(&body) else {
                let known = expected.get(&body).map(|(case, _)| case);
                panic!("delivered and never accepted, or twice: {shown:?} to {target:?}, {known:?}");
            };
            let due = due.unwrap_or_else(|| "/in".to_owned());
            assert_eq!(target, due, "{case}");
        }
        assert!(left.is_empty(), "accepted and not delivered: {left:?}");
        expected.len()
    }

    /// One genuine request of a fresh body.
    pub(super) fn genuine(&self, connection: &mut Connection, path: &str) -> io::Result<Response> {
        let body = self.fresh('g');
        connection.write(&genuine(path, &body))?;
        let response = connection.read_response()?;
        if response.status == 200 {
            self.expect(body, "a genuine request", None);
        }
        Ok(response)
    }

    fn fill(&self, template: &[u8], path: &str) -> Filled {
        let own = self.fresh('h');
        let (mut wire, mut good, mut rest) = (Vec::new(), Vec::new(), template);
        while let Some(start) = rest.iter().position(|byte| *byte == b'{') {
            let end = start + rest[start..].iter().position(|byte| *byte == b'}').unwrap();
            wire.extend_from_slice(&rest[..start]);
            let word = std::str::from_utf8(&rest[start + 1..end]).unwrap();
            match word {
                "path" => wire.extend_from_slice(path.as_bytes()),
                "body" => wire.extend_from_slice(&own),
                "signature" => wire.extend_from_slice(sign(&own).as_bytes()),
                "digest" => wire.extend_from_slice(digest(&own).as_bytes()),
                "upper" => wire.extend_from_slice(digest(&own).to_uppercase().as_bytes()),
                "base64" => {
                    let bytes = hex::decode(digest(&own)).unwrap();
                    wire.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                }
                "hex" => wire.extend_from_slice(format!("{:x}", own.len()).as_bytes()),
                "chunked" => wire.extend_from_slice(&chunked(&own)),
                "good" => {
                    good.push(self.fresh('g'));
                    wire.extend_from_slice(&genuine(path, &good[good.len() - 1]));
                }
                "evil" => wire.extend_from_slice(&genuine(path, &self.fresh('e'))),
                _ => {
                    let more = word.strip_prefix("length").expect(word);
                    let more: i64 = if more.is_empty() { 0 } else { more.parse().unwrap() };
                    wire.extend_from_slice((own.len() as i64 + more).to_string().as_bytes());
                }
            }
            rest = &rest[end + 1..];
        }
        wire.extend_from_slice(rest);
        Filled { wire, own, good }
    }

    fn send(&self, case: &Case, path: &str, cut: Option<&mut fastrand::Rng>) -> Result<(), String> {
        let filled = self.fill(&case.wire, path);
        let mut connection = Connection::open(self.listen()).map_err(|error| error.to_string())?;
        let in_pieces = cut.is_some();
        write(&mut connection, &filled.wire, cut);
        let mut good = filled.good.into_iter();
        for (n, step) in case.steps.iter().enumerate() {
            if *step == Step::Ended {
                return ended(&mut connection);
            }
            let response = connection
                .read_response()
                .map_err(|error| format!("{step:?} (step {n}): no answer: {error}"))?;
            let due = match step {
                Step::Taken | Step::Good | Step::TakenLast => 200,
                Step::Answered(status) | Step::Refused(status) => *status,
                Step::Ended => unreachable!("dealt with above"),
            };
            if response.status != due {
                return Err(format!(
                    "{step:?} (step {n}): {} {}",
                    response.status,
                    response.text()
                ));
            }
            match step {
                Step::Taken | Step::TakenLast => {
                    self.expect(filled.own.clone(), &case.name, case.target.clone())
                }
                Step::Good => self.expect(good.next().unwrap(), &case.name, case.target.clone()),
                _ => {
                    if !response.text().starts_with("{\"error\":\"") {
                        return Err(format!("{step:?} (step {n}): {}", response.text()));
                    }
                }
            }
            let last = matches!(step, Step::Refused(_) | Step::TakenLast);
            let closes = response.header("connection") == Some("close");
            if last && !closes {
                return Err(format!("{step:?} (step {n}): the end is not announced"));
            }
            // An answer that was known before the body came ends the connection, rather than wait for the rest.
            if last || (closes && in_pieces && matches!(step, Step::Answered(_))) {
                return ended(&mut connection);
            }
        }
        // Where the next request begins was not lost.
        let response = self.genuine(&mut connection, path);
        match response {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("the next request: {other:?}")),
        }
    }
}

/// Writes all, or as much as the other side takes; with `cut` in two to four pieces.
fn write(connection: &mut Connection, wire: &[u8], cut: Option<&mut fastrand::Rng>) {
    let mut rest = wire;
    if let Some(random) = cut {
        for _ in 0..random.usize(1..4) {
            let (piece, more) = rest.split_at(random.usize(..=rest.len()));
            drop(connection.write(piece));
            std::thread::sleep(GAP);
            rest = more;
        }
    }
    // The answer may come before all is written.
    drop(connection.write(rest));
}

/// Waits for the gateway's end of the connection.
pub(super) fn ended(connection: &mut Connection) -> Result<(), String> {
    match connection.read_response() {
        Ok(response) => Err(format!(
            "one answer too many: {} {}",
            response.status,
            response.text()
        )),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(format!("the connection stays open: {error}")),
    }
}

/// The value of the signature header.
pub(super) fn sign(body: &[u8]) -> String {
    format!("sha256={}", digest(body))
}

fn digest(body: &[u8]) -> String {
    hmac_hex(SECRET.as_bytes(), body)
}

/// A plain genuine request.
pub(super) fn genuine(path: &str, body: &[u8]) -> Vec<u8> {
    let mut wire = format!(
        "POST {path} HTTP/1.1\r\nHost: hooks.example\r\nX-Iverton-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        sign(body),
        body.len()
    )
    .into_bytes();
    wire.extend_from_slice(body);
    wire
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut wire = format!("{:x}\r\n", body.len()).into_bytes();
    wire.extend_from_slice(body);
    wire.extend_from_slice(b"\r\n0\r\n\r\n");
    wire
}

/// One rig: every case, at both routes, whole and in pieces; then what arrived is held against what was accepted.
pub(super) fn prove(name: &str, cases: &[Case]) {
    let rig = Rig::start();
    let sent = rig.run(cases, rounds(1, 40), seed(name));
    let delivered = rig.settle();
    proved(
        name,
        format!(
            "{} cases, {sent} times sent, {delivered} events accepted and delivered byte for byte, 0 others",
            cases.len()
        ),
    );
}
