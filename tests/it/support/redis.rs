//! A redis-server process of the test's own.

use std::process::{Child, Command, Stdio};

use futures_util::StreamExt;
use redis::AsyncCommands;
use redis::aio::{MultiplexedConnection, PubSub};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::{PATIENCE, ReservedPort, eventually};

/// A redis-server that keeps nothing on disk unless its arguments say so.
pub(crate) struct Redis {
    child: Option<Child>,
    port: ReservedPort,
    arguments: Vec<String>,
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
