//! How a node stops: what its clients are told, what they still get, and how long it takes.

mod rolling;

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use rustix::process::Signal;
use serde_json::json;

use crate::support::client::{Client, Event};
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, Request, close, command};
use crate::support::redis::Redis;
use crate::support::{PATIENCE, eventually, undisturbed};

/// A member that does not read, with so much waiting for it that it cannot be told anything.
async fn stuck_member(node: &Node) -> Raw {
    let mut stuck = Raw::connect_narrow(node.address()).await.shake_hands(&[]).await;
    stuck
        .send(&command(&json!({"type": "SUBSCRIBE", "room": "stuck"})))
        .await;
    stuck
        .send(&command(
            &json!({"type": "sendMessage", "room": "stuck", "message": "mark"}),
        ))
        .await;
    assert_eq!(stuck.text().await, "mark");
    let mut sender = Client::v1(&node.ws_url()).await;
    for _ in 0..12 {
        let message = json!({"type": "sendMessage", "room": "stuck", "message": "x".repeat(60_000)});
        assert_eq!(sender.call(message).await["type"], "sent");
    }
    stuck
}

/// Sends a signal and checks that every session is closed with this code; what a v1 session is told before is its own.
async fn assert_all_closed(node: &Node, signal: Signal, code: u16) {
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::plain(&node.ws_url()).await);
        clients.push(Client::v1(&node.ws_url()).await);
    }
    node.signal(signal);
    let ends = clients.iter_mut().map(async |client| {
        loop {
            match client.event().await {
                Event::Closed(code) => return code,
                Event::Text(text) => assert!(text.contains(r#""type":"bye""#), "{text}"),
            }
        }
    });
    assert_eq!(join_all(ends).await, [Some(code); 20]);
}

#[actix::test]
async fn sigterm_closes_all_sessions_with_1012_and_ends_well() {
    let mut node = Node::start(&[("ROOMCAST_DRAIN", "1")]).await;
    assert_all_closed(&node, Signal::TERM, 1012).await;
    let status = node.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

/// When clients were closed, since `began`, and the `closes_in_ms` that those of `roomcast.v1` were told.
async fn closings(clients: &mut [Client], began: Instant) -> Vec<(Duration, Option<u64>)> {
    join_all(clients.iter_mut().map(async |client| {
        let mut closes_in = None;
        loop {
            match client.event().await {
                Event::Closed(code) => {
                    assert_eq!(code, Some(1012));
                    return (began.elapsed(), closes_in);
                }
                Event::Text(text) => {
                    let frame: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                    assert_eq!((&frame["type"], closes_in), (&json!("bye"), None), "{text}");
                    closes_in = frame["closes_in_ms"].as_u64();
                    assert!(closes_in.is_some(), "{text}");
                }
            }
        }
    }))
    .await
}

#[actix::test]
async fn sigterm_warns_v1_sessions_and_spreads_the_closing_over_the_drain_time() {
    let _turn = undisturbed().await;
    const DRAIN: Duration = Duration::from_secs(5);
    const LAG: Duration = Duration::from_millis(700);
    let mut node = Node::start(&[("ROOMCAST_DRAIN", "5")]).await;
    let (mut v1, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        v1.push(Client::v1(&node.ws_url()).await);
        plain.push(Client::plain(&node.ws_url()).await);
    }
    let began = Instant::now();
    node.signal(Signal::TERM);
    let (of_v1, of_plain) = join(closings(&mut v1, began), closings(&mut plain, began)).await;
    for (closed, closes_in) in &of_v1 {
        let told = Duration::from_millis(closes_in.expect("every v1 session is told"));
        assert!(told >= Duration::from_secs(1) && told <= DRAIN, "{told:?}");
        assert!(
            closed.abs_diff(told) < LAG,
            "closed after {closed:?} instead of {told:?}"
        );
    }
    assert!(of_plain.iter().all(|(_, closes_in)| closes_in.is_none()));
    let mut all: Vec<Duration> = of_v1
        .into_iter()
        .chain(of_plain)
        .map(|(closed, _)| closed)
        .collect();
    all.sort();
    // From 1.25 s on, 40 of them within 3.75 s.
    for (index, closed) in (0..).zip(&all) {
        let even = Duration::from_millis(1_250) + Duration::from_micros(93_750) * index;
        assert!(
            closed.abs_diff(even) < LAG,
            "closing {index} after {closed:?}, in {all:?}"
        );
    }
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
    assert!(
        began.elapsed() < DRAIN + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[actix::test]
async fn a_node_that_stops_serves_its_sessions_until_they_are_closed() {
    let mut node = Node::start(&[("ROOMCAST_DRAIN", "2")]).await;
    let (mut member, mut sender) = (Client::v1(&node.ws_url()).await, Client::v1(&node.ws_url()).await);
    assert_eq!(
        member.call(json!({"type": "SUBSCRIBE", "room": "r"})).await["type"],
        "subscribed"
    );
    node.signal(Signal::TERM);
    for client in [&mut member, &mut sender] {
        assert_eq!(client.json().await["type"], "bye");
    }
    let reply = sender
        .call(json!({"type": "sendMessage", "room": "r", "message": "late"}))
        .await;
    assert_eq!(reply["type"], "sent");
    assert_eq!(member.json().await["message"], "late");
    let reply = sender.call(json!({"type": "SUBSCRIBE", "room": "other"})).await;
    assert_eq!(reply["type"], "subscribed");
    // Who goes by itself lets the node end earlier.
    drop(sender);
    assert_eq!(member.closed().await, Some(1012));
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
}

#[actix::test]
async fn what_was_published_is_answered_before_1012() {
    let redis = Redis::start().await;
    let mut node = Node::start(&[("REDIS_URL", &redis.url()), ("ROOMCAST_DRAIN", "1")]).await;
    node.ready().await;
    let mut client = Client::v1(&node.ws_url()).await;
    redis.signal(Signal::STOP);
    client
        .command(json!({"type": "sendMessage", "id": 1, "room": "r", "message": "x"}))
        .await;
    node.signal(Signal::TERM);
    let bye = client.json().await;
    let closes_in = Duration::from_millis(bye["closes_in_ms"].as_u64().expect("a time"));
    assert!(closes_in < Duration::from_secs(1), "{bye}");
    // It would be closed now, if it were not owed an answer.
    assert!(
        client
            .event_within(closes_in + Duration::from_secs(1))
            .await
            .is_none()
    );
    redis.signal(Signal::CONT);
    let reply = client.json().await;
    assert_eq!(
        (&reply["type"], &reply["id"]),
        (&json!("sent"), &json!(1)),
        "{reply}"
    );
    assert_eq!(client.closed().await, Some(1012));
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
}

#[actix::test]
async fn the_least_time_to_move_is_kept_however_short_the_drain_is() {
    for (drain, least) in [("1", 200), ("3", 600), ("5", 1_000)] {
        let mut node = Node::start(&[("ROOMCAST_DRAIN", drain)]).await;
        let mut clients = Vec::new();
        for _ in 0..30 {
            clients.push(Client::v1(&node.ws_url()).await);
        }
        node.signal(Signal::TERM);
        for client in &mut clients {
            let bye = client.json().await;
            assert!(bye["closes_in_ms"].as_u64() >= Some(least), "{drain} s: {bye}");
        }
        drop(clients);
        assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
    }
}

#[actix::test]
async fn a_replay_is_told_to_its_end_before_1012() {
    let mut node = Node::start(&[("ROOMCAST_DRAIN", "0")]).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    for n in 0..100 {
        let message = format!("{n} {}", "x".repeat(20_000));
        let reply = sender
            .call(json!({"type": "sendMessage", "room": "r", "message": message}))
            .await;
        assert_eq!(reply["type"], "sent");
    }
    let mut back = Client::v1(&node.ws_url()).await;
    let reply = back
        .call(json!({"type": "SUBSCRIBE", "room": "r", "history": 100}))
        .await;
    assert_eq!(reply["type"], "subscribed");
    node.signal(Signal::TERM);
    let mut next = 1;
    loop {
        match back.event().await {
            Event::Text(text) if text.contains(r#""type":"bye""#) => {}
            Event::Text(text) => {
                let frame: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(frame["offset"], next);
                next += 1;
            }
            Event::Closed(code) => {
                assert_eq!((code, next), (Some(1012), 101));
                break;
            }
        }
    }
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
}

#[actix::test]
async fn a_subscription_that_waits_for_the_broker_is_answered_before_1012() {
    let redis = Redis::absent();
    let mut node = Node::start(&[("REDIS_URL", &redis.url()), ("ROOMCAST_DRAIN", "0")]).await;
    let mut client = Client::v1(&node.ws_url()).await;
    client
        .command(json!({"type": "SUBSCRIBE", "id": 7, "room": "r"}))
        .await;
    client.command(json!({"type": "PING", "id": 8})).await;
    assert_eq!(client.json().await["type"], "pong");
    node.signal(Signal::TERM);
    assert_eq!(client.json().await["type"], "bye");
    let reply = client.json().await;
    assert_eq!(
        (&reply["id"], &reply["code"]),
        (&json!(7), &json!("unavailable")),
        "{reply}"
    );
    assert_eq!(client.closed().await, Some(1012));
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
}

/// Whoever is sending when the end comes gets to read it: bytes that nobody takes must not make a reset of it.
#[actix::test]
async fn the_last_ones_are_told_even_while_they_send() {
    for (signal, code) in [(Signal::TERM, 1012), (Signal::INT, 1001)] {
        let mut node = Node::start(&[("ROOMCAST_DRAIN", "0")]).await;
        let mut senders = Vec::new();
        for _ in 0..10 {
            let mut raw = Raw::v1(node.address()).await;
            let publish = command(&json!({"type": "sendMessage", "room": "r", "message": "x".repeat(500)}));
            raw.send(&publish.repeat(20)).await;
            senders.push((raw, publish));
        }
        node.signal(signal);
        for (raw, publish) in &mut senders {
            let told = loop {
                let _ = raw.send_some(publish, Duration::from_millis(1)).await;
                match raw.next().await {
                    Received::Close(code, _) => break code,
                    Received::End => panic!("ended without a word"),
                    _ => {}
                }
            };
            assert_eq!(told, Some(code));
        }
        assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
    }
}

#[actix::test]
async fn sigterm_ends_a_node_without_sessions() {
    let mut node = Node::start(&[]).await;
    let gone = Client::v1(&node.ws_url()).await;
    drop(gone);
    node.signal(Signal::TERM);
    let status = node.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[actix::test]
async fn sigint_closes_all_sessions_with_1001_and_ends_within_a_second() {
    let _turn = undisturbed().await;
    let mut node = Node::start(&[]).await;
    let begun = Instant::now();
    assert_all_closed(&node, Signal::INT, 1001).await;
    node.exit(PATIENCE).await;
    // The clients needed some of it to connect.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[actix::test]
async fn sigint_waits_for_nobody_longer_than_a_second() {
    let _turn = undisturbed().await;
    let mut node = Node::start(&[]).await;
    let stuck = stuck_member(&node).await;
    let _mute = Raw::connect(node.address()).await;
    let (mut within_a_frame, mut polite) =
        (Raw::plain(node.address()).await, Raw::plain(node.address()).await);
    within_a_frame.send(&[0x81]).await;
    let signalled = Instant::now();
    node.signal(Signal::INT);
    for raw in [&mut within_a_frame, &mut polite] {
        assert!(matches!(raw.next().await, Received::Close(Some(1001), _)));
    }
    node.exit(PATIENCE).await;
    assert!(
        signalled.elapsed() < Duration::from_secs(1),
        "ended after {:?}",
        signalled.elapsed()
    );
    drop(stuck);
}

#[actix::test]
async fn a_node_that_is_stopping_refuses_newcomers_and_says_so() {
    let node = Node::start(&[]).await;
    let _stuck = stuck_member(&node).await;
    node.signal(Signal::TERM);
    eventually("a node that says that it stops", async || {
        (node.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    for request in [
        Request::get("/readyz"),
        Request::upgrade("/ws"),
        Request::upgrade("/"),
    ] {
        let (_, response) = request.send(node.address()).await;
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.header("retry-after").is_some(), "{response:?}");
        assert!(!response.body.trim().is_empty());
    }
    assert_eq!(node.get("/healthz").await.0, 200);
}

#[actix::test]
async fn a_second_signal_ends_the_node_at_once() {
    let _turn = undisturbed().await;
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::TERM, Signal::INT)] {
        let mut node = Node::start(&[]).await;
        let stuck = stuck_member(&node).await;
        node.signal(first);
        eventually("a node that says that it stops", async || {
            (node.get("/readyz").await.0 == 503).then_some(())
        })
        .await;
        let signalled = Instant::now();
        node.signal(second);
        node.exit(PATIENCE).await;
        assert!(
            signalled.elapsed() < Duration::from_millis(500),
            "ended after {:?}",
            signalled.elapsed()
        );
        drop(stuck);
    }
}

#[actix::test]
async fn members_get_what_they_are_owed_before_1012() {
    let mut node = Node::start(&[("ROOMCAST_DRAIN", "1")]).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let mut members = Vec::new();
    for raw in [
        Raw::connect_narrow(node.address()).await,
        Raw::connect(node.address()).await,
    ] {
        let mut member = raw.shake_hands(&[]).await;
        member
            .send(&command(&json!({"type": "SUBSCRIBE", "room": "r"})))
            .await;
        member
            .send(&command(
                &json!({"type": "sendMessage", "room": "r", "message": "mark"}),
            ))
            .await;
        assert_eq!(member.text().await, "mark");
        members.push(member);
    }
    // The second one's mark.
    assert_eq!(members[0].text().await, "mark");
    // Accepted, and so owed, though nobody has read any of it yet.
    let message = |n: usize| format!("{n} {}", "x".repeat(20_000));
    for n in 0..30 {
        let reply = sender
            .call(json!({"type": "sendMessage", "room": "r", "message": message(n)}))
            .await;
        assert_eq!(reply["type"], "sent");
    }
    node.signal(Signal::TERM);
    assert_eq!(sender.json().await["type"], "bye");
    assert_eq!(sender.closed().await, Some(1012));
    for member in &mut members {
        for n in 0..30 {
            match member.next().await {
                Received::Text(text) => assert!(text == message(n), "not message {n}"),
                other => panic!("{other:?} in the place of message {n}"),
            }
        }
        assert!(matches!(member.next().await, Received::Close(Some(1012), _)));
        member.send(&close(1012, b"")).await;
    }
    assert_eq!(node.exit(PATIENCE).await.code(), Some(0));
}
