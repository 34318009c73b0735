//! Who is in which room, and what each of them is told.
//!
//! ```text
//! WsSession ── Join Leave Abort Disconnect ──▶ RoomRegistry ── Dispatch ──▶ worker ── Notice ──▶ WsSession
//! ```
//!
//! - [`table`] is membership and [`ledger`] what the broker's link carries; both are pure. [`registry`] is the actor
//!   that owns them and the link.
//! - Everything that a session is told comes through one queue of its HTTP worker ([`worker`]), in the registry's
//!   order: no message of a room can overtake its `Joined`, and none can follow its `Left`.
//! - A message reaches the mailboxes of a worker's sessions from that worker's own thread: one thread hop per
//!   message and worker, none per member.
//! - [`vitals`] is what is known of a session from outside: what waits for it, and whether it is alive.

pub mod hub;
pub mod ledger;
pub mod registry;
pub mod table;
pub mod vitals;
pub mod worker;

use std::fmt;
use std::sync::{Arc, OnceLock};

use actix::Message as ActixMessage;
use bytestring::ByteString;

use crate::broker::{PublishOutcome, RoomMessage};
use crate::protocol::close::CloseCode;
use crate::protocol::server::{ServerFrame, message_json};
use crate::protocol::{Dialect, RoomName};

/// A session, for the life of the process: a number is never used again, so that what comes late hits nobody.
///
/// The HTTP worker that runs the session is part of the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// An HTTP worker, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(u16);

impl SessionId {
    const SERIAL_BITS: u32 = 48;

    /// The `serial`th session of a worker.
    #[must_use]
    pub fn new(worker: WorkerId, serial: u64) -> Self {
        debug_assert!(serial >> Self::SERIAL_BITS == 0);
        Self((u64::from(worker.0) << Self::SERIAL_BITS) | serial)
    }

    /// The worker that runs the session.
    #[must_use]
    pub fn worker(self) -> WorkerId {
        WorkerId(u16::try_from(self.0 >> Self::SERIAL_BITS).expect("16 bits are left"))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}",
            self.worker().0,
            self.0 & ((1 << Self::SERIAL_BITS) - 1)
        )
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A command of a session that waits for its answer; unique within the session.
pub type Ticket = u64;

/// Makes a session a member of a room. Answered by [`Notice::Joined`], [`Notice::Deferred`] or [`Notice::NotJoined`].
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct Join {
    /// Who.
    pub session: SessionId,
    /// Where.
    pub room: RoomName,
    /// Repeated in the answer.
    pub ticket: Ticket,
    /// A plain session stays wanted while the broker is away; one of `roomcast.v1` gives up and says so.
    pub dialect: Dialect,
}

/// Ends a membership. Answered by [`Notice::Left`], also if there was none.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct Leave {
    /// Who.
    pub session: SessionId,
    /// Where.
    pub room: RoomName,
    /// Repeated in the answer.
    pub ticket: Ticket,
}

/// Gives up a [`Join`] that has not been answered. If it has, this does nothing.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct Abort {
    /// Who.
    pub session: SessionId,
    /// Where.
    pub room: RoomName,
    /// The join's.
    pub ticket: Ticket,
    /// What the join is answered with.
    pub reason: NotJoined,
}

/// The session is gone: it leaves all its rooms. Not answered.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct Disconnect {
    /// Who.
    pub session: SessionId,
}

/// Why a session did not become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotJoined {
    /// It is in as many rooms as it may be.
    RoomLimit(usize),
    /// It left before the broker had confirmed.
    Cancelled,
    /// The broker could not confirm. The text says why.
    Unavailable(String),
}

/// What a session is told.
#[derive(ActixMessage, Clone, Debug)]
#[rtype(result = "()")]
pub enum Notice {
    /// The session is a member, and the broker has confirmed the room's subscription.
    Joined(Ticket),
    /// The (plain) session will be a member when the broker is back.
    Deferred(Ticket),
    /// The session is not a member.
    NotJoined(Ticket, NotJoined),
    /// The session is not a member any more; nothing of the room follows.
    Left(Ticket),
    /// What became of a publish.
    Published(Ticket, PublishOutcome),
    /// What has happened in a room that the session is a member of, oldest first.
    Room(Arc<[RoomEvent]>),
    /// Ask the peer whether it is there.
    Ping,
    /// End the session.
    Close(CloseCode),
}

/// Something that the members of a room are told. Encoded once per dialect, when the first member needs it.
#[derive(Debug)]
pub struct RoomEvent {
    kind: EventKind,
    v1: OnceLock<ByteString>,
}

#[derive(Debug)]
enum EventKind {
    Message(RoomMessage),
    Gap(RoomName),
}

impl RoomEvent {
    /// A message of the room.
    #[must_use]
    pub fn message(message: RoomMessage) -> Self {
        Self {
            kind: EventKind::Message(message),
            v1: OnceLock::new(),
        }
    }

    /// Messages of the room may have been missed. Plain sessions are not told.
    #[must_use]
    pub fn gap(room: RoomName) -> Self {
        Self {
            kind: EventKind::Gap(room),
            v1: OnceLock::new(),
        }
    }

    /// The text frame for a session of this dialect, if it is told at all.
    #[must_use]
    pub fn frame(&self, dialect: Dialect) -> Option<&ByteString> {
        match (dialect, &self.kind) {
            (Dialect::Plain, EventKind::Message(message)) => Some(&message.content.text),
            (Dialect::Plain, EventKind::Gap(_)) => None,
            (Dialect::V1, _) => Some(self.v1.get_or_init(|| self.encode())),
        }
    }

    fn encode(&self) -> ByteString {
        match &self.kind {
            EventKind::Message(message) => ServerFrame::Message {
                room: &message.room,
                message: &message_json(&message.content),
                sender: message.sender.as_deref(),
                session: message.session.as_deref(),
                time: message.time,
            }
            .encode(),
            EventKind::Gap(room) => ServerFrame::Gap { room }.encode(),
        }
    }

    /// Bytes of the text that the event carries.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match &self.kind {
            EventKind::Message(message) => message.content.text.len(),
            EventKind::Gap(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Content;

    #[test]
    fn a_session_knows_its_worker() {
        let id = SessionId::new(WorkerId(3), 77);
        assert_eq!((id.worker(), id.to_string().as_str()), (WorkerId(3), "3-77"));
    }

    #[test]
    fn an_event_is_encoded_once_and_shared() {
        let event = RoomEvent::message(RoomMessage {
            room: RoomName::new("r").expect("valid"),
            content: Content::text("hi"),
            sender: None,
            session: None,
            time: None,
        });
        let first = event.frame(Dialect::V1).expect("told").clone();
        let second = event.frame(Dialect::V1).expect("told");
        assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr());
        assert_eq!(event.frame(Dialect::Plain).expect("told"), "hi");
    }

    #[test]
    fn plain_sessions_are_not_told_of_a_gap() {
        let event = RoomEvent::gap(RoomName::new("r").expect("valid"));
        assert_eq!(event.frame(Dialect::Plain), None);
        assert_eq!(
            event.frame(Dialect::V1).expect("told"),
            r#"{"type":"gap","room":"r"}"#
        );
    }
}
