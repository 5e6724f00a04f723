//! What Cargo runs each compiler through (`.cargo/rustc.sh`): optimised builds follow the profile, where it fits.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.cargo");
const OPTIMISED: &[&str] = &["--crate-name", "gateway", "-C", "opt-level=3"];

/// The arguments that reach a compiler which says of itself what `version` is.
fn passed(version: &str, arguments: &[&str], counts: Option<&str>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let compiler = folder.path().join("rustc");
    std::fs::write(folder.path().join("version"), version).unwrap();
    let script =
        "#!/bin/sh\nif [ \"$*\" = -vV ]; then cat \"${0%/*}/version\"; else printf '%s\\n' \"$@\"; fi\n";
    std::fs::write(&compiler, script).unwrap();
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut wrapper = Command::new(format!("{FOLDER}/rustc.sh"));
    wrapper
        .arg(compiler)
        .args(arguments)
        .env_remove("HOOKLATCH_PROFILE_INTO");
    if let Some(counts) = counts {
        wrapper.env("HOOKLATCH_PROFILE_INTO", counts);
    }
    let output = wrapper.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let passed = String::from_utf8(output.stdout).unwrap();
    passed.lines().map(str::to_owned).collect()
}

fn version_of_the_profile() -> String {
    std::fs::read_to_string(format!("{FOLDER}/profile/rustc")).unwrap()
}

#[test]
fn an_optimised_build_by_the_compiler_of_the_profile_follows_it() {
    let passed = passed(&version_of_the_profile(), OPTIMISED, None);
    let (own, added) = passed.split_at(OPTIMISED.len());
    assert_eq!(own, OPTIMISED);
    let profile = added[0].strip_prefix("-Cprofile-use=").unwrap();
    assert!(Path::new(profile).is_file(), "{profile}");
}

#[test]
fn every_other_build_is_as_cargo_asked_for_it() {
    let other = version_of_the_profile().replace("LLVM version: ", "LLVM version: 1");
    assert_ne!(other, version_of_the_profile());
    assert_eq!(passed(&other, OPTIMISED, None), OPTIMISED, "another compiler");
    let debug = ["--crate-name", "gateway", "-C", "opt-level=2"];
    assert_eq!(
        passed(&version_of_the_profile(), &debug, None),
        debug,
        "less optimised"
    );
    let asked = passed(&version_of_the_profile(), &["-vV"], None);
    assert_eq!(asked.join("\n"), version_of_the_profile().trim_end(), "no build");
}

#[test]
fn a_build_that_counts_for_a_new_profile_does_not_follow_the_old_one() {
    let passed = passed(&version_of_the_profile(), OPTIMISED, Some("/counts"));
    assert_eq!(passed.last().unwrap(), "-Cprofile-generate=/counts");
    assert!(
        !passed.iter().any(|argument| argument.contains("profile-use")),
        "{passed:?}"
    );
}

/// A profile that the compiler cannot read would end every optimised build.
#[test]
fn the_compiler_of_the_profile_reads_it() {
    let said = Command::new("rustc").arg("-vV").output().unwrap();
    if String::from_utf8(said.stdout).unwrap() != version_of_the_profile() {
        return; // It is not used here.
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.rs");
    std::fs::write(&source, "pub fn nothing() {}").unwrap();
    let output = Command::new("rustc")
        .args([
            "--crate-type",
            "lib",
            "-Copt-level=3",
            "-Cllvm-args=-no-pgo-warn-mismatch",
        ])
        .arg(format!("-Cprofile-use={FOLDER}/profile/hooklatch.profdata"))
        .arg("--out-dir")
        .args([folder.path(), &source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
