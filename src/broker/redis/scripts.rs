//! The scripts that run in Redis, their keys and their replies. Pure.
//!
//! - All keys of a room have `{<prefix><room>}` in their name, so that they and its channel share a cluster slot; in
//!   it, `{`, `}` and `%` are percent-encoded, so that no two rooms share a key.
//! - Every key has an expiry.
//! - What comes from clients goes into a script as an argument, never into its text.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use redis::{Arg, Cmd, Pipeline, RedisError, Value, cmd};
use sha1::{Digest, Sha1};

use super::hearing::Place;
use super::payload;
use crate::broker::history::{Entry, NUMBERING_TTL, Numbering, Page, ReadRequest, UNWRITTEN_TTL, hex};
use crate::broker::{ChannelKind, RoomMessage};
use crate::config::Retention;
use crate::protocol::{Epoch, IdempotenceKey, Position, RoomName};

/// Expiries are set again by a node when this part of them has passed, and for this part longer than promised: most
/// publishes are spared that.
const RENEWAL_PART: u32 = 32;

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

    /// The same commands, with the text of the script in its calls: so Redis knows it, and remembers it.
    pub(super) fn spelled_out(&self, commands: &Pipeline) -> Pipeline {
        let mut spelled_out = Pipeline::with_capacity(commands.len());
        for command in commands.cmd_iter() {
            let mut arguments = command.args_iter().filter_map(|argument| match argument {
                Arg::Simple(bytes) => Some(bytes),
                // A scan's place: no call of a script has one.
                _ => None,
            });
            let (name, script) = (arguments.next(), arguments.next());
            if (name, script) != (Some(b"EVALSHA"), Some(self.digest.as_bytes())) {
                spelled_out.add_command(command.clone());
                continue;
            }
            let call = spelled_out.cmd("EVAL").arg(self.text);
            for argument in arguments {
                call.arg(argument);
            }
        }
        spelled_out
    }

    /// The beginning of a call: what it is known by.
    pub(super) fn call(&self) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.digest);
        call
    }
}

/// All scripts, for one prefix and one retention.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: Script,
    pub(super) read: Script,
    pub(super) forget: Script,
    /// Makes a demand of all nodes.
    pub(super) demand: Script,
    /// Makes changes of presence.
    pub(super) list: Script,
    prefix: String,
    retention: Retention,
}

/// What a node remembers of a room that it has published to.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) numbering: Numbering,
    pub(super) offset: u64,
    /// What a message of this node gets, next or in this batch, if nobody else has published since.
    pub(super) foreseen: u64,
    /// When this node last set the expiries.
    pub(super) renewed: Instant,
    /// It has to set them again now.
    pub(super) is_due: bool,
}

/// One publish of a batch.
pub(super) struct Item<'a> {
    pub(super) message: &'a RoomMessage,
    pub(super) key: Option<&'a IdempotenceKey>,
    pub(super) seen: Option<&'a Seen>,
}

/// What the script says of one publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    /// It has this offset in the numbering that was seen.
    AsSeen(u64),
    /// It was published before, there.
    Repeated(Position),
    /// It has this offset in a numbering that the node did not know.
    Anew(Numbering, u64),
}

/// What stands before a room's name in the name of its presence channel. No room name contains U+0001.
pub(super) const PRESENCE_CHANNEL: &str = "\u{1}presence:";

/// The key of the demands that are kept.
const DEMANDS: &str = "demands";

/// How long demands are kept after the last one.
const DEMAND_TTL: Duration = Duration::from_secs(120);

/// So many demands are kept at least, and not many more.
const MAX_DEMANDS: usize = 10_000;

const PUBLISH_ONCE: &str = include_str!("publish_once.lua");

impl Scripts {
    pub(super) fn new(prefix: &str, retention: Retention) -> Self {
        Self {
            publish: Script::new(include_str!("publish.lua")),
            read: Script::new(include_str!("read.lua")),
            forget: Script::new(include_str!("forget.lua")),
            demand: Script::new(include_str!("demand.lua")),
            list: Script::new(include_str!("presence_apply.lua")),
            prefix: prefix.to_owned(),
            retention,
        }
    }

