//! Senders that do not stop while Redis does, and a node without Redis: what it costs, and who is answered when.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;

use super::{AT_ONCE, MIB};
use crate::support::bystander::{Bystander, QUICKLY};
use crate::support::client::Client;
use crate::support::memory::{Memory, processor_time};
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, command};
use crate::support::redis::Redis;
use crate::support::undisturbed;

/// The text of a message in these tests.
const MESSAGE: usize = 16 * 1024;

/// What may be under way of one sender's, with the message that goes beyond it, …
const MOST_UNDER_WAY: usize = MIB + 2 * MESSAGE;

/// … and of all senders' on a node.
const MOST_QUEUED: usize = 64 * MIB;

/// What a connection may take beside, for bytes that wait to be understood or sent.
const MOST_BUFFERED: usize = MIB / 2;

/// The longest that an answer to a publish may take, whatever Redis does.
const ANSWERED: Duration = Duration::from_secs(3);

/// Sends as much as the node takes while Redis stands still, and answers are read. What was sent, and the longest wait
/// for an answer.
async fn flood(address: &str, bytes: usize) -> (usize, Duration) {
    let mut raw = Raw::v1(address).await;
    let (mut sent, mut asked) = (0, std::collections::VecDeque::new());
    let mut longest = Duration::ZERO;
    let mut rest: Vec<u8> = Vec::new();
    while sent < bytes || !asked.is_empty() {
        if rest.is_empty() && sent < bytes {
            rest = command(&json!({"type": "sendMessage", "room": "r", "message": "x".repeat(MESSAGE)}));
            asked.push_back(Instant::now());
            sent += MESSAGE;
        }
        let taken = match rest.as_slice() {
            [] => None,
            bytes => raw.send_some(bytes, Duration::from_millis(1)).await,
        };
        match taken {
            Some(count) => drop(rest.drain(..count)),
            None => {
                let Received::Text(text) = raw.next().await else {
                    continue;
                };
                assert!(text.contains("unavailable") || text.contains("sent"), "{text}");
                let since: Instant = asked.pop_front().expect("asked before");
                longest = longest.max(since.elapsed());
            }
        }
    }
    (sent, longest)
}

async fn assert_flood_is_bounded(senders: usize, bytes: usize, patience: Duration) {
    let mut redis = Redis::start().await;
    let node = Node::start(&[("REDIS_URL", &redis.url()), ("ROOMCAST_HISTORY_SIZE", "0")]).await;
    node.ready().await;
    let bystander = Bystander::asking(&node);
    let memory = Memory::of(&node);
    redis.signal(Signal::STOP);
    let floods = join_all((0..senders).map(|_| flood(node.address(), bytes / senders)));
    let mut most_queued = 0;
    let watch = async {
        loop {
            most_queued = most_queued.max(node.metric("roomcast_publish_queue_bytes").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let floods = tokio::select! {
        floods = floods => floods,
        () = watch => unreachable!("it goes on looking"),
    };
    let sent: usize = floods.iter().map(|(sent, _)| sent).sum();
    let longest = floods
        .iter()
        .map(|(_, longest)| *longest)
        .max()
        .unwrap_or_default();
    // What waits in the peer's own kernel is measured along, and has not been asked yet.
    println!(
        "{senders} senders offered {} MiB; at most {} KiB were queued, the longest wait was {longest:?}",
        sent / MIB,
        most_queued / 1024
    );
    let queued = usize::try_from(most_queued).expect("a number of bytes");
    assert!(
        queued <= MOST_QUEUED.min(senders * MOST_UNDER_WAY),
        "{queued} bytes were queued"
    );
    memory.assert_growth(MOST_QUEUED.min(senders * MOST_UNDER_WAY) + senders * MOST_BUFFERED + 4 * MIB);
    bystander.assert_was_served_within(patience);
    redis.signal(Signal::CONT);
    crate::support::eventually("a publish that is taken again", async || {
        let reply = Client::v1(&node.ws_url())
            .await
            .call(json!({"type": "sendMessage", "room": "r", "message": "on"}))
            .await;
        (reply["type"] == "sent").then_some(())
    })
    .await;
    node.ready().await;
    redis.kill();
}

#[actix::test]
async fn a_sender_that_floods_while_redis_stands_still_costs_little() {
    let _turn = undisturbed().await;
    assert_flood_is_bounded(1, 16 * MIB, QUICKLY).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn senders_that_flood_at_full_size_while_redis_stands_still() {
    let _turn = undisturbed().await;
    assert_flood_is_bounded(1, 64 * MIB, AT_ONCE).await;
    assert_flood_is_bounded(200, 400 * MIB, AT_ONCE * 5).await;
}

#[actix::test]
async fn the_first_publishes_into_a_standing_redis_are_answered_in_time() {
    let _turn = undisturbed().await;
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut raw = Raw::v1(node.address()).await;
    redis.signal(Signal::STOP);
    let since = Instant::now();
    for n in 0..32 {
        raw.send(&command(
            &json!({"type": "sendMessage", "id": n, "room": "r", "message": "x".repeat(MESSAGE)}),
        ))
        .await;
    }
    for n in 0..32 {
        let reply = raw.json().await;
        assert_eq!(
            (&reply["code"], &reply["id"]),
            (&json!("unavailable"), &json!(n)),
            "{reply}"
        );
    }
    assert!(since.elapsed() < ANSWERED, "{:?}", since.elapsed());
    redis.signal(Signal::CONT);
}

#[actix::test]
async fn a_node_without_redis_keeps_no_core_busy() {
    const SPAN: Duration = Duration::from_secs(4);
    let _turn = undisturbed().await;
    let redis = Redis::absent();
    let node = Node::start(&[("REDIS_URL", &redis.url())]).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let Some(before) = processor_time(&node) else {
        return;
    };
    let until = Instant::now() + SPAN;
    while Instant::now() < until {
        let since = Instant::now();
        let reply = client
            .call(json!({"type": "sendMessage", "room": "r", "message": "x"}))
            .await;
        assert_eq!(reply["outcome"], "refused", "{reply}");
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let busy = processor_time(&node).expect("as before") - before;
    println!("busy for {busy:?} of {SPAN:?}");
    assert!(busy < SPAN / 20, "busy for {busy:?} of {SPAN:?}");
}
