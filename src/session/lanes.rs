//! One session's commands, room by room: when each is carried out, and in which order they are answered. Pure.
//!
//! - Replies for one room keep the commands' order; rooms do not wait for each other.
//! - Publishes to a room follow each other without waiting. A SUBSCRIBE or UNSUBSCRIBE begins when everything before it
//!   is answered, and a publish or a MEMBERS begins when the memberships before it are settled: who subscribes and then
//!   publishes hears itself.
//! - An UNSUBSCRIBE cancels a SUBSCRIBE that is still under way. In a lane that grows long it cancels one that has not been
//!   begun, too: who comes and goes faster than the broker confirms would else be served what is over long ago.
//! - A SUBSCRIBE under way may wait for the broker for seconds, a publish behind it may not: then the SUBSCRIBE is
//!   hurried.
//! - Every command that is pushed gets exactly one [`Step::Reply`]. A room without commands takes no memory.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::reply::{Refusal, Reply};
use crate::protocol::client::RequestId;
use crate::protocol::{Content, IdempotenceKey, Replay, RoomName};
use crate::rooms::{NotJoined, Ticket};

/// What a command in a lane does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Become a member, and be listed as one or not.
    Join(Replay, Option<bool>),
    /// Be a member no more.
    Leave,
    /// Send a message.
    Publish(Content, Option<IdempotenceKey>),
    /// Hear who is listed as a member.
    Members,
    /// Nothing: the command was wrong, and only its answer keeps its place.
    Refuse(Refusal),
}

/// What the session has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for a membership.
    Join {
        ticket: Ticket,
        room: RoomName,
        replay: Replay,
        presence: Option<bool>,
    },
    /// End a membership.
    Leave { ticket: Ticket, room: RoomName },
    /// Hand a message to the broker.
    Publish {
        ticket: Ticket,
        room: RoomName,
        content: Content,
        key: Option<IdempotenceKey>,
        /// When the command arrived; its answer is due from then.
        since: Instant,
    },
    /// Ask who is listed as a member.
    Members { ticket: Ticket, room: RoomName },
    /// A join that is under way has been overtaken by its leave.
    Cancel { ticket: Ticket, room: RoomName },
    /// A publish waits behind this join since then: it must not take long.
    Hurry {
        ticket: Ticket,
        room: RoomName,
        since: Instant,
    },
    /// Answer a command, and give its cost back.
    Reply {
        room: RoomName,
        id: Option<RequestId>,
        reply: Reply,
        cost: usize,
    },
}

/// All lanes of a session.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<RoomName, VecDeque<Entry>>,
    under_way: HashMap<Ticket, RoomName>,
    last_ticket: Ticket,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    id: Option<RequestId>,
    cost: usize,
    /// When it arrived.
    since: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Work),
    Joining {
        hurried: bool,
    },
    Leaving,
    /// A publish, or what begins and ends like one.
    Publishing,
    Answered(Reply),
}

/// Commands that a lane may hold before what cancels out in it is not begun.
const LONG_LANE: usize = 8;

/// What a command costs beside its texts while it is not answered, in bytes.
const COMMAND_COST: usize = 256;

/// What a MEMBERS costs beside, in bytes: about its longest answer, so that few of these wait for a peer at once.
const MEMBERS_COST: usize = 256 * 1024;

impl Entry {
    /// Commands are begun in their order.
    fn is_begun(&self) -> bool {
        !matches!(self.state, State::Waiting(_))
    }
}

impl Lanes {
    /// Takes a command. Returns what to do, and what the command costs until its reply.
    pub(super) fn push(
        &mut self,
        room: &RoomName,
        id: Option<RequestId>,
        work: Work,
        now: Instant,
    ) -> (Vec<Step>, usize) {
        self.last_ticket += 1;
        let mut cost = COMMAND_COST + room.as_str().len();
        // Mostly it is the only one, and a rush to many rooms would leave its memory behind.
        let lane = self
            .lanes
            .entry(room.clone())
            .or_insert_with(|| VecDeque::with_capacity(1));
        let mut steps = Vec::new();
        let mut state = State::Waiting(work);
        match &state {
            State::Waiting(Work::Leave) if cancel_waiting_join(lane) => {
                state = State::Answered(Reply::Unsubscribed);
            }
            State::Waiting(Work::Leave) => cancel_join(lane, room, &mut steps),
            State::Waiting(Work::Publish(content, _)) => {
                cost += content.text.len();
                hurry_join(lane, room, now, &mut steps);
            }
            State::Waiting(Work::Members) => cost += MEMBERS_COST,
            _ => {}
        }
        lane.push_back(Entry {
            ticket: self.last_ticket,
            id,
            cost,
            since: now,
            state,
        });
        self.advance(room, &mut steps);
        (steps, cost)
    }

    /// Nothing waits for long any more: the session is about to end.
    pub(super) fn hurry_all(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for (room, lane) in &mut self.lanes {
            hurry_join(lane, room, now, &mut steps);
        }
        steps
    }

