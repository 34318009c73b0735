//! Redis as the broker: one subscribing, one publishing and one reading connection per node.
//!
//! - The channel of a room is the prefix followed by its name, taken literally: `SUBSCRIBE`, never `PSUBSCRIBE`.
//! - Internal channels begin, after the prefix, with U+0001, which no room name can contain.
//! - Each wait for Redis has a deadline; a connection that misses one is replaced.
//!
//! [`payload`] is what travels on a room's channel, [`control`] what nodes tell each other and [`hearing`] what they have
//! missed of it, [`scripts`] what runs in Redis; [`subscriber`] and [`publisher`] own one connection each, [`reader`] and
//! [`presence`] share one ([`mod@line`]); [`backoff`] paces their dials.

mod backoff;
mod control;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hearing;
mod line;
mod payload;
mod presence;
mod publisher;
mod reader;
mod scripts;
mod subscriber;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use actix::prelude::{Actor, Recipient};
use log::debug;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisError, RedisResult,
    TlsCertificates, Value,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::scripts::{Script, Scripts};
use super::health::Health;
use super::{LinkCommand, LinkEvent, PublishQueue};
use crate::config::{Config, RedisConfig};
use crate::lifeline::Lifelines;
use crate::metrics::Metrics;
use crate::metrics::labels::Connection;

/// How long a dial may take, the handshake included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often this node proves that a message comes round.
const CANARY_INTERVAL: Duration = Duration::from_secs(1);

/// A payload may be this many times larger than the longest message text: escapes, and the fields around it.
const PAYLOAD_FACTOR: usize = 8;

/// … or this long, in bytes: what stands around a text does not shrink with it.
const MIN_MAX_PAYLOAD: usize = 4 * 1024;

/// The settings of a Redis broker, checked.
pub(super) struct RedisBroker {
    shared: Arc<Shared>,
}

/// What all connections need.
struct Shared {
    client: Client,
    scripts: Scripts,
    node: Arc<str>,
    /// On which all nodes are told something.
    control_channel: String,
    canary_channel: String,
    /// Canaries begin with this, which nobody else knows.
    canary_secret: u64,
    /// They tell their time from then on.
    began: Instant,
    /// The number of the current or last subscribing connection.
    link: AtomicU64,
    /// Whether it lives.
    has_link: AtomicBool,
    max_payload: usize,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl RedisBroker {
    pub(super) fn new(
        redis: &RedisConfig,
        config: &Config,
        node: &str,
        metrics: &Arc<Metrics>,
        health: &Arc<Health>,
    ) -> RedisResult<Self> {
        // The process may have chosen a provider already; ours is only needed where none is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            shared: Arc::new(Shared {
                client: client(redis)?,
                scripts: Scripts::new(&config.redis_prefix, config.retention),
                node: node.into(),
                control_channel: format!("{}\u{1}control", config.redis_prefix),
                canary_channel: format!("{}\u{1}canary:{node}", config.redis_prefix),
                canary_secret: fastrand::u64(..),
                began: Instant::now(),
                link: AtomicU64::new(0),
                has_link: AtomicBool::new(false),
                max_payload: config
                    .max_message
                    .saturating_mul(PAYLOAD_FACTOR)
                    .max(MIN_MAX_PAYLOAD),
                metrics: metrics.clone(),
                health: health.clone(),
            }),
        })
    }

    /// Where Redis is, without credentials.
    pub(super) fn address(&self) -> String {
        self.shared.client.get_connection_info().addr().to_string()
    }

    pub(super) fn start(
        self,
        queue: PublishQueue,
        events: Recipient<LinkEvent>,
        lifelines: &Lifelines,
    ) -> Recipient<LinkCommand> {
        let (reads, read_queue) = mpsc::unbounded_channel();
        let (errands, errand_queue) = mpsc::unbounded_channel();
        let publisher = publisher::RedisPublisher::new(self.shared.clone(), queue);
        actix::spawn(lifelines.hold("the publisher to redis").over(publisher.run()));
        let line = Rc::new(line::Line::new(self.shared.clone()));
        let reader = reader::RedisReader::new(
            self.shared.clone(),
            line.clone(),
            read_queue,
            errand_queue,
            events.clone(),
        );
        actix::spawn(lifelines.hold("the reader of redis").over(reader.run()));
        let (orders, order_queue) = mpsc::unbounded_channel();
        let presence = presence::RedisPresence::new(self.shared.clone(), line, order_queue, events.clone());
        actix::spawn(lifelines.hold("the presence on redis").over(presence.run()));
        let lifeline = lifelines.hold("the subscriber of redis");
        let queues = subscriber::Queues {
            reads,
            errands,
            orders,
        };
        subscriber::RedisSubscriber::new(self.shared, queues, events, lifeline)
            .start()
            .recipient()
    }
}

