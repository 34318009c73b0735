//! What it costs to deliver a message, beside the least that it could cost.
//!
//! `cargo bench --bench delivery -- --help` lists the options. The parts:
//!
//! - `floor`: a bare readiness loop that does nothing but write the frames; the limit to compare with.
//! - `plain`: the server's shape with nothing but the shape; the limit of the framework.
//! - `process`: starts floor, server and Redis, stops them again, and reads their cost from `/proc`.
//! - `fleet`: the generator's connections, one thread for all. `load`: numbered messages on a schedule.
//! - `scenario`: what there is to run. `traffic`: at a steady rate. `most`: at the highest rate and beyond. `joins`:
//!   coming and going in rooms. `sessions`: connecting, and memory. `report`: the tables.
//!
//! All sides run in turn, each in a fresh process, and are compared round by round, because a shared machine's
//! speed drifts more between minutes than they differ. Absolute times are for orientation; the ratio is the
//! result. A message lost, duplicated, reordered or misrouted ends the run with status 1.
//!
//! `cargo test --bench delivery` (no `--bench` argument) runs the smoke test instead: every scenario in small,
//! and a self-check that a dropped, a duplicated and a swapped message of the floor are found.

#[cfg(target_os = "linux")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes and nanoseconds of a short run on a 64-bit machine"
)]
mod delivery {
    pub(crate) mod fleet;
    pub(crate) mod floor;
    pub(crate) mod frame;
    pub(crate) mod histogram;
    pub(crate) mod joins;
    pub(crate) mod load;
    pub(crate) mod most;
    pub(crate) mod options;
    pub(crate) mod outbox;
    pub(crate) mod plain;
    pub(crate) mod process;
    pub(crate) mod report;
    pub(crate) mod scenario;
    pub(crate) mod sessions;
    pub(crate) mod traffic;

    use std::error::Error;
    use std::process::ExitCode;

    pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

    pub(crate) fn main() -> ExitCode {
        let arguments: Vec<String> = std::env::args().collect();
        let clean = match arguments.get(1).map(String::as_str) {
            Some(floor::SUBCOMMAND) => floor::run(&arguments[2..]).map(|()| true),
            Some(plain::SUBCOMMAND) => plain::run().map(|()| true),
            _ => rlimit::increase_nofile_limit(u64::MAX)
                .map_err(Into::into)
                .and_then(|_| scenario::run(&options::parse(&arguments))),
        };
        match clean {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("delivery: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    delivery::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("delivery: needs Linux (epoll, /proc/PID/task/*/schedstat); nothing was measured");
}
