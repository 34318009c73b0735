//! What becomes of those who are listed when nodes die or stand still, and when Redis goes away and comes back.
//!
//! Pauses here are faults of a certain length.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::sleep;

use super::watcher::Watcher;
use super::{GONE, keys};
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::within;

const ROOM: &str = "room1";

/// Three sessions on each of two nodes.
struct Scene {
    redis: Redis,
    nodes: [Node; 2],
    watchers: [Vec<Watcher>; 2],
}

impl Scene {
    async fn on(redis: Redis) -> Self {
        let nodes = [
            Node::on_redis(&redis.url()).await,
            Node::on_redis(&redis.url()).await,
        ];
        let mut watchers = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            for (node, watchers) in nodes.iter().zip(&mut watchers) {
                watchers.push(Watcher::enter(&node.ws_url(), ROOM).await);
            }
        }
        let mut scene = Self {
            redis,
            nodes,
            watchers,
        };
        for watcher in scene.watchers.iter_mut().flatten() {
            watcher.await_there(5).await;
            watcher.told.clear();
        }
        scene
    }

    fn sessions(&self) -> BTreeSet<String> {
        let watchers = self.watchers.iter().flatten();
        watchers.map(|watcher| watcher.session.clone()).collect()
    }

    /// Waits until Redis, the lists and what was told all say that exactly these sessions are there.
    async fn await_rest(&mut self) {
        let all = self.sessions();
        let (redis, expected) = (&self.redis, &all);
        within(GONE, "exactly the open sessions on Redis", async || {
            (listed_on(redis, ROOM).await == *expected).then_some(())
        })
        .await;
        for watcher in self.watchers.iter_mut().flatten() {
            watcher.await_there_within(GONE, all.len() - 1).await;
            // Refused as long as its node has no link.
            let deadline = Instant::now() + GONE;
            let list = loop {
                match watcher.members(ROOM).await {
                    Some(list) => break list,
                    None => assert!(Instant::now() < deadline, "no list"),
                }
                sleep(Duration::from_millis(20)).await;
            };
            assert_eq!(list, all);
            let mut others = all.clone();
            others.remove(&watcher.session);
            assert_eq!(watcher.there, others);
        }
    }

    /// Checks that nobody was told anything since the scene began.
    fn assert_nothing_told(&self) {
        for watcher in self.watchers.iter().flatten() {
            assert_eq!(watcher.told, BTreeMap::new());
        }
    }
}

/// Who is listed in a room on Redis. Panics if an entry's owner is unknown or does not know of it.
pub(super) async fn listed_on(redis: &Redis, room: &str) -> BTreeSet<String> {
    let entries: BTreeMap<String, String> = redis
        .command(&["HGETALL", &format!("roomcast:{{{room}}}:presence")])
        .await;
    entries.into_keys().collect()
}

/// Checks that every entry has a living lease that knows of it, that no lease knows of another entry, and that nothing
/// else of presence is left.
pub(super) async fn assert_owned(redis: &Redis, room: &str) {
    let room_key = format!("roomcast:{{{room}}}:presence");
    let entries: BTreeMap<String, String> = redis.command(&["HGETALL", &room_key]).await;
    let leases: BTreeMap<String, String> = redis.command(&["HGETALL", "roomcast:{}:leases"]).await;
    let mut owned = BTreeMap::new();
    let mut expected = BTreeSet::from(["roomcast:{}:leases".to_owned(), room_key]);
    for lease in leases.keys() {
        let key = format!("roomcast:{{}}:lease:{lease}");
        let held: BTreeMap<String, String> = redis.command(&["HGETALL", &key]).await;
        expected.insert(key);
        for field in held.into_keys().filter(|field| !field.is_empty()) {
            let (session, held_room) = field.split_once(' ').expect("a session and a room");
            assert_eq!(held_room, room);
            owned.insert(session.to_owned(), format!("{lease}-"));
        }
    }
    assert_eq!(entries, owned);
    let keys: BTreeSet<String> = keys(redis).await.into_iter().collect();
    assert_eq!(keys, expected);
}

#[actix::test]
async fn the_members_of_a_killed_node_leave_once_within_15_seconds() {
    let mut scene = Scene::on(Redis::start().await).await;
    scene.nodes[0].signal(Signal::KILL);
    let since = Instant::now();
    let gone = std::mem::take(&mut scene.watchers[0]);
    for watcher in &mut scene.watchers[1] {
        watcher.await_there_within(GONE, 2).await;
    }
    let after = since.elapsed();
    println!("gone after {after:?}");
    assert!(after < GONE, "{after:?}");
    scene.await_rest().await;
    assert_owned(&scene.redis, ROOM).await;
    for watcher in &scene.watchers[1] {
        for gone in &gone {
            assert_eq!(watcher.told[&gone.session], [false]);
        }
        assert_eq!(watcher.told.len(), gone.len());
    }
    assert_eq!(
        scene.nodes[1]
            .metric("roomcast_presence_entries_reaped_total")
            .await,
        3
    );
    assert_eq!(scene.nodes[1].metric("roomcast_presence_entries").await, 3);
}

