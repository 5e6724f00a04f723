//! Which event holds a dedup key: recent keys in memory, the others in the table `dedup`.
//!
//! A key is a hash, so each new one would dirty a page of the table of its own. They are gathered instead, and a whole
//! generation is merged in the order of its keys, a few with each transaction, so that many fall on one page. Up to which
//! event the table is complete stands in `meta`; a start after a crash reads the keys of the events after it, one after a close
//! what was kept then (`kept_keys`).

use rusqlite::{CachedStatement, Connection, OptionalExtension};

use super::kept_keys;
use super::key_filter::KeyFilter;
use super::number_map::NumberMap;
use super::schema;
use super::seal::readable;
use super::sorted_keys::SortedKeys;
use super::transaction::{TxError, prepared};

/// Places tried when two different keys share their first 64 bits.
pub(super) const PLACES_MAX: i64 = 16;
/// Keys of a generation; of a small store, fewer. They fill a map of 131,072 places as far as one is filled, but for the keys of a
/// transaction.
const GENERATION: u64 = 110 << 10;
const GENERATION_MIN: u64 = 4;
/// Bytes of the store for each key of a generation.
const STORE_BYTES_A_KEY: u64 = 64 << 10;
/// Keys merged for each one that comes.
const MERGED_A_KEY: usize = 2;
/// In `meta`: the last event up to which every key is in the table.
const MERGED_TO: &str = "keys_merged_to";
/// Events read at the start where that number is damaged.
const READ_MAX: i64 = 262_144;

type Map = NumberMap<i64>;

/// The keys that the committer knows of; a transaction changes them, and commits or takes back what it changed.
#[derive(Debug)]
pub(super) struct Keys {
    generation: usize,
    recent: Map,
    merging: Merging,
    filter: KeyFilter,
    /// What the open transaction changed, last first to be undone.
    changes: Vec<Change>,
    /// Events since the last merge that was committed, and keys that were merged for them.
    came: usize,
    merged: usize,
    /// The open transaction merges all that is due.
    merges: bool,
}

/// A generation on its way into the table.
#[derive(Debug, Default)]
struct Merging {
    keys: SortedKeys,
    /// Up to `committed` they are in the table, up to `at` with the open transaction.
    at: usize,
    committed: usize,
    /// The last event with a key in it, or before it.
    top: i64,
}

#[derive(Debug)]
enum Change {
    /// A place in `recent`, and which event held it before.
    Recent(i64, Option<i64>),
    /// A place in `merging` that was given back.
    GivenBack(i64),
}

/// The first place of a key: half of it.
pub(super) fn first_place(key: &[u8; 16]) -> i64 {
    let (half, _) = key.split_at(8);
    i64::from_be_bytes(half.try_into().unwrap_or_default())
}

impl Keys {
    /// Reads what the table does not have yet of the events before `next_seq`.
    pub(super) fn load(conn: &Connection, next_seq: i64, bytes_max: u64) -> rusqlite::Result<Self> {
        let generation = (bytes_max / STORE_BYTES_A_KEY).clamp(GENERATION_MIN, GENERATION);
        let mut keys = Self {
            generation: usize::try_from(generation).unwrap_or(usize::MAX),
            recent: Map::default(),
            merging: Merging::default(),
            filter: KeyFilter::new(),
            changes: Vec::new(),
            came: 0,
            merged: 0,
            merges: false,
        };
        if let Some(kept) = kept_keys::read(conn, next_seq) {
            keys.recent.extend(kept);
            return Ok(keys);
        }
        let stored = schema::meta_number(conn, MERGED_TO)?.filter(|seq| *seq < next_seq);
        let from = stored.unwrap_or_else(|| next_seq.saturating_sub(READ_MAX).max(0));
        let mut select = conn.prepare("SELECT seq, dedup_key FROM event WHERE seq > ?1 ORDER BY seq")?;
        let mut rows = select.query([from])?;
        while let Some(row) = rows.next()? {
            // What damage made unreadable holds nothing.
            let read = || Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
            let Some((seq, Some(key))) = readable(read())? else {
                continue;
            };
            if let Ok(key) = <&[u8; 16]>::try_from(&key[..]) {
                keys.put_back(conn, key, seq)?;
            }
        }
        Ok(keys)
    }

