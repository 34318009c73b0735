//! Who is in which room, and what each of them is told.
//!
//! ```text
//! WsSession ── Join Leave Abort Narrow Pull Disconnect ──▶ RoomRegistry ── Dispatch ──▶ worker ── Notice ──▶ WsSession
//! ```
//!
//! - [`table`] is membership, [`ledger`] what the broker's link carries, [`timeline`] what has to be read of a room's past and
//!   [`presence`] who is listed as a member on all nodes; all are pure. [`registry`] is the actor that owns them and the link.
//! - Everything that a session is told of its rooms and commands comes through one queue of its HTTP worker ([`worker`]), in the registry's
//!   order: no message of a room can overtake its `Joined`, and none can follow its `Left`.
//! - A message reaches the mailboxes of a worker's sessions from that worker's own thread: one thread hop per
//!   message and worker, none per member.
//! - `retirement` spreads the closing of all sessions over the time that a node has to stop.
//! - [`vitals`] is what is known of a session from outside: what waits for it, and whether it is alive.

pub mod hub;
pub mod ledger;
pub mod lists;
pub mod presence;
pub mod registry;
mod retirement;
pub mod table;
pub mod timeline;
pub mod vitals;
pub mod worker;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Message as ActixMessage;
use bytestring::ByteString;

use self::timeline::{Admission, Part};
use crate::broker::presence::{MemberList, member_bytes};
use crate::broker::{PublishOutcome, RoomMessage};
use crate::protocol::close::CloseCode;
use crate::protocol::frame::TextFrame;
use crate::protocol::server::{MessageFrame, ServerFrame};
use crate::protocol::{Dialect, Member, Position, Replay, RoomName};
use crate::tokens::Rights;

/// A session, for the life of the process: a number is never used again, so that what comes late hits nobody.
///
/// The HTTP worker that runs the session is part of the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// An HTTP worker, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

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
    /// What it wants of the room's past.
    pub replay: Replay,
    /// Whether it is to be listed as a member; `None` leaves that as it is, and at first it is not.
    pub presence: Option<Listing>,
}

/// Whether a session is to be listed as a member of a room, for all nodes to see, and told of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// As whom.
    pub member: Member,
    /// Whether.
    pub listed: bool,
}

/// Asks who is listed as a member of a room, on all nodes. Answered once, within some two seconds.
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct ListMembers {
    /// Where.
    pub room: RoomName,
    /// Where the answer goes.
    pub reply: MembersReply,
}

/// The list, or why there is none: the broker is away.
pub type Members = Result<Arc<MemberList>, String>;

/// Where a list of members goes.
pub struct MembersReply(Box<dyn FnOnce(Members) + Send>);

impl MembersReply {
    /// `deliver` is called once, from the registry's thread; it must not block.
    pub fn new(deliver: impl FnOnce(Members) + Send + 'static) -> Self {
        Self(Box::new(deliver))
    }

    /// Hands the list over.
    pub fn give(self, members: Members) {
        (self.0)(members);
    }
}

impl fmt::Debug for MembersReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MembersReply")
    }
}

/// Asks for the next part of a replay. Answered by [`Notice::Replay`].
#[derive(ActixMessage, Clone, Debug)]
#[rtype(result = "()")]
pub struct Pull {
    /// Who.
    pub session: SessionId,
    /// Where.
    pub room: RoomName,
    /// The join's; repeated in the answer.
    pub ticket: Ticket,
    /// The part begins after this offset …
    pub after: u64,
    /// … and the replay ends here, where the membership began.
    pub until: Position,
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
    /// Give it up only if the broker is known to be away.
    pub only_without_link: bool,
}

/// The session may be in fewer rooms from now on: it leaves the others. Those that it waits for are answered
/// [`NotJoined::Forbidden`], and of each that it was in it is told [`Notice::Removed`].
#[derive(ActixMessage, Debug)]
#[rtype(result = "()")]
pub struct Narrow {
    /// Who.
    pub session: SessionId,
    /// Where it may be.
    pub rights: Arc<Rights>,
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
    /// It may not be there.
    Forbidden,
    /// The broker could not confirm. The text says why.
    Unavailable(String),
    /// It is a member as before, but the broker could not confirm that it is listed, or not. The text says why.
    NotListed(String),
}

