//! Whether the time of a check tells how much of a digest was right: two classes in random order, compared by Welch's t
//! (Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?", 2017).
//!
//! Only in the long form: a busy machine decides it otherwise.

use std::hint::black_box;
use std::time::Instant;

use super::forgeries::Verifier;
use super::forgery::{FORMS, Signed, hmac};
use crate::support::{proved, rounds, seed};

/// Above this the classes differ, by the paper.
const T_MAX: f64 = 4.5;
/// Slower samples were interrupted; the same share of all, whatever their class.
const KEPT: f64 = 0.9;
/// Inputs made at a time.
const BATCH: usize = 1000;

/// Welch's t of the two classes over the faster samples.
fn t_of(mut samples: Vec<(bool, u32)>) -> f64 {
    samples.sort_unstable_by_key(|(_, nanos)| *nanos);
    let kept = (samples.len() as f64 * KEPT) as usize;
    samples.truncate(kept);
    let class = |class: bool| {
        let times: Vec<f64> = samples
            .iter()
            .filter(|(last, _)| *last == class)
            .map(|(_, nanos)| f64::from(*nanos))
            .collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((first, first_error), (last, last_error)) = (class(false), class(true));
    (first - last) / (first_error + last_error).sqrt()
}

/// A request, its right digest, and whether the one it carries is wrong in its last byte rather than its first.
struct Input {
    request: Signed,
    right: [u8; 32],
    last: bool,
}

fn input(random: &mut fastrand::Rng) -> Input {
    let form = &FORMS[2];
    let body: Vec<u8> = (0..64).map(|_| random.u8(..)).collect();
    let right = hmac(form.secrets().live[0].as_bytes(), &body);
    let (mut digest, last) = (right, random.bool());
    digest[if last { 31 } else { 0 }] ^= random.u8(1..);
    let value = format!("sha256={}", hex::encode(digest)).into_bytes();
    let headers = vec![(b"x-iverton-signature".to_vec(), value)];
    Input {
        request: Signed { headers, body },
        right,
        last,
    }
}

/// Times `check` on requests of both classes in random order.
fn measure(count: usize, seed: u64, mut check: impl FnMut(&Input) -> bool) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut samples = Vec::with_capacity(count);
    while samples.len() < count {
        // Made beforehand: a branch on the class right before the clock starts would be measured with the check.
        let batch: Vec<Input> = (0..BATCH).map(|_| input(&mut random)).collect();
        let times = batch.iter().map(|input| {
            let began = Instant::now();
            let accepted = black_box(check(black_box(input)));
            let nanos = u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX);
            assert!(!accepted);
            nanos
        });
        let times: Vec<u32> = times.collect();
        // The first ones find cold caches.
        samples.extend(batch.iter().map(|input| input.last).zip(times).skip(BATCH / 10));
    }
    t_of(samples)
}

#[test]
fn the_time_of_a_check_does_not_tell_where_a_digest_is_wrong() {
    const NAME: &str = "hostile: timing of signatures";
    let count = rounds(0, 1_000_000);
    if count == 0 {
        eprintln!("{NAME}: only in the long form, since it needs a quiet machine");
        return;
    }
    let seed = seed(NAME);
    let verifier = Verifier::new(&FORMS[2]);
    let t = measure(count, seed, |input| verifier.accepts(&input.request));
    // What stops at the first difference must show, or the clock is too coarse to say anything.
    let leaky = measure(count, seed, |input| {
        let mut sent = [0; 32];
        hex::decode_to_slice(&input.request.headers[0].1[7..], &mut sent).unwrap();
        sent.iter().zip(&input.right).all(|(sent, right)| sent == right)
    });
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    proved(
        NAME,
        format!(
            "{count} samples of a {build} build: t = {t:.2}; a comparison that stops early: t = {leaky:.2}"
        ),
    );
    assert!(leaky.abs() > T_MAX, "the control does not show: t = {leaky}");
    assert!(t.abs() < T_MAX, "t = {t}");
}
