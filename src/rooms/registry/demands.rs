//! What is demanded of this node's sessions of a user: to be closed, or to leave a room.
//!
//! - Only the workers know whose a session is, so each of them is asked for the user's sessions. It closes them itself,
//!   where they are to be closed.
//! - A demand is met when every worker has answered and the sessions are out of the rooms.
//! - What a closed session still asks for is not granted: its last commands may be on their way here.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use actix::prelude::{AsyncContext, Context, Handler, Message};

use super::RoomRegistry;
use crate::broker::control::{Demand, Done};
use crate::protocol::RoomName;
use crate::rooms::SessionId;
use crate::rooms::worker::{Dispatch, Search};

/// Demands that are not met yet, and what they leave behind.
#[derive(Debug, Default)]
pub(super) struct Demands {
    last_id: u64,
    open: HashMap<u64, Open>,
    /// Closed sessions that have not ended yet.
    closed: HashSet<SessionId>,
}

#[derive(Debug)]
struct Open {
    /// Where they have to leave; `None`: everywhere, because they are closed.
    room: Option<RoomName>,
    /// Workers that have not answered.
    awaited: usize,
    /// It was done to so many.
    sessions: u64,
    done: Done,
}

/// A worker has found, and closed if that was asked for, these sessions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Found {
    /// The search's.
    pub id: u64,
    /// The sessions of the user on this worker.
    pub sessions: Vec<SessionId>,
}

impl Demands {
    /// Whether the session was closed, and may not become a member any more.
    pub(super) fn has_closed(&self, session: SessionId) -> bool {
        self.closed.contains(&session)
    }

    /// The session has ended, and asks for nothing any more.
    pub(super) fn ended(&mut self, session: SessionId) {
        self.closed.remove(&session);
    }
}

impl RoomRegistry {
    pub(super) fn demanded(
        &mut self,
        demand: Demand,
        before: Option<Instant>,
        done: Done,
        ctx: &mut Context<Self>,
    ) {
        let user = demand.user().clone();
        let room = match demand {
            Demand::Disconnect { .. } => None,
            Demand::Remove { room, .. } => Some(room),
        };
        self.demands.last_id += 1;
        let id = self.demands.last_id;
        let mut awaited = 0;
        for queue in self.workers.values() {
            let search = Search {
                id,
                user: user.clone(),
                before,
                closes: room.is_none(),
                found: ctx.address().recipient(),
            };
            // Fails when the worker's thread has ended, and its sessions with it.
            awaited += usize::from(queue.send(Dispatch::Search(search)).is_ok());
        }
        if awaited == 0 {
            done.tell(0);
            return;
        }
        let open = Open {
            room,
            awaited,
            sessions: 0,
            done,
        };
        self.demands.open.insert(id, open);
    }
}

impl Handler<Found> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, Found { id, sessions }: Found, ctx: &mut Self::Context) {
        let Some(mut open) = self.demands.open.remove(&id) else {
            return;
        };
        for session in sessions {
            let is_concerned = match &open.room {
                Some(room) => self.remove(session, room),
                None => {
                    // The worker tells of its end after this, so that it does not stay here.
                    self.demands.closed.insert(session);
                    self.leave_all(session);
                    true
                }
            };
            open.sessions += u64::from(is_concerned);
        }
        open.awaited -= 1;
        if open.awaited == 0 {
            open.done.tell(open.sessions);
        } else {
            self.demands.open.insert(id, open);
        }
        self.request_flush(ctx);
    }
}
