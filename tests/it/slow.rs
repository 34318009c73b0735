//! Those who do not read: what they cost, how they end, and that nobody else notices. On real processes, because how
//! much is buffered is set where the program starts its server.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::bystander::{Bystander, QUICKLY};
use crate::support::client::Client;
use crate::support::memory::{Memory, descriptors};
use crate::support::node::Node;
use crate::support::raw::{FIRST_TEXT, PING, Raw, Received, TEXT, command, frame};
use crate::support::{undisturbed, within};

const MIB: usize = 1024 * 1024;

/// The text of a message in these tests.
const MESSAGE: usize = 32 * 1024;

/// Publishes that a sender has under way.
const WINDOW: usize = 8;

/// How soon one who does not read has to be ended.
const END: Duration = Duration::from_secs(15);

/// A node that asks nobody whether he is there: what ends those who do not read has to be something else.
async fn unasking_node(variables: &[(&str, &str)]) -> Node {
    // What the broker keeps of the past would be weighed along.
    let without_history = ("ROOMCAST_HISTORY_SIZE", "0");
    Node::start(&[&[("ROOMCAST_HEARTBEAT", "600"), without_history], variables].concat()).await
}

/// The `n`th message.
fn message(n: usize) -> String {
    let mut text = format!("{n} ");
    text.extend(std::iter::repeat_n('x', MESSAGE - text.len()));
    text
}

/// The number of a message.
fn number(text: &str) -> usize {
    let (n, _) = text.split_once(' ').expect("a number and a filling");
    n.parse().expect("a number")
}

/// Publishes these messages; all of them are accepted when it returns.
async fn publish(sender: &mut Raw, room: &str, numbers: std::ops::Range<usize>) {
    let mut under_way = 0;
    for n in numbers {
        if under_way == WINDOW {
            assert_eq!(sender.json().await["type"], "sent");
            under_way -= 1;
        }
        sender
            .send(&command(
                &json!({"type": "sendMessage", "roomId": room, "message": message(n)}),
            ))
            .await;
        under_way += 1;
    }
    for _ in 0..under_way {
        assert_eq!(sender.json().await["type"], "sent");
    }
}

/// Reads messages, and checks that it is exactly these.
async fn expect(member: &mut Raw, numbers: std::ops::Range<usize>) {
    for n in numbers {
        assert_eq!(number(&member.text().await), n);
    }
}

/// A member in the plain dialect, live.
async fn member(node: &Node, room: &str) -> Raw {
    let mut raw = Raw::plain(node.address()).await;
    raw.send(&command(&json!({"type": "SUBSCRIBE", "room": room})))
        .await;
    raw.send(&command(
        &json!({"type": "sendMessage", "room": room, "message": "mark"}),
    ))
    .await;
    while raw.text().await != "mark" {}
    raw
}

/// A member that reads nothing from now on.
async fn stuck_member(node: &Node, room: &str) -> Raw {
    let mut raw = Raw::connect_narrow(node.address())
        .await
        .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
        .await;
    assert_eq!(raw.json().await["type"], "welcome");
    raw.send(&command(&json!({"type": "SUBSCRIBE", "room": room})))
        .await;
    assert_eq!(raw.json().await["type"], "subscribed");
    raw
}

