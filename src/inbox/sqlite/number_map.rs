//! Maps by numbers, and sets of them, that nobody can choose so that they collide: of events, which are our own, and of keys, which are hashes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type NumberMap<T> = HashMap<i64, T, BuildHasherDefault<Numbers>>;
pub(super) type NumberSet = HashSet<i64, BuildHasherDefault<Numbers>>;

#[derive(Debug, Default)]
pub(super) struct Numbers(u64);

impl Hasher for Numbers {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, number: i64) {
        // Neighbours shall differ in the first bits too, by which a map tells them apart.
        self.0 = (self.0 ^ number.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
