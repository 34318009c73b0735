//! Frames from a client: one JSON object in a text frame becomes a [`ClientFrame`] or a [`ProtocolError`].
//!
//! - Nothing of the input is trusted, and no input panics.
//! - Unknown fields are ignored; of a repeated field the last one counts, as in JavaScript.
//! - A message that is not a string stays the JSON text that was sent: it is never parsed into a tree and written anew.
//! - An error repeats the command's `id` wherever the frame has a valid one, and the room where that is known, so that
//!   the answer keeps its place among the answers for that room.

pub mod request;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::error::ErrorCode;
use super::{
    Content, Dialect, Epoch, IdempotenceKey, MAX_KEY_BYTES, Position, Replay, RoomName, RoomNameError,
    excerpt,
};

/// The longest `id` that is a string, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// How deep the JSON of a message may be nested: deeper values break careless parsers at the receivers.
pub const MAX_JSON_DEPTH: usize = 128;

/// What a client chose to recognise an answer by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A signed 64-bit integer.
    Number(i64),
    /// A string of at most [`MAX_ID_BYTES`] bytes.
    Text(String),
}

/// One command with what its answer has to repeat.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// The command's `id`.
    pub id: Option<RequestId>,
    /// What is wanted.
    pub command: Command,
}

/// What a client can want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Become a member of the room.
    Subscribe {
        /// The room.
        room: RoomName,
        /// What is wanted of its past; in the plain dialect nothing.
        replay: Replay,
        /// To be listed as a member and told of the others, or not; `None` leaves it as it is, and in the plain dialect it is.
        presence: Option<bool>,
    },
    /// Be a member no more.
    Unsubscribe {
        /// The room.
        room: RoomName,
    },
    /// Send a message to the room's members.
    Publish {
        /// The room.
        room: RoomName,
        /// The message.
        content: Content,
        /// Makes a repeated publish the same publish; in the plain dialect absent.
        key: Option<IdempotenceKey>,
    },
    /// Tell who is listed as a member of the room.
    Members {
        /// The room.
        room: RoomName,
    },
    /// Take the rights of this token.
    Authenticate {
        /// A JWT, if it is good.
        token: Token,
    },
    /// Answer with `pong`.
    Ping,
}

/// A token as it was sent. It shows nothing of itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Takes a copy of `token`.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// What was sent.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a frame is not a command, ready to be answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProtocolError {
    /// The kind of error.
    pub code: ErrorCode,
    /// What was wrong and what would be right.
    pub message: String,
    /// The frame's `id`, if it has a valid one.
    pub id: Option<RequestId>,
    /// The room that the command is about, if that much could be read.
    pub room: Option<RoomName>,
}

impl ClientFrame {
    /// Reads a text frame. `max_message` bounds [`Content::text`], in bytes.
    ///
    /// # Errors
    /// [`ProtocolError`] with `bad_json`, `bad_command`, `unknown_type`, `bad_room` or `message_too_large`.
    pub fn decode(text: &str, dialect: Dialect, max_message: usize) -> Result<Self, ProtocolError> {
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| {
            let problem: &dyn fmt::Display = match error.classify() {
                // The error would repeat the value, which may be as long as the frame.
                Category::Data => &"this is another JSON value",
                _ => &error,
            };
            fault(
                ErrorCode::BadJson,
                format!("a frame is one JSON object with a \"type\": {problem}"),
            )
        })?;
        let id = fields.request_id()?;
        fields
            .command(dialect, max_message)
            .map(|command| Self {
                id: id.clone(),
                command,
            })
            .map_err(|mut error| {
                error.id = id;
                error.room = error.room.take().or_else(|| fields.room().ok());
                error
            })
    }
}

fn fault(code: ErrorCode, message: impl Into<String>) -> ProtocolError {
    ProtocolError {
        code,
        message: message.into(),
        id: None,
        room: None,
    }
}

/// The fields that any command knows, still as they were sent.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    room: Option<&'a RawValue>,
    room_id: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    after: Option<&'a RawValue>,
    epoch: Option<&'a RawValue>,
    history: Option<&'a RawValue>,
    presence: Option<&'a RawValue>,
    token: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    /// Of a publish over HTTP; a session has its user.
    sender: Option<&'a RawValue>,
}

