//! One test for each way in which a history can be bad, from one that is good.

mod ranges;

use std::sync::Arc;
use std::time::Duration;

use roomcast::protocol::Dialect;

use super::{Terms, Violation, check};
use crate::delivery::history::{Content, Fact, Follower, History, Log, MemberId, Outcome, Position};

const TERMS: Terms = Terms {
    history_size: 1_000,
    may_restart: false,
};

/// Messages in the good history.
const MESSAGES: u64 = 6;

const V1: MemberId = 0;
const PLAIN: MemberId = 1;

fn room() -> Arc<str> {
    "r".into()
}

fn text(number: u64) -> Content {
    Content::of(&number.to_string())
}

fn at(offset: u64) -> Position {
    Position::new("a", offset)
}

fn received(member: MemberId, offset: u64) -> Fact {
    Fact::Received {
        member,
        position: (member != PLAIN).then(|| at(offset)),
        content: text(offset),
    }
}

fn subscribed(member: MemberId, position: Option<Position>, recovered: Option<bool>) -> Fact {
    Fact::Subscribed {
        member,
        node: 0,
        position,
        recovered,
    }
}

fn attempted(number: u64) -> Fact {
    Fact::Attempted {
        attempt: usize::try_from(number).expect("small"),
        publisher: 0,
        room: room(),
        key: None,
        content: text(number),
    }
}

fn acknowledged(number: u64, position: Position) -> Fact {
    Fact::Answered {
        attempt: usize::try_from(number).expect("small"),
        outcome: Outcome::Acknowledged(Some(position)),
    }
}

/// Six messages, numbered as their texts are, heard by a member of each dialect, and all in the log.
struct Scene(History);

impl Scene {
    fn good() -> Self {
        let follower = |dialect| Follower {
            room: room(),
            dialect,
        };
        let mut facts = vec![subscribed(V1, Some(at(0)), None), subscribed(PLAIN, None, None)];
        for number in 1..=MESSAGES {
            facts.extend([
                attempted(number),
                received(V1, number),
                acknowledged(number, at(number)),
                received(PLAIN, number),
            ]);
        }
        let mut scene = Self(History {
            members: vec![follower(Dialect::V1), follower(Dialect::Plain)],
            facts: Vec::new(),
            earlier: Vec::new(),
            logs: vec![Log {
                room: room(),
                top: at(MESSAGES),
                kept: (1..=MESSAGES).map(|number| (number, text(number))).collect(),
            }],
        });
        for fact in facts {
            scene.push(fact);
        }
        scene
    }

    fn push(&mut self, fact: Fact) {
        self.0.facts.push((Duration::ZERO, fact));
    }

    fn find(&self, fact: &Fact) -> usize {
        let found = self.0.facts.iter().position(|(_, present)| present == fact);
        found.unwrap_or_else(|| panic!("{fact:?} is not in the history"))
    }

    fn remove(&mut self, fact: &Fact) {
        let at = self.find(fact);
        self.0.facts.remove(at);
    }

    fn replace(&mut self, fact: &Fact, with: Fact) {
        let at = self.find(fact);
        self.0.facts[at].1 = with;
    }

    fn swap(&mut self, one: &Fact, other: &Fact) {
        let (one, other) = (self.find(one), self.find(other));
        self.0.facts.swap(one, other);
    }

    fn insert_before(&mut self, fact: &Fact, new: Fact) {
        let at = self.find(fact);
        self.0.facts.insert(at, (Duration::ZERO, new));
    }

    fn violations(&self) -> Vec<Violation> {
        check(&self.0, TERMS)
    }
}

fn lost(member: MemberId, after: u64, before: u64) -> Violation {
    Violation::Lost {
        member,
        after: Some(at(after)),
        before: Some(at(before)),
    }
}

#[test]
fn a_good_history_passes() {
    assert_eq!(Scene::good().violations(), []);
}

#[test]
fn a_message_that_a_member_never_heard_is_found() {
    for member in [V1, PLAIN] {
        let mut scene = Scene::good();
        scene.remove(&received(member, 3));
        assert_eq!(scene.violations(), [lost(member, 2, 4)]);
        // The last one is missed as well, by who is still subscribed.
        let mut scene = Scene::good();
        scene.remove(&received(member, MESSAGES));
        assert_eq!(scene.violations(), [lost(member, MESSAGES - 1, MESSAGES + 1)]);
        scene.push(Fact::Ended { member });
        assert_eq!(scene.violations(), []);
    }
}

