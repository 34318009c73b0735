//! Which rooms are occupied on this node.

use serde::Serialize;
use tokio::sync::oneshot;

use super::answer::{Refusal, done};
use super::target::{Query, from_hex, to_hex};
use super::{Answer, deadline, within};
use crate::http::Node;
use crate::protocol::RoomName;
use crate::rooms::registry::queries::{CountMembers, ListRooms};

/// Rooms on a page, if nothing else is asked for.
const DEFAULT_LIMIT: u64 = 100;

/// Rooms on a page at most.
const MAX_LIMIT: u64 = 1_000;

#[derive(Serialize)]
struct Occupied {
    room: RoomName,
    sessions: usize,
}

#[derive(Serialize)]
struct PageOfRooms<'a> {
    node: &'a str,
    rooms: Vec<Occupied>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct OneRoom<'a> {
    node: &'a str,
    room: RoomName,
    sessions: usize,
}

/// `GET /api/rooms`.
pub(super) async fn list(query: &Query<'_>, node: &Node) -> Answer {
    let limit = query.number("limit")?.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let limit = usize::try_from(limit).unwrap_or_default();
    if limit == 0 {
        return Err(Refusal::bad_command("\"limit\" must be 1 or more"));
    }
    let after = query.text("cursor")?.map(|cursor| {
        let room = from_hex(&cursor).and_then(|name| RoomName::new(&name).ok());
        room.ok_or_else(|| Refusal::bad_command("\"cursor\" must be that of the page before, as it is"))
    });
    let (reply, listed) = oneshot::channel();
    let after = after.transpose()?;
    node.hub.registry.do_send(ListRooms { after, limit, reply });
    let (rooms, has_more) = within(deadline(), listed).await?;
    let last = rooms.last().filter(|_| has_more);
    Ok(done(&PageOfRooms {
        node: &node.name,
        cursor: last.map(|(room, _)| to_hex(room.as_str())),
        rooms: rooms
            .into_iter()
            .map(|(room, sessions)| Occupied { room, sessions })
            .collect(),
    }))
}

/// `GET /api/rooms/{room}`.
pub(super) async fn one(room: RoomName, node: &Node) -> Answer {
    let (reply, count) = oneshot::channel();
    node.hub.registry.do_send(CountMembers {
        room: room.clone(),
        reply,
    });
    let sessions = within(deadline(), count).await?;
    Ok(done(&OneRoom {
        node: &node.name,
        room,
        sessions,
    }))
}
