//! The event's id and type, against a JSON reader of our own and against serde_json where its answer is defined.

use std::sync::LazyLock;

use hooklatch::fields::Fields;
use hooklatch::provider::identify::{EVENT_ID_BYTES_MAX, IdentifyRule, Identity, JSON_DEPTH_MAX, identify};
use hooklatch::provider::preset;
use hooklatch::provider::scheme::Request;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::input::Input;
use super::json::{Json, parse, unescape};

const TYPE_HEADER: &str = "x-type";

static RULES: LazyLock<Vec<IdentifyRule>> = LazyLock::new(|| {
    let pointer = |text: &str| Some(text.split('/').skip(1).map(Into::into).collect());
    let mut rules: Vec<IdentifyRule> = preset::all()
        .iter()
        .map(|preset| preset.identify.clone())
        // Other places than pointers are read by other means.
        .filter(|rule| rule.id_places.is_none() && rule.type_places.is_none())
        .collect();
    for (id, event_type, hint) in [
        ("/id", Some("/type"), true),
        ("/data/id", Some("/data/type"), false),
        ("/a", Some("/a"), false),
        ("/0/id", Some("/1"), true),
        ("", Some("/id"), false),
        ("//", Some("/\u{e9}"), false),
        ("/a/0/b", None, true),
        ("/a~1b", None, false),
    ] {
        rules.push(IdentifyRule {
            id: pointer(id),
            event_type: event_type.and_then(pointer),
            type_header: hint.then(|| TYPE_HEADER.into()),
            ..IdentifyRule::default()
        });
    }
    // Some routes want to know whether all of it is JSON.
    let whole = |rule: &IdentifyRule| IdentifyRule {
        whole: true,
        ..rule.clone()
    };
    let checked: Vec<IdentifyRule> = rules.iter().map(whole).collect();
    rules.extend(checked);
    rules
});

/// One execution.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let rule = input.choose(&RULES);
    let name = rule.type_header.as_deref().unwrap_or(TYPE_HEADER);
    let hints: Vec<&[u8]> = (0..input.byte() % 3).map(|_| input.short()).collect();
    let headers = Fields::from_pairs(hints.iter().map(|hint| (name.as_bytes(), *hint)));
    let body = input.0;

    let got = identify(rule, &Request::new(&headers, body));
    let document = parse(body, JSON_DEPTH_MAX, rule.whole);
    assert_eq!(got, expected(rule, &hints, document.as_ref()));

    if got.is_json && rule.whole {
        serde_json::from_slice::<IgnoredAny>(body).expect("what is read as JSON is JSON");
    }
    // It builds a tree, so it refuses more: numbers out of range, halves of surrogates, one level of depth.
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        assert!(got.is_json, "serde_json reads it");
        agree(rule.id.as_deref(), got.id.as_deref(), &value);
        if !got.type_unsigned {
            agree(rule.event_type.as_deref(), got.event_type.as_deref(), &value);
        }
    }
}

/// What was read is what serde_json finds at the pointer.
fn agree(path: Option<&[Box<str>]>, got: Option<&str>, value: &Value) {
    let (Some(path), Some(got)) = (path, got) else {
        return;
    };
    let escaped = path
        .iter()
        .map(|token| token.replace('~', "~0").replace('/', "~1"));
    let pointer: String = escaped.flat_map(|token| ["/".to_owned(), token]).collect();
    match value.pointer(&pointer).expect("there") {
        Value::String(text) => assert_eq!(text, got),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            assert_eq!(number.to_string(), got);
        }
        // Beyond 64 bits, or -0.
        Value::Number(_) => {}
        other => panic!("{got:?} was read from {other}"),
    }
}

fn expected(rule: &IdentifyRule, hints: &[&[u8]], document: Option<&Json<'_>>) -> Identity {
    let at = |path: &Option<Vec<Box<str>>>| follow(document?, path.as_deref()?);
    let id = at(&rule.id).and_then(|value| match value {
        Json::Number(digits) if !digits.contains(['.', 'e', 'E']) => Some(digits.to_owned()),
        Json::String(quoted) => unescape(quoted),
        _ => None,
    });
    let signed = at(&rule.event_type).and_then(|value| match value {
        Json::String(quoted) => unescape(quoted),
        _ => None,
    });
    let mut identity = Identity {
        id: id.and_then(usable),
        event_type: signed.and_then(usable),
        is_json: document.is_some(),
        ..Identity::default()
    };
    if rule.type_header.is_none() {
        return identity;
    }
    let hints: Vec<&[u8]> = hints.iter().map(|hint| trim(hint)).collect();
    match (&identity.event_type, &hints[..]) {
        (Some(signed), hints) => {
            let other = |hint: &&[u8]| !hint.is_empty() && *hint != signed.as_bytes();
            identity.type_conflict = hints.iter().any(other);
        }
        (None, [hint]) if rule.event_type.is_none() => {
            let text = std::str::from_utf8(hint).ok().map(str::to_owned);
            identity.event_type = text.and_then(usable);
            identity.type_unsigned = identity.event_type.is_some();
        }
        _ => {}
    }
    identity
}

/// The one value that the pointer names; none where a key on the way is repeated.
fn follow<'t>(from: &Json<'t>, path: &[Box<str>]) -> Option<Json<'t>> {
    let Some((token, rest)) = path.split_first() else {
        return Some(from.clone());
    };
    let child = match from {
        Json::Skipped(text) => return follow(&parse(text.as_bytes(), JSON_DEPTH_MAX, false)?, path),
        Json::Object(members) => {
            let mut named = members
                .iter()
                .filter(|(key, _)| unescape(key).is_some_and(|key| key == **token));
            match (named.next(), named.next()) {
                (Some((_, value)), None) => value,
                _ => return None,
            }
        }
        Json::Array(items) => {
            let index: usize = token.parse().ok()?;
            // As RFC 6901 writes it.
            if index.to_string() != **token {
                return None;
            }
            items.get(index)?
        }
        _ => return None,
    };
    follow(child, rest)
}

fn usable(text: String) -> Option<Box<str>> {
    let clean = !text.chars().any(char::is_control);
    (clean && !text.is_empty() && text.len() <= EVENT_ID_BYTES_MAX).then(|| text.into())
}

fn trim(text: &[u8]) -> &[u8] {
    let inside = |byte: &u8| !matches!(byte, b' ' | b'\t');
    match (text.iter().position(inside), text.iter().rposition(inside)) {
        (Some(from), Some(to)) => &text[from..=to],
        _ => &[],
    }
}