    /// Whether messages are numbered and kept.
    pub(super) fn keep_history(&self) -> bool {
        self.retention.is_on()
    }

    /// A channel of a room.
    pub(super) fn channel(&self, kind: ChannelKind, room: &RoomName) -> String {
        match kind {
            ChannelKind::Messages => format!("{}{room}", self.prefix),
            ChannelKind::Presence => format!("{}{PRESENCE_CHANNEL}{room}", self.prefix),
        }
    }

    /// The room that has this channel, and which of its channels that is.
    pub(super) fn room_of(&self, channel: &str) -> Option<(ChannelKind, RoomName)> {
        let channel = channel.strip_prefix(self.prefix.as_str())?;
        let (kind, name) = match channel.strip_prefix(PRESENCE_CHANNEL) {
            Some(name) => (ChannelKind::Presence, name),
            None => (ChannelKind::Messages, channel),
        };
        RoomName::new(name).ok().map(|room| (kind, room))
    }

    /// What stands before a room's name in the name of its channel.
    pub(super) fn channel_prefix(&self) -> String {
        self.prefix.clone()
    }

    /// What stands before a room's name in the names of its keys.
    pub(super) fn key_prefix(&self) -> String {
        format!("roomcast:{{{}", tag(&self.prefix))
    }

    /// A key of the whole prefix.
    pub(super) fn common_key(&self, what: &str) -> String {
        format!("{}}}:{what}", self.key_prefix())
    }

    /// A key of a room.
    pub(super) fn key(&self, room: &RoomName, what: &str) -> String {
        format!("roomcast:{{{}{}}}:{what}", tag(&self.prefix), tag(room.as_str()))
    }

    fn idempotence_key(&self, message: &RoomMessage, key: &IdempotenceKey) -> String {
        // What is remembered without history is no position, and must not be taken for one.
        let kind = if self.keep_history() { "key" } else { "once" };
        // The length before the name: no name and key together look like another pair.
        let scope = match &message.sender {
            None => format!("{kind}:-:"),
            Some(user) => format!("{kind}:{}:{user}", user.len()),
        };
        self.key(&message.room, &(scope + key.as_str()))
    }

    /// How long after a node has set a room's expiries it does so again.
    pub(super) fn renewal_interval(&self) -> Duration {
        self.retention.ttl.min(NUMBERING_TTL) / RENEWAL_PART
    }

    /// Publishes a message where there is no history.
    pub(super) fn publish_bare(&self, message: &RoomMessage, key: Option<&IdempotenceKey>) -> Cmd {
        let channel = self.channel(ChannelKind::Messages, &message.room);
        let Some(key) = key else {
            let mut publish = cmd("PUBLISH");
            publish.arg(channel).arg(payload::encode(message));
            return publish;
        };
        // With its text: a call by digest could fail alone, and be overtaken when it is repeated.
        let mut once = cmd("EVAL");
        once.arg(PUBLISH_ONCE)
            .arg(1)
            .arg(self.idempotence_key(message, key))
            .arg(channel)
            .arg(payload::encode(message))
            .arg(millis(self.retention.key_ttl));
        once
    }

