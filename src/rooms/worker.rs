//! The sessions of one HTTP worker, and the queue through which everything reaches them.
//!
//! - Lives on the worker's thread. The registry sends one [`Dispatch`] per message and worker; the mailboxes are filled
//!   from here, on the thread of the sessions.
//! - After a budget of work the thread is given back, so that sessions write what they were sent before they are sent
//!   more: a burst cannot make a healthy reader look slow.
//! - Who does not keep up is told to close, leaves its rooms at once, and is cut off if even that does not help
//!   ([`vitals`](super::vitals)).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Recipient;
use log::debug;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::vitals::{Verdict, Vitals};
use super::{Disconnect, Notice, RoomEvent, SessionId, WorkerId};
use crate::broker::Transit;
use crate::metrics::{Eviction, Metrics};
use crate::protocol::Dialect;
use crate::protocol::close::CloseCode;

/// Mailbox slots that are filled in one turn.
const TURN_DELIVERIES: usize = 4_096;

/// Members of a large room whose mailboxes are filled before they are polled.
const CHUNK_MEMBERS: usize = 16;

/// How often members that are behind are looked at.
const PACE_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes that one session is sent in one turn, as far as whole dispatches allow.
const TURN_BYTES: usize = 128 * 1024;

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
    /// For every session.
    All(Notice),
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

/// The registry's end of the queue to a worker.
pub type DispatchSender = mpsc::UnboundedSender<Dispatch>;

/// One session as its worker knows it.
pub struct Attached {
    /// Its mailbox. What it is sent is bounded by [`Vitals`], not by slots.
    pub mailbox: Recipient<Notice>,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Its state.
    pub vitals: Rc<Vitals>,
    /// Ends its socket.
    pub cut: Box<dyn Fn()>,
}

/// One HTTP worker's sessions.
pub struct Worker {
    id: WorkerId,
    sessions: RefCell<FxHashMap<SessionId, Attached>>,
    next_serial: Cell<u64>,
    queue: DispatchSender,
    registry: Recipient<Disconnect>,
    metrics: Arc<Metrics>,
}

