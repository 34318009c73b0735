//! A rolling restart of two nodes, seen by clients that have nothing but a list of their addresses.
//!
//! Each [`Follower`] does what docs/protocol.md asks of a client: when its node says `bye` it connects to the other one
//! shortly before its own connection is closed, goes on there after the place that it has reached, and only then gives the
//! old connection up. What it must see is every message of its room, once and in order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::rt::time::sleep;
use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::support::client::{Client, Event};
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::{PATIENCE, ReservedPort, undisturbed};

/// Before its connection is closed a client wants to be elsewhere by so much, as far as it is told in time.
const LEAD: Duration = Duration::from_secs(2);

const CLIENTS_PER_ROOM: usize = 10;

/// What all followers of a run share.
#[derive(Default)]
struct Run {
    urls: Vec<String>,
    over: Cell<bool>,
    /// Publishes that are not answered yet.
    unanswered: Cell<usize>,
    /// When connections were opened after the first.
    reconnects: RefCell<Vec<Instant>>,
    /// Places of messages that were acknowledged, by room.
    acknowledged: RefCell<BTreeMap<String, Vec<u64>>>,
    /// Connections that ended before their client was elsewhere.
    broken: Cell<usize>,
}

/// A member of one room that publishes to it, too.
struct Follower {
    run: Rc<Run>,
    /// Its keys are made of it.
    name: usize,
    room: String,
    /// The index of its node in the list.
    at: usize,
    connection: Client,
    epoch: String,
    /// The last place that it has heard.
    heard: u64,
    /// Up to here a new connection may repeat what the one before it has told.
    overlap: u64,
    published: u64,
    /// Its publish that is not answered yet.
    pending: Option<Value>,
    next_publish: Instant,
    pause: Duration,
}

impl Follower {
    async fn start(run: &Rc<Run>, name: usize, pause: Duration) -> Self {
        let at = name % run.urls.len();
        let room = format!("room {}", name / CLIENTS_PER_ROOM);
        let mut connection = Client::v1(&run.urls[at]).await;
        let reply = connection.call(json!({"type": "SUBSCRIBE", "room": room})).await;
        assert_eq!(reply["type"], "subscribed", "{reply}");
        Self {
            run: run.clone(),
            name,
            room,
            at,
            connection,
            epoch: reply["epoch"].as_str().expect("an epoch").to_owned(),
            heard: reply["offset"].as_u64().expect("a place"),
            overlap: 0,
            published: 0,
            pending: None,
            next_publish: Instant::now() + pause.mul_f64(fastrand::f64()),
            pause,
        }
    }

    /// Goes on until the run is over and it has heard everything of its room that was acknowledged.
    async fn follow(mut self) {
        let mut move_at = None;
        while !self.is_done() {
            let wake_at = move_at.map_or(self.next_publish, |at| self.next_publish.min(at));
            let event = self.connection.event_within(PATIENCE);
            match timeout_at(wake_at.into(), event).await {
                Ok(event) => match event.expect("a frame, a ping or the end in time") {
                    Event::Text(text) => {
                        if let Some(closes_in) = self.take(&text) {
                            move_at = Some(Instant::now() + moves_after(closes_in));
                        }
                    }
                    Event::Closed(_) => {
                        self.run.broken.set(self.run.broken.get() + 1);
                        move_at = None;
                        let (at, connection) = self.elsewhere().await;
                        self.go_on(at, connection).await;
                    }
                },
                Err(_) if move_at.is_some_and(|at| Instant::now() >= at) => {
                    move_at = None;
                    self.make_before_break().await;
                }
                Err(_) => self.publish().await,
            }
        }
    }

    fn is_done(&self) -> bool {
        let acknowledged = self.run.acknowledged.borrow();
        let top = acknowledged.get(&self.room).map_or(0, Vec::len) as u64;
        self.run.over.get() && self.run.unanswered.get() == 0 && self.heard >= top
    }

