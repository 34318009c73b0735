//! What carries messages between nodes. It knows rooms by name, and nothing of sessions.
//!
//! ```text
//! RoomRegistry ── LinkCommand ──▶ link ── LinkEvent ──▶ RoomRegistry        (one link per node)
//! any thread  ── Publish ──▶ publisher ─▶ broker ─▶ the link of every node that is subscribed, the sender's included
//! ```
//!
//! - The link reports in order: nothing of a room before its `Opened`, and `Down` before anything of a later link.
//! - A command names the link (`generation`) that it was meant for; one for another link is dropped.
//! - Every publish is answered exactly once, even if the thread that holds it dies.
//! - There is no way around the broker: a node hears its own messages from it.
//! - With history a message is numbered in its room when it is published, and the past can be read
//!   ([`history`]). A message may arrive on the link before or after a page that contains it.
//! - A session may be listed as a member of a room, for all nodes to see ([`presence`]).
//!
//! Two brokers keep this contract: `memory` in the process and `redis`.

pub mod control;
pub mod health;
pub mod history;
mod memory;
pub mod presence;
mod redis;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use self::redis::fuzzing;

use std::sync::Arc;
use std::time::Instant;

use actix::{Message as ActixMessage, Recipient};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};

use self::control::{Demand, Done};
use self::health::Health;
use self::history::{Arrival, ReadOutcome, ReadRequest};
use self::presence::{Order, Present, Report};
use crate::config::{Config, Retention};
use crate::lifeline::Lifelines;
use crate::metrics::Metrics;
use crate::metrics::labels::Published;
use crate::protocol::{Content, IdempotenceKey, Position, RoomName};

/// Bytes of publishes that may wait in this process; more are refused.
pub const MAX_QUEUED_PUBLISH_BYTES: i64 = 64 * 1024 * 1024;

/// Bytes of messages that may be between the link and the sessions' mailboxes. Beyond, a link drops what comes and says
/// so ([`LinkEvent::Missed`]), or takes nothing more.
pub const MAX_TRANSIT_BYTES: i64 = 64 * 1024 * 1024;

/// A message on its way through a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomMessage {
    /// Where it was published.
    pub room: RoomName,
    /// What was published.
    pub content: Content,
    /// The publisher's name, if it has one.
    pub sender: Option<Arc<str>>,
    /// The publishing session, if it was one of ours.
    pub session: Option<Arc<str>>,
    /// When it was published, in Unix milliseconds, by the clock of the broker with history and of the node without;
    /// absent if others published it.
    pub time: Option<u64>,
}

impl RoomMessage {
    /// Roughly the memory that the message takes while it waits, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        const FIXED: usize = 256;
        FIXED
            + self.content.text.len()
            + self.room.as_str().len()
            + self.sender.as_ref().map_or(0, |s| s.len())
            + self.session.as_ref().map_or(0, |s| s.len())
    }
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has it. With history, this is its place; a repeated publish gets that of the first.
    Accepted(Option<Position>),
    /// It is certainly not published. The text says why.
    Refused(String),
    /// It is perhaps published. The text says why this is not known.
    Unknown(String),
}

impl PublishOutcome {
    fn label(&self) -> Published {
        match self {
            Self::Accepted(_) => Published::Accepted,
            Self::Refused(_) => Published::Refused,
            Self::Unknown(_) => Published::Unknown,
        }
    }
}

/// Where the outcome of a publish goes. Dropped without an answer, it answers [`PublishOutcome::Unknown`].
pub struct Answer {
    deliver: Option<Box<dyn FnOnce(PublishOutcome) + Send>>,
    /// Since when it is waited for, and where that is counted; it is, once a [`Publisher`] has it.
    counted: Option<(Instant, Arc<Metrics>)>,
}

impl Answer {
    /// `deliver` is called exactly once, from any thread; it must not block.
    pub fn new(deliver: impl FnOnce(PublishOutcome) + Send + 'static) -> Self {
        Self {
            deliver: Some(Box::new(deliver)),
            counted: None,
        }
    }

