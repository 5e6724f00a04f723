//! A text that must not show, and the search for it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Bytes of a piece that is looked for: whoever shows twice as many shows a whole piece.
const PIECE_BYTES: usize = 12;
/// Bytes of a needle by which it is looked up.
const KEY_BYTES: usize = PIECE_BYTES;
/// Forms in which every piece is looked for: plain, hex and `%` escapes in both cases, base64 in both alphabets at its
/// three alignments, and the decimal lists that `Debug` makes of bytes.
pub(super) const FORMS: usize = 12;

/// A text that must not show.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Canary {
    /// A new one, unlike any other of any run, that passes in headers, TOML strings and JSON.
    pub(super) fn new(name: &'static str) -> Self {
        let (one, two) = (fastrand::u128(..), fastrand::u64(..));
        Self::of(name, format!("canary+{one:032x}/{two:016x}=").into_bytes())
    }

    pub(super) fn of(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    pub(super) fn is_plainly_in(&self, text: &str) -> bool {
        self.pieces()
            .filter_map(|piece| std::str::from_utf8(piece).ok())
            .any(|piece| text.contains(piece))
    }

    /// Pieces one behind the other, without the first bytes, which all canaries have.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let from = self
            .bytes
            .iter()
            .position(|&byte| byte == b'+')
            .map_or(0, |at| at + 1);
        self.bytes[from..].chunks_exact(PIECE_BYTES)
    }
}

/// A piece in one form, whose canary it is, and the name of the form.
type Needle = (Vec<u8>, usize, &'static str);

/// Looks for many canaries at once.
#[derive(Debug)]
pub(super) struct Search {
    /// Needles by their first bytes.
    needles: HashMap<[u8; KEY_BYTES], Vec<Needle>>,
    /// Whether any begins with these two bytes: most places are passed by this alone.
    begins: Vec<bool>,
}

fn first_two(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

impl Search {
    pub(super) fn new<'a>(canaries: impl Iterator<Item = &'a Canary>) -> Self {
        let mut needles: HashMap<_, Vec<_>> = HashMap::new();
        let mut begins = vec![false; 1 << 16];
        for (index, canary) in canaries.enumerate() {
            for piece in canary.pieces() {
                for (form, needle) in forms(piece) {
                    begins[first_two(&needle)] = true;
                    let key = *needle.first_chunk().unwrap();
                    needles.entry(key).or_default().push((needle, index, form));
                }
            }
        }
        Self { needles, begins }
    }

    /// What is found, as the canary's place and the form.
    pub(super) fn hits<'a>(&'a self, content: &'a [u8]) -> impl Iterator<Item = (usize, &'static str)> + 'a {
        let places = content.windows(KEY_BYTES).enumerate();
        places
            .filter(|(_, window)| self.begins[first_two(window)])
            .flat_map(move |(at, window)| {
                let key: &[u8; KEY_BYTES] = window.try_into().unwrap();
                let candidates = self.needles.get(key).into_iter().flatten();
                candidates
                    .filter(move |(needle, ..)| content[at..].starts_with(needle))
                    .map(|(_, index, form)| (*index, *form))
            })
    }
}

fn forms(piece: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let percent = |hex: &str| {
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .flat_map(|pair| [b'%', pair[0], pair[1]])
            .collect::<Vec<_>>()
    };
    let lower = hex::encode(piece);
    let upper = lower.to_uppercase();
    let decimal = piece.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut forms = vec![
        ("plain text", piece.to_vec()),
        ("hex", lower.as_bytes().to_vec()),
        ("upper-case hex", upper.as_bytes().to_vec()),
        ("% escapes", percent(&lower)),
        ("upper-case % escapes", percent(&upper)),
        ("a list of bytes", decimal.into_bytes()),
    ];
    for lead in 0..3 {
        let shifted = [&vec![0; lead][..], piece].concat();
        // The characters that depend on what stands before and behind are left out.
        let (from, to) = ((lead * 8).div_ceil(6), shifted.len() * 8 / 6);
        let cut = |text: String| text.as_bytes()[from..to].to_vec();
        forms.push(("base64", cut(STANDARD.encode(&shifted))));
        forms.push(("base64 for URLs", cut(URL_SAFE.encode(&shifted))));
    }
    assert_eq!(forms.len(), FORMS);
    forms
}

#[test]
fn the_search_finds_every_form_at_every_alignment_and_nothing_else() {
    let (canary, other) = (Canary::new("one"), Canary::new("other"));
    let search = Search::new([&canary, &other].into_iter());
    for lead in 0..4 {
        let hidden = [&b"xyzw"[..lead], canary.bytes(), b"tail"].concat();
        let escaped: String = hidden.iter().map(|byte| format!("%{byte:02X}")).collect();
        for (name, shown) in [
            ("plain", String::from_utf8(hidden.clone()).unwrap()),
            ("hex", hex::encode(&hidden)),
            ("upper", hex::encode_upper(&hidden)),
            ("base64", STANDARD.encode(&hidden)),
            ("url", URL_SAFE.encode(&hidden)),
            ("percent", escaped),
            ("debug", format!("{hidden:?}")),
            (
                "half",
                String::from_utf8_lossy(&hidden[lead + 15..lead + 39]).into_owned(),
            ),
        ] {
            let text = format!("a line before\nkey={shown} behind");
            let found: Vec<_> = search.hits(text.as_bytes()).map(|(index, _)| index).collect();
            assert!(
                !found.is_empty() && found.iter().all(|&index| index == 0),
                "{name} {lead}: {found:?}"
            );
        }
    }
    assert_eq!(search.hits(&[b'a'; 4096]).count(), 0);
}
