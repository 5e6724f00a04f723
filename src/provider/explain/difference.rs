//! The things that go wrong, and what to do about each.

use std::fmt;

use crate::event::Timestamp;

/// One thing that stands between a request and its acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The signature is in a header that the scheme does not read.
    OtherHeader {
        /// Where it is.
        found: Box<str>,
        /// What is read, in order.
        read: Vec<Box<str>>,
    },
    /// The header was sent more than once.
    HeaderRepeated,
    /// Another of the scheme's headers carries something else.
    HeaderContradicted,
    /// The digest stands without the prefix that the scheme demands.
    PrefixMissing(Box<str>),
    /// Something stands before the digest that the scheme does not know.
    PrefixOther(Option<Box<str>>),
    /// Something stands after the digest.
    TextBehind,
    /// The digest is written in another encoding than the scheme's.
    Encoding(&'static str),
    /// The signature was made with another route's secret.
    OtherRoute,
    /// The secret has expired.
    Expired(Timestamp),
    /// The sender's secret has no line end, ours has.
    SecretLineEnd,
    /// The sender's secret has a line end, ours has none.
    SecretLineEndLost,
    /// The sender's secret has no blanks around it, ours has.
    SecretBlanks,
    /// The sender's secret stands without the quotes that ours has.
    SecretQuotes,
    /// The sender's key is made from the secret in another way than the scheme's.
    SecretForm(&'static str),
    /// The signed body had no byte order mark; this one has.
    BodyMarkAdded,
    /// The signed body had a byte order mark; this one has none.
    BodyMarkLost,
    /// The signed body did not end in a line end; this one does.
    BodyLineEndAdded,
    /// The signed body ended in a line end; this one does not.
    BodyLineEndLost,
    /// The signed body had other line ends (this is what it had).
    BodyLineEnds(&'static str),
    /// The signed body is the same JSON, written in another way (this one).
    BodyJson(&'static str),
    /// Only these bytes plus a header were signed together, in this way.
    BodyWith(Box<str>),
    /// The signature covers no bytes at all.
    BodyEmpty,
    /// The provider signs in several ways, and this request in another than the secret is for.
    OtherScheme(Box<str>),
    /// It is signed as another provider does.
    OtherProvider {
        /// The preset.
        name: Box<str>,
        /// Its name for people.
        title: Box<str>,
    },
    /// The signed time is this many seconds from ours, and more than the scheme allows.
    Stale {
        /// Seconds; negative: it is ahead of ours.
        secs: i64,
        /// Seconds that are allowed.
        allowed_secs: u64,
    },
    /// The signature was made with another hash.
    Algorithm(&'static str),
    /// A header that the scheme demands is missing or has another value.
    RequiredHeader,
    /// The signed URL is this one.
    Url(Box<str>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherHeader { found, read } => {
                write!(f, "the signature is in `{found}`; this scheme reads `{}`: ", read.join("`, then `"))?;
                f.write_str("choose the provider that sends it, or name the header under `verify`")
            }
            Self::HeaderRepeated => f.write_str(
                "the signature header was sent more than once, which is always refused: find what adds the second",
            ),
            Self::HeaderContradicted => f.write_str(
                "another of the provider's signature headers carries something else: find what adds it",
            ),
            Self::PrefixMissing(prefix) => write!(
                f,
                "the digest stands without `{prefix}`: something removes it, or the scheme needs an optional prefix"
            ),
            Self::PrefixOther(Some(prefix)) => write!(
                f,
                "something else than one `{prefix}` stands before the digest: the scheme is another one"
            ),
            Self::PrefixOther(None) => {
                f.write_str("something stands before the digest; this scheme has no prefix")
            }
            Self::TextBehind => f.write_str("something stands behind the digest: find what adds it"),
            Self::Encoding(name) => {
                write!(f, "the digest is written as {name}, which this scheme does not read")
            }
            Self::OtherRoute => f.write_str(
                "this secret belongs to another route: the sender calls the wrong path, or the secrets are swapped",
            ),
            Self::Expired(until) => write!(
                f,
                "the secret has not been accepted since {until}: extend `until`, or have the sender change over"
            ),
            Self::SecretLineEnd => f.write_str(
                "the secret ends in a line end that the sender's does not have: store it without (`printf %s`)",
            ),
            Self::SecretLineEndLost => f.write_str(
                "the sender's secret ends in a line end that ours does not have: set it again at the provider",
            ),
            Self::SecretBlanks => {
                f.write_str("the secret has blanks around it that the sender's does not have: remove them")
            }
            Self::SecretQuotes => {
                f.write_str("the secret stands in quotes that the sender's does not have: remove them")
            }
            Self::SecretForm(form) => {
                write!(f, "the sender's key is {form}: set `key` under `verify` to say so")
            }
            Self::BodyMarkAdded => {
                f.write_str("the body begins with a byte order mark that was not signed: find what adds it")
            }
            Self::BodyMarkLost => {
                f.write_str("a byte order mark was signed that the body no longer has: find what removes it")
            }
            Self::BodyLineEndAdded => f.write_str(
                "the body ends in a line end that was not signed: the capture or something on the way adds it",
            ),
            Self::BodyLineEndLost => f.write_str(
                "a line end was signed that the body no longer has: the capture or something on the way removes it",
            ),
            Self::BodyLineEnds(ends) => write!(
                f,
                "the body was signed with {ends} line ends: the capture or something on the way changes them"
            ),
            Self::BodyJson(style) => write!(
                f,
                "the body was signed as JSON {style}: something on the way parses it and writes it again"
            ),
            Self::BodyWith(what) => {
                write!(f, "not the body alone was signed, but {what}: the scheme is another one")
            }
            Self::OtherScheme(name) => write!(
                f,
                "it is signed in the way that the preset calls `{name}`: bind the secret to it with scheme = \"{name}\""
            ),
            Self::OtherProvider { name, title } => write!(
                f,
                "it is signed as {title} does: this is an event of another sender, or the route needs provider = \"{name}\""
            ),
            Self::Stale { secs, allowed_secs } => {
                let side = if *secs < 0 { "ahead of" } else { "behind" };
                write!(
                    f,
                    "its time is {} s {side} the time of the check, and {allowed_secs} s are allowed: an old request, or a clock that is \
                     wrong (check a captured one with --at)",
                    secs.unsigned_abs()
                )
            }
            Self::Algorithm(name) => write!(f, "the digest is one of {name}: the scheme needs algorithm = \"{name}\""),
            Self::RequiredHeader => f.write_str(
                "a header that this scheme demands is missing or has another value: something on the way removes it",
            ),
            Self::Url(url) => write!(
                f,
                "the URL that was signed is {url}: set public_url of the route to what the provider was given"
            ),
            Self::BodyEmpty => {
                f.write_str("the signature covers no bytes at all: the sender signs an empty body")
            }
        }
    }
}
