//! What it costs to read id and type, with the id before and behind the bulk of the body.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hooklatch::fields::Fields;
use hooklatch::provider::identify::identify;
use hooklatch::provider::preset;
use hooklatch::provider::scheme::Request;

const BODY_BYTES: [usize; 4] = [256, 1 << 10, 10 << 10, 100 << 10];

fn identify_by_size(criterion: &mut Criterion) {
    let rule = &preset::find("quantiv").expect("the preset is embedded").identify;
    let headers = Fields::default();
    let mut group = criterion.benchmark_group("identify");
    for body_bytes in BODY_BYTES {
        // Many small objects, as senders write them: one long string would be read faster than any real body.
        let item = r#"{"name":"Maria Lopez","score":42,"tags":["a","b"]},"#;
        let items = item.repeat(body_bytes / item.len() + 1);
        let items = items.trim_end_matches(',');
        for (place, body) in [
            (
                "id_first",
                format!(r#"{{"id":"evt_1","event":"lead.created","data":[{items}]}}"#),
            ),
            (
                "id_last",
                format!(r#"{{"data":[{items}],"event":"lead.created","id":"evt_1"}}"#),
            ),
        ] {
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::new(place, body_bytes), &body, |bencher, body| {
                bencher.iter(|| {
                    let identity = identify(rule, &Request::new(&headers, black_box(body.as_bytes())));
                    assert_eq!(identity.id.as_deref(), Some("evt_1"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, identify_by_size);
criterion_main!(benches);
