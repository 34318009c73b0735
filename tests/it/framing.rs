//! RFC 6455 framing, byte by byte, on a real process: what is joined, what is refused, what is answered.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::client::{Client, without_place};
use crate::support::node::Node;
use crate::support::raw::{
    BINARY, CLOSE, FIRST_BINARY, FIRST_TEXT, LAST, MIDDLE, PING, PONG, Raw, Received, TEXT, close, command,
    frame, header, masked,
};
use crate::support::{undisturbed, within};

/// How soon a connection has to be over after a violation or a close frame.
const PROMPTLY: Duration = Duration::from_secs(1);

/// A limit on messages, small enough for its multiples to be sent often.
const MAX_MESSAGE: usize = 1_000;

/// What a frame, or the fragments of a message together, may count under [`MAX_MESSAGE`].
const MAX_FRAME: usize = 6 * MAX_MESSAGE + 4_096;

/// What a fragment counts beside its payload.
const FRAGMENT: usize = 16;

/// A node with [`MAX_MESSAGE`].
async fn small_node() -> Node {
    Node::start(&[("ROOMCAST_MAX_MESSAGE", "1000")]).await
}

/// Sends bytes on a connection of its own and never anything more, not even the answer to a close frame. What the
/// server sent until it ended the connection, and how long after the last byte that was.
async fn outcome(address: &str, bytes: &[u8]) -> (Vec<Received>, Duration) {
    let mut raw = Raw::v1(address).await;
    raw.send(bytes).await;
    let sent = Instant::now();
    (raw.rest().await, sent.elapsed())
}

/// Checks that each of these byte sequences is answered by a close frame with this code and nothing else, and that the
/// connection is over promptly.
async fn assert_closed_with(code: u16, address: &str, cases: Vec<(String, Vec<u8>)>) {
    let outcomes = cases.iter().map(|(_, bytes)| outcome(address, bytes));
    let outcomes = join_all(outcomes).await;
    for ((what, _), (frames, after)) in cases.iter().zip(outcomes) {
        assert!(
            matches!(frames.as_slice(), [Received::Close(Some(found), _)] if *found == code),
            "{what}: {frames:?} instead of {code}"
        );
        assert!(after < PROMPTLY, "{what}: over only after {after:?}");
    }
}

fn named(cases: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    cases
        .into_iter()
        .map(|(what, bytes)| (what.to_owned(), bytes))
        .collect()
}

/// `{"type":"PING","id":…}` with an id of so many bytes that the text has this length.
fn ping_command() -> String {
    json!({"type": "PING", "id": "é💬"}).to_string()
}

async fn assert_pong(raw: &mut Raw) {
    assert_eq!(raw.json().await, json!({"type": "pong", "id": "é💬"}));
}

// ---- What is joined

#[actix::test]
async fn fragments_are_joined_wherever_they_are_cut() {
    let node = Node::start(&[]).await;
    let mut raw = Raw::v1(node.address()).await;
    let text = ping_command();
    for cut in 0..=text.len() {
        // Also within a character.
        let (head, tail) = text.as_bytes().split_at(cut);
        raw.send(&[frame(FIRST_TEXT, head), frame(LAST, tail)].concat())
            .await;
        assert_pong(&mut raw).await;
    }
    let mut bytes = frame(FIRST_TEXT, b"");
    for byte in text.as_bytes() {
        bytes.extend(frame(MIDDLE, &[*byte]));
        bytes.extend(frame(MIDDLE, b""));
    }
    bytes.extend(frame(LAST, b""));
    raw.send(&bytes).await;
    assert_pong(&mut raw).await;
}

#[actix::test]
async fn frames_may_come_byte_by_byte() {
    let node = Node::start(&[]).await;
    let mut raw = Raw::v1(node.address()).await;
    let text = ping_command();
    let (head, tail) = text.as_bytes().split_at(text.len() / 2);
    let long = json!({"type": "PING", "id": "é💬", "padding": "x".repeat(300)}).to_string();
    let frames = [
        frame(TEXT, text.as_bytes()),
        frame(FIRST_TEXT, head),
        frame(PING, b"between"),
        frame(LAST, tail),
        frame(TEXT, long.as_bytes()),
    ];
    for byte in frames.concat() {
        raw.send(&[byte]).await;
    }
    assert_pong(&mut raw).await;
    assert_eq!(raw.next().await, Received::Pong(b"between".to_vec()));
    assert_pong(&mut raw).await;
    assert_pong(&mut raw).await;
}

