//! The verbs through the real binary: what they print, and the exit codes that scripts rely on.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::{App, Gateway, Launch, PATIENCE, Reply, hmac_hex, quantiv_config, wait_for};

/// Long enough for no warning, and easy to look for.
const SECRET: &str = "canary-5b1f7c0e9a2d4466";

/// Runs `hooklatch` in `dir` with the secret in its environment.
fn hooklatch(dir: &Path, arguments: &[&str]) -> Output {
    let binary = std::env::var_os("HOOKLATCH_BIN");
    Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_hooklatch").into()))
        .args(arguments)
        .current_dir(dir)
        .env("QUANTIV_WEBHOOK_SECRET", SECRET)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The exit code, and all that was printed. The secret is never in it.
fn run(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = hooklatch(dir, arguments);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains(SECRET), "{arguments:?}: {text}");
    (output.status.code().unwrap(), text)
}

#[test]
fn exit_codes_of_wrong_and_right_arguments() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, code, says) in [
        (
            &["--version"][..],
            0,
            concat!("hooklatch ", env!("CARGO_PKG_VERSION")),
        ),
        (&["--help"], 0, "Usage"),
        (&[], 2, "Usage"),
        (&["run", "--nope"], 2, "--nope"),
        (&["walk"], 2, "walk"),
        (&["run", "-c", "missing.toml"], 2, "missing.toml"),
        (&["check", "-c", "missing.toml"], 2, "missing.toml"),
        (&["health", "--url", "ftp://x"], 1, "ftp://x"),
        (&["providers"], 0, "quantiv"),
    ] {
        let (got, text) = run(dir.path(), arguments);
        assert_eq!(got, code, "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}

#[test]
fn what_init_writes_passes_check_and_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let init = [
        "init",
        "--provider",
        "quantiv",
        "--upstream",
        "http://127.0.0.1:3999/hook",
    ];
    assert_eq!(run(dir.path(), &init).0, 0);
    let written = std::fs::read_to_string(dir.path().join("hooklatch.toml")).unwrap();
    let (code, text) = run(dir.path(), &init);
    assert!(code == 1 && text.contains("--force"), "{text}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("hooklatch.toml")).unwrap(),
        written
    );
    // The temporary folder may be on tmpfs, where a store needs a word more.
    let text = written.replace("[store]", "[store]\nallow_ephemeral = true");
    std::fs::write(dir.path().join("hooklatch.toml"), text).unwrap();
    let (code, text) = run(dir.path(), &["check"]);
    assert_eq!(code, 0, "{text}");
    std::fs::write(dir.path().join("hooklatch.toml"), "lisen = 1\n[[route]]\n").unwrap();
    let (code, text) = run(dir.path(), &["check"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("did you mean \"listen\""), "{text}");
}

/// A gateway whose app refuses until told otherwise, and which gives up at once.
struct Rig {
    app: App,
    up: Arc<AtomicBool>,
    gateway: Gateway,
}

impl Rig {
    fn new() -> Self {
        let up = Arc::new(AtomicBool::new(false));
        let is_up = up.clone();
        let app = App::with(move |_| match is_up.load(Ordering::SeqCst) {
            true => Reply::Status(200),
            false => Reply::Status(500),
        });
        let text = quantiv_config(Path::new("{dir}/store"), app.address())
            .replace("{ value = \"secret\" }", "{ env = \"QUANTIV_WEBHOOK_SECRET\" }")
            .replace(
                "/hooks/quantiv\" }",
                "/hooks/quantiv\", retry = { attempts = 1 } }",
            );
        let gateway = Launch::new(&text).env("QUANTIV_WEBHOOK_SECRET", SECRET).start();
        Self { app, up, gateway }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        run(self.gateway.dir(), arguments)
    }

    fn url(&self) -> String {
        format!("http://{}/hooks/quantiv", self.gateway.listen())
    }
}

#[test]
fn events_are_sent_listed_shown_and_replayed() {
    let rig = Rig::new();
    let url = rig.url();
    let (code, text) = rig.run(&["send", "quantiv", "--to", &url, "--repeat"]);
    assert_eq!(code, 0, "{text}");
    let first = rig.app.wait_for(1);
    assert_eq!(
        first[0]
            .header("x-quantiv-signature")
            .map(|value| value.trim_start_matches("sha256=")),
        Some(&*hmac_hex(SECRET.as_bytes(), &first[0].body))
    );
    let (_, text) = rig.run(&["send", "quantiv", "--to", &url, "--bad-signature"]);
    assert!(text.contains("401"), "{text}");
    let list = || rig.run(&["events", "list", "--status", "dead", "--output", "json"]);
    let dead = wait_for(PATIENCE, || {
        Some(list().1).filter(|text| text.contains("lead.created"))
    });
    assert!(dead.is_some(), "{:?}", list());
    let (code, text) = rig.run(&["events", "show", "1"]);
    assert!(code == 0 && text.contains("500"), "{code} {text}");
    assert_ne!(rig.run(&["events", "show", "999"]).0, 0);
    let known = [
        "events",
        "list",
        "--route",
        "hooks/quantiv",
        "--status",
        "pending",
    ];
    assert_eq!(rig.run(&known).0, 0);
    for verb in ["list", "replay"] {
        let (code, text) = rig.run(&["events", verb, "--route", "nope"]);
        assert!(
            code == 2 && text.contains("the routes are hooks/quantiv"),
            "{code} {text}"
        );
    }
    rig.up.store(true, Ordering::SeqCst);
    let admin = rig.gateway.admin().to_string();
    let (code, text) = rig.run(&["events", "replay", "1", "--admin", &admin]);
    assert_eq!(code, 0, "{text}");
    let requests = rig.app.wait_for(2);
    assert_eq!(requests[1].body, first[0].body);
    let gone = wait_for(PATIENCE, || (!list().1.contains("lead.created")).then_some(()));
    assert!(gone.is_some(), "{:?}", list());
}

/// A gateway with routes whose answers, ids and signatures differ.
fn many_routes(app: &App) -> Gateway {
    let at = app.address();
    let mut text =
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = \"{dir}/store\"\n\
                    allow_ephemeral = true\n[secrets]\ns = { env = \"QUANTIV_WEBHOOK_SECRET\" }\n\
                    gitlab = { env = \"GITLAB\", scheme = \"signing\" }\n"
            .to_owned();
    for (path, proof) in [
        ("gitlab", "provider = \"gitlab\"\nsecrets = [\"gitlab\"]"),
        ("xero", "provider = \"xero\"\nsecrets = [\"s\"]"),
        (
            "relay",
            "provider = \"iverton\"\nsecrets = [\"s\"]\nmode = \"proxy\"",
        ),
        (
            "acme",
            "secrets = [\"s\"]\nverify = { header = \"X-Acme\", signed = \"acme.{body}\" }",
        ),
        ("open", "verify = \"none\""),
        (
            "inside",
            "secrets = [\"s\"]\nverify = { in_json = \"/sig\", signed = \"{json:/n}\" }",
        ),
    ] {
        text.push_str(&format!(
            "[[route]]\npath = \"/{path}\"\n{proof}\nupstream = {{ url = \"http://{at}/{path}\" }}\n"
        ));
    }
    Launch::new(&text)
        .env("QUANTIV_WEBHOOK_SECRET", SECRET)
        .env("GITLAB", GITLAB)
        .start()
}

const GITLAB: &str = "whsec_fuCmrqkWMw9TZCdw/hCeWcDX1hOfC8cCYJApsBJMzkw=";

#[test]
fn send_repeats_the_same_event_and_says_what_is_known_of_the_answer() {
    let app = App::start([]);
    let gateway = many_routes(&app);
    for (name, body) in [
        ("own.json", "{\"n\": 1, \"of\": \"my own\"}"),
        ("inside.json", "{\"n\": \"7\", \"sig\": \"{signature}\"}"),
    ] {
        std::fs::write(gateway.dir().join(name), body).unwrap();
    }
    let send = |route: &str, arguments: &[&str]| {
        let url = format!("http://{}/{route}", gateway.listen());
        let fixed = ["send", "--route", route, "--to", &url];
        let output = Command::new(env!("CARGO_BIN_EXE_hooklatch"))
            .args([&fixed[..], arguments].concat())
            .current_dir(gateway.dir())
            .env("QUANTIV_WEBHOOK_SECRET", SECRET)
            .env("GITLAB", GITLAB)
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    for (route, arguments, code, says, never) in [
        (
            "gitlab",
            &["gitlab", "--repeat"][..],
            0,
            "(a repeat: kept once)",
            "taken again",
        ),
        (
            "xero",
            &["xero", "--repeat"],
            0,
            "(accepted; this route's answers do not tell a duplicate)",
            "taken again",
        ),
        (
            "relay",
            &["iverton"],
            0,
            "(relayed: the app's own answer)",
            "kept",
        ),
        ("acme", &[], 0, "(kept)", "refused"),
        ("acme", &["order.paid"], 0, "order.paid", "refused"),
        (
            "relay",
            &["stripe"],
            2,
            "route \"relay\" is one of Iverton AI (provider = \"iverton\"), not one of Stripe",
            "POST",
        ),
        (
            "acme",
            &["stripe"],
            2,
            "has no provider: its signature is described in `verify`",
            "POST",
        ),
        ("open", &["--bad-signature"], 2, "nothing is signed there", "POST"),
        ("acme", &["--body", "own.json"], 0, "(kept)", "refused"),
        ("gitlab", &["--body", "own.json"], 0, "own.json  24 B", "refused"),
        ("inside", &[], 2, "--body FILE", "POST"),
        ("inside", &["--body", "own.json"], 2, "the file of --body", "POST"),
        ("inside", &["--body", "inside.json"], 0, "(kept)", "refused"),
        (
            "inside",
            &["--body", "inside.json", "--bad-signature"],
            0,
            "refused, not kept",
            "taken",
        ),
        ("acme", &["--body", "nowhere.json"], 1, "nowhere.json", "POST"),
    ] {
        let (got, text) = send(route, arguments);
        assert_eq!(got, code, "{route} {arguments:?}: {text}");
        assert!(text.contains(says), "{route} {arguments:?}: {text}");
        assert!(!text.contains(never), "{route} {arguments:?}: {text}");
    }
    // The ids that were drawn while signing are shown of both.
    let (_, text) = send("gitlab", &["gitlab", "--repeat"]);
    let ids: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("webhook-id: "))
        .collect();
    assert!(ids.len() == 2 && ids.first() == ids.last(), "{text}");
    // Two GitLab events each time, and each has an id of its own.
    let (_, text) = send("gitlab", &["gitlab", "--count", "2"]);
    assert!(!text.contains("duplicate"), "{text}");
}

#[test]
fn health_follows_the_gateway() {
    let mut rig = Rig::new();
    let admin = format!("http://{}", rig.gateway.admin());
    assert_eq!(rig.run(&["health", "--url", &admin]).0, 0);
    assert_eq!(rig.run(&["health", "--url", &admin, "--live"]).0, 0);
    // The configuration says where it listens, whatever else is wrong with it.
    let named = rig.gateway.dir().join("named.toml");
    let text = format!("lisen = 1\n[admin]\nlisten = \"{}\"\n", rig.gateway.admin());
    std::fs::write(&named, text).unwrap();
    let (code, text) = rig.run(&["health", "-c", "named.toml"]);
    assert_eq!((code, text.trim()), (0, "ready"));
    let (code, text) = rig.run(&["health", "-c", "nowhere.toml"]);
    assert!(code == 1 && text.contains("nowhere.toml"), "{text}");
    // Any other server answers 200 too.
    let other = App::start([]);
    for arguments in [&[][..], &["--live"]] {
        let url = format!("http://{}", other.address());
        let (code, text) = rig.run(&[&["health", "--url", &url], arguments].concat());
        assert!(code == 1 && text.contains("not from hooklatch"), "{code} {text}");
    }
    rig.gateway.signal(Signal::TERM);
    assert_eq!(rig.gateway.wait().code(), Some(0));
    let (code, text) = rig.run(&["health", "--url", &admin]);
    assert!(code == 1 && text.contains("--url"), "{text}");
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_where_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hooklatch.toml"), "lisen = 1\n[[route]]\n").unwrap();
    for arguments in [
        &["secrets", "status"][..],
        &["secrets", "capture", "hooks/asana"],
        &["events", "list"],
        &["events", "replay", "1"],
    ] {
        let (code, text) = run(dir.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains("did you mean \"listen\""), "{arguments:?}: {text}");
        let (code, text) = run(dir.path(), &[arguments, &["-c", "missing.toml"]].concat());
        assert!(
            code == 2 && text.contains("missing.toml"),
            "{arguments:?}: {text}"
        );
    }
}

#[test]
fn a_capture_that_cannot_be_does_not_wait() {
    let rig = Rig::new();
    let admin = rig.gateway.admin().to_string();
    for (route, says) in [
        ("hooks/quantiv", "does not send its secret in a handshake"),
        ("hooks/nope", "there is no route"),
    ] {
        let (code, text) = rig.run(&["secrets", "capture", route, "--admin", &admin]);
        assert!(code == 1 && text.contains(says), "{text}");
        assert!(!text.contains("waiting"), "{text}");
    }
}

#[test]
fn sign_and_verify_agree_with_the_gateway() {
    let rig = Rig::new();
    let dir = rig.gateway.dir();
    let body = br#"{"id":"signed by hand"}"#;
    std::fs::write(dir.join("body"), body).unwrap();
    let secret = ["--secret-env", "QUANTIV_WEBHOOK_SECRET"];
    let (code, header) = rig.run(&[&["sign", "quantiv", "body"][..], &secret].concat());
    assert_eq!(code, 0, "{header}");
    let (name, value) = header.trim_end().split_once(": ").unwrap();
    let answer = crate::support::post(rig.gateway.listen(), "/hooks/quantiv", &[(name, value)], body);
    assert_eq!(answer.status, 200);
    for (signature, code) in [(value, 0), ("sha256=00", 1)] {
        let header = format!("{name}: {signature}");
        let arguments = [
            "verify",
            "quantiv",
            "--header",
            &header,
            "--body",
            "body",
            "--explain",
        ];
        let (got, text) = rig.run(&[&arguments[..], &secret].concat());
        assert_eq!(got, code, "{text}");
    }
}

#[test]
fn arguments_of_run_win_over_the_file() {
    let app = App::start([]);
    let other = tempfile::tempdir().unwrap();
    let store = other.path().join("elsewhere");
    let text = quantiv_config(Path::new("{dir}/store"), app.address());
    let gateway = Launch::new(&text).argument("--store").argument(&store).start();
    assert!(store.is_dir());
    assert!(!gateway.dir().join("store").exists());
}
