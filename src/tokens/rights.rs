//! What a token allows: in which rooms its bearer may be, and to which it may publish. Pure.
//!
//! - A right is a list of names. An entry that ends in `*` stands for every name that begins with what is before it, so
//!   `*` alone stands for all; a `*` anywhere else is a character like any other.
//! - Names are compared byte by byte: two spellings of one character are two names.
//! - An empty list allows nothing. Only a missing one allows everything.

/// The rooms that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    join: Names,
    /// `None`: the same as `join`.
    publish: Option<Names>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    Any,
    Listed(Box<[Entry]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Name(Box<str>),
    Prefix(Box<str>),
}

impl Rights {
    /// The rights of these lists. Without `rooms` every room may be joined; without `publish`, what may be joined may be
    /// published to.
    #[must_use]
    pub fn new<'a>(
        rooms: Option<impl IntoIterator<Item = &'a str>>,
        publish: Option<impl IntoIterator<Item = &'a str>>,
    ) -> Self {
        Self {
            join: rooms.map_or(Names::Any, Names::listed),
            publish: publish.map(Names::listed),
        }
    }

    /// Whether its bearer may be in this room, and see who is.
    #[must_use]
    pub fn may_join(&self, room: &str) -> bool {
        self.join.contain(room)
    }

    /// Whether its bearer may publish to this room.
    #[must_use]
    pub fn may_publish(&self, room: &str) -> bool {
        self.publish.as_ref().unwrap_or(&self.join).contain(room)
    }
}

impl Names {
    fn listed<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let entry = |text: &'a str| match text.strip_suffix('*') {
            Some(prefix) => Entry::Prefix(prefix.into()),
            None => Entry::Name(text.into()),
        };
        Self::Listed(entries.into_iter().map(entry).collect())
    }

    fn contain(&self, room: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(entries) => entries.iter().any(|entry| match entry {
                Entry::Name(name) => **name == *room,
                Entry::Prefix(prefix) => room.starts_with(&**prefix),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(rooms: &[&str]) -> Rights {
        Rights::new(Some(rooms.iter().copied()), None::<[&str; 0]>)
    }

    #[test]
    fn names_are_exact_and_prefixes_end_in_a_star() {
        let rights = join(&["lobby", "team-*", "a*b"]);
        for room in ["lobby", "team-", "team-1", "team-*", "a*b"] {
            assert!(rights.may_join(room), "{room}");
        }
        for room in ["", "lobby1", "lobb", "Lobby", "team", "xteam-1", "ab", "axb", "*"] {
            assert!(!rights.may_join(room), "{room}");
        }
    }

    #[test]
    fn missing_lists_allow_what_empty_ones_do_not() {
        let nothing: Option<[&str; 0]> = None;
        assert!(
            Rights::new(nothing, nothing).may_join("r") && Rights::new(nothing, nothing).may_publish("r")
        );
        let none = join(&[]);
        assert!(!none.may_join("r") && !none.may_publish("r"));
        // Read and not write, write and not read.
        let reader = Rights::new(Some(["r"]), Some([""; 0]));
        assert!(reader.may_join("r") && !reader.may_publish("r"));
        let writer = Rights::new(Some([""; 0]), Some(["r"]));
        assert!(!writer.may_join("r") && writer.may_publish("r"));
        let writer = Rights::new(nothing, Some(["r"]));
        assert!(writer.may_join("q") && writer.may_publish("r") && !writer.may_publish("q"));
    }

    #[test]
    fn what_may_be_joined_may_be_published_to_if_nothing_else_is_said() {
        let rights = join(&["a-*"]);
        assert!(rights.may_publish("a-1") && !rights.may_publish("b"));
    }

    #[test]
    fn characters_are_not_taken_apart_and_not_normalized() {
        let rights = join(&["caf\u{e9}", "日*"]);
        assert!(rights.may_join("caf\u{e9}") && rights.may_join("日本"));
        assert!(!rights.may_join("cafe\u{301}") && !rights.may_join("本日"));
    }

    proptest! {
        #[test]
        fn an_entry_allows_what_its_definition_says(entry in "[ab*é]{0,4}", room in "[ab*é]{1,6}") {
            let expected = match entry.strip_suffix('*') {
                Some(prefix) => room.get(..prefix.len()) == Some(prefix),
                None => entry == room,
            };
            prop_assert_eq!(join(&[&entry]).may_join(&room), expected);
        }

        #[test]
        fn a_list_allows_what_one_of_its_entries_does(
            entries in proptest::collection::vec("[abé]{0,2}\\*?", 0..5), room in "[abé]{1,4}",
        ) {
            let list: Vec<&str> = entries.iter().map(String::as_str).collect();
            let expected = list.iter().any(|entry| join(&[entry]).may_join(&room));
            prop_assert_eq!(join(&list).may_join(&room), expected);
            prop_assert_eq!(join(&list).may_publish(&room), expected);
        }

        #[test]
        fn a_star_alone_allows_everything(room in "\\PC{1,20}") {
            prop_assert!(join(&["*"]).may_join(&room));
            prop_assert!(!join(&[]).may_join(&room));
        }
    }
}
