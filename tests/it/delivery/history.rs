//! What was seen from outside during a run: facts in the order in which they were seen, and in the end the log.
//!
//! - A fact is written when the observer has it: an attempt before its bytes leave, an answer after they have come. So a
//!   fact that is written before another is no later than it.
//! - Messages are told apart by their content alone: no two publishes of a run have the same text, unless one repeats
//!   the other with the same key.
//! - A member is in one room. Its sessions follow each other; after [`Fact::Ended`] it hears nothing until it has
//!   subscribed again.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use roomcast::protocol::Dialect;

/// A text by its hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Content(u64);

impl Content {
    /// That of a text, for JSON of its text.
    pub(crate) fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {:016x}", self.0)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in a room's numbering.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) epoch: Arc<str>,
    pub(crate) offset: u64,
}

impl Position {
    /// The place of this number in this numbering.
    pub(crate) fn new(epoch: &str, offset: u64) -> Self {
        let epoch = epoch.into();
        Self { epoch, offset }
    }

    /// The same numbering at another number.
    pub(crate) fn at(&self, offset: u64) -> Self {
        let epoch = self.epoch.clone();
        Self { epoch, offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// The number of a member in [`History::members`].
pub(crate) type MemberId = usize;

/// The number of an attempt to publish; each repetition has its own.
pub(crate) type AttemptId = usize;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server has it, at this place. A plain publisher learns no place.
    Acknowledged(Option<Position>),
    /// Certainly not published.
    Refused,
    /// Perhaps published: the server says so, or the connection was lost.
    Unknown,
}

/// What somebody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A publish is about to be sent.
    Attempted {
        attempt: AttemptId,
        /// The session that sends it.
        publisher: usize,
        room: Arc<str>,
        key: Option<Arc<str>>,
        content: Content,
    },
    /// The answer to an attempt.
    Answered { attempt: AttemptId, outcome: Outcome },
    /// A member is about to ask for its room, from after this place on.
    Subscribing {
        member: MemberId,
        after: Option<Position>,
    },
    /// A member's live range begins. A plain member is told no place, and may know none.
    Subscribed {
        member: MemberId,
        node: usize,
        position: Option<Position>,
        recovered: Option<bool>,
    },
    /// A member got a message. A plain member is told no place.
    Received {
        member: MemberId,
        position: Option<Position>,
        content: Content,
    },
    /// A member was told that messages after `after` up to this place cannot be had.
    Gap {
        member: MemberId,
        after: u64,
        position: Position,
    },
    /// A member's session is over.
    Ended { member: MemberId },
    /// A member got what it should not have got.
    Unexpected { member: MemberId, frame: String },
    /// Something for the reader: a fault, a phase.
    Note(String),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |position: &Option<Position>| {
            position
                .as_ref()
                .map_or_else(|| "somewhere".to_owned(), ToString::to_string)
        };
        match self {
            Self::Attempted {
                attempt,
                publisher,
                key,
                content,
                ..
            } => {
                let key = if key.is_some() { ", with a key" } else { "" };
                write!(f, "publisher {publisher} attempts {content} ({attempt}{key})")
            }
            Self::Answered { attempt, outcome } => match outcome {
                Outcome::Acknowledged(position) => {
                    write!(f, "attempt {attempt} is acknowledged at {}", place(position))
                }
                Outcome::Refused => write!(f, "attempt {attempt} is refused"),
                Outcome::Unknown => write!(f, "the outcome of attempt {attempt} is unknown"),
            },
            Self::Subscribing { member, after } => {
                write!(f, "member {member} asks for what is after {}", place(after))
            }
            Self::Subscribed {
                member,
                node,
                position,
                recovered,
            } => write!(
                f,
                "member {member} is subscribed on node {node} at {}, recovered: {recovered:?}",
                place(position)
            ),
            Self::Received {
                member,
                position,
                content,
            } => write!(f, "member {member} hears {content} at {}", place(position)),
            Self::Gap {
                member,
                after,
                position,
            } => write!(
                f,
                "member {member} is told of a gap after {after} up to {position}"
            ),
            Self::Ended { member } => write!(f, "member {member} is gone"),
            Self::Unexpected { member, frame } => write!(f, "member {member} gets {frame}"),
            Self::Note(note) => write!(f, "--- {note}"),
        }
    }
}

