//! A timeline where there is history: the cursor, what is held behind a hole, and what is under way.

use std::collections::VecDeque;

use super::window::{Since, Window};
use super::{Admission, Incident, Part, Read, Wish};
use crate::broker::RoomMessage;
use crate::broker::history::{Arrival, Entry, Numbering, Page, PageLimit};
use crate::metrics::labels::{Dropped, GapCause};
use crate::protocol::{Dialect, Position, Replay, RoomName};
use crate::rooms::RoomEvent;

/// Messages in a page for the members.
const FILL_ENTRIES: u64 = 512;

/// A page for those who come back.
pub(super) const REPLAY_LIMIT: PageLimit = PageLimit {
    entries: 1_024,
    bytes: 512 * 1024,
};

/// Bytes of messages that one room may hold back while something is read.
const MAX_HELD_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct History {
    cursor: Option<Cursor>,
    /// Something may be missing after the cursor, and no fill has been begun since.
    pub(super) outdated: bool,
    reading: Option<Reading>,
    /// Fills that were begun. A read of the top alone is one too.
    pub(super) fills: u64,
    /// The number of the last fill that left nothing missing.
    filled: u64,
    held: VecDeque<Arrival>,
    pub(super) held_bytes: usize,
    /// How many of the held messages were there when the fill under way was begun.
    held_before: usize,
    /// Messages that the broker keeps.
    kept: usize,
    /// Bytes of a page for the members: it reaches all of them at once.
    fill_bytes: usize,
    /// The lowest offset after which somebody wants messages.
    wanted: Option<u64>,
    pub(super) window: Option<Window>,
    /// Somebody wanted more than a window had: then others will, and the next read is as long as a page can be.
    widens: bool,
    /// What has not been counted yet.
    pub(super) incidents: Vec<Incident>,
}

#[derive(Clone, Debug)]
struct Cursor {
    numbering: Numbering,
    offset: u64,
}

/// A read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    id: u64,
    /// `None`: only the top was asked for.
    pub(super) after: Option<u64>,
    /// It begins at the cursor, and brings the members what they missed.
    pub(super) is_fill: bool,
}

impl History {
    pub(super) fn new(kept: usize, fill_bytes: usize) -> Self {
        Self {
            kept,
            fill_bytes,
            ..Self::default()
        }
    }

    pub(super) fn reading(&self) -> Option<u64> {
        self.reading.map(|reading| reading.id)
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.window.as_ref().map_or(0, Window::bytes)
    }

    fn is_filling(&self) -> bool {
        self.reading.is_some_and(|reading| reading.is_fill)
    }

    pub(super) fn is_current(&self) -> bool {
        self.cursor.is_some() && !self.outdated && !self.is_filling() && self.held.is_empty()
    }

    pub(super) fn position(&self) -> Option<Position> {
        let cursor = self.cursor.as_ref()?;
        Some(cursor.numbering.position(cursor.offset))
    }

    /// Takes what is under way, if it is this read.
    pub(super) fn end_read(&mut self, id: u64) -> Option<Reading> {
        self.reading.take_if(|reading| reading.id == id)
    }

    pub(super) fn want(&mut self, after: u64) {
        let lowest = self.wanted.map_or(after, |wanted| wanted.min(after));
        self.wanted = Some(lowest);
    }

    pub(super) fn link_lost(&mut self) {
        self.reading = None;
        self.outdated = true;
        let given_up = self.give_up_claimed();
        self.dropped(Dropped::LinkLost, given_up, 0);
    }

    /// Drops what is held and has a place: it can be read again. What has none came over the link and is owed still.
    /// How many it were.
    fn give_up_claimed(&mut self) -> usize {
        let held_before = self.held.len();
        self.held.retain(|held| held.claim.is_none());
        self.held_bytes = self.held.iter().map(|held| held.message.cost()).sum();
        self.held_before = 0;
        held_before - self.held.len()
    }

    fn hold(&mut self, arrival: Arrival, may_hold: bool) {
        let bytes = arrival.message.cost();
        if !may_hold || self.held_bytes + bytes > MAX_HELD_BYTES {
            self.outdated = true;
            let given_up = self.give_up_claimed();
            self.dropped(Dropped::HeldFull, given_up, 0);
            if arrival.claim.is_some() || !may_hold || self.held_bytes + bytes > MAX_HELD_BYTES {
                self.dropped(Dropped::HeldFull, 1, usize::from(arrival.claim.is_none()));
                return;
            }
        }
        self.held_bytes += bytes;
        self.held.push_back(arrival);
    }

    fn dropped(&mut self, reason: Dropped, count: usize, lost: usize) {
        if count > 0 {
            self.incidents.push(Incident::Dropped { reason, count, lost });
        }
    }

