//! A small blocking HTTP/1.1 client, and signatures made without the library under test.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::PATIENCE;

/// The HMAC-SHA256 of `body` in lower-case hex.
pub(crate) fn hmac_hex(secret: &[u8], body: &[u8]) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    /// The status.
    pub(crate) status: u16,
    /// Names and values in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first value of header `name` (any case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_within(address, PATIENCE)
    }

    /// Connects within a time, or not at all.
    pub(crate) fn open_within(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Sends one POST and reads its answer.
    pub(crate) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        self.request("POST", path, headers, body)
    }

    /// Sends one request and reads its answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        self.write(&request_bytes(method, path, headers, body))?;
        self.read_response()
    }

    /// Sends `bytes` as they stand.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next final answer; 1xx are skipped.
    pub(crate) fn read_response(&mut self) -> io::Result<Response> {
        loop {
            let response = self.read_any_response()?;
            if response.status >= 200 {
                return Ok(response);
            }
        }
    }

    fn read_any_response(&mut self) -> io::Result<Response> {
        let (first, headers) = read_head(&mut self.stream, &mut self.unread)?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {first:?}")))?;
        if find(&headers, "transfer-encoding").is_some() {
            return Err(io::Error::other("chunked answers are not read by this client"));
        }
        let body = match find(&headers, "content-length") {
            Some(length) => {
                let length = length.parse().map_err(io::Error::other)?;
                read_exactly(&mut self.stream, &mut self.unread, length)?
            }
            None if status < 200 || status == 204 || status == 304 => Vec::new(),
            None => {
                self.stream.read_to_end(&mut self.unread)?;
                std::mem::take(&mut self.unread)
            }
        };
        Ok(Response {
            status,
            headers,
            body,
        })
    }
}

/// One POST on a connection of its own.
pub(crate) fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    Connection::open(address)
        .and_then(|mut connection| connection.post(path, headers, body))
        .unwrap()
}

/// One GET on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Connection::open(address)
        .and_then(|mut connection| connection.request("GET", path, &[], b""))
        .unwrap()
}

/// Sends `bytes`, closes the sending side, and returns all that comes back until the other side closes.
pub(crate) fn send_raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address).unwrap();
    // The other side may answer and close before it has read everything.
    let written = connection.write(bytes);
    let half_closed = connection.stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let read = connection.stream.read_to_end(&mut answer);
    assert!(
        !answer.is_empty() || read.is_ok(),
        "no answer: {written:?}, {half_closed:?}, {read:?}"
    );
    answer
}

fn request_bytes(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: hooks.example\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// First line and header fields of a message; `unread` keeps what came after them.
pub(super) fn read_head(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
) -> io::Result<(String, Vec<(String, String)>)> {
    let end = loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        read_more(stream, unread)?;
    };
    let text = String::from_utf8_lossy(&unread[..end]).into_owned();
    unread.drain(..end + 4);
    let mut lines = text.split("\r\n").map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    let headers = lines
        .filter_map(|line| {
            line.split_once(':')
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        })
        .collect();
    Ok((first, headers))
}

/// The next `length` bytes.
pub(super) fn read_exactly(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    while unread.len() < length {
        read_more(stream, unread)?;
    }
    let rest = unread.split_off(length);
    Ok(std::mem::replace(unread, rest))
}

fn read_more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 16 * 1024];
    let count = stream.read(&mut chunk)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    unread.extend_from_slice(&chunk[..count]);
    Ok(())
}

/// The first value of header `name` (any case).
pub(super) fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}