    /// Each event has its key in the table: what a store of before is brought up to.
    pub(super) fn set_merged_to(conn: &Connection, seq: i64) -> rusqlite::Result<()> {
        schema::set_meta(conn, MERGED_TO, seq)
    }

    /// As it was before the stop: a later event with the same key holds it.
    fn put_back(&mut self, conn: &Connection, key: &[u8; 16], seq: i64) -> rusqlite::Result<()> {
        let first = first_place(key);
        for step in 0..PLACES_MAX {
            let place = first.wrapping_add(step);
            let same = match self.recent.get(&place) {
                None => true,
                Some(other) => conn
                    .prepare_cached("SELECT 1 FROM event WHERE seq = ?1 AND dedup_key = ?2")?
                    .exists((other, &key[..]))?,
            };
            if same {
                self.recent.insert(place, seq);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks for all places of a batch, one behind the other: what the core's caches do not have of them comes at the same time,
    /// where a look before each event would wait for each.
    pub(super) fn look_ahead(&self, places: impl Iterator<Item = i64>) {
        let may_be_taken = |place: &i64| {
            self.recent.contains_key(place)
                | self.merging.keys.get(*place).is_some()
                | self.filter.may_have(*place)
        };
        std::hint::black_box(places.filter(may_be_taken).count());
    }

    /// The event that has a place. `select` is the statement that looks for it in the table.
    pub(super) fn at<'c>(
        &self,
        conn: &'c Connection,
        select: &mut Option<CachedStatement<'c>>,
        place: i64,
    ) -> Result<Option<i64>, TxError> {
        let recent = self.recent.get(&place).copied();
        if let Some(seq) = recent.or_else(|| self.merging.keys.get(place)) {
            return Ok(Some(seq));
        }
        if !self.filter.may_have(place) {
            return Ok(None);
        }
        let found = prepared(select, conn, "SELECT seq FROM dedup WHERE key = ?1")?
            .query_row([place], |row| row.get(0))
            .optional()?;
        Ok(found)
    }

    /// Gives a place to an event.
    pub(super) fn take(&mut self, place: i64, seq: i64) {
        let before = self.recent.insert(place, seq);
        self.changes.push(Change::Recent(place, before));
    }

    /// Takes the places of a key back from an event.
    pub(super) fn forget(&mut self, conn: &Connection, key: &[u8; 16], seq: i64) -> Result<(), TxError> {
        let first = first_place(key);
        for step in 0..PLACES_MAX {
            let place = first.wrapping_add(step);
            let mut found = false;
            if self.recent.get(&place) == Some(&seq) {
                self.recent.remove(&place);
                self.changes.push(Change::Recent(place, Some(seq)));
                found = true;
            }
            if self.merging.keys.get(place) == Some(seq) {
                self.merging.keys.give_back(place);
                self.changes.push(Change::GivenBack(place));
                found = true;
            }
            // Also where it was merged while it is still in memory.
            let gone = conn
                .prepare_cached("DELETE FROM dedup WHERE key = ?1 AND seq = ?2")?
                .execute((place, seq))?;
            if found || gone == 1 {
                break;
            }
        }
        Ok(())
    }

    /// So many more events have come.
    pub(super) fn came(&mut self, events: usize) {
        self.came += events;
    }

    /// Merges some keys for each event that has come since the last merge.
    pub(super) fn merge(&mut self, conn: &Connection) -> Result<(), TxError> {
        self.merge_some(conn, usize::MAX)?;
        self.merges = true;
        Ok(())
    }

    /// Merges what has to be, so that a generation is merged before the next one is full.
    pub(super) fn merge_least(&mut self, conn: &Connection) -> Result<(), TxError> {
        let due = (self.came + self.came / 4).saturating_sub(self.merged);
        self.merge_up_to(conn, due)?;
        self.merges = true;
        Ok(())
    }

    /// Merges up to `most` of those for each event that has come; whether more are to follow.
    pub(super) fn merge_some(&mut self, conn: &Connection, most: usize) -> Result<bool, TxError> {
        let left = self.merging.keys.from(self.merging.at).len();
        let due = self.came.saturating_mul(MERGED_A_KEY);
        let due = due.saturating_sub(self.merged).min(left);
        self.merge_up_to(conn, due.min(most))?;
        Ok(most < due)
    }

    fn merge_up_to(&mut self, conn: &Connection, most: usize) -> Result<(), TxError> {
        let merging = &mut self.merging;
        let left = merging.keys.from(merging.at);
        let count = most.min(left.len());
        if count == 0 {
            return Ok(());
        }
        let mut insert = conn.prepare_cached(
            "INSERT INTO dedup (key, seq) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seq = excluded.seq",
        )?;
        for (place, seq) in left.iter().take(count) {
            if !merging.keys.is_held(*place) {
                continue;
            }
            insert.execute((place, seq))?;
            self.filter.add(*place);
        }
        merging.at += count;
        self.merged += count;
        if merging.at == merging.keys.len() {
            Self::set_merged_to(conn, merging.top)?;
        }
        Ok(())
    }

    /// What was merged ahead is gone with its transaction.
    pub(super) fn ahead_is_lost(&mut self) {
        self.merges = false;
        let merging = &mut self.merging;
        self.merged = self.merged.saturating_sub(merging.at - merging.committed);
        merging.at = merging.committed;
    }

    /// Keeps what the table does not have for the next start, in the last transaction before it. `next_seq` is the number of the next
    /// event.
    pub(super) fn keep(&self, conn: &Connection, next_seq: i64) -> rusqlite::Result<()> {
        let merging = &self.merging;
        let left = merging.keys.from(merging.at).iter();
        // A later event may have taken its place.
        let left = left.filter(|(place, _)| merging.keys.is_held(*place) && !self.recent.contains_key(place));
        let recent = self.recent.iter().map(|(place, seq)| (*place, *seq));
        kept_keys::write(conn, next_seq, left.copied().chain(recent))
    }

    /// Whether there is more of the table to read.
    pub(super) fn is_learning(&self) -> bool {
        self.filter.is_reading()
    }

    /// Reads up to `rows` of the table on, to know which places are free.
    pub(super) fn learn(&mut self, conn: &Connection, rows: usize) {
        self.filter.read(conn, rows);
    }

    /// The transaction is durable; `next_seq` is the number of the next event, and `written`: with what was merged.
    pub(super) fn committed(&mut self, next_seq: i64, written: bool) {
        self.changes.clear();
        if !written {
            return;
        }
        if std::mem::take(&mut self.merges) {
            (self.came, self.merged) = (0, 0);
        }
        self.merging.committed = self.merging.at;
        if self.merging.at < self.merging.keys.len() || self.recent.len() < self.generation {
            return;
        }
        // The one before goes first: memory for three is not needed.
        self.merging = Merging::default();
        self.merging = Merging {
            keys: SortedKeys::new(self.recent.drain()),
            at: 0,
            committed: 0,
            top: next_seq - 1,
        };
        // After a crash there were more.
        self.recent.shrink_to(self.generation);
    }

    /// Nothing of the transaction is left.
    pub(super) fn rolled_back(&mut self) {
        self.ahead_is_lost();
        while let Some(change) = self.changes.pop() {
            match change {
                Change::Recent(place, Some(seq)) => drop(self.recent.insert(place, seq)),
                Change::Recent(place, None) => drop(self.recent.remove(&place)),
                Change::GivenBack(place) => self.merging.keys.hold(place),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 7;

    /// A key that shares its first half with every other, and a key of its own.
    fn key(half: u64, n: u8) -> [u8; 16] {
        let mut key = [n; 16];
        key[..8].copy_from_slice(&half.to_be_bytes());
        key
    }

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL);
             CREATE TABLE event (seq INTEGER PRIMARY KEY, dedup_key BLOB);
             CREATE TABLE dedup (key INTEGER PRIMARY KEY, seq INTEGER NOT NULL)",
        )
        .unwrap();
        conn
    }

    /// A smallest store, with an event at each number from 1 on.
    struct Store {
        conn: Connection,
        keys: Keys,
        next: i64,
    }

    impl Store {
        fn new() -> Self {
            let conn = database();
            let keys = Keys::load(&conn, 1, 0).unwrap();
            Self { conn, keys, next: 1 }
        }

        /// With so many events whose keys are not in the table, as a crash in a merge leaves them.
        fn with_unmerged(events: i64) -> Self {
            let mut store = Self::new();
            for seq in 1..=events {
                let key = key(seq.cast_unsigned() << 32, 0);
                let row = (seq, &key[..]);
                store
                    .conn
                    .execute("INSERT INTO event VALUES (?1, ?2)", row)
                    .unwrap();
            }
            store.next = events + 1;
            store.read_again();
            store
        }

        /// Accepts an event with a key of which nobody else has the first half.
        fn add(&mut self) -> i64 {
            let seq = self.next;
            self.write(seq, key(seq.cast_unsigned() << 32, 0));
            self.keys.came(1);
            self.keys.merge(&self.conn).unwrap();
            self.keys.learn(&self.conn, 3);
            self.next += 1;
            self.keys.committed(self.next, true);
            seq
        }

        fn write(&mut self, seq: i64, key: [u8; 16]) {
            let row = (seq, &key[..]);
            self.conn
                .execute("INSERT INTO event VALUES (?1, ?2)", row)
                .unwrap();
            self.keys.take(first_place(&key), seq);
        }

        /// How many of the generation are merged then, and whether more are to follow.
        fn merge_some(&mut self, most: usize) -> (usize, bool) {
            let more = self.keys.merge_some(&self.conn, most).unwrap();
            (self.keys.merging.at, more)
        }

        fn holder(&self, of: i64) -> Option<i64> {
            self.keys.at(&self.conn, &mut None, of << 32).unwrap()
        }

        fn table(&self) -> Vec<i64> {
            let mut select = self.conn.prepare("SELECT seq FROM dedup ORDER BY seq").unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        }

        fn read_again(&mut self) {
            self.keys = Keys::load(&self.conn, self.next, 0).unwrap();
        }
    }

    #[test]
    fn each_key_is_found_wherever_it_is() {
        let mut store = Store::new();
        for n in 1..=200 {
            assert_eq!(store.holder(n), None);
            assert_eq!(store.add(), n);
            for known in 1..=n {
                assert_eq!(store.holder(known), Some(known), "{known} of {n}");
            }
            let kept = store.keys.recent.len();
            assert!(kept <= 2 * GENERATION_MIN as usize, "{kept} in memory after {n}");
        }
        let merged = store.table();
        assert!(merged.len() > 180, "{}", merged.len());
        // As after a crash, at each point of a merge.
        for n in 201..=230 {
            store.read_again();
            for known in 1..n {
                assert_eq!(store.holder(known), Some(known), "{known} of {n}, read again");
            }
            store.add();
        }
    }

    #[test]
    fn keys_are_known_after_a_crash_at_any_point_of_a_merge() {
        for every in 1..12 {
            let mut store = Store::new();
            for n in 1..=120 {
                store.add();
                if n % every == 0 {
                    store.read_again();
                }
                for known in 1..=n {
                    assert_eq!(store.holder(known), Some(known), "{known} of {n}, every {every}");
                }
            }
        }
    }

    #[test]
    fn a_generation_waits_for_the_one_before() {
        let mut store = Store::with_unmerged(40);
        for n in 41..=100 {
            store.add();
            for known in 1..=n {
                assert_eq!(store.holder(known), Some(known), "{known} of {n}");
            }
        }
    }

    #[test]
    fn two_keys_are_merged_for_each_that_comes_in_pieces_and_after_a_loss_too() {
        let mut store = Store::with_unmerged(40);
        // With it they begin to be merged.
        store.add();
        assert_eq!(store.merge_some(9), (0, false));
        store.keys.came(3);
        assert_eq!(store.merge_some(2), (2, true));
        assert_eq!(store.merge_some(4), (6, false));
        assert_eq!(store.merge_some(9), (6, false));
        store.keys.committed(store.next, true);
        store.keys.came(2);
        assert_eq!(store.merge_some(1), (7, true));
        store.keys.ahead_is_lost();
        assert_eq!(store.merge_some(9), (10, false));
    }

    #[test]
    fn places_that_the_table_does_not_have_are_soon_known() {
        let mut store = Store::new();
        let maybe = |store: &Store| {
            let absent = (1..=100).map(|n| (n << 32) + 1);
            absent.filter(|place| store.keys.filter.may_have(*place)).count()
        };
        assert_eq!(maybe(&store), 100);
        for _ in 0..200 {
            store.add();
        }
        assert!(maybe(&store) < 10, "{}", maybe(&store));
    }

    #[test]
    fn a_larger_store_gathers_more_keys() {
        let conn = database();
        for (bytes_max, generation) in [
            (0, 4),
            (16 << 20, 256),
            (10 << 30, 110 << 10),
            (1 << 50, 110 << 10),
        ] {
            assert_eq!(Keys::load(&conn, 1, bytes_max).unwrap().generation, generation);
        }
    }

    #[test]
    fn without_a_merge_the_number_of_the_last_one_stays() {
        let mut store = Store::new();
        Keys::set_merged_to(&store.conn, 5).unwrap();
        store.next = 6;
        store.read_again();
        store.add();
        store.keys.came(0);
        store.keys.merge(&store.conn).unwrap();
        assert_eq!(schema::meta_number(&store.conn, MERGED_TO).unwrap(), Some(5));
    }

    #[test]
    fn a_start_reads_only_what_the_table_lacks() {
        let mut store = Store::new();
        for _ in 0..200 {
            store.add();
        }
        store.read_again();
        let read = store.keys.recent.len();
        assert!(read <= 3 * GENERATION_MIN as usize, "{read} read");
        // A number that no event has yet is damage: everything is read.
        Keys::set_merged_to(&store.conn, store.next).unwrap();
        store.read_again();
        assert_eq!(store.keys.recent.len(), 200);
    }

    #[test]
    fn a_start_after_a_close_has_what_was_kept_until_an_event_comes() {
        for events in [0_i64, 1, 5, 6, 9, 200] {
            let mut store = Store::new();
            for _ in 0..events {
                store.add();
            }
            // One is gone, and one has a later holder.
            let last = key(events.cast_unsigned() << 32, 0);
            store.keys.forget(&store.conn, &last, events).unwrap();
            if events > 5 {
                store
                    .keys
                    .take(first_place(&key((events - 5).cast_unsigned() << 32, 0)), 77);
            }
            store.keys.committed(store.next, true);
            let holders = |store: &Store| -> Vec<_> { (1..=events).map(|n| store.holder(n)).collect() };
            let before = holders(&store);
            store.keys.keep(&store.conn, store.next).unwrap();
            store.conn.execute("DELETE FROM event", []).unwrap();
            store.read_again();
            assert_eq!(holders(&store), before, "after {events}");
            // And so has a second start, until there is another event.
            store.read_again();
            assert_eq!(holders(&store), before, "after {events}, again");
            let added = store.add();
            store.read_again();
            assert_eq!(store.holder(added), Some(added));
            assert!(
                store.keys.recent.len() <= 1,
                "{} kept for longer",
                store.keys.recent.len()
            );
        }
    }

    #[test]
    fn what_is_rolled_back_leaves_no_trace() {
        let mut store = Store::new();
        while store.keys.merging.keys.len() == 0 || store.keys.recent.is_empty() {
            store.add();
        }
        let state = |keys: &Keys| {
            let mut recent: Vec<_> = keys.recent.iter().map(|(place, seq)| (*place, *seq)).collect();
            recent.sort_unstable();
            let merging = &keys.merging;
            let held = merging
                .keys
                .from(0)
                .iter()
                .map(|(place, _)| merging.keys.get(*place));
            (recent, held.collect::<Vec<_>>(), merging.at)
        };
        let before = (state(&store.keys), store.table());
        store.conn.execute_batch("BEGIN").unwrap();
        let old = store.next - 1;
        store.write(900, key(old.cast_unsigned() << 32, 0));
        store.write(901, key(u64::MAX, 0));
        store.keys.forget(&store.conn, &key(1 << 32, 0), 1).unwrap();
        assert_eq!(store.holder(old), Some(900));
        assert_eq!(store.holder(1), None);
        store.keys.came(1);
        store.keys.merge(&store.conn).unwrap();
        assert_ne!(state(&store.keys), before.0);
        store.keys.rolled_back();
        store.conn.execute_batch("ROLLBACK").unwrap();
        assert_eq!((state(&store.keys), store.table()), before);
        assert_eq!(store.holder(1), Some(1));
        // What is committed stays.
        store.write(900, key(old.cast_unsigned() << 32, 0));
        store.keys.committed(store.next, true);
        store.keys.rolled_back();
        assert_eq!(store.holder(old), Some(900));
    }

    #[test]
    fn a_forgotten_key_is_gone_from_memory_and_table() {
        // Before, while and after its generation is merged.
        for events in [2_i64, 5, 6, 7, 40] {
            let mut store = Store::new();
            for _ in 0..events {
                store.add();
            }
            for n in 1..=events {
                store
                    .keys
                    .forget(&store.conn, &key(n.cast_unsigned() << 32, 0), n + 1)
                    .unwrap();
                assert_eq!(store.holder(n), Some(n), "held by another");
                store
                    .keys
                    .forget(&store.conn, &key(n.cast_unsigned() << 32, 0), n)
                    .unwrap();
                store.keys.committed(store.next, true);
                assert_eq!(store.holder(n), None, "{n} of {events}");
                store
                    .conn
                    .execute("DELETE FROM event WHERE seq = ?1", [n])
                    .unwrap();
            }
            // Nor does it come back by a merge.
            for _ in 0..60 {
                store.add();
            }
            for n in 1..=events {
                assert_eq!(store.holder(n), None, "{n} of {events}, later");
            }
            assert!(store.table().iter().all(|seq| *seq > events));
        }
    }

    #[test]
    fn keys_with_one_half_keep_their_places_and_lose_them_alone() {
        let mut store = Store::new();
        let first = HALF.cast_signed();
        for n in 1..=3 {
            let key = key(HALF, n);
            let row = (i64::from(n), &key[..]);
            store
                .conn
                .execute("INSERT INTO event VALUES (?1, ?2)", row)
                .unwrap();
            store.keys.take(first + i64::from(n) - 1, i64::from(n));
        }
        let at = |store: &Store, place: i64| store.keys.at(&store.conn, &mut None, place).unwrap();
        store.next = 4;
        store.read_again();
        assert_eq!(
            [0, 1, 2, 3].map(|step| at(&store, first + step)),
            [Some(1), Some(2), Some(3), None]
        );
        // A later event with the same key takes its place.
        let row = (4, &key(HALF, 2)[..]);
        store
            .conn
            .execute("INSERT INTO event VALUES (?1, ?2)", row)
            .unwrap();
        store.next = 5;
        store.read_again();
        assert_eq!(
            [0, 1, 2, 3].map(|step| at(&store, first + step)),
            [Some(1), Some(4), Some(3), None]
        );
        store.keys.forget(&store.conn, &key(HALF, 3), 3).unwrap();
        assert_eq!(
            [0, 1, 2].map(|step| at(&store, first + step)),
            [Some(1), Some(4), None]
        );
        // In the table too: it stands behind two others.
        store
            .conn
            .execute("INSERT INTO dedup VALUES (?1, 8)", [first + 2])
            .unwrap();
        store.keys.forget(&store.conn, &key(HALF, 3), 8).unwrap();
        assert_eq!(store.table(), Vec::<i64>::new());
    }
}
