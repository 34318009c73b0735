//! The subscribing connection: one actor, one link at a time.
//!
//! - A lost link is reported before anything of the next one; dialling goes on for ever.
//! - A new one is reported when what was demanded of this node meanwhile has been done, so that nobody is sent what he was
//!   to be kept from ([`demands`]).
//! - Batches of rooms are one command each, confirmed as a whole. While one is under way the next is collected, so that the
//!   busier it is, the more rooms share a command; only a full batch does not wait.
//! - The crate queues what arrives without a bound, so the stream is always read: it is handed on in chunks of what
//!   has arrived together. While the sessions are too far behind, what arrives is dropped, and its rooms are named.
//! - A command that is not confirmed in [`COMMAND_TIMEOUT`], or a silence that [`Health`](crate::broker::health::Health)
//!   blames on this connection, replaces it.

mod demands;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::prelude::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, StreamHandler, WrapFuture,
};
use futures_util::StreamExt;
use log::{debug, info, warn};
use redis::aio::{PubSub, PubSubSink};
use redis::{Msg, RedisError, RedisResult};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::control::Demands;
use super::hearing::Hearing;
use super::payload::{self, PayloadError};
use super::reader::Errand;
use super::{CANARY_INTERVAL, DIAL_TIMEOUT, Shared, presence, travelled, within};
use crate::broker::history::{Arrival, ReadRequest};
use crate::broker::presence::{Order, Present};
use crate::broker::{ChannelKind, LinkCommand, LinkEvent, Transit};
use crate::lifeline::Lifeline;
use crate::metrics::labels::{Connection, Dropped};
use crate::protocol::RoomName;
use crate::throttle::Throttle;

/// How long Redis may take to confirm a subscription.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);

/// Payloads that are handed on together at most.
const MAX_CHUNK: usize = 512;

/// Rooms in one SUBSCRIBE or UNSUBSCRIBE at most, so that no command blocks Redis for long.
const MAX_ROOMS_PER_COMMAND: usize = 1_000;

/// How often it is looked whether the sessions have caught up after something was dropped.
const MISSED_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct RedisSubscriber {
    shared: Arc<Shared>,
    demands: Demands,
    hearing: Hearing,
    queues: Queues,
    events: Recipient<LinkEvent>,
    generation: u64,
    link: Option<Link>,
    /// The last link that was reported.
    reported: u64,
    batches: BTreeMap<(Verb, ChannelKind), Batches>,
    backoff: Backoff,
    drop_log: Throttle,
    /// Channels on which something came that was dropped.
    missed: BTreeMap<ChannelKind, HashSet<RoomName>>,
    _lifeline: Lifeline,
}

/// Where what needs no link goes.
pub(super) struct Queues {
    pub(super) reads: mpsc::UnboundedSender<ReadRequest>,
    pub(super) errands: mpsc::UnboundedSender<Errand>,
    pub(super) orders: mpsc::UnboundedSender<Vec<Order>>,
}

/// What has come on a channel.
enum Arrived {
    Message(Arrival),
    Present(RoomName, Present),
}

struct Link {
    sink: PubSubSink,
    stream: SpawnHandle,
}

/// Rooms that wait for a command of one kind, and how many of these are under way. No room waits in both kinds, because the
/// registry has one command under way per room, so the order between them is free.
#[derive(Default)]
struct Batches {
    waiting: VecDeque<RoomName>,
    under_way: usize,
}

