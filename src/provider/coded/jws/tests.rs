//! Tests of [`super`] with the examples of the RFCs and with tokens that are a little off.

use serde_json::json;

use super::super::jws_sign::{detach, sign_hs};
use super::super::test_keys::{ED25519_SPKI, P256_SPKI, P384_SPKI, RSA_SPKI, der};
use super::*;
use crate::provider::public_key::PublicKey;

/// A minute before the `exp` of the examples of RFC 7515.
const NOW_MS: i64 = 1_300_819_320_000;
const HS_KEY: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

/// The payload of RFC 7515, A.1.1, used in A.2 and A.3 too.
const RFC_PAYLOAD: &str = concat!(
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl",
    "fQ",
);
/// The signature of A.2.1.
const RFC_RS256: &str = concat!(
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5",
    "jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb",
    "1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO",
    "YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
);
/// The signature of A.3.1.
const RFC_ES256: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// Made with Python, as all of that name: `{"iss":"joe","exp":1300819380}`, RFC 7515's key.
const PYTHON_RS384: &str = concat!(
    "eyJhbGciOiJSUzM4NCJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.WJVDvtDL-cv1kCr-8ll_SAUW9YaNdQ",
    "HqTaydOHCPICojgBB9QrIdWHqboABSAq9vy5mj7b9fNYLI1Y4KXQnwI5y1oTHxj0YL2AQ5rHXZ6TAL8ZgzyQKoj87lWC",
    "7MKSQB6274J8tvtrqtVr0cdOXOht8ra9LxaPRZd1PEh9ss7_sycMLLLsMC_zixgKvIahdbkBFlfUtjsCBlb5ls7pnzWY",
    "9_KoMGvSthsjquoELhLGYwDVMTDQVk3KEw_4kyb0B94kSOFvFAy0k00t8_0OJbXKigDPrVu-Ffn798vhbx2FY4fNFXIQ",
    "F6xwT7JSpVPX3bT0qTu89TZ-SnfdnJ-qnTcA",
);
const PYTHON_RS512: &str = concat!(
    "eyJhbGciOiJSUzUxMiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.E0rm6uO5CaAtNOqyeoOs2pzlmdLOGL",
    "zBsaFg8rh4QLgVMV-c3RsHYL1mRIzEPhdN4NnY1_R6CYJjtDieP8fThtjbp6Tgz39nhxiTDc2ANugHLRaM2iBILAHRm1",
    "jnGXU7EKI8gwNq-rhJDCS5NMbF7wuMyE1uXJXJnZ5BOLAZo8liMBZhvK8ed1TCri6lm9UZSxDsn5W4AqQ4jRTNsGfFMb",
    "awJRYxm8JpxFcBYmCd4xIUCQILsB_RGP0Uep2O1IeHx24KoqZb7gDNb7L5-32dV1m0yOlmS3sro0qpYOe675s0WyQyqW",
    "N3CDJeFbbqQBSfhDyjK4NOTJi4cy4iRksycA",
);
const PYTHON_PS256: &str = concat!(
    "eyJhbGciOiJQUzI1NiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.Aw1fqehZtDoT5l4nqKos7oENtiNg_f",
    "HOmSf71ODTqoJN833Lu4Nmk0RruG6y_16BprdRAJj-bfcEVyaR_hHtFQpAdAoPFwU5vSQaM8C-ppJ_W4w9EcSVsW30KN",
    "5nUtao-0qdLS6D2lR86PhZK4n6fZU9ZQK-QJh62Yq1-uPMcc5MHABOykUobe5P4H7VmQlAxw5aFK9BjrWpyziwk6E76p",
    "t9hdOmRDzmlZyTPVMIk2IHv5Ypi8jCNTmCrAnpl6jKVLL9PWl-KQcoq3MBeLwfhSL5e66TX1knueK57zMYOwT98O_5Bm",
    "AZbi-7QbpJwwKBEOFDpn_CySuCRHZb6si7Tg",
);
const PYTHON_ES384: &str = concat!(
    "eyJhbGciOiJFUzM4NCJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.zg6lQn2TLFiYtdBO3cq71nUJTZzM01",
    "MnZEb1Z01_e5fYq7A6lZu2rIxvYu4Qq815W8GqXWgNJYZyFJSWpOzAVgpJOojWpcXqiIMqsWHEgmjSC9x5_F1EF-cgti",
    "yHkJK-",
);
/// The secret is `secret`.
const PYTHON_HS384: &str = concat!(
    "eyJhbGciOiJIUzM4NCJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.ZlKuYaI9fwHDaQNakMx13tK96QmLkH",
    "H0dh0mzQdXOuTKOvudTSiOwgZ-cQB54QS3",
);
const PYTHON_HS512: &str = concat!(
    "eyJhbGciOiJIUzUxMiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.tWCIXwYUr-2jKdlyt_uhpaBf7xTGqU",
    "WePib72hnVeNZHeiDQyopMJDpL-9K3TSmc-4Vh30k2gZYdGd55Dox8Uw",
);
/// HS256 keyed with the PEM text of RFC 7515's RSA key.
const PYTHON_CONFUSED: &str = concat!(
    "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.o6FBEeaBCbGtzUehFigheUiyy01adX",
    "TIiEfQJsDS6Iw",
);

