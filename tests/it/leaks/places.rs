//! Every canary of a tour, and where it may show.

/// Where something was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Metrics,
    Admin,
    /// To senders.
    Answer,
    Cli,
    /// `events list` and `show`.
    Events,
    /// `events show --body`.
    EventsBody,
    Store,
    /// What other processes see of the process.
    Process,
    /// What the app was handed.
    App,
}

/// Where a canary must show and where it may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    must: &'static [Kind],
    may: &'static [Kind],
}

impl Places {
    pub(super) fn contains(&self, kind: Kind) -> bool {
        self.must.contains(&kind) || self.may.contains(&kind)
    }

    pub(super) fn certain(&self) -> &'static [Kind] {
        self.must
    }
}

pub(super) const NOWHERE: Places = Places { must: &[], may: &[] };
const APP: Places = Places {
    must: &[Kind::App],
    may: &[],
};
const KEPT: Places = Places {
    must: &[Kind::App, Kind::Store],
    may: &[],
};
const BODY: Places = Places {
    must: &[Kind::App, Kind::Store, Kind::EventsBody],
    may: &[],
};

/// Every canary of a tour by its name, and where it may show.
pub(super) const CANARIES: [(&str, Places); 33] = [
    ("secret by value", NOWHERE),
    ("secret by file", NOWHERE),
    ("secret by variable", NOWHERE),
    ("unused secret", NOWHERE),
    ("admin token", NOWHERE),
    ("wrong admin token", NOWHERE),
    ("secret of a forger", NOWHERE),
    (
        "wrong word of an operator",
        Places {
            must: &[Kind::Admin],
            may: &[],
        },
    ),
    ("static header", APP),
    ("body", BODY),
    (
        "id",
        Places {
            must: &[Kind::App, Kind::Store, Kind::EventsBody, Kind::Events, Kind::Log],
            may: &[],
        },
    ),
    (
        "type",
        Places {
            must: &[Kind::App, Kind::Store, Kind::EventsBody, Kind::Events],
            may: &[],
        },
    ),
    ("header of a sender", KEPT),
    ("query", KEPT),
    (
        "conflicting body",
        Places {
            must: &[Kind::App, Kind::Store],
            may: &[Kind::EventsBody],
        },
    ),
    ("dead body", BODY),
    ("body without a check", BODY),
    ("relayed body", APP),
    (
        "relayed id",
        Places {
            must: &[Kind::App, Kind::Log],
            may: &[],
        },
    ),
    (
        "relayed answer",
        Places {
            must: &[Kind::Answer],
            may: &[],
        },
    ),
    ("body that was not relayed", APP),
    ("words of a refusing app", NOWHERE),
    ("header of a refusing app", NOWHERE),
    ("forged body", NOWHERE),
    ("forged id", NOWHERE),
    ("forged signature", NOWHERE),
    ("header of a forger", NOWHERE),
    ("query of a forger", NOWHERE),
    ("unknown path", NOWHERE),
    ("malformed head", NOWHERE),
    ("header over the limit", NOWHERE),
    ("body over the limit", NOWHERE),
    ("damaged store", NOWHERE),
];
