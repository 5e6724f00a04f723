//! One request to the admin API of a running gateway. Plain blocking HTTP, as nothing else runs meanwhile.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::secret::SecretText;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the gateway listens, what opens its door, and how much patience it is worth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gateway<'a> {
    pub(super) admin: SocketAddr,
    pub(super) token: Option<&'a SecretText>,
    /// For the answer.
    pub(super) timeout: Duration,
    /// Bytes of the answer.
    pub(super) answer_bytes_max: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The gateway cannot be reached.
    #[error("cannot ask the gateway on {admin}: {source}")]
    Reach {
        /// Where it should be.
        admin: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The gateway refused.
    #[error("the gateway answered {status}: {text}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its words.
        text: String,
    },
    /// The answer is not the gateway's.
    #[error("what answers on the admin address is not a hooklatch gateway")]
    Answer,
}

impl Gateway<'_> {
    /// The JSON that it answers with, when that is a 200.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) fn ask(&self, method: &str, target: &str, body: &str) -> Result<Value, AskError> {
        let answer = self.exchange(method, target, body);
        read_answer(&answer.map_err(|source| AskError::Reach {
            admin: self.admin,
            source,
        })?)
    }

    /// The text of `GET target`, when that is a 200.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) fn text(&self, target: &str) -> Result<String, AskError> {
        let answer = self
            .exchange("GET", target, "")
            .map_err(|source| AskError::Reach {
                admin: self.admin,
                source,
            })?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").ok_or(AskError::Answer)?;
        match head.starts_with("HTTP/1.1 200 ") {
            true => Ok(body.to_owned()),
            false => Err(AskError::Answer),
        }
    }

    fn exchange(&self, method: &str, target: &str, body: &str) -> io::Result<Vec<u8>> {
        let admin = self.admin;
        let mut stream = TcpStream::connect_timeout(&admin, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n",
            body.len()
        )
        .into_bytes();
        if let Some(token) = self.token {
            request.extend_from_slice(b"Authorization: Bearer ");
            request.extend_from_slice(token.expose());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body.as_bytes());
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        stream.take(self.answer_bytes_max).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// What others wrote must not drive the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn read_answer(answer: &[u8]) -> Result<Value, AskError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head_bytes)) = head.parse(answer) else {
        return Err(AskError::Answer);
    };
    let body = answer.get(head_bytes..).unwrap_or_default();
    let status = head.code.unwrap_or(0);
    if status != 200 {
        return Err(AskError::Refused {
            status,
            text: plain(String::from_utf8_lossy(body).trim()),
        });
    }
    serde_json::from_slice(body).map_err(|_| AskError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_gateway() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{\"deliveries\":3,\"skipped\":1}";
        assert_eq!(read_answer(good).unwrap()["deliveries"], 3);
        let refused = b"HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\":\"token\"}";
        assert!(matches!(
            read_answer(refused),
            Err(AskError::Refused { status: 401, .. })
        ));
        for other in [&b"SSH-2.0"[..], b"HTTP/1.1 200 OK\r\n\r\nhello", b""] {
            assert!(matches!(read_answer(other), Err(AskError::Answer)));
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
