//! What can be wrong with a history.

use std::fmt;
use std::sync::Arc;

use crate::delivery::history::{AttemptId, Content, Fact, History, MemberId, Position};

/// A broken promise. `Display` says what a reader needs to find it in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Neither delivered nor refused: an attempt that nothing was ever said about.
    Unanswered { attempt: AttemptId, content: Content },
    /// More than one answer to one attempt.
    AnsweredTwice { attempt: AttemptId },
    /// Nobody published this to the room.
    Foreign { room: Arc<str>, content: Content },
    /// All attempts to publish it were refused, and it was delivered or stored all the same.
    RefusedButThere { room: Arc<str>, content: Content },
    /// Two messages at one place.
    Conflict {
        room: Arc<str>,
        position: Position,
        contents: [Content; 2],
    },
    /// One message at two places.
    StoredTwice {
        room: Arc<str>,
        content: Content,
        positions: [Position; 2],
    },
    /// Acknowledged or delivered, and not in the log although its place is within what is kept.
    NotInLog {
        room: Arc<str>,
        position: Position,
        content: Content,
    },
    /// The log itself does not count without gaps up to its top.
    LogBroken { room: Arc<str>, after: u64, next: u64 },
    /// Fewer messages are kept than should be.
    LogTooShort { room: Arc<str>, kept: usize, due: usize },
    /// The numbering restarted although nothing was lost.
    Restarted { room: Arc<str>, epochs: [Arc<str>; 2] },
    /// A message that was attempted when the other had been acknowledged already, or behind it by the same session,
    /// stands before it.
    WrongOrder {
        room: Arc<str>,
        earlier: Position,
        later: Position,
    },
    /// Not recovered from a place that it has heard and that the node does not know yet.
    StalePosition {
        member: MemberId,
        asked: Position,
        told: Position,
    },
    /// `recovered:false` although everything asked for is kept.
    NeedlessLoss {
        member: MemberId,
        asked: Position,
        oldest: u64,
    },
    /// `recovered:true` for a place that is not of this numbering, or beyond its top.
    FalselyRecovered {
        member: MemberId,
        asked: Position,
        told: Position,
    },
    /// Never heard, and no gap told.
    Lost {
        member: MemberId,
        after: Option<Position>,
        before: Option<Position>,
    },
    /// Heard late.
    OutOfOrder {
        member: MemberId,
        position: Position,
        behind: Position,
    },
    /// Heard twice.
    Doubled { member: MemberId, position: Position },
    /// A gap that does not begin where the member was, or does not end where it went on.
    GapMismatch {
        member: MemberId,
        gap: (u64, Position),
        had: Option<Position>,
        next: Option<Position>,
    },
    /// A gap over messages that are kept to this day.
    NeedlessGap {
        member: MemberId,
        gap: (u64, Position),
        oldest: u64,
    },
    /// Heard by a plain member, and neither numbered for anybody nor in the log.
    Unplaced { member: MemberId, content: Content },
    /// Heard by a `roomcast.v1` member without an offset.
    Unnumbered { member: MemberId, content: Content },
    /// Heard while not subscribed.
    OutsideSession { member: MemberId, content: Content },
    /// A frame that should not come.
    Unexpected { member: MemberId, frame: String },
}

impl Violation {
    /// One word, to count by.
    pub(crate) fn kind(&self) -> String {
        let debug = format!("{self:?}");
        let end = debug.find(' ').unwrap_or(debug.len());
        debug[..end].to_owned()
    }

