//! Frames from the server to a client. Each is encoded once to a shared text; sending it to another session clones
//! a reference count.
//!
//! A session in the plain dialect is sent bare message texts and [`ServerFrame::Error`], nothing else.

use bytestring::ByteString;
use serde::Serialize;

use super::client::RequestId;
use super::error::{ErrorCode, Outcome};
use super::{Content, Member, Position, RoomName};

/// A frame of `roomcast.v1`, and the error frame of both dialects.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame<'a> {
    /// The first frame of every session.
    Welcome {
        /// The session's name, unique over all nodes.
        session: &'a str,
        /// The node's name, new at each start.
        node: &'a str,
        /// Seconds of silence after which the server asks whether the peer is still there.
        heartbeat: u64,
    },
    /// The session is a member, and the broker has confirmed the subscription.
    Subscribed {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The room.
        room: &'a RoomName,
        /// Where the subscription begins: what was published before is only replayed. Absent without history.
        #[serde(flatten)]
        position: Option<&'a Position>,
        /// Whether everything after the position that was asked for is replayed.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// The session is not a member (any more).
    Unsubscribed {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The room.
        room: &'a RoomName,
    },
    /// The broker has taken the message.
    Sent {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The room.
        room: &'a RoomName,
        /// The message's place. Absent without history.
        #[serde(flatten)]
        position: Option<&'a Position>,
    },
    /// The session has the rights of its token.
    Authorized {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// When the session ends unless it is given another token, in Unix milliseconds. Absent if the token has no end.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<u64>,
    },
    /// Another session is listed as a member from now on.
    Joined {
        /// The room.
        room: &'a RoomName,
        /// The session.
        member: &'a Member,
    },
    /// Another session is not listed any more.
    Left {
        /// The room.
        room: &'a RoomName,
        /// The session.
        member: &'a Member,
    },
    /// The answer to MEMBERS.
    Members {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The room.
        room: &'a RoomName,
        /// How many there are.
        count: u64,
        /// [`MAX_LISTED_MEMBERS`](super::MAX_LISTED_MEMBERS) of them at most, in no particular order.
        members: &'a [Member],
    },
    /// The answer to PING.
    Pong {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
    },
    /// Messages of a live subscription cannot be had any more; without history, they may have been missed.
    Gap {
        /// The room.
        room: &'a RoomName,
        /// The last offset before the gap, in the epoch known until then. Absent without history.
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// Where it goes on: the next message has the offset after this one. Absent without history.
        #[serde(flatten)]
        position: Option<&'a Position>,
    },
    /// The node stops: the client should connect elsewhere now.
    Bye {
        /// The session is served until it is closed with 1012, after so many milliseconds.
        closes_in_ms: u64,
    },
    /// Something could not be done.
    Error {
        /// Repeats the command's.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// What kind of error.
        code: ErrorCode,
        /// What was wrong and what would be right.
        message: &'a str,
        /// On a publish that was answered `unavailable`.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
}

impl ServerFrame<'_> {
    /// The frame's text.
    #[must_use]
    pub fn encode(&self) -> ByteString {
        serde_json::to_string(self)
            .expect("strings, numbers and raw JSON always serialize")
            .into()
    }
}

/// The frame of `roomcast.v1` that carries a message of a room. Every member is sent it, and its text may be long, so it is put
/// together from what is JSON already.
#[derive(Debug)]
pub struct MessageFrame<'a> {
    /// The room.
    pub room: &'a RoomName,
    /// The message: a JSON string, or any other value if it was published as such.
    pub content: &'a Content,
    /// Its place in the room's numbering; absent without history, or if others published it.
    pub offset: Option<u64>,
    /// The publisher's name, if it has one.
    pub sender: Option<&'a str>,
    /// The publishing session, if a session published it.
    pub session: Option<&'a str>,
    /// When it was published, in Unix milliseconds; absent if others published it directly on Redis.
    pub time: Option<u64>,
}

