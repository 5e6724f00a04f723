//! A request as the schemes see it.

use crate::fields::Fields;

/// What a scheme may look at. Nothing of it is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The method, as sent.
    pub method: &'r str,
    /// The URL that the sender has registered, without its query; from the configuration, never from `Host`.
    pub public_url: Option<&'r str>,
    /// What stood for `/*` in the route's path; follows `public_url`.
    pub path_rest: &'r str,
    /// The query, without `?`.
    pub query: Option<&'r str>,
    /// All header fields.
    pub headers: &'r Fields,
    /// The body.
    pub body: &'r [u8],
}

impl<'r> Request<'r> {
    /// A POST of which only headers and body are known.
    pub fn new(headers: &'r Fields, body: &'r [u8]) -> Self {
        Self {
            method: "POST",
            public_url: None,
            path_rest: "",
            query: None,
            headers,
            body,
        }
    }

    /// The URL that the sender called: as registered, with the rest of the path and the query that came.
    pub(super) fn url(&self) -> Option<String> {
        let mut url = self.public_url?.to_owned();
        url.push_str(self.path_rest);
        if let Some(query) = self.query {
            url.push('?');
            url.push_str(query);
        }
        Some(url)
    }

    /// The one value of a header; `None` when it was not sent or sent more than once.
    pub(super) fn header(&self, name: &'r str) -> Option<&'r [u8]> {
        let mut values = self.headers.values(name);
        match (values.next(), values.next()) {
            (Some(value), None) => Some(super::encoding::trim(value)),
            _ => None,
        }
    }
}

/// The one value of `name` in a form or a query; `None` when it is not there, or more than once.
pub(super) fn form_value(form: &[u8], name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(form).filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Some(value.into_owned()),
        _ => None,
    }
}

/// `query` without the parameters of that name.
pub fn query_without(query: &str, name: &str) -> String {
    let is_named = |part: &&str| {
        form_urlencoded::parse(part.as_bytes())
            .next()
            .is_some_and(|(key, _)| key == name)
    };
    let kept: Vec<&str> = query.split('&').filter(|part| !is_named(part)).collect();
    kept.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_the_registered_one_with_what_came() {
        let fields = Fields::default();
        let request = |public_url, path_rest, query| Request {
            public_url,
            path_rest,
            query,
            ..Request::new(&fields, b"")
        };
        for (request, expected) in [
            (request(None, "", Some("a")), None),
            (request(Some("https://h/x"), "", None), Some("https://h/x")),
            (
                request(Some("https://h/x"), "", Some("a=1&b=%20")),
                Some("https://h/x?a=1&b=%20"),
            ),
            (
                request(Some("https://h/x/"), "y/z", Some("")),
                Some("https://h/x/y/z?"),
            ),
        ] {
            assert_eq!(request.url().as_deref(), expected);
        }
    }

    #[test]
    fn values_of_forms() {
        for (form, expected) in [
            ("a=1&b=2", Some("1")),
            ("b=2&a=x+y%21", Some("x y!")),
            ("a=1&a=1", None),
            ("b=1", None),
            ("a", Some("")),
            ("%61=1", Some("1")),
            ("", None),
        ] {
            assert_eq!(form_value(form.as_bytes(), "a").as_deref(), expected, "{form}");
        }
    }

    #[test]
    fn a_parameter_goes_and_the_others_stay_as_they_were() {
        for (query, expected) in [
            ("secret=s", ""),
            ("a=%20&secret=s&b", "a=%20&b"),
            ("secret=a&secret=b", ""),
            ("%73ecret=s&a=1", "a=1"),
            ("secrets=s", "secrets=s"),
        ] {
            assert_eq!(query_without(query, "secret"), expected);
        }
    }
}
