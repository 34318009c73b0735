//! HTTP that no proper client speaks: too much, too slow, too odd, and answers that nobody reads.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::{MIB, MOST_PER_CONNECTION, await_no_session, node};
use crate::support::bystander::{Bystander, QUICKLY};
use crate::support::client::Client;
use crate::support::memory::{Memory, descriptors, processor_time};
use crate::support::node::Node;
use crate::support::raw::{Raw, Received, Request, command};
use crate::support::redis::Redis;
use crate::support::{undisturbed, within};

/// A head without its end.
const BEGUN: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";

/// A request with all that it needs.
const WHOLE: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

/// How soon a connection without a request has to be over.
const END: Duration = Duration::from_secs(10);

/// Measuring takes time, too.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The status of the answer that these bytes begin with.
fn status(bytes: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Sends as much of these bytes as the server takes.
async fn send_all(raw: &mut Raw, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match raw.send_some(bytes, Duration::from_secs(3)).await {
            Some(count) => bytes = &bytes[count..],
            None => return,
        }
    }
}

#[actix::test]
async fn heads_that_are_too_much_are_answered_and_cost_little() {
    let _turn = undisturbed().await;
    let node = node(&[]).await;
    let line = |length: usize| {
        [
            b"GET /".as_slice(),
            &vec![b'x'; length],
            b" HTTP/1.1\r\nhost: x\r\n\r\n",
        ]
        .concat()
    };
    let many = |count: usize| {
        let headers: String = (0..count).map(|n| format!("a{n}: b\r\n")).collect();
        [BEGUN, headers.as_bytes(), b"\r\n"].concat()
    };
    let cases = [
        ("95 headers beside the host", many(95), 200),
        ("96 headers beside the host", many(96), 431),
        ("10,000 headers", many(10_000), 431),
        ("a URL of 30 KiB", line(30 * 1024), 404),
        ("a URL of 40 KiB", line(40 * 1024), 431),
        ("a URL of 1 MiB", line(MIB), 431),
        (
            "one endless header",
            [BEGUN, b"a: ", &vec![b'x'; 16 * MIB]].concat(),
            431,
        ),
        ("empty lines without end", b"\r\n".repeat(8 * MIB), 431),
    ];
    let bystander = Bystander::start(&node);
    for (what, bytes, expected) in cases {
        let memory = Memory::of(&node);
        let mut raw = Raw::connect(node.address()).await;
        send_all(&mut raw, &bytes).await;
        let answer = raw
            .bytes_until_end(END)
            .await
            .unwrap_or_else(|| panic!("{what}: no end"));
        // Who goes on sending may see a reset before the answer.
        let endless = bytes.len() > 2 * MIB && answer.is_empty();
        assert!(endless || status(&answer) == Some(expected), "{what}: {answer:?}");
        memory.assert_growth(MOST_PER_CONNECTION);
    }
    bystander.assert_was_served_within(QUICKLY);
    assert_few_lines(&node);
}

/// Sends `first`, and then `drip` byte by byte again and again; what came until the server ended the connection.
async fn ended(what: &str, address: &str, first: &[u8], drip: &[u8]) -> Vec<u8> {
    let mut raw = Raw::connect(address).await;
    let since = Instant::now();
    raw.send(first).await;
    for byte in drip.iter().cycle() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let sent = raw.send_some(&[*byte], Duration::from_secs(1)).await;
        if sent.is_none() || raw.is_ended().await {
            break;
        }
        assert!(since.elapsed() < END * 2 + TOLERANCE, "{what}: still connected");
    }
    let bytes = raw.bytes_until_end(END * 2).await;
    let bytes = bytes.unwrap_or_else(|| panic!("{what}: still connected"));
    let (elapsed, status) = (since.elapsed(), status(&bytes));
    println!("{what}: over after {elapsed:?} with {status:?}");
    assert!(elapsed < END + TOLERANCE, "{what}: over only after {elapsed:?}");
    bytes
}

