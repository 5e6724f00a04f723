//! Contentful's request signatures: HMAC-SHA256 over method, path, the headers they list, and body.
//!
//! Source: contentful/node-apps-toolkit `src/requests/sign-request.ts`, `verify-request.ts` and `utils.ts`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The signature, in hex.
pub const SIGNATURE_HEADER: &str = "x-contentful-signature";
/// The names of the signed headers, joined by commas.
pub const SIGNED_HEADERS_HEADER: &str = "x-contentful-signed-headers";
/// Milliseconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-contentful-timestamp";
/// How old a request may be, as in Contentful's toolkit. We take the same span ahead.
pub const TOLERANCE: Duration = Duration::from_secs(30);

const HEADERS_MAX: usize = 64;
const TIMESTAMP_DIGITS_MAX: usize = 15;

/// Why a request is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentfulError {
    /// An empty key would let anyone sign.
    #[error("the signing secret is empty, so anyone could sign with it; put Contentful's secret there")]
    Empty,
    /// A header of the scheme is absent or of another form.
    #[error("the header {0} is absent or not of the form that Contentful sends")]
    Header(&'static str),
    /// A header that is said to be signed is not there.
    #[error("the header {0:?} is said to be signed and is absent; check that no proxy drops it")]
    Absent(String),
    /// A second question mark.
    #[error("the query has a question mark, after which Contentful signs nothing")]
    Query,
    /// Too old, or ahead.
    #[error("the request was signed too long ago or ahead; check the clock")]
    Age,
    /// Made with another secret, or over another request.
    #[error(
        "the signature does not match the request; check the secret, and that no proxy changes path or headers"
    )]
    Mismatch,
}

/// Checks a request. `path_and_query` is as it was received, `now_ms` milliseconds since 1970.
///
/// # Errors
/// Every [`ContentfulError`].
pub fn verify<'h>(
    method: &str,
    path_and_query: &str,
    header: &dyn Fn(&str) -> Option<&'h [u8]>,
    body: &[u8],
    key: &[u8],
    now_ms: i64,
) -> Result<(), ContentfulError> {
    let text = |name: &'static str| {
        header(name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::trim)
            .ok_or(ContentfulError::Header(name))
    };
    let signature =
        hex::decode(text(SIGNATURE_HEADER)?).map_err(|_| ContentfulError::Header(SIGNATURE_HEADER))?;
    let timestamp = text(TIMESTAMP_HEADER)?;
    let sent_ms = timestamp_ms(timestamp).ok_or(ContentfulError::Header(TIMESTAMP_HEADER))?;
    if u128::from(now_ms.abs_diff(sent_ms)) > TOLERANCE.as_millis() {
        return Err(ContentfulError::Age);
    }
    let listed = text(SIGNED_HEADERS_HEADER)?.split(',');
    let mut headers = Headers::new();
    for name in listed {
        let known = name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
        if !known || name.is_empty() || headers.len() == HEADERS_MAX {
            return Err(ContentfulError::Header(SIGNED_HEADERS_HEADER));
        }
        let value = header(name).ok_or_else(|| ContentfulError::Absent(name.to_owned()))?;
        headers.insert(name.to_owned(), value.trim_ascii().to_vec());
    }
    let mac = mac(method, path_and_query, headers, timestamp, body, key)?;
    mac.verify_slice(&signature)
        .map_err(|_| ContentfulError::Mismatch)
}

/// The headers that sign a request in which `headers` (names in lower case) are to be signed too.
///
/// # Errors
/// `Empty` or `Query`.
pub fn sign(
    method: &str,
    path_and_query: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    key: &[u8],
    now_ms: i64,
) -> Result<[(&'static str, String); 3], ContentfulError> {
    let timestamp = now_ms.to_string();
    let signed: Headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.trim().into()))
        .collect();
    let names = all_names(&signed);
    let mac = mac(method, path_and_query, signed, &timestamp, body, key)?;
    Ok([
        (SIGNATURE_HEADER, hex::encode(mac.finalize().into_bytes())),
        (SIGNED_HEADERS_HEADER, names),
        (TIMESTAMP_HEADER, timestamp),
    ])
}

/// Sorted by name, as they are signed.
type Headers = BTreeMap<String, Vec<u8>>;