    pub(super) fn arrived(&mut self, arrival: Arrival, may_hold: bool) -> Option<RoomEvent> {
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
            self.incidents.push(Incident::OffsetIgnored);
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

    pub(super) fn next_read(&mut self, id: u64, may_fill: bool) -> Option<Read> {
        if self.reading.is_some() {
            return None;
        }
        let known = self.position();
        let (after, is_fill) = match &known {
            None => (None, true),
            Some(position) if self.outdated && may_fill => (Some(position.offset), true),
            Some(position) => {
                let wanted = self.wanted.take()?;
                let widest = position.offset.saturating_sub(REPLAY_LIMIT.entries);
                let widens = std::mem::take(&mut self.widens);
                (Some(if widens { wanted.min(widest) } else { wanted }), false)
            }
        };
        if is_fill {
            self.outdated = false;
            self.fills += 1;
            self.held_before = self.held.len();
        } else {
            // It grows while the read is under way, so that nothing is missing between the two.
            self.window = known
                .as_ref()
                .map(|position| Window::at(position.offset, self.kept));
        }
        self.reading = Some(Reading { id, after, is_fill });
        let fill_limit = PageLimit {
            entries: FILL_ENTRIES,
            bytes: self.fill_bytes as u64,
        };
        let limit = if is_fill { fill_limit } else { REPLAY_LIMIT };
        Some(Read { known, after, limit })
    }

    pub(super) fn read(&mut self, room: &RoomName, reading: Reading, page: Page) -> Vec<RoomEvent> {
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
            self.incidents.push(Incident::Gap(GapCause::NewNumbering));
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
        self.advance(room, entries, is_fill, &mut events);
        if is_fill {
            if nothing_is_kept {
                self.bridge(room, top, &mut events);
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

    /// Tells the members what follows the cursor, and what is missing in between. A page that was read for somebody else
    /// may miss what is on its way on the link, and has no say in that.
    fn advance(&mut self, room: &RoomName, entries: Vec<Entry>, is_fill: bool, events: &mut Vec<RoomEvent>) {
        let mut told = 0;
        for Entry { offset, message } in entries {
            let Some(cursor) = self.cursor.as_ref().filter(|cursor| offset > cursor.offset) else {
                continue;
            };
            if offset > cursor.offset + 1 {
                if !is_fill {
                    break;
                }
                self.bridge(room, offset - 1, events);
            }
            self.tell(offset, message, events);
            told += 1;
        }
        if told > 0 {
            self.incidents.push(Incident::Filled(told));
        }
    }

    fn tell(&mut self, offset: u64, message: RoomMessage, events: &mut Vec<RoomEvent>) {
        if let Some(cursor) = &mut self.cursor {
            cursor.offset = offset;
        }
        if let Some(window) = &mut self.window {
            window.append(offset, &message);
        }
        events.push(RoomEvent::message(message, Some(offset)));
    }

    /// Brings the members up to this offset without the history: with what is held, and with gaps.
    fn bridge(&mut self, room: &RoomName, until: u64, events: &mut Vec<RoomEvent>) {
        while let Some(Cursor { numbering, offset }) = self.cursor.as_ref().filter(|c| c.offset < until) {
            let place = |arrival: &Arrival| {
                let claim = arrival.claim.as_ref()?;
                let is_missing = (offset + 1..=until).contains(&claim.offset);
                (is_missing && numbering.vouches(claim)).then_some(claim.offset)
            };
            let places = self.held.iter().enumerate();
            let first = places
                .filter_map(|(index, held)| Some((place(held)?, index)))
                .min();
            match first {
                Some((next, index)) if next == offset + 1 => {
                    self.held_before -= usize::from(index < self.held_before);
                    if let Some(arrival) = self.held.remove(index) {
                        self.held_bytes -= arrival.message.cost();
                        self.tell(next, arrival.message, events);
                    }
                }
                Some((next, _)) => self.skip_to(room, next - 1, GapCause::NotKept, events),
                None => self.skip_to(room, until, GapCause::NotKept, events),
            }
        }
    }

    /// Tells the members that the messages up to this offset cannot be had.
    fn skip_to(&mut self, room: &RoomName, offset: u64, cause: GapCause, events: &mut Vec<RoomEvent>) {
        if let Some(cursor) = &mut self.cursor
            && offset > cursor.offset
        {
            let goes_on = cursor.numbering.position(offset);
            events.push(RoomEvent::gap(room.clone(), cursor.offset, goes_on));
            cursor.offset = offset;
            self.window = None;
            self.incidents.push(Incident::Gap(cause));
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
                    self.incidents.push(Incident::OffsetIgnored);
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
    pub(super) fn go_on_without(&mut self, room: &RoomName) -> Vec<RoomEvent> {
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
            self.skip_to(room, first - 1, GapCause::Unreadable, &mut events);
        }
        self.outdated = false;
        self.release(&mut events);
        events
    }

    pub(super) fn admit(&mut self, wish: &mut Wish, part_bytes: usize) -> Option<Admission> {
        if !self.is_current() {
            return None;
        }
        let position = self.position()?;
        let top = position.offset;
        let Replay { after, last } = wish.replay.clone();
        let mut recovered = None;
        if wish.is_lost {
            recovered = Some(false);
        } else if let Some(after) = after {
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
                    Sought::Lost(_) => {
                        wish.is_lost = true;
                        recovered = Some(false);
                    }
                    Sought::Unread => return None,
                }
            }
        }
        let replay = match self.since(top.saturating_sub(last), top, part_bytes) {
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

    pub(super) fn part(
        &mut self,
        room: &RoomName,
        after: u64,
        until: &Position,
        part_bytes: usize,
    ) -> Option<Part> {
        if self.position()?.epoch != until.epoch {
            self.incidents.push(Incident::Gap(GapCause::Replay));
            return Some(Part::lost(room.clone(), after, until.clone()));
        }
        match self.since(after, until.offset, part_bytes) {
            Sought::Part(part) => Some(part),
            Sought::Unread => None,
            Sought::Lost(begin) => {
                self.incidents.push(Incident::Gap(GapCause::Replay));
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
            .as_ref()
            .map_or(Since::Unknown, |window| window.since(start));
        match since {
            Since::Unknown => {
                self.widens = self
                    .window
                    .as_ref()
                    .is_some_and(|window| window.grows_after(start));
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
                    after: start,
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