impl Batches {
    /// The rooms of a command that may go out now.
    fn next(&mut self) -> Option<Vec<RoomName>> {
        let waiting = self.waiting.len();
        if waiting == 0 || (self.under_way > 0 && waiting < MAX_ROOMS_PER_COMMAND) {
            return None;
        }
        self.under_way += 1;
        Some(self.waiting.drain(..waiting.min(MAX_ROOMS_PER_COMMAND)).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Subscribe,
    Unsubscribe,
}

impl RedisSubscriber {
    pub(super) fn new(
        shared: Arc<Shared>,
        queues: Queues,
        events: Recipient<LinkEvent>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            demands: Demands::new(shared.node.clone()),
            hearing: Hearing::default(),
            shared,
            queues,
            events,
            generation: 0,
            link: None,
            reported: 0,
            batches: BTreeMap::new(),
            backoff: Backoff::default(),
            drop_log: Throttle::per_second(1),
            missed: BTreeMap::new(),
            _lifeline: lifeline,
        }
    }

    fn dial_after(&self, pause: Duration, ctx: &mut Context<Self>) {
        let shared = self.shared.clone();
        let dial = async move {
            tokio::time::sleep(pause).await;
            shared.metrics.redis_dials.inc(Connection::Subscriber);
            within(DIAL_TIMEOUT, "the dial", open(&shared)).await
        };
        ctx.spawn(dial.into_actor(self).map(|dialled, actor, ctx| match dialled {
            Ok(pubsub) => actor.link_up(pubsub, ctx),
            Err(error) => actor.dial_again(&error.to_string(), ctx),
        }));
    }

    fn dial_again(&mut self, problem: &str, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.shared.health.link_down(problem.to_owned());
        let pause = self.backoff.next(now, fastrand::f64());
        if let Some(suppressed) = self.drop_log.pass(now) {
            warn!(
                "no subscription to redis: problem={problem:?} next_dial_in={pause:?} unlogged={suppressed}"
            );
        }
        self.dial_after(pause, ctx);
    }

    fn link_up(&mut self, pubsub: PubSub, ctx: &mut Context<Self>) {
        let (sink, stream) = pubsub.split();
        let now = Instant::now();
        self.generation += 1;
        self.shared.link.store(self.generation, Ordering::Relaxed);
        self.shared.has_link.store(true, Ordering::Relaxed);
        self.backoff.connected(now);
        self.shared.metrics.redis_connects.inc(Connection::Subscriber);
        self.shared.health.link_up(now);
        let stream = ctx.add_stream(stream.ready_chunks(MAX_CHUNK));
        self.link = Some(Link { sink, stream });
        info!("subscribed to redis: generation={}", self.generation);
        self.catch_up_and_report(ctx);
    }

    /// The link can be used from now on.
    fn report_up(&mut self) {
        if self.reported < self.generation {
            self.reported = self.generation;
            self.events.do_send(LinkEvent::Up {
                generation: self.generation,
            });
        }
    }

    /// Whether this is the link, and lives.
    fn is_current(&self, generation: u64) -> bool {
        self.generation == generation && self.link.is_some()
    }

    fn link_lost(&mut self, problem: &str, ctx: &mut Context<Self>) {
        let Some(link) = self.link.take() else { return };
        self.shared.has_link.store(false, Ordering::Relaxed);
        ctx.cancel_future(link.stream);
        warn!(
            "redis subscription lost: generation={} problem={problem:?}",
            self.generation
        );
        self.shared.metrics.redis_losses.inc(Connection::Subscriber);
        self.missed.clear();
        self.batches.clear();
        self.demands.fail_all("the link to redis was lost");
        if self.reported == self.generation {
            self.events.do_send(LinkEvent::Down);
        }
        self.dial_again(problem, ctx);
    }

    fn batches(&mut self, verb: Verb, kind: ChannelKind) -> &mut Batches {
        self.batches.entry((verb, kind)).or_default()
    }

    fn send_batches(&mut self, verb: Verb, kind: ChannelKind, ctx: &mut Context<Self>) {
        while let Some(rooms) = self.batches(verb, kind).next() {
            self.command(verb, kind, rooms, ctx);
        }
    }

    /// Sends a batch of rooms and reports what became of it, as long as the link is still the same.
    fn command(&mut self, verb: Verb, kind: ChannelKind, rooms: Vec<RoomName>, ctx: &mut Context<Self>) {
        let Some(link) = &self.link else { return };
        let (mut sink, generation) = (link.sink.clone(), self.generation);
        let channels: Vec<String> = rooms
            .iter()
            .map(|room| self.shared.scripts.channel(kind, room))
            .collect();
        let call = async move {
            let call = async {
                match verb {
                    Verb::Subscribe => sink.subscribe(&channels).await,
                    Verb::Unsubscribe => sink.unsubscribe(&channels).await,
                }
            };
            within(COMMAND_TIMEOUT, "a subscription", call).await
        };
        ctx.spawn(call.into_actor(self).map(move |outcome, actor, ctx| {
            if actor.is_current(generation) {
                actor.batches(verb, kind).under_way -= 1;
                actor.commanded((verb, kind), rooms, outcome, ctx);
                actor.send_batches(verb, kind, ctx);
            }
        }));
    }

    fn commanded(
        &mut self,
        (verb, kind): (Verb, ChannelKind),
        rooms: Vec<RoomName>,
        outcome: RedisResult<()>,
        ctx: &mut Context<Self>,
    ) {
        let generation = self.generation;
        match (outcome, verb) {
            (Ok(()), Verb::Subscribe) => self.events.do_send(LinkEvent::Opened {
                generation,
                kind,
                rooms,
            }),
            (Ok(()), Verb::Unsubscribe) => self.events.do_send(LinkEvent::Closed {
                generation,
                kind,
                rooms,
            }),
            (Err(error), Verb::Subscribe) if is_refusal(&error) => self.refused(kind, rooms, &error, ctx),
            (Err(error), _) => self.link_lost(&error.to_string(), ctx),
        }
    }

    /// Redis refuses a batch as a whole (access rights are checked for all its channels first), so the rooms of a
    /// refused one are asked for one by one.
    fn refused(
        &mut self,
        kind: ChannelKind,
        mut rooms: Vec<RoomName>,
        error: &RedisError,
        ctx: &mut Context<Self>,
    ) {
        if rooms.len() > 1 {
            for room in rooms {
                self.batches(Verb::Subscribe, kind).under_way += 1;
                self.command(Verb::Subscribe, kind, vec![room], ctx);
            }
        } else if let Some(room) = rooms.pop() {
            let reason = error.to_string();
            self.events.do_send(LinkEvent::Refused {
                generation: self.generation,
                kind,
                room,
                reason,
            });
        }
    }

    /// Says on which channels something was dropped, once there is room again for what will be read instead.
    fn tell_missed(&mut self) {
        if !self.missed.is_empty() && !Transit::is_full(&self.shared.metrics) {
            for (kind, rooms) in std::mem::take(&mut self.missed) {
                self.events
                    .do_send(LinkEvent::Missed(kind, rooms.into_iter().collect()));
            }
        }
    }

    fn understand(&mut self, message: &Msg, now: Instant) -> Option<Arrived> {
        let shared = &self.shared;
        let channel = message.get_channel_name();
        if channel == shared.canary_channel {
            // Only what this node has sent proves that messages flow.
            if let Some(time) = travelled(
                message.get_payload_bytes(),
                shared.canary_secret,
                shared.began,
                now,
            ) {
                shared.health.prove(now);
                self.hearing.proven(now);
                shared.metrics.cross_node_latency_seconds.observe(time);
            }
            return None;
        }
        let (kind, room) = shared.scripts.room_of(channel)?;
        let payload = message.get_payload_bytes();
        shared.metrics.redis_payload_bytes.inc_by(payload.len() as u64);
        let arrived = match kind {
            ChannelKind::Messages => {
                payload::decode(&room, payload, shared.max_payload).map(Arrived::Message)
            }
            ChannelKind::Presence => {
                presence::decode(payload).map(|present| Arrived::Present(room.clone(), present))
            }
        };
        match arrived {
            Ok(arrived) => Some(arrived),
            Err(error) => {
                self.drop_payload(room.as_str(), error, now);
                None
            }
        }
    }

    fn drop_payload(&mut self, channel: &str, error: PayloadError, now: Instant) {
        self.shared.metrics.payloads_dropped.inc(error.label());
        if let Some(suppressed) = self.drop_log.pass(now) {
            warn!("payload dropped: room={channel:?} problem=\"{error}\" unlogged={suppressed}");
        }
    }

    /// Hands on what has come, unless the sessions are too far behind.
    fn hand_on(&mut self, arrivals: Vec<Arrival>, presents: Vec<(RoomName, Present)>) {
        if arrivals.is_empty() && presents.is_empty() {
            return;
        }
        let metrics = &self.shared.metrics;
        if Transit::is_full(metrics) {
            let lost = arrivals.iter().filter(|arrival| arrival.claim.is_none()).count();
            metrics.dropped(Dropped::TransitFull, arrivals.len(), lost);
            let of_messages = arrivals.into_iter().map(|arrival| arrival.message.room);
            let of_presence = presents.into_iter().map(|(room, _)| room);
            let mut missed = |kind, rooms: Vec<RoomName>| self.missed.entry(kind).or_default().extend(rooms);
            missed(ChannelKind::Messages, of_messages.collect());
            missed(ChannelKind::Presence, of_presence.collect());
            return;
        }
        self.tell_missed();
        let metrics = &self.shared.metrics;
        if !arrivals.is_empty() {
            let transit = Transit::begin(&arrivals, metrics);
            self.events.do_send(LinkEvent::Messages(arrivals, transit));
        }
        if !presents.is_empty() {
            let bytes = presents.iter().map(|(_, present)| present.cost()).sum();
            let transit = Transit::of_bytes(bytes, metrics);
            self.events.do_send(LinkEvent::Present(presents, transit));
        }
    }
}

async fn open(shared: &Shared) -> RedisResult<PubSub> {
    let mut pubsub = shared.client.get_async_pubsub().await?;
    let answers = shared.answer_channel(&shared.node);
    let channels = [&shared.canary_channel, &shared.control_channel, &answers];
    pubsub.subscribe(&channels[..]).await?;
    Ok(pubsub)
}

/// Whether Redis said no, rather than said nothing.
fn is_refusal(error: &RedisError) -> bool {
    !error.is_io_error()
        && !error.is_connection_dropped()
        && !error.is_unrecoverable_error()
        && error.code().is_some()
}

impl Actor for RedisSubscriber {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let pause = self.backoff.next(Instant::now(), 0.0);
        self.dial_after(pause, ctx);
        ctx.run_interval(MISSED_INTERVAL, |actor, _| actor.tell_missed());
        ctx.run_interval(CANARY_INTERVAL, |actor, ctx| {
            if actor.link.is_some() && actor.shared.health.link_is_dead(Instant::now()) {
                actor.link_lost("redis takes publishes, but none of them arrives", ctx);
            }
        });
    }
}

