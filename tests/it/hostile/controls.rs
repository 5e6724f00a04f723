//! No control character anywhere in a head.

use super::case::{Case, HEAD, Step::Refused};
use super::rig::Rig;
use crate::support::{proved, rounds, seed};

/// RFC 9110, 5.5 and RFC 9112, 2.2: no control character but a tab, and CR and LF only as line ends, wherever it stands.
#[test]
fn no_control_character_anywhere_in_a_head() {
    const NAME: &str = "hostile: control characters";
    let rig = Rig::start();
    let head = format!("{HEAD}User-Agent: x/1 (y; z)\r\nContent-Length: {{length}}\r\n\r\n").into_bytes();
    let seed = seed(NAME);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cases = Vec::new();
    // Placeholders count as one place each; what stands inside them is covered by the values of other fields.
    let places: Vec<usize> = (0..head.len())
        .filter(|at| {
            let before = &head[..*at];
            let open = before.iter().filter(|byte| **byte == b'{').count();
            open == before.iter().filter(|byte| **byte == b'}').count()
        })
        .collect();
    let bad: Vec<u8> = (0..32).chain([127]).filter(|byte| *byte != b'\t').collect();
    for &at in &places {
        for &byte in &bad {
            for (form, to) in [("before", vec![byte, head[at]]), ("for", vec![byte])] {
                // CR and LF keep their meaning where they stand already; a second LF at the end begins the body.
                let same = form == "for" && (head[at] == byte || head[at] == b'{');
                if same || (byte == b'\n' && at + 1 == head.len()) {
                    continue;
                }
                let wire = [&head[..at], &to, &head[at + 1..], b"{body}{evil}"].concat();
                let name = format!("{byte:#04x} {form} byte {at}");
                cases.push(Case::new(name, wire, &[Refused(400)]));
            }
        }
    }
    random.shuffle(&mut cases);
    let all = cases.len();
    cases.sort_by_key(|case| {
        !["0x00", "0x0a", "0x0d"]
            .iter()
            .any(|word| case.name.starts_with(word))
    });
    cases.truncate(rounds(1500, all));
    let sent = rig.run(&cases, rounds(0, 1), seed);
    rig.settle();
    proved(
        NAME,
        format!("{} of {all} cases, {sent} times sent, 0 accepted", cases.len()),
    );
}
