//! A listed session that keeps account of what it is told of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::session_of;
use crate::support::PATIENCE;
use crate::support::client::{Client, Event};

/// How long the next frame is waited for while there may be none.
pub(super) const MOMENT: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Watcher {
    pub(super) client: Client,
    pub(super) session: String,
    /// Who is there by what was told, beside itself.
    pub(super) there: BTreeSet<String>,
    /// What was told of each, in order: whether it was there from then on.
    pub(super) told: BTreeMap<String, Vec<bool>>,
}

impl Watcher {
    /// Enters the room, and begins with who is there then.
    pub(super) async fn enter(url: &str, room: &str) -> Self {
        let watcher = Self::try_enter(url, room).await;
        watcher.expect("it can enter")
    }

    /// [`Watcher::enter`] on a node and a broker that may be away.
    pub(super) async fn try_enter(url: &str, room: &str) -> Option<Self> {
        let mut client = Client::try_connect(&format!("{url}/ws"), &["roomcast.v1"]).await?;
        let Some(Event::Text(welcome)) = client.event_within(PATIENCE).await else {
            return None;
        };
        let welcome: Value = serde_json::from_str(&welcome).expect("JSON");
        let mut watcher = Self {
            client,
            session: welcome["session"].as_str().expect("a name").to_owned(),
            there: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        watcher.set_presence(room, true).await.then_some(watcher)
    }

    /// Changes whether it is listed. Whether that was possible.
    pub(super) async fn set_presence(&mut self, room: &str, presence: bool) -> bool {
        let reply = self
            .call(json!({"type": "SUBSCRIBE", "room": room, "presence": presence}))
            .await;
        if reply.is_none_or(|reply| reply["type"] != "subscribed") {
            return false;
        }
        if !presence {
            self.there.clear();
            self.told.clear();
            return true;
        }
        let Some(listed) = self.members(room).await else {
            return false;
        };
        self.there = listed;
        self.there.remove(&self.session);
        true
    }

    /// Takes in what has come. Whether the connection is still there.
    pub(super) async fn listen(&mut self) -> bool {
        loop {
            match self.client.event_within(MOMENT).await {
                None => return true,
                Some(Event::Closed(_)) => return false,
                Some(Event::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    self.understand(&frame);
                }
            }
        }
    }

    /// Listens until so many others are there.
    ///
    /// # Panics
    /// If that does not happen in time.
    pub(super) async fn await_there(&mut self, count: usize) {
        self.await_there_within(2 * PATIENCE, count).await;
    }

    /// [`Watcher::await_there`] with another deadline.
    pub(super) async fn await_there_within(&mut self, patience: Duration, count: usize) {
        let deadline = Instant::now() + patience;
        loop {
            assert!(self.listen().await, "the connection has ended");
            let there = self.there.len();
            if there == count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for {count} others; there are {there}"
            );
        }
    }

    /// A coming and a going of one session alternate, whatever happens; and nobody hears of itself.
    fn understand(&mut self, frame: &Value) {
        let is_there = match frame["type"].as_str() {
            Some("joined") => true,
            Some("left") => false,
            Some("gap" | "message") => return,
            _ => panic!("an unexpected frame: {frame}"),
        };
        let session = session_of(&frame["member"]);
        assert_ne!(session, self.session, "told of itself");
        let told = self.told.entry(session.clone()).or_default();
        assert_ne!(told.last(), Some(&is_there), "told twice: {frame}");
        told.push(is_there);
        if is_there {
            self.there.insert(session);
        } else {
            self.there.remove(&session);
        }
    }

    /// Sends a command and takes in what comes before its reply. `None` if none comes.
    async fn call(&mut self, mut command: Value) -> Option<Value> {
        command["id"] = json!("call");
        self.client.try_command(&command).await;
        loop {
            match self.client.event_within(PATIENCE).await {
                Some(Event::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    if frame["id"] == "call" {
                        return Some(frame);
                    }
                    self.understand(&frame);
                }
                Some(Event::Closed(_)) | None => return None,
            }
        }
    }

    /// The sessions of MEMBERS; `None` if it is unavailable.
    pub(super) async fn members(&mut self, room: &str) -> Option<BTreeSet<String>> {
        let reply = self.call(json!({"type": "MEMBERS", "room": room})).await?;
        let list = reply["members"].as_array()?;
        assert_eq!(reply["count"], list.len(), "{reply}");
        Some(list.iter().map(session_of).collect())
    }
}
