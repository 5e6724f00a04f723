//! Every preset of the catalogue: its vectors, what must be refused around each of them, and its samples.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::coded::jws::KeySet;
use hooklatch::provider::encoding::Encoding;
use hooklatch::provider::fetched::Fetched;
use hooklatch::provider::identify::identify;
use hooklatch::provider::preset::{self, Preset, Vector};
use hooklatch::provider::sample;
use hooklatch::provider::scheme::{Request, Scheme};
use hooklatch::provider::sign::{Draft, SignError, Signer};
use hooklatch::provider::signature::{LiveKey, SignatureError};
use hooklatch::secret::SecretText;

const NOW: Timestamp = Timestamp(1_763_000_000_000);
const DAY_MILLIS: i64 = 86_400_000;

/// A request that may be spoilt in every way.
#[derive(Clone)]
struct Sent {
    fetched: Option<String>,
    method: String,
    url: Option<String>,
    query: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Sent {
    fn of(vector: &Vector) -> Self {
        let (url, query) = split(vector.url.as_deref());
        let bytes = |(name, value): &(String, String)| (name.clone(), value.clone().into_bytes());
        Self {
            fetched: vector.fetched.clone(),
            method: vector.method.clone(),
            url,
            query,
            headers: vector.headers.iter().map(bytes).collect(),
            body: vector.body.clone().into_bytes(),
        }
    }

    fn check(&self, scheme: &Scheme, secret: &str, now: Timestamp) -> Result<(), SignatureError> {
        let fetched = self.fetched.as_deref().map(|text| match text.starts_with('{') {
            true => Fetched::KeySet(Arc::new(KeySet::from_json(text.as_bytes()).unwrap())),
            false => Fetched::Certificate(STANDARD.decode(text).unwrap().into()),
        });
        let key = scheme
            .key(&SecretText::new(secret.into()))
            .map_err(|_| SignatureError::Mismatch)?;
        let keys = [LiveKey {
            name: SecretName::new("main"),
            key,
            until: None,
        }];
        let pairs = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), &**value));
        let fields = Fields::from_pairs(pairs);
        let request = Request {
            method: &self.method,
            public_url: self.url.as_deref(),
            query: self.query.as_deref(),
            ..Request::new(&fields, &self.body)
        };
        let claim = scheme.claim(&request)?;
        scheme
            .check(&claim, &keys, now, &request, fetched.as_ref())
            .map(drop)
    }

    /// With the values of the signature's headers changed.
    fn with_signature(&self, scheme: &Scheme, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let mut sent = self.clone();
        for (name, value) in &mut sent.headers {
            if scheme.reads_header(name) {
                *value = change(value);
            }
        }
        sent
    }

    fn without_signature(&self, scheme: &Scheme) -> Self {
        let mut sent = self.clone();
        sent.headers.retain(|(name, _)| !scheme.reads_header(name));
        sent
    }
}

fn split(url: Option<&str>) -> (Option<String>, Option<String>) {
    match url.map(|url| url.split_once('?').unwrap_or((url, ""))) {
        Some((url, "")) => (Some(url.to_owned()), None),
        Some((url, query)) => (Some(url.to_owned()), Some(query.to_owned())),
        None => (None, None),
    }
}

fn now(vector: &Vector) -> Timestamp {
    vector.now_secs.map_or(NOW, |secs| Timestamp(secs * 1000))
}

fn valid_vectors() -> impl Iterator<Item = (&'static Preset, &'static Scheme, &'static Vector)> {
    preset::all().iter().flat_map(|preset| {
        let valid = preset.vectors.iter().filter(|vector| vector.valid);
        valid.map(move |vector| (preset, preset.scheme(vector.scheme.as_deref()).unwrap(), vector))
    })
}

#[test]
fn the_catalogue_is_large_and_every_preset_has_its_facts() {
    let count = preset::all().len();
    assert!(count >= 150, "{count}");
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(&format!("Presets for [{count} senders]")),
        "README.md does not say {count}"
    );
    for preset in preset::all() {
        let name = &preset.name;
        assert!(!preset.sources.is_empty(), "{name}");
        assert!(!preset.notes.is_empty(), "{name}");
        assert!(!preset.samples.is_empty(), "{name} has no sample");
        for scheme in &preset.schemes {
            let is_its = |vector: &&Vector| match &vector.scheme {
                Some(named) => **named == *scheme.name,
                None => preset
                    .schemes
                    .first()
                    .is_some_and(|first| first.name == scheme.name),
            };
            let mut valid = preset.vectors.iter().filter(|vector| vector.valid);
            assert!(
                valid.any(|vector| is_its(&vector)),
                "{name}: {} has no vector",
                scheme.name
            );
        }
    }
}

