//! The singleton that owns membership and the broker's link.
//!
//! - A handler changes the table, informs the ledger and tells those concerned; it awaits nothing. What the ledger
//!   wants of the link is sent once the mailbox is drained, in batches.
//! - A session is told that it is a member only when the room is live and its timeline current, and before anything of
//!   the room; a message is delivered only while the room is live.
//! - What a timeline wants to read is sent once the mailbox is drained, for all rooms together: after a link loss that
//!   is one round trip for many rooms.
//! - It runs on a thread of its own, with the link: a long backlog delays no session's I/O.
//! - The node ends with it.
//!
//! `commands` is what it does for sessions, `past` with the rooms' timelines, `presence` with who is listed; `flush` sends what has
//! gathered, `count` is what it counts; [`queries`] are the questions of the HTTP API, and `demands` what nodes have each other do
//! to sessions.

mod commands;
mod count;
pub(super) mod demands;
mod flush;
mod past;
mod presence;
pub mod queries;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use log::warn;

use self::demands::Demands;
use self::past::{Pacing, RENEWAL_INTERVAL};
use self::presence::Listings;
use self::queries::Questions;
use super::ledger::Ledger;
use super::lists::AllLists;
use super::presence::Presence;
use super::table::{LeaveOutcome, RoomTable};
use super::timeline::Timeline;
use super::worker::{Dispatch, DispatchSender, Pace};
use super::{NotJoined, Notice, Pull, RoomEvent, SessionId, Ticket, WorkerId};
use crate::broker::history::{Arrival, ReadRequest};
use crate::broker::{ChannelKind, LinkCommand, LinkEvent, Transit};
use crate::config::Retention;
use crate::lifeline::Lifeline;
use crate::metrics::Metrics;
use crate::protocol::{Dialect, RoomName};
use crate::throttle::Throttle;

/// How long a `roomcast.v1` session waits for the broker to confirm.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// How often overdue joins are looked for.
const TICK: Duration = Duration::from_millis(100);

/// Joins that may wait before the memory for them is given back.
const DEADLINES_KEPT: usize = 1_024;

/// Bytes of text in one batch of a room's messages, as far as whole messages allow: workers give their thread back
/// between batches.
const MAX_EVENTS_BYTES: usize = 64 * 1024;

/// Bytes of messages that all rooms together may hold back while something is read.
const MAX_HELD_BYTES: usize = 32 * 1024 * 1024;

/// The actor. See the module.
pub struct RoomRegistry {
    table: RoomTable,
    ledger: Ledger,
    /// Who is listed as a member, and what the link carries of the presence channels.
    presence: Presence,
    presence_ledger: Ledger,
    listings: Listings,
    /// One for each room that is or has been live since its first occupant came.
    timelines: HashMap<RoomName, Timeline>,
    limits: RegistryLimits,
    workers: HashMap<WorkerId, DispatchSender>,
    /// Until the actor has started.
    start_link: Option<StartLink>,
    link: Option<Recipient<LinkCommand>>,
    /// Joins that wait, oldest first; one that has been answered is passed over.
    deadlines: VecDeque<(Instant, SessionId, RoomName, Ticket)>,
    /// Parts of replays that have to be read first.
    pulls: HashMap<RoomName, Vec<Pull>>,
    /// To be sent with the next flush.
    reads: Vec<ReadRequest>,
    last_read: u64,
    /// Reads for rooms that were left while they were under way. Until they are answered no others follow, so that joins and
    /// leaves cannot queue more reads than there are rooms.
    orphaned_reads: HashMap<RoomName, u64>,
    questions: Questions,
    demands: Demands,
    /// Rooms whose members are being brought up to date, and how long those who are behind are waited for.
    pacing: HashMap<RoomName, Pacing>,
    /// Rooms whose read failed, in the order in which it is tried again.
    reads_again: VecDeque<(Instant, RoomName)>,
    /// Rooms whose read was refused, likewise.
    refused_reads: VecDeque<(Instant, RoomName)>,
    /// Rooms with a window that has been read, and when, in the order of the reads.
    windows: VecDeque<(Instant, RoomName)>,
    held_bytes: usize,
    next_renewal: Instant,
    renewals: Vec<RoomName>,
    flush_requested: bool,
    refusal_log: Throttle,
    metrics: Arc<Metrics>,
    _lifeline: Lifeline,
}

