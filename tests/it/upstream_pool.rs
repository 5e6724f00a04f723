//! What the client towards the app does with used connections, and with none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test and its helpers stop at the first surprise"
)]

use std::sync::Arc;
use std::time::Duration;

use hooklatch::upstream::{CallError, Client, Limits};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc};

use crate::fault_server::FaultServer;
use crate::upstream::{OK, client, limits, post};

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let server = FaultServer::answering(OK, false).await;
    let client = client();
    for _ in 0..100 {
        assert_eq!(
            post(&client, &server.url("/"), b"{}", &limits())
                .await
                .unwrap()
                .body,
            "ok"
        );
    }
    assert_eq!((server.connections(), server.requests()), (1, 100));
}

#[tokio::test]
async fn only_a_clean_connection_is_used_again() {
    for (name, answer) in [
        (
            "close",
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..],
        ),
        ("1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (
            "left over",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
        ),
        ("204 with a body", b"HTTP/1.1 204 x\r\n\r\nno"),
        (
            "chunked, left over",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
        ),
    ] {
        let server = FaultServer::answering(answer, false).await;
        let client = client();
        for _ in 0..3 {
            let status = post(&client, &server.url("/"), b"{}", &limits())
                .await
                .unwrap()
                .status;
            assert!(status < 300, "{name}: {status}");
        }
        assert_eq!((server.connections(), server.requests()), (3, 3), "{name}");
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_and_the_request_arrives_once() {
    let server = FaultServer::answering(OK, true).await;
    let client = client();
    for _ in 0..50 {
        assert_eq!(
            post(&client, &server.url("/"), b"{}", &limits())
                .await
                .unwrap()
                .status,
            200
        );
    }
    assert_eq!((server.connections(), server.requests()), (50, 50));
}

#[tokio::test]
async fn a_used_connection_that_ends_before_an_answer_is_replaced_once() {
    for (name, reset, large) in [
        ("closed", false, false),
        ("reset", true, false),
        ("while writing", true, true),
    ] {
        let server = FaultServer::start(move |mut peer| async move {
            peer.request().await.unwrap();
            peer.write(OK).await;
            if peer.index == 0 {
                // It dies with the next request.
                peer.stream.read_u8().await.unwrap();
                if reset {
                    peer.reset();
                }
                return;
            }
            peer.wait_for_close().await;
        })
        .await;
        let client = client();
        let body = vec![b'x'; if large { 8 << 20 } else { 2 }];
        post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
        let second = post(&client, &server.url("/"), &body, &limits()).await;
        assert_eq!(second.unwrap().status, 200, "{name}");
        assert_eq!((server.connections(), server.requests()), (2, 2), "{name}");
    }
}

/// It may have acted on what it has read: that is no other case than on a fresh connection.
#[tokio::test]
async fn a_used_connection_that_ends_after_the_request_was_read_is_not_replaced() {
    let server = FaultServer::start(|mut peer| async move {
        peer.request().await.unwrap();
        peer.write(OK).await;
        peer.request().await.unwrap();
    })
    .await;
    let client = client();
    post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
    let second = post(&client, &server.url("/"), b"{}", &limits()).await;
    let Err(CallError::Broken { phase, .. }) = second else {
        panic!("{second:?}")
    };
    assert_eq!(phase, "waiting for the answer");
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

/// Whoever only asks may ask again (RFC 9110, 9.2.2).
#[tokio::test]
async fn a_safe_request_is_sent_again_even_if_it_was_read() {
    let server = FaultServer::start(|mut peer| async move {
        peer.request().await.unwrap();
        peer.write(OK).await;
        peer.request().await;
    })
    .await;
    let client = client();
    for _ in 0..2 {
        let request = hooklatch::upstream::Request {
            head: b"GET / HTTP/1.1\r\nHost: app\r\n\r\n",
            body: b"",
            is_head: false,
        };
        let endpoint = crate::upstream::endpoint(&server.url("/"));
        let answer = client.call(&endpoint, request, &limits()).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!((server.connections(), server.requests()), (2, 3));
}

/// An app that closes idle connections may do so just when the next request comes.
#[tokio::test]
async fn a_used_connection_that_ends_before_the_request_is_read_is_replaced() {
    let server = FaultServer::start(|mut peer| async move {
        peer.request().await.unwrap();
        peer.write(OK).await;
        // The request lies there.
        peer.stream.readable().await.unwrap();
    })
    .await;
    let client = client();
    for _ in 0..50 {
        let answer = post(&client, &server.url("/"), b"{}", &limits()).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    // One request in two finds the connection of the one before.
    assert_eq!(server.requests(), 50);
}

#[tokio::test]
async fn the_second_failure_is_final() {
    let server = FaultServer::start(|mut peer| async move {
        if peer.index == 0 {
            peer.request().await.unwrap();
            peer.write(OK).await;
        }
        peer.stream.read_u8().await.unwrap();
        peer.reset();
    })
    .await;
    let client = client();
    post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
    let second = post(&client, &server.url("/"), b"{}", &limits()).await;
    assert!(matches!(second, Err(CallError::Broken { .. })), "{second:?}");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_fresh_connection_is_not_replaced() {
    for (name, reset) in [("closed", false), ("reset", true)] {
        let server = FaultServer::start(move |mut peer| async move {
            peer.request().await.unwrap();
            if reset {
                peer.reset();
            }
        })
        .await;
        match post(&client(), &server.url("/"), b"{}", &limits()).await {
            Err(CallError::Broken { phase, .. }) => assert_eq!(phase, "waiting for the answer", "{name}"),
            got => panic!("{name}: {got:?}"),
        }
        assert_eq!(server.connections(), 1, "{name}");
    }
}

#[tokio::test]
async fn neither_silence_nor_half_an_answer_is_a_reason_to_send_again() {
    for (name, begin) in [
        ("silence", &b""[..]),
        ("half a head", b"HTTP/1.1 200 OK\r\nCont"),
        ("interim", b"HTTP/1.1 102 x\r\n\r\n"),
    ] {
        let server = FaultServer::start(move |mut peer| async move {
            peer.request().await.unwrap();
            peer.write(OK).await;
            peer.request().await.unwrap();
            if !begin.is_empty() {
                peer.write(begin).await;
                return;
            }
            peer.wait_for_close().await;
        })
        .await;
        let client = client();
        post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
        let short = Limits {
            first_byte: Duration::from_millis(200),
            ..limits()
        };
        let second = post(&client, &server.url("/"), b"{}", &short).await;
        let expected = if begin.is_empty() {
            matches!(second, Err(CallError::Timeout { phase: "answer", .. }))
        } else {
            matches!(
                second,
                Err(CallError::Broken {
                    phase: "reading the answer",
                    ..
                })
            )
        };
        assert!(expected, "{name}: {second:?}");
        assert_eq!((server.connections(), server.requests()), (1, 2), "{name}");
    }
}

#[tokio::test]
async fn bytes_nobody_asked_for_end_a_connection() {
    let go = Arc::new(Notify::new());
    let (told, mut done) = mpsc::channel(1);
    let server = FaultServer::start({
        let go = Arc::clone(&go);
        move |mut peer| {
            let (go, told) = (Arc::clone(&go), told.clone());
            async move {
                peer.request().await.unwrap();
                peer.write(OK).await;
                if peer.index == 0 {
                    go.notified().await;
                    peer.write(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n").await;
                    told.send(()).await.unwrap();
                }
                peer.wait_for_close().await;
            }
        }
    })
    .await;
    let client = client();
    post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
    go.notify_one();
    done.recv().await.unwrap();
    // The bytes are in the socket; one turn of the reactor makes them known.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(
        post(&client, &server.url("/"), b"{}", &limits())
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time_without_a_call() {
    let (told, mut closed) = mpsc::channel(8);
    let server = FaultServer::start(move |mut peer| {
        let told = told.clone();
        async move {
            while peer.request().await.is_some() {
                peer.write(OK).await;
            }
            told.send(peer.index).await.unwrap();
        }
    })
    .await;
    let client = Client::new(Duration::from_millis(100), 8);
    for round in 0..2 {
        post(&client, &server.url("/"), b"{}", &limits()).await.unwrap();
        let index = tokio::time::timeout(Duration::from_secs(5), closed.recv())
            .await
            .unwrap();
        assert_eq!(index, Some(round));
    }
}

#[tokio::test]
async fn concurrent_calls_share_what_the_pool_may_keep() {
    const CALLS: usize = 64;
    const KEPT: usize = 8;
    let all_there = Arc::new(tokio::sync::Barrier::new(CALLS));
    let server = FaultServer::start(move |mut peer| {
        let all_there = Arc::clone(&all_there);
        async move {
            while let Some(request) = peer.request().await {
                if request.body.starts_with(b"first") {
                    all_there.wait().await;
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    request.body.len()
                );
                peer.write(head.as_bytes()).await;
                peer.write(&request.body).await;
            }
        }
    })
    .await;
    let client = Client::new(Duration::from_secs(30), KEPT);
    let url = server.url("/");
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        let (client, url) = (client.clone(), url.clone());
        calls.spawn(async move {
            let body = format!("first {number}");
            let answer = post(&client, &url, body.as_bytes(), &limits()).await.unwrap();
            assert_eq!(answer.body, body);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(server.connections(), CALLS);
    for number in 0..CALLS {
        let (client, url) = (client.clone(), url.clone());
        calls.spawn(async move {
            for step in 0..20 {
                let body = format!("then {number} {step}");
                let answer = post(&client, &url, body.as_bytes(), &limits()).await.unwrap();
                assert_eq!(answer.body, body);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(server.requests(), CALLS * 21);
    // Those above the bound were closed after the first round.
    assert!(
        server.connections() >= CALLS + CALLS - KEPT,
        "{}",
        server.connections()
    );
}

#[tokio::test]
async fn limits_without_end_are_no_danger() {
    let server = FaultServer::answering(OK, false).await;
    let client = Client::new(Duration::MAX, 1);
    let endless = Limits {
        connect: Duration::MAX,
        tls: Duration::MAX,
        write: Duration::MAX,
        first_byte: Duration::MAX,
        whole: Duration::MAX,
        ..limits()
    };
    for _ in 0..2 {
        assert_eq!(
            post(&client, &server.url("/"), b"{}", &endless)
                .await
                .unwrap()
                .status,
            200
        );
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn no_connection_and_no_name_are_told_apart() {
    let refused = FaultServer::refusing().await;
    let got = post(&client(), &format!("http://{refused}/?token=x"), b"{}", &limits()).await;
    assert!(
        matches!(&got, Err(CallError::Connect { authority, .. }) if **authority == refused.to_string()),
        "{got:?}"
    );
    let got = post(&client(), "http://nonexistent.invalid/", b"{}", &limits()).await;
    assert!(
        matches!(&got, Err(CallError::Resolve { host, .. }) if **host == *"nonexistent.invalid"),
        "{got:?}"
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_no_connection_back() {
    let server = FaultServer::start(|mut peer| async move {
        while peer.request().await.is_some() {
            if peer.index == 0 {
                peer.wait_for_close().await;
                return;
            }
            peer.write(OK).await;
        }
    })
    .await;
    let client = client();
    let url = server.url("/");
    let limits = limits();
    tokio::time::timeout(Duration::from_millis(100), post(&client, &url, b"{}", &limits))
        .await
        .unwrap_err();
    post(&client, &url, b"{}", &limits).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn nothing_of_request_or_answer_is_in_debug() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Token: hunter2\r\nContent-Length: 7\r\n\r\nhunter2";
    let server = FaultServer::answering(&answer[..], false).await;
    let client = client();
    let request = hooklatch::upstream::Request {
        head: b"hunter2",
        body: b"hunter2",
        is_head: false,
    };
    let got = post(&client, &server.url("/?hunter2"), b"{}", &limits())
        .await
        .unwrap();
    let shown = format!("{request:?} {got:?} {client:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
