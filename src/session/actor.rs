//! The session actor.
//!
//! - It speaks one dialect, fixed at the handshake, and sends nothing after its close frame.
//! - Commands go through `Lanes`; answers and messages come back as [`Notice`]s through the worker's queue, in the
//!   registry's order.
//! - Every error of the codec ends the session: bytes that the codec refuses are never consumed, so going on would
//!   spin for ever.
//! - When its node stops it takes no more commands, and ends when those that it has taken are answered.
//! - Where tokens are checked it does nothing for a peer before that has shown one, and ends when the token does.
//! - Whatever ends it, its worker and the registry hear of it when its stream is dropped.
//!
//! `incoming` is what it does with frames that are no commands, `access` with tokens, and `requests` is what it asks of the
//! registry and the broker.

mod access;
mod incoming;
mod requests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::SpawnHandle;
use actix::prelude::{Actor, ActorContext, AsyncContext, Handler, StreamHandler};
use actix_http::ws::Codec;
use actix_web::error::PayloadError;
use actix_web_actors::ws::{self, CloseReason, WebsocketContext};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::Stream;

use super::inbound::{Inbound, Intake};
use super::joiner::Joiner;
use super::lanes::{Lanes, Step, Work};
use super::outbound::{Attachment, Outbound};
use super::outbox::Outbox;
use super::rate::RateLimit;
use super::replay::{Next, Replays};
use super::reply::{Refusal, Reply};
use super::seat::{Seat, Service};
use super::standing::Standing;
use crate::protocol::client::{ClientFrame, Command, RequestId};
use crate::protocol::close::CloseCode;
use crate::protocol::error::ErrorCode;
use crate::protocol::frame::TextFrame;
use crate::protocol::server::ServerFrame;
use crate::protocol::{Dialect, RoomName};
use crate::rooms::timeline::{Admission, Part};
use crate::rooms::vitals::{Ending, Vitals};
use crate::rooms::worker::Attached;
use crate::rooms::{Abort, Join, Leave, NotJoined, Notice, Pull, RoomEvent, SessionId, Ticket, backlog_cost};

/// How long a SUBSCRIBE may keep a publish behind it waiting while the broker is known to be away, …
const HURRY: Duration = Duration::from_millis(750);

/// … and while it is there.
const HURRY_WITH_LINK: Duration = Duration::from_millis(1_500);

/// How long a session that its node wants to close waits for the answers to its commands.
const RETIRE_PATIENCE: Duration = Duration::from_secs(3);

/// One WebSocket.
pub struct WsSession {
    id: SessionId,
    /// Its name on the wire, unique over all nodes.
    name: Arc<str>,
    seat: Seat,
    vitals: Rc<Vitals>,
    outbox: Rc<Outbox>,
    intake: Rc<Intake>,
    joiner: Joiner,
    lanes: Lanes,
    replays: Replays,
    rate: Option<RateLimit>,
    standing: Standing,
    /// Looks whether the time of the session is over.
    timer: Option<SpawnHandle>,
    /// When the node will close it, as long as the peer cannot be told.
    bye: Option<Instant>,
    /// The node stops, and nothing more is taken.
    retiring: bool,
    /// The close frame is written, or the connection is gone.
    ended: bool,
}

type Ctx = WebsocketContext<WsSession>;

impl WsSession {
    /// Starts a session on a connection whose handshake is done. `body` is what the peer sends; what is returned is to
    /// be sent to it.
    pub fn start<S>(mut seat: Seat, body: S) -> impl Stream<Item = Result<Bytes, actix_web::Error>> + 'static
    where
        S: Stream<Item = Result<Bytes, PayloadError>> + Unpin + 'static,
    {
        let now = Instant::now();
        let id = seat.worker.allot();
        let limits = &seat.limits;
        let max_frame = limits.max_frame;
        let vitals = Rc::new(Vitals::new(limits.max_backlog, limits.heartbeat, now));
        let outbox = Rc::new(Outbox::default());
        let metrics = seat.metrics.clone();
        let intake = Rc::new(Intake::new(metrics.commands_under_way_bytes.clone()));
        let worker = seat.worker.clone();
        let session = Self {
            id,
            name: format!("{}-{id}", seat.node).into(),
            rate: limits.rate.map(|rate| RateLimit::new(rate, now)),
            standing: Standing::new(seat.verifier.clone(), seat.grant.take(), now),
            timer: None,
            vitals: vitals.clone(),
            outbox: outbox.clone(),
            intake: intake.clone(),
            joiner: Joiner::new(seat.service == Service::Echo),
            lanes: Lanes::default(),
            replays: Replays::default(),
            bye: None,
            retiring: false,
            ended: false,
            seat,
        };
        let codec = Codec::new().max_size(usize::try_from(max_frame).unwrap_or(usize::MAX));
        let inbound = Inbound::new(body, max_frame, intake);
        let attachment = Attachment::new(move || worker.detach(id));
        let panics = metrics.session_panics.clone();
        // The panic itself is logged by the hook, and the session's end like every other.
        let on_panic = move || {
            panics.inc();
        };
        Outbound::new(
            WebsocketContext::with_codec(session, inbound, codec),
            outbox,
            vitals,
            Box::new(on_panic),
            attachment,
        )
    }

