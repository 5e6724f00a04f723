//! Braintree's webhooks: a form whose `bt_payload` is signed with HMAC-SHA1, keyed by the SHA-1 of the private key.
//!
//! Source: braintree/braintree_node `lib/braintree/webhook_notification_gateway.js` and `digest.js`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// Signatures of one request that are looked at.
const SIGNATURES_MAX: usize = 20;
const CHALLENGE_DIGITS: std::ops::RangeInclusive<usize> = 20..=32;

/// Why a key, a request or a challenge is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BraintreeError {
    /// Not two keys.
    #[error(
        "the secret is not of the form \"public_key:private_key\"; join Braintree's two API keys by a colon"
    )]
    Key,
    /// A field is absent, or there twice.
    #[error("the form does not have the field {0} exactly once")]
    Field(&'static str),
    /// The payload is not base64, or it is a challenge.
    #[error("the field bt_payload is not the base64 text that Braintree sends")]
    Payload,
    /// No signature of our public key.
    #[error(
        "the field bt_signature has no signature for the configured public key; check which API key is configured"
    )]
    PublicKey,
    /// The signature is another's.
    #[error("the field bt_signature does not match the payload; check the private key")]
    Mismatch,
    /// Not a challenge.
    #[error("bt_challenge is not 20 to 32 hex digits in lower case, so it is not answered")]
    Challenge,
}

/// Braintree's pair of API keys; the private one cannot be read back.
#[derive(Clone)]
pub struct BraintreeKey {
    public_key: Box<str>,
    mac: Hmac<Sha1>,
}

impl BraintreeKey {
    /// Takes `public_key:private_key`.
    ///
    /// # Errors
    /// `Key` when one of them is missing, or the public one holds what the form cannot carry.
    pub fn parse(secret: &str) -> Result<Self, BraintreeError> {
        let (public_key, private_key) = secret.split_once(':').ok_or(BraintreeError::Key)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if public_key.is_empty() || private_key.is_empty() || !public_key.bytes().all(plain) {
            return Err(BraintreeError::Key);
        }
        let mac = Hmac::new_from_slice(&Sha1::digest(private_key)).map_err(|_| BraintreeError::Key)?;
        Ok(Self {
            public_key: public_key.into(),
            mac,
        })
    }

    /// Checks a delivery: a form with `bt_signature` and `bt_payload`.
    ///
    /// # Errors
    /// `Field`, `Payload`, `PublicKey` or `Mismatch`.
    pub fn verify(&self, body: &[u8]) -> Result<(), BraintreeError> {
        let signatures = field(body, "bt_signature")?;
        let payload = field(body, "bt_payload")?;
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\n');
        // A challenge is signed with the same key for anyone who asks, so its answer would sign it as a payload.
        if payload.is_empty() || !payload.bytes().all(base64) || is_challenge(payload.trim_end_matches('\n'))
        {
            return Err(BraintreeError::Payload);
        }
        let mut own = signatures
            .split('&')
            .take(SIGNATURES_MAX)
            .filter_map(|pair| pair.split_once('|'))
            .filter(|(public_key, _)| *public_key == &*self.public_key)
            .peekable();
        if own.peek().is_none() {
            return Err(BraintreeError::PublicKey);
        }
        // The newline at the end of a payload may be lost on the way; the SDKs try with one too.
        let tags = [
            self.tag(payload.as_bytes()),
            self.tag(format!("{payload}\n").as_bytes()),
        ];
        let matches = |(_, signature): (&str, &str)| {
            let signature = hex::decode(signature).unwrap_or_default();
            tags.iter()
                .fold(subtle::Choice::from(0), |equal, tag| {
                    equal | tag.as_slice().ct_eq(&signature)
                })
                .into()
        };
        if own.any(matches) {
            Ok(())
        } else {
            Err(BraintreeError::Mismatch)
        }
    }

    /// The body of a delivery of `payload`, which is base64 text.
    #[must_use]
    pub fn sign(&self, payload: &str) -> String {
        let signature = format!(
            "{}|{}",
            self.public_key,
            hex::encode(self.tag(payload.as_bytes()))
        );
        form_urlencoded::Serializer::new(String::new())
            .append_pair("bt_signature", &signature)
            .append_pair("bt_payload", payload)
            .finish()
    }

    /// The answer to the value of `bt_challenge`, by which Braintree checks a URL when it is registered.
    ///
    /// # Errors
    /// `Challenge` for anything that could be more than a challenge.
    pub fn answer(&self, challenge: &str) -> Result<String, BraintreeError> {
        if !is_challenge(challenge) {
            return Err(BraintreeError::Challenge);
        }
        let tag = hex::encode(self.tag(challenge.as_bytes()));
        Ok(format!("{}|{tag}", self.public_key))
    }

    fn tag(&self, text: &[u8]) -> [u8; 20] {
        self.mac.clone().chain_update(text).finalize().into_bytes().into()
    }
}

impl fmt::Debug for BraintreeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BraintreeKey(redacted)")
    }
}

