//! One occupied room's place in its history, and what has to be read for it. Pure.
//!
//! - The cursor is the place up to which the members have been told everything: delivered, or announced as a gap. It
//!   moves forward by one with each message, whether that came on the link or out of the history.
//! - A message on the link that does not follow the cursor is held, and so is everything behind it, until what is
//!   missing has been read. Held messages that can be read again are dropped when too many wait.
//! - The timeline is current while the room is live, nothing is missing and nothing is held. Only then does somebody
//!   become a member: what was published before is replayed to him, everything after reaches him live.
//! - What was read for one subscriber is kept for a while ([`window`]), so that many who come back together share it.
//! - At most one read is under way; what is wanted is compared again when it is answered.
//! - Without history a timeline is always current, and knows no places.

mod history;
mod window;

use std::sync::Arc;

use self::history::History;
use super::RoomEvent;
use crate::broker::history::{Arrival, Page, PageLimit};
use crate::metrics::labels::{Dropped, GapCause};
use crate::protocol::{Dialect, Position, Replay, RoomName};

/// See the module.
#[derive(Debug)]
pub struct Timeline {
    room: RoomName,
    /// Apart, because a table has room for more timelines than there are, and without history they are small.
    history: Option<Box<History>>,
}

/// What to read now; taken as sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// What the members have been told.
    pub known: Option<Position>,
    /// The messages after this offset.
    pub after: Option<u64>,
    /// How many at once.
    pub limit: PageLimit,
}

/// What happened to a room's messages on their way that is worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// The members were told so many messages that had been read.
    Filled(usize),
    /// Messages cannot be had, and somebody is told so.
    Gap(GapCause),
    /// Messages were dropped.
    Dropped {
        /// Why.
        reason: Dropped,
        /// How many.
        count: usize,
        /// How many of them have no offset, and cannot be read again.
        lost: usize,
    },
    /// A message's offset is not one of the room's numbering.
    OffsetIgnored,
}

/// How somebody becomes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where the membership begins; `None` without history.
    pub position: Option<Position>,
    /// Whether everything that was missed is replayed; `None` if that was not asked for.
    pub recovered: Option<bool>,
    /// The first part of what is replayed.
    pub replay: Part,
}

impl Admission {
    /// The answer to a member who joins again.
    #[must_use]
    pub fn again(position: Option<Position>) -> Self {
        Self {
            position,
            recovered: None,
            replay: Part::default(),
        }
    }
}

/// A part of what is replayed to one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The offset before the first event.
    pub after: u64,
    /// Oldest first.
    pub events: Vec<Arc<RoomEvent>>,
    /// The next part begins after this offset; `None`: this was the last.
    pub next: Option<u64>,
}

/// A wish for a replay, with what has been found out for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What the subscriber asked for.
    pub replay: Replay,
    /// It is answered only after this many fills: it contradicts what this node knows.
    pub not_before: u64,
    /// What follows the position that was asked for is not kept. It is not asked again: that could go on for ever.
    pub is_lost: bool,
}

impl Part {
    /// Bytes of its frames for a session of this dialect.
    #[must_use]
    pub fn bytes(&self, dialect: Dialect) -> usize {
        self.events.iter().map(|event| event.frame_bytes(dialect)).sum()
    }

    /// Leaves the first event, and the others to the next part.
    pub fn cut(&mut self) {
        if self.events.len() > 1 {
            self.events.truncate(1);
            self.next = Some(self.after + 1);
        }
    }

    /// The last part of a replay whose rest cannot be had.
    #[must_use]
    pub fn lost(room: RoomName, after: u64, until: Position) -> Self {
        Self {
            after,
            events: vec![Arc::new(RoomEvent::gap(room, after, until))],
            next: None,
        }
    }
}

impl Timeline {
    /// The timeline of a room in which nobody has been told anything. The broker keeps so many messages of it; 0: there is
    /// no history. What the members missed is brought to them in pages of `fill_bytes`.
    #[must_use]
    pub fn new(room: RoomName, kept: u64, fill_bytes: usize) -> Self {
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        Self {
            room,
            history: (kept > 0).then(|| Box::new(History::new(kept, fill_bytes))),
        }
    }

