//! The roster of one node against a broker whose events and reads are on their way for as long as they like.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn room() -> RoomName {
    RoomName::new("r").expect("a valid name")
}

fn member(number: u8) -> Member {
    Member {
        session: number.to_string().into(),
        user: Some("ann".into()),
    }
}

fn session(number: u64) -> SessionId {
    SessionId::new(WorkerId(0), number)
}

fn joined(number: u8) -> Present {
    Present {
        joined: vec![member(number)],
        left: vec![],
    }
}

fn left(number: u8) -> Present {
    Present {
        joined: vec![],
        left: vec![member(number)],
    }
}

/// A node with session 0 listed, and a roster with these members beside it. The serial of the roster.
fn listed(now: Instant, others: &[u8]) -> (Presence, u64) {
    let mut presence = Presence::default();
    presence.enter(session(0), &room(), member(0), None, true);
    let orders = presence.take_orders();
    let [Order::Change(Change { serial, .. })] = orders[..] else {
        panic!("{orders:?}");
    };
    assert!(!presence.is_listed(session(0), &room()));
    let mut members: Vec<Member> = others.iter().copied().map(member).collect();
    members.push(member(0));
    let news = presence.roster(&room(), serial, members, now);
    assert!(news.is_empty(), "who was there is not announced: {news:?}");
    assert!(presence.settled(serial).is_some());
    assert!(presence.is_listed(session(0), &room()));
    (presence, serial)
}

#[test]
fn each_coming_and_each_going_is_told_once() {
    let now = Instant::now();
    let (mut presence, _) = listed(now, &[1]);
    assert!(presence.changed(&room(), joined(1), now).is_empty());
    assert_eq!(presence.changed(&room(), joined(2), now).joined, [member(2)]);
    assert!(presence.changed(&room(), joined(2), now).is_empty());
    assert_eq!(presence.changed(&room(), left(2), now).left, [member(2)]);
    assert!(presence.changed(&room(), left(2), now).is_empty());
}

#[test]
fn who_is_missing_is_told_to_have_left_only_when_it_is_missing_still() {
    let now = Instant::now();
    let (mut presence, serial) = listed(now, &[1, 2, 3]);
    let read = |presence: &mut Presence, others: &[u8], at| {
        let members = others.iter().copied().map(member).collect();
        presence.roster(&room(), serial + 1, members, at)
    };
    assert_eq!(read(&mut presence, &[0, 4], now).joined, [member(4)]);
    // One is listed again, one leaves meanwhile, and one does not come back.
    assert!(presence.changed(&room(), joined(1), now + SECOND).is_empty());
    assert_eq!(presence.changed(&room(), left(2), now + SECOND).left, [member(2)]);
    presence.read_again(now + DOUBT - SECOND, |_| true);
    assert!(presence.take_orders().is_empty());
    presence.read_again(now + DOUBT, |_| true);
    assert_eq!(presence.take_orders().len(), 1);
    let news = read(&mut presence, &[0, 1, 4], now + DOUBT);
    assert_eq!((news.joined, news.left), (vec![], vec![member(3)]));
}

#[test]
fn what_was_read_before_somebody_left_does_not_bring_him_back() {
    let now = Instant::now();
    let (mut presence, serial) = listed(now, &[1]);
    assert_eq!(presence.changed(&room(), left(1), now).left, [member(1)]);
    let members = vec![member(0), member(1)];
    assert!(presence.roster(&room(), serial, members, now).is_empty());
}

#[test]
fn a_roster_that_is_older_than_the_subscription_is_none() {
    let now = Instant::now();
    let mut presence = Presence::default();
    presence.enter(session(0), &room(), member(0), None, true);
    let serial = presence.last_serial;
    assert!(presence.withdraw(session(0), &room()).emptied);
    presence.enter(session(1), &room(), member(1), None, true);
    assert!(presence.roster(&room(), serial, vec![member(7)], now).is_empty());
    assert!(!presence.rooms[&room()].roster.is_known());
    let asked = presence.take_orders();
    assert!(matches!(asked.last(), Some(Order::Roster { serial: newer, .. }) if *newer > serial));
}

#[test]
fn a_change_is_sent_when_the_channel_is_live_and_once() {
    let mut presence = Presence::default();
    presence.enter(session(0), &room(), member(0), None, false);
    assert!(!presence.has_orders());
    presence.opened(&room());
    assert!(matches!(presence.take_orders()[..], [Order::Change(_)]));
    // After the next loss the roster is asked for.
    presence.opened(&room());
    assert!(matches!(presence.take_orders()[..], [Order::Roster { .. }]));
}

#[test]
fn one_who_never_was_sent_leaves_without_a_word() {
    let mut presence = Presence::default();
    presence.enter(session(0), &room(), member(0), None, false);
    assert!(presence.withdraw(session(0), &room()).emptied);
    assert!(!presence.has_orders());
    assert!(presence.rooms.is_empty() && presence.sessions.is_empty());
}

#[test]
fn a_member_whose_listing_changes_is_answered_when_it_is_so() {
    let now = Instant::now();
    let (mut presence, _) = listed(now, &[]);
    presence.enter(session(1), &room(), member(1), Some(77), true);
    assert!(presence.take_toggled(&room()).is_empty());
    let serial = presence.last_serial;
    let settled = presence.settled(serial).expect("awaited");
    assert_eq!(settled.ticket, None);
    assert_eq!(presence.take_toggled(&room()), [(session(1), 77)]);
    assert!(presence.take_toggled(&room()).is_empty());

    let _ = presence.exit(session(1), &room(), member(1), 78);
    let serial = presence.last_serial;
    assert_eq!(presence.settled(serial).expect("awaited").ticket, Some(78));
    // One that is given up is not answered later.
    let _ = presence.exit(session(1), &room(), member(1), 79);
    assert!(presence.give_up(session(1), &room(), 79).is_some());
    assert_eq!(presence.settled(presence.last_serial), None);
}