#[test]
fn a_member_that_heard_nothing_at_all_is_found() {
    for member in [V1, PLAIN] {
        let mut scene = Scene::good();
        for number in 1..=MESSAGES {
            scene.remove(&received(member, number));
        }
        let after = (member == V1).then(|| at(0));
        let before = Some(at(MESSAGES + 1));
        let expected = Violation::Lost {
            member,
            after,
            before,
        };
        assert_eq!(scene.violations(), [expected]);
    }
}

#[test]
fn two_messages_in_the_wrong_order_are_found() {
    for member in [V1, PLAIN] {
        let mut scene = Scene::good();
        scene.swap(&received(member, 3), &received(member, 4));
        assert_eq!(
            scene.violations(),
            [Violation::OutOfOrder {
                member,
                position: at(3),
                behind: at(4)
            }]
        );
    }
}

#[test]
fn a_message_that_was_heard_twice_is_found() {
    for member in [V1, PLAIN] {
        for again_before in [4, MESSAGES] {
            let mut scene = Scene::good();
            scene.insert_before(&received(member, again_before), received(member, 3));
            let position = at(3);
            assert_eq!(scene.violations(), [Violation::Doubled { member, position }]);
        }
    }
}

#[test]
fn a_message_that_nobody_published_is_found() {
    let foreign = Content::of("foreign");
    let violation = Violation::Foreign {
        room: room(),
        content: foreign,
    };
    let heard = |member, position| Fact::Received {
        member,
        position,
        content: foreign,
    };
    let mut scene = Scene::good();
    scene.push(heard(PLAIN, None));
    assert_eq!(scene.violations(), std::slice::from_ref(&violation));
    let mut scene = Scene::good();
    scene.push(heard(V1, Some(at(MESSAGES + 1))));
    assert!(scene.violations().contains(&violation));
    let mut scene = Scene::good();
    scene.0.logs[0].kept.push((MESSAGES + 1, foreign));
    scene.0.logs[0].top = at(MESSAGES + 1);
    assert!(scene.violations().contains(&violation));
    // What was published to another room is foreign, too.
    let mut scene = Scene::good();
    scene.push(Fact::Attempted {
        attempt: 99,
        publisher: 0,
        room: "another".into(),
        key: None,
        content: foreign,
    });
    scene.push(acknowledged(99, Position::new("other epoch", 1)));
    scene.push(heard(PLAIN, None));
    assert_eq!(scene.violations(), [violation]);
}

#[test]
fn a_wrong_offset_is_found() {
    let mut scene = Scene::good();
    let wrong = Fact::Received {
        member: V1,
        position: Some(at(4)),
        content: text(3),
    };
    scene.replace(&received(V1, 3), wrong);
    let conflict = |contents| Violation::Conflict {
        room: room(),
        position: at(4),
        contents,
    };
    let violations = scene.violations();
    assert!(
        violations.contains(&conflict([text(4), text(3)])),
        "{violations:?}"
    );
    assert!(violations.contains(&lost(V1, 2, 4)), "{violations:?}");

    let mut scene = Scene::good();
    let unnumbered = Fact::Received {
        member: V1,
        position: None,
        content: text(3),
    };
    scene.replace(&received(V1, 3), unnumbered);
    let (member, content) = (V1, text(3));
    assert_eq!(scene.violations(), [Violation::Unnumbered { member, content }]);
}

#[test]
fn an_acknowledgement_of_another_place_is_found() {
    let mut scene = Scene::good();
    scene.replace(&acknowledged(3, at(3)), acknowledged(3, at(4)));
    assert!(scene.violations().contains(&Violation::Conflict {
        room: room(),
        position: at(4),
        contents: [text(3), text(4)]
    }));
}

