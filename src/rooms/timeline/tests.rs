//! The timeline between a link that loses, delays and repeats, and a history that forgets.

mod model;

use super::history::REPLAY_LIMIT;
use super::*;
use crate::broker::RoomMessage;
use crate::broker::history::{Entry, Numbering};
use crate::protocol::{Content, Epoch};
use crate::rooms::EventKind;

const PART: usize = 10_000;

const FILL: usize = 10_000;

fn room() -> RoomName {
    RoomName::new("r").expect("a valid name")
}

fn numbering(name: &str) -> Numbering {
    Numbering::new(Epoch::new(name), "secret")
}

fn message(text: impl Into<String>) -> RoomMessage {
    RoomMessage {
        room: room(),
        content: Content::text(text.into()),
        sender: None,
        session: None,
        time: None,
    }
}

/// The message with this offset, as it arrives on the link.
fn live(numbering: &Numbering, offset: u64) -> Arrival {
    Arrival {
        message: message(format!("{}{offset}", numbering.epoch.as_str())),
        claim: Some(numbering.claim(offset)),
    }
}

fn page(numbering: &Numbering, top: u64, offsets: impl IntoIterator<Item = u64>) -> Page {
    let entry = |offset| Entry {
        offset,
        message: live(numbering, offset).message,
    };
    Page {
        numbering: numbering.clone(),
        top,
        entries: offsets.into_iter().map(entry).collect(),
    }
}

/// `k3` is message 3 of numbering k, `?x` the unnumbered message x, `k3..k6` a gap.
fn told<'a>(events: impl IntoIterator<Item = &'a RoomEvent>) -> Vec<String> {
    let told = |event: &RoomEvent| match &event.kind {
        EventKind::Message(message, Some(_)) => message.content.text.to_string(),
        EventKind::Message(message, None) => format!("?{}", message.content.text),
        EventKind::Gap(_, Some((after, goes_on))) => {
            format!("{after}..{}{}", goes_on.epoch.as_str(), goes_on.offset)
        }
        EventKind::Gap(_, None) => "..".to_owned(),
        EventKind::Presence(..) => unreachable!("a timeline knows nothing of it"),
    };
    events.into_iter().map(told).collect()
}

fn after(offset: u64, epoch: &str) -> Wish {
    Wish {
        replay: Replay {
            after: Some(Position {
                offset,
                epoch: Epoch::new(epoch),
            }),
            last: 0,
        },
        not_before: 0,
        is_lost: false,
    }
}

fn last(count: u64) -> Wish {
    Wish {
        replay: Replay {
            after: None,
            last: count,
        },
        not_before: 0,
        is_lost: false,
    }
}

fn replayed(admission: Option<Admission>) -> (u64, Option<bool>, Vec<String>) {
    let admission = admission.expect("it can be admitted");
    assert_eq!(admission.replay.next, None);
    (
        admission.position.expect("there is history").offset,
        admission.recovered,
        told(admission.replay.events.iter().map(|event| &**event)),
    )
}

/// A timeline whose members have been told everything up to `offset` of numbering `k`.
fn current(offset: u64) -> Timeline {
    let mut timeline = Timeline::new(room(), 1_000, FILL);
    let read = timeline
        .next_read(0, true)
        .expect("it has to ask where the room is");
    assert_eq!((read.known, read.after), (None, None));
    assert!(timeline.read(0, page(&numbering("k"), offset, [])).is_empty());
    assert!(timeline.is_current());
    timeline
}

/// What the next read asks for, and that it asks.
fn reads_after(timeline: &mut Timeline, id: u64) -> u64 {
    timeline
        .next_read(id, true)
        .expect("it has to read")
        .after
        .expect("a page")
}

#[test]
fn messages_in_order_pass_and_repeated_ones_do_not() {
    let (mut timeline, k) = (current(2), numbering("k"));
    assert_eq!(told(&timeline.arrived(live(&k, 3), true)), ["k3"]);
    assert_eq!(timeline.arrived(live(&k, 3), true), None);
    assert_eq!(timeline.arrived(live(&k, 1), true), None);
    assert_eq!(told(&timeline.arrived(live(&k, 4), true)), ["k4"]);
    assert_eq!(timeline.next_read(1, true), None);
}

