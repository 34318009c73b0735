//! What travels for presence: the events on a room's channel, the commands, and what their replies say. Pure.
//!
//! - An event is JSON `{"joined":[{"session","user"}, …],"left":[…]}`; either may be absent, and unknown fields are ignored.
//! - An entry of a room is `lease-`, or `lease=user` if the session has a user; a lease has letters and digits only.

use std::sync::Arc;

use redis::{Cmd, RedisError, Value, cmd};
use serde::{Deserialize, Serialize};

use super::register::{Batch, FIRST_BATCH, RoomBatch};
use crate::broker::ChannelKind;
use crate::broker::presence::{MemberList, Present};
use crate::broker::redis::payload::PayloadError;
use crate::broker::redis::scripts::{PRESENCE_CHANNEL, Scripts};
use crate::protocol::{MAX_LISTED_MEMBERS, Member, RoomName};

/// The longest event that is taken, in bytes. Ours are shorter: a batch is bounded, also where every byte is escaped.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Entries that one call takes off a dead node's lists.
const MAX_REAPED: usize = 500;

/// How long presence keys live that nobody renews. Their owners renew some with each look, so that a node may be in more
/// than a hundred thousand rooms.
const KEY_TTL_SECONDS: u64 = 7 * 24 * 60 * 60;

const REAP: &str = include_str!("../presence_reap.lua");

#[derive(Serialize)]
struct Outgoing<'a> {
    #[serde(skip_serializing_if = "<[Member]>::is_empty")]
    joined: &'a [Member],
    #[serde(skip_serializing_if = "<[Member]>::is_empty")]
    left: &'a [Member],
}

#[derive(Deserialize)]
struct Incoming {
    #[serde(default)]
    joined: Vec<IncomingMember>,
    #[serde(default)]
    left: Vec<IncomingMember>,
}

#[derive(Deserialize)]
struct IncomingMember {
    session: Box<str>,
    user: Option<Box<str>>,
}

/// The event in a payload that arrived on a presence channel.
pub(in crate::broker::redis) fn decode(payload: &[u8]) -> Result<Present, PayloadError> {
    if payload.len() > MAX_EVENT_BYTES {
        return Err(PayloadError::TooLarge);
    }
    let incoming: Incoming = serde_json::from_slice(payload).map_err(|_| PayloadError::Malformed)?;
    let members = |members: Vec<IncomingMember>| {
        let member = |member: IncomingMember| Member {
            session: member.session.into(),
            user: member.user.map(Into::into),
        };
        members.into_iter().map(member).collect()
    };
    Ok(Present {
        joined: members(incoming.joined),
        left: members(incoming.left),
    })
}

fn event(joined: &[Member], left: &[Member]) -> Vec<u8> {
    serde_json::to_vec(&Outgoing { joined, left }).expect("strings always serialize")
}

/// The entry of a member under a lease.
fn entry(lease: &str, member: &Member) -> String {
    match &member.user {
        Some(user) => format!("{lease}={user}"),
        None => format!("{lease}-"),
    }
}

/// The member that stands in an entry; `None` if others have written it.
fn member(session: &str, entry: &str) -> Option<Member> {
    let mark = entry.find(|character: char| !character.is_ascii_alphanumeric())?;
    let user = match &entry[mark..] {
        "-" => None,
        named => Some(named.strip_prefix('=')?.into()),
    };
    let session: Arc<str> = session.into();
    Some(Member { session, user })
}

fn leases(scripts: &Scripts) -> String {
    scripts.common_key("leases")
}

fn lease_key(scripts: &Scripts, lease: &str) -> String {
    scripts.common_key(&format!("lease:{lease}"))
}

pub(super) fn room_key(scripts: &Scripts, room: &RoomName) -> String {
    scripts.key(room, "presence")
}

