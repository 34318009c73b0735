//! Who of this node's sessions is listed in which room, who else is there, and who is told what. Pure; time is an argument.
//!
//! - A session of this node is an **occupant** of a room's presence from when it wants to be listed. It is told of the others
//!   from when every node can see it, and the room's presence channel is live, and the **roster** is known: everybody who is
//!   listed there, on all nodes. A node knows the roster of a room as long as it has an occupant in it.
//! - Events of the channel and what was read change the roster, and only what really changes is told: whatever comes twice,
//!   late or in another order, each coming and each going is told once.
//! - What was read may be older than an event that has come already. So who has left a moment ago is not brought back by it;
//!   and who is missing in it is **doubtful** and told to have left only when it is missing still after [`DOUBT`]: after a
//!   restart of Redis its node is perhaps about to list it again.
//! - What has to be asked of the broker is collected, until [`Presence::take_orders`].

mod roster;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use self::roster::Roster;
pub use self::roster::{DOUBT, News};
use super::lists::SessionLists;
use super::{SessionId, Ticket, WorkerId};
use crate::broker::presence::{Change, MemberList, Order, Present};
use crate::protocol::{Member, RoomName};

/// See the module.
#[derive(Debug, Default)]
pub struct Presence {
    rooms: HashMap<RoomName, Room>,
    /// Where a session is an occupant.
    sessions: FxHashMap<SessionId, Vec<RoomName>>,
    /// Changes whose answer somebody waits for, by serial.
    awaited: HashMap<u64, Awaited>,
    /// Those of them that are exits with a ticket.
    exits: HashMap<SessionId, Vec<(RoomName, u64)>>,
    /// Rooms whose roster is read again, in the order in which that is due.
    rereads: VecDeque<(Instant, RoomName)>,
    orders: Vec<Order>,
    last_serial: u64,
}

#[derive(Debug, Default)]
struct Room {
    occupants: FxHashMap<SessionId, Occupant>,
    /// Who is told what happens.
    told: SessionLists,
    roster: Roster,
    /// A roster that was asked for before this serial is older than the channel's subscription.
    valid_from: u64,
    /// A roster was asked for since.
    asked: bool,
    /// Occupants who were members before and wait for their answer.
    toggling: Vec<SessionId>,
}

#[derive(Debug)]
struct Occupant {
    member: Member,
    /// The change that lists it, once that was sent.
    serial: Option<u64>,
    settled: bool,
    ticket: Option<Ticket>,
}

#[derive(Debug)]
struct Awaited {
    session: SessionId,
    room: RoomName,
    /// Of one who is not listed any more.
    ticket: Option<Ticket>,
}

/// What has become of an occupant.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// It was the room's last one: its channel is not needed any more.
    pub emptied: bool,
    /// What it waited for.
    pub ticket: Option<Ticket>,
}

/// A change that was asked for is so.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whose.
    pub session: SessionId,
    /// Where.
    pub room: RoomName,
    /// Who waited not to be listed any more is answered with this.
    pub ticket: Option<Ticket>,
}

impl Presence {
    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// A session wants to be listed. The ticket is that of one who is a member of the room already. `is_live`: the
    /// room's presence channel is.
    pub fn enter(
        &mut self,
        session: SessionId,
        room: &RoomName,
        member: Member,
        ticket: Option<Ticket>,
        is_live: bool,
    ) {
        let valid_from = self.last_serial + 1;
        let state = self.rooms.entry(room.clone()).or_insert_with(|| Room {
            valid_from,
            ..Room::default()
        });
        let rooms = &mut self.sessions;
        let occupant = state.occupants.entry(session).or_insert_with(|| {
            rooms.entry(session).or_default().push(room.clone());
            Occupant {
                member,
                serial: None,
                settled: false,
                ticket: None,
            }
        });
        if ticket.is_some() {
            occupant.ticket = ticket;
            state.toggling.push(session);
        }
        if is_live {
            self.send(session, room);
        }
    }

    fn send(&mut self, session: SessionId, room: &RoomName) {
        let serial = self.next_serial();
        let occupants = self.rooms.get_mut(room).map(|room| &mut room.occupants);
        let Some(occupant) = occupants.and_then(|occupants| occupants.get_mut(&session)) else {
            return;
        };
        if occupant.serial.is_none() {
            occupant.serial = Some(serial);
            let member = occupant.member.clone();
            self.change(room, member, true, serial);
            self.awaited.insert(
                serial,
                Awaited {
                    session,
                    room: room.clone(),
                    ticket: None,
                },
            );
        }
    }

    fn change(&mut self, room: &RoomName, member: Member, listed: bool, serial: u64) {
        self.orders.push(Order::Change(Change {
            room: room.clone(),
            member,
            listed,
            serial,
        }));
    }

