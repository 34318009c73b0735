//! Redis as the broker: one subscribing and one publishing connection per node.
//!
//! - The channel of a room is the prefix followed by its name, taken literally: `SUBSCRIBE`, never `PSUBSCRIBE`.
//! - Internal channels begin, after the prefix, with U+0001, which no room name can contain.
//! - Each wait for Redis has a deadline; a connection that misses one is replaced.
//!
//! [`payload`] is what travels on a channel, [`subscriber`] and [`publisher`] own one connection each, [`backoff`]
//! paces their dials.

mod backoff;
mod payload;
mod publisher;
mod subscriber;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Recipient};
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, TlsCertificates};

use super::health::Health;
use super::{LinkCommand, LinkEvent, PublishQueue};
use crate::config::{Config, RedisConfig};
use crate::metrics::Metrics;
use crate::protocol::RoomName;

/// How long a dial may take, the handshake included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often this node proves that a message comes round.
const CANARY_INTERVAL: Duration = Duration::from_secs(1);

/// A payload may be this many times larger than the longest message text: escapes, and the fields around it.
const PAYLOAD_FACTOR: usize = 8;

/// The settings of a Redis broker, checked.
pub(super) struct RedisBroker {
    shared: Arc<Shared>,
}

/// What both connections need.
struct Shared {
    client: Client,
    prefix: String,
    canary_channel: String,
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
    ) -> redis::RedisResult<Self> {
        // The process may have chosen a provider already; ours is only needed where none is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            shared: Arc::new(Shared {
                client: client(redis)?,
                prefix: config.redis_prefix.clone(),
                canary_channel: format!("{}\u{1}canary:{node}", config.redis_prefix),
                max_payload: config.max_message.saturating_mul(PAYLOAD_FACTOR),
                metrics: metrics.clone(),
                health: health.clone(),
            }),
        })
    }

    /// Where Redis is, without credentials.
    pub(super) fn address(&self) -> String {
        self.shared.client.get_connection_info().addr().to_string()
    }

    pub(super) fn start(self, queue: PublishQueue, events: Recipient<LinkEvent>) -> Recipient<LinkCommand> {
        actix::spawn(publisher::RedisPublisher::new(self.shared.clone(), queue).run());
        subscriber::RedisSubscriber::new(self.shared, events)
            .start()
            .recipient()
    }
}

impl Shared {
    fn channel(&self, room: &RoomName) -> String {
        format!("{}{room}", self.prefix)
    }
}

fn client(redis: &RedisConfig) -> redis::RedisResult<Client> {
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
