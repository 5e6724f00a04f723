//! What makes an event a repeat, and what never does.

use std::collections::BTreeSet;

use super::super::support::{App, Reply};
use super::rig::{CASE, five_routes, post_signed, route, start, start_with};

const AGAIN: &str = r#"{"received":true,"duplicate":true}"#;

#[test]
fn fifty_copies_at_once_are_one_delivery_and_all_are_answered_200() {
    let rig = start("", &five_routes());
    let statuses: Vec<(u16, bool)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let response = rig.quantiv("copies", br#"{"id":"copies"}"#);
                    (response.status, response.text() == AGAIN)
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|(status, _)| *status == 200), "{statuses:?}");
    assert_eq!(
        statuses.iter().filter(|(_, again)| !again).count(),
        1,
        "{statuses:?}"
    );
    rig.assert_only(["copies"]);
}

#[test]
fn the_same_id_with_another_body_is_a_repeat_and_is_kept_as_a_conflict() {
    let rig = start("", &five_routes());
    assert_eq!(
        rig.quantiv("first", br#"{"id":"c","n":1}"#).text(),
        r#"{"received":true}"#
    );
    let second = rig.quantiv("second", br#"{"id":"c","n":2}"#);
    assert_eq!((second.status, second.text().as_str()), (200, AGAIN));
    rig.assert_only(["first"]);
    let metrics = rig.metrics();
    let counted = metrics
        .lines()
        .any(|line| line.contains("conflict") && !line.starts_with('#') && line.ends_with(" 1"));
    assert!(counted, "{metrics}");
}

#[test]
fn no_signed_body_is_ever_lost_for_its_id() {
    let rig = start("", &five_routes());
    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(1_000_000));
    let nested = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let nested_id = format!(r#"{{"x":{nested},"id":"deep"}}"#);
    let mut cases: Vec<(String, Vec<u8>)> = [
        r#"{"id":null}"#,
        r#"{"id":""}"#,
        r#"{"id":true}"#,
        r#"{"id":{}}"#,
        r#"{"id":["a"]}"#,
        r#"{"id":1.5}"#,
        r#"{"id":-0}"#,
        r#"{"id":1e3}"#,
        r#"{"id":12345678901234567890123456789}"#,
        r#"{"id":42}"#,
        r#"{"id":"42"}"#,
        r#"{"id":"a\u0000b"}"#,
        r#"{"id":"a\r\nHooklatch-Verified: false"}"#,
        r#"{"id":"\ud800"}"#,
        r#"{"id":"one","id":"two"}"#,
        r#"{"id":"two","id":"one"}"#,
        r#"{"\u0069d":"escaped"}"#,
        r#"{"data":{"id":"inner"}}"#,
        r#"[{"id":"list"}]"#,
        r#""text""#,
        "1",
        "null",
        "{",
        r#"{"id":"cut"#,
        r#"{"id":"tail"} x"#,
        "\u{feff}{\"id\":\"bom\"}",
        "{\"id\":\"<script>alert(1)</script>\"}",
        "{\"id\":\"\u{202e}\u{fc}\u{1f600}\"}",
        "not JSON at all",
        "",
        " ",
        &long,
        &nested,
        &nested_id,
    ]
    .into_iter()
    .map(|body| (String::new(), body.as_bytes().to_vec()))
    .collect();
    cases.push((String::new(), b"{\"id\":\"\xff\"}".to_vec()));
    for (n, (case, _)) in cases.iter_mut().enumerate() {
        *case = format!("case-{n}");
    }
    for (case, body) in &cases {
        let response = rig.quantiv(case, body);
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!(response.status, 200, "{start}");
        // 42 and "42" are one id.
        if start != r#"{"id":"42"}"# {
            assert_eq!(response.text(), r#"{"received":true}"#, "{start}");
        }
    }
    let delivered = cases
        .iter()
        .filter(|(_, body)| body != br#"{"id":"42"}"#)
        .map(|(case, _)| case.as_str());
    for request in rig.assert_only(delivered) {
        let case = request.header(CASE).unwrap();
        if let Some((_, body)) = cases.iter().find(|(name, _)| name == case) {
            assert!(request.body == *body, "{case}");
        }
        assert_eq!(request.header("hooklatch-verified"), Some("true"), "{case}");
    }
}

#[test]
fn providers_without_an_id_go_by_the_body_and_routes_share_nothing() {
    let second = route("quantiv", "/second", "");
    let by_path = route("quantiv", "/by-path/*", "dedup_scope = \"path\"");
    let by_route = route("quantiv", "/by-route/*", "");
    let rig = start("", &format!("{}{second}{by_path}{by_route}", five_routes()));
    let mut connection = rig.open();
    let mut delivered = BTreeSet::new();
    for (case, provider, path, body, again) in [
        (
            "l1",
            "ltvboost",
            "/ltvboost",
            r#"{"type":"segment.ready","data":{"id":"s"}}"#,
            false,
        ),
        (
            "l2",
            "ltvboost",
            "/ltvboost",
            r#"{"type":"segment.ready","data":{"id":"s"}}"#,
            true,
        ),
        (
            "l3",
            "ltvboost",
            "/ltvboost",
            r#"{"type":"segment.ready", "data":{"id":"s"}}"#,
            false,
        ),
        (
            "c1",
            "connectgain",
            "/connectgain",
            r#"{"event":"contact.created","data":{"id":"x"}}"#,
            false,
        ),
        (
            "c2",
            "connectgain",
            "/connectgain",
            r#"{"event":"contact.updated","data":{"id":"x"}}"#,
            false,
        ),
        (
            "c3",
            "connectgain",
            "/connectgain",
            r#"{"event":"contact.updated","data":{"id":"x"}}"#,
            true,
        ),
        ("q1", "quantiv", "/quantiv", r#"{"id":"shared"}"#, false),
        ("q2", "quantiv", "/second", r#"{"id":"shared"}"#, false),
        ("q3", "quantiv", "/second?again=1", r#"{"id":"shared"}"#, true),
        ("p1", "quantiv", "/by-path/a", r#"{"id":"shared"}"#, false),
        ("p2", "quantiv", "/by-path/b", r#"{"id":"shared"}"#, false),
        ("p3", "quantiv", "/by-path/a", r#"{"id":"shared"}"#, true),
        ("r1", "quantiv", "/by-route/a", r#"{"id":"shared"}"#, false),
        ("r2", "quantiv", "/by-route/b", r#"{"id":"shared"}"#, true),
    ] {
        let response = post_signed(&mut connection, provider, path, case, body.as_bytes()).unwrap();
        assert_eq!(
            (response.status, response.text() == AGAIN),
            (200, again),
            "{case}"
        );
        if !again {
            delivered.insert(case);
        }
    }
    // Forgeries take nothing: the id is still free.
    for _ in 0..3 {
        let response = connection
            .post(
                "/iverton",
                &[("X-Iverton-Signature", &"00".repeat(32))],
                br#"{"id":"next"}"#,
            )
            .unwrap();
        assert_eq!(response.status, 401);
    }
    let response = post_signed(&mut connection, "iverton", "/iverton", "i1", br#"{"id":"next"}"#).unwrap();
    assert_eq!(response.text(), r#"{"received":true}"#);
    delivered.insert("i1");
    rig.assert_only(delivered);
}

#[test]
fn each_upstream_gets_the_types_it_wants() {
    let route = "[[route]]\npath = \"/quantiv\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]\nupstreams = [{ name = \
                 \"one\", url = \"http://{app}/one\", types = [\"lead.*\"] }, { name = \"two\", url = \"http://{app}/two\", \
                 types = [\"deal.won\", \"lead.lost\"] }]\n";
    let rig = start_with(App::with(|_| Reply::Status(200)), "", route);
    for (case, event) in [
        ("both", "\"lead.lost\""),
        ("one", "\"lead.created\""),
        ("two", "\"deal.won\""),
        ("nobody", "\"deal.lost\""),
        ("unreadable", "17.5"),
    ] {
        let body = format!("{{\"id\":\"{case}\",\"event\":{event}}}");
        assert_eq!(rig.quantiv(case, body.as_bytes()).status, 200, "{case}");
    }
    let mut arrived: Vec<(String, String)> = rig
        .app
        .wait_for(6)
        .iter()
        .map(|request| (request.header(CASE).unwrap().to_owned(), request.target.clone()))
        .collect();
    arrived.sort();
    let expected = [
        ("both", "/one"),
        ("both", "/two"),
        ("one", "/one"),
        ("two", "/two"),
        ("unreadable", "/one"),
        ("unreadable", "/two"),
    ];
    assert_eq!(
        arrived,
        expected.map(|(case, target)| (case.to_owned(), target.to_owned()))
    );
    // What nobody wanted is known all the same.
    let again = rig.quantiv("nobody", br#"{"id":"nobody","event":"deal.lost"}"#);
    assert_eq!((again.status, again.text().as_str()), (200, AGAIN));
}
