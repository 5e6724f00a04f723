//! Reads the event's id and type from the signed bytes, borrowed and with a depth limit.

use super::encoding::trim;
use super::json::{Nested, Place, walk};
use super::place::Places;
use super::request::Request;

/// Longest usable event id or type, in bytes.
pub const EVENT_ID_BYTES_MAX: usize = 255;

/// A document nested deeper than this is not read: what an app would do with it is anybody's guess.
pub const JSON_DEPTH_MAX: usize = 128;

/// Where id and type stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentifyRule {
    /// JSON pointer (RFC 6901) to the id in the body, split into its tokens; `None`: the body's hash is the key.
    pub id: Option<Vec<Box<str>>>,
    /// JSON pointer to the type in the body, split into its tokens.
    pub event_type: Option<Vec<Box<str>>>,
    /// A header that repeats the type and that the signature does not cover: a hint, compared with the body's type,
    /// and used alone (marked as unsigned) only where `event_type` is `None`.
    pub type_header: Option<Box<str>>,
    /// Where the id stands, if that is not one pointer; `id` is `None` then.
    pub id_places: Option<Box<Places>>,
    /// Where the type stands, if that is not one pointer; `event_type` is `None` then.
    pub type_places: Option<Box<Places>>,
    /// All of a document is checked; else of the objects and arrays beside id and type only the brackets are looked at.
    pub whole: bool,
}

impl IdentifyRule {
    /// A rule of places.
    pub(super) fn new(id: Option<Places>, event_type: Option<Places>, type_header: Option<Box<str>>) -> Self {
        let mut rule = Self::default();
        rule.set_id(id);
        rule.set_type(event_type);
        rule.type_header = type_header;
        rule
    }

    /// Says where the id stands.
    pub fn set_id(&mut self, id: Option<Places>) {
        (self.id, self.id_places) = split(id);
    }

    /// Says where the type stands.
    pub fn set_type(&mut self, event_type: Option<Places>) {
        (self.event_type, self.type_places) = split(event_type);
    }

    /// Whether an event may have an id.
    pub fn has_id(&self) -> bool {
        self.id.is_some() || self.id_places.is_some()
    }

    /// Whether an event may have a type.
    pub fn has_type(&self) -> bool {
        self.event_type.is_some() || self.type_places.is_some() || self.type_header.is_some()
    }

    /// Where the id stands, as a preset writes it.
    pub fn id_text(&self) -> Option<String> {
        let pointer = self.id.as_deref().map(super::place::pointer_text);
        pointer.or_else(|| self.id_places.as_ref().map(|places| places.text()))
    }

    /// Where the type stands, as a preset writes it.
    pub fn type_text(&self) -> Option<String> {
        let pointer = self.event_type.as_deref().map(super::place::pointer_text);
        pointer.or_else(|| self.type_places.as_ref().map(|places| places.text()))
    }
}

/// One pointer is followed on the way of every event; all else takes its time.
fn split(places: Option<Places>) -> (Option<Vec<Box<str>>>, Option<Box<Places>>) {
    match places {
        Some(places) => match places.only_pointer() {
            Some(tokens) => (Some(tokens.to_vec()), None),
            None => (None, Some(Box::new(places))),
        },
        None => (None, None),
    }
}

/// What could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// A usable id: a JSON string of 1 to 255 bytes without control characters, or an integer as written.
    pub id: Option<Box<str>>,
    /// The type, at most 255 bytes, without control characters.
    pub event_type: Option<Box<str>>,
    /// The type is the header's, not the body's.
    pub type_unsigned: bool,
    /// Header and body name different types.
    pub type_conflict: bool,
    /// The body is one JSON document, as far as the rule has it checked.
    pub is_json: bool,
}

