//! Keys that check a JWS: a shared secret, a public key, or a set of them (RFC 7517).
//!
//! A key knows its kind and an algorithm knows the kind it needs, so a token's header cannot make an RSA key act as
//! an HMAC secret (RFC 8725, section 3.1).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};
use sha2::{Sha256, Sha384, Sha512};

use super::strict_json;
use crate::provider::public_key::{PublicKey, PublicKeyError, PublicScheme};

/// Keys that a set may hold.
pub const KEYS_MAX: usize = 100;
/// Bytes of a JWK Set that are read.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a key's `kid` that are read.
pub const KID_BYTES_MAX: usize = 512;

/// The algorithms a token may be signed with (RFC 7518, section 3.1, and RFC 8037). `none` is not one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwsAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl JwsAlgorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// Its name in a header, which is compared with its case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn public_scheme(self) -> Option<PublicScheme> {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => None,
            Self::Rs256 => Some(PublicScheme::RsaPkcs1Sha256),
            Self::Rs384 => Some(PublicScheme::RsaPkcs1Sha384),
            Self::Rs512 => Some(PublicScheme::RsaPkcs1Sha512),
            Self::Ps256 => Some(PublicScheme::RsaPssSha256),
            Self::Es256 => Some(PublicScheme::EcdsaP256Sha256),
            Self::Es384 => Some(PublicScheme::EcdsaP384Sha384),
            Self::EdDsa => Some(PublicScheme::Ed25519),
        }
    }
}

/// Why something is not a key, or not a set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsKeyError {
    /// An empty secret would let anyone sign.
    #[error("the secret is empty, so anyone could sign with it; put the provider's secret there")]
    Empty,
    /// A PEM block is a key of its own kind, never an HMAC secret: the public one is known to everyone.
    #[error("the secret is a PEM block; give a public key as a public key, not as a shared secret")]
    PemSecret,
    /// The PEM text.
    #[error(transparent)]
    Public(#[from] PublicKeyError),
    /// The set is too large to be read.
    #[error("the key set is larger than {KEY_SET_BYTES_MAX} bytes; check that its URL is that of a JWK Set")]
    TooLarge,
    /// The set holds too many keys.
    #[error("the key set holds more than {KEYS_MAX} keys; check that its URL is that of a JWK Set")]
    TooMany,
    /// Not JSON.
    #[error("the key set {0}; check that its URL is that of a JWK Set")]
    Json(#[from] strict_json::StrictJsonError),
    /// Every key in it is of an unknown kind, for encryption, or broken.
    #[error("the key set has no key that can check a signature; it needs one of kty RSA, EC, OKP or oct")]
    NoneUsable,
}

/// A key that checks signatures of one kind.
#[derive(Debug, Clone)]
pub enum JwsKey {
    /// A secret shared with the sender.
    Secret(HmacKey),
    /// The sender's public key.
    Public(PublicKey),
}

/// A shared secret, its schedules prepared once; it cannot be read back.
#[derive(Clone)]
pub struct HmacKey(Box<(Hmac<Sha256>, Hmac<Sha384>, Hmac<Sha512>)>);

impl JwsKey {
    /// A shared secret, as the bytes that key the HMAC.
    ///
    /// # Errors
    /// Refuses no bytes, and a PEM block.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, JwsKeyError> {
        if bytes.is_empty() {
            return Err(JwsKeyError::Empty);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(JwsKeyError::PemSecret);
        }
        HmacKey::new(bytes).map(Self::Secret)
    }

    /// A public key, as `BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`.
    ///
    /// # Errors
    /// See [`PublicKey::from_pem`].
    pub fn from_pem(text: &str) -> Result<Self, JwsKeyError> {
        Ok(Self::Public(PublicKey::from_pem(text)?))
    }

    /// Whether the key is of the kind that `algorithm` needs.
    #[must_use]
    pub fn fits(&self, algorithm: JwsAlgorithm) -> bool {
        match (self, algorithm.public_scheme()) {
            (Self::Secret(_), None) => true,
            (Self::Public(key), Some(scheme)) => key.fits(scheme),
            _ => false,
        }
    }

    /// Whether `signature` is one of `message` by this key; a key that does not fit answers no.
    pub(super) fn check(&self, algorithm: JwsAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm.public_scheme()) {
            (Self::Secret(key), None) => key.check(algorithm, message, signature),
            (Self::Public(key), Some(scheme)) => key.verify(scheme, message, signature).is_ok(),
            _ => false,
        }
    }
}

