//! Senders that take their time: with the header, with the body, with reading the answer.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::process::{mebibytes, raise_descriptors};
use super::wire::{Wire, loopback};
use super::{PATH, Rig, memory_max};
use crate::support::{proved, rounds, wait_for};

/// A connection may last so much longer than its deadline, on a busy machine.
const GRACE: Duration = Duration::from_secs(1);
/// Slow connections of one address.
const EACH: usize = 100;
/// An answer that nobody takes is given up after ten seconds, and the connection two seconds later.
const UNREAD_MAX: Duration = Duration::from_secs(12);

/// A thread for all slow senders.
fn thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn head(length: usize) -> Vec<u8> {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: hooks.example\r\nX-Quantiv-Signature: sha256={}\r\nContent-Length: \
         {length}\r\n\r\n",
        "5a".repeat(32)
    )
    .into_bytes()
}

/// Sends `at_once`, then `rest` byte by byte; gives the time until the gateway closed.
async fn drip(
    target: SocketAddr,
    source: IpAddr,
    at_once: Vec<u8>,
    rest: Vec<u8>,
    pause: Duration,
) -> Duration {
    let mut wire = Wire::open(target, Some(source)).await.unwrap();
    let started = Instant::now();
    wire.write(&at_once).await.unwrap();
    for byte in rest {
        // A gateway that has had enough answers and closes.
        if timeout(pause, wire.ended()).await.is_ok() || wire.write(&[byte]).await.is_err() {
            break;
        }
    }
    wire.ended().await;
    started.elapsed()
}

#[test]
fn slow_headers_and_slow_bodies_end_in_time() {
    raise_descriptors();
    let (limits, header, body) = match rounds(0, 1) {
        0 => (
            "[limits]\nheader_timeout = \"1s\"\nbody_timeout = \"2s\"",
            Duration::from_secs(1),
            Duration::from_secs(2),
        ),
        _ => ("", Duration::from_secs(5), Duration::from_secs(10)),
    };
    let rig = Rig::start(limits);
    let count = rounds(200, 4000);
    let pause = header / 4;
    let slow = thread();
    let target = rig.listen();
    let begin = |first: usize, at_once: Vec<u8>, rest: Vec<u8>| -> Vec<JoinHandle<Duration>> {
        (0..count)
            .map(|n| {
                let source = loopback(first + n / EACH);
                slow.spawn(drip(target, source, at_once.clone(), rest.clone(), pause))
            })
            .collect()
    };
    rig.gateway.forget_peak();
    let headers = begin(0, b"P".to_vec(), vec![b'O'; 100]);
    let bodies = begin(1000, head(1000), vec![b'x'; 999]);
    let seen = rig.genuine().from(loopback(5000)).send(body + GRACE);
    let longest = |tasks: Vec<JoinHandle<Duration>>| {
        let all = async {
            let mut longest = Duration::ZERO;
            for task in tasks {
                longest = longest.max(task.await.unwrap());
            }
            longest
        };
        slow.block_on(all)
    };
    let (headers, bodies) = (longest(headers), longest(bodies));
    let peak = rig.gateway.peak();
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("slow headers and bodies");
    assert!(headers < header + GRACE, "a header took {headers:?}");
    assert!(bodies < body + GRACE, "a body took {bodies:?}");
    assert!(peak < memory_max(2 * count), "{}", mebibytes(peak));
    proved(
        "slow headers and bodies",
        format!(
            "{count} of each; headers closed after at most {headers:.1?}, bodies after {bodies:.1?}; beside them {seen}; peak \
             {}",
            mebibytes(peak)
        ),
    );
}

/// Each holds as much as it may, and sends the last byte never.
#[test]
fn bodies_and_headers_that_never_end_hold_no_more_memory_than_there_is() {
    raise_descriptors();
    let rig = Rig::start("");
    let slow = thread();
    let target = rig.listen();
    rig.gateway.forget_peak();
    let hold = |count: usize, first: usize, bytes: Vec<u8>| {
        for n in 0..count {
            let source = loopback(first + n / EACH);
            let bytes = bytes.clone();
            slow.spawn(async move {
                loop {
                    if let Ok(mut wire) = Wire::open(target, Some(source)).await {
                        // Given up by the gateway at any time.
                        drop(wire.write(&bytes).await);
                        wire.ended().await;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
    };
    let mut large = head(1 << 20);
    large.resize(large.len() + (1 << 20) - 1, b'x');
    let (larges, smalls, headers) = (rounds(100, 200), rounds(400, 3000), rounds(400, 3000));
    let connections = larges + smalls + headers;
    hold(larges, 0, large);
    let mut small = head(60_000);
    small.resize(small.len() + 59_999, b'x');
    hold(smalls, 1000, small);
    let mut header = format!("POST {PATH} HTTP/1.1\r\n").into_bytes();
    header.resize(31 << 10, b'x');
    hold(headers, 2000, header);
    let seen = rig
        .genuine()
        .from(loopback(5000))
        .send(Duration::from_millis(rounds(2000, 60_000) as u64));
    let peak = rig.gateway.peak();
    drop(slow);
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("endless bodies and headers");
    assert!(peak < memory_max(connections), "{}", mebibytes(peak));
    proved(
        "endless bodies and headers",
        format!(
            "{connections} senders; beside them {seen}; peak {}",
            mebibytes(peak)
        ),
    );
}

#[test]
fn senders_that_read_no_answer_are_given_up() {
    raise_descriptors();
    let rig = Rig::start("");
    let count = rounds(40, 400);
    let before = rig.gateway.descriptors();
    rig.gateway.forget_peak();
    let request = b"GET /none HTTP/1.1\r\nHost: hooks.example\r\n\r\n".repeat(1000);
    let mut streams: Vec<TcpStream> = (0..count)
        .map(|_| {
            let stream = TcpStream::connect(rig.listen()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    // Until neither side has room for more.
    for stream in &mut streams {
        let mut sent = 0;
        while sent < 8 << 20 {
            match stream.write(&request) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let full = Instant::now();
    let during = Duration::from_millis(rounds(1000, 10_000) as u64);
    let seen = rig.genuine().from(loopback(1)).send(during);
    rig.assert_kept(&[&seen]);
    seen.assert_prompt("unread answers");
    // The kernel's buffers let the gateway go on for a while after we stopped.
    let limit = UNREAD_MAX + GRACE + during;
    let mut given_up = String::new();
    if rounds(0, 1) == 1 {
        let closed = wait_for(limit.saturating_sub(full.elapsed()), || {
            (rig.gateway.descriptors() < before + count / 10).then_some(())
        });
        assert!(closed.is_some(), "{} descriptors", rig.gateway.descriptors());
        given_up = format!("all given up after {:.1?}; ", full.elapsed());
    }
    let peak = rig.gateway.peak();
    assert!(peak < memory_max(count), "{}", mebibytes(peak));
    proved(
        "unread answers",
        format!(
            "{count} senders; {given_up}beside them {seen}; peak {}",
            mebibytes(peak)
        ),
    );
}
