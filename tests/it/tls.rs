//! The TLS listener: HTTP/2 and HTTP/1.1 by ALPN, the limits over HTTP/2, and the certificate's life.

mod client;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::client::{Identity, request};
use crate::support::{App, Gateway, Launch, PATIENCE, Reply, hmac_hex, sha256, wait_for};

const QUEUE: &str = "/hooks/queue";
const PROXY: &str = "/hooks/proxy";

/// A gateway with TLS from `certs`, one queue route and one proxy route.
fn config(app: &App, certs: &Path, top: &str) -> String {
    let app = app.address();
    format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"
tls = {{ cert = {cert:?}, key = {key:?} }}
{top}

[store]
path = "{{dir}}/store"
allow_ephemeral = true

[admin]
listen = "127.0.0.1:0"

[secrets]
quantiv = {{ value = "secret" }}

[[route]]
path = "{QUEUE}"
provider = "quantiv"
secrets = ["quantiv"]
upstream = {{ url = "http://{app}/queue" }}

[[route]]
path = "{PROXY}"
methods = ["POST", "GET", "HEAD"]
mode = "proxy"
provider = "quantiv"
secrets = ["quantiv"]
upstream = {{ url = "http://{app}/proxy" }}
"#,
        cert = certs.join("cert.pem"),
        key = certs.join("key.pem"),
    )
}

struct Rig {
    app: App,
    identity: Identity,
    certs: tempfile::TempDir,
    gateway: Gateway,
}

impl Rig {
    fn new(app: App, top: &str) -> Self {
        let (identity, certs) = (Identity::new(), tempfile::tempdir().unwrap());
        identity.write(certs.path());
        let gateway = Gateway::start(&config(&app, certs.path(), top));
        Self {
            app,
            identity,
            certs,
            gateway,
        }
    }

    async fn http2(&self) -> client::Http2 {
        self.identity.http2(self.gateway.listen()).await
    }
}

fn signature(body: &[u8]) -> String {
    hmac_hex(b"secret", body)
}

fn genuine(path: &str, body: &[u8]) -> http::Request<()> {
    request("POST", path, &[("x-quantiv-signature", &signature(body))])
}

