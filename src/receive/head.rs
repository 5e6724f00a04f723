//! A request's head: strictly parsed, the same for HTTP/1.1 and HTTP/2.
//!
//! Strict means: what two servers could read in two ways is refused (RFC 9112, sections 3, 5 and 6; RFC 9110, 7).

use std::mem::MaybeUninit;

use bytes::Bytes;

use super::answer::Refusal;
use crate::fields::Fields;

/// How the body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// `Content-Length`, or none: 0.
    Sized(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// HTTP/2: by its own frames.
    Frames,
}

impl Framing {
    /// Whether bytes may follow on the connection that belong to this request.
    pub(super) fn may_have_body(self) -> bool {
        !matches!(self, Self::Sized(0) | Self::Frames)
    }
}

/// A well-formed head.
#[derive(Debug)]
pub(super) struct Head {
    /// As sent; case matters.
    pub(super) method: Box<str>,
    /// The path as received, undecoded.
    pub(super) path: Box<str>,
    /// The query as received, without `?`.
    pub(super) query: Option<Box<str>>,
    /// `Host` or `:authority`; empty only in HTTP/1.0.
    pub(super) host: Box<str>,
    /// All fields.
    pub(super) fields: Fields,
    /// How the body is framed.
    pub(super) framing: Framing,
    /// The sender waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// The sender allows another request on this connection.
    pub(super) keep_alive: bool,
    /// It speaks HTTP/1.0.
    pub(super) http_10: bool,
}

/// Why a head is refused; the text is for the log.
fn bad(reason: &'static str) -> Refusal {
    Refusal::BadRequest(reason)
}

impl Head {
    /// Parses a complete HTTP/1.x head, closing empty line included.
    pub(super) fn parse(raw: &Bytes, fields_max: usize) -> Result<Self, Refusal> {
        let mut slots = [const { MaybeUninit::uninit() }; 128];
        let mut many;
        // One slot more than allowed, so that too many and malformed are told apart.
        let slots = if fields_max < slots.len() {
            slots.get_mut(..=fields_max).unwrap_or_default()
        } else {
            many = vec![MaybeUninit::uninit(); fields_max + 1];
            many.as_mut_slice()
        };
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(raw, slots) {
            Ok(httparse::Status::Complete(end)) if end == raw.len() => {}
            Ok(_) => return Err(bad("the head does not end where its lines end")),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeaderTooLarge),
            Err(httparse::Error::Version) => return Err(bad("not HTTP/1.1 or HTTP/1.0")),
            Err(_) => return Err(bad("the head is not well-formed")),
        }
        if request.headers.len() > fields_max {
            return Err(Refusal::HeaderTooLarge);
        }
        let http_10 = request.version == Some(0);
        let fields = Fields::from_slices(
            raw,
            request
                .headers
                .iter()
                .map(|header| (header.name.as_bytes(), header.value)),
        );
        let method = request.method.unwrap_or_default();
        let target = request.path.unwrap_or_default();
        let host = one_host(&fields, http_10)?;
        refuse_tunnels(method, &fields)?;
        let (path, query) = origin_form(target, &host)?;
        let framing = framing(&fields, http_10)?;
        Ok(Self {
            method: method.into(),
            path: path.into(),
            query: query.map(Into::into),
            host,
            framing,
            expects_continue: expectation(&fields, http_10)?,
            keep_alive: keep_alive(&fields, http_10),
            http_10,
            fields,
        })
    }

    /// Takes what an HTTP/2 stack has parsed; it has already refused connection-specific fields.
    pub(super) fn from_http2(
        method: &str,
        target: &str,
        host: &str,
        fields: Fields,
        fields_max: usize,
    ) -> Result<Self, Refusal> {
        if fields.len() > fields_max {
            return Err(Refusal::HeaderTooLarge);
        }
        refuse_tunnels(method, &fields)?;
        if !is_host(host) {
            return Err(bad("no usable :authority"));
        }
        let (path, query) = origin_form(target, host)?;
        let declared = content_length(&fields)?;
        Ok(Self {
            method: method.into(),
            path: path.into(),
            query: query.map(Into::into),
            host: host.into(),
            // The stack holds the body to what was declared; the cap applies to it at once.
            framing: declared.map_or(Framing::Frames, Framing::Sized),
            expects_continue: false,
            keep_alive: true,
            http_10: false,
            fields,
        })
    }

    /// The bytes that the head says will follow, if it says so.
    pub(super) fn declared_bytes(&self) -> Option<u64> {
        match self.framing {
            Framing::Sized(bytes) => Some(bytes),
            Framing::Chunked | Framing::Frames => None,
        }
    }
}

