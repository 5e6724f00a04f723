//! What is written of an event before its sender has an answer: a record in a file of bodies, from which its row is made
//! later, or after a crash.
//!
//! A record is a frame, the row's columns, the headers and the body. Its check is keyed with a number of the store's own, so
//! that no body can hold bytes that look like a record, and no record of another store counts.
//!
//! ```text
//! mark 4 | bytes of columns 4 | batch 8 | check of columns and headers 8 | check of all before 8 | columns | headers | body
//! columns: 12 numbers of 8 | hash of the body 16 | 0 or 1, dedup key 16 | 11 texts, each after its length 4
//! (numbers are little-endian)
//! ```

use rusqlite::CachedStatement;
use rusqlite::types::{ToSqlOutput, ValueRef};
use twox_hash::XxHash3_64;

use super::bodies::Place;
use super::row::weight;
use super::seal::{body_hash, half, put_text};

const MARK: [u8; 4] = *b"hkr1";
/// Of the frame: what comes before its own check, and all of it.
const CHECKED_BYTES: usize = 24;
const FRAME_BYTES: usize = 32;
const NUMBERS: usize = 12;
const TEXTS: usize = 11;
const NO_TEXT: u32 = u32::MAX;

/// The number that checks of a store's records are keyed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordKey(u64);

impl RecordKey {
    pub(super) fn of_store(hash_key: &[u8; 16]) -> Self {
        Self(half(&[&hash_key[..], b"records"].concat()).cast_unsigned())
    }
}

/// The columns of an event's row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns<'a> {
    pub(super) seq: i64,
    pub(super) route: i64,
    pub(super) state: i64,
    pub(super) wants: i64,
    pub(super) received_at: i64,
    pub(super) settled_at: i64,
    pub(super) keep_until: i64,
    pub(super) flags: i64,
    pub(super) key_kind: i64,
    pub(super) seal: i64,
    pub(super) head_bytes: i64,
    pub(super) body_bytes: i64,
    pub(super) body_hash: [u8; 16],
    pub(super) dedup_key: Option<[u8; 16]>,
    /// `event_id, event_type, provider, method, path_rest, query, host, client, secret, event_key, possible_duplicate_of`, in UTF-8.
    pub(super) texts: [Option<&'a [u8]>; TEXTS],
}

/// A record that was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// The number of the first event of its transaction: all below it were kept before this was written.
    pub(super) batch: i64,
    pub(super) columns: Columns<'a>,
    /// From the record's first byte to its headers, and to its end.
    pub(super) headers_at: usize,
    pub(super) end: usize,
}

impl<'a> Columns<'a> {
    /// The numbers, in the order that they are written in.
    fn numbers(&mut self) -> [&mut i64; NUMBERS] {
        [
            &mut self.seq,
            &mut self.route,
            &mut self.state,
            &mut self.wants,
            &mut self.received_at,
            &mut self.settled_at,
            &mut self.keep_until,
            &mut self.flags,
            &mut self.key_kind,
            &mut self.seal,
            &mut self.head_bytes,
            &mut self.body_bytes,
        ]
    }

    /// Appends the columns.
    pub(super) fn write(mut self, to: &mut Vec<u8>) {
        for number in self.numbers() {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&self.body_hash);
        to.push(u8::from(self.dedup_key.is_some()));
        to.extend_from_slice(&self.dedup_key.unwrap_or_default());
        for text in self.texts {
            put_text(to, text);
        }
    }

    /// Reads what [`Columns::write`] has written; `None` where these are other bytes. The texts are not looked into.
    pub(super) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let mut columns = Self::default();
        for number in columns.numbers() {
            *number = i64::from_le_bytes(*take(bytes)?);
        }
        columns.body_hash = *take(bytes)?;
        let [has_key] = *take(bytes)?;
        columns.dedup_key = Some(*take(bytes)?).filter(|_| has_key == 1);
        for text in &mut columns.texts {
            let length = u32::from_le_bytes(*take(bytes)?);
            if length != NO_TEXT {
                let (found, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                *bytes = rest;
                *text = Some(found);
            }
        }
        bytes.is_empty().then_some(columns)
    }