    fn counted(mut self, since: Instant, metrics: &Arc<Metrics>) -> Self {
        self.counted = Some((since, metrics.clone()));
        self
    }

    /// Hands the outcome over.
    pub fn give(mut self, outcome: PublishOutcome) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: PublishOutcome) {
        if let Some(deliver) = self.deliver.take() {
            if let Some((since, metrics)) = &self.counted {
                metrics.published(outcome.label(), since.elapsed());
            }
            deliver(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.deliver.is_some() {
            self.settle(PublishOutcome::Unknown(
                "the broker's queue was given up".to_owned(),
            ));
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

/// A message with the one who waits for its outcome. Its bytes count as queued until it is dropped.
#[derive(Debug)]
pub struct Publish {
    pub(crate) message: RoomMessage,
    /// Its sender may repeat it: it is published once for each key, room and user.
    pub(crate) key: Option<IdempotenceKey>,
    pub(crate) answer: Answer,
    /// When its sender began to wait; the deadline of its answer counts from then.
    pub(crate) since: Instant,
    _held: (Held, Held),
}

/// A part of a queue, in bytes or pieces, that is given back when what it belongs to is done with.
#[derive(Debug)]
struct Held {
    amount: i64,
    queue: Gauge,
}

impl Held {
    /// Counts it in the queue. Returns what was in it before, too.
    fn new(amount: usize, queue: &Gauge) -> (Self, i64) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let before = queue.inc_by(amount);
        let queue = queue.clone();
        (Self { amount, queue }, before)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.queue.dec_by(self.amount);
    }
}

/// Bytes of messages that are between the link and the sessions' mailboxes, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Transit {
    _held: Arc<Held>,
}

impl Transit {
    /// Counts what these messages take. Whether more may follow is told by [`Transit::is_full`].
    pub(crate) fn begin(arrivals: &[Arrival], metrics: &Metrics) -> Self {
        Self::of_bytes(
            arrivals.iter().map(|arrival| arrival.message.cost()).sum(),
            metrics,
        )
    }

    /// Counts so many bytes.
    pub(crate) fn of_bytes(bytes: usize, metrics: &Metrics) -> Self {
        let (held, _) = Held::new(bytes, &metrics.transit_bytes);
        Self {
            _held: Arc::new(held),
        }
    }

    /// Whether so much is on its way that nothing should follow for now.
    pub(crate) fn is_full(metrics: &Metrics) -> bool {
        metrics.transit_bytes.get() >= MAX_TRANSIT_BYTES
    }
}

/// The way into the broker, for any thread. Cloning shares the queue; what one thread publishes keeps its order.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Publish>,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// Queues a message; what becomes of it goes to `answer`, in a time that counts from `since`. A message that does not
    /// fit into [`MAX_QUEUED_PUBLISH_BYTES`] is refused at once.
    pub fn publish(&self, message: RoomMessage, key: Option<IdempotenceKey>, since: Instant, answer: Answer) {
        let answer = answer.counted(since, &self.metrics);
        let (bytes, queued_before) = Held::new(message.cost(), &self.metrics.publish_queue_bytes);
        if queued_before + bytes.amount > MAX_QUEUED_PUBLISH_BYTES {
            answer.give(PublishOutcome::Refused(
                "this node's queue to the broker is full".to_owned(),
            ));
            return;
        }
        let (place, _) = Held::new(1, &self.metrics.publish_queue_depth);
        let publish = Publish {
            message,
            key,
            answer,
            since,
            _held: (bytes, place),
        };
        if let Err(mpsc::error::SendError(publish)) = self.queue.send(publish) {
            publish
                .answer
                .give(PublishOutcome::Refused("the node is stopping".to_owned()));
        }
    }
}

/// The other end of [`Publisher`]'s queue.
pub(crate) type PublishQueue = mpsc::UnboundedReceiver<Publish>;

/// The channels that a room has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChannelKind {
    /// Its messages.
    Messages,
    /// Who is listed as a member, and who is not any more.
    Presence,
}

