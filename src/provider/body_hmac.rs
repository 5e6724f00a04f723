//! HMAC-SHA256 over the raw body, carried in a header: what most senders do, checked without an allocation.

use subtle::ConstantTimeEq;

use super::encoding::{Encoding, Prefix, trim};
use super::key::{KeyForm, SchemeKey};
use super::signature::{LiveKey, SECRETS_MAX, SignatureError, is_live};
use crate::event::{SecretName, Timestamp};
use crate::fields::Fields;
use crate::secret::{Key, TAG_BYTES};

/// HMAC-SHA256 over the raw body, carried in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyHmac {
    /// Header names in lower case, in order of preference. Where several are sent, all must carry one digest.
    pub headers: Vec<Box<str>>,
    /// What stands before the digest.
    pub prefix: Prefix,
    /// How the digest is written.
    pub encoding: Encoding,
    /// How the secret's text becomes key bytes.
    pub key: KeyForm,
}

/// The digest a request presents, decoded; not yet checked.
#[derive(Clone)]
pub struct Presented([u8; TAG_BYTES]);

/// A signature ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<'s> {
    /// The header's name, in lower case.
    pub header: &'s str,
    /// Its value.
    pub value: String,
}

impl BodyHmac {
    /// Reads what the headers present; needs no body, so a hopeless request ends before one is read.
    ///
    /// A blank header counts as one that was not sent, as it does in the providers' own samples.
    ///
    /// # Errors
    /// Every [`SignatureError`] but `Mismatch`.
    pub fn read(&self, headers: &Fields) -> Result<Presented, SignatureError> {
        let mut found: Option<[u8; TAG_BYTES]> = None;
        for name in &self.headers {
            let mut values = headers.values(name);
            let Some(value) = values.next() else { continue };
            if values.next().is_some() {
                return Err(SignatureError::Repeated);
            }
            let value = trim(value);
            if value.is_empty() {
                continue;
            }
            let digest = self.decode(value).ok_or(SignatureError::Malformed)?;
            match found {
                // Both were sent by the requester, so there is no secret to protect here.
                Some(first) if first != digest => return Err(SignatureError::Contradicting),
                _ => found = Some(digest),
            }
        }
        found.map(Presented).ok_or(SignatureError::Missing)
    }

    /// Signs `body` as the provider would, under the scheme's first header name and with its prefix.
    pub fn sign(&self, key: &Key, body: &[u8]) -> Signed<'_> {
        let digest = self.encoding.encode(&key.tag(&[body]));
        Signed {
            header: self.headers.first().map_or("", |name| name),
            value: format!("{}{digest}", self.prefix.text().unwrap_or_default()),
        }
    }

    fn decode(&self, value: &[u8]) -> Option<[u8; TAG_BYTES]> {
        self.encoding.decode(self.prefix.strip(value)?)
    }
}

impl Presented {
    /// Tries every live key, always all of them, and names the secret that matched.
    ///
    /// `now` decides which keys are still live. The body is hashed once per live key.
    ///
    /// # Errors
    /// `Mismatch` when none did.
    pub fn check<'k>(
        &self,
        keys: &'k [LiveKey],
        now: Timestamp,
        body: &[u8],
    ) -> Result<&'k SecretName, SignatureError> {
        let mut matched = None;
        for key in keys.iter().filter(|key| is_live(key, now)).take(SECRETS_MAX) {
            let SchemeKey::Hmac(hmac) = &key.key else { continue };
            if bool::from(hmac.tag(&[body]).ct_eq(&self.0)) && matched.is_none() {
                matched = Some(&key.name);
            }
        }
        matched.ok_or(SignatureError::Mismatch)
    }
}

impl std::fmt::Debug for Presented {
    /// Leaves the digest out: a valid one signs its body for good.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{}";

    fn scheme(prefix: Prefix, encoding: Encoding) -> BodyHmac {
        BodyHmac {
            headers: vec!["x-one".into(), "x-two".into()],
            prefix,
            encoding,
            key: KeyForm::Utf8,
        }
    }

    fn key(name: &str, until: Option<i64>) -> LiveKey {
        LiveKey {
            name: SecretName::new(name),
            key: SchemeKey::Hmac(hmac(name)),
            until: until.map(Timestamp),
        }
    }

    fn hmac(text: &str) -> Key {
        Key::new(text.as_bytes()).unwrap()
    }

    fn headers(pairs: &[(&str, &[u8])]) -> Fields {
        Fields::from_pairs(pairs.iter().map(|(name, value)| (name.as_bytes(), *value)))
    }

