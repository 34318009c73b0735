//! A client in one room, of either dialect, by what it hears there.

use roomcast::protocol::Dialect;
use serde_json::{Value, json};

use super::client::Client;

/// What [`Client::subscribe_plain`] publishes to know that its membership is live. Other members pass over it.
const MARK: &str = "mark of ";

/// A member of a room.
pub(crate) struct Member {
    /// Its connection.
    pub(crate) client: Client,
    /// How often it was told of a gap.
    pub(crate) gaps: usize,
    room: String,
    dialect: Dialect,
}

impl Member {
    /// Connects to `ws://host:port` and joins; the membership is live when this returns.
    pub(crate) async fn join(url: &str, room: &str, dialect: Dialect) -> Self {
        let client = match dialect {
            Dialect::Plain => {
                let mut client = Client::plain(url).await;
                client.subscribe_plain(room).await;
                client
            }
            Dialect::V1 => {
                let mut client = Client::v1(url).await;
                client.subscribe(room).await;
                client
            }
        };
        Self::of(client, room, dialect)
    }

    /// A client that is in the room already.
    pub(crate) fn of(client: Client, room: &str, dialect: Dialect) -> Self {
        Self {
            client,
            gaps: 0,
            room: room.to_owned(),
            dialect,
        }
    }

    /// The text of the next message, for JSON its text. No other frame may come before it.
    pub(crate) async fn hear(&mut self) -> String {
        match self.next().await {
            Heard::Message(text) => text,
            Heard::Gap => panic!("a gap where a message of {:?} was awaited", self.room),
        }
    }

    /// The texts of the next `count` messages.
    pub(crate) async fn hear_all(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            texts.push(self.hear().await);
        }
        texts
    }

    /// Passes over everything until this message.
    pub(crate) async fn hear_until(&mut self, last: &str) {
        while !matches!(self.next().await, Heard::Message(text) if text == last) {}
    }

    /// Passes over messages until a gap is announced, which only `roomcast.v1` does.
    pub(crate) async fn hear_gap(&mut self) {
        while !matches!(self.next().await, Heard::Gap) {}
    }

    /// How it is spoken to.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Checks that nothing has come since what was read last: the answer to a harmless frame is next.
    pub(crate) async fn assert_heard_nothing(&mut self) {
        match self.dialect {
            Dialect::Plain => {
                self.client.send_text("no JSON").await;
                assert_eq!(self.client.json().await["code"], "bad_json");
            }
            Dialect::V1 => {
                assert_eq!(self.client.call(json!({"type": "PING"})).await["type"], "pong");
            }
        }
    }

    async fn next(&mut self) -> Heard {
        loop {
            let heard = match self.dialect {
                Dialect::Plain => Heard::Message(self.client.text().await),
                Dialect::V1 => {
                    let frame = self.client.json().await;
                    self.understand(&frame)
                }
            };
            match &heard {
                Heard::Message(text) if text.starts_with(MARK) => continue,
                Heard::Message(_) => {}
                Heard::Gap => self.gaps += 1,
            }
            return heard;
        }
    }

    fn understand(&self, frame: &Value) -> Heard {
        assert_eq!(frame["room"], *self.room, "{frame}");
        match (frame["type"].as_str(), &frame["message"]) {
            (Some("message"), Value::String(text)) => Heard::Message(text.clone()),
            (Some("message"), json) => Heard::Message(json.to_string()),
            (Some("gap"), _) => Heard::Gap,
            _ => panic!("an unexpected frame: {frame}"),
        }
    }
}

enum Heard {
    Message(String),
    Gap,
}