    /// Numbers, keeps and publishes messages. Answered by an array of what [`numbered`] reads.
    pub(super) fn publish<'a>(&self, items: impl ExactSizeIterator<Item = Item<'a>> + Clone) -> Cmd {
        let fresh = Numbering::fresh();
        let mut publish = cmd("EVALSHA");
        let keys = items.len() * 2 + items.clone().filter(|item| item.key.is_some()).count();
        publish.arg(&self.publish.digest).arg(keys);
        for Item { message, .. } in items.clone() {
            publish
                .arg(self.key(&message.room, "numbering"))
                .arg(self.key(&message.room, "messages"));
        }
        for Item { message, key, .. } in items.clone() {
            if let Some(key) = key {
                publish.arg(self.idempotence_key(message, key));
            }
        }
        let Retention { size, ttl, key_ttl } = self.retention;
        publish.arg(size).arg(format!(
            "{} {} {} {} {}",
            millis(renewed(ttl)),
            millis(renewed(NUMBERING_TTL.max(ttl))),
            millis(key_ttl),
            fresh.epoch.as_str(),
            fresh.secret()
        ));
        for item in items {
            publish
                .arg(self.channel(ChannelKind::Messages, &item.message.room))
                .arg(payload::encode_open(item.message))
                .arg(item.seen.map_or_else(String::new, |seen| {
                    format!("{} {}", seen.numbering.epoch.as_str(), seen.numbering.secret())
                }))
                .arg(item.seen.map_or("", |seen| seen.numbering.epoch.as_str()))
                .arg(item.seen.map_or(0, |seen| seen.offset))
                .arg(
                    item.seen
                        .map_or_else(String::new, |seen| seen.foreseen.to_string()),
                )
                .arg(item.seen.map_or_else(String::new, |seen| {
                    seen.numbering.seal(seen.foreseen).into_string()
                }))
                .arg(match (item.seen.is_none_or(|seen| seen.is_due), item.key) {
                    (true, None) => "e",
                    (true, Some(_)) => "ek",
                    (false, None) => "",
                    (false, Some(_)) => "k",
                });
        }
        publish
    }

    /// Reads rooms' places, and a piece of each one's past. Answered by an array of what [`page`] reads.
    pub(super) fn read(&self, requests: &[ReadRequest]) -> Cmd {
        let fresh = Numbering::fresh();
        let mut read = self.read.call();
        read.arg(2 * requests.len());
        for ReadRequest { room, .. } in requests {
            read.arg(self.key(room, "numbering"))
                .arg(self.key(room, "messages"));
        }
        read.arg(fresh.epoch.as_str())
            .arg(fresh.secret())
            .arg(millis(renewed(NUMBERING_TTL.max(self.retention.ttl))))
            .arg(millis(UNWRITTEN_TTL))
            .arg(millis(renewed(self.retention.ttl)))
            .arg(self.retention.size);
        for request in requests {
            let known = request.known.as_ref();
            read.arg(known.map_or("", |known| known.epoch.as_str()))
                .arg(known.map_or(0, |known| known.offset))
                .arg(request.after.map_or_else(String::new, |after| after.to_string()))
                .arg(request.limit.entries)
                .arg(request.limit.bytes);
        }
        read
    }

    /// Makes a demand with this payload, on this channel.
    pub(super) fn demand(&self, channel: &str, payload: &str) -> Cmd {
        let mut demand = self.demand.call();
        demand
            .arg(1)
            .arg(self.common_key(DEMANDS))
            .arg(payload)
            .arg(channel)
            .arg(millis(DEMAND_TTL))
            .arg(MAX_DEMANDS);
        demand
    }

    /// Reads so many of the demands from this place on, and Redis's time after them.
    pub(super) fn missed(&self, from: Place, count: usize) -> Pipeline {
        let mut missed = Pipeline::new();
        missed
            .cmd("XRANGE")
            .arg(self.common_key(DEMANDS))
            .arg(from.to_string())
            .arg("+")
            .arg("COUNT")
            .arg(count);
        missed.cmd("TIME");
        missed
    }

    /// Deletes a room's messages, begins this numbering, and says `told` on a channel.
    pub(super) fn forget(&self, room: &RoomName, numbering: &Numbering, channel: &str, told: &str) -> Cmd {
        let mut forget = cmd("EVALSHA");
        forget
            .arg(&self.forget.digest)
            .arg(2)
            .arg(self.key(room, "numbering"))
            .arg(self.key(room, "messages"))
            .arg(numbering.epoch.as_str())
            .arg(numbering.secret())
            .arg(millis(renewed(NUMBERING_TTL.max(self.retention.ttl))))
            .arg(channel)
            .arg(told);
        forget
    }
}

