//! Finds where a JSON object or array ends, 64 bytes at a time, without reading what is in it.

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, u8x64};

/// Bytes that are looked at together, a bit each.
const BLOCK: usize = 64;

/// The index behind the bracket that closes the object or array whose opening one stands at `from - 1`, or `None` where
/// there is none, or where more than `depth_max` objects and arrays stand around each other.
///
/// Only brackets and strings count. What else stands there is not checked, nor whether a bracket is of its opening's kind.
pub(super) fn end_of_nested(bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
    end_at_level(Level::new(), bytes, from, depth_max)
}

/// The same by the instructions of `level`.
fn end_at_level(level: Level, bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
    dispatch!(level, simd => find_end(simd, bytes, from, depth_max))
}

#[inline(always)]
fn find_end<S: Simd>(simd: S, bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 1);
    let mut strings = Strings::default();
    if depth > depth_max {
        return None;
    }
    loop {
        let rest = bytes.get(at..)?;
        let marks = match rest.first_chunk() {
            Some(block) => Marks::of(simd, block),
            None => {
                let mut last = [b' '; BLOCK];
                last.get_mut(..rest.len())?.copy_from_slice(rest);
                Marks::of(simd, &last)
            }
        };
        let outside = !strings.inside(&marks);
        let (opening, closing) = (marks.opening & outside, marks.closing & outside);
        let (opened, closed) = (opening.count_ones() as usize, closing.count_ones() as usize);
        if closed < depth && depth + opened <= depth_max {
            // In whichever order they stand, neither bound is met.
            depth = depth + opened - closed;
        } else {
            let mut brackets = opening | closing;
            while brackets != 0 {
                let bracket = brackets & brackets.wrapping_neg();
                match opening & bracket {
                    0 => depth -= 1,
                    _ if depth == depth_max => return None,
                    _ => depth += 1,
                }
                if depth == 0 {
                    return Some(at + bracket.trailing_zeros() as usize + 1);
                }
                brackets &= !bracket;
            }
        }
        at += BLOCK;
    }
}

/// Where in a block something stands; the first byte is the lowest bit.
struct Marks {
    quote: u64,
    backslash: u64,
    /// `{` and `[`.
    opening: u64,
    /// `}` and `]`.
    closing: u64,
}

impl Marks {
    #[inline(always)]
    fn of<S: Simd>(simd: S, block: &[u8; BLOCK]) -> Self {
        let bytes = u8x64::from_slice(simd, block);
        // One bit tells `{` from `[` and `}` from `]`, and no other byte becomes one of them by it.
        let folded = bytes | (b'{' - b'[');
        Self {
            quote: bytes.simd_eq(b'"').to_bitmask(),
            backslash: bytes.simd_eq(b'\\').to_bitmask(),
            opening: folded.simd_eq(b'{').to_bitmask(),
            closing: folded.simd_eq(b'}').to_bitmask(),
        }
    }
}

/// What a block leaves open for the next one.
#[derive(Default)]
struct Strings {
    /// All bits are set inside a string, none outside.
    open: u64,
    /// The first byte is escaped.
    escaped: bool,
}

impl Strings {
    /// The bytes of the block that stand in strings, the opening quotes among them, or behind a backslash.
    #[inline(always)]
    fn inside(&mut self, marks: &Marks) -> u64 {
        let escaped = self.escaped(marks.backslash);
        let quotes = marks.quote & !escaped;
        // Each bit becomes the parity of those up to it.
        let mut inside = quotes;
        for step in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << step;
        }
        inside ^= self.open;
        self.open = 0_u64.wrapping_sub(inside >> (BLOCK - 1));
        inside | escaped
    }

    /// The bytes behind a backslash that is not itself escaped.
    #[inline(always)]
    fn escaped(&mut self, backslash: u64) -> u64 {
        let mut escaped = u64::from(self.escaped);
        self.escaped = false;
        let mut left = backslash & !escaped;
        while left != 0 {
            let next = (left & left.wrapping_neg()) << 1;
            escaped |= next;
            self.escaped |= next == 0;
            left &= (left - 1) & !next;
        }
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, a byte at a time.
    fn plainly(bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
        let (mut depth, mut inside, mut escaped) = (1, false, false);
        if depth > depth_max {
            return None;
        }
        for (at, byte) in bytes.iter().enumerate().skip(from) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => inside = !inside,
                b'{' | b'[' if !inside => depth += 1,
                b'}' | b']' if !inside => depth -= 1,
                _ => {}
            }
            match depth {
                0 => return Some(at + 1),
                _ if depth > depth_max => return None,
                _ => {}
            }
        }
        None
    }

    /// What this machine's processor can do, and all less that it can do too.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        let mut levels = vec![best, Level::baseline()];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(best.as_avx2().map(Simd::level));
            levels.extend(best.as_sse4_2().map(Simd::level));
        }
        levels
    }

    /// What is found by every level alike.
    fn found(bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
        let end = end_of_nested(bytes, from, depth_max);
        for level in levels() {
            assert_eq!(end_at_level(level, bytes, from, depth_max), end, "{level:?}");
        }
        end
    }

    #[test]
    fn ends_are_found_wherever_they_stand() {
        for length in 0..200 {
            let blank = " ".repeat(length);
            for (value, closed) in [
                ("{}", true),
                ("[[{}]]", true),
                (r#"["]"]"#, true),
                (r#"["\"]"]"#, true),
                (r#"["\\"]"#, true),
                (r#"["\\\"]"]"#, true),
                (r#"["\\]"]"#, true),
                ("[[]", false),
                (r#"["]"#, false),
                (r#"["\\\"]"#, false),
            ] {
                let (first, rest) = value.split_at(1);
                let behind = if closed { r#","]}""# } else { "" };
                let text = format!("{first}{blank}{rest}{behind}");
                let end = closed.then_some(value.len() + length);
                assert_eq!(found(text.as_bytes(), 1, 128), end, "{text}");
            }
        }
    }

    #[test]
    fn no_other_byte_is_a_bracket_or_a_quote() {
        for byte in (0..=255_u8).filter(|byte| !b"{}[]\"\\".contains(byte)) {
            let mut text = [byte; 100];
            text[99] = b']';
            assert_eq!(found(&text, 0, 128), Some(100), "{byte}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        for depth in [1, 2, 63, 64, 65, 127, 128] {
            let text = nested(depth);
            assert_eq!(found(text.as_bytes(), 1, depth), Some(2 * depth));
            assert_eq!(found(text.as_bytes(), 1, depth - 1), None, "{depth}");
        }
    }

    proptest! {
        #[test]
        fn blocks_find_what_bytes_find(
            bytes in proptest::collection::vec(proptest::sample::select(&b"{}[]\"\\\\\\ a\xe9"[..]), 0..300),
            from in 0_usize..80,
            depth_max in 0_usize..12,
        ) {
            prop_assert_eq!(found(&bytes, from, depth_max), plainly(&bytes, from, depth_max));
        }

        #[test]
        fn long_ones_too(
            runs in proptest::collection::vec((proptest::sample::select(&b"{}[]\"\\ a"[..]), 1_usize..40), 0..40),
            from in 0_usize..80,
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(byte, times)| std::iter::repeat_n(*byte, *times)).collect();
            prop_assert_eq!(found(&bytes, from, 128), plainly(&bytes, from, 128));
        }
    }
}
