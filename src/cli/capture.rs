//! A captured request: head and body of one HTTP/1.1 request in a file, as `tcpdump`, a proxy or a person wrote it.

use std::borrow::Cow;
use std::io::Read;

use http::{HeaderName, HeaderValue};

use super::error::CliError;
use crate::fields::Fields;

/// A captured request.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    /// The method, where the capture says it.
    pub(super) method: Option<String>,
    /// Path and query, or the whole URL of a curl command.
    pub(super) target: Option<String>,
    pub(super) headers: Fields,
    pub(super) body: Vec<u8>,
}

impl Capture {
    /// The query, without `?`.
    pub(super) fn query(&self) -> Option<&str> {
        self.target.as_deref()?.split_once('?').map(|(_, query)| query)
    }

    /// The URL of a curl command, without its query.
    pub(super) fn url(&self) -> Option<&str> {
        let target = self.target.as_deref()?;
        let url = target.split('?').next()?;
        url.contains("://").then_some(url)
    }
}

/// Reads a capture, or a `curl` command as browsers and request inspectors offer it; `input` is standard input, where the bytes
/// did not come from it.
pub(super) fn read(bytes: &[u8], input: Option<&mut dyn Read>) -> Result<Capture, CliError> {
    match std::str::from_utf8(bytes).ok().and_then(super::curl::command) {
        Some(arguments) => super::curl::parse(arguments, input),
        None => parse(bytes),
    }
}

/// Reads an optional request line, headers, an empty line and the body; lines of the head end in CRLF or LF.
pub(super) fn parse(bytes: &[u8]) -> Result<Capture, CliError> {
    let mut headers = Vec::new();
    let mut rest = bytes;
    let mut number = 0;
    let (mut method, mut target) = (None, None);
    loop {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return Err(CliError::Capture(Cow::Borrowed(
                "has no empty line between headers and body",
            )));
        };
        number += 1;
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if number == 1 && is_request_line(line) {
            let text = String::from_utf8_lossy(line);
            let mut words = text.split(' ').map(str::to_owned);
            (method, target) = (words.next(), words.next());
        } else {
            headers.push(header(line).ok_or_else(|| no_header(&format!("line {number}"), line))?);
        }
    }
    let headers = Fields::from_pairs(headers);
    if headers.first("transfer-encoding").is_some() {
        return Err(CliError::Capture(Cow::Borrowed(
            "has a chunked body; put the decoded body there and remove the Transfer-Encoding line",
        )));
    }
    Ok(Capture {
        method,
        target,
        headers,
        body: rest.to_vec(),
    })
}

/// Reads `Name: value`.
pub(super) fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii();
    HeaderName::from_bytes(name).ok()?;
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    HeaderValue::from_bytes(value).ok()?;
    Some((name, value))
}

/// The refusal of a line that is no header. It says where the line is and what looks like a name in it, and no more: the rest may
/// be a secret.
pub(super) fn no_header(place: &str, line: &[u8]) -> CliError {
    const NAME_BYTES_MAX: usize = 40;
    let name = memchr::memchr(b':', line).and_then(|colon| line.get(..colon));
    let is_word = |byte: &u8| byte.is_ascii_alphabetic() || b"-_ ".contains(byte);
    let begins = name
        .filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_word))
        .map(|name| format!(", which begins with `{}:`", String::from_utf8_lossy(name)));
    let text = format!(
        "has a line that is not `Name: value`: {place}{}",
        begins.unwrap_or_default()
    );
    CliError::Capture(text.into())
}

fn is_request_line(line: &[u8]) -> bool {
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    version.starts_with(b"HTTP/") && line.len() > version.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_read() {
        for (name, bytes, expected) in [
            (
                "with a request line",
                &b"POST /hooks HTTP/1.1\r\nX-A: 1\r\n\r\n{}"[..],
                Some((1, &b"{}"[..])),
            ),
            ("without", b"X-A: 1\nX-B:2\n\n{}\n", Some((2, b"{}\n"))),
            (
                "a body of lines",
                b"X-A: 1\r\n\r\na\r\n\r\nb",
                Some((1, b"a\r\n\r\nb")),
            ),
            ("an empty body", b"X-A: 1\r\n\r\n", Some((1, b""))),
            ("no headers", b"\n{}", Some((0, b"{}"))),
            ("no empty line", b"X-A: 1\r\n{}", None),
            ("nothing", b"", None),
            ("no header", b"X-A: 1\nnothing\n\n{}", None),
            ("a name with a blank", b"X A: 1\n\n{}", None),
            (
                "chunked",
                b"Transfer-Encoding: chunked\n\n2\r\n{}\r\n0\r\n\r\n",
                None,
            ),
        ] {
            let got = parse(bytes).ok();
            let got = got
                .as_ref()
                .map(|capture| (capture.headers.len(), &*capture.body));
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn a_line_that_is_no_header_is_named_and_not_shown() {
        for (bytes, said) in [
            (&b"POST / HTTP/1.1\r\nX-A: 1\r\ncanary\r\n\r\n"[..], "line 3"),
            (b"X A: canary\n\n{}", "line 1, which begins with `X A:`"),
            (b"X-A: 1\nX-B: canary\x01\n\n", "line 2, which begins with `X-B:`"),
            (b"canary4/canary: x\n\n", "line 1"),
        ] {
            let refused = parse(bytes).unwrap_err().to_string();
            assert_eq!(
                refused,
                format!("the captured request has a line that is not `Name: value`: {said}")
            );
        }
    }
}
