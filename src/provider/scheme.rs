//! A scheme: how one kind of signature is made and carried.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::secret::{Key, SecretText, TAG_BYTES};

/// Base64 in the standard alphabet, padded or not, and no other spelling of the same bytes.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What stands before the base64 in a Standard Webhooks secret.
pub(super) const WHSEC: &str = "whsec_";

/// HMAC-SHA256 over the raw body, carried in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// Header names in lower case, in order of preference. Where several are sent, all must carry one digest.
    pub headers: Vec<Box<str>>,
    /// What stands before the digest.
    pub prefix: Prefix,
    /// How the digest is written.
    pub encoding: Encoding,
    /// How the secret's text becomes key bytes.
    pub key: KeyForm,
}

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

/// How the digest is written; always the whole 32 bytes and nothing after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 64 hex digits of either case.
    Hex,
    /// Base64 in the standard alphabet, padded or not.
    Base64,
    /// Told apart by length.
    HexOrBase64,
}

/// How the secret's text becomes key bytes; never guessed from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// The text's own bytes, whatever it begins with.
    Utf8,
    /// The text is hex.
    Hex,
    /// The text is base64.
    Base64,
    /// The text is base64 after `whsec_` (Standard Webhooks).
    Whsec,
}

/// Why a secret's text cannot be a key under a [`KeyForm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormError {
    /// See [`crate::secret::KeyError`].
    #[error(transparent)]
    Key(#[from] crate::secret::KeyError),
    /// The text does not decode.
    #[error("the secret is not {0}; copy it again from the provider's page")]
    Undecodable(&'static str),
}

impl KeyForm {
    /// Makes the key.
    ///
    /// # Errors
    /// When the text does not decode under this form, or the key would be empty.
    pub fn key(self, text: &SecretText) -> Result<Key, KeyFormError> {
        let text = text.expose();
        let decoded = match self {
            Self::Utf8 => return Ok(Key::new(text)?),
            Self::Hex => hex::decode(text).map_err(|_| KeyFormError::Undecodable("hex"))?,
            Self::Base64 => BASE64
                .decode(text)
                .map_err(|_| KeyFormError::Undecodable("base64"))?,
            Self::Whsec => BASE64
                .decode(text.strip_prefix(WHSEC.as_bytes()).unwrap_or(text))
                .map_err(|_| KeyFormError::Undecodable("base64 after `whsec_`"))?,
        };
        Ok(Key::new(&Zeroizing::new(decoded))?)
    }
}

impl Encoding {
    /// Decodes exactly one digest and nothing around it.
    pub(super) fn decode(self, text: &[u8]) -> Option<[u8; TAG_BYTES]> {
        let hex = match self {
            Self::Hex => true,
            Self::Base64 => false,
            Self::HexOrBase64 => text.len() == 2 * TAG_BYTES,
        };
        let mut digest = [0; TAG_BYTES];
        if hex {
            hex::decode_to_slice(text, &mut digest).ok()?;
            return Some(digest);
        }
        let bytes = BASE64.decode_slice(text, &mut digest).ok()?;
        (bytes == TAG_BYTES).then_some(digest)
    }

    /// Writes a digest; where both are read, as hex.
    pub(super) fn encode(self, digest: &[u8; TAG_BYTES]) -> String {
        match self {
            Self::Hex | Self::HexOrBase64 => hex::encode(digest),
            Self::Base64 => BASE64.encode(digest),
        }
    }
}

impl Prefix {
    /// The prefix's text, where there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Required(text) | Self::Optional(text) => Some(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::KeyError;

    fn tag(form: KeyForm, text: &str) -> Result<[u8; TAG_BYTES], KeyFormError> {
        form.key(&SecretText::new(text.into()))
            .map(|key| key.tag(&[b"body"]))
    }

    #[test]
    fn a_key_form_is_followed_and_never_guessed() {
        let plain = tag(KeyForm::Utf8, "secret").unwrap();
        for (name, form, text, same) in [
            ("hex", KeyForm::Hex, "736563726574", true),
            ("hex in upper case", KeyForm::Hex, "73656372657F", false),
            ("base64", KeyForm::Base64, "c2VjcmV0", true),
            ("whsec", KeyForm::Whsec, "whsec_c2VjcmV0", true),
            ("whsec without its prefix", KeyForm::Whsec, "c2VjcmV0", true),
            (
                "hex-looking text stays text",
                KeyForm::Utf8,
                "736563726574",
                false,
            ),
            (
                "whsec-looking text stays text",
                KeyForm::Utf8,
                "whsec_c2VjcmV0",
                false,
            ),
            ("blanks are part of a text", KeyForm::Utf8, "secret\n", false),
        ] {
            assert_eq!(tag(form, text).unwrap() == plain, same, "{name}");
        }
    }

    #[test]
    fn a_text_that_does_not_decode_is_refused() {
        for (form, text, expected) in [
            (KeyForm::Hex, "73z", KeyFormError::Undecodable("hex")),
            (KeyForm::Base64, "c2V jcmV0", KeyFormError::Undecodable("base64")),
            (
                KeyForm::Base64,
                "whsec_c2VjcmV0",
                KeyFormError::Undecodable("base64"),
            ),
            (
                KeyForm::Whsec,
                "whsec_!",
                KeyFormError::Undecodable("base64 after `whsec_`"),
            ),
            (KeyForm::Whsec, "whsec_", KeyFormError::Key(KeyError::Empty)),
            (KeyForm::Utf8, "", KeyFormError::Key(KeyError::Empty)),
            (KeyForm::Hex, "", KeyFormError::Key(KeyError::Empty)),
        ] {
            assert_eq!(tag(form, text).unwrap_err(), expected);
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
