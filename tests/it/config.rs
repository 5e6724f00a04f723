//! The configuration as its user meets it: texts in, settings or rendered problems out.

mod cli;
mod schema;
mod texts;

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

#[test]
fn no_secret_is_ever_shown() {
    let good = format!(
        r#"listen = "127.0.0.1:0"
store = {{ path = "/q" }}
secrets.q = {{ value = "{CANARY}" }}
secrets.h = {{ file = "/handoff" }}
admin = {{ token = {{ value = "{CANARY}" }} }}
[[route]]
path = "/a"
provider = "iverton"
secrets = ["q"]
upstream = {{ url = "http://127.0.0.1:3000", headers = {{ Authorization = "{CANARY}" }}, handoff_secret = "h" }}
"#
    );
    // Base64 of 24 bytes and more.
    let env = env()
        .var("C", CANARY)
        .file("/handoff", "whsec_Y2FuYXJ5LTVmMWQyYzNiNGE1OTY4Nzc2NjU1NDQzMw==");
    let config = config::parse("hooklatch.toml", &good, &env).unwrap();
    for shown in [
        format!("{config:?}"),
        format!("{config:#?}"),
        config.warnings.join("\n"),
    ] {
        assert!(
            !shown.contains("canary") && !shown.contains("Y2FuYXJ5"),
            "{shown}"
        );
    }
    for (name, broken) in [
        ("an unknown key beside it", good.replace("value = ", "vlaue = ")),
        (
            "another beside it",
            good.replace("secrets.q = {", "secrets.q = { x = 1,"),
        ),
        ("no table", format!("secrets.q = \"{CANARY}\"\n")),
        (
            "a number",
            "secrets.q = { value = 5555443377660000 }\n".replace("5555443377660000", "\"canary\", file = 1"),
        ),
        (
            "in place of a name",
            good.replace("[\"q\"]", &format!("[\"{CANARY}\"]")),
        ),
        (
            "in place of a variable's name",
            good.replace("{ value = ", "{ env = "),
        ),
        (
            "in place of a token",
            good.replace("{ value = \"canary", "\"canary")
                .replace("4433\" } }", "4433\" }"),
        ),
        (
            "in the route",
            good.replace("secrets = [\"q\"]", &format!("secret = \"{CANARY}\"")),
        ),
        (
            "under an unknown key",
            good.replace("secrets = [\"q\"]", &format!("signing_token = \"{CANARY}\"")),
        ),
        (
            "in a URL",
            good.replace("http://127", &format!("http://u:{CANARY}@127")),
        ),
        (
            "next to a broken key",
            good.replace("headers =", "hedders = {}, headers ="),
        ),
        (
            "a quote is missing",
            good.replace(
                &format!("{CANARY}\" }}\nsecrets.h"),
                &format!("{CANARY} }}\nsecrets.h"),
            ),
        ),
        ("unquoted", good.replace(&format!("\"{CANARY}\""), CANARY)),
        (
            "a header is open",
            format!("[secrets\nq = {{ value = \"{CANARY}\" }}\n"),
        ),
        (
            "over several lines",
            format!("[secrets]\nq = {{ value = \"\"\"\n{CANARY}\n\\q\n{CANARY}\"\"\" }}\nx = \n"),
        ),
        (
            "a mistyped header value",
            good.replace("Authorization = \"", "Authorization = \"\\n"),
        ),
    ] {
        let (config, problems) = config::inspect("hooklatch.toml", &broken, &env);
        assert!(config.is_none(), "{name}:\n{broken}");
        let shown = format!("{problems}{problems:?}");
        assert!(!shown.contains("canary"), "{name}:\n{shown}");
    }
}

#[test]
fn text_that_is_not_toml_is_reported_with_all_else_that_is_certain() {
    let text = "listen = 0.0.0.0\nlisten = \"x\"\nworker = 3\n[[route]]\npath = \"/a\"\nmode = 1\n";
    assert_eq!(
        problems(text, &env())
            .iter()
            .map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned())
            .collect::<Vec<_>>(),
        // Of `0.0.0.0`, `0.0` could still be a number.
        ["1:13", "2:1", "3:1", "6:8"]
    );
}

#[test]
fn line_ends_and_marks_do_not_move_columns() {
    let text = format!("\u{feff}{}", with_lines("nmae = 1\n").replace('\n', "\r\n"));
    let (_, problems) = config::inspect("hooklatch.toml", &text, &env());
    let place = problems.list()[0].place.clone().unwrap();
    assert_eq!((place.line, place.column), (10, 1));
    assert_eq!(place.shown, Some(("nmae = 1".to_owned(), 0..4)));
}

fn shipped_env() -> TestEnv {
    ["QUANTIV", "QUINTAGO", "IVERTON", "LTVBOOST", "CONNECTGAIN"]
        .into_iter()
        .fold(TestEnv::default(), |env, name| {
            env.var(&format!("{name}_WEBHOOK_SECRET"), format!("a-secret-of-{name}"))
        })
}

#[test]
fn the_shipped_configuration_is_ready_but_for_its_secrets() {
    let text = include_str!("../../config/hooklatch.toml");
    let config = config::parse("hooklatch.toml", text, &shipped_env()).unwrap();
    assert_eq!(config.routes.routes.len(), 5);
    assert_eq!(config.lanes.len(), 5);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert_eq!(problems(text, &TestEnv::default()).len(), 6);
}

