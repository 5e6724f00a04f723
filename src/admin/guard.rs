//! Who may use the admin API: the bearer of the token, or, without a token, a program on this machine.
//!
//! Without a token a web page opened on this machine must not reach the API through the browser: its requests
//! carry `Origin` or `Sec-Fetch-Site`, or, after a DNS rebinding, the `Host` of the page.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AdminError;
use super::answer::{refusal, refusal_with};
use crate::secret::SecretText;

/// Decides who comes in.
#[derive(Debug, Clone)]
pub(super) struct Door {
    token: Option<AdminToken>,
}

/// The token that the admin API demands. Its clones are one.
#[derive(Clone)]
pub struct AdminToken(Arc<RwLock<[u8; 32]>>);

impl AdminToken {
    /// Only the hash is kept: it compares in a time that tells neither content nor length.
    fn new(token: &SecretText) -> Self {
        Self(Arc::new(RwLock::new(hash(token.expose()))))
    }

    /// From now on `token` is demanded. An empty one is no token, and changes nothing.
    ///
    /// # Errors
    /// [`AdminError::TokenEmpty`].
    pub fn change(&self, token: &SecretText) -> Result<(), AdminError> {
        if token.expose().is_empty() {
            return Err(AdminError::TokenEmpty);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hash(token.expose());
        Ok(())
    }

    fn hash(&self) -> [u8; 32] {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// Why somebody does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// No token, or another one.
    Token,
    /// From a web page.
    Browser,
    /// For a host that is not this machine.
    Host,
}

impl Door {
    /// Refuses to open on an address others reach without a token.
    pub(super) fn new(listen: SocketAddr, token: Option<&SecretText>) -> Result<Self, AdminError> {
        match token {
            Some(token) if token.expose().is_empty() => Err(AdminError::TokenEmpty),
            None if !listen.ip().to_canonical().is_loopback() => Err(AdminError::TokenMissing { listen }),
            token => Ok(Self {
                token: token.map(AdminToken::new),
            }),
        }
    }

    /// What is demanded, to change it.
    pub(super) fn token(&self) -> Option<AdminToken> {
        self.token.clone()
    }

    /// Whether `request` may go on. Health needs no token: probes have none.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        if is_health(request.uri().path()) {
            return Ok(());
        }
        let headers = request.headers();
        match &self.token {
            Some(token) if !bears(headers, &token.hash()) => return Err(Refused::Token),
            Some(_) => {}
            None if !is_for_this_machine(headers) => return Err(Refused::Host),
            None => {}
        }
        let reads_only = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads_only && is_from_a_page(headers) {
            return Err(Refused::Browser);
        }
        Ok(())
    }
}

impl Refused {
    /// The label of the metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Browser => "browser",
            Self::Host => "host",
        }
    }

    /// As it is told.
    pub(super) fn answer(self) -> Response {
        match self {
            Self::Token => refusal_with(
                StatusCode::UNAUTHORIZED,
                (WWW_AUTHENTICATE, "Bearer"),
                "the admin token is needed: Authorization: Bearer <token>",
            ),
            Self::Browser => refusal(StatusCode::FORBIDDEN, "not to be called from a web page"),
            Self::Host => refusal(
                StatusCode::FORBIDDEN,
                "call it by localhost or a loopback address, or set an admin token",
            ),
        }
    }
}

