//! Who is listed as a member of a room: what sessions are told of each other, over nodes, and whatever happens to them.

mod cost;
mod faults;
mod random;
mod suite;
mod watcher;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::redis::Redis;

/// A dead node's members are gone by then.
const GONE: Duration = Duration::from_secs(15);

/// Subscribes with `presence`.
async fn enter(client: &mut Client, room: &str) {
    let reply = set_presence(client, room, true).await;
    assert_eq!(reply["type"], "subscribed", "{reply}");
}

async fn set_presence(client: &mut Client, room: &str, presence: bool) -> Value {
    client
        .call(json!({"type": "SUBSCRIBE", "room": room, "presence": presence}))
        .await
}

/// The count of MEMBERS, and the sessions in it, sorted.
async fn members(client: &mut Client, room: &str) -> (u64, Vec<String>) {
    let reply = client.call(json!({"type": "MEMBERS", "room": room})).await;
    assert_eq!(
        (&reply["type"], &reply["room"]),
        (&json!("members"), &json!(room)),
        "{reply}"
    );
    let list = reply["members"].as_array().expect("a list");
    let mut sessions: Vec<String> = list.iter().map(session_of).collect();
    sessions.sort();
    (reply["count"].as_u64().expect("a count"), sessions)
}

fn session_of(member: &Value) -> String {
    member["session"].as_str().expect("a session").to_owned()
}

/// What is left on Redis of presence: its keys.
async fn keys(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis.command(&["KEYS", "roomcast:*"]).await;
    keys.retain(|key| {
        let what = key.split_once("}:").map(|(_, what)| what).expect("a key of ours");
        what == "presence" || what == "leases" || what.starts_with("lease:")
    });
    keys.sort();
    keys
}