    #[test]
    fn the_grammar_of_a_value() {
        let hex = hex::encode([0xab; 32]);
        let optional = Prefix::Optional("sha256=".into());
        let required = Prefix::Required("sha256=".into());
        for (name, prefix, value, good) in [
            ("bare, none due", &Prefix::None, hex.clone(), true),
            ("prefix, none due", &Prefix::None, format!("sha256={hex}"), false),
            ("bare, optional", &optional, hex.clone(), true),
            ("prefix, optional", &optional, format!("sha256={hex}"), true),
            (
                "twice, optional",
                &optional,
                format!("sha256=sha256={hex}"),
                false,
            ),
            ("prefix, required", &required, format!("sha256={hex}"), true),
            ("prefix in upper case", &required, format!("SHA256={hex}"), true),
            (
                "digest in upper case",
                &required,
                format!("sha256={}", hex.to_uppercase()),
                true,
            ),
            ("bare, required", &required, hex.clone(), false),
            (
                "twice, required",
                &required,
                format!("sha256=sha256={hex}"),
                false,
            ),
            ("only the prefix", &required, "sha256=".to_owned(), false),
            ("another hash", &required, format!("sha1={hex}"), false),
            (
                "a blank after the prefix",
                &required,
                format!("sha256= {hex}"),
                false,
            ),
            ("blanks around", &required, format!(" \t sha256={hex}\t "), true),
            ("something after", &required, format!("sha256={hex}zz"), false),
            ("a list", &required, format!("sha256={hex}, sha256={hex}"), false),
            ("in quotes", &required, format!("\"sha256={hex}\""), false),
            (
                "the prefix inside",
                &required,
                format!("{}sha256={}", &hex[..32], &hex[32..]),
                false,
            ),
        ] {
            let got = scheme(prefix.clone(), Encoding::Hex).read(&headers(&[("x-one", value.as_bytes())]));
            assert_eq!(got.is_ok(), good, "{name}: {got:?}");
            if !good {
                assert_eq!(got.unwrap_err(), SignatureError::Malformed, "{name}");
            }
        }
    }

    #[test]
    fn which_headers_count() {
        let a = hex::encode([0xaa; 32]);
        let upper = a.to_uppercase();
        let b = hex::encode([0xbb; 32]);
        let (a, upper, b) = (a.as_bytes(), upper.as_bytes(), b.as_bytes());
        type Case<'c> = (&'c str, Vec<(&'c str, &'c [u8])>, Option<SignatureError>);
        let table: [Case<'_>; 12] = [
            ("none", vec![], Some(SignatureError::Missing)),
            ("another", vec![("x-other", a)], Some(SignatureError::Missing)),
            ("empty", vec![("x-one", b"")], Some(SignatureError::Missing)),
            (
                "blank",
                vec![("x-one", b" \t"), ("x-two", b"")],
                Some(SignatureError::Missing),
            ),
            ("the first", vec![("x-one", a)], None),
            ("the second", vec![("x-two", a)], None),
            ("one blank, one good", vec![("x-one", b" "), ("x-two", a)], None),
            ("both alike", vec![("x-one", a), ("x-two", upper)], None),
            (
                "both, not alike",
                vec![("x-one", a), ("x-two", b)],
                Some(SignatureError::Contradicting),
            ),
            (
                "one unreadable",
                vec![("x-one", a), ("x-two", b"0")],
                Some(SignatureError::Malformed),
            ),
            (
                "one twice",
                vec![("x-one", a), ("x-one", a)],
                Some(SignatureError::Repeated),
            ),
            (
                "not ascii",
                vec![("x-one", b"\xc3\xa9")],
                Some(SignatureError::Malformed),
            ),
        ];
        for (name, pairs, expected) in table {
            let got = scheme(Prefix::None, Encoding::Hex).read(&headers(&pairs));
            assert_eq!(got.err(), expected, "{name}");
        }
    }

    #[test]
    fn any_live_key_may_match_and_is_named() {
        let scheme = scheme(Prefix::None, Encoding::Hex);
        let keys = [key("old", Some(100)), key("new", None), key("new", None)];
        for (name, signer, now, expected) in [
            ("the new one", "new", 50, Ok("new")),
            ("the old one, in time", "old", 99, Ok("old")),
            (
                "the old one, at its end",
                "old",
                100,
                Err(SignatureError::Mismatch),
            ),
            (
                "the old one, after its end",
                "old",
                101,
                Err(SignatureError::Mismatch),
            ),
            ("an unknown one", "other", 50, Err(SignatureError::Mismatch)),
        ] {
            let signed = scheme.sign(&hmac(signer), BODY);
            let presented = scheme
                .read(&headers(&[(signed.header, signed.value.as_bytes())]))
                .unwrap();
            let got = presented.check(&keys, Timestamp(now), BODY);
            assert_eq!(got.map(SecretName::as_str), expected, "{name}");
        }
    }

    #[test]
    fn no_more_than_eight_keys_are_tried_and_expired_ones_take_no_place() {
        let mut keys: Vec<LiveKey> = (0..8).map(|_| key("expired", Some(1))).collect();
        keys.push(key("k", None));
        let presented = Presented(hmac("k").tag(&[BODY]));
        assert!(presented.check(&keys, Timestamp(2), BODY).is_ok());
        assert!(presented.check(&keys, Timestamp(0), BODY).is_err());
        assert!(presented.check(&[], Timestamp(0), BODY).is_err());
    }

    #[test]
    fn digests_are_not_printed() {
        assert_eq!(
            format!("{:?}", Presented([0xab; TAG_BYTES])),
            "Presented(redacted)"
        );
    }
}