#[actix::test]
async fn control_frames_between_fragments_are_answered_at_once() {
    let node = Node::start(&[]).await;
    let mut raw = Raw::v1(node.address()).await;
    let text = ping_command();
    let (head, tail) = text.as_bytes().split_at(text.len() - 4);
    raw.send(&frame(FIRST_TEXT, head)).await;
    raw.send(&frame(PONG, b"nobody asked")).await;
    for n in 0..3 {
        raw.send(&frame(PING, &[n])).await;
        assert_eq!(raw.next().await, Received::Pong(vec![n]));
        raw.send(&frame(MIDDLE, b"")).await;
    }
    raw.send(&frame(LAST, tail)).await;
    assert_pong(&mut raw).await;
}

#[actix::test]
async fn joined_messages_are_published_like_whole_ones() {
    let node = Node::start(&[]).await;
    let mut member = Client::plain(&node.ws_url()).await;
    member.subscribe_plain("r").await;
    let message = "é💬".repeat(1_000);
    let text = json!({"type": "sendMessage", "roomId": "r", "message": message}).to_string();
    let mut raw = Raw::plain(node.address()).await;
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(7).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let first = match n {
            0 => FIRST_TEXT,
            n if n == pieces.len() - 1 => LAST,
            _ => MIDDLE,
        };
        raw.send(&frame(first, piece)).await;
    }
    assert_eq!(member.text().await, message);
}