/// As the toolkit does, the list of names is made anew from the headers and signed in place of what was sent.
fn mac(
    method: &str,
    path_and_query: &str,
    mut headers: Headers,
    timestamp: &str,
    body: &[u8],
    key: &[u8],
) -> Result<Hmac<Sha256>, ContentfulError> {
    if key.is_empty() {
        return Err(ContentfulError::Empty);
    }
    let names = all_names(&headers);
    headers.insert(SIGNED_HEADERS_HEADER.to_owned(), names.into_bytes());
    headers.insert(TIMESTAMP_HEADER.to_owned(), timestamp.as_bytes().to_vec());
    let pairs: Vec<Vec<u8>> = headers
        .iter()
        .map(|(name, value)| [name.as_bytes(), b":", value].concat())
        .collect();
    let mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| ContentfulError::Empty)?;
    Ok(mac
        .chain_update(method)
        .chain_update(b"\n")
        .chain_update(encoded(path_and_query)?)
        .chain_update(b"\n")
        .chain_update(pairs.join(&b';'))
        .chain_update(b"\n")
        .chain_update(body))
}

/// The list that is signed: these headers and the scheme's own two.
fn all_names(headers: &Headers) -> String {
    let own = [SIGNED_HEADERS_HEADER, TIMESTAMP_HEADER];
    let mut names: Vec<&str> = headers.keys().map(String::as_str).chain(own).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

/// Path and query as they are signed: the query is escaped whole by `querystring.escape`, and then all of it by
/// `encodeURI`, which escapes the percent signs of the first once more.
fn encoded(path_and_query: &str) -> Result<String, ContentfulError> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    // The toolkit splits at every question mark and drops what follows the second: it would not be signed.
    if query.contains('?') {
        return Err(ContentfulError::Query);
    }
    let mut text = escaped(path, ";,/?:@&=+$#-_.!~*'()");
    if !query.is_empty() {
        text.push('?');
        text.push_str(&escaped(&escaped(query, "-_.!~*'()"), ";,/?:@&=+$#-_.!~*'()"));
    }
    Ok(text)
}

fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else if write!(out, "%{byte:02X}").is_err() {
            // Writing to a String cannot fail.
            break;
        }
    }
    out
}

