//! Where a route's ids and types stand.

use toml::de::DeValue;

use super::context::{At, Context};
use super::section::Section;
use super::verify::Proof;
use crate::provider::identify::IdentifyRule;
use crate::receive::settings::Verify;

/// Deepest JSON pointer.
const POINTER_TOKENS_MAX: usize = 16;

/// Where id and type stand: the preset's places, unless the route names its own.
pub(super) fn identify(table: &Section<'_>, proof: Option<&Proof<'_>>) -> IdentifyRule {
    let mut rule = proof.map(|proof| proof.identify.clone()).unwrap_or_default();
    if let Some(id) = event_id(table) {
        let unverified = proof.is_some_and(|proof| matches!(proof.verify, Verify::Nothing));
        if unverified && id.is_some() {
            let text = "\"event_id\" has no meaning with verify = \"none\": an id that anybody can write is not trusted";
            let help = "remove it; events are told apart by their bodies";
            table.context.error(&table.key_span("event_id"), text, Some(help));
        }
        rule.id = id;
    }
    if let Some(place) = table.table("event_type", "{ json = \"/type\" }") {
        let body = place.string("json");
        let header = place.string("header");
        if body.is_none() && header.is_none() && !place.has("json") && !place.has("header") {
            place.missing(
                "json",
                "write event_type = { json = \"/type\" } or { header = \"X-Type\" }",
            );
        }
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
fn event_id(table: &Section<'_>) -> Option<Option<Vec<Box<str>>>> {
    let item = table.item("event_id")?;
    let form = "\"event_id\" must be { json = \"/id\" } or \"body-hash\"";
    match item.value.get_ref() {
        DeValue::String(word) if word == "body-hash" => Some(None),
        DeValue::Table(_) => {
            let place = table.table("event_id", "{ json = \"/id\" }")?;
            if let Some(header) = place.refused("header") {
                let text = format!(
                    "event_id = header {} is not covered by the signature: a captured request could be replayed under a new id",
                    header.as_str().unwrap_or("\"...\"")
                );
                let help = "use event_id = { json = \"/id\" } or \"body-hash\"";
                table.context.wrong(&item.span(), text, Some(help));
                return None;
            }
            if !place.has("json") {
                place.missing("json", "write event_id = { json = \"/id\" }");
            }
            let pointer = place
                .string("json")
                .and_then(|text| pointer(table.context, &text));
            place.finish();
            pointer.map(Some)
        }
        _ => {
            table.context.wrong(&item.span(), form, None);
            None
        }
    }
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