#[actix::test]
async fn binary_messages_in_fragments_are_answered_once() {
    let node = Node::start(&[]).await;
    for mut raw in [Raw::v1(node.address()).await, Raw::plain(node.address()).await] {
        let fragments = [
            frame(FIRST_BINARY, b"\xff"),
            frame(MIDDLE, b"\xfe"),
            frame(LAST, b"\xfd"),
            frame(BINARY, b"\xff\xff"),
            frame(TEXT, br#"{"type":"NONE"}"#),
        ];
        raw.send(&fragments.concat()).await;
        for code in ["bad_json", "bad_json", "unknown_type"] {
            assert_eq!(raw.json().await["code"], code);
        }
    }
}

#[actix::test]
async fn pings_are_answered_with_their_payload() {
    let node = Node::start(&[]).await;
    let mut raw = Raw::v1(node.address()).await;
    for payload in [vec![], b"hello".to_vec(), vec![0, 0xff, 0x80], vec![0x81; 125]] {
        raw.send(&frame(PING, &payload)).await;
        assert_eq!(raw.next().await, Received::Pong(payload));
    }
    let burst: Vec<u8> = (0..100).flat_map(|n| frame(PING, &[n])).collect();
    raw.send(&burst).await;
    for n in 0..100 {
        assert_eq!(raw.next().await, Received::Pong(vec![n]));
    }
}

#[actix::test]
async fn pongs_that_nobody_asked_for_are_ignored() {
    let node = Node::start(&[]).await;
    let mut raw = Raw::v1(node.address()).await;
    raw.send(&[frame(PONG, b""), frame(PONG, &[0xff; 125])].concat())
        .await;
    raw.send(&frame(TEXT, ping_command().as_bytes())).await;
    assert_pong(&mut raw).await;
}

// ---- Sizes

#[actix::test]
async fn a_message_within_six_times_the_limit_is_read_and_answered() {
    let node = small_node().await;
    let mut raw = Raw::v1(node.address()).await;
    let publish = |text: &str| format!(r#"{{"type":"sendMessage","id":7,"roomId":"r","message":"{text}"}}"#);
    let envelope = publish("").len();
    let longest = publish(&"x".repeat(MAX_FRAME - envelope));
    assert_eq!(longest.len(), MAX_FRAME);
    raw.send(&frame(TEXT, longest.as_bytes())).await;
    let reply = raw.json().await;
    assert_eq!(
        (&reply["code"], &reply["id"]),
        (&json!("message_too_large"), &json!(7))
    );
    // The same in two fragments, which count 16 bytes each.
    let (head, tail) = longest.as_bytes()[2 * FRAGMENT..].split_at(5_000);
    raw.send(&[frame(FIRST_TEXT, head), frame(LAST, tail)].concat())
        .await;
    assert_eq!(raw.json().await["code"], "bad_json");
    // A text at the limit, every byte of it escaped.
    raw.send(&frame(TEXT, publish(&r"\u0041".repeat(MAX_MESSAGE)).as_bytes()))
        .await;
    let reply = without_place(raw.json().await);
    assert_eq!(reply, json!({"type": "sent", "id": 7, "room": "r"}));
}

#[actix::test]
async fn the_limit_counts_each_message_anew() {
    let node = small_node().await;
    let mut raw = Raw::v1(node.address()).await;
    let text = json!({"type": "PING", "id": "é💬", "padding": "x".repeat(5_000)}).to_string();
    let (head, tail) = text.as_bytes().split_at(2_500);
    for _ in 0..5 {
        raw.send(&frame(TEXT, text.as_bytes())).await;
        assert_pong(&mut raw).await;
        raw.send(&[frame(FIRST_TEXT, head), frame(LAST, tail)].concat())
            .await;
        assert_pong(&mut raw).await;
    }
}

#[actix::test]
async fn empty_fragments_count_sixteen_bytes_each() {
    let node = small_node().await;
    let fragments = |count: usize| -> Vec<u8> {
        let middle = (2..count).flat_map(|_| frame(MIDDLE, b""));
        frame(FIRST_TEXT, b"")
            .into_iter()
            .chain(middle)
            .chain(frame(LAST, b""))
            .collect()
    };
    let fit = MAX_FRAME / FRAGMENT;
    let mut raw = Raw::v1(node.address()).await;
    raw.send(&fragments(fit)).await;
    assert_eq!(raw.json().await["code"], "bad_json");
    let case = ("one empty fragment too many".to_owned(), fragments(fit + 1));
    assert_closed_with(1009, node.address(), vec![case]).await;
}

#[actix::test]
async fn what_is_too_large_is_refused_by_its_header() {
    let _turn = undisturbed().await;
    let node = small_node().await;
    let fragments = |payload: usize| {
        let head = frame(FIRST_TEXT, &vec![b'x'; payload - 5_000]);
        [head, header(LAST, 5_000)].concat()
    };
    // Of the frame that is too large, nothing but the header is sent.
    let cases = vec![
        ("a text of 2^40 bytes", header(TEXT, 1 << 40)),
        ("a text of 2^62 bytes", header(TEXT, 1 << 62)),
        ("a binary message of 2^40 bytes", header(BINARY, 1 << 40)),
        ("a fragment of 2^40 bytes", header(FIRST_TEXT, 1 << 40)),
        ("one byte too many", header(TEXT, MAX_FRAME as u64 + 1)),
        (
            "one byte too many in a fragment",
            header(FIRST_TEXT, (MAX_FRAME - FRAGMENT) as u64 + 1),
        ),
        (
            "one byte too many in two fragments",
            fragments(MAX_FRAME - 2 * FRAGMENT + 1),
        ),
        (
            "2^63 - 1 in the second fragment",
            [frame(FIRST_TEXT, b"x"), header(MIDDLE, (1 << 63) - 1)].concat(),
        ),
    ];
    assert_closed_with(1009, node.address(), named(cases)).await;
}

#[actix::test]
async fn a_peer_that_goes_on_sending_what_is_too_large_is_told_and_cut() {
    let _turn = undisturbed().await;
    let node = small_node().await;
    let mut raw = Raw::v1(node.address()).await;
    raw.send(&header(TEXT, 1 << 40)).await;
    let sent = Instant::now();
    let chunk = [b'x'; 16 * 1024];
    // Until nobody takes it any more.
    while raw.send_some(&chunk, PROMPTLY).await.is_some() {
        assert!(sent.elapsed() < 2 * PROMPTLY, "it is still read from");
    }
    assert!(sent.elapsed() < PROMPTLY, "over only after {:?}", sent.elapsed());
}

// ---- Violations

#[actix::test]
async fn violations_of_the_framing_close_with_1002() {
    let _turn = undisturbed().await;
    let node = Node::start(&[]).await;
    let hello = || frame(TEXT, b"{}");
    let unmasked = |first: u8| vec![first, 2, b'{', b'}'];
    let mut cases = named(vec![
        ("an unmasked text", unmasked(TEXT)),
        ("an unmasked ping", unmasked(PING)),
        ("an unmasked close", vec![CLOSE, 2, 3, 0xe8]),
        ("reserved bit 1", frame(TEXT | 0x40, b"{}")),
        ("reserved bit 2", frame(TEXT | 0x20, b"{}")),
        ("reserved bit 3", frame(TEXT | 0x10, b"{}")),
        ("reserved bits on a ping", frame(PING | 0x70, b"")),
        (
            "reserved bits on a fragment",
            [frame(FIRST_TEXT, b"{"), frame(LAST | 0x40, b"}")].concat(),
        ),
        ("only the first byte of a bad frame", vec![TEXT | 0x40]),
        ("a ping in fragments", frame(PING & 0x7f, b"")),
        ("a pong in fragments", frame(PONG & 0x7f, b"")),
        ("a close in fragments", frame(CLOSE & 0x7f, b"")),
        ("a ping of 126 bytes", frame(PING, &[0; 126])),
        ("a pong of 126 bytes", frame(PONG, &[0; 126])),
        ("a close of 126 bytes", close(1000, &[b'x'; 124])),
        ("the header of a ping of 2^40 bytes", header(PING, 1 << 40)),
        ("a continuation of nothing", frame(LAST, b"{}")),
        ("a middle of nothing", frame(MIDDLE, b"{}")),
        (
            "a continuation after a whole message of fragments",
            [frame(FIRST_BINARY, b""), frame(MIDDLE | 0x70, b"")].concat(),
        ),
        (
            "a text within a message",
            [frame(FIRST_TEXT, b"{"), hello()].concat(),
        ),
        (
            "a binary message within a message",
            [frame(FIRST_TEXT, b"{"), frame(BINARY, b"")].concat(),
        ),
        (
            "a second beginning",
            [frame(FIRST_TEXT, b"{"), frame(FIRST_TEXT, b"}")].concat(),
        ),
        (
            "a length in two bytes that fits in one",
            [
                vec![TEXT, 0xfe, 0, 2],
                header(TEXT, 2)[2..].to_vec(),
                masked(b"{}"),
            ]
            .concat(),
        ),
        (
            "a length in eight bytes that fits in two",
            [
                vec![TEXT, 0xff, 0, 0, 0, 0, 0, 0, 1, 0],
                header(TEXT, 2)[2..].to_vec(),
                masked(&[b'x'; 256]),
            ]
            .concat(),
        ),
        ("a length with the highest bit", header(TEXT, 1 << 63)),
        ("a close with half a code", frame(CLOSE, &[3])),
    ]);
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        cases.push((format!("opcode {opcode}"), frame(0x80 | opcode, b"")));
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        cases.push((format!("close code {code}"), close(code, b"")));
    }
    assert_closed_with(1002, node.address(), cases).await;
}

#[actix::test]
async fn texts_that_are_not_utf8_close_with_1007() {
    let _turn = undisturbed().await;
    let node = Node::start(&[]).await;
    let sequences: [(&str, &[u8]); 11] = [
        ("a lone byte", b"\xff"),
        ("a lone continuation", b"\x80"),
        ("a cut character", b"\xe2\x82"),
        ("a character cut by another", b"\xe2\x82x"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong zero", b"\xe0\x80\x80"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb2\xac"),
        ("beyond the last character", b"\xf4\x90\x80\x80"),
        ("five bytes", b"\xf8\x88\x80\x80\x80"),
        ("Latin-1", b"caf\xe9"),
    ];
    let mut cases = Vec::new();
    for (what, sequence) in sequences {
        let text = [br#"{"type":"PING","id":""#, sequence, br#""}"#].concat();
        cases.push((what.to_owned(), frame(TEXT, &text)));
        let fragments = text
            .chunks(1)
            .map(|byte| frame(MIDDLE, byte))
            .collect::<Vec<_>>()
            .concat();
        let fragments = [frame(FIRST_TEXT, b""), fragments, frame(LAST, b"")].concat();
        cases.push((format!("{what}, in fragments"), fragments));
        cases.push((format!("{what}, as the reason of a close"), close(1000, sequence)));
    }
    cases.push((
        "a character cut at the end".to_owned(),
        frame(TEXT, b"{}\xf0\x9f\x92"),
    ));
    cases.push((
        "a character cut at the end of the last fragment".to_owned(),
        [frame(FIRST_TEXT, b"{}"), frame(LAST, b"\xf0\x9f\x92")].concat(),
    ));
    // Nobody waits for the rest of what can be no text any more.
    cases.push((
        "a first fragment, and the last never comes".to_owned(),
        frame(FIRST_TEXT, b"{\xff"),
    ));
    cases.push((
        "a character cut by another fragment, and the last never comes".to_owned(),
        [frame(FIRST_TEXT, b"\xe2\x82"), frame(MIDDLE, b"x")].concat(),
    ));
    assert_closed_with(1007, node.address(), cases).await;
}

#[actix::test]
async fn commands_before_a_violation_are_answered_and_those_after_it_are_not() {
    let node = Node::start(&[]).await;
    let mut member = Client::plain(&node.ws_url()).await;
    member.subscribe_plain("r").await;
    let publish = |text: &str| command(&json!({"type": "sendMessage", "roomId": "r", "message": text}));
    let ping = command(&json!({"type": "PING", "id": 1}));
    for end in [frame(TEXT | 0x40, b""), frame(TEXT, b"\xff"), close(1000, b"")] {
        let (frames, _) = outcome(
            node.address(),
            &[
                ping.clone(),
                end,
                ping.clone(),
                frame(PING, b"x"),
                publish("after the end"),
            ]
            .concat(),
        )
        .await;
        assert!(
            matches!(frames.as_slice(), [Received::Text(pong), Received::Close(Some(_), _)] if pong.contains("pong")),
            "{frames:?}"
        );
    }
    // Others notice nothing, and nothing was published.
    member.publish("r", "still here").await;
    assert_eq!(member.text().await, "still here");
}

#[actix::test]
async fn a_peer_that_goes_on_sending_after_a_violation_is_told_and_cut() {
    let _turn = undisturbed().await;
    let node = Node::start(&[]).await;
    for violation in [frame(TEXT | 0x40, b""), frame(TEXT, b"\xff")] {
        let mut raw = Raw::v1(node.address()).await;
        raw.send(&violation).await;
        let sent = Instant::now();
        assert!(matches!(raw.next().await, Received::Close(Some(1002 | 1007), _)));
        let ping = frame(PING, b"anybody?");
        while raw.send_some(&ping, PROMPTLY).await.is_some() {
            assert!(sent.elapsed() < 2 * PROMPTLY, "it is still connected");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(sent.elapsed() < PROMPTLY, "over only after {:?}", sent.elapsed());
        assert_eq!(raw.rest().await, []);
    }
}

#[actix::test]
async fn a_member_gets_nothing_after_its_close_frame() {
    let node = Node::start(&[]).await;
    let address = node.address().to_owned();
    let flood = actix::spawn(async move {
        let mut sender = Raw::v1(&address).await;
        for n in 0.. {
            sender
                .send(&command(
                    &json!({"type": "sendMessage", "roomId": "r", "message": n}),
                ))
                .await;
            assert_eq!(sender.json().await["type"], "sent");
        }
    });
    for end in [frame(TEXT | 0x40, b""), close(1000, b"")] {
        for _ in 0..10 {
            let mut raw = Raw::v1(node.address()).await;
            raw.send(&command(&json!({"type": "SUBSCRIBE", "room": "r"})))
                .await;
            for _ in 0..5 {
                raw.json().await;
            }
            raw.send(&end).await;
            let frames = raw.rest().await;
            let (last, before) = frames.split_last().expect("a close frame");
            assert!(matches!(last, Received::Close(Some(_), _)), "{frames:?}");
            assert!(
                before.iter().all(|frame| matches!(frame, Received::Text(_))),
                "{frames:?}"
            );
        }
    }
    flood.abort();
}

// ---- Closing

#[actix::test]
async fn a_close_frame_is_answered_with_its_code() {
    let _turn = undisturbed().await;
    let node = Node::start(&[]).await;
    let codes = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ];
    for reason in ["", "it was nice é", &"x".repeat(123)] {
        let outcomes = codes.map(async |code| outcome(node.address(), &close(code, reason.as_bytes())).await);
        for (code, (frames, after)) in codes.iter().zip(join_all(outcomes).await) {
            assert!(
                matches!(frames.as_slice(), [Received::Close(Some(found), _)] if found == code),
                "{code}: {frames:?}"
            );
            assert!(after < PROMPTLY, "{code}: over only after {after:?}");
        }
    }
    let (frames, after) = outcome(node.address(), &frame(CLOSE, b"")).await;
    assert_eq!(frames, [Received::Close(None, String::new())]);
    assert!(after < PROMPTLY, "over only after {after:?}");
}

#[actix::test]
async fn a_close_frame_within_a_message_is_answered() {
    let node = Node::start(&[]).await;
    let bytes = [frame(FIRST_TEXT, b"{"), close(1000, b"")].concat();
    let (frames, _) = outcome(node.address(), &bytes).await;
    assert_eq!(frames, [Received::Close(Some(1000), String::new())]);
}

// ---- Before the handshake is done

#[actix::test]
async fn half_open_handshakes_are_ended_and_hinder_nobody() {
    let _turn = undisturbed().await;
    let node = Node::start(&[]).await;
    let since = Instant::now();
    let mut half_open = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::connect(node.address()).await;
        if n % 2 == 0 {
            raw.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: webso")
                .await;
        }
        half_open.push(raw);
    }
    for _ in 0..10 {
        let asked = Instant::now();
        Raw::v1(node.address()).await;
        assert!(
            asked.elapsed() < PROMPTLY,
            "a handshake took {:?}",
            asked.elapsed()
        );
    }
    let all_ended = async || {
        for raw in &half_open {
            if !raw.is_ended().await {
                return None;
            }
        }
        Some(())
    };
    within(
        Duration::from_secs(12),
        "the ends of half-open handshakes",
        all_ended,
    )
    .await;
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "over only after {:?}",
        since.elapsed()
    );
}

