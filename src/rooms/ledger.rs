//! What the broker's link carries: decides every SUBSCRIBE and UNSUBSCRIBE. Pure.
//!
//! - The first one in and the last one out only change what is wanted. What is sent follows from the difference
//!   between that and the wire: `Off → Opening → Live → Closing → Off`.
//! - At most one command is under way per room. When it is confirmed, the two are compared again, so joins and leaves
//!   in any order end in the right state.
//! - Commands are collected until [`Ledger::take_commands`]: a join and a leave in between cancel each other out.
//! - A link that is lost takes all subscriptions with it; the next one has a higher generation, and confirmations of
//!   an earlier one are ignored.

use std::collections::HashMap;

use crate::protocol::RoomName;

/// The state of all subscriptions.
#[derive(Debug, Default)]
pub struct Ledger {
    rooms: HashMap<RoomName, Entry>,
    /// Rooms whose wire may have to change, each once.
    due: Vec<RoomName>,
    link: Option<u64>,
    /// Rooms whose wire is live.
    live: usize,
}

#[derive(Debug)]
struct Entry {
    wanted: bool,
    wire: Wire,
    due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Off,
    Opening,
    Live,
    Closing,
    /// The broker does not allow it; not asked again while this link lives, unless somebody comes anew.
    Refused,
}

/// Commands for the link, each room in one of them at most.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The link they are for.
    pub generation: u64,
    /// To subscribe to.
    pub subscribe: Vec<RoomName>,
    /// To unsubscribe from.
    pub unsubscribe: Vec<RoomName>,
}

impl Ledger {
    /// Somebody is in the room, or comes again to a room that was refused.
    pub fn want(&mut self, room: &RoomName) {
        let entry = self.rooms.entry(room.clone()).or_insert(Entry {
            wanted: true,
            wire: Wire::Off,
            due: false,
        });
        entry.wanted = true;
        if entry.wire == Wire::Refused {
            entry.wire = Wire::Off;
        }
        self.mark(room);
    }

    /// Nobody is in the room any more.
    pub fn unwant(&mut self, room: &RoomName) {
        if let Some(entry) = self.rooms.get_mut(room) {
            entry.wanted = false;
            self.mark(room);
        }
    }

    /// A link is there, and carries nothing.
    pub fn link_up(&mut self, generation: u64) {
        self.link_down();
        self.link = Some(generation);
        let rooms: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for room in &rooms {
            self.mark(room);
        }
    }

    /// The link is lost.
    pub fn link_down(&mut self) {
        self.link = None;
        self.live = 0;
        self.rooms.retain(|_, entry| {
            entry.wire = Wire::Off;
            entry.wanted
        });
    }

    /// The broker has confirmed a subscription. Whether the room has just become live.
    pub fn opened(&mut self, generation: u64, room: &RoomName) -> bool {
        self.confirmed(generation, room, Wire::Opening, Wire::Live) && self.is_live(room)
    }

    /// The broker has confirmed the end of a subscription.
    pub fn closed(&mut self, generation: u64, room: &RoomName) {
        self.confirmed(generation, room, Wire::Closing, Wire::Off);
    }

    /// The broker does not allow a subscription. Whether somebody has to be told.
    pub fn refused(&mut self, generation: u64, room: &RoomName) -> bool {
        self.confirmed(generation, room, Wire::Opening, Wire::Refused)
            && self.rooms.get(room).is_some_and(|entry| entry.wanted)
    }

    fn confirmed(&mut self, generation: u64, room: &RoomName, from: Wire, to: Wire) -> bool {
        if self.link != Some(generation) {
            return false;
        }
        match self.rooms.get_mut(room) {
            Some(entry) if entry.wire == from => entry.wire = to,
            _ => return false,
        }
        self.live += usize::from(to == Wire::Live);
        self.mark(room);
        true
    }

