//! The two brokers against each other: the same random commands, and all that clients can see is the same.
//!
//! Each command ends before the next begins, so that nothing depends on timing. What differs by nature is made alike:
//! epochs and sessions are called by the order in which they appear, and times are left out.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Site;
use crate::support::client::Client;

const ROOMS: [&str; 2] = ["room1", "room {2} %"];

/// Few, so that rooms forget.
const KEPT: u64 = 4;

#[derive(Clone, Debug)]
enum Command {
    Subscribe {
        client: usize,
        room: usize,
        /// From so many messages before the last one; from beyond it if that is negative.
        after: Option<i64>,
        /// … in an epoch that never was.
        elsewhere: bool,
        history: Option<u64>,
    },
    Unsubscribe {
        client: usize,
        room: usize,
    },
    Publish {
        client: usize,
        room: usize,
        key: Option<usize>,
    },
}

fn random_command(random: &mut fastrand::Rng) -> Command {
    let (client, room) = (random.usize(0..3), random.usize(0..ROOMS.len()));
    match random.u8(0..10) {
        0..4 => Command::Subscribe {
            client,
            room,
            after: random.bool().then(|| random.i64(-1..8)),
            elsewhere: random.u8(0..5) == 0,
            history: random.bool().then(|| random.u64(0..6)),
        },
        4..6 => Command::Unsubscribe { client, room },
        _ => Command::Publish {
            client,
            room,
            key: random.bool().then(|| random.usize(0..4)),
        },
    }
}

/// Clients on one site, and what they have seen.
struct Stage {
    clients: Vec<Client>,
    members: Vec<[bool; ROOMS.len()]>,
    /// Offset and epoch of each room, as far as a reply has told.
    tops: [Option<(i64, String)>; ROOMS.len()],
    /// Idempotence keys that were used, by whom and where.
    keys: HashSet<(usize, usize, usize)>,
    names: Vec<String>,
    seen: Vec<String>,
}

impl Stage {
    async fn new(site: &Site) -> Self {
        let mut clients = Vec::new();
        for (user, url) in [
            ("?user=ann", site.url()),
            ("?user=bob", site.other_url()),
            ("", site.url()),
        ] {
            let mut client = Client::connect(&format!("{url}/ws{user}"), &["roomcast.v1"]).await;
            assert_eq!(client.json().await["type"], "welcome");
            clients.push(client);
        }
        Self {
            members: vec![Default::default(); clients.len()],
            clients,
            tops: Default::default(),
            keys: HashSet::new(),
            names: Vec::new(),
            seen: Vec::new(),
        }
    }

    async fn carry_out(&mut self, number: usize, command: &Command) {
        self.seen.push(format!("{number}: {command:?}"));
        match *command {
            Command::Subscribe {
                client,
                room,
                after,
                elsewhere,
                history,
            } => {
                let mut frame = json!({"type": "SUBSCRIBE", "room": ROOMS[room]});
                if let (Some(back), Some((top, epoch))) = (after, &self.tops[room]) {
                    frame["after"] = (top - back).max(0).into();
                    frame["epoch"] = if elsewhere { "elsewhere" } else { epoch.as_str() }.into();
                }
                if let Some(history) = history {
                    frame["history"] = history.into();
                }
                self.call(client, room, frame).await;
                self.members[client][room] = true;
            }
            Command::Unsubscribe { client, room } => {
                self.call(client, room, json!({"type": "UNSUBSCRIBE", "room": ROOMS[room]}))
                    .await;
                self.members[client][room] = false;
            }
            Command::Publish { client, room, key } => {
                let mut frame = json!({"type": "sendMessage", "room": ROOMS[room], "message": number});
                if let Some(key) = key {
                    frame["key"] = format!("key {key}").into();
                }
                let begin = self.seen.len();
                let is_new = key.is_none_or(|key| self.keys.insert((client, room, key)));
                let heard = self.call(client, room, frame).await;
                if is_new {
                    self.hear(room, number, (client, heard)).await;
                }
                // `sent` and one's own message come in either order.
                self.seen[begin..].sort_unstable();
            }
        }
    }

    /// Sends a command, and a PING once it is answered; reads up to the answer to that. Whether a message was among it.
    async fn call(&mut self, client: usize, room: usize, frame: Value) -> bool {
        self.clients[client].command(frame).await;
        let mut heard = false;
        loop {
            let frame = self.clients[client].json().await;
            match frame["type"].as_str() {
                Some("pong") => return heard,
                Some("message") => heard = true,
                Some("subscribed" | "unsubscribed" | "sent" | "error") => {
                    if let (Some(offset), Some(epoch)) = (frame["offset"].as_i64(), frame["epoch"].as_str()) {
                        let known = self.tops[room].as_ref().map_or(0, |(top, _)| *top);
                        self.tops[room] = Some((offset.max(known), epoch.to_owned()));
                    }
                    self.clients[client].command(json!({"type": "PING"})).await;
                }
                _ => panic!("an unexpected frame: {frame}"),
            }
            self.note(client, frame);
        }
    }

    /// Every member of the room hears this message next.
    async fn hear(&mut self, room: usize, number: usize, (sender, sender_heard): (usize, bool)) {
        for client in 0..self.clients.len() {
            if !self.members[client][room] || (client == sender && sender_heard) {
                continue;
            }
            let frame = self.clients[client].json().await;
            assert_eq!(frame["message"], number, "{frame}");
            self.note(client, frame);
        }
    }

    /// Writes down a frame, without what differs from broker to broker.
    fn note(&mut self, client: usize, mut frame: Value) {
        for field in ["epoch", "session"] {
            if let Some(name) = frame[field].as_str() {
                let known = self.names.iter().position(|known| known == name);
                let index = known.unwrap_or_else(|| {
                    self.names.push(name.to_owned());
                    self.names.len() - 1
                });
                frame[field] = index.into();
            }
        }
        if let Some(fields) = frame.as_object_mut() {
            fields.remove("time");
        }
        self.seen.push(format!("client {client} sees {frame}"));
    }
}

#[actix::test]
async fn both_brokers_look_the_same_whatever_clients_do() {
    const SEEDS: u64 = 4;
    const COMMANDS: usize = 60;
    let kept = KEPT.to_string();
    for retention in [kept.as_str(), "0"] {
        let settings = [("ROOMCAST_HISTORY_SIZE", retention)];
        for seed in 0..SEEDS {
            let mut random = fastrand::Rng::with_seed(seed);
            let commands: Vec<Command> = (0..COMMANDS).map(|_| random_command(&mut random)).collect();
            let mut seen = Vec::new();
            for site in [
                Site::memory_with(&settings).await,
                Site::redis_with(&settings).await,
            ] {
                let mut stage = Stage::new(&site).await;
                for (number, command) in commands.iter().enumerate() {
                    stage.carry_out(number, command).await;
                }
                for client in &mut stage.clients {
                    client.assert_quiet().await;
                }
                seen.push(stage.seen);
            }
            let [memory, redis] = seen.try_into().expect("two sites");
            for (memory, redis) in memory.iter().zip(&redis) {
                assert_eq!(memory, redis, "seed {seed}, {retention} messages kept");
            }
            assert_eq!(
                memory.len(),
                redis.len(),
                "seed {seed}, {retention} messages kept"
            );
        }
    }
}
