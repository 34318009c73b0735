//! The embedded broker: channels within the process, for a node that stands alone.
//!
//! It keeps the contract of [`super`] to the letter, so that a node behaves alike on both brokers: subscriptions are
//! confirmed, a message reaches the registry as an event of the link and only for rooms that are subscribed, and a
//! publish is answered after its message has entered the link's order. What it remembers ends with the process
//! ([`store`]).

mod presence;
mod store;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{Actor, AsyncContext, Context, Handler, Recipient};
use tokio::time::sleep;

use self::presence::Listed;
use self::store::{Published, Store};
use super::control::Done;
use super::health::Health;
use super::history::ReadOutcome;
use super::presence::Order;
use super::{ChannelKind, LinkCommand, LinkEvent, Publish, PublishOutcome, PublishQueue, Transit};
use crate::config::Retention;
use crate::lifeline::{Lifeline, Lifelines};
use crate::metrics::Metrics;
use crate::protocol::RoomName;

/// The one link there ever is.
const GENERATION: u64 = 1;

/// Publishes that are taken from the queue at once.
const MAX_BATCH: usize = 256;

/// How often what has expired is given back.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);

/// The link of the embedded broker.
pub(crate) struct MemoryLink {
    subscribed: HashSet<(ChannelKind, RoomName)>,
    listed: Listed,
    store: Store,
    metrics: Arc<Metrics>,
    events: Recipient<LinkEvent>,
    health: Arc<Health>,
    _lifeline: Lifeline,
}

impl MemoryLink {
    pub(crate) fn start(
        queue: PublishQueue,
        events: Recipient<LinkEvent>,
        retention: Retention,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        lifelines: &Lifelines,
    ) -> Recipient<LinkCommand> {
        let link = Self {
            subscribed: HashSet::new(),
            listed: Listed::default(),
            store: Store::new(retention),
            metrics: metrics.clone(),
            events,
            health,
            _lifeline: lifelines.hold("the embedded broker"),
        }
        .start();
        let carrying = carry(queue, link.clone().recipient(), metrics);
        actix::spawn(lifelines.hold("the embedded broker's queue").over(carrying));
        link.recipient()
    }

    fn accept(&mut self, batch: Vec<Publish>) {
        let now = Instant::now();
        let mut arrivals = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Publish {
            message, key, answer, ..
        } in batch
        {
            let room = message.room.clone();
            let position = match self.store.publish(message, key, now) {
                Published::New(arrival, position) => {
                    if self.subscribed.contains(&(ChannelKind::Messages, room)) {
                        arrivals.push(arrival);
                    }
                    position
                }
                Published::Repeated(position) => position,
            };
            answers.push((answer, position));
        }
        if !arrivals.is_empty() {
            let transit = Transit::begin(&arrivals, &self.metrics);
            self.events.do_send(LinkEvent::Messages(arrivals, transit));
        }
        for (answer, position) in answers {
            answer.give(PublishOutcome::Accepted(position));
        }
    }

    /// What changes in a room comes before what is answered.
    fn obey(&mut self, orders: Vec<Order>) -> LinkEvent {
        let (mut presents, mut reports) = (Vec::new(), Vec::with_capacity(orders.len()));
        for order in orders {
            let (present, report) = self.listed.obey(order);
            let is_heard = |(room, _): &(RoomName, _)| {
                self.subscribed
                    .contains(&(ChannelKind::Presence, RoomName::clone(room)))
            };
            presents.extend(present.filter(is_heard));
            reports.push(report);
        }
        self.metrics
            .presence_entries
            .set(self.listed.len().try_into().unwrap_or(i64::MAX));
        if !presents.is_empty() {
            let bytes = presents.iter().map(|(_, present)| present.cost()).sum();
            let transit = Transit::of_bytes(bytes, &self.metrics);
            self.events.do_send(LinkEvent::Present(presents, transit));
        }
        LinkEvent::Presence(reports)
    }
}

/// Hands publishes to the link in batches and waits for each, so that its mailbox never holds more than one. While too
/// much is on its way to the sessions, publishes wait.
async fn carry(mut queue: PublishQueue, link: Recipient<Accept>, metrics: Arc<Metrics>) {
    const LOOK_INTERVAL: Duration = Duration::from_millis(1);
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if link.send(Accept(std::mem::take(&mut batch))).await.is_err() {
            return;
        }
        while Transit::is_full(&metrics) {
            sleep(LOOK_INTERVAL).await;
        }
    }
}

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Accept(Vec<Publish>);

impl Actor for MemoryLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(EXPIRY_INTERVAL, |link, _| {
            let subscribed = &link.subscribed;
            let is_occupied = |room: &RoomName| subscribed.contains(&(ChannelKind::Messages, room.clone()));
            link.store.expire(Instant::now(), is_occupied);
        });
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
            LinkCommand::Subscribe {
                generation,
                kind,
                rooms,
            } => {
                self.subscribed
                    .extend(rooms.iter().map(|room| (kind, room.clone())));
                LinkEvent::Opened {
                    generation,
                    kind,
                    rooms,
                }
            }
            LinkCommand::Unsubscribe {
                generation,
                kind,
                rooms,
            } => {
                for room in &rooms {
                    self.subscribed.remove(&(kind, room.clone()));
                }
                LinkEvent::Closed {
                    generation,
                    kind,
                    rooms,
                }
            }
            LinkCommand::Presence(orders) => self.obey(orders),
            LinkCommand::Read(requests) => {
                let now = Instant::now();
                let outcomes = requests.into_iter().map(|request| ReadOutcome {
                    id: request.id,
                    page: Ok(self.store.read(&request, now)),
                    room: request.room,
                });
                LinkEvent::Read(outcomes.collect())
            }
            LinkCommand::Forget { room, reply } => {
                let position = self.store.forget(&room, Instant::now());
                // Fails when nobody waits any more.
                let _ = reply.send(Ok(position));
                LinkEvent::Missed(ChannelKind::Messages, vec![room])
            }
            LinkCommand::Demand { demand, reply } => {
                let done = Done::new(move |sessions| {
                    let _ = reply.send(Ok(sessions));
                });
                LinkEvent::Demanded {
                    demand,
                    before: None,
                    done,
                }
            }
            #[cfg(test)]
            LinkCommand::Panic => panic!("on purpose"),
        };
        self.events.do_send(event);
    }
}