fn rule(algorithms: &[JwsAlgorithm]) -> JwsRule {
    JwsRule {
        algorithms: algorithms.to_vec(),
        issuer: None,
        audience: None,
        max_age: None,
        tolerance: Duration::ZERO,
        body_claim: None,
        url_claim: None,
        required_claims: Vec::new(),
        detached: false,
    }
}

fn public(spki: &str) -> KeySet {
    let key = PublicKey::from_spki(&der(spki)).unwrap();
    KeySet::new([(None, JwsKey::Public(key))])
}

fn secret(bytes: &[u8]) -> KeySet {
    KeySet::new([(None, JwsKey::from_secret(bytes).unwrap())])
}

#[test]
fn tokens_of_every_algorithm() {
    let hs = |name| format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC_PAYLOAD}.{name}");
    let rfc_key = secret(&decode(HS_KEY.as_bytes()).unwrap());
    let rs256 = format!("eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.{RFC_RS256}");
    let es256 = format!("eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}.{RFC_ES256}");
    for (name, algorithm, token, keys) in [
        (
            "RFC 7515, A.1",
            JwsAlgorithm::Hs256,
            hs("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            rfc_key,
        ),
        ("RFC 7515, A.2", JwsAlgorithm::Rs256, rs256, public(RSA_SPKI)),
        ("RFC 7515, A.3", JwsAlgorithm::Es256, es256, public(P256_SPKI)),
        (
            "RS384",
            JwsAlgorithm::Rs384,
            PYTHON_RS384.to_owned(),
            public(RSA_SPKI),
        ),
        (
            "RS512",
            JwsAlgorithm::Rs512,
            PYTHON_RS512.to_owned(),
            public(RSA_SPKI),
        ),
        (
            "PS256",
            JwsAlgorithm::Ps256,
            PYTHON_PS256.to_owned(),
            public(RSA_SPKI),
        ),
        (
            "ES384",
            JwsAlgorithm::Es384,
            PYTHON_ES384.to_owned(),
            public(P384_SPKI),
        ),
        (
            "HS384",
            JwsAlgorithm::Hs384,
            PYTHON_HS384.to_owned(),
            secret(b"secret"),
        ),
        (
            "HS512",
            JwsAlgorithm::Hs512,
            PYTHON_HS512.to_owned(),
            secret(b"secret"),
        ),
    ] {
        let check =
            |rule: &JwsRule, token: &str, now_ms| verify(rule, token.as_bytes(), &keys, b"", None, now_ms);
        let only = rule(&[algorithm]);
        assert_eq!(check(&only, &token, NOW_MS), Ok(()), "{name}");
        assert_eq!(
            check(&only, &token, NOW_MS + 60_000),
            Err(JwsError::Expired),
            "{name}, later"
        );
        let others: Vec<_> = JwsAlgorithm::ALL
            .into_iter()
            .filter(|other| *other != algorithm)
            .collect();
        assert_eq!(
            check(&rule(&others), &token, NOW_MS),
            Err(JwsError::Algorithm),
            "{name}, not allowed"
        );
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let got = verify(&only, &bytes, &keys, b"", None, NOW_MS);
            assert!(got.is_err(), "{name}, byte {at} changed");
        }
        let (start, signature) = token.rsplit_once('.').unwrap();
        let wrong = if signature.starts_with('A') { "B" } else { "A" };
        let changed = format!("{start}.{wrong}{}", &signature[1..]);
        assert_eq!(
            check(&only, &changed, NOW_MS),
            Err(JwsError::Signature),
            "{name}, changed"
        );
        assert_eq!(
            check(&only, &format!("{start}."), NOW_MS),
            Err(JwsError::Signature),
            "{name}, unsigned"
        );
        let other = secret(b"another secret");
        let other = if algorithm.name().starts_with('H') {
            &public(RSA_SPKI)
        } else {
            &other
        };
        let got = verify(&only, token.as_bytes(), other, b"", None, NOW_MS);
        assert_eq!(got, Err(JwsError::KeyKind), "{name}, key of another kind");
    }
}

