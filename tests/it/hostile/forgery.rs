//! Draws signed requests and changes them; and says, by code of its own, which of them are still genuine.
//!
//! Nothing here is the gateway's: the HMAC is put together from SHA-256 (RFC 2104), the digests are decoded by hand, and
//! the five forms are written down again from the providers' pages.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};

use crate::support::sha256;

/// One provider's form.
pub(super) struct Form {
    pub(super) preset: &'static str,
    headers: &'static [&'static str],
    prefix_required: bool,
    base64: bool,
}

pub(super) const FORMS: [Form; 5] = [
    Form {
        preset: "quantiv",
        headers: &["x-quantiv-signature", "x-webhook-signature"],
        prefix_required: false,
        base64: false,
    },
    Form {
        preset: "quintago",
        headers: &["x-quintago-signature"],
        prefix_required: true,
        base64: false,
    },
    Form {
        preset: "iverton",
        headers: &["x-iverton-signature"],
        prefix_required: true,
        base64: false,
    },
    Form {
        preset: "ltvboost",
        headers: &["x-ltvboost-signature"],
        prefix_required: true,
        base64: false,
    },
    Form {
        preset: "connectgain",
        headers: &["x-webhook-signature"],
        prefix_required: false,
        base64: true,
    },
];

/// The live secrets of a form's route, and one that has run out.
pub(super) struct Secrets {
    pub(super) live: [String; 2],
    pub(super) expired: String,
}

impl Form {
    pub(super) fn secrets(&self) -> Secrets {
        let secret = |name: &str| format!("{}-{name}-0123456789abcdef", self.preset);
        Secrets {
            live: [secret("one"), secret("two")],
            expired: secret("old"),
        }
    }
}

/// A request as far as its signature goes.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// HMAC-SHA256 as RFC 2104 writes it down.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = sha256(&[&block.map(|byte| byte ^ 0x36)[..], message].concat());
    sha256(&[&block.map(|byte| byte ^ 0x5c)[..], &inner].concat())
}

/// A request as the provider would send it.
pub(super) fn genuine(form: &Form, secret: &str, body: Vec<u8>, random: &mut fastrand::Rng) -> Signed {
    let digest = hmac(secret.as_bytes(), &body);
    let text = match form.base64 && random.bool() {
        true => STANDARD.encode(digest),
        false => hex::encode(digest),
    };
    let prefix = if form.prefix_required || random.bool() {
        "sha256="
    } else {
        ""
    };
    let header = form.headers[random.usize(..form.headers.len())];
    Signed {
        headers: vec![(header.as_bytes().to_vec(), format!("{prefix}{text}").into_bytes())],
        body,
    }
}

/// Whether the request carries a signature of its body under a live secret, in the form of its provider.
pub(super) fn is_genuine(form: &Form, secrets: &Secrets, request: &Signed) -> bool {
    let mut digests = Vec::new();
    for header in form.headers {
        let values: Vec<&[u8]> = request
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(header.as_bytes()))
            .map(|(_, value)| trimmed(value))
            .collect();
        match values[..] {
            [] | [b""] => {}
            [value] => digests.push(decode(form, value)),
            _ => return false,
        }
    }
    let Some(Some(first)) = digests.first().copied() else {
        return false;
    };
    digests.iter().all(|digest| *digest == Some(first))
        && secrets
            .live
            .iter()
            .any(|secret| hmac(secret.as_bytes(), &request.body) == first)
}

fn trimmed(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |at| at + 1);
    &value[start..end]
}

fn decode(form: &Form, value: &[u8]) -> Option<[u8; 32]> {
    let has_prefix = value.len() >= 7 && value[..7].eq_ignore_ascii_case(b"sha256=");
    let text = match (has_prefix, form.prefix_required) {
        (true, _) => &value[7..],
        (false, false) => value,
        (false, true) => return None,
    };
    let mut digest = [0; 32];
    if text.len() == 64 {
        for (byte, pair) in digest.iter_mut().zip(text.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        return Some(digest);
    }
    // 32 bytes are 42 and two thirds digits of six bits: 43, the last of them with two zero bits, and perhaps one `=`.
    let digits = match text {
        [digits @ .., b'='] if text.len() == 44 => digits,
        _ if text.len() == 43 => text,
        _ => return None,
    };
    if !form.base64 {
        return None;
    }
    let (mut bits, mut count, mut at) = (0_u32, 0, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            digest[at] = u8::try_from(bits >> count & 0xff).ok()?;
            at += 1;
        }
    }
    (bits & 0b11 == 0).then_some(digest)
}

