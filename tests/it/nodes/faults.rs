//! Faults under connected clients, and how soon rooms flow again.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use rustix::process::Signal;
use serde_json::json;

use super::{ANSWERED, Cluster, PROMPT, assert_unavailable, await_unready, publish, publish_until_sent};
use crate::support::client::Client;
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::redis::Redis;

/// Healing takes about a second; the rest is for a busy machine.
const HEALED: Duration = Duration::from_secs(3);

const ROOM: &str = "room1";

#[actix::test]
async fn clients_outlive_a_restart_of_redis() {
    const PIPELINED: i64 = 50;
    let mut cluster = Cluster::start().await;
    let url = cluster.nodes[0].ws_url();
    let (mut v1, mut plain) = (Client::v1(&url).await, Client::plain(&url).await);

    // Whatever is under way when Redis dies is answered.
    let mut busy = Client::v1(&url).await;
    let since = Instant::now();
    for id in 0..PIPELINED {
        if id == PIPELINED / 2 {
            cluster.redis.kill();
        }
        busy.command(json!({"type": "sendMessage", "id": id, "roomId": "room of nobody", "message": "x"}))
            .await;
    }
    for id in 0..PIPELINED {
        let reply = busy.json().await;
        assert_eq!(reply["id"], id, "{reply}");
        if reply["type"] != "sent" {
            assert_unavailable(&reply);
        }
    }
    assert!(since.elapsed() < ANSWERED, "{:?}", since.elapsed());

    for node in &cluster.nodes {
        await_unready(node).await;
        assert_eq!(node.get("/healthz").await.0, 200);
    }
    for _ in 0..2 {
        let since = Instant::now();
        let reply = publish(&mut v1, "room 0", "while Redis is away").await;
        assert_eq!(
            (&reply["code"], &reply["outcome"]),
            (&json!("unavailable"), &json!("refused"))
        );
        plain.publish("room 0", "while Redis is away").await;
        assert_unavailable(&plain.json().await);
        assert!(since.elapsed() < 2 * PROMPT, "{:?}", since.elapsed());
    }
    let since = Instant::now();
    let _ = publish(&mut v1, "room 0", "while Redis is away").await;
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());

    cluster.redis.launch().await;
    let healed = cluster.heal(Instant::now(), 1..=1).await;
    assert!(healed < HEALED, "{healed:?}");
    for node in &cluster.nodes {
        node.ready().await;
    }
    let mut channels: Vec<&str> = cluster.rooms.iter().map(|(room, _)| room.as_str()).collect();
    channels.sort_unstable();
    cluster.redis.await_channels(&channels).await;
}

#[actix::test]
async fn a_killed_subscription_heals() {
    let mut cluster = Cluster::start().await;
    for _ in 0..2 {
        let since = Instant::now();
        cluster.redis.client_kill("pubsub").await;
        let healed = cluster.heal(since, 1..=1).await;
        assert!(healed < HEALED, "{healed:?}");
    }
}

#[actix::test]
async fn a_killed_publishing_connection_heals_and_nobody_notices() {
    let mut cluster = Cluster::start().await;
    for _ in 0..2 {
        let since = Instant::now();
        cluster.redis.client_kill("normal").await;
        let healed = cluster.heal(since, 0..=0).await;
        assert!(healed < HEALED, "{healed:?}");
    }
}

#[actix::test]
async fn both_connections_killed_ten_times_in_two_seconds_heal() {
    const TIMES: usize = 10;
    let mut cluster = Cluster::start().await;
    let mut since = Instant::now();
    for _ in 0..TIMES {
        tokio::time::sleep(Duration::from_millis(200)).await;
        since = Instant::now();
        cluster.redis.client_kill("pubsub").await;
        cluster.redis.client_kill("normal").await;
    }
    let healed = cluster.heal(since, 1..=TIMES).await;
    assert!(healed < HEALED, "{healed:?}");
    for node in &cluster.nodes {
        node.ready().await;
    }
}

