//! The wall clock steps by a year, either way, while the gateway runs and while it is down: nothing young is purged,
//! nothing pending is given up or held, equal bodies are not taken for repeats, and the log goes on.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{compile, config, metric};
use crate::support::{
    App, Gateway, Launch, PATIENCE, Reply, Response, binary, hmac_hex, post, proved, rounds, wait_for,
};

const YEAR_SECS: i64 = 365 * 24 * 3600;
/// Longer than it takes until retention has looked at everything, which it does every two seconds.
const PURGE_MOMENT: Duration = Duration::from_millis(2500);
/// Kept, and delivered at once.
const TAKEN: &str = "/hooks/quantiv";
/// Kept without an id: equal bodies are one event for an hour.
const EQUAL: &str = "/hooks/equal";
/// The app fails at these until it is told otherwise.
const FAILING: &str = "/hooks/failing";
/// The app fails at these, and one attempt is all they get.
const DEAD: &str = "/hooks/dead";
/// Relayed, without an id: what the app has taken is a repeat for an hour.
const RELAYED: &str = "/sync/equal";

/// A gateway with a wall clock that can be set, and its app.
struct Rig {
    wall: File,
    app: App,
    up: Arc<AtomicBool>,
    gateway: Gateway,
    /// Events that must be in the store.
    kept: usize,
    dead: usize,
}

impl Rig {
    fn start() -> Self {
        let up = Arc::new(AtomicBool::new(false));
        let is_up = up.clone();
        let app = App::with(move |request| match request.target.as_str() {
            // No 5xx: a breaker would space the attempts.
            FAILING if !is_up.load(Ordering::SeqCst) => Reply::Status(409),
            DEAD => Reply::Status(422),
            _ => Reply::Status(200),
        });
        let text = with_all_routes(&app);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wall_clock");
        let wall = File::create(&path).unwrap();
        wall.write_all_at(&0_i64.to_le_bytes(), 0).unwrap();
        let gateway = Launch::new(&text)
            .env("LD_PRELOAD", compile(dir.path(), "wall_clock.c"))
            .env("WALL_CLOCK", &path)
            .start();
        // The gateway's own folder outlives its restarts, this one must too.
        std::mem::forget(dir);
        Self {
            wall,
            app,
            up,
            gateway,
            kept: 0,
            dead: 0,
        }
    }

    /// Sets the wall clock this far from the truth.
    fn set_clock(&self, offset_secs: i64) {
        self.wall.write_all_at(&offset_secs.to_le_bytes(), 0).unwrap();
    }

    /// What of `target` the app was handed with this text in its body.
    fn handed(&self, target: &str, text: &str) -> usize {
        let has = |body: &[u8]| body.windows(text.len()).any(|window| window == text.as_bytes());
        let requests = self.app.requests();
        requests
            .iter()
            .filter(|request| request.target == target && has(&request.body))
            .count()
    }

    fn wait_until_handed(&self, target: &str, text: &str, count: usize) {
        let handed = wait_for(PATIENCE, || (self.handed(target, text) >= count).then_some(()));
        assert!(
            handed.is_some(),
            "{target} {text}: {} of {count}",
            self.handed(target, text)
        );
    }

