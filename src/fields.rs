//! Header fields as they were received: order, spelling, repetition and bytes kept.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// A list of header fields over one shared buffer.
#[derive(Clone, Default)]
pub struct Fields {
    raw: Bytes,
    at: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Fields {
    /// Copies names and values into a list of its own.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut raw = BytesMut::new();
        let mut at = Vec::new();
        for (name, value) in pairs {
            let name_from = raw.len();
            raw.extend_from_slice(name);
            let value_from = raw.len();
            raw.extend_from_slice(value);
            at.push(Field {
                name: span(name_from, value_from),
                value: span(value_from, raw.len()),
            });
        }
        Self {
            raw: raw.freeze(),
            at,
        }
    }

    /// Takes slices of `raw` itself as the fields; nothing is copied. Slices from elsewhere are left out.
    pub fn from_slices<'a>(raw: &'a Bytes, pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let base = raw.as_ptr() as usize;
        let inside = |part: &[u8]| {
            let from = (part.as_ptr() as usize).checked_sub(base)?;
            (from + part.len() <= raw.len()).then(|| span(from, from + part.len()))
        };
        let pairs = pairs.into_iter();
        let mut at = Vec::with_capacity(pairs.size_hint().0);
        at.extend(pairs.filter_map(|(name, value)| {
            // An empty slice may point anywhere.
            let value = if value.is_empty() { (0, 0) } else { inside(value)? };
            Some(Field {
                name: inside(name)?,
                value,
            })
        }));
        Self { raw: raw.clone(), at }
    }

    /// Names and values in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.at
            .iter()
            .map(|field| (self.slice(field.name), self.slice(field.value)))
    }

    /// The values of every field named `name`, whatever its case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The first value of `name`.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Bytes of the buffer they lie in.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    fn slice(&self, (from, to): (u32, u32)) -> &[u8] {
        self.raw.get(from as usize..to as usize).unwrap_or_default()
    }
}

/// Heads are capped far below 4 GiB.
fn span(from: usize, to: usize) -> (u32, u32) {
    (
        u32::try_from(from).unwrap_or(u32::MAX),
        u32::try_from(to).unwrap_or(u32::MAX),
    )
}

impl fmt::Debug for Fields {
    /// Names only: values may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.iter()
                    .map(|(name, _)| String::from_utf8_lossy(name).into_owned()),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_order_case_and_repetition() {
        let fields = Fields::from_pairs([(&b"X-Dup"[..], &b"1"[..]), (b"Host", b"a"), (b"x-dup", b"")]);
        assert_eq!(fields.values("X-DUP").collect::<Vec<_>>(), [&b"1"[..], b""]);
        assert_eq!(fields.first("host"), Some(&b"a"[..]));
        assert_eq!(fields.len(), 3);
        assert!(!fields.is_empty() && Fields::default().is_empty());
        assert_eq!(format!("{fields:?}"), r#"["X-Dup", "Host", "x-dup"]"#);
    }

    #[test]
    fn slices_are_not_copied() {
        let raw = Bytes::from_static(b"Name: value\r\nEmpty:\r\n");
        let fields = Fields::from_slices(&raw, [(&raw[0..4], &raw[6..11]), (&raw[13..18], &b""[..])]);
        assert_eq!(fields.first("name"), Some(&b"value"[..]));
        assert_eq!(fields.first("empty"), Some(&b""[..]));
        assert_eq!(fields.bytes(), raw.len());
    }
}
