//! Which places of the table `dedup` are surely free, so that nearly all new events need no look at it.
//!
//! A Bloom filter of one word for each place, read from the table a piece at a time while the store is in use: until it has
//! all of the table, and where reading failed, every place may be taken.

use rusqlite::Connection;

/// Bits for each place: about one free one in a hundred is looked for in vain.
const BITS_A_PLACE: usize = 16;
/// Places of the smallest filter, and of the largest: 128 KiB and 16 MiB. With more it answers "maybe" more often.
const PLACES_MIN: usize = 64 << 10;
const PLACES_MAX: usize = 8 << 20;
/// So many rows say within a few per cent how many the table has.
const ROWS_TO_JUDGE_BY: usize = 1000;

/// The filter of a table, and the one that will take its place.
#[derive(Debug)]
pub(super) struct KeyFilter {
    /// Of the whole table.
    whole: Option<Words>,
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Words {
    words: Box<[u64]>,
    /// Places it was made for.
    places: usize,
    added: usize,
}

/// A filter that has the table up to a place.
#[derive(Debug)]
struct Reading {
    words: Words,
    /// The last place that was read.
    after: Option<i64>,
    /// Rows that were read.
    rows: usize,
}

impl KeyFilter {
    /// Begins to read a table.
    pub(super) fn new() -> Self {
        Self {
            whole: None,
            reading: Some(Reading::new(PLACES_MIN)),
        }
    }

    /// Whether the table may have a place.
    pub(super) fn may_have(&self, place: i64) -> bool {
        self.whole.as_ref().is_none_or(|words| words.may_have(place))
    }

    /// The table gets a place.
    pub(super) fn add(&mut self, place: i64) {
        if let Some(reading) = &mut self.reading {
            reading.words.add(place);
        }
        if let Some(whole) = &mut self.whole {
            whole.add(place);
            // Places that were given back count too, so the next one may do with the same size.
            if self.reading.is_none() && whole.is_crowded() {
                self.reading = Some(Reading::new(whole.places));
            }
        }
    }

    /// Whether there is more of the table to read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Reads up to `rows` of the table on.
    pub(super) fn read(&mut self, conn: &Connection, rows: usize) {
        let Some(reading) = &mut self.reading else {
            return;
        };
        match reading.next(conn, rows) {
            Ok(_) if reading.words.is_crowded() => {
                let places = reading.words.places.saturating_mul(2);
                self.reading = Some(Reading::new(places));
            }
            Ok(count) if count < rows => {
                self.whole = self.reading.take().map(|reading| reading.words);
            }
            Ok(_) => {
                let places = reading.expected();
                if places > reading.words.places && reading.words.places < PLACES_MAX {
                    self.reading = Some(Reading::new(places));
                }
            }
            // What is wrong is met by whoever needs it.
            Err(error) => {
                tracing::debug!(%error, "the keys of the store cannot be read: each new one is looked up");
                self.reading = None;
            }
        }
    }
}

impl Reading {
    fn new(places: usize) -> Self {
        Self {
            words: Words::new(places),
            after: None,
            rows: 0,
        }
    }

    /// How many places the table has in all, by how many there are up to the last one: they are hashes, spread over all numbers.
    fn expected(&self) -> usize {
        let last = self.after.filter(|_| self.rows >= ROWS_TO_JUDGE_BY);
        let passed = last.map_or(u64::MAX, |last| last.abs_diff(i64::MIN));
        // A float becomes the nearest number that there is.
        (self.rows as f64 * (u64::MAX as f64 / passed as f64)) as usize
    }

    /// The count of rows that were read.
    fn next(&mut self, conn: &Connection, most: usize) -> rusqlite::Result<usize> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut select = match self.after {
            None => conn.prepare_cached("SELECT key FROM dedup ORDER BY key LIMIT ?2"),
            Some(_) => conn.prepare_cached("SELECT key FROM dedup WHERE key > ?1 ORDER BY key LIMIT ?2"),
        }?;
        let mut rows = select.query((self.after, limit))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let place = row.get(0)?;
            self.words.add(place);
            self.after = Some(place);
            count += 1;
        }
        self.rows += count;
        Ok(count)
    }
}

impl Words {
    fn new(places: usize) -> Self {
        let places = places.clamp(PLACES_MIN, PLACES_MAX).next_power_of_two();
        Self {
            words: vec![0; places * BITS_A_PLACE / 64].into(),
            places,
            added: 0,
        }
    }

    /// Beyond what it was made for, and not as large as one may be.
    fn is_crowded(&self) -> bool {
        self.added > self.places && self.places < PLACES_MAX
    }

    /// Which word and which bits of it stand for a place. Places are hashes, but those of a shared first half are neighbours.
    fn find(&self, place: i64) -> (usize, u64) {
        let mixed = place.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = (mixed >> 32) as usize & (self.words.len() - 1);
        let bits = [8, 14, 20, 26].map(|from| 1_u64 << (mixed >> from & 63));
        (index, bits.iter().fold(0, |all, bit| all | bit))
    }

