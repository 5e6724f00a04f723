//! How many connections the system's limit of open files allows: what senders take must leave enough for the rest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::receive::settings::{Limits, Mode};

/// Store, log, listeners, runtimes, admin API, connections that are being refused or sent away.
const OURS: usize = 256;

/// Raises the limit of open files as far as the system lets us.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The limits of the configuration, with no more connections than there are descriptors for.
pub(super) fn fit(config: &Config) -> Limits {
    let mut limits = config.limits.clone();
    let open_files = getrlimit(Resource::Nofile)
        .current
        .and_then(|files| usize::try_from(files).ok())
        .unwrap_or(usize::MAX);
    let attempts = config.lanes.iter().map(|lane| lane.concurrency).sum();
    let proxies = config
        .routes
        .routes
        .iter()
        .any(|route| matches!(route.mode, Mode::Proxy(_)));
    let connections = affordable(open_files, attempts, proxies);
    if connections < limits.connections {
        tracing::warn!(
            open_files,
            configured = limits.connections,
            connections,
            "fewer connections than configured: raise the limit of open files (ulimit -n, LimitNOFILE)"
        );
        limits.connections = connections;
    }
    limits
}

/// Connections that leave enough descriptors for us and for attempts. A proxied request takes one more, for its upstream.
fn affordable(open_files: usize, attempts: usize, proxies: bool) -> usize {
    let rest = OURS.saturating_add(attempts).min(open_files / 2);
    let each = if proxies { 2 } else { 1 };
    ((open_files - rest) / each).max(1)
}

#[cfg(test)]
mod tests {
    use super::affordable;

    #[test]
    fn senders_never_take_all_descriptors() {
        for (name, open_files, attempts, proxies, connections) in [
            ("plenty", 1_048_576, 32, false, 1_048_288),
            ("no limit", usize::MAX, 32, false, usize::MAX - 288),
            ("the usual soft limit", 1024, 32, false, 736),
            ("each with a descriptor to the upstream", 1024, 0, true, 384),
            ("few: half of them", 256, 32, false, 128),
            ("many attempts: half of them", 20_000, 50_000, false, 10_000),
            ("hardly any", 3, 0, true, 1),
        ] {
            assert_eq!(affordable(open_files, attempts, proxies), connections, "{name}");
        }
    }
}