#[test]
fn what_is_missing_is_read_and_told_before_what_is_newer() {
    let (mut timeline, k) = (current(2), numbering("k"));
    assert_eq!(timeline.arrived(live(&k, 5), true), None);
    assert!(!timeline.is_current());
    assert_eq!(reads_after(&mut timeline, 1), 2);
    assert_eq!(timeline.arrived(live(&k, 6), true), None);
    let events = timeline.read(1, page(&k, 5, 3..=5));
    assert_eq!(told(&events), ["k3", "k4", "k5", "k6"]);
    assert!(timeline.is_current());
}

#[test]
fn a_long_hole_is_read_in_pages() {
    let (mut timeline, k) = (current(0), numbering("k"));
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 1), 0);
    assert_eq!(told(&timeline.read(1, page(&k, 4, 1..=2))), ["k1", "k2"]);
    assert!(!timeline.is_current());
    assert_eq!(reads_after(&mut timeline, 2), 2);
    assert_eq!(told(&timeline.read(2, page(&k, 4, 3..=4))), ["k3", "k4"]);
    assert!(timeline.is_current());
}

#[test]
fn what_is_no_longer_kept_is_announced() {
    let (mut timeline, k) = (current(2), numbering("k"));
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 1), 2);
    assert_eq!(told(&timeline.read(1, page(&k, 9, 8..=9))), ["2..k7", "k8", "k9"]);
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 2), 9);
    assert_eq!(told(&timeline.read(2, page(&k, 12, []))), ["9..k12"]);
    assert!(timeline.is_current());
}

#[test]
fn a_new_numbering_is_announced_and_begins_at_its_beginning() {
    let (mut timeline, l) = (current(7), numbering("l"));
    assert_eq!(timeline.arrived(live(&l, 1), true), None);
    assert_eq!(reads_after(&mut timeline, 1), 7);
    assert_eq!(told(&timeline.read(1, page(&l, 1, [1]))), ["7..l0", "l1"]);
    assert_eq!(told(&timeline.arrived(live(&l, 2), true)), ["l2"]);
}

#[test]
fn a_claim_that_the_numbering_contradicts_is_ignored() {
    let (mut timeline, k) = (current(2), numbering("k"));
    let forged = |offset, epoch: &str, text: &str| Arrival {
        message: message(text),
        claim: Some(Numbering::new(Epoch::new(epoch), "guessed").claim(offset)),
    };
    assert_eq!(told(&timeline.arrived(forged(3, "k", "x"), true)), ["?x"]);
    assert_eq!(told(&timeline.arrived(live(&k, 3), true)), ["k3"]);
    // Another epoch could be a new one, and has to be looked up.
    assert_eq!(timeline.arrived(forged(1, "z", "y"), true), None);
    assert_eq!(reads_after(&mut timeline, 1), 3);
    assert_eq!(timeline.arrived(live(&k, 4), true), None);
    assert_eq!(told(&timeline.read(1, page(&k, 3, []))), ["?y", "k4"]);
    assert!(timeline.is_current());
}

#[test]
fn messages_without_a_place_keep_their_order_with_those_around_them() {
    let (mut timeline, k) = (current(0), numbering("k"));
    assert_eq!(timeline.arrived(live(&k, 2), true), None);
    assert_eq!(timeline.arrived(Arrival::unnumbered(message("x")), true), None);
    assert_eq!(reads_after(&mut timeline, 1), 0);
    assert_eq!(told(&timeline.read(1, page(&k, 2, 1..=2))), ["k1", "k2", "?x"]);
}

