//! Whether each member heard what it should, as it should.

use std::collections::{BTreeMap, HashMap, HashSet};

use roomcast::protocol::Dialect;

use super::Violation;
use super::order::Order;
use crate::delivery::history::{Content, Fact, History, MemberId, Position};

/// A gap as it was told on a node, between two places of which either may be in another numbering.
type ToldGaps = HashMap<usize, HashSet<(Position, Position)>>;

/// Checks all members of the room.
pub(super) fn check(history: &History, order: &Order<'_>, violations: &mut Vec<Violation>) {
    let is_in_room = |member: MemberId| history.members[member].room == *order.room;
    let mut tracks: BTreeMap<MemberId, Track> = (0..history.members.len())
        .filter(|member| is_in_room(*member))
        .map(|member| (member, Track::new(member, history.members[member].dialect)))
        .collect();
    // What is excused for plain members is known when all others have been looked at.
    let mut told = ToldGaps::new();
    for dialect in [Dialect::V1, Dialect::Plain] {
        for (_, fact) in &history.facts {
            let Some(track) = member_of(fact).and_then(|member| tracks.get_mut(&member)) else {
                continue;
            };
            if track.dialect == dialect {
                track.take(fact, order, &mut told, violations);
            }
        }
    }
    for track in tracks.into_values() {
        track.finish(order, &told, violations);
    }
}

fn member_of(fact: &Fact) -> Option<MemberId> {
    match fact {
        Fact::Subscribing { member, .. }
        | Fact::Subscribed { member, .. }
        | Fact::Received { member, .. }
        | Fact::Gap { member, .. }
        | Fact::Ended { member }
        | Fact::Unexpected { member, .. } => Some(*member),
        Fact::Attempted { .. } | Fact::Answered { .. } | Fact::Note(_) => None,
    }
}

/// Where a member is.
struct Track {
    member: MemberId,
    dialect: Dialect,
    node: usize,
    subscribed: bool,
    /// What it asked for.
    asked: Option<Position>,
    /// The last place that it has heard or was told of, in its live range: none yet, or one, or one of these.
    last: Vec<Position>,
    /// The gap that it was told of and has not heard anything since, with where it was.
    gap: Option<(u64, Position, Option<Position>)>,
    seen: HashSet<Position>,
    /// Places that were passed over in silence, with what was heard before and behind them.
    holes: Vec<(Position, Position)>,
}

impl Track {
    fn new(member: MemberId, dialect: Dialect) -> Self {
        Self {
            member,
            dialect,
            node: 0,
            subscribed: false,
            asked: None,
            last: Vec::new(),
            gap: None,
            seen: HashSet::new(),
            holes: Vec::new(),
        }
    }

    fn take(&mut self, fact: &Fact, order: &Order<'_>, told: &mut ToldGaps, violations: &mut Vec<Violation>) {
        match fact {
            Fact::Subscribing { after, .. } => self.asked.clone_from(after),
            Fact::Subscribed {
                node,
                position,
                recovered,
                ..
            } => {
                self.subscribed = true;
                self.node = *node;
                self.begin(position.as_ref(), *recovered == Some(true), order, violations);
            }
            Fact::Received {
                position, content, ..
            } => {
                let (member, content) = (self.member, *content);
                if !self.subscribed {
                    violations.push(Violation::OutsideSession { member, content });
                }
                if self.dialect == Dialect::V1 && position.is_none() {
                    violations.push(Violation::Unnumbered { member, content });
                }
                self.receive(position.as_ref(), content, order, told, violations);
            }
            Fact::Gap { after, position, .. } => {
                self.told_gap(*after, position, order, told, violations);
            }
            Fact::Ended { .. } => {
                self.subscribed = false;
                self.gap = None;
            }
            Fact::Unexpected { frame, .. } => violations.push(Violation::Unexpected {
                member: self.member,
                frame: frame.clone(),
            }),
            Fact::Attempted { .. } | Fact::Answered { .. } | Fact::Note(_) => {}
        }
    }

    /// A new live range.
    fn begin(
        &mut self,
        told: Option<&Position>,
        recovered: bool,
        order: &Order<'_>,
        violations: &mut Vec<Violation>,
    ) {
        let member = self.member;
        let asked = self.asked.take();
        self.gap = None;
        if let (Some(asked), Some(told), true) = (asked.clone(), told, recovered) {
            if asked.epoch != told.epoch || asked.offset > told.offset {
                violations.push(Violation::FalselyRecovered {
                    member,
                    asked: asked.clone(),
                    told: told.clone(),
                });
            }
            // Nobody but the member itself can have lost what is between.
            if let Some(last) = self.last.first().filter(|last| **last != asked) {
                self.holes.push((last.clone(), asked.at(asked.offset + 1)));
            }
            self.last = vec![asked];
        } else {
            if let (Some(asked), Some(told)) = (asked, told)
                && asked.epoch == told.epoch
            {
                if asked.offset > told.offset {
                    let told = told.clone();
                    violations.push(Violation::StalePosition { member, asked, told });
                } else if let Some(oldest) = order.oldest_kept(&asked.epoch)
                    && oldest <= asked.offset + 1
                {
                    violations.push(Violation::NeedlessLoss {
                        member,
                        asked,
                        oldest,
                    });
                }
            }
            self.last = told.into_iter().cloned().collect();
            self.seen.clear();
        }
    }

