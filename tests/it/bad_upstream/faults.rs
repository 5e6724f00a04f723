//! The ways of an upstream to do it wrong, and what must come of each.

use std::time::Duration;

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) strike: Strike,
    /// In `queue` mode.
    pub(super) verdict: Verdict,
    /// The status that the sender gets in `proxy` mode.
    pub(super) proxy: u16,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    /// Tried again; the log's reason holds this.
    Retried(&'static str),
    /// The whole head of a 2xx came: delivered.
    Taken,
}

/// What the upstream does with a connection.
#[derive(Debug, Clone)]
pub(super) enum Strike {
    /// Reads nothing.
    OnConnect(Then),
    /// Reads the head and half of the body.
    MidRequest(Then),
    /// Reads the head, and writes this.
    Early(Vec<u8>, Then),
    /// Reads the whole request, and writes this.
    Answer(Vec<u8>, Then),
    /// Reads the whole request and writes this, a byte a second from the place that is said on.
    Drip(Vec<u8>, usize),
    /// Reads the whole request, writes the first, and then the second again and again with a pause.
    Endless(Vec<u8>, Vec<u8>, Duration),
}

/// How a strike ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    Close,
    Reset,
    /// Keeps the connection open and says nothing more.
    Hang,
}

use Strike::{Answer, Drip, Early, Endless, MidRequest, OnConnect};
use Then::{Close, Hang, Reset};
use Verdict::{Retried, Taken};

/// A kind of fault: its variants take turns.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) variants: Vec<Fault>,
}

impl Class {
    fn new(name: &'static str, variants: Vec<Fault>) -> Self {
        Self { name, variants }
    }

    /// Each variant as a class of its own.
    pub(super) fn apart(self) -> impl Iterator<Item = Self> {
        self.variants.into_iter().map(|fault| Self {
            name: fault.name,
            variants: vec![fault],
        })
    }
}

fn fault(name: &'static str, strike: Strike, verdict: Verdict, proxy: u16) -> Fault {
    Fault {
        name,
        strike,
        verdict,
        proxy,
    }
}

/// Connections that break.
pub(super) fn breaks() -> Vec<Class> {
    let broke = Retried("the connection broke while ");
    let waiting = Retried("the connection broke while waiting for the answer");
    let reading = Retried("the connection broke while reading the answer");
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    vec![
        Class::new(
            "break-before",
            vec![
                // It may come while the connection is still being made.
                fault("reset-on-connect", OnConnect(Reset), Retried("connect"), 502),
                fault("close-on-connect", OnConnect(Close), broke, 502),
                fault("reset-amid-request", MidRequest(Reset), broke, 502),
                fault("close-amid-request", MidRequest(Close), broke, 502),
                fault("reset-after-request", Answer(vec![], Reset), waiting, 502),
                fault("close-after-request", Answer(vec![], Close), waiting, 502),
            ],
        ),
        Class::new(
            "break-within-head",
            vec![
                fault(
                    "reset-amid-status-line",
                    Answer(b"HTTP/1.1 20".to_vec(), Reset),
                    reading,
                    502,
                ),
                fault(
                    "reset-after-status-line",
                    Answer(b"HTTP/1.1 200 OK\r\n".to_vec(), Reset),
                    reading,
                    502,
                ),
                fault(
                    "close-after-status-line",
                    Answer(b"HTTP/1.1 200 OK\r\n".to_vec(), Close),
                    reading,
                    502,
                ),
                fault(
                    "close-amid-head",
                    Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_vec(), Close),
                    reading,
                    502,
                ),
                fault(
                    "close-after-100",
                    Answer(b"HTTP/1.1 100 x\r\n\r\n".to_vec(), Close),
                    reading,
                    502,
                ),
            ],
        ),
        // The status and the whole head are there. A sender in `proxy` mode would get half an answer.
        Class::new(
            "break-within-body",
            vec![
                fault("reset-amid-body", Answer(half.to_vec(), Reset), Taken, 502),
                fault("close-amid-body", Answer(half.to_vec(), Close), Taken, 502),
                fault(
                    "close-amid-chunks",
                    Answer(
                        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf".to_vec(),
                        Close,
                    ),
                    Taken,
                    502,
                ),
                fault(
                    "close-amid-body-of-500",
                    Answer(
                        b"HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\nhalf".to_vec(),
                        Close,
                    ),
                    Retried("status 500"),
                    502,
                ),
            ],
        ),
        Class::new(
            "break-after",
            vec![
                fault("reset-after-answer", Answer(whole.to_vec(), Reset), Taken, 200),
                fault("close-after-answer", Answer(whole.to_vec(), Close), Taken, 200),
            ],
        ),
    ]
}

