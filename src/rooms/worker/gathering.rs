//! What waits in a worker's queue, taken together: the busier the worker, the more a session is sent at once, and only what is
//! written together is cheap.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::Dispatch;
use crate::broker::Transit;
use crate::protocol::Dialect;
use crate::rooms::{EVENT_COST, Notice, RoomEvent, SessionId};

/// Dispatches that are taken from the queue together, to be sent room by room, …
const MAX_GATHERED: usize = 8_192;

/// … and bytes that the messages in them count.
const MAX_GATHERED_BYTES: usize = 4 * 1024 * 1024;

/// What an event counts beside its text: about what it has beside in the dialect that says more.
const EVENT_BYTES: usize = 256;

/// The queue, with what was looked at and put back.
pub(super) struct Dispatches {
    queue: mpsc::UnboundedReceiver<Dispatch>,
    /// Answers to publishes first, and then at most one dispatch of another kind.
    ahead: VecDeque<Dispatch>,
    /// What one session is sent together at most, as far as whole dispatches allow.
    most_bytes: usize,
}

impl Dispatches {
    pub(super) fn new(queue: mpsc::UnboundedReceiver<Dispatch>, most_bytes: usize) -> Self {
        Self {
            queue,
            ahead: VecDeque::new(),
            most_bytes,
        }
    }

    pub(super) async fn next(&mut self) -> Option<Dispatch> {
        match self.ahead.pop_front() {
            Some(dispatch) => Some(dispatch),
            None => self.queue.recv().await,
        }
    }

    /// The next dispatch, if it is an answer to a publish.
    pub(super) fn next_answer(&mut self) -> Option<(SessionId, Notice)> {
        match self.ahead.pop_front() {
            Some(Dispatch::One(id, notice @ Notice::Published(..))) => Some((id, notice)),
            Some(other) => {
                self.ahead.push_front(other);
                None
            }
            None => None,
        }
    }

    /// `first`, and what follows it in the queue for rooms, by its members. Rooms are independent of each other; what comes
    /// later for a room is for the same members or for those that it has from then on, and who comes and goes is no part of the
    /// messages' order.
    ///
    /// Answers to publishes in between are passed over, because behind a busy queue each message has one. They may: an
    /// answer and one's own message come in either order. Nothing else is overtaken.
    pub(super) fn gather(&mut self, first: Parcel) -> Vec<Parcel> {
        let is_answer = |dispatch: &Dispatch| matches!(dispatch, Dispatch::One(_, Notice::Published(..)));
        if first.bytes >= self.most_bytes {
            return vec![first];
        }
        let (mut bytes, mut count) = (first.bytes, 1);
        let mut places = FxHashMap::default();
        places.insert(Arc::as_ptr(&first.members), 0);
        let mut parcels = vec![first];
        while bytes < MAX_GATHERED_BYTES && count < MAX_GATHERED && self.ahead.back().is_none_or(is_answer) {
            match self.queue.try_recv() {
                Ok(Dispatch::Room {
                    members,
                    events,
                    transit,
                    pace: None,
                }) => {
                    // No other list is at this place: what was gathered for it is held.
                    let place = *places.entry(Arc::as_ptr(&members)).or_insert(parcels.len());
                    if place == parcels.len() {
                        parcels.push(Parcel::empty(members));
                    }
                    let parcel = &mut parcels[place];
                    bytes += parcel.add(events, transit);
                    count += 1;
                    if parcel.bytes >= self.most_bytes {
                        break;
                    }
                }
                Ok(other) => self.ahead.push_back(other),
                Err(_) => break,
            }
        }
        parcels
    }
}

/// What members of a room are sent together.
pub(super) struct Parcel {
    pub(super) members: Arc<Vec<SessionId>>,
    /// Oldest first.
    pub(super) events: Vec<Arc<[RoomEvent]>>,
    /// What they count for a session, at a guess.
    pub(super) bytes: usize,
    /// Held until all of it is in the mailboxes.
    transit: Vec<Transit>,
}

impl Parcel {
    pub(super) fn new(
        members: Arc<Vec<SessionId>>,
        events: Arc<[RoomEvent]>,
        transit: Option<Transit>,
    ) -> Self {
        let mut parcel = Self::empty(members);
        parcel.add(events, transit);
        parcel
    }

    fn empty(members: Arc<Vec<SessionId>>) -> Self {
        Self {
            members,
            events: Vec::with_capacity(1),
            bytes: 0,
            transit: Vec::new(),
        }
    }

    /// How many bytes were added.
    fn add(&mut self, events: Arc<[RoomEvent]>, transit: Option<Transit>) -> usize {
        let bytes = events.iter().map(|event| event.text_bytes() + EVENT_BYTES).sum();
        self.transit.extend(transit);
        self.events.push(events);
        self.bytes += bytes;
        bytes
    }
}

/// Events of one room that are sent together, and what they are for a session of either dialect, worked out when first needed.
pub(super) struct Batches {
    pub(super) list: Arc<[Arc<[RoomEvent]>]>,
    plain: OnceCell<Weight>,
    v1: OnceCell<Weight>,
}

/// What events are for a session of one dialect.
#[derive(Clone, Copy, Default)]
pub(super) struct Weight {
    /// Of these it is told.
    pub(super) events: usize,
    /// Bytes of the texts of their frames.
    pub(super) text_bytes: usize,
}

impl Weight {
    /// What they count in its backlog.
    pub(super) fn cost(self) -> usize {
        self.text_bytes + self.events * EVENT_COST
    }
}

impl Batches {
    pub(super) fn new(list: Vec<Arc<[RoomEvent]>>) -> Self {
        Self {
            list: list.into(),
            plain: OnceCell::new(),
            v1: OnceCell::new(),
        }
    }

    pub(super) fn weight(&self, dialect: Dialect) -> Weight {
        let known = match dialect {
            Dialect::Plain => &self.plain,
            Dialect::V1 => &self.v1,
        };
        *known.get_or_init(|| {
            let events = self.list.iter().flat_map(|events| events.iter());
            let frames = events.filter_map(|event| event.frame(dialect));
            frames.fold(Weight::default(), |weight, frame| Weight {
                events: weight.events + 1,
                text_bytes: weight.text_bytes + frame.text_bytes(),
            })
        })
    }
}
