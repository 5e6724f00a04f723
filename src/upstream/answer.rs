//! Reading an answer's head and framing, after RFC 9112. Pure: bytes in, verdict out.

use bytes::Bytes;

use super::client::CallError;

/// More headers than this are refused.
const HEADERS_MAX: usize = 100;

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none: HEAD, 204, 304.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A parsed head of a final answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(Bytes, Bytes)>,
    pub(super) framing: Framing,
    /// The server lets the connection be used again.
    pub(super) keep_alive: bool,
}

/// Where the head ends (behind its empty line), searched from `*scanned` on.
///
/// `*scanned` moves, so that a head that comes byte by byte is not searched again from its beginning.
pub(super) fn head_end(bytes: &[u8], scanned: &mut usize) -> Option<usize> {
    loop {
        let rest = bytes.get(*scanned..)?;
        let newline = *scanned + memchr::memchr(b'\n', rest)?;
        match bytes.get(newline + 1..)? {
            [b'\n', ..] => return Some(newline + 2),
            [b'\r', b'\n', ..] => return Some(newline + 3),
            // Not known yet: look at this newline again once more has come.
            [] | [b'\r'] => {
                *scanned = newline;
                return None;
            }
            _ => *scanned = newline + 1,
        }
    }
}

/// Whether `bytes` can still become an HTTP/1 answer.
pub(super) fn can_be_answer(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/1.";
    let seen = bytes.len().min(BEGIN.len());
    bytes.get(..seen) == BEGIN.get(..seen)
}

/// Parses one complete head; `None` for an interim answer (1xx), which is skipped. Without `keep_body` a 2xx says all by its status:
/// its headers are not kept.
pub(super) fn parse_head(head: &Bytes, is_head: bool, keep_body: bool) -> Result<Option<Head>, CallError> {
    let mut space = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut space)
        .map_err(|error| {
            CallError::BadAnswer(match error {
                httparse::Error::TooManyHeaders => "more than 100 headers",
                httparse::Error::Version => "the version is not HTTP/1.0 or 1.1",
                httparse::Error::Status => "the status line is malformed",
                _ => "the head is malformed",
            })
        })?;
    let (httparse::Status::Complete(_), Some(version), Some(status)) =
        (complete, parsed.version, parsed.code)
    else {
        return Err(CallError::BadAnswer("the head is malformed"));
    };
    match status {
        101 => return Err(CallError::BadAnswer("it switches protocols, unasked")),
        100..200 => return Ok(None),
        200..600 => {}
        _ => return Err(CallError::BadAnswer("the status is not in 200 to 599")),
    }
    let framing = framing(parsed.headers, status, version, is_head)?;
    // A 1.0 server keeps the connection only on request, which we never make.
    let keep_alive = version == 1 && !closes(parsed.headers);
    let kept = match keep_body || !(200..300).contains(&status) {
        true => &*parsed.headers,
        false => &[],
    };
    let headers = kept
        .iter()
        .map(|header| {
            (
                head.slice_ref(header.name.as_bytes()),
                head.slice_ref(header.value),
            )
        })
        .collect();
    Ok(Some(Head {
        status,
        headers,
        framing,
        keep_alive,
    }))
}

/// RFC 9112, 6.3; stricter where it lets a proxy choose.
fn framing(
    headers: &[httparse::Header<'_>],
    status: u16,
    version: u8,
    is_head: bool,
) -> Result<Framing, CallError> {
    if is_head || status == 204 || status == 304 {
        return Ok(Framing::Empty);
    }
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value =
                content_length(header.value).ok_or(CallError::BadAnswer("Content-Length is not a number"))?;
            if length.is_some_and(|earlier| earlier != value) {
                return Err(CallError::BadAnswer("two Content-Length differ"));
            }
            length = Some(value);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(CallError::BadAnswer("Transfer-Encoding is not chunked"));
            }
            chunked = true;
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Err(CallError::BadAnswer("both Transfer-Encoding and Content-Length")),
        (true, None) if version == 0 => Err(CallError::BadAnswer("Transfer-Encoding in HTTP/1.0")),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::UntilClose),
    }
}

fn content_length(value: &[u8]) -> Option<u64> {
    /// All values of so many digits fit.
    const DIGITS_MAX: usize = 19;
    let digits = value.trim_ascii();
    if !(1..=DIGITS_MAX).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
    )
}

