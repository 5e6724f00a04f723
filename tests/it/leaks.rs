//! Canaries: secrets, bodies and ids that are looked for wherever the gateway speaks, in every form they could take.
//!
//! A secret may show nowhere, not even in the store; a body only in the store, at the app and where `events show --body`
//! asks for it; the id of a verified event also in the log and in `events`; of a forgery nothing at all.

mod canary;
mod configs;
mod places;
mod rig;
mod setting;
mod tour;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use self::canary::{Canary, Search};
use self::rig::Rig;
use crate::support::{App, Gateway, proved, quantiv_config, rounds, seed};

#[test]
fn nothing_shows_where_it_must_not_in_a_json_log() {
    expect_no_leak("json");
}

#[test]
fn nothing_shows_where_it_must_not_in_a_text_log() {
    expect_no_leak("text");
}

/// One tour through everything the gateway can be asked, at its most verbose.
fn expect_no_leak(format: &'static str) {
    let mut rig = Rig::start(format);
    let tours = rounds(1, 5);
    for _ in 0..tours {
        tour::through_the_door(&mut rig);
        tour::through_the_admin_api(&mut rig);
        tour::through_the_cli(&mut rig);
    }
    tour::through_failing_starts(&mut rig);
    rig.stop();
    let search = Search::new(rig.canaries().map(|(canary, _)| canary));
    let mut bytes = 0;
    for (kind, name, content) in rig.artefacts() {
        bytes += content.len();
        for (index, form) in search.hits(content) {
            let (canary, allowed) = rig.canaries().nth(index).unwrap();
            assert!(
                allowed.contains(kind),
                "the {} shows in {name}, as {form}: {}",
                canary.name(),
                around(content, canary)
            );
        }
    }
    // The search finds what is there: else it proves nothing.
    for (index, (canary, allowed)) in rig.canaries().enumerate() {
        for kind in allowed.certain() {
            let seen = rig.artefacts().any(|(other, _, content)| {
                other == *kind && search.hits(content).any(|(hit, _)| hit == index)
            });
            assert!(seen, "the {} should show in {kind:?}", canary.name());
        }
    }
    proved(
        &format!("leaks_{format}"),
        format_args!(
            "{} canaries in {} forms, {} artefacts, {} KiB searched, 0 hits",
            rig.canaries().count(),
            canary::FORMS,
            rig.artefacts().count(),
            bytes / 1024
        ),
    );
}

/// The line of a hit, for whoever mends it.
fn around(content: &[u8], canary: &Canary) -> String {
    let text = String::from_utf8_lossy(content);
    let line = text.lines().find(|line| canary.is_plainly_in(line));
    line.unwrap_or("(not as plain text)").chars().take(400).collect()
}

/// Every way to get a configuration wrong that a seed can think of; none of its secrets is in what is said about it.
#[test]
fn no_broken_configuration_tells_its_secrets() {
    let mut rng = fastrand::Rng::with_seed(seed("leaks_config"));
    let canaries = configs::canaries();
    let search = Search::new(canaries.iter());
    let texts = rounds(200, 30_000);
    let mut problems = 0;
    for _ in 0..texts {
        let text = configs::broken(&canaries, &mut rng);
        let said = configs::all_that_is_said(&text, &canaries);
        problems += said.1;
        if let Some((index, form)) = search.hits(said.0.as_bytes()).next() {
            let canary = &canaries[index];
            let line = around(said.0.as_bytes(), canary);
            panic!(
                "the {} shows as {form}: {line}\n--- of ---\n{text}",
                canary.name()
            );
        }
    }
    proved(
        "leaks_config",
        format_args!("{texts} broken configurations, {problems} problems told, 0 secrets in them"),
    );
}

/// Keys are in memory: a crash must not write them to a disk. Root sees more, and so does a debugger of root's.
#[test]
fn a_crash_leaves_no_core() {
    let app = App::start([]);
    let dir = tempfile::tempdir().unwrap();
    let mut control = Command::new("sleep")
        .arg("60")
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    abort(control.id());
    let dumps_here = control.wait().unwrap().core_dumped();
    let mut gateway = Gateway::start(&quantiv_config(&dir.path().join("store"), app.address()));
    abort(gateway.pid());
    let status = gateway.wait();
    assert!(status.signal().is_some(), "{status:?}");
    assert!(!status.core_dumped(), "a core was written");
    proved(
        "no_core",
        format_args!("a crash wrote no core; this machine writes those of others: {dumps_here}"),
    );
}

/// Ends a process as a crash does, with every permission to leave a core.
fn abort(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    // Without the right to raise the limit there is no core to be had.
    prlimit(Some(pid), Resource::Core, unlimited).ok();
    kill_process(pid, Signal::ABORT).unwrap();
}
