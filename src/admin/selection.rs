//! The body of `POST /-/replay`: which deliveries, strictly.

use serde::Deserialize;

use crate::event::{RouteName, Seq, Timestamp, UpstreamName};
use crate::inbox::{Selection, Status};

/// What is wrong with a selection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SelectionError {
    /// Not JSON, or not the fields there are.
    #[error("the selection is not right: {0}; write it like {{\"route\":\"quantiv\",\"status\":\"dead\"}}")]
    Json(String),
    /// No such state.
    #[error("status {given:?} is none of pending, delivered, dead, filtered")]
    Status {
        /// As sent.
        given: String,
    },
    /// Not a time.
    #[error("{field} {given:?} is not a time like 2026-11-21T01:15:00Z")]
    Time {
        /// `since` or `until`.
        field: &'static str,
        /// As sent.
        given: String,
    },
    /// A conflict belongs to one event, and they are counted from 1.
    #[error("conflict counts from 1 and needs exactly one event in events")]
    Conflict,
}

/// The text's own form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectionText {
    #[serde(default)]
    events: Vec<i64>,
    conflict: Option<u32>,
    route: Option<String>,
    upstream: Option<String>,
    status: Option<String>,
    since: Option<String>,
    until: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Reads a selection.
pub(super) fn parse(body: &[u8]) -> Result<Selection, SelectionError> {
    let text: SelectionText =
        serde_json::from_slice(body).map_err(|error| SelectionError::Json(error.to_string()))?;
    if text
        .conflict
        .is_some_and(|number| number == 0 || text.events.len() != 1)
    {
        return Err(SelectionError::Conflict);
    }
    Ok(Selection {
        events: text.events.into_iter().map(Seq).collect(),
        conflict: text.conflict,
        route: text.route.map(RouteName::new),
        upstream: text.upstream.map(UpstreamName::new),
        status: text.status.map(status).transpose()?,
        since: text.since.map(|given| time("since", given)).transpose()?,
        until: text.until.map(|given| time("until", given)).transpose()?,
        event_type: text.r#type.map(Into::into),
        dry_run: text.dry_run,
    })
}

fn status(given: String) -> Result<Status, SelectionError> {
    [Status::Pending, Status::Delivered, Status::Dead, Status::Filtered]
        .into_iter()
        .find(|status| status.as_str() == given)
        .ok_or(SelectionError::Status { given })
}

fn time(field: &'static str, given: String) -> Result<Timestamp, SelectionError> {
    given
        .parse::<jiff::Timestamp>()
        .map(|time| Timestamp(time.as_millisecond()))
        .map_err(|_| SelectionError::Time { field, given })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read() {
        let body = br#"{"events":[7],"conflict":2,"route":"r","upstream":"u","status":"delivered",
            "since":"2026-11-21T01:15:00Z","until":"2026-11-21T02:15:00.5+01:00","type":"lead.created","dry_run":true}"#;
        assert_eq!(
            parse(body).unwrap(),
            Selection {
                events: vec![Seq(7)],
                conflict: Some(2),
                route: Some(RouteName::new("r")),
                upstream: Some(UpstreamName::new("u")),
                status: Some(Status::Delivered),
                since: Some(Timestamp(1_795_223_700_000)),
                until: Some(Timestamp(1_795_223_700_500)),
                event_type: Some("lead.created".into()),
                dry_run: true,
            }
        );
        assert_eq!(parse(b"{}").unwrap(), Selection::default());
    }

    #[test]
    fn what_is_not_right_is_refused() {
        for (name, body) in [
            ("nothing", ""),
            ("no object", "[]"),
            ("more than one", "{}{}"),
            ("an unknown field", r#"{"upstraem":"u"}"#),
            ("a field twice", r#"{"route":"a","route":"b"}"#),
            ("another type", r#"{"events":"7"}"#),
            ("an unknown status", r#"{"status":"Dead"}"#),
            ("a time without a zone", r#"{"since":"2026-11-21T01:15:00"}"#),
            ("no time", r#"{"until":"yesterday"}"#),
            ("a conflict of no event", r#"{"conflict":1}"#),
            ("a conflict of two events", r#"{"conflict":1,"events":[1,2]}"#),
            ("a conflict counted from 0", r#"{"conflict":0,"events":[1]}"#),
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{name}");
        }
    }
}
