use crate::fields::Fields;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;
use crate::provider::key::KeyForm;
use crate::provider::preset;
use crate::provider::scheme_text::SchemeText;
use crate::provider::sign::{Draft, Signer};
use crate::provider::timestamp::TimeUnit;
use crate::secret::Key;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &str = "{\"id\":\"evt_1\",\"type\":\"a\",\"name\":\"Zoë\",\"n\":1.0}";
const NOW: Timestamp = Timestamp(1_763_000_000_000);

fn scheme(name: &str) -> BodyHmac {
    match &preset::find(name).unwrap().schemes[0].rule {
        Rule::BodyHmac(rule) => rule.clone(),
        other => panic!("{other:?}"),
    }
}

fn explain(
    scheme: &BodyHmac,
    headers: &Fields,
    body: &[u8],
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Verdict {
    let scheme = Scheme {
        name: "main".into(),
        rule: Rule::BodyHmac(scheme.clone()),
    };
    super::explain(&[scheme], &Request::new(headers, body), candidates, now)
}

fn named(name: &str, text: &str) -> NamedSecret {
    NamedSecret {
        name: SecretName::new(name),
        text: SecretText::new(text.into()),
        until: None,
        of_route: true,
    }
}

fn hex_of(key: &[u8], body: &[u8]) -> String {
    hex::encode(Key::new(key).unwrap().tag(&[body]))
}

fn headers(pairs: &[(&str, &str)]) -> Fields {
    Fields::from_pairs(
        pairs
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    )
}

fn differences(verdict: &Verdict) -> Vec<Difference> {
    match verdict {
        Verdict::Differs { differences, .. } => differences.clone(),
        other => panic!("{other:?}"),
    }
}

/// An Iverton request with that signature.
fn iverton(digest: &str) -> Fields {
    headers(&[("x-iverton-signature", &format!("sha256={digest}"))])
}

#[test]
fn a_good_request_matches() {
    let candidates = [named("old", "another"), named("main", SECRET)];
    let request = iverton(&hex_of(SECRET.as_bytes(), BODY.as_bytes()));
    let verdict = explain(&scheme("iverton"), &request, BODY.as_bytes(), &candidates, NOW);
    let matched = Verdict::Match {
        secret: SecretName::new("main"),
        scheme: "main".into(),
    };
    assert_eq!(verdict, matched);
    let mut many = vec![named("other", "another"); 20];
    many.push(named("main", SECRET));
    let verdict = explain(&scheme("iverton"), &request, BODY.as_bytes(), &many, NOW);
    assert_eq!(verdict, matched);
}

#[test]
fn what_goes_wrong_with_the_secret() {
    let decoded = STANDARD.decode(&SECRET[6..]).unwrap();
    for (theirs, ours, expected) in [
        ("secret", "secret\n", Difference::SecretLineEnd),
        ("secret", "secret\r\n", Difference::SecretLineEnd),
        ("secret\n", "secret", Difference::SecretLineEndLost),
        ("secret", "  secret ", Difference::SecretBlanks),
        ("secret", "\"secret\"", Difference::SecretQuotes),
        ("secret", "'secret'", Difference::SecretQuotes),
        (
            "secret",
            "736563726574",
            Difference::SecretForm("the secret decoded from hex"),
        ),
        (
            "secret",
            "c2VjcmV0",
            Difference::SecretForm("the secret decoded from base64"),
        ),
        (&SECRET[6..], SECRET, Difference::SecretMarkAdded),
        ("\"secret\"", "secret", Difference::SecretQuotesLost),
        ("'secret'", "secret", Difference::SecretQuotesLost),
        ("secret ", "secret", Difference::SecretBlanksLost),
        (" secret", "secret", Difference::SecretBlanksLost),
        ("secret", "secret\\n", Difference::SecretLineEndSpelt),
        ("secret", "HOOK_SECRET=secret", Difference::SecretNamed),
        ("secret", "HOOK_SECRET=\"secret\"", Difference::SecretNamed),
        (
            "736563726574",
            "secret",
            Difference::SecretForm("the secret's text written as hex"),
        ),
        (
            "c2VjcmV0",
            "secret",
            Difference::SecretForm("the secret's text written as base64"),
        ),
    ] {
        let request = iverton(&hex_of(theirs.as_bytes(), BODY.as_bytes()));
        let verdict = explain(
            &scheme("iverton"),
            &request,
            BODY.as_bytes(),
            &[named("main", ours)],
            NOW,
        );
        assert_eq!(differences(&verdict), [expected], "{ours:?}");
    }
    let request = iverton(&hex_of(&decoded, BODY.as_bytes()));
    let candidates = [named("main", SECRET)];
    let verdict = explain(&scheme("iverton"), &request, BODY.as_bytes(), &candidates, NOW);
    let expected = Difference::SecretForm("what follows `whsec_`, decoded from base64");
    assert_eq!(differences(&verdict), [expected]);

    let mut svix = scheme("iverton");
    svix.key = KeyForm::Whsec;
    let request = iverton(&hex_of(SECRET.as_bytes(), BODY.as_bytes()));
    let verdict = explain(&svix, &request, BODY.as_bytes(), &candidates, NOW);
    let expected = Difference::SecretForm("the secret's text as it is");
    assert_eq!(differences(&verdict), [expected]);
}

#[test]
fn another_secret_than_the_live_ones() {
    let request = iverton(&hex_of(SECRET.as_bytes(), BODY.as_bytes()));
    let expired = NamedSecret {
        until: Some(NOW),
        ..named("old", SECRET)
    };
    let foreign = NamedSecret {
        of_route: false,
        ..named("other", SECRET)
    };
    for (candidate, expected) in [
        (expired, Difference::Expired(NOW)),
        (foreign, Difference::OtherRoute),
    ] {
        let name = candidate.name.clone();
        let candidates = [named("main", "another"), candidate];
        let verdict = explain(&scheme("iverton"), &request, BODY.as_bytes(), &candidates, NOW);
        assert!(matches!(&verdict, Verdict::Differs { secret, .. } if *secret == name));
        assert_eq!(differences(&verdict), [expected]);
    }
}

#[test]
fn what_goes_wrong_with_the_header() {
    let hex = hex_of(SECRET.as_bytes(), BODY.as_bytes());
    let base64 = STANDARD.encode(hex::decode(&hex).unwrap());
    let other = |found: &str| Difference::OtherHeader {
        found: found.into(),
        read: vec!["x-iverton-signature".into()],
    };
    let prefix = || Box::<str>::from("sha256=");
    let own = "x-iverton-signature";
    type Sent<'s> = Vec<(&'s str, String)>;
    let cases: Vec<(Sent<'_>, Vec<Difference>)> = vec![
        (
            vec![(own, hex.clone())],
            vec![Difference::PrefixMissing(prefix())],
        ),
        (
            vec![(own, format!("sha256=sha256={hex}"))],
            vec![Difference::PrefixOther(Some(prefix()))],
        ),
        (
            vec![(own, format!("t=1,v1={hex}"))],
            vec![Difference::PrefixOther(Some(prefix()))],
        ),
        (
            vec![(own, format!("sha256={hex}zz"))],
            vec![Difference::TextBehind],
        ),
        (
            vec![(own, format!("sha256={hex}, x"))],
            vec![Difference::TextBehind],
        ),
        (
            vec![(own, format!("sha256={base64}"))],
            vec![Difference::Encoding("base64")],
        ),
        (
            vec![(own, format!("sha256={}", STANDARD.encode(&hex)))],
            vec![Difference::Encoding("base64 of hex digits")],
        ),
        (
            vec![(own, format!("sha256={hex}")), (own, format!("sha256={hex}"))],
            vec![Difference::HeaderRepeated],
        ),
        (
            vec![("x-other-signature", format!("sha256={hex}"))],
            vec![other("x-other-signature")],
        ),
        (
            vec![("x-signature", base64)],
            vec![
                other("x-signature"),
                Difference::PrefixMissing(prefix()),
                Difference::Encoding("base64"),
            ],
        ),
    ];
    for (sent, expected) in cases {
        let pairs: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (*name, &**value)).collect();
        let candidates = [named("main", SECRET)];
        let verdict = explain(
            &scheme("iverton"),
            &headers(&pairs),
            BODY.as_bytes(),
            &candidates,
            NOW,
        );
        assert_eq!(differences(&verdict), expected, "{sent:?}");
    }
    let url = URL_SAFE_NO_PAD.encode([0xfb; 32]);
    assert!(url.contains('-'), "{url}");
    let request = headers(&[("x-webhook-signature", &url)]);
    let found = header::readings(&scheme("connectgain"), &request);
    assert_eq!(found[0].digest, [0xfb; 32]);
    assert_eq!(
        found[0].differences,
        [Difference::Encoding("base64 in the URL alphabet")]
    );
}

