//! Delivery under faults: what clients can see of a run is written down as a history, and a checker judges it.
//!
//! - `history` is what was seen, `checker` decides whether it keeps the promises. Both are pure, and tested by
//!   themselves.
//! - `recorder` writes it, `listeners` and `talkers` are the clients, `cluster` is all that they need, `faults` is what is
//!   done to it.
//! - `runs` has a test for each fault; `soak` and `healing` run when they are asked for: see docs/operations.md.
//!
//! Pauses are faults of a certain length or a client's own pace, never a wait for something to have happened.

mod checker;
mod cluster;
mod faults;
mod healing;
mod history;
mod listeners;
mod recorder;
mod runs;
mod soak;
mod talkers;
