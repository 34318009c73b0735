//! Ways to damage a history so that it must be found: what was seen is dropped, doubled, moved, changed.
//!
//! Each knows where it matters. What nobody can miss is left alone: the last message before a session's end, the first
//! one of a plain member, and messages that may be there twice because they were repeated over the loss of a numbering.

use std::collections::{HashMap, HashSet};

use crate::delivery::history::{Content, Fact, History, MemberId, Outcome, Position};

/// Where facts of a history stand that a mutation is about.
pub(super) type Candidates = Vec<usize>;

/// A way to damage a history: where it can be done so that it must be found, and how.
pub(super) type Mutation = (&'static str, fn(&History) -> Candidates, fn(&mut History, usize));

/// All of them.
pub(super) const MUTATIONS: &[Mutation] = &[
    ("a receipt is dropped", droppable_receipts, |history, at| {
        history.facts.remove(at);
    }),
    ("two receipts are swapped", pairs_of_receipts, |history, at| {
        let next = next_of_member(history, at).expect("a pair");
        history.facts.swap(at, next);
    }),
    ("a receipt is doubled", receipts, |history, at| {
        let again = history.facts[at].clone();
        history.facts.insert(at, again);
    }),
    ("a foreign message is received", receipts, |history, at| {
        let mut foreign = history.facts[at].clone();
        if let Fact::Received { content, .. } = &mut foreign.1 {
            *content = Content::of("foreign");
        }
        history.facts.insert(at, foreign);
    }),
    ("an offset is too high", numbered_receipts, |history, at| {
        if let Fact::Received {
            position: Some(position),
            ..
        } = &mut history.facts[at].1
        {
            position.offset += 1;
        }
    }),
    ("an offset is too low", numbered_receipts, |history, at| {
        if let Fact::Received {
            position: Some(position),
            ..
        } = &mut history.facts[at].1
        {
            position.offset -= 1;
        }
    }),
    ("an offset is missing", numbered_receipts, |history, at| {
        if let Fact::Received { position, .. } = &mut history.facts[at].1 {
            *position = None;
        }
    }),
    (
        "a message that is there was refused",
        acknowledgements,
        |history, at| {
            if let Fact::Answered { outcome, .. } = &mut history.facts[at].1 {
                *outcome = Outcome::Refused;
            }
        },
    ),
    (
        "another place is acknowledged",
        acknowledgements,
        |history, at| {
            if let Fact::Answered {
                outcome: Outcome::Acknowledged(Some(position)),
                ..
            } = &mut history.facts[at].1
            {
                position.offset += 1;
            }
        },
    ),
    ("an answer is missing", answers, |history, at| {
        history.facts.remove(at);
    }),
    ("an answer comes twice", answers, |history, at| {
        let again = history.facts[at].clone();
        history.facts.push(again);
    }),
    ("a gap is not told", gaps, |history, at| {
        history.facts.remove(at);
    }),
    ("a gap ends too late", gaps, |history, at| {
        if let Fact::Gap { position, .. } = &mut history.facts[at].1 {
            position.offset += 1;
        }
    }),
    ("a gap begins too late", gaps, |history, at| {
        if let Fact::Gap { after, .. } = &mut history.facts[at].1 {
            *after += 1;
        }
    }),
    ("a recovery is claimed", lost_recoveries, |history, at| {
        if let Fact::Subscribed { recovered, .. } = &mut history.facts[at].1 {
            *recovered = Some(true);
        }
    }),
    ("the first message of a log is missing", logs, |history, at| {
        history.logs[at].kept.remove(0);
    }),
    ("the last message of a log is missing", logs, |history, at| {
        history.logs[at].kept.pop();
    }),
    ("the log has a foreign message", logs, |history, at| {
        history.logs[at].kept[0].1 = Content::of("foreign");
    }),
    ("a log's numbering is another one", logs, |history, at| {
        let top = &mut history.logs[at].top;
        *top = Position::new("another numbering", top.offset);
    }),
];

/// The member whose fact this is, as far as mutations are concerned.
fn member_at(history: &History, at: usize) -> Option<MemberId> {
    match &history.facts[at].1 {
        Fact::Subscribing { member, .. }
        | Fact::Subscribed { member, .. }
        | Fact::Received { member, .. }
        | Fact::Gap { member, .. }
        | Fact::Ended { member } => Some(*member),
        _ => None,
    }
}

fn next_of_member(history: &History, at: usize) -> Option<usize> {
    let member = member_at(history, at);
    (at + 1..history.facts.len()).find(|next| member_at(history, *next) == member)
}

fn is_receipt(history: &History, at: usize) -> bool {
    matches!(history.facts[at].1, Fact::Received { .. })
}

fn those(history: &History, wanted: impl Fn(&Fact) -> bool) -> Candidates {
    let facts = history.facts.iter().enumerate();
    facts
        .filter(|(_, (_, fact))| wanted(fact))
        .map(|(at, _)| at)
        .collect()
}

/// Contents that were attempted once: the others may be there twice, in two numberings.
fn unique(history: &History) -> HashSet<Content> {
    let (mut once, mut more) = (HashSet::new(), HashSet::new());
    for (_, fact) in &history.facts {
        if let Fact::Attempted { content, .. } = fact
            && !once.insert(*content)
        {
            more.insert(*content);
        }
    }
    &once - &more
}

fn receipts(history: &History) -> Candidates {
    let unique = unique(history);
    those(
        history,
        |fact| matches!(fact, Fact::Received { content, .. } if unique.contains(content)),
    )
}

fn numbered_receipts(history: &History) -> Candidates {
    let is_numbered = |at: &usize| {
        matches!(
            history.facts[*at].1,
            Fact::Received {
                position: Some(_),
                ..
            }
        )
    };
    receipts(history).into_iter().filter(is_numbered).collect()
}

/// Not the first of a plain member's range, which nobody knows to be due, and not the last before an end.
fn droppable_receipts(history: &History) -> Candidates {
    let is_first = |at: usize| {
        let member = member_at(history, at);
        let before = (0..at).rev().find(|before| member_at(history, *before) == member);
        before.is_none_or(|before| !is_receipt(history, before))
    };
    let is_last = |at: usize| {
        next_of_member(history, at).is_some_and(|next| matches!(history.facts[next].1, Fact::Ended { .. }))
    };
    let is_plain = |at: usize| matches!(history.facts[at].1, Fact::Received { position: None, .. });
    receipts(history)
        .into_iter()
        .filter(|at| !(is_last(*at) || is_plain(*at) && is_first(*at)))
        .collect()
}

fn pairs_of_receipts(history: &History) -> Candidates {
    let receipts = receipts(history);
    let unique: HashSet<usize> = receipts.iter().copied().collect();
    let has_next = |at: &usize| next_of_member(history, *at).is_some_and(|next| unique.contains(&next));
    receipts.into_iter().filter(has_next).collect()
}

/// Of messages that somebody else knows a place of, too.
fn acknowledgements(history: &History) -> Candidates {
    let unique = unique(history);
    let mut attempts = HashMap::new();
    let mut placed: HashSet<Content> = history
        .logs
        .iter()
        .flat_map(|log| &log.kept)
        .map(|(_, content)| *content)
        .collect();
    for (_, fact) in &history.facts {
        match fact {
            Fact::Attempted { attempt, content, .. } => {
                attempts.insert(*attempt, *content);
            }
            Fact::Received {
                position: Some(_),
                content,
                ..
            } => {
                placed.insert(*content);
            }
            _ => {}
        }
    }
    those(history, |fact| match fact {
        Fact::Answered {
            attempt,
            outcome: Outcome::Acknowledged(_),
        } => {
            let content = &attempts[attempt];
            placed.contains(content) && unique.contains(content)
        }
        _ => false,
    })
}

fn answers(history: &History) -> Candidates {
    those(history, |fact| matches!(fact, Fact::Answered { .. }))
}

/// Those behind which the member hears something.
fn gaps(history: &History) -> Candidates {
    let mut gaps = those(history, |fact| matches!(fact, Fact::Gap { .. }));
    gaps.retain(|at| next_of_member(history, *at).is_some_and(|next| is_receipt(history, next)));
    gaps
}

/// Those into another numbering.
fn lost_recoveries(history: &History) -> Candidates {
    let mut found = those(history, |fact| {
        matches!(
            fact,
            Fact::Subscribed {
                recovered: Some(false),
                ..
            }
        )
    });
    found.retain(|at| {
        let (Fact::Subscribed { position: told, .. }, Fact::Subscribing { after, .. }) =
            (&history.facts[*at].1, &history.facts[at - 1].1)
        else {
            return false;
        };
        told.as_ref().map(|told| &told.epoch) != after.as_ref().map(|after| &after.epoch)
    });
    found
}

fn logs(history: &History) -> Candidates {
    (0..history.logs.len())
        .filter(|nth| !history.logs[*nth].kept.is_empty())
        .collect()
}