impl Shared {
    /// On which a node is told what became of its demands.
    fn answer_channel(&self, node: &str) -> String {
        format!("{}:{node}", self.control_channel)
    }

    /// What a canary carries that is sent now: the time by this process's own clock, as nobody else hears it.
    fn canary(&self) -> String {
        format!("{:016x}{}", self.canary_secret, self.began.elapsed().as_micros())
    }

    /// Opens a connection for commands.
    async fn dial(&self, connection: Connection) -> RedisResult<MultiplexedConnection> {
        self.metrics.redis_dials.inc(connection);
        // The crate's own timeouts are off: ours cover the whole of a dial and of a batch.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let dial = self.client.get_multiplexed_async_connection_with_config(&config);
        let dialled = within(DIAL_TIMEOUT, "the dial", dial).await?;
        self.metrics.redis_connects.inc(connection);
        Ok(dialled)
    }
}

/// How long a canary has been on its way, of a node with this secret that tells its time from `began`. `None` if it is none
/// of ours: anybody may publish on the channel.
fn travelled(canary: &[u8], secret: u64, began: Instant, now: Instant) -> Option<Duration> {
    let time = std::str::from_utf8(canary)
        .ok()?
        .strip_prefix(&format!("{secret:016x}"))?;
    let sent: u64 = time.parse().ok()?;
    now.saturating_duration_since(began)
        .checked_sub(Duration::from_micros(sent))
}

/// Sends commands in one write and waits for all their replies, errors among them.
async fn call(connection: &mut MultiplexedConnection, commands: &Pipeline) -> RedisResult<Vec<Value>> {
    connection.send_packed_commands(commands, 0, commands.len()).await
}

/// Sends commands that call a script. If Redis has forgotten that, the call has done nothing; then everything is sent
/// again, with the script's text, which Redis cannot fail to know.
async fn call_script(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
    script: &Script,
) -> RedisResult<Vec<Value>> {
    let is_unknown = |reply: &Value| matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT");
    let replies = call(connection, commands).await?;
    if !replies.iter().any(is_unknown) {
        return Ok(replies);
    }
    debug!("redis does not know a script, which is sent");
    call(connection, &script.spelled_out(commands)).await
}

/// Bounds a wait for Redis.
async fn within<T>(
    limit: Duration,
    what: &str,
    wait: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    timeout(limit, wait).await.unwrap_or_else(|_| {
        let message = format!("{what} was not answered in time");
        Err(RedisError::from(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            message,
        )))
    })
}

fn client(redis: &RedisConfig) -> RedisResult<Client> {
    let info = redis.url.reveal().into_connection_info()?;
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            host,
            port,
            tls_params,
            ..
        } if redis.insecure => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: true,
            tls_params,
        },
        other => other,
    };
    // Both are off by default in the crate: small publishes would wait for acknowledgements, and a peer that
    // vanished would only be found by the canary.
    let tcp = TcpSettings::default().set_nodelay(true);
    let info = info.set_addr(addr).set_tcp_settings(tcp);
    match info.addr() {
        ConnectionAddr::TcpTls { .. } => {
            let root_cert = redis.ca_pem.as_ref().map(|pem| pem.clone().into_bytes());
            Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: None,
                    root_cert,
                },
            )
        }
        _ => Client::open(info),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_tells_how_long_it_took_and_a_foreign_one_nothing() {
        let began = Instant::now();
        let now = began + Duration::from_millis(70);
        let travelled = |canary: &[u8]| travelled(canary, 0xab, began, now);
        assert_eq!(
            travelled(b"00000000000000ab30000"),
            Some(Duration::from_millis(40))
        );
        assert_eq!(travelled(b"00000000000000ab70000"), Some(Duration::ZERO));
        for foreign in [
            &b""[..],
            b"30000",
            b"00000000000000ac30000",
            b"00000000000000ab70001",
            b"00000000000000ab-1",
            b"00000000000000ab",
            b"\xff",
            b"00000000000000ab18446744073709551615",
        ] {
            assert_eq!(travelled(foreign), None);
        }
    }
}
