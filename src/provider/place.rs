//! Where something stands in a request: `/data/id`, `header:x-event`, `form:type`, `query:code`.

use super::identify::{is_named, json_value, unescape_string};
use super::request::{Request, form_value};

/// Where one value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a JSON pointer in the body.
    Json(Vec<Box<str>>),
    /// In a header.
    Header(Box<str>),
    /// In a body that is a form.
    Form(Box<str>),
    /// In the query.
    Query(Box<str>),
}

/// Several places: of the alternatives the first that is there, each joined of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(pub Vec<Vec<Place>>);

/// Splits a JSON pointer (RFC 6901) into its tokens; `None` where it does not begin with `/`.
pub(super) fn pointer(text: &str) -> Option<Vec<Box<str>>> {
    let tokens = text.strip_prefix('/')?.split('/');
    Some(
        tokens
            .map(|token| token.replace("~1", "/").replace("~0", "~").into())
            .collect(),
    )
}

impl Place {
    /// Reads a place; `None` where it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(tokens) = pointer(text) {
            return Some(Self::Json(tokens));
        }
        let (kind, name) = text.split_once(':')?;
        match (kind, name) {
            (_, "") => None,
            ("json", at) => pointer(at).map(Self::Json),
            ("header", name) => {
                let name = name.to_ascii_lowercase();
                http::HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some(Self::Header(name.into()))
            }
            ("form", name) => Some(Self::Form(name.into())),
            ("query", name) => Some(Self::Query(name.into())),
            _ => None,
        }
    }

    /// What stands there, decoded: a string's content, a number or a boolean as written. `None` where there is nothing of that
    /// kind, or more than once.
    pub(super) fn read(&self, request: &Request<'_>) -> Option<String> {
        match self {
            Self::Json(tokens) => json_text(request.body, tokens),
            Self::Header(name) => {
                let value = request.header(name)?;
                std::str::from_utf8(value).ok().map(str::to_owned)
            }
            // A text in a document may look like a form.
            Self::Form(name) if is_form(request) => form_value(request.body, name),
            Self::Form(_) => None,
            Self::Query(name) => form_value(request.query?.as_bytes(), name),
        }
    }

    /// Whether anything stands there, even more than one thing or none that can be read.
    pub(super) fn is_there(&self, request: &Request<'_>) -> bool {
        let in_form = |form: &[u8], name: &str| form_urlencoded::parse(form).any(|(key, _)| key == name);
        match self {
            Self::Json(tokens) => is_named(request.body, tokens),
            Self::Header(name) => request.headers.first(name).is_some(),
            Self::Form(name) => in_form(request.body, name),
            Self::Query(name) => request.query.is_some_and(|query| in_form(query.as_bytes(), name)),
        }
    }

    /// As it is written in a preset.
    pub fn text(&self) -> String {
        match self {
            Self::Json(tokens) => pointer_text(tokens),
            Self::Header(name) => format!("header:{name}"),
            Self::Form(name) => format!("form:{name}"),
            Self::Query(name) => format!("query:{name}"),
        }
    }
}

/// Whether the body is said to be a form; where nothing is said, it may be one.
fn is_form(request: &Request<'_>) -> bool {
    request.headers.first("content-type").is_none_or(|kind| {
        let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
        kind.contains("x-www-form-urlencoded")
    })
}

/// A string's content, a number or a boolean as written; `None` for all else.
pub(super) fn json_text(body: &[u8], tokens: &[Box<str>]) -> Option<String> {
    let raw = json_value(body, tokens)?;
    match raw.as_bytes().first()? {
        b'"' => unescape_string(raw),
        b'{' | b'[' | b'n' => None,
        _ => Some(raw.to_owned()),
    }
}

/// A pointer as RFC 6901 writes it.
pub fn pointer_text(tokens: &[Box<str>]) -> String {
    let escaped = |token: &str| format!("/{}", token.replace('~', "~0").replace('/', "~1"));
    tokens.iter().map(|token| escaped(token)).collect()
}

impl Places {
    /// Reads ` | ` between alternatives and ` + ` between parts; `None` where one of them is no place.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |text: &str| Place::parse(text.trim());
        let joined = |text: &str| text.split(" + ").map(part).collect::<Option<Vec<_>>>();
        text.split(" | ")
            .map(joined)
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// The place of a JSON pointer.
    pub fn of_pointer(tokens: Vec<Box<str>>) -> Self {
        Self(vec![vec![Place::Json(tokens)]])
    }

    /// Whether it is a single place.
    pub fn is_one(&self) -> bool {
        matches!(&*self.0, [only] if only.len() == 1)
    }

    /// The pointer, where it is nothing but one.
    pub(super) fn only_pointer(&self) -> Option<&[Box<str>]> {
        match &*self.0 {
            [only] => match &**only {
                [Place::Json(tokens)] => Some(tokens),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the first alternative that is there says, its parts joined by `:`.
    pub(super) fn read(&self, request: &Request<'_>) -> Option<String> {
        self.0.iter().find_map(|parts| {
            let values: Option<Vec<String>> = parts.iter().map(|part| part.read(request)).collect();
            values
                .map(|values| values.join(":"))
                .filter(|text| !text.is_empty())
        })
    }

    /// Every header that is named.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().filter_map(|place| match place {
            Place::Header(name) => Some(&**name),
            _ => None,
        })
    }

    /// As it is written in a preset.
    pub fn text(&self) -> String {
        let joined = |parts: &Vec<Place>| parts.iter().map(Place::text).collect::<Vec<_>>().join(" + ");
        self.0.iter().map(joined).collect::<Vec<_>>().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    #[test]
    fn places_are_read() {
        let fields = Fields::from_pairs([(&b"X-Id"[..], &b" h1 "[..]), (b"x-two", b"a"), (b"x-two", b"b")]);
        let body = br#"{"id":"e\u0031","n":5,"b":true,"none":null,"o":{},"two":1,"two":2}"#;
        let request = Request {
            query: Some("id=q+1"),
            ..Request::new(&fields, body)
        };
        for (text, expected) in [
            ("/id", Some("e1")),
            ("/n", Some("5")),
            ("/b", Some("true")),
            ("/none", None),
            ("/o", None),
            ("/two", None),
            ("header:X-Id", Some("h1")),
            ("header:x-two", None),
            ("query:id", Some("q 1")),
            ("/none | header:x-id", Some("h1")),
            ("/id + /n", Some("e1:5")),
            ("/id + /none | /n", Some("5")),
        ] {
            let places = Places::parse(text).unwrap();
            assert_eq!(places.read(&request).as_deref(), expected, "{text}");
            assert_eq!(places.text(), text.to_ascii_lowercase(), "{text}");
        }
        let form = Request::new(&fields, b"a=1&b=x%20y");
        assert_eq!(
            Places::parse("form:b").unwrap().read(&form).as_deref(),
            Some("x y")
        );
        for wrong in ["", "id", "header:", "header:a b", "body:/id", "/a + b", "/a | "] {
            assert_eq!(Places::parse(wrong), None, "{wrong}");
        }
    }
}