// ---- Heartbeats

const HEARTBEAT: Duration = Duration::from_secs(2);

async fn beating_node() -> Node {
    Node::start(&[("ROOMCAST_HEARTBEAT", "2")]).await
}

/// Checks that a session that was last heard of at `since` is pinged and then closed in time.
async fn assert_given_up(what: &str, mut raw: Raw, since: Instant) {
    let mut pings = 0;
    loop {
        match raw.next().await {
            Received::Ping(_) => {
                let after = since.elapsed();
                assert!(
                    after >= HEARTBEAT.mul_f64(0.95),
                    "{what}: pinged after {after:?} already"
                );
                pings += 1;
            }
            Received::Close(code, _) => {
                let after = since.elapsed();
                assert_eq!(code, Some(4009), "{what}");
                assert!(pings > 0, "{what}: nobody asked");
                assert!(
                    (HEARTBEAT * 2..HEARTBEAT.mul_f64(2.5)).contains(&after),
                    "{what}: closed after {after:?}"
                );
                break;
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    let closed = Instant::now();
    assert_eq!(raw.rest().await, [], "{what}");
    assert!(
        closed.elapsed() < PROMPTLY,
        "{what}: over only after {:?}",
        closed.elapsed()
    );
}

#[actix::test]
async fn a_mute_peer_is_asked_and_closed_with_4009_within_two_and_a_half_heartbeats() {
    let _turn = undisturbed().await;
    let node = beating_node().await;
    let silent = async {
        let raw = Raw::v1(node.address()).await;
        assert_given_up("silent from the start", raw, Instant::now()).await;
    };
    let plain = async {
        let raw = Raw::plain(node.address()).await;
        assert_given_up("plain", raw, Instant::now()).await;
    };
    let after_a_command = async {
        let mut raw = Raw::v1(node.address()).await;
        tokio::time::sleep(HEARTBEAT.mul_f64(0.5)).await;
        raw.send(&command(&json!({"type": "PING"}))).await;
        let since = Instant::now();
        assert_eq!(raw.json().await["type"], "pong");
        assert_given_up("after a command", raw, since).await;
    };
    let within_a_frame = async {
        let mut raw = Raw::v1(node.address()).await;
        raw.send(&header(TEXT, 100)).await;
        assert_given_up("within a frame", raw, Instant::now()).await;
    };
    let within_a_header = async {
        let mut raw = Raw::v1(node.address()).await;
        raw.send(&header(TEXT, 1_000)[..3]).await;
        assert_given_up("within a header", raw, Instant::now()).await;
    };
    let within_a_message = async {
        let mut raw = Raw::v1(node.address()).await;
        raw.send(&frame(FIRST_TEXT, b"{")).await;
        assert_given_up("within a message", raw, Instant::now()).await;
    };
    tokio::join!(
        silent,
        plain,
        after_a_command,
        within_a_frame,
        within_a_header,
        within_a_message
    );
}

#[actix::test]
async fn a_frame_that_never_ends_is_no_sign_of_life() {
    let _turn = undisturbed().await;
    let node = beating_node().await;
    let mut raw = Raw::v1(node.address()).await;
    let since = Instant::now();
    raw.send(&header(TEXT, 10_000)).await;
    while raw.send_some(b"x", PROMPTLY).await.is_some() {
        assert!(since.elapsed() < HEARTBEAT * 3, "it is still connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let frames = raw.rest().await;
    assert!(
        matches!(frames.as_slice(), [.., Received::Close(Some(4009), _)]),
        "{frames:?}"
    );
}

#[actix::test]
async fn a_peer_that_lives_stays() {
    let _turn = undisturbed().await;
    let node = Node::start(&[("ROOMCAST_HEARTBEAT", "1")]).await;
    let until = Instant::now() + Duration::from_secs(5);
    let answers_pings = async {
        let mut raw = Raw::v1(node.address()).await;
        let mut pings = 0;
        while Instant::now() < until {
            let Received::Ping(payload) = raw.next().await else {
                panic!("a ping was awaited");
            };
            raw.send(&frame(PONG, &payload)).await;
            pings += 1;
        }
        assert!((3..=6).contains(&pings), "{pings} pings in five heartbeats");
        raw
    };
    // Any frame is a sign of life, and who gives signs need not answer.
    let speaks = async |what: Vec<u8>| {
        let mut raw = Raw::plain(node.address()).await;
        while Instant::now() < until {
            raw.send(&what).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        raw
    };
    let fragments = async {
        let mut raw = Raw::v1(node.address()).await;
        raw.send(&frame(FIRST_TEXT, b"")).await;
        while Instant::now() < until {
            raw.send(&frame(MIDDLE, b"")).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        raw.send(&frame(LAST, b"{}")).await;
        raw
    };
    let (a, b, c, d) = tokio::join!(
        answers_pings,
        speaks(frame(PONG, b"")),
        speaks(frame(BINARY, b"")),
        fragments
    );
    for mut raw in [a, b, c, d] {
        raw.send(&frame(TEXT, b"the end")).await;
        loop {
            match raw.next().await {
                Received::Text(text) if text.contains("bad_json") => break,
                Received::Ping(_) | Received::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
