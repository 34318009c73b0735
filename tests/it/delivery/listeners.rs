//! Members that follow one room for a whole run, whatever happens to their node: they write down what they hear, and when
//! their connection ends they come back, at the other node if need be, and recover from where they were.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use roomcast::protocol::Dialect;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::history::{Content, MemberId, Position};
use super::recorder::Recorder;
use crate::support::client::{Client, Event};

/// Between two attempts to connect or to subscribe.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a member stays away whose connection has ended: long enough to miss something.
const ABSENCE: Duration = Duration::from_millis(300);

/// A member's connection may be silent for as long as it likes.
const FOREVER: Duration = Duration::from_secs(24 * 3_600);

/// Where clients connect to, and what they have to know of the run.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) recorder: Recorder,
    /// `ws://host:port` of each node that is there.
    pub(crate) addresses: Rc<RefCell<[Option<String>; 2]>>,
    /// Changes when those who are at the other node should go back to theirs.
    pub(crate) homing: watch::Sender<()>,
    /// Whether publishers go on publishing.
    pub(crate) talking: watch::Sender<bool>,
    /// Whether messages may be lost that were taken: because a fault throws away what Redis has, or because it keeps little.
    pub(crate) may_lose: Rc<Cell<bool>>,
}

impl Site {
    /// Connects to this node, or to the other one while this one is away. The client, and where it is.
    pub(crate) async fn connect(&self, home: usize, dialect: Dialect) -> (Client, usize) {
        loop {
            for node in [home, 1 - home] {
                let url = self.addresses.borrow()[node].clone();
                if let Some(url) = url
                    && let Some(client) = Client::try_open(&url, dialect).await
                {
                    return (client, node);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns when somebody who belongs to `home` and is at `node` should go there.
    pub(crate) async fn called_home(&self, home: usize, node: usize) {
        let mut homing = self.homing.subscribe();
        loop {
            if homing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if node != home && self.addresses.borrow()[home].is_some() {
                return;
            }
        }
    }
}

/// Follows a room in the dialect `roomcast.v1`, for ever.
pub(crate) async fn follow(site: Site, member: MemberId, room: Arc<str>, home: usize) {
    loop {
        let (mut client, node) = site.connect(home, Dialect::V1).await;
        subscribe(&site, &mut client, member, &room).await;
        let called = site.called_home(home, node);
        tokio::pin!(called);
        loop {
            let event = tokio::select! {
                event = client.event_within(FOREVER) => event,
                () = &mut called => None,
            };
            let Some(Event::Text(text)) = event else {
                break;
            };
            let frame: Value = serde_json::from_str(&text).unwrap_or_default();
            if !understand(&site, member, node, &room, &frame) {
                site.recorder.unexpected(member, &text);
            }
            if frame["code"] == "unavailable" {
                tokio::time::sleep(PAUSE).await;
                subscribe(&site, &mut client, member, &room).await;
            }
        }
        site.recorder.ended(member);
        tokio::time::sleep(ABSENCE).await;
    }
}

async fn subscribe(site: &Site, client: &mut Client, member: MemberId, room: &str) {
    let last = site.recorder.position(member);
    let mut command = json!({"type": "SUBSCRIBE", "id": 1, "room": room});
    if let Some(Position { epoch, offset }) = &last {
        command["after"] = json!(offset);
        command["epoch"] = json!(**epoch);
    }
    site.recorder.subscribing(member, last);
    client.try_command(&command).await;
}

/// Writes down what a frame says. Whether it is one that may come.
fn understand(site: &Site, member: MemberId, node: usize, room: &str, frame: &Value) -> bool {
    let position = || Some(Position::new(frame["epoch"].as_str()?, frame["offset"].as_u64()?));
    match frame["type"].as_str() {
        _ if frame["room"] != *room && frame["type"] != "error" => false,
        Some("subscribed") => {
            let recovered = frame["recovered"].as_bool();
            site.recorder.subscribed(member, node, position(), recovered);
            position().is_some()
        }
        Some("message") => {
            let text = frame["message"].as_str().unwrap_or_default();
            let offset = frame["offset"].as_u64();
            site.recorder.received(member, offset, Content::of(text));
            true
        }
        Some("gap") => match (frame["after"].as_u64(), position()) {
            (Some(after), Some(position)) => {
                site.recorder.gap(member, after, position);
                true
            }
            _ => false,
        },
        Some("error") => frame["code"] == "unavailable" && frame["id"] == 1,
        _ => false,
    }
}

/// Follows a room in the plain dialect, for ever.
pub(crate) async fn follow_plain(site: Site, member: MemberId, room: Arc<str>, home: usize) {
    loop {
        let (mut client, node) = site.connect(home, Dialect::Plain).await;
        client
            .try_command(&json!({"type": "SUBSCRIBE", "room": *room}))
            .await;
        site.recorder.subscribed(member, node, None, None);
        let called = site.called_home(home, node);
        tokio::pin!(called);
        loop {
            let event = tokio::select! {
                event = client.event_within(FOREVER) => event,
                () = &mut called => None,
            };
            let Some(Event::Text(text)) = event else {
                break;
            };
            site.recorder.received(member, None, Content::of(&text));
        }
        site.recorder.ended(member);
    }
}
