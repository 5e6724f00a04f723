//! What one sender may take from the others.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::super::support::{Connection, PATIENCE, wait_for};
use super::rig::{CASE, Rig, five_routes, is_closed, quantiv_raw, route, seen, sign, start};

const FORGED: (&str, &str) = (
    "X-Quantiv-Signature",
    "sha256=0000000000000000000000000000000000000000000000000000000000000000",
);

fn forge(connection: &mut Connection) -> u16 {
    let response = connection
        .post("/quantiv", &[(CASE, "forged"), FORGED], b"{}")
        .unwrap();
    if response.status == 429 {
        assert!(response.header("retry-after").is_some());
    }
    response.status
}

fn good(rig: &Rig, case: &str) -> u16 {
    rig.quantiv(case, format!("{{\"id\":\"{case}\"}}").as_bytes())
        .status
}

#[test]
fn slow_senders_are_told_and_closed_in_time() {
    let limits = "[limits]\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\nkeepalive = \"300ms\"";
    let rig = start(limits, &five_routes());
    let whole = quantiv_raw(
        "slow",
        "Content-Length: 13\r\n",
        br#"{"id":"slow"}"#,
        br#"{"id":"slow"}"#,
    );
    for (name, at_once) in [("silent", 0), ("header", 1), ("body", whole.len() - 13)] {
        let started = Instant::now();
        let mut connection = rig.open();
        connection.write(&whole[..at_once]).unwrap();
        if at_once > 0 {
            for byte in &whole[at_once..at_once + 8] {
                std::thread::sleep(Duration::from_millis(60));
                if connection.write(&[*byte]).is_err() {
                    break;
                }
            }
        }
        let response = connection.read_response().unwrap();
        assert_eq!(seen(&response).0, 408, "{name}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        assert!(is_closed(&mut connection), "{name}");
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{name}: {:?}",
            started.elapsed()
        );
    }
    // An idle connection that has had its answer ends without a word.
    let mut connection = rig.open();
    connection.write(&whole).unwrap();
    assert_eq!(connection.read_response().unwrap().status, 200);
    let started = Instant::now();
    assert!(is_closed(&mut connection));
    assert!(started.elapsed() < Duration::from_secs(3));
    rig.assert_only(["slow"]);
}

