//! Payloads on the internal channels, on which anybody may publish. The first byte of an input decides which channel it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomcast::broker::fuzzing::{decode_control, decode_presence};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let [kind, payload @ ..] = input else { return };
    if kind & 1 == 0 {
        control(payload);
    } else {
        presence(payload);
    }
});

fn control(payload: &[u8]) {
    let Ok(written) = decode_control(payload) else {
        return;
    };
    // What is understood can be told, and then stays as it is.
    assert_eq!(decode_control(written.as_bytes()).as_ref(), Ok(&written));
    let told: Value = serde_json::from_str(&written).expect("what we write is JSON");
    // Stricter than what was read.
    if let Ok(whole) = serde_json::from_slice::<Value>(payload) {
        for (name, value) in told.as_object().expect("an object") {
            assert_eq!(whole[name], *value, "{name}");
        }
    }
    for name in ["user", "from"] {
        if let Some(text) = told[name].as_str() {
            assert!((1..=128).contains(&text.len()) && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

fn presence(payload: &[u8]) {
    let Ok(present) = decode_presence(payload) else {
        return;
    };
    let Ok(whole) = serde_json::from_slice::<Value>(payload) else {
        return;
    };
    for (name, members) in [("joined", &present.joined), ("left", &present.left)] {
        let sent = whole[name].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(sent.len(), members.len());
        for (sent, member) in sent.iter().zip(members) {
            assert_eq!(sent["session"], &*member.session);
            assert_eq!(sent["user"].as_str(), member.user.as_deref());
        }
    }
}
