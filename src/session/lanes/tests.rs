//! When commands begin, and in which order they are answered.

use proptest::prelude::*;

use super::*;
use crate::protocol::error::ErrorCode;
use crate::rooms::timeline::Admission;

fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a valid name")
}

fn id(number: i64) -> Option<RequestId> {
    Some(RequestId::Number(number))
}

/// One moment for all commands of a test.
fn now() -> Instant {
    static NOW: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *NOW
}

fn publish() -> Work {
    Work::Publish(Content::text("x"), None)
}

fn join() -> Work {
    Work::Join(Replay::default(), None)
}

fn subscribed() -> Reply {
    Reply::Subscribed(1, Box::new(Admission::again(None)))
}

fn sent() -> Reply {
    Reply::Sent(None)
}

/// Replies among steps, by id.
fn replies(steps: &[Step]) -> Vec<(i64, Reply)> {
    let reply = |step: &Step| match step {
        Step::Reply {
            id: Some(RequestId::Number(id)),
            reply,
            ..
        } => Some((*id, reply.clone())),
        _ => None,
    };
    steps.iter().filter_map(reply).collect()
}

/// Tickets of the commands that steps begin.
fn begun(steps: &[Step]) -> Vec<Ticket> {
    let begun = |step: &Step| match step {
        Step::Join { ticket, .. }
        | Step::Leave { ticket, .. }
        | Step::Publish { ticket, .. }
        | Step::Members { ticket, .. } => Some(*ticket),
        _ => None,
    };
    steps.iter().filter_map(begun).collect()
}

#[test]
fn a_publish_waits_for_the_subscription_before_it() {
    let (mut lanes, r) = (Lanes::default(), room("r"));
    let (steps, _) = lanes.push(&r, id(1), join(), now());
    assert_eq!(
        steps,
        [Step::Join {
            ticket: 1,
            room: r.clone(),
            replay: Replay::default(),
            presence: None,
        }]
    );
    let (steps, _) = lanes.push(&r, id(2), publish(), now());
    assert_eq!(
        steps,
        [Step::Hurry {
            ticket: 1,
            room: r.clone(),
            since: now(),
        }]
    );
    let steps = lanes.answer(1, subscribed());
    assert_eq!(
        (replies(&steps), begun(&steps)),
        (vec![(1, subscribed())], vec![2])
    );
    assert_eq!(replies(&lanes.answer(2, sent())), [(2, sent())]);
    assert!(lanes.lanes.is_empty() && lanes.under_way.is_empty());
}

#[test]
fn publishes_follow_each_other_and_are_answered_in_order() {
    let (mut lanes, r) = (Lanes::default(), room("r"));
    for number in 1..=3 {
        assert_eq!(begun(&lanes.push(&r, id(number), publish(), now()).0).len(), 1);
    }
    assert!(lanes.answer(2, sent()).is_empty());
    assert_eq!(replies(&lanes.answer(1, sent())), [(1, sent()), (2, sent())]);
}

#[test]
fn an_unsubscribe_cancels_a_subscribe_under_way() {
    let (mut lanes, r) = (Lanes::default(), room("r"));
    let _ = lanes.push(&r, id(1), join(), now());
    let (steps, _) = lanes.push(&r, id(2), Work::Leave, now());
    assert_eq!(
        steps,
        [Step::Cancel {
            ticket: 1,
            room: r.clone()
        }]
    );
    let cancelled = Reply::Error(Refusal {
        code: ErrorCode::Cancelled,
        message: String::new(),
        outcome: None,
    });
    let steps = lanes.answer(1, cancelled.clone());
    assert_eq!((replies(&steps), begun(&steps)), (vec![(1, cancelled)], vec![2]));
}

#[test]
fn rooms_do_not_wait_for_each_other() {
    let mut lanes = Lanes::default();
    let _ = lanes.push(&room("a"), id(1), join(), now());
    assert_eq!(begun(&lanes.push(&room("b"), id(2), publish(), now()).0), [2]);
    assert_eq!(replies(&lanes.answer(2, sent())), [(2, sent())]);
}

