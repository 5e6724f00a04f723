//! A configuration's text: it is read or it is refused, and either way what is said about it can be shown.

use std::io;
use std::path::Path;

use hooklatch::config::{Env, Severity, inspect_file};
use hooklatch::event::Timestamp;

use super::input::Input;

const FILE: &str = "hooklatch.toml";
/// What every variable and every file of the world below holds.
const SECRET: &str = "canary-3f9a6c1e";

/// What stands before and behind the input, chosen by its first byte, so that a short one reaches every table.
const FRAMES: [(&str, &str); 6] = [
    ("", ""),
    // Top level.
    ("workers=1\n", TABLES),
    ("workers=1\nlisten=\"[::1]:1\"\n[secrets]\n", STORE_AND_ROUTE),
    // A route, its upstream, its verification.
    (WHOLE, ""),
    (OPEN_UPSTREAM, ""),
    (CUSTOM, ""),
];
const TABLES: &str = "\n[secrets]\na={env=\"A\"}\n[store]\npath=\"/d\"\n[[route]]\npath=\"/h\"\nprovider=\"quantiv\"\n\
                      secrets=[\"a\"]\nupstream={url=\"http://h/\"}\n";
const STORE_AND_ROUTE: &str = "\n[store]\npath=\"/d\"\n[[route]]\npath=\"/h\"\nprovider=\"quantiv\"\nsecrets=[\"a\"]\n\
                               upstream={url=\"http://h/\"}\n";
const WHOLE: &str = "workers=1\nlisten=\"[::1]:1\"\n[secrets]\na={env=\"A\"}\nb={env=\"Bb\"}\n[store]\npath=\"/d\"\n[[route]]\n\
                     path=\"/h\"\nprovider=\"quantiv\"\nsecrets=[\"a\"]\nupstream={url=\"http://h/\"}\n";
const OPEN_UPSTREAM: &str = "workers=1\nlisten=\"[::1]:1\"\n[secrets]\na={env=\"A\"}\n[store]\npath=\"/d\"\n[[route]]\npath=\"/h\"\n\
                             provider=\"quantiv\"\nsecrets=[\"a\"]\n[route.upstream]\n";
const CUSTOM: &str = "workers=1\nlisten=\"[::1]:1\"\n[secrets]\na={env=\"A\"}\n[store]\npath=\"/d\"\n[[route]]\npath=\"/h\"\n\
                      secrets=[\"a\"]\nupstream={url=\"http://h/\"}\n[route.verify]\n";

/// The world around the text.
struct World<'a>(&'a [u8]);

impl Env for World<'_> {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        match name.as_bytes() {
            [b'X', ..] => None,
            [b'E', ..] => Some(Vec::new()),
            [b'N', ..] => Some(format!("{SECRET}\n").into_bytes()),
            [b'B', ..] => Some(vec![0xff, 0]),
            _ => Some(SECRET.into()),
        }
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some(FILE) => Ok(self.0.to_vec()),
            Some("/s") => Ok(SECRET.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000)
    }
}

/// One execution.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (before, behind) = input.choose(&FRAMES);
    let text = &[before.as_bytes(), input.0, behind.as_bytes()].concat();
    let (config, problems) = inspect_file(Path::new(FILE), &World(text));
    assert_eq!(config.is_none(), problems.has_errors(), "{problems}");
    let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    for problem in problems.list() {
        assert!(
            !problem.text.is_empty() && !problem.text.contains('\n'),
            "{problem:?}"
        );
        if let Some(place) = &problem.place {
            assert!(
                (1..=lines).contains(&place.line) && place.column >= 1,
                "{problem:?}"
            );
            if let Some((shown, marked)) = &place.shown {
                assert!(shown.get(marked.clone()).is_some(), "{problem:?}");
            }
        }
    }
    let mut said = problems.summary();
    // Drawing is most of the cost: of long lists every fourth is enough.
    if problems.list().len() <= 3 || data.len().is_multiple_of(4) {
        said.push_str(&problems.render(data.len() % 8 < 4));
    }
    if let Some(config) = &config {
        assert_eq!(config.warnings.len(), problems.count(Severity::Warning));
        said.push_str(&format!("{config:?}"));
    }
    assert!(!said.contains(SECRET), "a secret is shown: {said}");
}
