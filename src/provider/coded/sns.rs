//! Messages of Amazon SNS: what is signed, who may have signed it, and which URLs in them may be fetched.
//!
//! Any AWS account can make SNS send a validly signed message, so the caller must also compare
//! [`SnsMessage::topic_arn`] with a list of its own. Messages sent with raw delivery are not signed and are refused.
//! Source: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::sns_url::{is_certificate_url, is_subscribe_url, region};
use super::strict_json::{self, StrictJsonError};
use crate::provider::public_key::{PublicKey, PublicKeyError, PublicScheme};

/// Bytes of a message that are read: 256 KiB of text, every character of it escaped.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How far a message's time may be from ours. SNS tries for an hour by default.
pub const TOLERANCE: Duration = Duration::from_secs(3600);

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnsType {
    /// Something was published.
    Notification,
    /// Someone subscribed this endpoint; it takes a GET of [`SnsMessage::subscribe_url`] to confirm.
    SubscriptionConfirmation,
    /// This endpoint was unsubscribed; a GET of [`SnsMessage::subscribe_url`] would subscribe it again.
    UnsubscribeConfirmation,
}

/// Why a message is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnsError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("the message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// The body.
    #[error("the body {0}; switch raw message delivery off for this subscription")]
    Json(StrictJsonError),
    /// A member is absent or not a text.
    #[error("the message has no text {0:?}; switch raw message delivery off for this subscription")]
    Member(&'static str),
    /// An unknown type.
    #[error("the message's Type is none of those that SNS signs")]
    Type,
    /// An unknown way of signing.
    #[error("the message's SignatureVersion is neither 1 nor 2")]
    Version,
    /// Not of AWS, or not of the form that SNS uses.
    #[error("the message's {0} is not an address of SNS, so it is not fetched")]
    Url(&'static str),
    /// The time cannot be read.
    #[error("the message's Timestamp is not an ISO 8601 time")]
    Timestamp,
    /// The time is too far off.
    #[error("the message's Timestamp is more than an hour from our clock; check the clock")]
    Age,
    /// The signature is not base64.
    #[error("the message's Signature is not base64")]
    Encoding,
    /// The signature, or the key of the certificate.
    #[error("the message's signature: {0}")]
    Signature(#[from] PublicKeyError),
}

/// A message as it was read; nothing in it can be trusted before [`Self::verify`].
#[derive(Clone)]
pub struct SnsMessage {
    kind: SnsType,
    scheme: PublicScheme,
    signed_text: String,
    signature: Vec<u8>,
    topic_arn: String,
    message_id: String,
    timestamp_ms: i64,
    certificate_url: String,
    subscribe_url: Option<String>,
}

impl SnsMessage {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// All but `Age` and `Signature`.
    pub fn parse(body: &[u8]) -> Result<Self, SnsError> {
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(SnsError::TooLong);
        }
        let members = strict_json::object(body).map_err(SnsError::Json)?;
        // Names and values are signed on lines of their own: a line end in one would move what stands after it into another. Only
        // the message and its subject are the sender's; the topic comes after both and is of a strict form.
        for name in [
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ] {
            if members
                .get(name)
                .and_then(|value| value.as_str())
                .is_some_and(|text| text.contains(char::is_control))
            {
                return Err(SnsError::Member(name));
            }
        }
        let kind = match text(&members, "Type")? {
            "Notification" => SnsType::Notification,
            "SubscriptionConfirmation" => SnsType::SubscriptionConfirmation,
            "UnsubscribeConfirmation" => SnsType::UnsubscribeConfirmation,
            _ => return Err(SnsError::Type),
        };
        if !is_topic_arn(text(&members, "TopicArn")?) {
            return Err(SnsError::Member("TopicArn"));
        }
        let scheme = match text(&members, "SignatureVersion")? {
            "1" => PublicScheme::RsaPkcs1Sha1,
            "2" => PublicScheme::RsaPkcs1Sha256,
            _ => return Err(SnsError::Version),
        };
        let signature = STANDARD
            .decode(text(&members, "Signature")?)
            .map_err(|_| SnsError::Encoding)?;
        let timestamp: Timestamp = text(&members, "Timestamp")?
            .parse()
            .map_err(|_| SnsError::Timestamp)?;
        let certificate_url = text(&members, "SigningCertURL")?;
        if !is_certificate_url(certificate_url) {
            return Err(SnsError::Url("SigningCertURL"));
        }
        let subscribe_url = match kind {
            SnsType::Notification => None,
            _ => Some(text(&members, "SubscribeURL")?),
        };
        if subscribe_url.is_some_and(|url| !is_subscribe_url(url)) {
            return Err(SnsError::Url("SubscribeURL"));
        }
        Ok(Self {
            kind,
            scheme,
            signed_text: signed_text(&members, kind)?,
            signature,
            topic_arn: text(&members, "TopicArn")?.to_owned(),
            message_id: text(&members, "MessageId")?.to_owned(),
            timestamp_ms: timestamp.as_millisecond(),
            certificate_url: certificate_url.to_owned(),
            subscribe_url: subscribe_url.map(str::to_owned),
        })
    }

    /// Checks the signature with the key of the certificate from [`Self::certificate_url`], and the time.
    ///
    /// # Errors
    /// `Signature` or `Age`.
    pub fn verify(&self, spki_der: &[u8], now_ms: i64) -> Result<(), SnsError> {
        let key = PublicKey::from_spki(spki_der)?;
        key.verify(self.scheme, self.signed_text.as_bytes(), &self.signature)?;
        if u128::from(now_ms.abs_diff(self.timestamp_ms)) > TOLERANCE.as_millis() {
            return Err(SnsError::Age);
        }
        Ok(())
    }

    /// What the message is about.
    #[must_use]
    pub fn kind(&self) -> SnsType {
        self.kind
    }

    /// The text that is signed: names and values, each on a line.
    #[must_use]
    pub fn signed_text(&self) -> &str {
        &self.signed_text
    }

    /// The topic, to be looked up in the caller's list.
    #[must_use]
    pub fn topic_arn(&self) -> &str {
        &self.topic_arn
    }

    /// The id that stays the same over all tries.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Where the certificate is: always `https://sns.<region>.amazonaws.com[.cn]/SimpleNotificationService-<hex>.pem`.
    #[must_use]
    pub fn certificate_url(&self) -> &str {
        &self.certificate_url
    }

    /// The names the certificate may carry, by the region it comes from.
    ///
    /// Most regions share `sns.amazonaws.com`; newer ones, GovCloud and China have names of their own
    /// (aws-sdk-java-v2, services-custom/sns-message-manager, `SnsHostProvider`).
    #[must_use]
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = vec!["sns.amazonaws.com".to_owned()];
        if let Some((region, suffix)) = region(&self.certificate_url) {
            names.push(format!("sns.{region}.{suffix}"));
            names.push(format!("sns-signing.{region}.{suffix}"));
            names.push(format!("sns-{region}.{suffix}"));
            if region.starts_with("us-gov-") {
                names.push("sns-us-gov-west-1.amazonaws.com".to_owned());
            }
        }
        names
    }

    /// The address that confirms a subscription, at a host of the same rule; none in a notification.
    #[must_use]
    pub fn subscribe_url(&self) -> Option<&str> {
        self.subscribe_url.as_deref()
    }
}

