//! The same JSON as other programs would write it: order and numbers kept, where the style does not say otherwise.

use std::fmt::{self, Write};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// `body` in every style, each with the style's name; nothing unless it is one JSON document.
pub(super) fn rewritten(body: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
    let parsed = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Node::parse(text, 0));
    let Some(node) = parsed else { return Vec::new() };
    STYLES
        .iter()
        .map(|(style, name)| {
            let mut text = String::with_capacity(body.len() * 2);
            // Writing to a String cannot fail.
            style.write(&mut text, &node, 0).unwrap_or_default();
            (text.into_bytes(), *name)
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Style {
    item: &'static str,
    key: &'static str,
    /// Blanks per level; then items stand on lines of their own.
    indent: Option<usize>,
    sorted: bool,
    ascii: bool,
    slashes: bool,
    /// Numbers as JavaScript writes them: `1.0` is `1`.
    numbers: bool,
}

const COMPACT: Style = Style {
    item: ",",
    key: ":",
    indent: None,
    sorted: false,
    ascii: false,
    slashes: false,
    numbers: false,
};
const SPACED: Style = Style {
    item: ", ",
    key: ": ",
    ..COMPACT
};
const PRETTY: Style = Style {
    key: ": ",
    indent: Some(2),
    ..COMPACT
};

const STYLES: [(Style, &str); 16] = [
    (COMPACT, "without blanks"),
    (
        Style {
            numbers: true,
            ..COMPACT
        },
        "as JSON.stringify of JavaScript writes it",
    ),
    (
        Style {
            ascii: true,
            ..COMPACT
        },
        "without blanks and with \\u escapes",
    ),
    (
        Style {
            ascii: true,
            slashes: true,
            ..COMPACT
        },
        "as json_encode of PHP writes it",
    ),
    (
        Style {
            slashes: true,
            ..COMPACT
        },
        "without blanks and with escaped slashes",
    ),
    (
        Style {
            ascii: true,
            ..SPACED
        },
        "as json.dumps of Python writes it (with \\u escapes)",
    ),
    (SPACED, "with `, ` and `: ` between items"),
    (PRETTY, "indented by 2"),
    (
        Style {
            numbers: true,
            ..PRETTY
        },
        "indented by 2, numbers as in JavaScript",
    ),
    (
        Style {
            indent: Some(4),
            ..PRETTY
        },
        "indented by 4",
    ),
    (
        Style {
            ascii: true,
            indent: Some(4),
            ..PRETTY
        },
        "indented by 4 and with \\u escapes",
    ),
    (
        Style {
            sorted: true,
            ..COMPACT
        },
        "without blanks and with sorted keys",
    ),
    (
        Style {
            sorted: true,
            ascii: true,
            ..COMPACT
        },
        "without blanks, with sorted keys and \\u escapes",
    ),
    (
        Style {
            sorted: true,
            ascii: true,
            ..SPACED
        },
        "as json.dumps of Python writes it with sorted keys",
    ),
    (
        Style {
            sorted: true,
            ..SPACED
        },
        "with `, ` and `: ` between items and sorted keys",
    ),
    (
        Style {
            sorted: true,
            ..PRETTY
        },
        "indented by 2 and with sorted keys",
    ),
];

/// A JSON value in its own order.
enum Node<'t> {
    /// A number, `true`, `false` or `null`, as written.
    Plain(&'t str),
    Text(String),
    List(Vec<Node<'t>>),
    Object(Vec<(String, Node<'t>)>),
}

/// Deeper documents are not rewritten.
const DEPTH_MAX: usize = 64;

impl<'t> Node<'t> {
    fn parse(text: &'t str, depth: usize) -> Option<Self> {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match text.as_bytes().first()? {
            b'{' => {
                let Members(members) = serde_json::from_str(text).ok()?;
                let parse =
                    |(key, raw): (String, &'t RawValue)| Some((key, Self::parse(raw.get(), depth + 1)?));
                Self::Object(members.into_iter().map(parse).collect::<Option<_>>()?)
            }
            b'[' => {
                let items: Vec<&'t RawValue> = serde_json::from_str(text).ok()?;
                let parse = |raw: &'t RawValue| Self::parse(raw.get(), depth + 1);
                Self::List(items.into_iter().map(parse).collect::<Option<_>>()?)
            }
            b'"' => Self::Text(serde_json::from_str(text).ok()?),
            _ => Self::Plain(serde_json::from_str::<&RawValue>(text).ok()?.get()),
        })
    }
}

struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Style {
    fn write(&self, out: &mut String, node: &Node<'_>, depth: usize) -> fmt::Result {
        match node {
            Node::Plain(raw) if self.numbers => out.write_str(&as_javascript(raw)),
            Node::Plain(raw) => out.write_str(raw),
            Node::Text(text) => self.text(out, text),
            Node::List(items) => self.items(out, ['[', ']'], items, depth, |out, item| {
                self.write(out, item, depth + 1)
            }),
            Node::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if self.sorted {
                    members.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.items(out, ['{', '}'], &members, depth, |out, (key, value)| {
                    self.text(out, key)?;
                    out.write_str(self.key)?;
                    self.write(out, value, depth + 1)
                })
            }
        }
    }

    fn items<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut String, &T) -> fmt::Result,
    ) -> fmt::Result {
        out.write_char(open)?;
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.write_str(self.item)?;
            }
            self.line(out, depth + 1)?;
            write(out, item)?;
        }
        if !items.is_empty() {
            self.line(out, depth)?;
        }
        out.write_char(close)
    }

    fn line(&self, out: &mut String, depth: usize) -> fmt::Result {
        match self.indent {
            Some(indent) => write!(out, "\n{:1$}", "", indent * depth),
            None => Ok(()),
        }
    }

    fn text(&self, out: &mut String, text: &str) -> fmt::Result {
        out.write_char('"')?;
        for character in text.chars() {
            match character {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                '\u{8}' => out.write_str("\\b")?,
                '\u{c}' => out.write_str("\\f")?,
                '/' if self.slashes => out.write_str("\\/")?,
                '\0'..' ' => write!(out, "\\u{:04x}", u32::from(character))?,
                _ if self.ascii && !(' '..='~').contains(&character) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}")?;
                    }
                }
                _ => out.write_char(character)?,
            }
        }
        out.write_char('"')
    }
}

