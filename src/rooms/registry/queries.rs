//! What the HTTP API asks the registry: who is where on this node, and the rooms' past.
//!
//! - A question is answered through the channel that came with it. Nobody may be waiting there any more; then the answer is
//!   dropped.
//! - Reads share the link's batches with those of the timelines, and are told apart from them by their numbers.

use std::collections::HashMap;

use actix::prelude::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::RoomRegistry;
use crate::broker::LinkCommand;
use crate::broker::control::Demand;
use crate::broker::history::{Page, PageLimit, ReadError, ReadOutcome, ReadRequest};
use crate::metrics::labels;
use crate::protocol::{Position, RoomName};

/// Where a page of the past goes.
type PageReply = oneshot::Sender<Result<Page, ReadError>>;

/// Reads that were asked for and are not answered, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Questions(HashMap<u64, PageReply>);

/// Asks for a page of a room's past. The fields are those of [`ReadRequest`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadPage {
    /// The room.
    pub room: RoomName,
    /// What the asker knows of its numbering.
    pub known: Option<Position>,
    /// Read what comes after this offset.
    pub after: Option<u64>,
    /// How much of it.
    pub limit: PageLimit,
    /// Dropped without an answer if the node stops.
    pub reply: oneshot::Sender<Result<Page, ReadError>>,
}

/// Deletes a room's history. There must be history.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ForgetHistory {
    /// The room.
    pub room: RoomName,
    /// Dropped without an answer if the node stops.
    pub reply: oneshot::Sender<Result<Position, String>>,
}

/// Asks for rooms that have members on this node, ordered by name.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ListRooms {
    /// Those behind this one.
    pub after: Option<RoomName>,
    /// At most so many.
    pub limit: usize,
    /// The rooms with their members, and whether there are more.
    pub reply: oneshot::Sender<(Vec<(RoomName, usize)>, bool)>,
}

/// Asks how many members a room has on this node.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CountMembers {
    /// The room.
    pub room: RoomName,
    /// Their number.
    pub reply: oneshot::Sender<usize>,
}

/// Has something done to a user's sessions on all nodes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MakeDemand {
    /// What.
    pub demand: Demand,
    /// How many sessions it was done to once all nodes have done it, or why that is not known.
    pub reply: oneshot::Sender<Result<u64, String>>,
}

impl RoomRegistry {
    /// Hands a page to whoever asked for it. Gives it back if no question has this number.
    pub(super) fn answer(&mut self, outcome: ReadOutcome) -> Option<ReadOutcome> {
        let Some(reply) = self.questions.0.remove(&outcome.id) else {
            return Some(outcome);
        };
        self.metrics.history_reads.inc(match &outcome.page {
            Ok(_) => labels::Read::Answered,
            Err(ReadError::Away(_)) => labels::Read::Away,
            Err(ReadError::Refused(_)) => labels::Read::Refused,
        });
        let _ = reply.send(outcome.page);
        None
    }
}

impl Handler<ReadPage> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, read: ReadPage, ctx: &mut Context<Self>) {
        self.last_read += 1;
        self.questions.0.insert(self.last_read, read.reply);
        self.reads.push(ReadRequest {
            id: self.last_read,
            room: read.room,
            known: read.known,
            after: read.after,
            limit: read.limit,
        });
        self.request_flush(ctx);
    }
}

impl Handler<ForgetHistory> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, ForgetHistory { room, reply }: ForgetHistory, _: &mut Context<Self>) {
        if let Some(link) = &self.link {
            link.do_send(LinkCommand::Forget { room, reply });
        }
    }
}

impl Handler<MakeDemand> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, MakeDemand { demand, reply }: MakeDemand, _: &mut Context<Self>) {
        if let Some(link) = &self.link {
            link.do_send(LinkCommand::Demand { demand, reply });
        }
    }
}

impl Handler<ListRooms> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, ListRooms { after, limit, reply }: ListRooms, _: &mut Context<Self>) {
        let _ = reply.send(self.table.rooms_after(after.as_ref(), limit));
    }
}

impl Handler<CountMembers> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, CountMembers { room, reply }: CountMembers, _: &mut Context<Self>) {
        let _ = reply.send(self.table.member_count(&room));
    }
}
