//! Plivo's V3 signatures: HMAC-SHA256 over the URL with its query sorted, the sorted form, and a nonce.
//!
//! Names and values are joined without a mark between them, so `a=bc` and `ab=c` sign alike; that is Plivo's form and
//! cannot be mended here. The nonce makes each request's signature its own, but says nothing of its age.
//! Sources: plivo/plivo-python `plivo/utils/signature_v3.py`, plivo/plivo-node `lib/utils/v3Security.js`,
//! docs.plivo.com/docs/voice/concepts/signature-validation

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The signature with the token of the account or subaccount that the request belongs to.
pub const SIGNATURE_HEADER: &str = "x-plivo-signature-v3";
/// The signature with the main account's token.
pub const MAIN_SIGNATURE_HEADER: &str = "x-plivo-signature-ma-v3";
/// The nonce.
pub const NONCE_HEADER: &str = "x-plivo-signature-v3-nonce";

/// Signatures of one header that are tried.
const SIGNATURES_MAX: usize = 20;
const NONCE_BYTES_MAX: usize = 256;
const FIELDS_MAX: usize = 1000;

/// Why a request is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlivoError {
    /// An empty token would let anyone sign.
    #[error("the auth token is empty, so anyone could sign with it; put Plivo's auth token there")]
    Empty,
    /// Neither GET nor POST.
    #[error("the method is neither GET nor POST, the only ones that Plivo signs")]
    Method,
    /// No nonce, or not plain text.
    #[error("the header {NONCE_HEADER} is absent or not plain text")]
    Nonce,
    /// No signature.
    #[error("the header {SIGNATURE_HEADER} is absent")]
    Missing,
    /// The body is no form.
    #[error("the body is not a form (application/x-www-form-urlencoded), the only kind that Plivo signs")]
    NotForm,
    /// More fields than are read.
    #[error("the query or the form has more than {FIELDS_MAX} fields")]
    TooMany,
    /// The URL has a fragment.
    #[error("the URL has a fragment, which is never sent; set public_url without it")]
    Url,
    /// Made with another token, or over another request.
    #[error("the signature does not match the URL and the form; check the auth token and public_url")]
    Mismatch,
}

/// Checks a request. `url` is the public URL as Plivo calls it, with the query that was received.
///
/// # Errors
/// Every [`PlivoError`].
pub fn verify<'h>(
    method: &str,
    url: &str,
    header: &dyn Fn(&str) -> Option<&'h [u8]>,
    body: &[u8],
    token: &[u8],
) -> Result<(), PlivoError> {
    let nonce = header(NONCE_HEADER)
        .filter(|nonce| {
            (1..=NONCE_BYTES_MAX).contains(&nonce.len()) && nonce.iter().all(u8::is_ascii_graphic)
        })
        .and_then(|nonce| std::str::from_utf8(nonce).ok())
        .ok_or(PlivoError::Nonce)?;
    let form = match method {
        "GET" => &b""[..],
        "POST" => body,
        _ => return Err(PlivoError::Method),
    };
    // A body that is read as something else, or of a GET, would ride along unsigned.
    let is_form = header("content-type").is_some_and(is_form_type);
    if (method == "GET" && !body.is_empty()) || (!form.is_empty() && !is_form) {
        return Err(PlivoError::NotForm);
    }
    let headers = [header(SIGNATURE_HEADER), header(MAIN_SIGNATURE_HEADER)];
    if headers.iter().all(Option::is_none) {
        return Err(PlivoError::Missing);
    }
    let mac = mac(token)?.chain_update(signed_text(url, form, nonce)?);
    let matches = |value: &[u8]| {
        let tag = STANDARD.decode(value.trim_ascii());
        tag.is_ok_and(|tag| mac.clone().verify_slice(&tag).is_ok())
    };
    let mut signatures = headers
        .into_iter()
        .flatten()
        .flat_map(|value| value.split(|byte| *byte == b',').take(SIGNATURES_MAX));
    if signatures.any(matches) {
        Ok(())
    } else {
        Err(PlivoError::Mismatch)
    }
}

