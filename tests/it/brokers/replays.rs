//! Replays that are longer than a page, to readers that take their time. On real processes, so that what they cost can be
//! seen.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::memory::Memory;
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, command};
use crate::support::redis::Redis;
use crate::support::undisturbed;

const ROOM: &str = "room1";

const MIB: usize = 1024 * 1024;

/// So many are kept.
const KEPT: (&str, &str) = ("ROOMCAST_HISTORY_SIZE", "2000");

/// More than any buffer takes.
const MESSAGES: u64 = 1_000;
const MESSAGE_BYTES: usize = 4 * 1024;

macro_rules! on_both_brokers {
    ($($behaviour:ident)*) => {
        mod memory {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&super::Node::start(&[super::KEPT]).await).await;
            })*
        }
        mod redis {
            $(#[actix::test] async fn $behaviour() {
                let redis = super::Redis::start().await;
                let node = super::Node::start(&[super::KEPT, ("REDIS_URL", &redis.url())]).await;
                node.ready().await;
                super::$behaviour(&node).await;
            })*
        }
    };
}

on_both_brokers! {
    a_long_replay_reaches_slow_readers_whole_and_in_order_and_costs_little
    a_replay_that_is_left_ends_and_can_be_had_again
    two_long_replays_on_one_session_do_not_mix_up_their_rooms
    long_replays_of_many_rooms_at_once_all_come_to_their_end
    what_is_trimmed_under_a_replay_is_told_as_a_gap
}

fn text(room: &str, number: u64) -> String {
    let mut text = format!("{room} {number} ");
    text += &"x".repeat(MESSAGE_BYTES - text.len());
    text
}

/// Fills a room with so many messages, and returns its epoch.
async fn fill(node: &Node, room: &str, count: u64) -> Value {
    let mut sender = Client::v1(&node.ws_url()).await;
    for number in 1..=count {
        sender.publish(room, text(room, number)).await;
    }
    let mut epoch = Value::Null;
    for number in 1..=count {
        let mut reply = sender.json().await;
        assert_eq!(reply["offset"], number, "{reply}");
        epoch = reply["epoch"].take();
    }
    epoch
}

/// A session whose system takes little before it reads.
async fn narrow(node: &Node) -> Raw {
    let mut raw = Raw::connect_narrow(node.address())
        .await
        .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
        .await;
    assert_eq!(raw.json().await["type"], "welcome");
    raw
}

async fn recover(raw: &mut Raw, room: &str, after: u64, epoch: &Value) {
    let wish = json!({"type": "SUBSCRIBE", "id": room, "room": room, "after": after, "epoch": epoch});
    raw.send(&command(&wish)).await;
}

/// Checks the next message of a room.
#[track_caller]
fn assert_message(frame: &Value, room: &str, number: u64) {
    assert_eq!(
        (&frame["type"], &frame["room"]),
        (&json!("message"), &json!(room)),
        "{frame}"
    );
    assert_eq!(frame["offset"], number, "{frame}");
    assert!(
        frame["message"] == *text(room, number),
        "another text at {number}"
    );
}