#[test]
fn the_reference_knows_every_key_and_states_the_real_defaults() {
    let text = include_str!("../../config/reference.toml");
    let env = shipped_env()
        .var("HOOKLATCH_ADMIN_TOKEN", "a-token-for-the-admin")
        .var(
            "HOOKLATCH_HANDOFF_SECRET",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ",
        )
        .file("/run/secrets/quantiv_old", "an-older-secret-of-it")
        .file("/etc/hooklatch/chain.pem", "")
        .file("/etc/hooklatch/key.pem", "");
    let full = config::parse("reference.toml", text, &env).unwrap_or_else(|problems| panic!("{problems}"));
    let bare: String = text
        .lines()
        .filter(|line| !line.ends_with("# default"))
        .map(|line| format!("{line}\n"))
        .collect();
    let bare = config::parse("reference.toml", &bare, &env).unwrap_or_else(|problems| panic!("{problems}"));
    let without_warnings = |config: config::Config| config::Config {
        warnings: Vec::new(),
        ..config
    };
    assert_eq!(
        format!("{:#?}", without_warnings(full)),
        format!("{:#?}", without_warnings(bare)),
        "a line marked as default changes something"
    );

    let mut written = std::collections::BTreeSet::new();
    collect_keys("", &text.parse::<toml::Table>().unwrap(), &mut written);
    let missing: Vec<String> = config::keys_asked_for(text, &env)
        .into_iter()
        .map(|key| key.replace("upstreams.", "upstream."))
        .filter(|key| !written.contains(key))
        .collect();
    assert!(missing.is_empty(), "not in the reference: {missing:?}");
}

fn collect_keys(path: &str, table: &toml::Table, keys: &mut std::collections::BTreeSet<String>) {
    for (key, value) in table {
        let key = if path == "secrets" { "*" } else { key };
        let full = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        let tables = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(list) => list.iter().filter_map(|entry| entry.as_table()).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            collect_keys(&full, table, keys);
        }
        keys.insert(full.replace("upstreams.", "upstream."));
    }
}

#[test]
fn settings_arrive_where_they_belong() {
    use hooklatch::receive::settings::{Mode, RoutePath, Verify};
    let text = with_lines(
        "name = \"n\"\npath2 = 1\nmethods = [\"post\", \"PUT\", \"POST\"]\nevent_id = \"body-hash\"\nallow_ips = [\"10.1.2.3/8\", \"::1\"]\nrate = { per_second = 2.5 }\naccepted = { status = 202, body = \"ok\" }\n",
    )
    .replace("path2 = 1\n", "")
    .replace("3000\" }", "3000/in?x=1\", rate = { per_second = 9 }, types = [\"a.*\"], retry = { attempts = 3 }, preserve_host = true }");
    let config =
        config::parse("hooklatch.toml", &text, &env()).unwrap_or_else(|problems| panic!("{problems}"));
    let route = &config.routes.routes[0];
    assert_eq!(route.name.as_str(), "n");
    assert_eq!(route.path, RoutePath::Exact("/hooks/a".into()));
    assert_eq!(*route.methods, ["POST".into(), "PUT".into()]);
    assert_eq!(route.identify.id, None);
    assert_eq!(route.allow_ips[0].to_string(), "10.0.0.0/8");
    assert_eq!(route.allow_ips[1].to_string(), "::1/128");
    assert_eq!(
        (
            route.accepted.status,
            &*route.accepted.body,
            route.accepted.content_type
        ),
        (202, "ok", "text/plain")
    );
    assert_eq!(route.duplicate.content_type, "application/json");
    assert!(route.reject_above.is_none(), "a queue route paces");
    assert!(
        matches!(&route.verify, Verify::Signature { proofs, enforce: true } if proofs[0].keys.len() == 1)
    );
    let Mode::Queue { wants } = &route.mode else {
        panic!("queue is the default")
    };
    assert_eq!(wants[0].upstream.as_str(), "app");
    assert_eq!(wants[0].types.as_deref(), Some(&["a.*".into()][..]));
    let lane = &config.lanes[0];
    assert_eq!(lane.target.to_string(), "n/app");
    assert_eq!(
        lane.rates
            .iter()
            .map(|rate| (rate.per_second, rate.burst))
            .collect::<Vec<_>>(),
        [(9.0, 9), (2.5, 3)]
    );
    assert_eq!(lane.retry.attempts_max, Some(3));
    assert!(lane.handoff.preserve_host);
    assert_eq!(lane.endpoint.query.as_deref(), Some("x=1"));
}

#[test]
fn hostile_text_ends_in_problems_not_in_a_crash() {
    let deep = |open: &str, close: &str| format!("x = {}{}", open.repeat(50_000), close.repeat(50_000));
    for text in [
        deep("[", "]"),
        deep("{a=", "}"),
        format!("[{}]", "a.".repeat(50_000)),
        "[[route]]\n".repeat(2_000),
        "\0".to_owned(),
        "é\u{202e}".repeat(1_000),
        "x".repeat(2 << 20),
    ] {
        let (config, problems) = config::inspect("hooklatch.toml", &text, &env());
        assert!(config.is_none() && problems.has_errors());
    }
}
