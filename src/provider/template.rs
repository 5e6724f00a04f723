//! The text that is signed, as a preset or a configuration writes it: `v0:{timestamp}:{body}`.

/// A part of what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text(Box<str>),
    /// Something of the request.
    Value(Value),
    /// The same, written as a JSON string with its quotes.
    JsonString(Value),
    /// The same, in base64.
    Base64(Value),
}

/// Something of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The raw body.
    Body,
    /// The signed time, as it was sent.
    Timestamp,
    /// The method.
    Method,
    /// The public URL that the sender called.
    Url,
    /// The secret.
    Secret,
    /// The fields of a form, sorted by name, names and values joined without anything between them.
    FormSorted,
    /// A header's value.
    Header(Box<str>),
    /// A value in the body.
    Json(Vec<Box<str>>),
    /// What stands under a tag of the signature header.
    Tag(Box<str>),
    /// The values of the headers that are named under a tag, joined by `.`.
    HeaderValues(Box<str>),
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its partner.
    #[error("a `{{` or `}}` stands alone; write `{{{{` or `}}}}` for a brace that is signed")]
    Brace,
    /// No such placeholder.
    #[error("there is no placeholder {{{0}}}; see `signed` in config/providers/README.md")]
    Unknown(String),
}

/// Reads a template.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    for piece in pieces(text)? {
        parts.push(match piece {
            Piece::Text(text) => Part::Text(text.into()),
            Piece::Placeholder(name) => placeholder(name)?,
        });
    }
    Ok(parts)
}

/// A piece of any template: text, or what stood between two braces.
pub(super) enum Piece<'t> {
    Text(String),
    Placeholder(&'t str),
}

/// Splits at placeholders; doubled braces become single ones.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        plain.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            plain.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            plain.push('}');
            rest = after;
        } else {
            let (name, after) = from
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
                .ok_or(TemplateError::Brace)?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Placeholder(name));
            rest = after;
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn placeholder(name: &str) -> Result<Part, TemplateError> {
    let (what, written): (&str, fn(Value) -> Part) = match name.rsplit_once('|') {
        None => (name, Part::Value),
        Some((what, "json")) => (what, Part::JsonString),
        Some((what, "base64")) => (what, Part::Base64),
        Some(_) => return Err(TemplateError::Unknown(name.to_owned())),
    };
    let unknown = || TemplateError::Unknown(name.to_owned());
    let value = match what.split_once(':') {
        None => match what {
            "body" => Value::Body,
            "timestamp" => Value::Timestamp,
            "method" => Value::Method,
            "url" => Value::Url,
            "secret" => Value::Secret,
            "form_sorted" => Value::FormSorted,
            _ => return Err(unknown()),
        },
        Some((_, "")) => return Err(unknown()),
        Some(("header", name)) => Value::Header(name.to_ascii_lowercase().into()),
        Some(("json", at)) => Value::Json(super::place::pointer(at).ok_or_else(unknown)?),
        Some(("tag", tag)) => Value::Tag(tag.into()),
        Some(("header_values", tag)) => Value::HeaderValues(tag.into()),
        Some(_) => return Err(unknown()),
    };
    Ok(written(value))
}

impl Part {
    /// What of the request it is made of.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Self::Text(_) => None,
            Self::Value(value) | Self::JsonString(value) | Self::Base64(value) => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read() {
        let text = |text: &str| Part::Text(text.into());
        for (template, expected) in [
            ("", vec![]),
            ("{body}", vec![Part::Value(Value::Body)]),
            (
                "v0:{timestamp}:{body}",
                vec![
                    text("v0:"),
                    Part::Value(Value::Timestamp),
                    text(":"),
                    Part::Value(Value::Body),
                ],
            ),
            (
                "{header:Webhook-Id}{json:/a~1b/0}{tag:h}{header_values:h}",
                vec![
                    Part::Value(Value::Header("webhook-id".into())),
                    Part::Value(Value::Json(vec!["a/b".into(), "0".into()])),
                    Part::Value(Value::Tag("h".into())),
                    Part::Value(Value::HeaderValues("h".into())),
                ],
            ),
            ("{body|base64}", vec![Part::Base64(Value::Body)]),
            (
                "{{\"Body\":{body|json}}}",
                vec![text("{\"Body\":"), Part::JsonString(Value::Body), text("}")],
            ),
        ] {
            assert_eq!(parse(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = |name: &str| TemplateError::Unknown(name.to_owned());
        for (template, expected) in [
            ("{body", TemplateError::Brace),
            ("body}", TemplateError::Brace),
            ("{bdy}", unknown("bdy")),
            ("{}", unknown("")),
            ("{header:}", unknown("header:")),
            ("{json:a}", unknown("json:a")),
            ("{body|xml}", unknown("body|xml")),
            ("{sig:t}", unknown("sig:t")),
        ] {
            assert_eq!(parse(template).unwrap_err(), expected, "{template}");
        }
    }
}