async fn a_long_replay_reaches_slow_readers_whole_and_in_order_and_costs_little(node: &Node) {
    const READERS: usize = 10;
    const MORE: u64 = 100;
    let _turn = undisturbed().await;
    let epoch = fill(node, ROOM, MESSAGES).await;
    let memory = Memory::of(node);
    let read = async |nth: usize| {
        let mut reader = narrow(node).await;
        recover(&mut reader, ROOM, 0, &epoch).await;
        let reply = reader.json().await;
        assert_eq!(reply["recovered"], true, "{reply}");
        for number in 1..=MESSAGES + MORE {
            assert_message(&reader.json().await, ROOM, number);
            // Each at its own pace.
            if number.is_multiple_of(5 + nth as u64) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let talk = async {
        let mut sender = Client::v1(&node.ws_url()).await;
        for number in MESSAGES + 1..=MESSAGES + MORE {
            let command = json!({"type": "sendMessage", "room": ROOM, "message": text(ROOM, number)});
            assert_eq!(sender.call(command).await["offset"], number);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(join_all((0..READERS).map(read)), talk);
    // Each may have its backlog; what all of them are read to is four times as much.
    memory.assert_growth(READERS * MIB + 8 * MIB);
}

async fn a_replay_that_is_left_ends_and_can_be_had_again(node: &Node) {
    let epoch = fill(node, ROOM, MESSAGES).await;
    let mut reader = narrow(node).await;
    for _ in 0..3 {
        recover(&mut reader, ROOM, 0, &epoch).await;
        assert_eq!(reader.json().await["recovered"], true);
        for number in 1..=10 {
            assert_message(&reader.json().await, ROOM, number);
        }
        let leave = json!({"type": "UNSUBSCRIBE", "id": "out", "room": ROOM});
        reader.send(&command(&leave)).await;
        let mut number = 11;
        loop {
            let frame = reader.json().await;
            if frame["type"] == "unsubscribed" {
                break;
            }
            assert_message(&frame, ROOM, number);
            number += 1;
        }
        assert!(number < MESSAGES, "the replay went on to its end");
        reader
            .send(&command(&json!({"type": "PING", "id": "quiet?"})))
            .await;
        assert_eq!(reader.json().await["type"], "pong");
    }
    recover(&mut reader, ROOM, 0, &epoch).await;
    assert_eq!(reader.json().await["recovered"], true);
    for number in 1..=MESSAGES {
        assert_message(&reader.json().await, ROOM, number);
    }
}

async fn two_long_replays_on_one_session_do_not_mix_up_their_rooms(node: &Node) {
    const ROOMS: [&str; 2] = [ROOM, "room2"];
    let epochs = [
        fill(node, ROOMS[0], MESSAGES).await,
        fill(node, ROOMS[1], MESSAGES).await,
    ];
    let mut reader = narrow(node).await;
    for (room, epoch) in ROOMS.iter().zip(&epochs) {
        recover(&mut reader, room, 0, epoch).await;
    }
    let (mut heard, mut subscribed) = ([0, 0], [false, false]);
    while heard != [MESSAGES; 2] {
        let frame = reader.json().await;
        let nth = ROOMS
            .iter()
            .position(|room| frame["room"] == *room)
            .unwrap_or_else(|| panic!("{frame}"));
        if frame["type"] == "subscribed" {
            assert_eq!(frame["recovered"], true, "{frame}");
            assert!(!std::mem::replace(&mut subscribed[nth], true), "{frame}");
            continue;
        }
        assert!(subscribed[nth], "a message came before its subscription");
        heard[nth] += 1;
        assert_message(&frame, ROOMS[nth], heard[nth]);
    }
}

async fn long_replays_of_many_rooms_at_once_all_come_to_their_end(node: &Node) {
    // More rooms than a node keeps pieces of the past for, and more messages than one page takes.
    const ROOMS: usize = 40;
    const EACH: u64 = 150;
    let rooms: Vec<String> = (0..ROOMS).map(|nth| format!("room{nth}")).collect();
    let mut epochs = Vec::new();
    for room in &rooms {
        epochs.push(fill(node, room, EACH).await);
    }
    let read = async |room: &str, epoch: &Value| {
        let mut reader = narrow(node).await;
        recover(&mut reader, room, 0, epoch).await;
        let reply = reader.json().await;
        assert_eq!(reply["recovered"], true, "{reply}");
        for number in 1..=EACH {
            assert_message(&reader.json().await, room, number);
        }
    };
    join_all(rooms.iter().zip(&epochs).map(|(room, epoch)| read(room, epoch))).await;
}

async fn what_is_trimmed_under_a_replay_is_told_as_a_gap(node: &Node) {
    const MORE: u64 = 1_500;
    let epoch = fill(node, ROOM, MESSAGES).await;
    let mut reader = narrow(node).await;
    recover(&mut reader, ROOM, 0, &epoch).await;
    assert_eq!(reader.json().await["recovered"], true);
    assert_message(&reader.json().await, ROOM, 1);
    // Small ones: they wait behind the replay, and count.
    let mut sender = Client::v1(&node.ws_url()).await;
    for _ in 0..MORE {
        sender.publish(ROOM, "").await;
    }
    for number in MESSAGES + 1..=MESSAGES + MORE {
        assert_eq!(sender.json().await["offset"], number);
    }
    let (mut last, mut gaps) = (1, 0);
    while last < MESSAGES + MORE {
        let frame = match reader.next().await {
            Received::Text(text) => serde_json::from_str::<Value>(&text).expect("JSON"),
            other => panic!("{other:?} after {last}"),
        };
        match frame["type"].as_str() {
            Some("message") => {
                assert_eq!(frame["offset"], last + 1, "{frame}");
                last += 1;
            }
            Some("gap") => {
                assert_eq!(
                    (&frame["after"], &frame["epoch"]),
                    (&json!(last), &epoch),
                    "{frame}"
                );
                last = frame["offset"]
                    .as_u64()
                    .filter(|to| *to > last)
                    .expect("further on");
                gaps += 1;
            }
            _ => panic!("an unexpected frame: {frame}"),
        }
    }
    println!("{gaps} gaps");
    assert!(gaps > 0, "all was replayed though it was kept no longer");
}
