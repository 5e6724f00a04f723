//! The client towards the app against an upstream that does everything wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test and its helpers stop at the first surprise"
)]

use std::time::Duration;

use hooklatch::upstream::{Answer, CallError, Client, Endpoint, Limits, Request};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::fault_server::FaultServer;

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(crate) const MIB: usize = 1024 * 1024;

/// Long enough for a loaded machine, short enough to end; the phases under test set their own.
pub(crate) fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        tls: Duration::from_secs(5),
        write: Duration::from_secs(10),
        first_byte: Duration::from_secs(10),
        whole: Duration::from_secs(20),
        head_bytes_max: 16 * 1024,
        body_bytes_max: 32 * MIB,
        keep_body: true,
    }
}

pub(crate) fn dropping() -> Limits {
    Limits {
        keep_body: false,
        ..limits()
    }
}

pub(crate) fn client() -> Client {
    Client::new(Duration::from_secs(4), 64)
}

pub(crate) fn endpoint(url: &str) -> Endpoint {
    url.parse().unwrap()
}

pub(crate) fn head(body_bytes: usize) -> String {
    format!("POST /hooks HTTP/1.1\r\nHost: app\r\nContent-Length: {body_bytes}\r\n\r\n")
}

pub(crate) async fn post(
    client: &Client,
    url: &str,
    body: &[u8],
    limits: &Limits,
) -> Result<Answer, CallError> {
    let head = head(body.len());
    let request = Request {
        head: head.as_bytes(),
        body,
        is_head: false,
    };
    client.call(&endpoint(url), request, limits).await
}

/// One call with a new client to an upstream that writes `answer` to each request.
async fn answer_to(answer: impl Into<Vec<u8>>, close: bool, limits: &Limits) -> Result<Answer, CallError> {
    let server = FaultServer::answering(answer, close).await;
    post(&client(), &server.url("/"), b"{}", limits).await
}

/// Bytes without a period that a shift would hide in.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(count)
    .collect()
}