impl fmt::Debug for SnsMessage {
    /// Leaves out the text, the signature and the address that confirms a subscription.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnsMessage")
            .field("kind", &self.kind)
            .field("topic_arn", &self.topic_arn)
            .field("message_id", &self.message_id)
            .finish_non_exhaustive()
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &'static str) -> Result<&'m str, SnsError> {
    members
        .get(name)
        .and_then(Value::as_str)
        .ok_or(SnsError::Member(name))
}

fn signed_text(members: &Map<String, Value>, kind: SnsType) -> Result<String, SnsError> {
    let names: &[&'static str] = match kind {
        SnsType::Notification => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
        SnsType::SubscriptionConfirmation | SnsType::UnsubscribeConfirmation => &[
            "Message",
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ],
    };
    let mut signed = String::new();
    for name in names {
        // Only a subject may be absent, and null is as good as absent (aws-js-sns-message-validator, index.js).
        if *name == "Subject" && members.get("Subject").is_none_or(Value::is_null) {
            continue;
        }
        for line in [name, text(members, name)?] {
            signed.push_str(line);
            signed.push('\n');
        }
    }
    Ok(signed)
}

/// `arn:aws:sns:<region>:<account>:<name>`.
fn is_topic_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    parts.len() == 6 && parts.iter().all(plain) && text.starts_with("arn:") && parts.get(2) == Some(&"sns")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::test_keys::{P256_SPKI, RSA_SPKI, der};
    use super::*;

