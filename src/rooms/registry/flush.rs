//! Sends the link what has gathered while the mailbox was drained: for many rooms together.

use actix::prelude::{AsyncContext, Context, Handler, Message};

use super::RoomRegistry;
use crate::broker::{ChannelKind, LinkCommand};
use crate::rooms::ledger::Commands;

/// Send the link what the ledger wants of it.
#[derive(Message)]
#[rtype(result = "()")]
struct Flush;

impl RoomRegistry {
    pub(super) fn request_flush(&mut self, ctx: &mut Context<Self>) {
        let is_due = self.ledger.is_due()
            || self.presence_ledger.is_due()
            || self.presence.has_orders()
            || !self.reads.is_empty();
        if is_due && !self.flush_requested {
            self.flush_requested = true;
            ctx.notify(Flush);
        }
    }
}

impl Handler<Flush> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, _: Flush, _: &mut Self::Context) {
        self.flush_requested = false;
        let Some(link) = &self.link else { return };
        let reads = std::mem::take(&mut self.reads);
        let orders = self.presence.take_orders();
        for (kind, commands) in [
            (ChannelKind::Messages, self.ledger.take_commands()),
            (ChannelKind::Presence, self.presence_ledger.take_commands()),
        ] {
            let Commands {
                generation,
                subscribe,
                unsubscribe,
            } = commands;
            if !subscribe.is_empty() {
                link.do_send(LinkCommand::Subscribe {
                    generation,
                    kind,
                    rooms: subscribe,
                });
            }
            if !unsubscribe.is_empty() {
                link.do_send(LinkCommand::Unsubscribe {
                    generation,
                    kind,
                    rooms: unsubscribe,
                });
            }
        }
        if !reads.is_empty() {
            link.do_send(LinkCommand::Read(reads));
        }
        if !orders.is_empty() {
            link.do_send(LinkCommand::Presence(orders));
        }
    }
}
