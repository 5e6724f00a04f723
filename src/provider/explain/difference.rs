//! The things that go wrong, and what to do about each.

use crate::event::Timestamp;
use crate::provider::timestamp::TimeUnit;

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
    /// The sender's secret has blanks around it, ours has none.
    SecretBlanksLost,
    /// The sender's secret stands in quotes, ours does not.
    SecretQuotesLost,
    /// Our secret ends in a backslash and an `n`, the sender's does not.
    SecretLineEndSpelt,
    /// Our secret begins with `NAME=`, the sender's does not.
    SecretNamed,
    /// The sender's secret begins with `whsec_`, ours does not.
    SecretMarkLost,
    /// Our secret begins with `whsec_`, the sender's does not.
    SecretMarkAdded,
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
    /// Something else than what the scheme signs was signed (this).
    BodyWith(Box<str>),
    /// The signature covers no bytes at all.
    BodyEmpty,
    /// The provider signs in several ways, and this request in another than the secret is for.
    OtherScheme(Box<str>),
    /// It is signed as other providers do; at least one, the one that is most likely meant first.
    OtherProvider(Vec<OtherProvider>),
    /// The signed time is this many seconds from ours, and more than the scheme allows.
    Stale {
        /// Seconds; negative: it is ahead of ours.
        secs: i64,
        /// Seconds that are allowed.
        allowed_secs: u64,
    },
    /// The signed time is not written in the unit that the scheme wants.
    TimeUnit {
        /// Where it stands.
        place: Box<str>,
        /// What the scheme wants.
        wanted: TimeUnit,
        /// What it is.
        found: TimeUnit,
    },
    /// The token is in a header that the scheme does not read.
    TokenElsewhere {
        /// Where it is.
        found: Box<str>,
        /// What is read.
        read: Box<str>,
    },
    /// This word stands before the token, and the scheme has no such prefix.
    TokenPrefixAdded(&'static str),
    /// The token stands without the prefix that the scheme demands.
    TokenPrefixMissing(Box<str>),
    /// The sender sent the secret itself, and the scheme signs.
    SecretSent,
    /// The signature was made with another hash.
    Algorithm(&'static str),
    /// A header that the scheme demands is missing or has another value.
    RequiredHeader,
    /// The signed URL is this one.
    Url(Box<str>),
}

/// A preset whose scheme a request is signed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherProvider {
    /// Its name.
    pub name: Box<str>,
    /// Its name for people.
    pub title: Box<str>,
}

impl Difference {
    /// Whether it is about where the signature stands or how it is written.
    pub(super) fn is_of_header(&self) -> bool {
        matches!(
            self,
            Self::OtherHeader { .. }
                | Self::PrefixMissing(_)
                | Self::PrefixOther(_)
                | Self::Encoding(_)
                | Self::TextBehind
        )
    }

    /// Whether it is about a secret that is sent as it is: then nothing was signed.
    pub fn is_of_a_token(&self) -> bool {
        matches!(
            self,
            Self::TokenElsewhere { .. }
                | Self::TokenPrefixAdded(_)
                | Self::TokenPrefixMissing(_)
                | Self::SecretSent
        )
    }

