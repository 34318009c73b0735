//! The sessions of one HTTP worker, the queue through which their rooms reach them, and the orders of a node that stops.
//!
//! - Lives on the worker's thread. The registry sends one [`Dispatch`] per message and worker; the mailboxes are filled
//!   from here, on the thread of the sessions.
//! - After a budget of work the thread is given back, so that sessions write what they were sent before they are sent
//!   more: a burst cannot make a healthy reader look slow.
//! - Who does not keep up is told to close, leaves its rooms at once, and is cut off if even that does not help
//!   ([`vitals`](super::vitals)).
//! - It tells the log when sessions begin and how they end, as far as outsiders let it.

mod gathering;
mod session_log;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Recipient;
use log::debug;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use self::gathering::{Batches, Dispatches, Parcel};
use self::session_log::SessionLog;
use super::registry::demands::Found;
use super::retirement::Retirement;
use super::vitals::{Ending, Verdict, Vitals};
use super::{Disconnect, Notice, RoomEvent, SessionId, WorkerId};
use crate::broker::Transit;
use crate::lifeline::Lifelines;
use crate::metrics::labels::Refused;
use crate::metrics::{ClosedBy, Eviction, Metrics};
use crate::protocol::Dialect;
use crate::protocol::close::CloseCode;

/// Mailbox slots that are filled in one turn. Between turns all sessions run: few at once leave those that publish their
/// share of the thread, and what they bring in is sent together with what waits.
const TURN_DELIVERIES: usize = 256;

/// Members of a large room whose mailboxes are filled before they are polled.
const CHUNK_MEMBERS: usize = 16;

/// How often members that are behind are looked at.
const PACE_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes that one session is sent in one turn at most, as far as whole dispatches allow, …
const TURN_BYTES: usize = 128 * 1024;

/// … and its part of what may wait for a session: what comes in one go must not make a healthy reader look slow.
const TURN_PART: usize = 8;

/// Something for the sessions of one worker.
#[derive(Debug)]
pub enum Dispatch {
    /// For one session.
    One(SessionId, Notice),
    /// For members of a room.
    Room {
        /// Who.
        members: Arc<Vec<SessionId>>,
        /// What, oldest first.
        events: Arc<[RoomEvent]>,
        /// Counts it, until it is in the mailboxes.
        transit: Option<Transit>,
        /// Held until the members have written most of what waits for them.
        pace: Option<Pace>,
    },
    /// Find the sessions of a user.
    Search(Search),
}

/// Asks for the sessions of a user.
#[derive(Clone, Debug)]
pub struct Search {
    /// Repeated in the answer.
    pub id: u64,
    /// Whose.
    pub user: Arc<str>,
    /// Only those that began before.
    pub before: Option<Instant>,
    /// Close them (1008), too.
    pub closes: bool,
    /// Where the answer goes.
    pub found: Recipient<Found>,
}

/// What the node tells a worker about all of its sessions. It overtakes what waits in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Close them one after another.
    Retire(Retirement),
    /// Close them at once, and those that come still.
    Close(CloseCode),
    /// Stands for a mistake of ours.
    #[cfg(test)]
    Panic,
}

/// Tells, when the last clone is dropped, that more may follow.
#[derive(Clone)]
pub struct Pace {
    give_up: Instant,
    _on_drop: Arc<dyn Send + Sync>,
}

impl Pace {
    /// `on_drop` does the telling, at this time at the latest.
    pub(super) fn new(give_up: Instant, on_drop: impl Send + Sync + 'static) -> Self {
        Self {
            give_up,
            _on_drop: Arc::new(on_drop),
        }
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pace")
    }
}

/// Both ends of a worker's queue.
type Queue = (DispatchSender, mpsc::UnboundedReceiver<Dispatch>);

/// The registry's end of the queue to a worker.
pub type DispatchSender = mpsc::UnboundedSender<Dispatch>;

/// One session as its worker knows it.
pub struct Attached {
    /// Its mailbox. What it is sent is bounded by [`Vitals`], not by slots.
    pub mailbox: Recipient<Notice>,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Its user, once it is known.
    pub user: Rc<OnceCell<Arc<str>>>,
    /// The other end of its connection.
    pub peer: Option<SocketAddr>,
    /// When it began.
    pub since: Instant,
    /// Its state.
    pub vitals: Rc<Vitals>,
    /// Resets its connection.
    pub cut: Rc<dyn Fn()>,
}

