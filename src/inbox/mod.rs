//! The middle: what both sides know of the durable store, and the store itself.
//!
//! `receive` accepts events here, `deliver` claims and settles deliveries; they never meet elsewhere.

mod answer;
mod contract;
mod selection;

mod reader;
mod sqlite;

pub use answer::{Acceptance, Answer};
pub use contract::{
    Accepted, Claim, Counts, Health, Inbox, InboxError, Job, NewEvent, Outcome, ProxyMark, Replayed,
    Retention, Selection, Settings, Settlement, Status, TargetCounts,
};
pub use reader::{
    ConflictLine, DeliveryLine, EventCounts, EventDetail, EventLine, LIST_MAX, Reader, ReaderError,
};
pub use selection::{SelectionError, parse_selection, parse_status, selection_json};
#[cfg(any(test, fuzzing))]
pub use sqlite::{Cell, Read, Rows};
pub use sqlite::{OpenError, SqliteInbox, open};
