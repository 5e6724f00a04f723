//! Dedup windows against a simple model: a key is held for its window and until every delivery of its event is settled,
//! whatever happens in between.
//!
//! The wall clock is set, real time hardly passes. To the store that is no time: what is settled in one life is settled
//! when that life began. All that passes is a multiple of [`GRAIN`], give or take the edges, and what retention keeps is
//! not: so real seconds do not matter.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::support::{proved, rounds, seed};
use super::*;

const UPSTREAMS: [&str; 2] = ["a", "b"];
const IDS: usize = 4;
const STEPS: usize = 60;
/// Restarts are slow: the first look for what may go comes about a second after each.
const RESTARTS: usize = 2;
const KEPT_DELIVERED: i64 = 35_000;
const KEPT_DEAD: i64 = 95_000;
const GRAIN: i64 = 10_000;
/// More than this between two commits is a clock that was set: what was settled before ages from there.
const JUMP: i64 = 300_000;

/// Every other id has a short one.
fn window(id: usize) -> i64 {
    [60_000, 200_000][id % 2]
}

#[derive(Debug, Clone)]
enum Step {
    Accept { id: usize, wants: u8, body: u8 },
    Attempt { upstream: usize, end: End },
    Pass { millis: i64 },
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Delivered,
    Dead,
    Released,
    Retry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![
        4 => Just(End::Delivered),
        2 => Just(End::Dead),
        1 => Just(End::Released),
        1 => Just(End::Retry)
    ];
    // On the edges of windows as well as between them.
    let edge = proptest::sample::select(vec![30_000, 60_000, 90_000, 200_000]);
    let step = prop_oneof![
        6 => (0..IDS, 0_u8..4, 0_u8..2).prop_map(|(id, wants, body)| Step::Accept { id, wants, body }),
        5 => (0..UPSTREAMS.len(), end).prop_map(|(upstream, end)| Step::Attempt { upstream, end }),
        2 => (edge, -1_i64..=1).prop_map(|(edge, off)| Step::Pass { millis: edge + off }),
        1 => (1_i64..3).prop_map(|grains| Step::Pass { millis: grains * GRAIN }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 10..STEPS)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Pending,
    Delivered,
    Dead,
}

#[derive(Debug)]
struct Kept {
    id: usize,
    received_at: i64,
    body: u8,
    deliveries: BTreeMap<usize, State>,
    /// When the life began in which it was settled; accepted, where nobody wants it.
    settled_at: i64,
}

impl Kept {
    fn is_open(&self) -> bool {
        self.deliveries.values().any(|state| *state == State::Pending)
    }

    fn has_dead(&self) -> bool {
        self.deliveries.values().any(|state| *state == State::Dead)
    }

    fn holds_its_key(&self, now: i64) -> bool {
        self.is_open() || now - self.received_at < window(self.id)
    }

    /// Whether retention takes it; the clock was last set at `jumped_at`.
    fn goes(&self, now: i64, jumped_at: i64) -> bool {
        let stays = if self.has_dead() {
            KEPT_DEAD
        } else {
            KEPT_DELIVERED
        };
        !self.holds_its_key(now) && now - self.settled_at.max(jumped_at) >= stays
    }
}

#[derive(Debug, Default)]
struct Model {
    events: BTreeMap<i64, Kept>,
    /// The latest event of each id.
    holders: BTreeMap<usize, i64>,
    last_seq: i64,
    /// When the present life began.
    began: i64,
    /// By how much the clock was set since the last commit.
    passed: i64,
    jumped_at: i64,
}

impl Model {
    fn count(&self, upstream: usize, state: State) -> u64 {
        let of = |kept: &&Kept| kept.deliveries.get(&upstream) == Some(&state);
        self.events.values().filter(of).count() as u64
    }

    /// Something was written.
    fn commit(&mut self) {
        if std::mem::take(&mut self.passed) > JUMP {
            self.jumped_at = self.began;
        }
    }

    fn goes(&self, seq: i64, now: i64) -> bool {
        self.events[&seq].goes(now, self.jumped_at)
    }

    fn accept(&mut self, now: i64, id: usize, wants: u8, body: u8) -> Accepted {
        self.commit();
        if let Some((seq, kept)) = (self.holders.get(&id))
            .and_then(|seq| self.events.get_mut(seq).map(|kept| (*seq, kept)))
            .filter(|(_, kept)| kept.holds_its_key(now))
        {
            let rearmed = kept.has_dead();
            for state in kept
                .deliveries
                .values_mut()
                .filter(|state| **state == State::Dead)
            {
                *state = State::Pending;
            }
            return Accepted::Duplicate {
                of: Seq(seq),
                rearmed,
                conflict: kept.body != body,
            };
        }
        self.last_seq += 1;
        let wanted = (0..UPSTREAMS.len()).filter(|upstream| wants >> upstream & 1 == 1);
        let kept = Kept {
            id,
            received_at: now,
            body,
            deliveries: wanted.map(|upstream| (upstream, State::Pending)).collect(),
            settled_at: self.began,
        };
        self.events.insert(self.last_seq, kept);
        self.holders.insert(id, self.last_seq);
        Accepted::New(Seq(self.last_seq))
    }
}

/// A store, its model, and what may be looked at.
struct Trial {
    rig: Option<Rig>,
    model: Model,
    restarts: usize,
}

impl Trial {
    fn rig(&self) -> &Rig {
        self.rig.as_ref().unwrap()
    }

