//! A new configuration, by SIGHUP and by the admin API: whole or not at all, and no request fails by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::{
    Load, PATH, admin, body, booking_app, config, metric, post, send, wait_for_log, wait_until_taken,
};
use crate::support::{App, Gateway, PATIENCE, Reply, wait_for};

/// Puts a new configuration where the gateway reads it.
fn write(gateway: &Gateway, text: &str) {
    let dir = gateway.dir();
    let text = text.replace("{dir}", dir.to_str().unwrap());
    std::fs::write(dir.join("new.toml"), text).unwrap();
    std::fs::rename(dir.join("new.toml"), dir.join("hooklatch.toml")).unwrap();
}

/// Writes and applies one; `Err` has what the admin API said.
fn reconfigure(gateway: &Gateway, text: &str) -> Result<(), String> {
    write(gateway, text);
    let answer = admin(gateway, "POST", "/-/reload", "");
    match answer.status {
        200 => Ok(()),
        422 => Err(answer.text()),
        status => panic!("{status}: {}", answer.text()),
    }
}

/// The route of `config` under another path, as a second one.
fn second_route(app: &App, path: &str) -> String {
    format!(
        "\n[[route]]\npath = \"{path}\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]\nupstream = {{ url = \"http://{}/second\" }}\n",
        app.address()
    )
}

#[test]
fn reloads_under_load_fail_no_request() {
    let (app, taken) = booking_app();
    let good = config(&app);
    let gateway = Gateway::start(&good);
    let load = Load::start(&gateway, "reload");
    for round in 0..20 {
        let so_far = load.acked.lock().unwrap().len();
        let text = match round % 2 {
            0 => good.clone() + &second_route(&app, &format!("/hooks/round-{round}")),
            _ => good.replace("[store]", "[stroe]"),
        };
        write(&gateway, &text);
        gateway.signal(Signal::HUP);
        let done = |gateway: &Gateway| metric(gateway, "hooklatch_config_reloads_total");
        let wanted = f64::from(round + 1);
        assert!(wait_for(PATIENCE, || (done(&gateway) == wanted).then_some(())).is_some());
        load.wait_for_acks(so_far + 10);
    }
    let (acked, refused, broken) = load.stop();
    assert_eq!((refused, broken), (0, 0));
    let log = gateway.log();
    assert_eq!(log.matches("configuration reloaded").count(), 10, "{log}");
    assert_eq!(log.matches("configuration not reloaded").count(), 10, "{log}");
    assert!(log.contains("stroe"), "the reason is in the log");
    wait_until_taken(&taken, &acked);
}

#[test]
fn what_needs_a_restart_is_refused_whole() {
    let app = App::start([]);
    let good = config(&app);
    let gateway = Gateway::start(&good);
    let with_route = good.clone() + &second_route(&app, "/hooks/new");
    for (name, text) in [
        ("listen", with_route.replacen("127.0.0.1:0", "127.0.0.1:1", 1)),
        (
            "[store]",
            with_route.replace("[store]", "[store]\nmax_bytes = \"1GiB\""),
        ),
        ("[store]", with_route.replace("/store\"", "/other\"")),
        (
            "[admin]",
            with_route.replace(
                "[admin]\nlisten = \"127.0.0.1:0\"",
                "[admin]\nlisten = \"127.0.0.1:2\"",
            ),
        ),
        (
            "[admin] token",
            with_route.replace(
                "[admin]",
                "[admin]\ntoken = { value = \"a token of some length\" }",
            ),
        ),
        ("[log] level", with_route.clone() + "\n[log]\nlevel = \"debug\"\n"),
        (
            "[probe]",
            with_route.clone() + "\n[probe]\nlisten = \"127.0.0.1:0\"\n",
        ),
    ] {
        let error = reconfigure(&gateway, &text).unwrap_err();
        assert!(
            error.contains(name) && error.contains("needs a restart"),
            "{name}: {error}"
        );
        assert_eq!(
            post(&gateway, "/hooks/new", "secret", b"{}").status,
            404,
            "{name}: refused whole"
        );
    }
    assert_eq!(send(&gateway, "still").status, 200);
    reconfigure(&gateway, &with_route).unwrap();
    assert_eq!(post(&gateway, "/hooks/new", "secret", b"{}").status, 200);
}