    fn add(&mut self, place: i64) {
        let (index, bits) = self.find(place);
        if let Some(word) = self.words.get_mut(index) {
            *word |= bits;
        }
        self.added += 1;
    }

    fn may_have(&self, place: i64) -> bool {
        let (index, bits) = self.find(place);
        self.words.get(index).is_none_or(|word| word & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(places: impl Iterator<Item = i64>) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE dedup (key INTEGER PRIMARY KEY, seq INTEGER NOT NULL)")
            .unwrap();
        conn.execute_batch("BEGIN").unwrap();
        let mut insert = conn.prepare("INSERT INTO dedup VALUES (?1, 1)").unwrap();
        for place in places {
            insert.execute([place]).unwrap();
        }
        drop(insert);
        conn.execute_batch("COMMIT").unwrap();
        conn
    }

    fn random(seed: u64) -> impl FnMut() -> i64 {
        let mut random = fastrand::Rng::with_seed(seed);
        move || random.i64(..)
    }

    /// How many of 10,000 places that the table does not have might be there.
    fn in_vain(filter: &KeyFilter) -> usize {
        let mut other = random(99);
        (0..10_000).filter(|_| filter.may_have(other())).count()
    }

    #[test]
    fn until_all_is_read_any_place_may_be_taken() {
        let places: Vec<i64> = std::iter::repeat_with(random(1)).take(1000).collect();
        let conn = table(places.iter().copied());
        let mut filter = KeyFilter::new();
        for _ in 0..10 {
            assert!(filter.may_have(7) && filter.is_reading());
            filter.read(&conn, 100);
        }
        assert!(filter.may_have(7));
        // The tenth piece was full: only an empty one says that there are no more.
        filter.read(&conn, 100);
        assert!(!filter.may_have(7) && !filter.is_reading());
        assert!(places.iter().all(|place| filter.may_have(*place)));
        assert!(in_vain(&filter) < 10);
    }

    #[test]
    fn what_comes_while_it_is_read_and_later_is_in_it() {
        let (mut before, mut meanwhile) = (random(1), random(2));
        let conn = table((0..1000).map(|_| before()));
        let mut filter = KeyFilter::new();
        let mut added = Vec::new();
        for _ in 0..200 {
            filter.read(&conn, 10);
            let place = meanwhile();
            filter.add(place);
            added.push(place);
        }
        assert!(!filter.may_have(7));
        assert!(added.iter().all(|place| filter.may_have(*place)));
        let mut again = random(1);
        assert!((0..1000).all(|_| filter.may_have(again())));
    }

    #[test]
    fn it_grows_with_the_table_and_answers_meanwhile() {
        const COUNT: usize = 3 * PLACES_MIN;
        let mut places = random(1);
        let conn = table((0..COUNT).map(|_| places()));
        let mut filter = KeyFilter::new();
        let mut pieces = 0;
        while filter.whole.is_none() {
            filter.read(&conn, 10_000);
            pieces += 1;
        }
        // Once more only for the first, which says how many there are.
        assert!(pieces <= COUNT / 10_000 + 2, "{pieces}");
        assert!(in_vain(&filter) < 300, "{}", in_vain(&filter));
        let mut more = random(2);
        for _ in 0..2 * COUNT {
            let place = more();
            conn.execute("INSERT INTO dedup VALUES (?1, 1)", [place]).unwrap();
            filter.add(place);
        }
        assert!(filter.is_reading());
        let mut again = random(2);
        assert!((0..2 * COUNT).all(|_| filter.may_have(again())));
        while filter.is_reading() {
            filter.read(&conn, 10_000);
        }
        assert!(in_vain(&filter) < 300, "{}", in_vain(&filter));
        for (seed, count) in [(1, COUNT), (2, 2 * COUNT)] {
            let mut again = random(seed);
            assert!((0..count).all(|_| filter.may_have(again())));
        }
    }

    #[test]
    fn where_the_table_cannot_be_read_any_place_may_be_taken() {
        let conn = Connection::open_in_memory().unwrap();
        let mut filter = KeyFilter::new();
        filter.read(&conn, 10);
        filter.add(7);
        filter.read(&conn, 10);
        assert!(filter.may_have(8));
    }

    #[test]
    fn the_ends_of_the_numbers_are_places_too() {
        let ends = [i64::MIN, -1, 0, 1, i64::MAX];
        let conn = table(ends.into_iter());
        let mut filter = KeyFilter::new();
        for _ in 0..6 {
            filter.read(&conn, 1);
        }
        assert!(!filter.may_have(7));
        assert!(ends.iter().all(|place| filter.may_have(*place)));
    }
}