#[tokio::test]
async fn genuine_forged_and_repeated_over_http2() {
    let rig = Rig::new(App::start([]), "");
    let connection = rig.http2().await;
    let body = br#"{"id":"h2","event":"lead.created"}"#;
    let forged = request(
        "POST",
        QUEUE,
        &[("x-quantiv-signature", &hmac_hex(b"other", body))],
    );
    let answer = connection.send(forged, body).await.unwrap();
    assert_eq!(
        (answer.status, &*answer.text()),
        (401, r#"{"error":"Invalid signature"}"#)
    );
    let unsigned = connection.send(request("POST", QUEUE, &[]), body).await.unwrap();
    assert_eq!(unsigned.status, 400);
    let answer = connection.send(genuine(QUEUE, body), body).await.unwrap();
    assert_eq!((answer.status, &*answer.text()), (200, r#"{"received":true}"#));
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
    let again = connection.send(genuine(QUEUE, body), body).await.unwrap();
    assert_eq!(
        (again.status, &*again.text()),
        (200, r#"{"received":true,"duplicate":true}"#)
    );
    let requests = rig.app.wait_for(1);
    assert_eq!(requests[0].body, body);
    assert_eq!(requests[0].header("x-forwarded-proto"), Some("https"));
    assert_eq!(requests[0].header("x-forwarded-host"), Some("hooks.example"));
    assert_eq!(requests[0].header("hooklatch-event-type"), Some("lead.created"));
    // Another sender, another protocol, the same event.
    let mut plain = rig
        .identity
        .connect(rig.gateway.listen(), &["http/1.1"])
        .await
        .unwrap();
    let head = format!(
        "POST {QUEUE} HTTP/1.1\r\nHost: hooks.example\r\nConnection: close\r\nX-Quantiv-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        signature(body),
        body.len()
    );
    plain.write_all(head.as_bytes()).await.unwrap();
    plain.write_all(body).await.unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("duplicate"),
        "{text}"
    );
    assert_eq!(rig.app.requests().len(), 1);
}

#[tokio::test]
async fn without_alpn_it_is_http_1() {
    let rig = Rig::new(App::start([]), "");
    let mut stream = rig.identity.connect(rig.gateway.listen(), &[]).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: hooks.example\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
    // Plain HTTP to a TLS port gets nothing and hurts nobody.
    let mut plain = tokio::net::TcpStream::connect(rig.gateway.listen())
        .await
        .unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut bytes = Vec::new();
    drop(plain.read_to_end(&mut bytes).await);
    assert!(!bytes.starts_with(b"HTTP/"), "{bytes:?}");
    assert!(rig.identity.connect(rig.gateway.listen(), &["h2"]).await.is_ok());
}

#[tokio::test]
async fn bodies_are_byte_exact_over_http2() {
    let large = vec![7; 1 << 20];
    let answer = large.clone();
    let app = App::with(move |_| {
        Reply::Full(
            200,
            vec![("X-Dup".into(), "1".into()), ("X-Dup".into(), "2".into())],
            answer.clone(),
        )
    });
    let rig = Rig::new(app, "limits = { body_bytes = \"21MiB\" }");
    let connection = rig.http2().await;
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1 << 20, 20 << 20];
    for (index, size) in sizes.into_iter().enumerate() {
        for (turn, with_length) in [true, false].into_iter().enumerate() {
            let mut rng = fastrand::Rng::with_seed((2 * index + turn) as u64);
            let body: Vec<u8> = (0..size + turn).map(|_| rng.u8(..)).collect();
            let mut request = genuine(PROXY, &body);
            if with_length {
                request
                    .headers_mut()
                    .insert("content-length", body.len().to_string().parse().unwrap());
            }
            let answer = connection.send(request, &body).await.unwrap();
            assert_eq!(answer.status, 200, "{size} {with_length}: {}", answer.text());
            assert_eq!(answer.body.len(), large.len(), "{size} {with_length}");
            assert_eq!(answer.headers.get_all("x-dup").iter().count(), 2);
            let requests = rig.app.wait_for(2 * index + turn + 1);
            let got = &requests[2 * index + turn];
            assert_eq!(sha256(&got.body), sha256(&body), "{size} {with_length}");
            assert_eq!(got.header("content-length"), Some(&*body.len().to_string()));
        }
    }
}

#[tokio::test]
async fn the_limits_hold_over_http2() {
    let rig = Rig::new(
        App::start([]),
        "limits = { body_bytes = \"100KiB\", body_timeout = \"400ms\" }",
    );
    let connection = rig.http2().await;
    let large = vec![b'x'; 300 << 10];
    let mut declared = genuine(QUEUE, &large);
    declared
        .headers_mut()
        .insert("content-length", large.len().to_string().parse().unwrap());
    let huge = "x".repeat(40 << 10);
    let many: Vec<(String, &str)> = (0..150).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for (name, request, body, status) in [
        ("too large, undeclared", genuine(QUEUE, &large), &large[..], 413),
        ("too large, declared", declared, &large[..], 413),
        ("unknown path", genuine("/nowhere", b"{}"), b"{}", 404),
        ("dots", genuine("/hooks/../hooks/queue", b"{}"), b"{}", 404),
        ("other method", request("PUT", QUEUE, &[]), b"", 405),
        ("HEAD elsewhere", request("HEAD", "/nowhere", &[]), b"", 404),
        (
            "header list too large",
            request("POST", QUEUE, &[("x-huge", &huge)]),
            b"",
            431,
        ),
        ("too many fields", request("POST", QUEUE, &many), b"", 431),
    ] {
        let is_head = request.method() == http::Method::HEAD;
        let answer = connection.send(request, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        assert!(!is_head || answer.body.is_empty(), "{name}");
    }
    // A body that never ends.
    let began = Instant::now();
    let (response, _stream) = connection.begin(genuine(QUEUE, b"{}"), b"{", false).await;
    assert_eq!(response.await.unwrap().status(), 408);
    assert!(began.elapsed() < Duration::from_secs(3));
    // Fewer bytes than declared: never taken.
    let mut short = genuine(QUEUE, b"{}");
    short.headers_mut().insert("content-length", "5".parse().unwrap());
    let (response, _stream) = connection.begin(short, b"{}", true).await;
    assert!(response.await.map_or(true, |response| response.status() == 400));
    // The connection lives on.
    let body = br#"{"id":"after"}"#;
    assert_eq!(
        connection.send(genuine(QUEUE, body), body).await.unwrap().status,
        200
    );
    rig.app.wait_for(1);
    assert_eq!(rig.app.requests().len(), 1);
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let rig = Rig::new(App::start([]), "");
    let connection = rig.http2().await;
    let body = br#"{"id":"host"}"#;
    let relative = |headers: &[(&str, &str)]| {
        let mut request = genuine(PROXY, body);
        *request.uri_mut() = PROXY.parse().unwrap();
        // The library sends such a request only as one forwarded from HTTP/1.
        *request.version_mut() = http::Version::HTTP_11;
        for (name, value) in headers {
            request.headers_mut().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        request
    };
    assert_eq!(connection.send(relative(&[]), body).await.unwrap().status, 400);
    let two = relative(&[("host", "a.example"), ("host", "b.example")]);
    assert_eq!(connection.send(two, body).await.unwrap().status, 400);
    // RFC 9113, 8.3.1: without :authority, Host says it.
    let one = relative(&[("host", "a.example")]);
    assert_eq!(connection.send(one, body).await.unwrap().status, 200);
    let requests = rig.app.wait_for(1);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("x-forwarded-host"), Some("a.example"));
    let mut differing = genuine(PROXY, body);
    differing
        .headers_mut()
        .insert("host", "evil.example".parse().unwrap());
    assert_eq!(connection.send(differing, body).await.unwrap().status, 400);
    assert_eq!(rig.app.requests().len(), 1);
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let app = App::with(|request| match &*request.method {
        "POST" => Reply::Raw(b"HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n".to_vec()),
        _ => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec()),
    });
    let rig = Rig::new(app, "");
    let connection = rig.http2().await;
    for (method, status) in [("POST", 204), ("HEAD", 200)] {
        let request = request(method, PROXY, &[("x-quantiv-signature", &signature(b""))]);
        let answer = connection.send(request, b"").await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{method}");
        assert_eq!(answer.headers.get("content-length"), None, "{method}");
    }
}

#[tokio::test]
async fn many_streams_at_once() {
    let rig = Rig::new(App::start([]), "");
    let connection = std::sync::Arc::new(rig.http2().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300 {
        let connection = connection.clone();
        tasks.spawn(async move {
            let body = format!(r#"{{"id":"stream-{n}"}}"#);
            let forged = n % 3 == 0;
            let mut request = genuine(QUEUE, body.as_bytes());
            if forged {
                request
                    .headers_mut()
                    .insert("x-quantiv-signature", hmac_hex(b"other", b"").parse().unwrap());
            }
            let answer = connection.send(request, body.as_bytes()).await.unwrap();
            (forged, answer.status)
        });
    }
    for (forged, status) in tasks.join_all().await {
        match forged {
            // The address has spent its budget towards the end.
            true => assert!([401, 429].contains(&status), "{status}"),
            false => assert_eq!(status, 200),
        }
    }
    rig.app.wait_for(200);
}

#[tokio::test]
async fn a_silent_http2_connection_is_ended() {
    let rig = Rig::new(App::start([]), "limits = { header_timeout = \"300ms\" }");
    for preface in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let mut stream = rig.identity.connect(rig.gateway.listen(), &["h2"]).await.unwrap();
        stream.write_all(preface).await.unwrap();
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "open after {} bytes", preface.len());
    }
}

#[tokio::test]
async fn an_idle_http2_connection_is_ended() {
    let rig = Rig::new(App::start([]), "limits = { keepalive = \"300ms\" }");
    let connection = rig.http2().await;
    let answer = connection
        .send(request("GET", "/nowhere", &[]), b"")
        .await
        .unwrap();
    assert_eq!(answer.status, 404);
    connection.ended().await;
}

#[tokio::test]
async fn a_stop_ends_http2_connections_and_their_last_answers_arrive() {
    let (told, tell) = std::sync::mpsc::sync_channel::<()>(1);
    let tell = std::sync::Mutex::new(tell);
    let app = App::with(move |_| {
        tell.lock().unwrap().recv().unwrap();
        Reply::Full(200, vec![], vec![b'x'; 4 << 20])
    });
    let mut rig = Rig::new(app, "");
    let (busy, idle) = (rig.http2().await, rig.http2().await);
    let body = br#"{"id":"late"}"#;
    assert_eq!(
        idle.send(request("GET", "/nowhere", &[]), b"")
            .await
            .unwrap()
            .status,
        404
    );
    let busy = std::sync::Arc::new(busy);
    let sender = busy.clone();
    let answer = tokio::spawn(async move { sender.send(genuine(PROXY, body), body).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.gateway.signal(Signal::TERM);
    idle.ended().await;
    assert!(!answer.is_finished());
    told.send(()).unwrap();
    let began = Instant::now();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 4 << 20));
    let gateway = &mut rig.gateway;
    let status = gateway.wait();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_reload_takes_a_new_certificate_or_keeps_the_old() {
    let rig = Rig::new(App::start([]), "");
    let old = rig.http2().await;
    let next = Identity::new();
    // Half a change: the certificate is the old one still.
    next.write_key(rig.certs.path());
    rig.gateway.signal(Signal::HUP);
    wait_for_log(&rig.gateway, "cannot be used together");
    let listen = rig.gateway.listen();
    assert!(rig.identity.connect(listen, &["h2"]).await.is_ok());
    next.write(rig.certs.path());
    rig.gateway.signal(Signal::HUP);
    wait_for_log(&rig.gateway, "configuration reloaded");
    let new = next.http2(listen).await;
    assert!(rig.identity.connect(listen, &["h2"]).await.is_err());
    for (id, connection) in [("old", old), ("new", new)] {
        let body = format!(r#"{{"id":"{id}"}}"#);
        let request = genuine(QUEUE, body.as_bytes());
        assert_eq!(
            connection.send(request, body.as_bytes()).await.unwrap().status,
            200,
            "{id}"
        );
    }
}

fn wait_for_log(gateway: &Gateway, text: &str) {
    let found = wait_for(PATIENCE, || gateway.log().contains(text).then_some(()));
    assert!(found.is_some(), "no {text:?} in the log");
}

#[test]
fn unusable_certificates_stop_the_start_and_say_why() {
    let app = App::start([]);
    let certs = tempfile::tempdir().unwrap();
    let write = |cert: &str, key: &str| {
        std::fs::write(certs.path().join("cert.pem"), cert).unwrap();
        std::fs::write(certs.path().join("key.pem"), key).unwrap();
    };
    Identity::new().write(certs.path());
    let read = |name: &str| std::fs::read_to_string(certs.path().join(name)).unwrap();
    let (cert, key) = (read("cert.pem"), read("key.pem"));
    Identity::new().write_key(certs.path());
    let other_key = read("key.pem");
    let broken = cert.replacen("MII", "NJJ", 1);
    for (name, cert, key, says) in [
        ("another's key", &*cert, &*other_key, "cannot be used together"),
        ("no PEM", "nothing", &*key, "certificate chain"),
        ("swapped", &*key, &*cert, "certificate chain"),
        ("no key", &*cert, "", "private key"),
        ("broken certificate", &*broken, &*key, "cert"),
    ] {
        write(cert, key);
        let ended = Launch::new(&config(&app, certs.path(), ""))
            .try_start()
            .unwrap_err();
        assert_eq!(ended.status.unwrap().code(), Some(1), "{name}: {}", ended.log);
        assert!(ended.log.contains(says), "{name}: {}", ended.log);
        assert!(!ended.log.contains("panicked"), "{name}: {}", ended.log);
        let secret_line = key.lines().nth(1).unwrap_or("none");
        assert!(!ended.log.contains(secret_line), "{name}: {}", ended.log);
    }
}