fn tag(text: &str) -> Cow<'_, str> {
    if !text.contains(['{', '}', '%']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

/// A time to live with what may pass before it is set again.
fn renewed(ttl: Duration) -> Duration {
    ttl + ttl / RENEWAL_PART
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the publish script says of one message.
pub(super) fn numbered(reply: &Value) -> Option<Numbered> {
    let text = match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let mut words = text.split(' ');
    let offset = words.next()?.parse().ok()?;
    Some(match (words.next().map(Epoch::new), words.next()) {
        (None, _) => Numbered::AsSeen(offset),
        (Some(epoch), None) => Numbered::Repeated(Position { offset, epoch }),
        (Some(epoch), Some(secret)) => Numbered::Anew(Numbering::new(epoch, secret), offset),
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

/// Demands that were kept, each with its place and its payload.
pub(super) type KeptDemands = Vec<(Place, Vec<u8>)>;

/// The demands in the replies to a read of them, and Redis's time in milliseconds since 1970.
pub(super) fn demands(replies: Vec<Value>) -> Result<(KeptDemands, u64), RedisError> {
    type Entries = Vec<(String, Vec<Vec<u8>>)>;
    let (entries, (seconds, micros)): (Entries, (u64, u64)) = redis::from_redis_value(Value::Array(replies))?;
    let demand = |(id, mut fields): (String, Vec<Vec<u8>>)| Some((id.parse().ok()?, fields.pop()?));
    let demands = entries.into_iter().filter_map(demand).collect();
    Ok((
        demands,
        seconds.saturating_mul(1_000).saturating_add(micros / 1_000),
    ))
}

#[cfg(test)]
mod tests {
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
    fn calls_of_one_script_are_spelled_out_and_all_else_stays() {
        let scripts = scripts("");
        let message = message("r", None);
        let item = |message| Item {
            message,
            key: None,
            seen: None,
        };
        let mut commands = Pipeline::new();
        commands.add_command(scripts.publish(std::iter::once(&message).map(item)));
        commands.cmd("PUBLISH").arg("r").arg("EVALSHA");
        commands.add_command(scripts.forget.call());
        let arguments = |commands: &Pipeline| -> Vec<Vec<Vec<u8>>> {
            let arguments = |command: &Cmd| {
                command
                    .args_iter()
                    .map(|argument| match argument {
                        Arg::Simple(bytes) => bytes.to_vec(),
                        other => panic!("another argument than expected: {other:?}"),
                    })
                    .collect()
            };
            commands.cmd_iter().map(arguments).collect()
        };
        let (short, long) = (
            arguments(&commands),
            arguments(&scripts.publish.spelled_out(&commands)),
        );
        assert_eq!(long[0][0], b"EVAL");
        assert_eq!(long[0][1], include_bytes!("publish.lua"));
        assert_eq!(long[0][2..], short[0][2..]);
        assert_eq!(long[1..], short[1..]);
    }

    #[test]
    fn replies_are_read_and_nonsense_is_an_error() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let epoch = || Epoch::new("k3f9");
        for (reply, expected) in [
            ("45", Some(Numbered::AsSeen(45))),
            (
                "45 k3f9",
                Some(Numbered::Repeated(Position {
                    offset: 45,
                    epoch: epoch(),
                })),
            ),
            (
                "45 k3f9 s",
                Some(Numbered::Anew(Numbering::new(epoch(), "s"), 45)),
            ),
            ("x", None),
        ] {
            assert_eq!(numbered(&bulk(reply)), expected, "{reply}");
        }
        assert_eq!(numbered(&Value::Int(1)), None);
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

    #[test]
    fn kept_demands_are_read_with_their_places() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |id: &str, payload: &str| {
            let fields = Value::Array(vec![bulk("demand"), bulk(payload)]);
            Value::Array(vec![bulk(id), fields])
        };
        let time = || Value::Array(vec![bulk("1764000000"), bulk("7999")]);
        let kept = vec![entry("5-0", "a"), entry("6-1", "b")];
        let (demands_read, now) = demands(vec![Value::Array(kept), time()]).expect("demands");
        let place = |text: &str| text.parse::<Place>().expect("a place");
        assert_eq!(
            demands_read,
            [(place("5-0"), b"a".to_vec()), (place("6-1"), b"b".to_vec())]
        );
        assert_eq!(now, 1_764_000_000_007);
        let (none, _) = demands(vec![Value::Array(vec![]), time()]).expect("none");
        assert_eq!(none, []);
        assert!(demands(vec![Value::Nil]).is_err());
    }
}
