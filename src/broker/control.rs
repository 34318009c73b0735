//! What one node asks of all nodes, itself included: to do something with the sessions of a user.
//!
//! A demand goes out over the broker's link and comes in over it, on every node alike, as
//! [`LinkEvent::Demanded`](super::LinkEvent::Demanded). Whoever asked is answered when all of them have done it.

use std::sync::Arc;

use crate::protocol::RoomName;

/// What is to be done, on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Close all sessions of the user.
    Disconnect {
        /// Whose.
        user: Arc<str>,
    },
    /// Make all sessions of the user leave the room.
    Remove {
        /// Whose.
        user: Arc<str>,
        /// Which room.
        room: RoomName,
    },
}

impl Demand {
    /// Whose sessions it is about.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        match self {
            Self::Disconnect { user } | Self::Remove { user, .. } => user,
        }
    }
}

/// Takes the word of one node that it has done what was demanded. Dropped, it says nothing, and the asker waits in vain.
pub struct Done(Box<dyn FnOnce(u64) + Send>);

impl Done {
    /// `tell` is called with the number of sessions that it was done to; it must not block.
    pub fn new(tell: impl FnOnce(u64) + Send + 'static) -> Self {
        Self(Box::new(tell))
    }

    /// It is done, to so many sessions.
    pub fn tell(self, sessions: u64) {
        (self.0)(sessions);
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}
