//! Reads signatures from headers and checks them: any signature with any live secret, in constant time.

use subtle::ConstantTimeEq;

use super::scheme::{Prefix, Scheme};
use crate::event::{SecretName, Timestamp};
use crate::fields::Fields;
use crate::secret::{Key, TAG_BYTES};

/// At most this many signatures of one request are tried.
pub const SIGNATURES_MAX: usize = 20;
/// At most this many secrets of one route are tried.
pub const SECRETS_MAX: usize = 8;

/// A secret of a route that may still be used.
#[derive(Debug, Clone)]
pub struct LiveKey {
    /// Its name in `[secrets]`.
    pub name: SecretName,
    /// The key.
    pub key: Key,
    /// It stops being accepted at this time.
    pub until: Option<Timestamp>,
}

/// The digests a request presents, decoded; not yet checked. At least one, at most [`SIGNATURES_MAX`].
#[derive(Clone)]
pub struct Presented {
    /// Nearly always the only one, so that reading a header allocates nothing.
    first: [u8; TAG_BYTES],
    more: Vec<[u8; TAG_BYTES]>,
}

/// A signature ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<'s> {
    /// The header's name, in lower case.
    pub header: &'s str,
    /// Its value.
    pub value: String,
}

/// Why a signature is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureError {
    /// None of the scheme's headers was sent, or it was empty.
    #[error("no signature header was sent")]
    Missing,
    /// One header was sent more than once.
    #[error("the signature header was sent more than once")]
    Repeated,
    /// The value does not follow the scheme's grammar.
    #[error("the signature header's value is not of the scheme's form")]
    Malformed,
    /// Two header names carry different digests.
    #[error("the signature headers contradict each other")]
    Contradicting,
    /// It is well formed and made with another secret or over other bytes.
    #[error("the signature does not match the body under any live secret")]
    Mismatch,
}

impl Scheme {
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
        let first = found.ok_or(SignatureError::Missing)?;
        Ok(Presented {
            first,
            more: Vec::new(),
        })
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
        match &self.prefix {
            Prefix::None => self.encoding.decode(value),
            Prefix::Required(prefix) => self.encoding.decode(strip(value, prefix)?),
            Prefix::Optional(prefix) => self.encoding.decode(strip(value, prefix).unwrap_or(value)),
        }
    }
}

impl Presented {
    /// Tries every digest with every live key, always all of them, and names the secret that matched.
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
        let live = keys
            .iter()
            .filter(|key| key.until.is_none_or(|until| now < until));
        for key in live.take(SECRETS_MAX) {
            let tag = key.key.tag(&[body]);
            let mut equal = tag.ct_eq(&self.first);
            for digest in self.more.iter().take(SIGNATURES_MAX - 1) {
                equal |= tag.ct_eq(digest);
            }
            if bool::from(equal) && matched.is_none() {
                matched = Some(&key.name);
            }
        }
        matched.ok_or(SignatureError::Mismatch)
    }
}

impl std::fmt::Debug for Presented {
    /// Leaves the digests out: a valid one signs its body for good.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Presented({} redacted)", 1 + self.more.len())
    }
}

/// Drops the blanks that HTTP allows around a value (RFC 9110, 5.5), and no others.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What follows `prefix`, whatever its case.
pub(super) fn strip<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::super::scheme::{Encoding, KeyForm};
    use super::*;

    const BODY: &[u8] = b"{}";

    fn scheme(prefix: Prefix, encoding: Encoding) -> Scheme {
        Scheme {
            headers: vec!["x-one".into(), "x-two".into()],
            prefix,
            encoding,
            key: KeyForm::Utf8,
        }
    }

    fn key(name: &str, until: Option<i64>) -> LiveKey {
        LiveKey {
            name: SecretName::new(name),
            key: Key::new(name.as_bytes()).unwrap(),
            until: until.map(Timestamp),
        }
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
            let signed = scheme.sign(&key(signer, None).key, BODY);
            let presented = scheme
                .read(&headers(&[(signed.header, signed.value.as_bytes())]))
                .unwrap();
            let got = presented.check(&keys, Timestamp(now), BODY);
            assert_eq!(got.map(SecretName::as_str), expected, "{name}");
        }
    }

    #[test]
    fn every_digest_counts_and_no_more_than_the_limit() {
        let keys = [key("k", None)];
        let good = keys[0].key.tag(&[BODY]);
        let bad = [0; TAG_BYTES];
        for (name, first, more, accepted) in [
            ("the first", good, vec![bad, bad], true),
            ("the second", bad, vec![good, bad], true),
            ("the twentieth", bad, [vec![bad; 18], vec![good]].concat(), true),
            (
                "the twenty-first",
                bad,
                [vec![bad; 19], vec![good]].concat(),
                false,
            ),
            ("none", bad, vec![bad], false),
        ] {
            let presented = Presented { first, more };
            assert_eq!(
                presented.check(&keys, Timestamp(0), BODY).is_ok(),
                accepted,
                "{name}"
            );
        }
    }

    #[test]
    fn no_more_than_eight_keys_are_tried_and_expired_ones_take_no_place() {
        let mut keys: Vec<LiveKey> = (0..8).map(|_| key("expired", Some(1))).collect();
        keys.push(key("k", None));
        let presented = Presented {
            first: keys[8].key.tag(&[BODY]),
            more: Vec::new(),
        };
        assert!(presented.check(&keys, Timestamp(2), BODY).is_ok());
        assert!(presented.check(&keys, Timestamp(0), BODY).is_err());
        assert!(presented.check(&[], Timestamp(0), BODY).is_err());
    }

    #[test]
    fn digests_are_not_printed() {
        let presented = Presented {
            first: [0xab; TAG_BYTES],
            more: Vec::new(),
        };
        assert_eq!(format!("{presented:?}"), "Presented(1 redacted)");
    }
}