#[test]
fn a_wrong_command_is_answered_in_its_place() {
    let (mut lanes, r) = (Lanes::default(), room("r"));
    let refusal = Refusal {
        code: ErrorCode::MessageTooLarge,
        message: "no".into(),
        outcome: None,
    };
    let _ = lanes.push(&r, id(1), publish(), now());
    assert!(replies(&lanes.push(&r, id(2), Work::Refuse(refusal.clone()), now()).0).is_empty());
    let steps = lanes.answer(1, sent());
    assert_eq!(replies(&steps), [(1, sent()), (2, Reply::Error(refusal))]);
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        Just(join()),
        Just(Work::Leave),
        Just(publish()),
        Just(Work::Members),
        Just(Work::Refuse(Refusal {
            code: ErrorCode::BadCommand,
            message: String::new(),
            outcome: None
        })),
    ]
}

#[derive(Debug, Clone)]
enum Event {
    Push(u8, Work),
    /// Answers the nth command that is under way.
    Answer(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..2_u8, work()).prop_map(|(room, work)| Event::Push(room, work)),
        any::<usize>().prop_map(Event::Answer),
    ]
}

#[test]
fn in_a_long_lane_what_cancels_out_is_not_begun() {
    let (mut lanes, r) = (Lanes::default(), room("r"));
    let push = |lanes: &mut Lanes, number, work| lanes.push(&r, id(number), work, now()).0;
    let under_way = begun(&push(&mut lanes, 0, join()))[0];
    for number in 0..50 {
        push(&mut lanes, 2 * number + 1, Work::Leave);
        push(&mut lanes, 2 * number + 2, join());
    }
    push(&mut lanes, 101, Work::Leave);
    let (mut steps, mut joins, mut replies) = (lanes.answer(under_way, sent()), 1, Vec::new());
    while !steps.is_empty() {
        joins += steps
            .iter()
            .filter(|step| matches!(step, Step::Join { .. }))
            .count();
        let next = begun(&steps);
        replies.extend(steps);
        steps = next
            .into_iter()
            .flat_map(|ticket| lanes.answer(ticket, sent()))
            .collect();
    }
    let ids = replies.iter().filter_map(|step| match step {
        Step::Reply {
            id: Some(RequestId::Number(id)),
            ..
        } => Some(*id),
        _ => None,
    });
    assert!(ids.eq(0..=101), "each command is answered, in order");
    assert!(joins <= LONG_LANE / 2, "{joins} joins were begun");
    let cancelled = |step: &&Step| matches!(step, Step::Reply { reply: Reply::Error(refusal), .. } if refusal.code == ErrorCode::Cancelled);
    assert_eq!(replies.iter().filter(cancelled).count(), 51 - joins);
}

proptest! {
    #[test]
    fn every_command_is_answered_once_and_in_order_per_room(
        events in proptest::collection::vec(event(), 0..100),
    ) {
        let mut lanes = Lanes::default();
        let mut pushed: [Vec<i64>; 2] = Default::default();
        let mut answered: [Vec<i64>; 2] = Default::default();
        // Whether the last membership command of each room joins: as it was pushed, and as it was carried out.
        let (mut wanted, mut is_in) = ([false; 2], [false; 2]);
        let mut under_way: Vec<Ticket> = Vec::new();
        let (mut next_id, mut held) = (0, 0_usize);
        let mut drain = events.into_iter();
        loop {
            let steps = match drain.next() {
                Some(Event::Push(n, work)) => {
                    next_id += 1;
                    pushed[usize::from(n)].push(next_id);
                    match work {
                        Work::Join(..) => wanted[usize::from(n)] = true,
                        Work::Leave => wanted[usize::from(n)] = false,
                        _ => {}
                    }
                    let (steps, cost) = lanes.push(&room(&n.to_string()), id(next_id), work, now());
                    held += cost;
                    steps
                }
                Some(Event::Answer(n)) if !under_way.is_empty() => {
                    lanes.answer(under_way.remove(n % under_way.len()), sent())
                }
                Some(Event::Answer(_)) => continue,
                None if under_way.is_empty() => break,
                None => lanes.answer(under_way.remove(0), sent()),
            };
            under_way.extend(begun(&steps));
            for step in steps {
                if let Step::Join { room, .. } | Step::Leave { room, .. } = &step {
                    is_in[usize::from(room.as_str() == "1")] = matches!(step, Step::Join { .. });
                }
                if let Step::Reply { room, id: Some(RequestId::Number(id)), cost, .. } = step {
                    held -= cost;
                    answered[usize::from(room.as_str() == "1")].push(id);
                }
            }
        }
        prop_assert_eq!(answered, pushed);
        prop_assert_eq!(held, 0);
        prop_assert_eq!(is_in, wanted);
        prop_assert!(lanes.lanes.is_empty() && lanes.under_way.is_empty());
    }
}
