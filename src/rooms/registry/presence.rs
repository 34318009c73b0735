//! What the registry does for presence: lists sessions, tells the listed of each other, and answers who is there.
//!
//! - A presence channel is wanted while a session of this node wants to be listed in the room.
//! - Lists are read from the broker. Those who wait for one of a room share a read, unless they came after it was sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{Context, Handler};

use super::{MAX_EVENTS_BYTES, RoomRegistry};
use crate::broker::presence::{MemberList, Present, Report};
use crate::broker::{ChannelKind, Transit};
use crate::protocol::{Member, RoomName};
use crate::rooms::ledger::Ledger;
use crate::rooms::presence::News;
use crate::rooms::timeline::{Admission, Timeline};
use crate::rooms::{ListMembers, Listing, MembersReply, NotJoined, Notice, RoomEvent, SessionId, Ticket};

/// How long a list is waited for.
const LIST_PATIENCE: Duration = Duration::from_millis(1_500);

const NO_LINK: &str = "there is no link to the broker";

/// Who waits for the list of each room.
pub(super) type Listings = HashMap<RoomName, Waiting>;

/// Those who wait for one room's list.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The read that is under way: its serial, and when it was asked for.
    reading: Option<(u64, Instant)>,
    /// Who is answered with it.
    served: Vec<(Instant, MembersReply)>,
    /// Who came later, and waits for the next.
    next: Vec<(Instant, MembersReply)>,
}

impl RoomRegistry {
    pub(super) fn ledger_of(&mut self, kind: ChannelKind) -> &mut Ledger {
        match kind {
            ChannelKind::Messages => &mut self.ledger,
            ChannelKind::Presence => &mut self.presence_ledger,
        }
    }

    /// A session wants to be listed; it waits for its membership, or has a ticket of its own for this.
    pub(super) fn enlist(
        &mut self,
        session: SessionId,
        room: &RoomName,
        member: Member,
        ticket: Option<Ticket>,
    ) {
        self.presence_ledger.want(room);
        let is_live = self.presence_ledger.is_live(room);
        self.presence.enter(session, room, member, ticket, is_live);
    }

    /// A member wants to be listed, or not to be, and waits until that is so.
    pub(super) fn relist(&mut self, session: SessionId, room: &RoomName, ticket: Ticket, listing: Listing) {
        let Listing { member, listed } = listing;
        if !listed {
            let withdrawn = self.presence.exit(session, room, member, ticket);
            if withdrawn.emptied {
                self.presence_ledger.unwant(room);
            }
        } else if self.presence.is_listed(session, room) {
            self.confirm(session, room, ticket);
        } else {
            self.enlist(session, room, member, Some(ticket));
        }
    }

    /// Answers a member who has subscribed again.
    fn confirm(&self, session: SessionId, room: &RoomName, ticket: Ticket) {
        let position = self.timelines.get(room).and_then(Timeline::position);
        let admission = Admission::again(position);
        self.tell(session, Notice::Joined(ticket, Box::new(admission)));
    }

    /// A session is not to be listed any more. Returns what it waited for, if it was a member before.
    pub(super) fn unlist(&mut self, session: SessionId, room: &RoomName) -> Option<Ticket> {
        let withdrawn = self.presence.withdraw(session, room);
        if withdrawn.emptied {
            self.presence_ledger.unwant(room);
        }
        withdrawn.ticket
    }

    /// A member waits no longer for its listing to change.
    pub(super) fn give_up_listing(
        &mut self,
        session: SessionId,
        room: &RoomName,
        ticket: Ticket,
        reason: NotJoined,
    ) {
        let Some(withdrawn) = self.presence.give_up(session, room, ticket) else {
            return;
        };
        if withdrawn.emptied {
            self.presence_ledger.unwant(room);
        }
        let reason = match reason {
            NotJoined::Unavailable(why) => NotJoined::NotListed(why),
            other => other,
        };
        self.tell(session, Notice::NotJoined(ticket, reason));
    }

    pub(super) fn presence_opened(&mut self, generation: u64, room: &RoomName) {
        if self.presence_ledger.opened(generation, room) {
            self.presence.opened(room);
            // Who was listed before the link was lost may wait for the channel alone.
            self.proceed_listed(room);
        }
    }

    pub(super) fn presence_refused(&mut self, generation: u64, room: &RoomName, reason: &str) {
        if !self.presence_ledger.refused(generation, room) {
            return;
        }
        for (session, toggle) in self.presence.unlisted(room) {
            if let Some(ticket) = toggle.or_else(|| self.table.ticket(session, room)) {
                self.disappoint(session, room, ticket, NotJoined::Unavailable(reason.to_owned()));
            }
        }
    }

    pub(super) fn missed_presence(&mut self, rooms: &[RoomName]) {
        for room in rooms {
            if self.presence_ledger.is_live(room) {
                self.presence.missed(room);
            }
        }
    }