#[test]
fn when_too_much_is_held_what_has_a_place_is_read_again() {
    let (mut timeline, k) = (current(0), numbering("k"));
    assert_eq!(timeline.arrived(live(&k, 2), true), None);
    assert_eq!(timeline.arrived(Arrival::unnumbered(message("x")), true), None);
    assert_eq!(reads_after(&mut timeline, 1), 0);
    assert_eq!(timeline.arrived(live(&k, 3), false), None);
    assert_eq!(told(&timeline.read(1, page(&k, 2, 1..=2))), ["k1", "k2"]);
    assert_eq!(reads_after(&mut timeline, 2), 2);
    assert_eq!(told(&timeline.read(2, page(&k, 3, [3]))), ["k3", "?x"]);
    assert_eq!(timeline.held_bytes(), 0);
}

#[test]
fn a_read_of_an_earlier_link_does_not_count() {
    let (mut timeline, k) = (current(0), numbering("k"));
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 1), 0);
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 2), 0);
    assert!(timeline.read(1, page(&k, 1, [1])).is_empty());
    assert_eq!(told(&timeline.read(2, page(&k, 2, 1..=2))), ["k1", "k2"]);
}

#[test]
fn a_read_that_failed_is_sent_again_and_one_that_is_refused_is_a_gap() {
    let (mut timeline, k) = (current(2), numbering("k"));
    assert_eq!(timeline.arrived(live(&k, 5), true), None);
    assert_eq!(reads_after(&mut timeline, 1), 2);
    timeline.read_again(1);
    assert_eq!(reads_after(&mut timeline, 2), 2);
    assert_eq!(told(&timeline.read_refused(2)), ["2..k4", "k5"]);
    assert!(timeline.is_current());
}

