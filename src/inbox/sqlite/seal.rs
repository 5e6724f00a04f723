//! The seal of a kept event: a hash over all that is delivered and over where it goes, so that what was damaged on the
//! disk is never sent. SQLite does not notice a bit that flips inside a row.
//!
//! Not sealed is what changes after the accept: the state, its time, and the counts of repeats.

use rusqlite::{Row as SqlRow, types::ValueRef};
use twox_hash::XxHash3_128;

/// What is sealed of most events fits in so many bytes.
const SEALED_BYTES: usize = 512;

/// The hash kept of a body.
pub(in crate::inbox) fn body_hash(body: &[u8]) -> [u8; 16] {
    XxHash3_128::oneshot(body).to_be_bytes()
}

/// The seal of the names of a route and of a set of its upstreams.
pub(in crate::inbox) fn names<'a>(route: &str, upstreams: impl IntoIterator<Item = &'a str>) -> i64 {
    let mut bytes = Vec::new();
    put_text(&mut bytes, Some(route.as_bytes()));
    for upstream in upstreams {
        put_text(&mut bytes, Some(upstream.as_bytes()));
    }
    half(&bytes)
}

/// The seal of what `meta` holds for good.
pub(super) fn identity(store_id: &[u8; 16], hash_key: &[u8; 16]) -> i64 {
    half(&[&store_id[..], hash_key].concat())
}

/// What stands for `due` in the row of a delivery that is done with: one that damage gave to another event is not believed.
pub(super) fn done(seq: i64, upstream: i64, status: i64) -> i64 {
    let mut bytes = [0; 24];
    for (place, number) in bytes.chunks_exact_mut(8).zip([seq, upstream, status]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    match half(&bytes) {
        // As in rows of older builds, which have no seal.
        0 => 1,
        seal => seal,
    }
}

/// Whether a row says of itself that its delivery is done with.
pub(super) fn is_done(seq: i64, upstream: i64, status: i64, due: i64) -> bool {
    status != super::schema::status::PENDING && (due == 0 || due == done(seq, upstream, status))
}

/// What is sealed of an event besides its headers and its body.
#[derive(Debug, Default)]
pub(in crate::inbox) struct Fields<'a> {
    pub(in crate::inbox) seq: i64,
    /// Of a conflict: its number within its event.
    pub(in crate::inbox) names: i64,
    pub(in crate::inbox) route: &'a str,
    pub(in crate::inbox) received_at: i64,
    pub(in crate::inbox) flags: i64,
    pub(in crate::inbox) key_kind: i64,
    pub(in crate::inbox) event_id: Option<&'a str>,
    pub(in crate::inbox) event_type: Option<&'a str>,
    pub(in crate::inbox) provider: &'a str,
    pub(in crate::inbox) method: &'a str,
    pub(in crate::inbox) path_rest: &'a str,
    pub(in crate::inbox) query: Option<&'a str>,
    pub(in crate::inbox) host: &'a str,
    pub(in crate::inbox) client: &'a str,
    pub(in crate::inbox) secret: Option<&'a str>,
    pub(in crate::inbox) event_key: Option<&'a str>,
    pub(in crate::inbox) possible_duplicate_of: Option<&'a str>,
}

impl Fields<'_> {
    /// The seal of these fields with a header block and the hash of a body. `scratch` spares the hot path an allocation.
    pub(in crate::inbox) fn seal(&self, headers: &[u8], body_hash: &[u8], scratch: &mut Vec<u8>) -> i64 {
        scratch.clear();
        for number in [
            self.seq,
            self.names,
            self.received_at,
            self.flags,
            self.key_kind,
            half(headers),
        ] {
            scratch.extend_from_slice(&number.to_le_bytes());
        }
        scratch.extend_from_slice(body_hash);
        for text in [
            self.route,
            self.provider,
            self.method,
            self.path_rest,
            self.host,
            self.client,
        ] {
            put_text(scratch, Some(text.as_bytes()));
        }
        for text in [
            self.event_id,
            self.event_type,
            self.query,
            self.secret,
            self.event_key,
            self.possible_duplicate_of,
        ] {
            put_text(scratch, text.map(str::as_bytes));
        }
        half(scratch)
    }
}

