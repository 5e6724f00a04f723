//! The head: a request line of three words, and fields of name and value.

use super::case::{Case, Step};
use super::rig::prove;
use Step::{Answered, Good, Refused, Taken};

#[test]
fn a_request_line_has_three_words() {
    let mut cases = Vec::new();
    // RFC 9112, 3: one blank each, and a version that is ours; 2.2: CRLF.
    for (from, to) in [
        ("POST ", "POST  "),
        ("POST ", "POST\t"),
        ("POST ", "POST\x0b"),
        ("POST ", "POST\x0c"),
        ("POST ", "POST\u{a0}"),
        ("POST ", " POST "),
        ("POST ", "\tPOST "),
        ("POST ", "\0POST "),
        ("POST ", "\u{feff}POST "),
        ("POST ", "PO ST "),
        ("POST ", "P\u{d6}ST "),
        ("POST ", "POST\0 "),
        ("POST ", "\"POST\" "),
        ("POST ", "POST: "),
        ("POST ", "(POST) "),
        ("POST ", "\r\n\r\nPOST "),
        ("POST ", "\nPOST "),
        ("POST ", "\rPOST "),
        ("POST ", "\n\r\nPOST "),
        ("POST {path}", "POST"),
        ("POST {path}", "{path}"),
        (" HTTP/1.1", ""),
        (" HTTP/1.1", " "),
        (" HTTP/1.1", "  HTTP/1.1"),
        (" HTTP/1.1", "\tHTTP/1.1"),
        (" HTTP/1.1", " HTTP/1.1 "),
        (" HTTP/1.1", " HTTP/1.1\t"),
        (" HTTP/1.1", " HTTP/1.1 HTTP/1.1"),
        (" HTTP/1.1", " x HTTP/1.1"),
        (" HTTP/1.1", " http/1.1"),
        (" HTTP/1.1", " HTTP/1.2"),
        (" HTTP/1.1", " HTTP/1.9"),
        (" HTTP/1.1", " HTTP/0.9"),
        (" HTTP/1.1", " HTTP/2.0"),
        (" HTTP/1.1", " HTTP/2"),
        (" HTTP/1.1", " HTTP/3.0"),
        (" HTTP/1.1", " HTTP/1"),
        (" HTTP/1.1", " HTTP/1."),
        (" HTTP/1.1", " HTTP/11"),
        (" HTTP/1.1", " HTTP/1.11"),
        (" HTTP/1.1", " HTTP/01.1"),
        (" HTTP/1.1", " HTTP/1.01"),
        (" HTTP/1.1", " HTTP/+1.1"),
        (" HTTP/1.1", " HTTP/1,1"),
        (" HTTP/1.1", " HTTP 1.1"),
        (" HTTP/1.1", " HTTPS/1.1"),
        (" HTTP/1.1", " IHTTP/1.1"),
        (" HTTP/1.1", " ICE/1.1"),
        (" HTTP/1.1", " RTSP/1.1"),
        (" HTTP/1.1", " HTTP/\u{ff11}.1"),
        (" HTTP/1.1", " HTTP/1.1\0"),
        (" HTTP/1.1\r\n", " HTTP/1.1\n"),
        (" HTTP/1.1\r\n", " HTTP/1.1\r"),
        (" HTTP/1.1\r\n", " HTTP/1.1\r\r\n"),
        (" HTTP/1.1\r\n", " HTTP/1.1\r\n "),
        (" HTTP/1.1\r\n", " HTTP/1.1\r\n\t"),
        (" HTTP/1.1\r\n", " HTTP/1.1"),
    ] {
        cases.push(Case::replaced(from, to, &[Refused(400)]));
    }
    // RFC 9110, 9.1: methods are case-sensitive. Which ones exist is the route's list.
    for method in [
        "post",
        "Post",
        "POSTS",
        "POS",
        "GET",
        "PUT",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "QUERY",
        "M-SEARCH",
        "X!#$%&'*+-.^_`|~9",
    ] {
        cases.push(Case::replaced("POST", method, &[Answered(405)]));
    }
    let long = "M".repeat(33);
    cases.push(Case::replaced("POST", &long, &[Refused(400)]));
    // RFC 9110, 9.3.6 and 7.8: no tunnels.
    cases.push(Case::replaced(
        "POST {path}",
        "CONNECT hooks.example:443",
        &[Refused(501)],
    ));
    cases.push(Case::replaced("POST", "CONNECT", &[Refused(501)]));
    for upgrade in ["websocket", "h2c", "TLS/1.3", ""] {
        let line = format!("Connection: Upgrade\r\nUpgrade: {upgrade}");
        cases.push(Case::with_line(line, &[Refused(501)]));
    }
    cases.push(Case::with_line(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        &[Refused(501)],
    ));
    cases.push(Case::new(
        "HTTP/2 preface",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{evil}",
        &[Refused(400)],
    ));
    cases.push(Case::new("HTTP/0.9", "GET {path}\r\n\r\n{evil}", &[Refused(400)]));
    cases.push(Case::new(
        "TLS",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[Refused(400)],
    ));
    cases.push(Case::new(
        "PROXY v1",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n{evil}",
        &[Refused(400)],
    ));
    cases.push(Case::new(
        "PROXY v2",
        b"\r\n\r\n\0\r\nQUIT\n{evil}",
        &[Refused(400)],
    ));
    cases.push(Case::new("SMTP", "EHLO evil.example\r\n{evil}", &[Refused(400)]));
    // RFC 9112, 2.2: one empty line in front is forgiven, between requests too.
    cases.push(Case::new(
        "an empty line in front",
        "\r\n{good}\r\n{good}",
        &[Good, Good],
    ));
    cases.push(Case::new(
        "two empty lines between",
        "{good}\r\n\r\n{evil}",
        &[Good, Refused(400)],
    ));
    prove("hostile: request lines", &cases);
}

