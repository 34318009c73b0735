//! How a session begins, what it does with tokens, and that it ends when its time is over.

use std::time::{Duration, Instant, SystemTime};

use actix::prelude::AsyncContext;

use super::{Ctx, WsSession};
use crate::protocol::Dialect;
use crate::protocol::client::{RequestId, Token};
use crate::protocol::close::CloseCode;
use crate::protocol::server::ServerFrame;
use crate::rooms::Narrow;
use crate::session::standing::Shown;

/// How long the clock of the world is left out of sight: it may be set, and a timer must not be asked for too long a time.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

impl WsSession {
    /// Greets the peer, unless it has to show a token first.
    pub(super) fn begin(&mut self, ctx: &mut Ctx) {
        if !self.standing.is_awaited() {
            self.welcome();
        }
        self.watch_the_clock(ctx);
    }

    fn welcome(&self) {
        if self.seat.dialect == Dialect::V1 {
            let heartbeat = self.seat.limits.heartbeat.as_secs();
            let welcome = ServerFrame::Welcome {
                session: &self.name,
                node: &self.seat.node,
                heartbeat,
            };
            self.send(&welcome.encode());
        }
    }

    /// The peer shows a token.
    pub(super) fn show(&mut self, id: Option<&RequestId>, token: &Token, ctx: &mut Ctx) {
        let (grant, begins) = match self.standing.show(token, SystemTime::now()) {
            Shown::Refused {
                refusal,
                problem,
                is_final,
            } => {
                if let Some(problem) = problem {
                    self.seat.metrics.tokens_refused.inc(problem);
                }
                self.fail(id, &refusal);
                if is_final {
                    self.close_with(CloseCode::Policy, ctx);
                }
                return;
            }
            Shown::Begins(grant) => (grant, true),
            Shown::Renewed(grant) => (grant, false),
        };
        let expires = grant.expires;
        self.send(&ServerFrame::Authorized { id, expires }.encode());
        if begins {
            if let Some(user) = grant.user {
                // Nobody had a token before, and so nobody a name.
                let _ = self.seat.user.set(user);
            }
            self.welcome();
            if let Some(closes_at) = self.bye.take() {
                self.say_bye(closes_at.saturating_duration_since(Instant::now()));
            }
        } else {
            self.seat.hub.registry.do_send(Narrow {
                session: self.id,
                rights: grant.rights,
            });
        }
        self.watch_the_clock(ctx);
    }

    /// Ends the session when its time is over. Its worker knows that time, too: of a session that is frozen no timer runs.
    fn watch_the_clock(&mut self, ctx: &mut Ctx) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let now = Instant::now();
        let left = self.standing.time_left(now, SystemTime::now());
        let code = if self.standing.is_awaited() {
            CloseCode::Policy
        } else {
            CloseCode::Expired
        };
        self.vitals
            .end_at(left.and_then(|left| now.checked_add(left)), code);
        match left {
            None => {}
            Some(Duration::ZERO) => self.close_with(code, ctx),
            Some(left) => {
                let look_again = |actor: &mut Self, ctx: &mut Ctx| {
                    actor.timer = None;
                    actor.watch_the_clock(ctx);
                };
                self.timer = Some(ctx.run_later(left.min(LONGEST_WAIT), look_again));
            }
        }
    }
}
