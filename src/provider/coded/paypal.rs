//! PayPal's webhook signatures: RSA over a text that holds the body's CRC-32.
//!
//! A CRC-32 is no digest: whoever has seen one delivery can write another body of the same CRC under its signature.
//! What stands against that is TLS on the way here, and dropping a transmission id that was seen before.
//! Source: developer.paypal.com/api/rest/webhooks/rest

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::provider::public_key::{PublicKey, PublicKeyError, PublicScheme};

/// The names that the signing certificate carries, live and in the sandbox (PayPal-Java-SDK, `SSLUtil`).
pub const CERTIFICATE_NAMES: [&str; 2] = [
    "messageverificationcerts.paypal.com",
    "messageverificationcerts.sandbox.paypal.com",
];

/// The most that PayPal's API takes for any of the headers (definition `verify_webhook_signature`: 500).
const HEADER_BYTES_MAX: usize = 500;
const CERTIFICATE_HOSTS: [&str; 2] = ["https://api.paypal.com", "https://api.sandbox.paypal.com"];
const CERTIFICATE_PATH: &str = "/v1/notifications/certs/";
const CERTIFICATE_ID_BYTES_MAX: usize = 128;

/// Why a request is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaypalError {
    /// A header is absent, empty, too long or not plain text.
    #[error("the header {0} is absent or not of the form that PayPal sends")]
    Header(&'static str),
    /// Another algorithm.
    #[error("the header paypal-auth-algo is not SHA256withRSA, the only one that is accepted")]
    Algorithm,
    /// Not of PayPal.
    #[error("the header paypal-cert-url is not an address of PayPal's certificates, so it is not fetched")]
    CertificateUrl,
    /// No webhook id to check against.
    #[error(
        "this route has no PayPal webhook id, or one that is not letters and digits; put the one PayPal shows"
    )]
    WebhookId,
    /// The signature, or the key of the certificate.
    #[error("the header paypal-transmission-sig: {0}")]
    Signature(#[from] PublicKeyError),
}

/// The headers of a request; nothing in them can be trusted before [`Self::verify`].
#[derive(Clone)]
pub struct PaypalRequest<'h> {
    transmission_id: &'h str,
    transmission_time: &'h str,
    time_ms: i64,
    signature: Vec<u8>,
    certificate_url: &'h str,
}

impl<'h> PaypalRequest<'h> {
    /// Reads the headers; needs no body.
    ///
    /// # Errors
    /// `Header`, `Algorithm` or `CertificateUrl`.
    pub fn read(header: &dyn Fn(&str) -> Option<&'h [u8]>) -> Result<Self, PaypalError> {
        let text = |name: &'static str| {
            header(name)
                .filter(|value| !value.is_empty() && value.len() <= HEADER_BYTES_MAX)
                // A bar would move a part of one field into the next; PayPal's ids and times have none.
                .filter(|value| value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'|'))
                .and_then(|value| std::str::from_utf8(value).ok())
                .ok_or(PaypalError::Header(name))
        };
        if text("paypal-auth-algo")? != "SHA256withRSA" {
            return Err(PaypalError::Algorithm);
        }
        let certificate_url = text("paypal-cert-url")?;
        if !is_certificate_url(certificate_url) {
            return Err(PaypalError::CertificateUrl);
        }
        let transmission_time = text("paypal-transmission-time")?;
        let time: Timestamp = transmission_time
            .parse()
            .map_err(|_| PaypalError::Header("paypal-transmission-time"))?;
        Ok(Self {
            transmission_id: text("paypal-transmission-id")?,
            transmission_time,
            time_ms: time.as_millisecond(),
            signature: STANDARD
                .decode(text("paypal-transmission-sig")?)
                .map_err(|_| PaypalError::Header("paypal-transmission-sig"))?,
            certificate_url,
        })
    }

    /// Checks the signature with the key of the certificate from [`Self::certificate_url`].
    ///
    /// `webhook_id` is the id PayPal shows for this URL: without it a delivery to anyone else's webhook would pass.
    ///
    /// # Errors
    /// `WebhookId` or `Signature`.
    pub fn verify(&self, webhook_id: &str, body: &[u8], spki_der: &[u8]) -> Result<(), PaypalError> {
        let text = self.signed_text(webhook_id, body)?;
        let key = PublicKey::from_spki(spki_der)?;
        key.verify(PublicScheme::RsaPkcs1Sha256, text.as_bytes(), &self.signature)?;
        Ok(())
    }

    /// The text that is signed: `id|time|webhook id|CRC-32 of the body in decimal`.
    ///
    /// # Errors
    /// `WebhookId`.
    pub fn signed_text(&self, webhook_id: &str, body: &[u8]) -> Result<String, PaypalError> {
        if webhook_id.is_empty() || !webhook_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(PaypalError::WebhookId);
        }
        Ok(format!(
            "{}|{}|{webhook_id}|{}",
            self.transmission_id,
            self.transmission_time,
            crc32(body)
        ))
    }

    /// Where the certificate is: always below `/v1/notifications/certs/` of PayPal's API.
    #[must_use]
    pub fn certificate_url(&self) -> &'h str {
        self.certificate_url
    }

    /// The id that stays the same over all tries.
    #[must_use]
    pub fn transmission_id(&self) -> &'h str {
        self.transmission_id
    }

    /// When the transmission was made, in milliseconds since 1970. Tries go on for three days, and whether they carry
    /// a new time is not documented, so no age is refused here.
    #[must_use]
    pub fn transmission_time_ms(&self) -> i64 {
        self.time_ms
    }
}

