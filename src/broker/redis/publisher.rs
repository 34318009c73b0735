//! The publishing connection: one queue, one writer, one batch under way.
//!
//! - What is queued goes out in one write per batch, in order; the next batch waits for the answers to the last. So a
//!   publish is never overtaken by a later one, and the queue grows into batches when Redis is slow.
//! - With history a batch is one call of a script: if Redis does not know it, none of its publishes has happened, and
//!   all are sent again, in order, with the script's text.
//! - While the connection is away a publish waits [`PATIENCE`] for its return and is then refused: it has not left this
//!   process. One that was sent and lost its answer with the connection has an unknown outcome, unless it has an
//!   idempotence key: then it is sent again, until [`ANSWER_TIMEOUT`].
//! - An error that Redis answers is a refusal: Redis did not carry the command out.
//! - Once every [`CANARY_INTERVAL`] a canary goes along, to be heard again by this node's subscription.

use std::collections::VecDeque;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use lru::LruCache;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};
use rustc_hash::FxHashMap;
use tokio::time::{interval, sleep_until};

use super::backoff::Backoff;
use super::scripts::{Item, Numbered, Seen, numbered};
use super::{CANARY_INTERVAL, Shared, call_script, within};
use crate::broker::{Publish, PublishOutcome, PublishQueue};
use crate::metrics::labels::Connection;
use crate::protocol::RoomName;
use crate::throttle::Throttle;

/// How long a publish waits for a connection before it is refused.
const PATIENCE: Duration = Duration::from_millis(800);

/// How often overdue publishes are looked for while there is no connection.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(50);

/// How long after it was queued a publish is answered, whatever Redis does.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_600);

/// The least time that a batch is given, however long its publishes have waited before.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// Publishes in one batch at most.
const MAX_BATCH: usize = 512;

/// Payload bytes in one batch at most, as far as whole publishes allow.
const MAX_BATCH_BYTES: usize = 512 * 1024;

/// Rooms whose last place is remembered, so that a Redis that comes back with older data is found out.
const MAX_SEEN_ROOMS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

pub(super) struct RedisPublisher {
    shared: Arc<Shared>,
    queue: PublishQueue,
    /// Taken from the queue, not answered yet.
    waiting: VecDeque<Waiting>,
    seen: LruCache<RoomName, Seen>,
    backoff: Backoff,
    next_canary: Instant,
    dial_log: Throttle,
    loss_log: Throttle,
}

struct Waiting {
    publish: Publish,
    /// It has been sent before, and may have been carried out.
    sent: bool,
}

impl Waiting {
    fn new(publish: Publish) -> Self {
        Self { publish, sent: false }
    }

    /// Answers it, if it has waited for a connection for too long.
    fn unless_overdue(self, now: Instant) -> Option<Self> {
        let patience = if self.sent { ANSWER_TIMEOUT } else { PATIENCE };
        if now < self.publish.since + patience {
            return Some(self);
        }
        self.give_up("there is no connection to redis");
        None
    }

    /// Answers it: whether it was published is known only if it was never sent.
    fn give_up(self, problem: &str) {
        self.publish.answer.give(if self.sent {
            PublishOutcome::Unknown(problem.to_owned())
        } else {
            PublishOutcome::Refused(problem.to_owned())
        });
    }
}

impl RedisPublisher {
    pub(super) fn new(shared: Arc<Shared>, queue: PublishQueue) -> Self {
        Self {
            shared,
            queue,
            waiting: VecDeque::new(),
            seen: LruCache::new(MAX_SEEN_ROOMS),
            backoff: Backoff::default(),
            next_canary: Instant::now(),
            dial_log: Throttle::per_second(1),
            loss_log: Throttle::per_second(1),
        }
    }

    /// Runs until every [`Publisher`](crate::broker::Publisher) is gone.
    pub(super) async fn run(mut self) {
        while let Some(connection) = self.connect().await {
            self.shared.health.publisher_up();
            let Err(error) = self.serve(connection).await else {
                return;
            };
            if let Some(unlogged) = self.loss_log.pass(Instant::now()) {
                warn!("redis publishing connection lost: problem=\"{error}\" unlogged={unlogged}");
            }
            self.shared.metrics.redis_losses.inc(Connection::Publisher);
            self.shared.health.publisher_down(error.to_string());
        }
    }

