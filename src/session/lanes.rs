//! One session's commands, room by room: when each is carried out, and in which order they are answered. Pure.
//!
//! - Replies for one room keep the commands' order; rooms do not wait for each other.
//! - Publishes to a room follow each other without waiting. A SUBSCRIBE or UNSUBSCRIBE begins when everything before it
//!   is answered, and a publish begins when the memberships before it are settled: who subscribes and then publishes
//!   hears itself.
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
    /// Become a member.
    Join(Replay),
    /// Be a member no more.
    Leave,
    /// Send a message.
    Publish(Content, Option<IdempotenceKey>),
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
    Joining { hurried: bool },
    Leaving,
    Publishing,
    Answered(Reply),
}

/// Commands that a lane may hold before what cancels out in it is not begun.
const LONG_LANE: usize = 8;

/// What a command costs beside its texts while it is not answered, in bytes.
const COMMAND_COST: usize = 256;

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
            State::Waiting(Work::Publish(..)) if settling => return,
            State::Waiting(Work::Join(_) | Work::Leave) if settling || publishing => return,
            State::Waiting(_) => {}
        }
        let State::Waiting(work) = std::mem::replace(&mut entry.state, State::Leaving) else {
            continue;
        };
        let room = room.clone();
        let step = match work {
            Work::Join(replay) => {
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
    let cancels = leaves && matches!(last.state, State::Waiting(Work::Join(_)));
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::error::ErrorCode;
    use crate::rooms::timeline::Admission;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn id(number: i64) -> Option<RequestId> {
        Some(RequestId::Number(number))
    }

    /// One moment for all commands of a test.
    fn now() -> Instant {
        static NOW: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *NOW
    }

    fn publish() -> Work {
        Work::Publish(Content::text("x"), None)
    }

    fn join() -> Work {
        Work::Join(Replay::default())
    }

    fn subscribed() -> Reply {
        Reply::Subscribed(1, Box::new(Admission::again(None)))
    }

    fn sent() -> Reply {
        Reply::Sent(None)
    }

    /// Replies among steps, by id.
    fn replies(steps: &[Step]) -> Vec<(i64, Reply)> {
        let reply = |step: &Step| match step {
            Step::Reply {
                id: Some(RequestId::Number(id)),
                reply,
                ..
            } => Some((*id, reply.clone())),
            _ => None,
        };
        steps.iter().filter_map(reply).collect()
    }

    /// Tickets of the commands that steps begin.
    fn begun(steps: &[Step]) -> Vec<Ticket> {
        let begun = |step: &Step| match step {
            Step::Join { ticket, .. } | Step::Leave { ticket, .. } | Step::Publish { ticket, .. } => {
                Some(*ticket)
            }
            _ => None,
        };
        steps.iter().filter_map(begun).collect()
    }

    #[test]
    fn a_publish_waits_for_the_subscription_before_it() {
        let (mut lanes, r) = (Lanes::default(), room("r"));
        let (steps, _) = lanes.push(&r, id(1), join(), now());
        assert_eq!(
            steps,
            [Step::Join {
                ticket: 1,
                room: r.clone(),
                replay: Replay::default(),
            }]
        );
        let (steps, _) = lanes.push(&r, id(2), publish(), now());
        assert_eq!(
            steps,
            [Step::Hurry {
                ticket: 1,
                room: r.clone(),
                since: now(),
            }]
        );
        let steps = lanes.answer(1, subscribed());
        assert_eq!(
            (replies(&steps), begun(&steps)),
            (vec![(1, subscribed())], vec![2])
        );
        assert_eq!(replies(&lanes.answer(2, sent())), [(2, sent())]);
        assert!(lanes.lanes.is_empty() && lanes.under_way.is_empty());
    }

    #[test]
    fn publishes_follow_each_other_and_are_answered_in_order() {
        let (mut lanes, r) = (Lanes::default(), room("r"));
        for number in 1..=3 {
            assert_eq!(begun(&lanes.push(&r, id(number), publish(), now()).0).len(), 1);
        }
        assert!(lanes.answer(2, sent()).is_empty());
        assert_eq!(replies(&lanes.answer(1, sent())), [(1, sent()), (2, sent())]);
    }

    #[test]
    fn an_unsubscribe_cancels_a_subscribe_under_way() {
        let (mut lanes, r) = (Lanes::default(), room("r"));
        let _ = lanes.push(&r, id(1), join(), now());
        let (steps, _) = lanes.push(&r, id(2), Work::Leave, now());
        assert_eq!(
            steps,
            [Step::Cancel {
                ticket: 1,
                room: r.clone()
            }]
        );
        let cancelled = Reply::Error(Refusal {
            code: ErrorCode::Cancelled,
            message: String::new(),
            outcome: None,
        });
        let steps = lanes.answer(1, cancelled.clone());
        assert_eq!((replies(&steps), begun(&steps)), (vec![(1, cancelled)], vec![2]));
    }

    #[test]
    fn rooms_do_not_wait_for_each_other() {
        let mut lanes = Lanes::default();
        let _ = lanes.push(&room("a"), id(1), join(), now());
        assert_eq!(begun(&lanes.push(&room("b"), id(2), publish(), now()).0), [2]);
        assert_eq!(replies(&lanes.answer(2, sent())), [(2, sent())]);
    }

    #[test]
    fn a_wrong_command_is_answered_in_its_place() {
        let (mut lanes, r) = (Lanes::default(), room("r"));
        let refusal = Refusal {
            code: ErrorCode::MessageTooLarge,
            message: "no".into(),
            outcome: None,
        };
        let _ = lanes.push(&r, id(1), publish(), now());
        assert!(replies(&lanes.push(&r, id(2), Work::Refuse(refusal.clone()), now()).0).is_empty());
        let steps = lanes.answer(1, sent());
        assert_eq!(replies(&steps), [(1, sent()), (2, Reply::Error(refusal))]);
    }

    fn work() -> impl Strategy<Value = Work> {
        prop_oneof![
            Just(join()),
            Just(Work::Leave),
            Just(publish()),
            Just(Work::Refuse(Refusal {
                code: ErrorCode::BadCommand,
                message: String::new(),
                outcome: None
            })),
        ]
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push(u8, Work),
        /// Answers the nth command that is under way.
        Answer(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..2_u8, work()).prop_map(|(room, work)| Event::Push(room, work)),
            any::<usize>().prop_map(Event::Answer),
        ]
    }

    #[test]
    fn in_a_long_lane_what_cancels_out_is_not_begun() {
        let (mut lanes, r) = (Lanes::default(), room("r"));
        let push = |lanes: &mut Lanes, number, work| lanes.push(&r, id(number), work, now()).0;
        let under_way = begun(&push(&mut lanes, 0, join()))[0];
        for number in 0..50 {
            push(&mut lanes, 2 * number + 1, Work::Leave);
            push(&mut lanes, 2 * number + 2, join());
        }
        push(&mut lanes, 101, Work::Leave);
        let (mut steps, mut joins, mut replies) = (lanes.answer(under_way, sent()), 1, Vec::new());
        while !steps.is_empty() {
            joins += steps
                .iter()
                .filter(|step| matches!(step, Step::Join { .. }))
                .count();
            let next = begun(&steps);
            replies.extend(steps);
            steps = next
                .into_iter()
                .flat_map(|ticket| lanes.answer(ticket, sent()))
                .collect();
        }
        let ids = replies.iter().filter_map(|step| match step {
            Step::Reply {
                id: Some(RequestId::Number(id)),
                ..
            } => Some(*id),
            _ => None,
        });
        assert!(ids.eq(0..=101), "each command is answered, in order");
        assert!(joins <= LONG_LANE / 2, "{joins} joins were begun");
        let cancelled = |step: &&Step| matches!(step, Step::Reply { reply: Reply::Error(refusal), .. } if refusal.code == ErrorCode::Cancelled);
        assert_eq!(replies.iter().filter(cancelled).count(), 51 - joins);
    }

    proptest! {
        #[test]
        fn every_command_is_answered_once_and_in_order_per_room(
            events in proptest::collection::vec(event(), 0..100),
        ) {
            let mut lanes = Lanes::default();
            let mut pushed: [Vec<i64>; 2] = Default::default();
            let mut answered: [Vec<i64>; 2] = Default::default();
            // Whether the last membership command of each room joins: as it was pushed, and as it was carried out.
            let (mut wanted, mut is_in) = ([false; 2], [false; 2]);
            let mut under_way: Vec<Ticket> = Vec::new();
            let (mut next_id, mut held) = (0, 0_usize);
            let mut drain = events.into_iter();
            loop {
                let steps = match drain.next() {
                    Some(Event::Push(n, work)) => {
                        next_id += 1;
                        pushed[usize::from(n)].push(next_id);
                        match work {
                            Work::Join(_) => wanted[usize::from(n)] = true,
                            Work::Leave => wanted[usize::from(n)] = false,
                            _ => {}
                        }
                        let (steps, cost) = lanes.push(&room(&n.to_string()), id(next_id), work, now());
                        held += cost;
                        steps
                    }
                    Some(Event::Answer(n)) if !under_way.is_empty() => {
                        lanes.answer(under_way.remove(n % under_way.len()), sent())
                    }
                    Some(Event::Answer(_)) => continue,
                    None if under_way.is_empty() => break,
                    None => lanes.answer(under_way.remove(0), sent()),
                };
                under_way.extend(begun(&steps));
                for step in steps {
                    if let Step::Join { room, .. } | Step::Leave { room, .. } = &step {
                        is_in[usize::from(room.as_str() == "1")] = matches!(step, Step::Join { .. });
                    }
                    if let Step::Reply { room, id: Some(RequestId::Number(id)), cost, .. } = step {
                        held -= cost;
                        answered[usize::from(room.as_str() == "1")].push(id);
                    }
                }
            }
            prop_assert_eq!(answered, pushed);
            prop_assert_eq!(held, 0);
            prop_assert_eq!(is_in, wanted);
            prop_assert!(lanes.lanes.is_empty() && lanes.under_way.is_empty());
        }
    }
}
