//! Sample events with fresh ids and times, for `send` and `sign`.

use crate::event::Timestamp;

/// Fills the placeholders of a sample's body.
///
/// `{id}` becomes 26 letters and digits, `{uuid}` a version 4 UUID, `{number}` a number of 9 digits, `{time}` is `now` to the second (RFC 3339, UTC), `{unix}` and
/// `{unix_ms}` are seconds and milliseconds since 1970.
/// A placeholder that stands twice gets one value; the same `seed` gives the same values.
pub fn fill(body: &str, seed: u64, now: Timestamp) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let id: String = (0..26)
        .filter_map(|_| random.choice(ID_LETTERS))
        .map(|letter| char::from(*letter))
        .collect();
    let uuid = uuid(random.u128(..));
    let number = random.u32(100_000_000..=999_999_999);
    body.replace("{id}", &id)
        .replace("{uuid}", &uuid)
        .replace("{number}", &number.to_string())
        .replace("{time}", &seconds(now))
        .replace("{unix}", &now.0.div_euclid(1000).to_string())
        .replace("{unix_ms}", &now.0.to_string())
}

/// Fills the placeholders of a sample's headers; with the seed of the body they get its values.
pub fn fill_headers(headers: &[(String, String)], seed: u64, now: Timestamp) -> Vec<(String, String)> {
    let filled = |(name, value): &(String, String)| (name.clone(), fill(value, seed, now));
    headers.iter().map(filled).collect()
}

/// Crockford's base 32, as in the ids of the providers' documents.
const ID_LETTERS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn uuid(random: u128) -> String {
    let version_4 = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = format!("{version_4:032x}");
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

fn seconds(now: Timestamp) -> String {
    let whole = Timestamp(now.0.div_euclid(1000) * 1000).to_string();
    whole.replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_999);

    #[test]
    fn placeholders_are_filled_and_nothing_else() {
        let filled = fill(
            r#"{"a":"{id}","b":"{id}","c":{},"t":"{time}","u":"{uuid}"}"#,
            7,
            NOW,
        );
        let value: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(value["a"], value["b"]);
        assert_eq!(value["a"].as_str().unwrap().len(), 26);
        assert_eq!(value["t"], "2023-11-14T22:13:20Z");
        let uuid = value["u"].as_str().unwrap();
        let dashes: Vec<usize> = uuid.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((uuid.len(), dashes), (36, vec![8, 13, 18, 23]));
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(fill("{id}{uuid}", 1, NOW), fill("{id}{uuid}", 1, NOW));
        assert_ne!(fill("{id}", 1, NOW), fill("{id}", 2, NOW));
        assert_ne!(fill("{uuid}", 1, NOW), fill("{uuid}", 2, NOW));
    }
}
