//! Bodies arrive at the app as they were sent, however they were sent.

use std::io::Write;
use std::time::Duration;

use super::super::support::send_raw;
use super::rig::{CASE, Rig, five_routes, is_closed, post_signed, quantiv_raw, route, seen, sign, start};

const MIB: usize = 1 << 20;

fn large(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("one", vec![0]),
        ("non-utf8", b"\xff\xfe\x00\x80{".to_vec()),
        ("bom", b"\xef\xbb\xbf{\"id\":\"bom\"}".to_vec()),
        ("crlf-end", b"{\"id\":\"crlf\"}\r\n\r\n".to_vec()),
        (
            "gzip",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00".to_vec(),
        ),
        ("looks-chunked", b"5\r\nhello\r\n0\r\n\r\n".to_vec()),
        ("limit", large(MIB)),
    ]
}

fn check(rig: &Rig, expected: &[(String, Vec<u8>)]) {
    let arrived = rig.assert_only(expected.iter().map(|(case, _)| case.as_str()));
    for (case, body) in expected {
        let request = arrived
            .iter()
            .find(|request| request.header(CASE) == Some(case))
            .unwrap();
        assert!(request.body == *body, "{case}: {} bytes", request.body.len());
        let lengths = request
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        assert_eq!(lengths.count(), 1, "{case}");
        assert_eq!(request.header("transfer-encoding"), None, "{case}");
    }
}

#[test]
fn sized_bodies_are_exact() {
    let rig = start("", &five_routes());
    let mut connection = rig.open();
    let mut expected = Vec::new();
    for (case, body) in bodies() {
        let signature = sign("iverton", &body);
        let headers = [
            (CASE, case),
            ("Content-Encoding", "gzip"),
            ("X-Iverton-Signature", signature.as_str()),
        ];
        let response = connection.post("/iverton", &headers, &body).unwrap();
        assert_eq!(response.status, 200, "{case}");
        expected.push((case.to_owned(), body));
    }
    // A sender that writes all before it reads still gets its answer.
    for bytes in [MIB + 1, 8 * MIB] {
        let response = post_signed(&mut connection, "iverton", "/iverton", "over", &large(bytes)).unwrap();
        assert_eq!(
            (response.status, response.header("connection")),
            (413, Some("close"))
        );
        assert!(is_closed(&mut connection));
        connection = rig.open();
    }
    check(&rig, &expected);
}

#[test]
fn chunked_bodies_are_exact_in_any_pieces() {
    let rig = start("", &five_routes());
    let mut expected = Vec::new();
    for (name, body) in bodies() {
        // The first pieces make an event; the others are the same body again.
        let sizes = [1, 7, 4096, 65_537]
            .into_iter()
            .filter(|size| body.len() / size < 200_000);
        for (n, size) in sizes.enumerate() {
            let mut wire = Vec::new();
            for (n, chunk) in body.chunks(size).enumerate() {
                let extension = if n % 2 == 0 { "" } else { ";x=\"y\"" };
                wire.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"000\r\nX-Trailer: dropped\r\n\r\n");
            let case = format!("{name}-{size}");
            let mut connection = rig.open();
            connection
                .write(&quantiv_raw(
                    &case,
                    "Transfer-Encoding: chunked\r\n",
                    &body,
                    &wire,
                ))
                .unwrap();
            assert_eq!(connection.read_response().unwrap().status, 200, "{case}");
            if n == 0 {
                expected.push((case, body.clone()));
            }
        }
    }
    let over = large(MIB + 1);
    let wire = [&b"100001\r\n"[..], &over, b"\r\n0\r\n\r\n"].concat();
    let mut connection = rig.open();
    connection
        .write(&quantiv_raw(
            "over",
            "Transfer-Encoding: chunked\r\n",
            &over,
            &wire,
        ))
        .unwrap();
    assert_eq!(connection.read_response().unwrap().status, 413);
    assert!(is_closed(&mut connection));
    check(&rig, &expected);
}

