//! The processes that a run starts, and what the kernel says they cost.
//!
//! Each is ended when its guard is dropped, and so also when the benchmark panics.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;

use super::Outcome;
use super::floor::{self, Fault};

const START_DEADLINE: Duration = Duration::from_secs(15);
/// Ports that are tried: another program may take one between its choice and its use.
const REDIS_STARTS: usize = 3;

/// A side of a comparison.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) label: String,
    program: Program,
}

#[derive(Clone)]
enum Program {
    /// This binary, with these arguments.
    Own(Vec<String>),
    Server {
        path: PathBuf,
        on_redis: bool,
        nodes: usize,
        settings: Vec<(&'static str, String)>,
    },
}

impl Target {
    pub(crate) fn floor(label: &str, coalesce: bool) -> Self {
        let arguments = [floor::SUBCOMMAND]
            .into_iter()
            .chain(coalesce.then_some("coalesce"));
        Self::own(label, arguments)
    }

    pub(crate) fn faulty_floor(kind: Fault, delivery: u64) -> Self {
        let arguments = [floor::SUBCOMMAND, "fault", kind.name(), &delivery.to_string()];
        Self::own(kind.name(), arguments)
    }

    /// This binary, started with these arguments; it has to end with its standard input.
    pub(crate) fn own<'a>(label: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            label: label.to_owned(),
            program: Program::Own(arguments.into_iter().map(str::to_owned).collect()),
        }
    }

    /// On the embedded broker, or on a Redis of its own.
    pub(crate) fn server(label: &str, path: PathBuf, on_redis: bool) -> Self {
        Self {
            label: label.to_owned(),
            program: Program::Server {
                path,
                on_redis,
                nodes: 1,
                settings: Vec::new(),
            },
        }
    }

    pub(crate) fn labelled(self, label: String) -> Self {
        Self { label, ..self }
    }

    /// So many servers on the one Redis.
    pub(crate) fn nodes(mut self, count: usize) -> Self {
        if let Program::Server { nodes, .. } = &mut self.program {
            *nodes = count;
        }
        self
    }

    /// Hands a server this variable, unless the benchmark was started with it.
    pub(crate) fn with(mut self, variable: &'static str, value: u64) -> Self {
        if let Program::Server { settings, .. } = &mut self.program
            && std::env::var_os(variable).is_none()
        {
            settings.push((variable, value.to_string()));
        }
        self
    }

    pub(crate) fn is_server(&self) -> bool {
        matches!(self.program, Program::Server { .. })
    }

    pub(crate) fn is_on_redis(&self) -> bool {
        matches!(self.program, Program::Server { on_redis: true, .. })
    }
}

/// A target that runs. Fields drop in this order.
pub(crate) struct Running {
    nodes: Vec<Node>,
    redis: Option<RedisServer>,
}

struct Node {
    process: Guard,
    address: SocketAddr,
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
        match &target.program {
            Program::Own(arguments) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(arguments).stdin(Stdio::piped());
                Ok(Self {
                    nodes: vec![Node::spawn(command)?],
                    redis: None,
                })
            }
            Program::Server {
                path,
                on_redis,
                nodes,
                settings,
            } => {
                let redis = on_redis.then(RedisServer::start).transpose()?;
                let node = |_| {
                    let mut command = Command::new(path);
                    command
                        .env("HOST", "127.0.0.1")
                        .env("PORT", "0")
                        .env_remove("REDIS_URL")
                        .envs(settings.iter().map(|(variable, value)| (variable, value)))
                        .stdin(Stdio::null());
                    if std::env::var_os("RUST_LOG").is_none() {
                        command.env("RUST_LOG", "error");
                    }
                    if let Some(redis) = &redis {
                        command.env("REDIS_URL", redis.url());
                    }
                    Node::spawn(command)
                };
                let nodes = (0..*nodes).map(node).collect::<Outcome<_>>()?;
                Ok(Self { nodes, redis })
            }
        }
    }

    /// Where to publish: the first node.
    pub(crate) fn address(&self) -> SocketAddr {
        self.nodes[0].address
    }

    /// Where to join: the last node.
    pub(crate) fn last_address(&self) -> SocketAddr {
        self.nodes[self.nodes.len() - 1].address
    }

    /// The first node's process.
    pub(crate) fn pid(&self) -> u32 {
        self.nodes[0].process.pid()
    }

    pub(crate) fn redis(&self) -> Outcome<&RedisServer> {
        Ok(self.redis.as_ref().ok_or("this runs on Redis only")?)
    }

    /// Starts to count what all of them use.
    pub(crate) fn meter(&self) -> Outcome<Meter<'_>> {
        Ok(Meter {
            running: self,
            before: Spent::so_far(self)?,
            began: Instant::now(),
        })
    }
}