#[test]
fn who_was_there_last_needs_no_read_and_who_was_not_gets_what_he_missed() {
    let (mut timeline, k) = (current(5), numbering("k"));
    assert_eq!(
        replayed(timeline.admit(&mut after(5, "k"), PART)),
        (5, Some(true), vec![])
    );
    assert_eq!(timeline.admit(&mut after(3, "k"), PART), None);
    assert_eq!(timeline.admit(&mut after(2, "k"), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 2, "one read for both");
    // The members do not wait for it, and what they are told meanwhile belongs to the replay.
    assert_eq!(told(&timeline.arrived(live(&k, 6), true)), ["k6"]);
    assert!(timeline.read(1, page(&k, 5, 3..=5)).is_empty());
    for (offset, missed) in [(2, vec!["k3", "k4", "k5", "k6"]), (3, vec!["k4", "k5", "k6"])] {
        let missed: Vec<String> = missed.into_iter().map(Into::into).collect();
        assert_eq!(
            replayed(timeline.admit(&mut after(offset, "k"), PART)),
            (6, Some(true), missed)
        );
    }
    // Later ones are served from what was read.
    let _ = timeline.arrived(live(&k, 7), true);
    let (top, recovered, missed) = replayed(timeline.admit(&mut after(5, "k"), PART));
    assert_eq!(
        (top, recovered, missed),
        (7, Some(true), vec!["k6".to_owned(), "k7".to_owned()])
    );
    assert_eq!(timeline.next_read(2, true), None);
}

#[test]
fn what_cannot_be_recovered_is_said_and_the_last_ones_come_if_asked_for() {
    let (mut timeline, k) = (current(9), numbering("k"));
    let both = |offset, count| Wish {
        replay: Replay {
            last: count,
            ..after(offset, "k").replay
        },
        not_before: 0,
        is_lost: false,
    };
    assert_eq!(timeline.admit(&mut both(3, 2), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 3);
    assert!(timeline.read(1, page(&k, 9, 7..=9)).is_empty());
    assert_eq!(
        replayed(timeline.admit(&mut after(3, "k"), PART)),
        (9, Some(false), vec![])
    );
    let expected = (9, Some(false), vec!["k8".to_owned(), "k9".to_owned()]);
    assert_eq!(replayed(timeline.admit(&mut both(3, 2), PART)), expected);
    let all = vec!["k7".to_owned(), "k8".to_owned(), "k9".to_owned()];
    assert_eq!(replayed(timeline.admit(&mut last(50), PART)), (9, None, all));
}

#[test]
fn when_somebody_wants_more_than_was_read_the_next_read_is_as_long_as_it_can_be() {
    let (mut timeline, k) = (current(2_000), numbering("k"));
    assert_eq!(timeline.admit(&mut after(1_990, "k"), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 1_990);
    let _ = timeline.read(1, page(&k, 2_000, 1_991..=2_000));
    assert_eq!(timeline.admit(&mut after(1_980, "k"), PART), None);
    assert_eq!(reads_after(&mut timeline, 2), 2_000 - REPLAY_LIMIT.entries);
    // One that brings less than was wanted is followed by one for just that.
    let _ = timeline.read(2, page(&k, 2_000, 977..=1_100));
    assert_eq!(timeline.admit(&mut after(1_980, "k"), PART), None);
    assert_eq!(reads_after(&mut timeline, 3), 1_980);
    let _ = timeline.read(3, page(&k, 2_000, 1_981..=2_000));
    let (_, recovered, missed) = replayed(timeline.admit(&mut after(1_980, "k"), PART));
    assert_eq!((recovered, missed.len()), (Some(true), 20));
}

#[test]
fn nothing_is_replayed_that_the_broker_does_not_keep() {
    let (mut timeline, k) = (Timeline::new(room(), 3, FILL), numbering("k"));
    let _ = timeline.next_read(0, true);
    let _ = timeline.read(0, page(&k, 4, []));
    assert_eq!(timeline.admit(&mut last(9), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 0);
    let _ = timeline.read(1, page(&k, 4, 2..=4));
    for offset in 5..=6 {
        let _ = timeline.arrived(live(&k, offset), true);
    }
    let kept = vec!["k4".to_owned(), "k5".to_owned(), "k6".to_owned()];
    assert_eq!(replayed(timeline.admit(&mut last(9), PART)), (6, None, kept));
    assert_eq!(
        replayed(timeline.admit(&mut after(2, "k"), PART)),
        (6, Some(false), vec![])
    );
}

#[test]
fn who_knows_more_than_the_node_makes_it_look_again() {
    let (mut timeline, k) = (current(5), numbering("k"));
    let mut wish = Wish {
        not_before: timeline.next_fill(),
        ..after(6, "k")
    };
    assert_eq!(timeline.admit(&mut wish, PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 5);
    assert_eq!(told(&timeline.read(1, page(&k, 6, [6]))), ["k6"]);
    assert_eq!(replayed(timeline.admit(&mut wish, PART)), (6, Some(true), vec![]));
    for mut wish in [after(8, "k"), after(1, "other")] {
        wish.not_before = timeline.next_fill();
        assert_eq!(timeline.admit(&mut wish, PART), None);
        assert_eq!(reads_after(&mut timeline, 2), 6);
        assert!(timeline.read(2, page(&k, 6, [])).is_empty());
        assert_eq!(
            replayed(timeline.admit(&mut wish, PART)),
            (6, Some(false), vec![])
        );
    }
}

#[test]
fn a_long_replay_comes_in_parts_and_says_what_was_lost_on_the_way() {
    let (mut timeline, k) = (current(6), numbering("k"));
    let until = numbering("k").position(6);
    assert_eq!(timeline.admit(&mut after(0, "k"), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 0);
    let _ = timeline.read(1, page(&k, 6, 1..=3));
    let first = timeline.admit(&mut after(0, "k"), 1).expect("admitted").replay;
    assert_eq!(
        (told(first.events.iter().map(|e| &**e)), first.next),
        (vec!["k1".into()], Some(1))
    );
    let second = timeline.part(1, &until, PART).expect("known");
    assert_eq!(second.next, Some(3));
    assert_eq!(timeline.part(3, &until, PART), None);
    assert_eq!(reads_after(&mut timeline, 2), 3);
    let _ = timeline.read(2, page(&k, 6, 6..=6));
    let third = timeline.part(3, &until, PART).expect("known");
    assert_eq!(
        (told(third.events.iter().map(|e| &**e)), third.next),
        (vec!["3..k5".into()], Some(5))
    );
    let fourth = timeline.part(5, &until, PART).expect("known");
    assert_eq!(
        (told(fourth.events.iter().map(|e| &**e)), fourth.next),
        (vec!["k6".into()], None)
    );
}

#[test]
fn without_history_everything_passes_and_nothing_is_recovered() {
    let mut timeline = Timeline::new(room(), 0, FILL);
    assert!(timeline.is_current());
    assert_eq!(told(&timeline.arrived(live(&numbering("k"), 7), true)), ["?k7"]);
    assert_eq!(told(&timeline.missed()), [".."]);
    let admission = timeline.admit(&mut after(3, "k"), PART).expect("admitted");
    assert_eq!((admission.position, admission.recovered), (None, Some(false)));
    let admission = timeline.admit(&mut last(3), PART).expect("admitted");
    assert_eq!(admission, Admission::again(None));
    assert_eq!(timeline.next_read(1, true), None);
}

#[test]
fn a_page_for_somebody_else_announces_no_gap_of_what_is_on_its_way() {
    let (mut timeline, k) = (current(100), numbering("k"));
    assert_eq!(timeline.admit(&mut last(1), PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 99);
    assert!(timeline.read(1, page(&k, 102, [102])).is_empty());
    assert_eq!(told(&timeline.arrived(live(&k, 101), true)), ["k101"]);
    assert_eq!(told(&timeline.arrived(live(&k, 102), true)), ["k102"]);
}

#[test]
fn what_is_held_fills_a_hole_that_the_history_has() {
    let (mut timeline, k) = (current(2), numbering("k"));
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 1), 2);
    for offset in 4..=6 {
        assert_eq!(timeline.arrived(live(&k, offset), true), None);
    }
    let events = timeline.read(1, page(&k, 7, [7]));
    assert_eq!(told(&events), ["2..k3", "k4", "k5", "k6", "k7"]);
    assert!(timeline.is_current());
    assert_eq!(timeline.held_bytes(), 0);
}

#[test]
fn what_is_lost_is_not_asked_for_again_while_the_last_ones_are_read() {
    let (mut timeline, k) = (current(2_000), numbering("k"));
    let mut wish = Wish {
        replay: Replay {
            last: 50,
            ..after(5, "k").replay
        },
        ..Wish::default()
    };
    assert_eq!(timeline.admit(&mut wish, PART), None);
    assert_eq!(reads_after(&mut timeline, 1), 5);
    // A page does not reach from the first that is kept to the last.
    let _ = timeline.read(1, page(&k, 2_000, 1_001..=1_500));
    assert_eq!(timeline.admit(&mut wish, PART), None);
    assert_eq!(reads_after(&mut timeline, 2), 1_950);
    let _ = timeline.read(2, page(&k, 2_000, 1_951..=2_000));
    let (top, recovered, events) = replayed(timeline.admit(&mut wish, PART));
    assert_eq!((top, recovered, events.len()), (2_000, Some(false), 50));
}

#[test]
fn those_who_come_back_are_read_for_while_the_members_have_enough() {
    let (mut timeline, k) = (current(9), numbering("k"));
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 1), 9);
    let _ = timeline.read(1, page(&k, 12, [10]));
    assert_eq!(timeline.part(3, &k.position(9), PART), None);
    let read = timeline.next_read(2, false).expect("for the part");
    assert_eq!(read.after, Some(3));
}

/// Takes the incidents; the numbers of dropped messages and of lost ones by reason.
fn dropped(timeline: &mut Timeline) -> Vec<(Dropped, usize, usize)> {
    let incidents = timeline.take_incidents().into_iter();
    let dropped = incidents.filter_map(|incident| match incident {
        Incident::Dropped { reason, count, lost } => Some((reason, count, lost)),
        _ => None,
    });
    dropped.collect()
}

#[test]
fn fills_and_gaps_are_told_apart_from_what_comes_on_the_link() {
    let (mut timeline, k) = (current(2), numbering("k"));
    let _ = timeline.arrived(live(&k, 3), true);
    assert_eq!(timeline.take_incidents(), []);
    // Message 6 was held, and is not one of those that were read.
    let _ = timeline.arrived(live(&k, 6), true);
    assert_eq!(reads_after(&mut timeline, 1), 3);
    let _ = timeline.read(1, page(&k, 5, 4..=5));
    assert_eq!(timeline.take_incidents(), [Incident::Filled(2)]);
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 2), 6);
    let _ = timeline.read(2, page(&k, 9, 8..=9));
    assert_eq!(
        timeline.take_incidents(),
        [Incident::Gap(GapCause::NotKept), Incident::Filled(2)]
    );
    timeline.link_lost();
    assert_eq!(reads_after(&mut timeline, 3), 9);
    let _ = timeline.read(3, page(&numbering("l"), 1, [1]));
    assert_eq!(
        timeline.take_incidents(),
        [Incident::Gap(GapCause::NewNumbering), Incident::Filled(1)]
    );
    let _ = timeline.arrived(live(&numbering("l"), 3), true);
    assert_eq!(reads_after(&mut timeline, 4), 1);
    let _ = timeline.read_refused(4);
    assert_eq!(timeline.take_incidents(), [Incident::Gap(GapCause::Unreadable)]);
    let elsewhere = Position {
        offset: 9,
        epoch: Epoch::new("k"),
    };
    assert!(timeline.part(1, &elsewhere, PART).is_some());
    assert_eq!(timeline.take_incidents(), [Incident::Gap(GapCause::Replay)]);
}

#[test]
fn a_contradicted_offset_is_an_incident() {
    let (mut timeline, guessed) = (current(2), Numbering::new(Epoch::new("k"), "guessed"));
    let _ = timeline.arrived(live(&guessed, 3), true);
    assert_eq!(timeline.take_incidents(), [Incident::OffsetIgnored]);
    // Another epoch is looked up first.
    let _ = timeline.arrived(live(&numbering("z"), 1), true);
    assert_eq!(reads_after(&mut timeline, 1), 2);
    assert_eq!(timeline.take_incidents(), []);
    let _ = timeline.read(1, page(&numbering("k"), 2, []));
    assert_eq!(timeline.take_incidents(), [Incident::OffsetIgnored]);
}

#[test]
fn what_is_held_and_dropped_is_told_and_what_is_lost_with_it() {
    let (mut timeline, k) = (current(0), numbering("k"));
    let unnumbered = || Arrival::unnumbered(message("x"));
    let _ = timeline.arrived(live(&k, 2), true);
    let _ = timeline.arrived(unnumbered(), true);
    let _ = timeline.arrived(live(&k, 3), true);
    assert_eq!(dropped(&mut timeline), []);
    // No room: the two with a place go, and the one that comes.
    let _ = timeline.arrived(live(&k, 4), false);
    assert_eq!(
        dropped(&mut timeline),
        [(Dropped::HeldFull, 2, 0), (Dropped::HeldFull, 1, 0)]
    );
    let _ = timeline.arrived(unnumbered(), false);
    assert_eq!(dropped(&mut timeline), [(Dropped::HeldFull, 1, 1)]);
    let _ = timeline.arrived(live(&k, 5), true);
    timeline.link_lost();
    assert_eq!(dropped(&mut timeline), [(Dropped::LinkLost, 1, 0)]);
    timeline.link_lost();
    assert_eq!(dropped(&mut timeline), []);
    // What has no place cannot be read again, and waits for what is before it.
    assert!(timeline.held_bytes() > 0);
    assert_eq!(reads_after(&mut timeline, 1), 0);
    let events = timeline.read(1, page(&k, 5, 1..=5));
    assert_eq!(events.len(), 6);
    assert_eq!(timeline.held_bytes(), 0);
}
