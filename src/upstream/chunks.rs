//! The chunked coding of RFC 9112, 7.1, read strictly and without I/O: of upstreams' answers and of senders' requests.

/// Hex digits of one chunk's size; 2^60 bytes are far over any cap.
const SIZE_DIGITS_MAX: u8 = 15;
/// Bytes of one chunk's extensions.
const EXTENSION_BYTES_MAX: u32 = 1024;
/// Bytes of all trailers.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// Takes chunked bytes apart, in pieces of any size.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
}

/// Not the coding; the text says where it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadChunks(pub(crate) &'static str);

#[derive(Debug, Clone, Copy)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        bytes: u32,
        part: Part,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// `bytes` counts those of all lines.
    Trailer {
        line: Line,
        bytes: u32,
    },
    TrailerLf {
        last: bool,
        bytes: u32,
    },
    Done,
}

/// Where in the extensions of a chunk a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Behind a semicolon: a name is due.
    NameDue,
    Name,
    NameBlank,
    ValueDue,
    Value,
    Quoted,
    Escaped,
    /// Behind the closing quote.
    Closed,
    /// Behind the size or a value; only another extension may follow.
    Blank,
}

/// Where in a trailer line a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    Name,
    Value,
}

impl Chunks {
    /// Before the first chunk.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Size { size: 0, digits: 0 },
        }
    }

    /// The body and its trailers have ended.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes of data that the present chunk has announced and not brought yet.
    pub(crate) fn announced(&self) -> u64 {
        match self.state {
            State::SizeLf { size } => size,
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Reads `input`, hands each piece of data to `data`, and returns how many bytes it used: all, unless the body is done.
    pub(crate) fn read(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadChunks> {
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Done => break,
                State::Data { left } => {
                    let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let (piece, after) = rest.split_at(take);
                    data(piece);
                    rest = after;
                    self.state = match left - take as u64 {
                        0 => State::DataCr,
                        left => State::Data { left },
                    };
                }
                state => {
                    self.state = step(state, byte)?;
                    rest = after;
                }
            }
        }
        Ok(input.len() - rest.len())
    }
}

/// One byte of framing.
fn step(state: State, byte: u8) -> Result<State, BadChunks> {
    let bad = |what| Err(BadChunks(what));
    Ok(match (state, byte) {
        (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
            if digits == SIZE_DIGITS_MAX {
                return bad("a chunk size is too long");
            }
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            State::Size {
                size: size << 4 | u64::from(digit),
                digits: digits + 1,
            }
        }
        (State::Size { digits: 0, .. }, _) => return bad("a chunk size is missing"),
        (State::Size { size, .. }, b'\r') => State::SizeLf { size },
        (
            State::Extension {
                size,
                part: Part::Name | Part::Value | Part::Closed,
                ..
            },
            b'\r',
        ) => State::SizeLf { size },
        (State::Size { size, .. }, b';') => State::Extension {
            size,
            bytes: 1,
            part: Part::NameDue,
        },
        (State::Size { size, .. }, b' ' | b'\t') => State::Extension {
            size,
            bytes: 1,
            part: Part::Blank,
        },
        (State::Size { .. }, _) => return bad("a chunk size is not hexadecimal"),
        (
            State::Extension {
                bytes: EXTENSION_BYTES_MAX,
                ..
            },
            _,
        ) => return bad("a chunk extension is too long"),
        (State::Extension { size, bytes, part }, _) => match extension(part, byte) {
            Some(part) => State::Extension {
                size,
                bytes: bytes + 1,
                part,
            },
            None => return bad("a chunk extension is malformed"),
        },
        (State::SizeLf { size: 0 }, b'\n') => State::Trailer {
            line: Line::Start,
            bytes: 0,
        },
        (State::SizeLf { size }, b'\n') => State::Data { left: size },
        (State::SizeLf { .. }, _) => return bad("a chunk size does not end with CR LF"),
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
        (State::DataCr | State::DataLf, _) => return bad("a chunk does not end with CR LF"),
        (State::Trailer { bytes, .. }, _) if bytes >= TRAILER_BYTES_MAX => {
            return bad("the trailers are too long");
        }
        (
            State::Trailer {
                line: line @ (Line::Start | Line::Value),
                bytes,
            },
            b'\r',
        ) => State::TrailerLf {
            last: line == Line::Start,
            bytes: bytes + 1,
        },
        (State::Trailer { line, bytes }, _) => match trailer(line, byte) {
            Some(line) => State::Trailer {
                line,
                bytes: bytes + 1,
            },
            None => return bad("a trailer is malformed"),
        },
        (State::TrailerLf { last: true, .. }, b'\n') => State::Done,
        (State::TrailerLf { bytes, .. }, b'\n') => State::Trailer {
            line: Line::Start,
            bytes: bytes + 1,
        },
        (State::TrailerLf { .. }, _) => return bad("a trailer does not end with CR LF"),
        // Taken by `read`.
        (State::Data { .. } | State::Done, _) => state,
    })
}

/// RFC 9112, 7.1.1: `; name` or `; name = value`, the value a token or in quotes. What a laxer reader takes for the end
/// of the line must not be inside.
fn extension(part: Part, byte: u8) -> Option<Part> {
    Some(match (part, byte) {
        (Part::Quoted, b'"') => Part::Closed,
        (Part::Quoted, b'\\') => Part::Escaped,
        (Part::Quoted | Part::Escaped, _) if is_text(byte) => Part::Quoted,
        (Part::NameDue | Part::ValueDue | Part::Blank, b' ' | b'\t') => part,
        (Part::Name | Part::NameBlank, b' ' | b'\t') => Part::NameBlank,
        (Part::Value | Part::Closed, b' ' | b'\t') => Part::Blank,
        (Part::Name | Part::NameBlank | Part::Value | Part::Closed | Part::Blank, b';') => Part::NameDue,
        (Part::Name | Part::NameBlank, b'=') => Part::ValueDue,
        (Part::ValueDue, b'"') => Part::Quoted,
        (Part::NameDue | Part::Name, _) if is_token_byte(byte) => Part::Name,
        (Part::ValueDue | Part::Value, _) if is_token_byte(byte) => Part::Value,
        _ => return None,
    })
}

