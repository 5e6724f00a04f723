//! Walks a JSON document (RFC 8259) in one pass, of which nothing is built.

use super::json_skip::end_of_nested;

/// What stands under a value in its object or array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'t> {
    /// The key as it is written, without its quotes.
    Key {
        /// Between the quotes.
        raw: &'t str,
        /// There is a backslash in it.
        escaped: bool,
    },
    /// The index in an array, from 0.
    Index(usize),
}

/// What is done with the objects and arrays below the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nested {
    /// They are read like the top: all of the document is checked.
    Checked,
    /// They are passed over by their brackets, many times as fast.
    Skipped,
}

/// Depth is kept as a bit a level.
const DEPTH_BITS: usize = u128::BITS as usize;

/// Reads `text`, tells of each value that stands directly in its object or array, and gives `None` where it is not one
/// JSON document (but for what `nested` leaves unread), or one with more than `depth_max` (at most 128) objects and arrays
/// around each other.
///
/// Values are told of as they come, before what follows them has been read.
pub(super) fn walk<'t>(
    text: &'t str,
    depth_max: usize,
    nested: Nested,
    mut on_value: impl FnMut(Place<'t>, &'t str),
) -> Option<()> {
    let depth_max = depth_max.min(DEPTH_BITS);
    let mut walker = Walker {
        text,
        bytes: text.as_bytes(),
        at: 0,
        nested,
    };
    match walker.next()? {
        b'{' if depth_max > 0 => walker.object(depth_max - 1, &mut on_value)?,
        b'[' if depth_max > 0 => walker.array(depth_max - 1, &mut on_value)?,
        b'{' | b'[' => return None,
        first => walker.value(first, depth_max)?,
    }
    walker.next().is_none().then_some(())
}

struct Walker<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    nested: Nested,
}

