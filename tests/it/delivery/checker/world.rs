//! A server that keeps its promises, of the simplest kind, and what is seen of it: rooms are lists, nodes hand on what is
//! in them when they are told to, numberings are lost, members leave and come back.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use roomcast::protocol::Dialect;

use super::Terms;
use crate::delivery::history::{
    AttemptId, Content, Fact, Follower, History, Log, MemberId, Outcome, Position,
};

const ROOMS: usize = 2;
const NODES: usize = 2;

/// Of each room, so many messages are kept.
const KEPT: usize = 6;

/// Dialect and node of the members of each room. The first ones of each dialect stay, the others wander: a plain member
/// is excused by what a `roomcast.v1` member of its node was told, so there always has to be one.
const MEMBERS: [(Dialect, usize); 6] = [
    (Dialect::V1, 0),
    (Dialect::V1, 1),
    (Dialect::Plain, 0),
    (Dialect::Plain, 1),
    (Dialect::V1, 0),
    (Dialect::Plain, 1),
];
const WANDERERS: [usize; 2] = [4, 5];

/// Something that happens in a room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Acknowledge,
    Refuse,
    /// Answered `unknown`; whether it is there all the same, and whether it is repeated with its key.
    Unknown {
        stored: bool,
        repeated: bool,
    },
    /// What waits for its answer gets it.
    Answer,
    Deliver(usize),
    Leave(usize),
    /// A wanderer comes (back) to a node, and says where it was or not.
    Come(usize, usize, bool),
    /// The room's numbering is lost, with all messages and keys.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Acknowledge),
        1 => Just(Step::Refuse),
        2 => any::<(bool, bool)>().prop_map(|(stored, repeated)| Step::Unknown { stored, repeated }),
        2 => Just(Step::Answer),
        5 => (0..NODES).prop_map(Step::Deliver),
        1 => (0..WANDERERS.len()).prop_map(|nth| Step::Leave(WANDERERS[nth])),
        1 => (0..WANDERERS.len(), 0..NODES, any::<bool>())
            .prop_map(|(nth, node, knows)| Step::Come(WANDERERS[nth], node, knows)),
        1 => Just(Step::Restart),
    ]
}

/// What happens, and in which room.
pub(super) fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    proptest::collection::vec((0..ROOMS, step()), 1..100)
}

struct Room {
    name: Arc<str>,
    epochs: usize,
    /// What is kept, and the number before the first of it.
    kept: Vec<Content>,
    trimmed: u64,
    nodes: [Position; NODES],
    /// Where each member is; `None` while it is away.
    members: Vec<(Option<usize>, Position)>,
}

impl Room {
    fn top(&self) -> Position {
        let epoch = format!("{}-{}", self.name, self.epochs);
        Position::new(&epoch, self.trimmed + self.kept.len() as u64)
    }

    fn store(&mut self, content: Content) -> Position {
        self.kept.push(content);
        if self.kept.len() > KEPT {
            self.kept.remove(0);
            self.trimmed += 1;
        }
        self.top()
    }

    /// Whether nothing between this place and now is missing.
    fn has_all_after(&self, position: &Position) -> bool {
        position.epoch == self.top().epoch && position.offset >= self.trimmed
    }

    /// What is kept after this number.
    fn after(&self, offset: u64) -> Vec<(Position, Content)> {
        let numbered = (self.trimmed + 1..).zip(&self.kept);
        numbered
            .filter(|(number, _)| *number > offset)
            .map(|(number, content)| (self.top().at(number), *content))
            .collect()
    }
}

/// The server, and what was seen so far.
pub(super) struct World {
    rooms: Vec<Room>,
    history: History,
    attempts: AttemptId,
    waiting: Vec<Fact>,
    restarted: bool,
}

impl World {
    /// Lets all this happen, and one message more in each room. What was seen, and what is allowed then.
    pub(super) fn run(steps: &[(usize, Step)]) -> (History, Terms) {
        let mut world = Self::new();
        for (room, step) in steps {
            world.step(*room, *step);
        }
        for room in 0..ROOMS {
            // A plain member that came last must hear something, or nobody knows where it began.
            world.step(room, Step::Acknowledge);
            for node in 0..NODES {
                world.deliver(room, node);
            }
            let room = &world.rooms[room];
            world.history.logs.push(Log {
                room: room.name.clone(),
                top: room.top(),
                kept: room
                    .after(0)
                    .into_iter()
                    .map(|(place, content)| (place.offset, content))
                    .collect(),
            });
        }
        world.answer();
        let terms = Terms {
            history_size: KEPT,
            may_restart: world.restarted,
        };
        (world.history, terms)
    }

    fn new() -> Self {
        let mut world = Self {
            rooms: Vec::new(),
            history: History::default(),
            attempts: 0,
            waiting: Vec::new(),
            restarted: false,
        };
        for nth in 0..ROOMS {
            let name: Arc<str> = format!("room{nth}").into();
            let start = Position::new(&format!("{name}-0"), 0);
            for (dialect, node) in MEMBERS {
                let member = world.history.members.len();
                let room = name.clone();
                world.history.members.push(Follower { room, dialect });
                let position = (dialect == Dialect::V1).then(|| start.clone());
                world.see(Fact::Subscribed {
                    member,
                    node,
                    position,
                    recovered: None,
                });
            }
            world.rooms.push(Room {
                name,
                epochs: 0,
                kept: Vec::new(),
                trimmed: 0,
                nodes: [start.clone(), start.clone()],
                members: MEMBERS
                    .iter()
                    .map(|(_, node)| (Some(*node), start.clone()))
                    .collect(),
            });
        }
        world
    }

