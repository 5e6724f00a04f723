//! Files of secrets that change under a running gateway, and `hooklatch secrets status`.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::load::{Load, booking_app, wait_until_taken};
use super::{PATH, body, config, post, wait_for_log};
use crate::support::{App, Gateway, Launch, PATIENCE, binary, wait_for};

/// More than one look at the files, and the time they are left to settle.
const SEVERAL_LOOKS: Duration = Duration::from_secs(8);
const TOKEN: &str = "canary admin token of the status";

fn secret(name: &str) -> String {
    format!("canary secret called {name}")
}

/// Written beside and moved over, as careful writers do it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn status(gateway: &Gateway, key: &str, id: &str) -> u16 {
    post(gateway, PATH, &secret(key), body(id).as_bytes()).status
}

fn wait_until_accepted(gateway: &Gateway, key: &str) {
    let accepted = wait_for(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        (status(gateway, key, key) == 200).then_some(())
    });
    assert!(accepted.is_some(), "{key} is not accepted");
}

/// The configuration with these lines under `[secrets]` and these names on its route.
fn with_secrets(app: &App, lines: &str, names: &str) -> String {
    config(app)
        .replace("quantiv = { value = \"secret\" }\n", lines)
        .replace("secrets = [\"quantiv\"]", &format!("secrets = [{names}]"))
        // Secrets that are not known yet are tried often.
        .replace(
            "[admin]",
            "[limits]\nfailures_per_peer = { per_second = 1000, burst = 1000 }\n\n[admin]",
        )
}

fn count(gateway: &Gateway, line: &str) -> usize {
    gateway.log().matches(line).count()
}

fn expect_no_secret(what: &str, text: &str) {
    assert!(!text.contains("canary"), "{what}: {text}");
}

