//! What a session asks of the broker and of the registry. The answers come back as notices, through its worker's queue.

use std::time::{Instant, SystemTime};

use super::WsSession;
use crate::broker::{Answer, RoomMessage};
use crate::protocol::{Content, IdempotenceKey, Member, RoomName};
use crate::rooms::worker::Dispatch;
use crate::rooms::{ListMembers, Listing, MembersReply, Notice, Ticket};
use crate::tokens::unix_millis;

impl WsSession {
    pub(super) fn publish(
        &self,
        ticket: Ticket,
        room: RoomName,
        content: Content,
        key: Option<IdempotenceKey>,
        since: Instant,
    ) {
        let message = RoomMessage {
            room,
            content,
            sender: self.seat.user.get().cloned(),
            session: Some(self.name.clone()),
            time: Some(unix_millis(SystemTime::now())),
        };
        let (session, queue) = (self.id, self.seat.worker.queue());
        let answer = Answer::new(move |outcome| {
            // Fails when the worker has ended, and the session with it.
            let _ = queue.send(Dispatch::One(session, Notice::Published(ticket, outcome)));
        });
        self.seat.hub.publisher.publish(message, key, since, answer);
    }

    pub(super) fn listing(&self, listed: bool) -> Listing {
        let member = Member {
            session: self.name.clone(),
            user: self.seat.user.get().cloned(),
        };
        Listing { member, listed }
    }

    pub(super) fn list_members(&self, ticket: Ticket, room: RoomName) {
        let (session, queue) = (self.id, self.seat.worker.queue());
        let reply = MembersReply::new(move |members| {
            // Fails when the worker has ended, and the session with it.
            let _ = queue.send(Dispatch::One(session, Notice::Members(ticket, members)));
        });
        self.seat.hub.registry.do_send(ListMembers { room, reply });
    }
}
