//! Demands over the link: made of all nodes, heard of others, answered, and caught up with after a time without a link.

use std::time::{Duration, Instant};

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use log::{error, info, warn};
use redis::Msg;
use tokio::sync::{mpsc, oneshot};

use super::RedisSubscriber;
use crate::broker::control::{Demand, Done};
use crate::broker::history::ReadError;
use crate::broker::redis::control::{Asked, Control, MetReply};
use crate::broker::redis::reader::{Errand, Kept};
use crate::broker::{ChannelKind, LinkEvent};

/// How long the nodes may take to meet a demand.
const PATIENCE: Duration = Duration::from_millis(2_700);

/// How long messages wait at most, after the link is back, for what was demanded meanwhile.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(2);

/// How long it takes until what was missed is asked for again.
const CATCH_UP_AGAIN: Duration = Duration::from_secs(1);

/// … where Redis has refused to tell it.
const CATCH_UP_REFUSED: Duration = Duration::from_secs(30);

impl RedisSubscriber {
    /// Makes a demand of all nodes.
    pub(super) fn demand(&mut self, demand: Demand, reply: MetReply, ctx: &mut Context<Self>) {
        if self.link.is_none() {
            // Fails when nobody waits any more.
            let _ = reply.send(Err("there is no link to redis".to_owned()));
            return;
        }
        let id = self.demands.open(reply);
        let (heard, hears) = oneshot::channel();
        let control = Control::Demand(Asked {
            id,
            from: self.shared.node.to_string(),
            demand,
            at: None,
        });
        self.send(Errand::demand(control, heard));
        ctx.spawn(hears.into_actor(self).map(move |heard, actor, _| match heard {
            Ok(Ok(count)) => actor.demands.heard(id, count),
            Ok(Err(problem)) => actor.demands.fail(id, problem),
            Err(_) => actor.demands.fail(id, "the node is stopping".to_owned()),
        }));
        ctx.run_later(PATIENCE, move |actor, _| actor.demands.give_up(id));
    }

    /// Takes in what came on an internal channel, if this did.
    pub(super) fn listen(&mut self, message: &Msg, now: Instant) {
        let channel = message.get_channel_name();
        let shared = &self.shared;
        if !channel.starts_with(&shared.control_channel) {
            return;
        }
        let is_answer = channel.len() > shared.control_channel.len();
        match (Control::decode(message.get_payload_bytes()), is_answer) {
            (Ok(Control::Demand(asked)), false) => {
                if let Some(place) = asked.at {
                    self.hearing.heard(place);
                }
                self.carry_out(asked);
            }
            (Ok(Control::Met { id, from, sessions }), true) => self.demands.met(id, from, sessions),
            (Ok(Control::Forgotten { room }), false) => {
                self.events
                    .do_send(LinkEvent::Missed(ChannelKind::Messages, vec![room]));
            }
            (Ok(_), _) => self.drop_payload(channel, super::PayloadError::Malformed, now),
            (Err(error), _) => self.drop_payload(channel, error, now),
        }
    }

    /// Has a demand met by the sessions here, and says so.
    fn carry_out(&self, Asked { id, from, demand, .. }: Asked) {
        let (errands, channel) = (self.queues.errands.clone(), self.shared.answer_channel(&from));
        let own = self.shared.node.to_string();
        let done = Done::new(move |sessions| {
            let control = Control::Met {
                id,
                from: own,
                sessions,
            };
            // Fails when the reader has died, and the node is ending for it.
            let _ = errands.send(Errand::tell(channel, control));
        });
        self.events.do_send(LinkEvent::Demanded {
            demand,
            before: None,
            done,
        });
    }

    fn send(&self, errand: Errand) {
        // Fails when the reader has died, and the node is ending for it.
        let _ = self.queues.errands.send(errand);
    }

    /// Carries out what was missed while there was no link, and then reports the link; in time also without that, because
    /// messages wait for it.
    pub(super) fn catch_up_and_report(&mut self, ctx: &mut Context<Self>) {
        self.hearing.link_up();
        self.catch_up(ctx);
        let generation = self.generation;
        ctx.run_later(CATCH_UP_PATIENCE, move |actor, _| {
            if actor.is_current(generation) {
                actor.report_up();
            }
        });
    }

    fn catch_up(&self, ctx: &mut Context<Self>) {
        let (reply, kept) = oneshot::channel();
        self.send(Errand::missed(self.hearing.through(), reply));
        let generation = self.generation;
        ctx.spawn(kept.into_actor(self).map(move |kept, actor, ctx| {
            // Without an answer the node is stopping.
            if let (Ok(kept), true) = (kept, actor.is_current(generation)) {
                actor.missed(kept, ctx);
            }
        }));
    }

    fn catch_up_after(&self, pause: Duration, ctx: &mut Context<Self>) {
        let generation = self.generation;
        ctx.run_later(pause, move |actor, ctx| {
            if actor.is_current(generation) {
                actor.catch_up(ctx);
            }
        });
    }

    fn missed(&mut self, kept: Result<Kept, ReadError>, ctx: &mut Context<Self>) {
        let generation = self.generation;
        let (missed, goes_on) = match kept {
            Ok(Kept { page, is_last }) => self.hearing.read(page, is_last),
            Err(ReadError::Away(problem)) => {
                warn!("what was demanded without a link is not known yet: problem={problem:?}");
                self.catch_up_after(CATCH_UP_AGAIN, ctx);
                return;
            }
            Err(ReadError::Refused(problem)) => {
                error!("what was demanded without a link cannot be read: problem={problem:?}");
                self.report_up();
                self.catch_up_after(CATCH_UP_REFUSED, ctx);
                return;
            }
        };
        // Whoever asked was told of the nodes with a link, and waits for no answer of this one.
        let (held, mut all_dropped) = mpsc::channel::<()>(1);
        let mut count = 0_usize;
        for missed in missed.into_iter().flatten() {
            // No session is older than the process.
            let before = missed
                .made
                .filter(|made| *made > self.shared.began && self.hearing.may_be_news(*made));
            if before.is_some() {
                count += 1;
                let held = held.clone();
                self.events.do_send(LinkEvent::Demanded {
                    demand: missed.demand,
                    before,
                    done: Done::new(move |_| drop(held)),
                });
            }
        }
        drop(held);
        if count > 0 {
            info!("carrying out what was demanded without a link: demands={count}");
        }
        let done = async move { all_dropped.recv().await };
        ctx.spawn(done.into_actor(self).map(move |_, actor, ctx| {
            if !actor.is_current(generation) {
                return;
            }
            if goes_on {
                actor.catch_up(ctx);
            } else {
                actor.report_up();
            }
        }));
    }
}