/// Reads id and type. Never fails: what cannot be read is absent.
///
/// The body must be one JSON document in UTF-8 without a byte order mark; what is nested beside the two values is checked
/// where the rule says so. Only the two values looked for are copied; no tree is built.
pub fn identify(rule: &IdentifyRule, request: &Request<'_>) -> Identity {
    let mut identity = Identity::default();
    if let Some([id, event_type]) = read(rule, request.body) {
        identity.is_json = true;
        identity.id = id.and_then(usable_id);
        identity.event_type = event_type.and_then(usable_text);
    }
    let elsewhere = |places: &Option<Box<Places>>| {
        let text = places.as_ref()?.read(request)?;
        usable(&text)
    };
    if rule.id_places.is_some() {
        identity.id = elsewhere(&rule.id_places);
    }
    if rule.type_places.is_some() {
        identity.event_type = elsewhere(&rule.type_places);
    }
    if let Some(name) = &rule.type_header {
        let mut hints = request.headers.values(name).map(trim);
        if let Some(signed) = &identity.event_type {
            identity.type_conflict = hints.any(|hint| !hint.is_empty() && hint != signed.as_bytes());
        } else if rule.event_type.is_none() && rule.type_places.is_none() {
            identity.event_type = match (hints.next(), hints.next()) {
                (Some(hint), None) => std::str::from_utf8(hint).ok().and_then(usable),
                _ => None,
            };
            identity.type_unsigned = identity.event_type.is_some();
        }
    }
    identity
}

/// The texts of the two values; `None` when the body is not one JSON document.
fn read<'b>(rule: &IdentifyRule, body: &'b [u8]) -> Option<[Option<&'b str>; 2]> {
    let text = simdutf8::basic::from_utf8(body).ok()?;
    let nested = match rule.whole {
        true => Nested::Checked,
        false => Nested::Skipped,
    };
    find(text, nested, [rule.id.as_deref(), rule.event_type.as_deref()])
}

/// The text of the value at a pointer, as it is written; `None` where it is not there or the body is not one JSON document.
pub(super) fn json_value<'b>(body: &'b [u8], tokens: &[Box<str>]) -> Option<&'b str> {
    let text = simdutf8::basic::from_utf8(body).ok()?;
    find(text, Nested::Checked, [Some(tokens), None])?[0].map(trim_json)
}

/// Whether any reader of the body may find something at a pointer: a key on the way that stands twice is there for some.
pub(super) fn is_named(body: &[u8], tokens: &[Box<str>]) -> bool {
    fn below(text: &str, tokens: &[Box<str>]) -> bool {
        let Some((token, rest)) = tokens.split_first() else {
            return true;
        };
        match children(text, Nested::Checked, [Some(token), None]) {
            Some([Child::Once(child), _]) => below(child, rest),
            Some([Child::Repeated, _]) => true,
            Some([Child::Absent, _]) | None => false,
        }
    }
    std::str::from_utf8(body).is_ok_and(|text| below(text, tokens))
}

/// What a JSON string with its quotes stands for.
pub(super) fn unescape_string(raw: &str) -> Option<String> {
    unescape(raw.strip_prefix('"')?.strip_suffix('"')?)
}

/// Follows both pointers at once through `text`, a whole JSON value.
fn find<'t>(text: &'t str, nested: Nested, paths: [Option<&[Box<str>]>; 2]) -> Option<[Option<&'t str>; 2]> {
    let mut found = [None; 2];
    let next = paths.map(|path| path.and_then(<[_]>::split_first));
    let children = children(text, nested, next.map(|step| step.map(|(token, _)| &**token)))?;
    for (((value, path), step), child) in found.iter_mut().zip(paths).zip(next).zip(children) {
        *value = match (step, child) {
            (Some((_, [])), Child::Once(child)) => Some(child),
            // Below the top a value is read again, by the few providers that nest their id; one that was skipped may be none.
            (Some((_, rest)), Child::Once(child)) => {
                find(child, nested, [Some(rest), None]).and_then(|[found, _]| found)
            }
            // The pointer `""` is the document itself.
            (None, _) if path.is_some() => Some(trim_json(text)),
            _ => None,
        };
    }
    Some(found)
}

/// The members of `text` that the two tokens name.
fn children<'t>(text: &'t str, nested: Nested, tokens: [Option<&str>; 2]) -> Option<[Child<'t>; 2]> {
    let indices = tokens.map(|token| token.and_then(array_index));
    let mut children = [Child::Absent; 2];
    walk(text, JSON_DEPTH_MAX, nested, |place, value| {
        for ((child, token), index) in children.iter_mut().zip(tokens).zip(indices) {
            let named = match place {
                Place::Key { raw, escaped } => token.is_some_and(|token| is_key(raw, escaped, token)),
                Place::Index(at) => index == Some(at),
            };
            if named {
                child.add(value);
            }
        }
    })?;
    Some(children)
}