#[test]
fn a_message_that_was_refused_and_delivered_is_found() {
    let refused = Fact::Answered {
        attempt: 3,
        outcome: Outcome::Refused,
    };
    let violation = Violation::RefusedButThere {
        room: room(),
        content: text(3),
    };
    let mut scene = Scene::good();
    scene.replace(&acknowledged(3, at(3)), refused);
    assert_eq!(scene.violations(), std::slice::from_ref(&violation));
    // Also if only a plain member has heard it, who knows no place.
    scene.remove(&received(V1, 3));
    scene.0.logs.clear();
    assert!(scene.violations().contains(&violation));
    // Refused and not there is as it should be, and unknown may be there or not.
    let mut scene = Scene::good();
    scene.push(attempted(7));
    scene.push(Fact::Answered {
        attempt: 7,
        outcome: Outcome::Refused,
    });
    let unknown = Fact::Answered {
        attempt: 3,
        outcome: Outcome::Unknown,
    };
    scene.replace(&acknowledged(3, at(3)), unknown);
    assert_eq!(scene.violations(), []);
}

#[test]
fn an_acknowledged_message_that_is_missing_from_the_log_is_found() {
    let not_in_log = |offset| Violation::NotInLog {
        room: room(),
        position: at(offset),
        content: text(offset),
    };
    let mut scene = Scene::good();
    scene.0.logs[0].kept.remove(2);
    let violations = scene.violations();
    assert!(violations.contains(&not_in_log(3)), "{violations:?}");
    let broken = Violation::LogBroken {
        room: room(),
        after: 2,
        next: 4,
    };
    assert!(violations.contains(&broken), "{violations:?}");

    // Beyond the top.
    let mut scene = Scene::good();
    scene.0.logs[0].kept.pop();
    scene.0.logs[0].top = at(MESSAGES - 1);
    assert_eq!(scene.violations(), [not_in_log(MESSAGES)]);

    // Trimmed, but too early.
    let mut scene = Scene::good();
    scene.0.logs[0].kept.drain(..2);
    assert_eq!(
        check(
            &scene.0,
            Terms {
                history_size: 4,
                ..TERMS
            }
        ),
        []
    );
    let too_short = Violation::LogTooShort {
        room: room(),
        kept: 4,
        due: 6,
    };
    assert_eq!(scene.violations(), [too_short]);
}

#[test]
fn a_keyed_publish_that_was_stored_twice_is_found() {
    let key: Option<Arc<str>> = Some("key".into());
    let attempt = |attempt| Fact::Attempted {
        attempt,
        publisher: 0,
        room: room(),
        key: key.clone(),
        content: text(3),
    };
    let mut scene = Scene::good();
    scene.replace(&attempted(3), attempt(3));
    scene.push(attempt(10));
    scene.push(acknowledged(10, at(3)));
    assert_eq!(scene.violations(), []);

    scene.push(attempt(11));
    scene.push(acknowledged(11, at(7)));
    scene.push(Fact::Received {
        member: V1,
        position: Some(at(7)),
        content: text(3),
    });
    scene.0.logs[0].kept.push((7, text(3)));
    scene.0.logs[0].top = at(7);
    scene.push(received(PLAIN, 3));
    let twice = Violation::StoredTwice {
        room: room(),
        content: text(3),
        positions: [at(3), at(7)],
    };
    assert_eq!(scene.violations(), [twice]);
}

#[test]
fn a_publish_that_was_neither_taken_nor_refused_is_found() {
    let mut scene = Scene::good();
    scene.remove(&acknowledged(3, at(3)));
    let (attempt, content) = (3, text(3));
    assert_eq!(scene.violations(), [Violation::Unanswered { attempt, content }]);
    let mut scene = Scene::good();
    scene.push(acknowledged(3, at(3)));
    assert_eq!(scene.violations(), [Violation::AnsweredTwice { attempt }]);
}

#[test]
fn a_message_that_stands_before_one_that_was_acknowledged_earlier_is_found() {
    let mut scene = Scene::good();
    // The third is attempted when the fourth has been acknowledged.
    scene.remove(&attempted(3));
    scene.remove(&acknowledged(3, at(3)));
    scene.insert_before(&attempted(5), attempted(3));
    scene.insert_before(&attempted(5), acknowledged(3, at(3)));
    let wrong = Violation::WrongOrder {
        room: room(),
        earlier: at(4),
        later: at(3),
    };
    assert_eq!(scene.violations(), [wrong]);
}

