//! Decides whether a history keeps the promises: nothing lost, nothing twice, one order, nothing refused and yet there.
//!
//! It knows no server and no clock. What it takes for true:
//!
//! - One room has one order, which is put together from all who were told a place: acknowledgements, members of
//!   `roomcast.v1`, and the log. They must not contradict each other.
//! - A member of `roomcast.v1` hears every number from its position on, or is told of a gap that begins where it was and
//!   ends where it goes on, and that nothing kept lies in.
//! - A plain member hears what stands at consecutive places from its first message on. A hole is excused only where
//!   a member of `roomcast.v1` on the same node was told of exactly this one.
//! - Who is subscribed in the end has heard everything up to the top. So a run ends with a message to each room, when
//!   all members have come.
//! - A publish that was attempted more than once (with its key) may be there again in a new numbering, if numberings
//!   were lost: its key was lost with them. Nothing else may be there twice.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod generated;
mod members;
mod order;
#[cfg(test)]
mod tests;
mod violation;
#[cfg(test)]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::history::{Fact, History};
use order::Order;
pub(crate) use violation::Violation;

/// What the run allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// `ROOMCAST_HISTORY_SIZE`: so many messages must be kept of each room.
    pub(crate) history_size: usize,
    /// Whether a fault threw away what Redis had, so that a room may begin a new numbering.
    pub(crate) may_restart: bool,
}

/// All that is wrong with a history; nothing if it is good.
#[must_use]
pub(crate) fn check(history: &History, terms: Terms) -> Vec<Violation> {
    let mut violations = Vec::new();
    let rooms: BTreeSet<&Arc<str>> = history
        .facts
        .iter()
        .filter_map(|(_, fact)| match fact {
            Fact::Attempted { room, .. } => Some(room),
            _ => None,
        })
        .chain(history.members.iter().map(|follower| &follower.room))
        .chain(history.logs.iter().map(|log| &log.room))
        .collect();
    for room in rooms {
        let order = Order::of(history, room, terms, &mut violations);
        members::check(history, &order, &mut violations);
    }
    violations
}