fn is_challenge(text: &str) -> bool {
    CHALLENGE_DIGITS.contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The only field of this name.
fn field(body: &[u8], wanted: &'static str) -> Result<String, BraintreeError> {
    let mut values = form_urlencoded::parse(body).filter(|(name, _)| name == wanted);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(value.into_owned()),
        _ => Err(BraintreeError::Field(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: &str = "PG5vdGlmaWNhdGlvbj4=";
    /// Made with Python: of the payload, and of the payload and a newline.
    const SIGNATURE: &str = "86d21207127ae37bddedf3cdd48caf60a4bdea53";
    const SIGNATURE_NEWLINE: &str = "8ce6d4f5ee5815fe892664b3271815fddf6709f4";
    /// From the tests of Braintree's SDKs (braintree_node, spec/unit/braintree/webhook_notification_gateway_spec).
    const CHALLENGE: &str = "20f9f8ed05f77439fe955c977e4c8a53";
    const ANSWER: &str = "integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4";

    fn key() -> BraintreeKey {
        BraintreeKey::parse("integration_public_key:integration_private_key").unwrap()
    }

    fn form(signature: &str, payload: &str) -> String {
        form_urlencoded::Serializer::new(String::new())
            .append_pair("bt_signature", signature)
            .append_pair("bt_payload", payload)
            .finish()
    }

    #[test]
    fn deliveries() {
        let own = format!("integration_public_key|{SIGNATURE}");
        let newline = format!("integration_public_key|{SIGNATURE_NEWLINE}");
        let many = format!("{}{own}", "other|00&".repeat(SIGNATURES_MAX));
        let (short, upper) = (
            &own[..own.len() - 1],
            own.replace(SIGNATURE, &SIGNATURE.to_uppercase()),
        );
        let payload_error = Err(BraintreeError::Payload);
        for (name, signature, payload, expected) in [
            ("good", own.as_str(), PAYLOAD, Ok(())),
            ("second of two", &format!("other|00&{own}"), PAYLOAD, Ok(())),
            (
                "two of one key",
                &format!("integration_public_key|00&{own}"),
                PAYLOAD,
                Ok(()),
            ),
            ("upper case", &upper, PAYLOAD, Ok(())),
            ("with its newline", &newline, "PG5vdGlmaWNhdGlvbj4=\n", Ok(())),
            ("with its newline lost", &newline, PAYLOAD, Ok(())),
            (
                "with a newline too many",
                &own,
                "PG5vdGlmaWNhdGlvbj4=\n",
                Err(BraintreeError::Mismatch),
            ),
            (
                "another payload",
                &own,
                "PG5vdGlmaWNhdGlvbj5=",
                Err(BraintreeError::Mismatch),
            ),
            ("a digit short", short, PAYLOAD, Err(BraintreeError::Mismatch)),
            (
                "no digits",
                "integration_public_key|",
                PAYLOAD,
                Err(BraintreeError::Mismatch),
            ),
            (
                "another key",
                &format!("other|{SIGNATURE}"),
                PAYLOAD,
                Err(BraintreeError::PublicKey),
            ),
            ("no key", SIGNATURE, PAYLOAD, Err(BraintreeError::PublicKey)),
            ("behind too many", &many, PAYLOAD, Err(BraintreeError::PublicKey)),
            ("no payload", &own, "", payload_error),
            ("not base64", &own, "<notification>", payload_error),
            ("an answered challenge", ANSWER, CHALLENGE, payload_error),
            (
                "an answered challenge and a newline",
                ANSWER,
                &format!("{CHALLENGE}\n"),
                payload_error,
            ),
        ] {
            assert_eq!(
                key().verify(form(signature, payload).as_bytes()),
                expected,
                "{name}"
            );
        }
        let good = form(&own, PAYLOAD);
        assert_eq!(key().sign(PAYLOAD), good);
        for (name, body, missing) in [
            ("a payload twice", format!("{good}&bt_payload=x"), "bt_payload"),
            (
                "a signature twice",
                format!("bt_signature=x&{good}"),
                "bt_signature",
            ),
            ("nothing", String::new(), "bt_signature"),
            ("no payload", good.replace("bt_payload", "x"), "bt_payload"),
        ] {
            assert_eq!(
                key().verify(body.as_bytes()),
                Err(BraintreeError::Field(missing)),
                "{name}"
            );
        }
    }

    #[test]
    fn challenges() {
        assert_eq!(key().answer(CHALLENGE).as_deref(), Ok(ANSWER));
        let long = format!("{CHALLENGE}0");
        for challenge in [
            "",
            "bad challenge",
            &CHALLENGE[..19],
            &long,
            &CHALLENGE.to_uppercase(),
            PAYLOAD,
        ] {
            assert_eq!(
                key().answer(challenge),
                Err(BraintreeError::Challenge),
                "{challenge}"
            );
        }
        assert!(key().answer(&CHALLENGE[..20]).is_ok());
    }

    #[test]
    fn keys() {
        for secret in [
            "",
            ":",
            "public",
            "public:",
            ":private",
            "a|b:private",
            "a&b:private",
            "\u{e9}:private",
        ] {
            assert_eq!(
                BraintreeKey::parse(secret).err(),
                Some(BraintreeError::Key),
                "{secret}"
            );
        }
        let key = BraintreeKey::parse("public:canary:with colon").unwrap();
        assert_eq!(format!("{key:?}"), "BraintreeKey(redacted)");
    }
}
