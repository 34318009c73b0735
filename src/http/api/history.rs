//! A room's history over HTTP: read, and deleted.
//!
//! - It is read in pages, as a subscriber's replay is, from a place that is asked for first: what is published meanwhile is
//!   not in the answer.
//! - An answer has at most [`MAX_BYTES`] of messages, so one may have fewer than were asked for; whoever wants the rest goes on
//!   after the last one.
//! - What a caller claims to know of a numbering is compared and never handed to the broker, which would believe it.

use actix_web::http::StatusCode;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::{Refusal, done, json};
use super::target::Query;
use super::{Answer, deadline, within};
use crate::broker::history::{Entry, Page, PageLimit};
use crate::http::Node;
use crate::protocol::{Epoch, Position, RoomName};
use crate::rooms::registry::queries::{ForgetHistory, ReadPage};

/// Messages in an answer, if nothing else is asked for.
const DEFAULT_LIMIT: u64 = 100;

/// Bytes of messages in an answer, as far as whole messages allow; each counts some 256 bytes beside its texts.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A page of what is read for an answer.
const PAGE: PageLimit = PageLimit {
    entries: 1_024,
    bytes: 512 * 1024,
};

/// Times that reading begins anew because the room's numbering has.
const MAX_ATTEMPTS: usize = 3;

/// What is wanted of the past.
struct Wish {
    after: Option<Position>,
    limit: Option<u64>,
}

impl Wish {
    fn of(query: &Query<'_>) -> Result<Self, Refusal> {
        let limit = query.number("limit")?;
        let after = match (query.number("after")?, query.text("epoch")?) {
            (None, _) => None,
            (Some(offset), Some(epoch)) => Some(Position {
                offset,
                epoch: Epoch::new(&epoch),
            }),
            (Some(_), None) => {
                let message = "\"after\" needs the \"epoch\" that it was counted in";
                return Err(Refusal::bad_command(message));
            }
        };
        Ok(Self { after, limit })
    }
}

/// What there is of it.
#[derive(Default)]
struct Past {
    /// Where the room is; `None` without history.
    position: Option<Position>,
    /// Whether nothing is missing before the messages; `None` if that was not asked.
    recovered: Option<bool>,
    /// Oldest first.
    entries: Vec<Entry>,
}

/// `GET /api/rooms/{room}/messages`.
pub(super) async fn read(room: RoomName, query: &Query<'_>, node: &Node) -> Answer {
    let wish = Wish::of(query)?;
    if !node.config.retention.is_on() {
        let past = Past {
            recovered: wish.after.as_ref().map(|_| false),
            ..Past::default()
        };
        return Ok(json(StatusCode::OK, encode(&room, &past)));
    }
    let reader = Reader {
        node,
        room: &room,
        deadline: deadline(),
    };
    for _ in 0..MAX_ATTEMPTS {
        if let Some(past) = reader.past(&wish).await? {
            return Ok(json(StatusCode::OK, encode(&room, &past)));
        }
    }
    Err(Refusal::unavailable(
        "the room's history is being deleted again and again",
    ))
}

#[derive(Serialize)]
struct Place {
    room: RoomName,
    #[serde(flatten)]
    position: Option<Position>,
}

/// `DELETE /api/rooms/{room}/messages`.
pub(super) async fn forget(room: RoomName, node: &Node) -> Answer {
    let mut position = None;
    if node.config.retention.is_on() {
        let (reply, place) = oneshot::channel();
        let deadline = deadline();
        node.hub.registry.do_send(ForgetHistory {
            room: room.clone(),
            reply,
        });
        position = Some(within(deadline, place).await?.map_err(Refusal::unavailable)?);
    }
    Ok(done(&Place { room, position }))
}

/// Reads for one answer.
struct Reader<'a> {
    node: &'a Node,
    room: &'a RoomName,
    deadline: Instant,
}

