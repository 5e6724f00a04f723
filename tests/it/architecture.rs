//! Holds the table of who may import whom. Changing it is a change of the design, and the commit says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What every part may use, besides its own line of [`TABLE`].
const COMMON: &[&str] = &["event", "fields", "clock", "telemetry", "shutdown"];

/// A module and all that it may import. `+` stands for [`COMMON`], `*` for everything, `root` for items of `lib.rs`.
const TABLE: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &["*"]),
    // Puts the parts together.
    ("run", &["*"]),
    (
        "cli",
        &[
            "+", "root", "run", "config", "provider", "secret", "inbox", "upstream", "receive",
        ],
    ),
    (
        "config",
        &[
            "+", "provider", "secret", "receive", "deliver", "inbox", "upstream", "admin", "handoff",
        ],
    ),
    (
        "receive",
        &[
            "+", "provider", "keys", "secret", "inbox", "upstream", "handoff", "rate",
        ],
    ),
    // Keys that senders publish: fetched, for `provider` to check with.
    ("keys", &["+", "provider", "upstream", "rate"]),
    ("inbox", &["+"]),
    (
        "deliver",
        &["+", "inbox", "upstream", "secret", "handoff", "rate"],
    ),
    ("admin", &["+", "inbox", "secret"]),
    ("handoff", &["event", "fields", "upstream", "secret"]),
    ("provider", &["event", "fields", "secret"]),
    ("upstream", &[]),
    ("telemetry", &["event", "clock", "inbox"]),
    ("clock", &["event"]),
    ("event", &[]),
    ("fields", &[]),
    ("rate", &[]),
    ("secret", &[]),
    ("shutdown", &[]),
];

/// A crate, and the only files that may name it (by the beginning of their path in `src/`).
const FOREIGN: &[(&str, &[&str])] = &[
    ("pingora", &["run/front", "receive/connection", "receive/http2"]),
    ("rusqlite", &["inbox/"]),
    ("axum", &["admin/"]),
    ("toml", &["config/", "provider/preset"]),
    ("clap", &["cli/"]),
];

/// Imports that may close a circle: `telemetry` turns the inbox's figures into metrics.
const CIRCLES_KNOWN: &[(&str, &str)] = &[("telemetry", "inbox")];

