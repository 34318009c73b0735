//! Which demands this node has heard, and which it has to read because its link was away. Pure.
//!
//! - Every demand has a [`Place`] in one stream; what comes over the link comes in that order, and misses nothing while the
//!   link lives.
//! - A new link has missed what was made before it. That is read page by page, from the last one that was heard, and a demand
//!   that has come over the link meanwhile is passed over.
//! - Where the last one that was heard is not there any more, everything that is kept is read: it has expired, or Redis has come
//!   back without it, or somebody else has made it up. Of that, what was made while a link lived that has lost nothing is passed
//!   over.
//! - How long ago a demand was made is told by Redis's clock alone. Where another Redis takes over, and its clock is behind,
//!   what is kept looks younger, and where it is ahead, older, by as much.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A place in a Redis stream: Redis's time when it was taken in milliseconds since 1970, and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) millis: u64,
    number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (millis, number) = text.split_once('-').ok_or(())?;
        let number_of = |digits: &str| {
            let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            are_digits.then(|| digits.parse().ok()).flatten().ok_or(())
        };
        Ok(Self {
            millis: number_of(millis)?,
            number: number_of(number)?,
        })
    }
}

/// Demands over the link that are remembered while what was missed is read. Beyond that one may be carried out twice.
const MAX_LIVE: usize = 10_000;

/// What was made so long before a link's last proof has come over it for certain: a proof is under way for less.
const PROOF_SLACK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Whatever was made up to here has been heard.
    through: Place,
    /// Something was missed, and not all of it is read.
    is_behind: bool,
    /// What came over the link meanwhile.
    live: HashSet<Place>,
    /// When something last came round over a link that nothing was missed of.
    proven: Option<Instant>,
    /// Everything is read, because the place where to go on was not there.
    is_anew: bool,
}

impl Hearing {
    /// There is a new link: what was made until now may have been missed.
    pub(super) fn link_up(&mut self) {
        self.is_behind = true;
        self.is_anew = false;
        self.live.clear();
    }

    /// Something that this node has sent has come over the link.
    pub(super) fn proven(&mut self, now: Instant) {
        if !self.is_behind {
            self.proven = Some(now);
        }
    }

    /// Whether what was read may have been missed, by the time at which it was made.
    pub(super) fn may_be_news(&self, made: Instant) -> bool {
        !self.is_anew || self.proven.is_none_or(|proven| made + PROOF_SLACK > proven)
    }

    /// This one has come over the link.
    pub(super) fn heard(&mut self, place: Place) {
        if !self.is_behind {
            self.through = place;
        } else if self.live.len() < MAX_LIVE {
            self.live.insert(place);
        }
    }

    /// Where to go on reading: what is there has been heard, what follows has not.
    pub(super) fn through(&self) -> Place {
        self.through
    }