/// What the registry wants of the link.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub enum LinkCommand {
    /// Subscribe to the channels of these rooms. Answered by [`LinkEvent::Opened`] or [`LinkEvent::Refused`].
    Subscribe {
        /// The link it is meant for.
        generation: u64,
        /// Which channels.
        kind: ChannelKind,
        /// Rooms that the link is not subscribed to.
        rooms: Vec<RoomName>,
    },
    /// Unsubscribe. Answered by [`LinkEvent::Closed`].
    Unsubscribe {
        /// The link it is meant for.
        generation: u64,
        /// Which channels.
        kind: ChannelKind,
        /// Rooms that the link is subscribed to.
        rooms: Vec<RoomName>,
    },
    /// Read the past of these rooms. Each request is answered once, in a [`LinkEvent::Read`]; it needs no link.
    Read(Vec<ReadRequest>),
    /// Delete the room's history and begin another numbering; nodes whose members are concerned look again. It needs no
    /// link.
    Forget {
        /// The room.
        room: RoomName,
        /// Where the room is then, or why it is not known to be deleted.
        reply: oneshot::Sender<Result<Position, String>>,
    },
    /// Make a demand of all nodes.
    Demand {
        /// What is demanded.
        demand: Demand,
        /// How many sessions it was done to once all nodes have done it, or why that is not known.
        reply: oneshot::Sender<Result<u64, String>>,
    },
    /// List sessions as members, and read who is listed; it needs no link.
    Presence(Vec<Order>),
    /// Stands for a mistake of ours.
    #[cfg(test)]
    Panic,
}

/// What the link has to tell.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub enum LinkEvent {
    /// A link is there, subscribed to nothing. Its number is higher than every earlier one.
    Up {
        /// The link's number.
        generation: u64,
    },
    /// The link is lost, and all its subscriptions with it.
    Down,
    /// The broker has confirmed these subscriptions.
    Opened {
        /// The link's number.
        generation: u64,
        /// Which channels.
        kind: ChannelKind,
        /// The rooms.
        rooms: Vec<RoomName>,
    },
    /// The broker has confirmed that these subscriptions are gone.
    Closed {
        /// The link's number.
        generation: u64,
        /// Which channels.
        kind: ChannelKind,
        /// The rooms.
        rooms: Vec<RoomName>,
    },
    /// The broker does not allow this subscription.
    Refused {
        /// The link's number.
        generation: u64,
        /// Which channels.
        kind: ChannelKind,
        /// The room.
        room: RoomName,
        /// The broker's words.
        reason: String,
    },
    /// Messages in the order in which the broker sent them.
    Messages(Vec<Arrival>, Transit),
    /// What the rooms' presence channels told, in the order in which the broker sent it.
    Present(Vec<(RoomName, Present)>, Transit),
    /// What came on these channels had to be dropped, because more came than was handled; or a room's history was deleted.
    Missed(ChannelKind, Vec<RoomName>),
    /// What became of orders, in an order that makes sense: a roster before what was settled with it.
    Presence(Vec<Report>),
    /// What was read.
    Read(Vec<ReadOutcome>),
    /// This node is to do this, and to say when it has.
    Demanded {
        /// What.
        demand: Demand,
        /// To sessions that began before this time only, because it is heard late; `None`: to all.
        before: Option<Instant>,
        /// Where that is said.
        done: Done,
    },
}

/// Why no broker could be made of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The Redis settings do not make a client.
    #[error("REDIS_URL or ROOMCAST_REDIS_CA cannot be used: {0}")]
    Redis(#[from] ::redis::RedisError),
}

/// A broker that is not running yet.
pub struct Broker {
    publisher: Publisher,
    queue: PublishQueue,
    kind: Kind,
    retention: Retention,
    health: Arc<Health>,
}

enum Kind {
    Memory,
    Redis(redis::RedisBroker),
}

