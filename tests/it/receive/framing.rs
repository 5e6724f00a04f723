//! What two servers could read in two ways is refused, and nothing of it reaches the app.

use super::rig::{five_routes, is_closed, quantiv_raw, start};

const BODY: &[u8] = br#"{"id":"smuggled"}"#;
const SIZED: &str = "Content-Length: 17\r\n";
const CHUNKED: &[u8] = b"11\r\n{\"id\":\"smuggled\"}\r\n0\r\n\r\n";
const TE: &str = "Transfer-Encoding: chunked\r\n";

/// A request with these framing lines, signed for `BODY`.
fn lines(lines: &str, sent: &[u8]) -> Vec<u8> {
    quantiv_raw("smuggled", lines, BODY, sent)
}

/// A good request with one part of it replaced.
fn replaced(from: &str, to: &[u8]) -> Vec<u8> {
    let good = lines(SIZED, BODY);
    let at = good
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    [&good[..at], to, &good[at + from.len()..]].concat()
}

#[test]
fn ambiguous_and_malformed_heads_are_refused_and_closed() {
    let rig = start("", &five_routes());
    let many = "X-A: 1\r\n".repeat(97);
    let huge = format!("X-A: {}\r\n{SIZED}", "a".repeat(40_000));
    let wide = format!("X-A: {}\r\n", "a".repeat(900)).repeat(40);
    let host = "Host: hooks.example\r\n";
    for (name, raw, statuses) in [
        ("CL and TE", lines(&format!("{SIZED}{TE}"), CHUNKED), &[400][..]),
        ("TE and CL", lines(&format!("{TE}{SIZED}"), CHUNKED), &[400]),
        ("two CL, equal", lines(&format!("{SIZED}{SIZED}"), BODY), &[400]),
        (
            "two CL",
            lines(&format!("{SIZED}Content-Length: 0\r\n"), BODY),
            &[400],
        ),
        ("CL list", lines("Content-Length: 17, 17\r\n", BODY), &[400]),
        ("CL plus", lines("Content-Length: +17\r\n", BODY), &[400]),
        ("CL minus", lines("Content-Length: -17\r\n", BODY), &[400]),
        ("CL hex", lines("Content-Length: 0x11\r\n", BODY), &[400]),
        ("CL empty", lines("Content-Length: \r\n", BODY), &[400]),
        ("CL with a blank", lines("Content-Length: 1 7\r\n", BODY), &[400]),
        (
            "CL over 64 bits",
            lines("Content-Length: 99999999999999999999999\r\n", BODY),
            &[413],
        ),
        (
            "CL in another script",
            lines("Content-Length: \u{0661}\u{0667}\r\n", BODY),
            &[400],
        ),
        (
            "TE gzip",
            lines("Transfer-Encoding: gzip\r\n", CHUNKED),
            &[400, 501],
        ),
        (
            "TE identity",
            lines("Transfer-Encoding: identity\r\n", BODY),
            &[400, 501],
        ),
        (
            "TE twice",
            lines("Transfer-Encoding: chunked, chunked\r\n", CHUNKED),
            &[400, 501],
        ),
        (
            "TE gzip, chunked",
            lines("Transfer-Encoding: gzip, chunked\r\n", CHUNKED),
            &[400, 501],
        ),
        ("TE in two lines", lines(&format!("{TE}{TE}"), CHUNKED), &[400]),
        (
            "TE xchunked",
            lines("Transfer-Encoding: xchunked\r\n", CHUNKED),
            &[400, 501],
        ),
        (
            "TE quoted",
            lines("Transfer-Encoding: \"chunked\"\r\n", CHUNKED),
            &[400, 501],
        ),
        ("TE empty", lines("Transfer-Encoding: \r\n", CHUNKED), &[400, 501]),
        (
            "TE vertical tab",
            lines("Transfer-Encoding: \x0bchunked\r\n", CHUNKED),
            &[400],
        ),
        (
            "TE behind a blank",
            lines("Transfer-Encoding : chunked\r\n", CHUNKED),
            &[400],
        ),
        (
            "TE folded",
            lines("Transfer-Encoding:\r\n chunked\r\n", CHUNKED),
            &[400],
        ),
        (
            "TE in 1.0",
            String::from_utf8(lines(TE, CHUNKED))
                .unwrap()
                .replacen("HTTP/1.1", "HTTP/1.0", 1)
                .into_bytes(),
            &[400],
        ),
        ("folded", lines(&format!("X-A: 1\r\n 2\r\n{SIZED}"), BODY), &[400]),
        (
            "folded by a tab",
            lines(&format!("X-A: 1\r\n\t2\r\n{SIZED}"), BODY),
            &[400],
        ),
        ("first line folded", replaced("Host:", b" Host:"), &[400]),
        ("no Host", replaced(host, b""), &[400]),
        (
            "two Hosts",
            replaced(host, b"Host: hooks.example\r\nHost: hooks.example\r\n"),
            &[400],
        ),
        ("empty Host", replaced(host, b"Host:\r\n"), &[400]),
        ("Host with a path", replaced(host, b"Host: a/b\r\n"), &[400]),
        ("Host with a user", replaced(host, b"Host: a@b\r\n"), &[400]),
        (
            "absolute, other host",
            replaced("/quantiv", b"http://evil.example/quantiv"),
            &[400],
        ),
        (
            "absolute, user",
            replaced("/quantiv", b"http://hooks.example@evil.example/quantiv"),
            &[400],
        ),
        (
            "absolute, other scheme",
            replaced("/quantiv", b"ftp://hooks.example/quantiv"),
            &[400],
        ),
        ("asterisk", replaced("/quantiv", b"*"), &[400]),
        ("no slash", replaced("/quantiv", b"quantiv"), &[400]),
        ("fragment", replaced("/quantiv", b"/quantiv#a"), &[400]),
        (
            "bytes over 7 bits in the path",
            replaced("/quantiv", b"/quantiv\xff"),
            &[400],
        ),
        ("NUL in the path", replaced("/quantiv", b"/quantiv\0"), &[400]),
        ("tab for a blank", replaced("POST /", b"POST\t/"), &[400]),
        ("two blanks", replaced("POST /", b"POST  /"), &[400]),
        (
            "blank behind the version",
            replaced("HTTP/1.1", b"HTTP/1.1 "),
            &[400],
        ),
        ("HTTP/1.2", replaced("HTTP/1.1", b"HTTP/1.2"), &[400]),
        ("HTTP/2.0", replaced("HTTP/1.1", b"HTTP/2.0"), &[400]),
        ("http/1.1", replaced("HTTP/1.1", b"http/1.1"), &[400]),
        ("no version", replaced(" HTTP/1.1", b""), &[400]),
        (
            "upgrade",
            lines(
                &format!("{SIZED}Connection: upgrade\r\nUpgrade: websocket\r\n"),
                BODY,
            ),
            &[400, 501],
        ),
        (
            "CONNECT",
            replaced("POST /quantiv", b"CONNECT hooks.example:443"),
            &[400, 501],
        ),
        ("CONNECT a path", replaced("POST", b"CONNECT"), &[400, 501]),
        (
            "bare LF in the first line",
            replaced("HTTP/1.1\r\n", b"HTTP/1.1\n"),
            &[400],
        ),
        (
            "bare LF behind a field",
            replaced("example\r\n", b"example\n"),
            &[400],
        ),
        (
            "bare CR in a value",
            lines(&format!("X-A: 1\r2\r\n{SIZED}"), BODY),
            &[400],
        ),
        (
            "bare CR behind a field",
            replaced("example\r\n", b"example\r"),
            &[400],
        ),
        ("two CR", replaced("example\r\n", b"example\r\r\n"), &[400]),
        (
            "NUL in a value",
            lines(&format!("X-A: 1\02\r\n{SIZED}"), BODY),
            &[400],
        ),
        (
            "DEL in a value",
            lines(&format!("X-A: 1\x7f2\r\n{SIZED}"), BODY),
            &[400],
        ),
        (
            "NUL in a name",
            lines(&format!("X\0A: 1\r\n{SIZED}"), BODY),
            &[400],
        ),
        (
            "blank before the colon",
            lines(&format!("X-A : 1\r\n{SIZED}"), BODY),
            &[400],
        ),
        (
            "blank in a name",
            lines(&format!("X A: 1\r\n{SIZED}"), BODY),
            &[400],
        ),
        ("no colon", lines(&format!("X-A\r\n{SIZED}"), BODY), &[400]),
        ("no name", lines(&format!(": 1\r\n{SIZED}"), BODY), &[400]),
        (
            "parenthesis in a name",
            lines(&format!("X(A): 1\r\n{SIZED}"), BODY),
            &[400],
        ),
        ("101 fields", lines(&format!("{many}{SIZED}"), BODY), &[431]),
        ("one huge field", lines(&huge, BODY), &[431]),
        ("36 KiB of fields", lines(&format!("{wide}{SIZED}"), BODY), &[431]),
        (
            "endless field",
            lines(&format!("X-A: {}", "a".repeat(70_000)), b""),
            &[431],
        ),
        (
            "endless first line",
            [b"POST /".to_vec(), vec![b'a'; 70_000]].concat(),
            &[431],
        ),
        (
            "expectation",
            lines(&format!("{SIZED}Expect: 200-ok\r\n"), BODY),
            &[417],
        ),
        (
            "TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            &[400],
        ),
        (
            "HTTP/2 preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            &[400],
        ),
        ("junk", b"\x00\x01\x02\x03junk\r\n\r\n".to_vec(), &[400]),
        ("text", b"hello there\r\n\r\n".to_vec(), &[400]),
        (
            "PROXY protocol",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n".to_vec(),
            &[400],
        ),
    ] {
        let mut connection = rig.open();
        // The answer may come before all is written.
        drop(connection.write(&raw));
        let response = connection
            .read_response()
            .unwrap_or_else(|error| panic!("{name}: no answer: {error}"));
        assert!(statuses.contains(&response.status), "{name}: {}", response.status);
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{name}"
        );
        assert!(response.text().starts_with("{\"error\":\""), "{name}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        assert!(is_closed(&mut connection), "{name}: the connection stays open");
    }
    rig.assert_only([]);
}

