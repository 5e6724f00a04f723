//! What says that a body comes in chunks, and what only looks like it.
//!
//! A request that two servers could end at two places is refused and its connection closed, so that a request hidden
//! behind it is never read (RFC 9112, 6.3 and 11.2).

use super::case::{Case, HEAD, Step};
use super::rig::prove;
use Step::{Answered, Refused, Taken};

/// What follows a body that a laxer server would end early.
const EVIL: &str = "{evil}";

/// Lines that are no well-formed `Transfer-Encoding` field, but that some server somewhere took for one.
/// RFC 9112, 5.1: no blank before the colon; 2.2: no bare CR or LF; 5.2: no folds. RFC 9110, 5.5: no control characters.
const DISGUISED: [&str; 37] = [
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding\x0b: chunked",
    "Transfer-Encoding\x0c: chunked",
    "Transfer-Encoding\0: chunked",
    "\0Transfer-Encoding: chunked",
    "Transfer\0-Encoding: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding:\x0cchunked",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: \0chunked",
    "Transfer-Encoding: \x08chunked",
    "Transfer-Encoding: \x7fchunked",
    "Transfer-Encoding: \x1bchunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\r\n\tchunked",
    "Transfer-Encoding: chunked\r\n ",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding:\rchunked",
    "Transfer-Encoding: chunked\r",
    "X-A: b\nTransfer-Encoding: chunked",
    "X-A: b\rTransfer-Encoding: chunked",
    "X-A:\rTransfer-Encoding: chunked",
    "X-A: b\n\rTransfer-Encoding: chunked",
    "Transfer-Encoding\r\n: chunked",
    "Transfer-Encoding\n: chunked",
    "Transfer-Encoding\r: chunked",
    "Transfer Encoding: chunked",
    "Transfer-Encoding chunked",
    "Transfer-Encoding=chunked",
    "Transfer-Encoding;: chunked",
    "\"Transfer-Encoding\": chunked",
    "Transfer-Encoding\u{a0}: chunked",
];

/// Values whose last coding is not `chunked`: RFC 9112, 6.3 (4): 400.
const NOT_CHUNKED: [&str; 24] = [
    "",
    "identity",
    "gzip",
    "cow",
    "x-chunked",
    "xchunked",
    "chunkedd",
    "chunke",
    "chunked, identity",
    "chunked, cow",
    "chunked,",
    "chunked,,",
    "chunked;q=1",
    "chunked; a=b",
    "chunked chunked",
    "chunked\tchunked",
    "\"chunked\"",
    "'chunked'",
    "(chunked)",
    "\\chunked",
    "chun\u{212a}ed",
    "chunked\u{a0}",
    "\u{ff43}hunked",
    "trailers",
];

/// `chunked` comes last, but something else before it: 501 (RFC 9112, 6.1), or 400 where that is another `chunked`.
const NOT_ONLY_CHUNKED: [(&str, u16); 7] = [
    ("gzip, chunked", 501),
    ("identity, chunked", 501),
    ("cow, chunked", 501),
    (",chunked", 501),
    ("gzip,chunked", 501),
    ("chunked, chunked", 400),
    ("chunked, gzip, chunked", 400),
];

/// Other fields: nobody may take them for the framing, and they are not passed on as if they were.
const OTHER_FIELDS: [&str; 8] = [
    "Transfer_Encoding: chunked",
    "X-Transfer-Encoding: chunked",
    "Transfer-Encodin: chunked",
    "Transfer-Encodings: chunked",
    "Transfer-Encoding-: chunked",
    "Transfer.Encoding: chunked",
    "X-A: b Transfer-Encoding: chunked",
    "Content-Transfer-Encoding: chunked",
];

#[test]
fn no_transfer_encoding_in_disguise() {
    let mut cases = Vec::new();
    let sized = "Content-Length: {length}\r\n";
    let plain = "Transfer-Encoding: chunked\r\n";
    let chunked = format!("{{chunked}}{EVIL}");
    for line in DISGUISED {
        let shown = line.escape_debug().to_string();
        for (shape, lines) in [
            ("alone", format!("{line}\r\n")),
            ("after a length", format!("{sized}{line}\r\n")),
            ("before a length", format!("{line}\r\n{sized}")),
            ("before the real one", format!("{line}\r\n{plain}")),
            ("after the real one", format!("{plain}{line}\r\n")),
        ] {
            cases.push(Case::framed(
                format!("{shown} {shape}"),
                lines,
                &chunked,
                &[Refused(400)],
            ));
        }
    }
    let values = NOT_CHUNKED
        .map(|value| (value, 400))
        .into_iter()
        .chain(NOT_ONLY_CHUNKED);
    for (value, alone) in values {
        let line = format!("Transfer-Encoding: {value}\r\n");
        let shown = value.escape_debug().to_string();
        for (shape, lines, status) in [
            ("alone", line.clone(), alone),
            ("after a length", format!("{sized}{line}"), 400),
            ("before a length", format!("{line}{sized}"), 400),
            ("before chunked", format!("{line}{plain}"), 400),
            ("after chunked", format!("{plain}{line}"), 400),
            ("in lower case", format!("transfer-encoding:{value}\r\n"), alone),
        ] {
            cases.push(Case::framed(
                format!("{shown} {shape}"),
                lines,
                &chunked,
                &[Refused(status)],
            ));
        }
    }
    for line in OTHER_FIELDS {
        let own = format!("{line}\r\n{sized}");
        cases.push(Case::framed(
            format!("{line} and a length"),
            own,
            "{body}",
            &[Taken],
        ));
        // No length at all: an empty body, which nobody signed, and what stands there is no request.
        let alone = format!("{line}\r\n");
        cases.push(Case::framed(
            format!("{line} alone"),
            alone,
            &chunked,
            &[Answered(401), Refused(400)],
        ));
    }
    for value in [
        "chunked",
        "CHUNKED",
        "Chunked",
        "\tchunked",
        "   chunked \t ",
        "chunKed\t",
    ] {
        let line = format!("Transfer-Encoding:{value}\r\n");
        cases.push(Case::framed(
            format!("{value:?}"),
            &line,
            "{chunked}{good}",
            &[Taken, Step::Good],
        ));
        cases.push(Case::framed(
            format!("{value:?} and a length"),
            format!("{line}{sized}"),
            &chunked,
            &[Refused(400)],
        ));
        let twice = format!("{line}{line}");
        cases.push(Case::framed(
            format!("{value:?} twice"),
            twice,
            &chunked,
            &[Refused(400)],
        ));
    }
    // RFC 9112, 6.1: a Transfer-Encoding in HTTP/1.0 means faulty framing.
    for more in ["", sized] {
        let wire = format!("{}{plain}{more}\r\n{chunked}", HEAD.replace("1.1", "1.0"));
        cases.push(Case::new(format!("HTTP/1.0 {more}"), wire, &[Refused(400)]));
    }
    // The classics, with what the other server would make of it.
    for (name, lines, sent) in [
        ("CL.TE", format!("{sized}{plain}"), format!("0\r\n\r\n{EVIL}")),
        (
            "TE.CL",
            format!("{plain}Content-Length: 4\r\n"),
            format!("{{chunked}}{EVIL}"),
        ),
        (
            "TE.0",
            format!("{plain}Content-Length: 0\r\n"),
            format!("{{chunked}}{EVIL}"),
        ),
        (
            "CL.0",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            EVIL.to_owned(),
        ),
    ] {
        cases.push(Case::framed(name, lines, sent, &[Refused(400)]));
    }
    prove("hostile: transfer codings", &cases);
}