#[tokio::test]
async fn usable_answers() {
    let cases = [
        ("length", OK, false, 200, &b"ok"[..]),
        ("empty", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, b""),
        ("no reason", b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", false, 201, b""),
        ("500", b"HTTP/1.1 500 x\r\nContent-Length: 1\r\n\r\nx", false, 500, b"x"),
        ("503 and close", b"HTTP/1.1 503 x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", true, 503, b"x"),
        ("302 is not followed", b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", false, 302, b""),
        ("until close", b"HTTP/1.1 200 OK\r\n\r\nto the end", true, 200, b"to the end"),
        ("until close, nothing", b"HTTP/1.1 200 OK\r\n\r\n", true, 200, b""),
        ("1.0", b"HTTP/1.0 200 OK\r\n\r\nold", true, 200, b"old"),
        ("1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", true, 200, b"old"),
        ("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nT: u\r\n\r\n", false, 200, b"abc"),
        ("204", b"HTTP/1.1 204 x\r\n\r\n", false, 204, b""),
        ("304 with a length", b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", false, 304, b""),
        ("204 with a body all the same", b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\nno", false, 204, b""),
        ("after 100 and 103", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, b"ok"),
        ("equal lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", false, 200, b"ok"),
    ];
    for (name, answer, close, status, body) in cases {
        let got = answer_to(answer, close, &limits())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((got.status, &got.body[..]), (status, body), "{name}");
        let got = answer_to(answer, close, &dropping())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (got.status, &got.body[..]),
            (status, &b""[..]),
            "{name}, thrown away"
        );
    }
}

#[tokio::test]
async fn answers_cut_at_every_byte() {
    let answer: &'static [u8] =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n";
    let (next, mut cuts) = mpsc::channel::<usize>(1);
    let server = FaultServer::start(move |mut peer| {
        // Each connection serves one cut, its own number.
        let next = next.clone();
        async move {
            peer.request().await.unwrap();
            let (first, second) = answer.split_at(peer.index);
            peer.write(first).await;
            // The client has read the first part once the runtime had nothing else to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
            peer.write(second).await;
            next.send(peer.index).await.unwrap();
        }
    })
    .await;
    for cut in 0..answer.len() {
        let client = Client::new(Duration::ZERO, 0);
        let got = post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
        assert_eq!((got.status, &got.body[..]), (200, &b"abcde"[..]), "{cut}");
        assert_eq!(cuts.recv().await, Some(cut));
    }
}

#[tokio::test]
async fn unusable_answers() {
    let chunked =
        |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    let head_only = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes();
    for (name, answer) in [
        ("not HTTP", b"SSH-2.0-x\r\n".to_vec()),
        ("HTTP/2 preface", b"HTTP/2.0 200 OK\r\n\r\n".to_vec()),
        ("101", b"HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n".to_vec()),
        (
            "status 600",
            b"HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        ("header without colon", head_only("nonsense\r\n")),
        ("101 headers", head_only(&"a: b\r\n".repeat(101))),
        (
            "both framings",
            head_only("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "two lengths",
            head_only("Content-Length: 2\r\nContent-Length: 3\r\n"),
        ),
        ("21 interim answers", b"HTTP/1.1 103 x\r\n\r\n".repeat(21)),
        ("chunk size", chunked("x\r\n")),
        ("chunk bare LF", chunked("1\na\r\n0\r\n\r\n")),
        ("chunk negative", chunked("-1\r\n")),
        ("chunk size endless", chunked(&"0".repeat(100))),
    ] {
        let got = answer_to(answer, false, &limits()).await;
        assert!(matches!(got, Err(CallError::BadAnswer(_))), "{name}: {got:?}");
    }
}

#[tokio::test]
async fn a_broken_body_behind_a_whole_head_is_the_deliverys_status_and_the_proxys_error() {
    for (name, answer) in [
        ("short", &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"[..]),
        (
            "bad chunk",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        ),
        (
            "no last chunk",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        ),
    ] {
        let got = answer_to(answer, true, &limits()).await;
        assert!(
            matches!(got, Err(CallError::Broken { .. } | CallError::BadAnswer(_))),
            "{name}: {got:?}"
        );
        let got = answer_to(answer, true, &dropping()).await.unwrap();
        assert_eq!(got.status, 200, "{name}");
    }
}

#[tokio::test]
async fn caps() {
    let small = Limits {
        body_bytes_max: 10,
        head_bytes_max: 200,
        ..limits()
    };
    let long_head = format!(
        "HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(300)
    );
    let endless_head = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(300));
    let interims = b"HTTP/1.1 103 x\r\nLink: yyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n".repeat(15);
    for (name, answer, close, cap) in [
        ("long head", long_head.into_bytes(), false, 200),
        ("endless head", endless_head.into_bytes(), false, 200),
        ("interim heads together", interims, false, 200),
    ] {
        for limits in [
            small,
            Limits {
                keep_body: false,
                ..small
            },
        ] {
            let got = answer_to(answer.clone(), close, &limits).await;
            assert!(
                matches!(got, Err(CallError::AnswerTooLarge(got)) if got == cap),
                "{name}: {got:?}"
            );
        }
    }
    for (name, answer, close, fits) in [
        (
            "length at the cap",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"[..],
            false,
            true,
        ),
        (
            "length over it",
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n0123456789x",
            false,
            false,
        ),
        (
            "chunks at the cap",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
            false,
            true,
        ),
        (
            "chunks over it",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n1\r\nx",
            false,
            false,
        ),
        (
            "to close at the cap",
            b"HTTP/1.1 200 OK\r\n\r\n0123456789",
            true,
            true,
        ),
        (
            "to close over it",
            b"HTTP/1.1 200 OK\r\n\r\n0123456789x",
            true,
            false,
        ),
    ] {
        let got = answer_to(answer, close, &small).await;
        match got {
            Ok(answer) => assert!(fits && answer.body == "0123456789", "{name}: {answer:?}"),
            Err(error) => assert!(!fits && error == CallError::AnswerTooLarge(10), "{name}: {error}"),
        }
        let got = answer_to(
            answer,
            close,
            &Limits {
                keep_body: false,
                ..small
            },
        )
        .await
        .unwrap();
        assert_eq!(got.status, 200, "{name}");
    }
}

#[tokio::test]
async fn an_endless_body_ends_at_the_cap() {
    let server = FaultServer::start(|mut peer| async move {
        peer.request().await.unwrap();
        peer.write(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while peer.stream.write_all(&[b'x'; 65536]).await.is_ok() {}
    })
    .await;
    let cap = Limits {
        body_bytes_max: MIB,
        ..limits()
    };
    let got = post(&client(), &server.url("/"), b"{}", &cap).await;
    assert_eq!(got.unwrap_err(), CallError::AnswerTooLarge(MIB));
    let got = post(
        &client(),
        &server.url("/"),
        b"{}",
        &Limits {
            keep_body: false,
            ..cap
        },
    )
    .await;
    assert_eq!(got.unwrap().status, 200);
}

#[tokio::test]
async fn head_has_no_body_and_keeps_the_connection() {
    let server = FaultServer::answering(&b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"[..], false).await;
    let client = client();
    for _ in 0..3 {
        let request = Request {
            head: b"HEAD / HTTP/1.1\r\nHost: app\r\n\r\n",
            body: b"",
            is_head: true,
        };
        let got = client
            .call(&endpoint(&server.url("/")), request, &limits())
            .await
            .unwrap();
        assert_eq!(
            (got.status, got.body.len(), got.header("content-LENGTH")),
            (200, 0, Some(&b"500"[..]))
        );
    }
    assert_eq!((server.connections(), server.requests()), (1, 3));
}

#[tokio::test]
async fn headers_keep_name_order_and_bytes() {
    let answer = b"HTTP/1.1 200 OK\r\nX-b: 1\r\nx-B:  \xe92 \r\nEmpty:\r\nContent-Length: 0\r\n\r\n";
    let got = answer_to(&answer[..], false, &limits()).await.unwrap();
    let headers: Vec<(&[u8], &[u8])> = got
        .headers
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    let expected: [(&[u8], &[u8]); 4] = [
        (b"X-b", b"1"),
        (b"x-B", b"\xe92"),
        (b"Empty", b""),
        (b"Content-Length", b"0"),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn the_request_arrives_byte_for_byte() {
    for size in [0, 1, 1024, MIB, 20 * MIB] {
        let (got, mut arrived) = mpsc::channel(1);
        let server = FaultServer::start(move |mut peer| {
            let got = got.clone();
            async move {
                while let Some(request) = peer.request().await {
                    got.send(request).await.unwrap();
                    peer.write(OK).await;
                }
            }
        })
        .await;
        let body = noise(size);
        let (client, url, limits) = (client(), server.url("/"), limits());
        for _ in 0..2 {
            let (answer, request) = tokio::join!(post(&client, &url, &body, &limits), arrived.recv());
            let request = request.unwrap();
            assert_eq!(answer.unwrap().status, 200, "{size}");
            assert_eq!(request.head, head(size), "{size}");
            assert!(request.body == body, "{size}");
        }
        assert_eq!(server.connections(), 1, "{size}");
    }
}

#[tokio::test]
async fn a_large_answer_arrives_byte_for_byte() {
    let body = noise(20 * MIB);
    let mut framed = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    framed.extend_from_slice(&body);
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in body.chunks(70_001) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    for answer in [framed, chunked] {
        let got = answer_to(answer, false, &limits()).await.unwrap();
        assert!(got.body == body);
    }
}
