//! Hostile HTTP and JSON: nothing that is forged or can be read in two ways gets past the gateway.
//!
//! What must come of each case is written beside it, from the design's table of answers and the RFCs, and an upstream
//! that takes nothing but well-formed requests stands behind both a queue and a proxy route.

mod case;
mod rig;
mod upstream;

mod chunks;
mod controls;
mod forgeries;
mod forgery;
mod framing;
mod heads;
mod hosts;
mod id_cases;
mod ids;
mod json_suite;
mod lengths;
mod paths;
mod pipelines;
mod signatures;
mod snippets;
mod timing;
