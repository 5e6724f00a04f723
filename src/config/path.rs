//! Where a route listens, and what it is called.

use super::context::At;
use super::section::Section;
use crate::event::RouteName;
use crate::receive::settings::RoutePath;

/// Longest name of a route: it becomes a header's value and a metric's label.
const NAME_BYTES_MAX: usize = 128;
/// Longest path.
const PATH_BYTES_MAX: usize = 1024;

pub(super) fn path(table: &Section<'_>) -> Option<At<RoutePath>> {
    if !table.has("path") {
        table.missing(
            "path",
            "write path = \"/hooks/name\", or \"/hooks/name/*\" for everything below it",
        );
    }
    let written = table.string("path")?;
    match parse_path(written.value) {
        Ok(value) => Some(At {
            value,
            span: written.span,
        }),
        Err(reason) => {
            table
                .context
                .wrong(&written.span, format!("path {:?} {reason}", written.value), None);
            None
        }
    }
}

/// A path as it stands in a request line, so that the two can be compared byte for byte.
fn parse_path(text: &str) -> Result<RoutePath, &'static str> {
    let prefix = text.strip_suffix("/*");
    let plain = prefix.unwrap_or(text);
    if !text.starts_with('/') {
        return Err("must begin with \"/\"");
    }
    if text.len() > PATH_BYTES_MAX {
        return Err("is over 1024 bytes");
    }
    if plain.contains('*') {
        return Err("may hold \"*\" only as its end, \"/*\"");
    }
    if plain.contains(['?', '#']) {
        return Err("may not hold a query or a fragment; routes are chosen by path alone");
    }
    if !plain.bytes().all(|byte| byte.is_ascii_graphic())
        || plain.contains(['\\', '"', '<', '>', '^', '`', '{', '|', '}'])
    {
        return Err("holds a character that no path in a request can hold; write it percent-encoded");
    }
    let lower = plain.to_ascii_lowercase();
    if ["%2e", "%2f", "%5c"].iter().any(|code| lower.contains(code)) {
        return Err("holds an encoded \".\", \"/\" or \"\\\", which is never matched");
    }
    let broken_escape = plain.split('%').skip(1).any(|after| {
        !after
            .get(..2)
            .is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    if broken_escape {
        return Err("holds a \"%\" that is not followed by two hex digits");
    }
    if plain.contains("//") || (prefix.is_some() && plain.ends_with('/')) {
        return Err("holds \"//\"");
    }
    if plain.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("holds \".\" or \"..\"; write the path itself");
    }
    Ok(match prefix {
        Some(prefix) => RoutePath::Below(format!("{prefix}/").into()),
        None => RoutePath::Exact(text.into()),
    })
}

/// `name`, else the path without its leading slash and without a closing `/*`.
pub(super) fn name(table: &Section<'_>, path: Option<&At<RoutePath>>) -> Option<At<RouteName>> {
    if let Some(written) = table.string("name") {
        let usable = (1..=NAME_BYTES_MAX).contains(&written.value.len())
            && written
                .value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        if !usable {
            let text = "the name of a route is 1 to 128 visible ASCII characters without \" and \\";
            table.context.wrong(&written.span, text, None);
            return None;
        }
        return Some(At {
            value: RouteName::new(written.value),
            span: written.span,
        });
    }
    let path = path.filter(|_| !table.has("name"))?;
    let (RoutePath::Exact(text) | RoutePath::Below(text)) = &path.value;
    let bare = text.trim_matches('/');
    if bare.len() > NAME_BYTES_MAX {
        let help = "write name = \"...\", at most 128 characters";
        table.context.error(
            &path.span,
            "this path is too long to be the route's name",
            Some(help),
        );
        return None;
    }
    Some(At {
        value: RouteName::new(if bare.is_empty() { "root" } else { bare }),
        span: path.span.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, good) in [
            ("/", true),
            ("/*", true),
            ("/hooks/quantiv", true),
            ("/hooks/quantiv/", true),
            ("/hooks/*", true),
            ("/a%20b", true),
            ("", false),
            ("hooks", false),
            ("/a*", false),
            ("/*/b", false),
            ("/a/**", false),
            ("//*", false),
            ("/a//b", false),
            ("/a/./b", false),
            ("/a/..", false),
            ("/../*", false),
            ("/a%2eb", false),
            ("/a%2F", false),
            ("/a%5C", false),
            ("/a%zz", false),
            ("/a%2", false),
            ("/a\\b", false),
            ("/a?b=c", false),
            ("/a#b", false),
            ("/ä", false),
            ("/a b", false),
        ] {
            assert_eq!(parse_path(path).is_ok(), good, "{path:?}: {:?}", parse_path(path));
        }
        assert_eq!(parse_path("/*"), Ok(RoutePath::Below("/".into())));
        assert_eq!(parse_path("/hooks/*"), Ok(RoutePath::Below("/hooks/".into())));
    }
}