/// Waits until the server has ended these connections, of which every other one goes on sending.
async fn assert_cut(stuck: &mut [Raw], since: Instant) {
    let (mut rest, deadline) = (stuck.iter_mut().collect::<Vec<_>>(), since + END);
    while !rest.is_empty() {
        let mut left = Vec::new();
        for (n, raw) in rest.into_iter().enumerate() {
            if raw.is_cut().await {
                continue;
            }
            if n % 2 == 1 {
                raw.send_some(&frame(PING, b""), Duration::from_millis(1)).await;
            }
            left.push(raw);
        }
        rest = left;
        assert!(Instant::now() < deadline, "{} are not ended", rest.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[actix::test]
async fn one_member_that_never_reads_costs_little_and_nobody_else_notices() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut readers = [member(&node, "r").await, member(&node, "r").await];
    // What it takes without anybody who is stuck is not counted.
    let (warm, all) = (16 * MIB / MESSAGE, 80 * MIB / MESSAGE);
    // The second one's mark.
    assert_eq!(readers[0].text().await, "mark");
    {
        let [first, second] = &mut readers;
        tokio::join!(
            publish(&mut sender, "r", 0..warm),
            expect(first, 0..warm),
            expect(second, 0..warm)
        );
    }
    let bystander = Bystander::start(&node);
    let stuck = stuck_member(&node, "r").await;
    let memory = Memory::of(&node);
    {
        let [first, second] = &mut readers;
        tokio::join!(
            publish(&mut sender, "r", warm..all),
            expect(first, warm..all),
            expect(second, warm..all)
        );
    }
    let since = Instant::now();
    assert_cut(&mut [stuck], since).await;
    memory.assert_growth(8 * MIB);
    bystander.assert_was_served_within(QUICKLY);
    // The others are there still.
    publish(&mut sender, "r", all..all + 1).await;
    for reader in &mut readers {
        expect(reader, all..all + 1).await;
    }
}

#[actix::test]
async fn twenty_members_that_never_read_cost_their_backlogs_and_are_all_ended() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut reader = member(&node, "r").await;
    let (warm, all) = (8 * MIB / MESSAGE, 40 * MIB / MESSAGE);
    tokio::join!(publish(&mut sender, "r", 0..warm), expect(&mut reader, 0..warm));
    let bystander = Bystander::start(&node);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(stuck_member(&node, "r").await);
    }
    let memory = Memory::of(&node);
    tokio::join!(
        publish(&mut sender, "r", warm..all),
        expect(&mut reader, warm..all)
    );
    assert_cut(&mut stuck, Instant::now()).await;
    memory.assert_growth(32 * MIB);
    bystander.assert_was_served_within(QUICKLY);
}

#[actix::test]
async fn a_member_that_falls_behind_gets_a_part_without_holes_and_4008() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut reader = member(&node, "r").await;
    let mut slow = stuck_member(&node, "r").await;
    let all = 16 * MIB / MESSAGE;
    tokio::join!(publish(&mut sender, "r", 0..all), expect(&mut reader, 0..all));
    // Now it reads, and finds a beginning and the reason for the end.
    let frames = slow.rest().await;
    let (last, messages) = frames.split_last().expect("a close frame");
    assert!(matches!(last, Received::Close(Some(4008), _)), "{last:?}");
    for (n, received) in messages.iter().enumerate() {
        let Received::Text(text) = received else {
            panic!("{received:?}");
        };
        let frame: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(number(frame["message"].as_str().expect("a text")), n);
    }
    let bytes = messages.len() * MESSAGE;
    assert!(bytes < 4 * MIB, "{bytes} bytes were kept for it");
}

#[actix::test]
async fn a_member_that_reads_a_trickle_is_ended_too() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut slow = stuck_member(&node, "r").await;
    publish(&mut sender, "r", 0..8 * MIB / MESSAGE).await;
    let since = Instant::now();
    while slow.drain(512).await > 0 {
        assert!(since.elapsed() < END, "it is still connected");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[actix::test]
async fn a_flood_whose_answers_are_read_delays_nobody() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[("ROOMCAST_WORKERS", "1")]).await;
    let bystander = Bystander::start(&node);
    let mut flooder = Raw::v1(node.address()).await;
    let publish = command(&json!({"type": "sendMessage", "room": "flooded", "message": "x".repeat(100)}));
    let bursts = [frame(TEXT, b"bad"), publish, frame(PING, b"")].map(|frame| frame.repeat(1_000));
    for burst in bursts.iter().cycle().take(30) {
        flooder.send(burst).await;
        for _ in 0..1_000 {
            assert_ne!(flooder.next().await, Received::End);
        }
    }
    bystander.assert_was_served_within(QUICKLY);
}

