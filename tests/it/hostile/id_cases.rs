//! Bodies with ids, usable and not.

/// How an event is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// By this id.
    Id(String),
    /// By its body.
    Body,
}

use Key::{Body, Id};

/// A body in which `#` stands for a number that is no part of the id.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) body: Vec<u8>,
    pub(super) key: Key,
}

fn case(name: &str, body: impl AsRef<[u8]>, key: Key) -> Case {
    Case {
        name: name.to_owned(),
        body: body.as_ref().to_vec(),
        key,
    }
}

/// `{"n":#,"id":VALUE}`.
fn value(name: &str, value: &str, key: Key) -> Case {
    case(name, format!("{{\"n\":#,\"id\":{value}}}"), key)
}

/// The design, "Dedup": a usable id is a JSON string of 1 to 255 bytes without control characters, or an integer as
/// written; everything else goes by the body.
pub(super) fn cases() -> Vec<Case> {
    let id = |text: &str| Id(text.to_owned());
    let (long, longer) = ("x".repeat(255), "x".repeat(256));
    let (digits, more_digits) = (format!("1{}", "0".repeat(254)), "1".repeat(256));
    let nested = |depth: usize| {
        format!(
            "{{\"n\":#,\"id\":\"deep{depth}\",\"v\":{}{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    let mut cases = vec![
        value("a string", r#""evt_1""#, id("evt_1")),
        value("one byte", r#""!""#, id("!")),
        value("255 bytes", &format!("\"{long}\""), Id(long)),
        value(
            "255 bytes, escaped",
            &format!("\"{}\"", "\\u0079".repeat(255)),
            Id("y".repeat(255)),
        ),
        value(
            "255 bytes in 85 characters",
            &format!("\"{}\"", "\u{20ac}".repeat(85)),
            Id("\u{20ac}".repeat(85)),
        ),
        value("escapes", r#""a\"b\\c\/d""#, id("a\"b\\c/d")),
        value("a blank", r#"" ""#, id(" ")),
        value("zero", "0", id("0")),
        value("minus zero", "-0", id("-0")),
        value("negative", "-17", id("-17")),
        value("2^53 + 1", "9007199254740993", id("9007199254740993")),
        value("2^64", "18446744073709551616", id("18446744073709551616")),
        value("2^70", "1180591620717411303424", id("1180591620717411303424")),
        value("255 digits", &digits, Id(digits.clone())),
        value("a zero-width blank", "\"\u{200b}\"", id("\u{200b}")),
        value("another blank", "\"\u{a0}\"", id("\u{a0}")),
        value("text from right to left", "\"\u{202e}evil\"", id("\u{202e}evil")),
        value("no character", "\"\u{ffff}\u{10ffff}\"", id("\u{ffff}\u{10ffff}")),
        value("a word for null", r#""null""#, id("null")),
        case("a spelled key", r#"{"n":#,"\u0069d":"spelled"}"#, id("spelled")),
        case(
            "a key spelled out",
            r#"{"n":#,"\u0069\u0064":"spelled out"}"#,
            id("spelled out"),
        ),
        case(
            "after an inner one",
            r#"{"data":{"id":"inner"},"n":#,"id":"outer"}"#,
            id("outer"),
        ),
        case(
            "before an inner one",
            r#"{"id":"outer 2","n":#,"data":{"id":"inner","id":"inner"}}"#,
            id("outer 2"),
        ),
        case(
            "blanks everywhere",
            " \t\r\n{ \"n\" : # ,\n\"id\"\r:\t\"blanks\" } \n",
            id("blanks"),
        ),
        case(
            "half a pair elsewhere",
            r#"{"n":#,"id":"half","v":"\ud800"}"#,
            id("half"),
        ),
        case(
            "a number out of range elsewhere",
            r#"{"n":#,"id":"range","v":1e99999}"#,
            id("range"),
        ),
        case("128 deep", nested(128), id("deep128")),
        case(
            "brackets in a string",
            format!("{{\"n\":#,\"id\":\"text\",\"v\":\"{}\"}}", "[".repeat(1000)),
            id("text"),
        ),
        // Not usable.
        value("null", "null", Body),
        value("true", "true", Body),
        value("false", "false", Body),
        value("an object", "{}", Body),
        value("an object with an id", r#"{"id":"evt_1"}"#, Body),
        value("an array", "[]", Body),
        value("an array with an id", r#"["evt_1"]"#, Body),
        value("empty", r#""""#, Body),
        value("256 bytes", &format!("\"{longer}\""), Body),
        value(
            "256 bytes, escaped",
            &format!("\"{}\"", "\\u0078".repeat(256)),
            Body,
        ),
        value(
            "256 bytes in 128 characters",
            &format!("\"{}\"", "\u{e9}".repeat(128)),
            Body,
        ),
        value("1 MB", &format!("\"{}\"", "x".repeat(1_000_000)), Body),
        value(
            "1 MB of escapes",
            &format!("\"{}\"", "\\u0078".repeat(170_000)),
            Body,
        ),
        value("256 digits", &more_digits, Body),
        value("a fraction", "1.5", Body),
        value("a fraction of nothing", "1.0", Body),
        value("an exponent", "1e5", Body),
        value("an exponent in upper case", "1E5", Body),
        value("an exponent with a sign", "1e+5", Body),
        value("minus zero point zero", "-0.0", Body),
        value("a NUL", r#""a\u0000b""#, Body),
        value("a line feed", r#""a\nb""#, Body),
        value("a header", r#""a\r\nHooklatch-Verified: false""#, Body),
        value("an escape character", r#""\u001b[31m""#, Body),
        value("a delete", "\"a\u{7f}b\"", Body),
        value("an upper control character", "\"a\u{85}b\"", Body),
        value("an upper one, escaped", r#""\u009f""#, Body),
        value("half a pair", r#""\ud800""#, Body),
        value("the other half", r#""\udc00""#, Body),
        value("a pair the wrong way round", r#""\udc00\ud800""#, Body),
        case("repeated", r#"{"n":#,"id":"evt_1","id":"evt_1"}"#, Body),
        case("repeated otherwise", r#"{"n":#,"id":"evt_1","id":"evt_2"}"#, Body),
        case(
            "repeated in disguise",
            r#"{"n":#,"id":"evt_1","\u0069d":"evt_1"}"#,
            Body,
        ),
        case(
            "repeated in disguise first",
            r#"{"n":#,"i\u0064":"evt_2","id":"evt_1"}"#,
            Body,
        ),
        case(
            "repeated around an object",
            r#"{"id":"evt_1","n":#,"data":{},"id":"evt_1"}"#,
            Body,
        ),
        case("repeated as null", r#"{"n":#,"id":"evt_1","id":null}"#, Body),
        case("missing", r#"{"n":#}"#, Body),
        case("an inner one only", r#"{"n":#,"data":{"id":"evt_1"}}"#, Body),
        case("in an array", r#"[{"n":#,"id":"evt_1"}]"#, Body),
        case("in upper case", r#"{"n":#,"ID":"evt_1","Id":"evt_1"}"#, Body),
        case(
            "a key with a blank",
            r#"{"n":#,"id ":"evt_1"," id":"evt_1"}"#,
            Body,
        ),
        case("a key with a NUL", r#"{"n":#,"id\u0000":"evt_1"}"#, Body),
        case(
            "a key of other letters",
            "{\"n\":#,\"\u{456}d\":\"evt_1\",\"\u{ff49}\u{ff44}\":\"evt_1\"}",
            Body,
        ),
        // Not JSON.
        case("not UTF-8", b"{\"n\":#,\"id\":\"\xff\"}", Body),
        case(
            "not UTF-8 elsewhere",
            b"{\"n\":#,\"id\":\"evt_1\",\"v\":\"\xff\"}",
            Body,
        ),
        case(
            "an overlong character",
            b"{\"n\":#,\"id\":\"evt_1\",\"v\":\"\xc0\xae\"}",
            Body,
        ),
        case(
            "half a pair as UTF-8",
            b"{\"n\":#,\"id\":\"evt_1\",\"v\":\"\xed\xa0\x80\"}",
            Body,
        ),
        case("a byte order mark", "\u{feff}{\"n\":#,\"id\":\"evt_1\"}", Body),
        case("UTF-16", b"\xff\xfe{\0\"\0n\0\"\0:\0#\0}\0", Body),
        case("a final comma", r#"{"n":#,"id":"evt_1",}"#, Body),
        case("a comment", r#"{"n":#,"id":"evt_1"/**/}"#, Body),
        case("single quotes", "{'n':#,'id':'evt_1'}", Body),
        case("a bare key", r#"{n:#,id:"evt_1"}"#, Body),
        case(
            "a line feed in a string",
            "{\"n\":#,\"id\":\"evt_1\",\"v\":\"\n\"}",
            Body,
        ),
        case("a NUL behind", "{\"n\":#,\"id\":\"evt_1\"}\0", Body),
        case("two documents", r##"{"n":#,"id":"evt_1"}{"id":"evt_1"}"##, Body),
        case("cut off", r#"{"n":#,"id":"evt_1""#, Body),
        case("cut off in a string", r#"{"n":#,"id":"evt_1"#, Body),
        case("no number", r#"{"n":#,"id":"evt_1","v":NaN}"#, Body),
        case("a leading zero", r#"{"n":#,"id":007}"#, Body),
        case("a plus", r#"{"n":#,"id":+7}"#, Body),
        case("a form", "id=evt_1&n=#", Body),
        case("129 deep", nested(129), Body),
        case("100,000 deep", nested(100_000), Body),
        case(
            "100,000 deep and open",
            format!("{{\"n\":#,\"id\":\"evt_1\",\"v\":{}", "[".repeat(100_000)),
            Body,
        ),
        case(
            "objects 100,000 deep",
            format!("{{\"n\":#,\"id\":\"evt_1\",\"v\":{}", "{\"\":".repeat(100_000)),
            Body,
        ),
    ];
    for text in NAUGHTY {
        cases.push(value(text, &serde_json::to_string(text).unwrap(), id(text)));
    }
    cases
}

/// Strings after the headings of the Big List of Naughty Strings, chosen anew.
const NAUGHTY: [&str; 58] = [
    "undefined",
    "NULL",
    "nil",
    "(null)",
    "None",
    "true",
    "FALSE",
    "hasOwnProperty",
    "__proto__",
    "constructor",
    "\\",
    "\\\\",
    "0",
    "1.00",
    "$1.00",
    "1/2",
    "1E02",
    "-1",
    "0x0",
    "0xabad1dea",
    "NaN",
    "Infinity",
    "-Infinity",
    "1#INF",
    "1,000.00",
    "01000",
    "08",
    "2.2250738585072011e-308",
    ",./;'[]-=",
    "<>?:\"{}|_+",
    "!@#$%^&*()`~",
    "\u{3a9}\u{2248}\u{e7}\u{221a}",
    "\u{215b}\u{215c}",
    "\u{660}\u{661}\u{662}",
    "\u{2070}\u{2074}\u{2080}",
    "\u{feff}",
    "\u{2028}\u{2029}",
    "\u{ad}",
    "\u{180e}",
    "'",
    "\"",
    "''''\"\"",
    "\u{7530}\u{4e2d}\u{3055}\u{3093}",
    "\u{1f468}\u{200d}\u{1f469}",
    "\u{645}\u{631}\u{62d}\u{628}\u{627}",
    "z\u{334}\u{30a}\u{353}algo",
    "<script>alert(1)</script>",
    "&lt;script&gt;",
    "1;DROP TABLE events",
    "' OR 1=1 --",
    "--version",
    "$(touch /tmp/x)",
    "`id`",
    "%s%s%n",
    "{0}",
    "../../../../etc/passwd%00",
    "CON",
    "${jndi:ldap://x}",
];
