//! What is counted and what is written, seen from outside.

use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::clock::ManualClock;
use crate::event::{SecretName, Timestamp, UpstreamName};
use crate::inbox::TargetCounts;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines `act` writes, in JSON.
fn lines_of(act: impl FnOnce()) -> Vec<Value> {
    written(true, act)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn written(json: bool, act: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::registry().with(log::layer(move || writer.clone(), json, false));
    tracing::subscriber::with_default(subscriber, act);
    String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
}

/// When all that ends here ends.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn stopped() -> (Telemetry, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp(1_795_223_700_123)));
    (Telemetry::with_clock(clock.clone()), clock)
}

fn route(telemetry: &Telemetry) -> RouteMeter {
    telemetry.route(&RouteName::new("hooks"), &ProviderName::new("quantiv"))
}

fn target() -> Target {
    Target {
        route: RouteName::new("hooks"),
        upstream: UpstreamName::new("app"),
    }
}

fn request(result: RequestResult) -> RequestEnd<'static> {
    RequestEnd {
        result,
        status: 200,
        reason: None,
        event_id: Some("evt_1"),
        seq: Some(Seq(7)),
        body_bytes: 512,
        client: CLIENT,
        elapsed: Duration::from_micros(1500),
        at: *START,
    }
}

fn attempt(result: AttemptResult) -> AttemptEnd<'static> {
    AttemptEnd {
        result,
        status: Some(503),
        error: Some("status 503"),
        event_id: Some("evt_1"),
        seq: Seq(7),
        attempt: 2,
        body_bytes: 512,
        elapsed: Duration::from_millis(8),
        at: *START,
        lag: None,
        next_wait: Some(Duration::from_secs(2)),
    }
}

fn without_time(mut line: Value) -> Value {
    let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
    let time = time.as_str().unwrap();
    assert_eq!(time.len(), "2026-11-21T01:15:00.123Z".len(), "{time}");
    assert!(time.ends_with('Z'), "{time}");
    line
}

#[test]
fn each_secret_of_each_route_has_its_own_last_use() {
    let (telemetry, clock) = stopped();
    let (new, old) = (SecretName::new("new"), SecretName::new("old"));
    let route = route(&telemetry);
    let other = telemetry.route(&RouteName::new("other"), &ProviderName::new("quantiv"));
    assert_eq!(route.secret_use(&new), SecretUse::default());
    route.secret_matched(&old, clock.now());
    clock.advance(1500);
    route.secret_matched(&new, clock.now());
    route.secret_matched(&new, clock.now());
    let used = |matches, at| SecretUse {
        matches,
        last_used: Some(Timestamp(at)),
    };
    assert_eq!(route.secret_use(&old), used(1, 1_795_223_700_123));
    assert_eq!(route.secret_use(&new), used(2, 1_795_223_701_623));
    assert_eq!(other.secret_use(&new), SecretUse::default());
    // After a reload the same.
    let again = telemetry.route(&RouteName::new("hooks"), &ProviderName::new("quantiv"));
    assert_eq!(again.secret_use(&new), used(2, 1_795_223_701_623));
    // Another one under its name.
    again.secret_replaced(&new);
    assert_eq!(again.secret_use(&new), SecretUse::default());
    clock.advance(1000);
    route.secret_matched(&new, clock.now());
    assert_eq!(again.secret_use(&new), used(1, 1_795_223_702_623));
    assert_eq!(again.secret_use(&old), used(1, 1_795_223_700_123));
    assert!(
        telemetry
            .render(None)
            .contains(r#"hooklatch_secret_matches_total{route="hooks",secret="new"} 3"#)
    );
}

#[test]
fn changed_files_of_secrets_are_named() {
    let (telemetry, _) = stopped();
    let lines = lines_of(|| telemetry.secret_files_changed(&["one".to_owned(), "two".to_owned()]));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["secrets"], "one, two");
}

