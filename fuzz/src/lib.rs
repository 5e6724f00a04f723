//! What the fuzz targets run: each is a function of bytes that panics where a promise is broken.
//!
//! cargo-fuzz calls them through `fuzz_targets/`. `make test` replays the committed seeds through the same functions
//! (`seeds`); for that the library includes this folder as a module of its tests.

pub mod answer;
pub mod config;
pub mod identify;
pub mod request;
pub mod rows;
pub mod signature;

mod hmac;
mod input;
mod json;
mod wire;

#[cfg(test)]
mod seeds;
