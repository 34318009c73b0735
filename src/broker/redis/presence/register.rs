//! What this node wants listed, and what Redis has of it. Pure.
//!
//! - Level-triggered: whatever was asked for and answered, lost or answered late, what is wanted and what is held are
//!   compared again until they agree. Of the changes of one entry only the last counts.
//! - All entries of the node stand under one **lease**, taken with the first entry and dropped after the last. A batch or a
//!   beat that finds the lease otherwise than it was left shows that Redis has lost data, or that another node took this
//!   one for dead: then the register takes a new lease and lists everything again ([`Register::lost`]).
//! - At most one batch is under way. One that was not answered may have been carried out, and may still be; its number makes
//!   Redis refuse it when a later one was.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::presence::{Change, member_bytes};
use crate::protocol::{Member, RoomName};

/// The number that stands for a lease's beginning; those of batches are higher.
pub(super) const FIRST_BATCH: u64 = 1;

/// The lease under which a node lists its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) name: Arc<str>,
    /// The highest beat that was answered.
    pub(super) beat: i64,
    /// The last batch that was answered.
    pub(super) answered: u64,
    /// The last batch that was sent.
    sent: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Register {
    rooms: HashMap<RoomName, Room>,
    /// Entries that may have to be sent, each once.
    due: Vec<(RoomName, Arc<str>)>,
    lease: Option<Lease>,
    /// Leases that were lost: what stands under them still has to go.
    abandoned: Vec<Arc<str>>,
    /// Entries that are or may be in Redis.
    held: usize,
}

#[derive(Debug, Default)]
struct Room {
    entries: HashMap<Arc<str>, Entry>,
    /// Entries that are certainly there.
    held: usize,
}

#[derive(Debug)]
struct Entry {
    member: Member,
    wanted: bool,
    /// Of the last change; `None` once it has been reported.
    serial: Option<u64>,
    /// Of the last change, reported or not.
    last_serial: u64,
    held: Held,
    under_way: bool,
    due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    No,
    /// It was sent, and not answered.
    Perhaps,
    Yes,
}

/// What is sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// As it was before.
    pub(super) lease: Lease,
    pub(super) number: u64,
    pub(super) rooms: Vec<RoomBatch>,
}

/// A room's part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoomBatch {
    pub(super) room: RoomName,
    /// Nothing of this node is there: who else is has to be read.
    pub(super) enters: bool,
    /// The last serial of the changes in it.
    pub(super) serial: u64,
    pub(super) come: Vec<Member>,
    pub(super) go: Vec<Member>,
}

