//! What the keys of a scheme say together, once each has been read.

use super::body_hmac::BodyHmac;
use super::composed::{Composed, Source};
use super::key::Algorithm;
use super::place::Place;
use super::scheme_text::{SchemeError, wrong};
use super::template::{Part, Value};
use super::timestamp::TimestampSource;
use super::url::UrlForm;

/// What no key says alone.
pub(super) fn fits_together(rule: &Composed) -> Result<(), SchemeError> {
    let uses = |wanted: &Value| rule.signed.iter().any(|part| part.value() == Some(wanted));
    let has_tags = rule.list.as_ref().is_some_and(|list| list.tags.is_some());
    match &rule.timestamp {
        None if uses(&Value::Timestamp) => {
            return wrong(
                "timestamp",
                "is missing: `signed` has {timestamp}, and nothing says where it stands",
            );
        }
        None => {}
        Some(time) => {
            let signed = match &time.source {
                TimestampSource::Header(name) => uses(&Value::Header(name.clone())),
                TimestampSource::Json(tokens) => uses(&Value::Body) || uses(&Value::Json(tokens.clone())),
                TimestampSource::Tag(_) | TimestampSource::First => false,
            };
            if !signed && !uses(&Value::Timestamp) {
                return wrong(
                    "timestamp",
                    "is not signed: put {timestamp} into `signed`, or remove it",
                );
            }
            match &time.source {
                TimestampSource::Tag(_) if !has_tags => {
                    return wrong("timestamp", "stands under a tag, but the header has no tags");
                }
                TimestampSource::First if rule.list.is_none() => {
                    return wrong(
                        "timestamp",
                        "is the first item of a list; say in `list` what stands between items",
                    );
                }
                _ => {}
            }
        }
    }
    let covers_itself = match &rule.source {
        Source::Place(Place::Json(_)) => uses(&Value::Body) || uses(&Value::FormSorted),
        Source::Place(Place::Form(_)) => uses(&Value::Body),
        Source::Place(Place::Query(_)) => uses(&Value::Url),
        _ => false,
    };
    if covers_itself {
        return wrong(
            "signed",
            "holds the place of the signature, which cannot cover itself: say what of it is signed, such as {json:/pointer} or {form_sorted}",
        );
    }
    if rule.url != UrlForm::AsIs && !uses(&Value::Url) {
        return wrong("url", "says how {url} is written, but `signed` has no {url}");
    }
    let is_tag = |part: &Part| matches!(part.value(), Some(Value::Tag(_) | Value::HeaderValues(_)));
    if !has_tags && rule.signed.iter().any(is_tag) {
        return wrong("signed", "has a tag of the header, but the header has no tags");
    }
    if rule.body_digest.is_some() && !uses(&Value::Url) {
        return wrong("body_digest", "stands in the query, so `signed` must have {url}");
    }
    Ok(())
}

/// The rule as one of the kind that needs no allocation.
pub(super) fn plain(rule: &Composed) -> Option<BodyHmac> {
    let Source::Headers {
        names,
        any: false,
        repeated: false,
    } = &rule.source
    else {
        return None;
    };
    let is_plain = rule.algorithm == Algorithm::HmacSha256
        && rule.list.is_none()
        && rule.signed == [Part::Value(Value::Body)]
        && rule.timestamp.is_none()
        && rule.body_digest.is_none()
        && rule.require_headers.is_empty()
        && rule.absent.is_empty();
    is_plain.then(|| BodyHmac {
        headers: names.clone(),
        prefix: rule.prefix.clone(),
        encoding: rule.encoding,
        key: rule.key,
    })
}
