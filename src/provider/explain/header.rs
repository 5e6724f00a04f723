//! Finds digests in headers, more generously than the scheme does.

use crate::fields::Fields;
use base64::Engine;

use super::Difference;
use crate::provider::body_hmac::BodyHmac;
use crate::provider::encoding::{BASE64, BASE64_URL, Encoding, Prefix, trim};
use crate::provider::signature::SIGNATURES_MAX;
use crate::secret::TAG_BYTES;

/// A digest, and what keeps the scheme from reading it.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) header: Box<str>,
    pub(super) digest: [u8; TAG_BYTES],
    pub(super) differences: Vec<Difference>,
}

/// Every digest of a request, at most [`SIGNATURES_MAX`]; those of the scheme's own headers first.
pub(super) fn readings(scheme: &BodyHmac, headers: &Fields) -> Vec<Reading> {
    let is_own = |name: &str| scheme.headers.iter().any(|own| &**own == name);
    let refused = scheme.read(headers).is_err();
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for (name, value) in headers.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = trim(value);
        for digest in digests(value) {
            let mut differences = Vec::new();
            if !is_own(&name) {
                differences.push(Difference::OtherHeader {
                    found: name.as_str().into(),
                    read: scheme.headers.clone(),
                });
            } else if headers.values(&name).count() > 1 {
                differences.push(Difference::HeaderRepeated);
            }
            differences.extend(around(&scheme.prefix, digest.before, digest.behind));
            if !digest.written.is_read_by(scheme.encoding) {
                differences.push(Difference::Encoding(digest.written.name()));
            }
            if differences.is_empty() && refused {
                differences.push(Difference::HeaderContradicted);
            }
            let list = if is_own(&name) { &mut own } else { &mut other };
            list.push(Reading {
                header: name.as_str().into(),
                digest: digest.bytes,
                differences,
            });
        }
    }
    own.append(&mut other);
    own.truncate(SIGNATURES_MAX);
    own
}

/// The headers of `readings`, each once.
pub(super) fn names(readings: &[Reading]) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = readings.iter().map(|reading| reading.header.clone()).collect();
    names.dedup();
    names
}

fn around(prefix: &Prefix, before: &[u8], behind: &[u8]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let known = prefix
        .text()
        .is_some_and(|text| before.eq_ignore_ascii_case(text.as_bytes()));
    match (prefix, before) {
        (_, _) if known => {}
        (Prefix::Required(text), []) => differences.push(Difference::PrefixMissing(text.clone())),
        (_, []) => {}
        (_, _) => differences.push(Difference::PrefixOther(prefix.text().map(Into::into))),
    }
    if !behind.is_empty() {
        differences.push(Difference::TextBehind);
    }
    differences
}

struct Digest<'v> {
    bytes: [u8; TAG_BYTES],
    before: &'v [u8],
    behind: &'v [u8],
    written: Written,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Hex,
    Base64,
    Base64Url,
    Base64OfHex,
}

impl Written {
    fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url => "base64 in the URL alphabet",
            Self::Base64OfHex => "base64 of hex digits",
        }
    }

    fn is_read_by(self, encoding: Encoding) -> bool {
        match encoding {
            Encoding::Hex => self == Self::Hex,
            Encoding::Base64 => self == Self::Base64,
            Encoding::Base64Url => self == Self::Base64Url,
            Encoding::HexOrBase64 => matches!(self, Self::Hex | Self::Base64),
        }
    }
}

/// The digests in one value: runs of letters, digits and `+/-_` of the right length, with base64's padding.
fn digests(value: &[u8]) -> Vec<Digest<'_>> {
    let in_run = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let mut found = Vec::new();
    let mut start = 0;
    while let Some((before, rest)) = value.split_at_checked(start) {
        let Some(skip) = rest.iter().position(in_run) else {
            break;
        };
        let (_, rest) = rest.split_at(skip);
        let length = rest.iter().position(|byte| !in_run(byte)).unwrap_or(rest.len());
        let (run, rest) = rest.split_at(length);
        let padding = rest.iter().take_while(|byte| **byte == b'=').count();
        start = before.len() + skip + length;
        if let Some((bytes, written, used)) = digest(run) {
            // Only base64 is padded.
            let padding = if written == Written::Hex { 0 } else { padding };
            let begin = start - length;
            found.push(Digest {
                bytes,
                before: value.get(..begin).unwrap_or_default(),
                behind: trim(value.get(begin + used + padding..).unwrap_or_default()),
                written,
            });
        }
    }
    found
}

/// The digest at the start of `run`, and how many bytes of it were used.
fn digest(run: &[u8]) -> Option<([u8; TAG_BYTES], Written, usize)> {
    if let Some(digits) = run.get(..2 * TAG_BYTES)
        && let Some(bytes) = Encoding::Hex.decode(digits)
    {
        return Some((bytes, Written::Hex, digits.len()));
    }
    let whole = |written| move |bytes| (bytes, written, run.len());
    let url = || BASE64_URL.decode(run).ok()?.try_into().ok();
    let of_hex = || Encoding::Hex.decode(&BASE64.decode(run).ok()?);
    (Encoding::Base64.decode(run).map(whole(Written::Base64)))
        .or_else(|| url().map(whole(Written::Base64Url)))
        .or_else(|| of_hex().map(whole(Written::Base64OfHex)))
}