impl Broker {
    /// Makes the broker that the configuration names, for a node with this name.
    ///
    /// # Errors
    /// [`BrokerError`] if the Redis settings cannot be used. Whether Redis answers is not asked here: a node starts
    /// without it.
    pub fn open(config: &Config, node: &str, metrics: &Arc<Metrics>) -> Result<Self, BrokerError> {
        let health = Arc::new(Health::default());
        let (sender, queue) = mpsc::unbounded_channel();
        let publisher = Publisher {
            queue: sender,
            metrics: metrics.clone(),
        };
        let kind = match &config.redis {
            None => Kind::Memory,
            Some(redis) => Kind::Redis(redis::RedisBroker::new(redis, config, node, metrics, &health)?),
        };
        Ok(Self {
            publisher,
            queue,
            kind,
            retention: config.retention,
            health,
        })
    }

    /// The way in.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// How the broker is.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// One phrase for the line that the program prints at its start.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Memory => {
                "embedded broker (one node; set REDIS_URL to share rooms between nodes)".to_owned()
            }
            Kind::Redis(broker) => format!("Redis at {}", broker.address()),
        }
    }

    /// Starts the broker on the current arbiter. Its events go to `events`; the link's only address is returned.
    pub fn start(self, events: Recipient<LinkEvent>, lifelines: &Lifelines) -> Recipient<LinkCommand> {
        match self.kind {
            Kind::Memory => {
                let metrics = self.publisher.metrics;
                memory::MemoryLink::start(
                    self.queue,
                    events,
                    self.retention,
                    self.health,
                    metrics,
                    lifelines,
                )
            }
            Kind::Redis(broker) => broker.start(self.queue, events, lifelines),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn publisher() -> (Publisher, PublishQueue, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let (queue, taken) = mpsc::unbounded_channel();
        let publisher = Publisher {
            queue,
            metrics: metrics.clone(),
        };
        (publisher, taken, metrics)
    }

    fn publish(publisher: &Publisher, bytes: usize) {
        let message = RoomMessage {
            room: RoomName::new("r").expect("a valid name"),
            content: Content::text("x".repeat(bytes)),
            sender: None,
            session: None,
            time: None,
        };
        let since = Instant::now()
            .checked_sub(Duration::from_secs(1))
            .expect("a second ago");
        publisher.publish(message, None, since, Answer::new(|_| ()));
    }

    fn counted(metrics: &Metrics) -> [u64; 3] {
        [Published::Accepted, Published::Refused, Published::Unknown]
            .map(|outcome| metrics.publishes.get(outcome))
    }

    #[test]
    fn every_answer_is_counted_once_and_timed_from_the_commands_arrival() {
        let (publisher, mut queue, metrics) = publisher();
        for _ in 0..3 {
            publish(&publisher, 10);
        }
        assert_eq!(metrics.publish_queue_depth.get(), 3);
        assert_eq!(counted(&metrics), [0, 0, 0]);
        let mut taken = || queue.try_recv().expect("queued");
        taken().answer.give(PublishOutcome::Accepted(None));
        taken().answer.give(PublishOutcome::Refused("no".to_owned()));
        drop(taken());
        assert_eq!(counted(&metrics), [1, 1, 1]);
        assert_eq!(
            (
                metrics.publish_queue_depth.get(),
                metrics.publish_queue_bytes.get()
            ),
            (0, 0)
        );
        let text = metrics.encode();
        for line in ["_bucket{le=\"0.5\"} 0\n", "_bucket{le=\"2.5\"} 3\n", "_count 3\n"] {
            let line = format!("roomcast_publish_latency_seconds{line}");
            assert!(text.contains(&line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn what_never_reaches_the_queue_is_counted_as_refused() {
        let (publisher, queue, metrics) = publisher();
        let too_much = usize::try_from(MAX_QUEUED_PUBLISH_BYTES).expect("positive");
        publish(&publisher, too_much);
        drop(queue);
        publish(&publisher, 10);
        assert_eq!(counted(&metrics), [0, 2, 0]);
        assert_eq!(metrics.publish_queue_bytes.get(), 0);
    }
}
