//! One occupied room's place in its history, and what has to be read for it. Pure.
//!
//! - The cursor is the place up to which the members have been told everything: delivered, or announced as a gap. It
//!   moves forward by one with each message, whether that came on the link or out of the history.
//! - A message on the link that does not follow the cursor is held, and so is everything behind it, until what is
//!   missing has been read. Held messages that can be read again are dropped when too many wait.
//! - The timeline is current while the room is live, nothing is missing and nothing is held. Only then does somebody
//!   become a member: what was published before is replayed to him, everything after reaches him live.
//! - What was read for one subscriber is kept for a while ([`Window`]), so that many who come back together share it.
//! - At most one read is under way; what is wanted is compared again when it is answered.
//! - Without history a timeline is always current, and knows no places.

mod window;

use std::collections::VecDeque;
use std::sync::Arc;

use self::window::{Since, Window};
use super::RoomEvent;
use crate::broker::history::{Arrival, Entry, Numbering, Page, PageLimit};
use crate::protocol::{Dialect, Position, Replay, RoomName};

/// A page for the members: it reaches all of them at once.
const FILL_LIMIT: PageLimit = PageLimit {
    entries: 512,
    bytes: 128 * 1024,
};

/// A page for those who come back.
const REPLAY_LIMIT: PageLimit = PageLimit {
    entries: 1_024,
    bytes: 512 * 1024,
};

/// Bytes of messages that one room may hold back while something is read.
const MAX_HELD_BYTES: usize = 512 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Timeline {
    room: RoomName,
    history: Option<History>,
}

#[derive(Debug, Default)]
struct History {
    cursor: Option<Cursor>,
    /// Something may be missing after the cursor, and no fill has been begun since.
    outdated: bool,
    reading: Option<Reading>,
    /// Fills that were begun. A read of the top alone is one too.
    fills: u64,
    /// The number of the last fill that left nothing missing.
    filled: u64,
    held: VecDeque<Arrival>,
    held_bytes: usize,
    /// How many of the held messages were there when the fill under way was begun.
    held_before: usize,
    /// The lowest offset after which somebody wants messages.
    wanted: Option<u64>,
    window: Option<Window>,
}

#[derive(Clone, Debug)]
struct Cursor {
    numbering: Numbering,
    offset: u64,
}

/// A read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    id: u64,
    /// `None`: only the top was asked for.
    after: Option<u64>,
    /// It begins at the cursor, and brings the members what they missed.
    is_fill: bool,
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
}

impl Part {
    /// Bytes of its frames for a session of this dialect.
    #[must_use]
    pub fn bytes(&self, dialect: Dialect) -> usize {
        self.events.iter().map(|event| event.frame_bytes(dialect)).sum()
    }

    /// The last part of a replay whose rest cannot be had.
    #[must_use]
    pub fn lost(room: RoomName, after: u64, until: Position) -> Self {
        Self {
            events: vec![Arc::new(RoomEvent::gap(room, after, until))],
            next: None,
        }
    }
}

impl Timeline {
    /// The timeline of a room in which nobody has been told anything.
    #[must_use]
    pub fn new(room: RoomName, with_history: bool) -> Self {
        Self {
            room,
            history: with_history.then(History::default),
        }
    }

    /// Whether somebody can become a member.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.history.as_ref().is_none_or(History::is_current)
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

    /// The link is lost: nothing that is held or under way counts any more.
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

    /// What has to be read now, if nothing is under way; taken as sent with this id.
    pub fn next_read(&mut self, id: u64) -> Option<Read> {
        self.history.as_mut()?.next_read(id)
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
            _ => Vec::new(),
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

    /// Whether something is kept for those who come back.
    #[must_use]
    pub fn has_window(&self) -> bool {
        self.history
            .as_ref()
            .is_some_and(|history| history.window.is_some())
    }

    /// Gives it back.
    pub fn forget_window(&mut self) {
        if let Some(history) = &mut self.history {
            history.window = None;
        }
    }

    /// Whether it has been used since this was asked last.
    pub fn take_window_use(&mut self) -> bool {
        let window = self.history.as_mut().and_then(|history| history.window.as_mut());
        window.is_some_and(Window::take_use)
    }
}

impl History {
    fn is_filling(&self) -> bool {
        self.reading.is_some_and(|reading| reading.is_fill)
    }