    fn send(&self, text: &str) {
        if !self.is_mute() {
            self.outbox.text(&TextFrame::new(text));
        }
    }

    /// Nothing is sent to the peer any more.
    fn is_mute(&self) -> bool {
        self.ended || self.vitals.is_evicted()
    }

    /// The last frame, and then nothing more.
    fn close(&mut self, reason: Option<CloseReason>, ending: Ending, ctx: &mut Ctx) {
        if self.ended {
            return;
        }
        self.vitals.end(ending);
        self.outbox.close(reason);
        self.end(ctx);
    }

    fn end(&mut self, ctx: &mut Ctx) {
        self.ended = true;
        self.vitals.close(Instant::now());
        ctx.stop();
    }

    fn close_with(&mut self, code: CloseCode, ctx: &mut Ctx) {
        self.close(Some(code.into()), Ending::Server(code), ctx);
    }

    fn fail(&self, id: Option<&RequestId>, refusal: &Refusal) {
        if self.is_mute() {
            return;
        }
        self.seat.metrics.refused(refusal.code.as_str());
        // The plain dialect knows no ids.
        let id = id.filter(|_| self.seat.dialect == Dialect::V1);
        let Refusal {
            code,
            message,
            outcome,
        } = refusal;
        let error = ServerFrame::Error {
            id,
            code: *code,
            message,
            outcome: *outcome,
        };
        self.send(&error.encode());
    }

    fn received_text(&mut self, text: &ByteString, ctx: &mut Ctx) {
        self.seat.metrics.frames_received.inc();
        self.seat.metrics.received_bytes.inc_by(text.len() as u64);
        if self.seat.service == Service::Echo {
            self.send(text);
            return;
        }
        let allowed = self.rate.as_mut().is_none_or(|rate| rate.take(Instant::now()));
        let decoded = ClientFrame::decode(text, self.seat.dialect, self.seat.limits.max_message);
        let (id, room, work) = match self.standing.admit(decoded) {
            Ok(ClientFrame { id, command }) => match command {
                Command::Subscribe {
                    room,
                    replay,
                    presence,
                } => (id, Some(room), Some(Work::Join(replay, presence))),
                Command::Unsubscribe { room } => (id, Some(room), Some(Work::Leave)),
                Command::Publish { room, content, key } => {
                    (id, Some(room), Some(Work::Publish(content, key)))
                }
                Command::Members { room } => (id, Some(room), Some(Work::Members)),
                Command::Authenticate { token } if allowed => return self.show(id.as_ref(), &token, ctx),
                Command::Authenticate { .. } => (id, None, None),
                Command::Ping => (id, None, None),
            },
            Err(error) => {
                let refusal = Refusal {
                    code: error.code,
                    message: error.message,
                    outcome: None,
                };
                (error.id, error.room, Some(Work::Refuse(refusal)))
            }
        };
        let work = if allowed {
            work
        } else {
            Some(Work::Refuse(Refusal::too_fast()))
        };
        match (room, work) {
            (Some(room), Some(work)) => self.push(&room, id, work, ctx),
            (None, Some(Work::Refuse(refusal))) => self.fail(id.as_ref(), &refusal),
            (_, _) => self.send(&ServerFrame::Pong { id: id.as_ref() }.encode()),
        }
    }

    fn push(&mut self, room: &RoomName, id: Option<RequestId>, work: Work, ctx: &mut Ctx) {
        let (steps, cost) = self.lanes.push(room, id, work, Instant::now());
        self.intake.hold(cost);
        self.carry_out(steps, ctx);
    }

    fn answered(&mut self, ticket: Ticket, reply: Reply, ctx: &mut Ctx) {
        let steps = self.lanes.answer(ticket, reply);
        self.carry_out(steps, ctx);
    }

