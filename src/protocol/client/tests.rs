//! Frames from a client, right and wrong.

use proptest::prelude::*;

use super::*;

const MAX: usize = 100;

fn v1(text: &str) -> Result<ClientFrame, ProtocolError> {
    ClientFrame::decode(text, Dialect::V1, MAX)
}

fn code(text: &str) -> ErrorCode {
    v1(text).expect_err("a bad frame").code
}

fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a valid name")
}

#[test]
fn the_three_commands_of_the_original_are_read() {
    for (text, command) in [
        (
            r#"{"type":"SUBSCRIBE","room":"r"}"#,
            Command::Subscribe {
                room: room("r"),
                replay: Replay::default(),
                presence: None,
            },
        ),
        (
            r#"{"roomId":"r","type":"UNSUBSCRIBE"}"#,
            Command::Unsubscribe { room: room("r") },
        ),
        (
            r#"{"type":"sendMessage","roomId":"r","message":"h\u0069"}"#,
            Command::Publish {
                room: room("r"),
                content: Content::text("hi"),
                key: None,
            },
        ),
    ] {
        for dialect in [Dialect::Plain, Dialect::V1] {
            let frame = ClientFrame::decode(text, dialect, MAX).expect("a good frame");
            assert_eq!(
                frame,
                ClientFrame {
                    id: None,
                    command: command.clone()
                }
            );
        }
    }
}