impl HmacKey {
    fn new(bytes: &[u8]) -> Result<Self, JwsKeyError> {
        let schedules = || {
            Some((
                Hmac::new_from_slice(bytes).ok()?,
                Hmac::new_from_slice(bytes).ok()?,
                Hmac::new_from_slice(bytes).ok()?,
            ))
        };
        schedules()
            .map(|all| Self(Box::new(all)))
            .ok_or(JwsKeyError::Empty)
    }

    /// In constant time over the tag.
    fn check(&self, algorithm: JwsAlgorithm, message: &[u8], tag: &[u8]) -> bool {
        let (sha256, sha384, sha512) = self.0.as_ref();
        match algorithm {
            JwsAlgorithm::Hs256 => sha256.clone().chain_update(message).verify_slice(tag).is_ok(),
            JwsAlgorithm::Hs384 => sha384.clone().chain_update(message).verify_slice(tag).is_ok(),
            JwsAlgorithm::Hs512 => sha512.clone().chain_update(message).verify_slice(tag).is_ok(),
            _ => false,
        }
    }

    /// The tag of `message`; nothing for an algorithm that is no HMAC.
    pub(super) fn tag(&self, algorithm: JwsAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        let (sha256, sha384, sha512) = self.0.as_ref();
        match algorithm {
            JwsAlgorithm::Hs256 => Some(
                sha256
                    .clone()
                    .chain_update(message)
                    .finalize()
                    .into_bytes()
                    .to_vec(),
            ),
            JwsAlgorithm::Hs384 => Some(
                sha384
                    .clone()
                    .chain_update(message)
                    .finalize()
                    .into_bytes()
                    .to_vec(),
            ),
            JwsAlgorithm::Hs512 => Some(
                sha512
                    .clone()
                    .chain_update(message)
                    .finalize()
                    .into_bytes()
                    .to_vec(),
            ),
            _ => None,
        }
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(redacted)")
    }
}

/// A key and what its set says of it.
#[derive(Debug, Clone)]
pub(super) struct NamedKey {
    pub(super) kid: Option<Box<str>>,
    /// The one algorithm it is for, where its set names one.
    pub(super) algorithm: Option<JwsAlgorithm>,
    pub(super) key: JwsKey,
}

/// The keys of one sender.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<NamedKey>);

impl KeySet {
    /// Takes keys from the configuration, each with its `kid` if it has one. Those past [`KEYS_MAX`] are left out.
    pub fn new(keys: impl IntoIterator<Item = (Option<Box<str>>, JwsKey)>) -> Self {
        let named = |(kid, key)| NamedKey {
            kid,
            algorithm: None,
            key,
        };
        Self(keys.into_iter().take(KEYS_MAX).map(named).collect())
    }

