//! `proxy` mode through the real binary: the sender's answer is the app's, and a key is taken only with its 2xx.

mod copies;
mod faults;

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::support::{App, Connection, Gateway, Launch, Reply, Response, hmac_hex, send_raw, sha256};

/// The route of every test here.
const PATH: &str = "/hooks/quantiv";

/// A gateway with one proxy route and no store; the app waits 500 ms at most.
fn config(app: SocketAddr, top: &str, route: &str, upstream: &str) -> String {
    format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"
{top}

[admin]
listen = "127.0.0.1:0"

[secrets]
quantiv = {{ value = "secret" }}

[[route]]
path = "{PATH}"
mode = "proxy"
provider = "quantiv"
secrets = ["quantiv"]
{route}
upstream = {{ url = "http://{app}/app", {upstream} }}
"#
    )
}

fn start(app: &App) -> Gateway {
    Gateway::start(&config(app.address(), "", "", ""))
}

/// Like [`start`], with a store in the gateway's folder.
fn start_with_store(app: SocketAddr) -> Gateway {
    let store = "\n[store]\npath = \"{dir}/store\"\nallow_ephemeral = true\n";
    Launch::new(&(config(app, "", "", "") + store)).start()
}

fn signature(body: &[u8]) -> String {
    hmac_hex(b"secret", body)
}

/// One genuine webhook on a connection of its own.
fn send(gateway: &Gateway, body: &[u8]) -> Response {
    Connection::open(gateway.listen())
        .and_then(|mut connection| connection.post(PATH, &[("X-Quantiv-Signature", &signature(body))], body))
        .unwrap()
}

/// A request as bytes, on a connection that ends with it.
fn raw(method: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {PATH} HTTP/1.1\r\nHost: hooks.example\r\nConnection: close\r\nX-Quantiv-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        signature(body),
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A body of exactly `bytes`, unlike all others of that size.
fn body_of(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(bytes as u64);
    (0..bytes).map(|_| rng.u8(..)).collect()
}

fn is_duplicate(response: &Response) -> bool {
    response.status == 200 && response.text() == r#"{"received":true,"duplicate":true}"#
}

#[test]
fn the_answer_is_the_apps_whatever_it_is() {
    let fields = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let headers = fields(&[
        ("Set-Cookie", "a=1"),
        ("X-Empty", ""),
        ("sEt-cOOkie", "b=2"),
        ("Retry-After", "7"),
        ("Content-Type", "text/weird; charset=x"),
        ("Server", "app"),
    ]);
    let statuses = [
        200, 201, 202, 204, 302, 304, 400, 404, 409, 410, 418, 429, 500, 503, 599,
    ];
    let replies = statuses.map(|status| {
        let body = match status {
            204 | 304 => Vec::new(),
            _ => format!("body of {status}").into_bytes(),
        };
        match status {
            // These have no Content-Length.
            204 | 304 => Reply::Raw(
                format!("HTTP/1.1 {status} Status\r\nSet-Cookie: a=1\r\nX-Empty: \r\nsEt-cOOkie: b=2\r\nRetry-After: 7\r\nContent-Type: text/weird; charset=x\r\nServer: app\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")
                    .into_bytes(),
            ),
            _ => Reply::Full(status, headers.clone(), body),
        }
    });
    let app = App::start(replies);
    let gateway = start(&app);
    for status in statuses {
        let sent = format!(r#"{{"id":"answer-{status}"}}"#);
        let response = send(&gateway, sent.as_bytes());
        assert_eq!(response.status, status);
        let own: Vec<_> = response
            .headers
            .iter()
            .filter(|(name, _)| {
                !["date", "content-length", "connection"].contains(&&*name.to_ascii_lowercase())
            })
            .cloned()
            .collect();
        assert_eq!(own, headers, "{status}");
        let expected = match status {
            204 | 304 => String::new(),
            _ => format!("body of {status}"),
        };
        assert_eq!(response.text(), expected, "{status}");
        let length = response.header("content-length");
        match status {
            204 | 304 => assert_eq!(length, None, "{status}"),
            _ => assert_eq!(length, Some(&*expected.len().to_string()), "{status}"),
        }
    }
    let requests = app.requests();
    assert_eq!(requests.len(), statuses.len());
    for request in requests {
        assert_eq!((&*request.method, &*request.target), ("POST", "/app"));
        assert_eq!(
            request.header("x-quantiv-signature"),
            Some(&*signature(&request.body))
        );
        assert_eq!(request.header("hooklatch-verified"), Some("true"));
        assert_eq!(request.header("hooklatch-attempt"), Some("1"));
    }
}

#[test]
fn bodies_arrive_byte_for_byte_sized_and_chunked() {
    let app = App::start([]);
    let gateway = Gateway::start(&config(
        app.address(),
        "limits = { body_bytes = \"21MiB\" }",
        "",
        "timeout = \"10s\"",
    ));
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1 << 20, 20 << 20];
    let mut connection = Connection::open(gateway.listen()).unwrap();
    for (index, size) in sizes.into_iter().enumerate() {
        let body = body_of(size);
        let response = connection
            .post(PATH, &[("X-Quantiv-Signature", &signature(&body))], &body)
            .unwrap();
        assert_eq!(response.status, 200, "{size} sized");
        let requests = app.wait_for(2 * index + 1);
        assert_eq!(sha256(&requests[2 * index].body), sha256(&body), "{size} sized");

        // Not the same body again: it would be a duplicate.
        let mut body = body;
        body.push(b'c');
        connection.write(&chunked(&body)).unwrap();
        let response = connection.read_response().unwrap();
        assert_eq!(response.status, 200, "{size} chunked");
        let requests = app.wait_for(2 * index + 2);
        let request = &requests[2 * index + 1];
        assert_eq!(sha256(&request.body), sha256(&body), "{size} chunked");
        assert_eq!(request.header("content-length"), Some(&*body.len().to_string()));
        assert_eq!(request.header("transfer-encoding"), None);
    }
}

/// The request in chunks of many sizes, with extensions and a trailer.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nX-Quantiv-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        signature(body)
    )
    .into_bytes();
    let mut rest = body;
    for size in [1, 7, 4096, 65_536, 100_000].into_iter().cycle() {
        let (chunk, after) = rest.split_at(rest.len().min(size));
        if chunk.is_empty() {
            break;
        }
        let mut line = String::new();
        write!(line, "{:X};part\r\n", chunk.len()).unwrap();
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
    bytes
}