#[actix::test]
async fn a_frozen_redis_holds_up_nothing_but_its_own_answers() {
    const FROZEN: Duration = Duration::from_millis(3_500);
    let mut cluster = Cluster::start().await;
    let url = cluster.nodes[0].ws_url();
    let mut member = Member::join(&url, ROOM, Dialect::V1).await;
    let (mut sender, mut pinger) = (Client::v1(&url).await, Client::v1(&url).await);

    cluster.redis.signal(Signal::STOP);
    let frozen = Instant::now();
    let mut waiting = Client::v1(&url).await;
    waiting
        .command(json!({"type": "SUBSCRIBE", "id": "waits", "room": "new room"}))
        .await;
    let mut behind = Client::v1(&url).await;
    let publish_behind = async {
        let since = Instant::now();
        behind
            .command(json!({"type": "SUBSCRIBE", "id": 1, "room": "another new room"}))
            .await;
        behind.publish("another new room", "behind a subscription").await;
        assert_eq!(behind.json().await["code"], "unavailable");
        assert_unavailable(&behind.json().await);
        let elapsed = since.elapsed();
        assert!(
            elapsed < ANSWERED,
            "a publish behind a subscription took {elapsed:?}"
        );
    };
    let talk = async {
        // The first is on its way to Redis, and what becomes of it is not known.
        assert_unavailable(&publish(&mut sender, "room of nobody", "frozen").await);
        while frozen.elapsed() < FROZEN {
            let since = Instant::now();
            assert_unavailable(&publish(&mut sender, "room of nobody", "frozen").await);
            assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
        }
    };
    let (mut pings, mut handshakes) = (Vec::new(), Vec::new());
    let ping = async {
        while frozen.elapsed() < FROZEN {
            let since = Instant::now();
            assert_eq!(pinger.call(json!({"type": "PING"})).await["type"], "pong");
            pings.push(since.elapsed());
            let since = Instant::now();
            drop(Client::v1(&url).await);
            handshakes.push(since.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(talk, publish_behind, ping);
    for times in [&mut pings, &mut handshakes] {
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("median {median:?}, longest {longest:?}");
        assert!(median < Duration::from_millis(100), "{median:?}");
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    }
    member.assert_heard_nothing().await;

    cluster.redis.signal(Signal::CONT);
    // The link may have been replaced meanwhile.
    let healed = cluster.heal(Instant::now(), 0..=1).await;
    assert!(healed < HEALED, "{healed:?}");
    assert_eq!(waiting.json().await["type"], "subscribed");
    for node in &cluster.nodes {
        node.ready().await;
    }
}

#[actix::test]
async fn publishes_under_way_when_their_connection_is_killed_are_all_answered_and_none_that_was_sent_is_lost()
{
    const ROUNDS: usize = 10;
    const EACH: usize = 200;
    let redis = Redis::start().await;
    let nodes = [
        Node::on_redis(&redis.url()).await,
        Node::on_redis(&redis.url()).await,
    ];
    let mut members = [
        Member::join(&nodes[0].ws_url(), ROOM, Dialect::V1).await,
        Member::join(&nodes[1].ws_url(), ROOM, Dialect::V1).await,
    ];
    let mut sender = Client::v1(&nodes[0].ws_url()).await;
    let (mut sent, mut refused) = (Vec::new(), HashSet::new());
    let talk = async {
        for round in 0..ROUNDS {
            let numbers = round * EACH..(round + 1) * EACH;
            let publish = async {
                for number in numbers.clone() {
                    let text = format!("{number} {}", "x".repeat(1_000));
                    sender
                        .command(
                            json!({"type": "sendMessage", "id": number, "roomId": ROOM, "message": text}),
                        )
                        .await;
                }
                for number in numbers {
                    let reply = sender.json().await;
                    assert_eq!(reply["id"], number, "{reply}");
                    if reply["type"] == "sent" {
                        sent.push(number);
                        continue;
                    }
                    assert_unavailable(&reply);
                    if reply["outcome"] == "refused" {
                        refused.insert(number);
                    }
                }
            };
            tokio::join!(publish, async {
                if round % 2 == 1 {
                    redis.client_kill("normal").await;
                }
            });
        }
        publish_until_sent(&mut sender, ROOM).await;
    };
    let (heard, ()) = tokio::join!(join_all(members.iter_mut().map(numbers_until_attempt)), talk);
    println!(
        "{} sent, {} refused of {}",
        sent.len(),
        refused.len(),
        ROUNDS * EACH
    );
    assert!(sent.contains(&0));
    for heard in heard {
        assert!(
            heard.is_sorted_by(|a, b| a < b),
            "out of order, or heard twice: {heard:?}"
        );
        let heard: HashSet<usize> = heard.into_iter().collect();
        let lost: Vec<_> = sent.iter().filter(|number| !heard.contains(number)).collect();
        assert!(lost.is_empty(), "sent and not heard: {lost:?}");
        assert!(refused.is_disjoint(&heard), "refused and heard all the same");
    }
}

/// The numbers that messages begin with, up to the message of [`publish_until_sent`].
async fn numbers_until_attempt(member: &mut Member) -> Vec<usize> {
    let mut numbers = Vec::new();
    loop {
        let text = member.hear().await;
        if text.starts_with("attempt") {
            return numbers;
        }
        let (number, _) = text.split_once(' ').expect("a number");
        numbers.push(number.parse().expect("a number"));
    }
}

#[actix::test]
async fn subscriptions_under_way_when_their_connection_is_killed_are_all_answered_and_end_right() {
    const ROUNDS: usize = 4;
    const EACH: usize = 100;
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let mut inside = BTreeSet::new();
    for round in 0..ROUNDS {
        let rooms: Vec<String> = (0..EACH).map(|nth| format!("room {round} {nth}")).collect();
        let commands = async {
            for room in &rooms {
                client
                    .command(json!({"type": "SUBSCRIBE", "id": room, "room": room}))
                    .await;
            }
            // Every third is left again, whether it has been joined by then or not.
            for room in rooms.iter().step_by(3) {
                client
                    .command(json!({"type": "UNSUBSCRIBE", "id": room, "room": room}))
                    .await;
            }
        };
        tokio::join!(commands, redis.client_kill("pubsub"));
        let mut unanswered = EACH + EACH.div_ceil(3);
        while unanswered > 0 {
            let frame = client.json().await;
            let room = frame["room"].as_str().or(frame["id"].as_str()).expect("a room");
            match (frame["type"].as_str(), frame["code"].as_str()) {
                (Some("subscribed"), _) => assert!(inside.insert(room.to_owned()), "{frame}"),
                (Some("unsubscribed"), _) => {
                    inside.remove(room);
                }
                (Some("gap"), _) => {
                    assert!(inside.contains(room), "{frame}");
                    continue;
                }
                (_, Some("cancelled" | "unavailable")) => {}
                _ => panic!("an unexpected frame: {frame}"),
            }
            unanswered -= 1;
        }
    }
    let expected: Vec<&str> = inside.iter().map(String::as_str).collect();
    println!("{} of {} rooms joined", expected.len(), ROUNDS * EACH);
    redis.await_channels(&expected).await;
}
