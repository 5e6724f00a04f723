//! `init` and `check` through the real binary.

#![allow(clippy::unwrap_used, reason = "the helpers belong to the tests")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use hooklatch::provider::preset::{self, Preset};

const SECRET: &str = "a-secret-long-enough";

fn hooklatch(folder: &Path, args: &[&str], vars: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hooklatch"))
        .args(args)
        .env_clear()
        .envs(vars.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn what_init_writes_check_accepts_once_the_secrets_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let init = [
        "init",
        "--provider",
        "quantiv",
        "--provider",
        "iverton",
        "--upstream",
        "http://127.0.0.1:3000/hooks",
    ];
    let made = hooklatch(folder.path(), &init, &[]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("export IVERTON_WEBHOOK_SECRET="));

    let again = hooklatch(folder.path(), &init, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("--force"));

    let without = hooklatch(folder.path(), &["check"], &[]);
    assert_eq!(without.status.code(), Some(2));
    assert!(text(&without.stderr).contains("environment variable QUANTIV_WEBHOOK_SECRET is not set"));
    assert!(text(&without.stderr).contains("help: export QUANTIV_WEBHOOK_SECRET=..."));
    assert!(text(&without.stdout).is_empty());

    // The test's folder may itself be on tmpfs or overlayfs.
    let file = folder.path().join("hooklatch.toml");
    let allowed = fs::read_to_string(&file)
        .unwrap()
        .replace("[store]\n", "[store]\nallow_ephemeral = true\nmin_free = 0\n");
    fs::write(&file, allowed).unwrap();
    let vars = [
        ("QUANTIV_WEBHOOK_SECRET", SECRET),
        ("IVERTON_WEBHOOK_SECRET", "another-secret-long-enough"),
    ];
    let with = hooklatch(folder.path(), &["check"], &vars);
    let said = text(&with.stdout);
    assert_eq!(with.status.code(), Some(0), "{said}{}", text(&with.stderr));
    assert!(said.starts_with("ok  hooklatch.toml: 2 routes\n"), "{said}");
    assert!(
        said.contains("ok  /hooks/quantiv  quantiv  queue  1 secret  -> http://127.0.0.1:3000/hooks\n"),
        "{said}"
    );
    assert!(said.contains("ok  store ./hooklatch-data  "), "{said}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "check leaves nothing behind: {left:?}");
}

#[test]
fn init_writes_the_file_that_was_named_and_no_other() {
    let variable = [("HOOKLATCH_CONFIG", "variable.toml")];
    for (given, vars, written, next) in [
        (&[][..], &[][..], "hooklatch.toml", "hooklatch run\n"),
        (
            &["-c", "c.toml"],
            &[],
            "c.toml",
            "hooklatch run --config c.toml\n",
        ),
        (&[], &variable, "variable.toml", "hooklatch run\n"),
        (
            &["-c", "c.toml"],
            &variable,
            "c.toml",
            "hooklatch run --config c.toml\n",
        ),
        (
            &["-c", "c.toml", "--out", "o.toml"],
            &[],
            "o.toml",
            "hooklatch run --config o.toml\n",
        ),
        (
            &["--out", "hooklatch.toml"],
            &variable,
            "hooklatch.toml",
            "hooklatch run --config hooklatch.toml\n",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut args = vec![
            "init",
            "--provider",
            "quantiv",
            "--upstream",
            "http://127.0.0.1:3000",
        ];
        args.extend(given);
        let made = hooklatch(folder.path(), &args, vars);
        assert_eq!(made.status.code(), Some(0), "{given:?}: {}", text(&made.stderr));
        let said = text(&made.stdout);
        assert!(said.ends_with(next), "{given:?}: {said}");
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [written], "{given:?}");
    }
}

/// A secret that fits the preset's first scheme.
fn fitting(preset: &Preset) -> Option<&str> {
    let first = preset.schemes.first()?;
    let mut vectors = preset.vectors.iter();
    let of_first = vectors.find(|vector| vector.scheme.as_deref().is_none_or(|name| *name == *first.name));
    Some(&of_first.unwrap().secret)
}

#[test]
fn init_writes_what_check_accepts_for_every_provider() {
    for preset in preset::all() {
        let folder = tempfile::tempdir().unwrap();
        let name = preset.name.as_str();
        let init = [
            "init",
            "--provider",
            name,
            "--upstream",
            "http://127.0.0.1:3000/hooks",
        ];
        let made = hooklatch(folder.path(), &init, &[]);
        assert_eq!(made.status.code(), Some(0), "{name}: {}", text(&made.stderr));
        let file = folder.path().join("hooklatch.toml");
        let written = fs::read_to_string(&file).unwrap();
        assert_eq!(
            written.contains("verify = \"none\""),
            preset.schemes.is_empty(),
            "{name}"
        );
        // The test's folder may itself be on tmpfs or overlayfs.
        let allowed = written.replace("[store]\n", "[store]\nallow_ephemeral = true\nmin_free = 0\n");
        fs::write(&file, allowed).unwrap();
        let mut vars = Vec::new();
        for line in text(&made.stdout).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["export", variable, ..] => {
                    let variable = variable.trim_end_matches("=...").to_owned();
                    let value = match variable.ends_with("_VERIFY_TOKEN") {
                        true => "a-verify-token-of-my-own",
                        false => fitting(preset).unwrap(),
                    };
                    vars.push((variable, value));
                }
                // openssl rand -hex 32 | tr -d '\n' > path
                ["openssl", _, _, _, _, _, _, _, ">", path, ..] => {
                    fs::write(folder.path().join(path), fitting(preset).unwrap()).unwrap();
                }
                _ => {}
            }
        }
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (&**name, *value)).collect();
        let checked = hooklatch(folder.path(), &["check"], &vars);
        let said = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "{name}: {said}\n{written}");
    }
}