    /// Whether somebody can become a member.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.history.as_ref().is_none_or(|history| history.is_current())
    }

    /// Where the members are.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.history.as_ref()?.position()
    }

    /// Bytes of messages that are held back.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.history.as_ref().map_or(0, |history| history.held_bytes)
    }

    /// Bytes of text that are kept for those who come back.
    #[must_use]
    pub fn window_bytes(&self) -> usize {
        self.history.as_ref().map_or(0, |history| history.window_bytes())
    }

    /// What has happened since this was asked last.
    #[must_use]
    pub fn take_incidents(&mut self) -> Vec<Incident> {
        self.history
            .as_mut()
            .map(|history| std::mem::take(&mut history.incidents))
            .unwrap_or_default()
    }

    /// The link is lost: what is under way does not count any more, and what can be read again is not held any more.
    pub fn link_lost(&mut self) {
        if let Some(history) = &mut self.history {
            history.link_lost();
        }
    }

    /// Messages of the room did not get here. Returns what the members are told: without history, that they may have
    /// missed something.
    pub fn missed(&mut self) -> Option<RoomEvent> {
        match &mut self.history {
            Some(history) => {
                history.outdated = true;
                None
            }
            None => Some(RoomEvent::unknown_gap(self.room.clone())),
        }
    }

    /// A message on the link. Returns it if the members are told of it now. `may_hold`: there is room to hold it back.
    pub fn arrived(&mut self, arrival: Arrival, may_hold: bool) -> Option<RoomEvent> {
        match &mut self.history {
            Some(history) => history.arrived(arrival, may_hold),
            None => Some(RoomEvent::message(arrival.message, None)),
        }
    }

    /// What has to be read now, if nothing is under way; taken as sent with this id. `may_fill`: the members can be told
    /// more.
    pub fn next_read(&mut self, id: u64, may_fill: bool) -> Option<Read> {
        self.history.as_mut()?.next_read(id, may_fill)
    }

    /// A read was answered. Returns what the members are told.
    pub fn read(&mut self, id: u64, page: Page) -> Vec<RoomEvent> {
        let Self { room, history } = self;
        let read = history.as_mut().and_then(|history| {
            let reading = history.end_read(id)?;
            Some(history.read(room, reading, page))
        });
        read.unwrap_or_default()
    }

    /// A read was not answered; it has to be sent again ([`Timeline::next_read`]).
    pub fn read_again(&mut self, id: u64) {
        if let Some(history) = &mut self.history
            && let Some(reading) = history.end_read(id)
        {
            if reading.is_fill {
                history.outdated = true;
            } else {
                history.want(reading.after.unwrap_or_default());
            }
        }
    }

    /// The broker refuses a read, so what is missing cannot be had. Returns what the members are told.
    pub fn read_refused(&mut self, id: u64) -> Vec<RoomEvent> {
        let Self { room, history } = self;
        let Some(history) = history else {
            return Vec::new();
        };
        match history.end_read(id) {
            Some(reading) if reading.is_fill => history.go_on_without(room),
            Some(_) => {
                history.window = None;
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The number of the fill that will be begun next: what happens now is known once it has ended.
    #[must_use]
    pub fn next_fill(&self) -> u64 {
        self.history.as_ref().map_or(0, |history| history.fills + 1)
    }

    /// How this subscriber becomes a member now. `None`: something has to be read first. The replay comes in parts of
    /// `part_bytes` at most, as far as whole messages allow.
    pub fn admit(&mut self, wish: &mut Wish, part_bytes: usize) -> Option<Admission> {
        let Some(history) = &mut self.history else {
            return Some(Admission {
                position: None,
                recovered: wish.replay.after.as_ref().map(|_| false),
                replay: Part::default(),
            });
        };
        history.admit(wish, part_bytes)
    }

    /// The part of a replay that begins after an offset and ends with `until`. `None`: it has to be read first.
    pub fn part(&mut self, after: u64, until: &Position, part_bytes: usize) -> Option<Part> {
        let history = self.history.as_mut()?;
        history.part(&self.room, after, until, part_bytes)
    }

    /// The read that is under way.
    #[must_use]
    pub fn reading(&self) -> Option<u64> {
        self.history.as_ref()?.reading()
    }

    /// Whether something is kept for those who come back.
    #[must_use]
    pub fn has_window(&self) -> bool {
        self.history
            .as_ref()
            .is_some_and(|history| history.window.is_some())
    }

    /// Gives it back, unless it is being read.
    pub fn forget_window(&mut self) {
        if let Some(history) = &mut self.history
            && history.reading().is_none()
        {
            history.window = None;
        }
    }
}

#[cfg(test)]
mod tests;
