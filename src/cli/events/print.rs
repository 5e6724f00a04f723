//! How events are printed: for people, or as one JSON object a line.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::gateway::plain;
use super::Output;
use crate::inbox::{EventDetail, EventLine, Status};

pub(super) fn print_list(lines: &[EventLine], output: Output, out: &mut dyn Write) -> io::Result<()> {
    if output == Output::Json {
        for line in lines {
            writeln!(out, "{}", line_json(line))?;
        }
        return out.flush();
    }
    writeln!(
        out,
        "{:>10}  {:24}  {:9}  {:20}  {:28}  {:24}  ERROR",
        "SEQ", "RECEIVED", "STATUS", "ROUTE", "TYPE", "ID"
    )?;
    for line in lines {
        writeln!(
            out,
            "{:>10}  {:24}  {:9}  {:20}  {:28}  {:24}  {}",
            line.seq,
            line.received_at.to_string(),
            line.status.as_str(),
            plain(&line.route),
            plain(line.event_type.as_deref().unwrap_or("-")),
            plain(line.event_id.as_deref().unwrap_or("-")),
            plain(line.last_error.as_deref().unwrap_or("")),
        )?;
    }
    out.flush()
}

fn line_json(line: &EventLine) -> Value {
    json!({
        "seq": line.seq.0,
        "route": line.route,
        "provider": line.provider,
        "event_id": line.event_id,
        "type": line.event_type,
        "received_at": line.received_at.to_string(),
        "status": line.status.as_str(),
        "verified": line.verified,
        "attempts": line.attempts,
        "last_error": line.last_error,
        "duplicates": line.duplicates,
        "conflicts": line.conflicts,
        "body_bytes": line.body_bytes,
    })
}

pub(super) fn print_event(event: &EventDetail, output: Output, out: &mut dyn Write) -> io::Result<()> {
    if output == Output::Json {
        writeln!(out, "{}", event_json(event))?;
        return out.flush();
    }
    let line = &event.line;
    let or_none = |text: &Option<String>| plain(text.as_deref().unwrap_or("-"));
    writeln!(out, "event       {}", line.seq)?;
    writeln!(
        out,
        "route       {} ({})",
        plain(&line.route),
        plain(&line.provider)
    )?;
    writeln!(out, "id          {}", or_none(&line.event_id))?;
    writeln!(out, "type        {}", or_none(&line.event_type))?;
    writeln!(
        out,
        "received    {} from {} by {}",
        line.received_at,
        plain(&event.client),
        plain(&event.method)
    )?;
    writeln!(
        out,
        "verified    {} (secret {})",
        line.verified,
        or_none(&event.secret)
    )?;
    writeln!(out, "status      {}", line.status.as_str())?;
    writeln!(
        out,
        "repeats     {} ({} with another body)",
        line.duplicates, line.conflicts
    )?;
    let kept = match event {
        _ if event.corrupt => ", DAMAGED: not what was received, never delivered so",
        _ if event.body.is_some() => "",
        _ => ", gone",
    };
    writeln!(out, "body        {} bytes{kept}", line.body_bytes)?;
    for delivery in &event.deliveries {
        write!(
            out,
            "delivery    {} {}",
            plain(&delivery.upstream),
            delivery.status.as_str()
        )?;
        if delivery.parked && delivery.status == Status::Pending {
            write!(out, " (parked: not in the configuration)")?;
        }
        if delivery.attempts > 0 {
            write!(out, ", attempts {}", delivery.attempts)?;
        }
        if let Some(status) = delivery.last_status {
            write!(out, ", last status {status}")?;
        }
        if let Some(due) = delivery.due {
            write!(out, ", due {due}")?;
        }
        if let Some(error) = &delivery.last_error {
            write!(out, ", {}", plain(error))?;
        }
        writeln!(out)?;
    }
    for conflict in &event.conflicting {
        writeln!(
            out,
            "conflict    {} of {}, {} bytes",
            conflict.n,
            conflict.received_at,
            conflict.body.len()
        )?;
    }
    out.flush()
}

fn event_json(event: &EventDetail) -> Value {
    let mut value = line_json(&event.line);
    let deliveries: Vec<Value> = event
        .deliveries
        .iter()
        .map(|delivery| {
            json!({
                "upstream": delivery.upstream,
                "status": delivery.status.as_str(),
                "parked": delivery.parked,
                "attempts": delivery.attempts,
                "last_status": delivery.last_status,
                "last_error": delivery.last_error,
                "last_at": delivery.last_at.map(|at| at.to_string()),
                "due": delivery.due.map(|at| at.to_string()),
            })
        })
        .collect();
    let conflicting: Vec<Value> = event
        .conflicting
        .iter()
        .map(|conflict| {
            json!({
                "n": conflict.n,
                "received_at": conflict.received_at.to_string(),
                "body_bytes": conflict.body.len(),
            })
        })
        .collect();
    let more = json!({
        "method": event.method,
        "path_rest": event.path_rest,
        "host": event.host,
        "client": event.client,
        "secret": event.secret,
        "body_kept": event.body.is_some(),
        "corrupt": event.corrupt,
        "deliveries": deliveries,
        "conflicting": conflicting,
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

pub(super) fn print_replayed(
    deliveries: u64,
    skipped: u64,
    dry_run: bool,
    output: Output,
    out: &mut dyn Write,
) -> io::Result<()> {
    match (output, dry_run) {
        (Output::Json, _) => {
            writeln!(
                out,
                "{}",
                json!({ "deliveries": deliveries, "skipped": skipped, "dry_run": dry_run })
            )?;
        }
        (Output::Text, true) => writeln!(out, "would replay {deliveries} deliveries, leave {skipped} alone")?,
        (Output::Text, false) => writeln!(out, "replayed {deliveries} deliveries, left {skipped} alone")?,
    }
    out.flush()
}