#[test]
fn everything_that_happens_is_counted() {
    let (telemetry, clock) = stopped();
    let route = route(&telemetry);
    let target = target();
    let meter = telemetry.target(&target);
    route.request_ended(request(RequestResult::Accepted));
    route.request_ended(request(RequestResult::BadSignature));
    telemetry.unrouted(request(RequestResult::UnknownRoute));
    route.secret_matched(&SecretName::new("new"), clock.now());
    route.secret_matched(&SecretName::new("new"), clock.now());
    route.secret_known(&SecretName::new("new"));
    route.secret_known(&SecretName::new("old"));
    route.unverified("verify_none");
    route.type_conflict();
    route.body_conflict();
    meter.attempt_ended(AttemptEnd {
        lag: Some(Duration::from_millis(20)),
        ..attempt(AttemptResult::Delivered)
    });
    meter.attempt_ended(attempt(AttemptResult::Retry));
    meter.attempt_ended(attempt(AttemptResult::Dead));
    meter.breaker(true);
    telemetry.connection_refused("connections_per_peer", CLIENT);
    telemetry.connection_evicted("connections", CLIENT);
    telemetry.committed(3, Duration::from_millis(2));
    telemetry.store_full(true);
    telemetry.store_failed("disk gone");
    telemetry.corrupt(Seq(7));
    telemetry.pruned(5);
    telemetry.panicked("receive");
    telemetry.replayed(4, 1);
    telemetry.admin_refused("token", CLIENT);
    telemetry.reloaded(Ok(1));
    telemetry.reloaded(Err("wrong"));
    clock.advance(4_000);
    let counts = Counts {
        targets: vec![(
            target,
            TargetCounts {
                pending: 11,
                dead: 2,
                oldest_pending: Some(Timestamp(1_795_223_698_123)),
                parked: true,
            },
        )],
        events: 13,
        store_bytes: 4096,
        wal_bytes: 512,
        free_bytes: u64::MAX,
        queued: 3,
    };
    let text = telemetry.render(Some(&counts));
    let of_target = "{route=\"hooks\",upstream=\"app\"}";
    for line in [
        concat!(
            "hooklatch_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "hooklatch_requests_total{route=\"hooks\",provider=\"quantiv\",result=\"accepted\"} 1",
        "hooklatch_requests_total{route=\"hooks\",provider=\"quantiv\",result=\"bad_signature\"} 1",
        "hooklatch_requests_total{route=\"hooks\",provider=\"quantiv\",result=\"duplicate\"} 0",
        "hooklatch_requests_total{route=\"\",provider=\"\",result=\"unknown_route\"} 1",
        "hooklatch_request_duration_seconds_count{route=\"hooks\"} 2",
        "hooklatch_request_duration_seconds_sum{route=\"hooks\"} 0.003",
        "hooklatch_request_duration_seconds_bucket{le=\"0.001\",route=\"hooks\"} 0",
        "hooklatch_request_duration_seconds_bucket{le=\"0.0025\",route=\"hooks\"} 2",
        "hooklatch_commit_duration_seconds_count 1",
        "hooklatch_commit_events_sum 3.0",
        "hooklatch_deliveries_total{route=\"hooks\",upstream=\"app\",result=\"delivered\"} 1",
        "hooklatch_deliveries_total{route=\"hooks\",upstream=\"app\",result=\"retry\"} 1",
        "hooklatch_deliveries_total{route=\"hooks\",upstream=\"app\",result=\"dead\"} 1",
        &format!("hooklatch_delivery_duration_seconds_count{of_target} 3"),
        &format!("hooklatch_delivery_lag_seconds_count{of_target} 1"),
        &format!("hooklatch_pending_deliveries{of_target} 11"),
        &format!("hooklatch_oldest_pending_seconds{of_target} 6"),
        &format!("hooklatch_dead_deliveries{of_target} 2"),
        &format!("hooklatch_parked{of_target} 1"),
        &format!("hooklatch_breaker_open{of_target} 1"),
        "hooklatch_store_events 13",
        "hooklatch_store_bytes 4096",
        "hooklatch_store_wal_bytes 512",
        "hooklatch_store_free_bytes 9223372036854775807",
        "hooklatch_store_queued_events 3",
        "hooklatch_store_full 1",
        "hooklatch_store_failed 1",
        "hooklatch_secret_matches_total{route=\"hooks\",secret=\"new\"} 2",
        "hooklatch_secret_last_match_timestamp_seconds{route=\"hooks\",secret=\"new\"} 1795223700",
        "hooklatch_secret_matches_total{route=\"hooks\",secret=\"old\"} 0",
        "hooklatch_secret_last_match_timestamp_seconds{route=\"hooks\",secret=\"old\"} 0",
        "hooklatch_replayed_deliveries_total 4",
        "hooklatch_admin_refused_total{reason=\"token\"} 1",
        "hooklatch_panics_raised_total 0",
        "hooklatch_unverified_total{route=\"hooks\",reason=\"verify_none\"} 1",
        "hooklatch_type_conflicts_total{route=\"hooks\"} 1",
        "hooklatch_body_conflicts_total{route=\"hooks\"} 1",
        "hooklatch_connections_refused_total{limit=\"connections_per_peer\"} 1",
        "hooklatch_connections_evicted_total{limit=\"connections\"} 1",
        "hooklatch_config_reloads_total{result=\"ok\"} 1",
        "hooklatch_config_reloads_total{result=\"refused\"} 1",
        "hooklatch_log_lines_dropped_total 0",
        "hooklatch_panics_total{place=\"receive\"} 1",
        "hooklatch_pruned_events_total 5",
        "hooklatch_corrupt_events_total 1",
    ] {
        assert!(
            text.lines().any(|got| got == line),
            "{line} is missing in\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
}

#[test]
fn a_family_is_described_once_and_a_gone_target_leaves_nothing() {
    let (telemetry, _) = stopped();
    let with = Counts {
        targets: vec![(target(), TargetCounts::default())],
        ..Counts::default()
    };
    let text = telemetry.render(Some(&with));
    assert!(text.contains("hooklatch_pending_deliveries{"));
    let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), all);
    assert!(
        !telemetry
            .render(Some(&Counts::default()))
            .contains("hooklatch_pending_deliveries{")
    );
    assert!(!telemetry.render(None).contains("hooklatch_store_bytes"));
}

#[test]
fn meters_of_one_name_count_together() {
    let (telemetry, _) = stopped();
    for _ in 0..2 {
        route(&telemetry).request_ended(request(RequestResult::Duplicate));
        telemetry
            .target(&target())
            .attempt_ended(attempt(AttemptResult::Retry));
    }
    let text = telemetry.render(None);
    assert!(text.contains("result=\"duplicate\"} 2\n"), "{text}");
    assert!(text.contains("result=\"retry\"} 2\n"), "{text}");
}

#[test]
fn lines_have_the_fixed_fields() {
    let (telemetry, _) = stopped();
    let route = route(&telemetry);
    let meter = telemetry.target(&target());
    let lines = lines_of(|| {
        route.request_ended(request(RequestResult::Accepted));
        route.request_ended(RequestEnd {
            status: 401,
            reason: Some("signature does not match"),
            event_id: None,
            seq: None,
            ..request(RequestResult::BadSignature)
        });
        route.request_ended(RequestEnd {
            reason: Some("hub.challenge"),
            event_id: None,
            seq: None,
            ..request(RequestResult::Handshake)
        });
        telemetry.unrouted(RequestEnd {
            status: 0,
            event_id: None,
            seq: None,
            ..request(RequestResult::Aborted)
        });
        meter.attempt_ended(AttemptEnd {
            status: Some(204),
            error: None,
            lag: Some(Duration::from_millis(12)),
            next_wait: None,
            ..attempt(AttemptResult::Delivered)
        });
        meter.attempt_ended(attempt(AttemptResult::Retry));
        meter.attempt_ended(AttemptEnd {
            status: None,
            event_id: None,
            next_wait: None,
            ..attempt(AttemptResult::Dead)
        });
    });
    let want = serde_json::json!([
        {"level": "INFO", "message": "webhook accepted", "route": "hooks", "provider": "quantiv",
         "outcome": "accepted", "status": 200, "event_id": "evt_1", "seq": 7, "body_bytes": 512,
         "client": "127.0.0.1", "elapsed_ms": 1.5},
        {"level": "WARN", "message": "webhook refused", "route": "hooks", "provider": "quantiv",
         "outcome": "bad_signature", "status": 401, "error": "signature does not match", "body_bytes": 512,
         "client": "127.0.0.1", "elapsed_ms": 1.5},
        {"level": "INFO", "message": "handshake answered", "route": "hooks", "provider": "quantiv",
         "outcome": "handshake", "status": 200, "handshake": "hub.challenge", "body_bytes": 512,
         "client": "127.0.0.1", "elapsed_ms": 1.5},
        {"level": "WARN", "message": "sender hung up", "outcome": "aborted", "body_bytes": 512,
         "client": "127.0.0.1", "elapsed_ms": 1.5},
        {"level": "INFO", "message": "event delivered", "route": "hooks", "upstream": "app",
         "outcome": "delivered", "status": 204, "event_id": "evt_1", "seq": 7, "attempt": 2, "body_bytes": 512,
         "elapsed_ms": 8.0, "lag_ms": 12.0},
        {"level": "WARN", "message": "attempt failed", "route": "hooks", "upstream": "app", "outcome": "retry",
         "status": 503, "error": "status 503", "event_id": "evt_1", "seq": 7, "attempt": 2, "body_bytes": 512,
         "elapsed_ms": 8.0, "next_wait_ms": 2000.0},
        {"level": "ERROR", "message": "delivery given up, replay it once the upstream takes it", "route": "hooks",
         "upstream": "app", "outcome": "dead", "error": "status 503", "seq": 7, "attempt": 2, "body_bytes": 512,
         "elapsed_ms": 8.0},
    ]);
    let got: Vec<_> = lines.into_iter().map(without_time).collect();
    assert_eq!(Value::from(got), want);
}

#[test]
fn a_flood_of_refusals_is_ten_lines_and_a_summary() {
    let (telemetry, _) = stopped();
    let route = route(&telemetry);
    let lines = lines_of(|| {
        for _ in 0..1000 {
            route.request_ended(request(RequestResult::BadSignature));
            telemetry.unrouted(request(RequestResult::UnknownRoute));
            telemetry.connection_refused("connections", CLIENT);
        }
        telemetry.flush_summaries();
        telemetry.flush_summaries();
    });
    let count = |message: &str, outcome: Option<&str>| {
        lines
            .iter()
            .filter(|line| line["message"] == message && outcome.is_none_or(|text| line["outcome"] == text))
            .count()
    };
    assert_eq!(count("webhook refused", Some("bad_signature")), 10);
    assert_eq!(count("webhook refused", Some("unknown_route")), 10);
    assert_eq!(count("connection refused", None), 10);
    let summaries: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "lines held back")
        .collect();
    assert_eq!(summaries.len(), 3, "{summaries:?}");
    assert!(summaries.iter().all(|line| line["lines"] == 990), "{summaries:?}");
    let next = lines_of(|| {
        route.request_ended(RequestEnd {
            at: *START + Duration::from_secs(3600),
            ..request(RequestResult::BadSignature)
        });
    });
    assert_eq!(next.len(), 1, "the next second has room again");
    assert!(
        telemetry
            .render(None)
            .contains("result=\"bad_signature\"} 1001\n")
    );
}

#[test]
fn what_goes_well_is_bounded_too() {
    let (telemetry, _) = stopped();
    telemetry.set_lines_per_second(20);
    let route = route(&telemetry);
    let meter = telemetry.target(&target());
    let lines = lines_of(|| {
        for _ in 0..50 {
            route.request_ended(request(RequestResult::Accepted));
            route.request_ended(request(RequestResult::Duplicate));
            meter.attempt_ended(attempt(AttemptResult::Delivered));
        }
        telemetry.flush_summaries();
    });
    assert_eq!(lines.len(), 20 + 20 + 2);
    let held_back: Vec<_> = lines.iter().filter_map(|line| line["lines"].as_u64()).collect();
    assert_eq!(held_back, [80, 30]);
    assert!(
        lines.iter().all(|line| line["level"] == "INFO"),
        "nothing to worry about"
    );
}

#[test]
fn dead_letters_are_bounded_and_counted() {
    let (telemetry, _) = stopped();
    let meter = telemetry.target(&target());
    let lines = lines_of(|| {
        for _ in 0..30 {
            meter.attempt_ended(attempt(AttemptResult::Dead));
            meter.attempt_ended(attempt(AttemptResult::Retry));
        }
        telemetry.flush_summaries();
    });
    assert_eq!(lines.iter().filter(|line| line["level"] == "ERROR").count(), 10);
    assert_eq!(lines.len(), 10 + 10 + 2);
}

#[test]
fn changes_are_told_once() {
    let (telemetry, _) = stopped();
    let meter = telemetry.target(&target());
    let lines = lines_of(|| {
        for state in [false, true, true, false, false] {
            meter.breaker(state);
            telemetry.store_full(state);
        }
    });
    let levels: Vec<_> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["WARN", "ERROR", "INFO", "INFO"]);
}

#[test]
fn hostile_text_stays_on_its_line() {
    let (telemetry, _) = stopped();
    let route = route(&telemetry);
    let long = "x".repeat(100_000);
    let text = written(false, || {
        route.request_ended(RequestEnd {
            event_id: Some("a\n2026-11-21T01:15:00.123Z ERROR forged\u{1b}[2J"),
            ..request(RequestResult::Accepted)
        });
        route.request_ended(RequestEnd {
            event_id: Some(&long),
            reason: Some(&long),
            ..request(RequestResult::Malformed)
        });
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(text.len() < 1000, "{}", text.len());
}

#[test]
fn a_panic_shows_its_place_and_not_its_words() {
    let (telemetry, _) = stopped();
    let before = std::panic::take_hook();
    log::watch_panics(&telemetry);
    let text = written(true, || {
        let caught = std::panic::catch_unwind(|| panic!("canary-payload"));
        assert!(caught.is_err());
    });
    std::panic::set_hook(before);
    assert!(!text.contains("canary"), "{text}");
    assert!(text.contains("tests.rs"), "{text}");
    assert!(
        telemetry
            .render(None)
            .contains("hooklatch_panics_raised_total 1\n")
    );
}
