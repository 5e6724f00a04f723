//! An upstream's address, parsed once.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest host name DNS can carry, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// A parsed `http://` or `https://` URL.
///
/// `Display` and `Debug` leave the query out, which may carry a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// TLS or plain.
    pub tls: bool,
    /// Host name in lower case, or address, without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The value of `Host`: with the port unless it is the scheme's own.
    pub authority: Box<str>,
    /// The path, beginning with `/`.
    pub path: Box<str>,
    /// The query without `?`, if the URL has one.
    pub query: Option<Box<str>>,
}

/// Why a text is not an upstream URL.
///
/// No variant carries the text's user, password or query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not http or https, or no host, or a broken port.
    #[error("upstream {given:?} is not an http(s) URL; write it like \"http://127.0.0.1:3000/hooks\"")]
    NotHttp {
        /// The text.
        given: String,
    },
    /// User and password do not belong there.
    #[error("upstream {given:?} carries a user name; put credentials into `headers` of the upstream")]
    Credentials {
        /// The text, without the credentials.
        given: String,
    },
    /// A fragment is never sent.
    #[error("upstream {given:?} carries a fragment (#...), which is never sent; remove it")]
    Fragment {
        /// The text.
        given: String,
    },
    /// A host name in its Unicode form.
    #[error("upstream {given:?} has a host name outside ASCII; write its \"xn--\" form")]
    HostNotAscii {
        /// The text.
        given: String,
    },
    /// A blank, a control character or a letter outside ASCII in the path or the query.
    #[error("upstream {given:?} holds a blank, a control or a non-ASCII character; percent-encode it")]
    Character {
        /// The text.
        given: String,
    },
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_http = || EndpointError::NotHttp { given: shown(text) };
        let (scheme, rest) = text.split_once("://").ok_or_else(not_http)?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ => return Err(not_http()),
        };
        let (place, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if place.contains('@') {
            return Err(EndpointError::Credentials { given: shown(text) });
        }
        if target.contains('#') {
            return Err(EndpointError::Fragment { given: shown(text) });
        }
        if !place.is_ascii() {
            return Err(EndpointError::HostNotAscii { given: shown(text) });
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EndpointError::Character { given: shown(text) });
        }
        let (host, bracketed, port) = host_and_port(place).ok_or_else(not_http)?;
        let own_port = if tls { 443 } else { 80 };
        let port = port.unwrap_or(own_port);
        let mut authority = if bracketed {
            format!("[{host}]")
        } else {
            host.clone()
        };
        if port != own_port {
            authority.push_str(&format!(":{port}"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (target, None),
        };
        Ok(Self {
            tls,
            host: host.into(),
            port,
            authority: authority.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
            query,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Host, whether it is written in brackets, and the port if one is written.
fn host_and_port(place: &str) -> Option<(String, bool, Option<u16>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        // Written back in its canonical form, so that two spellings share a pool.
        let address: Ipv6Addr = address.parse().ok()?;
        return Some((address.to_string(), true, port(rest)?));
    }
    let (host, rest) = place.split_at(place.find(':').unwrap_or(place.len()));
    is_host(host).then_some(())?;
    Some((host.to_ascii_lowercase(), false, port(rest)?))
}

/// The port in `:3000`; `Some(None)` where nothing is written.
fn port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.strip_prefix(':')?;
    // `parse` alone would take "+80".
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port != 0).map(Some)
}

fn is_host(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.is_empty() || labels.len() > HOST_BYTES_MAX {
        return false;
    }
    // The C resolver reads "127.1" and "0x7f.1" as addresses; only the plain form may mean one.
    if let Some(last) = labels.rsplit('.').next()
        && last.starts_with(|first: char| first.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit())
            || last.starts_with("0x")
            || last.starts_with("0X"))
    {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    labels.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// `text` without what may be secret in it: user, password, query and fragment.
fn shown(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = text.split_at(start);
    // The last `@` of all, not only of the authority: a password may hold a slash, a `?` or a `#`.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // What stands where a port should, and is none: perhaps a password whose `@` is missing.
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match place.split_once(':') {
        Some((host, port)) if port.len() > PORT_BYTES_MAX && !place.starts_with('[') => {
            format!("{scheme}{host}:...")
        }
        _ => format!("{scheme}{place}{path}"),
    }
}

/// Digits of the highest port, and a few to see a slip of the pen.
const PORT_BYTES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_tells_a_password() {
        for (url, told) in [
            ("http://user:pass@app/#x", "http://app/"),
            ("http://user:pa#ss@app/", "http://app/"),
            ("http://user:pa?ss/@app/", "http://app/"),
            // Without its `@`, which `leaks_config` found.
            ("http://user:canary+063c23da/3bf8#app", "http://user:..."),
            ("http://app:30000000/x#", "http://app:30000000/x"),
            ("http://[::1]:3000/x#", "http://[::1]:3000/x"),
        ] {
            assert_eq!(shown(url), told, "{url}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (name, text, tls, host, port, authority, path, query) in [
            ("bare", "http://app", false, "app", 80, "app", "/", None),
            (
                "port",
                "http://127.0.0.1:3000/hooks",
                false,
                "127.0.0.1",
                3000,
                "127.0.0.1:3000",
                "/hooks",
                None,
            ),
            (
                "https",
                "https://App.Example.COM/a/B",
                true,
                "app.example.com",
                443,
                "app.example.com",
                "/a/B",
                None,
            ),
            (
                "own port written",
                "https://a:443",
                true,
                "a",
                443,
                "a",
                "/",
                None,
            ),
            (
                "the other's port",
                "https://a:80",
                true,
                "a",
                80,
                "a:80",
                "/",
                None,
            ),
            ("leading zeros", "http://a:0080/", false, "a", 80, "a", "/", None),
            ("scheme in capitals", "HTTP://a/", false, "a", 80, "a", "/", None),
            (
                "query",
                "http://a/p?x=1&y=%20?",
                false,
                "a",
                80,
                "a",
                "/p",
                Some("x=1&y=%20?"),
            ),
            (
                "query without path",
                "http://a?x",
                false,
                "a",
                80,
                "a",
                "/",
                Some("x"),
            ),
            ("empty query", "http://a/?", false, "a", 80, "a", "/", Some("")),
            (
                "v6",
                "http://[::1]:8080/x",
                false,
                "::1",
                8080,
                "[::1]:8080",
                "/x",
                None,
            ),
            (
                "v6, long spelling",
                "https://[0:0:0:0:0:0:0:A]",
                true,
                "::a",
                443,
                "[::a]",
                "/",
                None,
            ),
            (
                "under_score",
                "http://my_app:1/",
                false,
                "my_app",
                1,
                "my_app:1",
                "/",
                None,
            ),
            ("final dot", "http://a.b./", false, "a.b.", 80, "a.b.", "/", None),
            (
                "label of digits in front",
                "http://1.a/",
                false,
                "1.a",
                80,
                "1.a",
                "/",
                None,
            ),
            (
                "an @ in the path",
                "http://a/@x",
                false,
                "a",
                80,
                "a",
                "/@x",
                None,
            ),
        ] {
            let got: Endpoint = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(
                (
                    got.tls,
                    &*got.host,
                    got.port,
                    &*got.authority,
                    &*got.path,
                    got.query.as_deref()
                ),
                (tls, host, port, authority, path, query),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        let long = format!("http://{}/", "a.".repeat(130));
        for (name, text, begin) in [
            ("empty", "", "NotHttp"),
            ("no scheme", "localhost:3000", "NotHttp"),
            ("other scheme", "ftp://a/", "NotHttp"),
            ("unix", "unix:///run/a.sock", "NotHttp"),
            ("no host", "http:///hooks", "NotHttp"),
            ("only a port", "http://:80/", "NotHttp"),
            ("port 0", "http://a:0/", "NotHttp"),
            ("port too big", "http://a:65536/", "NotHttp"),
            ("signed port", "http://a:+80/", "NotHttp"),
            ("empty port", "http://a:/", "NotHttp"),
            ("two ports", "http://a:1:2/", "NotHttp"),
            ("v6 without brackets", "http://::1/", "NotHttp"),
            ("v6 not closed", "http://[::1/", "NotHttp"),
            ("v6 with a tail", "http://[::1]x/", "NotHttp"),
            ("v6 zone", "http://[fe80::1%25eth0]/", "NotHttp"),
            ("v4 short", "http://127.1/", "NotHttp"),
            ("v4 as a number", "http://2130706433/", "NotHttp"),
            ("v4 hex", "http://0x7f.0.0.0x1/", "NotHttp"),
            ("empty label", "http://a..b/", "NotHttp"),
            ("too long", long.as_str(), "NotHttp"),
            ("blank in front", " http://a/", "NotHttp"),
            ("blank in the host", "http://a b/", "NotHttp"),
            ("backslash", "http://a\\b/", "NotHttp"),
            ("percent in the host", "http://a%41/", "NotHttp"),
            ("newline in the host", "http://a\r\nX: y/", "NotHttp"),
            ("user", "http://u@a/", "Credentials"),
            ("user and password", "http://u:p@a/", "Credentials"),
            ("fragment", "http://a/#x", "Fragment"),
            ("unicode host", "http://b\u{fc}cher.example/", "HostNotAscii"),
            ("blank in the path", "http://a/x y", "Character"),
            ("blank at the end", "http://a/ ", "Character"),
            ("newline in the path", "http://a/x\r\nHost: b", "Character"),
            ("nul in the query", "http://a/?\0", "Character"),
            ("unicode path", "http://a/\u{e9}", "Character"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(name);
            assert!(format!("{error:?}").starts_with(begin), "{name}: {error:?}");
        }
    }

    #[test]
    fn no_text_shows_credentials_or_the_query() {
        for text in [
            "http://user:hunter2@a/",
            "http://user:hun/hunter2@a/",
            "http://a/?token=hunter2#x",
            "http://a:0/?token=hunter2",
            "http://a /?token=hunter2",
            "user:hunter2@a",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let fine: Endpoint = "http://a:81/p?token=hunter2".parse().expect("valid");
        assert_eq!(format!("{fine}"), "http://a:81/p");
        assert_eq!(format!("{fine:?}"), "Endpoint(http://a:81/p)");
    }
}
