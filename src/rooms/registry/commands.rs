//! What sessions ask of the registry: to become members, to be members no more.

use std::time::Instant;

use actix::prelude::Handler;

use super::{JOIN_PATIENCE, RoomRegistry};
use crate::protocol::{Dialect, RoomName};
use crate::rooms::table::{JoinOutcome, Waiter};
use crate::rooms::timeline::{Admission, Timeline, Wish};
use crate::rooms::{Abort, Disconnect, Join, Leave, Listing, Narrow, NotJoined, Notice};

impl Handler<Join> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, join: Join, ctx: &mut Self::Context) {
        let Join {
            session,
            room,
            ticket,
            dialect,
            replay,
            presence,
        } = join;
        if self.demands.has_closed(session) {
            self.tell(session, Notice::NotJoined(ticket, NotJoined::Forbidden));
            return;
        }
        let deadline = Instant::now() + JOIN_PATIENCE;
        let timeline = self.timelines.get(&room);
        let wish = Wish {
            replay,
            not_before: timeline.map_or(1, Timeline::next_fill),
            is_lost: false,
        };
        let position = timeline.and_then(Timeline::position);
        match self.table.join(
            &room,
            Waiter {
                session,
                ticket: Some(ticket),
                dialect,
                wish,
            },
        ) {
            JoinOutcome::RoomsFull => {
                let reason = NotJoined::RoomLimit(self.table.max_rooms());
                self.tell(session, Notice::NotJoined(ticket, reason));
                return;
            }
            JoinOutcome::AlreadyIn { admitted: true } => {
                if let Some(listing) = presence {
                    self.relist(session, &room, ticket, listing);
                    self.deadlines.push_back((deadline, session, room, ticket));
                    self.request_flush(ctx);
                    return;
                }
                let admission = Admission::again(position);
                self.tell(session, Notice::Joined(ticket, Box::new(admission)));
                return;
            }
            JoinOutcome::FirstIn | JoinOutcome::Waits | JoinOutcome::AlreadyIn { admitted: false } => {}
        }
        // First of all: the last one may just have left a room that is live still.
        self.ledger.want(&room);
        if let Some(Listing { member, listed: true }) = presence {
            self.enlist(session, &room, member, None);
        }
        self.proceed(&room, Some(session));
        let is_waiting = self.table.waiter_mut(session, &room, ticket).is_some();
        if is_waiting && !self.ledger.has_link() && dialect == Dialect::Plain {
            let reason = NotJoined::Unavailable("there is no link to the broker".to_owned());
            self.disappoint(session, &room, ticket, reason);
        } else if is_waiting {
            self.deadlines.push_back((deadline, session, room, ticket));
        }
        self.request_flush(ctx);
    }
}

impl Handler<Leave> for RoomRegistry {
    type Result = ();

    fn handle(
        &mut self,
        Leave {
            session,
            room,
            ticket,
        }: Leave,
        ctx: &mut Self::Context,
    ) {
        self.leave(session, &room);
        self.tell(session, Notice::Left(ticket));
        self.request_flush(ctx);
    }
}

impl Handler<Abort> for RoomRegistry {
    type Result = ();

    fn handle(
        &mut self,
        Abort {
            session,
            room,
            ticket,
            reason,
            only_without_link,
        }: Abort,
        ctx: &mut Self::Context,
    ) {
        if only_without_link && self.ledger.has_link() {
            return;
        }
        self.disappoint(session, &room, ticket, reason);
        self.request_flush(ctx);
    }
}

impl Handler<Narrow> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, Narrow { session, rights }: Narrow, ctx: &mut Self::Context) {
        let rooms = self.table.rooms_of(session);
        let left: Vec<RoomName> = rooms
            .filter(|room| !rights.may_join(room.as_str()))
            .cloned()
            .collect();
        for room in &left {
            self.remove(session, room);
        }
        self.request_flush(ctx);
    }
}

impl Handler<Disconnect> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, Disconnect { session }: Disconnect, ctx: &mut Self::Context) {
        self.leave_all(session);
        self.demands.ended(session);
        self.request_flush(ctx);
    }
}