#[test]
fn a_broken_file_changes_nothing_and_its_secret_is_not_told() {
    let app = App::start([]);
    let good = config(&app);
    let gateway = Gateway::start(&good);
    let broken = good
        .replace("value = \"secret\"", "value = \"hunter2-hunter2-hunter2")
        .clone();
    let error = reconfigure(&gateway, &broken).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
    assert!(!gateway.log().contains("hunter2"));
    assert_eq!(send(&gateway, "still").status, 200);
    // Gone altogether.
    std::fs::remove_file(gateway.dir().join("hooklatch.toml")).unwrap();
    assert_eq!(admin(&gateway, "POST", "/-/reload", "").status, 422);
    assert_eq!(send(&gateway, "and still").status, 200);
}

#[test]
fn routes_come_and_go_and_their_deliveries_wait() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let app = App::with(move |request| match &*request.target {
        "/second" if !is_up.load(Ordering::SeqCst) => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let good = config(&app);
    let both = good.clone()
        + &second_route(&app, "/hooks/second").replace(
            "/second\" }",
            "/second\", retry = { first = \"50ms\", max = \"100ms\" } }",
        );
    let gateway = Gateway::start(&both);
    assert_eq!(
        post(&gateway, "/hooks/second", "secret", body("parked").as_bytes()).status,
        200
    );
    app.wait_for(1);
    reconfigure(&gateway, &good).unwrap();
    assert_eq!(post(&gateway, "/hooks/second", "secret", b"{}").status, 404);
    assert!(
        wait_for(PATIENCE, || (metric(&gateway, "hooklatch_parked") > 0.0)
            .then_some(()))
        .is_some()
    );
    up.store(true, Ordering::SeqCst);
    // One more attempt may have been under way when it left.
    let before = {
        std::thread::sleep(Duration::from_millis(200));
        app.requests().len()
    };
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(app.requests().len(), before, "parked: not tried");
    reconfigure(&gateway, &both).unwrap();
    let requests = app.wait_for(before + 1);
    assert_eq!(requests[before].body, body("parked").as_bytes());
    assert!(
        wait_for(PATIENCE, || (metric(&gateway, "hooklatch_pending_deliveries")
            == 0.0)
            .then_some(()))
        .is_some()
    );
}

#[test]
fn a_new_url_gets_what_is_pending() {
    let broken = App::with(|_| Reply::Status(500));
    let working = App::start([]);
    let text = config(&broken);
    let gateway = Gateway::start(&text);
    assert_eq!(send(&gateway, "moved").status, 200);
    let first = broken.wait_for(1);
    let moved = text.replace(&broken.address().to_string(), &working.address().to_string());
    reconfigure(&gateway, &moved).unwrap();
    let second = working.wait_for(1);
    assert_eq!(second[0].body, first[0].body);
    assert_eq!(
        second[0].header("hooklatch-key"),
        first[0].header("hooklatch-key")
    );
    let seen = broken.requests().len();
    assert_eq!(send(&gateway, "after").status, 200);
    working.wait_for(2);
    assert_eq!(broken.requests().len(), seen);
}

#[test]
fn secrets_rotate() {
    let app = App::start([]);
    let one = config(&app);
    let two = |until: &str| {
        one.replace(
            "quantiv = { value = \"secret\" }",
            &format!("quantiv = {{ value = \"secret\", until = \"{until}\" }}\nnew = {{ value = \"newer secret\" }}"),
        )
        .replace("secrets = [\"quantiv\"]", "secrets = [\"quantiv\", \"new\"]")
    };
    let gateway = Gateway::start(&one);
    let status = |secret: &str, id: &str| post(&gateway, PATH, secret, body(id).as_bytes()).status;
    assert_eq!((status("secret", "a"), status("newer secret", "b")), (200, 401));
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1500);
    reconfigure(&gateway, &two(&soon.to_string())).unwrap();
    assert_eq!((status("secret", "c"), status("newer secret", "d")), (200, 200));
    // No reload is needed for the old one to end.
    let ended = wait_for(PATIENCE, || (status("secret", "e") == 401).then_some(()));
    assert!(ended.is_some() && jiff::Timestamp::now() >= soon);
    assert_eq!(status("newer secret", "f"), 200);
    // An event sent with the old secret and again with the new one is one event.
    let again = post(&gateway, PATH, "newer secret", body("a").as_bytes());
    assert!(again.text().contains("duplicate"), "{}", again.text());
    wait_for_log(&gateway, "configuration reloaded");
}
