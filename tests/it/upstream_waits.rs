//! The client towards the app while both sides talk at once, and while one says nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test and its helpers stop at the first surprise"
)]

use std::time::{Duration, Instant};

use hooklatch::upstream::{CallError, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::fault_server::{FaultServer, Peer};
use crate::upstream::{MIB, OK, client, dropping, head, limits, noise, post};

#[tokio::test]
async fn an_answer_before_the_body_is_read_is_used() {
    let body = noise(20 * MIB);
    for (name, answer, closes) in [
        (
            "413, stays open",
            &b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n"[..],
            false,
        ),
        (
            "413, closes",
            b"HTTP/1.1 413 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        (
            "500, never reads",
            b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
    ] {
        let server = FaultServer::start(move |mut peer| async move {
            let mut begin = [0; 100];
            peer.stream.read_exact(&mut begin).await.unwrap();
            peer.write(answer).await;
            if !closes {
                peer.hang().await;
            }
            peer.stream.shutdown().await.ok();
            peer.wait_for_close().await;
        })
        .await;
        let client = client();
        let got = post(&client, &server.url("/"), &body, &limits())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            got.status.to_string(),
            answer[9..12].escape_ascii().to_string(),
            "{name}"
        );
        // Half a request is on that connection.
        drop(
            post(
                &client,
                &server.url("/"),
                b"{}",
                &Limits {
                    whole: Duration::from_millis(200),
                    ..limits()
                },
            )
            .await,
        );
        assert_eq!(server.connections(), 2, "{name}");
    }
}

/// Whatever it says, it cannot have taken what was not sent.
#[tokio::test]
async fn a_200_to_a_request_that_was_not_sent_whole_does_not_count() {
    let body = noise(20 * MIB);
    for (name, then) in [("hangs", 0), ("closes", 1), ("resets", 2)] {
        let server = FaultServer::start(move |mut peer| async move {
            peer.stream.read_u8().await.unwrap();
            peer.write(OK).await;
            match then {
                0 => peer.hang().await,
                1 => drop(peer),
                _ => peer.reset(),
            }
        })
        .await;
        for limits in [limits(), dropping()] {
            let got = post(&client(), &server.url("/"), &body, &limits).await;
            let Err(CallError::Broken { phase, .. }) = &got else {
                panic!("{name}: {got:?}")
            };
            assert_eq!(*phase, "writing the request", "{name}: {got:?}");
        }
    }
}

#[tokio::test]
async fn an_early_200_still_gets_the_whole_body() {
    let body = noise(20 * MIB);
    let (got, mut arrived) = mpsc::channel(1);
    let server = FaultServer::start(move |mut peer| {
        let got = got.clone();
        async move {
            peer.write(OK).await;
            while let Some(request) = peer.request().await {
                got.send(request.body).await.unwrap();
            }
        }
    })
    .await;
    let (client, url, limits) = (client(), server.url("/"), limits());
    let (answer, arrived) = tokio::join!(post(&client, &url, &body, &limits), arrived.recv());
    assert_eq!(answer.unwrap().status, 200);
    assert!(arrived.unwrap() == body);
}

#[tokio::test]
async fn a_server_that_echoes_while_it_reads_does_not_block() {
    let body = noise(8 * MIB);
    let server = FaultServer::start(|mut peer| async move {
        let mut begin = vec![0; head(8 * MIB).len()];
        peer.stream.read_exact(&mut begin).await.unwrap();
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 * MIB).as_bytes())
            .await;
        let (mut reader, mut writer) = peer.stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.ok();
    })
    .await;
    let got = post(&client(), &server.url("/"), &body, &limits()).await.unwrap();
    assert!(got.body == body);
}

#[tokio::test]
async fn every_wait_has_its_own_end() {
    async fn silent(mut peer: Peer) {
        peer.wait_for_close().await;
    }
    async fn drips(mut peer: Peer) {
        peer.request().await.unwrap();
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
            .iter()
            .chain(&[b'x'; 1000])
        {
            peer.write(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    async fn drips_interim(mut peer: Peer) {
        peer.request().await.unwrap();
        loop {
            peer.write(b"HTTP/1.1 102 x\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }
    let short = Duration::from_millis(200);
    let body = noise(20 * MIB);
    let silent_server = FaultServer::start(silent).await;
    let deaf = FaultServer::start(|mut peer| async move { peer.hang().await }).await;
    let dripping = FaultServer::start(drips).await;
    let interim = FaultServer::start(drips_interim).await;
    for (name, server, body, limits, phase) in [
        (
            "first byte",
            &silent_server,
            &b"{}"[..],
            Limits {
                first_byte: short,
                ..limits()
            },
            "answer",
        ),
        (
            "first byte, whole",
            &silent_server,
            b"{}",
            Limits {
                whole: short,
                ..limits()
            },
            "answer",
        ),
        (
            "interim does not count",
            &interim,
            b"{}",
            Limits {
                first_byte: short,
                ..limits()
            },
            "answer",
        ),
        (
            "write",
            &deaf,
            &body,
            Limits {
                write: short,
                ..limits()
            },
            "room to write",
        ),
        (
            "write, whole",
            &deaf,
            &body,
            Limits {
                whole: short,
                ..limits()
            },
            "room to write",
        ),
        (
            "byte by byte",
            &dripping,
            b"{}",
            Limits {
                whole: short,
                ..limits()
            },
            "end of the answer",
        ),
    ] {
        let begin = Instant::now();
        let got = post(&client(), &server.url("/"), body, &limits).await;
        assert_eq!(
            got.unwrap_err(),
            CallError::Timeout { phase, after: short },
            "{name}"
        );
        assert!(
            (short..short * 10).contains(&begin.elapsed()),
            "{name}: {:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test]
async fn a_slow_body_does_not_cost_a_delivery_its_status() {
    let server = FaultServer::start(|mut peer| async move {
        peer.request().await.unwrap();
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
            .await;
        peer.wait_for_close().await;
    })
    .await;
    let limits = Limits {
        whole: Duration::from_millis(200),
        ..dropping()
    };
    let client = client();
    for _ in 0..2 {
        assert_eq!(
            post(&client, &server.url("/"), b"{}", &limits)
                .await
                .unwrap()
                .status,
            200
        );
    }
    assert_eq!(server.connections(), 2);
}