    /// Where it happened.
    pub(crate) fn room(&self, history: &History) -> Option<Arc<str>> {
        match self {
            Self::Unanswered { attempt, .. } | Self::AnsweredTwice { attempt } => {
                history.facts.iter().find_map(|(_, fact)| match fact {
                    Fact::Attempted {
                        attempt: of, room, ..
                    } if of == attempt => Some(room.clone()),
                    _ => None,
                })
            }
            Self::Foreign { room, .. }
            | Self::RefusedButThere { room, .. }
            | Self::Conflict { room, .. }
            | Self::StoredTwice { room, .. }
            | Self::NotInLog { room, .. }
            | Self::LogBroken { room, .. }
            | Self::LogTooShort { room, .. }
            | Self::Restarted { room, .. }
            | Self::WrongOrder { room, .. } => Some(room.clone()),
            Self::StalePosition { member, .. }
            | Self::NeedlessLoss { member, .. }
            | Self::FalselyRecovered { member, .. }
            | Self::Lost { member, .. }
            | Self::OutOfOrder { member, .. }
            | Self::Doubled { member, .. }
            | Self::GapMismatch { member, .. }
            | Self::NeedlessGap { member, .. }
            | Self::Unplaced { member, .. }
            | Self::Unnumbered { member, .. }
            | Self::OutsideSession { member, .. }
            | Self::Unexpected { member, .. } => Some(history.members[*member].room.clone()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered { attempt, content } => {
                write!(f, "attempt {attempt} of {content} was neither taken nor refused")
            }
            Self::AnsweredTwice { attempt } => write!(f, "attempt {attempt} was answered twice"),
            Self::Foreign { room, content } => write!(f, "{room}: nobody published {content} there"),
            Self::RefusedButThere { room, content } => {
                write!(f, "{room}: {content} was refused and is there all the same")
            }
            Self::Conflict {
                room,
                position,
                contents: [one, other],
            } => write!(f, "{room}: at {position} there is {one}, and {other} too"),
            Self::StoredTwice {
                room,
                content,
                positions: [one, other],
            } => write!(f, "{room}: {content} is at {one}, and at {other} too"),
            Self::NotInLog {
                room,
                position,
                content,
            } => write!(f, "{room}: {content} at {position} is not in the log"),
            Self::LogBroken { room, after, next } => {
                write!(f, "{room}: in the log {next} comes after {after}")
            }
            Self::LogTooShort { room, kept, due } => {
                write!(f, "{room}: {kept} messages are kept where {due} should be")
            }
            Self::Restarted {
                room,
                epochs: [one, other],
            } => write!(f, "{room}: the numbering {one} became {other} without need"),
            Self::WrongOrder { room, earlier, later } => {
                write!(f, "{room}: {later} was sent after {earlier} was")
            }
            Self::StalePosition { member, asked, told } => {
                write!(
                    f,
                    "member {member} was at {asked} and was told that the top is {told}"
                )
            }
            Self::NeedlessLoss {
                member,
                asked,
                oldest,
            } => write!(
                f,
                "member {member} did not recover from {asked} although all from {oldest} on is kept"
            ),
            Self::FalselyRecovered { member, asked, told } => {
                write!(f, "member {member} recovered from {asked} at {told}")
            }
            Self::Lost {
                member,
                after,
                before,
            } => {
                write!(f, "member {member} lost what is after ")?;
                place(f, after.as_ref())?;
                f.write_str(" and before ")?;
                place(f, before.as_ref())
            }
            Self::OutOfOrder {
                member,
                position,
                behind,
            } => write!(f, "member {member} heard {position} behind {behind}"),
            Self::Doubled { member, position } => write!(f, "member {member} heard {position} twice"),
            Self::GapMismatch {
                member,
                gap: (after, position),
                had,
                next,
            } => {
                write!(
                    f,
                    "member {member} was told of a gap after {after} up to {position}, was at "
                )?;
                place(f, had.as_ref())?;
                f.write_str(" and went on with ")?;
                place(f, next.as_ref())
            }
            Self::NeedlessGap {
                member,
                gap: (after, position),
                oldest,
            } => write!(
                f,
                "member {member} was told of a gap after {after} up to {position} although all from {oldest} on is kept"
            ),
            Self::Unplaced { member, content } => {
                write!(
                    f,
                    "member {member} heard {content}, which has no place in the room"
                )
            }
            Self::Unnumbered { member, content } => {
                write!(f, "member {member} heard {content} without an offset")
            }
            Self::OutsideSession { member, content } => {
                write!(f, "member {member} heard {content} while it was not subscribed")
            }
            Self::Unexpected { member, frame } => write!(f, "member {member} got {frame}"),
        }
    }
}

fn place(f: &mut fmt::Formatter<'_>, position: Option<&Position>) -> fmt::Result {
    match position {
        Some(position) => write!(f, "{position}"),
        None => f.write_str("nothing"),
    }
}