/// What a session is told.
///
/// Cloning shares what happened in rooms.
#[derive(ActixMessage, Clone, Debug)]
#[rtype(result = "()")]
pub enum Notice {
    /// The session is a member, and the broker has confirmed the room's subscription. What is replayed comes before
    /// what follows live.
    Joined(Ticket, Box<Admission>),
    /// The next part of what is replayed.
    Replay(Ticket, Part),
    /// The (plain) session will be a member when the broker is back.
    Deferred(Ticket),
    /// The session is not a member.
    NotJoined(Ticket, NotJoined),
    /// The session is not a member any more; nothing of the room follows.
    Left(Ticket),
    /// The session is not a member any more, though it did not ask for that; nothing of the room follows.
    Removed(RoomName),
    /// What became of a publish.
    Published(Ticket, PublishOutcome),
    /// Who is listed as a member.
    Members(Ticket, Members),
    /// What has happened in a room that the session is a member of, oldest first, as it came together.
    Room(Arc<[Arc<[RoomEvent]>]>),
    /// Ask the peer whether it is there.
    Ping,
    /// The node stops, and closes this session after so long.
    Bye(Duration),
    /// The node stops: end the session when its commands are answered.
    Retire,
    /// End the session.
    Close(CloseCode),
    /// Stands for a mistake of ours.
    #[cfg(test)]
    Panic,
}

impl Notice {
    /// Leaves most of a replay to its next parts: the replays of many rooms together must not make a healthy peer look
    /// slow.
    pub fn cut(&mut self) {
        match self {
            Self::Joined(_, admission) => admission.replay.cut(),
            Self::Replay(_, part) => part.cut(),
            _ => {}
        }
    }

    /// Bytes that the notice counts in the backlog of a session of this dialect, beside its slot.
    #[must_use]
    pub fn cost(&self, dialect: Dialect) -> usize {
        match self {
            Self::Room(batches) => batches.iter().map(|events| backlog_cost(events, dialect)).sum(),
            Self::Joined(_, admission) => admission.replay.bytes(dialect),
            Self::Replay(_, part) => part.bytes(dialect),
            Self::Members(_, Ok(list)) => list.bytes(),
            _ => 0,
        }
    }
}

/// What an event counts in the backlog of a session that is told of it, beside its text: what its memory takes, however
/// short the text is.
pub(crate) const EVENT_COST: usize = 96;

/// Bytes that events count in the backlog of a session of this dialect, beside their slot.
pub(crate) fn backlog_cost(events: &[RoomEvent], dialect: Dialect) -> usize {
    let frames = events.iter().filter_map(|event| event.frame(dialect));
    frames.map(|frame| frame.text_bytes() + EVENT_COST).sum()
}

/// Something that the members of a room are told. Encoded once per dialect, when the first member needs it.
#[derive(Debug, PartialEq, Eq)]
pub struct RoomEvent {
    kind: EventKind,
    plain: OnceLock<TextFrame>,
    v1: OnceLock<TextFrame>,
}

#[derive(Debug, PartialEq, Eq)]
enum EventKind {
    Message(RoomMessage, Option<u64>),
    /// The offset before it and where it goes on; without history nothing of this is known.
    Gap(RoomName, Option<(u64, Position)>),
    /// Whether this member is listed from now on, or not any more.
    Presence(RoomName, Member, bool),
}

impl RoomEvent {
    /// A message of the room, with its offset if it has one.
    #[must_use]
    pub fn message(message: RoomMessage, offset: Option<u64>) -> Self {
        Self::new(EventKind::Message(message, offset))
    }

    /// The messages after this offset and up to that position cannot be had. Plain sessions are not told.
    #[must_use]
    pub fn gap(room: RoomName, after: u64, goes_on: Position) -> Self {
        Self::new(EventKind::Gap(room, Some((after, goes_on))))
    }

    /// Messages of a room without history may have been missed. Plain sessions are not told.
    #[must_use]
    pub fn unknown_gap(room: RoomName) -> Self {
        Self::new(EventKind::Gap(room, None))
    }

    /// The session is listed as a member from now on. Plain sessions are not told.
    #[must_use]
    pub fn joined(room: RoomName, member: Member) -> Self {
        Self::new(EventKind::Presence(room, member, true))
    }

    /// The session is not listed any more. Plain sessions are not told.
    #[must_use]
    pub fn left(room: RoomName, member: Member) -> Self {
        Self::new(EventKind::Presence(room, member, false))
    }

    fn new(kind: EventKind) -> Self {
        Self {
            kind,
            plain: OnceLock::new(),
            v1: OnceLock::new(),
        }
    }

    /// Where it has happened.
    #[must_use]
    pub fn room(&self) -> &RoomName {
        match &self.kind {
            EventKind::Message(message, _) => &message.room,
            EventKind::Gap(room, _) | EventKind::Presence(room, ..) => room,
        }
    }