/// What fits into one batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimit {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Register {
    /// What should be so from now on. Returns the serial of a change that is so already.
    pub(super) fn change(&mut self, change: Change) -> Option<u64> {
        let Change {
            room,
            member,
            listed,
            serial,
        } = change;
        let session = member.session.clone();
        let entries = &mut self.rooms.entry(room.clone()).or_default().entries;
        let entry = entries.entry(session.clone()).or_insert_with(|| Entry {
            member: member.clone(),
            wanted: false,
            serial: None,
            last_serial: serial,
            held: Held::No,
            under_way: false,
            due: false,
        });
        if listed {
            entry.member = member;
        }
        entry.wanted = listed;
        entry.serial = Some(serial);
        entry.last_serial = serial;
        let settled = entry.settle();
        self.mark(&room, &session);
        settled
    }

    /// Looks at an entry after something has changed: it may be due, or gone for good.
    fn mark(&mut self, room: &RoomName, session: &Arc<str>) {
        let Some(held_room) = self.rooms.get_mut(room) else {
            return;
        };
        let Some(entry) = held_room.entries.get_mut(session) else {
            return;
        };
        if entry.is_right() {
            if !entry.wanted && !entry.under_way {
                held_room.entries.remove(session);
                if held_room.entries.is_empty() {
                    self.rooms.remove(room);
                }
            }
        } else if !entry.due && !entry.under_way {
            entry.due = true;
            self.due.push((room.clone(), session.clone()));
        }
    }

    /// Entries that may have to be sent.
    pub(super) fn due(&self) -> usize {
        self.due.len()
    }

    /// Entries that are or may be listed.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    /// The lease, if there is one.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whether a lease has to be begun before anything can be sent: that must have been answered, so that a batch which
    /// comes after the lease's end cannot begin it again.
    pub(super) fn needs_lease(&mut self) -> bool {
        if self.lease.as_ref().is_some_and(|lease| lease.beat > 0) {
            return false;
        }
        // What is right by now needs none.
        while let Some((name, session)) = self.due.pop() {
            let Some((_, entry)) = self.entry(&name, &session) else {
                continue;
            };
            if !entry.is_right() {
                self.due.push((name, session));
                return true;
            }
            entry.due = false;
            self.mark(&name, &session);
        }
        false
    }

    /// The lease that is to be begun, with a beat and [`FIRST_BATCH`]; `name` makes the name of a new one.
    pub(super) fn begin_lease(&mut self, name: impl FnOnce() -> Arc<str>) -> Arc<str> {
        let lease = self.lease.get_or_insert_with(|| Lease {
            name: name(),
            beat: 0,
            answered: 0,
            sent: 0,
        });
        lease.name.clone()
    }

    /// Redis has begun the lease, and that is its beat.
    pub(super) fn begun(&mut self, beat: i64) {
        if let Some(lease) = &mut self.lease {
            lease.beat = beat;
            lease.answered = FIRST_BATCH;
            lease.sent = FIRST_BATCH;
        }
    }

    /// What has to be sent now; taken as sent. Nothing without a lease.
    pub(super) fn take_batch(&mut self, limit: BatchLimit) -> Option<Batch> {
        let mut lease = self.lease.take_if(|lease| lease.beat > 0)?;
        let rooms = self.take_due(limit);
        let batch = (!rooms.is_empty()).then(|| {
            let before = lease.clone();
            lease.sent += 1;
            Batch {
                lease: before,
                number: lease.sent,
                rooms,
            }
        });
        self.lease = Some(lease);
        batch
    }

    fn take_due(&mut self, limit: BatchLimit) -> Vec<RoomBatch> {
        let mut rooms: Vec<RoomBatch> = Vec::new();
        let mut places: HashMap<RoomName, usize> = HashMap::new();
        let (mut entries, mut bytes) = (0, 0);
        // From the end: the order among entries does not matter, and nothing is moved.
        while entries < limit.entries && bytes < limit.bytes {
            let Some((name, session)) = self.due.pop() else {
                break;
            };
            let Some(room) = self.rooms.get_mut(&name) else {
                continue;
            };
            let Some(entry) = room.entries.get_mut(&session) else {
                continue;
            };
            entry.due = false;
            if entry.is_right() || entry.under_way {
                self.mark(&name, &session);
                continue;
            }
            entry.under_way = true;
            entries += 1;
            bytes += member_bytes(&entry.member) + name.as_str().len();
            let place = *places.entry(name.clone()).or_insert_with(|| {
                rooms.push(RoomBatch {
                    room: name.clone(),
                    enters: false,
                    serial: 0,
                    come: Vec::new(),
                    go: Vec::new(),
                });
                rooms.len() - 1
            });
            let part = &mut rooms[place];
            part.serial = part.serial.max(entry.last_serial);
            // From now on it may be there, and it may not.
            match entry.held {
                Held::No => self.held += 1,
                Held::Perhaps => {}
                Held::Yes => room.held -= 1,
            }
            entry.held = Held::Perhaps;
            if entry.wanted {
                part.enters = room.held == 0;
                part.come.push(entry.member.clone());
            } else {
                part.go.push(entry.member.clone());
            }
        }
        rooms
    }

    /// Redis has carried out a batch, and that was the lease's beat. Returns the serials that are settled.
    pub(super) fn applied(&mut self, batch: &Batch, beat: i64) -> Vec<u64> {
        if let Some(lease) = &mut self.lease {
            lease.beat = beat;
            lease.answered = batch.number;
        }
        let mut settled = Vec::new();
        self.each_of(batch, |register, room, session, listed| {
            let Some((held_here, entry)) = register.entry(room, session) else {
                return;
            };
            if listed {
                entry.held = Held::Yes;
                *held_here += 1;
            } else {
                entry.held = Held::No;
            }
            settled.extend(entry.settle());
            register.held -= usize::from(!listed);
        });
        settled
    }

    /// It is not known what became of a batch: all of it is sent again.
    pub(super) fn failed(&mut self, batch: &Batch) {
        self.each_of(batch, |_, _, _, _| ());
    }

    /// The room's counter of entries that are held, and one of its entries.
    fn entry(&mut self, room: &RoomName, session: &Arc<str>) -> Option<(&mut usize, &mut Entry)> {
        let room = self.rooms.get_mut(room)?;
        let entry = room.entries.get_mut(session)?;
        Some((&mut room.held, entry))
    }

    /// Ends the way of every entry of a batch, with what became of it.
    fn each_of(&mut self, batch: &Batch, mut ended: impl FnMut(&mut Self, &RoomName, &Arc<str>, bool)) {
        for RoomBatch { room, come, go, .. } in &batch.rooms {
            let come = come.iter().map(|member| (member, true));
            for (member, listed) in come.chain(go.iter().map(|member| (member, false))) {
                let session = &member.session;
                if let Some((_, entry)) = self.entry(room, session) {
                    entry.under_way = false;
                }
                ended(self, room, session, listed);
                self.mark(room, session);
            }
        }
    }

    /// The lease is not what it was. Everything is listed again under another one, and what stood under this one goes
    /// when that is done.
    pub(super) fn lost(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        self.abandoned.push(lease.name);
        self.due.clear();
        for (name, room) in &mut self.rooms {
            room.held = 0;
            for (session, entry) in &mut room.entries {
                entry.under_way = false;
                // Who is not wanted any more may still stand there.
                if entry.held != Held::No {
                    entry.held = Held::Perhaps;
                }
                entry.due = true;
                self.due.push((name.clone(), session.clone()));
            }
        }
    }

    /// The lease has beaten. Whether it is what it was.
    pub(super) fn beaten(&mut self, beat: i64) -> bool {
        match &mut self.lease {
            Some(lease) if beat > lease.beat => lease.beat = beat,
            Some(_) => return false,
            None => {}
        }
        true
    }

    /// The lease, if nothing stands under it any more: then it is dropped.
    pub(super) fn drop_lease(&mut self) -> Option<Lease> {
        if self.held == 0 && self.due.is_empty() {
            self.lease.take()
        } else {
            None
        }
    }

    /// A lease of this node that was lost, once everything that is wanted stands under another one.
    pub(super) fn take_abandoned(&mut self) -> Option<Arc<str>> {
        if self.due.is_empty() {
            self.abandoned.pop()
        } else {
            None
        }
    }

    /// Redis has nobody in this room any more, though nobody of this node has left it.
    pub(super) fn vanished(&mut self, room: &RoomName) {
        let Some(held_room) = self.rooms.get_mut(room) else {
            return;
        };
        held_room.held = 0;
        let sessions: Vec<Arc<str>> = held_room.entries.keys().cloned().collect();
        for entry in held_room
            .entries
            .values_mut()
            .filter(|entry| entry.held == Held::Yes)
        {
            entry.held = Held::Perhaps;
        }
        for session in sessions {
            self.mark(room, &session);
        }
    }

    /// Rooms in which somebody of this node is.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys()
    }

    /// Whether somebody of this node is certainly listed there.
    pub(super) fn is_in(&self, room: &RoomName) -> bool {
        self.rooms.get(room).is_some_and(|room| room.held > 0)
    }
}

impl Entry {
    fn is_right(&self) -> bool {
        self.held == if self.wanted { Held::Yes } else { Held::No }
    }

    /// The serial to report, if what was asked for is so now.
    fn settle(&mut self) -> Option<u64> {
        if self.is_right() { self.serial.take() } else { None }
    }
}

#[cfg(test)]
mod tests;
