//! How senders write the URL that they sign.

/// How `{url}` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UrlForm {
    /// As it was registered, with the query that came.
    #[default]
    AsIs,
    /// With the escapes of some characters undone (HubSpot, v3).
    Decoded,
    /// With its port or without: Twilio signs either.
    Twilio,
}

impl UrlForm {
    /// Its name in presets and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Decoded => "decoded",
            Self::Twilio => "twilio",
        }
    }

    /// Every way in which the sender may have written `url`.
    pub(super) fn write(self, url: &str) -> Vec<String> {
        match self {
            Self::AsIs => vec![url.to_owned()],
            Self::Decoded => vec![decoded(url)],
            Self::Twilio => {
                let mut ways = vec![url.to_owned()];
                ways.extend(other_port(url));
                ways
            }
        }
    }
}

/// Undoes the escapes that HubSpot undoes before it signs (its page on request validation, v3).
fn decoded(url: &str) -> String {
    const ESCAPES: [(&str, char); 12] = [
        ("3A", ':'),
        ("2F", '/'),
        ("3F", '?'),
        ("40", '@'),
        ("21", '!'),
        ("24", '$'),
        ("27", '\''),
        ("28", '('),
        ("29", ')'),
        ("2A", '*'),
        ("2C", ','),
        ("3B", ';'),
    ];
    let mut text = String::with_capacity(url.len());
    let mut rest = url;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let known = after
            .get(..2)
            .and_then(|digits| ESCAPES.iter().find(|(code, _)| code.eq_ignore_ascii_case(digits)));
        match known {
            Some((code, character)) => {
                text.push(*character);
                rest = after.get(code.len()..).unwrap_or_default();
            }
            None => {
                text.push('%');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// The URL with its scheme's port where it has none, and without its port where it has one.
fn other_port(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let port_at = authority
        .rfind(':')
        .filter(|at| !authority.get(*at..).is_some_and(|port| port.contains(']')));
    let authority = match (port_at, scheme) {
        (Some(at), _) => authority.get(..at)?.to_owned(),
        (None, "https") => format!("{authority}:443"),
        (None, _) => format!("{authority}:80"),
    };
    Some(format!("{scheme}://{authority}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_a_url() {
        for (form, url, expected) in [
            (UrlForm::AsIs, "https://h/a?b=%3A", vec!["https://h/a?b=%3A"]),
            (
                UrlForm::Decoded,
                "https://h/a?b=%3a%2F%20%",
                vec!["https://h/a?b=:/%20%"],
            ),
            (
                UrlForm::Twilio,
                "https://h/a?b",
                vec!["https://h/a?b", "https://h:443/a?b"],
            ),
            (UrlForm::Twilio, "http://h", vec!["http://h", "http://h:80"]),
            (
                UrlForm::Twilio,
                "https://h:8443/a",
                vec!["https://h:8443/a", "https://h/a"],
            ),
            (
                UrlForm::Twilio,
                "https://[::1]/a",
                vec!["https://[::1]/a", "https://[::1]:443/a"],
            ),
        ] {
            assert_eq!(form.write(url), expected, "{url}");
        }
    }
}