/// What the registry allows, and how it serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegistryLimits {
    /// Rooms that one session may be in.
    pub(super) max_rooms: usize,
    /// Bytes that may wait for one session.
    pub(super) max_backlog: usize,
    /// What the broker keeps.
    pub(super) retention: Retention,
}

impl RegistryLimits {
    /// Bytes of a part of a replay: two of them may wait for a session, beside what is live.
    fn part_bytes(self) -> usize {
        const MAX_PART_BYTES: usize = 64 * 1024;
        (self.max_backlog / 4).min(MAX_PART_BYTES)
    }

    /// Bytes of a list of members: a list alone must not make a peer look slow.
    fn list_bytes(self) -> usize {
        self.max_backlog / 4
    }

    /// Bytes of what all members of a room are told at once.
    fn fill_bytes(self) -> usize {
        const MAX_FILL_BYTES: usize = 128 * 1024;
        (self.max_backlog / 4).min(MAX_FILL_BYTES)
    }
}

/// Starts the broker's link, on the current thread. Events go to the given recipient; its only address comes back.
pub(super) type StartLink = Box<dyn FnOnce(Recipient<LinkEvent>) -> Recipient<LinkCommand> + Send>;

/// A worker that will run sessions.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AddWorker(pub(super) WorkerId, pub(super) DispatchSender);

