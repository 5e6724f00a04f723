//! The configuration of a tour, full of secrets, and the app behind it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::canary::Canary;
use super::places::Places;
use crate::support::{App, Reply};

pub(super) fn text_of(canaries: &[(Canary, Places)], name: &str) -> String {
    let found = canaries.iter().find(|(canary, _)| canary.name() == name);
    found
        .unwrap_or_else(|| panic!("no canary {name:?}"))
        .0
        .text()
        .to_owned()
}

/// Answers by the path it is asked at.
pub(super) fn app(relayed: String, words: String, header: String) -> App {
    let failures = AtomicUsize::new(0);
    App::with(move |request| match request.target.as_str() {
        path if path.starts_with("/refusing") => Reply::Full(
            422,
            vec![
                ("X-Words".to_owned(), header.clone()),
                ("Content-Type".to_owned(), "text/plain".to_owned()),
            ],
            words.clone().into_bytes(),
        ),
        path if path.starts_with("/failing") && failures.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
            Reply::Full(
                500,
                vec![("X-Words".to_owned(), header.clone())],
                words.clone().into_bytes(),
            )
        }
        path if path.starts_with("/relayed") => Reply::Full(200, Vec::new(), relayed.clone().into_bytes()),
        path if path.starts_with("/closing") => Reply::Close,
        _ => Reply::Status(200),
    })
}

pub(super) fn config(canaries: &[(Canary, Places)], app: &App, format: &str) -> String {
    let find = |name: &str| text_of(canaries, name);
    let route = |path: &str, more: &str, upstream: &str, settings: &str| {
        format!(
            "\n[[route]]\npath = \"{path}\"\n{more}\nupstream = {{ url = \"http://{}{upstream}\"{settings} }}\n",
            app.address()
        )
    };
    let by_value = "provider = \"quantiv\"\nsecrets = [\"by_value\"]";
    let mut text = format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"

[store]
path = "{{dir}}/store"
allow_ephemeral = true

[admin]
listen = "127.0.0.1:0"
token = "token"

[log]
level = "trace"
format = "{format}"

[limits]
header_timeout = "300ms"
header_bytes = "4KiB"
body_timeout = "300ms"
body_bytes = "16KiB"
failures_per_peer = {{ per_second = 1, burst = 40 }}

[secrets]
by_value = {{ value = "{}" }}
by_file = {{ file = "{{secret_file}}" }}
by_variable = {{ env = "LEAK_SECRET" }}
unused = {{ value = "{}" }}
in_hex = {{ value = "{}" }}
handoff = {{ value = "whsec_{}" }}
token = {{ env = "LEAK_TOKEN" }}
"#,
        find("secret by value"),
        find("unused secret"),
        String::from_utf8(
            canaries
                .iter()
                .find(|(canary, _)| canary.name() == "hex secret as written")
                .unwrap()
                .0
                .bytes()
                .to_vec()
        )
        .unwrap(),
        find("hand-off secret as written"),
    );
    let header = find("static header");
    let handed = format!(", headers = {{ X-Api-Key = \"{header}\" }}, handoff_secret = \"handoff\"");
    let all = "provider = \"quantiv\"\nsecrets = [\"by_value\", \"by_file\", \"by_variable\"]";
    let quick = ", retry = { first = \"20ms\", max = \"40ms\" }";
    let once = ", retry = { first = \"20ms\", attempts = 1 }";
    let hex = "secrets = [\"in_hex\"]\nverify = { header = \"X-Quantiv-Signature\", encoding = \"hex\", key = \"hex\" }";
    let relayed = format!("mode = \"proxy\"\n{by_value}");
    for one in [
        route("/hooks/kept", all, "/kept", &handed),
        route("/hooks/hex", hex, "/kept", ""),
        route("/hooks/refusing", by_value, "/refusing", once),
        route("/hooks/failing", by_value, "/failing", quick),
        route("/hooks/open", "verify = \"none\"", "/open", ""),
        route(
            "/hooks/lenient",
            &format!("{by_value}\nenforce = false"),
            "/lenient",
            "",
        ),
        route(
            "/hooks/fenced",
            &format!("{by_value}\nallow_ips = [\"192.0.2.0/24\"]"),
            "/kept",
            "",
        ),
        route(
            "/hooks/strict",
            &format!("{by_value}\nrequire_json = true\nrate = {{ per_second = 1, over = \"reject\" }}"),
            "/kept",
            "",
        ),
        route(
            "/sync/quantiv",
            &relayed,
            "/relayed",
            &format!(", headers = {{ X-Api-Key = \"{header}\" }}"),
        ),
        route("/sync/closing", &relayed, "/closing", ""),
    ] {
        text.push_str(&one);
    }
    text
}