#[test]
fn messages_of_one_sender_in_another_order_than_it_sent_them_are_found() {
    let mut scene = Scene::good();
    // Both are under way at once, and the later one overtakes.
    scene.remove(&attempted(6));
    scene.insert_before(&attempted(5), attempted(6));
    assert_eq!(scene.violations(), []);
    let renumbered = |fact: &Fact, attempt| match fact.clone() {
        Fact::Attempted {
            publisher,
            room,
            key,
            content,
            ..
        } => Fact::Attempted {
            attempt,
            publisher,
            room,
            key,
            content,
        },
        other => other,
    };
    let first = renumbered(&attempted(6), 100);
    let second = renumbered(&attempted(5), 101);
    scene.replace(&attempted(6), first);
    scene.replace(&attempted(5), second);
    scene.replace(&acknowledged(6, at(6)), acknowledged(100, at(6)));
    scene.replace(&acknowledged(5, at(5)), acknowledged(101, at(5)));
    let wrong = Violation::WrongOrder {
        room: room(),
        earlier: at(6),
        later: at(5),
    };
    assert_eq!(scene.violations(), [wrong]);
}

#[test]
fn what_is_heard_without_a_subscription_is_found() {
    let mut scene = Scene::good();
    scene.insert_before(&received(V1, MESSAGES), Fact::Ended { member: V1 });
    let (member, content) = (V1, text(MESSAGES));
    assert_eq!(
        scene.violations(),
        [Violation::OutsideSession { member, content }]
    );
    let mut scene = Scene::good();
    let frame = "surprise".to_owned();
    scene.push(Fact::Unexpected {
        member,
        frame: frame.clone(),
    });
    assert_eq!(scene.violations(), [Violation::Unexpected { member, frame }]);
}

/// The second half of the good history, which goes on from the first.
fn second_half() -> Scene {
    let mut scene = Scene::good();
    for number in 1..=3 {
        for fact in [
            attempted(number),
            acknowledged(number, at(number)),
            received(V1, number),
            received(PLAIN, number),
        ] {
            scene.remove(&fact);
        }
    }
    scene.0.earlier = scene.0.logs.clone();
    scene.0.earlier[0].kept.truncate(3);
    scene.0.earlier[0].top = at(3);
    scene.replace(
        &subscribed(V1, Some(at(0)), None),
        subscribed(V1, Some(at(3)), None),
    );
    scene.replace(
        &subscribed(PLAIN, None, None),
        subscribed(PLAIN, Some(at(3)), None),
    );
    scene
}

#[test]
fn a_history_that_goes_on_from_another_is_judged_with_what_was_there() {
    assert_eq!(second_half().violations(), []);
    let mut scene = second_half();
    scene.remove(&received(PLAIN, 4));
    assert_eq!(scene.violations(), [lost(PLAIN, 3, 5)]);
    let mut scene = second_half();
    scene.insert_before(&received(V1, 5), received(V1, 2));
    let (member, position) = (V1, at(2));
    let behind = at(4);
    let late = Violation::OutOfOrder {
        member,
        position,
        behind,
    };
    assert_eq!(scene.violations(), [late]);
    let mut scene = second_half();
    scene.0.logs[0].kept[1].1 = text(9);
    let conflict = |violation: &Violation| matches!(violation, Violation::Conflict { .. });
    assert!(scene.violations().iter().any(conflict));
}

#[test]
fn a_plain_member_alone_hears_only_what_has_a_place() {
    let mut scene = Scene::good();
    scene.push(attempted(7));
    scene.push(Fact::Answered {
        attempt: 7,
        outcome: Outcome::Unknown,
    });
    scene.push(received(PLAIN, 7));
    let (member, content) = (PLAIN, text(7));
    assert_eq!(scene.violations(), [Violation::Unplaced { member, content }]);
}

#[test]
fn violations_are_readable() {
    assert_eq!(
        lost(V1, 2, 4).to_string(),
        "member 0 lost what is after a:2 and before a:4"
    );
    assert_eq!(lost(V1, 2, 4).kind(), "Lost");
    let room_of = |violation: Violation| violation.room(&Scene::good().0);
    assert_eq!(room_of(lost(V1, 2, 4)), Some(room()));
    assert_eq!(room_of(Violation::AnsweredTwice { attempt: 3 }), Some(room()));
}
