//! What the frames of the peer are: texts, which are commands, and all the others.

use actix_http::ws::{CloseReason, Item, Message};

use super::{Ctx, WsSession};
use crate::metrics::Eviction;
use crate::protocol::close::CloseCode;
use crate::protocol::error::ErrorCode;
use crate::rooms::vitals::Ending;
use crate::session::joiner::Joined;
use crate::session::reply::Refusal;
use crate::session::seat::Service;

impl WsSession {
    pub(super) fn received(&mut self, message: Message, ctx: &mut Ctx) {
        if self.ended {
            // What was behind a token that ended the session, for one, must not begin it.
            return;
        }
        match message {
            Message::Text(text) => self.received_text(&text, ctx),
            Message::Binary(bytes) => self.received_binary(&bytes),
            Message::Continuation(item) => self.received_fragment(item, ctx),
            Message::Ping(payload) => {
                if !self.ended {
                    self.outbox.pong(&payload);
                }
            }
            Message::Close(reason) => {
                let code = reason.as_ref().map(|reason| reason.code.into());
                // The peer's code is returned, its words are not (RFC 6455 section 5.5.1).
                self.close(
                    reason.map(|reason| CloseReason {
                        code: reason.code,
                        description: None,
                    }),
                    Ending::Peer(code),
                    ctx,
                );
            }
            Message::Pong(_) | Message::Nop => {}
        }
    }

    fn received_binary(&self, bytes: &[u8]) {
        if self.seat.service == Service::Echo {
            if !self.ended {
                self.outbox.binary(bytes);
            }
            return;
        }
        let message = "commands are JSON in text frames; a binary frame was received".to_owned();
        self.fail(
            None,
            &Refusal {
                code: ErrorCode::BadJson,
                message,
                outcome: None,
            },
        );
    }

    fn received_fragment(&mut self, item: Item, ctx: &mut Ctx) {
        let outcome = match item {
            Item::FirstText(bytes) => self.joiner.begin_text(&bytes),
            Item::FirstBinary(bytes) => {
                self.joiner.begin_binary(&bytes);
                Ok(())
            }
            Item::Continue(bytes) => self.joiner.add(&bytes),
            Item::Last(bytes) => self.joiner.end(&bytes).map(|message| match message {
                Joined::Text(text) => self.received_text(&text, ctx),
                Joined::Binary(bytes) => self.received_binary(&bytes),
            }),
        };
        if let Err(code) = outcome {
            self.violated(code, ctx);
        }
    }

    pub(super) fn violated(&mut self, code: CloseCode, ctx: &mut Ctx) {
        if self.vitals.count_eviction() {
            self.seat.metrics.evicted(Eviction::Violation);
        }
        self.close_with(code, ctx);
    }
}
