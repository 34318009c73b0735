//! Publishers that go on for a whole run, whatever happens, and know of each attempt what became of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use roomcast::protocol::Dialect;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::history::{AttemptId, Content, MemberId, Outcome, Position};
use super::listeners::Site;
use crate::support::client::{Client, Event};

/// A plain publisher gives a message up after so long, if it may have been taken and lost: nobody can tell it.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Of the messages with a key, each so many-th is repeated although it was acknowledged.
const REPEATED: usize = 8;

/// A message on its way.
#[derive(Clone)]
struct Message {
    room: Arc<str>,
    text: String,
    key: Option<Arc<str>>,
    /// How often it was attempted.
    attempts: usize,
    /// Whether it is repeated once more when it is acknowledged.
    again: bool,
}

/// Publishes to all rooms in turn, without waiting for answers, in the dialect `roomcast.v1`. Half of its messages have
/// a key; these are repeated with it until they are acknowledged, wherever the outcome is not known.
pub(crate) struct Talker {
    site: Site,
    home: usize,
    name: String,
    rooms: Vec<Arc<str>>,
    /// The room that it begins with, so that publishers do not all come to a room at the same time.
    first_room: usize,
    written: usize,
    under_way: HashMap<u64, (AttemptId, Message)>,
    again: VecDeque<Message>,
    ids: u64,
}

impl Talker {
    /// One that belongs to this node. No other may have its name.
    pub(crate) fn new(
        site: Site,
        home: usize,
        name: String,
        rooms: Vec<Arc<str>>,
        first_room: usize,
    ) -> Self {
        Self {
            site,
            home,
            name,
            rooms,
            first_room,
            written: 0,
            under_way: HashMap::new(),
            again: VecDeque::new(),
            ids: 0,
        }
    }

    /// Publishes once in each period until it is told to stop and knows what became of everything.
    pub(crate) async fn talk(mut self, period: Duration) {
        let mut talking = self.site.talking.subscribe();
        let mut ticks = ticks(period);
        loop {
            let (mut client, _) = self.site.connect(self.home, Dialect::V1).await;
            let publisher = self.site.recorder.publisher();
            loop {
                if !*talking.borrow_and_update() && self.under_way.is_empty() && self.again.is_empty() {
                    return;
                }
                tokio::select! {
                    event = client.event_within(Duration::from_secs(3_600)) => match event {
                        Some(Event::Text(text)) => self.hear(&text),
                        _ => break,
                    },
                    _ = ticks.tick() => {
                        if *talking.borrow() {
                            let message = self.write();
                            self.send(&mut client, publisher, message).await;
                        }
                        if let Some(message) = self.again.pop_front() {
                            self.send(&mut client, publisher, message).await;
                        }
                    }
                    _ = talking.changed() => {}
                }
            }
            for (_, (attempt, message)) in std::mem::take(&mut self.under_way) {
                self.site.recorder.lose_answer(attempt);
                self.repeat_if_possible(message);
            }
        }
    }

    fn write(&mut self) -> Message {
        let number = self.written;
        self.written += 1;
        let room = self.rooms[(self.first_room + number) % self.rooms.len()].clone();
        // Each room gets messages with and without a key.
        let keyed = (number / self.rooms.len()).is_multiple_of(2);
        let padding = "x".repeat(number % 200);
        Message {
            text: format!("{} {number} to {room} {padding}", self.name),
            key: keyed.then(|| format!("{} {number}", self.name).into()),
            room,
            attempts: 0,
            again: keyed && (number / 2).is_multiple_of(REPEATED),
        }
    }

    async fn send(&mut self, client: &mut Client, publisher: usize, mut message: Message) {
        self.ids += 1;
        message.attempts += 1;
        let mut command = json!({
            "type": "sendMessage", "id": self.ids, "room": *message.room, "message": message.text,
        });
        if let Some(key) = &message.key {
            command["key"] = json!(**key);
        }
        let attempt = self.site.recorder.attempt(
            publisher,
            &message.room,
            message.key.as_ref(),
            Content::of(&message.text),
        );
        self.under_way.insert(self.ids, (attempt, message));
        client.try_command(&command).await;
    }

