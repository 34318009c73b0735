//! The core of a server written like the original, to share a Redis with: it reads payloads strictly, hands the bare
//! message to its members, and publishes `{"type":"sendMessage","roomId":…,"message":…}`. It has no WebSocket.

use std::collections::HashMap;

use futures_util::StreamExt;
use redis::aio::PubSub;
use redis::{AsyncCommands, Client};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::PATIENCE;
use super::redis::Redis;

/// The server, as a task.
pub(crate) struct Original {
    client: Client,
    joins: mpsc::UnboundedSender<Join>,
}

/// One who has joined a room there.
pub(crate) struct OriginalMember(mpsc::UnboundedReceiver<String>);

struct Join {
    room: String,
    member: mpsc::UnboundedSender<String>,
    joined: oneshot::Sender<()>,
}

#[derive(Deserialize)]
struct Payload {
    r#type: String,
    #[serde(rename = "roomId")]
    room_id: String,
    message: String,
}

impl Original {
    /// Starts one on this Redis. It ends with its handle.
    pub(crate) async fn start(redis: &Redis) -> Self {
        let client = Client::open(redis.url()).expect("a good URL");
        let pubsub = client.get_async_pubsub().await.expect("a server that answers");
        let (joins, queue) = mpsc::unbounded_channel();
        actix::spawn(serve(pubsub, queue));
        Self { client, joins }
    }

    /// Joins a room; returns when Redis has confirmed the subscription.
    pub(crate) async fn join(&self, room: &str) -> OriginalMember {
        let (member, messages) = mpsc::unbounded_channel();
        let (joined, confirmation) = oneshot::channel();
        let room = room.to_owned();
        let join = Join { room, member, joined };
        self.joins.send(join).expect("a server that lives");
        confirmation.await.expect("a server that lives");
        OriginalMember(messages)
    }

    /// Publishes exactly what the original does.
    pub(crate) async fn publish(&self, room: &str, message: &str) {
        let payload = json!({"type": "sendMessage", "roomId": room, "message": message}).to_string();
        let mut connection = self
            .client
            .get_multiplexed_async_connection()
            .await
            .expect("a server that answers");
        let _: usize = connection.publish(room, payload).await.expect("published");
    }
}

impl OriginalMember {
    /// The next message.
    ///
    /// # Panics
    /// If the server has died: it could not read a payload.
    pub(crate) async fn hear(&mut self) -> String {
        let message = timeout(PATIENCE, self.0.recv()).await.expect("a message in time");
        message.expect("the original's server lives")
    }
}

async fn serve(pubsub: PubSub, mut joins: mpsc::UnboundedReceiver<Join>) {
    let (mut sink, mut payloads) = pubsub.split();
    let mut members: HashMap<String, Vec<mpsc::UnboundedSender<String>>> = HashMap::new();
    loop {
        tokio::select! {
            join = joins.recv() => {
                let Some(Join { room, member, joined }) = join else { return };
                sink.subscribe(&room).await.expect("subscribed");
                members.entry(room).or_default().push(member);
                let _ = joined.send(());
            }
            payload = payloads.next() => {
                let payload = payload.expect("an open connection");
                let payload: Payload = serde_json::from_slice(payload.get_payload_bytes())
                    .expect("a payload that the original can read");
                assert_eq!(payload.r#type, "sendMessage");
                for member in members.get(&payload.room_id).into_iter().flatten() {
                    let _ = member.send(payload.message.clone());
                }
            }
        }
    }
}
