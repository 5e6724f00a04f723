//! A store written by any format there ever was: opened by this build, its pending events arrive byte for byte, copies of
//! what it holds are repeats, and what was dead or in conflict can still be sent.
//!
//! `store_upgrade/format_N.sql` is a store of format N as text, written by the gateway of that time.
//! `WRITE_FIXTURE=FILE` makes `a_fixture_of_this_format_is_kept` write one of the present format.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use self::fixture::{FIXTURES, PROXIED, config, dump, fill, load, sign};
use crate::support::{App, Gateway, Launch, PATIENCE, Reply, Request, binary, post, sha256, wait_for};

/// Where an upstream listens in these tests: its path.
type At = String;

/// A pending delivery that a fixture holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owed {
    at: At,
    body: Vec<u8>,
}

/// A kept event as its sender would send it again.
#[derive(Debug)]
struct Copy {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    dead: bool,
}

/// A fixture in a folder of its own.
struct Store {
    folder: tempfile::TempDir,
    text: &'static str,
}

impl Store {
    fn of(text: &'static str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        load(text, &folder.path().join("store/inbox.db"));
        Self { folder, text }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn sql(&self) -> Connection {
        Connection::open(self.path().join("inbox.db")).unwrap()
    }

    fn number(&self, sql: &str) -> i64 {
        self.sql().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The body of an event, in the database or, from format 3 on, in a file.
    fn body(&self, sql: &Connection, seq: i64) -> Vec<u8> {
        let payload = sql.query_row("SELECT body FROM payload WHERE seq = ?1", [seq], |row| row.get(0));
        payload.unwrap_or_else(|_| {
            let place = "SELECT segment, offset + head_bytes, body_bytes FROM event WHERE seq = ?1";
            let (segment, from, length): (i64, i64, i64) = sql
                .query_row(place, [seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .unwrap();
            let file = std::fs::read(self.path().join(format!("bodies-{segment:010}"))).unwrap();
            file[usize::try_from(from).unwrap()..][..usize::try_from(length).unwrap()].to_vec()
        })
    }

    /// What must be delivered, read without the gateway.
    fn owed(&self) -> Vec<Owed> {
        let sql = self.sql();
        let mut select = sql
            .prepare(
                "SELECT r.name, u.name, e.path_rest, e.query, e.seq FROM event e
                   JOIN route r ON r.id = e.route JOIN upstream_set s ON s.id = e.wants
                   JOIN upstream u ON u.id = s.upstream
                   LEFT JOIN delivery d ON d.seq = e.seq AND d.upstream = u.id
                 WHERE e.state = 0 AND coalesce(d.status, 0) = 0",
            )
            .unwrap();
        let owed = select.query_map([], |row| {
            let (route, upstream): (String, String) = (row.get(0)?, row.get(1)?);
            let (rest, query): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok(Owed {
                at: target(&route, &upstream, &rest, query.as_deref()),
                body: self.body(&sql, row.get(4)?),
            })
        });
        owed.unwrap().map(Result::unwrap).collect()
    }

    /// A copy of every event whose key is remembered.
    fn copies(&self) -> Vec<Copy> {
        let sql = self.sql();
        let mut select = sql
            .prepare(
                "SELECT r.name, e.path_rest, e.query, e.seq, e.state FROM event e JOIN route r ON r.id = e.route
                 WHERE e.seq = (SELECT max(seq) FROM event o WHERE o.dedup_key = e.dedup_key)",
            )
            .unwrap();
        let copies = select.query_map([], |row| {
            let route: String = row.get(0)?;
            let rest: String = row.get(1)?;
            let query: Option<String> = row.get(2)?;
            let body = self.body(&sql, row.get(3)?);
            let path = match query {
                Some(query) => format!("{}?{query}", fixture::path(&route, &rest)),
                None => fixture::path(&route, &rest),
            };
            let headers = sign(&route, &body);
            let dead = row.get::<_, i64>(4)? == 3;
            Ok(Copy {
                path,
                headers,
                body,
                dead,
            })
        });
        copies.unwrap().map(Result::unwrap).collect()
    }

    /// `Hooklatch-Key`s that apps saw before the upgrade, by target and body.
    fn keys(&self) -> BTreeMap<(String, String), String> {
        let seen = self.text.lines().filter_map(|line| line.strip_prefix("-- key "));
        seen.map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            ((words[0].to_owned(), words[1].to_owned()), words[2].to_owned())
        })
        .collect()
    }
}

/// The request line's target at the app.
fn target(route: &str, upstream: &str, rest: &str, query: Option<&str>) -> At {
    let rest = if rest.is_empty() {
        String::new()
    } else {
        format!("/{rest}")
    };
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("/{route}/{upstream}{rest}{query}")
}

fn as_owed(request: &Request) -> Owed {
    Owed {
        at: request.target.clone(),
        body: request.body.clone(),
    }
}

fn send(gateway: SocketAddr, copy: &Copy) -> String {
    let headers: Vec<(&str, &str)> = copy
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let answer = post(gateway, &copy.path, &headers, &copy.body);
    assert_eq!(answer.status, 200, "{}: {}", copy.path, answer.text());
    answer.text()
}

#[test]
fn a_store_of_every_format_is_opened_and_its_pending_events_arrive() {
    for (format, text) in FIXTURES {
        let store = Store::of(text);
        let (owed, copies, keys) = (store.owed(), store.copies(), store.keys());
        let events = store.number("SELECT count(*) FROM event");
        assert!(
            owed.len() >= 10 && copies.len() >= 15,
            "format {format}: {} {}",
            owed.len(),
            copies.len()
        );

        let app = App::with(|_| Reply::Status(200));
        let mut gateway = Gateway::start(&config(&store.path(), app.address(), false));
        let arrived: BTreeSet<Owed> = app.wait_for(owed.len()).iter().map(as_owed).collect();
        assert_eq!(arrived, owed.iter().cloned().collect(), "format {format}");
        let mut known = 0;
        for request in app.requests() {
            let place = (request.target.clone(), hex::encode(sha256(&request.body)));
            if let Some(key) = keys.get(&place) {
                assert_eq!(
                    request.header("Hooklatch-Key"),
                    Some(key.as_str()),
                    "format {format}: {place:?}"
                );
                known += 1;
            }
        }
        assert!(known >= 3, "format {format}: {known} keys");

        // Every copy is a repeat; that of a dead event sets it going again.
        let mut expected = owed.len();
        for copy in &copies {
            assert_eq!(
                send(gateway.listen(), copy),
                fixture::AGAIN,
                "format {format}: {copy:?}"
            );
            expected += usize::from(copy.dead);
        }
        assert!(expected > owed.len(), "format {format}: nothing was dead");
        let bodies: BTreeSet<Vec<u8>> = app
            .wait_for(expected)
            .into_iter()
            .map(|request| request.body)
            .collect();
        for copy in copies.iter().filter(|copy| copy.dead) {
            assert!(bodies.contains(&copy.body), "format {format}: {copy:?}");
        }
        // So is what `proxy` mode had passed on.
        let again = post(
            gateway.listen(),
            fixture::PROXY_PATH,
            &[("X-Quantiv-Signature", &fixture::quantiv(PROXIED))],
            PROXIED,
        );
        assert_eq!(again.text(), fixture::AGAIN, "format {format}");

        let (seq, conflict): (i64, Vec<u8>) = store
            .sql()
            .query_row("SELECT seq, body FROM conflict WHERE n = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let replayed = Command::new(binary())
            .args(["events", "replay", &seq.to_string(), "--conflict", "1", "--admin"])
            .arg(gateway.admin().to_string())
            .output()
            .unwrap();
        assert!(replayed.status.success(), "format {format}: {replayed:?}");
        // To both of its upstreams.
        expected += 2;
        let last = app.wait_for(expected);
        assert!(
            last.iter().any(|request| request.body == conflict),
            "format {format}"
        );

        let all_settled = wait_for(PATIENCE, || {
            (store.number("SELECT count(*) FROM event WHERE state = 0") == 0).then_some(())
        });
        assert!(all_settled.is_some(), "format {format}: {}", gateway.log());
        assert_eq!(
            store.number("SELECT count(*) FROM event"),
            events + 1,
            "format {format}"
        );
        assert_eq!(
            app.requests().len(),
            expected,
            "format {format}: something was delivered twice"
        );
        assert_eq!(
            gateway.term().code(),
            Some(0),
            "format {format}: {}",
            gateway.log()
        );
    }
}

/// Whoever raises the format keeps a store of it.
#[test]
fn a_fixture_of_this_format_is_kept() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("store");
    let keys = fill(&path);
    let db = path.join("inbox.db");
    let format: i64 = Connection::open(&db)
        .unwrap()
        .query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| {
            row.get(0)
        })
        .unwrap();
    if let Some(file) = std::env::var_os("WRITE_FIXTURE") {
        std::fs::write(file, dump(&db, &keys)).unwrap();
    }
    let kept = FIXTURES.iter().any(|(known, _)| *known == format);
    assert!(
        kept,
        "there is no store_upgrade/format_{format}.sql; WRITE_FIXTURE=tests/it/store_upgrade/format_{format}.sql makes one"
    );
    // What is made today is what is kept, but for keys and times.
    let (_, text) = FIXTURES.iter().find(|(known, _)| *known == format).unwrap();
    let kept = Store::of(text);
    let today = Store { folder, text: "" };
    for count in [
        "SELECT count(*) FROM event WHERE state = 0",
        "SELECT count(*) FROM event WHERE state = 1",
        "SELECT count(*) FROM event WHERE state = 2",
        "SELECT count(*) FROM event WHERE state = 3",
        "SELECT count(*) FROM conflict",
        "SELECT count(*) FROM proxy_mark",
        "SELECT count(*) FROM event WHERE event_key IS NOT NULL",
        "SELECT count(*) FROM event WHERE possible_duplicate_of IS NOT NULL",
    ] {
        assert_eq!(today.number(count), kept.number(count), "{count}");
        assert!(kept.number(count) > 0, "{count}");
    }
    assert_eq!(
        schema(&today.sql()),
        schema(&kept.sql()),
        "the tables changed without a new format"
    );
}

/// But for what a close adds, which no build needs, and older ones do not look at.
fn schema(sql: &Connection) -> Vec<String> {
    let mut select = sql
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'kept_keys' ORDER BY name")
        .unwrap();
    let tables = select.query_map([], |row| row.get(0));
    tables.unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_as_it_was() {
    let (_, text) = FIXTURES.last().unwrap();
    let store = Store::of(text);
    store
        .sql()
        .execute("UPDATE meta SET value = 99 WHERE name = 'format'", [])
        .unwrap();
    let before = contents(&store.path());
    let app = App::with(|_| Reply::Status(200));
    let config = config(&store.path(), app.address(), false);
    let ended = Launch::new(&config).try_start().expect_err("refused");
    assert_eq!(
        ended.status.and_then(|status| status.code()),
        Some(1),
        "{}",
        ended.log
    );
    assert!(
        ended.log.contains("format 99") && ended.log.contains("newer hooklatch"),
        "{}",
        ended.log
    );
    assert_eq!(contents(&store.path()), before);
    assert!(app.requests().is_empty());
}

/// The database and its log.
fn contents(folder: &Path) -> Vec<Vec<u8>> {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
    vec![read("inbox.db"), read("inbox.db-wal")]
}