impl StreamHandler<Vec<Msg>> for RedisSubscriber {
    fn handle(&mut self, chunk: Vec<Msg>, _: &mut Self::Context) {
        let now = Instant::now();
        let (mut arrivals, mut presents) = (Vec::new(), Vec::new());
        for message in &chunk {
            match self.understand(message, now) {
                Some(Arrived::Message(arrival)) => arrivals.push(arrival),
                Some(Arrived::Present(room, present)) => presents.push((room, present)),
                None => {}
            }
        }
        self.hand_on(arrivals, presents);
        // Behind them: what came before a room's history was deleted belongs before the gap.
        for message in &chunk {
            self.listen(message, now);
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        // The default stops the actor.
        self.link_lost("the connection was closed", ctx);
    }
}

impl Handler<LinkCommand> for RedisSubscriber {
    type Result = ();

    fn handle(&mut self, command: LinkCommand, ctx: &mut Self::Context) {
        let (verb, generation, kind, rooms) = match command {
            LinkCommand::Subscribe {
                generation,
                kind,
                rooms,
            } => (Verb::Subscribe, generation, kind, rooms),
            LinkCommand::Unsubscribe {
                generation,
                kind,
                rooms,
            } => (Verb::Unsubscribe, generation, kind, rooms),
            LinkCommand::Forget { room, reply } => {
                // Dropped, it says so to whoever waits.
                let _ = self.queues.errands.send(Errand::forget(room, reply));
                return;
            }
            LinkCommand::Demand { demand, reply } => {
                self.demand(demand, reply, ctx);
                return;
            }
            #[cfg(test)]
            LinkCommand::Panic => panic!("on purpose"),
            LinkCommand::Read(requests) => {
                for request in requests {
                    // Fails when the reader has died, and the node is ending for it.
                    let _ = self.queues.reads.send(request);
                }
                return;
            }
            LinkCommand::Presence(orders) => {
                let _ = self.queues.orders.send(orders);
                return;
            }
        };
        if !self.is_current(generation) {
            debug!(
                "command for another link dropped: generation={generation} current={}",
                self.generation
            );
            return;
        }
        self.batches(verb, kind).waiting.extend(rooms);
        self.send_batches(verb, kind, ctx);
    }
}