impl Reader<'_> {
    /// What is wanted, as far as it is there. `None`: the numbering has changed meanwhile.
    async fn past(&self, wish: &Wish) -> Result<Option<Past>, Refusal> {
        let nothing = PageLimit { entries: 0, bytes: 0 };
        let Page { numbering, top, .. } = self.page(None, None, nothing).await?;
        let position = numbering.position(top);
        let kept = self.node.config.retention.size;
        let since = |limit: u64| top.saturating_sub(limit.min(kept));
        let mut recovered = None;
        let mut start = since(wish.limit.unwrap_or(DEFAULT_LIMIT));
        if let Some(after) = &wish.after {
            recovered = Some(false);
            if after.epoch == position.epoch && after.offset <= top {
                let most = wish.limit.unwrap_or(kept);
                // Also where none are wanted: the first one tells whether something is missing.
                let found = self.entries(after.offset, most.max(1), &position).await?;
                let Some(mut entries) = found else {
                    return Ok(None);
                };
                let is_whole = match entries.first() {
                    Some(first) => first.offset == after.offset + 1,
                    None => after.offset == top,
                };
                if is_whole {
                    // Something may have been dropped between two pages: whoever goes on behind the last one is told.
                    let in_a_row = entries.iter().zip(after.offset + 1..);
                    let in_a_row = in_a_row
                        .take_while(|(entry, offset)| entry.offset == *offset)
                        .count();
                    entries.truncate(in_a_row.min(usize::try_from(most).unwrap_or(usize::MAX)));
                    return Ok(Some(Past {
                        position: Some(position),
                        recovered: Some(true),
                        entries,
                    }));
                }
            }
            // As for a subscriber: nothing, unless the last ones were asked for, too.
            start = since(wish.limit.unwrap_or(0));
        }
        let entries = self.entries(start, top - start, &position).await?;
        Ok(entries.map(|entries| Past {
            position: Some(position),
            recovered,
            entries,
        }))
    }

    /// The messages after `start`, `most` of them, up to `until`. `None`: the numbering has changed meanwhile.
    async fn entries(&self, start: u64, most: u64, until: &Position) -> Result<Option<Vec<Entry>>, Refusal> {
        let (mut entries, mut bytes, mut after) = (Vec::<Entry>::new(), 0, start);
        loop {
            let left = most.saturating_sub(entries.len() as u64);
            if left == 0 || after >= until.offset {
                return Ok(Some(entries));
            }
            // The beginning of this numbering: that of another one is not asked for.
            let known = Position {
                offset: 0,
                epoch: until.epoch.clone(),
            };
            let limit = PageLimit {
                entries: left.min(PAGE.entries),
                ..PAGE
            };
            let page = self.page(Some(known), Some(after), limit).await?;
            if page.numbering.epoch != until.epoch {
                return Ok(None);
            }
            let Some(last) = page.entries.last() else {
                return Ok(Some(entries));
            };
            after = last.offset;
            for entry in page
                .entries
                .into_iter()
                .filter(|entry| entry.offset <= until.offset)
            {
                bytes += entry.message.cost();
                if bytes > MAX_BYTES && !entries.is_empty() {
                    return Ok(Some(entries));
                }
                entries.push(entry);
            }
        }
    }

    async fn page(
        &self,
        known: Option<Position>,
        after: Option<u64>,
        limit: PageLimit,
    ) -> Result<Page, Refusal> {
        let (reply, page) = oneshot::channel();
        self.node.hub.registry.do_send(ReadPage {
            room: self.room.clone(),
            known,
            after,
            limit,
            reply,
        });
        let page = within(self.deadline, page).await?;
        page.map_err(|error| Refusal::unavailable(error.to_string()))
    }
}

/// The answer's JSON, put together from what is JSON already.
fn encode(room: &RoomName, past: &Past) -> Vec<u8> {
    /// Names, punctuation, numbers and most names' texts.
    const AROUND_BYTES: usize = 128;
    let texts = past.entries.iter();
    let bytes: usize = texts
        .map(|entry| entry.message.content.text.len() + AROUND_BYTES)
        .sum();
    let mut json = Vec::with_capacity(AROUND_BYTES + bytes);
    let head = Head {
        room,
        position: past.position.as_ref(),
        recovered: past.recovered,
    };
    write(&mut json, &head);
    json.pop();
    json.extend_from_slice(br#","messages":["#);
    for (index, Entry { offset, message }) in past.entries.iter().enumerate() {
        json.extend_from_slice(if index > 0 {
            br#",{"message":"#
        } else {
            br#"{"message":"#
        });
        if message.content.is_json {
            json.extend_from_slice(message.content.text.as_bytes());
        } else {
            write(&mut json, &*message.content.text);
        }
        json.push(b',');
        let mut rest = Vec::with_capacity(AROUND_BYTES);
        let rest_of = Rest {
            offset: *offset,
            sender: message.sender.as_deref(),
            time: message.time,
        };
        write(&mut rest, &rest_of);
        json.extend_from_slice(&rest[1..]);
    }
    json.extend_from_slice(b"]}");
    json
}

fn write(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(json, value).expect("strings and numbers always serialize");
}

#[derive(Serialize)]
struct Head<'a> {
    room: &'a RoomName,
    #[serde(flatten)]
    position: Option<&'a Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
}

#[derive(Serialize)]
struct Rest<'a> {
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
}