impl Node {
    /// Starts it and waits for the address that it prints.
    fn spawn(mut command: Command) -> Outcome<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let mut process = Guard(child);
        let output = process.0.stdout.take().ok_or("the output was to be piped")?;
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
        Ok(Self { process, address })
    }
}

impl Guard {
    fn pid(&self) -> u32 {
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

/// A Redis of our own, without persistence.
pub(crate) struct RedisServer {
    process: Guard,
    port: u16,
}

impl RedisServer {
    /// Starts it and waits until it listens.
    fn start() -> Outcome<Self> {
        for _ in 0..REDIS_STARTS {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let port_text = port.to_string();
            let child = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--port", &port_text])
                .args(["--save", "", "--appendonly", "no"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .map_err(|error| format!("redis-server: {error}"))?;
            let mut process = Guard(child);
            let began = Instant::now();
            while process.0.try_wait()?.is_none() {
                let server = Self { process, port };
                // Its own process number is the proof that this is not another one on the same port.
                if server.process_number().is_some_and(|pid| pid == server.pid()) {
                    return Ok(server);
                }
                process = server.process;
                if began.elapsed() > START_DEADLINE {
                    return Err("redis-server does not answer".into());
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Err("redis-server ended at once".into())
    }

    fn process_number(&self) -> Option<u32> {
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query(&mut self.connect().ok()?)
            .ok()?;
        info_field(&info, "process_id:")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn connect(&self) -> Outcome<Connection> {
        Ok(redis::Client::open(self.url())?.get_connection()?)
    }

    /// A connection on which Redis tells every command that it executes, a line each.
    pub(crate) fn monitor(&self) -> Outcome<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        stream.write_all(b"MONITOR\r\n")?;
        Ok(stream)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

/// The value behind `name` (given with its colon) in an answer to INFO.
pub(crate) fn info_field<T: FromStr>(info: &str, name: &str) -> Option<T> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_end().parse().ok()
}

/// What was used between two moments.
pub(crate) struct Meter<'a> {
    running: &'a Running,
    before: Spent,
    began: Instant,
}

impl Meter<'_> {
    pub(crate) fn read(&self) -> Outcome<Spent> {
        let now = Spent::so_far(self.running)?;
        let (nodes, before) = (now.nodes, &self.before);
        Ok(Spent {
            nodes: nodes
                .iter()
                .zip(&before.nodes)
                .map(|(now, before)| now.since(*before))
                .collect(),
            generator: now.generator.since(before.generator),
            redis: now.redis.zip(before.redis).map(|(now, before)| now.since(before)),
            wall: self.began.elapsed(),
        })
    }
}

pub(crate) struct Spent {
    /// Publishers' node first.
    pub(crate) nodes: Vec<Usage>,
    pub(crate) generator: Usage,
    pub(crate) redis: Option<Usage>,
    pub(crate) wall: Duration,
}

impl Spent {
    fn so_far(running: &Running) -> Outcome<Self> {
        let nodes = running.nodes.iter().map(|node| Usage::of(node.process.pid()));
        let redis = running.redis.as_ref().map(|redis| Usage::of(redis.pid()));
        Ok(Self {
            nodes: nodes.collect::<Outcome<_>>()?,
            generator: Usage::of(std::process::id())?,
            redis: redis.transpose()?,
            wall: Duration::ZERO,
        })
    }

    /// Of all nodes.
    pub(crate) fn server(&self) -> Usage {
        self.nodes.iter().fold(Usage::default(), |sum, node| Usage {
            cpu: sum.cpu + node.cpu,
            waited: sum.waited + node.waited,
            switches: sum.switches + node.switches,
        })
    }
}

/// What a process has used so far, over all its threads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Ready to run, but without a core.
    pub(crate) waited: Duration,
    /// Context switches, voluntary or not.
    pub(crate) switches: u64,
}

impl Usage {
    /// Threads that have ended are not in it.
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let (mut nanoseconds, mut waited, mut switches) = (0, 0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let read = |file: &str| fs::read_to_string(task.join(file));
            let (Ok(schedstat), Ok(status)) = (read("schedstat"), read("status")) else {
                continue;
            };
            // "time on the cpu (ns), time waiting, slices"
            let mut numbers = schedstat.split(' ').map(str::parse::<u64>);
            nanoseconds += numbers.next().transpose()?.unwrap_or_default();
            waited += numbers.next().transpose()?.unwrap_or_default();
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
            waited: Duration::from_nanos(waited),
            switches,
        })
    }

    pub(crate) fn microseconds(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            waited: self.waited.saturating_sub(before.waited),
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
