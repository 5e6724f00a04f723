//! A store whose files were damaged while nobody ran: it is refused with a reason, or serves what is whole. Never is an
//! event handed out that is not, bit for bit, what was accepted, and what is accepted into it is handed out again.

mod cases;
mod sample;
mod trial;

use fastrand::Rng;

use self::sample::End;
use self::trial::{Bench, Damage, FRAME, PAGE, SECTOR, used};
use crate::support::{rounds, seed};

/// So much more, and a store is not checked as a whole when it is opened.
const LARGE: usize = 65 << 20;

#[test]
fn a_damaged_small_store_is_refused_or_serves_what_is_whole() {
    let mut rng = Rng::with_seed(seed("damaged_store"));
    let mut bench = Bench::new(0, End::Closed);
    let bytes = bench.sample.files.db.clone();
    let damages = (0..rounds(120, 20_000)).map(|_| Damage::drawn(&bytes, PAGE, &mut rng));
    bench.damage_db(damages, |damage, silent| {
        assert!(silent.is_empty(), "{damage:?}: {silent:?}");
    });
    bench.finish("damaged_store");
}

#[test]
fn a_damaged_large_store_never_hands_out_what_was_altered() {
    let mut rng = Rng::with_seed(seed("damaged_large_store"));
    let mut bench = Bench::new(LARGE, End::Closed);
    let db = bench.sample.files.db.clone();
    let pages: Vec<usize> = (0..db.len() / PAGE)
        .filter(|page| !is_ballast(&db[page * PAGE..(page + 1) * PAGE]))
        .collect();
    let damages = (0..rounds(12, 3_000)).map(|_| {
        // The ballast itself is one event, and delivered: the damage goes to the rest.
        let page = pages[rng.usize(..pages.len())];
        let bytes = &db[page * PAGE..(page + 1) * PAGE];
        match Damage::drawn(bytes, PAGE, &mut rng) {
            Damage::Flip { bit } => Damage::Flip {
                bit: bit + page * PAGE * 8,
            },
            Damage::Byte { at, to } => Damage::Byte {
                at: at + page * PAGE,
                to,
            },
            Damage::Zero { .. } => Damage::Zero { page },
            Damage::Noise { seed, .. } => Damage::Noise { page, seed },
            Damage::Swap { .. } => Damage::Swap {
                one: page,
                other: pages[rng.usize(..pages.len())],
            },
            Damage::Double { .. } => Damage::Double {
                from: pages[rng.usize(..pages.len())],
                to: page,
            },
            Damage::Cut { .. } => Damage::Cut {
                length: rng.usize(..db.len()),
            },
            noisy @ Damage::Noisy { .. } => noisy,
        }
    });
    // What is missing with nothing said is counted, and told on the page.
    bench.damage_db(damages, |_, _| {});
    bench.finish("damaged_large_store");
}

fn is_ballast(page: &[u8]) -> bool {
    page[100..].iter().all(|byte| *byte == b'x')
}

#[test]
fn a_damaged_log_never_brings_back_what_was_altered() {
    let mut rng = Rng::with_seed(seed("damaged_log"));
    let mut bench = Bench::new(0, End::Logged);
    let bytes = bench.sample.files.log.clone();
    let last = bench.sample.pending.iter().map(|(seq, _)| *seq).max().unwrap();
    let damages = (0..rounds(40, 20_000)).map(|_| Damage::drawn(&bytes, FRAME, &mut rng));
    bench.damage_log(damages, |damage, silent| {
        // The end of a log may be missing for many reasons; a change of what is there is reported, but for the last two
        // commits, which a power cut could have left so.
        if matches!(damage, Damage::Flip { .. } | Damage::Byte { .. }) {
            assert!(
                silent.iter().all(|(seq, _)| *seq > last - 2),
                "{damage:?}: {silent:?}"
            );
        }
    });
    bench.finish("damaged_log");
}

#[test]
fn damaged_bodies_are_reported_and_never_sent() {
    let mut rng = Rng::with_seed(seed("damaged_bodies"));
    let mut bench = Bench::new(0, End::Closed);
    let bytes = bench.sample.files.bodies.values().next().unwrap().clone();
    assert!(bytes.len() > 4096, "no body lies beside the database");
    let damages = (0..rounds(40, 5_000)).map(|turn| match turn % 20 {
        0 => Damage::Cut { length: 0 },
        _ => Damage::drawn(&bytes, SECTOR, &mut rng),
    });
    bench.damage_bodies(damages, |damage, silent| {
        assert!(silent.is_empty(), "{damage:?}: {silent:?}");
    });
    bench.finish("damaged_bodies");
}

#[test]
fn damage_to_events_without_rows_is_reported_and_they_are_never_sent() {
    let mut rng = Rng::with_seed(seed("damaged_without_rows"));
    let mut bench = Bench::new(0, End::WithoutRows);
    // The file of the life that crashed.
    let bytes = bench.sample.files.bodies.values().next_back().unwrap().clone();
    let last = bench.sample.pending.iter().map(|(seq, _)| *seq).max().unwrap();
    let damages = (0..rounds(60, 20_000)).map(|_| Damage::drawn(&bytes, SECTOR, &mut rng));
    bench.damage_bodies(damages, |damage, silent| {
        // A change of what is there is reported, but for the last one, which a power cut could have left so.
        if matches!(damage, Damage::Flip { .. } | Damage::Byte { .. }) {
            assert!(
                silent.iter().all(|(seq, _)| *seq >= last),
                "{damage:?}: {silent:?}"
            );
        }
    });
    bench.finish("damaged_without_rows");
}

/// Each bit of the files that says something, one at a time.
#[test]
fn a_flipped_bit_is_never_delivered() {
    let mut bench = Bench::new(0, End::Closed);
    let bits: Vec<usize> = used(&bench.sample.files.db)
        .into_iter()
        .flat_map(|byte| (0..8).map(move |bit| byte * 8 + bit))
        .collect();
    let count = rounds(80, bits.len());
    let mut rng = Rng::with_seed(seed("flipped_bits"));
    let damages = (0..count).map(|turn| {
        let at = if count < bits.len() {
            rng.usize(..bits.len())
        } else {
            turn
        };
        Damage::Flip { bit: bits[at] }
    });
    bench.damage_db(damages, |damage, silent| {
        assert!(silent.is_empty(), "{damage:?}: {silent:?}");
    });
    bench.finish("flipped_bits");
}