    fn carry_out(&mut self, steps: Vec<Step>, ctx: &mut Ctx) {
        let (session, dialect) = (self.id, self.seat.dialect);
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            if let Some((ticket, refusal)) = self.standing.forbids(&step) {
                steps.extend(self.lanes.answer(ticket, Reply::Error(refusal)));
                continue;
            }
            match step {
                Step::Join {
                    ticket,
                    room,
                    replay,
                    presence,
                } => self.seat.hub.registry.do_send(Join {
                    session,
                    room,
                    ticket,
                    dialect,
                    replay,
                    presence: presence.map(|listed| self.listing(listed)),
                }),
                Step::Leave { ticket, room } => self.seat.hub.registry.do_send(Leave {
                    session,
                    room,
                    ticket,
                }),
                Step::Cancel { ticket, room } => {
                    self.seat.hub.registry.do_send(Abort {
                        session,
                        room,
                        ticket,
                        reason: NotJoined::Cancelled,
                        only_without_link: false,
                    });
                }
                Step::Hurry { ticket, room, since } => {
                    for (patience, only_without_link) in [(HURRY, true), (HURRY_WITH_LINK, false)] {
                        let reason = "the broker has not confirmed the subscription in time".to_owned();
                        let abort = Abort {
                            session,
                            room: room.clone(),
                            ticket,
                            reason: NotJoined::Unavailable(reason),
                            only_without_link,
                        };
                        ctx.run_later(patience.saturating_sub(since.elapsed()), |actor, _| {
                            actor.seat.hub.registry.do_send(abort);
                        });
                    }
                }
                Step::Publish {
                    ticket,
                    room,
                    content,
                    key,
                    since,
                } => self.publish(ticket, room, content, key, since),
                Step::Members { ticket, room } => self.list_members(ticket, room),
                Step::Reply {
                    room,
                    id,
                    reply,
                    cost,
                } => {
                    self.intake.release(cost);
                    self.reply(&room, id.as_ref(), reply, ctx);
                }
            }
        }
        if self.retiring && self.lanes.is_empty() && self.replays.is_empty() {
            self.close_with(CloseCode::Restarting, ctx);
        }
    }

    /// Ends the session in an orderly way: what it has asked for is answered first, and what is being replayed is told.
    fn retire(&mut self, ctx: &mut Ctx) {
        self.retiring = true;
        self.intake.shut();
        let steps = self.lanes.hurry_all(Instant::now());
        self.carry_out(steps, ctx);
        ctx.run_later(RETIRE_PATIENCE, |actor, ctx| {
            actor.close_with(CloseCode::Restarting, ctx);
        });
    }

    fn reply(&mut self, room: &RoomName, id: Option<&RequestId>, reply: Reply, ctx: &mut Ctx) {
        let is_plain = self.seat.dialect == Dialect::Plain;
        match reply {
            Reply::Error(refusal) => {
                // A plain session's memberships are not acknowledged, and neither is their end.
                if !(is_plain && refusal.code == ErrorCode::Cancelled) {
                    self.fail(id, &refusal);
                }
            }
            Reply::Unsubscribed => self.unsubscribed(room, id),
            _ if is_plain => {}
            Reply::Deferred => self.subscribed(room, id, None, Admission::again(None), ctx),
            Reply::Subscribed(ticket, admission) => self.subscribed(room, id, Some(ticket), *admission, ctx),
            Reply::Sent(position) => {
                let position = position.as_ref();
                self.send(&ServerFrame::Sent { id, room, position }.encode());
            }
            Reply::Members(list) => {
                let (count, members) = (list.count, &list.members);
                let frame = ServerFrame::Members {
                    id,
                    room,
                    count,
                    members,
                };
                self.send(&frame.encode());
            }
        }
    }

    fn subscribed(
        &mut self,
        room: &RoomName,
        id: Option<&RequestId>,
        ticket: Option<Ticket>,
        admission: Admission,
        ctx: &mut Ctx,
    ) {
        let Admission {
            position,
            recovered,
            replay,
        } = admission;
        // Who joins again in the middle of a replay is there, and not yet where the room is.
        let told = self.replays.position(room).or_else(|| position.clone());
        let frame = ServerFrame::Subscribed {
            id,
            room,
            position: told.as_ref(),
            recovered,
        };
        self.send(&frame.encode());
        self.send_events(replay.events.iter().map(Arc::as_ref));
        if let (Some(ticket), Some(after), Some(until)) = (ticket, replay.next, position) {
            let next = self.replays.begin(ticket, room, after, until);
            self.go_on(ticket, next, ctx);
        }
    }

    fn unsubscribed(&mut self, room: &RoomName, id: Option<&RequestId>) {
        for unsaid in self.replays.end(room) {
            self.vitals.unqueue(backlog_cost(&unsaid, self.seat.dialect));
        }
        if self.seat.dialect == Dialect::V1 {
            self.send(&ServerFrame::Unsubscribed { id, room }.encode());
        }
    }

    fn replayed(&mut self, ticket: Ticket, part: &Part, ctx: &mut Ctx) {
        if self.replays.has(ticket) {
            self.send_events(part.events.iter().map(Arc::as_ref));
            if let Some(next) = self.replays.advance(ticket, part.next) {
                self.go_on(ticket, next, ctx);
            }
        }
    }

    fn go_on(&mut self, ticket: Ticket, next: Next, ctx: &mut Ctx) {
        match next {
            // This runs when the peer has taken what it was sent before, so it sets the pace of its replay.
            Next::Pull { room, after, until } => self.seat.hub.registry.do_send(Pull {
                session: self.id,
                room,
                ticket,
                after,
                until,
            }),
            Next::Live(waited) => {
                for events in waited {
                    self.vitals.unqueue(backlog_cost(&events, self.seat.dialect));
                    self.room_events(&events);
                }
                self.carry_out(Vec::new(), ctx);
            }
        }
    }

    fn room_batches(&mut self, batches: &[Arc<[RoomEvent]>]) {
        let mut bytes = 0;
        for events in batches {
            let cost = backlog_cost(events, self.seat.dialect);
            bytes += cost;
            if self.replays.hold(events) {
                // It goes on waiting, and counts for itself from now on. Whether it is too much is seen with what comes next.
                let _ = self.vitals.queue(cost);
            } else {
                self.room_events(events);
            }
        }
        self.vitals.unqueue(bytes);
    }

    fn room_events(&self, events: &[RoomEvent]) {
        self.send_events(events.iter().filter(|event| !event.is_about(&self.name)));
    }

    fn send_events<'a>(&self, events: impl Iterator<Item = &'a RoomEvent>) {
        if self.is_mute() {
            return;
        }
        for frame in events.filter_map(|event| event.frame(self.seat.dialect)) {
            self.outbox.text(frame);
        }
    }

    fn say_bye(&self, closes_in: Duration) {
        if self.seat.dialect == Dialect::V1 {
            let closes_in_ms = u64::try_from(closes_in.as_millis()).unwrap_or(u64::MAX);
            self.send(&ServerFrame::Bye { closes_in_ms }.encode());
        }
    }
}