#[test]
fn a_chunked_body_of_exactly_the_limit_passes_wherever_it_is_cut() {
    let rig = start("", &route("quantiv", "/quantiv", "max_body = \"17B\""));
    let body = b"0123456789abcdefg";
    let wire = b"8\r\n01234567\r\n9\r\n89abcdefg\r\n0\r\nA: b\r\n\r\n";
    let raw = quantiv_raw("limit", "Transfer-Encoding: chunked\r\n", body, wire);
    let mut connection = rig.open();
    for cut in raw.len() - wire.len()..raw.len() {
        connection.write(&raw[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        connection.write(&raw[cut..]).unwrap();
        assert_eq!(connection.read_response().unwrap().status, 200, "cut at {cut}");
    }
    rig.assert_only(["limit"]);
}

#[test]
fn two_requests_in_one_packet_or_cut_anywhere() {
    let rig = start("", &five_routes());
    let (one, two) = (br#"{"id":"p1"}"#, br#"{"id":"p2"}"#);
    let mut raw = quantiv_raw("p1", "Content-Length: 11\r\n", one, one);
    raw.extend_from_slice(b"\r\n");
    raw.extend(quantiv_raw(
        "p2",
        "Transfer-Encoding: chunked\r\n",
        two,
        b"b\r\n{\"id\":\"p2\"}\r\n0\r\n\r\n",
    ));
    let mut connection = rig.open();
    for cut in 0..raw.len() {
        connection.write(&raw[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        connection.write(&raw[cut..]).unwrap();
        for _ in 0..2 {
            let response = connection.read_response().unwrap();
            assert_eq!(response.status, 200, "cut at {cut}: {}", response.text());
            assert_eq!(response.header("connection"), None);
        }
    }
    rig.assert_only(["p1", "p2"]);
}

#[test]
fn a_refused_request_whose_body_is_here_keeps_its_connection() {
    let rig = start("", &five_routes());
    let mut connection = rig.open();
    for (name, raw, status) in [
        (
            "unknown path",
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            404,
        ),
        (
            "no signature",
            "POST /iverton HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            401,
        ),
        (
            "no signature, chunked",
            "POST /iverton HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            401,
        ),
        (
            "method",
            "PUT /iverton HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            405,
        ),
    ] {
        connection.write(raw.as_bytes()).unwrap();
        let response = connection.read_response().unwrap();
        assert_eq!(response.status, status, "{name}");
        assert_eq!(response.header("connection"), None, "{name}");
    }
    // What is still to come is not waited for.
    connection
        .write(b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nhello")
        .unwrap();
    let response = connection.read_response().unwrap();
    assert_eq!(
        (response.status, response.header("connection")),
        (404, Some("close"))
    );
    assert!(is_closed(&mut connection));
    rig.assert_only([]);
}

#[test]
fn versions_methods_and_expectations() {
    let rig = start("", &five_routes());
    let body = br#"{"id":"v"}"#;
    let old = |case: &str, extra: &str| {
        let raw = quantiv_raw(case, &format!("Content-Length: 10\r\n{extra}"), body, body);
        String::from_utf8(raw)
            .unwrap()
            .replacen("HTTP/1.1", "HTTP/1.0", 1)
    };
    let mut connection = rig.open();
    connection
        .write(old("v", "Connection: Keep-Alive\r\n").as_bytes())
        .unwrap();
    let response = connection.read_response().unwrap();
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("keep-alive"))
    );
    connection.write(old("v", "").as_bytes()).unwrap();
    let response = connection.read_response().unwrap();
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    assert!(is_closed(&mut connection));

    let no_host = old("v", "").replacen("Host: hooks.example\r\n", "", 1);
    assert!(send_raw(rig.listen(), no_host.as_bytes()).starts_with(b"HTTP/1.1 200 "));

    let mut connection = rig.open();
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "post", "PATCH"] {
        let response = connection.request(method, "/quantiv", &[], b"").unwrap();
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("POST")),
            "{method}"
        );
    }
    let answer = send_raw(rig.listen(), b"HEAD /quantiv HTTP/1.1\r\nHost: a\r\n\r\n");
    let text = String::from_utf8(answer).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 405 ") && text.ends_with("\r\n\r\n"),
        "{text}"
    );

    // As curl does it: the body follows only once it is asked for.
    let mut stream = std::net::TcpStream::connect(rig.listen()).unwrap();
    let head = quantiv_raw(
        "continue",
        "Content-Length: 10\r\nExpect: 100-continue\r\n",
        b"{\"id\":\"e\"}",
        b"",
    );
    stream.write_all(&head).unwrap();
    let mut line = [0; 25];
    std::io::Read::read_exact(&mut stream, &mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"id\":\"e\"}").unwrap();
    let mut first = [0; 13];
    std::io::Read::read_exact(&mut stream, &mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 ");
    // And is not asked for when the head is enough to refuse it.
    let mut connection = rig.open();
    connection
        .write(b"POST /iverton HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    let response = connection.read_response().unwrap();
    assert_eq!(seen(&response).0, 401);
    assert!(is_closed(&mut connection));
    rig.assert_only(["v", "continue"]);
}