impl MessageFrame<'_> {
    /// The frame's text.
    #[must_use]
    pub fn encode(&self) -> ByteString {
        /// Names, punctuation, numbers and most names' texts.
        const AROUND_BYTES: usize = 224;
        let text = &*self.content.text;
        let mut frame = Vec::with_capacity(text.len() + AROUND_BYTES);
        frame.extend_from_slice(br#"{"type":"message","room":"#);
        push_string(&mut frame, self.room.as_str());
        frame.extend_from_slice(br#","message":"#);
        if self.content.is_json {
            frame.extend_from_slice(text.as_bytes());
        } else {
            push_string(&mut frame, text);
        }
        let number = |frame: &mut Vec<u8>, name: &[u8], number: Option<u64>| {
            if let Some(number) = number {
                frame.extend_from_slice(name);
                frame.extend_from_slice(number.to_string().as_bytes());
            }
        };
        let string = |frame: &mut Vec<u8>, name: &[u8], string: Option<&str>| {
            if let Some(string) = string {
                frame.extend_from_slice(name);
                push_string(frame, string);
            }
        };
        number(&mut frame, br#","offset":"#, self.offset);
        string(&mut frame, br#","sender":"#, self.sender);
        string(&mut frame, br#","session":"#, self.session);
        number(&mut frame, br#","time":"#, self.time);
        frame.push(b'}');
        ByteString::try_from(frame).expect("what is put together from texts is text")
    }
}

fn push_string(frame: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(frame, text).expect("a string always serializes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    fn room() -> RoomName {
        RoomName::new("r\"1").expect("a valid name")
    }

    #[test]
    fn the_type_comes_first_and_absent_fields_are_left_out() {
        let frame = ServerFrame::Subscribed {
            id: None,
            room: &room(),
            position: None,
            recovered: None,
        };
        assert_eq!(frame.encode(), r#"{"type":"subscribed","room":"r\"1"}"#);
        let id = RequestId::Number(-7);
        let frame = ServerFrame::Error {
            id: Some(&id),
            code: ErrorCode::Unavailable,
            message: "no",
            outcome: Some(Outcome::Refused),
        };
        assert_eq!(
            frame.encode(),
            r#"{"type":"error","id":-7,"code":"unavailable","message":"no","outcome":"refused"}"#
        );
    }

    #[test]
    fn a_position_is_two_fields() {
        let position = Position {
            offset: 44,
            epoch: Epoch::new("k3f9"),
        };
        let frame = ServerFrame::Subscribed {
            id: None,
            room: &room(),
            position: Some(&position),
            recovered: Some(true),
        };
        assert_eq!(
            frame.encode(),
            r#"{"type":"subscribed","room":"r\"1","offset":44,"epoch":"k3f9","recovered":true}"#
        );
    }

    #[test]
    fn a_message_carries_text_as_a_string_and_json_as_it_is() {
        for (content, json) in [
            (Content::text("a\n\"b\""), r#""a\n\"b\"""#),
            (Content::json(r#"{"a": [1.0]}"#), r#"{"a": [1.0]}"#),
        ] {
            let frame = MessageFrame {
                room: &room(),
                content: &content,
                offset: None,
                sender: Some("ann"),
                session: None,
                time: Some(5),
            };
            assert_eq!(
                frame.encode(),
                format!(r#"{{"type":"message","room":"r\"1","message":{json},"sender":"ann","time":5}}"#)
            );
        }
    }

    #[test]
    fn a_message_frame_is_json_whatever_is_in_it() {
        let frame = MessageFrame {
            room: &room(),
            content: &Content::text("\u{2028}\u{7}\"\\é"),
            offset: Some(u64::MAX),
            sender: Some("a\"n"),
            session: Some("s-1"),
            time: Some(0),
        };
        let parsed: serde_json::Value = serde_json::from_str(&frame.encode()).expect("JSON");
        let expected = serde_json::json!({
            "type": "message", "room": "r\"1", "message": "\u{2028}\u{7}\"\\é", "offset": u64::MAX,
            "sender": "a\"n", "session": "s-1", "time": 0,
        });
        assert_eq!(parsed, expected);
    }
}
