//! The processes that a run starts, and what the kernel says they cost.
//!
//! Each is ended when its guard is dropped, and so also when the benchmark panics.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::floor::{self, Fault};
use super::options::{Broker, Options};

const START_DEADLINE: Duration = Duration::from_secs(15);

/// A side of the comparison.
#[derive(Clone)]
pub(crate) enum Target {
    Floor {
        coalesce: bool,
        fault: Option<(Fault, u64)>,
    },
    Server {
        path: PathBuf,
        broker: Broker,
        /// `None` leaves what the server keeps as it is set.
        history: Option<u64>,
    },
}

impl Target {
    pub(crate) fn floor(options: &Options) -> Self {
        Self::Floor {
            coalesce: options.coalesce,
            fault: None,
        }
    }

    /// What stands in the server's place.
    pub(crate) fn server(options: &Options) -> Self {
        match &options.server {
            Some(path) => Self::Server {
                path: path.clone(),
                broker: options.broker,
                history: None,
            },
            None => Self::floor(options),
        }
    }

    /// The server on Redis, where it keeps so many messages of each room.
    pub(crate) fn keeping(self, messages: u64) -> Self {
        match self {
            Self::Server { path, .. } => Self::Server {
                path,
                broker: Broker::Redis,
                history: Some(messages),
            },
            floor @ Self::Floor { .. } => floor,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Floor { .. } => "floor",
            Self::Server { .. } => "server",
        }
    }
}

/// A target that runs, and its Redis. Fields drop in this order.
pub(crate) struct Running {
    target: Guard,
    pub(crate) redis: Option<Guard>,
    pub(crate) address: SocketAddr,
}

pub(crate) struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub(crate) fn start(target: &Target) -> Outcome<Self> {
        match target {
            Target::Floor { coalesce, fault } => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg(floor::SUBCOMMAND).stdin(Stdio::piped());
                if *coalesce {
                    command.arg("coalesce");
                }
                if let Some((kind, number)) = fault {
                    command.args(["fault", kind.name(), &number.to_string()]);
                }
                Self::spawn(command, None)
            }
            Target::Server {
                path,
                broker,
                history,
            } => {
                let mut command = Command::new(path);
                command
                    .env("HOST", "127.0.0.1")
                    .env("PORT", "0")
                    .env_remove("REDIS_URL")
                    .stdin(Stdio::null());
                if std::env::var_os("RUST_LOG").is_none() {
                    command.env("RUST_LOG", "error");
                }
                if let Some(history) = history {
                    command.env("ROOMCAST_HISTORY_SIZE", history.to_string());
                }
                let mut redis = None;
                if *broker == Broker::Redis {
                    let (guard, port) = start_redis()?;
                    command.env("REDIS_URL", format!("redis://127.0.0.1:{port}/"));
                    redis = Some(guard);
                }
                Self::spawn(command, redis)
            }
        }
    }

    /// Starts it and waits for the address that it prints.
    fn spawn(mut command: Command, redis: Option<Guard>) -> Outcome<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let mut target = Guard(child);
        let output = target.0.stdout.take().ok_or("the output was to be piped")?;
        let (found, address) = mpsc::channel();
        // Reads on after the address, so that the process never blocks on its output.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = address_in(&line) {
                    let _ = found.send(address);
                }
            }
        });
        let address = address
            .recv_timeout(START_DEADLINE)
            .map_err(|_| format!("{program} did not print http://HOST:PORT in {START_DEADLINE:?}"))?;
        Ok(Self {
            target,
            redis,
            address,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.target.pid()
    }
}

impl Guard {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let rest = &line[line.find("http://")? + 7..];
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && !".:[]".contains(c))
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A Redis of our own, without persistence, that answers.
fn start_redis() -> Outcome<(Guard, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server: {error}"))?;
    let guard = Guard(child);
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > START_DEADLINE {
            return Err("redis-server does not listen".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((guard, port))
}

/// What a process has used so far, over all its threads.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Context switches, voluntary or not.
    pub(crate) switches: u64,
}

impl Usage {
    /// Threads that have ended are not in it.
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let (mut nanoseconds, mut switches) = (0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let read = |file: &str| fs::read_to_string(task.join(file));
            let (Ok(schedstat), Ok(status)) = (read("schedstat"), read("status")) else {
                continue;
            };
            // "time on the cpu (ns), time waiting, slices"
            nanoseconds += schedstat.split(' ').next().unwrap_or_default().parse::<u64>()?;
            switches += status_field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
            switches += status_field(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
        }
        if nanoseconds == 0 {
            return Err(
                "/proc/PID/task/*/schedstat says nothing; needs a kernel with CONFIG_SCHED_INFO".into(),
            );
        }
        Ok(Self {
            cpu: Duration::from_nanos(nanoseconds),
            switches,
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// Resident memory in KiB.
pub(crate) fn resident(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(status_field(&status, "VmRSS:").ok_or("no VmRSS")?)
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