/// What an object or array holds under a token.
#[derive(Clone, Copy)]
enum Child<'t> {
    Absent,
    Once(&'t str),
    /// Readers disagree on which one counts, so none does.
    Repeated,
}

impl<'t> Child<'t> {
    fn add(&mut self, text: &'t str) {
        *self = match self {
            Self::Absent => Self::Once(text),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// Whether a key spells `token`; `\u0069d` spells `id`.
fn is_key(raw: &str, escaped: bool, token: &str) -> bool {
    if !escaped {
        return raw == token;
    }
    // An escape takes at most six times the room of what it stands for.
    raw.len() <= 6 * token.len() && unescape(raw).is_some_and(|key| key == token)
}

/// What the inside of a JSON string stands for; `None` where that is half of a surrogate pair.
fn unescape(raw: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{raw}\"")).ok()
}

/// An index as RFC 6901 writes it: digits without a leading zero.
fn array_index(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (token == "0" || !token.starts_with('0'))).then(|| token.parse().ok())?
}

fn usable_id(raw: &str) -> Option<Box<str>> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return usable(raw);
    }
    usable_text(raw)
}

/// A JSON string's content, if it is usable.
fn usable_text(raw: &str) -> Option<Box<str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return usable(inner);
    }
    if inner.len() > 6 * EVENT_ID_BYTES_MAX {
        return None;
    }
    usable(&unescape(inner)?)
}

fn usable(text: &str) -> Option<Box<str>> {
    let fits = (1..=EVENT_ID_BYTES_MAX).contains(&text.len());
    (fits && !text.contains(char::is_control)).then(|| text.into())
}

