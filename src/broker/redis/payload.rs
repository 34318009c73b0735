//! What travels on a room's channel: JSON `{"type":"sendMessage","roomId":…,"message":…}` and fields of ours. Pure.
//!
//! - `message` is always a string, because servers of the original fail on anything else; another JSON value travels
//!   as its text beside `"json":true`.
//! - Unknown fields are ignored, and so is a field of ours that has the wrong form: anybody may publish here, and a
//!   newer node may send more than this one knows.
//! - A payload that names another room, or is not of this form, is refused with a word for the log.
//! - With history the publish script ends the payload: it adds `offset`, `epoch`, `seal` and `time`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::broker::RoomMessage;
use crate::broker::history::{Arrival, Claim};
use crate::metrics::labels::BadPayload;
use crate::protocol::client::is_too_deep;
use crate::protocol::{Content, Epoch, RoomName};

/// The form of our payloads, for readers that come later.
const VERSION: u8 = 1;

/// Why a payload is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("it is larger than this node takes")]
    TooLarge,
    #[error("it is not JSON with type \"sendMessage\", a roomId and a message that is a string")]
    Malformed,
    #[error("it names another room than its channel")]
    OtherRoom,
    #[error("its message says that it is JSON, and is not, or is nested deeper than 128 levels")]
    NotJson,
}

impl PayloadError {
    /// What it is counted as.
    pub(super) fn label(self) -> BadPayload {
        match self {
            Self::TooLarge => BadPayload::TooLarge,
            Self::Malformed => BadPayload::Malformed,
            Self::OtherRoom => BadPayload::OtherRoom,
            Self::NotJson => BadPayload::NotJson,
        }
    }
}

#[derive(Serialize)]
struct Outgoing<'a> {
    r#type: &'static str,
    #[serde(rename = "roomId")]
    room_id: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    json: bool,
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(rename = "roomId", borrow)]
    room_id: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    json: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    seal: Option<&'a RawValue>,
}

/// The payload for `message`, without its last brace and its time: the publish script adds them.
pub(super) fn encode_open(message: &RoomMessage) -> Vec<u8> {
    let mut payload = encode_at(message, None);
    payload.pop();
    payload
}

/// The payload for `message`.
pub(super) fn encode(message: &RoomMessage) -> Vec<u8> {
    encode_at(message, message.time)
}

fn encode_at(message: &RoomMessage, time: Option<u64>) -> Vec<u8> {
    let outgoing = Outgoing {
        r#type: "sendMessage",
        room_id: message.room.as_str(),
        message: &message.content.text,
        json: message.content.is_json,
        v: VERSION,
        sender: message.sender.as_deref(),
        session: message.session.as_deref(),
        time,
    };
    serde_json::to_vec(&outgoing).expect("strings and numbers always serialize")
}

/// The message in a payload that arrived on the channel of `room`.
pub(super) fn decode(room: &RoomName, payload: &[u8], max_bytes: usize) -> Result<Arrival, PayloadError> {
    if payload.len() > max_bytes {
        return Err(PayloadError::TooLarge);
    }
    let incoming: Incoming<'_> = serde_json::from_slice(payload).map_err(|_| PayloadError::Malformed)?;
    if incoming.r#type != "sendMessage" {
        return Err(PayloadError::Malformed);
    }
    if incoming.room_id != room.as_str() {
        return Err(PayloadError::OtherRoom);
    }
    let is_json = own_field::<bool>(incoming.json).unwrap_or(false);
    let text = incoming.message.into_owned();
    // What no client may publish here, no member should have to read.
    if is_json && (serde_json::from_str::<&RawValue>(&text).is_err() || is_too_deep(&text)) {
        return Err(PayloadError::NotJson);
    }
    let message = RoomMessage {
        room: room.clone(),
        content: if is_json {
            Content::json(text)
        } else {
            Content::text(text)
        },
        sender: own_field(incoming.sender),
        session: own_field(incoming.session),
        time: own_field(incoming.time),
    };
    let claim = match (
        own_field(incoming.offset),
        own_field::<Cow<'_, str>>(incoming.epoch),
        own_field(incoming.seal),
    ) {
        (Some(offset), Some(epoch), Some(seal)) => Some(Claim {
            offset,
            epoch: Epoch::new(&epoch),
            seal,
        }),
        _ => None,
    };
    Ok(Arrival { message, claim })
}

