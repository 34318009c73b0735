//! The publishing connection: one queue, one writer, one batch under way.
//!
//! - What is queued goes out in one write per batch, in order; the next batch waits for the answers to the last. So a
//!   publish is never overtaken by a later one, and the queue grows into batches when Redis is slow.
//! - While the connection is away a publish waits [`PATIENCE`] for its return and is then refused: it has not left this
//!   process. One that was sent and not answered in [`ANSWER_TIMEOUT`] has an unknown outcome.
//! - An error that Redis answers is a refusal: Redis did not carry the command out.
//! - Once every [`CANARY_INTERVAL`] a canary goes along, to be heard again by this node's subscription.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{interval, sleep_until, timeout};

use super::backoff::Backoff;
use super::{CANARY_INTERVAL, DIAL_TIMEOUT, Shared, payload};
use crate::broker::{Publish, PublishOutcome, PublishQueue};
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

pub(super) struct RedisPublisher {
    shared: Arc<Shared>,
    queue: PublishQueue,
    /// Taken from the queue, not sent yet.
    waiting: VecDeque<Publish>,
    backoff: Backoff,
    next_canary: Instant,
    dial_log: Throttle,
}

impl RedisPublisher {
    pub(super) fn new(shared: Arc<Shared>, queue: PublishQueue) -> Self {
        Self {
            shared,
            queue,
            waiting: VecDeque::new(),
            backoff: Backoff::default(),
            next_canary: Instant::now(),
            dial_log: Throttle::per_second(),
        }
    }

    /// Runs until every [`Publisher`](crate::broker::Publisher) is gone.
    pub(super) async fn run(mut self) {
        while let Some(connection) = self.connect().await {
            self.shared.health.publisher_up();
            let Err(error) = self.serve(connection).await else {
                return;
            };
            warn!("redis publishing connection lost: problem=\"{error}\"");
            self.shared.metrics.redis_losses.inc();
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
                shared.metrics.redis_dials.inc();
                // The crate's own timeouts are off: ours cover the whole of a dial and of a batch.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(None)
                    .set_response_timeout(None);
                timeout(
                    DIAL_TIMEOUT,
                    shared
                        .client
                        .get_multiplexed_async_connection_with_config(&config),
                )
                .await
            };
            let problem = match self.refuse_during(dial).await? {
                Ok(Ok(connection)) => {
                    self.backoff.connected(Instant::now());
                    info!("publishing to redis");
                    return Some(connection);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the dial was not answered in time".to_owned(),
            };
            if let Some(suppressed) = self.dial_log.pass(Instant::now()) {
                warn!("no publishing connection to redis: problem={problem:?} unlogged={suppressed}");
            }
            self.shared.health.publisher_down(problem);
        }
    }

    /// Waits for `future`, and meanwhile refuses what has waited too long. `None` when the node stops.
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
                    self.waiting.extend(batch.drain(..));
                }
                now = looks.tick(), if !self.waiting.is_empty() => self.refuse_overdue(now.into_std()),
            }
        }
    }

    fn refuse_overdue(&mut self, now: Instant) {
        // Not only at the front: who waited for a subscription first has been waiting for longer than its neighbours.
        for publish in std::mem::take(&mut self.waiting) {
            if now >= publish.since + PATIENCE {
                let reason = "there is no connection to redis".to_owned();
                publish.answer.give(PublishOutcome::Refused(reason));
            } else {
                self.waiting.push_back(publish);
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
                        self.waiting.extend(taken.drain(..));
                    }
                }
            }
            let now = Instant::now();
            let with_canary = now >= self.next_canary;
            if with_canary {
                self.next_canary = now + CANARY_INTERVAL;
            }
            let batch = self.next_batch();
            self.send(&mut connection, batch, with_canary).await?;
        }
    }

    fn next_batch(&mut self) -> Vec<Publish> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH_BYTES && batch.len() < MAX_BATCH {
            let Some(publish) = self.waiting.pop_front() else {
                break;
            };
            bytes += publish.message.cost();
            batch.push(publish);
        }
        batch
    }

    async fn send(
        &mut self,
        connection: &mut MultiplexedConnection,
        batch: Vec<Publish>,
        with_canary: bool,
    ) -> RedisResult<()> {
        let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
        for publish in &batch {
            let channel = self.shared.channel(&publish.message.room);
            pipeline
                .cmd("PUBLISH")
                .arg(channel)
                .arg(payload::encode(&publish.message));
        }
        if with_canary {
            pipeline.cmd("PUBLISH").arg(&self.shared.canary_channel).arg("");
        }
        let now = Instant::now();
        let oldest = batch.iter().map(|publish| publish.since).min().unwrap_or(now);
        let patience = (oldest + ANSWER_TIMEOUT)
            .saturating_duration_since(now)
            .max(MIN_ANSWER_TIMEOUT);
        let count = batch.len() + usize::from(with_canary);
        let sent = connection.send_packed_commands(&pipeline, 0, count);
        let answers = match timeout(patience, sent).await {
            Ok(answers) => answers,
            Err(_) => Err(RedisError::from(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "a publish was not answered in time",
            ))),
        };
        self.settle(batch, with_canary, answers)
    }

    fn settle(
        &mut self,
        batch: Vec<Publish>,
        with_canary: bool,
        answers: RedisResult<Vec<Value>>,
    ) -> RedisResult<()> {
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                for publish in batch {
                    publish.answer.give(PublishOutcome::Unknown(error.to_string()));
                }
                return Err(error);
            }
        };
        let mut demoted = None;
        for publish in batch {
            let outcome = match answers.next() {
                Some(Value::ServerError(error)) => {
                    let error = RedisError::from(error);
                    let outcome = PublishOutcome::Refused(error.to_string());
                    // This server has become a replica: its master is elsewhere.
                    if error.code() == Some("READONLY") {
                        demoted = Some(error);
                    }
                    outcome
                }
                Some(_) => PublishOutcome::Accepted,
                None => PublishOutcome::Unknown("redis gave fewer answers than it was asked".to_owned()),
            };
            publish.answer.give(outcome);
        }
        if with_canary && !matches!(answers.next(), Some(Value::ServerError(_)) | None) {
            self.shared.health.canary_taken(Instant::now());
        }
        demoted.map_or(Ok(()), Err)
    }
}