    /// Hears the old connection out until the new one has taken over.
    async fn make_before_break(&mut self) {
        let mut opening = Box::pin(self.elsewhere());
        let mut is_open = true;
        let (at, connection) = loop {
            tokio::select! {
                moved = &mut opening => break moved,
                event = self.connection.event_within(PATIENCE), if is_open => match event {
                    Some(Event::Text(text)) => {
                        self.take(&text);
                    }
                    _ => {
                        self.run.broken.set(self.run.broken.get() + 1);
                        is_open = false;
                    }
                },
            }
        };
        self.go_on(at, connection).await;
    }

    /// Connects to another node, or to whichever takes it, and subscribes there after what it has heard.
    fn elsewhere(&self) -> impl Future<Output = (usize, Client)> + use<> {
        let subscribe = json!({
            "type": "SUBSCRIBE", "id": 0, "room": self.room, "after": self.heard, "epoch": self.epoch,
        });
        let (run, mut at) = (self.run.clone(), self.at);
        async move {
            loop {
                at = (at + 1) % run.urls.len();
                if let Some(mut connection) = Client::try_open(&run.urls[at], Dialect::V1).await {
                    run.reconnects.borrow_mut().push(Instant::now());
                    connection.try_command(&subscribe).await;
                    if let Event::Text(text) = connection.event().await {
                        let reply: Value = serde_json::from_str(&text).expect("JSON");
                        assert_eq!(reply["type"], "subscribed", "{reply}");
                        assert_eq!(reply["recovered"], true, "{reply}");
                        return (at, connection);
                    }
                }
                sleep(Duration::from_millis(fastrand::u64(20..200))).await;
            }
        }
    }

    async fn go_on(&mut self, at: usize, connection: Client) {
        self.overlap = self.heard;
        (self.at, self.connection) = (at, connection);
        // Its key tells the node whether it was published already.
        if let Some(publish) = &self.pending {
            self.connection.try_command(publish).await;
        }
    }

    async fn publish(&mut self) {
        self.next_publish = Instant::now() + self.pause;
        if self.pending.is_none() && !self.run.over.get() {
            self.published += 1;
            self.run.unanswered.set(self.run.unanswered.get() + 1);
            let key = format!("{}-{}", self.name, self.published);
            let publish =
                json!({"type": "sendMessage", "id": key, "room": self.room, "message": key, "key": key});
            self.connection.try_command(&publish).await;
            self.pending = Some(publish);
        }
    }

    /// What a frame tells; if it is a `bye`, the time that is left.
    fn take(&mut self, text: &str) -> Option<Duration> {
        let frame: Value = serde_json::from_str(text).expect("JSON");
        let offset = frame["offset"].as_u64();
        match frame["type"].as_str() {
            Some("bye") => return frame["closes_in_ms"].as_u64().map(Duration::from_millis),
            Some("message") if offset <= Some(self.overlap) => {}
            Some("message") => {
                assert_eq!(
                    offset,
                    Some(self.heard + 1),
                    "lost, doubled or out of order: {frame}"
                );
                self.heard += 1;
            }
            Some("sent") => {
                let pending = self.pending.take().expect("a publish that waits");
                assert_eq!(frame["id"], pending["id"]);
                self.run.unanswered.set(self.run.unanswered.get() - 1);
                let mut acknowledged = self.run.acknowledged.borrow_mut();
                let places = acknowledged.entry(self.room.clone()).or_default();
                places.push(offset.expect("a place"));
            }
            _ => panic!("{frame}"),
        }
        None
    }
}

/// How long after a `bye` a client connects elsewhere: when its own closing is near, so that the node's pace of closing is
/// the pace of what comes to the others, and not all in the same moment before it.
fn moves_after(closes_in: Duration) -> Duration {
    closes_in - LEAD.min(closes_in).mul_f64(0.85 + 0.15 * fastrand::f64())
}

/// The most connections in any second.
fn peak(times: &mut [Instant]) -> usize {
    times.sort();
    let within_a_second = |first: &Instant| {
        let end = *first + Duration::from_secs(1);
        times.iter().filter(|time| (*first..end).contains(*time)).count()
    };
    times.iter().map(within_a_second).max().unwrap_or(0)
}

