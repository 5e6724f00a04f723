//! A histogram of atomics: the library's own takes a lock for every value.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The sum is kept as a whole number of these parts of a unit.
const PARTS: f64 = 1e6;

/// Counts values by size; cheap to clone, clones count together.
#[derive(Clone)]
pub(super) struct Histogram(Arc<State>);

struct State {
    /// Upper bounds, rising.
    bounds: &'static [f64],
    /// One more than there are bounds: the last counts what is above them all.
    buckets: Box<[AtomicU64]>,
    sum_parts: AtomicU64,
}

impl Histogram {
    /// Counts by the upper bounds `bounds`, which must rise.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(State {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_parts: AtomicU64::new(0),
        }))
    }

    /// Counts `value`, which is not negative.
    pub(super) fn observe(&self, value: f64) {
        let state = &self.0;
        let index = state.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = state.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
            state
                .sum_parts
                .fetch_add((value * PARTS) as u64, Ordering::Relaxed);
        }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        // The encoder writes the bound `f64::INFINITY` as `+Inf` and adds the buckets up itself.
        let bounds = state.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(state.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)))
            .collect();
        // Added up from what was just read, so that `_count` equals the `+Inf` bucket.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = state.sum_parts.load(Ordering::Relaxed) as f64 / PARTS;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histogram")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn values_land_in_the_first_bucket_that_holds_them() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for value in [0.0, 0.1, 0.5, 1.0, 7.25] {
            histogram.observe(value);
        }
        let mut registry = Registry::default();
        registry.register("h", "H", histogram);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "h_bucket{le=\"0.1\"} 2",
            "h_bucket{le=\"1.0\"} 4",
            "h_bucket{le=\"+Inf\"} 5",
            "h_count 5",
            "h_sum 8.85",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}