    fn is_current(&self) -> bool {
        self.cursor.is_some() && !self.outdated && !self.is_filling() && self.held.is_empty()
    }

    fn position(&self) -> Option<Position> {
        let cursor = self.cursor.as_ref()?;
        Some(cursor.numbering.position(cursor.offset))
    }

    /// Takes what is under way, if it is this read.
    fn end_read(&mut self, id: u64) -> Option<Reading> {
        self.reading.take_if(|reading| reading.id == id)
    }

    fn want(&mut self, after: u64) {
        let lowest = self.wanted.map_or(after, |wanted| wanted.min(after));
        self.wanted = Some(lowest);
    }

    fn link_lost(&mut self) {
        self.reading = None;
        self.outdated = true;
        self.held.clear();
        (self.held_bytes, self.held_before) = (0, 0);
    }

    fn hold(&mut self, arrival: Arrival, may_hold: bool) {
        let bytes = arrival.message.cost();
        if !may_hold || self.held_bytes + bytes > MAX_HELD_BYTES {
            // What has a place can be read again, and is given up in favour of what has none.
            self.outdated = true;
            self.held.retain(|held| held.claim.is_none());
            self.held_bytes = self.held.iter().map(|held| held.message.cost()).sum();
            self.held_before = 0;
            if arrival.claim.is_some() || !may_hold || self.held_bytes + bytes > MAX_HELD_BYTES {
                return;
            }
        }
        self.held_bytes += bytes;
        self.held.push_back(arrival);
    }

    fn arrived(&mut self, arrival: Arrival, may_hold: bool) -> Option<RoomEvent> {
        if !self.is_current() {
            self.hold(arrival, may_hold);
            return None;
        }
        match self.place(arrival) {
            Placed::Next(event) => Some(event),
            Placed::Known => None,
            Placed::Ahead(arrival) => {
                self.outdated = true;
                self.hold(arrival, may_hold);
                None
            }
        }
    }

    /// Compares a message on the link with the cursor, and moves that.
    fn place(&mut self, arrival: Arrival) -> Placed {
        let Some(cursor) = &mut self.cursor else {
            return Placed::Ahead(arrival);
        };
        let Some(claim) = &arrival.claim else {
            return Placed::Next(RoomEvent::message(arrival.message, None));
        };
        if claim.epoch != cursor.numbering.epoch {
            return Placed::Ahead(arrival);
        }
        if !cursor.numbering.vouches(claim) {
            // Anybody can write to the channel: it is a message, but not one of this numbering.
            return Placed::Next(RoomEvent::message(arrival.message, None));
        }
        let offset = claim.offset;
        if offset <= cursor.offset {
            return Placed::Known;
        }
        if offset > cursor.offset + 1 {
            return Placed::Ahead(arrival);
        }
        cursor.offset = offset;
        if let Some(window) = &mut self.window {
            window.append(offset, &arrival.message);
        }
        Placed::Next(RoomEvent::message(arrival.message, Some(offset)))
    }

    fn next_read(&mut self, id: u64) -> Option<Read> {
        if self.reading.is_some() {
            return None;
        }
        let known = self.position();
        let (after, is_fill) = match &known {
            None => (None, true),
            Some(position) if self.outdated => (Some(position.offset), true),
            Some(_) => (Some(self.wanted.take()?), false),
        };
        if is_fill {
            self.outdated = false;
            self.fills += 1;
            self.held_before = self.held.len();
        } else {
            // It grows while the read is under way, so that nothing is missing between the two.
            self.window = known.as_ref().map(|position| Window::at(position.offset));
        }
        self.reading = Some(Reading { id, after, is_fill });
        let limit = if is_fill { FILL_LIMIT } else { REPLAY_LIMIT };
        Some(Read { known, after, limit })
    }

