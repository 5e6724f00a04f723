//! What the provider asks besides sending events: answered here, never kept and never sent on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::answer::{Answer, Refusal};
use super::head::Head;
use super::route::Match;
use super::settings::Verify;
use super::verify::request;
use crate::clock::Clock;
use crate::event::{RouteName, Timestamp};
use crate::provider::handshake::{Handshake, HandshakeError, Reply};
use crate::provider::key::SchemeKey;
use crate::provider::signature::SignatureError;
use crate::secret::SecretText;

/// The handshake that the head alone is.
pub(super) fn in_head<'m>(matched: &'m Match, head: &Head) -> Option<&'m Handshake> {
    let handshakes = &matched.entry.route.handshakes;
    if handshakes.is_empty() {
        return None;
    }
    let request = request(matched, head, &[]);
    handshakes
        .iter()
        .find(|handshake| handshake.is_bodyless() && handshake.matches(&request))
}

/// The handshake that head and body are. `signed`: of those that come with a good signature, or of those that come without one.
/// What has a good signature is an event before it is a handshake of the other kind.
pub(super) fn in_body<'m>(
    matched: &'m Match,
    head: &Head,
    body: &[u8],
    signed: bool,
) -> Option<&'m Handshake> {
    let handshakes = &matched.entry.route.handshakes;
    if handshakes.is_empty() {
        return None;
    }
    let request = request(matched, head, body);
    handshakes.iter().find(|handshake| {
        !handshake.is_bodyless() && handshake.signed == signed && handshake.matches(&request)
    })
}

/// The answer to a challenge that only code can give.
pub(super) fn challenge(matched: &Match, head: &Head, clock: &dyn Clock) -> Option<Answer> {
    let entry = &matched.entry;
    let Verify::Signature { proofs, .. } = &entry.route.verify else {
        return None;
    };
    if *head.method != *"GET" {
        return None;
    }
    let request = request(matched, head, &[]);
    let keys = keys(&entry.route.verify, clock.now());
    let text = proofs
        .iter()
        .find_map(|proof| proof.scheme.challenge(&request, &keys))?;
    let reply = Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: text.into_bytes(),
    };
    Some(Answer::handshake(reply))
}

/// The address whose GET confirms the subscription that a verified request asks for.
pub(super) fn confirmation(matched: &Match, head: &Head, body: &[u8]) -> Option<String> {
    let Verify::Signature { proofs, .. } = &matched.entry.route.verify else {
        return None;
    };
    let request = request(matched, head, body);
    proofs
        .iter()
        .find_map(|proof| proof.scheme.confirmation(&request))
}

/// An event's body must not be one that a handshake signs for anybody.
pub(super) fn refuse_signed_tokens(matched: &Match, body: &[u8]) -> Result<(), SignatureError> {
    let mut handshakes = matched.entry.route.handshakes.iter();
    match handshakes.any(|handshake| handshake.may_have_signed(body)) {
        true => Err(SignatureError::NotAccepted),
        false => Ok(()),
    }
}

/// Answers a handshake whose signature, where it must have one, has been checked if it came with a body.
pub(super) fn answer(
    matched: &Match,
    head: &Head,
    body: &[u8],
    handshake: &Handshake,
    captures: &Captures,
    now: Timestamp,
) -> Result<Answer, Refusal> {
    let entry = &matched.entry;
    let request = request(matched, head, body);
    let live = keys(&entry.route.verify, now);
    if handshake.signed && handshake.is_bodyless() {
        let Verify::Signature { proofs, .. } = &entry.route.verify else {
            return Err(Refusal::Signature(SignatureError::Missing));
        };
        let good = |proof: &super::settings::Proof| {
            let claim = proof.scheme.claim(&request)?;
            proof
                .scheme
                .check(&claim, &proof.keys, now, &request, None)
                .map(drop)
        };
        let mut verdicts = proofs.iter().map(good);
        let first = verdicts.next().unwrap_or(Err(SignatureError::Missing));
        if let Err(error) = first
            && !verdicts.any(|verdict| verdict.is_ok())
        {
            return Err(Refusal::Signature(error));
        }
    }
    let reply = handshake
        .answer(&request, entry.route.verify_token.as_ref(), &live)
        .map_err(Refusal::Handshake)?;
    if handshake.capture.is_some() {
        let secret = handshake
            .captured(&request)
            .ok_or(Refusal::Handshake(HandshakeError::Token))?;
        if !captures.take(&entry.route.name, secret) {
            return Err(Refusal::Handshake(HandshakeError::NotAwaited));
        }
    }
    Ok(Answer::handshake(reply))
}

/// The live keys; those that will not run out come first.
fn keys(verify: &Verify, now: Timestamp) -> Vec<SchemeKey> {
    let Verify::Signature { proofs, .. } = verify else {
        return Vec::new();
    };
    let live = proofs
        .iter()
        .flat_map(|proof| &proof.keys)
        .filter(|key| key.until.is_none_or(|until| now < until));
    let mut live: Vec<_> = live.collect();
    live.sort_by_key(|key| key.until.is_some());
    live.into_iter().map(|key| key.key.clone()).collect()
}

/// Secrets that operators wait for, by route. Outside of such a wait nobody can set one.
#[derive(Debug, Default)]
pub(super) struct Captures(Mutex<HashMap<RouteName, oneshot::Sender<SecretText>>>);

impl Captures {
    /// Begins to wait; an earlier wait for the same route ends. It lasts as long as the receiver lives.
    pub(super) fn wait_for(&self, route: RouteName) -> oneshot::Receiver<SecretText> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(route, sender);
        receiver
    }

    /// Gives the secret to whoever waits for it; false: nobody does.
    fn take(&self, route: &RouteName, secret: SecretText) -> bool {
        let waiting = self.lock().remove(route);
        waiting.is_some_and(|waiting| waiting.send(secret).is_ok())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RouteName, oneshot::Sender<SecretText>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
