//! Which demands this node has heard, and which it has to read because its link was away. Pure.
//!
//! - Every demand has a [`Place`] in one stream; what comes over the link comes in that order, and misses nothing while the
//!   link lives.
//! - A new link has missed what was made before it. That is read page by page, from the last one that was heard, and a demand
//!   that has come over the link meanwhile is passed over.

use std::fmt;
use std::str::FromStr;

/// A place in a Redis stream: Redis's time when it was taken in milliseconds since 1970, and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Whatever was made up to here has been heard.
    through: Place,
    /// Something was missed, and not all of it is read.
    is_behind: bool,
    /// The first and the last that came over the link meanwhile.
    live: Option<(Place, Place)>,
}

impl Hearing {
    /// There is a new link: what was made until now may have been missed.
    pub(super) fn link_up(&mut self) {
        self.is_behind = true;
        self.live = None;
    }

    /// This one has come over the link.
    pub(super) fn heard(&mut self, place: Place) {
        if self.is_behind {
            let first = self.live.map_or(place, |(first, _)| first);
            self.live = Some((first, place));
        } else {
            self.through = place;
        }
    }

    /// Where to go on reading.
    pub(super) fn through(&self) -> Place {
        self.through
    }

    /// These were read, in order, behind [`Hearing::through`]; nothing follows them if that was the last page. Returns those
    /// that were missed.
    pub(super) fn read<T>(&mut self, page: Vec<(Place, T)>, is_last: bool) -> Vec<(Place, T)> {
        if let Some((last, _)) = page.last() {
            self.through = self.through.max(*last);
        }
        let live = self.live;
        if is_last {
            self.is_behind = false;
            if let Some((_, last)) = self.live.take() {
                self.through = self.through.max(last);
            }
        }
        let was_missed = |place: &Place| live.is_none_or(|(first, _)| *place < first);
        page.into_iter().filter(|(place, _)| was_missed(place)).collect()
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
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Made),
            1 => Just(Step::Lost),
            2 => Just(Step::Up),
            3 => (1..4_usize).prop_map(Step::Read),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens, a node whose link lives and that has read to the end has heard every demand; and none twice
        /// within the life of one link.
        #[test]
        fn nothing_is_missed_and_nothing_is_heard_twice_over_one_link(steps in steps()) {
            let (mut hearing, mut made, mut has_link, mut is_reading) = (Hearing::default(), 0_u64, false, false);
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
                    Step::Lost => (has_link, is_reading) = (false, false),
                    Step::Up => if !has_link {
                        (has_link, is_reading) = (true, true);
                        of_this_link.clear();
                        hearing.link_up();
                    },
                    Step::Read(most) => if is_reading {
                        let behind = (1..=made).map(place).filter(|place| *place > hearing.through());
                        let page: Vec<_> = behind.map(|place| (place, ())).take(most).collect();
                        is_reading = page.len() == most;
                        for (place, ()) in hearing.read(page, !is_reading) {
                            heard.insert(place.number);
                            prop_assert!(of_this_link.insert(place.number));
                        }
                    },
                }
            }
            prop_assert_eq!(heard, (1..=made).collect::<std::collections::BTreeSet<_>>());
        }
    }
}