    fn read(&mut self, room: &RoomName, reading: Reading, page: Page) -> Vec<RoomEvent> {
        let Page {
            numbering,
            top,
            entries,
        } = page;
        let mut events = Vec::new();
        // Whoever still wants something asks again.
        self.wanted = None;
        let Some(cursor) = &mut self.cursor else {
            self.cursor = Some(Cursor {
                numbering,
                offset: top,
            });
            self.filled = self.fills;
            self.release(&mut events);
            return events;
        };
        let mut is_fill = reading.is_fill;
        if cursor.numbering.epoch != numbering.epoch {
            // The page begins at the beginning of the new numbering, or of what is kept of it.
            let start = entries.first().map_or(top, |entry| entry.offset - 1);
            events.push(RoomEvent::gap(
                room.clone(),
                cursor.offset,
                numbering.position(start),
            ));
            *cursor = Cursor {
                numbering,
                offset: start,
            };
            self.window = None;
            is_fill = true;
        } else if let (Some(window), Some(after), false) = (&mut self.window, reading.after, is_fill) {
            window.prepend(after, &entries);
        }
        let nothing_is_kept = entries.is_empty();
        self.advance(room, entries, &mut events);
        if is_fill {
            // What a replay does not bring to the cursor is on its way on the link, or already there.
            if nothing_is_kept {
                self.skip_to(room, top, &mut events);
            }
            if self.cursor.as_ref().is_some_and(|cursor| cursor.offset < top) {
                self.outdated = true;
            } else {
                self.filled = self.fills;
            }
        }
        self.release(&mut events);
        events
    }

    /// Tells the members what follows the cursor, and what is missing in between.
    fn advance(&mut self, room: &RoomName, entries: Vec<Entry>, events: &mut Vec<RoomEvent>) {
        for Entry { offset, message } in entries {
            let Some(cursor) = self.cursor.as_ref().filter(|cursor| offset > cursor.offset) else {
                continue;
            };
            if offset > cursor.offset + 1 {
                self.skip_to(room, offset - 1, events);
            }
            if let Some(cursor) = &mut self.cursor {
                cursor.offset = offset;
            }
            if let Some(window) = &mut self.window {
                window.append(offset, &message);
            }
            events.push(RoomEvent::message(message, Some(offset)));
        }
    }

    /// Tells the members that the messages up to this offset cannot be had.
    fn skip_to(&mut self, room: &RoomName, offset: u64, events: &mut Vec<RoomEvent>) {
        if let Some(cursor) = &mut self.cursor
            && offset > cursor.offset
        {
            let goes_on = cursor.numbering.position(offset);
            events.push(RoomEvent::gap(room.clone(), cursor.offset, goes_on));
            cursor.offset = offset;
            self.window = None;
        }
    }

    /// Lets go of what was held, as far as it follows now.
    fn release(&mut self, events: &mut Vec<RoomEvent>) {
        while !self.outdated
            && self.cursor.is_some()
            && let Some(arrival) = self.held.pop_front()
        {
            self.held_bytes -= arrival.message.cost();
            let was_there_before = self.held_before > 0;
            self.held_before = self.held_before.saturating_sub(1);
            match self.place(arrival) {
                Placed::Next(event) => events.push(event),
                Placed::Known => {}
                // The history was read after this had come, and does not have it: its claim is not true (any more).
                Placed::Ahead(arrival) if was_there_before => {
                    events.push(RoomEvent::message(arrival.message, None));
                }
                Placed::Ahead(arrival) => {
                    self.held_bytes += arrival.message.cost();
                    self.held.push_front(arrival);
                    self.outdated = true;
                }
            }
        }
    }

