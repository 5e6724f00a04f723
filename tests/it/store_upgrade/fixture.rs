//! Stores as text: filled by the gateway of their time, written down as SQL, and made again from it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::support::{App, Gateway, PATIENCE, Reply, hmac_hex, post, sha256, wait_for};

/// Every format there was, and a store of it.
pub(super) const FIXTURES: &[(i64, &str)] = &[
    (1, include_str!("format_1.sql")),
    (2, include_str!("format_2.sql")),
    (3, include_str!("format_3.sql")),
    (4, include_str!("format_4.sql")),
];
/// The answer to a repeat.
pub(super) const AGAIN: &str = r#"{"received":true,"duplicate":true}"#;
/// The route in `proxy` mode.
pub(super) const PROXY_PATH: &str = "/sync";
/// What it has passed on.
pub(super) const PROXIED: &[u8] = br#"{"id":"evt_proxied"}"#;
/// Longer than these tests will be run.
const FOR_EVER: &str = "3650d";

/// Routes of every kind. `held` is the configuration of the life that fills the store: one upstream is paused, and
/// repeated bodies are soon forgotten.
pub(super) fn config(store: &Path, app: SocketAddr, held: bool) -> String {
    let window = if held { "1s" } else { FOR_EVER };
    format!(
        r#"
listen = "127.0.0.1:0"
drain_delay = "0s"
drain_timeout = "1s"

[store]
path = {store:?}
allow_ephemeral = true

[retention]
delivered = "{FOR_EVER}"
dead = "{FOR_EVER}"

[admin]
listen = "127.0.0.1:0"

[secrets]
quantiv = {{ value = "secret" }}
quantiv_old = {{ value = "an older secret" }}
acme = {{ value = "another secret" }}

[[route]]
path = "/orders"
provider = "quantiv"
secrets = ["quantiv", "quantiv_old"]
dedup = "{FOR_EVER}"
dedup_body = "{FOR_EVER}"
[[route.upstreams]]
name = "app"
url = "http://{app}/orders/app"
types = ["order.*", "odd"]
[[route.upstreams]]
name = "audit"
url = "http://{app}/orders/audit"
types = ["order.*"]
paused = {held}

[[route]]
path = "/acme/*"
name = "acme"
secrets = ["acme"]
event_id = {{ json = "/id" }}
dedup = "{FOR_EVER}"
dedup_body = "{window}"
dedup_scope = "path"
upstream = {{ url = "http://{app}/acme/app" }}
[route.verify]
header = "X-Acme-Signature"
encoding = "hex"

[[route]]
path = "/open"
verify = "none"
dedup_body = "{FOR_EVER}"
upstream = {{ url = "http://{app}/open/app" }}

[[route]]
path = "{PROXY_PATH}"
name = "sync"
mode = "proxy"
provider = "quantiv"
secrets = ["quantiv"]
dedup = "{FOR_EVER}"
dedup_body = "{FOR_EVER}"
upstream = {{ url = "http://{app}/sync/app" }}
"#
    )
}

/// Where events of a route come in.
pub(super) fn path(route: &str, rest: &str) -> String {
    match route {
        "acme" => format!("/acme/{rest}"),
        "sync" => PROXY_PATH.to_owned(),
        route => format!("/{route}"),
    }
}

/// The headers that make `body` genuine on `route`.
pub(super) fn sign(route: &str, body: &[u8]) -> Vec<(String, String)> {
    match route {
        "orders" | "sync" => vec![("X-Quantiv-Signature".to_owned(), quantiv(body))],
        "acme" => vec![("X-Acme-Signature".to_owned(), hmac_hex(b"another secret", body))],
        _ => Vec::new(),
    }
}

pub(super) fn quantiv(body: &[u8]) -> String {
    hmac_hex(b"secret", body)
}

