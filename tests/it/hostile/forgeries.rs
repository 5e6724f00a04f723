//! No changed signature is ever accepted, and every genuine one is: in process a million times, and over sockets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::preset::{self, Preset};
use hooklatch::provider::signature::LiveKey;
use hooklatch::secret::SecretText;

use super::forgery::{FORMS, Form, Secrets, Signed, change, genuine, is_genuine};
use super::rig::Rig;
use super::upstream::is_token;
use crate::support::{Connection, proved, rounds, seed};

const NOW: Timestamp = Timestamp(1_763_000_000_000);

/// What the gateway says of a request.
pub(super) struct Verifier {
    preset: &'static Preset,
    keys: Vec<LiveKey>,
}

impl Verifier {
    pub(super) fn new(form: &Form) -> Self {
        let preset = preset::find(form.preset).unwrap();
        let Secrets { live, expired } = form.secrets();
        let key = |(text, until): (String, Option<i64>)| LiveKey {
            name: SecretName::new("main"),
            key: preset.schemes[0]
                .key(&SecretText::new(text.into_bytes()))
                .unwrap(),
            until: until.map(Timestamp),
        };
        let live = live.into_iter().map(|text| (text, Some(NOW.0 + 1)));
        Self {
            preset,
            keys: std::iter::once((expired, Some(NOW.0)))
                .chain(live)
                .map(key)
                .collect(),
        }
    }

    pub(super) fn accepts(&self, request: &Signed) -> bool {
        let pairs = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
        let fields = Fields::from_pairs(pairs);
        let presented = self.preset.body_hmac().unwrap().read(&fields);
        presented.is_ok_and(|presented| presented.check(&self.keys, NOW, &request.body).is_ok())
    }
}

/// A body that an event of this number could have.
fn body(number: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut body =
        format!("{{\"id\":\"f{number:08}\",\"type\":\"lead.created\",\"event\":\"lead.created\",\"v\":\"")
            .into_bytes();
    body.extend((0..random.usize(..120)).map(|_| random.u8(..)));
    body.extend_from_slice(b"\"}");
    body
}

/// A genuine request, after none to three changes.
fn draw(form: &Form, secrets: &Secrets, number: usize, random: &mut fastrand::Rng) -> Signed {
    let body = body(number, random);
    changed(form, secrets, body, random)
}

fn changed(form: &Form, secrets: &Secrets, body: Vec<u8>, random: &mut fastrand::Rng) -> Signed {
    let secret = &secrets.live[random.usize(..2)];
    let mut request = genuine(form, secret, body, random);
    for _ in 0..random.usize(..4) {
        change(form, secrets, &mut request, random);
    }
    request
}

/// The same with a body that is text, as the providers' samples take it.
pub(super) fn draw_text(form: &Form, secrets: &Secrets, number: usize, random: &mut fastrand::Rng) -> Signed {
    loop {
        let text = String::from_utf8_lossy(&body(number, random)).into_owned();
        let request = changed(form, secrets, text.into_bytes(), random);
        if std::str::from_utf8(&request.body).is_ok() {
            return request;
        }
    }
}

#[test]
fn no_changed_signature_is_ever_accepted() {
    const NAME: &str = "hostile: forged signatures";
    let forgeries = rounds(20_000, 1_000_000);
    let mut random = fastrand::Rng::with_seed(seed(NAME));
    let forms: Vec<_> = FORMS
        .iter()
        .map(|form| (form, form.secrets(), Verifier::new(form)))
        .collect();
    let (mut refused, mut taken, mut number) = (0, 0, 0);
    while refused < forgeries {
        let (form, secrets, verifier) = &forms[random.usize(..forms.len())];
        let request = draw(form, secrets, number, &mut random);
        number += 1;
        let due = is_genuine(form, secrets, &request);
        assert_eq!(verifier.accepts(&request), due, "{}: {request:?}", form.preset);
        if due {
            taken += 1;
        } else {
            refused += 1;
        }
    }
    assert!(taken > forgeries / 10, "{taken} genuine ones");
    proved(
        NAME,
        format!(
            "{refused} forged ones of {} presets, 0 accepted; {taken} genuine ones, 0 refused",
            forms.len()
        ),
    );
}

