//! Every document that JSON readers are known to differ about, signed: it is taken as it is, and read as the design says.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::{ROUTES, Rig, sign};
use crate::support::{Connection, Response, proved};

/// The names in the files below, and three whose length is their point.
const DOCUMENTS: usize = 318;

struct Document {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Document {
    /// Whether it is JSON for us: RFC 8259, in UTF-8, without a byte order mark, nested no deeper than 128. Numbers of any
    /// size and half surrogate pairs are of the grammar.
    fn is_json(&self) -> bool {
        let out_of_range = [
            "i_number_",
            "i_object_",
            "i_string_1st_",
            "i_string_in",
            "i_string_lone_second",
        ];
        match &self.name[..2] {
            "y_" => true,
            "n_" => false,
            _ => {
                out_of_range.iter().any(|start| self.name.starts_with(start))
                    && self.name != "i_string_invalid_utf-8"
            }
        }
    }

    /// Whether an id beside it can be read: it is JSON, or something in brackets of which nobody asked whether it is.
    fn can_be_passed_over(&self) -> bool {
        let text = str::from_utf8(&self.bytes).map(|text| text.trim_matches([' ', '\t', '\n', '\r']));
        self.is_json() || text.is_ok_and(is_bracketed)
    }
}

/// Whether the first bracket is closed by the last byte, outside strings, and not too deep to stand in an object.
fn is_bracketed(text: &str) -> bool {
    let (mut depth, mut inside, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => inside = !inside,
            b'[' | b'{' if !inside => depth += 1,
            b']' | b'}' if !inside => depth -= 1,
            _ => {}
        }
        match depth {
            0 => return at > 0 && at == text.len() - 1,
            1..128 => {}
            _ => return false,
        }
    }
    false
}

fn documents() -> Vec<Document> {
    let lines = include_str!("json_suite.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let mut documents: Vec<Document> = lines
        .map(|line| {
            let (name, text) = line.split_once('\t').unwrap();
            Document {
                name,
                bytes: unescape(text),
            }
        })
        .collect();
    let nested = |open: &str, count: usize, close: &str| {
        [open.repeat(count), close.repeat(count)].concat().into_bytes()
    };
    documents.push(Document {
        name: "n_structure_100000_opening_arrays",
        bytes: nested("[", 100_000, ""),
    });
    documents.push(Document {
        name: "n_structure_open_array_object",
        bytes: nested("[{\"\":", 50_000, ""),
    });
    documents.push(Document {
        name: "i_structure_500_nested_arrays",
        bytes: nested("[", 500, "]"),
    });
    assert_eq!(documents.len(), DOCUMENTS);
    documents
}

/// `%XX` is a byte.
fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.extend(hex::decode(&after[..2]).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn post(rig: &Rig, connection: &mut Connection, path: &str, body: &[u8]) -> Response {
    let signature = sign(body);
    let response = connection
        .post(path, &[("X-Iverton-Signature", &signature)], body)
        .unwrap();
    if response.header("connection") == Some("close") {
        *connection = Connection::open(rig.listen()).unwrap();
    }
    response
}

/// Calls `check` for each document, on several connections at once.
fn each(rig: &Rig, documents: &[&Document], check: impl Fn(&mut Connection, &Document) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(rig.listen()).unwrap();
                while let Some(document) = documents.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(&mut connection, document);
                }
            });
        }
    });
}

#[test]
fn every_document_is_taken_as_it_is_and_has_the_right_key() {
    let documents = documents();
    let mut delivered = 0;
    for route in ROUTES {
        let rig = Rig::start();
        let mut seen = BTreeSet::new();
        let (first, again): (Vec<_>, Vec<_>) = documents
            .iter()
            .partition(|document| seen.insert(&document.bytes));
        let taken = |connection: &mut Connection, document: &Document, body: Vec<u8>, again: bool| {
            let response = post(&rig, connection, route, &body);
            let name = document.name;
            assert_eq!(response.status, 200, "{name}");
            assert_eq!(response.text().contains("duplicate"), again, "{name}");
            if !again {
                rig.expect(body, name, None);
            }
        };
        each(&rig, &first, |connection, document| {
            taken(connection, document, document.bytes.clone(), false);
            let within = |more: &str| {
                let id = format!("{{{more}\"id\":\"{}\",\"value\":", document.name);
                [id.as_bytes(), &document.bytes, b"}"].concat()
            };
            taken(connection, document, within(""), false);
            // Of one id and another body: a repeat, if the id could be read.
            let readable = document.can_be_passed_over();
            taken(connection, document, within("\"again\":1,"), readable);
        });
        each(&rig, &again, |connection, document| {
            taken(connection, document, document.bytes.clone(), true);
        });
        delivered += rig.settle();
    }
    proved(
        "hostile: JSON",
        format!(
            "{} documents, each alone and in two others, at both routes: {delivered} events delivered byte for byte, keys as the design says",
            documents.len()
        ),
    );
}

#[test]
fn where_json_is_demanded_only_json_is_taken() {
    let documents = documents();
    let routes: String = ROUTES
        .iter()
        .map(|route| {
            let mode = route.trim_start_matches('/');
            format!(
                "[[route]]\nname = \"json{route}\"\npath = \"/json{route}\"\nmode = \"{mode}\"\nprovider = \
                 \"iverton\"\nsecrets = [\"main\"]\nrequire_json = true\nupstream = {{ url = \"http://{{app}}/in\" }}\n"
            )
        })
        .collect();
    let (mut taken, mut refused) = (0, AtomicUsize::new(0));
    for route in ROUTES {
        let rig = Rig::with(&routes);
        let path = format!("/json{route}");
        let mut seen = BTreeSet::new();
        let first: Vec<_> = documents
            .iter()
            .filter(|document| seen.insert(&document.bytes))
            .collect();
        each(&rig, &first, |connection, document| {
            let response = post(&rig, connection, &path, &document.bytes);
            let name = document.name;
            if document.is_json() {
                assert_eq!(response.status, 200, "{name}");
                rig.expect(document.bytes.clone(), name, None);
            } else {
                assert_eq!(
                    (response.status, &*response.text()),
                    (400, r#"{"error":"Invalid JSON"}"#),
                    "{name}"
                );
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        taken += rig.settle();
    }
    proved(
        "hostile: JSON demanded",
        format!(
            "{} documents at both routes: {taken} taken and delivered, {} refused",
            documents.len(),
            refused.get_mut()
        ),
    );
}
