//! Events that were accepted, and have no rows in the database yet, when the process ends.

use super::*;

/// What a crash at this moment leaves: a copy of the folder.
fn crash(rig: &Rig) -> (TempDir, Settings) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut settings = rig.settings.clone();
    let left = std::mem::replace(&mut settings.path, folder.path().join("store"));
    std::fs::create_dir(&settings.path).unwrap();
    for file in std::fs::read_dir(left).unwrap().flatten() {
        // As SQLite's locks and its index of the log go.
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), settings.path.join(file.file_name())).unwrap();
        }
    }
    (folder, settings)
}

/// The store after that crash.
fn after_crash(rig: &Rig) -> Rig {
    let (folder, settings) = crash(rig);
    let clock = rig.clock.clone();
    let inbox = open(&settings, clock.clone(), Telemetry::new()).unwrap();
    Rig {
        folder,
        clock,
        settings,
        inbox,
    }
}

/// Keeps every row from being written while it lives.
fn hold(rig: &Rig) -> Connection {
    let holder = rig.sql();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    holder
}

/// A store whose first event, which makes its upstream known and therefore has its row at once, was delivered.
async fn with_a_first_event() -> Rig {
    let rig = Rig::new();
    rig.accept("evt_first", "x").await;
    until("a row", || rig.rows() == 1).await;
    delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
    rig
}

/// Accepts so many events at once, and takes them.
async fn take_batch(rig: &Rig, name: &str, count: usize) -> Vec<Job> {
    let ids: Vec<_> = (0..count).map(|n| format!("{name}_{n}")).collect();
    let answers: Vec<_> = ids.iter().map(|id| rig.inbox.accept(rig.event(id, id))).collect();
    for answer in answers {
        answer.await.unwrap();
    }
    claim_exactly(&*rig.inbox, &app(), count).await
}

fn short(body: &str) -> String {
    match body.len() {
        ..20 => body.to_owned(),
        long => format!(
            "{long} bytes {}",
            hex::encode(crate::support::sha256(body.as_bytes()))
        ),
    }
}

