//! Membership: which sessions are in which rooms, or wait to be. Pure.
//!
//! - A session that joins waits until [`RoomTable::admit`], and is then a member. Both count as occupants: they keep
//!   the room's subscription wanted.
//! - A room exists exactly while it has an occupant.
//! - Members are kept per HTTP worker in shared lists ([`lists`](super::lists)).

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::lists::SessionLists;
use super::timeline::Wish;
use super::{SessionId, Ticket, WorkerId};
use crate::protocol::{Dialect, RoomName};

/// The occupants of all rooms on this node.
#[derive(Debug)]
pub struct RoomTable {
    rooms: HashMap<RoomName, Room>,
    sessions: FxHashMap<SessionId, HashSet<RoomName>>,
    max_rooms: usize,
    memberships: usize,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Room {
    members: SessionLists,
    waiting: Vec<Waiter>,
}

/// A session that waits to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Who.
    pub session: SessionId,
    /// What to answer; `None` once it has been answered.
    pub ticket: Option<Ticket>,
    /// How it takes waiting.
    pub dialect: Dialect,
    /// What it wants of the room's past.
    pub wish: Wish,
}

/// What a join changed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// It waits, and is the room's first occupant.
    FirstIn,
    /// It waits; the room was occupied.
    Waits,
    /// It is an occupant already. A waiting one has its ticket replaced.
    AlreadyIn {
        /// It is a member.
        admitted: bool,
    },
    /// It is in as many rooms as it may be.
    RoomsFull,
}

/// What a leave changed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOutcome {
    /// The room is empty now.
    LastOut,
    /// Others are still there.
    Left,
    /// It was no occupant.
    NotIn,
}

impl RoomTable {
    /// An empty table whose sessions may be in `max_rooms` rooms each.
    #[must_use]
    pub fn new(max_rooms: usize) -> Self {
        Self {
            rooms: HashMap::new(),
            sessions: FxHashMap::default(),
            max_rooms,
            memberships: 0,
            waiting: 0,
        }
    }

    /// Lets a session wait for the room.
    pub fn join(&mut self, room: &RoomName, waiter: Waiter) -> JoinOutcome {
        let session = waiter.session;
        let joined = self.sessions.entry(session).or_default();
        if joined.contains(room) {
            return self.rejoin(room, waiter);
        }
        if joined.len() >= self.max_rooms {
            return JoinOutcome::RoomsFull;
        }
        joined.insert(room.clone());
        let first = !self.rooms.contains_key(room);
        let waiting = &mut self.rooms.entry(room.clone()).or_default().waiting;
        if waiting.is_empty() {
            waiting.reserve_exact(1);
        }
        waiting.push(waiter);
        self.waiting += 1;
        if first {
            JoinOutcome::FirstIn
        } else {
            JoinOutcome::Waits
        }
    }

    fn rejoin(&mut self, room: &RoomName, waiter: Waiter) -> JoinOutcome {
        let waiting = self.rooms.get_mut(room).map(|room| &mut room.waiting);
        let earlier =
            waiting.and_then(|list| list.iter_mut().find(|earlier| earlier.session == waiter.session));
        match earlier {
            Some(earlier) => {
                *earlier = waiter;
                JoinOutcome::AlreadyIn { admitted: false }
            }
            None => JoinOutcome::AlreadyIn { admitted: true },
        }
    }

    /// Makes members of those who wait for the room and for whom `decide` has something; all of them, or one session.
    /// Returns them in the order in which they came.
    pub fn admit<T>(
        &mut self,
        room: &RoomName,
        only: Option<SessionId>,
        mut decide: impl FnMut(&mut Waiter) -> Option<T>,
    ) -> Vec<(Waiter, T)> {
        let Some(room) = self.rooms.get_mut(room) else {
            return Vec::new();
        };
        let mut admitted = Vec::new();
        room.waiting.retain_mut(|waiter| {
            if only.is_some_and(|session| session != waiter.session) {
                return true;
            }
            let decision = decide(waiter);
            let stays = decision.is_none();
            admitted.extend(decision.map(|decision| (waiter.clone(), decision)));
            stays
        });
        for (waiter, _) in &admitted {
            room.members.add(waiter.session);
        }
        self.memberships += admitted.len();
        self.waiting -= admitted.len();
        if room.waiting.is_empty() {
            room.waiting = Vec::new();
        }
        admitted
    }