#[test]
fn broken_chunks_are_refused_and_closed() {
    let rig = start("", &five_routes());
    let data = "{\"id\":\"smuggled\"}";
    for (name, wire) in [
        ("no size", format!("\r\n{data}\r\n0\r\n\r\n")),
        ("plus", format!("+11\r\n{data}\r\n0\r\n\r\n")),
        ("minus", format!("-11\r\n{data}\r\n0\r\n\r\n")),
        ("0x", format!("0x11\r\n{data}\r\n0\r\n\r\n")),
        ("blank in front", format!(" 11\r\n{data}\r\n0\r\n\r\n")),
        ("junk behind the size", format!("11 x\r\n{data}\r\n0\r\n\r\n")),
        ("bare LF behind the size", format!("11\n{data}\r\n0\r\n\r\n")),
        ("bare CR behind the size", format!("11\r{data}\r\n0\r\n\r\n")),
        (
            "bare LF in an extension",
            format!("11;a\nb\r\n{data}\r\n0\r\n\r\n"),
        ),
        (
            "bare CR in an extension",
            format!("11;a\rb\r\n{data}\r\n0\r\n\r\n"),
        ),
        ("NUL in an extension", format!("11;a\0b\r\n{data}\r\n0\r\n\r\n")),
        ("bare LF behind the data", format!("11\r\n{data}\n0\r\n\r\n")),
        ("size too small", format!("10\r\n{data}\r\n0\r\n\r\n")),
        ("size too large", format!("12\r\n{data}\r\n0\r\n\r\n")),
        (
            "over 64 bits",
            format!("10000000000000011\r\n{data}\r\n0\r\n\r\n"),
        ),
        (
            "long extension",
            format!("11;{}\r\n{data}\r\n0\r\n\r\n", "x".repeat(9000)),
        ),
        ("bare LF at the end", format!("11\r\n{data}\r\n0\r\n\n")),
        ("bare LF in a trailer", format!("11\r\n{data}\r\n0\r\nA: b\n\r\n")),
        (
            "endless trailer",
            format!("11\r\n{data}\r\n0\r\n{}", "A: b\r\n".repeat(4000)),
        ),
    ] {
        let mut connection = rig.open();
        drop(connection.write(&lines(TE, wire.as_bytes())));
        let response = connection
            .read_response()
            .unwrap_or_else(|error| panic!("{name}: no answer: {error}"));
        assert_eq!(response.status, 400, "{name}");
        assert!(is_closed(&mut connection), "{name}: the connection stays open");
    }
    let mut connection = rig.open();
    connection.write(&lines(TE, b"7fffffff\r\n")).unwrap();
    assert_eq!(connection.read_response().unwrap().status, 413);
    rig.assert_only([]);
}

