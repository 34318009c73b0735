//! A node as a process of its own, and one within the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_test::TestServer;
use actix_web::App;
use roomcast::config::Config;
use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, eventually, within};

/// A `roomcast` process.
pub(crate) struct Node {
    child: Child,
    address: String,
    banner: String,
    log: Arc<Mutex<String>>,
    /// Its standard error, while nobody reads it.
    unread: Option<ChildStderr>,
}

impl Node {
    /// Starts the program on a free port with these variables, and waits until it serves.
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_with(&[], variables).await
    }

    /// [`Node::start`] with arguments.
    pub(crate) async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut node = Self::start_unread(arguments, variables).await;
        node.read_log();
        node
    }

    /// [`Node::start_with`], and nobody reads its log until [`Node::read_log`].
    pub(crate) async fn start_unread(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
        command.args(arguments);
        Self::spawn(command, variables)
    }

    /// [`Node::start`] with so many descriptors at most.
    pub(crate) async fn start_with_descriptors(most: usize, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\"")]);
        command.arg(env!("CARGO_BIN_EXE_roomcast"));
        Self::spawn(command, variables)
    }

    fn spawn(mut command: Command, variables: &[(&str, &str)]) -> Self {
        command
            .env_clear()
            .envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("ROOMCAST_WORKERS", "2")])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("readable output");
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once('/'))
            .map(|(address, _)| address);
        let Some(address) = address.map(str::to_owned) else {
            let _ = child.kill();
            let output = child.wait_with_output().expect("readable output");
            panic!(
                "no address in {line:?}; log: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let unread = child.stderr.take();
        collect(stdout, Arc::default());
        Self {
            child,
            address,
            banner: line,
            log: Arc::default(),
            unread,
        }
    }

    /// Reads its log from now on, with all that has waited.
    pub(crate) fn read_log(&mut self) {
        if let Some(stderr) = self.unread.take() {
            collect(stderr, self.log.clone());
        }
    }

    /// [`Node::start`] on the Redis at this URL; waits until the node is ready.
    pub(crate) async fn on_redis(url: &str) -> Self {
        let node = Self::start(&[("REDIS_URL", url)]).await;
        node.ready().await;
        node
    }

    /// Closes the other end of its log for good.
    pub(crate) fn without_log(mut self) -> Self {
        self.unread = None;
        self
    }

    /// The line that the program announced itself with.
    pub(crate) fn banner(&self) -> &str {
        &self.banner
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// `ws://host:port`.
    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// `http://host:port`.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Status and body of a GET.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(&(self.http_url() + path)).await
    }

    /// The value of a metric, as [`metric`] tells it.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        metric(&self.http_url(), name).await
    }

    /// Waits until `/readyz` is 200.
    pub(crate) async fn ready(&self) {
        eventually("a node that is ready", async || {
            (self.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn exit(&mut self, patience: Duration) -> ExitStatus {
        let child = &mut self.child;
        within(patience, "the end of the process", || {
            let status = child.try_wait().expect("a process of ours");
            async move { status }
        })
        .await
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        text(&self.log)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the node at {}:\n{}", self.address, self.log());
        }
    }
}

/// Status and body of a GET.
pub(crate) async fn get(url: &str) -> (u16, String) {
    let mut response = awc::Client::default().get(url).send().await.expect("an answer");
    let body = response.body().await.expect("a body");
    (
        response.status().as_u16(),
        String::from_utf8_lossy(&body).into_owned(),
    )
}

/// The value of a metric of the node at `http://host:port`; without labels in its name the sum over all of them; 0 if it
/// is absent.
pub(crate) async fn metric(url: &str, name: &str) -> u64 {
    let (_, text) = get(&format!("{url}/metrics")).await;
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.split_once("} ") {
            Some((labels, value)) if labels.starts_with('{') => value,
            _ => rest.strip_prefix(' ')?,
        };
        Some(value.parse::<u64>().expect("a whole number"))
    });
    values.sum()
}

/// Runs the program to its end. Its status and what it wrote to standard output and standard error.
pub(crate) fn run_program(arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied());
    run_to_end(command)
}

/// Runs a command that ends by itself.
///
/// # Panics
/// If it does not within [`PATIENCE`]; it is ended then.
pub(crate) fn run_to_end(mut command: Command) -> (ExitStatus, String, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("a process of ours").is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = child.try_wait().expect("a process of ours").is_some();
    let _ = child.kill();
    let output = child.wait_with_output().expect("readable output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(ended, "{command:?} does not end: {stdout} {stderr}");
    (output.status, stdout, stderr)
}

/// A node within the test, on actix's test server and the embedded broker or the Redis that `variables` name.
pub(crate) fn test_server(variables: &[(&str, &str)]) -> TestServer {
    let lookup = |name: &str| {
        variables
            .iter()
            .find(|(variable, _)| *variable == name)
            .map(|(_, value)| value.into())
    };
    let config = Config::load(["roomcast"], &lookup).expect("good settings");
    let node = roomcast::assemble(config).expect("a broker").node;
    actix_test::start(move || {
        let node = node.clone();
        App::new().configure(move |app| roomcast::http::configure(app, node))
    })
}

/// `ws://host:port` of a test server.
pub(crate) fn ws_url(server: &TestServer) -> String {
    format!("ws://{}", server.addr())
}

fn collect(mut source: impl Read + Send + 'static, target: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            target
                .lock()
                .expect("no panic")
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
}

fn text(log: &Mutex<String>) -> String {
    log.lock().expect("no panic").clone()
}