    /// Ends whatever the session is in the room.
    pub fn leave(&mut self, session: SessionId, room: &RoomName) -> LeaveOutcome {
        let Some(joined) = self.sessions.get_mut(&session) else {
            return LeaveOutcome::NotIn;
        };
        if !joined.remove(room) {
            return LeaveOutcome::NotIn;
        }
        if joined.is_empty() {
            self.sessions.remove(&session);
        }
        self.vacate(session, room)
    }

    /// Ends all of a session's memberships. Returns the rooms that are empty now.
    pub fn disconnect(&mut self, session: SessionId) -> Vec<RoomName> {
        let joined = self.sessions.remove(&session).unwrap_or_default();
        joined
            .into_iter()
            .filter(|room| self.vacate(session, room) == LeaveOutcome::LastOut)
            .collect()
    }

    fn vacate(&mut self, session: SessionId, name: &RoomName) -> LeaveOutcome {
        let room = self.rooms.get_mut(name).expect("a session's rooms exist");
        let waiting_before = room.waiting.len();
        self.memberships -= usize::from(room.remove(session));
        self.waiting -= waiting_before - room.waiting.len();
        if room.is_empty() {
            self.rooms.remove(name);
            return LeaveOutcome::LastOut;
        }
        LeaveOutcome::Left
    }

    /// The waiter of a join that has not been answered, to be answered now.
    pub fn waiter_mut(&mut self, session: SessionId, room: &RoomName, ticket: Ticket) -> Option<&mut Waiter> {
        let waiting = &mut self.rooms.get_mut(room)?.waiting;
        waiting
            .iter_mut()
            .find(|waiter| waiter.session == session && waiter.ticket == Some(ticket))
    }

    /// What a session that waits for the room is to be answered; `None` if it does not wait, or has been answered.
    #[must_use]
    pub fn ticket(&self, session: SessionId, room: &RoomName) -> Option<Ticket> {
        let mut waiting = self.rooms.get(room)?.waiting.iter();
        waiting.find(|waiter| waiter.session == session)?.ticket
    }

    /// The rooms that a session is a member of or waits for.
    pub fn rooms_of(&self, session: SessionId) -> impl Iterator<Item = &RoomName> {
        self.sessions.get(&session).into_iter().flatten()
    }

    /// All who wait, with their rooms.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = (&RoomName, &mut Waiter)> {
        self.rooms
            .iter_mut()
            .flat_map(|(name, room)| room.waiting.iter_mut().map(move |waiter| (name, waiter)))
    }

    /// Whether anybody waits for the room.
    #[must_use]
    pub fn is_awaited(&self, room: &RoomName) -> bool {
        self.rooms.get(room).is_some_and(|room| !room.waiting.is_empty())
    }

    /// Rooms that a session may be in.
    #[must_use]
    pub fn max_rooms(&self) -> usize {
        self.max_rooms
    }

    /// The members of a room, one list per worker that has any.
    #[must_use]
    pub fn members(&self, room: &RoomName) -> &[(WorkerId, Arc<Vec<SessionId>>)] {
        self.rooms.get(room).map_or(&[], |room| room.members.all())
    }

    /// Members of a room.
    #[must_use]
    pub fn member_count(&self, room: &RoomName) -> usize {
        self.members(room).iter().map(|(_, list)| list.len()).sum()
    }

    /// The first rooms behind `after`, or of all, that have members, ordered by name; at most `limit`, each with its number
    /// of members. And whether there are more.
    ///
    /// All rooms are looked at, and no more than `limit` kept: this is asked seldom, and an order that is always there would
    /// cost every join.
    #[must_use]
    pub fn rooms_after(&self, after: Option<&RoomName>, limit: usize) -> (Vec<(RoomName, usize)>, bool) {
        let mut first = BinaryHeap::new();
        let mut has_more = false;
        let occupied = self.rooms.iter().filter(|(_, room)| !room.members.is_empty());
        for (name, _) in occupied.filter(|(name, _)| after.is_none_or(|after| *name > after)) {
            if first.len() < limit {
                first.push(name);
                continue;
            }
            has_more = true;
            if let Some(mut last) = first.peek_mut()
                && *last > name
            {
                *last = name;
            }
        }
        let listed = first.into_sorted_vec().into_iter();
        let counted = listed.map(|name| (name.clone(), self.member_count(name)));
        (counted.collect(), has_more)
    }

    /// Members of all rooms together.
    #[must_use]
    pub fn membership_count(&self) -> usize {
        self.memberships
    }

    /// Who waits, in all rooms together.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting
    }

    /// Rooms with an occupant.
    #[must_use]
    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    #[cfg(test)]
    fn check(&self) {
        for (name, room) in &self.rooms {
            assert!(!room.is_empty(), "room {name} is kept though it is empty");
            for (worker, list) in room.members.all() {
                assert!(!list.is_empty() && list.is_sorted());
                assert!(list.iter().all(|session| session.worker() == *worker));
                assert!(list.iter().all(|session| self.sessions[session].contains(name)));
            }
            assert!(
                room.waiting
                    .iter()
                    .all(|waiter| self.sessions[&waiter.session].contains(name))
            );
        }
        let members = self
            .rooms
            .values()
            .flat_map(|room| room.members.all())
            .map(|(_, list)| list.len());
        assert_eq!(self.memberships, members.sum::<usize>());
        let waiting = self.rooms.values().map(|room| room.waiting.len());
        assert_eq!(self.waiting, waiting.sum::<usize>());
        assert!(
            self.sessions
                .values()
                .all(|rooms| rooms.iter().all(|room| self.rooms.contains_key(room)))
        );
    }
}

