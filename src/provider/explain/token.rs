//! Why a secret that is sent as it is was not found: it stands elsewhere, or with another word before it.

use subtle::ConstantTimeEq;

use super::{Difference, Explained, NamedSecret, key};
use crate::provider::composed::Composed;
use crate::provider::encoding::{Prefix, trim};
use crate::provider::key::Algorithm;
use crate::provider::request::Request;

/// What stands before credentials in `Authorization`.
const WORDS: [&str; 3] = ["Bearer", "Token", "Basic"];

/// The fewest differences under which one of the headers holds one of the secrets.
pub(super) fn explain(
    rule: &Composed,
    carried: &str,
    request: &Request<'_>,
    candidates: &[NamedSecret],
) -> Option<Explained> {
    if rule.algorithm != Algorithm::Token {
        return None;
    }
    let mut best: Option<Explained> = None;
    for candidate in candidates {
        for (text, of_text) in key::texts(candidate.text.expose()) {
            if text.is_empty() {
                continue;
            }
            for (name, value) in request.headers.iter() {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                let Some(of_prefix) = prefix(&rule.prefix, trim(value), &text) else {
                    continue;
                };
                let mut differences = Vec::new();
                if !candidate.of_route {
                    differences.push(Difference::OtherRoute);
                }
                let is_own = rule.reads_header(&name);
                if !is_own {
                    differences.push(Difference::TokenElsewhere {
                        found: name.as_str().into(),
                        read: carried.into(),
                    });
                }
                // With a header of its own the word is the usual one, and no mistake.
                differences.extend(of_prefix.filter(|_| is_own));
                differences.extend(of_text.clone());
                if best
                    .as_ref()
                    .is_none_or(|(_, _, known)| differences.len() < known.len())
                {
                    best = Some((candidate.name.clone(), name.into(), differences));
                }
            }
        }
    }
    best.filter(|(_, _, differences)| !differences.is_empty())
}

/// Whether `value` is `token`, with or without a word before it, and what is wrong about that word.
fn prefix(expected: &Prefix, value: &[u8], token: &[u8]) -> Option<Option<Difference>> {
    let is_token = |rest: &[u8]| bool::from(trim(rest).ct_eq(token));
    if let Some(rest) = expected.strip(value)
        && is_token(rest)
    {
        return Some(None);
    }
    if is_token(value) {
        let missing = expected
            .text()
            .map(|text| Difference::TokenPrefixMissing(text.into()));
        return Some(missing);
    }
    WORDS.into_iter().find_map(|word| {
        let (before, rest) = value.split_at_checked(word.len())?;
        let stands_there = before.eq_ignore_ascii_case(word.as_bytes()) && is_token(rest);
        stands_there.then_some(Some(Difference::TokenPrefixAdded(word)))
    })
}
