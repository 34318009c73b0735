//! Nodes as processes of their own on one Redis: what they are to each other, and what they do when Redis is away.
//!
//! Pauses here are faults of a certain length or rate, never a wait for something to have happened.

mod away;
mod chat;
mod faults;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::client::Client;

use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::{PATIENCE, eventually};

/// A publish is answered within 1 s while the link is known to be down; the rest is for a busy machine.
const PROMPT: Duration = Duration::from_millis(1_300);

/// A publish is answered within 3 s whatever Redis does; the rest is for a busy machine.
const ANSWERED: Duration = Duration::from_millis(3_300);

/// Two nodes without history, with members of both dialects in ten rooms.
struct Cluster {
    redis: Redis,
    nodes: [Node; 2],
    rooms: Vec<(String, Vec<Member>)>,
}

impl Cluster {
    async fn start() -> Self {
        const ROOMS: usize = 10;
        let redis = Redis::start().await;
        let variables = [("REDIS_URL", &*redis.url()), ("ROOMCAST_HISTORY_SIZE", "0")];
        let nodes = [Node::start(&variables).await, Node::start(&variables).await];
        for node in &nodes {
            node.ready().await;
        }
        let [first, second] = nodes.each_ref().map(Node::ws_url);
        let mut rooms = Vec::new();
        for room in (0..ROOMS).map(|nth| format!("room {nth}")) {
            let members = vec![
                Member::join(&first, &room, Dialect::Plain).await,
                Member::join(&second, &room, Dialect::Plain).await,
                Member::join(&first, &room, Dialect::V1).await,
                Member::join(&second, &room, Dialect::V1).await,
            ];
            rooms.push((room, members));
        }
        Self { redis, nodes, rooms }
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.rooms.iter_mut().flat_map(|(_, members)| members)
    }

    /// Waits until a message to each room has been taken and heard by all its members, after so many gaps were
    /// announced since the last time. The time since `since`.
    ///
    /// Where the number of gaps is certain, the last of them tells that the room flows again, and the first message
    /// that is taken must be heard. Otherwise messages are sent until one is.
    async fn heal(&mut self, since: Instant, gaps: RangeInclusive<usize>) -> Duration {
        let is_certain = gaps.start() == gaps.end();
        let patience = if is_certain {
            PATIENCE
        } else {
            Duration::from_millis(250)
        };
        if is_certain {
            for member in self.members().filter(|member| member.dialect() == Dialect::V1) {
                while member.gaps < *gaps.start() {
                    member.hear_gap().await;
                }
            }
        }
        let mut sender = Client::v1(&self.nodes[0].ws_url()).await;
        for (room, members) in &mut self.rooms {
            loop {
                let text = publish_until_sent(&mut sender, room).await;
                let hear = members
                    .iter_mut()
                    .map(|member| timeout(patience, member.hear_until(&text)));
                if join_all(hear).await.iter().all(Result::is_ok) {
                    break;
                }
                assert!(!is_certain && since.elapsed() < PATIENCE, "{room} does not flow");
            }
        }
        let healed = since.elapsed();
        println!("healed in {healed:?}");
        for member in self.members() {
            let told = std::mem::take(&mut member.gaps);
            match member.dialect() {
                Dialect::Plain => assert_eq!(told, 0, "a plain member was told of a gap"),
                Dialect::V1 => assert!(gaps.contains(&told), "{told} gaps"),
            }
        }
        healed
    }
}

/// Publishes again and again until the broker has taken a message. Its text, which no other message has.
async fn publish_until_sent(sender: &mut Client, room: &str) -> String {
    for attempt in 0.. {
        let text = format!("attempt {attempt} at {:?}", Instant::now());
        let reply = publish(sender, room, &text).await;
        if reply["type"] == "sent" {
            return text;
        }
        assert_unavailable(&reply);
    }
    unreachable!("an endless loop");
}

/// Publishes in the dialect `roomcast.v1`. The reply, which comes within [`ANSWERED`].
async fn publish(sender: &mut Client, room: &str, text: &str) -> Value {
    let since = Instant::now();
    let command = json!({"type": "sendMessage", "roomId": room, "message": text});
    let reply = sender.call(command).await;
    let elapsed = since.elapsed();
    assert!(elapsed < ANSWERED, "a publish took {elapsed:?}");
    reply
}

/// Checks that a publish was not taken, or perhaps not.
fn assert_unavailable(reply: &Value) {
    assert_eq!(reply["code"], "unavailable", "{reply}");
    let outcome = reply["outcome"].as_str().unwrap_or_default();
    assert!(["refused", "unknown"].contains(&outcome), "{reply}");
}

/// Waits until `/readyz` says no.
async fn await_unready(node: &Node) {
    eventually("a node that is not ready", async || {
        (node.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
}
