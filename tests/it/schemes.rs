//! The rules that a scheme put together of parts keeps, each with its test (facts on providers, section 4).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::preset;
use hooklatch::provider::scheme::{Request, Rule, Scheme};
use hooklatch::provider::scheme_text::SchemeText;
use hooklatch::provider::signature::{LiveKey, SignatureError};
use hooklatch::secret::SecretText;
use sha2::Sha256;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const BODY: &[u8] = b"{\"id\":\"e1\"}";

fn tag(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex_tag(secret: &str, text: &str) -> String {
    hex::encode(tag(secret.as_bytes(), text.as_bytes()))
}

fn scheme(text: &str) -> Scheme {
    toml::from_str::<SchemeText>(text).unwrap().build().unwrap()
}

fn of_preset(name: &str, scheme: &str) -> Scheme {
    preset::find(name).unwrap().scheme(Some(scheme)).unwrap().clone()
}

fn keys(scheme: &Scheme, secrets: &[&str]) -> Vec<LiveKey> {
    let key = |(number, text): (usize, &&str)| LiveKey {
        name: SecretName::new(number.to_string()),
        key: scheme.key(&SecretText::new(text.as_bytes().to_vec())).unwrap(),
        until: None,
    };
    secrets.iter().enumerate().map(key).collect()
}

/// The number of the secret that matched.
fn check(
    scheme: &Scheme,
    secrets: &[&str],
    headers: &[(&str, &str)],
    at: Timestamp,
) -> Result<usize, SignatureError> {
    let fields = Fields::from_pairs(
        headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    );
    let request = Request::new(&fields, BODY);
    let claim = scheme.claim(&request)?;
    let keys = keys(scheme, secrets);
    let matched = scheme.check(&claim, &keys, at, &request, None)?;
    Ok(matched.as_str().parse().unwrap())
}

fn stripe(items: &str) -> Result<usize, SignatureError> {
    check(
        &of_preset("stripe", "main"),
        &["new-secret", "old-secret"],
        &[("stripe-signature", items)],
        NOW,
    )
}

#[test]
fn rule_1_any_signature_with_any_secret_within_bounds() {
    let text = "1700000000.{\"id\":\"e1\"}";
    let (new, old) = (hex_tag("new-secret", text), hex_tag("old-secret", text));
    let wrong = "0".repeat(64);
    let many = |count: usize| format!("v1={wrong},").repeat(count);
    for (name, items, expected) in [
        ("the new", format!("t=1700000000,v1={new}"), Ok(0)),
        ("the old", format!("t=1700000000,v1={old}"), Ok(1)),
        (
            "the second of the list",
            format!("t=1700000000,v1={wrong},v1={old}"),
            Ok(1),
        ),
        ("blanks after commas", format!("t=1700000000, v1={new}"), Ok(0)),
        (
            "unknown tags",
            format!("x=1,t=1700000000,v0=ab,v9={wrong},v1={new},"),
            Ok(0),
        ),
        (
            "one that does not decode",
            format!("t=1700000000,v1=zz,v1={new}"),
            Ok(0),
        ),
        (
            "the twentieth",
            format!("t=1700000000,{}v1={new}", many(19)),
            Ok(0),
        ),
        (
            "the twenty-first",
            format!("t=1700000000,{}v1={new}", many(20)),
            Err(SignatureError::Mismatch),
        ),
        ("none", "t=1700000000".to_owned(), Err(SignatureError::Malformed)),
        (
            "none that is known",
            format!("t=1700000000,v0={new}"),
            Err(SignatureError::Malformed),
        ),
        (
            "none that decodes",
            "t=1700000000,v1=zz".to_owned(),
            Err(SignatureError::Malformed),
        ),
        ("no list", "x".to_owned(), Err(SignatureError::Malformed)),
        ("no time", format!("v1={new}"), Err(SignatureError::Incomplete)),
        (
            "two times",
            format!("t=1700000000,t=1700000000,v1={new}"),
            Err(SignatureError::Incomplete),
        ),
    ] {
        assert_eq!(stripe(&items), expected, "{name}");
    }
    let scheme = of_preset("stripe", "main");
    let secrets: Vec<String> = (0..9).map(|number| format!("secret-{number}")).collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    for (number, expected) in [(7, Ok(7)), (8, Err(SignatureError::Mismatch))] {
        let items = format!("t=1700000000,v1={}", hex_tag(secrets[number], text));
        assert_eq!(
            check(&scheme, &secrets, &[("stripe-signature", &items)], NOW),
            expected
        );
    }
}

#[test]
fn rule_2_a_weaker_way_is_not_active_without_a_secret_of_its_own() {
    let signing = of_preset("gitlab", "signing");
    let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
    let token_alone = [("x-gitlab-token", &*secret)];
    assert_eq!(
        check(&signing, &[&secret], &token_alone, NOW),
        Err(SignatureError::Missing)
    );
    let good = STANDARD.encode(tag(&[7; 32], b"u1.1700000000.{\"id\":\"e1\"}"));
    let good = format!("v1,{good}");
    let headers = [
        ("webhook-id", "u1"),
        ("webhook-timestamp", "1700000000"),
        ("webhook-signature", &*good),
    ];
    assert_eq!(check(&signing, &[&secret], &headers, NOW), Ok(0));
    // The same of GitHub's SHA-1 beside its SHA-256, and of Stripe's test tag.
    let main = preset::find("github").unwrap().scheme(None).unwrap().clone();
    assert_eq!(
        check(&main, &["s"], &[("x-hub-signature", "sha1=00")], NOW),
        Err(SignatureError::Missing)
    );
}

#[test]
fn rule_3_what_is_empty_or_not_there_is_never_good() {
    for preset in preset::all() {
        for scheme in &preset.schemes {
            let name = format!("{}, {}", preset.name, scheme.name);
            assert!(
                scheme.key(&SecretText::new(Vec::new())).is_err(),
                "{name}: an empty secret"
            );
            let fields = Fields::default();
            let request = Request::new(&fields, BODY);
            let refused = match scheme.claim(&request) {
                Ok(claim) => scheme.check(&claim, &[], NOW, &request, None).is_err(),
                Err(error) => error == SignatureError::Missing,
            };
            assert!(refused, "{name}: nothing was sent");
        }
    }
    let calcom = of_preset("calcom", "main");
    let sent = [("x-cal-signature-256", "no-secret-provided")];
    assert_eq!(check(&calcom, &["s"], &sent, NOW), Err(SignatureError::Malformed));
}

#[test]
fn rule_4_times_are_strict_and_have_two_sides() {
    let at = |time: &str, now: i64| {
        let text = format!("{time}.{{\"id\":\"e1\"}}");
        let items = format!("t={time},v1={}", hex_tag("s", &text));
        check(
            &of_preset("stripe", "main"),
            &["s"],
            &[("stripe-signature", &items)],
            Timestamp(now * 1000),
        )
    };
    for (time, now, expected) in [
        ("1700000000", 1_700_000_300, Ok(0)),
        ("1700000000", 1_700_000_301, Err(SignatureError::Stale)),
        ("1700000000", 1_699_999_700, Ok(0)),
        ("1700000000", 1_699_999_699, Err(SignatureError::Stale)),
        ("+1700000000", 1_700_000_000, Err(SignatureError::Incomplete)),
        ("1.7e9", 1_700_000_000, Err(SignatureError::Incomplete)),
        ("", 1_700_000_000, Err(SignatureError::Incomplete)),
        (
            "999999999999999999999999",
            1_700_000_000,
            Err(SignatureError::Incomplete),
        ),
    ] {
        assert_eq!(at(time, now), expected, "{time} at {now}");
    }
}

#[test]
fn rule_5_a_repeated_signature_header_is_refused_unless_they_are_numbered() {
    let good = hex_tag("s", std::str::from_utf8(BODY).unwrap());
    let plain = scheme("header = \"x-a\"\nalgorithm = \"hmac-sha256\"\nsigned = \"{body}\"");
    assert_eq!(
        check(&plain, &["s"], &[("x-a", &good), ("X-A", &good)], NOW),
        Err(SignatureError::Repeated)
    );
    let numbered = scheme("header_numbered = \"x-a-{n}\"");
    let wrong = "0".repeat(64);
    for (name, headers, expected) in [
        ("the second", vec![("x-a-1", &*wrong), ("x-a-2", &*good)], Ok(0)),
        (
            "a gap",
            vec![("x-a-1", &*wrong), ("x-a-3", &*good)],
            Err(SignatureError::Mismatch),
        ),
        (
            "from two on",
            vec![("x-a-2", &*good)],
            Err(SignatureError::Missing),
        ),
        (
            "one number twice",
            vec![("x-a-1", &*good), ("x-a-1", &*good)],
            Err(SignatureError::Repeated),
        ),
    ] {
        assert_eq!(check(&numbered, &["s"], &headers, NOW), expected, "{name}");
    }
}

/// For a day after a rotation Mollie sends the header once for each of its secrets.
#[test]
fn a_header_that_its_sender_repeats_holds_several_signatures() {
    let mollie = of_preset("mollie", "main");
    let text = std::str::from_utf8(BODY).unwrap();
    let header = "x-mollie-signature";
    let (new, old) = (
        hex_tag("new-secret", text),
        format!("sha256={}", hex_tag("old-secret", text)),
    );
    let wrong = "0".repeat(64);
    for (name, secrets, values, expected) in [
        (
            "both, with the old secret",
            vec!["old-secret"],
            vec![&*new, &*old],
            Ok(0),
        ),
        (
            "both, with the new secret",
            vec!["new-secret"],
            vec![&old, &new],
            Ok(0),
        ),
        (
            "both, with both",
            vec!["new-secret", "old-secret"],
            vec![&new, &old],
            Ok(0),
        ),
        (
            "neither",
            vec!["other"],
            vec![&new, &old],
            Err(SignatureError::Mismatch),
        ),
        ("a blank one before", vec!["old-secret"], vec![" ", &old], Ok(0)),
        (
            "one that is none before",
            vec!["old-secret"],
            vec!["x", &old],
            Ok(0),
        ),
        (
            "blank ones",
            vec!["old-secret"],
            vec!["", " "],
            Err(SignatureError::Missing),
        ),
        (
            "too many before it",
            vec!["old-secret"],
            [vec![&*wrong; 20], vec![&*old]].concat(),
            Err(SignatureError::Mismatch),
        ),
    ] {
        let headers: Vec<_> = values.iter().map(|value| (header, *value)).collect();
        assert_eq!(check(&mollie, &secrets, &headers, NOW), expected, "{name}");
    }
}

#[test]
fn rule_6_the_form_of_a_key_is_the_presets_and_never_guessed() {
    let secret = format!("whsec_{}", STANDARD.encode([9; 32]));
    let signed = "1700000000.{\"id\":\"e1\"}";
    let (text, decoded) = (
        tag(secret.as_bytes(), signed.as_bytes()),
        tag(&[9; 32], signed.as_bytes()),
    );
    let stripe = of_preset("stripe", "main");
    for (digest, expected) in [(text, Ok(0)), (decoded, Err(SignatureError::Mismatch))] {
        let items = format!("t=1700000000,v1={}", hex::encode(digest));
        assert_eq!(
            check(&stripe, &[&secret], &[("stripe-signature", &items)], NOW),
            expected
        );
    }
    let signed = "m1.1700000000.{\"id\":\"e1\"}";
    let (text, decoded) = (
        tag(secret.as_bytes(), signed.as_bytes()),
        tag(&[9; 32], signed.as_bytes()),
    );
    let standard = preset::find("standard-webhooks").unwrap().schemes[0].clone();
    let polar = preset::find("polar").unwrap().schemes[0].clone();
    for (scheme, digest, expected) in [
        (&standard, &decoded, Ok(0)),
        (&standard, &text, Err(SignatureError::Mismatch)),
        (&polar, &text, Ok(0)),
        (&polar, &decoded, Err(SignatureError::Mismatch)),
    ] {
        let value = format!("v1,{}", STANDARD.encode(digest));
        let headers = [
            ("webhook-id", "m1"),
            ("webhook-timestamp", "1700000000"),
            ("webhook-signature", &*value),
        ];
        assert_eq!(check(scheme, &[&secret], &headers, NOW), expected);
    }
}

#[test]
fn rule_7_the_url_is_the_configured_one_and_never_of_the_host_header() {
    let square = of_preset("square", "main");
    let sign = |url: &str| STANDARD.encode(tag(b"s", format!("{url}{{\"id\":\"e1\"}}").as_bytes()));
    let check = |public_url, query, signature: &str| {
        let pairs = [
            ("host", "evil.example"),
            ("x-square-hmacsha256-signature", signature),
        ];
        let fields = Fields::from_pairs(
            pairs
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        );
        let request = Request {
            public_url,
            query,
            ..Request::new(&fields, BODY)
        };
        let claim = square.claim(&request)?;
        square
            .check(&claim, &keys(&square, &["s"]), NOW, &request, None)
            .map(|_| ())
    };
    let ours = Some("https://hooks.example.com/square");
    for (name, url, query, signed, expected) in [
        ("ours", ours, None, "https://hooks.example.com/square", Ok(())),
        (
            "with the query that came",
            ours,
            Some("a=1"),
            "https://hooks.example.com/square?a=1",
            Ok(()),
        ),
        (
            "of the host header",
            ours,
            None,
            "https://evil.example/square",
            Err(SignatureError::Mismatch),
        ),
        (
            "none",
            None,
            None,
            "https://hooks.example.com/square",
            Err(SignatureError::Incomplete),
        ),
    ] {
        assert_eq!(check(url, query, &sign(signed)), expected, "{name}");
    }
}

/// What most senders do costs what it did: one digest, no allocation. `benches/instructions` holds the figures.
#[test]
fn rule_8_a_digest_of_the_body_takes_the_short_way() {
    let short = preset::all().iter().filter(|preset| {
        let first = preset.schemes.first();
        first.is_some_and(|scheme| matches!(scheme.rule, Rule::BodyHmac(_)))
    });
    assert!(short.count() > 50);
}

#[test]
fn rule_9_decoded_bytes_are_compared() {
    let text = std::str::from_utf8(BODY).unwrap();
    let authorize = of_preset("authorize-net", "main");
    let secret = "AB".repeat(64);
    let mut mac = Hmac::<sha2::Sha512>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(BODY);
    let digest = hex::encode(mac.finalize().into_bytes());
    for value in [
        format!("sha512={digest}"),
        format!("sha512={}", digest.to_uppercase()),
    ] {
        assert_eq!(
            check(&authorize, &[&secret], &[("x-anet-signature", &value)], NOW),
            Ok(0)
        );
    }
    let base64 = scheme("header = \"x-a\"\nencoding = \"base64\"");
    let good = STANDARD.encode(tag(b"s", text.as_bytes()));
    for value in [good.clone(), good.trim_end_matches('=').to_owned()] {
        assert_eq!(check(&base64, &["s"], &[("x-a", &value)], NOW), Ok(0));
    }
}

/// Signatures that stand elsewhere, and what they must not be taken for.
#[test]
fn signatures_in_the_query_and_the_body() {
    let token = scheme("in_query = \"code\"\nalgorithm = \"token\"");
    for (query, expected) in [
        (Some("code=the-token"), true),
        (Some("a=1&code=the%2Dtoken"), true),
        (Some("code=the-token&code=the-token"), false),
        (Some("code=other"), false),
        (Some("code="), false),
        (None, false),
    ] {
        let fields = Fields::default();
        let request = Request {
            query,
            ..Request::new(&fields, BODY)
        };
        let good = scheme_takes(&token, "the-token", &request);
        assert_eq!(good, expected, "{query:?}");
    }
    let digest = scheme(
        "header = \"x-a\"\nsigned = \"{url}\"\nbody_digest = { query = \"sha\" }\nencoding = \"base64\"",
    );
    let sha = |body: &[u8]| hex::encode(crate::support::sha256(body));
    let url = format!("https://h.example/x?sha={}", sha(BODY));
    let signature = STANDARD.encode(tag(b"s", url.as_bytes()));
    for (body, expected) in [(BODY, true), (b"{}", false)] {
        let fields = Fields::from_pairs([(&b"x-a"[..], signature.as_bytes())]);
        let query = format!("sha={}", sha(BODY));
        let request = Request {
            public_url: Some("https://h.example/x"),
            query: Some(&query),
            ..Request::new(&fields, body)
        };
        assert_eq!(scheme_takes(&digest, "s", &request), expected);
    }
}

/// Nobody can keep the fetcher busy, or be told to come again, with what no key would make good.
#[test]
fn keys_are_fetched_for_tokens_alone() {
    let scheme = &hooklatch::provider::preset::find("google-pubsub")
        .unwrap()
        .schemes[0];
    let header = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let (rs256, none) = (
        header("{\"alg\":\"RS256\",\"kid\":\"1\"}"),
        header("{\"alg\":\"none\"}"),
    );
    for (value, fetched) in [
        (format!("Bearer {rs256}.e30.c2ln"), true),
        (format!("Bearer {none}.e30.c2ln"), false),
        (format!("Bearer {rs256}.e30"), false),
        (format!("Basic {rs256}.e30.c2ln"), false),
        ("Bearer a.b.c".to_owned(), false),
        (format!("Bearer {rs256}.e30.{}", "A".repeat(20_000)), false),
    ] {
        let fields = Fields::from_pairs([(&b"authorization"[..], value.as_bytes())]);
        let need = scheme.need(&Request::new(&fields, BODY));
        assert_eq!(matches!(need, Ok(Some(_))), fetched, "{value:.60}: {need:?}");
        assert_eq!(need.is_ok(), fetched, "{value:.60}");
    }
}

#[test]
fn a_form_signs_its_other_fields() {
    let scheme = scheme("in_form = \"sig\"\nsigned = \"{form_sorted}\"");
    let signature = hex_tag("s", "a1b2");
    for (name, body, expected) in [
        ("last", format!("b=2&a=1&sig={signature}"), true),
        ("first", format!("sig={signature}&a=1&b=2"), true),
        ("another field", format!("a=1&b=2&c=3&sig={signature}"), false),
        ("twice", format!("a=1&b=2&sig={signature}&sig={signature}"), false),
        (
            "twice, one in disguise",
            format!("a=1&b=2&sig={signature}&s%69g=x"),
            false,
        ),
        (
            "over itself",
            format!("a=1&b=2&sig={}", hex_tag("s", "a1b2sig")),
            false,
        ),
    ] {
        let fields = Fields::from_pairs([(&b"content-type"[..], &b"application/x-www-form-urlencoded"[..])]);
        let request = Request::new(&fields, body.as_bytes());
        assert_eq!(scheme_takes(&scheme, "s", &request), expected, "{name}");
    }
}

/// What a signature does not cover must not be there at all where the app would act on it.
#[test]
fn what_is_not_signed_may_have_to_be_absent() {
    let one =
        scheme("in_json = \"/s\"\nsigned = \"{json:/items/0}\"\nabsent = [\"/items/1\", \"query:more\"]");
    let signature = hex_tag("s", "a");
    for (name, items, query, expected) in [
        ("one item", "\"items\":[\"a\"]", None, true),
        ("a second item", "\"items\":[\"a\",\"b\"]", None, false),
        (
            "a list that some readers overlook",
            "\"items\":[\"a\",\"b\"],\"items\":[\"a\"]",
            None,
            false,
        ),
        ("another parameter", "\"items\":[\"a\"]", Some("less=1"), true),
        ("the parameter", "\"items\":[\"a\"]", Some("x=1&more="), false),
        (
            "the parameter in disguise",
            "\"items\":[\"a\"]",
            Some("m%6Fre=1"),
            false,
        ),
    ] {
        let body = format!("{{{items},\"s\":\"{signature}\"}}");
        let fields = Fields::default();
        let request = Request {
            query,
            ..Request::new(&fields, body.as_bytes())
        };
        assert_eq!(scheme_takes(&one, "s", &request), expected, "{name}");
    }
    // A place whose parents are not there is not there either.
    let other = scheme("header = \"x-a\"\nabsent = \"/items/1\"");
    let body = br#"{"other":1}"#;
    let signature = hex::encode(tag(b"s", body));
    let fields = Fields::from_pairs([(&b"x-a"[..], signature.as_bytes())]);
    assert!(scheme_takes(&other, "s", &Request::new(&fields, body)));
}

#[test]
fn braintree_signs_two_fields_and_no_third_is_taken() {
    let braintree = of_preset("braintree", "main");
    // From the tests of src/provider/coded/braintree.rs.
    let signature = "86d21207127ae37bddedf3cdd48caf60a4bdea53";
    let form = format!("bt_signature=integration_public_key%7C{signature}&bt_payload=PG5vdGlmaWNhdGlvbj4%3D");
    for (form, expected) in [(form.clone(), true), (format!("{form}&bt_challenge=1"), false)] {
        let fields = Fields::default();
        let request = Request::new(&fields, form.as_bytes());
        let secret = "integration_public_key:integration_private_key";
        assert_eq!(scheme_takes(&braintree, secret, &request), expected, "{form}");
    }
}

fn scheme_takes(scheme: &Scheme, secret: &str, request: &Request<'_>) -> bool {
    let keys = keys(scheme, &[secret]);
    let claim = scheme.claim(request);
    claim.is_ok_and(|claim| scheme.check(&claim, &keys, NOW, request, None).is_ok())
}