/// The sealed columns of an event's row.
#[derive(Debug)]
pub(in crate::inbox) struct Head {
    pub(in crate::inbox) seq: i64,
    pub(in crate::inbox) received_at: i64,
    pub(in crate::inbox) flags: i64,
    pub(in crate::inbox) key_kind: i64,
    pub(in crate::inbox) event_id: Option<String>,
    pub(in crate::inbox) event_type: Option<String>,
    pub(in crate::inbox) provider: String,
    pub(in crate::inbox) method: String,
    pub(in crate::inbox) path_rest: String,
    pub(in crate::inbox) query: Option<String>,
    pub(in crate::inbox) host: String,
    pub(in crate::inbox) client: String,
    pub(in crate::inbox) secret: Option<String>,
    pub(in crate::inbox) event_key: Option<String>,
    pub(in crate::inbox) possible_duplicate_of: Option<String>,
    pub(in crate::inbox) body_hash: Vec<u8>,
    pub(in crate::inbox) seal: i64,
}

impl Head {
    /// What [`Head::read`] reads, of the table under the name `e`.
    pub(in crate::inbox) const COLUMNS: &'static str =
        "e.seq, e.received_at, e.flags, e.key_kind, e.event_id,
      e.event_type, e.provider, e.method, e.path_rest, e.query, e.host, e.client, e.secret, e.event_key,
      e.possible_duplicate_of, e.body_hash, e.seal";
    /// How many these are.
    pub(in crate::inbox) const COUNT: usize = 17;

    /// Reads the columns, the first of the row.
    pub(in crate::inbox) fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            received_at: row.get(1)?,
            flags: row.get(2)?,
            key_kind: row.get(3)?,
            event_id: row.get(4)?,
            event_type: row.get(5)?,
            provider: row.get(6)?,
            method: row.get(7)?,
            path_rest: row.get(8)?,
            query: row.get(9)?,
            host: row.get(10)?,
            client: row.get(11)?,
            secret: row.get(12)?,
            event_key: row.get(13)?,
            possible_duplicate_of: row.get(14)?,
            body_hash: row.get(15)?,
            seal: row.get(16)?,
        })
    }

    /// Whether the row, its header block and its body are what was sealed.
    pub(in crate::inbox) fn is_whole(&self, route: &str, names: i64, headers: &[u8], body: &[u8]) -> bool {
        body_hash(body)[..] == self.body_hash
            && self
                .fields(route, names)
                .seal(headers, &self.body_hash, &mut Vec::with_capacity(SEALED_BYTES))
                == self.seal
    }

    /// The fields under their names.
    pub(super) fn fields<'a>(&'a self, route: &'a str, names: i64) -> Fields<'a> {
        Fields {
            seq: self.seq,
            names,
            route,
            received_at: self.received_at,
            flags: self.flags,
            key_kind: self.key_kind,
            event_id: self.event_id.as_deref(),
            event_type: self.event_type.as_deref(),
            provider: &self.provider,
            method: &self.method,
            path_rest: &self.path_rest,
            query: self.query.as_deref(),
            host: &self.host,
            client: &self.client,
            secret: self.secret.as_deref(),
            event_key: self.event_key.as_deref(),
            possible_duplicate_of: self.possible_duplicate_of.as_deref(),
        }
    }
}

/// Gives `None` where a value is not of its column's kind, as damage makes it.
pub(in crate::inbox) fn readable<T>(found: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_unreadable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether SQLite read the row, but not what belongs there.
pub(super) fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    )
}

/// The bytes of a column that should be a blob; `None` where it is not, or is not there.
pub(in crate::inbox) fn blob<'a>(row: &'a SqlRow<'_>, column: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        _ => Ok(None),
    }
}

