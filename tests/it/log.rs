//! The log on standard error: what it costs when nobody reads it, and that nobody else writes its lines.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::Client;
use crate::support::memory::Memory;
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, Request, close, command};
use crate::support::redis::Redis;
use crate::support::{PATIENCE, eventually, undisturbed};

const MIB: usize = 1024 * 1024;

/// How many lines of a log are dropped in these tests. With `RUST_LOG=trace` a line has some 90 bytes, so that is more than
/// 3 MiB beside the one that the node keeps.
const MANY_LINES: u64 = 40_000;

/// A node that logs everything, to nobody.
async fn unread_node() -> Node {
    Node::start_unread(&[], &[("RUST_LOG", "trace")]).await
}

/// Keeps the node busy until it has dropped [`MANY_LINES`] of its log; what it is asked it always answers in time.
async fn overflow_the_log(node: &Node) {
    let mut client = Client::v1(&node.ws_url()).await;
    let deadline = Instant::now() + 6 * PATIENCE;
    while node.metric("roomcast_log_lines_dropped_total").await < MANY_LINES {
        assert!(Instant::now() < deadline, "the log does not overflow");
        for _ in 0..200 {
            let since = Instant::now();
            assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
            assert!(since.elapsed() < Duration::from_secs(2), "the node hangs");
        }
    }
}

/// What has been logged by the time that this is in it.
async fn log_with(node: &Node, what: &str) -> String {
    eventually(what, async || {
        let log = node.log();
        log.contains(what).then_some(log)
    })
    .await
}

/// Checks that each line begins as a record does.
fn assert_records(log: &str) {
    for line in log.lines() {
        let level = line.strip_prefix("[20").and_then(|rest| rest.split(' ').nth(1));
        assert!(
            level.is_some_and(|level| ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level)),
            "{line:?} is no record"
        );
    }
}

#[actix::test]
async fn a_log_that_nobody_reads_holds_up_nobody_and_says_what_is_missing() {
    let _turn = undisturbed().await;
    let mut node = unread_node().await;
    let memory = Memory::of(&node);
    overflow_the_log(&node).await;
    memory.assert_growth(8 * MIB);
    assert!(
        node.banner().contains(&format!("http://{}/", node.address())),
        "{}",
        node.banner()
    );

    node.read_log();
    let log = log_with(&node, "] log lines dropped: count=").await;
    let (kept, rest) = log.split_once("] log lines dropped: count=").expect("just seen");
    assert!(kept.len() > MIB, "only {} bytes were kept", kept.len());
    let count = rest.split_once('\n').expect("a whole line").0;
    let count: u64 = count.parse().expect("a number");
    assert!(count >= MANY_LINES, "{count} lines are missing");

    // And it goes on: also with what comes last.
    node.signal(Signal::INT);
    assert!(node.exit(PATIENCE).await.success());
    let log = log_with(&node, "stopping: how=Interrupt").await;
    assert_records(&log);
}

