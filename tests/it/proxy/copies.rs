//! Copies of one event: at once, afterwards, over a restart, and with senders that hang up.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{PATH, config, is_duplicate, raw, send, signature, start, start_with_store};
use crate::support::{App, Connection, Gateway, Launch, PATIENCE, Reply, Response, wait_for};

const BODY: &[u8] = br#"{"id":"copy"}"#;

/// An app that answers its first request only when told what.
fn waiting_app() -> (App, mpsc::SyncSender<Reply>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let app = App::with(move |_| {
        let first = receiver.lock().unwrap().take();
        match first {
            Some(receiver) => receiver.recv().unwrap_or(Reply::Close),
            None => Reply::Full(200, vec![], b"later".to_vec()),
        }
    });
    (app, sender)
}

fn post_in_background(gateway: &Gateway) -> mpsc::Receiver<Response> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let mut connection = Connection::open(gateway.listen()).unwrap();
    connection.write(&raw("POST", BODY)).unwrap();
    std::thread::spawn(move || drop(sender.send(connection.read_response().unwrap())));
    receiver
}

/// Nothing may be answered while the first is in flight.
fn wait_until_waiting(first: &mpsc::Receiver<Response>, copies: &[mpsc::Receiver<Response>]) {
    std::thread::sleep(Duration::from_millis(150));
    assert!(first.try_recv().is_err());
    for copy in copies {
        assert!(copy.try_recv().is_err());
    }
}

#[test]
fn copies_in_flight_are_duplicates_once_the_first_is_taken() {
    let (app, answer) = waiting_app();
    let gateway = start(&app);
    let first = post_in_background(&gateway);
    // The handler has it when the connection's thread is in it: the app records after that, so look at the clock.
    std::thread::sleep(Duration::from_millis(100));
    let copies: Vec<_> = (0..5).map(|_| post_in_background(&gateway)).collect();
    wait_until_waiting(&first, &copies);
    answer.send(Reply::Full(202, vec![], b"first".to_vec())).unwrap();
    let response = first.recv_timeout(PATIENCE).unwrap();
    assert_eq!((response.status, &*response.text()), (202, "first"));
    for copy in copies {
        let response = copy.recv_timeout(PATIENCE).unwrap();
        assert!(is_duplicate(&response), "{response:?}");
    }
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn a_copy_in_flight_is_forwarded_once_the_first_has_failed() {
    let (app, answer) = waiting_app();
    let gateway = start(&app);
    let first = post_in_background(&gateway);
    std::thread::sleep(Duration::from_millis(100));
    let copies: Vec<_> = (0..5).map(|_| post_in_background(&gateway)).collect();
    wait_until_waiting(&first, &copies);
    answer.send(Reply::Status(500)).unwrap();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap().status, 500);
    let responses: Vec<_> = copies
        .iter()
        .map(|copy| copy.recv_timeout(PATIENCE).unwrap())
        .collect();
    let forwarded = responses
        .iter()
        .filter(|response| response.text() == "later")
        .count();
    let duplicates = responses.iter().filter(|response| is_duplicate(response)).count();
    assert_eq!((forwarded, duplicates), (1, 4), "{responses:?}");
    assert_eq!(app.requests().len(), 2);
}

#[test]
fn a_copy_waits_4_seconds_at_most() {
    let (app, answer) = waiting_app();
    let gateway = start(&app);
    let first = post_in_background(&gateway);
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    let response = send(&gateway, BODY);
    let waited = began.elapsed();
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    assert!(
        (Duration::from_millis(3900)..Duration::from_secs(6)).contains(&waited),
        "{waited:?}"
    );
    answer.send(Reply::Status(200)).unwrap();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap().status, 200);
    assert!(is_duplicate(&send(&gateway, BODY)));
}

