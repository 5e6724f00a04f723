//! What a repeat finds of the event that holds its key.

use super::*;

fn duplicate(of: Seq, rearmed: bool, conflict: bool) -> Accepted {
    Accepted::Duplicate {
        of,
        rearmed,
        conflict,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_event_without_its_body_lives_again_with_the_same_one_only() {
    let rig = Rig::new();
    let seq = kill(&rig, "evt_1", "x").await;
    assert_eq!(rig.forget_bodies(), 1);
    // With another body there is nothing to send; that one is kept beside the event.
    assert_eq!(rig.accept("evt_1", "other").await, duplicate(seq, false, true));
    assert_eq!(rig.counts(&app()).dead, 1);
    assert_eq!(rig.accept("evt_1", "x").await, duplicate(seq, true, false));
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, &job.event.event.body[..]), (seq, &b"x"[..]));
    // Whole, it lives again whatever body the repeat has.
    dead(&*rig.inbox, &job);
    until("dead", || rig.counts(&app()).dead == 1).await;
    assert_eq!(rig.accept("evt_1", "other").await, duplicate(seq, true, true));
    assert_eq!(&claim_one(&*rig.inbox).await.event.event.body[..], b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_event_without_its_body_is_whole_again_with_its_repeat() {
    let mut rig = Rig::new();
    let seq = seq_of(rig.accept("evt_1", "x").await);
    // From the store, not from memory.
    rig = rig.reopen();
    assert_eq!(rig.forget_bodies(), 1);
    assert_eq!(rig.accept("evt_1", "x").await, duplicate(seq, false, false));
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, &job.event.event.body[..]), (seq, &b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_on_two_paths_is_two_events_with_keys_of_their_own() {
    let mut rig = Rig::new();
    let at = |rig: &Rig, path: &str| {
        let mut new = rig.event("evt_1", "x");
        std::sync::Arc::make_mut(&mut new.event).path_rest = path.into();
        new.dedup_key = DedupKey::derive(&rig.inbox.hash_key(), KeyKind::Id, &route(), path, b"evt_1");
        new
    };
    let mut of = Vec::new();
    for path in ["a", "b", ""] {
        of.push(seq_of(rig.inbox.accept(at(&rig, path)).await.unwrap()));
    }
    for (path, of) in ["a", "b", ""].into_iter().zip(&of) {
        let again = rig.inbox.accept(at(&rig, path)).await.unwrap();
        assert_eq!(again, duplicate(*of, false, false), "{path}");
    }
    for place in ["fresh", "from the store"] {
        for job in claim_exactly(&*rig.inbox, &app(), 3).await {
            let path = &*job.event.event.path_rest;
            assert_eq!(
                job.event.key,
                EventKey::of_scoped_id(&route(), path, "evt_1"),
                "{place}, {path}"
            );
        }
        rig = rig.reopen();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_counted_as_they_come() {
    let rig = Rig::new();
    for n in 1..=3 {
        rig.accept(&format!("evt_{n}"), "x").await;
        rig.accept("evt_1", "x").await;
        until("counted", || rig.inbox.counts().events == n).await;
    }
}
