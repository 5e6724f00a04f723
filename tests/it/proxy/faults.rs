//! What the app can do wrong, and that no key is taken by it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{config, is_duplicate, send};
use crate::support::{App, Gateway, Reply};

#[test]
fn our_5xx_takes_no_key_and_the_retry_is_forwarded() {
    let long = Reply::Full(200, vec![], vec![b'x'; 3000]);
    let raw = |text: &str| Reply::Raw(text.as_bytes().to_vec());
    let mut endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    endless.extend_from_slice(format!("{:x}\r\n{}\r\n", 3000, "x".repeat(3000)).as_bytes());
    for (name, reply, status) in [
        ("answer over the cap, sized", long, 502),
        ("answer over the cap, chunked", Reply::Raw(endless), 502),
        ("closed without an answer", Reply::Close, 502),
        ("garbage", raw("SSH-2.0-OpenSSH_9.2\r\n"), 502),
        ("broken head", raw("HTTP/1.1 two hundred\r\n\r\n"), 502),
        (
            "answer cut short",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
            502,
        ),
        (
            "chunks cut short",
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nhalf"),
            502,
        ),
        (
            "two framings",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            502,
        ),
        ("switches protocols", raw("HTTP/1.1 101 Switching\r\n\r\n"), 502),
        ("hangs", Reply::Hang, 504),
        ("its own 500", Reply::Status(500), 500),
        ("its own 409", Reply::Status(409), 409),
    ] {
        let app = App::start([reply]);
        let gateway = Gateway::start(&config(
            app.address(),
            "",
            "",
            r#"timeout = "400ms", max_answer = "2KiB""#,
        ));
        let body = br#"{"id":"fault"}"#;
        let first = send(&gateway, body);
        assert_eq!(first.status, status, "{name}: {}", first.text());
        let again = send(&gateway, body);
        assert_eq!(
            (again.status, &*again.text()),
            (200, ""),
            "{name}: forwarded again"
        );
        assert_eq!(app.requests().len(), 2, "{name}");
        assert!(is_duplicate(&send(&gateway, body)), "{name}");
        assert_eq!(app.requests().len(), 2, "{name}");
    }
}

#[test]
fn refused_and_reset_connections_are_502() {
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = refusing.local_addr().unwrap();
    drop(refusing);
    let gateway = Gateway::start(&config(address, "", "", ""));
    let response = send(&gateway, b"{}");
    assert_eq!(response.status, 502, "refused");
    // Whoever reads it learns nothing of the inside.
    assert!(!response.text().contains("127.0.0.1"), "{}", response.text());

    // Closing with bytes unread resets.
    let (address, calls) = scripted(|mut stream, _| {
        let mut some = [0; 10];
        stream.read_exact(&mut some).unwrap();
    });
    let gateway = Gateway::start(&config(address, "", "", ""));
    assert_eq!(send(&gateway, b"{}").status, 502, "reset");
    // A fresh connection that breaks is never tried again: the app may have taken the event.
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slow_answer_counts_against_the_whole_call() {
    let (address, _) = scripted(|mut stream, _| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"));
        for _ in 0..1000 {
            if stream.write_all(b"x").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let gateway = Gateway::start(&config(address, "", "", r#"timeout = "300ms""#));
    let began = Instant::now();
    assert_eq!(send(&gateway, b"{}").status, 504);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn interim_answers_are_not_the_answer() {
    let early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
    let app = App::start([Reply::Raw(early.to_vec())]);
    let gateway = Gateway::start(&config(app.address(), "", "", ""));
    let response = send(&gateway, b"{}");
    assert_eq!((response.status, &*response.text()), (201, "ok"));
    assert_eq!(response.header("link"), None);
}

/// A kept connection that the app closed meanwhile costs no event: it is replaced, once.
#[test]
fn an_old_connection_is_replaced() {
    let (address, calls) = scripted(|mut stream, call| {
        read_request(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
        if call == 0 {
            // The second request comes and is not read.
            stream.peek(&mut [0]).unwrap();
        }
    });
    let gateway = Gateway::start(&config(address, "", "", ""));
    for id in 1..=2 {
        let response = send(&gateway, format!(r#"{{"id":{id}}}"#).as_bytes());
        assert_eq!((response.status, &*response.text()), (200, "ok"), "{id}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// Also on a kept connection: the app may have acted on what it has read, and a second request is its sender's to send.
#[test]
fn what_the_app_has_read_is_not_sent_again() {
    let (address, calls) = scripted(|mut stream, call| {
        read_request(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
        if call == 0 {
            read_request(&mut stream);
        }
    });
    let gateway = Gateway::start(&config(address, "", "", ""));
    for (id, status, connections) in [(1, 200, 1), (2, 502, 1), (2, 200, 2)] {
        let response = send(&gateway, format!(r#"{{"id":{id}}}"#).as_bytes());
        assert_eq!(response.status, status, "{id}");
        assert_eq!(calls.load(Ordering::SeqCst), connections, "{id}");
    }
}

/// Runs `script` for each connection, with its number from 0; also gives the count of connections.
fn scripted(
    script: impl Fn(std::net::TcpStream, usize) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, script) = (calls.clone(), Arc::new(script));
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            let script = script.clone();
            std::thread::spawn(move || script(stream, call));
        }
    });
    (address, calls)
}

/// Reads a request with a small body, which comes in one write.
fn read_request(stream: &mut std::net::TcpStream) {
    let mut bytes = Vec::new();
    let mut some = [0; 4096];
    while !bytes.ends_with(b"}") {
        match stream.read(&mut some) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&some[..count]),
        }
    }
}
