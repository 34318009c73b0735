//! How the price of a delivery changes as there is more of everything: sessions, rooms, members, bytes.
//!
//! ```sh
//! cargo bench --bench growth -- --axis all      # all plots, in less than 15 minutes
//! cargo bench --bench growth -- --axis rooms    # or sessions, members, size: one of them
//! cargo bench --bench growth -- --help
//! ```
//!
//! Without arguments, as a plain `cargo bench` starts it, it measures nothing and says how to run it.
//!
//! Server and floor (see `delivery`, whose parts do the work) run in turn, each run in a fresh process; a point is the
//! median of its runs, drawn with the least and the most of them. The rounds go over all points of a plot, so that a
//! minute in which the machine is busy does not fall on one of them. A message that goes astray ends the run with
//! status 1.
//!
//! - `axis`: what grows, how far, and what a run is. `plot`: the picture, an SVG file in `docs/performance`.
//! - `run`: the command line, the order of the runs, the table.
//!
//! `cargo test --bench growth` (no argument at all) draws every plot in small, into the build directory.

#[cfg(target_os = "linux")]
#[expect(
    clippy::cast_possible_truncation,
    dead_code,
    reason = "sizes and nanoseconds of a short run on a 64-bit machine; not all of it is used here"
)]
#[path = "../delivery"]
mod delivery {
    pub(crate) mod fleet;
    pub(crate) mod floor;
    pub(crate) mod frame;
    pub(crate) mod histogram;
    pub(crate) mod load;
    pub(crate) mod outbox;
    pub(crate) mod process;

    use std::error::Error;

    pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;
}

#[cfg(target_os = "linux")]
mod axis;
#[cfg(target_os = "linux")]
mod plot;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("growth: needs Linux (epoll, /proc/PID/task/*/schedstat); nothing was measured");
}
