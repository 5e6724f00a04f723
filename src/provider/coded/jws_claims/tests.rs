//! Tests of [`super`] with the tokens of providers and with claims that are a little off.

use serde_json::json;

use super::super::jws::{JwsAlgorithm, JwsKey, KeySet, verify};
use super::super::test_keys::{P256_SPKI, der};
use super::*;
use crate::provider::public_key::PublicKey;

const NOW_MS: i64 = 1_600_000_000_000;
const URL: &str = "https://example.com/path?bar=1&foo=2";

/// messagebird-nodejs, lib/testdata/webhook-signature-jwt-reference.json: "Valid JWT with URL parameters and payload".
const MB_BODY: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXh",
    "wIjoxNjI1NDc5MjYwLCJqdGkiOiI5M2U1NTAwNi1hMGU4LTQ1MjYtYTE5MC1mYTVmZjAwZWExMTYiLCJ1cmxfaGFzaCI",
    "6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1NzJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAiLCJ",
    "wYXlsb2FkX2hhc2giOiJkZmZkNjAyMWJiMmJkNWIwYWY2NzYyOTA4MDllYzNhNTMxOTFkZDgxYzdmNzBhNGIyODY4OGE",
    "zNjIxODI5ODZmIn0._H--TOuYFLpeEH39-rg5E3IHVkjHozBcaKVWPRC5m9I",
);
/// "Valid JWT with no URL parameters or payload".
const MB_EMPTY: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXh",
    "wIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI",
    "6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.",
    "6Fp0rVOsRr1fj9S2GidXAfkmPVofKr8_RTffC6G6r2E",
);
/// "Token received before it was issued".
const MB_AHEAD: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ4MjgwMCwiZXh",
    "wIjoxNjI1NDgyODYwLCJqdGkiOiJmOWY4YzM4Mi0yNDQ5LTQzMTEtYjcyYi0xZGY3MTY4NzkzMWUiLCJ1cmxfaGFzaCI",
    "6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.",
    "ZELgDFNGhjZH9CffQKcq3sytBe2I0KciLxpBhcfstHQ",
);
/// "Token received after it was expired".
const MB_PAST: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3NTYwMCwiZXh",
    "wIjoxNjI1NDc1NjYwLCJqdGkiOiI1ZjAyZjUyMi02MDMwLTQ2YzgtYjVhMy0wMTI0NjQ3OGQ4YmMiLCJ1cmxfaGFzaCI",
    "6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.",
    "45MSST3B_2PsjNUeiuW54_vUQgVw4rBXrdWrOUEz3lM",
);
/// "Payload does not match".
const MB_OTHER: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXh",
    "wIjoxNjI1NDc5MjYwLCJqdGkiOiIxNDUwMTUzMi05NmYyLTQ2ODQtOTgzMi02OGYwOTUxYWUzNDIiLCJ1cmxfaGFzaCI",
    "6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDciLCJ",
    "wYXlsb2FkX2hhc2giOiJmYjYyZjAyYWNkYTdkNzQxNzdhNzAxYTFjZTAwNmU2YmFjZDkwYzdkNGQ3YWI0ODE2OTJjMWR",
    "hNDdjODEwNzZiIn0.m79RCwO6dGa9pvzsQypkVuXQ6eM0CkRl6_U7MfWg6TM",
);
/// Made with Python, in the form of Plaid: ES256 with the key of RFC 7515, A.3.
const PLAID_LIKE: &str = concat!(
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.eyJpYXQiOjE2MDAwMDAwMDAsInJlcXVlc3RfYm9k",
    "eV9zaGEyNTYiOiIwMzdjOTIxNGVlZjc0Y2MzODg3ZjNhNGYwODViNGUxN2Q3NjI4MGRhZmQyNzNiMGVlMTYwYzA5YzRi",
    "YTFjZmQ0In0.Z6LbwlLURi-pNroOxsj1wLADxp-xs0Zg4MdmXoz5qEd1zDtFi9GQPHo0cqlNJdKyLEP8uhreLCiTShRH",
    "BLgi_A",
);
/// Made with Python, in the form of FusionAuth: HS256, no times at all.
const FUSIONAUTH_LIKE: &str = concat!(
    "eyJhbGciOiJIUzI1NiJ9.eyJyZXF1ZXN0X2JvZHlfc2hhMjU2IjoiQTN5U0ZPNzNUTU9JZnpwUENGdE9GOWRpZ05yOUp",
    "6c080V0RBbkV1aHo5UT0ifQ.xsH2Iw6eXS-wBC5Yx58t2OsVci3N7GJ7d8efNOiz0vs",
);
/// Made with Python: HS256 over the body `{"id":1}`, detached.
const DETACHED: &str = "eyJhbGciOiJIUzI1NiJ9..fWoPW7BmOFoOaiFYoMbNuNjmLrSoc-74ShvCq5QacvQ";

