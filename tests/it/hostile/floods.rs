//! Frames without end: what is wrong, what is empty, and answers that nobody reads.

use std::time::Duration;

use super::{AT_ONCE, MIB, MOST_PER_CONNECTION, node};
use crate::support::bystander::{Bystander, QUICKLY};
use crate::support::memory::Memory;
use crate::support::raw::{FIRST_TEXT, LAST, MIDDLE, PING, Raw, Received, TEXT, frame};
use crate::support::undisturbed;

/// Sends these bytes so often, or until the server takes no more or ends the connection. How many it has taken.
async fn offer(raw: &mut Raw, unit: &[u8], times: usize) -> usize {
    let burst = unit.repeat((MIB / unit.len()).clamp(1, times));
    let all = unit.len() * times;
    let mut sent = 0;
    while sent < all {
        let at = sent % burst.len();
        let end = burst.len().min(at + all - sent);
        match raw.send_some(&burst[at..end], Duration::from_secs(2)).await {
            Some(count) => sent += count,
            None => break,
        }
    }
    sent
}

/// Nobody reads what is answered to these.
async fn assert_unread(what: &str, unit: &[u8], times: usize, patience: Duration) {
    let node = node(&[]).await;
    let bystander = Bystander::start(&node);
    let mut raw = Raw::connect_narrow(node.address()).await.shake_hands(&[]).await;
    let memory = Memory::of(&node);
    let sent = offer(&mut raw, unit, times).await;
    println!("{what}: {} of {times} were taken", sent / unit.len());
    memory.assert_growth(MOST_PER_CONNECTION);
    bystander.assert_was_served_within(patience);
}

/// Messages of empty fragments, each as long as one may be, and all are answered.
async fn assert_empty_fragments(messages: usize, patience: Duration) {
    const FRAGMENTS: usize = 20_000;
    let node = node(&[]).await;
    let bystander = Bystander::start(&node);
    let mut raw = Raw::plain(node.address()).await;
    let memory = Memory::of(&node);
    let message = [
        frame(FIRST_TEXT, b""),
        frame(MIDDLE, b"").repeat(FRAGMENTS - 2),
        frame(LAST, b""),
    ]
    .concat();
    for _ in 0..messages {
        raw.send(&message).await;
        assert_eq!(raw.json().await["code"], "bad_json");
    }
    // One that never ends is over when it counts more than a message may.
    let sent = offer(
        &mut raw,
        &[frame(FIRST_TEXT, b""), frame(MIDDLE, b"").repeat(100_000)].concat(),
        1,
    )
    .await;
    println!("an endless message: {} KiB were taken", sent / 1024);
    memory.assert_growth(MOST_PER_CONNECTION);
    bystander.assert_was_served_within(patience);
    let close = raw
        .bytes_until_end(Duration::from_secs(2))
        .await
        .expect("the end");
    // A reset may overtake the close frame of one who goes on sending.
    assert!(
        close.is_empty() || close[2..4] == 1009_u16.to_be_bytes(),
        "{close:?}"
    );
}

#[actix::test]
async fn empty_fragments_cost_nothing() {
    let _turn = undisturbed().await;
    assert_empty_fragments(2, QUICKLY).await;
}

#[actix::test]
async fn answers_in_fragments_that_nobody_reads_cost_little() {
    let _turn = undisturbed().await;
    let in_two = [frame(FIRST_TEXT, b"b"), frame(PING, b"x"), frame(LAST, b"ad")].concat();
    assert_unread("bad frames and pings in fragments", &in_two, 200_000, QUICKLY).await;
}

#[ignore = "full size, for a release build"]
#[actix::test]
async fn floods_at_full_size() {
    let _turn = undisturbed().await;
    assert_unread("bad frames", &frame(TEXT, b"bad"), 600_000, AT_ONCE).await;
    assert_unread("pings", &frame(PING, &[b'x'; 125]), 300_000, AT_ONCE).await;
    assert_empty_fragments(25, AT_ONCE).await;
}

#[actix::test]
async fn a_message_is_read_wherever_its_frames_are_cut_and_others_are_served() {
    let node = node(&[]).await;
    let (mut raw, mut other) = (Raw::plain(node.address()).await, Raw::plain(node.address()).await);
    let bytes = [
        frame(FIRST_TEXT, "{\"ä".as_bytes()),
        frame(PING, b"p"),
        frame(LAST, b"}"),
    ]
    .concat();
    for cut in 1..bytes.len() {
        raw.send(&bytes[..cut]).await;
        other.send(&frame(TEXT, b"{}")).await;
        assert_eq!(other.json().await["code"], "bad_command");
        raw.send(&bytes[cut..]).await;
        assert_eq!(raw.next().await, Received::Pong(b"p".to_vec()), "cut at {cut}");
        assert_eq!(raw.json().await["code"], "bad_json", "cut at {cut}");
    }
}
