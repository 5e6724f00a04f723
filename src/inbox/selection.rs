//! [`Selection`] as JSON: what `hooklatch events replay` sends and `POST /-/replay` takes.
//!
//! ```json
//! {"events":[17],"route":"hooks","upstream":"app","status":"dead","since":"2026-11-21T00:00:00Z","dry_run":true}
//! ```

use serde::{Deserialize, Serialize};

use super::{Selection, Status};
use crate::event::{RouteName, Seq, Timestamp, UpstreamName};

/// Why text is not a selection.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// Not JSON of the right shape.
    #[error("not a selection: {0}")]
    Json(#[from] serde_json::Error),
    /// No such status.
    #[error("status {given:?} is not one of pending, delivered, dead, filtered")]
    Status {
        /// What was given.
        given: String,
    },
    /// Not a time.
    #[error("{field} {given:?} is not a time; write it like \"2026-11-21T01:15:00Z\"")]
    Time {
        /// Where it stands.
        field: &'static str,
        /// What was given.
        given: String,
    },
    /// A conflict belongs to one event.
    #[error("conflict counts from 1 and needs exactly one entry in events")]
    Conflict,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SelectionFile {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    dry_run: bool,
}

/// Reads a selection.
///
/// # Errors
/// See [`SelectionError`]; the text can be shown to whoever sent it.
pub fn parse_selection(json: &[u8]) -> Result<Selection, SelectionError> {
    // Serde reads a list as a struct too: `[]` would be the selection of everything.
    if !json.trim_ascii_start().starts_with(b"{") {
        let error = <serde_json::Error as serde::de::Error>::custom("it must be an object in {}");
        return Err(SelectionError::Json(error));
    }
    let file: SelectionFile = serde_json::from_slice(json)?;
    if file
        .conflict
        .is_some_and(|number| number == 0 || file.events.len() != 1)
    {
        return Err(SelectionError::Conflict);
    }
    Ok(Selection {
        events: file.events.into_iter().map(Seq).collect(),
        conflict: file.conflict,
        route: file.route.map(RouteName::new),
        upstream: file.upstream.map(UpstreamName::new),
        status: file.status.as_deref().map(parse_status).transpose()?,
        since: file
            .since
            .as_deref()
            .map(|given| parse_time("since", given))
            .transpose()?,
        until: file
            .until
            .as_deref()
            .map(|given| parse_time("until", given))
            .transpose()?,
        event_type: file.event_type.map(Into::into),
        dry_run: file.dry_run,
    })
}

/// Writes a selection so that [`parse_selection`] reads it back.
pub fn selection_json(selection: &Selection) -> String {
    let file = SelectionFile {
        events: selection.events.iter().map(|seq| seq.0).collect(),
        conflict: selection.conflict,
        route: selection.route.as_ref().map(|name| name.as_str().to_owned()),
        upstream: selection.upstream.as_ref().map(|name| name.as_str().to_owned()),
        status: selection.status.map(|status| status.as_str().to_owned()),
        since: selection.since.map(|time| time.to_string()),
        until: selection.until.map(|time| time.to_string()),
        event_type: selection.event_type.as_deref().map(str::to_owned),
        dry_run: selection.dry_run,
    };
    // Strings, numbers and a list: there is nothing that could fail.
    serde_json::to_string(&file).unwrap_or_default()
}

/// Reads the word of a [`Status`].
///
/// # Errors
/// Names the words there are.
pub fn parse_status(given: &str) -> Result<Status, SelectionError> {
    [Status::Pending, Status::Delivered, Status::Dead, Status::Filtered]
        .into_iter()
        .find(|status| status.as_str() == given)
        .ok_or_else(|| SelectionError::Status {
            given: given.to_owned(),
        })
}

fn parse_time(field: &'static str, given: &str) -> Result<Timestamp, SelectionError> {
    given
        .parse::<jiff::Timestamp>()
        .map(|time| Timestamp(time.as_millisecond()))
        .map_err(|_| SelectionError::Time {
            field,
            given: given.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_survives_the_way_through_json() {
        for selection in [
            Selection::default(),
            Selection {
                events: vec![Seq(3), Seq(9)],
                route: Some(RouteName::new("r")),
                upstream: Some(UpstreamName::new("u")),
                status: Some(Status::Delivered),
                since: Some(Timestamp(1_800_000_000_123)),
                until: Some(Timestamp(1_800_000_001_000)),
                event_type: Some("a.b".into()),
                dry_run: true,
                conflict: None,
            },
            Selection {
                events: vec![Seq(3)],
                conflict: Some(2),
                ..Selection::default()
            },
        ] {
            let json = selection_json(&selection);
            assert_eq!(parse_selection(json.as_bytes()).unwrap(), selection, "{json}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (name, json) in [
            ("not JSON", "all"),
            ("unknown field", r#"{"event":[1]}"#),
            ("unknown status", r#"{"status":"lost"}"#),
            ("not a time", r#"{"since":"yesterday"}"#),
            ("conflict of nothing", r#"{"conflict":1}"#),
            ("conflict of two", r#"{"conflict":1,"events":[1,2]}"#),
            ("conflict counted from 0", r#"{"conflict":0,"events":[1]}"#),
            ("a field twice", r#"{"route":"a","route":"b"}"#),
            ("a time without a zone", r#"{"since":"2026-11-21T01:15:00"}"#),
        ] {
            assert!(parse_selection(json.as_bytes()).is_err(), "{name}");
        }
    }
}
