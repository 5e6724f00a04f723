//! How many instructions the hot functions and one event through the whole gateway take, counted by callgrind: the same on
//! a busy machine as on an idle one. Compared with `benches/instructions.txt`; more than that and a few per cent is a
//! failure.
//!
//! `cargo bench --bench instructions` compares, `INSTRUCTIONS_WRITE=1` writes the figures anew. Needs valgrind.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up has nothing to say, and what it found is its output"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::body_hmac::BodyHmac;
use hooklatch::provider::identify::identify;
use hooklatch::provider::key::SchemeKey;
use hooklatch::provider::preset::{self, Preset};
use hooklatch::provider::scheme::Request;
use hooklatch::provider::signature::LiveKey;
use hooklatch::secret::Key;
use rustix::process::{Pid, Signal, kill_process};

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// The gateway of the same build.
const GATEWAY: &str = env!("CARGO_BIN_EXE_hooklatch");
const SECRET: &[u8] = b"bench-secret-0123456789";
/// A function may take so much more than was written down; the whole chain, whose timers also count on a slow machine, so
/// much.
const ROOM: f64 = 0.03;
const CHAIN_ROOM: f64 = 0.1;
/// Another compiler makes other code, and no profile fits what it makes (`.cargo/rustc.sh`): so many times the room.
const OTHER_COMPILER: f64 = 6.0;
/// Runs of a function, and events through the chain, of which the first ones are not counted.
const RUNS: [usize; 2] = [100, 1100];
const EVENTS: [usize; 2] = [100, 500];
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        // One case, for callgrind.
        (Some("run"), Some(case)) => {
            let runs = arguments.next().and_then(|runs| runs.parse().ok());
            run(&case, runs.expect("how often"));
            ExitCode::SUCCESS
        }
        // A test runner asks what tests there are: none.
        (Some("--list"), _) => ExitCode::SUCCESS,
        _ => compare(),
    }
}

/// What is counted.
struct Case {
    name: &'static str,
    /// It may take so much more than was written down.
    room: f64,
    /// Instructions of one run.
    count: Box<dyn Fn() -> f64>,
}

fn cases() -> Vec<Case> {
    let function = |name: &'static str| {
        let count = move |runs: usize| {
            let mut own = valgrind(Path::new(&std::env::current_exe().expect("it runs")));
            own.0.args(["run", name, &runs.to_string()]);
            let status = own.0.status().expect("valgrind starts");
            assert!(status.success(), "{name}: {status}");
            own.1.collected()
        };
        Case {
            name,
            room: ROOM,
            count: Box::new(move || per_run(count, RUNS)),
        }
    };
    let chain = |name: &'static str, mode: &'static str, body_bytes| {
        let count = move |events| chain(mode, body_bytes, events);
        Case {
            name,
            room: CHAIN_ROOM,
            count: Box::new(move || per_run(count, EVENTS)),
        }
    };
    vec![
        function("verify_1k"),
        function("verify_10k"),
        function("identify_1k"),
        function("identify_10k"),
        chain("chain_queue_1k", "queue", 1 << 10),
        chain("chain_queue_10k", "queue", 10 << 10),
        chain("chain_proxy_1k", "proxy", 1 << 10),
    ]
}

fn per_run(count: impl Fn(usize) -> f64, runs: [usize; 2]) -> f64 {
    let [few, many] = runs;
    (count(many) - count(few)) / (many - few) as f64
}