    /// Rooms that the link is subscribed to.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live
    }

    /// Whether everything that is published to the room now arrives here, and somebody wants it.
    #[must_use]
    pub fn is_live(&self, room: &RoomName) -> bool {
        self.rooms
            .get(room)
            .is_some_and(|entry| entry.wanted && entry.wire == Wire::Live)
    }

    /// Whether there is a link.
    #[must_use]
    pub fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// Whether [`Ledger::take_commands`] has something to look at.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What has to be sent now; taken as sent.
    pub fn take_commands(&mut self) -> Commands {
        let mut commands = Commands {
            generation: self.link.unwrap_or_default(),
            ..Commands::default()
        };
        for room in std::mem::take(&mut self.due) {
            let Some(entry) = self.rooms.get_mut(&room) else {
                continue;
            };
            entry.due = false;
            match (entry.wire, entry.wanted, self.link) {
                (Wire::Off, true, Some(_)) => {
                    entry.wire = Wire::Opening;
                    commands.subscribe.push(room);
                }
                (Wire::Live, false, Some(_)) => {
                    entry.wire = Wire::Closing;
                    self.live -= 1;
                    commands.unsubscribe.push(room);
                }
                (Wire::Off | Wire::Refused, false, _) => {
                    self.rooms.remove(&room);
                }
                // Right as it is, or a command is under way, or there is no link.
                _ => {}
            }
        }
        commands
    }

    fn mark(&mut self, room: &RoomName) {
        if let Some(entry) = self.rooms.get_mut(room)
            && !entry.due
        {
            entry.due = true;
            self.due.push(room.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn up() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.link_up(1);
        ledger
    }

    #[test]
    fn the_first_in_subscribes_and_the_last_out_unsubscribes() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        assert_eq!(ledger.take_commands().subscribe, std::slice::from_ref(&a));
        assert!(!ledger.is_live(&a));
        assert!(ledger.opened(1, &a));
        assert!(ledger.is_live(&a));
        ledger.unwant(&a);
        assert_eq!(ledger.take_commands().unsubscribe, std::slice::from_ref(&a));
        ledger.closed(1, &a);
        assert_eq!(
            ledger.take_commands(),
            Commands {
                generation: 1,
                ..Commands::default()
            }
        );
        assert!(ledger.rooms.is_empty());
    }

    #[test]
    fn a_join_and_a_leave_in_one_turn_cost_nothing() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        ledger.unwant(&a);
        let commands = ledger.take_commands();
        assert!(commands.subscribe.is_empty() && commands.unsubscribe.is_empty());
        assert!(ledger.rooms.is_empty());
    }

    #[test]
    fn a_room_wanted_again_while_it_closes_opens_after_it_has_closed() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        let _ = ledger.take_commands();
        assert!(ledger.opened(1, &a));
        ledger.unwant(&a);
        let _ = ledger.take_commands();
        ledger.want(&a);
        assert!(
            ledger.take_commands().subscribe.is_empty(),
            "a command is under way"
        );
        assert!(!ledger.is_live(&a));
        ledger.closed(1, &a);
        assert_eq!(ledger.take_commands().subscribe, [a]);
    }

    #[test]
    fn a_room_left_while_it_opens_is_not_live_and_closes() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        let _ = ledger.take_commands();
        ledger.unwant(&a);
        assert!(!ledger.opened(1, &a));
        assert_eq!(ledger.take_commands().unsubscribe, [a]);
    }

    #[test]
    fn a_new_link_subscribes_to_all_that_is_wanted_and_an_old_confirmation_counts_for_nothing() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        let _ = ledger.take_commands();
        ledger.link_down();
        assert!(!ledger.opened(1, &a));
        ledger.link_up(2);
        assert_eq!(
            ledger.take_commands(),
            Commands {
                generation: 2,
                subscribe: vec![a.clone()],
                unsubscribe: vec![]
            }
        );
        assert!(!ledger.opened(1, &a));
        assert!(ledger.opened(2, &a));
    }

    #[test]
    fn a_refused_room_is_asked_for_again_when_somebody_comes() {
        let (mut ledger, a) = (up(), room("a"));
        ledger.want(&a);
        let _ = ledger.take_commands();
        assert!(ledger.refused(1, &a));
        assert!(ledger.take_commands().subscribe.is_empty());
        ledger.want(&a);
        assert_eq!(ledger.take_commands().subscribe, [a]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Want(u8),
        Unwant(u8),
        Flush,
        /// The broker answers the oldest command, positively or not.
        Answer(bool),
        LinkDown,
        LinkUp,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..3_u8).prop_map(Event::Want),
            4 => (0..3_u8).prop_map(Event::Unwant),
            4 => Just(Event::Flush),
            6 => prop::bool::weighted(0.9).prop_map(Event::Answer),
            1 => Just(Event::LinkDown),
            2 => Just(Event::LinkUp),
        ]
    }

    /// A broker that does what it is told, in order, and checks that it is told nothing senseless.
    #[derive(Default)]
    struct Wire {
        generation: u64,
        up: bool,
        subscribed: BTreeSet<RoomName>,
        queue: VecDeque<(bool, RoomName)>,
    }

    impl Wire {
        fn send(&mut self, commands: Commands) {
            if commands.subscribe.is_empty() && commands.unsubscribe.is_empty() {
                return;
            }
            assert!(self.up && commands.generation == self.generation);
            for (subscribe, rooms) in [(true, commands.subscribe), (false, commands.unsubscribe)] {
                for room in rooms {
                    assert!(
                        self.queue.iter().all(|(_, other)| *other != room),
                        "two commands under way"
                    );
                    assert_eq!(
                        self.subscribed.contains(&room),
                        !subscribe,
                        "a command without effect"
                    );
                    self.queue.push_back((subscribe, room));
                }
            }
        }

        fn answer(&mut self, ledger: &mut Ledger, allow: bool) {
            let Some((subscribe, room)) = self.queue.pop_front() else {
                return;
            };
            match (subscribe, allow) {
                (true, true) => {
                    self.subscribed.insert(room.clone());
                    ledger.opened(self.generation, &room);
                }
                (true, false) => {
                    ledger.refused(self.generation, &room);
                }
                (false, _) => {
                    self.subscribed.remove(&room);
                    ledger.closed(self.generation, &room);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_ends_with_exactly_what_is_wanted(events in prop::collection::vec(event(), 0..120)) {
            let rooms: Vec<RoomName> = (0..3).map(|n| room(&n.to_string())).collect();
            let (mut ledger, mut wire) = (Ledger::default(), Wire::default());
            let mut wanted: BTreeMap<RoomName, bool> = BTreeMap::new();
            for event in events {
                match event {
                    Event::Want(n) => {
                        ledger.want(&rooms[usize::from(n)]);
                        wanted.insert(rooms[usize::from(n)].clone(), true);
                    }
                    Event::Unwant(n) => {
                        ledger.unwant(&rooms[usize::from(n)]);
                        wanted.insert(rooms[usize::from(n)].clone(), false);
                    }
                    Event::Flush => wire.send(ledger.take_commands()),
                    Event::Answer(allow) => wire.answer(&mut ledger, allow),
                    Event::LinkDown => {
                        ledger.link_down();
                        wire = Wire { generation: wire.generation, ..Wire::default() };
                    }
                    Event::LinkUp => {
                        wire = Wire { generation: wire.generation + 1, up: true, ..Wire::default() };
                        ledger.link_up(wire.generation);
                    }
                }
                for room in &rooms {
                    let is_wanted = wanted.get(room).copied().unwrap_or_default();
                    prop_assert!(!ledger.is_live(room) || (is_wanted && wire.subscribed.contains(room)));
                }
                let live = ledger.rooms.values().filter(|entry| entry.wire == super::Wire::Live);
                prop_assert_eq!(ledger.live_count(), live.count());
            }
            // At rest: a link, everybody who was refused asks again, and all commands are answered.
            wire = Wire { generation: wire.generation + 1, up: true, ..Wire::default() };
            ledger.link_up(wire.generation);
            loop {
                wire.send(ledger.take_commands());
                if wire.queue.is_empty() {
                    break;
                }
                wire.answer(&mut ledger, true);
            }
            let expected: BTreeSet<RoomName> =
                wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(room, _)| room).collect();
            prop_assert_eq!(&wire.subscribed, &expected);
            prop_assert_eq!(ledger.rooms.len(), expected.len());
            prop_assert!(expected.iter().all(|room| ledger.is_live(room)));
        }
    }
}
