//! What group commit gives: events kept per second when so many callers wait at once, on this machine's disk, in a store that
//! is empty at first and in one that has a million events.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hooklatch::clock::{Clock, SystemClock};
use hooklatch::event::{DedupKey, Event, KeyKind, ProviderName, RouteName, UpstreamName};
use hooklatch::inbox::{self, Inbox, NewEvent, Retention, Settings};
use hooklatch::telemetry::Telemetry;

const BODY_BYTES: usize = 1024;
/// Callers that wait at the same time.
const CALLERS: [usize; 4] = [1, 16, 64, 256];
/// Callers of both stores.
const COMPARED: usize = 64;
const MANY_EVENTS: u64 = 1_000_000;

fn commit(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk");
    let settings = Settings {
        path: folder.path().join("store"),
        allow_ephemeral: true,
        bytes_max: 64 << 30,
        free_bytes_min: 0,
        queue_events_max: 4096,
        queue_bytes_max: 64 << 20,
        accept_wait_max: Duration::from_secs(60),
        retention: Retention {
            delivered: Duration::from_secs(3600),
            dead: Duration::from_secs(3600),
        },
    };
    let store = inbox::open(&settings, Arc::new(SystemClock), Telemetry::new()).expect("the store opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let route = RouteName::new("bench");
    let upstreams: Arc<[UpstreamName]> = [UpstreamName::new("default")].into();
    let mut number = 0_u64;
    let mut next = || {
        number += 1;
        let id = format!("evt_{number}");
        NewEvent {
            dedup_key: DedupKey::derive(&store.hash_key(), KeyKind::Id, &route, "", id.as_bytes()),
            key_kind: KeyKind::Id,
            dedup_window: Duration::from_secs(3600),
            upstreams: upstreams.clone(),
            event: event(&route, &id).into(),
        }
    };
    let mut keep = |callers: usize| {
        let waiting = (0..callers).map(|_| store.accept(next())).collect::<Vec<_>>();
        runtime.block_on(async {
            for acceptance in waiting {
                acceptance.await.expect("kept");
            }
        });
    };
    let mut group = criterion.benchmark_group("commit");
    for callers in CALLERS {
        group.throughput(Throughput::Elements(callers as u64));
        group.bench_function(BenchmarkId::from_parameter(callers), |bencher| {
            bencher.iter(|| keep(callers));
        });
    }
    // A test runner, which only asks whether it runs, does not wait for a million.
    if std::env::args().any(|argument| argument == "--bench") {
        while store.counts().events < MANY_EVENTS {
            keep(256);
        }
        group.throughput(Throughput::Elements(COMPARED as u64));
        group.bench_function(BenchmarkId::new("with_a_million", COMPARED), |bencher| {
            bencher.iter(|| keep(COMPARED));
        });
    }
    group.finish();
    runtime.block_on(store.close());
}

fn event(route: &RouteName, id: &str) -> Event {
    Event {
        route: route.clone(),
        provider: ProviderName::new("quantiv"),
        event_id: Some(id.into()),
        event_type: Some("lead.created".into()),
        type_unsigned: false,
        verified: true,
        secret: None,
        received_at: SystemClock.now(),
        method: "POST".into(),
        path_rest: "".into(),
        query: None,
        host: "hooks.example".into(),
        client: IpAddr::from([127, 0, 0, 1]),
        headers: Bytes::from_static(b"Content-Type: application/json\r\nX-Quantiv-Signature: 0\r\n"),
        has_idempotency_key: false,
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);
