//! Reads the event's id and type from the signed bytes, borrowed and with a depth limit.

use crate::fields::Fields;

/// Longest usable event id, in bytes.
pub const EVENT_ID_BYTES_MAX: usize = 255;

/// Where id and type stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentifyRule {
    /// JSON pointer (RFC 6901) to the id in the body, split into its tokens; `None`: the body's hash is the key.
    pub id: Option<Vec<Box<str>>>,
    /// JSON pointer to the type in the body, split into its tokens.
    pub event_type: Option<Vec<Box<str>>>,
    /// A header that repeats the type and that the signature does not cover: a hint, compared with the body's type,
    /// and used alone (marked as unsigned) only where `event_type` is `None`.
    pub type_header: Option<Box<str>>,
}

/// What could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// A usable id: a JSON string of 1 to 255 bytes without control characters, or an integer as written.
    pub id: Option<Box<str>>,
    /// The type, at most 255 bytes, without control characters.
    pub event_type: Option<Box<str>>,
    /// The type is the header's, not the body's.
    pub type_unsigned: bool,
    /// Header and body name different types.
    pub type_conflict: bool,
    /// The body is one JSON document.
    pub is_json: bool,
}

/// Reads id and type. Never fails: what cannot be read is absent.
pub fn identify(_rule: &IdentifyRule, _headers: &Fields, _body: &[u8]) -> Identity {
    unimplemented!("provider helper")
}
