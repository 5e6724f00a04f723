//! Makes the tokens that [`super::jws`] checks, for samples and tests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use serde_json::json;
#[cfg(test)]
use serde_json::{Map, Value};

use super::jws_key::{HmacKey, JwsAlgorithm, JwsKey, JwsKeyError};

/// Why a token cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsSignError {
    /// The secret.
    #[error(transparent)]
    Secret(#[from] JwsKeyError),
    /// Not a private key of a known kind.
    #[error(
        "not a PKCS #8 private key of a known kind; use RSA (2048 bits and up), EC P-256 or P-384, or Ed25519"
    )]
    PrivateKey,
    /// The key is of another kind.
    #[error("the key is of another kind than {} needs", .0.name())]
    Kind(JwsAlgorithm),
    /// *ring* could not sign.
    #[error("signing failed; the system's source of randomness may be unavailable")]
    Failed,
}

/// A key that signs.
#[derive(Debug)]
pub struct JwsSigner(Kind);

#[derive(Debug)]
enum Kind {
    Hmac(HmacKey),
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    P384(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl JwsSigner {
    /// A shared secret.
    ///
    /// # Errors
    /// As for [`JwsKey::from_secret`].
    pub fn from_secret(bytes: &[u8]) -> Result<Self, JwsSignError> {
        match JwsKey::from_secret(bytes)? {
            JwsKey::Secret(key) => Ok(Self(Kind::Hmac(key))),
            JwsKey::Public(_) => Err(JwsSignError::PrivateKey),
        }
    }

    /// A private key as PKCS #8 DER (RFC 5208); `rng` is for a check of the key.
    ///
    /// # Errors
    /// `PrivateKey` for any other bytes.
    pub fn from_pkcs8(der: &[u8], rng: &dyn SecureRandom) -> Result<Self, JwsSignError> {
        if let Ok(key) = RsaKeyPair::from_pkcs8(der) {
            return Ok(Self(Kind::Rsa(Box::new(key))));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, rng) {
            return Ok(Self(Kind::P256(Box::new(key))));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, rng) {
            return Ok(Self(Kind::P384(Box::new(key))));
        }
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(|key| Self(Kind::Ed25519(Box::new(key))))
            .map_err(|_| JwsSignError::PrivateKey)
    }

    /// A compact token over `payload`, with `alg` and, if given, `kid` in its header.
    ///
    /// # Errors
    /// `Kind` or `Failed`.
    pub fn sign(
        &self,
        algorithm: JwsAlgorithm,
        kid: Option<&str>,
        payload: &[u8],
        rng: &dyn SecureRandom,
    ) -> Result<String, JwsSignError> {
        let message = message(algorithm, kid, payload);
        let signature = self.raw(algorithm, message.as_bytes(), rng)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn raw(
        &self,
        algorithm: JwsAlgorithm,
        message: &[u8],
        rng: &dyn SecureRandom,
    ) -> Result<Vec<u8>, JwsSignError> {
        let kind = JwsSignError::Kind(algorithm);
        match (&self.0, algorithm) {
            (Kind::Hmac(key), algorithm) => key.tag(algorithm, message).ok_or(kind),
            (Kind::Rsa(key), algorithm) => {
                let padding = rsa_padding(algorithm).ok_or(kind)?;
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, rng, message, &mut signature)
                    .map_err(|_| JwsSignError::Failed)?;
                Ok(signature)
            }
            (Kind::P256(key), JwsAlgorithm::Es256) | (Kind::P384(key), JwsAlgorithm::Es384) => key
                .sign(rng, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| JwsSignError::Failed),
            (Kind::Ed25519(key), JwsAlgorithm::EdDsa) => Ok(key.sign(message).as_ref().to_vec()),
            _ => Err(kind),
        }
    }
}

/// The token without its payload, to be sent beside it (RFC 7515, appendix F).
#[must_use]
pub fn detach(token: &str) -> String {
    match (token.split_once('.'), token.rsplit_once('.')) {
        (Some((header, _)), Some((_, signature))) => format!("{header}..{signature}"),
        _ => token.to_owned(),
    }
}

fn message(algorithm: JwsAlgorithm, kid: Option<&str>, payload: &[u8]) -> String {
    let header = match kid {
        None => json!({"alg": algorithm.name(), "typ": "JWT"}),
        Some(kid) => json!({"alg": algorithm.name(), "kid": kid, "typ": "JWT"}),
    };
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload))
}

fn rsa_padding(algorithm: JwsAlgorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        JwsAlgorithm::Rs256 => Some(&RSA_PKCS1_SHA256),
        JwsAlgorithm::Rs384 => Some(&RSA_PKCS1_SHA384),
        JwsAlgorithm::Rs512 => Some(&RSA_PKCS1_SHA512),
        JwsAlgorithm::Ps256 => Some(&RSA_PSS_SHA256),
        _ => None,
    }
}