#[test]
fn two_headers_that_contradict_each_other() {
    let good = hex_of(SECRET.as_bytes(), BODY.as_bytes());
    let bad = hex_of(b"other", BODY.as_bytes());
    let request = headers(&[("x-quantiv-signature", &good), ("x-webhook-signature", &bad)]);
    let verdict = explain(
        &scheme("quantiv"),
        &request,
        BODY.as_bytes(),
        &[named("main", SECRET)],
        NOW,
    );
    assert_eq!(differences(&verdict), [Difference::HeaderContradicted]);
}

#[test]
fn what_goes_wrong_with_the_body() {
    let spaced = r#"{"id": "evt_1", "type": "a", "name": "Zo\u00eb", "n": 1.0}"#;
    for (signed, arrived, expected) in [
        ("{}", "{}\n", Difference::BodyLineEndAdded),
        ("{}", "{}\r\n", Difference::BodyLineEndAdded),
        ("{}\n", "{}", Difference::BodyLineEndLost),
        ("{}\r\n", "{}", Difference::BodyLineEndLost),
        ("a\r\nb\r\n", "a\nb\n", Difference::BodyLineEnds("CRLF")),
        ("a\nb\n", "a\r\nb\r\n", Difference::BodyLineEnds("LF")),
        ("{}", "\u{feff}{}", Difference::BodyMarkAdded),
        ("\u{feff}{}", "{}", Difference::BodyMarkLost),
        (BODY, spaced, Difference::BodyJson("without blanks")),
        (
            spaced,
            BODY,
            Difference::BodyJson("as json.dumps of Python writes it (with \\u escapes)"),
        ),
        (
            "{\"id\":1.0,\"b\":\"é/\"}",
            "{\n  \"id\": 1.0,\n  \"b\": \"\\u00e9/\"\n}",
            Difference::BodyJson("without blanks"),
        ),
        (
            "{\n  \"a\": 1,\n  \"b\": []\n}",
            "{\"a\":1,\"b\":[]}",
            Difference::BodyJson("indented by 2"),
        ),
        (
            "{\"a\":1,\"b\":2}",
            "{\"b\":2,\"a\":1}",
            Difference::BodyJson("without blanks and with sorted keys"),
        ),
        ("", "{}", Difference::BodyEmpty),
    ] {
        let request = iverton(&hex_of(SECRET.as_bytes(), signed.as_bytes()));
        let candidates = [named("main", SECRET)];
        let verdict = explain(&scheme("iverton"), &request, arrived.as_bytes(), &candidates, NOW);
        assert_eq!(differences(&verdict), [expected], "{arrived:?}");
    }
}

