//! A piece of a room's past that was read for somebody, kept in memory for those who want the same. Pure.
//!
//! It has every message after one offset up to another, without holes, and never more than the broker keeps. One that
//! reaches the room's cursor grows with it; one that was cut off before, because the past is longer than a page, does
//! not.

use std::collections::{VecDeque, vec_deque};
use std::sync::Arc;

use crate::broker::RoomMessage;
use crate::broker::history::Entry;
use crate::rooms::RoomEvent;

/// Bytes of text in a window that grows; one with more loses its beginning.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Window {
    /// The offset before the first event.
    after: u64,
    /// Nothing before the window can be had.
    is_all: bool,
    /// It reaches the cursor.
    is_open: bool,
    events: VecDeque<Arc<RoomEvent>>,
    bytes: usize,
    /// What the broker keeps; older messages are given up with it.
    max_events: usize,
}

/// What a window has after an offset.
#[derive(Debug)]
pub(super) enum Since<'a> {
    /// All that follows, up to the window's end.
    Events(vec_deque::Iter<'a, Arc<RoomEvent>>),
    /// The first messages of it cannot be had: it begins after this offset.
    Lost(u64),
    /// This window does not tell.
    Unknown,
}

impl Window {
    /// A window of what comes after the cursor, while what is before it is being read.
    pub(super) fn at(cursor: u64, max_events: usize) -> Self {
        Self {
            after: cursor,
            is_all: false,
            is_open: true,
            events: VecDeque::new(),
            bytes: 0,
            max_events,
        }
    }

    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the last event.
    pub(super) fn end(&self) -> u64 {
        self.after + self.events.len() as u64
    }

    /// Whether it reaches the cursor, and begins after this offset.
    pub(super) fn grows_after(&self, start: u64) -> bool {
        self.is_open && !self.events.is_empty() && start < self.after
    }

    /// The cursor has moved to this message.
    pub(super) fn append(&mut self, offset: u64, message: &RoomMessage) {
        if !self.is_open {
            return;
        }
        if offset != self.end() + 1 {
            *self = Self {
                is_all: true,
                ..Self::at(offset - 1, self.max_events)
            };
        }
        self.push_back(offset, message);
        self.trim();
        while self.bytes > MAX_BYTES {
            self.pop_front();
            self.is_all = false;
        }
    }

    fn trim(&mut self) {
        while self.events.len() > self.max_events {
            self.pop_front();
            self.is_all = true;
        }
    }

    fn pop_front(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.text_bytes();
            self.after += 1;
        }
    }

    fn push_back(&mut self, offset: u64, message: &RoomMessage) {
        let event = RoomEvent::message(message.clone(), Some(offset));
        self.bytes += event.text_bytes();
        self.events.push_back(Arc::new(event));
    }

    /// What was kept between `after` and the window's beginning has been read, or the first part of it.
    pub(super) fn prepend(&mut self, after: u64, entries: &[Entry]) {
        let begin = self.after;
        let older = &entries[..entries.partition_point(|entry| entry.offset <= begin)];
        let mut page = Self::at(after, self.max_events);
        for Entry { offset, message } in older {
            if *offset != page.end() + 1 {
                page = Self {
                    is_all: true,
                    ..Self::at(offset - 1, self.max_events)
                };
            }
            page.push_back(*offset, message);
        }
        if older.is_empty() {
            // Nothing is kept of all that was asked for.
            self.is_all = true;
        } else if page.end() < begin {
            page.is_open = false;
            *self = page;
        } else {
            self.after = page.after;
            self.is_all = page.is_all;
            self.bytes += page.bytes;
            page.events.append(&mut self.events);
            self.events = page.events;
        }
        self.trim();
    }

    pub(super) fn since(&self, start: u64) -> Since<'_> {
        if start < self.after {
            return if self.is_all {
                Since::Lost(self.after)
            } else {
                Since::Unknown
            };
        }
        if start >= self.end() && !(self.is_open && start == self.end()) {
            return Since::Unknown;
        }
        let first = usize::try_from(start - self.after).unwrap_or(usize::MAX);
        Since::Events(self.events.range(first..))
    }
}