    /// Reads a JWK Set, or a single JWK (RFC 7517). Keys that cannot check a signature are skipped, as section 5 asks.
    ///
    /// An `oct` key in a set that anyone may fetch is known to everyone: it only counts where the rule allows an HMAC.
    ///
    /// # Errors
    /// All but those of a secret and of a PEM text.
    pub fn from_json(text: &[u8]) -> Result<Self, JwsKeyError> {
        if text.len() > KEY_SET_BYTES_MAX {
            return Err(JwsKeyError::TooLarge);
        }
        let document = strict_json::object(text)?;
        let keys: Vec<NamedKey> = match document.get("keys") {
            Some(Value::Array(keys)) if keys.len() > KEYS_MAX => return Err(JwsKeyError::TooMany),
            Some(Value::Array(keys)) => keys.iter().filter_map(|key| jwk(key.as_object()?)).collect(),
            _ => jwk(&document).into_iter().collect(),
        };
        if keys.is_empty() {
            return Err(JwsKeyError::NoneUsable);
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NamedKey> {
        self.0.iter()
    }
}

/// A JWK that may check signatures.
fn jwk(members: &Map<String, Value>) -> Option<NamedKey> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    if members.contains_key("use") && text("use") != Some("sig") {
        return None;
    }
    if let Some(operations) = members.get("key_ops") {
        let mut operations = operations.as_array()?.iter();
        if !operations.any(|operation| operation.as_str() == Some("verify")) {
            return None;
        }
    }
    // A kid or alg that is not a text, or an alg for something else, makes the key unusable, not free for all.
    let kid = match members.get("kid") {
        None => None,
        Some(_) => Some(text("kid").filter(|kid| kid.len() <= KID_BYTES_MAX)?.into()),
    };
    let algorithm = match members.get("alg") {
        None => None,
        Some(_) => Some(JwsAlgorithm::from_name(text("alg")?)?),
    };
    let point = || Some([&[4], bytes("x")?.as_slice(), bytes("y")?.as_slice()].concat());
    let same_length = || Some(bytes("x")?.len() == bytes("y")?.len());
    let key = match (text("kty")?, text("crv")) {
        ("RSA", _) => JwsKey::Public(PublicKey::rsa(&bytes("n")?, &bytes("e")?).ok()?),
        ("EC", Some("P-256")) if same_length()? => JwsKey::Public(PublicKey::p256(&point()?).ok()?),
        ("EC", Some("P-384")) if same_length()? => JwsKey::Public(PublicKey::p384(&point()?).ok()?),
        ("OKP", Some("Ed25519")) => JwsKey::Public(PublicKey::ed25519(&bytes("x")?).ok()?),
        ("oct", _) => JwsKey::from_secret(&bytes("k")?).ok()?,
        _ => return None,
    };
    if algorithm.is_some_and(|algorithm| !key.fits(algorithm)) {
        return None;
    }
    Some(NamedKey { kid, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = concat!(
        r#""kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-"#,
        "Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0L",
        "OL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4",
        r#"LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ""#
    );
    const P256: &str = concat!(
        r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","#,
        r#""y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#
    );
    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    #[test]
    fn which_keys_of_a_set_count() {
        for (name, key, usable) in [
            ("RSA", format!("{{{RSA}}}"), true),
            ("P-256", format!("{{{P256}}}"), true),
            ("Ed25519", format!("{{{ED}}}"), true),
            ("a secret", r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(), true),
            ("for signatures", format!(r#"{{{RSA},"use":"sig"}}"#), true),
            ("for encryption", format!(r#"{{{RSA},"use":"enc"}}"#), false),
            ("to verify", format!(r#"{{{RSA},"key_ops":["verify"]}}"#), true),
            ("to encrypt", format!(r#"{{{RSA},"key_ops":["encrypt"]}}"#), false),
            (
                "key_ops of another type",
                format!(r#"{{{RSA},"key_ops":"verify"}}"#),
                false,
            ),
            ("its own algorithm", format!(r#"{{{RSA},"alg":"PS256"}}"#), true),
            (
                "another kind's algorithm",
                format!(r#"{{{RSA},"alg":"ES256"}}"#),
                false,
            ),
            (
                "a secret for a public algorithm",
                format!(r#"{{{RSA},"alg":"HS256"}}"#),
                false,
            ),
            (
                "an encryption algorithm",
                format!(r#"{{{RSA},"alg":"RSA-OAEP"}}"#),
                false,
            ),
            ("a kid that is a number", format!(r#"{{{RSA},"kid":1}}"#), false),
            (
                "unknown members",
                format!(r#"{{{RSA},"x5t":"abc","ext":true}}"#),
                true,
            ),
            (
                "a point of another curve",
                format!("{{{}}}", P256.replace("P-256", "P-384")),
                false,
            ),
            (
                "an unknown curve",
                format!("{{{}}}", P256.replace("P-256", "secp256k1")),
                false,
            ),
            (
                "an unknown kty",
                format!("{{{}}}", ED.replace("OKP", "AKP")),
                false,
            ),
            ("padding", format!("{{{}}}", ED.replace("URo", "URo=")), false),
            ("a short key", format!("{{{}}}", ED.replace("11qY", "")), false),
            ("an empty secret", r#"{"kty":"oct","k":""}"#.to_owned(), false),
            (
                "a small RSA key",
                r#"{"kty":"RSA","e":"AQAB","n":"qqqq"}"#.to_owned(),
                false,
            ),
            ("no kty", "{}".to_owned(), false),
        ] {
            let expected = if usable {
                Ok(1)
            } else {
                Err(JwsKeyError::NoneUsable)
            };
            for text in [key.clone(), format!(r#"{{"keys":[{key}]}}"#)] {
                let got = KeySet::from_json(text.as_bytes());
                assert_eq!(got.map(|set| set.len()), expected, "{name}: {text}");
            }
            let text = format!(r#"{{"keys":[{key},1,{{"kty":"new"}},{{{P256},"kid":"p"}}]}}"#);
            let got = KeySet::from_json(text.as_bytes()).unwrap();
            assert_eq!(got.len(), 1 + usize::from(usable), "{name}, the others skipped");
        }
    }

    #[test]
    fn limits_of_a_set() {
        let of = |count: usize| format!(r#"{{"keys":[{}]}}"#, vec![format!("{{{ED}}}"); count].join(","));
        let json = |error| Some(JwsKeyError::Json(error));
        for (name, text, expected) in [
            ("as many as may be", of(KEYS_MAX), None),
            ("one more", of(KEYS_MAX + 1), Some(JwsKeyError::TooMany)),
            ("none", of(0), Some(JwsKeyError::NoneUsable)),
            (
                "too large",
                of(1) + &" ".repeat(KEY_SET_BYTES_MAX),
                Some(JwsKeyError::TooLarge),
            ),
            (
                "a page",
                "<html>".to_owned(),
                json(strict_json::StrictJsonError::NotObject),
            ),
            (
                "kty twice",
                format!(r#"{{{ED},"kty":"oct"}}"#),
                json(strict_json::StrictJsonError::Repeated),
            ),
        ] {
            assert_eq!(KeySet::from_json(text.as_bytes()).err(), expected, "{name}");
        }
    }

    #[test]
    fn secrets() {
        assert_eq!(JwsKey::from_secret(b"").err(), Some(JwsKeyError::Empty));
        let pem = b"\n-----BEGIN PUBLIC KEY-----\n";
        assert_eq!(JwsKey::from_secret(pem).err(), Some(JwsKeyError::PemSecret));
        assert_eq!(
            format!("{:?}", JwsKey::from_secret(b"canary").unwrap()),
            "Secret(HmacKey(redacted))"
        );
        let set = KeySet::from_json(br#"{"kty":"oct","k":"Y2FuYXJ5"}"#).unwrap();
        assert!(!format!("{set:?}").contains("canary") && !set.is_empty());
    }

    #[test]
    fn names_of_algorithms() {
        for algorithm in JwsAlgorithm::ALL {
            assert_eq!(JwsAlgorithm::from_name(algorithm.name()), Some(algorithm));
        }
        for name in ["none", "None", "", "HS1", "hs256", "EDDSA", "ES512"] {
            assert_eq!(JwsAlgorithm::from_name(name), None, "{name}");
        }
    }
}
