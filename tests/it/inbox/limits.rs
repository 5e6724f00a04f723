//! What the store does at its limits: full, slow, crowded keys.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_still_knows_its_repeats() {
    let rig = Rig::with(|settings| settings.bytes_max = 4 << 20);
    let body = "x".repeat(16 << 10);
    let mut kept = 0;
    while rig
        .inbox
        .accept(rig.event(&format!("evt_{kept}"), &body))
        .await
        .is_ok()
    {
        kept += 1;
        assert!(kept < 1000, "never full");
    }
    for n in [0, kept / 2, kept - 1] {
        let again = rig.accept(&format!("evt_{n}"), &body).await;
        assert!(
            matches!(again, Accepted::Duplicate { conflict: false, .. }),
            "{again:?}"
        );
    }
    // Another body would have to be kept.
    let other = rig.inbox.accept(rig.event("evt_0", "other")).await;
    assert_eq!(other, Err(InboxError::Full));
    // A dead delivery is set going all the same: its row takes hardly anything.
    let job = claim_one(&*rig.inbox).await;
    let id = job.event.event.event_id.clone().unwrap();
    dead(&*rig.inbox, &job);
    until("dead", || rig.counts(&app()).dead == 1).await;
    let again = rig.accept(&id, &body).await;
    assert!(
        matches!(again, Accepted::Duplicate { rearmed: true, .. }),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_below_its_reserve_refuses_what_is_new_and_delivers_what_it_has() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    rig.inbox.close().await;
    let Rig {
        folder,
        clock,
        mut settings,
        inbox,
    } = rig;
    drop(inbox);
    settings.free_bytes_min = u64::MAX;
    let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
    until("full", || inbox.health() == Health::Full).await;
    let refused = inbox.accept(event(&*inbox, &*clock, "evt_2", "x")).await;
    assert_eq!(refused, Err(InboxError::Full));
    let again = inbox.accept(event(&*inbox, &*clock, "evt_1", "x")).await;
    assert!(
        matches!(again, Ok(Accepted::Duplicate { of: Seq(1), .. })),
        "{again:?}"
    );
    let job = claim_one(&*inbox).await;
    delivered(&*inbox, &job);
    until("settled", || inbox.counts().targets[0].1.pending == 0).await;
    // Once its window is over, the same id is a new event, and there is no room for one.
    let windowed = NewEvent {
        dedup_window: Duration::from_secs(60),
        ..event(&*inbox, &*clock, "evt_1", "x")
    };
    clock.advance(59_999);
    let again = inbox.accept(windowed.clone()).await;
    assert!(matches!(again, Ok(Accepted::Duplicate { .. })), "{again:?}");
    clock.advance(1);
    assert_eq!(inbox.accept(windowed).await, Err(InboxError::Full));
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_have_half_of_the_store_as_pending_and_no_more() {
    const WEIGHT: usize = 64 << 10;
    let rig = Rig::with(|settings| settings.bytes_max = 4 << 20);
    let headers = rig.event("", "").event.headers.len();
    // What an event weighs besides headers and body.
    let body = "x".repeat(WEIGHT - headers - 512);
    for n in 0..32 {
        rig.accept(&format!("evt_{n}"), &body).await;
    }
    // Exactly half is not over it, so that one more comes in.
    rig.accept("evt_32", &body).await;
    let refused = rig.inbox.accept(rig.event("evt_33", "x")).await;
    assert_eq!(refused, Err(InboxError::Full));
    // What nobody wants is not pending, and another route has a share of its own.
    let unwanted = NewEvent {
        upstreams: Arc::from([]),
        ..rig.event("evt_34", "x")
    };
    seq_of(rig.inbox.accept(unwanted).await.unwrap());
    let mut other = rig.event("evt_0", "x");
    std::sync::Arc::make_mut(&mut other.event).route = RouteName::new("other");
    other.dedup_key = DedupKey([1; 16]);
    seq_of(rig.inbox.accept(other).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_with_the_same_half_are_two_events() {
    let rig = Rig::new();
    let keyed = |id: &str, last: u8| {
        let mut key = [7; 16];
        key[15] = last;
        NewEvent {
            dedup_key: DedupKey(key),
            ..rig.event(id, "x")
        }
    };
    for round in 0..2 {
        for n in 0..5_u8 {
            let accepted = rig.inbox.accept(keyed(&format!("evt_{n}"), n)).await.unwrap();
            match (round, accepted) {
                (0, Accepted::New(seq)) => assert_eq!(seq, Seq(i64::from(n) + 1)),
                (1, Accepted::Duplicate { of, .. }) => assert_eq!(of, Seq(i64::from(n) + 1)),
                _ => panic!("round {round}, event {n}: {accepted:?}"),
            }
        }
    }
    // Even the whole key is no proof where the id differs.
    let stranger = rig.inbox.accept(keyed("evt_stranger", 0)).await.unwrap();
    assert_eq!(stranger, Accepted::New(Seq(6)));
    // More of them than there are places are kept rather than dropped.
    for n in 100..120_u8 {
        seq_of(rig.inbox.accept(keyed(&format!("evt_{n}"), n)).await.unwrap());
    }
    assert_eq!(claim_exactly(&*rig.inbox, &app(), 26).await.len(), 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_known_while_keys_are_merged_and_after_each_restart() {
    // So few keys are gathered before they are merged that it goes on all the time.
    let mut rig = Rig::with(|settings| settings.bytes_max = 512 << 10);
    let table = |rig: &Rig| -> i64 {
        let sql = rig.sql();
        sql.query_row("SELECT count(*) FROM dedup", [], |row| row.get(0))
            .unwrap()
    };
    for n in 1..=120_i64 {
        assert_eq!(seq_of(rig.accept(&format!("evt_{n}"), "x").await), Seq(n));
        if n % 7 == 0 {
            rig = rig.reopen();
        }
        if n % 20 == 0 {
            for known in 1..=n {
                let again = rig.accept(&format!("evt_{known}"), "x").await;
                assert!(
                    matches!(again, Accepted::Duplicate { of, .. } if of == Seq(known)),
                    "{known} of {n}: {again:?}"
                );
            }
        }
    }
    assert!((90..120).contains(&table(&rig)), "{}", table(&rig));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_busy_at_once() {
    let rig = Rig::with(|settings| settings.queue_events_max = 8);
    // The committer waits for whoever holds the write lock.
    let holder = rig.sql();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = Vec::new();
    let mut busy = 0;
    // One batch is with the committer already, whatever its size.
    for n in 0..64 {
        let mut answer = rig.inbox.accept(rig.event(&format!("evt_{n}"), "x"));
        match futures_now(&mut answer) {
            Some(Err(InboxError::Busy)) => busy += 1,
            Some(other) => panic!("{other:?}"),
            None => waiting.push(answer),
        }
    }
    assert!((8..=24).contains(&waiting.len()), "{}", waiting.len());
    assert_eq!(busy + waiting.len(), 64);
    holder.execute_batch("ROLLBACK").unwrap();
    for answer in waiting {
        seq_of(timeout(PATIENCE, answer).await.unwrap().unwrap());
    }
}

/// The answer, if it is there.
fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_written_no_more_is_handed_out_than_can_be_noted() {
    const NOTED_MAX: usize = 8 * 1024;
    let rig = Rig::new();
    let total = NOTED_MAX + 200;
    let answers: Vec<_> = (0..total)
        .map(|n| (n, rig.inbox.accept(rig.event(&format!("evt_{n}"), "x"))))
        .collect();
    let mut refused = Vec::new();
    for (n, answer) in answers {
        if answer.await.is_err() {
            refused.push(n);
        }
    }
    for n in refused {
        rig.accept(&format!("evt_{n}"), "x").await;
    }
    let holder = rig.sql();
    until("rows", || usize::try_from(rig.rows()).unwrap() == total).await;
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut handed = 0;
    while let Ok(claimed) = timeout(Duration::from_secs(1), rig.inbox.claim(&app(), 64)).await {
        for job in claimed.unwrap().jobs {
            delivered(&*rig.inbox, &job);
            handed += 1;
        }
    }
    assert!((NOTED_MAX..NOTED_MAX + 64).contains(&handed), "{handed}");
    holder.execute_batch("ROLLBACK").unwrap();
    deliver(&rig, total - handed).await;
    until("settled", || rig.counts(&app()).pending == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_frees_goes_back_to_the_volume() {
    let rig = Rig::with(|settings| settings.bytes_max = 64 << 20);
    // Too long for the files of bodies of a store of this size.
    let body = "x".repeat(600 << 10);
    for n in 0..20 {
        rig.accept(&format!("evt_{n}"), &body).await;
        let job = claim_one(&*rig.inbox).await;
        delivered(&*rig.inbox, &job);
    }
    until("settled", || rig.counts(&app()).pending == 0).await;
    let pages = |rig: &Rig| -> i64 {
        let conn = rig.sql();
        conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
    };
    let before = pages(&rig);
    assert!(before > 2000, "{before}");
    rig.clock.set(Timestamp(START + 8 * DAY));
    let rig = rig.reopen();
    until("pruned", || rig.inbox.counts().events == 0).await;
    until("given back", || pages(&rig) < before / 2).await;
}

/// The files of bodies, with their lengths.
fn bodies(rig: &Rig) -> Vec<u64> {
    let files = std::fs::read_dir(&rig.settings.path).unwrap().flatten();
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with("bodies-"))
        .filter_map(|file| match file.metadata() {
            // One may go between being listed and being looked at.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            found => Some(found.unwrap().len()),
        })
        .collect()
}

/// How many deliveries were dead, and are pending again.
async fn replay_dead(rig: &Rig) -> u64 {
    let dead = Selection {
        status: Some(Status::Dead),
        ..Selection::default()
    };
    rig.inbox.replay(dead).await.unwrap().deliveries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_bodies_goes_with_the_last_that_is_needed() {
    // Files of 256 KiB: 16 bodies each.
    let rig = Rig::with(|settings| settings.bytes_max = 16 << 20);
    let body = "x".repeat(16_000);
    for n in 0..100 {
        rig.accept(&format!("evt_{n}"), &body).await;
        let job = claim_one(&*rig.inbox).await;
        // One stays a dead letter.
        match n {
            20 => dead(&*rig.inbox, &job),
            _ => delivered(&*rig.inbox, &job),
        }
    }
    until("settled", || rig.counts(&app()).pending == 0).await;
    assert!(bodies(&rig).len() >= 6, "{:?}", bodies(&rig));
    rig.clock.set(Timestamp(START + 8 * DAY));
    let rig = rig.reopen();
    until("pruned", || {
        rig.inbox.counts().events == 1 && bodies(&rig).len() == 1
    })
    .await;
    // What is left is still there, also after one more restart.
    let rig = rig.reopen();
    assert_eq!(replay_dead(&rig).await, 1);
    let job = claim_one(&*rig.inbox).await;
    assert_eq!(job.event.event.event_id.as_deref(), Some("evt_20"));
    assert_eq!(&job.event.event.body[..], body.as_bytes());
}

/// A power cut can bring a removed file back, and cannot bring back its row.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_back_without_its_row_goes_unless_an_event_names_it() {
    let mut rig = Rig::new();
    let body = "x".repeat(16_000);
    // Before its upstream is known an event goes to the database.
    rig.accept("evt_0", &body).await;
    for n in 1..=2 {
        rig.accept(&format!("evt_{n}"), &body).await;
        rig = rig.reopen();
    }
    assert_eq!(bodies(&rig).len(), 2);
    let change = |rig: &Rig, sql: &str| assert_eq!(rig.sql().execute(sql, []).unwrap(), 1, "{sql}");
    change(
        &rig,
        "DELETE FROM segment WHERE id = (SELECT min(id) FROM segment)",
    );
    rig = rig.reopen();
    assert_eq!(bodies(&rig).len(), 2);
    for _ in 0..=2 {
        assert_eq!(
            &claim_one(&*rig.inbox).await.event.event.body[..],
            body.as_bytes()
        );
    }
    change(&rig, "UPDATE event SET segment = 0 WHERE event_id = 'evt_1'");
    rig = rig.reopen();
    assert_eq!(bodies(&rig).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_stay_of_sparse_files_makes_room_in_a_full_store() {
    let rig = Rig::with(|settings| settings.bytes_max = 8 << 20);
    let body = "x".repeat(16_000);
    let mut kept = BTreeSet::new();
    // Every eighth is a dead letter, which nothing takes away: half of the store in files of which an eighth is needed.
    for n in 0..2000 {
        let id = format!("evt_{n}");
        let Ok(accepted) = rig.inbox.accept(rig.event(&id, &body)).await else {
            // Room is made soon.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        assert!(matches!(accepted, Accepted::New(_)));
        let job = claim_one(&*rig.inbox).await;
        if kept.len() < 200 && n % 8 == 0 {
            dead(&*rig.inbox, &job);
            kept.insert(id);
        } else {
            delivered(&*rig.inbox, &job);
        }
    }
    until("settled", || rig.counts(&app()).pending == 0).await;
    assert!(kept.len() == 200, "room for {} dead letters only", kept.len());
    let rig = rig.reopen();
    assert_eq!(replay_dead(&rig).await, 200);
    for _ in 0..200 {
        let job = claim_one(&*rig.inbox).await;
        assert_eq!(&job.event.event.body[..], body.as_bytes());
        kept.remove(job.event.event.event_id.as_deref().unwrap());
        delivered(&*rig.inbox, &job);
    }
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_the_future_does_not_keep_those_behind_it() {
    let rig = Rig::new();
    let mut wrong = rig.event("evt_wrong", "x");
    std::sync::Arc::make_mut(&mut wrong.event).received_at = Timestamp(START + 3650 * DAY);
    rig.inbox.accept(wrong).await.unwrap();
    rig.accept("evt_1", "x").await;
    deliver(&rig, 2).await;
    until("settled", || rig.counts(&app()).pending == 0).await;
    rig.clock.set(Timestamp(START + 8 * DAY));
    let rig = rig.reopen();
    until("pruned", || rig.inbox.counts().events == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accept_is_answered_whenever_the_store_closes() {
    for round in 0..20 {
        let rig = Rig::new();
        let inbox = rig.inbox.clone();
        let clock = rig.clock.clone();
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (inbox, clock) = (inbox.clone(), clock.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        let id = format!("evt_{sender}_{n}");
                        match inbox.accept(event(&*inbox, &*clock, &id, "x")).await {
                            Ok(_) => {}
                            Err(InboxError::Closed) => return n,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    unreachable!()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(700 * round)).await;
        rig.inbox.close().await;
        for sender in senders {
            timeout(PATIENCE, sender).await.expect("an answer").unwrap();
        }
    }
}
