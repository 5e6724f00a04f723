//! A JSON reader after RFC 8259 that keeps what others drop: repeated keys, numbers as written, halves of surrogates.

/// A value; texts are as they stand in the document.
#[derive(Debug, Clone)]
pub(super) enum Json<'t> {
    /// With its quotes.
    String(&'t str),
    Number(&'t str),
    Array(Vec<Json<'t>>),
    /// Keys with their quotes.
    Object(Vec<(&'t str, Json<'t>)>),
    Word,
    /// An array or object below the top of which only the end was looked for.
    Skipped(&'t str),
}

/// The document; `None` when it is none, or nested deeper than `depth_max`. Unless `whole`, what is nested is passed over to
/// the bracket that closes it.
pub(super) fn parse(text: &[u8], depth_max: usize, whole: bool) -> Option<Json<'_>> {
    let mut reader = Reader {
        text: std::str::from_utf8(text).ok()?,
        at: 0,
        depth_max,
        depth_left: depth_max,
        whole,
    };
    let value = reader.value()?;
    reader.blanks();
    (reader.at == text.len()).then_some(value)
}

/// What a string stands for; `None` when it is no text.
pub(super) fn unescape(quoted: &str) -> Option<String> {
    let inner = &quoted[1..quoted.len() - 1];
    let mut units = Vec::new();
    let mut chars = inner.chars();
    while let Some(next) = chars.next() {
        if next != '\\' {
            units.extend_from_slice(next.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match chars.next()? {
            'b' => 8,
            't' => 9,
            'n' => 10,
            'f' => 12,
            'r' => 13,
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                u16::from_str_radix(&digits, 16).ok()?
            }
            itself => itself as u16,
        });
    }
    String::from_utf16(&units).ok()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth_max: usize,
    depth_left: usize,
    whole: bool,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Json<'t>> {
        self.blanks();
        match self.peek()? {
            b'"' => self.string().map(Json::String),
            b'-' | b'0'..=b'9' => self.number().map(Json::Number),
            b'[' | b'{' if !self.whole && self.depth_left < self.depth_max => self.skip().map(Json::Skipped),
            b'[' => self.list(b']', Self::value).map(Json::Array),
            b'{' => self.list(b'}', Self::member).map(Json::Object),
            _ => {
                let word = ["true", "false", "null"]
                    .into_iter()
                    .find(|word| self.text.as_bytes()[self.at..].starts_with(word.as_bytes()))?;
                self.at += word.len();
                Some(Json::Word)
            }
        }
    }

    fn skip(&mut self) -> Option<&'t str> {
        let (from, mut depth, mut inside, mut hidden) = (self.at, 0, false, false);
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                _ if hidden => hidden = false,
                b'\\' => hidden = true,
                b'"' => inside = !inside,
                b'[' | b'{' if !inside => depth += 1,
                b']' | b'}' if !inside => depth -= 1,
                _ => {}
            }
            if depth > self.depth_left {
                return None;
            }
            if depth == 0 {
                return Some(&self.text[from..self.at]);
            }
        }
    }

    fn member(&mut self) -> Option<(&'t str, Json<'t>)> {
        self.blanks();
        let key = self.string()?;
        self.blanks();
        self.eat(b':')?;
        Some((key, self.value()?))
    }

    fn list<T>(&mut self, end: u8, item: fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.at += 1;
        self.depth_left = self.depth_left.checked_sub(1)?;
        let mut items = Vec::new();
        self.blanks();
        if self.eat(end).is_none() {
            loop {
                items.push(item(self)?);
                self.blanks();
                if self.eat(end).is_some() {
                    break;
                }
                self.eat(b',')?;
            }
        }
        self.depth_left += 1;
        Some(items)
    }

    fn string(&mut self) -> Option<&'t str> {
        let from = self.at;
        self.eat(b'"')?;
        loop {
            match self.peek()? {
                b'"' => break,
                0..=0x1f => return None,
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let digits = self.text.as_bytes().get(self.at + 1..self.at + 5)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Some(&self.text[from..self.at])
    }

    fn number(&mut self) -> Option<&'t str> {
        let from = self.at;
        let _sign = self.eat(b'-');
        if self.eat(b'0').is_none() {
            self.digits()?;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if self.eat(b'e').or_else(|| self.eat(b'E')).is_some() {
            let _sign = self.eat(b'+').or_else(|| self.eat(b'-'));
            self.digits()?;
        }
        Some(&self.text[from..self.at])
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}
