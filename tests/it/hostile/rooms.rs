//! Rooms and connections in numbers: too many, too fast, and gone without a word. What is left is told by Redis.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::await_no_session;
use crate::support::client::Client;
use crate::support::memory::descriptors;
use crate::support::node::Node;
use crate::support::raw::{Raw, command};
use crate::support::redis::Redis;
use crate::support::{undisturbed, within};

const ROOM: &str = "r";

fn subscribe(room: &str) -> Value {
    json!({"type": "SUBSCRIBE", "room": room})
}

fn unsubscribe(room: &str) -> Value {
    json!({"type": "UNSUBSCRIBE", "room": room})
}

async fn await_channels(redis: &Redis, expected: &[&str]) {
    let what = format!("the channels {expected:?}");
    within(Duration::from_secs(2), &what, async || {
        (redis.channels().await == expected).then_some(())
    })
    .await;
}

async fn await_memberships(node: &Node, expected: u64) {
    within(Duration::from_secs(2), "the memberships", async || {
        (node.metric("roomcast_memberships").await == expected).then_some(())
    })
    .await;
}

/// Somebody stays in a room that 50 others enter and leave without a pause, and misses nothing.
async fn assert_stayer_hears(messages: usize) {
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut stayer = Client::v1(&node.ws_url()).await;
    stayer.subscribe(ROOM).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let (stop, flaps) = (Cell::new(false), Cell::new(0_usize));
    let flap = async || {
        let mut raw = Raw::v1(node.address()).await;
        let both = [command(&subscribe(ROOM)), command(&unsubscribe(ROOM))].concat();
        while !stop.get() {
            raw.send(&both).await;
            let (mut replies, mut is_left) = (0, false);
            while replies < 2 {
                let frame = raw.json().await;
                match frame["type"].as_str() {
                    Some("message") => assert!(!is_left, "{frame} after it has left"),
                    Some("unsubscribed") => (replies, is_left) = (replies + 1, true),
                    Some("subscribed") => replies += 1,
                    Some("error") if frame["code"] == "cancelled" => replies += 1,
                    _ => panic!("{frame}"),
                }
            }
            flaps.set(flaps.get() + 1);
        }
        raw
    };
    let talk = async {
        for n in 0..messages {
            let reply = sender
                .call(json!({"type": "sendMessage", "room": ROOM, "message": n}))
                .await;
            assert_eq!(reply["type"], "sent", "{reply}");
        }
    };
    let hear = async {
        for n in 0..messages {
            assert_eq!(stayer.json().await["message"], n);
        }
        stop.set(true);
    };
    let (flappers, (), ()) = tokio::join!(join_all((0..50).map(|_| flap())), talk, hear);
    println!("{} times in and out during {messages} messages", flaps.get());
    assert_eq!(redis.channels().await, [ROOM]);
    await_memberships(&node, 1).await;
    assert_eq!(stayer.call(unsubscribe(ROOM)).await["type"], "unsubscribed");
    await_channels(&redis, &[]).await;
    drop(flappers);
}

#[actix::test]
async fn fifty_who_flap_take_nothing_from_one_who_stays() {
    let _turn = undisturbed().await;
    assert_stayer_hears(200).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn flapping_at_full_size() {
    let _turn = undisturbed().await;
    assert_stayer_hears(1_000).await;
}

#[actix::test]
async fn ten_thousand_rooms_are_a_thousand_and_all_are_given_back() {
    const WANTED: usize = 10_000;
    const ALLOWED: usize = 1_000;
    let _turn = undisturbed().await;
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut raw = Raw::v1(node.address()).await;
    let mut joined = 0;
    for first in (0..WANTED).step_by(500) {
        let burst: Vec<u8> = (first..first + 500)
            .flat_map(|n| command(&subscribe(&n.to_string())))
            .collect();
        raw.send(&burst).await;
        for _ in 0..500 {
            let reply = raw.json().await;
            match reply["type"].as_str() {
                Some("subscribed") => joined += 1,
                _ => assert_eq!(reply["code"], "room_limit", "{reply}"),
            }
        }
        assert_eq!(joined, ALLOWED.min(first + 500));
    }
    assert_eq!(redis.channels().await.len(), ALLOWED);
    // The connection lives, and one who leaves one may enter another.
    raw.send(&command(&unsubscribe("0"))).await;
    assert_eq!(raw.json().await["type"], "unsubscribed");
    for expected in ["subscribed", "error"] {
        raw.send(&command(&subscribe(&format!("after that, {expected}"))))
            .await;
        assert_eq!(raw.json().await["type"], expected);
    }
    drop(raw);
    await_channels(&redis, &[]).await;
    await_memberships(&node, 0).await;
}

/// Many connect at once, join a room each, and vanish at once.
async fn assert_storm_leaves_nothing(connections: usize) {
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut stayer = Client::v1(&node.ws_url()).await;
    stayer.subscribe(ROOM).await;
    // The connection of the one who asks may still be open.
    let most = descriptors(&node).map(|before| before + 2);
    for round in 0..2 {
        let connect = async |n: usize| {
            let mut raw = Raw::v1(node.address()).await;
            raw.send(&command(&subscribe(&format!("{round} {n}")))).await;
            if n.is_multiple_of(2) {
                assert_eq!(raw.json().await["type"], "subscribed");
            }
            if n.is_multiple_of(3) {
                raw.reset_when_dropped();
            }
            raw
        };
        let storm = join_all((0..connections).map(connect)).await;
        drop(storm);
        await_channels(&redis, &[ROOM]).await;
        within(
            Duration::from_secs(2),
            "descriptors and sessions to be free again",
            async || {
                let sessions = node.metric("roomcast_sessions").await;
                (sessions == 1 && descriptors(&node) <= most).then_some(())
            },
        )
        .await;
        let reply = stayer.call(json!({"type": "PING"})).await;
        assert_eq!(reply["type"], "pong");
    }
    drop(stayer);
    await_no_session(&node).await;
    await_channels(&redis, &[]).await;
}

#[actix::test]
async fn a_storm_leaves_no_channel_and_no_descriptor() {
    let _turn = undisturbed().await;
    assert_storm_leaves_nothing(300).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn a_storm_at_full_size() {
    let _turn = undisturbed().await;
    assert_storm_leaves_nothing(3_000).await;
}
