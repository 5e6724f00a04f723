//! Where a route's ids and types stand.

use toml::de::DeValue;

use super::context::{At, Context, Span};
use super::section::Section;
use super::verify::Proof;
use crate::provider::identify::IdentifyRule;
use crate::provider::place::Places;
use crate::receive::settings::Verify;

/// Deepest JSON pointer.
const POINTER_TOKENS_MAX: usize = 16;

/// Where id and type stand: the preset's places, unless the route names its own.
pub(super) fn identify(table: &Section<'_>, proof: Option<&Proof<'_>>) -> IdentifyRule {
    let mut rule = proof.map(|proof| proof.identify.clone()).unwrap_or_default();
    if let Some(id) = event_id(table, proof) {
        let unverified = proof.is_some_and(|proof| matches!(proof.verify, Verify::Nothing));
        if unverified && id.is_some() {
            let text = "\"event_id\" has no meaning with verify = \"none\": an id that anybody can write is not trusted";
            let help = "remove it; events are told apart by their bodies";
            table.context.error(&table.key_span("event_id"), text, Some(help));
        }
        rule.set_id(id);
    }
    let Some(item) = table.item("event_type") else {
        return rule;
    };
    if let DeValue::String(text) = item.value.get_ref() {
        let text = At {
            value: &**text,
            span: item.span(),
        };
        let places = places(table.context, &text);
        let unsigned = places.as_ref().and_then(|places| unsigned_header(places, proof));
        match (places, unsigned) {
            (Some(places), Some(header)) if places.is_one() => {
                rule.set_type(None);
                rule.type_header = Some(header);
            }
            (Some(_), Some(header)) => {
                let problem = format!(
                    "\"event_type\" joins header {header:?}, which the signature does not cover, with others"
                );
                let help = "name that header alone: the type then counts as unsigned";
                table.context.error(&text.span, problem, Some(help));
            }
            (places, None) => {
                rule.set_type(places);
                rule.type_header = None;
            }
            (None, Some(_)) => {}
        }
    } else if let Some(place) = table.table("event_type", "{ json = \"/type\" }") {
        let body = place.string("json");
        let header = place.string("header");
        if body.is_none() && header.is_none() && !place.has("json") && !place.has("header") {
            place.missing(
                "json",
                "write event_type = { json = \"/type\" } or { header = \"X-Type\" }",
            );
        }
        rule.set_type(None);
        rule.event_type = body.and_then(|text| pointer(table.context, &text));
        rule.type_header = header.and_then(|name| {
            let lower = name.value.to_ascii_lowercase();
            if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
                let text = format!("{:?} is not the name of a header", name.value);
                table.context.wrong(&name.span, text, None);
                return None;
            }
            Some(lower.into())
        });
        place.finish();
    }
    rule
}

/// `Some(None)` for `"body-hash"`.
fn event_id(table: &Section<'_>, proof: Option<&Proof<'_>>) -> Option<Option<Places>> {
    let item = table.item("event_id")?;
    let form = "\"event_id\" must be { json = \"/id\" }, a text like \"/id\" or \"body-hash\"";
    let span = item.span();
    match item.value.get_ref() {
        DeValue::String(word) if word == "body-hash" => Some(None),
        DeValue::String(text) => {
            let places = places(
                table.context,
                &At {
                    value: &**text,
                    span: span.clone(),
                },
            )?;
            signed(table, places, proof, &span)
        }
        DeValue::Table(_) => {
            let place = table.table("event_id", "{ json = \"/id\" }")?;
            let mut written = None;
            let read = if place.has("header") {
                place.string("header").and_then(|name| {
                    written = Some(name.value);
                    let text = format!("header:{}", name.value);
                    places(
                        table.context,
                        &At {
                            value: &*text,
                            span: name.span,
                        },
                    )
                })
            } else {
                if !place.has("json") {
                    place.missing("json", "write event_id = { json = \"/id\" }");
                }
                let found = place
                    .string("json")
                    .and_then(|text| pointer(table.context, &text));
                found.map(Places::of_pointer)
            };
            place.finish();
            let read = read?;
            match (unsigned_header(&read, proof), written) {
                (Some(_), Some(name)) => {
                    refuse_unsigned(table, name, &span);
                    None
                }
                _ => Some(Some(read)),
            }
        }
        _ => {
            table.context.wrong(&span, form, None);
            None
        }
    }
}

/// An id is believed only where the signature covers it.
fn signed(
    table: &Section<'_>,
    places: Places,
    proof: Option<&Proof<'_>>,
    span: &Span,
) -> Option<Option<Places>> {
    if let Some(header) = unsigned_header(&places, proof) {
        refuse_unsigned(table, &header, span);
        return None;
    }
    Some(Some(places))
}

fn refuse_unsigned(table: &Section<'_>, header: &str, span: &Span) {
    let text = format!(
        "event_id = header {header} is not covered by the signature: a captured request could be replayed under a new id"
    );
    let help = "use event_id = { json = \"/id\" } or \"body-hash\"";
    table.context.wrong(span, text, Some(help));
}

/// A header among `places` that not every scheme of the route vouches for.
fn unsigned_header(places: &Places, proof: Option<&Proof<'_>>) -> Option<Box<str>> {
    let vouched = |name: &str| match proof.map(|proof| &proof.verify) {
        Some(Verify::Signature { proofs, .. }) => {
            proofs.iter().all(|proof| proof.scheme.vouches_for_header(name))
        }
        Some(Verify::Nothing) => false,
        // What is wrong with the proof was said.
        None => true,
    };
    places.headers().find(|name| !vouched(name)).map(Into::into)
}

fn places(context: &Context<'_>, text: &At<&str>) -> Option<Places> {
    let places = Places::parse(text.value);
    if places.is_none() {
        let problem = format!(
            "{:?} is no place; write it like \"/data/id\", \"header:X-Id\" or \"form:id\", several joined by \" | \" or \" + \"",
            text.value
        );
        context.wrong(&text.span, problem, None);
    }
    places
}

/// A JSON pointer (RFC 6901), split into its tokens.
fn pointer(context: &Context<'_>, text: &At<&str>) -> Option<Vec<Box<str>>> {
    let tokens: Option<Vec<Box<str>>> = text
        .value
        .strip_prefix('/')
        .map(|rest| rest.split('/').map(pointer_token).collect())
        .unwrap_or_default();
    if tokens
        .as_ref()
        .is_none_or(|tokens| tokens.len() > POINTER_TOKENS_MAX)
    {
        let problem = format!(
            "{:?} is not a JSON pointer of at most {POINTER_TOKENS_MAX} steps; write it like \"/data/id\"",
            text.value
        );
        context.wrong(&text.span, problem, None);
        return None;
    }
    tokens
}

/// `~1` is `/` and `~0` is `~`; a `~` before anything else is a mistake.
fn pointer_token(token: &str) -> Option<Box<str>> {
    let valid = token
        .split('~')
        .skip(1)
        .all(|after| after.starts_with('0') || after.starts_with('1'));
    valid.then(|| token.replace("~1", "/").replace("~0", "~").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_tokens() {
        assert_eq!(pointer_token("a~1b~0c").as_deref(), Some("a/b~c"));
        assert_eq!(pointer_token("~01").as_deref(), Some("~1"));
        assert_eq!(pointer_token("a~2"), None);
        assert_eq!(pointer_token("a~"), None);
    }
}
