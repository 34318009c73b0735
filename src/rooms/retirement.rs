//! When each session of a node that stops is closed. Pure.
//!
//! - The closings are spread evenly over the time that the node may take, so that the clients come to the other nodes
//!   one after another.
//! - Whoever can be told is told at once when its own closing will be, with time enough to connect elsewhere before it.

use std::time::{Duration, Instant};

/// The first closing comes after this part of the time …
const FIRST_PART: u32 = 4;

/// … and after so long at most: more does not help a client that is about to move.
const FIRST_AT_MOST: Duration = Duration::from_secs(2);

/// Whoever is told has this part of the time at least …
const WARNING_PART: u32 = 5;

/// … or so long, if that is shorter. Less than the first closing leaves, because telling takes a moment.
const WARNING_AT_MOST: Duration = Duration::from_secs(1);

/// One worker's part in the closing of all sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Retirement {
    began: Instant,
    over: Duration,
    /// Of all workers in turn, whose closings fall between each other's: from 0 to less than 1.
    turn: f64,
}

impl Retirement {
    /// Closes all sessions from `began` on `over` this time; this is the part of the `worker`th of so many workers.
    #[must_use]
    pub(super) fn new(began: Instant, over: Duration, worker: usize, workers: usize) -> Self {
        debug_assert!(worker < workers);
        #[expect(clippy::cast_precision_loss, reason = "workers are few")]
        let turn = worker as f64 / workers.max(1) as f64;
        Self { began, over, turn }
    }

    /// When the `index`th of the worker's `count` sessions is closed, if it is told so now.
    #[must_use]
    pub(super) fn closes_at(&self, index: usize, count: usize, now: Instant) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a descriptor each: far less than 2^52")]
        let part = (index as f64 + self.turn) / count.max(1) as f64;
        let first = (self.over / FIRST_PART).min(FIRST_AT_MOST);
        let planned = self.began + first + (self.over - first).mul_f64(part.min(1.0));
        planned.max(now + self.warning())
    }

    /// When a session that has only come now is closed; `random` is from 0 to 1.
    #[must_use]
    pub(super) fn closes_late(&self, now: Instant, random: f64) -> Instant {
        let left = (self.began + self.over).saturating_duration_since(now);
        now + left.mul_f64(random).max(self.warning())
    }

    fn warning(&self) -> Duration {
        (self.over / WARNING_PART).min(WARNING_AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_closings_of_two_workers_are_even_together() {
        let began = Instant::now();
        let workers = [0, 1].map(|worker| Retirement::new(began, 22 * SECOND, worker, 2));
        let mut closings: Vec<f64> = workers
            .iter()
            .flat_map(|worker| (0..10).map(|index| worker.closes_at(index, 10, began)))
            .map(|closing| (closing - began).as_secs_f64())
            .collect();
        closings.sort_by(f64::total_cmp);
        for (index, closing) in (0_u32..).zip(closings) {
            assert!(
                (closing - 2.0 - f64::from(index)).abs() < 1e-6,
                "{index}: {closing}"
            );
        }
    }

    #[test]
    fn who_is_told_late_has_its_time_all_the_same() {
        let began = Instant::now();
        let short = Retirement::new(began, SECOND, 0, 1);
        assert_eq!(short.closes_at(0, 3, began), began + SECOND / 4);
        let late = began + SECOND / 8;
        assert_eq!(short.closes_at(0, 3, late), late + SECOND / 5);
        let none = Retirement::new(began, Duration::ZERO, 0, 1);
        assert_eq!(none.closes_at(2, 3, began), began);
    }

    proptest! {
        #[test]
        fn everybody_is_warned_and_nobody_is_late(
            over in 0..100_000_u64, workers in 1..8_usize, worker in 0..8_usize, count in 1..500_usize,
            passed in 0..200_000_u64, random in 0.0..1.0,
        ) {
            let (over, passed) = (Duration::from_millis(over), Duration::from_millis(passed));
            let began = Instant::now();
            let retirement = Retirement::new(began, over, worker % workers, workers);
            let warned = SECOND.min(over / 5);
            for now in [began, began + passed] {
                let mut last = began;
                for index in 0..count {
                    let closing = retirement.closes_at(index, count, now);
                    prop_assert!(closing >= now + warned && closing >= last);
                    prop_assert!(closing <= (began + over).max(now + warned));
                    last = closing;
                }
            }
            let now = began + passed;
            let late = retirement.closes_late(now, random);
            prop_assert!(late >= now + warned && late <= (began + over).max(now + warned));
        }
    }
}