    /// A session does not want to be listed any more, or is not in the room any more.
    pub fn withdraw(&mut self, session: SessionId, room: &RoomName) -> Withdrawn {
        let exit = self.take_exit(session, |(left, _)| left == room);
        let exit = exit.and_then(|serial| self.awaited.remove(&serial)?.ticket);
        let withdrawn = self.withdraw_occupant(session, room);
        Withdrawn {
            ticket: withdrawn.ticket.or(exit),
            ..withdrawn
        }
    }

    /// The serial of one of a session's exits, which is not one any more.
    fn take_exit(&mut self, session: SessionId, is_it: impl Fn(&(RoomName, u64)) -> bool) -> Option<u64> {
        let exits = self.exits.get_mut(&session)?;
        let (_, serial) = exits.remove(exits.iter().position(is_it)?);
        if exits.is_empty() {
            self.exits.remove(&session);
        }
        Some(serial)
    }

    fn withdraw_occupant(&mut self, session: SessionId, room: &RoomName) -> Withdrawn {
        let Some(state) = self.rooms.get_mut(room) else {
            return Withdrawn::default();
        };
        let Some(occupant) = state.occupants.remove(&session) else {
            return Withdrawn::default();
        };
        state.told.remove(session);
        state.toggling.retain(|toggling| *toggling != session);
        let emptied = state.occupants.is_empty();
        if emptied {
            self.rooms.remove(room);
        }
        if let Some(rooms) = self.sessions.get_mut(&session) {
            rooms.retain(|other| other != room);
            if rooms.is_empty() {
                self.sessions.remove(&session);
            }
        }
        if let Some(serial) = occupant.serial {
            self.awaited.remove(&serial);
            let serial = self.next_serial();
            self.change(room, occupant.member, false, serial);
        }
        Withdrawn {
            emptied,
            ticket: occupant.ticket,
        }
    }

    /// [`Presence::withdraw`] for a member of the room who waits until that is so.
    pub fn exit(&mut self, session: SessionId, room: &RoomName, member: Member, ticket: Ticket) -> Withdrawn {
        let withdrawn = self.withdraw_occupant(session, room);
        self.exits
            .entry(session)
            .or_default()
            .push((room.clone(), self.last_serial + 1));
        // Also if it was no occupant: an earlier exit may be under way.
        let serial = self.next_serial();
        self.change(room, member, false, serial);
        self.awaited.insert(
            serial,
            Awaited {
                session,
                room: room.clone(),
                ticket: Some(ticket),
            },
        );
        withdrawn
    }

    /// Somebody who is a member, and whose listing is to change, waits no longer. Whether he did; what he wanted not to be
    /// is still wanted.
    pub fn give_up(&mut self, session: SessionId, room: &RoomName, ticket: Ticket) -> Option<Withdrawn> {
        let toggles = |occupant: &Occupant| occupant.ticket == Some(ticket);
        if self.occupant(session, room).is_some_and(toggles) {
            return Some(self.withdraw(session, room));
        }
        let mut exits = self.awaited.iter();
        let serial = *exits
            .find(|(_, exit)| exit.ticket == Some(ticket) && exit.session == session)?
            .0;
        self.awaited.remove(&serial);
        self.take_exit(session, |(_, exit)| *exit == serial);
        Some(Withdrawn::default())
    }

    fn occupant(&self, session: SessionId, room: &RoomName) -> Option<&Occupant> {
        self.rooms.get(room)?.occupants.get(&session)
    }

    /// The room's presence channel is live (again).
    pub fn opened(&mut self, room: &RoomName) {
        let valid_from = self.last_serial + 1;
        let Some(state) = self.rooms.get_mut(room) else {
            return;
        };
        state.valid_from = valid_from;
        state.asked = false;
        state.roster.interrupted();
        let (sent, unsent): (Vec<_>, Vec<_>) = state
            .occupants
            .iter()
            .partition(|(_, occupant)| occupant.serial.is_some());
        let unsent: Vec<SessionId> = unsent.into_iter().map(|(session, _)| *session).collect();
        if !sent.is_empty() {
            self.ask(room);
        }
        for session in unsent {
            self.send(session, room);
        }
    }

    /// Something that came on the room's presence channel was dropped.
    pub fn missed(&mut self, room: &RoomName) {
        self.opened(room);
    }

    fn ask(&mut self, room: &RoomName) {
        let serial = self.next_serial();
        if let Some(state) = self.rooms.get_mut(room) {
            state.asked = true;
            let room = room.clone();
            self.orders.push(Order::Roster { room, serial });
        }
    }

    /// A change is so for all nodes. `None` if nobody waits for it any more.
    pub fn settled(&mut self, serial: u64) -> Option<Settled> {
        let Awaited {
            session,
            room,
            ticket,
        } = self.awaited.remove(&serial)?;
        if ticket.is_some() {
            self.take_exit(session, |(_, exit)| *exit == serial);
        }
        if let Some(state) = self.rooms.get_mut(&room)
            && let Some(occupant) = state.occupants.get_mut(&session)
            && occupant.serial == Some(serial)
        {
            occupant.settled = true;
            if !state.roster.is_known() && !state.asked {
                self.ask(&room);
            }
        }
        Some(Settled {
            session,
            room,
            ticket,
        })
    }

