//! How a session's command ends, and what its peer is told when it failed. Pure.

use std::sync::Arc;

use crate::broker::PublishOutcome;
use crate::broker::presence::MemberList;
use crate::protocol::Position;
use crate::protocol::error::{ErrorCode, Outcome};
use crate::rooms::timeline::Admission;
use crate::rooms::{Members, NotJoined, Ticket};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// The session is a member; the ticket names the membership's replay.
    Subscribed(Ticket, Box<Admission>),
    /// A plain session's wish stands; nothing is said.
    Deferred,
    Unsubscribed,
    Sent(Option<Position>),
    Members(Arc<MemberList>),
    Error(Refusal),
}

/// An error as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) outcome: Option<Outcome>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            outcome: None,
        }
    }

    /// A command beyond the rate.
    pub(super) fn too_fast() -> Self {
        let message = "commands come faster than this server takes them; wait before the next one";
        Self::new(ErrorCode::RateLimited, message)
    }
}

impl Reply {
    /// A SUBSCRIBE did not end in a membership.
    pub(super) fn not_joined(reason: NotJoined) -> Self {
        Self::Error(match reason {
            NotJoined::RoomLimit(max) => Refusal::new(
                ErrorCode::RoomLimit,
                format!("a session may be in {max} rooms; leave one before joining another"),
            ),
            NotJoined::Cancelled => Refusal::new(
                ErrorCode::Cancelled,
                "the room was left before the subscription was confirmed",
            ),
            NotJoined::Forbidden => Refusal::new(
                ErrorCode::Forbidden,
                "the session may not be in this room any more",
            ),
            NotJoined::Unavailable(why) => Refusal::new(
                ErrorCode::Unavailable,
                format!("not subscribed, try again: {why}"),
            ),
            NotJoined::NotListed(why) => Refusal::new(
                ErrorCode::Unavailable,
                format!("subscribed as before, but perhaps with another presence, try again: {why}"),
            ),
        })
    }

    /// Who is listed as a member.
    pub(super) fn members(members: Members) -> Self {
        match members {
            Ok(list) => Self::Members(list),
            Err(why) => Self::Error(Refusal::new(
                ErrorCode::Unavailable,
                format!("the members cannot be told, try again: {why}"),
            )),
        }
    }

    /// What became of a publish.
    pub(super) fn published(outcome: PublishOutcome) -> Self {
        let (outcome, message) = match outcome {
            PublishOutcome::Accepted(position) => return Self::Sent(position),
            PublishOutcome::Refused(why) => (Outcome::Refused, format!("not published, try again: {why}")),
            PublishOutcome::Unknown(why) => (Outcome::Unknown, format!("perhaps not published: {why}")),
        };
        Self::Error(Refusal {
            outcome: Some(outcome),
            ..Refusal::new(ErrorCode::Unavailable, message)
        })
    }
}