#[test]
fn init_takes_the_public_url_where_it_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hooklatch.toml");
    let url = "https://hooks.example.org/in";
    for (provider, given, line) in [
        (
            "twilio",
            Some(url),
            "public_url = \"https://hooks.example.org/in\"",
        ),
        ("twilio", None, "# CHANGE THIS: the URL exactly as it is entered"),
        ("meta", None, "verify_token = { env = \"META_VERIFY_TOKEN\" }"),
        ("strava", None, "verify_token = { env = \"STRAVA_VERIFY_TOKEN\" }"),
        ("dockerhub", None, "# WARNING: Docker Hub signs nothing"),
    ] {
        let mut init = vec![
            "init",
            "--force",
            "--provider",
            provider,
            "--upstream",
            "http://127.0.0.1:3000",
        ];
        init.extend(given.iter().flat_map(|url| ["--public-url", url]));
        let made = hooklatch(folder.path(), &init, &[]);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.contains(line), "{written}");
        assert_eq!(
            written.contains("hooks.example.com"),
            line.contains("CHANGE THIS")
        );
    }
    // What is left out is said.
    let init = [
        "init",
        "--force",
        "--provider",
        "stripe",
        "--upstream",
        "http://127.0.0.1:3000",
        "--public-url",
        url,
    ];
    let made = text(&hooklatch(folder.path(), &init, &[]).stdout);
    assert!(made.contains("public_url was left out"), "{made}");
    assert!(!fs::read_to_string(&file).unwrap().contains("public_url"));
}

