//! The stages of one request, in their order: each takes what the one before it proved.

use std::pin::Pin;

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::answer::{Answer, Refusal};
use super::body::{BodyBudget, BodySource};
use super::head::Head;
use super::limit::{Ceiling, Place, SPENT_BODY_TIMEOUT, Standing, Turn, Working};
use super::origin::Origin;
use super::relay::{self, Relay, Relayed};
use super::route::{self, Match};
use super::settings::{Limits, Mode, ProxyUpstream};
use super::{FrontDoor, Success, Trace, handshake, identify, record, verify};
use crate::clock::Moment;
use crate::event::Timestamp;
use crate::inbox::{Acceptance, Accepted};
use crate::provider::handshake::Handshake;
use crate::telemetry::RequestResult;

/// What the stages look at, besides the route and the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) limits: &'a Limits,
    pub(super) head: &'a Head,
    pub(super) origin: &'a Origin,
    pub(super) place: &'a Place,
    pub(super) began: Moment,
}

/// What is decided once the head was looked at.
enum Looked {
    Answered(Success),
    Claims(verify::Claim),
}

/// What is decided once the signature was checked.
enum Judged {
    Answered(Success),
    Genuine(verify::Verified),
}

/// Who has a verified event now.
enum Handed<'l> {
    /// The store.
    Kept(Acceptance),
    /// Somebody away from here, who is waited for.
    Away(Pin<Box<dyn Future<Output = Result<Success, Refusal>> + Send + 'l>>),
}

impl FrontDoor {
    /// The stages, in their order. What one waits with is gone when the next begins: this future is made for each request, and the
    /// allocator is slow beyond a kilobyte.
    pub(super) async fn receive(
        &self,
        visit: Visit<'_>,
        matched: &Result<Match, Refusal>,
        body: &mut dyn BodySource,
        trace: &mut Trace,
    ) -> Result<Success, Refusal> {
        let work = visit.place.work();
        let standing = self.standing(visit);
        let turn = self.limiter.turn(visit.origin.client, standing).await?;
        let matched = matched.as_ref().map_err(Refusal::clone)?;
        let claim = match self.look(visit, matched)? {
            Looked::Answered(success) => return Ok(success),
            Looked::Claims(claim) => claim,
        };
        let is_here = body.is_here();
        let standing = match is_here {
            true => standing,
            false => self.limiter.recall(visit.origin.client, standing),
        };
        let mut budget = self.budget(visit, &matched.entry, standing)?;
        let here = if is_here {
            body.take_here(&mut budget)
        } else {
            None
        };
        let has_waited = here.is_none() || standing != Standing::Known;
        let (raw, work, turn) = match here {
            Some(raw) => (raw, work, turn),
            None => {
                let held = is_here.then_some((work, turn));
                Box::pin(self.read(visit, body, &mut budget, standing, held)).await?
            }
        };
        trace.body_bytes = raw.len();
        let entry = &matched.entry;
        // Without a wait, for a body, room or a turn, it is as late as it was.
        let mut now = visit.began;
        if has_waited {
            now = now.later(Instant::now());
        }
        let received_at = now.wall;
        let copy = (entry.asks_in_bodies || entry.quarantine.is_some()).then(|| raw.clone());
        let verified = match verify::must_wait(matched, &raw) {
            true => {
                let verified = Box::pin(self.verify(visit, matched, claim, raw, received_at)).await;
                now = now.later(Instant::now());
                verified
            }
            false => verify::verify_now(matched, visit.head, claim, raw, received_at),
        };
        let verified = match self.judge(visit, matched, verified, copy, received_at)? {
            Judged::Answered(success) => return Ok(success),
            Judged::Genuine(verified) => verified,
        };
        // Waiting for the disk takes no turn from others.
        drop(turn);
        let done = match self.hand_over(visit, matched, verified, (received_at, now), trace)? {
            Handed::Kept(acceptance) => {
                let until = now.at + visit.limits.answer_timeout;
                let accepted = record::recorded(acceptance, until, body.timer()).await;
                accepted.map(|accepted| recorded(&matched.entry, accepted, trace))
            }
            Handed::Away(answered) => answered.await,
        };
        let ended = Instant::now();
        trace.ended = Some(ended);
        work.end(ended.into_std());
        drop(budget);
        done
    }

    /// What the head alone decides.
    fn look(&self, visit: Visit<'_>, matched: &Match) -> Result<Looked, Refusal> {
        let Visit { head, origin, .. } = visit;
        let asked = handshake::in_head(matched, head);
        let challenge = handshake::challenge(matched, head, &*self.clock);
        matched
            .entry
            .admit(head, origin, asked.is_some() || challenge.is_some())?;
        if let Some(asked) = asked {
            let shaken = self.shake(matched, visit, &[], asked);
            return shaken
                .map(Looked::Answered)
                .map_err(|refusal| self.charge(refusal, visit));
        }
        if let Some(answer) = challenge {
            self.limiter.handshake(origin.client)?;
            return Ok(Looked::Answered(shaken(answer, "challenge")));
        }
        verify::claim(matched, head)
            .map(Looked::Claims)
            .map_err(|error| self.charge(Refusal::Signature(error), visit))
    }

