//! A Redis that is not there yet, or not any more: what is answered meanwhile, and what becomes of it.

use std::time::{Duration, Instant};

use roomcast::protocol::Dialect;
use serde_json::json;

use super::{PROMPT, assert_unavailable, await_unready, publish, publish_until_sent};
use crate::support::client::Client;
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::redis::Redis;

const ROOM: &str = "room1";

/// A node whose Redis has never been there.
async fn node_alone(redis: &Redis) -> Node {
    Node::start(&[("REDIS_URL", &redis.url())]).await
}

#[actix::test]
async fn a_node_starts_without_redis_and_is_ready_when_it_comes() {
    let mut redis = Redis::absent();
    let node = node_alone(&redis).await;
    let (status, reason) = node.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("not subscribed to the broker"), "{reason}");
    assert_eq!(node.get("/healthz").await.0, 200);
    let mut client = Client::v1(&node.ws_url()).await;
    assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
    let since = Instant::now();
    let reply = publish(&mut client, ROOM, "too early").await;
    assert_eq!(
        (&reply["code"], &reply["outcome"]),
        (&json!("unavailable"), &json!("refused"))
    );
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());

    redis.launch().await;
    let since = Instant::now();
    node.ready().await;
    println!("ready in {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    client.subscribe(ROOM).await;
    client.publish(ROOM, "in time").await;
    while client.json().await["message"] != "in time" {}
}

#[actix::test]
async fn a_v1_subscribe_waits_five_seconds_and_is_then_unavailable() {
    let mut redis = Redis::absent();
    let node = node_alone(&redis).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let since = Instant::now();
    let reply = client.call(json!({"type": "SUBSCRIBE", "room": ROOM})).await;
    let waited = since.elapsed();
    assert_eq!(reply["code"], "unavailable", "{reply}");
    assert!(
        (Duration::from_millis(4_500)..Duration::from_millis(6_500)).contains(&waited),
        "{waited:?}"
    );

    // It is not a member, and does not become one.
    redis.launch().await;
    node.ready().await;
    let mut other = Client::v1(&node.ws_url()).await;
    assert_eq!(redis.channels().await, [""; 0]);
    other.subscribe(ROOM).await;
    publish_until_sent(&mut other, ROOM).await;
    Member::of(client, ROOM, Dialect::V1).assert_heard_nothing().await;
}

#[actix::test]
async fn subscriptions_that_wait_begin_when_redis_comes_in_time() {
    let mut redis = Redis::absent();
    let node = node_alone(&redis).await;
    let mut waiting = Client::v1(&node.ws_url()).await;
    waiting
        .command(json!({"type": "SUBSCRIBE", "id": "waits", "room": ROOM}))
        .await;
    let mut plain = Client::plain(&node.ws_url()).await;
    plain
        .command(json!({"type": "SUBSCRIBE", "room": "plain room"}))
        .await;
    let mut gone = Client::plain(&node.ws_url()).await;
    for kind in ["SUBSCRIBE", "UNSUBSCRIBE"] {
        gone.command(json!({"type": kind, "room": "left again"})).await;
    }
    let mut broken = Client::plain(&node.ws_url()).await;
    broken
        .command(json!({"type": "SUBSCRIBE", "room": "connection broken"}))
        .await;
    for client in [&mut gone, &mut broken] {
        // Whatever the client has sent before has arrived.
        client.send_text("no JSON").await;
        assert_eq!(client.json().await["code"], "bad_json");
    }
    drop(broken);

    redis.launch().await;
    let reply = waiting.json_without_place().await;
    assert_eq!(
        reply,
        json!({"type": "subscribed", "id": "waits", "room": ROOM}),
        "{reply}"
    );
    redis.await_channels(&["plain room", ROOM]).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let text = publish_until_sent(&mut sender, ROOM).await;
    assert_eq!(waiting.json().await["message"], text);
    let mut plain = Member::of(plain, "plain room", Dialect::Plain);
    let text = publish_until_sent(&mut sender, "plain room").await;
    plain.hear_until(&text).await;
    publish_until_sent(&mut sender, "left again").await;
    Member::of(gone, "left again", Dialect::Plain)
        .assert_heard_nothing()
        .await;
}