    /// Made with Python and the RSA key of RFC 7515, as the ones below.
    const NOTE_1: &str = concat!(
        "d36rWhf8rUyLvcvU/xepex4ysIBxn25snyqZlv8SyVUzU2J/gJW/RKVcMnk+ni7OughFef3kmI/HKI5GJEtNeF443w0E",
        "U9+pHtIzQ4eWxB+WWBKuHu5UHZK/TpnWRcIf/iuyKnMC6X5pdM8w1yeDcBwlPPa6SdxFDUoAtSdTcSX55R52QQjsoARp",
        "Q5fNMxldysuNuahPFY5LZDTsx12xdPEyVSK7VcWOhrcykW8l+a6sWy2XZruy4MR3REZTrovCgv5gTcM7fVrOyRMfkHkT",
        "V9XlWdwW32s9f4gzFCS/O9I21UxiLOf817+gx9E6BoH14fi4Dv3fhk+9WadQVn3sTA==",
    );
    const NOTE_2: &str = concat!(
        "HT0z0Y1B1FaaZyu8Ae/dVla9S8DRzsqwHMlJ1nrIxXyrioikMg5LWV4bUSpbcugUTDPF/4LvLY5hXmKNxdS3zsSmVvox",
        "sP6IfUO6TxoBvy5XvB/c0N137TITYdgZlJq0CnsIxykjXHOdL2DNI+hKlCcluL0L55ua4TkAG2+4YeJd/1MXwGOvKu1j",
        "b7Te6ACbti7QDxxhKjGZeICqus7MOU7ziTCMDWwzmX19EMUru77UIHZVrZ6G47G1EJDUODQXsJz8dhIvUGI8I8yAvjq7",
        "nUJkWXfi9qPzufm9TrpRNJf2vGlIIo6cEaLWR/xhciZACpHZHT4YNK4gwdk30/q3YA==",
    );
    const BARE_2: &str = concat!(
        "oEuqImGiMFWPL0taEhx08xmwZyJot93/1J+qu0RB34X9vUGwKo0t0xrIpSbMFS+DFBAP0fRBAONalqW9tmoxtdo1i7nS",
        "TtcFfEGEB+inetKG9OSKYwERJsVd9hFQqI10sogmyvvfHuc6Mo+EuLzwzN6ENZSNGLuTie4IliMpr1nRhBcBPEo8RAD9",
        "Jp9CrxLE4DOrXHAMKsCqQavxYwmMxWVbsWHV9GkAVjwXM5RHX1484Nsor0pQOvFU1Pc5/ef6CtMNe7H08cWEmz239fku",
        "MyJQpTWkz9YI/N6+hkGsYV4dSyfCX68nge2EcU6r22Ebm5hYnlG2Uyei9RR7bXxRpg==",
    );
    const SUBSCRIPTION_2: &str = concat!(
        "P9ISdNxbUf0+MORIoRj+eRq3rfOvj7qoECVkxPNNeWExY13qAZQSEj5rDG/0hwczWyLTZ7W6Y2SieBMiLn4+FcHzt6Mp",
        "xSr9j77uL5dieXIOeDNkjrCP/+SCgf9SLIGxRJQvP3TBg+hrbbO8b6nm1l/8Io4r6eiOeUjIE6TH74eEh2XbLM0AGDkL",
        "NLaeG0iZ/DTOxgYctFjMz14/C0TTl5rZGB998Px8Bxh9phmG4J9ejCj+TE7sImpD+gYGRsXW9Dw+NOGZQuHJM4QaD43r",
        "H2h3v5buspcpHBy7+9gB8R8NkM6o87M10LrENr/m3+fNm50HGM9HmGw14gIX5dJwAg==",
    );

    const NOW_MS: i64 = 1_335_920_095_000;
    const CERTIFICATE: &str =
        "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem";

    /// After the example in docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
    fn notification() -> Value {
        json!({
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
            "Subject": "My First Message",
            "Message": "Hello \"world\"!\n\u{e9}",
            "Timestamp": "2012-05-02T00:54:06.655Z",
            "SignatureVersion": "2",
            "Signature": NOTE_2,
            "SigningCertURL": CERTIFICATE,
            "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe"
        })
    }