impl RoomRegistry {
    pub(super) fn new(
        start_link: StartLink,
        limits: RegistryLimits,
        metrics: Arc<Metrics>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            table: RoomTable::new(limits.max_rooms),
            ledger: Ledger::default(),
            presence: Presence::default(),
            presence_ledger: Ledger::default(),
            listings: Listings::default(),
            timelines: HashMap::new(),
            limits,
            workers: HashMap::new(),
            start_link: Some(start_link),
            link: None,
            deadlines: VecDeque::new(),
            pulls: HashMap::new(),
            reads: Vec::new(),
            last_read: 0,
            orphaned_reads: HashMap::new(),
            questions: Questions::default(),
            demands: Demands::default(),
            pacing: HashMap::new(),
            reads_again: VecDeque::new(),
            refused_reads: VecDeque::new(),
            windows: VecDeque::new(),
            held_bytes: 0,
            next_renewal: Instant::now() + RENEWAL_INTERVAL,
            renewals: Vec::new(),
            flush_requested: false,
            refusal_log: Throttle::per_second(1),
            metrics,
            _lifeline: lifeline,
        }
    }

    fn tell(&self, session: SessionId, notice: Notice) {
        self.dispatch(session.worker(), Dispatch::One(session, notice));
    }

    fn tell_members(&self, room: &RoomName, events: Vec<RoomEvent>, transit: Option<&Transit>) {
        self.tell_members_at_pace(room, events, transit, None);
    }

    fn tell_members_at_pace(
        &self,
        room: &RoomName,
        events: Vec<RoomEvent>,
        transit: Option<&Transit>,
        pace: Option<&Pace>,
    ) {
        self.tell_all(self.table.members(room), events, transit, pace);
    }

    fn tell_all(
        &self,
        lists: &AllLists,
        events: Vec<RoomEvent>,
        transit: Option<&Transit>,
        pace: Option<&Pace>,
    ) {
        if events.is_empty() {
            return;
        }
        let events: Arc<[RoomEvent]> = events.into();
        for (worker, members) in lists {
            self.dispatch(
                *worker,
                Dispatch::Room {
                    members: members.clone(),
                    events: events.clone(),
                    transit: transit.cloned(),
                    pace: pace.cloned(),
                },
            );
        }
    }

    fn dispatch(&self, worker: WorkerId, dispatch: Dispatch) {
        if let Some(queue) = self.workers.get(&worker) {
            // Fails when the worker's thread has ended, and its sessions with it.
            let _ = queue.send(dispatch);
        }
    }

    /// Answers one who cannot become a member now: a plain session goes on waiting, another gives up.
    fn disappoint(&mut self, session: SessionId, room: &RoomName, ticket: Ticket, reason: NotJoined) {
        let Some(waiter) = self.table.waiter_mut(session, room, ticket) else {
            self.give_up_listing(session, room, ticket, reason);
            return;
        };
        if waiter.dialect == Dialect::Plain && matches!(reason, NotJoined::Unavailable(_)) {
            waiter.ticket = None;
            self.tell(session, Notice::Deferred(ticket));
            return;
        }
        self.leave(session, room);
        self.tell(session, Notice::NotJoined(ticket, reason));
    }

    /// Ends a membership that its session has not given up itself. Whether there was one.
    fn remove(&mut self, session: SessionId, room: &RoomName) -> bool {
        let ticket = self.table.ticket(session, room);
        let (was_in, toggle) = self.leave(session, room);
        if !was_in {
            return false;
        }
        if let Some(ticket) = ticket.or(toggle) {
            self.tell(session, Notice::NotJoined(ticket, NotJoined::Forbidden));
        }
        if ticket.is_none() {
            self.tell(session, Notice::Removed(room.clone()));
        }
        true
    }

    /// Ends all memberships of a session.
    fn leave_all(&mut self, session: SessionId) {
        for room in self.presence.rooms_of(session) {
            self.unlist(session, &room);
        }
        for room in self.table.disconnect(session) {
            self.emptied(&room);
        }
    }

    /// Ends whatever a session is in a room. Whether it was something, and what it waits for that concerns its listing.
    fn leave(&mut self, session: SessionId, room: &RoomName) -> (bool, Option<Ticket>) {
        let toggle = self.unlist(session, room);
        let outcome = self.table.leave(session, room);
        if outcome == LeaveOutcome::LastOut {
            self.emptied(room);
        }
        (outcome != LeaveOutcome::NotIn, toggle)
    }

    fn emptied(&mut self, room: &RoomName) {
        self.ledger.unwant(room);
        if let Some(timeline) = self.timelines.remove(room) {
            self.held_bytes -= timeline.held_bytes();
            if let Some(read) = timeline.reading() {
                self.orphaned_reads.insert(room.clone(), read);
            }
        }
        self.pulls.remove(room);
        self.pacing.remove(room);
    }

    /// Plain sessions do not wait for a broker that is known to be away.
    fn defer_plain(&mut self) {
        let deferred: Vec<(SessionId, Ticket)> = self
            .table
            .waiting_mut()
            .filter(|(_, waiter)| waiter.dialect == Dialect::Plain)
            .filter_map(|(_, waiter)| Some((waiter.session, waiter.ticket.take()?)))
            .collect();
        for (session, ticket) in deferred {
            self.tell(session, Notice::Deferred(ticket));
        }
    }

    fn room_opened(&mut self, generation: u64, kind: ChannelKind, room: &RoomName) {
        if kind == ChannelKind::Presence {
            self.presence_opened(generation, room);
        } else if self.ledger.opened(generation, room) {
            // Who is a member already may have missed something since the last link was lost.
            self.missed(std::slice::from_ref(room));
        }
    }

    fn room_refused(&mut self, generation: u64, kind: ChannelKind, room: &RoomName, reason: &str) {
        if let Some(unlogged) = self.refusal_log.pass(Instant::now()) {
            warn!("subscription refused by the broker: room={room:?} reason={reason:?} unlogged={unlogged}");
        }
        if kind == ChannelKind::Presence {
            self.presence_refused(generation, room, reason);
        } else if self.ledger.refused(generation, room) {
            self.disappoint_all(room, reason);
        }
    }

    /// Answers all who wait for a room that the broker will not give them.
    fn disappoint_all(&mut self, room: &RoomName, reason: &str) {
        let waiting: Vec<(SessionId, Ticket)> = self
            .table
            .waiting_mut()
            .filter(|(name, _)| *name == room)
            .filter_map(|(_, waiter)| Some((waiter.session, waiter.ticket?)))
            .collect();
        for (session, ticket) in waiting {
            self.disappoint(session, room, ticket, NotJoined::Unavailable(reason.to_owned()));
        }
    }

    fn deliver(&mut self, arrivals: Vec<Arrival>, transit: &Transit) {
        self.count_messages(&arrivals);
        // The order within a room is kept; rooms are independent of each other.
        let mut batches: HashMap<RoomName, (usize, Vec<RoomEvent>)> = HashMap::new();
        for arrival in arrivals {
            let room = arrival.message.room.clone();
            if !self.ledger.is_live(&room) {
                continue;
            }
            let cost = arrival.message.cost();
            let may_hold = self.held_bytes + cost <= MAX_HELD_BYTES;
            let event = self.with_timeline(&room, |timeline| timeline.arrived(arrival, may_hold));
            let Some(Some(event)) = event else {
                self.request_read(&room);
                continue;
            };
            let (bytes, events) = batches.entry(room.clone()).or_default();
            *bytes += cost;
            events.push(event);
            if *bytes >= MAX_EVENTS_BYTES {
                let (_, events) = batches.remove(&room).expect("just added");
                self.tell_members(&room, events, Some(transit));
            }
        }
        for (room, (_, events)) in batches {
            self.tell_members(&room, events, Some(transit));
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        while self
            .deadlines
            .front()
            .is_some_and(|(deadline, ..)| *deadline <= now)
        {
            let Some((_, session, room, ticket)) = self.deadlines.pop_front() else {
                break;
            };
            let reason = "the broker has not confirmed the subscription in time".to_owned();
            self.disappoint(session, &room, ticket, NotJoined::Unavailable(reason));
        }
        // What a rush of joins has made of it would stay for ever.
        if self.deadlines.capacity() > DEADLINES_KEPT && self.deadlines.len() < self.deadlines.capacity() / 4
        {
            self.deadlines.shrink_to(DEADLINES_KEPT);
        }
        self.read_again(now);
        self.tick_presence(now);
        self.forget_old_windows(now);
        self.renew_numberings(now);
        self.request_flush(ctx);
        self.show();
    }
}