/// What waits, shortened.
async fn bodies_pending(rig: &Rig) -> Vec<String> {
    let count = usize::try_from(rig.counts(&app()).pending).unwrap();
    let jobs = claim_exactly(&*rig.inbox, &app(), count).await;
    let short = |job: &Job| short(std::str::from_utf8(&job.event.event.body).unwrap());
    let mut bodies: Vec<_> = jobs.iter().map(short).collect();
    bodies.sort_unstable();
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_there_after_one_crash_and_after_two() {
    let mut rig = Rig::new();
    rig.accept("evt_before", "before").await;
    until("a row", || rig.rows() == 1).await;
    let long = "long ".repeat(10_000);
    let mut expected = vec!["before".to_owned()];
    for life in 0..3 {
        let holder = hold(&rig);
        for (n, body) in ["", "x", "{\"id\":1}", &long].into_iter().enumerate() {
            let body = format!("{life}{body}");
            seq_of(rig.accept(&format!("evt_{life}_{n}"), &body).await);
            expected.push(short(&body));
        }
        let next = after_crash(&rig);
        assert_eq!(next.rows(), i64::try_from(expected.len()).unwrap(), "life {life}");
        assert_eq!(next.inbox.counts().events, expected.len() as u64);
        drop(holder);
        rig = next;
    }
    // A copy of each is known.
    for life in 0..3 {
        let again = rig.accept(&format!("evt_{life}_1"), &format!("{life}x")).await;
        assert!(
            matches!(again, Accepted::Duplicate { conflict: false, .. }),
            "{again:?}"
        );
    }
    assert_eq!(seq_of(rig.accept("evt_after", "after").await), Seq(14));
    expected.push("after".to_owned());
    expected.sort_unstable();
    until("handed over", || rig.counts(&app()).pending == 14).await;
    assert_eq!(bodies_pending(&rig).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_before_the_crash_they_may_come_again_and_after_their_rows_they_do_not() {
    let rig = Rig::new();
    rig.accept("evt_0", "0").await;
    delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
    let settled = "SELECT count(*) FROM event WHERE state = 1";
    let settled = || -> i64 { rig.sql().query_row(settled, [], |row| row.get(0)).unwrap() };
    until("its row", || settled() == 1).await;
    let holder = hold(&rig);
    rig.accept("evt_1", "1").await;
    delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
    rig.accept("evt_2", "2").await;
    until("settled", || rig.counts(&app()).pending == 1).await;
    let next = after_crash(&rig);
    assert_eq!(bodies_pending(&next).await, ["1", "2"]);
    drop(holder);
    until("their rows", || rig.rows() == 3).await;
    let next = after_crash(&rig);
    assert_eq!(bodies_pending(&next).await, ["2"]);
}

/// Rows are left for later where their events are about to be delivered; those that are not wait no longer than others.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_not_delivered_gets_its_row_all_the_same() {
    let rig = with_a_first_event().await;
    for round in 1..=5 {
        let jobs = take_batch(&rig, &format!("evt_{round}"), 40).await;
        // Some at the end of the batch, some in the midst of it.
        for (n, job) in jobs.iter().enumerate() {
            if n < 36 && n != 30 {
                delivered(&*rig.inbox, job);
            }
        }
        until("all rows", || rig.rows() == 1 + 40 * round).await;
        let open = "SELECT count(*) FROM event WHERE state = 0";
        let open = || -> i64 { rig.sql().query_row(open, [], |row| row.get(0)).unwrap() };
        until("the state of all", || open() == 5 * round).await;
        assert_eq!(rig.counts(&app()).pending, 5 * round as u64);
    }
    let next = rig.reopen();
    assert_eq!(bodies_pending(&next).await.len(), 25);
}

/// Whatever else was written with the rows of others.
#[tokio::test(flavor = "multi_thread")]
async fn events_whose_rows_were_left_for_later_are_there_after_a_crash() {
    const ROUNDS: i64 = 16;
    const EVENTS: i64 = 10;
    let rig = with_a_first_event().await;
    let mut left_for_later = 0;
    for round in 1..=ROUNDS {
        let before = 1 + EVENTS * (round - 1);
        let jobs = take_batch(&rig, &format!("evt_{round}"), EVENTS as usize).await;
        let (taken, last) = jobs.split_at(jobs.len() - 2);
        taken.iter().for_each(|job| delivered(&*rig.inbox, job));
        until("some rows", || rig.rows() > before).await;
        let holder = hold(&rig);
        let rows = rig.rows();
        left_for_later += i64::from(rows < before + EVENTS);
        let next = after_crash(&rig);
        assert_eq!(
            next.rows(),
            before + EVENTS,
            "round {round}: {rows} rows at the crash"
        );
        assert_eq!(next.inbox.counts().events.cast_signed(), before + EVENTS);
        assert_eq!(next.counts(&app()).pending, 2);
        drop((holder, next));
        last.iter().for_each(|job| delivered(&*rig.inbox, job));
        until("all are delivered", || rig.counts(&app()).pending == 0).await;
        until("their rows", || rig.rows() == before + EVENTS).await;
    }
    assert!(left_for_later > 0, "nothing was left for later");
}

/// However rows come into the database: with all others, beside a sync, or without those that are about to be delivered. A file that
/// counts more events than it has would never go.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_counts_its_events_once_however_their_rows_were_written() {
    const RECORD_BYTES: i64 = 352;
    let rig = with_a_first_event().await;
    let sql = rig.sql();
    // The first event of all is in the database.
    let counts = "SELECT total(events), total(live_bytes), (SELECT count(*) FROM event WHERE segment > 0),
        (SELECT total(head_bytes + body_bytes) FROM event WHERE segment > 0) FROM segment";
    let rows_counted_once = || -> i64 {
        let (events, bytes, rows, row_bytes): (f64, f64, i64, f64) = sql
            .query_row(counts, [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .unwrap();
        assert_eq!((events as i64, rows), (rows, rows));
        assert_eq!(bytes as i64, row_bytes as i64 + rows * RECORD_BYTES);
        rows
    };
    let mut all = 0;
    let mut behind = 0;
    for round in 0..8 {
        // Two batches in a row, so that rows of the first are there for the sync of the second; and then so few events that the
        // counters are not due.
        for (batch, count, late) in [(0, 40, 0), (1, 40, 0), (2, 10, 2)] {
            let jobs = take_batch(&rig, &format!("evt_{round}_{batch}"), count).await;
            let (taken, last) = jobs.split_at(count - late);
            taken.iter().for_each(|job| delivered(&*rig.inbox, job));
            if batch > 0 {
                until("some rows", || rows_counted_once() > all).await;
            }
            all += count as i64;
            behind += i64::from(rows_counted_once() < all);
            if batch == 0 {
                continue;
            }
            last.iter().for_each(|job| delivered(&*rig.inbox, job));
            until("all rows", || rows_counted_once() == all).await;
        }
    }
    assert!(behind > 0, "rows were never behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_locked_events_are_taken_up_to_a_bound() {
    let rig = Rig::with(|settings| settings.queue_events_max = 8192);
    rig.accept("evt_first", "x").await;
    until("a row", || rig.rows() == 1).await;
    let holder = hold(&rig);
    let mut taken = BTreeSet::new();
    let refused = loop {
        let n = taken.len();
        let answers: Vec<_> = (n..n + 256)
            .map(|n| {
                (
                    n,
                    rig.inbox.accept(rig.event(&format!("evt_{n}"), &n.to_string())),
                )
            })
            .collect();
        let mut refused = None;
        for (n, answer) in answers {
            match answer.await {
                Ok(_) => drop(taken.insert(n)),
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            break error;
        }
        assert!(taken.len() <= 8192, "no bound");
    };
    assert_eq!(refused, InboxError::Busy);
    assert!(taken.len() >= 1024, "{}", taken.len());
    // Copies are known all the same, and what was taken survives.
    let again = rig.accept("evt_7", "7").await;
    assert!(matches!(again, Accepted::Duplicate { .. }), "{again:?}");
    let next = after_crash(&rig);
    assert_eq!(next.counts(&app()).pending, taken.len() as u64 + 1);
    drop(next);
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    until("their rows", || rig.rows() as usize == taken.len() + 1).await;
    rig.accept("evt_last", "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_waits_for_rows_and_says_what_has_none() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    let reader = Reader::open(&rig.settings.path).unwrap();
    assert_eq!(reader.without_rows(), 0);
    assert_eq!(reader.list(&Selection::default(), None, 10).unwrap().len(), 1);
    let holder = hold(&rig);
    rig.accept("evt_2", "y").await;
    let (folder, settings) = crash(&rig);
    let reader = Reader::open(&settings.path).unwrap();
    assert_eq!(reader.without_rows(), 1);
    assert_eq!(reader.list(&Selection::default(), None, 10).unwrap().len(), 1);
    drop((reader, holder));
    let inbox = open(&settings, rig.clock.clone(), Telemetry::new()).unwrap();
    let reader = Reader::open(&settings.path).unwrap();
    assert_eq!(reader.without_rows(), 0);
    assert_eq!(reader.list(&Selection::default(), None, 10).unwrap().len(), 2);
    drop((inbox, folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_another_store_are_none() {
    let (one, other) = (Rig::new(), Rig::new());
    for rig in [&one, &other] {
        rig.accept("evt_0", "x").await;
        until("a row", || rig.rows() == 1).await;
        let holder = hold(rig);
        rig.accept("evt_1", "x").await;
        drop(holder);
    }
    let (_folder, settings) = crash(&other);
    let theirs = one.settings.path.join("bodies-0000000001");
    std::fs::copy(&theirs, settings.path.join("bodies-0000000002")).unwrap();
    let inbox = open(&settings, other.clock.clone(), Telemetry::new()).unwrap();
    assert_eq!(inbox.counts().events, 2);
    assert!(!settings.path.join("bodies-0000000002").exists());
    // Nor where the database was put aside, and is made anew.
    let (_folder, settings) = crash(&one);
    for file in ["inbox.db", "inbox.db-wal", "inbox.lock"] {
        drop(std::fs::remove_file(settings.path.join(file)));
    }
    std::fs::remove_file(settings.path.join("bodies-0000000001")).unwrap();
    let inbox = open(&settings, one.clock.clone(), Telemetry::new()).unwrap();
    std::fs::copy(&theirs, settings.path.join("bodies-0000000001")).unwrap();
    drop(inbox);
    let inbox = open(&settings, one.clock.clone(), Telemetry::new()).unwrap();
    assert_eq!(inbox.counts().events, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_what_has_rows_that_is_wrong_loses_nothing() {
    for change in [
        "bytes = bytes + 150",
        "bytes = 3",
        "bytes = 1 << 40",
        "last_seq = 1",
    ] {
        let mut rig = Rig::new();
        for n in 0..3 {
            rig.accept(&format!("evt_{n}"), "x").await;
        }
        until("rows", || rig.rows() == 3).await;
        let holder = hold(&rig);
        rig.accept("evt_3", "y").await;
        rig.accept("evt_4", "z").await;
        let (folder, settings) = crash(&rig);
        drop(holder);
        let sql = Connection::open(settings.path.join("inbox.db")).unwrap();
        assert_eq!(
            sql.execute(&format!("UPDATE segment SET {change}"), []).unwrap(),
            1
        );
        drop(sql);
        rig.inbox = open(&settings, rig.clock.clone(), Telemetry::new()).unwrap();
        rig.settings = settings;
        assert_eq!(bodies_pending(&rig).await, ["x", "x", "x", "y", "z"], "{change}");
        drop(folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_events_name_stays_though_its_count_is_gone() {
    let mut rig = Rig::new();
    for n in 0..3 {
        rig.accept(&format!("evt_{n}"), "x").await;
    }
    rig = rig.reopen();
    rig = {
        rig.inbox.close().await;
        assert_eq!(rig.sql().execute("DELETE FROM segment", []).unwrap(), 1);
        rig.reopen()
    };
    assert_eq!(bodies_pending(&rig).await, ["x", "x", "x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_count_is_gone_is_counted_anew_with_all_that_is_in_it() {
    let rig = Rig::new();
    for n in 0..3 {
        rig.accept(&format!("evt_{n}"), "x").await;
    }
    until("rows", || rig.rows() == 3).await;
    let holder = hold(&rig);
    rig.accept("evt_3", "x").await;
    rig.accept("evt_4", "x").await;
    let (_folder, settings) = crash(&rig);
    drop(holder);
    let sql = Connection::open(settings.path.join("inbox.db")).unwrap();
    assert_eq!(sql.execute("DELETE FROM segment", []).unwrap(), 1);
    let longest = "UPDATE event SET body_bytes = 9223372036854775807 WHERE seq = 2";
    assert_eq!(sql.execute(longest, []).unwrap(), 1);
    let inbox = open(&settings, rig.clock.clone(), Telemetry::new()).unwrap();
    let counts = "SELECT events, first_seq, last_seq, live_bytes >= 4 * 353 FROM segment";
    let found: (i64, i64, i64, bool) = sql
        .query_row(counts, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    // The first event of all is in the database.
    assert_eq!(found, (4, 2, 5, true));
    drop(inbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_used_is_told_of_and_kept_once() {
    let rig = Rig::new();
    let elsewhere = |id: &str| {
        let mut event = rig.event(id, "x");
        let mut changed = (*event.event).clone();
        changed.route = RouteName::new("/elsewhere");
        event.event = changed.into();
        event
    };
    rig.accept("evt_0", "x").await;
    rig.inbox.accept(elsewhere("evt_1")).await.unwrap();
    until("rows", || rig.rows() == 2).await;
    let holder = hold(&rig);
    rig.accept("evt_2", "x").await;
    rig.inbox.accept(elsewhere("evt_3")).await.unwrap();
    let (_folder, settings) = crash(&rig);
    drop(holder);
    let sql = Connection::open(settings.path.join("inbox.db")).unwrap();
    sql.execute_batch(
        "DELETE FROM upstream_set WHERE upstream IN (SELECT id FROM upstream WHERE route = 2);
         DELETE FROM upstream WHERE route = 2;
         DELETE FROM event WHERE route = 2;
         DELETE FROM route WHERE id = 2",
    )
    .unwrap();
    drop(sql);
    for start in 0..3 {
        rig.clock.advance(1000);
        let inbox = open(&settings, rig.clock.clone(), Telemetry::new()).unwrap();
        let names = std::fs::read_dir(&settings.path).unwrap().flatten();
        let copies = names.filter(|file| file.file_name().to_string_lossy().contains(".damaged-"));
        assert_eq!(copies.count(), 1, "start {start}");
        assert_eq!(inbox.counts().events, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_does_not_come_with_a_crash() {
    // Files of 256 KiB.
    let rig = Rig::with(|settings| settings.bytes_max = 16 << 20);
    rig.accept("evt_first", "x").await;
    until("a row", || rig.rows() == 1).await;
    let holder = hold(&rig);
    // More than a file takes, and at last one for the database, which is locked.
    let mut together: Vec<_> = (0..30)
        .map(|n| (format!("evt_{n}"), "x".repeat(16_000)))
        .collect();
    together.push(("evt_long".to_owned(), "x".repeat(200 << 10)));
    let answers: Vec<_> = together
        .iter()
        .map(|(id, body)| rig.inbox.accept(rig.event(id, body)))
        .collect();
    let mut kept = BTreeSet::from(["evt_first".to_owned()]);
    for ((id, _), answer) in together.into_iter().zip(answers) {
        if answer.await.is_ok() {
            kept.insert(id);
        }
    }
    assert!(kept.len() < 31, "{kept:?}");
    for n in 0..3 {
        rig.accept(&format!("evt_then_{n}"), "then").await;
        kept.insert(format!("evt_then_{n}"));
    }
    let next = after_crash(&rig);
    drop(holder);
    let count = usize::try_from(next.counts(&app()).pending).unwrap();
    let found: BTreeSet<_> = claim_exactly(&*next.inbox, &app(), count)
        .await
        .iter()
        .map(|job| job.event.event.event_id.as_deref().unwrap().to_owned())
        .collect();
    assert_eq!(found, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_of_an_upstream_goes_with_its_name_or_not_at_all() {
    let rig = Rig::new();
    let holder = hold(&rig);
    let answer = rig.inbox.accept(rig.event("evt_1", "x")).await;
    assert_eq!(answer, Err(InboxError::Busy));
    let next = after_crash(&rig);
    assert_eq!(next.inbox.counts().events, 0);
    drop(holder);
    rig.accept("evt_1", "x").await;
    let next = after_crash(&rig);
    assert_eq!(bodies_pending(&next).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_parked_upstream_none_is_forgotten() {
    let rig = Rig::new();
    rig.inbox.set_targets(&[app()]);
    rig.accept("evt_0", "0").await;
    delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
    until("settled", || rig.counts(&app()).pending == 0).await;
    let holder = hold(&rig);
    for n in 1..=3 {
        rig.accept(&format!("evt_{n}"), &n.to_string()).await;
    }
    let job = claim_one(&*rig.inbox).await;
    rig.inbox.set_targets(&[]);
    rig.inbox.settle(Settlement {
        seq: job.event.seq,
        target: app(),
        attempts: 0,
        outcome: Outcome::Released,
    });
    rig.accept("evt_4", "4").await;
    rig.inbox.set_targets(&[app()]);
    rig.accept("evt_5", "5").await;
    claim_nothing(&*rig.inbox, &app()).await;
    drop(holder);
    let mut bodies = BTreeSet::new();
    while bodies.len() < 5 {
        for job in claim(&*rig.inbox, &app(), 10).await {
            assert!(bodies.insert(job.event.event.body.clone()), "twice");
            delivered(&*rig.inbox, &job);
        }
    }
    until("settled", || rig.counts(&app()).pending == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_backlog_events_are_handed_over_from_memory_again() {
    let rig = Rig::with(|settings| settings.queue_events_max = 8192);
    let backlog: Vec<_> = (0..3000)
        .map(|n| rig.inbox.accept(rig.event(&format!("evt_{n}"), "x")))
        .collect();
    for answer in backlog {
        answer.await.unwrap();
    }
    // While it is worked off, others come.
    let (mut came, mut taken) = (3000, BTreeSet::new());
    while taken.len() < came {
        for job in claim(&*rig.inbox, &app(), 64).await {
            assert!(taken.insert(job.event.seq), "twice");
            delivered(&*rig.inbox, &job);
        }
        if came < 4000 {
            for _ in 0..32 {
                rig.accept(&format!("evt_{came}"), "x").await;
                came += 1;
            }
        }
    }
    until("settled", || rig.counts(&app()).pending == 0).await;
    let holder = hold(&rig);
    rig.accept("evt_last", "last").await;
    assert_eq!(&claim_one(&*rig.inbox).await.event.event.body[..], b"last");
    drop(holder);
}
