//! The chunked coding of RFC 9112, 7.1, read strictly.

use super::client::CallError;

/// Hex digits of one chunk's size; 2^60 bytes are far over any cap.
const SIZE_DIGITS_MAX: u8 = 15;
/// Bytes of one chunk's extensions.
const EXTENSION_BYTES_MAX: u32 = 1024;
/// Bytes of all trailers.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// Takes chunked bytes apart, in pieces of any size.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    /// Blanks or extensions behind the size.
    Extension {
        size: u64,
        bytes: u32,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// `line` counts the bytes of the trailer line so far, `bytes` those of all.
    Trailer {
        line: u32,
        bytes: u32,
    },
    TrailerLf {
        line: u32,
        bytes: u32,
    },
    Done,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size { size: 0, digits: 0 },
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads `input`, hands each piece of data to `data`, and returns how many bytes it used: all, unless the body is done.
    pub(super) fn read(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, CallError> {
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
fn step(state: State, byte: u8) -> Result<State, CallError> {
    let bad = |what| Err(CallError::BadAnswer(what));
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
        (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => State::SizeLf { size },
        (State::Size { size, .. }, b';' | b' ' | b'\t') => State::Extension { size, bytes: 1 },
        (State::Size { .. }, _) => return bad("a chunk size is not hexadecimal"),
        (State::Extension { .. }, b'\n' | 0) => return bad("a chunk extension is malformed"),
        (
            State::Extension {
                bytes: EXTENSION_BYTES_MAX,
                ..
            },
            _,
        ) => return bad("a chunk extension is too long"),
        (State::Extension { size, bytes }, _) => State::Extension {
            size,
            bytes: bytes + 1,
        },
        (State::SizeLf { size: 0 }, b'\n') => State::Trailer { line: 0, bytes: 0 },
        (State::SizeLf { size }, b'\n') => State::Data { left: size },
        (State::SizeLf { .. }, _) => return bad("a chunk size does not end with CR LF"),
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
        (State::DataCr | State::DataLf, _) => return bad("a chunk does not end with CR LF"),
        (State::Trailer { line, bytes }, b'\r') => State::TrailerLf { line, bytes },
        (State::Trailer { .. }, b'\n' | 0) => return bad("a trailer is malformed"),
        (State::Trailer { bytes, .. }, _) if bytes >= TRAILER_BYTES_MAX => {
            return bad("the trailers are too long");
        }
        (State::Trailer { line, bytes }, _) => State::Trailer {
            line: line + 1,
            bytes: bytes + 1,
        },
        (State::TrailerLf { line: 0, .. }, b'\n') => State::Done,
        (State::TrailerLf { bytes, .. }, b'\n') => State::Trailer {
            line: 0,
            bytes: bytes + 2,
        },
        (State::TrailerLf { .. }, _) => return bad("a trailer does not end with CR LF"),
        // Taken by `read`.
        (State::Data { .. } | State::Done, _) => state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, the bytes used, and whether it ended.
    fn read_in(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), CallError> {
        let (mut chunks, mut data, mut used) = (Chunks::new(), Vec::new(), 0);
        for piece in pieces {
            used += chunks.read(piece, |bytes| data.extend_from_slice(bytes))?;
        }
        Ok((data, used, chunks.is_done()))
    }

    #[test]
    fn every_cut_reads_the_same() {
        let text: &[u8] = b"5\r\nhello\r\n00A;name=\"v\"\r\n\r\n world\r\n\r\n0\r\nX-T: 1\r\n\r\n";
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
            ("bare LF behind the size", "1\na\r\n0\r\n\r\n"),
            ("bare CR behind the size", "1\ra\r\n0\r\n\r\n"),
            ("bare LF in an extension", "1;x\na\r\n0\r\n\r\n"),
            ("bare LF behind the data", "1\r\na\n0\r\n\r\n"),
            ("data too long", "1\r\nab\r\n0\r\n\r\n"),
            ("data too short", "2\r\na\r\n0\r\n\r\n"),
            ("bare LF at the end", "0\r\n\n"),
            ("bare LF in a trailer", "0\r\nA: b\n\r\n"),
            ("bare CR in a trailer", "0\r\nA\rb\r\n\r\n"),
            ("extension over its bound", long_extension.as_str()),
            ("trailers over their bound", long_trailer.as_str()),
        ] {
            let got = read_in(&[text.as_bytes()]);
            assert!(matches!(got, Err(CallError::BadAnswer(_))), "{name}: {got:?}");
        }
    }
}
