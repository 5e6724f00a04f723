//! Events that come many at a time, whose rows are written while others are synced.

use super::*;

const BURST: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_many_bursts_is_delivered_once_and_known_for_good() {
    let mut rig = Rig::new();
    let mut holder = None;
    for round in 0..16 {
        // Some of them while somebody else writes to the database.
        if round % 4 == 2 {
            let other = rig.sql();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            holder = Some(other);
        }
        let id = |n: usize| format!("evt_{round}_{n}");
        let answers: Vec<_> = (0..BURST)
            .map(|n| rig.inbox.accept(rig.event(&id(n), &n.to_string())))
            .collect();
        for answer in answers {
            assert!(matches!(answer.await.unwrap(), Accepted::New(_)));
        }
        // One is left for the next burst.
        let count = if round == 0 { BURST - 1 } else { BURST };
        for job in claim_exactly(&*rig.inbox, &app(), count).await {
            delivered(&*rig.inbox, &job);
        }
        holder = holder.filter(|_| round % 4 != 3);
        if round == 9 {
            drop(holder.take());
            rig = rig.reopen();
        }
    }
    drop(holder);
    let last = claim_one(&*rig.inbox).await;
    delivered(&*rig.inbox, &last);
    let all = 16 * BURST;
    let settled = "SELECT count(*) FROM event WHERE state = 1";
    let settled = || -> i64 { rig.sql().query_row(settled, [], |row| row.get(0)).unwrap() };
    until("all are delivered", || settled() == all as i64).await;
    assert_eq!(rig.rows(), all as i64);
    rig.inbox.close().await;
    let rig = rig.reopen();
    assert_eq!(rig.counts(&app()).pending, 0);
    assert_eq!(rig.inbox.counts().events, all as u64);
    for round in 0..16 {
        let again = rig.accept(&format!("evt_{round}_7"), "7").await;
        assert!(
            matches!(again, Accepted::Duplicate { conflict: false, .. }),
            "{again:?}"
        );
    }
}