/// One who follows a room.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    pub(crate) room: Arc<str>,
    pub(crate) dialect: Dialect,
}

/// What a fresh session gets of a room in the end: the API of record.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) room: Arc<str>,
    /// The position that `subscribed` gave.
    pub(crate) top: Position,
    /// What was replayed: offset and content.
    pub(crate) kept: Vec<(u64, Content)>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) members: Vec<Follower>,
    /// With the time since the run began.
    pub(crate) facts: Vec<(Duration, Fact)>,
    pub(crate) logs: Vec<Log>,
    /// What the rooms had when this history began, if it goes on from an earlier one.
    pub(crate) earlier: Vec<Log>,
}

impl History {
    /// How long after `since` each member got its first message that was first attempted after `since`, in the order of
    /// the members' numbers; `None` for one who got none.
    pub(crate) fn healing(&self, since: Duration) -> Vec<Option<Duration>> {
        let mut attempted: HashMap<Content, Duration> = HashMap::new();
        let mut healed = vec![None; self.members.len()];
        for (at, fact) in &self.facts {
            match fact {
                Fact::Attempted { content, .. } => {
                    attempted.entry(*content).or_insert(*at);
                }
                Fact::Received { member, content, .. }
                    if *at >= since && attempted.get(content).is_some_and(|first| *first >= since) =>
                {
                    healed[*member].get_or_insert(*at - since);
                }
                _ => {}
            }
        }
        healed
    }

    /// The facts that concern a room, one a line, for the reader of a failed test.
    pub(crate) fn of_room(&self, room: &str) -> String {
        let mut lines = String::new();
        let mut attempts = HashMap::new();
        for (at, fact) in &self.facts {
            let concerns = match fact {
                Fact::Attempted {
                    attempt, room: of, ..
                } => {
                    attempts.insert(*attempt, of.clone());
                    **of == *room
                }
                Fact::Answered { attempt, .. } => attempts.get(attempt).is_some_and(|of| **of == *room),
                Fact::Subscribing { member, .. }
                | Fact::Subscribed { member, .. }
                | Fact::Received { member, .. }
                | Fact::Gap { member, .. }
                | Fact::Ended { member }
                | Fact::Unexpected { member, .. } => *self.members[*member].room == *room,
                Fact::Note(_) => true,
            };
            if concerns {
                lines += &format!("{:9.3} {fact}\n", at.as_secs_f64());
            }
        }
        for log in self.logs.iter().filter(|log| *log.room == *room) {
            lines += &format!(
                "log up to {} with {} messages: {:?}\n",
                log.top,
                log.kept.len(),
                log.kept
            );
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healing_counts_from_the_faults_end_to_a_message_of_after_it() {
        let room: Arc<str> = "r".into();
        let follower = Follower {
            room: room.clone(),
            dialect: Dialect::Plain,
        };
        let [old, new] = ["old", "new"].map(Content::of);
        let attempted = |attempt, content| Fact::Attempted {
            attempt,
            publisher: 0,
            room: room.clone(),
            key: None,
            content,
        };
        let received = |member, content| Fact::Received {
            member,
            position: None,
            content,
        };
        let facts = [
            (1, attempted(0, old)),
            (11, attempted(1, new)),
            (12, received(0, old)),
            (13, received(0, new)),
            (14, received(1, old)),
        ];
        let history = History {
            members: vec![follower.clone(), follower],
            facts: facts.map(|(at, fact)| (Duration::from_secs(at), fact)).to_vec(),
            ..History::default()
        };
        let healed = history.healing(Duration::from_secs(10));
        assert_eq!(healed, [Some(Duration::from_secs(3)), None]);
    }
}
