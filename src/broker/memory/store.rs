//! What the embedded broker remembers: each room's numbering and messages, and the keys of publishes. Pure; time is an
//! argument.
//!
//! It behaves as the scripts do on Redis: messages expire whole, some time after the last one; the numbering lives on;
//! a key is remembered from its first publish.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::RoomMessage;
use crate::broker::history::{Arrival, Entry, NUMBERING_TTL, Numbering, Page, ReadRequest, UNWRITTEN_TTL};
use crate::config::Retention;
use crate::protocol::{IdempotenceKey, Position, RoomName};

/// All rooms that were ever written to or read, and have not expired.
#[derive(Debug)]
pub(super) struct Store {
    retention: Retention,
    rooms: HashMap<RoomName, Room>,
    keys: HashMap<Scope, Remembered>,
    /// Keys in the order in which they expire.
    key_order: VecDeque<(Instant, Scope)>,
}

#[derive(Debug)]
struct Room {
    numbering: Numbering,
    top: u64,
    entries: VecDeque<Entry>,
    /// The last publish; before the first one, the last read.
    touched: Instant,
}

/// What a key is unique within: room and user.
type Scope = (RoomName, Option<Arc<str>>, IdempotenceKey);

#[derive(Debug)]
struct Remembered {
    expires: Instant,
    position: Option<Position>,
}

/// What a publish came to.
#[derive(Debug)]
pub(super) enum Published {
    /// It is new, and goes to the room's subscribers.
    New(Arrival, Option<Position>),
    /// It has been published before, there.
    Repeated(Option<Position>),
}

impl Store {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            retention,
            rooms: HashMap::new(),
            keys: HashMap::new(),
            key_order: VecDeque::new(),
        }
    }

    pub(super) fn publish(
        &mut self,
        message: RoomMessage,
        key: Option<IdempotenceKey>,
        now: Instant,
    ) -> Published {
        let scope = key.map(|key| (message.room.clone(), message.sender.clone(), key));
        let first = scope.as_ref().and_then(|scope| self.keys.get(scope));
        if let Some(first) = first.filter(|first| now < first.expires) {
            return Published::Repeated(first.position.clone());
        }
        let (arrival, position) = if self.retention.is_on() {
            let (arrival, position) = self.number(message, now);
            (arrival, Some(position))
        } else {
            (Arrival::unnumbered(message), None)
        };
        if let Some(scope) = scope {
            let expires = now + self.retention.key_ttl;
            self.key_order.push_back((expires, scope.clone()));
            let position = position.clone();
            self.keys.insert(scope, Remembered { expires, position });
        }
        Published::New(arrival, position)
    }

    fn number(&mut self, message: RoomMessage, now: Instant) -> (Arrival, Position) {
        let size = self.retention.size;
        let room = self.room(&message.room, now);
        room.top += 1;
        room.touched = now;
        room.entries.push_back(Entry {
            offset: room.top,
            message: message.clone(),
        });
        if room.entries.len() as u64 > size {
            room.entries.pop_front();
        }
        let claim = Some(room.numbering.claim(room.top));
        (Arrival { message, claim }, room.numbering.position(room.top))
    }

    /// The room as it is now; its numbering begins with the first call.
    fn room(&mut self, name: &RoomName, now: Instant) -> &mut Room {
        let ttl = self.retention.ttl;
        let room = self.rooms.entry(name.clone()).or_insert_with(|| Room {
            numbering: Numbering::fresh(),
            top: 0,
            entries: VecDeque::new(),
            touched: now,
        });
        if now.saturating_duration_since(room.touched) >= ttl {
            room.entries = VecDeque::new();
        }
        if room.top == 0 {
            room.touched = now;
        }
        room
    }

    pub(super) fn read(&mut self, request: &ReadRequest, now: Instant) -> Page {
        let room = self.room(&request.room, now);
        let known = request.known.as_ref();
        let same_numbering = known.is_some_and(|known| known.epoch == room.numbering.epoch);
        let entries = request.after.map_or_else(Vec::new, |after| {
            let after = if same_numbering { after } else { 0 };
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                let is_in = bytes < request.limit.bytes;
                bytes += entry.message.cost() as u64;
                is_in
            };
            let limit = usize::try_from(request.limit.entries).unwrap_or(usize::MAX);
            let first = room.entries.partition_point(|entry| entry.offset <= after);
            room.entries
                .range(first..)
                .take(limit)
                .take_while(fits)
                .cloned()
                .collect()
        });
        Page {
            numbering: room.numbering.clone(),
            top: room.top,
            entries,
        }
    }

    /// Deletes a room's messages and begins another numbering. Where the room is then.
    pub(super) fn forget(&mut self, name: &RoomName, now: Instant) -> Position {
        let room = self.room(name, now);
        *room = Room {
            numbering: Numbering::fresh(),
            top: 0,
            entries: VecDeque::new(),
            touched: now,
        };
        room.numbering.position(0)
    }

    /// Forgets what has expired. A room that somebody is in keeps its numbering.
    pub(super) fn expire(&mut self, now: Instant, is_occupied: impl Fn(&RoomName) -> bool) {
        let ttl = self.retention.ttl;
        self.rooms.retain(|name, room| {
            let age = now.saturating_duration_since(room.touched);
            if age >= ttl {
                room.entries = VecDeque::new();
            }
            age < numbering_ttl(room.top, ttl) || is_occupied(name)
        });
        while let Some((expires, _)) = self.key_order.front()
            && now >= *expires
        {
            if let Some((_, scope)) = self.key_order.pop_front()
                && self.keys.get(&scope).is_some_and(|key| now >= key.expires)
            {
                self.keys.remove(&scope);
            }
        }
    }
}

