//! A small async HTTP/1.1 client that can choose the address it comes from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The `number`th address of 127.0.0.0/8, from 127.1.0.1 on.
pub(super) fn loopback(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap();
    let [_, b, c, d] = number.to_be_bytes();
    // Never .0 nor .255 at the end.
    assert!(b == 0, "65,536 addresses are enough");
    IpAddr::from([127, 1 + c, d, 7])
}

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What a sender looks at.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The gateway ends the connection.
    pub(super) closes: bool,
}

impl Wire {
    pub(super) async fn open(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        // A flood that leaves its ports waiting runs out of them.
        stream.set_zero_linger()?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request and reads its answer, which may come before all was sent.
    pub(super) async fn exchange(&mut self, head: &[u8], body: &[u8]) -> io::Result<Answer> {
        let sent = async {
            self.stream.write_all(head).await?;
            self.stream.write_all(body).await
        };
        let sent = sent.await;
        match self.read_answer().await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    pub(super) async fn read_answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let status = head.get(9..12).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {head:?}")))?;
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
            .unwrap_or(0);
        while self.unread.len() < end + length {
            self.read_more().await?;
        }
        self.unread.drain(..end + length);
        Ok(Answer {
            status,
            closes: head.contains("\r\nConnection: close\r\n"),
        })
    }

    /// Reads until the gateway closes; how it closes does not matter.
    pub(super) async fn ended(&mut self) {
        while self.read_more().await.is_ok() {
            self.unread.clear();
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
