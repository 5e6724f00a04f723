//! Upstreams' answers, read by the real exchange without a socket.
//!
//! Whatever comes is read the same in any pieces; what we framed ourselves is read back byte for byte.

use std::time::Duration;

use hooklatch::upstream::{Answer, CallError, Limits, Request, exchange_in_memory};
use tokio::runtime::{Builder, Runtime};

use super::input::Input;
use super::wire::Wire;

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(1),
    tls: Duration::from_secs(1),
    write: Duration::from_secs(1),
    first_byte: Duration::from_secs(1),
    whole: Duration::from_secs(2),
    head_bytes_max: 512,
    body_bytes_max: 256,
    keep_body: true,
};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
}

/// One execution.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let how = input.byte();
    let is_head = flags & 1 != 0;
    let limits = Limits {
        keep_body: flags & 2 == 0,
        ..LIMITS
    };
    if flags & 4 != 0 {
        framed(input, how, &limits);
        return;
    }
    let whole = read(input.0, how & 0x80, is_head, &limits);
    let pieces = read(input.0, how, is_head, &limits);
    assert_eq!(plain(&whole), plain(&pieces), "in other pieces");
    if let Ok((answer, reusable)) = &whole {
        holds(answer, *reusable, input.0, is_head, &limits);
    }
}

fn read(bytes: &[u8], how: u8, is_head: bool, limits: &Limits) -> Result<(Answer, bool), CallError> {
    let request = Request {
        head: b"POST / HTTP/1.1\r\n\r\n",
        body: b"",
        is_head,
    };
    let wire = Wire::new(bytes.to_vec(), how);
    RUNTIME.with(|runtime| runtime.block_on(exchange_in_memory(wire, request, limits)))
}

type Plain<'a> = (u16, Vec<(&'a [u8], &'a [u8])>, &'a [u8]);

/// What must not depend on the pieces: which fault is met first may, and what is seen to follow.
fn plain(outcome: &Result<(Answer, bool), CallError>) -> Option<Plain<'_>> {
    let (answer, _) = outcome.as_ref().ok()?;
    let headers = (answer.headers.iter()).map(|(name, value)| (&name[..], &value[..]));
    Some((answer.status, headers.collect(), &answer.body))
}

/// What every answer keeps, whatever was sent.
fn holds(answer: &Answer, reusable: bool, bytes: &[u8], is_head: bool, limits: &Limits) {
    assert!((200..600).contains(&answer.status), "{}", answer.status);
    let lengths: Vec<&[u8]> = (answer.headers.iter())
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"))
        .map(|(_, value)| value.trim_ascii())
        .collect();
    let bodiless = is_head || matches!(answer.status, 204 | 304);
    if bodiless || !limits.keep_body {
        assert!(answer.body.is_empty());
    } else if let Some(length) = lengths.first() {
        let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
        assert_eq!(answer.body.len(), length, "Content-Length is what is read");
    }
    assert!(answer.body.len() <= limits.body_bytes_max);
    for (name, value) in &answer.headers {
        assert!(!name.is_empty() && !value.contains(&b'\n') && !name.contains(&b'\n'));
    }
    let chunked = answer.header("transfer-encoding").is_some();
    if !chunked && !answer.body.is_empty() {
        assert!(
            bytes
                .windows(answer.body.len())
                .any(|window| *window == answer.body),
            "the body is what was sent"
        );
    }
    if reusable {
        let closes = answer
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        assert!(!closes, "a connection that closes is not kept");
    }
}

/// An answer that we frame ourselves is read back as it was.
fn framed(mut input: Input<'_>, how: u8, limits: &Limits) {
    let status = 200 + u16::from(input.byte()) % 400;
    let form = input.byte() % 3;
    let mut bytes = Vec::new();
    for _ in 0..input.byte() % 4 {
        bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }
    bytes.extend_from_slice(format!("HTTP/1.1 {status} X\r\n").as_bytes());
    let mut body = Vec::new();
    match form {
        0 => {
            body.extend_from_slice(input.0);
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        }
        1 => {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            while !input.0.is_empty() {
                let extension = [&b""[..], b";a=b", b" ;x", b";a=\"q;\\\"\""][usize::from(input.byte() & 3)];
                let data = match input.short() {
                    // An empty chunk would be the last.
                    [] => &b"-"[..],
                    data => data,
                };
                body.extend_from_slice(data);
                bytes.extend_from_slice(format!("{:X}", data.len()).as_bytes());
                bytes.extend_from_slice(extension);
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(data);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"000\r\nX-Trailer: 1\r\n\r\n");
        }
        _ => {
            body.extend_from_slice(input.0);
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&body);
        }
    }
    // Only an end says where this one ends.
    let how = if form == 2 { how & 0x7f } else { how };
    let outcome = read(&bytes, how, false, limits);
    if matches!(status, 204 | 304) {
        let (answer, reusable) = outcome.expect("a head is all there is");
        assert!(answer.body.is_empty() && answer.status == status);
        let followed = form == 1 || !body.is_empty();
        assert!(
            !(followed && reusable && how & 0x3f == 0),
            "nobody asked for what follows"
        );
    } else if body.len() > limits.body_bytes_max {
        assert!(outcome.is_err() || !limits.keep_body, "over the cap");
    } else {
        let (answer, reusable) = outcome.expect("a good answer");
        assert_eq!(answer.status, status);
        if limits.keep_body {
            assert_eq!(answer.body, body);
        }
        assert_eq!(reusable, form != 2, "it is known where it ended");
    }
}
