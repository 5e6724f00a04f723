//! The way out, against a recording app on a real socket and an inbox in memory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

mod app;
mod memory;

mod outcomes;
mod pacing;
mod reload;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hooklatch::clock::ManualClock;
use hooklatch::deliver::{Deliverer, LaneSettings, RetryPlan};
use hooklatch::event::{
    Event, EventKey, KeptEvent, ProviderName, RouteName, Seq, Target, Timestamp, UpstreamName,
};
use hooklatch::handoff;
use hooklatch::shutdown::{self, Controller, Phase};
use hooklatch::telemetry::Telemetry;
use hooklatch::upstream::{Client, Endpoint, Limits};
use memory::MemoryInbox;
use tokio::time::{Instant, timeout};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for something forbidden to show itself.
const QUIET: Duration = Duration::from_millis(150);
const START: Timestamp = Timestamp(1_790_000_000_000);

fn target(name: &str) -> Target {
    Target {
        route: RouteName::new("hooks"),
        upstream: UpstreamName::new(name),
    }
}

/// Event number `seq`; its body is the number.
fn kept(seq: i64) -> KeptEvent {
    let route = RouteName::new("hooks");
    KeptEvent {
        seq: Seq(seq),
        key: EventKey::of_kept(&route, &[1; 16], Seq(seq)),
        possible_duplicate_of: None,
        event: Arc::new(Event {
            route,
            provider: ProviderName::new("quantiv"),
            event_id: None,
            event_type: None,
            type_unsigned: false,
            verified: true,
            secret: None,
            received_at: START,
            method: "POST".into(),
            path_rest: "".into(),
            query: None,
            host: "hooks.example".into(),
            client: [127, 0, 0, 1].into(),
            headers: Bytes::new(),
            has_idempotency_key: false,
            body: Bytes::from(seq.to_string()),
        }),
    }
}

fn lane(target: &Target, port: u16) -> LaneSettings {
    LaneSettings {
        target: target.clone(),
        endpoint: Endpoint {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            authority: format!("127.0.0.1:{port}").into(),
            path: "/in".into(),
            query: None,
        },
        handoff: handoff::Settings::default(),
        limits: Limits {
            connect: PATIENCE,
            tls: PATIENCE,
            write: PATIENCE,
            first_byte: PATIENCE,
            whole: PATIENCE,
            head_bytes_max: 16 * 1024,
            body_bytes_max: 64 * 1024,
            keep_body: false,
        },
        concurrency: 8,
        rates: Vec::new(),
        retry: RetryPlan {
            first: Duration::from_millis(5),
            ..RetryPlan::default()
        },
        paused: false,
    }
}

struct Stage {
    inbox: Arc<MemoryInbox>,
    clock: Arc<ManualClock>,
    control: Controller,
    deliverer: Deliverer,
}

fn start(inbox: &Arc<MemoryInbox>, lanes: Vec<LaneSettings>) -> Stage {
    let clock = Arc::new(ManualClock::new(START));
    let (control, stop) = shutdown::channel();
    control.enter(Phase::Running);
    let client = Client::new(Duration::from_secs(5), 64);
    let deliverer = Deliverer::start(
        inbox.clone(),
        client,
        Telemetry::new(),
        clock.clone(),
        lanes,
        stop,
    );
    Stage {
        inbox: inbox.clone(),
        clock,
        control,
        deliverer,
    }
}

impl Stage {
    /// Ends the lanes; nothing may be left leased.
    async fn end(self, within: Duration) -> usize {
        self.control.enter(Phase::Closing);
        let cut = timeout(PATIENCE, self.deliverer.drained(Instant::now() + within))
            .await
            .unwrap();
        assert_eq!(self.inbox.leased(), 0, "leases left behind");
        cut
    }
}