    fn hear(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let Some((attempt, mut message)) = frame["id"].as_u64().and_then(|id| self.under_way.remove(&id))
        else {
            self.site.recorder.note(format!("{} got {text}", self.name));
            return;
        };
        let outcome = match (frame["type"].as_str(), frame["outcome"].as_str()) {
            (Some("sent"), _) => {
                let epoch = frame["epoch"].as_str();
                let offset = frame["offset"].as_u64();
                Outcome::Acknowledged(
                    epoch
                        .zip(offset)
                        .map(|(epoch, offset)| Position::new(epoch, offset)),
                )
            }
            (_, Some("refused")) => Outcome::Refused,
            (_, Some("unknown")) => Outcome::Unknown,
            // It stays without an outcome, which is found.
            _ => {
                self.site.recorder.note(format!("{} got {text}", self.name));
                return;
            }
        };
        self.site.recorder.answer(attempt, outcome.clone());
        match outcome {
            Outcome::Acknowledged(_) if message.again => {
                message.again = false;
                self.again.push_back(message);
            }
            // Once its outcome was unknown, only an answer to a repetition settles it.
            Outcome::Refused if message.attempts > 1 => self.repeat_if_possible(message),
            Outcome::Unknown => self.repeat_if_possible(message),
            Outcome::Acknowledged(_) | Outcome::Refused => {}
        }
    }

    fn repeat_if_possible(&mut self, message: Message) {
        if message.key.is_some() {
            self.again.push_back(message);
        }
    }
}

/// A plain member that publishes to its room, one message at a time: it knows that one was taken when it hears itself, and
/// that it perhaps was not when it gets an error. It begins when it has heard others: it is told in no other way that its
/// membership has begun, and a publish does not wait for that for ever.
pub(crate) async fn talk_plainly(
    site: Site,
    member: MemberId,
    room: Arc<str>,
    home: usize,
    period: Duration,
) {
    let mut talking = site.talking.subscribe();
    let mut ticks = ticks(period);
    let mut number = 0;
    loop {
        let (mut client, node) = site.connect(home, Dialect::Plain).await;
        let publisher = site.recorder.publisher();
        client
            .try_command(&json!({"type": "SUBSCRIBE", "room": *room}))
            .await;
        site.recorder.subscribed(member, node, None, None);
        let called = site.called_home(home, node);
        tokio::pin!(called);
        let mut has_heard = false;
        let mut under_way: Option<(AttemptId, String, Instant)> = None;
        loop {
            if let Some((attempt, _, since)) = &under_way
                && since.elapsed() > GIVEN_UP
                && site.may_lose.get()
            {
                site.recorder.lose_answer(*attempt);
                under_way = None;
            }
            tokio::select! {
                event = client.event_within(Duration::from_secs(3_600)) => {
                    let Some(Event::Text(text)) = event else { break };
                    match &under_way {
                        // No text of ours begins like this.
                        Some((attempt, ..)) if text.starts_with('{') => {
                            site.recorder.answer(*attempt, Outcome::Unknown);
                            under_way = None;
                            continue;
                        }
                        Some((attempt, own, _)) if *own == text => {
                            site.recorder.answer(*attempt, Outcome::Acknowledged(None));
                            under_way = None;
                        }
                        _ => {}
                    }
                    has_heard = true;
                    site.recorder.received(member, None, Content::of(&text));
                }
                _ = ticks.tick() => {
                    if has_heard && under_way.is_none() && *talking.borrow() {
                        let text = format!("plain one {home} {number} to {room}");
                        number += 1;
                        let attempt = site.recorder.attempt(publisher, &room, None, Content::of(&text));
                        let command = json!({"type": "sendMessage", "roomId": *room, "message": text});
                        under_way = Some((attempt, text, Instant::now()));
                        client.try_command(&command).await;
                    }
                }
                () = &mut called => break,
                _ = talking.changed() => {}
            }
        }
        if let Some((attempt, ..)) = under_way {
            site.recorder.lose_answer(attempt);
        }
        site.recorder.ended(member);
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    // Those that a busy machine has missed are made up for, so that the rate is right.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}
