//! From a secret's text to the key of a scheme: never guessed from the text, always as the scheme says.

use std::sync::Arc;

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha512;
use zeroize::Zeroizing;

use super::coded::jws::KeySet;
use super::encoding::BASE64;
use super::public_key::{PublicKey, PublicScheme};
use crate::secret::{Key, KeyError, SecretText};

/// What stands before the base64 in a Standard Webhooks secret.
pub(super) const WHSEC: &str = "whsec_";
/// What stands before the base64 in a Standard Webhooks public key.
const WHPK: &str = "whpk_";

/// What a signature is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 (RFC 2104).
    HmacSha256,
    /// HMAC with SHA-1: still what some senders use, and not broken as a MAC.
    HmacSha1,
    /// HMAC with SHA-512.
    HmacSha512,
    /// SHA-256 of a text that holds the secret.
    Sha256,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256 with SHA-256, the signature in DER.
    EcdsaP256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaSha256,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RsaSha512,
    /// The secret itself is sent.
    Token,
    /// `user:password` is sent (RFC 7617).
    Basic,
}

/// How the secret's text becomes the key.
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
    /// A public key's 32 bytes in hex.
    RawHex,
    /// A public key's 32 bytes in base64.
    RawBase64,
    /// The same after `whpk_` (Standard Webhooks).
    Whpk,
    /// A public key in PEM.
    Pem,
    /// A public key's SubjectPublicKeyInfo (RFC 5280) in base64.
    SpkiBase64,
}

/// Why a secret's text cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormError {
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The text does not decode.
    #[error("the secret is not {0}; copy it again from the provider's page")]
    Undecodable(&'static str),
    /// It decodes, and is not a key of the algorithm.
    #[error("the secret is not a public key for {0}; copy it again from the provider's page")]
    NotAPublicKey(&'static str),
    /// Basic authentication needs both.
    #[error("the secret is not `user:password`; write both, with the colon between them")]
    NoColon,
}

/// A key of any scheme. It cannot be printed.
#[derive(Debug, Clone)]
pub enum SchemeKey {
    /// HMAC-SHA256.
    Hmac(Key),
    /// HMAC-SHA1.
    HmacSha1(Prepared<Hmac<Sha1>>),
    /// HMAC-SHA512.
    HmacSha512(Prepared<Hmac<Sha512>>),
    /// The text itself: tokens, passwords, and what is hashed with the signed text.
    Text(SecretText),
    /// A public key.
    Public(PublicKey),
    /// Keys of a JWS, with the secret that they are made of, if it is a shared one.
    Jws(Arc<KeySet>, Option<SecretText>),
    /// The keys are fetched: the secret only says what is accepted.
    Fetched(SecretText),
}

/// A MAC with its key in it.
#[derive(Clone)]
pub struct Prepared<M>(M);

impl<M: Mac + Clone> Prepared<M> {
    /// The tag of `parts` joined.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().to_vec()
    }
}

impl<M> std::fmt::Debug for Prepared<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared(redacted)")
    }
}