#[test]
fn what_is_wanted_of_the_past_is_read() {
    let replay = |fields: &str| match v1(&format!(r#"{{"type":"SUBSCRIBE","room":"r"{fields}}}"#)) {
        Ok(ClientFrame {
            command: Command::Subscribe { replay, .. },
            ..
        }) => Ok(replay),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.code),
    };
    let after = |offset| {
        Some(Position {
            offset,
            epoch: Epoch::new("k"),
        })
    };
    for (fields, wanted) in [
        ("", Replay::default()),
        (
            r#","history":50"#,
            Replay {
                after: None,
                last: 50,
            },
        ),
        (
            r#","after":0,"epoch":"k""#,
            Replay {
                after: after(0),
                last: 0,
            },
        ),
        (
            r#","after":41,"epoch":"k","history":9"#,
            Replay {
                after: after(41),
                last: 9,
            },
        ),
        (r#","after":null,"epoch":7,"history":null"#, Replay::default()),
    ] {
        assert_eq!(replay(fields), Ok(wanted), "{fields}");
    }
    for fields in [
        r#","after":1"#,
        r#","after":1,"epoch":7"#,
        r#","after":-1,"epoch":"k""#,
        r#","after":1.5,"epoch":"k""#,
        r#","after":"1","epoch":"k""#,
        r#","history":-1"#,
        r#","history":true"#,
    ] {
        assert_eq!(replay(fields), Err(ErrorCode::BadCommand), "{fields}");
    }
    let plain = ClientFrame::decode(
        r#"{"type":"SUBSCRIBE","room":"r","after":-1}"#,
        Dialect::Plain,
        MAX,
    );
    assert!(plain.is_ok(), "the plain dialect does not know the field");
}

#[test]
fn a_key_has_1_to_128_bytes() {
    let key = |key: &str| {
        v1(&format!(
            r#"{{"type":"sendMessage","room":"r","message":1,"key":{key}}}"#
        ))
    };
    for good in [
        "\"a\"".to_owned(),
        format!("\"{}\"", "x".repeat(128)),
        "null".to_owned(),
    ] {
        assert!(key(&good).is_ok(), "{good}");
    }
    for bad in [
        "\"\"".to_owned(),
        format!("\"{}\"", "x".repeat(129)),
        "7".to_owned(),
    ] {
        assert_eq!(key(&bad).expect_err("bad").code, ErrorCode::BadCommand, "{bad}");
    }
}

#[test]
fn ping_is_of_v1_alone() {
    assert_eq!(
        v1(r#"{"type":"PING","id":"a"}"#).expect("good").id,
        Some(RequestId::Text("a".into()))
    );
    let plain = ClientFrame::decode(r#"{"type":"PING"}"#, Dialect::Plain, MAX);
    assert_eq!(plain.expect_err("unknown").code, ErrorCode::UnknownType);
}

#[test]
fn a_message_that_is_not_a_string_keeps_its_text() {
    let frame = v1(r#"{"type":"sendMessage","room":"r","message": {"b" : [1.50, null]} }"#).expect("good");
    let content = Content::json(r#"{"b" : [1.50, null]}"#);
    assert_eq!(
        frame.command,
        Command::Publish {
            room: room("r"),
            content,
            key: None,
        }
    );
}

#[test]
fn faults_get_their_codes() {
    assert_eq!(code("{"), ErrorCode::BadJson);
    assert_eq!(code("[]"), ErrorCode::BadJson);
    assert_eq!(code("{} x"), ErrorCode::BadJson);
    assert_eq!(code("{}"), ErrorCode::BadCommand);
    assert_eq!(code(r#"{"type":1}"#), ErrorCode::BadCommand);
    assert_eq!(code(r#"{"type":"subscribe","room":"r"}"#), ErrorCode::UnknownType);
    assert_eq!(code(r#"{"type":"SUBSCRIBE"}"#), ErrorCode::BadCommand);
    assert_eq!(code(r#"{"type":"SUBSCRIBE","room":7}"#), ErrorCode::BadCommand);
    assert_eq!(
        code(r#"{"type":"SUBSCRIBE","room":"a","roomId":"b"}"#),
        ErrorCode::BadCommand
    );
    assert_eq!(code(r#"{"type":"SUBSCRIBE","room":""}"#), ErrorCode::BadRoom);
    assert_eq!(
        code(r#"{"type":"sendMessage","room":"r"}"#),
        ErrorCode::BadCommand
    );
    assert_eq!(code(r#"{"type":"PING","id":1.5}"#), ErrorCode::BadCommand);
    assert_eq!(
        code(r#"{"type":"sendMessage","room":"r","message":"\ud800"}"#),
        ErrorCode::BadJson
    );
}

#[test]
fn an_error_repeats_the_id_and_knows_the_room() {
    let error = v1(r#"{"type":"sendMessage","id":3,"room":"r"}"#).expect_err("no message");
    assert_eq!(
        (error.id, error.room),
        (Some(RequestId::Number(3)), Some(room("r")))
    );
}

#[test]
fn the_limit_bounds_the_text_and_not_its_escapes() {
    let frame = |n| {
        format!(
            r#"{{"type":"sendMessage","room":"r","message":"{}"}}"#,
            "\\u0061".repeat(n)
        )
    };
    assert!(v1(&frame(MAX)).is_ok());
    assert_eq!(code(&frame(MAX + 1)), ErrorCode::MessageTooLarge);
}

#[test]
fn deep_nesting_is_refused_outside_of_strings_only() {
    let frame = |m: &str| format!(r#"{{"type":"sendMessage","room":"r","message":{m}}}"#);
    let deep = format!(
        "{}{}",
        "[".repeat(MAX_JSON_DEPTH + 1),
        "]".repeat(MAX_JSON_DEPTH + 1)
    );
    let decode = |m: &str| ClientFrame::decode(&frame(m), Dialect::V1, 10_000);
    assert_eq!(decode(&deep).expect_err("too deep").code, ErrorCode::BadCommand);
    assert!(decode(&format!("[\"{}\"]", "[\\\"".repeat(MAX_JSON_DEPTH + 1))).is_ok());
    // A field that is ignored may be as deep as it likes.
    let ignored = format!(
        r#"{{"type":"PING","x":{}{}}}"#,
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    assert!(v1(&ignored).is_ok());
}

#[test]
fn of_a_repeated_field_the_last_one_counts() {
    let frame = v1(r#"{"type":"SUBSCRIBE","room":"a","room":"b"}"#).expect("good");
    assert_eq!(
        frame.command,
        Command::Subscribe {
            room: room("b"),
            replay: Replay::default(),
            presence: None,
        }
    );
}

#[test]
fn presence_is_asked_for_explicitly() {
    let presence = |field: &str, dialect| {
        let text = format!(r#"{{"type":"SUBSCRIBE","room":"r"{field}}}"#);
        match ClientFrame::decode(&text, dialect, MAX).map(|frame| frame.command) {
            Ok(Command::Subscribe { presence, .. }) => Ok(presence),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    };
    for (field, wanted) in [
        ("", Ok(None)),
        (r#","presence":null"#, Ok(None)),
        (r#","presence":true"#, Ok(Some(true))),
        (r#","presence":false"#, Ok(Some(false))),
        (r#","presence":1"#, Err(ErrorCode::BadCommand)),
        (r#","presence":"true""#, Err(ErrorCode::BadCommand)),
    ] {
        assert_eq!(presence(field, Dialect::V1), wanted, "{field}");
        assert_eq!(presence(field, Dialect::Plain), Ok(None), "{field}");
    }
}

#[test]
fn only_v1_knows_members_and_tokens_and_a_token_shows_nothing_of_itself() {
    let members = r#"{"type":"MEMBERS","roomId":"r"}"#;
    assert_eq!(
        v1(members).expect("good").command,
        Command::Members { room: room("r") }
    );
    let auth = v1(r#"{"type":"AUTH","token":"a.b.c"}"#).expect("good");
    assert!(!format!("{auth:?}").contains("a.b"));
    assert_eq!(
        auth.command,
        Command::Authenticate {
            token: Token::new("a.b.c")
        }
    );
    assert_eq!(code(r#"{"type":"AUTH","token":7}"#), ErrorCode::BadCommand);
    assert_eq!(code(r#"{"type":"AUTH"}"#), ErrorCode::BadCommand);
    for frame in [members, r#"{"type":"AUTH","token":"a.b.c"}"#] {
        let refused = ClientFrame::decode(frame, Dialect::Plain, MAX).expect_err("plain");
        assert_eq!(refused.code, ErrorCode::UnknownType);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        let _ = v1(&text);
    }

    #[test]
    fn no_object_panics(
        kind in "SUBSCRIBE|sendMessage|PING|.*",
        room in ".*",
        message in "[\\[\\]{}\",:a0\\\\ ]*",
    ) {
        let _ = v1(&format!(r#"{{"type":"{kind}","room":"{room}","message":{message}}}"#));
    }

    #[test]
    fn any_text_arrives_as_it_was_sent(text in ".{0,25}") {
        let sent = serde_json::json!({"type": "sendMessage", "room": "r", "message": text}).to_string();
        let frame = v1(&sent).expect("good");
        prop_assert_eq!(frame.command, Command::Publish { room: room("r"), content: Content::text(text), key: None });
    }
}

#[test]
fn an_error_repeats_little_of_what_was_sent() {
    let long = "z".repeat(300);
    for text in [
        format!("\"{long}\""),
        format!("[\"{long}\"]"),
        format!("{{\"type\":\"{long}\"}}"),
        format!("{{\"type\":\"PING\",\"id\":\"{long}\"}}"),
        format!("{{\"type\":\"SUBSCRIBE\",\"room\":\"{long}\"}}"),
        format!("{{\"{long}\":"),
        format!("{long} "),
    ] {
        let error = ClientFrame::decode(&text, Dialect::V1, MAX).expect_err("no command");
        assert!(!error.message.contains(&"z".repeat(65)), "{}", error.message);
    }
}