    /// The body of a sender who takes its time; `held` is held meanwhile.
    async fn read<'l>(
        &'l self,
        visit: Visit<'l>,
        body: &mut dyn BodySource,
        budget: &mut BodyBudget,
        standing: Standing,
        held: Option<(Working<'l>, Turn<'l>)>,
    ) -> Result<(Bytes, Working<'l>, Turn<'l>), Refusal> {
        // Without a turn others have theirs, and it may be told to go.
        let raw = body.read(budget).await?;
        if let Some((work, turn)) = held {
            return Ok((raw, work, turn));
        }
        let work = visit.place.work();
        let turn = self.limiter.turn(visit.origin.client, standing).await?;
        Ok((raw, work, turn))
    }

    /// Checks a signature that takes its time.
    async fn verify(
        &self,
        visit: Visit<'_>,
        matched: &Match,
        claim: verify::Claim,
        raw: Bytes,
        received_at: Timestamp,
    ) -> Result<verify::Verified, Refusal> {
        let _check = match verify::is_large(&raw) {
            true => self.limiter.large_check().await,
            false => None,
        };
        verify::verify(matched, visit.head, claim, raw, received_at, &self.keys).await
    }

    /// What follows from the check of a signature. `copy` is the body, where it is asked for without one.
    fn judge(
        &self,
        visit: Visit<'_>,
        matched: &Match,
        verified: Result<verify::Verified, Refusal>,
        copy: Option<Bytes>,
        received_at: Timestamp,
    ) -> Result<Judged, Refusal> {
        let Visit {
            head, origin, place, ..
        } = visit;
        let entry = &matched.entry;
        let charged = |refusal| self.charge(refusal, visit);
        if let (Some(raw), true) = (copy, is_unsigned(&verified)) {
            if let Some(asked) = handshake::in_body(matched, head, &raw, false) {
                let shaken = self.shake(matched, visit, &raw, asked);
                return shaken.map(Judged::Answered).map_err(charged);
            }
            if let (Some(quarantine), true) = (&entry.quarantine, is_refused(&verified)) {
                quarantine.keep(head, &entry.route.credentials, raw, received_at);
            }
        }
        let verified = verified.map_err(charged)?;
        handshake::refuse_signed_tokens(matched, &verified.body)
            .map_err(|error| charged(Refusal::Signature(error)))?;
        // From here on the sender is genuine.
        if verified.verified && (place.prove() || origin.peer_trusted) {
            self.limiter.remember(origin.client);
        }
        // On a route that only watches the signature was good all the same.
        if verified.secret.is_some()
            && let Some(asked) = handshake::in_body(matched, head, &verified.body, true)
        {
            let shaken = self.shake(matched, visit, &verified.body, asked);
            return shaken.map(Judged::Answered);
        }
        Ok(Judged::Genuine(verified))
    }

    /// Hands a verified event to the store, or to the app; it is `now`, and the event was received a moment ago.
    fn hand_over<'l>(
        &'l self,
        visit: Visit<'l>,
        matched: &'l Match,
        verified: verify::Verified,
        (received_at, now): (Timestamp, Moment),
        trace: &mut Trace,
    ) -> Result<Handed<'l>, Refusal> {
        let Visit { head, origin, .. } = visit;
        let entry = &matched.entry;
        if verified.verified
            && let Some(url) = handshake::confirmation(matched, head, &verified.body)
        {
            return Ok(Handed::Away(Box::pin(async move {
                let visit = self.keys.visit(&url).await;
                visit.map_err(|error| Refusal::NoKeys(error.to_string().into()))?;
                Ok(shaken(entry.accepted.clone(), "subscription confirmed"))
            })));
        }
        let identified = identify::identify(matched, head, origin, verified, received_at, &self.hash_key)?;
        trace.event_id.clone_from(&identified.event.event_id);
        if let Some(pace) = &entry.pace {
            pace.charge()?;
        }
        match (&entry.route.mode, &self.inbox) {
            (Mode::Queue { wants }, Some(inbox)) => {
                let kept = record::record(&**inbox, wants, entry.for_all.as_ref(), identified);
                Ok(Handed::Kept(kept))
            }
            // A queue route without a store is refused by the configuration.
            (Mode::Queue { .. }, None) => Err(Refusal::Internal),
            (Mode::Proxy(upstream), _) => {
                let relayed = self.relay(entry, upstream, identified, now);
                Ok(Handed::Away(Box::pin(relayed)))
            }
        }
    }

    /// Answers a handshake.
    fn shake(
        &self,
        matched: &Match,
        visit: Visit<'_>,
        body: &[u8],
        asked: &Handshake,
    ) -> Result<Success, Refusal> {
        let head = visit.head;
        let now = self.clock.now();
        if !asked.signed {
            self.limiter.handshake(visit.origin.client)?;
        }
        let mut answer = handshake::answer(matched, head, body, asked, &self.captures, now)?;
        // A body that nobody reads is the end of its connection.
        answer.close = asked.is_bodyless() && head.framing.may_have_body();
        Ok(shaken(answer, &asked.name))
    }

    /// How a request is treated before anything of it has been verified.
    fn standing(&self, visit: Visit<'_>) -> Standing {
        let Visit { origin, place, .. } = visit;
        let spent = || {
            self.limiter
                .is_spent(origin.client, visit.limits.failures_per_peer)
        };
        // A proxy's connection is everybody's.
        if place.is_proven() && !origin.peer_trusted {
            Standing::Known
        } else if spent() {
            Standing::Spent
        } else {
            Standing::Unknown
        }
    }

    fn budget(
        &self,
        visit: Visit<'_>,
        entry: &route::Entry,
        standing: Standing,
    ) -> Result<BodyBudget, Refusal> {
        let limits = visit.limits;
        let ceiling = Ceiling {
            all: limits.bytes_in_flight,
            standing,
        };
        let timeout = match standing == Standing::Spent {
            true => SPENT_BODY_TIMEOUT.min(limits.body_timeout),
            false => limits.body_timeout,
        };
        let declared = visit.head.declared_bytes();
        BodyBudget::new(
            self.limiter.share(),
            ceiling,
            declared,
            entry.route.body_bytes_max,
            timeout,
        )
    }

    /// Relays a verified event.
    async fn relay(
        &self,
        entry: &route::Entry,
        upstream: &ProxyUpstream,
        identified: identify::Identified,
        now: Moment,
    ) -> Result<Success, Refusal> {
        let relay = Relay {
            flights: &self.flights,
            client: &self.client,
            inbox: self.inbox.as_deref(),
            now,
            upstream,
        };
        let relayed_as = relay::relay(relay, &identified).await?;
        // As with requests to the app: answers that are ready together go together.
        yield_now().await;
        Ok(relayed(entry, relayed_as))
    }

    /// Charges a failed verification to the address; one that has spent its budget is told 429.
    fn charge(&self, refusal: Refusal, visit: Visit<'_>) -> Refusal {
        let (client, quota) = (visit.origin.client, visit.limits.failures_per_peer);
        match refusal {
            // A key that nobody published is a forger's, or one of tomorrow's.
            Refusal::Handshake(_) | Refusal::NoKeys(_) => {
                self.limiter.failed(client, quota);
                refusal
            }
            Refusal::Signature(error) => {
                visit.place.disprove();
                let spent = self.limiter.is_spent(client, quota);
                self.limiter.failed(client, quota);
                if spent {
                    Refusal::SignatureBudgetSpent(error)
                } else {
                    Refusal::Signature(error)
                }
            }
            other => other,
        }
    }
}

