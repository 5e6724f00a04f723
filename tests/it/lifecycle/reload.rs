//! A new configuration, by SIGHUP and by the admin API: whole or not at all, and no request fails by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::load::{Load, booking_app, wait_until_taken};
use super::{Connection, PATH, admin, body, config, metric, post, send, wait_for_log, write_config};
use crate::support::{App, Gateway, PATIENCE, Reply, proved, rounds, wait_for};

/// Writes and applies one; `Err` has what the admin API said.
fn reconfigure(gateway: &Gateway, text: &str) -> Result<(), String> {
    write_config(gateway, text);
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

/// Reloads under load.
const RELOADS: (usize, usize) = (20, 100);

/// Breaks a good file.
type Break = fn(&str) -> String;

/// What a broken file looks like, and what the log says about it.
const BROKEN: [(Break, &str); 7] = [
    (|good| good.replace("[store]", "[stroe]"), "stroe"),
    (|good| cut_after(good, "secrets = ["), "hooklatch.toml:"),
    (|_| String::new(), "[[route]]"),
    (
        |good| good.replacen("value = \"secret\"", "env = \"NOWHERE_SET\"", 1),
        "NOWHERE_SET",
    ),
    (
        |good| good.replacen("value = \"secret\"", "file = \"/nowhere/secret\"", 1),
        "/nowhere/secret",
    ),
    (
        |good| good.replacen("provider = \"quantiv\"", "provider = \"quantic\"", 1),
        "did you mean",
    ),
    (
        |good| good.replacen("127.0.0.1:0", "127.0.0.1:1", 1),
        "needs a restart",
    ),
];

/// The text up to a mark and with it, as a writer leaves a file that died half-way.
fn cut_after(text: &str, mark: &str) -> String {
    let end = text.find(mark).unwrap() + mark.len();
    text[..end].to_owned()
}

/// Every second file is broken: it changes nothing, and the one before goes on.
#[test]
fn reloads_under_load_fail_no_request() {
    let (app, taken) = booking_app();
    let base = config(&app);
    let gateway = Gateway::start(&base);
    let load = Load::start(&gateway, "reload");
    let rounds = rounds(RELOADS.0, RELOADS.1);
    for round in 0..rounds {
        let path = format!("/hooks/round-{round}");
        let good = base.clone() + &second_route(&app, &path);
        let (is_broken, by_signal) = (round % 2 == 1, round % 4 < 2);
        let (broken, complaint) = BROKEN[round / 2 % BROKEN.len()];
        write_config(&gateway, &if is_broken { broken(&good) } else { good });
        let said_before = gateway.log().len();
        if by_signal {
            gateway.signal(Signal::HUP);
            let done = || metric(&gateway, "hooklatch_config_reloads_total") as usize > round;
            assert!(wait_for(PATIENCE, || done().then_some(())).is_some());
        } else {
            let answer = admin(&gateway, "POST", "/-/reload", "");
            let wanted = if is_broken { 422 } else { 200 };
            assert_eq!(answer.status, wanted, "{complaint}: {}", answer.text());
            assert!(
                !is_broken || answer.text().contains(complaint),
                "{}",
                answer.text()
            );
        }
        let wanted = if is_broken { 404 } else { 200 };
        assert_eq!(
            post(&gateway, &path, "secret", body(&path).as_bytes()).status,
            wanted,
            "{complaint}"
        );
        if is_broken {
            let told = wait_for(PATIENCE, || {
                gateway.log()[said_before..].contains(complaint).then_some(())
            });
            assert!(told.is_some(), "{complaint:?} is not in the log");
        }
        load.wait_for_more(2);
    }
    let tally = load.stop();
    tally.expect_all_answered();
    let log = gateway.log();
    assert_eq!(log.matches("configuration reloaded").count(), rounds.div_ceil(2));
    assert_eq!(log.matches("configuration not reloaded").count(), rounds / 2);
    wait_until_taken(&taken, &tally.acked);
    proved(
        "reload_under_load",
        format_args!(
            "{rounds} reloads, {} of broken files, {} acknowledged, 0 failed, 0 lost",
            rounds / 2,
            tally.acked.len()
        ),
    );
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

/// A rotation that brings a new admin token along with new secrets must not be kept waiting by it.
#[test]
fn a_new_admin_token_is_taken_on_with_the_rest() {
    let app = App::start([]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "the first token of it").unwrap();
    let token = format!("[admin]\ntoken = {{ file = \"{}\" }}", file.display());
    let good = config(&app).replace("[admin]", &token);
    let gateway = Gateway::start(&good);
    let ask = |method: &str, path: &str, token: &str| {
        let mut connection = Connection::open(gateway.admin()).unwrap();
        let bearer = format!("Authorization: Bearer {token}\r\nContent-Length: 0");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n");
        connection.write(request.as_bytes()).unwrap();
        connection.read_response().unwrap().status
    };
    assert_eq!(ask("GET", "/metrics", "the first token of it"), 200);
    std::fs::write(&file, "the second token of it").unwrap();
    write_config(
        &gateway,
        &good.replace("value = \"secret\"", "value = \"another secret\""),
    );
    assert_eq!(ask("POST", "/-/reload", "the first token of it"), 200);
    assert_eq!(post(&gateway, PATH, "another secret", b"{}").status, 200);
    assert_eq!(ask("GET", "/metrics", "the first token of it"), 401);
    assert_eq!(ask("GET", "/metrics", "the second token of it"), 200);
    // A broken reload leaves it.
    std::fs::write(&file, "").unwrap();
    assert_eq!(ask("POST", "/-/reload", "the second token of it"), 422);
    assert_eq!(ask("GET", "/metrics", "the second token of it"), 200);
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
    // Of a file with a mistake and warnings only the mistake is told.
    let mistaken = good.replace("provider = \"quantiv\"", "provider = \"quantive\"");
    let error = reconfigure(&gateway, &mistaken).unwrap_err();
    assert!(
        error.contains("did you mean") && !error.contains("stands in the configuration itself"),
        "{error}"
    );
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
    // In whole milliseconds, as the gateway reads it.
    let soon = jiff::Timestamp::now().as_millisecond() + 1500;
    let soon = jiff::Timestamp::from_millisecond(soon).unwrap();
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
