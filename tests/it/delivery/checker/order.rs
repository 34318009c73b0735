//! A room's publishes and its one order, as far as anybody was told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Terms, Violation};
use crate::delivery::history::{AttemptId, Content, Fact, History, Log, Outcome, Position};

/// What is known of one room.
pub(super) struct Order<'h> {
    pub(super) room: &'h Arc<str>,
    /// What stands where.
    pub(super) placed: BTreeMap<Position, Content>,
    /// Where it stands; more than one place is at most a message that was repeated over the loss of a numbering.
    pub(super) places: HashMap<Content, Vec<Position>>,
    pub(super) logs: Vec<&'h Log>,
    publishes: HashMap<Content, Publish>,
}

/// One message, with all attempts to publish it.
#[derive(Default)]
struct Publish {
    attempts: Vec<AttemptId>,
    outcomes: Vec<Outcome>,
}

impl<'h> Order<'h> {
    /// Puts it together, and says what contradicts itself.
    pub(super) fn of(
        history: &'h History,
        room: &'h Arc<str>,
        terms: Terms,
        violations: &mut Vec<Violation>,
    ) -> Self {
        let mut order = Self {
            room,
            placed: BTreeMap::new(),
            places: HashMap::new(),
            logs: history.logs.iter().filter(|log| log.room == *room).collect(),
            publishes: HashMap::new(),
        };
        order.read_earlier(history, violations);
        order.read_publishes(history, violations);
        order.read_receipts(history, violations);
        order.read_logs(terms, violations);
        order.check_places(terms, violations);
        order.check_time(history, violations);
        order
    }

    /// Whether an attempt to publish it was made in this room.
    pub(super) fn was_attempted(&self, content: Content) -> bool {
        self.publishes.contains_key(&content)
    }

    /// Whether all attempts to publish it were refused.
    pub(super) fn was_refused(&self, content: Content) -> bool {
        self.publishes.get(&content).is_some_and(|publish| {
            !publish.outcomes.is_empty()
                && publish
                    .outcomes
                    .iter()
                    .all(|outcome| *outcome == Outcome::Refused)
        })
    }