/// What ngrok's verify-webhook action lists (its documentation of August 2026).
#[test]
fn every_identifier_of_ngrok_is_known() {
    for line in include_str!("catalogue/ngrok.txt").lines() {
        assert!(preset::find(line).is_some(), "{line}");
    }
}

#[test]
fn every_vector_has_its_verdict() {
    for preset in preset::all() {
        for vector in &preset.vectors {
            let scheme = preset.scheme(vector.scheme.as_deref()).unwrap();
            let got = Sent::of(vector).check(scheme, &vector.secret, now(vector));
            assert_eq!(
                got.is_ok(),
                vector.valid,
                "{}, {}: {got:?}",
                preset.name,
                vector.about
            );
        }
    }
}

#[test]
fn each_valid_vector_fails_with_anything_else_about_it() {
    for (preset, scheme, vector) in valid_vectors() {
        let name = format!("{}, {}, {}", preset.name, scheme.name, vector.about);
        let good = Sent::of(vector);
        let check = |sent: &Sent| sent.check(scheme, &vector.secret, now(vector));
        for secret in [
            format!("{}x", vector.secret),
            format!("x{}", vector.secret),
            vector.secret.chars().rev().collect(),
        ] {
            // Text around a PEM block does not count: there a digit of the key is changed.
            let secret = match vector.secret.contains("-----BEGIN") {
                true => vector.secret.replacen("Q", "R", 40),
                false => secret,
            };
            if secret != vector.secret && !scheme.is_fetched() {
                let got = good.check(scheme, &secret, now(vector));
                assert!(got.is_err(), "{name}: another secret");
            }
        }
        if scheme.covers_body() && !scheme.sends_secret() {
            for at in 0..good.body.len() {
                let mut changed = good.clone();
                changed.body[at] ^= 1;
                assert!(check(&changed).is_err(), "{name}: byte {at} was changed");
            }
            let mut longer = good.clone();
            longer.body.push(b'0');
            assert!(check(&longer).is_err(), "{name}: a longer body");
        }
        if scheme.headers().is_empty() {
            continue;
        }
        assert_eq!(
            check(&good.without_signature(scheme)),
            Err(SignatureError::Missing),
            "{name}"
        );
        for (what, spoilt) in [
            ("empty", good.with_signature(scheme, |_| Vec::new())),
            ("blank", good.with_signature(scheme, |_| b" ".to_vec())),
            (
                "truncated",
                good.with_signature(scheme, |value| value[..value.len() / 4].to_vec()),
            ),
            (
                "one byte short",
                // Of a list that would be the last one only.
                good.with_signature(scheme, |value| match value.trim_ascii() {
                    _ if scheme.has_list() => Vec::new(),
                    [start @ .., b'=', b'='] | [start @ .., b'='] => start[..start.len() - 1].to_vec(),
                    value => value[..value.len().saturating_sub(1)].to_vec(),
                }),
            ),
            (
                "not ASCII",
                good.with_signature(scheme, |value| [value, b"\xa0"].concat()),
            ),
        ] {
            assert!(check(&spoilt).is_err(), "{name}: {what} was accepted");
        }
        let mut doubled = good.clone();
        doubled.headers.extend(good.headers.clone());
        let expected = match scheme.takes_repeated_header() {
            true => Ok(()),
            false => Err(SignatureError::Repeated),
        };
        assert_eq!(check(&doubled), expected, "{name}: doubled");
        let upper = good.with_signature(scheme, <[u8]>::to_ascii_uppercase);
        match scheme.encoding() {
            // Tags and times are read as they are written; the digest of a bare value is not.
            Some(Encoding::Hex) if !scheme.has_list() => {
                assert_eq!(check(&upper), Ok(()), "{name}: upper-case hex");
            }
            // Tags are compared with their case, digests are not; either form is told apart by length.
            Some(Encoding::Hex | Encoding::HexOrBase64) => {}
            Some(_) if upper.headers != good.headers => {
                assert!(check(&upper).is_err(), "{name}: upper-case");
            }
            _ => {}
        }
    }
}

