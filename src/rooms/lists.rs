//! Sessions as the workers are told of them: one sorted, shared list per HTTP worker. Pure.
//!
//! Handing a list to a worker costs a reference count, and a change while somebody still holds the list copies it.

use std::sync::Arc;

use super::{SessionId, WorkerId};

/// One list per worker.
pub type AllLists = [(WorkerId, Arc<Vec<SessionId>>)];

/// See the module. A worker without sessions has no list.
#[derive(Debug, Default)]
pub struct SessionLists(Vec<(WorkerId, Arc<Vec<SessionId>>)>);

impl SessionLists {
    /// One list per worker that has any.
    #[must_use]
    pub fn all(&self) -> &AllLists {
        &self.0
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a session, which may be there.
    pub fn add(&mut self, session: SessionId) {
        let worker = session.worker();
        let Some(index) = self.0.iter().position(|(id, _)| *id == worker) else {
            // Most rooms are small, so a list begins with room for one.
            self.0.reserve_exact(1);
            self.0.push((worker, Arc::new(vec![session])));
            return;
        };
        let list = Arc::make_mut(&mut self.0[index].1);
        if let Err(place) = list.binary_search(&session) {
            list.insert(place, session);
        }
    }

    /// Takes a session away. Whether it was there.
    pub fn remove(&mut self, session: SessionId) -> bool {
        let Some(index) = self.0.iter().position(|(id, _)| *id == session.worker()) else {
            return false;
        };
        let Ok(place) = self.0[index].1.binary_search(&session) else {
            return false;
        };
        let list = Arc::make_mut(&mut self.0[index].1);
        list.remove(place);
        if list.is_empty() {
            self.0.swap_remove(index);
        }
        true
    }
}
