//! The admin API and the probe listener over real sockets.

#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use hooklatch::admin::{self, AdminError, Settings, State};
use hooklatch::cli::health;
use hooklatch::clock::{Clock, SystemClock};
use hooklatch::event::{ProviderName, RouteName, SecretName, Seq};
use hooklatch::inbox::{Health, InboxError, Selection, Status};
use hooklatch::secret::SecretText;
use hooklatch::shutdown::{self, Phase};
use hooklatch::telemetry::Telemetry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use rig::{HOUR_MILLIS, WAIT_MAX, call, get, rig, rig_with, send};

const TOKEN: &str = "canary-admin-token";

#[tokio::test]
async fn each_route_answers_with_the_token_and_refuses_without() {
    let mut rig = rig(Some(TOKEN)).await;
    let reloader = tokio::spawn(async move {
        while let Some(answer) = rig.reloads.recv().await {
            answer.send(Ok(())).unwrap();
        }
    });
    for (method, path, none, wrong, right) in [
        ("GET", "/livez", 200, 200, 200),
        ("GET", "/readyz", 200, 200, 200),
        ("GET", "/-/live", 200, 200, 200),
        ("GET", "/-/ready", 200, 200, 200),
        ("HEAD", "/livez", 200, 200, 200),
        ("POST", "/livez", 405, 405, 405),
        ("GET", "/metrics", 401, 401, 200),
        ("POST", "/metrics", 401, 401, 405),
        ("GET", "/-/secrets", 401, 401, 200),
        ("GET", "/-/secrets?quiet_secs=60", 401, 401, 200),
        ("POST", "/-/secrets", 401, 401, 405),
        ("POST", "/-/replay", 401, 401, 200),
        ("GET", "/-/replay", 401, 401, 405),
        ("PUT", "/-/replay", 401, 401, 405),
        ("POST", "/-/reload", 401, 401, 200),
        ("GET", "/-/reload", 401, 401, 405),
        ("GET", "/", 401, 401, 404),
        ("GET", "/livez/", 401, 401, 404),
        ("POST", "/-/replay/", 401, 401, 404),
        ("GET", "/readyz/../metrics", 401, 401, 404),
    ] {
        for (token, want) in [(None, none), (Some("canary-wrong"), wrong), (Some(TOKEN), right)] {
            let answer = call(rig.admin, method, path, token, "{}").await;
            assert_eq!(answer.status, want, "{method} {path} {token:?}: {answer:?}");
            assert!(
                !answer.head.contains("canary") && !answer.body.contains("canary"),
                "{answer:?}"
            );
            assert!(answer.has("cache-control: no-store"), "{answer:?}");
            if want == 401 {
                assert!(answer.has("www-authenticate: Bearer"), "{answer:?}");
            }
            if want == 405 {
                let allow = if path.starts_with("/-/re") && path != "/-/ready" {
                    "POST"
                } else {
                    "GET,HEAD"
                };
                assert!(answer.has(&format!("allow: {allow}")), "{answer:?}");
            }
            if want >= 400 {
                let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                assert!(body["error"].is_string(), "{answer:?}");
                assert!(answer.has("content-type: application/json"), "{answer:?}");
            }
        }
    }
    reloader.abort();
}

#[tokio::test]
async fn without_a_token_this_machine_may_do_all_and_no_page_anything() {
    let rig = rig(None).await;
    let raw =
        |line: &str, headers: &str| format!("{line} HTTP/1.1\r\n{headers}Content-Length: 2\r\n\r\n{{}}");
    for (name, line, headers, want) in [
        ("a tool", "POST /-/replay", "Host: localhost\r\n", 200),
        (
            "a page",
            "POST /-/replay",
            "Host: localhost\r\nOrigin: https://page.example\r\n",
            403,
        ),
        (
            "a page's form",
            "POST /-/replay",
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
            403,
        ),
        ("a rebound page", "POST /-/replay", "Host: page.example\r\n", 403),
        (
            "a rebound page reading",
            "GET /metrics",
            "Host: page.example\r\n",
            403,
        ),
        ("a probe by name", "GET /readyz", "Host: hooklatch.svc\r\n", 200),
    ] {
        let answer = send(rig.admin, raw(line, headers).as_bytes()).await;
        assert_eq!(answer.status, want, "{name}: {answer:?}");
    }
    assert_eq!(rig.inbox.selections.lock().unwrap().len(), 1, "only the tool's");
    let metrics = get(rig.admin, "/metrics").await.body;
    for line in [
        "hooklatch_replayed_deliveries_total 3",
        "hooklatch_admin_refused_total{reason=\"browser\"} 2",
        "hooklatch_admin_refused_total{reason=\"host\"} 2",
    ] {
        assert!(
            metrics.lines().any(|got| got == line),
            "{line} is missing in\n{metrics}"
        );
    }
}

