//! How long a rig tries, and what it says at its end.

use std::fmt::Display;

/// How often a rig tries: `short` within `make test`, `long` within `make prove` (`PROVE=long`), or what `PROVE_ROUNDS`
/// says.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    match (number("PROVE_ROUNDS"), std::env::var_os("PROVE")) {
        (Some(rounds), _) => usize::try_from(rounds).expect("PROVE_ROUNDS is a number of rounds"),
        (None, Some(form)) if form == "long" => long,
        (None, _) => short,
    }
}

/// The seed of a rig that draws lots: `PROVE_SEED`, else another one each time. It is printed, so that a run can be repeated.
pub(crate) fn seed(rig: &str) -> u64 {
    let seed = number("PROVE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{rig}: PROVE_SEED={seed}");
    seed
}

/// The closing line of a rig: `make prove` gathers these.
pub(crate) fn proved(rig: &str, result: impl Display) {
    println!("proved: {rig}: {result}");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}