/// What holds for all sessions of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerLimits {
    /// Silence after which a peer is asked whether it is there.
    pub(super) heartbeat: Duration,
    /// Bytes that may wait for one session.
    pub(super) max_backlog: usize,
}

/// One HTTP worker's sessions.
pub struct Worker {
    id: WorkerId,
    sessions: RefCell<FxHashMap<SessionId, Attached>>,
    next_serial: Cell<u64>,
    queue: DispatchSender,
    registry: Recipient<Disconnect>,
    metrics: Arc<Metrics>,
    turn_bytes: usize,
    /// Once the node stops.
    stopping: Cell<Option<Order>>,
    /// What all backlogs summed up to when they were last looked at.
    backlog_bytes: Cell<i64>,
    log: SessionLog,
}

impl Worker {
    /// Starts the worker's tasks on the current thread. They end with it.
    pub(super) fn start(
        id: WorkerId,
        ((queue, dispatches), orders): (Queue, mpsc::UnboundedReceiver<Order>),
        registry: Recipient<Disconnect>,
        metrics: Arc<Metrics>,
        limits: WorkerLimits,
        lifelines: &Lifelines,
    ) -> Rc<Self> {
        let worker = Rc::new(Self {
            id,
            sessions: RefCell::default(),
            next_serial: Cell::new(1),
            queue,
            registry,
            metrics,
            turn_bytes: TURN_BYTES.min(limits.max_backlog / TURN_PART),
            stopping: Cell::new(None),
            backlog_bytes: Cell::new(0),
            log: SessionLog::new(),
        });
        let dispatching = worker.clone().dispatch_all(dispatches);
        actix::spawn(lifelines.hold("a worker's queue").over(dispatching));
        let obeying = worker.clone().obey(orders);
        actix::spawn(lifelines.hold("a worker's ear").over(obeying));
        let watching = worker.clone().watch(limits.heartbeat);
        actix::spawn(lifelines.hold("a worker's watch").over(watching));
        worker
    }

    /// A number for a new session.
    #[must_use]
    pub fn allot(&self) -> SessionId {
        let serial = self.next_serial.get();
        self.next_serial.set(serial + 1);
        SessionId::new(self.id, serial)
    }

    /// The queue through which everything reaches this worker's sessions.
    #[must_use]
    pub fn queue(&self) -> DispatchSender {
        self.queue.clone()
    }

    /// From now on the session is sent what is meant for it.
    pub fn attach(self: &Rc<Self>, id: SessionId, session: Attached) {
        self.log.opened(id, &session);
        match self.stopping.get() {
            Some(Order::Retire(retirement)) => {
                let closes_at = retirement.closes_late(session.since, fastrand::f64());
                self.say_bye(id, &session, closes_at);
                self.retire_in_turn(vec![(id, closes_at)]);
            }
            Some(Order::Close(code)) => {
                self.post(id, &session, Notice::Close(code), 0);
            }
            _ => {}
        }
        self.sessions.borrow_mut().insert(id, session);
        self.metrics.sessions.inc();
        self.metrics.sessions_opened.inc();
    }

    /// The session is gone; its connection may linger.
    pub fn detach(&self, id: SessionId) {
        if let Some(session) = self.sessions.borrow_mut().remove(&id) {
            self.metrics.sessions.dec();
            self.closed(id, &session);
        }
        self.registry.do_send(Disconnect { session: id });
    }

    fn closed(&self, id: SessionId, session: &Attached) {
        let (by, code) = match session.vitals.ending() {
            Some(Ending::Server(code)) => (ClosedBy::Server, Some(code.code())),
            Some(Ending::Peer(code)) => (ClosedBy::Peer, code),
            Some(Ending::Cut) => (ClosedBy::Cut, None),
            None => (ClosedBy::Loss, None),
        };
        self.metrics.sessions_closed.inc(by);
        self.log.closed(id, session, by, code);
    }

    /// A handshake was refused.
    pub fn refused(&self, peer: Option<SocketAddr>, status: u16, problem: &str) {
        self.metrics.handshakes_refused.inc(Refused::of(status));
        self.log.refused(peer, status, problem);
    }

