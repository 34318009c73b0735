//! The scripts that run in Redis, their keys and their replies. Pure.
//!
//! - All keys of a room have `{<prefix><room>}` in their name, so that they and its channel share a cluster slot; in
//!   it, `{`, `}` and `%` are percent-encoded, so that no two rooms share a key.
//! - Every key has an expiry.
//! - What comes from clients goes into a script as an argument, never into its text.

use std::borrow::Cow;

use redis::{Cmd, RedisError, Value, cmd};
use sha1::{Digest, Sha1};

use super::payload;
use crate::broker::RoomMessage;
use crate::broker::history::{Entry, NUMBERING_TTL, Numbering, Page, ReadRequest, UNWRITTEN_TTL, hex};
use crate::config::Retention;
use crate::protocol::{Epoch, IdempotenceKey, Position, RoomName};

/// How long a numbering is set to live. It is renewed a day before it would fall below what is promised.
const NUMBERING_MS: u128 = NUMBERING_TTL.as_millis() + 24 * 60 * 60 * 1_000;

/// A script with what calls it.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            digest: hex(&Sha1::digest(text)),
        }
    }

    fn call(&self, keys: &[String]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.digest).arg(keys.len()).arg(keys);
        call
    }

    /// Makes Redis know the script.
    pub(super) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.text);
        load
    }
}

/// All scripts, for one prefix and one retention.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: Script,
    pub(super) read: Script,
    prefix: String,
    retention: Retention,
}

const PUBLISH_ONCE: &str = include_str!("publish_once.lua");

impl Scripts {
    pub(super) fn new(prefix: &str, retention: Retention) -> Self {
        Self {
            publish: Script::new(include_str!("publish.lua")),
            read: Script::new(include_str!("read.lua")),
            prefix: prefix.to_owned(),
            retention,
        }
    }

    /// Whether messages are numbered and kept.
    pub(super) fn keep_history(&self) -> bool {
        self.retention.is_on()
    }

    /// The channel of a room.
    pub(super) fn channel(&self, room: &RoomName) -> String {
        format!("{}{room}", self.prefix)
    }

    fn key(&self, room: &RoomName, what: &str) -> String {
        format!("roomcast:{{{}{}}}:{what}", tag(&self.prefix), tag(room.as_str()))
    }

    fn idempotence_key(&self, message: &RoomMessage, key: &IdempotenceKey) -> String {
        // The length before the name: no name and key together look like another pair.
        let scope = match &message.sender {
            None => "key:-:".to_owned(),
            Some(user) => format!("key:{}:{user}", user.len()),
        };
        self.key(&message.room, &(scope + key.as_str()))
    }

    /// Publishes a message. `seen` is the last place in its room that this node knows.
    pub(super) fn publish(
        &self,
        message: &RoomMessage,
        key: Option<&IdempotenceKey>,
        seen: Option<&Position>,
    ) -> Cmd {
        let channel = self.channel(&message.room);
        match (self.keep_history(), key) {
            (false, None) => {
                let mut publish = cmd("PUBLISH");
                publish.arg(channel).arg(payload::encode(message));
                publish
            }
            (false, Some(key)) => {
                // With its text: a call by digest could fail alone, and be overtaken when it is repeated.
                let mut once = cmd("EVAL");
                once.arg(PUBLISH_ONCE)
                    .arg(1)
                    .arg(self.idempotence_key(message, key))
                    .arg(channel)
                    .arg(payload::encode(message))
                    .arg(millis(self.retention.key_ttl.as_millis()));
                once
            }
            (true, key) => {
                let mut keys = vec![
                    self.key(&message.room, "numbering"),
                    self.key(&message.room, "messages"),
                ];
                keys.extend(key.map(|key| self.idempotence_key(message, key)));
                let fresh = Numbering::fresh();
                let mut publish = self.publish.call(&keys);
                publish
                    .arg(channel)
                    .arg(payload::encode_open(message))
                    .arg(self.retention.size)
                    .arg(millis(self.retention.ttl.as_millis()))
                    .arg(millis(NUMBERING_MS))
                    .arg(millis(self.retention.key_ttl.as_millis()))
                    .arg(fresh.epoch.as_str())
                    .arg(fresh.secret())
                    .arg(seen.map_or("", |seen| seen.epoch.as_str()))
                    .arg(seen.map_or(0, |seen| seen.offset));
                publish
            }
        }
    }