impl Fields<'_> {
    fn request_id(&self) -> Result<Option<RequestId>, ProtocolError> {
        let Some(raw) = given(self.id) else {
            return Ok(None);
        };
        if let Ok(number) = raw.parse::<i64>() {
            return Ok(Some(RequestId::Number(number)));
        }
        match json_str(raw) {
            Some(Ok(text)) if text.len() <= MAX_ID_BYTES => Ok(Some(RequestId::Text(text.into_owned()))),
            _ => Err(fault(
                ErrorCode::BadCommand,
                format!("\"id\" is a signed 64-bit integer or a string of at most {MAX_ID_BYTES} bytes"),
            )),
        }
    }

    fn command(&self, dialect: Dialect, max_message: usize) -> Result<Command, ProtocolError> {
        let kind = text_field("type", self.kind)?;
        match (kind.as_ref(), dialect) {
            ("SUBSCRIBE", Dialect::Plain) => Ok(Command::Subscribe {
                room: self.room()?,
                replay: Replay::default(),
                presence: None,
            }),
            ("SUBSCRIBE", Dialect::V1) => Ok(Command::Subscribe {
                room: self.room()?,
                replay: self.replay()?,
                presence: self.presence()?,
            }),
            ("UNSUBSCRIBE", _) => Ok(Command::Unsubscribe { room: self.room()? }),
            ("sendMessage", _) => Ok(Command::Publish {
                room: self.room()?,
                content: self.content(max_message)?,
                key: match dialect {
                    Dialect::Plain => None,
                    Dialect::V1 => self.key()?,
                },
            }),
            ("MEMBERS", Dialect::V1) => Ok(Command::Members { room: self.room()? }),
            ("AUTH", Dialect::V1) => Ok(Command::Authenticate {
                token: Token::new(&text_field("token", self.token)?),
            }),
            ("PING", Dialect::V1) => Ok(Command::Ping),
            (other, _) => {
                let known = match dialect {
                    Dialect::Plain => "SUBSCRIBE, UNSUBSCRIBE and sendMessage",
                    Dialect::V1 => "SUBSCRIBE, UNSUBSCRIBE, sendMessage, MEMBERS, AUTH and PING",
                };
                let message = format!("no command is called \"{}\"; there are {known}", excerpt(other));
                Err(fault(ErrorCode::UnknownType, message))
            }
        }
    }

    fn room(&self) -> Result<RoomName, ProtocolError> {
        let name = match (self.room, self.room_id) {
            (Some(room), None) => text_field("room", Some(room))?,
            (None, Some(room_id)) => text_field("roomId", Some(room_id))?,
            (None, None) => return Err(fault(ErrorCode::BadCommand, "the field \"room\" is missing")),
            (Some(room), Some(room_id)) => {
                let (room, room_id) = (
                    text_field("room", Some(room))?,
                    text_field("roomId", Some(room_id))?,
                );
                if room != room_id {
                    let message = "\"room\" and \"roomId\" are the same field; send one of them";
                    return Err(fault(ErrorCode::BadCommand, message));
                }
                room
            }
        };
        RoomName::new(&name).map_err(|error: RoomNameError| fault(ErrorCode::BadRoom, error.to_string()))
    }

    fn replay(&self) -> Result<Replay, ProtocolError> {
        let after = match given(self.after) {
            None => None,
            Some(raw) => Some(Position {
                offset: whole_number("after", raw)?,
                epoch: match given(self.epoch).and_then(json_str) {
                    Some(Ok(epoch)) => Epoch::new(&epoch),
                    _ => {
                        let message = "\"after\" needs the \"epoch\" that it was counted in, a string";
                        return Err(fault(ErrorCode::BadCommand, message));
                    }
                },
            }),
        };
        let last = given(self.history).map_or(Ok(0), |raw| whole_number("history", raw))?;
        Ok(Replay { after, last })
    }

    fn presence(&self) -> Result<Option<bool>, ProtocolError> {
        match given(self.presence) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => {
                let message = "the field \"presence\" must be true or false";
                Err(fault(ErrorCode::BadCommand, message))
            }
        }
    }

    fn key(&self) -> Result<Option<IdempotenceKey>, ProtocolError> {
        let Some(raw) = given(self.key) else {
            return Ok(None);
        };
        let key = match json_str(raw) {
            Some(Ok(key)) => IdempotenceKey::new(&key),
            _ => None,
        };
        key.map(Some).ok_or_else(|| {
            let message = format!("\"key\" is a string of 1 to {MAX_KEY_BYTES} bytes");
            fault(ErrorCode::BadCommand, message)
        })
    }

    fn content(&self, max_message: usize) -> Result<Content, ProtocolError> {
        let raw = self.message.map(RawValue::get).ok_or_else(|| {
            fault(
                ErrorCode::BadCommand,
                "the field \"message\" is missing; it may be any JSON value",
            )
        })?;
        let content = match json_str(raw) {
            Some(Ok(text)) => Content::text(text.into_owned()),
            Some(Err(error)) => {
                return Err(fault(
                    ErrorCode::BadJson,
                    format!("\"message\" is not a valid string: {error}"),
                ));
            }
            None if is_too_deep(raw) => {
                let message = format!("\"message\" may be nested {MAX_JSON_DEPTH} levels deep at most");
                return Err(fault(ErrorCode::BadCommand, message));
            }
            None => Content::json(raw),
        };
        let length = content.text.len();
        if length > max_message {
            let message = format!("a message has at most {max_message} bytes of text, this one has {length}");
            return Err(fault(ErrorCode::MessageTooLarge, message));
        }
        Ok(content)
    }
}