/// Upstreams that say nothing, too slowly, or nothing but "wait".
pub(super) fn silence() -> Vec<Class> {
    let silent = Retried("no answer within");
    let unended = Retried("no end of the answer within");
    let flood = Retried("too many interim answers");
    let interim = |status: u16| format!("HTTP/1.1 {status} x\r\nLink: </x>\r\n\r\n").into_bytes();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nokokokoko";
    let head_bytes = ok.len() - 9;
    vec![
        Class::new(
            "hang",
            vec![
                fault("hang-unread", OnConnect(Hang), silent, 504),
                fault("hang-amid-request", MidRequest(Hang), silent, 504),
                fault("hang-after-request", Answer(vec![], Hang), silent, 504),
                fault(
                    "hang-amid-head",
                    Answer(b"HTTP/1.1 200 OK\r\n".to_vec(), Hang),
                    unended,
                    504,
                ),
            ],
        ),
        Class::new(
            "byte-a-second",
            vec![
                fault("head-byte-a-second", Drip(ok.to_vec(), 0), unended, 504),
                fault("body-byte-a-second", Drip(ok.to_vec(), head_bytes), Taken, 504),
            ],
        ),
        Class::new(
            "interim-flood",
            vec![
                fault(
                    "100-flood",
                    Endless(vec![], interim(100), Duration::ZERO),
                    flood,
                    502,
                ),
                fault(
                    "102-flood",
                    Endless(vec![], interim(102), Duration::ZERO),
                    flood,
                    502,
                ),
                fault(
                    "103-flood",
                    Endless(vec![], interim(103), Duration::ZERO),
                    flood,
                    502,
                ),
                fault(
                    "102-now-and-then",
                    Endless(vec![], interim(102), Duration::from_millis(200)),
                    silent,
                    504,
                ),
            ],
        ),
    ]
}

/// Upstreams that answer, and do not want it.
pub(super) fn refusals(trap: &str) -> Vec<Class> {
    let answer = |name, status: u16, says, fields: &str| {
        let text = format!("HTTP/1.1 {status} x\r\n{fields}Content-Length: 2\r\n\r\nno");
        fault(name, Answer(text.into_bytes(), Close), Retried(says), status)
    };
    let elsewhere = format!("Location: http://{trap}/elsewhere\r\n");
    vec![
        Class::new(
            "5xx",
            vec![
                answer("500", 500, "status 500", ""),
                answer("502", 502, "status 502", ""),
                answer("503", 503, "status 503", "Retry-After: 1\r\n"),
                answer("504", 504, "status 504", ""),
                answer("599", 599, "status 599", ""),
            ],
        ),
        Class::new(
            "429",
            vec![
                answer("429-seconds", 429, "status 429", "Retry-After: 1\r\n"),
                answer(
                    "429-date",
                    429,
                    "status 429",
                    "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n",
                ),
                answer(
                    "429-date-gone",
                    429,
                    "status 429",
                    "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
                ),
                answer(
                    "429-huge",
                    429,
                    "status 429",
                    "Retry-After: 99999999999999999999999999\r\n",
                ),
                answer("429-negative", 429, "status 429", "Retry-After: -5\r\n"),
                answer("429-garbage", 429, "status 429", "Retry-After: é soon; \"\r\n"),
                answer(
                    "429-twice",
                    429,
                    "status 429",
                    "Retry-After: 1\r\nRetry-After: never\r\n",
                ),
                answer("429-without", 429, "status 429", ""),
            ],
        ),
        Class::new(
            "4xx",
            vec![
                answer("400", 400, "status 400", ""),
                answer("401", 401, "status 401", ""),
                answer("404", 404, "status 404", ""),
                answer("409", 409, "status 409", ""),
                answer("422", 422, "status 422", ""),
            ],
        ),
        Class::new(
            "3xx",
            vec![
                answer("301", 301, "status 301", &elsewhere),
                answer("302", 302, "status 302", &elsewhere),
                answer("303", 303, "status 303", &elsewhere),
                answer("307", 307, "status 307", &elsewhere),
                answer("308", 308, "status 308", &elsewhere),
                // No answer to this has a body, whatever it says.
                answer("304-with-body", 304, "status 304", ""),
            ],
        ),
    ]
}

