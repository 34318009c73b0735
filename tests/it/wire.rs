//! Both dialects, the handshake and the pages as a client sees them, on actix's test server.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_test::TestServer;
use awc::ws::Message;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::client::{Client, Event, without_place};
use crate::support::node::{test_server, ws_url};
use crate::support::raw::{Raw, Received, Request, Response, TEXT, close, command, frame};
use crate::support::{PATIENCE, eventually};

/// A v1 session and the name that its welcome gave it.
async fn v1_as(server: &TestServer, query: &str) -> (Client, String) {
    let mut client = Client::connect(&format!("{}/ws{query}", ws_url(server)), &["roomcast.v1"]).await;
    let welcome = client.json().await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    let session = welcome["session"].as_str().expect("a name").to_owned();
    (client, session)
}

/// Checks an error frame to the last field.
fn assert_error(frame: &Value, code: &str, id: Option<&Value>) {
    let message = frame["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "an error says what is wrong: {frame}");
    let mut expected = json!({"type": "error", "code": code, "message": message});
    if let Some(id) = id {
        expected["id"] = id.clone();
    }
    assert_eq!(*frame, expected);
}

/// Sends a text in the plain dialect and checks that it is answered with this error.
async fn assert_refused(client: &mut Client, text: &str, code: &str) {
    client.send_text(text).await;
    let frame = client.json().await;
    assert_eq!(frame["code"], code, "the answer to {text:?} is {frame}");
    assert_error(&frame, code, None);
}

fn subscribe(room: &str) -> Value {
    json!({"type": "SUBSCRIBE", "room": room})
}

fn unsubscribe(room: &str) -> Value {
    json!({"type": "UNSUBSCRIBE", "room": room})
}

/// Frames that are no command in either dialect, with the code of their answer.
const BAD_FRAMES: &[(&str, &str)] = &[
    ("", "bad_json"),
    ("hello", "bad_json"),
    ("{", "bad_json"),
    ("[]", "bad_json"),
    ("null", "bad_json"),
    ("7", "bad_json"),
    (r#""SUBSCRIBE""#, "bad_json"),
    (r#"{"type":"SUBSCRIBE","room":"r"} x"#, "bad_json"),
    (r#"{"type":"SUBSCRIBE","room":"r",}"#, "bad_json"),
    (r"{'type':'SUBSCRIBE','room':'r'}", "bad_json"),
    ("\u{feff}{}", "bad_json"),
    ("{}", "bad_command"),
    (r#"{"room":"r"}"#, "bad_command"),
    (r#"{"type":7,"room":"r"}"#, "bad_command"),
    (r#"{"type":"SUBSCRIBE"}"#, "bad_command"),
    (r#"{"type":"SUBSCRIBE","room":7}"#, "bad_command"),
    (r#"{"type":"SUBSCRIBE","room":["r"]}"#, "bad_command"),
    (r#"{"type":"UNSUBSCRIBE"}"#, "bad_command"),
    (r#"{"type":"sendMessage","message":"m"}"#, "bad_command"),
    (r#"{"type":"sendMessage","roomId":"r"}"#, "bad_command"),
    (
        r#"{"type":"SUBSCRIBE","room":"r","roomId":"other"}"#,
        "bad_command",
    ),
    (
        r#"{"type":"UNSUBSCRIBE","room":"r","roomId":"other"}"#,
        "bad_command",
    ),
    (
        r#"{"type":"sendMessage","room":"r","roomId":"other","message":"m"}"#,
        "bad_command",
    ),
    (r#"{"type":"subscribe","room":"r"}"#, "unknown_type"),
    (r#"{"type":"","room":"r"}"#, "unknown_type"),
    (r#"{"type":"constructor","room":"r"}"#, "unknown_type"),
    (r#"{"type":"SUBSCRIBE","room":""}"#, "bad_room"),
    (r#"{"type":"UNSUBSCRIBE","room":""}"#, "bad_room"),
    (r#"{"type":"sendMessage","roomId":"","message":"m"}"#, "bad_room"),
    (r#"{"type":"SUBSCRIBE","room":"a\nb"}"#, "bad_room"),
    (r#"{"type":"SUBSCRIBE","room":"\u0000"}"#, "bad_room"),
    (r#"{"type":"SUBSCRIBE","room":"\u0001node"}"#, "bad_room"),
    (r#"{"type":"SUBSCRIBE","room":"\u007f"}"#, "bad_room"),
    (r#"{"type":"SUBSCRIBE","room":"\u0085"}"#, "bad_room"),
];

/// Names that look like something else.
fn odd_rooms() -> Vec<String> {
    let names = [
        "*",
        "?",
        "[a-z]",
        "__proto__",
        "constructor",
        "💬🏳️‍🌈",
        " ",
        "room1",
        "room1 ",
        "ROOM1",
        "a/b",
        "..",
        "%61",
        "a",
        "{room1}",
        "\u{200b}",
        "é",
        "e\u{301}",
        "\"quoted\\\"",
        "$1 {} %s",
        "0",
    ];
    let mut rooms: Vec<String> = names.map(str::to_owned).into();
    rooms.push("r".repeat(255));
    rooms.push("é".repeat(127) + "r");
    rooms
}

// ---- The plain dialect

#[actix::test]
async fn a_plain_member_gets_the_bare_text_and_hears_itself() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client.command(subscribe("room1")).await;
    client
        .command(json!({"type": "sendMessage", "roomId": "room1", "message": "hello"}))
        .await;
    assert_eq!(client.text().await, "hello");
}

#[actix::test]
async fn plain_texts_arrive_exactly_as_they_were_sent() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client.subscribe_plain("r").await;
    for text in [
        "",
        " ",
        "\u{0}\u{1f}\u{7f}",
        "\"quoted\" \\ / \n\r\t",
        "💬 é e\u{301} \u{feff}",
        "null",
        "{}",
    ] {
        client.publish("r", text).await;
        assert_eq!(client.text().await, text);
    }
}

#[actix::test]
async fn a_plain_member_gets_other_values_as_their_json_text() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client.subscribe_plain("r").await;
    for json in [
        "null",
        "true",
        "7",
        "-0.5",
        "12345678901234567890123",
        "[1,\"two\",null]",
        r#"{"b":1,"a":{"c":"ü"}}"#,
    ] {
        client
            .send_text(format!(
                r#"{{"type":"sendMessage","roomId":"r","message":{json}}}"#
            ))
            .await;
        assert_eq!(client.text().await, json);
    }
}

#[actix::test]
async fn plain_commands_are_not_acknowledged() {
    let server = test_server(&[]);
    let mut member = Client::plain(&ws_url(&server)).await;
    let mut other = Client::plain(&ws_url(&server)).await;
    other.subscribe_plain("r").await;
    member.command(subscribe("r")).await;
    member.command(unsubscribe("r")).await;
    member
        .command(json!({"type": "UNSUBSCRIBE", "room": "never joined"}))
        .await;
    member.publish("r", "to the other").await;
    assert_eq!(other.text().await, "to the other");
    member.assert_quiet().await;
}

#[actix::test]
async fn every_bad_plain_frame_is_answered_once_and_the_connection_stays_usable() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    for (text, code) in BAD_FRAMES {
        assert_refused(&mut client, text, code).await;
    }
    client.subscribe_plain("r").await;
}

#[actix::test]
async fn plain_sessions_know_the_three_commands_only() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    for kind in ["PING", "MEMBERS", "AUTH", "welcome", "message"] {
        let text = json!({"type": kind, "id": 1, "room": "r"}).to_string();
        assert_refused(&mut client, &text, "unknown_type").await;
    }
}

#[actix::test]
async fn a_plain_binary_frame_is_answered_bad_json() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client
        .send(Message::Binary(subscribe("r").to_string().into()))
        .await;
    assert_error(&client.json().await, "bad_json", None);
    client.subscribe_plain("r").await;
}

#[actix::test]
async fn plain_errors_repeat_no_id() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    assert_refused(
        &mut client,
        r#"{"type":"SUBSCRIBE","id":1,"room":""}"#,
        "bad_room",
    )
    .await;
}

#[actix::test]
async fn a_room_joined_twice_is_left_by_one_unsubscribe() {
    let server = test_server(&[]);
    let mut member = Client::plain(&ws_url(&server)).await;
    let mut observer = Client::plain(&ws_url(&server)).await;
    observer.subscribe_plain("r").await;
    member.command(subscribe("r")).await;
    member.command(subscribe("r")).await;
    member.publish("r", "once").await;
    member.command(unsubscribe("r")).await;
    member.publish("r", "after the leave").await;
    assert_eq!(observer.text().await, "once");
    assert_eq!(observer.text().await, "after the leave");
    assert_eq!(member.text().await, "once");
    member.assert_quiet().await;
}

#[actix::test]
async fn a_plain_sender_needs_no_subscription() {
    let server = test_server(&[]);
    let mut member = Client::plain(&ws_url(&server)).await;
    let mut sender = Client::plain(&ws_url(&server)).await;
    member.subscribe_plain("r").await;
    sender.publish("r", "from outside").await;
    assert_eq!(member.text().await, "from outside");
    sender.assert_quiet().await;
}

#[actix::test]
async fn clients_of_the_original_connect_to_the_bare_host() {
    let server = test_server(&[]);
    let mut client = Client::connect(&format!("{}/", ws_url(&server)), &[]).await;
    client.subscribe_plain("r").await;
    let mut client = Client::connect(&format!("{}/", ws_url(&server)), &["roomcast.v1"]).await;
    assert_eq!(client.json().await["type"], "welcome");
}

#[actix::test]
async fn room_and_room_id_are_the_same_field_in_every_command() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let fields = [
        json!({"room": "r"}),
        json!({"roomId": "r"}),
        json!({"room": "r", "roomId": "r"}),
    ];
    for fields in fields {
        for (kind, reply) in [
            ("SUBSCRIBE", "subscribed"),
            ("UNSUBSCRIBE", "unsubscribed"),
            ("sendMessage", "sent"),
        ] {
            let mut command = fields.clone();
            command["type"] = json!(kind);
            command["message"] = json!("m");
            let answer = client.call(command).await;
            assert_eq!((&answer["type"], &answer["room"]), (&json!(reply), &json!("r")));
        }
    }
}

#[actix::test]
async fn unknown_fields_are_ignored() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client
        .command(json!({"type": "SUBSCRIBE", "room": "r", "__proto__": {"room": "x"}, "message": [], "more": [{}]}))
        .await;
    client
        .command(json!({"type": "sendMessage", "roomId": "r", "message": "m", "type2": "PING", "user": "x"}))
        .await;
    assert_eq!(client.text().await, "m");
}

#[actix::test]
async fn a_session_that_closes_leaves_its_rooms() {
    let server = test_server(&[]);
    let gauges = async || {
        let (_, response) = Request::get("/metrics").send(&server.addr().to_string()).await;
        let gauge = |name: &str| {
            let line = response.body.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        ["roomcast_memberships", "roomcast_rooms", "roomcast_sessions"]
            .map(|name| gauge(name).expect("a gauge").parse::<u64>().expect("a number"))
    };
    let mut plain = Client::plain(&ws_url(&server)).await;
    let mut v1 = Client::v1(&ws_url(&server)).await;
    plain.subscribe_plain("r").await;
    v1.subscribe("r").await;
    v1.subscribe("other").await;
    eventually("all memberships to show", async || {
        (gauges().await == [3, 2, 2]).then_some(())
    })
    .await;
    v1.send(Message::Close(None)).await;
    eventually("the rooms of the closed session to be left", async || {
        (gauges().await == [1, 1, 1]).then_some(())
    })
    .await;
    // Without a goodbye.
    drop(plain);
    eventually("the room of the vanished session to be left", async || {
        (gauges().await == [0, 0, 0]).then_some(())
    })
    .await;
}

// ---- roomcast.v1

#[actix::test]
async fn welcome_comes_first_and_names_session_node_and_heartbeat() {
    let server = test_server(&[("ROOMCAST_HEARTBEAT", "7")]);
    let url = format!("{}/ws", ws_url(&server));
    let mut welcomes = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&url, &["roomcast.v1"]).await;
        client.command(json!({"type": "PING"})).await;
        let welcome = client.json().await;
        assert_eq!(client.json().await, json!({"type": "pong"}));
        welcomes.push(welcome);
    }
    for welcome in &welcomes {
        let text = |name: &str| welcome[name].as_str().unwrap_or_default();
        assert!(
            !text("session").is_empty() && !text("node").is_empty(),
            "{welcome}"
        );
        let expected = json!({
            "type": "welcome", "session": text("session"), "node": text("node"), "heartbeat": 7
        });
        assert_eq!(*welcome, expected);
    }
    assert_eq!(welcomes[0]["node"], welcomes[1]["node"]);
    assert_ne!(welcomes[0]["session"], welcomes[1]["session"]);
}

#[actix::test]
async fn every_v1_command_gets_exactly_one_reply_with_its_id() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let ids = [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("an id"),
        json!("\"\\\n\u{0}💬"),
        json!("x".repeat(64)),
        json!("é".repeat(32)),
    ];
    for id in ids {
        let commands = [
            (subscribe("r"), json!({"type": "subscribed", "room": "r"})),
            (unsubscribe("r"), json!({"type": "unsubscribed", "room": "r"})),
            (
                json!({"type": "sendMessage", "roomId": "r", "message": {"any": "json"}}),
                json!({"type": "sent", "room": "r"}),
            ),
            (json!({"type": "PING"}), json!({"type": "pong"})),
        ];
        for (mut command, mut reply) in commands {
            // Without an id first.
            client.command(command.clone()).await;
            assert_eq!(client.json_without_place().await, reply);
            command["id"] = id.clone();
            reply["id"] = id.clone();
            client.command(command).await;
            assert_eq!(client.json_without_place().await, reply);
        }
        client
            .command(json!({"type": "SUBSCRIBE", "id": id, "room": ""}))
            .await;
        assert_error(&client.json().await, "bad_room", Some(&id));
    }
    client.assert_quiet().await;
}

#[actix::test]
async fn an_id_that_is_none_is_a_bad_command_without_id() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let (long, long_in_bytes) = (json!("x".repeat(65)), json!("é".repeat(33)));
    for id in [
        "1.5",
        "1e3",
        "9223372036854775808",
        "-9223372036854775809",
        "true",
        "[]",
        "{}",
        &long.to_string(),
        &long_in_bytes.to_string(),
    ] {
        client
            .send_text(format!(r#"{{"type":"SUBSCRIBE","id":{id},"room":"r"}}"#))
            .await;
        assert_error(&client.json().await, "bad_command", None);
    }
    // None of them has had an effect.
    client.publish("r", "m").await;
    assert_eq!(
        client.json_without_place().await,
        json!({"type": "sent", "room": "r"})
    );
    client.assert_quiet().await;
}

#[actix::test]
async fn every_bad_v1_frame_is_answered_once_and_the_connection_stays_usable() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    for (text, code) in BAD_FRAMES {
        client.send_text(*text).await;
        let frame = client.json().await;
        assert_eq!(frame["code"], *code, "the answer to {text:?} is {frame}");
        assert_error(&frame, code, None);
        let Ok(Value::Object(mut command)) = serde_json::from_str(text) else {
            continue;
        };
        command.insert("id".to_owned(), json!("the id"));
        client.command(command.into()).await;
        assert_error(&client.json().await, code, Some(&json!("the id")));
    }
    client
        .send(Message::Binary(subscribe("r").to_string().into()))
        .await;
    assert_error(&client.json().await, "bad_json", None);
    client.subscribe("r").await;
}

#[actix::test]
async fn deeply_nested_json_is_survived() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let depth = 30_000;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let value = open.repeat(depth / open.len()) + "1" + &close.repeat(depth / open.len());
        for text in [
            value.clone(),
            format!(r#"{{"type":"PING","extra":{value}}}"#),
            format!(r#"{{"type":"sendMessage","roomId":"r","message":{value}}}"#),
        ] {
            client.send_text(text).await;
            let frame = client.json().await;
            let answered = ["error", "pong"].contains(&frame["type"].as_str().expect("a type"));
            assert!(answered, "{frame}");
        }
    }
    client.subscribe("r").await;
}

#[actix::test]
async fn a_repeated_subscribe_is_answered_and_changes_nothing() {
    let server = test_server(&[]);
    let mut member = Client::v1(&ws_url(&server)).await;
    let mut sender = Client::v1(&ws_url(&server)).await;
    member.subscribe("r").await;
    member.subscribe("r").await;
    sender
        .call(json!({"type": "sendMessage", "roomId": "r", "message": "m"}))
        .await;
    assert_eq!(member.json().await["message"], "m");
    let reply = member.call(unsubscribe("r")).await;
    assert_eq!(reply["type"], "unsubscribed");
    sender
        .call(json!({"type": "sendMessage", "roomId": "r", "message": "m"}))
        .await;
    let reply = member.call(unsubscribe("r")).await;
    assert_eq!(reply["type"], "unsubscribed");
    member.assert_quiet().await;
}

#[actix::test]
async fn a_message_says_room_sender_session_and_time() {
    let server = test_server(&[]);
    let (mut member, _) = v1_as(&server, "?user=bob").await;
    let (mut ann, ann_session) = v1_as(&server, "?user=ann%20%C3%A9%2B").await;
    let (mut nobody, nobody_session) = v1_as(&server, "?user=").await;
    let mut plain = Client::connect(&format!("{}/?user=carl", ws_url(&server)), &[]).await;
    member.subscribe("r").await;
    let mut message = async || {
        let mut frame = member.json().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let time = frame["time"].as_u64().expect("a time in whole milliseconds");
        let now = u64::try_from(now.as_millis()).expect("a time of this age");
        assert!(
            (now - 10_000..=now).contains(&time),
            "{time} is not just before {now}"
        );
        frame.as_object_mut().expect("an object").remove("time");
        without_place(frame)
    };

    ann.publish("r", json!({"b": [1, null], "a": "x"})).await;
    let expected = json!({
        "type": "message", "room": "r", "message": {"b": [1, null], "a": "x"}, "sender": "ann é+",
        "session": ann_session
    });
    assert_eq!(message().await, expected);

    nobody.publish("r", "\"text\"\n").await;
    let expected = json!({
        "type": "message", "room": "r", "message": "\"text\"\n", "session": nobody_session
    });
    assert_eq!(message().await, expected);

    plain.publish("r", "m").await;
    let mut frame = message().await;
    let session = frame.as_object_mut().expect("an object").remove("session");
    let session = session.expect("plain sessions have names, too");
    assert!(session != json!(ann_session) && session != json!(nobody_session));
    let expected = json!({"type": "message", "room": "r", "message": "m", "sender": "carl"});
    assert_eq!(frame, expected);
}

#[actix::test]
async fn a_v1_sender_that_is_subscribed_hears_itself_once() {
    let server = test_server(&[]);
    let (mut client, session) = v1_as(&server, "").await;
    client.subscribe("r").await;
    client
        .command(json!({"type": "sendMessage", "id": 7, "roomId": "r", "message": 1.5}))
        .await;
    // In either order.
    let mut frames = [
        client.json_without_place().await,
        client.json_without_place().await,
    ];
    frames.sort_by_key(|frame| frame["type"].as_str().map(str::to_owned));
    assert_eq!(
        (&frames[0]["message"], &frames[0]["session"]),
        (&json!(1.5), &json!(session))
    );
    assert_eq!(frames[1], json!({"type": "sent", "id": 7, "room": "r"}));
    client.assert_quiet().await;
}

#[actix::test]
async fn the_message_limit_counts_bytes_of_text_not_of_json() {
    let server = test_server(&[("ROOMCAST_MAX_MESSAGE", "64")]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let mut plain = Client::plain(&ws_url(&server)).await;
    let object = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length - r#"{"a":""}"#.len()));
    let messages = [
        (format!("\"{}\"", "x".repeat(64)), true),
        (format!("\"{}\"", "x".repeat(65)), false),
        (format!("\"{}\"", "é".repeat(32)), true),
        (format!("\"{}x\"", "é".repeat(32)), false),
        (format!("\"{}\"", r"\u0041".repeat(64)), true),
        (format!("\"{}\"", r"\u0041".repeat(65)), false),
        (format!("\"{}\"", r"\ud83d\udcac".repeat(16)), true),
        (format!("\"{}x\"", r"\ud83d\udcac".repeat(16)), false),
        (object(64), true),
        (object(65), false),
        ("1".repeat(64), true),
        ("1".repeat(65), false),
        (format!("\"{}\"", "x".repeat(4_000)), false),
    ];
    for (json, fits) in messages {
        let command =
            |id: u32| format!(r#"{{"type":"sendMessage","id":{id},"roomId":"r","message":{json}}}"#);
        client.send_text(command(9)).await;
        let reply = client.json_without_place().await;
        if fits {
            assert_eq!(reply, json!({"type": "sent", "id": 9, "room": "r"}), "{json}");
        } else {
            assert_error(&reply, "message_too_large", Some(&json!(9)));
            assert_refused(&mut plain, &command(9), "message_too_large").await;
        }
    }
    plain.subscribe_plain("r").await;
}

#[actix::test]
async fn the_room_limit_is_answered_and_its_quota_comes_back() {
    let server = test_server(&[("ROOMCAST_MAX_ROOMS", "2")]);
    let mut client = Client::v1(&ws_url(&server)).await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    let refused = client.call(subscribe("c")).await;
    assert_error(&refused, "room_limit", Some(&json!(3)));
    // What is there already needs no more room.
    client.subscribe("a").await;
    client.call(unsubscribe("a")).await;
    client.call(unsubscribe("never joined")).await;
    client.subscribe("c").await;
    assert_eq!(client.call(subscribe("a")).await["code"], "room_limit");
    // A refused room is not joined, and the others are.
    for room in ["a", "b", "c"] {
        client
            .command(json!({"type": "sendMessage", "id": room, "roomId": room, "message": room}))
            .await;
        let expected = if room == "a" { 1 } else { 2 };
        for _ in 0..expected {
            let frame = client.json().await;
            assert!(frame["type"] == "sent" || frame["message"] == room, "{frame}");
        }
    }
    client.assert_quiet().await;
    // Another session has its own quota.
    Client::v1(&ws_url(&server)).await.subscribe("a").await;
}

#[actix::test]
async fn the_room_limit_holds_for_commands_in_one_go() {
    let server = test_server(&[("ROOMCAST_MAX_ROOMS", "100")]);
    let mut raw = Raw::v1(&server.addr().to_string()).await;
    let burst: Vec<u8> = (0..1_000)
        .flat_map(|n| command(&json!({"type": "SUBSCRIBE", "id": n, "room": format!("room {n}")})))
        .collect();
    raw.send(&burst).await;
    let mut joined = 0;
    for _ in 0..1_000 {
        let reply = raw.json().await;
        match reply["type"].as_str() {
            Some("subscribed") => joined += 1,
            _ => assert_eq!(reply["code"], "room_limit", "{reply}"),
        }
    }
    assert_eq!(joined, 100);
}

#[actix::test]
async fn commands_beyond_the_rate_have_no_effect_and_are_answered() {
    let server = test_server(&[("ROOMCAST_RATE", "1")]);
    let mut raw = Raw::v1(&server.addr().to_string()).await;
    let mut burst = Vec::new();
    // The burst is twice the rate; both are used up by frames that are bad.
    burst.extend(frame(TEXT, b"bad"));
    burst.extend(command(&json!({"type": "NONE", "id": "second"})));
    burst.extend(command(&json!({"type": "SUBSCRIBE", "id": 0, "room": "r"})));
    burst.extend(command(
        &json!({"type": "sendMessage", "id": 1, "roomId": "r", "message": "m"}),
    ));
    burst.extend(command(&json!({"type": "PING", "id": 2})));
    burst.extend(frame(TEXT, b"bad"));
    raw.send(&burst).await;
    assert_error(&raw.json().await, "bad_json", None);
    assert_error(&raw.json().await, "unknown_type", Some(&json!("second")));
    for id in 0..3 {
        assert_error(&raw.json().await, "rate_limited", Some(&json!(id)));
    }
    assert_error(&raw.json().await, "rate_limited", None);
    // The connection lives, and is served again.
    let mut client = Client::v1(&ws_url(&server)).await;
    client
        .call(json!({"type": "sendMessage", "roomId": "r", "message": "m"}))
        .await;
    let served = async {
        loop {
            raw.send(&command(&json!({"type": "PING", "id": 3}))).await;
            let reply = raw.json().await;
            if reply["type"] == "pong" {
                break;
            }
            assert_eq!(reply["code"], "rate_limited", "the room was not joined: {reply}");
        }
    };
    timeout(PATIENCE, served)
        .await
        .expect("a command within the rate again");
}

#[actix::test]
async fn a_plain_session_beyond_the_rate_is_told() {
    let server = test_server(&[("ROOMCAST_RATE", "1")]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client.command(subscribe("r")).await;
    client.command(subscribe("r")).await;
    assert_refused(&mut client, &unsubscribe("r").to_string(), "rate_limited").await;
    let mut sender = Client::plain(&ws_url(&server)).await;
    sender.publish("r", "still a member").await;
    assert_eq!(client.text().await, "still a member");
}

// ---- Order and isolation

#[actix::test]
async fn replies_of_a_room_keep_the_commands_order_when_sent_in_one_go() {
    let server = test_server(&[]);
    let mut raw = Raw::v1(&server.addr().to_string()).await;
    for round in 0..100 {
        let mut burst = Vec::new();
        for (id, text) in [(1, "one"), (2, "two")] {
            if id == 1 {
                burst.extend(command(&json!({"type": "SUBSCRIBE", "id": 0, "room": "r"})));
            }
            burst.extend(command(
                &json!({"type": "sendMessage", "id": id, "room": "r", "message": text}),
            ));
        }
        burst.extend(command(&json!({"type": "sendMessage", "id": 3, "room": ""})));
        burst.extend(command(&json!({"type": "UNSUBSCRIBE", "id": 4, "room": "r"})));
        raw.send(&burst).await;
        let (mut replies, mut messages) = (Vec::new(), Vec::new());
        while replies.last() != Some(&(4, "unsubscribed".to_owned())) {
            let frame = raw.json().await;
            let kind = frame["type"].as_str().expect("a type").to_owned();
            if kind == "message" {
                messages.push(frame["message"].clone());
            } else if frame["code"] == "cancelled" {
                replies.push((0, "cancelled".to_owned()));
            } else if frame["id"] == 3 {
                // It is about no room, and so may come at any time.
                assert_eq!(frame["type"], "error", "{frame}");
            } else {
                replies.push((frame["id"].as_i64().expect("an id"), kind));
            }
        }
        let was_joined = replies[0].1 == "subscribed";
        let first = if was_joined { "subscribed" } else { "cancelled" };
        let expected = [(0, first), (1, "sent"), (2, "sent"), (4, "unsubscribed")];
        let expected = expected.map(|(id, kind)| (id, kind.to_owned()));
        assert_eq!(replies, expected, "round {round}");
        let expected = if was_joined { vec!["one", "two"] } else { vec![] };
        assert_eq!(messages, expected, "round {round}");
    }
}

#[actix::test]
async fn errors_about_a_room_keep_their_place_among_its_replies() {
    let server = test_server(&[("ROOMCAST_MAX_MESSAGE", "4")]);
    let mut raw = Raw::v1(&server.addr().to_string()).await;
    for round in 0..50 {
        let commands = [
            json!({"type": "SUBSCRIBE", "id": 0, "room": "r"}),
            json!({"type": "sendMessage", "id": 1, "room": "r", "message": "too long"}),
            json!({"type": "sendMessage", "id": 2, "room": "r"}),
            json!({"type": "sendMessage", "id": 3, "room": "r", "message": "fits"}),
            json!({"type": "NONE", "id": 4, "room": "r"}),
            json!({"type": "SUBSCRIBE", "id": 5, "room": "r"}),
        ];
        raw.send(&commands.iter().flat_map(command).collect::<Vec<u8>>())
            .await;
        let mut ids = Vec::new();
        while ids.len() < commands.len() {
            let frame = raw.json().await;
            if frame["type"] != "message" {
                ids.push(frame["id"].as_u64().expect("an id"));
            }
        }
        assert_eq!(ids, [0, 1, 2, 3, 4, 5], "round {round}");
    }
}

#[actix::test]
async fn pipelined_publishes_keep_their_order() {
    let server = test_server(&[]);
    let address = server.addr().to_string();
    let mut member = Client::v1(&ws_url(&server)).await;
    let mut plain = Client::plain(&ws_url(&server)).await;
    member.subscribe("r").await;
    plain.subscribe_plain("r").await;
    assert_eq!(member.json().await["message"], "mark of r");
    let mut sender = Raw::v1(&address).await;
    let burst: Vec<u8> = (0..2_000)
        .flat_map(|n| command(&json!({"type": "sendMessage", "id": n, "room": "r", "message": n})))
        .collect();
    sender.send(&burst).await;
    for n in 0..2_000 {
        assert_eq!(
            without_place(sender.json().await),
            json!({"type": "sent", "id": n, "room": "r"})
        );
        assert_eq!(member.json().await["message"], n);
        assert_eq!(plain.text().await, n.to_string());
    }
}

#[actix::test]
async fn more_publishes_than_may_be_under_way_are_all_taken() {
    let server = test_server(&[]);
    let mut raw = Raw::v1(&server.addr().to_string()).await;
    // Eight times what a session may have under way, in two rooms.
    let text = "x".repeat(60_000);
    for n in 0..140 {
        let room = if n % 2 == 0 { "even" } else { "odd" };
        raw.send(&command(
            &json!({"type": "sendMessage", "id": n, "room": room, "message": text}),
        ))
        .await;
    }
    let (mut even, mut odd) = ((0..140).step_by(2), (1..140).step_by(2));
    for _ in 0..140 {
        let reply = raw.json().await;
        let next = if reply["room"] == "even" {
            even.next()
        } else {
            odd.next()
        };
        assert_eq!((&reply["type"], &reply["id"]), (&json!("sent"), &json!(next)));
    }
}

#[actix::test]
async fn one_room_has_one_order_for_all() {
    const EACH: usize = 300;
    let server = test_server(&[]);
    let address = server.addr().to_string();
    let mut v1 = Client::v1(&ws_url(&server)).await;
    let mut plain = Client::plain(&ws_url(&server)).await;
    v1.subscribe("r").await;
    plain.subscribe_plain("r").await;
    assert_eq!(v1.json().await["message"], "mark of r");
    let senders = ["a", "b", "c"].map(async |name| {
        let mut sender = Raw::plain(&address).await;
        for n in 0..EACH {
            let message = json!({"type": "sendMessage", "room": "r", "message": format!("{name} {n}")});
            sender.send(&command(&message)).await;
        }
        sender
    });
    let senders = futures_util::future::join_all(senders).await;
    let mut next = [0; 3];
    for _ in 0..EACH * senders.len() {
        let text = plain.text().await;
        assert_eq!(v1.json().await["message"], text.as_str());
        let (name, n) = text.split_once(' ').expect("name and number");
        let next = &mut next[usize::from(name.as_bytes()[0] - b'a')];
        assert_eq!(n, next.to_string(), "{name} keeps its order");
        *next += 1;
    }
}

#[actix::test]
async fn everything_after_subscribed_arrives() {
    let server = test_server(&[]);
    let mut member = Client::v1(&ws_url(&server)).await;
    let mut sender = Client::v1(&ws_url(&server)).await;
    for n in 0..200 {
        let room = format!("room {n}");
        member.subscribe(&room).await;
        sender.publish(&room, n).await;
        let frame = member.json().await;
        assert_eq!((&frame["room"], &frame["message"]), (&json!(room), &json!(n)));
    }
}

#[actix::test]
async fn nothing_of_a_room_follows_unsubscribed() {
    let server = test_server(&[]);
    let address = server.addr().to_string();
    let mut member = Client::v1(&ws_url(&server)).await;
    let flood = actix::spawn(async move {
        // Paced by its replies.
        let mut sender = Raw::v1(&address).await;
        for n in 0.. {
            let publish = |n: u64| command(&json!({"type": "sendMessage", "room": "r", "message": n}));
            sender.send(&[publish(2 * n), publish(2 * n + 1)].concat()).await;
            for _ in 0..2 {
                assert_eq!(sender.json().await["type"], "sent");
            }
        }
    });
    let mut heard = 0;
    for id in 0..150 {
        member
            .command(json!({"type": "SUBSCRIBE", "id": id, "room": "r"}))
            .await;
        let reply = member.json_without_place().await;
        assert_eq!(reply, json!({"type": "subscribed", "id": id, "room": "r"}));
        let mut last = None;
        let mut message = |frame: &Value| {
            assert_eq!(frame["type"], "message", "{frame}");
            let n = frame["message"].as_u64().expect("a number");
            assert!(last.is_none_or(|last| n == last + 1), "{n} follows {last:?}");
            last = Some(n);
        };
        message(&member.json().await);
        member
            .command(json!({"type": "UNSUBSCRIBE", "id": id, "room": "r"}))
            .await;
        heard += 1;
        loop {
            let frame = member.json().await;
            if frame["type"] == "unsubscribed" {
                assert_eq!(frame["id"], id);
                break;
            }
            message(&frame);
            heard += 1;
        }
        // Long enough for the flood to show in what must be silent.
        for _ in 0..3 {
            assert_eq!(member.call(json!({"type": "PING"})).await["type"], "pong");
        }
    }
    assert!(heard >= 150);
    flood.abort();
}

#[actix::test]
async fn all_sessions_of_a_room_hear_every_message_once() {
    let server = test_server(&[]);
    let url = ws_url(&server);
    let mut v1 = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..20 {
        let mut client = Client::v1(&url).await;
        client.subscribe("r").await;
        v1.push(client);
        let mut client = Client::plain(&url).await;
        client.command(subscribe("r")).await;
        plain.push(client);
    }
    let (mut last, mut sender) = (Client::plain(&url).await, Client::v1(&url).await);
    // Commands of one session are in order, and the room's link takes all of them in order.
    last.subscribe_plain("sync").await;
    eventually("all plain sessions to be members", async || {
        let (_, response) = Request::get("/metrics").send(&server.addr().to_string()).await;
        response.body.contains("roomcast_memberships 41\n").then_some(())
    })
    .await;
    for n in 0..10 {
        sender
            .call(json!({"type": "sendMessage", "roomId": "r", "message": n}))
            .await;
    }
    for client in &mut v1 {
        for n in 0..10 {
            assert_eq!(client.json().await["message"], n);
        }
        assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
    }
    for client in &mut plain {
        for n in 0..10 {
            assert_eq!(client.text().await, n.to_string());
        }
    }
    plain[0].assert_quiet().await;
}

#[actix::test]
async fn odd_room_names_are_names_like_any_other() {
    let server = test_server(&[]);
    let mut everywhere = Client::v1(&ws_url(&server)).await;
    let mut sender = Client::v1(&ws_url(&server)).await;
    let rooms = odd_rooms();
    for room in &rooms {
        let reply = everywhere.call(subscribe(room)).await;
        assert_eq!(
            (&reply["type"], &reply["room"]),
            (&json!("subscribed"), &json!(room))
        );
    }
    for (n, room) in rooms.iter().enumerate() {
        let reply = sender
            .call(json!({"type": "sendMessage", "roomId": room, "message": n}))
            .await;
        assert_eq!((&reply["type"], &reply["room"]), (&json!("sent"), &json!(room)));
        let frame = everywhere.json().await;
        assert_eq!((&frame["room"], &frame["message"]), (&json!(room), &json!(n)));
    }
    everywhere.assert_quiet().await;
}

#[actix::test]
async fn rooms_do_not_hear_each_other() {
    let server = test_server(&[]);
    let rooms = odd_rooms();
    let mut sender = Client::v1(&ws_url(&server)).await;
    let mut members = Vec::new();
    for room in &rooms {
        let mut member = Client::v1(&ws_url(&server)).await;
        member.subscribe(room).await;
        members.push(member);
    }
    for room in &rooms {
        let message = json!({"type": "sendMessage", "roomId": room, "message": room});
        assert_eq!(sender.call(message).await["type"], "sent");
    }
    for (room, member) in rooms.iter().zip(&mut members) {
        assert_eq!(member.json().await["message"], room.as_str());
        assert_eq!(member.call(json!({"type": "PING"})).await["type"], "pong");
    }
}

#[actix::test]
async fn a_room_name_has_255_bytes_at_most() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    for name in ["r".repeat(256), "é".repeat(128), "r".repeat(20_000)] {
        for kind in ["SUBSCRIBE", "UNSUBSCRIBE", "sendMessage"] {
            let reply = client
                .call(json!({"type": kind, "room": name, "message": "m"}))
                .await;
            assert_error(&reply, "bad_room", Some(&reply["id"]));
        }
    }
}

#[actix::test]
async fn errors_repeat_little_of_the_input() {
    let server = test_server(&[]);
    let mut client = Client::v1(&ws_url(&server)).await;
    let long = "xyz".repeat(1_000);
    for command in [
        json!({"type": long}),
        json!({"type": "SUBSCRIBE", "room": long}),
        json!({"type": "SUBSCRIBE", "room": {"a": long}}),
        json!({"type": "SUBSCRIBE", "room": "r", "roomId": long}),
        json!({"type": "SUBSCRIBE", "room": "r", "after": long, "epoch": long}),
        json!({"type": "SUBSCRIBE", "room": "r", "after": 1, "epoch": [long]}),
        json!({"type": "SUBSCRIBE", "room": "r", "history": long}),
        json!({"type": "sendMessage", "room": "r", "message": "m", "key": long}),
        json!({"type": "PING", "id": long}),
        json!(long),
    ] {
        client.command(command).await;
        let frame = client.json().await;
        let message = frame["message"].as_str().expect("a text");
        assert!(!message.contains(&long[..65]), "{message}");
    }
}

// ---- The handshake

fn address(server: &TestServer) -> String {
    server.addr().to_string()
}

async fn answer(server: &TestServer, request: Request) -> Response {
    request.send(&address(server)).await.1
}

#[actix::test]
async fn a_handshake_in_the_plain_dialect_selects_no_subprotocol() {
    let server = test_server(&[]);
    let response = answer(&server, Request::upgrade("/ws")).await;
    assert_eq!(response.status, 101, "{response:?}");
    assert_eq!(response.header("sec-websocket-protocol"), None);
    assert_eq!(response.header("sec-websocket-extensions"), None);
}

#[actix::test]
async fn the_known_subprotocol_is_selected_from_any_offer() {
    let server = test_server(&[]);
    let offers: [&[&str]; 5] = [
        &["roomcast.v1"],
        &["chat, roomcast.v1"],
        &["roomcast.v1,roomcast.v9"],
        &["chat", "roomcast.v1"],
        &["roomcast.v2 ,  roomcast.v1 , x"],
    ];
    for lines in offers {
        let request = lines.iter().fold(Request::upgrade("/ws"), |request, line| {
            request.and("sec-websocket-protocol", line)
        });
        let (mut raw, response) = request.send(&address(&server)).await;
        assert_eq!(response.status, 101, "{lines:?}: {response:?}");
        assert_eq!(response.header("sec-websocket-protocol"), Some("roomcast.v1"));
        assert_eq!(raw.json().await["type"], "welcome");
    }
}

#[actix::test]
async fn an_offer_of_unknown_subprotocols_only_is_refused() {
    let server = test_server(&[]);
    for offer in [
        "chat",
        "chat, superchat",
        "roomcast.v2",
        "roomcast",
        "ROOMCAST.V1",
        "roomcast.v1x",
    ] {
        for target in ["/", "/ws"] {
            let request = Request::upgrade(target).and("sec-websocket-protocol", offer);
            let response = answer(&server, request).await;
            assert_eq!(response.status, 400, "{offer}: {response:?}");
        }
    }
}

#[actix::test]
async fn the_socket_without_an_upgrade_answers_426() {
    let server = test_server(&[]);
    let response = answer(&server, Request::get("/ws")).await;
    assert_eq!(response.status, 426, "{response:?}");
    assert_eq!(response.header("upgrade"), Some("websocket"));
}

#[actix::test]
async fn handshakes_that_are_none_are_refused() {
    let server = test_server(&[]);
    let upgrade = || Request::upgrade("/ws");
    let key = |key: &str| upgrade().with("sec-websocket-key", key);
    let refused = [
        ("version 8", upgrade().with("sec-websocket-version", "8"), 426),
        ("version 14", upgrade().with("sec-websocket-version", "14"), 426),
        ("no key", upgrade().without("sec-websocket-key"), 400),
        ("an empty key", key(""), 400),
        ("a key that is not base64", key("!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("a key of 15 bytes", key("AAAAAAAAAAAAAAAAAAAA"), 400),
        ("a key of 17 bytes", key("AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        (
            "two keys",
            upgrade().and("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            400,
        ),
        ("no connection header", upgrade().without("connection"), 400),
        (
            "another connection header",
            upgrade().with("connection", "close"),
            400,
        ),
        ("another upgrade", upgrade().with("upgrade", "h2c"), 400),
        ("a longer upgrade", upgrade().with("upgrade", "xwebsocketx"), 400),
        (
            "a choice of upgrades",
            upgrade().with("upgrade", "websocket, h2c"),
            400,
        ),
        ("a body", upgrade().and("content-length", "8"), 400),
        ("chunks", upgrade().and("transfer-encoding", "chunked"), 400),
        ("HTTP/1.0", upgrade().version("HTTP/1.0"), 400),
        ("POST", upgrade().method("POST"), 405),
        ("PUT", upgrade().method("PUT"), 405),
    ];
    for (what, request, status) in refused {
        let response = answer(&server, request).await;
        assert_eq!(response.status, status, "{what}: {response:?}");
        if status == 426 {
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{what}");
        }
        if status == 405 {
            assert_eq!(response.header("allow"), Some("GET"), "{what}");
        }
    }
    let no_version = answer(&server, upgrade().without("sec-websocket-version")).await;
    assert!([400, 426].contains(&no_version.status), "{no_version:?}");
}

#[actix::test]
async fn handshakes_may_look_different_and_be_right() {
    let server = test_server(&[]);
    let upgrade = || Request::upgrade("/ws");
    let accepted = [
        upgrade().with("upgrade", "WebSocket"),
        upgrade().and("content-length", "0"),
        upgrade().with("connection", "keep-alive, Upgrade"),
        upgrade().with("connection", "UPGRADE"),
        upgrade().with("host", "chat.example:8080"),
        upgrade().and(
            "sec-websocket-extensions",
            "permessage-deflate; client_max_window_bits",
        ),
        upgrade().and("origin", "null"),
        Request::upgrade("/?token=&x=y&user"),
    ];
    for (n, request) in accepted.into_iter().enumerate() {
        let response = answer(&server, request).await;
        assert_eq!(response.status, 101, "number {n}: {response:?}");
        assert_eq!(response.header("sec-websocket-extensions"), None);
    }
}

#[actix::test]
async fn listed_origins_may_connect_and_others_may_not() {
    let server = test_server(&[(
        "ROOMCAST_ALLOWED_ORIGINS",
        "https://chat.example, http://localhost:3000",
    )]);
    let origin = |origin: &str| Request::upgrade("/ws").and("origin", origin);
    for allowed in ["https://chat.example", "http://localhost:3000"] {
        assert_eq!(answer(&server, origin(allowed)).await.status, 101, "{allowed}");
    }
    for refused in [
        "https://chat.example.evil",
        "https://evil.example",
        "https://sub.chat.example",
        "http://chat.example",
        "https://chat.example:443",
        "https://chat.example/",
        "https://CHAT.example",
        "http://localhost",
        "http://localhost:3000, https://chat.example",
        "null",
        "",
        "*",
    ] {
        for request in [
            origin(refused),
            origin(refused).and("sec-websocket-protocol", "roomcast.v1"),
        ] {
            assert_eq!(answer(&server, request).await.status, 403, "{refused:?}");
        }
    }
    let twice = origin("https://chat.example").and("origin", "https://evil.example");
    assert_eq!(answer(&server, twice).await.status, 403);
    assert_eq!(answer(&server, Request::upgrade("/")).await.status, 101);
    let before_the_rest = origin("https://evil.example").with("sec-websocket-version", "8");
    assert_eq!(answer(&server, before_the_rest).await.status, 403);
}

#[actix::test]
async fn any_origin_may_connect_where_none_is_listed() {
    let server = test_server(&[]);
    let request = Request::upgrade("/ws").and("origin", "https://anything.example");
    assert_eq!(answer(&server, request).await.status, 101);
}

#[actix::test]
async fn user_names_have_128_bytes_at_most_and_no_control_characters() {
    let server = test_server(&[]);
    let users = [
        ("x".repeat(128), 101),
        ("x".repeat(129), 400),
        ("%C3%A9".repeat(64), 101),
        ("%C3%A9".repeat(64) + "x", 400),
        ("a%0Ab".to_owned(), 400),
        ("%00".to_owned(), 400),
        ("%7F".to_owned(), 400),
        ("%C2%85".to_owned(), 400),
        (String::new(), 101),
    ];
    for (user, status) in users {
        for target in [format!("/ws?user={user}"), format!("/?x=y&user={user}")] {
            let response = answer(&server, Request::upgrade(&target)).await;
            assert_eq!(response.status, status, "{target}: {response:?}");
        }
    }
}

#[actix::test]
async fn a_full_server_accepts_and_closes_with_1013_and_gives_places_back() {
    let server = test_server(&[("ROOMCAST_MAX_CONNECTIONS", "1")]);
    let address = address(&server);
    for round in 0..3 {
        let mut first = eventually("a place", async || {
            let mut raw = Raw::connect(&address)
                .await
                .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
                .await;
            matches!(raw.next().await, Received::Text(_)).then_some(raw)
        })
        .await;
        for protocol in [&[("sec-websocket-protocol", "roomcast.v1")][..], &[]] {
            let mut second = Raw::connect(&address).await.shake_hands(protocol).await;
            let frames = second.rest().await;
            assert!(
                matches!(frames.as_slice(), [Received::Close(Some(1013), reason)] if !reason.is_empty()),
                "round {round}: {frames:?}"
            );
        }
        // Pages are served all the same, and so is the one who is in.
        assert_eq!(answer(&server, Request::get("/healthz")).await.status, 200);
        first.send(&command(&json!({"type": "PING"}))).await;
        assert_eq!(first.json().await, json!({"type": "pong"}));
        // One goes with a goodbye, the next without.
        if round == 0 {
            first.send(&close(1000, b"")).await;
        }
    }
}

#[actix::test]
async fn refused_handshakes_take_no_place() {
    let server = test_server(&[("ROOMCAST_MAX_CONNECTIONS", "1")]);
    for _ in 0..3 {
        let refused = Request::upgrade("/ws").and("sec-websocket-protocol", "chat");
        assert_eq!(answer(&server, refused).await.status, 400);
        let refused = Request::upgrade("/ws").with("sec-websocket-version", "8");
        assert_eq!(answer(&server, refused).await.status, 426);
    }
    let mut client = Client::connect(&format!("{}/ws", ws_url(&server)), &["roomcast.v1"]).await;
    assert!(matches!(client.event().await, Event::Text(_)));
}

// ---- Pages

#[actix::test]
async fn the_demo_is_served_at_the_root_with_a_strict_policy() {
    let server = test_server(&[]);
    let response = answer(&server, Request::get("/")).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert!(response.body.contains("<html"), "{}", response.body);
    let policy = response.header("content-security-policy").expect("a policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{rule} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(response.header("access-control-allow-origin"), None);
    let head = answer(&server, Request::get("/").method("HEAD")).await;
    assert_eq!(head.status, 200);
}

#[actix::test]
async fn the_browser_client_may_be_imported_from_anywhere() {
    let server = test_server(&[]);
    let request = Request::get("/roomcast.js").and("origin", "https://elsewhere.example");
    let response = answer(&server, request).await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert!(response.body.contains("export"));
}

#[actix::test]
async fn everything_that_the_demo_loads_is_there() {
    let server = test_server(&[]);
    let page = answer(&server, Request::get("/")).await.body;
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in page.match_indices(attribute) {
            let rest = &page[at + attribute.len()..];
            let target = &rest[..rest.find('"').expect("a closing quote")];
            if target.contains("://") || target.starts_with('#') || target.starts_with("data:") {
                continue;
            }
            let target = format!("/{}", target.trim_start_matches("./").trim_start_matches('/'));
            let response = answer(&server, Request::get(&target)).await;
            assert_eq!(response.status, 200, "{target}");
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
            loaded += 1;
        }
    }
    assert!(loaded >= 2, "the page loads something: {page}");
}

#[actix::test]
async fn what_is_not_there_is_404() {
    let server = test_server(&[]);
    for target in [
        "/nothing",
        "/index.html.bak",
        "/.git",
        "/.env",
        "/..%2fCargo.toml",
        "/%2e%2e/Cargo.toml",
        "/static/roomcast.js",
        "/a/b/c",
        "/ws/",
        "/echo",
        "/api/rooms",
        "/api/rooms/r/messages",
        "/ROOMCAST.JS",
    ] {
        let response = answer(&server, Request::get(target)).await;
        assert_eq!(response.status, 404, "{target}: {response:?}");
    }
}

#[actix::test]
async fn health_and_readiness_are_told() {
    let server = test_server(&[]);
    assert_eq!(answer(&server, Request::get("/healthz")).await.status, 200);
    eventually("readiness", async || {
        (answer(&server, Request::get("/readyz")).await.status == 200).then_some(())
    })
    .await;
}

#[actix::test]
async fn metrics_are_open_where_no_token_is_set() {
    let server = test_server(&[]);
    let response = answer(&server, Request::get("/metrics")).await;
    assert_eq!(response.status, 200);
    let kind = response.header("content-type").expect("a content type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(response.body.ends_with("# EOF\n"), "{}", response.body);
    assert!(
        response.body.contains("roomcast_sessions 0\n"),
        "{}",
        response.body
    );
}

#[actix::test]
async fn metrics_want_the_token_that_is_set() {
    let server = test_server(&[("ROOMCAST_METRICS_TOKEN", "the-token")]);
    let metrics = || Request::get("/metrics");
    let refused = [
        metrics(),
        metrics().and("authorization", "the-token"),
        metrics().and("authorization", "Bearer"),
        metrics().and("authorization", "Bearer the-toke"),
        metrics().and("authorization", "Bearer the-token2"),
        metrics().and("authorization", "Bearer THE-TOKEN"),
        metrics().and("authorization", "Basic the-token"),
        Request::get("/metrics?token=the-token"),
    ];
    for (n, request) in refused.into_iter().enumerate() {
        let response = answer(&server, request).await;
        assert_eq!(response.status, 401, "number {n}: {response:?}");
        assert!(!response.body.contains("roomcast_"), "number {n}");
        assert!(response.header("www-authenticate").is_some(), "number {n}");
    }
    let response = answer(&server, metrics().and("authorization", "Bearer the-token")).await;
    assert_eq!(response.status, 200);
    assert!(response.body.contains("roomcast_sessions"));
    // The others need none.
    assert_eq!(answer(&server, Request::get("/healthz")).await.status, 200);
}