impl fmt::Debug for PaypalRequest<'_> {
    /// Leaves the signature out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaypalRequest")
            .field("transmission_id", &self.transmission_id)
            .finish_non_exhaustive()
    }
}

fn is_certificate_url(url: &str) -> bool {
    let id = CERTIFICATE_HOSTS
        .into_iter()
        .find_map(|host| url.strip_prefix(host)?.strip_prefix(CERTIFICATE_PATH));
    // No slash, dot or percent sign, so that the path cannot lead elsewhere on the host.
    id.is_some_and(|id| {
        (1..=CERTIFICATE_ID_BYTES_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// The CRC-32 of IEEE 802.3, as zlib has it.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        let [low, ..] = crc.to_le_bytes();
        let entry = CRC_TABLE
            .get(usize::from(low ^ byte))
            .copied()
            .unwrap_or_default();
        crc = entry ^ (crc >> 8);
    }
    !crc
}

static CRC_TABLE: [u32; 256] = crc_table();

#[allow(
    clippy::indexing_slicing,
    reason = "worked out while compiling, where a wrong index is an error"
)]
const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0xedb8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::test_keys::{P256_SPKI, RSA_SPKI, der};
    use super::*;

    /// Made with Python and the RSA key of RFC 7515.
    const SIGNATURE: &str = concat!(
        "f6cb02NM6AyyVlZMGOZcXtw9dJvAOrV8u2KUoQY/jtqPDisZoHmhlLuvRzbad5yfm/uJS3dSkVC0a1kdetXeygqUCKcl",
        "4eha8ny7nVa1w9Mw1YJWGoe8pduCbIhEtQdo9ZQcHHB7q1oMnX1NXUFCe7DnzmzcHFb0nLZvTAwjRQnNjMahCZf3ex0D",
        "krRr9llqJdHnN0XV1M5MTul055psF+S8ZjEXqoHR/UyLJ0HJJReJWRK7jyHZmG/xgXehgWbyL5g8NPVqClyePUP6fvFV",
        "93BCcXLZyr8yuFA1x3BT0e6GJYvDdrOGLlvihJMUlZjxtXQtV0jtzI47nLhm8CXhcw==",
    );
    const WEBHOOK_ID: &str = "4JH86294D6297924G";
    const BODY: &[u8] = br#"{"id":"WH-1","event_type":"PAYMENT.SALE.COMPLETED"}"#;
    const CERTIFICATE: &str =
        "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77";
    const HEADERS: [(&str, &str); 5] = [
        ("paypal-transmission-id", "89556ce0-4d55-11ee-9f56-dd5f48f22b28"),
        ("paypal-transmission-time", "2023-09-07T08:07:06Z"),
        ("paypal-transmission-sig", SIGNATURE),
        ("paypal-cert-url", CERTIFICATE),
        ("paypal-auth-algo", "SHA256withRSA"),
    ];

    /// Reads the headers with one of them changed.
    fn read<'h>(name: &str, value: Option<&'h str>) -> Result<PaypalRequest<'h>, PaypalError> {
        PaypalRequest::read(&|wanted| {
            if wanted == name {
                return value.map(str::as_bytes);
            }
            let found = HEADERS.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.as_bytes())
        })
    }

    #[test]
    fn a_request() {
        let request = read("", None).unwrap();
        let text = "89556ce0-4d55-11ee-9f56-dd5f48f22b28|2023-09-07T08:07:06Z|4JH86294D6297924G|1429317798";
        assert_eq!(request.signed_text(WEBHOOK_ID, BODY).as_deref(), Ok(text));
        assert_eq!(request.certificate_url(), CERTIFICATE);
        assert_eq!(request.transmission_id(), HEADERS[0].1);
        let printed = format!("{request:?}");
        assert!(
            printed.contains(HEADERS[0].1) && !printed.contains("signature"),
            "{printed}"
        );
        assert_eq!(request.transmission_time_ms(), 1_694_074_026_000);
        let mismatch = || Err(PaypalError::Signature(PublicKeyError::Mismatch));
        let rsa = der(RSA_SPKI);
        for (name, webhook_id, body, spki, expected) in [
            ("good", WEBHOOK_ID, BODY, &rsa, Ok(())),
            ("another body", WEBHOOK_ID, &BODY[1..], &rsa, mismatch()),
            ("another webhook", "4JH86294D6297924H", BODY, &rsa, mismatch()),
            ("no webhook", "", BODY, &rsa, Err(PaypalError::WebhookId)),
            (
                "a bar in the webhook",
                "4JH|1",
                BODY,
                &rsa,
                Err(PaypalError::WebhookId),
            ),
            (
                "a key of another kind",
                WEBHOOK_ID,
                BODY,
                &der(P256_SPKI),
                Err(PaypalError::Signature(PublicKeyError::Kind)),
            ),
            (
                "no key",
                WEBHOOK_ID,
                BODY,
                &vec![],
                Err(PaypalError::Signature(PublicKeyError::Unsupported)),
            ),
        ] {
            assert_eq!(request.verify(webhook_id, body, spki), expected, "{name}");
        }
        for (name, value) in [
            ("paypal-transmission-id", "89556ce0-4d55-11ee-9f56-dd5f48f22b29"),
            ("paypal-transmission-time", "2023-09-07T08:07:07Z"),
            ("paypal-transmission-sig", "AAAA"),
        ] {
            let changed = read(name, Some(value)).unwrap();
            assert_eq!(changed.verify(WEBHOOK_ID, BODY, &rsa), mismatch(), "{name}");
        }
    }

    #[test]
    fn headers_of_another_form() {
        let long = "1".repeat(HEADER_BYTES_MAX + 1);
        for (name, _) in HEADERS {
            for value in [
                None,
                Some(""),
                Some("a b"),
                Some("a|b"),
                Some("\u{e9}"),
                Some(long.as_str()),
            ] {
                assert_eq!(
                    read(name, value).err(),
                    Some(PaypalError::Header(name)),
                    "{name}: {value:?}"
                );
            }
        }
        for (name, value, expected) in [
            ("paypal-auth-algo", "SHA1withRSA", PaypalError::Algorithm),
            ("paypal-auth-algo", "sha256withrsa", PaypalError::Algorithm),
            (
                "paypal-transmission-time",
                "1694074026",
                PaypalError::Header("paypal-transmission-time"),
            ),
            (
                "paypal-transmission-sig",
                "?",
                PaypalError::Header("paypal-transmission-sig"),
            ),
            (
                "paypal-cert-url",
                "https://evil.example/",
                PaypalError::CertificateUrl,
            ),
        ] {
            assert_eq!(read(name, Some(value)).err(), Some(expected), "{name}: {value}");
        }
    }

    #[test]
    fn addresses_of_certificates() {
        let good = "https://api.paypal.com/v1/notifications/certs/CERT-1";
        for (url, allowed) in [
            (good.to_owned(), true),
            (CERTIFICATE.to_owned(), true),
            (good.replace("https", "http"), false),
            (good.replace("api.paypal", "api-paypal"), false),
            (good.replace("paypal.com", "paypal.com.evil.example"), false),
            (good.replace("paypal.com", "paypal.com:443"), false),
            (good.replace("api.paypal.com", "a@api.paypal.com"), false),
            (
                good.replace("api.paypal.com", "api.paypal.com@evil.example"),
                false,
            ),
            (good.replace("api.paypal.com", "API.paypal.com"), false),
            (good.replace("/certs/", "/certs/../"), false),
            (good.replace("CERT-1", "%2e%2e"), false),
            (good.replace("CERT-1", ""), false),
            (good.replace("CERT-1", "a/b"), false),
            (format!("{good}?a"), false),
            (format!("{good}#a"), false),
            (good.replace("CERT-1", &"a".repeat(129)), false),
        ] {
            assert_eq!(is_certificate_url(&url), allowed, "{url}");
        }
    }

    #[test]
    fn crc32_of_known_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        for (bytes, expected) in [
            (&b""[..], 0),
            (b"a", 0xe8b7_be43),
            // The check value of the CRC catalogue.
            (b"123456789", 0xcbf4_3926),
            // Python: zlib.crc32(bytes(range(256))).
            (&all, 0x2905_8c73),
        ] {
            assert_eq!(crc32(bytes), expected, "{bytes:?}");
        }
    }
}
