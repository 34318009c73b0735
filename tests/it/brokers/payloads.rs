//! Redis: what travels on a channel, and what is made of what others put there.

use std::time::Instant;

use roomcast::protocol::Dialect;
use serde_json::{Value, json};

use super::{Site, publish};
use crate::support::client::Client;
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::original::Original;
use crate::support::redis::Redis;

const ROOM: &str = "room1";

/// Eight times the default of `ROOMCAST_MAX_MESSAGE`, in bytes.
const MAX_PAYLOAD: usize = 8 * 65_536;

#[actix::test]
async fn a_payload_has_the_originals_form() {
    let site = Site::redis().await;
    let mut listener = site.broker().listen(ROOM).await;
    let mut v1 = Client::v1(&site.url()).await;
    let mut plain = Client::plain(&site.url()).await;

    publish(&mut v1, ROOM, "hello \"you\" 🦀".into()).await;
    let payload = object(&listener.payload().await);
    assert_eq!(payload["type"], "sendMessage");
    assert_eq!(payload["roomId"], ROOM);
    assert_eq!(payload["message"], "hello \"you\" 🦀");
    assert!(payload["json"].as_bool() != Some(true), "{payload}");

    for message in [json!({"any": ["json", 1]}), json!(7), Value::Null, json!(false)] {
        publish(&mut v1, ROOM, message.clone()).await;
        assert_json(&object(&listener.payload().await), &message);
        plain.publish(ROOM, message.clone()).await;
        assert_json(&object(&listener.payload().await), &message);
    }
}

fn object(payload: &str) -> Value {
    serde_json::from_str(payload).unwrap_or_else(|error| panic!("{payload:?} is not JSON: {error}"))
}

fn assert_json(payload: &Value, message: &Value) {
    let text = payload["message"].as_str().expect("always a string");
    assert_eq!(serde_json::from_str::<Value>(text).ok().as_ref(), Some(message));
    assert_eq!(
        (&payload["type"], &payload["roomId"], &payload["json"]),
        (&json!("sendMessage"), &json!(ROOM), &json!(true))
    );
}

#[actix::test]
async fn what_others_publish_reaches_both_dialects() {
    let site = Site::redis().await;
    let redis = site.broker();
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    let mut v1 = Member::join(&site.url(), ROOM, Dialect::V1).await;
    for payload in [
        r#"{"type":"sendMessage","roomId":"room1","message":"hi"}"#,
        r#" { "message" : "hi" , "roomId" : "room1" , "type" : "sendMessage" } "#,
        r#"{"type":"sendMessage","roomId":"room1","message":"\u0068i","unknown":{"a":[1]},"v":99}"#,
        r#"{"type":"\u0073endMessage","roomId":"r\u006fom1","message":"hi","json":false}"#,
        r#"{"type":"sendMessage","roomId":"room1","message":"hi","time":"soon","sender":7,"session":[]}"#,
        r#"{"type":"sendMessage","roomId":"room1","message":"hi","offset":-1,"epoch":{}}"#,
    ] {
        assert_eq!(redis.publish(ROOM, payload).await, 1);
        assert_eq!(plain.hear().await, "hi", "{payload}");
        assert_eq!(v1.hear().await, "hi", "{payload}");
    }
    let greatest = payload_of(MAX_PAYLOAD);
    redis.publish(ROOM, &greatest).await;
    assert_eq!(plain.hear().await.len(), v1.hear().await.len());
}

/// A good payload of so many bytes.
fn payload_of(bytes: usize) -> String {
    let empty = json!({"type": "sendMessage", "roomId": ROOM, "message": ""}).to_string();
    let message = "x".repeat(bytes - empty.len());
    json!({"type": "sendMessage", "roomId": ROOM, "message": message}).to_string()
}

