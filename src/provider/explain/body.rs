//! The bytes that may have been signed instead of the body at hand.

use std::borrow::Cow;

use crate::fields::Fields;

use super::{Difference, json};

/// A body, and how it differs from the one at hand.
pub(super) struct Variant<'b> {
    pub(super) bytes: Cow<'b, [u8]>,
    pub(super) difference: Option<Difference>,
}

const MARK: &[u8] = b"\xef\xbb\xbf";

/// Every body that is tried, the one at hand first.
pub(super) fn variants<'b>(headers: &Fields, body: &'b [u8]) -> Vec<Variant<'b>> {
    let mut variants = vec![Variant {
        bytes: Cow::Borrowed(body),
        difference: None,
    }];
    let mut add = |bytes: Cow<'b, [u8]>, difference| {
        if variants.iter().all(|known| known.bytes != bytes) {
            variants.push(Variant {
                bytes,
                difference: Some(difference),
            });
        }
    };
    match body.strip_prefix(MARK) {
        Some(rest) => add(Cow::Borrowed(rest), Difference::BodyMarkAdded),
        None => add(Cow::Owned([MARK, body].concat()), Difference::BodyMarkLost),
    }
    if let Some(line) = body.strip_suffix(b"\n") {
        let bare = line.strip_suffix(b"\r").unwrap_or(line);
        add(Cow::Borrowed(bare), Difference::BodyLineEndAdded);
        add(Cow::Borrowed(line), Difference::BodyLineEndAdded);
    }
    let trimmed = body.trim_ascii_end();
    add(Cow::Borrowed(trimmed), Difference::BodyLineEndAdded);
    for end in [&b"\n"[..], b"\r\n"] {
        add(Cow::Owned([body, end].concat()), Difference::BodyLineEndLost);
    }
    let unix = replace(body, b"\r\n", b"\n");
    add(
        Cow::Owned(replace(&unix, b"\n", b"\r\n")),
        Difference::BodyLineEnds("CRLF"),
    );
    add(Cow::Owned(unix), Difference::BodyLineEnds("LF"));
    for (bytes, style) in json::rewritten(body.strip_prefix(MARK).unwrap_or(body)) {
        add(Cow::Owned(bytes), Difference::BodyJson(style));
    }
    for (start, what) in with_headers(headers) {
        add(
            Cow::Owned([&start, body].concat()),
            Difference::BodyWith(what.into()),
        );
    }
    add(Cow::Borrowed(b""), Difference::BodyEmpty);
    variants
}

/// What well-known schemes sign before the body, from the headers of this request.
fn with_headers(headers: &Fields) -> Vec<(Vec<u8>, String)> {
    /// More headers of that name are not tried.
    const TIMESTAMPS_MAX: usize = 4;
    let mut starts = Vec::new();
    let named = headers
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).to_ascii_lowercase(), value))
        .filter(|(name, _)| name.ends_with("timestamp"));
    for (name, value) in named.take(TIMESTAMPS_MAX) {
        for joiner in [".", ":", ""] {
            let start = [value, joiner.as_bytes()].concat();
            starts.push((start, format!("`{name}`, `{joiner}` and the body")));
        }
        let start = [b"v0:", value, b":"].concat();
        starts.push((start, format!("`v0:`, `{name}`, `:` and the body")));
    }
    for family in ["webhook", "svix"] {
        let (id, time) = (format!("{family}-id"), format!("{family}-timestamp"));
        if let (Some(id), Some(time)) = (headers.first(&id), headers.first(&time)) {
            let start = [id, b".", time, b"."].concat();
            let what =
                format!("`{family}-id`, `.`, `{family}-timestamp`, `.` and the body (Standard Webhooks)");
            starts.push((start, what));
        }
    }
    starts
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = 0;
    for at in memchr::memmem::find_iter(bytes, from) {
        replaced.extend_from_slice(bytes.get(rest..at).unwrap_or_default());
        replaced.extend_from_slice(to);
        rest = at + from.len();
    }
    replaced.extend_from_slice(bytes.get(rest..).unwrap_or_default());
    replaced
}