    async fn obey(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            self.stopping.set(Some(order));
            let notice = match order {
                Order::Retire(retirement) => {
                    self.retire(retirement);
                    continue;
                }
                Order::Close(code) => Notice::Close(code),
                #[cfg(test)]
                Order::Panic => Notice::Panic,
            };
            for (id, session) in self.sessions.borrow().iter() {
                self.post(*id, session, notice.clone(), 0);
            }
        }
    }

    /// Tells every session when it will be closed, and closes them in turn.
    fn retire(self: &Rc<Self>, retirement: Retirement) {
        let sessions = self.sessions.borrow();
        let (count, now) = (sessions.len(), Instant::now());
        let turn = |(index, (id, session)): (usize, (&SessionId, &Attached))| {
            let closes_at = retirement.closes_at(index, count, now);
            self.say_bye(*id, session, closes_at);
            (*id, closes_at)
        };
        let turns = sessions.iter().enumerate().map(turn).collect();
        self.retire_in_turn(turns);
    }

    fn say_bye(&self, id: SessionId, session: &Attached, closes_at: Instant) {
        let closes_in = closes_at.saturating_duration_since(Instant::now());
        self.post(id, session, Notice::Bye(closes_in), 0);
    }

    /// Ends these sessions when their time comes; the times ascend.
    fn retire_in_turn(self: &Rc<Self>, turns: Vec<(SessionId, Instant)>) {
        let worker = self.clone();
        actix::spawn(async move {
            for (id, at) in turns {
                sleep_until(at.into()).await;
                if let Some(session) = worker.sessions.borrow().get(&id) {
                    worker.post(id, session, Notice::Retire, 0);
                }
            }
        });
    }

    async fn dispatch_all(self: Rc<Self>, queue: mpsc::UnboundedReceiver<Dispatch>) {
        let mut dispatches = Dispatches::new(queue, self.turn_bytes);
        let mut turn = Turn::new(self.turn_bytes);
        while let Some(dispatch) = dispatches.next().await {
            match dispatch {
                Dispatch::One(id, notice) => self.tell(id, notice, &mut turn),
                Dispatch::Room {
                    members,
                    events,
                    transit,
                    pace: Some(pace),
                } => {
                    self.deliver_in_chunks(Parcel::new(members.clone(), events, transit), &mut turn)
                        .await;
                    actix::spawn(self.clone().keep_pace(members, pace));
                }
                Dispatch::Room {
                    members,
                    events,
                    transit,
                    pace: None,
                } => {
                    for parcel in dispatches.gather(Parcel::new(members, events, transit)) {
                        self.deliver_in_chunks(parcel, &mut turn).await;
                        while let Some((id, answer)) = dispatches.next_answer() {
                            self.tell(id, answer, &mut turn);
                        }
                        if turn.is_over() {
                            turn.end().await;
                        }
                    }
                }
                Dispatch::Search(search) => self.search(&search),
            }
            if turn.is_over() {
                turn.end().await;
            }
        }
    }

    fn tell(&self, id: SessionId, mut notice: Notice, turn: &mut Turn) {
        if let Some(session) = self.sessions.borrow().get(&id) {
            if session.vitals.is_behind() {
                notice.cut();
            }
            let cost = notice.cost(session.dialect);
            turn.bytes += cost;
            self.post(id, session, notice, cost);
        }
        turn.deliveries += 1;
    }

    /// Answers before any of the sessions that it names is told of as ended.
    fn search(&self, search: &Search) {
        let mut sessions = Vec::new();
        for (id, session) in self.sessions.borrow().iter() {
            let is_theirs = session.user.get() == Some(&search.user)
                && search.before.is_none_or(|before| session.since < before);
            // One that is closing may still be a member; closed it is without that.
            if !is_theirs || (search.closes && session.vitals.is_closing()) {
                continue;
            }
            sessions.push(*id);
            if search.closes {
                self.post(*id, session, Notice::Close(CloseCode::Policy), 0);
            }
        }
        search.found.do_send(Found {
            id: search.id,
            sessions,
        });
    }

    /// Sends members of a room what has come for it. The sessions of a chunk are polled before the next chunk, while
    /// the caches still hold what was touched for them.
    async fn deliver_in_chunks(&self, parcel: Parcel, turn: &mut Turn) {
        turn.bytes += parcel.bytes;
        let batches = Batches::new(parcel.events);
        for chunk in parcel.members.chunks(CHUNK_MEMBERS) {
            self.deliver(chunk, &batches);
            turn.deliveries += chunk.len();
            if chunk.len() == CHUNK_MEMBERS {
                turn.end().await;
            }
        }
    }

    fn deliver(&self, members: &[SessionId], batches: &Batches) {
        let sessions = self.sessions.borrow();
        let (mut deliveries, mut bytes) = (0, 0);
        for id in members {
            let Some(session) = sessions.get(id) else { continue };
            let weight = batches.weight(session.dialect);
            if self.post(*id, session, Notice::Room(batches.list.clone()), weight.cost()) {
                deliveries += weight.events;
                bytes += weight.text_bytes;
            }
        }
        self.metrics.delivery_bytes.inc_by(bytes as u64);
        self.metrics.deliveries.inc_by(deliveries as u64);
    }

    /// Holds `pace` until the members are not far behind any more: who reads slowly and steadily must not be made too slow
    /// by a past that comes in one go.
    async fn keep_pace(self: Rc<Self>, members: Arc<Vec<SessionId>>, pace: Pace) {
        let is_behind = |id| {
            let sessions = self.sessions.borrow();
            let session: Option<&Attached> = sessions.get(id);
            session.is_some_and(|session| session.vitals.is_behind() && !session.vitals.is_closing())
        };
        while members.iter().any(is_behind) && Instant::now() < pace.give_up {
            sleep(PACE_INTERVAL).await;
        }
        drop(pace);
    }

    /// Puts a notice into a session's mailbox. Whether it is there: one that is ending is not told any more.
    fn post(&self, id: SessionId, session: &Attached, notice: Notice, bytes: usize) -> bool {
        if session.vitals.is_closing() {
            return false;
        }
        if let Notice::Close(_) = notice {
            session.vitals.close(Instant::now());
        }
        let fits = session.vitals.queue(bytes);
        let notice = if fits {
            notice
        } else {
            debug!(
                "session too slow: session={id} backlog={}",
                session.vitals.backlog()
            );
            self.evicted(session, Eviction::Slow);
            session.vitals.evict(Instant::now());
            self.registry.do_send(Disconnect { session: id });
            Notice::Close(CloseCode::TooSlow)
        };
        // Bounded by the bytes above; slots would refuse healthy readers whose worker is busy.
        session.mailbox.do_send(notice);
        fits
    }

    /// Counts why a session is ended: the first reason.
    fn evicted(&self, session: &Attached, reason: Eviction) {
        if session.vitals.count_eviction() {
            self.metrics.evicted(reason);
        }
    }

    /// Looks at every session in turn, so that what has to end does so whatever state its actor is in.
    async fn watch(self: Rc<Self>, heartbeat: Duration) {
        let mut ticks = interval((heartbeat / 16).clamp(Duration::from_millis(50), Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            let mut backlog = 0;
            for (id, session) in self.sessions.borrow().iter() {
                backlog += session.vitals.backlog();
                match session.vitals.check(now) {
                    Verdict::Well => {}
                    Verdict::Ping => {
                        self.post(*id, session, Notice::Ping, 0);
                    }
                    Verdict::Close(code) => {
                        debug!("session mute: session={id}");
                        self.evicted(session, Eviction::Mute);
                        self.registry.do_send(Disconnect { session: *id });
                        session.mailbox.do_send(Notice::Close(code));
                    }
                    Verdict::Expel(code) => {
                        self.registry.do_send(Disconnect { session: *id });
                        self.post(*id, session, Notice::Close(code), 0);
                    }
                    Verdict::Cut => {
                        debug!("session stuck: session={id} backlog={}", session.vitals.backlog());
                        self.evicted(session, Eviction::Stuck);
                        session.vitals.end(Ending::Cut);
                        (session.cut)();
                    }
                }
            }
            let backlog = i64::try_from(backlog).unwrap_or(i64::MAX);
            let before = self.backlog_bytes.replace(backlog);
            self.metrics.session_backlog_bytes.inc_by(backlog - before);
        }
    }
}

/// What has been done since the thread was last given back.
struct Turn {
    deliveries: usize,
    bytes: usize,
    most_bytes: usize,
}

impl Turn {
    fn new(most_bytes: usize) -> Self {
        Self {
            deliveries: 0,
            bytes: 0,
            most_bytes,
        }
    }

    fn is_over(&self) -> bool {
        self.deliveries >= TURN_DELIVERIES || self.bytes >= self.most_bytes
    }

    /// Lets the sessions run.
    async fn end(&mut self) {
        *self = Self::new(self.most_bytes);
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
