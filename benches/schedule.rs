//! What it costs to draw the next wait of a delivery.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hooklatch::deliver::RetryPlan;

fn schedule(criterion: &mut Criterion) {
    let plan = RetryPlan::default();
    let mut group = criterion.benchmark_group("schedule");
    for attempts in [1, 5, 50] {
        group.bench_with_input(
            BenchmarkId::from_parameter(attempts),
            &attempts,
            |bencher, attempts| {
                bencher.iter(|| {
                    let asked = Some(Duration::from_secs(2));
                    black_box(&plan).wait(black_box(*attempts), black_box(asked), black_box(0.5))
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, schedule);
criterion_main!(benches);