    /// Reads a room's place and a piece of its past.
    pub(super) fn read(&self, request: &ReadRequest) -> Cmd {
        let keys = [
            self.key(&request.room, "numbering"),
            self.key(&request.room, "messages"),
        ];
        let fresh = Numbering::fresh();
        let known = request.known.as_ref();
        let mut read = self.read.call(&keys);
        read.arg(fresh.epoch.as_str())
            .arg(fresh.secret())
            .arg(known.map_or("", |known| known.epoch.as_str()))
            .arg(known.map_or(0, |known| known.offset))
            .arg(request.after.map_or_else(String::new, |after| after.to_string()))
            .arg(request.limit.entries)
            .arg(request.limit.bytes)
            .arg(millis(NUMBERING_MS))
            .arg(millis(UNWRITTEN_TTL.as_millis()));
        read
    }
}

fn tag(text: &str) -> Cow<'_, str> {
    if !text.contains(['{', '}', '%']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

fn millis(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// The place in the reply of a publish. `None` without history.
pub(super) fn position(reply: &Value) -> Option<Position> {
    let text = match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let (offset, epoch) = text.split_once(' ')?;
    Some(Position {
        offset: offset.parse().ok()?,
        epoch: Epoch::new(epoch),
    })
}

/// The page in the reply of a read. What is in the stream and is no message of ours is left out.
pub(super) fn page(room: &RoomName, reply: Value, max_payload: usize) -> Result<Page, RedisError> {
    let malformed = || {
        RedisError::from((
            redis::ErrorKind::UnexpectedReturnType,
            "the read script's reply has another form than expected",
        ))
    };
    let fields: Vec<Vec<u8>> = redis::from_redis_value(reply)?;
    let (head, entries) = fields.split_at_checked(3).ok_or_else(malformed)?;
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| malformed())
    };
    let entry = |pair: &[Vec<u8>]| {
        let [id, payload] = pair else { return None };
        let offset = std::str::from_utf8(id).ok()?.split_once('-')?.0.parse().ok()?;
        let message = payload::decode(room, payload, max_payload).ok()?.message;
        Some(Entry { offset, message })
    };
    Ok(Page {
        numbering: Numbering::new(Epoch::new(&text(&head[0])?), &text(&head[1])?),
        top: text(&head[2])?.parse().map_err(|_| malformed())?,
        entries: entries.chunks(2).filter_map(entry).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::Content;

    fn scripts(prefix: &str) -> Scripts {
        Scripts::new(
            prefix,
            Retention {
                size: 10,
                ttl: Duration::from_secs(300),
                key_ttl: Duration::from_secs(300),
            },
        )
    }

    fn message(room: &str, sender: Option<&str>) -> RoomMessage {
        RoomMessage {
            room: RoomName::new(room).expect("a valid name"),
            content: Content::text("hi"),
            sender: sender.map(Into::into),
            session: None,
            time: None,
        }
    }

    #[test]
    fn keys_share_their_rooms_tag_and_no_two_rooms_share_a_key() {
        let key = |prefix, room| scripts(prefix).key(&message(room, None).room, "messages");
        assert_eq!(key("p:", "room1"), "roomcast:{p:room1}:messages");
        assert_eq!(key("", "a{b}%"), "roomcast:{a%7Bb%7D%25}:messages");
        assert_ne!(key("", "a%7B"), key("", "a{"));
    }

    #[test]
    fn an_idempotence_key_is_of_one_user() {
        let idempotence_key = |sender, key| {
            scripts("").idempotence_key(&message("r", sender), &IdempotenceKey::new(key).expect("valid"))
        };
        assert_eq!(idempotence_key(None, "k"), "roomcast:{r}:key:-:k");
        assert_eq!(idempotence_key(Some("ann"), "k"), "roomcast:{r}:key:3:annk");
        assert_ne!(
            idempotence_key(Some("a"), "nnk"),
            idempotence_key(Some("ann"), "k")
        );
        assert_ne!(idempotence_key(Some(""), "k"), idempotence_key(None, "k"));
    }

    #[test]
    fn replies_are_read_and_nonsense_is_an_error() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(
            position(&bulk("45 k3f9")),
            Some(Position {
                offset: 45,
                epoch: Epoch::new("k3f9")
            })
        );
        assert_eq!(position(&Value::Int(1)), None);
        let room = message("r", None).room;
        let payload = r#"{"type":"sendMessage","roomId":"r","message":"hi"}"#;
        let reply = ["k", "s", "7", "6-0", payload, "7-0", "garbage"]
            .map(bulk)
            .to_vec();
        let page_read = page(&room, Value::Array(reply), 1_000).expect("a page");
        assert_eq!(page_read.top, 7);
        let entry = Entry {
            offset: 6,
            message: message("r", None),
        };
        assert_eq!(page_read.entries, [entry]);
        assert!(page(&room, Value::Array(vec![bulk("k")]), 1_000).is_err());
        assert!(page(&room, Value::Nil, 1_000).is_err());
    }
}
