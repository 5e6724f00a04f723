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
fn a_problem_is_rendered_with_its_line_and_what_to_do() {
    let text = with_route(
        "provider = \"quantive\"\nsecrets = [\"q\"]\nupstrem = { url = \"http://127.0.0.1:3000\" }\n",
    );
    let (config, problems) = config::inspect("hooklatch.toml", &text, &env());
    assert!(config.is_none());
    assert_eq!(
        problems.to_string(),
        r#"error: provider "quantive" is unknown; did you mean "quantiv"?
 --> hooklatch.toml:7:12
  |
7 | provider = "quantive"
  |            ^^^^^^^^^^
  |
  = help: see: hooklatch providers, or describe its signature in verify = { ... }

error: unknown key "upstrem" in [[route]]; did you mean "upstream"?
 --> hooklatch.toml:9:1
  |
9 | upstrem = { url = "http://127.0.0.1:3000" }
  | ^^^^^^^
  |
  = help: known here: accepted, allow_ips, dedup, dedup_body, dedup_scope, duplicate, enforce, event_id, event_type, max_body, methods, mode, name, path, provider, rate, require_json, secrets, upstream, upstreams, verify

2 errors, 0 warnings in hooklatch.toml"#
    );
}

#[test]
fn every_mistake_has_its_text() {
    let q = "secrets.q = { env = \"S\" }";
    let table: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "1 unknown key",
            with_lines("secretz = 1\ntimeout = \"5s\""),
            vec![
                "error 10:1 unknown key \"secretz\" in [[route]]; did you mean \"secrets\"?",
                "error 11:1 unknown key \"timeout\" in [[route]]",
            ],
        ),
        (
            "2 variable not set",
            with_top(&format!("{STORE}secrets.q = {{ env = \"QUANTIV_WEBHOOK_SECRET\" }}")),
            vec![
                "error 3:21 environment variable QUANTIV_WEBHOOK_SECRET is not set (QUANTIV_WEBHOOK_SECRET_FILE neither)",
            ],
        ),
        (
            "3 and 4 newline, short",
            with_top(&format!("{STORE}secrets.q = {{ file = \"/newline\" }}")),
            vec![
                "warning 3:9 secret \"q\" is 3 bytes; anything under 16 can be guessed offline from one captured request",
                "warning 3:22 secret \"q\": the file ends with a newline: one trailing newline was removed",
            ],
        ),
        (
            "3 more white space, from a variable and from a file with two newlines",
            with_top(&format!("{STORE}secrets.q = {{ env = \"SPACES\" }}\nsecrets.r = {{ file = \"/two\" }}")),
            vec![
                "warning 3:9 secret \"q\" begins or ends with 3 bytes of white space, which are used as part of it",
                "warning 4:9 secret \"r\" begins or ends with 1 byte of white space, which are used as part of it",
                "warning 4:9 secret \"r\" is used by no route, upstream or listener",
                "warning 4:22 secret \"r\": the file ends with a newline: one trailing newline was removed",
            ],
        ),
        (
            "4 empty, in every way",
            with_top(&format!(
                "{STORE}secrets.q = {{ env = \"EMPTY\" }}\nsecrets.r = {{ file = \"/empty\" }}\nsecrets.s = {{ value = \"\" }}\nsecrets.t = {{ env = \"BLANK\" }}"
            ))
            .replace("[\"q\"]", "[\"q\", \"r\", \"s\", \"t\"]"),
            vec![
                "error 3:9 secret \"q\" is empty, so anyone could sign with it; put the provider's secret there",
                "error 4:9 secret \"r\" is empty, so anyone could sign with it; put the provider's secret there",
                "warning 4:22 secret \"r\": the file ends with a newline: one trailing newline was removed",
                "warning 5:9 secret \"s\" stands in the configuration itself, where everyone who reads the file sees it",
                "error 5:9 secret \"s\" is empty, so anyone could sign with it; put the provider's secret there",
                "error 6:9 secret \"t\" is nothing but 2 bytes of white space",
            ],
        ),
        (
            "5 unknown provider without a likeness",
            with_route("provider = \"zzz\"\nsecrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }"),
            vec!["error 7:12 provider \"zzz\" is unknown"],
        ),
        (
            "6 whsec_ in a custom scheme",
            with_top(&format!("{STORE}secrets.q = {{ env = \"WHSEC\" }}"))
                .replace("provider = \"iverton\"", "verify = { header = \"X-S\" }"),
            vec![
                "warning 7:12 secret \"q\" starts with whsec_: it is used as it stands; Standard Webhooks would decode it",
            ],
        ),
        (
            "9 a loop",
            with_route("provider = \"iverton\"\nsecrets = [\"q\"]\nupstream = { url = \"http://localhost:8080/x\" }"),
            vec!["error 9:20 upstream http://localhost:8080/x is hooklatch's own listen address: events would loop"],
        ),
        (
            "12 an open admin listener",
            with_top(&format!("{STORE}admin = {{ listen = \"0.0.0.0:9090\" }}\n{q}")),
            vec!["error 3:20 admin.listen = 0.0.0.0:9090 without admin.token: refusing to start"],
        ),
        (
            "14 an unsigned id",
            with_lines("event_id = { header = \"X-Webhook-Id\" }"),
            vec![
                "error 10:12 event_id = header X-Webhook-Id is not covered by the signature: a captured request could be replayed under a new id",
            ],
        ),
        (
            "15 a short window",
            with_lines("dedup = \"1h\""),
            vec![
                "error 10:9 dedup = \"1h\" is shorter than Iverton AI's retry span (26h36m): late retries would be delivered twice",
            ],
        ),
        (
            "both ways to name a variable",
            with_top(&format!("{STORE}secrets.q = {{ env = \"BOTH\" }}")),
            vec!["error 3:21 environment variables BOTH and BOTH_FILE are both set"],
        ),
        (
            "sources",
            with_top(&format!("{STORE}{q}\nsecrets.g = {{ file = \"/none\" }}\nsecrets.h = {{}}\nsecrets.i = {{ env = \"S\", file = \"/x\" }}"))
                .replace("[\"q\"]", "[\"q\", \"g\", \"h\", \"i\"]"),
            vec![
                "error 4:22 secret \"g\": cannot read /none: entity not found",
                "error 5:9 secret \"h\" has no source; write { env = \"NAME\" }, { file = \"/run/secrets/name\" } or { value = \"...\" }",
                "error 6:9 secret \"i\" has more than one source; keep one of env, file and value",
            ],
        ),
        (
            "until",
            with_top(&format!("{STORE}secrets.q = {{ env = \"S\", until = 2026-01-01T00:00:00Z }}\nsecrets.r = {{ env = \"S\", until = 2030-01-01 }}")),
            vec![
                "warning 3:9 secret \"q\" ran out at 2026-01-01T00:00:00.000Z and is not accepted any more",
                "warning 4:9 secret \"r\" is used by no route, upstream or listener",
                "error 4:34 \"until\" must be a time with its offset, such as 2026-12-31T00:00:00Z",
                "error 8:11 every secret of this route has an \"until\": from the last one on nothing would be accepted",
            ],
        ),
        (
            "verify none",
            with_route("verify = \"none\"\nsecrets = [\"q\"]\nenforce = false\nevent_id = { json = \"/id\" }\nupstream = { url = \"127.0.0.1:3000\" }"),
            vec![
                "warning 7:1 verify = \"none\": ANYBODY can send events here, and nothing checks them",
                "error 8:1 secrets are listed, but verify = \"none\" checks nothing",
                "error 9:11 \"enforce\" has no meaning with verify = \"none\"",
                "error 10:1 \"event_id\" has no meaning with verify = \"none\": an id that anybody can write is not trusted",
                "error 11:20 upstream \"127.0.0.1:3000\" is not an http(s) URL; write it like \"http://127.0.0.1:3000/hooks\"",
            ],
        ),
        (
            "nothing to verify with",
            with_route("secrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }\n[[route]]\npath = \"/b\"\nprovider = \"iverton\""),
            vec![
                "error 5:1 [[route]] lacks \"provider\"",
                "error 9:1 [[route]] lacks \"secrets\"",
                "error 9:1 [[route]] lacks \"upstream\"",
            ],
        ),
        (
            "provider and verify, several upstreams",
            with_route(
                "provider = \"quantiv\"\nverify = { header = \"X-S\" }\nsecrets = [\"q\"]\nupstreams = [{ url = \"http://a:b@127.0.0.1:3000\" }, { name = \"a\", url = \"http://169.254.169.254/\"}, { name = \"a\", url = \"http://a\" }]",
            ),
            vec![
                "error 8:1 \"provider\" and \"verify\" are both written; a provider says already how to verify",
                "error 10:14 [[route.upstreams]] lacks \"name\"",
                "error 10:22 upstream \"http://127.0.0.1:3000\" carries a user name; put credentials into `headers` of the upstream",
                "warning 10:73 upstream 169.254.169.254 is a link-local address, where clouds serve credentials to whoever asks",
                "error 10:110 upstream name \"a\" is used twice in this route",
            ],
        ),
        (
            "proxy",
            with_lines("mode = \"proxy\"\naccepted = { status = 202 }\nrate = { per_second = 5, over = \"pace\" }").replace(
                "3000\" }",
                "3000\", retry = { first = \"1m\" }, types = [\"a\"], concurrency = 3, paused = true, timeout = \"30s\" }",
            ),
            vec![
                "error 9:45 \"retry\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:71 \"types\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:86 \"concurrency\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:103 \"paused\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "warning 9:128 \"timeout\" is longer than Iverton AI waits for an answer (5s)",
                "error 11:1 \"accepted\" is for mode = \"queue\": a proxied sender gets the upstream's answer",
                "error 12:26 over = \"pace\" is for mode = \"queue\": a proxied request cannot be sent later",
            ],
        ),
        (
            "reject where failures switch the endpoint off, and enforce = false",
            with_lines("rate = { per_second = 5, over = \"reject\" }\nenforce = false"),
            vec![
                "warning 10:26 events above the rate are answered 429, which Iverton AI counts as failures (webhook disabled after 5 failures)",
                "warning 11:11 enforce = false: events with a WRONG or MISSING signature go through, only marked",
            ],
        ),
        (
            "answers, addresses, methods",
            with_lines("allow_ips = [\"10.0.0.1/8\", \"x\"]\naccepted = { status = 302 }\nduplicate = { status = 204, body = \"x\" }\nmethods = [\"connect\", 1]"),
            vec![
                "error 10:28 \"allow_ips\" takes addresses and networks, such as \"10.0.0.0/8\" or \"192.0.2.7\"",
                "error 11:23 \"status\" must be a whole number from 200 to 299",
                "error 12:36 an answer with status 204 has no body",
                "error 13:12 \"connect\" is not a method that can carry an event",
                "error 13:23 \"methods\" takes strings in quotes, this is an integer",
            ],
        ),
        (
            "units",
            with_lines("max_body = \"1 MB\"\ndedup = 7\ndedup_body = \"0s\"\nmode = \"que\""),
            vec![
                "error 10:12 \"max_body\" must be a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a whole number of bytes",
                "error 11:9 \"dedup\" must be a duration in quotes, such as \"250ms\", \"5m\", \"1h30m\" or \"7d\"; this is an integer",
                "error 12:14 \"dedup_body\" must be from 1s to 3650d",
                "error 13:8 \"mode\" must be one of \"queue\", \"proxy\"; did you mean \"queue\"?",
            ],
        ),
        (
            "headers to the app",
            with_lines("").replace(
                "3000\" }",
                "3000\", headers = { host = \"a\", Hooklatch_Event_Id = \"b\", X-A = \"c\\nd\", x-ok = \"e\", X-OK = \"f\", \"a b\" = \"g\" } }",
            ),
            vec![
                "error 9:57 header \"host\" is set by hooklatch itself",
                "error 9:69 header \"Hooklatch_Event_Id\" is set by hooklatch itself",
                "error 9:101 the value of header \"X-A\" must be visible ASCII text on one line",
                "error 9:121 header \"X-OK\" is written twice",
                "error 9:133 header \"a b\" is not the name of a header",
            ],
        ),
        (
            "listeners on one address",
            with_top(&format!("{STORE}{q}\nprobe = {{ listen = \"127.0.0.1:8080\" }}\nadmin = {{ listen = \"127.0.0.1:8080\" }}")),
            vec![
                "error 4:20 probe.listen = 127.0.0.1:8080 is taken by listen = 0.0.0.0:8080 already",
                "error 4:20 probe.listen = 127.0.0.1:8080 is taken by admin.listen = 127.0.0.1:8080 already",
                "error 5:20 admin.listen = 127.0.0.1:8080 is taken by listen = 0.0.0.0:8080 already",
            ],
        ),
        (
            "no store",
            with_top(q),
            vec!["error 3:1 there is no [store], and a route in mode \"queue\" keeps its events there"],
        ),
        (
            "a small store",
            with_top(&format!("store = {{ dir = \"/q\", max_bytes = \"1MiB\" }}\n{q}")),
            vec![
                "error 2:11 unknown key \"dir\" in [store]; the folder is called \"path\" here",
                "error 2:35 \"max_bytes\" must be from 16 MiB to 1024 TiB",
            ],
        ),
        (
            "twice",
            with_lines("[[route]]\npath = \"/hooks/a\"\nprovider = \"quantiv\"\nsecrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }\n[[route]]\npath = \"/hooks/a/*\"\nprovider = \"quantiv\"\nsecrets = [\"q\", \"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }"),
            vec![
                "error 11:8 this path is another route's already; only one of them would ever be asked",
                "error 16:8 route name \"hooks/a\" is used twice",
                "error 18:17 secret \"q\" is listed twice",
            ],
        ),
        (
            "a table where a list belongs, and nothing to do",
            "route = {}\n".to_owned(),
            vec!["error 1:9 \"route\" must be a list of tables: write [[route]] with double brackets; this is a table"],
        ),
        (
            "an unconfirmed preset",
            with_lines("").replace("iverton", "connectgain"),
            vec!["warning 7:1 what is known of ConnectGain's signature was never confirmed; see: hooklatch providers show connectgain"],
        ),
    ];
    let env = env()
        .var("SPACES", " a-secret-long-enough\r\n")
        .var("EMPTY", "")
        .var("BLANK", " \t")
        .var("WHSEC", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .var("BOTH", "a-secret-long-enough")
        .var("BOTH_FILE", "/newline")
        .file("/newline", "abc\n")
        .file("/two", "a-secret-long-enough\n\n")
        .file("/empty", "\n");
    let mut wrong = Vec::new();
    for (name, text, expected) in table {
        let got = problems(&text, &env);
        if got != expected {
            wrong.push(format!("{name}:\n{text}\n{got:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    assert!(matches!(&route.verify, Verify::Signature { keys, enforce: true, .. } if keys.len() == 1));
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
