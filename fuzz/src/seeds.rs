//! The committed seeds, replayed: what the fuzzer once met stays met.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        // The panic's own words come first.
        assert!(
            catch_unwind(AssertUnwindSafe(|| run(&data))).is_ok(),
            "the seed {}",
            path.display()
        );
        count += 1;
    }
    assert!(count > 20, "{}: {count} seeds", folder.display());
}

#[test]
fn signature() {
    replay("signature", super::signature::run);
}

#[test]
fn identify() {
    replay("identify", super::identify::run);
}

#[test]
fn config() {
    replay("config", super::config::run);
}

#[test]
fn request() {
    replay("request", super::request::run);
}

#[test]
fn rows() {
    replay("rows", super::rows::run);
}

#[test]
fn answer() {
    replay("answer", super::answer::run);
}
