//! One length or none.

use super::case::{Case, Step};
use super::rig::prove;
use Step::{Answered, Refused, Taken};

#[test]
fn a_length_is_one_plain_number() {
    let mut cases = Vec::new();
    // RFC 9110, 8.6: one decimal number. A list of equal ones may be taken or refused; it is refused.
    for value in [
        "{length}, {length}",
        "{length},{length}",
        "{length},",
        ",{length}",
        "{length}, 0",
        "0, {length}",
        "+{length}",
        "-{length}",
        "-1",
        "-0",
        "+0",
        "0x12",
        "0X12",
        "12h",
        "0b10010",
        "0o22",
        "1e1",
        "{length}.0",
        "{length}.",
        "1 8",
        "1\t8",
        "1_8",
        "1'8",
        "{length};",
        "{length}; a=b",
        "\"{length}\"",
        "'{length}'",
        "({length})",
        "{length}L",
        "{length}a",
        "a{length}",
        "abc",
        "",
        " ",
        "{length} {length}",
        "\u{661}\u{668}",
        "\u{ff11}\u{ff18}",
        "1\u{b2}",
        "{length}\u{a0}",
        "\u{a0}{length}",
        "NaN",
        "null",
        "chunked",
        "*",
    ] {
        let line = format!("Content-Length: {value}\r\n");
        cases.push(Case::framed(
            format!("{value:?}"),
            line,
            "{body}{evil}",
            &[Refused(400)],
        ));
    }
    for value in [
        "\x0b{length}",
        "{length}\x0b",
        "\x0c{length}",
        "{length}\0",
        "\0{length}",
        "1\08",
        "{length}\r\n ",
        "\r\n {length}",
    ] {
        let line = format!("Content-Length: {value}\r\n");
        cases.push(Case::framed(
            format!("{value:?}"),
            line,
            "{body}{evil}",
            &[Refused(400)],
        ));
    }
    for (first, second) in [
        ("{length}", "{length}"),
        ("{length}", "0"),
        ("0", "{length}"),
        ("{length}", "{length+1}"),
        ("{length}", ""),
        ("", "{length}"),
        ("{length}", "x"),
        ("x", "{length}"),
    ] {
        for name in ["Content-Length", "content-length", "CONTENT-LENGTH"] {
            let lines = format!("Content-Length: {first}\r\nX-A: b\r\n{name}: {second}\r\n");
            cases.push(Case::framed(
                format!("{first:?} and {name} {second:?}"),
                lines,
                "{body}{evil}",
                &[Refused(400)],
            ));
        }
    }
    for line in [
        "Content-Length : {length}",
        "Content-Length\t: {length}",
        "Content-Length\0: {length}",
        " Content-Length: {length}",
        "Content-Length\x0b: {length}",
        "Content Length: {length}",
        "Content-Length {length}",
        "Content\r-Length: {length}",
        "X-A: b\nContent-Length: {length}",
        "X-A: b\rContent-Length: {length}",
        "Content-Length:\r\n\t{length}",
    ] {
        for lines in [
            format!("{line}\r\n"),
            format!("Content-Length: 0\r\n{line}\r\n"),
            format!("{line}\r\nContent-Length: 0\r\n"),
        ] {
            cases.push(Case::framed(
                lines.escape_debug().to_string(),
                &lines,
                "{body}{evil}",
                &[Refused(400)],
            ));
        }
    }
    // Only digits, and more than any route takes; some are the body's length again after an overflow.
    for value in [
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551634",
        "4294967314",
        "2147483648",
        "1048577",
        "999999999999999999999999999999999999999999",
        "340282366920938463463374607431768211474",
    ] {
        let line = format!("Content-Length: {value}\r\n");
        cases.push(Case::framed(value, line, "{body}{evil}", &[Refused(413)]));
    }
    for value in ["{length}", "00{length}", " \t {length} \t ", "\t{length}"] {
        let line = format!("Content-Length:{value}\r\n");
        cases.push(Case::framed(
            format!("{value:?}"),
            line,
            "{body}{good}",
            &[Taken, Step::Good],
        ));
    }
    let zeros = format!("Content-Length: {}{{length}}\r\n", "0".repeat(300));
    cases.push(Case::framed("300 zeros", zeros, "{body}", &[Taken]));
    // Other fields: the one length counts, and it alone is passed on.
    for line in [
        "Content_Length: 5",
        "X-Content-Length: 5",
        "Content-Lengt: 5",
        "Content-Length-: 5",
        "Content.Length: 5",
    ] {
        let lines = format!("{line}\r\nContent-Length: {{length}}\r\n");
        cases.push(Case::framed(line, lines, "{body}{good}", &[Taken, Step::Good]));
    }
    // A wrong length moves the next request; what is then signed or parsed is not what was.
    for (name, lines, steps) in [
        (
            "one short",
            "Content-Length: {length-1}\r\n",
            &[Answered(401), Refused(400)][..],
        ),
        (
            "two long",
            "Content-Length: {length+2}\r\n",
            &[Answered(401), Answered(405)],
        ),
        ("zero", "Content-Length: 0\r\n", &[Answered(401), Refused(400)]),
        ("none", "", &[Answered(401), Refused(400)]),
    ] {
        cases.push(Case::framed(name, lines, "{body}{evil}", steps));
    }
    prove("hostile: lengths", &cases);
}