#[test]
fn fields_are_lines_of_name_and_value() {
    let mut cases = Vec::new();
    // RFC 9112, 5; RFC 9110, 5.1 and 5.5.
    for line in [
        &b"X-A"[..],
        b"X-A b",
        b": b",
        b" : b",
        b"X-A : b",
        b"X-A\t: b",
        b"X A: b",
        b"X\tA: b",
        b"X\0A: b",
        b"X\x0bA: b",
        b"X\xa0A: b",
        b"X\xc3\xa9: b",
        b"X(A): b",
        b"X/A: b",
        b"X,A: b",
        b"X;A: b",
        b"X=A: b",
        b"X?A: b",
        b"X@A: b",
        b"X[A]: b",
        b"X\\A: b",
        b"\"X-A\": b",
        b"<X-A>: b",
        b" X-A: b",
        b"\tX-A: b",
        b"X-A: b\r\n c",
        b"X-A: b\r\n\tc",
        b"X-A:\r\n b",
        b"X-A: b\r\n ",
        b"X-A: b\r\n \r\n c",
        b"X-A: b\nX-B: c",
        b"X-A: b\rX-B: c",
        b"X-A: b\r",
        b"X-A: b\n",
        b"X-A: b\r\r",
        b"X-A\r: b",
        b"X-A\n: b",
        b"X-A:\r b",
        b"X-A:\nb",
        b"X-A: b\0",
        b"X-A: \0b",
        b"X-A: b\0c",
        b"X-A: \x01",
        b"X-A: \x08",
        b"X-A: \x0b",
        b"X-A: \x0c",
        b"X-A: \x1b[31m",
        b"X-A: \x7f",
        b"\r",
        b"\rX-A: b",
        b"\0",
        b"GET /evil HTTP/1.1",
        b"\rZGET /evil: HTTP/1.1",
    ] {
        cases.push(Case::with_line(line, &[Refused(400)]));
    }
    for line in [
        &b"X-A:"[..],
        b"X-A:b",
        b"X-A: \t b \t ",
        b"X-A:: b",
        b"X-A: b: c",
        b"X-A: \xe9\xff\x80",
        b"X-A: \xc3\xa9",
        b"X-A: a\tb",
        b"a: b",
        b"0: b",
        b"!#$%&'*+-.^_`|~: b",
        b"X-A: \"b\r\nX-B: c\"",
        b"GET /evil HTTP/1.1: x",
        b"X_A: b\r\nX-A: c\r\nx-a: d",
        b"Connection: X-A, close-not, keep-alive\r\nX-A: b",
        b"Connection: ,,,",
        b"Connection:",
        b"Trailer: X-Iverton-Signature",
        b"TE: trailers, chunked",
        b"Keep-Alive: timeout=99999",
        b"Proxy-Connection: close",
        b"Expect: 100-continue",
        b"expect: 100-CONTINUE",
        b"Content-Encoding: gzip",
        b"Content-Encoding: chunked",
        b"Content-Type: multipart/form-data; boundary=x",
        b"Range: bytes=0-1",
        b"If-Match: \"x\"",
        b"X-HTTP-Method-Override: DELETE",
        b"X-Original-URL: /admin",
        b"X-Rewrite-URL: /admin",
        b"Hooklatch-Verified: false\r\nHOOKLATCH_VERIFIED: true\r\nhooklatch-event_id: x\r\nHooklatch_Key: x",
        b"Connection: Hooklatch-Verified, Hooklatch-Key, Content-Length, Host, X-Iverton-Signature",
        b"Connection: Content_Length, Transfer-Encoding",
        b"Upgrade-Insecure-Requests: 1",
        b"Max-Forwards: 0",
    ] {
        // A field named like a request line has a blank in its name.
        let steps: &[Step] = if line.starts_with(b"GET ") {
            &[Refused(400)]
        } else {
            &[Taken]
        };
        cases.push(Case::with_line(line, steps));
    }
    // RFC 9110, 10.1.1: no other expectation is known, so none can be met.
    for value in [
        "",
        "200-ok",
        "100-continue, x",
        "100-continue;q=1",
        "101-continue",
        "100",
        "x",
    ] {
        cases.push(Case::with_line(format!("Expect: {value}"), &[Refused(417)]));
    }
    cases.push(Case::with_line(
        "Expect: 100-continue\r\nExpect: x",
        &[Refused(417)],
    ));
    cases.push(Case::with_line(
        "Expect: x\r\nExpect: 100-continue",
        &[Refused(417)],
    ));
    // Limits: 100 fields, 32 KiB.
    let fields = |count: usize| "X-A: b\r\n".repeat(count).trim_end().to_owned();
    cases.push(Case::with_line(fields(97), &[Taken]));
    cases.push(Case::with_line(fields(98), &[Refused(431)]));
    cases.push(Case::with_line(fields(5000), &[Refused(431)]));
    cases.push(Case::with_line(format!("X-A: {}", "b".repeat(32_000)), &[Taken]));
    cases.push(Case::with_line(
        format!("X-A: {}", "b".repeat(33_000)),
        &[Refused(431)],
    ));
    cases.push(Case::with_line(
        format!("X-A: {}", "b".repeat(1 << 20)),
        &[Refused(431)],
    ));
    cases.push(Case::with_line(
        format!("{}: b", "X".repeat(33_000)),
        &[Refused(431)],
    ));
    cases.push(Case::replaced(
        "{path}",
        format!("{{path}}?{}", "x".repeat(33_000)),
        &[Refused(431)],
    ));
    cases.push(Case::replaced(
        "{path}",
        format!("/{}", "x".repeat(30_000)),
        &[Answered(404)],
    ));
    prove("hostile: fields", &cases);
}
