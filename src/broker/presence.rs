//! Who is listed as a member of a room, over all nodes: what the registry and the broker's link say to each other.
//!
//! - The registry says what should be so ([`Change`]); the link makes it so, however often the broker fails meanwhile,
//!   and reports it ([`Report::Settled`]) once every node can see it. Of several changes of one entry only the last counts.
//! - What changes on other nodes comes on the room's presence channel ([`Present`]), while that is subscribed to. Something
//!   may come twice there, and a roster may be older or newer than what came last: only who knows the roster can tell
//!   what is new.
//! - A session is listed with its user, once per room. Its name is unique over all nodes and times.

use std::sync::Arc;

use crate::protocol::{MAX_LISTED_MEMBERS, Member, RoomName};

/// What the registry wants of the broker's presence. It needs no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// List a session of this node, or do not list it any more. Answered by [`Report::Settled`].
    Change(Change),
    /// Read who is in a room. Answered by [`Report::Roster`].
    Roster {
        /// Where.
        room: RoomName,
        /// Repeated in the answer.
        serial: u64,
    },
    /// Read how many are in a room, and who, as far as a list goes. Answered by [`Report::Listed`].
    List {
        /// Where.
        room: RoomName,
        /// Repeated in the answer.
        serial: u64,
    },
}

/// An entry as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub room: RoomName,
    /// Who.
    pub member: Member,
    /// Whether it is to be listed.
    pub listed: bool,
    /// Grows with each change and read.
    pub serial: u64,
}

/// What the link has to tell of presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The change with this serial is so, for all nodes.
    Settled(u64),
    /// Everybody who is in the room, as it was at some time after what has this serial was asked for.
    Roster {
        /// Where.
        room: RoomName,
        /// Of the read, or of a change that was answered together with it.
        serial: u64,
        /// Who.
        members: Vec<Member>,
    },
    /// The answer to [`Order::List`]: the list, or why there is none.
    Listed {
        /// Where.
        room: RoomName,
        /// The order's.
        serial: u64,
        /// What was read.
        list: Result<MemberList, String>,
    },
}

/// How many are in a room, and who.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberList {
    /// All of them, counted.
    pub count: u64,
    /// [`MAX_LISTED_MEMBERS`] at most, in no particular order.
    pub members: Vec<Member>,
}

impl MemberList {
    /// The list of a room of which so many members were counted and these were read, at about the same time.
    #[must_use]
    pub fn new(counted: u64, mut members: Vec<Member>) -> Self {
        members.truncate(MAX_LISTED_MEMBERS);
        let listed = members.len() as u64;
        // A list that is not cut is itself the count.
        let is_cut = members.len() == MAX_LISTED_MEMBERS;
        let count = if is_cut { counted.max(listed) } else { listed };
        Self { count, members }
    }

    /// Whether nobody is left out.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.count == self.members.len() as u64
    }

    /// The list, cut to about so many bytes.
    #[must_use]
    pub fn within(mut self, bytes: usize) -> Self {
        let mut left = bytes;
        let fits = self.members.iter().take_while(|member| {
            let rest = left.checked_sub(member_bytes(member));
            left = rest.unwrap_or(left);
            rest.is_some()
        });
        let fitting = fits.count();
        self.members.truncate(fitting);
        self
    }

    /// About the bytes of the frame that tells it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.members.iter().map(member_bytes).sum()
    }
}

/// What has changed in a room, as its channel tells it. Nobody is in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Who is listed now.
    pub joined: Vec<Member>,
    /// Who is not listed any more.
    pub left: Vec<Member>,
}

impl Present {
    /// Roughly the memory that it takes while it waits, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.joined.iter().chain(&self.left).map(member_bytes).sum()
    }
}

/// Roughly what a member takes, in memory or in a frame, in bytes.
#[must_use]
pub fn member_bytes(member: &Member) -> usize {
    const AROUND: usize = 64;
    AROUND + member.session.len() + member.user.as_ref().map_or(0, |user: &Arc<str>| user.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<Member> {
        (0..count)
            .map(|number| Member {
                session: number.to_string().into(),
                user: None,
            })
            .collect()
    }

    #[test]
    fn a_list_that_is_whole_counts_itself_and_one_that_is_cut_has_the_count_beside_it() {
        let list = MemberList::new(7, members(3));
        assert_eq!((list.count, list.is_whole()), (3, true));
        let list = MemberList::new(2_000, members(1_001));
        assert_eq!(
            (list.count, list.members.len(), list.is_whole()),
            (2_000, 1_000, false)
        );
        let list = MemberList::new(900, members(1_000));
        assert_eq!((list.count, list.is_whole()), (1_000, true));
    }

    #[test]
    fn a_list_is_cut_to_what_may_be_sent_and_its_count_is_not() {
        let member = |number: usize| Member {
            session: format!("{number:04}").into(),
            user: None,
        };
        let list = MemberList::new(40, (0..40).map(member).collect());
        let each = member_bytes(&list.members[0]);
        let cut = list.clone().within(10 * each + 1);
        assert_eq!((cut.count, cut.members.len()), (40, 10));
        assert_eq!(list.clone().within(40 * each), list);
    }
}