/// Carries out a batch.
pub(super) fn apply(scripts: &Scripts, batch: &Batch) -> Cmd {
    let Batch { lease, number, rooms } = batch;
    let mut apply = scripts.list.call();
    apply
        .arg(rooms.len() + 2)
        .arg(leases(scripts))
        .arg(lease_key(scripts, &lease.name));
    for part in rooms {
        apply.arg(room_key(scripts, &part.room));
    }
    apply
        .arg(&*lease.name)
        .arg(lease.beat)
        .arg(lease.answered)
        .arg(number);
    let parts: [fn(&RoomBatch) -> &Vec<Member>; 2] = [|part| &part.go, |part| &part.come];
    for which in parts {
        let count: usize = rooms.iter().map(|part| which(part).len()).sum();
        apply.arg(count);
        for part in rooms {
            for member in which(part) {
                apply.arg(format!("{} {}", member.session, part.room));
            }
        }
    }
    for RoomBatch {
        room,
        enters,
        come,
        go,
        ..
    } in rooms
    {
        apply
            .arg(scripts.channel(ChannelKind::Presence, room))
            .arg(event(come, go))
            .arg(if *enters { "r" } else { "" })
            .arg(come.len())
            .arg(go.len());
        for member in come {
            apply.arg(&*member.session).arg(entry(&lease.name, member));
        }
        for member in go {
            apply.arg(&*member.session);
        }
    }
    apply.arg(KEY_TTL_SECONDS * 1_000);
    apply
}

/// What became of a batch.
#[derive(Debug, PartialEq)]
pub(super) enum Applied {
    /// It is carried out: the lease's beat, and for each room what the reply has of it.
    Done(i64, Vec<Value>),
    /// The lease is not what it was.
    Lost,
}

pub(super) fn applied(reply: Value) -> Result<Applied, RedisError> {
    match reply {
        Value::BulkString(word) if word == b"LOST" => Ok(Applied::Lost),
        Value::ServerError(error) => Err(error.into()),
        Value::Array(parts) => {
            let mut parts = parts.into_iter();
            match parts.next() {
                Some(Value::Int(beat)) => Ok(Applied::Done(beat, parts.collect())),
                _ => Err(malformed()),
            }
        }
        _ => Err(malformed()),
    }
}

/// Who is in a room after a batch, if the reply tells who was before.
pub(super) fn roster_after(part: &RoomBatch, before: Value) -> Option<Vec<Member>> {
    if !part.enters {
        return None;
    }
    let changed = |member: &Member| {
        let mut changes = part.go.iter().chain(&part.come);
        changes.any(|change| change.session == member.session)
    };
    let mut roster = roster(before).ok()?;
    roster.retain(|member| !changed(member));
    roster.extend(part.come.iter().cloned());
    Some(roster)
}

/// Makes a lease beat.
pub(super) fn beat(scripts: &Scripts, lease: &str) -> Cmd {
    let mut beat = cmd("HINCRBY");
    beat.arg(leases(scripts)).arg(lease).arg(1);
    beat
}

/// Begins a lease. Answered by its beat, and by what tells nothing.
pub(super) fn begin_lease(scripts: &Scripts, lease: &Arc<str>) -> [Cmd; 4] {
    let mut begin = cmd("HSET");
    begin.arg(lease_key(scripts, lease)).arg("").arg(FIRST_BATCH);
    [
        beat(scripts, lease),
        begin,
        renew(scripts, &Kept::Leases),
        renew(scripts, &Kept::Lease(lease.clone())),
    ]
}

/// Ends a lease under which nothing stands.
pub(super) fn end_lease(scripts: &Scripts, lease: &str) -> [Cmd; 2] {
    let mut ended = cmd("HDEL");
    ended.arg(leases(scripts)).arg(lease);
    let mut forgotten = cmd("DEL");
    forgotten.arg(lease_key(scripts, lease));
    [ended, forgotten]
}

/// Reads all leases with their beats.
pub(super) fn look(scripts: &Scripts) -> Cmd {
    let mut look = cmd("HGETALL");
    look.arg(leases(scripts));
    look
}

/// Keys of a node, renewed in turn.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Leases,
    Lease(Arc<str>),
    Room(RoomName),
}