    fn send(&self, path: &str, id: &str) -> Response {
        let body = format!(r#"{{"id":"{id}"}}"#);
        let signature = hmac_hex(b"secret", body.as_bytes());
        let headers = [("X-Quantiv-Signature", signature.as_str())];
        post(self.gateway.listen(), path, &headers, body.as_bytes())
    }

    /// Whether it was taken for a repeat.
    fn send_equal(&self, path: &str, what: &str) -> bool {
        let body = format!(r#"{{"type":"segment.ready","data":"{what}"}}"#);
        let signature = format!("sha256={}", hmac_hex(b"secret", body.as_bytes()));
        let headers = [("X-LTVboost-Signature", signature.as_str())];
        let answer = post(self.gateway.listen(), path, &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{path} {what}: {}", answer.text());
        answer.text().contains("duplicate")
    }

    /// New events of every kind, each as it should fare.
    fn send_all(&mut self, tag: &str) {
        let equal = self.handed(EQUAL, "equal");
        for path in [TAKEN, FAILING, DEAD] {
            let answer = self.send(path, tag);
            assert_eq!(
                (answer.status, answer.text().contains("duplicate")),
                (200, false),
                "{path} {tag}"
            );
        }
        // Two honest events can be byte for byte alike; but not within the hour.
        for (path, what) in [(EQUAL, "equal"), (RELAYED, tag)] {
            assert!(!self.send_equal(path, what), "{path} {tag}");
            assert!(self.send_equal(path, what), "{path} {tag}");
        }
        (self.kept, self.dead) = (self.kept + 4, self.dead + 1);
        let quoted = format!("\"{tag}\"");
        self.wait_until_handed(TAKEN, &quoted, 1);
        self.wait_until_handed(EQUAL, "equal", equal + 1);
        self.wait_until_handed(RELAYED, &quoted, 1);
        // The first wait and the longest are a fraction of a second.
        self.wait_until_handed(FAILING, &quoted, 4);
        let dead = || metric(&self.gateway, "hooklatch_dead_deliveries") as usize == self.dead;
        assert!(wait_for(PATIENCE, || dead().then_some(())).is_some(), "{tag}");
    }

    /// Every event is there with its body, and only what the app refused for good is dead.
    fn expect_all_kept(&self, when: &str) {
        let store = self.gateway.dir().join("store");
        let listed = events(
            &["list", "--limit", "1000", "--output", "json", "--store"],
            &store,
        );
        assert_eq!(listed.lines().count(), self.kept, "{when}: {listed}");
        for line in listed.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let seq = event["seq"].to_string();
            assert!(
                !events(&["show", &seq, "--body", "--store"], &store).is_empty(),
                "{when}: {line}"
            );
        }
        assert_eq!(
            metric(&self.gateway, "hooklatch_dead_deliveries") as usize,
            self.dead,
            "{when}"
        );
    }

    /// What waits for the app is tried again and again, whatever the clock shows.
    fn expect_retries(&self, tag: &str) {
        let quoted = format!("\"{tag}\"");
        self.wait_until_handed(FAILING, &quoted, self.handed(FAILING, &quoted) + 2);
    }

    /// The app takes everything now: all that waits arrives; and the log is whole.
    fn finish(mut self, tags: &[&str]) {
        self.up.store(true, Ordering::SeqCst);
        let pending = || metric(&self.gateway, "hooklatch_pending_deliveries");
        assert!(
            wait_for(PATIENCE, || (pending() == 0.0).then_some(())).is_some(),
            "{}",
            pending()
        );
        self.expect_all_kept("at the end");
        assert_eq!(metric(&self.gateway, "hooklatch_panics_raised_total"), 0.0);
        for tag in tags {
            assert_eq!(self.handed(TAKEN, &format!("\"{tag}\"")), 1, "{tag}");
        }
        assert_eq!(self.gateway.term().code(), Some(0), "{}", self.gateway.log());
        let years = (this_year() - 1)..=(this_year() + 1);
        for line in self.gateway.log().lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
            let year = i64::from(time.to_zoned(jiff::tz::TimeZone::UTC).year());
            assert!(years.contains(&year), "{line}");
            assert!(!line["message"].as_str().unwrap().contains("panicked"), "{line}");
        }
    }
}

fn this_year() -> i64 {
    i64::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year())
}

fn with_all_routes(app: &App) -> String {
    let route = |path: &str, provider: &str, more: &str, upstream: &str| {
        format!(
            "\n[[route]]\npath = \"{path}\"\nprovider = \"{provider}\"\nsecrets = [\"quantiv\"]\n{more}upstream = {{ url = \"http://{}{path}\"{upstream} }}\n",
            app.address()
        )
    };
    let retry = ", retry = { first = \"50ms\", max = \"200ms\" }";
    let one_attempt = ", retry = { first = \"50ms\", attempts = 1 }";
    config(app)
        + &route(EQUAL, "ltvboost", "", "")
        + &route(FAILING, "quantiv", "", retry)
        + &route(DEAD, "quantiv", "", one_attempt)
        + &route(RELAYED, "ltvboost", "mode = \"proxy\"\n", "")
}

