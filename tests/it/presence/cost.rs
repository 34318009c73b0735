//! What presence costs on Redis, counted in commands, those within scripts included.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::redis::Redis;

/// Rooms that one session may be in.
const ROOMS_PER_SESSION: usize = 1_000;

/// Commands that Redis has carried out, by name, without those that ask for this.
async fn commands(redis: &Redis) -> BTreeMap<String, u64> {
    let text: String = redis.command(&["INFO", "commandstats"]).await;
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line
            .strip_prefix("cmdstat_")
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let count = rest
            .strip_prefix("calls=")
            .and_then(|rest| rest.split(',').next())
            .expect("a number of calls");
        // A connection of the test's own says these.
        if !["info", "ping", "client|setinfo", "hello", "config|resetstat"].contains(&name) {
            calls.insert(name.to_owned(), count.parse().expect("a number"));
        }
    }
    calls
}

/// How many commands were carried out since, without the canaries of this many nodes, one a second each.
async fn since(redis: &Redis, before: &BTreeMap<String, u64>, began: Instant) -> f64 {
    let after = commands(redis).await;
    let mut delta = BTreeMap::new();
    for (name, count) in &after {
        let count = count - before.get(name).copied().unwrap_or_default();
        if count > 0 {
            delta.insert(name.clone(), count);
        }
    }
    println!("in {:?}: {delta:?}", began.elapsed());
    let total: u64 = delta.values().sum();
    let canaries = delta.get("publish").map_or(0.0, |publishes| {
        began.elapsed().as_secs_f64().floor().min(*publishes as f64)
    });
    total as f64 - canaries
}

async fn without_history(redis: &Redis) -> Node {
    let node = Node::start(&[("REDIS_URL", &redis.url()), ("ROOMCAST_HISTORY_SIZE", "0")]).await;
    node.ready().await;
    node
}

/// So many sessions, each of which enters so many rooms of its own, or the one.
async fn enter(node: &Node, sessions: usize, rooms: Option<usize>) -> Vec<Client> {
    let url = node.ws_url();
    let mut clients = Vec::new();
    while clients.len() < sessions {
        let some = (sessions - clients.len()).min(100);
        clients.extend(join_all((0..some).map(|_| Client::v1(&url))).await);
    }
    let enter = async |(number, client): (usize, &mut Client)| {
        let rooms: Vec<String> = match rooms {
            Some(count) => (0..count).map(|room| format!("{number} {room}")).collect(),
            None => vec!["one".to_owned()],
        };
        for room in &rooms {
            let command = json!({"type": "SUBSCRIBE", "id": room, "room": room, "presence": true});
            client.command(command).await;
        }
        let mut left = rooms.len();
        while left > 0 {
            let frame = client.json().await;
            assert_ne!(frame["type"], "error", "{frame}");
            left -= usize::from(frame["type"] == "subscribed");
        }
    };
    join_all(clients.iter_mut().enumerate().map(enter)).await;
    clients
}

async fn assert_cheap(sessions: usize, rooms: Option<usize>) {
    let redis = Redis::start().await;
    let node = without_history(&redis).await;
    let entries = (sessions * rooms.unwrap_or(1)) as f64;
    let (before, began) = (commands(&redis).await, Instant::now());
    let clients = enter(&node, sessions, rooms).await;
    let each = since(&redis, &before, began).await / entries;
    println!("{entries} entries: {each:.3} commands each");
    // Two for each, and what a batch of hundreds costs once.
    assert!(each <= 2.05, "{each} commands for each that enters");

    // At rest, whatever the number of members.
    const REST: Duration = Duration::from_secs(8);
    let (before, began) = (commands(&redis).await, Instant::now());
    sleep(REST).await;
    let idle = since(&redis, &before, began).await;
    println!("idle: {idle} commands in {REST:?}");
    // A look more or less falls into the time.
    assert!(idle <= REST.as_secs_f64() + 3.0, "{idle} commands in {REST:?}");
    drop(clients);
}

#[actix::test]
async fn many_who_enter_their_own_rooms_cost_two_commands_each_at_most() {
    assert_cheap(2, Some(ROOMS_PER_SESSION)).await;
}

#[actix::test]
async fn many_who_enter_one_room_cost_two_commands_each_at_most() {
    assert_cheap(600, None).await;
}

/// The figures that are published; not part of an ordinary run.
#[actix::test]
#[ignore = "takes a minute, and asserts nothing that the smaller ones do not"]
async fn ten_thousand_who_enter() {
    assert_cheap(10, Some(ROOMS_PER_SESSION)).await;
}

#[actix::test]
async fn sessions_without_presence_cost_nothing() {
    let redis = Redis::start().await;
    let node = without_history(&redis).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let before = commands(&redis).await;
    for room in 0..100 {
        client.subscribe(&format!("room {room}")).await;
    }
    let after = commands(&redis).await;
    let count = |name: &str| {
        let of = |calls: &BTreeMap<String, u64>| calls.get(name).copied().unwrap_or_default();
        of(&after) - of(&before)
    };
    for name in ["evalsha", "hset", "hincrby", "exists", "pexpire"] {
        assert_eq!(count(name), 0, "{name}");
    }
    assert_eq!(count("subscribe"), 100);
    let keys: Vec<String> = redis.command(&["KEYS", "*"]).await;
    assert_eq!(keys, [""; 0]);
}
