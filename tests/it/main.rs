//! Tests from outside: real sockets, real processes, a real Redis, a real browser.
//!
//! - What a test starts it stops, also when it fails; ports are given out by the system.
//! - Nothing waits for the clock: a condition is awaited with a deadline ([`support::eventually`]).
//! - A missing redis-server or browser fails a test and never skips it.
//! - They send signals to processes, so they run on Unix alone.
#![cfg(unix)]

mod api;
mod brokers;
mod browser;
mod delivery;
mod echo;
mod framing;
mod hostile;
mod log;
mod metrics;
mod nodes;
mod package;
mod presence;
mod program;
mod slow;
mod stopping;
mod support;
mod tidy;
mod tokens;
mod wire;
