//! The wire: what clients send and receive, as pure types. No actors, no I/O.
//!
//! - [`client`] reads a text frame into a command or into an error that says what would be right.
//! - [`server`] writes the frames of both dialects.
//! - [`frame`] is what goes over the wire.
//! - [`error`] lists the error codes, [`close`] the close codes and whether the client may come back.
//!
//! Everything that arrives from outside passes through a type of this module before another module sees it:
//! a [`RoomName`] that exists is a valid one.

pub mod client;
pub mod close;
pub mod error;
pub mod frame;
pub mod server;

use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use serde::{Serialize, Serializer};

/// The subprotocol that selects [`Dialect::V1`].
pub const V1_SUBPROTOCOL: &str = "roomcast.v1";

/// The longest room name, in bytes of UTF-8.
pub const MAX_ROOM_NAME_BYTES: usize = 255;

/// How a session wants to be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Bare message texts and no acknowledgements, as the original server speaks.
    Plain,
    /// `roomcast.v1`: JSON envelopes, one reply for every command.
    V1,
}

/// A valid room name: 1 to 255 bytes of UTF-8 without control characters (Unicode category Cc).
///
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// Why a text cannot name a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// The name has no characters.
    #[error("a room name has at least 1 byte")]
    Empty,
    /// The name is longer than [`MAX_ROOM_NAME_BYTES`].
    #[error("a room name has at most {MAX_ROOM_NAME_BYTES} bytes of UTF-8, this one has {0}")]
    TooLong(usize),
    /// The name contains a control character.
    #[error("a room name has no control characters, this one has U+{:04X}", u32::from(*.0))]
    Control(char),
}

impl RoomName {
    /// Checks `name` and takes a copy of it.
    ///
    /// # Errors
    /// [`RoomNameError`] says which rule the name breaks.
    ///
    /// ```
    /// use roomcast::protocol::RoomName;
    /// assert!(RoomName::new("lobby").is_ok());
    /// assert!(RoomName::new("").is_err());
    /// ```
    pub fn new(name: &str) -> Result<Self, RoomNameError> {
        if name.is_empty() {
            return Err(RoomNameError::Empty);
        }
        if name.len() > MAX_ROOM_NAME_BYTES {
            return Err(RoomNameError::TooLong(name.len()));
        }
        if let Some(control) = name.chars().find(|c| c.is_control()) {
            return Err(RoomNameError::Control(control));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for RoomName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The name of one numbering of a room's messages. Opaque: two of them are the same or not.
///
/// Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The numbering that is called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A place among a room's messages: the first message of a numbering has offset 1, and 0 is before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Position {
    /// Messages up to here, this one included.
    pub offset: u64,
    /// The numbering that counts them.
    pub epoch: Epoch,
}

/// What a subscriber wants of a room's past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Everything after this position, or to be told that it cannot be had.
    pub after: Option<Position>,
    /// The last messages, this many at most, if `after` is absent or cannot be had.
    pub last: u64,
}

/// The longest name of a user, in bytes.
pub const MAX_USER_BYTES: usize = 128;

/// The name of a user: 1 to [`MAX_USER_BYTES`] bytes of UTF-8 without control characters. `None` if `name` is none.
///
/// ```
/// use roomcast::protocol::user_name;
/// assert_eq!(user_name("ann").as_deref(), Some("ann"));
/// assert_eq!(user_name("a\nb"), None);
/// ```
#[must_use]
pub fn user_name(name: &str) -> Option<Arc<str>> {
    let fits = (1..=MAX_USER_BYTES).contains(&name.len());
    (fits && !name.chars().any(char::is_control)).then(|| name.into())
}

/// The longest idempotence key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;

/// What makes a publish idempotent: 1 to [`MAX_KEY_BYTES`] bytes that its sender chose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotenceKey(Box<str>);

impl IdempotenceKey {
    /// Takes a copy of `key`; `None` if it is empty or too long.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        (1..=MAX_KEY_BYTES).contains(&key.len()).then(|| Self(key.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session that is listed as a member of a room.
///
/// Cloning shares the texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Member {
    /// The session's name, unique over all nodes.
    pub session: Arc<str>,
    /// Its user, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
}

/// The longest list of members that is told; the count beside it is that of all.
pub const MAX_LISTED_MEMBERS: usize = 1_000;

/// The body of a message: what a plain subscriber is sent, and whether it is JSON or a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The text of a string message, or the JSON text of any other value.
    pub text: ByteString,
    /// `text` is the JSON text of a value that is not a string.
    pub is_json: bool,
}

impl Content {
    /// A message that is a string.
    #[must_use]
    pub fn text(text: impl Into<ByteString>) -> Self {
        Self {
            text: text.into(),
            is_json: false,
        }
    }

    /// A message that is another JSON value. `json` must be valid JSON.
    #[must_use]
    pub fn json(json: impl Into<ByteString>) -> Self {
        Self {
            text: json.into(),
            is_json: true,
        }
    }
}

/// The first characters of something a client sent, short enough and printable enough to be repeated to it.
#[must_use]
pub fn excerpt(input: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut shown: String = input
        .chars()
        .take(MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if input.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_name_has_1_to_255_bytes() {
        assert_eq!(RoomName::new(""), Err(RoomNameError::Empty));
        assert!(RoomName::new(&"é".repeat(127)).is_ok());
        assert_eq!(RoomName::new(&"é".repeat(128)), Err(RoomNameError::TooLong(256)));
    }

    #[test]
    fn control_characters_of_both_ranges_are_refused() {
        for control in ['\0', '\u{1}', '\n', '\u{7f}', '\u{85}'] {
            assert_eq!(
                RoomName::new(&format!("a{control}")),
                Err(RoomNameError::Control(control))
            );
        }
    }

    #[test]
    fn syntax_of_other_systems_is_just_a_name() {
        for name in [
            "*",
            "a b",
            "{x}",
            "__proto__",
            "../..",
            "room%2F",
            "🙂",
            "\u{200b}",
        ] {
            assert_eq!(
                RoomName::new(name).map(|room| room.as_str().to_owned()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt("a\u{1b}b"), "a\\u{1b}b");
        assert_eq!(excerpt(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
    }
}
