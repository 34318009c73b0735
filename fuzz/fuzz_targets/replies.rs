//! Replies of the scripts in Redis: an input is one reply as it stands on the wire, of whatever form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomcast::broker::fuzzing::{demands, numbered, page};
use roomcast::protocol::RoomName;

const MAX_PAYLOAD: usize = 4_096;

fuzz_target!(|input: &[u8]| {
    let Ok(reply) = redis::parse_redis_value(input) else {
        return;
    };
    if let Some((offset, epoch)) = numbered(&reply) {
        let text = String::from_utf8_lossy(input).into_owned();
        let offset = offset.to_string();
        assert!(text.contains(&offset), "an offset from nowhere: {offset}");
        assert!(epoch.is_none_or(|epoch| text.contains(epoch.as_str()) && !epoch.as_str().contains(' ')));
    }
    if let redis::Value::Array(replies) = reply.clone()
        && let Ok((count, _)) = demands(replies)
    {
        // Each takes a place and a payload.
        assert!(count * 2 < input.len());
    }
    let room = RoomName::new("room1").expect("a valid name");
    if let Ok(page) = page(&room, reply, MAX_PAYLOAD) {
        for entry in &page.entries {
            assert_eq!(entry.message.room, room);
        }
        // Each message takes an id and a payload.
        assert!(page.entries.len() * 2 < input.len());
    }
});
