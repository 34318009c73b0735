//! Who is listed as a member of a room.

use actix_web::http::StatusCode;
use tokio::sync::oneshot;

use super::answer::{Refusal, json};
use super::{Answer, deadline, within};
use crate::http::Node;
use crate::protocol::RoomName;
use crate::protocol::server::ServerFrame;
use crate::rooms::{ListMembers, MembersReply};

/// `GET /api/rooms/{room}/members`: the frame that answers MEMBERS.
pub(super) async fn list(room: RoomName, node: &Node) -> Answer {
    let (reply, listed) = oneshot::channel();
    node.hub.registry.do_send(ListMembers {
        room: room.clone(),
        // Fails when nobody waits any more.
        reply: MembersReply::new(move |members| drop(reply.send(members))),
    });
    let list = within(deadline(), listed).await?;
    let list = list.map_err(|problem| Refusal::unavailable(format!("not listed, try again: {problem}")))?;
    let frame = ServerFrame::Members {
        id: None,
        room: &room,
        count: list.count,
        members: &list.members,
    };
    Ok(json(StatusCode::OK, frame.encode()))
}