impl<'t> Walker<'t> {
    /// The next byte that is not blank; it is read.
    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The members of an object whose brace was read.
    fn object(&mut self, depth_max: usize, on_value: &mut impl FnMut(Place<'t>, &'t str)) -> Option<()> {
        let mut next = self.next()?;
        if next == b'}' {
            return Some(());
        }
        loop {
            if next != b'"' {
                return None;
            }
            let from = self.at;
            let escaped = self.string()?;
            let raw = self.text.get(from..self.at - 1)?;
            self.expect(b':')?;
            let value = self.child(depth_max)?;
            on_value(Place::Key { raw, escaped }, value);
            match self.next()? {
                b',' => next = self.next()?,
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The items of an array whose bracket was read.
    fn array(&mut self, depth_max: usize, on_value: &mut impl FnMut(Place<'t>, &'t str)) -> Option<()> {
        if self.next()? == b']' {
            return Some(());
        }
        self.at -= 1;
        for index in 0.. {
            let value = self.child(depth_max)?;
            on_value(Place::Index(index), value);
            match self.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        Some(())
    }

    /// The next value, as it is written.
    fn child(&mut self, depth_max: usize) -> Option<&'t str> {
        let first = self.next()?;
        let from = self.at - 1;
        match (first, self.nested) {
            (b'{' | b'[', Nested::Skipped) => self.at = end_of_nested(self.bytes, self.at, depth_max)?,
            _ => self.value(first, depth_max)?,
        }
        self.text.get(from..self.at)
    }

    /// A value whose first byte was read, with all that is in it.
    fn value(&mut self, mut first: u8, depth_max: usize) -> Option<()> {
        // Whether the levels around are objects, the innermost in the lowest bit.
        let mut objects = 0_u128;
        let mut depth = 0;
        loop {
            match first {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    if depth == depth_max {
                        return None;
                    }
                    depth += 1;
                    let is_object = first == b'{';
                    objects = (objects << 1) + u128::from(is_object);
                    let next = self.next()?;
                    // `}` and `]` follow their openings at the same distance.
                    if next == first + 2 {
                        self.at -= 1;
                    } else if is_object {
                        first = self.key(next)?;
                        continue;
                    } else {
                        first = next;
                        continue;
                    }
                }
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                _ => self.number(first)?,
            }
            // A value ends here; so may what is around it.
            first = loop {
                if depth == 0 {
                    return Some(());
                }
                let is_object = objects & 1 == 1;
                match self.next()? {
                    b',' => {
                        let next = self.next()?;
                        break if is_object { self.key(next)? } else { next };
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                objects >>= 1;
                depth -= 1;
            };
        }
    }

    /// A key whose first byte was read, its colon, and the first byte of its value.
    #[inline(always)]
    fn key(&mut self, first: u8) -> Option<u8> {
        if first != b'"' {
            return None;
        }
        self.string()?;
        self.expect(b':')?;
        self.next()
    }

    /// A string whose first quote was read, with its last one; whether there is an escape in it.
    #[inline(always)]
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            let byte = match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
                Some(eight) => {
                    let eight = u64::from_le_bytes(*eight);
                    let special = special(eight);
                    if special == 0 {
                        self.at += 8;
                        continue;
                    }
                    let plain = special.trailing_zeros() / 8;
                    self.at += plain as usize;
                    eight.to_le_bytes().get(plain as usize).copied()?
                }
                None => *self.bytes.get(self.at)?,
            };
            self.at += 1;
            match byte {
                b'"' => return Some(escaped),
                b'\\' => {
                    self.escape()?;
                    escaped = true;
                }
                0..=0x1f => return None,
                _ => {}
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        let kind = *self.bytes.get(self.at)?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    /// The rest of a word.
    #[inline(always)]
    fn word(&mut self, rest: &[u8]) -> Option<()> {
        let found = self.bytes.get(self.at..self.at + rest.len())?;
        self.at += rest.len();
        (found == rest).then_some(())
    }

    /// A number whose first byte was read.
    #[inline(always)]
    fn number(&mut self, first: u8) -> Option<()> {
        let first = match first {
            b'-' => {
                self.at += 1;
                *self.bytes.get(self.at - 1)?
            }
            first => first,
        };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Some(())
    }

    #[inline(always)]
    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Option<()> {
        let from = self.at;
        self.digits();
        (self.at > from).then_some(())
    }
}

/// Marks bytes that end a run of plain ones in a string: quote, backslash and control characters. The lowest mark is
/// right, those above it need not be; 0: there is none.
#[inline]
fn special(eight: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // A byte below `n` borrows from its highest bit, unless that was set.
    let below = |bytes: u64, n: u64| bytes.wrapping_sub(ONES * n) & !bytes;
    let is = |byte: u8| below(eight ^ (ONES * u64::from(byte)), 1);
    (below(eight, 0x20) | is(b'"') | is(b'\\')) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a document: key or index, and value.
    fn told(text: &str, depth_max: usize) -> Option<Vec<(String, String)>> {
        let checked = told_of(text, depth_max, Nested::Checked);
        if checked.is_some() {
            assert_eq!(told_of(text, depth_max, Nested::Skipped), checked, "{text}");
        }
        checked
    }

    fn told_of(text: &str, depth_max: usize, nested: Nested) -> Option<Vec<(String, String)>> {
        let mut told = Vec::new();
        walk(text, depth_max, nested, |place, value| {
            let place = match place {
                Place::Key { raw, escaped: false } => raw.to_owned(),
                Place::Key { raw, escaped: true } => format!("escaped {raw}"),
                Place::Index(index) => index.to_string(),
            };
            told.push((place, value.to_owned()));
        })?;
        Some(told)
    }

    fn is_json(text: &str) -> bool {
        let is_json = told(text, 128).is_some();
        let inside = format!("[0,{{\"a\":{text}}}]");
        assert_eq!(told(&inside, 128).is_some(), is_json, "inside: {text}");
        is_json
    }

    #[test]
    fn documents() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "10",
            "-19",
            "0.0",
            "12.340",
            "0e0",
            "1E+10",
            "1e-09",
            "1.5e3",
            "-1.5E9",
            r#""""#,
            r#""a""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u0000\uFfFf\ud800""#,
            "\"\u{7f}\u{e9}\u{1f600}\"",
            "{}",
            "[]",
            " \t\r\n{ } ",
            "[ ]",
            "[1]",
            "[ 1 , 2 ]",
            "[[],{},[{}],[[]]]",
            r#"{"a":1}"#,
            r#" { "a" : 1 , "b" : [ ] } "#,
            r#"{"a":{"b":{"c":[{"d":[1,2]},3]}},"a":0}"#,
            r#"{"":""}"#,
            "[{}]",
            "[{\"a\":[]},[]]",
        ] {
            assert!(is_json(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_document() {
        for text in [
            "",
            " ",
            "nul",
            "nulL",
            "tru",
            "truE",
            "fals",
            "falsE",
            "x",
            "-",
            "+1",
            "01",
            "-01",
            ".5",
            "1.",
            "1.e1",
            "1e",
            "1e+",
            "1E-",
            "1e1.5",
            "0x1",
            "- 1",
            "1 2",
            "1,",
            "\"",
            "\"a",
            "\"\\\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u123g\"",
            "\"\\u123",
            "\"a\u{0}\"",
            "\"\u{1f}\"",
            "\"a\nb\"",
            "'a'",
            "[",
            "{",
            "]",
            "}",
            "[}",
            "{]",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "[1,2}",
            "[[]",
            "[]]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\" 1}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{,}",
            "{1:2}",
            "{a:1}",
            "{\"a\":1]",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1,2}",
            "{\"a\":[1}",
            "[{\"a\":1]",
            "[{\"a\"}]",
            "[{1:2}]",
            "[{\"a\" 1}]",
            "[{\"a\":1,}]",
            "[{\"a\":1,2:3}]",
            "[{]}",
            "{}{}",
            "[]x",
            "\u{feff}1",
            "\u{a0}1",
            "1\u{0}",
            "\u{b}1",
        ] {
            assert!(!is_json(text), "{text:?}");
        }
    }

    #[test]
    fn strings_are_read_eight_bytes_at_a_time_and_end_where_they_end() {
        for plain in ["x", "\u{e9}", "\u{ff}", "!", "#", "[", "]", " ", "\u{80}\u{a2}"] {
            for length in 0..20 {
                let run = plain.repeat(length);
                for (tail, good) in [
                    ("", true),
                    (r#"\""#, true),
                    (r"\\", true),
                    (r"\u00e9xxxxxxxx", true),
                    ("\u{1f}", false),
                    ("\0", false),
                    ("\u{20}", true),
                    ("\u{7f}", true),
                    (r"\", false),
                ] {
                    let text = format!("\"{run}{tail}\"");
                    assert_eq!(is_json(&text), good, "{text:?}");
                }
                let text = format!("[\"{run}\",\"{run}\"]");
                let quoted = format!("\"{run}\"");
                let expected =
                    [("0", &quoted), ("1", &quoted)].map(|(at, text)| (at.to_owned(), text.clone()));
                assert_eq!(told(&text, 128).unwrap(), expected);
            }
        }
    }

    #[test]
    fn every_byte_is_plain_or_special_wherever_it_stands() {
        for byte in 0..=255_u8 {
            let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
            for place in 0..8 {
                for around in [b'a', b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut eight = [around; 8];
                    eight[place] = byte;
                    let found = special(u64::from_le_bytes(eight));
                    let expected = if is_special { place } else { 8 };
                    assert_eq!(
                        found.trailing_zeros() as usize / 8,
                        expected,
                        "{byte} in {around}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_skipped_needs_brackets_that_close() {
        for (text, skipped) in [
            (r#"{"a":[1,],"b":2}"#, true),
            (r#"{"a":[NaN, {'x': 1}],"b":2}"#, true),
            (r#"{"a":["\x"}}"#, true),
            (r#"{"a":["]"],"b":2}"#, true),
            (r#"{"a":{"b":"\"}","c":1}"#, false),
            (r#"{"a":[1,"b":2}"#, false),
            (r#"{"a":[1],"b":2"#, false),
            (r#"{"a":[[1],"b":2}"#, false),
            (r#"{"a":[1],"b":NaN}"#, false),
            (r#"{"a":[1],}"#, false),
            (r#"[{]},1,]"#, false),
        ] {
            let told = told_of(text, 128, Nested::Skipped);
            assert_eq!(told.is_some(), skipped, "{text}: {told:?}");
        }
    }

    #[test]
    fn values_at_the_top_are_told_as_they_are_written() {
        let pairs = |text: &str| told(text, 128).unwrap();
        let pair = |place: &str, value: &str| (place.to_owned(), value.to_owned());
        assert_eq!(
            pairs(r#" {"a" : 1 ,"\u0062": [1, {"c":2}] ,"a":{ } , "":"\"" } "#),
            [
                pair("a", "1"),
                pair(r"escaped \u0062", r#"[1, {"c":2}]"#),
                pair("a", "{ }"),
                pair("", r#""\"""#)
            ]
        );
        assert_eq!(
            pairs(r#"[ true,[ ],"x" , -1.5e3 ]"#),
            [
                pair("0", "true"),
                pair("1", "[ ]"),
                pair("2", "\"x\""),
                pair("3", "-1.5e3")
            ]
        );
        for scalar in ["1", "\"a\"", "null", "{}", "[]"] {
            assert_eq!(pairs(scalar), [], "{scalar}");
        }
    }

    #[test]
    fn depth_counts_objects_and_arrays_around_each_other() {
        for (text, depth) in [
            ("1", 0),
            ("[]", 1),
            ("{}", 1),
            ("[1,[],{},[]]", 2),
            (r#"{"a":[{}],"b":[[]]}"#, 3),
            (r#"[[{"a":{"b":[1]}}]]"#, 5),
        ] {
            assert!(told(text, depth).is_some(), "{text}");
            if depth > 0 {
                assert!(told(text, depth - 1).is_none(), "{text}");
            }
        }
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(told(&nested(128), 128).is_some());
        // Never more than there are bits.
        assert!(told(&nested(129), usize::MAX).is_none());
        let mixed = r#"[{"a":"#.repeat(64) + "0" + &"}]".repeat(64);
        assert!(told(&mixed, 128).is_some());
        assert!(told(&mixed.replace("}]", "]}"), 128).is_none());
    }
}
