//! The keys that a secret's text may stand for.

use base64::Engine;
use zeroize::Zeroizing;

use super::{Difference, NamedSecret};
use crate::event::Timestamp;
use crate::provider::encoding::BASE64;
use crate::provider::key::{KeyForm, WHSEC};
use crate::secret::Key;

/// A key, and how it differs from the route's.
pub(super) struct Variant {
    pub(super) key: Key,
    pub(super) differences: Vec<Difference>,
    /// The key is not the one that the scheme makes of the text.
    pub(super) altered: bool,
}

/// Every key that `secret` may stand for, the scheme's own first.
pub(super) fn variants(form: KeyForm, secret: &NamedSecret, now: Timestamp) -> Vec<Variant> {
    let mut always = Vec::new();
    if !secret.of_route {
        always.push(Difference::OtherRoute);
    }
    if let Some(until) = secret.until.filter(|until| now >= *until) {
        always.push(Difference::Expired(until));
    }
    let mut variants = Vec::new();
    let mut seen: Vec<Zeroizing<Vec<u8>>> = Vec::new();
    for (text, of_text) in texts(secret.text.expose()) {
        for (bytes, of_form) in forms(form, &text) {
            if seen.contains(&bytes) {
                continue;
            }
            if let Ok(key) = Key::new(&bytes) {
                let altered = of_text.is_some() || of_form.is_some();
                let own = of_text.clone().into_iter().chain(of_form);
                variants.push(Variant {
                    key,
                    differences: always.iter().cloned().chain(own).collect(),
                    altered,
                });
            }
            seen.push(bytes);
        }
    }
    variants
}

pub(super) type Bytes = Zeroizing<Vec<u8>>;
type Reading = (KeyForm, Option<Vec<u8>>, &'static str);

/// The text as it is, and less or more what slips into it when it is copied and stored.
pub(super) fn texts(text: &[u8]) -> Vec<(Bytes, Option<Difference>)> {
    let own = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
    let mut texts = vec![(own(text), None)];
    if let Some(line) = text.strip_suffix(b"\n") {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        texts.push((own(line), Some(Difference::SecretLineEnd)));
    }
    let trimmed = text.trim_ascii();
    texts.push((own(trimmed), Some(Difference::SecretBlanks)));
    if let Some(inner) = unquoted(trimmed) {
        texts.push((own(inner), Some(Difference::SecretQuotes)));
    }
    // What is copied from a page by a double click often lacks what stands before the underscore.
    match trimmed.strip_prefix(WHSEC.as_bytes()) {
        Some(rest) => texts.push((own(rest), Some(Difference::SecretMarkAdded))),
        None => {
            let marked = Zeroizing::new([WHSEC.as_bytes(), trimmed].concat());
            texts.push((marked, Some(Difference::SecretMarkLost)));
        }
    }
    for end in [&b"\n"[..], b"\r\n"] {
        let longer = Zeroizing::new([text, end].concat());
        texts.push((longer, Some(Difference::SecretLineEndLost)));
    }
    for spelt in [&b"\\n"[..], b"\\r\\n"] {
        if let Some(rest) = trimmed.strip_suffix(spelt) {
            texts.push((own(rest), Some(Difference::SecretLineEndSpelt)));
        }
    }
    if let Some(rest) = after_a_name(trimmed) {
        texts.push((own(unquoted(rest).unwrap_or(rest)), Some(Difference::SecretNamed)));
    }
    for (around, difference) in [
        ((&b"\""[..], &b"\""[..]), Difference::SecretQuotesLost),
        ((b"'", b"'"), Difference::SecretQuotesLost),
        ((b"", b" "), Difference::SecretBlanksLost),
        ((b" ", b""), Difference::SecretBlanksLost),
    ] {
        let longer = Zeroizing::new([around.0, trimmed, around.1].concat());
        texts.push((longer, Some(difference)));
    }
    let encoded: [(String, &'static str); 2] = [
        (hex::encode(trimmed), "the secret's text written as hex"),
        (BASE64.encode(trimmed), "the secret's text written as base64"),
    ];
    for (text, name) in encoded {
        texts.push((text.into_bytes().into(), Some(Difference::SecretForm(name))));
    }
    texts
}

/// What stands between quotes.
fn unquoted(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => Some(inner),
        _ => None,
    }
}

/// What stands after `NAME=`, as in a file of variables.
fn after_a_name(text: &[u8]) -> Option<&[u8]> {
    let at = memchr::memchr(b'=', text)?;
    let (name, rest) = (text.get(..at)?, text.get(at + 1..)?);
    let is_name = name
        .first()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    (is_name && !rest.is_empty() && rest != b"=").then_some(rest)
}

/// The bytes that a text may stand for under the scheme's form and under every other.
fn forms(form: KeyForm, text: &[u8]) -> Vec<(Bytes, Option<Difference>)> {
    let unmarked = text.strip_prefix(WHSEC.as_bytes());
    let decoded: [Reading; 4] = [
        (KeyForm::Utf8, Some(text.to_vec()), "the secret's text as it is"),
        (
            KeyForm::Hex,
            hex::decode(text).ok(),
            "the secret decoded from hex",
        ),
        (
            KeyForm::Base64,
            BASE64.decode(text).ok(),
            "the secret decoded from base64",
        ),
        (
            KeyForm::Whsec,
            BASE64.decode(unmarked.unwrap_or(text)).ok(),
            "what follows `whsec_`, decoded from base64",
        ),
    ];
    let mut forms = Vec::new();
    for (decoder, bytes, name) in decoded {
        let Some(bytes) = bytes.map(Zeroizing::new) else {
            continue;
        };
        if decoder == form {
            forms.insert(0, (bytes, None));
        } else {
            forms.push((bytes, Some(Difference::SecretForm(name))));
        }
    }
    forms
}