/// The value of [`SIGNATURE_HEADER`] for a request; `form` is empty for a GET.
///
/// # Errors
/// `Empty`, `TooMany` or `Url`.
pub fn sign(url: &str, form: &[u8], nonce: &str, token: &[u8]) -> Result<String, PlivoError> {
    let mac = mac(token)?.chain_update(signed_text(url, form, nonce)?);
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

/// The text that is signed.
fn signed_text(url: &str, form: &[u8], nonce: &str) -> Result<String, PlivoError> {
    if url.contains('#') {
        return Err(PlivoError::Url);
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let query = sorted(query.as_bytes())?;
    let form = sorted(form)?;
    let mut text = base.to_owned();
    if !query.is_empty() || !form.is_empty() {
        text.push('?');
    }
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    text.push_str(&pairs.join("&"));
    if !query.is_empty() && !form.is_empty() {
        text.push('.');
    }
    for (name, value) in &form {
        text.push_str(name);
        text.push_str(value);
    }
    text.push('.');
    text.push_str(nonce);
    Ok(text)
}

/// Decoded, by name and then by value, both by their characters' numbers.
fn sorted(fields: &[u8]) -> Result<Vec<(String, String)>, PlivoError> {
    let fields = form_urlencoded::parse(fields).into_owned();
    let mut fields: Vec<_> = fields.take(FIELDS_MAX + 1).collect();
    if fields.len() > FIELDS_MAX {
        return Err(PlivoError::TooMany);
    }
    fields.sort_unstable();
    Ok(fields)
}

fn is_form_type(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii()
        .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn mac(token: &[u8]) -> Result<Hmac<Sha256>, PlivoError> {
    if token.is_empty() {
        return Err(PlivoError::Empty);
    }
    Hmac::new_from_slice(token).map_err(|_| PlivoError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &[u8] = b"my_auth_token";
    const FORM: &str = "application/x-www-form-urlencoded";
    const CALL: &str = "To=%2B15555555555&From=%2B1415&Digits=&CallUUID=97ceeb52";

    /// Made with Python, following plivo-python.
    const SIGNED: [(&str, &str, &str, &str, &str); 5] = [
        (
            "GET",
            "GET",
            "/answer",
            "",
            "0yCSTcpk0g5MyH+eKhYi02RUlMZ/VPnJKABuBXoajUc=",
        ),
        (
            "GET, query sorted and decoded",
            "GET",
            "/answer?foo=b%20c&bar=2&foo=a&e=",
            "",
            "l6/Ik5IBr938ajLmnJC2yI370iduOXG6504mXLcz86w=",
        ),
        (
            "POST, query and form",
            "POST",
            "/abcd?foo=bar",
            CALL,
            "ZVJ0MI6clUqFj7a2gJQ1jGSmJIR110lHHrRP+kJyQ2s=",
        ),
        (
            "POST, form alone",
            "POST",
            "/abcd",
            "b=2&a=%C3%A9+x&b=1",
            "JBbb9A2hf0jULPb5+wZgxgG+pEUe5uj4Yhb/Q5fJj0g=",
        ),
        (
            "POST, query alone",
            "POST",
            "/abcd?z=1",
            "",
            "1QcheVpbBHJ4QRyrNlegKILx3iuINW+GUdUhkmYWOZQ=",
        ),
    ];

    fn check(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<(), PlivoError> {
        let url = format!("https://example.com{path}");
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.as_bytes())
        };
        verify(method, &url, &header, body.as_bytes(), TOKEN)
    }

    #[test]
    fn signed_requests() {
        for (name, method, path, body, signature) in SIGNED {
            let of = |signature: &str| {
                let headers = [
                    ("content-type", FORM),
                    (NONCE_HEADER, "12345"),
                    (SIGNATURE_HEADER, signature),
                ];
                check(method, path, &headers, body)
            };
            assert_eq!(of(signature), Ok(()), "{name}");
            assert_eq!(of(&format!("AAAA, {signature}")), Ok(()), "{name}, one of two");
            assert_eq!(
                of(&format!("{},{signature}", "A,".repeat(19))),
                Err(PlivoError::Mismatch),
                "{name}"
            );
            assert_eq!(
                of(&signature[1..]),
                Err(PlivoError::Mismatch),
                "{name}, a digit short"
            );
            assert_eq!(of(""), Err(PlivoError::Mismatch), "{name}, blank");
            let url = format!("https://example.com{path}");
            assert_eq!(
                sign(&url, body.as_bytes(), "12345", TOKEN).as_deref(),
                Ok(signature),
                "{name}"
            );
            assert_ne!(
                sign(&url, body.as_bytes(), "12346", TOKEN).as_deref(),
                Ok(signature),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_refused() {
        let (_, _, path, _, signature) = SIGNED[2];
        let good = [
            ("content-type", FORM),
            (NONCE_HEADER, "12345"),
            (SIGNATURE_HEADER, signature),
        ];
        let charset = "Application/X-WWW-Form-Urlencoded; charset=utf-8";
        let main = [
            ("content-type", charset),
            (NONCE_HEADER, "12345"),
            (MAIN_SIGNATURE_HEADER, signature),
        ];
        let json = [("content-type", "application/json"), good[1], good[2]];
        let blank = [good[0], (NONCE_HEADER, "1 2"), good[2]];
        for (name, method, path, headers, body, expected) in [
            ("good", "POST", path, &good[..], CALL, Ok(())),
            ("the main account's", "POST", path, &main, CALL, Ok(())),
            (
                "another method",
                "PUT",
                path,
                &good,
                CALL,
                Err(PlivoError::Method),
            ),
            (
                "a GET with a body",
                "GET",
                path,
                &good,
                CALL,
                Err(PlivoError::NotForm),
            ),
            (
                "another type",
                "POST",
                path,
                &json,
                CALL,
                Err(PlivoError::NotForm),
            ),
            (
                "no type",
                "POST",
                path,
                &good[1..],
                CALL,
                Err(PlivoError::NotForm),
            ),
            ("no nonce", "POST", path, &good[..1], CALL, Err(PlivoError::Nonce)),
            (
                "a nonce of two words",
                "POST",
                path,
                &blank,
                CALL,
                Err(PlivoError::Nonce),
            ),
            (
                "no signature",
                "POST",
                path,
                &good[..2],
                CALL,
                Err(PlivoError::Missing),
            ),
            (
                "another query",
                "POST",
                "/abcd?foo=baz",
                &good,
                CALL,
                Err(PlivoError::Mismatch),
            ),
            (
                "another body",
                "POST",
                path,
                &good,
                &CALL[..50],
                Err(PlivoError::Mismatch),
            ),
            (
                "a fragment",
                "POST",
                "/abcd?foo=bar#a",
                &good,
                CALL,
                Err(PlivoError::Url),
            ),
            (
                "too many fields",
                "POST",
                path,
                &good,
                &"a&".repeat(1001),
                Err(PlivoError::TooMany),
            ),
        ] {
            assert_eq!(check(method, path, headers, body), expected, "{name}");
        }
        assert_eq!(
            sign("https://example.com/", b"", "1", b""),
            Err(PlivoError::Empty)
        );
    }
}
