//! The way in: connection, route, limit, body, verify, identify, pace, record (or relay), answer.

pub mod settings;
