//! Two nodes, a proxy between each of them and one Redis, ten rooms with members of both dialects on both nodes, and
//! publishers on both. Everything runs on the test's own thread, beside the processes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use roomcast::protocol::Dialect;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::checker::{Terms, Violation, check};
use super::faults::Fault;
use super::history::{Content, Log, Outcome, Position};
use super::listeners::{Site, follow, follow_plain};
use super::recorder::{Recorder, Tally};
use super::talkers::{Talker, talk_plainly};
use crate::support::client::{Client, Event};
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::{PATIENCE, within};

pub(crate) const ROOMS: usize = 10;

/// Publishers of `roomcast.v1` on each node, and the time between two messages of one of them: together with the plain
/// ones they make a little more than 200 messages a second.
const TALKERS: usize = 2;
const TALKER_PERIOD: Duration = Duration::from_millis(20);

/// The time between two messages of the plain publisher on each node.
const PLAIN_PERIOD: Duration = Duration::from_millis(100);

/// How long a run may take to flow again.
const HEALED: Duration = Duration::from_secs(20);

/// The default of `ROOMCAST_HISTORY_SIZE`.
const HISTORY_SIZE: usize = 1_000;

/// All of it. Dropped, everything ends.
pub(crate) struct Cluster {
    pub(crate) redis: Redis,
    pub(crate) proxies: [Proxy; 2],
    nodes: [Option<Node>; 2],
    history_size: usize,
    may_restart: bool,
    rooms: Vec<Arc<str>>,
    site: Site,
    members: Vec<JoinHandle<()>>,
    /// The node that each member belongs to.
    homes: Vec<usize>,
    talkers: Vec<JoinHandle<()>>,
    rounds: usize,
}

/// What came of a run or a part of it.
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) tally: Tally,
    /// What was seen of the rooms that something is wrong with, for the reader.
    evidence: String,
}

impl Cluster {
    /// Starts everything; members are on their way to their rooms when this returns. What Redis has acknowledged
    /// outlives its process.
    pub(crate) async fn start() -> Self {
        Self::with_history_size(HISTORY_SIZE).await
    }

    /// [`Cluster::start`] with so many messages kept of each room.
    pub(crate) async fn with_history_size(history_size: usize) -> Self {
        let redis = Redis::persistent().await;
        let upstream = format!("127.0.0.1:{}", redis.port());
        let site = Site {
            recorder: Recorder::new(),
            addresses: Rc::default(),
            homing: watch::Sender::new(()),
            talking: watch::Sender::new(false),
            may_lose: Rc::new(Cell::new(history_size < HISTORY_SIZE)),
        };
        let mut cluster = Self {
            redis,
            proxies: [Proxy::start(&upstream).await, Proxy::start(&upstream).await],
            nodes: [None, None],
            history_size,
            may_restart: false,
            rooms: (0..ROOMS).map(|nth| format!("room {nth}").into()).collect(),
            site,
            members: Vec::new(),
            homes: Vec::new(),
            talkers: Vec::new(),
            rounds: 0,
        };
        for node in 0..2 {
            cluster.start_node(node).await;
        }
        cluster.send_members();
        cluster
    }

    fn send_members(&mut self) {
        for home in 0..2 {
            for room in &self.rooms {
                let (site, room) = (&self.site, room.clone());
                let member = site.recorder.follower(&room, Dialect::V1);
                self.members
                    .push(actix::spawn(follow(site.clone(), member, room.clone(), home)));
                let member = site.recorder.follower(&room, Dialect::Plain);
                self.members
                    .push(actix::spawn(follow_plain(site.clone(), member, room, home)));
            }
            let (site, room) = (self.site.clone(), self.rooms[home].clone());
            let member = site.recorder.follower(&room, Dialect::Plain);
            let talker = talk_plainly(site, member, room, home, PLAIN_PERIOD);
            self.members.push(actix::spawn(talker));
            self.homes.resize(self.members.len(), home);
        }
    }

