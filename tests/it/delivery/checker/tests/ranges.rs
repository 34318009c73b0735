//! Gaps, new numberings and absences: what excuses a member for not having heard something, and what does not.

use super::{PLAIN, Scene, TERMS, V1, acknowledged, at, attempted, lost, received, room, subscribed, text};
use crate::delivery::checker::{Terms, Violation, check};
use crate::delivery::history::{Fact, Log, Position};

const RESTARTED: Terms = Terms {
    may_restart: true,
    ..TERMS
};

/// The good history without what both members heard of 3 and 4, which are not kept either.
fn with_hole() -> Scene {
    let mut scene = Scene::good();
    for member in [V1, PLAIN] {
        for number in [3, 4] {
            scene.remove(&received(member, number));
        }
    }
    scene.0.logs[0].kept.drain(..4);
    scene
}

fn gap(after: u64, offset: u64) -> Fact {
    Fact::Gap {
        member: V1,
        after,
        position: at(offset),
    }
}

#[test]
fn a_gap_excuses_exactly_what_it_covers() {
    let terms = Terms {
        history_size: 2,
        ..TERMS
    };
    let mut scene = with_hole();
    let violations = check(&scene.0, terms);
    assert_eq!(violations, [lost(V1, 2, 5), lost(PLAIN, 2, 5)]);
    scene.insert_before(&received(V1, 5), gap(2, 4));
    assert_eq!(check(&scene.0, terms), []);

    for (after, offset) in [(1, 4), (3, 4), (2, 3), (2, 5), (2, 2)] {
        let mut scene = with_hole();
        scene.insert_before(&received(V1, 5), gap(after, offset));
        let violations = check(&scene.0, terms);
        let mismatch = |violation: &Violation| matches!(violation, Violation::GapMismatch { .. });
        assert!(
            violations.iter().any(mismatch),
            "{after} {offset}: {violations:?}"
        );
    }
}

#[test]
fn a_gap_excuses_nothing_on_another_node() {
    let terms = Terms {
        history_size: 2,
        ..TERMS
    };
    let mut scene = with_hole();
    scene.insert_before(&received(V1, 5), gap(2, 4));
    let elsewhere = Fact::Subscribed {
        member: PLAIN,
        node: 1,
        position: None,
        recovered: None,
    };
    scene.replace(&subscribed(PLAIN, None, None), elsewhere);
    assert_eq!(check(&scene.0, terms), [lost(PLAIN, 2, 5)]);
}

#[test]
fn a_gap_over_messages_that_are_kept_is_found() {
    let mut scene = Scene::good();
    for number in [3, 4] {
        scene.remove(&received(V1, number));
    }
    scene.insert_before(&received(V1, 5), gap(2, 4));
    let needless = Violation::NeedlessGap {
        member: V1,
        gap: (2, at(4)),
        oldest: 1,
    };
    assert_eq!(scene.violations(), [needless]);
}

/// The good history, whose last two messages are in a numbering of their own after the first was lost.
fn with_restart() -> Scene {
    let fresh = |number: u64| Position::new("b", number - 4);
    let mut scene = Scene::good();
    for number in [5, 6] {
        scene.replace(
            &acknowledged(number, at(number)),
            acknowledged(number, fresh(number)),
        );
        let renumbered = Fact::Received {
            member: V1,
            position: Some(fresh(number)),
            content: text(number),
        };
        scene.replace(&received(V1, number), renumbered);
    }
    scene.0.logs[0] = Log {
        room: room(),
        top: fresh(6),
        kept: vec![(1, text(5)), (2, text(6))],
    };
    scene
}