    /// Whether it tells of the listing of the session with this name, which is not told of itself.
    #[must_use]
    pub fn is_about(&self, session: &str) -> bool {
        matches!(&self.kind, EventKind::Presence(_, member, _) if &*member.session == session)
    }

    /// The frame for a session of this dialect, if it is told at all.
    #[must_use]
    pub fn frame(&self, dialect: Dialect) -> Option<&TextFrame> {
        match (dialect, &self.kind) {
            (Dialect::Plain, EventKind::Message(message, _)) => {
                Some(self.plain.get_or_init(|| TextFrame::new(&message.content.text)))
            }
            (Dialect::Plain, EventKind::Gap(..) | EventKind::Presence(..)) => None,
            (Dialect::V1, _) => Some(self.v1.get_or_init(|| TextFrame::new(&self.encode()))),
        }
    }

    fn encode(&self) -> ByteString {
        match &self.kind {
            EventKind::Message(message, offset) => MessageFrame {
                room: &message.room,
                content: &message.content,
                offset: *offset,
                sender: message.sender.as_deref(),
                session: message.session.as_deref(),
                time: message.time,
            }
            .encode(),
            EventKind::Gap(room, known) => ServerFrame::Gap {
                room,
                after: known.as_ref().map(|(after, _)| *after),
                position: known.as_ref().map(|(_, goes_on)| goes_on),
            }
            .encode(),
            EventKind::Presence(room, member, true) => ServerFrame::Joined { room, member }.encode(),
            EventKind::Presence(room, member, false) => ServerFrame::Left { room, member }.encode(),
        }
    }

    /// Bytes of the text of the frame for a session of this dialect.
    #[must_use]
    pub fn frame_bytes(&self, dialect: Dialect) -> usize {
        self.frame(dialect).map_or(0, TextFrame::text_bytes)
    }

    /// Bytes of the text that the event carries.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match &self.kind {
            EventKind::Message(message, _) => message.content.text.len(),
            EventKind::Gap(..) => 0,
            EventKind::Presence(_, member, _) => member_bytes(member),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Content, Epoch};

    #[test]
    fn a_session_knows_its_worker() {
        let id = SessionId::new(WorkerId(3), 77);
        assert_eq!((id.worker(), id.to_string().as_str()), (WorkerId(3), "3-77"));
    }

    #[test]
    fn an_event_is_encoded_once_and_shared() {
        let message = RoomMessage {
            room: RoomName::new("r").expect("valid"),
            content: Content::text("hi"),
            sender: None,
            session: None,
            time: None,
        };
        let event = RoomEvent::message(message, Some(3));
        for dialect in [Dialect::Plain, Dialect::V1] {
            let first = event.frame(dialect).expect("told").clone();
            let second = event.frame(dialect).expect("told");
            assert_eq!(first.bytes().as_ptr(), second.bytes().as_ptr());
        }
        assert_eq!(
            event.frame(Dialect::V1).expect("told").text(),
            r#"{"type":"message","room":"r","message":"hi","offset":3}"#
        );
        assert_eq!(event.frame(Dialect::Plain).expect("told").text(), "hi");
    }

    #[test]
    fn who_is_listed_is_told_in_one_dialect_and_is_about_one_session() {
        let member = Member {
            session: "n-0-1".into(),
            user: Some("ann".into()),
        };
        let room = RoomName::new("r").expect("valid");
        let event = RoomEvent::left(room, member);
        assert!(event.is_about("n-0-1") && !event.is_about("n-0-10"));
        assert_eq!(event.frame(Dialect::Plain), None);
        assert_eq!(
            event.frame(Dialect::V1).expect("told").text(),
            r#"{"type":"left","room":"r","member":{"session":"n-0-1","user":"ann"}}"#
        );
    }

    #[test]
    fn plain_sessions_are_not_told_of_a_gap() {
        let room = RoomName::new("r").expect("valid");
        let goes_on = Position {
            offset: 60,
            epoch: Epoch::new("k"),
        };
        for (event, frame) in [
            (
                RoomEvent::unknown_gap(room.clone()),
                r#"{"type":"gap","room":"r"}"#,
            ),
            (
                RoomEvent::gap(room, 41, goes_on),
                r#"{"type":"gap","room":"r","after":41,"offset":60,"epoch":"k"}"#,
            ),
        ] {
            assert_eq!(event.frame(Dialect::Plain), None);
            assert_eq!(event.frame(Dialect::V1).expect("told").text(), frame);
        }
    }
}
