//! What the rigs found, and what they cannot tell apart: one case each.

use super::super::*;

/// Waits until one delivery is dead, and gives its error.
async fn corrupt(rig: &Rig, name: &str) -> String {
    until(name, || rig.counts(&app()).dead == 1).await;
    let sql = rig.sql();
    sql.query_row("SELECT last_error FROM delivery WHERE status = 2", [], |row| {
        row.get(0)
    })
    .unwrap()
}

/// An event that app and audit want.
fn for_both(rig: &Rig, id: &str, body: &str) -> NewEvent {
    NewEvent {
        upstreams: Arc::from([UpstreamName::new("app"), UpstreamName::new("audit")]),
        ..rig.event(id, body)
    }
}

/// The store of a rig that was closed is not opened.
fn refused_as_damaged(rig: &Rig, what: &str) {
    let refused = open(&rig.settings, rig.clock.clone(), Telemetry::new());
    assert!(
        matches!(refused, Err(OpenError::Damaged { .. })),
        "{what}: {refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_altered_in_any_column_is_dead_and_never_sent() {
    for change in [
        "received_at = received_at + 1",
        "flags = 0",
        "key_kind = 1",
        "event_id = 'evt_3'",
        "event_type = 'order.paie'",
        "event_type = NULL",
        "provider = 'quantiw'",
        "method = 'PUT'",
        "path_rest = 'a'",
        "query = 'a=3'",
        "host = 'hooks.examplf'",
        "client = '192.0.2.3'",
        "secret = 'other'",
        "event_key = '00000000000000000000000000000000'",
        "possible_duplicate_of = '00000000000000000000000000000000'",
        "body_hash = x'00000000000000000000000000000000'",
        "seal = seal + 1",
        // No text at all.
        "host = cast(x'ff686f737473' AS TEXT)",
    ] {
        let rig = Rig::new();
        let bad = seq_of(rig.accept("evt_1", "x").await);
        rig.accept("evt_2", "y").await;
        rig.inbox.close().await;
        rig.sql()
            .execute(&format!("UPDATE event SET {change} WHERE seq = ?1"), [bad.0])
            .unwrap();
        let rig = rig.reopen();
        let job = claim_one(&*rig.inbox).await;
        assert_eq!(&job.event.event.body[..], b"y", "{change}");
        assert!(corrupt(&rig, change).await.starts_with("corrupt"), "{change}");
        claim_nothing(&*rig.inbox, &app()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_altered_or_gone_are_dead_and_never_sent() {
    type Change = fn(&Rig);
    let changes: [(&str, Change); 2] = [
        ("altered", |rig| rig.alter(Seq(1), false, b"A: b\r\n")),
        ("gone", |rig| assert_eq!(rig.forget_bodies(), 1)),
    ];
    for (change, alter) in changes {
        let rig = Rig::new();
        rig.accept("evt_1", "x").await;
        rig.inbox.close().await;
        alter(&rig);
        let rig = rig.reopen();
        claim_nothing(&*rig.inbox, &app()).await;
        assert!(corrupt(&rig, change).await.starts_with("corrupt"), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_damaged_pending_event_takes_its_place() {
    let rig = Rig::new();
    let seq = seq_of(rig.accept("evt_1", "x").await);
    rig.inbox.close().await;
    rig.alter_body(seq, b"z");
    rig.sql()
        .execute("UPDATE event SET host = 'elsewhere'", [])
        .unwrap();
    // Nobody has met the damage yet when the copy comes.
    let rig = rig.reopen();
    let again = rig.accept("evt_1", "x").await;
    assert!(
        matches!(again, Accepted::Duplicate { of, conflict: false, .. } if of == seq),
        "{again:?}"
    );
    let job = claim_one(&*rig.inbox).await;
    assert_eq!((job.event.seq, &job.event.event.body[..]), (seq, &b"x"[..]));
    assert_eq!(&*job.event.event.host, "hooks.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_conflict_is_not_sent() {
    for change in ["body = x'7a'", "query = 'b=2'", "headers = x'413a20620d0a'"] {
        let rig = Rig::new();
        let seq = seq_of(rig.accept("evt_1", "first").await);
        rig.accept("evt_1", "second").await;
        rig.sql()
            .execute(&format!("UPDATE conflict SET {change}"), [])
            .unwrap();
        let selection = Selection {
            events: vec![seq],
            conflict: Some(1),
            ..Selection::default()
        };
        let replayed = rig.inbox.replay(selection).await.unwrap();
        assert_eq!((replayed.deliveries, replayed.skipped), (0, 1), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_damage_made_equal_are_refused() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    rig.inbox.close().await;
    let sql = rig.sql();
    sql.execute_batch(
        "CREATE TABLE other (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
         INSERT INTO other SELECT id, name FROM route; INSERT INTO other VALUES (9, 'hooks');",
    )
    .unwrap();
    let root: i64 = sql
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'other'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    sql.execute_batch(&format!(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {root} WHERE name = 'route';
         DELETE FROM sqlite_schema WHERE name = 'other';"
    ))
    .unwrap();
    drop(sql);
    let Rig {
        clock,
        settings,
        inbox,
        folder,
    } = rig;
    drop(inbox);
    let refused = open(&settings, clock, Telemetry::new());
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_changed_is_refused() {
    for name in ["store_id", "hash_key"] {
        let rig = Rig::new();
        rig.inbox.close().await;
        rig.sql()
            .execute("UPDATE meta SET value = zeroblob(16) WHERE name = ?1", [name])
            .unwrap();
        refused_as_damaged(&rig, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_database_is_refused_and_one_that_was_moved_away_is_made_anew() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    rig.inbox.close().await;
    let db = rig.settings.path.join("inbox.db");
    let kept = std::fs::read(&db).unwrap();
    std::fs::write(&db, "").unwrap();
    for _ in 0..2 {
        refused_as_damaged(&rig, "emptied");
    }
    std::fs::write(&db, kept).unwrap();
    let rig = rig.reopen();
    assert_eq!(&claim_one(&*rig.inbox).await.event.event.body[..], b"x");
    rig.inbox.close().await;
    std::fs::remove_file(&db).unwrap();
    drop(std::fs::remove_file(rig.settings.path.join("inbox.db-wal")));
    let rig = rig.reopen();
    assert_eq!(rig.inbox.counts().events, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_go_while_it_runs_end_it_and_nothing_is_acknowledged_into_the_void() {
    for name in ["inbox.db-wal", "inbox.db"] {
        let rig = Rig::new();
        rig.accept("evt_1", "x").await;
        std::fs::remove_file(rig.settings.path.join(name)).unwrap();
        if name == "inbox.db-wal" {
            // What is acknowledged goes there: it is missed at once.
            let refused = rig.inbox.accept(rig.event("evt_2", "x")).await;
            assert!(matches!(refused, Err(InboxError::Failed(_))), "{refused:?}");
        }
        let reason = timeout(PATIENCE, rig.inbox.failed()).await.expect(name);
        assert!(reason.contains(name) && reason.contains("removed"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_damaged_in_its_middle_is_kept_and_said() {
    let rig = Rig::new();
    rig.inbox.close().await;
    let rig = rig.reopen();
    // Each in a commit of its own: what is behind the damage was synced.
    for n in 1..=3 {
        rig.accept(&format!("evt_{n}"), "x").await;
        until("a row", || rig.rows() == n).await;
    }
    // As after a crash: what is in the log is nowhere else.
    let crashed = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = settings(crashed.path());
    std::fs::create_dir(&settings.path).unwrap();
    for name in ["inbox.db", "inbox.db-wal"] {
        std::fs::copy(rig.settings.path.join(name), settings.path.join(name)).unwrap();
    }
    let log = settings.path.join("inbox.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let damaged = 32 + 24 + 100;
    bytes[damaged] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let inbox = open(&settings, rig.clock.clone(), Telemetry::new()).unwrap();
    assert_eq!(inbox.counts().events, 0);
    let kept = std::fs::read_dir(&settings.path)
        .unwrap()
        .flatten()
        .map(|file| file.path())
        .find(|path| path.to_string_lossy().contains("-wal.damaged-"))
        .expect("the log is kept");
    assert_eq!(std::fs::read(kept).unwrap(), bytes);
    seq_of(
        inbox
            .accept(event(&*inbox, &*rig.clock, "evt_1", "x"))
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_of_a_damaged_event_and_see_the_others() {
    use hooklatch::inbox::Reader;
    let rig = Rig::new();
    let bad = seq_of(rig.accept("evt_1", "x").await);
    let good = seq_of(rig.accept("evt_2", "y").await);
    rig.sql()
        .execute(
            "UPDATE event SET host = cast(x'ff' AS TEXT) WHERE seq = ?1",
            [bad.0],
        )
        .unwrap();
    let reader = Reader::open(&rig.settings.path).unwrap();
    assert_eq!(reader.list(&Selection::default(), None, 10).unwrap().len(), 2);
    assert!(reader.event(bad).unwrap().unwrap().corrupt);
    assert!(!reader.event(good).unwrap().unwrap().corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_damage_left_without_an_open_delivery_is_dead_and_said() {
    let number = |name: &str| format!("(SELECT id FROM upstream WHERE name = '{name}')");
    let (app_number, audit_number) = (number("app"), number("audit"));
    // The change, and whether evt_2 is untouched by it.
    for (change, is_sent) in [
        // The member that is still to take it is gone.
        (
            format!("UPDATE upstream_set SET id = id + 256 WHERE upstream = {audit_number}"),
            true,
        ),
        // The event has the number of another set.
        (
            "UPDATE event SET wants = (SELECT wants FROM event WHERE event_id = 'evt_2') WHERE event_id = 'evt_1'"
                .to_owned(),
            true,
        ),
        // Its only delivery looks as if it were done with.
        (
            format!(
                "INSERT INTO delivery (seq, upstream, status, attempts, due, age_from)
                 SELECT seq, {app_number}, 1, 1, 0, 0 FROM event WHERE event_id = 'evt_2'"
            ),
            false,
        ),
    ] {
        let rig = Rig::new();
        rig.inbox.accept(for_both(&rig, "evt_1", "x")).await.unwrap();
        delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
        rig.accept("evt_2", "y").await;
        rig.inbox.close().await;
        assert_eq!(rig.sql().execute(&change, []).unwrap(), 1, "{change}");
        let rig = rig.reopen();
        if is_sent {
            let job = claim_one(&*rig.inbox).await;
            assert_eq!(&job.event.event.body[..], b"y", "{change}");
        }
        claim_nothing(&*rig.inbox, &app()).await;
        assert!(corrupt(&rig, &change).await.starts_with("corrupt"), "{change}");
        assert_eq!(rig.counts(&app()).pending, u64::from(is_sent), "{change}");
        // evt_2 under a lease, or evt_1 for its other upstream.
        let open: i64 = rig
            .sql()
            .query_row("SELECT count(*) FROM event WHERE state = 0", [], |row| row.get(0))
            .unwrap();
        assert_eq!(open, 1, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_asks_for_a_newer_sqlite_is_refused() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new();
    rig.inbox.close().await;
    for version in [3, 0x82] {
        let db = std::fs::OpenOptions::new()
            .write(true)
            .open(rig.settings.path.join("inbox.db"))
            .unwrap();
        db.write_all_at(&[version], 18).unwrap();
        drop(db);
        refused_as_damaged(&rig, &version.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_damage_gave_to_another_event_does_not_count_for_it() {
    let rig = Rig::new();
    rig.inbox.accept(for_both(&rig, "evt_1", "evt_1")).await.unwrap();
    delivered(&*rig.inbox, &claim_one(&*rig.inbox).await);
    rig.inbox.accept(for_both(&rig, "evt_2", "evt_2")).await.unwrap();
    rig.inbox.close().await;
    let bodies =
        |jobs: &[Job]| -> Vec<Vec<u8>> { jobs.iter().map(|job| job.event.event.body.to_vec()).collect() };
    // Of an event that is there: both are sent, the first one once more.
    let moved = "UPDATE delivery SET seq = seq + 1";
    assert_eq!(rig.sql().execute(moved, []).unwrap(), 1);
    let rig = rig.reopen();
    let jobs = claim_exactly(&*rig.inbox, &app(), 2).await;
    assert_eq!(bodies(&jobs), [b"evt_1", b"evt_2"]);
    rig.inbox.close().await;
    // Of one that is yet to come: it stays open until its own app has it.
    assert_eq!(rig.sql().execute(moved, []).unwrap(), 1);
    let rig = rig.reopen();
    rig.inbox.accept(for_both(&rig, "evt_3", "evt_3")).await.unwrap();
    for job in claim_exactly(&*rig.inbox, &target("audit"), 3).await {
        delivered(&*rig.inbox, &job);
    }
    rig.inbox.close().await;
    let rig = rig.reopen();
    let jobs = claim_exactly(&*rig.inbox, &app(), 3).await;
    assert_eq!(bodies(&jobs), [b"evt_1", b"evt_2", b"evt_3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_names_a_settled_event_ends_the_store_rather_than_hide_another() {
    let rig = Rig::new();
    rig.accept("evt_1", "x").await;
    rig.accept("evt_2", "y").await;
    // From the store, not from memory. A small one is checked as it is opened, so the damage comes later.
    let rig = rig.reopen();
    let sql = rig.sql();
    sql.execute_batch(
        "PRAGMA writable_schema = ON;
         CREATE TEMP TABLE kept AS SELECT * FROM main.sqlite_schema WHERE name = 'event_open';
         DELETE FROM main.sqlite_schema WHERE name = 'event_open'",
    )
    .unwrap();
    let settle = "UPDATE event SET state = 1 WHERE event_id = 'evt_1'";
    assert_eq!(rig.sql().execute(settle, []).unwrap(), 1);
    let version: i64 = sql
        .query_row("PRAGMA schema_version", [], |row| row.get(0))
        .unwrap();
    sql.execute_batch(&format!(
        "INSERT INTO main.sqlite_schema SELECT * FROM kept; PRAGMA schema_version = {}",
        version + 1
    ))
    .unwrap();
    let error = rig.inbox.claim(&app(), 10).await.unwrap_err().to_string();
    assert!(error.contains("names event 1, which is none"), "{error}");
}
