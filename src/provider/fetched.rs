//! What a scheme needs from elsewhere before it can check a request: keys of senders that publish theirs.

use std::sync::Arc;

use super::coded::jws::KeySet;

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// A JWK Set.
    KeySet {
        /// Where.
        url: Box<str>,
    },
    /// A certificate, with its chain, in PEM.
    Certificate {
        /// Where.
        url: Box<str>,
        /// Names of which the certificate must have one.
        names: Vec<Box<str>>,
    },
}

impl Need {
    /// Whether the request says where it is, within what its scheme allows.
    pub fn is_named_by_requests(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        match self {
            Self::KeySet { url } | Self::Certificate { url, .. } => url,
        }
    }
}

/// What was fetched, and checked.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The keys of a set.
    KeySet(Arc<KeySet>),
    /// The SubjectPublicKeyInfo of a certificate that leads to a trusted root.
    Certificate(Arc<[u8]>),
}