    async fn step(&mut self, step: &Step) {
        let now = self.rig().clock.now().0;
        match *step {
            Step::Accept { id, wants, body } => {
                let new = self.new_event(id, wants, body);
                let got = self.rig().inbox.accept(new).await.unwrap();
                assert_eq!(got, self.model.accept(now, id, wants, body), "{:?}", self.model);
                // The sender has its answer before the counts have the event.
                for (upstream, name) in UPSTREAMS.iter().enumerate() {
                    self.counted(now, &target(name), upstream).await;
                }
            }
            Step::Attempt { upstream, end } => self.attempt(now, upstream, end).await,
            Step::Pass { millis } => {
                self.model.passed += millis;
                self.rig().clock.advance(millis);
            }
            Step::Restart if self.restarts < RESTARTS => self.restart(now).await,
            Step::Restart => {}
        }
    }

    fn new_event(&self, id: usize, wants: u8, body: u8) -> NewEvent {
        let upstreams = UPSTREAMS.iter().enumerate();
        let wanted = upstreams.filter(|(n, _)| wants >> n & 1 == 1);
        NewEvent {
            dedup_window: Duration::from_millis(window(id).cast_unsigned()),
            upstreams: wanted.map(|(_, name)| UpstreamName::new(*name)).collect(),
            ..self.rig().event(&format!("evt_{id}"), &format!("body {body}"))
        }
    }

    async fn attempt(&mut self, now: i64, upstream: usize, end: End) {
        if self.model.count(upstream, State::Pending) == 0 {
            return;
        }
        let to = target(UPSTREAMS[upstream]);
        let job = claim(&*self.rig().inbox, &to, 1).await.remove(0);
        let kept = (self.model.events.get_mut(&job.event.seq.0)).expect("a kept event");
        let state = kept
            .deliveries
            .get_mut(&upstream)
            .expect("wanted by this upstream");
        assert_eq!(*state, State::Pending, "it was settled");
        let inbox = &*self.rig.as_ref().unwrap().inbox;
        match end {
            End::Delivered => {
                *state = State::Delivered;
                delivered(inbox, &job);
            }
            End::Dead => {
                *state = State::Dead;
                dead(inbox, &job);
            }
            End::Released => settle(inbox, &job, Outcome::Released),
            End::Retry => retry(inbox, &job, Duration::ZERO),
        }
        kept.settled_at = self.model.began;
        if !matches!(end, End::Released) {
            self.model.commit();
        }
        self.counted(now, &to, upstream).await;
    }

    /// The settlement is committed, and counted as the model does. What may go may be gone.
    async fn counted(&self, now: i64, to: &Target, upstream: usize) {
        let pending = self.model.count(upstream, State::Pending);
        let dead = self.model.count(upstream, State::Dead);
        let is_dead = |kept: &Kept| kept.deliveries.get(&upstream) == Some(&State::Dead);
        let going = self.model.events.iter();
        let going = going.filter(|(seq, kept)| is_dead(kept) && self.model.goes(**seq, now));
        let at_least = dead - going.count() as u64;
        until("settled", || {
            let counts = self.rig().counts(to);
            counts.pending == pending && (at_least..=dead).contains(&counts.dead)
        })
        .await;
    }

    /// After a restart the clocks agree, and what has outlived window and retention goes: that, and nothing else.
    async fn restart(&mut self, now: i64) {
        self.restarts += 1;
        self.rig = self.rig.take().map(Rig::reopen);
        self.model.commit();
        self.model.began = now;
        let jumped_at = self.model.jumped_at;
        self.model.events.retain(|_, kept| !kept.goes(now, jumped_at));
        let expected: BTreeSet<i64> = self.model.events.keys().copied().collect();
        let gone = timeout(PATIENCE, async {
            while self.kept() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(
            gone.await.is_ok(),
            "at {now} {:?} are kept instead of {:?}",
            self.kept(),
            self.model
        );
    }

    fn kept(&self) -> BTreeSet<i64> {
        let sql = self.rig().sql();
        let mut select = sql.prepare("SELECT seq FROM event").unwrap();
        let found = select.query_map([], |row| row.get(0)).unwrap();
        found.collect::<Result<_, _>>().unwrap()
    }
}

#[test]
fn a_key_lives_for_its_window_and_until_all_is_settled() {
    let cases = rounds(6, 500);
    let seed = seed("dedup windows");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: cases as u32,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let taken = std::cell::Cell::new(0);
    let outcome = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let mut trial = Trial {
                rig: Some(Rig::with(|settings| {
                    // So small that keys move from memory into the table all the time.
                    settings.bytes_max = 1 << 20;
                    settings.retention = Retention {
                        delivered: Duration::from_millis(KEPT_DELIVERED.cast_unsigned()),
                        dead: Duration::from_millis(KEPT_DEAD.cast_unsigned()),
                    };
                })),
                model: Model {
                    began: START,
                    ..Model::default()
                },
                restarts: 0,
            };
            for step in &steps {
                trial.step(step).await;
                taken.set(taken.get() + 1);
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    proved(
        "dedup windows",
        format_args!("{cases} histories, {} steps, 0 off the model", taken.get()),
    );
}
