//! What waits in a worker's queue, taken together: the busier the worker, the more a session is sent at once, and only what is
//! written together is cheap.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::{Dispatch, TURN_BYTES};
use crate::broker::Transit;
use crate::protocol::Dialect;
use crate::rooms::{Notice, RoomEvent, SessionId, frame_bytes};

/// Dispatches that are taken from the queue together, to be sent room by room, …
const MAX_GATHERED: usize = 8_192;

/// … and bytes of the messages in them.
const MAX_GATHERED_BYTES: usize = 4 * 1024 * 1024;

/// The queue, with what was looked at and put back.
pub(super) struct Dispatches {
    queue: mpsc::UnboundedReceiver<Dispatch>,
    /// Answers to publishes first, and then at most one dispatch of another kind.
    ahead: VecDeque<Dispatch>,
}

impl Dispatches {
    pub(super) fn new(queue: mpsc::UnboundedReceiver<Dispatch>) -> Self {
        Self {
            queue,
            ahead: VecDeque::new(),
        }
    }

    pub(super) async fn next(&mut self) -> Option<Dispatch> {
        match self.ahead.pop_front() {
            Some(dispatch) => Some(dispatch),
            None => self.queue.recv().await,
        }
    }

    /// `first`, and what follows it in the queue for rooms, by its members. Rooms are independent of each other; of one room,
    /// what comes later is for the same members or for those that it has from then on.
    ///
    /// Answers to publishes in between come after it, because behind a busy queue each message has one. They may: an
    /// answer and one's own message come in either order. Nothing else is overtaken.
    pub(super) fn gather(&mut self, first: Parcel) -> Vec<Parcel> {
        let is_answer = |dispatch: &Dispatch| matches!(dispatch, Dispatch::One(_, Notice::Published(..)));
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
                    if parcel.bytes >= TURN_BYTES {
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
        let bytes = events.iter().map(RoomEvent::text_bytes).sum();
        self.transit.extend(transit);
        self.events.push(events);
        self.bytes += bytes;
        bytes
    }
}

/// Events of one room that are sent together, and what they count in the backlog of a session of either dialect, worked out
/// when first needed.
pub(super) struct Batches {
    pub(super) list: Arc<[Arc<[RoomEvent]>]>,
    pub(super) events: usize,
    plain: OnceCell<usize>,
    v1: OnceCell<usize>,
}

impl Batches {
    pub(super) fn new(list: Vec<Arc<[RoomEvent]>>) -> Self {
        Self {
            events: list.iter().map(|events| events.len()).sum(),
            list: list.into(),
            plain: OnceCell::new(),
            v1: OnceCell::new(),
        }
    }

    pub(super) fn cost(&self, dialect: Dialect) -> usize {
        let known = match dialect {
            Dialect::Plain => &self.plain,
            Dialect::V1 => &self.v1,
        };
        *known.get_or_init(|| {
            let costs = self.list.iter().map(|events| frame_bytes(events, dialect));
            costs.sum()
        })
    }
}
