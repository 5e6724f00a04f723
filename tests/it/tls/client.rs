//! Certificates made on the spot, and clients that trust them: TLS as such, and HTTP/2 over it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::support::PATIENCE;

/// The name in every certificate.
const NAME: &str = "hooks.example";
/// Bytes of one DATA frame.
const FRAME_BYTES: usize = 10_000;

/// A self-signed certificate and its key.
pub(super) struct Identity(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Identity {
    pub(super) fn new() -> Self {
        Self(rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap())
    }

    /// Writes `cert.pem` and `key.pem`.
    pub(super) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), self.0.cert.pem()).unwrap();
        self.write_key(dir);
    }

    pub(super) fn write_key(&self, dir: &Path) {
        std::fs::write(dir.join("key.pem"), self.0.signing_key.serialize_pem()).unwrap();
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// A TLS session with a server that has this certificate.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config))
            .connect(NAME.try_into().unwrap(), stream)
            .await
    }

    /// An HTTP/2 connection.
    pub(super) async fn http2(&self, address: SocketAddr) -> Http2 {
        let stream = self.connect(address, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(stream)
            .await
            .unwrap();
        let ended = tokio::spawn(async move {
            // How it ends is seen by its requests.
            drop(connection.await);
        });
        Http2 { send, ended }
    }
}

/// An open connection.
pub(super) struct Http2 {
    send: SendRequest<Bytes>,
    ended: tokio::task::JoinHandle<()>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request to `path` at the certificate's name.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(format!("https://{NAME}{path}"))
        .version(http::Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Http2 {
    /// Sends one request and reads its answer. The body goes as far as the server lets it.
    pub(super) async fn send(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        timeout(PATIENCE, self.exchange(request, body)).await.unwrap()
    }

    async fn exchange(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, body.is_empty())?;
        let mut rest = Bytes::copy_from_slice(body);
        let sending = async {
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len().min(FRAME_BYTES));
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let part = rest.split_to(room.min(rest.len()).min(FRAME_BYTES));
                // A server that has answered needs no more.
                if stream.send_data(part, rest.is_empty()).is_err() {
                    return;
                }
            }
        };
        let receiving = async {
            let response = response.await?;
            let (head, mut incoming) = response.into_parts();
            let mut body = Vec::new();
            while let Some(data) = incoming.data().await {
                let data = data?;
                body.extend_from_slice(&data);
                incoming.flow_control().release_capacity(data.len())?;
            }
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        tokio::pin!(sending, receiving);
        let mut sent = false;
        loop {
            tokio::select! {
                () = &mut sending, if !sent => sent = true,
                answer = &mut receiving => return answer,
            }
        }
    }

    /// Waits until the server has ended the connection.
    pub(super) async fn ended(self) {
        drop(self.send);
        timeout(Duration::from_secs(10), self.ended)
            .await
            .unwrap()
            .unwrap();
    }

    /// Sends a head and a part of the body, and gives both ends of the stream.
    pub(super) async fn begin(
        &self,
        request: Request<()>,
        part: &[u8],
        end: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(Bytes::copy_from_slice(part), end).unwrap();
        (response, stream)
    }
}