#[cfg(test)]
/// A token of `claims` signed with a shared secret. The algorithm must be an HMAC.
///
/// # Errors
/// `Secret` for an empty one, `Kind` for another algorithm.
pub(super) fn sign_hs(
    secret: &[u8],
    algorithm: JwsAlgorithm,
    kid: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<String, JwsSignError> {
    let JwsKey::Secret(key) = JwsKey::from_secret(secret)? else {
        return Err(JwsSignError::Kind(algorithm));
    };
    let payload = Value::Object(claims.clone()).to_string();
    let message = message(algorithm, kid, payload.as_bytes());
    let tag = key
        .tag(algorithm, message.as_bytes())
        .ok_or(JwsSignError::Kind(algorithm))?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ring::rand::SystemRandom;

    use super::super::jws::{JwsRule, KeySet, verify};
    use super::super::test_keys::{
        ED25519_PKCS8, ED25519_SPKI, P256_PKCS8, P256_SPKI, RSA_PKCS8, RSA_SPKI, der,
    };
    use super::*;
    use crate::provider::public_key::PublicKey;

    fn check(algorithm: JwsAlgorithm, key: JwsKey, token: &str, body: &[u8], detached: bool) -> bool {
        let rule = JwsRule {
            algorithms: vec![algorithm],
            issuer: Some(["hooklatch".into()].into()),
            audience: None,
            max_age: None,
            tolerance: Duration::ZERO,
            body_claim: None,
            url_claim: None,
            required_claims: Vec::new(),
            detached,
        };
        let keys = KeySet::new([(Some("k".into()), key)]);
        verify(&rule, token.as_bytes(), &keys, body, None, 0).is_ok()
    }

    const PAYLOAD: &str = r#"{"iss":"hooklatch","exp":1}"#;

    #[test]
    fn what_is_signed_verifies() {
        let rng = SystemRandom::new();
        for (pkcs8, spki, fitting) in [
            (RSA_PKCS8, RSA_SPKI, &["RS256", "RS384", "RS512", "PS256"][..]),
            (P256_PKCS8, P256_SPKI, &["ES256"]),
            (ED25519_PKCS8, ED25519_SPKI, &["EdDSA"]),
        ] {
            let signer = JwsSigner::from_pkcs8(&der(pkcs8), &rng).unwrap();
            let key = JwsKey::Public(PublicKey::from_spki(&der(spki)).unwrap());
            for algorithm in JwsAlgorithm::ALL {
                let token = signer.sign(algorithm, Some("k"), PAYLOAD.as_bytes(), &rng);
                if !fitting.contains(&algorithm.name()) {
                    assert_eq!(token.err(), Some(JwsSignError::Kind(algorithm)), "{algorithm:?}");
                    continue;
                }
                let token = token.unwrap();
                assert!(check(algorithm, key.clone(), &token, b"", false), "{algorithm:?}");
                let detached = detach(&token);
                assert!(
                    check(algorithm, key.clone(), &detached, PAYLOAD.as_bytes(), true),
                    "{algorithm:?}"
                );
                assert!(
                    !check(algorithm, key.clone(), &detached, b"{}", true),
                    "{algorithm:?}"
                );
            }
        }
    }

    #[test]
    fn secrets_sign_too() {
        let rng = SystemRandom::new();
        let claims: Map<String, Value> = serde_json::from_str(PAYLOAD).unwrap();
        let signer = JwsSigner::from_secret(b"secret").unwrap();
        for algorithm in [JwsAlgorithm::Hs256, JwsAlgorithm::Hs384, JwsAlgorithm::Hs512] {
            let key = || JwsKey::from_secret(b"secret").unwrap();
            let token = sign_hs(b"secret", algorithm, None, &claims).unwrap();
            assert!(check(algorithm, key(), &token, b"", false), "{algorithm:?}");
            let token = signer.sign(algorithm, None, PAYLOAD.as_bytes(), &rng).unwrap();
            assert!(check(algorithm, key(), &token, b"", false), "{algorithm:?}");
        }
        let rs256 = JwsAlgorithm::Rs256;
        assert_eq!(
            sign_hs(b"secret", rs256, None, &claims),
            Err(JwsSignError::Kind(rs256))
        );
        assert_eq!(
            sign_hs(b"", JwsAlgorithm::Hs256, None, &claims),
            Err(JwsSignError::Secret(JwsKeyError::Empty))
        );
        assert_eq!(
            JwsSigner::from_pkcs8(b"", &rng).err(),
            Some(JwsSignError::PrivateKey)
        );
        assert!(!format!("{:?}", JwsSigner::from_secret(b"canary").unwrap()).contains("canary"));
    }
}