/// Renews a key. Answered by 0 if it is not there any more.
pub(super) fn renew(scripts: &Scripts, kept: &Kept) -> Cmd {
    let key = match kept {
        Kept::Leases => leases(scripts),
        Kept::Lease(lease) => lease_key(scripts, lease),
        Kept::Room(room) => room_key(scripts, room),
    };
    let mut renew = cmd("PEXPIRE");
    renew.arg(key).arg(KEY_TTL_SECONDS * 1_000);
    renew
}

/// Takes a part of what a lease holds off the lists, if it still has this beat; without one, whatever it is.
pub(super) fn reap(scripts: &Scripts, lease: &str, beat: Option<&str>) -> Cmd {
    // With its text: this is rare.
    let mut reap = cmd("EVAL");
    reap.arg(REAP)
        .arg(2)
        .arg(leases(scripts))
        .arg(lease_key(scripts, lease))
        .arg(lease)
        .arg(beat.unwrap_or("*"))
        .arg(MAX_REAPED)
        .arg(scripts.key_prefix())
        .arg(scripts.channel_prefix() + PRESENCE_CHANNEL);
    reap
}

/// Reads everybody in a room.
pub(super) fn read_roster(scripts: &Scripts, room: &RoomName) -> Cmd {
    let mut read = cmd("HGETALL");
    read.arg(room_key(scripts, room));
    read
}

/// The members in a reply that has fields and values in turn.
pub(super) fn roster(reply: Value) -> Result<Vec<Member>, RedisError> {
    let pairs: Vec<(String, String)> = redis::from_redis_value(reply)?;
    Ok(pairs
        .iter()
        .filter_map(|(session, entry)| member(session, entry))
        .collect())
}

/// Reads how many are in a room, and who.
pub(super) fn read_list(scripts: &Scripts, room: &RoomName) -> [Cmd; 2] {
    let mut count = cmd("HLEN");
    count.arg(room_key(scripts, room));
    let mut some = cmd("HRANDFIELD");
    some.arg(room_key(scripts, room))
        .arg(MAX_LISTED_MEMBERS)
        .arg("WITHVALUES");
    [count, some]
}

/// The list in the replies to [`read_list`].
pub(super) fn list(count: Value, some: Value) -> Result<MemberList, RedisError> {
    Ok(MemberList::new(redis::from_redis_value(count)?, roster(some)?))
}

pub(super) fn malformed() -> RedisError {
    RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "a reply of presence has another form than expected",
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ann() -> Member {
        Member {
            session: "n-0-1".into(),
            user: Some("ann".into()),
        }
    }

    #[test]
    fn an_event_has_what_changed_and_nothing_else() {
        let event = String::from_utf8(event(&[ann()], &[])).expect("UTF-8");
        assert_eq!(event, r#"{"joined":[{"session":"n-0-1","user":"ann"}]}"#);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for payload in ["", "7", r#"{"joined":7}"#, r#"{"left":[{"user":"x"}]}"#] {
            assert_eq!(
                decode(payload.as_bytes()),
                Err(PayloadError::Malformed),
                "{payload}"
            );
        }
        assert_eq!(decode(b"{\"later\":1}"), Ok(Present::default()));
        let long = vec![b' '; MAX_EVENT_BYTES + 1];
        assert_eq!(decode(&long), Err(PayloadError::TooLarge));
    }

    #[test]
    fn an_entry_that_others_have_written_is_no_member() {
        for entry in ["", "abc", "abc-x", "abc:ann", "é"] {
            assert_eq!(member("s", entry), None, "{entry}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(user in prop::option::of(".{0,12}"), payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let written = Member { session: "n-0-1".into(), user: user.map(Into::into) };
            prop_assert_eq!(member("n-0-1", &entry("ab12", &written)), Some(written.clone()));
            let left = std::slice::from_ref(&written);
            let expected = Present { joined: vec![], left: left.to_vec() };
            prop_assert_eq!(decode(&event(&[], left)), Ok(expected));
            let _ = decode(&payload);
        }
    }
}
