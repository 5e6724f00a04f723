//! Which route a path belongs to, and what the app is called by.

use super::super::support::Connection;
use super::rig::{CASE, Rig, route, sign, start};

fn routes() -> String {
    let below = route("quantiv", "/below/*", "").replace("/in", "/in/deep?own=1&x=%20");
    let root_of_below = route("quantiv", "/below/exact", "");
    let methods = route("quantiv", "/methods", "methods = [\"PUT\", \"GET\"]");
    format!(
        "{}{below}{root_of_below}{methods}",
        route("quantiv", "/quantiv", "")
    )
}

fn send(rig: &Rig, connection: &mut Connection, method: &str, target: &str) -> u16 {
    let body = format!("{{\"id\":\"{}\"}}", target.escape_default());
    let signature = sign("quantiv", body.as_bytes());
    let headers = [(CASE, target), ("X-Quantiv-Signature", signature.as_str())];
    match connection.request(method, target, &headers, body.as_bytes()) {
        Ok(response) => {
            if response.header("connection") == Some("close") {
                *connection = rig.open();
            }
            response.status
        }
        Err(error) => panic!("{target}: {error}"),
    }
}

#[test]
fn paths_match_raw_and_their_rest_is_appended() {
    let rig = start("", &routes());
    let mut connection = rig.open();
    let mut expected = Vec::new();
    for (path, target) in [
        ("/quantiv?", "/in?"),
        (
            "/quantiv?a=b&c=%2F%2e../..&d='|{}",
            "/in?a=b&c=%2F%2e../..&d='|{}",
        ),
        ("/below/", "/in/deep?own=1&x=%20"),
        ("/below/a", "/in/deep/a?own=1&x=%20"),
        ("/below/a/b/?q=1?2", "/in/deep/a/b/?own=1&x=%20&q=1?2"),
        ("/below/a%20b;c=d", "/in/deep/a%20b;c=d?own=1&x=%20"),
        ("/below/exact", "/in"),
    ] {
        assert_eq!(send(&rig, &mut connection, "POST", path), 200, "{path}");
        expected.push((path, target));
    }
    for path in [
        "/",
        "/Quantiv",
        "/quantiv/",
        "//quantiv",
        "/./quantiv",
        "/x/../quantiv",
        "/%71uantiv",
        "/quantiv%3F",
        "/quantiv;a",
        "/quantiv%00",
        "/quantiv/x",
        "/below",
        "/Below/a",
        "/below/.",
        "/below/..",
        "/below/../quantiv",
        "/below/a/../b",
        "/below/a/./b",
        "/below/%2e%2e/a",
        "/below/.%2E/a",
        "/below/%2E",
        "/below/a%2fb",
        "/below/a%2Fb",
        "/below//a",
        "/below/a//b",
        "/below/a\\b",
        "/below/..\\a",
        "/below/%5ca",
        "/below/..;/a",
        "/below/a%00",
    ] {
        assert_eq!(send(&rig, &mut connection, "POST", path), 404, "{path}");
    }
    let arrived = rig.assert_only(expected.iter().map(|(path, _)| *path));
    for (path, target) in expected {
        let request = arrived.iter().find(|request| request.header(CASE) == Some(path));
        assert_eq!(request.unwrap().target, target, "{path}");
    }
}

#[test]
fn a_route_may_list_its_methods() {
    let rig = start("", &routes());
    let mut connection = rig.open();
    assert_eq!(send(&rig, &mut connection, "PUT", "/methods"), 200);
    let response = connection.request("POST", "/methods", &[], b"").unwrap();
    assert_eq!(
        (response.status, response.header("allow")),
        (405, Some("PUT, GET"))
    );
    let arrived = rig.assert_only(["/methods"]);
    let request = arrived
        .iter()
        .find(|request| request.header(CASE) == Some("/methods"));
    assert_eq!(request.unwrap().method, "PUT");
}
