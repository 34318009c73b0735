//! Whatever happens to the link and to the history, in any order: what the members are told keeps the rules.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// A history and a link, written without any cleverness.
struct World {
    numbering: Numbering,
    epochs: u32,
    top: u64,
    /// The first offset that is kept.
    kept: u64,
    /// Published and not yet arrived.
    on_the_way: VecDeque<Arrival>,
    /// Arrived over the link that there is.
    arrived: HashSet<(Epoch, u64)>,
    /// Messages past the numbering: those published, and those that arrived.
    directs: u64,
    directs_arrived: Vec<String>,
}

impl World {
    fn arrive(&mut self) -> Option<Arrival> {
        let arrival = self.on_the_way.pop_front()?;
        if arrival.claim.is_none() {
            self.directs_arrived
                .push(arrival.message.content.text.to_string());
        }
        if let Some(claim) = arrival
            .claim
            .as_ref()
            .filter(|claim| self.numbering.vouches(claim))
        {
            self.arrived.insert((claim.epoch.clone(), claim.offset));
        }
        Some(arrival)
    }

    /// Whether this message can neither be read nor has come over the link.
    fn has_lost(&self, epoch: &Epoch, offset: u64) -> bool {
        let is_kept = *epoch == self.numbering.epoch && offset >= self.kept;
        !is_kept && !self.arrived.contains(&(epoch.clone(), offset))
    }

    fn answer(&self, read: &Read, limit: u64) -> Page {
        let same = read
            .known
            .as_ref()
            .is_some_and(|known| known.epoch == self.numbering.epoch);
        let offsets = read.after.map(|after| {
            let first = if same { after + 1 } else { 1 }.max(self.kept);
            first..=self.top.min(first + limit - 1)
        });
        page(&self.numbering, self.top, offsets.into_iter().flatten())
    }
}

#[derive(Clone, Debug)]
enum Event {
    Publish,
    /// The next message arrives.
    Arrive,
    /// The next message is lost with the link, and all that follow it.
    LinkLost,
    /// The next message is lost without a word.
    Lost,
    /// Messages are dropped between the link and here.
    Missed,
    /// The oldest messages are forgotten.
    Trim(u64),
    /// The history is lost.
    Renumber,
    /// A read is begun, or the one under way is answered with pages of this length.
    Read(u64),
    ReadFails,
    Forge(u8),
    /// Somebody publishes past the numbering.
    Direct,
    /// Somebody who was told everything until some messages ago comes back.
    Recover(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Publish),
        6 => Just(Event::Arrive),
        1 => Just(Event::LinkLost),
        1 => Just(Event::Lost),
        1 => Just(Event::Missed),
        1 => (0..4_u64).prop_map(Event::Trim),
        1 => Just(Event::Renumber),
        8 => (1..4_u64).prop_map(Event::Read),
        1 => Just(Event::ReadFails),
        1 => (0..4_u8).prop_map(Event::Forge),
        2 => Just(Event::Direct),
        2 => (0..6_u64).prop_map(Event::Recover),
    ]
}

/// One who is told, and keeps the rules: offsets without holes, except where a gap was announced.
#[derive(Debug)]
struct Subscriber {
    epoch: Epoch,
    offset: u64,
    directs: Vec<String>,
}