    fn subscription() -> Value {
        json!({
            "Type": "SubscriptionConfirmation",
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "Token": "2336412f37",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
            "Message": "You have chosen to subscribe.",
            "SubscribeURL": concat!(
                "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
                "&TopicArn=arn:aws:sns:us-west-2:123456789012:MyTopic&Token=2336412f37"
            ),
            "Timestamp": "2012-04-26T20:45:04.751Z",
            "SignatureVersion": "2",
            "Signature": SUBSCRIPTION_2,
            "SigningCertURL": CERTIFICATE
        })
    }

    fn with(mut message: Value, changes: &[(&str, Value)]) -> Value {
        for (name, value) in changes {
            message[*name] = value.clone();
        }
        message
    }

    fn check(message: &Value, now_ms: i64) -> Result<(), SnsError> {
        SnsMessage::parse(message.to_string().as_bytes())?.verify(&der(RSA_SPKI), now_ms)
    }

    #[test]
    fn signatures() {
        let note = |changes: &[(&str, Value)]| with(notification(), changes);
        let mismatch = || Err(SnsError::Signature(PublicKeyError::Mismatch));
        let mut bare = note(&[("Signature", json!(BARE_2))]);
        bare.as_object_mut().unwrap().remove("Subject");
        let version_1 = [("SignatureVersion", json!("1")), ("Signature", json!(NOTE_1))];
        for (name, message, expected) in [
            ("version 2", note(&[]), Ok(())),
            ("version 1", note(&version_1), Ok(())),
            ("version 1, signature of 2", note(&version_1[..1]), mismatch()),
            ("version 2, signature of 1", note(&version_1[1..]), mismatch()),
            ("no subject", bare.clone(), Ok(())),
            (
                "subject null",
                with(bare.clone(), &[("Subject", Value::Null)]),
                Ok(()),
            ),
            (
                "subject empty",
                with(bare.clone(), &[("Subject", json!(""))]),
                mismatch(),
            ),
            (
                "subject added",
                with(bare, &[("Subject", json!("x"))]),
                mismatch(),
            ),
            ("another message", note(&[("Message", json!("x"))]), mismatch()),
            (
                "another topic",
                note(&[("TopicArn", json!("arn:aws:sns:us-west-2:1:x"))]),
                mismatch(),
            ),
            ("another id", note(&[("MessageId", json!("x"))]), mismatch()),
            ("another type", note(&[("Type", json!("x"))]), Err(SnsError::Type)),
            (
                "version 3",
                note(&[("SignatureVersion", json!("3"))]),
                Err(SnsError::Version),
            ),
            (
                "a number",
                note(&[("SignatureVersion", json!(2))]),
                Err(SnsError::Member("SignatureVersion")),
            ),
            (
                "no base64",
                note(&[("Signature", json!("?"))]),
                Err(SnsError::Encoding),
            ),
            ("no signature", note(&[("Signature", json!(""))]), mismatch()),
            (
                "no time",
                note(&[("Timestamp", json!("today"))]),
                Err(SnsError::Timestamp),
            ),
            (
                "a subject that is a number",
                note(&[("Subject", json!(1))]),
                Err(SnsError::Member("Subject")),
            ),
            (
                "another address",
                note(&[("SigningCertURL", json!("https://a/"))]),
                Err(SnsError::Url("SigningCertURL")),
            ),
        ] {
            assert_eq!(check(&message, NOW_MS), expected, "{name}");
        }
        let hour = 3_600_000;
        let sent_ms = 1_335_920_046_655;
        for (name, now_ms, expected) in [
            ("an hour later", sent_ms + hour, Ok(())),
            ("more", sent_ms + hour + 1, Err(SnsError::Age)),
            ("an hour earlier", sent_ms - hour, Ok(())),
            ("more", sent_ms - hour - 1, Err(SnsError::Age)),
        ] {
            assert_eq!(check(&notification(), now_ms), expected, "{name}");
        }
        let parsed = SnsMessage::parse(notification().to_string().as_bytes()).unwrap();
        let kind = parsed.verify(&der(P256_SPKI), NOW_MS);
        assert_eq!(kind, Err(SnsError::Signature(PublicKeyError::Kind)));
        assert_eq!(parsed.topic_arn(), "arn:aws:sns:us-west-2:123456789012:MyTopic");
        assert_eq!(parsed.message_id(), "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324");
        assert_eq!(
            (parsed.subscribe_url(), parsed.certificate_url()),
            (None, CERTIFICATE)
        );
        assert!(
            parsed
                .signed_text()
                .starts_with("Message\nHello \"world\"!\n\u{e9}\nMessageId\n")
        );
    }

