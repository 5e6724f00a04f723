//! What it costs to read a signature header and to check it over bodies of several sizes.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::provider::key::SchemeKey;
use hooklatch::provider::preset;
use hooklatch::provider::signature::LiveKey;
use hooklatch::secret::Key;

/// Typical events, a large one, and the default cap.
const BODY_BYTES: [usize; 5] = [256, 1 << 10, 10 << 10, 100 << 10, 1 << 20];

fn verify(criterion: &mut Criterion) {
    let preset = preset::find("quantiv").expect("the preset is embedded");
    let scheme = preset.body_hmac().expect("a digest of the body");
    let key = Key::new(b"bench-secret-0123456789").expect("not empty");
    let keys = [LiveKey {
        name: SecretName::new("bench"),
        key: SchemeKey::Hmac(key.clone()),
        until: None,
    }];
    let mut group = criterion.benchmark_group("verify");
    for body_bytes in BODY_BYTES {
        let body = vec![b'x'; body_bytes];
        let signed = scheme.sign(&key, &body);
        let pairs: [(&[u8], &[u8]); 2] = [
            (b"content-type", b"application/json"),
            (signed.header.as_bytes(), signed.value.as_bytes()),
        ];
        let headers = Fields::from_pairs(pairs);
        group.throughput(Throughput::Bytes(body_bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(body_bytes), &body, |bencher, body| {
            bencher.iter(|| {
                let presented = scheme.read(black_box(&headers)).expect("well formed");
                presented
                    .check(&keys, Timestamp(0), black_box(body))
                    .expect("genuine")
                    .clone()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
