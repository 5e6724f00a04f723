//! Signature headers against bodies, under every preset and every form of scheme.
//!
//! The input says how requests are signed and then spoilt; a reader of our own with an HMAC of our own says which of them
//! may be accepted.

use std::sync::LazyLock;

use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::body_hmac::BodyHmac;
use hooklatch::provider::encoding::{Encoding, Prefix};
use hooklatch::provider::key::{KeyForm, SchemeKey};
use hooklatch::provider::preset;
use hooklatch::provider::signature::{LiveKey, SECRETS_MAX, SignatureError};
use hooklatch::secret::SecretText;

use super::hmac::{BASE64, base64, hex, hmac};
use super::input::Input;

/// The clock of every check; the secrets of even number run out around it.
const NOW: Timestamp = Timestamp(1_000);
/// More than a route may have.
const SECRETS: usize = 10;
const HEADERS_MAX: u8 = 5;

struct Case {
    scheme: BodyHmac,
    /// As the product holds them.
    keys: Vec<LiveKey>,
    /// The bytes that sign.
    bytes: Vec<Vec<u8>>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut schemes: Vec<BodyHmac> = preset::all()
        .iter()
        .filter_map(|preset| preset.body_hmac().cloned())
        .collect();
    let prefixes = [
        Prefix::None,
        Prefix::Required("v1,".into()),
        Prefix::Optional("sha256=".into()),
    ];
    for prefix in prefixes {
        for encoding in [Encoding::Hex, Encoding::Base64, Encoding::HexOrBase64] {
            let (headers, key) = (vec!["x-one".into(), "x-two".into()], KeyForm::Whsec);
            let prefix = prefix.clone();
            schemes.push(BodyHmac {
                headers,
                prefix,
                encoding,
                key,
            });
        }
    }
    schemes.into_iter().map(case).collect()
});

fn case(scheme: BodyHmac) -> Case {
    let bytes: Vec<Vec<u8>> = (0..SECRETS)
        .map(|n| format!("secret-{n:03}").repeat(1 + n * 3).into_bytes())
        .collect();
    let keys = bytes.iter().enumerate().map(|(n, bytes)| {
        let text = match scheme.key {
            KeyForm::Utf8 => bytes.clone(),
            KeyForm::Hex => hex(bytes),
            KeyForm::Base64 => base64(bytes),
            KeyForm::Whsec => [b"whsec_", &base64(bytes)[..]].concat(),
            other => panic!("{other:?} is no form of an HMAC's key"),
        };
        LiveKey {
            name: SecretName::new(n.to_string()),
            key: SchemeKey::Hmac(scheme.key.hmac(&SecretText::new(text)).unwrap()),
            until: None,
        }
    });
    Case {
        keys: keys.collect(),
        scheme,
        bytes,
    }
}

/// One execution.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let case = input.choose(&CASES);
    let count = *input.choose(&[1, 1, 2, 2, 3, 3, 9, 10]);
    let expired = input.byte();
    let keys: Vec<LiveKey> = (case.keys.iter().take(count).enumerate())
        .map(|(n, key)| LiveKey {
            until: (n % 2 == 0 && n < 16).then(|| {
                // Run out, running out now, or still good.
                Timestamp(NOW.0 - 1 + i64::from(expired >> (n / 2 % 4 * 2) & 3))
            }),
            ..key.clone()
        })
        .collect();
    let mut recipes = Vec::new();
    for _ in 0..input.byte() % (HEADERS_MAX + 1) {
        recipes.push((input.byte(), Recipe::read(&mut input)));
    }
    let body = input.0;
    let headers: Vec<(Vec<u8>, Vec<u8>)> = recipes
        .iter()
        .map(|(name, recipe)| (header_name(&case.scheme, *name), recipe.value(case, body)))
        .collect();
    let fields = Fields::from_pairs(headers.iter().map(|(name, value)| (&name[..], &value[..])));

    let got = case
        .scheme
        .read(&fields)
        .and_then(|presented| presented.check(&keys, NOW, body).cloned());
    let expected = judge(case, &keys, &headers, body);
    match (&got, &expected) {
        (Ok(name), Ok(n)) => assert_eq!(name.as_str(), n.to_string(), "the secret that matched"),
        (Err(got), Err(expected)) => assert_eq!(got, expected),
        _ => panic!("{got:?}, but it is {expected:?}: {:?} {headers:?}", case.scheme),
    }
    if expired == 0xff {
        let SchemeKey::Hmac(key) = &case.keys[0].key else {
            panic!("not a key of HMAC-SHA256");
        };
        let signed = case.scheme.sign(key, body);
        let fields = Fields::from_pairs([(signed.header.as_bytes(), signed.value.as_bytes())]);
        let presented = case.scheme.read(&fields).expect("what we sign is of the form");
        assert!(
            presented.check(&case.keys[..1], NOW, body).is_ok(),
            "what we sign is good"
        );
    }
}

/// How a header's value is made.
enum Recipe<'a> {
    Literal(&'a [u8]),
    Signed { secret: u8, form: u8, edit: [u8; 3] },
}