#[test]
fn a_timestamp_signed_with_the_body() {
    let digest = hex_of(
        SECRET.as_bytes(),
        format!("2025-01-15T10:30:00Z.{BODY}").as_bytes(),
    );
    let request = headers(&[
        ("x-webhook-timestamp", "2025-01-15T10:30:00Z"),
        ("x-webhook-signature", &digest),
    ]);
    let candidates = [named("main", SECRET)];
    let verdict = explain(
        &scheme("connectgain"),
        &request,
        BODY.as_bytes(),
        &candidates,
        NOW,
    );
    let expected = Difference::BodyWith("`x-webhook-timestamp`, `.` and the body".into());
    assert_eq!(differences(&verdict), [expected]);
}

#[test]
fn several_differences_at_once_and_the_fewest_win() {
    let digest = hex_of(b"secret", b"{}");
    let request = headers(&[("x-signature", &digest)]);
    let verdict = explain(
        &scheme("iverton"),
        &request,
        b"{}\n",
        &[named("main", "secret\n")],
        NOW,
    );
    assert_eq!(
        differences(&verdict),
        [
            Difference::OtherHeader {
                found: "x-signature".into(),
                read: vec!["x-iverton-signature".into()],
            },
            Difference::PrefixMissing("sha256=".into()),
            Difference::SecretLineEnd,
            Difference::BodyLineEndAdded,
        ]
    );
    let candidates = [named("first", "secret\n"), named("second", "secret")];
    let verdict = explain(&scheme("iverton"), &request, b"{}", &candidates, NOW);
    assert!(matches!(verdict, Verdict::Differs { secret, .. } if secret.as_str() == "second"));
}