impl Algorithm {
    /// Its name in presets and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha512 => "hmac-sha512",
            Self::Sha256 => "sha256",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::RsaSha256 => "rsa-sha256",
            Self::RsaSha512 => "rsa-sha512",
            Self::Token => "token",
            Self::Basic => "basic",
        }
    }

    /// How a public key of this algorithm is used.
    pub(super) fn public_scheme(self) -> Option<PublicScheme> {
        match self {
            Self::Ed25519 => Some(PublicScheme::Ed25519),
            Self::EcdsaP256 => Some(PublicScheme::EcdsaP256Sha256Der),
            Self::RsaSha256 => Some(PublicScheme::RsaPkcs1Sha256),
            Self::RsaSha512 => Some(PublicScheme::RsaPkcs1Sha512),
            _ => None,
        }
    }

    /// Whether the secret is a public key, with which nothing can be signed.
    pub fn is_public(self) -> bool {
        matches!(
            self,
            Self::Ed25519 | Self::EcdsaP256 | Self::RsaSha256 | Self::RsaSha512
        )
    }

    /// Whether the credential itself is sent; it is neither stored nor forwarded.
    pub fn sends_secret(self) -> bool {
        matches!(self, Self::Token | Self::Basic)
    }

    /// Makes the key of a secret.
    ///
    /// # Errors
    /// When the text is not a key of this kind under `form`.
    pub fn key(self, form: KeyForm, text: &SecretText) -> Result<SchemeKey, KeyFormError> {
        if text.expose().is_empty() {
            return Err(KeyError::Empty.into());
        }
        let short = |_| KeyFormError::Key(KeyError::Empty);
        Ok(match self {
            Self::HmacSha256 => SchemeKey::Hmac(form.hmac(text)?),
            Self::HmacSha1 => {
                SchemeKey::HmacSha1(Prepared(Hmac::new_from_slice(&form.bytes(text)?).map_err(short)?))
            }
            Self::HmacSha512 => {
                SchemeKey::HmacSha512(Prepared(Hmac::new_from_slice(&form.bytes(text)?).map_err(short)?))
            }
            Self::Sha256 | Self::Token => SchemeKey::Text(text.clone()),
            Self::Basic if !text.expose().contains(&b':') => return Err(KeyFormError::NoColon),
            Self::Basic => SchemeKey::Text(text.clone()),
            Self::Ed25519 | Self::EcdsaP256 | Self::RsaSha256 | Self::RsaSha512 => {
                let bytes = form.bytes(text)?;
                let key = match form {
                    KeyForm::Pem | KeyForm::SpkiBase64 => PublicKey::from_spki(&bytes),
                    _ => PublicKey::ed25519(&bytes),
                };
                let fits = |key: &PublicKey| self.public_scheme().is_some_and(|scheme| key.fits(scheme));
                let key = key.ok().filter(fits);
                SchemeKey::Public(key.ok_or(KeyFormError::NotAPublicKey(self.name()))?)
            }
        })
    }
}

impl KeyForm {
    /// Its name in presets and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf8",
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Whsec => "whsec",
            Self::RawHex => "raw-hex",
            Self::RawBase64 => "raw-base64",
            Self::Whpk => "whpk",
            Self::Pem => "pem",
            Self::SpkiBase64 => "spki-base64",
        }
    }

    /// Makes the key of HMAC-SHA256.
    ///
    /// # Errors
    /// When the text does not decode under this form, or the key would be empty.
    pub fn hmac(self, text: &SecretText) -> Result<Key, KeyFormError> {
        Ok(Key::new(&self.bytes(text)?)?)
    }

    /// The bytes that the text stands for; at least one.
    pub(super) fn bytes(self, text: &SecretText) -> Result<Zeroizing<Vec<u8>>, KeyFormError> {
        let text = text.expose();
        let base64 = |text: &[u8], name| BASE64.decode(text).map_err(|_| KeyFormError::Undecodable(name));
        let after = |prefix: &str| text.strip_prefix(prefix.as_bytes()).unwrap_or(text);
        let decoded = match self {
            Self::Utf8 => text.to_vec(),
            Self::Hex | Self::RawHex => hex::decode(text).map_err(|_| KeyFormError::Undecodable("hex"))?,
            Self::Base64 | Self::RawBase64 | Self::SpkiBase64 => base64(text, "base64")?,
            Self::Whsec => base64(after(WHSEC), "base64 after `whsec_`")?,
            Self::Whpk => base64(after(WHPK), "base64 after `whpk_`")?,
            Self::Pem => pem(text, "PUBLIC KEY").ok_or(KeyFormError::Undecodable("a public key in PEM"))?,
        };
        if decoded.is_empty() {
            return Err(KeyError::Empty.into());
        }
        Ok(Zeroizing::new(decoded))
    }
}

/// The bytes between the lines that begin and end a `label` (RFC 7468); blanks and line ends in them do not count.
pub(super) fn pem(text: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (inside, _) = rest.split_once(&format!("-----END {label}-----"))?;
    // A variable of the environment often has its line ends as `\n`.
    let inside: String = inside.replace("\\n", "").split_ascii_whitespace().collect();
    BASE64.decode(inside).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::TAG_BYTES;

    fn tag(form: KeyForm, text: &str) -> Result<[u8; TAG_BYTES], KeyFormError> {
        form.hmac(&SecretText::new(text.into()))
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
}
