//! `roomcast`: a WebSocket server for rooms, scaled out over Redis Pub/Sub.
//!
//! A client joins rooms over one WebSocket and sends to them; a message sent to a room reaches every member, on every
//! node. What travels on the wire is described in `docs/protocol.md`, how the parts fit together in
//! `docs/architecture.md`.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`config`] | every setting |
//! | [`protocol`] | the wire |
//! | [`broker`] | what carries messages between nodes |
//! | [`rooms`] | who is in which room |
//! | [`session`] | one WebSocket |
//! | [`http`] | routes and the handshake |
//! | [`logging`] | the log, and what it does when nobody reads it |
//! | [`tokens`] | who may do what |
//! | [`metrics`] | every counter |
//! | [`shutdown`] | the order of stopping |
//!
//! Imports go one way: `http → session → rooms → broker → protocol`; `config` and `metrics` are leaves,
//! and `tokens` needs nothing but them.

pub mod broker;
pub mod config;
pub mod http;
mod lifeline;
pub mod logging;
pub mod metrics;
pub mod protocol;
pub mod rooms;
pub mod session;
pub mod shutdown;
mod throttle;
pub mod tokens;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::web::Data;
use log::{info, warn};
use tokio::sync::{Semaphore, mpsc};

use broker::{Broker, BrokerError};
use config::Config;
use http::{Capacity, Node};
use lifeline::{Ends, Lifelines};
use metrics::Metrics;
use protocol::close::CloseCode;
use rooms::hub::Hub;
use shutdown::Stop;
use tokens::{KeyError, Verifier};

/// Descriptors that are not for sessions: requests without an upgrade, and those below.
const SPARE_DESCRIPTORS: u64 = 200;

/// Descriptors that are not for clients at all: Redis, the log, the threads' own. Without them the node would lose its
/// broker to whoever connects often enough; connections beyond wait in the kernel.
const OWN_DESCRIPTORS: u64 = 100;

/// Sessions where the system names no limit of descriptors.
const UNLIMITED_SESSIONS: usize = 1_000_000;

/// Connections that the kernel completes before they are accepted; it may allow fewer.
const ACCEPT_BACKLOG: i32 = 4_096;

/// Why a node ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No broker could be made of the configuration.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No tokens can be checked with the configured keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(#[from] std::io::Error),
    /// A part of the node died, and a node without it would only look alive.
    #[error("{0} died; the node cannot go on without it, and ends so that it can be started anew")]
    PartDied(&'static str),
}

/// A node that is not served yet.
pub struct Assembled {
    /// What the HTTP workers share.
    pub node: Data<Node>,
    /// Which broker it has, as a phrase for its first line.
    pub broker: String,
    ends: Ends,
}

/// Makes a node of its parts: the broker, the registry on its own thread, and what the HTTP workers share.
///
/// # Errors
/// [`RunError`] if the broker's settings or the keys of tokens cannot be used.
pub fn assemble(config: Config) -> Result<Assembled, RunError> {
    let verifier = config.token_keys.as_ref().map(Verifier::new).transpose()?;
    let metrics = Arc::new(Metrics::default());
    let name: Arc<str> = format!("{:08x}", fastrand::u32(..)).into();
    let broker = Broker::open(&config, &name, &metrics)?;
    let health = broker.health();
    let broker_line = broker.describe();
    let (lifelines, ends) = Lifelines::new();
    let hub = Hub::start(broker, &config, &metrics, lifelines);
    let max_sessions = config
        .max_connections
        .unwrap_or_else(|| descriptors_without(SPARE_DESCRIPTORS));
    let node = Data::new(Node {
        name,
        hub,
        metrics,
        health,
        capacity: Arc::new(Capacity::new(max_sessions)),
        draining: AtomicBool::new(false),
        api_bodies: Semaphore::new(http::max_bodies(&config)),
        verifier: verifier.map(Arc::new),
        config,
    });
    Ok(Assembled {
        node,
        broker: broker_line,
        ends,
    })
}

/// Runs a node on `listener` until it is told to stop, or cannot go on. `announce` is called once it serves, with a
/// phrase that says which broker is in use.
///
/// # Errors
/// [`RunError`] says why the node could not start or had to end.
pub async fn run(
    config: Config,
    listener: TcpListener,
    stops: mpsc::UnboundedReceiver<Stop>,
    announce: impl FnOnce(&str),
) -> Result<(), RunError> {
    serve(assemble(config)?, listener, stops, announce).await
}

async fn serve(
    assembled: Assembled,
    listener: TcpListener,
    mut stops: mpsc::UnboundedReceiver<Stop>,
    announce: impl FnOnce(&str),
) -> Result<(), RunError> {
    let Assembled {
        node,
        broker,
        mut ends,
    } = assembled;
    // The standard library's 128 is little for all clients of a node that has gone. Where it cannot be changed, it stays.
    let _ = socket2::SockRef::from(&listener).listen(ACCEPT_BACKLOG);
    let server = http::server::start(node.clone(), listener, descriptors_without(OWN_DESCRIPTORS))?;
    let handle = server.handle();
    let mut server = actix::spawn(server);
    announce(&broker);
    let outcome = tokio::select! {
        ended = &mut server => return ended.map_err(std::io::Error::other)?.map_err(RunError::Http),
        part = ends.next() => Err(RunError::PartDied(part)),
        stop = stops.recv() => tokio::select! {
            () = wind_down(&node, stop.unwrap_or(Stop::Drain), &mut stops) => Ok(()),
            // Until the last session is closed the node is needed whole.
            part = ends.next() => Err(RunError::PartDied(part)),
        },
    };
    handle.stop(false).await;
    outcome
}

/// Closes all sessions and waits until their connections are gone, time is up, or a second signal comes.
async fn wind_down(node: &Node, stop: Stop, stops: &mut mpsc::UnboundedReceiver<Stop>) {
    info!("stopping: how={stop:?} sessions={}", node.capacity.open());
    node.draining.store(true, Ordering::Relaxed);
    let patience = match stop {
        Stop::Drain => {
            let over = node.config.drain;
            node.hub.retire(over);
            over + shutdown::DRAIN_GRACE
        }
        Stop::Interrupt => {
            node.hub.close_all(CloseCode::GoingAway);
            shutdown::INTERRUPT_PATIENCE
        }
    };
    let gone = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while node.capacity.open() > 0 {
            looks.tick().await;
        }
        // Others would take some seconds to find out that those who were listed here are gone.
        let listed = &node.metrics.presence_entries;
        let unlisted = async {
            while listed.get() > 0 {
                looks.tick().await;
            }
        };
        // With a broker that is away they have to.
        let _ = tokio::time::timeout(shutdown::UNLIST_PATIENCE, unlisted).await;
    };
    tokio::select! {
        () = gone => {}
        () = tokio::time::sleep(patience) => {
            warn!("stopping with connections that have not ended: connections={}", node.capacity.open());
        }
        _ = stops.recv() => warn!("stopping at once: connections={}", node.capacity.open()),
    }
}

/// Raises the descriptor limit as far as allowed, and leaves so many to other uses.
fn descriptors_without(others: u64) -> usize {
    #[cfg(unix)]
    let limit = rlimit::increase_nofile_limit(u64::MAX).ok();
    #[cfg(not(unix))]
    let limit: Option<u64> = None;
    limit.map_or(UNLIMITED_SESSIONS, |limit| {
        usize::try_from(limit.saturating_sub(others))
            .unwrap_or(UNLIMITED_SESSIONS)
            .max(1)
    })
}

#[cfg(test)]
mod tests;