/// Upstreams that do not speak HTTP/1.1, or not properly.
pub(super) fn framing() -> Vec<Class> {
    let answer = |name, bytes: &[u8], verdict| {
        let proxy = 502;
        fault(name, Answer(bytes.to_vec(), Close), verdict, proxy)
    };
    let bad = |name, bytes, says| answer(name, bytes, Retried(says));
    let mut long_head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ".to_vec();
    long_head.resize(1 << 20, b'x');
    long_head.extend_from_slice(b"\r\n\r\n");
    let many = ["HTTP/1.1 200 OK\r\n", &"a: b\r\n".repeat(200), "\r\n"].concat();
    let (malformed, alien) = ("the head is malformed", "it does not begin with HTTP/1.");
    let not_a_number = "Content-Length is not a number";
    vec![
        Class::new(
            "invalid-length",
            vec![
                bad(
                    "two-framings",
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                    "both Transfer-Encoding and Content-Length",
                ),
                bad(
                    "two-lengths",
                    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 2\r\n\r\nok",
                    "two Content-Length differ",
                ),
                bad(
                    "length-list",
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
                    not_a_number,
                ),
                bad(
                    "length-negative",
                    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                    not_a_number,
                ),
                bad(
                    "length-signed",
                    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
                    not_a_number,
                ),
                bad(
                    "length-too-long",
                    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
                    not_a_number,
                ),
                bad(
                    "unknown-coding",
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                    "Transfer-Encoding is not chunked",
                ),
                bad(
                    "chunked-in-1.0",
                    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                    "Transfer-Encoding in HTTP/1.0",
                ),
                // The head is whole and says 200: that is the app's word. A sender would get half an answer.
                answer(
                    "bad-chunk",
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                    Taken,
                ),
                answer(
                    "negative-chunk",
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n",
                    Taken,
                ),
                answer(
                    "huge-chunk",
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n",
                    Taken,
                ),
            ],
        ),
        Class::new(
            "invalid-head",
            vec![
                bad("no-colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", malformed),
                bad(
                    "blank-name",
                    b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
                    malformed,
                ),
                bad(
                    "folded",
                    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
                    malformed,
                ),
                bad(
                    "nul",
                    b"HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n",
                    malformed,
                ),
                bad(
                    "status-0",
                    b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n",
                    "the status is not in 200 to 599",
                ),
                bad(
                    "status-999",
                    b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n",
                    "the status is not in 200 to 599",
                ),
                bad(
                    "status-word",
                    b"HTTP/1.1 two hundred\r\n\r\n",
                    "the status line is malformed",
                ),
                bad(
                    "switches",
                    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
                    "it switches protocols, unasked",
                ),
                bad("head-of-1MB", &long_head, "the answer is over 65536 bytes"),
                bad("200-fields", many.as_bytes(), "more than 100 headers"),
            ],
        ),
        Class::new(
            "another-protocol",
            vec![
                bad("http-0.9", b"<html>200 OK</html>\r\n\r\n", alien),
                bad("http-2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", alien),
                bad(
                    "http-2-settings",
                    b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\xff",
                    alien,
                ),
                bad("http-2-line", b"HTTP/2 200 OK\r\n\r\n", alien),
                // What a TLS server says to plain text.
                bad("tls-alert", b"\x15\x03\x01\0\x02\x02\x46", alien),
                bad("ssh", b"SSH-2.0-OpenSSH_9.2p1\r\n", alien),
                bad("nothing-but-lines", b"\r\n\r\n\r\n\r\n", alien),
                bad("nul-bytes", &[0; 64], alien),
            ],
        ),
    ]
}

