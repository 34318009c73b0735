//! What is done to Redis, to the links and to the nodes while everybody talks.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::Cluster;

/// Whose link to Redis is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Of(usize),
    Both,
}

/// What a Redis that comes back has of what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    All,
    Nothing,
    /// What it had a moment before it was killed: a replica that has taken over and was behind.
    TooLittle,
}

/// So much earlier than the end of Redis.
const A_MOMENT: Duration = Duration::from_millis(300);

/// A fault. It is over when [`Fault::strike`] returns, unless it is of a kind that only the node can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `CLIENT KILL TYPE pubsub`.
    SubscriptionsKilled,
    /// All connections to Redis are killed.
    ConnectionsKilled,
    /// Every connection is reset, and new ones too, for so long.
    Cut(Links, Duration),
    /// No byte passes for so long, and no connection ends.
    Stalled(Links, Duration),
    /// What is sent on the connections that there are is lost, for ever; new ones work at once.
    Swallowed(Links),
    /// SIGSTOP, and SIGCONT after so long.
    Stopped(Duration),
    /// SIGKILL, and a new start after so long, with so much of what it knew.
    Restarted { away: Duration, knows: Knows },
    /// `SCRIPT FLUSH`.
    ScriptsFlushed,
    /// `FLUSHALL`.
    Flushed,
    /// SIGKILL to this node.
    NodeKilled(usize),
}

impl Fault {
    /// Whether what Redis has of the rooms is thrown away.
    pub(crate) fn forgets(self) -> bool {
        match self {
            Self::Flushed => true,
            Self::Restarted { knows, .. } => knows != Knows::All,
            _ => false,
        }
    }

    /// Without its sizes.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::SubscriptionsKilled => "subscribing connections killed",
            Self::ConnectionsKilled => "all connections killed",
            Self::Cut(..) => "links cut",
            Self::Stalled(..) => "links stalled",
            Self::Swallowed(..) => "links open and dead",
            Self::Stopped(..) => "Redis frozen",
            Self::Restarted { knows, .. } => match knows {
                Knows::All => "Redis killed, back with all it had",
                Knows::Nothing => "Redis killed, back with nothing",
                Knows::TooLittle => "Redis killed, back with an older copy",
            },
            Self::ScriptsFlushed => "SCRIPT FLUSH",
            Self::Flushed => "FLUSHALL",
            Self::NodeKilled(_) => "a node killed",
        }
    }

    /// Lets it happen.
    pub(crate) async fn strike(self, cluster: &mut Cluster) {
        let Cluster { redis, proxies, .. } = cluster;
        let links = |links: Links| {
            proxies
                .iter()
                .enumerate()
                .filter(move |(node, _)| links == Links::Both || links == Links::Of(*node))
                .map(|(_, proxy)| proxy)
        };
        match self {
            Self::SubscriptionsKilled => redis.client_kill("pubsub").await,
            Self::ConnectionsKilled => {
                redis.client_kill("pubsub").await;
                redis.client_kill("normal").await;
            }
            Self::Cut(which, duration) => {
                links(which).for_each(|proxy| proxy.cut());
                tokio::time::sleep(duration).await;
                links(which).for_each(|proxy| proxy.resume());
            }
            Self::Stalled(which, duration) => {
                links(which).for_each(|proxy| proxy.stall());
                tokio::time::sleep(duration).await;
                links(which).for_each(|proxy| proxy.resume());
            }
            Self::Swallowed(which) => links(which).for_each(|proxy| proxy.swallow()),
            Self::Stopped(duration) => {
                redis.signal(Signal::STOP);
                tokio::time::sleep(duration).await;
                redis.signal(Signal::CONT);
            }
            Self::Restarted { away, knows } => {
                let older = (knows == Knows::TooLittle).then(|| redis.copy());
                if older.is_some() {
                    tokio::time::sleep(A_MOMENT).await;
                }
                redis.kill();
                if knows != Knows::All {
                    redis.forget(older.as_ref());
                }
                tokio::time::sleep(away).await;
                redis.launch().await;
            }
            Self::ScriptsFlushed => redis.command(&["SCRIPT", "FLUSH"]).await,
            Self::Flushed => redis.command(&["FLUSHALL"]).await,
            Self::NodeKilled(node) => cluster.kill_node(node),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |links: Links| match links {
            Links::Of(_) => "one node's link",
            Links::Both => "both links",
        };
        match self {
            Self::SubscriptionsKilled => f.write_str("subscribing connections killed"),
            Self::ConnectionsKilled => f.write_str("all connections killed"),
            Self::Cut(links, duration) => write!(f, "{} cut for {} s", whose(*links), duration.as_secs_f64()),
            Self::Stalled(links, duration) => {
                write!(f, "{} stalled for {} s", whose(*links), duration.as_secs_f64())
            }
            Self::Swallowed(links) => write!(f, "{} open and dead", whose(*links)),
            Self::Stopped(duration) => write!(f, "Redis frozen for {} s", duration.as_secs_f64()),
            Self::Restarted { away, .. } => write!(f, "{}, after {} s", self.kind(), away.as_secs_f64()),
            Self::ScriptsFlushed => f.write_str("SCRIPT FLUSH"),
            Self::Flushed => f.write_str("FLUSHALL"),
            Self::NodeKilled(_) => f.write_str("a node killed"),
        }
    }
}