/// Bodies say what the app does with them. Their blanks, escapes, bytes and line ends would not survive a re-encoding.
const EVENTS: &[(&str, &str, &[u8])] = &[
    (
        "orders",
        "",
        b"{ \"id\":\"evt_taken_1\",\"event\" : \"order.paid\",\"sum\":1.00 }\r\n",
    ),
    (
        "orders",
        "",
        b"{\"id\":\"evt_taken_2\",\"event\":\"odd\",\"note\":\"caf\\u00e9 \xc3\xa9\"}",
    ),
    ("orders", "", b"{\"id\":\"evt_taken_3\",\"event\":\"odd\"}\n"),
    (
        "orders",
        "",
        b"{\"id\":\"evt_dead_1 reject\",\"event\":\"odd\",\"z\":1e2}",
    ),
    (
        "orders",
        "",
        b"{\"id\":\"evt_dead_2 reject\",\"event\":\"odd\",\"a\":\t1}",
    ),
    (
        "orders",
        "",
        b"{\"id\":\"evt_later_1 later\",\"event\":\"order.late\"}",
    ),
    ("orders", "", b"{\"id\":\"evt_later_2 later\",\"event\":\"odd\"}"),
    (
        "orders",
        "",
        b"{\"id\":\"evt_hang_1 hang\",\"event\":\"order.hung\"}",
    ),
    ("orders", "", b"{\"id\":\"evt_hang_2 hang\",\"event\":\"odd\"}"),
    (
        "orders",
        "",
        b"{\"id\":\"evt_unwanted\",\"event\":\"contact.made\"}",
    ),
    ("orders", "", b"{\"id\":4711,\"event\":\"order.numbered\"}"),
    ("orders", "", b"signed, and no JSON: hang \x00\xff\xfe"),
    ("acme", "eu/one?a=1&b=%20", b"{\"id\":\"evt_scoped hang\"}"),
    ("acme", "us/one", b"{\"id\":\"evt_scoped hang\"}"),
    ("acme", "a%20b", b"{\"id\":\"evt_acme\"}"),
    ("acme", "", b"{\"no id\":\"hang\"}"),
    ("open", "?x", b"from anybody"),
    ("open", "", b"from anybody, hang"),
];
/// A body that is sent twice, the second time after its window.
const REPEATED: &[u8] = b"{\"no id\":\"twice\"}";
/// So long a body lies in a file of its own kind.
fn large() -> Vec<u8> {
    let filler = "all work and no play ".repeat(220);
    format!(r#"{{"event":"order.paid","filler":"{filler}","id":"evt_large"}}"#).into_bytes()
}
/// Another body under an id that is taken.
const CONFLICT: &[u8] = b"{\"id\":\"evt_taken_1\",\"event\":\"order.paid\",\"sum\":2.00}";

/// Fills a new store in `folder` through a gateway that lives once and is stopped in order. Returns the keys the app saw.
pub(super) fn fill(folder: &Path) -> Vec<String> {
    let app = App::with(|request| {
        let has = |word: &[u8]| request.body.windows(word.len()).any(|window| window == word);
        match () {
            () if has(b"reject") => Reply::Status(410),
            () if has(b"later") => Reply::Status(500),
            () if has(b"hang") => Reply::Hang,
            () => Reply::Status(200),
        }
    });
    let mut gateway = Gateway::start(&config(folder, app.address(), true));
    let send = |route: &str, rest: &str, body: &[u8]| {
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let mut path = path(route, rest);
        if let Some(query) = query {
            write!(path, "?{query}").unwrap();
        }
        let mut headers = sign(route, body);
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        headers.push(("X-Odd".to_owned(), " two  blanks ".to_owned()));
        if body.contains(&b'z') {
            headers.push(("Idempotency-Key".to_owned(), "the sender's own".to_owned()));
        }
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let answer = post(gateway.listen(), &path, &headers, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    };
    for (route, rest, body) in EVENTS {
        assert_ne!(send(route, rest, body), AGAIN);
    }
    assert_ne!(send("orders", "", &large()), AGAIN);
    assert_eq!(send("orders", "", CONFLICT), AGAIN);
    assert_ne!(send("acme", "", REPEATED), AGAIN);
    assert_ne!(send("sync", "", PROXIED), AGAIN);
    assert_eq!(send("sync", "", PROXIED), AGAIN);
    let db = folder.join("inbox.db");
    let count = |sql: &str| -> i64 {
        let sql_of_its_own = Connection::open(&db).unwrap();
        sql_of_its_own.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let until = |sql: &str, wanted: i64| {
        let reached = wait_for(PATIENCE, || (count(sql) >= wanted).then_some(()));
        assert!(
            reached.is_some(),
            "{sql}: {} of {wanted}\n{}",
            count(sql),
            gateway.log()
        );
    };
    // Its window is over, and so is its delivery: now it is an event of its own.
    std::thread::sleep(Duration::from_millis(1_050));
    until("SELECT count(*) FROM event WHERE state = 1", 5);
    assert_ne!(send("acme", "", REPEATED), AGAIN);
    until("SELECT count(*) FROM event WHERE state = 1", 6);
    until("SELECT count(*) FROM event WHERE state = 3", 2);
    until(
        "SELECT count(*) FROM delivery WHERE status = 0 AND attempts > 0",
        2,
    );
    until(
        "SELECT count(*) FROM event WHERE possible_duplicate_of IS NOT NULL",
        1,
    );
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    let mut keys: Vec<String> = app
        .requests()
        .iter()
        .filter(|request| !request.target.starts_with("/sync"))
        .map(|request| {
            let key = request.header("Hooklatch-Key").unwrap();
            format!("{} {} {key}", request.target, hex::encode(sha256(&request.body)))
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Before the name and the bytes of a file of bodies, in a comment.
const BODIES: &str = "-- file ";

/// A closed store as SQL.
pub(super) fn dump(db: &Path, keys: &[String]) -> String {
    let conn = Connection::open(db).unwrap();
    let mut text =
        String::from("-- A store as hooklatch left it: made by tests/it/store_upgrade, not to be edited.\n");
    for key in keys {
        writeln!(text, "-- key {key}").unwrap();
    }
    for pragma in ["page_size", "auto_vacuum", "application_id"] {
        let value: i64 = conn
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .unwrap();
        writeln!(text, "PRAGMA {pragma} = {value};").unwrap();
    }
    let files = std::fs::read_dir(db.parent().unwrap()).unwrap().flatten();
    for file in files {
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("bodies-") {
            let bytes = hex::encode(std::fs::read(file.path()).unwrap());
            writeln!(text, "{BODIES}{name} {bytes}").unwrap();
        }
    }
    text.push_str("PRAGMA journal_mode = WAL;\nBEGIN;\n");
    let mut schema = conn
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")
        .unwrap();
    let mut objects = schema.query([]).unwrap();
    while let Some(object) = objects.next().unwrap() {
        let (kind, name, sql): (String, String, String) = (
            object.get(0).unwrap(),
            object.get(1).unwrap(),
            object.get(2).unwrap(),
        );
        writeln!(text, "{sql};").unwrap();
        if kind != "table" {
            continue;
        }
        let columns: Vec<String> = conn
            .prepare(&format!("SELECT name FROM pragma_table_info('{name}')"))
            .unwrap()
            .query_map([], |row| row.get::<_, String>(0))
            .unwrap()
            .map(|column| format!("quote({})", column.unwrap()))
            .collect();
        let rows = format!("SELECT {} FROM {name}", columns.join(" || ', ' || "));
        let mut rows = conn.prepare(&rows).unwrap();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: String = row.get(0).unwrap();
            writeln!(text, "INSERT INTO {name} VALUES ({values});").unwrap();
        }
    }
    text.push_str("COMMIT;\n");
    text
}

/// The store again.
pub(super) fn load(text: &str, db: &Path) {
    let conn = Connection::open(db).unwrap();
    conn.execute_batch(text).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix(BODIES)) {
        let (name, bytes) = line.split_once(' ').unwrap();
        std::fs::write(db.with_file_name(name), hex::decode(bytes).unwrap()).unwrap();
    }
}
