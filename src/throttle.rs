//! Log lines that outsiders can provoke, at most so many a second. Pure; time is an argument.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Lets some events through each second, and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    limit: u64,
    /// When the second began that is being counted, and what has passed in it.
    second: Option<(Instant, u64)>,
    suppressed: u64,
}

impl Throttle {
    /// So many events a second.
    pub(crate) fn per_second(limit: u64) -> Self {
        debug_assert!(limit > 0);
        Self {
            limit,
            second: None,
            suppressed: 0,
        }
    }

    /// Whether this event may be shown; if so, how many were not since the last one that was.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        let (began, passed) = self
            .second
            .filter(|(began, _)| now.saturating_duration_since(*began) < SECOND)
            .unwrap_or((now, 0));
        if passed >= self.limit {
            self.suppressed += 1;
            return None;
        }
        self.second = Some((began, passed + 1));
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_each_second_and_the_others_are_counted() {
        let (mut throttle, start) = (Throttle::per_second(2), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(throttle.pass(start), Some(0));
        assert_eq!(throttle.pass(after(500)), Some(0));
        assert_eq!(throttle.pass(after(600)), None);
        assert_eq!(throttle.pass(after(999)), None);
        assert_eq!(throttle.pass(after(1_000)), Some(2));
        assert_eq!(throttle.pass(after(1_001)), Some(0));
        assert_eq!(throttle.pass(after(1_002)), None);
        assert_eq!(throttle.pass(after(9_000)), Some(1));
    }
}
