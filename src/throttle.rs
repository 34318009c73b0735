//! Log lines that outsiders can provoke, at most one in a while. Pure; time is an argument.

use std::time::{Duration, Instant};

/// Lets one event through per period, and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    period: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// One event a second.
    pub(crate) fn per_second() -> Self {
        Self {
            period: Duration::from_secs(1),
            last: None,
            suppressed: 0,
        }
    }

    /// Whether this event may be shown; if so, how many were not since the last one that was.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < self.period)
        {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_per_second_and_the_others_are_counted() {
        let (mut throttle, start) = (Throttle::per_second(), Instant::now());
        assert_eq!(throttle.pass(start), Some(0));
        assert_eq!(throttle.pass(start), None);
        assert_eq!(throttle.pass(start + Duration::from_millis(999)), None);
        assert_eq!(throttle.pass(start + Duration::from_secs(1)), Some(2));
    }
}
