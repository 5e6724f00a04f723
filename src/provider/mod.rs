//! What each sender puts on the wire: data and arithmetic. No I/O, no clock, no Pingora.
//!
//! A preset is a file under `config/providers/`, embedded in the binary; adding one touches no Rust. It is read by `preset_file`, its
//! schemes by `scheme_text`; a request is claimed and checked by [`scheme`], which knows three kinds: the digest of a body in a
//! header (`body_hmac`, the way of most senders), what is put together of parts (`composed`), and code (`coded`).

pub mod body_hmac;
pub mod coded;
pub mod composed;
pub mod describe;
pub mod encoding;
pub mod explain;
pub mod fetched;
pub mod handshake;
pub mod identify;
mod json;
mod json_skip;
pub mod key;
pub mod place;
pub mod preset;
mod preset_file;
mod private_key;
pub mod public_key;
pub mod request;
pub mod sample;
pub mod scheme;
mod scheme_fit;
pub mod scheme_text;
pub mod sign;
pub mod signature;
pub mod template;
pub mod timestamp;
pub mod url;