    /// Dials until a connection is there. `None` when the node stops.
    async fn connect(&mut self) -> Option<MultiplexedConnection> {
        loop {
            let pause = self.backoff.next(Instant::now(), fastrand::f64());
            let shared = self.shared.clone();
            let dial = async move {
                tokio::time::sleep(pause).await;
                shared.dial(Connection::Publisher).await
            };
            let problem = match self.refuse_during(dial).await? {
                Ok(connection) => {
                    self.backoff.connected(Instant::now());
                    info!("publishing to redis");
                    return Some(connection);
                }
                Err(error) => error.to_string(),
            };
            if let Some(suppressed) = self.dial_log.pass(Instant::now()) {
                warn!("no publishing connection to redis: problem={problem:?} unlogged={suppressed}");
            }
            self.shared.health.publisher_down(problem);
        }
    }

    /// Waits for `future`, and meanwhile gives up what has waited too long. `None` when the node stops.
    async fn refuse_during<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut batch = Vec::new();
        let mut looks = interval(REFUSAL_INTERVAL);
        loop {
            tokio::select! {
                output = &mut future => return Some(output),
                count = self.queue.recv_many(&mut batch, MAX_BATCH) => {
                    if count == 0 {
                        return None;
                    }
                    self.waiting.extend(batch.drain(..).map(Waiting::new));
                }
                now = looks.tick(), if !self.waiting.is_empty() => {
                    let now = now.into_std();
                    // Not only at the front: who waited for a subscription first has waited longer than its neighbours.
                    let waiting = std::mem::take(&mut self.waiting);
                    self.waiting = waiting.into_iter().filter_map(|waiting| waiting.unless_overdue(now)).collect();
                }
            }
        }
    }

    /// Publishes batch after batch until the connection fails. `Ok` when the node stops.
    async fn serve(&mut self, mut connection: MultiplexedConnection) -> RedisResult<()> {
        let mut taken = Vec::new();
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    () = sleep_until(self.next_canary.into()) => {}
                    count = self.queue.recv_many(&mut taken, MAX_BATCH) => {
                        if count == 0 {
                            return Ok(());
                        }
                        self.waiting.extend(taken.drain(..).map(Waiting::new));
                    }
                }
            }
            let now = Instant::now();
            let with_canary = now >= self.next_canary;
            if with_canary {
                self.next_canary = now + CANARY_INTERVAL;
            }
            let batch = self.next_batch(now);
            self.publish(&mut connection, batch, with_canary).await?;
        }
    }

    fn next_batch(&mut self, now: Instant) -> Vec<Waiting> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH_BYTES && batch.len() < MAX_BATCH {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            if now >= waiting.publish.since + ANSWER_TIMEOUT {
                waiting.give_up("redis takes publishes more slowly than they come");
                continue;
            }
            bytes += waiting.publish.message.cost();
            batch.push(waiting);
        }
        batch
    }

    /// Sends a batch and hands out what becomes of it.
    async fn publish(
        &mut self,
        connection: &mut MultiplexedConnection,
        batch: Vec<Waiting>,
        with_canary: bool,
    ) -> RedisResult<()> {
        let now = Instant::now();
        let oldest = batch.iter().map(|waiting| waiting.publish.since).min();
        let oldest = oldest.unwrap_or(now);
        let patience = (oldest + ANSWER_TIMEOUT)
            .saturating_duration_since(now)
            .max(MIN_ANSWER_TIMEOUT);
        let seen = self.seen(&batch, now);
        let sent = self.send(connection, &batch, &seen, with_canary);
        match within(patience, "a publish", sent).await {
            Ok(replies) => self.settle(batch, seen, replies),
            Err(error) => {
                self.lost(batch, &error);
                Err(error)
            }
        }
    }

    /// What was seen of the room of each publish, and what each may foresee.
    fn seen(&mut self, batch: &[Waiting], now: Instant) -> Vec<Option<Seen>> {
        let mut ahead: FxHashMap<&RoomName, u64> = FxHashMap::default();
        batch
            .iter()
            .map(|Waiting { publish, .. }| {
                let room = &publish.message.room;
                let mut seen = self.seen.get(room).cloned()?;
                let ahead = ahead.entry(room).or_default();
                *ahead += 1;
                seen.foreseen = seen.offset + *ahead;
                seen.is_due = now >= seen.renewed + self.shared.scripts.renewal_interval();
                Some(seen)
            })
            .collect()
    }

    /// Sends a batch, and sends it again if Redis did not know the script. The replies, one for each publish.
    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        batch: &[Waiting],
        seen: &[Option<Seen>],
        with_canary: bool,
    ) -> RedisResult<Vec<Value>> {
        let scripts = &self.shared.scripts;
        let is_one_call = scripts.keep_history() && !batch.is_empty();
        let mut commands = Pipeline::with_capacity(batch.len() + 1);
        if is_one_call {
            let items = batch
                .iter()
                .zip(seen)
                .map(|(Waiting { publish, .. }, seen)| Item {
                    message: &publish.message,
                    key: publish.key.as_ref(),
                    seen: seen.as_ref(),
                });
            commands.add_command(scripts.publish(items));
        } else {
            for Waiting { publish, .. } in batch {
                commands.add_command(scripts.publish_bare(&publish.message, publish.key.as_ref()));
            }
        }
        if with_canary {
            let canary = self.shared.canary();
            commands
                .cmd("PUBLISH")
                .arg(&self.shared.canary_channel)
                .arg(canary);
        }
        let mut replies = call_script(connection, &commands, &scripts.publish).await?;
        if with_canary && !matches!(replies.pop(), Some(Value::ServerError(_)) | None) {
            self.shared.health.canary_taken(Instant::now());
        }
        Ok(match replies.pop() {
            Some(Value::Array(replies)) if is_one_call => replies,
            // An error that is about the call as a whole.
            Some(reply) if is_one_call => vec![reply; batch.len()],
            last => replies.into_iter().chain(last).collect(),
        })
    }

    fn settle(
        &mut self,
        batch: Vec<Waiting>,
        seen: Vec<Option<Seen>>,
        replies: Vec<Value>,
    ) -> RedisResult<()> {
        let mut replies = replies.into_iter();
        let mut demoted = None;
        for (Waiting { publish, sent }, seen) in batch.into_iter().zip(seen) {
            let outcome = match replies.next() {
                Some(Value::ServerError(error)) => {
                    let error = RedisError::from(error);
                    // What was sent before may have been carried out then.
                    let outcome = if sent {
                        PublishOutcome::Unknown(error.to_string())
                    } else {
                        PublishOutcome::Refused(error.to_string())
                    };
                    // This server has become a replica: its master is elsewhere.
                    if error.code() == Some("READONLY") {
                        demoted = Some(error);
                    }
                    outcome
                }
                Some(_) if !self.shared.scripts.keep_history() => PublishOutcome::Accepted(None),
                Some(reply) => self.numbered(&publish.message.room, seen, &reply),
                None => PublishOutcome::Unknown("redis gave fewer answers than it was asked".to_owned()),
            };
            publish.answer.give(outcome);
        }
        demoted.map_or(Ok(()), Err)
    }

    /// Remembers the place of a publish that was numbered with what had been seen before.
    fn numbered(&mut self, room: &RoomName, before: Option<Seen>, reply: &Value) -> PublishOutcome {
        let now = Instant::now();
        let seen = match (numbered(reply), before) {
            (Some(Numbered::Repeated(position)), _) => return PublishOutcome::Accepted(Some(position)),
            (Some(Numbered::Anew(numbering, offset)), _) => Seen {
                numbering,
                offset,
                foreseen: offset + 1,
                renewed: now,
                is_due: false,
            },
            (Some(Numbered::AsSeen(offset)), Some(before)) => Seen {
                offset,
                renewed: if before.is_due { now } else { before.renewed },
                ..before
            },
            (Some(Numbered::AsSeen(_)) | None, _) => {
                let problem = format!("redis gave another answer than expected: {reply:?}");
                return PublishOutcome::Unknown(problem);
            }
        };
        let position = seen.numbering.position(seen.offset);
        self.seen.put(room.clone(), seen);
        PublishOutcome::Accepted(Some(position))
    }

    /// The connection was lost with a batch under way. What has an idempotence key goes back to the front of the queue.
    fn lost(&mut self, batch: Vec<Waiting>, error: &RedisError) {
        let now = Instant::now();
        for Waiting { publish, .. } in batch.into_iter().rev() {
            if publish.key.is_some() && now < publish.since + ANSWER_TIMEOUT {
                self.waiting.push_front(Waiting { publish, sent: true });
            } else {
                publish.answer.give(PublishOutcome::Unknown(error.to_string()));
            }
        }
    }
}