#[actix::test]
async fn a_storm_of_connections_that_vanish_leaves_nothing_behind() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    // A connection of the one who asks may still be open.
    let most = descriptors(&node).map(|before| before + 2);
    for round in 0..3 {
        let mut storm = Vec::new();
        for n in 0..100 {
            let mut raw = Raw::v1(node.address()).await;
            raw.send(&command(&json!({"type": "SUBSCRIBE", "room": "r"})))
                .await;
            match n % 4 {
                // In the middle of a frame, and of a message.
                0 => raw.send(&frame(TEXT, b"{}")[..4]).await,
                1 => raw.send(&frame(FIRST_TEXT, b"{")).await,
                _ => assert_eq!(raw.json().await["type"], "subscribed"),
            }
            if n % 2 == 0 {
                raw.reset_when_dropped();
            }
            storm.push(raw);
        }
        let reply = sender
            .call(json!({"type": "sendMessage", "room": "r", "message": round}))
            .await;
        assert_eq!(reply["type"], "sent");
        drop(storm);
        within(
            Duration::from_secs(3),
            "descriptors and rooms to be free again",
            async || {
                let sessions = node.metric("roomcast_sessions").await;
                let members = node.metric("roomcast_memberships").await;
                (sessions == 1 && members == 0 && descriptors(&node) <= most).then_some(())
            },
        )
        .await;
    }
}

#[actix::test]
async fn a_slow_reader_that_keeps_up_stays() {
    const ROUND: usize = 768 * 1024 / MESSAGE;
    let _turn = undisturbed().await;
    let node = unasking_node(&[]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut slow = stuck_member(&node, "r").await;
    for round in 0..3 {
        let numbers = round * ROUND..(round + 1) * ROUND;
        // All at once, and then it takes its time; what waits is never more than it may be.
        publish(&mut sender, "r", numbers.clone()).await;
        for n in numbers {
            assert_eq!(number(slow.json().await["message"].as_str().expect("a text")), n);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    slow.send(&command(&json!({"type": "PING"}))).await;
    assert_eq!(slow.json().await["type"], "pong");
}

/// Sends these bytes again and again without reading anything, until the server takes no more of them.
async fn assert_flood_is_stopped(what: &str, bytes: &[u8]) {
    const ENOUGH: usize = 64 * MIB;
    let node = unasking_node(&[]).await;
    let bystander = Bystander::start(&node);
    let mut flooder = Raw::connect_narrow(node.address())
        .await
        .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
        .await;
    let memory = Memory::of(&node);
    let (mut sent, mut at) = (0, 0);
    let mut last_taken = Instant::now();
    while let Some(count) = flooder.send_some(&bytes[at..], Duration::from_secs(3)).await {
        sent += count;
        at = (at + count) % bytes.len();
        last_taken = Instant::now();
        assert!(sent < ENOUGH, "{what}: still read from after {sent} bytes");
    }
    println!("{what}: {} KiB were taken", sent / 1024);
    assert_cut(&mut [flooder], last_taken).await;
    memory.assert_growth(8 * MIB);
    bystander.assert_was_served_within(QUICKLY);
}

#[actix::test]
async fn who_reads_no_answers_is_not_read_from_and_ended() {
    let _turn = undisturbed().await;
    let many = |frame: Vec<u8>| frame.repeat(MIB / frame.len());
    let bad = many(frame(TEXT, b"bad"));
    let pings = many(frame(PING, &[b'x'; 125]));
    let commands = many(command(&json!({"type": "PING", "id": "x".repeat(64)})));
    let publishes = many(command(
        &json!({"type": "sendMessage", "room": "nobody", "message": "x".repeat(100)}),
    ));
    tokio::join!(
        assert_flood_is_stopped("bad frames", &bad),
        assert_flood_is_stopped("pings", &pings),
        assert_flood_is_stopped("PING commands", &commands),
        assert_flood_is_stopped("publishes", &publishes),
    );
}

#[actix::test]
async fn who_has_been_ended_gets_a_new_connection_and_all_that_is_new() {
    let _turn = undisturbed().await;
    let node = unasking_node(&[("ROOMCAST_MAX_BACKLOG", "65536")]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut slow = stuck_member(&node, "r").await;
    publish(&mut sender, "r", 0..64).await;
    let frames = slow.rest().await;
    assert!(matches!(frames.last(), Some(Received::Close(Some(4008), _))));
    let mut back = Client::v1(&node.ws_url()).await;
    back.subscribe("r").await;
    publish(&mut sender, "r", 64..65).await;
    assert_eq!(number(back.json().await["message"].as_str().expect("a text")), 64);
}
