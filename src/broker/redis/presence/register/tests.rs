//! The register against a model of what the scripts do on Redis.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn room(number: u8) -> RoomName {
    RoomName::new(&format!("room {number}")).expect("a valid name")
}

fn member(number: u8) -> Member {
    Member {
        session: number.to_string().into(),
        user: None,
    }
}

fn change(place: u8, session: u8, listed: bool, serial: u64) -> Change {
    Change {
        room: room(place),
        member: member(session),
        listed,
        serial,
    }
}

const LIMIT: BatchLimit = BatchLimit {
    entries: 3,
    bytes: 10_000,
};

/// Room and session.
type Place = (RoomName, Arc<str>);

/// What Redis has.
#[derive(Clone, Debug, Default)]
struct Redis {
    leases: BTreeMap<Arc<str>, i64>,
    /// By lease: the last batch, and what stands under it.
    held: BTreeMap<Arc<str>, (u64, BTreeSet<Place>)>,
    rooms: BTreeMap<Place, Arc<str>>,
}

impl Redis {
    fn beat(&mut self, lease: &Arc<str>) -> i64 {
        let beat = self.leases.entry(lease.clone()).or_default();
        *beat += 1;
        *beat
    }

    /// `presence_apply.lua`.
    fn apply(&mut self, batch: &Batch) -> Option<i64> {
        let lease = &batch.lease.name;
        let beat = self.beat(lease);
        if beat <= batch.lease.beat {
            self.leases.remove(lease);
            return None;
        }
        let (last, held) = self.held.get_mut(lease)?;
        if *last < batch.lease.answered || *last >= batch.number {
            return None;
        }
        *last = batch.number;
        for part in &batch.rooms {
            for go in &part.go {
                let entry = (part.room.clone(), go.session.clone());
                held.remove(&entry);
                self.rooms.remove(&entry);
            }
            for come in &part.come {
                let entry = (part.room.clone(), come.session.clone());
                held.insert(entry.clone());
                self.rooms.insert(entry, lease.clone());
            }
        }
        Some(beat)
    }

    /// `presence_reap.lua`.
    fn reap(&mut self, lease: &Arc<str>) {
        self.leases.remove(lease);
        let (_, held) = self.held.remove(lease).unwrap_or_default();
        for entry in held {
            if self.rooms.get(&entry) == Some(lease) {
                self.rooms.remove(&entry);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Change(u8, u8, bool),
    /// A batch that is answered; that is carried out, and its answer is lost; that is given up, and comes late or never.
    Answered,
    AnswerLost,
    Unanswered,
    /// The nth of those that were given up comes.
    Late(usize),
    Look,
    /// Redis comes back with what it had when it was last copied.
    Copy,
    Older,
    Nothing,
    /// Another node takes this one for dead.
    Reaped,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..3_u8, 0..4_u8, any::<bool>()).prop_map(|(room, session, listed)| Event::Change(room, session, listed)),
        8 => Just(Event::Answered),
        2 => Just(Event::AnswerLost),
        2 => Just(Event::Unanswered),
        2 => any::<usize>().prop_map(Event::Late),
        2 => Just(Event::Look),
        1 => Just(Event::Copy),
        1 => Just(Event::Older),
        1 => Just(Event::Nothing),
        1 => Just(Event::Reaped),
    ]
}

/// The register and Redis, with what was asked for and what was reported.
#[derive(Default)]
struct Scene {
    register: Register,
    redis: Redis,
    copy: Redis,
    late: Vec<Batch>,
    leases: u32,
    serial: u64,
    wanted: BTreeMap<Place, (bool, u64)>,
    settled: BTreeSet<u64>,
}

impl Scene {
    fn take(&mut self) -> Option<Batch> {
        if self.register.needs_lease() {
            let leases = &mut self.leases;
            let lease = self.register.begin_lease(|| {
                *leases += 1;
                format!("lease{leases}").into()
            });
            self.redis.held.entry(lease.clone()).or_default().0 = FIRST_BATCH;
            self.register.begun(self.redis.beat(&lease));
        }
        self.register.take_batch(LIMIT)
    }

    fn answered(&mut self, batch: &Batch) {
        match self.redis.apply(batch) {
            Some(beat) => self.settled.extend(self.register.applied(batch, beat)),
            None => self.register.lost(),
        }
    }