    fn see(&mut self, fact: Fact) {
        self.history.facts.push((Duration::ZERO, fact));
    }

    fn step(&mut self, room: usize, step: Step) {
        match step {
            Step::Acknowledge => {
                let (attempt, content) = self.attempt(room, None);
                let position = self.rooms[room].store(content);
                self.owe(attempt, Outcome::Acknowledged(Some(position)));
            }
            Step::Refuse => {
                let (attempt, _) = self.attempt(room, None);
                self.owe(attempt, Outcome::Refused);
            }
            Step::Unknown { stored, repeated } => {
                let (attempt, content) = self.attempt(room, None);
                let first = stored.then(|| self.rooms[room].store(content));
                self.owe(attempt, Outcome::Unknown);
                if repeated {
                    let (attempt, _) = self.attempt(room, Some(content));
                    let position = first.unwrap_or_else(|| self.rooms[room].store(content));
                    self.owe(attempt, Outcome::Acknowledged(Some(position)));
                }
            }
            Step::Answer => self.answer(),
            Step::Deliver(node) => self.deliver(room, node),
            Step::Leave(nth) => {
                if self.rooms[room].members[nth].0.take().is_some() {
                    let member = member(room, nth);
                    self.see(Fact::Ended { member });
                }
            }
            Step::Come(nth, node, knows) => self.come(room, nth, node, knows),
            Step::Restart => {
                let room = &mut self.rooms[room];
                room.epochs += 1;
                room.kept.clear();
                room.trimmed = 0;
                self.restarted = true;
            }
        }
    }

    fn attempt(&mut self, room: usize, again: Option<Content>) -> (AttemptId, Content) {
        let attempt = self.attempts;
        self.attempts += 1;
        let content = again.unwrap_or_else(|| Content::of(&attempt.to_string()));
        self.see(Fact::Attempted {
            attempt,
            publisher: 0,
            room: self.rooms[room].name.clone(),
            key: None,
            content,
        });
        (attempt, content)
    }

    fn owe(&mut self, attempt: AttemptId, outcome: Outcome) {
        self.waiting.push(Fact::Answered { attempt, outcome });
    }

    fn answer(&mut self) {
        for fact in std::mem::take(&mut self.waiting) {
            self.see(fact);
        }
    }

    /// The node hands on all that its members have not got, and tells them what it cannot have any more.
    fn deliver(&mut self, nth: usize, node: usize) {
        let room = &mut self.rooms[nth];
        let (top, trimmed) = (room.top(), room.trimmed);
        if !room.has_all_after(&room.nodes[node]) {
            room.nodes[node] = top.at(trimmed);
        }
        let news = room.after(room.nodes[node].offset);
        room.nodes[node] = top.clone();
        let mut facts = Vec::new();
        for (index, (dialect, _)) in MEMBERS.iter().enumerate() {
            if room.members[index].0 != Some(node) {
                continue;
            }
            let (member, last) = (member(nth, index), room.members[index].1.clone());
            let mut last = last;
            if !room.has_all_after(&last) {
                let (after, position) = (last.offset, top.at(trimmed));
                last = position.clone();
                if *dialect == Dialect::V1 {
                    facts.push(Fact::Gap {
                        member,
                        after,
                        position,
                    });
                }
            }
            for (position, content) in &news {
                if *dialect == Dialect::V1 && position.offset <= last.offset {
                    continue;
                }
                let position = (*dialect == Dialect::V1).then(|| position.clone());
                let content = *content;
                facts.push(Fact::Received {
                    member,
                    position,
                    content,
                });
            }
            room.members[index].1 = top.clone();
        }
        for fact in facts {
            self.see(fact);
        }
    }

    fn come(&mut self, nth: usize, index: usize, node: usize, knows: bool) {
        let (dialect, _) = MEMBERS[index];
        let room = &mut self.rooms[nth];
        let member = member(nth, index);
        if room.members[index].0.replace(node).is_some() {
            self.history.facts.push((Duration::ZERO, Fact::Ended { member }));
        }
        let top = room.top();
        let last = std::mem::replace(&mut room.members[index].1, top.clone());
        if dialect == Dialect::Plain {
            room.members[index].1 = room.nodes[node].clone();
            self.see(Fact::Subscribed {
                member,
                node,
                position: None,
                recovered: None,
            });
            return;
        }
        let recovered = knows.then(|| room.has_all_after(&last));
        let replay = if recovered == Some(true) {
            room.after(last.offset)
        } else {
            Vec::new()
        };
        let after = knows.then_some(last);
        self.see(Fact::Subscribing { member, after });
        self.see(Fact::Subscribed {
            member,
            node,
            position: Some(top),
            recovered,
        });
        for (position, content) in replay {
            let position = Some(position);
            self.see(Fact::Received {
                member,
                position,
                content,
            });
        }
    }
}

fn member(room: usize, nth: usize) -> MemberId {
    room * MEMBERS.len() + nth
}
