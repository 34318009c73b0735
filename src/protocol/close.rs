//! Close codes: the numbers of RFC 6455 section 7.4 and ours from the private range, with the reason that is sent.
//!
//! | code | variant | may the client come back? |
//! | --- | --- | --- |
//! | 1001 | [`CloseCode::GoingAway`] | at once, elsewhere |
//! | 1002 | [`CloseCode::ProtocolViolation`] | after mending itself |
//! | 1007 | [`CloseCode::InvalidText`] | after mending itself |
//! | 1008 | [`CloseCode::Policy`] | no, until it has other rights |
//! | 1008 | [`CloseCode::Expired`] | with another token |
//! | 1009 | [`CloseCode::TooBig`] | with smaller messages |
//! | 1011 | [`CloseCode::Internal`] | with backoff |
//! | 1012 | [`CloseCode::Restarting`] | at once, elsewhere |
//! | 1013 | [`CloseCode::Full`] | with backoff |
//! | 4008 | [`CloseCode::TooSlow`] | with backoff; it missed messages |
//! | 4009 | [`CloseCode::Mute`] | at once |

use actix_http::ws::CloseReason;

/// Why the server ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The process was interrupted.
    GoingAway,
    /// The peer broke the framing rules of RFC 6455.
    ProtocolViolation,
    /// A text message was not UTF-8.
    InvalidText,
    /// The peer may not stay.
    Policy,
    /// Its token has expired.
    Expired,
    /// A message was too large to be read.
    TooBig,
    /// The server made a mistake.
    Internal,
    /// The node stops in an orderly way.
    Restarting,
    /// The node has no room for another session.
    Full,
    /// The peer does not read what it is sent.
    TooSlow,
    /// Nothing was heard of the peer.
    Mute,
}

impl CloseCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::ProtocolViolation => 1002,
            Self::InvalidText => 1007,
            Self::Policy | Self::Expired => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Restarting => 1012,
            Self::Full => 1013,
            Self::TooSlow => 4008,
            Self::Mute => 4009,
        }
    }

    /// The text that goes with the number. At most 123 bytes, as RFC 6455 section 5.5 allows.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "the server was interrupted",
            Self::ProtocolViolation => "the WebSocket framing was violated",
            Self::InvalidText => "a text message must be UTF-8",
            Self::Policy => "not allowed",
            Self::Expired => "the token has expired",
            Self::TooBig => "the message is too large",
            Self::Internal => "internal error",
            Self::Restarting => "the node restarts, connect again",
            Self::Full => "the server is full, try again later",
            Self::TooSlow => "messages were not read fast enough",
            Self::Mute => "nothing was heard for too long",
        }
    }
}

impl From<CloseCode> for CloseReason {
    fn from(code: CloseCode) -> Self {
        Self {
            code: code.code().into(),
            description: Some(code.reason().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CloseCode;

    #[test]
    fn every_reason_fits_into_a_close_frame() {
        use CloseCode::{
            Expired, Full, GoingAway, Internal, InvalidText, Mute, Policy, ProtocolViolation, Restarting,
            TooBig, TooSlow,
        };
        for code in [
            GoingAway,
            ProtocolViolation,
            InvalidText,
            Policy,
            Expired,
            TooBig,
            Internal,
            Restarting,
            Full,
            TooSlow,
            Mute,
        ] {
            assert!(code.reason().len() <= 123);
            assert!((1000..=1013).contains(&code.code()) || (4000..=4999).contains(&code.code()));
        }
    }
}
