//! Signatures made with private keys, for `sign` and `send`.

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};

use super::key::{Algorithm, pem};

/// Signs with a private key in PKCS#8 (RFC 5958, DER or PEM); `None` when it is not one of the algorithm.
pub(super) fn sign(algorithm: Algorithm, pkcs8: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    let pem = pem(pkcs8, "PRIVATE KEY").map(zeroize::Zeroizing::new);
    let pkcs8 = pem.as_deref().map_or(pkcs8, |der| der);
    match algorithm {
        Algorithm::Ed25519 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
            Some(pair.sign(message).as_ref().to_vec())
        }
        Algorithm::EcdsaP256 => {
            let form = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
            let pair = EcdsaKeyPair::from_pkcs8(form, pkcs8, &random).ok()?;
            Some(pair.sign(&random, message).ok()?.as_ref().to_vec())
        }
        Algorithm::RsaSha256 | Algorithm::RsaSha512 => {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).ok()?;
            let mut made = vec![0; pair.public().modulus_len()];
            let padding: &'static dyn signature::RsaEncoding = match algorithm {
                Algorithm::RsaSha256 => &signature::RSA_PKCS1_SHA256,
                _ => &signature::RSA_PKCS1_SHA512,
            };
            pair.sign(padding, &random, message, &mut made).ok()?;
            Some(made)
        }
        _ => None,
    }
}
