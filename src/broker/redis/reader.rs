//! Reads history, on a connection ([`line`](mod@super::line)) on which no publish waits behind long reads.
//!
//! - Requests that wait together go out together; a batch shares [`MAX_BATCH_BYTES`], so that what is read at once is
//!   bounded. Those that only ask for a room's place share one call of the script.
//! - A read changes nothing, so one that is lost with its connection is sent again until [`PATIENCE`] ends.
//! - What is not worth a connection of its own goes out here, too ([`errands`]).

mod errands;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Recipient;
use log::warn;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::sleep;

pub(super) use self::errands::{Errand, Kept};
use super::line::Line;
use super::scripts::page;
use super::{Shared, call_script, within};
use crate::broker::LinkEvent;
use crate::broker::history::{Page, PageLimit, ReadError, ReadOutcome, ReadRequest};

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
    line: Rc<Line>,
    /// The connection that was used last.
    number: u64,
}

impl RedisReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        line: Rc<Line>,
        queue: mpsc::UnboundedReceiver<ReadRequest>,
        errands: mpsc::UnboundedReceiver<Errand>,
        events: Recipient<LinkEvent>,
    ) -> Self {
        Self {
            shared,
            queue,
            errands,
            events,
            line,
            number: 0,
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
            let mut requests = share_bytes(std::mem::take(&mut batch));
            requests.sort_by_key(asks_for_messages);
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
                    sleep(self.line.pause()).await;
                }
                Err(error) => {
                    self.line.give_up(self.number);
                    return Err(error);
                }
                Ok(replies) => return Ok(replies),
            }
        }
    }

    async fn try_read(&mut self, requests: &[ReadRequest]) -> RedisResult<Vec<Value>> {
        let (places, pages) =
            requests.split_at(requests.partition_point(|request| !asks_for_messages(request)));
        let mut commands = Pipeline::with_capacity(1 + pages.len());
        let calls: Vec<&[ReadRequest]> = std::iter::once(places)
            .filter(|places| !places.is_empty())
            .chain(pages.chunks(1))
            .collect();
        for requests in &calls {
            commands.add_command(self.shared.scripts.read(requests));
        }
        let mut connection = self.line.connected().await?;
        self.number = connection.number;
        // Reading twice does no harm, so it does not matter how many of them knew the script.
        let read = call_script(&mut connection.commands, &commands, &self.shared.scripts.read);
        let replies = within(ANSWER_TIMEOUT, "a read", read).await?;
        let of_each = calls
            .iter()
            .zip(replies)
            .flat_map(|(requests, reply)| match reply {
                Value::Array(replies) if replies.len() == requests.len() => replies,
                // An error that is about the call as a whole.
                reply => vec![reply; requests.len()],
            });
        Ok(of_each.collect())
    }

    fn understand(&self, requests: Vec<ReadRequest>, replies: Vec<Value>) -> Vec<ReadOutcome> {
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
            self.line.give_up(self.number);
        }
        outcomes
    }

    fn lost(&self, error: &RedisError) {
        warn!("redis reading connection lost: problem=\"{error}\"");
        self.line.give_up(self.number);
    }
}

fn asks_for_messages(request: &ReadRequest) -> bool {
    request.after.is_some()
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
