//! What `/metrics` tells an operator: of traffic, of faults, and of the node itself.

use std::time::Duration;

use roomcast::protocol::Dialect;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;

const ROOM: &str = "room1";

/// The values of series of one scrape; a series that is not there is NaN, which equals nothing.
async fn values<const N: usize>(node: &Node, series: [&str; N]) -> [f64; N] {
    let (status, text) = node.get("/metrics").await;
    assert_eq!(status, 200);
    series.map(|series| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(f64::NAN, |value| value.parse().expect("a number"))
    })
}

async fn value(node: &Node, series: &str) -> f64 {
    values(node, [series]).await[0]
}

async fn await_value(node: &Node, series: &str, is_right: impl Fn(f64) -> bool) -> f64 {
    eventually(series, async || {
        let value = value(node, series).await;
        is_right(value).then_some(value)
    })
    .await
}

async fn publish(client: &mut Client, text: &str) {
    let command = json!({"type": "sendMessage", "room": ROOM, "message": text});
    let reply = client.call(command).await;
    assert_eq!(reply["type"], "sent", "{reply}");
}

async fn subscribe(client: &mut Client, after: u64, epoch: &str) -> Value {
    client
        .call(json!({"type": "SUBSCRIBE", "room": ROOM, "after": after, "epoch": epoch}))
        .await
}

#[actix::test]
async fn a_message_is_counted_at_each_step_of_its_way() {
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut plain = Client::plain(&node.ws_url()).await;
    plain.subscribe_plain(ROOM).await;
    let mut v1 = Client::v1(&node.ws_url()).await;
    v1.subscribe(ROOM).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let way = [
        "roomcast_publishes_total{outcome=\"accepted\"}",
        "roomcast_publish_latency_seconds_count",
        "roomcast_messages_total",
        "roomcast_message_bytes_total",
        "roomcast_deliveries_total",
        "roomcast_delivery_bytes_total",
        "roomcast_frames_received_total",
        "roomcast_received_bytes_total",
        "roomcast_redis_payload_bytes_total",
    ];
    let before = values(&node, way).await;

    let mut frame_bytes = 0;
    let text = "hello 🦀";
    let command = json!({"type": "sendMessage", "room": ROOM, "message": text, "id": 1}).to_string();
    for _ in 0..3 {
        sender.send_text(command.clone()).await;
        assert_eq!(sender.json().await["type"], "sent");
        assert_eq!(plain.text().await, text);
        frame_bytes += text.len() + v1.text().await.len();
    }

    let after = values(&node, way).await;
    let texts = 3 * text.len();
    let expected = [3, 3, 3, texts, 6, frame_bytes, 3, 3 * command.len()];
    for ((series, expected), (before, after)) in way.iter().zip(expected).zip(before.iter().zip(after)) {
        assert_eq!((after - before).to_string(), expected.to_string(), "{series}");
    }
    // A payload has more than its text.
    assert!(after[8] - before[8] > after[3] - before[3]);
    for (series, expected) in [
        ("roomcast_rooms", 1.0),
        ("roomcast_subscriptions", 1.0),
        ("roomcast_memberships", 2.0),
        ("roomcast_joins_waiting", 0.0),
        ("roomcast_sessions", 3.0),
        ("roomcast_publish_queue_depth", 0.0),
        ("roomcast_publish_queue_bytes", 0.0),
        ("roomcast_transit_bytes", 0.0),
        ("roomcast_held_bytes", 0.0),
    ] {
        await_value(&node, series, |value| value == expected).await;
    }
}

#[actix::test]
async fn lost_connections_and_reconnects_are_counted_by_connection() {
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut member = Client::v1(&node.ws_url()).await;
    // The reading connection is opened by this.
    member.subscribe(ROOM).await;
    let series =
        |name: &str, connection: &str| format!("roomcast_redis_{name}_total{{connection=\"{connection}\"}}");
    for connection in ["subscriber", "publisher", "reader"] {
        assert_eq!(
            value(&node, &series("dials", connection)).await,
            1.0,
            "{connection}"
        );
        assert_eq!(
            value(&node, &series("connects", connection)).await,
            1.0,
            "{connection}"
        );
        assert_eq!(
            value(&node, &series("losses", connection)).await,
            0.0,
            "{connection}"
        );
    }
    redis.client_kill("pubsub").await;
    await_value(&node, &series("connects", "subscriber"), |value| value == 2.0).await;
    assert_eq!(value(&node, &series("losses", "subscriber")).await, 1.0);
    assert_eq!(value(&node, &series("losses", "publisher")).await, 0.0);
    // Before the read that looks for what was missed the reading connection was replaced, which is no loss.
    await_value(&node, &series("connects", "reader"), |value| value == 2.0).await;
    assert_eq!(value(&node, &series("losses", "reader")).await, 0.0);

    redis.client_kill("normal").await;
    await_value(&node, &series("connects", "publisher"), |value| value == 2.0).await;
    assert_eq!(value(&node, &series("losses", "publisher")).await, 1.0);
    // It is found out when it is needed.
    Client::v1(&node.ws_url()).await.subscribe("another room").await;
    assert_eq!(value(&node, &series("losses", "reader")).await, 1.0);
    assert_eq!(value(&node, &series("connects", "reader")).await, 3.0);
    assert_eq!(value(&node, &series("losses", "subscriber")).await, 1.0);
}

