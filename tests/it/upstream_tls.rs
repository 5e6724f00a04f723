//! The client towards an app behind TLS, with a CA of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test and its helpers stop at the first surprise"
)]

use std::sync::Arc;
use std::time::Duration;

use hooklatch::upstream::{CallError, Client, Limits};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use crate::fault_server::{FaultServer, read_request};
use crate::upstream::{limits, post};

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn client(&self) -> Client {
        let root: CertificateDer<'static> = self.0.der().clone();
        Client::with_roots(Duration::from_secs(4), 8, [root]).unwrap()
    }

    fn acceptor(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Answers with the body of each request.
async fn echo(acceptor: TlsAcceptor) -> FaultServer {
    FaultServer::start(move |peer| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(peer.stream).await else {
                return;
            };
            while let Some(request) = read_request(&mut stream).await {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    request.body.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&request.body).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_trusted_upstream_keeps_its_connection() {
    let ca = Ca::new();
    for name in ["localhost", "127.0.0.1"] {
        let server = echo(ca.acceptor(name, |_| {})).await;
        let client = ca.client();
        let url = format!("https://{name}:{}/hooks", server.address.port());
        for size in [0, 2, 1024, 3 << 20] {
            let body: Vec<u8> = (0..size)
                .map(|at: u32| at.to_le_bytes()[at as usize % 3])
                .collect();
            let answer = post(&client, &url, &body, &limits()).await.unwrap();
            assert!(answer.status == 200 && answer.body == body, "{name}, {size}");
        }
        assert_eq!(server.connections(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_untrusted_upstream_gets_no_request() {
    let ca = Ca::new();
    let other = Ca::new();
    for (name, acceptor, reason) in [
        (
            "wrong name",
            ca.acceptor("other.example", |_| {}),
            "not valid for name",
        ),
        (
            "unknown CA",
            other.acceptor("localhost", |_| {}),
            "invalid peer certificate",
        ),
        (
            "expired",
            ca.acceptor("localhost", |it| it.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            "expired",
        ),
        (
            "not yet",
            ca.acceptor("localhost", |it| it.not_before = rcgen::date_time_ymd(3000, 1, 1)),
            "not valid yet",
        ),
    ] {
        let server = echo(acceptor).await;
        let url = format!("https://localhost:{}/", server.address.port());
        match post(&ca.client(), &url, b"{}", &limits()).await {
            Err(CallError::Tls {
                authority,
                reason: got,
            }) => {
                assert!(got.contains(reason), "{name}: {got}");
                assert_eq!(
                    *authority,
                    *url["https://".len()..].trim_end_matches('/'),
                    "{name}"
                );
            }
            got => panic!("{name}: {got:?}"),
        }
        assert_eq!(server.requests(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_plain_or_silent_peer_is_a_tls_failure() {
    let ca = Ca::new();
    let plain = FaultServer::start(|mut peer| async move {
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.wait_for_close().await;
    })
    .await;
    let url = format!("https://127.0.0.1:{}/", plain.address.port());
    let got = post(&ca.client(), &url, b"{}", &limits()).await;
    assert!(matches!(got, Err(CallError::Tls { .. })), "{got:?}");

    let silent = FaultServer::start(|mut peer| async move { peer.wait_for_close().await }).await;
    let url = format!("https://127.0.0.1:{}/", silent.address.port());
    let short = Limits {
        tls: Duration::from_millis(200),
        ..limits()
    };
    let got = post(&ca.client(), &url, b"{}", &short).await;
    assert_eq!(
        got.unwrap_err(),
        CallError::Timeout {
            phase: "TLS session",
            after: short.tls
        }
    );
}

#[tokio::test]
async fn an_answer_cut_off_inside_tls_is_not_whole() {
    let ca = Ca::new();
    let acceptor = ca.acceptor("localhost", |_| {});
    let server = FaultServer::start(move |peer| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(peer.stream).await.unwrap();
            read_request(&mut stream).await.unwrap();
            // Framed by the close, but without the session's own end: anybody on the way can do that.
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
            stream.flush().await.unwrap();
            drop(stream);
        }
    })
    .await;
    let url = format!("https://localhost:{}/", server.address.port());
    let got = post(&ca.client(), &url, b"{}", &limits()).await;
    assert!(
        matches!(
            got,
            Err(CallError::Broken {
                phase: "reading the answer",
                ..
            })
        ),
        "{got:?}"
    );
}

#[test]
fn a_client_that_trusts_nobody_is_refused() {
    let nobody: [CertificateDer<'static>; 0] = [];
    assert!(matches!(
        Client::with_roots(Duration::from_secs(1), 1, nobody),
        Err(CallError::Tls { .. })
    ));
}
