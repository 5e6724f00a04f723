//! Configurations that are full of secrets and wrong.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use fastrand::Rng;
use hooklatch::config::{self, Env};
use hooklatch::event::Timestamp;

use super::canary::Canary;

/// One for each place a secret can stand in, in the order of [`text`].
pub(super) fn canaries() -> Vec<Canary> {
    [
        "secret by value",
        "second secret by value",
        "secret by variable",
        "secret by file",
        "header value",
        "second header value",
        "token in place",
        "hand-off secret",
        "password in a URL",
    ]
    .map(Canary::new)
    .to_vec()
}

/// A configuration without a fault.
fn text(canaries: &[Canary]) -> String {
    let [value, second, _, _, header, header_2, token, handoff, _] = canaries else {
        panic!("{} canaries", canaries.len());
    };
    format!(
        r#"listen = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.0/8"]

[store]
path = "/var/lib/hooklatch"

[admin]
listen = "127.0.0.1:9190"
token = {{ value = "{}" }}

[log]
level = "info"

[secrets]
one = {{ value = "{}" }}
two = {{ value = '{}', until = 2099-12-31T00:00:00Z }}
three = {{ env = "CANARY_SECRET" }}
four = {{ file = "/run/secrets/canary" }}

[[route]]
path = "/hooks/quantiv"
provider = "quantiv"
secrets = ["one", "two", "three"]

[route.upstream]
url = "http://127.0.0.1:3000/hooks"
timeout = "15s"
headers = {{ X-Api-Key = "{}", Authorization = "Basic {}" }}
handoff_secret = {{ value = "{}" }}

[[route]]
path = "/hooks/acme/*"
secrets = ["four"]
event_id = {{ json = "/data/id" }}
upstreams = [
  {{ name = "a", url = "http://127.0.0.1:3000/a" }},
  {{ name = "b", url = "https://app.example/b", types = ["x.*"] }},
]
[route.verify]
header = "X-Acme-Signature"
encoding = "hex"
key = "utf8"
"#,
        token.text(),
        value.text(),
        second.text(),
        header.text(),
        header_2.text(),
        handoff.text(),
    )
}

/// The keys one could take for another.
const KEYS: [&str; 18] = [
    "listen",
    "path",
    "value",
    "env",
    "file",
    "secrets",
    "secret",
    "token",
    "headers",
    "url",
    "until",
    "provider",
    "handoff_secret",
    "prefix",
    "key",
    "upstream",
    "header",
    "vaule",
];
/// What a slip of the finger leaves.
const SLIPS: [&str; 16] = [
    "\"", "'", "]", "}", "=", "\n", "[", "[[", "\\", "\"\"\"", "{", "#", "\u{0}", "é", ",", "\\u12",
];

/// The same with one to three faults in it.
pub(super) fn broken(canaries: &[Canary], rng: &mut Rng) -> String {
    let mut text = text(canaries);
    for _ in 0..rng.usize(1..=3) {
        spoil(&mut text, canaries, rng);
    }
    text
}

fn spoil(text: &mut String, canaries: &[Canary], rng: &mut Rng) {
    let secret = rng.choice(canaries).unwrap().text().to_owned();
    match rng.u8(..10) {
        0 => {
            let at = place(text, rng);
            text.truncate(at);
        }
        1 => {
            // Rather a sign of the grammar than any character.
            let signs: Vec<_> = text
                .match_indices(['"', '\'', '{', '}', '[', ']', '=', ',', '\n'])
                .collect();
            if let Some((at, sign)) = rng.choice(&signs) {
                text.replace_range(*at..at + sign.len(), "");
            }
        }
        2 => {
            let at = place(text, rng);
            text.insert_str(at, rng.choice(SLIPS).unwrap());
        }
        3 | 4 => {
            let words: Vec<_> = KEYS.iter().flat_map(|key| text.match_indices(&**key)).collect();
            if let Some(&(at, word)) = rng.choice(&words) {
                let other = rng.choice(KEYS).unwrap();
                text.replace_range(at..at + word.len(), other);
            }
        }
        5 => {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            if !lines.is_empty() {
                let line = lines.remove(rng.usize(..lines.len()));
                if rng.bool() {
                    lines.insert(rng.usize(..=lines.len()), line);
                }
                *text = lines.join("\n");
            }
        }
        // A secret pasted where its name, its variable or its file belongs, and a value without quotes.
        6 => paste(
            text,
            &["\"three\"", "\"four\"", "\"one\""],
            &format!("\"{secret}\""),
            rng,
        ),
        7 => paste(text, &["CANARY_SECRET", "/run/secrets/canary"], &secret, rng),
        8 => {
            let quoted = format!("\"{}\"", canaries[0].text());
            paste(text, &[&quoted], canaries[0].text(), rng);
        }
        _ => {
            let host = "http://127.0.0.1:3000";
            let with_password = format!("http://user:{}@127.0.0.1:3000", canaries[8].text());
            paste(text, &[host], &with_password, rng);
        }
    }
}

fn paste(text: &mut String, over: &[&str], new: &str, rng: &mut Rng) {
    let old = rng.choice(over).unwrap();
    *text = text.replacen(old, new, 1);
}

/// A place between two characters.
fn place(text: &str, rng: &mut Rng) -> usize {
    let mut at = rng.usize(..=text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Everything the gateway and `check` make of a text, and how many problems they tell.
pub(super) fn all_that_is_said(text: &str, canaries: &[Canary]) -> (String, usize) {
    let outside = Outside(
        [
            ("CANARY_SECRET", &canaries[2]),
            ("/run/secrets/canary", &canaries[3]),
        ]
        .map(|(name, canary)| (name.to_owned(), canary.bytes().to_vec()))
        .into(),
    );
    let (config, problems) = config::inspect("hooklatch.toml", text, &outside);
    let mut said = format!("{problems}\n{}\n{problems:?}\n", problems.render(true));
    for problem in problems.list() {
        said.push_str(&problems.line(problem));
    }
    if let Some(config) = config {
        said.push_str(&format!("{config:?}\n{config:#?}\n{:?}", config.warnings));
    }
    (said, problems.list().len())
}

/// The one variable and the one file that are there.
struct Outside(HashMap<String, Vec<u8>>);

impl Env for Outside {
    fn var(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name).cloned()
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0
            .get(path.to_str().unwrap_or_default())
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_795_219_200_000)
    }
}
