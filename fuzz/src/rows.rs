//! Rows of the store, read back whatever their cells hold, as after damage: nothing is invented, nothing panics.
//!
//! The input names the cells of a real store, copied into memory, that are not as they were written.

use std::sync::Arc;
use std::time::Duration;

use hooklatch::clock::ManualClock;
use hooklatch::event::{
    DedupKey, Event, KeptEvent, KeyKind, ProviderName, RouteName, SecretName, Seq, Target, Timestamp,
    UpstreamName,
};
use hooklatch::inbox::{
    Accepted, Cell, Inbox, NewEvent, Outcome, ProxyMark, Retention, Rows, Selection, Settings, Settlement,
    SqliteInbox, open,
};
use hooklatch::telemetry::Telemetry;
use tokio::runtime::Builder;

use super::input::Input;

const NOW: i64 = 1_800_000_000_000;
/// Rows that were to be tried again are due by then.
const LATER: i64 = NOW + 3_600_000;
/// One that waits for its first attempt, one with an attempt behind it.
const EVENTS: usize = 2;

struct World {
    rows: Rows,
    target: Target,
    kept: Vec<Arc<KeptEvent>>,
}

thread_local! {
    static WORLD: World = World::new();
}

/// One execution.
pub fn run(data: &[u8]) {
    WORLD.with(|world| world.run(Input(data)));
}

impl World {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hooklatch-rows-{}", std::process::id()));
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let world = runtime.block_on(async {
            let clock = Arc::new(ManualClock::new(Timestamp(NOW)));
            let inbox = open(&settings(&folder), clock, Telemetry::new()).unwrap();
            fill(&inbox).await;
            let target = target();
            let rows = Rows::copy(&inbox).unwrap();
            let kept = rows.claim(&target, LATER).unwrap();
            assert_eq!(
                (kept.whole.len(), kept.corrupt.len()),
                (EVENTS, 0),
                "a healthy store"
            );
            inbox.close().await;
            World {
                rows,
                target,
                kept: kept.whole,
            }
        });
        // The copy is all that is needed.
        std::fs::remove_dir_all(&folder).unwrap();
        world
    }

    fn run(&self, mut input: Input<'_>) {
        let first = usize::from(input.byte());
        let (count, reader) = (first % 5, first / 5 % 4);
        let mut touched = Vec::new();
        for _ in 0..count {
            let column = usize::from(input.byte()) % self.rows.columns();
            touched.push(column);
            match input.byte() {
                0 => self.rows.restore(column, true).unwrap(),
                which => {
                    let seq = self.kept.get(usize::from(which % 3)).map(|kept| kept.seq.0);
                    // What a table itself refuses is not in any file.
                    drop(self.rows.set(column, cell(&mut input), seq));
                }
            }
        }
        // All who read, or one of them: several times as fast.
        if matches!(reader, 0 | 1) {
            self.claim();
        }
        if matches!(reader, 0 | 2) {
            self.show();
        }
        if matches!(reader, 0 | 3) {
            self.start();
        }
        touched
            .iter()
            .for_each(|column| self.rows.restore(*column, false).unwrap());
    }

    /// As a delivery does.
    fn claim(&self) {
        if let Ok(read) = self.rows.claim(&self.target, LATER) {
            for got in &read.whole {
                let kept = self.kept.iter().find(|kept| kept.seq == got.seq);
                let kept = kept.unwrap_or_else(|| panic!("an event that nobody sent: {}", got.seq));
                same(kept, got);
            }
        }
    }

    /// As `hooklatch events show` does.
    fn show(&self) {
        for kept in &self.kept {
            if let Ok(Some(detail)) = self.rows.reader().event(kept.seq) {
                assert_eq!(detail.line.seq, kept.seq);
                if !detail.corrupt
                    && let (Some(headers), Some(body)) = (&detail.headers, &detail.body)
                {
                    assert_eq!(
                        (&headers[..], &body[..]),
                        (&kept.event.headers[..], &kept.event.body[..])
                    );
                }
            }
        }
    }

    /// As a start and `hooklatch events list` do.
    fn start(&self) {
        if let Ok(marks) = self.rows.marks(NOW) {
            assert!(marks.iter().all(|mark| mark.until.0 > NOW), "a mark that ran out");
        }
        let (_names, _list) = (
            self.rows.has_names(),
            self.rows.reader().list(&Selection::default(), None, 10),
        );
    }
}

