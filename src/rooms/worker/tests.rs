//! A worker between a stub of the registry and stubs of sessions.

use actix::prelude::{Actor, Context, Handler};
use tokio::time::timeout;

use super::*;
use crate::broker::{PublishOutcome, RoomMessage};
use crate::protocol::{Content, RoomName};

const BACKLOG: usize = 64 * 1024;

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

/// A session that keeps up.
struct Reader(mpsc::UnboundedSender<Notice>, Rc<Vitals>);

impl Actor for Reader {
    type Context = Context<Self>;
}

impl Handler<Notice> for Reader {
    type Result = ();

    fn handle(&mut self, notice: Notice, _: &mut Self::Context) {
        self.1.unqueue(notice.cost(Dialect::V1));
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
    let limits = WorkerLimits {
        heartbeat: Duration::from_secs(25),
        max_backlog: BACKLOG,
    };
    (
        Worker::start(
            WorkerId(0),
            (queue, mpsc::unbounded_channel().1),
            registry,
            Arc::default(),
            limits,
            &Lifelines::new().0,
        ),
        disconnects,
    )
}

/// A session that does nothing but write down what it is told; its vitals never move.
fn attach(worker: &Rc<Worker>) -> (SessionId, mpsc::UnboundedReceiver<Notice>) {
    let (log, notices) = mpsc::unbounded_channel();
    let id = worker.allot();
    let vitals = Rc::new(Vitals::new(BACKLOG, Duration::from_secs(25), Instant::now()));
    let mailbox = Log(log).start().recipient();
    worker.attach(
        id,
        Attached {
            mailbox,
            dialect: Dialect::Plain,
            user: Rc::default(),
            peer: None,
            since: Instant::now(),
            vitals,
            cut: Rc::new(|| {}),
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

fn texts(batches: &[Arc<[RoomEvent]>]) -> Vec<&str> {
    let events = batches.iter().flat_map(|events| events.iter());
    events
        .map(|event| event.frame(Dialect::Plain).expect("a text").text())
        .collect()
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
        let Notice::Room(batches) = next(log).await else {
            panic!("a message was sent")
        };
        assert_eq!(
            texts(&batches),
            ["a", "b", "c"],
            "together, as they waited together"
        );
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
async fn much_that_waited_in_the_queue_makes_no_reader_look_slow() {
    const MESSAGES: usize = 2_000;
    let (worker, _disconnects) = worker();
    let (log, mut notices) = mpsc::unbounded_channel();
    let vitals = Rc::new(Vitals::new(BACKLOG, Duration::from_secs(25), Instant::now()));
    let id = worker.allot();
    let session = Attached {
        mailbox: Reader(log, vitals.clone()).start().recipient(),
        dialect: Dialect::V1,
        user: Rc::default(),
        peer: None,
        since: Instant::now(),
        vitals,
        cut: Rc::new(|| {}),
    };
    worker.attach(id, session);
    let members = Arc::new(vec![id]);
    for _ in 0..MESSAGES {
        let tiny = dispatch(&members, String::new());
        worker.queue().send(tiny).expect("the worker lives");
    }
    let mut told = 0;
    while told < MESSAGES {
        match next(&mut notices).await {
            Notice::Room(batches) => told += batches.len(),
            other => panic!("{other:?} after {told}"),
        }
    }
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

#[actix::test]
async fn messages_are_gathered_by_room_past_answers_and_past_nothing_else() {
    let (worker, _disconnects) = worker();
    let (id, mut notices) = attach(&worker);
    let [room, other_room] = [Arc::new(vec![id]), Arc::new(vec![id])];
    let queue = worker.queue();
    // All of it is there before the worker looks.
    for dispatch in [
        dispatch(&room, "a".to_owned()),
        dispatch(&other_room, "A".to_owned()),
        Dispatch::One(id, Notice::Published(1, PublishOutcome::Accepted(None))),
        dispatch(&room, "b".to_owned()),
        Dispatch::One(id, Notice::Left(2)),
        dispatch(&room, "c".to_owned()),
    ] {
        queue.send(dispatch).expect("the worker lives");
    }
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(match next(&mut notices).await {
            Notice::Room(batches) => texts(&batches).join(" "),
            Notice::Published(ticket, _) => format!("published {ticket}"),
            Notice::Left(ticket) => format!("left {ticket}"),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(told, ["a b", "published 1", "A", "left 2", "c"]);
}