impl Room {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.waiting.is_empty()
    }

    /// Whether it was a member.
    fn remove(&mut self, session: SessionId) -> bool {
        self.waiting.retain(|waiter| waiter.session != session);
        self.members.remove(session)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn session(number: u8) -> SessionId {
        SessionId::new(WorkerId(u16::from(number % 2)), u64::from(number))
    }

    fn waiter(number: u8) -> Waiter {
        Waiter {
            session: session(number),
            ticket: Some(u64::from(number)),
            dialect: Dialect::V1,
            wish: Wish::default(),
        }
    }

    fn members(table: &RoomTable, room: &RoomName) -> BTreeSet<SessionId> {
        table
            .members(room)
            .iter()
            .flat_map(|(_, list)| list.iter().copied())
            .collect()
    }

    #[test]
    fn rooms_are_listed_by_name_from_any_place() {
        let mut table = RoomTable::new(100);
        for (number, name) in ["d", "b", "e", "a", "c"].into_iter().enumerate() {
            let waiter = Waiter {
                session: session(u8::try_from(number).expect("few")),
                ticket: None,
                dialect: Dialect::V1,
                wish: Wish::default(),
            };
            assert_eq!(table.join(&room(name), waiter), JoinOutcome::FirstIn);
            // Who waits is not there yet.
            if name != "c" {
                assert_eq!(table.admit(&room(name), None, |_| Some(())).len(), 1);
            }
        }
        let listed = |after: Option<&str>, limit| {
            let (rooms, has_more) = table.rooms_after(after.map(room).as_ref(), limit);
            assert!(rooms.iter().all(|(_, members)| *members == 1));
            let names: Vec<_> = rooms.iter().map(|(name, _)| name.as_str().to_owned()).collect();
            (names.concat(), has_more)
        };
        for (after, limit, expected) in [
            (None, 9, ("abde", false)),
            (None, 4, ("abde", false)),
            (None, 3, ("abd", true)),
            (Some("b"), 1, ("d", true)),
            (Some("bb"), 2, ("de", false)),
            (Some("e"), 2, ("", false)),
        ] {
            let (names, has_more) = listed(after, limit);
            assert_eq!((names.as_str(), has_more), expected, "{after:?} {limit}");
        }
    }

    #[test]
    fn whoever_joins_waits_until_admitted() {
        let mut table = RoomTable::new(10);
        assert_eq!(table.join(&room("a"), waiter(1)), JoinOutcome::FirstIn);
        assert_eq!(table.join(&room("a"), waiter(2)), JoinOutcome::Waits);
        assert!(members(&table, &room("a")).is_empty());
        let admitted: Vec<SessionId> = table
            .admit(&room("a"), None, |_| Some(()))
            .iter()
            .map(|(waiter, ())| waiter.session)
            .collect();
        assert_eq!(admitted, [session(1), session(2)]);
        assert_eq!(
            table.join(&room("a"), waiter(2)),
            JoinOutcome::AlreadyIn { admitted: true }
        );
    }

    #[test]
    fn the_last_out_is_told_apart_even_if_it_only_waited() {
        let mut table = RoomTable::new(10);
        let _ = table.join(&room("a"), waiter(1));
        let _ = table.admit(&room("a"), None, |_| Some(()));
        let _ = table.join(&room("a"), waiter(2));
        assert_eq!(table.leave(session(1), &room("a")), LeaveOutcome::Left);
        assert_eq!(table.leave(session(1), &room("a")), LeaveOutcome::NotIn);
        assert_eq!(table.leave(session(2), &room("a")), LeaveOutcome::LastOut);
        assert_eq!(table.room_count(), 0);
    }

    #[test]
    fn the_limit_comes_back_with_a_leave() {
        let mut table = RoomTable::new(1);
        let _ = table.join(&room("a"), waiter(1));
        assert_eq!(table.join(&room("b"), waiter(1)), JoinOutcome::RoomsFull);
        let _ = table.leave(session(1), &room("a"));
        assert_eq!(table.join(&room("b"), waiter(1)), JoinOutcome::FirstIn);
    }

    #[test]
    fn a_list_that_was_handed_out_does_not_change() {
        let mut table = RoomTable::new(10);
        let _ = table.join(&room("a"), waiter(1));
        let _ = table.admit(&room("a"), None, |_| Some(()));
        let handed_out = table.members(&room("a"))[0].1.clone();
        let _ = table.disconnect(session(1));
        assert_eq!(*handed_out, [session(1)]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Join(u8, u8),
        Leave(u8, u8),
        Admit(u8),
        Disconnect(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..6_u8, 0..4_u8).prop_map(|(s, r)| Event::Join(s, r)),
            3 => (0..6_u8, 0..4_u8).prop_map(|(s, r)| Event::Leave(s, r)),
            3 => (0..4_u8).prop_map(Event::Admit),
            1 => (0..6_u8).prop_map(Event::Disconnect),
        ]
    }

    /// The same, written without any cleverness: who is in which room, and whether admitted.
    #[derive(Default)]
    struct Model(BTreeMap<(u8, u8), bool>);

    impl Model {
        fn occupied(&self, r: u8) -> bool {
            self.0.keys().any(|(room, _)| *room == r)
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_ends_like_the_model(events in proptest::collection::vec(event(), 0..80)) {
            const MAX_ROOMS: usize = 3;
            let mut table = RoomTable::new(MAX_ROOMS);
            let mut model = Model::default();
            let rooms: Vec<RoomName> = (0..4).map(|n| room(&n.to_string())).collect();
            for event in events {
                match event {
                    Event::Join(s, r) => {
                        let expected = match model.0.get(&(r, s)) {
                            Some(admitted) => JoinOutcome::AlreadyIn { admitted: *admitted },
                            None if model.0.keys().filter(|(_, other)| *other == s).count() == MAX_ROOMS => {
                                JoinOutcome::RoomsFull
                            }
                            None if model.occupied(r) => JoinOutcome::Waits,
                            None => JoinOutcome::FirstIn,
                        };
                        if matches!(expected, JoinOutcome::FirstIn | JoinOutcome::Waits) {
                            model.0.insert((r, s), false);
                        }
                        prop_assert_eq!(table.join(&rooms[usize::from(r)], waiter(s)), expected);
                    }
                    Event::Leave(s, r) => {
                        let was_in = model.0.remove(&(r, s)).is_some();
                        let expected = match (was_in, model.occupied(r)) {
                            (false, _) => LeaveOutcome::NotIn,
                            (true, true) => LeaveOutcome::Left,
                            (true, false) => LeaveOutcome::LastOut,
                        };
                        prop_assert_eq!(table.leave(session(s), &rooms[usize::from(r)]), expected);
                    }
                    Event::Admit(r) => {
                        let expected = model.0.iter_mut().filter(|((room, _), admitted)| *room == r && !**admitted);
                        let count = expected.map(|(_, admitted)| *admitted = true).count();
                        prop_assert_eq!(table.admit(&rooms[usize::from(r)], None, |_| Some(())).len(), count);
                    }
                    Event::Disconnect(s) => {
                        let left: BTreeSet<u8> =
                            model.0.keys().filter(|(_, other)| *other == s).map(|(room, _)| *room).collect();
                        model.0.retain(|(_, other), _| *other != s);
                        let expected: BTreeSet<RoomName> = left
                            .into_iter()
                            .filter(|r| !model.occupied(*r))
                            .map(|r| rooms[usize::from(r)].clone())
                            .collect();
                        let emptied: BTreeSet<RoomName> = table.disconnect(session(s)).into_iter().collect();
                        prop_assert_eq!(emptied, expected);
                    }
                }
                table.check();
                for (r, name) in (0_u8..).zip(&rooms) {
                    let expected: BTreeSet<SessionId> = model.0.iter()
                        .filter(|((room, _), admitted)| *room == r && **admitted)
                        .map(|((_, s), _)| session(*s))
                        .collect();
                    prop_assert_eq!(members(&table, name), expected);
                }
            }
        }
    }
}
