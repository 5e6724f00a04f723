//! A gateway with a route for each provider, and an app that takes everything.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use super::super::support::{App, Connection, Gateway, Reply, Request, Response, hmac_hex};

/// The five providers with path, header and prefix; the secret of each is `{path}-canary-0123456789`.
pub(super) const PROVIDERS: [(&str, &str, &str); 5] = [
    ("quantiv", "X-Quantiv-Signature", "sha256="),
    ("connectgain", "X-Webhook-Signature", "sha256="),
    ("iverton", "X-Iverton-Signature", "sha256="),
    ("ltvboost", "X-LTVboost-Signature", "sha256="),
    ("quintago", "X-QuintaGo-Signature", "sha256="),
];

/// The header that tells the cases of a table apart at the app.
pub(super) const CASE: &str = "X-Case";

pub(super) struct Rig {
    pub(super) app: App,
    pub(super) gateway: Gateway,
}

/// Gateway and app; `top` goes in front of the tables, `{app}` in `routes` becomes the app's address.
pub(super) fn start(top: &str, routes: &str) -> Rig {
    start_with(App::with(|_| Reply::Status(200)), top, routes)
}

pub(super) fn start_with(app: App, top: &str, routes: &str) -> Rig {
    start_with_store(app, top, "", routes)
}

/// As [`start_with`]; `store` are further lines of `[store]`.
pub(super) fn start_with_store(app: App, top: &str, store: &str, routes: &str) -> Rig {
    let mut config = format!(
        "listen = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\n{top}\n[store]\npath = \"{{dir}}/store\"\nallow_ephemeral = \
         true\n{store}\n[admin]\nlisten = \"127.0.0.1:0\"\n[secrets]\n"
    );
    for (name, ..) in PROVIDERS {
        config.push_str(&format!("{name} = {{ value = \"{}\" }}\n", secret(name)));
    }
    config.push_str(&routes.replace("{app}", &app.address().to_string()));
    let gateway = Gateway::start(&config);
    Rig { app, gateway }
}

/// A route for each provider at `/{provider}`.
pub(super) fn five_routes() -> String {
    PROVIDERS
        .iter()
        .map(|(name, ..)| route(name, &format!("/{name}"), ""))
        .collect()
}

/// One route; `more` are further lines of it.
pub(super) fn route(provider: &str, path: &str, more: &str) -> String {
    format!(
        "[[route]]\npath = \"{path}\"\nprovider = \"{provider}\"\nsecrets = [\"{provider}\"]\nupstream = {{ url = \
         \"http://{{app}}/in\" }}\n{more}\n"
    )
}

pub(super) fn secret(provider: &str) -> String {
    format!("{provider}-canary-0123456789")
}

/// The value of a provider's signature header.
pub(super) fn sign(provider: &str, body: &[u8]) -> String {
    format!("sha256={}", hmac_hex(secret(provider).as_bytes(), body))
}

/// A Quantiv request as bytes: `lines` are whole header lines with their CRLF, framing included.
pub(super) fn quantiv_raw(case: &str, lines: &str, signed: &[u8], sent: &[u8]) -> Vec<u8> {
    let signature = sign("quantiv", signed);
    let mut raw = format!(
        "POST /quantiv HTTP/1.1\r\nHost: hooks.example\r\n{CASE}: {case}\r\nX-Quantiv-Signature: \
         {signature}\r\n{lines}\r\n"
    )
    .into_bytes();
    raw.extend_from_slice(sent);
    raw
}

impl Rig {
    pub(super) fn listen(&self) -> SocketAddr {
        self.gateway.listen()
    }

    /// What Prometheus would read.
    pub(super) fn metrics(&self) -> String {
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        // Not half closed, as `send_raw` leaves it: the admin listener may take that for a client that has gone.
        let mut connection = Connection::open(self.gateway.admin()).unwrap();
        connection.write(request).unwrap();
        connection.read_response().unwrap().text()
    }

    pub(super) fn open(&self) -> Connection {
        Connection::open(self.listen()).unwrap()
    }

    /// A signed Quantiv POST.
    pub(super) fn quantiv(&self, case: &str, body: &[u8]) -> Response {
        post_signed(&mut self.open(), "quantiv", "/quantiv", case, body).unwrap()
    }

    /// Sends a last genuine request, waits for `expected` deliveries in all and checks that nothing else came.
    pub(super) fn assert_only<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> Vec<Request> {
        let response = self.quantiv("sentinel", br#"{"id":"sentinel"}"#);
        assert_eq!(response.status, 200, "the gateway serves others");
        let mut expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
        expected.insert("sentinel".to_owned());
        let requests = self.app.wait_for(expected.len());
        let arrived: Vec<&str> = requests
            .iter()
            .map(|request| request.header(CASE).unwrap_or("(none)"))
            .collect();
        let distinct: BTreeSet<String> = arrived.iter().map(|&case| case.to_owned()).collect();
        assert_eq!(distinct, expected);
        assert_eq!(distinct.len(), arrived.len(), "each once: {arrived:?}");
        requests
    }
}

pub(super) fn post_signed(
    connection: &mut Connection,
    provider: &str,
    path: &str,
    case: &str,
    body: &[u8],
) -> io::Result<Response> {
    let header = PROVIDERS.iter().find(|(name, ..)| *name == provider).unwrap().1;
    connection.post(path, &[(CASE, case), (header, &sign(provider, body))], body)
}

/// Whether the gateway has closed its side.
pub(super) fn is_closed(connection: &mut Connection) -> bool {
    match connection.read_response() {
        Ok(response) => panic!("one answer too many: {response:?}"),
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
    }
}

/// Status, content type and body at once.
pub(super) fn seen(response: &Response) -> (u16, String, String) {
    (
        response.status,
        response.header("content-type").unwrap_or_default().to_owned(),
        response.text(),
    )
}

pub(super) fn json(status: u16, body: &str) -> (u16, String, String) {
    (status, "application/json".to_owned(), body.to_owned())
}
