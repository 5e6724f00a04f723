//! The front door through real sockets and the real binary, in queue mode: what senders, honest or not, can do to it.

mod rig;

mod answers;
mod bodies;
mod dedup;
mod framing;
mod headers;
mod limits;
mod paths;