    /// Starts a node that is not there, and waits until it is ready.
    pub(crate) async fn start_node(&mut self, node: usize) {
        let (url, size) = (self.proxies[node].redis_url(), self.history_size.to_string());
        let started = Node::start(&[("REDIS_URL", &url), ("ROOMCAST_HISTORY_SIZE", &size)]).await;
        started.ready().await;
        self.site.addresses.borrow_mut()[node] = Some(started.ws_url());
        self.nodes[node] = Some(started);
    }

    /// Ends a node the hard way.
    pub(crate) fn kill_node(&mut self, node: usize) {
        self.site.addresses.borrow_mut()[node] = None;
        self.nodes[node] = None;
    }

    /// Whether this node runs.
    pub(crate) fn has_node(&self, node: usize) -> bool {
        self.nodes[node].is_some()
    }

    /// Lets members that are at the other node come back to theirs. Returns when they have, and hear what is said there.
    pub(crate) async fn call_home(&self) {
        self.site.homing.send_replace(());
        within(HEALED, "members that are at home", async || {
            (0..self.homes.len())
                .all(|member| self.recorder().node(member) == Some(self.homes[member]))
                .then_some(())
        })
        .await;
        let flows = self.await_flow(self.recorder().now()).await;
        flows.unwrap_or_else(|behind| panic!("{behind} members hear nothing at home"));
    }