/// RFC 9112, 7.1.2: trailers are fields. A line that is none could be another reader's next request.
fn trailer(line: Line, byte: u8) -> Option<Line> {
    Some(match (line, byte) {
        (Line::Name, b':') => Line::Value,
        (Line::Start | Line::Name, _) if is_token_byte(byte) => Line::Name,
        (Line::Value, _) if is_text(byte) => Line::Value,
        _ => return None,
    })
}

/// What may stand in a value.
fn is_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

/// RFC 9110, 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, the bytes used, and whether it ended.
    fn read_in(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), BadChunks> {
        let (mut chunks, mut data, mut used) = (Chunks::new(), Vec::new(), 0);
        for piece in pieces {
            used += chunks.read(piece, |bytes| data.extend_from_slice(bytes))?;
        }
        Ok((data, used, chunks.is_done()))
    }

    #[test]
    fn every_cut_reads_the_same() {
        let text: &[u8] =
            b"5\r\nhello\r\n00A ;name = \"v;\\\"\" ;b;c=d\r\n\r\n world\r\n\r\n0\r\nX-T: 1\r\nX-U:\r\n\r\n";
        for cut in 0..=text.len() {
            let (first, second) = text.split_at(cut);
            let got = read_in(&[first, second]).expect("valid");
            assert_eq!(got, (b"hello\r\n world\r\n".to_vec(), text.len(), true), "{cut}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read_in(&single).expect("valid").0, b"hello\r\n world\r\n");
    }

    #[test]
    fn what_comes_behind_the_end_is_left() {
        assert_eq!(
            read_in(&[b"0\r\n\r\nHTTP"]).expect("valid"),
            (Vec::new(), 5, true)
        );
    }

    #[test]
    fn a_chunk_announces_itself() {
        let mut chunks = Chunks::new();
        for (piece, announced) in [
            ("1", 0),
            ("0\r", 16),
            ("\n", 16),
            ("0123456789", 6),
            ("abcdef", 0),
        ] {
            chunks.read(piece.as_bytes(), |_| {}).expect("valid");
            assert_eq!(chunks.announced(), announced, "{piece:?}");
        }
    }

    #[test]
    fn no_part_is_complete() {
        let text: &[u8] = b"2\r\nab\r\n0\r\n\r\n";
        for length in 0..text.len() {
            assert!(!read_in(&[&text[..length]]).expect("valid so far").2, "{length}");
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2000));
        let long_trailer = format!("0\r\n{}\r\n", "a: b\r\n".repeat(2000));
        for (name, text) in [
            ("no size", "\r\n"),
            ("extension without size", ";x\r\n"),
            ("plus", "+1\r\na\r\n0\r\n\r\n"),
            ("minus", "-1\r\n"),
            ("0x", "0x1\r\na\r\n0\r\n\r\n"),
            ("not hex", "g\r\n"),
            ("blank in front", " 1\r\na\r\n0\r\n\r\n"),
            ("too many digits", "0000000000000001\r\na\r\n0\r\n\r\n"),
            ("overflow", "FFFFFFFFFFFFFFFFF\r\n"),
            ("junk behind the size", "1 x\r\na\r\n0\r\n\r\n"),
            ("NUL in an extension", "1;\0\r\na\r\n0\r\n\r\n"),
            ("bare CR in an extension", "1;a\rb\r\na\r\n0\r\n\r\n"),
            ("bare LF behind the size", "1\na\r\n0\r\n\r\n"),
            ("bare CR behind the size", "1\ra\r\n0\r\n\r\n"),
            ("bare LF in an extension", "1;x\na\r\n0\r\n\r\n"),
            ("bare LF behind the data", "1\r\na\n0\r\n\r\n"),
            ("data too long", "1\r\nab\r\n0\r\n\r\n"),
            ("data too short", "2\r\na\r\n0\r\n\r\n"),
            ("bare LF at the end", "0\r\n\n"),
            ("bare LF in a trailer", "0\r\nA: b\n\r\n"),
            ("bare CR in a trailer", "0\r\nA\rb\r\n\r\n"),
            ("padding behind the size", "1 \r\na\r\n0\r\n\r\n"),
            ("no name", "1;\r\na\r\n0\r\n\r\n"),
            ("no name before the value", "1;=x\r\na\r\n0\r\n\r\n"),
            ("no value", "1;x=\r\na\r\n0\r\n\r\n"),
            ("two values", "1;x=y=z\r\na\r\n0\r\n\r\n"),
            ("an open quote", "1;x=\"y\r\na\r\n0\r\n\r\n"),
            ("an escaped quote", "1;x=\"y\\\"\r\na\r\n0\r\n\r\n"),
            ("a trailer without a colon", "0\r\nA\r\n\r\n"),
            ("a trailer without a name", "0\r\n: b\r\n\r\n"),
            ("a blank before the colon", "0\r\nA : b\r\n\r\n"),
            ("a folded trailer", "0\r\nA: b\r\n c\r\n\r\n"),
            (
                "a request for a trailer",
                "0\r\nPOST / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            ("extension over its bound", long_extension.as_str()),
            ("trailers over their bound", long_trailer.as_str()),
        ] {
            let got = read_in(&[text.as_bytes()]);
            assert!(got.is_err(), "{name}: {got:?}");
        }
    }
}
