//! Publishing over HTTP: the way, the guarantees and the keys are those of a session's `sendMessage`.

use std::time::SystemTime;

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::Payload;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use super::Answer;
use super::answer::{Refusal, done};
use crate::broker::{Answer as Settle, PublishOutcome, RoomMessage};
use crate::config::Config;
use crate::http::{Node, ws};
use crate::protocol::client::ProtocolError;
use crate::protocol::client::request::{PublishRequest, decode_batch};
use crate::protocol::error::{ErrorCode, Outcome};
use crate::protocol::{Position, RoomName};
use crate::tokens::unix_millis;

/// Bytes of a batch, unless a single publish may have more.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// So many of the longest bodies fit into the node's memory at once.
const BODIES: usize = 4;

/// What became of a publish that was taken.
#[derive(Serialize)]
struct Sent {
    room: RoomName,
    #[serde(flatten)]
    position: Option<Position>,
}

/// What became of one that was not.
#[derive(Serialize)]
struct Failed {
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomName>,
    code: ErrorCode,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EntryResult {
    Sent(Sent),
    Failed(Failed),
}

#[derive(Serialize)]
struct Results {
    results: Vec<EntryResult>,
}

/// `POST /api/rooms/{room}/messages`.
pub(super) async fn single(room: RoomName, request: &HttpRequest, body: Payload, node: &Node) -> Answer {
    let body = Body::read(request, body, max_body(&node.config), node).await?;
    let publish = PublishRequest::decode(&body.text, Some(room.clone()), node.config.max_message)?;
    drop(body);
    let (sender, outcome) = oneshot::channel();
    start(node, publish, std::time::Instant::now(), move |outcome| {
        // Fails when the caller has gone.
        let _ = sender.send(outcome);
    });
    // An answer is given even if the broker dies.
    let outcome = outcome.await.unwrap_or_else(|_| lost());
    match settled(outcome) {
        Ok(position) => Ok(done(&Sent { room, position })),
        Err((message, outcome)) => Err(Refusal::unpublished(message, outcome)),
    }
}

/// `POST /api/messages`: many publishes, each with a result of its own. They go on their way in order and at once, so
/// that the broker takes them together.
pub(super) async fn batch(request: &HttpRequest, body: Payload, node: &Node) -> Answer {
    let body = Body::read(request, body, max_batch(&node.config), node).await?;
    let entries = decode_batch(&body.text)?;
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut results: Vec<Option<EntryResult>> = Vec::with_capacity(entries.len());
    let mut rooms = Vec::with_capacity(entries.len());
    let since = std::time::Instant::now();
    for (index, entry) in entries.into_iter().enumerate() {
        match PublishRequest::decode(entry.get(), None, node.config.max_message) {
            Ok(publish) => {
                results.push(None);
                rooms.push(Some(publish.room.clone()));
                let sender = sender.clone();
                start(node, publish, since, move |outcome| {
                    let _ = sender.send((index, outcome));
                });
            }
            Err(error) => {
                results.push(Some(EntryResult::Failed(error.into())));
                rooms.push(None);
            }
        }
    }
    drop((sender, body));
    while let Some((index, outcome)) = outcomes.recv().await {
        if let Some(room) = rooms[index].take() {
            results[index] = Some(EntryResult::new(room, outcome));
        }
    }
    let unanswered = |(result, room): (Option<EntryResult>, Option<RoomName>)| match (result, room) {
        (Some(result), _) => Some(result),
        (None, room) => room.map(|room| EntryResult::new(room, lost())),
    };
    let results = results.into_iter().zip(rooms).filter_map(unanswered).collect();
    Ok(done(&Results { results }))
}

/// Bytes in which any message of the allowed length fits, with what stands around it: what a session may send at once.
fn max_body(config: &Config) -> usize {
    usize::try_from(ws::max_frame(config)).unwrap_or(usize::MAX)
}

fn max_batch(config: &Config) -> usize {
    MAX_BATCH_BYTES.max(max_body(config))
}

/// Bytes that the bodies of all requests may take together, until they are understood.
pub(crate) fn max_bodies(config: &Config) -> usize {
    max_batch(config)
        .saturating_mul(BODIES)
        .min(Semaphore::MAX_PERMITS)
}

/// The body of a request.
struct Body<'a> {
    text: String,
    /// Its part of what all bodies may take.
    _held: SemaphorePermit<'a>,
}

impl<'a> Body<'a> {
    /// Reads a body of so many bytes at most.
    async fn read(
        request: &HttpRequest,
        mut body: Payload,
        most: usize,
        node: &'a Node,
    ) -> Result<Self, Refusal> {
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
        if announced.is_some_and(|length| length > most as u64) {
            return Err(Refusal::body_too_large(most));
        }
        let take = |bytes: usize| {
            let taken = u32::try_from(bytes).map(|bytes| node.api_bodies.try_acquire_many(bytes));
            let Ok(Ok(permit)) = taken else {
                let problem = "this node reads as many bodies of requests as it has memory for".to_owned();
                return Err(Refusal::unpublished(problem, Outcome::Refused));
            };
            Ok(permit)
        };
        // Not what was announced: memory is taken for what has come.
        let (mut bytes, mut held) = (Vec::new(), take(0)?);
        while let Some(part) = body.next().await {
            let part =
                part.map_err(|error| Refusal::bad_json(format!("the body cannot be read: {error}")))?;
            if bytes.len() + part.len() > most {
                return Err(Refusal::body_too_large(most));
            }
            held.merge(take(part.len())?);
            bytes.extend_from_slice(&part);
        }
        let text = String::from_utf8(bytes).map_err(|_| Refusal::bad_json("the body is not UTF-8"))?;
        Ok(Self { text, _held: held })
    }
}

fn start(
    node: &Node,
    publish: PublishRequest,
    since: std::time::Instant,
    settle: impl FnOnce(PublishOutcome) + Send + 'static,
) {
    let PublishRequest {
        room,
        content,
        sender,
        key,
    } = publish;
    let message = RoomMessage {
        room,
        content,
        sender,
        session: None,
        time: Some(unix_millis(SystemTime::now())),
    };
    node.hub
        .publisher
        .publish(message, key, since, Settle::new(settle));
}

/// What is known of a publish whose answer was dropped.
fn lost() -> PublishOutcome {
    PublishOutcome::Unknown("the node is stopping".to_owned())
}

fn settled(outcome: PublishOutcome) -> Result<Option<Position>, (String, Outcome)> {
    match outcome {
        PublishOutcome::Accepted(position) => Ok(position),
        PublishOutcome::Refused(reason) => Err((reason, Outcome::Refused)),
        PublishOutcome::Unknown(reason) => Err((reason, Outcome::Unknown)),
    }
}

impl EntryResult {
    fn new(room: RoomName, outcome: PublishOutcome) -> Self {
        match settled(outcome) {
            Ok(position) => Self::Sent(Sent { room, position }),
            Err((message, outcome)) => Self::Failed(Failed {
                room: Some(room),
                code: ErrorCode::Unavailable,
                message,
                outcome: Some(outcome),
            }),
        }
    }
}

impl From<ProtocolError> for Failed {
    fn from(error: ProtocolError) -> Self {
        Self {
            room: error.room,
            code: error.code,
            message: error.message,
            outcome: None,
        }
    }
}