#[actix::test]
async fn a_connection_without_a_request_is_over_in_time() {
    let _turn = undisturbed().await;
    let node = node(&[]).await;
    let address = node.address();
    let answered = async |what: &str, first: &[u8], drip: &[u8], expected: u16| {
        let bytes = ended(what, address, first, drip).await;
        // A reset may overtake the answer to one who goes on sending.
        let is_lost = bytes.is_empty() && !drip.is_empty();
        assert!(is_lost || status(&bytes) == Some(expected), "{what}: {bytes:?}");
    };
    let post = |header: &str| format!("POST /healthz HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n").into_bytes();
    let (length, chunks) = (
        post("content-length: 1000000"),
        post("transfer-encoding: chunked"),
    );
    let upgrade = Request::upgrade("/ws");
    let handshake = upgrade.bytes();
    let second = [WHOLE, BEGUN].concat();
    tokio::join!(
        answered("silent", b"", b"", 408),
        answered("a head that stops", BEGUN, b"", 408),
        answered("a head that drips", b"", BEGUN, 408),
        answered("a handshake that stops", &handshake[..40], b"", 408),
        answered("empty lines that drip", b"", b"\r\n", 408),
        answered("idle after an answer", WHOLE, b"", 200),
        answered("a second head that stops", &second, b"", 200),
        answered("a second head that drips", WHOLE, BEGUN, 200),
        answered("a body that never comes", &length, b"", 404),
        answered("a body that drips", &length, b"x", 404),
        answered("chunks that never come", &chunks, b"", 404),
        answered("chunks that drip", &chunks, b"1\r\nx\r\n", 404),
    );
}

#[actix::test]
async fn requests_in_a_row_are_answered_one_after_the_other() {
    const COUNT: usize = 100;
    let node = node(&[]).await;
    let mut raw = Raw::connect(node.address()).await;
    let mut bytes = WHOLE.repeat(COUNT);
    bytes.extend(b"\r\nPOST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    bytes.extend(
        Request::upgrade("/ws")
            .and("sec-websocket-protocol", "roomcast.v1")
            .bytes(),
    );
    bytes.extend(command(&json!({"type": "PING", "id": "behind it all"})));
    raw.send(&bytes).await;
    for _ in 0..COUNT {
        let response = raw.response(false).await;
        assert_eq!((response.status, response.body.as_str()), (200, "ok\n"));
    }
    assert_eq!(raw.response(false).await.status, 404);
    assert_eq!(raw.response(false).await.status, 101);
    assert_eq!(raw.json().await["type"], "welcome");
    assert_eq!(raw.json().await, json!({"type": "pong", "id": "behind it all"}));
}

#[actix::test]
async fn a_handshake_may_be_cut_anywhere() {
    let node = node(&[]).await;
    let mut bytes = Request::upgrade("/ws")
        .and("sec-websocket-protocol", "roomcast.v1")
        .bytes();
    bytes.extend(command(&json!({"type": "PING", "id": 1})));
    for cut in 1..bytes.len() {
        let mut raw = Raw::connect(node.address()).await;
        raw.send(&bytes[..cut]).await;
        tokio::task::yield_now().await;
        raw.send(&bytes[cut..]).await;
        assert_eq!(raw.response(false).await.status, 101, "cut at {cut}");
        assert_eq!(raw.json().await["type"], "welcome", "cut at {cut}");
        assert_eq!(raw.json().await["id"], 1, "cut at {cut}");
    }
    await_no_session(&node).await;
}

#[actix::test]
async fn a_body_that_nobody_wants_is_passed_over() {
    let node = node(&[]).await;
    for header in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut raw = Raw::connect(node.address()).await;
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{header}");
        // What follows on the connection might be what others see as a part of the body.
        raw.send(&[request.as_bytes(), WHOLE].concat()).await;
        let response = raw.response(false).await;
        assert_eq!(
            (response.status, response.body.as_str()),
            (200, "ok\n"),
            "{header:?}"
        );
        assert_eq!(response.header("connection"), Some("close"), "{header:?}");
        assert_eq!(
            raw.bytes_until_end(END + TOLERANCE).await,
            Some(Vec::new()),
            "{header:?}"
        );
    }
}