#[test]
fn rfc_8037_a_4() {
    // The payload is no JSON, so it is taken as a detached one that reads no claims.
    let mut rule = rule(&[JwsAlgorithm::EdDsa]);
    rule.detached = true;
    let token = concat!(
        "eyJhbGciOiJFZERTQSJ9..hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt",
        "9g7sVvpAr_MuM0KAg"
    );
    let keys = public(ED25519_SPKI);
    let check = |token: &str, body: &[u8]| verify(&rule, token.as_bytes(), &keys, body, None, NOW_MS);
    assert_eq!(check(token, b"Example of Ed25519 signing"), Ok(()));
    assert_eq!(
        check(token, b"Example of Ed25519 Signing"),
        Err(JwsError::Signature)
    );
    let attached = token.replace("..", ".RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.");
    assert_eq!(
        check(&attached, b"Example of Ed25519 signing"),
        Err(JwsError::Form)
    );
}

#[test]
fn a_public_key_is_no_secret() {
    let got =
        |keys: &KeySet, rule: &JwsRule| verify(rule, PYTHON_CONFUSED.as_bytes(), keys, b"", None, NOW_MS);
    let both = rule(&[JwsAlgorithm::Rs256, JwsAlgorithm::Hs256]);
    assert_eq!(got(&public(RSA_SPKI), &both), Err(JwsError::KeyKind));
    assert_eq!(
        got(&public(RSA_SPKI), &rule(&[JwsAlgorithm::Rs256])),
        Err(JwsError::Algorithm)
    );
}