    /// These were read, in order, from [`Hearing::through`] on; nothing follows them if that was the last page. Returns those
    /// that were missed, and whether there is more to read.
    pub(super) fn read<T>(&mut self, mut page: Vec<(Place, T)>, is_last: bool) -> (Vec<T>, bool) {
        if self.through != Place::default() {
            if page.first().is_none_or(|(first, _)| *first != self.through) {
                self.through = Place::default();
                self.is_anew = true;
                return (Vec::new(), true);
            }
            page.remove(0);
        }
        if let Some((last, _)) = page.last() {
            self.through = *last;
        }
        let missed = page.into_iter().filter(|(place, _)| !self.live.contains(place));
        let missed = missed.map(|(_, demand)| demand).collect();
        if is_last {
            self.is_behind = false;
            let live = std::mem::take(&mut self.live);
            self.through = live.into_iter().fold(self.through, Place::max);
        }
        (missed, !is_last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(number: u64) -> Place {
        Place {
            millis: 1_764_000_000_000,
            number,
        }
    }

    #[test]
    fn a_place_is_written_as_it_is_read() {
        for text in [
            "0-0",
            "1764000000000-7",
            "18446744073709551615-18446744073709551615",
        ] {
            assert_eq!(
                text.parse::<Place>().map(|place| place.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-0",
            "1-+0",
            "1--1",
            "1-1-1",
            "x-1",
            "18446744073709551616-0",
        ] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text}");
        }
    }

    /// What may happen to a node and to the stream.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Made,
        Lost,
        Up,
        /// A page is read, of so many at most.
        Read(usize),
        /// What has been heard by now expires.
        Expired,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Made),
            1 => Just(Step::Lost),
            2 => Just(Step::Up),
            3 => (2..5_usize).prop_map(Step::Read),
            1 => Just(Step::Expired),
        ];
        prop::collection::vec(step, 0..60)
    }

    #[test]
    fn a_place_that_was_made_up_hides_nothing() {
        let mut hearing = Hearing::default();
        let forged = "18446744073709551615-18446744073709551615"
            .parse()
            .expect("a place");
        hearing.heard(place(1));
        hearing.heard(forged);
        for _ in 0..2 {
            hearing.link_up();
            assert_eq!(hearing.through(), forged);
            assert_eq!(hearing.read::<u64>(Vec::new(), true), (Vec::new(), true));
            // Also where it comes while what was missed is read.
            hearing.heard(forged);
            assert_eq!(hearing.through(), Place::default());
            let page = vec![(place(1), 1), (place(2), 2)];
            assert_eq!(hearing.read(page, true), (vec![1, 2], false));
        }
    }

    #[test]
    fn what_was_made_while_a_proven_link_lived_is_no_news_when_everything_is_read() {
        let (mut hearing, proof) = (Hearing::default(), Instant::now());
        let before = proof
            .checked_sub(PROOF_SLACK * 2)
            .expect("a machine that runs for seconds");
        hearing.heard(place(2));
        hearing.proven(proof);
        hearing.link_up();
        // Of a link that may have missed something: no proof.
        hearing.proven(proof + PROOF_SLACK * 4);
        assert!(hearing.may_be_news(before), "read from where it was heard last");
        assert_eq!(hearing.read(vec![(place(1), ())], true), (Vec::new(), true));
        assert!(!hearing.may_be_news(before));
        assert!(hearing.may_be_news(proof));
        assert!(hearing.may_be_news(proof + PROOF_SLACK));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens, a node whose link lives and that has read to the end has heard every demand; and none twice
        /// within the life of one link.
        #[test]
        fn nothing_is_missed_and_nothing_is_heard_twice_over_one_link(steps in steps()) {
            let (mut hearing, mut has_link, mut is_reading) = (Hearing::default(), false, false);
            let (mut made, mut forgotten) = (0_u64, 0_u64);
            let mut heard = std::collections::BTreeSet::new();
            let mut of_this_link = std::collections::BTreeSet::new();
            let settle = [Step::Up].into_iter().chain((0..60).map(|_| Step::Read(3)));
            for step in steps.into_iter().chain(settle) {
                match step {
                    Step::Made => {
                        made += 1;
                        if has_link {
                            hearing.heard(place(made));
                            heard.insert(made);
                            prop_assert!(of_this_link.insert(made));
                        }
                    }
                    Step::Expired => {
                        while heard.contains(&(forgotten + 1)) {
                            forgotten += 1;
                        }
                    }
                    Step::Lost => (has_link, is_reading) = (false, false),
                    Step::Up => if !has_link {
                        (has_link, is_reading) = (true, true);
                        of_this_link.clear();
                        hearing.link_up();
                    },
                    Step::Read(most) => if is_reading {
                        let kept = (forgotten + 1..=made).filter(|number| place(*number) >= hearing.through());
                        let page: Vec<_> = kept.map(|number| (place(number), number)).take(most).collect();
                        let is_last = page.len() < most;
                        let (missed, goes_on) = hearing.read(page, is_last);
                        is_reading = goes_on;
                        for number in missed {
                            heard.insert(number);
                            prop_assert!(of_this_link.insert(number));
                        }
                    },
                }
            }
            prop_assert_eq!(heard, (1..=made).collect::<std::collections::BTreeSet<_>>());
        }
    }
}