#[test]
fn signed_times_have_a_window_with_two_sides() {
    let mut seen = 0;
    for (preset, scheme, vector) in valid_vectors() {
        let Some(tolerance) = scheme.tolerance() else {
            continue;
        };
        seen += 1;
        let good = Sent::of(vector);
        let at = |offset_millis: i64| {
            let now = Timestamp(now(vector).0 + offset_millis);
            good.check(scheme, &vector.secret, now)
        };
        let far = i64::try_from(tolerance.as_millis()).unwrap() + DAY_MILLIS;
        let name = format!("{}, {}", preset.name, vector.about);
        assert_eq!(at(far), Err(SignatureError::Stale), "{name}: stale");
        assert_eq!(at(-far), Err(SignatureError::Stale), "{name}: from the future");
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_sample_is_signed_as_its_provider_would_and_recognised() {
    for preset in preset::all() {
        for (seed, sample) in (0..).zip(&preset.samples) {
            let name = format!("{}, {}", preset.name, sample.event_type);
            let body = sample::fill(&sample.body, seed, NOW);
            for left in ["{id}", "{uuid}", "{number}", "{time}", "{unix}", "{unix_ms}"] {
                assert!(!body.contains(left), "{name}");
            }
            let mut draft = Draft {
                public_url: Some("https://hooks.example.com/hooks".to_owned()),
                query: None,
                headers: [
                    vec![("content-type".to_owned(), sample.content_type.clone())],
                    sample::fill_headers(&sample.headers, seed, NOW),
                ]
                .concat(),
                body: body.into_bytes(),
            };
            if let Some(header) = &preset.identify.type_header
                && !draft.headers.iter().any(|(known, _)| **known == **header)
            {
                draft
                    .headers
                    .push((header.to_string(), sample.event_type.clone()));
            }
            if let Some(scheme) = preset.schemes.first()
                && let Some(secret) = preset
                    .vectors
                    .iter()
                    .find(|vector| vector.valid)
                    .map(|vector| &vector.secret)
            {
                let text = SecretText::new(secret.clone().into_bytes());
                let key = scheme.key(&text).unwrap();
                match scheme.sign(&Signer::Secret(&key), &mut draft, NOW) {
                    Ok(()) => {
                        let sent = Sent {
                            fetched: None,
                            method: "POST".to_owned(),
                            url: draft.public_url.clone(),
                            query: draft.query.clone(),
                            headers: draft
                                .headers
                                .iter()
                                .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
                                .collect(),
                            body: draft.body.clone(),
                        };
                        assert_eq!(sent.check(scheme, secret, NOW), Ok(()), "{name}");
                    }
                    Err(SignError::NeedsPrivateKey | SignError::OnlyProvider(_)) => {}
                    Err(error) => panic!("{name}: {error}"),
                }
            }
            let pairs = draft
                .headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let fields = Fields::from_pairs(pairs);
            let request = Request {
                query: draft.query.as_deref(),
                ..Request::new(&fields, &draft.body)
            };
            let read = identify(&preset.identify, &request);
            if preset.identify.has_type() {
                assert_eq!(read.event_type.as_deref(), Some(&*sample.event_type), "{name}");
            }
            assert!(!read.type_conflict, "{name}");
            assert_eq!(read.id.is_some(), preset.identify.has_id(), "{name}: {read:?}");
        }
    }
}

/// Else `send --count` would send one event and its repeats.
#[test]
fn samples_of_one_moment_are_different_events() {
    // These say nothing that differs in life either.
    let alike = [
        ("airtable", "ping"),
        ("asana", "heartbeat"),
        ("plaid", "TRANSFER:TRANSFER_EVENTS_UPDATE"),
        ("strava", "athlete:update"),
        ("webflow", "site_publish"),
    ];
    let mut wrong = Vec::new();
    for preset in preset::all() {
        for sample in &preset.samples {
            let key = |seed| {
                let body = sample::fill(&sample.body, seed, NOW).into_bytes();
                let mut headers = sample::fill_headers(&sample.headers, seed, NOW);
                headers.push(("content-type".to_owned(), sample.content_type.clone()));
                let fields = Fields::from_pairs(
                    headers
                        .iter()
                        .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
                );
                identify(&preset.identify, &Request::new(&fields, &body))
                    .id
                    .map_or(body.clone(), |id| id.as_bytes().to_vec())
            };
            // An id in a header that is signed is drawn while signing.
            let is_drawn = preset.identify.id_places.as_ref().is_some_and(|places| {
                let mut headers = places.headers();
                headers.any(|name| {
                    preset
                        .schemes
                        .iter()
                        .any(|scheme| scheme.vouches_for_header(name))
                })
            });
            let name = (preset.name.as_str(), &*sample.event_type);
            if key(1) == key(2) && !is_drawn && !alike.contains(&name) {
                wrong.push(format!("{name:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn handshakes_answer_what_is_asked_and_sign_nothing_that_is_an_event() {
    let mut signing = 0;
    for preset in preset::all() {
        for handshake in &preset.handshakes {
            for body in [
                &b"{\"id\":\"evt_1\",\"type\":\"a\"}"[..],
                b"hmacsha256={}",
                b"v0:1:{}",
            ] {
                assert!(!handshake.may_have_signed(body), "{}", preset.name);
            }
            signing += usize::from(handshake.may_have_signed(b"5b3a2a3e-1111-4222-8333-444444444444"));
        }
    }
    assert!(signing >= 2, "X and LinkedIn sign tokens for anybody: {signing}");
}

/// `make docs` writes it.
#[test]
fn the_page_of_all_providers_says_what_the_files_say() {
    let output = std::process::Command::new(crate::support::binary())
        .args(["providers", "page"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let page = include_str!("../../docs/providers.md");
    assert!(
        output.stdout == page.as_bytes(),
        "docs/providers.md is old: run `make docs`"
    );
}

/// Whatever is done to a genuine request of any preset: no panic, and nothing is accepted whose covered body has changed.
#[test]
fn damaged_requests_of_every_preset_are_refused_or_unchanged() {
    let seed = crate::support::seed("catalogue: damaged requests");
    let mut random = fastrand::Rng::with_seed(seed);
    let vectors: Vec<_> = valid_vectors().collect();
    let rounds = crate::support::rounds(40_000, 2_000_000);
    let mut accepted = 0;
    for _ in 0..rounds {
        let (preset, scheme, vector) = vectors[random.usize(..vectors.len())];
        let good = Sent::of(vector);
        let mut sent = good.clone();
        for _ in 0..random.usize(1..4) {
            damage(&mut sent, &mut random);
        }
        if sent.check(scheme, &vector.secret, now(vector)).is_ok() {
            accepted += 1;
            let covered = scheme.covers_body() && !scheme.sends_secret();
            // A form is signed as what it says, and Adyen and Mailgun sign a few of its values.
            let form = matches!(
                preset.name.as_str(),
                "twilio" | "mandrill" | "plivo" | "braintree"
            );
            assert!(
                !covered || form || sent.body == good.body,
                "{}, seed {seed}",
                preset.name
            );
        }
    }
    assert!(
        accepted > 0 && accepted < rounds * 3 / 4,
        "{accepted} of {rounds}"
    );
}

fn damage(sent: &mut Sent, random: &mut fastrand::Rng) {
    let bytes = |text: &mut Vec<u8>, random: &mut fastrand::Rng| {
        let at = random.usize(..=text.len());
        match random.u8(..5) {
            0 => text.truncate(at),
            1 => text.insert(at, random.u8(..)),
            2 if at < text.len() => text[at] ^= 1 << random.u8(..8),
            3 => text.extend_from_within(at..),
            _ => drop(text.splice(at..at, *b",=;. {}\"\\%\xff\0")),
        }
    };
    let headers = sent.headers.len();
    match random.u8(..6) {
        0 => bytes(&mut sent.body, random),
        1 | 2 if headers > 0 => {
            let at = random.usize(..headers);
            bytes(&mut sent.headers[at].1, random);
        }
        3 if headers > 0 => drop(sent.headers.remove(random.usize(..headers))),
        4 if headers > 0 => {
            let copy = sent.headers[random.usize(..headers)].clone();
            sent.headers.push(copy);
        }
        _ => {
            let mut query = sent.query.take().unwrap_or_default().into_bytes();
            bytes(&mut query, random);
            sent.query = Some(String::from_utf8_lossy(&query).into_owned());
        }
    }
}