    /// What it is, and what to do about it on a route with that preset; `None`: with a `verify` of its own.
    pub fn text(&self, preset: Option<&str>) -> String {
        match self {
            Self::OtherHeader { found, read } => {
                let read = read.join("`, then `");
                let advice = match preset {
                    Some(_) => "choose the provider that sends it, or describe the sender in `verify` instead of `provider`",
                    None => "choose the provider that sends it, or name the header under `verify`",
                };
                format!("the signature is in `{found}`; this scheme reads `{read}`: {advice}")
            }
            Self::HeaderRepeated => {
                "the signature header was sent more than once, which is always refused: find what adds the second".to_owned()
            }
            Self::HeaderContradicted => {
                "another of the provider's signature headers carries something else: find what adds it".to_owned()
            }
            Self::PrefixMissing(prefix) => format!(
                "the digest stands without `{prefix}`: something removes it, or the scheme needs an optional prefix"
            ),
            Self::PrefixOther(Some(prefix)) => {
                format!("something else than one `{prefix}` stands before the digest: the scheme is another one")
            }
            Self::PrefixOther(None) => {
                "something stands before the digest; this scheme has no prefix".to_owned()
            }
            Self::TextBehind => "something stands behind the digest: find what adds it".to_owned(),
            Self::Encoding(name) => {
                format!("the digest is written as {name}, which this scheme does not read")
            }
            Self::OtherRoute => {
                "this secret belongs to another route: the sender calls the wrong path, or the secrets are swapped".to_owned()
            }
            Self::Expired(until) => format!(
                "the secret has not been accepted since {until}: extend `until`, or have the sender change over"
            ),
            Self::SecretLineEnd => {
                "the secret ends in a line end that the sender's does not have: store it without (`printf %s`)".to_owned()
            }
            Self::SecretLineEndLost => {
                "the sender's secret ends in a line end that ours does not have: set it again at the provider".to_owned()
            }
            Self::SecretBlanks => {
                "the secret has blanks around it that the sender's does not have: remove them".to_owned()
            }
            Self::SecretQuotes => {
                "the secret stands in quotes that the sender's does not have: remove them".to_owned()
            }
            Self::SecretBlanksLost => {
                "the sender's secret has a blank before or after it that ours does not have: set it again at the provider".to_owned()
            }
            Self::SecretQuotesLost => {
                "the sender's secret stands in quotes that ours does not have: set it again at the provider without them".to_owned()
            }
            Self::SecretLineEndSpelt => {
                "the secret ends in a backslash and an n, a line end that was never made one: remove both".to_owned()
            }
            Self::SecretNamed => {
                "the secret is a whole line `NAME=...` of a file of variables: keep what stands after the =".to_owned()
            }
            Self::SecretMarkLost => {
                "the secret lacks the `whsec_` at its beginning: copy all of it from the provider's page".to_owned()
            }
            Self::SecretMarkAdded => {
                "the secret begins with `whsec_`, which the sender's does not have: remove it, and compare the secret with the \
                 provider's page".to_owned()
            }
            Self::SecretForm(form) => {
                let advice = match preset {
                    Some(preset) => format!(
                        "{preset} does not make keys so. If the secret is for another of its schemes, say so with scheme = \"...\" on \
                         the secret (`hooklatch providers show {preset}`); if another product sends, choose its preset, or describe it in \
                         `verify` with `key`, instead of `provider`"
                    ),
                    None => "set `key` under `verify` to say so".to_owned(),
                };
                format!("the sender's key is {form}: {advice}")
            }
            Self::BodyMarkAdded => {
                "the body begins with a byte order mark that was not signed: find what adds it".to_owned()
            }
            Self::BodyMarkLost => {
                "a byte order mark was signed that the body no longer has: find what removes it".to_owned()
            }
            Self::BodyLineEndAdded => {
                "the body ends in a line end that was not signed: the capture or something on the way adds it".to_owned()
            }
            Self::BodyLineEndLost => {
                "a line end was signed that the body no longer has: the capture or something on the way removes it".to_owned()
            }
            Self::BodyLineEnds(ends) => format!(
                "the body was signed with {ends} line ends: the capture or something on the way changes them"
            ),
            Self::BodyJson(style) => format!(
                "the body was signed as JSON {style}: something on the way parses it and writes it again"
            ),
            Self::BodyWith(what) => {
                format!("what was signed is {what}, and this scheme signs something else: the scheme is another one")
            }
            Self::OtherScheme(name) => format!(
                "it is signed in the way that the preset calls `{name}`: bind the secret to it with scheme = \"{name}\""
            ),
            Self::OtherProvider(others) => {
                let (title, name) = others.first().map_or(("another", ""), |first| (&*first.title, &*first.name));
                let more: Vec<String> = others.iter().skip(1).map(|other| format!("`{}`", other.name)).collect();
                let more = match &*more {
                    [] => String::new(),
                    more => format!(" (these sign alike: {})", more.join(", ")),
                };
                format!(
                    "it is signed as {title} does: this is an event of another sender, or the route needs provider = \"{name}\"{more}"
                )
            }
            Self::Stale { secs, allowed_secs } if *secs < 0 => format!(
                "its time is {} s ahead of the time of the check, and {allowed_secs} s are allowed: the clock of the sender or of this \
                 machine is wrong, or --at is too early",
                secs.unsigned_abs()
            ),
            Self::Stale { secs, allowed_secs } => format!(
                "its time is {secs} s behind the time of the check, and {allowed_secs} s are allowed: an old request, or a clock that is \
                 wrong (check a captured one with --at)"
            ),
            Self::TimeUnit { place, wanted, found } => {
                let advice = match preset {
                    Some(_) => "this is another sender, or something on the way rewrites it".to_owned(),
                    None => format!("write unit = \"{}\" under `timestamp`", found.name()),
                };
                format!("the time in {place} is not {}, but {}: {advice}", wanted.words(), found.words())
            }
            Self::TokenElsewhere { found, read } => {
                let advice = match preset {
                    Some(_) => "set the header at the sender, or describe the sender in `verify` instead of `provider`",
                    None => "set the header at the sender, or name this one under `verify`",
                };
                format!("the token came in `{found}`; this scheme reads {read}: {advice}")
            }
            Self::TokenPrefixAdded(word) => {
                let advice = match preset {
                    Some(_) => "have the sender leave it out".to_owned(),
                    None => format!("have the sender leave it out, or write prefix = \"{word} \" under `verify`"),
                };
                format!("`{word} ` stands before the token, which this scheme does not expect: {advice}")
            }
            Self::TokenPrefixMissing(prefix) => {
                format!("the token stands without `{prefix}`, which this scheme expects before it: add it at the sender")
            }
            Self::SecretSent => {
                "the sender sent the secret itself as a token and signed nothing: have it sign, or choose a scheme that reads tokens".to_owned()
            }
            Self::Algorithm(name) => {
                let advice = match preset {
                    Some(_) => "this is another of the provider's schemes or another sender",
                    None => "say so with `algorithm` under `verify`",
                };
                format!("the digest is one of {name}: {advice}")
            }
            Self::RequiredHeader => {
                "a header that this scheme demands is missing or has another value: something on the way removes it".to_owned()
            }
            Self::Url(url) => {
                format!("the URL that was signed is {url}: set public_url of the route to what the provider was given")
            }
            Self::BodyEmpty => {
                "the signature covers no bytes at all: the sender signs an empty body".to_owned()
            }
        }
    }
}