impl Actor for WsSession {
    type Context = Ctx;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.seat.worker.attach(
            self.id,
            Attached {
                mailbox: ctx.address().recipient(),
                dialect: self.seat.dialect,
                peer: self.seat.peer,
                since: Instant::now(),
                user: self.seat.user.clone(),
                vitals: self.vitals.clone(),
                cut: self.seat.cut.clone(),
            },
        );
        if let Some(code) = self.seat.turned_away {
            self.seat.metrics.sessions_turned_away.inc();
            self.close_with(code, ctx);
        } else {
            self.begin(ctx);
        }
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for WsSession {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        self.vitals.heard();
        match message {
            Ok(message) => self.received(message, ctx),
            Err(ws::ProtocolError::Io(_))
                if self.intake.violation().is_none() && !self.intake.is_frame_pending() =>
            {
                // The connection is gone; there is nobody to say goodbye to.
                self.end(ctx);
            }
            // What the framing lets through and the codec does not: a text that is not UTF-8.
            Err(_) => self.violated(self.intake.violation().unwrap_or(CloseCode::InvalidText), ctx),
        }
        self.intake.handled();
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.end(ctx);
    }
}

impl Handler<Notice> for WsSession {
    type Result = ();

    fn handle(&mut self, notice: Notice, ctx: &mut Self::Context) {
        let notice = match notice {
            Notice::Room(batches) => return self.room_batches(&batches),
            other => other,
        };
        self.vitals.unqueue(notice.cost(self.seat.dialect));
        match notice {
            Notice::Joined(ticket, admission) => {
                self.answered(ticket, Reply::Subscribed(ticket, admission), ctx);
            }
            Notice::Replay(ticket, part) => self.replayed(ticket, &part, ctx),
            Notice::Deferred(ticket) => self.answered(ticket, Reply::Deferred, ctx),
            Notice::NotJoined(ticket, reason) => self.answered(ticket, Reply::not_joined(reason), ctx),
            Notice::Removed(room) => self.unsubscribed(&room, None),
            Notice::Left(ticket) => self.answered(ticket, Reply::Unsubscribed, ctx),
            Notice::Published(ticket, outcome) => self.answered(ticket, Reply::published(outcome), ctx),
            Notice::Members(ticket, members) => self.answered(ticket, Reply::members(members), ctx),
            Notice::Room(_) => {}
            Notice::Ping if self.ended => {}
            Notice::Ping => self.outbox.ping(),
            // Nothing comes before `welcome`.
            Notice::Bye(closes_in) if self.standing.is_awaited() => {
                self.bye = Some(Instant::now() + closes_in);
            }
            Notice::Bye(closes_in) => self.say_bye(closes_in),
            Notice::Retire => self.retire(ctx),
            Notice::Close(code) => self.close_with(code, ctx),
            #[cfg(test)]
            Notice::Panic => panic!("on purpose"),
        }
    }
}