    /// The provider's id of the event.
    pub(super) fn event_id(&self) -> Option<&'a str> {
        let [event_id, ..] = self.texts;
        std::str::from_utf8(event_id?).ok()
    }

    /// The key that the event is handed over with, where that is not derived.
    pub(super) fn event_key(&self) -> Option<&'a str> {
        let [.., event_key, _] = self.texts;
        std::str::from_utf8(event_key?).ok()
    }

    /// What the event takes in the store, about.
    pub(super) fn weight(&self) -> i64 {
        let length = |bytes: i64| usize::try_from(bytes).unwrap_or_default();
        weight(length(self.head_bytes), length(self.body_bytes))
    }

    /// Runs `insert`, which is [`INSERT`], for a row whose headers and body are at `place`; `None`: in `payload`. `before` is the
    /// row that the statement has run for, whose values it still has: neighbours have most of theirs in common.
    pub(super) fn insert(
        &self,
        insert: &mut CachedStatement<'_>,
        place: Option<Place>,
        before: Option<(&Self, Option<Place>)>,
    ) -> rusqlite::Result<()> {
        let numbers = self.bound_numbers(place);
        let known = before.map(|(columns, place)| columns.bound_numbers(place));
        for (at, number) in numbers.iter().enumerate() {
            if known.as_ref().and_then(|known| known.get(at)) != Some(number) {
                insert.raw_bind_parameter(1 + at, number)?;
            }
        }
        insert.raw_bind_parameter(16, &self.body_hash[..])?;
        insert.raw_bind_parameter(17, self.dedup_key.as_ref().map(|key| &key[..]))?;
        for (at, text) in self.texts.iter().enumerate() {
            if before.and_then(|(columns, _)| columns.texts.get(at)) != Some(text) {
                let text = text.map(|text| ToSqlOutput::Borrowed(ValueRef::Text(text)));
                insert.raw_bind_parameter(18 + at, text)?;
            }
        }
        insert.raw_execute().map(drop)
    }

    /// The numbers of the row, as [`INSERT`] has them.
    fn bound_numbers(&self, place: Option<Place>) -> [i64; 15] {
        let (segment, offset, head_bytes) =
            place.map_or((0, 0, 0), |place| (place.segment, place.offset, place.head_bytes));
        [
            self.seq,
            self.route,
            self.state,
            self.wants,
            self.weight(),
            self.received_at,
            self.settled_at,
            self.keep_until,
            self.flags,
            self.key_kind,
            self.body_bytes,
            self.seal,
            segment,
            offset,
            head_bytes,
        ]
    }
}

/// Inserts a row by [`Columns::insert`]. It counts as settled from when it came until it is.
pub(super) const INSERT: &str = "INSERT INTO event (seq, route, state, wants, bytes, received_at, settled_at,
  keep_until, flags, key_kind, body_bytes, seal, segment, offset, head_bytes, body_hash, dedup_key, event_id,
  event_type, provider, method, path_rest, query, host, client, secret, event_key, possible_duplicate_of)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
  ?24, ?25, ?26, ?27, ?28)";

/// Appends a record without its body, which is to follow; where its headers begin in `to`.
pub(super) fn write(to: &mut Vec<u8>, key: RecordKey, batch: i64, columns: &[u8], headers: &[u8]) -> usize {
    let start = to.len();
    let length = u32::try_from(columns.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&MARK);
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(&batch.to_le_bytes());
    // The checks, once what they cover is there.
    to.resize(start + FRAME_BYTES, 0);
    to.extend_from_slice(columns);
    to.extend_from_slice(headers);
    let record = to.get_mut(start..).unwrap_or_default();
    if let Some((frame, rest)) = record.split_at_mut_checked(FRAME_BYTES) {
        let (checked, check) = frame.split_at_mut(CHECKED_BYTES);
        if let Some(check_of_rest) = checked.last_chunk_mut() {
            *check_of_rest = key.check(rest);
        }
        check.copy_from_slice(&key.check(checked));
    }
    start + FRAME_BYTES + columns.len()
}