/// Appends a text after its length.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: Option<&[u8]>) {
    // No text is as long as the mark of none.
    let length = text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.unwrap_or_default());
}

/// Half of the hash is enough to see damage.
pub(super) fn half(bytes: &[u8]) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = XxHash3_128::oneshot(bytes).to_le_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Fields<'static> {
        Fields {
            seq: 7,
            names: names("hooks", ["app"]),
            route: "hooks",
            received_at: 1_800_000_000_000,
            flags: 2,
            key_kind: 0,
            event_id: Some("evt_1"),
            event_type: None,
            provider: "quantiv",
            method: "POST",
            path_rest: "",
            query: Some(""),
            host: "hooks.example",
            client: "192.0.2.1",
            secret: Some("current"),
            event_key: None,
            possible_duplicate_of: None,
        }
    }

    #[test]
    fn every_field_is_sealed() {
        let seal = |fields: &Fields<'_>| fields.seal(b"A: b\r\n", &[1; 16], &mut vec![9; 3]);
        let whole = seal(&some());
        assert_eq!(whole, seal(&some()));
        let others = [
            Fields { seq: 8, ..some() },
            Fields {
                names: names("hooks", ["app", "audit"]),
                ..some()
            },
            Fields {
                route: "hookr",
                ..some()
            },
            Fields {
                received_at: 1_800_000_000_001,
                ..some()
            },
            Fields { flags: 0, ..some() },
            Fields {
                key_kind: 1,
                ..some()
            },
            Fields {
                event_id: Some("evt_3"),
                ..some()
            },
            Fields {
                event_type: Some(""),
                ..some()
            },
            Fields {
                provider: "quantiw",
                ..some()
            },
            Fields {
                method: "PUT",
                ..some()
            },
            Fields {
                path_rest: "a",
                ..some()
            },
            Fields {
                query: None,
                ..some()
            },
            Fields {
                host: "hooks.examplf",
                ..some()
            },
            Fields {
                client: "192.0.2.3",
                ..some()
            },
            Fields {
                secret: None,
                ..some()
            },
            Fields {
                event_key: Some("ab"),
                ..some()
            },
            Fields {
                possible_duplicate_of: Some("ab"),
                ..some()
            },
            // The same bytes in other fields.
            Fields {
                provider: "quanti",
                method: "vPOST",
                ..some()
            },
        ];
        for other in &others {
            assert_ne!(seal(other), whole, "{other:?}");
        }
        assert_ne!(some().seal(b"A: c\r\n", &[1; 16], &mut Vec::new()), whole);
        assert_ne!(some().seal(b"A: b\r\n", &[2; 16], &mut Vec::new()), whole);
    }

    #[test]
    fn a_row_is_done_only_for_its_own_event_upstream_and_status() {
        let due = done(4, 1, 2);
        for (name, seq, upstream, status, due, is) in [
            ("as it was written", 4, 1, 2, due, true),
            ("of an older build", 4, 1, 2, 0, true),
            ("another event", 6, 1, 2, due, false),
            ("another upstream", 4, 3, 2, due, false),
            ("another status", 4, 1, 1, due, false),
            ("another seal", 4, 1, 2, due ^ 1, false),
            ("pending", 4, 1, 0, due, false),
            ("pending since long", 4, 1, 0, 0, false),
        ] {
            assert_eq!(is_done(seq, upstream, status, due), is, "{name}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let sets: [(&str, &[&str]); 5] = [
            ("a", &["b"]),
            ("a", &["b", "c"]),
            ("a", &["bc"]),
            ("ab", &["c"]),
            ("a", &[]),
        ];
        for (one, (route, upstreams)) in sets.iter().enumerate() {
            for (other, (second, others)) in sets.iter().enumerate() {
                let equal = names(route, upstreams.iter().copied()) == names(second, others.iter().copied());
                assert_eq!(equal, one == other);
            }
        }
    }
}