    /// Whether a session wants to be listed in the room.
    #[must_use]
    pub fn is_occupant(&self, session: SessionId, room: &RoomName) -> bool {
        self.occupant(session, room).is_some()
    }

    /// Whether a session that wants to be listed is visible to all, and can be told of the others.
    #[must_use]
    pub fn is_listed(&self, session: SessionId, room: &RoomName) -> bool {
        self.rooms.get(room).is_some_and(|state| {
            let occupant = state.occupants.get(&session);
            state.roster.is_known() && occupant.is_some_and(|occupant| occupant.settled)
        })
    }

    /// An occupant is told of the others from now on, if it is one.
    pub fn listen(&mut self, session: SessionId, room: &RoomName) {
        if let Some(state) = self.rooms.get_mut(room)
            && state.occupants.contains_key(&session)
        {
            state.told.add(session);
        }
    }

    /// Occupants who were members before, and are listed now: each once.
    #[must_use]
    pub fn take_toggled(&mut self, room: &RoomName) -> Vec<(SessionId, Ticket)> {
        let Some(state) = self.rooms.get_mut(room) else {
            return Vec::new();
        };
        if !state.roster.is_known() {
            return Vec::new();
        }
        let mut toggled = Vec::new();
        let Room {
            toggling, occupants, ..
        } = state;
        toggling.retain(|session| match occupants.get_mut(session) {
            Some(occupant) if occupant.settled => {
                toggled.extend(occupant.ticket.take().map(|ticket| (*session, ticket)));
                false
            }
            _ => true,
        });
        toggled
    }

    /// Occupants that are not listed yet, with the tickets of those who were members before.
    #[must_use]
    pub fn unlisted(&self, room: &RoomName) -> Vec<(SessionId, Option<Ticket>)> {
        let Some(state) = self.rooms.get(room) else {
            return Vec::new();
        };
        let occupants = state.occupants.iter();
        occupants
            .filter(|(_, occupant)| !occupant.settled)
            .map(|(session, occupant)| (*session, occupant.ticket))
            .collect()
    }

    /// Who is told what happens in a room, one list per worker.
    #[must_use]
    pub fn told(&self, room: &RoomName) -> &[(WorkerId, Arc<Vec<SessionId>>)] {
        self.rooms.get(room).map_or(&[], |state| state.told.all())
    }

    /// The rooms in which a session is an occupant.
    #[must_use]
    pub fn rooms_of(&self, session: SessionId) -> Vec<RoomName> {
        self.sessions.get(&session).cloned().unwrap_or_default()
    }

    /// The channel has told that. Returns what is news.
    pub fn changed(&mut self, room: &RoomName, present: Present, now: Instant) -> News {
        match self.rooms.get_mut(room) {
            Some(state) => state.roster.changed(present, now),
            None => News::default(),
        }
    }

    /// Everybody in a room was read, some time after what has this serial. Returns what is news.
    pub fn roster(&mut self, room: &RoomName, serial: u64, members: Vec<Member>, now: Instant) -> News {
        let Some(state) = self.rooms.get_mut(room) else {
            return News::default();
        };
        if serial < state.valid_from {
            // It may be what came of listing everybody again, and then nothing else tells who has come meanwhile.
            self.ask(room);
            return News::default();
        }
        let (news, again) = state.roster.read(members, now);
        if again {
            self.rereads.push_back((now + DOUBT, room.clone()));
        }
        news
    }

    /// Asks again for rosters that leave doubts, if that is due. `is_live`: the room's presence channel is.
    pub fn read_again(&mut self, now: Instant, is_live: impl Fn(&RoomName) -> bool) {
        while self.rereads.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, room)) = self.rereads.pop_front() else {
                break;
            };
            let doubts = self
                .rooms
                .get_mut(&room)
                .is_some_and(|state| state.roster.begin_again());
            // Otherwise it is read when the channel is live again.
            if doubts && is_live(&room) {
                self.ask(&room);
            }
        }
    }

    /// Asks how many are in a room, and who. The order's serial.
    pub fn ask_for_list(&mut self, room: &RoomName) -> u64 {
        let serial = self.next_serial();
        let room = room.clone();
        self.orders.push(Order::List { room, serial });
        serial
    }

    /// Brings a list that was asked for at this time into line with what the room's members were told: they must not take
    /// for present who has left before their eyes, nor for absent who has not. Who is missing although nobody told so has
    /// lost his entry with Redis's data, and is about to be listed again; or the roster is wrong, and is read again.
    #[must_use]
    pub fn corrected(&mut self, room: &RoomName, list: MemberList, since: Instant) -> MemberList {
        let Some(state) = self.rooms.get(room) else {
            return list;
        };
        let (list, is_contradicted) = state.roster.corrected(list, since);
        if is_contradicted {
            self.ask(room);
        }
        list
    }

    /// Whether there is something to ask.
    #[must_use]
    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// What has to be asked of the broker; taken as asked.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }
}

#[cfg(test)]
mod tests;