/// No signature speaks for the request, whether the route minds or not.
fn is_unsigned(verified: &Result<verify::Verified, Refusal>) -> bool {
    match verified {
        Ok(verified) => verified.secret.is_none(),
        Err(refusal) => matches!(refusal, Refusal::Signature(_) | Refusal::NoKeys(_)),
    }
}

/// The signature was bad, whether the route minds or not.
fn is_refused(verified: &Result<verify::Verified, Refusal>) -> bool {
    match verified {
        Ok(verified) => matches!(
            verified.unverified_reason,
            Some("bad_signature" | "missing_signature" | "stale_signature")
        ),
        Err(refusal) => matches!(refusal, Refusal::Signature(_)),
    }
}

fn shaken(answer: Answer, name: &str) -> Success {
    Success {
        answer,
        result: RequestResult::Handshake,
        reason: Some(name.to_owned()),
    }
}

fn recorded(entry: &route::Entry, accepted: Accepted, trace: &mut Trace) -> Success {
    let (answer, result, seq) = match accepted {
        Accepted::New(seq) => (&entry.accepted, RequestResult::Accepted, seq),
        Accepted::Duplicate { of, conflict, .. } => {
            if conflict {
                entry.meter.body_conflict();
            }
            (&entry.duplicate, RequestResult::Duplicate, of)
        }
    };
    trace.seq = Some(seq);
    Success {
        answer: answer.clone(),
        result,
        reason: None,
    }
}

fn relayed(entry: &route::Entry, relayed: Relayed) -> Success {
    match relayed {
        Relayed::Duplicate => Success {
            answer: entry.duplicate.clone(),
            result: RequestResult::Duplicate,
            reason: None,
        },
        Relayed::Answer(answer) => Success {
            result: if (200..300).contains(&answer.status) {
                RequestResult::Accepted
            } else {
                RequestResult::UpstreamRefused
            },
            answer: Answer::relayed(answer),
            reason: None,
        },
        Relayed::Failed(error) => Success {
            answer: Answer::upstream_failed(&error),
            result: RequestResult::UpstreamFailed,
            reason: Some(error.to_string()),
        },
    }
}