#[test]
fn who_is_put_out_while_it_waits_not_to_be_listed_gets_its_ticket_back_and_no_confirmation() {
    let (mut presence, _) = listed(Instant::now(), &[1]);
    let _ = presence.exit(session(0), &room(), member(0), 80);
    let orders = presence.take_orders();
    let [Order::Change(Change { serial: last, .. })] = orders[orders.len() - 1..] else {
        panic!("{orders:?}");
    };
    assert_eq!(presence.withdraw(session(0), &room()).ticket, Some(80));
    assert_eq!(presence.settled(last), None);
    assert!(presence.exits.is_empty());
}

#[test]
fn a_list_does_not_contradict_what_was_told_since_it_was_asked_for() {
    let now = Instant::now();
    let (mut presence, _) = listed(now, &[1, 2]);
    let _ = presence.changed(&room(), left(1), now + SECOND);
    let _ = presence.changed(&room(), joined(3), now + SECOND);
    let list = || MemberList::new(3, [0, 1, 2].map(member).to_vec());
    let mut corrected = presence.corrected(&room(), list(), now);
    corrected.members.sort();
    assert_eq!(corrected, MemberList::new(3, [0, 2, 3].map(member).to_vec()));
    // Asked for after that, it is right where it says more; who is missing in it was not told to have left.
    let mut later = presence.corrected(&room(), list(), now + 2 * SECOND);
    later.members.sort();
    assert_eq!(later, MemberList::new(4, [0, 1, 2, 3].map(member).to_vec()));
    assert!(matches!(
        presence.take_orders().last(),
        Some(Order::Roster { .. })
    ));
}

#[derive(Clone, Debug)]
enum Event {
    /// Somebody comes or goes.
    Toggle(u8),
    /// The next event of the channel arrives.
    Deliver,
    /// What is asked for is read.
    Read,
    /// The oldest that was read arrives.
    Answer,
    LinkLost,
    /// Nobody is listed for a moment: Redis has lost its data.
    DataLost,
    Wait(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (1..5_u8).prop_map(Event::Toggle),
        10 => Just(Event::Deliver),
        5 => Just(Event::Read),
        5 => Just(Event::Answer),
        1 => Just(Event::LinkLost),
        1 => Just(Event::DataLost),
        3 => (0..60_u8).prop_map(Event::Wait),
    ]
}

struct Scene {
    presence: Presence,
    now: Instant,
    /// Who is listed.
    truth: BTreeSet<u8>,
    channel: VecDeque<Present>,
    reads: VecDeque<(u64, Vec<Member>)>,
    /// Who is there by what was told.
    told: BTreeSet<Member>,
}

impl Scene {
    fn tell(&mut self, news: News) {
        for member in news.left {
            assert!(self.told.remove(&member), "{member:?} was not there");
        }
        for member in news.joined {
            assert!(self.told.insert(member.clone()), "{member:?} was there");
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Toggle(number) => {
                if self.truth.remove(number) {
                    self.channel.push_back(left(*number));
                } else {
                    self.truth.insert(*number);
                    self.channel.push_back(joined(*number));
                }
            }
            Event::Deliver => {
                if let Some(present) = self.channel.pop_front() {
                    let news = self.presence.changed(&room(), present, self.now);
                    self.tell(news);
                }
            }
            Event::Read => {
                for order in self.presence.take_orders() {
                    if let Order::Roster { serial, .. } = order {
                        self.reads
                            .push_back((serial, self.truth.iter().copied().map(member).collect()));
                    }
                }
            }
            Event::Answer => {
                if let Some((serial, members)) = self.reads.pop_front() {
                    let news = self.presence.roster(&room(), serial, members, self.now);
                    self.tell(news);
                }
            }
            Event::LinkLost => {
                self.channel.clear();
                self.presence.opened(&room());
            }
            Event::DataLost => {
                self.channel.clear();
                let all = std::mem::take(&mut self.truth);
                self.presence.opened(&room());
                self.happen(&Event::Read);
                for number in all {
                    self.happen(&Event::Toggle(number));
                }
            }
            Event::Wait(tenths) => {
                // A read is answered within moments, or never.
                while !self.reads.is_empty() {
                    self.happen(&Event::Answer);
                }
                self.now += SECOND * u32::from(*tenths) / 10;
                self.presence.read_again(self.now, |_| true);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_told_adds_up_to_who_is_there(events in prop::collection::vec(event(), 0..120)) {
        let now = Instant::now();
        let (presence, _) = listed(now, &[1, 2]);
        let mut scene = Scene {
            presence,
            now,
            truth: BTreeSet::from([0, 1, 2]),
            channel: VecDeque::new(),
            reads: VecDeque::new(),
            told: [0, 1, 2].map(member).into(),
        };
        for event in &events {
            scene.happen(event);
        }
        // At rest everything arrives; the last doubts take two reads at most after the last events are old.
        for _ in 0..5 {
            for event in [Event::Read, Event::Answer, Event::Deliver, Event::Wait(51)] {
                while matches!(event, Event::Answer) && !scene.reads.is_empty()
                    || matches!(event, Event::Deliver) && !scene.channel.is_empty()
                {
                    scene.happen(&event);
                }
                scene.happen(&event);
            }
        }
        let truth: BTreeSet<Member> = scene.truth.iter().copied().map(member).collect();
        prop_assert_eq!(&scene.told, &truth);
        prop_assert!(scene.presence.rooms[&room()].roster.doubtful_count() == 0);
    }
}