#[test]
fn files_of_secrets_are_read_again_when_they_change() {
    let (app, taken) = booking_app();
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    std::fs::write(&one, secret("a")).unwrap();
    std::fs::write(&two, secret("b")).unwrap();
    let lines = format!(
        "one = {{ file = \"{}\" }}\ntwo = {{ file = \"{}\" }}\n",
        one.display(),
        two.display()
    );
    let gateway = Gateway::start(&with_secrets(&app, &lines, "\"one\", \"two\""));
    let load = Load::signed(&gateway, "files", &secret("a"));
    load.wait_for_more(4);
    assert_eq!(status(&gateway, "c", "early"), 401, "not known yet");
    replace(&two, &secret("c"));
    wait_until_accepted(&gateway, "c");
    assert_eq!(status(&gateway, "a", "other"), 200, "the other file is as it was");
    assert_eq!(status(&gateway, "b", "late"), 401, "taken over");
    wait_for_log(&gateway, "files of secrets changed");
    assert!(gateway.log().contains(r#"secret \"two\""#), "{}", gateway.log());
    assert!(!gateway.log().contains(r#"secret \"one\""#), "{}", gateway.log());
    // Whole or not at all: nothing of a new configuration while one file is broken.
    std::fs::write(&one, "").unwrap();
    replace(&two, &secret("d"));
    wait_for_log(&gateway, "configuration not reloaded");
    wait_for_log(&gateway, "is empty");
    for (key, wanted) in [("a", 200), ("c", 200), ("d", 401)] {
        assert_eq!(status(&gateway, key, &format!("broken-{key}")), wanted, "{key}");
    }
    load.wait_for_more(4);
    // It is not tried again and again.
    std::thread::sleep(SEVERAL_LOOKS);
    assert_eq!(count(&gateway, "configuration not reloaded"), 1);
    load.sign_with(&[&secret("c")]);
    load.wait_for_more(4);
    // Only the one file is mended; the other one is read with it.
    load.sign_with(&[&secret("a")]);
    load.wait_for_more(4);
    replace(&one, &secret("a"));
    wait_until_accepted(&gateway, "d");
    load.wait_for_more(4);
    let tally = load.stop();
    tally.expect_all_answered();
    wait_until_taken(&taken, &tally.acked);
    expect_no_secret("the log", &gateway.log());
}

/// As Kubernetes swaps the folder of a mounted secret, whose path the variable `..._FILE` has.
#[test]
fn a_swapped_folder_behind_a_variable_takes_over() {
    let app = App::start([]);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (folder, name) in [("..first", "a"), ("..second", "b")] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(folder).join("key"), secret(name)).unwrap();
    }
    symlink("..first", at("..data")).unwrap();
    symlink("..data/key", at("key")).unwrap();
    let text = with_secrets(&app, "quantiv = { env = \"SWAPPED_KEY\" }\n", "\"quantiv\"");
    let gateway = Launch::new(&text)
        .env("SWAPPED_KEY_FILE", at("key").to_str().unwrap())
        .start();
    let matches = || {
        let (_, text) = Command::new(binary())
            .args([
                "secrets",
                "status",
                "--output",
                "json",
                "--admin",
                &gateway.admin().to_string(),
            ])
            .output()
            .map(|output| (output.status, String::from_utf8(output.stdout).unwrap()))
            .unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report["routes"][0]["secrets"][0]["matches"].as_u64().unwrap()
    };
    for event in ["first", "second", "third"] {
        assert_eq!(status(&gateway, "a", event), 200);
    }
    assert_eq!(matches(), 3);
    symlink("..second", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    wait_until_accepted(&gateway, "b");
    assert_eq!(status(&gateway, "a", "late"), 401);
    assert_eq!(matches(), 1, "those of the secret before are not its own");
    expect_no_secret("the log", &gateway.log());
}

/// What the verb says, and its exit code.
fn ask(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary())
        .args(["secrets", "status", "--config"])
        .arg(gateway.dir().join("hooklatch.toml"))
        .args(["--admin", &gateway.admin().to_string()])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    expect_no_secret("the status", &text);
    (output.status.code().unwrap(), text)
}

#[test]
fn the_status_says_which_secret_is_in_use_and_which_can_go() {
    let app = App::start([]);
    let lines = format!(
        "new = {{ value = \"{}\" }}\nold = {{ value = \"{}\", until = 2099-12-31T00:00:00Z }}\n",
        secret("new"),
        secret("old")
    );
    let text = with_secrets(&app, &lines, "\"new\", \"old\"")
        .replace("[admin]", &format!("[admin]\ntoken = {{ value = \"{TOKEN}\" }}"));
    let gateway = Gateway::start(&text);
    assert_eq!(status(&gateway, "old", "1"), 200);
    let (code, text) = ask(&gateway, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("hooks/quantiv, old: still used"), "{text}");
    assert!(
        text.contains("hooks/quantiv, new: the only one of its route without an until: it must stay"),
        "{text}"
    );
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        (status(&gateway, "new", "2"), status(&gateway, "new", "3")),
        (200, 200)
    );
    let (code, text) = ask(&gateway, &["--quiet", "1s", "--output", "json"]);
    assert_eq!(code, 0, "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let route = &report["routes"][0];
    assert_eq!(route["route"], "hooks/quantiv");
    let [new, old] = [0, 1].map(|at| &route["secrets"][at]);
    assert_eq!((&new["name"], &old["name"]), (&"new".into(), &"old".into()));
    assert_eq!((&new["matches"], &old["matches"]), (&2.into(), &1.into()));
    assert_eq!(
        (&new["state"], &old["state"]),
        (&"active".into(), &"expires".into())
    );
    assert_eq!((&new["can_go"], &old["can_go"]), (&false.into(), &true.into()));
    assert_eq!(old["until"], "2099-12-31T00:00:00.000Z");
    for secret in [new, old] {
        let used: jiff::Timestamp = secret["last_used"].as_str().unwrap().parse().unwrap();
        let since: jiff::Timestamp = secret["counted_since"].as_str().unwrap().parse().unwrap();
        assert!(since <= used && used <= jiff::Timestamp::now(), "{secret}");
    }
    let (_, text) = ask(&gateway, &["--quiet", "1s"]);
    let said = text.lines().find(|line| line.starts_with("hooks/quantiv, old: "));
    let said = said.unwrap_or_else(|| panic!("{text}"));
    assert!(
        said.contains("no request has used it since") && said.ends_with(": it can go"),
        "{said}"
    );
    assert!(text.starts_with("ROUTE "), "{text}");
    // Without an answer it fails, and says why.
    for (arguments, says) in [
        (&["--quiet", "soon"][..], "24h"),
        (&["--output", "xml"], "possible values"),
    ] {
        let (code, text) = ask(&gateway, arguments);
        assert!(code == 2 && text.contains(says), "{arguments:?}: {text}");
    }
    let output = Command::new(binary())
        .args(["secrets", "status", "--admin", "127.0.0.1:1"])
        .current_dir(gateway.dir().join("store"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("cannot ask the gateway"), "{text}");
}
