//! A redis-server process of the test's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncCommands, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{PATIENCE, ReservedPort, eventually};

/// A redis-server that keeps nothing on disk unless its arguments say so.
pub(crate) struct Redis {
    child: Option<Child>,
    port: ReservedPort,
    arguments: Vec<String>,
    /// Where it keeps its log, if it keeps one.
    files: Option<TempDir>,
}

impl Redis {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one with more arguments.
    pub(crate) async fn with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self {
            child: None,
            port: ReservedPort::new(),
            arguments,
            files: None,
        };
        redis.launch().await;
        redis
    }

    /// Starts one that keeps everything that it has answered for, also when it is killed.
    pub(crate) async fn persistent() -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let arguments = [
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--dir",
            files.path().to_str().expect("UTF-8"),
        ];
        let mut redis = Self {
            child: None,
            port: ReservedPort::new(),
            arguments: arguments.map(str::to_owned).to_vec(),
            files: Some(files),
        };
        redis.launch().await;
        redis
    }

    /// A port with nothing on it: [`Redis::launch`] starts the server later.
    pub(crate) fn absent() -> Self {
        Self {
            child: None,
            port: ReservedPort::new(),
            arguments: Vec::new(),
            files: None,
        }
    }

    /// Starts the server (again) and waits until it answers.
    pub(crate) async fn launch(&mut self) {
        let port = self.port().to_string();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--daemonize", "no", "--loglevel", "warning"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        // With TLS the plain port is off, and the caller waits for what it can reach.
        if !self.arguments.iter().any(|argument| argument == "--tls-port") {
            eventually("a redis-server that answers", async || {
                self.try_connect().await.ok()
            })
            .await;
        }
    }

    /// Ends the server the hard way and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A copy of all that is kept of what the server knows now.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(self.kept()).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a file");
            std::fs::copy(&path, copy.path().join(name)).expect("copied");
        }
        copy
    }

    /// Loses all that is kept of what the server knew, but for a copy; it must not run.
    pub(crate) fn forget(&mut self, all_but: Option<&TempDir>) {
        assert!(self.child.is_none(), "the server runs");
        let kept = self.kept();
        std::fs::remove_dir_all(&kept).expect("removed");
        let Some(copy) = all_but else { return };
        std::fs::create_dir(&kept).expect("created");
        for entry in std::fs::read_dir(copy.path()).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a file");
            std::fs::copy(&path, kept.join(name)).expect("copied");
        }
    }

    fn kept(&self) -> PathBuf {
        let files = self.files.as_ref().expect("a server that keeps something");
        files.path().join("appendonlydir")
    }

    /// Sends a signal, such as STOP and CONT.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a server that runs");
        kill_process(Pid::from_child(child), signal).expect("the process is there");
    }

    /// `redis://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let mut connection = redis::Client::open(self.url())?
            .get_multiplexed_async_connection()
            .await?;
        connection.ping::<String>().await?;
        Ok(connection)
    }

    /// A connection, as `redis-cli` would have.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connect().await.expect("a server that answers")
    }

    /// Publishes a raw payload. How many connections got it.
    pub(crate) async fn publish(&self, channel: &str, payload: &str) -> usize {
        self.connection()
            .await
            .publish(channel, payload)
            .await
            .expect("published")
    }

    /// Subscribes to a channel, as `redis-cli SUBSCRIBE` does.
    pub(crate) async fn listen(&self, channel: &str) -> Listener {
        let client = redis::Client::open(self.url()).expect("a good URL");
        let mut pubsub = client.get_async_pubsub().await.expect("a server that answers");
        pubsub.subscribe(channel).await.expect("subscribed");
        Listener(pubsub)
    }

    /// Subscribes to the channels that match a pattern, as `redis-cli PSUBSCRIBE` does.
    pub(crate) async fn listen_by_pattern(&self, pattern: &str) -> Listener {
        let client = redis::Client::open(self.url()).expect("a good URL");
        let mut pubsub = client.get_async_pubsub().await.expect("a server that answers");
        pubsub.psubscribe(pattern).await.expect("subscribed");
        Listener(pubsub)
    }

    /// The channels of rooms (not internal ones) that somebody is subscribed to, sorted.
    pub(crate) async fn channels(&self) -> Vec<String> {
        let mut connection = self.connection().await;
        let channels: Vec<String> = redis::cmd("PUBSUB")
            .arg("CHANNELS")
            .query_async(&mut connection)
            .await
            .expect("channels");
        let mut channels: Vec<String> = channels
            .into_iter()
            .filter(|name| !name.contains('\u{1}'))
            .collect();
        channels.sort();
        channels
    }

    /// Waits until exactly these rooms' channels are subscribed to.
    pub(crate) async fn await_channels(&self, expected: &[&str]) {
        eventually(&format!("the channels {expected:?}"), async || {
            (self.channels().await == expected).then_some(())
        })
        .await;
    }

    /// The reply to a command, as `redis-cli` would send it.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        let reply = command.query_async(&mut connection).await;
        reply.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Cuts connections: `CLIENT KILL TYPE kind`, with kind `pubsub` or `normal`.
    pub(crate) async fn client_kill(&self, kind: &str) {
        let mut connection = self.connection().await;
        let _: i64 = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", kind, "SKIPME", "yes"])
            .query_async(&mut connection)
            .await
            .expect("killed");
    }
}

/// A subscription of the test's own.
pub(crate) struct Listener(PubSub);

impl Listener {
    /// The next payload.
    pub(crate) async fn payload(&mut self) -> String {
        let next = timeout(PATIENCE, self.0.on_message().next()).await;
        let message = next.expect("a payload in time").expect("an open connection");
        message.get_payload().expect("UTF-8")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