/// Bytes of a record besides its headers and its body.
pub(super) fn overhead(columns: &[u8]) -> usize {
    FRAME_BYTES + columns.len()
}

/// The record at the beginning of `bytes`; `None` where there is none that is whole.
pub(super) fn at_start(bytes: &[u8], key: RecordKey) -> Option<Found<'_>> {
    let (frame, rest) = bytes.split_at_checked(FRAME_BYTES)?;
    let (checked, check) = frame.split_at_checked(CHECKED_BYTES)?;
    let mut fields = checked;
    let fields = &mut fields;
    // The frame first: what it says would else be believed of any bytes within a body.
    if *take(fields)? != MARK || key.check(checked)[..] != *check {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(*take(fields)?)).ok()?;
    let batch = i64::from_le_bytes(*take(fields)?);
    let check_of_rest: &[u8; 8] = take(fields)?;
    let columns = Columns::read(rest.get(..length)?)?;
    let head_bytes = usize::try_from(columns.head_bytes).ok()?;
    let body_bytes = usize::try_from(columns.body_bytes).ok()?;
    let body_at = length.checked_add(head_bytes)?;
    let rest_bytes = body_at.checked_add(body_bytes)?;
    let body = rest.get(body_at..rest_bytes)?;
    let whole = key.check(rest.get(..body_at)?) == *check_of_rest && body_hash(body) == columns.body_hash;
    let is_text = |text: &[u8]| std::str::from_utf8(text).is_ok();
    let whole = whole && columns.texts.into_iter().flatten().all(is_text);
    whole.then_some(Found {
        batch,
        columns,
        headers_at: FRAME_BYTES + length,
        end: FRAME_BYTES + rest_bytes,
    })
}

/// Where the next record may begin behind the first byte of `bytes`.
pub(super) fn next_mark(bytes: &[u8]) -> Option<usize> {
    let found = memchr::memmem::find(bytes.get(1..)?, &MARK)?;
    Some(found + 1)
}

impl RecordKey {
    fn check(self, bytes: &[u8]) -> [u8; 8] {
        XxHash3_64::oneshot_with_seed(self.0, bytes).to_le_bytes()
    }
}

