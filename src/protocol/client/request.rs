//! Publishes as the HTTP API takes them: the body of a request, or one entry of a batch. The fields mean what they mean in
//! `sendMessage`, and are read by the same code.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{Fields, ProtocolError, fault, given, json_str};
use crate::protocol::error::ErrorCode;
use crate::protocol::{Content, IdempotenceKey, MAX_USER_BYTES, RoomName, user_name};

/// Publishes in one batch at most.
pub const MAX_BATCH: usize = 1_000;

/// One publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Where to.
    pub room: RoomName,
    /// The message.
    pub content: Content,
    /// In whose name.
    pub sender: Option<Arc<str>>,
    /// Makes a repeated publish the same publish.
    pub key: Option<IdempotenceKey>,
}

impl PublishRequest {
    /// Reads one. `room` is where it goes; `None`: it says so itself. `max_message` bounds [`Content::text`], in bytes.
    ///
    /// # Errors
    /// [`ProtocolError`] with `bad_json`, `bad_command`, `bad_room` or `message_too_large`; it has the room if that is known.
    pub fn decode(json: &str, room: Option<RoomName>, max_message: usize) -> Result<Self, ProtocolError> {
        let fields: Fields<'_> = serde_json::from_str(json)
            .map_err(|error| not_json("a publish is one JSON object with a \"message\"", &error))?;
        let room = room.map_or_else(|| fields.room(), Ok)?;
        let rest = || Ok((fields.content(max_message)?, fields.sender()?, fields.key()?));
        match rest() {
            Ok((content, sender, key)) => Ok(Self {
                room,
                content,
                sender,
                key,
            }),
            Err(error) => Err(ProtocolError {
                room: Some(room),
                ..error
            }),
        }
    }
}

impl Fields<'_> {
    fn sender(&self) -> Result<Option<Arc<str>>, ProtocolError> {
        let Some(raw) = given(self.sender) else {
            return Ok(None);
        };
        let sender = match json_str(raw) {
            Some(Ok(name)) => user_name(&name),
            _ => None,
        };
        sender.map(Some).ok_or_else(|| {
            let message =
                format!("\"sender\" is a string of 1 to {MAX_USER_BYTES} bytes without control characters");
            fault(ErrorCode::BadCommand, message)
        })
    }
}

/// Takes a batch `{"messages": […]}` apart. Its entries are JSON, and nothing more is known of them.
///
/// # Errors
/// [`ProtocolError`] with `bad_json` or `bad_command` if the batch as a whole is malformed, or has no entries or more than
/// [`MAX_BATCH`].
pub fn decode_batch(json: &str) -> Result<Vec<&RawValue>, ProtocolError> {
    let form = "a batch is one JSON object with \"messages\", an array";
    let Batch(messages) = serde_json::from_str(json).map_err(|error| not_json(form, &error))?;
    match messages {
        Some(Entries::List(entries)) if !entries.is_empty() => Ok(entries),
        Some(Entries::List(_) | Entries::TooMany) => {
            let message = format!("\"messages\" has 1 to {MAX_BATCH} entries");
            Err(fault(ErrorCode::BadCommand, message))
        }
        None => Err(fault(ErrorCode::BadCommand, "the field \"messages\" is missing")),
    }
}

fn not_json(form: &str, error: &serde_json::Error) -> ProtocolError {
    let problem: &dyn fmt::Display = match error.classify() {
        // The error would repeat the value, which may be as long as the body.
        Category::Data => &"this is another JSON value",
        _ => error,
    };
    fault(ErrorCode::BadJson, format!("{form}: {problem}"))
}

struct Batch<'a>(Option<Entries<'a>>);

