//! Start, stop, signals and exit codes of the real binary, under load too.

mod clock;
mod drain;
mod letters;
mod load;
mod reload;
mod rotation;
mod secret_files;
mod signals;

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::load::{Load, booking_app, wait_until_taken};
use crate::support::{
    App, Connection, Gateway, Launch, PATIENCE, Reply, Response, hmac_hex, quantiv_config, wait_for,
};

const PATH: &str = "/hooks/quantiv";

/// One Quantiv route with a store in the gateway's folder and quick retries.
fn config(app: &App) -> String {
    let url = format!("http://{}/hooks/quantiv\"", app.address());
    quantiv_config(Path::new("{dir}/store"), app.address()).replace(
        &url,
        &format!("{url}, retry = {{ first = \"50ms\", max = \"100ms\" }}"),
    )
}

fn post(gateway: &Gateway, path: &str, secret: &str, body: &[u8]) -> Response {
    crate::support::post(
        gateway.listen(),
        path,
        &[("X-Quantiv-Signature", &hmac_hex(secret.as_bytes(), body))],
        body,
    )
}

fn send(gateway: &Gateway, id: &str) -> Response {
    post(gateway, PATH, "secret", body(id).as_bytes())
}

fn body(id: &str) -> String {
    format!(r#"{{"id":"{id}"}}"#)
}

fn id_of(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

/// One request to the admin API, as a program on this machine makes it.
fn admin(gateway: &Gateway, method: &str, path: &str, body: &str) -> Response {
    let mut connection = Connection::open(gateway.admin()).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write(request.as_bytes()).unwrap();
    connection.read_response().unwrap()
}

/// The sum of all series of a metric.
fn metric(gateway: &Gateway, name: &str) -> f64 {
    admin(gateway, "GET", "/metrics", "")
        .text()
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Puts a new configuration where the gateway reads it.
fn write_config(gateway: &Gateway, text: &str) {
    let dir = gateway.dir();
    let text = text.replace("{dir}", dir.to_str().unwrap());
    std::fs::write(dir.join("new.toml"), text).unwrap();
    std::fs::rename(dir.join("new.toml"), dir.join("hooklatch.toml")).unwrap();
}

fn wait_for_log(gateway: &Gateway, text: &str) {
    let found = wait_for(PATIENCE, || gateway.log().contains(text).then_some(()));
    assert!(found.is_some(), "no {text:?} in the log");
}

#[test]
fn a_stop_ends_idle_connections_and_is_0() {
    let app = App::start([]);
    let mut gateway = Gateway::start(&config(&app));
    let mut idle = Connection::open(gateway.listen()).unwrap();
    let body = body("one");
    let signature = hmac_hex(b"secret", body.as_bytes());
    let answer = idle
        .post(PATH, &[("X-Quantiv-Signature", &signature)], body.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 200);
    app.wait_for(1);
    let began = Instant::now();
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(idle.read_response().is_err());
    // SIGINT is the same.
    gateway.restart();
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}

#[test]
fn a_taken_port_is_1() {
    let app = App::start([]);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let text = config(&app).replacen("127.0.0.1:0", &address.to_string(), 1);
    let ended = Launch::new(&text).try_start().unwrap_err();
    assert_eq!(ended.status.unwrap().code(), Some(1), "{}", ended.log);
    let line = format!("cannot listen on {address}");
    assert!(ended.log.contains(&line), "{}", ended.log);
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
}

#[test]
fn a_wrong_configuration_is_2() {
    let app = App::start([]);
    let text = config(&app).replace("secrets = [", "secretz = [");
    let ended = Launch::new(&text).try_start().unwrap_err();
    assert_eq!(ended.status.unwrap().code(), Some(2), "{}", ended.log);
    assert!(ended.log.contains("did you mean"), "{}", ended.log);
}

#[test]
fn a_second_process_on_the_store_is_75() {
    let app = App::start([]);
    let dir = tempfile::tempdir().unwrap();
    let text = quantiv_config(&dir.path().join("store"), app.address());
    let first = Gateway::start(&text);
    let ended = Launch::new(&text).try_start().unwrap_err();
    assert_eq!(ended.status.unwrap().code(), Some(75), "{}", ended.log);
    assert!(
        ended.log.contains(&format!("in use by process {}", first.pid())),
        "{}",
        ended.log
    );
    assert_eq!(send(&first, "still serving").status, 200);
}

#[test]
fn a_failed_sync_is_70_and_never_a_2xx() {
    let (app, taken) = booking_app();
    let dir = tempfile::tempdir().unwrap();
    let trigger = dir.path().join("trigger");
    let mut gateway = Launch::new(&config(&app))
        .env("LD_PRELOAD", compile(dir.path(), "fail_sync.c"))
        .env("FAIL_SYNC_WHEN", &trigger)
        .start();
    assert_eq!(send(&gateway, "before").status, 200);
    std::fs::write(&trigger, "").unwrap();
    let refused = send(&gateway, "refused");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(gateway.wait().code(), Some(70), "{}", gateway.log());
    assert!(gateway.log().contains("the store failed"), "{}", gateway.log());
    std::fs::remove_file(&trigger).unwrap();
    gateway.restart();
    // It may have reached the disk before the sync failed; either way the retry is answered and it arrives.
    assert_eq!(send(&gateway, "refused").status, 200);
    let both = ["before", "refused"].map(str::to_owned).into();
    wait_until_taken(&taken, &both);
}

/// Compiles a shared library of `tests/oracle/` into `dir`.
fn compile(dir: &Path, source: &str) -> PathBuf {
    let output = dir.join(source).with_extension("so");
    let made = Command::new("cc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .arg(&output)
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/oracle")
                .join(source),
        )
        .arg("-ldl")
        .status()
        .expect("this test needs a C compiler as `cc`; `make setup` installs it");
    assert!(made.success());
    output
}

#[test]
fn kill_9_and_a_restart_deliver_the_rest() {
    let up = Arc::new(AtomicBool::new(false));
    let (is_up, taken) = (up.clone(), Arc::new(Mutex::new(HashSet::new())));
    let book = taken.clone();
    let app = App::unrecorded(move |request| {
        if !is_up.load(Ordering::SeqCst) {
            return Reply::Status(500);
        }
        book.lock().unwrap().insert(id_of(&request.body));
        Reply::Status(200)
    });
    let mut gateway = Gateway::start(&config(&app));
    let load = Load::start(&gateway, "kill");
    load.wait_for_acks(200);
    gateway.kill9();
    let acked = load.stop().acked;
    up.store(true, Ordering::SeqCst);
    gateway.restart();
    wait_until_taken(&taken, &acked);
    assert!(
        wait_for(PATIENCE, || (metric(&gateway, "hooklatch_pending_deliveries")
            == 0.0)
            .then_some(()))
        .is_some()
    );
}

#[test]
fn while_draining_it_is_unready_and_still_accepts() {
    let (app, taken) = booking_app();
    let text = config(&app).replace("drain_delay = \"0s\"", "drain_delay = \"1s\"");
    let mut gateway = Gateway::start(&text);
    assert_eq!(admin(&gateway, "GET", "/readyz", "").status, 200);
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    wait_for_log(&gateway, "draining");
    let unready = admin(&gateway, "GET", "/readyz", "");
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("draining"), "{}", unready.text());
    assert_eq!(admin(&gateway, "GET", "/livez", "").status, 200);
    let answer = send(&gateway, "late");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    gateway.restart();
    wait_until_taken(&taken, &["late".to_owned()].into());
}

#[test]
fn an_app_that_hangs_holds_the_stop_no_longer_than_the_drain() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let app = App::with(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Hang,
        _ => Reply::Status(200),
    });
    let text = config(&app).replacen("drain_delay", "drain_timeout = \"1s\"\ndrain_delay", 1);
    let mut gateway = Gateway::start(&text);
    assert_eq!(send(&gateway, "held").status, 200);
    assert!(wait_for(PATIENCE, || (calls.load(Ordering::SeqCst) == 1).then_some(())).is_some());
    let began = Instant::now();
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    // Its lease was given back: the next life delivers at once.
    gateway.restart();
    let began = Instant::now();
    assert!(wait_for(PATIENCE, || (calls.load(Ordering::SeqCst) == 2).then_some(())).is_some());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
