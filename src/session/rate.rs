//! How many commands a session may send: a token bucket. Pure; time is an argument.

use std::time::Instant;

/// Refills at `rate` per second, and holds twice that.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: f64,
    tokens: f64,
    refilled: Instant,
}

impl RateLimit {
    /// A full bucket.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        Self {
            rate,
            tokens: rate * 2.0,
            refilled: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate * 2.0);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_of_twice_the_rate_and_then_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10, start);
        assert_eq!((0..30).filter(|_| limit.take(start)).count(), 20);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..30).filter(|_| limit.take(later)).count(), 5);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..30).filter(|_| limit.take(much_later)).count(), 20);
    }
}
