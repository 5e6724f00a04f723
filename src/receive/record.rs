//! Queue mode: which upstreams want the event, then one synced commit. The 200 rests on it.

use std::sync::Arc;

use tokio::time::Instant;

use super::answer::Refusal;
use super::identify::Identified;
use super::settings::Want;
use crate::event::UpstreamName;
use crate::inbox::{Acceptance, Accepted, Inbox, NewEvent};
use crate::upstream::Timer;

/// Hands the event over to be made durable. `for_all` is what [`for_all`] makes of `wants`.
pub(super) fn record(
    inbox: &dyn Inbox,
    wants: &[Want],
    for_all: Option<&Arc<[UpstreamName]>>,
    identified: Identified,
) -> Acceptance {
    let Identified {
        event,
        dedup_key,
        key_kind,
        dedup_window,
        by_path: _,
    } = identified;
    let upstreams = match for_all {
        Some(all) => all.clone(),
        None => wanting(wants, event.event_type.as_deref()),
    };
    inbox.accept(NewEvent {
        event: Arc::new(event),
        dedup_key,
        key_kind,
        dedup_window,
        upstreams,
    })
}

/// Waits until the event is durable, or found so. A commit that does not end by `until` is answered as refused; if it
/// lands later, the sender's retry finds it and is a duplicate.
pub(super) async fn recorded(
    acceptance: Acceptance,
    until: Instant,
    timer: &mut Timer,
) -> Result<Accepted, Refusal> {
    match timer.until(until, acceptance).await {
        Ok(Ok(accepted)) => Ok(accepted),
        Ok(Err(error)) => Err(Refusal::Store(error)),
        Err(_) => Err(Refusal::StoreSlow),
    }
}

/// All upstreams, where none of them has a filter: made once, since most routes have none.
pub(super) fn for_all(wants: &[Want]) -> Option<Arc<[UpstreamName]>> {
    let unfiltered = wants.iter().all(|want| want.types.is_none());
    unfiltered.then(|| wants.iter().map(|want| want.upstream.clone()).collect())
}

/// The upstreams whose filter lets the type through; a type that cannot be read goes to all.
fn wanting(wants: &[Want], event_type: Option<&str>) -> Arc<[UpstreamName]> {
    wants
        .iter()
        .filter(|want| match (&want.types, event_type) {
            (Some(types), Some(event_type)) => types.iter().any(|pattern| matches(pattern, event_type)),
            (None, _) | (_, None) => true,
        })
        .map(|want| want.upstream.clone())
        .collect()
}

fn matches(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => event_type.starts_with(prefix),
        None => pattern == event_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_per_upstream_and_an_unreadable_type_goes_to_all() {
        let want = |name: &str, types: Option<&[&str]>| Want {
            upstream: UpstreamName::new(name),
            types: types.map(|types| types.iter().map(|text| (*text).into()).collect()),
        };
        let wants = [
            want("all", None),
            want("leads", Some(&["lead.*"])),
            want("one", Some(&["deal.won"])),
        ];
        for (event_type, expected) in [
            (Some("lead.created"), "all leads"),
            (Some("deal.won"), "all one"),
            (Some("deal.won.twice"), "all"),
            (Some("lead"), "all"),
            (None, "all leads one"),
        ] {
            let names: Vec<_> = wanting(&wants, event_type)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(names.join(" "), expected, "{event_type:?}");
        }
        assert!(for_all(&wants).is_none());
        let all = [want("a", None), want("b", None)];
        assert_eq!(for_all(&all), Some(wanting(&all, Some("deal.won"))));
        assert!(wanting(&[want("leads", Some(&["lead.*"]))], Some("deal.won")).is_empty());
    }
}
