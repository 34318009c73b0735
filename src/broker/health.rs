//! How the broker is, told by the tasks that talk to it and read by `/readyz`.
//!
//! A node is ready while its link is up, the publishing connection is up, and a message has come all the way round
//! (published by this node, heard by this node) within [`MAX_SILENCE`].

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The longest time without a proof of delivery that counts as healthy.
pub const MAX_SILENCE: Duration = Duration::from_secs(5);

/// The shared view of the broker's state.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    embedded: bool,
    link_up_since: Option<Instant>,
    link_problem: String,
    publisher_up: bool,
    publisher_problem: String,
    proven: Option<Instant>,
    /// When a canary was acknowledged whose arrival is still awaited.
    awaited_since: Option<Instant>,
}

impl Health {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // A panic while the lock is held leaves plain values behind, and these stay usable.
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The broker is this process itself: it is there as long as somebody can ask.
    pub(crate) fn embedded(&self) {
        self.with(|state| state.embedded = true);
    }

    pub(crate) fn link_up(&self, now: Instant) {
        self.with(|state| {
            state.link_up_since = Some(now);
            state.awaited_since = None;
        });
    }

    pub(crate) fn link_down(&self, problem: String) {
        self.with(|state| {
            state.link_up_since = None;
            state.link_problem = problem;
        });
    }

    pub(crate) fn publisher_up(&self) {
        self.with(|state| state.publisher_up = true);
    }

    pub(crate) fn publisher_down(&self, problem: String) {
        self.with(|state| {
            state.publisher_up = false;
            state.publisher_problem = problem;
        });
    }

    /// A canary has been taken by the broker; from now on it is due on the link.
    pub(crate) fn canary_taken(&self, now: Instant) {
        self.with(|state| {
            state.awaited_since.get_or_insert(now);
        });
    }

    /// A message of this node has come back to it.
    pub(crate) fn prove(&self, now: Instant) {
        self.with(|state| {
            state.proven = Some(now);
            state.awaited_since = None;
        });
    }

    /// Whether the link is to blame for a silence: it is up, the broker has taken canaries, and none of them came.
    pub(crate) fn link_is_dead(&self, now: Instant) -> bool {
        const GRACE: Duration = Duration::from_secs(2);
        self.with(|state| {
            let Some(up_since) = state.link_up_since else {
                return false;
            };
            let heard = state.proven.map_or(up_since, |proven| proven.max(up_since));
            let silent = now.saturating_duration_since(heard) > MAX_SILENCE;
            silent
                && state
                    .awaited_since
                    .is_some_and(|since| now.saturating_duration_since(since) > GRACE)
        })
    }

    /// Time since a message of this node last came back to it, if one has; the embedded broker is never silent.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        self.with(|state| {
            if state.embedded {
                return Some(Duration::ZERO);
            }
            state.proven.map(|proven| now.saturating_duration_since(proven))
        })
    }

    /// Whether messages can be expected to flow.
    ///
    /// # Errors
    /// The reason why not, for an operator.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        self.with(|state| {
            if state.embedded {
                return Ok(());
            }
            if state.link_up_since.is_none() {
                return Err(format!(
                    "not subscribed to the broker{}",
                    because(&state.link_problem)
                ));
            }
            if !state.publisher_up {
                return Err(format!(
                    "cannot publish to the broker{}",
                    because(&state.publisher_problem)
                ));
            }
            match state.proven {
                Some(proven) if now.saturating_duration_since(proven) <= MAX_SILENCE => Ok(()),
                Some(proven) => Err(format!(
                    "nothing has come back from the broker for {} s",
                    now.saturating_duration_since(proven).as_secs()
                )),
                None => Err("nothing has come back from the broker yet".to_owned()),
            }
        })
    }
}

fn because(problem: &str) -> String {
    if problem.is_empty() {
        String::new()
    } else {
        format!(": {problem}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn ready_needs_link_publisher_and_a_fresh_proof() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.check(start).is_err());
        health.link_up(start);
        health.publisher_up();
        assert!(health.check(start).is_err());
        health.prove(start);
        assert_eq!(health.check(after(start, 5)), Ok(()));
        assert!(health.check(after(start, 6)).is_err());
        health.prove(after(start, 6));
        health.publisher_down("refused".to_owned());
        assert_eq!(
            health.check(after(start, 6)),
            Err("cannot publish to the broker: refused".to_owned())
        );
    }

    #[test]
    fn silence_begins_with_the_last_proof_and_the_embedded_broker_has_none() {
        let (health, start) = (Health::default(), Instant::now());
        assert_eq!(health.silence(start), None);
        health.prove(start);
        assert_eq!(health.silence(after(start, 7)), Some(Duration::from_secs(7)));
        health.embedded();
        assert_eq!(health.silence(after(start, 7)), Some(Duration::ZERO));
    }

    #[test]
    fn a_silent_link_is_dead_only_if_canaries_were_taken() {
        let (health, start) = (Health::default(), Instant::now());
        health.link_up(start);
        assert!(
            !health.link_is_dead(after(start, 60)),
            "the publisher may be to blame"
        );
        health.canary_taken(after(start, 1));
        health.canary_taken(after(start, 5));
        assert!(!health.link_is_dead(after(start, 4)));
        assert!(health.link_is_dead(after(start, 6)));
        health.prove(after(start, 6));
        assert!(!health.link_is_dead(after(start, 60)));
    }

    #[test]
    fn a_canary_that_waited_out_a_frozen_broker_gets_its_grace() {
        let (health, start) = (Health::default(), Instant::now());
        health.link_up(start);
        health.prove(start);
        health.canary_taken(after(start, 30));
        assert!(!health.link_is_dead(after(start, 31)));
    }
}