#[tokio::test]
async fn the_probe_has_health_and_metrics_only() {
    let rig = rig(Some(TOKEN)).await;
    for (method, path, want) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("POST", "/-/replay", 404),
        ("POST", "/-/reload", 404),
        ("POST", "/metrics", 405),
    ] {
        let answer = call(rig.probe, method, path, Some(TOKEN), "{}").await;
        assert_eq!(answer.status, want, "{method} {path}: {answer:?}");
    }
    assert!(rig.inbox.selections.lock().unwrap().is_empty());
}

#[tokio::test]
async fn readiness_follows_phase_and_store() {
    let rig = rig(None).await;
    let told = rig.inbox.clone();
    for (health, status, store) in [
        (Health::Accepting, 200, "accepting"),
        (Health::Full, 200, "full"),
        (Health::Failed("canary-path".into()), 503, "failed"),
    ] {
        *told.health.lock().unwrap() = health;
        let answer = get(rig.probe, "/readyz").await;
        let ready = status == 200;
        let want = format!("{{\"ready\":{ready},\"phase\":\"running\",\"store\":\"{store}\"}}");
        assert_eq!((answer.status, answer.body), (status, want));
        assert_eq!(get(rig.admin, "/livez").await.status, 200, "{store}");
    }
    *told.health.lock().unwrap() = Health::Accepting;
    for (phase, word) in [(Phase::Draining, "draining"), (Phase::Closing, "closing")] {
        rig.controller.enter(phase);
        for to in [rig.admin, rig.probe] {
            let answer = get(to, "/readyz").await;
            assert_eq!(answer.status, 503, "{word}");
            assert!(answer.body.contains(word), "{answer:?}");
            assert_eq!(get(to, "/livez").await.status, 200, "{word}");
        }
    }
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_it_runs_and_needs_no_store() {
    let listeners = admin::bind(&Settings {
        listen: None,
        token: None,
        probe: Some("127.0.0.1:0".parse().unwrap()),
    })
    .await
    .unwrap();
    assert_eq!(listeners.admin_addr(), None);
    let probe = listeners.probe_addr().unwrap();
    let (controller, watch) = shutdown::channel();
    let (reload, _reloads) = mpsc::channel(1);
    let state = State {
        inbox: None,
        telemetry: Telemetry::new(),
        clock: Arc::new(SystemClock),
        secrets: watch::channel(Vec::new()).1,
        shutdown: watch,
        reload,
        capture: mpsc::channel(1).0,
    };
    let served = tokio::spawn(admin::serve(listeners, state, std::future::pending()));
    let answer = get(probe, "/readyz").await;
    assert_eq!(
        (answer.status, answer.body.contains("starting")),
        (503, true),
        "{answer:?}"
    );
    controller.enter(Phase::Running);
    let answer = get(probe, "/readyz").await;
    assert_eq!(
        (answer.status, answer.body.contains("none")),
        (200, true),
        "{answer:?}"
    );
    served.abort();
}

#[tokio::test]
async fn metrics_are_openmetrics_with_the_inbox_in_them() {
    let rig = rig(None).await;
    let answer = get(rig.admin, "/metrics").await;
    assert!(
        answer.has("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{answer:?}"
    );
    assert!(
        answer
            .body
            .contains("hooklatch_pending_deliveries{route=\"hooks\",upstream=\"app\"} 5\n")
    );
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_replay_is_what_was_asked_or_nothing() {
    let rig = rig(None).await;
    let body = r#"{"route":"hooks","status":"dead","dry_run":true}"#;
    let answer = call(rig.admin, "POST", "/-/replay", None, body).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (200, r#"{"deliveries":3,"skipped":1}"#)
    );
    let want = Selection {
        route: Some(RouteName::new("hooks")),
        status: Some(Status::Dead),
        dry_run: true,
        ..Selection::default()
    };
    assert_eq!(std::mem::take(&mut *rig.inbox.selections.lock().unwrap()), [want]);

    let large = format!("{{\"events\":[{}1]}}", "1,".repeat(40_000));
    for (name, body, want) in [
        ("no body", "", 400),
        ("not JSON", "replay", 400),
        ("an unknown field", r#"{"routes":"hooks"}"#, 400),
        ("over the cap", &large, 413),
    ] {
        let answer = call(rig.admin, "POST", "/-/replay", None, body).await;
        assert_eq!(answer.status, want, "{name}: {answer:?}");
    }
    assert!(
        rig.inbox.selections.lock().unwrap().is_empty(),
        "nothing was replayed"
    );

    for error in [
        InboxError::Busy,
        InboxError::Full,
        InboxError::Failed("canary".into()),
        InboxError::Closed,
    ] {
        *rig.inbox.replay.lock().unwrap() = Err(error.clone());
        let answer = call(rig.admin, "POST", "/-/replay", None, r#"{"events":[1]}"#).await;
        assert_eq!(answer.status, 503, "{error}");
        assert!(!answer.body.contains("canary"), "{answer:?}");
    }
    assert_eq!(rig.inbox.selections.lock().unwrap()[0].events, [Seq(1)]);
}

#[tokio::test]
async fn a_gateway_without_a_store_has_nothing_to_replay() {
    let rig = rig_with(None, false).await;
    let answer = call(rig.admin, "POST", "/-/replay", None, "{}").await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(get(rig.admin, "/metrics").await.status, 200);
}

#[tokio::test]
async fn a_reload_tells_its_end() {
    let mut rig = rig(None).await;
    for (told, status, body) in [
        (Ok(()), 200, r#"{"reloaded":true}"#),
        (
            Err("hooklatch.toml:9:1 unknown key \"upstrem\"".to_owned()),
            422,
            r#"{"error":"hooklatch.toml:9:1 unknown key \"upstrem\""}"#,
        ),
    ] {
        let asked = tokio::spawn(async move { call(rig.admin, "POST", "/-/reload", None, "").await });
        rig.reloads.recv().await.unwrap().send(told).unwrap();
        let answer = asked.await.unwrap();
        assert_eq!((answer.status, &*answer.body), (status, body));
    }
    // The first waits in the channel, the second finds it full.
    let waiting = tokio::spawn(async move { call(rig.admin, "POST", "/-/reload", None, "").await });
    while rig.reloads.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(call(rig.admin, "POST", "/-/reload", None, "").await.status, 503);
    drop(rig.reloads);
    assert_eq!(waiting.await.unwrap().status, 503, "nobody reloads any more");
}

#[tokio::test]
async fn a_listener_that_others_reach_demands_a_token() {
    let settings = |listen: &str, token: Option<&str>| Settings {
        listen: Some(listen.parse().unwrap()),
        token: token.map(|text| SecretText::new(text.as_bytes().to_vec())),
        probe: None,
    };
    let error = admin::bind(&settings("0.0.0.0:0", None)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "admin listens on 0.0.0.0:0, which is not loopback: set a token, or listen on 127.0.0.1"
    );
    let error = admin::bind(&settings("127.0.0.1:0", Some(""))).await.unwrap_err();
    assert!(matches!(error, AdminError::TokenEmpty), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let error = admin::bind(&settings(&listen, None)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("admin cannot listen on {listen}: ")),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_or_slow_client_is_cut_off_and_health_still_answers() {
    let rig = rig(None).await;
    let mut silent = Vec::new();
    // More than there are places for.
    for _ in 0..100 {
        let mut stream = TcpStream::connect(rig.admin).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        silent.push(stream);
    }
    assert_eq!(get(rig.admin, "/livez").await.status, 200);
    let mut rest = Vec::new();
    let cut = timeout(WAIT_MAX, silent[0].read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "still open");
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
}

#[tokio::test]
async fn it_ends_when_told_also_with_clients_that_hang_on() {
    let rig = rig(None).await;
    let _idle = TcpStream::connect(rig.admin).await.unwrap();
    assert_eq!(get(rig.admin, "/livez").await.status, 200);
    rig.close.send(()).unwrap();
    timeout(WAIT_MAX, rig.served).await.unwrap().unwrap();
    let again = TcpStream::connect(rig.admin).await;
    assert!(again.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_request_under_way_gets_its_answer_when_the_listener_closes() {
    let mut rig = rig(None).await;
    let asked = tokio::spawn(async move { call(rig.admin, "POST", "/-/reload", None, "").await });
    let answer = rig.reloads.recv().await.unwrap();
    rig.close.send(()).unwrap();
    while TcpStream::connect(rig.admin).await.is_ok() {
        tokio::task::yield_now().await;
    }
    answer.send(Ok(())).unwrap();
    assert_eq!(asked.await.unwrap().status, 200);
    timeout(WAIT_MAX, rig.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_listener_it_waits_for_its_end() {
    let settings = Settings {
        listen: None,
        token: None,
        probe: None,
    };
    let listeners = admin::bind(&settings).await.unwrap();
    let (_controller, shutdown) = shutdown::channel();
    let (reload, _reloads) = mpsc::channel(1);
    let state = State {
        inbox: None,
        telemetry: Telemetry::new(),
        clock: Arc::new(SystemClock),
        secrets: watch::channel(Vec::new()).1,
        shutdown,
        reload,
        capture: mpsc::channel(1).0,
    };
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let mut served = tokio::spawn(admin::serve(listeners, state, async move { drop(closed.await) }));
    assert!(
        timeout(Duration::from_millis(50), &mut served).await.is_err(),
        "not told yet"
    );
    drop(close);
    timeout(WAIT_MAX, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_health_verb_asks_and_tells() {
    let rig = rig(Some(TOKEN)).await;
    let check = async |url: String, live: bool| {
        let args = health::Args {
            url: Some(url),
            timeout: Duration::from_secs(5),
            live,
        };
        tokio::task::spawn_blocking(move || health::check(&args))
            .await
            .unwrap()
    };
    let url = format!("http://{}", rig.admin);
    assert_eq!(check(url.clone(), false).await, Ok("ready".to_owned()));
    assert_eq!(check(url.clone(), true).await, Ok("live".to_owned()));
    rig.controller.enter(Phase::Draining);
    let told = check(url.clone(), false).await.unwrap_err();
    assert!(told.starts_with("not ready: 503 {\"ready\":false"), "{told}");
    assert_eq!(check(url.clone(), true).await, Ok("live".to_owned()));
    rig.close.send(()).unwrap();
    rig.served.await.unwrap();
    let told = check(url, false).await.unwrap_err();
    assert!(told.starts_with("cannot reach 127.0.0.1:"), "{told}");
}

#[test]
fn the_health_verb_does_not_wait_for_ever() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let args = health::Args {
        url: Some(format!("http://{}", silent.local_addr().unwrap())),
        timeout: Duration::from_millis(100),
        live: false,
    };
    let told = health::check(&args).unwrap_err();
    assert!(told.contains("does not answer"), "{told}");
}

#[tokio::test]
async fn secrets_are_told_by_name_use_and_time() {
    let rig = rig(None).await;
    let meter = rig
        .telemetry
        .route(&RouteName::new("hooks"), &ProviderName::new("quantiv"));
    let answer = |path: &'static str| async move {
        let answer = get(rig.admin, path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()
    };
    meter.secret_matched(&SecretName::new("old"), rig.clock.now());
    rig.clock.advance(HOUR_MILLIS);
    meter.secret_matched(&SecretName::new("new"), rig.clock.now());
    meter.secret_matched(&SecretName::new("new"), rig.clock.now());
    rig.clock.advance(180_000);
    let report = answer("/-/secrets").await;
    let expected = serde_json::json!({
        "now": "2026-11-21T01:03:00.000Z",
        "quiet_secs": 259_200,
        "routes": [
            { "route": "hooks", "provider": "quantiv", "secrets": [
                {
                    "name": "new", "matches": 2, "last_used": "2026-11-21T01:00:00.000Z",
                    "counted_since": "2026-11-16T20:00:00.000Z", "until": null, "state": "active",
                    "can_go": false, "advice": "used 3 min ago: it must stay",
                },
                {
                    "name": "old", "matches": 1, "last_used": "2026-11-21T00:00:00.000Z",
                    "counted_since": "2026-11-16T20:00:00.000Z", "until": "2026-11-22T00:00:00.000Z",
                    "state": "expires", "can_go": false, "advice": "still used 1 h ago: it must stay",
                },
            ] },
            { "route": "open", "provider": "quantiv", "secrets": [] },
        ],
    });
    assert_eq!(report, expected, "{report:#}");
    // Less patience.
    let report = answer("/-/secrets?quiet_secs=3600").await;
    let old = &report["routes"][0]["secrets"][1];
    assert_eq!(old["can_go"], true);
    assert_eq!(
        old["advice"],
        "no request has used it since 2026-11-21T00:00:00.000Z, and new was used 3 min ago: it can go"
    );
    rig.clock.advance(24 * HOUR_MILLIS);
    let report = answer("/-/secrets").await;
    let old = &report["routes"][0]["secrets"][1];
    assert_eq!((&old["state"], &old["can_go"]), (&"expired".into(), &true.into()));
    for wrong in ["quiet_secs=soon", "quiet_secs=-1", "quiet=1"] {
        let answer = get(rig.admin, &format!("/-/secrets?{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
    assert_eq!(get(rig.probe, "/-/secrets").await.status, 404);
}
