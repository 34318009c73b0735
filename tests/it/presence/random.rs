//! Sessions come, go and change their presence on nodes and a Redis to which things happen at random. At rest everything
//! agrees: Redis, the lists, and what was told.
//!
//! The seed is printed; `ROOMCAST_PRESENCE_SEED` takes it again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::GONE;
use super::faults::{assert_owned, listed_on};
use super::watcher::Watcher;
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::within;

const ROOM: &str = "room1";
const RUN: Duration = Duration::from_secs(22);
const NODES: usize = 3;
const MOST_SESSIONS: usize = 14;

struct World {
    rng: Rng,
    redis: Redis,
    nodes: Vec<Node>,
    /// Until when a node is frozen.
    frozen: [Option<Instant>; NODES],
    /// Who is listed, or was, with its node.
    watchers: Vec<(usize, Watcher)>,
}

impl World {
    async fn step(&mut self) {
        let now = Instant::now();
        for (node, frozen) in self.nodes.iter().zip(&mut self.frozen) {
            if frozen.take_if(|until| *until <= now).is_some() {
                node.signal(Signal::CONT);
            }
        }
        let node = self.rng.usize(..NODES);
        match self.rng.u8(..100) {
            0..35 if self.watchers.len() < MOST_SESSIONS && self.frozen[node].is_none() => {
                self.come(node).await;
            }
            35..60 if !self.watchers.is_empty() => {
                let index = self.rng.usize(..self.watchers.len());
                drop(self.watchers.swap_remove(index));
            }
            60..80 if !self.watchers.is_empty() => self.toggle().await,
            80..84 => self.redis.client_kill("pubsub").await,
            84..88 => self.redis.client_kill("normal").await,
            88..91 => {
                println!("redis loses everything");
                let _: String = self.redis.command(&["FLUSHALL"]).await;
            }
            91..94 => {
                println!("redis is killed");
                self.redis.kill();
                sleep(Duration::from_millis(self.rng.u64(..800))).await;
                self.redis.launch().await;
            }
            94..97 if self.frozen[node].is_none() => {
                let time = Duration::from_millis(self.rng.u64(500..12_000));
                println!("node {node} is frozen for {time:?}");
                self.nodes[node].signal(Signal::STOP);
                self.frozen[node] = Some(now + time);
            }
            97..100 => self.kill(node).await,
            _ => {}
        }
        // Each a little at a time, so that no peer looks slow.
        let mut kept = Vec::new();
        for (node, mut watcher) in std::mem::take(&mut self.watchers) {
            if self.frozen[node].is_some() || watcher.listen().await {
                kept.push((node, watcher));
            }
        }
        self.watchers = kept;
    }

    async fn come(&mut self, node: usize) {
        let url = self.nodes[node].ws_url();
        // It is given up when it takes long: that it was about to come must leave no trace.
        let patience = Duration::from_millis(self.rng.u64(5..3_000));
        if let Ok(Some(watcher)) = timeout(patience, Watcher::try_enter(&url, ROOM)).await {
            self.watchers.push((node, watcher));
        }
    }

    async fn toggle(&mut self) {
        let index = self.rng.usize(..self.watchers.len());
        let (node, mut watcher) = self.watchers.swap_remove(index);
        if self.frozen[node].is_some() {
            self.watchers.push((node, watcher));
            return;
        }
        // Whoever is not as it wants to be goes.
        if watcher.set_presence(ROOM, false).await && watcher.set_presence(ROOM, true).await {
            self.watchers.push((node, watcher));
        }
    }

    async fn kill(&mut self, node: usize) {
        println!("node {node} is killed");
        self.nodes[node].signal(Signal::KILL);
        self.frozen[node] = None;
        self.watchers.retain(|(of, _)| *of != node);
        self.nodes[node] = Node::on_redis(&self.redis.url()).await;
    }

    async fn judge(mut self) {
        for (node, frozen) in self.nodes.iter().zip(&mut self.frozen) {
            if frozen.take().is_some() {
                node.signal(Signal::CONT);
            }
        }
        // A session whose connection ends now is not an open one.
        let mut open = Vec::new();
        for (node, mut watcher) in self.watchers {
            if watcher.listen().await {
                open.push((node, watcher));
            }
        }
        let all: BTreeSet<String> = open.iter().map(|(_, watcher)| watcher.session.clone()).collect();
        println!("{} sessions at the end", all.len());
        let (redis, expected) = (&self.redis, &all);
        // A node may just have died, and another may have been frozen while it should have noticed.
        within(2 * GONE, "exactly the open sessions on Redis", async || {
            (listed_on(redis, ROOM).await == *expected).then_some(())
        })
        .await;
        for (_, watcher) in &mut open {
            watcher.await_there_within(GONE, all.len() - 1).await;
            assert_eq!(watcher.members(ROOM).await.as_ref(), Some(&all));
            let mut others = all.clone();
            others.remove(&watcher.session);
            assert_eq!(watcher.there, others, "{}", watcher.session);
        }
        if !all.is_empty() {
            assert_owned(&self.redis, ROOM).await;
        }
    }
}

#[actix::test]
async fn at_rest_presence_is_the_open_sessions_whatever_has_happened() {
    let seed = std::env::var("ROOMCAST_PRESENCE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("ROOMCAST_PRESENCE_SEED={seed}");
    let redis = Redis::persistent().await;
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Node::on_redis(&redis.url()).await);
    }
    let mut world = World {
        rng: Rng::with_seed(seed),
        redis,
        nodes,
        frozen: [None; NODES],
        watchers: Vec::new(),
    };
    let end = Instant::now() + RUN;
    while Instant::now() < end {
        world.step().await;
    }
    world.judge().await;
}