    /// The top of the numbering that the room has in the end.
    pub(super) fn top(&self) -> Option<&'h Position> {
        self.logs.iter().map(|log| &log.top).max_by_key(|top| top.offset)
    }

    /// The oldest number that is kept in the end, if it is of this numbering.
    pub(super) fn oldest_kept(&self, epoch: &str) -> Option<u64> {
        let log = self.logs.iter().find(|log| *log.top.epoch == *epoch)?;
        log.kept.first().map(|(offset, _)| *offset)
    }

    /// What was published before the history began is nobody's attempt, and has its place all the same.
    fn read_earlier(&mut self, history: &History, violations: &mut Vec<Violation>) {
        for log in history.earlier.iter().filter(|log| log.room == *self.room) {
            for (offset, content) in &log.kept {
                self.publishes.entry(*content).or_default();
                self.place(&log.top.at(*offset), *content, violations);
            }
        }
    }

    fn read_publishes(&mut self, history: &History, violations: &mut Vec<Violation>) {
        let mut attempts: BTreeMap<AttemptId, (Content, bool)> = BTreeMap::new();
        for (_, fact) in &history.facts {
            match fact {
                Fact::Attempted {
                    attempt,
                    room,
                    content,
                    ..
                } if room == self.room => {
                    attempts.insert(*attempt, (*content, false));
                    self.publishes
                        .entry(*content)
                        .or_default()
                        .attempts
                        .push(*attempt);
                }
                Fact::Answered { attempt, outcome } => {
                    let Some((content, answered)) = attempts.get_mut(attempt) else {
                        continue;
                    };
                    if std::mem::replace(answered, true) {
                        violations.push(Violation::AnsweredTwice { attempt: *attempt });
                    }
                    let content = *content;
                    let publish = self.publishes.entry(content).or_default();
                    publish.outcomes.push(outcome.clone());
                    if let Outcome::Acknowledged(Some(position)) = outcome {
                        self.place(position, content, violations);
                    }
                }
                _ => {}
            }
        }
        for (attempt, (content, answered)) in attempts {
            if !answered {
                violations.push(Violation::Unanswered { attempt, content });
            }
        }
    }

    fn read_receipts(&mut self, history: &History, violations: &mut Vec<Violation>) {
        let mut plain = BTreeSet::new();
        for (_, fact) in &history.facts {
            let Fact::Received {
                member,
                position,
                content,
            } = fact
            else {
                continue;
            };
            if history.members[*member].room != *self.room {
                continue;
            }
            match position {
                Some(position) => self.place(position, *content, violations),
                None => {
                    plain.insert(*content);
                }
            }
        }
        for content in plain {
            if !self.places.contains_key(&content) {
                self.check_publish(content, violations);
            }
        }
    }

    fn read_logs(&mut self, terms: Terms, violations: &mut Vec<Violation>) {
        for log in self.logs.clone() {
            let room = self.room.clone();
            if log.top.epoch != self.logs[0].top.epoch {
                let epochs = [&self.logs[0].top.epoch, &log.top.epoch].map(Arc::clone);
                let room = room.clone();
                violations.push(Violation::Restarted { room, epochs });
            }
            for pair in log.kept.windows(2) {
                let (after, next) = (pair[0].0, pair[1].0);
                if next != after + 1 {
                    let room = room.clone();
                    violations.push(Violation::LogBroken { room, after, next });
                }
            }
            if let Some((last, _)) = log.kept.last()
                && *last != log.top.offset
            {
                violations.push(Violation::LogBroken {
                    room: room.clone(),
                    after: *last,
                    next: log.top.offset,
                });
            }
            let due = terms
                .history_size
                .min(usize::try_from(log.top.offset).unwrap_or(usize::MAX));
            if log.kept.len() < due {
                let kept = log.kept.len();
                violations.push(Violation::LogTooShort { room, kept, due });
            }
            for (offset, content) in &log.kept {
                self.place(&log.top.at(*offset), *content, violations);
            }
        }
    }

    /// Says that this stands there.
    fn place(&mut self, position: &Position, content: Content, violations: &mut Vec<Violation>) {
        match self.placed.get(position) {
            Some(present) if *present == content => {}
            Some(present) => violations.push(Violation::Conflict {
                room: self.room.clone(),
                position: position.clone(),
                contents: [*present, content],
            }),
            None => {
                self.placed.insert(position.clone(), content);
                self.places.entry(content).or_default().push(position.clone());
            }
        }
    }

    fn check_places(&mut self, terms: Terms, violations: &mut Vec<Violation>) {
        for (content, positions) in &self.places {
            self.check_publish(*content, violations);
            let may_repeat = terms.may_restart
                && self
                    .publishes
                    .get(content)
                    .is_some_and(|publish| publish.attempts.len() > 1);
            let mut positions = positions.clone();
            positions.sort();
            for pair in positions.windows(2) {
                if !may_repeat || pair[0].epoch == pair[1].epoch {
                    violations.push(Violation::StoredTwice {
                        room: self.room.clone(),
                        content: *content,
                        positions: [pair[0].clone(), pair[1].clone()],
                    });
                }
            }
        }
        for (position, content) in &self.placed {
            for log in self.logs.iter().filter(|log| log.top.epoch == position.epoch) {
                let in_log = log
                    .kept
                    .binary_search_by_key(&position.offset, |(offset, _)| *offset)
                    .is_ok();
                let oldest = log.kept.first().map_or(log.top.offset + 1, |(offset, _)| *offset);
                if !in_log && position.offset >= oldest {
                    violations.push(Violation::NotInLog {
                        room: self.room.clone(),
                        position: position.clone(),
                        content: *content,
                    });
                }
            }
        }
        let mut epochs: Vec<&Arc<str>> = self
            .placed
            .keys()
            .chain(self.logs.iter().map(|log| &log.top))
            .map(|p| &p.epoch)
            .collect();
        epochs.sort();
        epochs.dedup();
        if let ([one, other, ..], false) = (epochs.as_slice(), terms.may_restart) {
            violations.push(Violation::Restarted {
                room: self.room.clone(),
                epochs: [(*one).clone(), (*other).clone()],
            });
        }
    }

    /// What somebody has heard or stored must have been published here, and not refused.
    fn check_publish(&self, content: Content, violations: &mut Vec<Violation>) {
        let room = self.room.clone();
        if !self.was_attempted(content) {
            violations.push(Violation::Foreign { room, content });
        } else if self.was_refused(content) {
            violations.push(Violation::RefusedButThere { room, content });
        }
    }

    /// What was acknowledged before another was attempted stands before it; so does what the same session sent before.
    /// The second only where both were attempted once: a repetition may be overtaken.
    fn check_time(&self, history: &History, violations: &mut Vec<Violation>) {
        /// The highest place that was told by then, by numbering.
        type Tops = HashMap<Arc<str>, u64>;
        let mut acknowledged = Tops::new();
        let mut sent_by: HashMap<(usize, Arc<str>), u64> = HashMap::new();
        let mut attempts: HashMap<AttemptId, (Content, usize)> = HashMap::new();
        let mut bounds: HashMap<Content, Tops> = HashMap::new();
        let mut in_order: BTreeMap<AttemptId, (usize, Position)> = BTreeMap::new();
        for (_, fact) in &history.facts {
            match fact {
                Fact::Attempted {
                    attempt,
                    publisher,
                    room,
                    content,
                    ..
                } if room == self.room => {
                    attempts.insert(*attempt, (*content, *publisher));
                    bounds.entry(*content).or_insert_with(|| acknowledged.clone());
                }
                Fact::Answered {
                    attempt,
                    outcome: Outcome::Acknowledged(Some(position)),
                } => {
                    let Some((content, publisher)) = attempts.get(attempt) else {
                        continue;
                    };
                    if let Some(bound) = bounds[content].get(&position.epoch)
                        && *bound >= position.offset
                    {
                        violations.push(Violation::WrongOrder {
                            room: self.room.clone(),
                            earlier: position.at(*bound),
                            later: position.clone(),
                        });
                    }
                    let top = acknowledged.entry(position.epoch.clone()).or_default();
                    *top = position.offset.max(*top);
                    if self.publishes[content].attempts.len() == 1 {
                        in_order.insert(*attempt, (*publisher, position.clone()));
                    }
                }
                _ => {}
            }
        }
        // Attempts are numbered in the order in which they are made.
        for (publisher, position) in in_order.into_values() {
            let last = sent_by
                .entry((publisher, position.epoch.clone()))
                .or_insert(position.offset);
            if *last > position.offset {
                violations.push(Violation::WrongOrder {
                    room: self.room.clone(),
                    earlier: position.at(*last),
                    later: position.clone(),
                });
            }
            *last = position.offset.max(*last);
        }
    }
}