#[test]
fn a_signature_in_a_trailer_is_none() {
    let rig = start("", &five_routes());
    let signature = super::rig::sign("quantiv", BODY);
    let raw = format!(
        "POST /quantiv HTTP/1.1\r\nHost: a\r\nTrailer: X-Quantiv-Signature\r\nTransfer-Encoding: \
         chunked\r\n\r\n11\r\n{{\"id\":\"smuggled\"}}\r\n0\r\nX-Quantiv-Signature: {signature}\r\n\r\n"
    );
    let mut connection = rig.open();
    connection.write(raw.as_bytes()).unwrap();
    assert_eq!(connection.read_response().unwrap().status, 400);
    rig.assert_only([]);
}

#[test]
fn a_request_cut_anywhere_is_never_kept() {
    let rig = start("", &five_routes());
    for whole in [lines(SIZED, BODY), lines(TE, CHUNKED)] {
        for cut in 0..whole.len() {
            let mut connection = rig.open();
            connection.write(&whole[..cut]).unwrap();
            // Closed from this side by the drop; what the gateway says then nobody hears.
        }
        let answer = super::super::support::send_raw(rig.listen(), &whole[..whole.len() - 1]);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    rig.assert_only([]);
}

#[test]
fn absolute_form_of_our_own_host_and_odd_but_clear_heads_pass() {
    let rig = start("", &five_routes());
    for (case, raw) in [
        (
            "absolute",
            replaced("/quantiv", b"http://hooks.example/quantiv?a=b"),
        ),
        (
            "absolute in upper case",
            replaced("/quantiv", b"HTTP://HOOKS.EXAMPLE/quantiv"),
        ),
        ("no blank behind the colon", replaced("Host: ", b"Host:")),
        (
            "empty line in front",
            [&b"\r\n"[..], &lines(SIZED, BODY)].concat(),
        ),
        ("CL with blanks", lines("Content-Length: \t 17 \t\r\n", BODY)),
        ("CL with zeros", lines("Content-Length: 0000017\r\n", BODY)),
        (
            "TE in upper case",
            lines("TRANSFER-ENCODING:   Chunked \r\n", CHUNKED),
        ),
        (
            "100 fields",
            lines(&format!("{}{SIZED}", "X-A: 1\r\n".repeat(96)), BODY),
        ),
        (
            "30 KiB",
            lines(&format!("X-A: {}\r\n{SIZED}", "a".repeat(30_000)), BODY),
        ),
        (
            "bytes over 7 bits",
            lines(&format!("X-A: \u{fc}\r\n{SIZED}"), BODY),
        ),
    ] {
        let mut connection = rig.open();
        connection.write(&raw).unwrap();
        let response = connection.read_response().unwrap();
        assert_eq!(response.status, 200, "{case}: {}", response.text());
    }
    rig.assert_only(["smuggled"]);
}

/// `hostile::heads` found it: a method of which the first bytes came alone could be of any length.
#[test]
fn a_method_is_as_short_in_pieces_as_it_is_whole() {
    let rig = start("", &five_routes());
    for (length, status) in [(32, 405), (33, 400)] {
        let wire = replaced("POST", "M".repeat(length).as_bytes());
        for cut in [wire.len(), 1, 5, 31, 32, 33, 40] {
            let mut connection = rig.open();
            let (first, rest) = wire.split_at(cut);
            connection.write(first).unwrap();
            if !rest.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(10));
                // It may have been refused before.
                drop(connection.write(rest));
            }
            let answer = connection.read_response().unwrap();
            assert_eq!(answer.status, status, "{length} bytes, cut at {cut}");
        }
    }
    rig.assert_only([]);
}
