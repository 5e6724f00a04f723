//! How a digest is written in a header's value, and what stands before it.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::secret::TAG_BYTES;

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// Base64 in the standard alphabet, padded or not, and no other spelling of the same bytes.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
/// The same in the alphabet for URLs.
pub(super) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, ANY_PADDING);

/// Longest signature that is read, in bytes: RSA with 8192 bits.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// What stands before the digest in the header's value; compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing may.
    None,
    /// This must.
    Required(Box<str>),
    /// This may, once.
    Optional(Box<str>),
}

impl Prefix {
    /// The prefix's text, where there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Required(text) | Self::Optional(text) => Some(text),
        }
    }

    /// What follows the prefix in `value`; `None` where a required one is missing.
    pub(super) fn strip<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        match self {
            Self::None => Some(value),
            Self::Required(prefix) => strip(value, prefix),
            Self::Optional(prefix) => Some(strip(value, prefix).unwrap_or(value)),
        }
    }
}

/// How the digest is written; always the whole of it and nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Hex digits of either case.
    Hex,
    /// Base64 in the standard alphabet, padded or not.
    Base64,
    /// Base64 in the alphabet for URLs, padded or not.
    Base64Url,
    /// Hex or base64 of 32 bytes, told apart by length.
    HexOrBase64,
}

/// Every request has one: read by a table, since whether a digit is a letter cannot be guessed by a CPU that has to branch on it.
fn hex_digest(text: &[u8]) -> Option<[u8; TAG_BYTES]> {
    let text: &[u8; 2 * TAG_BYTES] = text.try_into().ok()?;
    let (pairs, _) = text.as_chunks::<2>();
    let mut digest = [0; TAG_BYTES];
    let mut all = 0;
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let [high, low] = [high, low].map(|digit| HEX.get(usize::from(*digit)).copied().unwrap_or(0xff));
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all < 16).then_some(digest)
}

/// What each byte stands for as a hex digit; 16 and more: nothing.
#[allow(clippy::indexing_slicing, reason = "done when it is compiled")]
const HEX: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        let (lower, upper) = (b"0123456789abcdef"[digit], b"0123456789ABCDEF"[digit]);
        values[lower as usize] = digit as u8;
        values[upper as usize] = digit as u8;
        digit += 1;
    }
    values
};

impl Encoding {
    /// Decodes exactly one digest of HMAC-SHA256 and nothing around it.
    pub(super) fn decode(self, text: &[u8]) -> Option<[u8; TAG_BYTES]> {
        let mut digest = [0; TAG_BYTES];
        let engine = match self {
            Self::Base64 => &BASE64,
            Self::Base64Url => &BASE64_URL,
            Self::HexOrBase64 if text.len() != 2 * TAG_BYTES => &BASE64,
            Self::Hex | Self::HexOrBase64 => return hex_digest(text),
        };
        let bytes = engine.decode_slice(text, &mut digest).ok()?;
        (bytes == TAG_BYTES).then_some(digest)
    }

    /// Decodes a signature of any length.
    pub(super) fn decode_any(self, text: &[u8]) -> Option<Vec<u8>> {
        if text.is_empty() || text.len() > 2 * SIGNATURE_BYTES_MAX {
            return None;
        }
        match self {
            Self::Hex => hex::decode(text).ok(),
            Self::Base64 => BASE64.decode(text).ok(),
            Self::Base64Url => BASE64_URL.decode(text).ok(),
            Self::HexOrBase64 => self.decode(text).map(|digest| digest.to_vec()),
        }
    }

    /// Writes a digest; where both are read, as hex.
    pub(super) fn encode(self, digest: &[u8]) -> String {
        match self {
            Self::Hex | Self::HexOrBase64 => hex::encode(digest),
            Self::Base64 => BASE64.encode(digest),
            // As its senders do: without padding.
            Self::Base64Url => base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest),
        }
    }

    /// Its name in presets and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url => "base64url",
            Self::HexOrBase64 => "hex-or-base64",
        }
    }
}

/// Drops the blanks that HTTP allows around a value (RFC 9110, 5.5), and no others.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What follows `prefix`, whatever its case.
pub(super) fn strip<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_digits_are_those_of_the_library() {
        for byte in 0..=255_u8 {
            for place in [0, 1, 30, 31, 62, 63] {
                let mut text = *b"0123456789abcdef0123456789ABCDEFfedcba9876543210FEDCBA9876543210";
                text[place] = byte;
                let expected = hex::decode(text).ok();
                assert_eq!(
                    hex_digest(&text).map(|digest| digest.to_vec()),
                    expected,
                    "{byte} at {place}"
                );
            }
        }
    }

    #[test]
    fn a_digest_is_read_whole_or_not_at_all() {
        let hex = "0f".repeat(32);
        let base64 = BASE64.encode([0x0f; 32]);
        let bare = base64.trim_end_matches('=').to_owned();
        let not_canonical = format!("{}9=", &base64[..42]);
        for (name, encoding, text, good) in [
            ("hex", Encoding::Hex, hex.clone(), true),
            ("upper-case hex", Encoding::Hex, hex.to_uppercase(), true),
            ("one digit short", Encoding::Hex, hex[1..].to_owned(), false),
            ("one digit long", Encoding::Hex, format!("{hex}0"), false),
            ("two digits long", Encoding::Hex, format!("{hex}00"), false),
            ("not hex", Encoding::Hex, format!("{}g", &hex[1..]), false),
            ("base64 where hex is due", Encoding::Hex, base64.clone(), false),
            ("padded", Encoding::Base64, base64.clone(), true),
            ("bare", Encoding::Base64, bare.clone(), true),
            ("two pads", Encoding::Base64, format!("{base64}="), false),
            (
                "another spelling of the last byte",
                Encoding::Base64,
                not_canonical,
                false,
            ),
            ("url alphabet", Encoding::Base64, bare.replace('D', "_"), false),
            ("33 bytes", Encoding::Base64, BASE64.encode([1; 33]), false),
            ("31 bytes", Encoding::Base64, BASE64.encode([1; 31]), false),
            ("hex where base64 is due", Encoding::Base64, hex.clone(), false),
            ("either: hex", Encoding::HexOrBase64, hex, true),
            ("either: padded", Encoding::HexOrBase64, base64, true),
            ("either: bare", Encoding::HexOrBase64, bare, true),
            ("either: nothing", Encoding::HexOrBase64, String::new(), false),
        ] {
            assert_eq!(encoding.decode(text.as_bytes()).is_some(), good, "{name}");
        }
    }
}