fn rule() -> JwsRule {
    JwsRule {
        algorithms: vec![JwsAlgorithm::Hs256],
        issuer: None,
        audience: None,
        max_age: None,
        tolerance: Duration::from_secs(5),
        body_claim: None,
        url_claim: None,
        required_claims: Vec::new(),
        detached: false,
    }
}

fn missing(name: &str) -> Result<(), JwsError> {
    Err(JwsError::Missing(name.into()))
}

fn other(name: &str) -> Result<(), JwsError> {
    Err(JwsError::Claim(name.into()))
}

#[test]
fn messagebird() {
    let secret = b"36efdd1aace2e26cd490f0d951138253bef2f7c6d34d18981da781555cc4cebb";
    let keys = KeySet::new([(None, JwsKey::from_secret(secret).unwrap())]);
    let rule = JwsRule {
        issuer: Some(["MessageBird".into()].into()),
        body_claim: Some(("payload_hash".into(), ClaimEncoding::Hex)),
        url_claim: Some("url_hash".into()),
        ..rule()
    };
    let root = "https://example.com/";
    for (name, token, url, body, expected) in [
        ("body", MB_BODY, Some(URL), "Hello, World!", Ok(())),
        ("no body", MB_EMPTY, Some(root), "", Ok(())),
        ("a body added", MB_EMPTY, Some(root), "x", missing("payload_hash")),
        (
            "the body taken away",
            MB_BODY,
            Some(URL),
            "",
            other("payload_hash"),
        ),
        (
            "another body",
            MB_OTHER,
            Some(root),
            "Hello, World!",
            other("payload_hash"),
        ),
        (
            "another URL",
            MB_BODY,
            Some(root),
            "Hello, World!",
            other("url_hash"),
        ),
        (
            "no URL",
            MB_BODY,
            None,
            "Hello, World!",
            Err(JwsError::NoPublicUrl),
        ),
        ("ahead", MB_AHEAD, Some(root), "", Err(JwsError::NotYet)),
        ("past", MB_PAST, Some(root), "", Err(JwsError::Expired)),
    ] {
        let got = verify(
            &rule,
            token.as_bytes(),
            &keys,
            body.as_bytes(),
            url,
            1_625_479_200_000,
        );
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn plaid_and_fusionauth() {
    let key = JwsKey::Public(PublicKey::from_spki(&der(P256_SPKI)).unwrap());
    let keys = KeySet::new([(Some("k1".into()), key)]);
    let plaid = JwsRule {
        algorithms: vec![JwsAlgorithm::Es256],
        max_age: Some(Duration::from_secs(300)),
        body_claim: Some(("request_body_sha256".into(), ClaimEncoding::Hex)),
        ..rule()
    };
    for (name, body, now_ms, expected) in [
        ("at once", r#"{"id":1}"#, NOW_MS, Ok(())),
        ("five minutes old", r#"{"id":1}"#, NOW_MS + 300_000, Ok(())),
        ("older", r#"{"id":1}"#, NOW_MS + 300_001, Err(JwsError::Age)),
        ("five minutes ahead", r#"{"id":1}"#, NOW_MS - 300_000, Ok(())),
        (
            "further ahead",
            r#"{"id":1}"#,
            NOW_MS - 300_001,
            Err(JwsError::Age),
        ),
        (
            "another body",
            r#"{"id":2}"#,
            NOW_MS,
            other("request_body_sha256"),
        ),
    ] {
        let got = verify(
            &plaid,
            PLAID_LIKE.as_bytes(),
            &keys,
            body.as_bytes(),
            None,
            now_ms,
        );
        assert_eq!(got, expected, "{name}");
    }
    let keys = KeySet::new([(None, JwsKey::from_secret(b"secret").unwrap())]);
    let fusionauth = JwsRule {
        body_claim: Some(("request_body_sha256".into(), ClaimEncoding::Base64)),
        ..rule()
    };
    let check = |rule: &JwsRule, body| verify(rule, FUSIONAUTH_LIKE.as_bytes(), &keys, body, None, NOW_MS);
    assert_eq!(check(&fusionauth, br#"{"id":1}"#), Ok(()));
    assert_eq!(check(&fusionauth, b""), other("request_body_sha256"));
    assert_eq!(
        check(&rule(), br#"{"id":1}"#),
        missing("exp"),
        "not bound to anything"
    );
}

#[test]
fn a_detached_body_may_be_the_claims() {
    let keys = KeySet::new([(None, JwsKey::from_secret(b"secret").unwrap())]);
    let plain = JwsRule {
        detached: true,
        ..rule()
    };
    let with = JwsRule {
        issuer: Some(["x".into()].into()),
        ..plain.clone()
    };
    let check = |rule: &JwsRule, body| verify(rule, DETACHED.as_bytes(), &keys, body, None, NOW_MS);
    assert_eq!(check(&plain, br#"{"id":1}"#), Ok(()));
    assert_eq!(check(&plain, br#"{"id": 1}"#), Err(JwsError::Signature));
    assert_eq!(check(&with, br#"{"id":1}"#), missing("iss"));
    let ask = |change: &dyn Fn(&mut JwsRule)| {
        let mut rule = plain.clone();
        change(&mut rule);
        check(&rule, br#"{"id":1}"#)
    };
    let audience = ask(&|rule| rule.audience = Some(Audience::PublicUrl));
    assert_eq!(audience, Err(JwsError::NoPublicUrl));
    let age = ask(&|rule| rule.max_age = Some(Duration::from_secs(1)));
    assert_eq!(age, missing("iat"));
    let digest = ask(&|rule| rule.body_claim = Some(("digest".into(), ClaimEncoding::Hex)));
    assert_eq!(digest, missing("digest"));
    let url = ask(&|rule| rule.url_claim = Some("url".into()));
    assert_eq!(url, Err(JwsError::NoPublicUrl));
    let required = ask(&|rule| rule.required_claims = vec![("email".into(), "x".into())]);
    assert_eq!(required, missing("email"));
}

#[test]
fn single_claims() {
    let hour = Some(Duration::from_secs(3600));
    let text = |text: &str| Some(Audience::Text(text.into()));
    let issuers = || Some(["a".into(), "b".into()].into());
    let required = |name: &str, value: &str| vec![(name.into(), value.into())];
    for (name, rule, claims, expected) in [
        ("exp", rule(), json!({"exp": 1_600_000_001}), Ok(())),
        (
            "exp, a fraction",
            rule(),
            json!({"exp": 1_599_999_995.001}),
            Ok(()),
        ),
        (
            "exp, within the tolerance",
            rule(),
            json!({"exp": 1_599_999_996}),
            Ok(()),
        ),
        (
            "exp, at its end",
            rule(),
            json!({"exp": 1_599_999_995}),
            Err(JwsError::Expired),
        ),
        (
            "exp is a text",
            rule(),
            json!({"exp": "1600000001"}),
            Err(JwsError::Time("exp")),
        ),
        (
            "exp is null",
            rule(),
            json!({"exp": null}),
            Err(JwsError::Time("exp")),
        ),
        (
            "exp below zero",
            rule(),
            json!({"exp": -1}),
            Err(JwsError::Time("exp")),
        ),
        (
            "exp without end",
            rule(),
            json!({"exp": 1e300}),
            Err(JwsError::Time("exp")),
        ),
        ("no exp", rule(), json!({}), missing("exp")),
        (
            "no exp, but an age",
            JwsRule {
                max_age: hour,
                ..rule()
            },
            json!({"iat": 1_600_000_000}),
            Ok(()),
        ),
        (
            "no iat",
            JwsRule {
                max_age: hour,
                ..rule()
            },
            json!({"exp": 1_600_000_001}),
            missing("iat"),
        ),
        (
            "iat is a text",
            rule(),
            json!({"exp": 1_600_000_001, "iat": "x"}),
            Err(JwsError::Time("iat")),
        ),
        (
            "nbf, within the tolerance",
            rule(),
            json!({"exp": 1_600_000_010, "nbf": 1_600_000_005}),
            Ok(()),
        ),
        (
            "nbf ahead",
            rule(),
            json!({"exp": 1_600_000_010, "nbf": 1_600_000_006}),
            Err(JwsError::NotYet),
        ),
        (
            "iss",
            JwsRule {
                issuer: issuers(),
                ..rule()
            },
            json!({"exp": 2e9, "iss": "b"}),
            Ok(()),
        ),
        (
            "another iss",
            JwsRule {
                issuer: issuers(),
                ..rule()
            },
            json!({"exp": 2e9, "iss": "B"}),
            other("iss"),
        ),
        (
            "iss is a list",
            JwsRule {
                issuer: issuers(),
                ..rule()
            },
            json!({"exp": 2e9, "iss": ["b"]}),
            other("iss"),
        ),
        (
            "no iss",
            JwsRule {
                issuer: issuers(),
                ..rule()
            },
            json!({"exp": 2e9}),
            missing("iss"),
        ),
        (
            "aud",
            JwsRule {
                audience: text("x"),
                ..rule()
            },
            json!({"exp": 2e9, "aud": "x"}),
            Ok(()),
        ),
        (
            "aud in a list",
            JwsRule {
                audience: text("x"),
                ..rule()
            },
            json!({"exp": 2e9, "aud": ["y", "x"]}),
            Ok(()),
        ),
        (
            "another aud",
            JwsRule {
                audience: text("x"),
                ..rule()
            },
            json!({"exp": 2e9, "aud": "xx"}),
            other("aud"),
        ),
        (
            "an empty list",
            JwsRule {
                audience: text("x"),
                ..rule()
            },
            json!({"exp": 2e9, "aud": []}),
            other("aud"),
        ),
        (
            "no aud",
            JwsRule {
                audience: text("x"),
                ..rule()
            },
            json!({"exp": 2e9}),
            missing("aud"),
        ),
        (
            "aud is the URL",
            JwsRule {
                audience: Some(Audience::PublicUrl),
                ..rule()
            },
            json!({"exp": 2e9, "aud": URL}),
            Ok(()),
        ),
        (
            "a text",
            JwsRule {
                required_claims: required("email", "a@b"),
                ..rule()
            },
            json!({"exp": 2e9, "email": "a@b"}),
            Ok(()),
        ),
        (
            "another text",
            JwsRule {
                required_claims: required("email", "a@b"),
                ..rule()
            },
            json!({"exp": 2e9, "email": "a@c"}),
            other("email"),
        ),
        (
            "true",
            JwsRule {
                required_claims: required("email_verified", "true"),
                ..rule()
            },
            json!({"exp": 2e9, "email_verified": true}),
            Ok(()),
        ),
        (
            "false",
            JwsRule {
                required_claims: required("email_verified", "true"),
                ..rule()
            },
            json!({"exp": 2e9, "email_verified": false}),
            other("email_verified"),
        ),
        (
            "a number",
            JwsRule {
                required_claims: required("n", "1"),
                ..rule()
            },
            json!({"exp": 2e9, "n": 1}),
            other("n"),
        ),
        (
            "absent",
            JwsRule {
                required_claims: required("email", "a@b"),
                ..rule()
            },
            json!({"exp": 2e9}),
            missing("email"),
        ),
    ] {
        let got = check_claims(&rule, claims.as_object().unwrap(), b"", Some(URL), NOW_MS);
        assert_eq!(got, expected, "{name}");
    }
    let rule = JwsRule {
        audience: Some(Audience::PublicUrl),
        ..rule()
    };
    let claims = json!({"exp": 2e9, "aud": URL});
    let got = check_claims(&rule, claims.as_object().unwrap(), b"", None, NOW_MS);
    assert_eq!(got, Err(JwsError::NoPublicUrl));
}

#[test]
fn digests() {
    let hex = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for (name, encoding, claim, good) in [
        ("hex", ClaimEncoding::Hex, hex.to_owned(), true),
        ("hex in upper case", ClaimEncoding::Hex, hex.to_uppercase(), true),
        (
            "hex, a digit short",
            ClaimEncoding::Hex,
            hex[1..].to_owned(),
            false,
        ),
        (
            "hex, a byte short",
            ClaimEncoding::Hex,
            hex[2..].to_owned(),
            false,
        ),
        ("empty", ClaimEncoding::Hex, String::new(), false),
        (
            "base64",
            ClaimEncoding::Base64,
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".to_owned(),
            true,
        ),
        (
            "unpadded",
            ClaimEncoding::Base64,
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ".to_owned(),
            false,
        ),
        (
            "base64url",
            ClaimEncoding::Base64Url,
            "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ".to_owned(),
            true,
        ),
        (
            "padded",
            ClaimEncoding::Base64Url,
            "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".to_owned(),
            true,
        ),
        (
            "the other alphabet",
            ClaimEncoding::Base64Url,
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ".to_owned(),
            false,
        ),
    ] {
        assert_eq!(
            check_digest("d", encoding, &claim, b"hello").is_ok(),
            good,
            "{name}"
        );
    }
}