/// Takes the first `N` bytes.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (found, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RecordKey = RecordKey(7);
    const HEADERS: &[u8] = b"Content-Type: application/json\r\n";
    const BODY: &[u8] = b"{\"id\":\"evt_1\"}";

    fn columns(body: &[u8]) -> Columns<'static> {
        Columns {
            seq: 12,
            route: 1,
            state: 0,
            wants: 3,
            received_at: 1_800_000_000_000,
            settled_at: 1_800_000_000_001,
            keep_until: i64::MAX,
            flags: 6,
            key_kind: -1,
            seal: i64::MIN,
            head_bytes: HEADERS.len() as i64,
            body_bytes: body.len() as i64,
            body_hash: body_hash(body),
            dedup_key: Some([9; 16]),
            texts: [
                Some(b"evt_1"),
                None,
                Some(b"quantiv"),
                Some(b"POST"),
                Some(b""),
                Some("a=\u{e9}".as_bytes()),
                Some(b"hooks.example"),
                Some(b"192.0.2.1"),
                None,
                None,
                Some(b"k"),
            ],
        }
    }

    fn record(key: RecordKey, batch: i64, body: &[u8]) -> Vec<u8> {
        let (mut bytes, mut written) = (Vec::new(), Vec::new());
        columns(body).write(&mut written);
        let headers_at = write(&mut bytes, key, batch, &written, HEADERS);
        assert_eq!(headers_at, overhead(&written));
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for (body, behind) in [(BODY, &b""[..]), (b"", b"hkr1"), (BODY, &record(KEY, 2, BODY))] {
            let mut bytes = record(KEY, 5, body);
            let length = bytes.len();
            bytes.extend_from_slice(behind);
            let found = at_start(&bytes, KEY).unwrap();
            assert_eq!((found.batch, found.end), (5, length));
            assert_eq!(found.columns, columns(body));
            assert_eq!(&bytes[found.headers_at..][..HEADERS.len()], HEADERS);
        }
        let mut without = columns(BODY);
        without.dedup_key = None;
        without.texts = [None; TEXTS];
        let mut written = Vec::new();
        without.write(&mut written);
        assert_eq!(Columns::read(&written), Some(without));
    }

    #[test]
    fn a_row_that_has_much_in_common_with_the_one_before_is_its_own() {
        use super::super::schema;
        use rusqlite::{Connection, types::Value};
        let same = columns(BODY);
        let place = |offset| {
            Some(Place {
                segment: 3,
                offset,
                head_bytes: same.head_bytes,
            })
        };
        let (mut other, mut less) = (same, same);
        other.numbers().into_iter().for_each(|number| *number = 77);
        other.body_hash = [1; 16];
        other.texts = [Some(b"x"); TEXTS];
        less.dedup_key = None;
        less.texts = [None; TEXTS];
        for name in [2, 3, 4, 6, 7] {
            less.texts[name] = Some(b"");
        }
        let rows = [
            (same, place(1)),
            (same, place(2)),
            (other, place(3)),
            (same, None),
            (less, None),
            (less, place(9)),
            (other, place(3)),
        ];
        let kept = |with_before: bool| {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(&schema::sql_of("event").unwrap()).unwrap();
            let mut insert = conn.prepare_cached(INSERT).unwrap();
            let mut before = None;
            for (seq, (columns, place)) in (1..).zip(rows) {
                let columns = Columns { seq, ..columns };
                let known = before.as_ref().map(|(columns, place)| (columns, *place));
                columns
                    .insert(&mut insert, place, known.filter(|_| with_before))
                    .unwrap();
                before = Some((columns, place));
            }
            let mut all = conn.prepare("SELECT * FROM event ORDER BY seq").unwrap();
            let count = all.column_count();
            let values = |row: &rusqlite::Row<'_>| (0..count).map(|at| row.get::<_, Value>(at)).collect();
            let found: Result<Vec<Vec<Value>>, _> = all.query_map([], |row| values(row)).unwrap().collect();
            found.unwrap()
        };
        assert_eq!(kept(true).len(), rows.len());
        assert_eq!(kept(true), kept(false));
    }

    #[test]
    fn what_is_not_whole_is_none() {
        let whole = record(KEY, 1, BODY);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(at_start(&bytes, KEY), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(at_start(&whole[..length], KEY), None, "{length} bytes");
        }
        assert_eq!(at_start(&whole, RecordKey(8)), None, "another store's");
        let keys = [[0; 16], [1; 16]].map(|hash_key| RecordKey::of_store(&hash_key).0);
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn the_next_mark_is_never_the_first_byte() {
        for (bytes, next) in [
            (&b""[..], None),
            (b"hkr1", None),
            (b"hkr1hkr1", Some(4)),
            (b"xhkr1", Some(1)),
            (b"hkr", None),
        ] {
            assert_eq!(next_mark(bytes), next, "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = record(KEY, 1, BODY);
            for _ in 0..rng.usize(1..8) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.choice([0, 1, 0x7f, 0x80, 0xff]).unwrap_or_default();
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            Columns::read(bytes.get(FRAME_BYTES..).unwrap_or_default());
            let _ = (at_start(&bytes, KEY), next_mark(&bytes));
        }
    }
}