#[test]
fn what_cannot_be_explained_is_said_to_be_so() {
    let candidates = [named("main", SECRET)];
    let unexplained = |request: &Fields| match explain(&scheme("iverton"), request, b"{}", &candidates, NOW) {
        Verdict::Unexplained {
            error,
            digest_headers,
            ..
        } => (error, digest_headers),
        other => panic!("{other:?}"),
    };
    let digest = hex_of(b"unknown", b"{}");
    assert_eq!(unexplained(&headers(&[])), (SignatureError::Missing, vec![]));
    assert_eq!(
        unexplained(&iverton(&digest)),
        (SignatureError::Mismatch, vec!["x-iverton-signature".into()])
    );
    assert_eq!(
        unexplained(&headers(&[("x-signature", &digest)])),
        (SignatureError::Missing, vec!["x-signature".into()])
    );
    assert_eq!(unexplained(&iverton("none")), (SignatureError::Malformed, vec![]));
}

#[test]
fn a_verdict_holds_neither_secret_nor_digest() {
    let digest = hex_of(SECRET.as_bytes(), b"{}");
    for request in [iverton(&digest), headers(&[("x-signature", &digest)])] {
        for body in [&b"{}"[..], b"{}\n", b"x"] {
            let verdict = explain(&scheme("iverton"), &request, body, &[named("main", SECRET)], NOW);
            let mut text = format!("{verdict:?}");
            if let Verdict::Differs { differences, .. } = &verdict {
                text.extend(differences.iter().map(|difference| difference.text(None)));
            }
            assert!(!text.contains(SECRET) && !text.contains(&digest[..8]), "{text}");
        }
    }
}

/// A request as `provider` sends it at `NOW`, and what is said of it on a route of `route` at `at`.
fn of_preset(provider: &str, route: &str, at: Timestamp, change: impl Fn(&mut Draft)) -> Verdict {
    let theirs = preset::find(provider).unwrap();
    let mut draft = Draft {
        public_url: Some("https://hooks.example.com/in".to_owned()),
        query: None,
        headers: Vec::new(),
        body: b"{\"id\":\"evt_1\",\"type\":\"a\"}".to_vec(),
    };
    let scheme = &theirs.schemes[0];
    let key = scheme.key(&SecretText::new(SECRET.into())).unwrap();
    scheme.sign(&Signer::Secret(&key), &mut draft, NOW).unwrap();
    change(&mut draft);
    let pairs = draft
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let fields = Fields::from_pairs(pairs);
    let request = Request {
        public_url: draft.public_url.as_deref(),
        query: draft.query.as_deref(),
        ..Request::new(&fields, &draft.body)
    };
    let ours = preset::find(route).unwrap();
    super::explain(&ours.schemes[..1], &request, &[named("main", SECRET)], at)
}