    /// Lets in, or answers, those who are listed by now.
    fn proceed_listed(&mut self, room: &RoomName) {
        if self.presence_ledger.is_live(room) {
            for (session, ticket) in self.presence.take_toggled(room) {
                self.presence.listen(session, room);
                self.confirm(session, room, ticket);
            }
            self.proceed(room, None);
        }
    }

    /// What has changed, as the channels tell it.
    pub(super) fn present(&mut self, presents: Vec<(RoomName, Present)>, transit: &Transit) {
        let now = Instant::now();
        for (room, present) in presents {
            let news = self.presence.changed(&room, present, now);
            self.tell_news(&room, news, Some(transit));
        }
    }

    fn tell_news(&self, room: &RoomName, news: News, transit: Option<&Transit>) {
        let lists = self.presence.told(room);
        if lists.is_empty() || news.is_empty() {
            return;
        }
        let left = news.left.into_iter();
        let left = left.map(|member| RoomEvent::left(room.clone(), member));
        let joined = news.joined.into_iter();
        let joined = joined.map(|member| RoomEvent::joined(room.clone(), member));
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for event in left.chain(joined) {
            bytes += event.text_bytes();
            chunk.push(event);
            if bytes >= MAX_EVENTS_BYTES {
                self.tell_all(lists, std::mem::take(&mut chunk), transit, None);
                bytes = 0;
            }
        }
        self.tell_all(lists, chunk, transit, None);
    }

    /// What has become of what was asked of the broker.
    pub(super) fn hear(&mut self, reports: Vec<Report>) {
        let now = Instant::now();
        // Once for each room, however many were settled in it together.
        let mut rooms: Vec<RoomName> = Vec::new();
        for report in reports {
            match report {
                Report::Settled(serial) => {
                    let Some(settled) = self.presence.settled(serial) else {
                        continue;
                    };
                    match settled.ticket {
                        Some(ticket) => self.confirm(settled.session, &settled.room, ticket),
                        None => rooms.push(settled.room),
                    }
                }
                Report::Roster {
                    room,
                    serial,
                    members,
                } => {
                    let news = self.presence.roster(&room, serial, members, now);
                    self.tell_news(&room, news, None);
                    rooms.push(room);
                }
                Report::Listed { room, serial, list } => self.listed(&room, serial, list),
            }
        }
        rooms.sort_unstable();
        rooms.dedup();
        for room in &rooms {
            self.proceed_listed(room);
        }
    }

    fn listed(&mut self, room: &RoomName, serial: u64, list: Result<MemberList, String>) {
        let Some(listing) = self.listings.get_mut(room) else {
            return;
        };
        let Some((_, asked)) = listing.reading.take_if(|(reading, _)| *reading == serial) else {
            return;
        };
        let most = self.limits.list_bytes();
        let list = list.map(|list| Arc::new(self.presence.corrected(room, list, asked).within(most)));
        for (_, reply) in std::mem::take(&mut listing.served) {
            reply.give(list.clone());
        }
        self.read_list(room);
    }

    /// Reads a room's list for those who wait for it.
    fn read_list(&mut self, room: &RoomName) {
        let Some(listing) = self.listings.get_mut(room) else {
            return;
        };
        if listing.reading.is_some() {
            return;
        }
        if listing.next.is_empty() {
            self.listings.remove(room);
            return;
        }
        listing.served = std::mem::take(&mut listing.next);
        let serial = self.presence.ask_for_list(room);
        listing.reading = Some((serial, Instant::now()));
    }

    /// Without a link nobody waits for a list: publishes behind it could not be answered in time.
    pub(super) fn give_up_lists(&mut self) {
        for (_, Waiting { served, next, .. }) in self.listings.drain() {
            for (_, reply) in served.into_iter().chain(next) {
                reply.give(Err(NO_LINK.to_owned()));
            }
        }
    }

    pub(super) fn tick_presence(&mut self, now: Instant) {
        let ledger = &self.presence_ledger;
        self.presence.read_again(now, |room| ledger.is_live(room));
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) >= LIST_PATIENCE;
        self.listings.retain(|_, listing| {
            for waiting in [&mut listing.served, &mut listing.next] {
                for (_, reply) in waiting.extract_if(.., |(since, _)| is_overdue(since)) {
                    reply.give(Err("the broker has not answered in time".to_owned()));
                }
            }
            !(listing.served.is_empty() && listing.next.is_empty())
        });
    }
}

impl Handler<ListMembers> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, ListMembers { room, reply }: ListMembers, ctx: &mut Context<Self>) {
        if !self.ledger.has_link() {
            reply.give(Err(NO_LINK.to_owned()));
            return;
        }
        let listing = self.listings.entry(room.clone()).or_default();
        listing.next.push((Instant::now(), reply));
        self.read_list(&room);
        self.request_flush(ctx);
    }
}
