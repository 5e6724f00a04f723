//! A generation of dedup keys on its way into the table: in the order of its places, which is that in which it is merged, and
//! found by the first bits of a place, without a map beside.

use super::number_map::NumberSet;

/// Places that share an entry of the index, about.
const PLACES_A_BUCKET: usize = 8;

/// Places and the events that hold them. Places are hashes, so that their first bits tell most of them apart.
#[derive(Debug, Default)]
pub(super) struct SortedKeys {
    order: Vec<(i64, i64)>,
    /// Where in `order` the places with the same first bits begin, and at last its end.
    buckets: Vec<usize>,
    /// Bits of a place that are not the first.
    other_bits: u32,
    /// Places that their events hold no more.
    given_back: NumberSet,
}

impl SortedKeys {
    /// Sorts them; each place stands there once.
    pub(super) fn new(keys: impl Iterator<Item = (i64, i64)>) -> Self {
        let mut order: Vec<_> = keys.collect();
        order.sort_unstable_by_key(|(place, _)| *place);
        let first_bits = (order.len() / PLACES_A_BUCKET).max(1).ilog2();
        let mut sorted = Self {
            buckets: Vec::with_capacity((1 << first_bits) + 1),
            order,
            other_bits: u64::BITS - first_bits,
            given_back: NumberSet::default(),
        };
        let mut begin = 0;
        for bucket in 0..=1_usize << first_bits {
            let rest = sorted.order.get(begin..).unwrap_or_default();
            begin += rest
                .iter()
                .take_while(|(place, _)| sorted.bucket(*place) < bucket)
                .count();
            sorted.buckets.push(begin);
        }
        sorted
    }

    /// All, also those that were given back since.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The event that holds a place.
    pub(super) fn get(&self, place: i64) -> Option<i64> {
        let bucket = self.bucket(place);
        let begin = *self.buckets.get(bucket)?;
        let end = *self.buckets.get(bucket + 1)?;
        let places = self.order.get(begin..end)?;
        let found = places.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let (_, seq) = places.get(found)?;
        self.is_held(place).then_some(*seq)
    }

    /// Those from a rank on in their order; some may be held no more.
    pub(super) fn from(&self, rank: usize) -> &[(i64, i64)] {
        self.order.get(rank..).unwrap_or_default()
    }

    /// Whether the event that had a place of these has it still.
    pub(super) fn is_held(&self, place: i64) -> bool {
        self.given_back.is_empty() || !self.given_back.contains(&place)
    }

    /// Its event holds it no more.
    pub(super) fn give_back(&mut self, place: i64) {
        self.given_back.insert(place);
    }

    /// Its event holds it after all.
    pub(super) fn hold(&mut self, place: i64) {
        self.given_back.remove(&place);
    }

    /// The first bits of a place, in the order of the places.
    fn bucket(&self, place: i64) -> usize {
        let from_zero = place.wrapping_sub(i64::MIN).cast_unsigned();
        let first_bits = from_zero.checked_shr(self.other_bits).unwrap_or(0);
        usize::try_from(first_bits).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: i64) -> impl Iterator<Item = i64> {
        (1..=count).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()))
    }

    /// Hashes, neighbours and the ends.
    fn places(count: i64) -> Vec<i64> {
        let ends = [i64::MIN, i64::MAX, -1, 0, 1, i64::MAX - 1];
        let neighbours = (1..=count / 10).map(|n| 12_345 + n);
        let mut all: Vec<_> = hashes(count).chain(ends).chain(neighbours).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn each_place_is_found_and_no_other() {
        for count in [0, 1, 2, 7, 8, 9, 100, 5_000] {
            let mut places = places(count);
            places.truncate(usize::try_from(count).unwrap());
            let sorted = SortedKeys::new(places.iter().rev().map(|place| (*place, place ^ 5)));
            assert_eq!(sorted.len(), places.len());
            for place in &places {
                assert_eq!(sorted.get(*place), Some(place ^ 5), "{place} of {count}");
                for other in [place.wrapping_sub(1), place.wrapping_add(1)] {
                    let held = places.binary_search(&other).is_ok();
                    assert_eq!(sorted.get(other).is_some(), held, "{other} of {count}");
                }
            }
            for absent in [i64::MIN, i64::MAX, 0, 3]
                .iter()
                .filter(|place| !places.contains(place))
            {
                assert_eq!(sorted.get(*absent), None, "{absent} of {count}");
            }
        }
        assert_eq!(SortedKeys::default().get(0), None);
    }

    #[test]
    fn places_that_share_their_first_bits_are_found_too() {
        let sorted = SortedKeys::new((0..1_000).map(|place| (place, place + 1)));
        assert!((0..1_000).all(|place| sorted.get(place) == Some(place + 1)));
        assert_eq!((sorted.get(-1), sorted.get(1_000)), (None, None));
    }

    #[test]
    fn few_hashes_share_their_first_bits() {
        let sorted = SortedKeys::new(hashes(5_000).map(|place| (place, 1)));
        let begins = sorted.buckets.iter();
        let shared = begins.clone().skip(1).zip(begins).map(|(end, begin)| end - begin);
        assert!(shared.max().unwrap() <= 4 * PLACES_A_BUCKET);
    }

    #[test]
    fn they_come_in_their_order_from_any_rank_on() {
        let sorted = SortedKeys::new([(3, 30), (i64::MIN, 10), (-4, 20)].into_iter());
        assert_eq!(sorted.from(0), [(i64::MIN, 10), (-4, 20), (3, 30)]);
        assert_eq!(sorted.from(2), [(3, 30)]);
        assert!(sorted.from(3).is_empty() && sorted.from(4).is_empty());
    }

    #[test]
    fn a_place_that_was_given_back_is_held_by_nobody_until_it_is_taken_back() {
        let mut sorted = SortedKeys::new([(3, 30), (4, 40)].into_iter());
        sorted.give_back(3);
        assert_eq!((sorted.get(3), sorted.get(4)), (None, Some(40)));
        assert_eq!(
            (sorted.is_held(3), sorted.is_held(4), sorted.len()),
            (false, true, 2)
        );
        sorted.hold(3);
        assert_eq!((sorted.get(3), sorted.is_held(3)), (Some(30), true));
    }
}