#[test]
fn schemes_of_parts_are_explained_too() {
    let hour_later = Timestamp(NOW.0 + 3_600_000);
    type Change = fn(&mut Draft);
    let same: Change = |_| {};
    type Case<'c> = (&'c str, &'c str, &'c str, Timestamp, Change, Vec<Difference>);
    let cases: [Case<'_>; 7] = [
        (
            "too late",
            "stripe",
            "stripe",
            hour_later,
            same,
            vec![Difference::Stale {
                secs: 3600,
                allowed_secs: 300,
            }],
        ),
        (
            "a line end more",
            "stripe",
            "stripe",
            NOW,
            |draft| draft.body.push(b'\n'),
            vec![Difference::BodyLineEndAdded],
        ),
        (
            "too late, and a line end more",
            "stripe",
            "stripe",
            hour_later,
            |draft| draft.body.push(b'\n'),
            vec![
                Difference::Stale {
                    secs: 3600,
                    allowed_secs: 300,
                },
                Difference::BodyLineEndAdded,
            ],
        ),
        (
            "another URL",
            "square",
            "square",
            NOW,
            |draft| draft.public_url = Some("https://hooks.example.com/in/".to_owned()),
            vec![Difference::Url("https://hooks.example.com/in".into())],
        ),
        (
            "the key of Standard Webhooks read as text",
            "polar",
            "standard-webhooks",
            NOW,
            same,
            vec![Difference::SecretForm("the secret's text as it is")],
        ),
        (
            "a header removed",
            "box",
            "box",
            NOW,
            |draft| draft.headers.retain(|(name, _)| name != "box-signature-version"),
            vec![Difference::RequiredHeader],
        ),
        (
            "another provider",
            "stripe",
            "typeform",
            NOW,
            same,
            vec![Difference::OtherProvider(vec![OtherProvider {
                name: "stripe".into(),
                title: "Stripe".into(),
            }])],
        ),
    ];
    for (name, provider, route, at, change, expected) in cases {
        assert_eq!(
            differences(&of_preset(provider, route, at, change)),
            expected,
            "{name}"
        );
    }
    assert!(matches!(
        of_preset("stripe", "stripe", NOW, same),
        Verdict::Match { .. }
    ));
}

#[test]
fn a_request_signed_in_another_way_of_the_same_provider_says_which() {
    let gitlab = preset::find("gitlab").unwrap();
    let request = headers(&[("X-Gitlab-Token", SECRET)]);
    let request = Request::new(&request, b"{}");
    let verdict = super::explain(&gitlab.schemes[1..], &request, &[named("main", SECRET)], NOW);
    assert_eq!(differences(&verdict), [Difference::OtherScheme("token".into())]);
}

/// A scheme as a route's `verify` has it.
fn custom(text: &str) -> Scheme {
    let text: SchemeText = toml::from_str(text).unwrap();
    text.build().unwrap()
}

#[test]
fn a_token_is_found_wherever_it_came() {
    let token = || named("main", "tok-secret");
    let plain = "header = \"X-Tok\"\nalgorithm = \"token\"";
    let bearer = "header = \"Authorization\"\nalgorithm = \"token\"\nprefix = \"Bearer \"";
    let elsewhere = |found: &str, read: &str| Difference::TokenElsewhere {
        found: found.into(),
        read: read.into(),
    };
    for (name, scheme, header, expected) in [
        (
            "another header",
            plain,
            ("Authorization", "Bearer tok-secret"),
            elsewhere("authorization", "`x-tok`"),
        ),
        (
            "a word before it",
            plain,
            ("X-Tok", "Bearer tok-secret"),
            Difference::TokenPrefixAdded("Bearer"),
        ),
        (
            "no word before it",
            bearer,
            ("Authorization", "tok-secret"),
            Difference::TokenPrefixMissing("Bearer ".into()),
        ),
        (
            "another header, as it is",
            bearer,
            ("X-Tok", "tok-secret"),
            elsewhere("x-tok", "`authorization`"),
        ),
    ] {
        let request = headers(&[header]);
        let verdict = super::explain(&[custom(scheme)], &Request::new(&request, b"{}"), &[token()], NOW);
        assert_eq!(differences(&verdict), [expected], "{name}");
    }
    let request = headers(&[("Authorization", "Bearer tok-secret")]);
    let verdict = super::explain(
        &[custom("header = \"X-Sig\"\nsigned = \"a{body}\"")],
        &Request::new(&request, b"{}"),
        &[token()],
        NOW,
    );
    assert_eq!(differences(&verdict), [Difference::SecretSent]);
}

