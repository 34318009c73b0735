//! The embedded broker: channels within the process, for a node that stands alone.
//!
//! It keeps the contract of [`super`] to the letter, so that a node behaves alike on both brokers: subscriptions are
//! confirmed, a message reaches the registry as an event of the link and only for rooms that are subscribed, and a
//! publish is answered after its message has entered the link's order.

use std::collections::HashSet;
use std::sync::Arc;

use actix::prelude::{Actor, Context, Handler, Recipient};

use super::health::Health;
use super::{LinkCommand, LinkEvent, Publish, PublishOutcome, PublishQueue, RoomMessage};
use crate::protocol::RoomName;

/// The one link there ever is.
const GENERATION: u64 = 1;

/// Publishes that are taken from the queue at once.
const MAX_BATCH: usize = 256;

/// The link of the embedded broker.
pub(crate) struct MemoryLink {
    subscribed: HashSet<RoomName>,
    events: Recipient<LinkEvent>,
    health: Arc<Health>,
}

impl MemoryLink {
    pub(crate) fn start(
        queue: PublishQueue,
        events: Recipient<LinkEvent>,
        health: Arc<Health>,
    ) -> Recipient<LinkCommand> {
        let link = Self {
            subscribed: HashSet::new(),
            events,
            health,
        }
        .start();
        actix::spawn(carry(queue, link.clone().recipient()));
        link.recipient()
    }

    fn accept(&mut self, batch: Vec<Publish>) {
        let mut messages = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Publish { message, answer, .. } in batch {
            if self.subscribed.contains(&message.room) {
                messages.push(message);
            }
            answers.push(answer);
        }
        self.tell(messages);
        for answer in answers {
            answer.give(PublishOutcome::Accepted);
        }
    }

    fn tell(&self, messages: Vec<RoomMessage>) {
        if !messages.is_empty() {
            self.events.do_send(LinkEvent::Messages(messages));
        }
    }
}

/// Hands publishes to the link in batches and waits for each, so that its mailbox never holds more than one.
async fn carry(mut queue: PublishQueue, link: Recipient<Accept>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if link.send(Accept(std::mem::take(&mut batch))).await.is_err() {
            return;
        }
    }
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Accept(Vec<Publish>);

impl Actor for MemoryLink {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.health.embedded();
        self.events.do_send(LinkEvent::Up {
            generation: GENERATION,
        });
    }
}

impl Handler<Accept> for MemoryLink {
    type Result = ();

    fn handle(&mut self, Accept(batch): Accept, _: &mut Self::Context) {
        self.accept(batch);
    }
}

impl Handler<LinkCommand> for MemoryLink {
    type Result = ();

    fn handle(&mut self, command: LinkCommand, _: &mut Self::Context) {
        let event = match command {
            LinkCommand::Subscribe { generation, rooms } => {
                self.subscribed.extend(rooms.iter().cloned());
                LinkEvent::Opened { generation, rooms }
            }
            LinkCommand::Unsubscribe { generation, rooms } => {
                for room in &rooms {
                    self.subscribed.remove(room);
                }
                LinkEvent::Closed { generation, rooms }
            }
        };
        self.events.do_send(event);
    }
}
