//! How long to wait before the next dial. Pure.
//!
//! The first dial after a loss is immediate, because most losses are a killed connection; then the pauses grow to a
//! bound that keeps a node at no more than five dials a second with both of its connections, and heals within a
//! second once the broker answers. The pause is spread, so that nodes do not come back in step.

use std::time::{Duration, Instant};

/// Pauses before the second, third … dial.
const PAUSES_MS: [u64; 2] = [350, 600];

/// A connection that lived this long was a good one: the next loss begins anew.
const GOOD_LIFE: Duration = Duration::from_secs(1);

/// The state of one connection's dialling.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: usize,
    connected: Option<Instant>,
}

impl Backoff {
    /// A dial succeeded.
    pub(super) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// A connection was lost or a dial failed: the pause before the next dial. `spread` is a random number from 0 to 1.
    pub(super) fn next(&mut self, now: Instant, spread: f64) -> Duration {
        if let Some(connected) = self.connected.take()
            && now.saturating_duration_since(connected) >= GOOD_LIFE
        {
            self.failures = 0;
        }
        let pause = match self.failures.checked_sub(1) {
            None => return self.fail(Duration::ZERO),
            Some(earlier) => PAUSES_MS[earlier.min(PAUSES_MS.len() - 1)],
        };
        self.fail(Duration::from_millis(pause).mul_f64(0.75 + 0.5 * spread))
    }

    fn fail(&mut self, pause: Duration) -> Duration {
        self.failures += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dial_after_a_good_connection_is_immediate() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.next(start, 0.5), Duration::ZERO);
        assert_eq!(backoff.next(start, 0.5), Duration::from_millis(350));
        backoff.connected(start);
        assert_eq!(backoff.next(start + GOOD_LIFE, 0.5), Duration::ZERO);
    }

    #[test]
    fn a_connection_that_dies_at_once_does_not_reset_the_pause() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        for _ in 0..3 {
            let _ = backoff.next(start, 0.5);
            backoff.connected(start);
        }
        assert_eq!(
            backoff.next(start + Duration::from_millis(200), 0.5),
            Duration::from_millis(600)
        );
    }

    #[test]
    fn two_connections_dial_at_most_five_times_a_second_and_each_again_within_a_second() {
        for spread in [0.0, 0.5, 1.0] {
            let (mut backoff, now) = (Backoff::default(), Instant::now());
            let pauses: Vec<Duration> = (0..20).map(|_| backoff.next(now, spread)).collect();
            assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(750)));
            let steady = pauses[5];
            assert!(2.0 / steady.as_secs_f64() <= 5.0, "{steady:?}");
        }
    }
}