#[actix::test]
async fn payloads_that_are_dropped_are_counted_by_reason_and_forged_offsets_too() {
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut member = Client::v1(&node.ws_url()).await;
    let position = member.call(json!({"type": "SUBSCRIBE", "room": ROOM})).await;
    let payload = |room: &str, message: &str| {
        json!({"type": "sendMessage", "roomId": room, "message": message}).to_string()
    };
    for garbage in [
        "garbage",
        "{}",
        "[]",
        &payload("room2", "x"),
        &payload("room3", "x"),
        &payload(ROOM, &"x".repeat(8 * 65_536)),
        r#"{"type":"sendMessage","roomId":"room1","message":"{","json":true}"#,
    ] {
        redis.publish(ROOM, garbage).await;
    }
    let mut forged: Value = serde_json::from_str(&payload(ROOM, "forged")).expect("JSON");
    forged["offset"] = json!(1);
    forged["epoch"] = position["epoch"].clone();
    forged["seal"] = json!("0123456789abcdef");
    redis.publish(ROOM, &forged.to_string()).await;
    assert_eq!(member.json().await["message"], "forged");
    for (reason, expected) in [
        ("malformed", 3.0),
        ("other_room", 2.0),
        ("too_large", 1.0),
        ("not_json", 1.0),
    ] {
        let series = format!("roomcast_payloads_dropped_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&node, &series).await, expected, "{reason}");
    }
    assert_eq!(node.metric("roomcast_payloads_dropped_total").await, 7);
    assert_eq!(value(&node, "roomcast_offsets_ignored_total").await, 1.0);
    assert_eq!(value(&node, "roomcast_messages_total").await, 1.0);
}

#[actix::test]
async fn fills_recoveries_and_gaps_are_counted() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&format!("127.0.0.1:{}", redis.port())).await;
    let node = Node::on_redis(&proxy.redis_url()).await;
    let other = Node::on_redis(&redis.url()).await;
    let mut member = Client::v1(&node.ws_url()).await;
    let reply = member.call(json!({"type": "SUBSCRIBE", "room": ROOM})).await;
    let epoch = reply["epoch"].as_str().expect("an epoch").to_owned();
    let mut sender = Client::v1(&other.ws_url()).await;

    proxy.cut();
    await_value(
        &node,
        "roomcast_redis_losses_total{connection=\"subscriber\"}",
        |value| value == 1.0,
    )
    .await;
    await_value(&node, "roomcast_subscriptions", |value| value == 0.0).await;
    for nth in 1..=3 {
        publish(&mut sender, &format!("missed {nth}")).await;
    }
    proxy.resume();
    for nth in 1..=3 {
        assert_eq!(member.json().await["message"], format!("missed {nth}"));
    }
    let fills = ["roomcast_fills_total", "roomcast_filled_messages_total"];
    assert_eq!(values(&node, fills).await, [1.0, 3.0]);
    let reads = "roomcast_history_reads_total{outcome=\"answered\"}";
    assert!(value(&node, reads).await >= 2.0);
    await_value(&node, "roomcast_subscriptions", |value| value == 1.0).await;

    let mut back = Client::v1(&node.ws_url()).await;
    assert_eq!(subscribe(&mut back, 1, &epoch).await["recovered"], true);
    let mut lost = Client::v1(&node.ws_url()).await;
    assert_eq!(subscribe(&mut lost, 1, "elsewhere").await["recovered"], false);
    let came_back = [
        "roomcast_recoveries_total{recovered=\"true\"}",
        "roomcast_recoveries_total{recovered=\"false\"}",
        "roomcast_replays_total",
    ];
    assert_eq!(values(&node, came_back).await, [1.0, 1.0, 1.0]);
    // What was read for the one is kept for others, for a while.
    await_value(&node, "roomcast_window_bytes", |value| value > 0.0).await;
    await_value(&node, "roomcast_window_bytes", |value| value == 0.0).await;

    let gaps = [
        "roomcast_gaps_total{cause=\"new_numbering\"}",
        "roomcast_gaps_total{cause=\"not_kept\"}",
    ];
    assert_eq!(values(&node, gaps).await, [0.0, 0.0]);
    let () = redis.command(&["FLUSHALL"]).await;
    publish(&mut sender, "anew").await;
    let gap = member.json().await;
    assert_eq!(gap["type"], "gap", "{gap}");
    assert_eq!(values(&node, gaps).await, [1.0, 0.0]);
}

