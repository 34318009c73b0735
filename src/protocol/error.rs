//! Error codes: what an error frame says to a program. The text beside it is for people.

use serde::Serialize;

/// What went wrong, as `code` in an error frame. The texts are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a JSON object in a text frame.
    BadJson,
    /// A field is missing or wrong.
    BadCommand,
    /// No command has this `type`.
    UnknownType,
    /// The room name breaks a rule.
    BadRoom,
    /// The text of the message is longer than the limit.
    MessageTooLarge,
    /// The session is in as many rooms as it may be.
    RoomLimit,
    /// The session sends more commands than it may.
    RateLimited,
    /// The session has shown no token yet, or a bad one.
    Unauthorized,
    /// The session's token does not allow it.
    Forbidden,
    /// The SUBSCRIBE was overtaken by its UNSUBSCRIBE.
    Cancelled,
    /// The broker could not take it.
    Unavailable,
    /// The server made a mistake.
    Internal,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadCommand => "bad_command",
            Self::UnknownType => "unknown_type",
            Self::BadRoom => "bad_room",
            Self::MessageTooLarge => "message_too_large",
            Self::RoomLimit => "room_limit",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// What is known of a publish that was answered with [`ErrorCode::Unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Certainly not published.
    Refused,
    /// Perhaps published.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire_are_their_names() {
        for code in [
            ErrorCode::BadJson,
            ErrorCode::BadCommand,
            ErrorCode::UnknownType,
            ErrorCode::BadRoom,
            ErrorCode::MessageTooLarge,
            ErrorCode::RoomLimit,
            ErrorCode::RateLimited,
            ErrorCode::Unauthorized,
            ErrorCode::Forbidden,
            ErrorCode::Cancelled,
            ErrorCode::Unavailable,
            ErrorCode::Internal,
        ] {
            assert_eq!(
                serde_json::to_string(&code).expect("serializes"),
                format!("\"{}\"", code.as_str())
            );
        }
    }
}
