//! Payloads on a channel. The first byte of an input decides what the rest is: a payload that somebody published, or a
//! message of ours that has to arrive as it was sent.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use roomcast::broker::RoomMessage;
use roomcast::broker::fuzzing::{decode_payload, encode_open_payload, encode_payload};
use roomcast::broker::history::{Arrival, Claim};
use roomcast::protocol::{Content, Epoch, RoomName};
use serde_json::Value;
use serde_json::value::RawValue;

const MAX_BYTES: usize = 4_096;

#[derive(Arbitrary, Debug)]
struct Sent<'a> {
    room: &'a str,
    text: &'a str,
    sender: Option<&'a str>,
    session: Option<&'a str>,
    time: Option<u64>,
    offset: u64,
    epoch: &'a str,
    seal: &'a str,
}

fuzz_target!(|input: &[u8]| {
    let [kind, rest @ ..] = input else { return };
    if kind & 1 == 0 {
        published(rest);
    } else if let Ok(sent) = Sent::arbitrary_take_rest(Unstructured::new(rest)) {
        sent_by_us(&sent);
    }
});

/// What anybody may publish.
fn published(payload: &[u8]) {
    let room = RoomName::new("room1").expect("a valid name");
    let Ok(Arrival { message, claim }) = decode_payload(&room, payload, MAX_BYTES) else {
        return;
    };
    assert!(payload.len() <= MAX_BYTES);
    assert_eq!(message.room, room);
    if message.content.is_json {
        assert!(serde_json::from_str::<&RawValue>(&message.content.text).is_ok());
    }
    // Stricter than what was read; what is not understood is not compared.
    if let Ok(whole) = serde_json::from_slice::<Value>(payload) {
        assert_eq!(whole["type"], "sendMessage");
        assert_eq!(whole["roomId"], "room1");
        assert_eq!(whole["message"], &*message.content.text);
        assert_eq!(whole["json"] == true, message.content.is_json);
        assert_eq!(whole["sender"].as_str(), message.sender.as_deref());
        assert_eq!(whole["session"].as_str(), message.session.as_deref());
        assert_eq!(whole["time"].as_u64(), message.time);
        if let Some(claim) = &claim {
            assert_eq!(whole["offset"].as_u64(), Some(claim.offset));
            assert_eq!(whole["epoch"].as_str(), Some(claim.epoch.as_str()));
            assert_eq!(whole["seal"].as_str(), Some(&*claim.seal));
        }
    }
    // What was understood can be passed on.
    let again = decode_payload(&room, &encode_payload(&message), usize::MAX);
    assert_eq!(again.map(|arrival| arrival.message), Ok(message));
}

fn sent_by_us(sent: &Sent<'_>) {
    let Ok(room) = RoomName::new(sent.room) else {
        return;
    };
    let is_json = serde_json::from_str::<&RawValue>(sent.text).is_ok();
    let message = RoomMessage {
        room: room.clone(),
        content: if is_json {
            Content::json(sent.text)
        } else {
            Content::text(sent.text)
        },
        sender: sent.sender.map(Into::into),
        session: sent.session.map(Into::into),
        time: sent.time,
    };
    let arrival = decode_payload(&room, &encode_payload(&message), usize::MAX);
    assert_eq!(arrival, Ok(Arrival::unnumbered(message.clone())));

    // As the publish script ends it.
    let mut payload = encode_open_payload(&message);
    let quoted = |text: &str| serde_json::to_string(text).expect("a text can be written");
    let Sent {
        offset, epoch, seal, ..
    } = sent;
    let end = format!(
        r#","offset":{offset},"epoch":{},"seal":{},"time":7}}"#,
        quoted(epoch),
        quoted(seal)
    );
    payload.extend_from_slice(end.as_bytes());
    let claim = Some(Claim {
        offset: *offset,
        epoch: Epoch::new(epoch),
        seal: (*seal).into(),
    });
    let message = RoomMessage {
        time: Some(7),
        ..message
    };
    assert_eq!(
        decode_payload(&room, &payload, usize::MAX),
        Ok(Arrival { message, claim })
    );

    let other = RoomName::new("another").expect("a valid name");
    assert_eq!(
        decode_payload(&other, &payload, usize::MAX).is_ok(),
        room == other
    );
    assert!(decode_payload(&room, &payload, payload.len() - 1).is_err());
}
