//! Rooms whose past is being replayed to the session in parts. Pure.
//!
//! What follows live waits here until the replay has ended, so that the room's order is kept. It goes on counting in
//! the session's backlog meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::{Position, RoomName};
use crate::rooms::{RoomEvent, Ticket};

/// All replays of a session that have not ended.
#[derive(Debug, Default)]
pub(super) struct Replays(HashMap<RoomName, Unfinished>);

#[derive(Debug)]
struct Unfinished {
    /// The join's.
    ticket: Ticket,
    /// Up to where the session has been told everything.
    after: u64,
    /// Where the replay ends.
    until: Position,
    live: Vec<Arc<[RoomEvent]>>,
}

/// What a replay has to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask for the part after this offset.
    Pull {
        room: RoomName,
        after: u64,
        until: Position,
    },
    /// It has ended: what has waited follows.
    Live(Vec<Arc<[RoomEvent]>>),
}

impl Replays {
    /// A replay goes on after its first part.
    pub(super) fn begin(&mut self, ticket: Ticket, room: &RoomName, after: u64, until: Position) -> Next {
        let unfinished = Unfinished {
            ticket,
            after,
            until: until.clone(),
            live: Vec::new(),
        };
        self.0.insert(room.clone(), unfinished);
        Next::Pull {
            room: room.clone(),
            after,
            until,
        }
    }

    /// Another part of a replay was sent; `next` is where the next one begins. `None` if that replay is no more.
    pub(super) fn advance(&mut self, ticket: Ticket, next: Option<u64>) -> Option<Next> {
        let (room, unfinished) = self
            .0
            .iter_mut()
            .find(|(_, unfinished)| unfinished.ticket == ticket)?;
        let room = room.clone();
        let Some(after) = next else {
            return self.0.remove(&room).map(|ended| Next::Live(ended.live));
        };
        unfinished.after = after;
        Some(Next::Pull {
            room,
            after,
            until: unfinished.until.clone(),
        })
    }

    /// Whether no replay goes on.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a replay with this ticket goes on.
    pub(super) fn has(&self, ticket: Ticket) -> bool {
        self.0.values().any(|unfinished| unfinished.ticket == ticket)
    }

    /// Keeps what has happened in a room whose replay goes on. Whether one does.
    pub(super) fn hold(&mut self, events: &Arc<[RoomEvent]>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let unfinished = events.first().and_then(|event| self.0.get_mut(event.room()));
        if let Some(unfinished) = unfinished {
            unfinished.live.push(events.clone());
            return true;
        }
        false
    }

    /// How far the session has been told of the room, while a replay goes on.
    pub(super) fn position(&self, room: &RoomName) -> Option<Position> {
        let unfinished = self.0.get(room)?;
        Some(Position {
            offset: unfinished.after,
            ..unfinished.until.clone()
        })
    }

    /// Ends a room's replay. Returns what has waited, which nobody wants any more.
    pub(super) fn end(&mut self, room: &RoomName) -> Vec<Arc<[RoomEvent]>> {
        self.0.remove(room).map(|ended| ended.live).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    fn room() -> RoomName {
        RoomName::new("r").expect("a valid name")
    }

    fn at(offset: u64) -> Position {
        Position {
            offset,
            epoch: Epoch::new("k"),
        }
    }

    fn live() -> Arc<[RoomEvent]> {
        [RoomEvent::unknown_gap(room())].into()
    }

    #[test]
    fn what_is_live_waits_until_the_last_part() {
        let mut replays = Replays::default();
        assert!(!replays.hold(&live()), "nothing is replayed");
        assert!(matches!(
            replays.begin(7, &room(), 3, at(9)),
            Next::Pull { after: 3, .. }
        ));
        assert!(replays.hold(&live()));
        assert!(matches!(
            replays.advance(7, Some(6)),
            Some(Next::Pull { after: 6, .. })
        ));
        assert_eq!(replays.position(&room()), Some(at(6)));
        assert!(replays.hold(&live()));
        assert!(matches!(replays.advance(7, None), Some(Next::Live(live)) if live.len() == 2));
        assert!(!replays.hold(&live()));
    }

    #[test]
    fn a_part_of_an_earlier_membership_is_not_of_this_one() {
        let mut replays = Replays::default();
        let _ = replays.begin(7, &room(), 3, at(9));
        assert!(replays.hold(&live()));
        assert_eq!(replays.end(&room()).len(), 1);
        let _ = replays.begin(8, &room(), 3, at(9));
        assert!(!replays.has(7));
        assert!(replays.advance(7, None).is_none());
    }
}