/// An optional field; `null` is as good as absent.
fn given(raw: Option<&RawValue>) -> Option<&str> {
    raw.map(RawValue::get).filter(|raw| *raw != "null")
}

fn whole_number(name: &str, raw: &str) -> Result<u64, ProtocolError> {
    raw.parse().map_err(|_| {
        let message = format!("the field \"{name}\" must be a whole number, 0 or more");
        fault(ErrorCode::BadCommand, message)
    })
}

fn text_field<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, ProtocolError> {
    let raw = raw.ok_or_else(|| fault(ErrorCode::BadCommand, format!("the field \"{name}\" is missing")))?;
    match json_str(raw.get()) {
        Some(Ok(text)) => Ok(text),
        _ => Err(fault(
            ErrorCode::BadCommand,
            format!("the field \"{name}\" must be a string"),
        )),
    }
}

/// The text of a JSON string; `None` if `raw`, which is valid JSON, is another value.
fn json_str(raw: &str) -> Option<serde_json::Result<Cow<'_, str>>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return Some(serde_json::from_str(raw).map(Cow::Owned));
    }
    Some(Ok(Cow::Borrowed(inner)))
}

/// Whether valid JSON is nested deeper than [`MAX_JSON_DEPTH`].
#[must_use]
pub fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    false
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Derived code would refuse a field that is there twice; the original's clients may send one.
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<FieldName>()? {
                    let slot = match name {
                        FieldName::Type => &mut fields.kind,
                        FieldName::Id => &mut fields.id,
                        FieldName::Room => &mut fields.room,
                        FieldName::RoomId => &mut fields.room_id,
                        FieldName::Message => &mut fields.message,
                        FieldName::After => &mut fields.after,
                        FieldName::Epoch => &mut fields.epoch,
                        FieldName::History => &mut fields.history,
                        FieldName::Presence => &mut fields.presence,
                        FieldName::Token => &mut fields.token,
                        FieldName::Key => &mut fields.key,
                        FieldName::Sender => &mut fields.sender,
                        FieldName::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *slot = Some(map.next_value()?);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(serde::Deserialize)]
enum FieldName {
    #[serde(rename = "type")]
    Type,
    #[serde(rename = "id")]
    Id,
    #[serde(rename = "room")]
    Room,
    #[serde(rename = "roomId")]
    RoomId,
    #[serde(rename = "message")]
    Message,
    #[serde(rename = "after")]
    After,
    #[serde(rename = "epoch")]
    Epoch,
    #[serde(rename = "history")]
    History,
    #[serde(rename = "presence")]
    Presence,
    #[serde(rename = "token")]
    Token,
    #[serde(rename = "key")]
    Key,
    #[serde(rename = "sender")]
    Sender,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests;