    fn look(&mut self) {
        if let Some(lease) = self.register.lease().cloned() {
            let beat = self.redis.beat(&lease.name);
            if !self.register.beaten(beat) {
                self.register.lost();
            } else if self.register.drop_lease().is_some() {
                self.redis.leases.remove(&lease.name);
                self.redis.held.remove(&lease.name);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Change(place, session, listed) => {
                self.serial += 1;
                let entry = (room(place), member(session).session);
                self.wanted.insert(entry, (listed, self.serial));
                let change = change(place, session, listed, self.serial);
                self.settled.extend(self.register.change(change));
            }
            Event::Answered => {
                if let Some(batch) = self.take() {
                    self.answered(&batch);
                }
            }
            Event::AnswerLost => {
                if let Some(batch) = self.take() {
                    self.redis.apply(&batch);
                    self.register.failed(&batch);
                }
            }
            Event::Unanswered => {
                if let Some(batch) = self.take() {
                    self.register.failed(&batch);
                    self.late.push(batch);
                }
            }
            Event::Late(nth) if !self.late.is_empty() => {
                let batch = self.late.swap_remove(nth % self.late.len());
                self.redis.apply(&batch);
            }
            Event::Late(_) => {}
            Event::Look => self.look(),
            Event::Copy => self.copy = self.redis.clone(),
            Event::Older | Event::Nothing => {
                // With the process its connections end, and what was on its way on them.
                self.late.clear();
                if matches!(event, Event::Nothing) {
                    self.copy = Redis::default();
                }
                self.redis = self.copy.clone();
            }
            Event::Reaped => {
                if let Some(lease) = self.register.lease().cloned() {
                    self.redis.reap(&lease.name);
                }
            }
        }
    }

    fn rest(&mut self) {
        self.late.clear();
        self.look();
        for _ in 0..100 {
            while let Some(batch) = self.take() {
                self.answered(&batch);
            }
            let Some(lease) = self.register.take_abandoned() else {
                break;
            };
            self.redis.reap(&lease);
        }
        // Leases of older data, and those that were dropped without an answer, are found by everybody's looks.
        let own = self.register.lease().map(|lease| lease.name.clone());
        let others: Vec<Arc<str>> = self
            .redis
            .leases
            .keys()
            .chain(self.redis.held.keys())
            .cloned()
            .collect();
        for lease in others.into_iter().filter(|lease| Some(lease) != own.as_ref()) {
            self.redis.reap(&lease);
        }
    }

    fn check(&self) {
        let listed: BTreeSet<_> = self.redis.rooms.keys().cloned().collect();
        let wanted = self.wanted.iter().filter(|(_, (listed, _))| *listed);
        let wanted: BTreeSet<_> = wanted.map(|(entry, _)| entry.clone()).collect();
        assert_eq!(listed, wanted);
        for (_, serial) in self.wanted.values() {
            assert!(self.settled.contains(serial), "{serial} was never reported");
        }
        assert_eq!(self.register.len(), wanted.len());
        let own = self.register.lease().map(|lease| lease.name.clone());
        let owners: BTreeSet<_> = self.redis.rooms.values().cloned().collect();
        assert!(owners.iter().all(|owner| Some(owner) == own.as_ref()));
        let held = own.and_then(|own| self.redis.held.get(&own));
        assert_eq!(held.map_or(0, |(_, held)| held.len()), wanted.len());
        let entries: usize = self.register.rooms.values().map(|room| room.entries.len()).sum();
        assert_eq!(entries, wanted.len());
        assert!(
            self.register
                .rooms
                .values()
                .all(|room| room.held == room.entries.len())
        );
    }
}

#[test]
fn who_comes_and_goes_before_anything_is_sent_costs_nothing() {
    let mut scene = Scene::default();
    scene.happen(Event::Change(0, 0, true));
    scene.happen(Event::Change(0, 0, false));
    assert!(scene.settled.contains(&2));
    assert_eq!(scene.take(), None);
    assert!(scene.register.rooms.is_empty() && scene.register.lease().is_none());
}

#[test]
fn a_room_is_entered_once_and_the_lease_is_dropped_after_the_last_one() {
    let mut scene = Scene::default();
    let mut enters = Vec::new();
    for (session, listed) in [(0, true), (1, true), (0, false), (1, false)] {
        scene.happen(Event::Change(0, session, listed));
        let batch = scene.take().expect("something to send");
        enters.push(batch.rooms[0].enters);
        scene.answered(&batch);
    }
    assert_eq!(enters, [true, false, false, false]);
    assert!(scene.register.lease().is_some());
    scene.look();
    assert!(scene.register.lease().is_none());
    assert_eq!(scene.leases, 1);
}

#[test]
fn a_batch_that_comes_late_is_refused() {
    let mut scene = Scene::default();
    scene.happen(Event::Change(0, 0, true));
    scene.happen(Event::Answered);
    scene.happen(Event::Change(0, 1, true));
    scene.happen(Event::Unanswered);
    scene.happen(Event::Change(0, 1, false));
    scene.happen(Event::Answered);
    scene.happen(Event::Late(0));
    assert_eq!(scene.redis.rooms.len(), 1);
    scene.rest();
    scene.check();
    assert_eq!(scene.leases, 1, "the lease was kept");
}

#[test]
fn a_room_that_has_vanished_is_filled_again() {
    let mut scene = Scene::default();
    scene.happen(Event::Change(0, 0, true));
    scene.happen(Event::Answered);
    scene.redis.rooms.clear();
    assert!(scene.register.is_in(&room(0)));
    scene.register.vanished(&room(0));
    scene.rest();
    scene.check();
}

proptest! {
    #[test]
    fn whatever_is_lost_or_late_redis_ends_with_exactly_what_is_wanted(
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut scene = Scene::default();
        for event in events {
            scene.happen(event);
        }
        scene.rest();
        scene.check();
    }
}
