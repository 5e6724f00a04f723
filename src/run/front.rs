//! Pingora around the front door: a server of its own threads on a socket that is bound before it starts.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as Listening;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::RunError;
use crate::receive::{Front, FrontDoor, TlsIdentity};
use crate::shutdown::{Phase, Watch};

/// Pingora must begin to serve within this time, or the start has failed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Once nobody new can connect, this long until the listener closes: who was connecting is accepted meanwhile.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);
/// Longer than any drain: the process ends by our own deadline, never by Pingora's.
const GRACE_SECS: u64 = 2 * 3600;

/// The address for senders, taken. Connections queue up until [`Socket::serve`].
#[derive(Debug)]
pub(super) struct Socket {
    listener: TcpListener,
    address: SocketAddr,
}

impl Socket {
    /// Takes the address; port 0 stands for any free one.
    ///
    /// Pingora would do it on a thread of its own, and panic there when the address cannot be had.
    pub(super) fn bind(listen: SocketAddr) -> Result<Self, RunError> {
        let bound = || {
            let listener = TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bound().map_err(|reason| RunError::Listen { listen, reason })
    }

    /// What was bound.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts Pingora on threads of its own, which live as long as the process; returns once they serve. The listener
    /// closes in phase `Closing`, and when what is returned is dropped.
    pub(super) async fn serve(
        self,
        workers: usize,
        tls: Option<Arc<TlsIdentity>>,
        door: Arc<FrontDoor>,
        stop: Watch,
    ) -> Result<Listener, RunError> {
        let address = self.address;
        let listener = Listener(self.listener.try_clone().map_err(RunError::System)?);
        let (started, has_started) = oneshot::channel();
        let service = Bound {
            service: listening(address, tls, door)?,
            name: address.to_string(),
            socket: Some(self.listener.into_raw_fd()),
            started: Some(started),
        };
        let conf = ServerConf {
            threads: workers,
            grace_period_seconds: Some(GRACE_SECS),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        server.add_service(service);
        let serve = move || {
            let shutdown_signal = Box::new(StopAtClosing(stop));
            server.run(RunArgs { shutdown_signal });
        };
        std::thread::Builder::new()
            .name("front".to_owned())
            .spawn(serve)
            .map_err(RunError::System)?;
        match timeout(OPEN_TIMEOUT, has_started).await {
            Ok(Ok(())) => Ok(listener),
            Ok(Err(_)) | Err(_) => Err(RunError::NotOpen(address)),
        }
    }
}

/// The open listener, beside Pingora's hold on it.
#[derive(Debug)]
pub(super) struct Listener(TcpListener);

impl Listener {
    /// Lets nobody new connect, and gives those who are connecting time to get through: the system completes connections
    /// by itself, and resets those that nobody has accepted when the listener closes.
    pub(super) async fn turn_away(self) {
        #[cfg(target_os = "linux")]
        {
            // Without the filter, who connects at the last moment gets through or not as chance has it.
            socket2::SockRef::from(&self.0).attach_filter(&NO_SYN).ok();
        }
        sleep(LAST_ACCEPTS).await;
    }
}

/// Drops the first packet of a connection, byte 13 of whose TCP header has the flag SYN; its sender tries again and finds
/// the listener closed. Everything else passes.
#[cfg(target_os = "linux")]
const NO_SYN: [socket2::SockFilter; 4] = {
    use socket2::SockFilter;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

fn listening(
    address: SocketAddr,
    tls: Option<Arc<TlsIdentity>>,
    door: Arc<FrontDoor>,
) -> Result<Listening<Front>, RunError> {
    let acceptor = match tls {
        None => None,
        Some(identity) => {
            // Empty paths: the resolver holds what was loaded and checked.
            let mut settings = TlsSettings::intermediate("", "")
                .map_err(|error| RunError::System(std::io::Error::other(error.to_string())))?;
            settings.set_cert_resolver(identity);
            settings.enable_h2();
            Some(settings.build())
        }
    };
    let mut service = Listening::new("front".to_owned(), Front::new(door, acceptor));
    // Requests are read into buffers of our own; Pingora's would be 64 KiB more for each connection.
    let listener = ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::unbuffered());
    service.add_listener(listener);
    Ok(service)
}

/// A listening service that is given its socket, the way Pingora hands sockets to a successor.
struct Bound {
    service: Listening<Front>,
    /// The address, by which Pingora finds the socket.
    name: String,
    /// Taken over by the service at its start.
    socket: Option<RawFd>,
    started: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl Service for Bound {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let (Some(fds), Some(socket)) = (&fds, self.socket.take()) {
            fds.lock().add(self.name.clone(), socket);
        }
        if let Some(started) = self.started.take() {
            // Whoever waited may have given up; then the process is ending.
            let _ended = started.send(());
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        "front"
    }
}

/// Tells Pingora to close its listeners in phase `Closing`; the signals themselves are ours.
struct StopAtClosing(Watch);

#[async_trait]
impl ShutdownSignalWatch for StopAtClosing {
    async fn recv(&self) -> ShutdownSignal {
        self.0.reached(Phase::Closing).await;
        ShutdownSignal::GracefulTerminate
    }
}
