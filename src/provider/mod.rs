//! What each sender puts on the wire: data and arithmetic. No I/O, no clock, no Pingora.
//!
//! A preset is a file under `config/providers/`, embedded in the binary; adding one touches no Rust.

pub mod explain;
pub mod identify;
mod json;
pub mod preset;
mod preset_file;
pub mod sample;
pub mod scheme;
pub mod signature;
