//! One gateway with many routes, and what can be read from it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::event::SECRET;
use crate::support::{Connection, Gateway, Launch, PATIENCE, Response, wait_for};

/// What stands in front of the routes. The senders all come from one address.
const TOP: &str = r#"
listen = "127.0.0.1:0"
drain_delay = "0s"
limits = { connections_per_peer = 10000, bytes_in_flight = "512MiB", answer_timeout = "15s" }

[store]
path = "{dir}/store"
allow_ephemeral = true
# The machine may be busy with other tests.
accept_wait = "10s"

[admin]
listen = "127.0.0.1:0"

[log]
format = "json"
lines_per_second = 100000

[secrets]
"#;

/// A route at `/{name}`.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) url: String,
    /// More lines of the route.
    pub(super) route: String,
    /// More keys of the upstream's table, each with a comma behind.
    pub(super) upstream: String,
}

impl Route {
    /// In `queue` mode; retries follow soon.
    pub(super) fn queue(name: &str, upstream: SocketAddr, keys: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: format!("http://{upstream}/in"),
            route: String::new(),
            upstream: format!("retry = {{ first = \"20ms\", max = \"200ms\" }}, {keys}"),
        }
    }

    /// In `proxy` mode.
    pub(super) fn proxy(name: &str, upstream: SocketAddr, keys: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: format!("http://{upstream}/in"),
            route: "mode = \"proxy\"\n".to_owned(),
            upstream: keys.to_owned(),
        }
    }

    pub(super) fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

pub(super) fn config(routes: &[Route]) -> String {
    let mut text = format!("{TOP}quantiv = {{ value = \"{SECRET}\" }}\n");
    for Route {
        name,
        url,
        route,
        upstream,
    } in routes
    {
        text.push_str(&format!(
            "[[route]]\npath = \"/{name}\"\nprovider = \"quantiv\"\nsecrets = [\"quantiv\"]\nmax_body = \
             \"8MiB\"\n{route}upstream = {{ {upstream} url = \"{url}\" }}\n"
        ));
    }
    text
}

pub(super) fn start(routes: &[Route]) -> Gateway {
    Launch::new(&config(routes)).start()
}

pub(super) fn admin(gateway: &Gateway, method: &str, path: &str, body: &str) -> Response {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut connection = Connection::open(gateway.admin()).unwrap();
    connection.write(request.as_bytes()).unwrap();
    connection.read_response().unwrap()
}

/// The sum of a metric's samples of one route.
pub(super) fn metric(gateway: &Gateway, name: &str, route: &str, more: &str) -> u64 {
    let of_route = format!("route=\"{route}\"");
    let text = admin(gateway, "GET", "/metrics", "").text();
    let samples = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && line.contains(&of_route)
            && line.contains(more)
    });
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        .sum()
}

/// Attempts of a route that ended so: `delivered`, `retry` or `dead`.
pub(super) fn attempts(gateway: &Gateway, route: &str, result: &str) -> u64 {
    let result = format!("result=\"{result}\"");
    metric(gateway, "hooklatch_deliveries_total", route, &result)
}

/// Waits until so many attempts of a route ended so; one more than that fails the test.
pub(super) fn expect_attempts(gateway: &Gateway, route: &str, result: &str, count: usize) {
    let count = count as u64;
    let mut last = 0;
    // Upstreams run on the threads that would wait here.
    let reached = tokio::task::block_in_place(|| {
        wait_for(PATIENCE, || {
            // Each look is a whole page of metrics.
            std::thread::sleep(Duration::from_millis(20));
            last = attempts(gateway, route, result);
            (last >= count).then_some(())
        })
    });
    assert!(
        reached.is_some() && last == count,
        "{route}: {last} attempts ended as {result}, not {count}"
    );
}

/// The failed attempts of a route that the log shows, by event and with their reasons. It shows only some each second.
pub(super) fn failures(log: &str, route: &str) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["route"] == route && line["outcome"] == "retry")
        .map(|line| (text(&line, "event_id"), text(&line, "error")))
        .collect()
}

/// The most memory it ever had, in MiB.
pub(super) fn memory_peak_mib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The value below which `share` of `values` lie.
pub(super) fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}