fn token(header: &str, payload: &str) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let JwsKey::Secret(key) = JwsKey::from_secret(b"secret").unwrap() else {
        unreachable!()
    };
    let tag = key.tag(JwsAlgorithm::Hs256, message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn headers_and_forms() {
    const HS: &str = r#"{"alg":"HS256"}"#;
    const PAYLOAD: &str = r#"{"exp":2000000000}"#;
    let good = token(HS, PAYLOAD);
    let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
    let not_object = strict_json::StrictJsonError::NotObject;
    let repeated = strict_json::StrictJsonError::Repeated;
    let keys = secret(b"secret");
    for (name, token, expected) in [
        ("good", good.clone(), Ok(())),
        (
            "two parts",
            good.rsplit_once('.').unwrap().0.to_owned(),
            Err(JwsError::Form),
        ),
        ("four parts", format!("{good}."), Err(JwsError::Form)),
        ("five parts", format!("{good}.."), Err(JwsError::Form)),
        ("nothing", String::new(), Err(JwsError::Form)),
        ("padding", format!("{good}="), Err(JwsError::Form)),
        ("a blank before", format!(" {good}"), Err(JwsError::Form)),
        (
            "too long",
            format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX)),
            Err(JwsError::TooLong),
        ),
        (
            "none",
            token(r#"{"alg":"none"}"#, PAYLOAD),
            Err(JwsError::Algorithm),
        ),
        (
            "None",
            token(r#"{"alg":"None"}"#, PAYLOAD),
            Err(JwsError::Algorithm),
        ),
        (
            "lower case",
            token(r#"{"alg":"hs256"}"#, PAYLOAD),
            Err(JwsError::Algorithm),
        ),
        ("no signature", unsigned, Err(JwsError::Signature)),
        ("no alg", token("{}", PAYLOAD), Err(JwsError::HeaderMember("alg"))),
        (
            "alg is a list",
            token(r#"{"alg":["HS256"]}"#, PAYLOAD),
            Err(JwsError::HeaderMember("alg")),
        ),
        (
            "kid is a number",
            token(r#"{"alg":"HS256","kid":1}"#, PAYLOAD),
            Err(JwsError::HeaderMember("kid")),
        ),
        (
            "crit",
            token(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, PAYLOAD),
            Err(JwsError::Critical),
        ),
        (
            "empty crit",
            token(r#"{"alg":"HS256","crit":[]}"#, PAYLOAD),
            Err(JwsError::Critical),
        ),
        (
            "alg twice",
            token(r#"{"alg":"HS256","alg":"HS256"}"#, PAYLOAD),
            Err(JwsError::Header(repeated)),
        ),
        (
            "header is a text",
            token("\"HS256\"", PAYLOAD),
            Err(JwsError::Header(not_object)),
        ),
        (
            "exp twice",
            token(HS, r#"{"exp":1,"exp":2000000000}"#),
            Err(JwsError::Claims(repeated)),
        ),
        (
            "claims are a list",
            token(HS, "[]"),
            Err(JwsError::Claims(not_object)),
        ),
        (
            "keys in the header",
            token(r#"{"alg":"HS256","jku":"https://x","jwk":{}}"#, PAYLOAD),
            Ok(()),
        ),
    ] {
        let got = verify(
            &rule(&[JwsAlgorithm::Hs256]),
            token.as_bytes(),
            &keys,
            b"",
            None,
            NOW_MS,
        );
        assert_eq!(got, expected, "{name}");
    }
    let attached = rule(&[JwsAlgorithm::Hs256]);
    let got = verify(
        &attached,
        detach(&good).as_bytes(),
        &keys,
        PAYLOAD.as_bytes(),
        None,
        NOW_MS,
    );
    assert_eq!(
        got,
        Err(JwsError::Signature),
        "a detached token where none is expected"
    );
}

#[test]
fn which_key_serves_a_kid() {
    let claims = json!({"exp": 2_000_000_000}).as_object().unwrap().clone();
    let sign = |secret: &[u8], kid| sign_hs(secret, JwsAlgorithm::Hs256, kid, &claims).unwrap();
    let set = |kids: &[Option<&str>]| {
        let key = |kid: &Option<&str>| {
            let secret = format!("secret {}", kid.unwrap_or("none"));
            (
                kid.map(Into::into),
                JwsKey::from_secret(secret.as_bytes()).unwrap(),
            )
        };
        KeySet::new(kids.iter().map(key))
    };
    let many = set(&[Some("x"); KEYS_TRIED_MAX + 1]);
    let mut last = vec![Some("x"); KEYS_TRIED_MAX];
    last.push(Some("a"));
    for (name, token, keys, expected) in [
        (
            "its kid",
            sign(b"secret a", Some("a")),
            set(&[Some("b"), Some("a")]),
            Ok(()),
        ),
        (
            "no kid, any key",
            sign(b"secret a", None),
            set(&[Some("b"), Some("a")]),
            Ok(()),
        ),
        (
            "a kid, a key without",
            sign(b"secret none", Some("a")),
            set(&[None]),
            Ok(()),
        ),
        (
            "unknown kid",
            sign(b"secret a", Some("c")),
            set(&[Some("b"), Some("a")]),
            Err(JwsError::UnknownKey),
        ),
        (
            "kid of another case",
            sign(b"secret a", Some("A")),
            set(&[Some("a")]),
            Err(JwsError::UnknownKey),
        ),
        (
            "its kid, another key",
            sign(b"secret b", Some("a")),
            set(&[Some("b"), Some("a")]),
            Err(JwsError::Signature),
        ),
        (
            "no key",
            sign(b"secret a", None),
            set(&[]),
            Err(JwsError::UnknownKey),
        ),
        ("one of too many", sign(b"secret x", None), many, Ok(())),
        (
            "behind too many",
            sign(b"secret a", None),
            set(&last),
            Err(JwsError::Signature),
        ),
    ] {
        let got = verify(
            &rule(&[JwsAlgorithm::Hs256]),
            token.as_bytes(),
            &keys,
            b"",
            None,
            NOW_MS,
        );
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_key_for_one_algorithm_serves_no_other() {
    let token = format!("eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.{RFC_RS256}");
    // The modulus lies at this place of the SubjectPublicKeyInfo.
    let n = URL_SAFE_NO_PAD.encode(&der(RSA_SPKI)[33..289]);
    for (alg, expected) in [
        ("RS256", Ok(())),
        ("RS384", Err(JwsError::KeyKind)),
        ("PS256", Err(JwsError::KeyKind)),
    ] {
        let jwk = format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"{alg}"}}"#);
        let keys = KeySet::from_json(jwk.as_bytes()).unwrap();
        let any = rule(&JwsAlgorithm::ALL);
        let got = verify(&any, token.as_bytes(), &keys, b"", None, NOW_MS);
        assert_eq!(got, expected, "{alg}");
    }
}
