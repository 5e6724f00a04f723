//! Answers in JSON.

use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// What is said when something is refused. Every text is ours and holds nothing secret.
#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

/// `value` as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Our own plain structs always serialise.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let content_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [content_type], body).into_response()
}

/// A refusal.
pub(super) fn refusal(status: StatusCode, error: &str) -> Response {
    json(status, &Refusal { error })
}

/// A refusal with one more header.
pub(super) fn refusal_with(status: StatusCode, header: (HeaderName, &'static str), error: &str) -> Response {
    let mut response = refusal(status, error);
    response
        .headers_mut()
        .insert(header.0, HeaderValue::from_static(header.1));
    response
}
