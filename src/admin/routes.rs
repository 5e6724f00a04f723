//! What each path answers.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::{json, refusal, refusal_with};
use super::connection::Arrival;
use super::guard::Door;
use super::secrets::{QUIET_DEFAULT, RouteSecrets, report};
use super::{CaptureRequest, State};
use crate::event::{RouteName, SecretName};
use crate::inbox::{Health, InboxError, parse_selection};
use crate::shutdown::Phase;
use crate::telemetry::{METRICS_CONTENT_TYPE, Telemetry};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// From the end of the header to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A replay or a reload takes at most this long, or its end is not waited for.
const WORK_WAIT_MAX: Duration = Duration::from_secs(30);

/// One request waits so long for a secret to be captured.
const CAPTURE_WAIT: Duration = Duration::from_secs(20);

/// The whole admin API behind `door`.
pub(super) fn admin(state: State, door: Door) -> Router {
    let routes = health_and_metrics()
        .route("/-/secrets", get(secrets))
        .route("/-/capture", post(capture))
        .route("/-/replay", post(replay))
        .route("/-/reload", post(reload));
    finish(routes, state, Some(door))
}

/// What a kubelet and Prometheus need.
pub(super) fn probe(state: State) -> Router {
    finish(health_and_metrics(), state, None)
}

fn health_and_metrics() -> Router<State> {
    Router::new()
        .route("/livez", get(live))
        .route("/-/live", get(live))
        .route("/readyz", get(ready))
        .route("/-/ready", get(ready))
        .route("/metrics", get(metrics))
}

fn finish(routes: Router<State>, state: State, door: Option<Door>) -> Router {
    let routes = routes
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no such path") });
    let routes = match door {
        Some(door) => routes.layer(from_fn_with_state((door, state.telemetry.clone()), pass)),
        None => routes,
    };
    routes.layer(from_fn(once)).with_state(state)
}

/// Every request, before anything else: one a connection, so that none holds its place for long.
async fn once(ConnectInfo(arrival): ConnectInfo<Arrival>, request: Request, next: Next) -> Response {
    arrival.announce();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn pass(
    Shared((door, telemetry)): Shared<(Door, Telemetry)>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    request: Request,
    next: Next,
) -> Response {
    match door.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            telemetry.admin_refused(refused.as_str(), arrival.client());
            refused.answer()
        }
    }
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

async fn live() -> Response {
    json(StatusCode::OK, &Live { live: true })
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    phase: &'static str,
    store: &'static str,
}

/// A full store stays ready: deliveries go on, and a balancer that turned away would not make space.
async fn ready(Shared(state): Shared<State>) -> Response {
    let phase = state.shutdown.phase();
    let (healthy, store) = match state.inbox.as_ref().map(|inbox| inbox.health()) {
        None => (true, "none"),
        Some(Health::Accepting) => (true, "accepting"),
        Some(Health::Full) => (true, "full"),
        Some(Health::Failed(_)) => (false, "failed"),
    };
    let ready = phase == Phase::Running && healthy;
    let phase = match phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Draining => "draining",
        Phase::Closing => "closing",
    };
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &Ready { ready, phase, store })
}

async fn metrics(Shared(state): Shared<State>) -> Response {
    let counts = state.inbox.as_ref().map(|inbox| inbox.counts());
    let text = state.telemetry.render(counts.as_ref());
    let content_type = (CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
    ([content_type], text).into_response()
}

/// The query of `/-/secrets`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretsQuery {
    /// A secret that matched nothing for so long can go.
    quiet_secs: Option<u64>,
}

async fn secrets(
    Shared(state): Shared<State>,
    query: Result<Query<SecretsQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "write the query like quiet_secs=86400, or leave it out",
        );
    };
    let quiet = query.quiet_secs.map_or(QUIET_DEFAULT, Duration::from_secs);
    let routes = state.secrets.borrow().clone();
    let used = |route: &RouteSecrets, secret: &SecretName| {
        state
            .telemetry
            .route(&route.route, &route.provider)
            .secret_use(secret)
    };
    json(StatusCode::OK, &report(&routes, used, quiet, state.clock.now()))
}