#[actix::test]
async fn who_reads_no_answers_is_not_read_from_and_keeps_no_core_busy() {
    const ENOUGH: usize = 64 * MIB;
    let _turn = undisturbed().await;
    let (_, page) = Request::get("/").send(node(&[]).await.address()).await;
    let etag = page.header("etag").expect("a tag").to_owned();
    let requests = [
        ("with a body", Request::get("/healthz")),
        ("large", Request::get("/roomcast.js")),
        ("without a body", Request::get("/nothing/here")),
        ("not modified", Request::get("/").and("if-none-match", &etag)),
        ("heads alone", Request::get("/").method("HEAD")),
    ];
    let floods = requests.map(|(what, request)| async move {
        let node = node(&[]).await;
        let bystander = Bystander::start(&node);
        let memory = Memory::of(&node);
        let mut raw = Raw::connect_narrow(node.address()).await;
        let burst = request.bytes().repeat(2_000);
        let (mut sent, mut at) = (0, 0);
        while let Some(count) = raw.send_some(&burst[at..], Duration::from_secs(2)).await {
            sent += count;
            at = (at + count) % burst.len();
            assert!(sent < ENOUGH, "{what}: still read from after {sent} bytes");
        }
        println!("{what}: {} KiB were taken", sent / 1024);
        memory.assert_growth(MOST_PER_CONNECTION);
        bystander.assert_was_served_within(QUICKLY);
        (what, node, raw)
    });
    let stuck = futures_util::future::join_all(floods).await;
    let used = |node| processor_time(node).unwrap_or_default();
    let before: Vec<_> = stuck.iter().map(|(_, node, _)| used(node)).collect();
    let span = Duration::from_secs(2);
    tokio::time::sleep(span).await;
    for ((what, node, _), before) in stuck.iter().zip(before) {
        let busy = used(node) - before;
        assert!(busy < span / 10, "{what}: {busy:?} of {span:?} for nothing");
    }
}

#[actix::test]
async fn odd_requests_are_answered_and_leave_nothing_behind() {
    let _turn = undisturbed().await;
    let node = node(&[]).await;
    // The node has begun to serve when it answers; the connection of the one who asks may still be open.
    assert_eq!(node.get("/healthz").await.0, 200);
    let most = descriptors(&node).map(|before| before + 2);
    let upgrade = |target: &str| Request::upgrade(target).bytes();
    let get = |headers: &str| format!("GET /healthz HTTP/1.1\r\n{headers}\r\n").into_bytes();
    let line = |line: &str| format!("{line}\r\nhost: x\r\n\r\n").into_bytes();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("an absolute URL", upgrade("http://elsewhere.example/ws"), 101),
        ("an escaped path", upgrade("/%77s"), 101),
        ("two slashes", upgrade("//ws"), 404),
        ("a way up", upgrade("/../ws"), 404),
        (
            "an escaped way up",
            line("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1"),
            404,
        ),
        (
            "a file of the system",
            line("GET /..%2f..%2fetc%2fpasswd HTTP/1.1"),
            404,
        ),
        ("an upgrade elsewhere", upgrade("/healthz"), 200),
        (
            "a method in lower case",
            Request::upgrade("/ws").method("get").bytes(),
            405,
        ),
        ("CONNECT", line("CONNECT x:80 HTTP/1.1"), 404),
        ("a request about the server", line("OPTIONS * HTTP/1.1"), 404),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        (
            "an upgrade to HTTP/2",
            Request::get("/ws")
                .and("upgrade", "h2c")
                .and("connection", "upgrade")
                .bytes(),
            400,
        ),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), 400),
        ("no host", get(""), 400),
        ("two hosts", get("host: a\r\nhost: b\r\n"), 400),
        ("a folded header", get("host: x\r\na: b\r\n c\r\n"), 400),
        ("a zero byte", get("host: x\r\na: b\0\r\n"), 400),
        (
            "two lengths",
            get("host: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n"),
            400,
        ),
        (
            "a list of lengths",
            get("host: x\r\ncontent-length: 1, 1\r\n"),
            400,
        ),
        (
            "a length with a sign",
            get("host: x\r\ncontent-length: +1\r\n"),
            400,
        ),
        (
            "a length below zero",
            get("host: x\r\ncontent-length: -1\r\n"),
            400,
        ),
        (
            "a length and chunks",
            get("host: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n"),
            400,
        ),
        (
            "another encoding",
            get("host: x\r\ntransfer-encoding: gzip, chunked\r\n"),
            400,
        ),
        (
            "TLS",
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
                &[b'\n'; 500],
            ]
            .concat(),
            400,
        ),
    ];
    for (what, bytes, expected) in cases {
        let mut raw = Raw::connect(node.address()).await;
        raw.send(&bytes).await;
        assert_eq!(raw.response(true).await.status, expected, "{what}");
    }
    // An interim answer comes before the answer, also to a handshake.
    let mut raw = Raw::connect(node.address()).await;
    raw.send(&Request::upgrade("/ws").and("expect", "100-continue").bytes())
        .await;
    assert_eq!(raw.response(true).await.status, 100);
    assert_eq!(raw.response(true).await.status, 101);
    drop(raw);
    await_no_session(&node).await;
    within(
        Duration::from_secs(2),
        "descriptors to be free again",
        async || (descriptors(&node) <= most).then_some(()),
    )
    .await;
    assert_few_lines(&node);
}