fn is_health(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/-/live" | "/-/ready")
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn bears(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some((scheme, given)) = value.as_bytes().split_at_checked("Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(hash(given.trim_ascii()).ct_eq(token))
}

/// No `Host` at all is an HTTP/1.0 tool; a browser always sends one.
fn is_for_this_machine(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().all(|host| {
        let Ok(host) = host.to_str() else {
            return false;
        };
        let name = without_port(host);
        name.eq_ignore_ascii_case("localhost")
            || name
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address in brackets are not a port's.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

fn is_from_a_page(headers: &HeaderMap) -> bool {
    let fetched = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site.as_bytes() != b"none");
    fetched || headers.contains_key(ORIGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    fn door(listen: &str, token: Option<&str>) -> Result<Door, AdminError> {
        let token = token.map(|text| SecretText::new(text.as_bytes().to_vec()));
        Door::new(listen.parse().unwrap(), token.as_ref())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn off_loopback_a_token_is_demanded() {
        for (listen, token, opens) in [
            (LOOPBACK, None, true),
            ("[::1]:0", None, true),
            ("[::ffff:127.0.0.1]:0", None, true),
            ("0.0.0.0:0", None, false),
            ("[::]:0", None, false),
            ("10.0.0.1:0", None, false),
            ("0.0.0.0:0", Some("t"), true),
            (LOOPBACK, Some(""), false),
        ] {
            assert_eq!(door(listen, token).is_ok(), opens, "{listen} {token:?}");
        }
    }

    #[test]
    fn the_token_opens_and_nothing_else_does() {
        let door = door(LOOPBACK, Some("canary-token")).unwrap();
        for (name, headers, want) in [
            ("none", vec![], Err(Refused::Token)),
            ("right", vec![("authorization", "Bearer canary-token")], Ok(())),
            (
                "scheme in lower case",
                vec![("authorization", "bearer canary-token")],
                Ok(()),
            ),
            (
                "blanks around",
                vec![("authorization", "Bearer  canary-token ")],
                Ok(()),
            ),
            (
                "one short",
                vec![("authorization", "Bearer canary-toke")],
                Err(Refused::Token),
            ),
            (
                "one long",
                vec![("authorization", "Bearer canary-tokens")],
                Err(Refused::Token),
            ),
            ("empty", vec![("authorization", "Bearer ")], Err(Refused::Token)),
            (
                "scheme only",
                vec![("authorization", "Bearer")],
                Err(Refused::Token),
            ),
            (
                "another scheme",
                vec![("authorization", "Basic canary-token")],
                Err(Refused::Token),
            ),
            (
                "no scheme",
                vec![("authorization", "canary-token")],
                Err(Refused::Token),
            ),
            (
                "twice",
                vec![
                    ("authorization", "Bearer canary-token"),
                    ("authorization", "Bearer canary-token"),
                ],
                Err(Refused::Token),
            ),
            (
                "any host",
                vec![
                    ("authorization", "Bearer canary-token"),
                    ("host", "hooklatch.example"),
                ],
                Ok(()),
            ),
        ] {
            assert_eq!(door.check(&request("GET", "/metrics", &headers)), want, "{name}");
        }
        assert_eq!(format!("{door:?}"), "Door { token: Some(AdminToken(..)) }");
    }

    #[test]
    fn without_a_token_only_this_machine_comes_in() {
        let door = door(LOOPBACK, None).unwrap();
        for (host, want) in [
            ("localhost", Ok(())),
            ("LOCALHOST:9190", Ok(())),
            ("127.0.0.1:9190", Ok(())),
            ("127.8.9.1", Ok(())),
            ("[::1]:9190", Ok(())),
            ("[::1]", Ok(())),
            ("rebound.example:9190", Err(Refused::Host)),
            ("localhost.example", Err(Refused::Host)),
            ("127.0.0.1.example", Err(Refused::Host)),
            ("10.0.0.1", Err(Refused::Host)),
            ("", Err(Refused::Host)),
        ] {
            assert_eq!(
                door.check(&request("GET", "/metrics", &[("host", host)])),
                want,
                "{host}"
            );
            assert_eq!(
                door.check(&request("GET", "/readyz", &[("host", host)])),
                Ok(()),
                "{host}"
            );
        }
        assert_eq!(door.check(&request("GET", "/metrics", &[])), Ok(()), "no host");
    }

    #[test]
    fn no_page_changes_anything() {
        for token in [None, Some("t")] {
            let door = door(LOOPBACK, token).unwrap();
            for (name, header, value, want) in [
                ("a tool", "accept", "*/*", Ok(())),
                (
                    "another origin",
                    "origin",
                    "https://page.example",
                    Err(Refused::Browser),
                ),
                ("a hidden origin", "origin", "null", Err(Refused::Browser)),
                (
                    "cross-site",
                    "sec-fetch-site",
                    "cross-site",
                    Err(Refused::Browser),
                ),
                ("same-site", "sec-fetch-site", "same-site", Err(Refused::Browser)),
                ("typed in", "sec-fetch-site", "none", Ok(())),
            ] {
                let headers = [
                    ("host", "localhost"),
                    ("authorization", "Bearer t"),
                    (header, value),
                ];
                assert_eq!(
                    door.check(&request("POST", "/-/replay", &headers)),
                    want,
                    "{name}"
                );
                assert_eq!(
                    door.check(&request("GET", "/metrics", &headers)),
                    Ok(()),
                    "{name}"
                );
            }
        }
    }
}