#[test]
fn every_import_is_in_the_table() {
    let found = imports();
    let mut wrong = Vec::new();
    for ((from, to), places) in &found {
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| name == from) else {
            wrong.push(format!("module {from} has no line in the table"));
            continue;
        };
        let common = allowed.contains(&"+") && COMMON.contains(&to.as_str());
        if !common && !allowed.contains(&"*") && !allowed.contains(&to.as_str()) {
            wrong.push(format!("{from} must not import {to}: {}", places.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The reader of imports works: these are the two sides of the inbox.
    assert!(
        found.contains_key(&("handoff".to_owned(), "upstream".to_owned())),
        "{found:?}"
    );
}

#[test]
fn no_imports_go_in_a_circle() {
    let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
    for (from, to) in imports().into_keys() {
        // The root puts the parts together; `cli` calls it.
        if from != "lib" && from != "run" && !CIRCLES_KNOWN.contains(&(&from, &to)) {
            edges.entry(from).or_default().insert(to);
        }
    }
    // Modules without open imports go, until none is left: what stays is a circle.
    loop {
        let open = edges.keys().cloned().collect::<BTreeSet<_>>();
        let before = edges.len();
        edges.retain(|_, targets| !targets.is_disjoint(&open));
        if edges.len() == before {
            break;
        }
    }
    assert!(edges.is_empty(), "these import each other: {edges:?}");
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for file in files() {
        let code = code_of(&file);
        for (name, homes) in FOREIGN {
            let at_home = homes.iter().any(|home| file.starts_with(home));
            if !at_home && names_crate(&code, name) {
                wrong.push(format!("src/{file} names {name}, which belongs to {homes:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long_to_read() {
    /// Tests not counted; the aim is 500.
    const LINES_MAX: usize = 620;
    let long = files()
        .into_iter()
        .map(|file| (code_of(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect::<Vec<_>>();
    assert!(
        long.is_empty(),
        "over {LINES_MAX} lines, split by what it does: {long:?}"
    );
}

#[test]
fn imports_are_read_in_every_spelling() {
    for (name, file, code, expected) in [
        (
            "plain",
            "receive/body.rs",
            "use crate::inbox::Inbox;",
            vec!["inbox"],
        ),
        (
            "in a group",
            "receive/body.rs",
            "use crate::{event::Seq, clock};",
            vec!["clock", "event"],
        ),
        (
            "nested group",
            "receive/body.rs",
            "use crate::{a::{x, y}, b};",
            vec!["a", "b"],
        ),
        (
            "inline path",
            "receive/body.rs",
            "fn f() { crate::deliver::g() }",
            vec!["deliver"],
        ),
        (
            "by super, file",
            "receive/body.rs",
            "use super::super::deliver::x;",
            vec!["deliver"],
        ),
        (
            "by super, mod",
            "receive/mod.rs",
            "use super::deliver::x;",
            vec!["deliver"],
        ),
        ("super inside", "receive/body.rs", "use super::limit::x;", vec![]),
        (
            "the library by name",
            "main.rs",
            "hooklatch::cli::run()",
            vec!["cli"],
        ),
        ("own module", "receive/body.rs", "use crate::receive::x;", vec![]),
        (
            "a comment",
            "receive/body.rs",
            "// crate::deliver\n/// crate::deliver",
            vec![],
        ),
        (
            "tests",
            "receive/body.rs",
            "#[cfg(test)]\nmod tests { use crate::deliver; }",
            vec![],
        ),
        ("visibility", "receive/body.rs", "pub(crate) fn f() {}", vec![]),
    ] {
        let got = imports_of(file, &without_comments_and_tests(code))
            .into_iter()
            .collect::<Vec<_>>();
        assert_eq!(got, expected, "{name}");
    }
}

/// Who imports whom, and in which files.
fn imports() -> BTreeMap<(String, String), Vec<String>> {
    let files = files();
    let modules = files
        .iter()
        .map(|file| owner(file).to_owned())
        .collect::<BTreeSet<_>>();
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for file in &files {
        for to in imports_of(file, &code_of(file)) {
            let to = if modules.contains(&to) {
                to
            } else {
                "root".to_owned()
            };
            found
                .entry((owner(file).to_owned(), to))
                .or_default()
                .push(format!("src/{file}"));
        }
    }
    found
}

/// The top-level names that `code`, standing in `file`, takes from the crate's root.
fn imports_of(file: &str, code: &str) -> BTreeSet<String> {
    let depth = file
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .split('/')
        .count();
    let from_root = format!("{}::", vec!["super"; depth].join("::"));
    let mut names = BTreeSet::new();
    for prefix in ["crate::", "hooklatch::", from_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            // The middle of a longer path or word.
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            names.extend(first_names(&code[at + prefix.len()..]));
        }
    }
    names.remove(owner(file));
    names.remove("super");
    names
}

/// `a` of `a::b`, or every first name of `{a::x, b}`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return words(path).next().map(str::to_owned).into_iter().collect();
    };
    let (mut depth, mut expected, mut names) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            _ if expected && !c.is_whitespace() => {
                expected = false;
                names.extend(words(&group[at..]).next().map(str::to_owned));
            }
            _ => {}
        }
    }
    names
}

fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The top-level module of a file.
fn owner(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Every file of `src/` that is not all tests, as a path below it.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.retain(|file| {
        !file
            .split('/')
            .any(|part| part.trim_end_matches(".rs") == "tests")
    });
    found.sort();
    assert!(found.len() > 20, "{found:?}");
    found
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(source().join(file)).unwrap()
}

fn code_of(file: &str) -> String {
    without_comments_and_tests(&read(file))
}

/// Tests come last in a file.
fn without_comments_and_tests(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..tests]
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}
