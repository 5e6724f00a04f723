//! A key can check a tag and make one. It cannot be read, printed or serialised.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of an HMAC-SHA256 tag.
pub const TAG_BYTES: usize = 32;

/// Below this many bytes a secret is worth a warning.
pub const SECRET_BYTES_WEAK: usize = 16;

/// Why bytes cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An empty key would let anyone sign.
    #[error("the secret is empty, so anyone could sign with it; put the provider's secret there")]
    Empty,
}

/// An HMAC-SHA256 key with its schedule prepared once.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Takes the key bytes as the scheme defines them (no decoding happens here).
    ///
    /// # Errors
    /// Refuses an empty key.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| KeyError::Empty)
    }

    /// Whether `tag` is the tag of `parts` joined; in constant time over the tag.
    #[must_use]
    pub fn check(&self, parts: &[&[u8]], tag: &[u8; TAG_BYTES]) -> bool {
        self.feed(parts).verify_slice(tag).is_ok()
    }

    /// The tag of `parts` joined.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        self.feed(parts).finalize().into_bytes().into()
    }

    fn feed(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Secret text on its way from its source to a [`Key`]: wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretText(zeroize::Zeroizing<Vec<u8>>);

impl SecretText {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(zeroize::Zeroizing::new(bytes))
    }

    /// The bytes, for making a [`Key`] or for `verify --explain`; never for printing.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231_case_2() {
        let key = Key::new(b"Jefe").unwrap();
        let tag = key.tag(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            hex::encode(tag),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(key.check(&[b"what do ya want for nothing?"], &tag));
        assert!(!key.check(&[b"what do ya want for nothing!"], &tag));
    }

    #[test]
    fn an_empty_key_is_refused_and_no_key_is_printed() {
        assert_eq!(Key::new(b"").unwrap_err(), KeyError::Empty);
        assert_eq!(format!("{:?}", Key::new(b"canary").unwrap()), "Key(redacted)");
        assert_eq!(
            format!("{:?}", SecretText::new(b"canary".to_vec())),
            "SecretText(redacted)"
        );
    }
}
