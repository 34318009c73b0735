//! Writes the history of a run down, and knows how far everybody is, for those who wait for it.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roomcast::protocol::Dialect;

use super::history::{AttemptId, Content, Fact, Follower, History, Log, MemberId, Outcome, Position};

/// A handle on the one history of a run. Clones write to the same.
#[derive(Clone)]
pub(crate) struct Recorder(Rc<RefCell<Records>>);

struct Records {
    began: Instant,
    history: History,
    attempts: AttemptId,
    publishers: usize,
    first_attempts: HashMap<Content, Duration>,
    sent: HashMap<AttemptId, Duration>,
    states: Vec<State>,
    tally: Tally,
}

/// How far a member is.
#[derive(Clone, Default)]
struct State {
    node: Option<usize>,
    position: Option<Position>,
    last: Option<Content>,
    /// When the newest message that it has heard was first attempted.
    newest: Option<Duration>,
}

/// Numbers for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) received: usize,
    pub(crate) gaps: usize,
    /// The longest that an attempt waited for the server's word.
    pub(crate) slowest_answer: Duration,
}

impl Recorder {
    /// An empty history that begins now.
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Records {
            began: Instant::now(),
            history: History::default(),
            attempts: 0,
            publishers: 0,
            first_attempts: HashMap::new(),
            sent: HashMap::new(),
            states: Vec::new(),
            tally: Tally::default(),
        })))
    }

    /// The time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.0.borrow().began.elapsed()
    }

    /// A new member.
    pub(crate) fn follower(&self, room: &Arc<str>, dialect: Dialect) -> MemberId {
        let mut records = self.0.borrow_mut();
        let room = room.clone();
        records.history.members.push(Follower { room, dialect });
        records.states.push(State::default());
        records.states.len() - 1
    }

    /// A new publishing session.
    pub(crate) fn publisher(&self) -> usize {
        let mut records = self.0.borrow_mut();
        records.publishers += 1;
        records.publishers
    }

    /// A publish is about to be sent.
    pub(crate) fn attempt(
        &self,
        publisher: usize,
        room: &Arc<str>,
        key: Option<&Arc<str>>,
        content: Content,
    ) -> AttemptId {
        let mut records = self.0.borrow_mut();
        let attempt = records.attempts;
        records.attempts += 1;
        let now = records.began.elapsed();
        records.first_attempts.entry(content).or_insert(now);
        records.sent.insert(attempt, now);
        records.see(Fact::Attempted {
            attempt,
            publisher,
            room: room.clone(),
            key: key.cloned(),
            content,
        });
        attempt
    }

    /// The server has answered an attempt.
    pub(crate) fn answer(&self, attempt: AttemptId, outcome: Outcome) {
        let mut records = self.0.borrow_mut();
        // A plain publisher is not answered: it hears itself, however long its own subscription takes to heal.
        if let Some(sent) = records.sent.remove(&attempt)
            && outcome != Outcome::Acknowledged(None)
        {
            let took = records.began.elapsed() - sent;
            records.tally.slowest_answer = records.tally.slowest_answer.max(took);
        }
        match outcome {
            Outcome::Acknowledged(_) => records.tally.acknowledged += 1,
            Outcome::Refused => records.tally.refused += 1,
            Outcome::Unknown => records.tally.unknown += 1,
        }
        records.see(Fact::Answered { attempt, outcome });
    }

    /// The connection was lost before the server had answered an attempt.
    pub(crate) fn lose_answer(&self, attempt: AttemptId) {
        self.0.borrow_mut().sent.remove(&attempt);
        self.answer(attempt, Outcome::Unknown);
    }

    /// A member is about to ask for its room.
    pub(crate) fn subscribing(&self, member: MemberId, after: Option<Position>) {
        self.0.borrow_mut().see(Fact::Subscribing { member, after });
    }

    /// A member's live range begins. Where it is from now on: at `position`, or where it was if it recovers.
    pub(crate) fn subscribed(
        &self,
        member: MemberId,
        node: usize,
        position: Option<Position>,
        recovered: Option<bool>,
    ) {
        let mut records = self.0.borrow_mut();
        let state = &mut records.states[member];
        state.node = Some(node);
        if recovered != Some(true) {
            state.position.clone_from(&position);
        }
        records.see(Fact::Subscribed {
            member,
            node,
            position,
            recovered,
        });
    }

    /// A member got a message; one of `roomcast.v1` with its offset.
    pub(crate) fn received(&self, member: MemberId, offset: Option<u64>, content: Content) {
        let mut records = self.0.borrow_mut();
        let attempted = records.first_attempts.get(&content).copied();
        records.tally.received += 1;
        let state = &mut records.states[member];
        let here = state.position.as_ref();
        let position = here.and_then(|here| offset.map(|offset| here.at(offset)));
        state.position.clone_from(&position);
        state.last = Some(content);
        state.newest = state.newest.max(attempted);
        records.see(Fact::Received {
            member,
            position,
            content,
        });
    }

    /// A member was told of a gap.
    pub(crate) fn gap(&self, member: MemberId, after: u64, position: Position) {
        let mut records = self.0.borrow_mut();
        records.tally.gaps += 1;
        records.states[member].position = Some(position.clone());
        records.see(Fact::Gap {
            member,
            after,
            position,
        });
    }

    /// A member's session is over.
    pub(crate) fn ended(&self, member: MemberId) {
        let mut records = self.0.borrow_mut();
        if records.states[member].node.take().is_some() {
            records.see(Fact::Ended { member });
        }
    }

    /// A member got what it should not have got.
    pub(crate) fn unexpected(&self, member: MemberId, frame: &str) {
        let frame = frame.to_owned();
        self.0.borrow_mut().see(Fact::Unexpected { member, frame });
    }

    /// For the reader.
    pub(crate) fn note(&self, note: impl Into<String>) {
        self.0.borrow_mut().see(Fact::Note(note.into()));
    }

    /// Where a member of `roomcast.v1` is.
    pub(crate) fn position(&self, member: MemberId) -> Option<Position> {
        self.0.borrow().states[member].position.clone()
    }

    /// The node where a member is subscribed.
    pub(crate) fn node(&self, member: MemberId) -> Option<usize> {
        self.0.borrow().states[member].node
    }

    /// The numbers so far.
    pub(crate) fn tally(&self) -> Tally {
        self.0.borrow().tally
    }

    /// Attempts that the server has not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.0.borrow().sent.len()
    }

    /// Members that have not yet heard any message that was first attempted since then.
    pub(crate) fn have_not_heard_since(&self, then: Duration) -> usize {
        let records = self.0.borrow();
        let behind = |state: &&State| state.newest.is_none_or(|newest| newest < then);
        records.states.iter().filter(behind).count()
    }

    /// Members of the room whose last message is another one.
    pub(crate) fn have_not_heard(&self, room: &str, last: Content) -> usize {
        let records = self.0.borrow();
        let members = records.history.members.iter().zip(&records.states);
        members
            .filter(|(follower, state)| *follower.room == *room && state.last != Some(last))
            .count()
    }

    /// What was seen so far.
    pub(crate) fn history(&self) -> Ref<'_, History> {
        Ref::map(self.0.borrow(), |records| &records.history)
    }

    /// The log in the end.
    pub(crate) fn log(&self, log: Log) {
        self.history_mut().logs.push(log);
    }

    /// Forgets what was seen when it has been checked: a new history begins where everybody is now. Only what may still
    /// come, because nobody knows what became of it, is remembered.
    pub(crate) fn turn_over(&self) {
        let mut records = self.0.borrow_mut();
        let history = &mut records.history;
        history.earlier = std::mem::take(&mut history.logs);
        let facts = std::mem::take(&mut history.facts);
        let settled: HashSet<AttemptId> = facts
            .iter()
            .filter_map(|(_, fact)| match fact {
                Fact::Answered { attempt, outcome } if *outcome != Outcome::Unknown => Some(*attempt),
                _ => None,
            })
            .collect();
        history.facts = facts;
        history.facts.retain(|(_, fact)| match fact {
            Fact::Attempted { attempt, .. } | Fact::Answered { attempt, .. } => !settled.contains(attempt),
            _ => false,
        });
        records.first_attempts.clear();
        records.sent.clear();
        records.tally = Tally::default();
        for member in 0..records.states.len() {
            let room = &records.history.members[member].room;
            let log = records.history.earlier.iter().find(|log| log.room == *room);
            let top = log.map(|log| log.top.clone());
            let State { node, position, .. } = records.states[member].clone();
            if let Some(node) = node {
                records.see(Fact::Subscribed {
                    member,
                    node,
                    position: position.or(top),
                    recovered: None,
                });
            }
        }
    }

    fn history_mut(&self) -> RefMut<'_, History> {
        RefMut::map(self.0.borrow_mut(), |records| &mut records.history)
    }
}

impl Records {
    fn see(&mut self, fact: Fact) {
        self.history.facts.push((self.began.elapsed(), fact));
    }
}