impl<'a> Recipe<'a> {
    fn read(input: &mut Input<'a>) -> Self {
        match input.byte() {
            0..=63 => Self::Literal(input.short()),
            secret => Self::Signed {
                secret,
                form: input.byte(),
                edit: [input.byte(), input.byte(), input.byte()],
            },
        }
    }

    fn value(&self, case: &Case, body: &[u8]) -> Vec<u8> {
        let (secret, form, [op, at, byte]) = match *self {
            Self::Literal(value) => return value.to_vec(),
            Self::Signed { secret, form, edit } => (secret, form, edit),
        };
        // Of the last secrets some are no secrets of the route.
        let secret = &case.bytes[usize::from(secret) % SECRETS];
        let tag = hmac(secret, body);
        let digest = match form & 3 {
            0 => hex(&tag),
            1 => hex(&tag).to_ascii_uppercase(),
            2 => base64(&tag),
            _ => base64(&tag)[..43].to_vec(),
        };
        let prefix = case.scheme.prefix.text().unwrap_or("sha256=");
        let prefix = match form >> 2 & 3 {
            0 => String::new(),
            1 => prefix.to_owned(),
            2 => prefix.to_uppercase(),
            _ => prefix.repeat(2),
        };
        let blanks = [&b""[..], b" ", b"\t ", b"\x0b"];
        let (before, after) = (blanks[usize::from(form >> 4 & 3)], blanks[usize::from(form >> 6)]);
        let mut value = [before, prefix.as_bytes(), &digest, after].concat();
        let at = usize::from(at) % value.len();
        match op % 8 {
            0 => value[at] ^= byte,
            1 => drop(value.remove(at)),
            2 => value.insert(at, byte),
            3 => value.truncate(at),
            4 => value.rotate_left(at),
            _ => {}
        }
        value
    }
}

/// One of the scheme's names in some spelling, or another name.
fn header_name(scheme: &BodyHmac, choice: u8) -> Vec<u8> {
    let names: Vec<&str> = scheme.headers.iter().map(|name| &**name).collect();
    let name = match names.get(usize::from(choice & 3)) {
        Some(name) => *name,
        None if choice & 1 == 0 => "x-other-signature",
        None => names[0],
    };
    match choice >> 2 & 3 {
        0 => name.to_uppercase().into_bytes(),
        1 => name.replace('-', "_").into_bytes(),
        _ => name.as_bytes().to_vec(),
    }
}

/// The number of the secret that really signed, by a reading of our own.
fn judge(
    case: &Case,
    keys: &[LiveKey],
    headers: &[(Vec<u8>, Vec<u8>)],
    body: &[u8],
) -> Result<usize, SignatureError> {
    let mut digests = Vec::new();
    for name in &case.scheme.headers {
        let values: Vec<&[u8]> = (headers.iter())
            .filter(|(other, _)| other.to_ascii_lowercase() == name.as_bytes())
            .map(|(_, value)| &value[..])
            .collect();
        if values.len() > 1 {
            return Err(SignatureError::Repeated);
        }
        let Some(value) = values.first() else { continue };
        let inside = |byte: &u8| !matches!(byte, b' ' | b'\t');
        let Some(from) = value.iter().position(inside) else {
            continue;
        };
        let to = value.iter().rposition(inside).unwrap_or(from);
        let digest = decode(&case.scheme, &value[from..=to]).ok_or(SignatureError::Malformed)?;
        if digests.last().is_some_and(|other| *other != digest) {
            return Err(SignatureError::Contradicting);
        }
        digests.push(digest);
    }
    let digest = digests.pop().ok_or(SignatureError::Missing)?;
    (keys.iter().enumerate())
        .filter(|(_, key)| key.until.is_none_or(|until| until > NOW))
        .take(SECRETS_MAX)
        .map(|(n, _)| n)
        .find(|n| hmac(&case.bytes[*n], body)[..] == digest)
        .ok_or(SignatureError::Mismatch)
}

fn decode(scheme: &BodyHmac, value: &[u8]) -> Option<Vec<u8>> {
    let cut = |prefix: &str| {
        let start = value.get(..prefix.len())?;
        let same = start.to_ascii_lowercase() == prefix.to_ascii_lowercase().as_bytes();
        same.then(|| &value[prefix.len()..])
    };
    let digest = match &scheme.prefix {
        Prefix::None => value,
        Prefix::Required(prefix) => cut(prefix)?,
        Prefix::Optional(prefix) => cut(prefix).unwrap_or(value),
    };
    match (scheme.encoding, digest.len()) {
        (Encoding::Hex | Encoding::HexOrBase64, 64) => {
            let digits: Option<Vec<u32>> = digest.iter().map(|byte| char::from(*byte).to_digit(16)).collect();
            Some(
                digits?
                    .chunks(2)
                    .map(|pair| (pair[0] << 4 | pair[1]) as u8)
                    .collect(),
            )
        }
        (Encoding::Base64 | Encoding::HexOrBase64, 43) => from_base64(digest),
        (Encoding::Base64 | Encoding::HexOrBase64, 44) => from_base64(digest.strip_suffix(b"=")?),
        _ => None,
    }
}

/// 43 digits are 258 bits: those above 256 must be 0, or one digest had several spellings.
fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = BASE64.iter().position(|letter| letter == digit)?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(out)
}
