//! A WebSocket client of either dialect.

use std::time::Duration;

use actix_codec::Framed;
use awc::BoxedSocket;
use awc::ws::{CloseCode, Codec, Frame, Message};
use futures_util::{SinkExt, StreamExt};
use roomcast::protocol::Dialect;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{PATIENCE, QUIET};

/// One connection.
pub(crate) struct Client {
    socket: Framed<BoxedSocket, Codec>,
    last_id: i64,
}

/// What can arrive beside pings.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Text(String),
    Closed(Option<u16>),
}

impl Client {
    /// A plain session at `ws://host:port`.
    pub(crate) async fn plain(url: &str) -> Self {
        Self::connect(&format!("{url}/ws"), &[]).await
    }

    /// A `roomcast.v1` session, its welcome already read.
    pub(crate) async fn v1(url: &str) -> Self {
        let mut client = Self::connect(&format!("{url}/ws"), &["roomcast.v1"]).await;
        assert_eq!(client.json().await["type"], "welcome");
        client
    }

    /// A session at this address that offers these subprotocols.
    pub(crate) async fn connect(url: &str, protocols: &[&str]) -> Self {
        Self::try_connect(url, protocols)
            .await
            .expect("a handshake that is accepted")
    }

    /// [`Client::connect`] to a server that may not be there.
    pub(crate) async fn try_connect(url: &str, protocols: &[&str]) -> Option<Self> {
        let client = awc::Client::builder()
            .max_http_version(awc::http::Version::HTTP_11)
            .finish();
        let mut request = client.ws(url).max_frame_size(64 * 1024 * 1024);
        if !protocols.is_empty() {
            // The header is sent for an empty list, too.
            request = request.protocols(protocols);
        }
        let (_, socket) = request.connect().await.ok()?;
        Some(Self { socket, last_id: 0 })
    }

    /// A session in this dialect at a server that may not be there or end at any time; its welcome is already read.
    pub(crate) async fn try_open(url: &str, dialect: Dialect) -> Option<Self> {
        let url = format!("{url}/ws");
        match dialect {
            Dialect::Plain => Self::try_connect(&url, &[]).await,
            Dialect::V1 => {
                let mut client = Self::try_connect(&url, &["roomcast.v1"]).await?;
                match client.event_within(PATIENCE).await? {
                    Event::Text(welcome) => {
                        assert!(welcome.contains("welcome"), "{welcome}");
                        Some(client)
                    }
                    Event::Closed(_) => None,
                }
            }
        }
    }

    /// Sends a command on a connection that may have ended, which what comes next tells.
    pub(crate) async fn try_command(&mut self, command: &Value) {
        let _ = self.socket.send(Message::Text(command.to_string().into())).await;
    }

    /// Sends a text frame as it is.
    pub(crate) async fn send_text(&mut self, text: impl Into<String>) {
        self.send(Message::Text(text.into().into())).await;
    }

    /// Sends any frame.
    pub(crate) async fn send(&mut self, message: Message) {
        self.socket.send(message).await.expect("an open connection");
    }

    /// Sends a command.
    pub(crate) async fn command(&mut self, command: Value) {
        self.send_text(command.to_string()).await;
    }

    /// Sends a `roomcast.v1` command with a new id and waits for its reply. Other frames must not come in between.
    pub(crate) async fn call(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        self.command(command).await;
        let reply = self.json().await;
        assert_eq!(
            reply["id"], self.last_id,
            "another frame came before the reply: {reply}"
        );
        reply
    }

    /// Joins a room, in the dialect `roomcast.v1`.
    pub(crate) async fn subscribe(&mut self, room: &str) {
        let reply = self.call(json!({"type": "SUBSCRIBE", "room": room})).await;
        assert_eq!(reply["type"], "subscribed", "{reply}");
    }

    /// Joins a room, in the plain dialect, and waits until the membership is live by hearing itself.
    pub(crate) async fn subscribe_plain(&mut self, room: &str) {
        let mark = format!("mark of {room}");
        self.command(json!({"type": "SUBSCRIBE", "room": room})).await;
        self.command(json!({"type": "sendMessage", "roomId": room, "message": mark}))
            .await;
        while self.text().await != mark {}
    }

    /// Sends a message without waiting for anything.
    pub(crate) async fn publish(&mut self, room: &str, message: impl Into<Value>) {
        self.command(json!({"type": "sendMessage", "roomId": room, "message": message.into()}))
            .await;
    }

    /// The next text frame or the end. Pings are answered.
    pub(crate) async fn event(&mut self) -> Event {
        self.event_within(PATIENCE).await.expect("a frame in time")
    }

    /// [`Client::event`], or nothing if none comes in time.
    pub(crate) async fn event_within(&mut self, patience: Duration) -> Option<Event> {
        timeout(patience, async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Frame::Text(bytes))) => {
                        return Event::Text(String::from_utf8(bytes.to_vec()).expect("UTF-8"));
                    }
                    Some(Ok(Frame::Ping(payload))) => {
                        // Fails when the connection is ending, which the next frame tells.
                        let _ = self.socket.send(Message::Pong(payload)).await;
                    }
                    Some(Ok(Frame::Close(reason))) => return Event::Closed(reason.map(|r| code(r.code))),
                    Some(Ok(Frame::Pong(_))) => {}
                    Some(Ok(other)) => panic!("an unexpected frame: {other:?}"),
                    Some(Err(_)) | None => return Event::Closed(None),
                }
            }
        })
        .await
        .ok()
    }

    /// The next text frame.
    pub(crate) async fn text(&mut self) -> String {
        match self.event().await {
            Event::Text(text) => text,
            Event::Closed(code) => panic!("closed with {code:?} where a text frame was awaited"),
        }
    }

    /// The next text frame as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?} is not JSON: {error}"))
    }

    /// The next frame, which is JSON, without what it says of the room's history.
    pub(crate) async fn json_without_place(&mut self) -> Value {
        without_place(self.json().await)
    }

    /// The code of the close frame, which must come next; `None` if the connection ends without one.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        match self.event().await {
            Event::Closed(code) => code,
            Event::Text(text) => panic!("{text:?} where the end was awaited"),
        }
    }

    /// Checks that nothing comes for a while.
    pub(crate) async fn assert_quiet(&mut self) {
        let event = self.event_within(QUIET).await;
        assert_eq!(event, None);
    }
}

fn code(code: CloseCode) -> u16 {
    code.into()
}

/// A frame without what it says of the room's history.
pub(crate) fn without_place(mut frame: Value) -> Value {
    if let Some(fields) = frame.as_object_mut() {
        fields.remove("offset");
        fields.remove("epoch");
    }
    frame
}
