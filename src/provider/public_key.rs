//! Public keys of senders, and the checks that *ring* makes with them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

/// Bytes of PEM text that are read.
pub const PEM_BYTES_MAX: usize = 16 * 1024;

/// How a signature is made with a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicScheme {
    /// RSASSA-PKCS1-v1_5 with SHA-1. Only for senders that offer nothing better.
    RsaPkcs1Sha1,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256, salt of 32 bytes.
    RsaPssSha256,
    /// ECDSA on P-256 with SHA-256; the signature is R and S, 64 bytes.
    EcdsaP256Sha256,
    /// The same with the signature in DER (RFC 3279, 2.2.3).
    EcdsaP256Sha256Der,
    /// ECDSA on P-384 with SHA-384; the signature is R and S, 96 bytes.
    EcdsaP384Sha384,
    /// Ed25519.
    Ed25519,
}

/// Why a text or some bytes are not a key that can be used, or why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// No PEM block of a public key.
    #[error("no public key in the PEM text; give the block from -----BEGIN PUBLIC KEY----- to its END line")]
    NotPem,
    /// A private key was given.
    #[error("that is a private key, which a verifier must not hold; give the sender's public key")]
    Private,
    /// Not a DER key of a known kind.
    #[error("not a public key of a known kind; use RSA (2048 to 8192 bits), EC P-256 or P-384, or Ed25519")]
    Unsupported,
    /// The key is of another kind than the scheme needs.
    #[error("the key is of another kind than the signature's algorithm needs")]
    Kind,
    /// The signature does not match.
    #[error("the signature does not match under this key")]
    Mismatch,
}

/// A public key that verifies and does nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Rsa { n: Box<[u8]>, e: Box<[u8]> },
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

/// The whole header of a SubjectPublicKeyInfo, up to the key's own bytes (RFC 5480, RFC 8410).
const SPKI_P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
    \x3d\x03\x01\x07\x03\x42\x00";