fn one_host(fields: &Fields, http_10: bool) -> Result<Box<str>, Refusal> {
    let mut hosts = fields.values("host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.trim_ascii(),
        (None, _) if http_10 => return Ok("".into()),
        (None, _) => return Err(bad("no Host")),
        (Some(_), Some(_)) => return Err(bad("more than one Host")),
    };
    std::str::from_utf8(host)
        .ok()
        .filter(|host| is_host(host))
        .map(Into::into)
        .ok_or_else(|| bad("Host is not a host"))
}

/// RFC 3986, 3.2.2 and 3.2.3: a name or an address, and perhaps a port. Whoever reads more into it is sent to another
/// host. An empty one names nobody.
fn is_host(text: &str) -> bool {
    let (known, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
        Some(None) => return false,
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_name(name), port)
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    known && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let hex = |bytes: &mut std::str::Bytes<'_>| bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
    while let Some(byte) = bytes.next() {
        let known = match byte {
            b'%' => hex(&mut bytes) && hex(&mut bytes),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !known {
            return false;
        }
    }
    !name.is_empty()
}

/// CONNECT and upgrades make a tunnel that nobody checks.
fn refuse_tunnels(method: &str, fields: &Fields) -> Result<(), Refusal> {
    if method == "CONNECT" {
        return Err(Refusal::NotImplemented("CONNECT"));
    }
    if fields.first("upgrade").is_some() {
        return Err(Refusal::NotImplemented("Upgrade"));
    }
    Ok(())
}

/// Path and query of `/path?query`, or of an absolute form that names our own host.
fn origin_form<'a>(target: &'a str, host: &str) -> Result<(&'a str, Option<&'a str>), Refusal> {
    let allowed = |byte: u8| (0x21..=0x7e).contains(&byte) && !matches!(byte, b'#' | b'"' | b'<' | b'>');
    if !target.bytes().all(allowed) {
        return Err(bad("the request target holds bytes that a URL cannot"));
    }
    let rest = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target
            .split_once("://")
            .ok_or_else(|| bad("the request target is not a path"))?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(bad("the request target is not a path"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !authority.eq_ignore_ascii_case(host) {
            return Err(bad("the request target names another host"));
        }
        if path.starts_with('/') { path } else { "/" }
    };
    Ok(match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    })
}