    /// Whether every command has been answered.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// A command that was begun has ended. One that is not under way is passed over.
    pub(super) fn answer(&mut self, ticket: Ticket, reply: Reply) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(room) = self.under_way.remove(&ticket) else {
            return steps;
        };
        let entry = self
            .lanes
            .get_mut(&room)
            .and_then(|lane| lane.iter_mut().find(|entry| entry.ticket == ticket));
        if let Some(entry) = entry {
            entry.state = State::Answered(reply);
        }
        self.advance(&room, &mut steps);
        steps
    }

    /// Replies to what is answered at the front, and begins what can begin.
    fn advance(&mut self, room: &RoomName, steps: &mut Vec<Step>) {
        let Some(lane) = self.lanes.get_mut(room) else {
            return;
        };
        loop {
            begin(lane, room, &mut self.under_way, steps);
            let before = steps.len();
            while let Some(Entry {
                state: State::Answered(_),
                ..
            }) = lane.front()
            {
                let Some(Entry {
                    id,
                    cost,
                    state: State::Answered(reply),
                    ..
                }) = lane.pop_front()
                else {
                    break;
                };
                steps.push(Step::Reply {
                    room: room.clone(),
                    id,
                    reply,
                    cost,
                });
            }
            if steps.len() == before {
                break;
            }
        }
        if lane.is_empty() {
            self.lanes.remove(room);
        }
    }
}

/// Begins every waiting command that may begin.
fn begin(
    lane: &mut VecDeque<Entry>,
    room: &RoomName,
    under_way: &mut HashMap<Ticket, RoomName>,
    steps: &mut Vec<Step>,
) {
    let (mut publishing, mut settling) = (false, false);
    for index in 0..lane.len() {
        let entry = &mut lane[index];
        let ticket = entry.ticket;
        match &entry.state {
            State::Answered(_) => continue,
            State::Publishing => {
                publishing = true;
                continue;
            }
            State::Joining { .. } | State::Leaving => {
                settling = true;
                continue;
            }
            State::Waiting(Work::Refuse(_)) => {}
            State::Waiting(Work::Publish(..) | Work::Members) if settling => return,
            State::Waiting(Work::Join(..) | Work::Leave) if settling || publishing => return,
            State::Waiting(_) => {}
        }
        let State::Waiting(work) = std::mem::replace(&mut entry.state, State::Leaving) else {
            continue;
        };
        let room = room.clone();
        let step = match work {
            Work::Join(replay, presence) => {
                settling = true;
                let mut behind = lane.iter().skip(index + 1);
                let first_publish = behind
                    .find(|entry| matches!(entry.state, State::Waiting(Work::Publish(..))))
                    .map(|entry| entry.since);
                lane[index].state = State::Joining {
                    hurried: first_publish.is_some(),
                };
                if let Some(since) = first_publish {
                    steps.push(Step::Hurry {
                        ticket,
                        room: room.clone(),
                        since,
                    });
                }
                Step::Join {
                    ticket,
                    room: room.clone(),
                    replay,
                    presence,
                }
            }
            Work::Leave => {
                settling = true;
                Step::Leave {
                    ticket,
                    room: room.clone(),
                }
            }
            Work::Publish(content, key) => {
                publishing = true;
                entry.state = State::Publishing;
                Step::Publish {
                    ticket,
                    room: room.clone(),
                    content,
                    key,
                    since: entry.since,
                }
            }
            Work::Members => {
                publishing = true;
                entry.state = State::Publishing;
                Step::Members {
                    ticket,
                    room: room.clone(),
                }
            }
            Work::Refuse(refusal) => {
                entry.state = State::Answered(Reply::Error(refusal));
                continue;
            }
        };
        under_way.insert(ticket, room);
        steps.push(step);
    }
}

/// Cancels the SUBSCRIBE at the end of a long lane if an UNSUBSCRIBE stands before it: then another one behind it changes
/// nothing. Whether it did.
fn cancel_waiting_join(lane: &mut VecDeque<Entry>) -> bool {
    if lane.len() < LONG_LANE {
        return false;
    }
    let mut from_the_end = lane.iter_mut().rev();
    let (Some(last), Some(before)) = (from_the_end.next(), from_the_end.next()) else {
        return false;
    };
    let leaves = matches!(
        before.state,
        State::Waiting(Work::Leave) | State::Leaving | State::Answered(Reply::Unsubscribed)
    );
    let cancels = leaves && matches!(last.state, State::Waiting(Work::Join(..)));
    if cancels {
        last.state = State::Answered(Reply::not_joined(NotJoined::Cancelled));
    }
    cancels
}

fn cancel_join(lane: &VecDeque<Entry>, room: &RoomName, steps: &mut Vec<Step>) {
    for entry in lane.iter().take_while(|entry| entry.is_begun()) {
        if let State::Joining { .. } = entry.state {
            steps.push(Step::Cancel {
                ticket: entry.ticket,
                room: room.clone(),
            });
        }
    }
}

fn hurry_join(lane: &mut VecDeque<Entry>, room: &RoomName, since: Instant, steps: &mut Vec<Step>) {
    for entry in lane.iter_mut().take_while(|entry| entry.is_begun()) {
        if let State::Joining { hurried } = &mut entry.state
            && !std::mem::replace(hurried, true)
        {
            steps.push(Step::Hurry {
                ticket: entry.ticket,
                room: room.clone(),
                since,
            });
        }
    }
}

#[cfg(test)]
mod tests;