fn numbering_ttl(top: u64, entries_ttl: Duration) -> Duration {
    if top == 0 {
        UNWRITTEN_TTL
    } else {
        NUMBERING_TTL.max(entries_ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::history::PageLimit;
    use crate::protocol::Content;

    const RETENTION: Retention = Retention {
        size: 3,
        ttl: Duration::from_secs(300),
        key_ttl: Duration::from_secs(60),
    };

    fn room(name: &str) -> RoomName {
        RoomName::new(name).expect("a valid name")
    }

    fn message(text: &'static str) -> RoomMessage {
        RoomMessage {
            room: room("r"),
            content: Content::text(text),
            sender: None,
            session: None,
            time: None,
        }
    }

    fn key(key: &str) -> Option<IdempotenceKey> {
        Some(IdempotenceKey::new(key).expect("a valid key"))
    }

    fn offset(published: &Published) -> (bool, u64) {
        match published {
            Published::New(_, Some(position)) => (true, position.offset),
            Published::Repeated(Some(position)) => (false, position.offset),
            other => panic!("no position: {other:?}"),
        }
    }

    fn read(store: &mut Store, after: Option<u64>, known: Option<Position>, now: Instant) -> (u64, Vec<u64>) {
        let page = store.read(
            &ReadRequest {
                id: 0,
                room: room("r"),
                known,
                after,
                limit: PageLimit {
                    entries: 100,
                    bytes: 100_000,
                },
            },
            now,
        );
        (page.top, page.entries.iter().map(|entry| entry.offset).collect())
    }

    #[test]
    fn messages_are_numbered_and_the_last_ones_kept() {
        let (mut store, now) = (Store::new(RETENTION), Instant::now());
        for expected in 1..=5 {
            assert_eq!(offset(&store.publish(message("x"), None, now)), (true, expected));
        }
        let known = store.rooms[&room("r")].numbering.position(5);
        assert_eq!(
            read(&mut store, Some(0), Some(known.clone()), now),
            (5, vec![3, 4, 5])
        );
        assert_eq!(read(&mut store, Some(4), Some(known), now), (5, vec![5]));
        assert_eq!(read(&mut store, None, None, now), (5, vec![]));
        // Another numbering's offset says nothing about this one.
        assert_eq!(read(&mut store, Some(4), None, now), (5, vec![3, 4, 5]));
    }

    #[test]
    fn a_page_has_at_least_one_message_and_not_many_bytes_more_than_asked_for() {
        let (mut store, now) = (Store::new(RETENTION), Instant::now());
        for _ in 0..3 {
            let _ = store.publish(message("x"), None, now);
        }
        let request = ReadRequest {
            id: 0,
            room: room("r"),
            known: None,
            after: Some(0),
            limit: PageLimit { entries: 9, bytes: 1 },
        };
        assert_eq!(store.read(&request, now).entries.len(), 1);
    }

    #[test]
    fn messages_expire_whole_and_the_numbering_goes_on() {
        let (mut store, start) = (Store::new(RETENTION), Instant::now());
        let _ = store.publish(message("x"), None, start);
        let later = start + RETENTION.ttl;
        assert_eq!(
            read(&mut store, Some(0), None, later - Duration::from_secs(1)),
            (1, vec![1])
        );
        assert_eq!(read(&mut store, Some(0), None, later), (1, vec![]));
        store.expire(later, |_| false);
        assert_eq!(offset(&store.publish(message("x"), None, later)), (true, 2));
        store.expire(later + NUMBERING_TTL, |_| true);
        assert_eq!(store.rooms.len(), 1, "somebody is there");
        store.expire(later + NUMBERING_TTL, |_| false);
        assert!(store.rooms.is_empty());
    }

    #[test]
    fn a_repeated_key_gets_the_first_place_until_it_expires() {
        let (mut store, start) = (Store::new(RETENTION), Instant::now());
        assert_eq!(offset(&store.publish(message("x"), key("k"), start)), (true, 1));
        assert_eq!(offset(&store.publish(message("y"), key("k"), start)), (false, 1));
        assert_eq!(offset(&store.publish(message("y"), key("l"), start)), (true, 2));
        let ann = RoomMessage {
            sender: Some("ann".into()),
            ..message("x")
        };
        assert_eq!(offset(&store.publish(ann, key("k"), start)), (true, 3));
        let later = start + RETENTION.key_ttl;
        assert_eq!(offset(&store.publish(message("x"), key("k"), later)), (true, 4));
        store.expire(later, |_| true);
        assert_eq!(store.keys.len(), 1, "the one that came anew");
        assert_eq!(store.key_order.len(), 1);
    }

    #[test]
    fn a_forgotten_room_begins_anew_and_its_keys_still_count() {
        let (mut store, now) = (Store::new(RETENTION), Instant::now());
        let before = store.publish(message("x"), key("k"), now);
        let _ = store.publish(message("y"), None, now);
        let position = store.forget(&room("r"), now);
        assert_eq!(position.offset, 0);
        assert_eq!(read(&mut store, Some(0), None, now), (0, vec![]));
        let Published::New(arrival, _) = before else {
            panic!("it was new");
        };
        let numbering = &store.rooms[&room("r")].numbering;
        assert_eq!(numbering.epoch, position.epoch);
        assert!(!numbering.vouches(&arrival.claim.expect("a place")));
        assert_eq!(offset(&store.publish(message("x"), key("k"), now)), (false, 1));
        assert_eq!(offset(&store.publish(message("z"), None, now)), (true, 1));
    }

    #[test]
    fn without_history_a_key_still_counts() {
        let retention = Retention { size: 0, ..RETENTION };
        let (mut store, now) = (Store::new(retention), Instant::now());
        assert!(matches!(
            store.publish(message("x"), key("k"), now),
            Published::New(Arrival { claim: None, .. }, None)
        ));
        assert!(matches!(
            store.publish(message("x"), key("k"), now),
            Published::Repeated(None)
        ));
        assert!(store.rooms.is_empty());
    }
}