#[test]
fn connections_and_bytes_are_capped() {
    for (limits, taken) in [
        ("[limits]\nconnections = 3", 3),
        ("[limits]\nconnections_per_peer = 2", 2),
    ] {
        let rig = start(limits, &five_routes());
        let mut open: Vec<Connection> = (0..taken)
            .map(|_| {
                let mut connection = rig.open();
                let response = connection.request("GET", "/none", &[], b"").unwrap();
                assert_eq!(response.status, 404);
                connection
            })
            .collect();
        for _ in 0..3 {
            let mut connection = rig.open();
            drop(connection.write(b"POST /quantiv HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = connection.read_response().unwrap();
            assert_eq!(response.status, 503, "{limits}");
            assert!(response.header("retry-after").is_some());
            assert!(is_closed(&mut connection));
        }
        assert_eq!(open[0].request("GET", "/none", &[], b"").unwrap().status, 404);
        open.pop();
        let freed = wait_for(PATIENCE, || {
            let mut connection = rig.open();
            let response = connection.request("GET", "/none", &[], b"").ok()?;
            (response.status == 404).then_some(())
        });
        assert!(freed.is_some(), "{limits}");
    }
}

#[test]
fn bodies_in_flight_are_capped_and_their_room_comes_back() {
    let rig = start("[limits]\nbytes_in_flight = \"1MiB\"", &five_routes());
    let mut stream = TcpStream::connect(rig.listen()).unwrap();
    let head = quantiv_raw(
        "half",
        "Content-Length: 1048576\r\nExpect: 100-continue\r\n",
        b"x",
        b"",
    );
    stream.write_all(&head).unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    let response = rig.quantiv("second", br#"{"id":"second"}"#);
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("5"))
    );
    drop(stream);
    let freed = wait_for(PATIENCE, || (good(&rig, "third") == 200).then_some(()));
    assert!(freed.is_some());
    rig.assert_only(["third"]);
}

#[test]
fn a_spent_failure_budget_refuses_the_bad_and_never_the_good() {
    let limits = "[limits]\nfailures_per_peer = { per_second = 0.01, burst = 5 }";
    let rig = start(limits, &five_routes());
    let mut connection = rig.open();
    for n in 0..5 {
        assert_eq!(good(&rig, &format!("before-{n}")), 200);
        assert_eq!(forge(&mut connection), 401, "{n}");
    }
    for n in 0..5 {
        assert_eq!(forge(&mut connection), 429, "{n}");
        let missing = connection.post("/iverton", &[], b"{}").unwrap();
        assert_eq!(missing.status, 429);
        assert_eq!(good(&rig, &format!("after-{n}")), 200);
    }
    let expected: Vec<String> = (0..5)
        .flat_map(|n| [format!("before-{n}"), format!("after-{n}")])
        .collect();
    rig.assert_only(expected.iter().map(String::as_str));
}

#[test]
fn a_budget_belongs_to_the_address_behind_trusted_proxies() {
    let top = "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nfailures_per_peer = { per_second = 0.01, burst = 1 \
               }\nconnections_per_peer = 1";
    let routes = route(
        "quantiv",
        "/quantiv",
        "allow_ips = [\"192.0.2.0/24\", \"198.51.100.7\"]",
    );
    let rig = start(top, &routes);
    // Not counted per peer: the proxy's connections are everybody's.
    let _held: Vec<Connection> = (0..5).map(|_| rig.open()).collect();
    let mut connection = rig.open();
    let signature = sign("quantiv", b"{}");
    let genuine = ("X-Quantiv-Signature", signature.as_str());
    for (name, forwarded, signed, status) in [
        ("a forgery", "192.0.2.1", FORGED, 401),
        ("its address again", "192.0.2.1", FORGED, 429),
        ("another address", "192.0.2.2", FORGED, 401),
        ("spent, but genuine", "192.0.2.1", genuine, 200),
        ("not allowed", "203.0.113.1", genuine, 403),
        (
            "an allowed one claimed in front",
            "192.0.2.9, 203.0.113.1",
            genuine,
            403,
        ),
        ("one behind", "203.0.113.1, 198.51.100.7", genuine, 200),
        ("with a port", "198.51.100.7:4711", genuine, 200),
        (
            "a trusted hop is passed over",
            "192.0.2.3, 127.0.0.1",
            genuine,
            200,
        ),
        ("not an address", "192.0.2.3, unknown", genuine, 403),
        ("IPv6 in brackets", "[2001:db8::1]", genuine, 403),
    ] {
        let headers = [("X-Forwarded-For", forwarded), signed];
        let response = connection.post("/quantiv", &headers, b"{}").unwrap();
        assert_eq!(response.status, status, "{name}");
    }
    let response = connection.post("/quantiv", &[genuine], b"{}").unwrap();
    assert_eq!(seen(&response).2, r#"{"error":"Forbidden"}"#);
}

#[test]
fn a_rate_is_spent_by_verified_events_only() {
    let more = "rate = { per_second = 0.01, burst = 3, over = \"reject\" }";
    let rig = start("", &route("quantiv", "/quantiv", more));
    let mut connection = rig.open();
    for _ in 0..20 {
        assert_eq!(forge(&mut connection), 401);
    }
    for n in 0..3 {
        assert_eq!(good(&rig, &format!("r{n}")), 200);
    }
    let response = rig.quantiv("r3", br#"{"id":"r3"}"#);
    assert_eq!(response.status, 429);
    let wait: u32 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    assert_eq!(forge(&mut connection), 401);
}

#[test]
fn a_flood_of_forgeries_takes_nothing_from_a_genuine_sender() {
    let rig = start("", &five_routes());
    let (statuses, genuine) = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = rig.open();
                    (0..500).map(|_| forge(&mut connection)).collect::<Vec<_>>()
                })
            })
            .collect();
        let genuine: Vec<u16> = (0..100).map(|n| good(&rig, &format!("g{n}"))).collect();
        let statuses: Vec<u16> = floods
            .into_iter()
            .flat_map(|flood| flood.join().unwrap())
            .collect();
        (statuses, genuine)
    });
    assert_eq!(statuses.len(), 3000);
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)));
    assert!(statuses.contains(&429));
    assert!(genuine.iter().all(|status| *status == 200), "{genuine:?}");
    let expected: Vec<String> = (0..100).map(|n| format!("g{n}")).collect();
    rig.assert_only(expected.iter().map(String::as_str));
}

#[test]
fn a_sender_that_reads_nothing_hurts_nobody() {
    let rig = start("", &five_routes());
    let mut stream = TcpStream::connect(rig.listen()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let request = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut sent = 0;
    // Until neither side has room for more.
    while sent < 32 << 20 {
        match stream.write(&request) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(good(&rig, "other"), 200);
    rig.assert_only(["other"]);
}
