//! Rooms across nodes.

use std::time::Duration;

use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use rustix::process::Signal;
use serde_json::json;

use crate::support::client::{Client, Event};
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::redis::Redis;

const ROOM: &str = "room1";

#[actix::test]
async fn members_on_two_nodes_hear_each_other_in_both_dialects() {
    let redis = Redis::start().await;
    let nodes = [
        Node::on_redis(&redis.url()).await,
        Node::on_redis(&redis.url()).await,
    ];
    let mut members = Vec::new();
    for dialect in [Dialect::Plain, Dialect::V1] {
        for node in &nodes {
            members.push(Member::join(&node.ws_url(), ROOM, dialect).await);
        }
    }
    for node in &nodes {
        let mut v1 = Client::v1(&node.ws_url()).await;
        let mut plain = Client::plain(&node.ws_url()).await;
        for sender in [&mut v1, &mut plain] {
            for message in [json!("hello"), json!({"any": "json"})] {
                sender.publish(ROOM, message.clone()).await;
                let text = message
                    .as_str()
                    .map_or_else(|| message.to_string(), str::to_owned);
                for member in &mut members {
                    assert_eq!(member.hear().await, text);
                }
            }
        }
    }
}

#[actix::test]
async fn publishers_on_two_nodes_at_once_are_heard_in_one_order_everywhere() {
    const EACH: usize = 200;
    let redis = Redis::start().await;
    let nodes = [
        Node::on_redis(&redis.url()).await,
        Node::on_redis(&redis.url()).await,
    ];
    let (mut members, mut senders) = (Vec::new(), Vec::new());
    for node in &nodes {
        for dialect in [Dialect::Plain, Dialect::V1, Dialect::V1] {
            members.push(Member::join(&node.ws_url(), ROOM, dialect).await);
        }
        for _ in 0..2 {
            senders.push(Client::v1(&node.ws_url()).await);
        }
    }
    let total = senders.len() * EACH;
    let send = async |(nth, mut sender): (usize, Client)| {
        for number in 0..EACH {
            sender.publish(ROOM, format!("{nth} {number}")).await;
        }
        for _ in 0..EACH {
            assert_eq!(sender.json().await["type"], "sent");
        }
    };
    let (heard, sent) = tokio::join!(
        join_all(members.iter_mut().map(|member| member.hear_all(total))),
        join_all(senders.into_iter().enumerate().map(send)),
    );
    for other in &heard[1..] {
        assert_eq!(other, &heard[0]);
    }
    for sender in 0..sent.len() {
        let prefix = format!("{sender} ");
        let of_sender = heard[0].iter().filter(|text| text.starts_with(&prefix));
        let expected: Vec<String> = (0..EACH).map(|number| format!("{prefix}{number}")).collect();
        assert!(of_sender.eq(&expected), "not in the order of sender {sender}");
    }
}

#[actix::test]
async fn a_killed_node_leaves_no_channel_and_the_other_goes_on() {
    let redis = Redis::start().await;
    let mut victim = Node::on_redis(&redis.url()).await;
    let node = Node::on_redis(&redis.url()).await;
    let mut lost = Client::v1(&victim.ws_url()).await;
    for room in [ROOM, "only there"] {
        lost.subscribe(room).await;
    }
    let mut member = Member::join(&node.ws_url(), ROOM, Dialect::V1).await;
    redis.await_channels(&["only there", ROOM]).await;

    victim.signal(Signal::KILL);
    victim.exit(Duration::from_secs(5)).await;
    redis.await_channels(&[ROOM]).await;
    assert_eq!(lost.event().await, Event::Closed(None));
    let mut sender = Client::v1(&node.ws_url()).await;
    sender.publish(ROOM, "as before").await;
    assert_eq!(member.hear().await, "as before");
    drop(member);
    redis.await_channels(&[]).await;
}