fn closes(headers: &[httparse::Header<'_>]) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("connection"))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str, is_head: bool) -> Result<Option<Head>, CallError> {
        parse_head(&Bytes::copy_from_slice(head.as_bytes()), is_head, true)
    }

    #[test]
    fn framing_follows_the_headers() {
        for (name, line, headers, is_head, framing, keep_alive) in [
            (
                "length",
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\n",
                false,
                Framing::Length(5),
                true,
            ),
            (
                "length 0",
                "HTTP/1.1 200 OK",
                "Content-Length: 0\r\n",
                false,
                Framing::Length(0),
                true,
            ),
            (
                "equal lengths",
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\ncontent-length: 05\r\n",
                false,
                Framing::Length(5),
                true,
            ),
            (
                "no reason",
                "HTTP/1.1 599",
                "Content-Length: 5\r\n",
                false,
                Framing::Length(5),
                true,
            ),
            (
                "chunked",
                "HTTP/1.1 500 x",
                "Transfer-Encoding: Chunked \r\n",
                false,
                Framing::Chunked,
                true,
            ),
            ("neither", "HTTP/1.1 200 OK", "", false, Framing::UntilClose, true),
            (
                "head",
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\n",
                true,
                Framing::Empty,
                true,
            ),
            (
                "204",
                "HTTP/1.1 204 x",
                "Content-Length: 5\r\n",
                false,
                Framing::Empty,
                true,
            ),
            ("304", "HTTP/1.1 304 x", "", false, Framing::Empty, true),
            (
                "close",
                "HTTP/1.1 204 x",
                "Connection: foo, CLOSE\r\n",
                false,
                Framing::Empty,
                false,
            ),
            (
                "close in the second",
                "HTTP/1.1 204 x",
                "Connection: a\r\nconnection: close\r\n",
                false,
                Framing::Empty,
                false,
            ),
            (
                "1.0",
                "HTTP/1.0 200 OK",
                "Content-Length: 5\r\nConnection: keep-alive\r\n",
                false,
                Framing::Length(5),
                false,
            ),
        ] {
            let head = parse(&format!("{line}\r\n{headers}\r\n"), is_head)
                .expect(name)
                .expect(name);
            assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{name}");
        }
    }

    #[test]
    fn broken_heads_are_refused() {
        let many = "a: b\r\n".repeat(101);
        for (name, line, headers) in [
            ("status 000", "HTTP/1.1 000 x", ""),
            ("status 600", "HTTP/1.1 600 x", ""),
            ("status 999", "HTTP/1.1 999 x", ""),
            ("status of two digits", "HTTP/1.1 20 x", ""),
            ("101", "HTTP/1.1 101 x", ""),
            ("HTTP/2", "HTTP/2 200 x", ""),
            (
                "lengths differ",
                "HTTP/1.1 200 x",
                "Content-Length: 5\r\nContent-Length: 6\r\n",
            ),
            ("length list", "HTTP/1.1 200 x", "Content-Length: 5, 5\r\n"),
            ("length signed", "HTTP/1.1 200 x", "Content-Length: +5\r\n"),
            ("length negative", "HTTP/1.1 200 x", "Content-Length: -5\r\n"),
            ("length hex", "HTTP/1.1 200 x", "Content-Length: 0x5\r\n"),
            ("length empty", "HTTP/1.1 200 x", "Content-Length: \r\n"),
            (
                "length over 64 bits",
                "HTTP/1.1 200 x",
                "Content-Length: 99999999999999999999\r\n",
            ),
            (
                "both",
                "HTTP/1.1 200 x",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            ),
            ("gzip", "HTTP/1.1 200 x", "Transfer-Encoding: gzip, chunked\r\n"),
            ("identity", "HTTP/1.1 200 x", "Transfer-Encoding: identity\r\n"),
            (
                "chunked twice",
                "HTTP/1.1 200 x",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
            (
                "chunked in 1.0",
                "HTTP/1.0 200 x",
                "Transfer-Encoding: chunked\r\n",
            ),
            (
                "blank before the colon",
                "HTTP/1.1 200 x",
                "Content-Length : 5\r\n",
            ),
            ("folded", "HTTP/1.1 200 x", "A: b\r\n c\r\n"),
            ("nul", "HTTP/1.1 200 x", "A: b\0\r\n"),
            ("101 headers", "HTTP/1.1 200 x", many.as_str()),
        ] {
            let got = parse(&format!("{line}\r\n{headers}\r\n"), false);
            assert!(matches!(got, Err(CallError::BadAnswer(_))), "{name}: {got:?}");
        }
    }

    #[test]
    fn where_no_body_is_wanted_the_headers_of_a_2xx_are_not_kept() {
        for (status, keep_body, kept) in [(200, true, 1), (200, false, 0), (299, false, 0), (503, false, 1)] {
            let head = format!("HTTP/1.1 {status} X\r\nRetry-After: 7\r\n\r\n");
            let head = parse_head(&head.into(), false, keep_body).unwrap().unwrap();
            assert_eq!((head.status, head.headers.len()), (status, kept), "{keep_body}");
        }
    }

    #[test]
    fn interim_answers_are_none() {
        for status in [100, 102, 103, 199] {
            let got = parse(&format!("HTTP/1.1 {status} x\r\nLink: y\r\n\r\n"), false);
            assert!(matches!(got, Ok(None)), "{status}: {got:?}");
        }
    }

    #[test]
    fn the_head_ends_at_the_same_byte_however_it_is_cut() {
        for text in [
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\n\nrest\n\n",
        ] {
            let end = text.find("rest").expect("there");
            let mut scanned = 0;
            for length in 0..=text.len() {
                let got = head_end(&text.as_bytes()[..length], &mut scanned);
                assert_eq!(got, (length >= end).then_some(end), "{length}");
                if got.is_some() {
                    break;
                }
            }
        }
    }

    #[test]
    fn other_protocols_are_seen_at_once() {
        for (bytes, can) in [
            (&b""[..], true),
            (b"HT", true),
            (b"HTTP/1.1 2", true),
            (b"HTTP/2", false),
            (b"\x15\x03\x01", false),
            (b"SSH-2.0", false),
        ] {
            assert_eq!(can_be_answer(bytes), can, "{bytes:?}");
        }
    }
}
