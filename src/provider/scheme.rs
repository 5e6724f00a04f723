//! A scheme: how one kind of signature is made and carried.

use crate::secret::{Key, SecretText};

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
    pub fn key(self, _text: &SecretText) -> Result<Key, KeyFormError> {
        unimplemented!("provider helper")
    }
}