#[actix::test]
async fn who_stops_sending_gets_what_is_owed_and_its_session_ends() {
    let node = node(&[]).await;
    let handshake = Request::upgrade("/ws")
        .and("sec-websocket-protocol", "roomcast.v1")
        .bytes();
    let ping = command(&json!({"type": "PING", "id": 1}));
    for (what, bytes) in [
        ("alone", handshake.clone()),
        ("with a command", [handshake, ping].concat()),
    ] {
        let mut raw = Raw::connect(node.address()).await;
        raw.send(&bytes).await;
        raw.finish().await;
        assert_eq!(raw.response(false).await.status, 101, "{what}");
        let frames = raw.rest().await;
        let [Received::Text(welcome), answers @ ..] = frames.as_slice() else {
            panic!("{what}: {frames:?}");
        };
        assert!(welcome.contains("welcome"), "{what}: {welcome}");
        println!("{what}: {answers:?}");
        await_no_session(&node).await;
    }
    let mut raw = Raw::connect(node.address()).await;
    raw.send(WHOLE).await;
    raw.finish().await;
    assert_eq!(raw.response(false).await.status, 200);
    assert_eq!(raw.next().await, Received::End);
}

#[actix::test]
async fn connections_that_say_nothing_leave_descriptors_for_redis() {
    const DESCRIPTORS: usize = 300;
    let _turn = undisturbed().await;
    let redis = Redis::start().await;
    let url = redis.url();
    let node = Node::start_with_descriptors(DESCRIPTORS, &[("REDIS_URL", &url)]).await;
    node.ready().await;
    let mut member = Client::v1(&node.ws_url()).await;
    member.subscribe("r").await;
    let since = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS {
        idle.push(Raw::connect(node.address()).await);
    }
    within(QUICKLY * 4, "as many connections as there may be", async || {
        descriptors(&node)
            .is_none_or(|open| open > DESCRIPTORS - 100)
            .then_some(())
    })
    .await;
    // The node has to dial anew now, and its member is served.
    redis.client_kill("pubsub").await;
    redis.client_kill("normal").await;
    let heard = async {
        loop {
            member.publish("r", "m").await;
            if member.json().await["type"] == "message" {
                break;
            }
        }
    };
    timeout(QUICKLY * 4, heard)
        .await
        .expect("a message by a new connection");
    // Who waits is served when others have ended.
    let mut late = Raw::connect(node.address()).await;
    late.send(&Request::get("/healthz").and("connection", "close").bytes())
        .await;
    let answer = late
        .bytes_until_end(END * 3)
        .await
        .expect("an answer and the end");
    println!("who came late was served within {:?}", since.elapsed());
    assert_eq!(status(&answer), Some(200));
    assert!(!node.log().contains("open files"), "{}", node.log());
}

/// The log is not the peers' to fill: sessions and refusals within limits, and no alarm.
fn assert_few_lines(node: &Node) {
    let log = node.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    assert!(log.lines().count() < 200, "{log}");
}