#[derive(Serialize)]
struct Replayed {
    deliveries: u64,
    skipped: u64,
}

async fn replay(Shared(state): Shared<State>, request: Request) -> Response {
    let Some(inbox) = &state.inbox else {
        return refusal(
            StatusCode::CONFLICT,
            "this gateway keeps no events: it has no store",
        );
    };
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let selection = match parse_selection(&body) {
        Ok(selection) => selection,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let dry_run = selection.dry_run;
    match timeout(WORK_WAIT_MAX, inbox.replay(selection)).await {
        Ok(Ok(replayed)) => {
            let (deliveries, skipped) = (replayed.deliveries, replayed.skipped);
            if !dry_run {
                state.telemetry.replayed(deliveries, skipped);
            }
            json(StatusCode::OK, &Replayed { deliveries, skipped })
        }
        Ok(Err(error)) => unavailable(match error {
            InboxError::Busy => "the store is slow, try again",
            InboxError::Full => "the store is full",
            // The reason is in the log; it may name paths.
            InboxError::Failed(_) => "the store failed",
            InboxError::Closed => "the store is closing",
        }),
        Err(_) => refusal(
            StatusCode::GATEWAY_TIMEOUT,
            "the replay takes long; it may still be applied, see the pending deliveries",
        ),
    }
}

/// The query of `/-/capture`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureQuery {
    route: String,
}

#[derive(Serialize)]
struct Captured {
    captured: bool,
}

/// Waits for a while; whoever wants to wait longer asks again.
async fn capture(
    Shared(state): Shared<State>,
    query: Result<Query<CaptureQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(CaptureQuery { route })) = query else {
        return refusal(StatusCode::BAD_REQUEST, "write the query like route=hooks/asana");
    };
    let (answer, answered) = oneshot::channel();
    let request = CaptureRequest {
        route: RouteName::new(route),
        answer,
    };
    if state.capture.try_send(request).is_err() {
        return unavailable("another capture begins, or the gateway is closing; try again");
    }
    match timeout(CAPTURE_WAIT, answered).await {
        Ok(Ok(Ok(()))) => json(StatusCode::OK, &Captured { captured: true }),
        Ok(Ok(Err(problem))) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &problem),
        Ok(Err(_)) => unavailable("another wait for this route has begun, or the gateway is closing"),
        Err(_) => json(StatusCode::OK, &Captured { captured: false }),
    }
}

#[derive(Serialize)]
struct Reloaded {
    reloaded: bool,
}

async fn reload(Shared(state): Shared<State>) -> Response {
    let (answer, answered) = oneshot::channel();
    match state.reload.try_send(answer) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return unavailable("a reload is under way, try again"),
        Err(TrySendError::Closed(_)) => return unavailable("the gateway is closing"),
    }
    match timeout(WORK_WAIT_MAX, answered).await {
        Ok(Ok(Ok(()))) => json(StatusCode::OK, &Reloaded { reloaded: true }),
        Ok(Ok(Err(problems))) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &problems),
        Ok(Err(_)) => unavailable("the gateway is closing"),
        Err(_) => refusal(
            StatusCode::GATEWAY_TIMEOUT,
            "the reload takes long; see the log for its end",
        ),
    }
}

fn unavailable(error: &str) -> Response {
    refusal_with(StatusCode::SERVICE_UNAVAILABLE, (RETRY_AFTER, "1"), error)
}

async fn read_body(body: Body) -> Result<Bytes, Response> {
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Too large is the likely reason; a body cut short has no reader left for its answer.
        Ok(Err(_)) => Err(refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is over 65536 bytes or cut short",
        )),
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")),
    }
}