#[actix::test]
async fn the_members_of_a_node_that_is_stopped_leave_with_it() {
    let mut scene = Scene::on(Redis::start().await).await;
    scene.nodes[0].signal(Signal::INT);
    let since = Instant::now();
    let gone = std::mem::take(&mut scene.watchers[0]);
    for watcher in &mut scene.watchers[1] {
        watcher.await_there_within(GONE, 2).await;
    }
    // Nobody else could have found out by then.
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    drop(gone);
    scene.await_rest().await;
    assert_eq!(
        scene.nodes[1]
            .metric("roomcast_presence_entries_reaped_total")
            .await,
        0
    );
}

#[actix::test]
async fn a_node_that_was_only_frozen_lists_its_members_again() {
    let mut scene = Scene::on(Redis::start().await).await;
    scene.nodes[0].signal(Signal::STOP);
    let frozen = Instant::now();
    for watcher in &mut scene.watchers[1] {
        watcher.await_there_within(GONE, 2).await;
    }
    sleep(Duration::from_secs(20).saturating_sub(frozen.elapsed())).await;
    scene.nodes[0].signal(Signal::CONT);
    scene.await_rest().await;
    let thawed: Vec<String> = scene.watchers[0]
        .iter()
        .map(|watcher| watcher.session.clone())
        .collect();
    for watcher in &scene.watchers[1] {
        for session in &thawed {
            assert_eq!(watcher.told[session], [false, true]);
        }
    }
    assert_eq!(
        scene.nodes[0].metric("roomcast_presence_leases_lost_total").await,
        1
    );
    assert_eq!(
        scene.nodes[0]
            .metric("roomcast_presence_leases_taken_total")
            .await,
        2
    );
    assert_owned(&scene.redis, ROOM).await;
    // Its own look was interrupted, too: it takes nobody else for dead.
    assert_eq!(
        scene.nodes[0]
            .metric("roomcast_presence_entries_reaped_total")
            .await,
        0
    );
    // By then every key has been given its expiry.
    for key in keys(&scene.redis).await {
        let redis = &scene.redis;
        within(GONE, &format!("an expiry of {key}"), async || {
            let left: i64 = redis.command(&["PTTL", &key]).await;
            (left > 0).then_some(())
        })
        .await;
    }
}

#[actix::test]
async fn a_redis_that_loses_everything_is_told_again_and_nobody_notices() {
    let mut scene = Scene::on(Redis::start().await).await;
    scene.redis.kill();
    sleep(Duration::from_secs(2)).await;
    scene.redis.launch().await;
    scene.await_rest().await;
    listen_for(&mut scene, Duration::from_secs(6)).await;
    scene.assert_nothing_told();
    assert_owned(&scene.redis, ROOM).await;
    // Without the loss of a connection it takes a look.
    let _: String = scene.redis.command(&["FLUSHALL"]).await;
    let _: String = scene.redis.command(&["SCRIPT", "FLUSH"]).await;
    scene.await_rest().await;
    assert_owned(&scene.redis, ROOM).await;
}

#[actix::test]
async fn a_redis_that_was_away_for_long_with_all_it_knew_has_nobody_dead() {
    let mut scene = Scene::on(Redis::persistent().await).await;
    scene.redis.kill();
    sleep(Duration::from_secs(12)).await;
    scene.redis.launch().await;
    scene.await_rest().await;
    listen_for(&mut scene, Duration::from_secs(4)).await;
    scene.redis.signal(Signal::STOP);
    sleep(Duration::from_secs(12)).await;
    scene.redis.signal(Signal::CONT);
    listen_for(&mut scene, Duration::from_secs(4)).await;
    scene.await_rest().await;
    scene.assert_nothing_told();
    assert_owned(&scene.redis, ROOM).await;
}

#[actix::test]
async fn a_redis_that_comes_back_with_older_data_is_put_right() {
    let mut scene = Scene::on(Redis::persistent().await).await;
    let copy = scene.redis.copy();
    let late = Watcher::enter(&scene.nodes[0].ws_url(), ROOM).await;
    let gone = scene.watchers[1].pop().expect("three");
    let session = gone.session.clone();
    drop(gone);
    for watcher in scene.watchers.iter_mut().flatten() {
        watcher.await_there(5).await;
        while watcher.there.contains(&session) || !watcher.there.contains(&late.session) {
            assert!(watcher.listen().await);
        }
    }
    scene.watchers[0].push(late);
    scene.redis.kill();
    scene.redis.forget(Some(&copy));
    scene.redis.launch().await;
    scene.await_rest().await;
    assert_owned(&scene.redis, ROOM).await;
}

/// Takes in what is told for so long.
async fn listen_for(scene: &mut Scene, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let watchers = scene.watchers.iter_mut().flatten();
        let alive = join_all(watchers.map(Watcher::listen)).await;
        assert!(alive.into_iter().all(|alive| alive), "a connection has ended");
    }
}