const SPKI_P384: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
const SPKI_ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// rsaEncryption with its NULL (RFC 3279, section 2.3.1).
const RSA_ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----` (SubjectPublicKeyInfo) or `-----BEGIN RSA PUBLIC KEY-----` (PKCS #1).
    ///
    /// # Errors
    /// Every [`PublicKeyError`] but `Kind` and `Mismatch`.
    pub fn from_pem(text: &str) -> Result<Self, PublicKeyError> {
        if text.len() > PEM_BYTES_MAX {
            return Err(PublicKeyError::NotPem);
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(PublicKeyError::Private);
        }
        if let Some(der) = pem_block(text, "PUBLIC KEY") {
            return Self::from_spki(&der);
        }
        let der = pem_block(text, "RSA PUBLIC KEY").ok_or(PublicKeyError::NotPem)?;
        rsa_pkcs1(&der).ok_or(PublicKeyError::Unsupported)
    }

    /// Reads a DER SubjectPublicKeyInfo (RFC 5280, section 4.1), as a certificate holds it.
    ///
    /// # Errors
    /// `Unsupported` for any other bytes.
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        if let Some(point) = der.strip_prefix(SPKI_P256) {
            return Self::p256(point);
        }
        if let Some(point) = der.strip_prefix(SPKI_P384) {
            return Self::p384(point);
        }
        if let Some(key) = der.strip_prefix(SPKI_ED25519) {
            return Self::ed25519(key);
        }
        rsa_spki(der).ok_or(PublicKeyError::Unsupported)
    }

    /// An RSA key of modulus and exponent, both big endian.
    ///
    /// # Errors
    /// `Unsupported` below 2048 bits, above 8192, or with an exponent that *ring* would refuse.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<Self, PublicKeyError> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let large = match n {
            [first, ..] if n.len() == 256 => *first >= 0x80,
            _ => n.len() > 256 && n.len() <= 1024,
        };
        let odd = e.last().is_some_and(|last| last % 2 == 1);
        if !large || !odd || e == [1] || e.len() > 4 {
            return Err(PublicKeyError::Unsupported);
        }
        Ok(Self(Kind::Rsa {
            n: n.into(),
            e: e.into(),
        }))
    }

    /// An uncompressed point on P-256: 4, X and Y.
    ///
    /// # Errors
    /// `Unsupported` for another form. Whether it lies on the curve shows when it is used: then nothing verifies.
    pub fn p256(point: &[u8]) -> Result<Self, PublicKeyError> {
        uncompressed(point, 65).map(|point| Self(Kind::P256(point)))
    }

    /// An uncompressed point on P-384: 4, X and Y.
    ///
    /// # Errors
    /// As for [`Self::p256`].
    pub fn p384(point: &[u8]) -> Result<Self, PublicKeyError> {
        uncompressed(point, 97).map(|point| Self(Kind::P384(point)))
    }

    /// The 32 bytes of an Ed25519 key.
    ///
    /// # Errors
    /// `Unsupported` for another length.
    pub fn ed25519(key: &[u8]) -> Result<Self, PublicKeyError> {
        if key.len() != 32 {
            return Err(PublicKeyError::Unsupported);
        }
        Ok(Self(Kind::Ed25519(key.into())))
    }

    /// Whether the key is of the kind that `scheme` needs.
    #[must_use]
    pub fn fits(&self, scheme: PublicScheme) -> bool {
        match (&self.0, scheme) {
            (Kind::P256(_), PublicScheme::EcdsaP256Sha256 | PublicScheme::EcdsaP256Sha256Der)
            | (Kind::P384(_), PublicScheme::EcdsaP384Sha384)
            | (Kind::Ed25519(_), PublicScheme::Ed25519) => true,
            (Kind::Rsa { .. }, scheme) => rsa_parameters(scheme).is_some(),
            _ => false,
        }
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// `Kind` when the key does not fit the scheme, `Mismatch` when the signature is another's.
    pub fn verify(
        &self,
        scheme: PublicScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), PublicKeyError> {
        let checked = match (&self.0, scheme) {
            (Kind::Rsa { n, e }, scheme) => {
                let parameters = rsa_parameters(scheme).ok_or(PublicKeyError::Kind)?;
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Kind::P256(point), PublicScheme::EcdsaP256Sha256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Kind::P256(point), PublicScheme::EcdsaP256Sha256Der) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point).verify(message, signature)
            }
            (Kind::P384(point), PublicScheme::EcdsaP384Sha384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Kind::Ed25519(key), PublicScheme::Ed25519) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature)
            }
            _ => return Err(PublicKeyError::Kind),
        };
        checked.map_err(|_| PublicKeyError::Mismatch)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Rsa { .. } => "PublicKey(RSA)",
            Kind::P256(_) => "PublicKey(P-256)",
            Kind::P384(_) => "PublicKey(P-384)",
            Kind::Ed25519(_) => "PublicKey(Ed25519)",
        })
    }
}

fn rsa_parameters(scheme: PublicScheme) -> Option<&'static RsaParameters> {
    match scheme {
        PublicScheme::RsaPkcs1Sha1 => Some(&signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
        PublicScheme::RsaPkcs1Sha256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        PublicScheme::RsaPkcs1Sha384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        PublicScheme::RsaPkcs1Sha512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        PublicScheme::RsaPssSha256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        PublicScheme::EcdsaP256Sha256
        | PublicScheme::EcdsaP256Sha256Der
        | PublicScheme::EcdsaP384Sha384
        | PublicScheme::Ed25519 => None,
    }
}

fn without_zeros(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

fn uncompressed(point: &[u8], bytes: usize) -> Result<Box<[u8]>, PublicKeyError> {
    if point.len() != bytes || point.first() != Some(&4) {
        return Err(PublicKeyError::Unsupported);
    }
    Ok(point.into())
}

fn rsa_spki(der: &[u8]) -> Option<PublicKey> {
    let (spki, rest) = element(der, SEQUENCE)?;
    let (bits, after) = element(spki.strip_prefix(RSA_ALGORITHM)?, BIT_STRING)?;
    match (bits, rest, after) {
        ([0, key @ ..], [], []) => rsa_pkcs1(key),
        _ => None,
    }
}

/// RSAPublicKey (RFC 8017, A.1.1).
fn rsa_pkcs1(der: &[u8]) -> Option<PublicKey> {
    let (key, rest) = element(der, SEQUENCE)?;
    let (n, after_n) = element(key, INTEGER)?;
    let (e, after_e) = element(after_n, INTEGER)?;
    // A first bit that is set makes a DER integer negative.
    let positive = |number: &[u8]| number.first().is_some_and(|first| *first < 0x80);
    if !rest.is_empty() || !after_e.is_empty() || !positive(n) || !positive(e) {
        return None;
    }
    PublicKey::rsa(n, e).ok()
}

/// The content of the DER element at the start of `der`, and what follows it. Lengths of a byte, and from 256 to 64 KiB
/// in their shortest form (X.690, 10.1): nothing in a key that is large enough lies between.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let der = der.strip_prefix(&[tag])?;
    let (bytes, rest) = match der {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x82, high @ 0x01..=0xff, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(bytes)
}

/// The bytes between the lines of the only block with this label (RFC 7468).
fn pem_block(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, after) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (base64, rest) = after.split_once(&format!("-----END {label}-----"))?;
    if rest.contains("-----BEGIN") {
        return None;
    }
    let base64: String = base64
        .chars()
        .filter(|letter| !letter.is_ascii_whitespace())
        .collect();
    STANDARD.decode(base64).ok()
}

#[cfg(test)]
mod tests {
    use super::super::coded::test_keys::{ED25519_SPKI, P256_SPKI, P384_SPKI, RSA_PKCS1, RSA_SPKI, der};
    use super::*;

    fn pem(label: &str, base64: &str) -> String {
        let lines: Vec<&str> = base64
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN {label}-----\r\n{}\r\n-----END {label}-----\r\n",
            lines.join("\r\n")
        )
    }

    #[test]
    fn keys_as_pem() {
        let unsupported = Some(PublicKeyError::Unsupported);
        let rsa = PublicKey::from_spki(&der(RSA_SPKI)).unwrap();
        for (name, text, expected) in [
            ("RSA", pem("PUBLIC KEY", RSA_SPKI), None),
            ("RSA as PKCS #1", pem("RSA PUBLIC KEY", RSA_PKCS1), None),
            ("P-256", pem("PUBLIC KEY", P256_SPKI), None),
            ("P-384", pem("PUBLIC KEY", P384_SPKI), None),
            ("Ed25519", pem("PUBLIC KEY", ED25519_SPKI), None),
            (
                "text before",
                format!("my key\n{}", pem("PUBLIC KEY", P256_SPKI)),
                None,
            ),
            (
                "PKCS #1 under the other label",
                pem("PUBLIC KEY", RSA_PKCS1),
                unsupported,
            ),
            (
                "SPKI under the other label",
                pem("RSA PUBLIC KEY", RSA_SPKI),
                unsupported,
            ),
            ("nothing between the lines", pem("PUBLIC KEY", ""), unsupported),
            (
                "a private key",
                pem("EC PRIVATE KEY", P256_SPKI),
                Some(PublicKeyError::Private),
            ),
            (
                "a certificate",
                pem("CERTIFICATE", P256_SPKI),
                Some(PublicKeyError::NotPem),
            ),
            (
                "two keys",
                pem("PUBLIC KEY", P256_SPKI) + &pem("PUBLIC KEY", P384_SPKI),
                Some(PublicKeyError::NotPem),
            ),
            ("no armour", RSA_SPKI.to_owned(), Some(PublicKeyError::NotPem)),
            (
                "cut short",
                pem("PUBLIC KEY", RSA_SPKI)[..200].to_owned(),
                Some(PublicKeyError::NotPem),
            ),
        ] {
            assert_eq!(PublicKey::from_pem(&text).err(), expected, "{name}");
        }
        assert_eq!(PublicKey::from_pem(&pem("RSA PUBLIC KEY", RSA_PKCS1)), Ok(rsa));
    }

    #[test]
    fn der_that_is_a_byte_off_is_refused() {
        for spki in [RSA_SPKI, P256_SPKI, P384_SPKI, ED25519_SPKI] {
            let good = der(spki);
            assert!(PublicKey::from_spki(&good).is_ok());
            assert!(
                PublicKey::from_spki(&good[..good.len() - 1]).is_err(),
                "one byte short"
            );
            assert!(
                PublicKey::from_spki(&[&good[..], b"\0"].concat()).is_err(),
                "one byte more"
            );
            for at in 0..24.min(good.len() - 32) {
                let mut bad = good.clone();
                bad[at] ^= 0x40;
                assert!(PublicKey::from_spki(&bad).is_err(), "byte {at} of {spki}");
            }
        }
    }

    #[test]
    fn rsa_keys_are_strict_der() {
        let element = |tag: u8, content: &[u8]| {
            let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
            let length: &[u8] = if high == 0 { &[low] } else { &[0x82, high, low] };
            [&[tag], length, content].concat()
        };
        let n = [vec![0], vec![0xff; 256]].concat();
        let (n, e) = (element(INTEGER, &n), element(INTEGER, &[1, 0, 1]));
        let negative = element(INTEGER, &[0xff; 256]);
        let negative_e = element(INTEGER, &[0x81]);
        let sequence = |parts: &[&[u8]]| element(SEQUENCE, &parts.concat());
        for (name, der, good) in [
            ("plain", sequence(&[&n, &e]), true),
            ("a third number", sequence(&[&n, &e, &e]), false),
            ("no exponent", sequence(&[&n]), false),
            ("something after", [sequence(&[&n, &e]), vec![0]].concat(), false),
            ("a modulus below zero", sequence(&[&negative, &e]), false),
            ("an exponent below zero", sequence(&[&n, &negative_e]), false),
            ("an empty number", sequence(&[&n, &element(INTEGER, &[])]), false),
        ] {
            assert_eq!(rsa_pkcs1(&der).is_some(), good, "{name}");
            let bits = |unused| element(BIT_STRING, &[&[unused][..], &der].concat());
            assert_eq!(
                rsa_spki(&sequence(&[RSA_ALGORITHM, &bits(0)])).is_some(),
                good,
                "{name}, SPKI"
            );
            assert!(
                rsa_spki(&sequence(&[RSA_ALGORITHM, &bits(1)])).is_none(),
                "{name}, unused bits"
            );
            assert!(
                rsa_spki(&sequence(&[RSA_ALGORITHM, &bits(0), &[0]])).is_none(),
                "{name}, more inside"
            );
        }
        let long = pem("RSA PUBLIC KEY", RSA_PKCS1) + &" ".repeat(PEM_BYTES_MAX);
        assert_eq!(PublicKey::from_pem(&long), Err(PublicKeyError::NotPem));
    }

    #[test]
    fn sizes_of_rsa_keys() {
        for (name, n, e, good) in [
            ("2048 bits", vec![0xff; 256], &[1, 0, 1][..], true),
            (
                "2048 bits after a zero",
                [vec![0], vec![0xff; 256]].concat(),
                &[1, 0, 1],
                true,
            ),
            ("2047 bits", vec![0x7f; 256], &[1, 0, 1], false),
            ("1024 bits", vec![0xff; 128], &[1, 0, 1], false),
            ("8192 bits", vec![0xff; 1024], &[3], true),
            ("8200 bits", vec![0xff; 1025], &[1, 0, 1], false),
            ("exponent 1", vec![0xff; 256], &[1], false),
            ("even exponent", vec![0xff; 256], &[2], false),
            ("no exponent", vec![0xff; 256], &[0], false),
            ("exponent of 40 bits", vec![0xff; 256], &[1, 0, 0, 0, 1], false),
        ] {
            assert_eq!(PublicKey::rsa(&n, e).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn a_key_serves_only_its_own_schemes() {
        let all = [
            PublicScheme::RsaPkcs1Sha1,
            PublicScheme::RsaPkcs1Sha256,
            PublicScheme::RsaPkcs1Sha384,
            PublicScheme::RsaPkcs1Sha512,
            PublicScheme::RsaPssSha256,
            PublicScheme::EcdsaP256Sha256,
            PublicScheme::EcdsaP384Sha384,
            PublicScheme::Ed25519,
        ];
        for (spki, fitting) in [
            (RSA_SPKI, 0..5),
            (P256_SPKI, 5..6),
            (P384_SPKI, 6..7),
            (ED25519_SPKI, 7..8),
        ] {
            let key = PublicKey::from_spki(&der(spki)).unwrap();
            for (at, scheme) in all.into_iter().enumerate() {
                let fits = fitting.contains(&at);
                assert_eq!(key.fits(scheme), fits, "{key:?} {scheme:?}");
                let expected = if fits {
                    PublicKeyError::Mismatch
                } else {
                    PublicKeyError::Kind
                };
                assert_eq!(
                    key.verify(scheme, b"m", &[1; 64]),
                    Err(expected),
                    "{key:?} {scheme:?}"
                );
            }
        }
    }
}