fn timestamp_ms(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || text.len() > TIMESTAMP_DIGITS_MAX {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_603_379_941_037;
    const BODY: &str = "{\"a\":\"\u{e9}\"}";
    /// Made with Node.js, following node-apps-toolkit; the secret is 64 times `a`, as in its tests.
    const GET: &str = "3b21d63c31a2a92d38945394da0b1a2a0dc2d9bf13ef4dfd91b9f3fa1440b404";
    const POST: &str = "7f4e0bbb943eca19c742f5b4c8550eabcc70e0bf94aa2279ff7802a09d0cb95d";
    const POST_PATH: &str = "/api/re%20s/\u{e9}/1?q=1&w=a b'%20";
    const POST_NAMES: &str =
        "content-type,x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic";
    const POST_HEADERS: [(&str, &str); 2] = [
        ("content-type", "application/json"),
        ("x-contentful-topic", "ContentManagement.Entry.publish"),
    ];

    fn key() -> Vec<u8> {
        vec![b'a'; 64]
    }

    fn post_headers() -> Vec<(&'static str, String)> {
        let mut headers: Vec<_> = POST_HEADERS.map(|(name, value)| (name, value.to_owned())).into();
        headers.push((SIGNATURE_HEADER, POST.to_owned()));
        headers.push((SIGNED_HEADERS_HEADER, POST_NAMES.to_owned()));
        headers.push((TIMESTAMP_HEADER, NOW_MS.to_string()));
        headers
    }

    fn check(
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &str,
        now_ms: i64,
    ) -> Result<(), ContentfulError> {
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.as_bytes())
        };
        verify(method, path, &header, body.as_bytes(), &key(), now_ms)
    }

    #[test]
    fn what_node_signs() {
        let path = "/api/resources/1";
        let [signature, names, timestamp] = sign("GET", path, &[], b"", &key(), NOW_MS).unwrap();
        assert_eq!(signature, (SIGNATURE_HEADER, GET.to_owned()));
        assert_eq!(names.1, "x-contentful-signed-headers,x-contentful-timestamp");
        assert_eq!(
            check("GET", path, &[signature, names, timestamp], "", NOW_MS),
            Ok(())
        );
        let signed = sign("POST", POST_PATH, &POST_HEADERS, BODY.as_bytes(), &key(), NOW_MS).unwrap();
        assert_eq!(signed[..], post_headers()[2..]);
        assert_eq!(check("POST", POST_PATH, &post_headers(), BODY, NOW_MS), Ok(()));
        assert_eq!(
            encoded("/a;,/:@&=+$-_.!~*()#[]^|\"<>{}`\\%").unwrap(),
            "/a;,/:@&=+$-_.!~*()#%5B%5D%5E%7C%22%3C%3E%7B%7D%60%5C%25"
        );
        assert_eq!(
            sign("GET", path, &[], b"", b"", NOW_MS),
            Err(ContentfulError::Empty)
        );
    }

    #[test]
    fn what_is_refused() {
        let mismatch = Err(ContentfulError::Mismatch);
        for (name, method, path, body, now_ms, expected) in [
            ("good", "POST", POST_PATH, BODY, NOW_MS, Ok(())),
            (
                "half a minute old",
                "POST",
                POST_PATH,
                BODY,
                NOW_MS + 30_000,
                Ok(()),
            ),
            (
                "older",
                "POST",
                POST_PATH,
                BODY,
                NOW_MS + 30_001,
                Err(ContentfulError::Age),
            ),
            (
                "half a minute ahead",
                "POST",
                POST_PATH,
                BODY,
                NOW_MS - 30_000,
                Ok(()),
            ),
            (
                "further ahead",
                "POST",
                POST_PATH,
                BODY,
                NOW_MS - 30_001,
                Err(ContentfulError::Age),
            ),
            ("another method", "PUT", POST_PATH, BODY, NOW_MS, mismatch.clone()),
            ("another path", "POST", "/api", BODY, NOW_MS, mismatch.clone()),
            ("another body", "POST", POST_PATH, "{}", NOW_MS, mismatch.clone()),
            (
                "a second question mark",
                "POST",
                "/a?b?c",
                BODY,
                NOW_MS,
                Err(ContentfulError::Query),
            ),
        ] {
            assert_eq!(
                check(method, path, &post_headers(), body, now_ms),
                expected,
                "{name}"
            );
        }
        let header = |name| Err(ContentfulError::Header(name));
        let unsorted = "x-contentful-topic,content-type,x-contentful-timestamp";
        for (name, changed, value, expected) in [
            ("another topic", "x-contentful-topic", "x", mismatch.clone()),
            (
                "blanks around",
                "x-contentful-topic",
                " ContentManagement.Entry.publish\t",
                Ok(()),
            ),
            (
                "another time",
                TIMESTAMP_HEADER,
                "1603379941038",
                mismatch.clone(),
            ),
            (
                "a time with a sign",
                TIMESTAMP_HEADER,
                "+1603379941037",
                header(TIMESTAMP_HEADER),
            ),
            (
                "a time too long",
                TIMESTAMP_HEADER,
                "0001603379941037",
                header(TIMESTAMP_HEADER),
            ),
            ("no time", TIMESTAMP_HEADER, "", header(TIMESTAMP_HEADER)),
            (
                "a digit short",
                SIGNATURE_HEADER,
                &POST[1..],
                header(SIGNATURE_HEADER),
            ),
            ("a byte short", SIGNATURE_HEADER, &POST[2..], mismatch.clone()),
            ("upper case", SIGNATURE_HEADER, &POST.to_uppercase(), Ok(())),
            ("names in another order", SIGNED_HEADERS_HEADER, unsorted, Ok(())),
            ("a name less", SIGNED_HEADERS_HEADER, "content-type", mismatch),
            (
                "a name in capitals",
                SIGNED_HEADERS_HEADER,
                "Content-Type",
                header(SIGNED_HEADERS_HEADER),
            ),
            (
                "no names",
                SIGNED_HEADERS_HEADER,
                "",
                header(SIGNED_HEADERS_HEADER),
            ),
            (
                "too many names",
                SIGNED_HEADERS_HEADER,
                &"content-type,".repeat(65),
                header(SIGNED_HEADERS_HEADER),
            ),
            (
                "a name of nothing",
                SIGNED_HEADERS_HEADER,
                "x-a",
                Err(ContentfulError::Absent("x-a".into())),
            ),
        ] {
            let mut headers = post_headers();
            headers.retain(|(name, _)| *name != changed);
            headers.push((changed, value.to_owned()));
            assert_eq!(
                check("POST", POST_PATH, &headers, BODY, NOW_MS),
                expected,
                "{name}"
            );
        }
        for name in [SIGNATURE_HEADER, TIMESTAMP_HEADER, SIGNED_HEADERS_HEADER] {
            let mut headers = post_headers();
            headers.retain(|(had, _)| *had != name);
            assert_eq!(
                check("POST", POST_PATH, &headers, BODY, NOW_MS),
                header(name),
                "no {name}"
            );
        }
    }
}
