//! One end of a connection without a socket: what the other side sends, in pieces, and what it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The other side.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What it sends.
    pub(super) bytes: Vec<u8>,
    /// At most so many at once; 0: all.
    pub(super) step: usize,
    /// At its end it is silent instead of closing.
    pub(super) silent: bool,
    /// What it was sent.
    pub(super) written: Vec<u8>,
    at: usize,
}

impl Wire {
    /// Sends `bytes`; the low bits of `how` choose the size of the pieces, the highest silence at the end.
    pub(super) fn new(bytes: Vec<u8>, how: u8) -> Self {
        Self {
            bytes,
            step: usize::from(how & 0x3f),
            silent: how & 0x80 != 0,
            ..Self::default()
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.bytes.len() - self.at;
        // Timers end the wait.
        if left == 0 && self.silent {
            return Poll::Pending;
        }
        let step = if self.step == 0 { left } else { self.step };
        let count = left.min(step).min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