impl Subscriber {
    fn hear<'a>(
        &mut self,
        world: &World,
        events: impl IntoIterator<Item = &'a RoomEvent>,
    ) -> Result<(), TestCaseError> {
        for event in events {
            match &event.kind {
                EventKind::Message(message, Some(offset)) => {
                    prop_assert_eq!(*offset, self.offset + 1, "{:?}", message);
                    let text = format!("{}{offset}", self.epoch.as_str());
                    prop_assert_eq!(
                        &*message.content.text,
                        text.as_str(),
                        "another message has this place"
                    );
                    self.offset = *offset;
                }
                EventKind::Message(message, None) => {
                    if message.content.text.starts_with("direct") {
                        self.directs.push(message.content.text.to_string());
                        continue;
                    }
                    let is_forged = message.content.text.starts_with("forged");
                    let is_old = !message.content.text.starts_with(self.epoch.as_str());
                    prop_assert!(is_forged || is_old, "a message has lost its place: {:?}", message);
                }
                EventKind::Gap(_, Some((after, goes_on))) => {
                    prop_assert_eq!(*after, self.offset);
                    prop_assert!(goes_on.epoch != self.epoch || goes_on.offset > self.offset);
                    let is_same = goes_on.epoch == self.epoch;
                    for offset in (after + 1..=goes_on.offset).filter(|_| is_same) {
                        prop_assert!(world.has_lost(&self.epoch, offset), "{} could be had", offset);
                    }
                    self.epoch = goes_on.epoch.clone();
                    self.offset = goes_on.offset;
                }
                EventKind::Gap(_, None) | EventKind::Presence(..) => prop_assert!(false, "there is history"),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_doubled_or_out_of_order(events in proptest::collection::vec(event(), 1..120)) {
        let mut world = World {
            numbering: numbering("e0-"),
            epochs: 0,
            top: 3,
            kept: 1,
            on_the_way: VecDeque::new(),
            arrived: HashSet::new(),
            directs: 0,
            directs_arrived: Vec::new(),
        };
        let mut timeline = Timeline::new(room(), 1_000, FILL);
        let read = timeline.next_read(0, true).expect("asks");
        let _ = timeline.read(0, world.answer(&read, 1));
        let start = timeline.position().expect("known");
        let mut member = Subscriber { epoch: start.epoch, offset: start.offset, directs: Vec::new() };
        let (mut under_way, mut next_id): (Option<(u64, Read)>, u64) = (None, 1);
        for event in events {
            match event {
                Event::Publish => {
                    world.top += 1;
                    world.on_the_way.push_back(live(&world.numbering, world.top));
                }
                Event::Arrive => {
                    if let Some(arrival) = world.arrive() {
                        member.hear(&world, &timeline.arrived(arrival, true))?;
                    }
                }
                Event::LinkLost => {
                    world.on_the_way.clear();
                    world.arrived.clear();
                    under_way = None;
                    timeline.link_lost();
                }
                Event::Lost => {
                    world.on_the_way.pop_front();
                }
                Event::Missed => {
                    world.on_the_way.clear();
                    prop_assert_eq!(timeline.missed(), None);
                }
                Event::Trim(count) => world.kept = (world.kept + count).min(world.top + 1),
                Event::Renumber => {
                    world.epochs += 1;
                    world.numbering = numbering(&format!("e{}-", world.epochs));
                    (world.top, world.kept) = (0, 1);
                }
                Event::Read(limit) => match under_way.take() {
                    None => {
                        under_way = timeline.next_read(next_id, true).map(|read| (next_id, read));
                        next_id += 1;
                    }
                    Some((id, read)) => member.hear(&world, &timeline.read(id, world.answer(&read, limit)))?,
                },
                Event::ReadFails => {
                    if let Some((id, _)) = under_way.take() {
                        timeline.read_again(id);
                    }
                }
                Event::Forge(offset) => {
                    let claim = Numbering::new(world.numbering.epoch.clone(), "guessed")
                        .claim(world.top + u64::from(offset));
                    let message = message("forged");
                    world.on_the_way.push_back(Arrival { message, claim: Some(claim) });
                }
                Event::Direct => {
                    world.directs += 1;
                    let message = RoomMessage {
                        content: Content::text(format!("direct {}", world.directs)),
                        ..message("")
                    };
                    world.on_the_way.push_back(Arrival::unnumbered(message));
                }
                Event::Recover(ago) => {
                    let offset = member.offset.saturating_sub(ago);
                    let mut wish = after(offset, member.epoch.as_str());
                    if let Some(admission) = timeline.admit(&mut wish, PART) {
                        let position = admission.position.expect("there is history");
                        prop_assert_eq!(position.offset, member.offset, "he begins where the members are");
                        if admission.recovered == Some(true) && admission.replay.next.is_none() {
                            let mut back = Subscriber { epoch: member.epoch.clone(), offset, directs: Vec::new() };
                            back.hear(&world, admission.replay.events.iter().map(|event| &**event))?;
                            prop_assert_eq!(back.offset, position.offset);
                        }
                    }
                }
            }
            prop_assert_eq!(timeline.position(), Some(Position { epoch: member.epoch.clone(), offset: member.offset }));
        }
        // At rest: everything arrives, and every read is answered.
        if let Some((id, read)) = under_way {
            member.hear(&world, &timeline.read(id, world.answer(&read, 2)))?;
        }
        while let Some(arrival) = world.arrive() {
            member.hear(&world, &timeline.arrived(arrival, true))?;
        }
        let _ = timeline.missed();
        for id in next_id..next_id + 1_000 {
            let Some(read) = timeline.next_read(id, true) else { break };
            member.hear(&world, &timeline.read(id, world.answer(&read, 2)))?;
        }
        prop_assert!(timeline.is_current());
        prop_assert_eq!(member.offset, world.top);
        prop_assert_eq!(&member.epoch, &world.numbering.epoch);
        prop_assert_eq!(&member.directs, &world.directs_arrived);
        prop_assert_eq!(timeline.held_bytes(), 0);
    }
}
