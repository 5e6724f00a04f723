//! Finds where a JSON object or array ends, 64 bytes at a time, without reading what is in it.

use wide::u8x16;

/// Bytes that are looked at together, a bit each.
const BLOCK: usize = 64;

/// The index behind the bracket that closes the object or array whose opening one stands at `from - 1`, or `None` where
/// there is none, or where more than `depth_max` objects and arrays stand around each other.
///
/// Only brackets and strings count. What else stands there is not checked, nor whether a bracket is of its opening's kind.
pub(super) fn end_of_nested(bytes: &[u8], from: usize, depth_max: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 1);
    let mut strings = Strings::default();
    if depth > depth_max {
        return None;
    }
    loop {
        let rest = bytes.get(at..)?;
        let marks = match rest.first_chunk() {
            Some(block) => Marks::of(block),
            None => {
                let mut last = [b' '; BLOCK];
                last.get_mut(..rest.len())?.copy_from_slice(rest);
                Marks::of(&last)
            }
        };
        let mut brackets = marks.bracket & !strings.inside(&marks);
        while brackets != 0 {
            let bracket = brackets.trailing_zeros() as usize;
            brackets &= brackets - 1;
            match rest.get(bracket)? {
                b'{' | b'[' if depth == depth_max => return None,
                b'{' | b'[' => depth += 1,
                _ => depth -= 1,
            }
            if depth == 0 {
                return Some(at + bracket + 1);
            }
        }
        at += BLOCK;
    }
}

/// Where in a block something stands; the first byte is the lowest bit.
struct Marks {
    quote: u64,
    backslash: u64,
    /// `{`, `[`, `}` and `]`.
    bracket: u64,
}

impl Marks {
    #[inline(always)]
    fn of(block: &[u8; BLOCK]) -> Self {
        let all = |byte: u8| u8x16::new([byte; 16]);
        let mut marks = Self {
            quote: 0,
            backslash: 0,
            bracket: 0,
        };
        let (sixteens, _) = block.as_chunks::<16>();
        for (index, sixteen) in sixteens.iter().enumerate() {
            let bytes = u8x16::new(*sixteen);
            // One bit tells `{` from `[` and `}` from `]`, and no other byte becomes one of them by it.
            let folded = bytes | all(b'{' - b'[');
            let mark = |equal: u8x16| u64::from(equal.move_mask().cast_unsigned()) << (16 * index);
            marks.quote |= mark(bytes.cmp_eq(all(b'"')));
            marks.backslash |= mark(bytes.cmp_eq(all(b'\\')));
            marks.bracket |= mark(folded.cmp_eq(all(b'{')) | folded.cmp_eq(all(b'}')));
        }
        marks
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

    #[test]
    fn ends_are_found_wherever_they_stand() {
        for length in 0..200 {
            let blank = " ".repeat(length);
            for (value, found) in [
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
                let behind = if found { r#","]}""# } else { "" };
                let text = format!("{first}{blank}{rest}{behind}");
                let end = found.then_some(value.len() + length);
                assert_eq!(end_of_nested(text.as_bytes(), 1, 128), end, "{text}");
            }
        }
    }

    #[test]
    fn no_other_byte_is_a_bracket_or_a_quote() {
        for byte in (0..=255_u8).filter(|byte| !b"{}[]\"\\".contains(byte)) {
            let mut text = [byte; 100];
            text[99] = b']';
            assert_eq!(end_of_nested(&text, 0, 128), Some(100), "{byte}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        for depth in [1, 2, 63, 64, 65, 127, 128] {
            let text = nested(depth);
            assert_eq!(end_of_nested(text.as_bytes(), 1, depth), Some(2 * depth));
            assert_eq!(end_of_nested(text.as_bytes(), 1, depth - 1), None, "{depth}");
        }
    }

    proptest! {
        #[test]
        fn blocks_find_what_bytes_find(
            bytes in proptest::collection::vec(proptest::sample::select(&b"{}[]\"\\\\\\ a\xe9"[..]), 0..300),
            from in 0_usize..80,
            depth_max in 0_usize..12,
        ) {
            prop_assert_eq!(end_of_nested(&bytes, from, depth_max), plainly(&bytes, from, depth_max));
        }

        #[test]
        fn long_ones_too(
            runs in proptest::collection::vec((proptest::sample::select(&b"{}[]\"\\ a"[..]), 1_usize..40), 0..40),
            from in 0_usize..80,
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(byte, times)| std::iter::repeat_n(*byte, *times)).collect();
            prop_assert_eq!(end_of_nested(&bytes, from, 128), plainly(&bytes, from, 128));
        }
    }
}
