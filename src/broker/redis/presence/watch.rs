//! Which nodes are dead, judged by what this one sees. Pure; time is an argument.
//!
//! - A living node makes its lease beat. One whose beat has not changed for [`DEAD_AFTER`] of this node's own looking is
//!   dead. Clocks of other machines are not asked, and neither is Redis's.
//! - Looking that was interrupted proves nothing: after a pause, a lost connection or a look that failed, everything is seen
//!   for the first time. So nobody dies of a Redis that was away, or of this node's having been frozen.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often leases beat and are looked at. A look costs three commands at most.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(3_200);

/// A dead node is found by the third look that sees nothing new: at most four intervals, some 13 s, after its last beat.
const DEAD_AFTER: Duration = Duration::from_millis(8_500);

/// A longer pause between two looks is one in which others may have beaten unseen.
const LONGEST_PAUSE: Duration = Duration::from_secs(6);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<String, (String, Instant)>,
    last_look: Option<Instant>,
}

impl Watch {
    /// These leases were seen now, with their beats. Returns those that are dead, with the beat that they stopped at.
    pub(super) fn look(&mut self, leases: Vec<(String, String)>, now: Instant) -> Vec<(String, String)> {
        let last = self.last_look.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) > LONGEST_PAUSE) {
            self.seen.clear();
        }
        let mut dead = Vec::new();
        let mut seen = HashMap::with_capacity(leases.len());
        for (lease, beat) in leases {
            let since = match self.seen.get(&lease) {
                Some((earlier, since)) if *earlier == beat => *since,
                _ => now,
            };
            // Somebody has begun to take it away, and may have died of it.
            let is_ended = beat.starts_with('-');
            if is_ended || now.saturating_duration_since(since) >= DEAD_AFTER {
                dead.push((lease.clone(), beat.clone()));
            }
            seen.insert(lease, (beat, since));
        }
        self.seen = seen;
        dead
    }

    /// Looking was interrupted.
    pub(super) fn blink(&mut self) {
        self.seen.clear();
        self.last_look = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at one lease with these beats, one per interval. The number of the look that found it dead.
    fn found_dead(beats: &[&str]) -> Option<usize> {
        let (mut watch, start) = (Watch::default(), Instant::now());
        beats.iter().zip(0_u32..).position(|(beat, number)| {
            let leases = vec![("a".to_owned(), (*beat).to_owned())];
            !watch.look(leases, start + LOOK_INTERVAL * number).is_empty()
        })
    }

    #[test]
    fn a_lease_that_stops_is_dead_by_the_third_look_after_it_was_seen_first() {
        assert_eq!(found_dead(&["5", "5", "5", "5"]), Some(3));
        assert_eq!(found_dead(&["4", "5", "5", "5", "5"]), Some(4));
        assert_eq!(found_dead(&["5", "5", "5", "6", "6", "6", "7"]), None);
        assert!(LOOK_INTERVAL * 4 < Duration::from_secs(14));
    }

    #[test]
    fn what_others_have_begun_to_take_away_is_dead_at_once() {
        assert_eq!(found_dead(&["-1000"]), Some(0));
    }

    #[test]
    fn a_pause_of_ones_own_proves_nothing() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |seconds| {
            let leases = vec![("a".to_owned(), "1".to_owned())];
            watch.look(leases, start + Duration::from_secs(seconds)).len()
        };
        assert_eq!([0, 3, 6].map(&mut look), [0; 3]);
        assert_eq!(look(100), 0, "frozen meanwhile");
        assert_eq!([103, 106, 109].map(&mut look), [0, 0, 1]);
    }

    #[test]
    fn a_look_that_failed_proves_nothing() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for seconds in [0, 3, 6] {
            let leases = vec![("a".to_owned(), "1".to_owned())];
            assert!(
                watch
                    .look(leases, start + Duration::from_secs(seconds))
                    .is_empty()
            );
        }
        watch.blink();
        let leases = vec![("a".to_owned(), "1".to_owned())];
        assert!(watch.look(leases, start + Duration::from_secs(9)).is_empty());
    }
}