    /// What is missing cannot be read: the members are told so, and go on with what was held.
    fn go_on_without(&mut self, room: &RoomName) -> Vec<RoomEvent> {
        let mut events = Vec::new();
        let Some(Cursor { numbering, offset }) = self.cursor.clone() else {
            // Nobody is a member yet, and nobody can become one without knowing where.
            self.outdated = true;
            return events;
        };
        let first_held = self.held.iter().find_map(|arrival| {
            let claim = arrival.claim.as_ref()?;
            (claim.offset > offset && numbering.vouches(claim)).then_some(claim.offset)
        });
        if let Some(first) = first_held {
            self.skip_to(room, first - 1, &mut events);
        }
        self.outdated = false;
        self.release(&mut events);
        events
    }

    fn admit(&mut self, wish: &mut Wish, part_bytes: usize) -> Option<Admission> {
        if !self.is_current() {
            return None;
        }
        let position = self.position()?;
        let top = position.offset;
        let Replay { after, last } = &wish.replay;
        let mut recovered = None;
        if let Some(after) = after {
            if after.epoch != position.epoch || after.offset > top {
                // Perhaps the subscriber knows more than this node.
                if self.filled < wish.not_before {
                    self.outdated = true;
                    return None;
                }
                recovered = Some(false);
            } else {
                match self.since(after.offset, top, part_bytes) {
                    Sought::Part(replay) => {
                        return Some(Admission {
                            position: Some(position),
                            recovered: Some(true),
                            replay,
                        });
                    }
                    Sought::Lost(_) => recovered = Some(false),
                    Sought::Unread => return None,
                }
            }
        }
        let replay = match self.since(top.saturating_sub(*last), top, part_bytes) {
            Sought::Part(replay) => replay,
            Sought::Lost(begin) => match self.since(begin, top, part_bytes) {
                Sought::Part(replay) => replay,
                Sought::Lost(_) | Sought::Unread => return None,
            },
            Sought::Unread => return None,
        };
        Some(Admission {
            position: Some(position),
            recovered,
            replay,
        })
    }

    fn part(&mut self, room: &RoomName, after: u64, until: &Position, part_bytes: usize) -> Option<Part> {
        if self.position()?.epoch != until.epoch {
            return Some(Part::lost(room.clone(), after, until.clone()));
        }
        match self.since(after, until.offset, part_bytes) {
            Sought::Part(part) => Some(part),
            Sought::Unread => None,
            Sought::Lost(begin) => {
                let goes_on = Position {
                    offset: begin.min(until.offset),
                    ..until.clone()
                };
                let next = (begin < until.offset).then_some(begin);
                let lost = Part::lost(room.clone(), after, goes_on);
                Some(Part { next, ..lost })
            }
        }
    }

    /// The messages after `start`, up to `until`.
    fn since(&mut self, start: u64, until: u64, part_bytes: usize) -> Sought {
        if start >= until {
            return Sought::Part(Part::default());
        }
        let since = self
            .window
            .as_mut()
            .map_or(Since::Unknown, |window| window.since(start));
        match since {
            Since::Unknown => {
                self.want(start);
                Sought::Unread
            }
            Since::Lost(begin) => Sought::Lost(begin),
            Since::Events(following) => {
                let (mut events, mut bytes, mut end) = (Vec::new(), 0, start);
                for event in following {
                    // Those who want the past speak this dialect.
                    let cost = event.frame_bytes(Dialect::V1);
                    if end == until || (bytes > 0 && bytes + cost > part_bytes) {
                        break;
                    }
                    bytes += cost;
                    end += 1;
                    events.push(event.clone());
                }
                Sought::Part(Part {
                    events,
                    next: (end < until).then_some(end),
                })
            }
        }
    }
}

/// Where a message on the link belongs.
enum Placed {
    /// The members are told now.
    Next(RoomEvent),
    /// They have been told before.
    Known,
    /// Something is missing before it.
    Ahead(Arrival),
}

/// What can be said of messages of the past.
enum Sought {
    Part(Part),
    /// The first of them cannot be had: what is kept begins after this offset.
    Lost(u64),
    /// They have to be read.
    Unread,
}

#[cfg(test)]
mod tests;