fn compare() -> ExitCode {
    let written = std::env::var_os("INSTRUCTIONS_WRITE").is_none().then(figures);
    let compiler = compiler();
    let widen = match written.as_ref().map(|(with, _)| *with == compiler) {
        Some(false) => {
            println!("the figures are of another compiler than {compiler}: more room");
            OTHER_COMPILER
        }
        _ => 1.0,
    };
    let (mut text, mut failed) = (format!("{compiler}\n"), false);
    for Case { name, room, count } in cases() {
        let found = count();
        writeln!(text, "{name} {found:.0}").expect("into a string");
        let Some((_, written)) = &written else {
            println!("{name:>16} {found:>10.0}");
            continue;
        };
        let Some(before) = written.get(name) else {
            println!("{name:>16} {found:>10.0}, and none is written in {FIGURES}");
            failed = true;
            continue;
        };
        let change = found / before - 1.0;
        let is_over = change > room * widen;
        let verdict = if is_over { "TOO MANY" } else { "ok" };
        println!(
            "{name:>16} {found:>10.0} of {before:>10.0}: {:>+6.1} %, {verdict}",
            change * 100.0
        );
        failed |= is_over;
    }
    if written.is_none() {
        std::fs::write(FIGURES, text).expect("the figures are written");
    }
    if failed {
        println!(
            "what is slower must be made faster, or written down: INSTRUCTIONS_WRITE=1 cargo bench --bench instructions"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What was written down: with which compiler, and the instructions by case.
fn figures() -> (String, BTreeMap<String, f64>) {
    let text = std::fs::read_to_string(FIGURES).expect("figures to compare with");
    let (compiler, lines) = text.split_once('\n').expect("more than one line");
    let lines = lines.lines().filter_map(|line| line.split_once(' '));
    let counts = lines.map(|(name, count)| (name.to_owned(), count.parse().expect("a figure")));
    (compiler.to_owned(), counts.collect())
}

/// The compiler, and what it is run through if not by `.cargo/rustc.sh`.
fn compiler() -> String {
    let said = Command::new("rustc").arg("-V").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let wrapper = ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"];
    match wrapper.iter().find_map(std::env::var_os) {
        Some(wrapper) => format!("{version} through {}", wrapper.display()),
        None => version,
    }
}

fn quantiv() -> &'static Preset {
    preset::find("quantiv").expect("the preset is embedded")
}

/// Many small objects, as senders write them, and the id behind them.
fn body(body_bytes: usize, id: usize) -> Vec<u8> {
    let item = r#"{"name":"Maria Lopez","score":42,"tags":["a","b"]},"#;
    let items = item.repeat(body_bytes.saturating_sub(60) / item.len() + 1);
    let items = items.trim_end_matches(',');
    format!(r#"{{"data":[{items}],"event":"lead.created","id":"evt_{id:08}"}}"#).into_bytes()
}

fn rule(preset: &Preset) -> &BodyHmac {
    preset.body_hmac().expect("a digest of the body")
}

/// Runs one function so many times.
fn run(case: &str, runs: usize) {
    let body_bytes = if case.ends_with("_10k") { 10 << 10 } else { 1 << 10 };
    let body = body(body_bytes, 1);
    let preset = quantiv();
    let key = Key::new(SECRET).expect("not empty");
    let signed = rule(preset).sign(&key, &body);
    let headers = Fields::from_pairs([
        (&b"content-type"[..], &b"application/json"[..]),
        (signed.header.as_bytes(), signed.value.as_bytes()),
    ]);
    let keys = [LiveKey {
        name: SecretName::new("bench"),
        key: SchemeKey::Hmac(key),
        until: None,
    }];
    for _ in 0..runs {
        if case.starts_with("verify") {
            let presented = rule(preset).read(black_box(&headers)).expect("well formed");
            let matched = presented.check(&keys, Timestamp(0), black_box(&body));
            assert!(matched.is_ok());
        } else {
            let identity = identify(&preset.identify, &Request::new(&headers, black_box(&body)));
            assert!(identity.id.is_some());
        }
    }
}

/// Instructions of a whole gateway that takes and delivers so many events, one after the other.
fn chain(mode: &str, body_bytes: usize, events: usize) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk");
    let (sink, delivered) = sink();
    let listen = free_address();
    let config = folder.path().join("hooklatch.toml");
    std::fs::write(
        &config,
        format!(
            "listen = \"{listen}\"\nworkers = 1\ndrain_delay = \"0s\"\n[store]\npath = {:?}\nallow_ephemeral = true\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[secrets]\nbench = {{ value = \"{}\" }}\n[[route]]\npath = \"/webhook\"\n\
             provider = \"quantiv\"\nsecrets = [\"bench\"]\nmode = \"{mode}\"\nupstream = {{ url = \"http://{sink}/\" }}\n",
            folder.path().join("store"),
            std::str::from_utf8(SECRET).expect("text"),
        ),
    )
    .expect("the configuration is written");
    let mut gateway = valgrind(Path::new(GATEWAY));
    gateway.0.args(["run", "-c"]).arg(&config);
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    let mut child = Ended(
        gateway
            .0
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("valgrind starts"),
    );
    let mut stream = wait_for("a connection", || TcpStream::connect(listen).ok());
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let preset = quantiv();
    let key = Key::new(SECRET).expect("not empty");
    let mut answers = BufReader::new(stream.try_clone().expect("a socket"));
    for id in 0..events {
        let body = body(body_bytes, id);
        let signed = rule(preset).sign(&key, &body);
        let mut request = format!(
            "POST /webhook HTTP/1.1\r\nHost: hooks.example\r\nContent-Type: application/json\r\n{}: {}\r\nContent-Length: \
             {}\r\n\r\n",
            signed.header,
            signed.value,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        stream.write_all(&request).expect("sent");
        let status = message(&mut answers).expect("an answer");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        // Else it would be a matter of chance how many are delivered at once.
        wait_for("the delivery", || {
            (delivered.load(Ordering::SeqCst) > id).then_some(())
        });
    }
    drop((stream, answers));
    let pid = i32::try_from(child.0.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    let status = child.0.wait().expect("it ends");
    assert!(status.success(), "{status}");
    gateway.1.collected()
}

/// An app that says 200, and how many requests it got.
fn sink() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = counted.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let mut stream = stream;
                while message(&mut reader).is_some() {
                    let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    counted.fetch_add(1, Ordering::SeqCst);
                    if answered.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, count)
}

/// Reads a message with a `Content-Length`: its first line; `None` at the end.
fn message(reader: &mut impl BufRead) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|bytes| *bytes > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(first)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A process that does not outlive us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended, or nobody asks how.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What callgrind writes about a process.
struct Log {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Log {
    /// Instructions, all threads together.
    fn collected(&self) -> f64 {
        let text = std::fs::read_to_string(&self.path).expect("what callgrind wrote");
        let line = text.lines().find_map(|line| line.split_once("Collected :"));
        line.and_then(|(_, count)| count.trim().parse().ok())
            .unwrap_or_else(|| panic!("callgrind says: {text}"))
    }
}

/// `program` under callgrind; its arguments follow.
fn valgrind(program: &Path) -> (Command, Log) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callgrind.log");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", path.display()))
        .arg(program);
    (
        command,
        Log {
            path,
            _folder: folder,
        },
    )
}