fn trim_json(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn identify(rule: &IdentifyRule, headers: &Fields, body: &[u8]) -> Identity {
        super::identify(rule, &Request::new(headers, body))
    }

    fn pointer(text: &str) -> Option<Vec<Box<str>>> {
        Some(text.split('/').skip(1).map(Into::into).collect())
    }

    fn rule(id: &str, event_type: &str) -> IdentifyRule {
        IdentifyRule {
            id: pointer(id),
            event_type: pointer(event_type),
            type_header: None,
            ..IdentifyRule::default()
        }
    }

    fn id_of(pointer: &str, body: &str) -> Option<String> {
        let identity = identify(&rule(pointer, "/type"), &Fields::default(), body.as_bytes());
        assert!(identity.is_json, "{body}");
        identity.id.map(String::from)
    }

    #[test]
    fn usable_ids() {
        let longest = "x".repeat(255);
        let longest_escaped = "\\u0078".repeat(255);
        for (name, value, expected) in [
            ("a string", r#""evt_1""#, "evt_1"),
            ("one byte", r#""x""#, "x"),
            ("255 bytes", &format!("\"{longest}\""), longest.as_str()),
            (
                "255 bytes, all escaped",
                &format!("\"{longest_escaped}\""),
                longest.as_str(),
            ),
            ("an escape", r#""a\/b\u0041""#, "a/bA"),
            ("a pair of escapes", r#""\ud83d\ude00""#, "\u{1f600}"),
            ("not ascii", "\"\u{e9}\"", "\u{e9}"),
            ("a number in a string", r#""1.5""#, "1.5"),
            ("an integer", "5", "5"),
            ("zero", "0", "0"),
            ("a negative integer", "-5", "-5"),
            (
                "an integer beyond 64 bits",
                "12345678901234567890123",
                "12345678901234567890123",
            ),
        ] {
            let got = id_of(
                "/id",
                &format!("{{\"a\":[1e999,\"\\ud800\"],\"id\": {value} ,\"z\":{{}}}}"),
            );
            assert_eq!(got.as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn unusable_ids() {
        for (name, body) in [
            ("missing", "{}".to_owned()),
            ("null", r#"{"id":null}"#.to_owned()),
            ("true", r#"{"id":true}"#.to_owned()),
            ("an object", r#"{"id":{"id":"x"}}"#.to_owned()),
            ("an array", r#"{"id":["x"]}"#.to_owned()),
            ("empty", r#"{"id":""}"#.to_owned()),
            ("256 bytes", format!(r#"{{"id":"{}"}}"#, "x".repeat(256))),
            (
                "256 bytes in 128 characters",
                format!(r#"{{"id":"{}"}}"#, "\u{e9}".repeat(128)),
            ),
            (
                "256 bytes, all escaped",
                format!(r#"{{"id":"{}"}}"#, "\\u0078".repeat(256)),
            ),
            ("256 digits", format!(r#"{{"id":{}}}"#, "1".repeat(256))),
            ("a fraction", r#"{"id":1.5}"#.to_owned()),
            ("an exponent", r#"{"id":1e3}"#.to_owned()),
            ("a line feed", r#"{"id":"a\nb"}"#.to_owned()),
            ("a nul", r#"{"id":"\u0000"}"#.to_owned()),
            ("a delete", "{\"id\":\"\u{7f}\"}".to_owned()),
            ("half a pair of escapes", r#"{"id":"\ud800"}"#.to_owned()),
            ("repeated", r#"{"id":"a","id":"a"}"#.to_owned()),
            ("repeated in disguise", r#"{"id":"a","\u0069d":"b"}"#.to_owned()),
            ("another case", r#"{"ID":"a"}"#.to_owned()),
            ("another key, escaped", r#"{"\u0061":"a"}"#.to_owned()),
            ("deeper", r#"{"data":{"id":"a"}}"#.to_owned()),
            ("a document that is a string", r#""id""#.to_owned()),
            ("a document that is a number", "1e999".to_owned()),
            ("a document that is an array", r#"["id"]"#.to_owned()),
        ] {
            assert_eq!(id_of("/id", &body), None, "{name}");
        }
    }

    #[test]
    fn nested_pointers() {
        let body =
            r#"{"data":{"lead":{"id":"l","type":"t"},"x":1},"list":[{"id":"a"},"b"],"":{"":"e"},"n":1e999}"#;
        for (pointer, expected) in [
            ("/data/lead/id", Some("l")),
            ("/data/lead", None),
            ("/data/lead/id/more", None),
            ("/data/x", Some("1")),
            ("/data/x/y", None),
            ("/list/0/id", Some("a")),
            ("/list/1", Some("b")),
            ("/list/2", None),
            ("/list/01", None),
            ("/list/-", None),
            ("//", Some("e")),
            ("/n", None),
            ("/n/n", None),
        ] {
            assert_eq!(id_of(pointer, body).as_deref(), expected, "{pointer}");
        }
        let body = r#"{"data":{"id":"a"},"data":{}}"#;
        assert_eq!(id_of("/data/id", body), None, "a key repeated on the way");
        let body = r#"{"other":1,"other":2,"data":{"id":"a","x":1,"x":2}}"#;
        assert_eq!(
            id_of("/data/id", body).as_deref(),
            Some("a"),
            "a key repeated elsewhere"
        );
        let same = identify(&rule("/a/b", "/a/b"), &Fields::default(), br#"{"a":{"b":"x"}}"#);
        assert_eq!(
            (same.id.as_deref(), same.event_type.as_deref()),
            (Some("x"), Some("x"))
        );
        let whole = identify(
            &IdentifyRule {
                id: Some(vec![]),
                ..rule("", "/type")
            },
            &Fields::default(),
            b" \"x\" ",
        );
        assert_eq!(whole.id.as_deref(), Some("x"), "the whole document");
        let none = IdentifyRule {
            id: None,
            ..rule("", "/type")
        };
        assert_eq!(identify(&none, &Fields::default(), b"5").id, None, "nowhere");
        let escaped = r#"{"\u0069\u0064":"x"}"#;
        assert_eq!(
            id_of("/id", escaped).as_deref(),
            Some("x"),
            "a key all in escapes"
        );
    }

    #[test]
    fn a_body_that_is_not_one_json_document_names_nothing() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            format!(r#"{{"id":"x","deep":{open}{close}}}"#).into_bytes()
        };
        let wide = |document: &[u8]| {
            let siblings = br#"{"a":[]},"#.repeat(JSON_DEPTH_MAX);
            [br#"{"wide":["#, &*siblings, br#"0],"#, &document[1..]].concat()
        };
        for (name, body, good) in [
            ("nothing", b"".to_vec(), false),
            ("blanks", b" \n".to_vec(), false),
            ("two documents", br#"{"id":"x"}{"id":"x"}"#.to_vec(), false),
            ("something after", br#"{"id":"x"}x"#.to_vec(), false),
            ("a nul after", b"{\"id\":\"x\"}\0".to_vec(), false),
            ("a final line feed", b"{\"id\":\"x\"}\n".to_vec(), true),
            ("cut off", br#"{"id":"x""#.to_vec(), false),
            ("broken after the id", br#"{"id":"x","a":tru}"#.to_vec(), false),
            ("a final comma", br#"{"id":"x",}"#.to_vec(), false),
            ("single quotes", br"{'id':'x'}".to_vec(), false),
            ("a byte order mark", b"\xef\xbb\xbf{\"id\":\"x\"}".to_vec(), false),
            (
                "not utf-8, elsewhere",
                b"{\"id\":\"x\",\"a\":\"\xff\"}".to_vec(),
                false,
            ),
            ("utf-16", b"\xff\xfe{\0}\0".to_vec(), false),
            (
                "a bare line feed in a string",
                b"{\"id\":\"x\",\"a\":\"\n\"}".to_vec(),
                false,
            ),
            ("a form", b"id=x&type=y".to_vec(), false),
            ("as deep as is read", nested(JSON_DEPTH_MAX), true),
            ("one deeper", nested(JSON_DEPTH_MAX + 1), false),
            (
                "as deep as is read, and wide",
                wide(&nested(JSON_DEPTH_MAX)),
                true,
            ),
            ("one deeper, and wide", wide(&nested(JSON_DEPTH_MAX + 1)), false),
            ("a million deep", nested(1_000_000), false),
            (
                "brackets in strings",
                format!(r#"{{"id":"x","a":"\"{}"}}"#, "[".repeat(500)).into_bytes(),
                true,
            ),
        ] {
            let identity = identify(&rule("/id", "/type"), &Fields::default(), &body);
            assert_eq!(identity.is_json, good, "{name}");
            assert_eq!(identity.id.is_some(), good, "{name}");
        }
    }

    #[test]
    fn a_type_is_a_string_fit_for_a_header() {
        for (value, expected) in [
            (r#""lead.created""#, Some("lead.created")),
            (r#""a b""#, Some("a b")),
            (r#""a\r\nX: y""#, None),
            (r#""""#, None),
            ("5", None),
            ("null", None),
        ] {
            let body = format!(r#"{{"type":{value}}}"#);
            let identity = identify(&rule("/id", "/type"), &Fields::default(), body.as_bytes());
            assert_eq!(identity.event_type.as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn the_type_header_is_only_a_hint() {
        let hinted = |in_body: bool, values: &[&'static str], body: &str| {
            let rule = IdentifyRule {
                id: None,
                event_type: in_body.then(|| vec!["event".into()]),
                type_header: Some("x-webhook-event".into()),
                ..IdentifyRule::default()
            };
            let headers = values
                .iter()
                .map(|value| (&b"x-webhook-event"[..], value.as_bytes()));
            let identity = identify(&rule, &Fields::from_pairs(headers), body.as_bytes());
            (
                identity.event_type.map(String::from),
                identity.type_unsigned,
                identity.type_conflict,
            )
        };
        let body = r#"{"event":"a"}"#;
        let a = || Some("a".to_owned());
        for (name, got, expected) in [
            ("both agree", hinted(true, &["a"], body), (a(), false, false)),
            (
                "both agree but for blanks",
                hinted(true, &[" a "], body),
                (a(), false, false),
            ),
            ("they differ", hinted(true, &["b"], body), (a(), false, true)),
            (
                "one of two differs",
                hinted(true, &["a", "b"], body),
                (a(), false, true),
            ),
            ("no header", hinted(true, &[], body), (a(), false, false)),
            ("a blank header", hinted(true, &[""], body), (a(), false, false)),
            (
                "no type in the body",
                hinted(true, &["b"], "{}"),
                (None, false, false),
            ),
            (
                "only the header counts",
                hinted(false, &["b"], body),
                (Some("b".to_owned()), true, false),
            ),
            (
                "it counts without json",
                hinted(false, &["b"], "x"),
                (Some("b".to_owned()), true, false),
            ),
            (
                "it is repeated",
                hinted(false, &["b", "b"], body),
                (None, false, false),
            ),
            ("it is blank", hinted(false, &[" "], body), (None, false, false)),
        ] {
            assert_eq!(got, expected, "{name}");
        }
    }
}
