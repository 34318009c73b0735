//! Demands over the link: made of all nodes, heard of others, and answered.

use std::time::{Duration, Instant};

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use redis::Msg;
use tokio::sync::oneshot;

use super::RedisSubscriber;
use crate::broker::control::{Demand, Done};
use crate::broker::redis::control::{Control, MetReply};
use crate::broker::redis::reader::Errand;
use crate::broker::{ChannelKind, LinkEvent};

/// How long the nodes may take to meet a demand.
const PATIENCE: Duration = Duration::from_millis(2_700);

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
        let control = Control::Demand {
            id,
            from: self.shared.node.to_string(),
            demand,
        };
        let channel = self.shared.control_channel.clone();
        // Fails when the reader has died, and the node is ending for it.
        let _ = self.queues.errands.send(Errand::tell(channel, control, heard));
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
            (Ok(Control::Demand { id, from, demand }), false) => {
                let (errands, channel) = (self.queues.errands.clone(), shared.answer_channel(&from));
                let own = shared.node.to_string();
                let done = Done::new(move |sessions| {
                    let (heard, _) = oneshot::channel();
                    let control = Control::Met {
                        id,
                        from: own,
                        sessions,
                    };
                    let _ = errands.send(Errand::tell(channel, control, heard));
                });
                self.events.do_send(LinkEvent::Demanded(demand, done));
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
}
