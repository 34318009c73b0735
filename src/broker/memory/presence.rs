//! Who is listed in the embedded broker's rooms. Pure.
//!
//! There is one node, and nothing is ever lost: a change is so at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::broker::presence::{Change, MemberList, Order, Present, Report};
use crate::protocol::{Member, RoomName};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listed {
    rooms: HashMap<RoomName, BTreeMap<Arc<str>, Member>>,
    entries: usize,
}

impl Listed {
    /// Carries out an order. Returns what changed by it, and the answer.
    pub(super) fn obey(&mut self, order: Order) -> (Option<(RoomName, Present)>, Report) {
        match order {
            Order::Change(change) => {
                let serial = change.serial;
                (self.change(change), Report::Settled(serial))
            }
            Order::Roster { room, serial } => {
                let members = self.members(&room).cloned().collect();
                let report = Report::Roster {
                    room,
                    serial,
                    members,
                };
                (None, report)
            }
            Order::List { room, serial } => {
                let count = self.members(&room).count() as u64;
                let most = crate::protocol::MAX_LISTED_MEMBERS;
                let members = self.members(&room).take(most).cloned().collect();
                let list = Ok(MemberList::new(count, members));
                (None, Report::Listed { room, serial, list })
            }
        }
    }

    fn members(&self, room: &RoomName) -> impl Iterator<Item = &Member> {
        self.rooms.get(room).into_iter().flat_map(BTreeMap::values)
    }

    fn change(&mut self, change: Change) -> Option<(RoomName, Present)> {
        let Change {
            room, member, listed, ..
        } = change;
        let mut present = Present::default();
        if listed {
            let members = self.rooms.entry(room.clone()).or_default();
            if members.insert(member.session.clone(), member.clone()).is_none() {
                present.joined.push(member);
                self.entries += 1;
            }
        } else if let Some(members) = self.rooms.get_mut(&room) {
            if let Some(member) = members.remove(&member.session) {
                present.left.push(member);
                self.entries -= 1;
            }
            if members.is_empty() {
                self.rooms.remove(&room);
            }
        }
        (present != Present::default()).then_some((room, present))
    }

    /// Entries in all rooms.
    pub(super) fn len(&self) -> usize {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(listed: bool) -> Order {
        Order::Change(Change {
            room: RoomName::new("r").expect("a valid name"),
            member: Member {
                session: "s".into(),
                user: None,
            },
            listed,
            serial: 1,
        })
    }

    #[test]
    fn only_what_changes_something_is_told() {
        let mut listed = Listed::default();
        let mut told = |order| {
            let (told, answer) = listed.obey(order);
            assert_eq!(answer, Report::Settled(1));
            told.map_or((0, 0), |(_, present)| (present.joined.len(), present.left.len()))
        };
        assert_eq!(told(change(false)), (0, 0));
        assert_eq!(told(change(true)), (1, 0));
        assert_eq!(told(change(true)), (0, 0));
        assert_eq!(told(change(false)), (0, 1));
        assert_eq!(listed.len(), 0);
        assert!(listed.rooms.is_empty());
    }
}