#[test]
fn a_time_in_another_unit_is_the_culprit() {
    let acme = custom(
        "header = \"X-Sig\"\nlist = \",\"\ntag_separator = \"=\"\ntags = [\"v1\"]\nsigned = \"{timestamp}.{body}\"\n\
         timestamp = { tag = \"t\", unit = \"s\" }",
    );
    let sent = |time: &str, key: &str| {
        let digest = hex_of(key.as_bytes(), format!("{time}.{{}}").as_bytes());
        let fields = headers(&[("X-Sig", &format!("t={time},v1={digest}"))]);
        let request = Request::new(&fields, b"{}");
        super::explain(
            std::slice::from_ref(&acme),
            &request,
            &[named("main", SECRET)],
            NOW,
        )
    };
    let unit = || Difference::TimeUnit {
        place: "`t` of the signature header".into(),
        wanted: TimeUnit::Seconds,
        found: TimeUnit::Millis,
    };
    let millis = NOW.0.to_string();
    assert_eq!(differences(&sent(&millis, SECRET)), [unit()]);
    let stale = Difference::Stale {
        secs: 3600,
        allowed_secs: 300,
    };
    let hour_ago = (NOW.0 - 3_600_000).to_string();
    assert_eq!(differences(&sent(&hour_ago, SECRET)), [unit(), stale]);
    for (time, says) in [
        (
            &*millis,
            "`t` of the signature header is not seconds, but milliseconds",
        ),
        ("x", "`t` of the signature header is not seconds"),
    ] {
        let Verdict::Unexplained { lacking, .. } = sent(time, "other") else {
            panic!("{time}");
        };
        assert!(lacking.unwrap().contains(says));
    }
}

#[test]
fn what_to_do_fits_the_route() {
    let form = Difference::SecretForm("the secret's text as it is");
    assert!(form.text(None).contains("`key` under `verify`"));
    let text = form.text(Some("gitlab"));
    assert!(
        text.contains("scheme = \"...\"") && text.contains("instead of `provider`"),
        "{text}"
    );
    let ahead = Difference::Stale {
        secs: -3599,
        allowed_secs: 300,
    };
    assert!(!ahead.text(None).contains("old request"));
    let alone = Difference::BodyWith("the body alone".into()).text(None);
    assert_eq!(alone.matches("the body alone").count(), 1, "{alone}");
    let lost = [named("main", &SECRET[6..])];
    let stripe = preset::find("stripe").unwrap();
    let digest = hex_of(SECRET.as_bytes(), b"1763000000.{}");
    let request = headers(&[("stripe-signature", &format!("t=1763000000,v1={digest}"))]);
    let verdict = super::explain(&stripe.schemes, &Request::new(&request, b"{}"), &lost, NOW);
    assert_eq!(differences(&verdict), [Difference::SecretMarkLost]);
}

#[test]
fn another_scheme_of_the_provider_is_no_guess() {
    // Twilio's JSON form covers the URL alone, and so looks like an empty form too.
    let twilio = preset::find("twilio").unwrap();
    let mut draft = Draft {
        public_url: Some("https://hooks.example.com/in".to_owned()),
        query: None,
        headers: Vec::new(),
        body: b"{\"a\":1}".to_vec(),
    };
    let json = twilio.scheme(Some("json")).unwrap();
    let key = json.key(&SecretText::new(SECRET.into())).unwrap();
    json.sign(&Signer::Secret(&key), &mut draft, NOW).unwrap();
    let pairs: Vec<(&str, &str)> = draft
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let fields = headers(&pairs);
    let request = Request {
        public_url: draft.public_url.as_deref(),
        query: draft.query.as_deref(),
        ..Request::new(&fields, &draft.body)
    };
    let verdict = super::explain(&twilio.schemes[..1], &request, &[named("main", SECRET)], NOW);
    assert_eq!(differences(&verdict), [Difference::OtherScheme("json".into())]);
}