fn framing(fields: &Fields, http_10: bool) -> Result<Framing, Refusal> {
    let length = content_length(fields)?;
    let mut codings = fields.values("transfer-encoding");
    let Some(coding) = codings.next() else {
        return Ok(Framing::Sized(length.unwrap_or(0)));
    };
    if length.is_some() {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    if http_10 {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    if codings.next().is_some() {
        return Err(bad("more than one Transfer-Encoding"));
    }
    let mut last_first = coding.rsplit(|byte| *byte == b',').map(is_chunked);
    match (last_first.next(), last_first.any(|chunked| chunked)) {
        (Some(true), _) if is_chunked(coding) => Ok(Framing::Chunked),
        (Some(true), false) => Err(Refusal::NotImplemented("a coding besides chunked")),
        // RFC 9112, 6.3: without `chunked` at the end, and there alone, nobody knows where the body ends.
        _ => Err(bad("the last Transfer-Encoding is not chunked")),
    }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

fn content_length(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let mut lengths = fields.values("content-length");
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let digits = length.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad("Content-Length is not a number"));
    }
    // Only digits: what does not fit is too large for everybody.
    let text = std::str::from_utf8(digits).unwrap_or_default();
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

fn expectation(fields: &Fields, http_10: bool) -> Result<bool, Refusal> {
    let mut expected = fields.values("expect").map(<[u8]>::trim_ascii).peekable();
    // RFC 9110, 10.1.1: in HTTP/1.0 the field is ignored.
    if http_10 || expected.peek().is_none() {
        return Ok(false);
    }
    if expected.all(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        Ok(true)
    } else {
        Err(Refusal::ExpectationFailed)
    }
}

fn keep_alive(fields: &Fields, http_10: bool) -> bool {
    let mut keep_alive = !http_10;
    for option in fields
        .values("connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
    {
        let option = option.trim_ascii();
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep_alive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, Refusal> {
        Head::parse(&Bytes::copy_from_slice(text.as_bytes()), 100)
    }

    #[test]
    fn a_plain_head() {
        let head =
            parse("POST /hooks/a?x=1&y HTTP/1.1\r\nHost: gate:80\r\nContent-Length: 12\r\nX-A: b \r\n\r\n")
                .unwrap();
        assert_eq!(&*head.method, "POST");
        assert_eq!(&*head.path, "/hooks/a");
        assert_eq!(head.query.as_deref(), Some("x=1&y"));
        assert_eq!(&*head.host, "gate:80");
        assert_eq!(head.framing, Framing::Sized(12));
        assert!(head.keep_alive && !head.expects_continue);
        assert_eq!(head.fields.first("x-a"), Some(&b"b"[..]));
    }

    #[test]
    fn what_two_servers_could_read_in_two_ways_is_refused() {
        for (name, text) in [
            (
                "CL and TE",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "two CL, equal",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            ),
            (
                "CL list",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            ),
            (
                "CL signed",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            ),
            (
                "CL hex",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
            ),
            (
                "CL empty",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            ),
            (
                "two TE",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "TE twice in one",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            ),
            (
                "TE gzip",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            ),
            (
                "TE identity",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            ),
            (
                "TE in 1.0",
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "blank before the colon",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n",
            ),
            ("obs-fold", "POST / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n"),
            ("no Host", "POST / HTTP/1.1\r\nX-A: b\r\n\r\n"),
            ("two Host", "POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
            ("Host with a path", "POST / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
            ("Host with a user", "POST / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
            ("Host with two ports", "POST / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"),
            (
                "Host with a name for a port",
                "POST / HTTP/1.1\r\nHost: a:http\r\n\r\n",
            ),
            (
                "Host with an open bracket",
                "POST / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            ),
            ("Host with half an escape", "POST / HTTP/1.1\r\nHost: a%2\r\n\r\n"),
            ("another host", "POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("another scheme", "POST ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("fragment", "POST /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
            (
                "upgrade",
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            ),
            ("HTTP/2.0 in text", "POST / HTTP/2.0\r\nHost: a\r\n\r\n"),
            ("two blanks", "POST  / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (
                "NUL in a value",
                "POST / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
            ),
            ("CR in a value", "POST / HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n"),
            (
                "unknown expectation",
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n",
            ),
            (
                "unknown expectation in a second line",
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: magic\r\n\r\n",
            ),
        ] {
            assert!(parse(text).is_err(), "{name}");
        }
        assert!(matches!(
            parse("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n")
                .unwrap()
                .framing,
            Framing::Sized(u64::MAX)
        ));
    }

    #[test]
    fn a_coding_besides_chunked_is_told_from_one_that_ends_nowhere() {
        for (coding, not_implemented) in [
            ("gzip, chunked", true),
            ("chunked, gzip", false),
            ("chunked, chunked", false),
            ("gzip", false),
        ] {
            let got = parse(&format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n"
            ));
            let told = matches!(got, Err(Refusal::NotImplemented(_)));
            assert_eq!((got.is_err(), told), (true, not_implemented), "{coding}");
        }
    }

    #[test]
    fn a_host_may_hold_escapes_that_are_whole() {
        for (name, known) in [
            ("a%41b", true),
            ("%2d", true),
            ("a%4", false),
            ("a%4g", false),
            ("a%", false),
            ("", false),
        ] {
            assert_eq!(is_name(name), known, "{name}");
        }
    }

    #[test]
    fn too_many_fields() {
        let fields = |n: usize| format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(n - 1));
        assert!(parse(&fields(100)).is_ok());
        assert!(matches!(parse(&fields(101)), Err(Refusal::HeaderTooLarge)));
        assert!(matches!(parse(&fields(200)), Err(Refusal::HeaderTooLarge)));
        for max in [127, 128, 129, 300] {
            assert!(Head::parse(&Bytes::from(fields(max)), max).is_ok(), "{max}");
            assert!(Head::parse(&Bytes::from(fields(max + 1)), max).is_err(), "{max}");
        }
    }

    #[test]
    fn a_head_ends_where_its_lines_end() {
        for more in ["", "\r\n", "POST / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n\r\n{more}");
            assert_eq!(parse(&text).is_ok(), more.is_empty(), "{more:?}");
        }
        assert!(parse("POST / HTTP/1.1\r\nHost: a\r\n").is_err(), "no empty line");
    }

    #[test]
    fn http_10_may_leave_out_the_host_and_expects_nothing() {
        for (name, text, good) in [
            ("1.0 without Host", "POST / HTTP/1.0\r\n\r\n", true),
            ("1.1 without Host", "POST / HTTP/1.1\r\n\r\n", false),
            (
                "1.0 with two",
                "POST / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
                false,
            ),
            (
                "1.0, any expectation",
                "POST / HTTP/1.0\r\nExpect: magic\r\n\r\n",
                true,
            ),
        ] {
            assert_eq!(parse(text).is_ok(), good, "{name}");
        }
        let head = parse("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").unwrap();
        assert!(head.http_10 && !head.expects_continue && head.host.is_empty());
        let head = parse("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n").unwrap();
        assert!(!head.http_10 && head.expects_continue);
    }

    #[test]
    fn what_a_head_declares_of_its_body() {
        for (fields, expected) in [
            ("Content-Length: 12\r\n", Some(12)),
            ("", Some(0)),
            ("Transfer-Encoding: Chunked\r\n", None),
        ] {
            let head = parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap();
            assert_eq!(head.declared_bytes(), expected, "{fields}");
        }
    }

    #[test]
    fn an_http2_head_is_held_to_the_same() {
        let head = |method: &str, target: &str, host: &str, length: Option<&str>| {
            let pairs = length.map(|length| (&b"content-length"[..], length.as_bytes()));
            Head::from_http2(method, target, host, Fields::from_pairs(pairs), 1)
        };
        for (name, method, target, host, length, declared) in [
            ("a length", "POST", "/a?b", "gate:80", Some("7"), Some(Some(7))),
            ("none", "POST", "/a?b", "gate:80", None, Some(None)),
            ("no host", "POST", "/a?b", "", None, None),
            ("a host with a path", "POST", "/a?b", "a/b", None, None),
            ("another host", "POST", "http://b/", "a", None, None),
            ("a tunnel", "CONNECT", "/a?b", "a", None, None),
            ("a length that is none", "POST", "/a?b", "a", Some("x"), None),
        ] {
            let got = head(method, target, host, length);
            assert_eq!(got.as_ref().ok().map(Head::declared_bytes), declared, "{name}");
            if let Ok(head) = got {
                assert_eq!(
                    (&*head.path, head.query.as_deref(), &*head.host),
                    ("/a", Some("b"), host)
                );
                assert!(head.keep_alive && !head.expects_continue && !head.http_10);
            }
        }
        let two = Fields::from_pairs([(&b"a"[..], &b""[..]), (b"b", b"")]);
        let refused = Head::from_http2("POST", "/", "a", two.clone(), 1);
        assert_eq!(refused.err(), Some(Refusal::HeaderTooLarge));
        assert!(Head::from_http2("POST", "/", "a", two, 2).is_ok());
    }

    #[test]
    fn absolute_form_to_our_own_host_is_the_path() {
        let head = parse("POST http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n").unwrap();
        assert_eq!((&*head.path, head.query.as_deref()), ("/x", Some("y")));
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (version, connection, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: X-A, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            let head = parse(&format!("POST / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).unwrap();
            assert_eq!(head.keep_alive, expected, "{version} {connection}");
        }
    }
}