#[actix::test]
async fn a_node_whose_log_nobody_reads_still_stops() {
    let _turn = undisturbed().await;
    let mut node = unread_node().await;
    overflow_the_log(&node).await;
    let since = Instant::now();
    node.signal(Signal::INT);
    assert!(node.exit(PATIENCE).await.success());
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[actix::test]
async fn a_node_whose_log_has_no_reader_any_more_goes_on() {
    let node = unread_node().await;
    let mut node = node.without_log();
    let mut client = Client::v1(&node.ws_url()).await;
    assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
    eventually("lines that cannot be written", async || {
        (node.metric("roomcast_log_lines_dropped_total").await > 0).then_some(())
    })
    .await;
    node.signal(Signal::INT);
    assert!(node.exit(PATIENCE).await.success());
}

/// Begins a line of its own, colours it, and turns its direction; C1 controls act like escapes in some terminals.
const EVIL: &str = "x\r\n[2024-11-24T00:00:00Z ERROR evil] \u{1b}[31m\u{9b}31m\u{85}\u{202e}\u{7}";

/// Checks that whatever was logged, nothing of [`EVIL`] takes effect.
fn assert_tame(log: &str) {
    assert_records(log);
    let unsafe_character = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    if let Some(line) = log.lines().find(|line| line.contains(unsafe_character)) {
        panic!("raw in the log: {line:?}");
    }
    assert!(
        !log.contains("\n[2024-11-24T00:00:00Z ERROR evil]"),
        "a line was forged"
    );
}

#[actix::test]
async fn nobody_else_writes_lines_of_the_log() {
    let redis = Redis::start().await;
    let node = Node::start(&[
        ("REDIS_URL", &redis.url()),
        ("RUST_LOG", "trace"),
        ("ROOMCAST_ALLOWED_ORIGINS", "http://good.example"),
    ])
    .await;
    node.ready().await;
    let address = node.address();

    // In a handshake, as far as HTTP lets it through.
    let percent: String = EVIL.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let printable: String = EVIL
        .chars()
        .filter(|c| !c.is_ascii_control())
        .collect::<String>()
        .replace('[', "");
    for request in [
        Request::upgrade(&format!("/ws?user={percent}")),
        Request::upgrade(&format!("/{percent}")),
        Request::upgrade("/ws").and("origin", EVIL),
        Request::upgrade("/ws").and("origin", &printable),
        Request::upgrade("/ws").and("sec-websocket-protocol", &printable),
        Request::upgrade("/ws").and("x-other", &printable),
    ] {
        let (_, response) = request.send(address).await;
        assert!(response.status < 500, "{response:?}");
    }

    // In commands, and in the reason of a close frame.
    let mut raw = Raw::v1(address).await;
    for evil in [
        json!({"type": "SUBSCRIBE", "room": EVIL, "id": EVIL}),
        json!({"type": EVIL, "room": "room"}),
        json!({"type": "sendMessage", "room": "room", "message": EVIL, "key": EVIL}),
    ] {
        raw.send(&command(&evil)).await;
        raw.json().await;
    }
    let name = format!("evil \u{202e}{}", "[31m");
    raw.send(&command(&json!({"type": "SUBSCRIBE", "room": name})))
        .await;
    assert_eq!(raw.json().await["type"], "subscribed");

    // On a channel.
    redis.publish(&name, EVIL).await;
    log_with(&node, "payload dropped").await;

    let reason: String = EVIL.chars().take(50).collect();
    raw.send(&close(1000, reason.as_bytes())).await;
    assert!(matches!(raw.next().await, Received::Close(..)));
    log_with(&node, "by=peer code=1000").await;

    assert_tame(&node.log());
}

/// Answers every command with OK, and a publish with an error that is to be seen in a log.
async fn serve_as_an_evil_redis(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        actix::spawn(async move {
            let (mut unread, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                unread.extend_from_slice(&buffer[..count]);
                while let Some((command, size)) = whole_command(&unread) {
                    unread.drain(..size);
                    let answer = match command.as_str() {
                        "PUBLISH" => "-READONLY \u{1b}[31m\u{9b}31m\u{85}\u{202e}\u{7}\r\n",
                        _ => "+OK\r\n",
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// The name of the command that these bytes begin with, and its size; `None` until it is whole.
fn whole_command(bytes: &[u8]) -> Option<(String, usize)> {
    // `*2`, `$3`, a word of three bytes, `$4`, …, each ended by CR LF.
    let number = |at: usize| {
        let end = bytes.get(at..)?.iter().position(|byte| *byte == b'\r')? + at;
        let number: usize = std::str::from_utf8(&bytes[at + 1..end]).ok()?.parse().ok()?;
        Some((number, end + 2))
    };
    let (words, mut at) = number(0)?;
    let mut name = None;
    for _ in 0..words {
        let (length, begin) = number(at)?;
        at = begin + length + 2;
        let word = bytes.get(begin..at)?;
        name.get_or_insert_with(|| String::from_utf8_lossy(&word[..length]).to_uppercase());
    }
    Some((name?, at))
}

#[actix::test]
async fn not_even_redis_writes_lines_of_the_log() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("redis://{}", listener.local_addr().expect("a bound socket"));
    actix::spawn(serve_as_an_evil_redis(listener));
    let node = Node::start(&[("REDIS_URL", &*url), ("ROOMCAST_HISTORY_SIZE", "0")]).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let publish = json!({"type": "sendMessage", "room": "room", "message": "hi"});
    let deadline = Instant::now() + PATIENCE;
    while !node.log().contains("publishing connection lost") {
        assert!(Instant::now() < deadline, "no error in the log: {}", node.log());
        // Until the node has its connection, it is refused at once.
        assert_eq!(client.call(publish.clone()).await["code"], "unavailable");
    }
    assert_tame(&node.log());
}