#[actix::test]
async fn a_plain_subscribe_while_redis_is_away_begins_when_it_is_back() {
    let mut redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    redis.kill();
    await_unready(&node).await;
    let mut plain = Client::plain(&node.ws_url()).await;
    plain.command(json!({"type": "SUBSCRIBE", "room": ROOM})).await;
    let since = Instant::now();
    plain.publish(ROOM, "not yet").await;
    // Nothing but this is said.
    let reply = plain.json().await;
    assert_unavailable(&reply);
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());

    redis.launch().await;
    redis.await_channels(&[ROOM]).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let text = publish_until_sent(&mut sender, ROOM).await;
    Member::of(plain, ROOM, Dialect::Plain).hear_until(&text).await;
}

#[actix::test]
async fn a_publish_behind_a_subscribe_that_waits_is_answered_soon_and_in_order() {
    let redis = Redis::absent();
    let node = node_alone(&redis).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let mut plain = Client::plain(&node.ws_url()).await;
    // Once as the first ones, and once while others wait.
    for room in [ROOM, "room2"] {
        let since = Instant::now();
        client
            .command(json!({"type": "SUBSCRIBE", "id": 1, "room": room}))
            .await;
        client
            .command(json!({"type": "sendMessage", "id": 2, "roomId": room, "message": "x"}))
            .await;
        let (first, second) = (client.json().await, client.json().await);
        assert!(
            since.elapsed() < Duration::from_millis(1_500),
            "{:?}",
            since.elapsed()
        );
        assert_eq!((&first["id"], &second["id"]), (&json!(1), &json!(2)));
        assert_eq!(first["code"], "unavailable", "{first}");
        assert_unavailable(&second);

        let since = Instant::now();
        plain.command(json!({"type": "SUBSCRIBE", "room": room})).await;
        plain.publish(room, "x").await;
        assert_unavailable(&plain.json().await);
        assert!(
            since.elapsed() < Duration::from_millis(1_500),
            "{:?}",
            since.elapsed()
        );
        client
            .command(json!({"type": "SUBSCRIBE", "room": "waits on"}))
            .await;
    }
}

#[actix::test]
async fn an_unsubscribe_overtakes_a_subscribe_that_waits() {
    let mut redis = Redis::absent();
    let node = node_alone(&redis).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let since = Instant::now();
    client
        .command(json!({"type": "SUBSCRIBE", "id": 1, "room": ROOM}))
        .await;
    client
        .command(json!({"type": "UNSUBSCRIBE", "id": 2, "room": ROOM}))
        .await;
    let reply = client.json().await;
    assert_eq!(
        (&reply["type"], &reply["code"], &reply["id"]),
        (&json!("error"), &json!("cancelled"), &json!(1))
    );
    assert_eq!(
        client.json().await,
        json!({"type": "unsubscribed", "id": 2, "room": ROOM})
    );
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    redis.launch().await;
    node.ready().await;
    assert_eq!(redis.channels().await, [""; 0]);
}

#[actix::test]
async fn a_node_dials_at_most_five_times_a_second_and_never_gives_up() {
    let redis = Redis::absent();
    let node = node_alone(&redis).await;
    for _ in 0..2 {
        let (since, before) = (Instant::now(), node.metric("roomcast_redis_dials_total").await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let dials = node.metric("roomcast_redis_dials_total").await - before;
        let allowed = since.elapsed().as_secs_f64() * 5.0;
        assert!(dials >= 2, "{dials} dials");
        assert!(
            dials as f64 <= allowed,
            "{dials} dials where {allowed:.0} are allowed"
        );
    }
    let seconds = 4;
    let lines = node.log().lines().count();
    assert!(
        lines <= 2 * (seconds + 2),
        "{lines} log lines in {seconds} s: {}",
        node.log()
    );
}