#[test]
fn schemes_that_are_code_say_what_they_lack() {
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (provider, sent, body, expected) in [
        (
            "plivo",
            &[("x-plivo-signature-v3", "a"), ("x-plivo-signature-v3-nonce", "1")][..],
            "{}",
            Some("not a form"),
        ),
        (
            "plivo",
            &[("x-plivo-signature-v3", "a"), form],
            "a=b",
            Some("x-plivo-signature-v3-nonce"),
        ),
        (
            "plivo",
            &[
                ("x-plivo-signature-v3", "a"),
                ("x-plivo-signature-v3-nonce", "1"),
                form,
            ],
            "a=b",
            None,
        ),
        (
            "contentful",
            &[("x-contentful-signature", "a")],
            "{}",
            Some("x-contentful-"),
        ),
        (
            "paypal",
            &[("paypal-transmission-sig", "a")],
            "{}",
            Some("the header paypal-"),
        ),
        ("braintree", &[form], "bt_payload=YQ%3D%3D", Some("bt_signature")),
        ("aws-sns", &[], "{}", Some("raw message delivery")),
    ] {
        let fields = headers(sent);
        let request = Request {
            public_url: Some("https://a.example/in"),
            ..Request::new(&fields, body.as_bytes())
        };
        let schemes = &preset::find(provider).unwrap().schemes;
        match super::explain(schemes, &request, &[named("main", "a:b")], NOW) {
            Verdict::Unexplained { lacking, .. } => match (lacking, expected) {
                (Some(text), Some(expected)) => assert!(text.contains(expected), "{provider}: {text}"),
                (lacking, expected) => assert_eq!(lacking.as_deref(), expected, "{provider}"),
            },
            other => panic!("{provider}: {other:?}"),
        }
    }
}

