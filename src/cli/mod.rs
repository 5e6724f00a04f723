//! The verbs, one file each.

mod capture;
pub mod error;
pub mod providers;
pub mod secret_args;
pub mod sign;
pub mod verify;