    fn receive(
        &mut self,
        position: Option<&Position>,
        content: Content,
        order: &Order<'_>,
        told: &ToldGaps,
        violations: &mut Vec<Violation>,
    ) {
        let no_gaps = HashSet::new();
        let (places, gaps) = match position {
            Some(position) => (std::slice::from_ref(position), &no_gaps),
            None => (
                order.places.get(&content).map_or(&[][..], Vec::as_slice),
                told.get(&self.node).unwrap_or(&no_gaps),
            ),
        };
        let Some(somewhere) = places.first() else {
            if order.was_attempted(content) && !order.was_refused(content) {
                let member = self.member;
                violations.push(Violation::Unplaced { member, content });
            }
            return;
        };
        let gap = self.gap.take();
        // A message that was repeated over the loss of a numbering has two places, and whoever is told none may be at either.
        let mut next: Vec<Position> = places
            .iter()
            .filter(|place| self.last.is_empty() || self.last.iter().any(|last| follows(gaps, last, place)))
            .cloned()
            .collect();
        if next.is_empty() {
            let fresh = places.iter().find(|place| !self.seen.contains(*place));
            let position = fresh.unwrap_or(somewhere).clone();
            if !self.receive_wrongly(&position, gap, violations) {
                return;
            }
            next = vec![position];
        }
        self.seen.extend(next.iter().cloned());
        self.last = next;
    }

    /// A message that does not follow what was heard last. Whether the member goes on from there.
    fn receive_wrongly(
        &mut self,
        position: &Position,
        gap: Option<(u64, Position, Option<Position>)>,
        violations: &mut Vec<Violation>,
    ) -> bool {
        let member = self.member;
        let position = position.clone();
        let last = self.last[0].clone();
        if self.seen.contains(&position) {
            violations.push(Violation::Doubled { member, position });
            return false;
        }
        if let Some((after, until, had)) = gap {
            violations.push(Violation::GapMismatch {
                member,
                gap: (after, until),
                had,
                next: Some(position),
            });
            return true;
        }
        if position.epoch == last.epoch && position.offset <= last.offset {
            self.seen.insert(position.clone());
            self.fill_hole(&position);
            violations.push(Violation::OutOfOrder {
                member,
                position,
                behind: last,
            });
            return false;
        }
        self.holes.push((last, position));
        true
    }

    fn told_gap(
        &mut self,
        after: u64,
        until: &Position,
        order: &Order<'_>,
        told: &mut ToldGaps,
        violations: &mut Vec<Violation>,
    ) {
        let member = self.member;
        let had = self.last.first().cloned();
        self.last = vec![until.clone()];
        let from = if had.as_ref().is_some_and(|had| had.epoch == until.epoch) {
            after + 1
        } else {
            1
        };
        let begins_right = had.as_ref().is_some_and(|had| had.offset == after);
        let leads_on = had
            .as_ref()
            .is_some_and(|had| had.epoch != until.epoch || had.offset < until.offset);
        if !begins_right || !leads_on || !self.subscribed {
            violations.push(Violation::GapMismatch {
                member,
                gap: (after, until.clone()),
                had: had.clone(),
                next: None,
            });
        }
        if let Some(oldest) = order.oldest_kept(&until.epoch)
            && oldest.max(from) <= until.offset
        {
            violations.push(Violation::NeedlessGap {
                member,
                gap: (after, until.clone()),
                oldest,
            });
        }
        if let Some(had) = &had {
            let gaps = told.entry(self.node).or_default();
            gaps.insert((had.clone(), until.clone()));
        }
        self.gap = Some((after, until.clone(), had));
    }

    /// Takes what came late out of the hole that it left.
    fn fill_hole(&mut self, position: &Position) {
        let Some(nth) = self.holes.iter().position(|(after, before)| {
            after.epoch == position.epoch
                && before.epoch == position.epoch
                && (after.offset..before.offset).contains(&position.offset)
        }) else {
            return;
        };
        let (after, before) = self.holes.swap_remove(nth);
        for (after, before) in [(after, position.clone()), (position.clone(), before)] {
            if after.offset + 1 < before.offset {
                self.holes.push((after, before));
            }
        }
    }

    fn finish(self, order: &Order<'_>, told: &ToldGaps, violations: &mut Vec<Violation>) {
        let member = self.member;
        for (after, before) in self.holes {
            violations.push(Violation::Lost {
                member,
                after: Some(after),
                before: Some(before),
            });
        }
        let (true, Some(top)) = (self.subscribed, order.top()) else {
            return;
        };
        if let Some((after, until, had)) = self.gap
            && until.epoch == top.epoch
            && until.offset > top.offset
        {
            violations.push(Violation::GapMismatch {
                member,
                gap: (after, until),
                had,
                next: None,
            });
            return;
        }
        let end = top.at(top.offset + 1);
        let no_gaps = HashSet::new();
        let gaps = match self.dialect {
            Dialect::Plain => told.get(&self.node).unwrap_or(&no_gaps),
            Dialect::V1 => &no_gaps,
        };
        // Beyond the top is something that is not in the log, and found there.
        let is_at_end = |last: &Position| {
            follows(gaps, last, &end) || last.epoch == end.epoch && last.offset > top.offset
        };
        let has_nothing_to_hear = self.last.is_empty() && top.offset == 0;
        if !has_nothing_to_hear && !self.last.iter().any(is_at_end) {
            violations.push(Violation::Lost {
                member,
                after: self.last.first().cloned(),
                before: Some(end),
            });
        }
    }
}

/// Whether this is the next place, or the gaps that were told lead exactly there.
fn follows(gaps: &HashSet<(Position, Position)>, last: &Position, next: &Position) -> bool {
    let (mut reached, mut looked_at) = (vec![last], 0);
    while let Some(here) = reached.get(looked_at).copied() {
        if *next == here.at(here.offset + 1) {
            return true;
        }
        looked_at += 1;
        for (from, until) in gaps {
            if from == here && !reached.contains(&until) {
                reached.push(until);
            }
        }
    }
    false
}