struct Outcome {
    acknowledged: usize,
    /// Connections that ended before their clients were elsewhere.
    broken: usize,
    /// Of each restart: the most new connections in a second, over the clients of that node per second of drain time.
    peaks: Vec<f64>,
}

/// Restarts both nodes, one after the other, under this many clients that publish so often together.
async fn rolling_restart(clients: usize, per_second: u32, drain: Duration) -> Outcome {
    let redis = Redis::start().await;
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let start = async |port: &ReservedPort| {
        let (port, drain) = (port.number().to_string(), drain.as_secs().to_string());
        let variables = [
            ("REDIS_URL", redis.url()),
            ("PORT", port),
            ("ROOMCAST_DRAIN", drain),
            ("RUST_LOG", "warn".to_owned()),
        ];
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let node = Node::start(&variables).await;
        node.ready().await;
        node
    };
    let mut nodes = Vec::new();
    for port in &ports {
        nodes.push(start(port).await);
    }
    let run = Rc::new(Run {
        urls: nodes.iter().map(Node::ws_url).collect(),
        ..Run::default()
    });
    let pause = Duration::from_secs(1) * u32::try_from(clients).expect("few") / per_second;
    let mut followers = Vec::new();
    for name in 0..clients {
        followers.push(Follower::start(&run, name, pause).await);
    }
    let following: Vec<_> = followers
        .into_iter()
        .map(|follower| actix::spawn(follower.follow()))
        .collect();
    let mut peaks = Vec::new();
    for (node, port) in nodes.iter_mut().zip(&ports) {
        run.reconnects.borrow_mut().clear();
        let open = node.metric("roomcast_sessions").await;
        let began = Instant::now();
        node.signal(Signal::TERM);
        let status = node.exit(drain + PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{}", node.log());
        assert!(
            began.elapsed() <= drain + Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        let moved = std::mem::take(&mut *run.reconnects.borrow_mut());
        assert_eq!(moved.len() as u64, open, "everybody has moved, once");
        let even = open as f64 / drain.as_secs_f64();
        peaks.push(peak(&mut moved.clone()) as f64 / even);
        *node = start(port).await;
    }
    run.over.set(true);
    for followed in join_all(following).await {
        followed.expect("a client that has heard everything once and in order");
    }
    assert_eq!(
        run.broken.get(),
        0,
        "connections that ended before their clients were elsewhere"
    );
    let mut acknowledged = 0;
    for (room, places) in run.acknowledged.borrow_mut().iter_mut() {
        places.sort_unstable();
        // Nothing lost, and nothing there twice: what was acknowledged is all there is.
        let all: Vec<u64> = (1..=places.len() as u64).collect();
        assert_eq!(*places, all, "{room}");
        acknowledged += places.len();
    }
    let broken = run.broken.get();
    Outcome {
        acknowledged,
        broken,
        peaks,
    }
}

#[actix::test]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let _turn = undisturbed().await;
    let outcome = rolling_restart(60, 60, Duration::from_secs(4)).await;
    assert!(outcome.acknowledged > 200, "{}", outcome.acknowledged);
    assert_eq!(outcome.broken, 0);
}

/// The figure that docs/operations.md gives.
#[actix::test]
#[ignore = "takes a minute and measures: tests/run rolling"]
async fn rolling_restart_of_500_clients() {
    let Outcome {
        acknowledged,
        broken,
        peaks,
    } = rolling_restart(500, 200, Duration::from_secs(25)).await;
    println!(
        "rolling restart: 500 clients, {acknowledged} messages acknowledged, 0 lost, 0 doubled, \
         {broken} connections ended too early; most new connections in a \
         second, over clients / drain time: {:.2} and {:.2}",
        peaks[0], peaks[1]
    );
    assert!(peaks.iter().all(|peak| *peak <= 1.5), "{peaks:?}");
}
