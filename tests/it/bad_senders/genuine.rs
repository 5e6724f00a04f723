//! The genuine sender: so many requests a second, come what may.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep_until, timeout};

use super::wire::Wire;
use super::{PATH, SECRET};
use crate::support::{PATIENCE, hmac_hex, rounds, sha256};

/// Requests a second.
const RATE: u32 = 100;
/// At least so many 200s of 100 within [`Seen::assert_prompt`]'s limit.
const SHARE: f64 = 0.99;

/// How a genuine sender sends.
#[derive(Debug, Clone)]
pub(super) struct Genuine {
    target: SocketAddr,
    source: Option<IpAddr>,
    forwarded_for: Option<IpAddr>,
    keeps_alive: bool,
    body_bytes: std::ops::RangeInclusive<usize>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Of the requests that got their 200.
    pub(super) latencies: Vec<Duration>,
    /// Ids with the hashes of their bodies.
    pub(super) acked: Vec<(String, [u8; 32])>,
    pub(super) failures: Vec<String>,
    /// Kept-alive connections that were found closed.
    pub(super) reopened: usize,
}

impl Genuine {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            target,
            source: None,
            forwarded_for: None,
            keeps_alive: false,
            body_bytes: 200..=20_000,
        }
    }

    /// From this address.
    pub(super) fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Through a proxy that says this address.
    pub(super) fn forwarded_for(mut self, client: IpAddr) -> Self {
        self.forwarded_for = Some(client);
        self
    }

    /// Over connections that are used again.
    pub(super) fn kept_alive(mut self) -> Self {
        self.keeps_alive = true;
        self
    }

    /// Sends for so long, on a thread of its own, so that nothing else of this process delays it.
    pub(super) fn send(&self, during: Duration) -> Seen {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::spawn(self.clone().run(during)).await.unwrap() })
    }

    async fn run(self, during: Duration) -> Seen {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let idle: Arc<Mutex<Vec<Wire>>> = Arc::default();
        let sender = Arc::new(self);
        let started = Instant::now();
        let count = u32::try_from(during.as_millis()).unwrap() * RATE / 1000;
        let mut tasks = Vec::new();
        for number in 0..count {
            let due = started + Duration::from_secs(number.into()) / RATE;
            let event = Event::new(&sender);
            sleep_until(due).await;
            let (sender, seen, idle) = (sender.clone(), seen.clone(), idle.clone());
            tasks.push(tokio::spawn(async move {
                let result = timeout(PATIENCE, sender.deliver(&event, &idle)).await;
                let took = due.elapsed();
                let mut seen = seen.lock().unwrap();
                match result {
                    Ok(Ok((200, reopened))) => {
                        seen.latencies.push(took);
                        seen.acked.push((event.id, sha256(&event.body)));
                        seen.reopened += usize::from(reopened);
                    }
                    Ok(Ok((status, _))) => seen.failures.push(format!("{status} after {took:?}")),
                    Ok(Err(error)) => seen.failures.push(format!("{error} after {took:?}")),
                    Err(_) => seen.failures.push(format!("no answer within {took:?}")),
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.latencies.sort_unstable();
        seen
    }

    /// The status, and whether a kept connection turned out to be closed.
    async fn deliver(&self, event: &Event, idle: &Mutex<Vec<Wire>>) -> std::io::Result<(u16, bool)> {
        let kept = idle.lock().unwrap().pop();
        let mut reopened = false;
        if let Some(mut wire) = kept {
            match wire.exchange(&event.head, &event.body).await {
                Ok(answer) => {
                    if !answer.closes {
                        idle.lock().unwrap().push(wire);
                    }
                    return Ok((answer.status, false));
                }
                // As every client does: RFC 9110, 9.2.2 and 9112, 9.3.1.
                Err(_) => reopened = true,
            }
        }
        let mut wire = Wire::open(self.target, self.source).await?;
        let answer = wire.exchange(&event.head, &event.body).await?;
        if self.keeps_alive && !answer.closes {
            idle.lock().unwrap().push(wire);
        }
        Ok((answer.status, reopened))
    }
}

struct Event {
    id: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Event {
    fn new(sender: &Genuine) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = format!("genuine-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Small ones are as frequent as large ones.
        let (least, most) = (*sender.body_bytes.start() as f64, *sender.body_bytes.end() as f64);
        let bytes = (least * (most / least).powf(Rng::new().f64())) as usize;
        let head = format!("{{\"id\":\"{id}\",\"padding\":\"");
        let padding = "x".repeat(bytes.saturating_sub(head.len() + 2));
        let body = [head.as_str(), &padding, "\"}"].concat().into_bytes();
        let mut head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\nX-Quantiv-Signature: sha256={}\r\n",
            body.len(),
            hmac_hex(SECRET.as_bytes(), &body)
        );
        if let Some(client) = sender.forwarded_for {
            head.push_str(&format!("X-Forwarded-For: {client}\r\n"));
        }
        head.push_str("\r\n");
        Self {
            id,
            head: head.into_bytes(),
            body,
        }
    }
}

/// The id in a body; what has none is shown whole.
pub(super) fn id_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let id = text.split('"').nth(3);
    id.map_or_else(|| text.chars().take(100).collect(), str::to_owned)
}

impl Seen {
    fn at(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * share).ceil() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// 99 of 100 answers came within 250 ms; within a second where this is one of many tests on a busy machine, without
    /// optimisation.
    pub(super) fn assert_prompt(&self, name: &str) {
        let limit = Duration::from_millis(rounds(1000, 250) as u64);
        assert!(self.at(SHARE) < limit, "{name}: {self}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |latency: Duration| latency.as_secs_f64() * 1000.0;
        write!(
            f,
            "{} of {} got 200, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.latencies.len(),
            self.latencies.len() + self.failures.len(),
            ms(self.at(0.5)),
            ms(self.at(SHARE)),
            ms(self.at(1.0)),
        )?;
        if self.reopened > 0 {
            write!(f, ", {} connections reopened", self.reopened)?;
        }
        Ok(())
    }
}
