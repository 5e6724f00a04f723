//! What one sender may take from the others.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::super::support::{App, Connection, PATIENCE, Reply, wait_for};
use super::rig::{
    CASE, Rig, five_routes, is_closed, post_signed, quantiv_raw, route, seen, sign, start, start_with,
    start_with_store,
};

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

/// As [`TcpStream::connect`], by the address `source` of this machine.
fn connect_from(source: Ipv4Addr, target: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&target.into()).unwrap();
    socket.into()
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
fn a_newcomer_is_let_in_and_the_one_that_has_waited_longest_goes() {
    for (limits, taken) in [
        ("[limits]\nconnections = 3", 3),
        // While they are young, one address may have four times as many.
        ("[limits]\nconnections_per_peer = 2", 8),
    ] {
        let rig = start(limits, &five_routes());
        let served = |connection: &mut Connection| {
            let response = connection.request("GET", "/none", &[], b"");
            response.is_ok_and(|response| response.status == 404)
        };
        let mut open: Vec<Connection> = (0..taken)
            .map(|_| {
                let mut connection = rig.open();
                assert!(served(&mut connection));
                // Waits are told apart by the millisecond.
                std::thread::sleep(Duration::from_millis(3));
                connection
            })
            .collect();
        let mut newcomer = rig.open();
        assert!(served(&mut newcomer), "{limits}");
        assert!(is_closed(&mut open.remove(0)), "{limits}");
        assert!(open.iter_mut().all(served), "{limits}");
        assert!(rig.metrics().contains("hooklatch_connections_evicted_total{"));
    }
}

#[test]
fn where_all_connections_are_being_served_a_newcomer_is_told_to_come_again() {
    let more = "mode = \"proxy\"";
    let app = App::with(|request| match request.header(CASE) {
        Some("held") => Reply::Hang,
        _ => Reply::Status(200),
    });
    let rig = start_with(
        app,
        "[limits]\nconnections = 2",
        &route("quantiv", "/quantiv", more),
    );
    let held: Vec<Connection> = (0..2)
        .map(|n| {
            let body = format!("{{\"id\":\"held-{n}\"}}");
            let mut connection = rig.open();
            let lines = format!("Content-Length: {}\r\n", body.len());
            connection
                .write(&quantiv_raw("held", &lines, body.as_bytes(), body.as_bytes()))
                .unwrap();
            rig.app.wait_for(n + 1);
            connection
        })
        .collect();
    let mut connection = rig.open();
    drop(connection.write(b"POST /quantiv HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = connection.read_response().unwrap();
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    assert!(is_closed(&mut connection));
    drop(held);
}

#[test]
fn slow_bodies_give_way_to_others_and_their_room_comes_back() {
    const BODY: usize = 64 * 1024;
    let rig = start("[limits]\nbytes_in_flight = \"1MiB\"", &five_routes());
    let begin = |n: usize| {
        let lines = format!("Content-Length: {BODY}\r\nExpect: 100-continue\r\n");
        let mut stream = TcpStream::connect(rig.listen()).unwrap();
        stream
            .write_all(&quantiv_raw(&format!("half-{n}"), &lines, b"x", b""))
            .unwrap();
        let mut line = [0; 25];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&[b'x'; BODY - 1]).unwrap();
        stream
    };
    // Sixteen fill it; each one more drives out the one that has been read for the longest time.
    let mut slow: Vec<TcpStream> = (0..24).map(begin).collect();
    for (n, stream) in slow.iter_mut().take(8).enumerate() {
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503", "{n}");
    }
    assert_eq!(good(&rig, "genuine"), 200);
    let large = format!("{{\"id\":\"large\",\"padding\":\"{}\"}}", "x".repeat(60_000));
    assert_eq!(rig.quantiv("large", large.as_bytes()).status, 200);
    drop(slow);
    let whole = format!("{{\"id\":\"whole\",\"padding\":\"{}\"}}", "x".repeat(900_000));
    let freed = wait_for(PATIENCE, || {
        (rig.quantiv("whole", whole.as_bytes()).status == 200).then_some(())
    });
    assert!(freed.is_some());
    rig.assert_only(["genuine", "large", "whole"]);
}

#[test]
fn a_slow_body_of_a_sender_that_is_known_outlasts_those_of_others() {
    const BODY: usize = 64 * 1024;
    let rig = start("[limits]\nbytes_in_flight = \"1MiB\"", &five_routes());
    let begin = |stream: &mut TcpStream, id: &str, begun: &[u8], signed: &[u8]| {
        let lines = format!("Content-Length: {BODY}\r\nExpect: 100-continue\r\n");
        let head = quantiv_raw(id, &lines, signed, b"");
        stream.write_all(&head).unwrap();
        let mut line = [0; 25];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(begun).unwrap();
    };
    assert_eq!(good(&rig, "before"), 200);
    let mut body = b"{\"id\":\"slow\",\"padding\":\"".to_vec();
    body.resize(BODY - 2, b'x');
    body.extend_from_slice(b"\"}");
    // The first of all, and over a connection that has shown nothing yet.
    let mut known = TcpStream::connect(rig.listen()).unwrap();
    begin(&mut known, "slow", &body[..BODY - 1], &body);
    let mut slow: Vec<TcpStream> = (0..24)
        .map(|n| {
            let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 2), rig.listen());
            begin(&mut stream, &format!("half-{n}"), &[b'x'; BODY - 1], b"x");
            stream
        })
        .collect();
    let mut answer = [0; 12];
    for (n, stream) in slow.iter_mut().take(9).enumerate() {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503", "{n}");
    }
    known.write_all(&body[BODY - 1..]).unwrap();
    known.set_read_timeout(Some(PATIENCE)).unwrap();
    known.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    rig.assert_only(["before", "slow"]);
}

#[test]
fn what_has_waited_for_room_has_all_of_its_time_for_the_store() {
    let app = App::with(|request| match request.header(CASE) {
        Some("held") => Reply::After(Duration::from_millis(700), Reply::Status(200).into()),
        _ => Reply::Status(200),
    });
    let routes = [
        route("quantiv", "/quantiv", ""),
        route("quantiv", "/slow", "mode = \"proxy\""),
    ];
    let rig = start_with_store(
        app,
        "[limits]\nbytes_in_flight = \"1MiB\"\nanswer_timeout = \"400ms\"",
        "accept_wait = \"100ms\"",
        &routes.concat(),
    );
    let mut connection = rig.open();
    let send = |connection: &mut Connection, case: &str| {
        let body = format!("{{\"id\":\"{case}\"}}");
        post_signed(connection, "quantiv", "/quantiv", case, body.as_bytes()).unwrap()
    };
    assert_eq!(send(&mut connection, "before").status, 200);
    let mut all = b"{\"id\":\"held\",\"padding\":\"".to_vec();
    all.resize((1 << 20) - 12, b'x');
    all.extend_from_slice(b"\"}");
    let mut other = rig.open();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| post_signed(&mut other, "quantiv", "/slow", "held", &all).unwrap());
        rig.app.wait_for(2);
        let started = Instant::now();
        assert_eq!(send(&mut connection, "waited").status, 200);
        // Longer than it may wait for the store, or this has shown nothing.
        assert!(started.elapsed() > Duration::from_millis(500));
        assert_eq!(held.join().unwrap().status, 200);
    });
    rig.assert_only(["before", "held", "waited"]);
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
