//! What is read from Redis and written to it, for the fuzz targets (`fuzz/`). No part of an ordinary build.

use redis::Value;

use super::control::Control;
use super::scripts::{self, Numbered};
use super::{payload, presence};
use crate::broker::RoomMessage;
use crate::broker::history::{Arrival, Page};
use crate::broker::presence::Present;
use crate::protocol::{Epoch, RoomName};

/// The message in a payload on the channel of `room`, or why it is dropped.
///
/// # Errors
/// The reason, as it is logged.
pub fn decode_payload(room: &RoomName, payload: &[u8], max_bytes: usize) -> Result<Arrival, String> {
    payload::decode(room, payload, max_bytes).map_err(|error| error.to_string())
}

/// The payload for a message.
#[must_use]
pub fn encode_payload(message: &RoomMessage) -> Vec<u8> {
    payload::encode(message)
}

/// The payload for a message as the publish script gets it, which ends it.
#[must_use]
pub fn encode_open_payload(message: &RoomMessage) -> Vec<u8> {
    payload::encode_open(message)
}

/// The page in the reply of the read script.
///
/// # Errors
/// The problem, as it is logged.
pub fn page(room: &RoomName, reply: Value, max_payload: usize) -> Result<Page, String> {
    scripts::page(room, reply, max_payload).map_err(|error| error.to_string())
}

/// The offset, and the epoch if there is one, in what the publish script says of a message.
#[must_use]
pub fn numbered(reply: &Value) -> Option<(u64, Option<Epoch>)> {
    scripts::numbered(reply).map(|numbered| match numbered {
        Numbered::AsSeen(offset) => (offset, None),
        Numbered::Repeated(position) => (position.offset, Some(position.epoch)),
        Numbered::Anew(numbering, offset) => (offset, Some(numbering.epoch)),
    })
}

/// What is understood of a payload on the control channel, written again.
///
/// # Errors
/// The reason for which it is dropped, as it is logged.
pub fn decode_control(payload: &[u8]) -> Result<String, String> {
    let control = Control::decode(payload).map_err(|error| error.to_string())?;
    Ok(control.encode())
}

/// What a payload on a presence channel tells.
///
/// # Errors
/// The reason for which it is dropped, as it is logged.
pub fn decode_presence(payload: &[u8]) -> Result<Present, String> {
    presence::decode(payload).map_err(|error| error.to_string())
}

/// How many demands are in the replies to a read of what was missed, and Redis's time in milliseconds.
///
/// # Errors
/// The problem, as it is logged.
pub fn demands(replies: Vec<Value>) -> Result<(usize, u64), String> {
    let (demands, now) = scripts::demands(replies).map_err(|error| error.to_string())?;
    Ok((demands.len(), now))
}
