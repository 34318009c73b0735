//! What is done to a user's sessions, on all nodes.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::{Refusal, done};
use super::{Answer, PATIENCE, within};
use crate::broker::control::Demand;
use crate::http::Node;
use crate::protocol::RoomName;
use crate::rooms::registry::queries::MakeDemand;

#[derive(Serialize)]
struct Affected {
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomName>,
    user: Arc<str>,
    sessions: u64,
}

/// `POST /api/users/{user}/disconnect`.
pub(super) async fn disconnect(user: Arc<str>, node: &Node) -> Answer {
    let sessions = demand(Demand::Disconnect { user: user.clone() }, node).await?;
    let room = None;
    Ok(done(&Affected { room, user, sessions }))
}

/// `DELETE /api/rooms/{room}/members/{user}`.
pub(super) async fn remove(room: RoomName, user: Arc<str>, node: &Node) -> Answer {
    let demanded = Demand::Remove {
        user: user.clone(),
        room: room.clone(),
    };
    let sessions = demand(demanded, node).await?;
    let room = Some(room);
    Ok(done(&Affected { room, user, sessions }))
}

async fn demand(demand: Demand, node: &Node) -> Result<u64, Refusal> {
    let (reply, met) = oneshot::channel();
    // Behind the time that the link gives the nodes: it knows how many of them have answered.
    let deadline = Instant::now() + PATIENCE;
    node.hub.registry.do_send(MakeDemand { demand, reply });
    within(deadline, met).await?.map_err(Refusal::unavailable)
}
