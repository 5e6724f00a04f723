//! From the fuzzer's bytes to what a sender writes.

use super::super::hmac::{base64, hex, hmac};
use super::SECRETS;

/// `SIGNATURE + n`: the hex of route `n`'s signature over the next body.
pub(crate) const SIGNATURE: u8 = 0xe0;
/// `PREFIXED + n`: the same after `sha256=`.
pub(crate) const PREFIXED: u8 = 0xe8;
/// The base64 of the last route's.
pub(crate) const BASE64: u8 = 0xed;
/// The length of the next body.
pub(crate) const LENGTH: u8 = 0xf0;
/// A body follows, as it is.
pub(crate) const BODY: u8 = 0xf1;
/// A body follows; it is sent in chunks.
pub(crate) const CHUNKED: u8 = 0xf2;
/// The body ends.
pub(crate) const END: u8 = 0xf3;

const LAST: u8 = SECRETS.len() as u8 - 1;
/// More are sent as they stand: signing is slow.
const SIGNATURES_MAX: usize = 6;

/// Replaces the marks.
pub(super) fn play(script: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * script.len());
    let mut signatures = 0;
    let mut rest = script;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            SIGNATURE..=BASE64 if signatures < SIGNATURES_MAX => {
                signatures += 1;
                let route = match byte {
                    BASE64 => LAST,
                    PREFIXED.. => byte - PREFIXED,
                    _ => (byte - SIGNATURE) % (LAST + 1),
                };
                let tag = hmac(SECRETS[usize::from(route)].1, next_body(rest));
                if (PREFIXED..BASE64).contains(&byte) {
                    out.extend_from_slice(b"sha256=");
                }
                out.extend_from_slice(&if byte == BASE64 { base64(&tag) } else { hex(&tag) });
            }
            LENGTH => out.extend_from_slice(next_body(rest).len().to_string().as_bytes()),
            BODY | CHUNKED => {
                let body = upto_end(rest);
                rest = rest.get(body.len() + 1..).unwrap_or_default();
                if byte == BODY {
                    out.extend_from_slice(body);
                } else {
                    chunk(body, &mut out);
                }
            }
            _ => out.push(byte),
        }
    }
    out
}

fn next_body(rest: &[u8]) -> &[u8] {
    let begin = rest.iter().position(|byte| matches!(*byte, BODY | CHUNKED));
    begin.map_or(&[], |begin| upto_end(&rest[begin + 1..]))
}

fn upto_end(rest: &[u8]) -> &[u8] {
    let end = rest.iter().position(|byte| *byte == END);
    &rest[..end.unwrap_or(rest.len())]
}

fn chunk(body: &[u8], out: &mut Vec<u8>) {
    let size = 1 + body.first().map_or(0, |byte| usize::from(byte % 16));
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}
