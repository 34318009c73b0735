//! When each session of a node that stops is closed. Pure.
//!
//! - The closings are spread evenly over the time that the node may take, so that the clients come to the other nodes
//!   one after another.
//! - Whoever can be told is told at once when its own closing will be, with time enough to connect elsewhere before it.

use std::time::{Duration, Instant};

/// The first closing comes after this part of the time …
const FIRST_PART: u32 = 5;

/// … and after so long at most: more does not help a client that is about to move.
const FIRST_AT_MOST: Duration = Duration::from_secs(2);

/// One worker's part in the closing of all sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retirement {
    began: Instant,
    over: Duration,
    /// Of all workers in turn, whose closings fall between each other's: from 0 to less than 1.
    turn: f64,
}

impl Retirement {
    /// Closes all sessions from `began` on `over` this time; this is the part of the `worker`th of so many workers.
    #[must_use]
    pub fn new(began: Instant, over: Duration, worker: usize, workers: usize) -> Self {
        debug_assert!(worker < workers);
        #[expect(clippy::cast_precision_loss, reason = "workers are few")]
        let turn = worker as f64 / workers.max(1) as f64;
        Self { began, over, turn }
    }

    /// When the first one is closed.
    fn first(&self) -> Duration {
        (self.over / FIRST_PART).min(FIRST_AT_MOST)
    }

    /// When the `index`th of the worker's `count` sessions is closed, after the beginning.
    #[must_use]
    pub fn closes_after(&self, index: usize, count: usize) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a descriptor each: far less than 2^52")]
        let part = (index as f64 + self.turn) / count.max(1) as f64;
        self.first() + (self.over - self.first()).mul_f64(part.min(1.0))
    }

    /// When a session that has only come now is closed, after the beginning; `random` is from 0 to 1.
    #[must_use]
    pub fn late(&self, now: Instant, random: f64) -> Duration {
        let passed = now.saturating_duration_since(self.began);
        let left = self.over.saturating_sub(passed);
        passed + left.mul_f64(random).max(self.first().min(left))
    }

    /// The moment so long after the beginning.
    #[must_use]
    pub fn at(&self, after: Duration) -> Instant {
        self.began + after
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retirement(over: Duration, worker: usize, workers: usize) -> Retirement {
        Retirement::new(Instant::now(), over, worker, workers)
    }

    #[test]
    fn the_closings_of_two_workers_are_even_together() {
        let workers = [0, 1].map(|worker| retirement(22 * SECOND, worker, 2));
        let mut closings: Vec<f64> = workers
            .iter()
            .flat_map(|worker| (0..10).map(|index| worker.closes_after(index, 10).as_secs_f64()))
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
    fn a_short_time_leaves_a_fifth_of_it_to_move() {
        assert_eq!(retirement(SECOND, 0, 1).closes_after(0, 3), SECOND / 5);
        assert_eq!(
            retirement(Duration::ZERO, 0, 1).closes_after(2, 3),
            Duration::ZERO
        );
    }

    proptest! {
        #[test]
        fn everybody_is_warned_and_nobody_is_late(
            over in 0..100_000_u64, workers in 1..8_usize, worker in 0..8_usize, count in 1..500_usize,
            passed in 0..200_000_u64, random in 0.0..1.0,
        ) {
            let (over, passed) = (Duration::from_millis(over), Duration::from_millis(passed));
            let retirement = retirement(over, worker % workers, workers);
            let warned = SECOND.min(over / FIRST_PART);
            let mut last = Duration::ZERO;
            for index in 0..count {
                let closing = retirement.closes_after(index, count);
                prop_assert!(closing >= warned && closing <= over && closing >= last);
                last = closing;
            }
            let late = retirement.late(retirement.at(passed), random);
            prop_assert!(late >= passed && late <= over.max(passed));
            if passed + warned <= over {
                prop_assert!(late >= passed + warned);
            }
        }
    }
}