/// The routes of the five presets, with two live secrets and one that has run out, in both modes.
fn routes() -> (String, String) {
    let (mut secrets, mut routes) = (String::new(), String::new());
    for form in &FORMS {
        let preset = form.preset;
        let Secrets { live, expired } = form.secrets();
        for (name, text) in ["one", "two"].iter().zip(&live) {
            secrets.push_str(&format!("{preset}-{name} = {{ value = \"{text}\" }}\n"));
        }
        secrets.push_str(&format!(
            "{preset}-old = {{ value = \"{expired}\", until = \"2020-01-01T00:00:00Z\" }}\n"
        ));
        for mode in ["queue", "proxy"] {
            routes.push_str(&format!(
                "[[route]]\nname = \"{mode}-{preset}\"\npath = \"/{mode}-{preset}\"\nmode = \"{mode}\"\nprovider = \
                 \"{preset}\"\nsecrets = [\"{preset}-old\", \"{preset}-one\", \"{preset}-two\"]\nupstream = {{ url = \
                 \"http://{{app}}/in\" }}\n"
            ));
        }
    }
    (secrets, routes)
}

/// Whether HTTP has room for such a header (RFC 9110, 5.1 and 5.5).
fn is_sendable(request: &Signed) -> bool {
    let clean = |value: &[u8]| {
        value
            .iter()
            .all(|byte| !byte.is_ascii_control() || *byte == b'\t')
    };
    request
        .headers
        .iter()
        .all(|(name, value)| is_token(name) && clean(value))
}

/// The request as bytes.
fn wire(path: &str, request: &Signed) -> Vec<u8> {
    let mut wire = format!("POST {path} HTTP/1.1\r\nHost: hooks.example\r\n").into_bytes();
    for (name, value) in &request.headers {
        wire.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    wire.extend(format!("Content-Length: {}\r\n\r\n", request.body.len()).into_bytes());
    wire.extend_from_slice(&request.body);
    wire
}

#[test]
fn no_changed_signature_gets_past_a_gateway() {
    const NAME: &str = "hostile: forged signatures over sockets";
    let requests = rounds(500, 50_000);
    let (secrets, routes) = routes();
    let rig = Rig::with_secrets(&secrets, &routes);
    let seed = seed(NAME);
    let next = AtomicUsize::new(0);
    let (taken, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(rig.listen()).unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if refused.load(Ordering::Relaxed) >= requests {
                        return;
                    }
                    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
                    let form = &FORMS[random.usize(..FORMS.len())];
                    let mode = ["queue", "proxy"][random.usize(..2)];
                    let secrets = form.secrets();
                    let request = draw(form, &secrets, number, &mut random);
                    let (genuine, sendable) = (is_genuine(form, &secrets, &request), is_sendable(&request));
                    let path = format!("/{mode}-{}", form.preset);
                    // A genuine one whose body was cut before it was signed may be another's repeat.
                    let own = format!("{{\"id\":\"f{number:08}\"");
                    if genuine && !request.body.starts_with(own.as_bytes()) {
                        continue;
                    }
                    // A header that is none ends the connection, and the rest may not be taken any more.
                    drop(connection.write(&wire(&path, &request)));
                    let response = connection.read_response().unwrap();
                    let good = match (sendable, genuine) {
                        (true, true) => response.status == 200,
                        (true, false) => matches!(response.status, 400 | 401),
                        (false, _) => response.status == 400,
                    };
                    if !good {
                        failed
                            .lock()
                            .unwrap()
                            .push(format!("{} at {path}: {request:?}", response.status));
                    }
                    if response.status == 200 {
                        taken.fetch_add(1, Ordering::Relaxed);
                        rig.expect(request.body, &path, None);
                    } else {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    if response.header("connection") == Some("close") {
                        connection = Connection::open(rig.listen()).unwrap();
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
    let delivered = rig.settle();
    let (taken, refused) = (taken.into_inner(), refused.into_inner());
    assert!(taken > requests / 10, "{taken} genuine ones");
    proved(
        NAME,
        format!(
            "{refused} forged ones, 0 accepted, 0 seen by the upstream; {taken} genuine ones, all accepted; {delivered} delivered byte for byte"
        ),
    );
}