#[test]
fn a_sender_that_hangs_up_does_not_cancel_the_call() {
    let (app, answer) = waiting_app();
    let gateway = start(&app);
    let mut connection = Connection::open(gateway.listen()).unwrap();
    connection.write(&raw("POST", BODY)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(connection);
    std::thread::sleep(Duration::from_millis(100));
    answer.send(Reply::Status(200)).unwrap();
    app.wait_for(1);
    let taken = wait_for(PATIENCE, || is_duplicate(&send(&gateway, BODY)).then_some(()));
    assert!(taken.is_some());
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn a_reload_keeps_keys_and_copies_in_flight() {
    let (app, answer) = waiting_app();
    let gateway = start(&app);
    let first = post_in_background(&gateway);
    std::thread::sleep(Duration::from_millis(100));
    gateway.signal(rustix::process::Signal::HUP);
    assert!(
        wait_for(PATIENCE, || gateway
            .log()
            .contains("configuration reloaded")
            .then_some(()))
        .is_some()
    );
    let copy = post_in_background(&gateway);
    wait_until_waiting(&first, std::slice::from_ref(&copy));
    answer.send(Reply::Status(200)).unwrap();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap().status, 200);
    assert!(is_duplicate(&copy.recv_timeout(PATIENCE).unwrap()));
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn keys_outlive_a_clean_restart() {
    let app = App::start([]);
    let mut gateway = start_with_store(app.address());
    assert_eq!(send(&gateway, BODY).text(), "");
    assert_eq!(send(&gateway, b"not json").text(), "");
    assert_eq!(gateway.term().code(), Some(0), "{}", gateway.log());
    gateway.restart();
    assert!(is_duplicate(&send(&gateway, BODY)));
    assert!(is_duplicate(&send(&gateway, b"not json")));
    assert_eq!(app.requests().len(), 2);
    assert_eq!(send(&gateway, br#"{"id":"new"}"#).text(), "");
}

#[test]
fn a_full_store_refuses_no_proxied_event() {
    let app = App::with(|request| match &*request.target {
        "/queue" => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let text = format!(
        "{}\n[store]\npath = \"{{dir}}/store\"\nallow_ephemeral = true\nmax_bytes = \"16MiB\"\n
[[route]]\npath = \"/hooks/queue\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]
upstream = {{ url = \"http://{}/queue\" }}\n",
        config(app.address(), "", "", ""),
        app.address()
    );
    let gateway = Launch::new(&text).start();
    let filler = |n: usize| {
        let mut body = format!(r#"{{"id":"fill-{n}","x":""#).into_bytes();
        body.resize(900_000, b'x');
        body.extend_from_slice(br#""}"#);
        body
    };
    let mut connection = Connection::open(gateway.listen()).unwrap();
    let full = (0..100).any(|n| {
        let body = filler(n);
        let response = connection
            .post(
                "/hooks/queue",
                &[("X-Quantiv-Signature", &signature(&body))],
                &body,
            )
            .unwrap();
        assert!([200, 503].contains(&response.status));
        response.status == 503
    });
    assert!(full, "the store never fills");
    for n in 0..20 {
        let body = format!(r#"{{"id":"proxied-{n}"}}"#);
        let response = connection
            .post(
                PATH,
                &[("X-Quantiv-Signature", &signature(body.as_bytes()))],
                body.as_bytes(),
            )
            .unwrap();
        assert_eq!((response.status, &*response.text()), (200, ""), "{n}");
        let again = connection
            .post(
                PATH,
                &[("X-Quantiv-Signature", &signature(body.as_bytes()))],
                body.as_bytes(),
            )
            .unwrap();
        assert!(is_duplicate(&again), "{n}");
    }
}

#[test]
fn a_drain_waits_for_the_app_and_the_answer_still_goes_out() {
    let (app, answer) = waiting_app();
    let mut gateway = start(&app);
    let first = post_in_background(&gateway);
    std::thread::sleep(Duration::from_millis(100));
    gateway.signal(rustix::process::Signal::TERM);
    assert!(wait_for(PATIENCE, || gateway.log().contains("draining").then_some(())).is_some());
    std::thread::sleep(Duration::from_millis(100));
    // Too large for the buffers of one write.
    let large = vec![b'x'; 8 << 20];
    answer.send(Reply::Full(200, vec![], large.clone())).unwrap();
    let response = first.recv_timeout(PATIENCE).unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.body.len(), large.len());
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
}