    #[test]
    fn subscriptions() {
        let parsed = SnsMessage::parse(subscription().to_string().as_bytes()).unwrap();
        assert_eq!(parsed.verify(&der(RSA_SPKI), 1_335_473_104_751), Ok(()));
        assert_eq!(parsed.kind(), SnsType::SubscriptionConfirmation);
        let printed = format!("{parsed:?}");
        assert!(
            printed.contains("MyTopic") && !printed.contains("2336412f37"),
            "{printed}"
        );
        assert_eq!(parsed.subscribe_url(), subscription()["SubscribeURL"].as_str());
        let unsubscribed = with(subscription(), &[("Type", json!("UnsubscribeConfirmation"))]);
        let mismatch = SnsError::Signature(PublicKeyError::Mismatch);
        assert_eq!(check(&unsubscribed, 1_335_473_104_751), Err(mismatch));
    }

    #[test]
    fn bodies_that_are_no_message() {
        let twice = notification().to_string().replacen('{', r#"{"Message":"x","#, 1);
        for (name, body, expected) in [
            (
                "raw delivery",
                "hello".to_owned(),
                SnsError::Json(StrictJsonError::NotObject),
            ),
            ("a member twice", twice, SnsError::Json(StrictJsonError::Repeated)),
            ("another object", "{}".to_owned(), SnsError::Member("Type")),
            ("too long", " ".repeat(MESSAGE_BYTES_MAX + 1), SnsError::TooLong),
        ] {
            assert_eq!(
                SnsMessage::parse(body.as_bytes()).unwrap_err(),
                expected,
                "{name}"
            );
        }
    }

    /// Members are signed as lines: what stands in one member and what stands in two can be the same text.
    #[test]
    fn no_line_end_moves_a_topic_into_a_message() {
        let genuine = notification();
        let message = format!(
            "{}\nMessageId\n{}",
            genuine["Message"].as_str().unwrap(),
            genuine["MessageId"].as_str().unwrap()
        );
        let id = "x\nSubject\nMy First Message";
        for (name, changes, expected) in [
            (
                "an id of several lines",
                vec![("MessageId", json!(id))],
                SnsError::Member("MessageId"),
            ),
            (
                "a time of several lines",
                vec![(
                    "Timestamp",
                    json!("2012-05-02T00:54:06.655Z\nTopicArn\narn:aws:sns:us-west-2:1:x"),
                )],
                SnsError::Member("Timestamp"),
            ),
            (
                "a topic of several lines",
                vec![(
                    "TopicArn",
                    json!("arn:aws:sns:us-west-2:123456789012:MyTopic\nType\nNotification"),
                )],
                SnsError::Member("TopicArn"),
            ),
            (
                "a topic that is none",
                vec![("TopicArn", json!("MyTopic"))],
                SnsError::Member("TopicArn"),
            ),
            (
                "a message that takes the id's line in",
                vec![("Message", json!(message))],
                SnsError::Signature(PublicKeyError::Mismatch),
            ),
        ] {
            assert_eq!(
                check(&with(genuine.clone(), &changes), NOW_MS),
                Err(expected),
                "{name}"
            );
        }
    }

    #[test]
    fn names_of_certificates() {
        let url = "https://sns.us-gov-east-1.amazonaws.com/SimpleNotificationService-0f.pem";
        let message = with(notification(), &[("SigningCertURL", json!(url))]);
        let parsed = SnsMessage::parse(message.to_string().as_bytes()).unwrap();
        assert_eq!(
            parsed.certificate_names(),
            [
                "sns.amazonaws.com",
                "sns.us-gov-east-1.amazonaws.com",
                "sns-signing.us-gov-east-1.amazonaws.com",
                "sns-us-gov-east-1.amazonaws.com",
                "sns-us-gov-west-1.amazonaws.com"
            ]
        );
    }
}