fn own_field<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 4_096;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn decoded(payload: &str) -> Result<RoomMessage, PayloadError> {
        decode(&room("room1"), payload.as_bytes(), MAX).map(|arrival| arrival.message)
    }

    #[test]
    fn the_originals_payload_is_read() {
        let message = decoded(r#"{"type":"sendMessage","roomId":"room1","message":"hi"}"#).expect("good");
        assert_eq!(message.content, Content::text("hi"));
        assert_eq!(
            (message.sender, message.session, message.time),
            (None, None, None)
        );
    }

    #[test]
    fn a_value_that_is_no_string_travels_as_its_text() {
        let sent = RoomMessage {
            room: room("room1"),
            content: Content::json(r#"{"a":"b"}"#),
            sender: None,
            session: None,
            time: None,
        };
        let payload = String::from_utf8(encode(&sent)).expect("JSON is UTF-8");
        assert_eq!(
            payload,
            r#"{"type":"sendMessage","roomId":"room1","message":"{\"a\":\"b\"}","json":true,"v":1}"#
        );
    }

    #[test]
    fn a_claim_is_read_if_it_is_whole() {
        let claim = |fields: &str| {
            let payload = format!(r#"{{"type":"sendMessage","roomId":"room1","message":"x"{fields}}}"#);
            decode(&room("room1"), payload.as_bytes(), MAX)
                .expect("good")
                .claim
        };
        assert_eq!(
            claim(r#","offset":7,"epoch":"k","seal":"s""#),
            Some(Claim {
                offset: 7,
                epoch: Epoch::new("k"),
                seal: "s".into()
            })
        );
        for part in [
            "",
            r#","offset":7,"epoch":"k""#,
            r#","offset":-7,"epoch":"k","seal":"s""#,
            r#","offset":7,"epoch":8,"seal":"s""#,
        ] {
            assert_eq!(claim(part), None, "{part}");
        }
    }

    #[test]
    fn what_is_not_ours_to_understand_is_refused() {
        for (payload, error) in [
            ("", PayloadError::Malformed),
            ("hello", PayloadError::Malformed),
            ("[]", PayloadError::Malformed),
            (
                r#"{"type":"sendMessage","roomId":"room1","message":7}"#,
                PayloadError::Malformed,
            ),
            (
                r#"{"type":"sendMessage","roomId":"room1"}"#,
                PayloadError::Malformed,
            ),
            (
                r#"{"type":"other","roomId":"room1","message":"x"}"#,
                PayloadError::Malformed,
            ),
            (
                r#"{"type":"sendMessage","roomId":"room2","message":"x"}"#,
                PayloadError::OtherRoom,
            ),
            (
                r#"{"type":"sendMessage","roomId":"room1","message":"{","json":true}"#,
                PayloadError::NotJson,
            ),
        ] {
            assert_eq!(decoded(payload), Err(error), "{payload}");
        }
        let nested = |depth| {
            let value = "[".repeat(depth) + &"]".repeat(depth);
            format!(r#"{{"type":"sendMessage","roomId":"room1","message":"{value}","json":true}}"#)
        };
        assert!(decoded(&nested(128)).is_ok());
        assert_eq!(decoded(&nested(129)), Err(PayloadError::NotJson));
        let large = format!(
            r#"{{"type":"sendMessage","roomId":"room1","message":"{}"}}"#,
            "x".repeat(MAX)
        );
        assert_eq!(decoded(&large), Err(PayloadError::TooLarge));
        assert_eq!(
            decode(&room("room1"), b"\xff\xfe", MAX),
            Err(PayloadError::Malformed)
        );
    }

    #[test]
    fn a_field_of_ours_with_the_wrong_form_is_as_good_as_absent() {
        let payload =
            r#"{"type":"sendMessage","roomId":"room1","message":"x","json":"yes","sender":7,"time":"now"}"#;
        let message = decoded(payload).expect("good");
        assert_eq!(message.content, Content::text("x"));
        assert_eq!((message.sender, message.time), (None, None));
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&room("room1"), &payload, MAX);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            text in ".{0,40}",
            sender in proptest::option::of(".{0,8}"),
            time in proptest::option::of(any::<u64>()),
        ) {
            let sent = RoomMessage {
                room: room("room1"),
                content: Content::text(text),
                sender: sender.map(Into::into),
                session: Some("n-1".into()),
                time,
            };
            let decoded = decode(&sent.room, &encode(&sent), MAX);
            prop_assert_eq!(decoded, Ok(Arrival::unnumbered(sent)));
        }
    }
}