#[test]
fn large_answers_come_whole_however_they_are_framed() {
    let large = body_of(1 << 20);
    let mut chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n".to_vec();
    for chunk in large.chunks(70_000) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let mut until_close = b"HTTP/1.0 200 OK\r\nX-Kept: 1\r\n\r\n".to_vec();
    until_close.extend_from_slice(&large);
    let kept = vec![("X-Kept".to_owned(), "1".to_owned())];
    let app = App::start([
        Reply::Full(200, kept, large.clone()),
        Reply::Raw(chunks),
        Reply::Raw(until_close),
    ]);
    let gateway = start(&app);
    for framing in ["sized", "chunked", "until close"] {
        let response = send(&gateway, format!(r#"{{"id":"{framing}"}}"#).as_bytes());
        assert_eq!(response.status, 200, "{framing}");
        assert_eq!(sha256(&response.body), sha256(&large), "{framing}");
        assert_eq!(response.header("x-kept"), Some("1"), "{framing}");
        assert_eq!(response.header("content-length"), Some("1048576"), "{framing}");
    }
}

#[test]
fn safe_methods_are_asked_each_time_and_head_has_no_body() {
    let app = App::with(|request| match &*request.method {
        "HEAD" => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-Kept: 1\r\n\r\n".to_vec()),
        _ => Reply::Full(200, vec![], b"hello".to_vec()),
    });
    let gateway = Gateway::start(&config(
        app.address(),
        "",
        r#"methods = ["GET", "HEAD", "POST"]"#,
        "",
    ));
    for round in 1..=2 {
        let text = String::from_utf8(send_raw(gateway.listen(), &raw("GET", b""))).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(text.ends_with("\r\n\r\nhello"), "{text}");
        let text = String::from_utf8(send_raw(gateway.listen(), &raw("HEAD", b""))).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        // What a GET would give, not what came with this answer.
        assert!(!text.to_ascii_lowercase().contains("content-length: 0"), "{text}");
        assert_eq!(app.requests().len(), 2 * round);
    }
    // An empty POST is an event like any other.
    assert_eq!(send(&gateway, b"").status, 200);
    assert!(is_duplicate(&send(&gateway, b"")));
    assert_eq!(app.requests().len(), 5);
    let other = send_raw(gateway.listen(), &raw("PUT", b""));
    assert!(other.starts_with(b"HTTP/1.1 405 "));
}

#[test]
fn a_forged_request_reaches_no_app_and_takes_no_key() {
    let app = App::start([]);
    let gateway = start(&app);
    let body = br#"{"id":"forged"}"#;
    let forged = Connection::open(gateway.listen())
        .and_then(|mut connection| {
            connection.post(PATH, &[("X-Quantiv-Signature", &hmac_hex(b"other", body))], body)
        })
        .unwrap();
    assert_eq!(forged.status, 401);
    assert!(app.requests().is_empty());
    assert_eq!(send(&gateway, body).text(), "");
    assert_eq!(app.requests().len(), 1);
}
