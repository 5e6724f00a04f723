//! Reads signatures from headers and checks them: any signature with any live secret, in constant time.

use super::scheme::Scheme;
use crate::event::{SecretName, Timestamp};
use crate::fields::Fields;
use crate::secret::{Key, TAG_BYTES};

/// At most this many signatures of one request are tried.
pub const SIGNATURES_MAX: usize = 20;
/// At most this many secrets of one route are tried.
pub const SECRETS_MAX: usize = 8;

/// A secret of a route that may still be used.
#[derive(Debug, Clone)]
pub struct LiveKey {
    /// Its name in `[secrets]`.
    pub name: SecretName,
    /// The key.
    pub key: Key,
    /// It stops being accepted at this time.
    pub until: Option<Timestamp>,
}

/// The digests a request presents, decoded; not yet checked.
#[derive(Debug, Clone)]
pub struct Presented(Vec<[u8; TAG_BYTES]>);

/// Why a signature is refused. For operators only: the sender is never told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SignatureError {
    /// None of the scheme's headers was sent, or it was empty.
    #[error("no signature header was sent")]
    Missing,
    /// One header was sent more than once.
    #[error("the signature header was sent more than once")]
    Repeated,
    /// The value does not follow the scheme's grammar.
    #[error("the signature header's value is not of the scheme's form")]
    Malformed,
    /// Two header names carry different digests.
    #[error("the signature headers contradict each other")]
    Contradicting,
    /// It is well formed and made with another secret or over other bytes.
    #[error("the signature does not match the body under any live secret")]
    Mismatch,
}

impl Scheme {
    /// Reads what the headers present; needs no body, so a hopeless request ends before one is read.
    ///
    /// # Errors
    /// Every [`SignatureError`] but `Mismatch`.
    pub fn read(&self, _headers: &Fields) -> Result<Presented, SignatureError> {
        unimplemented!("provider helper")
    }
}

impl Presented {
    /// Tries every digest with every live key, always all of them, and names the secret that matched.
    ///
    /// # Errors
    /// `Mismatch` when none did.
    pub fn check<'k>(
        &self,
        _keys: &'k [LiveKey],
        _now: Timestamp,
        _body: &[u8],
    ) -> Result<&'k SecretName, SignatureError> {
        let _ = &self.0;
        unimplemented!("provider helper")
    }
}
