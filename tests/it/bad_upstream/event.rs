//! Events, their senders, and the answers these get.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{hmac_hex, sha256};

/// The secret of every route here.
pub(super) const SECRET: &str = "bad-upstream-secret";

/// An event as its sender has it; its body follows from its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: String,
}

/// What a sender got.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) elapsed: Duration,
}

impl Answer {
    pub(super) fn is_duplicate(&self) -> bool {
        self.status == 200 && self.text == r#"{"received":true,"duplicate":true}"#
    }
}

impl Event {
    /// A new one with a body of about `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            id: format!("evt_{bytes}_{number}"),
        }
    }

    pub(super) fn many(count: usize, bytes: usize) -> Vec<Self> {
        std::iter::repeat_with(|| Self::new(bytes)).take(count).collect()
    }

    /// With blanks, escapes and an order that whoever wrote it anew would change.
    pub(super) fn body(&self) -> Vec<u8> {
        body_of(&self.id)
    }

    /// Whether `body` is that of the event with this id.
    pub(super) fn is(id: &str, body: &[u8]) -> bool {
        body_of(id) == body
    }

    /// Sends it on a connection of its own and reads the answer.
    pub(super) async fn send(&self, gateway: SocketAddr, path: &str) -> io::Result<Answer> {
        let body = self.body();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: hooks.example\r\nConnection: close\r\nX-Quantiv-Signature: \
             {}\r\nContent-Length: {}\r\n\r\n",
            hmac_hex(SECRET.as_bytes(), &body),
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let began = Instant::now();
        let mut stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let elapsed = began.elapsed();
        let text = String::from_utf8_lossy(&answer);
        let (head, text) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok(Answer {
            status: status.ok_or_else(|| io::Error::other(format!("no answer: {head:?}")))?,
            text: text.to_owned(),
            elapsed,
        })
    }
}

/// Sends all of them, `at_once` side by side; the answers come in the order of the events.
pub(super) async fn send_all(
    events: &[Event],
    gateway: SocketAddr,
    path: &str,
    at_once: usize,
) -> Vec<Answer> {
    let places = Arc::new(Semaphore::new(at_once));
    let mut senders = JoinSet::new();
    for (index, event) in events.iter().cloned().enumerate() {
        let (places, path) = (places.clone(), path.to_owned());
        senders.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let answer = event.send(gateway, &path).await;
            (index, answer.unwrap_or_else(|error| panic!("{path}: {error}")))
        });
    }
    let mut answers = senders.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The noise of a body repeats after so many bytes.
const NOISE_BYTES: usize = 64 << 10;

fn body_of(id: &str) -> Vec<u8> {
    let bytes: usize = id
        .split('_')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let mut text = format!(
        "{{ \"event\" : \"lead.created\",\t\"id\":\"{id}\", \"z\": 1.0, \"a\": 1e2,\n \"note\": \"caf\\u00e9 "
    );
    let seed = sha256(id.as_bytes()).first_chunk().copied();
    let mut noise = vec![0; NOISE_BYTES.min(bytes)];
    Rng::with_seed(seed.map_or(0, u64::from_le_bytes)).fill(&mut noise);
    noise.iter_mut().for_each(|byte| *byte = b'a' + (*byte & 15));
    let noise = String::from_utf8(noise).unwrap();
    let mut block = 0;
    while text.len() < bytes {
        // Numbered, so that a missing or doubled block shows.
        text.push_str(&format!("{block}:{noise}"));
        block += 1;
    }
    text.push_str("\" }\n");
    text.into_bytes()
}
