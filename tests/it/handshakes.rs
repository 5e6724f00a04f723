//! What providers ask besides sending events, through the real gateway: answered, never kept, never sent on; and no way to have
//! a forged event signed.

use hmac::{Hmac, KeyInit, Mac};
use hooklatch::clock::{Clock, SystemClock};
use sha2::Sha256;
use std::net::SocketAddr;

use crate::support::{App, Connection, Gateway, Reply, Response, get, post};

const SECRET: &str = "a-secret-of-sixteen-bytes-or-more";

struct World {
    gateway: Gateway,
    app: App,
    _folder: tempfile::TempDir,
}

/// A gateway with a route for each of these providers.
fn world(providers: &[&str]) -> World {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with(|_| Reply::Status(200));
    let mut config = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nallow_ephemeral = true\n[secrets]\n\
         s = {{ value = \"{SECRET}\" }}\nverify = {{ value = \"the-verify-token-of-the-app\" }}\nbraintree = {{ value = \
         \"integration_public_key:integration_private_key\" }}\n",
        folder.path().join("store")
    );
    for provider in providers {
        let secret = if *provider == "braintree" {
            "braintree"
        } else {
            "s"
        };
        let token = match *provider {
            "meta" | "strava" => "verify_token = \"verify\"\n",
            _ => "",
        };
        let proof = match *provider {
            "strava" => "verify = \"none\"".to_owned(),
            _ => format!("secrets = [\"{secret}\"]"),
        };
        config.push_str(&format!(
            "[[route]]\npath = \"/{provider}\"\nprovider = \"{provider}\"\n{proof}\n{token}upstream = {{ url = \
             \"http://{}/{provider}\" }}\n",
            app.address()
        ));
    }
    World {
        gateway: Gateway::start(&config),
        app,
        _folder: folder,
    }
}

fn tag(text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    Connection::open(address)
        .unwrap()
        .request(method, path, headers, body)
        .unwrap()
}

#[test]
fn challenges_are_answered_as_their_providers_want() {
    let world = world(&[
        "meta",
        "strava",
        "x",
        "linkedin",
        "dropbox",
        "zoom",
        "slack",
        "microsoft-graph",
    ]);
    let at = world.gateway.listen();
    let slack = br#"{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let zoom = br#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1654503849680,"event":"endpoint.url_validation"}"#;
    let now = (SystemClock.now().0 / 1000).to_string();
    let v0 = |body: &[u8]| {
        format!(
            "v0={}",
            hex::encode(tag(&[b"v0:", now.as_bytes(), b":", body].concat()))
        )
    };
    let uuid = "890e4665-4dfe-4ab1-b689-ed553bceeed0";
    let crc = "MTY5OTk5OTk5OQ==";
    for (name, answer, status, body) in [
        (
            "Meta",
            get(
                at,
                "/meta?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=the-verify-token-of-the-app",
            ),
            200,
            "1158201444".to_owned(),
        ),
        (
            "Strava, which signs nothing",
            get(
                at,
                "/strava?hub.mode=subscribe&hub.challenge=15f7d1a9&hub.verify_token=the-verify-token-of-the-app",
            ),
            200,
            r#"{"hub.challenge":"15f7d1a9"}"#.to_owned(),
        ),
        (
            "Meta, another token",
            get(
                at,
                "/meta?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=x",
            ),
            401,
            r#"{"error":"Invalid signature"}"#.to_owned(),
        ),
        (
            "X",
            get(at, "/x?crc_token=MTY5OTk5OTk5OQ%3D%3D"),
            200,
            format!(
                "{{\"response_token\":\"sha256={}\"}}",
                base64(&tag(crc.as_bytes()))
            ),
        ),
        (
            "LinkedIn",
            get(at, &format!("/linkedin?challengeCode={uuid}")),
            200,
            format!(
                "{{\"challengeCode\":\"{uuid}\",\"challengeResponse\":\"{}\"}}",
                hex::encode(tag(uuid.as_bytes()))
            ),
        ),
        (
            "Dropbox",
            get(at, "/dropbox?challenge=abc-123"),
            200,
            "abc-123".to_owned(),
        ),
        (
            "Microsoft",
            post(
                at,
                "/microsoft-graph?validationToken=Validation%3A%20Testing%20token",
                &[],
                b"",
            ),
            200,
            "Validation: Testing token".to_owned(),
        ),
        (
            "Slack",
            post(
                at,
                "/slack",
                &[
                    ("x-slack-request-timestamp", &now),
                    ("x-slack-signature", &v0(slack)),
                ],
                slack,
            ),
            200,
            "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P".to_owned(),
        ),
        (
            "Slack, unsigned",
            post(at, "/slack", &[], slack),
            401,
            r#"{"error":"Invalid signature"}"#.to_owned(),
        ),
        (
            "Zoom",
            post(
                at,
                "/zoom",
                &[("x-zm-request-timestamp", &now), ("x-zm-signature", &v0(zoom))],
                zoom,
            ),
            200,
            format!(
                "{{\"plainToken\":\"qgg8vlvZRS6UYooatFL8Aw\",\"encryptedToken\":\"{}\"}}",
                hex::encode(tag(b"qgg8vlvZRS6UYooatFL8Aw"))
            ),
        ),
        (
            "Zoom, unsigned",
            post(at, "/zoom", &[], zoom),
            401,
            r#"{"error":"Invalid signature"}"#.to_owned(),
        ),
        (
            "no handshake",
            get(at, "/dropbox"),
            405,
            r#"{"error":"Method not allowed"}"#.to_owned(),
        ),
    ] {
        assert_eq!((answer.status, answer.text()), (status, body), "{name}");
        if status == 200 {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{name}");
        }
    }
    assert_eq!(world.app.requests().len(), 0, "a handshake is no event");
    let mut admin = Connection::open(world.gateway.admin()).unwrap();
    admin
        .write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let metrics = admin.read_response().unwrap().text();
    let counted = r#"hooklatch_requests_total{route="x",provider="x",result="handshake"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

/// X and LinkedIn sign what anybody sends with the key of their events.
#[test]
fn no_handshake_signs_an_event() {
    let world = world(&["x", "linkedin", "zoom"]);
    let at = world.gateway.listen();
    let event = r#"{"for_user_id":"1","tweet_create_events":[]}"#;
    let escape = |text: &str| {
        text.bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect::<String>()
    };
    for path in [
        format!("/x?crc_token={}", escape(event)),
        format!(
            "/linkedin?challengeCode={}",
            escape(&format!("hmacsha256={event}"))
        ),
        format!("/linkedin?challengeCode={}", escape(event)),
        format!("/x?crc_token={}", "a".repeat(129)),
        "/x?crc_token=".to_owned(),
        "/x?crc_token=a&crc_token=b".to_owned(),
    ] {
        let answer = get(at, &path);
        assert!(matches!(answer.status, 401 | 405), "{path}: {}", answer.text());
        assert!(!answer.text().contains("sha256="), "{path}");
    }
    // What the handshake does sign is never taken for an event.
    let body = "dHJ1ZQ==";
    let signed = get(at, &format!("/x?crc_token={}", escape(body))).text();
    let digest = signed.split('"').nth(3).unwrap().to_owned();
    assert!(digest.starts_with("sha256="), "{signed}");
    let forged = post(
        at,
        "/x",
        &[("x-twitter-webhooks-signature", &digest)],
        body.as_bytes(),
    );
    assert_eq!(forged.status, 401);
    let digest = format!("sha256={}", base64(&tag(event.as_bytes())));
    let genuine = post(
        at,
        "/x",
        &[("x-twitter-webhooks-signature", &digest)],
        event.as_bytes(),
    );
    assert_eq!(genuine.status, 200);
    assert_eq!(world.app.wait_for(1)[0].body, event.as_bytes());
}

/// A GET from another address of this machine.
fn get_from(source: [u8; 4], at: SocketAddr, path: &str) -> u16 {
    use std::io::{Read, Write};
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&at.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn handshakes_have_a_rate_of_each_address() {
    let world = world(&["x", "braintree"]);
    let at = world.gateway.listen();
    for path in [
        "/x?crc_token=token",
        "/braintree?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53",
    ] {
        let limited = (0..60).filter(|_| get(at, path).status == 429).count();
        assert!(limited > 20, "{path}: {limited}");
        assert_eq!(
            get_from([127, 0, 0, 7], at, path),
            200,
            "{path}: who floods keeps nobody else out"
        );
    }
}

/// What is signed is an event, whatever it looks like; the handshakes of these two come unsigned.
#[test]
fn a_signed_event_is_never_taken_for_an_unsigned_handshake() {
    let world = world(&["notion", "woocommerce"]);
    let at = world.gateway.listen();
    let notion = br#"{"id":"e1","type":"page.created","verification_token":"secret_x"}"#;
    let signed = format!("sha256={}", hex::encode(tag(notion)));
    assert_eq!(
        post(at, "/notion", &[("x-notion-signature", &signed)], notion).status,
        200
    );
    let shop = b"webhook_id=12&order=7";
    let form = ("content-type", "application/x-www-form-urlencoded");
    let signed = base64(&tag(shop));
    let headers = [
        form,
        ("x-wc-webhook-signature", &signed),
        ("x-wc-webhook-topic", "order.created"),
    ];
    assert_eq!(post(at, "/woocommerce", &headers, shop).status, 200);
    let bodies: Vec<_> = world
        .app
        .wait_for(2)
        .into_iter()
        .map(|request| request.body)
        .collect();
    assert!(bodies.iter().any(|body| body == notion) && bodies.iter().any(|body| body == shop));
    // Without a signature they are handshakes: Notion's waits for an operator, WooCommerce's is answered.
    assert_eq!(post(at, "/notion", &[], notion).status, 401);
    assert_eq!(post(at, "/woocommerce", &[form], b"webhook_id=12").status, 200);
    assert_eq!(world.app.requests().len(), 2);
}

#[test]
fn xero_is_refused_with_nothing_and_accepted_with_nothing() {
    let world = world(&["xero"]);
    let body = br#"{"events":[],"firstEventSequence":0,"lastEventSequence":0,"entropy":"S0m3r4Nd0mt3xt"}"#;
    let good = base64(&tag(body));
    for (signature, status) in [(good.as_str(), 200), ("AAAA", 401), (&base64(&[0; 32]), 401)] {
        let answer = post(
            world.gateway.listen(),
            "/xero",
            &[("x-xero-signature", signature)],
            body,
        );
        assert_eq!(
            (answer.status, answer.text()),
            (status, String::new()),
            "{signature}"
        );
        assert_eq!(answer.header("set-cookie"), None);
    }
}

/// Who reads the app's answer must not be shown ours for it.
#[test]
fn a_repeat_of_a_sender_that_reads_answers_is_answered_with_nothing() {
    let app = App::with(|_| Reply::Status(200));
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[secrets]\ns = {{ value = \"{SECRET}\" }}\n[[route]]\n\
         path = \"/slack\"\nprovider = \"slack\"\nmode = \"proxy\"\nsecrets = [\"s\"]\nupstream = {{ url = \"http://{}/\" }}\n",
        app.address()
    );
    let gateway = Gateway::start(&config);
    let body = br#"{"type":"event_callback","event_id":"Ev1","event":{"type":"message"}}"#;
    let now = (SystemClock.now().0 / 1000).to_string();
    let signed = hex::encode(tag(&[b"v0:", now.as_bytes(), b":", body].concat()));
    let headers = [
        ("x-slack-request-timestamp", now.as_str()),
        ("x-slack-signature", &format!("v0={signed}")),
    ];
    let first = post(gateway.listen(), "/slack", &headers, body);
    assert_eq!(first.status, 200);
    let repeat = post(gateway.listen(), "/slack", &headers, body);
    assert_eq!((repeat.status, repeat.text()), (200, String::new()));
    assert_eq!(app.requests().len(), 1);
}

#[test]
fn braintrees_challenge_is_answered_and_its_form_is_an_event() {
    let world = world(&["braintree"]);
    let at = world.gateway.listen();
    // From the tests of Braintree's SDKs.
    let answer = get(at, "/braintree?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53");
    assert_eq!(
        (answer.status, answer.text()),
        (
            200,
            "integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4".to_owned()
        )
    );
    let answer = request(at, "GET", "/braintree?bt_challenge=not-hex", &[], b"");
    assert_eq!(answer.status, 405);
}

/// Asana and Notion send the secret itself: it is taken only while somebody waits for it, and then used.
#[test]
fn a_secret_that_comes_in_a_handshake_is_taken_only_in_a_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::with(|_| Reply::Status(200));
    let file = folder.path().join("asana-secret");
    std::fs::write(&file, "nothing-captured-yet").unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nallow_ephemeral = true\n[secrets]\n\
         asana = {{ file = {file:?} }}\n[[route]]\nname = \"asana\"\npath = \"/asana\"\nprovider = \"asana\"\nsecrets = [\"asana\"]\n\
         upstream = {{ url = \"http://{}/\" }}\n",
        folder.path().join("store"),
        app.address()
    );
    let gateway = Gateway::start(&config);
    let at = gateway.listen();
    let shake = |secret: &str| post(at, "/asana", &[("x-hook-secret", secret)], b"{}");
    assert_eq!(shake("an-attackers-secret").status, 401, "nobody waits");
    let waiting = std::process::Command::new(crate::support::binary())
        .args(["secrets", "capture", "asana", "--for", "30s", "--admin"])
        .arg(gateway.admin().to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let answered = crate::support::wait_for(std::time::Duration::from_secs(10), || {
        // Handshakes have a rate.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let answer = shake(SECRET);
        (answer.status == 200).then(|| answer.header("x-hook-secret").map(str::to_owned))
    });
    assert_eq!(answered, Some(Some(SECRET.to_owned())));
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(SECRET), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), SECRET);
    assert_ne!(shake("another-secret").status, 200, "the wait is over");
    let event = b"{\"events\":[{\"action\":\"changed\"}]}";
    let signature = hex::encode(tag(event));
    let taken = crate::support::wait_for(std::time::Duration::from_secs(20), || {
        let answer = post(at, "/asana", &[("x-hook-signature", &signature)], event);
        (answer.status == 200).then_some(())
    });
    assert!(taken.is_some(), "{}", gateway.log());
    assert_eq!(app.wait_for(1)[0].body, event);
    assert!(!gateway.log().contains(SECRET));
}
