//! What senders are told.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::support::hmac_hex;
use super::rig::{CASE, PROVIDERS, five_routes, json, post_signed, secret, seen, sign, start};

const RECEIVED: &str = r#"{"received":true}"#;
const AGAIN: &str = r#"{"received":true,"duplicate":true}"#;
const INVALID: &str = r#"{"error":"Invalid signature"}"#;

#[test]
fn every_provider_gets_its_exact_answers() {
    let rig = start("", &five_routes());
    let mut connection = rig.open();
    let mut kept = Vec::new();
    for (provider, header, prefix) in PROVIDERS {
        let body = format!("{{\"id\":\"evt-{provider}\",\"type\":\"a.b\",\"secret-body-canary\":1}}");
        let body = body.as_bytes();
        let path = format!("/{provider}");
        let hex = hmac_hex(secret(provider).as_bytes(), body);
        let other = hmac_hex(b"another secret", body);
        let good = post_signed(&mut connection, provider, &path, provider, body).unwrap();
        assert_eq!(seen(&good), json(200, RECEIVED), "{provider}");
        kept.push(provider);
        for (name, value) in [
            ("the same again", format!("{prefix}{hex}")),
            ("upper case", format!("{prefix}{}", hex.to_uppercase())),
            ("prefix in upper case", format!("SHA256={hex}")),
            ("blanks around", format!(" \t{prefix}{hex}\t ")),
        ] {
            let response = connection.post(&path, &[(header, &value)], body).unwrap();
            assert_eq!(seen(&response), json(200, AGAIN), "{provider}: {name}");
        }
        let optional = matches!(provider, "quantiv" | "connectgain");
        let bare = connection.post(&path, &[(header, &hex)], body).unwrap();
        let expected = if optional {
            json(200, AGAIN)
        } else {
            json(401, INVALID)
        };
        assert_eq!(seen(&bare), expected, "{provider}: no prefix");
        for (name, value) in [
            ("another secret", format!("{prefix}{other}")),
            ("one digit short", format!("{prefix}{}", &hex[..63])),
            ("one digit more", format!("{prefix}{hex}0")),
            ("not hex", format!("{prefix}{}g", &hex[..63])),
            ("another hash", format!("sha1={hex}")),
            ("prefix twice", format!("{prefix}{prefix}{hex}")),
            ("a list", format!("{prefix}{hex},{prefix}{hex}")),
            ("in quotes", format!("\"{prefix}{hex}\"")),
            ("only the prefix", prefix.to_owned()),
            ("junk", "junk".to_owned()),
        ] {
            let response = connection
                .post(&path, &[(CASE, "forged"), (header, &value)], body)
                .unwrap();
            assert_eq!(seen(&response), json(401, INVALID), "{provider}: {name}");
        }
        let value = format!("{prefix}{hex}");
        let twice = [(header, value.as_str()), (header, value.as_str())];
        let response = connection.post(&path, &twice, body).unwrap();
        assert_eq!(seen(&response), json(401, INVALID), "{provider}: sent twice");
        let changed = [body, b" "].concat();
        let response = connection.post(&path, &[(header, &value)], &changed).unwrap();
        assert_eq!(seen(&response), json(401, INVALID), "{provider}: another body");
        let missing = if provider == "quantiv" {
            json(400, r#"{"error":"Missing signature header"}"#)
        } else {
            json(401, INVALID)
        };
        for (name, headers) in [("none", &[][..]), ("blank", &[(header, " ")][..])] {
            let response = connection.post(&path, headers, body).unwrap();
            assert_eq!(seen(&response), missing, "{provider}: {name}");
        }
        let neighbour = if provider == "iverton" {
            "quintago"
        } else {
            "iverton"
        };
        let foreign = format!("sha256={}", hmac_hex(secret(neighbour).as_bytes(), body));
        let response = connection.post(&path, &[(header, &foreign)], body).unwrap();
        assert_eq!(
            seen(&response),
            json(401, INVALID),
            "{provider}: another route's secret"
        );
    }
    rig.assert_only(kept);
}

#[test]
fn quantiv_reads_both_names_and_connectgain_both_encodings() {
    let rig = start("", &five_routes());
    let mut connection = rig.open();
    let body = br#"{"id":"two-names"}"#;
    let good = sign("quantiv", body);
    let bad = sign("iverton", body);
    let (ours, theirs) = ("X-Quantiv-Signature", "X-Webhook-Signature");
    for (name, headers, status) in [
        ("second name", vec![(theirs, good.as_str())], 200),
        ("both", vec![(ours, good.as_str()), (theirs, good.as_str())], 200),
        (
            "both, one bare",
            vec![(ours, good.as_str()), (theirs, &good[7..])],
            200,
        ),
        (
            "first bad",
            vec![(ours, bad.as_str()), (theirs, good.as_str())],
            401,
        ),
        (
            "second bad",
            vec![(ours, good.as_str()), (theirs, bad.as_str())],
            401,
        ),
        ("second junk", vec![(ours, good.as_str()), (theirs, "junk")], 401),
        (
            "second twice",
            vec![(ours, good.as_str()), (theirs, &good), (theirs, &good)],
            401,
        ),
    ] {
        let response = connection.post("/quantiv", &headers, body).unwrap();
        assert_eq!(response.status, status, "{name}: {}", response.text());
    }
    let body = br#"{"event":"contact.created","timestamp":"t","data":{"id":"x"}}"#;
    let digest = hex::decode(hmac_hex(secret("connectgain").as_bytes(), body)).unwrap();
    let base64 = STANDARD.encode(&digest);
    for (name, value, status) in [
        ("base64", base64.clone(), 200),
        ("base64 with prefix", format!("sha256={base64}"), 200),
        ("hex", hex::encode(&digest), 200),
        ("base64 unpadded", base64.trim_end_matches('=').to_owned(), 200),
        ("base64 of 31 bytes", STANDARD.encode(&digest[..31]), 401),
        ("base64 in lower case", base64.to_lowercase(), 401),
    ] {
        let response = connection
            .post("/connectgain", &[("x-webhook-signature", &value)], body)
            .unwrap();
        assert_eq!(response.status, status, "{name}");
    }
}

#[test]
fn no_secret_signature_or_body_is_ever_written_down() {
    let rig = start("", &five_routes());
    let body = br#"{"id":"seen-id","note":"body-canary-77"}"#;
    let mut values = Vec::new();
    for (provider, header, _) in PROVIDERS {
        let value = sign(provider, body);
        let mut connection = rig.open();
        for body in [&body[..], b"body-canary-77 forged", b"\xff body-canary-77"] {
            let headers = [(header, value.as_str()), ("X-Other", "header-canary-77")];
            connection
                .post(&format!("/{provider}?q=query-canary-77"), &headers, body)
                .unwrap();
        }
        values.push(value[7..].to_owned());
        values.push(secret(provider));
    }
    rig.app.wait_for(5);
    let metrics = rig.metrics();
    let log = rig.gateway.log();
    assert!(metrics.contains("quantiv"), "{metrics}");
    assert!(log.contains("quantiv"), "{log}");
    let canaries = ["body-canary-77", "header-canary-77", "query-canary-77"];
    for canary in values.iter().map(String::as_str).chain(canaries) {
        assert!(!metrics.contains(canary), "{canary} in the metrics");
        assert!(!log.contains(canary), "{canary} in the log");
    }
}

#[test]
fn a_route_may_set_its_own_answers() {
    let more = "accepted = { status = 202, body = 'OK' }\nduplicate = { status = 204, body = '' }\nrequire_json = true";
    let rig = start("", &super::rig::route("quantiv", "/quantiv", more));
    let first = rig.quantiv("a", br#"{"id":"1"}"#);
    assert_eq!((first.status, first.text().as_str()), (202, "OK"));
    assert!(
        first
            .header("content-type")
            .unwrap_or_default()
            .starts_with("text/plain")
    );
    let second = rig.quantiv("a", br#"{"id":"1"}"#);
    assert_eq!(second.status, 204);
    assert_eq!(
        second.header("content-length"),
        None,
        "RFC 9110, 8.6: none with 204"
    );
    let third = rig.quantiv("b", b"not JSON");
    assert_eq!(seen(&third), json(400, r#"{"error":"Invalid JSON"}"#));
}
