//! The configuration as its user meets it: texts in, settings or rendered problems out.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use hooklatch::config::{self, Env, Severity};
use hooklatch::event::Timestamp;

/// A secret that must never be seen again.
const CANARY: &str = "canary-5f1d2c3b4a59687766554433";

/// Variables and files of one test; the time is 2026-11-21T00:00:00Z.
#[derive(Default)]
struct TestEnv {
    vars: HashMap<String, Vec<u8>>,
    files: HashMap<String, Vec<u8>>,
}

impl TestEnv {
    fn var(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), content.into());
        self
    }
}

impl Env for TestEnv {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        self.vars.get(name).cloned()
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files
            .get(&path.display().to_string())
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_795_219_200_000)
    }
}

fn env() -> TestEnv {
    TestEnv::default().var("S", "a-secret-long-enough")
}

/// Severity, place and text of every problem, without the help.
fn problems(text: &str, env: &dyn Env) -> Vec<String> {
    let (_, problems) = config::inspect("hooklatch.toml", text, env);
    let short = |problem: &config::Problem| {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        match &problem.place {
            Some(place) => format!("{severity} {}:{} {}", place.line, place.column, problem.text),
            None => format!("{severity} {}", problem.text),
        }
    };
    problems.list().iter().map(short).collect()
}

/// A whole configuration around the lines of one route (which begin at line 7).
fn with_route(lines: &str) -> String {
    format!(
        "listen = \"0.0.0.0:8080\"\nstore = {{ path = \"/q\" }}\n[secrets]\nq = {{ env = \"S\" }}\n[[route]]\npath = \"/hooks/a\"\n{lines}"
    )
}

/// A route that is right but for `lines`.
fn with_lines(lines: &str) -> String {
    with_route(&format!(
        "provider = \"iverton\"\nsecrets = [\"q\"]\nupstream = {{ url = \"http://127.0.0.1:3000\" }}\n{lines}"
    ))
}

/// A whole configuration with one good route below `lines` (which begin at line 2).
fn with_top(lines: &str) -> String {
    format!(
        "listen = \"0.0.0.0:8080\"\n{lines}\n[[route]]\npath = \"/hooks/a\"\nprovider = \"iverton\"\nsecrets = [\"q\"]\nupstream = {{ url = \"http://127.0.0.1:3000\" }}\n"
    )
}

const STORE: &str = "store = { path = \"/q\" }\n";

#[test]
fn scratch() {
    let q = "secrets.q = { env = \"S\" }";
    for text in [
        with_lines("secretz = 1\nmode = \"prox\"\nmethods = [\"connect\", 1]\ntimeout = \"5s\""),
        with_lines(
            "dedup = \"1h\"\nevent_id = { header = \"X-Webhook-Id\" }\nmax_body = \"1GB\"\nrate = { per_second = 0, over = \"reject\" }",
        ),
        with_lines(
            "rate = { per_second = 5, over = \"reject\" }\nenforce = false\nallow_ips = [\"10.0.0.1/8\", \"x\"]\naccepted = { status = 302 }\nduplicate = { status = 204, body = \"x\" }",
        ),
        with_route("verify = \"none\"\nsecrets = [\"q\"]\nupstream = { url = \"127.0.0.1:3000\" }"),
        with_route(
            "provider = \"quantiv\"\nverify = { header = \"X-S\" }\nsecrets = [\"q\"]\nupstreams = [{ url = \"http://a:b@127.0.0.1:3000\" }, { name = \"a\", url = \"http://169.254.169.254/\"}]",
        ),
        with_route("upstream = { url = \"http://127.0.0.1:8080/x\" }"),
        with_route(
            "provider = \"connectgain\"\nsecrets = [\"p\"]\nmode = \"proxy\"\nupstream = { url = \"http://localhost:8080/x\", retry = { first = \"1m\" }, types = [\"a\"] }",
        ),
        with_top(&format!("admin = {{ listen = \"0.0.0.0:9090\" }}\n{q}")),
        with_top(&format!(
            "{STORE}probe = {{ listen = \"0.0.0.0:8080\" }}\nsecrets.q = {{ env = \"S\", until = 2026-01-01T00:00:00Z }}\nsecrets.unused = {{ value = \"{CANARY}\" }}"
        )),
        with_top(&format!(
            "{STORE}secrets.q = {{ env = \"MISSING\" }}\nsecrets.f = {{ file = \"/nl\" }}\nsecrets.g = {{ file = \"/none\" }}\nsecrets.h = {{}}\nsecrets.i = {{ env = \"S\", file = \"/nl\" }}"
        )),
    ] {
        eprintln!("{text}-----");
        for line in problems(&text, &env().file("/nl", "abc\n")) {
            eprintln!("{line}");
        }
        eprintln!("=====");
    }
}