/// A request as a vector has it.
fn of_vector<R>(vector: &preset::Vector, then: impl FnOnce(&Request<'_>, Timestamp) -> R) -> R {
    let pairs: Vec<(&str, &str)> = vector
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let fields = headers(&pairs);
    let url = vector.url.as_deref().unwrap_or("https://hooks.example.com/hooks");
    let (url, query) = url
        .split_once('?')
        .map_or((url, None), |(url, query)| (url, Some(query)));
    let request = Request {
        method: &vector.method,
        public_url: Some(url),
        query,
        ..Request::new(&fields, vector.body.as_bytes())
    };
    then(
        &request,
        vector.now_secs.map_or(NOW, |secs| Timestamp(secs * 1000)),
    )
}

#[test]
fn a_wrong_secret_is_called_one_whatever_other_schemes_there_are() {
    const WRONG: [&str; 3] = [
        "another-secret-of-some-length",
        "00112233445566778899aabbccddeeff",
        "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    ];
    let mut seen = 0;
    for preset in preset::all() {
        for vector in preset.vectors.iter().filter(|vector| vector.valid) {
            let scheme = preset.scheme(vector.scheme.as_deref()).unwrap();
            if matches!(scheme.rule, Rule::Coded(_)) || scheme.has_public_key() {
                continue;
            }
            let wrong = WRONG
                .into_iter()
                .find(|wrong| scheme.key(&SecretText::new((*wrong).into())).is_ok());
            let wrong = wrong.unwrap_or("user:another-password");
            let verdict = of_vector(vector, |request, now| {
                super::explain(&preset.schemes, request, &[named("main", wrong)], now)
            });
            match verdict {
                Verdict::Unexplained { error, lacking, .. } => {
                    let name = format!("{} ({})", preset.name, scheme.name);
                    assert_eq!((error, lacking), (SignatureError::Mismatch, None), "{name}");
                    seen += 1;
                }
                other => panic!("{} ({}): {other:?}", preset.name, scheme.name),
            }
        }
    }
    assert!(seen > 150, "{seen}");
}

#[test]
fn another_sender_is_named_whatever_it_has_in_common_with_ours() {
    let mut unnamed = Vec::new();
    for preset in preset::all() {
        let Some(vector) = preset.vectors.iter().find(|vector| vector.valid) else {
            continue;
        };
        let scheme = preset.scheme(vector.scheme.as_deref()).unwrap();
        let github = preset::find("github").unwrap();
        let is_alike = preset
            .schemes
            .iter()
            .any(|theirs| github.schemes.contains(theirs));
        if matches!(scheme.rule, Rule::Coded(_)) || scheme.sends_secret() || is_alike {
            continue;
        }
        let verdict = of_vector(vector, |request, now| {
            super::explain(&github.schemes, request, &[named("main", &vector.secret)], now)
        });
        let named = match &verdict {
            Verdict::Differs { differences, .. } => differences.iter().any(|difference| match difference {
                Difference::OtherProvider(others) => {
                    others.iter().any(|other| *other.name == *preset.name.as_str())
                }
                _ => false,
            }),
            // Intercom signs as GitHub once did.
            Verdict::Match { .. } => true,
            Verdict::Unexplained { .. } => false,
        };
        if !named {
            unnamed.push(format!("{}: {verdict:?}", preset.name));
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:#?}");
}

#[test]
fn of_many_that_sign_alike_the_standard_comes_first() {
    let clerk = preset::find("standard-webhooks").unwrap();
    let vector = clerk.vectors.iter().find(|vector| vector.valid).unwrap();
    let verdict = of_vector(vector, |request, now| {
        let svix = &preset::find("slack").unwrap().schemes;
        super::explain(svix, request, &[named("main", &vector.secret)], now)
    });
    let [Difference::OtherProvider(others)] = &*differences(&verdict) else {
        panic!("{verdict:?}");
    };
    assert_eq!(&*others[0].name, "standard-webhooks");
    assert!(
        others.iter().any(|other| &*other.name == "incident-io"),
        "{others:?}"
    );
    let text = differences(&verdict)[0].text(Some("slack"));
    assert!(
        text.contains("provider = \"standard-webhooks\" (these sign alike: `"),
        "{text}"
    );
}

#[test]
fn what_a_token_claims_is_told() {
    let rule = |more: &str| {
        let text = format!("algorithm = \"jws\"\nheader = \"x-token\"\n{more}");
        toml::from_str::<SchemeText>(&text).unwrap().build().unwrap()
    };
    let strict =
        rule("[jws]\nalgorithms = [\"HS256\"]\nissuer = [\"them\"]\naudience = \"us\"\nmax_age = \"5m\"");
    let token = |payload: &str, key: &[u8]| {
        let head = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}");
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(payload));
        let tag = Key::new(key).unwrap().tag(&[signed.as_bytes()]);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let iat = NOW.0 / 1000;
    for (payload, key, expected) in [
        (
            format!("{{\"iat\":{iat},\"iss\":\"them\",\"aud\":\"others\"}}"),
            SECRET,
            "claim \"aud\"",
        ),
        (
            format!("{{\"iat\":{iat},\"iss\":\"me\",\"aud\":\"us\"}}"),
            SECRET,
            "claim \"iss\"",
        ),
        (
            "{\"iss\":\"them\",\"aud\":\"us\"}".to_owned(),
            SECRET,
            "no claim \"iat\"",
        ),
        (
            format!("{{\"iat\":{},\"iss\":\"them\",\"aud\":\"us\"}}", iat - 900),
            SECRET,
            "outside the allowed time",
        ),
        (
            format!("{{\"iat\":{iat},\"iss\":\"them\",\"aud\":\"us\"}}"),
            "another",
            "does not match under any key",
        ),
    ] {
        let token = token(&payload, key.as_bytes());
        let fields = headers(&[("x-token", &token)]);
        let request = Request::new(&fields, b"{}");
        match super::explain(
            std::slice::from_ref(&strict),
            &request,
            &[named("main", SECRET)],
            NOW,
        ) {
            Verdict::Unexplained { lacking, .. } => {
                assert!(
                    lacking.as_deref().is_some_and(|text| text.contains(expected)),
                    "{lacking:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