#[test]
fn a_new_numbering_must_be_announced_and_needed() {
    let announced = Fact::Gap {
        member: V1,
        after: 4,
        position: Position::new("b", 0),
    };
    let mut scene = with_restart();
    let lost = |member| Violation::Lost {
        member,
        after: Some(at(4)),
        before: Some(Position::new("b", 1)),
    };
    assert_eq!(check(&scene.0, RESTARTED), [lost(V1), lost(PLAIN)]);
    scene.insert_before(&attempted(5), announced);
    assert_eq!(check(&scene.0, RESTARTED), []);
    let needless = Violation::Restarted {
        room: room(),
        epochs: ["a".into(), "b".into()],
    };
    assert_eq!(scene.violations(), [needless]);

    // What the new numbering still has must not be passed over.
    let mut scene = with_restart();
    let first = Fact::Received {
        member: V1,
        position: Some(Position::new("b", 1)),
        content: text(5),
    };
    let too_far = Fact::Gap {
        member: V1,
        after: 4,
        position: Position::new("b", 1),
    };
    scene.replace(&first, too_far);
    let violations = check(&scene.0, RESTARTED);
    let needless = |violation: &Violation| matches!(violation, Violation::NeedlessGap { .. });
    assert!(violations.iter().any(needless), "{violations:?}");
}

#[test]
fn a_message_that_is_in_both_numberings_is_taken_for_the_one_that_may_come_next() {
    // The third message was repeated when the numbering was lost, and the plain member has heard neither it nor the
    // fourth before.
    let mut scene = with_restart();
    scene.insert_before(
        &attempted(5),
        Fact::Gap {
            member: V1,
            after: 2,
            position: Position::new("b", 0),
        },
    );
    for number in [3, 4] {
        scene.remove(&received(V1, number));
        scene.remove(&received(PLAIN, number));
    }
    let again = |fact: Fact| match fact {
        Fact::Attempted {
            publisher, room, key, ..
        } => Fact::Attempted {
            attempt: 5,
            publisher,
            room,
            key,
            content: text(3),
        },
        Fact::Received { member, position, .. } => Fact::Received {
            member,
            position,
            content: text(3),
        },
        other => other,
    };
    let first = Fact::Received {
        member: V1,
        position: Some(Position::new("b", 1)),
        content: text(5),
    };
    for fact in [attempted(5), received(PLAIN, 5), first] {
        scene.replace(&fact.clone(), again(fact));
    }
    scene.0.logs[0].kept[0].1 = text(3);
    assert_eq!(check(&scene.0, RESTARTED), []);
}

/// The good history, whose member leaves after the third message and comes back from there after the fifth.
fn with_absence(told: Position, recovered: bool) -> Scene {
    let mut scene = Scene::good();
    for number in [4, 5] {
        scene.remove(&received(V1, number));
    }
    let before = attempted(6);
    scene.insert_before(&attempted(4), Fact::Ended { member: V1 });
    scene.insert_before(
        &before,
        Fact::Subscribing {
            member: V1,
            after: Some(at(3)),
        },
    );
    scene.insert_before(&before, subscribed(V1, Some(told), Some(recovered)));
    scene
}

#[test]
fn who_recovers_must_get_all_that_it_has_missed() {
    let mut scene = with_absence(at(5), true);
    assert_eq!(scene.violations(), [lost(V1, 3, 6)]);
    for number in [4, 5] {
        scene.insert_before(&attempted(6), received(V1, number));
    }
    assert_eq!(scene.violations(), []);
}

#[test]
fn who_does_not_recover_must_have_asked_for_what_is_not_kept() {
    let mut scene = with_absence(at(5), false);
    let needless = Violation::NeedlessLoss {
        member: V1,
        asked: at(3),
        oldest: 1,
    };
    assert_eq!(scene.violations(), [needless]);
    scene.0.logs[0].kept.drain(..4);
    let terms = Terms {
        history_size: 2,
        ..TERMS
    };
    assert_eq!(check(&scene.0, terms), []);
}

#[test]
fn a_node_that_does_not_know_what_a_member_has_heard_elsewhere_is_found() {
    let mut scene = with_absence(at(2), false);
    for number in [4, 5] {
        scene.insert_before(&attempted(6), received(V1, number));
    }
    let (member, asked, told) = (V1, at(3), at(2));
    let stale = Violation::StalePosition { member, asked, told };
    let violations = scene.violations();
    assert!(violations.contains(&stale), "{violations:?}");
}

#[test]
fn recovery_into_another_numbering_is_found() {
    let scene = with_absence(Position::new("b", 5), true);
    let falsely = Violation::FalselyRecovered {
        member: V1,
        asked: at(3),
        told: Position::new("b", 5),
    };
    let violations = scene.violations();
    assert!(violations.contains(&falsely), "{violations:?}");
}