impl Worker {
    /// Starts the worker's tasks on the current thread. They end with it.
    pub(super) fn start(
        id: WorkerId,
        (queue, dispatches): (DispatchSender, mpsc::UnboundedReceiver<Dispatch>),
        registry: Recipient<Disconnect>,
        metrics: Arc<Metrics>,
        heartbeat: Duration,
    ) -> Rc<Self> {
        let worker = Rc::new(Self {
            id,
            sessions: RefCell::default(),
            next_serial: Cell::new(1),
            queue,
            registry,
            metrics,
        });
        actix::spawn(worker.clone().dispatch_all(dispatches));
        actix::spawn(worker.clone().watch(heartbeat));
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
    pub fn attach(&self, id: SessionId, session: Attached) {
        self.sessions.borrow_mut().insert(id, session);
        self.metrics.sessions.inc();
    }

    /// The session is gone. Its socket may close after this, and must not be cut any more.
    pub fn detach(&self, id: SessionId) {
        if self.sessions.borrow_mut().remove(&id).is_some() {
            self.metrics.sessions.dec();
        }
        self.registry.do_send(Disconnect { session: id });
    }

    async fn dispatch_all(self: Rc<Self>, queue: mpsc::UnboundedReceiver<Dispatch>) {
        let mut dispatches = Dispatches { queue, ahead: None };
        let mut turn = Turn::default();
        while let Some(dispatch) = dispatches.next().await {
            match dispatch {
                Dispatch::One(id, mut notice) => {
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
                Dispatch::All(notice) => {
                    let sessions = self.sessions.borrow();
                    for (id, session) in sessions.iter() {
                        self.post(*id, session, notice.clone(), 0);
                    }
                    turn.deliveries += sessions.len();
                }
                Dispatch::Room {
                    members,
                    events,
                    transit,
                    pace,
                } => {
                    let batches = dispatches.gather(&members, events, transit);
                    self.deliver_in_chunks(&members, &batches, &mut turn).await;
                    if let Some(pace) = pace {
                        actix::spawn(self.clone().keep_pace(members, pace));
                    }
                }
            }
            if turn.is_over() {
                turn.end().await;
            }
        }
    }

    /// Sends members of a room what has come for it. The sessions of a chunk are polled before the next chunk, while
    /// the caches still hold what was touched for them.
    async fn deliver_in_chunks(&self, members: &[SessionId], batches: &Batches, turn: &mut Turn) {
        turn.bytes += batches.bytes;
        for chunk in members.chunks(CHUNK_MEMBERS) {
            self.deliver(chunk, batches);
            turn.deliveries += chunk.len();
            if chunk.len() == CHUNK_MEMBERS {
                turn.end().await;
            }
        }
    }

    fn deliver(&self, members: &[SessionId], batches: &Batches) {
        let sessions = self.sessions.borrow();
        for id in members {
            let Some(session) = sessions.get(id) else { continue };
            for (events, cost) in &batches.list {
                self.post(
                    *id,
                    session,
                    Notice::Room(events.clone()),
                    cost.of(events, session.dialect),
                );
            }
        }
        self.metrics
            .deliveries
            .inc_by((members.len() * batches.events) as u64);
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

    fn post(&self, id: SessionId, session: &Attached, notice: Notice, bytes: usize) {
        if session.vitals.is_closing() {
            return;
        }
        if let Notice::Close(_) = notice {
            session.vitals.close(Instant::now());
        }
        let notice = if session.vitals.queue(bytes) {
            notice
        } else {
            debug!(
                "session too slow: session={id} backlog={}",
                session.vitals.backlog()
            );
            self.metrics.evicted(Eviction::Slow);
            session.vitals.evict(Instant::now());
            self.registry.do_send(Disconnect { session: id });
            Notice::Close(CloseCode::TooSlow)
        };
        // Bounded by the bytes above; slots would refuse healthy readers whose worker is busy.
        session.mailbox.do_send(notice);
    }

    /// Looks at every session in turn, so that what has to end does so whatever state its actor is in.
    async fn watch(self: Rc<Self>, heartbeat: Duration) {
        let mut ticks = interval((heartbeat / 16).clamp(Duration::from_millis(50), Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            for (id, session) in self.sessions.borrow().iter() {
                match session.vitals.check(now) {
                    Verdict::Well => {}
                    Verdict::Ping => self.post(*id, session, Notice::Ping, 0),
                    Verdict::Close(code) => {
                        debug!("session mute: session={id}");
                        self.metrics.evicted(Eviction::Mute);
                        self.registry.do_send(Disconnect { session: *id });
                        session.mailbox.do_send(Notice::Close(code));
                    }
                    Verdict::Cut => {
                        debug!("session stuck: session={id} backlog={}", session.vitals.backlog());
                        self.metrics.evicted(Eviction::Stuck);
                        (session.cut)();
                    }
                }
            }
        }
    }
}

/// The queue, with one dispatch that was looked at and put back.
struct Dispatches {
    queue: mpsc::UnboundedReceiver<Dispatch>,
    ahead: Option<Dispatch>,
}

impl Dispatches {
    async fn next(&mut self) -> Option<Dispatch> {
        match self.ahead.take() {
            Some(dispatch) => Some(dispatch),
            None => self.queue.recv().await,
        }
    }

    /// `events`, and what follows them in the queue for the same members.
    fn gather(
        &mut self,
        members: &Arc<Vec<SessionId>>,
        events: Arc<[RoomEvent]>,
        transit: Option<Transit>,
    ) -> Batches {
        let mut batches = Batches::default();
        batches.push(events, transit);
        while batches.bytes < TURN_BYTES && self.ahead.is_none() {
            match self.queue.try_recv() {
                Ok(Dispatch::Room {
                    members: same,
                    events,
                    transit,
                    pace: None,
                }) if Arc::ptr_eq(&same, members) => batches.push(events, transit),
                Ok(other) => self.ahead = Some(other),
                Err(_) => break,
            }
        }
        batches
    }
}

/// What has been done since the thread was last given back.
#[derive(Default)]
struct Turn {
    deliveries: usize,
    bytes: usize,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.deliveries >= TURN_DELIVERIES || self.bytes >= TURN_BYTES
    }

    /// Lets the sessions run.
    async fn end(&mut self) {
        *self = Self::default();
        tokio::task::yield_now().await;
    }
}

/// Events of one room that arrived together, in order.
#[derive(Default)]
struct Batches {
    list: Vec<(Arc<[RoomEvent]>, Cost)>,
    events: usize,
    bytes: usize,
    transit: Vec<Transit>,
}

/// What a batch counts in the backlog of a session of either dialect, worked out when first needed.
#[derive(Default)]
struct Cost {
    plain: Cell<Option<usize>>,
    v1: Cell<Option<usize>>,
}

impl Batches {
    fn push(&mut self, events: Arc<[RoomEvent]>, transit: Option<Transit>) {
        self.transit.extend(transit);
        self.events += events.len();
        self.bytes += events.iter().map(RoomEvent::text_bytes).sum::<usize>();
        self.list.push((events, Cost::default()));
    }
}

impl Cost {
    fn of(&self, events: &[RoomEvent], dialect: Dialect) -> usize {
        let known = match dialect {
            Dialect::Plain => &self.plain,
            Dialect::V1 => &self.v1,
        };
        known.get().unwrap_or_else(|| {
            let cost = events.iter().map(|event| event.frame_bytes(dialect)).sum();
            known.set(Some(cost));
            cost
        })
    }
}

#[cfg(test)]
mod tests {
    use actix::prelude::{Actor, Context, Handler};
    use tokio::time::timeout;

    use super::*;
    use crate::broker::RoomMessage;
    use crate::protocol::{Content, RoomName};

    const BACKLOG: usize = 4_096;

    /// Takes notices or disconnects and writes them down.
    struct Log<M>(mpsc::UnboundedSender<M>);

    impl<M: Unpin + 'static> Actor for Log<M> {
        type Context = Context<Self>;
    }

    impl Handler<Notice> for Log<Notice> {
        type Result = ();

        fn handle(&mut self, notice: Notice, _: &mut Self::Context) {
            self.0.send(notice).expect("the test listens");
        }
    }

    impl Handler<Disconnect> for Log<Disconnect> {
        type Result = ();

        fn handle(&mut self, disconnect: Disconnect, _: &mut Self::Context) {
            self.0.send(disconnect).expect("the test listens");
        }
    }

    /// A worker without HTTP, and what it tells the registry.
    fn worker() -> (Rc<Worker>, mpsc::UnboundedReceiver<Disconnect>) {
        let (log, disconnects) = mpsc::unbounded_channel();
        let registry = Log(log).start().recipient();
        let queue = mpsc::unbounded_channel();
        let heartbeat = Duration::from_secs(25);
        (
            Worker::start(WorkerId(0), queue, registry, Arc::default(), heartbeat),
            disconnects,
        )
    }

    /// A session that does nothing but write down what it is told; its vitals never move.
    fn attach(worker: &Worker) -> (SessionId, mpsc::UnboundedReceiver<Notice>) {
        let (log, notices) = mpsc::unbounded_channel();
        let id = worker.allot();
        let vitals = Rc::new(Vitals::new(BACKLOG, Duration::from_secs(25), Instant::now()));
        let mailbox = Log(log).start().recipient();
        worker.attach(
            id,
            Attached {
                mailbox,
                dialect: Dialect::Plain,
                vitals,
                cut: Box::new(|| {}),
            },
        );
        (id, notices)
    }

    fn dispatch(members: &Arc<Vec<SessionId>>, text: String) -> Dispatch {
        let message = RoomMessage {
            room: RoomName::new("r").expect("a valid name"),
            content: Content::text(text),
            sender: None,
            session: None,
            time: None,
        };
        Dispatch::Room {
            members: members.clone(),
            events: [RoomEvent::message(message, None)].into(),
            transit: None,
            pace: None,
        }
    }

    async fn next<T>(queue: &mut mpsc::UnboundedReceiver<T>) -> T {
        let item = timeout(Duration::from_secs(5), queue.recv())
            .await
            .expect("something in time");
        item.expect("the other side lives")
    }

    #[actix::test]
    async fn every_member_of_a_large_room_is_told_in_order() {
        let (worker, _disconnects) = worker();
        let (ids, mut logs): (Vec<_>, Vec<_>) = (0..CHUNK_MEMBERS * 2 + 1).map(|_| attach(&worker)).unzip();
        let members = Arc::new(ids);
        for text in ["a", "b", "c"] {
            worker
                .queue()
                .send(dispatch(&members, text.to_owned()))
                .expect("the worker lives");
        }
        for log in &mut logs {
            for text in ["a", "b", "c"] {
                let Notice::Room(events) = next(log).await else {
                    panic!("a message was sent")
                };
                assert_eq!(events[0].frame(Dialect::Plain).expect("a text"), text);
            }
        }
    }

    #[actix::test]
    async fn who_does_not_keep_up_is_closed_once_and_leaves_its_rooms() {
        let (worker, mut disconnects) = worker();
        let (id, mut notices) = attach(&worker);
        let members = Arc::new(vec![id]);
        for _ in 0..5 {
            worker
                .queue()
                .send(dispatch(&members, "x".repeat(BACKLOG / 3)))
                .expect("the worker lives");
        }
        assert!(matches!(next(&mut notices).await, Notice::Room(_)));
        assert!(matches!(next(&mut notices).await, Notice::Room(_)));
        assert!(matches!(
            next(&mut notices).await,
            Notice::Close(CloseCode::TooSlow)
        ));
        assert_eq!(next(&mut disconnects).await.session, id);
        tokio::task::yield_now().await;
        assert!(notices.try_recv().is_err(), "nothing follows the close");
    }

    #[actix::test]
    async fn what_comes_late_for_a_session_that_is_gone_hits_nobody() {
        let (worker, mut disconnects) = worker();
        let (gone, mut gone_notices) = attach(&worker);
        worker.detach(gone);
        assert_eq!(next(&mut disconnects).await.session, gone);
        let (stays, mut notices) = attach(&worker);
        let members = Arc::new(vec![gone, stays]);
        worker
            .queue()
            .send(dispatch(&members, "hi".to_owned()))
            .expect("the worker lives");
        assert!(matches!(next(&mut notices).await, Notice::Room(_)));
        assert!(gone_notices.try_recv().is_err());
    }
}