/// One change: of the body, the value, the header, the secret, the encoding or the construction.
pub(super) fn change(form: &Form, secrets: &Secrets, request: &mut Signed, random: &mut fastrand::Rng) {
    let body = request.body.clone();
    let Some((name, value)) = request.headers.first_mut() else {
        return;
    };
    let at = |length: usize, random: &mut fastrand::Rng| random.usize(..length.max(1));
    let signed =
        |key: &[u8], message: &[u8]| format!("sha256={}", hex::encode(hmac(key, message))).into_bytes();
    let one = &secrets.live[random.usize(..2)];
    match random.u8(..30) {
        0 | 1 if !body.is_empty() => {
            let at = at(body.len(), random);
            request.body[at] ^= 1 << random.u8(..8);
        }
        2 => request.body.truncate(at(body.len(), random)),
        3 => request.body.insert(at(body.len() + 1, random), random.u8(..)),
        4 => request
            .body
            .extend_from_slice([&b"\n"[..], b" ", b"\0", b"\r\n"][random.usize(..4)]),
        5 => request.body.insert(0, [b' ', 0xef, b'\n'][random.usize(..3)]),
        6 | 7 if !value.is_empty() => {
            let at = at(value.len(), random);
            value[at] ^= 1 << random.u8(..8);
        }
        8 if !value.is_empty() => {
            let at = at(value.len(), random);
            value[at] = b"0123456789abcdefABCDEF=,;\" gG"[random.usize(..29)];
        }
        9 => value.insert(at(value.len() + 1, random), random.u8(..)),
        10 if !value.is_empty() => drop(value.remove(at(value.len(), random))),
        11 if !value.is_empty() => {
            let (a, b) = (at(value.len(), random), at(value.len(), random));
            value.swap(a, b);
        }
        12 => value.truncate(at(value.len(), random)),
        13 => value.extend_from_slice([&b"00"[..], b"=", b",", b"zz", b", sha256=00"][random.usize(..5)]),
        14 => {
            let bare = bare(value).to_vec();
            let prefix = [
                "",
                "sha256=",
                "SHA256=",
                "sha1=",
                "sha512=",
                "v1=",
                "sha256:",
                "sha256=sha256=",
            ][random.usize(..8)];
            *value = [prefix.as_bytes(), &bare].concat();
        }
        15 => match random.u8(..3) {
            0 => value.make_ascii_uppercase(),
            1 => value.make_ascii_lowercase(),
            _ => name.make_ascii_uppercase(),
        },
        16 => {
            let blank = [&b" "[..], b"\t", b"\xa0", b"\r", b"\0", b"\x0c"][random.usize(..6)];
            *value = match random.u8(..3) {
                0 => [blank, value].concat(),
                1 => [value, blank].concat(),
                _ => {
                    let (start, end) = value.split_at(at(value.len(), random));
                    [start, blank, end].concat()
                }
            };
        }
        17 => {
            let mut copy = (name.clone(), value.clone());
            match random.u8(..4) {
                0 => copy.0.make_ascii_uppercase(),
                1 => copy.1.clear(),
                2 => copy.1 = signed(b"other", &body),
                _ => {}
            }
            request.headers.insert(random.usize(..2), copy);
        }
        18 => *value = [&value[..], b", ", value].concat(),
        // The second name of a form, with the same digest or another one.
        19 => {
            let second = form.headers[random.usize(..form.headers.len())]
                .as_bytes()
                .to_vec();
            let other = if random.bool() {
                value.clone()
            } else {
                signed(b"other", &body)
            };
            request.headers.push((second, other));
        }
        20 => {
            let other = &FORMS[random.usize(..FORMS.len())];
            *name = match random.u8(..3) {
                0 => other.headers[0].as_bytes().to_vec(),
                1 => name
                    .iter()
                    .map(|byte| if *byte == b'-' { b'_' } else { *byte })
                    .collect(),
                _ => b"x-signature".to_vec(),
            };
        }
        // Another secret.
        21 => {
            let other = FORMS[random.usize(..FORMS.len())].secrets();
            *value = signed(other.live[random.usize(..2)].as_bytes(), &body);
        }
        22 => {
            let secret = match random.u8(..9) {
                0 => secrets.expired.clone(),
                1 => format!("{one}\n"),
                2 => format!(" {one}"),
                3 => one.to_uppercase(),
                4 => hex::encode(one),
                5 => STANDARD.encode(one),
                6 => one[1..].to_owned(),
                7 => format!("whsec_{one}"),
                _ => String::new(),
            };
            *value = signed(secret.as_bytes(), &body);
        }
        // Another encoding of the right digest.
        23 | 24 => {
            let digest = hmac(one.as_bytes(), &body);
            let text = match random.u8(..9) {
                0 => STANDARD.encode(digest),
                1 => STANDARD_NO_PAD.encode(digest),
                2 => URL_SAFE.encode(digest),
                3 => hex::encode(hex::encode(digest)),
                4 => STANDARD.encode(hex::encode(digest)),
                5 => hex::encode(STANDARD.encode(digest)),
                6 => format!("0x{}", hex::encode(digest)),
                7 => hex::encode(digest.iter().rev().copied().collect::<Vec<_>>()),
                _ => hex::encode(&digest[..16]),
            };
            *value = format!("{}{text}", ["sha256=", ""][random.usize(..2)]).into_bytes();
        }
        // Another construction.
        25 | 26 => {
            let digest = match random.u8(..9) {
                0 => sha256(&body),
                1 => sha256(&[one.as_bytes(), &body].concat()),
                2 => sha256(&[&body, one.as_bytes()].concat()),
                3 => hmac(&body, one.as_bytes()),
                4 => hmac(one.as_bytes(), hex::encode(&body).as_bytes()),
                5 => hmac(
                    one.as_bytes(),
                    body.trim_ascii_end().strip_suffix(b"}").unwrap_or(&body),
                ),
                6 => hmac(one.as_bytes(), &hmac(one.as_bytes(), &body)),
                7 => hmac(one.as_bytes(), b""),
                _ => sha256(&hmac(one.as_bytes(), &body)),
            };
            *value = format!("sha256={}", hex::encode(digest)).into_bytes();
        }
        27 => *value = format!("sha256={}", ["0", "f", "F", "a"][random.usize(..4)].repeat(64)).into_bytes(),
        28 => {
            *value = [&b""[..], b" ", b"sha256=", b"null", b"undefined", b"true", b"{}"][random.usize(..7)]
                .to_vec()
        }
        _ => drop(request.headers.remove(0)),
    }
}

/// A value without its prefix.
fn bare(value: &[u8]) -> &[u8] {
    match value.get(..7) {
        Some(prefix) if prefix.eq_ignore_ascii_case(b"sha256=") => &value[7..],
        _ => value,
    }
}