/// Answers without an end, or with more than one.
pub(super) fn excess() -> Vec<Class> {
    let piece = vec![b'x'; 64 << 10];
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend_from_slice(&piece);
    chunk.extend_from_slice(b"\r\n");
    let endless = |name, head: &str, more: &[u8], verdict| {
        // Without a pause, a hundred of them would show how fast this machine copies.
        let pause = Duration::from_millis(20);
        let strike = Endless(head.as_bytes().to_vec(), more.to_vec(), pause);
        fault(name, strike, verdict, 502)
    };
    let whole = |name, status, text: &str, verdict| {
        fault(name, Answer(text.as_bytes().to_vec(), Hang), verdict, status)
    };
    vec![
        Class::new(
            "endless-body",
            vec![
                endless(
                    "10-GB",
                    "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n",
                    &piece,
                    Taken,
                ),
                endless(
                    "chunks",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    &chunk,
                    Taken,
                ),
                endless("until-close", "HTTP/1.1 200 OK\r\n\r\n", &piece, Taken),
                endless("until-close-1.0", "HTTP/1.0 200 OK\r\n\r\n", &piece, Taken),
                endless(
                    "10-GB-of-500",
                    "HTTP/1.1 500 x\r\nContent-Length: 10000000000\r\n\r\n",
                    &piece,
                    Retried("status 500"),
                ),
                endless(
                    "until-close-of-503",
                    "HTTP/1.1 503 x\r\n\r\n",
                    &piece,
                    Retried("status 503"),
                ),
                endless(
                    "endless-extension",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
                    &piece,
                    Taken,
                ),
                endless(
                    "endless-trailers",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
                    &b"X-Trailer: 1\r\n".repeat(1000),
                    Taken,
                ),
                endless(
                    "endless-head",
                    "HTTP/1.1 200 OK\r\n",
                    &b"X-More: 1\r\n".repeat(1000),
                    Retried("the answer is over 65536 bytes"),
                ),
            ],
        ),
        Class::new(
            "body-too-many",
            vec![
                whole(
                    "204-with-length",
                    204,
                    "HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\nok",
                    Taken,
                ),
                whole(
                    "204-with-chunks",
                    204,
                    "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                    Taken,
                ),
                whole(
                    "304-with-bytes",
                    304,
                    "HTTP/1.1 304 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                    Retried("status 304"),
                ),
                whole(
                    "500-then-200",
                    500,
                    "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    Retried("status 500"),
                ),
                whole(
                    "200-then-500",
                    200,
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
                    Taken,
                ),
            ],
        ),
    ]
}

/// Answers that come before the request is read. Their requests do not fit into any socket buffer.
pub(super) fn early() -> Vec<Class> {
    let refusal = b"HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno".to_vec();
    let taken = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let unread = Retried("before the request was sent");
    vec![
        Class::new(
            "early-4xx",
            vec![
                fault(
                    "413-then-close",
                    Early(refusal.clone(), Close),
                    Retried("status 413"),
                    413,
                ),
                fault(
                    "413-then-reset",
                    Early(refusal.clone(), Reset),
                    Retried("status 413"),
                    413,
                ),
                fault("413-then-hang", Early(refusal, Hang), Retried("status 413"), 413),
            ],
        ),
        // The app cannot have what was not sent, whatever it says.
        Class::new(
            "early-200",
            vec![
                fault("200-then-close", Early(taken.clone(), Close), unread, 502),
                fault("200-then-reset", Early(taken.clone(), Reset), unread, 502),
                fault("200-then-hang", Early(taken, Hang), unread, 502),
            ],
        ),
    ]
}
