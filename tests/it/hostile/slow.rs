//! Members that read nothing or little, in numbers and for long.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{AT_ONCE, MIB, node};
use crate::support::bystander::{Bystander, QUICKLY};
use crate::support::memory::Memory;
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, command};
use crate::support::{undisturbed, within};

/// How soon those who read nothing have to be ended.
const END: Duration = Duration::from_secs(15);

/// Bytes of messages in one round.
const ROUND: usize = MIB / 2;

/// Publishes that a sender has under way.
const WINDOW: usize = 8;

/// A member; one that is `narrow` has a kernel that takes little.
async fn member(node: &Node, narrow: bool) -> Raw {
    let raw = if narrow {
        Raw::connect_narrow(node.address()).await
    } else {
        Raw::connect(node.address()).await
    };
    let mut raw = raw
        .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
        .await;
    assert_eq!(raw.json().await["type"], "welcome");
    raw.send(&command(&json!({"type": "SUBSCRIBE", "room": "r"})))
        .await;
    assert_eq!(raw.json().await["type"], "subscribed");
    raw
}

/// A text of so many bytes that begins with its number.
fn message(n: usize, bytes: usize) -> String {
    format!("{:x<bytes$}", format!("{n} "))
}

async fn publish(sender: &mut Raw, numbers: Range<usize>, bytes: usize) {
    let mut under_way = 0;
    for n in numbers {
        if under_way == WINDOW {
            assert_eq!(sender.json().await["type"], "sent");
            under_way -= 1;
        }
        let publish = json!({"type": "sendMessage", "room": "r", "message": message(n, bytes)});
        sender.send(&command(&publish)).await;
        under_way += 1;
    }
    for _ in 0..under_way {
        assert_eq!(sender.json().await["type"], "sent");
    }
}

async fn expect(member: &mut Raw, numbers: Range<usize>) {
    for n in numbers {
        let text = member.text().await;
        assert!(
            text.contains(&format!("\"message\":\"{n} x")),
            "number {n}: {}",
            &text[..60]
        );
    }
}

async fn await_cut(stuck: &[Raw], since: Instant) {
    within(END, "the ends of those who read nothing", async || {
        for raw in stuck {
            if !raw.is_cut().await {
                return None;
            }
        }
        Some(())
    })
    .await;
    println!("all are ended {:?} after the last message", since.elapsed());
}

/// So many who read nothing beside so many who read all. How long it took, and how much memory grew.
async fn flood(
    stuck: usize,
    healthy: usize,
    count: usize,
    bytes: usize,
    patience: Duration,
) -> (Duration, Option<usize>) {
    let node = node(&[("ROOMCAST_HEARTBEAT", "600")]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut readers = join_all((0..healthy).map(|_| member(&node, false))).await;
    let stuck = join_all((0..stuck).map(|_| member(&node, true))).await;
    let bystander = Bystander::start(&node);
    let memory = Memory::of(&node);
    let since = Instant::now();
    // In rounds that fit into a backlog: who reads all is not to be outrun.
    let round = ROUND / bytes;
    for first in (0..count).step_by(round) {
        let numbers = first..count.min(first + round);
        tokio::join!(
            publish(&mut sender, numbers.clone(), bytes),
            join_all(readers.iter_mut().map(|reader| expect(reader, numbers.clone())))
        );
    }
    let took = since.elapsed();
    await_cut(&stuck, Instant::now()).await;
    let growth = memory.growth();
    println!(
        "{} stuck, {healthy} healthy, {} MiB: {took:?}, memory +{} KiB",
        stuck.len(),
        count * bytes / MIB,
        growth.unwrap_or_default() / 1024
    );
    bystander.assert_was_served_within(patience);
    (took, growth)
}

#[actix::test]
async fn a_hundred_who_read_nothing_beside_a_hundred_who_read_all() {
    let _turn = undisturbed().await;
    flood(100, 100, 400, 4 * 1024, QUICKLY * 2).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn a_thousand_who_read_nothing_beside_a_thousand_who_read_all() {
    let _turn = undisturbed().await;
    flood(1_000, 1_000, 1_000, 2 * 1024, Duration::from_secs(1)).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn twenty_who_read_nothing_cost_a_mebibyte_each_and_slow_nobody() {
    const ROUNDS: usize = 5;
    let _turn = undisturbed().await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(flood(0, 2, 128 * MIB / 32_768, 32_768, AT_ONCE).await);
        beside.push(flood(20, 2, 128 * MIB / 32_768, 32_768, AT_ONCE).await);
    }
    // One run on a busy machine says little: the one in the middle counts.
    let time = |runs: &[(Duration, Option<usize>)]| {
        let mut times: Vec<_> = runs.iter().map(|(took, _)| *took).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let growth = |runs: &[(Duration, Option<usize>)]| {
        let mut growths: Vec<_> = runs.iter().filter_map(|(_, growth)| *growth).collect();
        growths.sort_unstable();
        growths.get(growths.len() / 2).copied().unwrap_or_default()
    };
    let slower = time(&beside) / time(&alone);
    let more = growth(&beside).saturating_sub(growth(&alone));
    println!("beside 20: {slower:.2} of the time, {} KiB more", more / 1024);
    assert!(more <= 20 * MIB, "{more} bytes more");
    assert!(slower < 1.1, "{slower:.2} of the time");
}

/// Reads 4 KiB a second while less comes, and then what came at once.
async fn assert_trickle_is_enough(steady: Duration, burst: usize, after: Duration) {
    const SIP: usize = 400;
    const SIPS_PER_SECOND: u32 = 10;
    let node = node(&[("ROOMCAST_HEARTBEAT", "600")]).await;
    let mut sender = Raw::v1(node.address()).await;
    let mut slow = member(&node, true).await;
    let mut bytes = Vec::new();
    let mut published = 0;
    let sip = async |slow: &mut Raw, bytes: &mut Vec<u8>, time: Duration| {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(1) / SIPS_PER_SECOND).await;
            bytes.extend(slow.sip(SIP).await);
        }
    };
    let until = Instant::now() + steady;
    while Instant::now() < until {
        publish_one(&mut sender, published, 1_000).await;
        published += 1;
        sip(&mut slow, &mut bytes, Duration::from_millis(400)).await;
    }
    for _ in 0..burst / 4_096 {
        publish_one(&mut sender, published, 4_096).await;
        published += 1;
    }
    sip(&mut slow, &mut bytes, after).await;
    slow.put_back(bytes);
    for n in 0..published {
        let Received::Text(text) = slow.next().await else {
            panic!("it was ended at number {n}");
        };
        assert!(text.contains(&format!("\"message\":\"{n} x")), "number {n}");
    }
    slow.send(&command(&json!({"type": "PING"}))).await;
    assert_eq!(slow.json().await["type"], "pong");
}

async fn publish_one(sender: &mut Raw, n: usize, bytes: usize) {
    let publish = json!({"type": "sendMessage", "room": "r", "message": message(n, bytes)});
    sender.send(&command(&publish)).await;
    assert_eq!(sender.json().await["type"], "sent");
}

#[actix::test]
async fn a_trickle_is_enough_for_who_keeps_up() {
    assert_trickle_is_enough(Duration::from_secs(4), 256 * 1024, Duration::from_secs(14)).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn a_trickle_at_full_size() {
    assert_trickle_is_enough(Duration::from_secs(20), 768 * 1024, Duration::from_secs(40)).await;
}