/// What is handed out to be sent is what was kept.
fn same(kept: &KeptEvent, got: &KeptEvent) {
    assert_eq!(kept.key, got.key);
    assert_eq!(kept.possible_duplicate_of, got.possible_duplicate_of);
    let (kept, got) = (&kept.event, &got.event);
    assert_eq!(kept.body, got.body);
    assert_eq!(kept.headers, got.headers);
    assert_eq!((&kept.route, &kept.provider), (&got.route, &got.provider));
    assert_eq!(
        (&kept.event_id, &kept.event_type),
        (&got.event_id, &got.event_type)
    );
    assert_eq!(
        (kept.type_unsigned, kept.verified),
        (got.type_unsigned, got.verified)
    );
    assert_eq!((&kept.secret, kept.received_at), (&got.secret, got.received_at));
    assert_eq!(
        (&kept.method, &kept.path_rest, &kept.query),
        (&got.method, &got.path_rest, &got.query)
    );
    assert_eq!((&kept.host, kept.client), (&got.host, got.client));
    assert_eq!(kept.has_idempotency_key, got.has_idempotency_key);
}

fn cell<'a>(input: &mut Input<'a>) -> Cell<'a> {
    match input.byte() % 8 {
        0 => Cell::Null,
        1 => Cell::Integer(i64::from(input.byte().cast_signed())),
        2 => Cell::Integer(input.number()),
        3 => Cell::Real(f64::from_bits(input.number().cast_unsigned())),
        4 | 5 => Cell::Text(input.short()),
        _ => Cell::Blob(input.short()),
    }
}

fn settings(folder: &std::path::Path) -> Settings {
    Settings {
        path: folder.to_owned(),
        allow_ephemeral: true,
        bytes_max: 1 << 30,
        free_bytes_min: 0,
        queue_events_max: 16,
        queue_bytes_max: 1 << 20,
        accept_wait_max: Duration::from_secs(10),
        retention: Retention {
            delivered: Duration::from_secs(3600),
            dead: Duration::from_secs(3600),
        },
    }
}

fn target() -> Target {
    Target {
        route: RouteName::new("hooks"),
        upstream: UpstreamName::new("app"),
    }
}

/// A row in every table.
async fn fill(inbox: &SqliteInbox) {
    let tried = accept(inbox, "evt_1", "{}").await;
    let job = inbox.claim(&target(), 1).await.unwrap().jobs.remove(0);
    inbox.settle(Settlement {
        seq: job.event.seq,
        target: target(),
        attempts: 1,
        outcome: Outcome::Retry {
            wait: Duration::from_secs(60),
            status: Some(503),
            error: "503".into(),
        },
    });
    inbox.mark(ProxyMark {
        key: DedupKey([3; 16]),
        at: Timestamp(NOW),
        until: Timestamp(LATER),
    });
    accept(inbox, "evt_2", r#"{"id":"evt_2"}"#).await;
    // Its copy is kept as a conflict.
    accept(inbox, "evt_2", "other").await;
    // Settlements and marks are written some time after.
    while inbox.marks().is_empty() || inbox.counts().targets.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(tried, Accepted::New(Seq(1)));
}

async fn accept(inbox: &SqliteInbox, id: &str, body: &str) -> Accepted {
    let route = target().route;
    let new = NewEvent {
        dedup_key: DedupKey::derive(&inbox.hash_key(), KeyKind::Id, &route, "", id.as_bytes()),
        key_kind: KeyKind::Id,
        dedup_window: Duration::from_secs(3600),
        upstreams: [UpstreamName::new("app"), UpstreamName::new("audit")].into(),
        event: Arc::new(Event {
            route,
            provider: ProviderName::new("quantiv"),
            event_id: Some(id.into()),
            event_type: Some("lead.created".into()),
            type_unsigned: false,
            verified: true,
            secret: Some(SecretName::new("quantiv")),
            received_at: Timestamp(NOW),
            method: "POST".into(),
            path_rest: "a/b".into(),
            query: Some("x=1".into()),
            host: "hooks.example".into(),
            client: [192, 0, 2, 1].into(),
            headers: "X-Signature: 00ff\r\nX-Forwarded-For: 192.0.2.1\r\n".into(),
            has_idempotency_key: false,
            body: body.to_owned().into(),
        }),
    };
    inbox.accept(new).await.unwrap()
}
