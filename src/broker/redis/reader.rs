//! The reading connection: history is read here, so that publishes do not wait behind long reads.
//!
//! - Requests that wait together go out together; a batch shares [`MAX_BATCH_BYTES`], so that what is read at once is
//!   bounded.
//! - A read changes nothing, so one that is lost with its connection is sent again until [`PATIENCE`] ends.
//! - The connection is opened when it is needed. It is replaced when the subscribing one has been: whatever broke that
//!   one may have broken this one without a word.
//! - What is not worth a connection of its own goes out here, too ([`errands`]).

mod errands;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::Recipient;
use log::{info, warn};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::sleep;

pub(super) use self::errands::Errand;
use super::backoff::Backoff;
use super::scripts::page;
use super::{Shared, call_script, within};
use crate::broker::LinkEvent;
use crate::broker::history::{Page, PageLimit, ReadError, ReadOutcome, ReadRequest};
use crate::metrics::labels;

/// Requests in one batch at most.
const MAX_BATCH: usize = 256;

/// Payload bytes that one batch may bring, as far as whole messages allow.
const MAX_BATCH_BYTES: u64 = 8 * 1024 * 1024;

/// How long Redis may take to answer a batch.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long a request is tried for before its asker is told that Redis is away.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct RedisReader {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedReceiver<ReadRequest>,
    errands: mpsc::UnboundedReceiver<Errand>,
    events: Recipient<LinkEvent>,
    connection: Option<Connection>,
    backoff: Backoff,
}

struct Connection {
    commands: MultiplexedConnection,
    /// The subscribing connection that it was opened beside.
    link: u64,
}

impl RedisReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::UnboundedReceiver<ReadRequest>,
        errands: mpsc::UnboundedReceiver<Errand>,
        events: Recipient<LinkEvent>,
    ) -> Self {
        Self {
            shared,
            queue,
            errands,
            events,
            connection: None,
            backoff: Backoff::default(),
        }
    }

    /// Runs until the subscriber is gone.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let count = tokio::select! {
                Some(errand) = self.errands.recv() => {
                    self.run_errand(errand).await;
                    continue;
                }
                count = self.queue.recv_many(&mut batch, MAX_BATCH) => count,
            };
            if count == 0 {
                return;
            }
            let requests = share_bytes(std::mem::take(&mut batch));
            let outcomes = match self.read(&requests).await {
                Ok(replies) => self.understand(requests, replies),
                Err(error) => {
                    let problem = error.to_string();
                    let away = |request: ReadRequest| outcome(request, Err(ReadError::Away(problem.clone())));
                    requests.into_iter().map(away).collect()
                }
            };
            self.events.do_send(LinkEvent::Read(outcomes));
        }
    }

    async fn read(&mut self, requests: &[ReadRequest]) -> RedisResult<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_read(requests).await {
                Err(error) if Instant::now() < deadline => {
                    self.lost(&error);
                    sleep(self.backoff.next(Instant::now(), fastrand::f64())).await;
                }
                Err(error) => {
                    self.give_up_connection();
                    return Err(error);
                }
                Ok(replies) => return Ok(replies),
            }
        }
    }

    async fn try_read(&mut self, requests: &[ReadRequest]) -> RedisResult<Vec<Value>> {
        let mut commands = Pipeline::with_capacity(requests.len());
        for request in requests {
            commands.add_command(self.shared.scripts.read(request));
        }
        let shared = self.shared.clone();
        let connection = self.connected().await?;
        // Reading twice does no harm, so it does not matter how many of them knew the script.
        let read = call_script(connection, &commands, &shared.scripts.read);
        within(ANSWER_TIMEOUT, "a read", read).await
    }

    async fn connected(&mut self) -> RedisResult<&mut MultiplexedConnection> {
        let link = self.shared.link.load(Ordering::Relaxed);
        let connection = match self.connection.take() {
            Some(connection) if connection.link == link => connection,
            _ => {
                let commands = self.shared.dial(labels::Connection::Reader).await?;
                self.backoff.connected(Instant::now());
                info!("reading from redis");
                Connection { commands, link }
            }
        };
        Ok(&mut self.connection.insert(connection).commands)
    }

    fn understand(&mut self, requests: Vec<ReadRequest>, replies: Vec<Value>) -> Vec<ReadOutcome> {
        let mut replies = replies.into_iter();
        let mut demoted = false;
        let understand = |request: ReadRequest| {
            let reply = match replies.next() {
                Some(Value::ServerError(error)) => Err(RedisError::from(error)),
                Some(reply) => page(&request.room, reply, self.shared.max_payload),
                None => Err(RedisError::from(std::io::Error::other("a reply is missing"))),
            };
            let page = reply.map_err(|error| {
                demoted |= error.code() == Some("READONLY");
                if is_passing(&error) {
                    ReadError::Away(error.to_string())
                } else {
                    ReadError::Refused(error.to_string())
                }
            });
            outcome(request, page)
        };
        let outcomes = requests.into_iter().map(understand).collect();
        if demoted {
            // This server has become a replica: its master is elsewhere.
            self.give_up_connection();
        }
        outcomes
    }

    fn lost(&mut self, error: &RedisError) {
        warn!("redis reading connection lost: problem=\"{error}\"");
        self.give_up_connection();
    }

    fn give_up_connection(&mut self) {
        // There is none where the dial failed.
        if self.connection.take().is_some() {
            self.shared.metrics.redis_losses.inc(labels::Connection::Reader);
        }
    }
}

/// Whether the same command may succeed later: Redis is loading its data, is being failed over, or cannot write.
fn is_passing(error: &RedisError) -> bool {
    let passing = [
        "LOADING",
        "BUSY",
        "MASTERDOWN",
        "READONLY",
        "TRYAGAIN",
        "MISCONF",
        "NOREPLICAS",
    ];
    error.code().is_some_and(|code| passing.contains(&code))
}

fn outcome(request: ReadRequest, page: Result<Page, ReadError>) -> ReadOutcome {
    ReadOutcome {
        id: request.id,
        room: request.room,
        page,
    }
}

fn share_bytes(mut requests: Vec<ReadRequest>) -> Vec<ReadRequest> {
    let share = MAX_BATCH_BYTES / requests.len().max(1) as u64;
    for request in &mut requests {
        let PageLimit { entries, bytes } = request.limit;
        request.limit = PageLimit {
            entries,
            bytes: bytes.min(share),
        };
    }
    requests
}
