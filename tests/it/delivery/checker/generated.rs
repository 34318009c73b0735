//! Any history of a server that keeps its promises passes, and any single change that matters is found.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::check;
use super::damage::MUTATIONS;
use super::world::{Step, World, steps};

/// Damages a history in each way, somewhere. The names of the ways that were possible.
fn damage(steps: &[(usize, Step)], choice: usize) -> Result<Vec<&'static str>, TestCaseError> {
    let (history, terms) = World::run(steps);
    prop_assert_eq!(check(&history, terms), vec![]);
    let mut done = Vec::new();
    for (name, candidates, mutate) in MUTATIONS {
        let candidates = candidates(&history);
        if candidates.is_empty() {
            continue;
        }
        let at = candidates[choice % candidates.len()];
        let mut damaged = history.clone();
        mutate(&mut damaged, at);
        prop_assert!(
            !check(&damaged, terms).is_empty(),
            "{} at {}: {:?}",
            name,
            at,
            history.facts.get(at)
        );
        done.push(*name);
    }
    Ok(done)
}

proptest! {
    #[test]
    fn any_good_history_passes_and_any_damage_is_found(steps in steps(), choice in any::<usize>()) {
        damage(&steps, choice)?;
    }
}

#[test]
fn every_kind_of_damage_is_tried() {
    let mut runner = TestRunner::deterministic();
    let mut tried = HashSet::new();
    for choice in 0..50 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let done = damage(&steps, choice);
        tried.extend(done.unwrap_or_else(|error| panic!("{error}")));
    }
    let missing: Vec<_> = MUTATIONS
        .iter()
        .filter(|(name, ..)| !tried.contains(name))
        .map(|(name, ..)| name)
        .collect();
    assert!(missing.is_empty(), "never tried: {missing:?}");
}