    /// Where what happens is written down.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.site.recorder
    }

    /// Publishers begin. Returns when every member has heard something.
    pub(crate) async fn talk(&mut self) {
        self.rounds += 1;
        let since = self.recorder().now();
        self.site.talking.send_replace(true);
        for home in 0..2 {
            for nth in 0..TALKERS {
                let name = format!("talker {}.{home}.{nth}", self.rounds);
                let first_room = (home * TALKERS + nth) * ROOMS / (2 * TALKERS);
                let talker = Talker::new(self.site.clone(), home, name, self.rooms.clone(), first_room);
                self.talkers.push(actix::spawn(talker.talk(TALKER_PERIOD)));
            }
        }
        let flows = self.await_flow(since).await;
        flows.unwrap_or_else(|behind| panic!("{behind} members do not hear anything"));
    }

    /// Waits until so many more publishes were acknowledged.
    pub(crate) async fn await_acknowledged(&self, more: usize) {
        let before = self.recorder().tally().acknowledged;
        within(HEALED, "acknowledged publishes", async || {
            (self.recorder().tally().acknowledged >= before + more).then_some(())
        })
        .await;
    }

    /// Waits until every member has heard a message that was published after `since`. Or how many have not.
    pub(crate) async fn await_flow(&self, since: Duration) -> Result<(), usize> {
        let recorder = self.recorder();
        let flows = async {
            while recorder.have_not_heard_since(since) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let result = timeout(HEALED, flows).await;
        result.map_err(|_| recorder.have_not_heard_since(since))
    }

    /// Lets a fault happen. When it was over.
    pub(crate) async fn strike(&mut self, fault: Fault) -> Duration {
        if fault.forgets() {
            self.may_restart = true;
            self.site.may_lose.set(true);
        }
        self.recorder().note(format!("{fault} begins"));
        fault.strike(self).await;
        self.recorder().note(format!("{fault} is over"));
        self.recorder().now()
    }

    /// Ends the publishing, lets everybody hear all there is, reads the logs and judges.
    pub(crate) async fn judge(&mut self) -> Report {
        self.site.talking.send_replace(false);
        let talkers = std::mem::take(&mut self.talkers);
        let unanswered = async {
            for talker in talkers {
                let _ = talker.await;
            }
            while self.recorder().unanswered() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // What is missing then, the checker finds.
        let _ = timeout(PATIENCE, unanswered).await;
        self.say_last_words().await;
        let addresses = self.site.addresses.borrow().clone();
        for room in &self.rooms {
            for url in addresses.iter().flatten() {
                self.recorder().log(read_log(url, room).await);
            }
        }
        let terms = Terms {
            history_size: self.history_size,
            may_restart: self.may_restart,
        };
        Report::of(self.recorder(), terms)
    }

    /// After [`Cluster::judge`]: what is seen from now on is judged by itself.
    pub(crate) fn turn_over(&mut self) {
        self.may_restart = false;
        self.site.may_lose.set(self.history_size < HISTORY_SIZE);
        self.recorder().turn_over();
    }

    /// Publishes a last message to each room and waits until all its members have heard it, or do not in time.
    async fn say_last_words(&self) {
        let (mut client, _) = self.site.connect(0, Dialect::V1).await;
        let publisher = self.recorder().publisher();
        let mut last = Vec::new();
        for room in &self.rooms {
            let text = format!("last words {} to {room}", self.rounds);
            let said = self.publish_surely(&mut client, publisher, room, &text);
            timeout(PATIENCE, said).await.expect("last words that are taken");
            last.push((room, Content::of(&text)));
        }
        let recorder = self.recorder();
        let heard = async {
            for (room, content) in last {
                while recorder.have_not_heard(room, content) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        if timeout(PATIENCE, heard).await.is_err() {
            recorder.note("not everybody has heard the last words");
        }
    }

    /// Publishes until it is acknowledged.
    async fn publish_surely(&self, client: &mut Client, publisher: usize, room: &Arc<str>, text: &str) {
        let key: Arc<str> = text.into();
        let command = json!({"type": "sendMessage", "room": **room, "message": text, "key": text});
        loop {
            let attempt = self
                .recorder()
                .attempt(publisher, room, Some(&key), Content::of(text));
            let reply = client.call(command.clone()).await;
            let outcome = match (reply["type"].as_str(), reply["outcome"].as_str()) {
                (Some("sent"), _) => Outcome::Acknowledged(place(&reply)),
                (_, Some("refused")) => Outcome::Refused,
                _ => Outcome::Unknown,
            };
            let is_sent = matches!(outcome, Outcome::Acknowledged(_));
            self.recorder().answer(attempt, outcome);
            if is_sent {
                return;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members
            .iter()
            .chain(&self.talkers)
            .for_each(JoinHandle::abort);
    }
}

impl Report {
    fn of(recorder: &Recorder, terms: Terms) -> Self {
        let history = recorder.history();
        let violations = check(&history, terms);
        let rooms: BTreeSet<Arc<str>> = violations
            .iter()
            .filter_map(|violation| violation.room(&history))
            .collect();
        Self {
            tally: recorder.tally(),
            evidence: rooms
                .iter()
                .take(1)
                .map(|room| format!("all that was seen of {room}:\n{}", history.of_room(room)))
                .collect(),
            violations,
        }
    }

    /// # Panics
    /// If anything is wrong, with all that is known of the first room concerned.
    pub(crate) fn assert_clean(&self) {
        let shown: Vec<String> = self.violations.iter().take(20).map(ToString::to_string).collect();
        assert!(
            self.violations.is_empty(),
            "{}{} violations: {shown:#?}",
            self.evidence,
            self.violations.len(),
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            acknowledged,
            refused,
            unknown,
            received,
            gaps,
            slowest_answer,
        } = self.tally;
        write!(
            f,
            "{acknowledged} acknowledged, {refused} refused, {unknown} unknown, {received} received, {gaps} gaps told, \
             slowest answer {:.2} s, {} violations",
            slowest_answer.as_secs_f64(),
            self.violations.len()
        )
    }
}

/// What a fresh session gets of a room.
async fn read_log(url: &str, room: &Arc<str>) -> Log {
    let mut client = Client::v1(url).await;
    let reply = client
        .call(json!({"type": "SUBSCRIBE", "room": **room, "history": 1_000_000}))
        .await;
    let top = place(&reply).unwrap_or_else(|| panic!("no position in {reply}"));
    let mut kept = Vec::new();
    while kept
        .last()
        .map_or(top.offset > 0, |(offset, _)| *offset < top.offset)
    {
        let Some(Event::Text(text)) = client.event_within(PATIENCE).await else {
            break;
        };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        let text = frame["message"].as_str().unwrap_or_default();
        kept.push((frame["offset"].as_u64().unwrap_or_default(), Content::of(text)));
    }
    let room = room.clone();
    Log { room, top, kept }
}

fn place(frame: &Value) -> Option<Position> {
    Some(Position::new(frame["epoch"].as_str()?, frame["offset"].as_u64()?))
}