/// A number as JavaScript writes it; what it would write with an exponent stays as it is.
fn as_javascript(raw: &str) -> String {
    match raw.parse::<f64>() {
        Ok(0.0) => "0".to_owned(),
        Ok(number) if (1e-6..1e21).contains(&number.abs()) => number.to_string(),
        _ => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(name: &str, body: &str) -> String {
        let all = rewritten(body.as_bytes());
        let (bytes, _) = all.into_iter().find(|(_, style)| style.contains(name)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The right-hand sides of JavaScript and Python were compared with what those write.
    #[test]
    fn documents_are_written_as_others_write_them() {
        let body = r#" { "b" : [1.50, {"é":"a/b\u2028"}, [], {}], "a" : "\ud83d\ude00\u001f\"" } "#;
        for (name, expected) in [
            (
                "JSON.stringify",
                "{\"b\":[1.5,{\"é\":\"a/b\u{2028}\"},[],{}],\"a\":\"😀\\u001f\\\"\"}",
            ),
            (
                "json.dumps of Python writes it (",
                "{\"b\": [1.50, {\"\\u00e9\": \"a/b\\u2028\"}, [], {}], \"a\": \"\\ud83d\\ude00\\u001f\\\"\"}",
            ),
            (
                "PHP",
                "{\"b\":[1.50,{\"\\u00e9\":\"a\\/b\\u2028\"},[],{}],\"a\":\"\\ud83d\\ude00\\u001f\\\"\"}",
            ),
            (
                "indented by 2, numbers",
                "{\n  \"b\": [\n    1.5,\n    {\n      \"é\": \"a/b\u{2028}\"\n    },\n    [],\n    {}\n  ],\n  \
                 \"a\": \"😀\\u001f\\\"\"\n}",
            ),
        ] {
            assert_eq!(style(name, body), expected, "{name}");
        }
        assert_eq!(
            style(
                "without blanks and with sorted keys",
                r#"{"b":{"d":1,"c":2},"a":3}"#
            ),
            r#"{"a":3,"b":{"c":2,"d":1}}"#
        );
    }

    #[test]
    fn what_is_not_json_is_left_alone() {
        for body in ["", "{", "{}{}", "a=b", "nul", "\u{feff}{}"] {
            assert!(rewritten(body.as_bytes()).is_empty(), "{body:?}");
        }
        assert!(rewritten(b"\"\xff\"").is_empty());
        assert!(rewritten("[".repeat(1_000_000).as_bytes()).is_empty());
    }

    #[test]
    fn javascript_numbers() {
        for (raw, expected) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("10.50", "10.5"),
            ("1e3", "1000"),
            ("1e300", "1e300"),
            ("12345678901234567890", "12345678901234567000"),
            ("true", "true"),
        ] {
            assert_eq!(as_javascript(raw), expected);
        }
    }
}