/// What `hooklatch events` prints, by the true clock.
fn events(arguments: &[&str], store: &Path) -> String {
    let output = Command::new(binary())
        .arg("events")
        .args(arguments)
        .arg(store)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `way` is 1 for a year ahead, -1 for a year back.
fn steps_while_it_runs(way: i64) {
    let mut rig = Rig::start();
    rig.send_all("before");
    let mut tags = vec!["before".to_owned()];
    let rounds = rounds(1, 4);
    for round in 0..rounds {
        for (offset, name) in [(way * YEAR_SECS, "away"), (0, "back")] {
            rig.set_clock(offset);
            let tag = format!("{name}-{round}");
            for tag in &tags {
                rig.expect_retries(tag);
                assert!(rig.send_equal(RELAYED, tag), "{tag}: the hour is not over");
            }
            rig.send_all(&tag);
            tags.push(tag);
            if offset != 0 {
                std::thread::sleep(PURGE_MOMENT);
            }
            rig.expect_all_kept(name);
            for tag in &tags {
                rig.expect_retries(tag);
            }
        }
    }
    let steps = 2 * rounds;
    let tags: Vec<_> = tags.iter().map(String::as_str).collect();
    let kept = rig.kept;
    rig.finish(&tags);
    let name = if way > 0 { "clock_ahead" } else { "clock_behind" };
    proved(
        name,
        format_args!("{steps} steps of a year while it runs, {kept} events, 0 purged, 0 lost, 0 held"),
    );
}

fn steps_over_restarts(way: i64) {
    let mut rig = Rig::start();
    let mut sent_away = BTreeSet::new();
    rig.send_all("before");
    let mut tags = vec!["before".to_owned()];
    let rounds = rounds(1, 4);
    for round in 0..rounds {
        for (offset, name) in [(way * YEAR_SECS, "away"), (0, "back")] {
            // In order and by force.
            if (round % 2 == 0) == (offset == 0) {
                assert_eq!(rig.gateway.term().code(), Some(0));
            } else {
                rig.gateway.kill9();
            }
            rig.set_clock(offset);
            rig.gateway.restart();
            for tag in &tags {
                rig.expect_retries(tag);
                let is_repeat = rig.send_equal(RELAYED, tag);
                // The second time under this clock its hour may not be over.
                let is_first = offset != 0 && sent_away.insert(tag.clone());
                assert!(
                    !(is_first && is_repeat),
                    "{tag}: the hour is over, or nobody knows"
                );
            }
            if offset != 0 {
                std::thread::sleep(PURGE_MOMENT);
            }
            rig.expect_all_kept(name);
            let tag = format!("{name}-{round}");
            rig.send_all(&tag);
            if offset != 0 {
                sent_away.insert(tag.clone());
            }
            tags.push(tag);
            for tag in &tags {
                rig.expect_retries(tag);
            }
        }
    }
    let steps = 2 * rounds;
    let tags: Vec<_> = tags.iter().map(String::as_str).collect();
    let kept = rig.kept;
    rig.finish(&tags);
    let name = if way > 0 {
        "clock_ahead_at_start"
    } else {
        "clock_behind_at_start"
    };
    proved(
        name,
        format_args!("{steps} restarts with a clock a year off, {kept} events, 0 purged, 0 lost, 0 held"),
    );
}

/// Four machines at once, since they mostly wait.
#[test]
fn a_clock_a_year_off_purges_holds_and_loses_nothing() {
    std::thread::scope(|scope| {
        for way in [1, -1] {
            scope.spawn(move || steps_while_it_runs(way));
            scope.spawn(move || steps_over_restarts(way));
        }
    });
}