impl Actor for RoomRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let start_link = self.start_link.take().expect("an actor starts once");
        self.link = Some(start_link(ctx.address().recipient()));
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<AddWorker> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, AddWorker(id, queue): AddWorker, _: &mut Self::Context) {
        self.workers.insert(id, queue);
    }
}

impl Handler<LinkEvent> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, event: LinkEvent, ctx: &mut Self::Context) {
        match event {
            LinkEvent::Up { generation } => {
                self.ledger.link_up(generation);
                self.presence_ledger.link_up(generation);
                // What was asked before may take seconds to be given up, and nobody wants its answer any more.
                self.orphaned_reads.clear();
            }
            LinkEvent::Down => {
                self.ledger.link_down();
                self.presence_ledger.link_down();
                for timeline in self.timelines.values_mut() {
                    timeline.link_lost();
                    count::incidents(&self.metrics, timeline);
                }
                self.held_bytes = self.timelines.values().map(Timeline::held_bytes).sum();
                self.defer_plain();
                self.give_up_lists();
            }
            LinkEvent::Opened {
                generation,
                kind,
                rooms,
            } => {
                for room in &rooms {
                    self.room_opened(generation, kind, room);
                }
            }
            LinkEvent::Closed {
                generation,
                kind,
                rooms,
            } => {
                for room in &rooms {
                    self.ledger_of(kind).closed(generation, room);
                }
            }
            LinkEvent::Refused {
                generation,
                kind,
                room,
                reason,
            } => self.room_refused(generation, kind, &room, &reason),
            LinkEvent::Messages(arrivals, transit) => self.deliver(arrivals, &transit),
            LinkEvent::Missed(ChannelKind::Messages, rooms) => self.missed(&rooms),
            LinkEvent::Missed(ChannelKind::Presence, rooms) => self.missed_presence(&rooms),
            LinkEvent::Present(presents, transit) => self.present(presents, &transit),
            LinkEvent::Presence(reports) => self.hear(reports),
            LinkEvent::Read(outcomes) => {
                for outcome in outcomes {
                    if let Some(outcome) = self.answer(outcome) {
                        self.read(outcome, ctx);
                    }
                }
            }
            LinkEvent::Demanded { demand, before, done } => self.demanded(demand, before, done, ctx),
        }
        self.request_flush(ctx);
    }
}

/// Stands for a mistake of ours.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum Panic {
    Here,
    InTheLink,
}

#[cfg(test)]
impl Handler<Panic> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, panic: Panic, _: &mut Self::Context) {
        match panic {
            Panic::Here => panic!("on purpose"),
            Panic::InTheLink => self.link.as_ref().expect("started").do_send(LinkCommand::Panic),
        }
    }
}

#[cfg(test)]
mod tests;