enum Entries<'a> {
    List(Vec<&'a RawValue>),
    /// Then none of them is kept.
    TooMany,
}

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchVisitor;

        impl<'de> Visitor<'de> for BatchVisitor {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut messages = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "messages" {
                        messages = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Batch(messages))
            }
        }

        deserializer.deserialize_map(BatchVisitor)
    }
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if entries.len() == MAX_BATCH {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Entries::TooMany);
                    }
                    entries.push(entry);
                }
                Ok(Entries::List(entries))
            }
        }

        deserializer.deserialize_seq(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn decode(json: &str) -> Result<PublishRequest, (ErrorCode, Option<RoomName>)> {
        PublishRequest::decode(json, None, 10).map_err(|error| (error.code, error.room))
    }

    #[test]
    fn a_publish_has_the_fields_of_send_message_and_a_sender() {
        let request = decode(r#"{"room":"r","message":{"a": [1.0]},"sender":"ann","key":"k","x":1}"#);
        assert_eq!(request, Err((ErrorCode::MessageTooLarge, Some(room("r")))));
        let request = decode(r#"{"room":"r","message":[1.0],"sender":"ann","key":"k","x":1}"#);
        let expected = PublishRequest {
            room: room("r"),
            content: Content::json("[1.0]"),
            sender: Some("ann".into()),
            key: IdempotenceKey::new("k"),
        };
        assert_eq!(request, Ok(expected));
        let request = decode(r#"{"roomId":"r","message":"hi","sender":null,"key":null}"#).expect("good");
        assert_eq!((request.sender, request.key), (None, None));
    }

    #[test]
    fn the_room_of_the_path_counts_more_than_one_in_the_body() {
        let request = PublishRequest::decode(r#"{"room":7,"message":1}"#, Some(room("p")), 10);
        assert_eq!(request.expect("good").room, room("p"));
    }

    #[test]
    fn errors_say_what_is_wrong_and_where_it_was_meant_for() {
        for (json, code, has_room) in [
            ("[]", ErrorCode::BadJson, false),
            ("{", ErrorCode::BadJson, false),
            (r#"{"message":1}"#, ErrorCode::BadCommand, false),
            (r#"{"room":"","message":1}"#, ErrorCode::BadRoom, false),
            (r#"{"room":"r"}"#, ErrorCode::BadCommand, true),
            (
                r#"{"room":"r","message":1,"sender":""}"#,
                ErrorCode::BadCommand,
                true,
            ),
            (
                r#"{"room":"r","message":1,"sender":7}"#,
                ErrorCode::BadCommand,
                true,
            ),
            (
                r#"{"room":"r","message":1,"sender":"a\nb"}"#,
                ErrorCode::BadCommand,
                true,
            ),
            (
                r#"{"room":"r","message":1,"key":""}"#,
                ErrorCode::BadCommand,
                true,
            ),
        ] {
            let expected = (code, has_room.then(|| room("r")));
            assert_eq!(decode(json), Err(expected), "{json}");
        }
    }

    #[test]
    fn a_batch_has_1_to_1000_entries_of_whatever_form() {
        let entries = decode_batch(r#"{"x":{},"messages":[1, {"a":2}]}"#).expect("a batch");
        assert_eq!(
            entries.iter().map(|entry| entry.get()).collect::<Vec<_>>(),
            ["1", r#"{"a":2}"#]
        );
        let of = |count: usize| format!(r#"{{"messages":[{}]}}"#, vec!["1"; count].join(","));
        let code = |json: &str| {
            decode_batch(json)
                .map_err(|error| error.code)
                .map(|entries| entries.len())
        };
        assert_eq!(code(&of(1_000)), Ok(1_000));
        assert_eq!(code(&of(1_001)), Err(ErrorCode::BadCommand));
        assert_eq!(code(&of(0)), Err(ErrorCode::BadCommand));
        assert_eq!(code("{}"), Err(ErrorCode::BadCommand));
        for malformed in [
            "",
            "[]",
            r#"{"messages":null}"#,
            r#"{"messages":{}}"#,
            r#"{"messages":[1}"#,
        ] {
            assert_eq!(code(malformed), Err(ErrorCode::BadJson), "{malformed}");
        }
    }
}
