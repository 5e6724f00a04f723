//! Takes the chunked transfer coding off a body (RFC 9112, section 7.1); strict, and without I/O.

use bytes::{Buf, BytesMut};

/// Bytes of a chunk's size line, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// Bytes of the trailer section, which is read and dropped.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Where in the coding the decoder is.
#[derive(Debug)]
pub(super) struct ChunkedDecoder {
    state: State,
    trailer_bytes: usize,
}

#[derive(Debug)]
enum State {
    Size,
    Data { left: usize },
    DataEnd,
    Trailer,
    Done,
}

/// Why a chunked body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkedError {
    /// Not the coding.
    #[error("the chunked coding is broken")]
    Broken,
    /// Over the cap.
    #[error("the body is too large")]
    TooLarge,
}

impl ChunkedDecoder {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size,
            trailer_bytes: 0,
        }
    }

    /// Moves what can be decoded from `input` to the end of `body`, which never grows over `body_bytes_max`. `true`
    /// when the body has ended; what then stands in `input` belongs to the next request.
    pub(super) fn decode(
        &mut self,
        input: &mut BytesMut,
        body: &mut BytesMut,
        body_bytes_max: usize,
    ) -> Result<bool, ChunkedError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(input, SIZE_LINE_BYTES_MAX)? else {
                        return Ok(false);
                    };
                    let size = chunk_size(&line)?;
                    self.state = if size == 0 {
                        State::Trailer
                    } else if size > body_bytes_max.saturating_sub(body.len()) {
                        return Err(ChunkedError::TooLarge);
                    } else {
                        State::Data { left: size }
                    };
                }
                State::Data { left } => {
                    let now = left.min(input.len());
                    if now == 0 {
                        return Ok(false);
                    }
                    body.extend_from_slice(&input.split_to(now));
                    self.state = if now == left {
                        State::DataEnd
                    } else {
                        State::Data { left: left - now }
                    };
                }
                State::DataEnd => {
                    match input.get(..2) {
                        Some(b"\r\n") => input.advance(2),
                        Some(_) => return Err(ChunkedError::Broken),
                        None => return Ok(false),
                    }
                    self.state = State::Size;
                }
                State::Trailer => {
                    let left = TRAILER_BYTES_MAX.saturating_sub(self.trailer_bytes);
                    let Some(line) = take_line(input, left)? else {
                        return Ok(false);
                    };
                    if line.is_empty() {
                        self.state = State::Done;
                    }
                    self.trailer_bytes += line.len() + 2;
                }
                State::Done => return Ok(true),
            }
        }
    }
}

/// A line without its CRLF, once it is complete. A bare LF or CR is an error.
fn take_line(input: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, ChunkedError> {
    let Some(end) = memchr::memchr(b'\n', input) else {
        return if input.len() > bytes_max {
            Err(ChunkedError::Broken)
        } else {
            Ok(None)
        };
    };
    let mut line = input.split_to(end + 1);
    line.truncate(end);
    if line.last() != Some(&b'\r') || end > bytes_max {
        return Err(ChunkedError::Broken);
    }
    line.truncate(end - 1);
    let clean = line
        .iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    if clean {
        Ok(Some(line))
    } else {
        Err(ChunkedError::Broken)
    }
}

/// `1*HEXDIG`, then nothing or an extension. No sign, no blank in front, at most 15 digits.
fn chunk_size(line: &[u8]) -> Result<usize, ChunkedError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at_checked(digits).ok_or(ChunkedError::Broken)?;
    let rest = rest.trim_ascii_start();
    if digits == 0 || digits > 15 || !(rest.is_empty() || rest.starts_with(b";")) {
        return Err(ChunkedError::Broken);
    }
    let text = std::str::from_utf8(size).map_err(|_| ChunkedError::Broken)?;
    usize::from_str_radix(text, 16).map_err(|_| ChunkedError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(wire: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), ChunkedError> {
        let mut decoder = ChunkedDecoder::new();
        let (mut input, mut body) = (BytesMut::new(), BytesMut::new());
        for piece in wire.chunks(step) {
            input.extend_from_slice(piece);
            if decoder.decode(&mut input, &mut body, 20)? {
                return Ok((body.to_vec(), input.to_vec()));
            }
        }
        Ok((b"(unfinished)".to_vec(), Vec::new()))
    }

    #[test]
    fn good_bodies_whatever_the_pieces() {
        for (name, wire, body) in [
            ("empty", &b"0\r\n\r\n"[..], &b""[..]),
            ("one", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (
                "two, upper case, leading zeros",
                b"005\r\nhello\r\n00A\r\n0123456789\r\n0\r\n\r\n",
                b"hello0123456789",
            ),
            ("extension", b"5;a=\"b\"\r\nhello\r\n0;x\r\n\r\n", b"hello"),
            (
                "trailer is dropped",
                b"5\r\nhello\r\n0\r\nX-Sig: forged\r\n\r\n",
                b"hello",
            ),
        ] {
            for step in 1..=wire.len() {
                assert_eq!(
                    decode(wire, step),
                    Ok((body.to_vec(), Vec::new())),
                    "{name} in steps of {step}"
                );
            }
        }
        assert_eq!(decode(b"0\r\n\r\nPOST ", 64), Ok((Vec::new(), b"POST ".to_vec())));
    }

    #[test]
    fn broken_bodies_are_refused() {
        for (name, wire) in [
            ("no digits", &b"\r\nhello\r\n0\r\n\r\n"[..]),
            ("sign", b"+5\r\nhello\r\n0\r\n\r\n"),
            ("blank in front", b" 5\r\nhello\r\n0\r\n\r\n"),
            ("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
            ("bare LF after the size", b"5\nhello\r\n0\r\n\r\n"),
            ("bare LF after the data", b"5\r\nhello\n0\r\n\r\n"),
            ("data longer than its size", b"4\r\nhello\r\n0\r\n\r\n"),
            ("overflow", b"ffffffffffffffffff\r\n"),
            ("NUL in the extension", b"5;\0\r\nhello\r\n0\r\n\r\n"),
            ("CR in the extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
            ("junk behind the size", b"5 x\r\nhello\r\n0\r\n\r\n"),
        ] {
            assert_eq!(decode(wire, wire.len()), Err(ChunkedError::Broken), "{name}");
        }
        assert_eq!(decode(b"15\r\n", 64), Err(ChunkedError::TooLarge));
        assert_eq!(decode(b"ffffffff\r\n", 64), Err(ChunkedError::TooLarge));
        let endless = [b"0\r\n".to_vec(), vec![b'a'; TRAILER_BYTES_MAX + 2]].concat();
        assert_eq!(decode(&endless, endless.len()), Err(ChunkedError::Broken));
    }
}