#[actix::test]
async fn without_history_a_lost_link_is_a_gap() {
    let redis = Redis::start().await;
    let variables = [("REDIS_URL", &*redis.url()), ("ROOMCAST_HISTORY_SIZE", "0")];
    let node = Node::start(&variables).await;
    node.ready().await;
    let mut member = Member::join(&node.ws_url(), ROOM, Dialect::V1).await;
    let gaps = "roomcast_gaps_total{cause=\"no_history\"}";
    assert_eq!(value(&node, gaps).await, 0.0);
    redis.client_kill("pubsub").await;
    member.hear_gap().await;
    assert_eq!(value(&node, gaps).await, 1.0);
}

#[actix::test]
async fn the_way_through_redis_is_timed_and_its_silence_too() {
    const ROUNDS: &str = "roomcast_cross_node_latency_seconds_count";
    const AGE: &str = "roomcast_delivery_proof_age_seconds";
    const READY: &str = "roomcast_ready";
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut client = Client::v1(&node.ws_url()).await;
    await_value(&node, ROUNDS, |value| value >= 2.0).await;
    let [rounds, seconds, age, ready] = values(
        &node,
        [ROUNDS, "roomcast_cross_node_latency_seconds_sum", AGE, READY],
    )
    .await;
    assert!(seconds > 0.0 && seconds / rounds < 1.0, "{seconds} s in {rounds}");
    assert!(age < 3.0, "{age}");
    assert_eq!(ready, 1.0);

    redis.signal(Signal::STOP);
    let command = json!({"type": "sendMessage", "room": ROOM, "message": "x"});
    assert_eq!(client.call(command).await["code"], "unavailable");
    assert_eq!(node.metric("roomcast_publishes_total").await, 1);
    let unanswered = value(&node, "roomcast_publishes_total{outcome=\"unknown\"}").await
        + value(&node, "roomcast_publishes_total{outcome=\"refused\"}").await;
    assert_eq!(unanswered, 1.0);
    // The time that its sender waited.
    let waited = value(&node, "roomcast_publish_latency_seconds_sum").await;
    assert!((1.0..4.0).contains(&waited), "{waited}");
    await_value(&node, READY, |value| value == 0.0).await;
    let silent = value(&node, AGE).await;
    assert!(silent > 2.0, "{silent}");
    await_value(&node, AGE, |value| value > silent + 0.2).await;

    redis.signal(Signal::CONT);
    await_value(&node, READY, |value| value == 1.0).await;
    await_value(&node, AGE, |value| value < silent).await;
}

#[actix::test]
async fn without_any_proof_the_age_is_that_of_the_node() {
    let redis = Redis::absent();
    let node = Node::start(&[("REDIS_URL", &redis.url())]).await;
    let first = await_value(&node, "roomcast_delivery_proof_age_seconds", |value| value > 0.0).await;
    await_value(&node, "roomcast_delivery_proof_age_seconds", |value| {
        value > first + 0.1
    })
    .await;
    assert_eq!(value(&node, "roomcast_ready").await, 0.0);
    await_value(
        &node,
        "roomcast_redis_dials_total{connection=\"publisher\"}",
        |value| value > 1.0,
    )
    .await;
    assert_eq!(node.metric("roomcast_redis_connects_total").await, 0);
    let mut client = Client::v1(&node.ws_url()).await;
    client
        .command(json!({"type": "SUBSCRIBE", "room": ROOM, "id": 1}))
        .await;
    await_value(&node, "roomcast_joins_waiting", |value| value == 1.0).await;
}

#[actix::test]
async fn the_embedded_broker_is_never_silent_and_the_process_tells_of_itself() {
    let node = Node::start(&[]).await;
    node.ready().await;
    let mut client = Client::v1(&node.ws_url()).await;
    publish(&mut client, "x").await;
    for (series, expected) in [
        ("roomcast_delivery_proof_age_seconds", 0.0),
        ("roomcast_ready", 1.0),
        ("roomcast_cross_node_latency_seconds_count", 0.0),
        ("roomcast_publishes_total{outcome=\"accepted\"}", 1.0),
        ("roomcast_publish_latency_seconds_count", 1.0),
        (
            concat!("roomcast_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1.0,
        ),
    ] {
        assert_eq!(value(&node, series).await, expected, "{series}");
    }
    let began = value(&node, "process_start_time_seconds").await;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    assert!((Duration::from_secs_f64(began)..=now).contains(&now));
    assert!(now.as_secs_f64() - began < 60.0, "{began}");
    #[cfg(target_os = "linux")]
    {
        let [resident, open, limit, cpu] = values(
            &node,
            [
                "process_resident_memory_bytes",
                "process_open_fds",
                "process_max_fds",
                "process_cpu_seconds_total",
            ],
        )
        .await;
        assert!((1e6..1e9).contains(&resident), "{resident}");
        assert!((5.0..limit).contains(&open), "{open} of {limit}");
        assert!((0.0..60.0).contains(&cpu), "{cpu}");
        let mut more = Vec::new();
        for _ in 0..10 {
            more.push(Client::v1(&node.ws_url()).await);
        }
        await_value(&node, "process_open_fds", |value| value >= open + 10.0).await;
    }
}
