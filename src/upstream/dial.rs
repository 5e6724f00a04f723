//! Opening a connection: name, TCP, TLS, each within its deadline.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::client::{CallError, Limits};
use super::endpoint::Endpoint;
use super::names::Names;
use super::timer::Timer;

/// An open connection with what was read from it and not used yet.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) buffer: BytesMut,
    /// It has served a call.
    pub(super) used: bool,
    pub(super) timer: Timer,
}

/// Plain or TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// No socket; for fuzzing.
    #[cfg(any(test, fuzzing))]
    Memory(Box<dyn Memory>),
}

/// What stands for a socket.
#[cfg(any(test, fuzzing))]
pub(super) trait Memory: AsyncRead + AsyncWrite + Unpin + Send {}

#[cfg(any(test, fuzzing))]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Memory for S {}

/// What TLS needs; made at the first `https` call.
#[derive(Default)]
pub(super) struct Tls {
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// Trusts `roots` alone.
    pub(super) fn with_roots(roots: RootCertStore) -> Result<Self, tokio_rustls::rustls::Error> {
        Ok(Self {
            config: OnceCell::new_with(Some(Arc::new(client_config(roots)?))),
        })
    }

    async fn config(&self) -> Result<&Arc<ClientConfig>, String> {
        self.config
            .get_or_try_init(|| async {
                // Files are read: not on a worker of the runtime.
                let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
                    .await
                    .map_err(|_| "reading the CA certificates was cut off".to_owned())?;
                let config = client_config(root_store(found.certs)?);
                config.map(Arc::new).map_err(|error| error.to_string())
            })
            .await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ready", &self.config.initialized())
            .finish()
    }
}

/// A store of what can be read of `certificates`: one that cannot must not take the others along.
pub(super) fn root_store(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err("no CA certificate found; install the system's, or set SSL_CERT_FILE".to_owned());
    }
    Ok(roots)
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, tokio_rustls::rustls::Error> {
    // Named here, since another part of the process may have set another default.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Opens a connection to `endpoint`; `whole_at` ends each phase too.
pub(super) async fn dial(
    endpoint: &Endpoint,
    names: &Arc<Names>,
    tls: &Tls,
    limits: &Limits,
    whole_at: Instant,
) -> Result<Connection, CallError> {
    let stream = connect(endpoint, names, limits, whole_at).await?;
    // Without it a small answer-request rhythm waits for delayed ACKs; a refusal costs only time.
    stream.set_nodelay(true).ok();
    let stream = if endpoint.tls {
        Stream::Tls(Box::new(
            handshake(endpoint, stream, tls, limits, whole_at).await?,
        ))
    } else {
        Stream::Plain(stream)
    };
    Ok(Connection {
        stream,
        buffer: BytesMut::new(),
        used: false,
        timer: Timer::default(),
    })
}

/// `start + wait`, or a day later where that is past all counting.
pub(super) fn after(start: Instant, wait: Duration) -> Instant {
    start
        .checked_add(wait)
        .unwrap_or_else(|| start + Duration::from_secs(24 * 60 * 60))
}

async fn connect(
    endpoint: &Endpoint,
    names: &Arc<Names>,
    limits: &Limits,
    whole_at: Instant,
) -> Result<TcpStream, CallError> {
    let own_at = after(Instant::now(), limits.connect);
    let deadline = own_at.min(whole_at);
    let timeout = || CallError::Timeout {
        phase: "connection",
        after: if own_at <= whole_at {
            limits.connect
        } else {
            limits.whole
        },
    };
    let addresses = resolve(endpoint, names, deadline).await?.ok_or_else(timeout)?;
    let mut refused: Option<io::Error> = None;
    for (index, address) in addresses.iter().enumerate() {
        // A silent address may use its share only, so that the next is reached in time.
        let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / shares;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => refused = Some(error),
            Err(_) => {}
        }
    }
    match refused {
        Some(error) if Instant::now() < deadline => Err(CallError::Connect {
            authority: endpoint.authority.clone(),
            reason: error.to_string().into(),
        }),
        _ => Err(timeout()),
    }
}

/// The addresses to try, at least one; `Ok(None)`: the deadline passed.
async fn resolve(
    endpoint: &Endpoint,
    names: &Arc<Names>,
    deadline: Instant,
) -> Result<Option<Vec<SocketAddr>>, CallError> {
    let with_port = |ip: &IpAddr| SocketAddr::new(*ip, endpoint.port);
    if let Ok(ip) = endpoint.host.parse() {
        return Ok(Some(vec![with_port(&ip)]));
    }
    match timeout_at(deadline, names.addresses(&endpoint.host)).await {
        Err(_) => Ok(None),
        Ok(Ok(found)) => Ok(Some(found.iter().map(with_port).collect())),
        Ok(Err(reason)) => Err(CallError::Resolve {
            host: endpoint.host.clone(),
            reason: (*reason).into(),
        }),
    }
}

async fn handshake(
    endpoint: &Endpoint,
    stream: TcpStream,
    tls: &Tls,
    limits: &Limits,
    whole_at: Instant,
) -> Result<TlsStream<TcpStream>, CallError> {
    let own_at = after(Instant::now(), limits.tls);
    let failed = |reason: String| CallError::Tls {
        authority: endpoint.authority.clone(),
        reason: reason.into(),
    };
    let session = async {
        let config = tls.config().await?;
        let name = ServerName::try_from(endpoint.host.to_string()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(config));
        connector
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())
    };
    match timeout_at(own_at.min(whole_at), session).await {
        Ok(session) => session.map_err(failed),
        Err(_) => Err(CallError::Timeout {
            phase: "TLS session",
            after: if own_at <= whole_at {
                limits.tls
            } else {
                limits.whole
            },
        }),
    }
}

impl Connection {
    /// Whether nothing has come since the last answer: no end, no error, no byte nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            Stream::Plain(stream) => {
                matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // Through the session, since a ticket may wait on the socket.
            stream => {
                let mut context = Context::from_waker(Waker::noop());
                Pin::new(stream)
                    .poll_read(&mut context, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
        }
    }
}

impl Stream {
    /// Resolves once the peer has reset the connection; of one that it only closed, never.
    pub(super) async fn reset(&mut self) {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            #[cfg(any(test, fuzzing))]
            Self::Memory(_) => return std::future::pending().await,
        };
        // An error of the socket itself is as good as a reset: nobody is there.
        socket.ready(Interest::ERROR).await.ok();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection(..)")
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(any(test, fuzzing))]
            Self::Memory(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(any(test, fuzzing))]
            Self::Memory(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            #[cfg(any(test, fuzzing))]
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(any(test, fuzzing))]
            Self::Memory(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(any(test, fuzzing))]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
