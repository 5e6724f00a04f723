//! The app: it books what it takes before it answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;

use super::event::{digest_of_arrived, id_of};
use super::history::{Attempt, Did, Life};
use super::ledger::{Arrived, Ledger};
use crate::support::{App, Reply, Request};

/// How the app treats what it is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It takes everything.
    Taking,
    /// It reads, and never gets round to taking or answering.
    Holding,
    /// It refuses everything, so that a backlog gathers and is tried again.
    Refusing,
    /// It takes most, at once or later; it holds some, refuses a few, and takes a few without saying so.
    Wavering,
}

/// The app's mood, which a test changes.
#[derive(Debug)]
pub(super) struct Mind(Mutex<(Mood, Rng)>);

impl Mind {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new((Mood::Taking, Rng::with_seed(seed))))
    }

    pub(super) fn set(&self, mood: Mood) {
        self.0.lock().unwrap().0 = mood;
    }

    /// What happens to the next request.
    fn decide(&self) -> (Did, Reply) {
        let (mood, rng) = &mut *self.0.lock().unwrap();
        match mood {
            Mood::Taking => (Did::Took, Reply::Status(200)),
            Mood::Holding => (Did::Held, Reply::Hang),
            Mood::Refusing => (Did::Refused, Reply::Status(500)),
            Mood::Wavering => match rng.u8(..100) {
                0..3 => (Did::Refused, Reply::Status(500)),
                3..5 => (Did::Refused, Reply::Close),
                5..7 => (Did::TookSilently, Reply::Close),
                7..20 => (Did::Held, Reply::Hang),
                20..40 => {
                    let wait = Duration::from_millis(rng.u64(..30));
                    (Did::Took, Reply::After(wait, Box::new(Reply::Status(200))))
                }
                _ => (Did::Took, Reply::Status(200)),
            },
        }
    }
}

pub(super) fn app(ledger: Arc<Ledger>, mind: Arc<Mind>) -> App {
    App::unrecorded(move |request: &Request| {
        let (did, reply) = mind.decide();
        ledger.arrived(read(request, did));
        reply
    })
}

/// The upstream's path in the given life: what arrives says in which it was sent.
pub(super) fn path_of(life: Life) -> String {
    format!("/life/{life}{}", super::event::PATH)
}

fn read(request: &Request, did: Did) -> Arrived {
    let id = id_of(&request.body);
    let ours = |name: &str| request.header(name).unwrap_or_default();
    let life = request
        .target
        .strip_prefix("/life/")
        .and_then(|rest| rest.split('/').next()?.parse().ok());
    // As it was sent: the upstream's path ends with the sender's.
    let target = request
        .target
        .get(life.map_or(0, |life| path_of(life).len() - super::event::PATH.len())..);
    let key = ours("hooklatch-key").to_owned();
    let number = ours("hooklatch-attempt").parse().unwrap_or(0);
    let misnamed = [
        (life.is_none(), "target"),
        (key.is_empty(), "hooklatch-key"),
        (ours("idempotency-key") != key, "idempotency-key"),
        (ours("hooklatch-event-id") != id, "hooklatch-event-id"),
        (ours("hooklatch-verified") != "true", "hooklatch-verified"),
        (number == 0, "hooklatch-attempt"),
        (
            request
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .count()
                != 1,
            "content-length",
        ),
    ];
    let misnamed = misnamed.into_iter().find(|(wrong, _)| *wrong);
    Arrived {
        digest: digest_of_arrived(target.unwrap_or_default(), &request.headers, &request.body),
        id,
        key,
        misnamed: misnamed.map(|(_, name)| format!("{name} in {} {:?}", request.target, request.headers)),
        attempt: Attempt {
            life: life.unwrap_or(0),
            number,
            at: request.at,
            did,
        },
    }
}
