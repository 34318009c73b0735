//! Commands: any text, in both dialects, against what `serde_json` makes of it as a whole.
//!
//! The first byte of an input picks a limit for messages; the rest is the text of a frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomcast::protocol::client::{ClientFrame, Command, MAX_ID_BYTES, ProtocolError, RequestId};
use roomcast::protocol::error::ErrorCode;
use roomcast::protocol::{Dialect, MAX_KEY_BYTES, Replay, RoomName};
use serde_json::Value;
use serde_json::value::RawValue;

/// What an error may repeat of the input, in characters …
const MOST_ECHOED: usize = 64;

/// … each of them escaped, and the words around it.
const MOST_SAID: usize = MOST_ECHOED * "\\u{10ffff}".len() + 150;

fuzz_target!(|input: &[u8]| {
    let [limit, text @ ..] = input else { return };
    let max_message = [0, 1, 16, 300, 65_536][usize::from(*limit) % 5];
    let text = String::from_utf8_lossy(text);
    for dialect in [Dialect::Plain, Dialect::V1] {
        let decoded = ClientFrame::decode(&text, dialect, max_message);
        // Stricter than JSON: what escapes stand for has to be text, and numbers have to fit.
        let whole = serde_json::from_str::<Value>(&text).ok();
        if let Some(Value::Object(fields)) = &whole {
            check_id(&fields.get("id").unwrap_or(&Value::Null), id(&decoded));
        }
        match decoded {
            Ok(frame) => {
                assert!(is_object(&text), "a command that is no JSON object");
                check_command(&text, dialect, max_message, whole.as_ref(), &frame.command);
            }
            Err(error) => check_error(&text, max_message, whole.as_ref(), &error),
        }
    }
});

/// JSON by its grammar alone.
fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
}

fn id(decoded: &Result<ClientFrame, ProtocolError>) -> Option<&RequestId> {
    match decoded {
        Ok(frame) => frame.id.as_ref(),
        Err(error) => error.id.as_ref(),
    }
}

fn check_id(sent: &Value, read: Option<&RequestId>) {
    match sent {
        Value::Number(number) if number.as_i64().is_some() => {
            assert_eq!(
                read,
                Some(&RequestId::Number(number.as_i64().expect("just seen")))
            );
        }
        Value::String(text) if text.len() <= MAX_ID_BYTES => {
            assert_eq!(read, Some(&RequestId::Text(text.clone())));
        }
        // serde_json takes -0 for a fraction.
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        _ => assert_eq!(read, None),
    }
    if let Some(read) = read {
        let written = serde_json::to_value(read).expect("an id can be written");
        assert!(
            written == *sent || sent.as_f64() == Some(0.0),
            "{sent} is answered as {written}"
        );
    }
}

fn check_command(text: &str, dialect: Dialect, max_message: usize, whole: Option<&Value>, command: &Command) {
    let field = |name: &str| whole.and_then(|whole| whole.get(name));
    let (kind, room) = match command {
        Command::Subscribe {
            room,
            replay,
            presence,
        } => {
            if dialect == Dialect::Plain {
                assert_eq!((replay, *presence), (&Replay::default(), None));
            } else if whole.is_some() {
                assert_eq!(*presence, field("presence").and_then(Value::as_bool));
                let after = field("after").and_then(Value::as_u64);
                assert_eq!(replay.after.as_ref().map(|after| after.offset), after);
                let epoch = replay.after.as_ref().map(|after| after.epoch.as_str());
                assert_eq!(epoch, after.and(field("epoch")).and_then(Value::as_str));
                assert_eq!(replay.last, field("history").and_then(Value::as_u64).unwrap_or(0));
            }
            ("SUBSCRIBE", Some(room))
        }
        Command::Unsubscribe { room } => ("UNSUBSCRIBE", Some(room)),
        Command::Publish { room, content, key } => {
            assert!(content.text.len() <= max_message, "a message beyond the limit");
            match field("message") {
                Some(Value::String(sent)) => {
                    assert!(
                        !content.is_json && *sent == *content.text,
                        "{sent:?} became {content:?}"
                    );
                }
                Some(sent) => {
                    assert!(content.is_json, "{sent} became a text");
                    assert!(serde_json::from_str::<Value>(&content.text).is_ok_and(|value| value == *sent));
                }
                None => assert!(whole.is_none(), "a message from nowhere"),
            }
            if content.is_json {
                assert!(text.contains(&*content.text), "a value was written anew");
                assert!(serde_json::from_str::<&RawValue>(&content.text).is_ok());
            }
            if let Some(key) = key {
                assert!(dialect == Dialect::V1 && (1..=MAX_KEY_BYTES).contains(&key.as_str().len()));
                assert!(whole.is_none() || field("key").and_then(Value::as_str) == Some(key.as_str()));
            } else if dialect == Dialect::V1 {
                assert!(field("key").is_none_or(Value::is_null), "a key was lost");
            }
            ("sendMessage", Some(room))
        }
        Command::Members { room } => {
            assert_eq!(dialect, Dialect::V1);
            ("MEMBERS", Some(room))
        }
        Command::Authenticate { token } => {
            assert_eq!(dialect, Dialect::V1);
            assert!(whole.is_none() || field("token").and_then(Value::as_str) == Some(token.reveal()));
            assert_eq!(format!("{token:?}"), "Token(…)");
            ("AUTH", None)
        }
        Command::Ping => {
            assert_eq!(dialect, Dialect::V1);
            ("PING", None)
        }
    };
    assert!(whole.is_none() || field("type").and_then(Value::as_str) == Some(kind));
    if let Some(room) = room {
        check_room(room);
        let names = [field("room"), field("roomId")];
        let names: Vec<_> = names.into_iter().flatten().map(Value::as_str).collect();
        assert!(
            whole.is_none() || (!names.is_empty() && names.iter().all(|name| *name == Some(room.as_str())))
        );
    }
}

fn check_room(room: &RoomName) {
    let name = room.as_str();
    assert!(
        (1..=255).contains(&name.len()) && !name.chars().any(char::is_control),
        "{name:?}"
    );
    assert_eq!(RoomName::new(name).as_ref(), Ok(room));
}

fn check_error(text: &str, max_message: usize, whole: Option<&Value>, error: &ProtocolError) {
    let said = error.message.chars().count();
    assert!(said <= MOST_SAID, "{said} characters: {}", error.message);
    // Escapes of JSON look like those of the message, and stand for less.
    let input: Vec<char> = text.chars().filter(|_| !text.contains('\\')).collect();
    // The quotes around it may have come with the input, too.
    for echo in input.windows(MOST_ECHOED + 3) {
        let echo: String = echo.iter().collect();
        assert!(!error.message.contains(&echo), "{} repeats {echo}", error.message);
    }
    assert!(
        !error.message.chars().any(char::is_control),
        "{:?}",
        error.message
    );
    if let Some(room) = &error.room {
        check_room(room);
    }
    let is_bad_json = error.code == ErrorCode::BadJson;
    match whole {
        Some(whole) => assert_eq!(is_bad_json, !whole.is_object(), "{whole}: {error}"),
        None => assert!(is_bad_json || is_object(text), "{error}"),
    }
    if let (ErrorCode::MessageTooLarge, Some(Value::String(message))) =
        (error.code, whole.and_then(|whole| whole.get("message")))
    {
        assert!(message.len() > max_message);
    }
}