#[test]
fn init_refuses_what_check_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (
            ["init", "--provider", "quantive", "--upstream", "http://a"],
            "did you mean \"quantiv\"?",
        ),
        (
            ["init", "--provider", "quantiv", "--upstream", "localhost"],
            "is not an http(s) URL",
        ),
        (
            [
                "init",
                "--provider",
                "quantiv",
                "--upstream",
                "http://127.0.0.1:8080",
            ],
            "events would loop",
        ),
    ] {
        let refused = hooklatch(folder.path(), &args, &[]);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(
            text(&refused.stderr).contains(expected),
            "{}",
            text(&refused.stderr)
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn check_tries_upstreams_and_store_and_speaks_json() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[store]\npath = \"hooklatch.toml\"\nallow_ephemeral = true\n[secrets]\nq = {{ env = \"S\" }}\n\
         [[route]]\npath = \"/a\"\nprovider = \"quantiv\"\nsecrets = [\"q\"]\n\
         upstreams = [{{ name = \"open\", url = \"http://{open}/?token=t\" }}, {{ name = \"closed\", url = \"http://{closed}/\" }}]\n"
    );
    fs::write(folder.path().join("hooklatch.toml"), config).unwrap();
    let checked = hooklatch(
        folder.path(),
        &["check", "--online", "--output", "json"],
        &[("S", SECRET)],
    );
    assert_eq!(checked.status.code(), Some(1), "{}", text(&checked.stderr));
    let said: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(said["ok"], false);
    let checks: Vec<(&str, bool)> = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), check["ok"].as_bool().unwrap()))
        .collect();
    let (open, closed) = (format!("http://{open}"), format!("http://{closed}"));
    assert_eq!(
        checks,
        [("store hooklatch.toml", false), (&*open, true), (&*closed, false)]
    );
    assert_eq!(said["routes"][0]["upstreams"][0]["url"], format!("{open}/"));
    assert_eq!(said["problems"].as_array().unwrap().len(), 0);
    assert!(!text(&checked.stdout).contains(SECRET));
}

#[test]
fn wrong_arguments_and_a_missing_file_are_configuration_errors() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["chek"][..],
        &["check", "--onlin"],
        &["check"],
        &["check", "-c", "nowhere.toml"],
    ] {
        let refused = hooklatch(folder.path(), args, &[]);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(!refused.stderr.is_empty(), "{args:?}");
    }
    // The variable names the file, and the argument beats the variable.
    let vars = [("HOOKLATCH_CONFIG", "from-variable.toml")];
    let refused = hooklatch(folder.path(), &["check"], &vars);
    assert!(text(&refused.stderr).contains("from-variable.toml"));
    let refused = hooklatch(folder.path(), &["check", "-c", "named.toml"], &vars);
    assert!(text(&refused.stderr).contains("named.toml"));
}

#[test]
fn verify_uses_the_secrets_of_a_route() {
    let folder = tempfile::tempdir().unwrap();
    let config = "store = { path = \"q\" }\nsecrets = { q = { env = \"S\" } }\n[[route]]\npath = \"/a\"\nprovider = \"quintago\"\nsecrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }\n";
    fs::write(folder.path().join("hooklatch.toml"), config).unwrap();
    fs::write(folder.path().join("body.json"), "{\"id\":\"evt_1\"}").unwrap();
    let vars = [("S", SECRET)];
    let signed = hooklatch(
        folder.path(),
        &["sign", "quintago", "--route", "a", "body.json"],
        &vars,
    );
    assert_eq!(signed.status.code(), Some(0), "{}", text(&signed.stderr));
    let header = text(&signed.stdout).trim().to_owned();
    let verified = hooklatch(
        folder.path(),
        &[
            "verify",
            "--route",
            "a",
            "--header",
            &header,
            "--body",
            "body.json",
        ],
        &vars,
    );
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
    // The path is often written in place of the name.
    let path = hooklatch(folder.path(), &["verify", "--route", "/a", "body.json"], &vars);
    assert!(
        text(&path.stderr).contains("did you mean \"a\""),
        "{}",
        text(&path.stderr)
    );
    let unknown = hooklatch(
        folder.path(),
        &[
            "verify",
            "--route",
            "b",
            "--header",
            &header,
            "--body",
            "body.json",
        ],
        &vars,
    );
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("the routes are a"));
}