#[actix::test]
async fn garbage_is_counted_and_dropped_and_the_next_good_message_arrives() {
    let site = Site::redis().await;
    let redis = site.broker();
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    let mut v1 = Member::join(&site.url(), ROOM, Dialect::V1).await;
    let mut other = Member::join(&site.url(), "room2", Dialect::V1).await;
    let mut dropped = 0;
    for payload in [
        &b""[..],
        b"hello",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        br#"{"type":"sendMessage","roomId":"room1","message":"cut of"#,
        br#"{"type":"sendMessage","roomId":"room1","message":"hi"} and more"#,
        b"{\"type\":\"sendMessage\",\"roomId\":\"room1\",\"message\":\"\xff\"}",
        br#"{"type":"SUBSCRIBE","roomId":"room1","message":"hi"}"#,
        br#"{"roomId":"room1","message":"no type"}"#,
        br#"{"type":"sendMessage","roomId":"room1"}"#,
        br#"{"type":"sendMessage","message":"no room"}"#,
        br#"{"type":"sendMessage","roomId":1,"message":"hi"}"#,
        br#"{"type":"sendMessage","roomId":"room1","message":1}"#,
        br#"{"type":"sendMessage","roomId":"room1","message":null}"#,
        br#"{"type":"sendMessage","roomId":"room1","message":{"a":"b"},"json":true}"#,
        br#"{"type":"sendMessage","roomId":"room2","message":"another room"}"#,
        br#"{"type":"sendMessage","roomId":"ROOM1","message":"another room"}"#,
        payload_of(MAX_PAYLOAD + 1).as_bytes(),
        "[".repeat(100_000).as_bytes(),
    ] {
        let mut connection = redis.connection().await;
        let receivers: usize = redis::cmd("PUBLISH")
            .arg(ROOM)
            .arg(payload)
            .query_async(&mut connection)
            .await
            .expect("published");
        assert_eq!(receivers, 1);
        dropped += 1;
        let good = json!({"type": "sendMessage", "roomId": ROOM, "message": "good"}).to_string();
        redis.publish(ROOM, &good).await;
        for member in [&mut plain, &mut v1] {
            assert_eq!(
                member.hear().await,
                "good",
                "after {:?}",
                String::from_utf8_lossy(payload)
            );
        }
        site.await_metric("roomcast_payloads_dropped_total", dropped)
            .await;
    }
    other.assert_heard_nothing().await;
}

#[actix::test]
async fn twenty_thousand_bad_payloads_in_a_row_are_one_log_line_a_second() {
    const FLOOD: u64 = 20_000;
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut member = Member::join(&node.ws_url(), ROOM, Dialect::V1).await;
    let lines_before = node.log().lines().count();
    let began = Instant::now();
    let mut connection = redis.connection().await;
    for _ in 0..FLOOD / 1_000 {
        let mut batch = redis::pipe();
        for _ in 0..1_000 {
            batch.cmd("PUBLISH").arg(ROOM).arg("garbage").ignore();
        }
        let () = batch.query_async(&mut connection).await.expect("published");
    }
    let good = json!({"type": "sendMessage", "roomId": ROOM, "message": "good"}).to_string();
    redis.publish(ROOM, &good).await;
    assert_eq!(member.hear().await, "good");
    assert_eq!(node.metric("roomcast_payloads_dropped_total").await, FLOOD);
    let lines = node.log().lines().count() - lines_before;
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("few");
    assert!(
        (1..=seconds + 1).contains(&lines),
        "{lines} lines in {seconds} s: {}",
        node.log()
    );
}

#[actix::test]
async fn servers_of_the_original_and_nodes_share_rooms() {
    let site = Site::redis().await;
    let original = Original::start(site.broker()).await;
    let mut there = original.join(ROOM).await;
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    assert_eq!(there.hear().await, "mark of room1");
    let mut v1 = Member::join(&site.url(), ROOM, Dialect::V1).await;

    for number in 0..20 {
        let text = format!("from there {number} \"🦀\"\n");
        original.publish(ROOM, &text).await;
        assert_eq!(
            (there.hear().await, plain.hear().await, v1.hear().await),
            (text.clone(), text.clone(), text)
        );
    }
    let messages = [
        json!("from here \"🦀\"\n"),
        json!({"any": ["json"]}),
        json!(1),
        Value::Null,
    ];
    for message in messages {
        let text = message
            .as_str()
            .map_or_else(|| message.to_string(), str::to_owned);
        for sender in [&mut v1.client, &mut plain.client] {
            sender.publish(ROOM, message.clone()).await;
            assert_eq!(there.hear().await, text);
        }
        assert_eq!(plain.hear_all(2).await, [text.clone(), text.clone()]);
        // Its own `sent` comes before or after its own message.
        let mut heard = 0;
        while heard < 2 {
            heard += usize::from(v1.client.json().await["type"] == "message");
        }
    }
    original.publish("room of nobody", "nobody hears it").await;
    original.publish(ROOM, "the end").await;
    assert_eq!(there.hear().await, "the end");
    assert_eq!(plain.hear().await, "the end");
}
